//! The server is the oracle: the text and the binary form of every value decode to one value, and to the right one.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use num_bigint::BigInt;
use tailwater_api::Value;
use tailwater_postgres::data_types::{ColumnCodec, Format, SESSION_SETTINGS, TypeCatalog, TypeOptions, TypeRow};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::server;

async fn types(client: &Client, options: TypeOptions) -> TypeCatalog {
    let rows = client.query(TypeCatalog::QUERY, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| TypeRow {
        oid: row.get(0),
        name: row.get(1),
        namespace: row.get(2),
        kind: row.get::<_, &str>(3).chars().next().unwrap(),
        element: row.get(4),
        delimiter: row.get::<_, &str>(5).bytes().next().unwrap_or(b','),
        base: row.get(6),
        modifier: row.get(7),
        labels: row.get(8),
    };
    TypeCatalog::new(rows.iter().map(row).collect(), options)
}

/// The values of one column of a table, as text and as the binary COPY has them.
async fn both_forms(client: &Client, query: &str) -> Vec<(Option<Bytes>, Option<Bytes>)> {
    let messages = client.simple_query(query).await.unwrap();
    let texts = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).map(|text| Bytes::copy_from_slice(text.as_bytes()))),
        _ => None,
    });
    let texts: Vec<_> = texts.collect();
    let copy = client.copy_out(&format!("COPY ({query}) TO STDOUT (FORMAT binary)")).await.unwrap();
    let octets: Vec<Bytes> = copy.try_collect().await.unwrap();
    let octets = octets.concat();
    let mut rest = &octets[19..];
    let mut binaries = Vec::new();
    while rest[..2] != [0xff, 0xff] {
        let length = i32::from_be_bytes(rest[2..6].try_into().unwrap());
        rest = &rest[6..];
        binaries.push(usize::try_from(length).ok().map(|length| {
            let (value, after) = rest.split_at(length);
            rest = after;
            Bytes::copy_from_slice(value)
        }));
    }
    assert_eq!(texts.len(), binaries.len());
    texts.into_iter().zip(binaries).collect()
}

async fn codec(client: &Client, types: &TypeCatalog, table: &str) -> ColumnCodec {
    let query = "SELECT atttypid, atttypmod FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = 'c'";
    let row = client.query_one(query, &[&table]).await.unwrap();
    types.column(row.get(0), row.get(1), true, None).unwrap_or_else(|| panic!("{table} has no mapping"))
}

async fn connect(server: &tailwater_testkit::PostgresServer) -> Client {
    let client = server.connect("postgres").await.unwrap();
    for (name, value) in SESSION_SETTINGS {
        client.batch_execute(&format!("SET {name} = '{value}'")).await.unwrap();
    }
    client
}

fn decode(codec: &ColumnCodec, format: Format, raw: Option<&Bytes>) -> Value {
    let mut scratch = BytesMut::new();
    let value = raw.map_or(Value::Null, |raw| codec.decode(format, raw, &mut scratch).unwrap_or_else(|error| panic!("{error}: {raw:?}")));
    assert!(scratch.is_empty());
    value
}

/// Equal, and NaN equal to itself.
fn shown(value: &Value) -> String {
    format!("{value:?}")
}

const EXTREMES: &[(&str, &str)] = &[
    ("bool", "('t'), ('f'), (null)"),
    ("int2", "(-32768), (32767), (0)"),
    ("int4", "(-2147483648), (2147483647)"),
    ("int8", "(-9223372036854775808), (9223372036854775807)"),
    ("oid", "(0), (4294967295)"),
    ("float4", "('NaN'), ('Infinity'), ('-Infinity'), ('-0'), (1e-45), (3.4028235e38), (0.1), (16777217)"),
    ("float8", "('NaN'), ('Infinity'), ('-Infinity'), ('-0'), (5e-324), (1.7976931348623157e308), (0.1), (9007199254740993)"),
    (
        "numeric",
        "(0), ('0.00'), (100.000), (123.4500), (1e100), (-1e-100), ('NaN'), ('Infinity'), ('-Infinity'), (0.00001234), (10000), (-99999999.00009999)",
    ),
    ("numeric(5,2)", "(0), (-0.01), (999.99), (1.28), (-1.28), (127), (100), ('NaN')"),
    ("numeric(38,10)", "(1234567890123456789012345678.0123456789), (-1e27), (1e-10), (0.1)"),
    ("numeric(60,0)", "(123456789012345678901234567890123456789012345678901234567890), (-1)"),
    ("numeric(1000,500)", "(1.5), (-0.0000000000000000000000000001), (1e50), (1e-50), (1e499)"),
    ("numeric(3,-2)", "(12345), (-100), (99949)"),
    ("numeric(2,4)", "(0.0099), (-0.0099), (0.0001)"),
    ("money", "(0), ('92233720368547758.07'), ('-92233720368547758.08'), (1234.56), ('-0.01')"),
    ("text", "(''), ('Zoë 漢字 😀'), (E'\\t\\n\\\\')"),
    ("varchar(9)", "('nine char')"),
    ("char(5)", "('ab'), ('')"),
    ("name", "('a name')"),
    ("\"char\"", "('q'), (''), (E'\\x7f'), ('\\303')"),
    ("bytea", "(''), ('\\x00ff'), ('\\xdeadbeef')"),
    ("json", "('{ \"b\" : 1,  \"a\":2 }'), ('null')"),
    ("jsonb", "('{ \"b\" : 1,  \"a\":2 }'), ('12345678901234567890.10')"),
    ("xml", "('<?xml version=\"1.0\"?><r a=\"1\">t&amp;</r>'), ('<p>Zoë 漢字</p>'), ('')"),
    ("uuid", "('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), ('00000000-0000-0000-0000-000000000000')"),
    (
        "inet",
        "('192.168.0.1'), ('192.168.0.1/24'), ('::1'), ('::'), ('::1.2.3.4'), ('::ffff:1.2.3.4'), ('::ffff:1.2.3.4/100'), ('2001:db8::ff00:42:8329/64'), \
         ('1:0:0:2:0:0:0:3'), ('0:0:1::'), ('1::2:0:0:3:4'), ('fe80:0:0:1:0:0:0:0'), ('1:2:3:4:5:6:0:8'), ('0.0.0.0/0'), ('0:0:0:0:0:fffe:1:2')",
    ),
    ("cidr", "('10.0.0.0/8'), ('1.2.3.4'), ('2001:db8::/32'), ('::/0')"),
    ("macaddr", "('08:00:2b:01:02:03'), ('ff:ff:ff:ff:ff:ff')"),
    ("macaddr8", "('08:00:2b:01:02:03:04:05')"),
    (
        "date",
        "('1970-01-01'), ('0044-03-15 BC'), ('4713-01-01 BC'), ('5874897-12-31'), ('infinity'), ('-infinity'), ('1582-10-10'), ('12345-06-07'), ('0001-12-31 BC'), ('2000-02-29')",
    ),
    ("time", "('00:00'), ('24:00'), ('23:59:59.999999'), ('00:00:00.000001')"),
    ("time(3)", "('24:00'), ('12:34:56.789')"),
    (
        "timetz",
        "('00:00+00'), ('24:00:00-12'), ('23:59:59.999999-07'), ('12:34:56.789123+15:59'), ('12:34:56-15:59:59'), ('12:00:00.1+05:30')",
    ),
    ("timetz(0)", "('24:00:00-12'), ('23:59:59+05:30')"),
    (
        "timestamp",
        "('1970-01-01'), ('0044-03-15 12:00:00.000001 BC'), ('294246-01-01'), ('294276-12-31 23:59:59.999999'), ('infinity'), ('-infinity'), ('4713-01-01 BC'), ('12345-06-07 08:09:10.1')",
    ),
    ("timestamp(3)", "('1969-12-31 23:59:59.999'), ('0044-03-15 12:00:00.5 BC'), ('infinity'), ('294276-12-31 23:59:59.999')"),
    (
        "timestamptz",
        "('2024-02-29 23:59:59.999999-08'), ('0044-03-15 12:00:00+00 BC'), ('12345-06-07 08:09:10.123456+00'), ('infinity'), ('-infinity'), ('4713-01-01 BC')",
    ),
    ("timestamptz(0)", "('2024-02-29 23:59:59+14')"),
    ("timestamptz(3)", "('2024-02-29 23:59:59.120+05:45')"),
    (
        "interval",
        "('0'), ('1 year 2 months 3 days 4 hours 5 minutes 6.78 seconds'), ('-1 year -2 months -3 days -04:05:06.789012'), ('1 month -1 day 00:00:00.000001'), \
         ('-00:00:00.000001'), ('100:00:00'), ('178000000 years'), ('-178000000 years'), ('2147483647 days'), ('-1 month 1 day -2000000000:00:00')",
    ),
    ("bit", "('1'), ('0')"),
    ("bit(9)", "('100000000'), ('000000000'), ('111111111'), ('000000001')"),
    ("bit(8)", "('10000001')"),
    ("varbit", "(''), ('1010101010101'), ('00000000000000001')"),
    ("varbit(1)", "('1'), ('0'), ('')"),
    ("mood", "('sad'), ('with,comma')"),
    ("over_numeric", "(12.34)"),
    ("over_enum", "('sad')"),
    ("over_array", "('{1,2}')"),
    ("citext", "('CiText')"),
    ("point", "('(1,2)'), ('(1e300,-1e-300)'), ('(Infinity,NaN)'), ('(-0,5e-324)')"),
    (
        "hstore",
        "('a=>1, b=>NULL, \"c d\"=>\"x \\\"y\\\\\"'), (''), (hstore(array(SELECT 'k' || n FROM generate_series(1, 40) n), array(SELECT n::text FROM generate_series(1, 40) n)))",
    ),
    ("hstore[]", "(array['a=>1, b=>\"x,y\"'::hstore, null, ''])"),
    ("int4[]", "('{1,NULL,-3}'), ('{}'), ('[0:1]={7,8}'), ('{{1,2},{3,4}}')"),
    ("int8[]", "('{9223372036854775807}')"),
    ("float8[]", "('{0.1,Infinity,NaN,NULL}')"),
    ("bool[]", "('{t,f,NULL}')"),
    ("text[]", "(array['quote \" back \\ comma , brace {}', E'nl\\n', '漢字😀', ' ', '', 'NULL', null]), ('{{a,\"b}\"},{c,NULL}}')"),
    ("char(3)[]", "('{a,ab}')"),
    ("numeric[]", "('{1,2.50,-0.001,NaN,NULL,1e20}')"),
    ("numeric(5,2)[]", "('{1.5,-2.25,NULL}')"),
    ("uuid[]", "('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}')"),
    ("json[]", "(array['{\"a\": 1}'::json, '[1, 2]', null])"),
    ("jsonb[]", "(array['{\"b\": 1, \"a\": [null]}'::jsonb, 'null', null])"),
    ("bytea[]", "(array['\\x00ff'::bytea, null, '\\x'])"),
    ("date[]", "('{2024-02-29,NULL,\"0044-03-15 BC\"}')"),
    ("time[]", "('{23:59:59.999999,24:00}')"),
    ("timestamp(3)[]", "('{\"2024-02-29 12:00:00.123\"}')"),
    ("timestamptz[]", "('{\"2024-02-29 12:00:00+02\",infinity}')"),
    ("inet[]", "('{192.168.0.1,::1,NULL}')"),
    ("mood[]", "('{sad,NULL,\"with,comma\"}')"),
    ("bit(3)[]", "('{101,000}')"),
];

#[tokio::test]
async fn text_and_binary_forms_decode_to_the_same_value() {
    let Some(server) = server(&[]).await else { return };
    let client = connect(&server).await;
    client
        .batch_execute(
            "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad', 'with,comma');
             CREATE DOMAIN over_numeric_once AS numeric(6,2); CREATE DOMAIN over_numeric AS over_numeric_once;
             CREATE DOMAIN over_enum AS mood; CREATE DOMAIN over_array AS int[];",
        )
        .await
        .unwrap();
    let modes = {
        use tailwater_postgres::data_types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, TimeMode};
        let default = TypeOptions::default();
        let time = |time| TypeOptions { time, ..default };
        [
            default,
            TypeOptions { decimal: DecimalMode::String, binary: BinaryMode::Hex, hstore: HstoreMode::Map, ..time(TimeMode::Isostring) },
            TypeOptions {
                decimal: DecimalMode::Double,
                binary: BinaryMode::Base64,
                money_fraction_digits: 4,
                ..time(TimeMode::Nanoseconds)
            },
            TypeOptions { interval: IntervalMode::String, binary: BinaryMode::Base64UrlSafe, ..time(TimeMode::Connect) },
            time(TimeMode::Microseconds),
            time(TimeMode::AdaptiveTimeMicroseconds),
        ]
    };
    for (index, (name, values)) in EXTREMES.iter().enumerate() {
        client.batch_execute(&format!("CREATE TEMP TABLE t{index} (c {name}); INSERT INTO t{index} VALUES {values}")).await.unwrap();
    }
    for options in modes {
        let types = types(&client, options).await;
        for (index, (name, _)) in EXTREMES.iter().enumerate() {
            let table = format!("t{index}");
            let codec = codec(&client, &types, &table).await;
            assert!(codec.supports_binary(), "{name}");
            for (text, binary) in both_forms(&client, &format!("SELECT c FROM {table}")).await {
                let of_text = decode(&codec, Format::Text, text.as_ref());
                let of_binary = decode(&codec, Format::Binary, binary.as_ref());
                assert_eq!(shown(&of_text), shown(&of_binary), "{name} {text:?}");
            }
        }
    }
}

/// The texts that an expression gives for the rows of a table, in their order.
async fn texts(client: &Client, query: &str) -> Vec<String> {
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn values_are_what_the_server_says_they_are() {
    let Some(server) = server(&[]).await else { return };
    let client = connect(&server).await;
    let types = types(&client, TypeOptions::default()).await;
    // Each type with random values, and what the server calculates of them.
    let cases = [
        ("date", "date '4713-01-01 BC' + (random() * 2000000000)::int", "(c - date '1970-01-01')::text"),
        (
            "timestamp",
            "timestamp '4713-01-01 BC' + (random() * 100000000) * interval '1 day' + (random() * 86400000000)::int8 * interval '1 microsecond'",
            "trunc(extract(epoch FROM c) * 1000000)::text",
        ),
        ("timestamp(3)", "timestamp '4713-01-01 BC' + random() * interval '270000 years'", "trunc(extract(epoch FROM c) * 1000)::text"),
        ("time", "time '00:00' + random() * interval '1 day'", "trunc(extract(epoch FROM c) * 1000000)::text"),
        ("numeric(12,2)", "((random() - 0.5) * 1e10)::numeric(12,2)", "trunc(c * 100)::text"),
        ("numeric(38,10)", "((random() - 0.5)::numeric * 1e27 * random()::numeric)::numeric(38,10)", "trunc(c * 1e10)::text"),
        ("numeric(70,30)", "((random() - 0.5)::numeric * 1e38 * random()::numeric)::numeric(70,30)", "trunc(c * 1e30)::text"),
        (
            "timestamptz",
            "timestamptz '4713-01-01 BC' + random() * interval '30000 years' + random() * interval '1 hour'",
            "CASE WHEN extract(year FROM c) < 0 THEN CASE WHEN extract(year FROM c) = -1 THEN '0000' ELSE '-' || lpad((-extract(year FROM c) - 1)::text, 4, '0') END
                  WHEN extract(year FROM c) > 9999 THEN '+' || extract(year FROM c)::text ELSE lpad(extract(year FROM c)::text, 4, '0') END
             || to_char(c, '-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        ),
        ("interval", "random() * interval '100 years' - random() * interval '50 years 20 days'",
         "trunc((extract(year FROM c) * 12 + extract(month FROM c)) * 2629800000000 + extract(day FROM c) * 86400000000
                + extract(hour FROM c) * 3600000000 + extract(minute FROM c) * 60000000 + extract(microseconds FROM c))::text"),
    ];
    for (index, (name, random, oracle)) in cases.iter().enumerate() {
        let table = format!("r{index}");
        client
            .batch_execute(&format!(
                "CREATE TEMP TABLE {table} (n int, c {name}); INSERT INTO {table} SELECT n, {random} FROM generate_series(1, 500) n"
            ))
            .await
            .unwrap();
        let codec = codec(&client, &types, &table).await;
        let expected = texts(&client, &format!("SELECT {oracle} FROM {table} ORDER BY n")).await;
        let forms = both_forms(&client, &format!("SELECT c FROM {table} ORDER BY n")).await;
        assert_eq!(forms.len(), 500);
        for ((text, binary), expected) in forms.iter().zip(&expected) {
            for (format, raw) in [(Format::Text, text), (Format::Binary, binary)] {
                let said = match decode(&codec, format, raw.as_ref()) {
                    Value::String(text) => text.to_string(),
                    Value::Bytes(unscaled) => BigInt::from_signed_bytes_be(&unscaled).to_string(),
                    number => number.as_integer().unwrap().to_string(),
                };
                assert_eq!(&said, expected, "{name} {text:?} {format:?}");
            }
        }
        assert_eq!(codec.lost(), 0);
    }
}
