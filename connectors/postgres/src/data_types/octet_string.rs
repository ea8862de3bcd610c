//! bytea, bit strings, `"char"` and uuid.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::{BufMut, Bytes, BytesMut};
use tailwater_api::Value;

use super::BinaryMode;
use super::codec::{Fault, Output, text};
use crate::buffer_slice::BufferSlice;
use crate::octets::Octets;

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

pub(super) fn put_hexadecimal(octets: &[u8], out: &mut BytesMut) {
    for octet in octets {
        out.put_slice(&[HEXADECIMAL[usize::from(octet >> 4)], HEXADECIMAL[usize::from(octet & 15)]]);
    }
}

/// bytea as the mode wants it.
pub(super) fn bytea(octets: BufferSlice<'_>, mode: BinaryMode, output: &mut Output<'_>) -> Result<Value, Fault> {
    match mode {
        BinaryMode::Bytes => Ok(Value::Bytes(octets.to_bytes())),
        BinaryMode::Hex => output.text(2 * octets.len(), |out| put_hexadecimal(&octets, out)),
        BinaryMode::Base64 => text(STANDARD.encode(&*octets).into()),
        BinaryMode::Base64UrlSafe => text(URL_SAFE.encode(&*octets).into()),
    }
}

/// bytea out of its text, in the format `hex` or `escape`.
pub(super) fn bytea_of_text(raw: &[u8], mode: BinaryMode, output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut is_readable = true;
    let octets = output.cut(raw.len(), |out| is_readable = put_bytea(raw, out).is_some());
    if is_readable { bytea((&octets).into(), mode, output) } else { Err(Fault::Unreadable) }
}

/// The octets whose hexadecimal digits these are.
pub(super) fn octets_of_hexadecimal(digits: &[u8], output: &mut Output<'_>) -> Result<Bytes, Fault> {
    let mut is_readable = true;
    let octets = output.cut(digits.len() / 2, |out| is_readable = put_octets(digits, out).is_some());
    if is_readable { Ok(octets) } else { Err(Fault::Unreadable) }
}

fn put_octets(digits: &[u8], out: &mut BytesMut) -> Option<()> {
    let (pairs, rest) = digits.as_chunks::<2>();
    for [upper, lower] in pairs {
        let digit = |letter: &u8| char::from(*letter).to_digit(16);
        out.put_u8((digit(upper)? << 4 | digit(lower)?) as u8);
    }
    rest.is_empty().then_some(())
}

fn put_bytea(raw: &[u8], out: &mut BytesMut) -> Option<()> {
    if let Some(digits) = raw.strip_prefix(b"\\x") {
        return put_octets(digits, out);
    }
    let mut rest = raw;
    loop {
        rest = match rest {
            [] => return Some(()),
            [b'\\', b'\\', rest @ ..] => {
                out.put_u8(b'\\');
                rest
            }
            [b'\\', one @ b'0'..=b'3', two @ b'0'..=b'7', three @ b'0'..=b'7', rest @ ..] => {
                out.put_u8((one - b'0') << 6 | (two - b'0') << 3 | (three - b'0'));
                rest
            }
            [b'\\', ..] => return None,
            [octet, rest @ ..] => {
                out.put_u8(*octet);
                rest
            }
        };
    }
}

/// One bit; a bit string without any is neither true nor false.
pub(super) fn bit_of_text(raw: &[u8]) -> Result<Value, Fault> {
    match raw {
        b"1" => Ok(Value::Boolean(true)),
        b"0" => Ok(Value::Boolean(false)),
        b"" => Ok(Value::Null),
        _ => Err(Fault::Unreadable),
    }
}

pub(super) fn bit_of_binary(raw: &[u8]) -> Result<Value, Fault> {
    let (length, octets) = bit_string(raw)?;
    match (length, octets) {
        (0, []) => Ok(Value::Null),
        (1, [octet]) => Ok(Value::Boolean(octet & 0x80 != 0)),
        _ => Err(Fault::Unreadable),
    }
}

/// A bit string as Debezium's `Bits`: the last bit is the lowest of the first octet, and octets of zeros at the end are
/// left out.
pub(super) fn bits_of_text(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    if !raw.iter().all(|digit| matches!(digit, b'0' | b'1')) {
        return Err(Fault::Unreadable);
    }
    Ok(bits(raw.len(), |index| raw[index] == b'1', output))
}

pub(super) fn bits_of_binary(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let (length, octets) = bit_string(raw)?;
    Ok(bits(length, |index| octets[index / 8] & (0x80 >> (index % 8)) != 0, output))
}

/// Number of bits, and octets whose highest bits come first.
fn bit_string(raw: &[u8]) -> Result<(usize, &[u8]), Fault> {
    let mut octets = Octets::new(raw);
    let length = usize::try_from(octets.i32()?).map_err(|_| Fault::Unreadable)?;
    let octets = octets.rest();
    if octets.len() == length.div_ceil(8) { Ok((length, octets)) } else { Err(Fault::Unreadable) }
}

fn bits(length: usize, is_set: impl Fn(usize) -> bool, output: &mut Output<'_>) -> Value {
    let first = (0..length).find(|&index| is_set(index)).unwrap_or(length);
    let octets = (length - first).div_ceil(8);
    Value::Bytes(output.cut(octets, |out| {
        for octet in 0..octets {
            let bit = |place: usize| length.checked_sub(octet * 8 + place + 1).is_some_and(&is_set);
            out.put_u8((0..8).fold(0, |sum, place| sum | u8::from(bit(place)) << place));
        }
    }))
}

/// The type `"char"`: one octet, written as an escape where it is no letter of ASCII (since PostgreSQL 15).
pub(super) fn character(raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
    match raw.octets() {
        [0] => Ok(Value::text("")),
        [1..=0x7f] => text(raw.to_bytes()),
        [octet] => output.text(4, |out| out.put_slice(&[b'\\', b'0' + (octet >> 6), b'0' + (octet >> 3 & 7), b'0' + (octet & 7)])),
        _ => Err(Fault::Unreadable),
    }
}

pub(super) fn uuid(octets: [u8; 16], output: &mut Output<'_>) -> Result<Value, Fault> {
    output.text(36, |out| {
        for (index, group) in [&octets[..4], &octets[4..6], &octets[6..8], &octets[8..10], &octets[10..]].into_iter().enumerate() {
            if index > 0 {
                out.put_u8(b'-');
            }
            put_hexadecimal(group, out);
        }
    })
}
