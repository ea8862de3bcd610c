//! Values in the journal.
//!
//! A value stands behind one tag. With a schema its kind is known and only presence is tagged; without one the tag names
//! the kind. [`SAME`] says that the value is that of the same field in the previous record of the topic in this group:
//! most of an event's source block is, and so costs one octet a field. Null, *unchanged* and *not in the identity*
//! are tags of their own (I8).

use tailwater_api::schema::{Kind, Schema};
use tailwater_api::value::Value;

use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned};

const NULL: u8 = 0;
const UNCHANGED: u8 = 1;
const NOT_IN_IDENTITY: u8 = 2;
const SAME: u8 = 3;
const FALSE: u8 = 4;
const TRUE: u8 = 5;
/// The value follows, of the kind that the schema says.
const PRESENT: u8 = 6;
const INT8: u8 = 16;
const INT16: u8 = 17;
const INT32: u8 = 18;
const INT64: u8 = 19;
const FLOAT32: u8 = 20;
const FLOAT64: u8 = 21;
const BYTES: u8 = 22;
const STRING: u8 = 23;
const ARRAY: u8 = 24;
const MAP: u8 = 25;
const STRUCT: u8 = 26;

/// Values nest no deeper than this; a journal that says otherwise is damaged.
const DEEPEST: usize = 128;

/// Whether two values are the same without looking far: equal scalars, or the same slice of a shared buffer.
fn is_same(value: &Value, previous: &Value) -> bool {
    fn same_slice(one: &[u8], two: &[u8]) -> bool {
        one.len() == two.len() && (std::ptr::eq(one.as_ptr(), two.as_ptr()) || (one.len() <= 16 && one == two))
    }
    match (value, previous) {
        (Value::Int8(one), Value::Int8(two)) => one == two,
        (Value::Int16(one), Value::Int16(two)) => one == two,
        (Value::Int32(one), Value::Int32(two)) => one == two,
        (Value::Int64(one), Value::Int64(two)) => one == two,
        (Value::Bytes(one), Value::Bytes(two)) => same_slice(one, two),
        (Value::String(one), Value::String(two)) => same_slice(one.as_bytes(), two.as_bytes()),
        (_, _) => false,
    }
}

/// Writes `value`, which fits `schema` where there is one.
pub(super) fn write(out: &mut Vec<u8>, schema: Option<&Schema>, value: &Value, previous: Option<&Value>) {
    if let Some(previous) = previous
        && is_same(value, previous)
    {
        out.push(SAME);
        return;
    }
    let tagged = |out: &mut Vec<u8>, tag: u8| out.push(if schema.is_some() { PRESENT } else { tag });
    match value {
        Value::Null => out.push(NULL),
        Value::Unchanged => out.push(UNCHANGED),
        Value::NotInIdentity => out.push(NOT_IN_IDENTITY),
        Value::Boolean(false) => out.push(FALSE),
        Value::Boolean(true) => out.push(TRUE),
        // A value of another kind than its schema's keeps its own tag, so that it comes back as it was.
        _ if schema.is_some_and(|schema| !fits(schema.kind(), value)) => write(out, None, value, None),
        Value::Int8(number) => {
            tagged(out, INT8);
            put_signed(out, i64::from(*number));
        }
        Value::Int16(number) => {
            tagged(out, INT16);
            put_signed(out, i64::from(*number));
        }
        Value::Int32(number) => {
            tagged(out, INT32);
            put_signed(out, i64::from(*number));
        }
        Value::Int64(number) => {
            tagged(out, INT64);
            put_signed(out, *number);
        }
        Value::Float32(number) => {
            tagged(out, FLOAT32);
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        Value::Float64(number) => {
            tagged(out, FLOAT64);
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        Value::Bytes(bytes) => {
            tagged(out, BYTES);
            put_bytes(out, bytes);
        }
        Value::String(text) => {
            tagged(out, STRING);
            put_bytes(out, text.as_bytes());
        }
        Value::Array(values) => {
            tagged(out, ARRAY);
            let items = schema.and_then(|schema| match schema.kind() {
                Kind::Array(items) => Some(&**items),
                _ => None,
            });
            put_unsigned(out, values.len() as u64);
            for value in values {
                write(out, items, value, None);
            }
        }
        Value::Map(entries) => {
            tagged(out, MAP);
            let (keys, values) = schema.map_or((None, None), |schema| match schema.kind() {
                Kind::Map(keys, values) => (Some(&**keys), Some(&**values)),
                _ => (None, None),
            });
            put_unsigned(out, entries.len() as u64);
            for (key, value) in entries {
                write(out, keys, key, None);
                write(out, values, value, None);
            }
        }
        Value::Struct(values) => {
            tagged(out, STRUCT);
            let fields = schema.map(Schema::fields).unwrap_or_default();
            let before = previous.and_then(Value::as_struct).unwrap_or_default();
            put_unsigned(out, values.len() as u64);
            for (index, value) in values.iter().enumerate() {
                write(out, fields.get(index).map(|field| &*field.schema), value, before.get(index));
            }
        }
    }
}

fn fits(kind: &Kind, value: &Value) -> bool {
    matches!(
        (kind, value),
        (Kind::Int8, Value::Int8(_))
            | (Kind::Int16, Value::Int16(_))
            | (Kind::Int32, Value::Int32(_))
            | (Kind::Int64, Value::Int64(_))
            | (Kind::Float32, Value::Float32(_))
            | (Kind::Float64, Value::Float64(_))
            | (Kind::Bytes, Value::Bytes(_))
            | (Kind::String, Value::String(_))
            | (Kind::Array(_), Value::Array(_))
            | (Kind::Map(..), Value::Map(_))
            | (Kind::Struct(_), Value::Struct(_))
    )
}

/// Reads what [`write`] wrote with the same schema and the same previous value.
pub(super) fn read(cursor: &mut Cursor<'_>, schema: Option<&Schema>, previous: Option<&Value>) -> Result<Value, Malformed> {
    read_nested(cursor, schema, previous, 0)
}

fn read_nested(cursor: &mut Cursor<'_>, schema: Option<&Schema>, previous: Option<&Value>, depth: usize) -> Result<Value, Malformed> {
    if depth > DEEPEST {
        return Err(Malformed("a value nests too deeply"));
    }
    let tag = match cursor.octet()? {
        NULL => return Ok(Value::Null),
        UNCHANGED => return Ok(Value::Unchanged),
        NOT_IN_IDENTITY => return Ok(Value::NotInIdentity),
        FALSE => return Ok(Value::Boolean(false)),
        TRUE => return Ok(Value::Boolean(true)),
        SAME => return previous.cloned().ok_or(Malformed("a value repeats one that is not there")),
        PRESENT => match schema.ok_or(Malformed("a value without a schema has no kind"))?.kind() {
            Kind::Boolean => return Err(Malformed("a truth value is neither true nor false")),
            Kind::Int8 => INT8,
            Kind::Int16 => INT16,
            Kind::Int32 => INT32,
            Kind::Int64 => INT64,
            Kind::Float32 => FLOAT32,
            Kind::Float64 => FLOAT64,
            Kind::Bytes => BYTES,
            Kind::String => STRING,
            Kind::Array(_) => ARRAY,
            Kind::Map(..) => MAP,
            Kind::Struct(_) => STRUCT,
        },
        tag => tag,
    };
    let narrow = || Malformed("an integer is out of its range");
    Ok(match tag {
        INT8 => Value::Int8(cursor.signed()?.try_into().map_err(|_| narrow())?),
        INT16 => Value::Int16(cursor.signed()?.try_into().map_err(|_| narrow())?),
        INT32 => Value::Int32(cursor.signed()?.try_into().map_err(|_| narrow())?),
        INT64 => Value::Int64(cursor.signed()?),
        FLOAT32 => Value::Float32(f32::from_bits(u32::from_le_bytes(cursor.fixed()?))),
        FLOAT64 => Value::Float64(f64::from_bits(u64::from_le_bytes(cursor.fixed()?))),
        BYTES => Value::Bytes(cursor.bytes()?),
        STRING => Value::String(cursor.text()?),
        ARRAY => {
            let items = schema.and_then(|schema| match schema.kind() {
                Kind::Array(items) => Some(&**items),
                _ => None,
            });
            let count = cursor.count()?;
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(read_nested(cursor, items, None, depth + 1)?);
            }
            Value::Array(values.into_boxed_slice())
        }
        MAP => {
            let (keys, values) = schema.map_or((None, None), |schema| match schema.kind() {
                Kind::Map(keys, values) => (Some(&**keys), Some(&**values)),
                _ => (None, None),
            });
            let count = cursor.count()?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                let key = read_nested(cursor, keys, None, depth + 1)?;
                entries.push((key, read_nested(cursor, values, None, depth + 1)?));
            }
            Value::Map(entries.into_boxed_slice())
        }
        STRUCT => {
            let fields = schema.map(Schema::fields).unwrap_or_default();
            let before = previous.and_then(Value::as_struct).unwrap_or_default();
            let count = cursor.count()?;
            let mut values = Vec::with_capacity(count);
            for index in 0..count {
                let field = fields.get(index).map(|field| &*field.schema);
                values.push(read_nested(cursor, field, before.get(index), depth + 1)?);
            }
            Value::Struct(values.into_boxed_slice())
        }
        _ => return Err(Malformed("a value has an unknown tag")),
    })
}

