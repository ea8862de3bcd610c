//! What changes of rows become.

use std::sync::Arc;

use tailwater_api::Value;
use tailwater_api::envelope::Envelope;

use crate::harness::{Log, Tight, config, line, server, show, source_field, start, start_within};

#[tokio::test]
async fn every_operation_becomes_its_records() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email varchar(80), vip boolean DEFAULT false);
             INSERT INTO customers VALUES (1, 'Ada', 'ada@example.org', true), (2, 'Grace', NULL, false);",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[("skipped.operations", "none")]), Log::default());
    running.records(2).await;
    client
        .batch_execute(
            "INSERT INTO customers VALUES (3, 'Edsger', 'e@example.org');
             UPDATE customers SET email = 'grace@example.org' WHERE id = 2;
             UPDATE customers SET id = 30 WHERE id = 3;
             DELETE FROM customers WHERE id = 1;
             TRUNCATE customers;",
        )
        .await
        .unwrap();
    running.records(10).await;
    let log = running.stop().await;
    assert_eq!(
        log.lines(),
        [
            "r public.customers {1} null->{1,Ada,ada@example.org,true}",
            "r public.customers {2} null->{2,Grace,null,false}",
            "c public.customers {3} null->{3,Edsger,e@example.org,false}",
            "u public.customers {2} null->{2,Grace,grace@example.org,false}",
            "d public.customers {3} {3,?,?,?}->null",
            "- public.customers {3}",
            "c public.customers {30} null->{30,Edsger,e@example.org,false}",
            "d public.customers {1} {1,?,?,?}->null",
            "- public.customers {1}",
            "t public.customers null null->null",
        ]
    );
    // One multi-statement text is one transaction here; the first transaction after a snapshot has none before it.
    assert!(show(&source_field(&log.records[2], "sequence")).starts_with("[null,\""));
    assert_eq!(source_field(&log.records[0], "snapshot"), "first".into());
    assert_eq!(source_field(&log.records[1], "snapshot"), "last".into());
    let names: Vec<_> = log.records[4].headers.iter().map(|header| header.name.to_string()).collect();
    assert_eq!(names, ["__debezium.newkey"]);
    let schema = |index: usize| log.records[index].value.schema.as_ref().unwrap().id();
    assert_eq!(schema(0), schema(2), "snapshot and stream share their schemas");
}

#[tokio::test]
async fn before_images_follow_the_replica_identity_and_unchanged_values_stay_known() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE plain (id int PRIMARY KEY, small text, large text);
             CREATE TABLE whole (id int PRIMARY KEY, small text, large text);
             ALTER TABLE plain ALTER large SET STORAGE EXTERNAL;
             ALTER TABLE whole ALTER large SET STORAGE EXTERNAL;
             ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE keyless (a int, b text);
             ALTER TABLE keyless REPLICA IDENTITY FULL;",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "INSERT INTO plain VALUES (1, 'a', repeat('x', 9000)); UPDATE plain SET small = 'b';
             INSERT INTO whole VALUES (1, 'a', repeat('x', 9000)); UPDATE whole SET small = 'b'; DELETE FROM whole;
             INSERT INTO keyless VALUES (1, NULL); UPDATE keyless SET b = 'x'; DELETE FROM keyless;",
        )
        .await
        .unwrap();
    running.records(10).await;
    assert_eq!(
        running.stop().await.lines(),
        [
            "c public.plain {1} null->{1,a,text of 9000}",
            "u public.plain {1} null->{1,b,unchanged}",
            "c public.whole {1} null->{1,a,text of 9000}",
            "u public.whole {1} {1,a,text of 9000}->{1,b,text of 9000}",
            "d public.whole {1} {1,b,text of 9000}->null",
            "- public.whole {1}",
            "c public.keyless null null->{1,null}",
            "u public.keyless null {1,null}->{1,x}",
            "d public.keyless null {1,x}->null",
            "- public.keyless null",
        ]
    );
}

#[tokio::test]
async fn filters_keys_and_skipped_operations_are_heeded() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE kept (id int PRIMARY KEY, secret text, note text);
             CREATE TABLE hidden (id int PRIMARY KEY);
             INSERT INTO kept VALUES (1, 's', 'n'); INSERT INTO hidden VALUES (1);",
        )
        .await
        .unwrap();
    let settings = [
        ("table.include.list", r"PUBLIC\.Kept"),
        ("column.exclude.list", r"public\.kept\.(id|secret)"),
        ("skipped.operations", "u,t"),
        ("tombstones.on.delete", "false"),
    ];
    let mut running = start(&config(&server, &settings), Log::default());
    running.records(1).await;
    client
        .batch_execute(
            "INSERT INTO hidden VALUES (2); UPDATE kept SET note = 'm'; DELETE FROM kept; INSERT INTO kept VALUES (2, 't', 'o');",
        )
        .await
        .unwrap();
    running.records(3).await;
    // A key column that the filters leave out of the row stays in the key, in snapshot and stream alike (I7).
    let expected = ["r public.kept {1} null->{n}", "d public.kept {1} {?}->null", "c public.kept {2} null->{o}"];
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn definitions_changed_while_streaming_are_followed() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text);").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "INSERT INTO t VALUES (1, 'a');
             ALTER TABLE t ADD COLUMN w int NOT NULL DEFAULT 5; INSERT INTO t VALUES (2, 'b');
             ALTER TABLE t DROP COLUMN v; INSERT INTO t VALUES (3, 7);
             CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE later (id int PRIMARY KEY, m mood); INSERT INTO later VALUES (1, 'happy');
             DROP TABLE later;",
        )
        .await
        .unwrap();
    running.records(4).await;
    let log = running.stop().await;
    assert_eq!(log.lines()[..3], ["c public.t {1} null->{1,a}", "c public.t {2} null->{2,b,5}", "c public.t {3} null->{3,7}"]);
    // Dropped before its row was decoded: only the log knows the table.
    assert!(log.lines()[3].starts_with("c public.later {1} null->{1"), "{}", log.lines()[3]);
}

#[tokio::test]
async fn logical_messages_become_records_in_and_outside_transactions() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "BEGIN; SELECT pg_logical_emit_message(true, 'in', 'one'); INSERT INTO t VALUES (1);
             SELECT pg_logical_emit_message(false, 'out', 'two'); COMMIT;",
        )
        .await
        .unwrap();
    running.records(3).await;
    let log = running.stop().await;
    let prefixes: Vec<_> = log.records.iter().map(line).collect();
    assert_eq!(prefixes, ["? message {out}", "? message {in}", "c public.t {1} null->{1}"]);
    let source = |index: usize| log.records[index].value.value.as_struct().unwrap()[2].as_struct().unwrap().to_vec();
    assert_eq!(source(0)[11], Value::Null, "outside a transaction there is no txId");
    assert_ne!(source(1)[11], Value::Null);
}

#[tokio::test]
async fn options_of_the_plug_in_that_the_configuration_names_stand_in_place_of_ours() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[("slot.stream.params", "messages=false;binary=false")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("SELECT pg_logical_emit_message(true, 'p', 'c'); INSERT INTO t VALUES (1)").await.unwrap();
    running.records(1).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {1} null->{1}"]);
}

#[tokio::test]
async fn a_type_that_is_read_as_text_turns_a_binary_stream_into_text() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let config = config(&server, &[]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    running.records(1).await;
    client.batch_execute("ALTER TABLE t ADD r int4range; INSERT INTO t VALUES (2, '[1,5)')").await.unwrap();
    let (result, log) = running.ended().await;
    assert!(result.unwrap_err().kind().is_transient(), "the daemon starts it again");
    let mut running = start(&config, log);
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["c public.t {1} null->{1}", "c public.t {2} null->{2,[1,5)}"]);
}

#[tokio::test]
async fn keys_swapped_twice_in_one_transaction_are_told_step_by_step() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')").await.unwrap();
    let mut running = start(&config(&server, &[("tombstones.on.delete", "false")]), Log::default());
    running.records(2).await;
    let swap = "UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0;";
    client.batch_execute(&format!("BEGIN; {swap} {swap} COMMIT;")).await.unwrap();
    running.records(14).await;
    let lines = running.stop().await.lines();
    let mut expected = Vec::new();
    for (one, two) in [("a", "b"), ("b", "a")] {
        for (from, to, v) in [(1, 0, one), (2, 1, two), (0, 2, one)] {
            expected.push(format!("d public.t {{{from}}} {{{from},?}}->null"));
            expected.push(format!("c public.t {{{to}}} null->{{{to},{v}}}"));
        }
    }
    assert_eq!(lines[2..], expected);
}

#[tokio::test]
async fn updates_without_a_change_are_dropped_where_that_is_known() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE whole (id int PRIMARY KEY, v text, noise int); ALTER TABLE whole REPLICA IDENTITY FULL;
             ALTER TABLE whole ALTER v SET STORAGE EXTERNAL; CREATE TABLE plain (id int PRIMARY KEY, v text);",
        )
        .await
        .unwrap();
    let settings = [("skip.messages.without.change", "true"), ("column.exclude.list", r"public\.whole\.noise")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "INSERT INTO whole VALUES (1, repeat('x', 9000), 0); UPDATE whole SET noise = 1; UPDATE whole SET v = v; UPDATE whole SET id = 2;
             INSERT INTO plain VALUES (1, 'a'); UPDATE plain SET v = 'a';",
        )
        .await
        .unwrap();
    running.records(6).await;
    let lines = running.stop().await.lines();
    let operations: Vec<_> = lines.iter().map(|line| &line[..line.find('}').unwrap()]).collect();
    let expected =
        ["c public.whole {1", "d public.whole {1", "- public.whole {1", "c public.whole {2", "c public.plain {1", "u public.plain {1"];
    assert_eq!(operations, expected);
}

#[tokio::test]
async fn a_definition_that_the_log_does_not_describe_is_followed_too() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (a int NOT NULL, b int NOT NULL); ALTER TABLE t REPLICA IDENTITY FULL").await.unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    let steps = ["", "ALTER TABLE t ADD PRIMARY KEY (b)", "ALTER TABLE t DROP CONSTRAINT t_pkey", "ANALYZE t"];
    for (index, step) in steps.into_iter().enumerate() {
        client.batch_execute(&format!("{step}; INSERT INTO t VALUES ({index}, 1{index})")).await.unwrap();
        running.records(index + 1).await;
    }
    let log = running.stop().await;
    let expected =
        ["c public.t null null->{0,10}", "c public.t {11} null->{1,11}", "c public.t null null->{2,12}", "c public.t null null->{3,13}"];
    assert_eq!(log.lines(), expected);
    let schema = |index: usize| log.records[index].value.schema.as_ref().unwrap().id();
    assert_eq!(schema(2), schema(3), "a description that says nothing new leaves the schemas as they are");
}

#[tokio::test]
async fn i6_few_rows_among_many_of_others_leave_in_small_batches() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE quiet (id int PRIMARY KEY); CREATE TABLE loud (v text);").await.unwrap();
    let settings = [("table.include.list", r"public\.quiet"), ("publication.autocreate.mode", "all_tables"), ("snapshot.mode", "no_data")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..200 LOOP INSERT INTO quiet VALUES (i); INSERT INTO loud VALUES (repeat('x', 100000)); END LOOP; END $$",
        )
        .await
        .unwrap();
    running.records(200).await;
    let log = running.stop().await;
    let ends: Vec<usize> = log.points.iter().map(|(records, _)| *records).collect();
    let largest = ends.windows(2).map(|pair| pair[1] - pair[0]).max();
    // Each row may hold a receive buffer of its own.
    assert!(largest.is_some_and(|largest| largest <= 8), "{ends:?}");
}

#[tokio::test]
async fn values_that_the_log_does_not_hold_are_read_again_where_that_is_asked_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id numeric PRIMARY KEY, n int, big text, flag boolean, other text);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;",
        )
        .await
        .unwrap();
    let settings = [
        ("post.processors", "again"),
        ("again.type", "io.debezium.processors.reselect.ReselectColumnsPostProcessor"),
        ("again.reselect.columns.include.list", r"public\.t:(big|flag)"),
        ("decimal.handling.mode", "string"),
        ("snapshot.mode", "no_data"),
    ];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    let row = "INSERT INTO t VALUES (1.5, 1, repeat('x', 9000), NULL, repeat('y', 9000))";
    client.batch_execute(&format!("BEGIN; {row}; UPDATE t SET n = 2; UPDATE t SET flag = true; COMMIT")).await.unwrap();
    running.records(3).await;
    client.batch_execute("BEGIN; UPDATE t SET n = 3; DELETE FROM t; COMMIT").await.unwrap();
    running.records(6).await;
    assert_eq!(
        running.stop().await.lines(),
        [
            // Null in the log, and true by the time it is read again.
            "c public.t {1.5} null->{1.5,1,text of 9000,true,text of 9000}",
            "u public.t {1.5} null->{1.5,2,text of 9000,true,unchanged}",
            "u public.t {1.5} null->{1.5,2,text of 9000,true,unchanged}",
            "u public.t {1.5} null->{1.5,3,unchanged,true,unchanged}",
            "d public.t {1.5} {1.5,?,?,?,?}->null",
            "- public.t {1.5}",
        ]
    );
}

#[tokio::test]
async fn a_table_of_as_many_columns_as_the_server_takes_is_captured_and_names_are_no_patterns() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let columns: Vec<String> = (1..1600).map(|index| format!("c{index} int2 DEFAULT {index}")).collect();
    let others = r#"CREATE TABLE "aXb" (id int PRIMARY KEY); CREATE TABLE "a%b" (id int PRIMARY KEY); CREATE SCHEMA "pgXtempX1";
                    CREATE TABLE "pgXtempX1".a_b (id int PRIMARY KEY);"#;
    client
        .batch_execute(&format!("{others} CREATE TABLE a_b (id int PRIMARY KEY, {}); INSERT INTO a_b VALUES (1);", columns.join(", ")))
        .await
        .unwrap();
    let mut running = start(&config(&server, &[("table.include.list", r"public\.a_b,pgXtempX1\..*")]), Log::default());
    running.records(1).await;
    client
        .batch_execute(r#"INSERT INTO "aXb" VALUES (1); INSERT INTO "a%b" VALUES (1); INSERT INTO a_b VALUES (2); INSERT INTO "pgXtempX1".a_b VALUES (3)"#)
        .await
        .unwrap();
    running.records(3).await;
    let log = running.stop().await;
    let numbers: Vec<String> = (1..1600).map(|index| index.to_string()).collect();
    let row = |id| format!("{{{id},{}}}", numbers.join(","));
    let expected = [
        format!("r public.a_b {{1}} null->{}", row(1)),
        format!("c public.a_b {{2}} null->{}", row(2)),
        "c pgXtempX1.a_b {3} null->{3}".into(),
    ];
    assert_eq!(log.lines(), expected);
}

#[tokio::test]
async fn a_row_far_larger_than_the_budget_is_captured_whole() {
    const LENGTH: usize = 300_000_000;
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(&format!(
            "CREATE TABLE documents (id int PRIMARY KEY, t text);
             INSERT INTO documents VALUES (1, repeat('x', {LENGTH})), (2, 'small')"
        ))
        .await
        .unwrap();
    let budget = Arc::new(Tight::new(1 << 20));
    let mut running = start_within(&config(&server, &[]), Log::default(), budget);
    let is_whole = |log: &mut Log, line: &str| {
        let index = log.lines().iter().position(|written| written.starts_with(line)).unwrap();
        let record = log.records.swap_remove(index);
        let after = Envelope::of(&record).unwrap().after().as_struct().unwrap().to_vec();
        let Value::String(text) = &after[1] else { panic!("a text") };
        assert!(text.len() == LENGTH && text.bytes().all(|letter| letter == b'x'), "{line}");
    };
    running.until(|log| log.records.len() == 2 && !log.state.is_empty()).await;
    is_whole(&mut running.log, "r public.documents {1}");
    client
        .batch_execute("INSERT INTO documents SELECT 3, t FROM documents WHERE id = 1; INSERT INTO documents VALUES (4, 'small')")
        .await
        .unwrap();
    running.records(3).await;
    is_whole(&mut running.log, "c public.documents {3}");
    assert_eq!(running.stop().await.records.len(), 2);
}
