//! Which tables can be read in chunks.
//!
//! Keys are held against each other as they stand in records. So a table whose records have another key than its rows
//! (`message.key.columns`, masked key columns), or whose log does not tell the key, cannot be read so, nor can one without a key,
//! unless a signal names a column in its place.

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
    if !is_told {
        return Err(format!("its replica identity does not tell its key; ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted()));
    }
    let name = table.full_name();
    let has_own_key = relational.key_columns.of(&table.schema, &table.name).is_some()
        || table.key.iter().any(|column| relational.column_rules.of(&format!("{name}.{column}")).is_some());
    if has_own_key {
        return Err("its records have another key than its rows; take a blocking snapshot".to_owned());
    }
    Ok(())
}

/// Whether the snapshot at the start reads the table in chunks.
pub(crate) fn is_chunked(config: &PostgresConfig, table: &TableDefinition) -> bool {
    config.snapshot.in_chunks
        && !table.key.is_empty()
        && is_told_by_key(config, table).is_ok()
        && !config.relational.snapshot_selects.iter().any(|(selected, _)| selected.eq_ignore_ascii_case(&table.full_name()))
}
