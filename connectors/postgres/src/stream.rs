//! Following the log: messages in, batches of records with resume points out.
//!
//! A transaction arrives whole, after its commit, as begin, row messages and commit. Where `transaction.streaming` is on, a large
//! one arrives in parts while it is in progress, and where `transaction.two.phase` is on, a prepared one when it is prepared; these
//! are kept until their commit makes whole ones of them (`uncommitted`). Records are gathered into a batch until its
//! reservation is used up or the socket has nothing more at a transaction's end; then the batch is sent with its resume point
//! (I3): the end of the last whole transaction (held back by prepared ones, see `progress`), and for a batch cut inside a
//! transaction up to which place its messages are in batches sent so far, whatever the filters are (`transaction`). After a restart the
//! server sends that transaction again from its begin; its xid and commit LSN are held against the stored ones,
//! and its messages up to that place are dropped.
//!
//! A reservation is asked for before the first message of a batch is decoded (I6). It is small while little happens
//! and grows while batches fill it, so that a quiet source holds little and a busy one sends large batches. Waiting for it
//! stops the reading of the socket, never the answering (I4, see `acknowledge`).
//!
//! A primary is on one timeline for as long as it runs. A standby comes to a newer one where it is promoted, or the server that it
//! follows is, and the stream goes on over that. So a standby is asked for its timeline before each batch leaves: what came before
//! the question is on the timeline of the answer, or on one in its history. With an older one a restart would take the position for one
//! of a branch that was left (`restart`).
//!
//! Where nothing of ours happens, the position still moves (I5): with commits of transactions without rows for
//! us and with the server's keepalives, at most once a second, stored before it is confirmed.

mod changes;
mod chosen;
mod isolation;
mod rest;
mod signals;
mod text;
mod uncommitted;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tailwater_api::metrics::{Counter, Gauge};
use tailwater_api::signal::Signal;
use tailwater_api::source::{BatchNumber, Reservation, SourceBatch, SourceContext};
use tailwater_api::state::StateChange;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::crash_point::crash_point;
use tailwater_kit::envelope::SnapshotMark;
use tailwater_kit::heartbeat::HeartbeatRecords;
use tailwater_kit::signals::channels::Channels;
use tailwater_kit::transaction::TransactionRecords;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::isolation::Flag;
use self::uncommitted::Uncommitted;
use crate::acknowledge::{Acknowledgements, Durable};
use crate::batch::{Batch, Counts};
use crate::blocking::BlockingSnapshots;
use crate::catalog::ServerFacts;
use crate::chunks::Chunks;
use crate::config::PostgresConfig;
use crate::connect::{Cancellations, SqlSession};
use crate::definitions::Definitions;
use crate::event::{Blocks, LogicalMessages, Place, now};
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::position::{LastMessage, LogIdentity, Partial, Position, SnapshotProgress};
use crate::progress::Progress;
use crate::replication::{Frame, ReplicationConnection, ReplicationStream};
use crate::request::TableRequest;
use crate::source::Protocol;
use crate::spill::Full;
use crate::table_states::{ErroredTable, ReadingTable, owed};
use crate::transaction::Transaction;

/// Shortest time between two positions that are stored although no record came.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// Time between two counts of lost values.
const LOST_PAUSE: Duration = Duration::from_secs(5);
/// How long room is waited for before tables that are read meanwhile give theirs back.
const GIVE_WAY: Duration = Duration::from_secs(1);
/// How long a transaction may keep records back while the server is silent in its middle.
const MIDDLE_PAUSE: Duration = Duration::from_millis(10);

/// The figures of a stream; touched once a batch.
struct Figures {
    rows: Counter,
    transactions: Counter,
    creates: Counter,
    updates: Counter,
    deletes: Counter,
    filtered: Counter,
    lag: Gauge,
    last_event: Gauge,
    snapshot_rows: Counter,
    unchanged: Counter,
    lost: Counter,
    unreadable: Counter,
    dropped: Counter,
}

impl Figures {
    fn count(&self, counts: &Counts) {
        self.rows.add(counts.rows);
        self.creates.add(counts.creates);
        self.updates.add(counts.updates);
        self.deletes.add(counts.deletes);
        self.filtered.add(counts.filtered);
        self.unchanged.add(counts.unchanged);
        self.dropped.add(counts.dropped);
        self.transactions.add(counts.transactions);
    }
}

/// Follows the log.
pub(crate) struct Streaming<'a> {
    config: &'a PostgresConfig,
    context: &'a mut SourceContext,
    plans: Plans,
    session: SqlSession,
    blocks: Blocks,
    /// What `source.xmin` tells, where that is asked for
    xmin: Option<watch::Receiver<Option<i64>>>,
    messages: LogicalMessages,
    transactions: Option<TransactionRecords>,
    definitions: Option<Definitions>,
    heartbeat: Option<Heartbeat>,
    log: LogIdentity,
    /// A session with the standby that is followed, where it is one
    standby: Option<ReplicationConnection>,
    acknowledgements: Arc<Acknowledgements>,
    figures: Figures,

    progress: Progress,
    last_commit: Option<Lsn>,
    last: LastMessage,
    /// The transaction of which the stored position holds a part, until it comes by
    expected: Option<Partial>,
    transaction: Option<Transaction>,
    facts: ServerFacts,
    /// Tables that are read meanwhile
    chunks: Chunks,
    /// Tables that are read while the log rests
    blocking: BlockingSnapshots,
    signals: Channels,
    cancellations: Cancellations,
    /// The oid of the signalling table
    signal_table: Option<u32>,
    /// The oids of tables of which an event was left out
    left_out: HashSet<u32>,
    /// Of the tables whose changes are dropped, by their names
    flags: HashMap<String, Flag>,
    /// Names under which the snapshot at the start did not read a table to its end
    owed: watch::Sender<HashSet<String>>,
    /// What the state is to say of tables that left the publication
    left: watch::Receiver<Vec<StateChange>>,
    /// Signals of the transaction so far
    heard: Vec<Signal>,
    /// What the connection speaks
    protocol: Protocol,
    uncommitted: Uncommitted,

    batch: Batch,
    /// The position moved since it was sent last.
    moved: bool,
    stored_at: Instant,
    /// When lost values are counted next
    lost_at: Instant,
}

/// Why the log is followed no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The task is to end.
    Stopped,
    /// There is no room for transactions in progress: the server has to keep them, and is told so on another connection.
    SpillFull,
    /// Not all values can come in binary: the server is to send text, and is told so on another connection.
    NeedsText,
}

/// What became of a message.
enum Taken {
    Whole,
    /// The task is to end, within a transaction.
    Interrupted,
    SpillFull(Full),
}

/// Heartbeats and when the next one is due. One stands at the end of a batch; a batch is sent for it if none is.
struct Heartbeat {
    records: HeartbeatRecords,
    interval: Duration,
    due: Instant,
}

/// What a stream starts with.
pub(crate) struct Start {
    pub(crate) plans: Plans,
    pub(crate) session: SqlSession,
    pub(crate) blocks: Blocks,
    pub(crate) xmin: Option<watch::Receiver<Option<i64>>>,
    pub(crate) messages: LogicalMessages,
    pub(crate) definitions: Option<Definitions>,
    pub(crate) log: LogIdentity,
    pub(crate) position: Position,
    pub(crate) acknowledgements: Arc<Acknowledgements>,
    pub(crate) facts: ServerFacts,
    /// A session with the standby that is followed, where it is one
    pub(crate) standby: Option<ReplicationConnection>,
    pub(crate) chunks: Chunks,
    pub(crate) blocking: BlockingSnapshots,
    pub(crate) signals: Channels,
    /// Names under which the snapshot at the start did not read a table to its end
    pub(crate) owed: watch::Sender<HashSet<String>>,
    /// What the state is to say of tables that left the publication
    pub(crate) left: watch::Receiver<Vec<StateChange>>,
    /// Tables that were errored before
    pub(crate) errored: Vec<ErroredTable>,
    pub(crate) cancellations: Cancellations,
}

impl<'a> Streaming<'a> {
    pub(crate) fn new(config: &'a PostgresConfig, context: &'a mut SourceContext, start: Start) -> Self {
        let metrics = context.metrics();
        let figures = Figures {
            rows: metrics.counter("source_rows", "Row changes that were captured.", None),
            creates: metrics.counter("source_creates", "Rows that were captured as inserted, also under a changed key.", None),
            updates: metrics.counter("source_updates", "Rows that were captured as updated.", None),
            deletes: metrics.counter("source_deletes", "Rows that were captured as deleted, also under a key that was changed.", None),
            filtered: metrics.counter(
                "source_filtered_rows",
                "Row changes that the configuration leaves out: of tables that are not captured, and of skipped.operations.",
                None,
            ),
            last_event: metrics.gauge(
                "source_last_event_timestamp_milliseconds",
                "When the newest change was captured, since 1970 UTC; 0 before the first.",
                None,
            ),
            transactions: metrics.counter("source_transactions", "Transactions that were captured.", None),
            snapshot_rows: metrics.counter("snapshot_rows", "Rows that snapshots read.", None),
            unchanged: metrics.counter("source_unchanged_rows", "Updates dropped because they changed no captured column.", None),
            lost: metrics.counter("source_values_lost", "Values that the schema of their type had no room for.", None),
            unreadable: metrics.counter("source_unreadable_events", "Events of the log that cannot be decoded and were left out.", None),
            dropped: metrics.counter("source_dropped_rows", "Row changes of errored tables, which were dropped.", None),
            lag: metrics.gauge("lag_milliseconds", "Time between the commit of the newest change and its capture.", None),
        };
        let mut streaming = Self {
            config,
            context,
            plans: start.plans,
            session: start.session,
            blocks: start.blocks,
            xmin: start.xmin,
            messages: start.messages,
            transactions: config.relational.transaction_topic.as_deref().map(TransactionRecords::new),
            definitions: start.definitions,
            heartbeat: config.relational.heartbeat.as_ref().map(|heartbeat| Heartbeat {
                records: HeartbeatRecords::new(&heartbeat.topic, &config.relational.topic_prefix),
                interval: heartbeat.interval,
                due: Instant::now(),
            }),
            log: start.log,
            standby: start.standby,
            acknowledgements: start.acknowledgements,
            figures,
            progress: Progress::new(start.position.resume, start.position.through),
            last_commit: start.position.last_commit,
            last: start.position.last,
            expected: start.position.partial,
            transaction: None,
            facts: start.facts,
            chunks: start.chunks,
            blocking: start.blocking,
            signals: start.signals,
            cancellations: start.cancellations,
            signal_table: None,
            left_out: HashSet::new(),
            flags: HashMap::new(),
            owed: start.owed,
            left: start.left,
            heard: Vec::new(),
            protocol: Protocol::default(),
            uncommitted: Uncommitted::default(),
            batch: Batch::default(),
            moved: false,
            stored_at: Instant::now(),
            lost_at: Instant::now(),
        };
        streaming.tell_of_errored(&start.errored);
        streaming
    }

    /// Follows the log until the task is to end, another connection is needed, or this one breaks.
    pub(crate) async fn run(&mut self, stream: &mut ReplicationStream) -> Result<Ended> {
        match self.follow(stream).await {
            Err(error) if self.plans.come_in_binary() && text::is_asked_for(&error) => self.turn_to_text(&error).await,
            ended => ended,
        }
    }

    async fn follow(&mut self, stream: &mut ReplicationStream) -> Result<Ended> {
        let mut stopping = self.context.stopping();
        if self.transaction.is_none() {
            // What an earlier run was asked for.
            self.rest(self.progress.place()).await?;
        }
        loop {
            let frame = match stream.next().now_or_never() {
                Some(frame) => frame,
                None => {
                    // The socket has nothing more: what is whole leaves now.
                    if self.batch.records.is_empty() {
                        self.batch.reservation = None;
                    }
                    if !self.batch.records.is_empty() && self.transaction.is_none() {
                        self.send().await?;
                        continue;
                    }
                    let due = self.due();
                    let is_between = self.transaction.is_none();
                    tokio::select! {
                        biased;
                        () = stopped(&mut stopping) => return self.finish().await,
                        frame = stream.next() => frame,
                        request = self.signals.next(), if is_between => {
                            self.obey_request(request).await?;
                            self.rest(self.progress.place()).await?;
                            continue;
                        }
                        taken = self.blocking.taken(), if is_between => {
                            self.snapshot_taken(taken).await?;
                            self.rest(self.progress.place()).await?;
                            continue;
                        }
                        Ok(()) = self.left.changed(), if is_between => {
                            self.store_left().await?;
                            continue;
                        }
                        () = self.chunks.wait(), if is_between => {
                            self.read_chunks().await?;
                            self.rest(self.progress.place()).await?;
                            continue;
                        }
                        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                            self.send().await?;
                            continue;
                        }
                    }
                }
            };
            match frame? {
                Some(Frame::Data { wal_start, payload, .. }) => match self.take(wal_start, payload).await {
                    Ok(Taken::Whole) => {}
                    Ok(Taken::Interrupted) => return self.finish().await,
                    Ok(Taken::SpillFull(full)) => {
                        warn!("transactions in progress are left to the server from now on: {full}");
                        self.finish().await?;
                        return Ok(Ended::SpillFull);
                    }
                    Err(error) => {
                        self.leave_what_is_whole().await?;
                        return Err(error);
                    }
                },
                Some(Frame::Keepalive { wal_end, reply_requested, .. }) => self.keepalive(wal_end, reply_requested),
                None => return Err(Error::new(ErrorKind::Restarting, "follow the log").because("the server ended the stream")),
            }
            if self.transaction.is_none() {
                self.between_transactions().await?;
            }
            if self.batch.used() >= self.batch.size {
                self.send().await?;
                // I4: the task that answers the server may share this thread, and a backlog has no pause by itself.
                tokio::task::yield_now().await;
                if *stopping.borrow() {
                    return self.finish().await;
                }
            }
        }
    }

    /// Sends the transactions before the one in which an error ends the stream, unless some of that one is written already: a
    /// position inside it counts the row of the error, too, which a restart must not drop (I3).
    async fn leave_what_is_whole(&mut self) -> Result<()> {
        let is_untouched = self.transaction.as_ref().is_some_and(|transaction| !transaction.ours && !transaction.told);
        if is_untouched && !self.batch.records.is_empty() {
            self.transaction = None;
            self.send().await?;
        }
        Ok(())
    }

    /// When something has to be sent although the server is silent.
    fn due(&self) -> Option<Instant> {
        let position = if !self.batch.records.is_empty() {
            Some(Instant::now() + MIDDLE_PAUSE)
        } else if self.moved && self.transaction.is_none() {
            Some(self.stored_at + IDLE_PAUSE)
        } else {
            None
        };
        position.into_iter().chain(self.heartbeat.as_ref().map(|heartbeat| heartbeat.due)).min()
    }

    /// Does what waits for the end of a transaction.
    async fn between_transactions(&mut self) -> Result<()> {
        if let Some(request) = self.signals.waiting() {
            self.obey_request(request).await?;
        }
        if self.left.has_changed().unwrap_or(false) {
            self.store_left().await?;
        }
        self.read_chunks().await?;
        self.rest(self.progress.place()).await
    }

    /// Stores which tables left the publication: a crash must not forget it (I11).
    async fn store_left(&mut self) -> Result<()> {
        let left = self.left.borrow_and_update().clone();
        self.batch.state.extend(left);
        self.send().await?;
        Ok(())
    }

    /// Goes on with the tables that are read meanwhile.
    async fn read_chunks(&mut self) -> Result<()> {
        if self.chunks.is_idle() {
            return Ok(());
        }
        let Some(emission) = self.chunks.advance(&self.plans, &self.blocks, self.progress.place())? else { return Ok(()) };
        if !self.batch.records.is_empty() {
            self.send().await?;
        }
        let now = now();
        let place = Place {
            lsn: self.progress.through(),
            last_commit: self.last_commit,
            xid: None,
            timestamp: now / 1000,
            mark: if emission.is_asked_for { SnapshotMark::Incremental } else { SnapshotMark::Inside },
            origin: None,
        };
        let batch = &mut self.batch;
        self.figures.snapshot_rows.add(emission.rows.len() as u64);
        if let Some((plan, reservation)) = emission.plan {
            // I6: the rows bring their room with them.
            batch.reservation = Some(reservation);
            batch.records.reserve(emission.rows.len());
            for change in emission.rows {
                let moment = self.blocks.moment(&place, plan.schema_value.clone(), plan.table_value.clone(), now, &mut batch.arena);
                plan.events.records(change, moment, |record| batch.push(record));
            }
        }
        emission.notifications.into_iter().for_each(|record| batch.push(record));
        batch.state.extend(emission.state);
        if let Some(table) = emission.left_over {
            let request = Some(TableRequest::of_initial_snapshot(self.next_order()));
            let table = ReadingTable { rows: 0, range: None, request, ..table };
            self.batch.state.push(table.change(&self.config.relational.topic_prefix));
            self.blocking.add(vec![table]);
        }
        if let Some(name) = emission.owed {
            self.batch.state.push(owed(&self.config.relational.topic_prefix, &name));
            self.owed.send_if_modified(|names| names.insert(name));
        }
        if let Some((table, error)) = emission.errored {
            self.isolate(&table, self.progress.place(), &error);
        }
        if self.chunks.is_idle() {
            // A rest ends with what rests: the next snapshot begins.
            self.let_rest(false);
        }
        self.send().await?;
        crash_point("chunk-sent");
        Ok(())
    }

    /// Waits for room (I6). Tables that are read meanwhile may hold the very room that is waited for: they give way.
    async fn reserve(&mut self, bytes: usize) -> Reservation {
        if self.chunks.takes_room() {
            match tokio::time::timeout(GIVE_WAY, self.context.reserve(bytes)).await {
                Ok(reservation) => return reservation,
                Err(_) => self.chunks.give_way(),
            }
        }
        self.context.reserve(bytes).await
    }

    async fn finish(&mut self) -> Result<Ended> {
        if !self.batch.records.is_empty() || self.moved {
            self.send().await?;
        }
        Ok(Ended::Stopped)
    }

    /// Takes a message that came just now: values of its row may hold on to the buffer that others came in, too.
    async fn received(&mut self, place: Lsn, payload: Bytes) -> Result<()> {
        let octets = payload.len();
        self.message(place, payload).await?;
        self.batch.received += if self.batch.records.is_empty() { 0 } else { octets };
        Ok(())
    }

    fn keepalive(&mut self, wal_end: Lsn, reply_requested: bool) {
        if reply_requested {
            self.acknowledgements.ask();
        }
        // I5: everything committed before this place was sent, and stands in this batch or in those before it. Not inside
        // a transaction, which has to come whole again after a restart, nor before a half durable one came by.
        let waits = self.transaction.is_some() || self.expected.is_some_and(|partial| partial.commit.is_some());
        if !waits && wal_end > self.progress.place() {
            self.progress.advance(wal_end);
            self.moved = true;
        }
    }

    /// Asks a standby for the timeline that it has come to.
    async fn follow_timeline(&mut self) -> Result<()> {
        let Some(standby) = &mut self.standby else { return Ok(()) };
        let identity = standby.identify_system().await?;
        if identity.timeline != self.log.timeline {
            info!(from = self.log.timeline, to = identity.timeline, "the server has come to another timeline");
            self.log.timeline = identity.timeline;
        }
        Ok(())
    }

    fn position(&self) -> Position {
        Position {
            log: Some(self.log.clone()),
            resume: self.progress.resume(),
            through: self.progress.through(),
            last_commit: self.last_commit,
            // As long as nothing came of the transaction at hand, the half durable one is still waited for.
            partial: self.transaction.as_ref().and_then(Transaction::partial).or(self.expected),
            snapshot: SnapshotProgress::Streaming,
            last: self.last.clone(),
        }
    }

    /// Sends what there is, and says its number.
    async fn send(&mut self) -> Result<BatchNumber> {
        if let Some(heartbeat) = self.heartbeat.as_mut().filter(|heartbeat| heartbeat.due <= Instant::now()) {
            heartbeat.due = Instant::now() + heartbeat.interval;
            self.batch.push(heartbeat.records.record(now() / 1_000_000));
        }
        self.follow_timeline().await?;
        let position = self.position();
        let durable = Durable { resume: position.resume, through: position.through };
        let batch = &mut self.batch;
        let room = Vec::with_capacity(batch.records.len());
        let records = std::mem::replace(&mut batch.records, room);
        // A row larger than what was reserved: ask for all of it, holding nothing, so that it is granted.
        if batch.reservation.as_ref().is_none_or(|held| held.bytes() < batch.weight) {
            batch.reservation = None;
        }
        let reservation = match batch.reservation.take() {
            Some(reservation) => reservation,
            None => {
                let weight = batch.weight;
                self.reserve(weight).await
            }
        };
        let batch = &mut self.batch;
        batch.resize();
        (batch.weight, batch.received) = (0, 0);
        let counts = std::mem::take(&mut batch.counts);
        // Rows that are read beside the log say nothing about how far behind it is.
        if counts.rows > 0 {
            let now = batch.now / 1_000_000;
            self.figures.lag.set(now.saturating_sub(position.last.timestamp / 1000));
            self.figures.last_event.set(now);
        }
        self.figures.count(&counts);
        let mut state = std::mem::take(&mut batch.state);
        state.push(position.change(&self.config.relational.topic_prefix));
        let forget_pending = std::mem::take(&mut batch.forgets_pending);
        let batch = SourceBatch { records, state, forget_pending, ..SourceBatch::default() };
        let number = self.context.send(batch, reservation).await?;
        // I1: confirmed to the server only once this batch is durable.
        self.acknowledgements.sent(number, durable);
        self.moved = false;
        self.stored_at = Instant::now();
        if self.stored_at >= self.lost_at {
            self.figures.lost.add(self.plans.newly_lost());
            self.lost_at = self.stored_at + LOST_PAUSE;
        }
        Ok(number)
    }
}

/// Completes when the task should end. Cancel-safe.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A daemon that is gone is a stop, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}
