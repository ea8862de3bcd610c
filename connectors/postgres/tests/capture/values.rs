//! Values of every type, extreme and random ones, through both snapshots (a binary COPY each) and through the stream, in binary
//! and as text. All of them are one value (I7), and the server, given that value back, renders what it rendered of its own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use num_bigint::BigInt;
use tailwater_api::envelope::Envelope;
use tailwater_api::{Kind, Schema, Value};
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use crate::harness::{Log, Running, config, eventually, server, start};

/// Rows of the snapshot have smaller ids; those of the stream are the same rows with this added.
const STREAMED: i32 = 1000;

/// A type with values of it.
struct Case {
    name: &'static str,
    /// Rows of a VALUES list
    extremes: &'static str,
    /// An expression that gives random values; empty where the extremes are all
    random: &'static str,
    /// SQL that makes of the written value `v` what `shown` makes of the column `c`; empty where another test says it
    back: &'static str,
    shown: &'static str,
}

const fn case(name: &'static str, extremes: &'static str, random: &'static str, back: &'static str, shown: &'static str) -> Case {
    Case { name, extremes, random, back, shown }
}

const TIMESTAMP_BACK: &str = "CASE v WHEN '9223372036825200000' THEN 'infinity' WHEN '-9223372036832400000' THEN '-infinity'
    ELSE (timestamp '1970-01-01' + (v::bigint / 86400000000)::int * interval '1 day' + (v::bigint % 86400000000) * interval '1 microsecond')::text END";

/// With the default modes.
const CASES: &[Case] = &[
    case("bool", "('t'), ('f'), (null)", "random() < 0.5", "v::bool", "c"),
    case("int2", "(-32768), (32767)", "(random() * 60000 - 30000)::int2", "v::int2", "c"),
    case("int4", "(-2147483648), (2147483647)", "(random() * 4e9 - 2e9)::int4", "v::int4", "c"),
    case("int8", "(-9223372036854775808), (9223372036854775807)", "(random() * 1.8e19 - 9e18)::int8", "v::int8", "c"),
    case("oid", "(0), (4294967295)", "(random() * 4e9)::int8::oid", "v::oid", "c"),
    case("float4", "('NaN'), ('Infinity'), ('-Infinity'), ('-0'), (1e-45)", "((random() - 0.5) * 1e9)::float4", "v::float4", "c"),
    case("float8", "('NaN'), ('Infinity'), ('-0'), (5e-324), (1.7976931348623157e308)", "(random() - 0.5) * 1e15", "v::float8", "c"),
    case(
        "numeric",
        "(0), ('0.00'), (1e100), (-1e-100), ('NaN'), ('Infinity'), ('-Infinity'), (repeat('9', 131072)::numeric), (-1e131071), (-1e-16383)",
        "((random() - 0.5)::numeric * 1e20) / 7",
        "v::numeric",
        "CASE WHEN c NOT IN ('NaN', 'Infinity', '-Infinity') THEN trim_scale(c) END",
    ),
    case("numeric(12,2)", "(0), (-9999999999.99), (null)", "((random() - 0.5) * 1e10)::numeric(12,2)", "v::numeric", "c"),
    case("numeric(60,30)", "(1e29), (-1e-30)", "((random() - 0.5)::numeric * 1e28 / 3)::numeric(60,30)", "v::numeric", "c"),
    case("numeric(3,-2)", "(12345), (-100)", "", "v::numeric", "c"),
    case(
        "money",
        "('92233720368547758.07'), ('-92233720368547758.08')",
        "((random() - 0.5) * 1e10)::numeric::money",
        "v::numeric::money",
        "c",
    ),
    case("text", "(''), ('Zoë 漢字 😀'), (E'\\t\\n\\\\\"''')", "repeat(md5(random()::text), (random() * 20)::int)", "v", "c"),
    case("varchar(9)", "('nine char'), (null)", "left(md5(random()::text), 9)", "v", "c"),
    case("char(5)", "('ab'), ('')", "left(md5(random()::text), 3)", "v", "rpad(c::text, 5)"),
    case("name", "('a name')", "md5(random()::text)::name", "v", "c"),
    case("\"char\"", "('q'), (''), ('\\303')", "", "v::\"char\"", "c"),
    case("bytea", "(''), (null), ('\\x00ff')", "decode(md5(random()::text), 'hex')", "v::bytea", "c"),
    case(
        "json",
        "('{ \"b\" : 1,  \"a\":12345678901234567890.10, \"b\": \"\\u0000\\ud800\" }'), ('null'), (null), ((repeat('[', 2000) || repeat(']', 2000))::json)",
        "json_build_object('n', random())",
        "v",
        "c",
    ),
    case(
        "jsonb",
        "('{ \"b\" : 1,  \"a\":12345678901234567890.10 }'), ('null'), (null), ((repeat('[', 2000) || repeat(']', 2000))::jsonb)",
        "jsonb_build_object('n', 2^60 + n)",
        "v",
        "c",
    ),
    case("xml", "('<?xml version=\"1.0\"?><r a=\"1\">t&amp;</r>'), ('<p>Zoë</p>')", "", "v", "xml_out(c)"),
    case("uuid", "('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11')", "gen_random_uuid()", "v::uuid", "c"),
    case("inet", "('192.168.0.1/24'), ('::1'), ('::ffff:1.2.3.4/100')", "inet '10.0.0.0' + n * 65537", "v::inet", "c"),
    case("cidr", "('10.0.0.0/8'), ('::/0')", "", "v::cidr", "c"),
    case("macaddr", "('08:00:2b:01:02:03')", "", "v", "c"),
    case("macaddr8", "('08:00:2b:01:02:03:04:05')", "", "v", "c"),
    case("bit", "('1'), ('0')", "", "CASE v WHEN 'true' THEN '1' ELSE '0' END", "c"),
    case("bit(9)", "('100000000'), ('000000000'), ('000000001')", "n::bit(9)", "v", "c"),
    case("varbit", "(''), ('1010101010101'), ('00000000000000001')", "", "", ""),
    case(
        "date",
        "('0044-03-15 BC'), ('5874897-12-31'), ('infinity'), ('-infinity'), ('1582-10-10')",
        "date '4713-01-01 BC' + (random() * 2000000000)::int",
        "CASE v WHEN '2147483647' THEN 'infinity' WHEN '-2147483648' THEN '-infinity' ELSE (date '1970-01-01' + v::int)::text END",
        "c",
    ),
    case(
        "time",
        "('00:00'), ('24:00'), ('23:59:59.999999')",
        "time '00:00' + random() * interval '1 day'",
        "v::bigint * interval '1 microsecond'",
        "c::interval",
    ),
    case("time(3)", "('24:00'), ('12:34:56.789')", "", "v::bigint * interval '1 millisecond'", "c::interval"),
    case("timetz", "('24:00:00-12'), ('23:59:59.999999-07'), ('12:34:56-15:59:59')", "", "v::timetz", "c AT TIME ZONE 'UTC'"),
    case(
        "timestamp",
        "('0044-03-15 12:00:00.000001 BC'), ('infinity'), ('-infinity'), ('12345-06-07 08:09:10.1')",
        "timestamp '4713-01-01 BC' + (random() * 100000000) * interval '1 day' + n * interval '1 microsecond'",
        TIMESTAMP_BACK,
        "c",
    ),
    case("timestamp(3)", "('1969-12-31 23:59:59.999'), ('infinity')", "", "", ""),
    case(
        "timestamptz",
        "('2024-02-29 23:59:59.999999-08')",
        "timestamptz '0100-01-01' + random() * interval '9800 years'",
        "v::timestamptz",
        "c",
    ),
    case("timestamptz", "('0044-03-15 12:00:00+00 BC'), ('12345-06-07 08:09:10+00'), ('infinity'), ('-infinity')", "", "", ""),
    case(
        "interval",
        "('0'), ('-1 year -2 months -3 days -04:05:06.789012'), ('-00:00:00.000001'), ('9999 years')",
        "random() * interval '100 years' - random() * interval '50 years 20 days'",
        "v",
        "trunc((extract(year FROM c) * 12 + extract(month FROM c)) * 2629800000000 + extract(day FROM c) * 86400000000
               + extract(hour FROM c) * 3600000000 + extract(minute FROM c) * 60000000 + extract(microseconds FROM c))",
    ),
    case("point", "('(1,2)'), ('(1e300,-1e-300)'), ('(Infinity,NaN)')", "point(random(), random())", "v::point", "c"),
    case("mood", "('sad'), ('with,comma')", "", "v", "c"),
    case("over_numeric", "(12.34)", "(random() * 100)::numeric(6,2)", "v::numeric", "c"),
    case("over_enum", "('sad')", "", "v", "c"),
    case("over_array", "('{1,2}')", "", "v::int[]", "c"),
    case("citext", "('CiText')", "", "v", "c"),
    case("ltree", "('Top.Science'), ('')", "", "v", "c"),
    case(
        "hstore",
        "('a=>1, b=>NULL, \"c d\"=>\"x \\\"y\"'), ('')",
        "hstore(md5(n::text), n::text) || hstore('k' || n, null)",
        "v::jsonb",
        "hstore_to_jsonb(c)",
    ),
    case("int4[]", "('{1,NULL,-3}'), ('{}')", "array[n, null, -n]", "v::int4[]", "c"),
    case(
        "text[]",
        "(array['quote \" back \\ comma , brace {}', E'nl\\n', '漢字😀', '', 'NULL', null])",
        "array[md5(n::text)]",
        "v::text[]",
        "c",
    ),
    case("numeric(5,2)[]", "('{1.5,-2.25,NULL}')", "", "v::numeric(5,2)[]", "c"),
    case("uuid[]", "('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}')", "", "v::uuid[]", "c"),
    case("mood[]", "('{sad,NULL,\"with,comma\"}')", "", "v::mood[]", "c"),
    case("over_numeric[]", "('{1.25,NULL}')", "", "v::numeric[]", "c"),
    case("bool[]", "('{t,f,NULL}')", "", "v::bool[]", "c"),
    case("bytea[]", "(array['\\x00ff'::bytea, null, '\\x'])", "", "v::bytea[]", "c"),
    case("float8[]", "('{NaN,-Infinity,-0,5e-324,NULL}')", "", "v::float8[]", "c"),
    case("char(3)[]", "('{a,\"b c\",NULL}')", "", "v::char(3)[]", "c"),
    case("citext[]", "('{CiText,NULL}')", "", "v::citext[]", "c"),
    case("inet[]", "('{10.0.0.1/8,::1,NULL}')", "", "v::inet[]", "c"),
    case("macaddr[]", "('{08:00:2b:01:02:03,NULL}')", "", "v::macaddr[]", "c"),
    case("jsonb[]", "(array['{\"a\": 1.10}'::jsonb, null])", "", "v::jsonb[]", "c"),
    case("ltree[]", "('{Top.Science,NULL}')", "", "v::ltree[]", "c"),
    case("int8[]", "('{-9223372036854775808,NULL}'), (null)", "", "v::int8[]", "c"),
    case(
        "uuid[]",
        "('[-1:0]={a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}'), ('{{NULL},{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}')",
        "",
        "",
        "",
    ),
    case("mood[]", "('[5:6]={sad,NULL}'), ('{{sad},{NULL}}')", "", "", ""),
    case("over_numeric[]", "('[0:1]={1.25,NULL}'), ('{{1},{2}}')", "", "", ""),
    case("date[]", "('{0044-03-15 BC,infinity,NULL}')", "", "", ""),
    case("timetz[]", "('{24:00:00-12,NULL}')", "", "", ""),
    case("timestamptz[]", "('{\"2024-02-29 23:59:59.999999-08\",-infinity,NULL}')", "", "", ""),
    case("timestamp(3)[]", "('{\"2024-02-29 12:00:00.123\",infinity,NULL}')", "", "", ""),
    case("time[]", "('{24:00,NULL}')", "", "", ""),
    case("timestamp[]", "('{\"2024-02-29 12:00:00.123456\",infinity,NULL}')", "", "", ""),
    case("int4[]", "('[0:1]={7,8}'), ('{{1,2},{3,4}}')", "", "", ""),
    case("hstore[]", "(array['a=>1'::hstore, null])", "", "", ""),
];

/// Types whose values come as text whatever is asked for.
const TEXT_CASES: &[Case] = &[
    case("int4range", "('[1,5)'), ('empty'), ('(,)')", "int4range(n, n + 5)", "v", "c"),
    case("tstzrange", "('[2024-01-01,infinity)'), ('(-infinity,)'), ('[0044-03-15 BC,12345-06-07)')", "", "v", "c"),
    case("tsrange", "('[\"0044-03-15 12:00:00.000001 BC\",infinity]')", "", "v", "c"),
    case("daterange", "('[0044-03-15 BC,infinity)'), (null)", "", "v", "c"),
    case("int8range", "('[-9223372036854775808,9223372036854775807)')", "", "v", "c"),
    case("numrange", "('[NaN,NaN]'), ('(,1e300]')", "", "v", "c"),
    case("over_range", "('[1,5)')", "", "v", "c"),
    case("numrange[]", "('{\"[1.5,2)\",empty}')", "", "v::numrange[]", "c"),
    case("tsvector", "('a fat cat'), ('a:1A b:2')", "", "v", "c"),
    case("isbn", "('978-0-393-04002-9')", "", "v", "c"),
    // These are left out by default.
    case("pg_lsn", "('0/16B3748')", "", "", ""),
    case("pair", "(row(1, 'o\"ne')), (row(null, ''))", "", "", ""),
    case("pair[]", "(array[row(1, 'one')::pair, null])", "", "", ""),
    case("over_pair", "(row(1, 'o\"ne')), (null)", "", "", ""),
    case("spoken", "(row(1, 'one')), (row(null, null)), (null)", "", "", ""),
    case("nested", "(row(row(1, 'a')::pair, array[row(2, null)::pair])), (row(null, null))", "", "", ""),
    case("nummultirange", "('{[NaN,NaN],(,1.5)}'), ('{}')", "", "", ""),
    case("pg_lsn[]", "('{0/1,NULL}')", "", "", ""),
    case("over_array[]", "('{\"{1,2}\",NULL}')", "", "", ""),
    case("tsquery", "('a & !b')", "", "", ""),
    case("circle", "('<(1,2),3>')", "", "", ""),
    case("path", "('[(0,0),(1,1e300)]'), ('((0,0),(1,1))')", "", "", ""),
    case("cube", "('(1,2),(3,4)')", "", "", ""),
    case("money[]", "('{1.5,NULL}')", "", "", ""),
    case("point[]", "('{\"(1,2)\",NULL}')", "", "", ""),
    case("xml[]", "(array['<a>,</a>'::xml, null])", "", "", ""),
    case("varbit[]", "('{101,NULL}')", "", "", ""),
    case("int4multirange", "('{[1,2),[5,)}')", "", "", ""),
    case("line", "('{1,-1,0.5}')", "", "", ""),
    case("box[]", "(array[box '(1,1),(0,0)', box '(2,2),(1,1)'])", "", "", ""),
    case("name[]", "('{one,NULL}')", "", "", ""),
    case("interval[]", "('{1 day,NULL}')", "", "", ""),
    case("bit(3)[]", "('{101,000,NULL}')", "", "", ""),
];

/// Types of extensions that are no part of a server's package, by extension.
const EXTENSION_CASES: &[(&str, Case)] = &[
    (
        "postgis",
        case(
            "geometry",
            "('POINT(1 2)'), ('SRID=4326;LINESTRING Z (0 0 1, 1e300 1 2)'), ('POLYGON EMPTY'), (null)",
            "st_makepoint(random(), -random())",
            "v::bytea",
            "st_asewkb(c)",
        ),
    ),
    ("postgis", case("geography", "('POINT(1 2)'), ('MULTIPOINT(1 2, 3 4)')", "", "v::bytea", "st_asewkb(c::geometry)")),
    ("vector", case("vector", "('[0.1,-1e-10,3]'), (null)", "", "v::float4[]::vector", "c")),
    ("vector", case("halfvec(3)", "('[1.5,-2,65504]')", "", "v::float4[]::halfvec", "c")),
    ("vector", case("sparsevec(5)", "('{1:1,3:2.5}/5'), ('{}/5')", "", "", "")),
];

/// Times, intervals and numbers as text.
const TEXT_MODES: &[(&str, &str)] = &[
    ("time.precision.mode", "isostring"),
    ("interval.handling.mode", "string"),
    ("hstore.handling.mode", "map"),
    ("decimal.handling.mode", "string"),
    ("binary.handling.mode", "base64"),
    ("include.unknown.datatypes", "true"),
];

/// What the server makes of those, by the names of types.
const TEXT_MODE_ORACLES: &[(&str, &str, &str)] = &[
    (
        "date",
        "CASE WHEN v ~ '^[0-9]{4}-' AND v !~ '^0000' THEN rtrim(v, 'Z')::date::text END",
        "CASE WHEN isfinite(c) AND extract(year FROM c) BETWEEN 1 AND 9999 THEN c::text END",
    ),
    ("time", "rtrim(v, 'Z')::time", "c"),
    (
        "timestamp",
        "CASE WHEN v ~ '^[0-9]{4}-' AND v !~ '^0000' THEN rtrim(v, 'Z')::timestamp::text END",
        "CASE WHEN isfinite(c) AND extract(year FROM c) BETWEEN 1 AND 9999 THEN c::text END",
    ),
    ("interval", "v::interval", "c"),
    ("numeric(12,2)", "v", "c"),
    ("bytea", "decode(v, 'base64')", "c"),
    ("pg_lsn", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("pair", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("nested", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("over_pair", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("spoken", "convert_from(decode(v, 'base64'), 'UTF8')", "CASE WHEN c IS DISTINCT FROM NULL THEN format('%s', c) END"),
    ("nummultirange", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("path", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("cube", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("int4multirange", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("line", "convert_from(decode(v, 'base64'), 'UTF8')", "c"),
    ("name[]", "v::name[]", "c"),
    ("interval[]", "v::interval[]", "c"),
];

const OTHER_MODES: &[(&str, &str)] = &[
    ("time.precision.mode", "nanoseconds"),
    ("decimal.handling.mode", "double"),
    ("binary.handling.mode", "hex"),
    ("money.fraction.digits", "4"),
];

/// The modes that are left, and the types that they are for.
const MODES_OF_FEW: &[&[(&str, &str)]] = &[
    &[("time.precision.mode", "connect"), ("binary.handling.mode", "base64-url-safe")],
    &[("time.precision.mode", "microseconds"), ("decimal.handling.mode", "string")],
    &[("time.precision.mode", "adaptive_time_microseconds"), ("hstore.handling.mode", "map")],
];
const OF_THOSE: &[&str] = &["date", "time", "timestamp", "bytea", "money", "hstore", "interval"];

/// Tables `t…` are of types that come in binary, tables `x…` of the others, as far as the server has the extensions.
async fn tables(client: &Client) -> Vec<(String, &'static Case)> {
    let mut of_extensions = Vec::new();
    for (extension, case) in EXTENSION_CASES {
        let query = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)";
        if client.query_one(query, &[extension]).await.unwrap().get(0) {
            client.batch_execute(&format!("CREATE EXTENSION IF NOT EXISTS {extension}")).await.unwrap();
            of_extensions.push(case);
        } else {
            eprintln!("without {}: the server does not have the extension {extension}", case.name);
        }
    }
    let binary = CASES.iter().chain(of_extensions).enumerate().map(|(index, case)| (format!("t{index}"), case));
    binary.chain(TEXT_CASES.iter().enumerate().map(|(index, case)| (format!("x{index}"), case))).collect()
}

async fn create(client: &Client, tables: &[(String, &Case)]) {
    client
        .batch_execute(
            "CREATE PUBLICATION shop FOR ALL TABLES; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore; CREATE EXTENSION isn;
             CREATE EXTENSION cube; CREATE TYPE mood AS ENUM ('sad', 'with,comma'); CREATE TYPE pair AS (x int, y text);
             CREATE TYPE nested AS (p pair, many pair[]); CREATE DOMAIN over_pair AS pair; CREATE DOMAIN over_range AS int4range;
             CREATE TYPE spoken AS (x int, y text);
             CREATE FUNCTION say(spoken) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'said'$$;
             CREATE CAST (spoken AS text) WITH FUNCTION say(spoken) AS IMPLICIT;
             CREATE DOMAIN over_numeric_once AS numeric(6,2); CREATE DOMAIN over_numeric AS over_numeric_once;
             CREATE DOMAIN over_enum AS mood; CREATE DOMAIN over_array AS int[];",
        )
        .await
        .unwrap();
    for (table, Case { name, extremes, random, .. }) in tables {
        let mut sql = format!(
            "CREATE TABLE {table} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, c {name}); INSERT INTO {table} (c) VALUES {extremes};"
        );
        if !random.is_empty() {
            write!(sql, "INSERT INTO {table} (c) SELECT {random} FROM generate_series(1, 40) n").unwrap();
        }
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }
}

/// Starts a source of these tables with these keys.
fn capture(server: &PostgresServer, name: &str, tables: &[&str], modes: &[(&str, &str)]) -> Running {
    let included = format!(r"public\.({})", tables.join("|"));
    let strategy = if name == "chunks" { "watermark" } else { "consistent" };
    let own = [("slot.name", name), ("slot.drop.on.stop", "true"), ("snapshot.strategy", strategy), ("table.include.list", &included)];
    start(&config(server, &[&own, modes].concat()), Log::default())
}

/// Values of the column `c`, by table and id, and the column's schema; of the tables whose column is not left out.
type Written = BTreeMap<String, (Arc<Schema>, BTreeMap<i32, Value>)>;

fn written(log: &Log) -> Written {
    let mut written = Written::new();
    for record in &log.records {
        let after = Envelope::of(record).unwrap().after().as_struct().unwrap();
        let (_, row) = record.value.schema.as_ref().unwrap().field("after").unwrap();
        let Some((_, schema)) = row.field("c") else { continue };
        let Value::Int32(id) = after[0] else { panic!("an id") };
        let table = record.topic.rsplit_once('.').unwrap().1.to_owned();
        written.entry(table).or_insert_with(|| (schema.clone(), BTreeMap::new())).1.insert(id, after[1].clone());
    }
    written
}

/// A value as the server's input function takes it.
fn plain(value: &Value, schema: &Schema) -> Option<String> {
    Some(match (value, schema.kind()) {
        (Value::Null, _) => return None,
        (Value::Boolean(value), _) => value.to_string(),
        (Value::Float32(value), _) => value.to_string(),
        (Value::Float64(value), _) => value.to_string(),
        (Value::String(text), _) => text.to_string(),
        (Value::Bytes(octets), _) => match schema.name() {
            Some("io.debezium.data.Bits") => {
                let bit = |place: usize| octets.get(place / 8).is_some_and(|octet| octet >> (place % 8) & 1 == 1);
                let length: usize = schema.parameter("length").unwrap().parse().unwrap();
                (0..length).rev().map(|place| if bit(place) { '1' } else { '0' }).collect()
            }
            Some("org.apache.kafka.connect.data.Decimal") => decimal(octets, schema.parameter("scale").unwrap().parse().unwrap()),
            _ => hexadecimal(octets),
        },
        (Value::Struct(values), _) => match (schema.name(), &values[..]) {
            (Some("io.debezium.data.VariableScaleDecimal"), [Value::Int32(scale), Value::Bytes(octets)]) => decimal(octets, *scale),
            (Some("io.debezium.data.geometry.Geometry" | "io.debezium.data.geometry.Geography"), [Value::Bytes(octets), ..]) => {
                hexadecimal(octets)
            }
            (Some("io.debezium.data.geometry.Point"), [Value::Float64(x), Value::Float64(y), ..]) => format!("({x},{y})"),
            (name, _) => panic!("{name:?}"),
        },
        (Value::Array(values), Kind::Array(element)) => {
            let quoted = |text: String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let elements: Vec<_> = values.iter().map(|value| plain(value, element).map_or("NULL".to_owned(), quoted)).collect();
            format!("{{{}}}", elements.join(","))
        }
        (number, _) => number.as_integer().unwrap_or_else(|| panic!("{number:?}")).to_string(),
    })
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().fold("\\x".to_owned(), |text, octet| text + &format!("{octet:02x}"))
}

fn decimal(octets: &[u8], scale: i32) -> String {
    format!("{}e{}", BigInt::from_signed_bytes_be(octets), -scale)
}

/// Asks the server whether what was written is what its rows hold.
async fn ask_the_server(client: &Client, table: &str, written: &Written, back: &str, shown: &str) {
    let (schema, values) = &written[table];
    let (ids, texts): (Vec<i32>, Vec<Option<String>>) = values.iter().map(|(id, value)| (*id, plain(value, schema))).unzip();
    let query = format!(
        "SELECT c::text, v FROM unnest($1::int[], $2::text[]) AS w (id, v) JOIN {table} USING (id)
         WHERE ({back})::text IS DISTINCT FROM ({shown})::text"
    );
    let wrong = client.query(&query, &[&ids, &texts]).await.unwrap_or_else(|error| panic!("{error:?}: {query}"));
    let wrong: Vec<(Option<String>, Option<String>)> = wrong.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(wrong.is_empty(), "{table} ({schema:?}): the row holds, was written: {wrong:?}");
}

/// Plays all tables with these modes through both streams and both snapshots, and gives back what all wrote.
async fn play(server: &PostgresServer, client: &Client, tables: &[(String, &Case)], modes: &[(&str, &str)]) -> Written {
    // Without the tables whose values come as text, the stream is binary.
    let mut sources = Vec::new();
    for (name, binary) in [("text", false), ("binary", true), ("chunks", false)] {
        let captured: Vec<&str> = tables.iter().map(|(table, _)| &**table).filter(|table| !binary || table.starts_with('t')).collect();
        let sum: Vec<_> = captured.iter().map(|table| format!("(SELECT count(*) FROM {table})")).collect();
        let rows: i64 = client.query_one(&format!("SELECT {}", sum.join(" + ")), &[]).await.unwrap().get(0);
        sources.push((capture(server, name, &captured, modes), rows as usize));
    }
    for (source, count) in &mut sources {
        source.records(*count).await;
    }
    let stream = "SELECT count(*) = 3 AND count(*) FILTER (WHERE query LIKE '%binary%') = 1 FROM pg_stat_activity
                  WHERE backend_type = 'walsender' AND query LIKE 'START_REPLICATION%'";
    eventually(client, stream).await;
    for (table, _) in tables {
        client.batch_execute(&format!("INSERT INTO {table} SELECT id + {STREAMED}, c FROM {table}")).await.unwrap();
    }
    let mut all = Vec::new();
    for (mut source, count) in sources {
        source.records(2 * count).await;
        all.push(written(&source.stop().await));
    }
    for (table, case) in tables {
        for (schema, values) in all.iter().filter_map(|written| written.get(table)) {
            let (of_text, first) = &all[0][table];
            assert_eq!(schema, of_text, "{}", case.name);
            for (id, value) in values {
                let of_snapshot = &first[&(id % STREAMED)];
                assert_eq!(format!("{value:?}"), format!("{of_snapshot:?}"), "{} {id}", case.name);
            }
        }
    }
    for (table, case) in tables {
        assert!(all[0].contains_key(table) || (case.back.is_empty() && modes != TEXT_MODES), "{} is left out", case.name);
        if modes.is_empty() && !case.back.is_empty() {
            ask_the_server(client, table, &all[0], case.back, case.shown).await;
        }
        client.batch_execute(&format!("DELETE FROM {table} WHERE id > {STREAMED}")).await.unwrap();
    }
    all.swap_remove(0)
}

#[tokio::test]
async fn snapshot_and_stream_write_the_same_values_and_the_servers_own() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let tables = tables(&client).await;
    create(&client, &tables).await;
    play(&server, &client, &tables, &[]).await;
    let as_text = play(&server, &client, &tables, TEXT_MODES).await;
    for (name, back, shown) in TEXT_MODE_ORACLES {
        let (table, _) = tables.iter().find(|(_, case)| case.name == *name).unwrap();
        ask_the_server(&client, table, &as_text, back, shown).await;
    }
    play(&server, &client, &tables, OTHER_MODES).await;
    let few: Vec<_> = tables.into_iter().filter(|(_, case)| OF_THOSE.iter().any(|of| case.name.starts_with(of))).collect();
    for modes in MODES_OF_FEW {
        play(&server, &client, &few, modes).await;
    }
}

#[tokio::test]
async fn labels_that_an_enum_gets_while_streaming_are_in_the_schema_of_the_first_row_that_has_them() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE people (id int PRIMARY KEY, c mood, many mood[]);
             INSERT INTO people VALUES (1, 'ok');",
        )
        .await
        .unwrap();
    let mut running = start(&config(&server, &[]), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    for sql in [
        "INSERT INTO people VALUES (2, 'sad')",
        "ALTER TYPE mood ADD VALUE 'angry' BEFORE 'ok'",
        "INSERT INTO people VALUES (3, 'ok')",
        "INSERT INTO people VALUES (4, NULL, '{angry}')",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "INSERT INTO people VALUES (5, 'blue'), (6, 'angry')",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    running.records(6).await;
    let log = running.stop().await;
    let allowed = |index: usize| {
        let (_, row) = log.records[index].value.schema.as_ref().unwrap().field("after").unwrap();
        row.field("c").unwrap().1.parameter("allowed").unwrap().to_owned()
    };
    assert_eq!(allowed(1), "sad,ok");
    // Where the types are read before the last change, the label of then is in the list of then.
    assert!(["sad,angry,ok", "blue,angry,ok"].contains(&allowed(3).as_str()), "{}", allowed(3));
    assert_eq!((allowed(4), allowed(5)), ("blue,angry,ok".to_owned(), "blue,angry,ok".to_owned()));
    assert_eq!(log.lines()[5], "c public.people {6} null->{6,angry,null}");
}
