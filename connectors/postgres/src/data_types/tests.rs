//! Values, schemas and defaults as they were recorded of Debezium 3.6, and octets that no server writes.

mod properties;

use bytes::{BufMut, Bytes, BytesMut};
use tailwater_api::{ErrorKind, Kind, Value};

use super::*;

fn row(oid: u32, name: &str, kind: char) -> TypeRow {
    TypeRow {
        oid,
        name: name.to_owned(),
        namespace: "pg_catalog".to_owned(),
        kind,
        element: 0,
        delimiter: b',',
        base: 0,
        modifier: -1,
        labels: Vec::new(),
    }
}

const NAMES: [&str; 43] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "money",
    "text",
    "varchar",
    "bpchar",
    "name",
    "char",
    "bytea",
    "json",
    "jsonb",
    "xml",
    "uuid",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
    "tsvector",
    "bit",
    "varbit",
    "interval",
    "date",
    "time",
    "timestamp",
    "timetz",
    "timestamptz",
    "mood",
    "pg_lsn",
    "point",
    "int2vector",
    "oidvector",
];
const EXTENSIONS: [&str; 9] = ["citext", "hstore", "ltree", "isbn", "geometry", "geography", "vector", "halfvec", "sparsevec"];
/// Arrays have the oids of their elements and this.
const ARRAY: u32 = 1000;
const DOMAIN: u32 = 2000;

fn catalog(options: TypeOptions) -> TypeCatalog {
    let mut types = Vec::new();
    for (oid, name) in all() {
        let mut scalar = row(oid, name, 'b');
        if EXTENSIONS.contains(&name) {
            scalar.namespace = "public".into();
        }
        if name == "mood" {
            scalar = TypeRow { namespace: "public".into(), kind: 'e', labels: vec!["sad".into(), "with,comma".into()], ..scalar };
        }
        let delimiter = if name == "geometry" { b':' } else { b',' };
        types.push(TypeRow { element: oid, delimiter, ..row(oid + ARRAY, &format!("_{name}"), 'b') });
        types.push(scalar);
    }
    let numeric = oid("numeric");
    types.push(TypeRow { base: numeric, modifier: modifier(6, 2), ..row(DOMAIN, "over_numeric", 'd') });
    types.push(TypeRow { base: DOMAIN, ..row(DOMAIN + 1, "over_domain", 'd') });
    // Nothing of a catalog is taken for granted.
    types.push(TypeRow { base: DOMAIN + 2, ..row(DOMAIN + 2, "over_itself", 'd') });
    TypeCatalog::new(types, options)
}

/// Oid and name of all scalars.
fn all() -> impl Iterator<Item = (u32, &'static str)> {
    (1..).zip(NAMES.into_iter().chain(EXTENSIONS))
}

fn oid(name: &str) -> u32 {
    all().find(|(_, known)| *known == name).map(|(oid, _)| oid).unwrap()
}

fn modifier(precision: i32, scale: i32) -> i32 {
    (precision << 16 | scale & 0x7ff) + 4
}

fn column(name: &str, modifier: i32, default: Option<&str>) -> ColumnCodec {
    catalog(TypeOptions::default()).column(oid(name), modifier, true, default).unwrap()
}

fn array(name: &str, modifier: i32) -> ColumnCodec {
    catalog(TypeOptions::default()).column(oid(name) + ARRAY, modifier, true, None).unwrap()
}

fn read(codec: &ColumnCodec, text: &str) -> Value {
    codec.decode(Format::Text, &Bytes::copy_from_slice(text.as_bytes()), &mut BytesMut::new()).unwrap()
}

fn octets(value: &Value) -> &[u8] {
    match value {
        Value::Bytes(octets) => octets,
        other => panic!("{other:?} is no octets"),
    }
}

#[test]
fn numbers_are_written_as_recorded() {
    let cases: [(i32, &str, &[u8]); 8] = [
        (modifier(5, 0), "-99999", &[0xfe, 0x79, 0x61]),
        (modifier(5, 2), "999.99", &[0x01, 0x86, 0x9f]),
        (modifier(5, 2), "1.28", &[0x00, 0x80]),
        (modifier(5, 2), "0.00", &[0x00]),
        (modifier(2, 4), "-0.0099", &[0x9d]),
        (modifier(5, 0), "127", &[0x7f]),
        (modifier(5, 0), "128", &[0x00, 0x80]),
        (modifier(3, -2), "12300", &[0x7b]),
    ];
    for (modifier, text, expected) in cases {
        assert_eq!(octets(&read(&column("numeric", modifier, None), text)), expected, "{text}");
    }
    // Without a precision each value has its own scale, without the zeros at the end.
    let free = column("numeric", -1, None);
    for (text, scale, unscaled) in [
        ("123.4500", 2, &[0x30, 0x39][..]),
        ("100.000", 0, &[0x64]),
        ("0.00", 0, &[0x00]),
        ("-123.45", 2, &[0xcf, 0xc7]),
        ("2.50", 1, &[0x19]),
    ] {
        let expected = Value::Struct(Box::new([Value::Int32(scale), Value::Bytes(Bytes::copy_from_slice(unscaled))]));
        assert_eq!(read(&free, text), expected, "{text}");
    }
    assert_eq!(free.lost(), 0);
    assert_eq!(read(&free, "NaN"), Value::Null);
    assert_eq!(free.lost(), 1, "what has no room in the schema is counted");
}

#[test]
fn times_are_written_as_recorded() {
    for (name, modifier, text, expected) in [
        ("date", -1, "0044-03-15 BC", Value::Int32(-735_160)),
        ("date", -1, "12345-06-07", Value::Int32(3_789_548)),
        ("time", 3, "24:00:00", Value::Int32(86_400_000)),
        ("time", -1, "23:59:59.999999", Value::Int64(86_399_999_999)),
        ("time", 4, "00:00:00.0001", Value::Int64(100)),
        ("timetz", -1, "23:59:59.999999-07", Value::text("06:59:59.999999Z")),
        ("timetz", 0, "24:00:00-12", Value::text("12:00:00Z")),
        ("timestamp", 3, "0044-03-15 12:00:00.5 BC", Value::Int64(-63_517_780_799_500)),
        ("timestamp", -1, "12345-06-07 08:09:10.123456", Value::Int64(327_416_976_550_123_456)),
        ("timestamp", -1, "infinity", Value::Int64(9_223_372_036_825_200_000)),
        ("timestamp", 0, "-infinity", Value::Int64(-9_223_372_036_832_400)),
        ("timestamptz", -1, "2024-02-29 23:59:59.999999-08", Value::text("2024-03-01T07:59:59.999999Z")),
        ("timestamptz", 0, "0044-03-15 12:00:00+00 BC", Value::text("-0043-03-15T12:00:00Z")),
        ("timestamptz", 3, "12345-06-07 08:09:10.1+00", Value::text("+12345-06-07T08:09:10.100Z")),
        ("timestamptz", -1, "infinity", Value::text("infinity")),
        ("interval", -1, "1 year 2 mons 3 days 04:05:06.78", Value::Int64(37_091_106_780_000)),
        ("interval", -1, "1 mon -1 days +00:00:00.000001", Value::Int64(2_543_400_000_001)),
    ] {
        assert_eq!(read(&column(name, modifier, None), text), expected, "{name} {text}");
    }
    let codec = column("timestamp", -1, None);
    assert_eq!(read(&codec, "294276-12-31 23:59:59.999999"), Value::Int64(i64::MAX));
    assert_eq!(codec.lost(), 1);
}

#[test]
fn octets_and_bits_are_written_as_recorded() {
    for (modifier, text, expected) in [
        (9, "100000000", &[0, 1][..]),
        (9, "111111111", &[0xff, 1]),
        (9, "000000000", &[]),
        (-1, "1010101010101", &[0x55, 0x15]),
        (31, "1", &[1]),
    ] {
        assert_eq!(octets(&read(&column("bit", modifier, None), text)), expected, "{text}");
    }
    assert_eq!(read(&column("bit", 1, None), "1"), Value::Boolean(true));
    for text in ["\\x00ff5c41", "\\000\\377\\\\A"] {
        assert_eq!(
            octets(&read(&column("bytea", -1, None), text)),
            [0, 0xff, b'\\', b'A'],
            "a session that writes another way is understood, too"
        );
    }
}

fn with(options: TypeOptions, name: &str) -> ColumnCodec {
    catalog(options).column(oid(name), -1, true, None).unwrap()
}

fn binary(codec: &ColumnCodec, raw: &[u8]) -> Value {
    codec.decode(Format::Binary, &Bytes::copy_from_slice(raw), &mut BytesMut::new()).unwrap()
}

#[test]
fn times_are_written_as_recorded_in_every_mode() {
    let mode = |time| TypeOptions { time, ..TypeOptions::default() };
    for (time, name, text, expected) in [
        (TimeMode::Connect, "time", "24:00:00", Value::Int32(86_400_000)),
        (TimeMode::Connect, "timestamp", "1969-12-31 23:59:59.999999", Value::Int64(-1)),
        (TimeMode::Microseconds, "timestamp", "1700-01-01 00:00:00.000001", Value::Int64(-8_520_335_999_999_999)),
        (TimeMode::Nanoseconds, "time", "23:59:59.999999", Value::Int64(86_399_999_999_000)),
        (TimeMode::Nanoseconds, "timestamp", "1700-01-01 00:00:00.000001", Value::Int64(-8_520_335_999_999_999_000)),
        (TimeMode::Nanoseconds, "timestamp", "infinity", Value::Int64(i64::MAX)),
        (TimeMode::Isostring, "date", "0044-03-15 BC", Value::text("-0043-03-15Z")),
        (TimeMode::Isostring, "date", "12345-06-07", Value::text("+12345-06-07Z")),
        (TimeMode::Isostring, "date", "-infinity", Value::text("-infinity")),
        (TimeMode::Isostring, "time", "00:00:00.5", Value::text("00:00:00.5Z")),
        (TimeMode::Isostring, "time", "24:00:00", Value::text("24:00:00Z")),
        (TimeMode::Isostring, "timestamp", "1700-01-01 00:00:00.000001", Value::text("1700-01-01T00:00:00.000001Z")),
        (TimeMode::Isostring, "timestamp", "2024-01-02 03:04:05.6", Value::text("2024-01-02T03:04:05.6Z")),
    ] {
        assert_eq!(read(&with(mode(time), name), text), expected, "{name} {text}");
    }
    let codec = with(mode(TimeMode::Nanoseconds), "timestamp");
    assert_eq!((read(&codec, "2300-01-01 00:00:00"), codec.lost()), (Value::Null, 1));
    let strict = with(TypeOptions { refuse_loss: true, ..mode(TimeMode::Nanoseconds) }, "timestamp");
    let refused = strict.decode(Format::Text, &Bytes::from_static(b"2300-01-01 00:00:00"), &mut BytesMut::new());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn intervals_are_written_as_recorded() {
    let codec = with(TypeOptions { interval: IntervalMode::String, ..TypeOptions::default() }, "interval");
    for (text, expected) in [
        ("00:00:00", "P0Y0M0DT0H0M0S"),
        ("1 year 2 mons 3 days 04:05:06.78", "P1Y2M3DT4H5M6.78S"),
        ("-1 years -2 mons -3 days -04:05:06.789012", "P-1Y-2M-3DT-4H-5M-6.789012S"),
        ("1 mon -1 days +00:00:00.000001", "P0Y1M-1DT0H0M0.000001S"),
        ("-00:00:00.000001", "P0Y0M0DT0H0M-0.000001S"),
        ("100:00:00", "P0Y0M0DT100H0M0S"),
        ("9999 years", "P9999Y0M0DT0H0M0S"),
        ("infinity", "infinity"),
    ] {
        assert_eq!(read(&codec, text), expected.into(), "{text}");
    }
}

#[test]
fn hstore_is_written_as_recorded() {
    let json = column("hstore", -1, None);
    for (text, expected) in [
        (r#""a"=>"1", "b"=>NULL, "c d"=>"x y""#, r#"{"a":"1","b":null,"c d":"x y"}"#),
        ("", "{}"),
        (
            r#""n"=>"1.50", "t"=>"true", "漢"=>"😀", "q\"uote"=>"back\\slash""#,
            r#"{"漢":"😀","t":"true","q\"uote":"back\\slash","n":"1.50"}"#,
        ),
        ("\"k\"=>\"\u{1f}\n\"", "{\"k\":\"\\u001F\\n\"}"),
    ] {
        assert_eq!(read(&json, text), expected.into(), "{text}");
    }
    let map = with(TypeOptions { hstore: HstoreMode::Map, ..TypeOptions::default() }, "hstore");
    let entry = |key: &'static str, value: Value| (Value::text(key), value);
    let expected = Value::Map(Box::new([entry("zz", "1".into()), entry("a", Value::Null), entry("bbb", "3".into())]));
    assert_eq!(read(&map, r#""a"=>NULL, "zz"=>"1", "bbb"=>"3""#), expected);
    let raw = b"\0\0\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x02zz\0\0\0\x011\0\0\0\x03bbb\0\0\0\x013";
    assert_eq!(binary(&map, raw), expected);
}

#[test]
fn shapes_are_written_as_recorded() {
    let point = column("point", -1, None);
    let wkb = [&[1, 1, 0, 0, 0][..], &1_f64.to_le_bytes(), &(-2.5_f64).to_le_bytes()].concat();
    let expected = Value::Struct(Box::new([Value::Float64(1.0), Value::Float64(-2.5), Value::Bytes(wkb.clone().into()), Value::Null]));
    assert_eq!(read(&point, "(1,-2.5)"), expected);
    assert_eq!(binary(&point, &[1_f64.to_be_bytes(), (-2.5_f64).to_be_bytes()].concat()), expected);
    let geometry = column("geometry", -1, None);
    let plain = Value::Struct(Box::new([Value::Bytes(wkb.clone().into()), Value::Null]));
    assert_eq!(binary(&geometry, &wkb), plain);
    let hexadecimal: String = wkb.iter().map(|octet| format!("{octet:02X}")).collect();
    assert_eq!(read(&geometry, &hexadecimal), plain);
    for with_reference in
        [[&[1, 1, 0, 0, 0x20, 0xe6, 0x10, 0, 0][..], &wkb[5..]].concat(), [&[0, 0x20, 0, 0, 1, 0, 0, 0x10, 0xe6][..], &wkb[5..]].concat()]
    {
        let expected = Value::Struct(Box::new([Value::Bytes(with_reference.clone().into()), Value::Int32(4326)]));
        assert_eq!(binary(&geometry, &with_reference), expected);
    }
    let texts = format!("{{{hexadecimal}:NULL}}");
    assert_eq!(read(&array("geometry", -1), &texts), Value::Array(Box::new([plain, Value::Null])));
}

#[test]
fn schemas_of_geometries_allow_null_and_what_is_not_told_of_a_required_one_is_empty() {
    let of_column =
        |name: &str, optional: bool| catalog(TypeOptions::default()).column(oid(name), -1, optional, None).unwrap().schema().clone();
    let allows_null = |name: &str, optional: bool| of_column(name, optional).is_optional();
    assert!(allows_null("geometry", false) && !allows_null("geography", false));
    for name in ["geometry", "geography"] {
        assert!(of_column(name, false).zero().is_some());
        assert!(allows_null(name, true) && of_column(name, true).zero().is_none());
    }
}

#[test]
fn vectors_are_written_as_recorded() {
    let doubles = |numbers: &[f64]| Value::Array(numbers.iter().copied().map(Value::Float64).collect());
    let vector = column("vector", -1, None);
    let raw = [&[0, 2, 0, 0][..], &0.1_f32.to_be_bytes(), &1e-10_f32.to_be_bytes()].concat();
    assert_eq!(read(&vector, "[0.1,1e-10]"), doubles(&[0.1, 1e-10]));
    assert_eq!(binary(&vector, &raw), doubles(&[0.1, 1e-10]));
    assert_eq!(read(&array("vector", -1), r#"{"[1,2]"}"#), Value::Array(Box::new([doubles(&[1.0, 2.0])])));
    let half = column("halfvec", -1, None);
    let expected = Value::Array(Box::new([Value::Float32(1.5), Value::Float32(-2.0), Value::Float32(65_504.0)]));
    assert_eq!(read(&half, "[1.5,-2,65504]"), expected);
    assert_eq!(binary(&half, &[0, 3, 0, 0, 0x3e, 0, 0xc0, 0, 0x7b, 0xff]), expected);
    let sparse = column("sparsevec", -1, None);
    let entries = |entries: &[(i16, f64)]| entries.iter().map(|&(index, value)| (Value::Int16(index), Value::Float64(value))).collect();
    let expected = Value::Struct(Box::new([Value::Int16(5), Value::Map(entries(&[(1, 1.0), (3, 2.5)]))]));
    assert_eq!(read(&sparse, "{1:1,3:2.5}/5"), expected);
    let raw = [&[0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &1_f32.to_be_bytes(), &2.5_f32.to_be_bytes()].concat();
    assert_eq!(binary(&sparse, &raw), expected);
    assert_eq!(read(&sparse, "{}/5"), Value::Struct(Box::new([Value::Int16(5), Value::Map(Box::new([]))])));
    assert_eq!((read(&sparse, "{40000:1}/40000"), sparse.lost()), (Value::Null, 1));
}

#[test]
fn types_without_a_mapping_are_their_text_where_that_is_asked_for() {
    let unknown = TypeOptions { include_unknown: true, ..TypeOptions::default() };
    let codec = with(unknown, "pg_lsn");
    assert_eq!(octets(&read(&codec, "0/16B3748")), b"0/16B3748");
    assert!(!codec.supports_binary());
    assert_eq!(read(&with(TypeOptions { binary: BinaryMode::Base64, ..unknown }, "pg_lsn"), "0/16B3748"), "MC8xNkIzNzQ4".into());
    let types = catalog(unknown);
    assert!(types.column(77_777, -1, true, None).is_some(), "a type that the catalog does not know");
    let array = types.column(oid("pg_lsn") + ARRAY, -1, true, None).unwrap();
    let Kind::Array(items) = array.schema().kind() else { panic!("an array") };
    assert_eq!((items.kind(), items.is_optional()), (&Kind::Bytes, false));
    assert!(types.column(oid("money") + ARRAY, -1, true, None).is_some());
}

#[test]
fn figures_without_a_mapping_have_their_numbers_as_java_writes_them() {
    let figures = [
        ("<(1.5,2),3>", "<(1.5,2.0),3.0>"),
        ("{1,-2.5,-0}", "{1.0,-2.5,-0.0}"),
        ("[(1e-07,2),(3,4e+20)]", "[(1.0E-7,2.0),(3.0,4.0E20)]"),
        ("((-Infinity,NaN),(Infinity,1234567890123))", "((-Infinity,NaN),(Infinity,1.234567890123E12))"),
    ];
    for (text, expected) in figures {
        assert_eq!(&geometry::text_of_java(text.as_bytes())[..], expected.as_bytes());
    }
}

#[test]
fn labels_that_an_enum_has_not_are_told() {
    let codec = array("mood", -1);
    assert!(codec.has_labels() && !column("text", -1, None).has_labels());
    read(&codec, "{sad,NULL}");
    assert_eq!(codec.unlisted_label(), None);
    read(&codec, "{sad,angry,new}");
    assert_eq!(codec.unlisted_label(), Some("angry"));
    let mut types = catalog(TypeOptions::default());
    types.remember_label(oid("mood") + ARRAY, "angry".into());
    let codec = types.column(oid("mood"), -1, true, None).unwrap();
    read(&codec, "angry");
    assert_eq!((codec.unlisted_label(), codec.schema().parameter("allowed")), (None, Some("sad,with,comma")));
}

#[test]
fn what_the_server_has_forgotten_is_remembered() {
    let of_rows = |oid, element| TypeRow { element, ..row(oid, "_t", 'b') };
    let mood = |labels: &[&str]| TypeRow {
        namespace: "public".into(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        ..row(1, "mood", 'e')
    };
    let dropped = || TypeRow { base: 1, ..row(2, "dropped", 'd') };
    let options = TypeOptions::default();
    let mut earlier = TypeCatalog::new(vec![mood(&["sad", "angry"]), dropped(), of_rows(3, 2), of_rows(5, 4)], options);
    earlier.remember_label(3, "furious".into());
    let mut now = TypeCatalog::new(vec![mood(&["sad", "cross"])], options);
    now.remember(&earlier);
    assert_eq!((now.knows(2), now.knows(3), now.knows(5)), (true, true, false), "arrays of a table's rows go with the table");
    for oid in [1, 2] {
        let codec = now.column(oid, -1, true, None).unwrap();
        for label in ["sad", "angry", "cross", "furious"] {
            read(&codec, label);
        }
        assert_eq!((codec.unlisted_label(), codec.schema().parameter("allowed")), (None, Some("sad,cross")));
    }
}

#[test]
fn values_of_a_type_that_nobody_knows_any_more_are_their_text_and_counted() {
    let codec = catalog(TypeOptions::default()).column_of_dropped_type();
    assert_eq!((read(&codec, "happy"), codec.lost(), codec.supports_binary()), ("happy".into(), 1, false));
    let refusing = catalog(TypeOptions { refuse_loss: true, ..TypeOptions::default() }).column_of_dropped_type();
    let error = refusing.decode(Format::Text, &Bytes::from_static(b"happy"), &mut BytesMut::new()).unwrap_err();
    assert!(error.to_string().contains("a type that was dropped"), "{error}");
}

#[test]
fn what_a_required_column_has_no_room_for_is_its_default_or_zero_and_counted() {
    let required = |name: &str, modifier, default| catalog(TypeOptions::default()).column(oid(name), modifier, false, default).unwrap();
    let (number, text, nan) = (required("int4", -1, Some("7")), required("text", -1, None), required("numeric", modifier(5, 2), None));
    assert_eq!((number.null().unwrap(), number.lost()), (Value::Int32(7), 1));
    assert_eq!((text.null().unwrap(), text.lost()), ("".into(), 1));
    assert_eq!((read(&nan, "NaN"), nan.lost()), (Value::Bytes(Bytes::from_static(&[0])), 1));
    let bit = required("bit", 1, None);
    assert_eq!((read(&bit, ""), bit.lost()), (Value::Boolean(false), 1));
    let optional = column("int4", -1, Some("7"));
    assert_eq!((optional.null().unwrap(), optional.lost()), (Value::Null, 0));
    let refusing = catalog(TypeOptions { refuse_loss: true, ..TypeOptions::default() });
    let refusing = refusing.column(oid("int4"), -1, false, None).unwrap();
    assert_eq!(refusing.null().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn vectors_of_the_catalog_are_arrays_of_integers() {
    let (int2, oids) = (column("int2vector", -1, None), column("oidvector", -1, None));
    assert_eq!(read(&int2, "1 -2"), Value::Array(Box::new([Value::Int16(1), Value::Int16(-2)])));
    assert_eq!(read(&oids, "4294967295"), Value::Array(Box::new([Value::Int64(4_294_967_295)])));
    assert_eq!(read(&oids, ""), Value::Array(Box::new([])));
    assert!(catalog(TypeOptions::default()).column(oid("oidvector") + ARRAY, -1, true, None).is_none());
}

#[test]
fn arrays_are_written_as_recorded() {
    assert_eq!(read(&array("int4", -1), "[0:1]={7,8}"), Value::Array(Box::new([Value::Int32(7), Value::Int32(8)])));
    let texts = Value::Array(Box::new(["a\"b".into(), "NULL".into(), "".into(), "{}".into(), Value::Null]));
    assert_eq!(read(&array("text", -1), r#"{"a\"b","NULL","","{}",NULL}"#), texts);
    assert_eq!(read(&array("mood", -1), "{sad,NULL}"), Value::Array(Box::new(["sad".into(), Value::Null])));
    let codec = array("int4", -1);
    assert_eq!(read(&codec, "{{1,2},{3,4}}"), Value::Array(Box::new([Value::Null, Value::Null])));
    assert_eq!(codec.lost(), 1);
    for text in ["", "{", "1}", "{1,}", "{\"a}", "{{1}", "{1}2}"] {
        let raw = Bytes::copy_from_slice(text.as_bytes());
        let error = codec.decode(Format::Text, &raw, &mut BytesMut::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable, "{text}");
    }
}

#[test]
fn schemas_are_those_of_debezium() {
    let name = |codec: &ColumnCodec| codec.schema().name().unwrap_or_default().to_owned();
    for (column, expected) in [
        (column("json", -1, None), "io.debezium.data.Json"),
        (column("jsonb", -1, None), "io.debezium.data.Json"),
        (column("xml", -1, None), "io.debezium.data.Xml"),
        (column("uuid", -1, None), "io.debezium.data.Uuid"),
        (column("time", 3, None), "io.debezium.time.Time"),
        (column("time", -1, None), "io.debezium.time.MicroTime"),
        (column("timestamp", 0, None), "io.debezium.time.Timestamp"),
        (column("timestamp", 4, None), "io.debezium.time.MicroTimestamp"),
        (column("interval", -1, None), "io.debezium.time.MicroDuration"),
        (column("varchar", 13, None), ""),
    ] {
        assert_eq!(name(&column), expected);
    }
    let parameters =
        |codec: &ColumnCodec| codec.schema().parameters().iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
    assert_eq!(parameters(&column("numeric", modifier(5, 2), None)), "scale=2 connect.decimal.precision=5");
    assert_eq!(parameters(&column("numeric", modifier(3, -2), None)), "scale=-2 connect.decimal.precision=3");
    assert_eq!(parameters(&column("money", -1, None)), "scale=2");
    assert_eq!(parameters(&column("varbit", -1, None)), "length=2147483647");
    assert_eq!(parameters(&column("mood", -1, None)), "allowed=sad,with,comma");
    let items = |codec: &ColumnCodec| match codec.schema().kind() {
        Kind::Array(items) => items.clone(),
        other => panic!("{other:?} is no array"),
    };
    assert!(items(&array("numeric", modifier(5, 2))).is_optional());
    assert!(!items(&array("mood", -1)).is_optional(), "as Debezium has it");
    let types = catalog(TypeOptions::default());
    assert_eq!(parameters(&types.column(DOMAIN + 1, -1, true, None).unwrap()), "scale=2 connect.decimal.precision=6");
    for unmapped in [oid("pg_lsn"), oid("money") + ARRAY, oid("name") + ARRAY, DOMAIN + 2, 77_777] {
        assert!(types.column(unmapped, -1, true, None).is_none(), "{unmapped}");
    }
    assert!(types.knows(oid("pg_lsn")) && !types.knows(77_777));
}

#[test]
fn defaults_are_those_of_the_recorded_case() {
    let bytes = |octets: &'static [u8]| Some(Value::Bytes(Bytes::from_static(octets)));
    let cases = [
        ("int4", -1, "42", Some(Value::Int32(42))),
        ("int4", -1, "'-7'::integer", Some(Value::Int32(-7))),
        ("int8", -1, "'9000000000'::bigint", Some(Value::Int64(9_000_000_000))),
        ("int2", -1, "(3)::smallint", None),
        ("float4", -1, "1.5", Some(Value::Float32(1.5))),
        ("numeric", modifier(5, 2), "1.2", bytes(&[0x78])),
        ("numeric", -1, "3.14", None),
        ("bool", -1, "false", Some(Value::Boolean(false))),
        ("text", -1, "'it''s'::text", Some("it's".into())),
        ("varchar", 24, "'x'::character varying", Some("x".into())),
        ("bpchar", 8, "'ab'::bpchar", Some("ab".into())),
        ("bytea", -1, "'\\xdead'::bytea", None),
        ("uuid", -1, "gen_random_uuid()", Some("00000000-0000-0000-0000-000000000000".into())),
        ("date", -1, "'2024-02-29'::date", Some(Value::Int32(19_782))),
        ("date", -1, "CURRENT_DATE", Some(Value::Int32(0))),
        ("time", -1, "'12:34:56.5'::time without time zone", Some(Value::Int64(45_296_500_000))),
        ("timestamp", 3, "'2024-01-02 03:04:05.678'::timestamp without time zone", Some(Value::Int64(1_704_164_645_678))),
        ("timestamptz", -1, "'2024-01-02 01:04:05+00'::timestamp with time zone", Some("2024-01-02T01:04:05.000000Z".into())),
        ("timestamptz", -1, "now()", Some("1970-01-01T00:00:00.000000Z".into())),
        ("timestamptz", 0, "now()", Some("1970-01-01T00:00:00Z".into())),
        ("interval", -1, "'1 day 02:00:00'::interval", Some(Value::Int64(93_600_000_000))),
        ("jsonb", -1, "'[]'::jsonb", Some("[]".into())),
        ("mood", -1, "'with,comma'::public.\"Odd Mood\"", Some("with,comma".into())),
        ("text", -1, "lower('ABC'::text)", Some("".into())),
        ("int4", -1, "(1 + 2)", None),
        ("int4", -1, "nextval('a_seq'::regclass)", Some(Value::Int32(0))),
        ("text", -1, "NULL::text", None),
        ("bit", 3, "'101'::\"bit\"", bytes(&[5])),
        ("bit", 1, "'1'::\"bit\"", Some(Value::Boolean(true))),
        ("inet", -1, "'10.0.0.1'::inet", None),
        ("text", -1, "('a'::text || 'b'::text)", None),
        ("text", -1, "lower('a') || upper('b')", None),
        ("text", -1, "'a'::text || 'b'::text", None),
        ("money", -1, "9.99", None),
        ("oid", -1, "'42'::oid", None),
        ("char", -1, "'q'::\"char\"", None),
        ("timetz", -1, "'10:00:00+02'::time with time zone", None),
        ("citext", -1, "'a'::citext", None),
        ("name", -1, "'a'::name", None),
        ("text", -1, "'a'::public.\"My-Type (1)\"", Some("a".into())),
        ("text", -1, "'a'::public.\"My-Type", None),
        ("int4", -1, "'no number'::integer", None),
        // Those of a former type
        ("bool", -1, "'no'::text", Some(Value::Boolean(false))),
        ("timestamp", -1, "'2024-01-02'::date", Some(Value::Int64(1_704_153_600_000_000))),
        ("timestamp", 3, "'2024-01-02'::date", Some(Value::Int64(1_704_153_600_000))),
        ("timestamp", -1, "'2024-01-02 BC'::date", Some(Value::Int64(-126_006_796_800_000_000))),
        ("timestamptz", -1, "'2024-01-02'::date", Some("2024-01-02T00:00:00.000000Z".into())),
        ("date", -1, "'2024-01-02 03:04:05'::timestamp without time zone", Some(Value::Int32(19_724))),
        ("date", -1, "'2024-01-02 03:04:05+00'::timestamp with time zone", Some(Value::Int32(19_724))),
    ];
    for (name, modifier, expression, expected) in cases {
        assert_eq!(column(name, modifier, Some(expression)).schema().default(), expected.as_ref(), "{name} {expression}");
    }
}

#[test]
fn decimals_as_text_have_the_digits_of_their_scale() {
    let column = |name: &str, modifier: i32, decimal: DecimalMode, default: Option<&str>| {
        let options = TypeOptions { decimal, money_fraction_digits: 2, ..TypeOptions::default() };
        catalog(options).column(oid(name), modifier, false, default).unwrap().schema().clone()
    };
    for (modifier, zero, default) in
        [(modifier(5, 2), "0.00", "100.00"), (modifier(4, 0), "0", "100"), (modifier(5, -2), "0", "100"), (-1, "0", "100")]
    {
        let schema = column("numeric", modifier, DecimalMode::String, Some("100"));
        assert_eq!((schema.zero(), schema.default()), (Some(&zero.into()), Some(&default.into())));
    }
    for (modifier, more) in [(modifier(5, 2), "1.005"), (modifier(4, 0), "1.5"), (modifier(5, -2), "110")] {
        for mode in [DecimalMode::String, DecimalMode::Double, DecimalMode::Precise] {
            assert_eq!(column("numeric", modifier, mode, Some(more)).default(), None, "the column cannot hold {more}");
        }
    }
    let of_function = column("numeric", modifier(5, 1), DecimalMode::String, Some("round(2.55, 1)"));
    assert_eq!(of_function.default(), Some(&"0.0".into()));
    assert_eq!(column("money", -1, DecimalMode::String, None).zero(), Some(&"0.00".into()));
    for mode in [DecimalMode::String, DecimalMode::Double] {
        assert_eq!(column("numeric", -1, mode, Some("'NaN'::numeric")).default(), None);
    }
}

#[test]
fn money_as_text_has_its_hundredths_whatever_the_fraction_digits_are() {
    for money_fraction_digits in [0, 1, 2, 4] {
        let options = TypeOptions { decimal: DecimalMode::String, money_fraction_digits, ..TypeOptions::default() };
        let money = catalog(options).column(oid("money"), -1, true, None).unwrap();
        for (text, expected) in
            [("$1,234.56", "1234.56"), ("-$0.05", "-0.05"), ("$0.00", "0.00"), ("-$92,233,720,368,547,758.08", "-92233720368547758.08")]
        {
            assert_eq!(read(&money, text), expected.into());
        }
    }
}

#[test]
fn text_shares_the_buffer_that_it_came_in() {
    let raw = Bytes::from_static(b"a longer text");
    let codec = column("text", -1, None);
    match codec.decode(Format::Binary, &raw, &mut BytesMut::new()).unwrap() {
        Value::String(text) => assert_eq!(text.as_bytes().as_ptr(), raw.as_ptr()),
        other => panic!("{other:?}"),
    }
}
