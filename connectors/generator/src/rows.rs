//! Rows from sequence numbers.

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use tailwater_api::envelope::Operation;
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::schema::{Field, Kind, Schema};
use tailwater_api::value::Value;

use crate::config::{GeneratorConfig, Shape};

/// Payloads are slices of one text at this many different places.
const PAYLOADS: usize = 64;
const LETTERS: &[u8] = b"the quick brown fox jumps over the lazy dog 0123456789 ";

pub(crate) struct Rows {
    topics: Vec<Topic>,
    shape: Shape,
    keys: Option<u64>,
    transaction_rows: u64,
    payload_bytes: usize,
    text: ByteString,
    connector: ByteString,
    key_schema: Arc<Schema>,
}

struct Topic {
    name: Arc<str>,
    value_schema: Arc<Schema>,
}

impl Rows {
    pub(crate) fn new(config: &GeneratorConfig, connector: &str) -> Self {
        let text: String = LETTERS.iter().cycle().take(config.payload_bytes + PAYLOADS).map(|letter| char::from(*letter)).collect();
        let int64 = Schema::of(Kind::Int64).build();
        let topics = config.topics.iter().map(|name| {
            let row = vec![Field::new("id", Arc::clone(&int64)), Field::new("payload", Schema::of(Kind::String).build())];
            let row = Schema::structure(row).name(format!("{name}.Value"));
            let value_schema = match config.shape {
                Shape::Flat => row.build(),
                Shape::Envelope => envelope(name, &row.optional().build(), &int64),
            };
            Topic { name: Arc::from(name.as_str()), value_schema }
        });
        Self {
            topics: topics.collect(),
            shape: config.shape,
            keys: config.keys,
            transaction_rows: config.transaction_rows,
            payload_bytes: config.payload_bytes,
            text: text.into(),
            connector: connector.into(),
            key_schema: Schema::structure(vec![Field::new("id", Arc::clone(&int64))]).name("generator.Key").build(),
        }
    }

    /// The records with these sequence numbers.
    pub(crate) fn batch(&mut self, sequence: Range<u64>) -> Vec<Record> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        sequence.map(|number| self.record(number, now)).collect()
    }

    fn record(&self, number: u64, now: i64) -> Record {
        let topic = &self.topics[(number % self.topics.len() as u64) as usize];
        let id = Value::Int64(self.keys.map_or(number, |keys| number % keys) as i64);
        let start = (number % PAYLOADS as u64) as usize;
        let payload = self.text.slice_ref(&self.text[start..start + self.payload_bytes]);
        let row = Value::Struct(Box::new([id.clone(), Value::String(payload)]));
        let value = match self.shape {
            Shape::Flat => row,
            Shape::Envelope => {
                let operation = if self.keys.is_some_and(|keys| number >= keys) { Operation::Update } else { Operation::Create };
                let transaction = (number / self.transaction_rows) as i64;
                let source = [
                    Value::text("generator"),
                    Value::String(self.connector.clone()),
                    Value::Int64(number as i64),
                    Value::Int64(transaction),
                ];
                let source = Value::Struct(Box::new(source));
                Value::Struct(Box::new([Value::Null, row, source, Value::text(operation.code()), Value::Int64(now)]))
            }
        };
        let key = SchemaAndValue::new(Arc::clone(&self.key_schema), Value::Struct(Box::new([id])));
        let mut record = Record::new(Arc::clone(&topic.name), key, SchemaAndValue::new(Arc::clone(&topic.value_schema), value));
        record.timestamp = Some(now);
        record
    }
}

fn envelope(topic: &str, row: &Arc<Schema>, int64: &Arc<Schema>) -> Arc<Schema> {
    let text = Schema::of(Kind::String).build();
    let source = Schema::structure(vec![
        Field::new("connector", Arc::clone(&text)),
        Field::new("name", Arc::clone(&text)),
        Field::new("sequence", Arc::clone(int64)),
        Field::new("transaction", Arc::clone(int64)),
    ]);
    let fields = vec![
        Field::new("before", Arc::clone(row)),
        Field::new("after", Arc::clone(row)),
        Field::new("source", source.name("io.tailwater.connector.generator.Source").build()),
        Field::new("op", text),
        Field::new("ts_ms", Schema::of(Kind::Int64).optional().build()),
    ];
    Schema::structure(fields).name(format!("{topic}.Envelope")).version(1).build()
}
