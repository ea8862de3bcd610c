//! Publications and replica identities: which are made, which are extended, and what of them is heeded.

use tailwater_api::ErrorKind;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Log, Running, config, eventually, server, start};
use crate::signals::{NO_DATA, answered, is_asked_for, is_streaming, request};
use crate::warnings::Warnings;

const NAMED: &str = "SELECT coalesce(string_agg(tablename, ',' ORDER BY tablename), '') FROM pg_publication_tables WHERE pubname = $1";

#[tokio::test]
async fn each_mode_of_creation_makes_its_publication() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("CREATE PUBLICATION disabled FOR TABLE b").await.unwrap();
    for (mode, tables) in [("all_tables", "a,b"), ("filtered", "a"), ("no_tables", ""), ("disabled", "b")] {
        let entries = [
            ("publication.autocreate.mode", mode),
            ("publication.name", mode),
            ("slot.name", mode),
            ("table.include.list", r"public\.a"),
            ("publish.via.partition.root", "true"),
        ];
        let mut running = start(&config(&server, &entries), Log::default());
        running.until(|log| !log.state.is_empty()).await;
        eventually(&client, &format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{mode}'")).await;
        let found: String = client.query_one(NAMED, &[&mode]).await.unwrap().get(0);
        assert_eq!(found, tables, "{mode}");
        let by_root: bool = client.query_one("SELECT pubviaroot FROM pg_publication WHERE pubname = $1", &[&mode]).await.unwrap().get(0);
        assert_eq!(by_root, mode != "disabled", "{mode}");
        running.stop().await;
    }
}

#[tokio::test]
async fn what_somebody_said_of_a_table_stays_where_a_publication_is_extended() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY, v text, secret text); CREATE TABLE b (id int PRIMARY KEY);
             ALTER TABLE a REPLICA IDENTITY FULL; CREATE PUBLICATION shop FOR TABLE a WHERE (id > 10) WITH (publish = 'insert');",
        )
        .await
        .unwrap();
    let settings = [("publication.autocreate.mode", "filtered"), ("snapshot.mode", "no_data")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("INSERT INTO a VALUES (1), (11); INSERT INTO b VALUES (2)").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["c public.a {11} null->{11,null,null}", "c public.b {2} null->{2}"]);
}

#[tokio::test]
async fn rows_that_move_in_and_out_of_a_filter_come_and_go() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, secret text); ALTER TABLE t REPLICA IDENTITY FULL;
             CREATE TABLE narrow (id int PRIMARY KEY, v text, secret text);
             CREATE PUBLICATION shop FOR TABLE t WHERE (n > 10), narrow (id, v);
             INSERT INTO t VALUES (1, 5), (2, 20); INSERT INTO narrow VALUES (1, 'a', 's');",
        )
        .await
        .unwrap();
    let mut running =
        start(&config(&server, &[("publication.autocreate.mode", "disabled"), ("tombstones.on.delete", "false")]), Log::default());
    running.records(2).await;
    client
        .batch_execute(
            "UPDATE t SET n = 30 WHERE id = 1; UPDATE t SET n = 1 WHERE id = 2; UPDATE t SET n = 2 WHERE id = 2; UPDATE narrow SET v = 'b';",
        )
        .await
        .unwrap();
    running.records(5).await;
    assert_eq!(
        running.stop().await.lines(),
        [
            "r public.narrow {1} null->{1,a}",
            "r public.t {2} null->{2,20,null}",
            "c public.t {1} null->{1,30,null}",
            "d public.t {2} {2,20,null}->null",
            "u public.narrow {1} null->{1,b}",
        ]
    );
}

#[tokio::test]
async fn replica_identities_are_set_and_tables_of_which_the_log_tells_no_keys_are_known() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE keyless (a int, b text); CREATE TABLE coded (id int PRIMARY KEY, code text NOT NULL, v text);
             CREATE UNIQUE INDEX coded_code ON coded (code);",
        )
        .await
        .unwrap();
    let rules = ("replica.identity.autoset.values", r"public\.keyless:FULL,public\.coded:INDEX coded_code");
    let mut log = Log::default();
    for _ in 0..2 {
        let mut running = start(&config(&server, &[rules]), log);
        running.until(|log| !log.state.is_empty()).await;
        eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
        log = running.stop().await;
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    }
    let identities: String = client
        .query_one("SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class WHERE relname IN ('coded', 'keyless')", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(identities, "if");
    let mut running = start(&config(&server, &[rules, ("tombstones.on.delete", "false")]), log);
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    client
        .batch_execute(
            "INSERT INTO keyless VALUES (1, 'x'); UPDATE keyless SET b = 'y'; INSERT INTO coded VALUES (1, 'c', 'v');
             UPDATE coded SET code = 'd'; UPDATE coded SET id = 2; DELETE FROM coded;",
        )
        .await
        .unwrap();
    running.records(6).await;
    assert_eq!(
        running.stop().await.lines(),
        [
            "c public.keyless null null->{1,x}",
            "u public.keyless null {1,x}->{1,y}",
            "c public.coded {1} null->{1,c,v}",
            "u public.coded {1} {?,c,?}->{1,d,v}",
            // The log does not tell that the key changed, nor which row was deleted: said at the start, with the remedy.
            "u public.coded {2} null->{2,d,v}",
            "d public.coded {?} {?,d,?}->null",
        ]
    );
}

#[tokio::test]
async fn a_start_and_a_signal_go_on_beside_tables_that_are_locked_for_long() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
             CREATE TABLE captured (id int PRIMARY KEY, v int DEFAULT 1, w int GENERATED ALWAYS AS (id * 2) STORED, CHECK (v > 0));
             CREATE TABLE narrow (id int PRIMARY KEY, v text); CREATE TABLE aside (id int PRIMARY KEY);
             CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE leaf PARTITION OF root DEFAULT;
             CREATE PUBLICATION shop FOR TABLE t, captured WHERE (id > 1), narrow (id), aside, root",
        )
        .await
        .unwrap();
    let tables = ("table.include.list", r"public\.(t|captured|narrow|root|leaf)");
    let config = config(&server, &[NO_DATA, ("publication.autocreate.mode", "disabled"), ("table.refresh.interval.ms", "100"), tables]);
    // The creation of the slot waits for each transaction.
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    is_streaming(&client).await;
    let log = running.stop().await;
    eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;

    // As VACUUM FULL locks them
    let locker = server.connect("postgres").await.unwrap();
    locker.batch_execute("BEGIN; LOCK TABLE captured, narrow, aside, root IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut running = start(&config, log);
    is_streaming(&client).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    running.until(|log| log.lines().contains(&"c public.t {2} null->{2}".to_owned())).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    running.until(|log| log.lines().contains(&"r public.t {1} null->{1}".to_owned())).await;
    running.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_a_signal_asks_for_heeds_the_publication_as_it_is_then() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE PUBLICATION shop FOR TABLE t")
        .await
        .unwrap();
    let settings = [NO_DATA, ("publication.autocreate.mode", "disabled")];
    let mut running = start(&config(&server, &settings), Log::default());
    is_streaming(&client).await;
    client
        .batch_execute(
            "CREATE TABLE listed (id int PRIMARY KEY, v text, secret text); INSERT INTO listed VALUES (1, 'a', 's');
             CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10); INSERT INTO root VALUES (7);
             ALTER PUBLICATION shop SET (publish_via_partition_root = true);
             ALTER PUBLICATION shop SET TABLE t WHERE (id > 1), listed (id, v), root",
        )
        .await
        .unwrap();
    let tables = r#"["public.t", "public.listed", "public.root"]"#;
    for kind in ["incremental", "blocking"] {
        let known = running.log.records.len();
        let answer = request(&running, "execute-snapshot", &format!(r#"{{"data-collections": {tables}, "type": "{kind}"}}"#)).await;
        answered(&mut running, answer).await.unwrap();
        running.until(|log| !is_asked_for(log)).await;
        let mut lines = running.log.lines()[known..].to_vec();
        lines.sort();
        assert_eq!(lines, ["r public.listed {1} null->{1,a}", "r public.root {7} null->{7}", "r public.t {2} null->{2}"], "{kind}");
    }
    running.stop().await;
}

/// A table of 200 rows takes seconds so, by the first of them.
const SLOWLY: [(&str, &str); 5] = [
    ("incremental.snapshot.chunk.size", "10"),
    ("snapshot.max.bytes.per.second", "2000"),
    NO_DATA,
    ("publication.autocreate.mode", "disabled"),
    // Nobody looks what left the publication.
    ("table.refresh.interval.ms", "0"),
];

/// A table of which a part is published, in the midst of being read for a signal.
async fn half_read(server: &PostgresServer) -> (Client, Running) {
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int, secret text); INSERT INTO t SELECT i, 0, 's' FROM generate_series(1, 200) i;
             CREATE TABLE marks (id int PRIMARY KEY); CREATE PUBLICATION shop FOR TABLE t (id, v) WHERE (id > 10), marks",
        )
        .await
        .unwrap();
    let mut running = start(&config(server, &SLOWLY), Log::default());
    is_streaming(&client).await;
    let answer = request(&running, "execute-snapshot", r#"{"data-collections": ["public.t"]}"#).await;
    answered(&mut running, answer).await.unwrap();
    running.records(10).await;
    (client, running)
}

#[tokio::test]
async fn a_filter_and_a_list_that_change_while_a_table_is_read_hold_for_all_of_it_from_then_on() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let (client, mut running) = half_read(&server).await;
    assert!(is_asked_for(&running.log), "it is too fast to be changed in its midst");

    // The old filter keeps this out of the log, and a read that sees the new one does not see it.
    let open = server.connect("postgres").await.unwrap();
    open.batch_execute("BEGIN; UPDATE t SET v = 1 WHERE id = 3").await.unwrap();
    client.batch_execute("ALTER PUBLICATION shop DROP TABLE t").await.unwrap();
    // Told when several reads in a row have come to nothing for this.
    running.meanwhile(warnings.told(&["does not come on", "does not publish it any more"])).await;
    client.batch_execute("ALTER PUBLICATION shop SET TABLE t WHERE (id <= 150), marks").await.unwrap();
    running.meanwhile(warnings.told(&["does not come on", "began before its publication changed"])).await;
    // Comes behind all that was sent until then.
    client.batch_execute("INSERT INTO marks VALUES (1)").await.unwrap();
    running.until(|log| log.lines().iter().any(|line| line.starts_with("c public.marks "))).await;
    let is_new = |line: &&String| line.contains(",s}");
    assert_eq!(running.log.lines().iter().find(is_new), None, "nothing is read while a transaction from before runs");
    open.batch_execute("COMMIT").await.unwrap();
    running.until(|log| !is_asked_for(log)).await;
    client.batch_execute("UPDATE t SET v = 2 WHERE id IN (5, 155)").await.unwrap();
    running.until(|log| log.lines().last().is_some_and(|line| line.starts_with("u "))).await;

    let lines = running.stop().await.lines();
    assert_eq!(warnings.with(&["read from its beginning again"]).len(), 1);
    let (new, old): (Vec<String>, _) = lines.into_iter().partition(|line| is_new(&line));
    assert!(old.iter().all(|line| !line.contains("{3}") && !line.contains("{10}")), "the old filter held: {old:?}");
    let row = |id: i32| format!("r public.t {{{id}}} null->{{{id},{},s}}", i32::from(id == 3));
    let expected: Vec<String> = (1..=150).map(row).chain(["u public.t {5} null->{5,2,s}".to_owned()]).collect();
    assert_eq!(new, expected);
}

#[tokio::test]
async fn a_table_is_read_on_behind_a_restart_and_from_its_beginning_where_its_filter_changed_meanwhile() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let (client, running) = half_read(&server).await;
    let log = running.stop().await;
    let known = log.records.len();
    let mut running = start(&config(&server, &SLOWLY), log);
    running.records(known + 10).await;
    let log = running.stop().await;
    assert!(is_asked_for(&log), "it is too fast to be ended in its midst");
    let known = log.records.len();
    let row = |id: usize| format!("r public.t {{{id}}} null->{{{id},0}}");
    assert_eq!(log.lines(), (11..11 + known).map(row).collect::<Vec<_>>(), "each row once");
    assert!(warnings.with(&["read from its beginning again"]).is_empty());

    client.batch_execute("ALTER PUBLICATION shop SET TABLE t WHERE (id <= 30)").await.unwrap();
    let mut running = start(&config(&server, &SLOWLY[2..]), log);
    running.until(|log| !is_asked_for(log)).await;
    let row = |id: usize| format!("r public.t {{{id}}} null->{{{id},0,s}}");
    assert_eq!(running.stop().await.lines()[known..], (1..=30).map(row).collect::<Vec<_>>());
    assert_eq!(warnings.with(&["read from its beginning again"]).len(), 1);
}

#[tokio::test]
async fn i11_changes_that_the_server_leaves_out_for_want_of_the_publication_stop_the_source() {
    for version in [Version::V15, Version::V18] {
        let Some(server) = required_or_skip(PostgresServer::start(version, &[]).await) else { return };
        let client = server.connect("postgres").await.unwrap();
        client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
        client.batch_execute("ALTER ROLE postgres SET client_min_messages = 'error'").await.unwrap();
        let config = config(&server, &[]);
        let mut running = start(&config, Log::default());
        running.records(1).await;
        is_streaming(&client).await;
        client.batch_execute("DROP PUBLICATION shop; INSERT INTO t VALUES (2)").await.unwrap();
        let (ended, log) = running.ended().await;
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        // A new run makes the publication again; the change stays out of reach.
        let (ended, log) = start(&config, log).ended().await;
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        let steps = ["pg_drop_replication_slot", "snapshot.mode to when_needed"];
        assert!(error.remedy().is_some_and(|remedy| steps.iter().all(|step| remedy.contains(step))), "{error}");
        // What the remedy says.
        eventually(&client, "SELECT NOT active FROM pg_replication_slots").await;
        client.batch_execute("SELECT pg_drop_replication_slot('shop')").await.unwrap();
        let mut running = start(&crate::harness::config(&server, &[("snapshot.mode", "when_needed")]), log);
        running.records(3).await;
        assert_eq!(running.stop().await.lines(), [1, 1, 2].map(|id| format!("r public.t {{{id}}} null->{{{id}}}")));
    }
}
