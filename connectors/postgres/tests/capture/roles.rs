//! Roles with settings of their own, for other programs: what is captured does not depend on them.

use std::collections::BTreeMap;

use tailwater_api::envelope::Envelope;
use tailwater_api::{ErrorKind, Value};
use tailwater_testkit::PostgresServer;

use crate::harness::{Log, config, server, start};

/// What somebody may have given to a role.
const ODD_SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "'German, DMY'"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "'Asia/Tokyo'"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "'-15'"),
    ("client_encoding", "LATIN1"),
    ("standard_conforming_strings", "off"),
    ("quote_all_identifiers", "on"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("xmlbinary", "hex"),
    ("search_path", "''"),
    ("row_security", "on"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "1"),
    ("lock_timeout", "1"),
    ("idle_in_transaction_session_timeout", "1"),
    ("idle_session_timeout", "30000"),
];

/// Schema and values of each row, by table and id.
type Rows = BTreeMap<(String, i32), String>;

fn rows(log: &Log) -> Rows {
    let row = |record| {
        let after = Envelope::of(record).unwrap().after().clone();
        let Value::Int32(id) = after.as_struct().unwrap()[0] else { panic!("an id") };
        let (_, schema) = record.value.schema.as_ref().unwrap().field("after").unwrap();
        ((record.topic.to_string(), id), format!("{schema:?} {after:?}"))
    };
    log.records.iter().map(row).collect()
}

/// What a role captures of rows 1, which are there, and 2, which it makes while streaming.
async fn capture(server: &PostgresServer, tables: &[&str], entries: &[(&str, &str)]) -> Rows {
    let client = server.connect("postgres").await.unwrap();
    let included = format!(r"public\.({})", tables.join("|"));
    let own = [("table.include.list", &*included), ("slot.drop.on.stop", "true"), ("publication.autocreate.mode", "filtered")];
    let mut running = start(&config(server, &[&own, entries].concat()), Log::default());
    running.until(|log| log.records.len() == tables.len() && !log.state.is_empty()).await;
    for table in tables {
        client
            .batch_execute(&format!("UPDATE public.{table} SET id = 0; INSERT INTO public.{table} SELECT 2, * FROM public.rest_of_{table}"))
            .await
            .unwrap();
    }
    // The move of row 1 is a delete with its tombstone and a create.
    running.records(5 * tables.len()).await;
    let mut log = running.stop().await;
    log.records.retain(|record| Envelope::of(record).is_some_and(|envelope| !envelope.after().is_null()));
    for table in tables {
        client.batch_execute(&format!("DELETE FROM public.{table} WHERE id = 2; UPDATE public.{table} SET id = 1")).await.unwrap();
    }
    rows(&log)
}

#[tokio::test]
async fn settings_of_the_role_change_nothing_of_what_is_captured() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE odd LOGIN SUPERUSER;
             CREATE TABLE binary_ones (
                 id int PRIMARY KEY, d date DEFAULT '2024-02-03', t timestamp DEFAULT '2024-02-03 04:05:06', z timestamptz, i interval DEFAULT '1 day',
                 b bytea, f float8 DEFAULT 0.1, g float4, m money, s text NOT NULL DEFAULT E'a\\\\b''c', n numeric, a timestamp[], u text DEFAULT upper('x'));
             CREATE TABLE text_ones (id int PRIMARY KEY, r tstzrange, v tsvector, p path, q daterange[], c regclass, x xml);
             INSERT INTO binary_ones VALUES (1, '0044-03-15 BC', '2024-12-13 01:02:03.000004', '2024-12-13 01:02:03+05:30', '-1 year 2 days -3:04:05.6',
                 '\\x5c00ff27', 0.1::float8 + 0.2, 1e-45, 1234.5, E'Zo\\u00eb \\\\ '' 漢字', 1e-20, '{2024-12-13 01:02:03.5,NULL}');
             INSERT INTO text_ones VALUES (1, '[2024-12-13 01:02:03+00,infinity)', 'a:1A', '((0.1,0.2),(1e300,3))', '{\"[2024-12-13,)\"}', 'binary_ones',
                 '<a>Zoë</a>');
             ALTER TABLE binary_ones REPLICA IDENTITY FULL; ALTER TABLE text_ones REPLICA IDENTITY FULL;",
        )
        .await
        .unwrap();
    for table in ["binary_ones", "text_ones"] {
        let sql = format!("CREATE TABLE rest_of_{table} AS SELECT * FROM {table}; ALTER TABLE rest_of_{table} DROP COLUMN id;");
        client.batch_execute(&sql).await.unwrap();
    }
    // Its text depends on the search path, which is the role's own.
    client.batch_execute("ALTER ROLE postgres SET search_path = ''").await.unwrap();
    let both = ["binary_ones", "text_ones"];
    let unknown = ("include.unknown.datatypes", "true");
    let plain = capture(&server, &both, &[unknown]).await;
    assert_eq!(plain.len(), 6);
    for (name, value) in ODD_SETTINGS {
        client.batch_execute(&format!("ALTER ROLE odd SET {name} = {value}")).await.unwrap();
    }
    let odd = [unknown, ("database.user", "odd"), ("publication.name", "odd")];
    for strategy in ["consistent", "watermark"] {
        let captured = capture(&server, &both, &[&odd[..], &[("snapshot.strategy", strategy)]].concat()).await;
        assert_eq!(captured, plain, "{strategy}");
    }
    // Of this table alone the values come in binary.
    let captured = capture(&server, &both[..1], &[&odd[..], &[("publication.name", "one")]].concat()).await;
    assert!(captured.iter().all(|(place, row)| plain.get(place) == Some(row)), "{captured:#?}");
}

#[tokio::test]
async fn a_snapshot_that_a_policy_would_hide_rows_from_is_refused() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE cdc LOGIN REPLICATION; CREATE TABLE orders (id int PRIMARY KEY, owner text);
             INSERT INTO orders VALUES (1, 'cdc'), (2, 'ada');
             GRANT SELECT ON orders TO cdc; ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON orders USING (owner = current_user); CREATE PUBLICATION shop FOR TABLE orders;",
        )
        .await
        .unwrap();
    for strategy in ["consistent", "watermark"] {
        let entries = [("database.user", "cdc"), ("snapshot.strategy", strategy), ("slot.drop.on.stop", "true"), ("slot.name", strategy)];
        let error = start(&config(&server, &entries), Log::default()).failed().await;
        assert_eq!(error.kind(), ErrorKind::Unauthorised, "{strategy}: {error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("BYPASSRLS")), "{strategy}: {error}");
    }
    client.batch_execute("ALTER ROLE cdc BYPASSRLS").await.unwrap();
    let mut running = start(&config(&server, &[("database.user", "cdc")]), Log::default());
    running.records(2).await;
    running.stop().await;
}
