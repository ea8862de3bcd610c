//! Plays a recorded case: the same statements, the same configuration, through the binary.
//!
//! Each case has a server of its own, since the creation of a slot waits for the writing transactions of its whole server.
//! A case ends at a fence: the slot has confirmed what was committed last, so every record of it is durable. Where nothing was committed
//! since the slot was made, its own place would count as confirmed before anything is written; then something is committed.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_testkit::kafka::KafkaBroker;
use tailwater_testkit::{PostgresServer, Version};
use tokio_postgres::Client;

use super::recording::{self, Case, KeyedStep, Step, Topics};
use crate::harness::shop::{has_confirmed, is_streaming, log_end};
use crate::harness::{Daemon, Home, Options, wait_at_most, wait_until};

/// Converters as the recording worker had them: JSON with schemas.
const WORKER: &str =
    "key.converter: org.apache.kafka.connect.json.JsonConverter\nvalue.converter: org.apache.kafka.connect.json.JsonConverter\n";

/// Name of the connector.
const GOLDEN: &str = "golden";

/// What playing a case gave.
pub(crate) struct Played {
    /// The records
    pub(crate) topics: Topics,
    /// Why the connector was refused or failed, where it was
    pub(crate) failure: Option<String>,
}

/// The version that a case names, or the one that has pgvector where the case needs it.
pub(crate) fn version(case: &Case) -> Version {
    if extensions(case).contains(&"vector") {
        return Version::V16;
    }
    let major = case.server.strip_prefix("postgres-").and_then(|major| major.parse().ok());
    Version::ALL.into_iter().find(|version| Some(version.major()) == major).unwrap_or_else(|| panic!("no server {}", case.server))
}

/// The header of records with unknown values, which only the Kafka engine writes and Debezium does not know.
const UNCHANGED: &str = "__tailwater.context.unchanged";

/// The worker file for a topic log in this broker, which other cases use too: each has state of its own.
fn on_kafka(broker: &KafkaBroker, case: &str) -> String {
    let mut worker = format!("topics: {{engine: kafka, kafka: {{bootstrap.servers: \"{}\"}}}}\n", broker.bootstrap_servers());
    for topic in ["config", "offset", "status"] {
        worker += &format!("{topic}.storage: {{topic: _{case}-{topic}, replication.factor: 1}}\n");
    }
    for topic in ["offset", "status"] {
        worker += &format!("{topic}.storage.partitions: 1\n");
    }
    worker
}

/// The extensions that a case creates.
fn extensions(case: &Case) -> Vec<&str> {
    let setup = case.setup.as_deref().unwrap_or_default();
    setup.lines().filter_map(|line| line.trim().strip_prefix("create extension ")?.strip_suffix(';')).collect()
}

/// Whether the server has the extensions that the case creates: some are no part of a server's package.
///
/// # Errors
/// `missing`: it has not.
pub(crate) async fn has_extensions(case: &Case, server: &PostgresServer) -> Result<()> {
    let client = server.connect("postgres").await?;
    let query = "SELECT name FROM unnest($1::text[]) AS w (name) WHERE name NOT IN (SELECT name FROM pg_available_extensions)";
    match client.query_opt(query, &[&extensions(case)]).await.unwrap() {
        None => Ok(()),
        Some(row) => {
            let doing = format!("create the extension {}", row.get::<_, &str>(0));
            Err(Error::new(ErrorKind::Missing, doing).mend("scripts/install-test-servers"))
        }
    }
}

/// Plays the case `name` (`postgres/operations`) on a fresh server, through a broker where one is given. `may_fail` says that the
/// connector may log an error.
pub(crate) async fn play(name: &str, server: &PostgresServer, broker: Option<&KafkaBroker>, may_fail: bool) -> Played {
    let case = recording::case(name);
    let database: String =
        name.chars().map(|character| if character.is_alphanumeric() || character == '_' { character } else { '_' }).collect();
    server.create_database(&database).await.unwrap();
    let source = server.connect(&database).await.unwrap();
    if let Some(setup) = &case.setup {
        run(&source, setup).await;
    }
    let mut config = recording::configuration(name).unwrap_or_default();
    // It was recorded as it was at the end; a case that reconfigures begins with what case.yaml says.
    for key in case.reconfigured() {
        match case.config.get(&key) {
            Some(value) => config.insert(key, text(value)),
            None => config.remove(&key),
        };
    }
    for (key, value) in [
        ("database.hostname", json!("127.0.0.1")),
        ("database.port", json!(server.port().to_string())),
        ("database.user", json!("postgres")),
        ("database.password", json!("x")),
    ] {
        config.insert(key.to_owned(), value);
    }
    if let Some(broker) = broker.filter(|_| case.takes_signals_from_kafka()) {
        config.insert("signal.kafka.bootstrap.servers".to_owned(), json!(broker.bootstrap_servers()));
        create_topics(broker, &case.create_topics).await;
    }
    let slot = config["slot.name"].as_str().expect("the recorder named the slot").to_owned();
    let prefix = config["topic.prefix"].as_str().unwrap_or(&database).to_owned();

    let home = Home::new();
    // A case may show old keys and values that are lost in the recorded schema: both are warnings.
    let engine = broker.map(|broker| on_kafka(broker, &database)).unwrap_or_default();
    let mut options = Options::default().worker(format!("{WORKER}{engine}")).expect("\"WARN\"");
    if may_fail {
        options = options.expect("\"ERROR\"");
    }
    let daemon = Daemon::start(&home, &options).await;
    let patterns = case.topics.clone().unwrap_or_else(|| {
        let prefix = regex::escape(&prefix);
        vec![prefix.clone(), format!(r"{prefix}\..*"), format!("__debezium-heartbeat.{prefix}")]
    });
    let mut player = Player { daemon, source, slot, begun: String::new(), config, patterns, failure: None };
    player.start(&case).await;
    // Where Debezium fails and Tailwater does not, it streams.
    let streams = case.streams() || case.fails.is_some();
    for step in case.stream.map(recording::Stream::steps).unwrap_or_default() {
        player.step(step).await;
    }
    if streams && player.failure.is_none() {
        player.failure = player.failure_or_fence().await;
        if player.failure.is_none() {
            player.fence().await;
        }
    }
    let topics = player.topics().await;
    let failure = player.failure.take();
    player.daemon.stop().await;
    Played { topics, failure }
}

struct Player {
    daemon: Daemon,
    source: Client,
    slot: String,
    /// The end of the log when the case began to stream, which is not before the slot's place
    begun: String,
    config: serde_json::Map<String, Value>,
    /// Of the topics that the case writes
    patterns: Vec<String>,
    failure: Option<String>,
}

impl Player {
    async fn start(&mut self, case: &Case) {
        let path = format!("/connectors/{GOLDEN}/config");
        let (status, answer) = self.daemon.request("PUT", &path, Some(&Value::Object(self.config.clone()))).await;
        if status >= 400 {
            self.failure = Some(format!("{status} {answer}"));
        } else if case.fails.is_some() {
            self.failure = self.failure_or(async || is_streaming(&self.source, &self.slot).await).await;
        } else if case.streams() {
            self.wait_for_streaming().await;
        } else {
            self.wait_for_end().await;
        }
        self.begun = log_end(&self.source).await;
    }

    async fn step(&mut self, step: Step) {
        let step = match step {
            Step::Text(sql) => return run(&self.source, &sql).await,
            Step::Keyed(step) => step,
        };
        match *step {
            KeyedStep { sql: Some(sql), .. } => run(&self.source, &sql).await,
            KeyedStep { wait: Some(seconds), .. } => {
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                // That is how long a snapshot took when it was recorded.
                if self.config.contains_key("signal.data.collection") || self.config.contains_key("signal.kafka.topic") {
                    self.fence().await;
                }
            }
            // A pause of the recording lets what was committed arrive; here that is the fence.
            KeyedStep { quiet: Some(_), .. } => self.fence().await,
            KeyedStep { restart: Some(sql), fails, .. } => self.restart(&sql, fails.is_some()).await,
            KeyedStep { reconfigure: Some(changes), .. } => {
                self.fence().await;
                self.config.extend(changes.iter().map(|(key, value)| (key.clone(), text(value))));
                let before = self.reader().await;
                self.daemon.put_connector(GOLDEN, &Value::Object(self.config.clone())).await;
                wait_until("the task to start anew", async || self.reader().await.is_some_and(|pid| Some(pid) != before)).await;
            }
            KeyedStep { expect_failure: Some(_), .. } => self.failure = self.failure_or_fence().await,
            KeyedStep { produce: Some(record), .. } => self.produce(&record).await,
            KeyedStep { registry: Some(_), .. } => panic!("this step needs a schema registry"),
            step => panic!("a step without a known key: {step:?}"),
        }
    }

    /// Writes a signal, and waits until it is carried out: its offset is committed then.
    async fn produce(&self, record: &Value) {
        let [topic, key, value] = ["topic", "key", "value"].map(|part| record[part].as_str().expect("a text").to_owned());
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.config["signal.kafka.bootstrap.servers"].as_str().expect("the broker of the case"));
        let producer: FutureProducer = client.create().unwrap();
        let written = producer.send(FutureRecord::to(&topic).key(&key).payload(&value), Duration::from_secs(60)).await.unwrap();
        client.set("group.id", format!("kafka-signal-{GOLDEN}"));
        let consumer: BaseConsumer = client.create().unwrap();
        wait_until("the signal to be carried out", async || {
            let mut place = TopicPartitionList::new();
            place.add_partition(&topic, written.partition);
            // It waits for the broker, and this thread is the case's own.
            let committed = consumer.committed_offsets(place, Duration::from_secs(5)).unwrap();
            committed.elements()[0].offset() == Offset::Offset(written.offset + 1)
        })
        .await;
    }

    async fn restart(&mut self, sql: &str, fails: bool) {
        self.fence().await;
        let stop = self.daemon.request("PUT", &format!("/connectors/{GOLDEN}/stop"), None).await;
        assert!(stop.0 < 300, "{stop:?}");
        wait_until("the connector to stop", async || {
            let status = self.daemon.status(GOLDEN).await;
            status["connector"]["state"] == "STOPPED" && !is_streaming(&self.source, &self.slot).await
        })
        .await;
        run(&self.source, sql).await;
        let resume = self.daemon.request("PUT", &format!("/connectors/{GOLDEN}/resume"), None).await;
        assert!(resume.0 < 300, "{resume:?}");
        if fails {
            self.failure = Some(self.daemon.wait_for_failure(GOLDEN).await);
        } else {
            self.wait_for_streaming().await;
        }
    }

    async fn wait_for_streaming(&self) {
        self.wait_unless_failed("streaming", async || is_streaming(&self.source, &self.slot).await).await;
    }

    /// Until the slot has confirmed all that is committed, and what signals among it ask for is read or rests.
    async fn fence(&self) {
        let place = self.last_commit().await;
        self.wait_unless_failed("what was committed", async || has_confirmed(&self.source, &self.slot, &place).await).await;
        self.wait_unless_failed("what signals ask for", async || self.has_read_what_was_asked_for().await).await;
    }

    /// A place behind the slot's own, and behind all that is committed.
    async fn last_commit(&self) -> String {
        let place = log_end(&self.source).await;
        if place != self.begun {
            return place;
        }
        // No stream tells of it.
        self.source.batch_execute("COMMENT ON SCHEMA public IS 'fence'").await.unwrap();
        log_end(&self.source).await
    }

    async fn has_read_what_was_asked_for(&self) -> bool {
        let (_, offsets) = self.daemon.request("GET", &format!("/connectors/{GOLDEN}/offsets"), None).await;
        let offsets = offsets["offsets"].as_array().cloned().unwrap_or_default();
        let has = |name: &str| offsets.iter().any(|entry| entry["partition"].get(name).is_some());
        has("tailwater.snapshots") || !has("tailwater.signal")
    }

    /// Why the connector fails, or `None` as soon as the slot has confirmed all that is committed.
    async fn failure_or_fence(&self) -> Option<String> {
        let place = self.last_commit().await;
        self.failure_or(async || has_confirmed(&self.source, &self.slot, &place).await).await
    }

    /// Why the connector fails, or `None` where `works` comes first.
    async fn failure_or(&self, mut works: impl AsyncFnMut() -> bool) -> Option<String> {
        let mut failure = None;
        wait_until("the connector to work or to fail", async || {
            failure = self.daemon.failure(GOLDEN).await;
            failure.is_some() || works().await
        })
        .await;
        failure
    }

    /// A connector that only snapshots is done when its topics stop growing.
    async fn wait_for_end(&self) {
        let mut last = None;
        wait_at_most(Duration::from_secs(60), "the end of the snapshot", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now: usize = self.topics().await.values().map(Vec::len).sum();
            let quiet = now > 0 && last == Some(now);
            last = Some(now);
            quiet
        })
        .await;
    }

    async fn wait_unless_failed(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        wait_until(what, async || {
            if let Some(trace) = self.daemon.failure(GOLDEN).await {
                panic!("waiting for {what}, the task failed: {trace}");
            }
            condition().await
        })
        .await;
    }

    /// Process id of the server's side of the connection that reads the slot.
    async fn reader(&self) -> Option<i32> {
        let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        self.source.query_opt(query, &[&self.slot]).await.unwrap().and_then(|row| row.get(0))
    }

    async fn topics(&self) -> Topics {
        let patterns: Vec<_> = self.patterns.iter().map(|pattern| regex::Regex::new(&format!("^(?:{pattern})$")).unwrap()).collect();
        let mut topics = Topics::new();
        for topic in self.daemon.topics().await {
            if patterns.iter().any(|pattern| pattern.is_match(&topic)) {
                let mut records: Vec<_> = self.daemon.read_topic(&topic).await.iter().map(recording::entry).collect();
                records.iter_mut().for_each(|record| record.headers.retain(|(name, _)| name != UNCHANGED));
                if !records.is_empty() {
                    topics.insert(topic, records);
                }
            }
        }
        topics
    }
}

async fn create_topics(broker: &KafkaBroker, names: &[String]) {
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1))).collect();
    let made = client.create_topics(&topics, &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// A value of a configuration, as Connect takes it.
fn text(value: &Value) -> Value {
    Value::String(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

async fn run(client: &Client, sql: &str) {
    for statement in recording::statements(sql) {
        client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{error:?}\n{statement}"));
    }
}
