//! The embedded engine: one journal of segment files per source connector, and one for records that no source sent.
//!
//! - `wire`, `value`, `dictionary`, `group`: the format
//! - `segment`, `index`, `recovery`: files of groups, and what of them is durable
//! - `storage`, `folder`: all access of the writer to the disk, the data directory
//! - `journal`, `writer`, `writer_thread`: what is durable, and the one writer
//! - `reader`, `subscription`: reading for one topic and for a sink
//! - `retention`, `owners`: what is kept, and which journal a topic belongs to
//!
//! ```text
//! data.dir/lock                      held by the one worker
//! data.dir/state.redb                connectors, positions of sinks
//! data.dir/journals/NAME/id          the log's identity
//! data.dir/journals/NAME/*.segment   named by the sequence of the first group
//! data.dir/journals/NAME/*.index     facts of a segment that is complete; made anew where missing
//! ```

mod dictionary;
#[cfg(test)]
mod faulty_disk;
mod folder;
mod group;
mod index;
mod journal;
mod owners;
mod reader;
mod recovery;
mod retention;
mod segment;
mod storage;
mod subscription;
#[cfg(test)]
mod tests;
mod value;
mod wire;
mod writer;
mod writer_thread;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tailwater_api::record::{Record, TopicPartition};
use tailwater_api::sink::LogPosition;
use tailwater_api::source::SourceBatch;
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::watch;

pub use retention::{EmbeddedOptions, FullPolicy};

use self::folder::OWN;
use self::group::Room;
use self::journal::{Journal, Partition, io_error};
use self::owners::Owners;
use self::reader::{JournalReader, Wanted};
use self::retention::Retention;
use self::storage::{Disk, Storage};
use self::subscription::SinkReader;
use self::writer::JournalWriter;
use crate::state::redb::RedbStore;
use crate::topics::{LogReader, LogUser, LogWriter, PartitionReader, StoredRecord, Subscription, TopicInfo, TopicLog};

/// How often old segments are looked for.
const EXPIRY: Duration = Duration::from_secs(10);
/// How long a new writer waits for the one before it to end.
const HANDOVER: Duration = Duration::from_secs(10);
/// Bytes of records that are read at once for [`TopicLog::read`].
const PAGE: usize = 1024 * 1024;
/// Places kept for the next call of [`TopicLog::read`].
const BOOKMARKS: usize = 8;

/// The embedded topic log of one data directory. Cloning shares it.
#[derive(Clone)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    storage: Arc<dyn Storage>,
    store: Option<RedbStore>,
    retention: Arc<Retention>,
    owners: Arc<Owners>,
    journals: Mutex<BTreeMap<Arc<str>, Arc<Journal>>>,
    /// Journals that could not be opened
    broken: Mutex<Broken>,
    own: tokio::sync::Mutex<Option<OwnWriter>>,
    changed: watch::Sender<u64>,
    bookmarks: Mutex<VecDeque<Bookmark>>,
    is_closed: AtomicBool,
    /// Held while the log is open for writing, and on by the journals, whose threads may still write when the log is gone
    lock: Option<Arc<File>>,
}

/// By name: the error, and the identity where it could be read.
type Broken = BTreeMap<String, (Arc<Error>, Option<String>)>;

struct OwnWriter {
    writer: JournalWriter,
    number: u64,
}

/// Where reading a partition ended. Whoever reads it page by page goes on there, without looking for the place.
struct Bookmark {
    partition: Partition,
    offset: u64,
    reader: JournalReader,
}

impl EmbeddedLog {
    /// Opens the log in `data_dir`, made if it is not there, for the only worker that may write it.
    ///
    /// # Errors
    /// `conflict` if another worker has it open; errors of the file system. A damaged journal is an error of its connector alone
    /// (I10).
    pub fn open(data_dir: &Path, options: EmbeddedOptions, store: RedbStore) -> Result<Self> {
        let lock = folder::lock(data_dir)?;
        let shared = Shared::open(data_dir, options, Arc::new(Disk), Some(store), Some(lock))?;
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EXPIRY).await;
                let Some(shared) = weak.upgrade() else { return };
                let expired = tokio::task::spawn_blocking(move || shared.expire()).await;
                if let Ok(Err(error)) = expired {
                    tracing::error!(error.kind = error.kind().code(), "{error}");
                }
            }
        });
        Ok(Self { shared })
    }

    /// Opens the log in `data_dir` to look at it, also while a worker writes it. It shows what stood there when it was opened, and
    /// changes nothing. Of a worker that is down it shows every group that is whole, as the next start would; of one that
    /// runs it may show a group that is about to be fsynced.
    ///
    /// # Errors
    /// `missing` if there is no log.
    pub fn open_read_only(data_dir: &Path) -> Result<Self> {
        let shared = Shared::open(data_dir, EmbeddedOptions::default(), Arc::new(Disk), None, None)?;
        Ok(Self { shared })
    }
}

impl Shared {
    fn open(
        data_dir: &Path,
        options: EmbeddedOptions,
        storage: Arc<dyn Storage>,
        store: Option<RedbStore>,
        lock: Option<File>,
    ) -> Result<Arc<Self>> {
        let folder = data_dir.join("journals");
        let doing = || format!("open the topic log in {}", data_dir.display());
        if lock.is_some() {
            std::fs::create_dir_all(&folder).map_err(|error| io_error(doing(), error))?;
        }
        let positions = store.as_ref().map(RedbStore::positions).transpose()?.unwrap_or_default();
        let log = Self {
            storage,
            retention: Arc::new(Retention::new(options, positions)),
            owners: Arc::default(),
            store,
            journals: Mutex::default(),
            broken: Mutex::default(),
            own: tokio::sync::Mutex::new(None),
            changed: watch::Sender::new(0),
            bookmarks: Mutex::default(),
            is_closed: AtomicBool::new(false),
            lock: lock.map(Arc::new),
            folder: folder.clone(),
        };
        for entry in std::fs::read_dir(&folder).map_err(|error| io_error(doing(), error))? {
            let entry = entry.map_err(|error| io_error(doing(), error))?;
            // A folder without an identity was being made when the power went.
            if entry.path().join("id").exists()
                && let Some(name) = entry.file_name().to_str().and_then(folder::to_name)
                && let Err(error) = log.open_journal(&name)
            {
                tracing::error!(connector = name, error.kind = error.kind().code(), error.mend = error.remedy(), "{error}");
            }
        }
        Ok(Arc::new(log))
    }

    fn journals(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Journal>>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, Broken> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_journal(&self, name: &str) -> Result<Arc<Journal>> {
        let mut journals = self.journals();
        if let Some(journal) = journals.get(name) {
            return Ok(Arc::clone(journal));
        }
        let folder = self.folder.join(folder::of_name(name)?);
        let opened = Journal::open(name, &folder, Arc::clone(&self.storage), self.changed.clone(), self.lock.clone()).and_then(|journal| {
            let journal = Arc::new(journal);
            let topics: Vec<Arc<str>> = journal.lock().partitions.keys().map(|(topic, _)| Arc::clone(topic)).collect();
            topics.iter().try_for_each(|topic| self.owners.claim(topic, &journal.name))?;
            Ok(journal)
        });
        match opened {
            Ok(journal) => {
                self.broken().remove(name);
                self.retention.watch(Arc::clone(&journal));
                journals.insert(Arc::from(name), Arc::clone(&journal));
                Ok(journal)
            }
            Err(error) => {
                let identity = journal::read_identity(&folder).ok();
                self.broken().insert(name.to_owned(), (Arc::new(error.again()), identity));
                Err(error)
            }
        }
    }

    fn all(&self) -> Vec<Arc<Journal>> {
        self.journals().values().cloned().collect()
    }

    /// The journal that holds `topic`.
    fn journal_of(&self, topic: &str) -> Option<Arc<Journal>> {
        self.owners.of(topic).and_then(|name| self.journals().get(&name).cloned())
    }

    /// The error of a journal in which a sink has a position and which could not be opened: leaving it out would be a skip (I11).
    fn broken_under(&self, positions: &[LogPosition]) -> Option<Error> {
        let broken = self.broken();
        let is_under = |identity: &Option<String>| {
            identity.as_ref().is_some_and(|identity| positions.iter().any(|position| position.log.starts_with(identity.as_str())))
        };
        broken.values().find(|(_, identity)| is_under(identity)).map(|(error, _)| error.again())
    }

    /// The writer of the journal `name`, once its earlier writer has written what was queued.
    async fn open_writer(self: &Arc<Self>, name: &str) -> Result<JournalWriter> {
        let (log, name) = (Arc::clone(self), name.to_owned());
        let journal = blocking({
            let log = Arc::clone(&log);
            move || log.open_journal(&name)
        })
        .await?;
        let deadline = tokio::time::Instant::now() + HANDOVER;
        while journal.has_writer.load(Ordering::Acquire) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if log.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Restarting, format!("open the journal of {} for writing", journal.name))
                .because("the topic log is closed"));
        }
        blocking(move || JournalWriter::open(journal, Arc::clone(&log.retention), Arc::clone(&log.owners))).await
    }

    async fn append_own(self: &Arc<Self>, records: Vec<Record>) -> Result<()> {
        let (mut durable, number) = {
            let mut own = self.own.lock().await;
            // A call that is dropped half way, and a writer that failed, are not put back: the next call opens a new one.
            let mut opened = match own.take() {
                Some(opened) if opened.writer.durable().borrow().is_ok() => opened,
                Some(_) | None => OwnWriter { writer: self.open_writer(OWN).await?, number: 0 },
            };
            opened.number += 1;
            let number = opened.number;
            opened.writer.append(number, SourceBatch { records, ..SourceBatch::default() }).await?;
            let durable = opened.writer.durable();
            *own = Some(opened);
            (durable, number)
        };
        // Others append while this waits, and share the fsync.
        let ended = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number)).await;
        match ended.as_deref() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.again()),
            Err(_) => Err(Error::new(ErrorKind::Restarting, "keep records of the worker").because("the topic log was closed")),
        }
    }

    /// All topics, by name.
    fn topics(&self) -> Vec<TopicInfo> {
        let mut topics: BTreeMap<Arc<str>, TopicInfo> = BTreeMap::new();
        for journal in self.all() {
            let durable = journal.lock();
            for ((name, partition), facts) in &durable.partitions {
                let writer = (*journal.name != *OWN).then(|| Arc::clone(&journal.name));
                let topic = topics.entry(Arc::clone(name)).or_insert_with(|| TopicInfo {
                    name: Arc::clone(name),
                    log: Arc::clone(&durable.log),
                    writer,
                    partitions: Vec::new(),
                });
                // Partitions that nothing was written to are empty.
                topic.partitions.resize(topic.partitions.len().max(*partition as usize), (0, 0));
                topic.partitions.push((facts.first, facts.offsets.next));
            }
        }
        topics.into_values().collect()
    }

    /// Removes what has outlived its retention, and positions that nobody can go on from. Blocks on the disk.
    fn expire(&self) -> Result<()> {
        self.retention.expire()?;
        let Some(store) = &self.store else { return Ok(()) };
        for (group, forgotten) in self.retention.abandoned() {
            store.put_positions(&group, &[], &forgotten)?;
            self.retention.moved(&group, &[], &forgotten);
        }
        Ok(())
    }

    /// The position of an offset that stands in the log now, or of its end.
    fn position(&self, place: TopicPartition, offset: u64) -> Result<LogPosition> {
        let doing = || format!("go to offset {offset} of {}-{}", place.topic, place.partition);
        let missing = || Error::new(ErrorKind::Missing, doing()).because("there is no such topic or partition");
        let journal = self.journal_of(&place.topic).ok_or_else(missing)?;
        let durable = journal.lock();
        let facts = durable.partitions.get(&(Arc::clone(&place.topic), place.partition)).ok_or_else(missing)?;
        if !(facts.first..=facts.offsets.next).contains(&offset) {
            let why = format!("it has the offsets {} to {}", facts.first, facts.offsets.next);
            return Err(Error::new(ErrorKind::Misconfigured, doing()).because(why));
        }
        Ok(LogPosition { log: Arc::clone(&durable.log), topic_partition: place, offset })
    }

    /// Reads one partition, from a bookmark if there is one.
    fn read(&self, journal: &Journal, partition: Partition, offset: u64, limit: usize) -> Result<Vec<StoredRecord>> {
        let bookmarks = || self.bookmarks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = {
            let mut bookmarks = bookmarks();
            let place = bookmarks.iter().position(|mark| mark.offset == offset && mark.partition == partition);
            place.and_then(|place| bookmarks.remove(place)).map(|mark| mark.reader).unwrap_or_default()
        };
        let mut wanted = Wanted::from([(partition.clone(), offset)]);
        let mut found = Vec::new();
        while found.len() < limit {
            let mut room = Room { bytes: PAGE, records: limit - found.len() };
            let records = reader.read(journal, &mut wanted, &mut room)?;
            if records.is_empty() {
                break;
            }
            found.extend(records.into_iter().map(|read| StoredRecord {
                partition: read.partition,
                offset: read.offset,
                record: read.record,
            }));
        }
        // One who found nothing asks again from here.
        let offset = found.last().map_or(offset, |last| last.offset + 1);
        let mut bookmarks = bookmarks();
        bookmarks.truncate(BOOKMARKS - 1);
        bookmarks.push_front(Bookmark { partition, offset, reader });
        Ok(found)
    }
}

/// Runs file access off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Bug, "read the topic log").because(error)),
    }
}

impl TopicLog for EmbeddedLog {
    fn writer(&self, user: &LogUser) -> BoxFuture<'_, Result<Box<dyn LogWriter>>> {
        let connector = Arc::clone(&user.connector);
        Box::pin(async move { Ok(Box::new(self.shared.open_writer(&connector).await?) as Box<dyn LogWriter>) })
    }

    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.shared.append_own(records))
    }

    fn reader(&self, user: &LogUser, subscription: Subscription) -> BoxFuture<'_, Result<Box<dyn LogReader>>> {
        let broken = self.shared.broken_under(&self.shared.retention.committed(&user.connector));
        let reader = SinkReader::new(Arc::clone(&self.shared), &user.connector, subscription);
        Box::pin(async move { broken.map_or_else(|| Ok(Box::new(reader) as Box<dyn LogReader>), Err) })
    }

    fn retain_for(&self, groups: Vec<(String, Subscription)>) {
        self.shared.retention.set_sinks(groups);
    }

    fn source_state(&self, user: &LogUser) -> BoxFuture<'_, Result<SourceState>> {
        let connector = &*user.connector;
        let broken = self.shared.broken().get(connector).map(|(error, _)| error.again());
        let state = self.shared.journals().get(connector).map(|journal| journal.lock().state.clone()).unwrap_or_default();
        Box::pin(async move { broken.map_or(Ok(state), Err) })
    }

    fn committed(&self, user: &LogUser) -> BoxFuture<'_, Result<Vec<LogPosition>>> {
        let committed = self.shared.retention.committed(&user.connector);
        Box::pin(async move { Ok(committed) })
    }

    fn move_positions(&self, user: &LogUser, moves: Vec<(TopicPartition, Option<u64>)>) -> BoxFuture<'_, Result<()>> {
        let group = Arc::clone(&user.connector);
        let shared = Arc::clone(&self.shared);
        Box::pin(blocking(move || {
            let Some(store) = &shared.store else {
                return Err(Error::new(ErrorKind::Bug, "move positions").because("the log is open for reading only"));
            };
            let (mut positions, mut forgotten) = (Vec::new(), Vec::new());
            for (place, offset) in moves {
                match offset {
                    Some(offset) => positions.push(shared.position(place, offset)?),
                    None => forgotten.push(place),
                }
            }
            store.put_positions(&group, &positions, &forgotten)?;
            shared.retention.moved(&group, &positions, &forgotten);
            Ok(())
        }))
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        let topics = self.shared.topics();
        Box::pin(async move { Ok(topics) })
    }

    fn used_by(&self, connector: &str, subscription: Option<&Subscription>) -> Vec<(Arc<str>, u64)> {
        let is_used = |topic: &TopicInfo| match subscription {
            Some(subscription) => subscription.covers(&topic.name).unwrap_or(false),
            None => topic.writer.as_deref() == Some(connector),
        };
        let uses = |topic: TopicInfo| (topic.name, topic.partitions.iter().map(|(_, next)| next).sum());
        self.shared.topics().into_iter().filter(is_used).map(uses).collect()
    }

    fn partition_reader(&self, topic: &str, partition: u32) -> Box<dyn PartitionReader> {
        Box::new(EmbeddedPartitionReader { shared: Arc::clone(&self.shared), partition: (Arc::from(topic), partition) })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.shared.is_closed.store(true, Ordering::Release);
            for journal in self.shared.all() {
                journal.is_closed.store(true, Ordering::Release);
            }
            if let Some(own) = self.shared.own.lock().await.take() {
                own.writer.finish().await?;
            }
            // Writers that their sources still hold: what they accepted becomes durable, or they fail.
            for journal in self.shared.all() {
                let is_settled =
                    || journal.is_torn.load(Ordering::Acquire) || journal.lock().sequence >= journal.accepted.load(Ordering::Acquire);
                while journal.has_writer.load(Ordering::Acquire) && !is_settled() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Ok(())
        })
    }
}

/// See [`PartitionReader`]. It holds no place in the log.
struct EmbeddedPartitionReader {
    shared: Arc<Shared>,
    partition: (Arc<str>, u32),
}

impl PartitionReader for EmbeddedPartitionReader {
    fn read(&mut self, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>> {
        Box::pin(async move {
            let unknown = || {
                let (topic, number) = &self.partition;
                Error::new(ErrorKind::Missing, format!("read {topic}-{number}")).because("there is no such topic or partition")
            };
            let journal = self.shared.journal_of(&self.partition.0).ok_or_else(unknown)?;
            let first = journal.lock().partitions.get(&self.partition).ok_or_else(unknown)?.first;
            let (shared, wanted) = (Arc::clone(&self.shared), self.partition.clone());
            blocking(move || shared.read(&journal, wanted, offset.max(first), limit)).await
        })
    }
}
