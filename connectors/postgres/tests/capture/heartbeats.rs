//! Heartbeats and what is run with them, and what becomes of a slot without them.

use std::time::Duration;

use crate::harness::{Log, config, eventually, server, show, start};

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
