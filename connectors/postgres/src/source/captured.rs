//! Which tables are captured, and what the start says of those that are not captured as the configuration has it.

use std::collections::HashSet;

use tailwater_kit::filters::expression_of;
use tracing::warn;

use crate::catalog::{ServerFacts, TableDefinition, quote_identifier};
use crate::config::PostgresConfig;
use crate::identity;

/// The tables that the configuration captures.
pub(crate) fn captured<'a>(config: &PostgresConfig, definitions: &'a [TableDefinition]) -> Vec<&'a TableDefinition> {
    definitions.iter().filter(|table| table.logged && config.captures(&table.schema, &table.name)).collect()
}

/// The partitioned tables that it captures and of which it captures no leaf, by their oids: the rows have no other names. One that is
/// empty of leaves is none of them yet.
pub(crate) fn captured_alone(config: &PostgresConfig, definitions: &[TableDefinition]) -> HashSet<u32> {
    let leaves = definitions.iter().filter(|table| !table.partitioned);
    let captured_leaves = leaves.filter(|leaf| config.captures(&leaf.schema, &leaf.name));
    let with_captured_leaves: HashSet<u32> = captured_leaves.flat_map(|leaf| leaf.ancestors.iter().copied()).collect();
    let mut alone = with_further_leaves(config, definitions);
    alone.retain(|oid| !with_captured_leaves.contains(oid));
    alone
}

/// The partitioned tables that it captures without all of their leaves, by their oids.
pub(crate) fn with_further_leaves(config: &PostgresConfig, definitions: &[TableDefinition]) -> HashSet<u32> {
    let leaves = definitions.iter().filter(|table| !table.partitioned && !config.captures(&table.schema, &table.name));
    let above: HashSet<u32> = leaves.flat_map(|leaf| leaf.ancestors.iter().copied()).collect();
    captured(config, definitions).into_iter().map(|table| table.oid).filter(|oid| above.contains(oid)).collect()
}

/// Those that pass its filters and of which the log does not tell.
pub(crate) fn unlogged<'a>(config: &PostgresConfig, definitions: &'a [TableDefinition]) -> impl Iterator<Item = &'a TableDefinition> {
    definitions.iter().filter(|table| !table.logged && config.captures(&table.schema, &table.name))
}

/// What makes the log tell of it.
pub(crate) fn unlogged_mend(table: &TableDefinition) -> String {
    format!("ALTER TABLE {} SET LOGGED;", table.quoted())
}

/// What to say of it.
pub(super) fn unlogged_advice(table: &TableDefinition) -> String {
    format!(
        "the table {} is unlogged: its changes are not in the log, so it is not captured. To mend it: {} and then signal execute-snapshot \
         with data-collections {}, for the rows that it holds then",
        table.full_name(),
        unlogged_mend(table),
        expression_of(&table.full_name())
    )
}

/// Whether the role may read its rows, and all of them.
pub(crate) fn is_readable(table: &TableDefinition) -> bool {
    table.may_select && !table.hides_rows
}

/// What lets the role read it.
fn reading_mend(facts: &ServerFacts, table: &TableDefinition) -> String {
    let role = quote_identifier(&facts.role);
    let grant =
        format!("GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT ON {} TO {role};", quote_identifier(&table.schema), table.quoted());
    let bypass = format!("ALTER ROLE {role} BYPASSRLS;");
    match (table.may_select, table.hides_rows) {
        (false, false) => grant,
        (true, _) => bypass,
        (false, true) => format!("{grant} {bypass}"),
    }
}

/// What to say of a table that came with rows which the role may not read.
pub(crate) fn unreadable_advice(facts: &ServerFacts, table: &TableDefinition) -> String {
    format!(
        "the role {} may not read all rows of the table {}: what it held when it came may be in no record, only its changes are captured. To \
         mend it: {} and restart the connector, which reads it then",
        facts.role,
        table.full_name(),
        reading_mend(facts, table)
    )
}

pub(super) fn warn_about_unlogged(config: &PostgresConfig, definitions: &[TableDefinition]) {
    for table in unlogged(config, definitions) {
        warn!(table = %table.full_name(), "{}", unlogged_advice(table));
    }
}

pub(super) fn warn_about_untold_keys(config: &PostgresConfig, captured: &[&TableDefinition]) {
    for table in captured {
        if let Some(advice) = identity::untold_key(&config.relational, table) {
            warn!(table = %table.full_name(), "{advice}");
        }
    }
}

pub(super) fn warn_about_idle_keys(config: &PostgresConfig, captured: &[&TableDefinition]) {
    let columns: Vec<_> =
        captured.iter().flat_map(|table| table.columns.iter().map(|column| (&*table.schema, &*table.name, &*column.name))).collect();
    for key in config.relational.key_columns.idle(&columns) {
        warn!("message.key.columns: {key} is no column of a captured table, and makes no key");
    }
}
