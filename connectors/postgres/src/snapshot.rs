//! Reading the rows that are there: the `consistent` strategy.
//!
//! A new slot exports the snapshot of the database at its *consistent point*: transactions whose commit record stands
//! before that point are in the snapshot, all others are sent by the slot. Each table is read in a transaction of its
//! own that adopts this snapshot, and the point is the table's *anchor*.
//!
//! A read's snapshot must not be older than its lock on the table: DDL that rewrites a table is not MVCC-safe, and an
//! older snapshot would see an empty table without an error. The exported snapshot is always older than the lock. So after
//! locking, `pg_class.relfilenode` as the snapshot sees it is compared with `pg_relation_filenode`, which is the present
//! one, for every leaf. Where they differ, the table is read from the snapshot of a temporary slot, made now, and
//! anchored there.
//!
//! Rows of a table are *pending* (no offsets, no reader) until the table is complete; then they are published in one
//! step with the table's state. After a crash complete tables stay, pending rows are gone, and the other tables are read
//! from a temporary slot's snapshot and anchored there, since the first one died with its session.
//!
//! `source.snapshot` says where a row stands: the last row of all is known only when no table after it has a row, so
//! the last row of a table, and with it the table's publication, waits for the first row of the next one.
//!
//! Where nothing is streamed afterwards (`initial_only`), no slot is made: all tables are locked first and read in one
//! transaction, whose first statement behind the locks takes the snapshot. That works on standbys, too.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{StreamExt, pin_mut};
use tailwater_api::metrics::Counter;
use tailwater_api::record::Record;
use tailwater_api::source::{Reservation, SourceBatch, SourceContext};
use tailwater_api::state::StateChange;
use tailwater_api::{Error, ErrorKind, Result, Scope, Value};
use tailwater_kit::envelope::{Change, SnapshotMark};
use tailwater_kit::notification::{Aggregate, Happening, Notifications};
use tailwater_kit::relational_config::TableOrder;
use tokio_postgres::error::SqlState;
use tracing::{info, warn};

use crate::catalog::{Publication, TableDefinition, quote_identifier};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, sql_error};
use crate::copy::{CopyRow, CopyRows};
use crate::data_types::Format;
use crate::event::{Blocks, Place, now};
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::position::{CompletedTable, Position, SnapshotProgress};
use crate::relation::{Shape, TablePlan};
use crate::replication::ReplicationConnection;

/// What a batch of rows weighs when it is sent.
const BATCH: usize = 512 << 10;

/// What a read stands for.
pub(crate) struct Anchor {
    /// Changes committed before are in the rows.
    pub(crate) lsn: Lsn,
    /// Name of the exported snapshot; `None` where the reading transaction has its own
    pub(crate) exported: Option<String>,
    /// Keeps the exported snapshot, and a temporary slot with it
    pub(crate) keeper: Option<ReplicationConnection>,
}

/// Reads tables.
pub(crate) struct Snapshot<'a> {
    pub(crate) config: &'a PostgresConfig,
    pub(crate) context: &'a mut SourceContext,
    pub(crate) plans: &'a mut Plans,
    pub(crate) blocks: &'a Blocks,
    pub(crate) publication: Option<&'a Publication>,
    /// Tables that are published, earlier ones included
    pub(crate) completed: Vec<CompletedTable>,
    /// Stored with the last table, as completed
    pub(crate) position: Position,
    /// What is stored with it
    pub(crate) at_end: Vec<StateChange>,
    pub(crate) writer: Writer,
}

/// Gathers rows into batches and knows where they stand in the snapshot.
pub(crate) struct Writer {
    records: Vec<Record>,
    weight: usize,
    reservation: Option<Reservation>,
    now: i64,
    arena: BytesMut,
    place: Place,
    /// The newest row; whether it is a last one is not known yet
    held: Option<HeldRow>,
    /// Whether the table being read is the first one, earlier runs included
    first_table: bool,
    /// Tables read to their end, whose publication waits for the held row
    finished: Vec<FinishedTable>,
    scanned: Counter,
    notifications: Notifications,
    /// `data_collections` of notifications
    collections: String,
}

struct HeldRow {
    plan: Arc<TablePlan>,
    change: Change,
    first_of_all: bool,
    first_of_table: bool,
    pending: Arc<str>,
}

/// How long the catalog is waited for while a table is locked.
const CATALOG_WAIT: Duration = Duration::from_millis(200);

/// What came of locking a table.
enum Locked {
    Table(Box<TableDefinition>),
    /// It was dropped
    Gone,
    /// Somebody waits for a stronger lock and has to go first
    Contended,
}

struct FinishedTable {
    table: CompletedTable,
    /// `None` for a table without rows
    pending: Option<Arc<str>>,
}

impl Writer {
    pub(crate) fn new(
        config: &PostgresConfig,
        context: &SourceContext,
        position: &Position,
        completed: &[CompletedTable],
        tables: &[TableDefinition],
    ) -> Self {
        let collections = tables.iter().map(TableDefinition::full_name).collect::<Vec<_>>().join(",");
        Self {
            notifications: Notifications::new(&config.relational.notifications, &config.relational.topic_prefix),
            collections,
            records: Vec::new(),
            weight: 0,
            reservation: None,
            now: 0,
            arena: BytesMut::new(),
            place: Place {
                lsn: position.last.lsn,
                last_commit: position.last_commit,
                xid: position.last.xid,
                timestamp: position.last.timestamp,
                mark: SnapshotMark::Inside,
                origin: None,
            },
            held: None,
            first_table: completed.is_empty(),
            finished: Vec::new(),
            scanned: context.metrics().counter("snapshot_rows", "Rows that snapshots read.", None),
        }
    }

    /// Tells how far the snapshot is.
    async fn notify(&self, context: &mut SourceContext, happening: Happening, data: &[(&str, &str)]) -> Result<()> {
        let record = self.notifications.give(Aggregate::InitialSnapshot, happening, data);
        if let Some(record) = record {
            // Small, and asked for while rows are held: it must not wait for room.
            let reservation = context.reserve(0).await;
            context.send(SourceBatch { records: vec![record], ..SourceBatch::default() }, reservation).await?;
        }
        Ok(())
    }

    /// Turns the held row into its record, now that it is known whether it is a last one.
    fn release(&mut self, blocks: &Blocks, last_of_table: bool, last_of_all: bool) -> Option<Arc<str>> {
        let held = self.held.take()?;
        self.place.mark = mark(held.first_of_all, held.first_of_table, last_of_table, last_of_all);
        let plan = &held.plan;
        let moment = blocks.moment(&self.place, plan.schema_value.clone(), plan.table_value.clone(), self.now, &mut self.arena);
        plan.events.records(held.change, moment, |record| {
            self.weight += record.weight();
            self.records.push(record);
        });
        Some(held.pending)
    }

    /// Sends the gathered rows as pending ones.
    async fn send(&mut self, context: &mut SourceContext, pending: Arc<str>) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        if self.reservation.as_ref().is_none_or(|held| held.bytes() < self.weight) {
            self.reservation = None;
        }
        let reservation = match self.reservation.take() {
            Some(reservation) => reservation,
            None => context.reserve(self.weight).await,
        };
        let records = std::mem::take(&mut self.records);
        self.records.reserve(records.len());
        self.scanned.add(records.len() as u64);
        self.weight = 0;
        context.send(SourceBatch { records, pending: Some(pending), ..SourceBatch::default() }, reservation).await?;
        Ok(())
    }

    /// Publishes the tables that are read to their end, with their states, and whatever else is to be stored then.
    async fn publish(
        &mut self,
        context: &mut SourceContext,
        server: &str,
        completed: &mut Vec<CompletedTable>,
        more: Vec<StateChange>,
    ) -> Result<()> {
        let mut batch = SourceBatch::default();
        for finished in self.finished.drain(..) {
            info!(table = %finished.table.name, rows = finished.table.rows, anchor = %finished.table.anchor, "the snapshot of the table is complete");
            batch.state.push(finished.table.change(server));
            batch.publish.extend(finished.pending);
            completed.push(finished.table);
        }
        batch.state.extend(more);
        if batch.state.is_empty() {
            return Ok(());
        }
        let reservation = context.reserve(0).await;
        context.send(batch, reservation).await?;
        Ok(())
    }
}

/// Debezium's marks. `first_of_all` is the first row of the first table; where that table is empty, no row is marked so.
fn mark(first_of_all: bool, first_of_table: bool, last_of_table: bool, last_of_all: bool) -> SnapshotMark {
    if last_of_all {
        SnapshotMark::Last
    } else if first_of_all {
        SnapshotMark::First
    } else if last_of_table {
        SnapshotMark::LastInTable
    } else if first_of_table {
        SnapshotMark::FirstInTable
    } else {
        SnapshotMark::Inside
    }
}

impl Snapshot<'_> {
    /// Reads the tables in their order, each in a transaction of its own in the exported snapshot of `anchor`.
    /// `another` makes a temporary slot with a snapshot of its own.
    pub(crate) async fn read_all<F: Future<Output = Result<Anchor>>>(
        &mut self,
        sql: &SqlConnection,
        control: &SqlConnection,
        tables: &[TableDefinition],
        anchor: &Anchor,
        another: impl Fn() -> F,
    ) -> Result<()> {
        self.writer.notify(self.context, Happening::Started, &[]).await?;
        for table in tables {
            let mut replacement = None;
            loop {
                let anchor = replacement.as_ref().unwrap_or(anchor);
                begin(sql, anchor).await?;
                let current = match self.lock(sql, control, table).await? {
                    Locked::Table(current) => *current,
                    Locked::Gone => break,
                    Locked::Contended => {
                        rollback(sql).await?;
                        continue;
                    }
                };
                if anchor.exported.is_none() || !was_rewritten(sql, &current).await? {
                    self.read(sql, &current, anchor.lsn).await?;
                    break;
                }
                rollback(sql).await?;
                warn!(table = %current.full_name(), "the table was rewritten since the snapshot was taken; it is read from a newer one");
                replacement = Some(another().await?);
            }
            rollback(sql).await?;
        }
        self.complete().await
    }

    /// Reads the tables in one transaction that takes its snapshot behind the locks.
    pub(crate) async fn read_together(&mut self, sql: &SqlConnection, control: &SqlConnection, tables: &[TableDefinition]) -> Result<()> {
        let locked = loop {
            sql.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                .await
                .map_err(|error| sql_error("begin the snapshot", error))?;
            match self.lock_all(sql, control, tables).await? {
                Some(locked) => break locked,
                None => rollback(sql).await?,
            }
        };
        self.writer.notify(self.context, Happening::Started, &[]).await?;
        let anchor = self.position.resume;
        for table in &locked {
            self.read(sql, table, anchor).await?;
        }
        rollback(sql).await?;
        self.complete().await
    }

    /// Locks the tables that are still there. `None` if somebody waits for one of them: all has to be begun anew.
    async fn lock_all(
        &self,
        sql: &SqlConnection,
        control: &SqlConnection,
        tables: &[TableDefinition],
    ) -> Result<Option<Vec<TableDefinition>>> {
        let mut locked = Vec::with_capacity(tables.len());
        for table in tables {
            match self.lock(sql, control, table).await? {
                Locked::Table(table) => locked.push(*table),
                Locked::Gone => {}
                Locked::Contended => return Ok(None),
            }
        }
        Ok(Some(locked))
    }

    /// Locks the table and returns its definition as of now, which holds until the transaction ends.
    async fn lock(&self, sql: &SqlConnection, control: &SqlConnection, table: &TableDefinition) -> Result<Locked> {
        let timeout = self.config.relational.snapshot_lock_timeout.as_millis();
        let statement = format!("SET LOCAL lock_timeout = {timeout}; LOCK TABLE {} IN ACCESS SHARE MODE", table.quoted());
        let locked = sql.batch_execute(&statement).await;
        match locked {
            Ok(()) => {}
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                warn!(table = %table.full_name(), "the table was dropped before the snapshot read it");
                return Ok(Locked::Gone);
            }
            Err(error) => {
                let error = sql_error("lock the table for its snapshot", error).scoped(Scope::Table(table.full_name()));
                return Err(match error.kind() {
                    ErrorKind::TimedOut => error.mend(format!(
                        "end the transaction that holds it: SELECT pid, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks \
                         WHERE relation = {}); or raise snapshot.lock.timeout.ms",
                        table.oid
                    )),
                    ErrorKind::Unauthorised => {
                        error.mend(format!("GRANT SELECT ON {} TO {};", table.quoted(), quote_identifier(&self.config.user)))
                    }
                    _ => error,
                });
            }
        }
        // By another session: this one may see the catalog of the past. Where somebody waits for a stronger lock the other
        // session waits behind them, and they for this one, which the server cannot see: then this one lets go.
        let doing = "limit the wait for the catalog";
        let limit = format!("SET lock_timeout = {}", CATALOG_WAIT.as_millis());
        control.batch_execute(&limit).await.map_err(|error| sql_error(doing, error))?;
        let loaded = TableDefinition::load(control, Some(table.oid)).await;
        control.batch_execute("RESET lock_timeout").await.map_err(|error| sql_error(doing, error))?;
        match loaded {
            Ok(tables) => Ok(tables.into_iter().next().map_or(Locked::Gone, |table| Locked::Table(Box::new(table)))),
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Locked::Contended),
            Err(error) => Err(error),
        }
    }

    async fn read(&mut self, sql: &SqlConnection, table: &TableDefinition, anchor: Lsn) -> Result<()> {
        let published = self.publication.and_then(|publication| publication.table(table));
        let generated = self.publication.is_some_and(|publication| publication.generated);
        let shape = Shape::of_definition(table, published.and_then(|published| published.columns.as_deref()), generated);
        let plan = self.plans.of_definition(self.blocks, table, shape)?;
        let query = select(self.config, table, &plan, published.and_then(|published| published.row_filter.as_deref()));
        let pending: Arc<str> = format!("{}@{anchor}", plan.full_name).into();
        let failed = |error| sql_error("read the rows of the table", error).scoped(Scope::Table(table.full_name()));

        let columns: Vec<usize> = (0..plan.shape.columns.len()).filter(|&index| plan.codec(index).is_some()).collect();
        let formats: Vec<Format> = columns.iter().filter_map(|&index| plan.codec(index)).map(copy_format).collect();
        let name = table.full_name();
        let collections = self.writer.collections.clone();
        let progress = [("current_collection_in_progress", name.as_str()), ("data_collections", &collections)];
        self.writer.notify(self.context, Happening::InProgress, &progress).await?;
        let mut rows = 0;
        let mut reader = CopyRows::default();
        let pieces = sql.copy_out(&query).await.map_err(failed)?;
        pin_mut!(pieces);
        while let Some(piece) = pieces.next().await {
            reader.push(piece.map_err(failed)?);
            while let Some(row) = reader.next_row(columns.len())? {
                if self.writer.reservation.is_none() {
                    // I6: before a row is decoded.
                    self.writer.reservation = Some(self.context.reserve(BATCH).await);
                    self.writer.now = now();
                }
                let mut fields = CopyRow::new(&row);
                let arena = &mut self.writer.arena;
                let mut formats = formats.iter();
                let change = plan.read(|_, codec| match (fields.next_field(), formats.next()) {
                    (Some(field), Some(format)) => {
                        codec.decode(*format, &field, arena).map_err(|error| error.scoped(Scope::Table(plan.full_name.clone())))
                    }
                    (Some(_) | None, _) => Ok(Value::Null),
                })?;
                self.row(&plan, change, rows == 0, &pending).await?;
                rows += 1;
            }
        }
        if !reader.has_ended() {
            let error = Error::new(ErrorKind::Unreadable, "read the rows of the table").because("the COPY ended without its trailer");
            return Err(error.scoped(Scope::Table(table.full_name())));
        }
        let count = rows.to_string();
        let scanned = [
            ("scanned_collection", name.as_str()),
            ("total_rows_scanned", &count),
            ("data_collections", &collections),
            ("status", "SUCCEEDED"),
        ];
        self.writer.notify(self.context, Happening::TableScanCompleted, &scanned).await?;
        self.writer.first_table = false;
        let table = CompletedTable { name: plan.full_name.clone(), anchor, rows };
        self.writer.finished.push(FinishedTable { table, pending: (rows > 0).then_some(pending) });
        Ok(())
    }

    /// Takes a row; the row before it is now known not to be the last.
    async fn row(&mut self, plan: &Arc<TablePlan>, change: Change, first_of_table: bool, pending: &Arc<str>) -> Result<()> {
        if let Some(earlier) = self.writer.release(self.blocks, first_of_table, false)
            && (first_of_table || self.writer.weight >= BATCH)
        {
            self.writer.send(self.context, earlier).await?;
        }
        if first_of_table && !self.writer.finished.is_empty() {
            let server = &self.config.relational.topic_prefix;
            self.writer.publish(self.context, server, &mut self.completed, Vec::new()).await?;
        }
        let first_of_all = first_of_table && self.writer.first_table;
        self.writer.held = Some(HeldRow { plan: plan.clone(), change, first_of_all, first_of_table, pending: pending.clone() });
        Ok(())
    }

    /// Publishes what is left, with the position that says that the snapshot is complete.
    async fn complete(&mut self) -> Result<()> {
        if let Some(pending) = self.writer.release(self.blocks, true, true) {
            self.writer.send(self.context, pending).await?;
        }
        self.writer.reservation = None;
        if self.position.snapshot == SnapshotProgress::Running {
            self.position.snapshot = SnapshotProgress::Completed;
        }
        let server = &self.config.relational.topic_prefix;
        let mut state = vec![self.position.change(server)];
        state.append(&mut self.at_end);
        self.writer.publish(self.context, server, &mut self.completed, state).await?;
        self.writer.notify(self.context, Happening::Completed, &[]).await
    }
}

/// Binary where both sides know it; other types are cast to text.
pub(crate) fn copy_format(codec: &crate::data_types::ColumnCodec) -> Format {
    if codec.supports_binary() { Format::Binary } else { Format::Text }
}

/// The COPY that reads the captured columns of a table.
fn select(config: &PostgresConfig, table: &TableDefinition, plan: &TablePlan, row_filter: Option<&str>) -> String {
    let name = table.full_name();
    let statement =
        config.relational.snapshot_selects.iter().find(|(table, _)| table.eq_ignore_ascii_case(&name)).map(|(_, statement)| statement);
    let columns: Vec<String> = plan
        .shape
        .columns
        .iter()
        .enumerate()
        .filter_map(|(index, column)| {
            let codec = plan.codec(index)?;
            let quoted = quote_identifier(&column.name);
            let definition = table.columns.iter().find(|definition| definition.name == column.name)?;
            Some(match (copy_format(codec), statement) {
                (Format::Text, _) => format!("{quoted}::text"),
                // A statement of the user may select another type than the column's.
                (Format::Binary, Some(_)) => format!("{quoted}::{}", definition.type_name),
                (Format::Binary, None) => quoted,
            })
        })
        .collect();
    let from = match statement {
        Some(statement) => format!("({}) AS rows_to_read", statement.trim().trim_end_matches(';')),
        // Rows of inheriting tables are those tables' own.
        None if table.partitioned => table.quoted(),
        None => format!("ONLY {}", table.quoted()),
    };
    let filter = row_filter.filter(|_| statement.is_none()).map_or_else(String::new, |filter| format!(" WHERE {filter}"));
    format!("COPY (SELECT {} FROM {from}{filter}) TO STDOUT (FORMAT binary)", columns.join(", "))
}

async fn begin(sql: &SqlConnection, anchor: &Anchor) -> Result<()> {
    let adopt = anchor.exported.as_deref().map_or_else(String::new, |name| format!("; SET TRANSACTION SNAPSHOT '{name}'"));
    let statement = format!("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY{adopt}");
    sql.batch_execute(&statement).await.map_err(|error| sql_error("adopt the exported snapshot", error))
}

async fn rollback(sql: &SqlConnection) -> Result<()> {
    sql.batch_execute("ROLLBACK").await.map_err(|error| sql_error("end the reading of a table", error))
}

/// Whether a leaf of the table stands in another file than the snapshot's, so that its rows cannot be seen.
async fn was_rewritten(sql: &SqlConnection, table: &TableDefinition) -> Result<bool> {
    // pg_class is read as the snapshot sees it; the function answers as of now. A leaf that the snapshot does not
    // know was attached later. Only partitions and partitioned tables have a tree.
    let query = "SELECT EXISTS (SELECT FROM (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf UNION SELECT $1::oid) t \
                 LEFT JOIN pg_class c ON c.oid = t.relid \
                 WHERE (c.relkind IS DISTINCT FROM 'p') AND (c.oid IS NULL OR c.relfilenode IS DISTINCT FROM pg_relation_filenode(t.relid)))";
    let row = sql.query_one(query, &[&table.oid]).await.map_err(|error| sql_error("compare the files of the table", error))?;
    Ok(row.get(0))
}

/// The tables that a snapshot reads, in its order: those to capture, where `snapshot.include.collection.list` names
/// them, and of a partitioned table either the root or the leaves, as it is published.
pub(crate) fn tables_to_read(
    config: &PostgresConfig,
    publication: Option<&Publication>,
    captured: &[&TableDefinition],
) -> Vec<TableDefinition> {
    let relational = &config.relational;
    let by_root = |table: &TableDefinition| match publication {
        Some(publication) => publication.table(table).is_some(),
        None => config.publish_via_root,
    };
    let read = |table: &TableDefinition| {
        let covered = table.ancestors.iter().any(|oid| captured.iter().any(|other| other.oid == *oid && by_root(other)));
        let named = relational.snapshot_tables.is_empty() || relational.snapshot_tables.matches(&table.full_name());
        named && if table.partitioned { by_root(table) && !covered } else { !covered }
    };
    let mut tables: Vec<TableDefinition> = captured.iter().filter(|table| read(table)).map(|table| (*table).clone()).collect();
    match relational.snapshot_order {
        // As Debezium does: first in the order of the include list, then by name.
        TableOrder::Name => tables.sort_by_cached_key(|table| {
            let name = table.full_name();
            (relational.tables.tables.place(&name), name)
        }),
        TableOrder::Ascending => tables.sort_by(|one, two| one.rows.total_cmp(&two.rows)),
        TableOrder::Descending => tables.sort_by(|one, two| two.rows.total_cmp(&one.rows)),
    }
    // As Debezium does.
    tables.sort_by_key(|table| config.is_signal_table(&table.schema, &table.name));
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_marked_as_debezium_marks_them() {
        // An empty table, one with one row, one with three: the recorded case snapshot-markers.
        let one = mark(false, true, true, false);
        let three = [mark(false, true, false, false), mark(false, false, false, false), mark(false, false, true, true)];
        assert_eq!(one, SnapshotMark::LastInTable);
        assert_eq!(three, [SnapshotMark::FirstInTable, SnapshotMark::Inside, SnapshotMark::Last]);
        // A first table of one row, then others: the recorded case truncate-many.
        assert_eq!(mark(true, true, true, false), SnapshotMark::First);
        assert_eq!(mark(true, true, true, true), SnapshotMark::Last);
        assert_eq!(mark(true, true, false, false), SnapshotMark::First);
    }
}
