//! The engine on librdkafka's mock cluster, and on a real broker where a mock has no say.

use std::collections::BTreeMap;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tailwater_api::source::{BatchNumber, SourceBatch};
use tailwater_api::state::JsonMap;
use tailwater_testkit::kafka::KafkaBroker;
use tailwater_testkit::required_or_skip;

use super::*;

/// Offsets in memory.
#[derive(Default)]
pub(super) struct Offsets(Mutex<BTreeMap<String, SourceState>>);

impl OffsetStore for Offsets {
    fn load(&self, connector: &str) -> BoxFuture<'_, Result<SourceState>> {
        let state = self.0.lock().unwrap().get(connector).cloned().unwrap_or_default();
        Box::pin(async move { Ok(state) })
    }

    fn put(&self, connector: &str, changes: Vec<StateChange>) -> BoxFuture<'_, Result<()>> {
        let connector = connector.to_owned();
        Box::pin(async move {
            let mut states = self.0.lock().unwrap();
            let state = states.entry(connector).or_default();
            changes.iter().for_each(|change| state.apply(change));
            Ok(())
        })
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

async fn durable(writer: &dyn LogWriter, number: BatchNumber) -> Result<()> {
    let mut durable = writer.durable();
    let now = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number)).await.unwrap();
    now.as_ref().map(drop).map_err(|error| again(error))
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
    assert_eq!(offsets.load("shop").await.unwrap().iter().next().unwrap().1["lsn"], 51);
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

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_by_name_and_its_batch_stays_open() {
    let cluster = mock();
    let (log, offsets) = opened(&cluster.bootstrap_servers(), false).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let records = vec![text("t", "k", &"x".repeat(2_000_000))];
    let error = writer.append(1, SourceBatch { records, state: at(1), ..SourceBatch::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains('t') && error.remedy().unwrap().contains("max.message.bytes"), "{error}");
    assert!(offsets.load("shop").await.unwrap().is_empty(), "I2");
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
