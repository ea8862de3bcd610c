//! What the server's catalog says: the server itself, its tables with their columns, keys and identities, and what a
//! publication holds. One query each.
//!
//! The log's own messages describe columns, but neither their defaults nor whether they may be null nor the order of
//! the key; those come from here.

use std::collections::BTreeMap;

use tailwater_api::envelope::Operation;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::relational_config::RelationalConfig;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;

use crate::connect::{SqlConnection, sql_error};
use crate::lsn::Lsn;
use crate::pgoutput::ReplicaIdentity;

/// The server and what the role may do there.
#[derive(Clone, Debug)]
pub(crate) struct ServerFacts {
    /// `server_version_num`: 150004
    pub(crate) version: u32,
    pub(crate) in_recovery: bool,
    pub(crate) wal_level: String,
    /// Milliseconds; 0 for none
    pub(crate) wal_sender_timeout: u64,
    pub(crate) may_replicate: bool,
    /// End of what is written, or replayed on a standby
    pub(crate) end: Lsn,
    pub(crate) role: String,
    pub(crate) free_slots: i64,
}

const SERVER: &str = "
SELECT current_setting('server_version_num')::int4,
       pg_is_in_recovery(),
       current_setting('wal_level'),
       (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout'),
       (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)
       OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(current_user, oid, 'member')),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
       current_user::text,
       current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots)";

impl ServerFacts {
    pub(crate) async fn load(sql: &SqlConnection) -> Result<Self> {
        let row = sql.query_one(SERVER, &[]).await.map_err(|error| sql_error("read the server's settings", error))?;
        Ok(Self {
            version: row.get::<_, i32>(0).unsigned_abs(),
            in_recovery: row.get(1),
            wal_level: row.get(2),
            wal_sender_timeout: row.get::<_, Option<i64>>(3).and_then(|timeout| timeout.try_into().ok()).unwrap_or(0),
            may_replicate: row.get::<_, Option<bool>>(4).unwrap_or(false),
            end: Lsn::new(row.get::<_, Option<PgLsn>>(5).map_or(0, u64::from)),
            role: row.get(6),
            free_slots: row.get(7),
        })
    }
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
    pub(crate) not_null: bool,
    /// Expression of the default
    pub(crate) default: Option<String>,
    /// The type as SQL writes it, for casts
    pub(crate) type_name: String,
    /// Kind of a generated column: stored or virtual
    pub(crate) generated: Option<char>,
    /// What orders its texts; 0 for other values
    pub(crate) collation: u32,
}

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableDefinition {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) partitioned: bool,
    /// The partitioned tables that it is a part of
    pub(crate) ancestors: Vec<u32>,
    pub(crate) logged: bool,
    pub(crate) identity: ReplicaIdentity,
    pub(crate) has_primary_key: bool,
    pub(crate) may_select: bool,
    /// Whether policies hide rows from the role
    pub(crate) hides_rows: bool,
    /// The server's estimate
    pub(crate) rows: f32,
    pub(crate) columns: Vec<ColumnDefinition>,
    /// Columns of the index that is the identity, where one is
    pub(crate) identity_columns: Vec<String>,
    /// Columns of the primary key, or of the first unique index without nulls, in the index's order; may be empty
    pub(crate) key: Vec<String>,
}

// A default names no columns, so its text needs no table: with one, the server looks at all columns of the table for each.
// Functions that are asked about an oid answer null where the table is gone since the query began.
// An index that is partial, over an expression or over nullable columns identifies no row, so it makes no key.
const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relpersistence = 'p', c.relreplident::text,
       coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false), c.reltuples,
       CASE WHEN c.relispartition THEN array(SELECT relid::oid FROM pg_partition_ancestors(c.oid) WHERE relid <> c.oid) ELSE '{}'::oid[] END,
       coalesce(k.primary_key, false), coalesce(k.columns, '{}'::text[]),
       a.attname::text, a.atttypid, a.atttypmod,
       a.attnotnull OR (SELECT t.typtype = 'd' AND t.typnotnull FROM pg_type t WHERE t.oid = a.atttypid), pg_get_expr(d.adbin, CASE a.attgenerated WHEN '' THEN 0 ELSE d.adrelid END),
       format_type(a.atttypid, a.atttypmod), a.attgenerated::text,
       array(SELECT ia.attname::text FROM pg_index i JOIN pg_attribute ia ON ia.attrelid = c.oid AND ia.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
             WHERE i.indrelid = c.oid AND i.indisreplident),
       a.attcollation,
       row_security_active(c.oid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
LEFT JOIN LATERAL (
    SELECT i.indisprimary AS primary_key,
           array(SELECT ka.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS p(attnum, place)
                 JOIN pg_attribute ka ON ka.attrelid = i.indrelid AND ka.attnum = p.attnum ORDER BY p.place) AS columns
    FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisvalid AND (i.indisprimary OR (
          i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (
              SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS u(attnum)
              JOIN pg_attribute ua ON ua.attrelid = i.indrelid AND ua.attnum = u.attnum WHERE NOT ua.attnotnull)))
    ORDER BY i.indisprimary DESC, ic.relname LIMIT 1) k ON true
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
  AND ($1::oid IS NULL OR c.oid = $1)
ORDER BY n.nspname, c.relname, a.attnum";

impl TableDefinition {
    /// All tables of the database, or the one with this oid.
    pub(crate) async fn load(sql: &SqlConnection, oid: Option<u32>) -> Result<Vec<Self>> {
        let rows = sql.query(TABLES, &[&oid]).await.map_err(|error| sql_error("read the definitions of the tables", error))?;
        let mut tables: Vec<Self> = Vec::new();
        for row in &rows {
            let oid: u32 = row.get(0);
            if tables.last().is_none_or(|last| last.oid != oid) {
                tables.push(Self::of_row(row));
            }
            if let (Some(column), Some(table)) = (ColumnDefinition::of_row(row), tables.last_mut()) {
                table.columns.push(column);
            }
        }
        Ok(tables)
    }

    fn of_row(row: &Row) -> Self {
        let identity = match row.get::<_, &str>(5) {
            "n" => ReplicaIdentity::Nothing,
            "f" => ReplicaIdentity::Full,
            "i" => ReplicaIdentity::Index,
            // 'd', the only other letter of pg_class.relreplident
            _ => ReplicaIdentity::Default,
        };
        Self {
            oid: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            partitioned: row.get(3),
            logged: row.get(4),
            identity,
            may_select: row.get(6),
            hides_rows: row.get(20),
            rows: row.get(7),
            ancestors: row.get(8),
            has_primary_key: row.get(9),
            key: row.get(10),
            identity_columns: row.get(18),
            columns: Vec::new(),
        }
    }

    /// The key of its records, where `message.key.columns` names one.
    pub(crate) fn configured_key(&self, relational: &RelationalConfig) -> Option<Vec<String>> {
        let columns: Vec<&str> = self.columns.iter().map(|column| &*column.name).collect();
        relational.key_columns.of(&self.schema, &self.name, &columns)
    }

    /// `schema.table`, as filters and topics name it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// `"schema"."table"`, for SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }

    /// Whether the server refuses updates and deletes of the table once they are published.
    pub(crate) fn refuses_changes(&self) -> bool {
        match self.identity {
            ReplicaIdentity::Default => !self.has_primary_key,
            ReplicaIdentity::Nothing => true,
            ReplicaIdentity::Full | ReplicaIdentity::Index => false,
        }
    }
}

impl ColumnDefinition {
    /// `None` for the row of a table without columns.
    fn of_row(row: &Row) -> Option<Self> {
        Some(Self {
            name: row.get::<_, Option<String>>(11)?,
            type_oid: row.get(12),
            type_modifier: row.get(13),
            not_null: row.get::<_, Option<bool>>(14).unwrap_or(false),
            default: row.get(15),
            type_name: row.get(16),
            generated: row.get::<_, &str>(17).chars().next(),
            collation: row.get(19),
        })
    }
}

/// A table as a publication publishes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedTable {
    pub(crate) oid: u32,
    /// `None` for all columns
    pub(crate) columns: Option<Vec<String>>,
    pub(crate) row_filter: Option<String>,
}

/// What a publication names itself: tables and schemas by their oids, and operations. Roots and schemas stand for further tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Each with the oid of its membership, which is another one once a table was taken out and added again
    pub(crate) tables: BTreeMap<u32, u32>,
    /// In their order
    pub(crate) schemas: Vec<u32>,
    pub(crate) operations: Vec<Operation>,
}

/// The operations of publications, each with its name in the parameter `publish`.
pub(crate) const OPERATIONS: [(Operation, &str); 4] =
    [(Operation::Create, "insert"), (Operation::Update, "update"), (Operation::Delete, "delete"), (Operation::Truncate, "truncate")];

impl Named {
    /// What the publication called `name` names, if there is one. Unlike [`Publication::load`] it opens no table.
    pub(crate) async fn load(sql: &SqlConnection, facts: &ServerFacts, name: &str) -> Result<Option<Self>> {
        let schemas = if facts.version >= 150_000 {
            "array(SELECT pnnspid FROM pg_publication_namespace WHERE pnpubid = p.oid ORDER BY pnnspid)"
        } else {
            "'{}'::oid[]"
        };
        let query = format!(
            "SELECT array(SELECT prrelid FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY oid),
                    array(SELECT oid FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY oid), {schemas},
                    p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate
             FROM pg_publication p WHERE p.pubname = $1"
        );
        let row = sql.query_opt(&query, &[&name]).await;
        let row = row.map_err(|error| sql_error(format!("see what the publication {name} names"), error))?;
        Ok(row.map(|row| {
            let (tables, memberships): (Vec<u32>, Vec<u32>) = (row.get(0), row.get(1));
            let published = OPERATIONS.iter().zip(3..).filter(|(_, column)| row.get(*column));
            Self {
                tables: tables.into_iter().zip(memberships).collect(),
                schemas: row.get(2),
                operations: published.map(|((operation, _), _)| *operation).collect(),
            }
        }))
    }
}

/// How often a publication is read where tables are dropped at the same time.
const PUBLICATION_TRIES: u32 = 10;

/// A publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) all_tables: bool,
    pub(crate) named: Named,
    /// What it publishes, roots and leaves resolved
    pub(crate) tables: Vec<PublishedTable>,
    /// Whether stored generated columns are published (PostgreSQL 18)
    pub(crate) generated: bool,
}

impl Publication {
    /// The publication called `name`, if there is one.
    pub(crate) async fn load(sql: &SqlConnection, facts: &ServerFacts, name: &str) -> Result<Option<Self>> {
        let failed = |error| sql_error(format!("read the publication {name}"), error);
        let Some(named) = Named::load(sql, facts, name).await? else {
            return Ok(None);
        };
        // Columns that older servers do not have are null this way.
        let publication = "SELECT p.puballtables, to_jsonb(p) ->> 'pubgencols' = 's'
                           FROM pg_publication p WHERE p.pubname = $1";
        let Some(row) = sql.query_opt(publication, &[&name]).await.map_err(failed)? else {
            return Ok(None);
        };
        let columns_and_filter = if facts.version >= 150_000 {
            // The view names all columns of a table of which none are listed. Those that come later are published, too.
            "CASE WHEN EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                                      WHERE p.pubname = t.pubname AND r.prattrs IS NOT NULL
                                        AND r.prrelid IN (SELECT c.oid UNION SELECT relid FROM pg_partition_ancestors(c.oid)))
                         THEN t.attnames::text[] END, t.rowfilter"
        } else {
            "NULL::text[], NULL::text"
        };
        // By their oids: a table may be renamed between this query and that of the tables.
        let published = format!(
            "SELECT c.oid, {columns_and_filter}
             FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
                  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
             WHERE t.pubname = $1"
        );
        // The view opens each table. One that is dropped meanwhile is an error there (`internal_error`), and gone the next time.
        let mut tries = 1;
        let rows = loop {
            match sql.query(&published, &[&name]).await {
                Err(error) if error.code() == Some(&SqlState::INTERNAL_ERROR) && tries < PUBLICATION_TRIES => tries += 1,
                Err(error) if error.code() == Some(&SqlState::INTERNAL_ERROR) => {
                    return Err(Error::new(ErrorKind::Conflict, format!("read the publication {name}")).because(error));
                }
                answer => break answer.map_err(failed)?,
            }
        };
        let tables = rows.iter().map(|row| PublishedTable { oid: row.get(0), columns: row.get(1), row_filter: row.get(2) }).collect();
        Ok(Some(Self { all_tables: row.get(0), generated: row.get::<_, Option<bool>>(1).unwrap_or(false), named, tables }))
    }

    /// How the publication publishes the table, if it does.
    pub(crate) fn table(&self, oid: u32) -> Option<&PublishedTable> {
        self.tables.iter().find(|published| published.oid == oid)
    }
}

/// Types with smaller oids are the server's own (`FirstNormalObjectId` of PostgreSQL's transam.h).
pub(crate) const FIRST_OID_OF_USERS: u32 = 16_384;

/// SQL for the text of a value of this type, as its type writes it and the log has it (I7). A cast to text may be a function of the
/// type's owner, who lets it say something else.
pub(crate) fn as_text(value: &str, type_oid: u32) -> String {
    if type_oid < FIRST_OID_OF_USERS {
        format!("{value}::text")
    } else {
        format!("CASE WHEN {value} IS DISTINCT FROM NULL THEN format('%s', {value}) END")
    }
}

/// An identifier in double quotes.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes.
pub(crate) fn quote_text(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_texts_are_quoted() {
        assert_eq!(quote_identifier("a\"b.c"), "\"a\"\"b.c\"");
        assert_eq!(quote_text("it's"), "'it''s'");
        assert_eq!(quote_text("a\\'"), "E'a\\\\'''");
    }
}
