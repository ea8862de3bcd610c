//! Signals: which tables are read again, how that is stopped and goes on, and what is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tailwater_api::signal::{Signal, SignalRequest};
use tailwater_api::{ErrorKind, Result};
use tailwater_testkit::PostgresServer;
use tokio::sync::oneshot;
use tokio_postgres::Client;

use crate::chunks::{TABLE, original, replica, write_at_random};
use crate::harness::{Log, PATIENCE, Running, Tight, config, eventually, line, server, show, source_field, start, start_within};

pub(crate) const SIGNALS: &str = "CREATE TABLE signals (id text PRIMARY KEY, type text NOT NULL, data text);";
pub(crate) const NO_DATA: (&str, &str) = ("snapshot.mode", "no_data");
pub(crate) const BY_TABLE: (&str, &str) = ("signal.data.collection", "public.signals");
pub(crate) const TOLD: [(&str, &str); 2] = [("notification.enabled.channels", "sink"), ("notification.sink.topic.name", "told")];

/// Whether something that a signal asked for is not read yet.
pub(crate) fn is_asked_for(log: &Log) -> bool {
    log.state.iter().any(|(partition, _)| partition.contains_key("tailwater.signal"))
}

/// Whether all that signals asked for was read.
pub(crate) fn is_read(log: &Log) -> bool {
    !is_asked_for(log) && log.lines().iter().any(|line| line.starts_with("r "))
}

pub(crate) async fn is_streaming(client: &Client) {
    eventually(client, "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE active)").await;
}

/// Hands a signal over as the daemon does.
pub(crate) async fn request(running: &Running, kind: &str, data: &str) -> oneshot::Receiver<Result<()>> {
    let signal = Signal { id: format!("{kind} {data}"), kind: kind.into(), data: data.into() };
    let (request, answer) = SignalRequest::new(signal);
    running.signals.send(request).await.unwrap();
    answer
}

/// Takes batches until the answer is there.
pub(crate) async fn answered(running: &mut Running, mut answer: oneshot::Receiver<Result<()>>) -> Result<()> {
    loop {
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        running.for_a_while(Duration::from_millis(20)).await;
    }
}

/// What notifications say: what happened, and the table or tables and the status.
pub(crate) fn told(log: &Log) -> Vec<String> {
    let of_snapshots = log.records.iter().filter(|record| &*record.topic == "told");
    let fields = of_snapshots.map(|record| record.value.value.as_struct().unwrap());
    let text = |fields: &[tailwater_api::Value]| {
        let data = match &fields[3] {
            tailwater_api::Value::Map(entries) => entries
                .iter()
                .filter(|(name, _)| !matches!(name.as_text(), Some("connector_name" | "data_collections")))
                .map(|(_, value)| format!(" {}", show(value)))
                .collect::<String>(),
            _ => String::new(),
        };
        format!("{}{data}", show(&fields[1]))
    };
    fields.map(text).collect()
}

#[tokio::test]
async fn a_table_that_a_signal_asks_for_is_read_under_writers_and_crashes_and_ends_equal() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    client.batch_execute(SIGNALS).await.unwrap();
    let config = config(&server, &[NO_DATA, BY_TABLE, ("incremental.snapshot.chunk.size", "300")]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_at_random(server.connect("postgres").await.unwrap(), stop.clone()));
    client.batch_execute(r#"INSERT INTO signals VALUES ('s', 'execute-snapshot', '{"data-collections": ["public.t"]}')"#).await.unwrap();
    let mut log;
    for _ in 0..3 {
        let known = running.log.records.iter().filter(|record| line(record).starts_with("r public.t ")).count();
        running.until(|log| log.records.iter().filter(|record| line(record).starts_with("r public.t ")).count() > known).await;
        log = running.crash().await;
        assert!(is_asked_for(&log), "the crash is before the last chunk");
        running = start(&config, log);
    }
    running.until(is_read).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (0, 'end', 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{end,0}"))).await;
    let log = running.stop().await;
    let rows = |rows: std::collections::BTreeMap<String, String>| rows.into_values().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(rows(replica(&log, "public.t")), rows(original(&client, "t").await));
    let read = log.records.iter().filter(|record| line(record).starts_with("r public.t "));
    assert!(read.clone().all(|record| show(&source_field(record, "snapshot")) == "incremental"));
}

#[tokio::test]
async fn a_request_is_answered_once_it_is_durable_and_refused_where_it_is_wrong() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);").await.unwrap();
    let config = config(&server, &[NO_DATA]);
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    for (kind, data, expected) in [
        ("execute-snapshot", "{", ErrorKind::Misconfigured),
        ("execute-snapshot", r#"{"data-collections": ["public.other"]}"#, ErrorKind::Missing),
        ("set-binlog-position", "{}", ErrorKind::Unsupported),
        ("stop-snapshot", "", ErrorKind::Missing),
        ("pause-snapshot", "", ErrorKind::Missing),
        ("resume-snapshot", "", ErrorKind::Missing),
    ] {
        let answer = request(&running, kind, data).await;
        assert_eq!(answered(&mut running, answer).await.unwrap_err().kind(), expected, "{kind} {data}");
    }
    running.refuse_confirmation();
    let mut answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"]}"#).await;
    running.until(is_asked_for).await;
    assert!(answer.try_recv().is_err(), "it is not durable");
    let log = running.crash().await;
    let mut running = start(&config, log);
    running.until(is_read).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"], "type": "incremental"}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| log.records.len() == 4 && !is_asked_for(log)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_rests_does_so_over_a_restart_and_others_queue_behind_it() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let tables = "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2), (3);
                  CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);";
    client.batch_execute(&format!("{tables}{SIGNALS}")).await.unwrap();
    let config = config(&server, &[&[NO_DATA, BY_TABLE][..], &TOLD].concat());
    let mut running = start(&config, Log::default());
    is_streaming(&client).await;
    client
        .batch_execute(
            r#"INSERT INTO signals VALUES ('1', 'execute-snapshot', '{"data-collections": ["public.a"]}'), ('2', 'pause-snapshot', NULL),
               ('3', 'execute-snapshot', '{"data-collections": ["public.b"]}')"#,
        )
        .await
        .unwrap();
    running.until(is_asked_for).await;
    let mut running = start(&config, running.crash().await);
    client.batch_execute("INSERT INTO b VALUES (2)").await.unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.b"))).await;
    assert!(!is_read(&running.log) && is_asked_for(&running.log));
    assert_eq!((running.figure("snapshot_running", None), running.figure("snapshot_paused", None)), (1, 1));
    client.batch_execute("INSERT INTO signals VALUES ('4', 'resume-snapshot', NULL)").await.unwrap();
    running.until(is_read).await;
    let log = running.stop().await;
    let read: Vec<_> = log.lines().into_iter().filter(|line| line.starts_with("r ")).map(|line| line[2..14].to_owned()).collect();
    assert_eq!(read, ["public.a {1}", "public.a {2}", "public.a {3}", "public.b {1}", "public.b {2}"]);
    let of_snapshots: Vec<_> = told(&log).into_iter().filter(|line| !line.starts_with("SKIPPED")).collect();
    assert_eq!(
        of_snapshots,
        [
            "STARTED",
            "PAUSED",
            "STARTED",
            "RESUMED",
            "RESUMED",
            "IN_PROGRESS public.a 3 3",
            "TABLE_SCAN_COMPLETED public.a 3 SUCCEEDED",
            "COMPLETED",
            "IN_PROGRESS public.b 2 2",
            "TABLE_SCAN_COMPLETED public.b 2 SUCCEEDED",
            "COMPLETED",
        ]
    );
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_told_of_and_keeps_nothing_else_from_being_read() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE broken (id int PRIMARY KEY); INSERT INTO broken VALUES (1); CREATE TABLE empty (id int PRIMARY KEY);
             CREATE TABLE keyless (id int); INSERT INTO keyless VALUES (1);
             CREATE TABLE untold (id int PRIMARY KEY, v int NOT NULL UNIQUE); ALTER TABLE untold REPLICA IDENTITY USING INDEX untold_v_key;
             CREATE TABLE whole (id int PRIMARY KEY); INSERT INTO whole VALUES (1);",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[&[NO_DATA][..], &TOLD].concat()), Log::default());
    is_streaming(&client).await;
    let data = r#"{"data-collections": ["public.broken", "public.empty", "no.such", "public.keyless", "public.untold", "public.whole"],
                   "additional-conditions": [{"data-collection": "public.broken", "filter": "no_such_column > 1"}]}"#;
    let answer = request(&running, "execute-snapshot", data).await;
    answered(&mut running, answer).await.unwrap();
    running.until(is_read).await;
    let log = running.stop().await;
    let of_snapshots: Vec<_> = told(&log).into_iter().filter(|line| !line.starts_with("SKIPPED")).collect();
    assert_eq!(
        of_snapshots,
        [
            "STARTED",
            "TABLE_SCAN_COMPLETED public.broken 0 SQL_EXCEPTION",
            "TABLE_SCAN_COMPLETED public.empty 0 EMPTY",
            "TABLE_SCAN_COMPLETED no.such 0 UNKNOWN_SCHEMA",
            "TABLE_SCAN_COMPLETED public.keyless 0 NO_PRIMARY_KEY",
            "TABLE_SCAN_COMPLETED public.untold 0 SKIPPED",
            "IN_PROGRESS public.whole 1 1",
            "TABLE_SCAN_COMPLETED public.whole 1 SUCCEEDED",
            "COMPLETED",
        ]
    );
}

#[tokio::test]
async fn t133_each_row_is_read_by_a_surrogate_key_or_its_table_is_left_out() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE keyed (id int PRIMARY KEY, n int NOT NULL); INSERT INTO keyed SELECT i, i / 4 FROM generate_series(1, 10) i;
             CREATE TABLE unique_values (n int, v text); INSERT INTO unique_values SELECT i, 'v' FROM generate_series(1, 5) i;
             CREATE TABLE equal_values (n int); INSERT INTO equal_values VALUES (1), (2), (2);
             CREATE TABLE some_null (n int); INSERT INTO some_null VALUES (1), (NULL);
             CREATE TABLE own_key (n int, v text); INSERT INTO own_key VALUES (1, 'v'), (2, 'v'), (3, 'v');",
        )
        .await
        .unwrap();
    let own = [NO_DATA, ("incremental.snapshot.chunk.size", "2"), ("message.key.columns", r"public\.own_key:v")];
    let mut running = start(&config(&server, &[&own[..], &TOLD].concat()), Log::default());
    is_streaming(&client).await;
    let data = r#"{"data-collections": ["public.keyed", "public.unique_values", "public.equal_values", "public.some_null", "public.own_key"],
                   "surrogate-key": "n"}"#;
    let answer = request(&running, "execute-snapshot", data).await;
    answered(&mut running, answer).await.unwrap();
    running.until(is_read).await;
    let log = running.stop().await;
    let read = |table: &str| log.lines().into_iter().filter(|line| line.starts_with(&format!("r public.{table} "))).count();
    assert_eq!([read("keyed"), read("unique_values"), read("some_null"), read("own_key")], [10, 5, 0, 3]);
    let ends: Vec<_> = told(&log).into_iter().filter(|line| line.starts_with("TABLE")).collect();
    assert_eq!(ends[..2], ["TABLE_SCAN_COMPLETED public.keyed 10 SUCCEEDED", "TABLE_SCAN_COMPLETED public.unique_values 5 SUCCEEDED"]);
    assert_eq!(
        ends[2..],
        [
            "TABLE_SCAN_COMPLETED public.equal_values 0 SQL_EXCEPTION",
            "TABLE_SCAN_COMPLETED public.some_null 0 SQL_EXCEPTION",
            "TABLE_SCAN_COMPLETED public.own_key 3 SUCCEEDED"
        ]
    );
}

#[tokio::test]
async fn a_commit_that_nobody_sees_yet_is_waited_for_before_a_table_is_read_again() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0);").await.unwrap();
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    crate::chunks::stall_commits(&client).await;
    let writer = server.connect("postgres").await.unwrap();
    let hanging = tokio::spawn(async move { writer.batch_execute("UPDATE t SET v = 1 WHERE id = 2").await.unwrap() });
    running.records(1).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.for_a_while(Duration::from_secs(1)).await;
    assert_eq!(running.log.lines(), ["u public.t {2} null->{2,1}"], "a read would find the row of before");
    crate::chunks::release_commits(&client).await;
    hanging.await.unwrap();
    running.until(is_read).await;
    assert_eq!(running.stop().await.lines()[1..], ["r public.t {1} null->{1,0}", "r public.t {2} null->{2,1}"]);
}

#[tokio::test]
async fn lines_of_a_file_are_signals() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signals.txt");
    let settings =
        [NO_DATA, ("signal.enabled.channels", "file"), ("signal.file", file.to_str().unwrap()), ("signal.poll.interval.ms", "50")];
    let mut running = start(&config(&server, &settings), Log::default());
    is_streaming(&client).await;
    std::fs::write(&file, r#"{"id": "1", "type": "execute-snapshot", "data": {"data-collections": ["public.t"]}}"#).unwrap();
    running.until(is_read).await;
    tokio::time::timeout(PATIENCE, async {
        while std::fs::read_dir(folder.path()).unwrap().next().is_some() {
            running.for_a_while(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("what is done is gone from the file");
    running.stop().await;
}

/// A row that needs more room than there is, beside a chunk that waits for the log to pass it.
#[tokio::test]
async fn i6_a_chunk_gives_way_where_the_log_needs_the_room() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i;",
        )
        .await
        .unwrap();
    let mut running = start_within(&config(&server, &[NO_DATA]), Log::default(), Arc::new(Tight::new(2 << 20)));
    is_streaming(&client).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("r "))).await;
    for id in 1..=3 {
        client.batch_execute(&format!("INSERT INTO t SELECT -{id}, repeat('y', 3000000)")).await.unwrap();
        running.until(|log| log.records.iter().any(|record| line(record).starts_with(&format!("c public.t {{-{id}}}")))).await;
    }
    running.until(is_read).await;
    let log = running.stop().await;
    assert_eq!(replica(&log, "public.t").len(), 20_003);
}

#[tokio::test]
async fn a_snapshot_that_is_stopped_while_all_rests_lets_the_next_one_begin() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    write_tables(&server, &client).await;
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    for (kind, data) in [
        (
            "execute-snapshot",
            r#"{"data-collections": ["public.a"], "additional-conditions": [{"data-collection": "public.a", "filter": "pg_sleep(0.01) IS NOT NULL"}]}"#,
        ),
        ("pause-snapshot", ""),
        ("stop-snapshot", ""),
        ("execute-snapshot", r#"{"data-collections": ["public.b"]}"#),
    ] {
        let answer = request(&running, kind, data).await;
        answered(&mut running, answer).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    running.until(|log| !is_asked_for(log) && log.lines().iter().any(|line| line.starts_with("r public.b"))).await;
    let log = running.stop().await;
    assert_eq!(log.lines().iter().filter(|line| line.starts_with("r public.b ")).count(), 100);
}

#[tokio::test]
async fn the_query_of_a_snapshot_that_is_stopped_is_cancelled() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    write_tables(&server, &client).await;
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    let data = r#"{"data-collections": ["public.a"],
                   "additional-conditions": [{"data-collection": "public.a", "filter": "pg_sleep(600) IS NOT NULL"}]}"#;
    let answer = request(&running, "execute-snapshot", data).await;
    answered(&mut running, answer).await.unwrap();
    let sleeps = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
    tokio::select! {
        () = running.until(|_| false) => {}
        () = eventually(&client, sleeps) => {}
    }
    let answer = request(&running, "stop-snapshot", "").await;
    answered(&mut running, answer).await.unwrap();
    eventually(&client, &sleeps.replace("SELECT EXISTS", "SELECT NOT EXISTS")).await;
    running.stop().await;
}

/// A second request while a first is under way reads the table again from its beginning.
#[tokio::test]
async fn a_table_may_be_asked_for_twice_and_a_stop_ends_only_what_it_names() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    write_tables(&server, &client).await;
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    for data in [r#"{"data-collections": ["public.a"]}"#, r#"{"data-collections": ["public.(a|b)"]}"#] {
        let answer = request(&running, "execute-snapshot", data).await;
        answered(&mut running, answer).await.unwrap();
    }
    running.until(|log| !is_asked_for(log) || log.lines().iter().any(|line| line.starts_with("r public.b"))).await;
    running.until(is_read).await;
    let log = running.stop().await;
    let read = |table: &str| log.lines().into_iter().filter(|line| line.starts_with(&format!("r public.{table} "))).count();
    assert_eq!([read("a"), read("b")], [200, 100]);
}

async fn write_tables(_: &PostgresServer, client: &Client) {
    for table in ["a", "b"] {
        let statement = format!("CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} SELECT generate_series(1, 100);");
        client.batch_execute(&statement).await.unwrap();
    }
}

#[tokio::test]
async fn a_column_that_came_since_the_start_is_read() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await.unwrap();
    let mut running = start(&config(&server, &[NO_DATA]), Log::default());
    is_streaming(&client).await;
    client.batch_execute("ALTER TABLE t ADD v int DEFAULT 7").await.unwrap();
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.until(is_read).await;
    assert_eq!(running.stop().await.lines(), ["r public.t {1} null->{1,7}"]);
}
