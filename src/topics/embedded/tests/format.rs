//! The format: what is written comes back, and what was not written is an error, never a panic.

use bytes::Bytes;
use proptest::prelude::*;
use tailwater_api::schema::{Field, Kind, Schema};
use tailwater_api::value::Value;

use super::super::dictionary::{ReaderDictionary, SchemaPool, WriterDictionary};
use super::super::group::{self, FRAME, Head, RecordReader, Room};
use super::super::wire::Cursor;
use super::super::{index, value};
use super::*;

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        Just(Value::NotInIdentity),
        any::<bool>().prop_map(Value::Boolean),
        any::<i8>().prop_map(Value::Int8),
        any::<i16>().prop_map(Value::Int16),
        any::<i32>().prop_map(Value::Int32),
        any::<i64>().prop_map(Value::Int64),
        (-1e30_f32..1e30).prop_map(Value::Float32),
        (-1e300_f64..1e300).prop_map(Value::Float64),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(Bytes::from(bytes))),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|values| Value::Array(values.into())),
            proptest::collection::vec((inner.clone(), inner), 0..4).prop_map(|entries| Value::Map(entries.into())),
        ]
    })
}

/// A row of all kinds.
fn row() -> impl Strategy<Value = Value> {
    proptest::collection::vec(values(), 4).prop_map(|values| Value::Struct(values.into()))
}

fn row_schema() -> Arc<Schema> {
    let kinds = [Kind::Int32, Kind::String, Kind::Bytes, Kind::Array(Schema::of(Kind::Int64).build())];
    let fields = kinds.into_iter().enumerate().map(|(place, kind)| Field::new(format!("f{place}"), Schema::of(kind).optional().build()));
    Schema::structure(fields.collect()).name("row").build()
}

/// Head and records of a group, and what was written.
fn encoded(rows: Vec<Value>) -> (Vec<u8>, Vec<u8>, Vec<Record>) {
    let schema = row_schema();
    let headers =
        Headers::new(vec![Header { name: "h".into(), value: SchemaAndValue::new(Schema::of(Kind::Int8).build(), Value::Int8(1)) }]);
    let records: Vec<Record> = rows
        .into_iter()
        .enumerate()
        .map(|(place, value)| {
            let key = SchemaAndValue { schema: None, value: Value::Int64(place as i64) };
            let mut record = Record::new(["a", "b"][place % 2].into(), key, SchemaAndValue::new(Arc::clone(&schema), value));
            record.timestamp = (place % 3 > 0).then_some(place as i64);
            if place % 4 > 0 {
                record.headers = headers.clone();
            }
            record
        })
        .collect();
    let mut dictionary = WriterDictionary::new(Arc::default());
    let mut octets = Vec::new();
    let runs = group::write_records(&mut dictionary, &records, &mut octets).unwrap();
    let mut head = Vec::new();
    Head { appended: 77, state: state(1), runs, ..Head::default() }.write(&mut dictionary, &mut head);
    (head[FRAME..].to_vec(), octets, records)
}

/// All records of a group, a few at a time.
fn decoded(head: &[u8], octets: Vec<u8>, at_once: usize) -> Result<Vec<SinkRecord>, super::super::wire::Malformed> {
    let mut dictionary = ReaderDictionary::new(Arc::new(SchemaPool::default()));
    let head = Bytes::copy_from_slice(head);
    let head = Head::read(&mut Cursor::new(&head), &mut dictionary)?;
    let wanted: Vec<_> = head.runs.iter().map(|run| (run.base, Some(run.base))).collect();
    let mut reader = RecordReader::new(&head, Bytes::from(octets), wanted.into_iter());
    let mut all = Vec::new();
    loop {
        let mut some = Vec::new();
        let ended = reader.read(&dictionary, &mut some, &mut Room { bytes: usize::MAX, records: at_once })?;
        all.append(&mut some);
        if ended {
            return Ok(all);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_comes_back(value in values(), schema_kind in 0..6) {
        let kinds = [
            None,
            Some(Kind::Int32),
            Some(Kind::String),
            Some(Kind::Bytes),
            Some(Kind::Array(Schema::of(Kind::Int64).build())),
            Some(Kind::Map(Schema::of(Kind::String).build(), Schema::of(Kind::Float64).build())),
        ];
        let schema = kinds[schema_kind as usize].clone().map(|kind| Schema::of(kind).build());
        let mut out = Vec::new();
        value::write(&mut out, schema.as_deref(), &value, None).unwrap();
        let buffer = Bytes::from(out);
        let mut cursor = Cursor::new(&buffer);
        prop_assert_eq!(value::read(&mut cursor, schema.as_deref(), None).unwrap(), value);
        prop_assert!(cursor.is_at_end());
    }

    #[test]
    fn any_records_come_back_in_any_portions(rows in proptest::collection::vec(row(), 1..12), at_once in 1_usize..5) {
        let (head, octets, sent) = encoded(rows);
        let read = decoded(&head, octets, at_once).unwrap();
        prop_assert_eq!(read.len(), sent.len());
        for (read, sent) in read.iter().zip(&sent) {
            let expected = Record { partition: Some(0), timestamp: Some(sent.timestamp.unwrap_or(77)), ..sent.clone() };
            prop_assert_eq!(&read.record, &expected);
        }
    }

    #[test]
    fn a_group_with_other_octets_is_an_error_or_another_group(
        rows in proptest::collection::vec(row(), 1..6),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_head in any::<bool>(),
    ) {
        let (mut head, mut octets, _) = encoded(rows);
        let changed = if in_head { &mut head } else { &mut octets };
        for (place, octet) in changes {
            *place.get_mut(changed.as_mut_slice()) = octet;
        }
        // Checksums are not looked at here: this is what stands behind them.
        let _ = decoded(&head, octets, 3);
    }

    #[test]
    fn octets_that_are_no_group_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let buffer = Bytes::from(bytes);
        let _ = Head::read(&mut Cursor::new(&buffer), &mut ReaderDictionary::default());
        let _ = index::read(&buffer);
        let _ = value::read(&mut Cursor::new(&buffer), None, None);
        let _ = value::read(&mut Cursor::new(&buffer), Some(&row_schema()), None);
    }
}

#[test]
fn a_value_that_nests_without_end_is_refused() {
    let mut value = Value::Int8(1);
    for _ in 0..200 {
        value = Value::Array([value].into());
    }
    assert!(value::write(&mut Vec::new(), None, &value, None).is_err());
    let deep = Bytes::from([24, 1].repeat(100_000));
    assert!(value::read(&mut Cursor::new(&deep), None, None).is_err());
}
