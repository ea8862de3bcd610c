//! The statements that read a table in the order of its key, and what that order is. The database compares keys (I9).
//!
//! Columns that stand for the key may have several rows to a value, where the table has a key, too: a chunk never ends between
//! them. Without a key the columns have to tell the rows apart.

use tailwater_api::{Error, ErrorKind, Result};

use super::readable::is_told_by_key;
use crate::catalog::{FIRST_OID_OF_USERS, TableDefinition, as_text, quote_identifier, quote_text};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, sql_error};
use crate::data_types::Format;
use crate::relation::TablePlan;
use crate::snapshot::copy_format;

use super::read::DOING;

/// How the rows of a table are ordered and told apart.
pub(super) struct Order<'a> {
    pub(super) columns: Vec<&'a str>,
    /// The types as which they are compared
    types: Vec<String>,
    /// The columns with their types and collations: keys of others cannot be compared with theirs. What else makes a range of keys
    /// another one stands behind them.
    pub(super) described: Vec<String>,
    /// Whether a value of the columns may have several rows
    pub(super) has_ties: bool,
    /// Whether nothing else tells rows apart
    pub(super) is_all_that_tells_apart: bool,
    /// Whether a row may have none
    pub(super) may_be_null: bool,
}

/// Why a table cannot be read in chunks.
#[derive(Debug)]
pub(super) struct Unfit {
    /// In the words of notifications
    pub(super) status: &'static str,
    pub(super) why: String,
}

impl<'a> Order<'a> {
    /// The order in which the table is read: by the column that a signal names, by its key, or by the columns that the configuration
    /// names as key of its records. Debezium reads by the latter where there are both; the key is unique and has an index.
    pub(super) fn of(
        config: &PostgresConfig,
        table: &'a TableDefinition,
        plan: &'a TablePlan,
        surrogate: Option<&'a str>,
    ) -> Result<Self, Unfit> {
        let skipped = |why| Unfit { status: "SKIPPED", why };
        let columns: Vec<&str> = match surrogate {
            Some(name) => vec![name],
            None if table.key.is_empty() => plan.key_columns().iter().map(|&column| plan.shape.columns[column].name.as_str()).collect(),
            None => table.key.iter().map(String::as_str).collect(),
        };
        if columns.is_empty() {
            let why = "it has no key; name a column with surrogate-key, or take a blocking snapshot".to_owned();
            return Err(Unfit { status: "NO_PRIMARY_KEY", why });
        }
        let Some(definitions) =
            columns.iter().map(|name| table.columns.iter().find(|column| column.name == *name)).collect::<Option<Vec<_>>>()
        else {
            return Err(skipped(format!("it has no column {}, which the signal names as surrogate-key", columns.join(","))));
        };
        is_told_by_key(config, table).map_err(skipped)?;
        Ok(Self {
            types: definitions.iter().map(|column| column.type_name.clone()).collect(),
            described: definitions.iter().map(|column| format!("{} {} {}", column.name, column.type_oid, column.collation)).collect(),
            has_ties: surrogate.is_some() || table.key.is_empty(),
            is_all_that_tells_apart: table.key.is_empty(),
            may_be_null: definitions.iter().any(|column| !column.not_null),
            columns,
        })
    }
}

fn type_oid(table: &TableDefinition, column: &str) -> u32 {
    table.columns.iter().find(|known| known.name == column).map_or(0, |known| known.type_oid)
}

/// The key's columns as text.
fn texts_of_key<'a>(table: &'a TableDefinition, order: &'a Order<'_>) -> impl Iterator<Item = String> + 'a {
    order.columns.iter().map(|column| as_text(&qualified(column), type_oid(table, column)))
}

/// Makes sure that the server compares keys as ORDER BY orders them (I9), until the transaction ends. It looks for the operators
/// of a comparison on the search path, and takes another type's where it finds none, such as those of text for citext; and it
/// finds none for a domain over an enum.
pub(super) async fn find_operators(
    sql: &SqlConnection,
    table: &TableDefinition,
    order: &mut Order<'_>,
) -> Result<(), tokio_postgres::Error> {
    let types: Vec<u32> = order.columns.iter().map(|name| type_oid(table, name)).collect();
    if types.iter().all(|&oid| oid < FIRST_OID_OF_USERS) {
        return Ok(());
    }
    let query = "WITH RECURSIVE base AS (
                     SELECT place, t.oid, typbasetype, typnamespace FROM unnest($1::oid[]) WITH ORDINALITY AS k (oid, place) JOIN pg_type t USING (oid)
                     UNION ALL SELECT place, t.oid, t.typbasetype, t.typnamespace FROM base JOIN pg_type t ON t.oid = base.typbasetype)
                 SELECT format_type(oid, -1), typnamespace::regnamespace::text FROM base WHERE typbasetype = 0 ORDER BY place";
    let rows = sql.query(query, &[&types]).await?;
    order.types = rows.iter().map(|row| row.get(0)).collect();
    let schemas: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
    let extend = "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), $1::text), true)";
    sql.query_one(extend, &[&schemas.join(", ")]).await.map(drop)
}

/// Rows without a value in the column that the chunks are ordered by would never be read.
pub(super) async fn refuse_nulls(sql: &SqlConnection, table: &TableDefinition, order: &Order<'_>, filters: &[String]) -> Result<()> {
    let nulls = order.columns.iter().map(|column| format!("{} IS NULL", qualified(column))).collect::<Vec<_>>().join(" OR ");
    let conditions = [&[format!("({nulls})")], filters].concat().join(" AND ");
    let query = format!("SELECT EXISTS (SELECT FROM {} WHERE {conditions})", source(table));
    let row = sql.query_one(&query, &[]).await.map_err(|error| sql_error(DOING, error))?;
    if row.get(0) {
        return Err(Error::new(ErrorKind::Unsupported, DOING)
            .because(format!("a row has no value in {}", order.columns.join(",")))
            .mend("name a column with surrogate-key that is not null, or take a blocking snapshot"));
    }
    Ok(())
}

/// Texts of the greatest key; `None` where there is no row.
pub(super) async fn greatest_key(
    sql: &SqlConnection,
    table: &TableDefinition,
    order: &Order<'_>,
    filters: &[String],
) -> Result<Option<Vec<String>>, tokio_postgres::Error> {
    let texts = texts_of_key(table, order).collect::<Vec<_>>().join(", ");
    let descending = order.columns.iter().map(|column| format!("{} DESC", qualified(column))).collect::<Vec<_>>().join(", ");
    let filter = if filters.is_empty() { String::new() } else { format!("WHERE {}", filters.join(" AND ")) };
    let row = sql.query_opt(&format!("SELECT {texts} FROM {} {filter} ORDER BY {descending} LIMIT 1", source(table)), &[]).await?;
    Ok(row.map(|row| (0..order.columns.len()).map(|index| row.get(index)).collect()))
}

/// Rows of inheriting tables are those tables' own.
fn source(table: &TableDefinition) -> String {
    if table.partitioned { format!("{} AS chunk", table.quoted()) } else { format!("ONLY {} AS chunk", table.quoted()) }
}

/// A column of the table, not of what is selected: that is text, which has another order.
fn qualified(column: &str) -> String {
    format!("chunk.{}", quote_identifier(column))
}

/// The COPY of at most `rows` rows behind `after` and up to `until`: the captured columns, then the key as text. The
/// database compares keys (I9).
pub(super) fn select(
    table: &TableDefinition,
    plan: &TablePlan,
    order: &Order<'_>,
    after: Option<&[String]>,
    until: &[String],
    filters: &[String],
    rows: usize,
) -> String {
    let columns = plan.shape.columns.iter().enumerate().filter_map(|(index, column)| {
        let quoted = qualified(&column.name);
        Some(match copy_format(plan.codec(index)?) {
            Format::Text => as_text(&quoted, column.type_oid),
            Format::Binary => quoted,
        })
    });
    let keys: Vec<String> = order.columns.iter().map(|column| qualified(column)).collect();
    let selected: Vec<String> = columns.chain(texts_of_key(table, order)).collect();
    let literal = |texts: &[String]| {
        let literals = texts.iter().zip(&order.types).map(|(text, of)| format!("{}::{of}", quote_text(text)));
        literals.collect::<Vec<_>>().join(", ")
    };
    let compared = keys.iter().zip(&order.types).map(|(key, of)| format!("{key}::{of}")).collect::<Vec<_>>().join(", ");
    let key = keys.join(", ");
    let mut conditions = vec![format!("ROW({compared}) <= ROW({})", literal(until))];
    conditions.extend(after.map(|after| format!("ROW({compared}) > ROW({})", literal(after))));
    conditions.extend_from_slice(filters);
    let limit = if order.has_ties { format!("FETCH FIRST {rows} ROWS WITH TIES") } else { format!("LIMIT {rows}") };
    format!(
        "COPY (SELECT {} FROM {} WHERE {} ORDER BY {key} {limit}) TO STDOUT (FORMAT binary)",
        selected.join(", "),
        source(table),
        conditions.join(" AND "),
    )
}
