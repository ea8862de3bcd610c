//! The tables that a signal chooses by names.
//!
//! A partitioned table is read as it is told of: as a whole, or each of its leaves under its own name. A signal may name it either way.
//! The name of a root chooses the leaves, with the condition that stands for the root. A leaf whose rows stand under the name of its root
//! is none that could be read by itself: what reads its rows of the root is said.

use std::collections::HashMap;

use tailwater_kit::filters::expression_of;
use tailwater_kit::signals::ExecuteSnapshot;

use crate::catalog::{Publication, TableDefinition};
use crate::config::PostgresConfig;
use crate::snapshot::{is_named_by, tables_to_read};

/// A table that is to be read.
pub(super) struct Chosen {
    pub(super) table: TableDefinition,
    /// Its own name, and behind it those of the captured partitioned tables that it is a part of
    pub(super) names: Vec<String>,
    /// The same in double quotes
    pub(super) quoted: Vec<String>,
}

impl Chosen {
    /// Place of the first name of the signal's that chooses it.
    pub(super) fn place(&self, snapshot: &ExecuteSnapshot) -> usize {
        self.spellings().map(|name| snapshot.tables.place(name)).min().unwrap_or(usize::MAX)
    }

    /// All that may stand for it in a signal.
    pub(super) fn spellings(&self) -> impl Iterator<Item = &String> {
        self.names.iter().chain(&self.quoted)
    }

    /// What its rows are narrowed down by.
    ///
    /// # Errors
    /// The name of the root for which a whole statement stands, as in blocking snapshots: it would read the rows of other leaves, too.
    pub(super) fn condition<'a>(&'a self, snapshot: &'a ExecuteSnapshot) -> Result<Option<&'a str>, &'a str> {
        let Some((name, condition)) = self.names.iter().find_map(|name| Some((name, snapshot.condition(name)?))) else { return Ok(None) };
        if snapshot.blocking && *name != self.names[0] {
            return Err(name);
        }
        // As Debezium does: an empty text narrows nothing down, other than in a blocking snapshot, whose statement it is.
        Ok(Some(condition).filter(|condition| snapshot.blocking || !condition.is_empty()))
    }
}

/// The tables that the signal chooses, in the order in which it names them.
pub(super) fn choose(
    config: &PostgresConfig,
    publication: &Publication,
    definitions: &[TableDefinition],
    snapshot: &ExecuteSnapshot,
) -> Vec<Chosen> {
    let mut config = config.clone();
    config.relational.snapshot_tables = snapshot.tables.clone();
    let by_oid: HashMap<u32, &TableDefinition> = definitions.iter().map(|table| (table.oid, table)).collect();
    let chosen = |table: TableDefinition| {
        let above = table.ancestors.iter().filter_map(|oid| by_oid.get(oid)).filter(|root| config.captures(&root.schema, &root.name));
        let named: Vec<&TableDefinition> = std::iter::once(&table).chain(above.copied()).collect();
        let names = named.iter().map(|table| table.full_name()).collect();
        let quoted = named.iter().map(|table| table.quoted()).collect();
        Chosen { table, names, quoted }
    };
    let tables = tables_to_read(&config, Some(publication), definitions).into_iter();
    let tables = tables.filter(|table| config.relational.tables.accepts(&table.schema, &table.name));
    let mut tables: Vec<Chosen> = tables.map(chosen).collect();
    tables.sort_by_cached_key(|table| table.place(snapshot));
    tables
}

/// How the rows of partitions are read that the signal names and that stand under the name of a root, which may be errored.
pub(super) fn how_parts_are_read(
    config: &PostgresConfig,
    publication: &Publication,
    definitions: &[TableDefinition],
    snapshot: &ExecuteSnapshot,
    is_errored: impl Fn(&str) -> bool,
) -> Vec<String> {
    let is_named = |table: &&TableDefinition| is_named_by(&snapshot.tables, table);
    let root = |oid: &u32| {
        let is_told = |root: &&TableDefinition| {
            root.oid == *oid && config.relational.tables.accepts(&root.schema, &root.name) && publication.table(root.oid).is_some()
        };
        definitions.iter().find(is_told)
    };
    let parts = definitions.iter().filter(is_named).filter_map(|table| Some((table, table.ancestors.iter().find_map(root)?)));
    let how = |(table, root): (&TableDefinition, &TableDefinition)| {
        let (name, condition) = (root.full_name(), table.condition_of_part());
        // As the signal is to have it; an errored table is read whole.
        let narrowed = match snapshot.blocking {
            _ if is_errored(&name) => String::new(),
            true => format!(" and the additional condition SELECT * FROM {} WHERE {condition}", root.quoted()),
            false => format!(" and the additional condition {condition}"),
        };
        format!(
            "the rows of {} stand under the name {name}: signal execute-snapshot with data-collections {}{narrowed}",
            table.full_name(),
            expression_of(&name)
        )
    };
    parts.filter(|(_, root)| !is_named(root)).map(how).collect()
}
