//! One reader of a snapshot: a connection of its own, which reads tables, or ranges of them, and sends their rows as records.
//!
//! It is a task of its own, so readers decode side by side. What it sends carries the memory that it holds (I6); records of
//! one range are sent in the order of the pages.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{StreamExt, pin_mut};
use tailwater_api::record::Record;
use tailwater_api::source::{ByteBudget, Reservation};
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tailwater_kit::pace::Pace;
use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::warn;

use super::lock::{Locked, Size, lock, lock_too, size, was_rewritten};
use super::select::{Select, copy_format};
use super::work::{Next, Pages, Work};
use super::{Anchor, temporary_anchor};
use crate::catalog::{PublishedTable, TableDefinition};
use crate::config::PostgresConfig;
use crate::connect::{Cancelling, SqlConnection, sql_error};
use crate::copy::{CopyRow, CopyRows};
use crate::data_types::Format;
use crate::event::{Blocks, Place, now};
use crate::lsn::Lsn;
use crate::relation::TablePlan;

/// What a batch of rows weighs when it is sent.
const BATCH: usize = 512 << 10;
/// Octets after which the rate is looked at.
const PACED: usize = 64 << 10;

/// A table that is being read.
pub(super) struct OpenTable {
    definition: TableDefinition,
    plan: Arc<TablePlan>,
    select: Select,
    anchor: Arc<Anchor>,
}

/// What a reader has to tell.
pub(super) enum Told {
    /// A table is about to be read; the answer is how.
    Opened { table: usize, definition: Box<TableDefinition>, rows: Option<u64>, anchor: Lsn, reply: oneshot::Sender<Planned> },
    /// Rows of a table
    Rows { table: usize, records: Vec<Record>, octets: usize, reservation: Reservation },
    /// The table is read to its end.
    Ended { table: usize },
    /// The table is not there any more.
    Gone { table: usize },
}

/// How a table is read.
pub(super) struct Planned {
    pub(super) plan: Arc<TablePlan>,
    pub(super) select: Select,
    /// `None` where it is not published under its own name
    pub(super) published: Option<PublishedTable>,
}

/// In which transaction a reader reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transactions {
    /// One for each table, which locks it
    OfTables,
    /// One for all, which has locked them
    Together,
}

pub(super) struct Reader {
    pub(super) config: Arc<PostgresConfig>,
    pub(super) sql: SqlConnection,
    /// What it runs on that
    pub(super) cancelling: Cancelling,
    /// A session that sees the catalog of now
    pub(super) control: Arc<Mutex<SqlConnection>>,
    pub(super) transactions: Transactions,
    pub(super) tables: Arc<[TableDefinition]>,
    pub(super) anchor: Arc<Anchor>,
    pub(super) work: Arc<Work<Arc<OpenTable>>>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) budget: Arc<dyn ByteBudget>,
    pub(super) pace: Arc<Pace>,
    pub(super) blocks: Blocks,
    pub(super) place: Place,
}

impl Reader {
    /// Reads until nothing is left.
    pub(super) async fn run(mut self) -> Result<()> {
        while let Some(next) = self.work.next().await {
            match next {
                Next::Open(table) => self.open(table).await?,
                Next::Join(table, open) => self.join(table, &open).await?,
            }
        }
        self.cancelling.is_over();
        Ok(())
    }

    async fn tell(&self, told: Told) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Restarting, "hand over rows").because("the snapshot has ended");
        self.told.send(told).await.map_err(gone)
    }

    async fn open(&self, number: usize) -> Result<()> {
        let Some((definition, anchor)) = self.settle(&self.tables[number]).await? else {
            self.end().await?;
            self.work.give_up();
            return self.tell(Told::Gone { table: number }).await;
        };
        let Size { pages, rows } = size(&self.sql, &definition).await?;
        let (reply, planned) = oneshot::channel();
        let described = Box::new(definition.clone());
        self.tell(Told::Opened { table: number, definition: described, rows, anchor: anchor.lsn, reply }).await?;
        let gone = |_| Error::new(ErrorKind::Restarting, "read a table").because("the snapshot has ended");
        let Planned { plan, mut select, published } = planned.await.map_err(gone)?;
        // A statement of the user stands for itself.
        if let Some(published) = published.filter(|_| select.has_pages) {
            // As of the snapshot, which the log goes on from (I7).
            select.filter = published.row_filter(&self.sql).await?;
        }
        let pages = pages.filter(|_| select.has_pages);
        let open = Arc::new(OpenTable { definition, plan, select, anchor });
        self.work.open(number, open.clone(), pages);
        self.read(number, &open).await
    }

    /// Begins a transaction that has the lock on the table, under the name that it has by now, and sees its rows; `None` where the
    /// table is gone.
    async fn settle(&self, table: &TableDefinition) -> Result<Option<(TableDefinition, Arc<Anchor>)>> {
        let (mut table, mut anchor) = (table.clone(), self.anchor.clone());
        if self.transactions == Transactions::Together {
            return Ok(Some((table, anchor)));
        }
        loop {
            begin(&self.sql, anchor.exported.as_deref()).await?;
            let locked = lock(&self.config, &self.sql, &*self.control.lock().await, &table).await?;
            let is_rewritten = match locked {
                Locked::Gone => return Ok(None),
                Locked::Renamed(renamed) => {
                    table = *renamed;
                    false
                }
                Locked::Table(current) => {
                    if !was_rewritten(&self.sql, &current).await? {
                        return Ok(Some((*current, anchor)));
                    }
                    true
                }
            };
            rollback(&self.sql).await?;
            if is_rewritten {
                warn!(table = %table.full_name(), "the table was rewritten since the snapshot was taken; it is read from a newer one");
                // A connection of its own: this one takes as long as transactions are open.
                anchor = Arc::new(temporary_anchor(&self.config, &SqlConnection::connect(&self.config).await?).await?);
            }
        }
    }

    async fn join(&self, number: usize, open: &OpenTable) -> Result<()> {
        let is_locked = match self.transactions {
            Transactions::OfTables => {
                begin(&self.sql, open.anchor.exported.as_deref()).await?;
                lock_too(&self.sql, &open.definition).await?
            }
            Transactions::Together => true,
        };
        // The lock comes first: see `work`.
        if is_locked && self.work.join(number) { self.read(number, open).await } else { self.end().await }
    }

    /// Ends the transaction of a table.
    async fn end(&self) -> Result<()> {
        match self.transactions {
            Transactions::OfTables => rollback(&self.sql).await,
            Transactions::Together => Ok(()),
        }
    }

    /// Reads ranges of the table until all are taken.
    async fn read(&self, number: usize, open: &OpenTable) -> Result<()> {
        while let Some(pages) = self.work.take(number) {
            self.copy(number, open, pages).await.map_err(|error| error.scoped(Scope::Table(open.plan.full_name.clone())))?;
        }
        // Behind the rows of all its readers.
        if self.work.leave(number) {
            self.tell(Told::Ended { table: number }).await?;
        }
        self.end().await
    }

    async fn copy(&self, table: usize, open: &OpenTable, pages: Pages) -> Result<()> {
        let doing = "read the rows of the table";
        let plan = &*open.plan;
        let columns: Vec<usize> = (0..plan.shape.columns.len()).filter(|&index| plan.codec(index).is_some()).collect();
        let formats: Vec<Format> = columns.iter().filter_map(|&index| plan.codec(index)).map(copy_format).collect();
        let mut reader = CopyRows::default();
        let mut arena = BytesMut::new();
        let mut batch = Rows::default();
        let mut unpaced = 0;
        let pieces = self.sql.copy_out(&open.select.statement(pages)).await.map_err(|error| sql_error(doing, error))?;
        pin_mut!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| sql_error(doing, error))?;
            batch.octets += piece.len();
            unpaced += piece.len();
            reader.push(piece);
            while let Some(row) = reader.next_row(columns.len())? {
                if batch.reservation.is_none() {
                    // I6: before a row is decoded.
                    batch.reservation = Some(self.budget.clone().reserve(BATCH).await);
                    batch.now = now();
                }
                let mut fields = CopyRow::new(&row);
                let mut formats = formats.iter();
                let change = plan.read(|_, codec| match (fields.next_field(), formats.next()) {
                    (Some(field), Some(format)) => codec.decode(*format, &field, &mut arena),
                    (Some(_) | None, _) => codec.null(),
                })?;
                let moment = self.blocks.moment(&self.place, plan.schema_value.clone(), plan.table_value.clone(), batch.now, &mut arena);
                plan.events.records(change, moment, |record| {
                    batch.weight += record.weight();
                    batch.records.push(record);
                });
                if batch.weight >= BATCH {
                    self.send(table, &mut batch).await?;
                }
            }
            if unpaced >= PACED {
                self.pace.pass(std::mem::take(&mut unpaced)).await;
            }
        }
        if !reader.has_ended() {
            return Err(Error::new(ErrorKind::Unreadable, doing).because("the COPY ended without its trailer"));
        }
        self.send(table, &mut batch).await?;
        self.pace.pass(unpaced).await;
        Ok(())
    }

    async fn send(&self, table: usize, batch: &mut Rows) -> Result<()> {
        let Rows { records, weight, octets, reservation, now: _ } = std::mem::take(batch);
        let Some(mut reservation) = reservation else { return Ok(()) };
        if reservation.bytes() < weight {
            drop(reservation);
            reservation = self.budget.clone().reserve(weight).await;
        }
        batch.records.reserve(records.len());
        self.tell(Told::Rows { table, records, octets, reservation }).await
    }
}

/// Rows that are not sent yet.
#[derive(Default)]
struct Rows {
    records: Vec<Record>,
    weight: usize,
    octets: usize,
    /// There is one where there are rows
    reservation: Option<Reservation>,
    now: i64,
}

/// Begins a transaction in the exported snapshot, where there is one. It reads a table from its first page to its last: a scan
/// may otherwise begin where another one is, and be divided among workers of the server.
pub(super) async fn begin(sql: &SqlConnection, exported: Option<&str>) -> Result<()> {
    let adopt = exported.map_or_else(String::new, |name| format!("SET TRANSACTION SNAPSHOT '{name}'; "));
    let statement = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {adopt}SET LOCAL synchronize_seqscans = off; \
         SET LOCAL max_parallel_workers_per_gather = 0"
    );
    sql.batch_execute(&statement).await.map_err(|error| sql_error("begin to read in the snapshot", error))
}

pub(super) async fn rollback(sql: &SqlConnection) -> Result<()> {
    sql.batch_execute("ROLLBACK").await.map_err(|error| sql_error("end the reading of a table", error))
}
