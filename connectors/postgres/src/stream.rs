//! Following the log: messages in, batches of records with resume points out.
//!
//! A transaction arrives whole, after its commit, as begin, row messages and commit; where `transaction.streaming` is on, a large
//! one arrives in parts while it is in progress and is kept on disk (`spill`) until its commit makes it a whole one. Records are gathered into a
//! batch until its reservation is used up or the socket has nothing more at a transaction's end; then the batch is
//! sent with its resume point (I3): the end of the last whole transaction, and for a batch cut inside a
//! transaction how many of its row messages are in batches sent so far, counted before any filter. After a restart the
//! server sends that transaction again from its begin; its xid and commit LSN are held against the stored ones,
//! and that many row messages are dropped.
//!
//! Changes of a table that were committed before the anchor of its snapshot are in the snapshot and are dropped.
//!
//! A reservation is asked for before the first message of a batch is decoded (I6). It is small while little happens
//! and grows while batches fill it, so that a quiet source holds little and a busy one sends large batches. Waiting for it
//! stops the reading of the socket, never the answering (I4, see `acknowledge`).
//!
//! Where nothing of ours happens, the position still moves (I5): with commits of transactions without rows for
//! us and with the server's keepalives, at most once a second, stored before it is confirmed.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tailwater_api::envelope::Operation;
use tailwater_api::metrics::{Counter, Gauge};
use tailwater_api::source::{SourceBatch, SourceContext};
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::envelope::{Change, EventMoment, SnapshotMark};
use tailwater_kit::heartbeat::HeartbeatRecords;
use tailwater_kit::transaction::TransactionRecords;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::acknowledge::Acknowledgements;
use crate::batch::Batch;
use crate::chunks::Chunks;
use crate::config::{PostgresConfig, SpillOptions};
use crate::connect::SqlSession;
use crate::event::{Blocks, LogicalMessages, Place, now};
use crate::lsn::Lsn;
use crate::pgoutput::{Begin, Commit, Message, OldTuple, StreamControl, StreamedMessage, Tuple};
use crate::plans::Plans;
use crate::position::{LastMessage, LogIdentity, MessageKind, Partial, Position, SnapshotProgress};
use crate::relation::{Shape, TablePlan};
use crate::replication::{Frame, ReplicationStream};
use crate::reselect::{Found, reselect};
use crate::spill::{Full, Spill, SpilledMessages};
use crate::transaction::{Transaction, recognise};
use crate::visibility::LoggedTransaction;

/// Shortest time between two positions that are stored although no record came.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// Time between two counts of lost values.
const LOST_PAUSE: Duration = Duration::from_secs(5);
/// What an END counts logical messages as.
const MESSAGES: &str = "message";
/// How long a transaction may keep records back while the server is silent in its middle.
const MIDDLE_PAUSE: Duration = Duration::from_millis(10);

/// The figures of a stream; touched once a batch.
struct Figures {
    rows: Counter,
    transactions: Counter,
    lag: Gauge,
    snapshot_rows: Counter,
    unchanged: Counter,
    lost: Counter,
}

/// Follows the log.
pub(crate) struct Streaming<'a> {
    config: &'a PostgresConfig,
    context: &'a mut SourceContext,
    plans: Plans,
    session: SqlSession,
    blocks: Blocks,
    messages: LogicalMessages,
    transactions: Option<TransactionRecords>,
    heartbeat: Option<Heartbeat>,
    log: LogIdentity,
    acknowledgements: Arc<Acknowledgements>,
    figures: Figures,

    resume: Lsn,
    last_commit: Option<Lsn>,
    last: LastMessage,
    /// The transaction of which the stored position holds a part, until it comes by
    expected: Option<Partial>,
    transaction: Option<Transaction>,
    /// Tables that are read meanwhile
    chunks: Option<Chunks>,
    /// Transactions in progress, where the server sends them
    spill: Option<Spill>,

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
    /// There is no room for transactions in progress: the server has to keep them, on another connection.
    SpillFull,
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
    pub(crate) messages: LogicalMessages,
    pub(crate) log: LogIdentity,
    pub(crate) position: Position,
    pub(crate) acknowledgements: Arc<Acknowledgements>,
    pub(crate) chunks: Option<Chunks>,
}

impl<'a> Streaming<'a> {
    pub(crate) fn new(config: &'a PostgresConfig, context: &'a mut SourceContext, start: Start) -> Self {
        let metrics = context.metrics();
        let figures = Figures {
            rows: metrics.counter("source_rows", "Row changes that were captured.", None),
            transactions: metrics.counter("source_transactions", "Transactions that were captured.", None),
            snapshot_rows: metrics.counter("snapshot_rows", "Rows that snapshots read.", None),
            unchanged: metrics.counter("source_unchanged_rows", "Updates dropped because they changed no captured column.", None),
            lost: metrics.counter("source_values_lost", "Values that the schema of their type had no room for.", None),
            lag: metrics.gauge("lag_milliseconds", "Time between the commit of the newest change and its capture.", None),
        };
        Self {
            config,
            context,
            plans: start.plans,
            session: start.session,
            blocks: start.blocks,
            messages: start.messages,
            transactions: config.relational.transaction_topic.as_deref().map(TransactionRecords::new),
            heartbeat: config.relational.heartbeat.as_ref().map(|heartbeat| Heartbeat {
                records: HeartbeatRecords::new(&heartbeat.topic, &config.relational.topic_prefix),
                interval: heartbeat.interval,
                due: Instant::now(),
            }),
            log: start.log,
            acknowledgements: start.acknowledgements,
            figures,
            resume: start.position.resume,
            last_commit: start.position.last_commit,
            last: start.position.last,
            expected: start.position.partial,
            transaction: None,
            chunks: start.chunks,
            spill: None,
            batch: Batch::default(),
            moved: false,
            stored_at: Instant::now(),
            lost_at: Instant::now(),
        }
    }

    /// Follows the log until the task is to end or the connection breaks.
    pub(crate) async fn run(&mut self, stream: &mut ReplicationStream) -> Result<Ended> {
        let mut stopping = self.context.stopping();
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
                    if self.read_chunk().await? {
                        continue;
                    }
                    let due = self.due();
                    tokio::select! {
                        biased;
                        () = stopped(&mut stopping) => return self.finish().await,
                        frame = stream.next() => frame,
                        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                            if !self.read_chunk().await? {
                                self.send().await?;
                            }
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
            self.read_chunk().await?;
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
        let chunks = self.chunks.as_ref().filter(|_| self.transaction.is_none()).map(Chunks::due);
        position.into_iter().chain(chunks).chain(self.heartbeat.as_ref().map(|heartbeat| heartbeat.due)).min()
    }

    /// Goes on with the tables that are read meanwhile, if there is something to do; says whether there was.
    async fn read_chunk(&mut self) -> Result<bool> {
        let Some(chunks) = self.chunks.as_mut().filter(|chunks| self.transaction.is_none() && chunks.is_due(self.resume)) else {
            return Ok(false);
        };
        if let Some(emission) = chunks.advance(&mut self.plans, &self.blocks, self.resume).await? {
            let now = now();
            let place = Place {
                lsn: self.resume,
                last_commit: self.last_commit,
                xid: None,
                timestamp: now / 1000,
                mark: SnapshotMark::Inside,
                origin: None,
            };
            let batch = &mut self.batch;
            self.figures.snapshot_rows.add(emission.rows.len() as u64);
            if let Some(plan) = &emission.plan {
                for change in emission.rows {
                    let moment = self.blocks.moment(&place, plan.schema_value.clone(), plan.table_value.clone(), now, &mut batch.arena);
                    plan.events.records(change, moment, |record| batch.push(record));
                }
            }
            batch.state.push(emission.state);
            if chunks.are_complete() {
                self.chunks = None;
            }
            self.send().await?;
        } else if chunks.are_complete() {
            self.chunks = None;
        }
        Ok(true)
    }

    async fn finish(&mut self) -> Result<Ended> {
        if !self.batch.records.is_empty() || self.moved {
            self.send().await?;
        }
        Ok(Ended::Stopped)
    }

    /// Where the server is to be asked to start.
    pub(crate) fn resume(&self) -> Lsn {
        self.resume
    }

    /// Keeps transactions in progress from now on, or does not. What was kept of them is forgotten: a new connection sends
    /// them from their beginning.
    pub(crate) fn keep_in_progress(&mut self, options: Option<&SpillOptions>) {
        self.spill = options.map(|options| {
            let figure = self.context.metrics().gauge("spilled_bytes", "Transactions in progress that are kept on disk.", None);
            Spill::new(options.folder.clone(), options.limit, figure)
        });
    }

    /// Takes a message: of a transaction in progress, or of a whole one.
    async fn take(&mut self, place: Lsn, payload: Bytes) -> Result<Taken> {
        let Some(spill) = &mut self.spill else {
            self.received(place, payload).await?;
            return Ok(Taken::Whole);
        };
        let at = |error: Error| error.at(place);
        let kept = match StreamControl::decode(&payload).map_err(at)? {
            Some(StreamControl::Start { xid, first: _ }) => spill.start(xid),
            Some(StreamControl::Stop) => {
                spill.stop();
                Ok(())
            }
            Some(StreamControl::Abort { xid, subxid }) => {
                spill.abort(xid, subxid);
                Ok(())
            }
            Some(StreamControl::Commit { xid, commit }) => {
                let messages = spill.commit(xid).map_err(at)?;
                return self.replay(xid, commit, messages).await;
            }
            None if spill.is_open() => spill.append(place, &StreamedMessage::split(payload).map_err(at)?),
            None => {
                self.received(place, payload).await?;
                Ok(())
            }
        };
        Ok(match kept {
            Ok(()) => Taken::Whole,
            Err(full) => Taken::SpillFull(full),
        })
    }

    /// Takes a message that came just now: values of its row may hold on to the buffer that others came in, too.
    async fn received(&mut self, place: Lsn, payload: Bytes) -> Result<()> {
        let octets = payload.len();
        self.message(place, payload).await?;
        self.batch.received += if self.batch.records.is_empty() { 0 } else { octets };
        Ok(())
    }

    /// A transaction that came in parts is committed: its messages are taken as those of a whole one, in bounded batches (I3).
    /// The socket is not read meanwhile, but answered.
    async fn replay(&mut self, xid: u32, commit: Commit, mut messages: SpilledMessages) -> Result<Taken> {
        let stopping = self.context.stopping();
        self.begin(Begin { final_lsn: commit.commit_lsn, commit_time: commit.commit_time, xid })?;
        while let Some((place, payload)) = messages.next()? {
            self.message(place, payload).await?;
            if self.batch.used() >= self.batch.size {
                self.send().await?;
                // I4: the task that answers the server may share this thread.
                tokio::task::yield_now().await;
                if *stopping.borrow() {
                    return Ok(Taken::Interrupted);
                }
            }
        }
        self.commit(commit.end_lsn)?;
        Ok(Taken::Whole)
    }

    fn begin(&mut self, begin: Begin) -> Result<()> {
        let (skip, expected) = recognise(self.expected, begin.xid, begin.final_lsn).map_err(|error| error.at(begin.final_lsn))?;
        self.expected = expected;
        self.transaction = Some(Transaction::new(begin, skip, self.transactions.is_some()));
        Ok(())
    }

    fn keepalive(&mut self, wal_end: Lsn, reply_requested: bool) {
        if reply_requested {
            self.acknowledgements.ask();
        }
        // I5: everything committed before this place was sent, and stands in this batch or in those before it. Not inside
        // a transaction, which has to come whole again after a restart, nor before a half durable one came by.
        let waits = self.transaction.is_some() || matches!(self.expected, Some(Partial::Rows { .. }));
        if !waits && wal_end > self.resume {
            self.resume = wal_end;
            self.moved = true;
        }
    }

    async fn message(&mut self, wal_start: Lsn, payload: Bytes) -> Result<()> {
        if self.batch.reservation.is_none() {
            // I6: before anything is decoded.
            self.batch.reservation = Some(self.context.reserve(self.batch.size).await);
            self.batch.now = now();
        }
        let at = |error: Error| error.at(wal_start);
        match Message::decode(&payload).map_err(at)? {
            Message::Begin(begin) => self.begin(begin)?,
            Message::Commit(commit) => self.commit(commit.end_lsn)?,
            Message::Relation(relation) => {
                let (oid, shape) = (relation.oid, Shape::of_relation(&relation));
                let xid = self.transaction.as_ref().map(|transaction| transaction.xid);
                self.plans.describe(&mut self.session, &self.blocks, xid, oid, shape).await.map_err(at)?;
            }
            Message::Insert(insert) => {
                let found = self.reselect(insert.relation, None, &insert.new).await.map_err(at)?;
                self.row(insert.relation, wal_start, MessageKind::Insert, |plan, arena| {
                    let mut change = plan.create(&insert.new, arena)?;
                    plan.fill(&mut change, &found, arena)?;
                    Ok(change)
                })
                .await?;
            }
            Message::Update(update) => {
                let found = self.reselect(update.relation, update.old.as_ref(), &update.new).await.map_err(at)?;
                self.row(update.relation, wal_start, MessageKind::Update, |plan, arena| {
                    let mut change = plan.update(update.old.as_ref(), &update.new, arena)?;
                    plan.fill(&mut change, &found, arena)?;
                    Ok(change)
                })
                .await?;
            }
            Message::Delete(delete) => {
                self.row(delete.relation, wal_start, MessageKind::Delete, |plan, arena| plan.delete(&delete.old, arena)).await?;
            }
            Message::Truncate(truncate) => self.truncate(&truncate.relations, wal_start)?,
            Message::Origin(origin) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.origin = Some((origin.name.into(), origin.commit_lsn));
                }
            }
            // A type is described before the relation that uses it; the catalog is asked when that comes.
            Message::Type(_) => {}
            Message::Logical(message) => {
                let content = payload.slice_ref(message.content);
                self.logical(message.transactional, message.lsn, message.prefix, content);
            }
        }
        Ok(())
    }

    /// Reads values again that the log does not hold, where the configuration asks for it.
    async fn reselect(&mut self, relation: u32, old: Option<&OldTuple<'_>>, new: &Tuple<'_>) -> Result<Vec<Found>> {
        let Some(options) = &self.config.relational.reselect else { return Ok(Vec::new()) };
        let Some(plan) = self.plans.of(relation)? else { return Ok(Vec::new()) };
        let xid = self.transaction.as_ref().map(|transaction| transaction.xid);
        reselect(options, &mut self.session, xid, &plan, old, new).await
    }

    fn commit(&mut self, end: Lsn) -> Result<()> {
        let Some(transaction) = self.transaction.take() else {
            return Err(unexpected("a commit outside a transaction", end));
        };
        if let (Some(records), Some(order)) = (&self.transactions, &transaction.order) {
            let time = transaction.timestamp / 1000;
            if !transaction.told {
                self.batch.push(records.begin(order, time));
            }
            self.batch.push(records.end(order, time));
        }
        self.resume = end;
        self.last_commit = Some(end);
        self.last = LastMessage { lsn: end, xid: Some(transaction.xid), timestamp: transaction.timestamp, kind: MessageKind::Commit };
        self.moved = true;
        self.batch.transactions += u64::from(transaction.ours);
        Ok(())
    }

    /// Counts a row message, and the first of a transaction tells that it began. Says whether the message is durable since
    /// an earlier run and how the table is written; `None` for a message that is dropped.
    fn admit(&mut self, relation: u32, lsn: Lsn, is_row: bool) -> Result<Option<(Arc<TablePlan>, bool)>> {
        let Some(transaction) = &mut self.transaction else {
            return Err(unexpected("a change outside a transaction", lsn));
        };
        if is_row {
            transaction.rows += 1;
        }
        let commit = transaction.commit;
        let durable = transaction.is_durable(lsn);
        if let Some(chunks) = self.chunks.as_mut().filter(|_| durable) {
            chunks.lose(LoggedTransaction { xid: transaction.xid, commit });
        }
        if durable && transaction.order.is_none() {
            return Ok(None);
        }
        self.tell_begin();
        // Committed before the anchor: the snapshot holds it.
        let plan = self.plans.of(relation)?.filter(|plan| commit >= plan.anchor);
        Ok(plan.map(|plan| (plan, durable)))
    }

    /// Writes the record that says that the transaction began, if it is not written yet.
    fn tell_begin(&mut self) {
        if let (Some(records), Some(transaction)) = (&self.transactions, &mut self.transaction)
            && let Some(order) = transaction.order.as_ref().filter(|_| !transaction.told)
        {
            transaction.told = true;
            self.batch.push(records.begin(order, transaction.timestamp / 1000));
        }
    }

    async fn row(
        &mut self,
        relation: u32,
        lsn: Lsn,
        kind: MessageKind,
        decode: impl Fn(&TablePlan, &mut BytesMut) -> Result<Change>,
    ) -> Result<()> {
        let Some((mut plan, durable)) = self.admit(relation, lsn, true)? else {
            return Ok(());
        };
        let relational = &self.config.relational;
        let skipped = match kind {
            MessageKind::Insert => Operation::Create,
            MessageKind::Update => Operation::Update,
            MessageKind::Delete => Operation::Delete,
            MessageKind::Truncate | MessageKind::Message | MessageKind::Commit => return Err(unexpected("no row", lsn)),
        };
        if relational.skipped_operations.contains(skipped) && self.chunks.is_none() {
            return Ok(());
        }
        let at = |error: Error| error.at(lsn);
        let mut change = decode(&plan, &mut self.batch.arena).map_err(at)?;
        if plan.unlisted_label().is_some() {
            plan = self.plans.relist(&mut self.session, &self.blocks, relation, &plan).await.map_err(at)?;
            change = decode(&plan, &mut self.batch.arena).map_err(at)?;
        }
        self.touch(relation, &change);
        if relational.skipped_operations.contains(skipped) {
            return Ok(());
        }
        if relational.skip_unchanged && change.is_without_effect() {
            self.batch.unchanged += 1;
            return Ok(());
        }
        self.emit(&plan, change, lsn, kind, durable);
        Ok(())
    }

    fn truncate(&mut self, relations: &[u32], lsn: Lsn) -> Result<()> {
        for (index, &relation) in relations.iter().enumerate() {
            let admitted = self.admit(relation, lsn, index == 0)?;
            self.touch(relation, &Change::Truncate);
            if let Some((plan, durable)) = admitted.filter(|_| !self.config.relational.skipped_operations.contains(Operation::Truncate)) {
                self.emit(&plan, Change::Truncate, lsn, MessageKind::Truncate, durable);
            }
        }
        Ok(())
    }

    /// Rows that are read meanwhile must not stand behind this change.
    fn touch(&mut self, relation: u32, change: &Change) {
        if let (Some(chunks), Some(transaction)) = (&mut self.chunks, &self.transaction) {
            chunks.touch(LoggedTransaction { xid: transaction.xid, commit: transaction.commit }, relation, change);
        }
    }

    /// Writes the records of a change. What is durable already is only counted.
    fn emit(&mut self, plan: &TablePlan, change: Change, lsn: Lsn, kind: MessageKind, durable: bool) {
        let Some(transaction) = &mut self.transaction else { return };
        let order = transaction.order.as_mut().map(|order| order.count(&plan.full_name, change.events()));
        if durable {
            return;
        }
        transaction.ours = true;
        let place = Place {
            lsn,
            last_commit: self.last_commit,
            xid: Some(transaction.xid),
            timestamp: transaction.timestamp,
            mark: SnapshotMark::Streaming,
            origin: transaction.origin.clone(),
        };
        let batch = &mut self.batch;
        let moment = self.blocks.moment(&place, plan.schema_value.clone(), plan.table_value.clone(), batch.now, &mut batch.arena);
        plan.events.records(change, EventMoment { transaction: order, ..moment }, |record| batch.push(record));
        batch.rows += 1;
        self.last = LastMessage { lsn, xid: Some(transaction.xid), timestamp: transaction.timestamp, kind };
        self.moved = true;
    }

    fn logical(&mut self, transactional: bool, lsn: Lsn, prefix: &str, content: Bytes) {
        let wanted = self.config.message_prefixes.accepts(prefix);
        let mut order = None;
        let (xid, timestamp) = match &mut self.transaction {
            Some(transaction) if transactional => {
                transaction.rows += 1;
                let durable = transaction.is_durable(lsn);
                if wanted {
                    order = transaction.order.as_mut().map(|order| order.count(MESSAGES, 1));
                }
                let (xid, timestamp) = (transaction.xid, transaction.timestamp);
                transaction.ours |= wanted && !durable;
                if !durable {
                    self.tell_begin();
                }
                if durable || !wanted {
                    return;
                }
                (Some(xid), timestamp)
            }
            // It stands by itself, is sent at once, and has no time but ours.
            Some(_) | None => (None, self.batch.now / 1000),
        };
        if wanted {
            let place = Place { lsn, last_commit: self.last_commit, xid, timestamp, mark: SnapshotMark::Streaming, origin: None };
            let empty = tailwater_api::Value::text("");
            let moment = self.blocks.moment(&place, empty.clone(), empty, self.batch.now, &mut self.batch.arena);
            self.batch.push(self.messages.record(prefix, content, EventMoment { transaction: order, ..moment }));
            self.last = LastMessage { lsn, xid, timestamp, kind: MessageKind::Message };
        }
        self.moved = true;
        if self.transaction.is_none() {
            // Its record ends here; the server does not send it again from this place.
            self.resume = self.resume.max(lsn);
        }
    }

    fn position(&self) -> Position {
        let partial = match &self.transaction {
            Some(transaction) => transaction.partial(),
            None => self.expected,
        };
        Position {
            log: Some(self.log.clone()),
            resume: self.resume,
            last_commit: self.last_commit,
            partial,
            snapshot: SnapshotProgress::Streaming,
            last: self.last.clone(),
        }
    }

    async fn send(&mut self) -> Result<()> {
        if let Some(heartbeat) = self.heartbeat.as_mut().filter(|heartbeat| heartbeat.due <= Instant::now()) {
            heartbeat.due = Instant::now() + heartbeat.interval;
            self.batch.push(heartbeat.records.record(now() / 1_000_000));
        }
        let position = self.position();
        let resume = position.resume;
        let batch = &mut self.batch;
        let records = std::mem::take(&mut batch.records);
        // A row larger than what was reserved: ask for all of it, holding nothing, so that it is granted.
        if batch.reservation.as_ref().is_none_or(|held| held.bytes() < batch.weight) {
            batch.reservation = None;
        }
        let reservation = match batch.reservation.take() {
            Some(reservation) => reservation,
            None => self.context.reserve(batch.weight).await,
        };
        batch.resize();
        (batch.weight, batch.received) = (0, 0);
        self.figures.rows.add(std::mem::take(&mut batch.rows));
        self.figures.transactions.add(std::mem::take(&mut batch.transactions));
        self.figures.unchanged.add(std::mem::take(&mut batch.unchanged));
        if !records.is_empty() {
            self.figures.lag.set((batch.now / 1_000_000).saturating_sub(position.last.timestamp / 1000));
        }
        let mut state = std::mem::take(&mut batch.state);
        state.push(position.change(&self.config.relational.topic_prefix));
        let number = self.context.send(SourceBatch { records, state, ..SourceBatch::default() }, reservation).await?;
        // I1: confirmed to the server only once this batch is durable.
        self.acknowledgements.sent(number, resume);
        self.moved = false;
        self.stored_at = Instant::now();
        if self.stored_at >= self.lost_at {
            self.figures.lost.add(self.plans.newly_lost());
            self.lost_at = self.stored_at + LOST_PAUSE;
        }
        Ok(())
    }
}

/// Completes when the task should end. Cancel-safe.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A daemon that is gone is a stop, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn unexpected(what: &str, lsn: Lsn) -> Error {
    Error::new(ErrorKind::Unreadable, "follow the log").because(format!("the server sent {what}")).at(lsn)
}
