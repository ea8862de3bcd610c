//! One journal: its segments, what is durable in them, and its one writer.
//!
//! The writer's half that sources see encodes groups and knows every offset, because nobody else gives offsets away.
//! A thread of its own appends what is queued, fsyncs once for all of it, and only then makes it visible and says that it
//! is durable (I1). A refused write or fsync ends the writer for good: what the kernel did with the pages is not known, so
//! nothing is tried again on the same file handle. The next writer begins with recovery.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tailwater_api::sink::LogId;
use tailwater_api::source::{BatchNumber, PendingId};
use tailwater_api::state::{SourceState, StateChange};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{Notify, watch};

use super::group::{Head, PublishedGroup};
use super::segment::{self, SegmentError, SegmentReader};
use super::storage::Storage;

/// A topic's partition within a journal.
pub(super) type Partition = (Arc<str>, u32);

/// Offsets of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// First offset that is still there
    pub(super) first: u64,
    /// Offset of the next record
    pub(super) next: u64,
}

/// A segment as it is known without reading it.
#[derive(Clone, Debug, Default)]
pub(super) struct SegmentFacts {
    /// Durable octets
    pub(super) length: u64,
    /// Time of the newest group, milliseconds since 1970 UTC
    pub(super) newest: i64,
    /// First offset and end of the records that become visible in this segment
    pub(super) visible: BTreeMap<Partition, Range>,
    /// End of the records that stand here and became visible in another segment
    pub(super) held: BTreeMap<Partition, u64>,
    /// Groups that nobody has published yet
    pub(super) pending: u64,
}

/// Where a group of pending records stands, and what it holds.
#[derive(Clone, Debug)]
pub(super) struct PendingGroup {
    pub(super) segment: u64,
    pub(super) place: u64,
    pub(super) counts: Vec<(Partition, u64)>,
}

/// Everything durable of a journal.
#[derive(Default)]
pub(super) struct Durable {
    pub(super) segments: BTreeMap<u64, SegmentFacts>,
    pub(super) partitions: BTreeMap<Partition, Range>,
    pub(super) state: SourceState,
    pub(super) pending: HashMap<PendingId, Vec<PendingGroup>>,
    /// Sequence of the newest group; none in an empty journal
    pub(super) sequence: Option<u64>,
}

/// What a group changes once it is durable.
pub(super) struct Effect {
    pub(super) segment: u64,
    pub(super) place: u64,
    pub(super) end: u64,
    pub(super) sequence: u64,
    pub(super) appended: i64,
    pub(super) pending: Option<PendingId>,
    pub(super) discard_pending: bool,
    pub(super) publishes: Vec<PendingId>,
    pub(super) published: Vec<PublishedGroup>,
    pub(super) state: Vec<StateChange>,
    pub(super) next: Vec<(Arc<str>, u32, u64)>,
    pub(super) runs: Vec<(Partition, u64, u64)>,
}

impl Effect {
    fn of(segment: u64, place: u64, end: u64, sequence: u64, head: Head, topics: &[Arc<str>]) -> Self {
        let runs = head.runs.iter().filter_map(|run| Some(((Arc::clone(topics.get(run.topic)?), run.partition), run.base, run.count)));
        Self {
            segment,
            place,
            end,
            sequence,
            runs: runs.collect(),
            appended: head.appended,
            pending: head.pending,
            discard_pending: head.discard_pending,
            publishes: head.publishes,
            published: head.published,
            state: head.state,
            next: head.next,
        }
    }
}

impl Durable {
    pub(super) fn apply(&mut self, effect: Effect) {
        self.sequence = Some(effect.sequence);
        for (topic, partition, next) in effect.next {
            // Of what stood before this segment nothing may be left; then its first offset is the next one.
            self.partitions.entry((topic, partition)).or_insert(Range { first: next, next }).next = next;
        }
        if effect.discard_pending {
            for group in self.pending.drain().flat_map(|(_, groups)| groups) {
                if let Some(facts) = self.segments.get_mut(&group.segment) {
                    facts.pending -= 1;
                }
            }
        }
        for id in &effect.publishes {
            for group in self.pending.remove(id).into_iter().flatten() {
                if let Some(facts) = self.segments.get_mut(&group.segment) {
                    facts.pending -= 1;
                }
            }
        }
        for group in &effect.published {
            for (topic, partition, base, count) in &group.runs {
                let partition = (Arc::clone(topic), *partition);
                if let Some(facts) = self.segments.get_mut(&group.segment) {
                    let end = facts.held.entry(partition.clone()).or_default();
                    *end = (*end).max(base + count);
                }
                self.show(effect.segment, partition, *base, *count);
            }
        }
        if let Some(id) = effect.pending {
            let counts = effect.runs.into_iter().map(|(partition, _, count)| (partition, count)).collect();
            self.pending.entry(id).or_default().push(PendingGroup { segment: effect.segment, place: effect.place, counts });
            self.segments.entry(effect.segment).or_default().pending += 1;
        } else {
            for (partition, base, count) in effect.runs {
                self.show(effect.segment, partition, base, count);
            }
        }
        for change in &effect.state {
            self.state.apply(change);
        }
        let facts = self.segments.entry(effect.segment).or_default();
        facts.length = effect.end;
        facts.newest = facts.newest.max(effect.appended);
    }

    fn show(&mut self, segment: u64, partition: Partition, base: u64, count: u64) {
        let end = base + count;
        let facts = self.segments.entry(segment).or_default();
        facts.visible.entry(partition.clone()).or_insert(Range { first: base, next: end }).next = end;
        self.partitions.entry(partition).or_insert(Range { first: base, next: end }).next = end;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|facts| facts.length).sum()
    }

    /// Forgets the oldest segment.
    pub(super) fn forget(&mut self, segment: u64) {
        if let Some(facts) = self.segments.remove(&segment) {
            let ends = facts.visible.iter().map(|(partition, range)| (partition, range.next));
            for (partition, end) in ends.chain(facts.held.iter().map(|(partition, end)| (partition, *end))) {
                if let Some(range) = self.partitions.get_mut(partition) {
                    range.first = range.first.max(end);
                }
            }
        }
    }
}

/// A journal, open for reading and for at most one writer.
pub(super) struct Journal {
    pub(super) name: Arc<str>,
    pub(super) folder: PathBuf,
    pub(super) id: LogId,
    pub(super) storage: Arc<dyn Storage>,
    durable: Mutex<Durable>,
    /// The sequence up to which groups are durable, plus one
    pub(super) durable_next: AtomicU64,
    pub(super) has_writer: AtomicBool,
    /// Told when segments went
    pub(super) room: Notify,
    pub(super) changed: watch::Sender<u64>,
}

impl Journal {
    /// Opens the journal in `folder`, made if it is not there and `make` says so.
    pub(super) fn open(
        name: &str,
        folder: &Path,
        storage: Arc<dyn Storage>,
        changed: watch::Sender<u64>,
        read_only: bool,
    ) -> Result<Self> {
        let doing = || format!("open the journal of {name} in {}", folder.display());
        let identity = folder.join("id");
        if !read_only && !identity.exists() {
            make_identity(folder, &identity).map_err(|error| io_error(doing(), error))?;
        }
        let id = std::fs::read_to_string(&identity).map_err(|error| io_error(doing(), error))?;
        let journal = Self {
            name: Arc::from(name),
            folder: folder.to_owned(),
            id: Arc::from(id.trim()),
            storage,
            durable: Mutex::default(),
            durable_next: AtomicU64::new(0),
            has_writer: AtomicBool::new(false),
            room: Notify::new(),
            changed,
        };
        journal.recover(!read_only)?;
        Ok(journal)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Durable> {
        // Every change is made by one call of `apply` or `forget`, which do not panic half way.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is durable from the files. Cuts a torn tail off, if it may.
    pub(super) fn recover(&self, cut: bool) -> Result<()> {
        let doing = || format!("recover the journal of {} in {}", self.name, self.folder.display());
        let fail = |error: SegmentError| damaged(doing(), error);
        let segments = segment::list(&self.folder).map_err(|error| io_error(doing(), error))?;
        let mut durable = Durable::default();
        for (index, first) in segments.iter().copied().enumerate() {
            let mut reader = SegmentReader::open(&self.folder, first).map_err(|error| io_error(doing(), error))?;
            let length = reader.length().map_err(|error| io_error(doing(), error))?;
            let is_last = index + 1 == segments.len();
            let end = if is_last { reader.intact_end(first).map_err(fail)? } else { length };
            if end < length {
                tracing::warn!(
                    connector = &*self.name,
                    "the journal has a torn tail: {} octets behind {end} in segment {first} were never durable and are cut off",
                    length - end
                );
                if cut {
                    let path = segment::path(&self.folder, first);
                    drop(self.storage.resume(&path, end).map_err(|error| io_error(doing(), error))?);
                }
            }
            durable.segments.insert(first, SegmentFacts::default());
            let mut expected = first;
            while let Some(group) = reader.next_head(end).map_err(fail)? {
                if group.frame.sequence != expected {
                    return Err(fail(reader.damaged(group.place, super::wire::Malformed("its sequence does not follow"))));
                }
                expected += 1;
                let (place, end, sequence) = (group.place, group.end(), group.frame.sequence);
                durable.apply(Effect::of(first, place, end, sequence, group.head, &reader.dictionary.topics));
            }
            if let Some(next) = segments.get(index + 1)
                && *next != expected
            {
                let why = super::wire::Malformed("groups are missing before the next segment");
                return Err(fail(reader.damaged(end, why)));
            }
        }
        self.durable_next.store(durable.sequence.map_or(0, |sequence| sequence + 1), Ordering::Release);
        *self.lock() = durable;
        Ok(())
    }

    /// Makes groups visible that are durable now.
    pub(super) fn publish(&self, effects: impl Iterator<Item = Effect>) {
        let mut durable = self.lock();
        for effect in effects {
            self.durable_next.store(effect.sequence + 1, Ordering::Release);
            durable.apply(effect);
        }
        drop(durable);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Removes the oldest segment, never the one that is written.
    pub(super) fn remove_segment(&self, segment: u64) -> Result<()> {
        let path = segment::path(&self.folder, segment);
        let doing = || format!("remove the old segment {}", path.display());
        // The file first: a reader that is late then finds it gone and looks again.
        self.storage.remove(&path).map_err(|error| io_error(doing(), error))?;
        self.lock().forget(segment);
        self.room.notify_waiters();
        Ok(())
    }
}

fn make_identity(folder: &Path, identity: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let partial = folder.join("id.new");
    std::fs::write(&partial, uuid::Uuid::new_v4().to_string())?;
    std::fs::File::open(&partial)?.sync_all()?;
    std::fs::rename(&partial, identity)?;
    std::fs::File::open(folder)?.sync_all()?;
    if let Some(parent) = folder.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Milliseconds since 1970 UTC.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// An error of the file system, with what mends it.
pub(super) fn io_error(doing: String, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, mend) = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => {
            (ErrorKind::Throttled, Some("free space on the volume of data.dir, or lower topics.embedded.retention.bytes"))
        }
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Unauthorised, Some("give the user that runs Tailwater the right to write in data.dir"))
        }
        Io::NotFound => (ErrorKind::Missing, None),
        _ => (ErrorKind::Unreachable, None),
    };
    let error = Error::new(kind, doing).because(error);
    match mend {
        Some(mend) => error.mend(mend),
        None => error,
    }
}

/// An error of a segment, with what mends it.
pub(super) fn damaged(doing: String, error: SegmentError) -> Error {
    match error {
        SegmentError::Io(error) => io_error(doing, error),
        SegmentError::Damaged { .. } => Error::new(ErrorKind::Unreadable, doing).because(error).mend(
            "restore the journal's folder from a copy, or remove the folder and take a new snapshot of the source; nothing behind the damage was read",
        ),
    }
}

/// What a writer's accepted group has to do with numbers of batches.
pub(super) struct QueuedGroup {
    /// The batch that ends with this group
    pub(super) number: Option<BatchNumber>,
    pub(super) bytes: Vec<u8>,
    pub(super) effect: Effect,
    /// The group begins a new segment
    pub(super) begins_segment: bool,
    /// Room in the queue, given back when the group is written
    pub(super) _room: Option<tokio::sync::OwnedSemaphorePermit>,
}
