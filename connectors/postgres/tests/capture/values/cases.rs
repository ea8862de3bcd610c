//! Types with extreme values of each, and expressions for random ones.

/// A type with values of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Rows of a VALUES list
    pub(super) extremes: &'static str,
    /// An expression that gives random values; empty where the extremes are all
    pub(super) random: &'static str,
}

const fn case(name: &'static str, extremes: &'static str, random: &'static str) -> Case {
    Case { name, extremes, random }
}

/// What the types below need.
pub(super) const DEFINITIONS: &str = "
CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore; CREATE EXTENSION isn; CREATE EXTENSION cube;
CREATE TYPE mood AS ENUM ('sad', 'with,comma');
CREATE TYPE pair AS (x int, y text); CREATE TYPE nested AS (p pair, many pair[]);
CREATE DOMAIN over_pair AS pair; CREATE DOMAIN over_range AS int4range;
CREATE TYPE spoken AS (x int, y text);
CREATE FUNCTION say(spoken) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'said'$$;
CREATE CAST (spoken AS text) WITH FUNCTION say(spoken) AS IMPLICIT;
CREATE DOMAIN over_numeric_once AS numeric(6,2); CREATE DOMAIN over_numeric AS over_numeric_once;
CREATE DOMAIN over_enum AS mood; CREATE DOMAIN over_array AS int[]; CREATE DOMAIN over_array_twice AS over_array;
CREATE DOMAIN over_timestamp AS timestamp(3);";

/// Types whose values come in binary where that is asked for.
pub(super) const BINARY: &[Case] = &[
    case("bool", "('t'), ('f'), (null)", "random() < 0.5"),
    case("int2", "(-32768), (32767)", "(random() * 60000 - 30000)::int2"),
    case("int4", "(-2147483648), (2147483647)", "(random() * 4e9 - 2e9)::int4"),
    case("int8", "(-9223372036854775808), (9223372036854775807)", "(random() * 1.8e19 - 9e18)::int8"),
    case("oid", "(0), (4294967295)", "(random() * 4e9)::int8::oid"),
    case("float4", "('NaN'), ('Infinity'), ('-Infinity'), ('-0'), (1e-45), (3.4028235e38)", "((random() - 0.5) * 1e9)::float4"),
    case("float8", "('NaN'), ('Infinity'), ('-Infinity'), ('-0'), (5e-324), (1.7976931348623157e308)", "(random() - 0.5) * 1e15"),
    case(
        "numeric",
        "(0), ('0.00'), (1e100), (-1e-100), ('NaN'), ('Infinity'), ('-Infinity'), (repeat('9', 131072)::numeric), (-1e131071), (-1e-16383)",
        "((random() - 0.5)::numeric * 1e20) / 7",
    ),
    case("numeric(12,2)", "(0), (-9999999999.99), ('NaN'), (null)", "((random() - 0.5) * 1e10)::numeric(12,2)"),
    case("numeric(60,30)", "(1e29), (-1e-30)", "((random() - 0.5)::numeric * 1e28 / 3)::numeric(60,30)"),
    case("numeric(38,0)", "(99999999999999999999999999999999999999), (-99999999999999999999999999999999999999)", ""),
    case("numeric(1000,1000)", "(1e-1000), (-0.5)", ""),
    case("numeric(3,-2)", "(12345), (-100)", ""),
    case("numeric(2,4)", "(0.0099), (-0.0001)", ""),
    case("money", "('92233720368547758.07'), ('-92233720368547758.08'), (-0.01), (0.05)", "((random() - 0.5) * 1e17)::numeric::money"),
    case("text", "(''), ('Zoë 漢字 😀'), (E'\\t\\n\\\\\"''')", "repeat(md5(random()::text), (random() * 20)::int)"),
    case("varchar", "(''), (repeat('漢', 100000))", "md5(random()::text)"),
    case("varchar(9)", "('nine char'), (null)", "left(md5(random()::text), 9)"),
    case("char(5)", "('ab'), ('')", "left(md5(random()::text), 3)"),
    case("bpchar", "('ab  '), ('')", ""),
    case("name", "('a name'), (repeat('n', 63))", "md5(random()::text)::name"),
    case("\"char\"", "('q'), (''), ('\\303')", ""),
    case("bytea", "(''), (null), ('\\x00ff'), (decode(repeat('fb', 100), 'hex'))", "decode(md5(random()::text), 'hex')"),
    case(
        "json",
        "('{ \"b\" : 1,  \"a\":12345678901234567890.10, \"b\": \"\\u0000\\ud800\" }'), ('null'), (null), ((repeat('[', 2000) || repeat(']', 2000))::json)",
        "json_build_object('n', random())",
    ),
    case(
        "jsonb",
        "('{ \"b\" : 1,  \"a\":12345678901234567890.10 }'), ('null'), (null), ((repeat('[', 2000) || repeat(']', 2000))::jsonb)",
        "jsonb_build_object('n', 2^60 + n)",
    ),
    case("xml", "('<?xml version=\"1.0\"?><r a=\"1\">t&amp;</r>'), ('<p>Zoë</p>'), ('')", ""),
    case("uuid", "('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), ('00000000-0000-0000-0000-000000000000')", "gen_random_uuid()"),
    case("inet", "('192.168.0.1/24'), ('::1'), ('::ffff:1.2.3.4/100'), ('0.0.0.0/0')", "inet '10.0.0.0' + n * 65537"),
    case("cidr", "('10.0.0.0/8'), ('::/0'), ('255.255.255.255/32')", ""),
    case("macaddr", "('08:00:2b:01:02:03')", ""),
    case("macaddr8", "('08:00:2b:01:02:03:04:05')", ""),
    case("bit(1)", "('1'), ('0')", ""),
    case("bit(9)", "('100000000'), ('000000000'), ('000000001')", "n::bit(9)"),
    case("varbit", "(''), ('1010101010101'), ('00000000000000001')", "n::bit(30)::varbit"),
    case("varbit(13)", "(''), ('1'), ('1010101010101'), ('0000000000001')", ""),
    case(
        "date",
        "('0001-01-01'), ('0001-12-31 BC'), ('0044-03-15 BC'), ('4713-01-01 BC'), ('9999-12-31'), ('10000-01-01'), ('5874897-12-31'), ('infinity'),
         ('-infinity'), ('1582-10-10'), ('2000-02-29')",
        "date '4713-01-01 BC' + (random() * 2000000000)::int",
    ),
    case("time", "('00:00'), ('24:00'), ('23:59:59.999999')", "time '00:00' + random() * interval '1 day'"),
    case("time(0)", "('24:00'), ('23:59:59')", ""),
    case("time(1)", "('24:00'), ('12:34:56.7')", ""),
    case("time(2)", "('12:34:56.78')", ""),
    case("time(3)", "('24:00'), ('12:34:56.789')", "time '00:00' + random() * interval '1 day'"),
    case("time(4)", "('24:00'), ('12:34:56.7891')", ""),
    case("time(5)", "('12:34:56.78912')", ""),
    case("time(6)", "('24:00'), ('12:34:56.789123')", ""),
    case("timetz", "('24:00:00-12'), ('23:59:59.999999-07'), ('12:34:56-15:59:59'), ('00:00:00.1+15:59:59')", ""),
    case("timetz(0)", "('24:00:00-12'), ('12:00:00+05:30')", ""),
    case("timetz(3)", "('12:34:56.789+05:45')", ""),
    case(
        "timestamp",
        "('0044-03-15 12:00:00.000001 BC'), ('4713-01-01 BC'), ('0001-12-31 23:59:59.999999 BC'), ('1677-09-21 00:12:43.145224'),
         ('1677-09-21 00:12:43.145225'), ('2262-04-11 23:47:16.854775'), ('2262-04-11 23:47:16.854776'), ('294246-12-31'),
         ('294276-12-31 23:59:59.999999'), ('infinity'), ('-infinity'), ('12345-06-07 08:09:10.1')",
        "timestamp '4713-01-01 BC' + (random() * 100000000) * interval '1 day' + n * interval '1 microsecond'",
    ),
    case("timestamp(0)", "('1969-12-31 23:59:59'), ('infinity')", ""),
    case("timestamp(1)", "('1969-12-31 23:59:59.9'), ('-infinity')", ""),
    case("timestamp(2)", "('1969-12-31 23:59:59.99')", ""),
    case(
        "timestamp(3)",
        "('1969-12-31 23:59:59.999'), ('0044-03-15 12:00:00.5 BC'), ('294276-12-31 23:59:59.999'), ('infinity'), ('-infinity')",
        "timestamp '4713-01-01 BC' + random() * interval '270000 years'",
    ),
    case("timestamp(4)", "('1969-12-31 23:59:59.9999'), ('infinity')", ""),
    case("timestamp(5)", "('1969-12-31 23:59:59.99999'), ('infinity')", ""),
    case("timestamp(6)", "('1969-12-31 23:59:59.999999'), ('-infinity')", ""),
    case("over_timestamp", "('1969-12-31 23:59:59.999'), ('infinity')", ""),
    case(
        "timestamptz",
        "('2024-02-29 23:59:59.999999-08'), ('0044-03-15 12:00:00+00 BC'), ('4713-01-01 00:00:00+00 BC'), ('12345-06-07 08:09:10+00'),
         ('294276-12-31 23:59:59.999999+00'), ('infinity'), ('-infinity')",
        "timestamptz '4713-01-01 BC' + random() * interval '30000 years' + random() * interval '1 hour'",
    ),
    case("timestamptz(0)", "('2024-02-29 23:59:59+14'), ('infinity')", ""),
    case("timestamptz(1)", "('2024-02-29 23:59:59.1+05:45')", ""),
    case("timestamptz(2)", "('2024-02-29 23:59:59.12+05:45')", ""),
    case("timestamptz(3)", "('2024-02-29 23:59:59.120+05:45'), ('0044-03-15 12:00:00.123+00 BC')", ""),
    case("timestamptz(4)", "('2024-02-29 23:59:59.1234+05:45')", ""),
    case("timestamptz(5)", "('2024-02-29 23:59:59.12345+05:45')", ""),
    case("timestamptz(6)", "('2024-02-29 23:59:59.1+05:45')", ""),
    case(
        "interval",
        "('0'), ('-1 year -2 months -3 days -04:05:06.789012'), ('-00:00:00.000001'), ('1 month -1 day 00:00:00.000001'), ('9999 years'),
         ('178000000 years'), ('-178000000 years'), ('2147483647 days'), ('-1 month 1 day -2000000000:00:00')",
        "random() * interval '100 years' - random() * interval '50 years 20 days'",
    ),
    case("interval(3)", "('1 day 00:00:01.5')", ""),
    case("point", "('(1,2)'), ('(1e300,-1e-300)'), ('(Infinity,NaN)'), ('(-0,5e-324)')", "point(random(), random())"),
    case("mood", "('sad'), ('with,comma')", ""),
    case("over_numeric", "(12.34)", "(random() * 100)::numeric(6,2)"),
    case("over_enum", "('sad')", ""),
    case("over_array", "('{1,2}'), ('[2:3]={1,NULL}'), ('{{1,2}}')", ""),
    case("over_array_twice", "('{-2147483648}'), ('{}')", ""),
    case("citext", "('CiText'), ('')", ""),
    case("ltree", "('Top.Science'), ('')", ""),
    case("hstore", "('a=>1, b=>NULL, \"c d\"=>\"x \\\"y\"'), ('')", "hstore(md5(n::text), n::text) || hstore('k' || n, null)"),
    case("bool[]", "('{t,f,NULL}'), ('{}'), (null)", ""),
    case("int2[]", "('{-32768,32767,NULL}'), ('[0:0]={1}')", ""),
    case("int4[]", "('{1,NULL,-3}'), ('{}'), ('[0:1]={7,8}'), ('{{1,2},{3,4}}'), ('{{{{{{1}}}}}}')", "array[n, null, -n]"),
    case("int8[]", "('{-9223372036854775808,NULL}'), (null), ('[-5:-4]={1,2}')", ""),
    case("oid[]", "('{0,4294967295,NULL}')", ""),
    case("float4[]", "('{NaN,-Infinity,-0,1e-45,NULL}')", ""),
    case("float8[]", "('{NaN,-Infinity,-0,5e-324,NULL}'), ('{{1},{2}}')", ""),
    case("numeric[]", "('{1,2.50,-0.001,NaN,Infinity,NULL,1e20}')", ""),
    case("numeric(5,2)[]", "('{1.5,-2.25,NaN,NULL}'), ('{{1},{2}}')", ""),
    case("text[]", "(array['quote \" back \\ comma , brace {}', E'nl\\n', '漢字😀', '', 'NULL', null]), ('{{a,\"b}\"},{c,NULL}}')", "array[md5(n::text)]"),
    case("varchar[]", "('{a,\"\",\"b c\",NULL}'), ('{\"{\"}')", ""),
    case("varchar(3)[]", "('{a,abc,NULL}')", ""),
    case("char(3)[]", "('{a,\"b c\",NULL}')", ""),
    case("citext[]", "('{CiText,NULL}')", ""),
    case("bytea[]", "(array['\\x00ff'::bytea, null, '\\x'])", ""),
    case("json[]", "(array['{\"a\": [1, \"x,y\"]}'::json, 'null', null])", ""),
    case("jsonb[]", "(array['{\"a\": 1.10}'::jsonb, null])", ""),
    case("uuid[]", "('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}'), ('[-1:0]={a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}'),
         ('{{NULL},{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}')", ""),
    case("inet[]", "('{10.0.0.1/8,::1,NULL}')", ""),
    case("cidr[]", "('{10.0.0.0/8,::/0,NULL}')", ""),
    case("macaddr[]", "('{08:00:2b:01:02:03,NULL}')", ""),
    case("macaddr8[]", "('{08:00:2b:01:02:03:04:05,NULL}')", ""),
    case("mood[]", "('{sad,NULL,\"with,comma\"}'), ('[5:6]={sad,NULL}'), ('{{sad},{NULL}}')", ""),
    case("date[]", "('{0044-03-15 BC,infinity,-infinity,NULL}')", ""),
    case("time[]", "('{24:00,23:59:59.999999,NULL}')", ""),
    case("time(3)[]", "('{24:00,23:59:59.999,NULL}')", ""),
    case("timetz[]", "('{24:00:00-12,NULL}')", ""),
    case("timestamp[]", "('{\"2024-02-29 12:00:00.123456\",infinity,NULL}')", ""),
    case("timestamp(3)[]", "('{\"2024-02-29 12:00:00.123\",infinity,NULL}')", ""),
    case("timestamptz[]", "('{\"2024-02-29 23:59:59.999999-08\",-infinity,NULL}')", ""),
    case("timestamptz(3)[]", "('{\"2024-02-29 23:59:59.120-08\",NULL}')", ""),
    case("ltree[]", "('{Top.Science,NULL}')", ""),
    case("hstore[]", "(array['a=>1'::hstore, null, 'b=>\"x,y\"'])", ""),
    // Debezium's schema has no place for their values.
    case("bit(3)[]", "('{101,000,NULL}')", ""),
];

/// Types whose values come as text whatever is asked for.
pub(super) const TEXT: &[Case] = &[
    case("int4range", "('[1,5)'), ('empty'), ('(,)'), ('[-2147483648,2147483647)')", "int4range(n, n + 5)"),
    case("int8range", "('[-9223372036854775808,9223372036854775807)'), (null)", ""),
    case("numrange", "('[NaN,NaN]'), ('(,1e300]'), ('[-1.50,2.25)')", ""),
    case("daterange", "('[0044-03-15 BC,infinity)'), (null), ('empty')", ""),
    case("tsrange", "('[\"0044-03-15 12:00:00.000001 BC\",infinity]'), ('(,)')", ""),
    case("tstzrange", "('[2024-01-01,infinity)'), ('(-infinity,)'), ('[0044-03-15 BC,12345-06-07)')", ""),
    case("over_range", "('[1,5)')", ""),
    case("int4range[]", "('{\"[1,5)\",empty,NULL}')", ""),
    case("numrange[]", "('{\"[1.5,2)\",empty}')", ""),
    case("tstzrange[]", "('{\"[2024-01-01,infinity)\",NULL}')", ""),
    case("tsvector", "('a fat cat'), ('a:1A b:2'), (''), ('''it''''s''')", ""),
    case("tsvector[]", "(array['a:1A ''b c'':2'::tsvector, ''])", ""),
    case("isbn", "('978-0-393-04002-9')", ""),
];

/// Types that are left out unless `include.unknown.datatypes` asks for them.
pub(super) const LEFT_OUT: &[Case] = &[
    case("pg_lsn", "('0/16B3748'), ('FFFFFFFF/FFFFFFFF')", ""),
    case("xid", "('0'), ('4294967295')", ""),
    case("xid8", "('18446744073709551615')", ""),
    case("cid", "('4294967295')", ""),
    case("tid", "('(4294967295,65535)')", ""),
    case("pg_snapshot", "('10:20:10,14,15')", ""),
    case("regclass", "('pg_class'), ('t0'), ('-')", ""),
    case("regtype", "('timestamp with time zone'), ('mood')", ""),
    case("jsonpath", "('$.\"a\"[*]?(@ > 1.5)'), ('strict $')", ""),
    case("tsquery", "('a & !b'), ('''it''''s'' <-> c:*A')", ""),
    case("pair", "(row(1, 'o\"ne')), (row(null, '')), (null)", ""),
    case("over_pair", "(row(1, 'o\"ne')), (null)", ""),
    case("spoken", "(row(1, 'one')), (row(null, null)), (null)", ""),
    case("nested", "(row(row(1, 'a,(\"')::pair, array[row(2, null)::pair])), (row(null, null))", ""),
    case("int4multirange", "('{[1,2),[5,)}'), ('{}')", "int4multirange(int4range(n, n + 5), int4range(n + 10, n + 12))"),
    case("int8multirange", "('{[-9223372036854775808,0),[5,9223372036854775807)}')", ""),
    case("nummultirange", "('{[NaN,NaN],(,1.5)}'), ('{}')", ""),
    case("datemultirange", "('{[0044-03-15 BC,2024-01-01),[2025-01-01,infinity)}')", ""),
    case("tsmultirange", "('{(,\"0044-03-15 12:00:00.000001 BC\"],[2024-01-01,infinity]}')", ""),
    case("tstzmultirange", "('{[2024-01-01,2024-02-01),[2025-01-01,infinity)}')", ""),
    case("lseg", "('[(0,0),(1,1e300)]'), ('[(-0,5e-324),(Infinity,NaN)]')", ""),
    case("box", "('(1,1),(0,0)'), ('(Infinity,1e300),(-1e-300,-Infinity)')", ""),
    case("path", "('[(0,0),(1,1e300)]'), ('((0,0),(1,1))'), ('[(-0,0)]')", ""),
    case("polygon", "('((0,0),(0,1e300),(1,1))'), ('((Infinity,NaN))')", ""),
    case("line", "('{1,-1,0.5}'), ('{-1e-300,1e300,0}')", ""),
    case("circle", "('<(1,2),3>'), ('<(1e300,-0),0>'), ('<(NaN,0),Infinity>')", ""),
    case("cube", "('(1,2),(3,4)'), ('(1e300)')", ""),
    case("lquery", "('Top.*{1,2}.!a|b')", ""),
    case("name[]", "('{one,NULL}')", ""),
    case("money[]", "('{1.5,-92233720368547758.08,NULL}')", ""),
    case("interval[]", "('{1 day,-00:00:00.000001,NULL}')", ""),
    case("xml[]", "(array['<a>,</a>'::xml, null])", ""),
    case("varbit[]", "('{101,\"\",NULL}')", ""),
    case("point[]", "('{\"(1,2)\",NULL}')", ""),
    case("pg_lsn[]", "('{0/1,NULL}')", ""),
    case("pair[]", "(array[row(1, 'one')::pair, null])", ""),
    case("over_pair[]", "(array[row(1, 'one')::over_pair, null])", ""),
    case("nested[]", "(array[row(row(1, 'a')::pair, null)::nested])", ""),
    case("over_numeric[]", "('{1.25,NULL}'), ('[0:1]={1.25,NULL}'), ('{{1},{2}}')", ""),
    case("over_timestamp[]", "('{\"2024-02-29 12:00:00.123\",infinity,NULL}')", ""),
    case("over_enum[]", "('{sad,NULL}')", ""),
    case("over_array[]", "('{\"{1,2}\",NULL}')", ""),
    case("box[]", "(array[box '(1,1),(0,0)', box '(2,2),(1,1)'])", ""),
    case("circle[]", "('{\"<(1,2),3>\",NULL}')", ""),
    case("nummultirange[]", "('{\"{[1,2.5)}\",NULL}')", ""),
];

pub(super) const POSTGIS: &[Case] = &[
    case(
        "geometry",
        "('POINT(1 2)'), ('SRID=4326;LINESTRING Z (0 0 1, 1e300 1 2)'), ('POLYGON EMPTY'), ('SRID=3857;GEOMETRYCOLLECTION M (POINT M (1 2 3))'), (null)",
        "st_makepoint(random(), -random())",
    ),
    case("geography", "('POINT(1 2)'), ('MULTIPOINT(1 2, 3 4)')", ""),
    case("geometry[]", "(array['POINT(1 2)'::geometry, 'SRID=4326;POINT(3 4)', null])", ""),
    case("geography[]", "(array['POINT(1 2)'::geography])", ""),
];

pub(super) const PGVECTOR: &[Case] = &[
    case("vector", "('[0.1,-1e-10,3]'), ('[3.4028235e38,1e-45,-0]'), (null)", "array[random(), -random()]::vector"),
    case("vector(2)", "('[1,2]')", ""),
    case("halfvec(3)", "('[1.5,-2,65504]'), ('[6e-8,-6.1e-5,0]')", ""),
    case("sparsevec(5)", "('{1:1,3:2.5}/5'), ('{}/5'), ('{5:-1e-10}/5')", ""),
    case("vector[]", "(array['[1,2]'::vector, '[0.1]'])", ""),
];
