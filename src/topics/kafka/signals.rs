//! Signals on a topic of Kafka: the channel `kafka` of `signal.enabled.channels`, whatever the worker's own topic log is (Debezium 3.6,
//! "Sending signals to a Debezium connector", "Kafka signaling channel").
//!
//! The topic has one partition. A record whose key is the connector's topic prefix is a signal for it, `{"id": …, "type": …, "data": {…}}`;
//! other records are for others. One signal is handed over after another, and the offset behind it is committed in the consumer's group
//! once the signal is durable with the source or refused; after a crash before that it comes again, under the same id. Debezium commits
//! nothing, and misses what is sent while it is down.
//!
//! Where nothing is committed, reading begins with what is sent since the task runs, or as `signal.consumer.auto.offset.reset` says.
//! Where it begins is committed at once, so that nothing which is sent while the connector is down is missed; and again each hour, since
//! brokers forget what a group without members committed a week ago.
//!
//! A broker or a topic that is away stops nothing but the signals: it is told of and tried again. What does not pass by itself, as a
//! wrong password, is an error of the task.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tailwater_api::config::{ConfigFault, ConfigReport, ConfigValues, split_list};
use tailwater_api::signal::{Signal, SignalRequest};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::client::{ClientSettings, Role};
use super::contents::watermarks;
use super::errors::failed;
use super::observer::{ObservingClient, observing_client};
use super::{PATIENCE, blocking, drop_off_the_async_threads, misconfigured};

const DOING: &str = "read the topic of signals";
const CONSUMER: &str = "signal.consumer.";
/// Settings of Java's consumer that say nothing here: values are read as text, and what is committed and where is said above.
const WITHOUT_EFFECT: &[&str] = &["key.deserializer", "value.deserializer", "group.id", "enable.auto.commit", "bootstrap.servers"];
/// How long one poll waits; a consumer that is dropped is waited for that long.
const WAIT: Duration = Duration::from_millis(200);
/// Time between two commits of the same offset.
const COMMITS: Duration = Duration::from_secs(3600);
/// Time between two tries to read the topic.
const PAUSE: Duration = Duration::from_secs(5);

/// The topic that a connector takes signals from. No Debug: it holds secrets (I14).
pub struct SignalTopic {
    topic: String,
    /// Key of the records that are for this connector
    key: String,
    settings: ClientSettings,
    group: String,
    /// Where to begin without a committed offset, where that is said
    reset: Option<Offset>,
}

/// A record that is for this connector, or why it is no signal.
type Found = std::result::Result<Signal, String>;

impl SignalTopic {
    /// The topic that the configuration of the connector `name` names; `None` where it takes no signals from Kafka. Without I/O (I15).
    ///
    /// # Errors
    /// Every fault at once.
    pub fn of(name: &str, values: &ConfigValues) -> Result<(Option<Self>, ConfigReport), ConfigReport> {
        let mut report = ConfigReport::default();
        let channels = split_list(values.get("signal.enabled.channels").unwrap_or_default());
        if !channels.iter().any(|channel| channel == "kafka") {
            return Ok((None, report));
        }
        let given = |key: &str| values.get(key).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
        let key = given("topic.prefix").unwrap_or_default();
        let topic = given("signal.kafka.topic").unwrap_or_else(|| format!("{key}-signal"));
        // An offset of a group stands for one reader, and connectors may share the topic.
        let group = given("signal.kafka.groupId").unwrap_or_else(|| format!("kafka-signal-{name}"));
        let mut client = ConfigValues::default();
        match given("signal.kafka.bootstrap.servers").or_else(|| given("signal.consumer.bootstrap.servers")) {
            Some(servers) => client.set("topics.kafka.bootstrap.servers", servers),
            None => report.faults.push(ConfigFault {
                key: "signal.kafka.bootstrap.servers".to_owned(),
                message: "is needed where signal.enabled.channels names kafka: host:port of one or more brokers".to_owned(),
            }),
        }
        for (name, value) in values.with_prefix(CONSUMER).filter(|(name, _)| !WITHOUT_EFFECT.contains(name)) {
            client.set(format!("topics.kafka.{name}"), value);
        }
        let reset = match given("signal.consumer.auto.offset.reset").as_deref() {
            Some("earliest") => Some(Offset::Beginning),
            Some("latest") => Some(Offset::End),
            Some(_) | None => None,
        };
        // Without brokers their fault is told above.
        client.get("topics.kafka.bootstrap.servers").is_none().then(|| client.set("topics.kafka.bootstrap.servers", "unknown"));
        let checked = ClientSettings::check(Role::Consumer, &client, None);
        let renamed = |fault: ConfigFault| match fault.key.strip_prefix("topics.kafka.") {
            Some(name) => ConfigFault { key: format!("{CONSUMER}{name}"), ..fault },
            None => fault,
        };
        match checked {
            Ok((settings, notes)) if report.faults.is_empty() => {
                report.notes.extend(notes.notes.into_iter().map(renamed));
                Ok((Some(Self { topic, key, settings, group, reset }), report))
            }
            Ok(_) => Err(report),
            Err(faults) => {
                report.faults.extend(faults.faults.into_iter().map(renamed));
                Err(report)
            }
        }
    }

    /// Reads the topic named by the configuration of a task that begins to run, if there is one, and hands signals over until nobody
    /// takes them any more.
    ///
    /// # Errors
    /// `misconfigured`, `unauthorised` and whatever else does not pass by itself; that a broker or the topic is away is told and tried
    /// again.
    pub async fn listen(name: &str, values: &ConfigValues, signals: mpsc::Sender<SignalRequest>) -> Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (Some(topic), _) = Self::of(name, values).map_err(|report| misconfigured(&report))? else { return Ok(()) };
        let Self { topic, key, settings, group, reset } = topic;
        let mut config = settings.load()?;
        config.set("group.id", group);
        let reader = Reader { config, topic, key, reset, since: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) };
        let mut told = None;
        while let Err(error) = reader.read(&signals, &mut told).await {
            // I11: what does not pass by itself is the task's error. A topic may be made later.
            if !error.kind().is_transient() && error.kind() != ErrorKind::Missing {
                return Err(error);
            }
            // Once for as long as it stays the same.
            if told.replace(error.kind()) != Some(error.kind()) {
                warn!(connector = name, topic = reader.topic, "signals cannot be read, which is tried again: {error}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

struct Reader {
    config: ClientConfig,
    topic: String,
    key: String,
    reset: Option<Offset>,
    /// When the task began to run, in milliseconds
    since: i64,
}

/// A client that is dropped off the async threads.
struct Client(Option<Arc<ObservingClient>>);

impl Client {
    fn get(&self) -> Arc<ObservingClient> {
        self.0.clone().expect("it is taken when it is dropped")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(drop_off_the_async_threads);
    }
}

impl Reader {
    /// Hands signals over until nobody takes them; `told` is the error that was told last.
    async fn read(&self, signals: &mpsc::Sender<SignalRequest>, told: &mut Option<ErrorKind>) -> Result<()> {
        let client = Client(Some(Arc::new(observing_client(&self.config)?)));
        let (asked, topic, reset, since) = (client.get(), self.topic.clone(), self.reset, self.since);
        let begin = blocking(move || begin(&asked, &topic, reset, since)).await?;
        info!(topic = self.topic, offset = begin, "signals are read");
        *told = None;
        let (mut next, mut committed_at) = (begin, Instant::now());
        loop {
            let (polled, key) = (client.get(), self.key.clone());
            let Some((offset, found)) = blocking(move || poll(&polled, &key)).await? else {
                if signals.is_closed() {
                    return Ok(());
                }
                if committed_at.elapsed() > COMMITS {
                    let (committed, topic) = (client.get(), self.topic.clone());
                    blocking(move || commit(&committed, &topic, next)).await?;
                    committed_at = Instant::now();
                }
                continue;
            };
            let outcome = match found {
                None => Ok(()),
                Some(Ok(signal)) => {
                    let (request, answered) = SignalRequest::new(signal);
                    if signals.send(request).await.is_err() {
                        return Ok(());
                    }
                    // Where the source ends before it is durable, the next run takes it.
                    let Ok(outcome) = answered.await else { return Ok(()) };
                    outcome.map_err(|error: Error| error.to_string())
                }
                Some(Err(cause)) => Err(cause),
            };
            if let Err(cause) = outcome {
                warn!(topic = self.topic, offset, "the signal is not carried out: {cause}");
            }
            let (committed, topic) = (client.get(), self.topic.clone());
            (next, committed_at) = (offset + 1, Instant::now());
            blocking(move || commit(&committed, &topic, next)).await?;
        }
    }
}

/// Begins to read behind what is committed, and says where.
fn begin(client: &ObservingClient, topic: &str, reset: Option<Offset>, since: i64) -> Result<i64> {
    let told = |error: rdkafka::error::KafkaError| failed(DOING, &error);
    let place = |offset: Offset| -> Result<TopicPartitionList> {
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, 0, offset).map_err(told)?;
        Ok(place)
    };
    let (first, end) = watermarks(client, topic, 0)?;
    let (first, end) = (i64::try_from(first).unwrap_or(i64::MAX), i64::try_from(end).unwrap_or(i64::MAX));
    let in_list = |list: &TopicPartitionList| list.elements().first().map_or(Offset::Invalid, TopicPartitionListElem::offset);
    let committed = client.committed_offsets(place(Offset::Invalid)?, PATIENCE).map_err(told)?;
    let begin = match (in_list(&committed), reset) {
        (Offset::Offset(offset), _) if (first..=end).contains(&offset) => offset,
        (Offset::Offset(offset), _) => {
            warn!(topic, offset, first, end, "the topic does not hold what stood behind the signals that were read, or was made anew");
            offset.clamp(first, end)
        }
        (_, Some(Offset::Beginning)) => first,
        (_, Some(_)) => end,
        (_, None) => {
            let found = client.offsets_for_times(place(Offset::Offset(since))?, PATIENCE).map_err(told)?;
            if let Offset::Offset(offset) = in_list(&found) { offset } else { end }
        }
    };
    client.assign(&place(Offset::Offset(begin))?).map_err(told)?;
    commit(client, topic, begin)?;
    Ok(begin)
}

/// The next record, where one comes soon: its offset, and its signal where it is for the connector.
fn poll(client: &ObservingClient, key: &str) -> Result<Option<(i64, Option<Found>)>> {
    let Some(polled) = client.poll(WAIT) else { return Ok(None) };
    let message = polled.map_err(|error| failed(DOING, &error))?;
    let is_ours = message.key() == Some(key.as_bytes());
    Ok(Some((message.offset(), is_ours.then(|| Signal::from_json(message.payload().unwrap_or_default())))))
}

fn commit(client: &ObservingClient, topic: &str, offset: i64) -> Result<()> {
    let told = |error: rdkafka::error::KafkaError| failed("commit the offset of a signal", &error);
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, 0, Offset::Offset(offset)).map_err(told)?;
    client.commit(&place, CommitMode::Sync).map_err(told)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    fn values(entries: &[(&str, &str)]) -> ConfigValues {
        [("topic.prefix", "shop"), ("signal.enabled.channels", "source, kafka")].iter().chain(entries).copied().collect()
    }

    #[tokio::test]
    async fn a_topic_or_a_group_that_may_not_be_read_is_the_tasks_error() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("shop-signal", 1, 1).unwrap();
        let servers = cluster.bootstrap_servers();
        for (request, refusal, right) in [
            (RDKafkaApiKey::ListOffsets, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "--topic"),
            (RDKafkaApiKey::OffsetFetch, RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "--group"),
        ] {
            // As often as the client may ask by itself.
            cluster.request_errors(request, &[refusal; 100]);
            let (signals, _taken) = mpsc::channel(1);
            let values = values(&[("signal.kafka.bootstrap.servers", &servers)]);
            let listening = SignalTopic::listen("orders", &values, signals);
            let error = tokio::time::timeout(Duration::from_secs(60), listening).await.expect("it ends").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
            assert!(error.remedy().is_some_and(|mend| mend.starts_with("kafka-acls.sh --add") && mend.contains(right)), "{error:?}");
            cluster.clear_request_errors(request);
        }
    }

    #[test]
    fn the_topic_has_debeziums_keys_and_faults_name_them() {
        let of = |entries: &[(&str, &str)]| SignalTopic::of("orders", &values(entries));
        let Ok((Some(topic), _)) = of(&[("signal.kafka.bootstrap.servers", "a:1"), ("signal.consumer.auto.offset.reset", "earliest")])
        else {
            panic!("it is whole")
        };
        assert_eq!(
            (&*topic.topic, &*topic.key, &*topic.group, topic.reset),
            ("shop-signal", "shop", "kafka-signal-orders", Some(Offset::Beginning))
        );
        let Err(report) = of(&[("signal.consumer.security.protocol", "none")]) else { panic!("two faults") };
        let keys: Vec<_> = report.faults.iter().map(|fault| &*fault.key).collect();
        assert_eq!(keys, ["signal.kafka.bootstrap.servers", "signal.consumer.security.protocol"]);
        let without = ConfigValues::from_iter([("signal.enabled.channels", "source")]);
        assert!(matches!(SignalTopic::of("orders", &without), Ok((None, _))));
    }
}
