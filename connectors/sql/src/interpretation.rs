//! What a record asks of which table.
//!
//! A record is a change event (an envelope), a flat row (what `ExtractNewRecordState` leaves of one, or any struct),
//! or a tombstone; with a schema or without. [`read`] says what it wants done, [`Layout`] which columns of which table
//! its parts go to. Layouts are made once for each pair of schemas.
//!
//! A flat row with `__deleted` is a delete if `delete.enabled` says so; otherwise it is written like any row, which
//! makes a soft delete.

use std::sync::Arc;

use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::schema::{Schema, SchemaId};
use tailwater_api::sink::SinkRecord;
use tailwater_api::value::Value;
use tailwater_api::{Error, ErrorKind, Scope};

use crate::column_type::ColumnType;
use crate::config::{InsertMode, NamingStrategy, PrimaryKeyMode, SqlConfig};

/// What a record asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Intent {
    /// A row that is new.
    Insert,
    /// A row that may be there.
    Write,
    Delete,
    Truncate,
    /// Nothing, because the configuration says so or because there is nothing to do.
    Ignore,
}

/// A record as the sink sees it.
pub(crate) struct Reading<'a> {
    pub(crate) intent: Intent,
    /// The row after the change; before it, for a delete
    pub(crate) row: &'a Value,
    row_schema: Option<&'a Arc<Schema>>,
    source: Option<(Option<&'a Schema>, &'a Value)>,
}

/// Says what `record` asks for.
///
/// # Errors
/// The record cannot be understood; the error is of the record's scope.
pub(crate) fn read<'a>(config: &SqlConfig, record: &'a SinkRecord) -> Result<Reading<'a>, Error> {
    let value = &record.record.value;
    let mut reading = if value.value.is_null() {
        Reading { intent: Intent::Delete, row: &Value::Null, row_schema: None, source: None }
    } else if let Some(envelope) = Envelope::of(&record.record) {
        let source = envelope.source().map(|(schema, source)| (Some(&**schema), source));
        changed(envelope.operation(), envelope.before(), envelope.after(), envelope.row_schema(), source)
    } else if value.schema.as_ref().is_some_and(|schema| Envelope::describes(schema)) {
        return Err(unreadable(record, "the change event has no operation that is known"));
    } else if let (None, Some(code)) = (&value.schema, entry(&value.value, "op").and_then(Value::as_text)) {
        let operation = Operation::from_code(code).ok_or_else(|| unreadable(record, format!("the operation {code:?} is not known")))?;
        let part = |name| entry(&value.value, name).unwrap_or(&Value::Null);
        changed(operation, part("before"), part("after"), None, entry(&value.value, "source").map(|source| (None, source)))
    } else if value.value.as_struct().is_some() && value.schema.is_some() || matches!(value.value, Value::Map(_)) {
        let deleted = field(value.schema.as_deref(), &value.value, "__deleted");
        let deleted = match deleted {
            Some(Value::Boolean(deleted)) => *deleted,
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        };
        let intent = if deleted && config.delete_enabled { Intent::Delete } else { Intent::Write };
        Reading { intent, row: &value.value, row_schema: value.schema.as_ref(), source: None }
    } else {
        return Err(unreadable(record, "the value is no struct and no map: it has no columns"));
    };
    match reading.intent {
        Intent::Insert | Intent::Write if reading.row.is_null() => {
            return Err(unreadable(record, "the change event has no row after the change"));
        }
        Intent::Delete if !config.delete_enabled => reading.intent = Intent::Ignore,
        // The delete's event came before; a tombstone has no row to take the key from.
        Intent::Delete if reading.row.is_null() && config.primary_key_mode == PrimaryKeyMode::RecordValue => {
            reading.intent = Intent::Ignore;
        }
        Intent::Truncate if !config.truncate_enabled => reading.intent = Intent::Ignore,
        Intent::Insert | Intent::Write | Intent::Delete | Intent::Truncate | Intent::Ignore => {}
    }
    Ok(reading)
}

fn changed<'a>(
    operation: Operation,
    before: &'a Value,
    after: &'a Value,
    row_schema: Option<&'a Arc<Schema>>,
    source: Option<(Option<&'a Schema>, &'a Value)>,
) -> Reading<'a> {
    let (intent, row) = match operation {
        Operation::Read | Operation::Create => (Intent::Insert, after),
        Operation::Update => (Intent::Write, after),
        Operation::Delete => (Intent::Delete, before),
        Operation::Truncate => (Intent::Truncate, &Value::Null),
        Operation::Message => (Intent::Ignore, &Value::Null),
    };
    Reading { intent, row, row_schema, source }
}

/// Where the value of a column comes from.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    Topic,
    Partition,
    Offset,
    WholeKey,
    Key(usize),
    KeyEntry(Arc<str>),
    Row(usize),
    RowEntry(Arc<str>),
    Header(Arc<str>),
}

/// A column that a layout writes to.
#[derive(Clone, Debug)]
pub(crate) struct LayoutColumn {
    /// Name in the table
    pub(crate) name: String,
    pub(crate) kind: ColumnType,
    pub(crate) optional: bool,
    pub(crate) default: Option<Value>,
    origin: Origin,
}

/// The columns of a table that records of one pair of schemas write to; those of the key first.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Name of the table, as the format gives it
    pub(crate) table: Arc<str>,
    pub(crate) columns: Vec<LayoutColumn>,
    /// How many of the columns are the key
    pub(crate) key: usize,
    /// Whether the records have no schema, so that no column can be created for them
    pub(crate) schemaless: bool,
}

/// What a layout depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LayoutId {
    table: Arc<str>,
    topic: Arc<str>,
    key: Option<SchemaId>,
    row: Option<SchemaId>,
    /// Names of what has no schema, and of headers
    names: Vec<Arc<str>>,
}

impl Reading<'_> {
    /// What the layout of this record depends on.
    pub(crate) fn layout_id(&self, config: &SqlConfig, record: &SinkRecord, table: &Arc<str>) -> LayoutId {
        let key = &record.record.key;
        let mut names = Vec::new();
        for (has_schema, value) in [(key.schema.is_some(), &key.value), (self.row_schema.is_some(), self.row)] {
            if let (false, Value::Map(entries)) = (has_schema, value) {
                names.extend(entries.iter().filter_map(|(name, _)| name.as_text()).map(Arc::from));
                names.push("".into());
            }
        }
        if config.primary_key_mode == PrimaryKeyMode::RecordHeader {
            for header in record.record.headers.iter() {
                names.push(Arc::clone(&header.name));
                names.push(format!("{:?}", header.value.schema.as_ref().map(|schema| schema.id())).into());
            }
        }
        LayoutId {
            table: Arc::clone(table),
            topic: Arc::clone(&record.record.topic),
            key: key.schema.as_ref().map(|schema| schema.id()),
            row: self.row_schema.map(|schema| schema.id()),
            names,
        }
    }

    /// Name of the table that the record belongs to; `None` where the format needs the source block and a tombstone
    /// has none.
    ///
    /// # Errors
    /// The source block has no such field.
    pub(crate) fn table(&self, config: &SqlConfig, record: &SinkRecord) -> Result<Option<String>, Error> {
        let topic = match config.naming_strategy {
            NamingStrategy::Default => record.record.topic.replace('.', "_"),
            NamingStrategy::Passthrough => record.record.topic.to_string(),
        };
        let mut name = String::new();
        let mut rest = config.name_format.as_str();
        while let Some((text, variable)) = rest.split_once("${") {
            // The configuration's check has seen the closing brace and the two forms.
            let (variable, tail) = variable.split_once('}').unwrap_or((variable, ""));
            name.push_str(text);
            rest = tail;
            let Some(path) = variable.strip_prefix("source.") else {
                name.push_str(&topic);
                continue;
            };
            let Some((schema, source)) = self.source else {
                if self.row.is_null() {
                    return Ok(None);
                }
                let error = Error::new(ErrorKind::Misconfigured, format!("name the table of a record of {}", record.record.topic))
                    .because(format!("collection.name.format has ${{{variable}}}, and the record has no source block"));
                return Err(error.mend("use ${topic}, or write change events that are not flattened"));
            };
            let value = field(schema, source, path).ok_or_else(|| unreadable(record, format!("the source block has no field {path}")))?;
            match value {
                Value::String(text) => name.push_str(text),
                other => name.push_str(&other.as_integer().map(|number| number.to_string()).unwrap_or_default()),
            }
        }
        name.push_str(rest);
        Ok(Some(name))
    }

    /// The columns that the record writes to. `fold` turns a field's name into a column's.
    ///
    /// # Errors
    /// The configured key is not in the record, or two fields would be one column.
    pub(crate) fn layout(
        &self,
        config: &SqlConfig,
        record: &SinkRecord,
        table: &Arc<str>,
        fold: impl Fn(&str) -> String,
    ) -> Result<Layout, Error> {
        let mut columns = self.key_columns(config, record)?;
        let key = columns.len();
        let mut schemaless = key > 0 && record.record.key.schema.is_none() && config.primary_key_mode == PrimaryKeyMode::RecordKey;
        if self.row_schema.is_none() && !self.row.is_null() {
            schemaless = true;
        }
        let others: Vec<_> = self.row_columns().filter(|column| !columns.iter().any(|known| known.name == column.name)).collect();
        columns.extend(others);
        let mut place = 0;
        columns.retain(|column| {
            place += 1;
            place <= key || is_written(config, &record.record.topic, &column.name)
        });
        if columns.is_empty() && !self.row.is_null() {
            let error = Error::new(ErrorKind::Misconfigured, format!("map the fields of {} to columns", record.record.topic))
                .because("no field is left to write")
                .mend("widen field.include.list or field.exclude.list, or leave the topic out");
            return Err(error.scoped(Scope::Table(table.to_string())));
        }
        for column in &mut columns {
            column.name = fold(&column.name);
        }
        for (place, column) in columns.iter().enumerate() {
            if columns[..place].iter().any(|other| other.name == column.name) {
                let error = Error::new(ErrorKind::Misconfigured, format!("map the fields of {} to columns", record.record.topic))
                    .because(format!("two fields become the column {}", column.name))
                    .mend("set quote.identifiers=true, or rename one of them by a transform");
                return Err(error.scoped(Scope::Table(table.to_string())));
            }
        }
        Ok(Layout { table: Arc::clone(table), columns, key, schemaless })
    }

    fn row_columns(&self) -> Box<dyn Iterator<Item = LayoutColumn> + '_> {
        match (self.row_schema, self.row) {
            (Some(schema), _) => Box::new(
                schema.fields().iter().enumerate().map(|(place, field)| LayoutColumn::of(&field.name, &field.schema, Origin::Row(place))),
            ),
            (None, Value::Map(entries)) => Box::new(
                entries
                    .iter()
                    .filter_map(|(name, _)| name.as_text())
                    .map(|name| LayoutColumn::schemaless(name, Origin::RowEntry(name.into()))),
            ),
            (None, _) => Box::new(std::iter::empty()),
        }
    }

    fn key_columns(&self, config: &SqlConfig, record: &SinkRecord) -> Result<Vec<LayoutColumn>, Error> {
        let wanted = &config.primary_key_fields;
        let key = &record.record.key;
        let found: Vec<LayoutColumn> = match config.primary_key_mode {
            PrimaryKeyMode::None => return Ok(Vec::new()),
            PrimaryKeyMode::Kafka => return Ok(kafka_columns()),
            PrimaryKeyMode::RecordKey => match (&key.schema, &key.value) {
                // A table without a key at its source: its rows are appended.
                (None, Value::Null) => return Ok(Vec::new()),
                (Some(schema), Value::Struct(_)) => {
                    let fields = schema.fields().iter().enumerate();
                    fields.map(|(place, field)| LayoutColumn::of(&field.name, &field.schema, Origin::Key(place))).collect()
                }
                (None, Value::Map(entries)) => {
                    let names = entries.iter().filter_map(|(name, _)| name.as_text());
                    names.map(|name| LayoutColumn::schemaless(name, Origin::KeyEntry(name.into()))).collect()
                }
                (schema, _) => {
                    let [name] = wanted.as_slice() else {
                        let error =
                            misconfigured_key(record, "the key is no struct, and primary.key.fields does not name one column for it");
                        return Err(error.mend("set primary.key.fields to the name of the key's column"));
                    };
                    let column = match schema {
                        Some(schema) => LayoutColumn::of(name, schema, Origin::WholeKey),
                        None => LayoutColumn::schemaless(name, Origin::WholeKey),
                    };
                    return Ok(vec![column]);
                }
            },
            PrimaryKeyMode::RecordValue => self.row_columns().collect(),
            PrimaryKeyMode::RecordHeader => record
                .record
                .headers
                .iter()
                .map(|header| match &header.value.schema {
                    Some(schema) => LayoutColumn::of(&header.name, schema, Origin::Header(Arc::clone(&header.name))),
                    None => LayoutColumn::schemaless(&header.name, Origin::Header(Arc::clone(&header.name))),
                })
                .collect(),
        };
        if wanted.is_empty() {
            return Ok(found);
        }
        let pick = |name: &String| {
            found.iter().find(|column| column.name == *name).cloned().ok_or_else(|| {
                let names: Vec<_> = found.iter().map(|column| column.name.as_str()).collect();
                misconfigured_key(record, format!("primary.key.fields names {name}, found are {}", names.join(", ")))
                    .mend("name fields that the records have, or choose another primary.key.mode")
            })
        };
        wanted.iter().map(pick).collect()
    }
}

impl LayoutColumn {
    fn of(name: &str, schema: &Arc<Schema>, origin: Origin) -> Self {
        Self {
            name: name.to_owned(),
            kind: ColumnType::of(schema),
            optional: schema.is_optional(),
            default: schema.default().cloned(),
            origin,
        }
    }

    fn schemaless(name: &str, origin: Origin) -> Self {
        Self { name: name.to_owned(), kind: ColumnType::Schemaless, optional: true, default: None, origin }
    }

    /// The column's value in a record. Places that a record does not have read as null.
    pub(crate) fn value<'a>(&self, record: &'a SinkRecord, row: &'a Value) -> ColumnValue<'a> {
        let part = |value: &'a Value, place: usize| value.as_struct().and_then(|parts| parts.get(place)).unwrap_or(&Value::Null);
        ColumnValue::Borrowed(match &self.origin {
            Origin::Topic => return ColumnValue::Own(Value::from(&*record.record.topic)),
            Origin::Partition => return ColumnValue::Own(Value::Int64(record.partition.into())),
            Origin::Offset => return ColumnValue::Own(Value::Int64(record.offset.cast_signed())),
            Origin::WholeKey => &record.record.key.value,
            Origin::Key(place) => part(&record.record.key.value, *place),
            Origin::KeyEntry(name) => entry(&record.record.key.value, name).unwrap_or(&Value::Null),
            Origin::Row(place) => part(row, *place),
            Origin::RowEntry(name) => entry(row, name).unwrap_or(&Value::Null),
            Origin::Header(name) => record.record.headers.last(name).map_or(&Value::Null, |header| &header.value.value),
        })
    }
}

/// A value of a record, or one made from its place.
pub(crate) enum ColumnValue<'a> {
    Borrowed(&'a Value),
    Own(Value),
}

impl std::ops::Deref for ColumnValue<'_> {
    type Target = Value;

    fn deref(&self) -> &Value {
        match self {
            Self::Borrowed(value) => value,
            Self::Own(value) => value,
        }
    }
}

fn kafka_columns() -> Vec<LayoutColumn> {
    let column = |name: &str, kind, origin| LayoutColumn { name: name.to_owned(), kind, optional: false, default: None, origin };
    vec![
        column("__connect_topic", ColumnType::Text, Origin::Topic),
        column("__connect_partition", ColumnType::Int32, Origin::Partition),
        column("__connect_offset", ColumnType::Int64, Origin::Offset),
    ]
}

/// Whether records of this layout become further rows, whatever stands in the table.
pub(crate) fn appends(config: &SqlConfig, layout: &Layout) -> bool {
    layout.key == 0 || config.insert_mode == InsertMode::Insert
}

fn is_written(config: &SqlConfig, topic: &str, field: &str) -> bool {
    let names = |entry: &String| match entry.rsplit_once(':') {
        Some((of, name)) => of == topic && name == field,
        None => entry == field,
    };
    (config.include.is_empty() || config.include.iter().any(names)) && !config.exclude.iter().any(names)
}

fn field<'a>(schema: Option<&Schema>, value: &'a Value, name: &str) -> Option<&'a Value> {
    match schema {
        Some(schema) => value.as_struct()?.get(schema.field(name)?.0),
        None => entry(value, name),
    }
}

fn entry<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Map(entries) = value else { return None };
    entries.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}

fn place(record: &SinkRecord) -> String {
    format!("{} at offset {}", record.topic_partition(), record.offset)
}

fn unreadable(record: &SinkRecord, cause: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unreadable, format!("read the record of {}", place(record))).because(cause.into()).scoped(Scope::Record)
}

fn misconfigured_key(record: &SinkRecord, cause: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, format!("find the key of the record of {}", place(record))).because(cause.into())
}

/// The error of a record that cannot be written.
pub(crate) fn refused(record: &SinkRecord, table: &str, cause: impl Into<String>) -> Error {
    Error::new(ErrorKind::Rejected, format!("write the record of {} to {table}", place(record))).because(cause.into()).scoped(Scope::Record)
}
