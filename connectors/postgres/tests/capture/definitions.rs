//! Tables that come, change and go while the source runs and while it does not.

use tailwater_api::Value;

use crate::harness::{Log, config, eventually, server, show, source_field, start};

/// Nothing is read at the start, so that what is written from then on is streamed.
const STREAM: (&str, &str) = ("snapshot.mode", "no_data");

#[tokio::test]
async fn tables_made_dropped_recreated_and_renamed_while_streaming_are_followed() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE old (id int PRIMARY KEY); CREATE TABLE hidden (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[STREAM, ("table.exclude.list", r"public\.hidden.*")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "INSERT INTO old VALUES (1); DROP TABLE old; CREATE TABLE old (name text PRIMARY KEY, n int); INSERT INTO old VALUES ('a', 1);
             CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1);
             ALTER TABLE fresh RENAME TO hidden2; INSERT INTO hidden2 VALUES (2); ALTER TABLE hidden2 RENAME TO shown; INSERT INTO shown VALUES (3);
             ALTER TABLE hidden RENAME TO swapped; ALTER TABLE shown RENAME TO hidden; INSERT INTO swapped VALUES (4); INSERT INTO hidden VALUES (5);
             CREATE SCHEMA s; ALTER TABLE swapped SET SCHEMA s; INSERT INTO s.swapped VALUES (6);",
        )
        .await
        .unwrap();
    running.records(6).await;
    let lines = running.stop().await.lines();
    // The first row was logged by a table that is gone; its key is what the log marks.
    let expected = [
        "c public.old {1} null->{1}",
        "c public.old {a} null->{a,1}",
        "c public.fresh {1} null->{1}",
        "c public.shown {3} null->{3}",
        "c public.swapped {4} null->{4}",
        "c s.swapped {6} null->{6}",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn definitions_between_rows_of_one_transaction_each_hold_for_the_rows_behind_them() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int)").await.unwrap();
    let mut running = start(&config(&server, &[STREAM]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "BEGIN; INSERT INTO t VALUES (1, 'x', 7); ALTER TABLE t ADD c text NOT NULL DEFAULT 'def'; INSERT INTO t VALUES (2, 'x', 7, 'y');
             ALTER TABLE t DROP a; UPDATE t SET b = 8 WHERE id = 1; ALTER TABLE t RENAME b TO a; INSERT INTO t VALUES (3, 9, 'z');
             ALTER TABLE t ALTER a TYPE text; INSERT INTO t VALUES (4, 'ten', 'w'); COMMIT;",
        )
        .await
        .unwrap();
    running.records(5).await;
    let log = running.stop().await;
    let expected = [
        "c public.t {1} null->{1,x,7}",
        "c public.t {2} null->{2,x,7,y}",
        "u public.t {1} null->{1,8,def}",
        "c public.t {3} null->{3,9,z}",
        "c public.t {4} null->{4,ten,w}",
    ];
    assert_eq!(log.lines(), expected);
    let fields = |index: usize| {
        let row = &log.records[index].value.schema.as_ref().unwrap().fields()[1].schema;
        row.fields().iter().map(|field| field.name.to_string()).collect::<Vec<_>>().join(",")
    };
    assert_eq!([fields(0), fields(1), fields(2), fields(3)], ["id,a,b", "id,a,b,c", "id,b,c", "id,a,c"]);
}

#[tokio::test]
async fn definitions_changed_while_the_source_is_down_hold_for_the_rows_behind_them() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE idle (id int PRIMARY KEY, a text)").await.unwrap();
    let config = config(&server, &[STREAM]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    let log = running.stop().await;
    eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    client
        .batch_execute(
            "INSERT INTO t VALUES (1, 'x'); ALTER TABLE t DROP a, ADD b int; INSERT INTO t VALUES (2, 7);
             ALTER TABLE idle ADD b int; ALTER TABLE idle DROP a;",
        )
        .await
        .unwrap();
    let mut running = start(&config, log);
    running.records(2).await;
    client.batch_execute("INSERT INTO idle VALUES (1, 5)").await.unwrap();
    running.records(3).await;
    let expected = ["c public.t {1} null->{1,x}", "c public.t {2} null->{2,7}", "c public.idle {1} null->{1,5}"];
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn partitions_come_and_go_under_their_own_names_or_their_roots() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    for (by_root, expected) in [
        ("true", ["c events", "c events", "u events", "c events", "d events", "- events", "c events", "c one", "t events"].as_slice()),
        ("false", ["c one", "c two", "u two", "c three", "d two", "- two", "c three", "c one", "t three", "t two"].as_slice()),
    ] {
        client
            .batch_execute(
                "DROP TABLE IF EXISTS events, one, two, three; CREATE TABLE events (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
                 CREATE TABLE one PARTITION OF events FOR VALUES FROM (0) TO (10);
                 CREATE TABLE two (v text, id int PRIMARY KEY); ALTER TABLE events ATTACH PARTITION two FOR VALUES FROM (10) TO (20);",
            )
            .await
            .unwrap();
        let entries = [
            ("publish.via.partition.root", by_root),
            ("publication.name", if by_root == "true" { "by_root" } else { "by_leaf" }),
            ("slot.name", if by_root == "true" { "by_root" } else { "by_leaf" }),
            ("skipped.operations", "none"),
            STREAM,
        ];
        let mut running = start(&config(&server, &entries), Log::default());
        running.until(|log| !log.state.is_empty()).await;
        client
            .batch_execute(
                "INSERT INTO events VALUES (1, 'a'), (11, 'b'); UPDATE events SET v = 'c' WHERE id = 11;
                 CREATE TABLE three PARTITION OF events FOR VALUES FROM (20) TO (30); INSERT INTO events VALUES (21, 'd');
                 DELETE FROM events WHERE id = 11; INSERT INTO events VALUES (22, 'e');
                 ALTER TABLE events DETACH PARTITION one; INSERT INTO one VALUES (2, 'f'); TRUNCATE events;",
            )
            .await
            .unwrap();
        running.records(expected.len()).await;
        let log = running.stop().await;
        let short: Vec<_> =
            log.lines().iter().map(|line| line.replace("public.", "").split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        // The order in which one TRUNCATE names its tables is the server's.
        let (rows, truncated) = short.split_at(8);
        assert_eq!(rows, &expected[..8], "by root: {by_root}");
        let mut truncated = truncated.to_vec();
        truncated.sort_unstable();
        assert_eq!(truncated, &expected[8..]);
        assert!(log.lines()[1].ends_with("{11} null->{11,b}") || by_root == "false", "columns by name: {}", log.lines()[1]);
        assert_eq!(source_field(&log.records[0], "table"), expected[0][2..].into());
    }
}

#[tokio::test]
async fn tables_that_are_not_logged_are_left_out() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE UNLOGGED TABLE lost (id int PRIMARY KEY); INSERT INTO lost VALUES (1); CREATE TABLE kept (id int PRIMARY KEY);
             INSERT INTO kept VALUES (1); CREATE MATERIALIZED VIEW copied AS SELECT * FROM kept; CREATE VIEW seen AS SELECT * FROM kept;",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[("publication.autocreate.mode", "filtered")]), Log::default());
    running.records(1).await;
    client.batch_execute("INSERT INTO lost VALUES (2); REFRESH MATERIALIZED VIEW copied; INSERT INTO kept VALUES (2)").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["r public.kept {1} null->{1}", "c public.kept {2} null->{2}"]);
}

/// `CREATE public.t id,v` for each record of the topic of definitions.
fn told(log: &Log) -> Vec<String> {
    let of_change = |record: &tailwater_api::Record| {
        let Value::Array(changes) = &record.value.value.as_struct().unwrap()[5] else { panic!("no changes: {record:?}") };
        let [Value::Struct(change)] = &**changes else { panic!("not one change: {changes:?}") };
        let Value::Array(columns) = &change[2].as_struct().unwrap()[2] else { panic!("no columns: {change:?}") };
        let columns: Vec<_> = columns
            .iter()
            .map(|column| {
                let column = column.as_struct().unwrap();
                format!("{}:{}{}", show(&column[0]), show(&column[4]), if column[9] == Value::Boolean(true) { "?" } else { "" })
            })
            .collect();
        format!("{} {} {}", show(&change[0]), show(&change[1]).replace('"', ""), columns.join(" "))
    };
    log.records.iter().filter(|record| &*record.topic == "shop").map(of_change).collect()
}

#[tokio::test]
async fn definitions_are_told_once_where_that_is_asked_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v varchar(10)); CREATE TABLE idle (id int PRIMARY KEY); INSERT INTO t VALUES (1, 'a');",
        )
        .await
        .unwrap();
    let settings = config(&server, &[("include.schema.changes", "true")]);
    let mut running = start(&settings, Log::default());
    running.records(3).await;
    client
        .batch_execute(
            "BEGIN; INSERT INTO t VALUES (2, 'b'); ALTER TABLE t ADD n numeric(5,2) NOT NULL DEFAULT 1; INSERT INTO t VALUES (3, 'c'); \
             ALTER TABLE t DROP v; INSERT INTO t VALUES (4); COMMIT; CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1);",
        )
        .await
        .unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.later"))).await;
    let log = running.stop().await;
    // Of a column that is gone by then the catalog says nothing, but the log does.
    let mut expected = vec![
        "CREATE postgres.public.idle id:int4",
        "CREATE postgres.public.t id:int4 v:varchar?",
        "ALTER postgres.public.t id:int4 v:varchar? n:numeric",
        "ALTER postgres.public.t id:int4 n:numeric",
        "CREATE postgres.public.later id:int4",
    ];
    assert_eq!(told(&log), expected);

    // A definition changed while nobody looked is told in front of the first row under it, and nothing is told twice.
    client.batch_execute("ALTER TABLE idle ADD v text").await.unwrap();
    let mut running = start(&settings, log);
    client.batch_execute("INSERT INTO t VALUES (5); INSERT INTO later VALUES (2); INSERT INTO idle VALUES (1, 'x')").await.unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.idle"))).await;
    expected.push("ALTER postgres.public.idle id:int4 v:text?");
    assert_eq!(told(&running.stop().await), expected);
}

#[tokio::test]
async fn definitions_are_not_told_unless_that_is_asked_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.records(1).await;
    client.batch_execute("ALTER TABLE t ADD v text; INSERT INTO t VALUES (2, 'x')").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["r public.t {1} null->{1}", "c public.t {2} null->{2,x}"]);
}
