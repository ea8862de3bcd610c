//! Records that the target refuses, and rights that it does not give.

use std::sync::atomic::Ordering;

use sqlx::ConnectOptions as _;
use tailwater_api::{ErrorKind, Kind, Schema, Value};

use crate::harness::{Captured, Sink, UPSERT, id, optional, postgres, sqlite, targets};

fn numbers() -> Captured {
    Captured::new("numbers", vec![("id", Schema::of(Kind::Int32).build()), ("n", optional(Kind::Int32))])
}

const CHECKED: &str = "CREATE TABLE numbers (id int PRIMARY KEY, n int CHECK (n <> 13))";

#[tokio::test]
async fn refused_records_are_isolated_and_all_others_written() {
    for target in targets("refusals_isolated").await {
        target.run(CHECKED).await;
        let numbers = numbers();
        let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
        let value = |key: i32| if [3, 500, 501, 998].contains(&key) { 13 } else { key + 1000 };
        sink.write((0..999).map(|key| numbers.create(vec![id(key), id(value(key))])).collect()).await.unwrap();
        assert_eq!(sink.dead.offsets(), [3, 500, 501, 998]);
        assert!(sink.dead.letters.lock().unwrap().iter().all(|(_, error)| error.starts_with("[rejected]")));
        assert_eq!(target.rows("SELECT count(*), min(n), max(n) FROM numbers").await, ["995|1000|1997"]);
        assert_eq!(sink.next, 999);
    }
}

#[tokio::test]
async fn where_the_dead_letters_refuse_nothing_is_written_and_the_position_stays() {
    for target in targets("refusals_stop").await {
        target.run(CHECKED).await;
        let numbers = numbers();
        let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
        sink.dead.stops.store(true, Ordering::Relaxed);
        let batch = || (0..10).map(|key| numbers.create(vec![id(key), id(if key == 5 { 13 } else { key })])).collect();
        let error = sink.write(batch()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert!(target.rows("SELECT id FROM numbers").await.is_empty());
        assert!(target.rows("SELECT topic FROM tailwater_offsets").await.is_empty());

        sink.dead.stops.store(false, Ordering::Relaxed);
        sink.write(batch()).await.unwrap();
        assert_eq!((sink.dead.offsets(), target.rows("SELECT count(*) FROM numbers").await), (vec![5], vec!["9".to_owned()]));
    }
}

#[tokio::test]
async fn what_only_merging_breaks_is_mended_by_smaller_sets() {
    for target in targets("refusals_order").await {
        target.run("CREATE TABLE numbers (id int PRIMARY KEY, n int UNIQUE)").await;
        let numbers = numbers();
        let row = |key: i32, n: i32| numbers.create(vec![id(key), id(n)]);
        let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
        sink.write(vec![row(1, 10), row(2, 20)]).await.unwrap();
        // A unique value changes hands, through a third: right one by one, wrong as a set.
        sink.write(vec![row(3, 30), row(2, 99), row(1, 20), row(3, 10), row(2, 30)]).await.unwrap();
        assert_eq!(target.rows("SELECT id, n FROM numbers ORDER BY id").await, ["1|20", "2|30", "3|10"]);
        assert!(sink.dead.offsets().is_empty());
    }
}

#[tokio::test]
async fn keys_that_the_target_holds_for_one_are_applied_in_order() {
    let Some(target) = postgres("refusals_collation").await else { return };
    target.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)").await;
    target.run("CREATE TABLE names (name text COLLATE loose PRIMARY KEY, n int)").await;
    let names = Captured::new("names", vec![("name", Schema::of(Kind::String).build()), ("n", optional(Kind::Int32))]);
    let mut sink = Sink::open(&target.url(), UPSERT, &[&names.topic]).await.unwrap();
    sink.write(vec![names.create(vec!["Ab".into(), id(1)]), names.create(vec!["aB".into(), id(2)])]).await.unwrap();
    assert_eq!(target.rows("SELECT name, n FROM names").await, ["Ab|2"]);
    assert!(sink.dead.offsets().is_empty());
}

#[tokio::test]
async fn children_before_their_parents_in_a_set_are_written_in_the_order_of_the_log() {
    for target in targets("refusals_foreign_key").await {
        target.run("CREATE TABLE parent (id int PRIMARY KEY)").await;
        target.run("CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent (id))").await;
        let parent = Captured::new("parent", vec![("id", Schema::of(Kind::Int32).build())]);
        let child = Captured::new("child", vec![("id", Schema::of(Kind::Int32).build()), ("parent", optional(Kind::Int32))]);
        let mut sink = Sink::open(&target.url(), UPSERT, &[&parent.topic, &child.topic]).await.unwrap();
        let batch = vec![
            child.create(vec![id(1), Value::Null]),
            parent.create(vec![id(7)]),
            child.update(vec![id(1), id(7)]),
            child.create(vec![id(2), id(8)]),
        ];
        sink.write(batch).await.unwrap();
        assert_eq!(target.rows("SELECT id, parent FROM child").await, ["1|7"]);
        assert_eq!(sink.dead.offsets(), [3]);
    }
}

#[tokio::test]
async fn a_file_that_another_process_writes_to_is_waited_for() {
    let target = sqlite();
    let numbers = numbers();
    let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
    let options: sqlx::sqlite::SqliteConnectOptions = target.url().parse().unwrap();
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let release = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    };
    let (written, ()) = tokio::join!(sink.write(vec![numbers.create(vec![id(1), id(1)])]), release);
    written.unwrap();
    assert_eq!(target.rows("SELECT id FROM numbers").await, ["1"]);
}

#[tokio::test]
async fn a_change_event_without_its_row_is_rejected() {
    let target = sqlite();
    let numbers = numbers();
    let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
    let mut torn = numbers.create(vec![id(1), id(1)]);
    let Value::Struct(parts) = &mut torn.value.value else { unreachable!("it is an envelope") };
    parts[1] = Value::Null;
    sink.write(vec![torn, numbers.create(vec![id(2), id(2)])]).await.unwrap();
    assert_eq!(sink.dead.offsets(), [0]);
    assert_eq!(target.rows("SELECT id FROM numbers").await, ["2"]);
}

#[tokio::test]
async fn inserting_a_key_twice_rejects_the_second() {
    for target in targets("refusals_insert_twice").await {
        let numbers = numbers();
        let entries = [("primary.key.mode", "record_key"), ("schema.evolution", "basic")];
        let mut sink = Sink::open(&target.url(), &entries, &[&numbers.topic]).await.unwrap();
        let row = |key: i32, n: i32| numbers.create(vec![id(key), id(n)]);
        sink.write(vec![row(1, 1), row(2, 2), row(1, 3), row(3, 4)]).await.unwrap();
        assert_eq!(sink.dead.offsets(), [2]);
        assert_eq!(target.rows("SELECT id, n FROM numbers ORDER BY id").await, ["1|1", "2|2", "3|4"]);
    }
}

#[tokio::test]
async fn records_that_cannot_name_their_row_are_rejected() {
    for target in targets("refusals_no_key").await {
        let numbers = numbers();
        let keyless = Captured::without_key("numbers", vec![("id", Schema::of(Kind::Int32).build()), ("n", optional(Kind::Int32))]);
        let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
        let batch = vec![
            numbers.create(vec![id(1), id(1)]),
            numbers.create(vec![Value::Null, id(2)]),
            keyless.delete(id(1)),
            keyless.update(vec![id(1), id(5)]),
        ];
        sink.write(batch).await.unwrap();
        assert_eq!(sink.dead.offsets(), [1, 2, 3]);
        assert_eq!(target.rows("SELECT id, n FROM numbers").await, ["1|1"]);
    }
}

#[tokio::test]
async fn a_table_without_the_unique_key_names_the_index_that_mends_it() {
    for target in targets("refusals_no_index").await {
        target.run("CREATE TABLE numbers (id int, n int)").await;
        let numbers = numbers();
        let mut sink = Sink::open(&target.url(), UPSERT, &[&numbers.topic]).await.unwrap();
        let error = sink.write(vec![numbers.create(vec![id(1), id(1)])]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        let remedy = error.remedy().unwrap();
        assert_eq!(remedy, "CREATE UNIQUE INDEX \"numbers_key\" ON \"numbers\" (\"id\")");
        target.run(remedy).await;
        sink.write(vec![numbers.create(vec![id(1), id(1)])]).await.unwrap();
    }
}

#[tokio::test]
async fn values_that_do_not_fit_the_column_are_rejected_not_cut() {
    let Some(target) = postgres("refusals_cut").await else { return };
    target.run("CREATE TABLE names (id int PRIMARY KEY, v varchar(3), c char(3), s smallint)").await;
    let names = Captured::new(
        "names",
        vec![
            ("id", Schema::of(Kind::Int32).build()),
            ("v", optional(Kind::String)),
            ("c", optional(Kind::String)),
            ("s", optional(Kind::Int32)),
        ],
    );
    let mut sink = Sink::open(&target.url(), UPSERT, &[&names.topic]).await.unwrap();
    let batch = vec![
        names.create(vec![id(1), "abcd".into(), "x".into(), id(1)]),
        names.create(vec![id(2), "x".into(), "abcd".into(), id(1)]),
        names.create(vec![id(3), "x".into(), "x".into(), id(40_000)]),
        names.create(vec![id(4), "a\0b".into(), "x".into(), id(1)]),
        names.create(vec![id(5), "abc".into(), "abc".into(), id(-32_768)]),
    ];
    sink.write(batch).await.unwrap();
    assert_eq!(sink.dead.offsets(), [0, 1, 2, 3]);
    assert_eq!(target.rows("SELECT * FROM names").await, ["5|abc|abc|-32768"]);
}

#[tokio::test]
async fn rights_that_are_missing_are_named_with_the_grant() {
    let Some(target) = postgres("refusals_grants").await else { return };
    target.run("CREATE USER refusals_writer PASSWORD 'x'").await;
    let url = target.url().replace("postgres@", "refusals_writer:x@");
    let numbers = numbers();
    let error = Sink::open(&url, UPSERT, &[&numbers.topic]).await.err().expect("may not create");
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    let remedy = error.remedy().unwrap();
    assert!(remedy.starts_with("GRANT USAGE, CREATE ON SCHEMA \"public\" TO \"refusals_writer\"; "), "{error}");

    // With the table made by its owner, the right to create is not needed.
    target.run(remedy.split(" run ").nth(1).unwrap().split(';').next().unwrap()).await;
    target.run("GRANT SELECT, INSERT, UPDATE ON tailwater_offsets TO refusals_writer").await;
    target.run("CREATE TABLE numbers (id int PRIMARY KEY, n int)").await;
    let mut sink = Sink::open(&url, UPSERT, &[&numbers.topic]).await.unwrap();
    let error = sink.write(vec![numbers.create(vec![id(1), id(1)])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    assert!(error.remedy().unwrap().contains("TRUNCATE ON \"numbers\" TO \"refusals_writer\""), "{error}");

    target.run("GRANT SELECT, INSERT, UPDATE, DELETE ON numbers TO refusals_writer").await;
    sink.write(vec![numbers.create(vec![id(1), id(1)])]).await.unwrap();
    assert_eq!(target.rows("SELECT id FROM numbers").await, ["1"]);
}

#[tokio::test]
async fn sinks_that_create_the_same_tables_at_once_do_not_disturb_each_other() {
    const SINKS: i32 = 12;
    for target in targets("refusals_concurrent_create").await {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..SINKS {
            let url = target.url();
            tasks.spawn(async move {
                let topic = format!("part{number}");
                let part = Captured::new(&topic, vec![("id", Schema::of(Kind::Int32).build()), ("n", optional(Kind::Int32))]);
                let mut entries = UPSERT.to_vec();
                entries.push(("collection.name.format", "common"));
                let mut sink = Sink::open(&url, &entries, &[&part.topic]).await.unwrap();
                sink.write(vec![part.create(vec![id(number), id(1)])]).await.unwrap();
            });
        }
        tasks.join_all().await;
        assert_eq!(target.rows("SELECT count(*) FROM common").await, [SINKS.to_string()]);
    }
}
