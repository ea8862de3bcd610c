//! Converters that write one value as it lies in memory: `ByteArrayConverter` and those of numbers and truth values.

use tailwater_api::record::SchemaAndValue;
use tailwater_api::{Error, ErrorKind, Result, Scope, Value};
use tailwater_kit::stand_in::Placeholder;

use super::{Converter, known};

/// What a [`BytesConverter`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// `ByteArrayConverter`: bytes as they are
    Bytes,
    /// `BooleanConverter`: a byte 0 or 1
    Boolean,
    /// `ShortConverter`: two bytes, the high one first
    Short,
    /// `IntegerConverter`: four bytes
    Integer,
    /// `LongConverter`: eight bytes
    Long,
    /// `FloatConverter`: four bytes, IEEE 754
    Float,
    /// `DoubleConverter`: eight bytes, IEEE 754
    Double,
}

/// Writes values of one type as bytes; null is no bytes.
pub(super) struct BytesConverter {
    pub(super) taken: Taken,
    pub(super) placeholder: Placeholder,
}

impl Converter for BytesConverter {
    fn write(&mut self, _topic: &str, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
        let value = known(data.schema.as_deref(), &data.value, &self.placeholder);
        match (self.taken, &*value) {
            (_, Value::Null) => return Ok(false),
            (Taken::Bytes, Value::Bytes(bytes)) => out.extend_from_slice(bytes),
            (Taken::Boolean, Value::Boolean(value)) => out.push(u8::from(*value)),
            (Taken::Short, Value::Int16(value)) => out.extend_from_slice(&value.to_be_bytes()),
            (Taken::Integer, Value::Int32(value)) => out.extend_from_slice(&value.to_be_bytes()),
            (Taken::Long, Value::Int64(value)) => out.extend_from_slice(&value.to_be_bytes()),
            (Taken::Float, Value::Float32(value)) => out.extend_from_slice(&value.to_be_bytes()),
            (Taken::Double, Value::Float64(value)) => out.extend_from_slice(&value.to_be_bytes()),
            (taken, _) => {
                let kind = data.schema.as_ref().map_or("no schema", |schema| schema.kind().name());
                return Err(Error::new(ErrorKind::Rejected, format!("write a value of type {kind} with the converter of {taken:?}"))
                    .scoped(Scope::Record)
                    .because("the converter takes values of one type only")
                    .mend("choose another converter, or a transform that extracts one field"));
            }
        }
        Ok(true)
    }
}
