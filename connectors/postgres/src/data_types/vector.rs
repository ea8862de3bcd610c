//! The vectors of pgvector (version 0.8): `vector`, `halfvec` and `sparsevec`.
//!
//! Debezium reads their text, so the single precision numbers of a `vector` become the doubles that their shortest decimal
//! form stands for: 0.1, not 0.10000000149011612. The binary form takes the same way.

use tailwater_api::Value;

use super::codec::{Fault, Output, parse};
use crate::octets::Octets;

/// The double of the shortest decimal form.
fn double(number: f32) -> Result<f64, Fault> {
    parse(number.to_string().as_bytes())
}

/// A number of half precision (IEEE 754, binary16).
fn of_half(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f32::from(half & 0x3ff));
    sign * match exponent {
        0 => fraction * 2_f32.powi(-24),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
    }
}

/// Number of dimensions, an unused number, values (`vector_send`, `halfvec_send`).
fn dimensions(octets: &mut Octets<'_>) -> Result<u16, Fault> {
    let count = octets.u16()?;
    octets.u16()?;
    Ok(count)
}

pub(super) fn doubles_of_binary(raw: &[u8]) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw);
    let count = dimensions(&mut octets)?;
    let values: Result<_, Fault> = (0..count).map(|_| double(f32::from_bits(octets.u32()?)).map(Value::Float64)).collect();
    if octets.is_at_end() { Ok(Value::Array(values?)) } else { Err(Fault::Unreadable) }
}

pub(super) fn floats_of_binary(raw: &[u8]) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw);
    let count = dimensions(&mut octets)?;
    let values: Result<_, Fault> = (0..count).map(|_| Ok(Value::Float32(of_half(octets.u16()?)))).collect();
    if octets.is_at_end() { Ok(Value::Array(values?)) } else { Err(Fault::Unreadable) }
}

pub(super) fn doubles_of_text(raw: &[u8]) -> Result<Value, Fault> {
    elements(raw, |element| parse(element).map(Value::Float64))
}

pub(super) fn floats_of_text(raw: &[u8]) -> Result<Value, Fault> {
    elements(raw, |element| parse(element).map(Value::Float32))
}

/// `[1,2.5]`
fn elements(raw: &[u8], value: impl Fn(&[u8]) -> Result<Value, Fault>) -> Result<Value, Fault> {
    let inner = raw.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).ok_or(Fault::Unreadable)?;
    if inner.is_empty() {
        return Ok(Value::Array(Box::new([])));
    }
    inner.split(|octet| *octet == b',').map(value).collect::<Result<_, _>>().map(Value::Array)
}

/// Number of dimensions, of values, an unused number, indices from 0, values (`sparsevec_send`).
pub(super) fn sparse_of_binary(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw);
    let (dimensions, count, _unused) = (octets.i32()?, octets.u32()?, octets.i32()?);
    // Each value takes eight octets.
    let count = usize::try_from(count).ok().filter(|count| *count <= raw.len() / 8).ok_or(Fault::Unreadable)?;
    let indices = (0..count).map(|_| octets.i32()?.checked_add(1).ok_or(Fault::Unreadable)).collect::<Result<Vec<_>, Fault>>()?;
    let entries =
        indices.into_iter().map(|index| Ok((index, double(f32::from_bits(octets.u32()?))?))).collect::<Result<Vec<_>, Fault>>()?;
    if octets.is_at_end() { Ok(sparse(dimensions, entries, output)) } else { Err(Fault::Unreadable) }
}

/// `{1:1,3:2.5}/5`
pub(super) fn sparse_of_text(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let rest = raw.strip_prefix(b"{").ok_or(Fault::Unreadable)?;
    let end = memchr::memchr(b'}', rest).ok_or(Fault::Unreadable)?;
    let dimensions = parse(rest[end + 1..].strip_prefix(b"/").ok_or(Fault::Unreadable)?)?;
    let entry = |entry: &[u8]| {
        let colon = memchr::memchr(b':', entry).ok_or(Fault::Unreadable)?;
        Ok((parse(&entry[..colon])?, parse(&entry[colon + 1..])?))
    };
    let entries = if end == 0 { Vec::new() } else { rest[..end].split(|octet| *octet == b',').map(entry).collect::<Result<_, Fault>>()? };
    Ok(sparse(dimensions, entries, output))
}

/// The schema's indices have 16 bits; a vector that needs more has no place in it.
fn sparse(dimensions: i32, entries: Vec<(i32, f64)>, output: &mut Output<'_>) -> Value {
    let entry = |(index, value)| Some((Value::Int16(i16::try_from(index).ok()?), Value::Float64(value)));
    let entries: Option<Box<[_]>> = entries.into_iter().map(entry).collect();
    match (i16::try_from(dimensions), entries) {
        (Ok(dimensions), Some(entries)) => Value::Struct(Box::new([Value::Int16(dimensions), Value::Map(entries)])),
        (Err(_), _) | (_, None) => output.lose(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_the_numbers_that_they_stand_for() {
        for (half, number) in
            [(0x3e00, 1.5), (0xc000, -2.0), (0x7bff, 65_504.0), (0x0001, 5.960_464_5e-8), (0x0400, 6.103_515_6e-5), (0x0000, 0.0)]
        {
            assert_eq!(of_half(half), number);
        }
    }
}
