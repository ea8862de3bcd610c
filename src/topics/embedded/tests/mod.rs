//! The engine through its face, over a disk that can lose power.

use tailwater_api::record::{Header, Headers, Record, SchemaAndValue, TopicPartition};
use tailwater_api::schema::{Field, Kind, Schema};
use tailwater_api::sink::{LogPosition, SinkRecord};
use tailwater_api::source::SourceBatch;
use tailwater_api::state::{JsonMap, StateChange};
use tailwater_api::value::Value;
use tailwater_api::{ErrorKind, Result};
use tempfile::TempDir;

mod durability;
mod format;
mod history;
mod limits;
mod mutation;
mod reading;

use std::sync::Arc;
use std::time::Duration;

use super::faulty_disk::FaultyDisk;
use super::{EmbeddedLog, EmbeddedOptions, FullPolicy, Shared, folder};
use crate::state::redb::RedbStore;
use crate::topics::{LogReader, LogWriter, Polled, Subscription, TopicLog};

fn open_with(folder: &TempDir, options: EmbeddedOptions) -> Result<EmbeddedLog> {
    let store = RedbStore::open(folder.path())?;
    EmbeddedLog::open(folder.path(), options, store)
}

/// The log of a worker that has just ended may still be closing.
async fn open(folder: &TempDir) -> EmbeddedLog {
    for _ in 0..200 {
        if let Ok(log) = open_with(folder, EmbeddedOptions::default()) {
            return log;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    open_with(folder, EmbeddedOptions::default()).unwrap()
}

/// The log on a disk that a test can break, once the log before it is closed.
async fn open_on(disk: &FaultyDisk, folder: &TempDir, options: EmbeddedOptions) -> EmbeddedLog {
    for _ in 0..500 {
        if let Ok(store) = RedbStore::open(folder.path())
            && let Ok(lock) = folder::lock(folder.path())
        {
            let shared = Shared::open(folder.path(), options, Arc::new(disk.clone()), Some(store), Some(lock)).unwrap();
            return EmbeddedLog { shared };
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the log before has not closed");
}

fn at(log: &EmbeddedLog, topic: &str, offset: u64) -> LogPosition {
    let log = log.shared.topics().into_iter().find(|info| &*info.name == topic).unwrap().log;
    LogPosition { log, topic_partition: TopicPartition { topic: topic.into(), partition: 0 }, offset }
}

fn of_numbers(topic: &str, numbers: std::ops::Range<i64>) -> SourceBatch {
    SourceBatch { records: rows(topic, numbers), ..SourceBatch::default() }
}

fn record(topic: &str, number: i64) -> Record {
    let schema = Schema::structure(vec![
        Field::new("id", Schema::of(Kind::Int64).build()),
        Field::new("name", Schema::of(Kind::String).optional().default(Value::text("none")).build()),
    ])
    .name("row")
    .version(2)
    .parameter("a", "b")
    .build();
    let value = Value::Struct([Value::Int64(number), Value::text("a name that stays the same in all of them")].into());
    let key = SchemaAndValue::new(Schema::of(Kind::Int64).build(), Value::Int64(number));
    let mut record = Record::new(topic.into(), key, SchemaAndValue::new(schema, value));
    record.headers = Headers::new(vec![Header { name: "h".into(), value: SchemaAndValue { schema: None, value: Value::from("x") } }]);
    record
}

fn state(number: u64) -> Vec<StateChange> {
    let map = |text: String| -> JsonMap { serde_json::from_str(&text).unwrap() };
    vec![StateChange { partition: map(r#"{"server":"s"}"#.into()), offset: Some(map(format!(r#"{{"n":{number}}}"#))) }]
}

async fn append(writer: &mut Box<dyn LogWriter>, number: u64, batch: SourceBatch) {
    writer.append(number, batch).await.unwrap();
    writer.durable().wait_for(|now| now.as_ref().is_ok_and(|now| *now >= number)).await.unwrap();
}

fn rows(topic: &str, numbers: std::ops::Range<i64>) -> Vec<Record> {
    numbers.map(|number| record(topic, number)).collect()
}

/// Numbers of the records, in the order in which they are read, until nothing comes.
async fn read_all(reader: &mut Box<dyn LogReader>) -> Vec<SinkRecord> {
    let mut read = Vec::new();
    while let Ok(polled) = tokio::time::timeout(Duration::from_millis(200), reader.poll(1 << 20)).await {
        match polled.unwrap() {
            Polled::Records(batch) => read.extend(batch.records),
            Polled::Assigned(_) | Polled::Revoked(_) | Polled::Unreadable(_) => {}
        }
    }
    read
}

fn numbers(records: &[SinkRecord]) -> Vec<i64> {
    records.iter().map(|record| record.record.value.value.as_struct().unwrap()[0].as_integer().unwrap()).collect()
}

fn topics(names: &[&str]) -> Subscription {
    Subscription::Topics(names.iter().map(|&name| name.to_owned()).collect())
}

#[tokio::test]
async fn records_and_state_come_back_after_a_restart() {
    let folder = TempDir::new().unwrap();
    {
        let log = open(&folder).await;
        let mut writer = log.writer(&"shop".into()).await.unwrap();
        append(&mut writer, 1, SourceBatch { records: rows("a", 0..3), state: state(1), ..SourceBatch::default() }).await;
        let mut both = rows("a", 3..5);
        both.extend(rows("b", 100..102));
        append(&mut writer, 2, SourceBatch { records: both, state: state(2), ..SourceBatch::default() }).await;
        append(&mut writer, 3, SourceBatch { state: state(3), ..SourceBatch::default() }).await;
        writer.close().await.unwrap();
    }
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    assert_eq!(writer.state().iter().next().unwrap().1["n"], 3);
    append(&mut writer, 1, SourceBatch { records: rows("a", 5..6), ..SourceBatch::default() }).await;
    let mut reader = log.reader(&"copy".into(), topics(&["a", "b"])).await.unwrap();
    let read = read_all(&mut reader).await;
    assert_eq!(numbers(&read), [0, 1, 2, 3, 4, 100, 101, 5], "in the order in which they became durable");
    assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 0, 1, 5]);
    let first = &read[0].record;
    let sent = record("a", 0);
    assert_eq!((&first.key, &first.value, &first.headers), (&sent.key, &sent.value, &sent.headers));
    assert_eq!(reader.lag(), 0);
}

#[tokio::test]
async fn pending_records_appear_whole_and_in_one_step_or_never() {
    let folder = TempDir::new().unwrap();
    {
        let log = open(&folder).await;
        let mut writer = log.writer(&"shop".into()).await.unwrap();
        let pending = |numbers, id: &str| SourceBatch { records: rows("a", numbers), pending: Some(id.into()), ..SourceBatch::default() };
        append(&mut writer, 1, pending(0..2, "one")).await;
        append(&mut writer, 2, SourceBatch { records: rows("a", 50..51), ..SourceBatch::default() }).await;
        append(&mut writer, 3, pending(2..4, "one")).await;
        append(&mut writer, 4, pending(90..95, "lost")).await;
        let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
        assert_eq!(numbers(&read_all(&mut reader).await), [50]);
        let publish = SourceBatch { records: rows("a", 60..61), publish: vec!["one".into()], state: state(4), ..SourceBatch::default() };
        append(&mut writer, 5, publish).await;
        let read = read_all(&mut reader).await;
        assert_eq!(numbers(&read), [0, 1, 2, 3, 60]);
        assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        writer.close().await.unwrap();
    }
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, SourceBatch { publish: vec!["lost".into()], records: rows("a", 70..71), ..SourceBatch::default() }).await;
    let mut reader = log.reader(&"other".into(), topics(&["a"])).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [50, 0, 1, 2, 3, 60, 70], "pending records of an earlier run are gone");
    let from_inside = log.read("a", 0, 3, 2).await.unwrap();
    assert_eq!(from_inside.iter().map(|record| record.offset).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn a_sink_goes_on_where_it_committed_and_never_in_another_log() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder).await;
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    append(&mut writer, 1, SourceBatch { records: rows("a", 0..10), ..SourceBatch::default() }).await;
    let id = log.shared.topics()[0].log.clone();
    let at =
        |offset, log: &str| LogPosition { log: log.into(), topic_partition: TopicPartition { topic: "a".into(), partition: 0 }, offset };
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    reader.commit(vec![at(4, &id)]).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [4, 5, 6, 7, 8, 9]);
    reader.seek(at(8, &id)).await.unwrap();
    assert_eq!(numbers(&read_all(&mut reader).await), [8, 9]);
    for gone in [at(11, &id), at(3, "another")] {
        assert_eq!(reader.seek(gone).await.unwrap_err().kind(), ErrorKind::HistoryGone);
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_damage_is_not() {
    let folder = TempDir::new().unwrap();
    {
        let log = open(&folder).await;
        let mut writer = log.writer(&"shop".into()).await.unwrap();
        for number in 1..4 {
            let records = rows("a", number * 10..number * 10 + 3);
            append(&mut writer, number as u64, SourceBatch { records, ..SourceBatch::default() }).await;
        }
        writer.close().await.unwrap();
    }
    let segment = std::fs::read_dir(folder.path().join("journals/shop"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .unwrap();
    let whole = std::fs::read(&segment).unwrap();

    // In the last group that holds something; behind it stands the one that vouches for it.
    let last = memchr::memmem::rfind(&whole, b"TWG1").unwrap();
    std::fs::write(&segment, &whole[..last - 5]).unwrap();
    {
        let log = open(&folder).await;
        let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
        assert_eq!(numbers(&read_all(&mut reader).await), [10, 11, 12, 20, 21, 22]);
    }

    // In the first group, for which the later ones vouch: only this connector's writer is refused (I10).
    let mut damaged = whole.clone();
    damaged[60] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    let log = open(&folder).await;
    let error = log.writer(&"shop".into()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreadable);
    assert!(error.to_string().contains(&*segment.to_string_lossy()), "{error}");
    assert!(log.writer(&"another".into()).await.is_ok());
    assert_eq!(log.source_state(&"shop".into()).await.unwrap_err().kind(), ErrorKind::Unreadable);
    assert_eq!(std::fs::read(&segment).unwrap(), damaged, "nothing is cut off");
}

#[tokio::test]
async fn old_segments_go_when_every_sink_has_read_them() {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions {
        retention_bytes: Some(1),
        max_bytes: Some(200_000),
        when_full: FullPolicy::Hold,
        segment_bytes: 20_000,
        ..EmbeddedOptions::default()
    };
    let log = open_with(&folder, options).unwrap();
    log.retain_for(vec![("copy".into(), topics(&["a"]))]);
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let mut sent = 0;
    let held = loop {
        let batch = SourceBatch { records: rows("a", sent..sent + 100), state: state(7), ..SourceBatch::default() };
        match tokio::time::timeout(Duration::from_millis(500), writer.append(1, batch)).await {
            Ok(appended) => appended.unwrap(),
            Err(_) => break sent,
        }
        sent += 100;
        assert!(sent < 1_000_000, "the log must hold");
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let mut reader = log.reader(&"copy".into(), topics(&["a"])).await.unwrap();
    assert_eq!(read_all(&mut reader).await.len() as i64, held);
    let topic_partition = TopicPartition { topic: "a".into(), partition: 0 };
    let position = LogPosition { log: log.shared.topics()[0].log.clone(), topic_partition, offset: held as u64 };
    reader.commit(vec![position]).await.unwrap();
    append(&mut writer, 2, SourceBatch { records: rows("a", held..held + 1), ..SourceBatch::default() }).await;
    let first = log.shared.topics()[0].partitions[0].0;
    assert!(first > 0, "segments went");
    assert_eq!(numbers(&read_all(&mut reader).await), [held]);
    writer.close().await.unwrap();
    drop((reader, log));
    let log = open(&folder).await;
    assert_eq!(log.shared.topics()[0].partitions[0], (first, held as u64 + 1), "the first offset is known without the segments that went");
    assert_eq!(log.source_state(&"shop".into()).await.unwrap().iter().next().unwrap().1["n"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_keeps_what_every_engine_promises() {
    let folder = tempfile::tempdir().unwrap();
    crate::topics::conformance::run(&open(&folder).await).await;
}
