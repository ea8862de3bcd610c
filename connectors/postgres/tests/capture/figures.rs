//! The figures of a source that is followed, and what it warns of.

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::{Log, config, eventually, server, start};
use crate::warnings::Warnings;

const ACTIVE: &str = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots";

#[tokio::test]
async fn changes_are_counted_by_what_they_are_and_those_left_out_apart() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY)").await.unwrap();
    let keys = [("table.include.list", r"public\.t"), ("snapshot.mode", "no_data")];
    let mut running = start(&config(&server, &keys), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, ACTIVE).await;
    for sql in [
        "INSERT INTO u VALUES (1), (2)",
        "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
        "UPDATE t SET v = 4 WHERE id = 1",
        "UPDATE t SET id = 5 WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    // A delete has a tombstone, a change of the key is a delete and a create.
    running.records(3 + 1 + 3 + 2).await;
    let counts = ["source_creates", "source_updates", "source_deletes", "source_rows", "source_filtered_rows", "source_transactions"];
    assert_eq!(counts.map(|name| running.count(name)), [4, 1, 2, 6, 2, 4]);
    let figure = |name| running.figure(name, None);
    assert_eq!((figure("source_connected"), figure("snapshot_skipped")), (1, 1));
    assert!(figure("source_last_event_timestamp_milliseconds") > 0);
    let connected = running.gauge("source_connected");
    running.stop().await;
    assert_eq!(connected.get(), 0);
}

#[tokio::test]
async fn log_that_the_server_keeps_is_warned_of_before_it_is_too_much_and_when_it_is() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let warnings = Warnings::collect();
    let mark = 12 << 24;
    // Something always comes, so that to wait for a measurement is no silence.
    let keys = [("slot.retained.wal.warn.bytes", &*mark.to_string()), ("heartbeat.interval.ms", "1000")];
    let mut running = start(&config(&server, &keys), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, ACTIVE).await;
    // What is not durable is kept.
    running.refuse_confirmation();
    let (retained, left) = (running.gauge("retained_wal_bytes"), running.gauge("slot_safe_seconds"));
    let soon = || warnings.with(&["grows by", "slot=shop"]);
    let passed = || warnings.with(&["more than slot.retained.wal.warn.bytes", "slot=shop"]);
    // One segment of the log a measurement: the rate is known before the mark is reached.
    while soon().is_empty() {
        let before = retained.get();
        write_a_segment(&client).await;
        tokio::select! {
            () = running.until(|_| false) => {}
            () = until(|| retained.get() > before) => {}
        }
        assert!(passed().is_empty() && retained.get() < mark, "{}", retained.get());
    }
    assert!((1..3600).contains(&left.get()), "{}", left.get());
    assert!(running.figure("retained_wal_bytes_per_second", None) > 0);
    assert_eq!(running.figure("slot_safe_wal_bytes", None), -1, "the server has no limit");
    while client
        .query_one("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 FROM pg_replication_slots", &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        < mark
    {
        write_a_segment(&client).await;
    }
    tokio::select! {
        () = running.until(|_| false) => {}
        () = until(|| !passed().is_empty() && left.get() == 0) => {}
    }
    assert_eq!((soon().len(), passed().len()), (1, 1));
    running.crash().await;
}

async fn write_a_segment(client: &Client) {
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn t137_a_key_that_the_log_does_not_tell_is_named_at_the_start_with_the_statement_that_mends_it() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE by_index (id int PRIMARY KEY, code int NOT NULL UNIQUE); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
             CREATE TABLE by_name (id int PRIMARY KEY, name text NOT NULL); CREATE TABLE told (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let warnings = Warnings::collect();
    let mut running = start(&config(&server, &[("message.key.columns", r"public\.by_name:name")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    for (table, column) in [("by_index", "id"), ("by_name", "name")] {
        let mend = format!(r#"ALTER TABLE "public"."{table}" REPLICA IDENTITY FULL;"#);
        let told = warnings.with(&[&format!("table=public.{table}"), &format!("does not hold {column} of the key"), &mend]);
        assert_eq!(told.len(), 1, "{table}");
    }
    assert!(warnings.with(&["public.told"]).is_empty());
    // And so it is: the deleted row's key is not known.
    eventually(&client, ACTIVE).await;
    client.batch_execute("INSERT INTO by_name VALUES (1, 'a'); DELETE FROM by_name").await.unwrap();
    running.records(3).await;
    assert_eq!(running.stop().await.lines()[1], "d public.by_name {?} {1,?}->null");
}
