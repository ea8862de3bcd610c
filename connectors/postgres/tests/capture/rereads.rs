//! Tables that are read anew although they were captured before: a truncation stands before their rows.

use std::collections::BTreeSet;

use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, config, eventually, server, start};

const INACTIVE: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";
const TOLD: (&str, &str) = ("skipped.operations", "none");
const AGAIN: (&str, &str) = ("snapshot.mode", "when_needed");
const ROWS: usize = 3000;

/// What a consumer has that follows the log: the rows of each table, by their text.
pub(crate) fn copy(log: &Log) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [operation, table, key, ..] = words[..] else { panic!("{line}") };
        match operation {
            "t" => rows.retain(|row: &String| !row.starts_with(&format!("{table} "))),
            "r" | "c" => drop(rows.insert(format!("{table} {key}"))),
            "d" => drop(rows.remove(&format!("{table} {key}"))),
            "-" => {}
            other => panic!("{other}"),
        }
    }
    rows
}

async fn source(client: &Client) -> BTreeSet<String> {
    let query = "SELECT format('public.a {%s}', id) FROM a UNION ALL SELECT format('public.b {%s}', id) FROM b";
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Two tables that were read, of which rows went when the slot was lost.
async fn with_a_lost_slot(server: &PostgresServer, strategy: &str) -> (Client, Log) {
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(&format!(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
             INSERT INTO a SELECT i, repeat('x', 300) FROM generate_series(1, {ROWS}) i; INSERT INTO b VALUES (1), (2);"
        ))
        .await
        .unwrap();
    let mut running = start(&config(server, &[("snapshot.strategy", strategy)]), Log::default());
    running.records(ROWS + 2).await;
    let log = running.stop().await;
    eventually(&client, INACTIVE).await;
    client.batch_execute("SELECT pg_drop_replication_slot('shop'); DELETE FROM a WHERE id % 10 = 0; DELETE FROM b;").await.unwrap();
    (client, log)
}

#[tokio::test]
async fn t018_rows_deleted_while_the_slot_was_lost_are_gone_behind_a_new_snapshot_and_every_crash_of_it() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let (client, log) = with_a_lost_slot(&server, strategy).await;
        let config = config(&server, &[("snapshot.strategy", strategy), TOLD, AGAIN]);
        let before = log.records.len();
        let expected = source(&client).await;
        let mut running = start(&config, log);
        running.refuse_confirmation();
        running.until(|log| log.records.len() > before && copy(log) == expected).await;
        let whole = running.crash().await;
        let truncations = |log: &Log| log.lines().iter().filter(|line| line.starts_with("t ")).count();
        assert_eq!(truncations(&whole), 2, "{strategy}: one for each table, the empty one, too");
        assert!(!whole.lines()[..before].iter().any(|line| line.starts_with("t ")));
        client.batch_execute("INSERT INTO a VALUES (-1); DELETE FROM a WHERE id = 1").await.unwrap();
        let expected = source(&client).await;
        for point in 0..whole.points.len() {
            eventually(&client, INACTIVE).await;
            let mut running = start(&config, whole.after_crash(point));
            running.refuse_confirmation();
            running.until(|log| copy(log) == expected).await;
            let log = running.crash().await;
            assert_eq!(truncations(&log), 2, "{strategy}: after a crash behind batch {point} of {}", whole.points.len());
        }
    }
}

#[tokio::test]
async fn where_truncations_are_skipped_a_new_snapshot_tells_none() {
    let Some(server) = server(&[]).await else { return };
    let (client, log) = with_a_lost_slot(&server, "consistent").await;
    let left = source(&client).await;
    let mut running = start(&config(&server, &[AGAIN]), log);
    let count = ROWS + 2 + left.len();
    running.records(count).await;
    let log = running.stop().await;
    assert_eq!(log.lines().iter().filter(|line| line.starts_with("t ")).count(), 0, "as Debezium does it");
    assert_eq!(copy(&log).len(), ROWS + 2, "rows that were deleted are left over, of which the log warns");
}

#[tokio::test]
async fn t018_what_the_log_still_has_of_a_former_table_does_not_stand_behind_the_rows_of_its_successor() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        client
            .batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2)")
            .await
            .unwrap();
        let filtered = ("publication.autocreate.mode", "filtered");
        let config = config(&server, &[("snapshot.strategy", strategy), TOLD, filtered, ("snapshot.new.tables", "read")]);
        let mut running = start(&config, Log::default());
        running.records(2).await;
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;
        client
            .batch_execute("INSERT INTO a VALUES (7); DROP TABLE a; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (3)")
            .await
            .unwrap();
        let mut running = start(&config, log);
        running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.a {3}"))).await;
        client.batch_execute("INSERT INTO b VALUES (1)").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.b {1}"))).await;
        let log = running.stop().await;
        assert_eq!(copy(&log), source(&client).await, "{strategy}: {:?}", log.lines());
    }
}

#[tokio::test]
async fn t018_a_table_that_the_filters_bring_back_begins_anew() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    for strategy in ["consistent", "watermark"] {
        client
            .batch_execute(
                "DROP TABLE IF EXISTS a, b; CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
                 INSERT INTO a VALUES (1), (2), (3); INSERT INTO b VALUES (1), (2);",
            )
            .await
            .unwrap();
        let settings = |tables| {
            let entries = [
                ("snapshot.strategy", strategy),
                TOLD,
                ("snapshot.new.tables", "read"),
                ("slot.name", strategy),
                ("publication.name", strategy),
                ("table.include.list", tables),
            ];
            config(&server, &entries)
        };
        let mut log = Log::default();
        let mut expected = source(&client).await;
        for (tables, statement) in [("public.a,public.b", ""), ("public.b", "DELETE FROM a WHERE id = 2"), ("public.a,public.b", "")] {
            client.batch_execute(statement).await.unwrap();
            let is_followed = tables.contains("public.a");
            if is_followed {
                expected = source(&client).await;
            }
            let mut running = start(&settings(tables), log);
            running.until(|log| copy(log) == expected && log.points.iter().any(|(_, state)| !state.is_empty())).await;
            eventually(&client, "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots").await;
            log = running.stop().await;
            eventually(&client, INACTIVE).await;
        }
        assert_eq!(log.lines().iter().filter(|line| line.starts_with("t public.a ")).count(), 1, "{strategy}");
    }
}
