//! Transactions that the server sends while they are in progress: nothing of them is seen before their commit, and what is
//! seen then is what would have been seen of a whole one.

use std::time::Duration;

use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, config, eventually, server, start};

/// The server sends what does not fit into this.
const SETTINGS: &[(&str, &str)] = &[("logical_decoding_work_mem", "64kB")];
const STREAMING: [(&str, &str); 2] = [("transaction.streaming", "true"), ("snapshot.mode", "no_data")];

async fn with_tables() -> Option<(PostgresServer, Client)> {
    let server = server(SETTINGS).await?;
    let client = server.connect("postgres").await.expect("the server answers");
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)")
        .await
        .expect("the tables are new");
    Some((server, client))
}

fn insert(from: u32, to: u32) -> String {
    format!("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series({from}, {to}) i;")
}

/// Parts that the server has sent for its slot.
async fn parts(client: &Client) -> i64 {
    let row = client.query_one("SELECT coalesce(sum(stream_count), 0)::int8 FROM pg_stat_replication_slots", &[]).await;
    row.expect("the view is there").get(0)
}

fn created(from: u32, to: u32) -> impl Iterator<Item = String> {
    (from..=to).map(|id| format!("c public.t {{{id}}} null->{{{id},text of 200}}"))
}

#[tokio::test]
async fn only_what_is_committed_is_seen_and_each_transaction_whole() {
    let Some((server, client)) = with_tables().await else { return };
    let [one, two, three] =
        [server.connect("postgres").await.unwrap(), server.connect("postgres").await.unwrap(), server.connect("postgres").await.unwrap()];
    let mut running = start(&config(&server, &STREAMING), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    for session in [&one, &two, &three] {
        session.batch_execute("BEGIN").await.unwrap();
    }
    one.batch_execute(&insert(1, 1000)).await.unwrap();
    two.batch_execute(&insert(5001, 6000)).await.unwrap();
    three.batch_execute(&insert(9001, 9999)).await.unwrap();
    client.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    running.records(1).await;
    one.batch_execute(&format!("SAVEPOINT a; {} SAVEPOINT b; {}", insert(1001, 2000), insert(2001, 3000))).await.unwrap();
    one.batch_execute("ROLLBACK TO a; ALTER TABLE u ADD w int; INSERT INTO u VALUES (2, 3);").await.unwrap();
    one.batch_execute(&insert(3001, 3500)).await.unwrap();
    running.for_a_while(Duration::from_millis(500)).await;
    assert_eq!(running.log.lines(), ["c public.u {1} null->{1}"], "nothing of a transaction in progress");
    two.batch_execute("COMMIT").await.unwrap();
    three.batch_execute("ROLLBACK").await.unwrap();
    one.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("INSERT INTO u VALUES (3, 4)").await.unwrap();
    running.records(1 + 1000 + 1000 + 1 + 500 + 1).await;
    let lines = running.stop().await.lines();
    let expected: Vec<_> = std::iter::once("c public.u {1} null->{1}".to_owned())
        .chain(created(5001, 6000))
        .chain(created(1, 1000))
        .chain(["c public.u {2} null->{2,3}".to_owned()])
        .chain(created(3001, 3500))
        .chain(["c public.u {3} null->{3,4}".to_owned()])
        .collect();
    assert!(lines == expected, "{} lines, {} expected", lines.len(), expected.len());
    eventually(&client, "SELECT sum(stream_count) > 3 FROM pg_stat_replication_slots").await;
}

#[tokio::test]
async fn a_crash_at_any_point_repeats_nothing_whether_parts_are_sent_or_not() {
    let Some((server, client)) = with_tables().await else { return };
    let config_of = |streaming| config(&server, &[("transaction.streaming", streaming), ("snapshot.mode", "no_data")]);
    let mut running = start(&config_of("true"), Log::default());
    running.refuse_confirmation();
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    let inner = format!("SAVEPOINT a; {} ROLLBACK TO a;", insert(1001, 1500));
    client.batch_execute(&format!("BEGIN; {} {inner} UPDATE t SET id = -id; {} COMMIT", insert(1, 300), insert(2001, 2100))).await.unwrap();
    client.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    running.until(|log| log.lines().last().is_some_and(|line| line.starts_with("c public.u"))).await;
    let whole = running.crash().await;
    assert_eq!(whole.records.len(), 300 + 3 * 300 + 100 + 1);
    assert!(whole.points.len() > 8, "more than one batch: {}", whole.points.len());
    for point in 0..whole.points.len() {
        for streaming in ["true", "false"] {
            eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
            let mut running = start(&config_of(streaming), whole.after_crash(point));
            running.refuse_confirmation();
            running.records(whole.records.len()).await;
            running.for_a_while(Duration::from_millis(50)).await;
            let log = running.crash().await;
            assert!(log.lines() == whole.lines(), "after a crash behind batch {point} of {}, in parts: {streaming}", whole.points.len());
        }
    }
    assert!(parts(&client).await > 0);
}

/// What the server sends of a transaction in progress tells the messages of its subtransactions as its own, and after their abort it
/// sends them no more.
#[tokio::test]
async fn i3_messages_that_are_not_sent_again_after_a_crash_cost_no_row() {
    let Some((server, client)) = with_tables().await else { return };
    let config_of = |streaming| config(&server, &[("transaction.streaming", streaming), ("snapshot.mode", "no_data")]);
    let writer = server.connect("postgres").await.unwrap();
    let mut running = start(&config_of("true"), Log::default());
    running.refuse_confirmation();
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    let messages = "SELECT pg_logical_emit_message(true, 'p', i::text) FROM generate_series(1, 3) i;";
    writer.batch_execute(&format!("BEGIN; SAVEPOINT a; {messages} {}", insert(1001, 2000))).await.unwrap();
    // When this has come, all before it was decoded, and what did not fit was sent.
    client.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    running.records(1).await;
    assert!(parts(&client).await > 0);
    writer.batch_execute(&format!("ROLLBACK TO a; {} COMMIT; INSERT INTO u VALUES (2)", insert(1, 500))).await.unwrap();
    let is_whole = |log: &Log| log.lines().last().is_some_and(|line| line.starts_with("c public.u {2}"));
    let rows = |log: &Log| log.lines().into_iter().filter(|line| line.contains(" public.")).collect::<Vec<_>>();
    running.until(is_whole).await;
    let whole = running.crash().await;
    let expected: Vec<_> =
        ["c public.u {1} null->{1}".to_owned()].into_iter().chain(created(1, 500)).chain(["c public.u {2} null->{2}".to_owned()]).collect();
    assert!(rows(&whole) == expected);
    assert_eq!(whole.records.len(), expected.len() + 3, "the messages were counted");
    let cut_inside = (0..whole.points.len()).filter(|point| rows(&whole.after_crash(*point)).len() > 1);
    for point in cut_inside {
        for streaming in ["true", "false"] {
            eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
            let mut running = start(&config_of(streaming), whole.after_crash(point));
            running.refuse_confirmation();
            running.until(is_whole).await;
            let log = running.crash().await;
            assert!(rows(&log) == expected, "after a crash behind batch {point} of {}, in parts: {streaming}", whole.points.len());
        }
    }
}

/// If what they left took room for ever, the third would find none, and no more parts would be sent.
#[tokio::test]
async fn what_killed_sessions_left_takes_no_room() {
    let Some((server, client)) = with_tables().await else { return };
    let settings = [&STREAMING[..], &[("spill.max.bytes", "600000")]].concat();
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    for round in 1..=5 {
        let before = parts(&client).await;
        let session = server.connect("postgres").await.unwrap();
        session.batch_execute(&format!("BEGIN; {}", insert(1, 1000))).await.unwrap();
        // A server that knows by then that it is over sends none of it (PostgreSQL 18).
        eventually(&client, &format!("SELECT sum(stream_count) > {before} FROM pg_stat_replication_slots")).await;
        client.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'").await.unwrap();
        client.batch_execute(&format!("INSERT INTO u VALUES ({round})")).await.unwrap();
        running.records(round).await;
    }
    assert!(running.stop().await.lines().iter().all(|line| line.starts_with("c public.u ")));
}

#[tokio::test]
async fn where_there_is_no_room_the_server_keeps_what_is_in_progress() {
    let Some((server, client)) = with_tables().await else { return };
    let settings = [&STREAMING[..], &[("spill.max.bytes", "100000")]].concat();
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    client.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    client.batch_execute(&insert(1, 3000)).await.unwrap();
    client.batch_execute("INSERT INTO u VALUES (2)").await.unwrap();
    running.records(3002).await;
    let expected: Vec<_> = std::iter::once("c public.u {1} null->{1}".to_owned())
        .chain(created(1, 3000))
        .chain(["c public.u {2} null->{2}".to_owned()])
        .collect();
    assert!(running.stop().await.lines() == expected);
}
