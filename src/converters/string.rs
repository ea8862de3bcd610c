//! `org.apache.kafka.connect.storage.StringConverter`: a value's text as Java's `toString` gives it.
//!
//! Structs are `Struct{id=1,v=a}` without their null fields, lists `[x, null]`, maps `{k=v}`, bytes the description of a Java buffer.

use std::sync::{Arc, LazyLock};

use tailwater_api::config::{ConfigField, FieldType};
use tailwater_api::record::{Headers, SchemaAndValue};
use tailwater_api::{Field, Kind, Result, Schema, Value};
use tailwater_kit::number_text::{write_decimal, write_double, write_float};
use tailwater_kit::stand_in::{DECIMAL, Placeholder};

use super::{Converter, instant, known, unreadable};

pub(super) const FIELDS: &[ConfigField] =
    &[ConfigField::new("converter.encoding", FieldType::Text, "Character set of the text; only UTF-8.").default("UTF-8").validator(utf8)];

fn utf8(name: &str) -> Result<(), String> {
    let known = ["UTF-8", "UTF8"].iter().any(|known| known.eq_ignore_ascii_case(name));
    if known { Ok(()) } else { Err(format!("must be UTF-8, not {name:?}")) }
}

/// Writes text.
pub(super) struct StringConverter {
    pub(super) placeholder: Placeholder,
}

impl Converter for StringConverter {
    fn write(&mut self, _topic: &str, _headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
        let value = known(data.schema.as_deref(), &data.value, &self.placeholder);
        if value.is_null() {
            return Ok(false);
        }
        self.write_value(data.schema.as_deref(), &value, out);
        Ok(true)
    }

    fn read(&mut self, _topic: &str, bytes: &[u8]) -> Result<SchemaAndValue> {
        let text = std::str::from_utf8(bytes).map_err(|error| unreadable("read a text", error.to_string()))?;
        let is_unchanged = text == &**self.placeholder.text();
        Ok(SchemaAndValue::new(Arc::clone(&TEXT), if is_unchanged { Value::Unchanged } else { Value::from(text) }))
    }
}

static TEXT: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::String).optional().build());

impl StringConverter {
    fn write_value(&self, schema: Option<&Schema>, value: &Value, out: &mut Vec<u8>) {
        let value = known(schema, value, &self.placeholder);
        let name = schema.and_then(Schema::name).unwrap_or_default();
        match &*value {
            Value::Null | Value::Unchanged | Value::NotInIdentity => out.extend_from_slice(b"null"),
            Value::Boolean(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Value::Int8(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            Value::Int16(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            Value::Int32(value) => match instant::of(name, i64::from(*value)) {
                Some(instant) => out.extend_from_slice(instant.java_date().as_bytes()),
                None => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            },
            Value::Int64(value) => match instant::of(name, *value) {
                Some(instant) => out.extend_from_slice(instant.java_date().as_bytes()),
                None => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            },
            Value::Float32(value) => write_float(*value, out),
            Value::Float64(value) => write_double(*value, out),
            Value::Bytes(unscaled) if name == DECIMAL => write_decimal(unscaled, scale(schema), out),
            Value::Bytes(bytes) => {
                let length = bytes.len();
                out.extend_from_slice(format!("java.nio.HeapByteBuffer[pos=0 lim={length} cap={length}]").as_bytes());
            }
            Value::String(text) => out.extend_from_slice(text.as_bytes()),
            Value::Array(elements) => {
                let element = schema.and_then(element_schema);
                out.push(b'[');
                for (index, value) in elements.iter().enumerate() {
                    separate(index, b", ", out);
                    self.write_value(element, value, out);
                }
                out.push(b']');
            }
            Value::Map(entries) => {
                let (keys, values) = schema.and_then(entry_schemas).unzip();
                out.push(b'{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    separate(index, b", ", out);
                    self.write_value(keys, key, out);
                    out.push(b'=');
                    self.write_value(values, value, out);
                }
                out.push(b'}');
            }
            Value::Struct(values) => {
                let fields = schema.map(Schema::fields).unwrap_or_default();
                out.extend_from_slice(b"Struct{");
                let mut written = 0;
                for (Field { name, schema }, value) in fields.iter().zip(values) {
                    let value = known(Some(schema), value, &self.placeholder);
                    if !value.is_null() {
                        separate(written, b",", out);
                        written += 1;
                        out.extend_from_slice(name.as_bytes());
                        out.push(b'=');
                        self.write_value(Some(schema), &value, out);
                    }
                }
                out.push(b'}');
            }
        }
    }
}

/// The scale of a decimal's schema.
pub(super) fn scale(schema: Option<&Schema>) -> i32 {
    schema.and_then(|schema| schema.parameter("scale")).and_then(|scale| scale.parse().ok()).unwrap_or_default()
}

pub(super) fn element_schema(schema: &Schema) -> Option<&Schema> {
    match schema.kind() {
        Kind::Array(element) => Some(element),
        _ => None,
    }
}

pub(super) fn entry_schemas(schema: &Schema) -> Option<(&Schema, &Schema)> {
    match schema.kind() {
        Kind::Map(keys, values) => Some((keys, values)),
        _ => None,
    }
}

pub(super) fn separate(index: usize, separator: &[u8], out: &mut Vec<u8>) {
    if index > 0 {
        out.extend_from_slice(separator);
    }
}
