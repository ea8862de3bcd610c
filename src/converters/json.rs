//! `org.apache.kafka.connect.json.JsonConverter`.
//!
//! With schemas a value is `{"schema":…,"payload":…}`, without it is the payload alone. Neither schema nor value is nothing
//! at all: a tombstone. A null that has a schema is written, as its default or as `null`, and is no tombstone.

use tailwater_api::Result;
use tailwater_api::config::{ConfigField, ConfigReader, FieldType};
use tailwater_api::record::{Headers, SchemaAndValue};
use tailwater_kit::json::{DecimalFormat, JsonOptions, JsonReader, JsonWriter, ReadOptions};
use tailwater_kit::stand_in::Placeholder;

use super::Converter;

pub(super) const FIELDS: &[ConfigField] = &[
    ConfigField::new("schemas.enable", FieldType::Boolean, "Whether the schema stands beside each value.").default("true"),
    ConfigField::new("schemas.cache.size", FieldType::Int, "How many schemas are kept; here their number is fixed.").default("1000"),
    ConfigField::new("decimal.format", FieldType::Choice(&["BASE64", "NUMERIC"]), "How decimals are written.").default("BASE64"),
    ConfigField::new("replace.null.with.default", FieldType::Boolean, "Whether a null is written as the default of its schema.")
        .default("true"),
];

pub(super) const DECIMAL_FORMATS: &[(&str, DecimalFormat)] = &[("BASE64", DecimalFormat::Base64), ("NUMERIC", DecimalFormat::Numeric)];

/// Writes and reads JSON.
pub(super) struct JsonConverter {
    pub(super) writer: JsonWriter,
    pub(super) reader: JsonReader,
    /// Whether the schema stands beside each value
    pub(super) schemas: bool,
}

impl JsonConverter {
    /// The converter that stands where no configuration names one: no schemas.
    pub(super) fn without_schemas(placeholder: Placeholder) -> Self {
        Self::new(JsonOptions { placeholder, ..JsonOptions::default() }, false)
    }

    pub(super) fn read(reader: &ConfigReader<'_>, placeholder: Placeholder) -> Self {
        let options = JsonOptions {
            decimal_format: reader.choice("decimal.format", DECIMAL_FORMATS),
            replace_null_with_default: reader.boolean("replace.null.with.default"),
            placeholder,
        };
        Self::new(options, reader.boolean("schemas.enable"))
    }

    pub(super) fn new(options: JsonOptions, schemas: bool) -> Self {
        let JsonOptions { replace_null_with_default, placeholder, .. } = options.clone();
        let reader = JsonReader::new(ReadOptions { replace_null_with_default, placeholder: Some(placeholder) });
        Self { writer: JsonWriter::new(options), reader, schemas }
    }
}

impl Converter for JsonConverter {
    fn write(&mut self, _topic: &str, _headers: &Headers, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool> {
        if data.is_none() {
            return Ok(false);
        }
        let schema = data.schema.as_deref();
        if self.schemas {
            out.extend_from_slice(b"{\"schema\":");
            match schema {
                Some(schema) => self.writer.write_schema(schema, out)?,
                None => out.extend_from_slice(b"null"),
            }
            out.extend_from_slice(b",\"payload\":");
        }
        self.writer.write(schema, &data.value, out)?;
        if self.schemas {
            out.push(b'}');
        }
        Ok(true)
    }

    fn read(&mut self, _topic: &str, bytes: &[u8]) -> Result<SchemaAndValue> {
        if self.schemas {
            return self.reader.read_with_schema(bytes);
        }
        Ok(SchemaAndValue { schema: None, value: self.reader.read(bytes)? })
    }
}
