//! Reading the rows that are there while the log is followed: the `watermark` strategy.
//!
//! A table with a key is read in chunks, in the order of its key, between two transactions of the log. The windows of the
//! kit decide which rows of a chunk are emitted; `visibility` says what a chunk's read could see. A chunk's records travel in
//! one batch with the key that they end in, so a restart goes on behind the last durable chunk (I3).
//!
//! The greatest key is looked up with the first chunk. Rows that come later, or that this read could not see, are of
//! transactions that the log tells of, so a table that grows at its end has one, too.
//!
//! A chunk's read is `BEGIN REPEATABLE READ; LOCK TABLE … IN ACCESS SHARE MODE;` and only then the first statement that takes
//! a snapshot: DDL that rewrites a table is not MVCC-safe, and an older snapshot would see no rows. Where somebody holds
//! the table or waits for it, the lock is tried again later, for the log waits meanwhile. The server is answered beside it (I4).
//!
//! The log may stand still before the place that it has to pass, because what is written is not flushed. Then a
//! transaction that changes nothing is committed, which makes the server flush; no right is needed for it.
//!
//! Keys are held against each other as they stand in records. So a table whose records have another key than its rows
//! (`message.key.columns`, masked key columns), or whose log does not tell the key, is read by the `consistent` strategy, and so
//! is a table without a key.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{StreamExt, pin_mut};
use tailwater_api::state::StateChange;
use tailwater_api::{Error, ErrorKind, Result, Scope, Value};
use tailwater_kit::envelope::Change;
use tailwater_kit::windows::{Look, Reconciled, Windows};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tracing::{info, warn};

use crate::catalog::{Publication, TableDefinition, quote_identifier, quote_text};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession, sql_error};
use crate::copy::{CopyRow, CopyRows};
use crate::data_types::Format;
use crate::event::Blocks;
use crate::lsn::Lsn;
use crate::pgoutput::ReplicaIdentity;
use crate::plans::Plans;
use crate::position::{CompletedTable, KeyRange, ReadingTable};
use crate::relation::{Shape, TablePlan};
use crate::snapshot::copy_format;
use crate::visibility::{LoggedTransaction, Sight, replayed, sight};

/// Octets of the keys that are remembered (I6).
const TOUCHED_LIMIT: usize = 4 << 20;
/// Octets of a chunk's rows as the server sends them (I6). Its rows adapt to it.
const CHUNK: usize = 512 << 10;
/// Rows of the first chunk, and of any.
const FIRST_ROWS: usize = 1024;
const MOST_ROWS: usize = 64 << 10;
/// Longest wait for the lock of a table, while the log waits, too.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How long transactions may be waited for before it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the table can be read in chunks.
pub(crate) fn is_chunked(config: &PostgresConfig, table: &TableDefinition) -> bool {
    let relational = &config.relational;
    let name = table.full_name();
    let is_told = match table.identity {
        ReplicaIdentity::Default => table.has_primary_key,
        ReplicaIdentity::Index => table.key.iter().all(|column| table.identity_columns.contains(column)),
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
    };
    config.snapshot.in_chunks
        && !table.key.is_empty()
        && is_told
        && relational.key_columns.of(&table.schema, &table.name).is_none()
        && table.key.iter().all(|column| relational.column_rules.of(&format!("{name}.{column}")).is_none())
        && !relational.snapshot_selects.iter().any(|(table, _)| table.eq_ignore_ascii_case(&name))
}

/// Reads tables in chunks, one after another.
pub(crate) struct Chunks {
    config: Arc<PostgresConfig>,
    publication: Option<Publication>,
    session: SqlSession,
    windows: Windows<Sight>,
    /// With their definitions at the start
    tables: VecDeque<(ReadingTable, TableDefinition)>,
    /// A chunk that the log has not passed yet
    chunk: Option<Chunk>,
    rows: usize,
    /// Before this nothing has to be done.
    due: Instant,
    waiting_since: Option<Instant>,
}

struct Chunk {
    read: Look,
    sight: Sight,
    passed: Lsn,
    plan: TablePlan,
    rows: Vec<(Vec<u8>, Change)>,
    /// Where the table is behind these rows; `None` where that is its end
    next: Option<KeyRange>,
}

/// Rows that stand in the log here and now, and how far their table is then.
pub(crate) struct Emission {
    /// How the rows become records; `None` where there are none
    pub(crate) plan: Option<TablePlan>,
    pub(crate) rows: Vec<Change>,
    pub(crate) state: StateChange,
}

impl Chunks {
    /// Goes on with `tables`. Tables that are gone are returned.
    pub(crate) fn new(
        config: Arc<PostgresConfig>,
        publication: Option<Publication>,
        definitions: &[TableDefinition],
        tables: Vec<ReadingTable>,
    ) -> (Option<Self>, Vec<ReadingTable>) {
        let mut known = VecDeque::new();
        let mut gone = Vec::new();
        for table in tables {
            match definitions.iter().find(|definition| definition.oid == table.oid && is_chunked(&config, definition)) {
                Some(definition) => known.push_back((table, definition.clone())),
                None => gone.push(table),
            }
        }
        let session = SqlSession::new(config.clone());
        let chunks = (!known.is_empty()).then(|| Self {
            config,
            publication,
            session,
            windows: Windows::new(TOUCHED_LIMIT, None),
            tables: known,
            chunk: None,
            rows: FIRST_ROWS,
            due: Instant::now(),
            waiting_since: None,
        });
        (chunks, gone)
    }

    /// Whether all tables are read.
    pub(crate) fn are_complete(&self) -> bool {
        self.tables.is_empty()
    }

    /// When there is something to do.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Whether [`Chunks::advance`] has something to do, where the log has been followed to `reached`.
    pub(crate) fn is_due(&self, reached: Lsn) -> bool {
        self.chunk.as_ref().is_some_and(|chunk| chunk.passed <= reached) || self.due <= Instant::now()
    }

    fn reads(&self, relation: u32) -> bool {
        self.tables.iter().any(|(table, _)| table.oid == relation)
    }

    /// The log tells of a change.
    pub(crate) fn touch(&mut self, transaction: LoggedTransaction, relation: u32, change: &Change) {
        if !self.reads(relation) {
            return;
        }
        let keys = match change {
            Change::Read { key, .. } | Change::Create { key, .. } | Change::Update { key, .. } | Change::Delete { key, .. } => {
                [Some(key), None]
            }
            Change::KeyChange { old_key, new_key, .. } => [Some(old_key), Some(new_key)],
            Change::Truncate => {
                self.windows.truncate(&transaction, relation);
                return;
            }
        };
        for key in keys.into_iter().flatten() {
            let mut octets = Vec::new();
            if put(key, &mut octets) {
                self.windows.touch(&transaction, relation, &octets);
            } else {
                // A long text in the key that the update left as it was: the log does not tell it (I8).
                self.windows.lose(&transaction);
            }
        }
    }

    /// The log tells of a transaction of which a part was durable before: that part is not decoded.
    pub(crate) fn lose(&mut self, transaction: LoggedTransaction) {
        self.windows.lose(&transaction);
    }

    /// Does what can be done between two transactions; the log has been followed to `reached`. What it returns has to be
    /// sent before the log goes on.
    pub(crate) async fn advance(&mut self, plans: &mut Plans, blocks: &Blocks, reached: Lsn) -> Result<Option<Emission>> {
        let begun = Instant::now();
        let emission = if let Some(chunk) = self.chunk.take_if(|chunk| chunk.passed <= reached) {
            self.emit(chunk)
        } else if self.chunk.is_some() {
            self.end_a_transaction().await?;
            None
        } else if !self.windows.is_settled() {
            self.settle().await?;
            None
        } else {
            self.read(plans, blocks).await?
        };
        // The log gets at least as much time as the chunks. A chunk that waits for the log is due when that has passed.
        let pause = if self.chunk.is_some() || !self.windows.is_settled() { PAUSE } else { begun.elapsed() };
        self.due = Instant::now() + pause;
        Ok(emission)
    }

    /// Looks which transactions from before this session are still invisible.
    async fn settle(&mut self) -> Result<()> {
        let look = self.windows.look();
        // A snapshot lists only what began before the last transaction that ended. Now one has ended that began last.
        self.end_a_transaction().await?;
        let sql = self.session.get().await?;
        let replayed = replayed(sql).await?;
        let (sight, _) = sight(sql, replayed).await?;
        self.windows.learn(look, &sight);
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if self.windows.is_settled() {
            self.waiting_since = None;
        } else if since.elapsed() > PATIENCE {
            self.waiting_since = Some(Instant::now());
            let waits_for = self.windows.waits_for().iter().map(|transaction| transaction.xid.to_string()).collect::<Vec<_>>().join(", ");
            warn!(
                "the snapshot waits for transactions {waits_for} to end. To see whose they are: SELECT pid, mode FROM pg_locks WHERE \
                 locktype = 'transactionid' AND transactionid::text IN ('{}');",
                waits_for.replace(", ", "', '")
            );
        }
        Ok(())
    }

    /// Commits a transaction that has a number and changes nothing. A standby has none, and needs none.
    async fn end_a_transaction(&mut self) -> Result<()> {
        let query = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN txid_current() END";
        self.session.get().await?.query_one(query, &[]).await.map_err(|error| sql_error("take a transaction number", error))?;
        Ok(())
    }

    fn emit(&mut self, mut chunk: Chunk) -> Option<Emission> {
        let (table, _) = self.tables.front_mut()?;
        match self.windows.reconcile(chunk.read, &chunk.sight, table.oid, &mut chunk.rows, |(key, _)| key) {
            Reconciled::ReadAgain => {
                self.rows = (self.rows / 2).max(1);
                None
            }
            Reconciled::Emit { dropped: _ } => {
                table.rows += chunk.rows.len() as u64;
                let server = &self.config.relational.topic_prefix;
                let state = if let Some(range) = chunk.next {
                    table.range = Some(range);
                    table.change(server)
                } else {
                    info!(table = %table.name, rows = table.rows, "the snapshot of the table is complete");
                    // Each event of the table is needed, so nothing is dropped by an anchor.
                    let complete =
                        CompletedTable { name: table.name.clone(), oid: Some(table.oid), anchor: Lsn::INVALID, rows: table.rows };
                    self.tables.pop_front();
                    complete.change(server)
                };
                Some(Emission { plan: Some(chunk.plan), rows: chunk.rows.into_iter().map(|(_, change)| change).collect(), state })
            }
        }
    }

    /// Reads the next chunk; returns an emission at once only where the table is gone.
    async fn read(&mut self, plans: &mut Plans, blocks: &Blocks) -> Result<Option<Emission>> {
        let Some((table, definition)) = self.tables.front().cloned() else { return Ok(None) };
        let Some(read) = self.windows.begin_read() else { return Ok(None) };
        let doing = "read a chunk of the table";
        let scoped = |error: Error| error.scoped(Scope::Table(table.name.clone()));
        let failed = |error| scoped(sql_error(doing, error));
        let sql = self.session.get().await?;
        let replayed = replayed(sql).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL lock_timeout = {}; LOCK TABLE {} IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0",
            LOCK_WAIT.as_millis(),
            definition.quoted()
        );
        let locked = sql.batch_execute(&begin).await;
        let is_gone = match locked {
            Ok(()) => false,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                self.windows.end_read(read);
                sql.batch_execute("ROLLBACK").await.map_err(failed)?;
                return Ok(None);
            }
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => true,
            Err(error) => return Err(failed(error)),
        };
        // The first statement that takes a snapshot, behind the lock.
        let current = if is_gone { None } else { TableDefinition::load(sql, Some(table.oid)).await?.into_iter().next() };
        let Some(current) = current.filter(|current| current.full_name() == table.name && is_chunked(&self.config, current)) else {
            warn!(table = %table.name, "the table is gone, or has another key, before the snapshot has read it to its end");
            self.windows.end_read(read);
            sql.batch_execute("ROLLBACK").await.map_err(failed)?;
            self.tables.pop_front();
            return Ok(Some(Emission { plan: None, rows: Vec::new(), state: table.removal(&self.config.relational.topic_prefix) }));
        };
        let (sight, passed) = sight(sql, replayed).await?;
        let published = self.publication.as_ref().and_then(|publication| publication.table(&current));
        let generated = self.publication.as_ref().is_some_and(|publication| publication.generated);
        let shape = Shape::of_definition(&current, published.and_then(|published| published.columns.as_deref()), generated);
        let mut types = SqlSession::new(self.config.clone());
        let plan = plans.of_chunk(&mut types, blocks, &current, shape).await?;
        let filter = published.and_then(|published| published.row_filter.as_deref());
        let until = match &table.range {
            Some(range) => Some(range.until.clone()),
            None => greatest_key(sql, &current).await.map_err(failed)?,
        };
        let (mut rows, mut next) = (Vec::new(), None);
        if let Some(until) = until {
            let query = select(&current, &plan, table.range.as_ref().map(|range| &*range.after), &until, filter, self.rows);
            let fetched = fetch(sql, &query, &plan, current.key.len()).await.map_err(scoped)?;
            let is_last = !fetched.is_cut && fetched.rows.len() < self.rows;
            let octets = fetched.octets.max(1);
            next = fetched.last_key.filter(|_| !is_last).map(|after| KeyRange { after, until });
            if !fetched.rows.is_empty() {
                self.rows = (fetched.rows.len() * CHUNK / octets).clamp(1, MOST_ROWS).min(self.rows * 2);
            }
            rows = fetched.rows;
        }
        let sql = self.session.get().await?;
        sql.batch_execute("ROLLBACK").await.map_err(failed)?;
        self.windows.learn(read, &sight);
        self.chunk = Some(Chunk { read, sight, passed, plan, rows, next });
        Ok(None)
    }
}

struct Fetched {
    rows: Vec<(Vec<u8>, Change)>,
    /// Texts of the last row's key
    last_key: Option<Vec<String>>,
    octets: usize,
    /// More rows were asked for than a chunk holds.
    is_cut: bool,
}

/// Runs the COPY. The rows are ordered by the key, so that as many as a chunk holds are a chunk.
async fn fetch(sql: &SqlConnection, query: &str, plan: &TablePlan, key_columns: usize) -> Result<Fetched> {
    let doing = "read a chunk of the table";
    let columns: Vec<usize> = (0..plan.shape.columns.len()).filter(|&index| plan.codec(index).is_some()).collect();
    let formats: Vec<Format> = columns.iter().filter_map(|&index| plan.codec(index)).map(copy_format).collect();
    let mut fetched = Fetched { rows: Vec::new(), last_key: None, octets: 0, is_cut: false };
    let mut reader = CopyRows::default();
    let mut arena = BytesMut::new();
    let pieces = sql.copy_out(query).await.map_err(|error| sql_error(doing, error))?;
    pin_mut!(pieces);
    while let Some(piece) = pieces.next().await {
        reader.push(piece.map_err(|error| sql_error(doing, error))?);
        while let Some(row) = reader.next_row(columns.len() + key_columns)? {
            if fetched.octets > CHUNK {
                fetched.is_cut = true;
                return Ok(fetched);
            }
            fetched.octets += row.len();
            let mut fields = CopyRow::new(&row);
            let mut formats = formats.iter();
            let change = plan.read(|_, codec| match (fields.next_field(), formats.next()) {
                (Some(field), Some(format)) => codec.decode(*format, &field, &mut arena),
                (Some(_) | None, _) => Ok(Value::Null),
            })?;
            let texts: Option<Vec<String>> =
                (0..key_columns).map(|_| fields.next_field().and_then(|text| String::from_utf8(text.to_vec()).ok())).collect();
            let mut key = Vec::new();
            let is_known = matches!(&change, Change::Read { key: value, .. } if put(value, &mut key));
            let (Some(texts), true) = (texts, is_known) else {
                return Err(Error::new(ErrorKind::Unreadable, doing).because("a row has no key"));
            };
            fetched.last_key = Some(texts);
            fetched.rows.push((key, change));
        }
    }
    if !reader.has_ended() {
        return Err(Error::new(ErrorKind::Unreadable, doing).because("the COPY ended without its trailer"));
    }
    Ok(fetched)
}

/// Texts of the greatest key; `None` in an empty table.
async fn greatest_key(sql: &SqlConnection, table: &TableDefinition) -> Result<Option<Vec<String>>, tokio_postgres::Error> {
    let texts = table.key.iter().map(|column| format!("{}::text", qualified(column))).collect::<Vec<_>>().join(", ");
    let order = table.key.iter().map(|column| format!("{} DESC", qualified(column))).collect::<Vec<_>>().join(", ");
    let row = sql.query_opt(&format!("SELECT {texts} FROM {} ORDER BY {order} LIMIT 1", source(table)), &[]).await?;
    Ok(row.map(|row| (0..table.key.len()).map(|index| row.get(index)).collect()))
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
    after: Option<&[String]>,
    until: &[String],
    filter: Option<&str>,
    rows: usize,
) -> String {
    let columns = plan.shape.columns.iter().enumerate().filter_map(|(index, column)| {
        let quoted = qualified(&column.name);
        Some(match copy_format(plan.codec(index)?) {
            Format::Text => format!("{quoted}::text"),
            Format::Binary => quoted,
        })
    });
    let keys: Vec<String> = table.key.iter().map(|column| qualified(column)).collect();
    let selected: Vec<String> = columns.chain(keys.iter().map(|key| format!("{key}::text"))).collect();
    let type_of =
        |name: &String| table.columns.iter().find(|column| column.name == *name).map_or("text", |column| column.type_name.as_str());
    let literal = |texts: &[String]| {
        texts.iter().zip(&table.key).map(|(text, name)| format!("{}::{}", quote_text(text), type_of(name))).collect::<Vec<_>>().join(", ")
    };
    let key = keys.join(", ");
    let mut conditions = vec![format!("ROW({key}) <= ROW({})", literal(until))];
    conditions.extend(after.map(|after| format!("ROW({key}) > ROW({})", literal(after))));
    conditions.extend(filter.map(|filter| format!("({filter})")));
    format!(
        "COPY (SELECT {} FROM {} WHERE {} ORDER BY {key} LIMIT {rows}) TO STDOUT (FORMAT binary)",
        selected.join(", "),
        source(table),
        conditions.join(" AND ")
    )
}

/// Writes the value as octets that differ where values differ; `false` where a part of it is not known (I8).
fn put(value: &Value, octets: &mut Vec<u8>) -> bool {
    let mut tagged = |tag: u8, content: &[u8]| {
        octets.push(tag);
        octets.extend_from_slice(&(content.len() as u64).to_be_bytes());
        octets.extend_from_slice(content);
    };
    match value {
        Value::Unchanged | Value::NotInIdentity => return false,
        Value::Null => tagged(0, &[]),
        Value::Boolean(value) => tagged(1, &[u8::from(*value)]),
        Value::Int8(value) => tagged(2, &value.to_be_bytes()),
        Value::Int16(value) => tagged(3, &value.to_be_bytes()),
        Value::Int32(value) => tagged(4, &value.to_be_bytes()),
        Value::Int64(value) => tagged(5, &value.to_be_bytes()),
        Value::Float32(value) => tagged(6, &value.to_be_bytes()),
        Value::Float64(value) => tagged(7, &value.to_be_bytes()),
        Value::Bytes(value) => tagged(8, value),
        Value::String(value) => tagged(9, value.as_bytes()),
        Value::Array(values) | Value::Struct(values) => {
            tagged(10, &(values.len() as u64).to_be_bytes());
            return values.iter().all(|value| put(value, octets));
        }
        Value::Map(entries) => {
            tagged(11, &(entries.len() as u64).to_be_bytes());
            return entries.iter().all(|(key, value)| put(key, octets) && put(value, octets));
        }
    }
    true
}
