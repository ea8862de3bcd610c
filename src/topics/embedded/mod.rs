//! The embedded engine: one journal of segment files per source connector, and one for records that no source sent.
//!
//! - [`wire`], [`value`], [`dictionary`], [`group`]: the format
//! - [`segment`], [`storage`]: files of groups, recovery, all access of the writer to the disk
//! - [`journal`], [`writer`]: what is durable, and the one writer
//! - [`reader`], [`subscription`]: reading for one topic and for a sink
//! - [`retention`]: what is kept
//!
//! ```text
//! data.dir/lock                      held by the one worker
//! data.dir/state.redb                connectors, positions of sinks
//! data.dir/journals/NAME/id          the log's identity
//! data.dir/journals/NAME/*.segment   named by the sequence of the first group
//! ```

mod dictionary;
mod group;
mod journal;
mod reader;
mod retention;
mod segment;
mod storage;
mod subscription;
#[cfg(test)]
mod tests;
mod value;
mod wire;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tailwater_api::record::Record;
use tailwater_api::sink::LogPosition;
use tailwater_api::source::SourceBatch;
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::watch;

pub use retention::{EmbeddedOptions, FullPolicy};

use self::journal::{Journal, io_error};
use self::reader::{JournalReader, Wanted};
use self::retention::Retention;
use self::storage::{Disk, Storage};
use self::subscription::SinkReader;
use self::writer::JournalWriter;
use crate::state::redb::RedbStore;
use crate::topics::{LogReader, LogWriter, StoredRecord, Subscription, TopicInfo, TopicLog};

/// Name of the journal for records that no source sent. No connector can have it: it is empty.
const OWN: &str = "";
/// How often old segments are looked for.
const EXPIRY: Duration = Duration::from_secs(10);

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
    segment_bytes: u64,
    journals: Mutex<BTreeMap<Arc<str>, Arc<Journal>>>,
    own: tokio::sync::Mutex<Option<OwnWriter>>,
    changed: watch::Sender<u64>,
    /// Held while the log is open for writing
    lock: Option<File>,
}

struct OwnWriter {
    writer: JournalWriter,
    number: u64,
}

impl EmbeddedLog {
    /// Opens the log in `data_dir`, made if it is not there, for the only worker that may write it.
    ///
    /// # Errors
    /// `conflict` if another worker has it open; `unreadable` if a journal is damaged; errors of the file system.
    pub fn open(data_dir: &Path, options: EmbeddedOptions, store: RedbStore) -> Result<Self> {
        let lock = lock(data_dir)?;
        let shared = Shared::open(data_dir, options, Arc::new(Disk), Some(store), Some(lock))?;
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EXPIRY).await;
                let Some(shared) = weak.upgrade() else { return };
                let expired = tokio::task::spawn_blocking(move || shared.retention.expire()).await;
                if let Ok(Err(error)) = expired {
                    tracing::error!(error.kind = error.kind().code(), "{error}");
                }
            }
        });
        Ok(Self { shared })
    }

    /// Opens the log in `data_dir` to look at it, also while a worker writes it. Nothing is changed; what a worker that is
    /// down left as a torn tail is not shown.
    ///
    /// # Errors
    /// `missing` if there is no log; `unreadable` if a journal is damaged.
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
        let segment_bytes = options.segment_bytes;
        let log = Self {
            storage,
            retention: Arc::new(Retention::new(options, positions)),
            store,
            segment_bytes,
            journals: Mutex::default(),
            own: tokio::sync::Mutex::new(None),
            changed: watch::Sender::new(0),
            lock,
            folder: folder.clone(),
        };
        for entry in std::fs::read_dir(&folder).map_err(|error| io_error(doing(), error))? {
            let entry = entry.map_err(|error| io_error(doing(), error))?;
            // A folder without an identity was being made when the power went.
            if entry.path().join("id").exists()
                && let Some(name) = entry.file_name().to_str().and_then(name_of_folder)
            {
                log.open_journal(&name)?;
            }
        }
        Ok(Arc::new(log))
    }

    fn journals(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Journal>>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_journal(&self, name: &str) -> Result<Arc<Journal>> {
        let mut journals = self.journals();
        if let Some(journal) = journals.get(name) {
            return Ok(Arc::clone(journal));
        }
        let folder = self.folder.join(folder_of_name(name));
        let read_only = self.lock.is_none();
        let journal = Arc::new(Journal::open(name, &folder, Arc::clone(&self.storage), self.changed.clone(), read_only)?);
        self.retention.watch(Arc::clone(&journal));
        journals.insert(Arc::from(name), Arc::clone(&journal));
        Ok(journal)
    }

    fn all(&self) -> Vec<Arc<Journal>> {
        self.journals().values().cloned().collect()
    }

    /// The journal that holds `topic`.
    fn journal_of(&self, topic: &str) -> Option<Arc<Journal>> {
        self.all().into_iter().find(|journal| journal.lock().partitions.keys().any(|(name, _)| **name == *topic))
    }

    async fn append_own(&self, records: Vec<Record>) -> Result<()> {
        let mut own = self.own.lock().await;
        let mut opened = match own.take() {
            Some(opened) => opened,
            None => {
                let journal = self.open_journal(OWN)?;
                OwnWriter { writer: JournalWriter::open(journal, Arc::clone(&self.retention), self.segment_bytes)?, number: 0 }
            }
        };
        opened.number += 1;
        let number = opened.number;
        opened.writer.append(number, SourceBatch { records, ..SourceBatch::default() }).await?;
        let mut durable = opened.writer.durable();
        let ended = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number)).await;
        match ended {
            Ok(now) if now.is_ok() => {}
            Ok(_) | Err(_) => {
                return Err(Error::new(ErrorKind::Unreachable, "keep records of the worker").because("the journal's writer has ended"));
            }
        }
        // A writer that failed is not put back; the next call recovers.
        *own = Some(opened);
        Ok(())
    }
}

fn lock(data_dir: &Path) -> Result<File> {
    let doing = || format!("lock the data directory {}", data_dir.display());
    std::fs::create_dir_all(data_dir).map_err(|error| io_error(doing(), error))?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join("lock"));
    let file = file.map_err(|error| io_error(doing(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Conflict, doing())
            .because("another worker has it open")
            .mend("stop the other worker, or give this one a data.dir of its own")),
        Err(TryLockError::Error(error)) => Err(io_error(doing(), error)),
    }
}

/// Letters, digits, `-`, `_` and inner dots stand for themselves, every other octet is `%XX`.
fn folder_of_name(name: &str) -> String {
    if name == OWN {
        return "%worker".to_owned();
    }
    let mut folder = String::new();
    for (index, octet) in name.bytes().enumerate() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => folder.push(char::from(octet)),
            b'.' if index > 0 => folder.push('.'),
            _ => folder.push_str(&format!("%{octet:02X}")),
        }
    }
    folder
}

fn name_of_folder(folder: &str) -> Option<String> {
    if folder == "%worker" {
        return Some(OWN.to_owned());
    }
    let mut octets = Vec::new();
    let mut rest = folder.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let digits = [rest.next()?, rest.next()?];
            octets.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            octets.push(octet);
        }
    }
    String::from_utf8(octets).ok()
}

/// Runs file access off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Bug, "read the topic log").because(error)),
    }
}

impl TopicLog for EmbeddedLog {
    fn writer(&self, connector: &str) -> BoxFuture<'_, Result<Box<dyn LogWriter>>> {
        let connector = connector.to_owned();
        let log = Arc::clone(&self.shared);
        Box::pin(async move {
            let journal = log.open_journal(&connector)?;
            // The thread of an earlier run may still have to write what was queued.
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            while journal.has_writer.load(std::sync::atomic::Ordering::Acquire) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let (retention, segment_bytes) = (Arc::clone(&log.retention), log.segment_bytes);
            blocking(move || Ok(Box::new(JournalWriter::open(journal, retention, segment_bytes)?) as Box<dyn LogWriter>)).await
        })
    }

    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.shared.append_own(records))
    }

    fn reader(&self, group: &str, subscription: Subscription) -> BoxFuture<'_, Result<Box<dyn LogReader>>> {
        let reader = SinkReader::new(Arc::clone(&self.shared), group, subscription);
        Box::pin(async move { Ok(Box::new(reader) as Box<dyn LogReader>) })
    }

    fn retain_for(&self, groups: Vec<(String, Subscription)>) {
        self.shared.retention.set_sinks(groups);
    }

    fn source_state(&self, connector: &str) -> BoxFuture<'_, Result<SourceState>> {
        let state = self.shared.journals().get(connector).map(|journal| journal.lock().state.clone()).unwrap_or_default();
        Box::pin(async move { Ok(state) })
    }

    fn committed(&self, group: &str) -> BoxFuture<'_, Result<Vec<LogPosition>>> {
        let committed = self.shared.retention.committed(group);
        Box::pin(async move { Ok(committed) })
    }

    fn topics(&self) -> Vec<TopicInfo> {
        let mut topics: BTreeMap<Arc<str>, TopicInfo> = BTreeMap::new();
        for journal in self.shared.all() {
            let durable = journal.lock();
            for ((name, _), range) in &durable.partitions {
                let writer = (*journal.name != *OWN).then(|| Arc::clone(&journal.name));
                let topic = topics.entry(Arc::clone(name)).or_insert_with(|| TopicInfo {
                    name: Arc::clone(name),
                    log: Arc::clone(&journal.id),
                    writer,
                    partitions: Vec::new(),
                });
                topic.partitions.push((range.first, range.next));
            }
        }
        topics.into_values().collect()
    }

    fn read(&self, topic: &str, partition: u32, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>> {
        let topic: Arc<str> = Arc::from(topic);
        Box::pin(async move {
            let unknown = || Error::new(ErrorKind::Missing, format!("read {topic}-{partition}")).because("there is no such topic or partition");
            let journal = self.shared.journal_of(&topic).ok_or_else(unknown)?;
            let wanted = (Arc::clone(&topic), partition);
            let first = journal.lock().partitions.get(&wanted).ok_or_else(unknown)?.first;
            blocking(move || {
                let mut reader = JournalReader::default();
                let mut places = Wanted::from([(wanted, offset.max(first))]);
                let mut found = Vec::new();
                while found.len() < limit {
                    let records = reader.read(&journal, &mut places, 64 * 1024)?;
                    if records.is_empty() {
                        break;
                    }
                    let records = records.into_iter().map(|read| StoredRecord { partition: read.partition, offset: read.offset, record: read.record });
                    found.extend(records.take(limit - found.len()));
                }
                Ok(found)
            })
            .await
        })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.shared.own.lock().await.take() {
                Some(own) => Box::new(own.writer).close().await,
                None => Ok(()),
            }
        })
    }
}
