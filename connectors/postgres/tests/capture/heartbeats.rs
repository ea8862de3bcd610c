//! Heartbeats and what is run with them, and what becomes of a slot without them.

use std::time::Duration;

use crate::harness::{Log, config, eventually, server, show, start};
use crate::warnings::Warnings;

#[tokio::test]
async fn an_idle_source_writes_heartbeats_and_runs_the_action_query() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE beats (n int)").await.unwrap();
    let settings = [
        ("heartbeat.interval.ms", "100"),
        ("heartbeat.action.query", "INSERT INTO beats VALUES (1)"),
        ("topic.heartbeat.prefix", "beat"),
        ("table.include.list", r"public\.t"),
    ];
    let mut running = start(&config(&server, &settings), Log::default());
    running.records(3).await;
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, "SELECT count(*) > 2 FROM beats") => {}
    }
    let log = running.stop().await;
    assert!(log.records.iter().all(|record| &*record.topic == "beat.shop" && show(&record.key.value) == "{shop}"));
}

#[tokio::test]
async fn a_busy_source_writes_heartbeats_between_its_records() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let settings = [("heartbeat.interval.ms", "1"), ("topic.heartbeat.name", "alive"), ("snapshot.mode", "no_data")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 50000)").await.unwrap();
    running.until(|log| log.records.iter().filter(|record| &*record.topic == "shop.public.t").count() == 50_000).await;
    let log = running.stop().await;
    let first = log.records.iter().position(|record| &*record.topic == "shop.public.t").unwrap();
    let last = log.records.iter().rposition(|record| &*record.topic == "shop.public.t").unwrap();
    assert!(log.records[first..last].iter().any(|record| &*record.topic == "alive"));
}

#[tokio::test]
async fn an_action_query_that_waits_or_fails_keeps_nobody_waiting_is_told_of_once_and_tried_again() {
    let warnings = Warnings::collect();
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE beats (n int UNIQUE)").await.unwrap();
    let holder = server.connect("postgres").await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE beats IN EXCLUSIVE MODE").await.unwrap();
    let settings = [
        ("heartbeat.interval.ms", "100"),
        ("heartbeat.action.query", "BEGIN; INSERT INTO beats VALUES (1); COMMIT"),
        ("table.include.list", r"public\.t"),
        ("snapshot.mode", "no_data"),
    ];
    let is_row = |log: &Log| log.lines().iter().any(|line| line.starts_with("c public.t {2}"));
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    running.until(is_row).await;
    let acting = "FROM pg_stat_activity WHERE query LIKE 'BEGIN; INSERT INTO beats%'";
    eventually(&client, &format!("SELECT count(*) > 0 {acting} AND wait_event_type = 'Lock'")).await;
    let session: i32 = client.query_one(&format!("SELECT pid {acting}"), &[]).await.unwrap().get(0);
    // Now it fails, in the middle of a transaction of its own.
    holder.batch_execute("INSERT INTO beats VALUES (1); COMMIT").await.unwrap();
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, "SELECT xact_rollback > 2 FROM pg_stat_database WHERE datname = 'postgres'") => {}
    }
    assert_eq!(warnings.with(&["heartbeat.action.query fails", "duplicate key", "grant what it needs"]).len(), 1);
    client.batch_execute("TRUNCATE beats").await.unwrap();
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, "SELECT count(*) > 0 FROM beats") => {}
    }
    eventually(&client, &format!("SELECT count(*) > 0 {acting} AND pid = {session}")).await;
    running.stop().await;
}

#[tokio::test]
async fn an_action_query_that_waits_when_the_run_ends_is_cancelled() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let settings = [("heartbeat.interval.ms", "100"), ("heartbeat.action.query", "SELECT pg_sleep(3600)"), ("snapshot.mode", "no_data")];
    let mut running = start(&config(&server, &settings), Log::default());
    let sleeps = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
    running.meanwhile(eventually(&client, sleeps)).await;
    running.stop().await;
    eventually(&client, &sleeps.replace("SELECT EXISTS", "SELECT NOT EXISTS")).await;
}

/// A slot that stays where the last change of its own database was would keep the log of the whole server (I5).
#[tokio::test]
async fn an_idle_database_lets_go_of_what_another_one_writes() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.records(1).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    server.create_database("other").await.unwrap();
    let other = server.connect("other").await.unwrap();
    other.batch_execute("CREATE TABLE busy (n int)").await.unwrap();
    let end: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    let writing = tokio::spawn(async move {
        while other.batch_execute("INSERT INTO busy SELECT generate_series(1, 100); CHECKPOINT").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let lets_go =
        format!("SELECT confirmed_flush_lsn > '{end}' AND restart_lsn > '{end}' FROM pg_replication_slots WHERE slot_name = 'shop'");
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, &lets_go) => {}
    }
    writing.abort();
    assert_eq!(running.stop().await.records.len(), 1, "nothing was captured meanwhile");
}
