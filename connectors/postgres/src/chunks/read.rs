//! One read of a chunk, on a session of its own beside the log.
//!
//! It is `BEGIN REPEATABLE READ; LOCK TABLE … IN ACCESS SHARE MODE;` and only then the first statement that takes a snapshot: DDL
//! that rewrites a table is not MVCC-safe, and an older snapshot would see no rows. The definition is read in the same snapshot, so
//! each chunk has the shape that its rows have.
//!
//! The greatest key is looked up with the first chunk. Rows that come later, or that this read could not see, are of
//! transactions that the log tells of, so a table that grows at its end has one, too.
//!
//! A column that stands for the key may have several rows to a value, where the table has a key, too: a chunk never ends between
//! them. Without a key the column has to tell the rows apart, and the read fails where it does not: what was counted as read would
//! not be what was written.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{StreamExt, pin_mut};
use tailwater_api::{Error, ErrorKind, Result, Scope, Value};
use tailwater_kit::envelope::Change;
use tokio_postgres::error::SqlState;

use super::{is_told_by_key, keys};
use crate::catalog::{Publication, TableDefinition, quote_identifier, quote_text};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession, sql_error};
use crate::copy::{CopyRow, CopyRows};
use crate::data_types::Format;
use crate::lsn::Lsn;
use crate::plans::Compiler;
use crate::position::{KeyRange, ReadingTable};
use crate::relation::{Shape, TablePlan};
use crate::snapshot::copy_format;
use crate::visibility::{Sight, replayed, sight};

/// What a chunk's rows may weigh (I6). Their number adapts to it.
pub(super) const CHUNK: usize = 512 << 10;
/// Longest wait for the lock of a table: who waits for a stronger one has to go first.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// Types with smaller oids are the server's own, whose operators it always finds (`FirstNormalObjectId` of PostgreSQL's transam.h).
const FIRST_OID_OF_USERS: u32 = 16_384;
const DOING: &str = "read a chunk of the table";

/// What is to be read.
pub(super) struct ChunkRead {
    pub(super) config: Arc<PostgresConfig>,
    pub(super) publication: Arc<Option<Publication>>,
    pub(super) compiler: Compiler,
    pub(super) table: ReadingTable,
    /// Most rows
    pub(super) rows: usize,
}

/// What came of it.
pub(super) enum Outcome {
    Chunk(Box<Chunk>),
    /// Somebody holds the table, or waits for it.
    Contended,
    /// The table cannot be read in chunks.
    Unfit {
        status: &'static str,
        why: String,
    },
}

/// The rows of one chunk.
pub(super) struct Chunk {
    pub(super) sight: Sight,
    /// The place that the log has to pass
    pub(super) passed: Lsn,
    pub(super) plan: TablePlan,
    pub(super) rows: Vec<(Vec<u8>, Change)>,
    pub(super) weight: usize,
    /// What they took on their way
    pub(super) octets: usize,
    /// Rows of the table by the server's estimate
    pub(super) estimated: Option<u64>,
    /// What is read behind these rows; `None` in an empty table
    pub(super) range: Option<KeyRange>,
    pub(super) is_last: bool,
}

/// How the rows of a table are ordered and told apart.
struct Order<'a> {
    columns: Vec<&'a str>,
    /// The types as which they are compared
    types: Vec<String>,
    /// The columns with their types: keys of others cannot be compared with theirs
    described: Vec<String>,
    /// The place of the column that tells rows apart which have no key
    column_place: Option<usize>,
    /// Whether a value of the columns may have several rows
    has_ties: bool,
    /// Whether a row may have none
    may_be_null: bool,
}

impl ChunkRead {
    /// Reads. The session's transaction is over when it returns without an error.
    pub(super) async fn run(&mut self, session: &mut SqlSession) -> Result<Outcome> {
        let table = self.table.name.clone();
        let failed = |error: tokio_postgres::Error| sql_error(DOING, error).scoped(Scope::Table(table.clone()));
        let sql = session.get().await?;
        let replayed = replayed(sql).await?;
        let query = "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1";
        let Some(found) = sql.query_opt(query, &[&self.table.oid]).await.map_err(&failed)? else { return Ok(gone()) };
        let quoted: String = found.get(0);
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {}; \
             LOCK TABLE {quoted} IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0",
            LOCK_WAIT.as_millis(),
        );
        let outcome = match sql.batch_execute(&begin).await {
            Ok(()) => match self.locked(session, replayed).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    // The error of the read counts, not that of its end.
                    let _ = session.get().await?.batch_execute("ROLLBACK").await;
                    // A standby ends reads that stand in the way of what it replays.
                    return if error.kind() == ErrorKind::Conflict { Ok(Outcome::Contended) } else { Err(error) };
                }
            },
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Outcome::Contended,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => gone(),
            Err(error) => {
                let _ = sql.batch_execute("ROLLBACK").await;
                return Err(failed(error));
            }
        };
        session.get().await?.batch_execute("ROLLBACK").await.map_err(&failed)?;
        Ok(outcome)
    }

    async fn locked(&mut self, session: &mut SqlSession, replayed: Option<Lsn>) -> Result<Outcome> {
        let name = self.table.name.clone();
        let scoped = |error: Error| error.scoped(Scope::Table(name.clone()));
        let failed = |error: tokio_postgres::Error| scoped(sql_error(DOING, error));
        let sql = session.get().await?;
        // The first statement that takes a snapshot, behind the lock.
        let found = TableDefinition::load(sql, Some(self.table.oid)).await?.into_iter().next();
        let Some(table) = found.filter(|found| found.full_name() == name) else { return Ok(gone()) };
        let (sight, passed) = sight(sql, replayed).await?;
        let published = self.publication.as_ref().as_ref().and_then(|publication| publication.table(&table));
        let generated = self.publication.as_ref().as_ref().is_some_and(|publication| publication.generated);
        let shape = Shape::of_definition(&table, published.and_then(|published| published.columns.as_deref()), generated);
        let plan = self.compiler.compile(session, &table, shape).await.map_err(scoped)?;
        let mut order = match self.order(&table, &plan) {
            Ok(order) => order,
            Err((status, why)) => return Ok(Outcome::Unfit { status, why }),
        };
        let request = self.table.request.as_ref();
        let filters =
            [published.and_then(|published| published.row_filter.as_deref()), request.and_then(|request| request.condition.as_deref())];
        // A line break, since a condition may end in a comment.
        let filters: Vec<String> = filters.into_iter().flatten().map(|filter| format!("({filter}\n)")).collect();
        let sql = session.get().await?;
        find_operators(sql, &table, &mut order).await.map_err(failed)?;
        // I9: behind a change of the key the table is read anew.
        let stored = self.table.range.as_ref().filter(|range| range.columns == order.described);
        let until = match stored {
            Some(range) => Some(range.until.clone()),
            None => {
                if order.may_be_null {
                    refuse_nulls(sql, &table, &order, &filters).await.map_err(scoped)?;
                }
                greatest_key(sql, &table, &order, &filters).await.map_err(failed)?
            }
        };
        // The server writes -1 where it has never counted.
        let estimated = (table.rows >= 0.0).then_some(table.rows as u64);
        let Some(until) = until else {
            let (rows, range) = (Vec::new(), None);
            return Ok(Outcome::Chunk(Box::new(Chunk {
                sight,
                passed,
                plan,
                rows,
                weight: 0,
                octets: 0,
                estimated,
                range,
                is_last: true,
            })));
        };
        let after = stored.map(|range| range.after.clone());
        let query = select(&table, &plan, &order, after.as_deref(), &until, &filters, self.rows);
        let fetched = fetch(sql, &query, &plan, &order).await.map_err(scoped)?;
        let is_last = !fetched.is_cut && (fetched.rows.len() < self.rows || fetched.last_key.as_ref() == Some(&until));
        let after = fetched.last_key.or(after);
        let range = after.map(|after| KeyRange { columns: order.described, after, until });
        let Fetched { rows, weight, octets, .. } = fetched;
        Ok(Outcome::Chunk(Box::new(Chunk { sight, passed, plan, rows, weight, octets, estimated, range, is_last })))
    }

    /// How the table's rows are ordered, or why they cannot be read so.
    fn order<'a>(&'a self, table: &'a TableDefinition, plan: &TablePlan) -> Result<Order<'a>, (&'static str, String)> {
        let Some(surrogate) = self.table.request.as_ref().and_then(|request| request.surrogate.as_deref()) else {
            if table.key.is_empty() {
                let why = "it has no key; name a column with surrogate-key, or take a blocking snapshot".to_owned();
                return Err(("NO_PRIMARY_KEY", why));
            }
            is_told_by_key(&self.config, table).map_err(|why| ("SKIPPED", why))?;
            let columns: Vec<_> = table.key.iter().map(String::as_str).collect();
            let (types, described) = (types(table, &columns), described(table, &columns));
            return Ok(Order { columns, types, described, column_place: None, has_ties: false, may_be_null: false });
        };
        let Some(column) = table.columns.iter().find(|column| column.name == surrogate) else {
            return Err(("SKIPPED", format!("it has no column {surrogate}, which the signal names as surrogate-key")));
        };
        let column_place = if table.key.is_empty() {
            let missing = || format!("its records have no column {surrogate}, or not the value that the table has, to tell rows apart by");
            Some(plan.place(surrogate).ok_or_else(|| ("SKIPPED", missing()))?)
        } else {
            is_told_by_key(&self.config, table).map_err(|why| ("SKIPPED", why))?;
            None
        };
        let columns = vec![surrogate];
        let (types, described) = (types(table, &columns), described(table, &columns));
        Ok(Order { columns, types, described, column_place, has_ties: true, may_be_null: !column.not_null })
    }
}

/// The types of columns as SQL writes them.
fn types(table: &TableDefinition, columns: &[&str]) -> Vec<String> {
    let of = |name: &&str| table.columns.iter().find(|column| column.name == *name).map(|column| column.type_name.clone());
    columns.iter().filter_map(of).collect()
}

/// Names and types of columns.
fn described(table: &TableDefinition, columns: &[&str]) -> Vec<String> {
    let column = |name: &&str| table.columns.iter().find(|column| column.name == *name);
    columns.iter().map(|name| format!("{name} {}", column(name).map_or(0, |column| column.type_oid))).collect()
}

fn gone() -> Outcome {
    Outcome::Unfit { status: "UNKNOWN_SCHEMA", why: "it is gone, or another table has its name".to_owned() }
}

struct Fetched {
    rows: Vec<(Vec<u8>, Change)>,
    /// Texts of the last row's key
    last_key: Option<Vec<String>>,
    weight: usize,
    octets: usize,
    /// More rows were asked for than a chunk holds.
    is_cut: bool,
}

/// Runs the COPY. The rows are ordered by the key, so that as many as a chunk holds are a chunk.
async fn fetch(sql: &SqlConnection, query: &str, plan: &TablePlan, order: &Order<'_>) -> Result<Fetched> {
    let columns: Vec<usize> = (0..plan.shape.columns.len()).filter(|&index| plan.codec(index).is_some()).collect();
    let formats: Vec<Format> = columns.iter().filter_map(|&index| plan.codec(index)).map(copy_format).collect();
    let key_columns = order.columns.len();
    let mut fetched = Fetched { rows: Vec::new(), last_key: None, weight: 0, octets: 0, is_cut: false };
    let mut reader = CopyRows::default();
    let mut arena = BytesMut::new();
    let pieces = sql.copy_out(query).await.map_err(|error| sql_error(DOING, error))?;
    pin_mut!(pieces);
    while let Some(piece) = pieces.next().await {
        reader.push(piece.map_err(|error| sql_error(DOING, error))?);
        while let Some(row) = reader.next_row(columns.len() + key_columns)? {
            let mut fields = CopyRow::new(&row);
            let mut formats = formats.iter();
            let change = plan.read(|_, codec| match (fields.next_field(), formats.next()) {
                (Some(field), Some(format)) => codec.decode(*format, &field, &mut arena),
                (Some(_) | None, _) => Ok(Value::Null),
            })?;
            let texts: Option<Vec<String>> =
                (0..key_columns).map(|_| fields.next_field().and_then(|text| String::from_utf8(text.to_vec()).ok())).collect();
            let Change::Read { key, after } = &change else { return Err(keyless()) };
            let octets = match order.column_place {
                Some(place) => keys::of_column(after, place),
                None => keys::of_key(key),
            };
            let (Some(texts), Some(octets)) = (texts, octets) else { return Err(keyless()) };
            let is_tied = fetched.last_key.as_ref() == Some(&texts);
            if is_tied && order.column_place.is_some() {
                return Err(Error::new(ErrorKind::Unsupported, DOING)
                    .because(format!("several rows have the value {} in {}, and no key", texts.join(","), order.columns.join(",")))
                    .mend("name a column with surrogate-key that tells rows apart, or take a blocking snapshot"));
            }
            if fetched.weight > CHUNK && !is_tied {
                fetched.is_cut = true;
                return Ok(fetched);
            }
            fetched.weight += octets.len() + key.weight() + after.weight();
            fetched.octets += row.len();
            fetched.last_key = Some(texts);
            fetched.rows.push((octets, change));
        }
    }
    if !reader.has_ended() {
        return Err(Error::new(ErrorKind::Unreadable, DOING).because("the COPY ended without its trailer"));
    }
    Ok(fetched)
}

fn keyless() -> Error {
    Error::new(ErrorKind::Unreadable, DOING).because("a row has no key")
}

/// Makes sure that the server compares keys as ORDER BY orders them (I9), until the transaction ends. It looks for the operators
/// of a comparison on the search path, and takes another type's where it finds none, such as those of text for citext; and it
/// finds none for a domain over an enum.
async fn find_operators(sql: &SqlConnection, table: &TableDefinition, order: &mut Order<'_>) -> Result<(), tokio_postgres::Error> {
    let oid = |name: &str| table.columns.iter().find(|column| column.name == name).map_or(0, |column| column.type_oid);
    let types: Vec<u32> = order.columns.iter().map(|name| oid(name)).collect();
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
async fn refuse_nulls(sql: &SqlConnection, table: &TableDefinition, order: &Order<'_>, filters: &[String]) -> Result<()> {
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
async fn greatest_key(
    sql: &SqlConnection,
    table: &TableDefinition,
    order: &Order<'_>,
    filters: &[String],
) -> Result<Option<Vec<String>>, tokio_postgres::Error> {
    let texts = order.columns.iter().map(|column| format!("{}::text", qualified(column))).collect::<Vec<_>>().join(", ");
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
fn select(
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
            Format::Text => format!("{quoted}::text"),
            Format::Binary => quoted,
        })
    });
    let keys: Vec<String> = order.columns.iter().map(|column| qualified(column)).collect();
    let selected: Vec<String> = columns.chain(keys.iter().map(|key| format!("{key}::text"))).collect();
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
