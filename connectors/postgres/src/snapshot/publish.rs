//! What the readers of a snapshot tell becomes records with their marks, and tables that are published.
//!
//! Of each table that is being read the newest row is held back: it may be the last one. It is the last of its table when the
//! readers have left that, and not the last of all as long as a row of another table is held back or comes.

use std::collections::VecDeque;
use std::sync::Arc;

use tailwater_api::Result;
use tailwater_api::metrics::Counter;
use tailwater_api::record::Record;
use tailwater_api::source::{PendingId, Reservation, SourceBatch, SourceContext};
use tailwater_api::state::StateChange;
use tailwater_kit::envelope::SnapshotMark;
use tailwater_kit::java_hash;
use tailwater_kit::notification::{Aggregate, Happening, Notifications};
use tailwater_kit::snapshot_figures::{SnapshotFigures, TableFigures};
use tracing::{info, warn};

use super::reader::{Planned, Told};
use super::select::Select;
use super::{PublishedSoFar, Snapshot};
use crate::catalog::{Publication, PublishedTable, TableDefinition};
use crate::config::PostgresConfig;
use crate::event::{Blocks, Place};
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::position::{Position, SnapshotProgress};
use crate::relation::Shape;
use crate::source::owed_advice;
use crate::table_states::{CompletedTable, owed};
use crate::truncation::truncation;

pub(super) struct Publisher<'a> {
    config: &'a Arc<PostgresConfig>,
    context: &'a mut SourceContext,
    plans: &'a mut Plans,
    blocks: &'a Blocks,
    publication: Option<&'a Publication>,
    completed: Vec<CompletedTable>,
    position: Position,
    is_asked_for: bool,
    at_end: Vec<StateChange>,
    figures: &'a SnapshotFigures,
    published: &'a PublishedSoFar,
    tables: Vec<Table<'a>>,
    /// Tables read to their end that are not published yet, in that order
    ended: VecDeque<usize>,
    /// Whether no earlier run has read a table
    is_first: bool,
    place: Place,
    scanned: Counter,
    notifications: Notifications,
    /// `data_collections` of notifications: while a table is read, and when it was
    in_progress: String,
    scanned_of: String,
}

struct Table<'a> {
    /// That under which its rows are told, once it is opened
    name: String,
    oid: u32,
    /// As the publication knew it at the start
    published: Option<&'a PublishedTable>,
    pending: PendingId,
    anchor: Lsn,
    /// Its rows begin with a truncation.
    is_outdated: bool,
    /// Its changes are dropped until all tables are read (I10).
    is_errored: bool,
    rows: u64,
    /// The newest row
    held: Option<Held>,
    figures: TableFigures,
}

struct Held {
    record: Record,
    first_of_all: bool,
    first_of_table: bool,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(snapshot: Snapshot<'a>, tables: &[TableDefinition], place: Place) -> Self {
        let Snapshot {
            config,
            context,
            plans,
            blocks,
            publication,
            completed,
            position,
            is_asked_for,
            outdated,
            errored,
            at_end,
            place: _,
            figures,
            published,
            cancellations: _,
        } = snapshot;
        let relational = &config.relational;
        let table = |table: &TableDefinition| {
            let name = table.full_name();
            let figures = figures.table(&name, 0);
            let published = publication.and_then(|publication| publication.table(table.oid));
            Table {
                is_outdated: outdated.contains(&name),
                is_errored: errored.contains(&name),
                name,
                oid: table.oid,
                published,
                pending: "".into(),
                anchor: Lsn::INVALID,
                rows: 0,
                held: None,
                figures,
            }
        };
        Self {
            tables: tables.iter().map(table).collect(),
            ended: VecDeque::new(),
            is_first: completed.is_empty(),
            place,
            scanned: context.metrics().counter("snapshot_rows", "Rows that snapshots read.", None),
            notifications: Notifications::new(&relational.notifications, &relational.topic_prefix),
            in_progress: in_progress(tables),
            scanned_of: scanned_of(config, is_asked_for, tables),
            config,
            context,
            plans,
            blocks,
            publication,
            completed,
            position,
            is_asked_for,
            at_end,
            figures,
            published,
        }
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        self.notify(Happening::Started, &[]).await
    }

    pub(super) async fn take(&mut self, told: Told) -> Result<()> {
        match told {
            Told::Opened { table, definition, rows, anchor, reply } => {
                let planned = self.open(table, &definition, rows, anchor).await?;
                // A reader that is gone says itself why.
                let _ = reply.send(planned);
                Ok(())
            }
            Told::Rows { table, records, octets, reservation } => self.rows(table, records, octets, reservation).await,
            Told::Ended { table } => self.end(table).await,
            Told::Gone { table } => {
                self.figures.leave_out(&self.tables[table].figures);
                let name = self.tables[table].name.clone();
                self.owe(&name).await
            }
        }
    }

    async fn open(&mut self, number: usize, definition: &TableDefinition, rows: Option<u64>, anchor: Lsn) -> Result<Planned> {
        let published = self.tables[number].published;
        let generated = self.publication.is_some_and(|publication| publication.generated);
        let shape = Shape::of_definition(definition, published.and_then(|published| published.columns.as_deref()), generated);
        let plan = self.plans.of_definition(self.blocks, definition, shape)?;
        let select = Select::new(self.config, definition, &plan);
        let table = &mut self.tables[number];
        let name = definition.full_name();
        if table.name != name {
            self.figures.leave_out(&table.figures);
            table.figures = self.figures.table(&name, 0);
            let former = std::mem::replace(&mut table.name, name);
            self.owe(&former).await?;
        }
        let table = &mut self.tables[number];
        table.pending = format!("{}@{anchor}", table.name).into();
        table.anchor = anchor;
        table.figures.begin(rows);
        if table.is_outdated {
            self.send(number, truncation(&plan, self.blocks, &self.place), outside_the_budget()).await?;
        }
        let (name, collections) = (self.tables[number].name.clone(), self.in_progress.clone());
        let progress = [("current_collection_in_progress", name.as_str()), ("data_collections", &collections)];
        self.notify(Happening::InProgress, &progress).await?;
        Ok(Planned { plan, select, published: published.cloned() })
    }

    /// Nothing is read under a name that stood there when the snapshot began, unless another table of it has it by its turn. Stored at
    /// once: a start that goes on with the snapshot does not see that the name is missing.
    async fn owe(&mut self, name: &str) -> Result<()> {
        if self.is_asked_for || self.position.log.is_none() || self.completed.iter().any(|done| done.name == name) {
            return Ok(());
        }
        warn!(table = %name, "{}", owed_advice(name));
        let state = vec![owed(&self.config.relational.topic_prefix, name)];
        self.context.send(SourceBatch { state, ..SourceBatch::default() }, outside_the_budget()).await?;
        Ok(())
    }

    async fn rows(&mut self, number: usize, mut records: Vec<Record>, octets: usize, reservation: Reservation) -> Result<()> {
        let table = &mut self.tables[number];
        let count = records.len() as u64;
        let Some(last) = records.pop() else { return Ok(()) };
        let first_of_table = table.rows == 0;
        let first_of_all = first_of_table && number == 0 && self.is_first;
        table.rows += count;
        table.figures.add(count, octets as u64);
        self.figures.tick();
        self.scanned.add(count);
        let is_only = records.is_empty();
        let newest = Held { record: last, first_of_all: first_of_all && is_only, first_of_table: first_of_table && is_only };
        match table.held.replace(newest) {
            Some(earlier) => records.insert(0, earlier.marked(false, false)),
            None => records.iter_mut().take(1).for_each(|first| mark(first_of_all, true, false, false).set(first)),
        }
        if first_of_table {
            // Those that have waited for it come first.
            self.publish_ended().await?;
        }
        self.send(number, records, reservation).await
    }

    async fn end(&mut self, number: usize) -> Result<()> {
        let (name, count) = (self.tables[number].name.clone(), self.tables[number].rows.to_string());
        let collections = self.scanned_of.clone();
        let scanned = [
            ("scanned_collection", name.as_str()),
            ("total_rows_scanned", &count),
            ("data_collections", &collections),
            ("status", "SUCCEEDED"),
        ];
        self.notify(Happening::TableScanCompleted, &scanned).await?;
        self.ended.push_back(number);
        self.publish_ended().await
    }

    /// Publishes the tables whose last row is known not to be the last of all.
    async fn publish_ended(&mut self) -> Result<()> {
        while let Some(place) = self.ended.iter().position(|number| {
            let others = self.tables.iter().enumerate().filter(|(other, _)| other != number);
            self.tables[*number].held.is_none() || others.into_iter().any(|(_, other)| other.held.is_some())
        }) {
            let Some(number) = self.ended.remove(place) else { break };
            self.publish(number, false, Vec::new()).await?;
        }
        Ok(())
    }

    /// Publishes a table with its state, and whatever else is to be stored then.
    async fn publish(&mut self, number: usize, last_of_all: bool, more: Vec<StateChange>) -> Result<()> {
        if let Some(held) = self.tables[number].held.take() {
            self.send(number, vec![held.marked(true, last_of_all)], outside_the_budget()).await?;
        }
        let table = &mut self.tables[number];
        info!(table = %table.name, rows = table.rows, anchor = %table.anchor, "the snapshot of the table is complete");
        self.figures.complete(&mut table.figures);
        let complete = CompletedTable { name: table.name.clone(), oid: Some(table.oid), anchor: table.anchor, rows: table.rows };
        let mut batch = SourceBatch::default();
        batch.publish.extend((table.rows > 0 || table.is_outdated).then(|| table.pending.clone()));
        if !self.is_asked_for || last_of_all && table.is_errored {
            batch.state.push(complete.change(&self.config.relational.topic_prefix));
        }
        // Last: where changes of the state become durable one after another, a position that says that the snapshot is complete must
        // not be there without its tables, which would be read again as new ones.
        batch.state.extend(more);
        self.completed.push(complete);
        let oid = table.oid;
        self.context.send(batch, outside_the_budget()).await?;
        self.published.add(oid);
        Ok(())
    }

    /// Sends rows as pending ones.
    async fn send(&mut self, number: usize, records: Vec<Record>, reservation: Reservation) -> Result<()> {
        if !records.is_empty() {
            let pending = Some(self.tables[number].pending.clone());
            self.context.send(SourceBatch { records, pending, ..SourceBatch::default() }, reservation).await?;
        }
        Ok(())
    }

    /// Publishes what is left, with the position that says that the snapshot is complete.
    pub(super) async fn complete(mut self) -> Result<(Position, Vec<CompletedTable>)> {
        // Tables that came later are read beside a position that is streaming already.
        if self.position.snapshot == SnapshotProgress::Running {
            self.position.snapshot = SnapshotProgress::Completed;
        }
        let server = &self.config.relational.topic_prefix;
        let mut state = vec![self.position.change(server)];
        if self.is_asked_for {
            // Not with their rows: as long as others can fail, whoever follows the log drops the changes of errored tables (I10).
            let is_mended = |done: &&CompletedTable| self.tables.iter().any(|table| table.is_errored && table.name == done.name);
            state.extend(self.completed.iter().filter(is_mended).map(|table| table.change(server)));
        }
        state.append(&mut self.at_end);
        // At most one table has waited until now: of two, one would have been published for the other's sake.
        match self.ended.pop_front() {
            Some(number) => self.publish(number, true, state).await?,
            None => drop(self.context.send(SourceBatch { state, ..SourceBatch::default() }, outside_the_budget()).await?),
        }
        self.published.seal();
        self.notify(Happening::Completed, &[]).await?;
        Ok((self.position, self.completed))
    }

    /// Tells how far the snapshot is.
    async fn notify(&mut self, happening: Happening, data: &[(&str, &str)]) -> Result<()> {
        if let Some(record) = self.notifications.give(Aggregate::InitialSnapshot, happening, data) {
            self.context.send(SourceBatch { records: vec![record], ..SourceBatch::default() }, outside_the_budget()).await?;
        }
        Ok(())
    }
}

/// The tables as Debezium names them while it reads: in the order of a Java set.
fn in_progress(tables: &[TableDefinition]) -> String {
    let mut names: Vec<_> = tables.iter().map(TableDefinition::full_name).collect();
    names.sort();
    java_hash::sort(&mut names, |name| name);
    names.join(",")
}

/// The tables as Debezium names them once it has read one: in the order of the include list, and with the signalling table, which the
/// snapshot at the start leaves out.
fn scanned_of(config: &PostgresConfig, is_asked_for: bool, tables: &[TableDefinition]) -> String {
    let relational = &config.relational;
    let mut names: Vec<_> = tables.iter().map(TableDefinition::full_name).collect();
    if !is_asked_for {
        let left_out = relational.signals.table.clone().filter(|name| relational.snapshot_tables.is_empty() && !names.contains(name));
        names.extend(left_out);
        names.sort_by_cached_key(|name| (relational.tables.tables.place(name), name.clone()));
    }
    names.join(",")
}

/// What is sent here is small, or one row. It does not wait for room: the readers may hold all there is until they are heard.
fn outside_the_budget() -> Reservation {
    Reservation::new(0, |_| {})
}

impl Held {
    /// The record, now that it is known whether it is a last one.
    fn marked(mut self, last_of_table: bool, last_of_all: bool) -> Record {
        mark(self.first_of_all, self.first_of_table, last_of_table, last_of_all).set(&mut self.record);
        self.record
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
