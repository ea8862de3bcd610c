//! Which tables can be read in chunks.
//!
//! Rows are told apart by the key of their table (`keys`). So a table whose log does not tell that key cannot be read so, nor one whose
//! records have another key and do not hold the values of it as they are, because they are masked; nor can one without a key, unless a
//! signal names a column in its place or the configuration names a key for its records. The keys of records are hashed where that is
//! asked for, and not masked otherwise. What is hashed must not be shown by how far the reading is, so it is not read so.

use tailwater_kit::column_rules::ColumnRule;

use crate::catalog::TableDefinition;
use crate::config::PostgresConfig;
use crate::pgoutput::ReplicaIdentity;

/// Whether the log tells the key of each change of the table, and records have it; or why not.
pub(super) fn is_told_by_key(config: &PostgresConfig, table: &TableDefinition) -> Result<(), String> {
    let relational = &config.relational;
    let is_told = match table.identity {
        ReplicaIdentity::Index => table.key.iter().all(|column| table.identity_columns.contains(column)),
        ReplicaIdentity::Full => true,
        // Where there is no identity the server refuses updates and deletes of what it publishes: there are none to be told. Of a
        // partitioned table it looks at the identities of the leaves.
        ReplicaIdentity::Default => table.has_primary_key || !table.partitioned,
        ReplicaIdentity::Nothing => !table.partitioned,
    };
    if !is_told && !table.key.is_empty() {
        return Err(format!("its replica identity does not tell its key; ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted()));
    }
    let name = table.full_name();
    let configured = table.configured_key(relational);
    let key = if table.key.is_empty() { configured.as_deref().unwrap_or_default() } else { &table.key };
    let is_of_record = configured.as_ref().is_none_or(|configured| configured == key);
    let is_hidden = |column: &String| {
        let column = format!("{name}.{column}");
        match relational.column_rules.of(&column) {
            Some(ColumnRule::Hash(_)) => true,
            // Where the record has another key, only the row can have it.
            Some(ColumnRule::Mask(_) | ColumnRule::Truncate(_)) => !is_of_record,
            None => !is_of_record && !relational.columns.accepts(&column),
        }
    };
    if key.iter().any(is_hidden) {
        return Err("its key is hashed, or its records do not hold the values of it as they are; take a blocking snapshot".to_owned());
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
        && !config.relational.snapshot_selects.iter().any(|(selected, _)| *selected == table.full_name())
}
