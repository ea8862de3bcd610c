//! Reading a journal in the order in which its records became visible.
//!
//! That is the order of its groups, except that pending groups are passed over where they stand and read where the group
//! stands that publishes them, before its own records.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use tailwater_api::sink::SinkRecord;
use tailwater_api::{Error, ErrorKind, Result};

use super::group::{Publication, RecordReader, Room};
use super::journal::{Durable, Journal, Partition, segment_error};
use super::segment::{FoundGroup, SegmentError, SegmentReader};
use super::wire::Malformed;

/// The next offsets of the partitions that are read.
pub(super) type Wanted = BTreeMap<Partition, u64>;

/// A segment that is being read.
struct Current {
    first: u64,
    reader: SegmentReader,
    /// Its durable octets when they were last looked at
    end: u64,
}

impl Current {
    fn open(journal: &Journal, first: u64) -> Result<Self, SegmentError> {
        Ok(Self { first, reader: SegmentReader::open(&journal.folder, first, &journal.pool)?, end: 0 })
    }

    fn next_head(&mut self, journal: &Journal) -> Result<Option<FoundGroup>, SegmentError> {
        if self.reader.place >= self.end {
            let durable = journal.lock();
            self.end = durable.segments.get(&self.first).ok_or_else(|| SegmentError::Io(io::ErrorKind::NotFound.into()))?.length;
        }
        self.reader.next_head(self.end)
    }
}

/// Which of the two segments in hand the open group is of.
#[derive(Clone, Copy)]
enum Hand {
    Main,
    Published,
}

/// A place in a journal.
#[derive(Default)]
pub(super) struct JournalReader {
    main: Option<Current>,
    /// Publications of `rest` that are still to be read before it
    publications: VecDeque<Publication>,
    /// Where the records of the first of them are looked for
    published: Option<Current>,
    /// The group of `main` whose own records are next
    rest: Option<FoundGroup>,
    /// Records that are being read
    open: Option<(Hand, u64, RecordReader)>,
}

impl JournalReader {
    /// Reads records of `wanted`, whose offsets it moves, while there is room. None are left if there are none.
    pub(super) fn read(&mut self, journal: &Journal, wanted: &mut Wanted, room: &mut Room) -> Result<Vec<SinkRecord>> {
        let mut records = Vec::new();
        while !room.is_used_up() {
            match self.step(journal, wanted, &mut records, room) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    let segments: Vec<u64> = self.main.iter().chain(&self.published).map(|current| current.first).collect();
                    *self = Self::default();
                    let is_gone = {
                        let durable = journal.lock();
                        segments.iter().any(|first| !durable.segments.contains_key(first)) || segments.is_empty()
                    };
                    return match error {
                        // It went by retention while it was looked for: the caller finds its position before the first offset.
                        SegmentError::Io(error) if error.kind() == io::ErrorKind::NotFound && is_gone => Ok(records),
                        // The offsets are behind what was read; the error comes again when that is handed over.
                        _ if !records.is_empty() => Ok(records),
                        error => Err(read_error(journal, error)),
                    };
                }
            }
        }
        Ok(records)
    }

    /// One step; `false` at the end.
    fn step(
        &mut self,
        journal: &Journal,
        wanted: &mut Wanted,
        records: &mut Vec<SinkRecord>,
        room: &mut Room,
    ) -> Result<bool, SegmentError> {
        if let Some((hand, place, open)) = &mut self.open {
            let current = match hand {
                Hand::Main => &self.main,
                Hand::Published => &self.published,
            };
            let Some(current) = current else { return Err(SegmentError::Io(io::ErrorKind::NotFound.into())) };
            let ended = open.read(&current.reader.dictionary, records, room).map_err(|why| current.reader.damaged(*place, why))?;
            for (partition, next) in open.progress() {
                if let Some(offset) = wanted.get_mut(&partition) {
                    *offset = (*offset).max(next);
                }
            }
            if ended {
                self.open = None;
            }
            return Ok(true);
        }
        if let Some(publication) = self.publications.front() {
            let is_wanted = publication
                .runs
                .iter()
                .any(|run| wanted.get(&(Arc::clone(&run.topic), run.partition)).is_some_and(|offset| run.base + run.count > *offset));
            if !is_wanted || !self.next_published(journal, wanted)? {
                self.publications.pop_front();
                self.published = None;
            }
            return Ok(true);
        }
        let Some(main) = &mut self.main else {
            return self.begin(journal, wanted);
        };
        if let Some(group) = self.rest.take() {
            let bases = group.head.runs.iter().map(|run| run.base).collect();
            self.open = open(main, &group, bases, wanted)?.map(|open| (Hand::Main, group.place, open));
            return Ok(true);
        }
        match main.next_head(journal)? {
            Some(group) => {
                if group.head.pending.is_none() {
                    self.publications.extend(group.head.publications.iter().cloned());
                    self.rest = Some(group);
                }
                Ok(true)
            }
            None => self.next_segment(journal, wanted),
        }
    }

    /// Finds the oldest segment that shows something wanted; `false` if there is none yet.
    fn begin(&mut self, journal: &Journal, wanted: &Wanted) -> Result<bool, SegmentError> {
        let found = {
            let durable = journal.lock();
            if is_behind(&durable, wanted) {
                return Ok(false);
            }
            durable.segments.iter().find_map(|(first, facts)| {
                let shows =
                    |(partition, offset): (&Partition, &u64)| facts.visible.get(partition).is_some_and(|range| range.next > *offset);
                wanted.iter().any(shows).then_some(*first)
            })
        };
        let Some(first) = found else { return Ok(false) };
        self.main = Some(Current::open(journal, first)?);
        Ok(true)
    }

    /// Goes on behind the main segment; `false` at the end of the journal.
    fn next_segment(&mut self, journal: &Journal, wanted: &Wanted) -> Result<bool, SegmentError> {
        let Some(main) = &self.main else { return Ok(false) };
        let next = {
            let durable = journal.lock();
            if is_behind(&durable, wanted) {
                return Ok(false);
            }
            let next = durable.segments.range(main.first + 1..).next().map(|(next, _)| *next);
            let is_at_end = next.is_none() && durable.segments.get(&main.first).is_some_and(|facts| facts.length == main.reader.place);
            let missing = wanted.iter().find(|(partition, offset)| {
                durable.partitions.get(*partition).is_some_and(|facts| (facts.first..facts.offsets.next).contains(offset))
            });
            if is_at_end && missing.is_some() {
                // Otherwise it would be looked for without end.
                return Err(main.reader.damaged(main.reader.place, Malformed("records that the journal counts are not there")));
            }
            next
        };
        let Some(next) = next else { return Ok(false) };
        // What was written behind the place while the next segment was looked for is read first.
        let end = journal.lock().segments.get(&main.first).map(|facts| facts.length);
        if end.is_some_and(|end| end > main.reader.place) {
            return Ok(true);
        }
        self.main = Some(Current::open(journal, next)?);
        Ok(true)
    }

    /// Opens the next group of the first publication; `false` behind its last one.
    fn next_published(&mut self, journal: &Journal, wanted: &Wanted) -> Result<bool, SegmentError> {
        let Some(publication) = self.publications.front() else { return Ok(false) };
        if self.published.is_none() {
            self.published = Some(Current::open(journal, publication.first.segment)?);
        }
        let Some(current) = &mut self.published else { return Ok(false) };
        let Some(group) = current.next_head(journal)? else {
            let next = {
                let durable = journal.lock();
                if is_behind(&durable, wanted) {
                    return Err(SegmentError::Io(io::ErrorKind::NotFound.into()));
                }
                durable.segments.range(current.first + 1..).next().map(|(next, _)| *next)
            };
            return match next.filter(|next| *next <= publication.last.segment) {
                Some(next) => {
                    self.published = Some(Current::open(journal, next)?);
                    Ok(true)
                }
                None => Ok(false),
            };
        };
        let place = (current.first, group.place);
        if place > (publication.last.segment, publication.last.octet) {
            return Ok(false);
        }
        if place < (publication.first.segment, publication.first.octet) || group.head.pending.as_ref() != Some(&publication.id) {
            return Ok(true);
        }
        let mut bases = Vec::with_capacity(group.head.runs.len());
        for run in &group.head.runs {
            let whole = publication.runs.iter().find(|whole| whole.topic == run.topic && whole.partition == run.partition);
            let base = whole.and_then(|whole| whole.base.checked_add(run.base));
            bases.push(base.ok_or_else(|| current.reader.damaged(group.place, Malformed("a pending run has no offset")))?);
        }
        self.open = open(current, &group, bases, wanted)?.map(|open| (Hand::Published, group.place, open));
        Ok(true)
    }
}

/// Opens a group's records, if any are wanted. `bases` are the first offsets of its runs.
fn open(current: &mut Current, group: &FoundGroup, bases: Vec<u64>, wanted: &Wanted) -> Result<Option<RecordReader>, SegmentError> {
    let mut any = false;
    let mut runs = Vec::with_capacity(bases.len());
    for (run, base) in group.head.runs.iter().zip(bases) {
        let offset = wanted.get(&(Arc::clone(&run.topic), run.partition)).copied();
        let from = offset.filter(|offset| base.saturating_add(run.count) > *offset);
        any |= from.is_some();
        runs.push((base, from));
    }
    if !any {
        return Ok(None);
    }
    let octets = current.reader.records(group)?;
    Ok(Some(RecordReader::new(&group.head, octets, runs.into_iter())))
}

/// Whether something wanted went by retention: then the next segment may be one too far, and going on would be a skip. The
/// caller finds its position before the first offset.
fn is_behind(durable: &Durable, wanted: &Wanted) -> bool {
    wanted.iter().any(|(partition, offset)| durable.partitions.get(partition).is_some_and(|facts| facts.first > *offset))
}

fn read_error(journal: &Journal, error: SegmentError) -> Error {
    segment_error(format!("read the journal of {} in {}", journal.name, journal.folder.display()), error)
}

/// The error for a position that this journal cannot continue.
pub(super) fn history_gone(journal: &Journal, partition: &Partition, why: String) -> Error {
    Error::new(ErrorKind::HistoryGone, format!("go on reading {}-{} of {}", partition.0, partition.1, journal.name))
        .because(why)
        .mend("take a new snapshot into a new or emptied target; if data.dir was restored from an older copy, restore the target of the same time")
}
