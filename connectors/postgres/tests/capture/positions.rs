//! Positions: crashes at every resume point, what is confirmed to the server, idle advances, the restart table on a
//! real server.

use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_api::source::SourceConnector;
use tailwater_postgres::PostgresConnector;

use crate::harness::{Log, config, eventually, server, start};

const WRITES: &str = "
    INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 400) i;
    BEGIN; UPDATE t SET v = 'y' WHERE id <= 100; UPDATE t SET id = id + 10000 WHERE id <= 50; DELETE FROM t WHERE id BETWEEN 60 AND 80; COMMIT;
    INSERT INTO u VALUES (1), (2);
    BEGIN; INSERT INTO u SELECT generate_series(10, 300); INSERT INTO t VALUES (20000, 'z'); TRUNCATE u; COMMIT;
    INSERT INTO t VALUES (30000, 'end');";

#[tokio::test]
async fn every_crash_while_streaming_loses_nothing_and_repeats_nothing() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)").await.unwrap();
    let config = config(&server, &[("skipped.operations", "none"), ("snapshot.mode", "no_data")]);
    let mut running = start(&config, Log::default());
    // Nothing is confirmed, so that the server can send all of it again.
    running.refuse_confirmation();
    running.until(|log| !log.state.is_empty()).await;
    for statement in WRITES.split(";\n") {
        client.batch_execute(statement).await.unwrap();
    }
    running.until(|log| log.lines().last().is_some_and(|line| line.starts_with("c public.t {30000}"))).await;
    let whole = running.crash().await;
    let cut_inside = whole.points.iter().filter(|(_, state)| format!("{state:?}").contains("tailwater.upto")).count();
    assert!(cut_inside > 3, "the transactions are larger than a batch: {cut_inside} of {}", whole.points.len());
    for point in 0..whole.points.len() {
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
        let mut running = start(&config, whole.after_crash(point));
        running.refuse_confirmation();
        running.records(whole.records.len()).await;
        running.for_a_while(Duration::from_millis(100)).await;
        let log = running.crash().await;
        assert!(log.lines() == whole.lines(), "after a crash behind batch {point} of {}", whole.points.len());
    }
}

#[tokio::test]
async fn i3_a_transaction_is_continued_behind_what_is_durable_with_another_publication_too() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);
                  CREATE PUBLICATION two FOR TABLE t, u; CREATE PUBLICATION one FOR TABLE t";
    client.batch_execute(tables).await.unwrap();
    let config_of = |publication| {
        let settings = [("publication.name", publication), ("publication.autocreate.mode", "disabled"), ("snapshot.mode", "no_data")];
        config(&server, &settings)
    };
    let mut running = start(&config_of("two"), Log::default());
    running.refuse_confirmation();
    running.until(|log| !log.state.is_empty()).await;
    let rows = "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 1000) i";
    client.batch_execute(&format!("BEGIN; INSERT INTO u VALUES (1), (2), (3); {rows}; COMMIT")).await.unwrap();
    running.records(1003).await;
    let whole = running.crash().await;
    let cut_inside = |point: &usize| (1..1003).contains(&whole.after_crash(*point).records.len());
    let points: Vec<_> = (0..whole.points.len()).filter(cut_inside).collect();
    assert!(points.len() > 2, "the transaction is larger than a batch: {points:?}");
    for point in points {
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
        let mut running = start(&config_of("one"), whole.after_crash(point));
        running.refuse_confirmation();
        running.records(1003).await;
        assert!(running.crash().await.lines() == whole.lines(), "after a crash behind batch {point} of {}", whole.points.len());
    }
}

#[tokio::test]
async fn the_server_is_confirmed_only_what_is_durable() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";
    running.refuse_confirmation();
    let before: String = client.query_one(confirmed, &[]).await.unwrap().get(0);
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    running.records(1).await;
    running.for_a_while(Duration::from_secs(2)).await;
    let after: String = client.query_one(confirmed, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "nothing became durable, nothing is confirmed");
    running.crash().await;
}

#[tokio::test]
async fn a_durable_batch_is_confirmed_to_the_server() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let target: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    running.records(1).await;
    let query = format!("SELECT confirmed_flush_lsn >= '{target}' FROM pg_replication_slots");
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, &query) => {}
    }
    running.stop().await;
}

#[tokio::test]
async fn the_position_moves_while_only_other_tables_are_written() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int)").await.unwrap();
    for filtered in ["all_tables", "filtered"] {
        let settings = [
            ("table.include.list", r"public\.t"),
            ("publication.autocreate.mode", filtered),
            ("slot.name", filtered),
            ("publication.name", filtered),
        ];
        let mut running = start(&config(&server, &settings), Log::default());
        running.until(|log| !log.state.is_empty()).await;
        client.batch_execute("INSERT INTO other SELECT generate_series(1, 1000)").await.unwrap();
        let target: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
        let query = format!("SELECT confirmed_flush_lsn >= '{target}' FROM pg_replication_slots WHERE slot_name = '{filtered}'");
        tokio::select! {
            () = running.until(|_| false) => {}
            () = eventually(&client, &query) => {}
        }
        let log = running.stop().await;
        assert_eq!(log.records.len(), 0);
        assert!(log.points.len() < 20, "idle advances are rare: {}", log.points.len());
    }
}

#[tokio::test]
async fn a_connection_lives_while_nothing_is_taken_for_longer_than_the_servers_timeout() {
    let Some(server) = server(&[("wal_sender_timeout", "5s")]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    let mut running = start(&config(&server, &[("status.update.interval.ms", "10000")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    let pid = "SELECT active_pid FROM pg_replication_slots";
    let before: Option<i32> = client.query_one(pid, &[]).await.unwrap().get(0);
    client.batch_execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 30000) i").await.unwrap();
    // Twice the timeout later it still answers.
    let written: String = client.query_one("SELECT now()::text", &[]).await.unwrap().get(0);
    eventually(&client, &format!("SELECT max(reply_time) > '{written}'::timestamptz + interval '10 s' FROM pg_stat_replication")).await;
    let after: Option<i32> = client.query_one(pid, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "I4: the connection is the same");
    running.records(30000).await;
    running.stop().await;
}

#[tokio::test]
async fn a_stop_takes_a_restart_to_the_same_place() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let config = config(&server, &[]);
    let mut log = Log::default();
    for round in 1..=3 {
        let mut running = start(&config, log);
        if round == 1 {
            running.until(|log| !log.state.is_empty()).await;
        }
        client.batch_execute(&format!("INSERT INTO t VALUES ({round})")).await.unwrap();
        running.records(round).await;
        log = running.stop().await;
        client.batch_execute(&format!("UPDATE t SET id = id WHERE id = {round} AND false")).await.unwrap();
    }
    assert_eq!(log.lines(), ["c public.t {1} null->{1}", "c public.t {2} null->{2}", "c public.t {3} null->{3}"]);
}

#[tokio::test]
async fn a_lost_slot_is_refused_unless_a_snapshot_is_allowed() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.records(1).await;
    let log = running.stop().await;
    eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    client.batch_execute("SELECT pg_drop_replication_slot('shop'); INSERT INTO t VALUES (2)").await.unwrap();

    let error = start(&config(&server, &[]), log.clone()).failed().await;
    assert_eq!(error.kind(), ErrorKind::HistoryGone);
    assert!(error.remedy().unwrap().contains("when_needed"));
    let slots: i64 = client.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(slots, 0, "never recreated while a position exists");

    let mut running = start(&config(&server, &[("snapshot.mode", "when_needed")]), log);
    running.records(3).await;
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    running.records(4).await;
    let lines = running.stop().await.lines();
    assert_eq!(lines[1..], ["r public.t {1} null->{1}", "r public.t {2} null->{2}", "c public.t {3} null->{3}"]);
}

#[tokio::test]
async fn rows_are_read_for_a_lost_position_alone_where_only_that_is_asked_for() {
    const UNUSED: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";
    let on_error = "snapshot.mode.configuration.based.snapshot.on.data.error";
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        let config = config(
            &server,
            &[
                ("snapshot.mode", "configuration_based"),
                ("snapshot.mode.configuration.based.start.stream", "true"),
                (on_error, "true"),
                ("snapshot.strategy", strategy),
            ],
        );
        client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
        let mut running = start(&config, Log::default());
        running.until(|log| !log.state.is_empty()).await;
        client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        running.records(1).await;
        let log = running.stop().await;
        assert_eq!(log.lines(), ["c public.t {2} null->{2}"], "{strategy}: rows are not read at the start");
        eventually(&client, UNUSED).await;
        client.batch_execute("SELECT pg_drop_replication_slot('shop'); INSERT INTO t VALUES (3)").await.unwrap();

        let mut running = start(&config, log);
        running.refuse_confirmation();
        running.until(|log| !log.points.is_empty()).await;
        // What it began goes on behind a crash.
        let log = running.crash().await.after_crash(0);
        eventually(&client, UNUSED).await;
        let mut running = start(&config, log);
        running.records(4).await;
        client.batch_execute("INSERT INTO t VALUES (4)").await.unwrap();
        running.records(5).await;
        let lines = running.stop().await.lines();
        let rows = ["r public.t {1} null->{1}", "r public.t {2} null->{2}", "r public.t {3} null->{3}"];
        assert_eq!(lines[1..4], rows, "{strategy}");
        assert_eq!(lines[4..], ["c public.t {4} null->{4}"], "{strategy}");
    }
}

#[tokio::test]
async fn a_slot_moved_by_somebody_else_is_a_gap() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.records(1).await;
    let log = running.stop().await;
    eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    // Each in a transaction of its own, so that the slot moves behind the first.
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    client.batch_execute("SELECT pg_replication_slot_advance('shop', pg_current_wal_lsn())").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    let error = start(&config(&server, &[]), log.clone()).failed().await;
    assert_eq!(error.kind(), ErrorKind::HistoryGone);
    assert!(error.to_string().contains("confirmed"), "{error}");
    // Where that is allowed, all rows are read again instead.
    let mut running = start(&config(&server, &[("snapshot.mode", "when_needed")]), log);
    running.records(4).await;
    let lines = running.stop().await.lines();
    assert_eq!(lines[1..], ["r public.t {1} null->{1}", "r public.t {2} null->{2}", "r public.t {3} null->{3}"]);
}

#[tokio::test]
async fn debeziums_place_before_the_slots_is_continued_where_its_driver_confirmed() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.records(1).await;
    let mut log = running.stop().await;
    log.forget_own_keys();
    eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    client.batch_execute("CREATE TABLE other (id int); SELECT pg_logical_emit_message(false, 'nobody', '')").await.unwrap();
    client.batch_execute("SELECT pg_replication_slot_advance('shop', pg_current_wal_lsn())").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let error = start(&config(&server, &[]), log.clone()).failed().await;
    assert_eq!(error.kind(), ErrorKind::HistoryGone, "{error}");
    let mut running = start(&config(&server, &[("lsn.flush.mode", "connector_and_driver")]), log);
    running.records(2).await;
    assert_eq!(running.stop().await.lines()[1..], ["c public.t {2} null->{2}"]);
}

#[tokio::test]
async fn a_probe_of_a_captured_database_is_ready() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let report = PostgresConnector::probe(&config(&server, &[])).await;
    assert!(report.is_ready(), "{report:?}");
    let made: i64 = client
        .query_one("SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(made, 0, "I15: a probe changes nothing");
}

#[tokio::test]
async fn every_place_of_debezium_is_continued_without_loss_or_repetition() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)").await.unwrap();
    let config = config(&server, &[("skipped.operations", "none"), ("snapshot.mode", "no_data")]);
    let mut running = start(&config, Log::default());
    running.refuse_confirmation();
    running.until(|log| !log.state.is_empty()).await;
    for statement in WRITES.split(";\n") {
        client.batch_execute(statement).await.unwrap();
    }
    running.until(|log| log.lines().last().is_some_and(|line| line.starts_with("c public.t {30000}"))).await;
    let whole = running.crash().await;
    for point in 0..whole.points.len() {
        let mut log = whole.after_crash(point);
        log.forget_own_keys();
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
        let mut running = start(&config, log);
        running.refuse_confirmation();
        running.records(whole.records.len()).await;
        running.for_a_while(Duration::from_millis(100)).await;
        let log = running.crash().await;
        assert!(log.lines() == whole.lines(), "from batch {point} of {}", whole.points.len());
    }
}

#[tokio::test]
async fn a_server_that_crashes_is_followed_again_from_the_same_place() {
    let Some(mut server) = server(&[("fsync", "on")]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    running.records(1).await;
    server.kill().unwrap();
    let (result, log) = running.ended().await;
    assert!(result.unwrap_err().kind().is_transient());
    server.start_again().await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let mut running = start(&config(&server, &[]), log);
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {1} null->{1}", "c public.t {2} null->{2}"]);
}
