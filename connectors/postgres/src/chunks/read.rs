//! One read of a table, on a session of its own beside the log: its rows behind one key, as many as one read may take.
//!
//! It is `BEGIN REPEATABLE READ; LOCK TABLE … IN ACCESS SHARE MODE;` and only then the first statement that takes a snapshot: DDL
//! that rewrites a table is not MVCC-safe, and an older snapshot would see no rows. The definition is read in the same snapshot, so
//! each read has the shape that its rows have.
//!
//! What it sees is told before its first row. Then the rows come in pieces in the order of the key, each of which can be emitted, and
//! gone on behind, by itself. A few pieces may wait to be taken, in memory that was reserved for them before they were decoded (I6); so
//! the next ones are read and decoded while one is reconciled and appended.
//!
//! While the transaction lasts, nobody can alter the table and the server cannot remove what the read may see. So nothing is waited
//! for in it without limit. Room for the first piece is waited for before it begins. If there is none for a later one, because the
//! log stands still, or the topics do, or the pace is slow, the read is cut off behind the last piece that it told: that one is as
//! good as before, and the next read goes on behind it.
//!
//! The greatest key is looked up with the first read. Rows that come later, or that this read could not see, are of
//! transactions that the log tells of, so a table that grows at its end has one, too. Of a row that moves out of the way of the
//! reads it tells all but large values that stayed as they were (TOAST).
//!
//! Without a key the columns that stand for it have to tell the rows apart, and the read fails where they do not: what was counted
//! as read would not be what was written.
//!
//! A read that nobody wants any more is dropped, and one that fails or is cut off gives its session up: then its query is cancelled,
//! and with the session the transaction ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, pin_mut};
use tailwater_api::source::{ByteBudget, Reservation};
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tailwater_kit::envelope::Change;
use tailwater_kit::pace::Pace;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tracing::warn;

use super::keys::RowKey;
use super::published::{Finding, Published, Said};
use super::select::{Order, Unfit, find_operators, greatest_key, refuse_nulls, select};
use crate::catalog::{TableDefinition, quote_identifier};
use crate::config::PostgresConfig;
use crate::connect::{Cancellations, Cancelling, SqlConnection, SqlSession, sql_error};
use crate::copy::{CopyRow, CopyRows};
use crate::data_types::Format;
use crate::lsn::Lsn;
use crate::plans::Compiler;
use crate::relation::{Shape, TablePlan};
use crate::snapshot::copy_format;
use crate::source::captured;
use crate::table_states::{KeyRange, ReadingTable};
use crate::visibility::{Sight, replayed, sight};

/// What is reserved for a piece (I6), and what its rows weigh at most, so that there is room for what records hold besides.
const PIECE: usize = 512 << 10;
const PIECE_ROWS: usize = PIECE / 2;
/// Longest wait for the room of a piece while the transaction lasts
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for the lock of a table: who waits for a stronger one has to go first.
const LOCK_WAIT: Duration = Duration::from_millis(100);
pub(super) const DOING: &str = "read a chunk of the table";

/// What is to be read, and where it goes.
pub(super) struct TableRead {
    pub(super) config: Arc<PostgresConfig>,
    pub(super) server_version: u32,
    /// As it is known to be published
    pub(super) published: Published,
    pub(super) compiler: Compiler,
    pub(super) table: ReadingTable,
    /// Most rows
    pub(super) rows: usize,
    pub(super) budget: Arc<dyn ByteBudget>,
    pub(super) cancellations: Cancellations,
    /// Pieces that may be there at once
    pub(super) ahead: Arc<Semaphore>,
    pub(super) pace: Arc<Pace>,
    pub(super) told: mpsc::Sender<Told>,
}

/// What a read tells, in this order.
pub(super) enum Told {
    /// The rows are about to come.
    Begun(Begun),
    /// Some of them
    Rows(Piece),
    /// It is over, after that time. The session is free again.
    Ended(SqlSession, Result<End>, Duration),
}

pub(super) struct Begun {
    pub(super) sight: Sight,
    /// The place that the log has to pass before rows are emitted
    pub(super) passed: Lsn,
    pub(super) plan: Arc<TablePlan>,
    pub(super) row_key: RowKey,
    /// Rows of the table by the server's estimate
    pub(super) estimated: Option<u64>,
}

/// Rows, at least one, in the order of the key.
pub(super) struct Piece {
    pub(super) rows: Vec<Change>,
    /// What is read behind them
    pub(super) range: KeyRange,
    /// What they took on their way
    pub(super) octets: usize,
    pub(super) reservation: Reservation,
    /// Lets another piece be read
    pub(super) _ahead: OwnedSemaphorePermit,
}

/// How a read ended.
#[derive(Debug)]
pub(super) enum End {
    /// There are no further rows.
    Complete,
    /// There may be further rows.
    More,
    /// There may be further rows, and there was no room for them.
    Cut,
    /// Somebody holds the table, or waits for it, or its standby has to replay what the read stands in the way of.
    Contended(String),
    /// The publication publishes other rows or columns of it than before.
    Republished(Published),
    /// The table is gone.
    Gone,
    /// It was renamed, or another captured table has its name.
    Superseded,
    /// The table cannot be read in chunks.
    Unfit(Unfit),
}

impl TableRead {
    pub(super) async fn run(mut self, mut session: SqlSession) {
        let first = self.begin_piece().await;
        let since = Instant::now();
        let mut cancelling = Cancelling::default();
        let ended = self.read(&mut session, &mut cancelling, first).await;
        if matches!(ended, Ok(End::Cut) | Err(_)) {
            // Rows may still be on their way: the session goes with them.
            session = SqlSession::new(self.config.clone());
        } else {
            cancelling.is_over();
        }
        // Who does not listen any more wants to know nothing.
        let _ = self.told.send(Told::Ended(session, ended, since.elapsed())).await;
    }

    /// The session's transaction is over when it returns without an error, unless it was cut off.
    async fn read(&mut self, session: &mut SqlSession, cancelling: &mut Cancelling, first: Filled) -> Result<End> {
        let table = self.table.name.clone();
        let failed = |error: tokio_postgres::Error| sql_error(DOING, error).scoped(Scope::Table(table.clone()));
        // One connection to the end: another one would have neither the lock nor the snapshot.
        let sql = session.get().await?;
        *cancelling = sql.cancelling(&self.cancellations);
        let replayed = replayed(sql).await?;
        let query = "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1";
        let Some(found) = sql.query_opt(query, &[&self.table.oid]).await.map_err(&failed)? else { return self.gone(sql).await };
        let quoted: String = found.get(0);
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {}; \
             LOCK TABLE {quoted} IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0",
            LOCK_WAIT.as_millis(),
        );
        let end = match sql.batch_execute(&begin).await {
            Ok(()) => match self.locked(sql, replayed, first).await {
                Ok(End::Cut) => return Ok(End::Cut),
                Ok(end) => end,
                // A standby ends reads that stand in the way of what it replays.
                Err(error) if error.kind() == ErrorKind::Conflict => End::Contended(error.to_string()),
                Err(error) if error.kind() == ErrorKind::Unauthorised && error.remedy().is_none() => {
                    return Err(error.mend(format!("GRANT SELECT ON {quoted} TO {};", quote_identifier(&self.config.user))));
                }
                Err(error) => return Err(error),
            },
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                End::Contended("somebody holds a lock on it, or waits for one".to_owned())
            }
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => End::Gone,
            Err(error) => return Err(failed(error)),
        };
        sql.batch_execute("ROLLBACK").await.map_err(&failed)?;
        if matches!(end, End::Gone) { self.gone(sql).await } else { Ok(end) }
    }

    /// What became of a table that is not there under its name.
    async fn gone(&self, sql: &SqlConnection) -> Result<End> {
        let definitions = TableDefinition::load(sql, None).await?;
        let is_superseded = self.table.is_superseded(&captured(&self.config, &definitions));
        Ok(if is_superseded { End::Superseded } else { End::Gone })
    }

    async fn locked(&mut self, sql: &SqlConnection, replayed: Option<Lsn>, first: Filled) -> Result<End> {
        let name = self.table.name.clone();
        let scoped = |error: Error| error.scoped(Scope::Table(name.clone()));
        let failed = |error: tokio_postgres::Error| scoped(sql_error(DOING, error));
        // The first statement that takes a snapshot, behind the lock.
        let found = TableDefinition::load(sql, Some(self.table.oid)).await?.into_iter().next();
        let Some(table) = found.filter(|found| found.full_name() == name) else { return Ok(End::Gone) };
        let (sight, passed) = sight(sql, replayed).await?;
        let said = Said::load(sql, self.server_version, &self.config.publication, table.oid).await.map_err(scoped)?;
        match self.published.hold_against(sql, said.as_ref()).await.map_err(scoped)? {
            Finding::Same => {}
            Finding::Early => return Ok(End::Contended("transactions run that began before its publication changed".to_owned())),
            Finding::Withdrawn => {
                return Ok(End::Contended(format!("the publication {} does not publish it any more", self.config.publication)));
            }
            Finding::Changed(published) => return Ok(End::Republished(published)),
        }
        let row_filter = match &said {
            Some(said) => said.table.row_filter(sql).await.map_err(scoped)?,
            None => None,
        };
        let columns = said.as_ref().and_then(|said| said.table.columns.as_deref());
        let shape = Shape::of_definition(&table, columns, said.as_ref().is_some_and(|said| said.generated));
        let plan = Arc::new(self.compiler.compile(sql, &table, shape).await.map_err(scoped)?);
        let request = self.table.request.as_ref();
        let surrogate = request.and_then(|request| request.surrogate.as_deref());
        let mut order = match Order::of(&self.config, &table, &plan, surrogate) {
            Ok(order) => order,
            Err(unfit) => return Ok(End::Unfit(unfit)),
        };
        order.described.extend(said.and_then(|said| said.text(row_filter.as_deref())));
        let Some(row_key) = RowKey::of(&plan, surrogate) else {
            let why = "its records do not hold the values that tell its rows apart, as the table has them".to_owned();
            return Ok(End::Unfit(Unfit { status: "SKIPPED", why }));
        };
        let filters = [row_filter.as_deref(), request.and_then(|request| request.condition.as_deref())];
        // A line break, since a condition may end in a comment.
        let filters: Vec<String> = filters.into_iter().flatten().map(|filter| format!("({filter}\n)")).collect();
        find_operators(sql, &table, &mut order).await.map_err(failed)?;
        // I9: behind a change of the key the table is read anew. So it is where other rows or columns are published.
        let stored = self.table.range.as_ref().filter(|range| range.columns == order.described);
        if stored.is_none() && self.table.range.is_some() {
            // I11
            warn!(
                table = %name,
                "the key of the table changed, or which of its rows and columns are published, so it is read from its beginning again; rows \
                 that were read and are not published any more stay as they were read"
            );
        }
        let until = match stored {
            Some(range) => Some(range.until.clone()),
            None => {
                if order.may_be_null {
                    refuse_nulls(sql, &table, &order, &filters).await.map_err(scoped)?;
                }
                greatest_key(sql, &table, &order, &filters).await.map_err(failed)?
            }
        };
        let Some(until) = until else { return Ok(End::Complete) };
        let query = select(&table, &plan, &order, stored.map(|range| &range.after[..]), &until, &filters, self.rows);
        // The server writes -1 where it has never counted.
        let estimated = (table.rows >= 0.0).then_some(table.rows as u64);
        self.tell(Told::Begun(Begun { sight, passed, plan: plan.clone(), row_key, estimated })).await?;
        if filters.is_empty() {
            // The index gives the rows in their order from where they are wanted; to sort the table for each read would cost more
            // with each.
            let settings = "SET LOCAL enable_sort = off; SET LOCAL max_parallel_workers_per_gather = 0";
            sql.batch_execute(settings).await.map_err(failed)?;
        }
        self.copy(sql, &query, &plan, &order, until, first).await.map_err(scoped)
    }

    async fn tell(&self, told: Told) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Restarting, DOING).because("nobody wants its rows any more");
        self.told.send(told).await.map_err(gone)
    }

    /// Runs the COPY. The rows are ordered by the key.
    async fn copy(
        &self,
        sql: &SqlConnection,
        query: &str,
        plan: &TablePlan,
        order: &Order<'_>,
        until: Vec<String>,
        mut piece: Filled,
    ) -> Result<End> {
        let columns: Vec<usize> = (0..plan.shape.columns.len()).filter(|&index| plan.codec(index).is_some()).collect();
        let formats: Vec<Format> = columns.iter().filter_map(|&index| plan.codec(index)).map(copy_format).collect();
        let mut reader = CopyRows::default();
        let mut arena = BytesMut::new();
        let mut rows = 0;
        let pieces = sql.copy_out(query).await.map_err(|error| sql_error(DOING, error))?;
        pin_mut!(pieces);
        while let Some(received) = pieces.next().await {
            reader.push(received.map_err(|error| sql_error(DOING, error))?);
            while let Some(row) = reader.next_row(columns.len() + order.columns.len())? {
                let mut fields = CopyRow::new(&row);
                let mut formats = formats.iter();
                let change = plan.read(|_, codec| match (fields.next_field(), formats.next()) {
                    (Some(field), Some(format)) => codec.decode(*format, &field, &mut arena),
                    (Some(_) | None, _) => codec.null(),
                })?;
                let key = fields.rest();
                let is_tied = order.has_ties && piece.last_key == key;
                if is_tied && order.is_all_that_tells_apart {
                    let value = texts(&key, order.columns.len())?.join(",");
                    return Err(Error::new(ErrorKind::Unsupported, DOING)
                        .because(format!("several rows have the value {value} in {}, and no key", order.columns.join(",")))
                        .mend("name a column with surrogate-key that tells rows apart, or take a blocking snapshot"));
                }
                if piece.weight > PIECE_ROWS && !is_tied {
                    self.send(piece, order, &until).await?;
                    match timeout(ROOM_WAIT, self.begin_piece()).await {
                        Ok(next) => piece = next,
                        Err(_) => return Ok(End::Cut),
                    }
                }
                rows += 1;
                piece.add(change, row.len(), key);
            }
        }
        if !reader.has_ended() {
            return Err(Error::new(ErrorKind::Unreadable, DOING).because("the COPY ended without its trailer"));
        }
        if rows == 0 {
            return Ok(End::Complete);
        }
        let is_last = rows < self.rows || texts(&piece.last_key, order.columns.len())? == until;
        self.send(piece, order, &until).await?;
        Ok(if is_last { End::Complete } else { End::More })
    }

    /// Waits for the room of a piece. Cancel-safe.
    async fn begin_piece(&self) -> Filled {
        // What was read before is paid for first.
        self.pace.pass(0).await;
        let ahead = self.ahead.clone().acquire_owned().await.expect("nobody closes the semaphore");
        // I6: before a row is decoded.
        let reservation = self.budget.clone().reserve(PIECE).await;
        Filled { rows: Vec::new(), last_key: Bytes::new(), weight: 0, octets: 0, reservation, ahead }
    }

    async fn send(&self, filled: Filled, order: &Order<'_>, until: &[String]) -> Result<()> {
        let Filled { rows, last_key, weight: _, octets, reservation, ahead } = filled;
        let after = texts(&last_key, order.columns.len())?;
        let range = KeyRange { columns: order.described.clone(), after, until: until.to_vec() };
        self.tell(Told::Rows(Piece { rows, range, octets, reservation, _ahead: ahead })).await?;
        self.pace.count(octets);
        Ok(())
    }
}

/// A piece that is being read.
struct Filled {
    rows: Vec<Change>,
    /// Fields of the last row's key, as texts
    last_key: Bytes,
    weight: usize,
    octets: usize,
    reservation: Reservation,
    ahead: OwnedSemaphorePermit,
}

impl Filled {
    fn add(&mut self, change: Change, octets: usize, key: Bytes) {
        if let Change::Read { key, after } = &change {
            self.weight += key.weight() + after.weight();
        }
        self.octets += octets;
        self.last_key = key;
        self.rows.push(change);
    }
}

/// The texts of a row's key.
fn texts(key: &Bytes, columns: usize) -> Result<Vec<String>> {
    let mut fields = CopyRow::new(key);
    let text = |_| fields.next_field().and_then(|text| String::from_utf8(text.to_vec()).ok());
    let texts: Option<Vec<String>> = (0..columns).map(text).collect();
    texts.ok_or_else(|| Error::new(ErrorKind::Unreadable, DOING).because("a row has no key"))
}
