//! What the publication leaves out: captured tables that it does not hold, and operations.

use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_api::source::SourceConnector;
use tailwater_api::state::StateChange;
use tailwater_postgres::{PostgresConfig, PostgresConnector};
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, Running, config, eventually, server, start};
use crate::isolation::state_of;
use crate::successors::is_what_the_tables_hold;
use crate::warnings::Warnings;

const NONE: (&str, &str) = ("snapshot.new.tables", "none");
const READ: (&str, &str) = ("snapshot.new.tables", "read");
const CONSISTENT: (&str, &str) = ("snapshot.strategy", "consistent");
const WATERMARK: (&str, &str) = ("snapshot.strategy", "watermark");
const ENTRIES: [(&str, &str); 3] =
    [("publication.autocreate.mode", "disabled"), ("table.refresh.interval.ms", "100"), ("skipped.operations", "none")];
/// The log is followed; a temporary slot says that tables are read.
const ACTIVE: &str = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE NOT temporary";
const INACTIVE: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";
const PUBLISHED: &str = "ALTER PUBLICATION shop ADD TABLE t";
const LEFT: &str = "ALTER PUBLICATION shop DROP TABLE t";
/// The row is replaced by another one without the log.
const CHANGED: &str = "DELETE FROM t; INSERT INTO t VALUES (2)";
/// What consumers have of the table where it is read anew.
const ANEW: [&str; 4] = ["r public.t {1} null->{1}", "t public.t null null->null", "r public.t {2} null->{2}", "c public.t {3} null->{3}"];

/// What is said of a table of which changes are missing.
fn missing(table: &str) -> [String; 2] {
    [
        format!("rows under the name public.{table} were not published"),
        format!(r"signal execute-snapshot with data-collections public\.{table}"),
    ]
}

fn of_table(log: &Log) -> Vec<String> {
    log.lines().into_iter().filter(|line| line.contains(" public.t ")).collect()
}

/// How many tables the state calls unpublished.
fn unpublished(log: &Log) -> usize {
    log.state.iter().filter(|(partition, _)| partition.contains_key("tailwater.unpublished")).count()
}

async fn with_table(server: &PostgresServer) -> Client {
    let client = server.connect("postgres").await.unwrap();
    let tables = "CREATE TABLE published (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY);
                  INSERT INTO t VALUES (1); CREATE PUBLICATION shop FOR TABLE published";
    client.batch_execute(tables).await.unwrap();
    client
}

/// Starts, and waits until the tables are read and the log is followed.
async fn started(server: &PostgresServer, client: &Client, entries: &[(&str, &str)], log: Log) -> Running {
    eventually(client, "SELECT coalesce(NOT bool_or(active), true) FROM pg_replication_slots").await;
    let mut running = start(&config(server, &[&ENTRIES[..], entries].concat()), log);
    running.until(|log| state_of(log, "public.t").is_some_and(|state| state != "reading" && state != "outdated")).await;
    running.meanwhile(eventually(client, ACTIVE)).await;
    running
}

#[tokio::test]
async fn i11_a_table_published_while_the_connector_runs_is_told_of_then_and_by_the_next_start() {
    for strategy in [CONSISTENT, WATERMARK] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let told = || warnings.with(&missing("t").each_ref().map(String::as_str)).len();
        let client = with_table(&server).await;
        let mut running = started(&server, &client, &[strategy, NONE], Log::default()).await;
        assert_eq!((warnings.with(&["does not publish the table", "table=public.t"]).len(), unpublished(&running.log)), (1, 1));
        client.batch_execute(&format!("{CHANGED}; {PUBLISHED}")).await.unwrap();
        running.meanwhile(warnings.told(&missing("t").each_ref().map(String::as_str))).await;
        client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
        running.until(|log| of_table(log).len() == 2).await;
        assert_eq!(of_table(&running.log), [ANEW[0], ANEW[3]]);
        let mut log = running.stop().await;
        assert_eq!((told(), unpublished(&log)), (1, 1));
        for _ in 0..2 {
            log = started(&server, &client, &[strategy, NONE], log).await.stop().await;
            assert_eq!((told(), unpublished(&log)), (2, 0), "once by a start");
        }
        assert_eq!(of_table(&log).len(), 2);
    }
}

#[tokio::test]
async fn i11_a_table_published_while_the_connector_runs_is_read_anew_where_that_is_asked_for() {
    for strategy in [CONSISTENT, WATERMARK] {
        let Some(server) = server(&[]).await else { return };
        let client = with_table(&server).await;
        let running = started(&server, &client, &[strategy, READ], Log::default()).await;
        client.batch_execute(&format!("{CHANGED}; {PUBLISHED}")).await.unwrap();
        let (result, log) = running.ended().await;
        let error = result.unwrap_err();
        assert!(error.kind() == ErrorKind::Restarting && error.to_string().contains("public.t"), "{error}");
        let mut running = started(&server, &client, &[strategy, READ], log).await;
        client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
        running.until(|log| of_table(log).len() == 4).await;
        assert_eq!(of_table(&running.log), ANEW);
        // The next start reads nothing.
        let log = running.stop().await;
        let log = started(&server, &client, &[strategy, READ], log).await.stop().await;
        assert_eq!(of_table(&log), ANEW);
    }
}

#[tokio::test]
async fn i11_whatever_crash_stands_before_a_table_is_published_or_behind_it_is_read_once_as_it_is() {
    for strategy in [CONSISTENT, WATERMARK] {
        let Some(server) = server(&[]).await else { return };
        let client = with_table(&server).await;
        let config = config(&server, &[&ENTRIES[..], &[strategy, READ]].concat());
        let mut running = start(&config, Log::default());
        running.refuse_confirmation();
        running.until(|log| state_of(log, "public.t").as_deref() == Some("complete")).await;
        running.meanwhile(eventually(&client, ACTIVE)).await;
        let before = running.crash().await;
        client.batch_execute(&format!("{CHANGED}; {PUBLISHED}")).await.unwrap();
        let mut last = Log::default();
        for point in 0..before.points.len() {
            last = is_read_once(&client, &config, before.after_crash(point)).await;
        }
        assert_eq!(of_table(&last), ANEW[..3], "behind the last batch it is read anew");
        for point in 0..last.points.len() {
            is_read_once(&client, &config, last.after_crash(point)).await;
        }
    }
}

/// Goes on with what a crash left until the table is read as it is by now, and crashes again.
async fn is_read_once(client: &Client, config: &PostgresConfig, log: Log) -> Log {
    eventually(client, INACTIVE).await;
    let mut running = start(config, log);
    running.refuse_confirmation();
    let rows = |log: &Log| log.lines().iter().filter(|line| line.starts_with("r public.t {2}")).count();
    running.until(|log| rows(log) > 0 && state_of(log, "public.t").as_deref() == Some("complete")).await;
    running.meanwhile(eventually(client, ACTIVE)).await;
    let log = running.crash().await;
    is_what_the_tables_hold(client, &log, &["t"]).await;
    assert_eq!((rows(&log), unpublished(&log)), (1, 0), "{:#?}", log.lines());
    log
}

#[tokio::test]
async fn i11_a_table_that_was_not_read_before_it_is_published_needs_no_word() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    client.batch_execute("CREATE TABLE ahead (id int PRIMARY KEY); INSERT INTO ahead SELECT generate_series(1, 20000)").await.unwrap();
    for (name, strategy) in [("one", CONSISTENT), ("two", WATERMARK)] {
        client.batch_execute(&format!("CREATE PUBLICATION {name} FOR TABLE published, ahead")).await.unwrap();
        let own = [strategy, NONE, ("slot.name", name), ("publication.name", name)];
        let config = config(&server, &[&ENTRIES[..], &own].concat());
        // The first batch says which tables there are.
        let mut running = start(&config, Log::default());
        running.until(|log| unpublished(log) == 1).await;
        let log = running.crash().await;
        assert_eq!(of_table(&log), [""; 0], "{name}");
        client.batch_execute(&format!("ALTER PUBLICATION {name} ADD TABLE t")).await.unwrap();
        eventually(&client, INACTIVE).await;
        let mut running = start(&config, log);
        running.until(|log| state_of(log, "public.t").as_deref() == Some("complete")).await;
        assert_eq!(of_table(&running.stop().await), [ANEW[0]], "{name}");
        eventually(&client, INACTIVE).await;
        client.batch_execute(&format!("SELECT pg_drop_replication_slot('{name}')")).await.unwrap();
    }
    assert_eq!(warnings.with(&["were not published for some time"]), [""; 0]);
}

#[tokio::test]
async fn i11_a_table_that_is_published_under_another_name_is_known_and_so_is_the_one_that_took_its_name() {
    let step = "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7)";
    for strategy in [CONSISTENT, WATERMARK] {
        for reads in [NONE, READ] {
            let Some(server) = server(&[]).await else { return };
            let warnings = Warnings::collect();
            let client = with_table(&server).await;
            let log = started(&server, &client, &[strategy, reads], Log::default()).await.stop().await;
            client.batch_execute(&format!("{CHANGED}; {step}; ALTER PUBLICATION shop ADD TABLE u")).await.unwrap();
            // The new one has none of its own while the other's debt is settled, and a crash forgets neither.
            let mut running = started(&server, &client, &[strategy, reads], log).await;
            if reads == READ {
                running.until(|log| ["public.t", "public.u"].iter().all(|table| state_of(log, table).as_deref() == Some("complete"))).await;
            }
            let log = running.crash().await;
            assert_eq!(
                (warnings.with(&missing("u").each_ref().map(String::as_str)).len(), unpublished(&log)),
                (usize::from(reads == NONE), 1)
            );
            client.batch_execute(&format!("UPDATE t SET id = 8; {PUBLISHED}")).await.unwrap();
            let mut running = started(&server, &client, &[strategy, reads], log).await;
            if reads == READ {
                running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.t {8}"))).await;
            }
            let log = running.stop().await;
            assert_eq!(
                (warnings.with(&missing("t").each_ref().map(String::as_str)).len(), unpublished(&log)),
                (usize::from(reads == NONE), 0)
            );
            if reads == READ {
                is_what_the_tables_hold(&client, &log, &["t", "u"]).await;
            }
        }
    }
}

#[tokio::test]
async fn i11_a_partition_whose_root_is_published_is_told_of_or_read_under_the_name_of_that() {
    for reads in [NONE, READ] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = server.connect("postgres").await.unwrap();
        let tables = "CREATE TABLE published (id int PRIMARY KEY); CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
                      CREATE TABLE t PARTITION OF root FOR VALUES FROM (0) TO (10); INSERT INTO t VALUES (1);
                      CREATE PUBLICATION shop FOR TABLE published WITH (publish_via_partition_root = true)";
        client.batch_execute(tables).await.unwrap();
        let entries = [reads, ("publish.via.partition.root", "true")];
        let mut running = started(&server, &client, &entries, Log::default()).await;
        assert_eq!((of_table(&running.log), unpublished(&running.log)), (vec![ANEW[0].to_owned()], 1));
        client.batch_execute(&format!("{CHANGED}; ALTER PUBLICATION shop ADD TABLE root")).await.unwrap();
        let log = if reads == READ {
            let (result, log) = running.ended().await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
            log
        } else {
            running.meanwhile(warnings.told(&missing("root").each_ref().map(String::as_str))).await;
            running.stop().await
        };
        let mut running = started(&server, &client, &entries, log).await;
        client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
        running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.root {3}"))).await;
        if reads == READ {
            running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.root {2}"))).await;
        }
        let told = warnings.with(&missing("root").each_ref().map(String::as_str)).len();
        assert_eq!((told, unpublished(&running.log)), (if reads == NONE { 2 } else { 0 }, 0));
        assert_eq!(of_table(&running.stop().await), [ANEW[0]]);
    }
}

#[tokio::test]
async fn i10_an_errored_table_that_is_published_is_left_to_the_signal_that_mends_it() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    client.batch_execute("ALTER TABLE t ADD n numeric(6,2) DEFAULT 'NaN'").await.unwrap();
    let isolate = [
        READ,
        WATERMARK,
        ("event.processing.failure.handling.mode", "isolate"),
        ("event.converting.failure.handling.mode", "fail"),
        ("table.refresh.interval.ms", "60000"),
    ];
    let running = started(&server, &client, &isolate, Log::default()).await;
    let log = running.stop().await;
    assert_eq!((state_of(&log, "public.t").as_deref(), unpublished(&log)), (Some("errored"), 1));
    client.batch_execute(PUBLISHED).await.unwrap();
    let log = started(&server, &client, &isolate, log).await.stop().await;
    assert_eq!((state_of(&log, "public.t").as_deref(), unpublished(&log)), (Some("errored"), 0));
    assert_eq!((of_table(&log).len(), warnings.with(&missing("t").each_ref().map(String::as_str)).len()), (0, 1));
}

#[tokio::test]
async fn i11_a_table_that_leaves_the_publication_while_the_connector_runs_is_told_of_and_its_return_too() {
    for strategy in [CONSISTENT, WATERMARK] {
        for reads in [NONE, READ] {
            let Some(server) = server(&[]).await else { return };
            let warnings = Warnings::collect();
            let client = with_table(&server).await;
            client.batch_execute(PUBLISHED).await.unwrap();
            let mut running = started(&server, &client, &[strategy, reads], Log::default()).await;
            client.batch_execute(LEFT).await.unwrap();
            client.batch_execute(CHANGED).await.unwrap();
            running.until(|log| unpublished(log) == 1).await;
            let words = ["does not publish the table public.t", r#"ADD TABLE "public"."t""#, r"data-collections public\.t"];
            running.meanwhile(warnings.told(&words)).await;
            let log = running.crash().await;
            // Back before the connector begins again.
            client.batch_execute(PUBLISHED).await.unwrap();
            let mut running = started(&server, &client, &[strategy, reads], log).await;
            client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
            let expected = if reads == READ { ANEW.to_vec() } else { vec![ANEW[0], ANEW[3]] };
            running.until(|log| of_table(log).len() == expected.len()).await;
            let log = running.stop().await;
            assert_eq!((of_table(&log), unpublished(&log)), (expected.iter().map(ToString::to_string).collect(), 0));
            assert_eq!(warnings.with(&missing("t").each_ref().map(String::as_str)).len(), usize::from(reads == NONE));
        }
    }
}

#[tokio::test]
async fn i11_a_table_that_leaves_a_publication_which_no_start_would_take_is_remembered_too() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    let two_columns = "ALTER TABLE published ADD note text; ALTER PUBLICATION shop SET (publish = 'insert')";
    client.batch_execute(&format!("{PUBLISHED}; {two_columns}")).await.unwrap();
    let mut running = started(&server, &client, &[CONSISTENT, NONE], Log::default()).await;
    // A column list without the key keeps a start from following the log.
    client.batch_execute("ALTER PUBLICATION shop SET TABLE published (note)").await.unwrap();
    running.until(|log| unpublished(log) == 1).await;
    running.meanwhile(warnings.told(&["leaves out id of its key"])).await;
    let log = running.stop().await;
    client.batch_execute(&format!("{CHANGED}; ALTER PUBLICATION shop SET TABLE published, t")).await.unwrap();
    let log = started(&server, &client, &[CONSISTENT, NONE], log).await.stop().await;
    assert_eq!((warnings.with(&missing("t").each_ref().map(String::as_str)).len(), unpublished(&log)), (1, 0));
}

#[tokio::test]
async fn i11_a_start_publishes_a_lost_table_again_only_when_it_is_durable_that_it_was_lost() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    let entries = [CONSISTENT, NONE, ("publication.autocreate.mode", "filtered")];
    let log = started(&server, &client, &entries, Log::default()).await.stop().await;
    eventually(&client, INACTIVE).await;
    client.batch_execute(LEFT).await.unwrap();
    client.batch_execute(CHANGED).await.unwrap();
    let mut running = start(&config(&server, &[&ENTRIES[..], &entries].concat()), log.clone());
    running.refuse_confirmation();
    running.until(|log| unpublished(log) == 1).await;
    running.for_a_while(Duration::from_secs(1)).await;
    running.crash().await;
    assert_eq!(warnings.with(&missing("t").each_ref().map(String::as_str)), [""; 0]);
    // Nothing of that run was durable.
    let log = started(&server, &client, &entries, log).await.stop().await;
    assert_eq!((warnings.with(&missing("t").each_ref().map(String::as_str)).len(), unpublished(&log)), (1, 0));
}

#[tokio::test]
async fn i3_tables_of_another_server_are_not_taken_for_lost_ones() {
    let Some(server) = server(&[]).await else { return };
    let client = with_table(&server).await;
    let entries = [CONSISTENT, NONE, ("publication.autocreate.mode", "filtered")];
    let mut log = started(&server, &client, &entries, Log::default()).await.stop().await;
    let moved = log.state.iter().filter(|(_, offset)| offset.contains_key("tailwater.system")).map(|(partition, offset)| {
        let mut offset = offset.clone();
        offset.insert("tailwater.system".into(), "1".into());
        StateChange { partition: partition.clone(), offset: Some(offset) }
    });
    moved.collect::<Vec<_>>().iter().for_each(|change| log.state.apply(change));
    eventually(&client, INACTIVE).await;
    client.batch_execute(LEFT).await.unwrap();
    let (result, log) = start(&config(&server, &[&ENTRIES[..], &entries].concat()), log).ended().await;
    assert_eq!((result.is_err(), unpublished(&log)), (true, 0));
}

#[tokio::test]
async fn i11_a_table_that_the_start_publishes_again_is_told_of_also_where_no_table_has_a_state() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    let entries = [("snapshot.mode", "no_data"), NONE, ("publication.autocreate.mode", "filtered")];
    let config = config(&server, &[&ENTRIES[..], &entries].concat());
    let mut running = start(&config, Log::default());
    running.until(|log| !log.points.is_empty()).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    let mut log = running.stop().await;
    eventually(&client, INACTIVE).await;
    client.batch_execute(LEFT).await.unwrap();
    client.batch_execute(CHANGED).await.unwrap();
    for _ in 0..2 {
        let mut running = start(&config, log);
        running.meanwhile(warnings.told(&missing("t").each_ref().map(String::as_str))).await;
        running.meanwhile(eventually(&client, ACTIVE)).await;
        log = running.stop().await;
        eventually(&client, INACTIVE).await;
    }
    assert_eq!(warnings.with(&missing("t").each_ref().map(String::as_str)).len(), 1, "one start publishes it");
}

/// It has no state of its own by which a start could tell it from one that was never followed.
#[tokio::test]
async fn i11_a_table_that_was_followed_and_never_read_is_told_of_each_time_a_start_publishes_it() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let told = || warnings.with(&missing("late").each_ref().map(String::as_str)).len();
    let client = with_table(&server).await;
    let entries = [CONSISTENT, NONE, ("publication.autocreate.mode", "filtered")];
    let mut log = started(&server, &client, &entries, Log::default()).await.stop().await;
    eventually(&client, INACTIVE).await;
    client.batch_execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await.unwrap();
    for (count, left) in [(1, "ALTER PUBLICATION shop DROP TABLE late"), (2, "SELECT"), (2, "SELECT")] {
        let mut running = started(&server, &client, &entries, log).await;
        client.batch_execute("DELETE FROM late; INSERT INTO late VALUES (1)").await.unwrap();
        let records = running.log.records.len();
        running.records(records + 1).await;
        log = running.stop().await;
        assert_eq!((told(), unpublished(&log)), (count, 0));
        eventually(&client, INACTIVE).await;
        client.batch_execute(left).await.unwrap();
    }
}

#[tokio::test]
async fn i11_a_table_made_while_the_connector_runs_and_published_by_nobody_is_told_of_then() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    let mut running = started(&server, &client, &[NONE], Log::default()).await;
    client.batch_execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await.unwrap();
    running.meanwhile(warnings.told(&["does not publish the table public.late", r#"ADD TABLE "public"."late""#])).await;
    client.batch_execute("ALTER PUBLICATION shop ADD TABLE late").await.unwrap();
    running.meanwhile(warnings.told(&missing("late").each_ref().map(String::as_str))).await;
    running.stop().await;
    assert_eq!(warnings.with(&["does not publish the table public.late"]).len(), 1);
}

#[tokio::test]
async fn i11_a_table_that_the_start_publishes_again_is_told_of_or_read_anew_also_behind_a_crash() {
    for reads in [NONE, READ] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let told = || warnings.with(&missing("t").each_ref().map(String::as_str)).len();
        let client = with_table(&server).await;
        let entries = [CONSISTENT, reads, ("publication.autocreate.mode", "filtered")];
        let log = started(&server, &client, &entries, Log::default()).await.stop().await;
        assert_eq!(told(), 0, "the first start publishes it, too");
        eventually(&client, INACTIVE).await;
        client.batch_execute(LEFT).await.unwrap();
        client.batch_execute(CHANGED).await.unwrap();
        let mut running = start(&config(&server, &[&ENTRIES[..], &entries].concat()), log);
        running.until(|log| unpublished(log) == 1).await;
        let log = running.crash().await;
        let known = told();
        let mut running = started(&server, &client, &entries, log).await;
        if reads == READ {
            running.until(|log| of_table(log).len() == 3).await;
        }
        let log = running.stop().await;
        assert_eq!(of_table(&log), if reads == READ { &ANEW[..3] } else { &ANEW[..1] });
        assert_eq!((told() - known, unpublished(&log)), (usize::from(reads == NONE), 0));
    }
}

#[tokio::test]
async fn i11_operations_that_the_publication_leaves_out_are_told_of_at_the_start_and_when_that_changes() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    let publishes = async |operations: &str| {
        client.batch_execute(&format!("ALTER PUBLICATION shop SET (publish = '{operations}')")).await.unwrap();
    };
    let notes = async |entries: &[(&str, &str)]| {
        let report = PostgresConnector::probe(&config(&server, &[&ENTRIES[..], entries].concat())).await;
        let of_operations = |message: &str| message.contains("does not publish") && message.contains("such changes");
        report.findings.into_iter().filter(|finding| of_operations(&finding.message)).collect::<Vec<_>>()
    };
    publishes("insert").await;
    let all = "SET (publish = 'insert, update, delete, truncate')";
    let found = notes(&[]).await;
    assert!(found.len() == 1 && found[0].message.contains("does not publish update, delete, truncate"), "{found:?}");
    assert!(found[0].mend.as_ref().is_some_and(|mend| mend.contains(all)), "{found:?}");
    let skipped = ("skipped.operations", "u,d,t");
    assert_eq!(notes(&[skipped]).await.len(), 0);
    let log = started(&server, &client, &[skipped], Log::default()).await.stop().await;
    assert_eq!(warnings.with(&["publish = "]), [""; 0], "what is not wanted needs no flag");

    let mut running = started(&server, &client, &[], log).await;
    assert_eq!(warnings.with(&["does not publish update, delete, truncate", all, "signal execute-snapshot"]).len(), 1);
    publishes("insert, update, delete").await;
    running.meanwhile(warnings.told(&["publishes update, delete by now", "in no record"])).await;
    assert_eq!(warnings.with(&["does not publish truncate", all]).len(), 1);
    publishes("update, delete, truncate").await;
    running.meanwhile(warnings.told(&["publishes truncate by now"])).await;
    assert_eq!(warnings.with(&["does not publish insert", all]).len(), 1);
    running.stop().await;
}

/// The publication is for all tables: one that is unlogged leaves it, and is back once it is logged.
#[tokio::test]
async fn i11_a_table_that_is_unlogged_for_a_while_is_told_of_and_read_anew_where_that_is_asked_for() {
    for entries in [[WATERMARK, READ], [WATERMARK, NONE]] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = with_table(&server).await;
        client.batch_execute("DROP PUBLICATION shop; CREATE PUBLICATION shop FOR ALL TABLES").await.unwrap();
        let mut running = started(&server, &client, &entries, Log::default()).await;
        client.batch_execute("ALTER TABLE t SET UNLOGGED").await.unwrap();
        running.meanwhile(warnings.told(&["public.t is unlogged", r#"ALTER TABLE "public"."t" SET LOGGED;"#])).await;
        running.until(|log| unpublished(log) == 1).await;
        client.batch_execute(&format!("{CHANGED}; ALTER TABLE t SET LOGGED")).await.unwrap();
        let mut running = if entries[1] == READ {
            let (result, log) = running.ended().await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
            started(&server, &client, &entries, log).await
        } else {
            running.meanwhile(warnings.told(&missing("t").each_ref().map(String::as_str))).await;
            running
        };
        client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
        let expected: &[&str] = if entries[1] == READ { &ANEW } else { &[ANEW[0], ANEW[3]] };
        running.until(|log| of_table(log).len() >= expected.len()).await;
        assert_eq!(of_table(&running.stop().await), expected);
    }
}

#[tokio::test]
async fn what_a_look_sees_of_tables_and_of_the_publication_is_of_one_moment() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    let tables = "DROP PUBLICATION shop; CREATE PUBLICATION shop FOR ALL TABLES WITH (publish_via_partition_root = true);
                  CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE leaf PARTITION OF root DEFAULT";
    client.batch_execute(tables).await.unwrap();
    let mut running = started(&server, &client, &[WATERMARK, NONE], Log::default()).await;
    let toggled = async {
        for number in 0..60 {
            let changed = match number % 2 {
                0 => "ALTER TABLE t SET UNLOGGED; ALTER TABLE root DETACH PARTITION leaf",
                _ => "ALTER TABLE t SET LOGGED; ALTER TABLE root ATTACH PARTITION leaf DEFAULT",
            };
            client.batch_execute(changed).await.unwrap();
            tokio::time::sleep(Duration::from_millis(number * 7 % 50)).await;
        }
    };
    running.meanwhile(toggled).await;
    running.stop().await;
    // The publication holds whatever is logged.
    assert_eq!(warnings.with(&["does not publish"]), [""; 0]);
    assert!(!warnings.with(&["is unlogged"]).is_empty(), "{:#?}", warnings.with(&[]));
}

#[tokio::test]
async fn i11_a_table_that_somebody_takes_out_of_the_publication_and_adds_again_is_told_of() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = with_table(&server).await;
    client.batch_execute(PUBLISHED).await.unwrap();
    let mut running = started(&server, &client, &[WATERMARK, READ], Log::default()).await;
    // Between two looks, where neither of them sees the table unpublished.
    client.batch_execute(&format!("BEGIN; {LEFT}; {CHANGED}; {PUBLISHED}; COMMIT")).await.unwrap();
    running
        .meanwhile(warnings.told(&["public.t was taken out of the publication", r"execute-snapshot with data-collections public\.t"]))
        .await;
    assert_eq!(unpublished(&running.stop().await), 0);
}

#[tokio::test]
async fn i11_a_leaf_whose_rows_are_published_under_a_root_that_is_not_captured_by_now_is_told_of() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE leaf PARTITION OF root DEFAULT;
             CREATE PUBLICATION shop FOR ALL TABLES",
        )
        .await
        .unwrap();
    let settings = [("table.include.list", r"public\.leaf"), ("snapshot.mode", "no_data"), ("table.refresh.interval.ms", "100")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    running.meanwhile(eventually(&client, "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots")).await;
    client.batch_execute("ALTER PUBLICATION shop SET (publish_via_partition_root = true)").await.unwrap();
    let advice = ["under the name public.root, which is not captured", "capture public.root", "SET (publish_via_partition_root = false)"];
    running.meanwhile(warnings.told(&advice)).await;
    running.stop().await;
}
