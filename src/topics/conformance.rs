//! What every engine of topic logs promises: one suite, run on each of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailwater_api::record::{Record, SchemaAndValue, TopicPartition};
use tailwater_api::sink::{Assignment, LogPosition};
use tailwater_api::source::{BatchNumber, SourceBatch};
use tailwater_api::state::{JsonMap, StateChange};
use tailwater_api::{ErrorKind, Value};

use super::{LogReader, LogUser, LogWriter, PartitionReader, Polled, StoredRecord, Subscription, TopicLog};

/// Longer than any engine takes for a step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "conformance.rows";

/// Runs the suite on a log that holds nothing yet, and closes it.
pub(super) async fn run(log: &dyn TopicLog) {
    a_source_finds_its_state_and_a_reader_its_records(log).await;
    a_sink_goes_on_where_it_committed(log).await;
    a_target_that_knows_better_is_followed_and_another_history_refused(log).await;
    who_looks_reads_on_in_steps_of_any_length(log).await;
    positions_are_moved_and_forgotten(log).await;
    dead_letters_are_of_no_connector(log).await;
    what_is_not_there_is_missing_and_the_end_is_empty(log).await;
    log.close().await.unwrap();
}

/// A connector that keeps bytes as they are, whether its log holds values or bytes.
fn user(connector: &str) -> LogUser {
    let config = [("key.converter", "bytes"), ("value.converter", "bytes"), ("consumer.override.session.timeout.ms", "6000")];
    LogUser { config: Arc::new(config.into_iter().collect()), ..LogUser::from(connector) }
}

fn record(topic: &str, number: u32) -> Record {
    let bytes = |text: String| SchemaAndValue { schema: None, value: Value::Bytes(Bytes::from(text)) };
    Record::new(Arc::from(topic), bytes("key".to_owned()), bytes(number.to_string()))
}

fn records(numbers: std::ops::Range<u32>) -> Vec<Record> {
    numbers.map(|number| record(TOPIC, number)).collect()
}

fn at(number: u32) -> Vec<StateChange> {
    let map = |key: &str, value: serde_json::Value| -> JsonMap { [(key.to_owned(), value)].into_iter().collect() };
    vec![StateChange { partition: map("server", "shop".into()), offset: Some(map("at", number.into())) }]
}

fn number(value: &Value) -> u32 {
    let Value::Bytes(bytes) = value else { panic!("bytes, not {value:?}") };
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

async fn durable(writer: &dyn LogWriter, number: BatchNumber) {
    let mut durable = writer.durable();
    let waited = durable.wait_for(|now| now.as_ref().map_or(true, |now| *now >= number));
    let now = tokio::time::timeout(PATIENCE, waited).await.expect("the batch becomes durable").unwrap();
    assert!(now.is_ok(), "{:?}", now.as_ref().err());
}

/// Offset of the next record. Offsets are not counted from records: transactions have markers between these.
async fn end(log: &dyn TopicLog) -> u64 {
    let topics = log.topics().await.unwrap();
    topics.iter().find(|topic| &*topic.name == TOPIC).unwrap().partitions[0].1
}

/// Offset of the record with this number.
async fn offset(log: &dyn TopicLog, wanted: u32) -> u64 {
    let read = log.read(TOPIC, 0, 0, 1000).await.unwrap();
    read.iter().find(|read| number(&read.record.value.value) == wanted).unwrap().offset
}

/// At least `count` records from `offset` on, in steps of `limit`. Brokers answer a commit before all partitions show it.
async fn read_on(reader: &mut dyn PartitionReader, mut offset: u64, limit: usize, count: usize) -> Vec<StoredRecord> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut read: Vec<StoredRecord> = Vec::new();
    while read.len() < count {
        assert!(tokio::time::Instant::now() < deadline, "{} of {count} records", read.len());
        read.extend(reader.read(offset, limit).await.unwrap());
        offset = read.last().map_or(offset, |last| last.offset + 1);
    }
    read
}

fn numbers(read: &[StoredRecord]) -> Vec<u32> {
    read.iter().map(|read| number(&read.record.value.value)).collect()
}

async fn next(reader: &mut dyn LogReader) -> Polled {
    tokio::time::timeout(PATIENCE, reader.poll(1 << 20)).await.expect("the reader says something").unwrap()
}

async fn assigned(reader: &mut dyn LogReader) -> Assignment {
    match next(reader).await {
        Polled::Assigned(mut partitions) => partitions.remove(0),
        other => panic!("an assignment, not {other:?}"),
    }
}

async fn take(reader: &mut dyn LogReader, count: usize) -> (Vec<u32>, Vec<LogPosition>) {
    let (mut read, mut places) = (Vec::new(), Vec::new());
    while read.len() < count {
        let Polled::Records(batch) = next(reader).await else { panic!("records") };
        assert!(!batch.records.is_empty(), "never an empty batch");
        assert_eq!(batch.next.len(), 1);
        assert_eq!(batch.next[0].offset, batch.records.last().unwrap().offset + 1);
        read.extend(batch.records.iter().map(|record| number(&record.record.value.value)));
        places = batch.next;
    }
    (read, places)
}

fn rows() -> Subscription {
    Subscription::Topics(vec![TOPIC.to_owned()])
}

async fn a_source_finds_its_state_and_a_reader_its_records(log: &dyn TopicLog) {
    assert!(log.source_state(&user("shop")).await.unwrap().is_empty());
    let mut writer = log.writer(&user("shop")).await.unwrap();
    assert!(writer.state().is_empty());
    for batch in 0..5 {
        let batch_of_ten = SourceBatch { records: records(batch * 10..batch * 10 + 10), state: at(batch), ..SourceBatch::default() };
        writer.append(u64::from(batch) + 1, batch_of_ten).await.unwrap();
    }
    // I5: a batch of state alone counts, behind those before it.
    writer.append(6, SourceBatch { state: at(99), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 6).await;
    // I1: what is said to be durable is there for others.
    assert_eq!(log.source_state(&user("shop")).await.unwrap().iter().next().unwrap().1["at"], 99);
    let read = read_on(&mut *log.partition_reader(TOPIC, 0), 0, 1000, 50).await;
    assert_eq!(numbers(&read), (0..50).collect::<Vec<_>>());
    assert!(read.iter().all(|read| read.record.timestamp.is_some()));
    writer.close().await.unwrap();
    let writer = log.writer(&user("shop")).await.unwrap();
    assert_eq!(writer.state().iter().next().unwrap().1["at"], 99);
    writer.close().await.unwrap();
    let topics = log.topics().await.unwrap();
    let topic = topics.iter().find(|topic| &*topic.name == TOPIC).unwrap();
    assert_eq!((topic.writer.as_deref(), &*topic.partitions), (Some("shop"), &[(0, end(log).await)][..]));
    assert!(read.last().unwrap().offset < end(log).await);
    assert_eq!(log.used_by("shop", None).len(), 1);
}

async fn a_sink_goes_on_where_it_committed(log: &dyn TopicLog) {
    let mut reader = log.reader(&user("copy"), rows()).await.unwrap();
    assigned(&mut *reader).await;
    let (read, places) = take(&mut *reader, 50).await;
    assert_eq!(read, (0..50).collect::<Vec<_>>());
    assert!(reader.lag() <= end(log).await - places[0].offset, "no more than the markers of transactions");
    reader.commit(places.clone()).await.unwrap();
    assert_eq!(log.committed(&"copy".into()).await.unwrap(), places);
    drop(reader);
    let mut writer = log.writer(&user("shop")).await.unwrap();
    writer.append(1, SourceBatch { records: records(50..60), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 1).await;
    writer.close().await.unwrap();
    let mut reader = log.reader(&user("copy"), rows()).await.unwrap();
    assigned(&mut *reader).await;
    assert_eq!(take(&mut *reader, 10).await.0, (50..60).collect::<Vec<_>>());
}

async fn a_target_that_knows_better_is_followed_and_another_history_refused(log: &dyn TopicLog) {
    let mut reader = log.reader(&user("target"), rows()).await.unwrap();
    let Assignment { topic_partition, log: id } = assigned(&mut *reader).await;
    let place = |log: &str, offset| LogPosition { log: Arc::from(log), topic_partition: topic_partition.clone(), offset };
    assert_eq!(reader.seek(place("another", 5)).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    assert_eq!(reader.seek(place(&id, end(log).await + 1)).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    reader.seek(place(&id, offset(log, 42).await)).await.unwrap();
    assert_eq!(take(&mut *reader, 18).await.0, (42..60).collect::<Vec<_>>());
}

async fn who_looks_reads_on_in_steps_of_any_length(log: &dyn TopicLog) {
    let mut reader = log.partition_reader(TOPIC, 0);
    let mut last = 0;
    for limit in [1, 7, 60, 100] {
        let read = read_on(&mut *reader, 0, limit, 60).await;
        assert_eq!(numbers(&read), (0..60).collect::<Vec<_>>());
        last = read[59].offset;
        assert_eq!(reader.read(last + 1, limit).await.unwrap().len(), 0, "the end");
    }
    assert_eq!(numbers(&reader.read(offset(log, 42).await, 3).await.unwrap()), [42, 43, 44]);
    // To an end comes more.
    for first in [60, 65] {
        let mut writer = log.writer(&user("shop")).await.unwrap();
        writer.append(1, SourceBatch { records: records(first..first + 5), ..SourceBatch::default() }).await.unwrap();
        durable(&*writer, 1).await;
        writer.close().await.unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while end(log).await < last + 6 {
            assert!(tokio::time::Instant::now() < deadline, "the records are not seen");
        }
        let read = reader.read(last + 1, 5).await.unwrap();
        assert_eq!(numbers(&read), (first..first + 5).collect::<Vec<_>>());
        last = read[4].offset;
    }
    // A read that nobody waits for takes nothing with it.
    drop(tokio::time::timeout(Duration::from_millis(1), reader.read(0, 1)).await);
    assert_eq!(numbers(&read_on(&mut *reader, 0, 1000, 70).await), (0..70).collect::<Vec<_>>());
}

async fn positions_are_moved_and_forgotten(log: &dyn TopicLog) {
    let place = |topic: &str| TopicPartition { topic: Arc::from(topic), partition: 0 };
    // A reader that was dropped may take a moment to leave.
    let moved = async |offset| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = log.move_positions(&"copy".into(), vec![(place(TOPIC), offset)]).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        log.committed(&"copy".into()).await.unwrap()
    };
    let positions = moved(Some(7)).await;
    assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), [7]);
    let beyond = log.move_positions(&"copy".into(), vec![(place(TOPIC), Some(1000))]).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Misconfigured);
    let missing = log.move_positions(&"copy".into(), vec![(place("none"), Some(0))]).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Missing);
    assert_eq!(moved(None).await, []);
}

async fn dead_letters_are_of_no_connector(log: &dyn TopicLog) {
    log.append(vec![record("conformance.dead", 1), record("conformance.dead", 2)]).await.unwrap();
    let read = log.read("conformance.dead", 0, 0, 10).await.unwrap();
    assert_eq!(numbers(&read), [1, 2]);
    let topics = log.topics().await.unwrap();
    assert_eq!(topics.iter().find(|topic| &*topic.name == "conformance.dead").unwrap().writer, None);
}

async fn what_is_not_there_is_missing_and_the_end_is_empty(log: &dyn TopicLog) {
    assert_eq!(log.read("conformance.none", 0, 0, 1).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(log.read(TOPIC, 7, 0, 1).await.unwrap_err().kind(), ErrorKind::Missing);
    assert!(log.read(TOPIC, 0, end(log).await, 10).await.unwrap().is_empty());
    assert_eq!(log.read(TOPIC, 0, offset(log, 58).await, 1).await.unwrap().len(), 1);
}
