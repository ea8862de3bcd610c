//! Decoding of a row of eight columns, from the octets of its `CopyData` to its values. Budget: 1.0 µs a row on one core.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tailwater_api::Value;
use tailwater_postgres::data_types::{ColumnCodec, Format, TypeCatalog, TypeOptions, TypeRow};
use tailwater_postgres::pgoutput::{Message, TupleValue};
use tailwater_postgres::replication::Frame;

const ROWS: usize = 1000;

/// Oid, name and modifier of each column's type, and a value as text and in binary.
fn columns() -> Vec<(u32, &'static str, i32, &'static str, Vec<u8>)> {
    let text = "the quick brown fox jumps over the lazy dog and then some more words to fill ninety-six letters.";
    let numeric = [0, 3, 0, 1, 0, 0, 0, 2, 0, 12, 0x0d, 0x80, 0x1e, 0x78].to_vec();
    let mut json = vec![1];
    json.extend_from_slice(br#"{"a": 1, "b": [true, null], "c": "text"}"#);
    vec![
        (20, "int8", -1, "9007199254740993", 9_007_199_254_740_993_i64.to_be_bytes().to_vec()),
        (23, "int4", -1, "123456789", 123_456_789_i32.to_be_bytes().to_vec()),
        (25, "text", -1, "a short text", b"a short text".to_vec()),
        (1700, "numeric", ((12 << 16) | 2) + 4, "123456.78", numeric),
        (1184, "timestamptz", -1, "2024-02-29 23:59:59.999999+00", 762_566_399_999_999_i64.to_be_bytes().to_vec()),
        (1114, "timestamp", -1, "2024-02-29 23:59:59.999999", 762_566_399_999_999_i64.to_be_bytes().to_vec()),
        (1043, "varchar", -1, text, text.as_bytes().to_vec()),
        (3802, "jsonb", -1, r#"{"a": 1, "b": [true, null], "c": "text"}"#, json),
    ]
}

fn codecs() -> Vec<ColumnCodec> {
    let row = |oid, name: &str| TypeRow {
        oid,
        name: name.to_owned(),
        namespace: "pg_catalog".to_owned(),
        kind: 'b',
        element: 0,
        delimiter: b',',
        base: 0,
        modifier: -1,
        labels: Vec::new(),
    };
    let types = TypeCatalog::new(columns().iter().map(|column| row(column.0, column.1)).collect(), TypeOptions::default());
    let codec = |column: &(u32, _, i32, _, _)| types.column(column.0, column.2, true, None).expect("a type of the server's own");
    columns().iter().map(codec).collect()
}

/// The octets of many rows as they stand on the wire.
fn wire(format: Format) -> Bytes {
    let mut out = BytesMut::new();
    for _ in 0..ROWS {
        let mut body = BytesMut::new();
        body.put_u8(b'w');
        body.put_u64(1);
        body.put_u64(2);
        body.put_i64(3);
        body.put_u8(b'I');
        body.put_u32(16_384);
        body.put_u8(b'N');
        body.put_i16(8);
        for (_, _, _, text, binary) in columns() {
            let (tag, value) = match format {
                Format::Text => (b't', text.as_bytes()),
                Format::Binary => (b'b', binary.as_slice()),
            };
            body.put_u8(tag);
            body.put_u32(value.len() as u32);
            body.put_slice(value);
        }
        out.put_u8(b'd');
        out.put_u32(body.len() as u32 + 4);
        out.put_slice(&body);
    }
    out.freeze()
}

fn decode(wire: &mut BytesMut, codecs: &[ColumnCodec], scratch: &mut BytesMut, rows: &mut Vec<Vec<Value>>) {
    while let Some([_, length @ ..]) = wire.first_chunk::<5>() {
        let length = u32::from_be_bytes(*length) as usize;
        let mut body = wire.split_to(length + 1).freeze();
        body.advance(5);
        let Ok(Frame::Data { payload, .. }) = Frame::parse(body) else { panic!("a change") };
        let Ok(Message::Insert(insert)) = Message::decode(&payload) else { panic!("an insert") };
        let values = insert.new.values().zip(codecs).map(|(value, codec)| match value {
            TupleValue::Null => Value::Null,
            TupleValue::Unchanged => Value::Unchanged,
            TupleValue::Text(raw) => codec.decode(Format::Text, raw, scratch).expect("a value"),
            TupleValue::Binary(raw) => codec.decode(Format::Binary, raw, scratch).expect("a value"),
        });
        rows.push(values.collect());
    }
}

fn rows(criterion: &mut Criterion) {
    let codecs = codecs();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, format) in [("text", Format::Text), ("binary", Format::Binary)] {
        let wire = wire(format);
        let mut scratch = BytesMut::new();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (BytesMut::from(&wire[..]), Vec::with_capacity(ROWS)),
                |(mut wire, mut rows)| {
                    decode(&mut wire, &codecs, &mut scratch, &mut rows);
                    assert_eq!(rows.len(), ROWS);
                    rows
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);
