//! The Kafka engine: topics of a Kafka cluster, spoken to by librdkafka.
//!
//! - `writer`, `producer`: a source's records become bytes and durable
//! - `transactions`: the same exactly once
//! - `offset_store`: what keeps the offsets of sources
//! - `reader`: the consumer of a sink task
//! - `observer`: clients that only ask, and the first question to a cluster
//! - `creation`: with what options topics are made
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
mod creation;
pub mod errors;
pub mod observer;
pub mod offset_store;
mod producer;
mod reader;
pub mod signals;
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
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_api::config::{ConfigFault, ConfigReport, ConfigValues};
use tailwater_api::record::{Header, Headers, Record, SchemaAndValue, TopicPartition};
use tailwater_api::sink::{LogId, LogPosition};
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result, Value};
use tokio::sync::watch;

use self::client::{ClientSettings, Role, can_administer};
use self::creation::{TopicCreation, TopicOptions};
use self::errors::{failed, failed_with_code};
use self::observer::{ObservingClient, observing_client};
use self::offset_store::OffsetStore;
use self::producer::{Deliveries, Producer};
use self::reader::KafkaReader;
use self::transactions::{TransactionOptions, Transactions, keep_committing};
use self::writer::{HeldProducer, KafkaWriter, Sender, keep_offsets};
use crate::converters::{Converters, KeyAndValue};
use crate::state::kafka::{OffsetsOf, TopicUse};
use crate::topics::{LogReader, LogUser, LogWriter, StoredRecord, Subscription, TopicInfo, TopicLog};

/// How long brokers may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a topic that was just made may take to have leaders.
const LEADERS: Duration = Duration::from_secs(15);
/// Pause between two looks at a topic that has none.
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
    let roles: &[Role] = if is_source { &[Role::Producer, Role::Admin] } else { &[Role::Consumer] };
    let mut report = ConfigReport::default();
    let mut add = |found: ConfigReport| {
        // What the worker file says was checked with it.
        let is_own = |fault: &ConfigFault| connector.get(&fault.key).is_some();
        report.faults.extend(found.faults.into_iter().filter(is_own));
        report.notes.extend(found.notes.into_iter().filter(is_own));
    };
    for role in roles {
        add(ClientSettings::check(*role, worker, Some(connector)).map_or_else(|report| report, |(_, notes)| notes));
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
/// error of a call.
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
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

/// How a source's topics come to be.
struct Topics {
    creation: TopicCreation,
    makes: bool,
    /// Configuration of the client that makes them
    admin: ClientConfig,
    connector: Option<Arc<str>>,
    uses: Arc<Uses>,
}

impl Topics {
    /// Makes sure that `topic` is there and can be written to.
    async fn ensure(&self, producer: &Arc<Producer>, topic: &Arc<str>) -> Result<()> {
        if self.makes {
            let admin = AdminClient::from_config_and_context(&self.admin, DefaultClientContext)
                .map_err(|error| failed("make a Kafka admin client", &error))?;
            let made = creation::make(&admin, topic, self.creation.of(topic)).await;
            made.map_err(|error| producer.context().take_failure().unwrap_or(error))?;
            drop_off_the_async_threads(admin);
        }
        let (producer, name) = (Arc::clone(producer), Arc::clone(topic));
        blocking(move || wait_for_leaders(&producer, &name)).await
    }

    fn used(&self, topic: &Arc<str>) {
        if let Some(connector) = &self.connector {
            self.uses.count(connector, topic, true);
        }
    }
}

/// Returns when every partition of the topic has a leader.
fn wait_for_leaders(producer: &Producer, topic: &str) -> Result<()> {
    let deadline = std::time::Instant::now() + LEADERS;
    loop {
        let metadata = producer.client().fetch_metadata(Some(topic), PATIENCE);
        // That brokers refuse the connection says more than that none has answered.
        let cannot = |error| producer.context().take_failure().unwrap_or_else(|| failed(format!("look for the topic {topic}"), &error));
        let metadata = metadata.map_err(cannot)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let why = match found {
            Some(found) => match found.error() {
                Some(error) => RDKafkaErrorCode::from(error),
                None if found.partitions().iter().all(|partition| partition.leader() >= 0) && !found.partitions().is_empty() => {
                    return Ok(());
                }
                None => RDKafkaErrorCode::LeaderNotAvailable,
            },
            None => RDKafkaErrorCode::UnknownTopicOrPartition,
        };
        if matches!(why, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic)
            || std::time::Instant::now() > deadline
        {
            return Err(failed_with_code(format!("look for the topic {topic}"), why));
        }
        std::thread::sleep(LOOK);
    }
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
        }
        let producer = self.producer(&mut config, user)?;
        let transactions = match options {
            Some(options) => Some(Arc::new(Transactions::open(&producer, options, &config).await?)),
            None => None,
        };
        // I12: what a transaction of before has come to is settled by now.
        self.offsets.settled(&of).await?;
        let state = self.offsets.load(&of).await?;
        let (keeper, durable) = match &transactions {
            Some(transactions) => keep_committing(Arc::clone(transactions), producer.clone(), of, Arc::clone(&self.offsets), self),
            None => keep_offsets(Arc::clone(producer.context()), of, Arc::clone(&self.offsets), self),
        };
        let creation = TopicCreation::read(&user.config).map_err(|report| misconfigured(&report))?;
        let topics = self.topics_of(user, creation, Some(Arc::clone(&user.connector)))?;
        let sender = Sender { producer, converters: self.converters(user)?, bytes: KeyAndValue::default() };
        let refusals = user.refusals.clone();
        Ok(KafkaWriter { topics, state, sender, transactions, durable, accepted: 0, known: HashSet::new(), queued: None, refusals, keeper })
    }

    /// Opens the writer of what no source sends.
    fn open_own(&self) -> Result<KafkaWriter> {
        let user = LogUser::from("worker");
        let producer = self.producer(&mut self.options.client(Role::Producer, None)?, &user)?;
        let of = OffsetsOf::read(&user.connector, &user.config);
        let (keeper, durable) = keep_offsets(Arc::clone(producer.context()), of, Arc::clone(&self.offsets), self);
        let topics = self.topics_of(&user, TopicCreation::with_default(TopicOptions::of_one_partition()), None)?;
        let sender = Sender { producer, converters: self.converters(&user)?, bytes: KeyAndValue::default() };
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

    fn producer(&self, config: &mut ClientConfig, user: &LogUser) -> Result<HeldProducer> {
        // A quarter of the budget is queued for each source; the rest is for what is before that, and for sinks.
        producer::configure(config, self.options.memory_budget / 4);
        let producer = Producer::from_config_and_context(config, Deliveries::new(Arc::clone(&user.connector)));
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

    /// Topics of the cluster with the numbers of their partitions, without Kafka's and Connect's own.
    fn list(&self) -> Result<Vec<(Arc<str>, usize)>> {
        let metadata = self.observer.fetch_metadata(None, PATIENCE).map_err(|error| failed("list the topics", &error))?;
        let own = |name: &str| KAFKAS_OWN.contains(&name) || self.internal.iter().any(|internal| internal == name);
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none() && !own(topic.name()));
        let mut topics: Vec<_> = topics.map(|topic| (Arc::from(topic.name()), topic.partitions().len())).collect();
        topics.sort();
        Ok(topics)
    }

    fn list_with_offsets(&self) -> Result<Vec<TopicInfo>> {
        let mut infos = Vec::new();
        for (name, partitions) in self.list()? {
            let writer = self.uses.writer(&name);
            let offsets = |partition: usize| self.watermarks(&name, partition as u32);
            let partitions = (0..partitions).map(offsets).collect::<Result<_>>()?;
            infos.push(TopicInfo { log: self.log_id(&name), name, writer, partitions });
        }
        Ok(infos)
    }

    /// First offset that is there, offset of the next record.
    fn watermarks(&self, topic: &str, partition: u32) -> Result<(u64, u64)> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let (first, next) = self
            .observer
            .fetch_watermarks(topic, number, PATIENCE)
            .map_err(|error| failed(format!("look for the ends of {topic}-{partition}"), &error))?;
        Ok((u64::try_from(first).unwrap_or(0), u64::try_from(next).unwrap_or(0)))
    }

    fn read_bytes(&self, topic: &Arc<str>, partition: u32, offset: u64, limit: usize) -> Result<Vec<StoredRecord>> {
        let doing = || format!("read {topic}-{partition}");
        let unknown = || Error::new(ErrorKind::Missing, doing()).because("there is no such topic or partition");
        let partitions = self.list()?.into_iter().find(|(name, _)| name == topic).ok_or_else(unknown)?.1;
        if partition as usize >= partitions {
            return Err(unknown());
        }
        let (first, next) = self.watermarks(topic, partition)?;
        let from = offset.max(first);
        let mut found = Vec::new();
        if from >= next || limit == 0 {
            return Ok(found);
        }
        let mut config = self.options.client(Role::Consumer, None)?;
        config
            .set("group.id", format!("{READER_PREFIX}{}", uuid::Uuid::new_v4()))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "1024");
        let consumer = observing_client(&config)?;
        let mut assigned = TopicPartitionList::new();
        let number = i32::try_from(partition).map_err(|_| unknown())?;
        let begin = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        assigned.add_partition_offset(topic, number, begin).map_err(|error| failed(doing(), &error))?;
        consumer.assign(&assigned).map_err(|error| failed(doing(), &error))?;
        while found.len() < limit {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    found.push(StoredRecord { partition, offset, record: raw(Arc::clone(topic), &message) });
                    if offset + 1 >= next {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(failed(doing(), &error)),
                None => return Err(Error::new(ErrorKind::TimedOut, doing()).because("no broker has answered")),
            }
        }
        Ok(found)
    }

    /// A client that speaks for a sink's group without being a member of it.
    fn group_client(&self, group: &str) -> Result<ObservingClient> {
        let mut config = self.options.client(Role::Consumer, None)?;
        config.set("group.id", group_of(group));
        observing_client(&config)
    }

    fn committed_offsets(&self, group: &str) -> Result<Vec<LogPosition>> {
        let mut all = TopicPartitionList::new();
        for (name, partitions) in self.list()? {
            for partition in 0..partitions {
                all.add_partition(&name, i32::try_from(partition).unwrap_or(i32::MAX));
            }
        }
        let committed = self.group_client(group)?.committed_offsets(all, PATIENCE);
        let committed = committed.map_err(|error| failed(format!("read the positions of {group}"), &error))?;
        let position = |element: &TopicPartitionListElem<'_>| {
            let topic_partition = TopicPartition { topic: Arc::from(element.topic()), partition: u32::try_from(element.partition()).ok()? };
            Some(LogPosition { log: self.log_id(element.topic()), topic_partition, offset: offset_of(element.offset())? })
        };
        Ok(committed.elements().iter().filter_map(position).collect())
    }

    /// All positions of a sink as they are after `moves`, each of which must be possible.
    fn moved_offsets(&self, group: &str, moves: Vec<(TopicPartition, Option<u64>)>) -> Result<Vec<LogPosition>> {
        let topics: BTreeMap<_, _> = self.list()?.into_iter().collect();
        let mut positions = self.committed_offsets(group)?;
        for (place, offset) in moves {
            positions.retain(|position| position.topic_partition != place);
            let Some(offset) = offset else { continue };
            let doing = || format!("go to offset {offset} of {place}");
            if topics.get(&place.topic).is_none_or(|partitions| place.partition as usize >= *partitions) {
                return Err(Error::new(ErrorKind::Missing, doing()).because("there is no such topic or partition"));
            }
            let (first, next) = self.watermarks(&place.topic, place.partition)?;
            if !(first..=next).contains(&offset) {
                let why = format!("it has the offsets {first} to {next}");
                return Err(Error::new(ErrorKind::Misconfigured, doing()).because(why));
            }
            positions.push(LogPosition { log: self.log_id(&place.topic), topic_partition: place, offset });
        }
        Ok(positions)
    }

    fn commit_offsets(&self, group: &str, positions: &[LogPosition]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let moved = self.group_client(group)?.commit(&to_list(positions)?, CommitMode::Sync);
        moved.map_err(|error| failed(format!("move the positions of {group}"), &error))
    }

    async fn delete_group(&self, group: &str) -> Result<()> {
        let doing = || format!("forget the positions of {group}");
        let admin = AdminClient::from_config_and_context(&self.options.client(Role::Admin, None)?, DefaultClientContext);
        let admin = admin.map_err(|error| failed(doing(), &error))?;
        let name = group_of(group);
        let deleted = admin.delete_groups(&[&name], &AdminOptions::new().request_timeout(Some(PATIENCE))).await;
        drop_off_the_async_threads(admin);
        match deleted.map_err(|error| failed(doing(), &error))?.into_iter().next() {
            Some(Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound))) | None => Ok(()),
            Some(Err((_, code))) => Err(failed_with_code(doing(), code)),
        }
    }
}

/// Positions as librdkafka takes them.
fn to_list(positions: &[LogPosition]) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for LogPosition { topic_partition: place, offset, .. } in positions {
        let number = i32::try_from(place.partition).unwrap_or(i32::MAX);
        let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
        list.add_partition_offset(&place.topic, number, offset).map_err(|error| failed("name positions", &error))?;
    }
    Ok(list)
}

/// Topics of Kafka itself (4.3, `Topic`, `TopicBasedRemoteLogMetadataManagerConfig`).
const KAFKAS_OWN: [&str; 5] = [OFFSETS, "__transaction_state", "__share_group_state", "__cluster_metadata", "__remote_log_metadata"];
/// A topic that every cluster may have; it does not matter whether this one has.
const OFFSETS: &str = "__consumer_offsets";
/// Begins the names of groups that only look; they commit nothing and join nothing.
const READER_PREFIX: &str = "tailwater-look-";

/// The consumer group of a sink, as Connect names it.
fn group_of(connector: &str) -> String {
    format!("connect-{connector}")
}

/// The offset that a list of partitions says, if it says one.
fn offset_of(offset: Offset) -> Option<u64> {
    match offset {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    }
}

/// A message as it stands on its topic: bytes without a schema.
fn raw(topic: Arc<str>, message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let bytes = |bytes: Option<&[u8]>| SchemaAndValue {
        schema: None,
        value: bytes.map_or(Value::Null, |bytes| Value::Bytes(bytes::Bytes::copy_from_slice(bytes))),
    };
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|header| Header { name: Arc::from(header.key), value: bytes(header.value) }).collect::<Vec<_>>());
    Record {
        topic,
        partition: u32::try_from(message.partition()).ok(),
        timestamp: message.timestamp().to_millis(),
        key: bytes(message.key()),
        value: bytes(message.payload()),
        headers: Headers::new(headers.unwrap_or_default()),
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
            let mut config = log.options.client(Role::Consumer, Some(&user.config))?;
            let reset = reader::configure(&mut config, &group_of(&user.connector), log.options.memory_budget / 4);
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

    fn committed(&self, group: &str) -> BoxFuture<'_, Result<Vec<LogPosition>>> {
        let (log, group) = (self.clone(), group.to_owned());
        Box::pin(blocking(move || log.committed_offsets(&group)))
    }

    fn move_positions(&self, group: &str, moves: Vec<(TopicPartition, Option<u64>)>) -> BoxFuture<'_, Result<()>> {
        let (log, group) = (self.clone(), group.to_owned());
        Box::pin(async move {
            let forgets = moves.iter().any(|(_, offset)| offset.is_none());
            let positions = {
                let (log, group) = (log.clone(), group.clone());
                blocking(move || log.moved_offsets(&group, moves)).await?
            };
            // Kafka forgets a group or nothing. Should this process end before the rest is committed again, the sink reads from the
            // beginning: twice, but all.
            if forgets {
                log.delete_group(&group).await?;
            }
            blocking(move || log.commit_offsets(&group, &positions)).await
        })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        let log = self.clone();
        Box::pin(blocking(move || log.list_with_offsets()))
    }

    fn used_by(&self, connector: &str, _: Option<&Subscription>) -> Vec<(Arc<str>, u64)> {
        let uses = self.uses.lock();
        let of_connector = uses.iter().filter(|((user, _), _)| **user == *connector);
        of_connector.map(|((_, topic), used)| (Arc::clone(topic), used.count)).collect()
    }

    fn read(&self, topic: &str, partition: u32, offset: u64, limit: usize) -> BoxFuture<'_, Result<Vec<StoredRecord>>> {
        let (log, topic) = (self.clone(), Arc::from(topic));
        Box::pin(blocking(move || log.read_bytes(&topic, partition, offset, limit)))
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
