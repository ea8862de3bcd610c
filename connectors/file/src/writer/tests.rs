use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tailwater_api::config::{ConfigValues, read_config};
use tailwater_api::metrics::NoMetrics;
use tailwater_api::record::{Header, Headers, Record, SchemaAndValue};
use tailwater_api::schema::{Field, Kind, Schema};
use tailwater_api::value::Value;
use tailwater_testkit::conformance::sink::{self, MemoryDeadLetters};
use tokio::sync::watch;

use super::*;
use crate::FileConnector;
use crate::storage::Folder;

fn context() -> SinkContext {
    let (_, stop) = watch::channel(false);
    SinkContext::new("copy".into(), 0, Arc::new(MemoryDeadLetters::refusing()), stop, Arc::new(NoMetrics))
}

fn config(path: &Path, entries: &[(&str, &str)]) -> FileConfig {
    let path = path.to_string_lossy().into_owned();
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let values: ConfigValues = std::iter::once(("path".to_owned(), path)).chain(entries).collect();
    read_config(&values).map(|(config, _)| config).unwrap()
}

async fn open(path: &Path, entries: &[(&str, &str)]) -> FileWriter {
    let storage = Arc::new(Folder::open(path, "copy").unwrap());
    FileWriter::open(config(path, entries), context(), storage).await.unwrap()
}

fn place(topic: &str) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition: 0 }
}

fn position(topic: &str, offset: u64) -> LogPosition {
    LogPosition { log: "log-1".into(), topic_partition: place(topic), offset }
}

fn text(text: &str) -> SchemaAndValue {
    SchemaAndValue::new(Schema::of(Kind::String).build(), Value::from(text))
}

fn record(topic: &str, offset: u64, value: SchemaAndValue) -> SinkRecord {
    let mut record = Record::new(topic.into(), text("k"), value);
    record.timestamp = Some(1_795_227_316_955);
    SinkRecord { topic: topic.into(), partition: 0, offset, record }
}

fn batch(topic: &str, offsets: std::ops::Range<u64>) -> RecordBatch {
    let next = vec![position(topic, offsets.end)];
    RecordBatch { records: offsets.map(|offset| record(topic, offset, text(&format!("v{offset}")))).collect(), next }
}

/// Names and contents of the data files, by name.
fn files(path: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<_> = entries.filter(|name| !name.starts_with(".tailwater")).collect();
    names.into_iter().map(|name| (name.clone(), std::fs::read_to_string(path.join(&name)).unwrap())).collect()
}

async fn held(writer: &mut FileWriter, topic: &str) -> Option<u64> {
    let positions = writer.assign(&[Assignment { topic_partition: place(topic), log: "log-1".into() }]).await.unwrap();
    positions.first().map(|position| position.offset)
}

#[tokio::test]
async fn a_json_line_holds_the_whole_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[]).await;
    let mut first = record("shop.orders", 7, text("a\"b"));
    first.record.headers = Headers::new(vec![Header { name: "h".into(), value: text("x") }]);
    let tombstone = record("shop.orders", 8, SchemaAndValue::NONE);
    let batch = RecordBatch { records: vec![first, tombstone], next: vec![position("shop.orders", 9)] };
    assert!(matches!(writer.write(&batch).await.unwrap(), Progress::Accepted { buffered } if buffered > 100));
    writer.close().await.unwrap();
    let expected = "{\"topic\":\"shop.orders\",\"partition\":0,\"offset\":7,\"timestamp\":1795227316955,\"key\":\"k\",\"value\":\"a\\\"b\",\"headers\":[[\"h\",\"x\"]]}\n\
         {\"topic\":\"shop.orders\",\"partition\":0,\"offset\":8,\"timestamp\":1795227316955,\"key\":\"k\",\"value\":null,\"headers\":[]}\n";
    assert_eq!(files(folder.path()), [("shop.orders+0+00000000000000000007.jsonl".to_owned(), expected.to_owned())]);
}

#[tokio::test]
async fn a_json_line_may_hold_the_value_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("json.content", "value")]).await;
    writer.write(&batch("t", 0..2)).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(files(folder.path())[0].1, "\"v0\"\n\"v1\"\n");
}

#[tokio::test]
async fn topics_that_a_transform_merges_keep_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("json.content", "value"), ("rotate.bytes", "1")]).await;
    let routed = |topic: &str| {
        let mut record = record(topic, 0, text(topic));
        record.record.topic = "orders".into();
        record
    };
    let records = vec![routed("orders_1"), routed("orders_2")];
    writer.write(&RecordBatch { records, next: vec![position("orders_1", 1), position("orders_2", 1)] }).await.unwrap();
    writer.close().await.unwrap();
    let expected = [
        ("orders+orders_1+0+00000000000000000000.jsonl".to_owned(), "\"orders_1\"\n".to_owned()),
        ("orders+orders_2+0+00000000000000000000.jsonl".to_owned(), "\"orders_2\"\n".to_owned()),
    ];
    assert_eq!(files(folder.path()), expected);
}

#[tokio::test]
async fn flush_means_durable_and_positions_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[]).await;
    assert_eq!(held(&mut writer, "t").await, None);
    writer.write(&batch("t", 0..3)).await.unwrap();
    assert!(files(folder.path()).is_empty(), "accepted is not durable");
    writer.flush().await.unwrap();
    writer.write(&batch("t", 3..5)).await.unwrap();
    drop(writer);
    let mut writer = open(folder.path(), &[]).await;
    assert_eq!(held(&mut writer, "t").await, Some(3), "what was not flushed is delivered again");
    writer.write(&batch("t", 3..5)).await.unwrap();
    writer.close().await.unwrap();
    let files = files(folder.path());
    assert_eq!((files.len(), files[0].1.lines().count()), (1, 5), "the file goes on where it ended");
}

#[tokio::test]
async fn files_rotate_by_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("json.content", "value"), ("rotate.bytes", "10")]).await;
    writer.write(&batch("t", 0..5)).await.unwrap();
    writer.close().await.unwrap();
    let expected = [
        ("t+0+00000000000000000000.jsonl", "\"v0\"\n\"v1\"\n"),
        ("t+0+00000000000000000002.jsonl", "\"v2\"\n\"v3\"\n"),
        ("t+0+00000000000000000004.jsonl", "\"v4\"\n"),
    ];
    assert_eq!(files(folder.path()), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[tokio::test]
async fn files_rotate_by_age_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let entries = [("json.content", "value"), ("rotate.interval.ms", "60")];
    let mut writer = open(folder.path(), &entries).await;
    writer.write(&batch("t", 0..1)).await.unwrap();
    writer.close().await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut writer = open(folder.path(), &entries).await;
    writer.write(&batch("t", 1..2)).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(files(folder.path()).len(), 2);
}

#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("json.content", "value")]).await;
    writer.write(&batch("t", 0..2)).await.unwrap();
    writer.close().await.unwrap();
    let file = folder.path().join("t+0+00000000000000000000.jsonl");
    std::fs::write(&file, "\"v0\"\n\"v1\"\n\"v2\"\n\"v").unwrap();
    drop(open(folder.path(), &[]).await);
    assert_eq!(files(folder.path())[0].1, "\"v0\"\n\"v1\"\n");
}

#[tokio::test]
async fn a_file_shorter_than_what_was_committed_is_history_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[]).await;
    writer.write(&batch("t", 0..2)).await.unwrap();
    writer.close().await.unwrap();
    std::fs::write(folder.path().join("t+0+00000000000000000000.jsonl"), "{").unwrap();
    let storage = Arc::new(Folder::open(folder.path(), "copy").unwrap());
    let error = FileWriter::open(config(folder.path(), &[]), context(), storage).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::HistoryGone);
}

#[tokio::test]
async fn files_of_others_are_neither_overwritten_nor_removed() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("t+0+00000000000000000000.jsonl");
    std::fs::write(&theirs, "theirs").unwrap();
    let mut writer = open(folder.path(), &[("json.content", "value")]).await;
    writer.write(&batch("t", 0..1)).await.unwrap();
    writer.close().await.unwrap();
    drop(open(folder.path(), &[]).await);
    assert_eq!(std::fs::read_to_string(theirs).unwrap(), "theirs");
    assert_eq!(std::fs::read_to_string(folder.path().join("t+0+00000000000000000000+2.jsonl")).unwrap(), "\"v0\"\n");
}

#[tokio::test]
async fn names_of_topics_cannot_leave_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[]).await;
    writer.write(&batch("../a b", 0..1)).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(files(folder.path())[0].0, "..%2Fa%20b+0+00000000000000000000.jsonl");
}

#[tokio::test]
async fn a_second_writer_of_one_connector_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path(), &[]).await;
    let error = Folder::open(folder.path(), "copy").unwrap_err();
    assert_eq!(storage_error("open".into(), &error).kind(), ErrorKind::Conflict);
    Folder::open(folder.path(), "other").unwrap();
}

fn row(id: i32, name: Value) -> SchemaAndValue {
    let fields = vec![
        Field::new("id", Schema::of(Kind::Int32).build()),
        Field::new("name", Schema::of(Kind::String).optional().build()),
        Field::new("tags", Schema::of(Kind::Array(Schema::of(Kind::Int32).build())).build()),
    ];
    let tags = Value::Array(Box::new([Value::Int32(1), Value::Int32(2)]));
    SchemaAndValue::new(Schema::structure(fields).build(), Value::Struct(Box::new([Value::Int32(id), name, tags])))
}

/// Reads RFC 4180 with a parser of somebody else.
fn parse(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv_core::Reader::new();
    let (mut input, mut rows, mut row) = (text.as_bytes(), Vec::new(), Vec::new());
    let mut field = Vec::new();
    loop {
        let mut out = [0; 1024];
        let (result, read, written) = reader.read_field(input, &mut out);
        input = &input[read..];
        field.extend_from_slice(&out[..written]);
        match result {
            csv_core::ReadFieldResult::Field { record_end } => {
                row.push(String::from_utf8(std::mem::take(&mut field)).unwrap());
                if record_end {
                    rows.push(std::mem::take(&mut row));
                }
            }
            csv_core::ReadFieldResult::End => return rows,
            csv_core::ReadFieldResult::InputEmpty | csv_core::ReadFieldResult::OutputFull => {}
        }
    }
}

#[tokio::test]
async fn csv_has_a_header_and_quotes_what_must_be_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("format", "csv")]).await;
    let values = [Value::from("a,\"b\"\r\nc"), Value::Null, Value::from(""), Value::from("plain")];
    let schema = row(0, Value::Null).schema.unwrap();
    let mut records: Vec<_> = values.into_iter().zip(0..).map(|(value, offset)| record("t", offset, row(offset as i32, value))).collect();
    for record in &mut records {
        record.record.value.schema = Some(Arc::clone(&schema));
    }
    records.push(record("t", 4, SchemaAndValue::NONE));
    writer.write(&RecordBatch { records, next: vec![position("t", 5)] }).await.unwrap();
    writer.close().await.unwrap();
    let (name, text) = files(folder.path()).remove(0);
    assert_eq!(name, "t+0+00000000000000000000.csv");
    assert_eq!(
        text, "id,name,tags\r\n0,\"a,\"\"b\"\"\r\nc\",\"[1,2]\"\r\n1,,\"[1,2]\"\r\n2,\"\",\"[1,2]\"\r\n3,plain,\"[1,2]\"\r\n",
        "null and the empty text differ; a tombstone has no row"
    );
    let rows = parse(&text);
    assert_eq!(rows[1], ["0", "a,\"b\"\r\nc", "[1,2]"]);
    assert_eq!(rows.len(), 5);
}

#[tokio::test]
async fn csv_begins_a_new_file_when_the_columns_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("format", "csv")]).await;
    let narrow = Schema::structure(vec![Field::new("id", Schema::of(Kind::Int32).build())]).build();
    let narrow = SchemaAndValue::new(narrow, Value::Struct(Box::new([Value::Int32(9)])));
    let records = vec![record("t", 0, row(1, Value::Null)), record("t", 1, row(2, Value::Null)), record("t", 2, narrow)];
    writer.write(&RecordBatch { records, next: vec![position("t", 3)] }).await.unwrap();
    writer.close().await.unwrap();
    let files = files(folder.path());
    assert_eq!(files[0].1, "id,name,tags\r\n1,,\"[1,2]\"\r\n2,,\"[1,2]\"\r\n", "equal columns of another schema go on");
    assert_eq!(files[1], ("t+0+00000000000000000002.csv".to_owned(), "id\r\n9\r\n".to_owned()));
}

#[tokio::test]
async fn csv_shows_change_events_with_their_operation() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(folder.path(), &[("format", "csv")]).await;
    let columns = Schema::structure(vec![Field::new("id", Schema::of(Kind::Int32).build())]).optional().build();
    let text = Schema::of(Kind::String).build();
    let fields = vec![Field::new("before", Arc::clone(&columns)), Field::new("after", columns), Field::new("op", text)];
    let schema = Schema::structure(fields).name("t.Envelope").build();
    let row = |id| Value::Struct(Box::new([Value::Int32(id)]));
    let event = |offset, before: Value, after: Value, op| {
        record("t", offset, SchemaAndValue::new(Arc::clone(&schema), Value::Struct(Box::new([before, after, Value::text(op)]))))
    };
    let records = vec![
        event(0, Value::Null, row(1), "c"),
        event(1, row(1), row(2), "u"),
        event(2, row(2), Value::Null, "d"),
        event(3, Value::Null, Value::Null, "t"),
    ];
    writer.write(&RecordBatch { records, next: vec![position("t", 4)] }).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(files(folder.path())[0].1, "__op,id\r\nc,1\r\nu,2\r\nd,2\r\nt,\r\n");
}

#[tokio::test]
async fn the_file_sink_conforms() {
    let record = |value: SchemaAndValue| Record::new("t".into(), SchemaAndValue::NONE, value);
    let folder = tempfile::tempdir().unwrap();
    let read = async || files(folder.path()).into_iter().map(|(_, text)| text).collect::<String>();
    let batches = vec![vec![record(text("a")), record(text("b"))], vec![record(text("c"))]];
    let json = config(folder.path(), &[("json.content", "value")]);
    sink::flush_means_durable::<FileConnector, _>(&json, batches, "\"a\"\n\"b\"\n\"c\"\n".to_owned(), read).await;

    let folder = tempfile::tempdir().unwrap();
    let read = async || files(folder.path()).into_iter().map(|(_, text)| text).collect::<String>();
    let records = vec![record(row(1, Value::Null)), record(text("no columns")), record(row(2, Value::Null))];
    let expected = "id,name,tags\r\n1,,\"[1,2]\"\r\n2,,\"[1,2]\"\r\n".to_owned();
    let csv = config(folder.path(), &[("format", "csv")]);
    sink::rejected_rows_reach_the_dead_letters::<FileConnector, _>(&csv, records, &[1], expected, read).await;
}

/// Fails at the chosen call that changes something, and at every call after it, as a process does that has died. An
/// append that fails has written half of its bytes.
struct Dying {
    folder: Folder,
    calls_left: AtomicUsize,
    error: io::ErrorKind,
}

impl Dying {
    fn live(&self) -> io::Result<()> {
        let left = self.calls_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| io::Error::from(self.error))
    }
}

impl Storage for Dying {
    fn manifest(&self) -> io::Result<Option<Vec<u8>>> {
        self.folder.manifest()
    }

    fn replace_manifest(&self, text: &[u8]) -> io::Result<()> {
        self.live()?;
        self.folder.replace_manifest(text)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.folder.exists(name)
    }

    fn append(&self, name: &str, length: u64, bytes: &[u8]) -> io::Result<()> {
        match self.live() {
            Ok(()) => self.folder.append(name, length, bytes),
            Err(error) => {
                self.folder.append(name, length, &bytes[..bytes.len() / 2])?;
                Err(error)
            }
        }
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.folder.length(name)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.live()?;
        self.folder.truncate(name, length)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.live()?;
        self.folder.remove(name)
    }
}

/// Delivers offsets up to `end`, ten at a time with a flush each, from where the writer stands; stops at the first error.
async fn deliver(writer: &mut FileWriter, end: u64) -> Result<()> {
    let mut offset = held(writer, "t").await.unwrap_or_default();
    while offset < end {
        let next = end.min(offset + 10);
        writer.write(&batch("t", offset..next)).await?;
        writer.flush().await?;
        offset = next;
    }
    Ok(())
}

#[tokio::test]
async fn killed_at_every_step_every_record_is_there_once() {
    const END: u64 = 25;
    let entries = [("json.content", "value"), ("rotate.bytes", "60")];
    for first in 0..20 {
        // A second death during the recovery, too.
        for second in [0, 1, usize::MAX] {
            let folder = tempfile::tempdir().unwrap();
            for calls in [first, second, usize::MAX] {
                let storage = Dying {
                    folder: Folder::open(folder.path(), "copy").unwrap(),
                    calls_left: calls.into(),
                    error: io::ErrorKind::BrokenPipe,
                };
                if let Ok(mut writer) = FileWriter::open(config(folder.path(), &entries), context(), Arc::new(storage)).await {
                    let _ = deliver(&mut writer, END).await;
                }
            }
            let all: String = files(folder.path()).into_iter().map(|(_, text)| text).collect();
            let expected: String = (0..END).map(|offset| format!("\"v{offset}\"\n")).collect();
            assert_eq!(all, expected, "killed at {first}, then at {second}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_a_clear_error_that_passes() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Dying { folder: Folder::open(folder.path(), "copy").unwrap(), calls_left: 1.into(), error: io::ErrorKind::StorageFull };
    let mut writer = FileWriter::open(config(folder.path(), &[]), context(), Arc::new(storage)).await.unwrap();
    let error = deliver(&mut writer, 10).await.unwrap_err();
    assert!(error.kind().is_transient(), "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
    drop(writer);
    let mut writer = open(folder.path(), &[]).await;
    deliver(&mut writer, 10).await.unwrap();
    assert_eq!(files(folder.path())[0].1.lines().count(), 10);
}

#[test]
fn a_manifest_reads_back_what_it_wrote_and_refuses_the_rest() {
    let mut manifest = Manifest::default();
    manifest.positions.insert(place("t"), position("t", u64::MAX));
    manifest.files.push(GrowingFile {
        name: "n".into(),
        content: RoutedPartition { topic: "routed".into(), stands_in: place("t") },
        length: 3,
        opened: 4,
        header: b"a,\"b\"\r\n".to_vec(),
    });
    assert_eq!(Manifest::from_text(&manifest.to_text()).unwrap(), manifest);
    for text in ["", "{}", "{\"version\":2}", "{\"version\":1,\"positions\":[{}],\"files\":[]}"] {
        assert_eq!(Manifest::from_text(text.as_bytes()).unwrap_err().kind(), ErrorKind::Unreadable);
    }
}
