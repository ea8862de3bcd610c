//! The thread that makes a journal's groups durable.
//!
//! It appends what is queued, fsyncs once for all of it, and only then makes it visible and says that it is durable, in this
//! order (I1). While it fsyncs the next groups are queued, so the slower the disk, the more of them share an fsync. Pending
//! records, which nobody sees before they are published, wait a moment for more of their kind.
//!
//! A refused write or fsync ends it. What is not durable is cut off as far as that is possible, so that a full disk has room
//! for the next try; the next writer cuts off the rest before it writes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tailwater_api::source::BatchNumber;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::crash_point::crash_point;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::group::{FRAME, Frame, Head, Place};
use super::journal::{Journal, io_error};
use super::recovery;
use super::segment;
use super::storage::SegmentFile;
use super::writer::{SpareBuffers, WriterLease};

/// Octets that are written before an fsync, unless a group is longer.
const PER_SYNC: usize = 2 * 1024 * 1024;
/// How long pending records wait for others to share their fsync.
const COMPANY: Duration = Duration::from_millis(5);

/// What is durable, or the error that ended the writer.
pub(super) type DurableNumber = Result<BatchNumber, Arc<Error>>;

pub(super) enum Command {
    Write(Box<QueuedGroup>),
    /// Answered when everything before is durable
    Settle(oneshot::Sender<()>),
}

/// An encoded group. Its frame is completed when it is written.
pub(super) struct QueuedGroup {
    /// The batch that it is
    pub(super) number: Option<BatchNumber>,
    pub(super) place: Place,
    /// Octet of the segment behind the group
    pub(super) end: u64,
    pub(super) sequence: u64,
    pub(super) head: Head,
    /// What is pending before it is never published. Not written: after a crash nothing is pending.
    pub(super) forgets_pending: bool,
    /// Frame and head
    pub(super) front: Vec<u8>,
    pub(super) records: Vec<u8>,
    /// Room in the queue, given back when the group is written
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl QueuedGroup {
    /// Nobody sees it, and nothing is stored with it.
    fn may_wait(&self) -> bool {
        self.head.pending.is_some() && self.head.publications.is_empty() && self.head.state.is_empty()
    }
}

pub(super) struct WriterThread {
    lease: WriterLease,
    file: Option<OpenSegment>,
    report: watch::Sender<DurableNumber>,
    spare: SpareBuffers,
}

struct OpenSegment {
    first: u64,
    file: Box<dyn SegmentFile>,
    /// Durable octets
    durable: u64,
}

impl WriterThread {
    /// Starts the thread. It ends when `queue` is closed and empty, or with the first error.
    pub(super) fn start(lease: WriterLease, queue: mpsc::Receiver<Command>, spare: SpareBuffers) -> Result<watch::Receiver<DurableNumber>> {
        let (report, durable) = watch::channel(Ok(0));
        let name = format!("journal {}", lease.0.name);
        let thread = Self { lease, file: None, report, spare };
        std::thread::Builder::new()
            .name(name)
            .spawn(move || thread.run(queue))
            .map_err(|error| Error::new(ErrorKind::Throttled, "start the journal's thread").because(error))?;
        Ok(durable)
    }

    fn journal(&self) -> &Journal {
        &self.lease.0
    }

    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.blocking_recv() {
            let mut groups = VecDeque::new();
            let mut settled = Vec::new();
            let mut octets = 0;
            let mut has_waited = false;
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    Command::Write(group) => {
                        octets += group.front.len() + group.records.len();
                        groups.push_back(*group);
                    }
                    Command::Settle(answer) => settled.push(answer),
                }
                if octets < PER_SYNC {
                    next = queue.try_recv().ok();
                    if next.is_none() && !has_waited && settled.is_empty() && groups.iter().all(QueuedGroup::may_wait) {
                        has_waited = true;
                        std::thread::sleep(COMPANY);
                        next = queue.try_recv().ok();
                    }
                }
            }
            if let Err(error) = self.write_all(groups) {
                // Told before the lease is given back: the next writer cuts off what this one leaves.
                self.journal().is_torn.store(true, Ordering::Release);
                let _ = self.report.send_replace(Err(Arc::new(error)));
                return;
            }
            for answer in settled {
                let _ = answer.send(());
            }
        }
    }

    fn write_all(&mut self, mut groups: VecDeque<QueuedGroup>) -> Result<()> {
        while let Some(first) = groups.front() {
            let segment = first.place.segment;
            self.open(first.place)?;
            let count = groups.iter().take_while(|group| group.place.segment == segment).count();
            let rest = groups.split_off(count);
            self.write(groups.into())?;
            groups = rest;
        }
        Ok(())
    }

    /// Makes sure that the segment of `place` is open.
    fn open(&mut self, place: Place) -> Result<()> {
        if self.file.as_ref().is_some_and(|open| open.first == place.segment) {
            return Ok(());
        }
        let journal = &self.lease.0;
        let path = segment::path(&journal.folder, place.segment);
        if let Some(mut before) = self.file.take() {
            before.file.cut(before.durable).map_err(|error| self.failed(error))?;
        }
        let file = if place.octet == 0 {
            crash_point("segment-roll");
            // The segment before is complete and durable.
            let before = journal.lock().segments.last_key_value().map(|(first, facts)| (*first, facts.clone()));
            if let Some((first, facts)) = before {
                recovery::write_index(&*journal.storage, &journal.folder, first, &facts, place.segment);
            }
            journal.storage.create(&path)
        } else {
            journal.storage.resume(&path, place.octet)
        };
        let file = file.map_err(|error| io_error(format!("open the segment {}", path.display()), error))?;
        self.file = Some(OpenSegment { first: place.segment, file, durable: place.octet });
        Ok(())
    }

    /// Writes groups of the open segment and makes them durable, then visible, then says so (I1).
    fn write(&mut self, mut groups: Vec<QueuedGroup>) -> Result<()> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let journal = &self.lease.0;
        let durable = journal.lock().sequence;
        for group in &mut groups {
            let frame = Frame {
                head: u32::try_from(group.front.len() - FRAME).map_err(|_| too_long())?,
                records: u32::try_from(group.records.len()).map_err(|_| too_long())?,
                records_checksum: crc32c::crc32c(&group.records),
                sequence: group.sequence,
                place: group.place.octet,
                durable,
            };
            frame.put(&mut group.front);
        }
        crash_point("journal-before-write");
        let mut parts: Vec<IoSlice<'_>> =
            groups.iter().flat_map(|group| [IoSlice::new(&group.front), IoSlice::new(&group.records)]).collect();
        let written = open.file.append(&mut parts);
        crash_point("journal-after-write");
        let synced = written.and_then(|()| open.file.sync());
        if let Err(error) = synced {
            let _ = open.file.cut(open.durable);
            return Err(self.failed(error));
        }
        crash_point("journal-after-fsync");
        let number = groups.iter().filter_map(|group| group.number).next_back();
        let mut published = false;
        {
            let mut facts = journal.lock();
            for group in &groups {
                if group.forgets_pending {
                    facts.pending.retain(|id, _| group.head.publications.iter().any(|publication| publication.id == *id));
                }
                facts.apply(group.place, group.end, group.sequence, &group.head);
                published |= !group.head.publications.is_empty();
                open.durable = group.end;
            }
        }
        journal.wake();
        if published {
            crash_point("journal-published");
        }
        if let Some(number) = number {
            let _ = self.report.send_replace(Ok(number));
        }
        for group in groups {
            self.spare.give_back(group.records);
            drop(group.room);
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        io_error(format!("make the journal in {} durable", self.journal().folder.display()), error)
    }
}

fn too_long() -> Error {
    Error::new(ErrorKind::Unsupported, "append a batch to the journal").because("it is longer than 4 GiB")
}
