//! Transactions on a real broker: librdkafka's mock hides nothing from readers of committed records.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::BaseProducer;
use rdkafka::util::Timeout;
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::source::SourceBatch;
use tailwater_api::state::{JsonMap, StateChange};
use tailwater_api::{ErrorKind, Value};
use tailwater_testkit::kafka::KafkaBroker;
use tailwater_testkit::required_or_skip;

use super::*;
use crate::state::kafka::KafkaState;
use crate::topics::kafka::KafkaOptions;
use crate::topics::{LogUser, LogWriter, TopicLog};

const TOPIC: &str = "rows";

fn values(entries: &[(&str, &str)]) -> ConfigValues {
    entries.iter().copied().collect()
}

fn worker(servers: &str) -> ConfigValues {
    values(&[
        ("topics.kafka.bootstrap.servers", servers),
        ("exactly.once.source.support", "enabled"),
        ("group.id", "workers"),
        ("config.storage.replication.factor", "1"),
        ("offset.storage.replication.factor", "1"),
        ("offset.storage.partitions", "1"),
        ("status.storage.replication.factor", "1"),
    ])
}

async fn opened(servers: &str) -> (KafkaLog, KafkaState) {
    let worker = worker(servers);
    let state = KafkaState::open(&worker, "127.0.0.1:8083").await.unwrap();
    let options = KafkaOptions { worker, memory_budget: 16 << 20 };
    (KafkaLog::open(options, Arc::new(state.offsets.clone())).await.unwrap(), state)
}

fn user(connector: &str, config: &[(&str, &str)]) -> LogUser {
    let own = [("key.converter", "bytes"), ("value.converter", "bytes"), ("topic.creation.default.partitions", "1")];
    let config = own.iter().chain(config).copied().collect();
    LogUser { config: Arc::new(config), ..LogUser::from(connector) }
}

/// A source whose transactions end only when its writer is closed.
fn patient(connector: &str) -> LogUser {
    user(connector, &[("transaction.boundary", "interval"), ("transaction.boundary.interval.ms", "600000")])
}

fn at(number: u64) -> StateChange {
    let map = |key: &str, value: serde_json::Value| -> JsonMap { [(key.to_owned(), value)].into_iter().collect() };
    StateChange { partition: map("server", "shop".into()), offset: Some(map("at", number.into())) }
}

fn batch(topic: &str, number: u64) -> SourceBatch {
    let bytes = |text: String| SchemaAndValue { schema: None, value: Value::Bytes(text.into()) };
    let record = Record::new(Arc::from(topic), bytes("key".to_owned()), bytes(number.to_string()));
    SourceBatch { records: vec![record], state: vec![at(number)], ..SourceBatch::default() }
}

async fn durable(writer: &dyn LogWriter, number: BatchNumber) -> Result<()> {
    let mut durable = writer.durable();
    let now = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number)).await.unwrap();
    now.as_ref().map(drop).map_err(|error| error.again())
}

fn stored(writer: &dyn LogWriter) -> Option<u64> {
    writer.state().iter().next().and_then(|(_, offset)| offset["at"].as_u64())
}

async fn committed(log: &KafkaLog, topic: &str) -> Vec<String> {
    let read = log.read(topic, 0, 0, 1000).await.unwrap();
    let text = |value: Value| match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("bytes, not {other:?}"),
    };
    read.into_iter().map(|read| text(read.record.value.value)).collect()
}

/// What is committed and nothing else. Brokers answer a commit before all partitions show it.
async fn assert_committed(log: &KafkaLog, topic: &str, expected: &[impl AsRef<str>]) {
    let (expected, patience) = (expected.iter().map(AsRef::as_ref).collect::<Vec<_>>(), Instant::now() + Duration::from_secs(60));
    while committed(log, topic).await.len() < expected.len() && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(committed(log, topic).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_transactions_keeps_what_every_engine_promises() {
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let (log, _) = opened(&broker.bootstrap_servers()).await;
    crate::topics::conformance::run(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_offset_are_seen_together_or_not_at_all() {
    // Brokers look for transactions that are open for too long each ten seconds by default.
    let looks = [("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500")];
    let Some(mut broker) = required_or_skip(KafkaBroker::start(&looks).await) else { return };
    let servers = broker.bootstrap_servers();
    let (log, state) = opened(&servers).await;
    i1_what_is_not_committed_is_seen_by_nobody_and_written_again(&log).await;
    i13_the_older_writer_is_refused_and_says_so(&log).await;
    i13_who_was_away_for_too_long_takes_his_id_back_only_where_nobody_else_has_it(&log, &servers).await;
    a_record_that_is_refused_takes_its_transaction_along(&log).await;
    i13_a_writer_that_is_fenced_in_the_middle_of_a_batch_stops_for_good(&log, &servers).await;
    a_record_that_is_refused_in_the_middle_of_a_batch_is_told(&log).await;
    an_own_topic_of_offsets_holds_and_the_workers_follows(&log).await;
    an_open_transaction_of_another_hides_no_offset(&state, &servers).await;
    i12_a_broker_that_is_killed_in_a_transaction_repeats_nothing(&log, &mut broker).await;
}

async fn i1_what_is_not_committed_is_seen_by_nobody_and_written_again(log: &KafkaLog) {
    let mut writer = log.writer(&patient("shop")).await.unwrap();
    writer.append(1, batch(TOPIC, 1)).await.unwrap();
    // Closing does not wait for the interval.
    writer.close().await.unwrap();
    let mut writer = log.writer(&patient("shop")).await.unwrap();
    assert_eq!(stored(&*writer), Some(1));
    for number in 2..50 {
        writer.append(number - 1, batch(TOPIC, number)).await.unwrap();
    }
    assert_eq!(*writer.durable().borrow().as_ref().unwrap(), 0);
    // As a crash would, this leaves a transaction behind.
    drop(writer);
    let mut writer = log.writer(&user("shop", &[])).await.unwrap();
    assert_eq!(stored(&*writer), Some(1));
    assert_committed(log, TOPIC, &["1"]).await;
    for number in 2..50 {
        writer.append(number - 1, batch(TOPIC, number)).await.unwrap();
    }
    durable(&*writer, 48).await.unwrap();
    assert_committed(log, TOPIC, &(1..50).map(|number| number.to_string()).collect::<Vec<_>>()).await;
    assert_eq!(log.source_state(&user("shop", &[])).await.unwrap().get(&at(0).partition), at(49).offset.as_ref());
    writer.close().await.unwrap();
}

async fn i13_the_older_writer_is_refused_and_says_so(log: &KafkaLog) {
    let mut older = log.writer(&user("fenced", &[])).await.unwrap();
    older.append(1, batch("fenced", 1)).await.unwrap();
    durable(&*older, 1).await.unwrap();
    let mut younger = log.writer(&user("fenced", &[])).await.unwrap();
    assert_eq!(stored(&*younger), Some(1));
    let error = match older.append(2, batch("fenced", 2)).await {
        Ok(()) => durable(&*older, 2).await.unwrap_err(),
        Err(error) => error,
    };
    // A kind that is not tried again.
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("workers-fenced-0") && error.remedy().unwrap().contains("group.id"), "{error}");
    younger.append(1, batch("fenced", 3)).await.unwrap();
    durable(&*younger, 1).await.unwrap();
    drop(older);
    younger.append(2, batch("fenced", 4)).await.unwrap();
    durable(&*younger, 2).await.unwrap();
    assert_committed(log, "fenced", &["1", "3", "4"]).await;
    younger.close().await.unwrap();
}

async fn i13_who_was_away_for_too_long_takes_his_id_back_only_where_nobody_else_has_it(log: &KafkaLog, servers: &str) {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let of = |connector: &str| {
        let timeout = TIMEOUT.as_millis().to_string();
        let patient = [("transaction.boundary", "interval"), ("transaction.boundary.interval.ms", "600000")];
        user(connector, &[&patient[..], &[("producer.override.transaction.timeout.ms", &timeout)]].concat())
    };
    let (alone, followed) = (of("alone"), of("followed"));
    let mut writers = Vec::new();
    for user in [&alone, &followed] {
        let mut writer = log.writer(user).await.unwrap();
        writer.append(1, batch(&user.connector, 1)).await.unwrap();
        writers.push((writer, Arc::clone(&user.connector)));
    }
    // Another process, which goes on meanwhile.
    let (another, _) = opened(servers).await;
    let mut successor = another.writer(&user("followed", &[])).await.unwrap();
    successor.append(1, batch("followed", 2)).await.unwrap();
    durable(&*successor, 1).await.unwrap();
    tokio::time::sleep(TIMEOUT).await;
    for (mut writer, topic) in writers {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut number = 1;
        let error = loop {
            number += 1;
            let appended = writer.append(number, batch(&topic, number)).await;
            if let Err(error) = appended.and_then(|()| writer.durable().borrow().as_ref().map(drop).map_err(|error| error.again())) {
                break error;
            }
            assert!(Instant::now() < deadline, "the transaction is open for ever");
            tokio::time::sleep(LOOK).await;
        };
        assert!(error.kind().is_transient(), "{error}");
    }
    let mut writer = log.writer(&alone).await.unwrap();
    writer.append(1, batch("alone", 3)).await.unwrap();
    writer.close().await.unwrap();
    assert_committed(log, "alone", &["3"]).await;

    let error = log.writer(&followed).await.err().expect("the successor keeps the id");
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("workers-followed-0") && error.remedy().unwrap().contains("group.id"), "{error}");
    successor.append(2, batch("followed", 4)).await.unwrap();
    durable(&*successor, 2).await.unwrap();
    assert_committed(log, "followed", &["2", "4"]).await;
    successor.close().await.unwrap();
    // Who starts the task again wants it to run here.
    let writer = log.writer(&followed).await.unwrap();
    assert_eq!(stored(&*writer), Some(4));
    writer.close().await.unwrap();
}

async fn a_record_that_is_refused_takes_its_transaction_along(log: &KafkaLog) {
    // More than the topic takes, less than the producer does.
    let keys = [("topic.creation.default.max.message.bytes", "10000"), ("producer.override.compression.type", "none")];
    let source = user("large", &keys);
    let mut writer = log.writer(&source).await.unwrap();
    writer.append(1, batch("large", 1)).await.unwrap();
    durable(&*writer, 1).await.unwrap();
    let mut large = batch("large", 2);
    let mut filler = batch("large", 3).records.remove(0);
    filler.value.value = Value::Bytes(vec![b'x'; 100_000].into());
    large.records.push(filler);
    writer.append(2, large).await.unwrap();
    let error = durable(&*writer, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    drop(writer);
    let writer = log.writer(&source).await.unwrap();
    assert_eq!(stored(&*writer), Some(1));
    assert_committed(log, "large", &["1"]).await;
    writer.close().await.unwrap();
}

/// A source whose producer holds so few records that most of a large batch waits in the writer.
fn narrow(connector: &str, config: &[(&str, &str)]) -> LogUser {
    user(connector, &[config, &[("producer.override.queue.buffering.max.messages", "100")]].concat())
}

fn large_batch(topic: &str) -> SourceBatch {
    SourceBatch { records: (0..100_000).map(|number| batch(topic, number).records.remove(0)).collect(), ..SourceBatch::default() }
}

async fn i13_a_writer_that_is_fenced_in_the_middle_of_a_batch_stops_for_good(log: &KafkaLog, servers: &str) {
    const TOPIC: &str = "midway";
    let mut older = log.writer(&narrow(TOPIC, &[])).await.unwrap();
    older.append(1, batch(TOPIC, 1)).await.unwrap();
    durable(&*older, 1).await.unwrap();
    let sending = tokio::spawn(async move {
        let appended = older.append(2, large_batch(TOPIC)).await;
        (older, appended)
    });
    let servers = servers.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers).set("group.id", "look").set("isolation.level", "read_uncommitted");
        let look: BaseConsumer = config.create().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while look.fetch_watermarks(TOPIC, 0, Duration::from_secs(30)).unwrap().1 < 100 {
            assert!(std::time::Instant::now() < deadline, "nothing is being sent");
        }
    })
    .await
    .unwrap();
    let mut younger = log.writer(&user(TOPIC, &[])).await.unwrap();
    let (older, appended) = sending.await.unwrap();
    let error = match appended {
        Ok(()) => durable(&*older, 2).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error:?}");
    assert!(error.to_string().contains("workers-midway-0"), "{error}");
    drop(older);
    younger.append(1, batch(TOPIC, 2)).await.unwrap();
    durable(&*younger, 1).await.unwrap();
    assert_committed(log, TOPIC, &["1", "2"]).await;
    younger.close().await.unwrap();
}

async fn a_record_that_is_refused_in_the_middle_of_a_batch_is_told(log: &KafkaLog) {
    const TOPIC: &str = "large-midway";
    let keys = [("topic.creation.default.max.message.bytes", "10000"), ("producer.override.compression.type", "none")];
    let mut writer = log.writer(&narrow(TOPIC, &keys)).await.unwrap();
    let mut batch = large_batch(TOPIC);
    batch.records[20_000].value.value = Value::Bytes(vec![b'x'; 100_000].into());
    let error = match writer.append(1, batch).await {
        Ok(()) => durable(&*writer, 1).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    assert!(error.to_string().contains(TOPIC) && error.remedy().is_some_and(|mend| mend.contains("max.message.bytes")), "{error:?}");
}

async fn an_own_topic_of_offsets_holds_and_the_workers_follows(log: &KafkaLog) {
    let before = user("own", &[]);
    let mut writer = log.writer(&before).await.unwrap();
    writer.append(1, batch("own", 1)).await.unwrap();
    writer.close().await.unwrap();
    let with_topic = user("own", &[("offsets.storage.topic", "own-offsets")]);
    let mut writer = log.writer(&with_topic).await.unwrap();
    assert_eq!(stored(&*writer), Some(1), "what the worker's topic says holds until the own one says something");
    writer.append(1, batch("own", 2)).await.unwrap();
    writer.close().await.unwrap();
    assert_committed(log, "own-offsets", &[r#"{"at":2}"#]).await;
    for user in [&with_topic, &before] {
        assert_eq!(log.source_state(user).await.unwrap().get(&at(0).partition), at(2).offset.as_ref());
    }
    let mut writer = log.writer(&with_topic).await.unwrap();
    writer.append(1, SourceBatch { state: vec![StateChange { offset: None, ..at(0) }], ..SourceBatch::default() }).await.unwrap();
    writer.close().await.unwrap();
    for user in [&with_topic, &before] {
        assert!(log.source_state(user).await.unwrap().is_empty());
    }
}

async fn an_open_transaction_of_another_hides_no_offset(state: &KafkaState, servers: &str) {
    let other: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).set("transactional.id", "another").create().unwrap();
    let patience = Timeout::After(Duration::from_secs(30));
    other.init_transactions(patience).unwrap();
    other.begin_transaction().unwrap();
    other.send(BaseRecord::to("tailwater-offsets").key(r#"["another",{}]"#).payload(r#"{"at":1}"#)).unwrap();
    other.flush(patience).unwrap();
    let of = OffsetsOf { connector: "shop".into(), topic: None };
    // Committed, and behind the beginning of the other's.
    state.offsets.put(&of, &[at(100)]).await.unwrap();
    let (offsets, loading) = (state.offsets.clone(), of.clone());
    let loaded = tokio::spawn(async move {
        offsets.settled(&loading).await?;
        offsets.load(&loading).await
    });
    // However early or late this comes, the answer is the same.
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::task::spawn_blocking(move || other.commit_transaction(patience).unwrap()).await.unwrap();
    assert_eq!(loaded.await.unwrap().unwrap().get(&at(0).partition), at(100).offset.as_ref());
}

async fn i12_a_broker_that_is_killed_in_a_transaction_repeats_nothing(log: &KafkaLog, broker: &mut KafkaBroker) {
    let mut writer = log.writer(&patient("killed")).await.unwrap();
    for number in 1..=20 {
        writer.append(number, batch("killed", number)).await.unwrap();
    }
    broker.kill().unwrap();
    broker.start_again().await.unwrap();
    if let Err(error) = writer.close().await {
        assert!(error.kind().is_transient(), "{error}");
    }
    // Whatever became of it: what the offset says is there, and the rest is not.
    let mut writer = log.writer(&patient("killed")).await.unwrap();
    let done = stored(&*writer).unwrap_or(0);
    for number in done + 1..=40 {
        writer.append(number, batch("killed", number)).await.unwrap();
    }
    writer.close().await.unwrap();
    assert_committed(log, "killed", &(1..=40).map(|number| number.to_string()).collect::<Vec<_>>()).await;
}

#[test]
fn ids_are_connects_and_limits_follow_the_boundary() {
    let worker = values(&[("exactly.once.source.support", "ENABLED"), ("group.id", "g")]);
    let read = |config: &[(&str, &str)]| TransactionOptions::read("shop", 2, &values(config), &worker).unwrap().unwrap();
    assert_eq!(read(&[]), TransactionOptions { id: "g-shop-2".to_owned(), interval: None });
    let interval = read(&[("transaction.boundary", "interval"), ("transaction.boundary.interval.ms", "90000")]);
    assert_eq!(interval.interval, Some(Duration::from_secs(90)));
    let mut config = ClientConfig::new();
    interval.configure(config.set("delivery.timeout.ms", "200000"));
    assert_eq!(config.get("transaction.timeout.ms"), Some("150000"));
    assert_eq!(config.get("delivery.timeout.ms"), Some("150000"), "what a transaction cannot outlive");
    for support in ["disabled", "preparing"] {
        let worker = values(&[("exactly.once.source.support", support)]);
        assert_eq!(TransactionOptions::read("shop", 0, &values(&[]), &worker).unwrap(), None);
    }
}

#[test]
fn what_cannot_be_is_refused_and_what_does_nothing_noted() {
    let on = values(&[("exactly.once.source.support", "enabled")]);
    let keys = |faults: &[tailwater_api::config::ConfigFault]| faults.iter().map(|fault| fault.key.clone()).collect::<Vec<_>>();
    let checked = |config: &[(&str, &str)], worker: &ConfigValues| {
        let report = check(&values(config), worker);
        (keys(&report.faults), keys(&report.notes))
    };
    let none = Vec::<String>::new;
    let required = [("exactly.once.support", "required"), ("transaction.boundary", "poll")];
    assert_eq!(checked(&required, &on), (none(), none()));
    assert_eq!(checked(&required, &values(&[])), (vec!["exactly.once.support".to_owned()], vec!["transaction.boundary".to_owned()]));
    assert_eq!(checked(&[("transaction.boundary", "connector")], &on).0, ["transaction.boundary"]);
    assert_eq!(checked(&[("transaction.boundary.interval.ms", "5")], &on).1, ["transaction.boundary.interval.ms"]);
    assert_eq!(checked(&[("producer.override.partitioner", "random")], &on).0, ["producer.override.partitioner"]);
    assert_eq!(checked(&[("producer.override.partitioner", "random")], &values(&[])), (none(), none()));
}
