//! Definitions of tables, told on a topic of their own where `include.schema.changes` asks for it.
//!
//! The log holds no statements, but describes each table as its rows are written; the catalog adds what the log does not say, such as
//! defaults. A table is told of as `CREATE` when it is first followed, and as `ALTER` in front of the first row that was written
//! under another definition. What was told last is state of the table, in the partition
//! `{"server": …, "tailwater.definition": "public.orders"}` as `{"key": […], "columns": […]}`, and travels with the record, so that
//! a restart tells nothing twice. The catalog may be ahead of the log and know a column no more: that alone is no change. That a table was dropped is in no message of the log, so it is not told (`docs/operating.md` says so).

use std::collections::HashMap;

use bytes::BytesMut;
use serde_json::Value as Json;
use tailwater_api::Value;
use tailwater_api::record::Record;
use tailwater_api::source::SourceBatch;
use tailwater_api::state::{JsonMap, SourceState, StateChange};
use tailwater_kit::envelope::SnapshotMark;
use tailwater_kit::schema_change::{ColumnDescription, SchemaChanges, TableDescription};

use crate::catalog::{ColumnDefinition, Publication, TableDefinition};
use crate::config::PostgresConfig;
use crate::data_types::TypeCatalog;
use crate::event::{Blocks, Place, now};
use crate::plans::Plans;
use crate::position::{Position, server_partition};
use crate::relation::{Shape, TupleColumn};

const PARTITION: &str = "tailwater.definition";

/// A table as it is told of, and what of it is kept to be held against the next description: of each column what the log says and
/// what the catalog says, null where it no longer has the column.
pub(crate) struct Described {
    table: TableDescription,
    outline: JsonMap,
}

/// Tells definitions that were not told yet.
pub(crate) struct Definitions {
    records: SchemaChanges,
    server: String,
    /// What was told last, by `schema.table`
    told: HashMap<String, JsonMap>,
}

impl Definitions {
    /// `None` where nobody asks for them.
    pub(crate) fn new(config: &PostgresConfig, blocks: &Blocks, state: &SourceState) -> Option<Self> {
        let server = &config.relational.topic_prefix;
        let of_table = |(partition, offset): (&JsonMap, &JsonMap)| {
            let is_ours = partition.get("server").and_then(Json::as_str) == Some(server);
            let name = partition.get(PARTITION)?.as_str()?.to_owned();
            is_ours.then(|| (name, offset.clone()))
        };
        config.tells_definitions.then(|| Self {
            records: SchemaChanges::new(server, "postgresql", blocks.schema()),
            server: server.clone(),
            told: state.iter().filter_map(of_table).collect(),
        })
    }

    /// Tells of the tables that were never told of, as the catalog has them now. What changed of the others the log tells.
    pub(crate) fn tell_new(
        &mut self,
        plans: &Plans,
        blocks: &Blocks,
        publication: Option<&Publication>,
        tables: &[TableDefinition],
        position: &Position,
    ) -> SourceBatch {
        let now = now();
        let place = Place {
            lsn: position.through,
            last_commit: position.last_commit,
            xid: position.last.xid,
            timestamp: now / 1000,
            mark: SnapshotMark::Inside,
            origin: None,
        };
        let mut batch = SourceBatch::default();
        let mut arena = BytesMut::new();
        for table in tables {
            let name = table.full_name();
            if self.told.contains_key(&name) {
                continue;
            }
            let columns =
                publication.and_then(|publication| publication.table(table.oid)).and_then(|published| published.columns.as_deref());
            let shape = Shape::of_definition(table, columns, publication.is_some_and(|publication| publication.generated));
            let described = plans.description(table.oid, &shape);
            let source = || blocks.moment(&place, table.schema.as_str().into(), table.name.as_str().into(), now, &mut arena).source;
            let (record, state) = self.tell(&name, described, source, now).unzip();
            batch.records.extend(record);
            batch.state.extend(state);
        }
        batch
    }

    /// The record and the state that say how the table is now; `None` where that was told. `now` are nanoseconds since 1970 UTC.
    pub(crate) fn tell(
        &mut self,
        full_name: &str,
        described: Described,
        source: impl FnOnce() -> Value,
        now: i64,
    ) -> Option<(Record, StateChange)> {
        let Described { table, outline } = described;
        let earlier = self.told.get(full_name);
        if earlier.is_some_and(|earlier| says_the_same(earlier, &outline)) {
            return None;
        }
        let record = self.records.record(&table, earlier.is_none(), source(), now / 1_000_000);
        self.told.insert(full_name.to_owned(), outline.clone());
        let mut partition = server_partition(&self.server);
        partition.insert(PARTITION.into(), full_name.into());
        Some((record, StateChange { partition, offset: Some(outline) }))
    }
}

/// Whether the new outline says nothing that the old one did not say.
fn says_the_same(old: &JsonMap, new: &JsonMap) -> bool {
    let columns = |outline: &JsonMap| outline.get("columns").and_then(Json::as_array).cloned().unwrap_or_default();
    let (old_columns, new_columns) = (columns(old), columns(new));
    let is_same = |(old, new): (&Json, &Json)| old[0] == new[0] && (new[1].is_null() || old[1] == new[1]);
    old.get("key") == new.get("key") && old_columns.len() == new_columns.len() && old_columns.iter().zip(&new_columns).all(is_same)
}

/// Describes a table: its shape as the log has it, and what the catalog adds.
pub(crate) fn describe(types: &TypeCatalog, database: &str, shape: &Shape, definition: Option<&TableDefinition>) -> Described {
    // As Debezium tells it: the table's own, whatever columns the keys of records are made of.
    let key = shape.own_key(definition);
    let mut columns = Vec::with_capacity(shape.columns.len());
    let mut outlines = Vec::with_capacity(shape.columns.len());
    for column in &shape.columns {
        // What the catalog says of a column of another type is not about this one.
        let known = definition.and_then(|table| {
            let alike = |known: &&ColumnDefinition| {
                known.name == column.name && known.type_oid == column.type_oid && known.type_modifier == column.type_modifier
            };
            table.columns.iter().find(alike)
        });
        let described = describe_column(types, column, known);
        let in_log = format!("{} {} {}", column.name, described.type_name, column.type_modifier);
        let in_catalog = known.map(|known| {
            let default = described.default.as_deref().unwrap_or_default();
            format!("{} {} {default}", known.not_null, known.generated.is_some())
        });
        outlines.push(Json::from(vec![Some(in_log), in_catalog]));
        columns.push(described);
    }
    let mut outline = JsonMap::new();
    outline.insert("key".into(), key.clone().into());
    outline.insert("columns".into(), outlines.into());
    let id = vec![database.to_owned(), shape.schema.clone(), shape.table.clone()];
    Described { table: TableDescription { id, key, columns }, outline }
}

fn describe_column(types: &TypeCatalog, column: &TupleColumn, known: Option<&ColumnDefinition>) -> ColumnDescription {
    let described = types.source_type(column.type_oid, column.type_modifier);
    let type_name = described.as_ref().map_or_else(|| column.type_oid.to_string(), |described| described.name.clone());
    let length = described.as_ref().map(|described| described.length).filter(|length| *length != i32::MAX);
    let default = known.filter(|known| known.generated.is_none()).and_then(|known| known.default.clone());
    ColumnDescription {
        name: column.name.clone(),
        jdbc_type: jdbc_type(&type_name),
        native_type: i32::try_from(column.type_oid).ok(),
        type_expression: type_name.clone(),
        type_name,
        length,
        scale: described.as_ref().map(|described| described.scale).filter(|_| length.is_some()),
        optional: known.is_none_or(|known| !known.not_null),
        auto_incremented: default.as_ref().is_some_and(|default| default.starts_with("nextval(")),
        generated: known.is_some_and(|known| known.generated.is_some()),
        default,
        labels: types.enum_labels(column.type_oid).map(<[String]>::to_vec),
    }
}

/// The numbers of `java.sql.Types` that pgjdbc 42 gives to the types of the server; `OTHER` for all that have none.
fn jdbc_type(name: &str) -> i32 {
    match name {
        "int2" => 5,
        "int4" => 4,
        "int8" | "oid" => -5,
        "numeric" => 2,
        "float4" => 7,
        "float8" | "money" => 8,
        "bool" | "bit" => -7,
        "bpchar" | "char" => 1,
        "varchar" | "text" | "name" => 12,
        "bytea" => -2,
        "date" => 91,
        "time" | "timetz" => 92,
        "timestamp" | "timestamptz" => 93,
        "xml" => 2009,
        "refcursor" => 2012,
        array if array.starts_with('_') => 2003,
        _ => 1111,
    }
}
