//! What the source says at WARN and above, on the thread of one test.
//!
//! One subscriber serves the whole process. Subscribers of single threads come and go, and an event that another thread reaches first may
//! be taken for one that nobody wants.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::harness::PATIENCE;

type Lines = Arc<Mutex<Vec<String>>>;

thread_local! {
    /// What is collected of this thread.
    static COLLECTED: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

/// Collects warnings until it is dropped. A test that runs on one thread has its source on that, too.
pub(crate) struct Warnings {
    lines: Lines,
}

impl Warnings {
    pub(crate) fn collect() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Collector).expect("nobody else sets one");
            // For events that were reached meanwhile.
            tracing::callsite::rebuild_interest_cache();
        });
        let lines = Lines::default();
        COLLECTED.set(Some(lines.clone()));
        Self { lines }
    }

    /// The warnings that hold all of these words.
    pub(crate) fn with(&self, words: &[&str]) -> Vec<String> {
        let lines = self.lines.lock().expect("nobody panics with it");
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).cloned().collect()
    }

    /// What was told until now is not looked at again.
    pub(crate) fn forget(&self) {
        self.lines.lock().expect("nobody panics with it").clear();
    }

    /// Waits for a warning that holds all of these words.
    pub(crate) async fn told(&self, words: &[&str]) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.with(words).is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "never told: {words:?}, only {:#?}", self.with(&[]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Warnings {
    fn drop(&mut self) {
        COLLECTED.set(None);
    }
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(lines) = COLLECTED.with_borrow(Clone::clone) else { return };
        let mut line = Line(String::new());
        event.record(&mut line);
        lines.lock().expect("nobody panics with it").push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
