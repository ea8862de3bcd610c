//! One run of the source: from what is stored and what the server offers to the stream.
//!
//! 1. The server, its tables and types are read; what keeps the source from running is an error with its remedy.
//! 2. The publication is brought in order, then the stored position is held against the slot (`restart`).
//! 3. Where rows have to be read, that happens in the snapshot of a slot (`snapshot`); the position that says so is stored
//!    first, with the log that it belongs to.
//! 4. The log is followed (`stream`), and the server answered beside it (`acknowledge`).

mod beginning;
mod captured;
mod follow;
mod new_tables;
mod offered;
mod plug_in;
mod requirements;
mod succession;
mod unpublished;

use std::collections::HashMap;
use std::sync::Arc;

use tailwater_api::probe::ProbeReport;
use tailwater_api::record::Headers;
use tailwater_api::source::{SourceBatch, SourceConnector, SourceContext};
use tailwater_api::{Error, Result};
use tailwater_kit::envelope::context_headers;
use tailwater_kit::heartbeat::HeartbeatRecords;
use tailwater_kit::notification::{Aggregate, Happening, Notifications};
use tailwater_kit::snapshot_figures::SnapshotFigures;
use tracing::warn;

use self::beginning::Beginning;
use self::offered::Server;
use crate::catalog::{Publication, ServerFacts, TableDefinition};
use crate::chunks::is_chunked;
use crate::config::{PostgresConfig, SnapshotWhen};
use crate::connect::{Cancellations, SqlConnection, SqlSession};
use crate::event::{Blocks, now};
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::position::{LastMessage, LogIdentity, MessageKind, Position, SnapshotProgress};
use crate::snapshot::{PublishedSoFar, Snapshot, tables_to_read, temporary_anchor};
use crate::table_states::{
    CompletedTable, ErroredTable, ReadingTable, UnpublishedTable, outdated, outdated_tables, table_removal, tables_known,
};
use crate::truncation::truncations;
use crate::{identity, probe, publication, servers, truncation};

pub(crate) use captured::{captured, captured_alone, is_readable, unlogged, unlogged_mend, unreadable_advice};
use captured::{warn_about_idle_keys, warn_about_unlogged, warn_about_untold_keys};
pub(crate) use plug_in::Protocol;
pub(crate) use requirements::check_server;
use succession::is_complete;
pub(crate) use succession::{owed_advice, replaced_advice};
pub(crate) use unpublished::{published_advice, published_by_now, renamed_advice, unpublished, unpublished_advice};
use unpublished::{remember_lost, warn_about_further_leaves, warn_about_unpublished};

/// The PostgreSQL source.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresConnector;

impl SourceConnector for PostgresConnector {
    const NAME: &'static str = "postgres";
    const CLASS: &'static str = "io.debezium.connector.postgresql.PostgresConnector";
    type Config = PostgresConfig;
    const TAKES_SIGNALS: bool = true;

    async fn probe(config: &Self::Config) -> ProbeReport {
        probe::probe(config).await
    }

    async fn run(config: Self::Config, mut context: SourceContext) -> Result<()> {
        let (cancellations, end) = Cancellations::new();
        let ended = run(config, &mut context, cancellations).await;
        end.wait().await;
        ended
    }

    fn unavailable_value_placeholder(config: &Self::Config) -> String {
        config.relational.unavailable_value_placeholder.clone()
    }
}

async fn run(config: PostgresConfig, context: &mut SourceContext, cancellations: Cancellations) -> Result<()> {
    let mut stopping = context.stopping();
    let stopped = async move {
        // A daemon that is gone is a stop, too.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let prepare = async {
        let config = Arc::new(servers::choose(config).await?);
        let mut run = Run::open(config, context, cancellations).await?;
        let position = run.prepare(context).await?;
        Ok::<_, Error>((run, position))
    };
    // A stop while it connects or rows are read drops that: pending rows are forgotten, complete tables stay.
    let (run, position) = tokio::select! {
        biased;
        () = stopped => return Ok(()),
        prepared = prepare => prepared?,
    };
    match position {
        Some(position) => run.stream(context, position).await,
        None => Ok(()),
    }
}

struct Run {
    config: Arc<PostgresConfig>,
    sql: SqlConnection,
    facts: ServerFacts,
    definitions: Vec<TableDefinition>,
    publication: Option<Publication>,
    blocks: Blocks,
    plans: Plans,
    session: SqlSession,
    /// Tables to read in chunks while the log is followed
    reading: Vec<ReadingTable>,
    /// Names of tables whose rows begin with a truncation
    outdated: Vec<String>,
    /// Tables that the snapshot did not read to their end and in whose place others are read
    superseded: Vec<ReadingTable>,
    /// Names of which a table is read in any case: the snapshot did not read one to its end, or read it before it was published
    owed: Vec<String>,
    /// Oids of tables that this start was to read and could not; the next one does
    unread: Vec<u32>,
    /// Tables whose changes are dropped
    errored: Vec<ErroredTable>,
    /// Tables that this start found unpublished, and was to publish
    lost: Vec<UnpublishedTable>,
    /// Statements that the server refused at the start, and what was said of each
    refused: HashMap<String, String>,
    cancellations: Cancellations,
}

impl Run {
    async fn open(config: Arc<PostgresConfig>, context: &mut SourceContext, cancellations: Cancellations) -> Result<Self> {
        let sql = SqlConnection::connect(&config).await?;
        let facts = ServerFacts::load(&sql).await?;
        check_server(&config, &facts)?;
        let mut definitions = TableDefinition::load(&sql, None).await?;
        if let Some(guardrail) = config.relational.guardrail {
            guardrail.judge(captured(&config, &definitions).len())?;
        }
        if config.snapshot.stream && identity::set(&sql, &facts, &config.identities, &captured(&config, &definitions)).await? {
            definitions = TableDefinition::load(&sql, None).await?;
        }
        let captured = captured(&config, &definitions);
        if captured.is_empty() {
            warn!("no table passes the filters of the configuration");
        }
        warn_about_unlogged(&config, &definitions);
        warn_about_idle_keys(&config, &captured);
        let (mut lost, mut publication, mut refused) = (Vec::new(), None, HashMap::new());
        if config.snapshot.stream {
            lost = remember_lost(&sql, &config, &facts, &definitions, context).await?;
            let (published, told) = publication::ensure(&sql, &config, &facts, &definitions, &refused).await?;
            publication::warn_about_operations(&config, &facts, None, &published.named);
            warn_about_unpublished(&config, &facts, &published, &definitions, |_| true);
            warn_about_untold_keys(&config, &captured);
            (publication, refused) = (Some(published), told);
        } else {
            warn_about_further_leaves(&config, &definitions);
        }
        let mut session = SqlSession::new(config.clone());
        let types = session.load_types().await?;
        let blocks = Blocks::new(&config);
        let headers = if config.relational.extended_headers {
            context_headers(&config.relational.topic_prefix, &context.task().to_string(), "postgresql", &run_id())
        } else {
            Headers::default()
        };
        let plans = Plans::new(config.clone(), types, headers, definitions.clone());
        Ok(Self {
            config,
            sql,
            facts,
            definitions,
            publication,
            blocks,
            plans,
            session,
            reading: Vec::new(),
            outdated: Vec::new(),
            superseded: Vec::new(),
            owed: Vec::new(),
            unread: Vec::new(),
            errored: Vec::new(),
            lost,
            refused,
            cancellations,
        })
    }

    /// Does what has to be done before the stream; `None` where nothing is streamed.
    async fn prepare(&mut self, context: &mut SourceContext) -> Result<Option<Position>> {
        let server = self.config.relational.topic_prefix.clone();
        let stored = Position::load(context.state(), &server)?;
        let mut completed = CompletedTable::load_all(context.state(), &server);
        self.reading = ReadingTable::load_all(context.state(), &server)?;
        self.outdated = outdated_tables(context.state(), &server);
        self.errored = ErroredTable::load_all(context.state(), &server);
        self.find_superseded(context.state(), &completed);
        self.forget_left_out(context, stored.as_ref(), &mut completed).await?;
        let Some((position, mut completed)) = self.begin(context, stored, completed).await? else { return Ok(None) };
        self.owed.retain(|name| !completed.iter().any(|done| done.name == *name));
        self.plans.set_anchors(&completed)?;
        self.forget_superseded(context, &completed).await?;
        self.tell_of_replaced(context, &mut completed).await?;
        Ok(Some(position))
    }

    /// Reads what is to be read before the log is followed, from `stored` on where that can be. Returns where to follow it from and
    /// the tables that are complete then; `None` where nothing is streamed.
    async fn begin(
        &mut self,
        context: &mut SourceContext,
        stored: Option<Position>,
        mut completed: Vec<CompletedTable>,
    ) -> Result<Option<(Position, Vec<CompletedTable>)>> {
        let server = self.config.relational.topic_prefix.clone();
        if !self.config.snapshot.stream {
            let done = stored.as_ref().is_some_and(|position| position.snapshot != SnapshotProgress::Running);
            if !done || self.config.snapshot.read == SnapshotWhen::Always {
                self.read_without_slot(context).await?;
                self.beat_once(context).await?;
            }
            return Ok(None);
        }
        let mut offered = self.identify().await?;
        let was_captured = stored.is_some();
        let stored = self.hold_against(stored, &offered.offer)?;
        let is_history_gone = was_captured && stored.is_none();
        let continues = stored.as_ref().is_some_and(|position| position.snapshot == SnapshotProgress::Running);
        let reads = match self.config.snapshot.read {
            SnapshotWhen::Always => true,
            SnapshotWhen::Initially => stored.is_none() || continues,
            SnapshotWhen::Never => is_history_gone || continues && self.config.snapshot.goes_on(),
        };
        match (stored, reads) {
            (Some(mut position), false) => {
                if continues {
                    warn!(
                        "the initial snapshot is not complete, and snapshot.mode forbids to go on with it: rows that were not read are missing"
                    );
                }
                if !self.config.snapshot.finishes_tables() && self.reading.iter().any(|table| table.request.is_none()) {
                    warn!("snapshot.mode forbids to go on with tables that are not read to their end: their rows are missing");
                    self.reading.retain(|table| table.request.is_some());
                }
                position.log = Some(offered.log.clone());
                self.settle_unpublished(context, &mut completed, false).await?;
                let completed = if self.config.snapshot.reads_new_tables || self.owes_rows() {
                    self.read_new_tables(context, &position, completed).await?
                } else {
                    completed
                };
                drop(figures_of(context, &completed));
                self.tell_of_skipped_snapshot(context).await?;
                Ok(Some((position, completed)))
            }
            (None, false) => {
                let from = self.slot_without_snapshot(&mut offered).await?;
                let position = self.new_position(Some(offered.log), from, SnapshotProgress::Streaming).await?;
                let mut completed = Vec::new();
                let mut known = Vec::new();
                if self.config.snapshot.reads_new_tables {
                    completed = self.read_by_nobody();
                    // What is published only behind the slot is read as what comes behind it is.
                    let unpublished = self.unpublished_tables();
                    self.look_again().await?;
                    completed.retain(|done| !self.is_published_since(&unpublished, done));
                    known.push(tables_known(&server, position.resume));
                    known.extend(completed.iter().map(|table| table.change(&server)));
                }
                let mut state = self.unpublished_state(context.state());
                state.push(position.change(&server));
                state.append(&mut known);
                send_state(context, state).await?;
                if self.config.snapshot.reads_new_tables {
                    completed = self.read_unknown_tables(context, &position, completed).await?;
                }
                self.tell_of_skipped_snapshot(context).await?;
                Ok(Some((position, completed)))
            }
            (stored, true) => {
                tokio::time::sleep(self.config.relational.snapshot_delay).await;
                let kept = stored.filter(|_| continues && self.config.snapshot.read != SnapshotWhen::Always);
                let read = self.read_with_slot(context, offered, kept, completed, was_captured).await?;
                tokio::time::sleep(self.config.relational.streaming_delay).await;
                Ok(Some(read))
            }
        }
    }

    async fn tell_of_skipped_snapshot(&self, context: &mut SourceContext) -> Result<()> {
        SnapshotFigures::skip(context.metrics());
        let notifications = Notifications::new(&self.config.relational.notifications, &self.config.relational.topic_prefix);
        if let Some(record) = notifications.give(Aggregate::InitialSnapshot, Happening::Skipped, &[]) {
            // Small, and asked for while rows are held: it must not wait for room.
            let reservation = context.reserve(0).await;
            context.send(SourceBatch { records: vec![record], ..SourceBatch::default() }, reservation).await?;
        }
        Ok(())
    }

    /// Reads the tables in the snapshot of the new slot, or of a temporary one where the slot is there already. `was_captured` says
    /// whether there was a position, which a new beginning gives up. Returns what is stored then.
    async fn read_with_slot(
        &mut self,
        context: &mut SourceContext,
        offered: Server,
        kept: Option<Position>,
        mut completed: Vec<CompletedTable>,
        was_captured: bool,
    ) -> Result<(Position, Vec<CompletedTable>)> {
        let server = self.config.relational.topic_prefix.clone();
        let (position, completed, anchor) = match kept {
            Some(position) => {
                // The slot is older than this run, so the log tells of all that came since the tables were looked at.
                let anchor = temporary_anchor(&self.config, &self.sql).await?;
                self.settle_unpublished(context, &mut completed, true).await?;
                let captured = captured(&self.config, &self.definitions);
                let mut successors = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
                successors.retain(|table| self.is_successor(table) && !is_complete(&completed, table));
                self.outdated.retain(|table| !self.owed.contains(table));
                self.outdated.extend(truncation::told(&self.config, &captured, &successors));
                (Position { log: Some(offered.log), ..position }, completed, anchor)
            }
            None => {
                let Beginning { anchor, slot, log } = self.begin_anew(offered).await?;
                let mut state: Vec<_> = completed.iter().map(|table| table.removal(&server)).collect();
                state.extend(self.errored.drain(..).map(|table| table_removal(&server, &table.name)));
                state.extend(self.reading.iter().map(|table| table.removal(&server)));
                state.extend(self.superseded.drain(..).map(|table| table.removal(&server)));
                state.extend(self.owed.drain(..).map(|table| table_removal(&server, &table)));
                state.append(&mut self.unpublished_state(context.state()));
                let captured = captured(&self.config, &self.definitions);
                let tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
                self.outdated = if was_captured { truncation::told(&self.config, &captured, &tables) } else { Vec::new() };
                state.extend(self.outdated.iter().map(|table| outdated(&server, table)));
                let chunked: Vec<_> = tables.iter().filter(|table| is_chunked(&self.config, table)).collect();
                let waiting =
                    |table: &TableDefinition| ReadingTable { name: table.full_name(), oid: table.oid, rows: 0, range: None, request: None };
                self.reading = chunked.iter().map(|table| waiting(table)).collect();
                state.extend(self.reading.iter().map(|table| table.change(&server)));
                let mut position = self.new_position(Some(log), anchor.lsn, SnapshotProgress::Running).await?;
                if self.config.two_phase {
                    // What was prepared before the anchor and is committed behind it is sent only from before its preparation.
                    position.resume = slot;
                }
                state.push(position.change(&server));
                let emptied = chunked.into_iter().filter(|table| self.outdated.contains(&table.full_name()));
                let records = truncations(emptied, self.publication.as_ref(), &mut self.plans, &self.blocks, &position)?;
                let reservation = context.reserve(0).await;
                context.send(SourceBatch { records, state, ..SourceBatch::default() }, reservation).await?;
                (position, Vec::new(), anchor)
            }
        };
        let mut tables = tables_to_read(&self.config, self.publication.as_ref(), &self.definitions);
        let reading = |name: &str| self.reading.iter().any(|table| table.name == name && table.request.is_none());
        let is_known = |table: &TableDefinition| {
            let name = table.full_name();
            is_complete(&completed, table) || !self.is_successor(table) && completed.iter().any(|done| done.name == name) || reading(&name)
        };
        tables.retain(|table| !is_known(table));
        // The names that no table has when all are read are owed.
        self.owed.extend(tables.iter().map(TableDefinition::full_name));
        let figures = figures_of(context, &completed);
        let snapshot = Snapshot {
            config: &self.config,
            context,
            plans: &mut self.plans,
            blocks: &self.blocks,
            publication: self.publication.as_ref(),
            completed,
            place: position.last.clone(),
            position,
            is_asked_for: false,
            outdated: &self.outdated,
            errored: &[],
            at_end: Vec::new(),
            figures: &figures,
            published: &PublishedSoFar::default(),
            cancellations: &self.cancellations,
        };
        snapshot.read_all(tables, anchor).await
    }

    /// Reads the tables in one transaction of their own.
    async fn read_without_slot(&mut self, context: &mut SourceContext) -> Result<()> {
        // No slot, no log to come back to.
        let position = self.new_position(None, self.facts.end, SnapshotProgress::Running).await?;
        let tables = tables_to_read(&self.config, None, &self.definitions);
        let figures = SnapshotFigures::begin(context.metrics());
        let snapshot = Snapshot {
            config: &self.config,
            context,
            plans: &mut self.plans,
            blocks: &self.blocks,
            publication: None,
            completed: Vec::new(),
            place: position.last.clone(),
            position,
            is_asked_for: false,
            outdated: &[],
            errored: &[],
            at_end: Vec::new(),
            figures: &figures,
            published: &PublishedSoFar::default(),
            cancellations: &self.cancellations,
        };
        snapshot.read_together(tables).await
    }

    /// Behind a snapshot that nothing follows stands one heartbeat, as with Debezium.
    async fn beat_once(&self, context: &mut SourceContext) -> Result<()> {
        let relational = &self.config.relational;
        if let Some(heartbeat) = &relational.heartbeat {
            let record = HeartbeatRecords::new(&heartbeat.topic, &relational.topic_prefix).record(now() / 1_000_000);
            let reservation = context.reserve(0).await;
            context.send(SourceBatch { records: vec![record], ..SourceBatch::default() }, reservation).await?;
        }
        Ok(())
    }

    async fn new_position(&self, log: Option<LogIdentity>, at: Lsn, snapshot: SnapshotProgress) -> Result<Position> {
        let last = self.message_at(at).await?;
        Ok(Position { log, resume: at, through: at, last_commit: None, partial: None, snapshot, last })
    }

    /// What stands for the last message where none was followed: that the server was there, now.
    async fn message_at(&self, lsn: Lsn) -> Result<LastMessage> {
        Ok(LastMessage { lsn, xid: Some(self.sql.next_xid().await?), timestamp: now() / 1000, kind: MessageKind::Commit })
    }
}

/// A UUID of version 7, by which readers tell the runs of a connector apart.
fn run_id() -> String {
    let milliseconds = u64::try_from(now() / 1_000_000).unwrap_or(0);
    let random = fastrand::u128(..).to_be_bytes();
    let (random, _) = random.split_first_chunk().expect("16 octets begin with 10");
    uuid::Builder::from_unix_timestamp_millis(milliseconds, random).into_uuid().to_string()
}

/// Reports a snapshot of which these tables were read before.
fn figures_of(context: &SourceContext, completed: &[CompletedTable]) -> SnapshotFigures {
    let figures = SnapshotFigures::begin(context.metrics());
    for table in completed {
        figures.complete(&mut figures.table(&table.name, table.rows));
    }
    figures
}

async fn send_state(context: &mut SourceContext, state: Vec<tailwater_api::state::StateChange>) -> Result<()> {
    let reservation = context.reserve(0).await;
    context.send(SourceBatch { state, ..SourceBatch::default() }, reservation).await?;
    Ok(())
}
