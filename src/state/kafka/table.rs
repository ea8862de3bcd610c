//! A table of texts on a compacted topic.
//!
//! **Writing.** One idempotent producer with `acks=all` serves all tables; a change is durable when its call returns. Changes
//! of one call are sent one after another, so that a crash leaves a beginning of them and never a later one alone.
//!
//! **Reading.** [`Table::read_to_end`] brings the table up to what the topic held when it was called. The consumer is
//! assigned its partitions anew at the places it has reached: a new assignment makes librdkafka tell of each
//! partition's end again, and only then is the call done. To compare offsets instead would not do: the end of a
//! partition that transactions write to lies behind records that a reader of committed ones never sees.
//!
//! The end is told when a fetch brings nothing, for which brokers take as long as they are let. Where transactions write this is
//! librdkafka's half a second: a commit is answered a moment before its records are shown, and they come within that time. Between calls
//! nothing runs but the next such fetch, which is bounded. The other topics are read when a worker starts, which is not to wait: brokers
//! answer after [`FETCH`], and between calls nothing is assigned.
//!
//! The table itself holds one value a key, in memory, as Connect's own workers do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;
use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::{Error, ErrorKind, Result};

use crate::config::document::fault;
use crate::topics::kafka::client::{ClientSettings, Role, can_administer};
use crate::topics::kafka::errors::{failed, failed_with_code};
use crate::topics::kafka::observer::{self, Observer, ObservingClient, observing_client};

/// How long brokers may take to answer, and to bring the next record or the end of a partition.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at a transaction that is open.
const LOOK: Duration = Duration::from_millis(10);
/// How long a change may take to be durable; the one who waits for it is told then, and tries again.
const DELIVERY: &str = "60000";
/// How long a broker may wait for records where a partition ends, in milliseconds.
const FETCH: &str = "10";
/// Bytes of a partition that may be fetched ahead of the reader, in KiB (I6).
const PREFETCH: &str = "1024";

/// How a table's topic is named and made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableOptions {
    topic: String,
    partitions: i32,
    /// -1 for the brokers' default
    replication_factor: i32,
    /// Further settings of the topic
    settings: Vec<(String, String)>,
    /// Transactions write to it
    has_transactions: bool,
}

impl TableOptions {
    /// Those of configs, offsets and statuses. Keys and defaults are Connect's (4.3, `DistributedConfig`), but for the names of
    /// the topics, which have no defaults there.
    pub(super) fn all(worker: &ConfigValues, report: &mut ConfigReport) -> [Self; 3] {
        let configs = Self::read(worker, "config.storage.", "tailwater-configs", 1, report);
        if configs.partitions != 1 {
            report.faults.push(fault("config.storage.partitions", "must be 1: the order of all configurations is one"));
        }
        let offsets = Self::read(worker, "offset.storage.", "tailwater-offsets", 25, report);
        let offsets = Self { has_transactions: true, ..offsets };
        let statuses = Self::read(worker, "status.storage.", "tailwater-statuses", 5, report);
        [configs, offsets, statuses]
    }

    fn read(worker: &ConfigValues, prefix: &str, topic: &str, partitions: i32, report: &mut ConfigReport) -> Self {
        let mut options =
            Self { topic: topic.to_owned(), partitions, replication_factor: 3, settings: Vec::new(), has_transactions: false };
        for (name, value) in worker.with_prefix(prefix) {
            let mut number = || match value.trim().parse() {
                Ok(number @ (-1 | 1..)) => number,
                Ok(_) | Err(_) => {
                    report.faults.push(fault(&format!("{prefix}{name}"), "must be a positive number, or -1 for the brokers' default"));
                    -1
                }
            };
            match name {
                "topic" => value.trim().clone_into(&mut options.topic),
                "partitions" => options.partitions = number(),
                "replication.factor" => options.replication_factor = number(),
                "cleanup.policy" => report.notes.push(fault(&format!("{prefix}{name}"), "is always compact, and has no effect")),
                _ => options.settings.push((name.to_owned(), value.to_owned())),
            }
        }
        options
    }

    /// The same for another topic.
    pub(super) fn named(&self, topic: &str) -> Self {
        Self { topic: topic.to_owned(), ..self.clone() }
    }

    /// Makes the topic if it is not there, and sees that it is compacted. Without an admin client it must be there.
    async fn ensure(&self, admin: Option<&AdminClient<DefaultClientContext>>) -> Result<()> {
        let Some(admin) = admin else { return Ok(()) };
        let doing = || format!("make the topic {}", self.topic);
        let replication = TopicReplication::Fixed(self.replication_factor);
        let mut topic = NewTopic::new(&self.topic, self.partitions, replication).set("cleanup.policy", "compact");
        for (name, value) in &self.settings {
            topic = topic.set(name, value);
        }
        let limits = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        let made = admin.create_topics([&topic], &limits).await.map_err(|error| failed(doing(), &error))?;
        for outcome in made {
            match outcome {
                Ok(_) => tracing::info!("made the topic {}", self.topic),
                // Without the right to make topics this one may be there all the same; reading it will tell.
                Err((
                    _,
                    RDKafkaErrorCode::TopicAlreadyExists
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed,
                )) => {}
                Err((_, code)) => return Err(failed_with_code(doing(), code)),
            }
        }
        self.check_compaction(admin, &limits).await
    }

    /// On a topic that deletes by age, a connector that is quiet for a week is forgotten.
    async fn check_compaction(&self, admin: &AdminClient<DefaultClientContext>, limits: &AdminOptions) -> Result<()> {
        let doing = || format!("look at the settings of the topic {}", self.topic);
        let described = admin.describe_configs([&ResourceSpecifier::Topic(&self.topic)], limits).await;
        for outcome in described.map_err(|error| failed(doing(), &error))? {
            let policy = match &outcome {
                Ok(resource) => resource.get("cleanup.policy").and_then(|entry| entry.value.as_deref()),
                // Who may not look is believed; Connect does the same.
                Err(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => continue,
                Err(code) => return Err(failed_with_code(doing(), *code)),
            };
            if let Some(policy) = policy.filter(|policy| *policy != "compact") {
                let topic = &self.topic;
                return Err(Error::new(ErrorKind::Misconfigured, format!("keep state in the topic {topic}"))
                    .because(format!("its cleanup.policy is {policy}, so Kafka would delete what is still in force"))
                    .mend(format!("kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=compact")));
            }
        }
        Ok(())
    }
}

/// Settings of the clients that all tables share.
pub(super) struct CheckedClients {
    producer: ClientSettings,
    consumer: ClientSettings,
    admin: ClientSettings,
}

type TableProducer = FutureProducer<Observer>;

/// The clients that all tables share.
pub(super) struct Clients {
    producer: Mutex<TableProducer>,
    /// How it is made
    producer_config: ClientConfig,
    consumer: ClientConfig,
    /// None where a token is needed, see [`can_administer`]
    admin: Option<AdminClient<DefaultClientContext>>,
}

impl Clients {
    pub(super) fn check(worker: &ConfigValues) -> Result<CheckedClients, ConfigReport> {
        let of = |role| ClientSettings::check(role, worker, None).map(|(settings, _)| settings);
        // The keys of all clients are the same, so the faults of one are enough.
        Ok(CheckedClients { producer: of(Role::Producer)?, consumer: of(Role::Consumer)?, admin: of(Role::Admin)? })
    }
}

impl CheckedClients {
    pub(super) fn open(self) -> Result<Clients> {
        let mut producer = self.producer.load()?;
        producer.set("linger.ms", "0").set("delivery.timeout.ms", DELIVERY);
        let mut consumer = self.consumer.load()?;
        consumer
            // librdkafka wants a name; nothing is committed and nobody joins.
            .set("group.id", "tailwater-state")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", PREFETCH)
            // A place that is gone means that the topic was made anew or cut: to be told, not to be skipped.
            .set("auto.offset.reset", "error");
        let admin = self.admin.load()?;
        let admin = can_administer(&admin).then(|| admin.create()).transpose();
        Ok(Clients {
            producer: Mutex::new(new_producer(&producer)?),
            producer_config: producer,
            consumer,
            admin: admin.map_err(|error| failed(OPEN, &error))?,
        })
    }
}

const OPEN: &str = "open a Kafka client for the worker's state";

fn new_producer(config: &ClientConfig) -> Result<TableProducer> {
    FutureProducer::from_config_and_context(config, Observer::default()).map_err(|error| failed(OPEN, &error))
}

impl Clients {
    /// The producer: a new one where the last has met an error after which it writes nothing any more.
    fn producer(&self) -> Result<TableProducer> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reason)) = producer.client().fatal_error() {
            tracing::warn!("the producer of the worker's state has ended, and another one takes its place: {reason}");
            let ended = std::mem::replace(&mut *producer, new_producer(&self.producer_config)?);
            // Its end waits for its threads.
            drop(tokio::task::spawn_blocking(move || drop(ended)));
        }
        Ok(producer.clone())
    }

    /// Sees whether the cluster answers.
    pub(super) async fn connect(&self) -> Result<()> {
        let (client, _) = observer::connect(&self.consumer).await?;
        off_the_async_threads(move || {
            drop(client);
            Ok(())
        })
        .await
    }
}

/// A value and where it stood, for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: String,
    /// Grows with every record read: of two, the larger was read later
    pub(super) order: u64,
}

/// Keys with their values.
pub(super) type Entries = BTreeMap<String, Entry>;

/// A table. Cloning shares it.
#[derive(Clone)]
pub(super) struct Table {
    topic: Arc<str>,
    clients: Arc<Clients>,
    reader: Arc<Mutex<Reader>>,
}

struct Reader {
    topic: Arc<str>,
    has_transactions: bool,
    consumer: ObservingClient,
    /// Offset of the next record of each partition
    next: BTreeMap<i32, i64>,
    entries: Entries,
    read: u64,
}

impl Table {
    pub(super) async fn open(clients: Arc<Clients>, options: TableOptions) -> Result<Self> {
        options.ensure(clients.admin.as_ref()).await?;
        let topic: Arc<str> = Arc::from(options.topic);
        let mut config = clients.consumer.clone();
        if !options.has_transactions {
            config.set("fetch.wait.max.ms", FETCH);
        }
        let reader = {
            let topic = Arc::clone(&topic);
            off_the_async_threads(move || Reader::open(topic, &config, options.has_transactions)).await?
        };
        let table = Self { topic, clients, reader: Arc::new(Mutex::new(reader)) };
        table.read_to_end().await?;
        Ok(table)
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns when no transaction is open any more that was open at the call. Behind the beginning of an open one nothing
    /// is shown to readers of committed records, not even what others committed long ago.
    pub(super) async fn wait_for_transactions(&self) -> Result<()> {
        let reader = Arc::clone(&self.reader);
        let mut config = self.clients.consumer.clone();
        config.set("isolation.level", "read_uncommitted");
        off_the_async_threads(move || reader.lock().unwrap_or_else(PoisonError::into_inner).wait_for_transactions(&config)).await
    }

    /// Reads what was written before this call, by whomever; see also [`Table::wait_for_transactions`].
    pub(super) async fn read_to_end(&self) -> Result<()> {
        let reader = Arc::clone(&self.reader);
        off_the_async_threads(move || reader.lock().unwrap_or_else(PoisonError::into_inner).read_to_end()).await
    }

    /// Looks at what was read so far.
    pub(super) fn with_entries<T>(&self, look: impl FnOnce(&Entries) -> T) -> T {
        look(&self.reader.lock().unwrap_or_else(PoisonError::into_inner).entries)
    }

    /// Writes values, or removals, in this order; all are durable when it returns. If the call is dropped or fails, a beginning
    /// of them is.
    pub(super) async fn put(&self, changes: Vec<(String, Option<String>)>) -> Result<()> {
        for (key, value) in changes {
            let mut record = FutureRecord::<str, str>::to(&self.topic).key(&key);
            record.payload = value.as_deref();
            let sent = self.clients.producer()?.send(record, Timeout::After(PATIENCE)).await;
            sent.map_err(|(error, _)| failed(format!("write to the topic {}", self.topic), &error))?;
        }
        Ok(())
    }
}

impl Reader {
    fn open(topic: Arc<str>, config: &ClientConfig, has_transactions: bool) -> Result<Self> {
        let doing = || format!("read the topic {topic}");
        let consumer = observing_client(config)?;
        let deadline = Instant::now() + PATIENCE;
        // A topic that was just made takes a moment until every broker knows it.
        loop {
            let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).map_err(|error| failed(doing(), &error))?;
            let found = metadata.topics().iter().find(|found| found.name() == &*topic);
            let error = found.and_then(rdkafka::metadata::MetadataTopic::error);
            match found {
                Some(found) if error.is_none() && !found.partitions().is_empty() => {
                    let next = found.partitions().iter().map(|partition| (partition.id(), FROM_THE_BEGINNING)).collect();
                    return Ok(Self { topic, has_transactions, consumer, next, entries: Entries::new(), read: 0 });
                }
                Some(_) | None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                Some(_) | None => {
                    let code = error.map_or(RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::from);
                    return Err(failed_with_code(doing(), code));
                }
            }
        }
    }

    /// `uncommitted` are the settings of a consumer that sees open transactions.
    fn wait_for_transactions(&self, uncommitted: &ClientConfig) -> Result<()> {
        let doing = || format!("look for the end of the topic {}", self.topic);
        let uncommitted = observing_client(uncommitted)?;
        let ends = |consumer: &ObservingClient| {
            let mut asked = TopicPartitionList::new();
            for partition in self.next.keys() {
                asked.add_partition_offset(&self.topic, *partition, Offset::End)?;
            }
            let found = consumer.offsets_for_times(asked, PATIENCE)?;
            Ok(found.elements().iter().map(|element| (element.partition(), element.offset().to_raw())).collect::<BTreeMap<_, _>>())
        };
        let ends = |consumer: &ObservingClient| ends(consumer).map_err(|error: KafkaError| failed(doing(), &error));
        let written = ends(&uncommitted)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let committed = ends(&self.consumer)?;
            if written.iter().all(|(partition, end)| committed.get(partition) >= Some(end)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::new(ErrorKind::TimedOut, doing())
                    .because(format!("a transaction has been open for {} s", PATIENCE.as_secs()))
                    .mend("kafka-transactions.sh find-hanging names it; it ends by itself after its transaction.timeout.ms"));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn read_to_end(&mut self) -> Result<()> {
        let read = self.read_assigned();
        if self.has_transactions {
            return read;
        }
        let unassigned = self.consumer.unassign().map_err(|error| failed(format!("read the topic {}", self.topic), &error));
        read.and(unassigned)
    }

    fn read_assigned(&mut self) -> Result<()> {
        let topic = Arc::clone(&self.topic);
        let fault = |error: &KafkaError| failed(format!("read the topic {topic}"), error);
        let mut assignment = TopicPartitionList::new();
        for (partition, next) in &self.next {
            let place = if *next == FROM_THE_BEGINNING { Offset::Beginning } else { Offset::Offset(*next) };
            assignment.add_partition_offset(&topic, *partition, place).map_err(|error| fault(&error))?;
        }
        self.consumer.assign(&assignment).map_err(|error| fault(&error))?;
        let mut open: BTreeSet<i32> = self.next.keys().copied().collect();
        let mut deadline = Instant::now() + PATIENCE;
        while !open.is_empty() {
            let event = self.consumer.poll(deadline.saturating_duration_since(Instant::now()));
            match event {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let text = |bytes: &[u8]| {
                        String::from_utf8(bytes.to_vec())
                            .map_err(|_| unreadable(&self.topic, &format!("{partition} at offset {offset}"), "it is no UTF-8"))
                    };
                    let key = message.key().map(text).transpose()?;
                    let value = message.payload().map(text).transpose()?;
                    self.read += 1;
                    match (key, value) {
                        (Some(key), Some(value)) => {
                            self.entries.insert(key, Entry { value, order: self.read });
                        }
                        (Some(key), None) => {
                            self.entries.remove(&key);
                        }
                        (None, _) => return Err(unreadable(&self.topic, &format!("{partition} at offset {offset}"), "it has no key")),
                    }
                    self.next.insert(partition, offset + 1);
                    deadline = Instant::now() + PATIENCE;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) => {
                    let error = fault(&error);
                    // librdkafka connects anew by itself; what lasts runs into the deadline.
                    if !error.kind().is_transient() || Instant::now() >= deadline {
                        return Err(error);
                    }
                }
                None if Instant::now() >= deadline => {
                    let cause = format!("no broker has answered for {} s", PATIENCE.as_secs());
                    return Err(Error::new(ErrorKind::TimedOut, format!("read the topic {topic}")).because(cause));
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// What stands for the beginning of a partition that was never read.
const FROM_THE_BEGINNING: i64 = -1;

/// The error of a record that is none of Connect's (I11).
pub(super) fn unreadable(topic: &str, place: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unreadable, format!("read the record {place} of the topic {topic}"))
        .because(why.to_string())
        .mend(format!("write a record with the same key and no value to {topic}, which removes it"))
}

async fn off_the_async_threads<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Bug, "read the worker's state").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    #[test]
    fn connects_keys_name_and_shape_the_topics() {
        let mut report = ConfigReport::default();
        let worker: ConfigValues = [
            ("config.storage.topic", "connect-configs"),
            ("offset.storage.partitions", "3"),
            ("offset.storage.replication.factor", "-1"),
            ("status.storage.min.insync.replicas", "2"),
        ]
        .into_iter()
        .collect();
        let [configs, offsets, statuses] = TableOptions::all(&worker, &mut report);
        assert_eq!(report, ConfigReport::default());
        assert_eq!((configs.topic.as_str(), configs.partitions, configs.replication_factor), ("connect-configs", 1, 3));
        assert_eq!((offsets.topic.as_str(), offsets.partitions, offsets.replication_factor), ("tailwater-offsets", 3, -1));
        assert_eq!(statuses.settings, [("min.insync.replicas".to_owned(), "2".to_owned())]);
        assert_eq!(statuses.partitions, 5);
    }

    #[tokio::test]
    async fn a_producer_that_has_ended_is_followed_by_another() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("state", 1, 1).unwrap();
        let worker: ConfigValues = [("topics.kafka.bootstrap.servers", cluster.bootstrap_servers().as_str())].into_iter().collect();
        let clients = Clients::check(&worker).map_err(|report| report.faults).unwrap().open().unwrap();
        let put = async || clients.producer().unwrap().send(FutureRecord::to("state").key("k").payload("v"), Timeout::Never).await;
        put().await.unwrap();
        // An idempotent producer has no way on from it.
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
        let ended = clients.producer().unwrap();
        put().await.unwrap_err();
        assert!(ended.client().fatal_error().is_some());
        put().await.unwrap();
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let mut report = ConfigReport::default();
        let worker: ConfigValues =
            [("config.storage.partitions", "2"), ("offset.storage.partitions", "0"), ("status.storage.replication.factor", "x")]
                .into_iter()
                .collect();
        TableOptions::all(&worker, &mut report);
        let keys: Vec<_> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["config.storage.partitions", "offset.storage.partitions", "status.storage.replication.factor"]);
    }
}
