//! The Kafka engine: topics of a Kafka cluster, spoken to by librdkafka.
//!
//! - `writer`, `producer`: a source's records become bytes and durable
//! - `transactions`: the same exactly once
//! - `offset_store`: what keeps the offsets of sources
//! - `reader`: the consumer of a sink task
//! - `subscription`: which topics it reads
//! - `groups`: the positions of sinks
//! - `contents`: what stands in the cluster
//! - `partition_reader`: records for whoever only looks
//! - `observer`: clients that only ask, and the first question to a cluster
//! - `creation`: how topics come to be
//! - `unchanged`: what bytes cannot say about a record (I8)
//! - `client`: settings of Java clients as those of librdkafka
//! - `signals`: the topic from which a source takes signals
//! - `errors`: what Kafka's errors mean here
//!
//! What is durable is what all replicas in sync hold (`acks=all`); a reader sees nothing else (I1), and nothing of a transaction that
//! is open or aborted. Without `exactly.once.source.support` a source writes at least once and is not fenced against a worker that was
//! taken for dead (I13).
//!
//! librdkafka has threads of its own. Calls of it that wait for brokers run off the async threads.

pub mod client;
mod contents;
mod creation;
pub mod errors;
mod groups;
pub mod observer;
pub mod offset_store;
mod partition_reader;
mod producer;
mod reader;
pub mod signals;
mod subscription;
#[cfg(test)]
mod tests;
mod transactions;
mod unchanged;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rdkafka::ClientConfig;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::producer::Producer as _;
use tailwater_api::config::{ConfigFault, ConfigReport, ConfigValues};
use tailwater_api::record::{Record, TopicPartition};
use tailwater_api::sink::{LogId, LogPosition};
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, watch};

use self::client::{ClientSettings, Role, can_administer};
use self::creation::{TopicCreation, TopicOptions, Topics};
use self::errors::failed;
use self::observer::ObservingClient;
use self::offset_store::OffsetStore;
use self::partition_reader::KafkaPartitionReader;
use self::producer::{Deliveries, LeavesOut, Producer};
use self::reader::KafkaReader;
use self::transactions::{LostIds, TransactionOptions, Transactions, keep_committing};
use self::writer::{HeldProducer, KafkaWriter, Refused, Sender, keep_offsets};
use crate::converters::{Converters, KeyAndValue};
use crate::state::kafka::{OffsetsOf, TopicUse};
use crate::topics::{LogReader, LogUser, LogWriter, PartitionReader, Subscription, TopicInfo, TopicLog};

/// How long brokers may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two looks at what a broker has not done yet.
const LOOK: Duration = Duration::from_millis(50);

/// What the engine is told.
#[derive(Clone)]
pub struct KafkaOptions {
    /// The worker's flat keys: `topics.kafka.*`, `topic.creation.enable`, and the converters of connectors that name none
    pub worker: ConfigValues,
    /// Bytes that all that is in flight may take (I6)
    pub memory_budget: usize,
}

impl KafkaOptions {
    /// The configuration of a client of the worker, or of a connector.
    fn client(&self, role: Role, connector: Option<&ConfigValues>) -> Result<ClientConfig> {
        // What has no effect was noted when the files were checked.
        let (settings, _) = ClientSettings::check(role, &self.worker, connector).map_err(|report| misconfigured(&report))?;
        settings.load()
    }
}

/// All that is wrong with the keys by which a connector speaks about Kafka: `*.override.*` and `topic.creation.*`.
pub(super) fn check(is_source: bool, connector: &ConfigValues, worker: &ConfigValues) -> ConfigReport {
    let roles = [if is_source { Role::Producer } else { Role::Consumer }, Role::Admin];
    let mut report = ConfigReport::default();
    let mut add = |found: ConfigReport| {
        // What the worker file says was checked with it.
        let is_own = |fault: &ConfigFault| connector.get(&fault.key).is_some();
        report.faults.extend(found.faults.into_iter().filter(is_own));
        report.notes.extend(found.notes.into_iter().filter(is_own));
    };
    for role in roles {
        add(ClientSettings::check(role, worker, Some(connector)).map_or_else(|report| report, |(_, notes)| notes));
    }
    if is_source && let Err(faults) = TopicCreation::read(connector) {
        report.faults.extend(faults.faults);
    }
    if is_source {
        let found = transactions::check(connector, worker);
        report.faults.extend(found.faults);
        report.notes.extend(found.notes);
    }
    report
}

/// Whether sources write their records and offsets in transactions.
pub(super) fn writes_transactions(worker: &ConfigValues) -> bool {
    transactions::are_enabled(worker)
}

/// Whether the consumer of a sink leaves out what is not committed.
pub(super) fn reads_committed(connector: &ConfigValues, worker: &ConfigValues) -> bool {
    let settings = ClientSettings::check(Role::Consumer, worker, Some(connector));
    settings.is_ok_and(|(settings, _)| settings.get("isolation.level") != Some("read_uncommitted"))
}

/// The topic log in a Kafka cluster. Cloning shares it.
#[derive(Clone)]
pub struct KafkaLog {
    options: Arc<KafkaOptions>,
    offsets: Arc<dyn OffsetStore>,
    /// Answers questions about the cluster
    observer: Arc<ObservingClient>,
    /// Begins the identity of every topic's log
    cluster: Arc<str>,
    /// Writes what no source sends
    own: Arc<tokio::sync::Mutex<Option<Own>>>,
    uses: Arc<Uses>,
    /// Connect's own topics, which hold no records
    internal: Arc<[String]>,
    changed: watch::Sender<u64>,
    lost_ids: Arc<LostIds>,
}

/// Which topics the connectors have written and read: those of this process, and what the status topic remembers of earlier ones.
#[derive(Default)]
struct Uses(Mutex<UsesByPlace>);

/// By connector and topic.
type UsesByPlace = BTreeMap<(Arc<str>, Arc<str>), Use>;

struct Use {
    count: u64,
    is_written: bool,
}

impl Uses {
    fn lock(&self) -> MutexGuard<'_, UsesByPlace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, connector: &Arc<str>, topic: &Arc<str>, is_written: bool) {
        let key = (Arc::clone(connector), Arc::clone(topic));
        let mut uses = self.lock();
        let used = uses.entry(key).or_insert(Use { count: 0, is_written });
        used.count += 1;
        used.is_written |= is_written;
    }

    /// The connector that has written `topic`.
    fn writer(&self, topic: &str) -> Option<Arc<str>> {
        let uses = self.lock();
        let mut writers = uses.iter().filter(|((_, used), by)| by.is_written && **used == *topic);
        writers.next().map(|((connector, _), _)| Arc::clone(connector))
    }
}

struct Own {
    writer: KafkaWriter,
    number: u64,
}

/// Passes a line of librdkafka on. What it calls an error is mostly a connection that it makes anew; what stays wrong comes back as the
/// error of a call. So does what ends a client for good, which it logs besides, as `FATAL` or, of transactions, `FATALERR`.
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        _ if matches!(facility, "FATAL" | "FATALERR") => tracing::debug!("librdkafka: {facility}: {message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => tracing::error!("librdkafka: {facility}: {message}"),
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!("librdkafka: {facility}: {message}");
        }
    }
}

/// Runs calls that wait for brokers off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Bug, "speak to Kafka").because(error)),
    }
}

/// Does something that waits for brokers and that nobody waits for.
fn off_the_async_threads(work: impl FnOnce() + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn_blocking(work));
    }
}

/// Drops a client, which waits for its threads and, in a group, for brokers.
fn drop_off_the_async_threads<T: Send + 'static>(client: T) {
    off_the_async_threads(move || drop(client));
}

fn misconfigured(report: &ConfigReport) -> Error {
    let faults: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
    Error::new(ErrorKind::Misconfigured, "read the configuration").because(faults.join("; "))
}

impl KafkaLog {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// `misconfigured` for keys that cannot work, `unreachable` where no broker answers, `unauthorised`.
    pub async fn open(options: KafkaOptions, offsets: Arc<dyn OffsetStore>) -> Result<Self> {
        let internal = [("config", "configs"), ("offset", "offsets"), ("status", "statuses")].map(|(kind, default)| {
            let named = options.worker.get(&format!("{kind}.storage.topic")).map(str::to_owned);
            named.unwrap_or_else(|| format!("tailwater-{default}"))
        });
        let internal = Arc::from(internal);
        let config = options.client(Role::Consumer, None)?;
        let (observer, cluster) = observer::connect(&config).await?;
        Ok(Self {
            options: Arc::new(options),
            offsets,
            observer,
            cluster: Arc::from(cluster),
            own: Arc::default(),
            uses: Arc::default(),
            internal,
            changed: watch::Sender::new(0),
            lost_ids: Arc::default(),
        })
    }

    /// Remembers which topics connectors used before this process. Who of them wrote is not known.
    pub fn remember_uses(&self, uses: Vec<TopicUse>) {
        let remembered =
            uses.into_iter().map(|TopicUse { connector, topic }| ((connector.into(), topic.into()), Use { count: 0, is_written: false }));
        self.uses.lock().extend(remembered);
    }

    /// Identity of a topic's log: the cluster and the name. Kafka gives each topic an id of its own too, which librdkafka's interface in
    /// Rust does not hand out; a topic that was made anew is found out by its end, see [`reader`].
    fn log_id(&self, topic: &str) -> LogId {
        Arc::from(format!("{}/{topic}", self.cluster))
    }

    fn converters(&self, user: &LogUser) -> Result<Converters> {
        let converters = Converters::from_config(&user.config, &self.options.worker, &user.placeholder);
        converters.map(|(converters, _)| converters).map_err(|report| misconfigured(&report))
    }

    /// Opens the writer of a source.
    async fn open_writer(&self, user: &LogUser) -> Result<KafkaWriter> {
        let of = OffsetsOf::read(&user.connector, &user.config);
        let options = TransactionOptions::read(&user.connector, user.task, &user.config, &self.options.worker)?;
        let mut config = self.options.client(Role::Producer, Some(&user.config))?;
        if let Some(options) = &options {
            options.configure(&mut config);
            self.lost_ids.check(&options.id, &*self.offsets, &of).await?;
        }
        let refusals = user.refusals.clone().filter(|refusals| options.is_none() && refusals.tolerates());
        let (refused, records) = mpsc::channel(1);
        let leaves_out = refusals.as_ref().map(|_| LeavesOut { refused, batch: producer::batch_size(&config) });
        let producer = self.producer(&mut config, user, leaves_out)?;
        let transactions = match options {
            Some(options) => Some(Arc::new(Transactions::open(&producer, options, &config, Arc::clone(&self.lost_ids)).await?)),
            None => None,
        };
        // I12: what a transaction of before has come to is settled by now.
        self.offsets.settled(&of).await?;
        let state = self.offsets.load(&of).await?;
        if let Some(transactions) = &transactions {
            transactions.begin_with(&state);
        }
        let (keeper, durable) = match &transactions {
            Some(transactions) => keep_committing(Arc::clone(transactions), producer.clone(), of, Arc::clone(&self.offsets), self),
            None => {
                let refused = refusals.map(|refusals| Refused { records, refusals });
                keep_offsets(Arc::clone(producer.context()), of, Arc::clone(&self.offsets), refused, self)
            }
        };
        let creation = TopicCreation::read(&user.config).map_err(|report| misconfigured(&report))?;
        let topics = self.topics_of(user, creation, Some(Arc::clone(&user.connector)))?;
        let sender = Sender { producer, converters: self.converters(user)?, bytes: KeyAndValue::default(), headers: None };
        let refusals = user.refusals.clone();
        Ok(KafkaWriter { topics, state, sender, transactions, durable, accepted: 0, known: HashSet::new(), queued: None, refusals, keeper })
    }

    /// Opens the writer of what no source sends.
    fn open_own(&self) -> Result<KafkaWriter> {
        let user = LogUser::from("worker");
        let producer = self.producer(&mut self.options.client(Role::Producer, None)?, &user, None)?;
        let of = OffsetsOf::read(&user.connector, &user.config);
        let (keeper, durable) = keep_offsets(Arc::clone(producer.context()), of, Arc::clone(&self.offsets), None, self);
        let topics = self.topics_of(&user, TopicCreation::with_default(TopicOptions::of_one_partition()), None)?;
        let sender = Sender { producer, converters: self.converters(&user)?, bytes: KeyAndValue::default(), headers: None };
        let state = SourceState::default();
        Ok(KafkaWriter {
            topics,
            state,
            sender,
            transactions: None,
            durable,
            accepted: 0,
            known: HashSet::new(),
            queued: None,
            refusals: None,
            keeper,
        })
    }

    fn producer(&self, config: &mut ClientConfig, user: &LogUser, leaves_out: Option<LeavesOut>) -> Result<HeldProducer> {
        // A quarter of the budget is queued for each source; the rest is for what is before that, and for sinks.
        producer::configure(config, self.options.memory_budget / 4, leaves_out.is_some());
        let producer = Producer::from_config_and_context(config, Deliveries::new(Arc::clone(&user.connector), leaves_out));
        Ok(HeldProducer::new(Arc::new(producer.map_err(|error| failed("make a Kafka producer", &error))?)))
    }

    fn topics_of(&self, user: &LogUser, creation: TopicCreation, connector: Option<Arc<str>>) -> Result<Topics> {
        let admin = self.options.client(Role::Admin, Some(&user.config))?;
        let is_off = |enable: &str| enable.trim().eq_ignore_ascii_case("false");
        Ok(Topics {
            creation,
            makes: can_administer(&admin) && !self.options.worker.get("topic.creation.enable").is_some_and(is_off),
            admin,
            connector,
            uses: Arc::clone(&self.uses),
        })
    }

    async fn append_own(&self, records: Vec<Record>) -> Result<()> {
        let (mut durable, number) = {
            let mut own = self.own.lock().await;
            // A call that is dropped half way, and a writer that failed, are not put back: the next call opens a new one.
            let mut opened = match own.take() {
                Some(opened) if opened.writer.durable().borrow().is_ok() => opened,
                Some(_) | None => Own { writer: self.open_own()?, number: 0 },
            };
            opened.number += 1;
            let number = opened.number;
            opened.writer.append(number, tailwater_api::source::SourceBatch { records, ..Default::default() }).await?;
            let durable = opened.writer.durable();
            *own = Some(opened);
            (durable, number)
        };
        // Others append while this waits.
        let ended = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number)).await;
        match ended.as_deref() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.again()),
            Err(_) => Err(Error::new(ErrorKind::Restarting, "keep records of the worker").because("the topic log was closed")),
        }
    }
}

impl TopicLog for KafkaLog {
    fn writer(&self, user: &LogUser) -> BoxFuture<'_, Result<Box<dyn LogWriter>>> {
        let user = user.clone();
        Box::pin(async move { Ok(Box::new(self.open_writer(&user).await?) as Box<dyn LogWriter>) })
    }

    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.append_own(records))
    }

    fn reader(&self, user: &LogUser, subscription: Subscription) -> BoxFuture<'_, Result<Box<dyn LogReader>>> {
        let (log, user) = (self.clone(), user.clone());
        Box::pin(async move {
            let mut config = log.member(&user)?;
            let reset = reader::configure(&mut config, log.options.memory_budget / 4);
            let converters = log.converters(&user)?;
            let reader = KafkaReader::open(log, user.connector, (&config, reset), converters, subscription)?;
            Ok(Box::new(reader) as Box<dyn LogReader>)
        })
    }

    /// What Kafka deletes is a matter of each topic's own `retention.*`.
    fn retain_for(&self, _: Vec<(String, Subscription)>) {}

    fn source_state(&self, user: &LogUser) -> BoxFuture<'_, Result<SourceState>> {
        self.offsets.load(&OffsetsOf::read(&user.connector, &user.config))
    }

    fn committed(&self, user: &LogUser) -> BoxFuture<'_, Result<Vec<LogPosition>>> {
        let (log, user) = (self.clone(), user.clone());
        Box::pin(blocking(move || log.group(&user)?.positions()))
    }

    fn move_positions(&self, user: &LogUser, moves: Vec<(TopicPartition, Option<u64>)>) -> BoxFuture<'_, Result<()>> {
        let (log, user) = (self.clone(), user.clone());
        Box::pin(async move { log.move_group(user, moves).await })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        let log = self.clone();
        Box::pin(blocking(move || log.infos()))
    }

    fn used_by(&self, connector: &str, _: Option<&Subscription>) -> Vec<(Arc<str>, u64)> {
        let uses = self.uses.lock();
        let of_connector = uses.iter().filter(|((user, _), _)| **user == *connector);
        of_connector.map(|((_, topic), used)| (Arc::clone(topic), used.count)).collect()
    }

    fn partition_reader(&self, topic: &str, partition: u32) -> Box<dyn PartitionReader> {
        Box::new(KafkaPartitionReader::new(self.clone(), Arc::from(topic), partition))
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.own.lock().await.take() {
                Some(own) => Box::new(own.writer).close().await,
                None => Ok(()),
            }
        })
    }
}
