//! A standby as the source: it decodes the log that it has replayed, and what its reads see is what it has replayed.

use std::process::Command;
use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_api::signal::{Signal, SignalRequest};
use tailwater_api::state::StateChange;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::{Log, PATIENCE, config, eventually, line, start};

/// A primary with a publication for all tables, and its standby. Standbys decode since PostgreSQL 16.
async fn pair() -> Option<(PostgresServer, PostgresServer)> {
    let mut primary = required_or_skip(PostgresServer::start(Version::V17, &[]).await)?;
    let standby = primary.standby().await.expect("the standby starts");
    let client = primary.connect("postgres").await.expect("the primary answers");
    client
        .batch_execute(
            "CREATE PUBLICATION shop FOR ALL TABLES; CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 3000) i;
             CREATE TABLE keyless (id int); INSERT INTO keyless VALUES (1);",
        )
        .await
        .expect("the tables are new");
    replayed(&client, &standby).await;
    Some((primary, standby))
}

/// Waits until the standby has replayed what the primary has written.
async fn replayed(primary: &Client, standby: &PostgresServer) {
    let written: String = primary.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    let client = standby.connect("postgres").await.unwrap();
    eventually(&client, &format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn")).await;
}

/// A slot of a standby comes about when the primary tells which transactions run, which a quiet one does seldom.
async fn tell_what_runs(primary: &PostgresServer) -> JoinHandle<()> {
    let client = primary.connect("postgres").await.unwrap();
    tokio::spawn(async move {
        while client.batch_execute("SELECT pg_log_standby_snapshot()").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

#[tokio::test]
async fn a_standby_is_read_and_followed() {
    let Some((primary, standby)) = pair().await else { return };
    let client = primary.connect("postgres").await.unwrap();
    let telling = tell_what_runs(&primary).await;
    for (strategy, threads) in [("consistent", "1"), ("consistent", "3"), ("watermark", "1")] {
        let name = format!("{strategy}_{threads}");
        let settings = [("snapshot.strategy", strategy), ("snapshot.max.threads", threads), ("slot.name", &name)];
        let mut running = start(&config(&standby, &settings), Log::default());
        running.records(3001).await;
        client.batch_execute("INSERT INTO t VALUES (0, 7); UPDATE t SET v = 1 WHERE id = 3000; DELETE FROM t WHERE id = 0;").await.unwrap();
        running.records(3005).await;
        let log = running.stop().await;
        let expected = ["c public.t {0} null->{0,7}", "u public.t {3000} null->{3000,1}", "d public.t {0} {0,?}->null", "- public.t {0}"];
        assert_eq!(log.lines()[3001..], expected, "{name}");
        // It goes on where it stood.
        let mut running = start(&config(&standby, &settings), log);
        client.batch_execute("UPDATE t SET v = 0 WHERE id = 3000").await.unwrap();
        running.records(3006).await;
        assert_eq!(running.stop().await.lines()[3005..], ["u public.t {3000} null->{3000,0}"], "{name}");
    }
    telling.abort();
}

#[tokio::test]
async fn initial_only_reads_a_standby_with_several_connections() {
    let Some((_primary, standby)) = pair().await else { return };
    let settings = [("snapshot.mode", "initial_only"), ("snapshot.max.threads", "2")];
    let (result, log) = start(&config(&standby, &settings), Log::default()).ended().await;
    result.unwrap();
    assert_eq!(log.records.len(), 3001);
}

#[tokio::test]
async fn a_standby_that_cannot_decode_is_refused_with_the_way_out() {
    let Some(mut primary) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let standby = primary.standby().await.unwrap();
    let error = start(&config(&standby, &[]), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Restarting, "it may be promoted: {error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("target_session_attrs")), "{error}");
}

/// Ends when dropped, so that no process stays stopped.
pub(crate) struct Stopped(String);

impl Stopped {
    pub(crate) fn new(pid: i32) -> Self {
        let stopped = Self(pid.to_string());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0]).status().unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[tokio::test]
async fn a_row_read_while_its_transaction_was_open_on_the_primary_does_not_follow_its_event() {
    let Some((primary, standby)) = pair().await else { return };
    let (client, on_standby) = (primary.connect("postgres").await.unwrap(), standby.connect("postgres").await.unwrap());
    let telling = tell_what_runs(&primary).await;
    let mut running = start(&config(&standby, &[("snapshot.mode", "no_data")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&on_standby, "SELECT bool_or(active) FROM pg_replication_slots").await;
    telling.abort();
    client.batch_execute("BEGIN; UPDATE t SET v = 1 WHERE id = 7").await.unwrap();
    // From now on the log does not come on. What another database writes is replayed, and the log has nothing of it.
    let sender = on_standby.query_one("SELECT active_pid FROM pg_replication_slots", &[]).await.unwrap().get(0);
    let sender = Stopped::new(sender);
    primary.create_database("other").await.unwrap();
    replayed(&client, &standby).await;
    let data = r#"{"type": "incremental", "data-collections": ["public.t"]}"#.to_owned();
    let (request, answered) = SignalRequest::new(Signal { id: "1".into(), kind: "execute-snapshot".into(), data });
    running.signals.send(request).await.unwrap();
    // Its chunk is read, with the old row.
    let is_read =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'tailwater' AND state = 'idle' AND query = 'ROLLBACK')";
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&on_standby, is_read) => {}
    }
    client.batch_execute("COMMIT").await.unwrap();
    replayed(&client, &standby).await;
    drop(sender);
    running.records(3000).await;
    client.batch_execute("INSERT INTO t VALUES (0, 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{0}"))).await;
    answered.await.unwrap().unwrap();
    let lines = running.stop().await.lines();
    let of_the_row: Vec<_> = lines.iter().filter(|line| line.contains(" {7} ")).collect();
    assert_eq!(of_the_row, ["u public.t {7} null->{7,1}"]);
    assert_eq!(lines.len(), 3001, "each other row once");
}

#[tokio::test]
async fn a_standby_is_followed_over_its_promotion_by_the_next_run_too() {
    let Some((primary, standby)) = pair().await else { return };
    let (client, on_standby) = (primary.connect("postgres").await.unwrap(), standby.connect("postgres").await.unwrap());
    let telling = tell_what_runs(&primary).await;
    let config = config(&standby, &[("snapshot.mode", "no_data")]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&on_standby, "SELECT bool_or(active) FROM pg_replication_slots").await;
    telling.abort();
    client.batch_execute("INSERT INTO keyless VALUES (2)").await.unwrap();
    running.records(1).await;
    on_standby.batch_execute("SELECT pg_promote()").await.unwrap();
    eventually(&on_standby, "SELECT NOT pg_is_in_recovery()").await;
    on_standby.batch_execute("INSERT INTO keyless VALUES (3)").await.unwrap();
    running.records(2).await;
    // What was stored last stands behind the place where the timelines part.
    let log = running.crash().await;
    on_standby.batch_execute("INSERT INTO keyless VALUES (4)").await.unwrap();
    let mut running = start(&config, log);
    running.records(3).await;
    let expected = [2, 3, 4].map(|id| format!("c public.keyless null null->{{{id}}}"));
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn a_standby_that_has_not_replayed_what_is_published_is_waited_for() {
    let Some((primary, standby)) = pair().await else { return };
    let telling = tell_what_runs(&primary).await;
    let config = config(&standby, &[("snapshot.mode", "no_data")]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    telling.abort();
    let mut log = running.stop().await;
    let (partition, offset) = log.state.iter().next().map(|(partition, offset)| (partition.clone(), offset.clone())).unwrap();
    let mut ahead = offset.clone();
    let resume = offset["tailwater.resume"].as_u64().unwrap();
    ahead.insert("tailwater.resume".into(), (resume + (1 << 30)).into());
    log.state.apply(&StateChange { partition, offset: Some(ahead) });
    let error = start(&config, log).failed().await;
    assert_eq!(error.kind(), ErrorKind::Restarting, "{error}");
    assert!(error.to_string().contains("has come to"), "{error}");
}

#[tokio::test]
async fn a_standby_with_a_copy_of_the_slot_is_waited_for_until_it_is_promoted() {
    let Some((primary, standby)) = pair().await else { return };
    let (client, on_standby) = (primary.connect("postgres").await.unwrap(), standby.connect("postgres").await.unwrap());
    let entries = [("snapshot.mode", "no_data"), ("slot.failover", "true")];
    let mut running = start(&config(&primary, &entries), Log::default());
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots WHERE slot_name = 'shop'").await;
    let telling = tell_what_runs(&primary).await;
    client.batch_execute("INSERT INTO keyless VALUES (2)").await.unwrap();
    running.records(1).await;
    // A copy is of use once the primary's slot has come to what the standby still has. For that it has to be confirmed again and
    // again: what its place lets the server forget is known only behind the next word about what runs.
    let deadline = tokio::time::Instant::now() + PATIENCE * 4;
    let is_copied = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'shop' AND synced AND NOT temporary)";
    while !on_standby.query_one(is_copied, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(tokio::time::Instant::now() < deadline, "the slot is never copied: {}", standby.log());
        running.for_a_while(Duration::from_millis(200)).await;
        // Refused while the slot is not ready for it.
        let _ = on_standby.batch_execute("SELECT pg_sync_replication_slots()").await;
    }
    telling.abort();
    let log = running.stop().await;
    replayed(&client, &standby).await;

    let error = start(&config(&standby, &entries), log.clone()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Restarting, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("follow the primary")), "{error}");
    on_standby.batch_execute("SELECT pg_promote()").await.unwrap();
    eventually(&on_standby, "SELECT NOT pg_is_in_recovery()").await;
    on_standby.batch_execute("INSERT INTO keyless VALUES (-1)").await.unwrap();
    let mut running = start(&config(&standby, &entries), log);
    running.records(2).await;
    assert_eq!(running.stop().await.lines().last().unwrap(), "c public.keyless null null->{-1}");
}
