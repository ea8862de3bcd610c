//! What a read beside the log holds of the server, and what becomes of it where others interfere.

use std::time::Duration;

use crate::chunks::{is_complete, replica};
use crate::harness::{Log, config, eventually, line, server, start};
use crate::standbys::Stopped;

const WATERMARK: (&str, &str) = ("snapshot.strategy", "watermark");

/// Rows of which a read takes more than can wait to be taken.
const WIDE_ROWS: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 20000) FROM generate_series(1, 1500) i;";

#[tokio::test]
async fn a_read_whose_rows_nobody_takes_lets_go_of_its_table_and_of_what_it_sees() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(WIDE_ROWS).await.unwrap();
    let mut running = start(&config(&server, &[WATERMARK]), Log::default());
    // Nobody takes more batches.
    running.until(|log| !log.records.is_empty()).await;
    let session = "application_name = 'tailwater' AND backend_type = 'client backend'";
    let holds_nothing = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE {session} AND backend_xmin IS NOT NULL)");
    eventually(&client, &holds_nothing).await;
    client
        .batch_execute("SET lock_timeout = '30s'; ALTER TABLE t ADD later int; UPDATE t SET later = 1 WHERE id % 100 = 0;")
        .await
        .unwrap();
    assert!(!is_complete(&running.log));
    running.until(is_complete).await;
    client.batch_execute("INSERT INTO t VALUES (0, 'end', 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{0,end,0}"))).await;
    let copy = replica(&running.stop().await, "public.t");
    assert_eq!(copy.len(), 1501);
    assert!((1..=15).all(|n| copy[&format!("{{{}}}", n * 100)].ends_with(",1}")));
}

#[tokio::test]
async fn a_session_that_is_ended_while_it_reads_costs_neither_the_stream_nor_a_row() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(WIDE_ROWS).await.unwrap();
    // So slow that reads are found at work.
    let mut running = start(&config(&server, &[WATERMARK, ("snapshot.max.bytes.per.second", "5000000")]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    let slot = "SELECT active_pid FROM pg_replication_slots";
    let pid: Option<i32> = client.query_one(slot, &[]).await.unwrap().get(0);
    let other = server.connect("postgres").await.unwrap();
    let ending = tokio::spawn(async move {
        for _ in 0..2 {
            let readers = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = 't'::regclass AND application_name = 'tailwater'";
            eventually(&other, &format!("SELECT bool_or(pg_terminate_backend(pid)) FROM ({readers}) AS readers")).await;
        }
    });
    running.until(is_complete).await;
    assert!(ending.is_finished(), "both were ended while there was something to read");
    ending.await.unwrap();
    assert_eq!(client.query_one(slot, &[]).await.unwrap().get::<_, Option<i32>>(0), pid, "the stream went on");
    assert!(pid.is_some());
    assert_eq!(replica(&running.stop().await, "public.t").len(), 1500);
}

#[tokio::test]
async fn where_the_log_stands_still_transactions_that_push_it_become_rare() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(WIDE_ROWS).await.unwrap();
    let mut running = start(&config(&server, &[WATERMARK, ("incremental.snapshot.chunk.size", "100")]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    let sender: i32 = client.query_one("SELECT active_pid FROM pg_replication_slots", &[]).await.unwrap().get(0);
    let stopped = Stopped::new(sender);
    // What is read from now on has to be passed.
    client.batch_execute("CREATE TABLE later (a int)").await.unwrap();
    let next = "SELECT txid_snapshot_xmax(txid_current_snapshot())";
    let first: i64 = client.query_one(next, &[]).await.unwrap().get(0);
    running.for_a_while(Duration::from_secs(5)).await;
    let last: i64 = client.query_one(next, &[]).await.unwrap().get(0);
    assert!(!is_complete(&running.log), "the log stands still");
    assert!(last - first < 20, "{} transactions", last - first);
    drop(stopped);
    running.until(is_complete).await;
    assert_eq!(replica(&running.stop().await, "public.t").len(), 1500);
}
