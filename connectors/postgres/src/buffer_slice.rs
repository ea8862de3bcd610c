//! Octets within a buffer: a value that keeps them becomes an owner of the buffer, one that only reads them does not.

use std::fmt;
use std::ops::{Deref, Range};

use bytes::Bytes;

/// A slice of a buffer.
#[derive(Clone, Copy)]
pub struct BufferSlice<'a> {
    buffer: &'a Bytes,
    /// Within the buffer
    octets: &'a [u8],
}

impl<'a> BufferSlice<'a> {
    pub(crate) fn new(buffer: &'a Bytes, range: Range<usize>) -> Self {
        Self { buffer, octets: &buffer[range] }
    }

    /// The octets.
    #[must_use]
    pub fn octets(self) -> &'a [u8] {
        self.octets
    }

    /// `octets`, which are a part of these.
    pub(crate) fn part(self, octets: &'a [u8]) -> Self {
        Self { octets, ..self }
    }

    /// The octets, sharing the buffer.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        self.buffer.slice_ref(self.octets)
    }
}

impl<'a> From<&'a Bytes> for BufferSlice<'a> {
    fn from(buffer: &'a Bytes) -> Self {
        Self { buffer, octets: buffer }
    }
}

impl Deref for BufferSlice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.octets
    }
}

impl PartialEq for BufferSlice<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.octets == other.octets
    }
}

impl Eq for BufferSlice<'_> {}

impl fmt::Debug for BufferSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.octets.escape_ascii())
    }
}
