//! Connect's own topics, as recorded (`tests/golden/connect-topics`), and tables on a real broker.

use std::path::Path;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use serde_json::{Value, json};
use tailwater_api::ErrorKind;
use tailwater_api::config::ConfigValues;
use tailwater_api::state::{JsonMap, StateChange};
use tailwater_testkit::{KafkaBroker, required_or_skip};

use super::table::{Entries, Entry};
use super::*;
use crate::runtime::worker::{RunState, RunStatus};
use crate::state::{ConnectorStore as _, StoredConnector, TargetState};

/// Key and value of every record of a recorded topic.
fn recorded(topic: &str) -> Vec<(String, Option<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/connect-topics/{topic}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    let record = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        (record["key"].as_str().unwrap().to_owned(), record["value"].as_str().map(str::to_owned))
    };
    text.lines().map(record).collect()
}

fn entries(records: &[(String, Option<String>)]) -> Entries {
    let mut entries = Entries::new();
    for (order, (key, value)) in (0..).zip(records) {
        match value {
            Some(value) => entries.insert(key.clone(), Entry { value: value.clone(), order }),
            None => entries.remove(key),
        };
    }
    entries
}

fn of(connector: &str) -> OffsetsOf {
    OffsetsOf { connector: connector.into(), topic: None }
}

fn map(text: &str) -> JsonMap {
    serde_json::from_str(text).unwrap()
}

#[test]
fn connects_connectors_and_target_states_are_read() {
    let found = configs::connectors("configs", &entries(&recorded("configs"))).unwrap();
    let found: Vec<_> = found.iter().map(|connector| (connector.name.as_str(), connector.target, connector.config.len())).collect();
    let expected = [
        ("shop-file", TargetState::Paused, 7),
        ("shop-mongo", TargetState::Running, 8),
        ("shop-mysql", TargetState::Running, 17),
        ("shop-pg", TargetState::Running, 14),
        ("shop-stopped", TargetState::Stopped, 7),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_connector_is_written_as_connect_writes_it() {
    let recorded = recorded("configs");
    for connector in configs::connectors("configs", &entries(&recorded)).unwrap() {
        let written = configs::changes(&connector, &Entries::new());
        for (key, value) in &written {
            let last = recorded.iter().rfind(|(known, _)| known == key).unwrap();
            assert_eq!(value, &last.1, "{key}");
        }
        // What is there already is not written again.
        assert_eq!(configs::changes(&connector, &entries(&recorded)), []);
    }
}

#[test]
fn a_connector_that_is_stopped_loses_its_tasks_first() {
    let before = entries(&recorded("configs")[..16]);
    let mut connectors = configs::connectors("configs", &before).unwrap();
    let stopped = connectors.iter_mut().find(|connector| connector.name == "shop-stopped").unwrap();
    stopped.target = TargetState::Stopped;
    assert_eq!(configs::changes(stopped, &before), recorded("configs")[16..18]);
}

#[test]
fn a_connectors_file_survives_and_values_are_text() {
    let config = map(r#"{"name":"a","tasks.max":1}"#);
    let connector = StoredConnector { name: "a".into(), config, target: TargetState::Running, file: Some("a.yaml".into()) };
    let written = configs::changes(&connector, &Entries::new());
    assert_eq!(written.len(), 1);
    let read = configs::connectors("configs", &entries(&written)).unwrap();
    assert_eq!(read[0].file.as_deref(), Some("a.yaml"));
    assert_eq!(read[0].config, map(r#"{"name":"a","tasks.max":"1"}"#));
}

// I11
#[test]
fn what_is_none_of_connects_is_named() {
    for (key, value) in [("connector-a", "{}"), ("connector-a", "no json"), ("target-state-a", r#"{"state":"x"}"#)] {
        let mut records = vec![("connector-a".to_owned(), Some(r#"{"properties":{}}"#.to_owned()))];
        records.push((key.to_owned(), Some(value.to_owned())));
        let error = configs::connectors("the-topic", &entries(&records)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable);
        assert!(error.to_string().contains(key) && error.to_string().contains("the-topic"), "{error}");
    }
    for key in ["no json", "{}", "[\"a\"]", "[\"a\",1]", "[1,{}]", "[\"a\",{},{}]"] {
        let records = [(key.to_owned(), Some("{}".to_owned()))];
        assert!(offsets::of_connector("offsets", "a", &entries(&records)).is_err(), "{key}");
    }
}

#[test]
fn connects_offsets_are_read_and_written_alike() {
    let recorded = recorded("offsets");
    let entries = entries(&recorded);
    for (connector, partition) in [
        ("shop-pg", r#"{"server":"shop-pg"}"#),
        ("shop-mysql", r#"{"server":"shop-mysql"}"#),
        ("shop-mongo", r#"{"server_id":"shop-mongo"}"#),
    ] {
        let (state, keys) = offsets::of_connector("offsets", connector, &entries).unwrap();
        let offset = state.get(&map(partition)).unwrap().clone();
        let change = StateChange { partition: map(partition), offset: Some(offset) };
        let last = recorded.iter().rfind(|(key, _)| key.contains(connector)).unwrap();
        assert_eq!(offsets::records(connector, std::slice::from_ref(&change), &keys), std::slice::from_ref(last));
        assert_eq!(offsets::records(connector, &[change], &[]), std::slice::from_ref(last), "without a known key");
    }
}

#[test]
fn a_partition_keeps_the_key_that_it_is_known_by() {
    let written = r#"["a",{"table":"t","protocol":"1"}]"#;
    let entries = entries(&[(written.to_owned(), Some("{}".to_owned()))]);
    let (_, keys) = offsets::of_connector("offsets", "a", &entries).unwrap();
    let change = StateChange { partition: map(r#"{"protocol":"1","table":"t"}"#), offset: None };
    assert_eq!(offsets::records("a", &[change], &keys), [(written.to_owned(), None)]);
}

#[test]
fn only_changes_that_follow_each_other_directly_become_one() {
    let change = |partition: &str, offset: u64| StateChange {
        partition: map(&format!(r#"{{"p":"{partition}"}}"#)),
        offset: Some(map(&format!(r#"{{"o":{offset}}}"#))),
    };
    let records = offsets::records("c", &[change("a", 1), change("a", 2), change("b", 3), change("a", 4)], &[]);
    let values: Vec<_> = records.iter().map(|(_, value)| value.as_deref().unwrap()).collect();
    assert_eq!(values, [r#"{"o":2}"#, r#"{"o":3}"#, r#"{"o":4}"#]);
}

#[test]
fn statuses_are_written_as_connect_writes_them() {
    let recorded = recorded("status");
    // The version is that of the plug-in, ours.
    let ours = |text: &str| text.replace("\"3.6.1.Final\"", "\"4.3.1\"").replace("4.3.1", env!("CARGO_PKG_VERSION"));
    let status = |connector: &str, task, state| StatusChange::Status(connector.to_owned(), RunStatus { task, state, trace: None });
    for (place, change, generation) in [
        (0, status("shop-file", None, RunState::Running), 8),
        (5, status("shop-stopped", Some(0), RunState::Unassigned), 11),
        (7, StatusChange::Gone("shop-stopped".to_owned(), Some(0)), 11),
        (9, status("shop-file", Some(0), RunState::Paused), 13),
        (10, status("shop-pg", Some(0), RunState::Running), 3),
        (2, StatusChange::Used(used("shop-file", "shop-pg.public.items"), 1_795_229_914_011), 0),
    ] {
        let (key, value) = &recorded[place];
        assert_eq!(statuses::record(&change, "127.0.0.1:18084", generation), (key.clone(), value.as_deref().map(ours)));
    }
    assert_eq!(statuses::next_generation("status", &entries(&recorded)).unwrap(), 14);
}

fn used(connector: &str, topic: &str) -> TopicUse {
    TopicUse { connector: connector.to_owned(), topic: topic.to_owned() }
}

#[test]
fn every_key_that_connect_writes_is_read() {
    let (mut places, mut uses) = (Vec::new(), Vec::new());
    for key in entries(&recorded("status")).keys() {
        match (statuses::place(key), statuses::topic_use(key)) {
            (Some(place), None) => places.push(place),
            (None, Some(used)) => uses.push(used),
            both => panic!("{key}: {both:?}"),
        }
    }
    assert!(places.contains(&("shop-stopped".to_owned(), None)) && !places.contains(&("shop-stopped".to_owned(), Some(0))));
    assert!(places.contains(&("shop-mysql".to_owned(), Some(0))));
    uses.retain(|used| used.connector == "shop-mysql");
    assert_eq!(uses, [used("shop-mysql", "shop-mysql.internal.items"), used("shop-mysql", "shop-mysql")]);
    let odd = used("a-1:connector-b", "t");
    let (key, _) = statuses::record(&StatusChange::Forgotten(odd.clone()), "w", 1);
    assert_eq!(statuses::topic_use(&key), Some(odd));
}

fn worker(broker: &KafkaBroker) -> ConfigValues {
    let mut worker = ConfigValues::default();
    worker.set("topics.kafka.bootstrap.servers", broker.bootstrap_servers());
    for topic in ["config", "offset", "status"] {
        worker.set(format!("{topic}.storage.replication.factor"), "1");
    }
    worker
}

#[tokio::test]
async fn state_is_durable_and_seen_by_the_next_worker() {
    let Some(mut broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let state = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.unwrap();
    let connector = StoredConnector {
        name: "shop".into(),
        config: map(r#"{"name":"shop","connector.class":"x"}"#),
        target: TargetState::Paused,
        file: None,
    };
    state.configs.put(connector.clone()).await.unwrap();
    assert_eq!(state.configs.list().await.unwrap(), std::slice::from_ref(&connector));
    let partition = map(r#"{"server":"shop"}"#);
    for lsn in 1..=3 {
        let change = StateChange { partition: partition.clone(), offset: Some(map(&format!(r#"{{"lsn":{lsn}}}"#))) };
        state.offsets.put(&of("shop"), &[change]).await.unwrap();
    }
    let failed = RunStatus { task: Some(0), state: RunState::Failed, trace: Some("why".into()) };
    let items = used("shop", "shop.public.items");
    state.statuses.put(&[StatusChange::Status("shop".to_owned(), failed), StatusChange::Used(items.clone(), 7)]).await.unwrap();
    drop(state);

    // What was acknowledged is there after a crash of the broker.
    broker.kill().unwrap();
    broker.start_again().await.unwrap();
    let next = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.unwrap();
    assert_eq!(next.configs.list().await.unwrap(), [connector]);
    assert_eq!(next.offsets.load(&of("shop")).await.unwrap().get(&partition), Some(&map(r#"{"lsn":3}"#)));
    assert!(next.offsets.load(&of("another")).await.unwrap().is_empty());
    assert_eq!((next.statuses.places(), next.statuses.uses()), (vec![("shop".to_owned(), Some(0))], vec![items.clone()]));

    next.configs.remove("shop").await.unwrap();
    next.offsets.put(&of("shop"), &[StateChange { partition, offset: None }]).await.unwrap();
    next.statuses.put(&[StatusChange::Gone("shop".to_owned(), Some(0)), StatusChange::Forgotten(items)]).await.unwrap();
    assert_eq!(next.configs.list().await.unwrap(), []);
    assert!(next.offsets.load(&of("shop")).await.unwrap().is_empty());
    let last = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.unwrap();
    assert_eq!((last.statuses.places(), last.statuses.uses()), (vec![], vec![]));
}

#[tokio::test]
async fn what_others_write_is_seen_also_behind_a_transaction() {
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let state = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.unwrap();
    let client = |transactional: bool| -> FutureProducer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.bootstrap_servers()).set("partitioner", "murmur2_random");
        if transactional {
            config.set("transactional.id", "connect-cluster");
        }
        config.create().unwrap()
    };
    let send = async |producer: &FutureProducer, lsn: u64| {
        let value = json!({"lsn": lsn}).to_string();
        let record = FutureRecord::<str, str>::to("tailwater-offsets").key(r#"["c",{"server":"s"}]"#).payload(&value);
        producer.send(record, Timeout::Never).await.unwrap();
    };
    let read = async || state.offsets.load(&of("c")).await.unwrap().get(&map(r#"{"server":"s"}"#)).cloned();
    send(&client(false), 1).await;
    assert_eq!(read().await, Some(map(r#"{"lsn":1}"#)));
    let transactions = client(true);
    {
        use rdkafka::producer::Producer as _;
        let wait = std::time::Duration::from_secs(30);
        let in_background = |work: fn(&FutureProducer, std::time::Duration)| {
            let producer = transactions.clone();
            tokio::task::spawn_blocking(move || work(&producer, wait))
        };
        in_background(|producer, wait| producer.init_transactions(wait).unwrap()).await.unwrap();
        transactions.begin_transaction().unwrap();
        send(&transactions, 2).await;
        // Not yet committed: neither seen nor waited for.
        assert_eq!(read().await, Some(map(r#"{"lsn":1}"#)));
        in_background(|producer, wait| producer.commit_transaction(wait).unwrap()).await.unwrap();
    }
    assert_eq!(read().await, Some(map(r#"{"lsn":2}"#)));
    // The end of the partition is the mark of the transaction now, which is no record.
    assert_eq!(read().await, Some(map(r#"{"lsn":2}"#)));
}

#[tokio::test]
async fn a_connector_that_another_worker_writes_in_a_transaction_is_not_missed() {
    use rdkafka::producer::Producer;
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let state = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.unwrap();
    let names = async |state: &KafkaState| -> Vec<String> {
        state.configs.list().await.unwrap().into_iter().map(|connector| connector.name).collect()
    };
    let leader: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("transactional.id", "connect-cluster-leader")
        .create()
        .unwrap();
    let wait = std::time::Duration::from_secs(30);
    let ended = async |end: fn(&FutureProducer, std::time::Duration) -> rdkafka::error::KafkaResult<()>| {
        let leader = leader.clone();
        tokio::task::spawn_blocking(move || end(&leader, wait).unwrap()).await.unwrap();
    };
    let write = async |name: &str| {
        leader.begin_transaction().unwrap();
        let key = format!("connector-{name}");
        let record = FutureRecord::<str, str>::to("tailwater-configs").key(&key).payload(r#"{"properties":{}}"#);
        leader.send(record, Timeout::Never).await.unwrap();
    };
    ended(Producer::init_transactions).await;
    write("shop").await;
    let (listed, ()) = tokio::join!(names(&state), async {
        // However early or late this comes, the answer is the same.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        ended(Producer::commit_transaction).await;
    });
    assert_eq!(listed, ["shop"]);
    write("given-up").await;
    ended(Producer::abort_transaction).await;
    // The end of the topic is the mark of a transaction now, for who goes on and for who begins.
    assert_eq!(names(&state).await, ["shop"]);
    let next = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.unwrap();
    assert_eq!(names(&next).await, ["shop"]);
}

#[tokio::test]
async fn a_topic_that_forgets_by_age_is_refused() {
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let admin: rdkafka::admin::AdminClient<_> = ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    let topic = rdkafka::admin::NewTopic::new("tailwater-offsets", 1, rdkafka::admin::TopicReplication::Fixed(1));
    admin.create_topics([&topic], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let error = KafkaState::open(&worker(&broker), "127.0.0.1:8083").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.remedy().unwrap().contains("cleanup.policy=compact"), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_that_passes() {
    let worker: ConfigValues = [("topics.kafka.bootstrap.servers", "127.0.0.1:1")].into_iter().collect();
    KafkaState::check(&worker).unwrap();
    let error = KafkaState::open(&worker, "127.0.0.1:8083").await.err().unwrap();
    assert!(error.kind().is_transient(), "{error:?}");
}
