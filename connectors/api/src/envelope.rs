//! The change event as Debezium 3.6 lays it out, read by position.
//!
//! A change event is an ordinary record whose value schema is a struct named `….Envelope`. [`Envelope`] is a
//! view over such a record; it owns nothing.

use crate::record::{Record, SchemaAndValue};
use crate::schema::{Kind, Schema};
use crate::value::Value;
use std::sync::Arc;

/// Name of the header of a change that leaves values out and stands beside a snapshot of its table, which brings the row whole: it may
/// follow. A copy that has no such row yet misses nothing by leaving the change out. Its value says no more.
pub const SNAPSHOT_BRINGS_ROW: &str = "__tailwater.context.snapshotBringsRow";

/// What happened to a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Operation {
    /// `r`: read by a snapshot
    Read,
    /// `c`: inserted
    Create,
    /// `u`: updated
    Update,
    /// `d`: deleted
    Delete,
    /// `t`: its table was truncated
    Truncate,
    /// `m`: a message written to the log, no row
    Message,
}

impl Operation {
    /// The letter in `op`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Truncate => "t",
            Self::Message => "m",
        }
    }

    /// The operation of a letter in `op`.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "r" => Self::Read,
            "c" => Self::Create,
            "u" => Self::Update,
            "d" => Self::Delete,
            "t" => Self::Truncate,
            "m" => Self::Message,
            _ => return None,
        })
    }
}

/// Where an envelope schema keeps its parts. Found once per schema.
#[derive(Debug, Clone)]
pub(crate) struct EnvelopeLayout {
    before: Option<usize>,
    after: Option<usize>,
    source: Option<usize>,
    op: usize,
    ts_ms: Option<usize>,
    transaction: Option<usize>,
}

impl EnvelopeLayout {
    pub(crate) fn of(schema: &Schema) -> Option<Self> {
        // Debezium recognises its envelopes by the ending of the name.
        if !matches!(schema.kind(), Kind::Struct(_)) || !schema.name()?.ends_with(".Envelope") {
            return None;
        }
        let place = |name| schema.field(name).map(|(index, _)| index);
        Some(Self {
            before: place("before"),
            after: place("after"),
            source: place("source"),
            op: place("op")?,
            ts_ms: place("ts_ms"),
            transaction: place("transaction"),
        })
    }
}

/// A change event over the record that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    schema: &'a Arc<Schema>,
    layout: &'a EnvelopeLayout,
    values: &'a [Value],
    operation: Operation,
}

impl<'a> Envelope<'a> {
    /// The change event in `record`; `None` for tombstones and for records of any other shape.
    #[must_use]
    pub fn of(record: &'a Record) -> Option<Self> {
        Self::within(&record.value)
    }

    /// The change event that a record's value is.
    #[must_use]
    pub fn within(value: &'a SchemaAndValue) -> Option<Self> {
        let schema = value.schema.as_ref()?;
        let layout = schema.envelope_layout()?;
        let values = value.value.as_struct()?;
        let operation = Operation::from_code(values.get(layout.op)?.as_text()?)?;
        Some(Self { schema, layout, values, operation })
    }

    /// Whether `schema` is the schema of change events.
    #[must_use]
    pub fn describes(schema: &Schema) -> bool {
        schema.envelope_layout().is_some()
    }

    /// What happened.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Schema of the whole event.
    #[must_use]
    pub fn schema(&self) -> &'a Arc<Schema> {
        self.schema
    }

    /// The row before the change; null where unknown or not there.
    #[must_use]
    pub fn before(&self) -> &'a Value {
        self.at(self.layout.before)
    }

    /// The row after the change; null for a delete.
    #[must_use]
    pub fn after(&self) -> &'a Value {
        self.at(self.layout.after)
    }

    /// Schema of the rows: of `after`, or of `before` where there is no `after`.
    #[must_use]
    pub fn row_schema(&self) -> Option<&'a Arc<Schema>> {
        let place = self.layout.after.or(self.layout.before)?;
        Some(&self.schema.fields()[place].schema)
    }

    /// The source block and its schema.
    #[must_use]
    pub fn source(&self) -> Option<(&'a Arc<Schema>, &'a Value)> {
        let place = self.layout.source?;
        Some((&self.schema.fields()[place].schema, &self.values[place]))
    }

    /// The transaction block; null where the source writes none.
    #[must_use]
    pub fn transaction(&self) -> &'a Value {
        self.at(self.layout.transaction)
    }

    /// When the connector made the event, milliseconds since 1970 UTC.
    #[must_use]
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.at(self.layout.ts_ms).as_integer()
    }

    fn at(&self, place: Option<usize>) -> &'a Value {
        place.and_then(|place| self.values.get(place)).unwrap_or(&Value::Null)
    }
}
