//! Values and schemas as JSON, byte for byte as the JsonConverter of Kafka Connect 4.3 (Jackson) writes them.
//!
//! | type | JSON |
//! |---|---|
//! | integers, and the semantic types on them | number |
//! | float, double | number as Java writes it; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | string | text, escaped as Jackson does |
//! | bytes | base64 with padding |
//! | `org.apache.kafka.connect.data.Decimal` | base64 of the unscaled value, or a number ([`DecimalFormat`]) |
//! | array | array |
//! | map | object where keys are strings, otherwise array of `[key,value]` |
//! | struct | object of all fields in order, null ones included |
//!
//! A null is written as the schema's default where there is one and [`JsonOptions::replace_null_with_default`] holds. What
//! stands for values that the source does not tell is said in [`stand_in`](crate::stand_in) (I8).
//!
//! A schema is compiled once into a plan: names of fields escaped, stand-ins and defaults rendered, so that writing a
//! value only copies and formats digits. Plans are kept by the schema's identity, a bounded number of them.

mod plan;
mod read;
mod schema;
mod text;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tailwater_api::{Error, ErrorKind, Result, Schema, Scope, Value};

use self::plan::{Misfit, Node};
pub use self::read::{JsonReader, ReadOptions};
pub use self::text::write_text;
use crate::number_text;
use crate::schema_cache::SchemaCache;
use crate::stand_in::Placeholder;

/// How decimals are written: Connect's `decimal.format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DecimalFormat {
    /// `BASE64`: the unscaled value, big-endian two's complement
    #[default]
    Base64,
    /// `NUMERIC`: a JSON number, as Java's `BigDecimal.toString` writes it
    Numeric,
}

/// What a [`JsonWriter`] is told.
#[derive(Clone, Debug)]
pub struct JsonOptions {
    /// How decimals are written
    pub decimal_format: DecimalFormat,
    /// Whether a null whose schema has a default is written as the default
    pub replace_null_with_default: bool,
    /// What stands for unchanged values
    pub placeholder: Placeholder,
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self { decimal_format: DecimalFormat::Base64, replace_null_with_default: true, placeholder: Placeholder::default() }
    }
}

/// Writes values and schemas as JSON. Keeps plans compiled from schemas, so it is owned by one thread.
#[derive(Debug)]
pub struct JsonWriter {
    options: JsonOptions,
    plans: SchemaCache<Plan>,
}

#[derive(Debug)]
struct Plan {
    node: Node,
    schema: Box<[u8]>,
}

impl JsonWriter {
    /// A writer without plans.
    #[must_use]
    pub fn new(options: JsonOptions) -> Self {
        Self { options, plans: SchemaCache::default() }
    }

    /// Appends `value`. Without a schema the value describes itself; structs need a schema.
    ///
    /// # Errors
    /// The value does not fit the schema; the scope is the record, and `out` is as it was.
    pub fn write(&mut self, schema: Option<&Schema>, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        let written = match schema {
            Some(schema) => {
                self.plans.get(schema.id(), || Plan::compile(schema, &self.options)).and_then(|plan| plan.node.write(value, out))
            }
            None => write_schemaless(value, &self.options, out),
        };
        written.map_err(|misfit| {
            out.truncate(start);
            misfit.into_error()
        })
    }

    /// Appends the schema as Connect's JSON describes it: `type`, then `items`, or `keys` and `values`, or `fields`, then
    /// `optional`, `name`, `version`, `doc`, `parameters`, `default`, and for fields `field`.
    ///
    /// # Errors
    /// A default does not fit its schema.
    pub fn write_schema(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        let plan = self.plans.get(schema.id(), || Plan::compile(schema, &self.options)).map_err(Misfit::into_error)?;
        out.extend_from_slice(&plan.schema);
        Ok(())
    }
}

impl Plan {
    fn compile(schema: &Schema, options: &JsonOptions) -> Result<Self, Misfit> {
        let mut rendered = Vec::new();
        schema::write(schema, None, options, &mut rendered)?;
        Ok(Self { node: Node::compile(schema, options)?, schema: rendered.into() })
    }
}

/// Appends a value that describes itself.
fn write_schemaless(value: &Value, options: &JsonOptions, out: &mut Vec<u8>) -> Result<(), Misfit> {
    match value {
        Value::Null | Value::NotInIdentity => out.extend_from_slice(b"null"),
        Value::Unchanged => write_text(options.placeholder.text(), out),
        Value::Boolean(value) => write_boolean(*value, out),
        Value::Int8(value) => write_integer(*value, out),
        Value::Int16(value) => write_integer(*value, out),
        Value::Int32(value) => write_integer(*value, out),
        Value::Int64(value) => write_integer(*value, out),
        Value::Float32(value) => write_float(*value, out),
        Value::Float64(value) => write_double(*value, out),
        Value::Bytes(bytes) => write_base64(bytes, out),
        Value::String(text) => write_text(text, out),
        Value::Array(elements) => {
            write_list(b'[', b']', elements, out, |element, out| write_schemaless(element, options, out))?;
        }
        Value::Map(entries) if entries.iter().all(|(key, _)| matches!(key, Value::String(_))) => {
            write_list(b'{', b'}', entries, out, |(key, value), out| {
                write_schemaless(key, options, out)?;
                out.push(b':');
                write_schemaless(value, options, out)
            })?;
        }
        Value::Map(entries) => write_list(b'[', b']', entries, out, |(key, value), out| {
            out.push(b'[');
            write_schemaless(key, options, out)?;
            out.push(b',');
            write_schemaless(value, options, out)?;
            out.push(b']');
            Ok(())
        })?,
        Value::Struct(_) => return Err(Misfit::new("a struct without a schema")),
    }
    Ok(())
}

fn write_list<T>(
    open: u8,
    close: u8,
    elements: &[T],
    out: &mut Vec<u8>,
    mut write: impl FnMut(&T, &mut Vec<u8>) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    out.push(open);
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(element, out)?;
    }
    out.push(close);
    Ok(())
}

fn write_boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// JSON has no numbers that are not finite; they are texts.
fn quoted(quote: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if quote {
        out.push(b'"');
    }
    write(out);
    if quote {
        out.push(b'"');
    }
}

fn write_double(value: f64, out: &mut Vec<u8>) {
    quoted(!value.is_finite(), out, |out| number_text::write_double(value, out));
}

fn write_float(value: f32, out: &mut Vec<u8>) {
    quoted(!value.is_finite(), out, |out| number_text::write_float(value, out));
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(bytes, &mut out[start..]).expect("three bytes become four");
    out.push(b'"');
}

impl Misfit {
    fn into_error(self) -> Error {
        Error::new(ErrorKind::Rejected, "write a value as JSON")
            .scoped(Scope::Record)
            .because(self.to_string())
            .mend("find the transform that changed the value without its schema")
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
