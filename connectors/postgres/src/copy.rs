//! Rows of `COPY … TO STDOUT (FORMAT binary)` (PostgreSQL 18, "COPY", File Formats, Binary Format).
//!
//! A header (signature of 11 bytes, flags, length of an extension), then rows (number of fields in two bytes, each
//! field as length in four bytes and octets, -1 for null), then a trailer of -1. The server sends one row a message, but
//! nothing says so; rows are found wherever the pieces are cut.

use bytes::{Buf, Bytes, BytesMut};
use tailwater_api::{Error, ErrorKind, Result};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const HEADER: usize = SIGNATURE.len() + 4 + 4;

/// Finds rows in the pieces of a COPY.
#[derive(Default)]
pub(crate) struct CopyRows {
    data: Bytes,
    header_read: bool,
    ended: bool,
}

/// The fields of a row, as ranges of its octets; -1 for null stands as `None`.
pub(crate) struct CopyRow<'a> {
    octets: &'a Bytes,
    at: usize,
}

impl CopyRows {
    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.data.is_empty() {
            self.data = piece;
        } else {
            let mut joined = BytesMut::with_capacity(self.data.len() + piece.len());
            joined.extend_from_slice(&self.data);
            joined.extend_from_slice(&piece);
            self.data = joined.freeze();
        }
    }

    /// The octets of the next whole row, behind its number of fields; `None` where more pieces are needed or the
    /// rows have ended.
    pub(crate) fn next_row(&mut self, fields: usize) -> Result<Option<Bytes>> {
        if !self.header_read && !self.read_header()? {
            return Ok(None);
        }
        if self.data.len() < 2 || self.ended {
            return Ok(None);
        }
        let count = i16::from_be_bytes([self.data[0], self.data[1]]);
        if count == -1 {
            self.ended = true;
            return Ok(None);
        }
        if usize::try_from(count) != Ok(fields) {
            return Err(unreadable(format!("a row has {count} fields, not {fields}")));
        }
        let mut end = 2;
        for _ in 0..fields {
            let Some(length) = self.data.get(end..end + 4) else { return Ok(None) };
            let length = i32::from_be_bytes(length.try_into().expect("four octets"));
            end += 4;
            match usize::try_from(length) {
                Ok(length) => end += length,
                Err(_) if length == -1 => {}
                Err(_) => return Err(unreadable(format!("a field has length {length}"))),
            }
        }
        if self.data.len() < end {
            return Ok(None);
        }
        let mut row = self.data.split_to(end);
        row.advance(2);
        Ok(Some(row))
    }

    /// Whether the trailer was seen.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    fn read_header(&mut self) -> Result<bool> {
        if self.data.len() < HEADER {
            return Ok(false);
        }
        if &self.data[..SIGNATURE.len()] != SIGNATURE {
            return Err(unreadable("the signature is missing".into()));
        }
        let extension = u32::from_be_bytes(self.data[HEADER - 4..HEADER].try_into().expect("four octets")) as usize;
        if self.data.len() < HEADER + extension {
            return Ok(false);
        }
        self.data.advance(HEADER + extension);
        self.header_read = true;
        Ok(true)
    }
}

impl<'a> CopyRow<'a> {
    /// The fields of what [`CopyRows::next_row`] found.
    pub(crate) fn new(octets: &'a Bytes) -> Self {
        Self { octets, at: 0 }
    }

    /// The next field; must not be called more often than there are fields.
    pub(crate) fn next_field(&mut self) -> Option<Bytes> {
        let length: [u8; 4] = self.octets[self.at..self.at + 4].try_into().expect("the row was found whole");
        self.at += 4;
        let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
        let field = self.octets.slice(self.at..self.at + length);
        self.at += length;
        Some(field)
    }

    /// The fields that were not taken.
    pub(crate) fn rest(&self) -> Bytes {
        self.octets.slice(self.at..)
    }
}

fn unreadable(why: String) -> Error {
    Error::new(ErrorKind::Unreadable, "read the rows of a COPY").because(why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut octets = SIGNATURE.to_vec();
        octets.extend_from_slice(&[0; 4]);
        octets.extend_from_slice(&[0, 0, 0, 3, 9, 9, 9]);
        for row in rows {
            octets.extend_from_slice(&(row.len() as i16).to_be_bytes());
            for field in row {
                octets.extend_from_slice(&field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
                octets.extend_from_slice(field.as_deref().unwrap_or_default());
            }
        }
        octets.extend_from_slice(&(-1_i16).to_be_bytes());
        octets
    }

    proptest! {
        #[test]
        fn rows_are_found_wherever_the_pieces_are_cut(
            rows in proptest::collection::vec(proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)), 3), 0..6),
            piece in 1_usize..40,
        ) {
            let octets = encode(&rows);
            let mut reader = CopyRows::default();
            let mut found = Vec::new();
            for piece in octets.chunks(piece) {
                reader.push(Bytes::copy_from_slice(piece));
                while let Some(row) = reader.next_row(3).unwrap() {
                    let mut fields = CopyRow::new(&row);
                    found.push((0..3).map(|_| fields.next_field().map(|field| field.to_vec())).collect::<Vec<_>>());
                }
            }
            prop_assert!(reader.has_ended());
            prop_assert_eq!(found, rows);
        }

        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut reader = CopyRows { header_read: true, ..CopyRows::default() };
            reader.push(octets.into());
            while let Ok(Some(_)) = reader.next_row(2) {}
        }
    }

    #[test]
    fn a_stream_that_is_no_copy_is_refused() {
        let mut reader = CopyRows::default();
        reader.push(Bytes::from_static(b"id,name\n1,Ada\n2,Grace\n"));
        assert!(reader.next_row(2).is_err());
    }
}
