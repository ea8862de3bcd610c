//! Reading a journal in the order in which its records became visible.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use tailwater_api::sink::SinkRecord;
use tailwater_api::{Error, Result};

use super::group::{Head, PublishedGroup, read_records};
use super::journal::{Journal, Partition};
use super::segment::{FoundGroup, SegmentError, SegmentReader};
use super::writer::read_error;

/// The next offsets of the partitions that are read.
pub(super) type Wanted = BTreeMap<Partition, u64>;

/// A place in a journal.
#[derive(Default)]
pub(super) struct JournalReader {
    segment: Option<(u64, SegmentReader)>,
    /// Where pending records were read last
    pending: Option<(u64, SegmentReader)>,
    /// Published groups that are still to be read before `rest`
    published: VecDeque<PublishedGroup>,
    /// The group that published them
    rest: Option<FoundGroup>,
}

impl JournalReader {
    /// Reads about `bytes` of records of `wanted`, whose offsets it moves. Empty if there are none.
    pub(super) fn read(&mut self, journal: &Journal, wanted: &mut Wanted, bytes: usize) -> Result<Vec<SinkRecord>> {
        let mut records = Vec::new();
        let mut octets = 0;
        while octets < bytes {
            match self.step(journal, wanted, &mut records) {
                Ok(Some(read)) => octets += read,
                Ok(None) => break,
                // A segment went while it was looked for: the caller finds its position before the first offset.
                Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    *self = Self::default();
                    break;
                }
                Err(error) => return Err(read_error(journal, error)),
            }
        }
        Ok(records)
    }

    /// One group. `None` at the end.
    fn step(&mut self, journal: &Journal, wanted: &mut Wanted, records: &mut Vec<SinkRecord>) -> Result<Option<usize>, SegmentError> {
        if let Some(group) = self.published.pop_front() {
            return self.read_published(journal, &group, wanted, records).map(Some);
        }
        if let Some(group) = self.rest.take() {
            let Some((_, reader)) = &mut self.segment else { return Ok(Some(0)) };
            return take(reader, &group, None, wanted, records).map(Some);
        }
        let Some((segment, reader)) = &mut self.segment else {
            return Ok(self.begin(journal, wanted)?.then_some(0));
        };
        let (end, next) = {
            let durable = journal.lock();
            let Some(facts) = durable.segments.get(segment) else {
                return Err(SegmentError::Io(io::ErrorKind::NotFound.into()));
            };
            (facts.length, durable.segments.range(*segment + 1..).next().map(|(next, _)| *next))
        };
        match reader.next_head(end)? {
            Some(group) => {
                if group.head.pending.is_none() {
                    self.published.extend(group.head.published.iter().cloned());
                    self.rest = Some(group);
                }
                Ok(Some(0))
            }
            None => match next {
                Some(next) => {
                    self.segment = Some((next, SegmentReader::open(&journal.folder, next)?));
                    Ok(Some(0))
                }
                None => Ok(None),
            },
        }
    }

    /// Finds the oldest segment that shows something wanted; `false` if there is none yet.
    fn begin(&mut self, journal: &Journal, wanted: &Wanted) -> Result<bool, SegmentError> {
        let found = {
            let durable = journal.lock();
            durable.segments.iter().find_map(|(first, facts)| {
                let shows = |(partition, offset): (&Partition, &u64)| facts.visible.get(partition).is_some_and(|range| range.next > *offset);
                wanted.iter().any(shows).then_some(*first)
            })
        };
        let Some(first) = found else { return Ok(false) };
        self.segment = Some((first, SegmentReader::open(&journal.folder, first)?));
        Ok(true)
    }

    fn read_published(
        &mut self,
        journal: &Journal,
        group: &PublishedGroup,
        wanted: &mut Wanted,
        records: &mut Vec<SinkRecord>,
    ) -> Result<usize, SegmentError> {
        let is_wanted = |(topic, partition, base, count): &(Arc<str>, u32, u64, u64)| {
            wanted.get(&(Arc::clone(topic), *partition)).is_some_and(|offset| base + count > *offset)
        };
        if !group.runs.iter().any(is_wanted) {
            return Ok(0);
        }
        // Pending groups are published in the order in which they were written, so one reader mostly goes forward.
        let usable = self.pending.as_ref().is_some_and(|(segment, reader)| *segment == group.segment && reader.place <= group.place);
        if !usable {
            self.pending = Some((group.segment, SegmentReader::open(&journal.folder, group.segment)?));
        }
        let Some((_, reader)) = &mut self.pending else { return Ok(0) };
        let end = journal.lock().segments.get(&group.segment).map(|facts| facts.length);
        let end = end.ok_or_else(|| SegmentError::Io(io::ErrorKind::NotFound.into()))?;
        while let Some(found) = reader.next_head(end)? {
            if found.place == group.place {
                let bases: Vec<u64> = group.runs.iter().map(|(_, _, base, _)| *base).collect();
                return take(reader, &found, Some(&bases), wanted, records);
            }
        }
        Err(reader.damaged(group.place, super::wire::Malformed("the pending group is not there")))
    }
}

/// Adds the wanted records of a group. `bases` are the first offsets of its runs where the group was pending.
fn take(
    reader: &mut SegmentReader,
    group: &FoundGroup,
    bases: Option<&[u64]>,
    wanted: &mut Wanted,
    records: &mut Vec<SinkRecord>,
) -> Result<usize, SegmentError> {
    let head: &Head = &group.head;
    let mut places = Vec::with_capacity(head.runs.len());
    let mut any = false;
    for (index, run) in head.runs.iter().enumerate() {
        let topic = reader.dictionary.topic(run.topic).map_err(|why| reader.damaged(group.place, why))?;
        let partition = (Arc::clone(topic), run.partition);
        let base = match bases {
            Some(bases) => *bases.get(index).ok_or_else(|| reader.damaged(group.place, super::wire::Malformed("a run has no offset")))?,
            None => run.base,
        };
        let from = wanted.get(&partition).copied();
        any |= from.is_some_and(|from| base + run.count > from);
        places.push((partition, base, from));
    }
    if !any {
        return Ok(0);
    }
    let octets = reader.records(group)?;
    let read = read_records(head, &reader.dictionary, &octets).map_err(|why| reader.damaged(group.place, why))?;
    for read in read {
        let (_, offset, from) = &mut places[read.run];
        let here = *offset;
        *offset += 1;
        if from.is_some_and(|from| here >= from) {
            records.push(SinkRecord { partition: read.record.partition.unwrap_or(0), offset: here, record: read.record });
        }
    }
    for (partition, end, from) in places {
        if let Some(place) = wanted.get_mut(&partition).filter(|_| from.is_some_and(|from| end > from)) {
            *place = end;
        }
    }
    Ok(octets.len().max(1))
}

/// The error for a position that this journal cannot continue.
pub(super) fn history_gone(journal: &Journal, partition: &Partition, why: String) -> Error {
    Error::new(tailwater_api::ErrorKind::HistoryGone, format!("go on reading {}-{} of {}", partition.0, partition.1, journal.name))
        .because(why)
        .mend("take a new snapshot into a new or emptied target; if data.dir was restored from an older copy, restore the target of the same time")
}
