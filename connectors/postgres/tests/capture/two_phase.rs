//! Transactions that are committed in two phases and sent when they are prepared: nothing of them is seen before their
//! `COMMIT PREPARED`, nothing is lost or comes twice over crashes, and the server is confirmed nothing that it would have to send
//! again.

use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, Running, config, eventually, server, start};

/// The server sends in parts what does not fit into this.
const SETTINGS: &[(&str, &str)] = &[("max_prepared_transactions", "20"), ("logical_decoding_work_mem", "64kB")];
const TWO_PHASE: (&str, &str) = ("transaction.two.phase", "true");
const NO_DATA: (&str, &str) = ("snapshot.mode", "no_data");
const ACTIVE: &str = "SELECT bool_or(active) FROM pg_replication_slots";
const NOBODY: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";

async fn with_tables() -> Option<(PostgresServer, Client)> {
    let server = server(SETTINGS).await?;
    let client = server.connect("postgres").await.expect("the server answers");
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE w (id int PRIMARY KEY)";
    client.batch_execute(tables).await.expect("the tables are new");
    Some((server, client))
}

/// Makes each transaction of a list, one statement list each; those that name a gid are prepared.
async fn execute(client: &Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

fn insert(from: u32, to: u32) -> String {
    format!("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series({from}, {to}) i;")
}

fn created(from: u32, to: u32) -> impl Iterator<Item = String> {
    (from..=to).map(|id| format!("c public.t {{{id}}} null->{{{id},text of 200}}"))
}

fn prepared(statements: &str, gid: &str) -> String {
    format!("BEGIN; {statements} PREPARE TRANSACTION '{gid}'")
}

async fn streaming(client: &Client, running: &mut Running) {
    running.until(|log| !log.state.is_empty()).await;
    eventually(client, ACTIVE).await;
}

/// Waits until the end of what is written is followed and durable, whatever holds the confirmed place back.
async fn followed(client: &Client, running: &mut Running) {
    let end: i64 = client.query_one("SELECT (pg_current_wal_lsn() - '0/0')::int8", &[]).await.unwrap().get(0);
    running
        .until(|log| {
            let place = |key: &str| log.state.iter().filter_map(|(_, offset)| offset.get(key)?.as_i64()).max();
            place("tailwater.through").max(place("tailwater.resume")) >= Some(end)
        })
        .await;
}

#[tokio::test]
async fn nothing_is_seen_of_a_prepared_transaction_before_its_commit_nor_of_one_that_is_rolled_back() {
    let Some((server, client)) = with_tables().await else { return };
    for in_progress in ["false", "true"] {
        let settings = [TWO_PHASE, NO_DATA, ("transaction.streaming", in_progress), ("slot.drop.on.stop", "true")];
        let mut running = start(&config(&server, &settings), Log::default());
        streaming(&client, &mut running).await;
        // The large one comes in parts where that is asked for.
        execute(
            &client,
            &[
                &prepared(
                    &format!("{} SAVEPOINT s; {} ROLLBACK TO s; {}", insert(1, 1000), insert(2001, 2600), insert(3001, 3010)),
                    "large",
                ),
                &prepared("INSERT INTO u VALUES (1), (2);", "small"),
                &prepared(&format!("INSERT INTO w VALUES (1); {}", insert(5001, 6000)), "gone"),
                &prepared("", "empty"),
                "INSERT INTO u VALUES (3)",
            ],
        )
        .await;
        running.records(1).await;
        followed(&client, &mut running).await;
        assert_eq!(running.log.lines(), ["c public.u {3} null->{3}"], "in parts: {in_progress}");
        execute(&client, &["ROLLBACK PREPARED 'gone'", "COMMIT PREPARED 'small'"]).await;
        execute(&client, &["INSERT INTO w VALUES (2)", "COMMIT PREPARED 'large'", "COMMIT PREPARED 'empty'", "INSERT INTO w VALUES (3)"])
            .await;
        let expected: Vec<_> =
            ["c public.u {3} null->{3}", "c public.u {1} null->{1}", "c public.u {2} null->{2}", "c public.w {2} null->{2}"]
                .into_iter()
                .map(str::to_owned)
                .chain(created(1, 1000))
                .chain(created(3001, 3010))
                .chain(["c public.w {3} null->{3}".to_owned()])
                .collect();
        running.records(expected.len()).await;
        // No prepared transaction holds the confirmed place back any more (I5).
        followed(&client, &mut running).await;
        let log = running.stop().await;
        assert!(log.lines() == expected, "in parts: {in_progress}: {} lines, {} expected", log.lines().len(), expected.len());
        assert!(!format!("{:?}", log.state).contains("tailwater.through"), "{:?}", log.state);
        execute(&client, &["TRUNCATE t, u, w"]).await;
    }
}

#[tokio::test]
async fn a_crash_at_any_point_around_prepared_transactions_repeats_nothing() {
    let Some((server, client)) = with_tables().await else { return };
    let config_of = |in_progress| config(&server, &[TWO_PHASE, NO_DATA, ("transaction.streaming", in_progress)]);
    let mut running = start(&config_of("false"), Log::default());
    running.refuse_confirmation();
    streaming(&client, &mut running).await;
    execute(
        &client,
        &[
            "INSERT INTO u VALUES (1)",
            &prepared(&insert(1, 300), "a"),
            "INSERT INTO u VALUES (2)",
            &prepared("INSERT INTO w VALUES (1);", "b"),
            &format!("BEGIN; {} UPDATE t SET id = -id WHERE id > 1000; COMMIT", insert(1001, 1200)),
            "SELECT pg_logical_emit_message(false, 'm', 'x')",
            "COMMIT PREPARED 'b'",
            &prepared("INSERT INTO w VALUES (2);", "c"),
            &prepared("INSERT INTO w VALUES (3);", "d"),
            "INSERT INTO u VALUES (3)",
            "ROLLBACK PREPARED 'c'",
            "COMMIT PREPARED 'a'",
            "INSERT INTO u VALUES (4)",
            "COMMIT PREPARED 'd'",
            "INSERT INTO u VALUES (5)",
        ],
    )
    .await;
    running.until(|log| log.lines().last().is_some_and(|line| line.starts_with("c public.u {5}"))).await;
    let whole = running.crash().await;
    assert_eq!(whole.records.len(), 5 + 300 + 2 + 4 * 200 + 1);
    let holds_back = whole.points.iter().filter(|(_, state)| format!("{state:?}").contains("tailwater.through")).count();
    assert!(holds_back > 3 && whole.points.len() > 6, "{holds_back} of {}", whole.points.len());
    for point in 0..whole.points.len() {
        for in_progress in ["false", "true"] {
            eventually(&client, NOBODY).await;
            let mut running = start(&config_of(in_progress), whole.after_crash(point));
            running.refuse_confirmation();
            running.records(whole.records.len()).await;
            running.for_a_while(Duration::from_millis(50)).await;
            let log = running.crash().await;
            assert!(log.lines() == whole.lines(), "after a crash behind batch {point} of {}, in parts: {in_progress}", whole.points.len());
        }
    }
}

#[tokio::test]
async fn what_was_prepared_before_a_restart_is_captured_when_it_is_committed_behind_it() {
    let Some((mut server, client)) = with_tables().await else { return };
    let config = config(&server, &[TWO_PHASE, NO_DATA]);
    let mut running = start(&config, Log::default());
    streaming(&client, &mut running).await;
    execute(&client, &[&prepared(&insert(1, 50), "a"), "INSERT INTO u VALUES (1)"]).await;
    running.records(1).await;
    followed(&client, &mut running).await;
    let log = running.stop().await;
    eventually(&client, NOBODY).await;
    // All that is durable was confirmed, and the server must have it all the same.
    let mut running = start(&config, log);
    streaming(&client, &mut running).await;
    execute(&client, &["INSERT INTO u VALUES (2)"]).await;
    running.records(2).await;
    followed(&client, &mut running).await;
    // A server that shuts down waits for its readers; what is held back must not keep it.
    let log = running.crash().await;
    let running = start(&config, log);
    eventually(&client, ACTIVE).await;
    let stopping = tokio::task::spawn_blocking(move || {
        server.stop().unwrap();
        server
    });
    let (ended, log) = running.ended().await;
    assert!(matches!(ended.unwrap_err().kind(), ErrorKind::Restarting | ErrorKind::Unreachable));
    let mut server = stopping.await.unwrap();
    server.start_again().await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    let mut running = start(&crate::harness::config(&server, &[TWO_PHASE, NO_DATA]), log);
    eventually(&client, ACTIVE).await;
    execute(&client, &["COMMIT PREPARED 'a'", "INSERT INTO u VALUES (3)"]).await;
    running.records(53).await;
    let expected: Vec<_> = ["c public.u {1} null->{1}".to_owned(), "c public.u {2} null->{2}".to_owned()]
        .into_iter()
        .chain(created(1, 50))
        .chain(["c public.u {3} null->{3}".to_owned()])
        .collect();
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn tables_first_described_in_a_prepared_transaction_are_known_to_others() {
    let Some((server, client)) = with_tables().await else { return };
    let mut running = start(&config(&server, &[TWO_PHASE, NO_DATA]), Log::default());
    streaming(&client, &mut running).await;
    execute(
        &client,
        &[
            // The server describes each table once, in transactions that are not committed.
            &prepared("INSERT INTO u VALUES (1); INSERT INTO w VALUES (1);", "one"),
            &prepared("INSERT INTO u VALUES (2); INSERT INTO t VALUES (2, 'a');", "two"),
            "INSERT INTO u VALUES (3)",
            "UPDATE w SET id = 5 WHERE false; INSERT INTO w VALUES (4)",
            "ROLLBACK PREPARED 'one'",
            "COMMIT PREPARED 'two'",
            "TRUNCATE t",
            // Definitions that are rolled back, and that are not.
            &prepared("ALTER TABLE u ADD x int DEFAULT 7; INSERT INTO u VALUES (8, 8); CREATE TABLE n (id int PRIMARY KEY); INSERT INTO n VALUES (1);", "gone"),
            "ROLLBACK PREPARED 'gone'",
            "INSERT INTO u VALUES (9)",
            &prepared("ALTER TABLE u ADD y int; INSERT INTO u VALUES (10, 11); CREATE TABLE n (id text PRIMARY KEY); INSERT INTO n VALUES ('1');", "kept"),
            "INSERT INTO w VALUES (6)",
            "COMMIT PREPARED 'kept'",
            "INSERT INTO u VALUES (12, 13)",
            "INSERT INTO n VALUES ('2')",
        ],
    )
    .await;
    let expected = [
        "c public.u {3} null->{3}",
        "c public.w {4} null->{4}",
        "c public.u {2} null->{2}",
        "c public.t {2} null->{2,a}",
        "c public.u {9} null->{9}",
        "c public.w {6} null->{6}",
        "c public.u {10} null->{10,11}",
        "c public.n {1} null->{1}",
        "c public.u {12} null->{12,13}",
        "c public.n {2} null->{2}",
    ];
    running.records(expected.len()).await;
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn words_about_tables_that_came_after_a_preparation_hold_behind_its_commit() {
    let Some((server, client)) = with_tables().await else { return };
    execute(
        &client,
        &[
            "CREATE SCHEMA s; CREATE TABLE s.named (id int PRIMARY KEY); CREATE TABLE cut (id int PRIMARY KEY, b text, c text)",
            "CREATE PUBLICATION dbz_publication FOR TABLE t, u, s.named, cut (id, b)",
        ],
    )
    .await;
    let entries = [
        TWO_PHASE,
        NO_DATA,
        ("transaction.streaming", "true"),
        ("publication.name", "dbz_publication"),
        ("publication.autocreate.mode", "disabled"),
        ("table.include.list", "public[.].*,s2?[.].*"),
    ];
    let mut running = start(&config(&server, &entries), Log::default());
    streaming(&client, &mut running).await;
    let large = insert(1, 1000);
    execute(
        &client,
        &[
            "INSERT INTO cut VALUES (1, 'b', 'c')",
            // What was said of it before the preparation holds for it.
            &prepared("INSERT INTO s.named VALUES (1); INSERT INTO cut VALUES (2, 'b', 'c');", "one"),
            &prepared(&format!("SAVEPOINT s; {large} ROLLBACK TO s; INSERT INTO u VALUES (1);"), "two"),
            "ALTER SCHEMA s RENAME TO s2",
            // Of the schema's name alone older servers do not tell.
            "ALTER PUBLICATION dbz_publication SET TABLE t, u, s2.named, cut (id, c)",
            "INSERT INTO s2.named VALUES (2)",
            "INSERT INTO cut VALUES (3, 'b', 'c')",
            "ALTER TABLE t RENAME v TO renamed; ALTER TABLE t ADD more int",
            "INSERT INTO t VALUES (1, 'r', 5)",
            "COMMIT PREPARED 'one'",
            "COMMIT PREPARED 'two'",
            "INSERT INTO s2.named VALUES (3)",
            "INSERT INTO cut VALUES (4, 'b', 'c')",
            "INSERT INTO t VALUES (2, 'r', 6)",
        ],
    )
    .await;
    let expected = [
        "c public.cut {1} null->{1,b}",
        "c s2.named {2} null->{2}",
        "c public.cut {3} null->{3,c}",
        "c public.t {1} null->{1,r,5}",
        "c s.named {1} null->{1}",
        "c public.cut {2} null->{2,b}",
        "c public.u {1} null->{1}",
        "c s2.named {3} null->{3}",
        "c public.cut {4} null->{4,c}",
        "c public.t {2} null->{2,r,6}",
    ];
    running.records(expected.len()).await;
    let log = running.stop().await;
    assert_eq!(log.lines(), expected);
}

#[tokio::test]
async fn a_slot_is_switched_to_two_phases_with_what_was_prepared_before_and_not_back() {
    let Some((server, client)) = with_tables().await else { return };
    let one_phase = config(&server, &[NO_DATA]);
    let two_phases = config(&server, &[NO_DATA, TWO_PHASE]);
    let mut running = start(&one_phase, Log::default());
    streaming(&client, &mut running).await;
    execute(&client, &[&prepared("INSERT INTO u VALUES (1);", "before"), "INSERT INTO u VALUES (2)"]).await;
    running.records(1).await;
    followed(&client, &mut running).await;
    let log = running.stop().await;
    eventually(&client, NOBODY).await;
    execute(&client, &[&prepared("INSERT INTO u VALUES (3);", "between")]).await;
    let mut running = start(&two_phases, log);
    eventually(&client, "SELECT bool_or(two_phase) FROM pg_replication_slots").await;
    execute(&client, &["COMMIT PREPARED 'between'", "COMMIT PREPARED 'before'", "INSERT INTO u VALUES (4)"]).await;
    running.records(4).await;
    let log = running.stop().await;
    let expected = ["c public.u {2} null->{2}", "c public.u {3} null->{3}", "c public.u {1} null->{1}", "c public.u {4} null->{4}"];
    assert_eq!(log.lines(), expected);
    eventually(&client, NOBODY).await;
    let error = start(&one_phase, log).failed().await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("transaction.two.phase") && mend.contains("pg_drop_replication_slot('shop')")));
}

#[tokio::test]
async fn changes_that_somebody_else_took_from_the_slot_are_missed_when_they_are_committed() {
    let Some((server, client)) = with_tables().await else { return };
    let config = config(&server, &[NO_DATA, TWO_PHASE]);
    let mut running = start(&config, Log::default());
    streaming(&client, &mut running).await;
    running.stop().await;
    eventually(&client, NOBODY).await;
    execute(&client, &[&prepared("INSERT INTO u VALUES (1);", "it''s gone")]).await;
    execute(&client, &["SELECT pg_replication_slot_advance('shop', pg_current_wal_lsn())"]).await;
    let mut running = start(&config, Log::default());
    streaming(&client, &mut running).await;
    execute(&client, &["COMMIT PREPARED 'it''s gone'"]).await;
    let error = running.failed().await;
    assert_eq!(error.kind(), ErrorKind::HistoryGone, "{error}");
    assert!(error.to_string().contains("it's gone"), "{error}");
}

#[tokio::test]
async fn a_prepared_transaction_without_room_is_an_error_that_loses_nothing() {
    let Some((server, client)) = with_tables().await else { return };
    let mut running = start(&config(&server, &[TWO_PHASE, NO_DATA, ("spill.max.bytes", "20000")]), Log::default());
    streaming(&client, &mut running).await;
    execute(&client, &["INSERT INTO u VALUES (1)", &prepared(&insert(1, 300), "large")]).await;
    let (ended, log) = running.ended().await;
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("spill.max.bytes") && mend.contains("spill.directory")), "{error:?}");
    eventually(&client, NOBODY).await;
    execute(&client, &["COMMIT PREPARED 'large'", "INSERT INTO u VALUES (2)"]).await;
    let mut running = start(&config(&server, &[TWO_PHASE, NO_DATA]), log);
    running.records(302).await;
    let expected: Vec<_> = std::iter::once("c public.u {1} null->{1}".to_owned())
        .chain(created(1, 300))
        .chain(["c public.u {2} null->{2}".to_owned()])
        .collect();
    assert_eq!(running.stop().await.lines(), expected);
}

/// Waits until as many sessions wait for a transaction to end: the creation of a slot among them.
async fn waits_for_a_transaction(client: &Client) {
    eventually(client, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted").await;
}

// The snapshot of a slot does not hold what is prepared while the slot is created, and committed behind it.
#[tokio::test]
async fn what_is_prepared_while_a_snapshot_is_taken_is_captured_when_it_is_committed() {
    let Some((server, client)) = with_tables().await else { return };
    let settings = [TWO_PHASE, ("snapshot.mode", "always")];
    let [first, second] = [server.connect("postgres").await.unwrap(), server.connect("postgres").await.unwrap()];
    execute(&client, &["INSERT INTO u VALUES (1)"]).await;
    // With a new slot, and with one that is there.
    for round in 0..2_u32 {
        let (early, late) = (10 + round, 20 + round);
        first.batch_execute(&format!("BEGIN; INSERT INTO w VALUES ({early})")).await.unwrap();
        let mut running = start(&config(&server, &settings), Log::default());
        waits_for_a_transaction(&client).await;
        second.batch_execute(&format!("BEGIN; INSERT INTO w VALUES ({late})")).await.unwrap();
        first.batch_execute("COMMIT").await.unwrap();
        // Now the slot waits for the second one, and takes no notice of what begins behind it.
        let waits = format!(
            "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid = '{}'::xid",
            second.query_one("SELECT (pg_current_xact_id()::xid)::text", &[]).await.unwrap().get::<_, String>(0)
        );
        eventually(&client, &waits).await;
        let row = 100 + round;
        execute(&client, &[&prepared(&format!("INSERT INTO u VALUES ({row});"), "p")]).await;
        second.batch_execute("COMMIT").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.w"))).await;
        execute(&client, &["COMMIT PREPARED 'p'", &format!("INSERT INTO w VALUES ({})", 30 + round)]).await;
        running.until(|log| log.lines().iter().any(|line| line == &format!("c public.w {{{0}}} null->{{{0}}}", 30 + round))).await;
        let lines = running.stop().await.lines();
        let seen = lines.iter().filter(|line| line.contains(&format!("public.u {{{row}}}"))).collect::<Vec<_>>();
        assert_eq!(seen, [&format!("c public.u {{{row}}} null->{{{row}}}")], "round {round}");
        eventually(&client, NOBODY).await;
    }
}
