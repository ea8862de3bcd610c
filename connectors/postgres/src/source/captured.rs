//! Which tables are captured, and what the start says of those that are not captured as the configuration has it.

use tailwater_kit::filters::expression_of;
use tracing::warn;

use crate::catalog::TableDefinition;
use crate::config::PostgresConfig;
use crate::identity;

/// The tables that the configuration captures.
pub(crate) fn captured<'a>(config: &PostgresConfig, definitions: &'a [TableDefinition]) -> Vec<&'a TableDefinition> {
    definitions.iter().filter(|table| table.logged && config.captures(&table.schema, &table.name)).collect()
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
