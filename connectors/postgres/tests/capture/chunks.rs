//! Reading tables in chunks while the log is followed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tailwater_api::envelope::{Envelope, Operation, SNAPSHOT_BRINGS_ROW};
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, config, eventually, line, server, show, start};
use crate::signals::is_asked_for;

const WATERMARK: (&str, &str) = ("snapshot.strategy", "watermark");
/// Transactions are sent while they are in progress, where they do not fit into what the server keeps of them.
const IN_PROGRESS: (&str, &str) = ("transaction.streaming", "true");
const SMALL_MEMORY: (&str, &str) = ("logical_decoding_work_mem", "64kB");

/// What a target holds that takes the records in their order.
pub(crate) fn replica(log: &Log, table: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for record in log.records.iter().filter(|record| record.topic.ends_with(table)) {
        let Some(envelope) = Envelope::of(record) else { continue };
        let key = show(&record.key.value);
        match envelope.operation() {
            Operation::Delete => drop(rows.remove(&key)),
            Operation::Truncate => rows.clear(),
            Operation::Create | Operation::Update | Operation::Read | Operation::Message => drop(rows.insert(key, show(envelope.after()))),
        }
    }
    rows
}

pub(crate) async fn original(client: &Client, table: &str) -> BTreeMap<String, String> {
    let rows = client.query(&format!("SELECT format('{{%s,%s}}', a, b), format('{{%s,%s,%s}}', a, b, v) FROM {table}"), &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A table whose key has two columns, ordered by a collation that is not that of octets.
pub(crate) const TABLE: &str = "CREATE TABLE t (a int, b text, v int, filler text, PRIMARY KEY (b, a));
     INSERT INTO t SELECT i, chr(65 + i % 60), 0, '' FROM generate_series(1, 6000) i;
     ALTER TABLE t DROP filler;";

pub(crate) async fn write_at_random(client: Client, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let statements = format!(
            "UPDATE t SET v = {round} WHERE a % 97 = {round} % 97;
             DELETE FROM t WHERE a % 389 = {round} % 389;
             INSERT INTO t VALUES ({round} + 100000, 'Z', {round}), ({round} + 100000, 'a', {round});
             UPDATE t SET b = 'a' || b WHERE a % 491 = {round} % 491;
             UPDATE t SET v = -{round} WHERE a % 7 = {round} % 20;"
        );
        client.batch_execute(&statements).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

pub(crate) fn is_complete(log: &Log) -> bool {
    let text = log.state.iter().map(|(_, offset)| serde_json::Value::Object(offset.clone()).to_string()).collect::<String>();
    text.contains("complete\"") && !text.contains("\"reading\"")
}

#[tokio::test]
async fn a_table_read_in_chunks_under_writers_and_crashes_ends_equal() {
    let Some(server) = server(&[]).await else { return };
    ends_equal(&server, &[WATERMARK]).await;
}

#[tokio::test]
async fn so_it_does_where_transactions_are_sent_in_progress() {
    let Some(server) = server(&[SMALL_MEMORY]).await else { return };
    ends_equal(&server, &[WATERMARK, IN_PROGRESS]).await;
    let client = server.connect("postgres").await.unwrap();
    eventually(&client, "SELECT sum(stream_count) > 0 FROM pg_stat_replication_slots").await;
}

#[tokio::test]
async fn so_it_does_where_there_is_no_room_for_them() {
    let Some(server) = server(&[SMALL_MEMORY]).await else { return };
    ends_equal(&server, &[WATERMARK, IN_PROGRESS, ("spill.max.bytes", "20000")]).await;
    let client = server.connect("postgres").await.unwrap();
    // First they were sent while they were in progress, and when that did not fit, the server kept others.
    eventually(&client, "SELECT sum(stream_txns) > 0 AND sum(spill_txns) > 0 FROM pg_stat_replication_slots").await;
}

async fn ends_equal(server: &PostgresServer, settings: &[(&str, &str)]) {
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    client.batch_execute("CREATE TABLE keyless (a int); INSERT INTO keyless VALUES (1), (2);").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_at_random(server.connect("postgres").await.unwrap(), stop.clone()));
    let config = config(server, settings);
    let mut log = Log::default();
    for _ in 0..3 {
        let known = log.records.iter().filter(|record| line(record).starts_with("r public.t ")).count();
        let mut running = start(&config, log);
        running
            .until(|log| is_complete(log) || log.records.iter().filter(|record| line(record).starts_with("r public.t ")).count() > known)
            .await;
        log = running.crash().await;
    }
    let mut running = start(&config, log);
    running.until(is_complete).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (0, 'end', 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{end,0}"))).await;
    let log = running.stop().await;
    // The key of a record has the order of the key's index.
    let swapped =
        |rows: BTreeMap<String, String>| -> BTreeMap<String, String> { rows.into_values().map(|row| (row.clone(), row)).collect() };
    assert_eq!(swapped(replica(&log, "public.t")), swapped(original(&client, "t").await));
    assert_eq!(log.lines().iter().filter(|line| line.starts_with("r public.keyless")).count(), 2);
}

/// From now on commits wait for a standby that there is not.
pub(crate) async fn stall_commits(client: &Client) {
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually(client, "SELECT current_setting('synchronous_standby_names') = 'nobody'").await;
}

pub(crate) async fn release_commits(client: &Client) {
    client.batch_execute("SET synchronous_commit = local").await.unwrap();
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Reads a table of 20,000 rows until the first are there, then updates the last ones, by `updated`, by a commit that hangs:
/// it stands in the log, and nobody sees it. Rows that are `large` hold a value that it does not tell. Returns when the event of the last row was emitted.
async fn with_an_invisible_update(
    server: &PostgresServer,
    client: &Client,
    settings: &[(&str, &str)],
    updated: &'static str,
    large: &str,
) -> (crate::harness::Running, tokio::task::JoinHandle<()>) {
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int, filler text); ALTER TABLE t ALTER filler SET STORAGE EXTERNAL;
             INSERT INTO t SELECT i, 0, repeat('x', CASE WHEN {large} THEN 5000 ELSE 500 END) FROM generate_series(1, 20000) i;"
        ))
        .await
        .unwrap();
    // The last rows are read by a read of their own.
    let settings = [settings, &[("incremental.snapshot.chunk.size", "500")]].concat();
    let mut running = start(&config(server, &settings), Log::default());
    // Nobody takes more batches, so the reader stands still.
    running.until(|log| !log.records.is_empty()).await;
    stall_commits(client).await;
    let writer = server.connect("postgres").await.unwrap();
    let hanging = tokio::spawn(async move { writer.batch_execute(&format!("UPDATE t SET v = 1 WHERE {updated}")).await.unwrap() });
    eventually(client, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')").await;
    running
        .until(|log| log.records.iter().any(|record| line(record).starts_with("u public.t ") && line(record).contains("->{20000,")))
        .await;
    (running, hanging)
}

const NONE: &str = "false";

/// The values of the last row, in their order.
fn of_the_last_row(log: &Log) -> Vec<String> {
    let lines = log.lines().into_iter().filter(|line| line.contains("->{20000,"));
    lines.map(|line| line[..1].to_owned() + if line.contains("{20000,1,") { "1" } else { "0" }).collect()
}

#[tokio::test]
async fn a_commit_in_the_log_that_no_read_sees_yet_is_not_followed_by_its_older_row() {
    // The second key is one that the update changes, and the log does not tell what it was.
    for key in ["", "public[.]t:v"] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        let settings = [WATERMARK, ("message.key.columns", key)];
        let (mut running, hanging) = with_an_invisible_update(&server, &client, &settings, "id = 20000", NONE).await;
        running.until(is_complete).await;
        release_commits(&client).await;
        hanging.await.unwrap();
        let log = running.stop().await;
        assert_eq!(of_the_last_row(&log), ["u1"], "{key}");
        assert_eq!(log.records.len(), 20_000, "each other row once");
    }
}

#[tokio::test]
async fn i8_a_large_value_that_such_a_commit_left_as_it_was_is_read_and_stands_beside_what_the_commit_says() {
    // The key of the records may be what the commit changed. Then a row that was read may have gone by that.
    for (key, of_last_row, is_brought) in [("", "{20000}", true), ("public[.]t:v", "{1}", false)] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        let settings = [WATERMARK, ("message.key.columns", key)];
        let (mut running, hanging) = with_an_invisible_update(&server, &client, &settings, "id > 19990", "i > 19995").await;
        running.until(is_complete).await;
        release_commits(&client).await;
        hanging.await.unwrap();
        let log = running.stop().await;
        let of_row = |id: u32| log.records.iter().filter(|record| line(record).contains(&format!("->{{{id},"))).collect::<Vec<_>>();
        let lines: Vec<_> = of_row(20_000).into_iter().map(line).collect();
        let update = format!("u public.t {of_last_row} null->{{20000,1,unchanged}}");
        assert_eq!(lines, [update, format!("r public.t {of_last_row} null->{{20000,1,text of 5000}}")]);
        assert_eq!(of_row(19_991).len(), 1, "of another one the commit says all");
        assert_eq!(log.records.len(), 20_005);
        let marked = |id| of_row(id).into_iter().map(|record| record.headers.last(SNAPSHOT_BRINGS_ROW).is_some()).collect::<Vec<_>>();
        assert_eq!((marked(20_000), marked(19_991)), (vec![is_brought, false], vec![false]), "a copy may leave out what the row follows");
    }
}

#[tokio::test]
async fn an_update_that_no_event_tells_of_takes_no_row_from_a_read_that_does_not_see_it() {
    let unchanged = [("skip.messages.without.change", "true"), ("column.exclude.list", "public[.]t[.]hot")];
    for filter in [&unchanged[..], &[("skipped.operations", "u")]] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE t (id int PRIMARY KEY, filler text, hot int); ALTER TABLE t REPLICA IDENTITY FULL; CREATE TABLE told (id int PRIMARY KEY);
                 INSERT INTO t SELECT i, repeat('x', 500), 0 FROM generate_series(1, 20000) i; CREATE PUBLICATION shop FOR ALL TABLES;",
            )
            .await
            .unwrap();
        let settings =
            [filter, &[WATERMARK, ("incremental.snapshot.chunk.size", "500"), ("publication.autocreate.mode", "disabled")]].concat();
        let mut running = start(&config(&server, &settings), Log::default());
        // Nobody takes more batches, so the reader stands still.
        running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.t "))).await;
        stall_commits(&client).await;
        let writer = server.connect("postgres").await.unwrap();
        let update = "BEGIN; UPDATE t SET hot = 1 WHERE id = 20000; INSERT INTO told VALUES (1); COMMIT";
        let hanging = tokio::spawn(async move { writer.batch_execute(update).await.unwrap() });
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.told"))).await;
        assert!(!is_complete(&running.log), "the update comes before the last chunk");
        running.until(is_complete).await;
        release_commits(&client).await;
        hanging.await.unwrap();
        let log = running.stop().await;
        let read: Vec<_> = log.lines().into_iter().filter(|line| line.starts_with("r public.t ") && line.contains(" {20000}")).collect();
        assert_eq!(read.len(), 1, "{filter:?}");
    }
}

#[tokio::test]
async fn nor_is_one_that_was_sent_while_it_was_in_progress() {
    let Some(server) = server(&[SMALL_MEMORY]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let (mut running, hanging) = with_an_invisible_update(&server, &client, &[WATERMARK, IN_PROGRESS], "id > 18000", NONE).await;
    // One that began later and has ended: from now on a snapshot lists the other among those that run.
    client.batch_execute("SET synchronous_commit = local").await.unwrap();
    client.batch_execute("CREATE TABLE later (a int)").await.unwrap();
    eventually(&client, "SELECT sum(stream_count) > 0 FROM pg_stat_replication_slots").await;
    running.until(is_complete).await;
    release_commits(&client).await;
    hanging.await.unwrap();
    let log = running.stop().await;
    assert_eq!(of_the_last_row(&log), ["u1"]);
    assert_eq!(log.records.len(), 20_000, "each row once, read or updated");
}

#[tokio::test]
async fn after_a_restart_reads_wait_until_such_a_commit_is_visible() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let (running, hanging) = with_an_invisible_update(&server, &client, &[WATERMARK], "id = 20000", NONE).await;
    let log = running.crash().await;
    assert!(!is_complete(&log), "the crash is before the last chunk");
    let known = log.records.len();
    let mut running = start(&config(&server, &[WATERMARK]), log);
    running.for_a_while(Duration::from_secs(2)).await;
    assert_eq!(running.log.records.len(), known, "nothing is read while the commit is invisible and its keys unknown");
    release_commits(&client).await;
    hanging.await.unwrap();
    running.until(is_complete).await;
    assert_eq!(of_the_last_row(&running.stop().await), ["u1", "r1"]);
}

/// A table of which chunks are read, of many.
const ROWS: &str =
    "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL, v text); INSERT INTO t SELECT i, -i, '' FROM generate_series(1, 3000) i;";
const SMALL_CHUNKS: (&str, &str) = ("incremental.snapshot.chunk.size", "100");

#[tokio::test]
async fn a_key_that_changes_between_two_chunks_begins_the_table_anew() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(ROWS).await.unwrap();
    let mut running = start(&config(&server, &[WATERMARK, SMALL_CHUNKS]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    client.batch_execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b); INSERT INTO t VALUES (0, 1, 'end');").await.unwrap();
    running.until(|log| is_complete(log) && log.lines().iter().any(|line| line.contains("{0,1,end}"))).await;
    let log = running.stop().await;
    let by_new_key = |line: &&String| line.starts_with("r public.t {-");
    assert_eq!(log.lines().iter().filter(by_new_key).count(), 3000, "whatever was read by the old one");
    assert!(log.lines().iter().any(|line| line.starts_with("r public.t {1} ")), "it had begun");
}

#[tokio::test]
async fn i9_a_key_whose_collation_changes_between_two_chunks_begins_the_table_anew() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    // All that is read first would stand behind all others.
    client
        .batch_execute(
            "CREATE TABLE t (a text COLLATE \"C\" PRIMARY KEY);
             INSERT INTO t SELECT 'B' || i FROM generate_series(1, 1500) i; INSERT INTO t SELECT 'a' || i FROM generate_series(1, 1500) i;",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[WATERMARK, SMALL_CHUNKS]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    client.batch_execute("ALTER TABLE t ALTER a TYPE text COLLATE \"und-x-icu\"").await.unwrap();
    assert!(!is_complete(&running.log));
    running.until(is_complete).await;
    let log = running.stop().await;
    let keys: std::collections::BTreeSet<_> = log.records.iter().map(|record| show(&record.key.value)).collect();
    assert_eq!(keys.len(), 3000);
}

#[tokio::test]
async fn a_table_whose_key_is_dropped_between_two_chunks_is_read_while_the_log_rests() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(ROWS).await.unwrap();
    let config = config(&server, &[WATERMARK, SMALL_CHUNKS]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.records.is_empty()).await;
    client.batch_execute("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (0, 1, 'meanwhile');").await.unwrap();
    running.until(is_asked_for).await;
    // It is owed over a crash, too.
    let mut running = start(&config, running.crash().await);
    running.until(|log| !is_asked_for(log)).await;
    assert!(is_complete(&running.log));
    client.batch_execute("INSERT INTO t VALUES (3001, 1, 'end')").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{3001,1,end}"))).await;
    let lines = running.stop().await.lines();
    let whole = lines.iter().filter(|line| line.starts_with("r public.t null ")).count();
    assert_eq!(whole, 3001);
}

#[tokio::test]
async fn a_backlog_that_comes_while_a_table_is_read_costs_neither_rows_nor_the_snapshot() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (a int, b text, v int, PRIMARY KEY (a, b)); INSERT INTO t SELECT i, 'x', 0 FROM generate_series(1, 20000) i;",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[WATERMARK]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    // More keys than are remembered.
    client
        .batch_execute("INSERT INTO t SELECT i, 'y', 1 FROM generate_series(1, 80000) i; UPDATE t SET v = 2 WHERE b = 'x';")
        .await
        .unwrap();
    running.until(is_complete).await;
    client.batch_execute("INSERT INTO t VALUES (0, 'end', 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{0,end,0}"))).await;
    let log = running.stop().await;
    assert!(replica(&log, "public.t") == original(&client, "t").await);
}

#[tokio::test]
async fn several_tables_are_read_at_once_and_end_equal() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLE).await.unwrap();
    for table in ["one", "two"] {
        let statement = format!(
            "CREATE TABLE {table} (a int, b text, v int, PRIMARY KEY (a, b)); INSERT INTO {table} SELECT i, 'x', 0 FROM generate_series(1, 6000) i;"
        );
        client.batch_execute(&statement).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_at_random(server.connect("postgres").await.unwrap(), stop.clone()));
    let settings = [WATERMARK, ("snapshot.max.threads", "2"), ("incremental.snapshot.chunk.size", "500")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(is_complete).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (0, 'end', 0)").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{end,0}"))).await;
    let log = running.stop().await;
    let lines = log.lines();
    let read = |table: &str| lines.iter().position(|line| line.starts_with(&format!("r public.{table} ")));
    let last = lines.iter().rposition(|line| line.starts_with("r public.one "));
    assert!(read("t") < last, "the second table is begun before the first is complete");
    let rows = |rows: BTreeMap<String, String>| rows.into_values().collect::<std::collections::BTreeSet<_>>();
    for table in ["t", "one", "two"] {
        assert_eq!(rows(replica(&log, &format!("public.{table}"))), rows(original(&client, table).await), "{table}");
    }
}

#[tokio::test]
async fn a_table_rewritten_between_two_chunks_loses_no_row() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int, filler text); INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1, 20000) i;")
        .await
        .unwrap();
    let mut running = start(&config(&server, &[WATERMARK]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    client.batch_execute("ALTER TABLE t ALTER v TYPE bigint; UPDATE t SET v = -v WHERE id % 1000 = 0;").await.unwrap();
    running.until(is_complete).await;
    client.batch_execute("INSERT INTO t VALUES (0, 0, '')").await.unwrap();
    running.until(|log| log.records.last().is_some_and(|record| line(record).contains("{0}"))).await;
    let log = running.stop().await;
    let copy = replica(&log, "public.t");
    assert_eq!(copy.len(), 20_001);
    assert!((1..=20).all(|n| copy[&format!("{{{}}}", n * 1000)].starts_with(&format!("{{{},-{},", n * 1000, n * 1000))));
}

#[tokio::test]
async fn a_table_that_is_rewritten_again_and_again_between_chunks_loses_no_row() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int, filler text); INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1, 20000) i;")
        .await
        .unwrap();
    let rewriter = server.connect("postgres").await.unwrap();
    let mut running = start(&config(&server, &[WATERMARK]), Log::default());
    running.until(|log| !log.records.is_empty()).await;
    // Most chunks find the table locked, and have the lock when the rewriting transaction has ended.
    let rewriting = tokio::spawn(async move {
        for _ in 0..8 {
            rewriter.batch_execute("ALTER TABLE t ALTER v TYPE bigint; ALTER TABLE t ALTER v TYPE int").await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    running.until(is_complete).await;
    rewriting.await.unwrap();
    let log = running.stop().await;
    assert_eq!(replica(&log, "public.t").len(), 20_000);
}
