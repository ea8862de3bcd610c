//! The rest of the log while a blocking snapshot is read.

use std::sync::Arc;

use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::notification::{Aggregate, Happening, Notifications};
use tailwater_kit::snapshot_figures::SnapshotFigures;
use tracing::{info, warn};

use super::{Streaming, stopped};
use crate::catalog::{Publication, ServerFacts, TableDefinition, quote_identifier};
use crate::config::PostgresConfig;
use crate::connect::SqlConnection;
use crate::lsn::Lsn;
use crate::replication::is_out_of_slots;
use crate::snapshot::{Anchor, Snapshot};
use crate::source::captured;
use crate::table_states::{ReadingTable, table_removal};
use crate::truncation;

impl Streaming<'_> {
    /// Rests for a blocking snapshot, if one is asked for: to take it, or to read it where the log, which was followed to `place`,
    /// has reached its place. To be called between two transactions.
    pub(super) async fn rest(&mut self, place: Lsn) -> Result<()> {
        if self.blocking.is_idle() { Ok(()) } else { Box::pin(self.rest_for_snapshot(place)).await }
    }

    async fn rest_for_snapshot(&mut self, place: Lsn) -> Result<()> {
        self.blocking.begin(self.config);
        if self.blocking.is_on_its_way() {
            let mut stopping = self.context.stopping();
            let taken = tokio::select! {
                biased;
                () = stopped(&mut stopping) => return Ok(()),
                taken = self.blocking.rest() => taken,
            };
            self.snapshot_taken(taken).await?;
        }
        let Some(anchor) = self.blocking.reached(place) else { return Ok(()) };
        // What stands before it leaves first, and the readers may need all room that there is (I6).
        self.send().await?;
        self.chunks.give_way();
        let mut stopping = self.context.stopping();
        let read = tokio::select! {
            biased;
            // The request stays; rows of tables that are not complete are forgotten.
            () = stopped(&mut stopping) => return Ok(()),
            read = self.read_resting(anchor) => read,
        };
        self.end_rest(read).await
    }

    /// Takes note of a blocking snapshot that was taken while the log rested or went on; it is of no use where the log is past it.
    pub(super) async fn snapshot_taken(&mut self, taken: Result<bool>) -> Result<()> {
        match taken {
            Ok(is_there) => {
                if is_there {
                    self.blocking.give_up_before(self.progress.place());
                }
                Ok(())
            }
            Err(error) => self.end_rest(Err(error)).await,
        }
    }

    /// The first blocking snapshot is done with.
    async fn end_rest(&mut self, read: Result<Vec<String>>) -> Result<()> {
        let isolates = self.config.relational.isolates_tables();
        match read {
            Ok(mended) => {
                mended.iter().for_each(|table| self.lift(table));
                drop(self.blocking.finish_first());
            }
            // Rows that the snapshot at the start owes are not given up.
            Err(error) if is_passing(&error) || self.blocking.is_of_initial_snapshot() && !isolates => return Err(error),
            Err(error) => {
                let owed = self.blocking.is_of_initial_snapshot();
                warn!("the blocking snapshot is given up: {error}");
                let relational = &self.config.relational;
                let notifications = Notifications::new(&relational.notifications, &relational.topic_prefix);
                if let Some(record) = notifications.give(Aggregate::InitialSnapshot, Happening::Aborted, &[]) {
                    self.batch.push(record);
                }
                let given_up = self.blocking.finish_first();
                self.batch.state.extend(given_up.iter().map(|table| table.removal(&relational.topic_prefix)));
                for table in given_up.iter().filter(|_| owed) {
                    // I10
                    self.isolate(&table.name, self.progress.place(), &error);
                }
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Reads the tables of the first signal. Says which are errored no more.
    async fn read_resting(&mut self, anchor: Anchor) -> Result<Vec<String>> {
        let position = self.position();
        let tables = self.blocking.of_first();
        let mut config = self.config.clone();
        let statements = tables.iter().filter_map(|table| Some((table.name.clone(), table.request.as_ref()?.condition.clone()?)));
        // The first that names a table counts.
        config.relational.snapshot_selects.splice(0..0, statements);
        let config = Arc::new(config);
        let control = SqlConnection::connect(&config).await?;
        let publication = load_publication(self.config, &self.facts, &control).await?;
        let mut definitions = TableDefinition::load(&control, None).await?;
        // What was narrowed down before its table was errored mends nothing.
        let is_whole = |table: &&ReadingTable| table.request.as_ref().is_none_or(|request| request.condition.is_none());
        let errored = tables.iter().filter(is_whole).map(|table| table.name.clone()).filter(|name| self.plans.drops_changes_of(name));
        // Nobody has rows to wait for of one that was dropped.
        let (errored, mut mended): (Vec<_>, Vec<_>) =
            errored.partition(|name| definitions.iter().any(|definition| definition.full_name() == *name));
        let anew: Vec<_> = definitions.iter().filter(|definition| errored.contains(&definition.full_name())).cloned().collect();
        let outdated = truncation::told_in_any_case(self.config, &captured(self.config, &definitions), &anew);
        definitions.retain(|table| tables.iter().any(|asked_for| asked_for.oid == table.oid));
        definitions.sort_by_cached_key(TableDefinition::full_name);
        info!(at = %anchor.lsn, tables = definitions.len(), "the log rests while tables are read");
        let server = &config.relational.topic_prefix;
        let gone = mended.iter().map(|table| table_removal(server, table));
        let figures = SnapshotFigures::begin(self.context.metrics());
        let snapshot = Snapshot {
            config: &config,
            context: self.context,
            plans: &mut self.plans,
            blocks: &self.blocks,
            publication: Some(&publication),
            completed: Vec::new(),
            place: position.last.clone(),
            position,
            is_asked_for: true,
            outdated: &outdated,
            errored: &errored,
            at_end: tables.iter().map(|table| table.removal(server)).chain(gone).collect(),
            figures: &figures,
        };
        let (_, read) = snapshot.read_all(definitions, anchor).await?;
        mended.extend(read.into_iter().map(|table| table.name).filter(|name| errored.contains(name)));
        info!("the log goes on");
        Ok(mended)
    }
}

/// The publication as it is now: its tables, columns and row filters may have changed since the start.
pub(super) async fn load_publication(config: &PostgresConfig, facts: &ServerFacts, sql: &SqlConnection) -> Result<Publication> {
    let name = &config.publication;
    let publication = Publication::load(sql, facts, name).await?;
    publication.ok_or_else(|| {
        Error::new(ErrorKind::Missing, format!("use the publication {name}"))
            .because("somebody dropped it")
            .mend(format!("CREATE PUBLICATION {} FOR ALL TABLES;", quote_identifier(name)))
    })
}

/// Whether the snapshot may be possible at the next try. What never will be must not stop the log (I11); nor must a server without
/// a free slot, which nobody may ever give.
fn is_passing(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Restarting | ErrorKind::Conflict => true,
        ErrorKind::Throttled => !is_out_of_slots(error),
        ErrorKind::Unauthorised
        | ErrorKind::Missing
        | ErrorKind::Misconfigured
        | ErrorKind::HistoryGone
        | ErrorKind::Unreadable
        | ErrorKind::Unsupported
        | ErrorKind::Rejected
        | ErrorKind::Bug => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_given_up_for_what_does_not_pass() {
        let passing = [ErrorKind::Unreachable, ErrorKind::TimedOut, ErrorKind::Throttled, ErrorKind::Restarting, ErrorKind::Conflict];
        for kind in ErrorKind::ALL {
            assert_eq!(is_passing(&Error::new(kind, "take a snapshot")), passing.contains(&kind), "{kind:?}");
        }
    }
}
