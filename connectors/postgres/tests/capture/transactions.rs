//! Transactions that tell what belongs to them: BEGIN and END records and the place of each event, also over crashes.

use tailwater_api::envelope::Envelope;
use tailwater_api::record::Record;

use crate::harness::{Log, config, eventually, line, server, show, start};

const SETTINGS: [(&str, &str); 3] =
    [("provide.transaction.metadata", "true"), ("snapshot.mode", "no_data"), ("skipped.operations", "none")];

/// A record with its place in its transaction, or what it says about one; ids, which differ from run to run, in short.
fn told(record: &Record) -> String {
    let text = match Envelope::of(record) {
        Some(envelope) => format!("{} {}", line(record), show(envelope.transaction())),
        None => format!("{} {}", line(record), show(&record.value.value)),
    };
    text.replace("{shop.", "{")
}

/// The place in the transaction alone: `total/in table`.
fn place(record: &Record) -> String {
    let fields = Envelope::of(record).and_then(|envelope| envelope.transaction().as_struct().map(<[_]>::to_vec));
    fields.map_or_else(|| "-".to_owned(), |fields| format!("{}/{}", show(&fields[1]), show(&fields[2])))
}

#[tokio::test]
async fn events_tell_their_place_and_all_records_of_a_transaction_have_one_id() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE other (id int);")
        .await
        .unwrap();
    let settings = [&SETTINGS[..], &[("table.include.list", r"public\.(a|b)"), ("message.prefix.include.list", "heard")]].concat();
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "BEGIN; INSERT INTO a VALUES (1, 'x'); INSERT INTO other VALUES (1); INSERT INTO b VALUES (1);
             SELECT pg_logical_emit_message(true, 'heard', ''), pg_logical_emit_message(true, 'unheard', '');
             UPDATE a SET id = 2; TRUNCATE a, b; COMMIT;",
        )
        .await
        .unwrap();
    client.batch_execute("INSERT INTO other VALUES (2)").await.unwrap();
    running.records(12).await;
    let log = running.stop().await;
    let places: Vec<_> = log.records.iter().map(place).collect();
    assert_eq!(places, ["-", "1/1", "2/1", "-", "4/2", "-", "5/3", "6/4", "7/2", "-", "-", "-"]);
    let keys: Vec<_> = log.records.iter().filter(|record| record.topic.ends_with(".transaction")).map(|record| &record.key).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[2] == keys[3] && keys[1] != keys[2]);
    let id = show(&keys[0].value);
    assert!(log.records[1..9].iter().filter_map(Envelope::of).all(|event| show(event.transaction()).starts_with(id.trim_end_matches('}'))));
    let end = show(&log.records[9].value.value);
    assert!(end.contains(",7,[{public.a,4},{public.b,2},{message,1}],"), "{end}");
    let empty = show(&log.records[11].value.value);
    assert!(empty.contains(",0,[],"), "{empty}");
}

#[tokio::test]
async fn a_crash_within_a_transaction_neither_repeats_nor_miscounts() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)").await.unwrap();
    let config = config(&server, &SETTINGS);
    let mut running = start(&config, Log::default());
    running.refuse_confirmation();
    running.until(|log| !log.state.is_empty()).await;
    client
        .batch_execute(
            "BEGIN; INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 200) i; INSERT INTO u SELECT generate_series(1, 50);
             UPDATE t SET id = id + 1000 WHERE id <= 60; DELETE FROM t WHERE id BETWEEN 70 AND 100; TRUNCATE u; COMMIT;",
        )
        .await
        .unwrap();
    client.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    let ends = |log: &Log| log.records.iter().filter(|record| show(&record.value.value).starts_with("{END")).count();
    running.until(|log| ends(log) == 2).await;
    let whole = running.crash().await;
    let expected: Vec<_> = whole.records.iter().map(told).collect();
    assert!(whole.points.len() > 5, "the transaction is larger than a batch");
    for point in 0..whole.points.len() {
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
        let mut running = start(&config, whole.after_crash(point));
        running.refuse_confirmation();
        running.until(|log| ends(log) == 2).await;
        let log = running.crash().await;
        let found: Vec<_> = log.records.iter().map(told).collect();
        assert!(found == expected, "after a crash behind batch {point} of {}", whole.points.len());
    }
}
