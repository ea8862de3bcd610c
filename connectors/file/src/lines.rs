//! Records as lines.
//!
//! **JSON**: `{"topic":…,"partition":0,"offset":12,"timestamp":MS,"key":…,"value":…,"headers":[["name",…],…]}`, or the value
//! alone. Key, value and header values are JSON as Connect's JsonConverter writes it without schemas. A tombstone's value is `null`.
//!
//! **CSV** (RFC 4180, lines end in CR LF): a header row, then a row for each record. The columns are the fields of the
//! value; of a change event, `__op` (Debezium's letter) and the fields of the row after the change, for a delete of the row
//! before it. A field that is null is empty, an empty text is `""`; structs, arrays and maps are JSON text, bytes base64.
//! When the columns change, a new file begins. A tombstone has no columns; it follows the delete event that says the
//! same, and is counted and left out. With flat records, deletes are kept by writing them as rows
//! (`delete.tombstone.handling.mode=rewrite` of ExtractNewRecordState).

use std::io::Write;

use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::record::Record;
use tailwater_api::schema::Schema;
use tailwater_api::sink::SinkRecord;
use tailwater_api::value::Value;
use tailwater_api::{Error, ErrorKind, Result, SchemaId, Scope};
use tailwater_kit::json::{JsonOptions, JsonWriter};

use crate::config::{Content, FileConfig, Format};

/// What a record came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoded {
    /// A line
    Line,
    /// Nothing: a tombstone, in CSV
    Nothing,
}

/// Turns records into lines.
pub(crate) struct Lines {
    format: Format,
    content: Content,
    json: JsonWriter,
    text: Vec<u8>,
    /// Header row of the schema that was met last
    header: (Option<SchemaId>, Vec<u8>),
}

impl Lines {
    pub(crate) fn new(config: &FileConfig) -> Self {
        let json = JsonWriter::new(JsonOptions { decimal_format: config.decimals, ..JsonOptions::default() });
        Self { format: config.format, content: config.content, json, text: Vec::new(), header: (None, Vec::new()) }
    }

    /// Ending of the files' names.
    pub(crate) fn extension(&self) -> &'static str {
        match self.format {
            Format::Json => "jsonl",
            Format::Csv => "csv",
        }
    }

    /// Header row of the file that the record last encoded belongs to; empty for JSON.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header.1
    }

    /// Appends the line of `record` to `out`; after an error `out` may hold a part of it.
    pub(crate) fn encode(&mut self, record: &SinkRecord, out: &mut Vec<u8>) -> Result<Encoded> {
        match self.format {
            Format::Json => {
                match self.content {
                    Content::Record => self.record(record, out)?,
                    Content::Value => self.json(&record.record.value.schema, &record.record.value.value, out)?,
                }
                out.push(b'\n');
                Ok(Encoded::Line)
            }
            Format::Csv if record.record.is_tombstone() => Ok(Encoded::Nothing),
            Format::Csv => {
                self.row(&record.record, out)?;
                Ok(Encoded::Line)
            }
        }
    }

    fn record(&mut self, record: &SinkRecord, out: &mut Vec<u8>) -> Result<()> {
        let SinkRecord { topic: _, partition, offset, record } = record;
        out.extend_from_slice(b"{\"topic\":");
        self.json_text(&record.topic, out)?;
        write(out, format_args!(",\"partition\":{partition},\"offset\":{offset},\"timestamp\":"));
        match record.timestamp {
            Some(timestamp) => write(out, format_args!("{timestamp}")),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"key\":");
        self.json(&record.key.schema, &record.key.value, out)?;
        out.extend_from_slice(b",\"value\":");
        self.json(&record.value.schema, &record.value.value, out)?;
        out.extend_from_slice(b",\"headers\":[");
        for (number, header) in record.headers.iter().enumerate() {
            out.extend_from_slice(if number == 0 { b"[" } else { b",[" });
            self.json_text(&header.name, out)?;
            out.push(b',');
            self.json(&header.value.schema, &header.value.value, out)?;
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }

    fn json(&mut self, schema: &Option<std::sync::Arc<Schema>>, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        self.json.write(schema.as_deref(), value, out)
    }

    fn json_text(&mut self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        self.json.write(None, &Value::from(text), out)
    }

    fn row(&mut self, record: &Record, out: &mut Vec<u8>) -> Result<()> {
        let schema = record.value.schema.as_ref().ok_or_else(|| refused("its value has no schema, so it has no columns"))?;
        let (operation, row, values) = match Envelope::of(record) {
            Some(envelope) => {
                let row = envelope.row_schema().ok_or_else(|| refused("the change event has no row"))?;
                let values = match envelope.operation() {
                    Operation::Delete => envelope.before(),
                    Operation::Read | Operation::Create | Operation::Update | Operation::Truncate => envelope.after(),
                    Operation::Message => return Err(refused("a message of the log has no row")),
                };
                (Some(envelope.operation()), row, values)
            }
            None => (None, schema, &record.value.value),
        };
        if row.fields().is_empty() {
            return Err(refused("its value is no struct, so it has no columns"));
        }
        if self.header.0 != Some(schema.id()) {
            self.header = (Some(schema.id()), header(operation, row));
        }
        if let Some(operation) = operation {
            out.extend_from_slice(operation.code().as_bytes());
        }
        for (number, field) in row.fields().iter().enumerate() {
            if number > 0 || operation.is_some() {
                out.push(b',');
            }
            // A truncate has no row: its fields are empty.
            let value = values.as_struct().and_then(|values| values.get(number)).unwrap_or(&Value::Null);
            self.field(&field.schema, value, out)?;
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn field(&mut self, schema: &Schema, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        match value {
            Value::Null | Value::NotInIdentity => Ok(()),
            Value::String(text) => {
                quote(text.as_bytes(), out);
                Ok(())
            }
            _ => {
                self.text.clear();
                self.json.write(Some(schema), value, &mut self.text)?;
                // JSON text of a lone string (base64, the placeholder) stands without its quotation marks; it holds none inside.
                let text = self.text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(&self.text);
                quote(text, out);
                Ok(())
            }
        }
    }
}

fn header(operation: Option<Operation>, row: &Schema) -> Vec<u8> {
    let mut line = Vec::new();
    if operation.is_some() {
        line.extend_from_slice(b"__op");
    }
    for field in row.fields() {
        if !line.is_empty() {
            line.push(b',');
        }
        quote(field.name.as_bytes(), &mut line);
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// RFC 4180: quoted where it must be, and where it is empty, since an unquoted empty field means null.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    let plain = !text.is_empty() && !text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n'));
    if plain {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for part in text.split_inclusive(|byte| *byte == b'"') {
        out.extend_from_slice(part);
        if part.ends_with(b"\"") {
            out.push(b'"');
        }
    }
    out.push(b'"');
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory does not fail");
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Rejected, "write the record as CSV")
        .because(why)
        .scoped(Scope::Record)
        .mend("use format=json, or a transform that makes rows of such records")
}
