//! What stands for values that the source does not tell, where records leave as bytes (I8).
//!
//! Inside, *unchanged* and *not in the identity* are values of their own. Formats that know only null and values carry what
//! Debezium 3.6 writes, so that its readers go on working:
//!
//! - *Unchanged*: the text of `unavailable.value.placeholder` in the form that the type allows, see [`Placeholder::of`].
//!   Debezium has none for numbers, fails where such a column is required, and writes null where it is
//!   optional. Here it is null in both cases: a reader may refuse it, but none takes it for a value.
//! - *Not in the identity*: null where the column is optional, otherwise its default, otherwise the zero of its schema or of its type.

use bytes::Bytes;
use bytestring::ByteString;
use md5::{Digest, Md5};
use tailwater_api::{Field, Kind, Schema, Value};

/// The placeholder of unchanged values, `unavailable.value.placeholder`.
#[derive(Clone, Debug)]
pub struct Placeholder {
    text: ByteString,
    bytes: Bytes,
}

impl Default for Placeholder {
    fn default() -> Self {
        Self::new("__debezium_unavailable_value")
    }
}

impl Placeholder {
    /// The placeholder of a configuration: a text, or `hex:` and the digits of bytes. Digits that are none make a text.
    #[must_use]
    pub fn new(configured: &str) -> Self {
        let bytes = configured.strip_prefix("hex:").and_then(decode_hexadecimal).unwrap_or_else(|| configured.as_bytes().to_vec());
        Self { text: String::from_utf8_lossy(&bytes).into_owned().into(), bytes: bytes.into() }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &ByteString {
        &self.text
    }

    /// What is written for an unchanged value of `schema`; null where the type has no place for the placeholder.
    #[must_use]
    pub fn of(&self, schema: &Schema) -> Value {
        match schema.kind() {
            Kind::String => Value::String(self.text.clone()),
            Kind::Bytes if schema.name() == Some(DECIMAL) => Value::Null,
            Kind::Bytes => Value::Bytes(self.bytes.clone()),
            Kind::Array(element) => self.of_array(element),
            Kind::Map(keys, values) if matches!((keys.kind(), values.kind()), (Kind::String, Kind::String)) => {
                let text = Value::String(self.text.clone());
                Value::Map(Box::new([(text.clone(), text)]))
            }
            Kind::Map(..)
            | Kind::Struct(_)
            | Kind::Boolean
            | Kind::Int8
            | Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Float32
            | Kind::Float64 => Value::Null,
        }
    }

    fn of_array(&self, element: &Schema) -> Value {
        let elements: Box<[Value]> = match (element.kind(), element.name()) {
            (Kind::String, Some("io.debezium.data.Uuid")) => Box::new([name_based_uuid(&self.bytes).into()]),
            (Kind::String, _) | (Kind::Bytes, None) => Box::new([self.of(element)]),
            (Kind::Int32, None | Some("io.debezium.time.Date")) => self.bytes.iter().map(|byte| Value::Int32(signed(*byte))).collect(),
            (Kind::Int64, None) => self.bytes.iter().map(|byte| Value::Int64(signed(*byte).into())).collect(),
            _ => return Value::Null,
        };
        Value::Array(elements)
    }
}

/// Bytes are signed in Java.
fn signed(byte: u8) -> i32 {
    i32::from(byte.cast_signed())
}

fn decode_hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// A UUID of version 3 without a namespace, as Java's `UUID.nameUUIDFromBytes` makes it.
fn name_based_uuid(name: &[u8]) -> String {
    let mut bytes: [u8; 16] = Md5::digest(name).into();
    bytes[6] = bytes[6] & 0x0F | 0x30;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Name of Connect's decimals.
pub const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";

/// What is written for a value of `schema` that is not in the identity.
#[must_use]
pub fn not_in_identity(schema: &Schema) -> Value {
    if schema.is_optional() {
        return schema.zero().cloned().unwrap_or(Value::Null);
    }
    schema.default().or(schema.zero()).cloned().unwrap_or_else(|| zero(schema))
}

/// The value that Debezium takes for a required column of which nothing is known.
fn zero(schema: &Schema) -> Value {
    match (schema.kind(), schema.name()) {
        (Kind::Boolean, _) => Value::Boolean(false),
        (Kind::Int8, _) => Value::Int8(0),
        (Kind::Int16, _) => Value::Int16(0),
        (Kind::Int32, _) => Value::Int32(0),
        (Kind::Int64, _) => Value::Int64(0),
        (Kind::Float32, _) => Value::Float32(0.0),
        (Kind::Float64, _) => Value::Float64(0.0),
        (Kind::Bytes, Some(DECIMAL)) => Value::Bytes(Bytes::from_static(&[0])),
        (Kind::Bytes, _) => Value::Bytes(Bytes::new()),
        (Kind::String, Some("io.debezium.time.ZonedTime" | "io.debezium.time.IsoTime")) => Value::text("00:00:00Z"),
        (Kind::String, Some("io.debezium.time.ZonedTimestamp" | "io.debezium.time.IsoTimestamp")) => Value::text("1970-01-01T00:00:00Z"),
        (Kind::String, Some("io.debezium.time.IsoDate")) => Value::text("1970-01-01Z"),
        (Kind::String, Some("io.debezium.time.Interval")) => Value::text("P0Y0M0DT0H0M0S"),
        (Kind::String, _) => Value::text(""),
        (Kind::Array(_), _) => Value::Array(Box::new([])),
        (Kind::Map(..), _) => Value::Map(Box::new([])),
        (Kind::Struct(fields), Some("io.debezium.data.VariableScaleDecimal")) => structure(fields, |field| match field.schema.kind() {
            Kind::Bytes => Value::Bytes(Bytes::from_static(&[0])),
            _ => zero(&field.schema),
        }),
        (Kind::Struct(fields), Some("io.debezium.data.geometry.Point")) => structure(fields, |field| match &*field.name {
            "wkb" => Value::Bytes(Bytes::from_static(&ORIGIN)),
            _ => not_in_identity(&field.schema),
        }),
        (Kind::Struct(fields), _) => structure(fields, |field| not_in_identity(&field.schema)),
    }
}

/// A struct whose values `value` gives, field by field.
fn structure(fields: &[Field], value: impl Fn(&Field) -> Value) -> Value {
    Value::Struct(fields.iter().map(value).collect())
}

/// The point (0, 0) as well-known binary, little-endian.
const ORIGIN: [u8; 21] = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn array_of(element: Arc<Schema>) -> Arc<Schema> {
        Schema::of(Kind::Array(element)).build()
    }

    #[test]
    fn the_placeholder_takes_the_form_of_the_type() {
        let placeholder = Placeholder::default();
        let text = Value::from("__debezium_unavailable_value");
        assert_eq!(placeholder.of(&Schema::of(Kind::String).build()), text);
        assert_eq!(placeholder.of(&array_of(Schema::of(Kind::String).build())), Value::Array(Box::new([text])));
        let uuid = Schema::of(Kind::String).name("io.debezium.data.Uuid").build();
        let expected = Value::Array(Box::new(["b68a35a7-17ad-35b3-af2a-ae46edb4545a".into()]));
        assert_eq!(placeholder.of(&array_of(uuid)), expected);
        let numbers = placeholder.of(&array_of(Schema::of(Kind::Int32).build()));
        let Value::Array(numbers) = numbers else { panic!("an array") };
        assert_eq!((numbers.len(), &numbers[0], &numbers[2]), (28, &Value::Int32(95), &Value::Int32(100)));
    }

    #[test]
    fn numbers_have_no_placeholder() {
        let placeholder = Placeholder::default();
        assert_eq!(placeholder.of(&Schema::of(Kind::Bytes).name(DECIMAL).build()), Value::Null);
        assert_eq!(placeholder.of(&array_of(Schema::of(Kind::Float64).build())), Value::Null);
    }

    #[test]
    fn a_placeholder_may_be_given_as_bytes() {
        let placeholder = Placeholder::new("hex:00ff10");
        assert_eq!(&**placeholder.text(), "\u{0}\u{FFFD}\u{10}");
        assert_eq!(placeholder.of(&Schema::of(Kind::Bytes).build()), Value::Bytes(Bytes::from_static(&[0, 255, 16])));
        assert_eq!(&**Placeholder::new("hex:0g").text(), "hex:0g");
    }

    #[test]
    fn what_is_not_in_the_identity_is_null_or_default_or_zero() {
        let int = Schema::of(Kind::Int32);
        assert_eq!(not_in_identity(&int.clone().optional().build()), Value::Null);
        assert_eq!(not_in_identity(&int.clone().default(Value::Int32(7)).build()), Value::Int32(7));
        assert_eq!(not_in_identity(&int.build()), Value::Int32(0));
        let decimal = Schema::of(Kind::String).zero("0.00".into());
        assert_eq!(not_in_identity(&decimal.clone().build()), "0.00".into());
        assert_eq!(not_in_identity(&decimal.clone().optional().build()), Value::Null);
        assert_eq!(not_in_identity(&decimal.optional().zero("0.0".into()).build()), "0.0".into());
        let date = Schema::of(Kind::String).name("io.debezium.time.IsoDate").build();
        assert_eq!(not_in_identity(&date), "1970-01-01Z".into());
    }
}
