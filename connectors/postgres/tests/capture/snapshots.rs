//! Reading the rows that are there.

use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_api::metrics::snapshot as names;
use tailwater_api::record::Record;

use crate::harness::{Log, PATIENCE, config, eventually, server, show, source_field, start};
use crate::isolation::state_of;

fn marks(log: &Log) -> Vec<String> {
    log.records.iter().map(|record| show(&source_field(record, "snapshot"))).collect()
}

#[tokio::test]
async fn rows_are_marked_and_ordered_as_debezium_does_it() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a_empty (id int PRIMARY KEY); CREATE TABLE b_one (id int PRIMARY KEY);
             CREATE TABLE c_three (id int PRIMARY KEY); CREATE TABLE d_empty (id int PRIMARY KEY);
             INSERT INTO b_one VALUES (1); INSERT INTO c_three VALUES (1), (2), (3);",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.records(4).await;
    client.batch_execute("INSERT INTO a_empty VALUES (1)").await.unwrap();
    running.records(5).await;
    let log = running.stop().await;
    assert_eq!(marks(&log), ["last_in_data_collection", "first_in_data_collection", "true", "last", "null"]);
    assert_eq!(log.lines()[4], "c public.a_empty {1} null->{1}");
}

#[tokio::test]
async fn initial_only_reads_without_a_slot_and_ends() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE SCHEMA b; CREATE TABLE a1 (id int PRIMARY KEY); CREATE TABLE b.b1 (id int PRIMARY KEY); INSERT INTO a1 VALUES (2), (1); INSERT INTO b.b1 VALUES (1);")
        .await
        .unwrap();
    let config = config(&server, &[("snapshot.mode", "initial_only")]);
    let (result, log) = start(&config, Log::default()).ended().await;
    result.unwrap();
    assert_eq!(log.lines(), ["r b.b1 {1} null->{1}", "r public.a1 {2} null->{2}", "r public.a1 {1} null->{1}"]);
    assert_eq!(marks(&log), ["first", "first_in_data_collection", "last"]);
    let slots: i64 = client.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(slots, 0);
    // Started again, it has nothing to do.
    let (result, again) = start(&config, log).ended().await;
    result.unwrap();
    assert_eq!(again.records.len(), 3);
}

#[tokio::test]
async fn no_data_streams_only() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await.unwrap();
    let mut running = start(&config(&server, &[("snapshot.mode", "no_data")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    running.records(1).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {2} null->{2}"]);
}

#[tokio::test]
async fn always_reads_again_at_each_start() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await.unwrap();
    let config = config(&server, &[("snapshot.mode", "always")]);
    let mut running = start(&config, Log::default());
    running.records(1).await;
    let log = running.stop().await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let mut running = start(&config, log);
    running.records(3).await;
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    running.records(4).await;
    let expected = ["r public.t {1} null->{1}", "r public.t {1} null->{1}", "r public.t {2} null->{2}", "c public.t {3} null->{3}"];
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn a_table_rewritten_after_the_snapshot_was_taken_loses_no_row() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a_first (id int PRIMARY KEY, v text); INSERT INTO a_first SELECT -i, repeat('x', 1000) FROM generate_series(1, 40000) i;
             CREATE TABLE rewritten (id int PRIMARY KEY, v int); INSERT INTO rewritten SELECT i, i FROM generate_series(1, 500) i;",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    // Nobody takes more batches, so the reader stands still in the first table.
    running.until(|log| log.points.len() >= 2).await;
    client.batch_execute("ALTER TABLE rewritten ALTER v TYPE bigint; INSERT INTO rewritten VALUES (501, 501);").await.unwrap();
    running.records(40_501).await;
    client.batch_execute("INSERT INTO rewritten VALUES (502, 502)").await.unwrap();
    running.records(40_502).await;
    running.for_a_while(Duration::from_millis(500)).await;
    let mut log = running.stop().await;
    log.records.retain(|record| record.topic.ends_with("rewritten"));
    let mut keys: Vec<String> = log.records.iter().map(|record| show(&record.key.value)).collect();
    keys.sort();
    let mut expected: Vec<String> = (1..=502).map(|id| format!("{{{id}}}")).collect();
    expected.sort();
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn every_crash_during_the_snapshot_loses_nothing_and_repeats_nothing() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text); CREATE TABLE c (id int, v text);
             INSERT INTO a SELECT i, repeat('x', 200) FROM generate_series(1, 3000) i;
             INSERT INTO b SELECT i, repeat('x', 200) FROM generate_series(1, 3000) i;
             INSERT INTO c SELECT i, repeat('x', 200) FROM generate_series(1, 3000) i;",
        )
        .await
        .unwrap();
    let config = config(&server, &[]);
    let mut running = start(&config, Log::default());
    running.refuse_confirmation();
    running.records(9000).await;
    let whole = running.crash().await;
    client.batch_execute("INSERT INTO a VALUES (3001, 'y'); INSERT INTO c VALUES (3001, 'y')").await.unwrap();
    for point in 0..whole.points.len() {
        let mut running = start(&config, whole.after_crash(point));
        // The slot has to serve the older states, too.
        running.refuse_confirmation();
        running.records(9002).await;
        running.for_a_while(Duration::from_millis(300)).await;
        let log = running.crash().await;
        let mut rows: Vec<_> = log
            .records
            .iter()
            .map(|record| {
                let envelope = tailwater_api::envelope::Envelope::of(record).unwrap();
                (record.topic.to_string(), envelope.after().as_struct().unwrap()[0].as_integer().unwrap())
            })
            .collect();
        rows.sort();
        let expected: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .flat_map(|table| (1..=if table == "b" { 3000 } else { 3001 }).map(move |id| (format!("shop.public.{table}"), id)))
            .collect();
        assert!(rows == expected, "after a crash behind batch {point}: {} rows", rows.len());
        // A walsender that was left behind frees the slot only when it notices.
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    }
}

#[tokio::test]
async fn a_snapshot_longer_than_every_timeout_of_the_server_goes_on() {
    let settings = [
        ("wal_sender_timeout", "3s"),
        ("idle_in_transaction_session_timeout", "3s"),
        ("statement_timeout", "3s"),
        ("idle_session_timeout", "3s"),
    ];
    let Some(server) = server(&settings).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("SET statement_timeout = 0").await.unwrap();
    client
        .batch_execute(
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'transaction_timeout') THEN ALTER DATABASE postgres SET transaction_timeout = '3s'; END IF; END $$",
        )
        .await
        .unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i; CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
        .await
        .unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| log.points.len() >= 2).await;
    // Nobody takes batches for longer than the server's patience: the reader stands still in the middle of a table.
    let stands_still = "SELECT bool_or(clock_timestamp() > query_start + interval '6 s') FROM pg_stat_activity WHERE query LIKE 'COPY %'";
    eventually(&client, stands_still).await;
    drop(client);
    tokio::time::timeout(PATIENCE, running.records(20001)).await.unwrap();
    drop(running);
}

#[tokio::test]
async fn rows_of_partitions_and_of_inheriting_tables_are_read_once() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (10); CREATE TABLE high PARTITION OF root FOR VALUES FROM (10) TO (20);
             CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
             INSERT INTO root VALUES (1), (11); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2);",
        )
        .await
        .unwrap();
    for (by_root, tables) in [("false", ["high", "low"]), ("true", ["root", "root"])] {
        let name = format!("root_{by_root}");
        let settings = [("publish.via.partition.root", by_root), ("slot.name", &name), ("publication.name", &name)];
        let mut running = start(&config(&server, &settings), Log::default());
        running.records(4).await;
        client.batch_execute("INSERT INTO root VALUES (12)").await.unwrap();
        running.records(5).await;
        let log = running.stop().await;
        client.batch_execute("DELETE FROM root WHERE id = 12").await.unwrap();
        let (first, second) = (tables[0], tables[1]);
        let mut expected = vec![
            format!("r public.{first} {{11}} null->{{11}}"),
            format!("r public.{second} {{1}} null->{{1}}"),
            "r public.child {2} null->{2}".to_owned(),
            "r public.parent {1} null->{1}".to_owned(),
            format!("c public.{first} {{12}} null->{{12}}"),
        ];
        let mut lines = log.lines();
        expected.sort();
        lines.sort();
        assert_eq!(lines, expected, "publish.via.partition.root={by_root}");
    }
}

#[tokio::test]
async fn rows_of_partitions_of_partitions_are_read_once_whatever_their_names() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            r#"CREATE SCHEMA "Odd schema%"; SET search_path = "Odd schema%";
             CREATE TABLE "Root" (id int, "Region" text, PRIMARY KEY (id, "Region")) PARTITION BY LIST ("Region");
             CREATE TABLE "Mid.Level" PARTITION OF "Root" FOR VALUES IN ('a', 'b') PARTITION BY RANGE (id);
             CREATE TABLE "Leaf ""1""" PARTITION OF "Mid.Level" FOR VALUES FROM (0) TO (3);
             CREATE TABLE "leaf_2'" (note text, id int NOT NULL, "Region" text NOT NULL); ALTER TABLE "leaf_2'" DROP note;
             ALTER TABLE "Mid.Level" ATTACH PARTITION "leaf_2'" FOR VALUES FROM (3) TO (9);
             CREATE TABLE "Über 😀" PARTITION OF "Root" DEFAULT;
             INSERT INTO "Root" VALUES (1, 'a'), (2, 'b'), (3, 'a'), (4, 'b'), (5, 'x'), (6, 'y');"#,
        )
        .await
        .unwrap();
    for (name, strategy, by_root) in
        [("one", "consistent", "false"), ("two", "consistent", "true"), ("three", "watermark", "false"), ("four", "watermark", "true")]
    {
        let settings =
            [("snapshot.strategy", strategy), ("publish.via.partition.root", by_root), ("slot.name", name), ("publication.name", name)];
        let mut running = start(&config(&server, &settings), Log::default());
        running.records(6).await;
        client.batch_execute(r#"INSERT INTO "Root" VALUES (7, 'a')"#).await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c "))).await;
        let log = running.stop().await;
        client.batch_execute(r#"DELETE FROM "Root" WHERE id = 7"#).await.unwrap();
        let mut rows: Vec<String> =
            log.lines().iter().map(|line| format!("{} {}", &line[..1], &line[line.rfind('{').unwrap()..])).collect();
        rows.sort();
        assert_eq!(rows, ["c {7,a}", "r {1,a}", "r {2,b}", "r {3,a}", "r {4,b}", "r {5,x}", "r {6,y}"], "{strategy} {by_root}");
        let topics: std::collections::BTreeSet<_> = log.records.iter().map(|record| &record.topic).collect();
        assert_eq!(topics.len(), if by_root == "true" { 1 } else { 3 }, "{strategy}: {topics:?}");
    }
}

#[tokio::test]
async fn statements_filters_and_lists_of_the_publication_choose_rows_and_columns() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY, v varchar(5), w int); CREATE TABLE b (id int PRIMARY KEY, v text, secret text);
             INSERT INTO a VALUES (1, 'x', 1), (2, 'y', 2), (3, 'z', 3); INSERT INTO b VALUES (1, 'p', 's'), (2, 'q', 's');
             CREATE PUBLICATION shop FOR TABLE a, TABLE b (id, v) WHERE (id > 1);",
        )
        .await
        .unwrap();
    let settings = [
        ("publication.autocreate.mode", "disabled"),
        ("snapshot.select.statement.overrides", "public.a"),
        ("snapshot.select.statement.overrides.public.a", "SELECT upper(v) AS v, w, id FROM a WHERE w > 1 ORDER BY id DESC;"),
    ];
    let mut running = start(&config(&server, &settings), Log::default());
    running.records(3).await;
    client.batch_execute("INSERT INTO b VALUES (3, 'r', 's'), (0, 'o', 's')").await.unwrap();
    running.records(4).await;
    running.for_a_while(Duration::from_millis(300)).await;
    let expected =
        ["r public.a {3} null->{3,Z,3}", "r public.a {2} null->{2,Y,2}", "r public.b {2} null->{2,q}", "c public.b {3} null->{3,r}"];
    assert_eq!(running.stop().await.lines(), expected);
}

/// Keys of the rows of a table, in the order of the log.
fn keys(log: &Log, table: &str) -> Vec<i64> {
    let of_table = |record: &&Record| record.topic.ends_with(table);
    let key = |record: &Record| record.key.value.as_struct().unwrap()[0].as_integer().unwrap();
    log.records.iter().filter(of_table).map(key).collect()
}

/// A table of three ranges of pages, and two small ones.
const LARGE_AND_SMALL: &str = "
    CREATE TABLE large (id int PRIMARY KEY, v text); INSERT INTO large SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i;
    CREATE TABLE medium (id int PRIMARY KEY, v text); INSERT INTO medium SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) i;
    CREATE TABLE small (id int PRIMARY KEY, v text); INSERT INTO small VALUES (1, 'x');";

#[tokio::test]
async fn several_connections_read_each_row_once_in_the_order_of_the_pages_of_its_range() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(LARGE_AND_SMALL).await.unwrap();
    let pages = client.query("SELECT ((ctid::text::point)[0])::int8 FROM large ORDER BY id", &[]).await.unwrap();
    let range_of = |id: i64| pages[usize::try_from(id).unwrap() - 1].get::<_, i64>(0) / 1024;
    for mode in ["initial", "initial_only"] {
        let settings = [("snapshot.max.threads", "3"), ("snapshot.mode", mode), ("slot.name", mode)];
        let mut running = start(&config(&server, &settings), Log::default());
        running.records(22_001).await;
        if mode == "initial" {
            client.batch_execute("INSERT INTO small VALUES (2, 'y'); DELETE FROM small WHERE id = 2").await.unwrap();
            running.records(22_004).await;
        }
        let mut log = running.stop().await;
        log.records.truncate(22_001);
        let large = keys(&log, "large");
        let mut last = std::collections::HashMap::new();
        for id in &large {
            let before = last.insert(range_of(*id), *id);
            assert!(before.is_none_or(|before| before < *id), "{id} is read behind {before:?}");
        }
        assert_eq!(last.len(), 3, "ranges");
        for (table, count) in [("large", 20_000), ("medium", 2000), ("small", 1)] {
            let mut keys = keys(&log, table);
            keys.sort_unstable();
            assert!(keys == (1..=count).collect::<Vec<_>>(), "{table} in mode {mode}: {} keys", keys.len());
        }
        let marks = marks(&log);
        let count = |wanted: &str| marks.iter().filter(|mark| *mark == wanted).count();
        assert_eq!((count("first"), count("last"), count("last_in_data_collection")), (1, 1, 2));
        assert_eq!(marks.last().map(String::as_str), Some("last"));
        // A row that is the only one of its table says that it is the last.
        assert_eq!(count("first_in_data_collection"), 1);
    }
}

#[tokio::test]
async fn a_crash_while_several_connections_read_loses_nothing_and_repeats_nothing() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(LARGE_AND_SMALL).await.unwrap();
    let config = config(&server, &[("snapshot.max.threads", "3")]);
    let mut log = Log::default();
    for batches in [2, 12, 30] {
        let mut running = start(&config, log);
        running.until(|log| log.points.len() >= batches).await;
        log = running.crash().await;
        eventually(&client, "SELECT NOT coalesce(bool_or(active), false) FROM pg_replication_slots").await;
    }
    client.batch_execute("INSERT INTO large VALUES (20001, 'y')").await.unwrap();
    let mut running = start(&config, log);
    running.records(22_002).await;
    running.for_a_while(Duration::from_millis(300)).await;
    let log = running.stop().await;
    for (table, count) in [("large", 20_001), ("medium", 2000), ("small", 1)] {
        let mut keys = keys(&log, table);
        keys.sort_unstable();
        assert!(keys == (1..=count).collect::<Vec<_>>(), "{table}: {} keys", keys.len());
    }
}

#[tokio::test]
async fn ddl_that_waits_between_two_ranges_of_a_table_waits_for_its_last() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(LARGE_AND_SMALL).await.unwrap();
    let mut running = start(&config(&server, &[("snapshot.max.threads", "3")]), Log::default());
    // Nobody takes more batches, so the readers stand still.
    running.until(|log| log.points.len() >= 2).await;
    let other = server.connect("postgres").await.unwrap();
    let altering = tokio::spawn(async move {
        other.batch_execute("ALTER TABLE large ALTER v TYPE varchar(2000); ALTER TABLE large ADD w int; UPDATE large SET w = id").await
    });
    eventually(&client, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted) OR EXISTS (SELECT FROM pg_attribute WHERE attname = 'w')")
        .await;
    running.until(|log| keys(log, "large").len() >= 40_000).await;
    altering.await.unwrap().unwrap();
    let log = running.stop().await;
    let large = keys(&log, "large");
    let (mut read, updated) = (large[..20_000].to_vec(), large[20_000..].to_vec());
    read.sort_unstable();
    assert!(read == (1..=20_000).collect::<Vec<_>>(), "each row is read once, before or behind the change");
    assert_eq!(updated.len(), 20_000);
    let rows = log.records.iter().filter(|record| record.topic.ends_with("large")).take(20_000);
    let width = |record: &Record| tailwater_api::envelope::Envelope::of(record).unwrap().after().as_struct().unwrap().len();
    assert_eq!(rows.map(width).collect::<std::collections::HashSet<_>>().len(), 1, "all ranges are of one definition");
}

#[tokio::test]
async fn a_limited_rate_is_kept_by_all_connections_together() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i; CREATE TABLE u (LIKE t INCLUDING ALL); INSERT INTO u SELECT * FROM t")
        .await
        .unwrap();
    for strategy in ["consistent", "watermark"] {
        let settings = [
            ("snapshot.max.bytes.per.second", "2000000"),
            ("snapshot.max.threads", "2"),
            ("snapshot.strategy", strategy),
            ("slot.name", strategy),
        ];
        let begun = tokio::time::Instant::now();
        let mut running = start(&config(&server, &settings), Log::default());
        let is_being_read = |log: &Log| log.state.iter().any(|(_, offset)| offset.get("state").is_some_and(|state| state == "reading"));
        running.until(|log| log.records.len() >= 6000 && !is_being_read(log)).await;
        // Six million bytes, of which the last part need not be waited for.
        assert!(begun.elapsed() > Duration::from_secs(2), "{strategy} took {:?}", begun.elapsed());
        for table in [Some("public.t"), Some("public.u")] {
            assert_eq!((running.figure(names::TABLE_STATE, table), running.figure(names::TABLE_ROWS, table)), (names::COMPLETE, 3000));
            assert!(running.figure(names::TABLE_BYTES, table) > 3_000_000);
        }
        assert_eq!((running.figure(names::TABLES, None), running.figure(names::TABLES_REMAINING, None)), (2, 0));
        assert_eq!(running.figure(names::RUNNING, None), 0);
        running.stop().await;
    }
}

#[tokio::test]
async fn figures_say_how_far_each_table_is() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(LARGE_AND_SMALL).await.unwrap();
    client.batch_execute("ANALYZE large; CREATE TABLE empty (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    // The log stands still with the first tables: empty is read, large is being read.
    running.until(|log| log.points.len() >= 5).await;
    let large = |running: &crate::harness::Running, figure| running.figure(figure, Some("public.large"));
    assert_eq!((running.figure(names::TABLES, None), running.figure(names::RUNNING, None)), (4, 1));
    assert_eq!(running.figure(names::TABLE_STATE, Some("public.empty")), names::COMPLETE);
    assert_eq!(running.figure(names::TABLE_STATE, Some("public.small")), names::WAITS);
    assert_eq!((large(&running, names::TABLE_STATE), large(&running, names::TABLE_ESTIMATED_ROWS)), (names::IS_READ, 20_000));
    assert!((1..20_000).contains(&large(&running, names::TABLE_ROWS)));
    assert!(large(&running, names::TABLE_BYTES) > 1000 * large(&running, names::TABLE_ROWS));
    assert!(large(&running, names::TABLE_REMAINING_SECONDS) >= 0);
    running.records(22_001).await;
    assert_eq!((running.figure(names::TABLES_REMAINING, None), running.figure(names::RUNNING, None)), (0, 0));
    assert_eq!((large(&running, names::TABLE_STATE), large(&running, names::TABLE_ROWS)), (names::COMPLETE, 20_000));
    let log = running.stop().await;
    // Started again, it says what it knows.
    let mut running = start(&config(&server, &[]), log);
    client.batch_execute("INSERT INTO small VALUES (2, 'x')").await.unwrap();
    running.records(22_002).await;
    assert_eq!((running.figure(names::TABLES, None), running.figure(names::TABLES_REMAINING, None)), (4, 0));
    assert_eq!((large(&running, names::TABLE_STATE), large(&running, names::TABLE_ROWS)), (names::COMPLETE, 20_000));
}

#[tokio::test]
async fn a_table_renamed_before_it_is_read_is_read_under_its_new_name_and_the_one_in_its_place_is_not_taken_for_it() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(LARGE_AND_SMALL).await.unwrap();
    client.batch_execute("CREATE TABLE new_small (LIKE small INCLUDING ALL); INSERT INTO new_small VALUES (7, 'y')").await.unwrap();
    let filter = ("table.exclude.list", r"public\.(new|old)_(small|medium)");
    let mut running = start(&config(&server, &[filter]), Log::default());
    // Nobody takes more batches, so the first table is being read.
    running.until(|log| log.points.len() >= 2).await;
    client
        .batch_execute(
            "ALTER TABLE medium RENAME TO renamed;
             BEGIN; ALTER TABLE small RENAME TO old_small; ALTER TABLE new_small RENAME TO small; COMMIT;",
        )
        .await
        .unwrap();
    running.until(|log| marks(log).last().is_some_and(|mark| mark == "last")).await;
    let log = running.stop().await;
    let of = |topic: &str| log.records.iter().filter(|record| *record.topic == *format!("shop.public.{topic}")).count();
    assert_eq!((of("large"), of("renamed"), log.records.len()), (20_000, 2000, 22_000));
    let states = ["large", "renamed", "medium", "small"].map(|table| state_of(&log, &format!("public.{table}")).unwrap());
    assert_eq!(states, ["complete", "complete", "outdated", "outdated"], "what has these names is owed");

    // Whatever is said of new tables.
    let config = config(&server, &[filter, ("table.refresh.interval.ms", "100")]);
    let mut running = start(&config, log);
    running.records(22_001).await;
    assert_eq!(state_of(&running.log, "public.small").as_deref(), Some("complete"));
    running.meanwhile(eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots")).await;
    client.batch_execute("CREATE TABLE new_medium (LIKE renamed INCLUDING ALL); INSERT INTO new_medium VALUES (8, 'z')").await.unwrap();
    client.batch_execute("ALTER TABLE new_medium RENAME TO medium").await.unwrap();
    let (ended, log) = running.ended().await;
    let error = ended.unwrap_err();
    assert!(error.kind() == ErrorKind::Restarting && error.to_string().contains("public.medium"), "{error}");
    let mut running = start(&config, log);
    running.until(|log| state_of(log, "public.medium").as_deref() == Some("complete")).await;
    running.meanwhile(eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots")).await;
    let read = ["r public.small {7} null->{7,y}", "r public.medium {8} null->{8,z}"];
    assert_eq!(running.stop().await.lines()[22_000..], read);
}

#[tokio::test]
async fn tables_renamed_and_dropped_while_all_are_being_locked_are_read_under_their_new_names_and_left_out() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY);
             CREATE TABLE d (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); INSERT INTO d VALUES (4)",
        )
        .await
        .unwrap();
    client.batch_execute("BEGIN; DROP TABLE a; ALTER TABLE b RENAME TO renamed; DROP TABLE c").await.unwrap();
    let running = start(&config(&server, &[("snapshot.mode", "initial_only"), ("snapshot.max.threads", "2")]), Log::default());
    eventually(&server.connect("postgres").await.unwrap(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").await;
    client.batch_execute("COMMIT").await.unwrap();
    let (result, log) = running.ended().await;
    result.unwrap();
    let mut lines = log.lines();
    lines.sort();
    assert_eq!(lines, ["r public.d {4} null->{4}", "r public.renamed {2} null->{2}"]);
}
