//! `org.apache.kafka.connect.storage.SimpleHeaderConverter`: text that Connect's `Values` reads back.
//!
//! A text stands as it is, but in quotes inside of lists, maps and structs; bytes are base64; structs are written like maps,
//! `{"id":1}`; a null struct field as its default, where it has one, also one that is not in the identity. A null header has no bytes.

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tailwater_api::record::{Headers, SchemaAndValue};
use tailwater_api::{Kind, Result, Schema, Value};
use tailwater_kit::number_text::{write_decimal, write_double, write_float};
use tailwater_kit::stand_in::{DECIMAL, Placeholder, not_in_identity};

use super::string::{element_schema, entry_schemas, scale, separate};
use super::{Converter, instant, known};

/// Writes and reads headers.
pub(super) struct SimpleHeaderConverter {
    pub(super) placeholder: Placeholder,
}

impl Converter for SimpleHeaderConverter {
    fn write(&mut self, _topic: &str, _headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
        let value = known(data.schema.as_deref(), &data.value, &self.placeholder);
        if value.is_null() {
            return Ok(false);
        }
        self.write_value(data.schema.as_deref(), &value, false, out);
        Ok(true)
    }

    /// A text that is a whole number is the smallest integer that holds it, `true` and `false` are truth values, `null` is null; what
    /// is no UTF-8 is bytes, all else text.
    fn read(&mut self, _topic: &str, bytes: &[u8]) -> Result<SchemaAndValue> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Ok(SchemaAndValue::new(Arc::clone(&SCHEMAS.bytes), Value::Bytes(Bytes::copy_from_slice(bytes))));
        };
        // Digits that would be written otherwise, such as 007, are no number's.
        let number = text.parse::<i64>().ok().filter(|number| itoa::Buffer::new().format(*number) == text);
        let (schema, value) = match (number, text) {
            (_, "null") => return Ok(SchemaAndValue::NONE),
            (_, "true") => (&SCHEMAS.boolean, Value::Boolean(true)),
            (_, "false") => (&SCHEMAS.boolean, Value::Boolean(false)),
            (Some(number), _) => match (i8::try_from(number), i16::try_from(number), i32::try_from(number)) {
                (Ok(number), _, _) => (&SCHEMAS.int8, Value::Int8(number)),
                (_, Ok(number), _) => (&SCHEMAS.int16, Value::Int16(number)),
                (_, _, Ok(number)) => (&SCHEMAS.int32, Value::Int32(number)),
                (_, _, _) => (&SCHEMAS.int64, Value::Int64(number)),
            },
            (None, text) => (&SCHEMAS.text, Value::from(text)),
        };
        Ok(SchemaAndValue::new(Arc::clone(schema), value))
    }
}

/// Schemas of what is read.
struct Schemas {
    boolean: Arc<Schema>,
    int8: Arc<Schema>,
    int16: Arc<Schema>,
    int32: Arc<Schema>,
    int64: Arc<Schema>,
    text: Arc<Schema>,
    bytes: Arc<Schema>,
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let of = |kind| Schema::of(kind).build();
    Schemas {
        boolean: of(Kind::Boolean),
        int8: of(Kind::Int8),
        int16: of(Kind::Int16),
        int32: of(Kind::Int32),
        int64: of(Kind::Int64),
        text: of(Kind::String),
        bytes: of(Kind::Bytes),
    }
});

impl SimpleHeaderConverter {
    fn write_value(&self, schema: Option<&Schema>, value: &Value, inside: bool, out: &mut Vec<u8>) {
        let value = known(schema, value, &self.placeholder);
        let name = schema.and_then(Schema::name).unwrap_or_default();
        match &*value {
            Value::Null | Value::Unchanged | Value::NotInIdentity => out.extend_from_slice(b"null"),
            Value::Boolean(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Value::Int8(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            Value::Int16(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            Value::Int32(value) => match instant::of(name, i64::from(*value)) {
                Some(instant) => out.extend_from_slice(instant.iso().as_bytes()),
                None => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            },
            Value::Int64(value) => match instant::of(name, *value) {
                Some(instant) => out.extend_from_slice(instant.iso().as_bytes()),
                None => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
            },
            Value::Float32(value) => write_float(*value, out),
            Value::Float64(value) => write_double(*value, out),
            Value::Bytes(unscaled) if name == DECIMAL => write_decimal(unscaled, scale(schema), out),
            Value::Bytes(bytes) => write_quoted(&STANDARD.encode(bytes), inside, out),
            Value::String(text) if inside => write_quoted(&text.replace('\\', "\\\\").replace('"', "\\\""), true, out),
            Value::String(text) => out.extend_from_slice(text.as_bytes()),
            Value::Array(elements) => {
                let element = schema.and_then(element_schema);
                out.push(b'[');
                for (index, value) in elements.iter().enumerate() {
                    separate(index, b",", out);
                    self.write_value(element, value, true, out);
                }
                out.push(b']');
            }
            Value::Map(entries) => {
                let (keys, values) = schema.and_then(entry_schemas).unzip();
                out.push(b'{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    separate(index, b",", out);
                    self.write_value(keys, key, true, out);
                    out.push(b':');
                    self.write_value(values, value, true, out);
                }
                out.push(b'}');
            }
            Value::Struct(values) => {
                let fields = schema.map(Schema::fields).unwrap_or_default();
                out.push(b'{');
                for (index, (field, value)) in fields.iter().zip(values).enumerate() {
                    separate(index, b",", out);
                    self.write_value(None, &Value::from(&*field.name), true, out);
                    out.push(b':');
                    // What is not in the identity is written as a null is; what is unchanged would pass for a value (I8).
                    let value = match value {
                        Value::NotInIdentity => &not_in_identity(&field.schema),
                        value => value,
                    };
                    let value = if value.is_null() { field.schema.default().unwrap_or(value) } else { value };
                    self.write_value(Some(&field.schema), value, true, out);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_quoted(text: &str, quotes: bool, out: &mut Vec<u8>) {
    let quote: &[u8] = if quotes { b"\"" } else { b"" };
    out.extend_from_slice(quote);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(quote);
}
