//! What the configuration asks of single columns.

use tailwater_api::Value;

use crate::harness::{Log, config, server, show, start};

/// `show` writes at most 40 letters of a text in full; hashes of MD5 have 32.
const ADA: &str = "504fc21fc633da5927e0dca21971e377";
const BOB: &str = "98d31f58fd5496d5116f779b23d266f3";

#[tokio::test]
async fn masked_columns_never_leave_in_the_clear_and_keys_stay_keys() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE people (email text PRIMARY KEY, phone text, pin int NOT NULL, born date, large text);
             ALTER TABLE people ALTER large SET STORAGE EXTERNAL;
             CREATE TABLE hidden (email text PRIMARY KEY, v text);
             CREATE TABLE starred (code text PRIMARY KEY, v text);
             INSERT INTO people VALUES ('ada@example.org', NULL, 4711, '1815-12-10', repeat('x', 9000));
             INSERT INTO hidden VALUES ('ada@example.org', 'v');
             INSERT INTO starred VALUES ('one', 'v'), ('two', 'v');",
        )
        .await
        .unwrap();
    let keys = [
        ("column.mask.hash.MD5.with.salt.s", r"public\..*\.email"),
        ("column.mask.with.3.chars", r"public\.people\.(phone|pin|born|large),public\.starred\.code"),
        ("column.exclude.list", r"public\.hidden\.email"),
    ];
    let mut running = start(&config(&server, &keys), Log::default());
    running.records(4).await;
    client
        .batch_execute(
            "UPDATE people SET pin = 1;
             UPDATE people SET email = 'bob@example.org';
             DELETE FROM hidden;
             UPDATE starred SET code = 'three' WHERE code = 'two';",
        )
        .await
        .unwrap();
    running.records(13).await;
    let log = running.stop().await;
    let lines = log.lines();
    assert_eq!(lines[0], format!("r public.hidden {{{ADA}}} null->{{v}}"));
    assert_eq!(lines[1], format!("r public.people {{{ADA}}} null->{{{ADA},***,0,null,***}}"));
    assert_eq!(lines[2..4], ["r public.starred {one} null->{***,v}", "r public.starred {two} null->{***,v}"]);
    assert_eq!(lines[4], format!("u public.people {{{ADA}}} null->{{{ADA},***,0,null,***}}"));
    assert_eq!(lines[5], format!("d public.people {{{ADA}}} {{{ADA},***,0,null,***}}->null"));
    assert_eq!(lines[7], format!("c public.people {{{BOB}}} null->{{{BOB},***,0,null,***}}"));
    assert_eq!(lines[8..10], [format!("d public.hidden {{{ADA}}} {{?}}->null"), format!("- public.hidden {{{ADA}}}")]);
    assert_eq!(lines[10], "d public.starred {two} {***,?}->null");
    assert_eq!(lines[12], "c public.starred {three} null->{***,v}");
}

#[tokio::test]
async fn a_value_without_room_stops_the_source_where_that_is_asked_for_and_what_came_before_is_kept() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE numbers (id int PRIMARY KEY, n numeric(6,2)); INSERT INTO numbers VALUES (1, 1)").await.unwrap();
    let strict = config(&server, &[("event.converting.failure.handling.mode", "fail")]);
    let mut running = start(&strict, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    for sql in ["INSERT INTO numbers VALUES (2, 2)", "INSERT INTO numbers VALUES (3, 'NaN')"] {
        client.batch_execute(sql).await.unwrap();
    }
    let (result, log) = running.ended().await;
    assert!(result.unwrap_err().to_string().contains("event.converting.failure.handling.mode"));
    assert_eq!(log.records.len(), 2, "{:?}", log.lines());
    // Also in the midst of a transaction.
    client.batch_execute("INSERT INTO numbers VALUES (4, 4), (5, 'NaN')").await.unwrap();
    let mut running = start(&config(&server, &[]), log);
    running.records(5).await;
    client.batch_execute("INSERT INTO numbers VALUES (6, 6), (7, 'NaN')").await.unwrap();
    running.records(7).await;
    let running = start(&strict, running.stop().await);
    client.batch_execute("INSERT INTO numbers VALUES (8, 8), (9, 'NaN')").await.unwrap();
    let (result, log) = running.ended().await;
    result.unwrap_err();
    // Without it the values are null, and nothing comes twice or not at all.
    let mut running = start(&config(&server, &[]), log);
    running.records(9).await;
    let ids: Vec<_> = running.stop().await.records.iter().map(|record| show(&record.key.value)).collect();
    assert_eq!(ids, ["{1}", "{2}", "{3}", "{4}", "{5}", "{6}", "{7}", "{8}", "{9}"]);
}

#[tokio::test]
async fn i11_an_event_that_cannot_be_decoded_is_left_out_and_counted_where_that_is_asked_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE numbers (id int PRIMARY KEY, n numeric(6,2)); INSERT INTO numbers VALUES (1, 1)").await.unwrap();
    let mut log = Log::default();
    let mut expected = 1;
    for mode in ["warn", "skip", "ignore"] {
        let keys = [("event.converting.failure.handling.mode", "fail"), ("event.processing.failure.handling.mode", mode)];
        let mut running = start(&config(&server, &keys), log);
        running.until(|log| !log.state.is_empty()).await;
        client
            .batch_execute(&format!(
                "INSERT INTO numbers VALUES ({0}, 2), ({1}, 'NaN'), ({2}, 3); UPDATE numbers SET n = 4 WHERE id = {1};
                 UPDATE numbers SET n = 'NaN' WHERE id = {2}",
                expected + 1,
                expected + 2,
                expected + 3
            ))
            .await
            .unwrap();
        let update = format!("u public.numbers {{{}}}", expected + 2);
        running.until(|log| log.lines().last().is_some_and(|line| line.starts_with(&update))).await;
        assert_eq!(running.count("source_unreadable_events"), 2, "{mode}");
        // What was left out is passed: nothing of it comes with the next run.
        log = running.stop().await;
        expected += 3;
    }
    let ids: Vec<_> = log.records.iter().map(|record| show(&record.key.value)).collect();
    assert_eq!(ids, ["{1}", "{2}", "{4}", "{3}", "{5}", "{7}", "{6}", "{8}", "{10}", "{9}"]);
}

#[tokio::test]
async fn names_that_become_equal_are_told_apart_and_shards_share_a_topic() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            r#"CREATE TABLE shard_1 (id int PRIMARY KEY, "a-b" int, "a.b" int); CREATE TABLE shard_2 (LIKE shard_1 INCLUDING ALL);
               INSERT INTO shard_1 VALUES (1, 10, 11); INSERT INTO shard_2 VALUES (1, 20, 21);"#,
        )
        .await
        .unwrap();
    let keys = [
        ("field.name.adjustment.mode", "avro"),
        ("topic.naming.strategy", "io.debezium.schema.DefaultRegexTopicNamingStrategy"),
        ("topic.regex", r"(.*)\.shard_.*"),
        ("topic.replacement", "$1.all"),
    ];
    let mut running = start(&config(&server, &keys), Log::default());
    running.records(2).await;
    let log = running.stop().await;
    assert_eq!(log.lines(), ["r all {1,shop.shard_1} null->{1,10,11}", "r all {1,shop.shard_2} null->{1,20,21}"]);
    let (_, row) = log.records[0].value.schema.as_ref().unwrap().field("after").unwrap();
    let names: Vec<_> = row.fields().iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["id", "a_b", "a_b_2"]);
    assert_ne!(log.records[0].key.value, Value::Null);
}
