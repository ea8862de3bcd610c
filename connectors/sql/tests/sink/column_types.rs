//! Values of every mapped type, at their extremes, come back as they were.

use std::sync::Arc;

use bytes::Bytes;
use num_bigint::BigInt;
use tailwater_api::{Field, Kind, Schema, Value};

use crate::harness::{Captured, Sink, UPSERT, id, optional, targets};

fn named(kind: Kind, name: &str) -> Arc<Schema> {
    Schema::of(kind).optional().name(name).version(1).build()
}

fn decimal(scale: i32, precision: Option<u32>) -> Arc<Schema> {
    let schema = Schema::of(Kind::Bytes).optional().name("org.apache.kafka.connect.data.Decimal").parameter("scale", scale.to_string());
    match precision {
        Some(precision) => schema.parameter("connect.decimal.precision", precision.to_string()).build(),
        None => schema.build(),
    }
}

fn unscaled(digits: &str) -> Value {
    Value::Bytes(Bytes::from(digits.parse::<BigInt>().unwrap().to_signed_bytes_be()))
}

fn bytes(octets: &'static [u8]) -> Value {
    Value::Bytes(Bytes::from_static(octets))
}

fn array(values: Vec<Value>) -> Value {
    Value::Array(values.into())
}

/// Schema, value, and what PostgreSQL and SQLite show.
type Case = (Arc<Schema>, Value, String, String);

fn same(schema: Arc<Schema>, value: Value, shown: &str) -> Case {
    (schema, value, shown.to_owned(), shown.to_owned())
}

fn unlike(schema: Arc<Schema>, value: Value, postgres: &str, sqlite: &str) -> Case {
    (schema, value, postgres.to_owned(), sqlite.to_owned())
}

fn scalars() -> Vec<Case> {
    let nines = "9".repeat(300);
    let text = |name: &str| named(Kind::String, name);
    vec![
        unlike(optional(Kind::Boolean), Value::Boolean(true), "true", "1"),
        unlike(optional(Kind::Boolean), Value::Boolean(false), "false", "0"),
        same(optional(Kind::Int8), Value::Int8(i8::MIN), "-128"),
        same(optional(Kind::Int16), Value::Int16(i16::MIN), "-32768"),
        same(optional(Kind::Int32), Value::Int32(i32::MIN), "-2147483648"),
        same(optional(Kind::Int64), Value::Int64(i64::MIN), "-9223372036854775808"),
        same(optional(Kind::Int64), Value::Int64(i64::MAX), "9223372036854775807"),
        unlike(optional(Kind::Float32), Value::Float32(0.1), "0.1", "0.10000000149011612"),
        unlike(optional(Kind::Float32), Value::Float32(f32::NAN), "NaN", "NaN"),
        unlike(optional(Kind::Float64), Value::Float64(f64::MAX), "1.7976931348623157e+308", "1.7976931348623157e308"),
        unlike(optional(Kind::Float64), Value::Float64(5e-324), "5e-324", "5e-324"),
        unlike(optional(Kind::Float64), Value::Float64(f64::NEG_INFINITY), "-Infinity", "-inf"),
        same(optional(Kind::Float64), Value::Float64(f64::NAN), "NaN"),
        same(optional(Kind::String), "".into(), ""),
        same(optional(Kind::String), "quote ' \" \\ \u{1f409} NULL".into(), "quote ' \" \\ \u{1f409} NULL"),
        unlike(optional(Kind::Bytes), bytes(&[0, 0xff, 0x27]), "\\x00ff27", "[00, ff, 27]"),
        unlike(optional(Kind::Bytes), bytes(&[]), "\\x", "[]"),
        same(decimal(2, Some(12)), unscaled("150"), "1.50"),
        same(decimal(2, Some(12)), unscaled("-999999999999"), "-9999999999.99"),
        same(decimal(0, None), unscaled(&nines), &nines),
        same(decimal(100, None), unscaled("-1"), &format!("-0.{}1", "0".repeat(99))),
        same(named(Kind::Int32, "io.debezium.time.Date"), Value::Int32(19_782), "2024-02-29"),
        same(named(Kind::Int32, "io.debezium.time.Date"), Value::Int32(-735_160), "0044-03-15 BC"),
        same(named(Kind::Int32, "io.debezium.time.Date"), Value::Int32(-2_147_472_692), "infinity"),
        same(named(Kind::Int32, "org.apache.kafka.connect.data.Date"), Value::Int32(2_145_042_905), "5874897-12-31"),
        same(named(Kind::Int32, "io.debezium.time.Time"), Value::Int32(86_399_999), "23:59:59.999"),
        same(named(Kind::Int32, "org.apache.kafka.connect.data.Time"), Value::Int32(0), "00:00:00"),
        same(named(Kind::Int64, "io.debezium.time.MicroTime"), Value::Int64(86_400_000_000), "24:00:00"),
        same(named(Kind::Int64, "io.debezium.time.NanoTime"), Value::Int64(1_000), "00:00:00.000001"),
        same(named(Kind::Int64, "io.debezium.time.Timestamp"), Value::Int64(1_709_251_199_999), "2024-02-29 23:59:59.999"),
        same(named(Kind::Int64, "io.debezium.time.Timestamp"), Value::Int64(9_224_318_015_999_999), "294276-12-31 23:59:59.999"),
        same(named(Kind::Int64, "org.apache.kafka.connect.data.Timestamp"), Value::Int64(-1), "1969-12-31 23:59:59.999"),
        same(named(Kind::Int64, "io.debezium.time.MicroTimestamp"), Value::Int64(-63_517_780_799_999_999), "0044-03-15 12:00:00.000001 BC"),
        same(named(Kind::Int64, "io.debezium.time.MicroTimestamp"), Value::Int64(9_223_372_036_825_200_000), "infinity"),
        same(named(Kind::Int64, "io.debezium.time.MicroTimestamp"), Value::Int64(-9_223_372_036_832_400_000), "-infinity"),
        same(named(Kind::Int64, "io.debezium.time.NanoTimestamp"), Value::Int64(1_000), "1970-01-01 00:00:00.000001"),
        unlike(
            text("io.debezium.time.ZonedTimestamp"),
            "2024-02-29T23:59:59.999999Z".into(),
            "2024-02-29 23:59:59.999999+00",
            "2024-02-29T23:59:59.999999Z",
        ),
        unlike(
            text("io.debezium.time.ZonedTimestamp"),
            "-0043-03-15T12:00:00.100Z".into(),
            "0044-03-15 12:00:00.1+00 BC",
            "-0043-03-15T12:00:00.100Z",
        ),
        unlike(
            text("io.debezium.time.ZonedTimestamp"),
            "+294276-12-31T23:59:59.999999Z".into(),
            "294276-12-31 23:59:59.999999+00",
            "+294276-12-31T23:59:59.999999Z",
        ),
        same(text("io.debezium.time.ZonedTimestamp"), "-infinity".into(), "-infinity"),
        unlike(text("io.debezium.time.ZonedTime"), "23:59:59.999999Z".into(), "23:59:59.999999+00", "23:59:59.999999Z"),
        unlike(named(Kind::Int64, "io.debezium.time.MicroDuration"), Value::Int64(-1_000_001), "-00:00:01.000001", "-1000001"),
        unlike(text("io.debezium.time.Interval"), "P1Y2M3DT4H5M6.78S".into(), "1 year 2 mons 3 days 04:05:06.78", "P1Y2M3DT4H5M6.78S"),
        same(named(Kind::Int32, "io.debezium.time.Year"), Value::Int32(2024), "2024"),
        same(text("io.debezium.data.Json"), "{\"a\":  [1e400, null]}".into(), "{\"a\":  [1e400, null]}"),
        same(text("io.debezium.data.Uuid"), "00112233-4455-6677-8899-aabbccddeeff".into(), "00112233-4455-6677-8899-aabbccddeeff"),
        same(text("io.debezium.data.Xml"), "<a>&lt;</a>".into(), "<a>&lt;</a>"),
        same(text("io.debezium.data.Enum"), "happy".into(), "happy"),
        same(text("io.debezium.data.Ltree"), "a.b.c".into(), "a.b.c"),
        same(text("io.debezium.data.Tsvector"), "'a':1 'b':2".into(), "'a':1 'b':2"),
    ]
}

fn composites() -> Vec<Case> {
    let bits = |length: &str| Schema::of(Kind::Bytes).optional().name("io.debezium.data.Bits").parameter("length", length).build();
    let list = |element: Arc<Schema>| Schema::of(Kind::Array(element)).optional().build();
    let variable =
        Schema::structure(vec![Field::new("scale", Schema::of(Kind::Int32).build()), Field::new("value", Schema::of(Kind::Bytes).build())]);
    let point = Schema::structure(vec![
        Field::new("x", Schema::of(Kind::Float64).build()),
        Field::new("y", Schema::of(Kind::Float64).build()),
        Field::new("wkb", optional(Kind::Bytes)),
        Field::new("srid", optional(Kind::Int32)),
    ]);
    let plain = Schema::structure(vec![Field::new("a", optional(Kind::Int32)), Field::new("b", optional(Kind::Bytes))]);
    let map = Schema::of(Kind::Map(Schema::of(Kind::String).build(), optional(Kind::String)));
    let jsonb = Schema::of(Kind::String).name("io.debezium.data.Json").parameter("__debezium.source.column.type", "JSONB");
    let inet = Schema::of(Kind::String).optional().parameter("__debezium.source.column.type", "INET").build();
    vec![
        same(
            variable.name("io.debezium.data.VariableScaleDecimal").optional().build(),
            Value::Struct(vec![Value::Int32(40), unscaled("12345678901234567890123456789012345678901234567890")].into()),
            "1234567890.1234567890123456789012345678901234567890",
        ),
        unlike(bits("9"), bytes(&[0xff, 0x01]), "111111111", "[ff, 01]"),
        unlike(bits("2147483647"), bytes(&[0x05]), "101", "[05]"),
        same(
            point.name("io.debezium.data.geometry.Point").optional().build(),
            Value::Struct(vec![Value::Float64(1.5), Value::Float64(-2.0), Value::Null, Value::Null].into()),
            "(1.5,-2.0)",
        ),
        unlike(
            plain.optional().build(),
            Value::Struct(vec![Value::Int32(1), bytes(&[1, 2])].into()),
            "{\"a\": 1, \"b\": \"AQI=\"}",
            "{\"a\":1,\"b\":\"AQI=\"}",
        ),
        unlike(map.optional().build(), Value::Map(vec![("k".into(), Value::Null)].into()), "{\"k\": null}", "{\"k\":null}"),
        unlike(jsonb.optional().build(), "{\"b\":1,\"a\":2}".into(), "{\"a\": 2, \"b\": 1}", "{\"b\":1,\"a\":2}"),
        same(inet, "10.0.0.1/8".into(), "10.0.0.1/8"),
        unlike(list(optional(Kind::Int32)), array(vec![id(1), Value::Null, id(-3)]), "{1,NULL,-3}", "[1,null,-3]"),
        unlike(list(optional(Kind::Int32)), array(vec![]), "{}", "[]"),
        unlike(
            list(optional(Kind::String)),
            array(vec!["a,\"b\"".into(), "NULL".into(), "".into()]),
            "{\"a,\\\"b\\\"\",\"NULL\",\"\"}",
            "[\"a,\\\"b\\\"\",\"NULL\",\"\"]",
        ),
        unlike(list(optional(Kind::Bytes)), array(vec![bytes(&[0xde, 0xad])]), "{\"\\\\xdead\"}", "[\"3q0=\"]"),
        unlike(list(optional(Kind::Boolean)), array(vec![Value::Boolean(true)]), "{t}", "[true]"),
        unlike(list(decimal(2, None)), array(vec![unscaled("150")]), "{1.50}", "[\"1.50\"]"),
        unlike(list(named(Kind::Int32, "io.debezium.time.Date")), array(vec![id(0)]), "{1970-01-01}", "[\"1970-01-01\"]"),
        unlike(
            list(list(optional(Kind::Int32))),
            array(vec![array(vec![id(1), id(2)]), array(vec![id(3), id(4)])]),
            "{{1,2},{3,4}}",
            "[[1,2],[3,4]]",
        ),
    ]
}

#[tokio::test]
async fn every_mapped_type_keeps_its_values_at_their_extremes_and_null() {
    for target in targets("types_all").await {
        let cases: Vec<Case> = scalars().into_iter().chain(composites()).collect();
        let names: Vec<String> = (0..cases.len()).map(|number| format!("c{number}")).collect();
        let mut columns = vec![("id", Schema::of(Kind::Int32).build())];
        columns.extend(names.iter().map(String::as_str).zip(cases.iter().map(|case| Arc::clone(&case.0))));
        let everything = Captured::new("everything", columns);
        let mut sink = Sink::open(&target.url(), UPSERT, &[&everything.topic]).await.unwrap();
        let row = |key: i32| std::iter::once(id(key)).chain(cases.iter().map(|case| case.1.clone())).collect::<Vec<_>>();
        let nulls = std::iter::once(id(2)).chain(cases.iter().map(|_| Value::Null)).collect();
        sink.write(vec![everything.create(row(1)), everything.create(nulls)]).await.unwrap();
        // Twice, so that updates are bound as inserts are.
        sink.write(vec![everything.update(row(1))]).await.unwrap();
        assert!(sink.dead.letters.lock().unwrap().is_empty(), "{:?}", sink.dead.letters.lock().unwrap());

        for (name, (schema, _, postgres, sqlite)) in names.iter().zip(&cases) {
            let shown = if target.is_postgres() { postgres } else { sqlite };
            let point = schema.name().is_some_and(|name| name.ends_with("Point"));
            // PostgreSQL writes the floats of a point without a fraction of zero.
            let shown = if point && target.is_postgres() { "(1.5,-2)" } else { shown };
            let rows = target.rows(&format!("SELECT {name} FROM everything ORDER BY id")).await;
            assert_eq!(rows, [shown, "-"], "{name}: {schema:?}");
        }
    }
}

#[tokio::test]
async fn key_values_of_every_scalar_type_find_their_rows_again() {
    for target in targets("types_keys").await {
        for (number, (schema, value, ..)) in scalars().into_iter().enumerate() {
            // JSON, XML and values that equal nothing are no keys.
            let name = schema.name().unwrap_or_default();
            if name.ends_with("Json") || name.ends_with("Xml") || matches!(value, Value::Float32(_) | Value::Float64(_)) {
                continue;
            }
            let topic = format!("keyed{number}");
            let keyed = Captured::new(&topic, vec![("k", schema.clone()), ("v", optional(Kind::Int32)), ("w", optional(Kind::Int32))]);
            let mut sink = Sink::open(&target.url(), UPSERT, &[&topic]).await.unwrap();
            sink.write(vec![keyed.create(vec![value.clone(), id(1), id(2)])]).await.unwrap();
            sink.write(vec![keyed.update(vec![value.clone(), id(3), Value::Unchanged])]).await.unwrap();
            let rows = target.rows(&format!("SELECT v, w FROM {topic}")).await;
            assert_eq!(rows, ["3|2"], "{schema:?} {:?}", sink.dead.letters.lock().unwrap());
            sink.write(vec![keyed.tombstone(value)]).await.unwrap();
            assert!(target.rows(&format!("SELECT v FROM {topic}")).await.is_empty(), "{schema:?}");
        }
    }
}
