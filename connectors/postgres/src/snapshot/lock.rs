//! Locking a table before it is read, and what its definition is then.

use std::time::Duration;

use tailwater_api::{ErrorKind, Result, Scope};
use tokio_postgres::error::SqlState;
use tracing::warn;

use crate::catalog::{TableDefinition, quote_identifier};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, sql_error};

/// How long a further reader of a table waits for its lock.
const JOIN_WAIT: Duration = Duration::from_millis(100);

/// What came of locking a table.
pub(super) enum Locked {
    Table(Box<TableDefinition>),
    /// It has another name by now: that one has to be locked, in a new transaction
    Renamed(Box<TableDefinition>),
    /// It was dropped, or renamed out of the filters
    Gone,
}

/// Locks the table and returns its definition as of now, which holds until the transaction ends. `control` is another
/// session: the one that reads may see the catalog of the past.
///
/// A lock is asked for by name, and the name may be another table's by then, as where a new table takes the place of an old one.
/// Which table is locked is known only behind it. Rows of a table are told under the name that it has then.
pub(super) async fn lock(config: &PostgresConfig, sql: &SqlConnection, control: &SqlConnection, table: &TableDefinition) -> Result<Locked> {
    let is_found = match sql.batch_execute(&statement(table, config.relational.snapshot_lock_timeout)).await {
        Ok(()) => true,
        Err(error) if matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)) => false,
        Err(error) => {
            let error = sql_error("lock the table for its snapshot", error).scoped(Scope::Table(table.full_name()));
            return Err(match error.kind() {
                ErrorKind::TimedOut => error.mend(format!(
                    "end the transaction that holds it: SELECT pid, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks \
                     WHERE relation = {}); or raise snapshot.lock.timeout.ms",
                    table.oid
                )),
                ErrorKind::Unauthorised => error.mend(format!("GRANT SELECT ON {} TO {};", table.quoted(), quote_identifier(&config.user))),
                _ => error,
            });
        }
    };
    let current = TableDefinition::load(control, Some(table.oid)).await?.into_iter().next();
    let former = table.full_name();
    let Some(current) = current else {
        warn!(table = %former, "the table was dropped before the snapshot read it");
        return Ok(Locked::Gone);
    };
    if is_found && current.full_name() == former {
        return Ok(Locked::Table(Box::new(current)));
    }
    if config.captures(&current.schema, &current.name) {
        return Ok(Locked::Renamed(Box::new(current)));
    }
    warn!(
        table = %former,
        "the table was renamed to {}, which the filters leave out, before the snapshot read it",
        current.full_name()
    );
    Ok(Locked::Gone)
}

/// Locks a table that another reader has locked; `false` where somebody waits for a stronger lock and has to go first.
pub(super) async fn lock_too(sql: &SqlConnection, table: &TableDefinition) -> Result<bool> {
    match sql.batch_execute(&statement(table, JOIN_WAIT)).await {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::UNDEFINED_TABLE)) => Ok(false),
        Err(error) => Err(sql_error("lock the table for its snapshot", error).scoped(Scope::Table(table.full_name()))),
    }
}

fn statement(table: &TableDefinition, timeout: Duration) -> String {
    format!("SET LOCAL lock_timeout = {}; LOCK TABLE {} IN ACCESS SHARE MODE", timeout.as_millis(), table.quoted())
}

/// Whether a leaf of the table stands in another file than the snapshot's, so that its rows cannot be seen.
pub(super) async fn was_rewritten(sql: &SqlConnection, table: &TableDefinition) -> Result<bool> {
    // pg_class is read as the snapshot sees it; the function answers as of now. A leaf that the snapshot does not
    // know was attached later. Only partitions and partitioned tables have a tree.
    let query = "SELECT EXISTS (SELECT FROM (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf UNION SELECT $1::oid) t \
                 LEFT JOIN pg_class c ON c.oid = t.relid \
                 WHERE (c.relkind IS DISTINCT FROM 'p') AND (c.oid IS NULL OR c.relfilenode IS DISTINCT FROM pg_relation_filenode(t.relid)))";
    let row = sql.query_one(query, &[&table.oid]).await.map_err(|error| sql_error("compare the files of the table", error))?;
    Ok(row.get(0))
}

/// How large a table is.
pub(super) struct Size {
    /// Pages of its largest leaf, where the server scans ranges of them: all leaves are heaps, and it is PostgreSQL 14 or later
    pub(super) pages: Option<u64>,
    /// Rows of all leaves by the server's estimate, where there is one of any
    pub(super) rows: Option<u64>,
}

/// Asks how large the table is now. `sql` is the session that has the lock: another one could wait for it behind others.
pub(super) async fn size(sql: &SqlConnection, table: &TableDefinition) -> Result<Size> {
    let query = "SELECT CASE WHEN bool_and(a.amname = 'heap') AND current_setting('server_version_num')::int4 >= 140000 \
                 THEN max(pg_relation_size(c.oid)) / current_setting('block_size')::int8 END, \
                 sum(c.reltuples::int8) FILTER (WHERE c.reltuples >= 0)::int8 \
                 FROM (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf UNION SELECT $1::oid) t \
                 JOIN pg_class c ON c.oid = t.relid LEFT JOIN pg_am a ON a.oid = c.relam WHERE c.relkind <> 'p'";
    let row = sql.query_one(query, &[&table.oid]).await.map_err(|error| sql_error("see how large the table is", error))?;
    let count = |column| row.get::<_, Option<i64>>(column).and_then(|count| u64::try_from(count).ok());
    Ok(Size { pages: count(0), rows: count(1) })
}
