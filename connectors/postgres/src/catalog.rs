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
use tokio_postgres::types::{PgLsn, Type};

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
    /// Expression of the default; `None` for a generated column
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
    pub(crate) schema_oid: u32,
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

// A default names no columns, so its text needs no table: with one, the server looks at all columns of the table for each, and waits for
// whoever has locked it (I10). The expression of a generated column names some, and nobody asks for it.
// Functions that are asked about an oid answer null where the table is gone since the query began.
// An index that is partial, over an expression or over nullable columns identifies no row, so it makes no key.
// Roots are looked up in the catalog, since functions answer as of now and not as of the snapshot.
const TABLES: &str = "
WITH RECURSIVE up (leaf, root, level) AS (
    SELECT i.inhrelid, i.inhparent, 1 FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition
    UNION ALL SELECT up.leaf, i.inhparent, up.level + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.root
), above (leaf, roots) AS (SELECT leaf, array_agg(root ORDER BY level) FROM up GROUP BY leaf)
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relpersistence = 'p', c.relreplident::text,
       coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false), c.reltuples,
       coalesce(above.roots, '{}'::oid[]),
       coalesce(k.primary_key, false), coalesce(k.columns, '{}'::text[]),
       a.attname::text, a.atttypid, a.atttypmod,
       a.attnotnull OR (SELECT t.typtype = 'd' AND t.typnotnull FROM pg_type t WHERE t.oid = a.atttypid), CASE a.attgenerated WHEN '' THEN pg_get_expr(d.adbin, 0) END,
       format_type(a.atttypid, a.atttypmod), a.attgenerated::text,
       array(SELECT ia.attname::text FROM pg_index i JOIN pg_attribute ia ON ia.attrelid = c.oid AND ia.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
             WHERE i.indrelid = c.oid AND i.indisreplident),
       a.attcollation,
       row_security_active(c.oid), n.oid
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN above ON above.leaf = c.oid
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
WHERE ($1::oid IS NULL OR c.oid = $1) AND ";

/// SQL for whether the relation `c` of the namespace `n` is a table that has a definition: all but those of the server and temporary ones.
pub(crate) const IS_TABLE: &str = "c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
     AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp\\_%'";

impl TableDefinition {
    /// All tables of the database, or the one with this oid.
    pub(crate) async fn load(sql: &SqlConnection, oid: Option<u32>) -> Result<Vec<Self>> {
        let query = format!("{TABLES}{IS_TABLE} ORDER BY n.nspname, c.relname, a.attnum");
        let rows = sql.query(&query, &[&oid]).await.map_err(|error| sql_error("read the definitions of the tables", error))?;
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

    /// Which rows of the partitioned tables that it is a part of are its own, as SQL.
    pub(crate) fn condition_of_part(&self) -> String {
        let name = quote_text(&self.quoted());
        if self.partitioned {
            format!("tableoid IN (SELECT relid FROM pg_partition_tree({name}))")
        } else {
            format!("tableoid = {name}::regclass")
        }
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
            schema_oid: row.get(21),
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
    /// The membership that holds a filter of its rows, by its oid; another filter has another one
    pub(crate) filtered_by: Option<u32>,
}

/// What a publication names itself: tables and schemas by their oids, and operations. Roots and schemas stand for further tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Each with the oid of its membership, which is another one once a table was taken out and added again
    pub(crate) tables: BTreeMap<u32, u32>,
    /// Each with the oid of its membership, as tables
    pub(crate) schemas: BTreeMap<u32, u32>,
    /// Whether rows of leaves are published under the names of their roots
    pub(crate) by_root: bool,
    pub(crate) operations: Vec<Operation>,
}

/// The operations of publications, each with its name in the parameter `publish`.
pub(crate) const OPERATIONS: [(Operation, &str); 4] =
    [(Operation::Create, "insert"), (Operation::Update, "update"), (Operation::Delete, "delete"), (Operation::Truncate, "truncate")];

impl Named {
    /// What the publication called `name` names, if there is one.
    pub(crate) async fn load(sql: &SqlConnection, facts: &ServerFacts, name: &str) -> Result<Option<Self>> {
        let query = format!("SELECT {} FROM pg_publication p WHERE p.pubname = $1", Self::columns(facts.version));
        let row = sql.query_opt(&query, &[&name]).await;
        let row = row.map_err(|error| sql_error(format!("see what the publication {name} names"), error))?;
        Ok(row.as_ref().map(Self::of_row))
    }

    /// What [`Named::of_row`] takes, of the publication `p`.
    fn columns(server_version: u32) -> String {
        format!(
            "array(SELECT prrelid FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY oid),
             array(SELECT oid FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY oid),
             array(SELECT pnnspid FROM {schemas} AS n WHERE pnpubid = p.oid ORDER BY oid),
             array(SELECT oid FROM {schemas} AS n WHERE pnpubid = p.oid ORDER BY oid),
             p.pubviaroot, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate",
            schemas = schemas(server_version)
        )
    }

    fn of_row(row: &Row) -> Self {
        let memberships = |named, membership| {
            let (named, memberships): (Vec<u32>, Vec<u32>) = (row.get(named), row.get(membership));
            named.into_iter().zip(memberships).collect()
        };
        let published = OPERATIONS.iter().zip(5..).filter(|(_, column)| row.get(*column));
        Self {
            tables: memberships(0, 1),
            schemas: memberships(2, 3),
            by_root: row.get(4),
            operations: published.map(|((operation, _), _)| *operation).collect(),
        }
    }
}

/// The catalog of the schemas of publications, which PostgreSQL 14 has not.
fn schemas(server_version: u32) -> &'static str {
    if server_version >= 150_000 {
        "pg_publication_namespace"
    } else {
        "(SELECT 0::oid AS oid, 0::oid AS pnpubid, 0::oid AS pnnspid WHERE false)"
    }
}

/// SQL for the tables that the publication `p` publishes, each under its own name, as pgoutput has it: roots and leaves resolved. They come
/// as the snapshot of the statement has them, whereas the server's view opens each table, waits for whoever has locked one (I10), and
/// shows the newest filters.
fn published_tables(server_version: u32) -> String {
    let schemas = schemas(server_version);
    let (listed, filter) = if server_version >= 150_000 { ("r.prattrs", "r.prqual") } else { ("NULL::int2vector", "NULL::text") };
    // Where the whole schema is published, lists and filters are void.
    format!(
        "SELECT c.oid, CASE WHEN {listed} IS NOT NULL THEN
                           array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum = ANY ({listed}) ORDER BY attnum) END AS columns,
                CASE WHEN {filter} IS NOT NULL THEN r.oid END AS filtered_by
         FROM pg_class c
              LEFT JOIN {schemas} s ON s.pnpubid = p.oid AND s.pnnspid = c.relnamespace
              LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid AND s.oid IS NULL
              CROSS JOIN LATERAL (
                  SELECT r.oid IS NOT NULL OR (p.puballtables OR s.oid IS NOT NULL) AND c.relpersistence = 'p' AND c.oid >= {FIRST_OID_OF_USERS}
              ) AS own (is_named)
              CROSS JOIN LATERAL (
                  SELECT c.relispartition AND NOT p.puballtables AND EXISTS (
                      WITH RECURSIVE up (relid) AS (
                          SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid
                          UNION ALL SELECT inhparent FROM up JOIN pg_inherits ON inhrelid = relid)
                      SELECT FROM up JOIN pg_class root ON root.oid = relid
                      WHERE EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = p.oid AND prrelid = relid)
                            OR EXISTS (SELECT FROM {schemas} n WHERE n.pnpubid = p.oid AND n.pnnspid = root.relnamespace))
              ) AS above (is_named)
         WHERE c.relkind IN ('r', 'p')
           AND CASE WHEN p.pubviaroot THEN own.is_named AND NOT (above.is_named OR p.puballtables AND c.relispartition)
                    ELSE c.relkind = 'r' AND (own.is_named OR above.is_named) END"
    )
}

impl PublishedTable {
    /// How the publication publishes the table under its own name, if it does, as the snapshot of the session's transaction sees it, and
    /// whether stored generated columns are published.
    pub(crate) async fn load(sql: &SqlConnection, server_version: u32, publication: &str, oid: u32) -> Result<Option<(Self, bool)>> {
        let query = format!(
            "SELECT t.oid, t.columns, t.filtered_by, {GENERATED} FROM pg_publication p, LATERAL ({}) t WHERE p.pubname = $1 AND t.oid = $2",
            published_tables(server_version)
        );
        let row = sql.query_opt(&query, &[&publication, &oid]).await;
        let row = row.map_err(|error| sql_error(format!("see how the publication {publication} publishes a table"), error))?;
        Ok(row.map(|row| (Self { oid: row.get(0), columns: row.get(1), filtered_by: row.get(2) }, row.get(3))))
    }

    /// The filter of its rows as SQL, as the snapshot of the session's transaction sees it. That has locked the table: the server does so
    /// to write the names of its columns.
    ///
    /// # Errors
    /// `Restarting` where the snapshot sees another publication.
    pub(crate) async fn row_filter(&self, sql: &SqlConnection) -> Result<Option<String>> {
        let Some(membership) = self.filtered_by else { return Ok(None) };
        let doing = "read the row filter of a table";
        let query = "SELECT pg_get_expr(prqual, prrelid) FROM pg_publication_rel WHERE oid = $1 AND prqual IS NOT NULL";
        let row = sql.query_opt(query, &[&membership]).await.map_err(|error| sql_error(doing, error))?;
        let changed = || Error::new(ErrorKind::Restarting, doing).because("somebody changed the publication just now");
        row.ok_or_else(changed).map(|row| row.get(0))
    }
}

/// SQL for whether stored generated columns are published. Older servers do not have the column, which is null this way.
const GENERATED: &str = "coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false)";

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
    /// The publication called `name`, if there is one. One statement, so that what it names and what it publishes belong together: a table
    /// that was named between two of them would look as if it had been published from its birth (I11).
    pub(crate) async fn load(sql: &SqlConnection, facts: &ServerFacts, name: &str) -> Result<Option<Self>> {
        let doing = || format!("read the publication {name}");
        let query = format!(
            "SELECT {}, p.puballtables, {GENERATED}, 
                    (SELECT coalesce(json_agg(json_build_array(t.oid::int8, t.columns, t.filtered_by::int8)), '[]')::text FROM ({}) t)
             FROM pg_publication p WHERE p.pubname = $1",
            Named::columns(facts.version),
            published_tables(facts.version)
        );
        let Some(row) = sql.query_opt(&query, &[&name]).await.map_err(|error| sql_error(doing(), error))? else {
            return Ok(None);
        };
        let tables: Vec<(u32, Option<Vec<String>>, Option<u32>)> =
            serde_json::from_str(row.get(11)).map_err(|error| Error::new(ErrorKind::Unreadable, doing()).because(error))?;
        let table = |(oid, columns, filtered_by)| PublishedTable { oid, columns, filtered_by };
        let tables = tables.into_iter().map(table).collect();
        Ok(Some(Self { all_tables: row.get(9), generated: row.get(10), named: Named::of_row(&row), tables }))
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
    // The cast of char(n) leaves its blanks out.
    if type_oid < FIRST_OID_OF_USERS && type_oid != Type::BPCHAR.oid() {
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
    use tailwater_api::config::{ConfigValues, read_config};
    use tailwater_testkit::{PostgresServer, Version, required_or_skip};

    use super::*;
    use crate::config::PostgresConfig;

    #[test]
    fn identifiers_and_texts_are_quoted() {
        assert_eq!(quote_identifier("a\"b.c"), "\"a\"\"b.c\"");
        assert_eq!(quote_text("it's"), "'it''s'");
        assert_eq!(quote_text("a\\'"), "E'a\\\\'''");
    }

    /// A root in one schema with a root and a leaf below it in others, and tables of each kind that is not published with all.
    const TABLES_OF_EACH_KIND: &str = "
        CREATE SCHEMA b; CREATE SCHEMA c;
        CREATE TABLE plain (id int PRIMARY KEY, gone text, v text, w text); ALTER TABLE plain DROP COLUMN gone; CREATE UNLOGGED TABLE unlogged (id int);
        CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE b.middle PARTITION OF root FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
        CREATE TABLE c.leaf PARTITION OF b.middle FOR VALUES FROM (0) TO (5); CREATE TABLE b.leaf PARTITION OF root FOR VALUES FROM (10) TO (20);
        CREATE TABLE b.plain (id int PRIMARY KEY); CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
        CREATE VIEW seen AS SELECT * FROM plain; CREATE MATERIALIZED VIEW kept AS SELECT * FROM plain;
        CREATE TABLE computed (id int PRIMARY KEY, w int GENERATED ALWAYS AS (id * 2) STORED);";

    /// What publications hold of them, from PostgreSQL 15 on.
    const HELD: [&str; 13] = [
        "",
        "FOR ALL TABLES",
        "FOR TABLE plain, root",
        "FOR TABLE b.middle, c.leaf, parent",
        "FOR TABLE root, b.middle, c.leaf",
        "FOR TABLE plain (id), computed",
        "FOR TABLE plain (v, id) WHERE (id > 1)",
        "FOR TABLE root (id) WHERE (id > 1), c.leaf WHERE (id > 2)",
        "FOR TABLES IN SCHEMA public",
        "FOR TABLES IN SCHEMA b, c",
        "FOR TABLES IN SCHEMA c, TABLE plain WHERE (id > 1), root",
        "FOR TABLES IN SCHEMA b, TABLE b.plain WHERE (id > 1), b.middle",
        "FOR TABLES IN SCHEMA b, public",
    ];

    fn config_of(server: &PostgresServer) -> PostgresConfig {
        let port = server.port().to_string();
        let values: ConfigValues = [
            ("topic.prefix", "shop"),
            ("database.hostname", "127.0.0.1"),
            ("database.port", &*port),
            ("database.user", "postgres"),
            ("database.dbname", "postgres"),
            ("slot.name", "s"),
        ]
        .into_iter()
        .collect();
        let Ok((config, _)) = read_config(&values) else { panic!("faults") };
        config
    }

    #[tokio::test]
    async fn what_is_published_is_what_the_view_of_the_server_shows() {
        for version in [Version::V15, Version::V17, Version::V18] {
            let Some(server) = required_or_skip(PostgresServer::start(version, &[]).await) else { return };
            let sql = SqlConnection::connect(&config_of(&server)).await.expect("it connects");
            sql.batch_execute(TABLES_OF_EACH_KIND).await.expect("the tables are made");
            let facts = ServerFacts::load(&sql).await.expect("the facts are there");
            let oldest = ServerFacts { version: 140_000, ..facts.clone() };
            let mut options = vec!["publish_via_partition_root = false", "publish_via_partition_root = true"];
            options.extend((version == Version::V18).then_some("publish_generated_columns = stored"));
            for (held, options) in HELD.iter().flat_map(|held| options.iter().map(move |options| (held, options))) {
                let what = format!("{version:?} {held} {options}");
                let made = sql.batch_execute(&format!("CREATE PUBLICATION shop {held} WITH ({options})")).await;
                if made.is_err() && held.contains("root (id)") {
                    continue;
                }
                made.expect(&what);
                // Where there is no list the view shows all columns, since PostgreSQL 16 without generated ones that are not published.
                let shown = "SELECT c.oid, CASE WHEN t.attnames::text[] = array(
                                        SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                                           AND (attgenerated = '' OR current_setting('server_version_num')::int4 < 160000 OR to_jsonb(p) ->> 'pubgencols' = 's') ORDER BY attnum)
                                    THEN NULL ELSE t.attnames::text[] END, t.rowfilter
                             FROM pg_publication_tables t JOIN pg_publication p USING (pubname)
                                  JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                             WHERE t.pubname = 'shop' ORDER BY c.oid";
                let shown = sql.query(shown, &[]).await.expect("the view is read");
                let shown: Vec<(u32, Option<Vec<String>>, Option<String>)> =
                    shown.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
                let publication = Publication::load(&sql, &facts, "shop").await.expect("it is read").expect("it is there");
                let mut published = Vec::new();
                for table in &publication.tables {
                    let filter = table.row_filter(&sql).await.expect("the filter is read");
                    published.push((table.oid, table.columns.clone(), filter));
                    let one = PublishedTable::load(&sql, facts.version, "shop", table.oid).await.expect("it is read");
                    assert_eq!(one, Some((table.clone(), publication.generated)), "{what}");
                }
                published.sort();
                assert_eq!(published, shown, "{what}");
                if !held.contains("SCHEMA") && !held.contains('(') {
                    let older = Publication::load(&sql, &oldest, "shop").await.expect("it is read").expect("it is there");
                    assert_eq!(older, publication, "{what}");
                }
                sql.batch_execute("DROP PUBLICATION shop").await.expect("it is dropped");
            }
        }
    }
}
