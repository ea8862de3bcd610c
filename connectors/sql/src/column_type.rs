//! What a field of a record is to a database: Connect's kinds with the semantic names of Connect and Debezium.
//!
//! The names are those of `org.apache.kafka.connect.data` (Kafka 4.3) and `io.debezium.data`, `io.debezium.time`
//! (Debezium 3.6). A name that is not listed says nothing about storage, its kind counts.

use std::sync::Arc;

use tailwater_api::schema::{Kind, Schema};

use crate::temporal::Unit;

/// Type of a column to be, and how a value of it is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ColumnType {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Text,
    Bytes,
    /// Unscaled bytes; the precision where the source told it
    Decimal {
        precision: Option<u32>,
        scale: i32,
    },
    /// A struct of scale and unscaled bytes, at these places
    VariableScaleDecimal {
        scale: usize,
        value: usize,
    },
    Date,
    Time(Unit),
    Timestamp(Unit),
    ZonedTimestamp,
    ZonedTime,
    /// Microseconds
    Duration,
    Interval,
    Json {
        binary: bool,
    },
    Uuid,
    Xml,
    /// Text of a type that PostgreSQL has under this name
    Native(&'static str),
    /// Little-endian bytes; the length in bits where it is fixed
    Bits(Option<u32>),
    /// A struct with x and y at these places
    Point {
        x: usize,
        y: usize,
    },
    Array(Arc<ColumnType>),
    /// Structs and maps without a type of their own, kept as JSON
    Structured(Arc<Schema>),
    /// A value without a schema: the existing column says what it is
    Schemaless,
}

/// Types of PostgreSQL whose values are text in a record and that every server has.
const NATIVE: [&str; 11] =
    ["inet", "cidr", "macaddr", "macaddr8", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "tsvector"];

/// Length that Debezium gives to bit strings without a limit.
const UNLIMITED: u32 = 2_147_483_647;

impl ColumnType {
    /// The type of values of `schema`.
    pub(crate) fn of(schema: &Arc<Schema>) -> Self {
        schema.name().and_then(|name| Self::named(name, schema)).unwrap_or_else(|| Self::plain(schema))
    }

    fn named(name: &str, schema: &Arc<Schema>) -> Option<Self> {
        let kind = match (name, schema.kind()) {
            ("org.apache.kafka.connect.data.Decimal", Kind::Bytes) => Self::Decimal {
                precision: schema.parameter("connect.decimal.precision").and_then(|text| text.parse().ok()),
                scale: schema.parameter("scale")?.parse().ok()?,
            },
            ("io.debezium.data.VariableScaleDecimal", Kind::Struct(_)) => {
                Self::VariableScaleDecimal { scale: schema.field("scale")?.0, value: schema.field("value")?.0 }
            }
            ("org.apache.kafka.connect.data.Date" | "io.debezium.time.Date", Kind::Int32) => Self::Date,
            ("org.apache.kafka.connect.data.Time" | "io.debezium.time.Time", Kind::Int32) => Self::Time(Unit::Milliseconds),
            ("io.debezium.time.MicroTime", Kind::Int64) => Self::Time(Unit::Microseconds),
            ("io.debezium.time.NanoTime", Kind::Int64) => Self::Time(Unit::Nanoseconds),
            ("org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp", Kind::Int64) => Self::Timestamp(Unit::Milliseconds),
            ("io.debezium.time.MicroTimestamp", Kind::Int64) => Self::Timestamp(Unit::Microseconds),
            ("io.debezium.time.NanoTimestamp", Kind::Int64) => Self::Timestamp(Unit::Nanoseconds),
            ("io.debezium.time.ZonedTimestamp", Kind::String) => Self::ZonedTimestamp,
            ("io.debezium.time.ZonedTime", Kind::String) => Self::ZonedTime,
            ("io.debezium.time.MicroDuration", Kind::Int64) => Self::Duration,
            ("io.debezium.time.Interval", Kind::String) => Self::Interval,
            ("io.debezium.data.Json", Kind::String) => Self::Json { binary: source_type(schema).as_deref() == Some("jsonb") },
            ("io.debezium.data.Uuid", Kind::String) => Self::Uuid,
            ("io.debezium.data.Xml", Kind::String) => Self::Xml,
            ("io.debezium.data.Tsvector", Kind::String) => Self::Native("tsvector"),
            ("io.debezium.data.Bits", Kind::Bytes) => {
                Self::Bits(schema.parameter("length").and_then(|text| text.parse().ok()).filter(|length| *length != UNLIMITED))
            }
            ("io.debezium.data.geometry.Point", Kind::Struct(_)) => Self::Point { x: schema.field("x")?.0, y: schema.field("y")?.0 },
            _ => return None,
        };
        Some(kind)
    }

    fn plain(schema: &Arc<Schema>) -> Self {
        match schema.kind() {
            Kind::Boolean => Self::Boolean,
            Kind::Int8 | Kind::Int16 => Self::Int16,
            Kind::Int32 => Self::Int32,
            Kind::Int64 => Self::Int64,
            Kind::Float32 => Self::Float32,
            Kind::Float64 => Self::Float64,
            Kind::Bytes => Self::Bytes,
            Kind::String => {
                let native = source_type(schema).and_then(|source| NATIVE.into_iter().find(|name| *name == source));
                native.map_or(Self::Text, Self::Native)
            }
            Kind::Array(element) => Self::Array(Arc::new(Self::of(element))),
            Kind::Map(..) | Kind::Struct(_) => Self::Structured(Arc::clone(schema)),
        }
    }
}

/// The type that the column has at the source, in lower case, where `column.propagate.source.type` sends it.
fn source_type(schema: &Schema) -> Option<String> {
    schema.parameter("__debezium.source.column.type").map(str::to_ascii_lowercase)
}
