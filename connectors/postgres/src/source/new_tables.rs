//! Tables that came since the last run: which they are, and reading them.
//!
//! Each table has a state once it is read or followed (`table_states`), with the oid that it had. A captured table without one came
//! later; so did one of another oid, unless the publication told of all its rows since it was made. Where its name was captured
//! before, consumers have rows that are none of its own (`truncation`). Where the former table of its name was not even read to its end
//! by the snapshot at the start, it is read whatever `snapshot.new.tables` says; so is one that was renamed before its turn. A name that
//! no captured table has at that moment is *owed* in the state until one is read (`succession`).

use tailwater_api::Result;
use tailwater_api::source::{SourceBatch, SourceContext};
use tailwater_api::state::SourceState;
use tracing::{info, warn};

use super::succession::is_complete;
use super::{Run, captured, figures_of, is_readable, send_state, unreadable_advice};
use crate::arrivals::is_published_from_birth;
use crate::catalog::TableDefinition;
use crate::chunks::is_chunked;
use crate::lsn::Lsn;
use crate::position::Position;
use crate::replication::is_out_of_slots;
use crate::snapshot::{PublishedSoFar, Snapshot, tables_to_read, temporary_anchor};
use crate::table_states::{CompletedTable, ReadingTable, are_tables_known, outdated_tables, tables_known};
use crate::truncation::{self, truncations};

impl Run {
    /// The tables that are there, to be followed without having been read.
    pub(super) fn read_by_nobody(&self) -> Vec<CompletedTable> {
        let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        let unread = |table: &TableDefinition| CompletedTable {
            name: table.full_name(),
            oid: Some(table.oid),
            // Each event of the table is needed, so nothing is dropped by an anchor.
            anchor: Lsn::INVALID,
            rows: 0,
        };
        tables.iter().map(unread).collect()
    }

    /// Whether a captured table without a state came later than the others, which may all be left out by now.
    pub(super) fn knows_tables(&self, state: &SourceState) -> bool {
        let server = &self.config.relational.topic_prefix;
        let is_reading = self.reading.iter().any(|table| table.request.is_none());
        let were_complete = || !CompletedTable::load_all(state, server).is_empty() || !outdated_tables(state, server).is_empty();
        is_reading || self.owes_rows() || were_complete() || are_tables_known(state, server)
    }

    /// Reads the tables that came since the last run. Returns all tables that are complete then. A position that was taken over, or
    /// that of a run which kept no states of tables, knows none of them; then those that are there are the old ones.
    pub(super) async fn read_new_tables(
        &mut self,
        context: &mut SourceContext,
        position: &Position,
        completed: Vec<CompletedTable>,
    ) -> Result<Vec<CompletedTable>> {
        let server = self.config.relational.topic_prefix.clone();
        if !self.knows_tables(context.state()) {
            let mut completed = self.read_by_nobody();
            completed.retain(|table| !self.errored.iter().any(|errored| errored.name == table.name));
            let mut state = vec![tables_known(&server, position.resume)];
            state.extend(completed.iter().map(|table| table.change(&server)));
            send_state(context, state).await?;
            return Ok(completed);
        }
        self.read_unknown_tables(context, position, completed).await
    }

    /// Reads the tables without a state: in chunks, where that can be done, or in the snapshot of a temporary slot, anchored there.
    /// Returns all tables that are complete then.
    pub(super) async fn read_unknown_tables(
        &mut self,
        context: &mut SourceContext,
        position: &Position,
        completed: Vec<CompletedTable>,
    ) -> Result<Vec<CompletedTable>> {
        let server = self.config.relational.topic_prefix.clone();
        let mut tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        let from_birth = |table: &TableDefinition| self.publication.as_ref().is_some_and(|known| is_published_from_birth(known, table));
        tables.retain(|table| {
            let name = table.full_name();
            let is_successor = self.is_successor(table);
            // The log told of a table from its birth, but not of a successor under the name that it has now.
            let is_told = !is_successor && completed.iter().any(|done| done.name == name && (done.oid.is_none() || from_birth(table)));
            let is_known = is_told || is_complete(&completed, table);
            // One that is errored is read where a signal asks for it.
            let is_errored = self.errored.iter().any(|errored| errored.name == name);
            let is_wanted = self.config.snapshot.reads_new_tables || is_successor;
            is_wanted
                && !is_known
                && !is_errored
                && !self.reading.iter().any(|reading| reading.oid == table.oid && reading.request.is_none())
        });
        // I10: one that the role may not read does not keep the others from being followed.
        for table in tables.extract_if(.., |table| !is_readable(table)) {
            warn!(table = %table.full_name(), "{}", unreadable_advice(&self.facts, &table));
            self.unread.push(table.oid);
        }
        if tables.is_empty() {
            return Ok(completed);
        }
        let names = tables.iter().map(TableDefinition::full_name).collect::<Vec<_>>().join(", ");
        info!("tables came since the last run, and are read: {names}");
        let is_replaced = |table: &TableDefinition| self.is_successor(table) || completed.iter().any(|done| done.name == table.full_name());
        let is_anew = |table: &&TableDefinition| self.outdated.contains(&table.full_name()) || is_replaced(table);
        let anew: Vec<_> = tables.iter().filter(is_anew).cloned().collect();
        let outdated = truncation::told(&self.config, &captured(&self.config, &self.definitions), &anew);
        // What the log still has of a former table of the name is dropped by an anchor, which only the snapshot of a slot gives: the
        // windows know tables by their oid.
        let (chunked, whole): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|table| is_chunked(&self.config, table) && !is_replaced(table));
        self.outdated = outdated;
        if !chunked.is_empty() {
            let emptied = chunked.iter().filter(|table| self.outdated.contains(&table.full_name()));
            let records = truncations(emptied, self.publication.as_ref(), &mut self.plans, &self.blocks, position)?;
            let waiting =
                |table: &TableDefinition| ReadingTable { name: table.full_name(), oid: table.oid, rows: 0, range: None, request: None };
            let chunked: Vec<_> = chunked.iter().map(waiting).collect();
            let state = chunked.iter().map(|table| table.change(&server)).collect();
            let reservation = context.reserve(0).await;
            context.send(SourceBatch { records, state, ..SourceBatch::default() }, reservation).await?;
            self.reading.extend(chunked);
        }
        if whole.is_empty() {
            return Ok(completed);
        }
        let names: Vec<_> = whole.iter().map(TableDefinition::full_name).collect();
        let anchor = match temporary_anchor(&self.config, &self.sql).await {
            Ok(anchor) => anchor,
            // I10: nobody may ever give a slot back, and the other tables have one to be followed by.
            Err(error) if is_out_of_slots(&error) => {
                warn!(
                    "tables came since the last run, and only their changes are captured, since reading what they held before takes a slot for a \
                     while: {}: {error}. To mend it: {}; and then restart the connector, which reads them",
                    names.join(", "),
                    error.remedy().unwrap_or("drop slots that nobody uses")
                );
                self.unread.extend(whole.iter().map(|table| table.oid));
                // The state keeps what is owed for the next start; a look would begin it at once.
                self.owed.retain(|name| !names.contains(name));
                return Ok(completed);
            }
            Err(error) => return Err(error),
        };
        // The names that no table has when all are read are owed.
        self.owed.extend(names);
        let place = self.message_at(anchor.lsn).await?;
        let figures = figures_of(context, &completed);
        let snapshot = Snapshot {
            config: &self.config,
            context,
            plans: &mut self.plans,
            blocks: &self.blocks,
            publication: self.publication.as_ref(),
            completed,
            position: position.clone(),
            place,
            is_asked_for: false,
            outdated: &self.outdated,
            errored: &[],
            at_end: Vec::new(),
            figures: &figures,
            published: &PublishedSoFar::default(),
            cancellations: &self.cancellations,
        };
        let (_, completed) = snapshot.read_all(whole, anchor).await?;
        Ok(completed)
    }
}
