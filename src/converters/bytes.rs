//! Converters that write one value as it lies in memory: `ByteArrayConverter` and those of numbers and truth values.

use std::sync::Arc;

use bytes::Bytes;
use tailwater_api::record::{Headers, SchemaAndValue};
use tailwater_api::{Error, ErrorKind, Kind, Result, Schema, Scope, Value};
use tailwater_kit::stand_in::Placeholder;

use super::{Converter, known, unreadable};

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

/// Writes and reads values of one type as bytes; null is no bytes.
pub(super) struct BytesConverter {
    pub(super) taken: Taken,
    pub(super) placeholder: Placeholder,
    /// Of what was read
    pub(super) schema: Option<Arc<Schema>>,
}

impl Converter for BytesConverter {
    fn write(&mut self, _topic: &str, _headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
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

    fn read(&mut self, _topic: &str, bytes: &[u8]) -> Result<SchemaAndValue> {
        let misfit = || unreadable("read a value of fixed length", format!("{} bytes are no {:?}", bytes.len(), self.taken));
        let (kind, value) = match self.taken {
            Taken::Bytes => (Kind::Bytes, Value::Bytes(Bytes::copy_from_slice(bytes))),
            Taken::Boolean => match bytes {
                [0] => (Kind::Boolean, Value::Boolean(false)),
                [1] => (Kind::Boolean, Value::Boolean(true)),
                _ => return Err(misfit()),
            },
            Taken::Short => (Kind::Int16, Value::Int16(i16::from_be_bytes(bytes.try_into().map_err(|_| misfit())?))),
            Taken::Integer => (Kind::Int32, Value::Int32(i32::from_be_bytes(bytes.try_into().map_err(|_| misfit())?))),
            Taken::Long => (Kind::Int64, Value::Int64(i64::from_be_bytes(bytes.try_into().map_err(|_| misfit())?))),
            Taken::Float => (Kind::Float32, Value::Float32(f32::from_be_bytes(bytes.try_into().map_err(|_| misfit())?))),
            Taken::Double => (Kind::Float64, Value::Float64(f64::from_be_bytes(bytes.try_into().map_err(|_| misfit())?))),
        };
        let schema = self.schema.get_or_insert_with(|| Schema::of(kind).optional().build());
        Ok(SchemaAndValue::new(Arc::clone(schema), value))
    }
}
