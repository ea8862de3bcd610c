//! Figures that connectors report. Handles are made once and touched per batch, never per value.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

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

/// Gives out the figures of one task. Names are snake case without a prefix, in base units:
/// `retained_wal_bytes`, `lag_seconds`. The same name and table give the same handle.
pub trait Metrics: Send + Sync + 'static {
    /// A counter, of one table or of the whole task.
    fn counter(&self, name: &'static str, help: &'static str, table: Option<&str>) -> Counter;
    /// A gauge, of one table or of the whole task.
    fn gauge(&self, name: &'static str, help: &'static str, table: Option<&str>) -> Gauge;
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
}
