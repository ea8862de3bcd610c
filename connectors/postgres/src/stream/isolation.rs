//! Errored tables: one that cannot be followed does not stop the others (I10).
//!
//! With `event.processing.failure.handling.mode: isolate` a table becomes *errored* where one of its changes cannot be decoded, or
//! where its rows, which the snapshot at the start owes, cannot be read in chunks or while the log rests. From that place on its changes
//! are counted and dropped, and the position moves on with the other tables, so that the server does not keep its log for one.
//!
//! - The state says so (`table_states`), in the batch that moves the position past the place (I1), so a restart goes on dropping. It is
//!   kept by the table's name, as topics are: a table that is made anew under it does not fill the gap of the former.
//! - It is loud (I11): one line in the log with the table, the place and how to mend it, again at each start; a gauge of the table; a count
//!   of what is dropped; and from the gauge the status of the task.
//! - It ends with a snapshot that a signal asks for, incremental or blocking, of the whole table. That is always taken while the log rests
//!   (`blocking`): its place in the log is where changes are let through again, for what was committed before is in the rows and what comes
//!   behind is not. The rows begin with a truncation (`truncation`), whatever `skipped.operations` says, since deletes were dropped,
//!   too. Truncation and rows appear in one step, and with those of the last table that the signal names all are errored no more; a
//!   crash before repeats what it asks for. Where the rows of a table cannot be read, nothing of them appears, and all stay errored.
//!   Where a truncation would take more than the rows bring back, there is none, and that is told (`truncation`).
//! - Or it ends because somebody accepts the gap: replaces the table's state in the offsets by that of a complete table.
//!
//! Debezium knows no such state, so it is the default only where a file was written for us (`connector: postgres`). Where transactions
//! are told of (`provide.transaction.metadata`), readers rely on whole ones, and the connector stops instead; so it does for the
//! signalling table, without which it would be deaf, and for what the snapshot before the log reads, which nothing streams beside.

use tailwater_api::Error;
use tailwater_api::metrics::Gauge;
use tailwater_kit::filters::expression_of;
use tracing::{error, info};

use super::Streaming;
use crate::lsn::Lsn;
use crate::table_states::ErroredTable;

impl Streaming<'_> {
    /// Says of each table that was errored before that it still is.
    pub(super) fn tell_of_errored(&mut self, tables: &[ErroredTable]) {
        for table in tables {
            self.raise_flag(&table.name);
            error!(
                table = %table.name,
                position = %table.at,
                error.mend = mend(self.context.connector(), &table.name),
                "the table is errored, and its changes are dropped: {}",
                table.error
            );
        }
    }

    /// Drops the changes of the table from here on.
    pub(super) fn isolate(&mut self, table: &str, at: Lsn, cause: &Error) {
        let errored = ErroredTable { name: table.to_owned(), at, error: cause.sentence() };
        let server = &self.config.relational.topic_prefix;
        let (mut state, told) = self.chunks.abandon(table);
        state.push(errored.change(server));
        self.batch.state.append(&mut state);
        told.into_iter().for_each(|record| self.batch.push(record));
        if self.chunks.is_idle() {
            self.let_rest(false);
        }
        self.plans.drop_changes_of(table);
        self.moved = true;
        self.raise_flag(table);
        error!(
            table,
            position = %at,
            error.kind = cause.kind().code(),
            error.mend = mend(self.context.connector(), table),
            "the table is errored from here on: its changes are dropped, those of other tables go on: {}",
            errored.error
        );
    }

    /// The table was read as it is here, and its changes go on.
    pub(super) fn lift(&mut self, table: &str) {
        if self.plans.let_changes_through_of(table) {
            self.flags.remove(table);
            info!(table, "the table was read anew and is errored no more");
        }
    }

    fn raise_flag(&mut self, table: &str) {
        let gauge = self.context.metrics().gauge(
            "source_table_errored",
            "1 while the changes of the table are dropped because one of them cannot be decoded, until it is read again.",
            Some(table),
        );
        gauge.set(1);
        self.flags.insert(table.to_owned(), Flag(gauge));
    }
}

/// The table is errored, and this run drops its changes.
pub(super) struct Flag(Gauge);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(0);
    }
}

/// How a table is mended.
fn mend(connector: &str, table: &str) -> String {
    // Within the quotes of a shell.
    let data = serde_json::json!({"data-collections": [expression_of(table)]}).to_string().replace('\'', "\\u0027");
    format!(
        "see to it that its rows can be read, then tailwater connector signal {connector} execute-snapshot '{data}'; sinks need \
         truncate.enabled, or empty targets"
    )
}
