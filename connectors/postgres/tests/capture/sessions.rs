//! What SQL connections begin with, and what is asked of the server beside the stream.

use tailwater_api::source::SourceConnector;
use tailwater_api::{ErrorKind, Value};
use tailwater_postgres::PostgresConnector;

use crate::harness::{Log, config, eventually, server, source_field, start};

#[tokio::test]
async fn each_connection_begins_with_the_initial_statements_and_values_come_as_ever() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, day date); INSERT INTO t VALUES (1, '2024-02-29'); CREATE TABLE begun (setting text);
             CREATE ROLE reader; GRANT SELECT ON t TO reader",
        )
        .await
        .unwrap();
    let statements = "SET application_name = 'it''s;; mine';INSERT INTO begun SELECT current_setting('application_name');
                      SET DateStyle = 'German'";
    let keys = [("database.initial.statements", statements), ("table.include.list", r"public\.t")];
    // I15: a probe runs none that writes.
    let report = PostgresConnector::probe(&config(&server, &keys)).await;
    assert!(report.is_ready(), "{report:?}");
    assert_eq!(client.query_one("SELECT count(*) FROM begun", &[]).await.unwrap().get::<_, i64>(0), 0);
    let mut running = start(&config(&server, &keys), Log::default());
    running.records(1).await;
    let log = running.stop().await;
    assert_eq!(log.lines(), ["r public.t {1} null->{1,19782}"]);
    let begun = client.query("SELECT DISTINCT setting FROM begun", &[]).await.unwrap();
    assert_eq!(begun.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["it's; mine"]);
}

#[tokio::test]
async fn a_wrong_initial_statement_is_named_by_its_number_and_not_shown() {
    let Some(server) = server(&[]).await else { return };
    let config = config(&server, &[("database.initial.statements", "SELECT 1; SET no_such_setting = 'sesame'")]);
    let error = start(&config, Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("run statement 2 of database.initial.statements"), "{error}");
    assert!(!error.to_string().contains("sesame"), "{error}");
}

#[tokio::test]
async fn events_tell_the_oldest_transaction_of_the_slot_where_that_is_asked_for() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut running = start(&config(&server, &[("xmin.fetch.interval.ms", "100")]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    let xmin = || async {
        let row = client.query_one("SELECT catalog_xmin::text::int8 FROM pg_replication_slots", &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    let first = xmin().await;
    // It moves on with what is confirmed, and is looked at again.
    let moved = format!("SELECT catalog_xmin::text::int8 > {first} FROM pg_replication_slots");
    for id in 0.. {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
        running.records(id + 1).await;
        let Value::Int64(told) = source_field(&running.log.records[id], "xmin") else { panic!("no xmin") };
        assert!((first..=xmin().await).contains(&told), "{told}");
        if told > first {
            break;
        }
        tokio::select! {
            () = running.until(|_| false) => {}
            () = eventually(&client, &moved) => {}
        }
    }
    running.stop().await;
}
