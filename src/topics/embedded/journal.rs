//! One journal: its segments, what is durable in them, and its one writer.
//!
//! The writer's half that sources see encodes groups and knows every offset, because nobody else gives offsets away.
//! A thread of its own appends what is queued, fsyncs once for all of it, and only then makes it visible and says that it
//! is durable (I1). A refused write or fsync ends the writer for good: what the kernel did with the pages is not known, so
//! nothing is tried again on the same file handle. The next writer first cuts off what was not durable.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tailwater_api::sink::{LogId, LogPosition};
use tailwater_api::source::PendingId;
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{Notify, watch};

use super::dictionary::SchemaPool;
use super::group::{Head, Opening, OpeningPartition, Place};
use super::index::{self, PublishedFrom};
use super::recovery;
use super::segment::{self, SegmentError};
use super::storage::Storage;

/// A topic's partition within a journal.
pub(super) type Partition = (Arc<str>, u32);

/// Offsets of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// First offset
    pub(super) first: u64,
    /// Offset of the next record
    pub(super) next: u64,
}

/// How offsets of a partition were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    /// Offset of the next record
    pub(super) next: u64,
    /// For each incarnation that added records, ascending: its number and the first offset that it gave
    pub(super) marks: Vec<(u64, u64)>,
}

impl Offsets {
    /// Gives offsets to `count` records and says the first one.
    pub(super) fn give(&mut self, count: u64, incarnation: u64) -> u64 {
        let base = self.next;
        if self.marks.last().is_none_or(|(last, _)| *last != incarnation) {
            self.marks.push((incarnation, base));
        }
        self.next += count;
        base
    }
}

/// A partition's offsets and what of it is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PartitionFacts {
    /// First offset that is still there
    pub(super) first: u64,
    pub(super) offsets: Offsets,
}

/// A segment as it is known without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentFacts {
    /// Durable octets
    pub(super) length: u64,
    /// Time of the newest group, milliseconds since 1970 UTC
    pub(super) newest: i64,
    /// First offset and end of the records that become visible in this segment
    pub(super) visible: BTreeMap<Partition, Range>,
    /// Pending records that groups of this segment made visible
    pub(super) published: Vec<PublishedFrom>,
    /// End of the records that stand here, as pending ones, and became visible here or in a later segment
    pub(super) held: BTreeMap<Partition, u64>,
}

/// Incarnations kept; one older is no longer known. Each start of the worker that adds to the journal makes one.
const INCARNATIONS: usize = 64 * 1024;

/// The processes that have written the journal. See [`super::recovery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Incarnations {
    first: u64,
    tokens: Vec<u64>,
}

impl Incarnations {
    /// Begins the incarnation `token`, unless it is the last one.
    pub(super) fn begin(&mut self, token: u64) {
        if self.tokens.last() == Some(&token) {
            return;
        }
        if self.tokens.len() >= INCARNATIONS {
            self.tokens.remove(0);
            self.first += 1;
        }
        self.tokens.push(token);
    }

    /// Number of the last one.
    pub(super) fn current(&self) -> u64 {
        (self.first + self.tokens.len() as u64).saturating_sub(1)
    }

    fn number(&self, token: u64) -> Option<u64> {
        let place = self.tokens.iter().rposition(|known| *known == token)?;
        Some(self.first + place as u64)
    }

    /// What a group needs so that it can be read without those before it.
    pub(super) fn opening<'a>(&self, partitions: impl Iterator<Item = (&'a Partition, &'a Offsets)>) -> Opening {
        let partitions = partitions.map(|((topic, partition), offsets)| OpeningPartition {
            topic: Arc::clone(topic),
            partition: *partition,
            next: offsets.next,
            // One that is not younger than all known incarnations tells nothing of a position.
            marks: offsets.marks.iter().copied().filter(|(number, _)| *number > self.first).collect(),
        });
        Opening { first_incarnation: self.first, incarnations: self.tokens.clone(), partitions: partitions.collect() }
    }
}

/// Everything durable of a journal.
pub(super) struct Durable {
    uuid: Arc<str>,
    pub(super) segments: BTreeMap<u64, SegmentFacts>,
    pub(super) partitions: BTreeMap<Partition, PartitionFacts>,
    pub(super) state: SourceState,
    pub(super) incarnations: Incarnations,
    /// The log as it is named in new positions
    pub(super) log: LogId,
    /// Pending records of the running writer: the segment in which they begin
    pub(super) pending: HashMap<PendingId, u64>,
    /// Sequence of the next group
    pub(super) sequence: u64,
    /// Octets of all segments
    pub(super) octets: u64,
}

impl Durable {
    pub(super) fn new(uuid: &str) -> Self {
        Self {
            uuid: Arc::from(uuid),
            segments: BTreeMap::new(),
            partitions: BTreeMap::new(),
            state: SourceState::default(),
            incarnations: Incarnations::default(),
            log: Arc::from(uuid),
            pending: HashMap::new(),
            sequence: 0,
            octets: 0,
        }
    }

    /// Takes over a group that is durable.
    pub(super) fn apply(&mut self, place: Place, end: u64, sequence: u64, head: &Head) {
        if let Some(opening) = &head.opening {
            self.open(opening);
        }
        for publication in &head.publications {
            self.pending.remove(&publication.id);
            let runs = publication.runs.iter().map(|run| ((Arc::clone(&run.topic), run.partition), run.base + run.count));
            let published = PublishedFrom { first: publication.first.segment, last: publication.last.segment, ends: runs.collect() };
            self.hold(&published);
            self.facts(place.segment).published.push(published);
            for run in &publication.runs {
                self.show(place.segment, (Arc::clone(&run.topic), run.partition), run.base, run.count);
            }
        }
        match &head.pending {
            Some(id) => {
                self.pending.entry(Arc::clone(id)).or_insert(place.segment);
            }
            None => {
                for run in &head.runs {
                    self.show(place.segment, (Arc::clone(&run.topic), run.partition), run.base, run.count);
                }
            }
        }
        for change in &head.state {
            self.state.apply(change);
        }
        self.sequence = sequence + 1;
        let facts = self.facts(place.segment);
        let grown = end.saturating_sub(facts.length);
        facts.length = end;
        facts.newest = facts.newest.max(head.appended);
        self.octets += grown;
    }

    fn facts(&mut self, segment: u64) -> &mut SegmentFacts {
        self.segments.entry(segment).or_default()
    }

    fn open(&mut self, opening: &Opening) {
        self.state = SourceState::default();
        self.incarnations = Incarnations { first: opening.first_incarnation, tokens: opening.incarnations.clone() };
        if let Some(token) = opening.incarnations.last() {
            self.log = format!("{}.{token:016x}", self.uuid).into();
        }
        for partition in &opening.partitions {
            let key = (Arc::clone(&partition.topic), partition.partition);
            let facts = self.partitions.entry(key).or_insert(PartitionFacts { first: partition.next, offsets: Offsets::default() });
            facts.offsets = Offsets { next: partition.next, marks: partition.marks.clone() };
        }
    }

    fn show(&mut self, segment: u64, partition: Partition, base: u64, count: u64) {
        let end = base + count;
        let incarnation = self.incarnations.current();
        self.facts(segment).visible.entry(partition.clone()).or_insert(Range { first: base, next: end }).next = end;
        let facts = self.partitions.entry(partition).or_insert(PartitionFacts { first: base, offsets: Offsets::default() });
        facts.offsets.next = base;
        facts.offsets.give(count, incarnation);
    }

    fn hold(&mut self, published: &PublishedFrom) {
        for (_, facts) in self.segments.range_mut(published.first..=published.last.max(published.first)) {
            for (partition, end) in &published.ends {
                let held = facts.held.entry(partition.clone()).or_default();
                *held = (*held).max(*end);
            }
        }
    }

    /// Takes over a segment by its index, in ascending order.
    pub(super) fn add(&mut self, segment: u64, facts: SegmentFacts) {
        self.octets += facts.length;
        let published = facts.published.clone();
        self.segments.insert(segment, facts);
        for published in &published {
            self.hold(published);
        }
    }

    /// Ends recovery: pending records of earlier runs are gone, and what is still there of each partition is found.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        let Some(oldest) = self.segments.keys().next().copied() else { return };
        for facts in self.partitions.values_mut() {
            facts.first = facts.offsets.next;
        }
        for facts in self.segments.values() {
            for (partition, range) in &facts.visible {
                if let Some(known) = self.partitions.get_mut(partition) {
                    known.first = known.first.min(range.first);
                }
            }
        }
        // Of what was published from segments that are gone nothing is left, nor of what was visible before it.
        let gone = self.segments.values().flat_map(|facts| &facts.published).filter(|published| published.first < oldest);
        for (partition, end) in gone.flat_map(|published| &published.ends) {
            if let Some(known) = self.partitions.get_mut(partition) {
                known.first = known.first.max(*end);
            }
        }
    }

    /// Forgets the oldest segment.
    fn forget(&mut self, segment: u64) {
        if let Some(facts) = self.segments.remove(&segment) {
            self.octets = self.octets.saturating_sub(facts.length);
            let ends = facts.visible.iter().map(|(partition, range)| (partition, range.next));
            for (partition, end) in ends.chain(facts.held.iter().map(|(partition, end)| (partition, *end))) {
                if let Some(known) = self.partitions.get_mut(partition) {
                    known.first = known.first.max(end);
                }
            }
        }
    }

    /// The offset of a position, or why this journal cannot go on from it.
    pub(super) fn offset_of(&self, partition: &Partition, position: &LogPosition) -> Result<u64, String> {
        let (uuid, token) = position.log.split_once('.').unwrap_or((&position.log, ""));
        if uuid != &*self.uuid {
            return Err(format!("the position belongs to the log {uuid}, this one is {}", self.uuid));
        }
        let incarnation = u64::from_str_radix(token, 16).ok().and_then(|token| self.incarnations.number(token));
        let Some(incarnation) = incarnation else {
            return Err(format!("the log was restored from a copy that is older than the position, which is of its incarnation {token}"));
        };
        let Some(facts) = self.partitions.get(partition) else {
            return Err("the log does not hold the partition".to_owned());
        };
        let later = facts.offsets.marks.iter().find(|(number, _)| *number > incarnation);
        let end = later.map_or(facts.offsets.next, |(_, base)| *base);
        if position.offset > end {
            return Err(format!(
                "the position is {}, but the log ends at {end} there: it was restored from an older copy or lost its end",
                position.offset
            ));
        }
        if position.offset < facts.first {
            return Err(format!("the position is {}, but the log begins at {}", position.offset, facts.first));
        }
        Ok(position.offset)
    }
}

/// A journal, open for reading and for at most one writer.
pub(super) struct Journal {
    pub(super) name: Arc<str>,
    pub(super) folder: PathBuf,
    /// Token of the incarnation that this process writes
    pub(super) token: u64,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) pool: Arc<SchemaPool>,
    durable: Mutex<Durable>,
    /// Sequence of the group that is accepted next
    pub(super) accepted: AtomicU64,
    pub(super) has_writer: AtomicBool,
    /// A writer has failed; what is in the files behind what is durable is not known
    pub(super) is_torn: AtomicBool,
    /// Nothing is accepted any more
    pub(super) is_closed: AtomicBool,
    /// Records are dropped that a sink has not read, and the user knows
    pub(super) is_dropping: AtomicBool,
    /// The data directory's lock, held as long as a thread may still write (I13); none where the log is only read
    _lock: Option<Arc<File>>,
    /// Told when segments went
    pub(super) room: Notify,
    pub(super) changed: watch::Sender<u64>,
}

impl Journal {
    /// Opens the journal in `folder`, made if it is not there. Without the data directory's lock it is only read.
    pub(super) fn open(
        name: &str,
        folder: &Path,
        storage: Arc<dyn Storage>,
        changed: watch::Sender<u64>,
        lock: Option<Arc<File>>,
    ) -> Result<Self> {
        let read_only = lock.is_none();
        let doing = || format!("open the journal of {name} in {}", folder.display());
        if !read_only && !identity(folder).exists() {
            make_identity(folder).map_err(|error| io_error(doing(), error))?;
        }
        let uuid = read_identity(folder).map_err(|error| io_error(doing(), error))?;
        let pool = Arc::new(SchemaPool::default());
        let may_write = (!read_only).then_some(&*storage);
        let mut tries = 5;
        let durable = loop {
            tries -= 1;
            match recovery::recover(name, &uuid, folder, &pool, may_write) {
                Ok(durable) => break durable,
                // A worker that runs may remove a segment while it is looked for.
                Err(SegmentError::Io(error)) if read_only && tries > 0 && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(segment_error(doing(), error)),
            }
        };
        Ok(Self {
            name: Arc::from(name),
            folder: folder.to_owned(),
            token: uuid::Uuid::new_v4().as_u64_pair().0,
            storage,
            pool,
            accepted: AtomicU64::new(durable.sequence),
            durable: Mutex::new(durable),
            has_writer: AtomicBool::new(false),
            is_torn: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            _lock: lock,
            is_dropping: AtomicBool::new(false),
            room: Notify::new(),
            changed,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Durable> {
        // Every change is made by one call of `apply` or `forget`, which do not panic half way.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a new writer: cuts off what a failed one left, and forgets pending records.
    pub(super) fn reset(&self) -> Result<()> {
        let doing = || format!("clean the journal of {} in {}", self.name, self.folder.display());
        let mut durable = self.lock();
        durable.pending.clear();
        self.accepted.store(durable.sequence, Ordering::Release);
        if !self.is_torn.load(Ordering::Acquire) {
            return Ok(());
        }
        for first in segment::list(&self.folder).map_err(|error| io_error(doing(), error))? {
            if !durable.segments.contains_key(&first) {
                self.storage.remove(&segment::path(&self.folder, first)).map_err(|error| io_error(doing(), error))?;
            }
        }
        if let Some((last, facts)) = durable.segments.last_key_value() {
            let path = segment::path(&self.folder, *last);
            self.storage.settle(&path, facts.length, facts.length).map_err(|error| io_error(doing(), error))?;
        }
        self.is_torn.store(false, Ordering::Release);
        Ok(())
    }

    /// Tells readers that something is new.
    pub(super) fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Removes the oldest segment, never the one that is written.
    pub(super) fn remove_segment(&self, segment: u64) -> Result<()> {
        let path = segment::path(&self.folder, segment);
        let _ = std::fs::remove_file(index::path(&self.folder, segment));
        // Under the lock, so that a reader that does not find the file finds it forgotten, too. If it cannot be removed it
        // is not forgotten: a younger segment must not go before it.
        let mut durable = self.lock();
        if !durable.segments.contains_key(&segment) {
            // Somebody who also wants room was quicker.
            return Ok(());
        }
        self.storage.remove(&path).map_err(|error| io_error(format!("remove the old segment {}", path.display()), error))?;
        durable.forget(segment);
        drop(durable);
        self.room.notify_waiters();
        Ok(())
    }
}

fn identity(folder: &Path) -> PathBuf {
    folder.join("id")
}

/// The identity of the journal in `folder`.
pub(super) fn read_identity(folder: &Path) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(identity(folder))?.trim().to_owned())
}

fn make_identity(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let partial = folder.join("id.new");
    std::fs::write(&partial, uuid::Uuid::new_v4().to_string())?;
    File::open(&partial)?.sync_all()?;
    std::fs::rename(&partial, identity(folder))?;
    File::open(folder)?.sync_all()?;
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
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
pub(super) fn segment_error(doing: String, error: SegmentError) -> Error {
    match error {
        SegmentError::Io(error) => io_error(doing, error),
        SegmentError::Damaged { .. } => Error::new(ErrorKind::Unreadable, doing).because(error).mend(
            "restore the journal's folder from a copy, or remove the folder and take a new snapshot of the source; nothing behind the damage was read",
        ),
    }
}
