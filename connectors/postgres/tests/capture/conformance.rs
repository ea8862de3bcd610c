//! The suites that every source must pass.
//!
//! A slot that is made before the writes keeps them, so a suite that starts from nothing finds a log to read; without
//! one, the rows of the tables.

use std::time::Duration;

use tailwater_postgres::{PostgresConfig, PostgresConnector};
use tailwater_testkit::PostgresServer;
use tailwater_testkit::conformance::source;
use tokio_postgres::Client;

use crate::harness::{config, line, server};

/// Rows of the tables, of about 500 bytes: some batches each.
const ROWS: usize = 900;
/// What [`CHANGES`] make: 900 inserts, 300 updates, 20 deletes, each with its tombstone.
const CHANGED: usize = 1240;

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
    CREATE TABLE elsewhere (id int)";

const CHANGES: [&str; 3] = [
    "INSERT INTO a SELECT i, repeat('x', 500) FROM generate_series(1, 600) i",
    "BEGIN; INSERT INTO b SELECT i, repeat('y', 500) FROM generate_series(1, 300) i; UPDATE a SET v = 'z' WHERE id <= 300; COMMIT",
    "DELETE FROM a WHERE id <= 20",
];

/// A server whose slot holds [`CHANGES`].
async fn changed(settings: &[(&str, &str)]) -> Option<(PostgresServer, Client, PostgresConfig)> {
    let server = server(settings).await?;
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    client.batch_execute("CREATE PUBLICATION shop FOR TABLE a, b").await.unwrap();
    client.batch_execute("SELECT pg_create_logical_replication_slot('shop', 'pgoutput')").await.unwrap();
    for change in CHANGES {
        client.batch_execute(change).await.unwrap();
    }
    let config = config(&server, &[("snapshot.mode", "no_data"), ("table.include.list", "public.a,public.b")]);
    Some((server, client, config))
}

/// A server whose tables hold rows.
async fn filled() -> Option<(PostgresServer, PostgresConfig)> {
    let server = server(&[]).await?;
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    client.batch_execute(CHANGES[0]).await.unwrap();
    client.batch_execute("INSERT INTO b SELECT i, repeat('y', 500) FROM generate_series(1, 300) i").await.unwrap();
    let config = config(&server, &[("table.include.list", "public.a,public.b")]);
    Some((server, config))
}

#[tokio::test]
async fn resumes_from_every_resume_point_of_the_log() {
    let Some((_server, _client, config)) = changed(&[]).await else { return };
    source::resumes_from_every_resume_point::<PostgresConnector>(&config, CHANGED, line).await;
}

#[tokio::test]
async fn resumes_from_every_resume_point_of_a_snapshot() {
    let Some((_server, config)) = filled().await else { return };
    source::resumes_from_every_resume_point::<PostgresConnector>(&config, ROWS, line).await;
}

#[tokio::test]
async fn outlives_a_stall_longer_than_the_servers_timeout() {
    let Some((_server, _client, config)) = changed(&[("wal_sender_timeout", "5s")]).await else { return };
    source::outlives_a_stall::<PostgresConnector>(&config, CHANGED, Duration::from_secs(12), line).await;
}

#[tokio::test]
async fn advances_while_idle() {
    let Some((_server, client, config)) = changed(&[]).await else { return };
    let elsewhere = async || client.batch_execute("INSERT INTO elsewhere SELECT generate_series(1, 1000)").await.unwrap();
    source::advances_while_idle::<PostgresConnector>(&config, CHANGED, elsewhere).await;
}

#[tokio::test]
async fn stops_when_told_while_it_reads_the_log() {
    let Some((_server, _client, config)) = changed(&[]).await else { return };
    source::stops_when_told::<PostgresConnector>(&config, CHANGED, line).await;
}

#[tokio::test]
async fn stops_when_told_while_it_reads_rows() {
    let Some((_server, config)) = filled().await else { return };
    source::stops_when_told::<PostgresConnector>(&config, ROWS, line).await;
}
