//! Blocking snapshots: tables that are read while the log rests. A signal asks for them, or the snapshot at the start does, of a table
//! that turned out not to be readable in chunks.
//!
//! 1. The log rests between two transactions, and a temporary slot is made. It exports a snapshot of the database and names the
//!    place that it stands for, which is not before the one where the log rests. The server may have to wait for open transactions
//!    first, for as long as they please: so the log rests for a moment only, and goes on while the slot is being made. Where it went
//!    past the slot's place meanwhile, another slot is made, which has those transactions behind it.
//! 2. The log is followed up to that place: each transaction before it is in the snapshot, each behind it is not.
//! 3. There it rests again, and the tables are read as the snapshot at the start reads them (`snapshot`). Then it goes on.
//!
//! So no change is lost at the seam and none is doubled, whatever single tables are narrowed down by. The server is answered
//! meanwhile (I4), and keeps its log. Rows of a table are published when the table is complete. Until all are, the request is
//! stored, and a crash repeats the snapshot, at a later place. A table that DDL rewrites meanwhile is read from a newer snapshot; its
//! changes between the two come once more, behind its rows.
//!
//! A signal may end it while tables are read. Then the read is dropped, and of the tables of the snapshot those that are published stay
//! so, those that the signal names are given up, and any others are read in a snapshot of a later place.

use std::time::Duration;

use tailwater_api::{Error, ErrorKind, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::config::PostgresConfig;
use crate::connect::SqlConnection;
use crate::lsn::Lsn;
use crate::request::TableRequest;
use crate::snapshot::{Anchor, temporary_anchor};
use crate::table_states::ReadingTable;

/// What signals asked to be read while the log rests.
pub(crate) struct BlockingSnapshots {
    tables: Vec<ReadingTable>,
    /// The snapshot for the first signal
    anchor: Option<Anchor>,
    /// The making of its slot; ends with this
    taking: JoinSet<Result<Anchor>>,
    /// How long the log rests for a slot to be made
    rest: Duration,
    /// The end of that
    rests_until: Instant,
}

/// How long the log rests for the first slot.
const REST: Duration = Duration::from_secs(1);

/// The tables of a signal stand one behind the other.
fn signal_of(table: &ReadingTable) -> Option<&str> {
    table.request.as_ref().map(|request| request.signal.as_str())
}

/// The snapshot at the start owes its rows, no signal asked for them.
fn is_owed(table: &ReadingTable) -> bool {
    table.request.as_ref().is_some_and(TableRequest::is_of_initial_snapshot)
}

impl BlockingSnapshots {
    pub(crate) fn new(tables: Vec<ReadingTable>) -> Self {
        Self { tables, anchor: None, taking: JoinSet::new(), rest: REST, rests_until: Instant::now() }
    }

    /// What is not read yet.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &TableRequest> {
        self.tables.iter().filter_map(|table| table.request.as_ref())
    }

    pub(crate) fn add(&mut self, tables: Vec<ReadingTable>) {
        self.tables.extend(tables);
    }

    /// Gives up those of the tables that signals asked for which a signal stops. Returns what is given up.
    pub(crate) fn stop(&mut self, is_stopped: impl Fn(&ReadingTable) -> bool) -> Vec<ReadingTable> {
        // I10: what the snapshot at the start owes stays.
        let stopped = self.tables.extract_if(.., |table| !is_owed(table) && is_stopped(table)).collect();
        if self.tables.is_empty() {
            self.anchor = None;
            self.taking.abort_all();
        }
        stopped
    }

    /// Whether no snapshot is asked for, nor left of one that was given up.
    pub(crate) fn is_idle(&self) -> bool {
        self.tables.is_empty() && self.anchor.is_none() && self.taking.is_empty()
    }

    /// Begins to take the snapshot that is asked for, if none is there or on its way.
    pub(crate) fn begin(&mut self, config: &PostgresConfig) {
        if self.tables.is_empty() || self.anchor.is_some() || self.is_on_its_way() {
            return;
        }
        let config = config.clone();
        self.taking.spawn(async move {
            let sql = SqlConnection::connect(&config).await?;
            temporary_anchor(&config, &sql).await
        });
        self.rests_until = Instant::now() + self.rest;
    }

    /// Whether a snapshot is on its way.
    pub(crate) fn is_on_its_way(&self) -> bool {
        !self.taking.is_empty()
    }

    /// Waits for the snapshot that is on its way, for as long as the log rests for it. Says whether it is there. Cancel-safe.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub(crate) async fn rest(&mut self) -> Result<bool> {
        timeout_at(self.rests_until, self.taken()).await.unwrap_or(Ok(false))
    }

    /// Waits for the snapshot that is on its way, without end if none is, and says whether there is one. Cancel-safe.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub(crate) async fn taken(&mut self) -> Result<bool> {
        match self.taking.join_next().await {
            None => std::future::pending().await,
            Some(Ok(taken)) => self.anchor = Some(taken?),
            // Given up.
            Some(Err(ended)) if ended.is_cancelled() => {}
            Some(Err(panicked)) => return Err(Error::new(ErrorKind::Bug, "take a snapshot").because(panicked)),
        }
        Ok(self.anchor.is_some())
    }

    /// Gives the snapshot up where the log was followed past its place: changes behind it would stand before its rows.
    pub(crate) fn give_up_before(&mut self, place: Lsn) {
        if let Some(anchor) = self.anchor.take_if(|anchor| anchor.lsn < place) {
            self.rest *= 2;
            warn!(at = %anchor.lsn, "the log went past the snapshot that a signal asks for; it rests for up to {:?} for another one", self.rest);
        }
    }

    /// The snapshot, if it stands for the place up to which the log was followed.
    pub(crate) fn reached(&mut self, place: Lsn) -> Option<Anchor> {
        self.anchor.take_if(|anchor| anchor.lsn <= place)
    }

    /// The tables of the first signal, or the first that the snapshot at the start owes.
    pub(crate) fn of_first(&self) -> &[ReadingTable] {
        // I10: of those that the snapshot at the start owes one that cannot be read must not take others along.
        let is_of_same = |one: &ReadingTable, two: &ReadingTable| signal_of(one) == signal_of(two) && !is_owed(one);
        self.tables.chunk_by(is_of_same).next().unwrap_or_default()
    }

    /// Whether the first is owed by the snapshot at the start, not asked for by a signal.
    pub(crate) fn is_of_initial_snapshot(&self) -> bool {
        self.tables.first().is_some_and(is_owed)
    }

    /// The tables of [`BlockingSnapshots::of_first`], which are done with.
    pub(crate) fn finish_first(&mut self) -> Vec<ReadingTable> {
        self.finish_of_first(|_| true)
    }

    /// Those of the tables of [`BlockingSnapshots::of_first`] that are done with.
    pub(crate) fn finish_of_first(&mut self, is_done: impl Fn(&ReadingTable) -> bool) -> Vec<ReadingTable> {
        self.rest = REST;
        let count = self.of_first().len();
        self.tables.extract_if(..count, |table| is_done(table)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_tables_that_the_snapshot_at_the_start_owes_are_read_one_by_one_and_those_of_a_signal_together() {
        let table = |oid: u32, request: TableRequest| ReadingTable {
            name: format!("public.t{oid}"),
            oid,
            rows: 0,
            range: None,
            request: Some(request),
        };
        let asked = |order| TableRequest { signal: "once".into(), ..TableRequest::of_initial_snapshot(order) };
        let tables = vec![
            table(1, TableRequest::of_initial_snapshot(0)),
            table(2, TableRequest::of_initial_snapshot(1)),
            table(3, asked(2)),
            table(4, asked(3)),
        ];
        let mut snapshots = BlockingSnapshots::new(tables);
        let mut rests = Vec::new();
        while !snapshots.of_first().is_empty() {
            rests.push(snapshots.finish_first().iter().map(|table| table.oid).collect::<Vec<_>>());
        }
        assert_eq!(rests, [vec![1], vec![2], vec![3, 4]]);
    }
}
