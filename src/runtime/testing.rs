//! Doubles for the runtime's tests: a topic log and a store in memory, and connectors that do as a script says.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig, FieldType};
use tailwater_api::metrics::{Metrics, NoMetrics};
use tailwater_api::probe::ProbeReport;
use tailwater_api::record::{Record, SchemaAndValue, TopicPartition};
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkConnector, SinkContext, SinkRecord, SinkWriter};
use tailwater_api::source::{BatchNumber, SourceBatch, SourceConnector, SourceContext};
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tokio::sync::watch;

use crate::runtime::plugin::{Plugin, SinkPlugin, SourcePlugin};
use crate::runtime::worker::MetricsFactory;
use crate::state::{ConnectorStore, StoredConnector};
use crate::topics::{LogReader, LogUser, LogWriter, PartitionReader, Polled, StoredRecord, Subscription, TopicInfo, TopicLog};

/// Connectors that only tests find.
pub(crate) static PLUGINS: &[&dyn Plugin] =
    &[&SourcePlugin::<ScriptedSource>::new(&[]), &SinkPlugin::<ScriptedSink>::new(&[]), &SinkPlugin::<KeepingSink>::new(&[])];

pub(crate) struct Nobody;

impl MetricsFactory for Nobody {
    fn task(&self, _: &str, _: u32) -> Arc<dyn Metrics> {
        Arc::new(NoMetrics)
    }

    fn forget(&self, _: &str) {}
}

/// Connectors in memory.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<BTreeMap<String, StoredConnector>>);

impl ConnectorStore for MemoryStore {
    fn list(&self) -> BoxFuture<'_, Result<Vec<StoredConnector>>> {
        Box::pin(async { Ok(self.0.lock().unwrap().values().cloned().collect()) })
    }

    fn put(&self, connector: StoredConnector) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.0.lock().unwrap().insert(connector.name.clone(), connector);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> BoxFuture<'_, Result<()>> {
        let name = name.to_owned();
        Box::pin(async move {
            self.0.lock().unwrap().remove(&name);
            Ok(())
        })
    }
}

/// A topic log in memory, one partition a topic.
pub(crate) struct MemoryLog {
    content: Mutex<Content>,
    changed: watch::Sender<u64>,
    /// While true, what is accepted does not become durable
    pub(crate) hold_durability: watch::Sender<bool>,
    /// While true, appends wait
    pub(crate) hold_appends: watch::Sender<bool>,
}

#[derive(Default)]
struct Content {
    topics: BTreeMap<Arc<str>, Topic>,
    states: BTreeMap<String, SourceState>,
    accepted: Vec<(String, Durable, BatchNumber, SourceBatch)>,
    committed: BTreeMap<String, BTreeMap<TopicPartition, LogPosition>>,
    retained_for: Vec<String>,
}

/// Its writer and its records.
type Topic = (Option<Arc<str>>, Vec<Record>);
type Durable = watch::Sender<Result<BatchNumber, Arc<Error>>>;

impl MemoryLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            content: Mutex::default(),
            changed: watch::Sender::new(0),
            hold_durability: watch::Sender::new(false),
            hold_appends: watch::Sender::new(false),
        })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        self.content().topics.get(topic).map(|(_, records)| records.clone()).unwrap_or_default()
    }

    pub(crate) fn retained_for(&self) -> Vec<String> {
        self.content().retained_for.clone()
    }

    pub(crate) fn commit(&self, group: &str, position: LogPosition) {
        self.content().committed.entry(group.to_owned()).or_default().insert(position.topic_partition.clone(), position);
    }

    pub(crate) fn committed_offset(&self, group: &str, topic: &str) -> Option<u64> {
        self.content()
            .committed
            .get(group)?
            .values()
            .find(|position| &*position.topic_partition.topic == topic)
            .map(|position| position.offset)
    }

    /// Lets durability go on.
    pub(crate) fn release(&self) {
        self.hold_durability.send_replace(false);
        self.settle();
    }

    fn settle(&self) {
        if *self.hold_durability.borrow() {
            return;
        }
        let mut content = self.content();
        for (connector, durable, number, batch) in std::mem::take(&mut content.accepted) {
            for record in batch.records {
                let writer = Some(Arc::from(connector.as_str()));
                content.topics.entry(Arc::clone(&record.topic)).or_insert((writer, Vec::new())).1.push(record);
            }
            let state = content.states.entry(connector).or_default();
            batch.state.iter().for_each(|change| state.apply(change));
            let _ = durable.send_replace(Ok(number));
        }
        drop(content);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// A [`MemoryLog`] as the worker sees it.
pub(crate) struct MemoryTopics(pub(crate) Arc<MemoryLog>);

impl TopicLog for MemoryTopics {
    fn writer(&self, user: &LogUser) -> BoxFuture<'_, Result<Box<dyn LogWriter>>> {
        let connector = user.connector.to_string();
        Box::pin(async move {
            let state = self.0.content().states.get(&connector).cloned().unwrap_or_default();
            let writer = MemoryWriter { log: Arc::clone(&self.0), connector, state, durable: watch::Sender::new(Ok(0)) };
            Ok(Box::new(writer) as Box<dyn LogWriter>)
        })
    }

    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            for record in records {
                self.0.content().topics.entry(Arc::clone(&record.topic)).or_default().1.push(record);
            }
            self.0.changed.send_modify(|count| *count += 1);
            Ok(())
        })
    }

    fn reader(&self, user: &LogUser, subscription: Subscription) -> BoxFuture<'_, Result<Box<dyn LogReader>>> {
        let reader = MemoryReader {
            changed: self.0.changed.subscribe(),
            log: Arc::clone(&self.0),
            group: user.connector.to_string(),
            subscription,
            places: BTreeMap::new(),
        };
        Box::pin(async move { Ok(Box::new(reader) as Box<dyn LogReader>) })
    }

    fn retain_for(&self, groups: Vec<(String, Subscription)>) {
        self.0.content().retained_for = groups.into_iter().map(|(group, _)| group).collect();
    }

    fn source_state(&self, user: &LogUser) -> BoxFuture<'_, Result<SourceState>> {
        let state = self.0.content().states.get(&*user.connector).cloned().unwrap_or_default();
        Box::pin(async move { Ok(state) })
    }

    fn committed(&self, user: &LogUser) -> BoxFuture<'_, Result<Vec<LogPosition>>> {
        let committed = self.0.content().committed.get(&*user.connector).map(|group| group.values().cloned().collect()).unwrap_or_default();
        Box::pin(async move { Ok(committed) })
    }

    fn move_positions(&self, user: &LogUser, moves: Vec<(TopicPartition, Option<u64>)>) -> BoxFuture<'_, Result<()>> {
        let group = user.connector.to_string();
        Box::pin(async move {
            for (topic_partition, offset) in moves {
                match offset {
                    Some(offset) => self.0.commit(&group, LogPosition { log: "memory".into(), topic_partition, offset }),
                    None => drop(self.0.content().committed.entry(group.clone()).or_default().remove(&topic_partition)),
                }
            }
            Ok(())
        })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        let info = |(name, (writer, records)): (&Arc<str>, &Topic)| TopicInfo {
            name: Arc::clone(name),
            log: "memory".into(),
            writer: writer.clone(),
            partitions: vec![(0, records.len() as u64)],
        };
        let topics = self.0.content().topics.iter().map(info).collect();
        Box::pin(async move { Ok(topics) })
    }

    fn used_by(&self, connector: &str, subscription: Option<&Subscription>) -> Vec<(Arc<str>, u64)> {
        let is_used = |(name, (writer, _)): &(&Arc<str>, &Topic)| match subscription {
            Some(subscription) => subscription.covers(name).unwrap_or(false),
            None => writer.as_deref() == Some(connector),
        };
        self.0.content().topics.iter().filter(is_used).map(|(name, (_, records))| (Arc::clone(name), records.len() as u64)).collect()
    }

    fn partition_reader(&self, topic: &str, _: u32) -> Box<dyn PartitionReader> {
        Box::new(MemoryPartitionReader(Arc::clone(&self.0), topic.to_owned()))
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

struct MemoryPartitionReader(Arc<MemoryLog>, String);

impl PartitionReader for MemoryPartitionReader {
    fn read(&mut self, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>> {
        let records = self.0.records(&self.1);
        if records.is_empty() {
            return Box::pin(async { Err(Error::new(ErrorKind::Missing, "read a topic")) });
        }
        let stored = records.into_iter().enumerate().skip(offset as usize).take(limit);
        let stored = stored.map(|(offset, record)| StoredRecord { partition: 0, offset: offset as u64, record }).collect();
        Box::pin(async move { Ok(stored) })
    }
}

struct MemoryWriter {
    log: Arc<MemoryLog>,
    connector: String,
    state: SourceState,
    durable: Durable,
}

impl LogWriter for MemoryWriter {
    fn state(&self) -> &SourceState {
        &self.state
    }

    fn append(&mut self, number: BatchNumber, batch: SourceBatch) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut hold = self.log.hold_appends.subscribe();
            hold.wait_for(|hold| !hold).await.expect("the log holds the sender");
            self.log.content().accepted.push((self.connector.clone(), self.durable.clone(), number, batch));
            self.log.settle();
            Ok(())
        })
    }

    fn durable(&self) -> watch::Receiver<Result<BatchNumber, Arc<Error>>> {
        self.durable.subscribe()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let mut hold = self.log.hold_durability.subscribe();
            hold.wait_for(|hold| !hold).await.expect("the log holds the sender");
            self.log.settle();
            Ok(())
        })
    }
}

struct MemoryReader {
    log: Arc<MemoryLog>,
    changed: watch::Receiver<u64>,
    group: String,
    subscription: Subscription,
    places: BTreeMap<TopicPartition, u64>,
}

impl MemoryReader {
    fn next(&mut self, bytes: usize) -> Option<Polled> {
        let content = self.log.content();
        let group = content.committed.get(&self.group);
        let mut assigned = Vec::new();
        for topic in content.topics.keys().filter(|topic| self.subscription.covers(topic).unwrap()) {
            let topic_partition = TopicPartition { topic: Arc::clone(topic), partition: 0 };
            if !self.places.contains_key(&topic_partition) {
                let offset = group.and_then(|group| group.get(&topic_partition)).map_or(0, |position| position.offset);
                self.places.insert(topic_partition.clone(), offset);
                assigned.push(Assignment { topic_partition, log: "memory".into() });
            }
        }
        if !assigned.is_empty() {
            return Some(Polled::Assigned(assigned));
        }
        let mut batch = RecordBatch::default();
        let mut weight = 0;
        for (place, next) in &mut self.places {
            let records = &content.topics[&place.topic].1;
            let before = *next;
            while weight < bytes && (*next as usize) < records.len() {
                let record = records[*next as usize].clone();
                weight += record.weight();
                batch.records.push(SinkRecord { topic: Arc::clone(&place.topic), partition: 0, offset: *next, record });
                *next += 1;
            }
            if *next > before {
                batch.next.push(LogPosition { log: "memory".into(), topic_partition: place.clone(), offset: *next });
            }
        }
        (!batch.records.is_empty()).then_some(Polled::Records(batch))
    }
}

impl LogReader for MemoryReader {
    fn poll(&mut self, bytes: usize) -> BoxFuture<'_, Result<Polled>> {
        Box::pin(async move {
            loop {
                self.changed.mark_unchanged();
                if let Some(polled) = self.next(bytes) {
                    return Ok(polled);
                }
                self.changed.changed().await.expect("the reader holds the log");
            }
        })
    }

    fn seek(&mut self, position: LogPosition) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let end = self.log.records(&position.topic_partition.topic).len() as u64;
            if &*position.log != "memory" || position.offset > end {
                return Err(Error::new(ErrorKind::HistoryGone, format!("go on at offset {}", position.offset)));
            }
            self.places.insert(position.topic_partition, position.offset);
            Ok(())
        })
    }

    fn commit(&mut self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            for position in positions {
                self.log.commit(&self.group, position);
            }
            Ok(())
        })
    }

    fn lag(&self) -> u64 {
        0
    }
}

/// What scripted connectors did, by the connector's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) runs: u32,
    pub(crate) confirmed: u64,
    pub(crate) written: Vec<u64>,
    pub(crate) flushes: u32,
    pub(crate) closed: u32,
    /// Whether the next write of a sink that fails often fails
    pub(crate) fails: bool,
    /// Positions that the target holds
    pub(crate) held: BTreeMap<TopicPartition, LogPosition>,
}

static DEEDS: LazyLock<Mutex<BTreeMap<String, Deeds>>> = LazyLock::new(Mutex::default);

pub(crate) fn deeds(connector: &str) -> Deeds {
    DEEDS.lock().unwrap().get(connector).cloned().unwrap_or_default()
}

pub(crate) fn deed<T>(connector: &str, change: impl FnOnce(&mut Deeds) -> T) -> T {
    change(DEEDS.lock().unwrap().entry(connector.to_owned()).or_default())
}

#[derive(Clone)]
pub(crate) struct Script {
    failing_runs: u32,
    failure: String,
    behaviour: String,
    reject_offset: Option<u64>,
}

impl ConnectorConfig for Script {
    const FIELDS: &'static [&'static [ConfigField]] = &[&[
        ConfigField::new("script.failing.runs", FieldType::Int, "Runs that fail.").default("0"),
        ConfigField::new("script.failure", FieldType::Text, "How they fail: panic, planned or a kind.").default("unreachable"),
        ConfigField::new("script.behaviour", FieldType::Text, "What a sink answers.").default("durable"),
        ConfigField::new("script.reject.offset", FieldType::Long, "Offset that a sink refuses."),
    ]];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        Self {
            failing_runs: reader.number("script.failing.runs"),
            failure: reader.text("script.failure"),
            behaviour: reader.text("script.behaviour"),
            reject_offset: reader.optional_text("script.reject.offset").and_then(|offset| offset.parse().ok()),
        }
    }
}

impl Script {
    fn begin_run(&self, connector: &str) -> Result<()> {
        let run = deed(connector, |deeds| {
            deeds.runs += 1;
            deeds.runs
        });
        if run > self.failing_runs {
            return Ok(());
        }
        assert!(self.failure != "panic", "as the script says");
        if self.failure == "planned" {
            return Err(Error::new(ErrorKind::Restarting, "follow the script").planned());
        }
        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.code() == self.failure).unwrap();
        Err(Error::new(kind, "follow the script"))
    }
}

pub(crate) struct ScriptedSource;

impl SourceConnector for ScriptedSource {
    const NAME: &'static str = "scripted-source";
    const CLASS: &'static str = "test.ScriptedSource";
    type Config = Script;

    fn plan(script: &Script, _: usize) -> Vec<Script> {
        assert!(script.failure != "panic in plan", "as the script says");
        vec![script.clone()]
    }

    async fn probe(_: &Script) -> ProbeReport {
        ProbeReport::default()
    }

    /// Sends one record and watches what is confirmed until the stop.
    async fn run(script: Script, mut context: SourceContext) -> Result<()> {
        let connector = Arc::clone(context.connector());
        script.begin_run(&connector)?;
        let record = Record::new(Arc::clone(&connector), SchemaAndValue::NONE, SchemaAndValue::NONE);
        let reservation = context.reserve(1).await;
        context.send(SourceBatch { records: vec![record], ..SourceBatch::default() }, reservation).await?;
        let mut confirmed = context.confirmed();
        loop {
            tokio::select! {
                () = context.stopped() => return Ok(()),
                Ok(()) = confirmed.changed() => deed(&connector, |deeds| deeds.confirmed = *confirmed.borrow_and_update()),
            }
        }
    }
}

pub(crate) struct ScriptedSink;

pub(crate) struct ScriptedWriter {
    script: Script,
    context: SinkContext,
}

impl SinkConnector for ScriptedSink {
    const NAME: &'static str = "scripted-sink";
    const CLASS: &'static str = "test.ScriptedSink";
    type Config = Script;
    type Writer = ScriptedWriter;

    async fn probe(_: &Script) -> ProbeReport {
        ProbeReport::default()
    }

    async fn open(script: Script, context: SinkContext) -> Result<ScriptedWriter> {
        script.begin_run(context.connector())?;
        Ok(ScriptedWriter { script, context })
    }
}

/// A [`ScriptedSink`] whose target keeps positions, those of [`Deeds::held`].
pub(crate) struct KeepingSink;

impl SinkConnector for KeepingSink {
    const NAME: &'static str = "keeping-sink";
    const CLASS: &'static str = "test.KeepingSink";
    const TARGET_KEEPS_POSITIONS: bool = true;
    type Config = Script;
    type Writer = ScriptedWriter;

    async fn probe(script: &Script) -> ProbeReport {
        ScriptedSink::probe(script).await
    }

    async fn open(script: Script, context: SinkContext) -> Result<ScriptedWriter> {
        ScriptedSink::open(script, context).await
    }
}

impl ScriptedWriter {
    fn note<T>(&self, change: impl FnOnce(&mut Deeds) -> T) -> T {
        deed(self.context.connector(), change)
    }
}

impl SinkWriter for ScriptedWriter {
    async fn assign(&mut self, _: &[Assignment]) -> Result<Vec<LogPosition>> {
        Ok(self.note(|deeds| deeds.held.values().cloned().collect()))
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<Progress> {
        if self.script.behaviour == "stall" {
            std::future::pending::<()>().await;
        }
        if self.script.behaviour == "fails-often"
            && self.note(|deeds| {
                deeds.fails = !deeds.fails;
                deeds.fails
            })
        {
            return Err(Error::new(ErrorKind::TimedOut, "write"));
        }
        for record in &batch.records {
            if self.script.reject_offset == Some(record.offset) {
                let error = Error::new(ErrorKind::Rejected, "write the record").scoped(Scope::Record);
                self.context.reject(record, error).await?;
            } else {
                self.note(|deeds| deeds.written.push(record.offset));
            }
        }
        Ok(match self.script.behaviour.as_str() {
            "accepted" => Progress::Accepted { buffered: batch.records.len() },
            "large-buffer" => Progress::Accepted { buffered: 1 << 40 },
            "position" | "fails-often" => {
                let held = batch.next.iter().map(|position| (position.topic_partition.clone(), position.clone()));
                self.note(|deeds| deeds.held.extend(held));
                Progress::DurableWithPosition
            }
            _ => Progress::Durable,
        })
    }

    async fn flush(&mut self) -> Result<()> {
        self.note(|deeds| deeds.flushes += 1);
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.note(|deeds| deeds.closed += 1);
        Ok(())
    }
}
