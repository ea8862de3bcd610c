//! Integers, texts and byte strings of the journal's format, written to a buffer and read from one.
//!
//! Unsigned integers are LEB128 varints, signed ones zigzag first. Reading checks every bound: bytes that are no
//! journal are an error, never a panic.

use bytes::Bytes;
use bytestring::ByteString;

/// Why bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

type Read<T> = Result<T, Malformed>;

#[inline]
pub(super) fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small for small numbers of either sign.
#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, zigzag(value));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A place in a buffer. Texts and bytes that are read share the buffer.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    buffer: &'a Bytes,
    place: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(buffer: &'a Bytes) -> Self {
        Self::at(buffer, 0)
    }

    /// A cursor that goes on at `place`.
    pub(super) fn at(buffer: &'a Bytes, place: usize) -> Self {
        Self { buffer, place }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.place >= self.buffer.len()
    }

    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// How many octets are left.
    pub(super) fn left(&self) -> usize {
        self.buffer.len().saturating_sub(self.place)
    }

    #[inline]
    pub(super) fn octet(&mut self) -> Read<u8> {
        let octet = *self.buffer.get(self.place).ok_or(Malformed("the group ends early"))?;
        self.place += 1;
        Ok(octet)
    }

    #[inline]
    pub(super) fn unsigned(&mut self) -> Read<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let octet = self.octet()?;
            value |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint has more than ten octets"))
    }

    pub(super) fn signed(&mut self) -> Read<i64> {
        let value = self.unsigned()?;
        Ok(((value >> 1) as i64) ^ -((value & 1) as i64))
    }

    pub(super) fn index(&mut self) -> Read<usize> {
        usize::try_from(self.unsigned()?).map_err(|_| Malformed("an index is too large"))
    }

    /// A count of things of which each takes at least one octet, so that a count is never larger than what is left.
    pub(super) fn count(&mut self) -> Read<usize> {
        let count = self.index()?;
        if count > self.left() {
            return Err(Malformed("a count reaches beyond the group"));
        }
        Ok(count)
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Read<[u8; N]> {
        let end = self.place.checked_add(N).ok_or(Malformed("the group ends early"))?;
        let octets = self.buffer.get(self.place..end).ok_or(Malformed("the group ends early"))?;
        self.place = end;
        octets.try_into().map_err(|_| Malformed("the group ends early"))
    }

    pub(super) fn bytes(&mut self) -> Read<Bytes> {
        let length = self.count()?;
        self.slice(length)
    }

    #[inline]
    pub(super) fn slice(&mut self, length: usize) -> Read<Bytes> {
        if length > self.left() {
            return Err(Malformed("the group ends early"));
        }
        let bytes = self.buffer.slice(self.place..self.place + length);
        self.place += length;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Read<ByteString> {
        ByteString::try_from(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_come_back(unsigned in any::<u64>(), signed in any::<i64>()) {
            let mut out = Vec::new();
            put_unsigned(&mut out, unsigned);
            put_signed(&mut out, signed);
            let buffer = Bytes::from(out);
            let mut cursor = Cursor::new(&buffer);
            prop_assert_eq!(cursor.unsigned().unwrap(), unsigned);
            prop_assert_eq!(cursor.signed().unwrap(), signed);
            prop_assert!(cursor.is_at_end());
        }
    }
}
