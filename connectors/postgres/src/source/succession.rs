//! What is read, or told of, in place of a table that went, above all before the snapshot at the start had read it to its end.
//!
//! What that snapshot was to read is what stands under the captured names (I11). A table that is read in chunks may be renamed, or
//! dropped, and another may take its name before its turn:
//!
//! - A captured table that has its name, or is itself under another name, is its *successor*, and the start reads that from the
//!   beginning, whatever `snapshot.new.tables` says. A successor is known by its oid: that a table of its name is complete, or that the
//!   publication tells of it from its birth, says nothing of rows that it got under another name.
//! - What a table was read for is forgotten only when each of its successors is complete, so a crash before that repeats the search.
//! - A table without a successor leaves its name *owed* in the state. A captured table that takes the name later is a successor, too,
//!   for the start that finds it; the complete state of that one then overwrites the debt. While the log is followed, `arrivals` looks
//!   for such a table, and ends the run.
//! - The snapshot of a slot reads a table under the name that it has in its turn. The name under which that was to be read is owed then,
//!   unless it is complete by another table; so is that of a table which is gone.
//! - A table that takes the name of a *complete* one is read where `snapshot.new.tables` says so and the publication does not tell of it
//!   from its birth. Otherwise the start that finds it warns, and `arrivals` does.

use std::collections::HashSet;

use tailwater_api::Result;
use tailwater_api::source::SourceContext;
use tailwater_api::state::SourceState;
use tailwater_kit::filters::expression_of;
use tracing::warn;

use super::unpublished::told_elsewhere;
use super::{Run, captured, send_state};
use crate::catalog::TableDefinition;
use crate::config::SnapshotWhen;
use crate::position::{Position, SnapshotProgress};
use crate::snapshot::tables_to_read;
use crate::table_states::{CompletedTable, ReadingTable, outdated, owed, owed_tables};

impl Run {
    /// Takes the tables out of those to be read that were renamed, or whose name another table has, since the snapshot at the start
    /// began. What it was to read is what stands under the captured names (I11), so that is read in their place, also where a name
    /// was free for a while.
    pub(super) fn find_superseded(&mut self, state: &SourceState, completed: &[CompletedTable]) {
        if !self.config.snapshot.finishes_tables() {
            return;
        }
        self.owed = owed_tables(state, &self.config.relational.topic_prefix);
        let captured = captured(&self.config, &self.definitions);
        let is_superseded = |table: &mut ReadingTable| table.request.is_none() && table.is_superseded(&captured);
        self.superseded = self.reading.extract_if(.., is_superseded).collect();
        let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        for former in &self.superseded {
            let successors = tables.iter().filter(|table| former.is_superseded_by(table) && !is_complete(completed, table));
            let names = successors.map(TableDefinition::full_name).collect::<Vec<_>>().join(", ");
            warn!(
                table = %former.name, rows = former.rows,
                "before the snapshot had read the table to its end it was renamed, or another took its name. Still to be read in its place, from \
                 the beginning: {}",
                if names.is_empty() { "nothing" } else { &names }
            );
        }
    }

    /// Forgets the tables that the filters leave out by now, under whatever name, and those whose rows are told under other names, since
    /// `publish_via_partition_root` changed. From here on no record tells of their changes, so one that comes back is read anew, if it is
    /// read.
    pub(super) async fn forget_left_out(
        &mut self,
        context: &mut SourceContext,
        stored: Option<&Position>,
        completed: &mut Vec<CompletedTable>,
    ) -> Result<()> {
        let left_out: Vec<_> = self
            .definitions
            .iter()
            .filter(|table| !self.config.captures(&table.schema, &table.name))
            .map(|table| (table.oid, table.full_name()))
            .collect();
        let is_left_out =
            |oid: Option<u32>, name: &str| left_out.iter().any(|(other, full_name)| oid.map_or(full_name == name, |oid| oid == *other));
        let server = self.config.relational.topic_prefix.clone();
        let elsewhere = self.publication.iter().flat_map(|publication| told_elsewhere(&self.config, publication, &self.definitions));
        let elsewhere: HashSet<u32> = elsewhere.map(|table| table.oid).collect();
        let is_elsewhere = |oid: Option<u32>| oid.is_some_and(|oid| elsewhere.contains(&oid));
        let is_not_told = |table: &mut CompletedTable| is_left_out(table.oid, &table.name) || is_elsewhere(table.oid);
        let complete: Vec<_> = completed.extract_if(.., is_not_told).collect();
        let is_running = stored.is_some_and(|position| position.snapshot == SnapshotProgress::Running);
        let reads = self.config.snapshot.read == SnapshotWhen::Always || is_running || self.config.snapshot.reads_new_tables;
        let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        for table in tables.iter().filter(|table| !reads && complete.iter().any(|former| former.name == table.full_name())) {
            warn!("{}", replaced_advice(table));
        }
        let complete = complete.iter().map(|table| outdated(&server, &table.name));
        let of_snapshot = |table: ReadingTable| match table.request {
            Some(_) => table.removal(&server),
            None => {
                warn!(
                    table = %table.name, rows = table.rows,
                    "before the snapshot had read the table to its end the filters left it out, or it was renamed to what they leave out. {}",
                    owed_advice(&table.name)
                );
                self.owed.push(table.name.clone());
                owed(&server, &table.name)
            }
        };
        let reading = self.reading.extract_if(.., |table| is_left_out(Some(table.oid), &table.name)).map(of_snapshot);
        let state: Vec<_> = complete.chain(reading).collect();
        if state.is_empty() { Ok(()) } else { send_state(context, state).await }
    }

    /// Whether there are tables that the snapshot did not read to their end and in whose place others are read.
    pub(super) fn owes_rows(&self) -> bool {
        !self.superseded.is_empty() || !self.owed.is_empty()
    }

    /// Whether the table is read in place of one that the snapshot did not read to its end.
    pub(super) fn is_successor(&self, table: &TableDefinition) -> bool {
        self.owed.contains(&table.full_name()) || self.superseded.iter().any(|former| former.is_superseded_by(table))
    }

    /// Warns of tables that have the names of complete ones and are not read, and then takes them for these, so that one start does (I11).
    pub(super) async fn tell_of_replaced(&self, context: &mut SourceContext, completed: &mut [CompletedTable]) -> Result<()> {
        let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        let is_reading = |table: &TableDefinition| self.reading.iter().any(|reading| reading.oid == table.oid && reading.request.is_none());
        let server = &self.config.relational.topic_prefix;
        // What this run has read it has read under the name that it had then.
        let before = CompletedTable::load_all(context.state(), server);
        let mut state = Vec::new();
        for table in tables.iter().filter(|table| !is_reading(table) && !self.unread.contains(&table.oid)) {
            let is_former = |done: &&mut CompletedTable| done.name == table.full_name() && done.oid.is_some() && before.contains(done);
            let is_complete = is_complete(completed, table);
            if let Some(former) = completed.iter_mut().find(is_former).filter(|_| !is_complete) {
                warn!("{}", replaced_advice(table));
                former.oid = Some(table.oid);
                state.push(former.change(server));
            }
        }
        if state.is_empty() { Ok(()) } else { send_state(context, state).await }
    }

    /// Forgets the superseded tables whose successors are read. Not before, or a crash would forget that they have to be.
    pub(super) async fn forget_superseded(&mut self, context: &mut SourceContext, completed: &[CompletedTable]) -> Result<()> {
        let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        let is_read = |former: &ReadingTable| tables.iter().all(|table| !former.is_superseded_by(table) || is_complete(completed, table));
        // That of a name which another table has is overwritten by now.
        let has_state = |former: &ReadingTable| !completed.iter().any(|done| done.name == former.name);
        let forgotten = self.superseded.iter().filter(|former| is_read(former) && has_state(former));
        let state: Vec<_> = forgotten.map(|former| former.removal(&self.config.relational.topic_prefix)).collect();
        if state.is_empty() { Ok(()) } else { send_state(context, state).await }
    }
}

/// What is to be known of a table that has the name of a former one and is not read.
pub(crate) fn replaced_advice(table: &TableDefinition) -> String {
    let name = table.full_name();
    format!(
        "another table has taken the name {name}: consumers keep the rows of the former one, and rows that it held already may be in no record. \
         To mend it: empty the targets of the table, then signal execute-snapshot with data-collections {}",
        expression_of(&name)
    )
}

/// What is to be known of a name under which the snapshot did not read a table to its end.
pub(crate) fn owed_advice(table: &str) -> String {
    format!(
        "the connector starts again for a captured table that takes its name, to read it, and until then only its changes are captured. Where \
         table.refresh.interval.ms is 0, restart the connector then, or signal execute-snapshot with data-collections {}",
        expression_of(table)
    )
}

/// Whether this very table is complete, and not a former one of its name.
pub(super) fn is_complete(completed: &[CompletedTable], table: &TableDefinition) -> bool {
    completed.iter().any(|done| done.oid == Some(table.oid) && done.name == table.full_name())
}
