//! The restart table on real servers: what became of the slot and of the server's history while the source was down, each
//! with its error and remedy.

use std::path::{Path, PathBuf};
use std::process::Command;

use tailwater_api::ErrorKind;
use tailwater_postgres::PostgresConfig;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Log, config, eventually, server, start};

const NOBODY: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";

/// A server with the table `t`, captured and stopped behind its first row.
async fn captured_once(server: &PostgresServer, entries: &[(&str, &str)]) -> (Client, PostgresConfig, Log) {
    let client = server.connect("postgres").await.expect("the server answers");
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("the table is new");
    let config = config(server, entries);
    let log = capture_row(&client, &config, Log::default(), 1).await;
    (client, config, log)
}

/// Captures a row, and all that is durable is confirmed.
async fn capture_row(client: &Client, config: &PostgresConfig, log: Log, id: u32) -> Log {
    let mut running = start(config, log);
    eventually(client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.expect("the row is new");
    running
        .until(|log| {
            log.lines().last().is_some_and(|line| line.contains(&format!("{{{id}}}->null")) || line.ends_with(&format!("{{{id}}}")))
        })
        .await;
    let log = running.stop().await;
    eventually(client, NOBODY).await;
    log
}

async fn refused(config: &PostgresConfig, log: &Log, kind: ErrorKind, cause: &str, remedy: &str) {
    let error = start(config, log.clone()).failed().await;
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(cause), "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains(remedy)), "{error}");
}

#[tokio::test]
async fn a_slot_of_another_database_or_plug_in_is_refused_and_left_alone() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    server.create_database("other").await.unwrap();
    let other = server.connect("other").await.unwrap();
    other.batch_execute("SELECT pg_create_logical_replication_slot('shop', 'pgoutput')").await.unwrap();
    // Not even where a new snapshot is allowed: the slot is somebody else's.
    for mode in ["initial", "when_needed"] {
        let config = config(&server, &[("snapshot.mode", mode)]);
        refused(&config, &Log::default(), ErrorKind::Conflict, "belongs to database other", "slot.name").await;
    }
    other.batch_execute("SELECT pg_drop_replication_slot('shop')").await.unwrap();
    client.batch_execute("SELECT pg_create_physical_replication_slot('shop')").await.unwrap();
    refused(&config(&server, &[]), &Log::default(), ErrorKind::Conflict, "a physical slot", "name another slot with slot.name").await;
}

#[tokio::test]
async fn a_position_of_another_server_is_refused() {
    // All servers of a version come from one initdb and have one identifier.
    let Some(one) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let Some(two) = required_or_skip(PostgresServer::start(Version::V17, &[]).await) else { return };
    let (_client, _config, log) = captured_once(&one, &[]).await;
    let (_client, config, _log) = captured_once(&two, &[]).await;
    refused(&config, &log, ErrorKind::HistoryGone, "belongs to the server with system identifier", "connect to the former server").await;
}

#[tokio::test]
async fn a_new_snapshot_on_another_server_leaves_the_slot_alone_that_somebody_has_there() {
    let Some(one) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let Some(two) = required_or_skip(PostgresServer::start(Version::V17, &[]).await) else { return };
    let (_client, _config, log) = captured_once(&one, &[]).await;
    let client = two.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    two.create_database("other").await.unwrap();
    let other = two.connect("other").await.unwrap();
    other.batch_execute("SELECT pg_create_logical_replication_slot('shop', 'test_decoding')").await.unwrap();
    for mode in ["when_needed", "always"] {
        let config = config(&two, &[("snapshot.mode", mode)]);
        refused(&config, &log, ErrorKind::Conflict, "its plug-in is test_decoding", "slot.name").await;
    }
    let slots: i64 = other.query_one("SELECT count(*) FROM pg_replication_slots WHERE plugin = 'test_decoding'", &[]).await.unwrap().get(0);
    assert_eq!(slots, 1);
}

#[tokio::test]
async fn a_slot_that_a_killed_run_left_in_creation_is_waited_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let open = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    let in_creation = "SELECT bool_or(active AND confirmed_flush_lsn IS NULL) FROM pg_replication_slots WHERE slot_name = 'shop'";
    let waits = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted";
    let killed = start(&config(&server, &[]), Log::default());
    eventually(&client, waits).await;
    eventually(&client, in_creation).await;
    let log = killed.crash().await;
    let mut running = start(&config(&server, &[]), log);
    // It looks at the slot, and does not take it for lost.
    eventually(&client, "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%invalidation_reason%' AND pid <> pg_backend_pid()")
        .await;
    open.batch_execute("COMMIT").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["r public.t {1} null->{1}", "r public.t {2} null->{2}"]);
}

#[tokio::test]
async fn a_slot_whose_log_was_removed_is_refused() {
    let Some(server) = server(&[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")]).await else {
        return;
    };
    let (client, config, log) = captured_once(&server, &[]).await;
    for _ in 0..4 {
        client.batch_execute("SELECT pg_switch_wal(); CREATE TABLE filler AS SELECT 1; DROP TABLE filler; CHECKPOINT").await.unwrap();
    }
    eventually(&client, "SELECT wal_status = 'lost' FROM pg_replication_slots").await;
    refused(&config, &log, ErrorKind::HistoryGone, "max_slot_wal_keep_size", "SELECT pg_drop_replication_slot('shop');").await;
}

#[tokio::test]
async fn a_slot_that_was_idle_for_too_long_is_refused() {
    let settings = [("idle_replication_slot_timeout", "1s")];
    let Some(server) = required_or_skip(PostgresServer::start(Version::V18, &settings).await) else { return };
    let (client, config, log) = captured_once(&server, &[]).await;
    // A checkpoint looks at how long slots are idle.
    let checkpoints = async {
        loop {
            client.batch_execute("CHECKPOINT").await.unwrap();
        }
    };
    let other = server.connect("postgres").await.unwrap();
    tokio::select! {
        () = checkpoints => {}
        () = eventually(&other, "SELECT invalidation_reason = 'idle_timeout' FROM pg_replication_slots") => {}
    }
    refused(&config, &log, ErrorKind::HistoryGone, "idle_replication_slot_timeout", "SELECT pg_drop_replication_slot('shop');").await;
}

#[tokio::test]
async fn a_failover_slot_is_made_where_the_server_knows_them() {
    for (version, failover) in [(Version::V17, true), (Version::V15, false)] {
        let Some(server) = required_or_skip(PostgresServer::start(version, &[]).await) else { return };
        let (client, _config, _log) = captured_once(&server, &[("slot.failover", "true")]).await;
        eventually(
            &client,
            &format!("SELECT coalesce((to_jsonb(s) ->> 'failover')::bool, false) = {failover} FROM pg_replication_slots s"),
        )
        .await;
    }
}

#[tokio::test]
async fn a_slot_is_dropped_on_a_stop_where_that_is_asked_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[("slot.drop.on.stop", "true")]), Log::default());
    running.records(1).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    running.stop().await;
    let slots: i64 = client.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(slots, 0);
}

/// The folder of the server's data and a copy of it.
fn data_and_copy(server: &PostgresServer) -> (PathBuf, PathBuf) {
    (server.directory().join("data"), server.directory().join("copy"))
}

fn copy_folder(from: &Path, to: &Path) {
    // Keeps owners and modes, which the server insists on.
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is there");
    assert!(done.success());
}

#[tokio::test]
async fn a_server_set_back_or_promoted_is_continued_only_where_it_has_all_that_was_published() {
    let Some(mut server) = server(&[]).await else { return };
    let (_client, config, early) = captured_once(&server, &[]).await;
    server.stop().unwrap();
    let (data, copy) = data_and_copy(&server);
    copy_folder(&data, &copy);
    server.start_again().await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    let late = capture_row(&client, &config, early.clone(), 2).await;
    server.stop().unwrap();

    // Set back to the copy: what was published behind it does not exist there.
    std::fs::remove_dir_all(&data).unwrap();
    copy_folder(&copy, &data);
    server.start_again().await.unwrap();
    refused(&config, &late, ErrorKind::HistoryGone, "restored from an older state", "when_needed").await;
    server.stop().unwrap();

    // Promoted from the copy: a timeline of its own.
    std::fs::write(data.join("standby.signal"), "").unwrap();
    server.start_again().await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    eventually(&client, "SELECT NOT pg_is_in_recovery()").await;
    refused(&config, &late, ErrorKind::HistoryGone, "lies on timeline 1, which ended at", "when_needed").await;
    let log = capture_row(&client, &config, early, 3).await;
    assert_eq!(log.lines(), ["c public.t {1} null->{1}", "c public.t {3} null->{3}"]);
    // A position of the new timeline is none of the old one.
    server.stop().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy_folder(&copy, &data);
    server.start_again().await.unwrap();
    refused(&config, &log, ErrorKind::HistoryGone, "lies on timeline 2, which this server never had", "when_needed").await;
}

#[tokio::test]
async fn a_server_that_shuts_down_does_not_wait_for_who_leaves_confirming_to_others() {
    let Some(mut server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[("lsn.flush.mode", "manual"), ("snapshot.mode", "no_data")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";
    let before: String = client.query_one(confirmed, &[]).await.unwrap().get(0);
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    running.records(1).await;
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, "SELECT bool_or(write_lsn >= sent_lsn) FROM pg_stat_replication") => {}
    }
    assert_eq!(client.query_one(confirmed, &[]).await.unwrap().get::<_, String>(0), before, "nobody confirms");
    let stopping = tokio::task::spawn_blocking(move || server.stop());
    let (ended, _) = running.ended().await;
    assert!(matches!(ended.unwrap_err().kind(), ErrorKind::Restarting | ErrorKind::Unreachable));
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn i1_a_new_beginning_on_an_old_slot_is_confirmed_once_it_is_durable() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    for statement in
        ["CREATE TABLE t (id int PRIMARY KEY)", "SELECT pg_create_logical_replication_slot('shop', 'pgoutput')", "INSERT INTO t VALUES (1)"]
    {
        client.batch_execute(statement).await.unwrap();
    }
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'shop'";
    let before: String = client.query_one(confirmed, &[]).await.unwrap().get(0);
    let mut running = start(&config(&server, &[]), Log::default());
    running.refuse_confirmation();
    running.records(1).await;
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, "SELECT bool_or(reply_time IS NOT NULL) FROM pg_stat_replication") => {}
    }
    assert_eq!(client.query_one(confirmed, &[]).await.unwrap().get::<_, String>(0), before);
    running.stop().await;
}

#[tokio::test]
async fn i3_a_slot_that_another_reader_confirms_while_it_is_waited_for_is_a_gap() {
    let Some(server) = server(&[]).await else { return };
    // What is left of the patience with a slot in use does not matter here.
    let (client, config, log) = captured_once(&server, &[("slot.max.retries", "240")]).await;
    let mut other = start(&config, log.clone());
    other.meanwhile(eventually(&client, "SELECT count(*) = 1 FROM pg_stat_replication WHERE reply_time IS NOT NULL")).await;
    let waiting = start(&config, log.clone());
    // It has held its position against the slot by the time it looks at who has it, and does so again and again.
    let looks = "FROM pg_stat_activity WHERE query LIKE '%invalidation_reason%' AND pid <> pg_backend_pid()";
    for _ in 0..2 {
        let query = format!("SELECT coalesce(max(query_start), '-infinity')::text {looks}");
        let seen: String = client.query_one(&query, &[]).await.unwrap().get(0);
        other.meanwhile(eventually(&client, &format!("SELECT max(query_start) > '{seen}' {looks}"))).await;
    }
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    other.records(2).await;
    let confirmed = "SELECT confirmed_flush_lsn >= pg_current_wal_lsn() FROM pg_replication_slots";
    other.meanwhile(eventually(&client, confirmed)).await;
    assert_eq!(other.stop().await.lines().last().map(String::as_str), Some("c public.t {2} null->{2}"));
    let (ended, after) = waiting.ended().await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Restarting);
    assert_eq!(after.lines(), log.lines());
    eventually(&client, NOBODY).await;
    refused(&config, &after, ErrorKind::HistoryGone, "the slot is confirmed up to", "when_needed").await;
}
