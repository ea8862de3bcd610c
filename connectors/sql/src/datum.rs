//! Values on their way into a statement: what a driver can bind, nothing more.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use tailwater_api::schema::{Kind, Schema};
use tailwater_api::value::Value;

use crate::column_type::ColumnType;
use crate::decimal::decimal_text;
use crate::temporal;

/// A value to bind. Text and bytes share the record's buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    Null,
    Boolean(bool),
    Integer(i64),
    Float32(f32),
    Float64(f64),
    Text(ByteString),
    Bytes(Bytes),
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl Datum {
    /// The value as text that every database reads back without loss; `None` for null. Floats in their shortest
    /// form, bytes as PostgreSQL's `\x`.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Boolean(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Integer(value) => Cow::Owned(value.to_string()),
            Self::Float32(value) => float_text(value.is_finite(), (*value).into(), || format!("{value:?}")),
            Self::Float64(value) => float_text(value.is_finite(), *value, || format!("{value:?}")),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Bytes(bytes) => Cow::Owned(format!("\\x{}", hexadecimal(bytes))),
        })
    }

    /// Adds an encoding of the value in which equal values are equal octets and no encoding starts another.
    pub(crate) fn append_key(&self, key: &mut Vec<u8>) {
        let mut sized = |tag: u8, octets: &[u8]| {
            key.push(tag);
            key.extend_from_slice(&(octets.len() as u64).to_be_bytes());
            key.extend_from_slice(octets);
        };
        match self {
            Self::Null => sized(0, &[]),
            Self::Boolean(value) => sized(1, &[u8::from(*value)]),
            Self::Integer(value) => sized(2, &value.to_be_bytes()),
            Self::Float32(value) => sized(3, &value.to_be_bytes()),
            Self::Float64(value) => sized(4, &value.to_be_bytes()),
            Self::Text(text) => sized(5, text.as_bytes()),
            Self::Bytes(bytes) => sized(6, bytes),
        }
    }
}

/// `(x,y)`, as PostgreSQL writes a point.
///
/// # Errors
/// The value is not two floats at these places.
pub(crate) fn point(x: usize, y: usize, value: &Value) -> Result<Datum, String> {
    let coordinate = |place: usize| match value.as_struct().and_then(|parts| parts.get(place)) {
        Some(Value::Float64(value)) => Datum::Float64(*value).text().map(Cow::into_owned),
        _ => None,
    };
    match (value, coordinate(x), coordinate(y)) {
        (Value::Null, ..) => Ok(Datum::Null),
        (_, Some(x), Some(y)) => Ok(format!("({x},{y})").into()),
        _ => Err(unfit(&ColumnType::Point { x, y }, value)),
    }
}

fn float_text(finite: bool, value: f64, shortest: impl FnOnce() -> String) -> Cow<'static, str> {
    if finite {
        Cow::Owned(shortest())
    } else if value.is_nan() {
        Cow::Borrowed("NaN")
    } else {
        Cow::Borrowed(if value > 0.0 { "Infinity" } else { "-Infinity" })
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).map(char::from).collect()
}

/// Reads `value` as `kind`, for the types that all databases get in one form. The others (arrays, bits, points,
/// intervals, instants) belong to the dialects, which call this for the rest.
///
/// # Errors
/// What is wrong with the value, as a sentence without a full stop.
pub(crate) fn datum(kind: &ColumnType, value: &Value) -> Result<Datum, String> {
    Ok(match (kind, value) {
        (_, Value::Null) => Datum::Null,
        (ColumnType::Boolean, Value::Boolean(value)) => Datum::Boolean(*value),
        (ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::Duration, value) => {
            Datum::Integer(value.as_integer().ok_or_else(|| unfit(kind, value))?)
        }
        (ColumnType::Float32, Value::Float32(value)) => Datum::Float32(*value),
        (ColumnType::Float64, Value::Float64(value)) => Datum::Float64(*value),
        (
            ColumnType::Text
            | ColumnType::ZonedTimestamp
            | ColumnType::ZonedTime
            | ColumnType::Interval
            | ColumnType::Json { .. }
            | ColumnType::Uuid
            | ColumnType::Xml
            | ColumnType::Native(_),
            Value::String(text),
        ) => Datum::Text(text.clone()),
        (ColumnType::Bytes | ColumnType::Bits(_), Value::Bytes(bytes)) => Datum::Bytes(bytes.clone()),
        (ColumnType::Decimal { scale, .. }, Value::Bytes(unscaled)) => decimal_text(unscaled, *scale)?.into(),
        (ColumnType::VariableScaleDecimal { scale, value: place }, Value::Struct(parts)) => match (parts.get(*scale), parts.get(*place)) {
            (Some(Value::Int32(scale)), Some(Value::Bytes(unscaled))) => decimal_text(unscaled, *scale)?.into(),
            _ => return Err(unfit(kind, value)),
        },
        (ColumnType::Date, Value::Int32(days)) => temporal::date(*days).into(),
        (ColumnType::Time(unit), value) => temporal::time(value.as_integer().ok_or_else(|| unfit(kind, value))?, *unit)?.into(),
        (ColumnType::Timestamp(unit), value) => temporal::timestamp(value.as_integer().ok_or_else(|| unfit(kind, value))?, *unit)?.into(),
        (ColumnType::Structured(schema), value) => json(Some(schema), value)?.to_string().into(),
        (ColumnType::Schemaless, value) => schemaless(value)?,
        (
            ColumnType::Boolean
            | ColumnType::Float32
            | ColumnType::Float64
            | ColumnType::Text
            | ColumnType::ZonedTimestamp
            | ColumnType::ZonedTime
            | ColumnType::Interval
            | ColumnType::Json { .. }
            | ColumnType::Uuid
            | ColumnType::Xml
            | ColumnType::Native(_)
            | ColumnType::Bytes
            | ColumnType::Bits(_)
            | ColumnType::Decimal { .. }
            | ColumnType::VariableScaleDecimal { .. }
            | ColumnType::Date
            | ColumnType::Point { .. }
            | ColumnType::Array(_),
            value,
        ) => return Err(unfit(kind, value)),
    })
}

fn schemaless(value: &Value) -> Result<Datum, String> {
    Ok(match value {
        Value::Null => Datum::Null,
        Value::Boolean(value) => Datum::Boolean(*value),
        Value::Int8(_) | Value::Int16(_) | Value::Int32(_) | Value::Int64(_) => {
            Datum::Integer(value.as_integer().expect("these four are integers"))
        }
        Value::Float32(value) => Datum::Float32(*value),
        Value::Float64(value) => Datum::Float64(*value),
        Value::String(text) => Datum::Text(text.clone()),
        Value::Bytes(bytes) => Datum::Bytes(bytes.clone()),
        Value::Array(_) | Value::Map(_) | Value::Struct(_) => json(None, value)?.to_string().into(),
        Value::Unchanged | Value::NotInIdentity => return Err(UNKNOWN.to_owned()),
    })
}

const UNKNOWN: &str = "a part of the value was not sent by the source";

/// JSON of a nested value: structs by field name, bytes as base64, non-finite floats as text.
///
/// # Errors
/// A part of the value is unknown (I8), or a struct comes without its schema.
pub(crate) fn json(schema: Option<&Schema>, value: &Value) -> Result<serde_json::Value, String> {
    let kind = schema.map(Schema::kind);
    Ok(match value {
        Value::Null => serde_json::Value::Null,
        Value::Boolean(value) => (*value).into(),
        Value::Int8(_) | Value::Int16(_) | Value::Int32(_) | Value::Int64(_) => value.as_integer().expect("these four are integers").into(),
        // The shortest text of the single, not the digits that widening would add.
        Value::Float32(value) if value.is_finite() => serde_json::from_str(&format!("{value:?}")).map_err(|error| error.to_string())?,
        Value::Float64(value) if value.is_finite() => (*value).into(),
        Value::Float32(value) => Datum::Float32(*value).text().into(),
        Value::Float64(value) => Datum::Float64(*value).text().into(),
        Value::String(text) => (&**text).into(),
        Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Value::Array(elements) => {
            let element = match kind {
                Some(Kind::Array(element)) => Some(&**element),
                _ => None,
            };
            elements.iter().map(|value| json(element, value)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Map(entries) => {
            let values = match kind {
                Some(Kind::Map(_, values)) => Some(&**values),
                _ => None,
            };
            let mut object = serde_json::Map::new();
            for (key, value) in entries {
                let name = match json(None, key)? {
                    serde_json::Value::String(name) => name,
                    other => other.to_string(),
                };
                object.insert(name, json(values, value)?);
            }
            object.into()
        }
        Value::Struct(parts) => {
            let schema = schema.ok_or_else(|| "a struct has no schema".to_owned())?;
            let mut object = serde_json::Map::new();
            for (field, part) in schema.fields().iter().zip(parts) {
                object.insert(field.name.to_string(), json(Some(&field.schema), part)?);
            }
            object.into()
        }
        Value::Unchanged | Value::NotInIdentity => return Err(UNKNOWN.to_owned()),
    })
}

/// Says that a value does not fit its schema, without repeating the value.
pub(crate) fn unfit(kind: &ColumnType, value: &Value) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Unchanged | Value::NotInIdentity => return UNKNOWN.to_owned(),
        Value::Boolean(_) => "a boolean",
        Value::Int8(_) | Value::Int16(_) | Value::Int32(_) | Value::Int64(_) => "an integer",
        Value::Float32(_) | Value::Float64(_) => "a float",
        Value::Bytes(_) => "bytes",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::Struct(_) => "a struct",
    };
    format!("the schema says {kind:?}, the value is {found}")
}
