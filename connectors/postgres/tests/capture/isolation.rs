//! I10: a table that cannot be followed, or read, is errored, and the others go on.

use tailwater_api::ErrorKind;
use tailwater_api::state::{JsonMap, StateChange};
use tokio_postgres::Client;

use crate::harness::{Log, Running, config, eventually, server, start};
use crate::rereads::copy;
use crate::signals::{answered, is_asked_for, is_streaming, request};
use crate::warnings::Warnings;

const ISOLATE: (&str, &str) = ("event.processing.failure.handling.mode", "isolate");
/// A numeric that is none has no room in a decimal.
const STRICT: (&str, &str) = ("event.converting.failure.handling.mode", "fail");
const TABLES: &str = "CREATE TABLE bad (id int PRIMARY KEY, n numeric(6,2)); CREATE TABLE good (id int PRIMARY KEY);
                      INSERT INTO bad VALUES (1, 1), (2, 2), (3, 3); INSERT INTO good VALUES (1);";
const INACTIVE: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";
const READ_BAD: &str = r#"{"data-collections": ["public.bad"]}"#;

fn of_table(log: &Log, table: &str) -> Vec<String> {
    log.lines().into_iter().filter(|line| line.split(' ').nth(1) == Some(table)).collect()
}

pub(crate) fn state_of(log: &Log, table: &str) -> Option<String> {
    let of_table = log.state.iter().find(|(partition, _)| {
        partition.get("tailwater.table").is_some_and(|name| name == table) && !partition.contains_key("tailwater.signal")
    });
    of_table.and_then(|(_, offset)| Some(offset.get("state")?.as_str()?.to_owned()))
}

/// Inserts a row into the good table, which has to come.
async fn good_goes_on(client: &Client, running: &mut Running, id: u32) {
    client.batch_execute(&format!("INSERT INTO good VALUES ({id})")).await.unwrap();
    let expected = format!("null->{{{id}}}");
    running.until(|log| of_table(log, "public.good").iter().any(|line| line.starts_with("c ") && line.ends_with(&expected))).await;
}

#[tokio::test]
async fn i10_a_table_that_cannot_be_followed_is_errored_until_it_is_read_again() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    let config = config(&server, &[ISOLATE, STRICT]);
    let mut running = start(&config, Log::default());
    running.records(4).await;
    is_streaming(&client).await;
    // What stands before it in its transaction is told, what stands behind it is not.
    client
        .batch_execute(
            "BEGIN; INSERT INTO bad VALUES (4, 4); UPDATE bad SET n = 'NaN' WHERE id = 2; INSERT INTO bad VALUES (5, 5); INSERT INTO good VALUES (2);
             COMMIT; DELETE FROM bad WHERE id = 1;",
        )
        .await
        .unwrap();
    good_goes_on(&client, &mut running, 3).await;
    let followed = of_table(&running.log, "public.bad");
    assert_eq!(followed.len(), 4, "{followed:?}");
    assert!(followed[3].starts_with("c public.bad {4} "), "{followed:?}");
    assert_eq!(state_of(&running.log, "public.bad").as_deref(), Some("errored"));
    assert_eq!(running.count("source_unreadable_events"), 1);
    assert_eq!(running.count("source_dropped_rows"), 2, "an insert behind it, and a delete");
    assert_eq!(running.figure("source_table_errored", Some("public.bad")), 1);

    // A restart goes on dropping.
    let log = running.stop().await;
    eventually(&client, INACTIVE).await;
    let mut running = start(&config, log);
    is_streaming(&client).await;
    client.batch_execute("INSERT INTO bad VALUES (6, 6); DELETE FROM bad WHERE id = 3").await.unwrap();
    good_goes_on(&client, &mut running, 4).await;
    assert_eq!(of_table(&running.log, "public.bad").len(), 4);
    assert_eq!(running.figure("source_table_errored", Some("public.bad")), 1);

    // It cannot be read, as long as the value is there, nor in part.
    let answer = request(
        &running,
        "execute-snapshot",
        r#"{"data-collections": ["public.bad"], "additional-conditions": [{"data-collection": "public.bad", "filter": "id > 5"}]}"#,
    )
    .await;
    assert_eq!(answered(&mut running, answer).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    let answer = request(&running, "execute-snapshot", READ_BAD).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| !is_asked_for(log)).await;
    assert_eq!(of_table(&running.log, "public.bad").len(), 4, "nothing of it appears");
    assert_eq!(state_of(&running.log, "public.bad").as_deref(), Some("errored"));
    good_goes_on(&client, &mut running, 5).await;

    // Behind a truncation come the rows that there are, and then what changes.
    client.batch_execute("UPDATE bad SET n = 20 WHERE id = 2").await.unwrap();
    running.refuse_confirmation();
    let confirmed = running.log.points.len();
    let mut answer = request(&running, "execute-snapshot", READ_BAD).await;
    running.until(|log| state_of(log, "public.bad").as_deref() == Some("complete") && !is_asked_for(log)).await;
    assert!(answer.try_recv().is_err(), "it is not durable");
    assert_eq!(running.figure("source_table_errored", Some("public.bad")), 0);
    client.batch_execute("INSERT INTO bad VALUES (7, 7); DELETE FROM bad WHERE id = 4").await.unwrap();
    let is_whole = |log: &Log| {
        let lines = of_table(log, "public.bad");
        let starts: Vec<String> = lines[4..].iter().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
        let read = ["t public.bad null", "r public.bad {4}", "r public.bad {5}", "r public.bad {6}", "r public.bad {2}"];
        let behind = ["c public.bad {7}", "d public.bad {4}", "- public.bad {4}"];
        if starts.len() < read.len() + behind.len() {
            return false;
        }
        assert_eq!(starts, [&read[..], &behind].concat());
        true
    };
    running.until(is_whole).await;
    let whole = running.crash().await;
    // So it is behind each crash.
    let mut crashes = 0;
    for point in confirmed..whole.points.len() {
        let log = whole.after_crash(point);
        let is_mended = state_of(&log, "public.bad").as_deref() == Some("complete");
        if !is_mended && !is_asked_for(&log) {
            continue;
        }
        crashes += 1;
        eventually(&client, INACTIVE).await;
        let mut running = start(&config, log);
        running.refuse_confirmation();
        // Rows may be read only now: then they hold what is told as a change otherwise.
        running.until(|log| ends_in(log, &["{2}", "{5}", "{6}", "{7}"])).await;
        running.crash().await;
    }
    assert!(crashes >= 3, "{crashes} of {}", whole.points.len());
}

/// Whether a reader of the log has these rows of the bad table.
fn ends_in(log: &Log, keys: &[&str]) -> bool {
    let rows = copy(log).into_iter().filter_map(|row| row.strip_prefix("public.bad ").map(str::to_owned));
    rows.collect::<Vec<_>>() == keys
}

#[tokio::test]
async fn i10_a_table_that_cannot_be_read_in_chunks_is_errored_and_the_others_are_read() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    client.batch_execute("INSERT INTO bad VALUES (9, 'NaN')").await.unwrap();
    let config = config(&server, &[ISOLATE, STRICT, ("snapshot.strategy", "watermark")]);
    let mut running = start(&config, Log::default());
    let are_read = |log: &Log| {
        state_of(log, "public.good").as_deref() == Some("complete") && state_of(log, "public.bad").as_deref() == Some("errored")
    };
    running.until(are_read).await;
    good_goes_on(&client, &mut running, 2).await;
    client.batch_execute("DELETE FROM bad WHERE id = 9").await.unwrap();
    let log = running.stop().await;
    eventually(&client, INACTIVE).await;
    let mut running = start(&config, log);
    is_streaming(&client).await;
    let answer = request(&running, "execute-snapshot", READ_BAD).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| state_of(log, "public.bad").as_deref() == Some("complete") && !is_asked_for(log)).await;
    let log = running.stop().await;
    let starts: Vec<String> =
        of_table(&log, "public.bad").iter().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(starts, ["t public.bad null", "r public.bad {1}", "r public.bad {2}", "r public.bad {3}"]);
}

#[tokio::test]
async fn i10_of_tables_that_are_owed_a_read_while_the_log_rests_one_that_cannot_be_read_is_told_and_the_others_are_read() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    // Read in this order; the first is large enough to be changed in its midst.
    client
        .batch_execute(
            "CREATE TABLE ahead (id int PRIMARY KEY, v text); INSERT INTO ahead SELECT i, '' FROM generate_series(1, 3000) i;
             CREATE TABLE bad (id int PRIMARY KEY, n numeric(6,2)); INSERT INTO bad VALUES (1, 1), (2, 'NaN');
             CREATE TABLE good (id int PRIMARY KEY); INSERT INTO good VALUES (1), (2);",
        )
        .await
        .unwrap();
    let config = config(&server, &[ISOLATE, STRICT, ("snapshot.strategy", "watermark"), ("incremental.snapshot.chunk.size", "100")]);
    let mut running = start(&config, Log::default());
    // Nobody takes more batches, so the reader stands still.
    running.records(1).await;
    // The slot of a rest waits for it, so all of them are owed before the first is read.
    let open = server.connect("postgres").await.unwrap();
    open.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
    client
        .batch_execute(
            "ALTER TABLE ahead DROP CONSTRAINT ahead_pkey; ALTER TABLE bad DROP CONSTRAINT bad_pkey; ALTER TABLE good DROP CONSTRAINT good_pkey;",
        )
        .await
        .unwrap();
    let owed = |log: &Log| log.state.iter().filter(|(partition, _)| partition.contains_key("tailwater.signal")).count();
    running.until(|log| owed(log) == 3).await;
    open.batch_execute("COMMIT").await.unwrap();
    running.until(|log| owed(log) == 0).await;

    assert_eq!(
        ["ahead", "bad", "good"].map(|table| state_of(&running.log, &format!("public.{table}")).unwrap()),
        ["complete", "errored", "complete"]
    );
    assert_eq!(["ahead", "bad", "good"].map(|table| running.figure("source_table_errored", Some(&format!("public.{table}")))), [0, 1, 0]);
    assert_eq!(warnings.with(&["is errored from here on", "public.bad"]).len(), 1);
    good_goes_on(&client, &mut running, 3).await;
    let log = running.stop().await;
    let whole = of_table(&log, "public.ahead").iter().filter(|line| line.starts_with("r public.ahead null ")).count();
    assert_eq!((whole, of_table(&log, "public.bad").len()), (3000, 0));
    let good = ["r public.good null null->{1}", "r public.good null null->{2}", "c public.good null null->{3}"];
    assert_eq!(of_table(&log, "public.good"), good);
}

#[tokio::test]
async fn i10_a_gap_that_somebody_accepts_is_passed_over() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    // Where new tables are read it must not be taken for one.
    let config = config(&server, &[ISOLATE, STRICT, ("snapshot.new.tables", "read")]);
    let mut running = start(&config, Log::default());
    running.records(4).await;
    is_streaming(&client).await;
    client.batch_execute("INSERT INTO bad VALUES (4, 'NaN'), (5, 5)").await.unwrap();
    good_goes_on(&client, &mut running, 2).await;
    let mut log = running.stop().await;
    eventually(&client, INACTIVE).await;
    let errored: Vec<_> = log.state.iter().filter(|(_, offset)| offset.get("state").is_some_and(|state| state == "errored")).collect();
    // As docs/operating.md says it.
    let complete = serde_json::json!({"state": "complete", "anchor": 0, "rows": 0}).as_object().cloned();
    let accept = |(partition, _): (&_, &_)| StateChange { partition: JsonMap::clone(partition), offset: complete.clone() };
    let accepted: Vec<_> = errored.into_iter().map(accept).collect();
    assert_eq!(accepted.len(), 1);
    accepted.iter().for_each(|change| log.state.apply(change));
    let mut running = start(&config, log);
    is_streaming(&client).await;
    client.batch_execute("INSERT INTO bad VALUES (6, 6)").await.unwrap();
    running.until(|log| of_table(log, "public.bad").last().is_some_and(|line| line.starts_with("c public.bad {6}"))).await;
    assert_eq!(running.figure("source_table_errored", Some("public.bad")), 0);
    assert_eq!(of_table(&running.stop().await, "public.bad").len(), 4);
}

#[tokio::test]
async fn i10_a_table_is_mended_without_a_truncation_that_would_take_more_than_its_rows_bring_back() {
    let one_topic = [
        ("topic.naming.strategy", "io.debezium.schema.DefaultRegexTopicNamingStrategy"),
        ("topic.regex", r"(.*)\.(bad|good)"),
        ("topic.replacement", "$1.all"),
    ];
    let part = [
        ("snapshot.select.statement.overrides", "public.bad"),
        ("snapshot.select.statement.overrides.public.bad", "SELECT * FROM public.bad WHERE id > 1"),
    ];
    for (name, more, read) in [("shares", &one_topic[..], 4), ("part", &part, 3)] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        client.batch_execute(TABLES).await.unwrap();
        let config = config(&server, &[&[ISOLATE, STRICT, ("snapshot.mode", "no_data")], more].concat());
        let mut running = start(&config, Log::default());
        is_streaming(&client).await;
        client.batch_execute("INSERT INTO bad VALUES (4, 'NaN'), (5, 5)").await.unwrap();
        running.until(|log| state_of(log, "public.bad").as_deref() == Some("errored")).await;
        client.batch_execute("DELETE FROM bad WHERE id = 4").await.unwrap();
        let answer = request(&running, "execute-snapshot", READ_BAD).await;
        answered(&mut running, answer).await.unwrap();
        running.until(|log| state_of(log, "public.bad").as_deref() == Some("complete") && !is_asked_for(log)).await;
        client.batch_execute("INSERT INTO bad VALUES (6, 6)").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c ") && line.contains("{6"))).await;
        let lines = running.stop().await.lines();
        assert!(!lines.iter().any(|line| line.starts_with("t ")), "{name}: {lines:?}");
        let rows = lines.iter().filter(|line| line.starts_with("r ")).count();
        assert_eq!(rows, read, "{name}: {lines:?}");
    }
}

#[tokio::test]
async fn i10_where_whole_transactions_are_told_and_by_default_the_connector_stops() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    for (name, more) in [("one", [ISOLATE, ("provide.transaction.metadata", "true")]), ("two", [STRICT, STRICT])] {
        let names = [("slot.name", name), ("publication.name", name)];
        let config = config(&server, &[&[STRICT][..], &more, &names].concat());
        let mut running = start(&config, Log::default());
        running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.good"))).await;
        client.batch_execute("DELETE FROM bad WHERE id = 4; INSERT INTO bad VALUES (4, 'NaN')").await.unwrap();
        let error = running.failed().await;
        assert!(matches!(error.kind(), ErrorKind::Unreadable | ErrorKind::Unsupported), "{error}");
        client.batch_execute("DELETE FROM bad WHERE id = 4").await.unwrap();
    }
}

#[tokio::test]
async fn i10_errored_tables_of_one_signal_are_mended_together_or_stay_as_they_are() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    client.batch_execute("CREATE TABLE worse (id int PRIMARY KEY, n numeric(6,2))").await.unwrap();
    let config = config(&server, &[ISOLATE, STRICT]);
    let mut running = start(&config, Log::default());
    running.records(4).await;
    is_streaming(&client).await;
    client.batch_execute("INSERT INTO bad VALUES (4, 'NaN'); INSERT INTO worse VALUES (1, 'NaN')").await.unwrap();
    good_goes_on(&client, &mut running, 2).await;
    client.batch_execute("UPDATE bad SET n = 4 WHERE id = 4").await.unwrap();
    let both = r#"{"data-collections": ["public.bad", "public.worse"]}"#;
    let answer = request(&running, "execute-snapshot", both).await;
    answered(&mut running, answer).await.unwrap();
    running.until(|log| !is_asked_for(log)).await;
    for table in ["public.bad", "public.worse"] {
        assert_eq!(state_of(&running.log, table).as_deref(), Some("errored"), "{table}");
        assert_eq!(running.figure("source_table_errored", Some(table)), 1, "{table}");
    }
    // What is dropped now is in the rows of the next read.
    client.batch_execute("DELETE FROM bad WHERE id = 1; UPDATE worse SET n = 1").await.unwrap();
    good_goes_on(&client, &mut running, 3).await;
    let answer = request(&running, "execute-snapshot", both).await;
    answered(&mut running, answer).await.unwrap();
    let are_complete = |log: &Log| ["public.bad", "public.worse"].iter().all(|table| state_of(log, table).as_deref() == Some("complete"));
    running.until(|log| are_complete(log) && !is_asked_for(log)).await;
    client.batch_execute("DELETE FROM bad WHERE id = 2; INSERT INTO worse VALUES (2, 2)").await.unwrap();
    running.until(|log| ends_in(log, &["{3}", "{4}"]) && copy(log).contains("public.worse {2}")).await;
    assert!(copy(&running.stop().await).contains("public.worse {1}"));
}
