//! Partitioned tables: under which names their rows are told, and what signals and filters mean by these.

use tailwater_api::ErrorKind;
use tailwater_api::source::SourceConnector;
use tailwater_postgres::PostgresConnector;
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, config, eventually, line, server, start};
use crate::signals::{NO_DATA, answered, is_asked_for, is_read, is_streaming, request};
use crate::warnings::Warnings;

const TABLES: &str = "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
     CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (10);
     CREATE TABLE middle PARTITION OF root FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (id);
     CREATE TABLE high PARTITION OF middle FOR VALUES FROM (10) TO (20); CREATE TABLE top PARTITION OF middle DEFAULT;
     INSERT INTO root VALUES (1), (11), (21)";
const INACTIVE: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";
const SOON: (&str, &str) = ("table.refresh.interval.ms", "100");
const ALONE: (&str, &str) = ("table.include.list", r"public\.root");

async fn with_tables(server: &PostgresServer) -> Client {
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    client
}

fn reads(log: &Log) -> Vec<String> {
    let mut reads: Vec<_> = log.lines().into_iter().filter(|line| line.starts_with("r ")).collect();
    reads.sort();
    reads
}

fn of_root(ids: &[u32]) -> Vec<String> {
    let mut reads: Vec<_> = ids.iter().map(|id| format!("r public.root {{{id}}} null->{{{id}}}")).collect();
    reads.sort();
    reads
}

#[tokio::test]
async fn i11_a_root_that_is_captured_without_its_leaves_is_read_and_told_of_and_read_anew_once_its_changes_come() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = with_tables(&server).await;
        let entries = [ALONE, ("snapshot.strategy", strategy), ("snapshot.new.tables", "read"), SOON];
        let config = config(&server, &entries);
        let mut running = start(&config, Log::default());
        running.until(|log| reads(log).len() == 3).await;
        running.meanwhile(is_streaming(&client)).await;
        let advice = ["publishes rows of the table public.root under the names of partitions", "SET (publish_via_partition_root = true);"];
        assert_eq!((warnings.with(&advice).len(), reads(&running.log)), (1, of_root(&[1, 11, 21])));
        let report = PostgresConnector::probe(&config).await;
        assert!(report.is_ready() && advice.iter().all(|words| format!("{report:?}").contains(words)), "{report:?}");
        client.batch_execute("INSERT INTO root VALUES (2); ALTER PUBLICATION shop SET (publish_via_partition_root = true)").await.unwrap();
        let (result, log) = running.ended().await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
        eventually(&client, INACTIVE).await;
        let mut running = start(&config, log);
        running.until(|log| reads(log).len() == 7).await;
        running.meanwhile(is_streaming(&client)).await;
        client.batch_execute("INSERT INTO root VALUES (12)").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line == "c public.root {12} null->{12}")).await;
        let mut expected = [of_root(&[1, 11, 21]), of_root(&[1, 11, 2, 21])].concat();
        expected.sort();
        assert_eq!(reads(&running.stop().await), expected);
        assert_eq!(warnings.with(&advice).len(), 1, "{strategy}");
    }
}

#[tokio::test]
async fn a_root_that_is_captured_without_its_leaves_is_read_where_nothing_is_followed() {
    let Some(server) = server(&[]).await else { return };
    let _client = with_tables(&server).await;
    let (result, log) = start(&config(&server, &[ALONE, ("snapshot.mode", "initial_only")]), Log::default()).ended().await;
    result.unwrap();
    assert_eq!(reads(&log), of_root(&[1, 11, 21]));
}

#[tokio::test]
async fn i11_rows_of_leaves_that_the_filters_leave_out_are_told_of_also_where_one_that_they_do_not_makes_the_root_no_table_of_its_own() {
    for mode in ["initial", "initial_only"] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let _client = with_tables(&server).await;
        let entries = [("table.include.list", r"public\.root,public\.low"), ("snapshot.mode", mode)];
        let mut running = start(&config(&server, &entries), Log::default());
        running.until(|log| !reads(log).is_empty()).await;
        assert_eq!(reads(&running.log), ["r public.low {1} null->{1}"], "{mode}");
        assert_eq!(
            warnings.with(&["rows of", "public.root", "table.include.list", "partition_root"]).len(),
            usize::from(mode == "initial")
        );
        assert_eq!(warnings.with(&["rows of public.root", "are not read"]).len(), usize::from(mode != "initial"));
    }
}

#[tokio::test]
async fn t141_rows_of_a_published_part_of_a_root_are_read_under_its_name() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = with_tables(&server).await;
        let publication = "CREATE PUBLICATION shop FOR TABLE middle WITH (publish_via_partition_root = true)";
        client.batch_execute(publication).await.unwrap();
        let tables = ("table.include.list", r"public\.root,public\.middle");
        let entries = [tables, ("snapshot.strategy", strategy), ("publication.autocreate.mode", "disabled")];
        let mut running = start(&config(&server, &entries), Log::default());
        running.until(|log| reads(log).len() == 2).await;
        running.meanwhile(is_streaming(&client)).await;
        client.batch_execute("DELETE FROM root WHERE id = 11").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("d public.middle {11}"))).await;
        assert_eq!(reads(&running.stop().await), ["r public.middle {11} null->{11}", "r public.middle {21} null->{21}"]);
        assert_eq!(
            warnings.with(&["does not publish the table public.root", r#"ADD TABLE "public"."root""#]).len(),
            1,
            "{:#?}",
            warnings.with(&[])
        );
    }
}

#[tokio::test]
async fn i11_names_under_which_rows_are_told_again_are_read_anew_or_told_of() {
    for reads in ["read", "none"] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = with_tables(&server).await;
        let entries = [("snapshot.new.tables", reads), SOON, ("snapshot.strategy", "watermark")];
        let config = config(&server, &entries);
        let mut running = start(&config, Log::default());
        running.until(|log| reads_of(log, "low") == 1 && reads_of(log, "high") == 1 && reads_of(log, "top") == 1).await;
        running.meanwhile(is_streaming(&client)).await;
        for (by_root, changed, name, expected) in [
            (true, "DELETE FROM root WHERE id = 11", "root", 2),
            (false, "INSERT INTO root VALUES (2)", "low", 3),
            (true, "INSERT INTO root VALUES (12)", "root", 6),
        ] {
            client.batch_execute(&format!("ALTER PUBLICATION shop SET (publish_via_partition_root = {by_root}); {changed}")).await.unwrap();
            if reads == "read" {
                let (result, log) = running.ended().await;
                assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
                eventually(&client, INACTIVE).await;
                running = start(&config, log);
                running.until(|log| reads_of(log, name) == expected).await;
                running.meanwhile(is_streaming(&client)).await;
            } else {
                let words = format!(r"data-collections public\.{name}");
                running.meanwhile(warnings.told(&["rows stand under the name", &words])).await;
                warnings.forget();
            }
        }
        running.stop().await;
    }
}

fn reads_of(log: &Log, table: &str) -> usize {
    let read = format!("r public.{table} ");
    log.lines().iter().filter(|line| line.starts_with(&read)).count()
}

#[tokio::test]
async fn the_remedy_for_a_part_of_a_root_that_the_publication_names_is_to_capture_that() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_tables(&server).await;
    let mut running = start(&config(&server, &[NO_DATA, ("table.include.list", r"public\.middle")]), Log::default());
    running.meanwhile(is_streaming(&client)).await;
    assert_eq!(warnings.with(&["rows of the table public.middle", "or public.root in its place and ALTER PUBLICATION"]).len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_root_that_is_not_captured_chooses_nothing() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_tables(&server).await;
    let mut running = start(&config(&server, &[NO_DATA, ("table.include.list", r"public\.(low|high|top)")]), Log::default());
    running.meanwhile(is_streaming(&client)).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.low", "public.root"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.until(is_read).await;
    assert_eq!(reads(&running.stop().await), ["r public.low {1} null->{1}"]);
    assert_eq!(warnings.with(&["no captured table matches public.root"]).len(), 1);
}

#[tokio::test]
async fn the_name_of_a_root_chooses_its_leaves_where_these_are_published() {
    let Some(server) = server(&[]).await else { return };
    let _client = with_tables(&server).await;
    let entries = [("snapshot.include.collection.list", r"public\.middle"), ("snapshot.strategy", "consistent")];
    let mut running = start(&config(&server, &entries), Log::default());
    running.until(|log| reads(log).len() == 2).await;
    assert_eq!(reads(&running.stop().await), ["r public.high {11} null->{11}", "r public.top {21} null->{21}"]);
}

#[tokio::test]
async fn a_signal_for_a_root_reads_its_leaves_with_its_condition_and_one_that_stops_it_ends_them() {
    let Some(server) = server(&[]).await else { return };
    let client = with_tables(&server).await;
    let config = config(&server, &[NO_DATA]);
    let mut running = start(&config, Log::default());
    running.meanwhile(is_streaming(&client)).await;
    let blocking = r#"{"type": "blocking", "data-collections": ["public.root"],
                       "additional-conditions": [{"data-collection": "public.root", "filter": "SELECT * FROM root"}]}"#;
    let answer = request(&running, "execute-snapshot", blocking).await;
    let error = answered(&mut running, answer).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Misconfigured && error.to_string().contains("as those of its partitions"), "{error}");
    let narrowed = r#"{"data-collections": ["public.root"],
                       "additional-conditions": [{"data-collection": "public.root", "filter": "id > 1"}]}"#;
    let answer = request(&running, "execute-snapshot", narrowed).await;
    answered(&mut running, answer).await.unwrap();
    running.until(is_read).await;
    assert_eq!(reads(&running.log), ["r public.high {11} null->{11}", "r public.top {21} null->{21}"]);
    let slow = r#"{"data-collections": ["public..*"],
                   "additional-conditions": [{"data-collection": "public..*", "filter": "pg_sleep(600) IS NOT NULL"}]}"#;
    let resting = r#"{"type": "blocking", "data-collections": ["public.root"],
                      "additional-conditions": [{"data-collection": "public.low", "filter": "SELECT id FROM low, pg_sleep(600)"}]}"#;
    for (read, stopped, left) in [(slow, "root", 0), (slow, "middle", 1), (resting, "root", 0)] {
        let answer = request(&running, "execute-snapshot", read).await;
        answered(&mut running, answer).await.unwrap();
        let log = running.crash().await;
        eventually(&client, INACTIVE).await;
        running = start(&config, log);
        let sleeps = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
        running.meanwhile(eventually(&client, sleeps)).await;
        for (stopped, left) in [(format!(r#"{{"data-collections": ["public.{stopped}"]}}"#), left), (String::new(), 0)] {
            let answer = request(&running, "stop-snapshot", &stopped).await;
            let answer = answered(&mut running, answer).await;
            let asked_for = running.log.state.iter().filter(|(partition, _)| partition.contains_key("tailwater.signal")).count();
            assert_eq!(asked_for, left, "{read} {stopped}: {answer:?}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_signal_for_a_leaf_whose_rows_stand_under_the_name_of_its_root_is_told_how_to_read_them() {
    let Some(server) = server(&[]).await else { return };
    let client = with_tables(&server).await;
    let mut running = start(&config(&server, &[NO_DATA, ("publish.via.partition.root", "true")]), Log::default());
    running.meanwhile(is_streaming(&client)).await;
    for (name, condition) in [
        ("low", r#"tableoid = '"public"."low"'::regclass"#),
        ("middle", r#"tableoid IN (SELECT relid FROM pg_partition_tree('"public"."middle"'))"#),
    ] {
        let answer = request(&running, "execute-snapshot", &format!(r#"{{"data-collections": ["public.{name}"]}}"#)).await;
        let error = answered(&mut running, answer).await.unwrap_err();
        let remedy = format!(r"signal execute-snapshot with data-collections public\.root and the additional condition {condition}");
        assert!(error.kind() == ErrorKind::Missing && error.remedy().is_some_and(|told| told.contains(&remedy)), "{error}");
        let condition = serde_json::json!({"data-collections": [r"public\.root"],
            "additional-conditions": [{"data-collection": r"public\.root", "filter": condition}]});
        let answer = request(&running, "execute-snapshot", &condition.to_string()).await;
        answered(&mut running, answer).await.unwrap();
        running.until(|log| !is_asked_for(log)).await;
    }
    assert_eq!(reads(&running.stop().await), of_root(&[1, 11, 21]));
}

#[tokio::test]
async fn rows_of_a_partition_that_is_attached_to_a_root_appear_once_under_its_name() {
    for tables in [r"public\.(root|one|two|three|three_leaf)", r"public\.root"] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = server.connect("postgres").await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE one PARTITION OF root FOR VALUES FROM (0) TO (100); INSERT INTO root VALUES (1, 'a');
             CREATE TABLE two (id int PRIMARY KEY, v text); INSERT INTO two SELECT i, 'b' FROM generate_series(100, 104) i;
             CREATE TABLE three (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE three_leaf PARTITION OF three FOR VALUES FROM (200) TO (300); INSERT INTO three VALUES (200, 'c')",
            )
            .await
            .unwrap();
        let keys = [("snapshot.new.tables", "read"), SOON, ("publish.via.partition.root", "true"), ("table.include.list", tables)];
        let mut running = start(&config(&server, &keys), Log::default());
        running.records(if tables == r"public\.root" { 1 } else { 7 }).await;
        running.meanwhile(is_streaming(&client)).await;
        let before = running.log.records.len();
        for (partition, from, to) in [("two", 100, 200), ("three", 200, 300)] {
            let attach = format!("ALTER TABLE root ATTACH PARTITION {partition} FOR VALUES FROM ({from}) TO ({to})");
            client.batch_execute(&attach).await.unwrap();
        }
        running.until(|log| log.records.len() >= before + 6).await;
        client.batch_execute("UPDATE root SET v = 'new' WHERE id IN (1, 100, 200)").await.unwrap();
        running.until(|log| log.lines().iter().filter(|line| line.starts_with("u public.root ")).count() == 3).await;
        client.batch_execute("ALTER TABLE root DETACH PARTITION two").await.unwrap();
        running.meanwhile(warnings.told(&["public.two was detached", "the name of its former root public.root"])).await;
        let log = running.stop().await;
        let mut read: Vec<_> = log.records[before..].iter().map(line).filter(|line| line.starts_with('r')).collect();
        read.sort();
        let row = |id: i32, v: &str| format!("r public.root {{{id}}} null->{{{id},{v}}}");
        let expected: Vec<_> = (100..105).map(|id| row(id, "b")).chain([row(200, "c")]).collect();
        assert_eq!(read, expected, "{tables}");
    }
}
