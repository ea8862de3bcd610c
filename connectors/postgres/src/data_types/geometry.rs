//! `point`, and the geometries of PostGIS.
//!
//! Debezium writes shapes as well-known binary (OGC 06-103r4, section 8): order of the octets (1 for little-endian), type of the
//! shape in four octets, coordinates as doubles. PostGIS 3 sends its own extension of it (EWKB), in which a bit of the type says
//! that the identifier of a reference system follows; its text is the same in hexadecimal.

use bytes::{BufMut, Bytes};
use tailwater_api::Value;
use tailwater_kit::number_text::write_double;

use super::codec::{Fault, Output, parse};
use super::octet_string;
use crate::buffer_slice::BufferSlice;
use crate::octets::Octets;

/// Little-endian, a point.
const POINT: [u8; 5] = [1, 1, 0, 0, 0];
/// Little-endian, a collection of no shapes.
const EMPTY_COLLECTION: [u8; 9] = [1, 7, 0, 0, 0, 0, 0, 0, 0];
/// The bit of the type of a shape that has a reference system.
const HAS_REFERENCE: u32 = 0x2000_0000;

/// Two doubles (`point_send`).
pub(super) fn point_of_binary(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw);
    let (x, y) = (f64::from_bits(octets.u64()?), f64::from_bits(octets.u64()?));
    if octets.is_at_end() { Ok(point(x, y, output)) } else { Err(Fault::Unreadable) }
}

/// `(1,-2.5)`
pub(super) fn point_of_text(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let inner = raw.strip_prefix(b"(").and_then(|rest| rest.strip_suffix(b")")).ok_or(Fault::Unreadable)?;
    let comma = memchr::memchr(b',', inner).ok_or(Fault::Unreadable)?;
    Ok(point(parse(&inner[..comma])?, parse(&inner[comma + 1..])?, output))
}

/// The text of a figure (`<(1.5,2),3>`) with its numbers as Java writes them (`<(1.5,2.0),3.0>`): Debezium has it from the driver, which
/// reads and writes it.
pub(super) fn text_of_java(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(2 * text.len());
    let is_of_number = |octet: &u8| matches!(octet, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e');
    for part in text.chunk_by(|one, two| is_of_number(one) && is_of_number(two)) {
        match parse::<f64>(part) {
            Ok(number) => write_double(number, &mut out),
            Err(_) => out.extend_from_slice(part),
        }
    }
    out.into()
}

fn point(x: f64, y: f64, output: &mut Output<'_>) -> Value {
    let shape = output.cut(POINT.len() + 16, |out| {
        out.put_slice(&POINT);
        out.put_f64_le(x);
        out.put_f64_le(y);
    });
    Value::Struct(Box::new([Value::Float64(x), Value::Float64(y), Value::Bytes(shape), Value::Null]))
}

/// A geometry or geography; its reference system stands beside it.
pub(super) fn shape_of_binary(raw: BufferSlice<'_>) -> Result<Value, Fault> {
    let (order, rest) = raw.split_first().ok_or(Fault::Unreadable)?;
    let word = |octets: &[u8]| -> Result<u32, Fault> {
        let octets = *octets.first_chunk().ok_or(Fault::Unreadable)?;
        match order {
            0 => Ok(u32::from_be_bytes(octets)),
            1 => Ok(u32::from_le_bytes(octets)),
            _ => Err(Fault::Unreadable),
        }
    };
    let reference = if word(rest)? & HAS_REFERENCE == 0 { Value::Null } else { Value::Int32(word(&rest[4..])?.cast_signed()) };
    Ok(Value::Struct(Box::new([Value::Bytes(raw.to_bytes()), reference])))
}

/// What Debezium writes for a shape that may not be null and of which nothing is known.
pub(super) fn nothing() -> Value {
    Value::Struct(Box::new([Value::Bytes(Bytes::from_static(&EMPTY_COLLECTION)), Value::Null]))
}

pub(super) fn shape_of_text(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    shape_of_binary((&octet_string::octets_of_hexadecimal(raw, output)?).into())
}
