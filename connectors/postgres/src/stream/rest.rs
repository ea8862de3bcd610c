//! The rest of the log while a blocking snapshot is read.
//!
//! Signals are heard meanwhile, other than those of the signalling table, which stand in the log: one that stops what is read ends the
//! rest at once. What other signals ask for changes what is stored, in which the snapshot has its turn: they wait until the log goes on.
//! A stop that is written to the signalling table is heard when the connector is restarted, for then the snapshot is taken anew, at a place
//! behind it.

use std::sync::Arc;

use tailwater_api::signal::SignalRequest;
use tailwater_api::source::SourceContext;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::notification::{Aggregate, Happening, Notifications};
use tailwater_kit::signals::Request;
use tailwater_kit::snapshot_figures::SnapshotFigures;
use tracing::{info, warn};

use super::signals::ends;
use super::{Streaming, stopped};
use crate::catalog::{Publication, ServerFacts, TableDefinition};
use crate::config::PostgresConfig;
use crate::connect::{Cancellations, SqlConnection};
use crate::event::Blocks;
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::position::Position;
use crate::publication::{creation, where_it_runs};
use crate::replication::is_out_of_slots;
use crate::snapshot::{Anchor, PublishedSoFar, Snapshot};
use crate::source::captured;
use crate::table_states::{ReadingTable, table_removal};
use crate::truncation;

/// Signals that may wait for the log to go on (I6).
const MOST_WAITING: usize = 16;

/// How a rest ended.
enum Rested {
    /// The tables are read, or cannot be; names those that are errored no more.
    Read(Result<Vec<String>>),
    /// A signal ends the reading of tables that are not published yet.
    Stopped(SignalRequest),
    /// The task is to end.
    Interrupted,
}

/// What is read while the log rests.
struct Reading<'a> {
    config: &'a PostgresConfig,
    context: &'a mut SourceContext,
    plans: &'a mut Plans,
    blocks: &'a Blocks,
    facts: &'a ServerFacts,
    cancellations: &'a Cancellations,
    position: Position,
    tables: &'a [ReadingTable],
    published: &'a PublishedSoFar,
}

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
            let taken = loop {
                tokio::select! {
                    biased;
                    () = stopped(&mut stopping) => return Ok(()),
                    request = self.signals.next() => self.obey_request(request).await?,
                    taken = self.blocking.rest() => break taken,
                }
            };
            self.snapshot_taken(taken).await?;
        }
        let Some(anchor) = self.blocking.reached(place) else { return Ok(()) };
        // What stands before it leaves first, and the readers may need all room that there is (I6).
        self.send().await?;
        self.chunks.give_way();
        let (published, mut later) = (PublishedSoFar::default(), Vec::new());
        match self.read_unless_stopped(anchor, &published, &mut later).await {
            Rested::Read(read) => {
                self.batch.forgets_pending = read.is_err();
                self.end_rest(read).await?;
            }
            Rested::Stopped(request) => {
                self.batch.forgets_pending = true;
                self.finish_published(&published);
                self.obey_request(request).await?;
                info!("the log goes on");
            }
            // The request stays; rows of tables that are not complete are forgotten.
            Rested::Interrupted => return Ok(()),
        }
        for request in later.into_iter().filter(|request| !request.is_abandoned()) {
            self.obey_request(request).await?;
        }
        // What is left is taken while the log goes on.
        self.blocking.begin(self.config);
        Ok(())
    }

    /// Reads the tables of the first snapshot, unless a signal stops that. Signals that ask for something else are kept for `later`.
    async fn read_unless_stopped(&mut self, anchor: Anchor, published: &PublishedSoFar, later: &mut Vec<SignalRequest>) -> Rested {
        let mut stopping = self.context.stopping();
        let position = self.position();
        let is_owed = self.blocking.is_of_initial_snapshot();
        let tables = self.blocking.of_first();
        let is_errored = |table: &ReadingTable| self.plans.drops_changes_of(&table.name);
        // Those that a stop can still end. An errored table is not mended before all are read.
        let stoppable: Vec<_> = tables.iter().map(|table| (table, is_errored(table))).filter(|_| !is_owed).collect();
        let reading = Reading {
            config: self.config,
            context: self.context,
            plans: &mut self.plans,
            blocks: &self.blocks,
            facts: &self.facts,
            cancellations: &self.cancellations,
            position,
            tables,
            published,
        };
        let read = reading.read(anchor);
        tokio::pin!(read);
        loop {
            let request = tokio::select! {
                biased;
                () = stopped(&mut stopping) => return Rested::Interrupted,
                request = self.signals.next() => request,
                read = &mut read => return Rested::Read(read),
            };
            later.retain(|request| !request.is_abandoned());
            match Request::parse(&request.signal) {
                Ok(Request::Stop(stop))
                    if !published.is_sealed()
                        && stoppable.iter().any(|&(table, is_errored)| {
                            ends(&stop, table, is_errored) && (is_errored || !published.contains(table.oid))
                        }) =>
                {
                    return Rested::Stopped(request);
                }
                Ok(_) if later.len() == MOST_WAITING => {
                    let error = Error::new(ErrorKind::Throttled, "take the signal").because("too many wait for a blocking snapshot to end");
                    request.answer(Err(error.mend("end it with stop-snapshot, or send the signal again behind it")));
                }
                Ok(Request::Stop(_) | Request::Execute(_) | Request::Pause | Request::Resume | Request::Log(_) | Request::Window) => {
                    later.push(request);
                }
                Err(error) => request.answer(Err(error)),
            }
        }
    }

    /// Of the first snapshot, which a signal ends, the tables that are published are done with. Not so those that are errored, which
    /// all are until each of them is read (`isolation`).
    fn finish_published(&mut self, published: &PublishedSoFar) {
        let plans = &self.plans;
        let is_done = |table: &ReadingTable| published.contains(table.oid) && !plans.drops_changes_of(&table.name);
        let done = self.blocking.finish_of_first(is_done);
        let server = &self.config.relational.topic_prefix;
        self.batch.state.extend(done.iter().map(|table| table.removal(server)));
    }

    /// Tells of a blocking snapshot.
    pub(super) fn tell_of_blocking(&mut self, happening: Happening, data: &[(&str, &str)]) {
        let relational = &self.config.relational;
        let notifications = Notifications::new(&relational.notifications, &relational.topic_prefix);
        if let Some(record) = notifications.give(Aggregate::InitialSnapshot, happening, data) {
            self.batch.push(record);
        }
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
                self.tell_of_blocking(Happening::Aborted, &[]);
                let given_up = self.blocking.finish_first();
                let server = &self.config.relational.topic_prefix;
                self.batch.state.extend(given_up.iter().map(|table| table.removal(server)));
                for table in given_up.iter().filter(|_| owed) {
                    // I10
                    self.isolate(&table.name, self.progress.place(), &error);
                }
                self.send().await?;
            }
        }
        Ok(())
    }
}

impl Reading<'_> {
    /// Reads the tables. Says which are errored no more.
    async fn read(self, anchor: Anchor) -> Result<Vec<String>> {
        let Self { tables, position, .. } = self;
        let mut config = self.config.clone();
        let statements = tables.iter().filter_map(|table| Some((table.name.clone(), table.request.as_ref()?.condition.clone()?)));
        // The first that names a table counts.
        config.relational.snapshot_selects.splice(0..0, statements);
        let config = Arc::new(config);
        let control = SqlConnection::connect(&config).await?;
        let publication = load_publication(self.config, self.facts, &control).await?;
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
            plans: self.plans,
            blocks: self.blocks,
            publication: Some(&publication),
            completed: Vec::new(),
            place: position.last.clone(),
            position,
            is_asked_for: true,
            outdated: &outdated,
            errored: &errored,
            at_end: tables.iter().map(|table| table.removal(server)).chain(gone).collect(),
            figures: &figures,
            published: self.published,
            cancellations: self.cancellations,
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
    if let Some(publication) = Publication::load(sql, facts, name).await? {
        return Ok(publication);
    }
    let definitions = TableDefinition::load(sql, None).await?;
    let statement = creation(config, &captured(config, &definitions));
    let dropped = Error::new(ErrorKind::Missing, format!("use the publication {name}")).because("somebody dropped it");
    Err(match statement {
        Ok(statement) => dropped.mend(where_it_runs(facts, &statement)),
        Err(_) => dropped,
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
