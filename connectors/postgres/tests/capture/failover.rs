//! The server fails and a standby takes its place: the connector goes on there, and nothing is lost or comes twice.
//!
//! A failover slot is copied by the standby (`sync_replication_slots`), and with `synchronized_standby_slots` the primary sends
//! nothing to it that the standby does not have (PostgreSQL 17).

use std::time::Duration;

use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Log, PATIENCE, config, eventually, start};

const ACTIVE: &str = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'shop'";

async fn pair(version: Version) -> Option<(PostgresServer, PostgresServer, Client)> {
    let settings = [("sync_replication_slots", "on"), ("max_prepared_transactions", "10")];
    let mut primary = required_or_skip(PostgresServer::start(version, &settings).await)?;
    let standby = primary.standby().await.expect("the standby starts");
    let client = primary.connect("postgres").await.expect("the primary answers");
    for statement in [
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
        "ALTER SYSTEM SET synchronized_standby_slots = 'standby'",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.expect("the primary takes it");
    }
    eventually(&client, "SELECT current_setting('synchronized_standby_slots') = 'standby'").await;
    Some((primary, standby, client))
}

/// Makes the standby a primary.
async fn promote(standby: &PostgresServer) -> Client {
    let client = standby.connect("postgres").await.unwrap();
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    eventually(&client, "SELECT NOT pg_is_in_recovery()").await;
    client
}

/// A standby that restarts meanwhile ends nothing. Since PostgreSQL 18 a slot may both live on in standbys and decode prepared transactions.
#[tokio::test]
async fn behind_a_failover_nothing_is_lost_or_comes_twice() {
    for (version, two_phase) in [(Version::V17, "false"), (Version::V18, "true")] {
        let Some((mut primary, mut standby, client)) = pair(version).await else { return };
        let both = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
        let entries = [
            ("database.hostname", both.as_str()),
            ("database.target_session_attrs", "primary"),
            ("slot.failover", "true"),
            ("transaction.two.phase", two_phase),
        ];
        let config = config(&primary, &entries);
        let mut running = start(&config, Log::default());
        running.records(1).await;
        eventually(&client, ACTIVE).await;
        // The copy lasts once the standby has what the slot needs, which is told of by what runs.
        let writer = primary.connect("postgres").await.unwrap();
        let telling = tokio::spawn(async move {
            while writer.batch_execute("SELECT pg_log_standby_snapshot()").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let on_standby = standby.connect("postgres").await.unwrap();
        let is_copied = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'shop' AND synced AND NOT temporary)";
        tokio::select! {
            () = running.until(|_| false) => {}
            () = eventually(&on_standby, is_copied) => {}
        }
        telling.abort();
        drop(on_standby);
        let has_row = |log: &Log, id: u32| log.lines().contains(&format!("c public.t {{{id}}} null->{{{id}}}"));

        // The server holds the row back, and warns of it with the code that it has for a publication that is not there.
        standby.stop().unwrap();
        eventually(&client, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'standby'").await;
        client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        let warned = async {
            while !primary.log().contains("\"synchronized_standby_slots\" does not have active_pid") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        running.meanwhile(async { tokio::time::timeout(PATIENCE, warned).await.expect("the server warns") }).await;
        assert!(!has_row(&running.log, 2), "the standby does not have it");
        standby.start_again().await.unwrap();
        running.until(|log| has_row(log, 2)).await;

        if two_phase == "true" {
            client.batch_execute("BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'kept'").await.unwrap();
        } else {
            client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
        }
        client.batch_execute("INSERT INTO t VALUES (4)").await.unwrap();
        running.until(|log| has_row(log, 4)).await;
        primary.kill().unwrap();
        let (ended, log) = running.ended().await;
        let error = ended.unwrap_err();
        assert!(error.kind().is_transient(), "the daemon tries again: {error}");

        let client = promote(&standby).await;
        let mut running = start(&config, log);
        eventually(&client, ACTIVE).await;
        if two_phase == "true" {
            client.batch_execute("COMMIT PREPARED 'kept'").await.unwrap();
        }
        client.batch_execute("INSERT INTO t VALUES (5)").await.unwrap();
        running.until(|log| has_row(log, 5)).await;
        let created = |id: u32| format!("c public.t {{{id}}} null->{{{id}}}");
        let order = if two_phase == "true" { [2, 4, 3, 5] } else { [2, 3, 4, 5] };
        let expected = std::iter::once("r public.t {1} null->{1}".to_owned()).chain(order.map(created)).collect::<Vec<_>>();
        assert_eq!(running.stop().await.lines(), expected, "{version:?}");
    }
}
