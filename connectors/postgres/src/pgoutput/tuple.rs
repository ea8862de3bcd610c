//! Tuples: the values of one row as the log holds them.

use bytes::Bytes;

use super::Fault;
use crate::buffer_slice::BufferSlice;
use crate::octets::Octets;

/// The values of a row, in the order of the relation's columns. Found whole when its message was decoded.
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    payload: &'a Bytes,
    /// Where the first value begins
    start: usize,
    columns: usize,
}

/// A row before its change.
#[derive(Clone, Copy, Debug)]
pub enum OldTuple<'a> {
    /// The columns of the identity; the others are null, whatever they were
    Key(Tuple<'a>),
    /// The whole row
    Full(Tuple<'a>),
}

/// A value as the log holds it (I8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// Null
    Null,
    /// Stored apart and not changed, so not in the log
    Unchanged,
    /// The type's text, within the payload
    Text(BufferSlice<'a>),
    /// The type's binary form, within the payload
    Binary(BufferSlice<'a>),
}

impl<'a> Tuple<'a> {
    /// Walks over a tuple.
    pub(super) fn read(payload: &'a Bytes, octets: &mut Octets<'a>) -> Result<Self, Fault> {
        let count = octets.i16()?;
        let columns = usize::try_from(count).map_err(|_| Fault::NegativeCount(count.into()))?;
        let start = octets.position();
        for _ in 0..columns {
            match octets.u8()? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    let length = octets.i32()?;
                    octets.take(usize::try_from(length).map_err(|_| Fault::NegativeCount(length.into()))?)?;
                }
                tag => return Err(Fault::UnknownValueTag(tag)),
            }
        }
        Ok(Self { payload, start, columns })
    }

    /// Number of columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns
    }

    /// Whether the table has no columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The values, in the order of the columns.
    #[must_use]
    pub fn values(&self) -> TupleValues<'a> {
        TupleValues { payload: self.payload, at: self.start, left: self.columns }
    }
}

/// Iterator over the values of a tuple.
#[derive(Clone, Debug)]
pub struct TupleValues<'a> {
    payload: &'a Bytes,
    at: usize,
    left: usize,
}

impl<'a> TupleValues<'a> {
    fn octets(&mut self) -> BufferSlice<'a> {
        // `read` walked over this value: four octets of a length that is not negative, then as many.
        let length = self.payload[self.at..].first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
        let start = self.at + 4;
        self.at = start + length;
        BufferSlice::new(self.payload, start..self.at)
    }
}

impl<'a> Iterator for TupleValues<'a> {
    type Item = TupleValue<'a>;

    fn next(&mut self) -> Option<TupleValue<'a>> {
        self.left = self.left.checked_sub(1)?;
        let tag = self.payload[self.at];
        self.at += 1;
        Some(match tag {
            b'n' => TupleValue::Null,
            b'u' => TupleValue::Unchanged,
            b't' => TupleValue::Text(self.octets()),
            b'b' => TupleValue::Binary(self.octets()),
            _ => unreachable!("a tuple with another tag is refused when it is read"),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for TupleValues<'_> {}
