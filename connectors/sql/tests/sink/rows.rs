//! What records do to rows, on every target.

use std::sync::Arc;

use proptest::prelude::*;
use tailwater_api::{ErrorKind, Header, Headers, Kind, Record, Schema, SchemaAndValue, Value};

use crate::harness::{Captured, Sink, Target, UPSERT, id, optional, sqlite, targets};

const ORDERS: &str = "SELECT id, note, body FROM shop_public_orders ORDER BY id";

async fn upserting(target: &Target, orders: &Captured) -> Sink {
    Sink::open(&target.url(), UPSERT, &[&orders.topic]).await.unwrap()
}

#[tokio::test]
async fn tables_are_created_and_rows_inserted_updated_and_deleted() {
    for target in targets("rows_basic").await {
        let orders = Captured::orders();
        let mut sink = upserting(&target, &orders).await;
        let first = vec![
            orders.create(vec![id(1), "one".into(), Value::Null]),
            orders.create(vec![id(2), "two".into(), "b".into()]),
            orders.create(vec![id(3), "three".into(), "c".into()]),
            orders.message(),
        ];
        sink.write(first).await.unwrap();
        let second = vec![
            orders.update(vec![id(2), "zwei".into(), Value::Null]),
            orders.delete(id(3)),
            orders.tombstone(id(3)),
            orders.delete(id(99)),
        ];
        sink.write(second).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|one|-", "2|zwei|-"]);
        assert!(sink.dead.offsets().is_empty());
    }
}

#[tokio::test]
async fn a_truncate_keeps_its_place_among_the_rows() {
    for target in targets("rows_truncate").await {
        let orders = Captured::orders();
        let mut sink = upserting(&target, &orders).await;
        let row = |key: i32| orders.create(vec![id(key), "x".into(), Value::Null]);
        sink.write(vec![orders.truncate(), row(1), row(2), orders.truncate(), row(3), row(2)]).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["2|x|-", "3|x|-"]);
    }
}

#[tokio::test]
async fn deletes_and_truncates_are_left_out_unless_enabled() {
    for target in targets("rows_not_enabled").await {
        let orders = Captured::orders();
        let entries = [("insert.mode", "upsert"), ("primary.key.mode", "record_key"), ("schema.evolution", "basic")];
        let mut sink = Sink::open(&target.url(), &entries, &[&orders.topic]).await.unwrap();
        let row = orders.create(vec![id(1), "x".into(), Value::Null]);
        sink.write(vec![row, orders.delete(id(1)), orders.tombstone(id(1)), orders.truncate()]).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|x|-"]);
    }
}

#[tokio::test]
async fn two_updates_in_a_batch_the_second_with_an_unchanged_column_leave_both_changes() {
    for target in targets("rows_unchanged").await {
        let orders = Captured::orders();
        let mut sink = upserting(&target, &orders).await;
        sink.write(vec![orders.create(vec![id(1), "old".into(), "old body".into()])]).await.unwrap();
        let batch =
            vec![orders.update(vec![id(1), "a".into(), "new body".into()]), orders.update(vec![id(1), "b".into(), Value::Unchanged])];
        sink.write(batch).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|b|new body"]);

        // In a batch of its own it leaves what stands in the row.
        sink.write(vec![orders.update(vec![id(1), Value::Null, Value::Unchanged])]).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|-|new body"]);
    }
}

#[tokio::test]
async fn an_update_with_unchanged_columns_of_a_missing_row_is_never_inserted_with_holes() {
    for target in targets("rows_holes").await {
        let orders = Captured::orders();
        let mut sink = upserting(&target, &orders).await;
        let batch = vec![
            orders.create(vec![id(1), "one".into(), "x".into()]),
            orders.update(vec![id(7), "seven".into(), Value::Unchanged]),
            orders.create(vec![id(2), "two".into(), "y".into()]),
        ];
        sink.write(batch).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|one|x", "2|two|y"]);
        assert_eq!(sink.dead.offsets(), [1]);
    }
}

#[tokio::test]
async fn added_columns_are_added_and_older_records_leave_them_alone() {
    for target in targets("rows_evolution").await {
        let orders = Captured::orders();
        let mut sink = upserting(&target, &orders).await;
        sink.write(vec![orders.create(vec![id(1), "one".into(), Value::Null])]).await.unwrap();
        let required = Schema::of(Kind::Int64).build();
        let with_default = Schema::of(Kind::String).default("it's".into()).build();
        let wider = Captured::new(
            &orders.topic,
            vec![
                ("id", Schema::of(Kind::Int32).build()),
                ("note", optional(Kind::String)),
                ("body", optional(Kind::String)),
                ("total", required),
                ("state", with_default),
            ],
        );
        let batch = vec![
            wider.create(vec![id(2), "two".into(), Value::Null, Value::Int64(5), "new".into()]),
            orders.update(vec![id(2), "zwei".into(), Value::Null]),
            orders.create(vec![id(3), "three".into(), Value::Null]),
        ];
        sink.write(batch).await.unwrap();
        let rows = target.rows("SELECT id, note, total, state FROM shop_public_orders ORDER BY id").await;
        assert_eq!(rows, ["1|one|-|it's", "2|zwei|5|new", "3|three|-|it's"]);
    }
}

#[tokio::test]
async fn defaults_become_the_columns_and_what_is_no_value_of_the_type_is_left_out() {
    for target in targets("rows_defaults").await {
        let with = |kind: Kind, default: Value| Schema::of(kind).default(default);
        let rows = Captured::new(
            "defaults",
            vec![
                ("id", Schema::of(Kind::Int32).build()),
                ("n", with(Kind::Int32, Value::Int32(-5)).build()),
                ("t", with(Kind::String, "a\\'b".into()).build()),
                ("b", with(Kind::Boolean, Value::Boolean(true)).build()),
                ("d", with(Kind::Int32, Value::Int32(0)).name("io.debezium.time.Date").build()),
                ("u", with(Kind::String, "".into()).name("io.debezium.data.Uuid").build()),
            ],
        );
        let mut sink = Sink::open(&target.url(), UPSERT, &[&rows.topic]).await.unwrap();
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        sink.write(vec![rows.create(vec![id(1), id(1), "t".into(), Value::Boolean(false), id(1), uuid.into()])]).await.unwrap();
        target.run(&format!("INSERT INTO defaults (id, u) VALUES (2, '{uuid}')")).await;
        let yes = if target.is_postgres() { "true" } else { "1" };
        let shown = target.rows("SELECT n, t, b, d FROM defaults WHERE id = 2").await;
        assert_eq!(shown, [format!("-5|a\\'b|{yes}|1970-01-01")]);
        let required = sink.write(vec![rows.create(vec![id(3), Value::Null, "t".into(), Value::Boolean(false), id(1), uuid.into()])]).await;
        required.unwrap();
        assert_eq!(sink.dead.offsets(), [1], "the column is NOT NULL");
    }
}

#[tokio::test]
async fn without_evolution_the_error_has_the_statement_that_mends_it() {
    for target in targets("rows_no_evolution").await {
        let orders = Captured::orders();
        let entries = [("insert.mode", "upsert"), ("primary.key.mode", "record_key")];
        let mut sink = Sink::open(&target.url(), &entries, &[&orders.topic]).await.unwrap();
        let row = || vec![orders.create(vec![id(1), "one".into(), Value::Null])];
        let error = sink.write(row()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.remedy().unwrap().starts_with("CREATE TABLE IF NOT EXISTS \"shop_public_orders\" (\"id\" "), "{error}");

        target.run("CREATE TABLE shop_public_orders (id int PRIMARY KEY, note text)").await;
        let error = sink.write(row()).await.unwrap_err();
        assert!(error.to_string().contains("has no column body"), "{error}");
        let statement = error.remedy().unwrap().split(';').next().unwrap().to_owned();
        target.run(&statement).await;
        sink.write(row()).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|one|-"]);
    }
}

#[tokio::test]
async fn a_table_that_others_altered_is_looked_at_again() {
    for target in targets("rows_altered").await {
        let orders = Captured::orders();
        let mut sink = upserting(&target, &orders).await;
        sink.write(vec![orders.create(vec![id(1), "one".into(), "x".into()])]).await.unwrap();
        target.run("ALTER TABLE shop_public_orders DROP COLUMN body").await;
        sink.write(vec![orders.create(vec![id(2), "two".into(), "y".into()])]).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|one|-", "2|two|y"]);
        target.run("DROP TABLE shop_public_orders").await;
        sink.write(vec![orders.create(vec![id(3), "three".into(), "z".into()])]).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["3|three|z"]);
        assert!(sink.dead.offsets().is_empty());
    }
}

#[tokio::test]
async fn flat_rows_are_upserted_and_deleted_by_tombstone_or_marker() {
    for target in targets("rows_flat").await {
        let columns =
            |name| vec![("id", Schema::of(Kind::Int32).build()), (name, optional(Kind::String)), ("__deleted", optional(Kind::String))];
        let flat = Captured::new("shop.public.orders", columns("note"));
        let mut sink = upserting(&target, &flat).await;
        let row = |key: i32, deleted: &str| flat.flat(vec![id(key), "x".into(), deleted.into()]);
        sink.write(vec![row(1, "false"), row(2, "false"), row(3, "false")]).await.unwrap();
        let marked = flat.flat(vec![id(1), Value::NotInIdentity, "true".into()]);
        sink.write(vec![marked, flat.tombstone(id(2))]).await.unwrap();
        assert_eq!(target.rows("SELECT id, note, __deleted FROM shop_public_orders").await, ["3|x|false"]);
    }
}

#[tokio::test]
async fn without_deletes_a_marker_is_a_soft_delete_that_keeps_the_row() {
    for target in targets("rows_soft_delete").await {
        let flat = Captured::new(
            "shop.public.orders",
            vec![("id", Schema::of(Kind::Int32).build()), ("note", optional(Kind::String)), ("__deleted", optional(Kind::String))],
        );
        let entries = [("insert.mode", "upsert"), ("primary.key.mode", "record_key"), ("schema.evolution", "basic")];
        let mut sink = Sink::open(&target.url(), &entries, &[&flat.topic]).await.unwrap();
        sink.write(vec![flat.flat(vec![id(1), "x".into(), "false".into()])]).await.unwrap();
        sink.write(vec![flat.flat(vec![id(1), Value::NotInIdentity, "true".into()])]).await.unwrap();
        assert_eq!(target.rows("SELECT id, note, __deleted FROM shop_public_orders").await, ["1|x|true"]);
    }
}

#[tokio::test]
async fn rows_of_a_table_without_key_are_appended_each_once_and_in_order() {
    for target in targets("rows_append").await {
        let log = Captured::without_key("shop.public.log", vec![("n", Schema::of(Kind::Int32).build()), ("note", optional(Kind::String))]);
        for entries in [&[("schema.evolution", "basic")][..], UPSERT] {
            let mut sink = Sink::open(&target.url(), entries, &[&log.topic]).await.unwrap();
            let rows = (0..1500).map(|n| log.create(vec![id(n), if n % 7 == 0 { Value::Null } else { "x".into() }])).collect();
            sink.write(rows).await.unwrap();
        }
        let order = if target.is_postgres() { "ctid" } else { "rowid" };
        let rows = target.rows(&format!("SELECT n FROM shop_public_log ORDER BY {order}")).await;
        let expected: Vec<String> = (0..1500).chain(0..1500).map(|n: i32| n.to_string()).collect();
        assert!(rows == expected, "{} rows", rows.len());
    }
}

#[tokio::test]
async fn records_without_schema_take_the_types_of_the_table() {
    for target in targets("rows_schemaless").await {
        let entry = |name: &'static str, value: Value| (Value::text(name), value);
        let record = |key: i64, values: Vec<(Value, Value)>| {
            let key = SchemaAndValue { schema: None, value: Value::Map(vec![entry("id", Value::Int64(key))].into()) };
            Record::new("events".into(), key, SchemaAndValue { schema: None, value: Value::Map(values.into()) })
        };
        let row = || {
            let nested = Value::Map(vec![entry("a", Value::Int64(1))].into());
            record(
                1,
                vec![
                    entry("id", Value::Int64(1)),
                    entry("day", "2024-02-29".into()),
                    entry("doc", nested),
                    entry("ok", Value::Boolean(true)),
                ],
            )
        };
        let mut sink = Sink::open(&target.url(), UPSERT, &["events"]).await.unwrap();
        let error = sink.write(vec![row()]).await.unwrap_err();
        assert!(error.remedy().unwrap().contains("schemas.enable"), "{error}");

        target.run("CREATE TABLE events (id bigint PRIMARY KEY, day date, doc text, ok boolean)").await;
        sink.write(vec![row()]).await.unwrap();
        let rows = target.rows("SELECT id, day, doc FROM events").await;
        assert_eq!(rows, ["1|2024-02-29|{\"a\":1}"]);
        let after = Value::Map(vec![entry("id", Value::Int64(1)), entry("day", Value::Null)].into());
        sink.write(vec![record(1, vec![entry("op", "u".into()), entry("after", after)])]).await.unwrap();
        assert_eq!(target.rows("SELECT id, day, doc FROM events").await, ["1|-|{\"a\":1}"]);
        let gone = record(1, Vec::new());
        sink.write(vec![Record::new("events".into(), gone.key, SchemaAndValue::NONE)]).await.unwrap();
        assert!(target.rows("SELECT id FROM events").await.is_empty());
    }
}

#[tokio::test]
async fn keys_come_from_the_log_the_row_or_the_headers() {
    for target in targets("rows_key_modes").await {
        let orders = Captured::orders();
        let row = |key: i32, note: &'static str| orders.create(vec![id(key), note.into(), Value::Null]);
        for (mode, fields, name) in [
            ("kafka", "", "by_log"),
            ("record_value", "id", "by_row"),
            ("record_value", "id,note", "by_two"),
            ("record_header", "trace", "by_header"),
        ] {
            let entries = [
                ("insert.mode", "upsert"),
                ("primary.key.mode", mode),
                ("primary.key.fields", fields),
                ("schema.evolution", "basic"),
                ("collection.name.format", name),
            ];
            let topic: Arc<str> = format!("topic.{name}").into();
            let mut sink = Sink::open(&target.url(), &entries, &[&topic]).await.unwrap();
            let with_header = |mut record: Record, trace: &str| {
                record.topic = Arc::clone(&topic);
                let value = SchemaAndValue::new(Schema::of(Kind::String).build(), trace.into());
                record.headers = Headers::new(vec![Header { name: "trace".into(), value }]);
                record
            };
            let batch = vec![with_header(row(1, "a"), "t1"), with_header(row(1, "b"), "t1"), with_header(row(2, "a"), "t2")];
            sink.write(batch).await.unwrap();
        }
        let log = target.rows("SELECT __connect_topic, __connect_partition, __connect_offset, id, note FROM by_log ORDER BY 3").await;
        assert_eq!(log, ["topic.by_log|0|0|1|a", "topic.by_log|0|1|1|b", "topic.by_log|0|2|2|a"]);
        assert_eq!(target.rows("SELECT id, note FROM by_row ORDER BY 1").await, ["1|b", "2|a"]);
        assert_eq!(target.rows("SELECT id, note FROM by_two ORDER BY 1, 2").await, ["1|a", "1|b", "2|a"]);
        assert_eq!(target.rows("SELECT trace, id, note FROM by_header ORDER BY 1").await, ["t1|1|b", "t2|2|a"]);
    }
}

#[tokio::test]
async fn update_mode_writes_only_rows_that_are_there() {
    for target in targets("rows_update_mode").await {
        let orders = Captured::orders();
        target.run("CREATE TABLE shop_public_orders (id int PRIMARY KEY, note text, body text)").await;
        target.run("INSERT INTO shop_public_orders VALUES (1, 'a', 'b')").await;
        let entries = [("insert.mode", "update"), ("primary.key.mode", "record_key")];
        let mut sink = Sink::open(&target.url(), &entries, &[&orders.topic]).await.unwrap();
        let batch = vec![orders.create(vec![id(1), "x".into(), "y".into()]), orders.create(vec![id(2), "x".into(), "y".into()])];
        sink.write(batch).await.unwrap();
        assert_eq!(target.rows(ORDERS).await, ["1|x|y"]);
        assert!(sink.dead.offsets().is_empty());
    }
}

#[tokio::test]
async fn rows_of_nothing_but_their_key_are_upserted_and_patched() {
    for target in targets("rows_key_only").await {
        let tags = Captured::new("tags", vec![("tag", Schema::of(Kind::String).build())]);
        let mut sink = Sink::open(&target.url(), UPSERT, &[&tags.topic]).await.unwrap();
        let row = |tag: &'static str| tags.create(vec![tag.into()]);
        sink.write(vec![row("a"), row("b"), row("a")]).await.unwrap();
        sink.write(vec![row("a"), row("c")]).await.unwrap();
        assert_eq!(target.rows("SELECT tag FROM tags ORDER BY tag").await, ["a", "b", "c"]);
    }
}

#[tokio::test]
async fn a_batch_of_any_size_is_written_whole() {
    for target in targets("rows_sizes").await {
        let orders = Captured::orders();
        let mut entries = UPSERT.to_vec();
        entries.push(("batch.size", "100000"));
        let mut sink = Sink::open(&target.url(), &entries, &[&orders.topic]).await.unwrap();
        let row = |key: i32| orders.create(vec![id(key), "x".into(), Value::Null]);
        for size in [1, 2, 17, 511, 513, 20_000] {
            sink.write((0..size).map(row).collect()).await.unwrap();
            assert_eq!(target.rows("SELECT count(*) FROM shop_public_orders").await, [size.to_string()]);
        }
        sink.write((0..20_000).map(|key| orders.delete(id(key))).collect()).await.unwrap();
        assert_eq!(target.rows("SELECT count(*) FROM shop_public_orders").await, ["0"]);
    }
}

#[tokio::test]
async fn names_are_formed_quoted_and_filtered_as_configured() {
    for target in targets("rows_names").await {
        let orders = Captured::new(
            "shop.public.Orders",
            vec![("Id", Schema::of(Kind::Int32).build()), ("order", optional(Kind::String)), ("Secret", optional(Kind::String))],
        );
        let mut entries = UPSERT.to_vec();
        entries.extend([
            ("quote.identifiers", "true"),
            ("collection.name.format", "${source.schema}_${source.table}_${topic}"),
            ("field.exclude.list", "shop.public.Orders:Secret,nothing"),
        ]);
        let mut sink = Sink::open(&target.url(), &entries, &[&orders.topic]).await.unwrap();
        sink.write(vec![orders.create(vec![id(1), "x".into(), "hidden".into()]), orders.tombstone(id(1))]).await.unwrap();
        let rows = target.rows("SELECT * FROM \"public_orders_shop_public_Orders\"").await;
        assert_eq!(rows, ["1|x"]);
    }
}

#[tokio::test]
async fn two_topics_whose_names_become_one_table_are_refused() {
    let target = sqlite();
    let mut sink = Sink::open(&target.url(), UPSERT, &["a.b_c", "a_b.c"]).await.unwrap();
    let columns = || vec![("id", Schema::of(Kind::Int32).build())];
    let (one, two) = (Captured::new("a.b_c", columns()), Captured::new("a_b.c", columns()));
    let error = sink.write(vec![one.create(vec![id(1)]), two.create(vec![id(1)])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("a.b_c has the same table"), "{error}");
}

fn records() -> impl Strategy<Value = Vec<(u8, i32, Option<u8>, Option<u8>)>> {
    prop::collection::vec((0..10_u8, 0..5_i32, proptest::option::of(any::<u8>()), proptest::option::of(any::<u8>())), 1..30)
}

/// A record of one of several kinds; `None` for a value is *unchanged*.
fn record(orders: &Captured, (kind, key, note, body): (u8, i32, Option<u8>, Option<u8>)) -> Record {
    let value = |value: Option<u8>| value.map_or(Value::Unchanged, |value| value.to_string().into());
    match kind {
        0 => orders.delete(id(key)),
        1 => orders.truncate(),
        2 => orders.tombstone(id(key)),
        3..=5 => orders.create(vec![id(key), note.unwrap_or(0).to_string().into(), Value::Null]),
        _ => orders.update(vec![id(key), value(note), value(body)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_leaves_what_its_records_one_by_one_leave(batch in records()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (together, alone) = (sqlite(), sqlite());
            let orders = Captured::orders();
            let (mut merged, mut single) = (upserting(&together, &orders).await, upserting(&alone, &orders).await);
            let seed = || vec![orders.create(vec![id(0), "seed".into(), "seed".into()])];
            merged.write(seed()).await.unwrap();
            single.write(seed()).await.unwrap();
            merged.write(batch.iter().map(|entry| record(&orders, *entry)).collect()).await.unwrap();
            for entry in &batch {
                single.write(vec![record(&orders, *entry)]).await.unwrap();
            }
            assert_eq!(together.rows(ORDERS).await, alone.rows(ORDERS).await);
            // Merging may only spare refusals, of updates that a whole row overwrites later.
            let (refused, refused_alone) = (merged.dead.offsets(), single.dead.offsets());
            assert!(refused.iter().all(|offset| refused_alone.contains(offset)), "{refused:?} {refused_alone:?}");
        });
    }
}
