//! What is durable in a journal's files, found when it is opened.
//!
//! # A torn tail, or damage?
//!
//! Groups are written one after another and fsynced together, so after a power loss any part of what was not yet fsynced
//! may be missing, also an earlier group while a later one is there. What was fsynced must be whole. Every group says below
//! which sequence its writer had fsynced everything before: a broken group that a later intact one calls durable is damage,
//! and so is a broken group in any segment but the last, because a segment is fsynced before the next one is made. Damage
//! is `unreadable`, never skipped. A broken group that no intact group vouches for is a torn tail: it is cut off, with
//! everything behind it. A writer that ends well leaves an empty group that vouches for all before it. Behind it, and behind any
//! last group, may stand zeros, which were room for more.
//!
//! If the very last durable groups are damaged and no later write vouches for them, the journal alone cannot tell them from a
//! torn tail. Then the positions that others hold, of the sinks and of the source's server, lie beyond the end, and they
//! say `history-gone`.
//!
//! # What nobody vouches for
//!
//! Intact groups at the end for which nobody vouches were perhaps never fsynced; a killed process, or an fsync that failed,
//! leaves such. Before anyone may see them they are written once more and fsynced (I1).
//!
//! # An older copy
//!
//! A journal that was restored from an older copy is whole, and after some time it is as long as the lost one was, with other
//! records. So every process that writes begins a new *incarnation* with a random token, which is a part of the log's id in
//! positions: `UUID.TOKEN`. A position whose incarnation the journal does not know, or that lies beyond the end of its
//! incarnation, is of another history: `history-gone`.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::dictionary::SchemaPool;
use super::group::Place;
use super::index;
use super::journal::{Durable, SegmentFacts};
use super::segment::{self, FoundGroup, SegmentError, SegmentReader};
use super::storage::Storage;
use super::wire::Malformed;

/// Reads what is durable in `folder`, of the journal `name` with the identity `uuid`. With a storage it may write there, and a
/// torn tail is cut off; without one it changes nothing.
pub(super) fn recover(
    name: &str,
    uuid: &str,
    folder: &Path,
    pool: &Arc<SchemaPool>,
    storage: Option<&dyn Storage>,
) -> Result<Durable, SegmentError> {
    let mut segments = segment::list(folder)?;
    let mut durable = Durable::new(uuid);
    // A last segment without one intact group was being made when its writer ended.
    if let Some(last) = segments.last().copied()
        && !begins_intact(folder, last, pool)?
    {
        let path = segment::path(folder, last);
        if let Some(storage) = storage {
            warn_torn(name, folder, last, 0)?;
            storage.remove(&path)?;
        }
        segments.pop();
    }
    let Some((last, closed)) = segments.split_last() else { return Ok(durable) };
    for (place, first) in closed.iter().enumerate() {
        let next = segments[place + 1];
        add_closed(&mut durable, folder, *first, next, pool, storage)?;
    }
    add_last(&mut durable, name, folder, *last, pool, storage)?;
    durable.settle();
    Ok(durable)
}

fn warn_torn(name: &str, folder: &Path, segment: u64, end: u64) -> io::Result<()> {
    let torn = segment::octets_behind(folder, segment, end)?;
    if torn > 0 {
        tracing::warn!(
            connector = name,
            "the journal has a torn tail: {torn} octets behind octet {end} of segment {segment} were never durable and are cut off"
        );
    }
    Ok(())
}

/// Whether the first group of a segment is whole.
///
/// # Errors
/// It is not, and a later group says that it was durable.
fn begins_intact(folder: &Path, first: u64, pool: &Arc<SchemaPool>) -> Result<bool, SegmentError> {
    let mut reader = SegmentReader::open(folder, first, pool)?;
    let length = reader.length()?;
    match next_whole(&mut reader, length) {
        Ok(group) => Ok(group.is_some()),
        Err(SegmentError::Damaged { path, place, why }) => {
            if reader.is_vouched_for(place, first)? {
                Err(SegmentError::Damaged { path, place, why })
            } else {
                Ok(false)
            }
        }
        Err(error) => Err(error),
    }
}

fn next_whole(reader: &mut SegmentReader, end: u64) -> Result<Option<FoundGroup>, SegmentError> {
    let Some(group) = reader.next_head(end)? else { return Ok(None) };
    reader.records(&group)?;
    Ok(Some(group))
}

/// Adds a segment behind which there is another one, by its index if that is there.
fn add_closed(
    durable: &mut Durable,
    folder: &Path,
    first: u64,
    next: u64,
    pool: &Arc<SchemaPool>,
    storage: Option<&dyn Storage>,
) -> Result<(), SegmentError> {
    let mut reader = SegmentReader::open(folder, first, pool)?;
    let length = reader.length()?;
    if let Some(facts) = read_index(folder, first, length, next)? {
        durable.add(first, facts);
        return Ok(());
    }
    let mut expected = first;
    while let Some(group) = reader.next_head(length)? {
        apply(durable, &reader, first, expected, &group)?;
        expected += 1;
    }
    if expected != next {
        return Err(reader.damaged(length, Malformed("groups are missing before the next segment")));
    }
    if let (Some(storage), Some(facts)) = (storage, durable.segments.get(&first)) {
        write_index(storage, folder, first, facts, next);
    }
    Ok(())
}

/// Keeps the index of a segment that is complete. Without it the next start takes longer, no more.
pub(super) fn write_index(storage: &dyn Storage, folder: &Path, first: u64, facts: &SegmentFacts, next: u64) {
    if let Err(error) = storage.write_aside(&index::path(folder, first), &index::write(facts, next)) {
        tracing::debug!("the index of segment {first} in {} was not written: {error}", folder.display());
    }
}

fn read_index(folder: &Path, first: u64, length: u64, next: u64) -> io::Result<Option<SegmentFacts>> {
    let octets = match std::fs::read(index::path(folder, first)) {
        Ok(octets) => Bytes::from(octets),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let read = index::read(&octets).ok();
    Ok(read.and_then(|(facts, found)| (facts.length == length && found == next).then_some(facts)))
}

/// Adds the segment that is written, octet by octet.
fn add_last(
    durable: &mut Durable,
    name: &str,
    folder: &Path,
    first: u64,
    pool: &Arc<SchemaPool>,
    storage: Option<&dyn Storage>,
) -> Result<(), SegmentError> {
    let mut reader = SegmentReader::open(folder, first, pool)?;
    let length = reader.length()?;
    let mut expected = first;
    // Groups for which nobody vouches yet: sequence, place, whether they hold anything.
    let mut unsettled: VecDeque<(u64, u64, bool)> = VecDeque::new();
    let end = loop {
        match next_whole(&mut reader, length) {
            Ok(Some(group)) => {
                apply(durable, &reader, first, expected, &group)?;
                expected += 1;
                while unsettled.front().is_some_and(|(sequence, _, _)| *sequence < group.frame.durable) {
                    unsettled.pop_front();
                }
                unsettled.push_back((group.frame.sequence, group.place, !group.head.is_empty()));
            }
            Ok(None) => break length,
            Err(SegmentError::Damaged { path, place, why }) => {
                if reader.is_vouched_for(place, expected)? {
                    return Err(SegmentError::Damaged { path, place, why });
                }
                break place;
            }
            Err(error) => return Err(error),
        }
    };
    if let Some(storage) = storage {
        let written = unsettled.iter().find(|(_, _, holds)| *holds).map(|(_, place, _)| *place);
        if end < length || written.is_some() {
            warn_torn(name, folder, first, end)?;
            storage.settle(&segment::path(folder, first), written.unwrap_or(end), end)?;
        }
    }
    Ok(())
}

fn apply(durable: &mut Durable, reader: &SegmentReader, segment: u64, expected: u64, group: &FoundGroup) -> Result<(), SegmentError> {
    if group.frame.sequence != expected {
        return Err(reader.damaged(group.place, Malformed("its sequence does not follow")));
    }
    if expected == segment && group.head.opening.is_none() {
        return Err(reader.damaged(group.place, Malformed("a segment does not begin with an opening")));
    }
    durable.apply(Place { segment, octet: group.place }, group.end(), expected, &group.head);
    Ok(())
}
