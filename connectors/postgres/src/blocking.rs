//! Blocking snapshots: tables that are read while the log rests. A signal asks for them, or the snapshot at the start does, of a table
//! that turned out not to be readable in chunks.
//!
//! 1. The log rests between two transactions, and a temporary slot is made. It exports a snapshot of the database and names the
//!    place that it stands for, which is not before the one where the log rests.
//! 2. The log is followed up to that place: each transaction before it is in the snapshot, each behind it is not.
//! 3. There it rests again, and the tables are read as the snapshot at the start reads them (`snapshot`). Then it goes on.
//!
//! So no change is lost at the seam and none is doubled, whatever single tables are narrowed down by. The server is answered
//! meanwhile (I4), and keeps its log. Rows of a table are published when the table is complete. Until all are, the request is
//! stored, and a crash repeats the snapshot, at a later place. A table that DDL rewrites meanwhile is read from a newer snapshot; its
//! changes between the two come once more, behind its rows.

use tailwater_api::Result;

use crate::config::PostgresConfig;
use crate::connect::SqlConnection;
use crate::lsn::Lsn;
use crate::position::ReadingTable;
use crate::request::TableRequest;
use crate::snapshot::{Anchor, temporary_anchor};

/// What signals asked to be read while the log rests.
pub(crate) struct BlockingSnapshots {
    tables: Vec<ReadingTable>,
    /// The snapshot for the first signal
    anchor: Option<Anchor>,
}

/// The tables of a signal stand one behind the other.
fn signal_of(table: &ReadingTable) -> Option<&str> {
    table.request.as_ref().map(|request| request.signal.as_str())
}

impl BlockingSnapshots {
    pub(crate) fn new(tables: Vec<ReadingTable>) -> Self {
        Self { tables, anchor: None }
    }

    /// What is not read yet.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &TableRequest> {
        self.tables.iter().filter_map(|table| table.request.as_ref())
    }

    pub(crate) fn add(&mut self, tables: Vec<ReadingTable>) {
        self.tables.extend(tables);
    }

    /// Whether the log has to rest for a snapshot to be taken.
    pub(crate) fn wants_snapshot(&self) -> bool {
        !self.tables.is_empty() && self.anchor.is_none()
    }

    /// Takes the snapshot, while the log rests.
    pub(crate) async fn take_snapshot(&mut self, config: &PostgresConfig) -> Result<()> {
        let sql = SqlConnection::connect(config).await?;
        self.anchor = Some(temporary_anchor(config, &sql).await?);
        Ok(())
    }

    /// The snapshot, if it stands for the place up to which the log was followed.
    pub(crate) fn reached(&mut self, place: Lsn) -> Option<Anchor> {
        self.anchor.take_if(|anchor| anchor.lsn <= place)
    }

    /// The tables of the first signal.
    pub(crate) fn of_first(&self) -> &[ReadingTable] {
        let is_of_same = |one: &ReadingTable, two: &ReadingTable| signal_of(one) == signal_of(two);
        self.tables.chunk_by(is_of_same).next().unwrap_or_default()
    }

    /// Whether the first is owed by the snapshot at the start, not asked for by a signal.
    pub(crate) fn is_of_initial_snapshot(&self) -> bool {
        self.tables.first().and_then(|table| table.request.as_ref()).is_some_and(TableRequest::is_of_initial_snapshot)
    }

    /// The tables of the first signal, which are done with.
    pub(crate) fn finish_first(&mut self) -> Vec<ReadingTable> {
        let count = self.of_first().len();
        self.tables.drain(..count).collect()
    }
}
