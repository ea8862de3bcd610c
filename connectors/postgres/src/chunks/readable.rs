//! Which tables can be read in chunks.
//!
//! Rows are told apart by the key of their table (`keys`). So a table whose records do not hold the values of that key as they are,
//! because they are masked, or whose log does not tell it, cannot be read so, nor can one without a key, unless a signal names a column in
//! its place or the configuration names a key for its records.

use crate::catalog::TableDefinition;
use crate::config::PostgresConfig;
use crate::pgoutput::ReplicaIdentity;

/// Whether the log tells the key of each change of the table, and records have it; or why not.
pub(super) fn is_told_by_key(config: &PostgresConfig, table: &TableDefinition) -> Result<(), String> {
    let relational = &config.relational;
    let is_told = match table.identity {
        ReplicaIdentity::Default => table.has_primary_key,
        ReplicaIdentity::Index => table.key.iter().all(|column| table.identity_columns.contains(column)),
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
    };
    // Without a key there is no identity but the whole row, and the server refuses changes of rows where it has none.
    if !is_told && !table.key.is_empty() {
        return Err(format!("its replica identity does not tell its key; ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted()));
    }
    let name = table.full_name();
    let configured = table.configured_key(relational);
    let key = if table.key.is_empty() { configured.as_deref().unwrap_or_default() } else { &table.key };
    let is_hidden = |column: &String| {
        let column = format!("{name}.{column}");
        let is_masked = relational.column_rules.of(&column).is_some();
        // Where the record has another key, only the row can have it.
        is_masked || (configured.is_some() && !relational.columns.accepts(&column))
    };
    if key.iter().any(is_hidden) {
        return Err("its records do not hold the values of its key; take a blocking snapshot".to_owned());
    }
    Ok(())
}

/// Whether the table can be read in chunks along its key.
pub(crate) fn can_be_chunked(config: &PostgresConfig, table: &TableDefinition) -> bool {
    !table.key.is_empty() && is_told_by_key(config, table).is_ok()
}

/// Whether the snapshot at the start reads the table in chunks.
pub(crate) fn is_chunked(config: &PostgresConfig, table: &TableDefinition) -> bool {
    config.snapshot.in_chunks
        && can_be_chunked(config, table)
        && !config.relational.snapshot_selects.iter().any(|(selected, _)| selected.eq_ignore_ascii_case(&table.full_name()))
}
