//! Runs the source against a throwaway server as the daemon would: takes its batches, keeps what a log would keep, and
//! confirms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tailwater_api::config::{ConfigValues, read_config};
use tailwater_api::envelope::Envelope;
use tailwater_api::metrics::{Counter, Gauge, Metrics, Remarks};
use tailwater_api::record::Record;
use tailwater_api::signal::SignalRequest;
use tailwater_api::source::{ByteBudget, Reservation, SentBatch, SourceConnector, SourceContext};
use tailwater_api::state::{SourceState, StateChange};
use tailwater_api::{Error, Result, Value};
use tailwater_postgres::{PostgresConfig, PostgresConnector};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Long enough for a busy machine; every wait ends earlier when what is waited for happens.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The figures that a source reports.
#[derive(Default)]
pub(crate) struct Figures {
    counters: Mutex<HashMap<&'static str, Counter>>,
    gauges: Mutex<HashMap<(&'static str, Option<String>), Gauge>>,
    remarks: Mutex<HashMap<&'static str, Remarks>>,
}

impl Metrics for Figures {
    fn counter(&self, name: &'static str, _: &'static str, _: Option<&str>) -> Counter {
        self.counters.lock().expect("nobody panics with it").entry(name).or_default().clone()
    }

    fn gauge(&self, name: &'static str, _: &'static str, table: Option<&str>) -> Gauge {
        self.gauges.lock().expect("nobody panics with it").entry((name, table.map(str::to_owned))).or_default().clone()
    }

    fn remarks(&self, name: &'static str) -> Remarks {
        self.remarks.lock().expect("nobody panics with it").entry(name).or_default().clone()
    }
}

struct Generous;

impl ByteBudget for Generous {
    fn reserve(self: Arc<Self>, bytes: usize) -> BoxFuture<'static, Reservation> {
        std::future::ready(Reservation::new(bytes, |_| {})).boxed()
    }
}

/// A budget of so many bytes for one task: more is granted where it holds nothing else.
pub(crate) struct Tight {
    limit: usize,
    held: watch::Sender<usize>,
}

impl Tight {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, held: watch::channel(0).0 }
    }
}

impl ByteBudget for Tight {
    fn reserve(self: Arc<Self>, bytes: usize) -> BoxFuture<'static, Reservation> {
        async move {
            let mut changes = self.held.subscribe();
            let take = |held: &mut usize| {
                let fits = *held == 0 || *held + bytes <= self.limit;
                *held += if fits { bytes } else { 0 };
                fits
            };
            while !self.held.send_if_modified(take) {
                changes.changed().await.expect("the sender is here");
            }
            let budget = Arc::clone(&self);
            Reservation::new(bytes, move |bytes| budget.held.send_modify(|held| *held -= bytes))
        }
        .boxed()
    }
}

/// A server that can be captured, of the version that `TAILWATER_TEST_POSTGRES` names (15, 17 or 18; 15 by default); `None`
/// where it is not installed.
pub(crate) async fn server(settings: &[(&str, &str)]) -> Option<PostgresServer> {
    let version = match std::env::var("TAILWATER_TEST_POSTGRES").as_deref() {
        Ok("17") => Version::V17,
        Ok("18") => Version::V18,
        Ok(_) | Err(_) => Version::V15,
    };
    required_or_skip(PostgresServer::start(version, settings).await)
}

/// A configuration with short intervals; later entries win.
pub(crate) fn config(server: &PostgresServer, entries: &[(&str, &str)]) -> PostgresConfig {
    let mut values: ConfigValues = [
        ("topic.prefix", "shop"),
        ("database.hostname", "127.0.0.1"),
        ("database.user", "postgres"),
        ("database.dbname", "postgres"),
        ("slot.name", "shop"),
        ("publication.name", "shop"),
        ("status.update.interval.ms", "200"),
        ("slot.max.retries", "20"),
        ("slot.retry.delay.ms", "250"),
        ("extended.headers.enabled", "false"),
    ]
    .into_iter()
    .collect();
    values.set("database.port", server.port().to_string());
    for (key, value) in entries {
        values.set(*key, *value);
    }
    match read_config::<PostgresConfig>(&values) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report:?}"),
    }
}

/// What a topic log would hold: published records, the state, pending rows.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
    pub(crate) state: SourceState,
    pending: HashMap<String, Vec<Record>>,
    /// The log after each batch: how many records, which state
    pub(crate) points: Vec<(usize, SourceState)>,
}

impl Log {
    fn take(&mut self, sent: SentBatch) {
        let batch = sent.batch;
        match batch.pending {
            Some(id) => self.pending.entry(id.to_string()).or_default().extend(batch.records),
            None => {
                for id in &batch.publish {
                    let rows = self.pending.remove(&**id).unwrap_or_else(|| panic!("{id} is published without rows"));
                    self.records.extend(rows);
                }
                self.records.extend(batch.records);
            }
        }
        if batch.forget_pending {
            self.pending.clear();
        }
        for change in &batch.state {
            self.state.apply(change);
        }
        self.points.push((self.records.len(), self.state.clone()));
    }

    /// Whether rows wait to be published.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The log as a crash after batch `index` leaves it: pending rows are gone.
    pub(crate) fn after_crash(&self, index: usize) -> Self {
        let (records, state) = &self.points[index];
        Self { records: self.records[..*records].to_vec(), state: state.clone(), ..Self::default() }
    }

    /// Leaves of the state what Debezium would have stored.
    pub(crate) fn forget_own_keys(&mut self) {
        let changes: Vec<_> = self
            .state
            .iter()
            .map(|(partition, offset)| {
                let mut offset = offset.clone();
                offset.retain(|key, _| !key.starts_with("tailwater."));
                StateChange { partition: partition.clone(), offset: Some(offset) }
            })
            .collect();
        changes.iter().for_each(|change| self.state.apply(change));
    }

    fn end(&self) -> Vec<String> {
        self.records[self.records.len().saturating_sub(20)..].iter().map(line).collect()
    }

    /// Records in short: `r public.orders 1 -> {1,a}`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.records.iter().map(line).collect()
    }
}

/// A running source.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<Result<()>>,
    batches: mpsc::Receiver<SentBatch>,
    confirmed: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    pub(crate) signals: mpsc::Sender<SignalRequest>,
    pub(crate) log: Log,
    figures: Arc<Figures>,
    confirms: bool,
}

/// Starts the source on what `log` holds.
pub(crate) fn start(config: &PostgresConfig, log: Log) -> Running {
    start_within(config, log, Arc::new(Generous))
}

/// Starts the source with so much room.
pub(crate) fn start_within(config: &PostgresConfig, log: Log, budget: Arc<dyn ByteBudget>) -> Running {
    let (sender, batches) = mpsc::channel(4);
    let (confirmed, confirmed_receiver) = watch::channel(0);
    let (stop, stop_receiver) = watch::channel(false);
    let (signals, signal_receiver) = mpsc::channel(4);
    let figures = Arc::new(Figures::default());
    let context = SourceContext::new(
        "shop".into(),
        0,
        log.state.clone(),
        sender,
        budget,
        confirmed_receiver,
        stop_receiver,
        signal_receiver,
        figures.clone(),
    );
    let task = tokio::spawn(PostgresConnector::run(config.clone(), context));
    let log = Log { points: Vec::new(), pending: HashMap::new(), ..log };
    Running { task, batches, confirmed, stop, signals, log, figures, confirms: true }
}

impl Running {
    /// From now on nothing becomes durable any more.
    pub(crate) fn refuse_confirmation(&mut self) {
        self.confirms = false;
    }

    /// Takes batches until `done` says so. Panics where the source fails or nothing comes for long.
    pub(crate) async fn until(&mut self, mut done: impl FnMut(&Log) -> bool) {
        while !done(&self.log) {
            match tokio::time::timeout(PATIENCE, self.batches.recv()).await {
                Ok(sent) => self.take(sent).await,
                Err(_) => panic!("nothing came for long; log of {} ends in {:#?}", self.log.records.len(), self.log.end()),
            }
        }
    }

    /// Takes whatever comes until something else has happened.
    pub(crate) async fn meanwhile(&mut self, something: impl Future<Output = ()>) {
        tokio::pin!(something);
        loop {
            tokio::select! {
                () = &mut something => return,
                sent = self.batches.recv() => self.take(sent).await,
            }
        }
    }

    async fn take(&mut self, sent: Option<SentBatch>) {
        let Some(sent) = sent else {
            panic!("the source ended: {:?}; log ends in {:#?}", (&mut self.task).await, self.log.end());
        };
        let number = sent.number;
        self.log.take(sent);
        if self.confirms {
            self.confirmed.send_replace(number);
        }
    }

    /// A figure as it is now.
    pub(crate) fn figure(&self, name: &'static str, table: Option<&str>) -> i64 {
        self.figures.gauge(name, "", table).get()
    }

    /// A figure that can be looked at while the source goes on.
    pub(crate) fn gauge(&self, name: &'static str) -> Gauge {
        self.figures.gauge(name, "", None)
    }

    /// A count as it is now.
    pub(crate) fn count(&self, name: &'static str) -> u64 {
        self.figures.counter(name, "", None).get()
    }

    /// Waits for so many records.
    pub(crate) async fn records(&mut self, count: usize) {
        self.until(|log| log.records.len() >= count).await;
    }

    /// Takes whatever comes within the time.
    pub(crate) async fn for_a_while(&mut self, time: Duration) {
        self.meanwhile(tokio::time::sleep(time)).await;
    }

    /// Ends the source as a crash would.
    pub(crate) async fn crash(self) -> Log {
        self.task.abort();
        let _ = self.task.await;
        self.log
    }

    /// Ends the source in order and takes what it still sends.
    pub(crate) async fn stop(mut self) -> Log {
        self.stop.send_replace(true);
        while let Some(sent) = tokio::time::timeout(PATIENCE, self.batches.recv()).await.expect("the source stops in time") {
            let number = sent.number;
            self.log.take(sent);
            self.confirmed.send_replace(number);
        }
        self.task.await.expect("the source does not panic").expect("the source stops in order");
        self.log
    }

    /// Takes batches until the source ends by itself.
    pub(crate) async fn ended(mut self) -> (Result<()>, Log) {
        while let Some(sent) = tokio::time::timeout(PATIENCE, self.batches.recv()).await.expect("the source ends") {
            let number = sent.number;
            self.log.take(sent);
            self.confirmed.send_replace(number);
        }
        (self.task.await.expect("the source does not panic"), self.log)
    }

    /// The error with which the source ends.
    pub(crate) async fn failed(self) -> Error {
        let (result, _) = self.ended().await;
        result.expect_err("the source fails")
    }
}

/// One record in short.
pub(crate) fn line(record: &Record) -> String {
    let key = show(&record.key.value);
    let table = record.topic.strip_prefix("shop.").unwrap_or(&record.topic);
    match Envelope::of(record) {
        Some(envelope) => {
            format!("{} {table} {key} {}->{}", envelope.operation().code(), show(envelope.before()), show(envelope.after()))
        }
        None if record.is_tombstone() => format!("- {table} {key}"),
        None => format!("? {table} {key}"),
    }
}

/// A value in short.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Unchanged => "unchanged".into(),
        Value::NotInIdentity => "?".into(),
        Value::Boolean(value) => value.to_string(),
        Value::Int8(value) => value.to_string(),
        Value::Int16(value) => value.to_string(),
        Value::Int32(value) => value.to_string(),
        Value::Int64(value) => value.to_string(),
        Value::Float32(value) => value.to_string(),
        Value::Float64(value) => value.to_string(),
        Value::Bytes(bytes) => format!("{bytes:?}"),
        Value::String(text) if text.len() > 40 => format!("text of {}", text.len()),
        Value::String(text) => text.to_string(),
        Value::Array(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(",")),
        Value::Map(_) => "map".into(),
        Value::Struct(values) => format!("{{{}}}", values.iter().map(show).collect::<Vec<_>>().join(",")),
    }
}

/// A field of the source block.
pub(crate) fn source_field(record: &Record, name: &str) -> Value {
    let envelope = Envelope::of(record).expect("a change event");
    let (schema, source) = envelope.source().expect("a source block");
    let (index, _) = schema.field(name).expect("a field of the source block");
    source.as_struct().expect("a struct")[index].clone()
}

/// Waits until a query answers true.
pub(crate) async fn eventually(client: &tokio_postgres::Client, query: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if client.query_one(query, &[]).await.expect("the query runs").get::<_, Option<bool>>(0) == Some(true) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never true: {query}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
