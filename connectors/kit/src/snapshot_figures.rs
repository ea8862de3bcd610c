//! How far a snapshot is, table by table: rows and bytes that were read, how many rows there may be, how long the rest may
//! take.
//!
//! They are figures of the task, under the names below; the REST API's answer about a snapshot and Debezium's metrics are
//! made of them, so the three never disagree. The log tells of a table that takes long, every half minute.
//!
//! The rest is estimated from the number of rows that the source expects and from how fast this run has read the table so far.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tailwater_api::metrics::{Gauge, Metrics, Remarks, snapshot as names};
use tracing::info;

/// Time between two lines of the log about one table.
const TELL: Duration = Duration::from_secs(30);

/// The tables of a snapshot.
pub struct SnapshotFigures {
    metrics: Arc<dyn Metrics>,
    tables: Gauge,
    remaining: Gauge,
    running: Gauge,
    paused: Gauge,
    completed: Gauge,
    aborted: Gauge,
    seconds: Gauge,
    paused_seconds: Gauge,
    waits_for: Remarks,
    begun: Instant,
    rest: Mutex<Rest>,
}

/// How long a snapshot has rested, and since when it does.
#[derive(Default)]
struct Rest {
    before: Duration,
    since: Option<Instant>,
}

impl Rest {
    fn time(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// One table of it.
pub struct TableFigures {
    name: Arc<str>,
    state: Gauge,
    rows: Gauge,
    bytes: Gauge,
    estimated: Gauge,
    rest: Gauge,
    /// Rows of earlier runs
    earlier: u64,
    begun: Instant,
    told: Instant,
}

impl SnapshotFigures {
    /// Begins to report a snapshot, of no table yet.
    #[must_use]
    pub fn begin(metrics: &Arc<dyn Metrics>) -> Self {
        let figures = Self::go_on(metrics);
        figures.tables.set(0);
        figures.remaining.set(0);
        skipped(metrics).set(0);
        figures
    }

    /// Reports that there is no snapshot at the start, since none is asked for.
    pub fn skip(metrics: &Arc<dyn Metrics>) {
        skipped(metrics).set(1);
    }

    /// Goes on to report a snapshot, of the tables that it has so far.
    #[must_use]
    pub fn go_on(metrics: &Arc<dyn Metrics>) -> Self {
        let gauge = |name, help| metrics.gauge(name, help, None);
        let figures = Self {
            metrics: Arc::clone(metrics),
            tables: gauge(names::TABLES, "Tables of the snapshot."),
            remaining: gauge(names::TABLES_REMAINING, "Tables of the snapshot that are not read to their end."),
            running: gauge(names::RUNNING, "1 while a snapshot is being taken."),
            paused: gauge(names::PAUSED, "1 while the snapshot rests because a signal asks for that."),
            completed: gauge(names::COMPLETED, "1 when all tables of the snapshot are read to their ends."),
            aborted: gauge(names::ABORTED, "1 where the snapshot ended before all tables were read, until it goes on."),
            seconds: gauge(names::SECONDS, "How long this run has been reading for the snapshot."),
            paused_seconds: gauge(names::PAUSED_SECONDS, "How long of that it has rested."),
            waits_for: metrics.remarks(names::WAITS_FOR),
            begun: Instant::now(),
            rest: Mutex::default(),
        };
        figures.running.set(1);
        figures.paused.set(0);
        figures.completed.set(0);
        figures.aborted.set(0);
        figures.paused_seconds.set(0);
        figures
    }

    /// Adds a table that waits, with the rows that earlier runs have read of it.
    #[must_use]
    pub fn table(&self, name: &str, rows: u64) -> TableFigures {
        let gauge = |figure, help| self.metrics.gauge(figure, help, Some(name));
        let table = TableFigures {
            name: name.into(),
            state: gauge(names::TABLE_STATE, "State of the table in the snapshot: 0 waits, 1 is read, 2 is complete."),
            rows: gauge(names::TABLE_ROWS, "Rows of the table that the snapshot has read."),
            bytes: gauge(names::TABLE_BYTES, "Bytes of these rows, as the source sent them to this run."),
            estimated: gauge(names::TABLE_ESTIMATED_ROWS, "Rows that the table may have; -1 where nobody knows."),
            rest: gauge(names::TABLE_REMAINING_SECONDS, "How long the rest of the table may take; -1 where nobody knows."),
            earlier: rows,
            begun: Instant::now(),
            told: Instant::now(),
        };
        table.state.set(names::WAITS);
        table.rows.set(signed(rows));
        table.bytes.set(0);
        table.estimated.set(-1);
        table.rest.set(-1);
        self.tables.set(self.tables.get() + 1);
        self.remaining.set(self.remaining.get() + 1);
        self.completed.set(0);
        table
    }

    /// The table is read to its end.
    pub fn complete(&self, table: &mut TableFigures) {
        table.state.set(names::COMPLETE);
        table.estimated.set(table.rows.get());
        table.rest.set(0);
        self.count_off();
        self.tick();
    }

    /// It rests, or goes on.
    pub fn pause(&self, paused: bool) {
        self.paused.set(i64::from(paused));
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        *rest = Rest { before: rest.time(), since: paused.then(Instant::now) };
        self.paused_seconds.set(signed(rest.before.as_secs()));
    }

    /// It goes on when this has happened; a line for each. Nothing is waited for where there are none.
    pub fn wait_for(&self, lines: Vec<String>) {
        self.waits_for.set(lines);
    }

    /// The table is none of the snapshot's any more.
    pub fn leave_out(&self, table: &TableFigures) {
        table.state.set(names::COMPLETE);
        decrease(&self.tables);
        self.count_off();
    }

    fn count_off(&self) {
        decrease(&self.remaining);
        self.completed.set(i64::from(self.remaining.get() == 0));
    }

    /// Counts the time.
    pub fn tick(&self) {
        self.seconds.set(signed(self.begun.elapsed().as_secs()));
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        self.paused_seconds.set(signed(rest.time().as_secs()));
    }
}

impl Drop for SnapshotFigures {
    /// Nobody reads any more, whether all is read or not.
    fn drop(&mut self) {
        self.running.set(0);
        self.paused.set(0);
        self.waits_for.set(Vec::new());
        self.aborted.set(i64::from(self.remaining.get() > 0));
    }
}

impl TableFigures {
    /// It is being read from now on; `estimated` is how many rows it may have, where the source knows.
    pub fn begin(&mut self, estimated: Option<u64>) {
        (self.begun, self.told) = (Instant::now(), Instant::now());
        self.state.set(names::IS_READ);
        self.estimate(estimated);
        info!(table = &*self.name, estimated_rows = self.estimated.get(), "the snapshot reads the table");
    }

    /// Whether it is not begun.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.state.get() == names::WAITS
    }

    /// It may have so many rows.
    pub fn estimate(&self, rows: Option<u64>) {
        self.estimated.set(rows.map_or(-1, signed));
    }

    /// So many more rows were read.
    pub fn add(&mut self, rows: u64, bytes: u64) {
        self.rows.set(self.rows.get().saturating_add(signed(rows)));
        self.bytes.set(self.bytes.get().saturating_add(signed(bytes)));
        let left = rest(self.rows.get(), signed(self.earlier), self.estimated.get(), self.begun.elapsed());
        self.rest.set(left);
        if self.told.elapsed() > TELL {
            self.told = Instant::now();
            info!(
                table = &*self.name,
                rows = self.rows.get(),
                estimated_rows = self.estimated.get(),
                bytes = self.bytes.get(),
                remaining_seconds = left,
                "the snapshot is reading the table"
            );
        }
    }
}

/// How many seconds the rest takes at the rate so far; -1 where that cannot be said.
fn rest(rows: i64, earlier: i64, estimated: i64, elapsed: Duration) -> i64 {
    let read = rows - earlier;
    if estimated < 0 || read <= 0 {
        return -1;
    }
    let left = (estimated - rows).max(0) as f64 / read as f64 * elapsed.as_secs_f64();
    // Saturates; nobody waits that long.
    left.round() as i64
}

fn skipped(metrics: &Arc<dyn Metrics>) -> Gauge {
    metrics.gauge(names::SKIPPED, "1 where no snapshot is taken at the start, since none is asked for.", None)
}

/// Two snapshots of one source, at the start and by a signal, share these figures.
fn decrease(count: &Gauge) {
    count.set((count.get() - 1).max(0));
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use tailwater_api::metrics::Counter;

    use super::*;

    #[derive(Default)]
    struct Figures(Mutex<HashMap<(&'static str, Option<String>), Gauge>>, Remarks);

    impl Metrics for Figures {
        fn counter(&self, _: &'static str, _: &'static str, _: Option<&str>) -> Counter {
            Counter::default()
        }

        fn gauge(&self, name: &'static str, _: &'static str, table: Option<&str>) -> Gauge {
            self.0.lock().unwrap().entry((name, table.map(str::to_owned))).or_default().clone()
        }

        fn remarks(&self, _: &'static str) -> Remarks {
            self.1.clone()
        }
    }

    #[test]
    fn the_rest_follows_from_what_this_run_has_read_and_how_long_it_took() {
        let seconds = Duration::from_secs(10);
        assert_eq!(rest(1000, 0, 4000, seconds), 30);
        assert_eq!(rest(3000, 2000, 4000, seconds), 10, "rows of earlier runs took no time of this one");
        assert_eq!(rest(5000, 0, 4000, seconds), 0, "an estimate that is too low");
        assert_eq!((rest(1000, 0, -1, seconds), rest(0, 0, 4000, seconds)), (-1, -1), "nobody knows");
    }

    #[test]
    fn rests_add_up() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        assert_eq!(Rest { before: Duration::from_secs(5), since: None }.time(), Duration::from_secs(5));
        assert!(Rest { before: Duration::from_secs(5), since: ago(2) }.time() >= Duration::from_secs(7));
    }

    #[test]
    fn a_snapshot_tells_how_far_each_table_is() {
        let figures = Arc::new(Figures::default());
        let metrics: Arc<dyn Metrics> = figures.clone();
        let figure = |name, table: Option<&str>| figures.gauge(name, "", table).get();
        let snapshot = SnapshotFigures::begin(&metrics);
        snapshot.complete(&mut snapshot.table("public.before", 7));
        let (mut orders, gone) = (snapshot.table("public.orders", 0), snapshot.table("public.gone", 0));
        assert_eq!((figure(names::TABLES, None), figure(names::TABLES_REMAINING, None), figure(names::RUNNING, None)), (3, 2, 1));
        assert_eq!(figure(names::TABLE_STATE, Some("public.orders")), names::WAITS);
        orders.begin(Some(10));
        orders.add(4, 400);
        assert_eq!(figure(names::TABLE_STATE, Some("public.orders")), names::IS_READ);
        assert_eq!((figure(names::TABLE_ROWS, Some("public.orders")), figure(names::TABLE_BYTES, Some("public.orders"))), (4, 400));
        snapshot.complete(&mut orders);
        assert_eq!(figure(names::COMPLETED, None), 0);
        snapshot.wait_for(vec!["somebody".to_owned()]);
        assert_eq!(figures.1.get(), ["somebody"]);
        drop(snapshot);
        assert!(figures.1.get().is_empty(), "nobody waits");
        assert_eq!((figure(names::RUNNING, None), figure(names::ABORTED, None)), (0, 1), "a table is not read");
        let snapshot = SnapshotFigures::go_on(&metrics);
        assert_eq!((figure(names::RUNNING, None), figure(names::ABORTED, None)), (1, 0));
        snapshot.leave_out(&gone);
        snapshot.pause(true);
        assert_eq!((figure(names::COMPLETED, None), figure(names::PAUSED, None)), (1, 1));
        assert_eq!((figure(names::TABLES, None), figure(names::TABLES_REMAINING, None)), (2, 0));
        assert_eq!(figure(names::TABLE_REMAINING_SECONDS, Some("public.orders")), 0);
        drop(snapshot);
        assert_eq!((figure(names::RUNNING, None), figure(names::PAUSED, None), figure(names::ABORTED, None)), (0, 0, 0));
        SnapshotFigures::skip(&metrics);
        assert_eq!(figure(names::SKIPPED, None), 1);
        drop(SnapshotFigures::begin(&metrics));
        assert_eq!(figure(names::SKIPPED, None), 0);
    }
}
