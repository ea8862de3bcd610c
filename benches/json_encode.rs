//! A change event of eight columns, 700 bytes of JSON without schemas, and the parts of it that cost most.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tailwater_api::{Field, Headers, Kind, Record, Schema, Value};
use tailwater_kit::envelope::{Change, ChangeEvents, EnvelopeSchemas, EventMoment, SnapshotMark, SourceBlocks, SourceMoment};
use tailwater_kit::json::{JsonOptions, JsonWriter};

/// An insert into a table of eight columns, as a Postgres connector would make it.
fn record() -> Record {
    let own = ["schema", "table", "txId", "lsn", "xmin", "origin", "origin_lsn"].into_iter().map(|name| {
        let kind = if matches!(name, "txId" | "lsn" | "xmin" | "origin_lsn") { Kind::Int64 } else { Kind::String };
        Field::new(name, Schema::of(kind).optional().build())
    });
    let source = SourceBlocks::new("io.debezium.connector.postgresql.Source", "0.1.0", "postgresql", "shop", own.collect());
    let decimal = Schema::of(Kind::Bytes).name("org.apache.kafka.connect.data.Decimal").version(1).parameter("scale", "2").build();
    let id = Field::new("id", Schema::of(Kind::Int64).build());
    let text = |name: &str| Field::new(name, Schema::of(Kind::String).optional().build());
    let row = vec![
        id.clone(),
        Field::new("customer_id", Schema::of(Kind::Int32).build()),
        text("email"),
        text("status"),
        Field::new("total", decimal),
        Field::new("created_at", Schema::of(Kind::Int64).name("io.debezium.time.MicroTimestamp").version(1).build()),
        text("note"),
        Field::new("paid", Schema::of(Kind::Boolean).build()),
    ];
    let schemas = EnvelopeSchemas::new("shop.public.orders", Some(vec![id]), row, source.schema());
    let events = ChangeEvents::new("shop.public.orders".into(), schemas, Headers::default(), true);
    let moment = SourceMoment {
        timestamp_ns: 1_795_228_981_878_551_000,
        snapshot: SnapshotMark::Streaming,
        database: "shop".into(),
        sequence: "[\"1948998816\",\"1948998816\"]".into(),
    };
    let own = ["public".into(), "orders".into(), Value::Int64(56028), Value::Int64(1_948_998_816), Value::Null, Value::Null, Value::Null];
    let moment = EventMoment { source: source.block(moment, own), transaction: None, timestamp_ns: 1_795_228_981_929_215_314 };
    let after = Value::Struct(Box::new([
        Value::Int64(1_234_567),
        Value::Int32(4711),
        "ada.lovelace@example.org".into(),
        "shipped".into(),
        Value::Bytes(Bytes::from_static(&[1, 226, 64])),
        Value::Int64(1_709_210_096_000_000),
        "leave it with the neighbours, the bell is broken".into(),
        Value::Boolean(true),
    ]));
    let mut records = Vec::new();
    let key = Value::Struct(Box::new([Value::Int64(1_234_567)]));
    events.records(Change::Create { key, after }, moment, |record| records.push(record));
    records.remove(0)
}

fn json_encode(criterion: &mut Criterion) {
    let record = record();
    let schema = record.value.schema.clone().expect("an event has a schema");
    let mut writer = JsonWriter::new(JsonOptions::default());
    let mut out = Vec::new();
    writer.write(Some(&schema), &record.value.value, &mut out).expect("the event fits its schema");
    let mut group = criterion.benchmark_group("json_encode");
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function("envelope", |bencher| {
        bencher.iter(|| {
            out.clear();
            writer.write(Some(black_box(&schema)), black_box(&record.value.value), &mut out).expect("the event fits its schema");
            out.len()
        });
    });
    group.bench_function("envelope_with_schema", |bencher| {
        bencher.iter(|| {
            out.clear();
            writer.write_schema(black_box(&schema), &mut out).expect("the schema is sound");
            writer.write(Some(&schema), black_box(&record.value.value), &mut out).expect("the event fits its schema");
            out.len()
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("json_encode_values");
    let double = Schema::of(Kind::Float64).build();
    let text = Schema::of(Kind::String).build();
    let values = [
        ("double_of_cents", &double, Value::Float64(123.45)),
        ("double_of_17_digits", &double, Value::Float64(0.1 + 0.2)),
        ("double_far_from_one", &double, Value::Float64(6.022_140_76e-23)),
        ("text_of_100", &text, "0123456789".repeat(10).into()),
        ("text_of_100_beyond_ascii", &text, "åäöÅÄÖéèüß".repeat(5).into()),
    ];
    for (name, schema, value) in values {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                writer.write(Some(schema), black_box(&value), &mut out).expect("the value fits its schema");
                out.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, json_encode);
criterion_main!(benches);
