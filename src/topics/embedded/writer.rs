//! The one writer of a journal: encodes groups, queues them, and a thread makes them durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tailwater_api::record::Record;
use tailwater_api::source::{BatchNumber, PendingId, SourceBatch};
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::dictionary::WriterDictionary;
use super::group::{self, Head, PublishedGroup, RecordWriter, Run};
use super::journal::{Effect, Journal, Partition, PendingGroup, QueuedGroup, damaged, io_error, now};
use super::retention::Retention;
use super::segment::{self, SegmentError};
use super::storage::SegmentFile;
use crate::runtime::crash_point::crash_point;
use crate::topics::LogWriter;

/// Encoded octets that may wait for the disk (I6).
const QUEUE: usize = 4 * 1024 * 1024;
/// Groups that may wait for the disk.
const GROUPS: usize = 256;
/// Octets that are written before an fsync, unless a group is longer.
const PER_SYNC: usize = 2 * 1024 * 1024;

/// What is durable, or the error that ended the writer.
type DurableNumber = Result<BatchNumber, Arc<Error>>;

enum Command {
    Write(QueuedGroup),
    /// Answered when everything before is durable
    Settle(oneshot::Sender<()>),
}

/// See [`LogWriter`].
pub(super) struct JournalWriter {
    journal: Arc<Journal>,
    retention: Arc<Retention>,
    /// As of the start
    state: SourceState,
    dictionary: WriterDictionary,
    /// Everything accepted, durable or not yet
    accepted: Accepted,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    durable: watch::Receiver<DurableNumber>,
    thread: Option<JoinHandle<()>>,
    segment_bytes: u64,
}

struct Accepted {
    next: BTreeMap<Partition, u64>,
    pending: HashMap<PendingId, Vec<PendingGroup>>,
    state: SourceState,
    sequence: u64,
    /// The segment that is written and its length; none before the first group
    segment: Option<(u64, u64)>,
    discard_pending: bool,
}

impl JournalWriter {
    /// Takes the journal over. What is not durable is cut off first, and pending records of earlier runs are discarded
    /// with the first group.
    pub(super) fn open(journal: Arc<Journal>, retention: Arc<Retention>, segment_bytes: u64) -> Result<Self> {
        if journal.has_writer.swap(true, Ordering::AcqRel) {
            return Err(Error::new(ErrorKind::Conflict, format!("open the journal of {} for writing", journal.name))
                .because("its earlier writer has not ended yet"));
        }
        let opened = Self::recover_and_start(Arc::clone(&journal), retention, segment_bytes);
        if opened.is_err() {
            journal.has_writer.store(false, Ordering::Release);
        }
        opened
    }

    fn recover_and_start(journal: Arc<Journal>, retention: Arc<Retention>, segment_bytes: u64) -> Result<Self> {
        journal.recover(true)?;
        let (accepted, state) = {
            let durable = journal.lock();
            let accepted = Accepted {
                next: durable.partitions.iter().map(|(partition, range)| (partition.clone(), range.next)).collect(),
                pending: HashMap::new(),
                state: durable.state.clone(),
                sequence: durable.sequence.map_or(0, |sequence| sequence + 1),
                segment: None,
                discard_pending: !durable.pending.is_empty(),
            };
            (accepted, durable.state.clone())
        };
        // A new segment for each writer: names of topics and schemas start anew, and nothing is ever written behind octets
        // that another writer left. An empty last segment would have the same name and is taken over.
        let empty = journal.lock().segments.last_key_value().filter(|(_, facts)| facts.length == 0).map(|(first, _)| *first);
        if let Some(first) = empty {
            journal.remove_segment(first)?;
        }
        let (commands, queue) = mpsc::channel(GROUPS);
        let (report, durable) = watch::channel(Ok(0));
        let thread = std::thread::Builder::new()
            .name(format!("journal {}", journal.name))
            .spawn({
                let journal = Arc::clone(&journal);
                move || WriterThread { journal, file: None, durable_length: 0, segment: 0, report }.run(queue)
            })
            .map_err(|error| Error::new(ErrorKind::Bug, "start the journal's thread").because(error))?;
        Ok(Self {
            journal,
            retention,
            state,
            dictionary: WriterDictionary::default(),
            accepted,
            commands,
            room: Arc::new(Semaphore::new(QUEUE)),
            durable,
            thread: Some(thread),
            segment_bytes,
        })
    }

    /// Encodes a group of `records`, without offsets where they are pending.
    fn encode(&mut self, number: Option<BatchNumber>, records: &[Record], mut head: Head) -> Result<QueuedGroup> {
        let sequence = self.accepted.sequence;
        let begins_segment = match self.accepted.segment {
            Some((_, length)) => length >= self.segment_bytes,
            None => true,
        };
        if begins_segment {
            // So that the segment can be read without those before it.
            self.dictionary = WriterDictionary::default();
            self.accepted.segment = Some((sequence, 0));
            let changes = std::mem::take(&mut head.state);
            let all = self.accepted.state.iter().map(|(partition, offset)| tailwater_api::state::StateChange {
                partition: partition.clone(),
                offset: Some(offset.clone()),
            });
            head.state = all.chain(changes).collect();
            head.next = self.accepted.next.iter().map(|((topic, partition), next)| (Arc::clone(topic), *partition, *next)).collect();
        }
        head.appended = now();
        head.discard_pending = std::mem::take(&mut self.accepted.discard_pending);
        let mut encoded = Vec::new();
        let mut names: Vec<Arc<str>> = Vec::new();
        {
            let mut writer = RecordWriter::new(&mut self.dictionary, &mut encoded);
            for record in records {
                writer.write(record);
                // The name of each run, in the order in which runs appear.
                if writer.runs.len() > names.len() {
                    names.push(Arc::clone(&record.topic));
                }
            }
            head.runs = writer.runs;
        }
        head.published = self.published(&head.publishes);
        for group in &head.published {
            for (topic, partition, base, count) in &group.runs {
                self.accepted.next.insert((Arc::clone(topic), *partition), base + count);
            }
        }
        if head.pending.is_none() {
            for (run, name) in head.runs.iter_mut().zip(&names) {
                let next = self.accepted.next.entry((Arc::clone(name), run.partition)).or_insert(0);
                run.base = *next;
                *next += run.count;
            }
        }
        for change in &head.state {
            self.accepted.state.apply(change);
        }
        let mut head_bytes = Vec::new();
        head.write(&mut self.dictionary, &mut head_bytes);
        let durable = self.journal.durable_next.load(Ordering::Acquire).saturating_sub(1);
        let mut bytes = Vec::with_capacity(group::FRAME + head_bytes.len() + encoded.len());
        group::write_frame(&mut bytes, sequence, durable, &head_bytes, &encoded)
            .map_err(|why| Error::new(ErrorKind::Rejected, "append a batch").because(why))?;
        let (segment, place) = self.accepted.segment.expect("a segment was begun above if there was none");
        let end = place + bytes.len() as u64;
        self.accepted.segment = Some((segment, end));
        self.accepted.sequence += 1;
        let partitions = |runs: &[Run]| -> Vec<(Partition, u64, u64)> {
            runs.iter().zip(&names).map(|(run, name)| ((Arc::clone(name), run.partition), run.base, run.count)).collect()
        };
        let runs = partitions(&head.runs);
        if let Some(id) = &head.pending {
            let counts = runs.iter().map(|(partition, _, count)| (partition.clone(), *count)).collect();
            self.accepted.pending.entry(Arc::clone(id)).or_default().push(PendingGroup { segment, place, counts });
        }
        let effect = Effect {
            segment,
            place,
            end,
            sequence,
            appended: head.appended,
            pending: head.pending,
            discard_pending: head.discard_pending,
            publishes: head.publishes,
            published: head.published,
            state: head.state,
            next: head.next,
            runs,
        };
        Ok(QueuedGroup { number, bytes, effect, begins_segment, _room: None })
    }

    /// Gives offsets to the pending records of `ids`, in the order in which they were sent.
    fn published(&mut self, ids: &[PendingId]) -> Vec<PublishedGroup> {
        if ids.is_empty() {
            return Vec::new();
        }
        let mut next = self.accepted.next.clone();
        let groups = ids.iter().filter_map(|id| self.accepted.pending.remove(id)).flatten();
        groups
            .map(|group| {
                let runs = group.counts.into_iter().map(|((topic, partition), count)| {
                    let place = next.entry((Arc::clone(&topic), partition)).or_insert(0);
                    let base = *place;
                    *place += count;
                    (topic, partition, base, count)
                });
                PublishedGroup { segment: group.segment, place: group.place, runs: runs.collect() }
            })
            .collect()
    }

    fn failure(&self) -> Option<Error> {
        match &*self.durable.borrow() {
            Ok(_) => None,
            Err(error) => Some(again(error)),
        }
    }

    async fn accept(&mut self, number: BatchNumber, batch: SourceBatch) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        self.wait_for_disk().await?;
        let head = Head { pending: batch.pending, publishes: batch.publish, state: batch.state, ..Head::default() };
        let mut group = self.encode(Some(number), &batch.records, head)?;
        let permits = u32::try_from(group.bytes.len().min(QUEUE)).expect("the queue is shorter than 4 GiB");
        let closed = || Error::new(ErrorKind::Restarting, "append to the journal").because("its thread has ended");
        group._room = Some(Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(|_| closed())?);
        self.commands.send(Command::Write(group)).await.map_err(|_| self.failure().unwrap_or_else(closed))
    }

    /// `hold`: waits while the log is full (I6).
    async fn wait_for_disk(&self) -> Result<()> {
        let mut told = false;
        while self.retention.is_full(&self.journal) {
            let journal = Arc::clone(&self.journal);
            let retention = Arc::clone(&self.retention);
            let freed = tokio::task::spawn_blocking(move || retention.make_room(&journal)).await;
            freed.map_err(|error| Error::new(ErrorKind::Bug, "remove old segments").because(error))??;
            if !self.retention.is_full(&self.journal) {
                break;
            }
            if !told {
                told = true;
                tracing::error!(
                    connector = &*self.journal.name,
                    "the journal has reached topics.embedded.max.bytes and a sink has not read its oldest records: the source is held until it has"
                );
            }
            // Sinks move on without telling; a second is soon enough.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.journal.room.notified()).await;
            if let Some(error) = self.failure() {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The same error once more, for an error that several have to be told of.
fn again(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.doing());
    if let Some(cause) = std::error::Error::source(error) {
        copy = copy.because(cause.to_string());
    }
    match error.remedy() {
        Some(mend) => copy.mend(mend),
        None => copy,
    }
}

impl LogWriter for JournalWriter {
    fn state(&self) -> &SourceState {
        &self.state
    }

    fn append(&mut self, number: BatchNumber, batch: SourceBatch) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.accept(number, batch))
    }

    fn durable(&self) -> watch::Receiver<DurableNumber> {
        self.durable.clone()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let (settled, wait) = oneshot::channel();
            if self.commands.send(Command::Settle(settled)).await.is_ok() {
                // An answer that does not come means that the thread has ended with an error.
                let _ = wait.await;
            }
            self.failure().map_or(Ok(()), Err)
        })
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        // Closing the channel ends the thread when it has written what is queued.
        let (closed, _) = mpsc::channel(1);
        self.commands = closed;
        let journal = Arc::clone(&self.journal);
        match self.thread.take() {
            Some(thread) if !thread.is_finished() => {
                // The next writer may only come when this one has written its last octet.
                std::thread::spawn(move || {
                    let _ = thread.join();
                    journal.has_writer.store(false, Ordering::Release);
                });
            }
            Some(_) | None => journal.has_writer.store(false, Ordering::Release),
        }
    }
}

struct WriterThread {
    journal: Arc<Journal>,
    file: Option<Box<dyn SegmentFile>>,
    segment: u64,
    /// Durable octets of the segment
    durable_length: u64,
    report: watch::Sender<DurableNumber>,
}

impl WriterThread {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.blocking_recv() {
            let mut groups = VecDeque::new();
            let mut settled = Vec::new();
            let mut octets = 0;
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    Command::Write(group) => {
                        octets += group.bytes.len();
                        groups.push_back(group);
                    }
                    Command::Settle(answer) => settled.push(answer),
                }
                if octets < PER_SYNC {
                    next = queue.try_recv().ok();
                }
            }
            if let Err(error) = self.write(groups) {
                tracing::debug!(connector = &*self.journal.name, "the journal's writer ends");
                let _ = self.report.send_replace(Err(Arc::new(error)));
                return;
            }
            for answer in settled {
                let _ = answer.send(());
            }
        }
    }

    /// Writes groups and makes them durable, then visible, then says so: in this order (I1).
    fn write(&mut self, groups: VecDeque<QueuedGroup>) -> Result<()> {
        let mut done: Vec<QueuedGroup> = Vec::with_capacity(groups.len());
        let mut run: Vec<u8> = Vec::new();
        for mut group in groups {
            if group.begins_segment {
                self.append(&run)?;
                run.clear();
                self.sync(&mut done)?;
                self.begin_segment(group.effect.segment)?;
            }
            let bytes = std::mem::take(&mut group.bytes);
            if run.is_empty() {
                run = bytes;
            } else {
                run.extend_from_slice(&bytes);
            }
            done.push(group);
        }
        self.append(&run)?;
        self.sync(&mut done)
    }

    fn begin_segment(&mut self, segment: u64) -> Result<()> {
        crash_point("segment-roll");
        let path = segment::path(&self.journal.folder, segment);
        let file = self.journal.storage.create(&path).map_err(|error| io_error(format!("make the segment {}", path.display()), error))?;
        self.file = Some(file);
        self.segment = segment;
        self.durable_length = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        crash_point("journal-before-write");
        let written = file.append(bytes);
        crash_point("journal-after-write");
        written.map_err(|error| {
            // A part may have been written; without it a full disk has room again for the next try.
            let _ = file.cut(self.durable_length);
            io_error(format!("append to the journal in {}", self.journal.folder.display()), error)
        })
    }

    fn sync(&mut self, done: &mut Vec<QueuedGroup>) -> Result<()> {
        let (Some(file), Some(last)) = (self.file.as_mut(), done.last()) else { return Ok(()) };
        let (end, published) = (last.effect.end, done.iter().any(|group| !group.effect.published.is_empty()));
        file.sync().map_err(|error| {
            let _ = file.cut(self.durable_length);
            io_error(format!("make the journal in {} durable", self.journal.folder.display()), error)
        })?;
        self.durable_length = end;
        crash_point("journal-after-fsync");
        let number = done.iter().filter_map(|group| group.number).next_back();
        self.journal.publish(done.drain(..).map(|group| group.effect));
        if published {
            crash_point("journal-published");
        }
        if let Some(number) = number {
            let _ = self.report.send_replace(Ok(number));
        }
        Ok(())
    }
}

/// An error of reading the journal.
pub(super) fn read_error(journal: &Journal, error: SegmentError) -> Error {
    damaged(format!("read the journal of {} in {}", journal.name, journal.folder.display()), error)
}
