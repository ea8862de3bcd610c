//! The topic logs: appending change events to a journal and reading them for a sink; making them JSON and handing them to Kafka.
//!
//! A record is a change event of eight columns with its source block of seventeen fields. The data directory lies in memory
//! where the system has such a place, so that an fsync costs nothing: this measures the processor, not the disk. The broker is
//! librdkafka's own double in this process.
//! `cargo bench --bench append`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::{BoxFuture, ready};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tailwater::state::kafka::{OffsetRecords, OffsetsOf};
use tailwater::state::redb::RedbStore;
use tailwater::topics::embedded::{EmbeddedLog, EmbeddedOptions};
use tailwater::topics::kafka::offset_store::OffsetStore;
use tailwater::topics::kafka::{KafkaLog, KafkaOptions};
use tailwater::topics::{LogReader, LogWriter, Polled, Subscription, TopicLog};
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::schema::{Field, Kind, Schema};
use tailwater_api::source::SourceBatch;
use tailwater_api::state::{JsonMap, SourceState, StateChange};
use tailwater_api::value::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const TOPIC: &str = "shop.public.orders";
const BATCH: u64 = 1000;

fn field(name: &str, kind: Kind) -> Field {
    Field::new(name, Schema::of(kind).optional().build())
}

fn row_schema() -> Arc<Schema> {
    Schema::structure(vec![
        field("id", Kind::Int64),
        field("customer", Kind::Int32),
        field("status", Kind::String),
        field("amount", Kind::Bytes),
        field("created", Kind::Int64),
        field("note", Kind::String),
        field("paid", Kind::Boolean),
        field("weight", Kind::Float64),
    ])
    .name("shop.public.orders.Value")
    .optional()
    .build()
}

fn source_schema() -> Arc<Schema> {
    let texts = ["version", "connector", "name", "snapshot", "db", "sequence", "schema", "table"];
    let numbers = ["ts_ms", "ts_us", "ts_ns", "txId", "lsn", "xmin", "origin_lsn", "commit_lsn", "position"];
    let texts = texts.into_iter().map(|name| field(name, Kind::String));
    Schema::structure(texts.chain(numbers.into_iter().map(|name| field(name, Kind::Int64))).collect())
        .name("io.debezium.connector.postgresql.Source")
        .build()
}

/// Inserts of one transaction, in one received buffer.
fn batch() -> SourceBatch {
    let (row, source) = (row_schema(), source_schema());
    let envelope = Schema::structure(vec![
        Field::new("before", Arc::clone(&row)),
        Field::new("after", row),
        Field::new("source", source),
        field("transaction", Kind::String),
        field("op", Kind::String),
        field("ts_ms", Kind::Int64),
        field("ts_us", Kind::Int64),
        field("ts_ns", Kind::Int64),
    ])
    .name("shop.public.orders.Envelope")
    .build();
    let key = Schema::structure(vec![Field::new("id", Schema::of(Kind::Int64).build())]).name("shop.public.orders.Key").build();
    let topic: Arc<str> = TOPIC.into();
    let received = Bytes::from(vec![b'x'; 300 * BATCH as usize]);
    let at = |number: u64, from: usize, length: usize| received.slice(number as usize * 300 + from..number as usize * 300 + from + length);
    let text = |bytes: Bytes| Value::String(ByteString::try_from(bytes).expect("x is UTF-8"));
    let (name, table) = (ByteString::from("shop"), ByteString::from("orders"));
    let records = (0..BATCH).map(|number| {
        let after = [
            Value::Int64(1_000_000 + number as i64),
            Value::Int32(number as i32 * 7 % 5000),
            text(at(number, 0, 8)),
            Value::Bytes(at(number, 10, 4)),
            Value::Int64(1_795_227_316_955_000 + number as i64),
            text(at(number, 20, 180)),
            Value::Boolean(number % 2 == 0),
            Value::Float64(number as f64 * 0.25),
        ];
        let source = [
            Value::text("3.6.1.Final"),
            Value::text("postgresql"),
            Value::String(name.clone()),
            Value::text("false"),
            Value::String(name.clone()),
            text(at(number, 200, 24)),
            Value::text("public"),
            Value::String(table.clone()),
            Value::Int64(1_795_227_316_955),
            Value::Int64(1_795_227_316_955_000),
            Value::Int64(1_795_227_316_955_000_000),
            Value::Int64(769),
            Value::Int64(40_093_712 + number as i64 * 120),
            Value::Null,
            Value::Null,
            Value::Int64(40_293_712),
            Value::Int64(number as i64),
        ];
        let event = [
            Value::Null,
            Value::Struct(after.into()),
            Value::Struct(source.into()),
            Value::Null,
            Value::text("c"),
            Value::Int64(1_795_227_317_000),
            Value::Int64(1_795_227_317_000_123),
            Value::Int64(1_795_227_317_000_123_456),
        ];
        let key_value = Value::Struct([Value::Int64(1_000_000 + number as i64)].into());
        Record::new(
            Arc::clone(&topic),
            SchemaAndValue::new(Arc::clone(&key), key_value),
            SchemaAndValue::new(Arc::clone(&envelope), Value::Struct(event.into())),
        )
    });
    let map = |text: &str| -> JsonMap { serde_json::from_str(text).expect("it is JSON") };
    let change = StateChange {
        partition: map(r#"{"server":"shop"}"#),
        offset: Some(map(r#"{"lsn":40293712,"txId":769,"ts_usec":1795227316955000}"#)),
    };
    SourceBatch { records: records.collect(), state: vec![change], ..SourceBatch::default() }
}

fn again(batch: &SourceBatch) -> SourceBatch {
    SourceBatch { records: batch.records.clone(), state: batch.state.clone(), ..SourceBatch::default() }
}

fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a temporary folder can be made")
}

async fn open(folder: &TempDir) -> (EmbeddedLog, Box<dyn LogWriter>) {
    let store = RedbStore::open(folder.path()).expect("the state opens");
    // Nobody reads while it is measured: old segments go.
    let options = EmbeddedOptions { max_bytes: Some(256 << 20), ..EmbeddedOptions::default() };
    let log = EmbeddedLog::open(folder.path(), options, store).expect("the log opens");
    let writer = log.writer(&"shop".into()).await.expect("the journal opens");
    (log, writer)
}

async fn settled(writer: &dyn LogWriter, number: u64) {
    let mut durable = writer.durable();
    drop(durable.wait_for(|now| *now.as_ref().expect("the disk works") >= number).await.expect("the writer lives"));
}

/// Appends a batch again and again; the time until the last one is durable is part of it.
fn append_again(bencher: &mut Bencher<'_>, runtime: &Runtime, writer: &mut dyn LogWriter, batch: &SourceBatch, number: &mut u64) {
    bencher.iter_custom(|rounds| {
        runtime.block_on(async {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let copy = again(batch);
                *number += 1;
                let start = Instant::now();
                writer.append(*number, copy).await.expect("the batch is accepted");
                spent += start.elapsed();
            }
            let start = Instant::now();
            settled(writer, *number).await;
            spent + start.elapsed()
        })
    });
}

fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = folder();
    let (_log, mut writer) = runtime.block_on(open(&folder));
    let (batch, mut number) = (batch(), 0);
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("append", |bencher| append_again(bencher, &runtime, &mut *writer, &batch, &mut number));
    group.finish();
}

/// Offsets of nobody: batches without changes of the state keep none.
struct NoOffsets;

impl OffsetStore for NoOffsets {
    fn settled(&self, _: &OffsetsOf) -> BoxFuture<'_, tailwater_api::Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn load(&self, _: &OffsetsOf) -> BoxFuture<'_, tailwater_api::Result<SourceState>> {
        Box::pin(ready(Ok(SourceState::default())))
    }

    fn put(&self, _: &OffsetsOf, _: Vec<StateChange>) -> BoxFuture<'_, tailwater_api::Result<()>> {
        unreachable!("no batch has an offset")
    }

    fn records(&self, _: &OffsetsOf, _: &[StateChange]) -> BoxFuture<'_, tailwater_api::Result<OffsetRecords>> {
        unreachable!("no batch has an offset")
    }

    fn committed(&self, _: &OffsetsOf, _: Vec<StateChange>) -> BoxFuture<'_, tailwater_api::Result<()>> {
        unreachable!("no batch has an offset")
    }
}

fn kafka(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("the double starts");
    cluster.create_topic(TOPIC, 1, 1).expect("the double makes a topic");
    let worker = [("topics.kafka.bootstrap.servers", cluster.bootstrap_servers()), ("topic.creation.enable", "false".to_owned())];
    let options = KafkaOptions { worker: worker.into_iter().collect(), memory_budget: 16 << 20 };
    let (_log, mut writer) = runtime.block_on(async {
        let log = KafkaLog::open(options, Arc::new(NoOffsets)).await.expect("the log opens");
        let writer = log.writer(&"shop".into()).await.expect("the producer starts");
        (log, writer)
    });
    let (batch, mut number) = (SourceBatch { state: Vec::new(), ..batch() }, 0);
    let mut group = criterion.benchmark_group("kafka");
    group.throughput(Throughput::Elements(BATCH)).sample_size(20);
    group.bench_function("append", |bencher| append_again(bencher, &runtime, &mut *writer, &batch, &mut number));
    group.finish();
}

async fn next_batch(reader: &mut Box<dyn LogReader>) -> Option<usize> {
    match tokio::time::timeout(Duration::from_millis(100), reader.poll(2 << 20)).await {
        Ok(Ok(Polled::Records(batch))) => Some(batch.records.len()),
        Ok(Ok(Polled::Assigned(_) | Polled::Revoked(_))) => Some(0),
        Ok(Ok(Polled::Unreadable(record))) => panic!("{record:?}"),
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => None,
    }
}

fn read(criterion: &mut Criterion) {
    const BATCHES: u64 = 100;
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = folder();
    let (log, mut writer) = runtime.block_on(open(&folder));
    let batch = batch();
    runtime.block_on(async {
        for number in 1..=BATCHES {
            writer.append(number, again(&batch)).await.expect("the batch is accepted");
        }
        settled(&*writer, BATCHES).await;
    });
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(BATCH * BATCHES)).sample_size(20);
    group.bench_function("read", |bencher| {
        bencher.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let mut reader =
                        log.reader(&"copy".into(), Subscription::Topics(vec![TOPIC.to_owned()])).await.expect("a reader opens");
                    let start = Instant::now();
                    let mut count = 0;
                    while count < BATCH * BATCHES {
                        count += next_batch(&mut reader).await.expect("records are there") as u64;
                    }
                    spent += start.elapsed();
                }
                spent
            })
        });
    });
    group.finish();
}

criterion_group!(benches, append, read, kafka);
criterion_main!(benches);
