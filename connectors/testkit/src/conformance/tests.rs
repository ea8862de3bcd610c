//! The suites accept a source and a sink that keep their promises, and refuse ones that break them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig};
use tailwater_api::probe::ProbeReport;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkConnector, SinkContext, SinkWriter};
use tailwater_api::source::{Reservation, SourceBatch, SourceConnector, SourceContext};
use tailwater_api::state::{JsonMap, StateChange};
use tailwater_api::{Error, ErrorKind, Record, Result, SchemaAndValue, Value};

use super::{sink, source};

fn record(number: i64) -> Record {
    Record::new("numbers".into(), SchemaAndValue::NONE, SchemaAndValue { schema: None, value: Value::Int64(number) })
}

fn number(record: &Record) -> i64 {
    record.value.value.as_integer().expect("a number")
}

fn map(value: &serde_json::Value) -> JsonMap {
    value.as_object().expect("an object").clone()
}

/// Counts to 10, then follows a clock that others move.
#[derive(Clone, Default)]
struct Counting {
    /// A broken source: its resume points lie one record too far.
    skips: bool,
    clock: Arc<AtomicU64>,
}

impl ConnectorConfig for Counting {
    const FIELDS: &'static [&'static [ConfigField]] = &[];

    fn read(_: &mut ConfigReader<'_>) -> Self {
        Self::default()
    }
}

struct Counter;

impl SourceConnector for Counter {
    const NAME: &'static str = "counter";
    const CLASS: &'static str = "counter";
    type Config = Counting;

    async fn probe(_: &Counting) -> ProbeReport {
        ProbeReport::default()
    }

    async fn run(config: Counting, mut context: SourceContext) -> Result<()> {
        let partition = map(&json!({"counter": 1}));
        let state = |next: i64, clock: u64| {
            vec![StateChange { partition: partition.clone(), offset: Some(map(&json!({"next": next, "clock": clock}))) }]
        };
        let mut next = context.state().get(&partition).map_or(0, |offset| offset["next"].as_i64().expect("a number"));
        let mut clock = 0;
        loop {
            if *context.stopping().borrow() {
                return Ok(());
            }
            if next < 10 {
                let batch = SourceBatch {
                    records: vec![record(next)],
                    state: state(next + 1 + i64::from(config.skips && next == 4), clock),
                    ..SourceBatch::default()
                };
                next += 1;
                context.send(batch, Reservation::new(0, |_| {})).await?;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let now = config.clock.load(Ordering::Relaxed);
                if now != clock {
                    clock = now;
                    context.send(SourceBatch { state: state(next, clock), ..SourceBatch::default() }, Reservation::new(0, |_| {})).await?;
                }
            }
        }
    }
}

fn identity(record: &Record) -> String {
    number(record).to_string()
}

#[tokio::test]
async fn a_source_that_keeps_its_promises_passes() {
    let config = Counting::default();
    source::resumes_from_every_resume_point::<Counter>(&config, 10, identity).await;
    source::outlives_a_stall::<Counter>(&config, 10, Duration::from_millis(50), identity).await;
    source::stops_when_told::<Counter>(&config, 10, identity).await;
    source::advances_while_idle::<Counter>(&config, 10, async || {
        config.clock.store(1, Ordering::Relaxed);
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "records of the source")]
async fn a_source_that_skips_a_record_at_a_resume_point_is_refused() {
    // It ends its work, so that the missing record is seen at once and not after a wait.
    struct Ending;
    impl SourceConnector for Ending {
        const NAME: &'static str = "ending";
        const CLASS: &'static str = "ending";
        type Config = Counting;

        async fn probe(_: &Counting) -> ProbeReport {
            ProbeReport::default()
        }

        async fn run(config: Counting, context: SourceContext) -> Result<()> {
            tokio::time::timeout(Duration::from_millis(300), Counter::run(config, context)).await.unwrap_or(Ok(()))
        }
    }
    source::resumes_from_every_resume_point::<Ending>(&Counting { skips: true, ..Counting::default() }, 10, identity).await;
}

/// A target in memory that holds rows and the position; rows below zero are refused.
#[derive(Clone, Default)]
struct Shelf {
    target: Arc<Mutex<(Vec<i64>, Option<LogPosition>)>>,
    /// A broken sink: `flush` does nothing and rows arrive only with `close`.
    forgets: Arc<AtomicBool>,
}

impl Shelf {
    fn rows(&self) -> Vec<i64> {
        self.target.lock().expect("no test dies while it holds the rows").0.clone()
    }
}

impl ConnectorConfig for Shelf {
    const FIELDS: &'static [&'static [ConfigField]] = &[];

    fn read(_: &mut ConfigReader<'_>) -> Self {
        Self::default()
    }
}

struct ShelfSink;

struct ShelfWriter {
    shelf: Shelf,
    context: SinkContext,
    position: Option<LogPosition>,
}

impl SinkConnector for ShelfSink {
    const NAME: &'static str = "shelf";
    const CLASS: &'static str = "shelf";
    type Config = Shelf;
    type Writer = ShelfWriter;

    async fn probe(_: &Shelf) -> ProbeReport {
        ProbeReport::default()
    }

    async fn open(shelf: Shelf, context: SinkContext) -> Result<ShelfWriter> {
        Ok(ShelfWriter { shelf, context, position: None })
    }
}

impl SinkWriter for ShelfWriter {
    async fn assign(&mut self, _: &[Assignment]) -> Result<Vec<LogPosition>> {
        self.position = self.shelf.target.lock().expect("see rows").1.clone();
        Ok(self.position.clone().into_iter().collect())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<Progress> {
        let mut rows = Vec::new();
        for record in &batch.records {
            if number(&record.record) < 0 {
                self.context.reject(record, Error::new(ErrorKind::Rejected, "put a number on the shelf")).await?;
            } else {
                rows.push(number(&record.record));
            }
        }
        let mut target = self.shelf.target.lock().expect("see rows");
        if target.1 != self.position {
            return Err(Error::new(ErrorKind::Conflict, "put numbers on the shelf"));
        }
        if !self.shelf.forgets.load(Ordering::Relaxed) {
            target.0.extend(rows);
        }
        target.1 = batch.next.first().cloned();
        self.position.clone_from(&target.1);
        Ok(Progress::DurableWithPosition)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn records(numbers: &[i64]) -> Vec<Record> {
    numbers.iter().copied().map(record).collect()
}

#[tokio::test]
async fn a_sink_that_keeps_its_promises_passes() {
    let batches = || vec![records(&[1, 2]), records(&[3])];
    let shelf = Shelf::default();
    sink::flush_means_durable::<ShelfSink, _>(&shelf, batches(), vec![1, 2, 3], async || shelf.rows()).await;
    let shelf = Shelf::default();
    sink::rejected_rows_reach_the_dead_letters::<ShelfSink, _>(&shelf, records(&[1, -2, 3]), &[1], vec![1, 3], async || shelf.rows()).await;
    let shelf = Shelf::default();
    sink::positions_are_in_the_target::<ShelfSink, _>(&shelf, batches(), vec![1, 2, 3], async || shelf.rows()).await;
    let shelf = Shelf::default();
    sink::an_older_writer_is_fenced::<ShelfSink, _>(&shelf, [records(&[1]), records(&[2])], vec![1], async || shelf.rows()).await;
}

#[tokio::test]
#[should_panic(expected = "left == right")]
async fn a_sink_that_forgets_what_it_flushed_is_refused() {
    let shelf = Shelf::default();
    shelf.forgets.store(true, Ordering::Relaxed);
    sink::flush_means_durable::<ShelfSink, _>(&shelf, vec![records(&[1])], vec![1], async || shelf.rows()).await;
}
