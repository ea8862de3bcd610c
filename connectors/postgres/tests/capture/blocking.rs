//! Blocking snapshots: the log rests while tables are read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::record::Record;
use tailwater_api::{ErrorKind, Value};
use tokio_postgres::Client;

use crate::harness::{Log, Running, config, eventually, line, server, start};
use crate::signals::{BY_TABLE, NO_DATA, SIGNALS, TOLD, answered, is_asked_for, is_read, is_streaming, request, told};
use crate::standbys::Stopped;

/// Counts up all rows, a transaction each time.
async fn count_up(client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        client.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The operations and counts of each row, in the order of the log.
fn counts(log: &Log) -> BTreeMap<i64, Vec<(Operation, i64)>> {
    let mut counts: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    for record in log.records.iter().filter(|record| record.topic.ends_with(".t")) {
        let envelope = Envelope::of(record).unwrap();
        let row = envelope.after().as_struct().unwrap();
        let number = |value: &Value| value.as_integer().unwrap();
        counts.entry(number(&row[0])).or_default().push((envelope.operation(), number(&row[1])));
    }
    counts
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_where_the_log_rests() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 50) i; {SIGNALS}"
        ))
        .await
        .unwrap();
    let mut running = start(&config(&server, &[NO_DATA, BY_TABLE]), Log::default());
    is_streaming(&client).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(count_up(server.connect("postgres").await.unwrap(), stop.clone()));
    running.records(200).await;
    client
        .batch_execute(
            r#"INSERT INTO signals VALUES ('s', 'execute-snapshot', '{"data-collections": ["public.t"], "type": "blocking",
               "additional-conditions": [{"data-collection": "public.t", "filter": "SELECT * FROM t WHERE id > 10"}]}')"#,
        )
        .await
        .unwrap();
    running.until(is_read).await;
    let known = running.log.records.len();
    running.records(known + 200).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let log = running.stop().await;
    for (id, counts) in counts(&log) {
        let reads = counts.iter().filter(|(operation, _)| *operation == Operation::Read).count();
        assert_eq!(reads, usize::from(id > 10), "row {id}");
        for pair in counts.windows(2) {
            let step = i64::from(pair[1].0 != Operation::Read);
            assert_eq!(pair[1].1 - pair[0].1, step, "row {id}: {pair:?}");
        }
    }
}

#[tokio::test]
async fn rows_from_before_a_column_was_renamed_keep_its_name_behind_the_snapshot() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1);").await.unwrap();
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    client.batch_execute("INSERT INTO t VALUES (2, 2)").await.unwrap();
    running.records(1).await;
    // From now on the log does not come on, and so not to the place of the snapshot.
    let sender = client.query_one("SELECT active_pid FROM pg_replication_slots", &[]).await.unwrap().get(0);
    let sender = Stopped::new(sender);
    let _answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"], "type": "blocking"}"#).await;
    let is_taken = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE temporary AND confirmed_flush_lsn IS NOT NULL)";
    running.meanwhile(eventually(&client, is_taken)).await;
    client.batch_execute("INSERT INTO t VALUES (3, 3); ALTER TABLE t RENAME v TO w; INSERT INTO t VALUES (4, 4);").await.unwrap();
    drop(sender);
    running.records(5).await;
    let log = running.stop().await;
    let column = |record: &Record| {
        let (_, row) = record.value.schema.as_ref().unwrap().field("after").unwrap();
        format!("{} {}", line(record), row.fields().last().unwrap().name)
    };
    assert_eq!(
        log.records.iter().map(column).collect::<Vec<_>>(),
        [
            "c public.t {2} null->{2,2} v",
            "r public.t {1} null->{1,1} w",
            "r public.t {2} null->{2,2} w",
            "c public.t {3} null->{3,3} v",
            "c public.t {4} null->{4,4} w",
        ]
    );
}

#[tokio::test]
async fn a_crash_in_its_midst_repeats_it() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, 20000) i;",
        )
        .await
        .unwrap();
    let config = config(&server, &[NO_DATA]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"], "type": "blocking"}"#).await;
    answered(&mut running, answer).await.unwrap();
    assert!(is_asked_for(&running.log) && !is_read(&running.log), "nobody took the rows yet");
    let mut running = start(&config, running.crash().await);
    running.until(is_read).await;
    client.batch_execute("INSERT INTO t VALUES (0, 'after')").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).starts_with("c public.t {0}"))).await;
    let log = running.stop().await;
    assert_eq!(log.records.len(), 20_001);
}

#[tokio::test]
async fn a_statement_that_fails_ends_the_snapshot_and_nothing_else() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await.unwrap();
    let config = config(&server, &[NO_DATA]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    let data = r#"{"data-collections": ["public.t"], "type": "blocking",
                   "additional-conditions": [{"data-collection": "public.t", "filter": "SELECT * FROM no_such_table"}]}"#;
    let answer = request(&running, "execute-snapshot", data).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| !is_asked_for(log)).await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    running.records(1).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {2} null->{2}"]);
}

/// Waits until the creation of a slot waits for a transaction.
async fn slot_waits(client: &Client) {
    eventually(client, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted").await;
}

#[tokio::test]
async fn the_log_goes_on_while_a_snapshot_waits_for_open_transactions() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let open = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)").await.unwrap();
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (2, 0)").await.unwrap();
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"], "type": "blocking"}"#).await;
    answered(&mut running, answer).await.unwrap();
    slot_waits(&client).await;
    for count in 1..=3 {
        client.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
        running.records(count).await;
    }
    assert!(is_asked_for(&running.log) && !is_read(&running.log));
    open.batch_execute("COMMIT").await.unwrap();
    running.until(is_read).await;
    client.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
    running.until(|log| log.lines().iter().filter(|line| line.starts_with("u ")).count() == 5).await;
    let expected = [
        "u public.t {1} null->{1,1}",
        "u public.t {1} null->{1,2}",
        "u public.t {1} null->{1,3}",
        "c public.t {2} null->{2,0}",
        "r public.t {2} null->{2,0}",
        "r public.t {1} null->{1,3}",
        "u public.t {2} null->{2,1}",
        "u public.t {1} null->{1,4}",
    ];
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn a_snapshot_that_waits_for_open_transactions_is_stopped_by_a_signal() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let open = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"], "type": "blocking"}"#).await;
    answered(&mut running, answer).await.unwrap();
    slot_waits(&client).await;
    let answer = request(&running, "stop-snapshot", r#"{"data-collections": ["public.t"], "type": "blocking"}"#).await;
    answered(&mut running, answer).await.unwrap();
    assert!(!is_asked_for(&running.log));
    open.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {2} null->{2}", "c public.t {3} null->{3}"]);
}

#[tokio::test]
async fn it_is_taken_later_where_the_server_has_no_room_for_its_connections_now() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION shop FOR ALL TABLES;
             CREATE ROLE capturing LOGIN REPLICATION; GRANT SELECT ON t TO capturing",
        )
        .await
        .unwrap();
    let config = config(&server, &[NO_DATA, ("database.user", "capturing")]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    // Behind the first record it needs no further connection to follow the log.
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    running.records(1).await;
    client.batch_execute("ALTER ROLE capturing CONNECTION LIMIT 0").await.unwrap();
    let _answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"], "type": "blocking"}"#).await;
    let (result, log) = running.ended().await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
    assert!(is_asked_for(&log), "what was asked for stays");
    client.batch_execute("ALTER ROLE capturing CONNECTION LIMIT -1").await.unwrap();
    let mut running = start(&config, log);
    running.until(is_read).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {1} null->{1}", "r public.t {1} null->{1}"]);
}

/// A statement that reads the table `slow` and takes an hour before the first row.
const FOR_AN_HOUR: &str = "SELECT slow.* FROM slow, pg_sleep(3600)";
const SLEEPS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";

/// Waits until nobody sleeps any more.
async fn nobody_sleeps(client: &Client) {
    eventually(client, &SLEEPS.replace("SELECT EXISTS", "SELECT NOT EXISTS")).await;
}

/// Has the tables that match read while the log rests, `slow` for an hour, and waits until that is read.
async fn read_for_an_hour(running: &mut Running, client: &Client, tables: &str) {
    let data = format!(
        r#"{{"data-collections": ["{tables}"], "type": "blocking",
            "additional-conditions": [{{"data-collection": "public.slow", "filter": "{FOR_AN_HOUR}"}}]}}"#
    );
    let answer = request(running, "execute-snapshot", &data).await;
    answered(running, answer).await.unwrap();
    running.meanwhile(eventually(client, SLEEPS)).await;
}

#[tokio::test]
async fn a_snapshot_that_is_read_is_stopped_by_a_signal_and_its_query_is_cancelled() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1)").await.unwrap();
    let mut running = start(&config(&server, &[&[NO_DATA][..], &TOLD].concat()), Log::default());
    is_streaming(&client).await;
    read_for_an_hour(&mut running, &client, "public.slow").await;
    client.batch_execute("INSERT INTO slow VALUES (2)").await.unwrap();
    // It speaks of others, and waits for the log to go on.
    let of_incremental = request(&running, "stop-snapshot", r#"{"type": "incremental"}"#).await;
    let wrong = request(&running, "stop-snapshot", r#"{"type": "initial"}"#).await;
    assert_eq!(answered(&mut running, wrong).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    let answer = request(&running, "stop-snapshot", r#"{"type": "blocking", "data-collections": ["public.slow"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    assert!(!is_asked_for(&running.log));
    assert_eq!(answered(&mut running, of_incremental).await.unwrap_err().kind(), ErrorKind::Missing);
    running.meanwhile(nobody_sleeps(&client)).await;
    running.until(|log| log.lines().iter().any(|line| line == "c public.slow {2} null->{2}")).await;
    assert_eq!(running.figure("snapshot_aborted", None), 1);
    let log = running.stop().await;
    let of_snapshots: Vec<_> = told(&log).into_iter().filter(|line| !line.starts_with("SKIPPED")).collect();
    assert_eq!(of_snapshots, ["STARTED", "IN_PROGRESS public.slow", "ABORTED"]);
}

#[tokio::test]
async fn a_stop_of_one_table_ends_neither_the_others_nor_what_is_read_of_them() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1)").await.unwrap();
    for table in ["early", "late"] {
        // Some fill a batch, and the last one is held back.
        let rows = "SELECT i, repeat('x', 400000) FROM generate_series(1, 3) i";
        client.batch_execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v text); INSERT INTO {table} {rows}")).await.unwrap();
    }
    // Of the two that are read beside the slow one, one is published when the other one has a row.
    let mut running = start(&config(&server, &[NO_DATA, ("snapshot.max.threads", "2")]), Log::default());
    is_streaming(&client).await;
    read_for_an_hour(&mut running, &client, "public.*").await;
    running.until(|log| log.records.len() == 3 && log.has_pending()).await;
    let answer = request(&running, "stop-snapshot", r#"{"data-collections": ["public.slow"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| !is_asked_for(log)).await;
    client.batch_execute("INSERT INTO slow VALUES (2)").await.unwrap();
    running.records(7).await;
    let log = running.stop().await;
    assert!(!log.has_pending(), "rows that nobody publishes are forgotten");
    let mut lines = log.lines();
    lines[..6].sort();
    let read = |table| (1..4).map(move |id| format!("r public.{table} {{{id}}} null->{{{id},text of 400000}}"));
    let expected: Vec<_> = read("early").chain(read("late")).chain(["c public.slow {2} null->{2}".to_owned()]).collect();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn the_end_of_a_run_leaves_no_query_of_a_snapshot_behind() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1)").await.unwrap();
    for mode in ["initial", "initial_only", "no_data"] {
        let mut settings = vec![("snapshot.mode", mode), ("slot.name", mode), ("publication.name", mode)];
        if mode != "no_data" {
            settings.extend([
                ("snapshot.select.statement.overrides", "public.slow"),
                ("snapshot.select.statement.overrides.public.slow", FOR_AN_HOUR),
            ]);
        }
        let config = config(&server, &settings);
        for is_crash in [false, true] {
            let mut running = start(&config, Log::default());
            if mode == "no_data" {
                is_streaming(&client).await;
                read_for_an_hour(&mut running, &client, "public.slow").await;
            } else {
                running.meanwhile(eventually(&client, SLEEPS)).await;
            }
            if is_crash {
                running.crash().await
            } else {
                running.stop().await
            };
            nobody_sleeps(&client).await;
        }
    }
}

#[tokio::test]
async fn a_stop_in_the_signalling_table_is_heard_when_the_connector_is_started_again() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1);").await.unwrap();
    client.batch_execute(SIGNALS).await.unwrap();
    let config = config(&server, &[NO_DATA, BY_TABLE]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    read_for_an_hour(&mut running, &client, "public.slow").await;
    client.batch_execute("INSERT INTO signals VALUES ('s', 'stop-snapshot', NULL); INSERT INTO slow VALUES (2)").await.unwrap();
    let mut running = start(&config, running.stop().await);
    running.until(|log| !is_asked_for(log) && log.lines().iter().any(|line| line == "c public.slow {2} null->{2}")).await;
    running.meanwhile(nobody_sleeps(&client)).await;
    running.stop().await;
}
