//! Tables whose records have another key than their rows (`message.key.columns`), read in chunks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tailwater_api::envelope::Envelope;
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::chunks::{TABLE, is_complete, original, write_at_random};
use crate::harness::{Log, config, line, server, show, start};
use crate::signals::{BY_TABLE, NO_DATA, SIGNALS, is_asked_for, is_read, is_streaming};

/// A key that several rows have, and that updates change without a word about what it was.
const KEY: (&str, &str) = ("message.key.columns", "public[.]t:v");
const CHUNKS: (&str, &str) = ("incremental.snapshot.chunk.size", "300");

/// The rows that a target holds which knows them by the table's own key.
fn rows(log: &Log) -> BTreeSet<String> {
    let mut rows = std::collections::BTreeMap::new();
    for record in log.records.iter().filter(|record| record.topic.ends_with("public.t")) {
        let Some(envelope) = Envelope::of(record) else { continue };
        let [before, after] = [envelope.before(), envelope.after()].map(|row| {
            let values = row.as_struct()?;
            Some((show(&values[0]), show(&values[1])))
        });
        before.map(|key| rows.remove(&key));
        after.map(|key| rows.insert(key, show(envelope.after())));
    }
    rows.into_values().collect()
}

async fn writes_until(server: &PostgresServer) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    (stop.clone(), tokio::spawn(write_at_random(server.connect("postgres").await.unwrap(), stop)))
}

fn read(log: &Log) -> usize {
    log.records.iter().filter(|record| line(record).starts_with("r public.t ")).count()
}

/// The writers rest, and all is read: the target holds what the table holds.
async fn ends_equal(mut running: crate::harness::Running, client: &Client, writes: (Arc<AtomicBool>, tokio::task::JoinHandle<()>)) {
    writes.0.store(true, Ordering::Relaxed);
    writes.1.await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (0, 'end', 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record) == "c public.t {0} null->{0,end,0}")).await;
    assert_eq!(rows(&running.stop().await), original(client, "t").await.into_values().collect());
}

#[tokio::test]
async fn the_snapshot_at_the_start_reads_them_in_chunks_under_writers_and_crashes_and_ends_equal() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    let writes = writes_until(&server).await;
    let config = config(&server, &[("snapshot.strategy", "watermark"), KEY, CHUNKS]);
    let mut log = Log::default();
    for _ in 0..3 {
        let known = read(&log);
        let mut running = start(&config, log);
        running.until(|log| is_complete(log) || read(log) > known).await;
        log = running.crash().await;
    }
    assert!(log.points.iter().any(|(records, state)| *records > 0 && format!("{state:?}").contains("reading")), "it is read in chunks");
    let mut running = start(&config, log);
    running.until(is_complete).await;
    ends_equal(running, &client, writes).await;
}

#[tokio::test]
async fn a_signal_reads_them_under_writers_and_crashes_and_ends_equal() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    client.batch_execute(SIGNALS).await.unwrap();
    let config = config(&server, &[NO_DATA, BY_TABLE, KEY, CHUNKS]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    let writes = writes_until(&server).await;
    client.batch_execute(r#"INSERT INTO signals VALUES ('s', 'execute-snapshot', '{"data-collections": ["public.t"]}')"#).await.unwrap();
    for _ in 0..3 {
        let known = read(&running.log);
        running.until(|log| read(log) > known).await;
        let log = running.crash().await;
        assert!(is_asked_for(&log), "the crash is before the last chunk");
        running = start(&config, log);
    }
    running.until(is_read).await;
    ends_equal(running, &client, writes).await;
}

#[tokio::test]
async fn without_a_key_of_its_own_a_table_is_read_by_that_of_its_records_where_it_tells_rows_apart() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE apart (a int, b text); INSERT INTO apart SELECT i, chr(65 + i % 3) FROM generate_series(1, 50) i;
             CREATE TABLE alike (a int, b text); INSERT INTO alike VALUES (1, 'A'), (1, 'A');",
        )
        .await
        .unwrap();
    client.batch_execute(SIGNALS).await.unwrap();
    let own = ("message.key.columns", "public[.](apart|alike):b,a");
    let told = [("notification.enabled.channels", "sink"), ("notification.sink.topic.name", "told")];
    let settings = [&[NO_DATA, BY_TABLE, own, ("incremental.snapshot.chunk.size", "7")][..], &told].concat();
    let mut running = start(&config(&server, &settings), Log::default());
    is_streaming(&client).await;
    let signal = r#"INSERT INTO signals VALUES ('s', 'execute-snapshot', '{"data-collections": ["public.apart", "public.alike"]}')"#;
    client.batch_execute(signal).await.unwrap();
    running.until(is_read).await;
    let log = running.stop().await;
    let of = |table: &str| log.lines().into_iter().filter(|line| line.starts_with(&format!("r public.{table} "))).collect::<BTreeSet<_>>();
    assert_eq!(of("apart").len(), 50);
    assert!(of("apart").contains("r public.apart {B,1} null->{1,B}"));
    assert!(of("alike").is_empty(), "it is told that two rows have one key, and none is lost in silence");
}
