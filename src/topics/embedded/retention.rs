//! What is kept, and what makes way.
//!
//! Whole segments go, oldest first, never the one that is written, never one that holds pending records, and never one that
//! a configured sink has still to read, a paused sink too. The one exception is the policy `drop` at `max.bytes`: then the
//! oldest segments go all the same, and a sink that had not read them finds its position before the first offset, which is
//! `history-gone`, not a skip.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tailwater_api::Result;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;

use super::journal::{Journal, Partition, SegmentFacts, now};
use crate::state::redb::Positions;
use crate::topics::Subscription;

/// What happens at `max.bytes` when a sink has not read the oldest records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FullPolicy {
    /// Sources stop appending and keep answering their servers
    #[default]
    Hold,
    /// The oldest records go; sinks that had not read them stop with `history-gone`
    Drop,
}

/// How much each journal keeps; sizes are octets. Limits are those of one journal, so that a source whose sink stands still
/// holds no other source (I10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// The oldest segments go when the journal is longer than this
    pub retention_bytes: Option<u64>,
    /// Segments whose newest record is older than this go
    pub retention: Option<Duration>,
    /// The journal is never longer than this and what is being written
    pub max_bytes: Option<u64>,
    /// What happens then
    pub when_full: FullPolicy,
    /// A segment that is longer than this is followed by a new one
    pub segment_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            retention_bytes: Some(10 << 30),
            retention: Some(Duration::from_secs(7 * 24 * 3600)),
            max_bytes: None,
            when_full: FullPolicy::Hold,
            segment_bytes: 64 << 20,
        }
    }
}

/// Decides which segments may go.
///
/// Its locks come before those of journals: nobody asks it for anything while holding a journal's.
pub(super) struct Retention {
    options: EmbeddedOptions,
    journals: Mutex<Vec<Arc<Journal>>>,
    /// None before they were declared
    sinks: RwLock<Option<Vec<(String, Subscription)>>>,
    positions: RwLock<Positions>,
}

impl Retention {
    pub(super) fn new(options: EmbeddedOptions, positions: Positions) -> Self {
        Self { options, journals: Mutex::default(), sinks: RwLock::default(), positions: RwLock::new(positions) }
    }

    pub(super) fn watch(&self, journal: Arc<Journal>) {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner).push(journal);
    }

    pub(super) fn set_sinks(&self, sinks: Vec<(String, Subscription)>) {
        *self.sinks.write().unwrap_or_else(PoisonError::into_inner) = Some(sinks);
    }

    pub(super) fn moved(&self, group: &str, positions: &[LogPosition], forgotten: &[TopicPartition]) {
        let key = |place: &TopicPartition| (Arc::clone(&place.topic), place.partition);
        let mut all = self.positions.write().unwrap_or_else(PoisonError::into_inner);
        let of_group = all.entry(group.to_owned()).or_default();
        for position in positions {
            of_group.insert(key(&position.topic_partition), position.clone());
        }
        for place in forgotten {
            of_group.remove(&key(place));
        }
        drop(all);
        // A held source may go on.
        for journal in self.all() {
            journal.room.notify_waiters();
        }
    }

    pub(super) fn committed(&self, group: &str) -> Vec<LogPosition> {
        let all = self.positions.read().unwrap_or_else(PoisonError::into_inner);
        all.get(group).map(|positions| positions.values().cloned().collect()).unwrap_or_default()
    }

    fn all(&self) -> Vec<Arc<Journal>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `journal` is as long as it may be.
    pub(super) fn is_full(&self, journal: &Journal) -> bool {
        self.options.max_bytes.is_some_and(|limit| journal.lock().octets >= limit)
    }

    /// Octets after which a segment is followed by a new one: small enough that `max_bytes` has room for several, because
    /// only whole segments go.
    pub(super) fn segment_bytes(&self) -> u64 {
        let part = self.options.max_bytes.map_or(u64::MAX, |limit| limit / 8);
        self.options.segment_bytes.min(part).max(1)
    }

    /// Whether every sink has read what `facts` holds of `journal`.
    fn is_read(&self, journal: &Journal, facts: &SegmentFacts) -> bool {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        // Before the sinks are known nothing is known to be read.
        let Some(sinks) = &*sinks else { return false };
        let positions = self.positions.read().unwrap_or_else(PoisonError::into_inner);
        let durable = journal.lock();
        let ends = facts.visible.iter().map(|(partition, range)| (partition, range.next));
        ends.chain(facts.held.iter().map(|(partition, end)| (partition, *end))).all(|(partition, end)| {
            // What may be subscribed counts as subscribed; its sink says why it is not known.
            sinks.iter().filter(|(_, subscription)| subscription.covers(&partition.0).unwrap_or(true)).all(|(group, _)| {
                let position = positions.get(group).and_then(|positions| positions.get(partition));
                position.is_some_and(|position| durable.offset_of(partition, position).is_ok_and(|offset| offset >= end))
            })
        })
    }

    /// The oldest segment, if there is a younger one, whether pending records stand in it, and the journal's octets.
    fn oldest(journal: &Journal) -> Option<(u64, SegmentFacts, bool, u64)> {
        let durable = journal.lock();
        let mut segments = durable.segments.iter();
        let (first, facts) = segments.next()?;
        segments.next()?;
        let is_pending = durable.pending.values().any(|begin| begin <= first);
        Some((*first, facts.clone(), is_pending, durable.octets))
    }

    /// Removes what has outlived its retention. Blocks on the disk.
    pub(super) fn expire(&self) -> Result<()> {
        for journal in self.all() {
            while let Some((segment, facts, is_pending, bytes)) = Self::oldest(&journal) {
                let too_long = self.options.retention_bytes.is_some_and(|limit| bytes.saturating_sub(facts.length) >= limit);
                let too_old = self
                    .options
                    .retention
                    .is_some_and(|limit| i64::try_from(limit.as_millis()).is_ok_and(|limit| now().saturating_sub(facts.newest) > limit));
                if !(too_long || too_old) || is_pending || !self.is_read(&journal, &facts) {
                    break;
                }
                journal.remove_segment(segment)?;
            }
        }
        Ok(())
    }

    /// Positions of sinks that are no more, whose records are gone too. A deleted sink keeps its positions, so that it can be
    /// made again and goes on; once it could not, they are of no use.
    pub(super) fn abandoned(&self) -> Vec<(String, Vec<TopicPartition>)> {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sinks) = &*sinks else { return Vec::new() };
        let is_lost = |partition: &Partition, offset: u64| {
            self.all().iter().any(|journal| journal.lock().partitions.get(partition).is_some_and(|facts| offset < facts.first))
        };
        let positions = self.positions.read().unwrap_or_else(PoisonError::into_inner);
        let abandoned = positions.iter().filter(|(group, _)| !sinks.iter().any(|(sink, _)| sink == *group)).map(|(group, positions)| {
            let lost = positions.iter().filter(|(partition, position)| is_lost(partition, position.offset));
            (group.clone(), lost.map(|(_, position)| position.topic_partition.clone()).collect::<Vec<_>>())
        });
        abandoned.filter(|(_, lost)| !lost.is_empty()).collect()
    }

    /// Makes room at `max.bytes`. Blocks on the disk.
    pub(super) fn make_room(&self, journal: &Journal) -> Result<DiskRoom> {
        while self.is_full(journal) {
            // One group may be longer than all that may be kept. The next one begins a segment, and then the first may go.
            let Some((segment, facts, is_pending, _)) = Self::oldest(journal) else { break };
            if is_pending {
                return Ok(DiskRoom::HeldByPending);
            }
            let is_read = self.is_read(journal, &facts);
            if !is_read && self.options.when_full == FullPolicy::Hold {
                return Ok(DiskRoom::HeldBySinks);
            }
            if !journal.is_dropping.swap(!is_read, Ordering::Relaxed) && !is_read {
                tracing::error!(
                    connector = &*journal.name,
                    "the journal has reached topics.embedded.max.bytes: records are dropped that a sink has not read; that sink will stop with history-gone and needs a new snapshot"
                );
            }
            journal.remove_segment(segment)?;
        }
        Ok(DiskRoom::Made)
    }
}

/// What came of making room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskRoom {
    /// The next group may come
    Made,
    /// A sink has still to read the oldest segment
    HeldBySinks,
    /// Pending records stand in the oldest segment
    HeldByPending,
}
