//! Definitions of tables as Debezium 3.6 tells them on the topic of schema changes (`include.schema.changes`).
//!
//! ```text
//! topic  topic.prefix
//! key    io.debezium.connector.CONNECTOR.SchemaChangeKey    databaseName
//! value  io.debezium.connector.CONNECTOR.SchemaChangeValue  source, ts_ms, databaseName, schemaName, ddl, tableChanges
//! ```
//!
//! Each change holds the whole table as it is from then on: `CREATE` the first time that it is told of, `ALTER` later.

use std::sync::Arc;

use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::{Field, Kind, Schema, Value};

/// A table as it is from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDescription {
    /// The database, the schema where there is one, and the name
    pub id: Vec<String>,
    /// Names of the key's columns in their order
    pub key: Vec<String>,
    /// The columns in their order
    pub columns: Vec<ColumnDescription>,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDescription {
    /// Its name
    pub name: String,
    /// Number of the nearest type in `java.sql.Types`
    pub jdbc_type: i32,
    /// The database's own number of the type
    pub native_type: Option<i32>,
    /// Name of the type
    pub type_name: String,
    /// The type as the database writes it
    pub type_expression: String,
    /// Digits or characters, where the type has a limit
    pub length: Option<i32>,
    /// Digits behind the point, where the type has some
    pub scale: Option<i32>,
    /// Whether it may be null
    pub optional: bool,
    /// Whether the database counts its values
    pub auto_incremented: bool,
    /// Whether the database computes its values
    pub generated: bool,
    /// Expression of the default
    pub default: Option<String>,
    /// Labels of an enum
    pub labels: Option<Vec<String>>,
}

/// Makes the records of the topic.
#[derive(Clone, Debug)]
pub struct SchemaChanges {
    topic: Arc<str>,
    key: Arc<Schema>,
    value: Arc<Schema>,
}

impl SchemaChanges {
    /// Records on `topic`; `connector` is the connector's word (`postgresql`), `source` the schema of its source blocks.
    #[must_use]
    pub fn new(topic: &str, connector: &str, source: &Arc<Schema>) -> Self {
        let text = || Schema::of(Kind::String).build();
        let optional_text = || Schema::of(Kind::String).optional().build();
        let number = || Schema::of(Kind::Int32).build();
        let optional_number = || Schema::of(Kind::Int32).optional().build();
        let optional_flag = || Schema::of(Kind::Boolean).optional().build();
        let texts = || Schema::of(Kind::Array(text())).optional().build();
        let column = Schema::structure(vec![
            Field::new("name", text()),
            Field::new("jdbcType", number()),
            Field::new("nativeType", optional_number()),
            Field::new("typeName", text()),
            Field::new("typeExpression", optional_text()),
            Field::new("charsetName", optional_text()),
            Field::new("length", optional_number()),
            Field::new("scale", optional_number()),
            Field::new("position", number()),
            Field::new("optional", optional_flag()),
            Field::new("autoIncremented", optional_flag()),
            Field::new("generated", optional_flag()),
            Field::new("comment", optional_text()),
            Field::new("defaultValueExpression", optional_text()),
            Field::new("enumValues", texts()),
        ])
        .name("io.debezium.connector.schema.Column")
        .version(1)
        .build();
        let table = Schema::structure(vec![
            Field::new("defaultCharsetName", optional_text()),
            Field::new("primaryKeyColumnNames", texts()),
            Field::new("columns", Schema::of(Kind::Array(column)).build()),
            Field::new("comment", optional_text()),
        ])
        .optional()
        .name("io.debezium.connector.schema.Table")
        .version(1)
        .build();
        let change = Schema::structure(vec![Field::new("type", text()), Field::new("id", text()), Field::new("table", table)])
            .name("io.debezium.connector.schema.Change")
            .version(1)
            .build();
        let key = Schema::structure(vec![Field::new("databaseName", text())])
            .name(format!("io.debezium.connector.{connector}.SchemaChangeKey"))
            .version(1)
            .build();
        let value = Schema::structure(vec![
            Field::new("source", source.clone()),
            Field::new("ts_ms", Schema::of(Kind::Int64).build()),
            Field::new("databaseName", optional_text()),
            Field::new("schemaName", optional_text()),
            Field::new("ddl", optional_text()),
            Field::new("tableChanges", Schema::of(Kind::Array(change)).build()),
        ])
        .name(format!("io.debezium.connector.{connector}.SchemaChangeValue"))
        .version(1)
        .build();
        Self { topic: topic.into(), key, value }
    }

    /// Tells that `table` is as described, the first time or again. `timestamp_ms` is the connector's clock, milliseconds since 1970
    /// UTC; there is no statement where the source does not tell one.
    #[must_use]
    pub fn record(&self, table: &TableDescription, is_first: bool, source: Value, timestamp_ms: i64) -> Record {
        let database: Value = table.id.first().map_or(Value::Null, |name| name.as_str().into());
        let schema: Value = if let [_, schema, _] = &table.id[..] { schema.as_str().into() } else { Value::Null };
        let id = table.id.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(".");
        let change = Value::Struct(Box::new([Value::text(if is_first { "CREATE" } else { "ALTER" }), id.into(), table.value()]));
        let value = Value::Struct(Box::new([
            source,
            Value::Int64(timestamp_ms),
            database.clone(),
            schema,
            Value::Null,
            Value::Array(Box::new([change])),
        ]));
        let key = SchemaAndValue::new(self.key.clone(), Value::Struct(Box::new([database])));
        Record::new(self.topic.clone(), key, SchemaAndValue::new(self.value.clone(), value))
    }
}

impl TableDescription {
    fn value(&self) -> Value {
        let columns = self.columns.iter().zip(1..).map(|(column, position)| column.value(position)).collect();
        Value::Struct(Box::new([Value::Null, texts(&self.key), Value::Array(columns), Value::Null]))
    }
}

impl ColumnDescription {
    fn value(&self, position: i32) -> Value {
        let number = |number: Option<i32>| number.map_or(Value::Null, Value::Int32);
        Value::Struct(Box::new([
            self.name.as_str().into(),
            Value::Int32(self.jdbc_type),
            number(self.native_type),
            self.type_name.as_str().into(),
            self.type_expression.as_str().into(),
            Value::Null,
            number(self.length),
            number(self.scale),
            Value::Int32(position),
            Value::Boolean(self.optional),
            Value::Boolean(self.auto_incremented),
            Value::Boolean(self.generated),
            Value::Null,
            self.default.as_deref().map_or(Value::Null, Value::from),
            self.labels.as_deref().map_or(Value::Null, texts),
        ]))
    }
}

fn texts(texts: &[String]) -> Value {
    Value::Array(texts.iter().map(|text| text.as_str().into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{JsonOptions, JsonWriter};

    #[test]
    fn schemas_are_those_that_debezium_recorded_for_another_connector() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/mysql/databases/schemas.txt");
        let recorded = std::fs::read_to_string(path).expect("the recorded case is there");
        let recorded = |name: &str| {
            let line =
                recorded.lines().find(|line| line.ends_with(&format!("\"name\":\"io.debezium.connector.mysql.{name}\",\"version\":1}}")));
            line.and_then(|line| line.split_once(' ')).expect("the schema was recorded").1.to_owned()
        };
        let source = Schema::structure(Vec::new()).name("io.debezium.connector.mysql.Source").version(1).build();
        let changes = SchemaChanges::new("shop", "mysql", &source);
        let written = |schema: &Schema| {
            let mut out = Vec::new();
            JsonWriter::new(JsonOptions::default()).write_schema(schema, &mut out).expect("a schema");
            String::from_utf8(out).expect("JSON is UTF-8")
        };
        assert_eq!(written(&changes.key), recorded("SchemaChangeKey"));
        // Behind the source block, which is the connector's own.
        let behind = |text: String| text.split_once("\"field\":\"source\"}").expect("a source block").1.to_owned();
        assert_eq!(behind(written(&changes.value)), behind(recorded("SchemaChangeValue")));
    }

    #[test]
    fn a_change_names_the_table_in_full() {
        let source = Schema::structure(Vec::new()).build();
        let table = TableDescription { id: vec!["shop".into(), "public".into(), "t".into()], key: vec!["id".into()], columns: Vec::new() };
        let record = SchemaChanges::new("shop", "postgresql", &source).record(&table, true, Value::Struct(Box::new([])), 5);
        let mut out = Vec::new();
        let schema = record.value.schema.as_deref();
        JsonWriter::new(JsonOptions::default()).write(schema, &record.value.value, &mut out).expect("the value fits its schema");
        let expected = concat!(
            r#"{"source":{},"ts_ms":5,"databaseName":"shop","schemaName":"public","ddl":null,"tableChanges":[{"type":"CREATE","#,
            r#""id":"\"shop\".\"public\".\"t\"","table":{"defaultCharsetName":null,"primaryKeyColumnNames":["id"],"columns":[],"comment":null}}]}"#,
        );
        assert_eq!(String::from_utf8(out).expect("JSON is UTF-8"), expected);
    }
}
