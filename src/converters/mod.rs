//! Converters: records to bytes where bytes leave, and bytes to records where they come in.
//!
//! A converter is named by `key.converter`, `value.converter` or `header.converter`, by a short name or by its Java class, and
//! its options follow behind that key: `value.converter.schemas.enable`. A connector that names a converter replaces the worker's together
//! with its options, as in Connect. Where neither names one, keys and values are JSON without schemas and headers are text.

mod bytes;
mod cloud_events;
mod instant;
mod json;
mod simple_header;
mod string;

use std::borrow::Cow;

use ::bytes::Bytes;
use tailwater_api::config::{ConfigFault, ConfigField, ConfigReader, ConfigReport, ConfigValues};
use tailwater_api::record::{Headers, Record, SchemaAndValue};
use tailwater_api::{Error, ErrorKind, Result, Schema, Scope, Value};
use tailwater_kit::stand_in::{self, Placeholder};

use self::bytes::{BytesConverter, Taken};
use self::cloud_events::CloudEventsConverter;
use self::json::JsonConverter;
use self::simple_header::SimpleHeaderConverter;
use self::string::StringConverter;
use crate::config::nearest::nearest;
use crate::config::options::read_options;

/// Writes keys or values as bytes. Keeps encoders compiled from schemas, so it is owned by one thread.
pub trait Converter: Send {
    /// Appends the bytes of `data`, in a record with these headers, to `out`; `false` if there are none, as for a tombstone.
    ///
    /// # Errors
    /// The data does not fit the converter; its scope is the record.
    fn write(&mut self, topic: &str, headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool>;

    /// Reads what another converter of this kind may have written.
    ///
    /// # Errors
    /// `unreadable`, of the record: the bytes are none of this converter's.
    fn read(&mut self, topic: &str, bytes: &[u8]) -> Result<SchemaAndValue>;
}

/// The bytes of a record as a topic shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedRecord {
    /// `None` where there is no key
    pub key: Option<Bytes>,
    /// `None` for a tombstone
    pub value: Option<Bytes>,
    /// Names and bytes of the headers in order
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// The bytes of one key and one value, in a buffer that serves many records.
#[derive(Default)]
pub struct KeyAndValue {
    buffer: Vec<u8>,
    /// Length of the key, which comes first
    key: Option<usize>,
    has_value: bool,
}

impl KeyAndValue {
    /// The key; `None` where there is none.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|length| &self.buffer[..length])
    }

    /// The value; `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.has_value.then(|| &self.buffer[self.key.unwrap_or(0)..])
    }

    /// Bytes of both.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }
}

/// A part of a record that a converter reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordPart {
    /// The key
    Key,
    /// The value
    Value,
    /// A header's value
    Header,
}

/// The three converters of a connector.
pub struct Converters {
    key: Box<dyn Converter>,
    value: Box<dyn Converter>,
    header: Box<dyn Converter>,
    buffer: Vec<u8>,
}

impl Converters {
    /// Builds the converters named by `key.converter`, `value.converter`, `header.converter` and their options in
    /// `connector`, or else in `worker`. `placeholder` stands for unchanged values.
    ///
    /// # Errors
    /// All faults of the keys.
    pub fn from_config(connector: &ConfigValues, worker: &ConfigValues, placeholder: &str) -> Result<(Self, ConfigReport), ConfigReport> {
        let placeholder = Placeholder::new(placeholder);
        let mut report = ConfigReport::default();
        let mut build = |role: &str| build(role, connector, worker, &placeholder, &mut report);
        let (key, value, header) = (build("key.converter"), build("value.converter"), build("header.converter"));
        match (key, value, header) {
            (Some(key), Some(value), Some(header)) if report.faults.is_empty() => {
                Ok((Self { key, value, header, buffer: Vec::new() }, report))
            }
            _ => Err(report),
        }
    }

    /// The bytes of `record`.
    ///
    /// # Errors
    /// Those of the converters.
    pub fn convert(&mut self, record: &Record) -> Result<ConvertedRecord> {
        let (topic, none) = (&record.topic, Headers::default());
        let buffer = &mut self.buffer;
        let headers = record
            .headers
            .iter()
            .map(|header| Ok((header.name.to_string(), write(&mut *self.header, topic, &none, &header.value, buffer)?)))
            .collect::<Result<_>>()?;
        Ok(ConvertedRecord {
            key: write(&mut *self.key, topic, &record.headers, &record.key, buffer)?,
            value: write(&mut *self.value, topic, &record.headers, &record.value, buffer)?,
            headers,
        })
    }

    /// Writes key and value of `record` over what `out` held.
    ///
    /// # Errors
    /// Those of the converters, with the part that does not convert.
    pub fn write(&mut self, record: &Record, out: &mut KeyAndValue) -> Result<(), (RecordPart, Error)> {
        let Record { topic, key, value, headers, .. } = record;
        out.buffer.clear();
        let has_key = write_datum(&mut *self.key, topic, headers, key, &mut out.buffer).map_err(|error| (RecordPart::Key, error))?;
        out.key = has_key.then_some(out.buffer.len());
        out.has_value =
            write_datum(&mut *self.value, topic, headers, value, &mut out.buffer).map_err(|error| (RecordPart::Value, error))?;
        Ok(())
    }

    /// Reads one part of a record; no bytes are nothing at all.
    ///
    /// # Errors
    /// Those of the converter.
    pub fn read(&mut self, part: RecordPart, topic: &str, bytes: Option<&[u8]>) -> Result<SchemaAndValue> {
        let Some(bytes) = bytes else { return Ok(SchemaAndValue::NONE) };
        let converter = match part {
            RecordPart::Key => &mut self.key,
            RecordPart::Value => &mut self.value,
            RecordPart::Header => &mut self.header,
        };
        converter.read(topic, bytes)
    }

    /// The bytes of a header's value, until the next call.
    ///
    /// # Errors
    /// Those of the converter.
    pub fn header(&mut self, topic: &str, value: &SchemaAndValue) -> Result<Option<&[u8]>> {
        self.buffer.clear();
        let is_there = write_datum(&mut *self.header, topic, &Headers::default(), value, &mut self.buffer)?;
        Ok(is_there.then_some(&self.buffer[..]))
    }
}

fn write(
    converter: &mut dyn Converter,
    topic: &str,
    headers: &Headers,
    data: &SchemaAndValue,
    buffer: &mut Vec<u8>,
) -> Result<Option<Bytes>> {
    buffer.clear();
    Ok(write_datum(converter, topic, headers, data, buffer)?.then(|| Bytes::copy_from_slice(buffer)))
}

/// Bytes without a schema are bytes as they stand on a topic, read there by a log that holds bytes: they stay as they are. (A
/// converter that reads bytes as a value gives them a schema.)
fn write_datum(converter: &mut dyn Converter, topic: &str, headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
    match data {
        SchemaAndValue { schema: None, value: Value::Bytes(bytes) } => {
            out.extend_from_slice(bytes);
            Ok(true)
        }
        data => converter.write(topic, headers, data, out),
    }
}

/// The error of bytes that are none of a converter's.
fn unreadable(doing: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unreadable, doing)
        .scoped(Scope::Record)
        .because(why.into())
        .mend("name the converter that wrote the topic by key.converter, value.converter or header.converter")
}

/// The value, or what stands for it where the source does not tell it (I8).
fn known<'a>(schema: Option<&Schema>, value: &'a Value, placeholder: &Placeholder) -> Cow<'a, Value> {
    match (value, schema) {
        (Value::Unchanged, Some(schema)) => Cow::Owned(placeholder.of(schema)),
        (Value::Unchanged, None) => Cow::Owned(Value::String(placeholder.text().clone())),
        (Value::NotInIdentity, Some(schema)) => Cow::Owned(stand_in::not_in_identity(schema)),
        (Value::NotInIdentity, None) => Cow::Owned(Value::Null),
        _ => Cow::Borrowed(value),
    }
}

/// A converter that can be named.
#[derive(Clone, Copy)]
enum Named {
    Json,
    CloudEvents,
    String,
    Simple,
    Bytes(Taken),
}

/// Short names and Java classes.
const NAMES: &[(&str, &str, Named)] = &[
    ("json", "org.apache.kafka.connect.json.JsonConverter", Named::Json),
    ("cloudevents", "io.debezium.converters.CloudEventsConverter", Named::CloudEvents),
    ("string", "org.apache.kafka.connect.storage.StringConverter", Named::String),
    ("simple", "org.apache.kafka.connect.storage.SimpleHeaderConverter", Named::Simple),
    ("bytes", "org.apache.kafka.connect.converters.ByteArrayConverter", Named::Bytes(Taken::Bytes)),
    ("boolean", "org.apache.kafka.connect.converters.BooleanConverter", Named::Bytes(Taken::Boolean)),
    ("short", "org.apache.kafka.connect.converters.ShortConverter", Named::Bytes(Taken::Short)),
    ("integer", "org.apache.kafka.connect.converters.IntegerConverter", Named::Bytes(Taken::Integer)),
    ("long", "org.apache.kafka.connect.converters.LongConverter", Named::Bytes(Taken::Long)),
    ("float", "org.apache.kafka.connect.converters.FloatConverter", Named::Bytes(Taken::Float)),
    ("double", "org.apache.kafka.connect.converters.DoubleConverter", Named::Bytes(Taken::Double)),
];

/// Classes and keys of all converters of keys and values.
pub fn converters() -> impl Iterator<Item = (&'static str, &'static [&'static [ConfigField]])> {
    NAMES.iter().filter(|(.., named)| !matches!(named, Named::Simple)).map(|(_, class, named)| (*class, named.fields()))
}

/// Classes and keys of all converters of headers.
pub fn header_converters() -> impl Iterator<Item = (&'static str, &'static [&'static [ConfigField]])> {
    NAMES.iter().filter(|(.., named)| !matches!(named, Named::CloudEvents)).map(|(_, class, named)| (*class, named.fields()))
}

/// Converters that need a schema registry.
const OF_REGISTRY: &[&str] = &[
    "avro",
    "protobuf",
    "json_schema",
    "io.confluent.connect.avro.AvroConverter",
    "io.confluent.connect.protobuf.ProtobufConverter",
    "io.confluent.connect.json.JsonSchemaConverter",
    "io.apicurio.registry.utils.converter.AvroConverter",
    "io.apicurio.registry.utils.converter.ExtJsonConverter",
];

impl Named {
    fn find(name: &str) -> Result<Self, String> {
        // Connect also takes a class without its package, and that without the word Converter.
        let simple = |class: &'static str| class.rsplit('.').next().unwrap_or(class);
        let matches = |short: &str, class: &'static str| {
            name == class || name == simple(class) || name.strip_suffix("Converter").unwrap_or(name).eq_ignore_ascii_case(short)
        };
        if let Some((.., named)) = NAMES.iter().find(|(short, class, _)| matches(short, class)) {
            return Ok(*named);
        }
        if OF_REGISTRY.iter().any(|class| name == *class || name == simple(class)) {
            return Err(format!("{name} comes with the schema registry, which this version does not have"));
        }
        let known = NAMES.iter().flat_map(|(short, class, _)| [*short, *class]);
        Err(match nearest(name, known) {
            Some(nearest) => format!("{name} is no converter; did you mean {nearest}?"),
            None => format!("{name} is no converter; known are {}", NAMES.iter().map(|(short, ..)| *short).collect::<Vec<_>>().join(", ")),
        })
    }

    fn fields(self) -> &'static [&'static [ConfigField]] {
        match self {
            Self::Json => &[json::FIELDS],
            Self::CloudEvents => &[cloud_events::FIELDS],
            Self::String => &[string::FIELDS],
            Self::Simple | Self::Bytes(_) => &[],
        }
    }

    fn build(self, reader: &ConfigReader<'_>, placeholder: Placeholder) -> Box<dyn Converter> {
        match self {
            Self::Json => Box::new(JsonConverter::read(reader, placeholder)),
            Self::CloudEvents => Box::new(CloudEventsConverter::configured(reader, placeholder)),
            Self::String => Box::new(StringConverter { placeholder }),
            Self::Simple => Box::new(SimpleHeaderConverter { placeholder }),
            Self::Bytes(taken) => Box::new(BytesConverter { taken, placeholder, schema: None }),
        }
    }
}

/// The converter of one role; its faults and notes are added to `report`.
fn build(
    role: &str,
    connector: &ConfigValues,
    worker: &ConfigValues,
    placeholder: &Placeholder,
    report: &mut ConfigReport,
) -> Option<Box<dyn Converter>> {
    let named = |values: &ConfigValues| values.get(role).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    let prefix = format!("{role}.");
    let (name, values) = match (named(connector), named(worker)) {
        (Some(name), _) => (name, connector),
        (None, in_worker) => {
            for (option, _) in connector.with_prefix(&prefix) {
                report.notes.push(fault(&format!("{prefix}{option}"), format!("has no effect without {role} beside it")));
            }
            match in_worker {
                Some(name) => (name, worker),
                None if role == "header.converter" => return Some(Box::new(SimpleHeaderConverter { placeholder: placeholder.clone() })),
                None => return Some(Box::new(JsonConverter::without_schemas(placeholder.clone()))),
            }
        }
    };
    match Named::find(&name) {
        Err(message) => {
            report.faults.push(fault(role, message));
            None
        }
        Ok(Named::Simple) if role != "header.converter" => {
            report.faults.push(fault(role, "SimpleHeaderConverter writes headers only".to_owned()));
            None
        }
        Ok(Named::CloudEvents) if role != "value.converter" => {
            report.faults.push(fault(role, "CloudEventsConverter writes values only".to_owned()));
            None
        }
        Ok(named) => {
            let build = |reader: &mut ConfigReader<'_>| named.build(reader, placeholder.clone());
            Some(read_options(&prefix, values, named.fields(), &["plugin.version", "converter.type"], report, build))
        }
    }
}

fn fault(key: &str, message: String) -> ConfigFault {
    ConfigFault { key: key.to_owned(), message }
}

#[cfg(test)]
mod tests;
