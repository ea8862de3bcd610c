//! Tables walked in chunks along keys of every type that can be one. The database orders them (I9), and each row is read once,
//! however unlike its octets and its record that order is.

use std::collections::BTreeMap;
use std::fmt::Write;

use tailwater_api::Value;
use tailwater_api::envelope::Envelope;

use crate::chunks::is_complete;
use crate::harness::{Log, config, line, server, start};

/// Columns of a key and rows of it. A nondeterministic collation, a type whose operators are not on the search path, numbers and
/// times without an end, and all that sorts otherwise than its octets or its text.
const KEYS: &[(&[&str], &str)] = &[
    (&["bool"], "(false), (true)"),
    (&["int2"], "(-32768), (-1), (0), (9), (10), (32767)"),
    (&["int8"], "(-9223372036854775808), (-10), (-9), (0), (9223372036854775807)"),
    (&["oid"], "(0), (10), (9), (4294967295)"),
    (&["numeric"], "('-Infinity'), (-1.5), ('0.00'), (1e30), (1e-30), (10), (9), ('Infinity'), ('NaN')"),
    (&["numeric(5,2)"], "(-99), (9.5), (10), ('NaN')"),
    (&["float8"], "('-Infinity'), (-1e300), ('-0'), (5e-324), (0.1), (10), (9), ('Infinity'), ('NaN')"),
    (&["float4"], "('-Infinity'), (1e-45), (0.1), (16777216), ('NaN')"),
    (&["money"], "(-5), (1000.50), (999), ('92233720368547758.07')"),
    (&["text"], "(''), ('a'), ('A'), ('b'), ('B'), ('ä'), ('é'), ('z'), ('Z'), (''''), ('\\'), ('\"'), ('a b'), ('ab'), ('😀')"),
    (&["text COLLATE \"C\""], "(''), ('a'), ('A'), ('b'), ('B'), ('ä'), ('😀')"),
    (&["text COLLATE \"und-x-icu\""], "('a'), ('A'), ('b'), ('B'), ('ä'), ('z'), ('ß')"),
    (&["text COLLATE alike"], "('a'), ('B'), ('c'), ('D'), ('ä'), ('z')"),
    (&["text COLLATE alike", "text COLLATE alike"], "('a', 'x'), ('A', 'Y'), ('a', 'z'), ('B', 'x'), ('b', 'y'), ('c', '')"),
    (&["varchar(9)"], "('a '), ('a'), ('B')"),
    (&["char(5)"], "('a'), ('B'), ('ab'), ('a b')"),
    (&["name"], "('a'), ('B'), ('_')"),
    (&["\"char\""], "('a'), ('B'), (''), ('\\303'), ('\\177')"),
    (&["outside.citext"], "('a'), ('B'), ('c'), ('D'), ('e'), ('F')"),
    (&["outside.ltree"], "('a.b'), ('a'), ('B'), ('a.B')"),
    (&["over_citext", "int"], "('a', 1), ('A', 2), ('B', 1), ('c', 1), ('D', 1)"),
    (&["bytea"], "(''), ('\\x00'), ('\\xff'), ('\\x0001'), ('\\x5c')"),
    (
        &["uuid"],
        "('ffffffff-ffff-ffff-ffff-ffffffffffff'), ('00000000-0000-0000-0000-000000000000'), ('80000000-0000-0000-0000-000000000000')",
    ),
    (&["bit(3)"], "('000'), ('111'), ('010')"),
    (&["varbit"], "(''), ('0'), ('00'), ('1'), ('01')"),
    (&["inet"], "('10.0.0.1'), ('9.0.0.1'), ('10.0.0.1/8'), ('::1'), ('::ffff:1.2.3.4')"),
    (&["cidr"], "('10.0.0.0/8'), ('9.0.0.0/8'), ('::/0')"),
    (&["macaddr"], "('ff:00:2b:01:02:03'), ('08:00:2b:01:02:03')"),
    (&["macaddr8"], "('ff:00:2b:01:02:03:04:05'), ('08:00:2b:01:02:03:04:05')"),
    (&["date"], "('-infinity'), ('0044-03-15 BC'), ('0001-01-01'), ('12345-06-07'), ('infinity'), ('2024-02-29')"),
    (&["timestamp"], "('-infinity'), ('0044-03-15 BC'), ('2024-02-29 12:00:00.000001'), ('294276-12-31 23:59:59.999999'), ('infinity')"),
    (&["timestamptz"], "('-infinity'), ('0044-03-15 BC'), ('2024-10-27 00:30:00Z'), ('2024-10-27 01:30:00Z'), ('infinity')"),
    (&["time"], "('00:00'), ('24:00'), ('12:00:00.000001')"),
    (&["timetz"], "('00:00+12'), ('24:00-12'), ('12:00+01'), ('11:00+00'), ('12:00-15:59:59')"),
    (&["interval"], "('-1 year'), ('0'), ('29 days'), ('1 month'), ('1 month 1 microsecond'), ('31 days'), ('720:00:01')"),
    (&["mood"], "('sad'), ('with,comma'), ('angry')"),
    (&["over_mood"], "('sad'), ('with,comma'), ('angry')"),
    (&["over_numeric"], "(10), (9), (-1.25)"),
    (&["int4[]"], "('{}'), ('{10}'), ('{9}'), ('{9,NULL}'), ('[0:1]={7,8}'), ('{{1,2},{3,4}}')"),
    (&["text[]"], "('{}'), ('{a,B}'), ('{B}'), ('{\"quote \\\" and , comma\"}')"),
    (&["int4range"], "('empty'), ('(,)'), ('[10,11)'), ('[9,20)')"),
    (&["jsonb"], "('null'), ('1'), ('\"a\"'), ('{}'), ('[]'), ('{\"a\": 1}'), ('9'), ('10')"),
    (&["tsvector"], "('a'), ('b:2'), ('')"),
    (&["numeric", "text"], "('NaN', 'a'), ('Infinity', 'a'), ('NaN', 'b'), (1, 'B'), (1.0, 'a')"),
    (&["int", "date"], "(2, '-infinity'), (1, 'infinity'), (1, '2024-02-29')"),
];

/// Names of the columns of a key. The index has them the other way round.
const NAMES: [&str; 2] = ["\"A \"\"'$1\"", "b"];

/// The definitions of the tables `k0`, `k1` …, each with a column that numbers its rows.
fn definitions() -> String {
    let mut sql = "CREATE SCHEMA outside; CREATE EXTENSION citext SCHEMA outside; CREATE EXTENSION ltree SCHEMA outside;
         CREATE COLLATION alike (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE DOMAIN over_mood AS mood; CREATE DOMAIN over_numeric AS numeric(6,2); CREATE DOMAIN over_citext AS outside.citext;"
        .to_owned();
    for (index, (types, rows)) in KEYS.iter().enumerate() {
        let columns: Vec<String> = NAMES.iter().zip(*types).map(|(name, of)| format!("{name} {of}")).collect();
        let names = &NAMES[..types.len()];
        let (columns, inserted) = (columns.join(", "), names.join(", "));
        let key = names.iter().rev().copied().collect::<Vec<_>>().join(", ");
        write!(
            sql,
            "CREATE TABLE k{index} ({columns}, n int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY ({key}));
             INSERT INTO k{index} ({inserted}) VALUES {rows};"
        )
        .expect("a text takes what is written");
    }
    sql
}

#[tokio::test]
async fn i9_each_row_is_read_once_along_keys_of_every_type() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'with,comma')").await.unwrap();
    client.batch_execute("ALTER TYPE mood ADD VALUE 'angry' BEFORE 'with,comma'").await.unwrap();
    client.batch_execute(&definitions()).await.unwrap();
    let settings = [("snapshot.strategy", "watermark"), ("incremental.snapshot.chunk.size", "2"), ("include.unknown.datatypes", "true")];
    let mut running = start(&config(&server, &settings), Log::default());
    running.until(is_complete).await;
    let log = running.stop().await;
    let mut read: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for record in &log.records {
        let row = Envelope::of(record).unwrap().after().as_struct().unwrap();
        let Some(Value::Int32(number)) = row.last() else { panic!("{}", line(record)) };
        read.entry(record.topic.to_string()).or_default().push(*number);
    }
    for (index, (types, _)) in KEYS.iter().enumerate() {
        let rows: i64 = client.query_one(&format!("SELECT count(*) FROM k{index}"), &[]).await.unwrap().get(0);
        let mut numbers = read.remove(&format!("shop.public.k{index}")).unwrap_or_default();
        numbers.sort();
        assert_eq!(numbers, (1..=rows as i32).collect::<Vec<_>>(), "{types:?}");
    }
}
