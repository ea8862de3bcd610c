//! Blocking snapshots: a signal asks for tables to be read while the log rests.
//!
//! A temporary slot exports a snapshot of the database and names the place that it stands for. The log is followed up to that place:
//! each transaction before it is in the snapshot, each behind it is not. There, between two transactions, the tables are
//! read, as the snapshot at the start reads them (`snapshot`), and then the log goes on. So no change is lost at the seam and none
//! is doubled, whatever single tables are narrowed down by.
//!
//! The server is answered meanwhile (I4), and keeps its log. Rows of a table are published when the table is complete. Until all
//! are, the request is stored, and a crash repeats the snapshot, at a later place.

use std::sync::Arc;

use tailwater_api::{Error, ErrorKind, Result};
use tokio::task::JoinSet;

use crate::config::PostgresConfig;
use crate::connect::SqlConnection;
use crate::lsn::Lsn;
use crate::position::ReadingTable;
use crate::request::TableRequest;
use crate::snapshot::Anchor;
use crate::source::temporary_anchor;

/// What signals asked to be read while the log rests.
pub(crate) struct BlockingSnapshots {
    config: Arc<PostgresConfig>,
    tables: Vec<ReadingTable>,
    making: JoinSet<Result<Anchor>>,
    made: Option<Result<Anchor>>,
}

impl BlockingSnapshots {
    pub(crate) fn new(config: Arc<PostgresConfig>, tables: Vec<ReadingTable>) -> Self {
        Self { config, tables, making: JoinSet::new(), made: None }
    }

    /// What is not read yet.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &TableRequest> {
        self.tables.iter().filter_map(|table| table.request.as_ref())
    }

    pub(crate) fn add(&mut self, tables: Vec<ReadingTable>) {
        self.tables.extend(tables);
    }

    /// Waits until the place of the next snapshot is known. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        if self.tables.is_empty() || self.made.is_some() {
            return std::future::pending().await;
        }
        if self.making.is_empty() {
            let config = self.config.clone();
            self.making.spawn(async move {
                let sql = SqlConnection::connect(&config).await?;
                temporary_anchor(&config, &sql).await
            });
        }
        let made = self.making.join_next().await;
        self.made = Some(match made {
            Some(Ok(made)) => made,
            Some(Err(error)) => Err(Error::new(ErrorKind::Bug, "take a snapshot").because(error)),
            None => Err(Error::new(ErrorKind::Bug, "take a snapshot").because("nobody takes one")),
        });
    }

    /// Whether the log has to rest where everything before `place` was followed: the snapshot stands for no later place, or
    /// cannot be taken.
    pub(crate) fn is_reached(&self, place: Lsn) -> bool {
        self.made.as_ref().is_some_and(|made| made.as_ref().map_or(true, |anchor| anchor.lsn <= place))
    }

    /// The tables of the first signal, and the snapshot to read them in; `None` where it is not taken.
    pub(crate) fn take(&mut self) -> Option<(Vec<ReadingTable>, Result<Anchor>)> {
        let made = self.made.take()?;
        let signal = self.requests().next()?.signal.clone();
        let is_of_signal = |table: &ReadingTable| table.request.as_ref().is_some_and(|request| request.signal == signal);
        let (tables, later) = self.tables.drain(..).partition(is_of_signal);
        self.tables = later;
        Some((tables, made))
    }
}
