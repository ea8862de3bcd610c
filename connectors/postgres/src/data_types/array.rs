//! Arrays.
//!
//! Lower bounds have no place in Connect's arrays. Neither have inner arrays in a schema of scalars, which is the one that
//! Debezium gives arrays of any dimension: each becomes null, and is counted as lost.

use bytes::{BufMut, Bytes};
use tailwater_api::Value;

use super::Format;
use super::codec::{Codec, Fault, Output};
use crate::buffer_slice::BufferSlice;
use crate::octets::Octets;

/// The largest number of dimensions of the server (`MAXDIM`).
const MOST_DIMENSIONS: i32 = 6;

/// Number of dimensions, flags, type of the elements, length and lower bound of each dimension, elements (`array_send`).
pub(super) fn of_binary(element: &Codec, raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw.octets());
    let (dimensions, _has_nulls, _element) = (octets.i32()?, octets.i32()?, octets.u32()?);
    if !(0..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(Fault::Unreadable);
    }
    let mut lengths = [0; MOST_DIMENSIONS as usize];
    for length in &mut lengths[..dimensions as usize] {
        *length = usize::try_from(octets.i32()?).map_err(|_| Fault::Unreadable)?;
        octets.i32()?;
    }
    // Each element takes at least the four octets of its length.
    if lengths[0] > raw.len() {
        return Err(Fault::Unreadable);
    }
    match dimensions {
        0 => Ok(Value::Array(Box::new([]))),
        1 => {
            let mut values = Vec::with_capacity(lengths[0]);
            for _ in 0..lengths[0] {
                values.push(match octets.i32()? {
                    -1 => Value::Null,
                    length => {
                        let length = usize::try_from(length).map_err(|_| Fault::Unreadable)?;
                        element.decode(Format::Binary, raw.part(octets.take(length)?), output)?
                    }
                });
            }
            if octets.is_at_end() { Ok(Value::Array(values.into_boxed_slice())) } else { Err(Fault::Unreadable) }
        }
        _ => {
            let inner = vec![Value::Null; lengths[0]];
            Ok(output.lose(Value::Array(inner.into_boxed_slice())))
        }
    }
}

/// `{1,NULL,"a \"b\""}`, with bounds before it where they are not the usual ones: `[0:1]={7,8}`.
///
/// Between the elements stands the delimiter of their type, a comma for nearly all.
pub(super) fn of_text(element: &Codec, delimiter: u8, raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
    let start = if raw.first() == Some(&b'[') { memchr::memchr(b'=', &raw).ok_or(Fault::Unreadable)? + 1 } else { 0 };
    let Some(mut rest) = raw.octets()[start..].strip_prefix(b"{").and_then(|inner| inner.strip_suffix(b"}")) else {
        return Err(Fault::Unreadable);
    };
    let mut values = Vec::new();
    while !rest.is_empty() {
        let value;
        (value, rest) = match rest {
            [b'"', quoted @ ..] => {
                let (text, rest) = unquote(raw, quoted, output)?;
                (element.decode(Format::Text, (&text).into(), output)?, rest)
            }
            [b'{', ..] => (output.lose(Value::Null), skip_inner(rest)?),
            plain => {
                let end = memchr::memchr(delimiter, plain).unwrap_or(plain.len());
                let (text, rest) = plain.split_at(end);
                // Any other text of these letters is quoted.
                let is_null = text.eq_ignore_ascii_case(b"NULL");
                (if is_null { Value::Null } else { element.decode(Format::Text, raw.part(text), output)? }, rest)
            }
        };
        values.push(value);
        rest = match rest {
            [] => break,
            // A delimiter is followed by an element.
            [octet, rest @ ..] if *octet == delimiter && !rest.is_empty() => rest,
            _ => return Err(Fault::Unreadable),
        };
    }
    Ok(Value::Array(values.into_boxed_slice()))
}

/// `1 2 3`, which is how int2vector and oidvector are written; their binary form is that of an array.
pub(super) fn of_blank_separated_text(element: &Codec, raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
    let elements = raw.octets().split(|octet| *octet == b' ').filter(|text| !text.is_empty());
    elements.map(|text| element.decode(Format::Text, raw.part(text), output)).collect::<Result<_, _>>().map(Value::Array)
}

/// The text up to the closing quote, and what follows it.
fn unquote<'a>(raw: BufferSlice<'a>, quoted: &'a [u8], output: &mut Output<'_>) -> Result<(Bytes, &'a [u8]), Fault> {
    let end = memchr::memchr2(b'"', b'\\', quoted).ok_or(Fault::Unreadable)?;
    if quoted[end] == b'"' {
        return Ok((raw.part(&quoted[..end]).to_bytes(), &quoted[end + 1..]));
    }
    let mut rest = quoted;
    let mut is_closed = false;
    let text = output.cut(quoted.len(), |out| {
        loop {
            rest = match rest {
                [] => break,
                [b'"', after @ ..] => {
                    is_closed = true;
                    rest = after;
                    break;
                }
                [b'\\', letter, after @ ..] | [letter, after @ ..] => {
                    out.put_u8(*letter);
                    after
                }
            };
        }
    });
    if is_closed { Ok((text, rest)) } else { Err(Fault::Unreadable) }
}

/// What follows an inner array.
fn skip_inner(mut rest: &[u8]) -> Result<&[u8], Fault> {
    let (mut depth, mut in_quotes) = (0_u32, false);
    loop {
        rest = match rest {
            [] => return Err(Fault::Unreadable),
            [b'\\', _, after @ ..] => after,
            [b'"', after @ ..] => {
                in_quotes = !in_quotes;
                after
            }
            [b'{', after @ ..] if !in_quotes => {
                depth += 1;
                after
            }
            [b'}', after @ ..] if !in_quotes => {
                depth -= 1;
                if depth == 0 {
                    return Ok(after);
                }
                after
            }
            [_, after @ ..] => after,
        };
    }
}
