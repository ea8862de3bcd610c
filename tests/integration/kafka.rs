//! A daemon whose topics are in Kafka: what others find in the status topic, and brokers that are killed under load.
//!
//! `TAILWATER_BROKER_KILLS=20` sets how often the broker is killed; twice otherwise. With `TAILWATER_LONG=1` it stays away for three minutes in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use tailwater_testkit::{KafkaBroker, PostgresServer, Version, required_or_skip};

use crate::harness::{Daemon, Home, Options, payload, shop, wait_at_most, wait_until};
use crate::kills::{Target, assert_equal, source_rows, write};

/// A broker that starts again on a busy machine, and clients that wait for their next try.
const PATIENCE: Duration = Duration::from_secs(180);

/// A worker whose topics and state are in the broker.
fn worker(broker: &KafkaBroker) -> String {
    let mut worker = format!("topics: {{engine: kafka, kafka: {{bootstrap.servers: '{}'}}}}\n", broker.bootstrap_servers());
    for topic in ["config", "offset", "status"] {
        worker += &format!("{topic}.storage.replication.factor: 1\n");
    }
    for topic in ["offset", "status"] {
        worker += &format!("{topic}.storage.partitions: 1\n");
    }
    // With schemas, from which the sinks make their tables.
    worker + "key.converter: org.apache.kafka.connect.json.JsonConverter\nvalue.converter: org.apache.kafka.connect.json.JsonConverter\n"
}

/// The last value of each key of a topic of one partition.
fn table(broker: &KafkaBroker, topic: &str) -> BTreeMap<String, Value> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers()).set("group.id", "look").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let mut found = BTreeMap::new();
    loop {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => {
                let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
                match message.payload() {
                    Some(value) => drop(found.insert(key, serde_json::from_slice(value).unwrap())),
                    None => drop(found.remove(&key)),
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return found,
            Some(Err(error)) => panic!("{error}"),
            None => panic!("the broker is silent"),
        }
    }
}

async fn wait_for_states(broker: &KafkaBroker, expected: &[(&str, &str)]) {
    let mut found = Vec::new();
    wait_until(&format!("{expected:?} in the status topic"), async || {
        let statuses = table(broker, "tailwater-statuses").into_iter().filter(|(key, _)| !key.starts_with("status-topic-"));
        found = statuses.map(|(key, value)| (key, value["state"].as_str().unwrap_or_default().to_owned())).collect();
        found.iter().map(|(key, state)| (key.as_str(), state.as_str())).eq(expected.iter().copied())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_read_in_the_status_topic_what_connectors_do_and_used_topics_outlive_a_restart() {
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let home = Home::new();
    let options = Options::default().worker(worker(&broker));
    let daemon = Daemon::start(&home, &options).await;
    let rows = serde_json::json!({"connector.class": "generator", "generator.topics": "rows", "generator.rows": "10"});
    daemon.put_connector("rows", &rows).await;
    let topics = async |daemon: &Daemon| daemon.request("GET", "/connectors/rows/topics", None).await.1["rows"]["topics"].clone();
    wait_until("the topic", async || topics(&daemon).await == serde_json::json!(["rows"])).await;
    wait_for_states(&broker, &[("status-connector-rows", "RUNNING"), ("status-task-rows-0", "RUNNING")]).await;
    assert_eq!(daemon.request("PUT", "/connectors/rows/pause", None).await.0, 202);
    wait_for_states(&broker, &[("status-connector-rows", "PAUSED"), ("status-task-rows-0", "PAUSED")]).await;
    daemon.stop().await;
    wait_for_states(&broker, &[("status-connector-rows", "UNASSIGNED"), ("status-task-rows-0", "UNASSIGNED")]).await;
    let used = table(&broker, "tailwater-statuses").remove("status-topic-rows:connector-rows").expect("the topic is in use");
    assert_eq!((&used["topic"]["name"], &used["topic"]["connector"]), (&"rows".into(), &"rows".into()), "{used}");

    // It rests, so what it shows is what was remembered.
    let daemon = Daemon::start(&home, &options).await;
    assert_eq!(topics(&daemon).await, serde_json::json!(["rows"]));
    wait_for_states(&broker, &[("status-connector-rows", "PAUSED"), ("status-task-rows-0", "PAUSED")]).await;
    assert_eq!(daemon.request("PUT", "/connectors/rows/topics/reset", None).await.0, 202);
    assert_eq!(topics(&daemon).await, serde_json::json!([]));
    let is_forgotten = async || !table(&broker, "tailwater-statuses").contains_key("status-topic-rows:connector-rows");
    wait_until("the topic to be forgotten", is_forgotten).await;
    assert_eq!(daemon.request("PUT", "/connectors/rows/stop", None).await.0, 204);
    wait_for_states(&broker, &[("status-connector-rows", "STOPPED")]).await;
    assert_eq!(daemon.request("DELETE", "/connectors/rows", None).await.0, 204);
    wait_for_states(&broker, &[]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_under_load_loses_nothing() {
    let kills: u32 = std::env::var("TAILWATER_BROKER_KILLS").map_or(2, |text| text.parse().expect("TAILWATER_BROKER_KILLS is a number"));
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let Some(mut broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let source = shop::create(&server, 2000).await;
    server.create_database("copy").await.unwrap();
    let target = Target::Postgres(server.connect("copy").await.unwrap());
    let home = Home::new();
    // What does not reach a broker is tried again, and says so.
    let options = Options::default()
        .worker(worker(&broker) + "topics.kafka.producer.delivery.timeout.ms: 10000\n")
        .connector("shop.json", shop::file("shop", &shop::source(&server)))
        .connector("orders.json", shop::file("orders", &shop::copy_of_orders(&server.url("copy"))))
        .connector("visits.json", shop::file("visits", &shop::copy_of_visits(&server.url("copy"))))
        .expect("Kafka")
        .expect("tailwater-")
        .expect("next try in");
    let daemon = Daemon::start(&home, &options).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop)));
    shop::wait_for_streaming(&source, shop::SHOP).await;
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..2000))).await;
        broker.kill().unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..2000))).await;
        broker.start_again().await.unwrap();
    }
    // Away for longer than its producer waits, the source fails, and goes on by itself.
    shop::wait_for_streaming(&source, shop::SHOP).await;
    broker.kill().unwrap();
    let trace = daemon.wait_for_failure("shop").await;
    assert!(trace.contains("next try at"), "{trace}");
    if std::env::var("TAILWATER_LONG").as_deref() == Ok("1") {
        tokio::time::sleep(Duration::from_secs(180)).await;
    }
    broker.start_again().await.unwrap();
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    let place = shop::log_end(&source).await;
    wait_at_most(PATIENCE, "the slot to confirm", async || shop::has_confirmed(&source, shop::SHOP, &place).await).await;
    // At least once: each row of the source stands in the topic, and the copy by key is equal.
    let visits = source_rows(&source, "visits", "page").await;
    let topic = daemon.read_topic(&format!("{}.public.visits", shop::SHOP)).await;
    let seen: BTreeSet<i64> = topic.iter().filter_map(|record| payload(record)["after"]["change"].as_i64()).collect();
    let lost: Vec<_> = visits.iter().filter(|(_, change, _)| !seen.contains(change)).collect();
    assert!(lost.is_empty(), "{} of {} rows are not in the topic: {:?}", lost.len(), visits.len(), &lost[..lost.len().min(10)]);
    let orders = source_rows(&source, "orders", "note").await;
    let mut rows = Vec::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    while rows != orders && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rows = target.rows("shop_public_orders", "note").await;
    }
    assert_equal("orders", &orders, &rows);
    daemon.stop().await;
}
