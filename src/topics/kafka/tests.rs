//! The engine on librdkafka's mock cluster, and on a real broker where a mock has no say.

mod failures;
mod security;
mod sinks;

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tailwater_api::Value;
use tailwater_api::record::SchemaAndValue;
use tailwater_api::sink::Assignment;
use tailwater_api::source::{BatchNumber, SourceBatch};
use tailwater_api::state::{JsonMap, StateChange};
use tailwater_testkit::kafka::KafkaBroker;
use tailwater_testkit::required_or_skip;

use super::*;
use crate::converters::RecordPart;
use crate::state::kafka::OffsetRecords;
use crate::topics::{Polled, Refusals, StoredRecord};

/// Offsets in memory.
#[derive(Default)]
pub(super) struct Offsets(Mutex<BTreeMap<String, SourceState>>);

impl OffsetStore for Offsets {
    fn settled(&self, _: &OffsetsOf) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn load(&self, of: &OffsetsOf) -> BoxFuture<'_, Result<SourceState>> {
        let state = self.0.lock().unwrap().get(&*of.connector).cloned().unwrap_or_default();
        Box::pin(async move { Ok(state) })
    }

    fn put(&self, of: &OffsetsOf, changes: Vec<StateChange>) -> BoxFuture<'_, Result<()>> {
        let connector = of.connector.to_string();
        Box::pin(async move {
            let mut states = self.0.lock().unwrap();
            let state = states.entry(connector).or_default();
            changes.iter().for_each(|change| state.apply(change));
            Ok(())
        })
    }

    fn records(&self, _: &OffsetsOf, _: &[StateChange]) -> BoxFuture<'_, Result<OffsetRecords>> {
        unreachable!("transactions are tested with the offsets of a real broker")
    }

    fn committed(&self, _: &OffsetsOf, _: Vec<StateChange>) -> BoxFuture<'_, Result<()>> {
        unreachable!("transactions are tested with the offsets of a real broker")
    }
}

fn options(servers: &str, makes_topics: bool) -> KafkaOptions {
    let worker = [
        ("topics.kafka.bootstrap.servers", servers),
        ("topics.kafka.delivery.timeout.ms", "60000"),
        ("topic.creation.enable", if makes_topics { "true" } else { "false" }),
    ];
    KafkaOptions { worker: worker.into_iter().collect(), memory_budget: 16 << 20 }
}

async fn opened(servers: &str, makes_topics: bool) -> (KafkaLog, Arc<Offsets>) {
    let offsets = Arc::new(Offsets::default());
    (KafkaLog::open(options(servers, makes_topics), Arc::clone(&offsets) as _).await.unwrap(), offsets)
}

fn mock() -> MockCluster<'static, DefaultProducerContext> {
    MockCluster::new(3).unwrap()
}

fn text(topic: &str, key: &str, value: &str) -> Record {
    let bytes = |text: &str| SchemaAndValue { schema: None, value: Value::Bytes(bytes::Bytes::copy_from_slice(text.as_bytes())) };
    Record::new(Arc::from(topic), bytes(key), bytes(value))
}

fn at(number: u64) -> Vec<StateChange> {
    let map = |key: &str, value: serde_json::Value| -> JsonMap { [(key.to_owned(), value)].into_iter().collect() };
    vec![StateChange { partition: map("server", "shop".into()), offset: Some(map("lsn", number.into())) }]
}

fn of(connector: &str) -> OffsetsOf {
    OffsetsOf { connector: connector.into(), topic: None }
}

async fn durable(writer: &dyn LogWriter, number: BatchNumber) -> Result<()> {
    let mut durable = writer.durable();
    let now = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number)).await.unwrap();
    now.as_ref().map(drop).map_err(|error| error.again())
}

async fn values(log: &KafkaLog, topic: &str) -> Vec<String> {
    let read = log.read(topic, 0, 0, usize::MAX).await.unwrap();
    let text = |record: StoredRecord| match record.record.value.value {
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("bytes, not {other:?}"),
    };
    read.into_iter().map(text).collect()
}

/// The vectors of the Java client (`UtilsTest.testMurmur2`) and the partitions that `BuiltInPartitioner.partitionForKey` makes of them.
#[tokio::test]
async fn keys_stay_where_the_java_client_puts_them() {
    const PARTITIONS: u32 = 97;
    let vectors: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let cluster = mock();
    cluster.create_topic("t", PARTITIONS as i32, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = vectors.iter().map(|(key, _)| text("t", key, key)).collect();
    writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    writer.close().await.unwrap();
    for (key, hash) in vectors {
        let partition = (hash.cast_unsigned() & 0x7fff_ffff) % PARTITIONS;
        let found = log.read("t", partition, 0, 100).await.unwrap();
        assert!(found.iter().any(|found| found.record.key.value == Value::Bytes(key.as_bytes().into())), "{key} in partition {partition}");
    }
}

#[tokio::test]
async fn i1_offsets_follow_records_and_durable_follows_both() {
    let cluster = mock();
    let (log, offsets) = opened(&cluster.bootstrap_servers(), false).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    assert!(writer.state().is_empty());
    for number in 1..=50 {
        let records = vec![text("t", "k", &number.to_string())];
        writer.append(number, SourceBatch { records, state: at(number), ..SourceBatch::default() }).await.unwrap();
    }
    // An idle advance behind records waits for these (I5).
    writer.append(51, SourceBatch { state: at(51), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 51).await.unwrap();
    assert_eq!(offsets.load(&of("shop")).await.unwrap().iter().next().unwrap().1["lsn"], 51);
    writer.close().await.unwrap();
    let mut all = Vec::new();
    for partition in 0..log.topics().await.unwrap()[0].partitions.len() {
        all.extend(log.read("t", partition as u32, 0, 100).await.unwrap());
    }
    assert_eq!(all.len(), 50);
    assert!(all.windows(2).all(|pair| pair[0].offset < pair[1].offset), "one key is one partition, in order");
    let again = log.writer(&"shop".into()).await.unwrap();
    assert_eq!(again.state().iter().next().unwrap().1["lsn"], 51);
    assert_eq!(log.used_by("shop", None), [(Arc::from("t"), 50)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_outlives_connections_that_are_made_anew() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = (0..50).map(|number| text("t", "k", &number.to_string())).collect();
    writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    writer.close().await.unwrap();
    let mut reader = log.partition_reader("t", 0);
    assert_eq!(reader.read(0, 1).await.unwrap().len(), 1);
    let brokers = 1..=3;
    brokers.clone().for_each(|broker| cluster.broker_down(broker).unwrap());
    let reading = tokio::spawn(async move { reader.read(40, 100).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    brokers.for_each(|broker| cluster.broker_up(broker).unwrap());
    assert_eq!(reading.await.unwrap().unwrap().len(), 10);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_by_name_and_its_batch_stays_open() {
    let cluster = mock();
    let (log, offsets) = opened(&cluster.bootstrap_servers(), false).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = vec![text("t", "k", &"x".repeat(2_000_000))];
    let error = writer.append(1, SourceBatch { records, state: at(1), ..SourceBatch::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains('t') && error.remedy().unwrap().contains("max.message.bytes"), "{error}");
    assert!(offsets.load(&of("shop")).await.unwrap().is_empty(), "I2");
}

/// Lets a source go on without the records that cannot be written.
#[derive(Default)]
struct LeftOut(Mutex<Vec<(String, Option<RecordPart>)>>);

impl Refusals for LeftOut {
    fn tolerates(&self) -> bool {
        true
    }

    fn refuse<'a>(&'a self, record: &'a Record, part: Option<RecordPart>, error: Error) -> BoxFuture<'a, Result<()>> {
        assert_eq!(*error.scope(), tailwater_api::Scope::Record);
        self.0.lock().unwrap().push((record.topic.to_string(), part));
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn records_that_cannot_be_written_are_left_out_where_somebody_keeps_them_and_end_the_run_else() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let (log, offsets) = opened(&cluster.bootstrap_servers(), false).await;
    let number = || Record::new("t".into(), SchemaAndValue::NONE, SchemaAndValue { schema: None, value: Value::Int64(7) });
    let records = || vec![text("t", "k", "1"), number(), text("t", "k", &"x".repeat(2_000_000)), text("t", "k", "2"), number()];
    let left_out = Arc::new(LeftOut::default());
    let bytes = || Arc::new([("value.converter", "bytes")].into_iter().collect());
    let user = LogUser { config: bytes(), refusals: Some(Arc::clone(&left_out) as _), ..LogUser::from("shop") };
    let mut writer = log.writer(&user).await.unwrap();
    writer.append(1, SourceBatch { records: records(), state: at(1), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 1).await.unwrap();
    assert_eq!(values(&log, "t").await, ["1", "2"]);
    let value = ("t".to_owned(), Some(RecordPart::Value));
    assert_eq!(*left_out.0.lock().unwrap(), [value.clone(), ("t".to_owned(), None), value]);
    assert_eq!(offsets.load(&of("shop")).await.unwrap().iter().next().unwrap().1["lsn"], 1);

    let mut writer = log.writer(&LogUser { config: bytes(), ..LogUser::from("other") }).await.unwrap();
    let error = writer.append(1, SourceBatch { records: records(), state: at(1), ..SourceBatch::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    assert!(offsets.load(&of("other")).await.unwrap().is_empty(), "I2");
}

#[tokio::test]
async fn a_full_queue_holds_the_source_and_loses_nothing() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let mut small = options(&cluster.bootstrap_servers(), false);
    small.worker.set("topics.kafka.queue.buffering.max.messages", "10");
    let log = KafkaLog::open(small, Arc::new(Offsets::default())).await.unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = (0..1000).map(|number| text("t", "k", &number.to_string())).collect();
    writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(values(&log, "t").await, (0..1000).map(|number: u32| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_changes_costs_nothing_and_the_order_stays() {
    const COUNT: u32 = 20_000;
    let cluster = mock();
    cluster.create_topic("t", 1, 3).unwrap();
    let mut small = options(&cluster.bootstrap_servers(), false);
    small.worker.set("topics.kafka.queue.buffering.max.messages", "100");
    let log = KafkaLog::open(small, Arc::new(Offsets::default())).await.unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let mut reader = log.reader(&sink("copy"), topics(&["t"])).await.unwrap();
    assigned(&mut *reader).await;
    let records = (0..COUNT).map(|number| text("t", "k", &number.to_string())).collect();
    let mut writing = std::pin::pin!(async {
        writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
        durable(&*writer, 1).await.unwrap();
    });
    let mut changes = 0;
    while tokio::time::timeout(Duration::from_millis(20), &mut writing).await.is_err() {
        cluster.partition_leader("t", 0, Some(1 + changes % 3)).unwrap();
        changes += 1;
    }
    assert!(changes > 1, "it was written faster than a leader changes");
    assert_eq!(take(&mut *reader, COUNT as usize).await.0, numbers(0..COUNT));
}

#[tokio::test]
async fn an_append_that_is_dropped_is_taken_over_whole() {
    let cluster = mock();
    cluster.create_topic("t", 1, 1).unwrap();
    let mut small = options(&cluster.bootstrap_servers(), false);
    small.worker.set("topics.kafka.queue.buffering.max.messages", "10");
    let log = KafkaLog::open(small, Arc::new(Offsets::default())).await.unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = (0..100).map(|number| text("t", "k", &number.to_string())).collect();
    // The topic is known from here on, so that the next call waits for nothing but the queue.
    writer.append(1, SourceBatch { records: vec![text("t", "k", "first")], ..SourceBatch::default() }).await.unwrap();
    let append = writer.append(2, SourceBatch { records, state: at(2), ..SourceBatch::default() });
    assert!(tokio::time::timeout(Duration::from_micros(10), append).await.is_err(), "the queue is full");
    writer.append(3, SourceBatch::default()).await.unwrap();
    durable(&*writer, 3).await.unwrap();
    assert_eq!(values(&log, "t").await.len(), 101);
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_named() {
    let mut away = options("127.0.0.1:1", false);
    away.worker.set("topics.kafka.socket.connection.setup.timeout.ms", "1000");
    let error = KafkaLog::open(away, Arc::new(Offsets::default())).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::TimedOut), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn i13_an_override_of_acks_is_refused() {
    let cluster = mock();
    let (log, _) = opened(&cluster.bootstrap_servers(), false).await;
    let config = [("producer.override.acks", "1")].into_iter().collect();
    let user = LogUser { config: Arc::new(config), ..LogUser::from("shop") };
    assert_eq!(log.writer(&user).await.err().unwrap().kind(), ErrorKind::Misconfigured);
}

#[tokio::test]
async fn topics_are_made_as_their_group_says_on_a_real_broker() {
    let Some(mut broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let (log, _) = opened(&broker.bootstrap_servers(), true).await;
    let config = [
        ("topic.creation.groups", "wide"),
        ("topic.creation.wide.include", "shop.*"),
        ("topic.creation.wide.partitions", "4"),
        ("topic.creation.wide.cleanup.policy", "compact"),
    ];
    let user = LogUser { config: Arc::new(config.into_iter().collect()), ..LogUser::from("shop") };
    let mut writer = log.writer(&user).await.unwrap();
    let records = vec![text("shop.orders", "k", "1"), text("other", "k", "1")];
    writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    log.append(vec![text("dead", "k", "letter")]).await.unwrap();
    let topics = log.topics().await.unwrap();
    let partitions: Vec<_> = topics.iter().map(|topic| (&*topic.name, topic.partitions.len())).collect();
    assert_eq!(partitions, [("dead", 1), ("other", 1), ("shop.orders", 4)]);
    assert_eq!(log.read("none", 0, 0, 1).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(log.read("other", 1, 0, 1).await.unwrap_err().kind(), ErrorKind::Missing);

    // A broker that is away for a while: the producer keeps what it has.
    broker.kill().unwrap();
    for number in 2..100 {
        let records = vec![text("other", "k", &number.to_string())];
        writer.append(number, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    }
    broker.start_again().await.unwrap();
    durable(&*writer, 99).await.unwrap();
    assert_eq!(values(&log, "other").await, (1..100).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    writer.close().await.unwrap();
    log.close().await.unwrap();
}

/// A sink that reads bytes as they are.
fn sink(connector: &str) -> LogUser {
    let config = [("value.converter", "bytes"), ("key.converter", "bytes"), ("consumer.override.session.timeout.ms", "6000")];
    LogUser { config: Arc::new(config.into_iter().collect()), ..LogUser::from(connector) }
}

fn topics(names: &[&str]) -> Subscription {
    Subscription::Topics(names.iter().map(|name| (*name).to_owned()).collect())
}

/// What the reader says next; the test fails where it says nothing.
async fn next(reader: &mut dyn LogReader) -> Polled {
    tokio::time::timeout(Duration::from_secs(30), reader.poll(1 << 20)).await.expect("the reader says something").unwrap()
}

async fn assigned(reader: &mut dyn LogReader) -> Vec<Assignment> {
    match next(reader).await {
        Polled::Assigned(partitions) => partitions,
        other => panic!("an assignment, not {other:?}"),
    }
}

/// Reads `count` values and says where to go on.
async fn take(reader: &mut dyn LogReader, count: usize) -> (Vec<String>, Vec<LogPosition>) {
    let (mut values, mut places) = (Vec::new(), Vec::new());
    while values.len() < count {
        let Polled::Records(batch) = next(reader).await else { panic!("records") };
        assert!(!batch.records.is_empty());
        for record in batch.records {
            let Value::Bytes(bytes) = record.record.value.value else { panic!("bytes") };
            values.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
        places = batch.next;
    }
    (values, places)
}

async fn write(log: &KafkaLog, topic: &str, values: std::ops::Range<u32>) {
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = values.map(|number| text(topic, "k", &number.to_string())).collect();
    writer.append(1, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    writer.close().await.unwrap();
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A sink whose consumer is a member of a group that its user named.
fn sink_of_group(connector: &str, group: &str) -> LogUser {
    let mut user = sink(connector);
    Arc::make_mut(&mut user.config).set("consumer.override.group.id", group);
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_broker_keeps_what_every_engine_promises() {
    let Some(broker) = required_or_skip(KafkaBroker::start(&[]).await) else { return };
    let (log, _) = opened(&broker.bootstrap_servers(), true).await;
    crate::topics::conformance::run(&log).await;
    positions_are_those_of_the_group_that_the_user_names(&log).await;
}

async fn positions_are_those_of_the_group_that_the_user_names(log: &KafkaLog) {
    write(log, "grouped", 0..10).await;
    let user = sink_of_group("copy-of-grouped", "theirs");
    let mut reader = log.reader(&user, topics(&["grouped"])).await.unwrap();
    assigned(&mut *reader).await;
    let (_, places) = take(&mut *reader, 10).await;
    reader.commit(places.clone()).await.unwrap();
    assert_eq!(log.committed(&user).await.unwrap(), places);
    assert_eq!(log.committed(&sink("copy-of-grouped")).await.unwrap(), [], "connect-NAME has nothing to do with it");
    drop(reader);
    let place = places[0].topic_partition.clone();
    for (offset, expected) in [(Some(3), &[3][..]), (None, &[])] {
        // A member that was dropped leaves in the background.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = log.move_positions(&user, vec![(place.clone(), offset)]).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let committed = log.committed(&user).await.unwrap();
        assert_eq!(committed.iter().map(|position| position.offset).collect::<Vec<_>>(), expected);
    }
}
