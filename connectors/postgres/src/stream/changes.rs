//! What the messages of the log become: rows and truncations their records, begin and commit the bounds of a transaction.
//!
//! Changes of a table that were committed before the anchor of its snapshot are in the snapshot and are dropped. So are, after
//! a restart within a transaction, the messages that are durable already (I3): they are only counted.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tailwater_kit::envelope::{Change, EventMoment, SnapshotMark, mark_brought_by_snapshot};
use tailwater_kit::relational_config::OnUnreadableEvent;
use tracing::warn;

use super::Streaming;
use crate::event::{Place, now};
use crate::lsn::Lsn;
use crate::pgoutput::{Begin, Message, OldTuple, Tuple};
use crate::position::{LastMessage, MessageKind};
use crate::relation::{Shape, TablePlan};
use crate::reselect::{Found, reselect};
use crate::transaction::{Skip, Transaction, recognise};
use crate::visibility::LoggedTransaction;

/// What an END counts logical messages as.
const MESSAGES: &str = "message";

impl Streaming<'_> {
    pub(super) fn begin(&mut self, begin: Begin) -> Result<()> {
        let skip = if self.progress.is_repeated(begin.final_lsn) {
            Skip::Whole
        } else {
            let (skip, expected) = recognise(self.expected, begin.xid, begin.final_lsn).map_err(|error| error.at(begin.final_lsn))?;
            self.expected = expected;
            skip
        };
        self.transaction = Some(Transaction::new(begin, skip, self.transactions.is_some()));
        Ok(())
    }

    pub(super) async fn message(&mut self, wal_start: Lsn, payload: Bytes) -> Result<()> {
        if self.batch.reservation.is_none() {
            // I6: before anything is decoded.
            self.batch.reservation = Some(self.reserve(self.batch.size).await);
            self.batch.now = now();
            if let Some(xmin) = &self.xmin {
                self.blocks.set_xmin(*xmin.borrow());
            }
        }
        let at = |error: Error| error.at(wal_start);
        match Message::decode(&payload).map_err(at)? {
            Message::Begin(begin) => {
                self.rest(begin.final_lsn).await?;
                self.begin(begin)?;
            }
            Message::Commit(commit) => self.commit(commit.end_lsn).await?,
            Message::Relation(relation) => {
                self.uncommitted.foretold.remove(&relation.oid);
                Box::pin(self.describe(relation.oid, Shape::of_relation(&relation), wal_start)).await?;
            }
            Message::Insert(insert) => {
                self.recall(&[insert.relation], wal_start).await?;
                let found = self.reselect(insert.relation, None, &insert.new).await.map_err(at)?;
                self.row(insert.relation, wal_start, MessageKind::Insert, |plan, arena| {
                    let mut change = plan.create(&insert.new, arena)?;
                    plan.fill(&mut change, &found, arena)?;
                    Ok(change)
                })
                .await?;
            }
            Message::Update(update) => {
                self.recall(&[update.relation], wal_start).await?;
                let found = self.reselect(update.relation, update.old.as_ref(), &update.new).await.map_err(at)?;
                self.row(update.relation, wal_start, MessageKind::Update, |plan, arena| {
                    let mut change = plan.update(update.old.as_ref(), &update.new, arena)?;
                    plan.fill(&mut change, &found, arena)?;
                    Ok(change)
                })
                .await?;
            }
            Message::Delete(delete) => {
                self.recall(&[delete.relation], wal_start).await?;
                self.row(delete.relation, wal_start, MessageKind::Delete, |plan, arena| plan.delete(&delete.old, arena)).await?;
            }
            Message::Truncate(truncate) => {
                self.recall(&truncate.relations, wal_start).await?;
                self.truncate(&truncate.relations, wal_start)?;
            }
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

    /// Takes what the log says of a table.
    async fn describe(&mut self, oid: u32, shape: Shape, lsn: Lsn) -> Result<()> {
        if self.config.is_signal_table(&shape.schema, &shape.table) {
            self.signal_table = Some(oid);
        }
        let xid = self.transaction.as_ref().map(|transaction| transaction.xid);
        self.plans.describe(&mut self.session, &self.blocks, xid, oid, shape).await.map_err(|error| error.at(lsn))?;
        self.tell_definition(oid, lsn)
    }

    /// Takes what the log said of tables in a transaction that was not committed then (`uncommitted`).
    async fn recall(&mut self, relations: &[u32], lsn: Lsn) -> Result<()> {
        if !self.uncommitted.foretold.is_empty() {
            for oid in relations {
                if let Some(shape) = self.uncommitted.foretold.remove(oid) {
                    Box::pin(self.describe(*oid, shape, lsn)).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells how the table is from here on, where that is asked for and was not told yet.
    fn tell_definition(&mut self, oid: u32, lsn: Lsn) -> Result<()> {
        let (Some(definitions), Some(transaction)) = (&mut self.definitions, &self.transaction) else { return Ok(()) };
        let Some(plan) = self.plans.of(oid)? else { return Ok(()) };
        // Told with the rows that are durable, and what holds behind them comes again.
        if transaction.is_next_durable(lsn) {
            return Ok(());
        }
        let place = Place {
            lsn,
            last_commit: self.last_commit,
            xid: Some(transaction.xid),
            timestamp: transaction.timestamp,
            mark: SnapshotMark::Streaming,
            origin: None,
        };
        let described = self.plans.description(oid, &plan.shape);
        let (blocks, batch) = (&self.blocks, &mut self.batch);
        let (now, arena) = (batch.now, &mut batch.arena);
        let source = || blocks.moment(&place, plan.schema_value.clone(), plan.table_value.clone(), now, arena).source;
        if let Some((record, state)) = definitions.tell(&plan.full_name, described, source, now) {
            batch.push(record);
            batch.state.push(state);
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

    pub(super) async fn commit(&mut self, end: Lsn) -> Result<()> {
        let Some(transaction) = self.transaction.take() else {
            return Err(unexpected("a commit outside a transaction", end));
        };
        self.progress.advance(end);
        self.moved = true;
        if transaction.is_whole_durable() {
            return Ok(());
        }
        if let (Some(records), Some(order)) = (&self.transactions, &transaction.order) {
            let time = transaction.timestamp / 1000;
            if !transaction.told {
                self.batch.push(records.begin(order, time));
            }
            self.batch.push(records.end(order, time));
        }
        self.last_commit = Some(end);
        self.last = LastMessage { lsn: end, xid: Some(transaction.xid), timestamp: transaction.timestamp, kind: MessageKind::Commit };
        self.batch.counts.transactions += u64::from(transaction.ours);
        if self.heard.is_empty() { Ok(()) } else { Box::pin(self.obey_heard(transaction.xid)).await }
    }

    /// Counts a row message, and the first of a transaction tells that it began. Says whether the message is durable since
    /// an earlier run and how the table is written; `None` for a message that is dropped.
    fn admit(&mut self, relation: u32, lsn: Lsn, is_row: bool) -> Result<Option<(Arc<TablePlan>, bool)>> {
        let Some(transaction) = &mut self.transaction else {
            return Err(unexpected("a change outside a transaction", lsn));
        };
        if is_row {
            transaction.count(lsn);
        }
        let (commit, durable) = (transaction.commit, transaction.is_durable());
        if durable && !self.chunks.is_idle() {
            self.chunks.lose(LoggedTransaction { xid: transaction.xid, commit });
        }
        if transaction.is_whole_durable() {
            return Ok(None);
        }
        // What the signals of a transaction ask for is stored with its end, which was not durable.
        if durable && transaction.order.is_none() && self.signal_table != Some(relation) {
            return Ok(None);
        }
        self.tell_begin();
        let Some(plan) = self.plans.of(relation)? else {
            let count = u64::from(is_row && !durable);
            if self.plans.drops_changes_of_oid(relation) {
                self.batch.counts.dropped += count;
                self.moved = true;
            } else {
                self.batch.counts.filtered += count;
            }
            return Ok(None);
        };
        // Committed before the anchor: the snapshot holds it.
        Ok((commit >= plan.anchor).then_some((plan, durable)))
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
        let is_signal = self.signal_table == Some(relation);
        let is_skipped = relational.skipped_operations.contains(skipped);
        if is_skipped && self.chunks.is_idle() && !is_signal {
            self.batch.counts.filtered += u64::from(!durable);
            return Ok(());
        }
        let at = |error: Error| error.at(lsn);
        let mut decoded = decode(&plan, &mut self.batch.arena);
        if decoded.is_ok() && plan.unlisted_label().is_some() {
            plan = Box::pin(self.plans.relist(&mut self.session, &self.blocks, relation, &plan)).await.map_err(at)?;
            decoded = decode(&plan, &mut self.batch.arena);
        }
        let change = match decoded {
            Ok(change) => change,
            Err(error) => return self.leave_out(relation, &plan, lsn, at(error), durable),
        };
        let is_unchanged = !is_skipped && self.config.relational.skip_unchanged && change.is_without_effect();
        // What no event tells must not take the place of a row that is read.
        if let Some(transaction) = self.followed().filter(|_| !(is_skipped && kind == MessageKind::Update || is_unchanged)) {
            self.chunks.touch(transaction, relation, &plan, &change);
        }
        if is_signal {
            self.hear(&change);
        }
        if is_unchanged {
            self.batch.counts.unchanged += 1;
        }
        if is_skipped || is_unchanged {
            self.batch.counts.filtered += u64::from(is_skipped && !durable);
            return Ok(());
        }
        // Where rows that are read become no records, it does not come.
        let snapshot_brings_row = !self.chunks.is_idle()
            && !self.config.relational.skipped_operations.contains(Operation::Read)
            && self.chunks.brings(relation, &plan, &change);
        self.emit(&plan, change, lsn, kind, durable, snapshot_brings_row);
        Ok(())
    }

    /// A row message that cannot be decoded ends the stream, or that of its table (I10), or is left out where the configuration wants
    /// that (I11). A message of which not even the table is known ends it in any case.
    fn leave_out(&mut self, relation: u32, plan: &TablePlan, lsn: Lsn, error: Error, durable: bool) -> Result<()> {
        let mode = self.config.relational.on_unreadable_event;
        let isolates = self.config.relational.isolates_tables() && self.signal_table != Some(relation);
        if mode == OnUnreadableEvent::Fail || mode == OnUnreadableEvent::Isolate && !isolates {
            return Err(error);
        }
        if durable {
            // Told of by the run in which it became so.
            return Ok(());
        }
        self.figures.unreadable.add(1);
        if isolates {
            self.isolate(&plan.full_name, lsn, &error);
            return Ok(());
        }
        if let Some(transaction) = self.transaction.as_ref().filter(|_| !self.chunks.is_idle()) {
            // Which row it changed is not known: what is read meanwhile is read again.
            self.chunks.lose(LoggedTransaction { xid: transaction.xid, commit: transaction.commit });
        }
        let is_first = self.left_out.insert(relation);
        let table = match error.scope() {
            Scope::Table(table) => Some(table.as_str()),
            Scope::Record | Scope::Connector => None,
        };
        if is_first || mode == OnUnreadableEvent::Warn {
            warn!(
                table,
                position = error.position(),
                error.kind = error.kind().code(),
                error.mend = error.remedy(),
                "an event is left out, as event.processing.failure.handling.mode says: {}",
                error.sentence()
            );
        }
        Ok(())
    }

    fn truncate(&mut self, relations: &[u32], lsn: Lsn) -> Result<()> {
        for (index, &relation) in relations.iter().enumerate() {
            let admitted = self.admit(relation, lsn, index == 0)?;
            if let Some(transaction) = self.followed() {
                self.chunks.truncate(transaction, relation);
            }
            if let Some((plan, durable)) = admitted.filter(|_| !self.config.relational.skipped_operations.contains(Operation::Truncate)) {
                self.emit(&plan, Change::Truncate, lsn, MessageKind::Truncate, durable, false);
            }
        }
        Ok(())
    }

    /// The transaction that is followed, as rows that are read meanwhile are held against it: they must not stand behind its changes.
    fn followed(&self) -> Option<LoggedTransaction> {
        self.transaction.as_ref().map(|transaction| LoggedTransaction { xid: transaction.xid, commit: transaction.commit })
    }

    /// Writes the records of a change. What is durable already is only counted.
    fn emit(&mut self, plan: &TablePlan, change: Change, lsn: Lsn, kind: MessageKind, durable: bool, snapshot_brings_row: bool) {
        let Some(transaction) = &mut self.transaction else { return };
        let events = plan.events.count(&change);
        let order = transaction.order.as_mut().map(|order| order.count(&plan.full_name, events));
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
        batch.counts.add(&change, events);
        plan.events.records(change, EventMoment { transaction: order, ..moment }, |mut record| {
            if snapshot_brings_row && Envelope::of(&record).is_some_and(|event| event.operation() != Operation::Delete) {
                mark_brought_by_snapshot(&mut record);
            }
            batch.push(record);
        });
        self.last = LastMessage { lsn, xid: Some(transaction.xid), timestamp: transaction.timestamp, kind };
        self.moved = true;
    }

    fn logical(&mut self, transactional: bool, lsn: Lsn, prefix: &str, content: Bytes) {
        if self.transaction.is_none() {
            let is_repeated = self.progress.is_repeated_up_to(lsn);
            // Its record ends here; the server does not send it again from this place.
            self.progress.advance(lsn);
            self.moved = true;
            if is_repeated {
                return;
            }
        }
        let wanted = self.config.message_prefixes.accepts(prefix);
        let mut order = None;
        let (xid, timestamp) = match &mut self.transaction {
            Some(transaction) if transactional => {
                transaction.count(lsn);
                let durable = transaction.is_durable();
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
            // It stands by itself, is sent at once, and has no time but ours; Debezium takes its place for a commit's.
            Some(_) | None => {
                self.last_commit = Some(lsn);
                (None, self.batch.now / 1000)
            }
        };
        if wanted {
            let place = Place { lsn, last_commit: self.last_commit, xid, timestamp, mark: SnapshotMark::Streaming, origin: None };
            let empty = tailwater_api::Value::text("");
            let moment = self.blocks.moment(&place, empty.clone(), empty, self.batch.now, &mut self.batch.arena);
            self.batch.push(self.messages.record(prefix, content, EventMoment { transaction: order, ..moment }));
            self.last = LastMessage { lsn, xid, timestamp, kind: MessageKind::Message };
        }
        self.moved = true;
    }
}

fn unexpected(what: &str, lsn: Lsn) -> Error {
    Error::new(ErrorKind::Unreadable, "follow the log").because(format!("the server sent {what}")).at(lsn)
}
