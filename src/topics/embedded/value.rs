//! Values in the journal.
//!
//! A value begins with one tag octet. With a schema its kind is known and the tag says only whether and how it is there;
//! without one the tag names the kind. [`SAME`] says that the value is that of the same field in the previous record of the
//! topic in this group: most of an event's source block is, and so costs one octet a field. Null, *unchanged* and *not in
//! the identity* are tags of their own (I8). Short texts and bytes have their length in the tag, small integers are one.
//!
//! ```text
//! 0 null · 1 unchanged · 2 not in the identity · 3 same · 4 false · 5 true · 6 present, of the schema's kind
//! 16 … 26 present, of the kind that the tag names: always so without a schema
//! 0x40 + n   text or bytes of n octets, n < 64, where the schema says which
//! 0x80 + n   integer whose zigzag form is n, n < 128, where the schema says which
//! ```

use bytes::Bytes;
use bytestring::ByteString;
use tailwater_api::schema::{Kind, Schema};
use tailwater_api::value::Value;

use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned, zigzag};

const NULL: u8 = 0;
const UNCHANGED: u8 = 1;
const NOT_IN_IDENTITY: u8 = 2;
const SAME: u8 = 3;
const FALSE: u8 = 4;
const TRUE: u8 = 5;
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
const SHORT: u8 = 0x40;
const SMALL: u8 = 0x80;

/// Values nest no deeper than this, so that reading one never exhausts the stack.
const DEEPEST: usize = 96;

/// Texts and bytes up to this length are compared; longer ones only count as the same if they are the same buffer.
const COMPARED: usize = 64;

/// A value nests too deeply to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value nests deeper than {DEEPEST} levels")]
pub(super) struct TooDeep;

/// Writes `value`. `previous` is the value of the same field in the previous record.
pub(super) fn write(out: &mut Vec<u8>, schema: Option<&Schema>, value: &Value, previous: Option<&Value>) -> Result<(), TooDeep> {
    write_nested(out, schema, value, previous, 0)
}

/// Whether two values are the same without looking far.
#[inline]
fn is_same(value: &Value, previous: &Value) -> bool {
    #[inline]
    fn same_slice(one: &[u8], two: &[u8]) -> bool {
        one.len() == two.len() && (std::ptr::eq(one.as_ptr(), two.as_ptr()) || (one.len() <= COMPARED && one == two))
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

fn write_nested(out: &mut Vec<u8>, schema: Option<&Schema>, value: &Value, previous: Option<&Value>, depth: usize) -> Result<(), TooDeep> {
    if previous.is_some_and(|previous| is_same(value, previous)) {
        out.push(SAME);
        return Ok(());
    }
    match value {
        Value::Null => out.push(NULL),
        Value::Unchanged => out.push(UNCHANGED),
        Value::NotInIdentity => out.push(NOT_IN_IDENTITY),
        Value::Boolean(false) => out.push(FALSE),
        Value::Boolean(true) => out.push(TRUE),
        // A value of another kind than its schema's keeps its own tag, so that it comes back as it was.
        Value::Int8(number) => integer(out, matches!(kind(schema), Some(Kind::Int8)), INT8, i64::from(*number)),
        Value::Int16(number) => integer(out, matches!(kind(schema), Some(Kind::Int16)), INT16, i64::from(*number)),
        Value::Int32(number) => integer(out, matches!(kind(schema), Some(Kind::Int32)), INT32, i64::from(*number)),
        Value::Int64(number) => integer(out, matches!(kind(schema), Some(Kind::Int64)), INT64, *number),
        Value::Float32(number) => {
            out.push(if matches!(kind(schema), Some(Kind::Float32)) { PRESENT } else { FLOAT32 });
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        Value::Float64(number) => {
            out.push(if matches!(kind(schema), Some(Kind::Float64)) { PRESENT } else { FLOAT64 });
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        Value::Bytes(bytes) => slice(out, matches!(kind(schema), Some(Kind::Bytes)), BYTES, bytes),
        Value::String(text) => slice(out, matches!(kind(schema), Some(Kind::String)), STRING, text.as_bytes()),
        Value::Array(values) => {
            let items = match kind(schema) {
                Some(Kind::Array(items)) => Some(&**items),
                _ => None,
            };
            out.push(if items.is_some() { PRESENT } else { ARRAY });
            put_unsigned(out, values.len() as u64);
            let depth = deeper(depth)?;
            for value in values {
                write_nested(out, items, value, None, depth)?;
            }
        }
        Value::Map(entries) => {
            let parts = match kind(schema) {
                Some(Kind::Map(keys, values)) => Some((&**keys, &**values)),
                _ => None,
            };
            out.push(if parts.is_some() { PRESENT } else { MAP });
            put_unsigned(out, entries.len() as u64);
            let depth = deeper(depth)?;
            for (key, value) in entries {
                write_nested(out, parts.map(|(keys, _)| keys), key, None, depth)?;
                write_nested(out, parts.map(|(_, values)| values), value, None, depth)?;
            }
        }
        Value::Struct(values) => {
            let depth = deeper(depth)?;
            match kind(schema) {
                Some(Kind::Struct(fields)) if fields.len() == values.len() => {
                    out.push(PRESENT);
                    match previous.and_then(Value::as_struct).filter(|previous| previous.len() == values.len()) {
                        Some(previous) => {
                            for ((field, value), previous) in fields.iter().zip(values).zip(previous) {
                                write_nested(out, Some(&field.schema), value, Some(previous), depth)?;
                            }
                        }
                        None => {
                            for (field, value) in fields.iter().zip(values) {
                                write_nested(out, Some(&field.schema), value, None, depth)?;
                            }
                        }
                    }
                }
                _ => {
                    out.push(STRUCT);
                    put_unsigned(out, values.len() as u64);
                    for value in values {
                        write_nested(out, None, value, None, depth)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[inline]
fn kind(schema: Option<&Schema>) -> Option<&Kind> {
    schema.map(Schema::kind)
}

fn deeper(depth: usize) -> Result<usize, TooDeep> {
    if depth >= DEEPEST { Err(TooDeep) } else { Ok(depth + 1) }
}

#[inline]
fn integer(out: &mut Vec<u8>, fits: bool, tag: u8, number: i64) {
    let folded = zigzag(number);
    if !fits {
        out.push(tag);
        put_signed(out, number);
    } else if folded < u64::from(SMALL) {
        out.push(SMALL | folded as u8);
    } else {
        out.push(PRESENT);
        put_unsigned(out, folded);
    }
}

#[inline]
fn slice(out: &mut Vec<u8>, fits: bool, tag: u8, octets: &[u8]) {
    if fits && octets.len() < usize::from(SHORT) {
        out.push(SHORT | octets.len() as u8);
        out.extend_from_slice(octets);
    } else {
        out.push(if fits { PRESENT } else { tag });
        put_bytes(out, octets);
    }
}

/// Reads what [`write`] wrote with the same schema and the same previous value.
pub(super) fn read(cursor: &mut Cursor<'_>, schema: Option<&Schema>, previous: Option<&Value>) -> Result<Value, Malformed> {
    let mut value = Value::Null;
    read_into(&mut value, cursor, schema, previous, 0)?;
    Ok(value)
}

/// `count` values to be read into: where they will stay, because moving values costs more than reading them.
fn empty(count: usize) -> Box<[Value]> {
    (0..count).map(|_| Value::Null).collect()
}

fn read_into(
    value: &mut Value,
    cursor: &mut Cursor<'_>,
    schema: Option<&Schema>,
    previous: Option<&Value>,
    depth: usize,
) -> Result<(), Malformed> {
    let tag = cursor.octet()?;
    if tag >= SMALL {
        return integer_into(value, kind(schema), u64::from(tag & !SMALL));
    }
    if tag >= SHORT {
        let octets = cursor.slice(usize::from(tag & !SHORT))?;
        return slice_into(value, kind(schema), octets);
    }
    match tag {
        NULL => *value = Value::Null,
        UNCHANGED => *value = Value::Unchanged,
        NOT_IN_IDENTITY => *value = Value::NotInIdentity,
        SAME => *value = previous.cloned().ok_or(Malformed("a value repeats one that is not there"))?,
        FALSE => *value = Value::Boolean(false),
        TRUE => *value = Value::Boolean(true),
        PRESENT => match kind(schema) {
            None => return Err(Malformed("a value without a schema has no kind")),
            Some(Kind::Boolean) => return Err(Malformed("a truth value is neither true nor false")),
            Some(kind @ (Kind::Int8 | Kind::Int16 | Kind::Int32 | Kind::Int64)) => {
                return integer_into(value, Some(kind), cursor.unsigned()?);
            }
            Some(Kind::Float32) => *value = Value::Float32(f32::from_bits(u32::from_le_bytes(cursor.fixed()?))),
            Some(Kind::Float64) => *value = Value::Float64(f64::from_bits(u64::from_le_bytes(cursor.fixed()?))),
            Some(kind @ (Kind::Bytes | Kind::String)) => return slice_into(value, Some(kind), cursor.bytes()?),
            Some(Kind::Array(items)) => *value = array(cursor, Some(items), depth)?,
            Some(Kind::Map(keys, values)) => *value = map(cursor, Some((keys, values)), depth)?,
            Some(Kind::Struct(fields)) => {
                if fields.len() > cursor.left() {
                    return Err(Malformed("a struct ends early"));
                }
                let depth = shallow_enough(depth)?;
                let mut values = empty(fields.len());
                match previous.and_then(Value::as_struct).filter(|previous| previous.len() == fields.len()) {
                    Some(previous) => {
                        for ((value, field), previous) in values.iter_mut().zip(fields).zip(previous) {
                            read_into(value, cursor, Some(&field.schema), Some(previous), depth)?;
                        }
                    }
                    None => {
                        for (value, field) in values.iter_mut().zip(fields) {
                            read_into(value, cursor, Some(&field.schema), None, depth)?;
                        }
                    }
                }
                *value = Value::Struct(values);
            }
        },
        INT8 => return integer_into(value, Some(&Kind::Int8), cursor.unsigned()?),
        INT16 => return integer_into(value, Some(&Kind::Int16), cursor.unsigned()?),
        INT32 => return integer_into(value, Some(&Kind::Int32), cursor.unsigned()?),
        INT64 => return integer_into(value, Some(&Kind::Int64), cursor.unsigned()?),
        FLOAT32 => *value = Value::Float32(f32::from_bits(u32::from_le_bytes(cursor.fixed()?))),
        FLOAT64 => *value = Value::Float64(f64::from_bits(u64::from_le_bytes(cursor.fixed()?))),
        BYTES => return slice_into(value, Some(&Kind::Bytes), cursor.bytes()?),
        STRING => return slice_into(value, Some(&Kind::String), cursor.bytes()?),
        ARRAY => *value = array(cursor, None, depth)?,
        MAP => *value = map(cursor, None, depth)?,
        STRUCT => *value = Value::Struct(sequence(cursor, None, depth)?),
        _ => return Err(Malformed("a value has an unknown tag")),
    }
    Ok(())
}

fn shallow_enough(depth: usize) -> Result<usize, Malformed> {
    deeper(depth).map_err(|_| Malformed("a value nests too deeply"))
}

#[inline]
fn integer_into(value: &mut Value, kind: Option<&Kind>, folded: u64) -> Result<(), Malformed> {
    let number = ((folded >> 1) as i64) ^ -((folded & 1) as i64);
    let narrow = |_| Malformed("an integer is out of its range");
    match kind {
        Some(Kind::Int8) => *value = Value::Int8(number.try_into().map_err(narrow)?),
        Some(Kind::Int16) => *value = Value::Int16(number.try_into().map_err(narrow)?),
        Some(Kind::Int32) => *value = Value::Int32(number.try_into().map_err(narrow)?),
        Some(Kind::Int64) => *value = Value::Int64(number),
        _ => return Err(Malformed("an integer has the schema of another kind")),
    }
    Ok(())
}

#[inline]
fn slice_into(value: &mut Value, kind: Option<&Kind>, octets: Bytes) -> Result<(), Malformed> {
    match kind {
        Some(Kind::Bytes) => *value = Value::Bytes(octets),
        Some(Kind::String) => *value = Value::String(ByteString::try_from(octets).map_err(|_| Malformed("a text is not UTF-8"))?),
        _ => return Err(Malformed("text or bytes have the schema of another kind")),
    }
    Ok(())
}

fn sequence(cursor: &mut Cursor<'_>, items: Option<&Schema>, depth: usize) -> Result<Box<[Value]>, Malformed> {
    let depth = shallow_enough(depth)?;
    let mut values = empty(cursor.count()?);
    for value in &mut values {
        read_into(value, cursor, items, None, depth)?;
    }
    Ok(values)
}

fn array(cursor: &mut Cursor<'_>, items: Option<&Schema>, depth: usize) -> Result<Value, Malformed> {
    sequence(cursor, items, depth).map(Value::Array)
}

fn map(cursor: &mut Cursor<'_>, parts: Option<(&Schema, &Schema)>, depth: usize) -> Result<Value, Malformed> {
    let depth = shallow_enough(depth)?;
    let mut entries: Box<[(Value, Value)]> = (0..cursor.count()?).map(|_| (Value::Null, Value::Null)).collect();
    for (key, value) in &mut entries {
        read_into(key, cursor, parts.map(|(keys, _)| keys), None, depth)?;
        read_into(value, cursor, parts.map(|(_, values)| values), None, depth)?;
    }
    Ok(Value::Map(entries))
}
