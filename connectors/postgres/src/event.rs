//! The parts of a change event that are PostgreSQL's own: its source block, and the records of logical messages.
//!
//! The block is that of Debezium 3.6 (`io.debezium.connector.postgresql.Source`, version 1). `sequence` is a JSON text,
//! the end of the last transaction seen and the place of this message: `["40093712","40093856"]`, null for the former
//! before the first. It is written into a buffer that all records of a batch share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::{Field, Kind, Schema, Value};
use tailwater_kit::envelope::{EventMoment, SnapshotMark, SourceBlocks, SourceMoment};
use tailwater_kit::transaction::EventOrder;

use crate::config::PostgresConfig;
use crate::data_types::BinaryMode;
use crate::lsn::Lsn;

/// What Debezium's `source.version` holds in our records.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes source blocks of one connector.
#[derive(Clone)]
pub(crate) struct Blocks {
    blocks: SourceBlocks,
    database: ByteString,
    /// The oldest transaction that the slot holds the catalog for, where it is asked for
    xmin: Value,
}

/// Where and when a change happened.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) lsn: Lsn,
    pub(crate) last_commit: Option<Lsn>,
    pub(crate) xid: Option<u32>,
    /// Microseconds since 1970 UTC
    pub(crate) timestamp: i64,
    pub(crate) mark: SnapshotMark,
    pub(crate) origin: Option<(ByteString, Lsn)>,
}

impl Blocks {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        let text = || Schema::of(Kind::String).build();
        let number = || Schema::of(Kind::Int64).optional().build();
        let own = vec![
            Field::new("schema", text()),
            Field::new("table", text()),
            Field::new("txId", number()),
            Field::new("lsn", number()),
            Field::new("xmin", number()),
            Field::new("origin", Schema::of(Kind::String).optional().build()),
            Field::new("origin_lsn", number()),
        ];
        let blocks = SourceBlocks::new(
            "io.debezium.connector.postgresql.Source",
            ByteString::from_static(VERSION),
            ByteString::from_static("postgresql"),
            config.relational.topic_prefix.clone(),
            own,
        );
        Self { blocks, database: config.dbname.clone().into(), xmin: Value::Null }
    }

    pub(crate) fn schema(&self) -> &Arc<Schema> {
        self.blocks.schema()
    }

    /// What `xmin` of the blocks is from now on.
    pub(crate) fn set_xmin(&mut self, xmin: Option<i64>) {
        self.xmin = xmin.map_or(Value::Null, Value::Int64);
    }

    /// The event's own part: source block and the connector's clock.
    pub(crate) fn moment(&self, place: &Place, schema: Value, table: Value, now: i64, arena: &mut BytesMut) -> EventMoment {
        // A row that is read beside the log has no place in it, and no other time than now.
        let is_beside = matches!(place.mark, SnapshotMark::Incremental);
        let moment = SourceMoment {
            timestamp_ns: if is_beside { now } else { place.timestamp.saturating_mul(1000) },
            snapshot: place.mark,
            database: self.database.clone(),
            sequence: Value::String(sequence(place.last_commit, place.lsn, arena)),
        };
        let (origin, origin_lsn) = match &place.origin {
            Some((name, lsn)) => (Value::String(name.clone()), lsn_value(*lsn)),
            None => (Value::Null, Value::Null),
        };
        let xid = place.xid.map_or(Value::Null, |xid| Value::Int64(xid.into()));
        let (lsn, xmin) = if is_beside { (Value::Null, Value::Null) } else { (lsn_value(place.lsn), self.xmin.clone()) };
        let source = self.blocks.block(moment, [schema, table, xid, lsn, xmin, origin, origin_lsn]);
        EventMoment { source, transaction: None, timestamp_ns: now }
    }
}

fn lsn_value(lsn: Lsn) -> Value {
    // The upper half of the range is centuries of log away.
    Value::Int64(lsn.as_u64().cast_signed())
}

fn sequence(last_commit: Option<Lsn>, lsn: Lsn, arena: &mut BytesMut) -> ByteString {
    let mut digits = itoa::Buffer::new();
    match last_commit {
        Some(commit) => {
            arena.put_slice(b"[\"");
            arena.put_slice(digits.format(commit.as_u64()).as_bytes());
            arena.put_slice(b"\",\"");
        }
        None => arena.put_slice(b"[null,\""),
    }
    arena.put_slice(digits.format(lsn.as_u64()).as_bytes());
    arena.put_slice(b"\"]");
    ByteString::try_from(arena.split().freeze()).expect("digits and punctuation are UTF-8")
}

/// Nanoseconds since 1970 UTC. Read once a batch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Makes the records of logical messages (`pg_logical_emit_message`), which have a topic and schemas of their own. As Debezium
/// does, without the headers that rows have.
pub(crate) struct LogicalMessages {
    topic: Arc<str>,
    key: Arc<Schema>,
    value: Arc<Schema>,
    binary: BinaryMode,
}

impl LogicalMessages {
    pub(crate) fn new(config: &PostgresConfig, blocks: &Blocks) -> Self {
        let text = Schema::of(Kind::String).optional().build();
        let key = Schema::structure(vec![Field::new("prefix", text.clone())])
            .name("io.debezium.connector.postgresql.MessageKey")
            .version(1)
            .build();
        let binary = config.values.binary;
        let content = match binary {
            BinaryMode::Bytes => Kind::Bytes,
            BinaryMode::Base64 | BinaryMode::Base64UrlSafe | BinaryMode::Hex => Kind::String,
        };
        let message = Schema::structure(vec![Field::new("prefix", text), Field::new("content", Schema::of(content).optional().build())])
            .name("io.debezium.connector.postgresql.Message")
            .version(1)
            .build();
        let number = Schema::of(Kind::Int64).build();
        let transaction = Schema::structure(vec![
            Field::new("id", Schema::of(Kind::String).build()),
            Field::new("total_order", number.clone()),
            Field::new("data_collection_order", number),
        ])
        .optional()
        .name("event.block")
        .version(1)
        .build();
        let value = Schema::structure(vec![
            Field::new("op", Schema::of(Kind::String).build()),
            Field::new("ts_ms", Schema::of(Kind::Int64).optional().build()),
            Field::new("source", blocks.schema().clone()),
            Field::new("transaction", transaction),
            Field::new("message", message),
        ])
        .name("io.debezium.connector.postgresql.MessageValue")
        .version(1)
        .build();
        // Debezium joins these two by a dot whatever `topic.delimiter` says.
        let topic = format!("{}.message", config.relational.topic_prefix).into();
        Self { topic, key, value, binary }
    }

    pub(crate) fn record(&self, prefix: &str, content: Bytes, moment: EventMoment) -> Record {
        let prefix: Value = prefix.into();
        let content = match self.binary {
            BinaryMode::Bytes => Value::Bytes(content),
            BinaryMode::Base64 => STANDARD.encode(content).into(),
            BinaryMode::Base64UrlSafe => URL_SAFE.encode(content).into(),
            BinaryMode::Hex => content.iter().map(|octet| format!("{octet:02x}")).collect::<String>().into(),
        };
        let message = Value::Struct(Box::new([prefix.clone(), content]));
        let values = Box::new([
            Value::text("m"),
            Value::Int64(moment.timestamp_ns.div_euclid(1_000_000)),
            moment.source,
            moment.transaction.map_or(Value::Null, EventOrder::into_value),
            message,
        ]);
        let key = SchemaAndValue::new(self.key.clone(), Value::Struct(Box::new([prefix])));
        let value = SchemaAndValue::new(self.value.clone(), Value::Struct(values));
        Record::new(self.topic.clone(), key, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_a_json_text_of_two_places() {
        let mut arena = BytesMut::new();
        assert_eq!(sequence(None, Lsn::new(40_093_408), &mut arena), r#"[null,"40093408"]"#);
        assert_eq!(sequence(Some(Lsn::new(7)), Lsn::new(9), &mut arena), r#"["7","9"]"#);
    }
}
