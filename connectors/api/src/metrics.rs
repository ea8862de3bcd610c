//! Figures that connectors report. Handles are made once and touched per batch, never per value.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A figure that only grows.
#[derive(Clone, Default, Debug)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A figure that goes up and down.
#[derive(Clone, Default, Debug)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets the figure.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The figure.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lines of text that stand beside figures, for what no number says.
#[derive(Clone, Default, Debug)]
pub struct Remarks(Arc<Mutex<Vec<String>>>);

impl Remarks {
    /// Sets the lines.
    pub fn set(&self, lines: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    /// The lines.
    #[must_use]
    pub fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Gives out the figures of one task. Names are snake case without a prefix, in base units:
/// `retained_wal_bytes`, `lag_seconds`. The same name and table give the same handle.
pub trait Metrics: Send + Sync + 'static {
    /// A counter, of one table or of the whole task.
    fn counter(&self, name: &'static str, help: &'static str, table: Option<&str>) -> Counter;
    /// A gauge, of one table or of the whole task.
    fn gauge(&self, name: &'static str, help: &'static str, table: Option<&str>) -> Gauge;
    /// Remarks of the whole task. They are shown where somebody asks for them by this name, and stand in no scrape.
    fn remarks(&self, name: &'static str) -> Remarks;
}

/// Metrics that nobody reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetrics;

impl Metrics for NoMetrics {
    fn counter(&self, _: &'static str, _: &'static str, _: Option<&str>) -> Counter {
        Counter::default()
    }

    fn gauge(&self, _: &'static str, _: &'static str, _: Option<&str>) -> Gauge {
        Gauge::default()
    }

    fn remarks(&self, _: &'static str) -> Remarks {
        Remarks::default()
    }
}

/// Names of the figures that say how far a snapshot is. The daemon answers questions about it from these.
pub mod snapshot {
    /// Tables of the snapshot
    pub const TABLES: &str = "snapshot_tables";
    /// Tables that are not read to their end
    pub const TABLES_REMAINING: &str = "snapshot_tables_remaining";
    /// 1 while a snapshot is being taken
    pub const RUNNING: &str = "snapshot_running";
    /// 1 while it rests because a signal asks for that
    pub const PAUSED: &str = "snapshot_paused";
    /// 1 when all of its tables are read to their ends
    pub const COMPLETED: &str = "snapshot_completed";
    /// 1 where it ended before all tables were read
    pub const ABORTED: &str = "snapshot_aborted";
    /// 1 where none is taken at the start
    pub const SKIPPED: &str = "snapshot_skipped";
    /// How long it has rested
    pub const PAUSED_SECONDS: &str = "snapshot_paused_seconds";
    /// How long it has taken
    pub const SECONDS: &str = "snapshot_seconds";
    /// Remarks: what has to happen before it goes on, a line for each, which names how that is brought about
    pub const WAITS_FOR: &str = "snapshot_waits_for";
    /// Of a table: [`WAITS`], [`IS_READ`] or [`COMPLETE`]
    pub const TABLE_STATE: &str = "snapshot_table_state";
    /// Of a table: rows that were read
    pub const TABLE_ROWS: &str = "snapshot_table_rows";
    /// Of a table: bytes of these rows
    pub const TABLE_BYTES: &str = "snapshot_table_bytes";
    /// Of a table: rows that it may have; -1 where nobody knows
    pub const TABLE_ESTIMATED_ROWS: &str = "snapshot_table_estimated_rows";
    /// Of a table: how long the rest may take; -1 where nobody knows
    pub const TABLE_REMAINING_SECONDS: &str = "snapshot_table_remaining_seconds";

    /// The table is not begun.
    pub const WAITS: i64 = 0;
    /// The table is being read.
    pub const IS_READ: i64 = 1;
    /// The table is read to its end.
    pub const COMPLETE: i64 = 2;
}
