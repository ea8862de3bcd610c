//! The index of a segment that is complete: what a journal has to know of it without reading it.
//!
//! It stands beside the segment, `NNN.index`, so that a journal of any length opens in the time that its last segment takes.
//! It holds nothing that the segment does not: where it is missing, damaged or of another length it is made anew from the
//! heads of the segment's groups. So nobody waits for it to be durable.
//!
//! ```text
//! magic "TWX1" · checksum u32 of what follows · length of the segment · sequence behind it · newest time · visible · publications
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::journal::{Range, SegmentFacts};
use super::segment;
use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned};

const MAGIC: [u8; 4] = *b"TWX1";

/// Path of the index of the segment `sequence`.
pub(super) fn path(folder: &Path, sequence: u64) -> PathBuf {
    segment::path(folder, sequence).with_extension("index")
}

/// Partitions that became visible by records of other segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublishedFrom {
    /// Segments that hold the records, from and to
    pub(super) first: u64,
    pub(super) last: u64,
    /// Offset behind the last record, by partition
    pub(super) ends: Vec<((Arc<str>, u32), u64)>,
}

/// Facts of a segment and the sequence of the group behind it, as octets.
pub(super) fn write(facts: &SegmentFacts, next: u64) -> Vec<u8> {
    let mut out = vec![0; 8];
    put_unsigned(&mut out, facts.length);
    put_unsigned(&mut out, next);
    put_signed(&mut out, facts.newest);
    put_unsigned(&mut out, facts.visible.len() as u64);
    for ((topic, partition), range) in &facts.visible {
        put_bytes(&mut out, topic.as_bytes());
        put_unsigned(&mut out, u64::from(*partition));
        put_unsigned(&mut out, range.first);
        put_unsigned(&mut out, range.next);
    }
    put_unsigned(&mut out, facts.published.len() as u64);
    for published in &facts.published {
        put_unsigned(&mut out, published.first);
        put_unsigned(&mut out, published.last);
        put_unsigned(&mut out, published.ends.len() as u64);
        for ((topic, partition), end) in &published.ends {
            put_bytes(&mut out, topic.as_bytes());
            put_unsigned(&mut out, u64::from(*partition));
            put_unsigned(&mut out, *end);
        }
    }
    let checksum = crc32c::crc32c(&out[8..]);
    out[..4].copy_from_slice(&MAGIC);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// What [`write`] wrote.
pub(super) fn read(octets: &Bytes) -> Result<(SegmentFacts, u64), Malformed> {
    let mut cursor = Cursor::new(octets);
    let (magic, checksum) = (cursor.fixed::<4>()?, u32::from_le_bytes(cursor.fixed()?));
    if magic != MAGIC || crc32c::crc32c(&octets[8..]) != checksum {
        return Err(Malformed("the checksum of the index is wrong"));
    }
    let length = cursor.unsigned()?;
    let next = cursor.unsigned()?;
    let newest = cursor.signed()?;
    let mut visible = BTreeMap::new();
    for _ in 0..cursor.count()? {
        let partition = partition(&mut cursor)?;
        visible.insert(partition, Range { first: cursor.unsigned()?, next: cursor.unsigned()? });
    }
    let mut published = Vec::new();
    for _ in 0..cursor.count()? {
        let (first, last) = (cursor.unsigned()?, cursor.unsigned()?);
        let mut ends = Vec::new();
        for _ in 0..cursor.count()? {
            ends.push((partition(&mut cursor)?, cursor.unsigned()?));
        }
        published.push(PublishedFrom { first, last, ends });
    }
    Ok((SegmentFacts { length, newest, visible, published, held: BTreeMap::new() }, next))
}

fn partition(cursor: &mut Cursor<'_>) -> Result<(Arc<str>, u32), Malformed> {
    let topic = Arc::from(&*cursor.text()?);
    let partition = u32::try_from(cursor.unsigned()?).map_err(|_| Malformed("a partition is out of range"))?;
    Ok((topic, partition))
}
