//! hstore, as a JSON text or as a map.
//!
//! Debezium holds the pairs in a `java.util.HashMap` and writes them in its order. The same order here keeps the texts equal.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tailwater_api::Value;
use tailwater_kit::java_hash;

use super::HstoreMode;
use super::codec::{Fault, Output};
use crate::buffer_slice::BufferSlice;
use crate::octets::Octets;

type Pair = (ByteString, Option<ByteString>);

/// Number of pairs; of each the length of its key, the key, the length of its value (-1 for null), the value
/// (`hstore_send`).
pub(super) fn of_binary(raw: BufferSlice<'_>, mode: HstoreMode, output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw.octets());
    let count = usize::try_from(octets.i32()?).map_err(|_| Fault::Unreadable)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(octets.i32()?).map_err(|_| Fault::Unreadable)?;
        let key = text(raw.part(octets.take(length)?).to_bytes())?;
        let value = match octets.i32()? {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| Fault::Unreadable)?;
                Some(text(raw.part(octets.take(length)?).to_bytes())?)
            }
        };
        pairs.push((key, value));
    }
    if octets.is_at_end() { write(pairs, mode, output) } else { Err(Fault::Unreadable) }
}

/// `"a"=>"1", "b"=>NULL`, with a backslash before each quote and backslash (`hstore_out`).
pub(super) fn of_text(raw: &[u8], mode: HstoreMode, output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut rest = raw;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        if !pairs.is_empty() {
            rest = rest.strip_prefix(b", ").ok_or(Fault::Unreadable)?;
        }
        let key;
        (key, rest) = quoted(rest)?;
        rest = rest.strip_prefix(b"=>").ok_or(Fault::Unreadable)?;
        let value = match rest.strip_prefix(b"NULL") {
            Some(after) => {
                rest = after;
                None
            }
            None => {
                let value;
                (value, rest) = quoted(rest)?;
                Some(value)
            }
        };
        pairs.push((key, value));
    }
    write(pairs, mode, output)
}

fn text(octets: Bytes) -> Result<ByteString, Fault> {
    ByteString::try_from(octets).map_err(|_| Fault::Unreadable)
}

/// A text in quotes, and what follows it.
fn quoted(text: &[u8]) -> Result<(ByteString, &[u8]), Fault> {
    let mut rest = text.strip_prefix(b"\"").ok_or(Fault::Unreadable)?;
    let mut octets = Vec::new();
    loop {
        rest = match rest {
            [] => return Err(Fault::Unreadable),
            [b'"', after @ ..] => return Ok((String::from_utf8(octets).map_err(|_| Fault::Unreadable)?.into(), after)),
            [b'\\', octet, after @ ..] | [octet, after @ ..] => {
                octets.push(*octet);
                after
            }
        };
    }
}

fn write(mut pairs: Vec<Pair>, mode: HstoreMode, output: &mut Output<'_>) -> Result<Value, Fault> {
    java_hash::sort(&mut pairs, |(key, _)| key);
    match mode {
        HstoreMode::Map => {
            let entry = |(key, value): Pair| (Value::String(key), value.map_or(Value::Null, Value::String));
            Ok(Value::Map(pairs.into_iter().map(entry).collect()))
        }
        HstoreMode::Json => {
            let room = pairs.iter().map(|(key, value)| key.len() + value.as_ref().map_or(4, |value| value.len()) + 6).sum::<usize>() + 2;
            output.text(room, |out| {
                out.put_u8(b'{');
                for (index, (key, value)) in pairs.iter().enumerate() {
                    if index > 0 {
                        out.put_u8(b',');
                    }
                    put_json(key, out);
                    out.put_u8(b':');
                    match value {
                        Some(value) => put_json(value, out),
                        None => out.put_slice(b"null"),
                    }
                }
                out.put_u8(b'}');
            })
        }
    }
}

/// A JSON text as Jackson writes it into a text: only quotes, backslashes and control characters are escaped.
fn put_json(text: &str, out: &mut BytesMut) {
    out.put_u8(b'"');
    for &octet in text.as_bytes() {
        match octet {
            b'"' | b'\\' => out.put_slice(&[b'\\', octet]),
            0x08 => out.put_slice(b"\\b"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            0x0c => out.put_slice(b"\\f"),
            b'\r' => out.put_slice(b"\\r"),
            0..0x20 => {
                let digits = b"0123456789ABCDEF";
                out.put_slice(&[b'\\', b'u', b'0', b'0', digits[usize::from(octet >> 4)], digits[usize::from(octet & 15)]]);
            }
            octet => out.put_u8(octet),
        }
    }
    out.put_u8(b'"');
}
