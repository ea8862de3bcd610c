//! The one writer of a journal: encodes groups and queues them for a thread that makes them durable
//! (see [`super::writer_thread`]).
//!
//! Offsets, places and sequences are given here, ahead of the disk: nobody else gives any, and a writer that fails takes
//! everything with it that is not durable. Names of topics and schemas begin anew with each writer and each segment, in a
//! group that has an [`Opening`](super::group::Opening).
//!
//! # Pending records
//!
//! Groups of pending records stand in the journal like others, but without offsets: their runs count within the id. The group
//! that publishes the id says where the first and the last of them stand and which offsets they begin at; it need not
//! name each, so there may be millions. An id is only known to the writer that was sent it: what a writer leaves unpublished
//! is gone, whatever a later one publishes under the same name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tailwater_api::record::Record;
use tailwater_api::source::{BatchNumber, PendingId, SourceBatch};
use tailwater_api::state::{SourceState, StateChange};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::dictionary::WriterDictionary;
use super::group::{self, FRAME, Head, Place, Publication, Run};
use super::journal::{Incarnations, Journal, Offsets, Partition, now};
use super::owners::Owners;
use super::retention::{DiskRoom, Retention};
use super::writer_thread::{Command, DurableNumber, QueuedGroup, WriterThread};
use crate::topics::LogWriter;

/// Encoded octets that may wait for the disk (I6).
const QUEUE: usize = 4 * 1024 * 1024;
/// Groups that may wait for the disk.
const GROUPS: usize = 1024;
/// A partition's number is smaller than this.
const PARTITIONS: u32 = 1000;
/// Buffers kept for the next groups, and their length.
const SPARE: usize = 4;
const SPARE_LENGTH: usize = 2 * 1024 * 1024;

/// Buffers that were written and can be used again.
#[derive(Clone, Default)]
pub(super) struct SpareBuffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl SpareBuffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE && buffer.capacity() <= SPARE_LENGTH {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// See [`LogWriter`].
pub(super) struct JournalWriter {
    journal: Arc<Journal>,
    retention: Arc<Retention>,
    owners: Arc<Owners>,
    /// Topics that are this journal's
    claimed: HashSet<Arc<str>>,
    /// As of the start
    state: SourceState,
    dictionary: WriterDictionary,
    /// Everything accepted, durable or not yet
    accepted: Accepted,
    commands: mpsc::Sender<Command>,
    /// A group that has its place and is not handed over yet
    unsent: Option<QueuedGroup>,
    room: Arc<Semaphore>,
    spare: SpareBuffers,
    durable: watch::Receiver<DurableNumber>,
    segment_bytes: u64,
    /// The journal is as long as it may be, and the user knows
    is_held: bool,
}

struct Accepted {
    partitions: BTreeMap<Partition, Offsets>,
    pending: HashMap<PendingId, PendingRecords>,
    state: SourceState,
    incarnations: Incarnations,
    sequence: u64,
    /// The segment that is written and its length; none before the first group of a new journal
    segment: Option<(u64, u64)>,
    /// This writer's names are in the segment
    is_open: bool,
}

/// What is pending under an id.
struct PendingRecords {
    first: Place,
    last: Place,
    counts: BTreeMap<Partition, u64>,
}

impl JournalWriter {
    /// Takes the journal over. What is not durable is cut off first, and pending records of earlier writers are gone.
    pub(super) fn open(journal: Arc<Journal>, retention: Arc<Retention>, owners: Arc<Owners>) -> Result<Self> {
        let Some(lease) = WriterLease::take(&journal) else {
            return Err(Error::new(ErrorKind::Conflict, format!("open the journal of {} for writing", journal.name))
                .because("its earlier writer has not ended yet"));
        };
        journal.reset()?;
        let (accepted, state) = {
            let durable = journal.lock();
            let offsets = durable.partitions.iter().map(|(partition, facts)| (partition.clone(), facts.offsets.clone()));
            let accepted = Accepted {
                partitions: offsets.collect(),
                pending: HashMap::new(),
                state: durable.state.clone(),
                incarnations: durable.incarnations.clone(),
                sequence: durable.sequence,
                segment: durable.segments.last_key_value().map(|(first, facts)| (*first, facts.length)),
                is_open: false,
            };
            (accepted, durable.state.clone())
        };
        let (commands, queue) = mpsc::channel(GROUPS);
        let spare = SpareBuffers::default();
        let durable = WriterThread::start(lease, queue, spare.clone())?;
        Ok(Self {
            segment_bytes: retention.segment_bytes(),
            journal,
            retention,
            owners,
            claimed: HashSet::new(),
            state,
            dictionary: WriterDictionary::default(),
            accepted,
            commands,
            unsent: None,
            room: Arc::new(Semaphore::new(QUEUE)),
            spare,
            durable,
            is_held: false,
        })
    }

    /// Encodes a group. Nothing has changed if it fails.
    fn encode(&mut self, number: Option<BatchNumber>, batch: SourceBatch) -> Result<QueuedGroup> {
        let SourceBatch { records, pending, publish, forget_pending, state } = batch;
        let sequence = self.accepted.sequence;
        let going_on = self.accepted.segment.filter(|(_, length)| *length < self.segment_bytes && !self.dictionary.is_full());
        let (segment, octet) = going_on.unwrap_or((sequence, 0));
        let place = Place { segment, octet };
        let mut head = Head { appended: now(), pending, state, ..Head::default() };
        if !self.accepted.is_open || octet == 0 {
            self.dictionary = WriterDictionary::new(Arc::clone(&self.journal.pool));
            self.accepted.is_open = false;
            self.accepted.incarnations.begin(self.journal.token);
            head.opening = Some(self.accepted.incarnations.opening(self.accepted.partitions.iter()));
            let whole = self
                .accepted
                .state
                .iter()
                .map(|(partition, offset)| StateChange { partition: partition.clone(), offset: Some(offset.clone()) });
            head.state = whole.chain(std::mem::take(&mut head.state)).collect();
        }
        let refused = |why: String| Error::new(ErrorKind::Unsupported, "append a batch to the journal").because(why);
        let mut octets = self.spare.take();
        head.runs = group::write_records(&mut self.dictionary, &records, &mut octets).map_err(|error| refused(error.to_string()))?;
        let too_long = |_| refused("it is longer than 4 GiB".to_owned());
        let records_length = u32::try_from(octets.len()).map_err(too_long)?;

        // From here on nothing fails.
        let incarnation = self.accepted.incarnations.current();
        for id in publish {
            if let Some(pending) = self.accepted.pending.remove(&id) {
                let runs = pending.counts.into_iter().map(|((topic, partition), count)| {
                    let offsets = self.accepted.partitions.entry((Arc::clone(&topic), partition)).or_default();
                    Run { base: offsets.give(count, incarnation), topic, partition, count }
                });
                head.publications.push(Publication { id, first: pending.first, last: pending.last, runs: runs.collect() });
            }
        }
        if forget_pending {
            self.accepted.pending.clear();
        }
        match &head.pending {
            Some(id) => {
                let pending = self.accepted.pending.entry(Arc::clone(id));
                let pending = pending.or_insert_with(|| PendingRecords { first: place, last: place, counts: BTreeMap::new() });
                pending.last = place;
                for run in &mut head.runs {
                    let count = pending.counts.entry((Arc::clone(&run.topic), run.partition)).or_default();
                    run.base = *count;
                    *count += run.count;
                }
            }
            None => {
                for run in &mut head.runs {
                    let offsets = self.accepted.partitions.entry((Arc::clone(&run.topic), run.partition)).or_default();
                    run.base = offsets.give(run.count, incarnation);
                }
            }
        }
        for change in &head.state {
            self.accepted.state.apply(change);
        }
        let mut front = Vec::new();
        head.write(&mut self.dictionary, &mut front);
        let end = octet + front.len() as u64 + u64::from(records_length);
        self.accepted.is_open = true;
        self.accepted.segment = Some((segment, end));
        self.accepted.sequence += 1;
        self.journal.accepted.store(self.accepted.sequence, Ordering::Release);
        Ok(QueuedGroup { number, place, end, sequence, head, forgets_pending: forget_pending, front, records: octets, room: None })
    }

    fn failure(&self) -> Option<Error> {
        match &*self.durable.borrow() {
            Ok(_) => None,
            Err(error) => Some(error.again()),
        }
    }

    async fn accept(&mut self, number: Option<BatchNumber>, batch: SourceBatch) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if self.journal.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Restarting, "append to the journal").because("the topic log is closed"));
        }
        // Of an append that was dropped while it waited.
        self.send().await?;
        self.claim(&batch.records)?;
        self.wait_for_disk(&batch).await?;
        self.unsent = Some(self.encode(number, batch)?);
        self.send().await
    }

    /// Hands the encoded group over. It waits here, not in a future that may be dropped: it has its place in the segment.
    async fn send(&mut self) -> Result<()> {
        let Some(group) = &self.unsent else { return Ok(()) };
        let closed = || Error::new(ErrorKind::Restarting, "append to the journal").because("its thread has ended");
        let permits = u32::try_from(group.records.len().saturating_add(FRAME).min(QUEUE)).expect("the queue is shorter than 4 GiB");
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(|_| closed())?;
        let Ok(permit) = self.commands.reserve().await else { return Err(self.failure().unwrap_or_else(closed)) };
        if let Some(group) = self.unsent.take() {
            permit.send(Command::Write(Box::new(QueuedGroup { room: Some(room), ..group })));
        }
        Ok(())
    }

    /// Makes sure that the topics are this journal's and the partitions in reason.
    fn claim(&mut self, records: &[Record]) -> Result<()> {
        let mut last: Option<&Record> = None;
        for record in records {
            let is_known = |last: &Record| Arc::ptr_eq(&last.topic, &record.topic) && last.partition == record.partition;
            if !last.is_some_and(is_known) {
                if record.partition.is_some_and(|partition| partition >= PARTITIONS) {
                    return Err(Error::new(ErrorKind::Unsupported, format!("append to the topic {}", record.topic))
                        .because(format!("a record demands a partition that is not below {PARTITIONS}")));
                }
                if !self.claimed.contains(&record.topic) {
                    self.owners.claim(&record.topic, &self.journal.name)?;
                    self.claimed.insert(Arc::clone(&record.topic));
                }
            }
            last = Some(record);
        }
        Ok(())
    }

    /// `hold`: waits while the journal is full (I6).
    async fn wait_for_disk(&mut self, batch: &SourceBatch) -> Result<()> {
        while self.retention.is_full(&self.journal) {
            let (journal, retention) = (Arc::clone(&self.journal), Arc::clone(&self.retention));
            match super::blocking(move || retention.make_room(&journal)).await? {
                DiskRoom::Made => break,
                DiskRoom::HeldBySinks => {}
                // Only this writer can publish them: waiting would be without end.
                DiskRoom::HeldByPending if batch.records.is_empty() || !batch.publish.is_empty() || batch.forget_pending => break,
                DiskRoom::HeldByPending => {
                    return Err(Error::new(ErrorKind::Misconfigured, "keep the rows of a snapshot until it is complete")
                        .because("they do not fit into topics.embedded.max.bytes")
                        .mend("raise topics.embedded.max.bytes above what the snapshot takes"));
                }
            }
            if !self.is_held {
                self.is_held = true;
                tracing::error!(
                    connector = &*self.journal.name,
                    "the journal has reached topics.embedded.max.bytes and a sink has not read its oldest records: the source is held until it has"
                );
            }
            // A sink that moves on tells; the time limit is for what comes in between.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.journal.room.notified()).await;
            if let Some(error) = self.failure() {
                return Err(error);
            }
        }
        if self.is_held {
            self.is_held = false;
            tracing::info!(connector = &*self.journal.name, "the journal has room again");
        }
        Ok(())
    }

    /// Returns when everything accepted is durable, or the writer has failed.
    async fn settle(&self) {
        let (settled, wait) = oneshot::channel();
        if self.commands.send(Command::Settle(settled)).await.is_ok() {
            // An answer that does not come means that the thread has ended with an error.
            let _ = wait.await;
        }
    }

    /// Ends well: an empty last group vouches for all before it. See [`super::recovery`].
    pub(super) async fn finish(mut self) -> Result<()> {
        if self.failure().is_none() {
            self.send().await?;
        }
        self.settle().await;
        let goes_on = self.accepted.segment.is_some_and(|(_, length)| length < self.segment_bytes);
        if self.failure().is_none() && self.accepted.is_open && goes_on {
            let group = self.encode(None, SourceBatch::default())?;
            if self.commands.send(Command::Write(Box::new(group))).await.is_ok() {
                self.settle().await;
            }
        }
        self.failure().map_or(Ok(()), Err)
    }
}

impl LogWriter for JournalWriter {
    fn state(&self) -> &SourceState {
        &self.state
    }

    fn append(&mut self, number: BatchNumber, batch: SourceBatch) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.accept(Some(number), batch))
    }

    fn durable(&self) -> watch::Receiver<DurableNumber> {
        self.durable.clone()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin((*self).finish())
    }
}

/// The right to write a journal; given back when dropped.
pub(super) struct WriterLease(pub(super) Arc<Journal>);

impl WriterLease {
    fn take(journal: &Arc<Journal>) -> Option<Self> {
        let is_free = !journal.has_writer.swap(true, Ordering::AcqRel);
        is_free.then(|| Self(Arc::clone(journal)))
    }
}

impl Drop for WriterLease {
    fn drop(&mut self) {
        self.0.has_writer.store(false, Ordering::Release);
    }
}
