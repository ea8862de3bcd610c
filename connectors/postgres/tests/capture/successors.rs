//! Tables that take the name of one which the snapshot in chunks was still to read, or that go on under another name before their turn.

use std::collections::BTreeSet;

use tailwater_api::ErrorKind;
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::chunks::is_complete;
use crate::harness::{Log, config, eventually, server, start};
use crate::isolation::state_of;
use crate::rereads::copy;
use crate::warnings::Warnings;

/// The table that takes the name in one step, as tools for changes of definitions do it; and one that goes on under another name.
const SWAP: &str = "BEGIN; CREATE TABLE b_new (LIKE b INCLUDING ALL); INSERT INTO b_new VALUES (-1), (-2);
     ALTER TABLE b RENAME TO b_old; ALTER TABLE b_new RENAME TO b; COMMIT;
     ALTER TABLE c RENAME TO d;";
const TOLD: (&str, &str) = ("skipped.operations", "none");
const WATERMARK: (&str, &str) = ("snapshot.strategy", "watermark");
const OF_SWAPPED: (&str, &str) = ("table.include.list", r"public\.[abcd]");
/// So that the snapshot reads `b` before the others.
const B_FIRST: (&str, &str) = ("table.include.list", "public.b,public.b_old,public.k,public.a,public.c");

async fn with_tables_that_wait_for_their_turn(client: &Client) {
    let tables = "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 20000);
                  CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1), (2), (3);
                  CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (7);
                  CREATE TABLE signals (id text PRIMARY KEY, type text, data text);";
    client.batch_execute(tables).await.unwrap();
}

/// The tables, of which a run has read the first rows of `a` and then crashed.
async fn with_a_begun_snapshot(server: &PostgresServer) -> (Client, Log) {
    let client = server.connect("postgres").await.unwrap();
    with_tables_that_wait_for_their_turn(&client).await;
    let mut running = start(&config(server, &[WATERMARK, TOLD, OF_SWAPPED]), Log::default());
    running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.a "))).await;
    let log = running.crash().await;
    assert_eq!(["public.b", "public.c"].map(|table| state_of(&log, table).unwrap()), ["reading", "reading"]);
    (client, log)
}

/// What consumers have of these tables is all that they hold, and nothing that they do not.
pub(crate) async fn is_what_the_tables_hold(client: &Client, log: &Log, tables: &[&str]) {
    let copied = copy(log);
    for table in tables {
        let query = format!("SELECT format('public.{table} {{%s}}', id) FROM {table}");
        let source: BTreeSet<String> = client.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let copied: BTreeSet<String> = copied.iter().filter(|row| row.starts_with(&format!("public.{table} "))).cloned().collect();
        assert_eq!(copied, source, "{table}");
    }
}

#[tokio::test]
async fn a_table_that_takes_the_name_of_one_that_waits_to_be_read_is_read_in_its_place_after_every_crash() {
    let Some(server) = server(&[]).await else { return };
    let (client, log) = with_a_begun_snapshot(&server).await;
    client.batch_execute(SWAP).await.unwrap();
    let config = config(&server, &[WATERMARK, TOLD, OF_SWAPPED]);
    let is_read = |log: &Log, table: &str| state_of(log, table).as_deref() == Some("complete");
    let is_owed = |log: &Log| state_of(log, "public.c").as_deref() == Some("reading");
    // A crash behind the first successor does not forget the second.
    let mut running = start(&config, log);
    running.until(|log| is_read(log, "public.b")).await;
    let log = running.crash().await;
    assert!(is_owed(&log) && !is_read(&log, "public.d"), "{:?}", log.state);
    // Nor does one behind both take them to be unread.
    let mut running = start(&config, log);
    running.until(|log| is_read(log, "public.d")).await;
    let log = running.crash().await;
    assert!(is_owed(&log) && is_read(&log, "public.b"), "{:?}", log.state);
    let mut running = start(&config, log);
    running.until(is_complete).await;
    let log = running.stop().await;
    is_what_the_tables_hold(&client, &log, &["a", "b", "d"]).await;
    let rows = |row: &str| log.lines().iter().filter(|line| line.starts_with(row)).count();
    assert_eq!((rows("r public.b {-2}"), rows("r public.d {7}")), (1, 1), "each successor is read once");
}

#[tokio::test]
async fn a_table_that_takes_the_name_while_the_source_runs_is_read_by_the_run_that_follows() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    with_tables_that_wait_for_their_turn(&client).await;
    let signals = ("signal.data.collection", "public.signals");
    let slow = config(&server, &[WATERMARK, TOLD, OF_SWAPPED, signals, ("snapshot.max.bytes.per.second", "1")]);
    let mut running = start(&slow, Log::default());
    running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.a "))).await;
    client.batch_execute("INSERT INTO signals VALUES ('1', 'pause-snapshot', NULL); INSERT INTO a VALUES (-1)").await.unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.a {-1}"))).await;
    let config = config(&server, &[WATERMARK, TOLD, OF_SWAPPED, signals]);
    let mut running = start(&config, running.crash().await);
    client.batch_execute("INSERT INTO a VALUES (-2)").await.unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.a {-2}"))).await;
    client.batch_execute(SWAP).await.unwrap();
    client.batch_execute("INSERT INTO signals VALUES ('2', 'resume-snapshot', NULL)").await.unwrap();
    let (ended, log) = running.ended().await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Restarting);
    let mut running = start(&config, log);
    running.until(is_complete).await;
    let log = running.stop().await;
    is_what_the_tables_hold(&client, &log, &["b", "d"]).await;
}

#[tokio::test]
async fn a_table_that_takes_the_name_of_one_that_was_read_is_read_where_its_own_turn_had_not_come() {
    let steps = [
        ("none", "BEGIN; DROP TABLE b; ALTER TABLE c RENAME TO b; COMMIT", &["a", "b"][..]),
        ("read", "BEGIN; ALTER TABLE b RENAME TO b_old; ALTER TABLE c RENAME TO b; COMMIT", &["a", "b", "b_old"]),
    ];
    for (new_tables, step, tables) in steps {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        with_tables_that_wait_for_their_turn(&client).await;
        let config = config(&server, &[WATERMARK, TOLD, B_FIRST, ("snapshot.new.tables", new_tables)]);
        let mut running = start(&config, Log::default());
        running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.a "))).await;
        let log = running.crash().await;
        assert_eq!(["public.b", "public.c"].map(|table| state_of(&log, table).unwrap()), ["complete", "reading"]);
        client.batch_execute(step).await.unwrap();
        let mut running = start(&config, log);
        running.until(is_complete).await;
        let log = running.stop().await;
        is_what_the_tables_hold(&client, &log, tables).await;
    }
}

#[tokio::test]
async fn so_it_is_where_tables_without_a_key_are_still_to_be_read_first() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    with_tables_that_wait_for_their_turn(&client).await;
    client.batch_execute("ALTER TABLE b DROP CONSTRAINT b_pkey; CREATE TABLE k (id int); INSERT INTO k VALUES (5)").await.unwrap();
    let config = config(&server, &[WATERMARK, TOLD, B_FIRST, ("publication.autocreate.mode", "filtered")]);
    let mut running = start(&config, Log::default());
    running.until(|log| state_of(log, "public.b").as_deref() == Some("complete")).await;
    let log = running.crash().await;
    assert_eq!((state_of(&log, "public.k"), state_of(&log, "public.c").as_deref()), (None, Some("reading")));
    client.batch_execute("BEGIN; DROP TABLE b; ALTER TABLE c RENAME TO b; COMMIT").await.unwrap();
    let mut running = start(&config, log);
    running.until(is_complete).await;
    let log = running.stop().await;
    is_what_the_tables_hold(&client, &log, &["a", "b"]).await;
    assert_eq!(log.lines().iter().filter(|line| line.starts_with("r public.k ")).count(), 1);
}

#[tokio::test]
async fn i11_a_table_that_takes_the_name_of_one_that_was_read_is_told_of_where_it_is_not_read() {
    let told = ["another table has taken the name public.b", r"signal execute-snapshot with data-collections public\.b"];
    let consistent = ("snapshot.strategy", "consistent");
    let steps = [(WATERMARK, "DROP TABLE b"), (consistent, "DROP TABLE b"), (WATERMARK, "ALTER TABLE b RENAME TO b_old")];
    for (strategy, step) in steps {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = server.connect("postgres").await.unwrap();
        with_tables_that_wait_for_their_turn(&client).await;
        let config = config(&server, &[strategy, ("table.include.list", r"public\.b"), ("table.refresh.interval.ms", "100")]);
        let mut running = start(&config, Log::default());
        running.until(is_complete).await;
        running.meanwhile(eventually(&client, "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots")).await;
        let taking = "CREATE TABLE b_new (id int PRIMARY KEY); INSERT INTO b_new VALUES (-1); ALTER TABLE b_new RENAME TO b";
        client.batch_execute(&format!("BEGIN; {step}; {taking}; COMMIT")).await.unwrap();
        running.meanwhile(warnings.told(&told)).await;
        let mut log = running.crash().await;
        for id in [-3, -4] {
            let mut running = start(&config, log);
            client.batch_execute(&format!("INSERT INTO b VALUES ({id})")).await.unwrap();
            let row = format!("c public.b {{{id}}}");
            running.until(|log| log.lines().iter().any(|line| line.starts_with(&row))).await;
            log = running.stop().await;
            assert_eq!(warnings.with(&told).len(), 2, "once while it is followed, and by one start: {strategy:?}, {step}");
        }
        assert!(!log.lines().iter().any(|line| line.contains("{-1}")));
    }
}

#[tokio::test]
async fn i10_a_table_that_is_unlogged_by_now_is_left_out_and_the_others_are_read() {
    let Some(server) = server(&[]).await else { return };
    let (client, log) = with_a_begun_snapshot(&server).await;
    client.batch_execute("DROP TABLE b; CREATE UNLOGGED TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (9)").await.unwrap();
    let mut running = start(&config(&server, &[WATERMARK, TOLD, OF_SWAPPED]), log);
    running.until(is_complete).await;
    let log = running.stop().await;
    is_what_the_tables_hold(&client, &log, &["a", "c"]).await;
    assert!(!copy(&log).iter().any(|row| row.starts_with("public.b ")));
}

#[tokio::test]
async fn a_table_that_takes_an_owed_name_while_the_source_runs_is_read_by_the_run_that_follows_at_once() {
    // The first is found by the start, the second by the read.
    for step in ["ALTER TABLE b RENAME TO b_old", "DROP TABLE b"] {
        let Some(server) = server(&[]).await else { return };
        let (client, log) = with_a_begun_snapshot(&server).await;
        client.batch_execute(step).await.unwrap();
        let config = config(&server, &[WATERMARK, TOLD, OF_SWAPPED, ("table.refresh.interval.ms", "100")]);
        let mut running = start(&config, log);
        running.until(is_complete).await;
        assert_eq!(state_of(&running.log, "public.b").as_deref(), Some("outdated"), "{step}");
        let taking = "CREATE TABLE b_new (id int PRIMARY KEY); INSERT INTO b_new VALUES (-1), (-2); ALTER TABLE b_new RENAME TO b";
        client.batch_execute(taking).await.unwrap();
        let (ended, log) = running.ended().await;
        let error = ended.unwrap_err();
        assert!(error.kind() == ErrorKind::Restarting && error.to_string().contains("public.b"), "{step}: {error}");
        let mut running = start(&config, log);
        running.until(|log| state_of(log, "public.b").as_deref() == Some("complete")).await;
        // Once: what is read is owed no more.
        client.batch_execute("INSERT INTO b VALUES (-3)").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.b {-3}"))).await;
        let log = running.stop().await;
        is_what_the_tables_hold(&client, &log, &["a", "b", "c"]).await;
        assert_eq!(log.lines().iter().filter(|line| line.starts_with("r public.b {-1}")).count(), 1, "{step}");
    }
}

#[tokio::test]
async fn a_name_that_was_free_for_a_while_is_still_read_whatever_is_said_of_new_tables() {
    // The first is found by the start, the second by the read.
    for step in ["ALTER TABLE b RENAME TO b_old", "DROP TABLE b"] {
        let Some(server) = server(&[]).await else { return };
        let (client, log) = with_a_begun_snapshot(&server).await;
        client.batch_execute(step).await.unwrap();
        let config = config(&server, &[WATERMARK, TOLD, OF_SWAPPED]);
        let mut running = start(&config, log);
        running.until(is_complete).await;
        assert_eq!(state_of(&running.log, "public.b").as_deref(), Some("outdated"), "{step}");
        let taking = "CREATE TABLE b_new (id int PRIMARY KEY); INSERT INTO b_new VALUES (-1), (-2); ALTER TABLE b_new RENAME TO b;
                      INSERT INTO b VALUES (-3)";
        client.batch_execute(taking).await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.b {-3}"))).await;
        let mut running = start(&config, running.crash().await);
        running.until(|log| state_of(log, "public.b").as_deref() == Some("complete")).await;
        let log = running.crash().await;
        is_what_the_tables_hold(&client, &log, &["a", "b", "c"]).await;
        client.batch_execute("INSERT INTO b VALUES (-4)").await.unwrap();
        let mut running = start(&config, log);
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.b {-4}"))).await;
        let log = running.stop().await;
        is_what_the_tables_hold(&client, &log, &["a", "b", "c"]).await;
        assert_eq!(log.lines().iter().filter(|line| line.starts_with("r public.b {-1}")).count(), 1, "{step}: it is read once");
    }
}
