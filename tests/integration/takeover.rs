//! Real Debezium on real Kafka Connect hands a connector over to Tailwater under load, and takes it back.
//!
//! What moves is what stands in Connect's internal topics: the configuration as it was given and the offsets. The replication
//! slot stays where it is, at the server. Connect is stopped in order, so its offsets are those of the last record that it
//! delivered; after a crash Debezium itself would repeat what it had delivered since it last stored them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tailwater_testkit::connect::{ConnectWorker, TOPICS};
use tailwater_testkit::{KafkaBroker, PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, wait_at_most};

const NAME: &str = "shop";
const TOPIC: &str = "shop.public.items";
/// A start of Connect and of a connector in it takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn connector(server: &PostgresServer) -> Value {
    json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "topic.prefix": NAME,
        "database.hostname": "127.0.0.1",
        "database.port": server.port().to_string(),
        "database.user": "postgres",
        "database.password": "unused",
        "database.dbname": "postgres",
        "plugin.name": "pgoutput",
        "slot.name": NAME,
        "publication.name": NAME,
        "publication.autocreate.mode": "filtered",
        "table.include.list": "public.items",
        "poll.interval.ms": "10",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    })
}

/// Inserts rows until it is told to stop: alone, and several in a transaction.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut turn = 0;
            while !stopping.load(Ordering::Relaxed) {
                turn += 1;
                let rows = if turn % 10 == 0 { 7 } else { 1 };
                client.execute(&format!("INSERT INTO items (note) SELECT 'row' FROM generate_series(1, {rows})"), &[]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// How often each row came, by its id.
type Seen = BTreeMap<i64, u32>;

fn see(seen: &mut Seen, change: &Value) {
    let id = change["after"]["id"].as_i64().unwrap_or_else(|| panic!("a row has an id: {change}"));
    *seen.entry(id).or_default() += 1;
}

/// The rows in the topic of the broker.
fn in_kafka(broker: &KafkaBroker) -> Seen {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers()).set("group.id", "look").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let mut seen = Seen::new();
    loop {
        match consumer.poll(Duration::from_secs(5)) {
            Some(Ok(message)) => {
                if let Some(value) = message.payload() {
                    see(&mut seen, &serde_json::from_slice(value).unwrap());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_) | KafkaError::MessageConsumption(_))) => return seen,
            Some(Err(error)) => panic!("{error}"),
            // The topic is not there yet. Were it the broker that is silent, rows would be missing in the end.
            None => return seen,
        }
    }
}

async fn last_id(client: &Client) -> i64 {
    client.query_one("SELECT max(id) FROM items", &[]).await.unwrap().get(0)
}

/// A worker on the topics that Connect leaves.
fn worker(broker: &KafkaBroker) -> Options {
    let topics = TOPICS.map(|(key, topic)| format!("{key}: {topic}\n")).concat();
    let servers = broker.bootstrap_servers();
    // What a setting of Connect's own does not do here is said once.
    Options::default()
        .worker(format!("topics: {{engine: kafka, kafka: {{bootstrap.servers: '{servers}'}}}}\n{topics}"))
        .expect("poll.interval.ms")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debezium_hands_over_and_takes_back_without_a_loss_or_a_repetition() {
    if std::env::var("TAILWATER_LONG").as_deref() != Ok("1") {
        eprintln!("SKIPPED: a minute with real Debezium; TAILWATER_LONG=1 runs it");
        return;
    }
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE items (id bigserial PRIMARY KEY, note text)").await.unwrap();
    client.batch_execute("INSERT INTO items (note) SELECT 'before' FROM generate_series(1, 500)").await.unwrap();
    let config = connector(&server);

    // Debezium: snapshot, then the stream under load; stopped in the middle of it.
    let Some(connect) = required_or_skip(ConnectWorker::start(&broker, &[]).await) else { return };
    let load = Load::start(server.connect("postgres").await.unwrap());
    let answer = reqwest::Client::new()
        .put(format!("{}/connectors/{NAME}/config", connect.url()))
        .header("Content-Type", "application/json")
        .body(config.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    wait_at_most(PATIENCE, "Debezium to stream", async || in_kafka(&broker).len() > 1500).await;
    connect.stop().unwrap();
    let debeziums = in_kafka(&broker);

    // Tailwater on the same topics: nothing is asked of the operator but to start it.
    let home = Home::new();
    let daemon = Daemon::start(&home, &worker(&broker)).await;
    let reached = last_id(&client).await;
    wait_at_most(PATIENCE, "Tailwater to go on", async || {
        assert_eq!(daemon.failure(NAME).await, None);
        in_kafka(&broker).contains_key(&reached)
    })
    .await;
    let (status, answer) = daemon.request("GET", &format!("/connectors/{NAME}/config"), None).await;
    assert_eq!((status, &answer["slot.name"]), (200, &json!(NAME)), "{answer}");
    daemon.stop().await;
    let both = in_kafka(&broker);
    assert!(both.len() > debeziums.len(), "Tailwater has written rows");

    // The way back: Connect goes on with the connector that it knows, at the offset that Tailwater stored.
    let connect = ConnectWorker::start(&broker, &[]).await.unwrap();
    wait_at_most(PATIENCE, "Debezium to go on", async || in_kafka(&broker).len() > both.len() + 500).await;
    load.stop().await;
    let last = last_id(&client).await;
    wait_at_most(PATIENCE, "Debezium to reach the end", async || in_kafka(&broker).contains_key(&last)).await;
    connect.stop().unwrap();

    let all = in_kafka(&broker);
    let missing: Vec<i64> = (1..=last).filter(|id| !all.contains_key(id)).collect();
    assert_eq!(missing, [0_i64; 0], "rows that were lost");
    let repeated: Vec<_> = all.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(repeated, [(&0, &0); 0], "rows that came twice; Debezium had {}, with Tailwater {}", debeziums.len(), both.len());
}
