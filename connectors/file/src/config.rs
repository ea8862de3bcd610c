//! The keys of the file sink.

use std::path::PathBuf;
use std::time::Duration;

use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig, Effect, FieldType};
use tailwater_kit::json::DecimalFormat;

/// How records stand in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line
    #[default]
    Json,
    /// RFC 4180, with a header row
    Csv,
}

/// How much of a record stands in a JSON line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Place, timestamp, key, value and headers
    #[default]
    Record,
    /// The value alone
    Value,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// Folder of the files
    pub path: PathBuf,
    /// How records stand in files
    pub format: Format,
    /// How much of a record stands in a JSON line
    pub content: Content,
    /// Decimals as numbers, or as JsonConverter writes them by default
    pub decimals: DecimalFormat,
    /// Length at which a file is complete; `None` is never
    pub rotate_bytes: Option<u64>,
    /// Age at which a file is complete; `None` is never
    pub rotate_interval: Option<Duration>,
}

const FORMATS: &[(&str, Format)] = &[("json", Format::Json), ("csv", Format::Csv)];
const CONTENTS: &[(&str, Content)] = &[("record", Content::Record), ("value", Content::Value)];
const DECIMALS: &[(&str, DecimalFormat)] = &[("numeric", DecimalFormat::Numeric), ("base64", DecimalFormat::Base64)];

const FIELDS: &[ConfigField] = &[
    ConfigField::new("path", FieldType::Text, "Folder that the files are written to; made if it is not there.")
        .required()
        .validator(not_empty),
    ConfigField::new("file", FieldType::Text, "Name of path in Kafka's FileStreamSink; here it names a folder.")
        .effect(Effect::OldNameOf("path")),
    ConfigField::new("format", FieldType::Choice(&["json", "csv"]), "JSON lines, or CSV with a header row.").default("json"),
    ConfigField::new(
        "json.content",
        FieldType::Choice(&["record", "value"]),
        "Whether a JSON line holds the whole record (topic, partition, offset, timestamp, key, value, headers) or its value alone.",
    )
    .default("record"),
    ConfigField::new(
        "decimal.format",
        FieldType::Choice(&["numeric", "base64"]),
        "Decimals as numbers, or as the base64 of their unscaled value as Connect's JsonConverter writes them by default.",
    )
    .default("numeric"),
    ConfigField::new("rotate.bytes", FieldType::Long, "Length in bytes at which a file is complete. 0: never.")
        .default("134217728")
        .validator(not_negative),
    ConfigField::new("rotate.interval.ms", FieldType::Long, "Age in milliseconds at which a file is complete. 0: never.")
        .default("0")
        .validator(not_negative),
];

impl ConnectorConfig for FileConfig {
    const FIELDS: &'static [&'static [ConfigField]] = &[FIELDS];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        let format = reader.choice("format", FORMATS);
        if format == Format::Csv && reader.is_set("json.content") {
            reader.note("json.content", "has no effect while format is csv");
        }
        let limit = |number: u64| (number > 0).then_some(number);
        Self {
            path: reader.text("path").into(),
            format,
            content: reader.choice("json.content", CONTENTS),
            decimals: reader.choice("decimal.format", DECIMALS),
            rotate_bytes: limit(reader.number("rotate.bytes")),
            rotate_interval: limit(reader.number("rotate.interval.ms")).map(Duration::from_millis),
        }
    }
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("must name a folder".to_owned()) } else { Ok(()) }
}

fn not_negative(text: &str) -> Result<(), String> {
    text.parse::<u64>().map(|_| ()).map_err(|_| "must not be negative".to_owned())
}
