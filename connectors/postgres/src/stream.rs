//! Following the log: messages in, batches of records with resume points out.
//!
//! A transaction arrives whole, after its commit, as begin, row messages and commit. Records are gathered into a
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
use bytestring::ByteString;
use futures_util::FutureExt;
use tailwater_api::envelope::Operation;
use tailwater_api::metrics::{Counter, Gauge};
use tailwater_api::record::Record;
use tailwater_api::source::{Reservation, SourceBatch, SourceContext};
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::envelope::{Change, SnapshotMark};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::acknowledge::Acknowledgements;
use crate::config::PostgresConfig;
use crate::connect::SqlSession;
use crate::event::{Blocks, LogicalMessages, Place, now};
use crate::lsn::Lsn;
use crate::pgoutput::Message;
use crate::plans::Plans;
use crate::position::{LastMessage, LogIdentity, MessageKind, Partial, Position, SnapshotProgress};
use crate::relation::{Shape, TablePlan};
use crate::replication::{Frame, ReplicationStream};

/// What a batch may weigh at least and at most before it is sent.
const SMALLEST_BATCH: usize = 16 << 10;
const LARGEST_BATCH: usize = 512 << 10;
/// Shortest time between two positions that are stored although no record came.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// Time between two counts of lost values.
const LOST_PAUSE: Duration = Duration::from_secs(5);
/// How long a transaction may keep records back while the server is silent in its middle.
const MIDDLE_PAUSE: Duration = Duration::from_millis(10);

/// A transaction between its begin and its commit.
struct Transaction {
    xid: u32,
    /// Start of its commit record, by which it is told apart and held against anchors
    commit: Lsn,
    /// Microseconds since 1970 UTC
    timestamp: i64,
    /// Row messages so far
    rows: u64,
    skip: Skip,
    origin: Option<(ByteString, Lsn)>,
    /// Whether a record came of it
    ours: bool,
}

/// Which messages of a transaction are durable since an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    Rows(u64),
    /// What stands before the place, and this many messages at it
    UpTo(Lsn, u64),
}

impl Transaction {
    /// Whether the message that was just counted is durable since an earlier run.
    fn is_durable(&mut self, lsn: Lsn) -> bool {
        match &mut self.skip {
            Skip::Nothing => false,
            Skip::Rows(rows) => self.rows <= *rows,
            Skip::UpTo(place, messages) if lsn == *place && *messages > 0 => {
                *messages -= 1;
                true
            }
            Skip::UpTo(place, _) => lsn < *place,
        }
    }
}

/// The figures of a stream; touched once a batch.
struct Figures {
    rows: Counter,
    transactions: Counter,
    lag: Gauge,
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
    log: LogIdentity,
    acknowledgements: Arc<Acknowledgements>,
    figures: Figures,

    resume: Lsn,
    last_commit: Option<Lsn>,
    last: LastMessage,
    /// The transaction of which the stored position holds a part, until it comes by
    expected: Option<Partial>,
    transaction: Option<Transaction>,

    batch: Batch,
    /// The position moved since it was sent last.
    moved: bool,
    stored_at: Instant,
    /// When lost values are counted next
    lost_at: Instant,
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    weight: usize,
    reservation: Option<Reservation>,
    /// How much the next reservation asks for
    size: usize,
    /// The connector's clock for the records of this batch
    now: i64,
    arena: BytesMut,
    rows: u64,
    transactions: u64,
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
}

impl<'a> Streaming<'a> {
    pub(crate) fn new(config: &'a PostgresConfig, context: &'a mut SourceContext, start: Start) -> Self {
        let metrics = context.metrics();
        let figures = Figures {
            rows: metrics.counter("source_rows", "Row changes that were captured.", None),
            transactions: metrics.counter("source_transactions", "Transactions that were captured.", None),
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
            log: start.log,
            acknowledgements: start.acknowledgements,
            figures,
            resume: start.position.resume,
            last_commit: start.position.last_commit,
            last: start.position.last,
            expected: start.position.partial,
            transaction: None,
            batch: Batch { size: SMALLEST_BATCH, ..Batch::default() },
            moved: false,
            stored_at: Instant::now(),
            lost_at: Instant::now(),
        }
    }

    /// Follows the log until the task is to end or the connection breaks.
    pub(crate) async fn run(&mut self, stream: &mut ReplicationStream) -> Result<()> {
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
                    let due = if self.batch.records.is_empty() { self.stored_at + IDLE_PAUSE } else { Instant::now() + MIDDLE_PAUSE };
                    let waits = !self.batch.records.is_empty() || (self.moved && self.transaction.is_none());
                    tokio::select! {
                        biased;
                        () = stopped(&mut stopping) => return self.finish().await,
                        frame = stream.next() => frame,
                        () = sleep_until(due), if waits => {
                            self.send().await?;
                            continue;
                        }
                    }
                }
            };
            match frame? {
                Some(Frame::Data { wal_start, payload, .. }) => self.message(wal_start, payload).await?,
                Some(Frame::Keepalive { wal_end, reply_requested, .. }) => self.keepalive(wal_end, reply_requested),
                None => return Err(Error::new(ErrorKind::Restarting, "follow the log").because("the server ended the stream")),
            }
            if self.batch.weight >= self.batch.size {
                self.send().await?;
                if *stopping.borrow() {
                    return self.finish().await;
                }
            }
        }
    }

    async fn finish(&mut self) -> Result<()> {
        if !self.batch.records.is_empty() || self.moved {
            self.send().await?;
        }
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
            Message::Begin(begin) => {
                let skip = self.recognise(begin.xid, begin.final_lsn)?;
                self.transaction = Some(Transaction {
                    xid: begin.xid,
                    commit: begin.final_lsn,
                    timestamp: begin.commit_time,
                    rows: 0,
                    skip,
                    origin: None,
                    ours: false,
                });
            }
            Message::Commit(commit) => self.commit(commit.end_lsn)?,
            Message::Relation(relation) => {
                let (oid, shape) = (relation.oid, Shape::of_relation(&relation));
                self.plans.describe(&mut self.session, &self.blocks, oid, shape).await.map_err(at)?;
            }
            Message::Insert(insert) => {
                self.row(insert.relation, wal_start, MessageKind::Insert, |plan, arena| plan.create(&insert.new, arena))?;
            }
            Message::Update(update) => {
                self.row(update.relation, wal_start, MessageKind::Update, |plan, arena| {
                    plan.update(update.old.as_ref(), &update.new, arena)
                })?;
            }
            Message::Delete(delete) => {
                self.row(delete.relation, wal_start, MessageKind::Delete, |plan, arena| plan.delete(&delete.old, arena))?;
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

    /// Holds a transaction against the one of which a part is durable (I3).
    fn recognise(&mut self, xid: u32, commit: Lsn) -> Result<Skip> {
        let (skip, expected) = recognise(self.expected, xid, commit).map_err(|error| error.at(commit))?;
        self.expected = expected;
        Ok(skip)
    }

    fn commit(&mut self, end: Lsn) -> Result<()> {
        let Some(transaction) = self.transaction.take() else {
            return Err(unexpected("a commit outside a transaction", end));
        };
        self.resume = end;
        self.last_commit = Some(end);
        self.last = LastMessage { lsn: end, xid: Some(transaction.xid), timestamp: transaction.timestamp, kind: MessageKind::Commit };
        self.moved = true;
        self.batch.transactions += u64::from(transaction.ours);
        Ok(())
    }

    /// Counts a row message and says whether it is new and how the table is written; `None` for one to be dropped.
    fn admit(&mut self, relation: u32, lsn: Lsn, is_row: bool) -> Result<Option<Arc<TablePlan>>> {
        let Some(transaction) = &mut self.transaction else {
            return Err(unexpected("a change outside a transaction", lsn));
        };
        if is_row {
            transaction.rows += 1;
        }
        let commit = transaction.commit;
        if transaction.is_durable(lsn) {
            return Ok(None);
        }
        // Committed before the anchor: the snapshot holds it.
        Ok(self.plans.of(relation)?.filter(|plan| commit >= plan.anchor))
    }

    fn row(
        &mut self,
        relation: u32,
        lsn: Lsn,
        kind: MessageKind,
        decode: impl FnOnce(&TablePlan, &mut BytesMut) -> Result<Change>,
    ) -> Result<()> {
        let Some(plan) = self.admit(relation, lsn, true)? else {
            return Ok(());
        };
        let skipped = match kind {
            MessageKind::Insert => Operation::Create,
            MessageKind::Update => Operation::Update,
            MessageKind::Delete => Operation::Delete,
            MessageKind::Truncate | MessageKind::Message | MessageKind::Commit => return Err(unexpected("no row", lsn)),
        };
        if self.config.relational.skipped_operations.contains(skipped) {
            return Ok(());
        }
        let change = decode(&plan, &mut self.batch.arena).map_err(|error| error.at(lsn))?;
        self.emit(&plan, change, lsn, kind);
        Ok(())
    }

    fn truncate(&mut self, relations: &[u32], lsn: Lsn) -> Result<()> {
        for (index, &relation) in relations.iter().enumerate() {
            let plan = self.admit(relation, lsn, index == 0)?;
            if let Some(plan) = plan.filter(|_| !self.config.relational.skipped_operations.contains(Operation::Truncate)) {
                self.emit(&plan, Change::Truncate, lsn, MessageKind::Truncate);
            }
        }
        Ok(())
    }

    fn emit(&mut self, plan: &TablePlan, change: Change, lsn: Lsn, kind: MessageKind) {
        let Some(transaction) = &mut self.transaction else { return };
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
        plan.events.records(change, moment, |record| {
            batch.weight += record.weight();
            batch.records.push(record);
        });
        batch.rows += 1;
        self.last = LastMessage { lsn, xid: Some(transaction.xid), timestamp: transaction.timestamp, kind };
        self.moved = true;
    }

    fn logical(&mut self, transactional: bool, lsn: Lsn, prefix: &str, content: Bytes) {
        let (xid, timestamp) = match &mut self.transaction {
            Some(transaction) if transactional => {
                transaction.rows += 1;
                if transaction.is_durable(lsn) {
                    return;
                }
                transaction.ours = true;
                (Some(transaction.xid), transaction.timestamp)
            }
            // It stands by itself, is sent at once, and has no time but ours.
            Some(_) | None => (None, self.batch.now / 1000),
        };
        let place = Place { lsn, last_commit: self.last_commit, xid, timestamp, mark: SnapshotMark::Streaming, origin: None };
        let empty = tailwater_api::Value::text("");
        let moment = self.blocks.moment(&place, empty.clone(), empty, self.batch.now, &mut self.batch.arena);
        let record = self.messages.record(prefix, content, moment);
        self.batch.weight += record.weight();
        self.batch.records.push(record);
        self.last = LastMessage { lsn, xid, timestamp, kind: MessageKind::Message };
        self.moved = true;
        if self.transaction.is_none() {
            // Its record ends here; the server does not send it again from this place.
            self.resume = self.resume.max(lsn);
        }
    }

    fn position(&self) -> Position {
        let partial = match &self.transaction {
            Some(transaction) => match transaction.skip {
                Skip::Nothing | Skip::UpTo(..) if transaction.rows == 0 => None,
                Skip::Nothing | Skip::UpTo(..) => Some(transaction.rows),
                // Never less than what is durable already.
                Skip::Rows(durable) => Some(transaction.rows.max(durable)),
            }
            .map(|rows| Partial::Rows { xid: transaction.xid, commit: transaction.commit, rows }),
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
        // Filled: the next may be twice as large. Sent before it was full: half.
        let full = batch.weight >= batch.size;
        batch.size = if full { batch.size * 2 } else { batch.size / 2 }.clamp(SMALLEST_BATCH, LARGEST_BATCH);
        batch.weight = 0;
        self.figures.rows.add(std::mem::take(&mut batch.rows));
        self.figures.transactions.add(std::mem::take(&mut batch.transactions));
        if !records.is_empty() {
            self.figures.lag.set((batch.now / 1_000_000).saturating_sub(position.last.timestamp / 1000));
        }
        let state = vec![position.change(&self.config.relational.topic_prefix)];
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

fn recognise(expected: Option<Partial>, xid: u32, commit: Lsn) -> Result<(Skip, Option<Partial>)> {
    match expected {
        None => Ok((Skip::Nothing, None)),
        Some(Partial::Rows { xid: stored, commit: at, rows }) if commit == at => {
            if stored == xid {
                Ok((Skip::Rows(rows), None))
            } else {
                Err(another_history(format!("the transaction committed at {at} is {xid}, but {stored} was half durable")))
            }
        }
        // Without rows when the position was stored, for it stands before the half durable one.
        Some(partial @ Partial::Rows { commit: at, .. }) if commit < at => Ok((Skip::Nothing, Some(partial))),
        Some(Partial::Rows { xid: stored, commit: at, .. }) => {
            Err(another_history(format!("transaction {stored}, committed at {at}, is half durable, but the server does not send it again")))
        }
        Some(Partial::UpTo { xid: stored, lsn, messages }) if stored == xid => Ok((Skip::UpTo(lsn, messages), None)),
        // Only rows at or before a place would be dropped, so waiting on for it loses nothing.
        Some(partial @ Partial::UpTo { .. }) => Ok((Skip::Nothing, Some(partial))),
    }
}

/// Completes when the task should end. Cancel-safe.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A daemon that is gone is a stop, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn another_history(why: String) -> Error {
    Error::new(ErrorKind::HistoryGone, "continue inside a transaction")
        .because(why)
        .mend("set snapshot.mode to when_needed, or delete the connector's offsets (DELETE /connectors/NAME/offsets)")
}

fn unexpected(what: &str, lsn: Lsn) -> Error {
    Error::new(ErrorKind::Unreadable, "follow the log").because(format!("the server sent {what}")).at(lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(xid: u32, commit: u64, rows: u64) -> Option<Partial> {
        Some(Partial::Rows { xid, commit: Lsn::new(commit), rows })
    }

    #[test]
    fn a_half_durable_transaction_is_recognised_by_xid_and_commit() {
        assert_eq!(recognise(rows(7, 100, 3), 7, Lsn::new(100)).unwrap(), (Skip::Rows(3), None));
        assert_eq!(recognise(rows(7, 100, 3), 6, Lsn::new(90)).unwrap(), (Skip::Nothing, rows(7, 100, 3)));
        assert_eq!(recognise(None, 7, Lsn::new(100)).unwrap(), (Skip::Nothing, None));
    }

    #[test]
    fn another_transaction_in_its_place_is_another_history() {
        for (xid, commit) in [(8, 100), (7, 101), (8, 101)] {
            let error = recognise(rows(7, 100, 3), xid, Lsn::new(commit)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HistoryGone);
        }
    }

    #[test]
    fn debeziums_place_drops_only_rows_of_its_transaction() {
        let place = Some(Partial::UpTo { xid: 7, lsn: Lsn::new(50), messages: 1 });
        assert_eq!(recognise(place, 7, Lsn::new(100)).unwrap(), (Skip::UpTo(Lsn::new(50), 1), None));
        assert_eq!(recognise(place, 8, Lsn::new(100)).unwrap(), (Skip::Nothing, place));
    }
}
