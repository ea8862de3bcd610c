//! `io.debezium.converters.CloudEventsConverter`: change events as CloudEvents 1.0 in structured mode, JSON in JSON.
//!
//! ```text
//! {"id":"name:shop;…","source":"/debezium/postgresql/shop","specversion":"1.0","type":"io.debezium.connector.postgresql.DataChangeEvent",
//!  "time":"2024-02-29T12:34:56.789Z","datacontenttype":"application/json",
//!  "iodebeziumop":"c", "iodebezium" and the name of each field of the source block, "iodebeziumtx" and of the transaction block,
//!  "data":{"schema":…,"payload":{"before":…,"after":…}}}
//! ```
//!
//! The extension attributes are texts, under names without the underscores that CloudEvents does not allow. The data is what the JSON
//! converter writes, with or without its schema.
//!
//! Metadata stand in the event itself or, after a transform that took the event apart, in headers `source`, `op`, `transaction`,
//! `id`, `type`, `dataSchemaName` (`metadata.source`); then the data is the whole value.
//!
//! A record that is no change event (a transaction's begin, a heartbeat, an unwrapped row) is written as the JSON converter writes it:
//! as a CloudEvent it would be made up, and Debezium, which writes nothing at all, makes a tombstone of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tailwater_api::config::{ConfigField, ConfigReader, FieldType};
use tailwater_api::envelope::Envelope;
use tailwater_api::record::{Headers, SchemaAndValue};
use tailwater_api::{Error, ErrorKind, Field, Result, Schema, Scope, Value};
use tailwater_kit::envelope::identifying_fields;
use tailwater_kit::json::{JsonOptions, write_text};
use tailwater_kit::schema_cache::SchemaCache;
use tailwater_kit::stand_in::Placeholder;

use super::json::{DECIMAL_FORMATS, JsonConverter};
use super::{Converter, instant};

const SERIALIZERS: &[&str] = &["json", "avro"];

pub(super) const FIELDS: &[ConfigField] = &[
    ConfigField::new("serializer.type", FieldType::Choice(SERIALIZERS), "Format of the event.").default("json").validator(json_only),
    ConfigField::new("data.serializer.type", FieldType::Choice(SERIALIZERS), "Format of the data in the event.")
        .default("json")
        .validator(json_only),
    ConfigField::new("json.schemas.enable", FieldType::Boolean, "Whether the schema stands beside the data.").default("true"),
    ConfigField::new("json.schemas.cache.size", FieldType::Int, "How many schemas are kept; here their number is fixed.").default("1000"),
    ConfigField::new("json.decimal.format", FieldType::Choice(&["BASE64", "NUMERIC"]), "How decimals are written.").default("BASE64"),
    ConfigField::new("json.replace.null.with.default", FieldType::Boolean, "Whether a null is written as the default of its schema.")
        .default("true"),
    ConfigField::new("extension.attributes.enable", FieldType::Boolean, "Whether operation, source and transaction stand beside the data.")
        .default("true"),
    ConfigField::new(
        "metadata.source",
        FieldType::List,
        "Where metadata are: value or header, then id, type, dataSchemaName: generate or header.",
    )
    .default("value,id:generate,type:generate,traceparent:header,dataSchemaName:generate")
    .validator(metadata_source),
    ConfigField::new("schema.data.name.source.header.enable", FieldType::Boolean, "Whether header dataSchemaName names the data's schema.")
        .default("false"),
    ConfigField::new("schema.cloudevents.name", FieldType::Text, "Name of the schema of events; JSON shows none."),
    ConfigField::new("opentelemetry.tracing.attributes.enable", FieldType::Boolean, "Whether the trace of a record stands in the event.")
        .default("false")
        .validator(no_tracing),
];

fn json_only(format: &str) -> Result<(), String> {
    let is_json = format.trim().eq_ignore_ascii_case("json");
    if is_json { Ok(()) } else { Err(format!("must be json: {format} comes with the schema registry, which this version does not have")) }
}

fn no_tracing(enabled: &str) -> Result<(), String> {
    let enabled = enabled.trim().eq_ignore_ascii_case("true");
    if enabled { Err("must be false: records carry no traces".to_owned()) } else { Ok(()) }
}

fn metadata_source(list: &str) -> Result<(), String> {
    MetadataSource::parse(list.split(',').map(str::trim)).map(drop)
}

/// Which metadata come from headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct MetadataSource {
    /// `source`, `op` and `transaction`
    event: bool,
    id: bool,
    event_type: bool,
    data_schema_name: bool,
}

impl MetadataSource {
    /// Of `header,id:generate`: the first word says where all are that no other word is about.
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (number, word) in words.enumerate() {
            let place = match (number, word) {
                (0, "header") => {
                    parsed = Self { event: true, id: true, event_type: true, data_schema_name: true };
                    continue;
                }
                (0, "value") => continue,
                (_, word) => word.split_once(':'),
            };
            let (target, place) = match place {
                Some(("id", place)) => (&mut parsed.id, place),
                Some(("type", place)) => (&mut parsed.event_type, place),
                Some(("dataSchemaName", place)) => (&mut parsed.data_schema_name, place),
                // Without tracing there is nothing to be found at either place.
                Some(("traceparent", "generate" | "header")) => continue,
                _ => {
                    return Err(format!(
                        "holds {word:?}; it is value or header, then any of id, type, dataSchemaName with :generate or :header"
                    ));
                }
            };
            *target = match place {
                "generate" => false,
                "header" => true,
                _ => return Err(format!("holds {word:?}; behind the colon stands generate or header")),
            };
        }
        Ok(parsed)
    }
}

/// Writes CloudEvents.
pub(super) struct CloudEventsConverter {
    /// Writes the data, and what is no change event
    json: JsonConverter,
    extension_attributes: bool,
    metadata: MetadataSource,
    /// Schemas of the data by the record's schema, under the generated name
    schemas: SchemaCache<Arc<Schema>>,
    /// The same under names that headers gave
    named: HashMap<Box<str>, SchemaCache<Arc<Schema>>>,
}

/// More names of schemas than any topic has; past it they are forgotten and made anew.
const NAMES_KEPT: usize = 256;

/// What an event is made of.
struct Event<'a> {
    source: Block<'a>,
    operation: &'a str,
    transaction: Option<Block<'a>>,
    data: &'a SchemaAndValue,
    /// `before` and `after`, where the metadata stood in the same record
    rows: Option<Envelope<'a>>,
}

/// A struct with its schema.
#[derive(Clone, Copy)]
struct Block<'a> {
    schema: &'a Schema,
    values: &'a [Value],
}

impl<'a> Block<'a> {
    fn of(schema: Option<&'a Arc<Schema>>, value: &'a Value) -> Option<Self> {
        Some(Self { schema: schema?, values: value.as_struct()? })
    }

    fn of_header(headers: &'a Headers, name: &str) -> Option<Self> {
        let SchemaAndValue { schema, value } = &headers.last(name)?.value;
        Self::of(schema.as_ref(), value)
    }

    /// The value of a field; the default in place of a null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        let (place, schema) = self.schema.field(name)?;
        match self.values.get(place)? {
            Value::Null => schema.default().or(Some(&Value::Null)),
            value => Some(value),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        self.get(name).and_then(Value::as_text).ok_or_else(|| rejected(format!("its source block has no text {name:?}")))
    }
}

fn rejected(why: String) -> Error {
    Error::new(ErrorKind::Rejected, "write a record as CloudEvent")
        .scoped(Scope::Record)
        .because(why)
        .mend("see value.converter.metadata.source, and the transforms before the converter")
}

impl CloudEventsConverter {
    pub(super) fn configured(reader: &ConfigReader<'_>, placeholder: Placeholder) -> Self {
        let options = JsonOptions {
            decimal_format: reader.choice("json.decimal.format", DECIMAL_FORMATS),
            replace_null_with_default: reader.boolean("json.replace.null.with.default"),
            placeholder,
        };
        let json = JsonConverter::new(options, reader.boolean("json.schemas.enable"));
        let words = reader.list("metadata.source");
        let mut metadata = MetadataSource::parse(words.iter().map(String::as_str)).unwrap_or_default();
        metadata.data_schema_name |= reader.boolean("schema.data.name.source.header.enable");
        Self {
            json,
            extension_attributes: reader.boolean("extension.attributes.enable"),
            metadata,
            schemas: SchemaCache::default(),
            named: HashMap::new(),
        }
    }

    /// The event in a record; none where it is no change.
    fn event<'a>(&self, headers: &'a Headers, data: &'a SchemaAndValue) -> Option<Event<'a>> {
        if self.metadata.event {
            return Some(Event {
                source: Block::of_header(headers, "source")?,
                operation: headers.last("op")?.value.value.as_text()?,
                transaction: Block::of_header(headers, "transaction"),
                data,
                rows: None,
            });
        }
        let envelope = Envelope::within(data)?;
        let (schema, value) = envelope.source()?;
        let transaction = envelope.schema().field("transaction").map(|(_, schema)| schema);
        Some(Event {
            source: Block::of(Some(schema), value)?,
            operation: envelope.operation().code(),
            transaction: Block::of(transaction, envelope.transaction()),
            data,
            rows: Some(envelope),
        })
    }

    fn write_event(&mut self, event: &Event<'_>, headers: &Headers, out: &mut Vec<u8>) -> Result<()> {
        let source = &event.source;
        let (connector, name) = (source.text("connector")?, source.text("name")?);
        let time = source.get("ts_ms").and_then(Value::as_integer).ok_or_else(|| rejected("its source block has no ts_ms".to_owned()))?;

        out.extend_from_slice(b"{\"id\":");
        if self.metadata.id {
            write_text(header(headers, "id")?, out);
        } else {
            let fields =
                identifying_fields(connector).ok_or_else(|| rejected(format!("the id of an event of {connector} is not known")))?;
            let mut id = format!("name:{name}");
            for field in fields {
                id.push_str(&format!(";{field}:{}", plain(source.get(field))?.unwrap_or_else(|| "null".into())));
            }
            write_text(&id, out);
        }
        out.extend_from_slice(b",\"source\":");
        write_text(&format!("/debezium/{connector}/{name}"), out);
        out.extend_from_slice(b",\"specversion\":\"1.0\",\"type\":");
        if self.metadata.event_type {
            write_text(header(headers, "type")?, out);
        } else {
            write_text(&format!("io.debezium.connector.{connector}.DataChangeEvent"), out);
        }
        out.extend_from_slice(b",\"time\":");
        write_text(&instant::iso_date_and_time(time), out);
        out.extend_from_slice(b",\"datacontenttype\":\"application/json\"");
        if self.extension_attributes {
            write_attribute("iodebezium", "op", Some(&event.operation.into()), out)?;
            for field in source.schema.fields() {
                write_attribute("iodebezium", &field.name, source.get(&field.name), out)?;
            }
            for field in ["id", "total_order", "data_collection_order"] {
                write_attribute("iodebeziumtx", field, event.transaction.as_ref().and_then(|block| block.get(field)), out)?;
            }
        }
        out.extend_from_slice(b",\"data\":");
        if self.json.schemas {
            let schema = self.data_schema(event, connector, headers)?;
            out.extend_from_slice(b"{\"schema\":");
            self.json.writer.write_schema(&schema, out)?;
            out.extend_from_slice(b",\"payload\":");
            self.write_data(event, out)?;
            out.push(b'}');
        } else {
            self.write_data(event, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn write_data(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<()> {
        let Some(rows) = &event.rows else {
            return self.json.writer.write(event.data.schema.as_deref(), &event.data.value, out);
        };
        out.push(b'{');
        for (number, (field, value)) in row_fields(rows.schema()).zip([rows.before(), rows.after()]).enumerate() {
            out.extend_from_slice(if number == 0 { b"" } else { b"," });
            write_text(&field.name, out);
            out.push(b':');
            self.json.writer.write(Some(&field.schema), value, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// The schema of the data, made once for each schema of records and name.
    fn data_schema(&mut self, event: &Event<'_>, connector: &str, headers: &Headers) -> Result<Arc<Schema>> {
        let Some(schema) = &event.data.schema else {
            return Err(rejected("its value has no schema".to_owned()));
        };
        let build = |name: String| -> Result<Arc<Schema>> {
            Ok(match &event.rows {
                Some(_) => Schema::structure(row_fields(schema).cloned().collect()).name(name).build(),
                None => schema.rebuild().name(name).build(),
            })
        };
        // Where no header is, Debezium names the schema as usual, other than with an id or a type.
        if !self.metadata.data_schema_name || headers.last("dataSchemaName").is_none() {
            let schema = self.schemas.get(schema.id(), || build(format!("io.debezium.connector.{connector}.Data")))?;
            return Ok(Arc::clone(schema));
        }
        let name = header(headers, "dataSchemaName")?;
        if !self.named.contains_key(name) {
            if self.named.len() >= NAMES_KEPT {
                self.named.clear();
            }
            self.named.insert(name.into(), SchemaCache::default());
        }
        let named = self.named.get_mut(name).expect("it was put there above");
        Ok(Arc::clone(named.get(schema.id(), || build(name.to_owned()))?))
    }
}

impl Converter for CloudEventsConverter {
    fn write(&mut self, topic: &str, headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
        if data.value.is_null() {
            return Ok(false);
        }
        match self.event(headers, data) {
            Some(event) => self.write_event(&event, headers, out).map(|()| true),
            None => self.json.write(topic, headers, data, out),
        }
    }

    /// The event as a map without a schema, its attributes beside its data.
    fn read(&mut self, _topic: &str, bytes: &[u8]) -> Result<SchemaAndValue> {
        Ok(SchemaAndValue { schema: None, value: self.json.reader.read(bytes)? })
    }
}

/// The fields `before` and `after` of an envelope.
fn row_fields(schema: &Schema) -> impl Iterator<Item = &Field> {
    ["before", "after"].into_iter().filter_map(|name| schema.field(name).map(|(place, _)| &schema.fields()[place]))
}

fn header<'a>(headers: &'a Headers, name: &str) -> Result<&'a str> {
    let header = headers.last(name).ok_or_else(|| rejected(format!("it has no header {name:?}")))?;
    header.value.value.as_text().ok_or_else(|| rejected(format!("its header {name:?} is no text")))
}

/// `,"PREFIXname":"text"`, the name without what CloudEvents does not allow in names.
fn write_attribute(prefix: &str, name: &str, value: Option<&Value>, out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(prefix.as_bytes());
    out.extend(name.bytes().filter(u8::is_ascii_alphanumeric));
    out.extend_from_slice(b"\":");
    match plain(value)? {
        Some(text) => write_text(&text, out),
        None => out.extend_from_slice(b"null"),
    }
    Ok(())
}

/// The text of a plain value; none for null.
fn plain(value: Option<&Value>) -> Result<Option<Cow<'_, str>>> {
    Ok(match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some((&**text).into()),
        Some(Value::Boolean(value)) => Some(value.to_string().into()),
        Some(value) => match value.as_integer() {
            Some(number) => Some(number.to_string().into()),
            None => return Err(rejected("its source block holds a value that is no text, number or truth value".to_owned())),
        },
    })
}
