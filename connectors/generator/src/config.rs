//! The keys of the generator.

use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig, FieldType};

/// How a row stands in its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As a change event
    #[default]
    Envelope,
    /// As the value itself
    Flat,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    /// Topics that records go to in turn
    pub topics: Vec<String>,
    /// Records in all; `None` is without end
    pub rows: Option<u64>,
    /// Records a second; `None` is as fast as they are taken
    pub rate: Option<u64>,
    /// Bytes of each row's payload
    pub payload_bytes: usize,
    /// How a row stands in its record
    pub shape: Shape,
    /// Number of distinct keys; `None` gives each record its own
    pub keys: Option<u64>,
    /// Records in a transaction
    pub transaction_rows: u64,
}

impl GeneratorConfig {
    /// Number of the first record behind the transaction of record `sequence`.
    pub(crate) fn end_of_transaction(&self, sequence: u64) -> u64 {
        (sequence / self.transaction_rows).saturating_add(1).saturating_mul(self.transaction_rows)
    }
}

const SHAPES: &[(&str, Shape)] = &[("envelope", Shape::Envelope), ("flat", Shape::Flat)];

const FIELDS: &[ConfigField] = &[
    ConfigField::new("generator.topics", FieldType::List, "Topics that the records go to in turn.").default("generator.rows"),
    ConfigField::new("generator.rows", FieldType::Long, "Number of records in all. 0: without end.").default("0").validator(not_negative),
    ConfigField::new("generator.rate", FieldType::Long, "Records a second. 0: as fast as they are taken.")
        .default("0")
        .validator(not_negative),
    ConfigField::new("generator.payload.bytes", FieldType::Int, "Bytes of each row's payload.")
        .default("100")
        .validator(at_most_a_mebibyte),
    ConfigField::new(
        "generator.shape",
        FieldType::Choice(&["envelope", "flat"]),
        "Whether a row stands in a change event's envelope or is the value itself.",
    )
    .default("envelope"),
    ConfigField::new(
        "generator.keys",
        FieldType::Long,
        "Number of distinct keys; later records of a key are updates. 0: each record has its own.",
    )
    .default("0")
    .validator(not_negative),
    ConfigField::new("generator.transaction.rows", FieldType::Long, "Records in a transaction.").default("100").validator(positive),
];

impl ConnectorConfig for GeneratorConfig {
    const FIELDS: &'static [&'static [ConfigField]] = &[FIELDS];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        let topics = reader.list("generator.topics");
        if topics.is_empty() {
            reader.fault("generator.topics", "must name at least one topic");
        }
        let limit = |number: u64| (number > 0).then_some(number);
        Self {
            topics,
            rows: limit(reader.number("generator.rows")),
            rate: limit(reader.number("generator.rate")),
            payload_bytes: reader.number("generator.payload.bytes"),
            shape: reader.choice("generator.shape", SHAPES),
            keys: limit(reader.number("generator.keys")),
            transaction_rows: reader.number::<u64>("generator.transaction.rows").max(1),
        }
    }
}

fn not_negative(text: &str) -> Result<(), String> {
    text.parse::<u64>().map(|_| ()).map_err(|_| "must not be negative".to_owned())
}

fn positive(text: &str) -> Result<(), String> {
    if text.parse::<u64>().is_ok_and(|number| number > 0) { Ok(()) } else { Err("must be at least 1".to_owned()) }
}

fn at_most_a_mebibyte(text: &str) -> Result<(), String> {
    if text.parse::<usize>().is_ok_and(|bytes| bytes <= 1 << 20) { Ok(()) } else { Err("must be between 0 and 1048576".to_owned()) }
}
