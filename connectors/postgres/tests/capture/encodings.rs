//! Databases that are not in UTF-8.

use tailwater_api::ErrorKind;

use crate::harness::{Log, config, server, start};

#[tokio::test]
async fn databases_in_another_encoding_are_captured_in_utf_8() {
    let Some(server) = server(&[]).await else { return };
    let admin = server.connect("postgres").await.unwrap();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let sql = format!("CREATE DATABASE {encoding} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
        admin.batch_execute(&sql).await.unwrap();
        let database = encoding.to_lowercase();
        let client = server.connect(&database).await.unwrap();
        client
            .batch_execute(
                "CREATE TYPE mood AS ENUM ('größer'); CREATE TABLE \"straße\" (id int PRIMARY KEY, \"naïve\" text, m mood, many text[]);
                 INSERT INTO \"straße\" VALUES (1, 'Zoë', 'größer', '{é,NULL}');
                 CREATE TABLE with_range (LIKE \"straße\" INCLUDING ALL, r int4range); INSERT INTO with_range SELECT * FROM \"straße\"",
            )
            .await
            .unwrap();
        // The range makes the stream one of texts. A topic has no letter for ß.
        for (index, (strategy, tables)) in
            [("consistent", r"public\.straße"), ("watermark", r"public\.straße"), ("watermark", r"public\..*")].into_iter().enumerate()
        {
            let slot = format!("{database}_{index}");
            let entries = [
                ("database.dbname", &*database),
                ("slot.name", &slot),
                ("slot.drop.on.stop", "true"),
                ("snapshot.strategy", strategy),
                ("table.include.list", tables),
            ];
            let mut running = start(&config(&server, &entries), Log::default());
            running.until(|log| log.lines().iter().any(|line| line.starts_with("r public.stra_e")) && !log.state.is_empty()).await;
            client.batch_execute("UPDATE \"straße\" SET \"naïve\" = \"naïve\" || 'ñ'").await.unwrap();
            running.until(|log| log.lines().iter().any(|line| line.starts_with('u'))).await;
            let log = running.stop().await;
            let before = "ñ".repeat(index);
            let lines: Vec<_> = log.lines().into_iter().filter(|line| line.contains("stra_e")).collect();
            assert_eq!(lines[0], format!("r public.stra_e {{1}} null->{{1,Zoë{before},größer,[é,null]}}"), "{encoding}");
            assert_eq!(lines[1], format!("u public.stra_e {{1}} null->{{1,Zoë{before}ñ,größer,[é,null]}}"), "{encoding}");
        }
    }
}

#[tokio::test]
async fn a_text_of_no_encoding_that_is_not_utf_8_stops_the_source_with_its_remedy() {
    let Some(server) = server(&[]).await else { return };
    let admin = server.connect("postgres").await.unwrap();
    admin.batch_execute("CREATE DATABASE bare ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'").await.unwrap();
    let client = server.connect("bare").await.unwrap();
    client.batch_execute("CREATE TABLE notes (id int PRIMARY KEY, t text); INSERT INTO notes VALUES (1, 'fine')").await.unwrap();
    let mut running = start(&config(&server, &[("database.dbname", "bare")]), Log::default());
    running.until(|log| log.records.len() == 1 && !log.state.is_empty()).await;
    // By whom writes without an encoding, too.
    client.batch_execute("SET client_encoding = 'SQL_ASCII'; INSERT INTO notes VALUES (2, E'caf\\xe9')").await.unwrap();
    let streaming = running.failed().await;
    let entries = [("database.dbname", "bare"), ("slot.name", "again")];
    let reading = start(&config(&server, &entries), Log::default()).failed().await;
    for (error, is_in_the_log) in [(streaming, true), (reading, false)] {
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        let remedy = error.remedy().unwrap_or_default();
        assert!(remedy.contains("UTF-8") && remedy.contains("pg_drop_replication_slot") == is_in_the_log, "{remedy}");
    }
}
