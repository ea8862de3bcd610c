//! Transactions that come before their commit: in parts while they are in progress, and whole when they are prepared for a
//! commit in two phases.
//!
//! Both are kept (`spill`) until it is known how they end. A commit makes a whole transaction of what is kept, as if it had come
//! at that place; an abort drops it. The place where a prepared transaction was prepared holds the resume point back meanwhile
//! (`progress`).
//!
//! What the server says of a table holds, in the order in which it comes, for the changes behind it, and it says nothing twice: what it
//! says in a prepared transaction it does not say again to those behind it, though that one is not committed, and may never be.
//! (What it says in a part in progress should be for that transaction alone, but PostgreSQL 15 does not repeat it after a rollback
//! of a prepared one.) Kept changes are taken later than they came, when other words hold. So
//!
//! - a kept transaction holds all the words that its own changes need: what was said of a table before stands in front of the first
//!   change of it;
//! - words that come with kept changes are *foretold*: they hold from the first change on by which another transaction needs
//!   them;
//! - behind a kept transaction that was taken, of each table of which it holds words the newest that came is foretold, which may
//!   be younger than those.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::crash_point::crash_point;

use super::{Streaming, Taken};
use crate::lsn::Lsn;
use crate::pgoutput::{Begin, Commit, FramedMessage, Message, TransactionControl};
use crate::relation::Shape;
use crate::restart::resnapshot_without;
use crate::source::Protocol;
use crate::spill::{Full, Part, Spill, SpilledMessages};

/// Transactions without a commit, and what the server said of tables while it sent them.
#[derive(Default)]
pub(super) struct Uncommitted {
    /// The transactions, where the server sends them
    spill: Option<Spill>,
    /// What it said of tables in them, for others
    pub(super) foretold: HashMap<u32, Shape>,
    /// The newest that it said of each table
    said: HashMap<u32, Said>,
}

impl Streaming<'_> {
    /// Begins on a new connection, which speaks this protocol, in binary or in text, and says from where. What was kept of
    /// transactions is forgotten: a new connection sends them from their beginning.
    pub(crate) fn connect(&mut self, protocol: Protocol, binary: bool) -> Lsn {
        self.protocol = protocol;
        self.plans.expect_binary(binary);
        self.uncommitted.spill = (protocol.in_progress || protocol.two_phase).then(|| {
            let figure = self.context.metrics().gauge("spilled_bytes", "Transactions without a commit that are kept on disk.", None);
            Spill::new(self.config.spill.folder.clone(), self.config.spill.limit, figure)
        });
        self.uncommitted.foretold.clear();
        self.uncommitted.said.clear();
        self.progress.connect()
    }

    /// Takes a message: of a whole transaction, or of one that has no commit yet.
    ///
    /// It is made for each row, and moved: what is rare in it is boxed, here and in what it calls.
    pub(super) async fn take(&mut self, place: Lsn, payload: Bytes) -> Result<Taken> {
        let Some(spill) = &mut self.uncommitted.spill else {
            self.received(place, payload).await?;
            return Ok(Taken::Whole);
        };
        let at = |error: Error| error.at(place);
        let kept = match TransactionControl::decode(&payload, self.protocol.version()).map_err(at)? {
            Some(TransactionControl::StreamStart { xid, first: _ }) => spill.start(xid, Part::InProgress),
            Some(TransactionControl::BeginPrepare(prepare)) => spill.start(prepare.xid, Part::Prepared),
            Some(TransactionControl::StreamStop) => spill.stop(),
            Some(TransactionControl::Prepare(prepare)) => spill.stop().map(|()| self.progress.prepare(prepare.xid, prepare.prepare_lsn)),
            Some(TransactionControl::StreamPrepare(prepare)) => {
                self.progress.prepare(prepare.xid, prepare.prepare_lsn);
                Ok(())
            }
            Some(TransactionControl::StreamAbort { xid, subxid, at: _ }) => {
                spill.abort(xid, subxid);
                Ok(())
            }
            Some(TransactionControl::StreamCommit { xid, commit }) => {
                let messages = spill.commit(xid).map_err(at)?;
                return Box::pin(self.replay(xid, commit, messages)).await;
            }
            Some(TransactionControl::CommitPrepared { xid, gid, commit }) => return Box::pin(self.commit_prepared(xid, gid, commit)).await,
            Some(TransactionControl::RollbackPrepared { xid, gid: _, prepare_end_lsn: _, end_lsn, prepare_time: _, rollback_time: _ }) => {
                // Where it was prepared before this reader's time, nothing of it came, and nothing of it is wanted.
                spill.abort(xid, xid);
                self.progress.finish(xid);
                self.progress.advance(end_lsn);
                self.moved = true;
                Ok(())
            }
            None => match spill.current() {
                Some(part) => {
                    let message = match part {
                        Part::InProgress => FramedMessage::of_part(payload),
                        Part::Prepared => FramedMessage::of_whole(payload),
                    };
                    let message = message.map_err(at)?;
                    if let Some((oid, shape)) = message.description().map_err(at)? {
                        self.uncommitted.foretold.insert(oid, shape.clone());
                        self.uncommitted.said.insert(oid, Said::new(shape, &message));
                        spill.describe(oid);
                    }
                    let mut kept = Ok(());
                    if let Some(oid) = message.changed_relation()
                        && spill.describe(oid)
                        && let Some(said) = self.uncommitted.said.get(&oid)
                    {
                        kept = spill.append(place, &said.message);
                    }
                    kept.and_then(|()| spill.append(place, &message))
                }
                None => {
                    if payload.first() == Some(&b'R') {
                        let message = FramedMessage::of_whole(payload.clone()).map_err(at)?;
                        if let Some((oid, shape)) = message.description().map_err(at)? {
                            self.uncommitted.said.insert(oid, Said::new(shape, &message));
                        }
                    }
                    self.received(place, payload).await?;
                    return Ok(Taken::Whole);
                }
            },
        };
        let spilled = self.uncommitted.spill.as_ref().and_then(Spill::current);
        match kept {
            Ok(()) => Ok(Taken::Whole),
            // The server keeps it itself on a connection without parts.
            Err(full) if spilled == Some(Part::InProgress) => Ok(Taken::SpillFull(full)),
            Err(full) => Err(no_room(&full).at(place)),
        }
    }

    async fn commit_prepared(&mut self, xid: u32, gid: &str, commit: Commit) -> Result<Taken> {
        let is_repeated = self.progress.is_repeated(commit.commit_lsn);
        match &mut self.uncommitted.spill {
            Some(spill) if spill.keeps(xid) => {
                let messages = spill.commit(xid).map_err(|error| error.at(commit.commit_lsn))?;
                return self.replay(xid, commit, messages).await;
            }
            // Durable since an earlier run, which had it from its preparation on.
            Some(_) | None if is_repeated => {}
            Some(_) | None => return Err(gone(gid, &self.config.slot).at(commit.commit_lsn)),
        }
        self.progress.advance(commit.end_lsn);
        self.moved = true;
        Ok(Taken::Whole)
    }

    /// A transaction that was kept is committed: its messages are taken as those of a whole one, in bounded batches (I3).
    /// The socket is not read meanwhile, but answered.
    async fn replay(&mut self, xid: u32, commit: Commit, mut messages: SpilledMessages) -> Result<Taken> {
        let stopping = self.context.stopping();
        self.rest(commit.commit_lsn).await?;
        self.begin(Begin { final_lsn: commit.commit_lsn, commit_time: commit.commit_time, xid })?;
        let mut described = BTreeSet::new();
        while let Some((place, payload)) = messages.next()? {
            let kept = FramedMessage::of_whole(payload.clone())?;
            if let Some((oid, shape)) = kept.description().map_err(|error| error.at(place))? {
                described.insert(oid);
                self.uncommitted.foretold.insert(oid, shape);
                continue;
            }
            self.message(place, payload).await?;
            if self.batch.used() >= self.batch.size {
                self.send().await?;
                crash_point("spilled-part-sent");
                // I4: the task that answers the server may share this thread.
                tokio::task::yield_now().await;
                if *stopping.borrow() {
                    return Ok(Taken::Interrupted);
                }
            }
        }
        for oid in described {
            if let Some(said) = self.uncommitted.said.get(&oid) {
                self.uncommitted.foretold.insert(oid, said.shape.clone());
            }
        }
        // Not before: what is sent of it so far resumes at its preparation.
        self.progress.finish(xid);
        self.commit(commit.end_lsn).await?;
        Ok(Taken::Whole)
    }
}

/// The newest that was said of a table.
struct Said {
    shape: Shape,
    message: FramedMessage,
}

impl Said {
    fn new(shape: Shape, message: &FramedMessage) -> Self {
        // A copy, which does not keep what was received with it. It goes with no subtransaction.
        let content = Bytes::copy_from_slice(&message.content);
        Self { shape, message: FramedMessage { xid: None, tag: message.tag, content } }
    }
}

impl FramedMessage {
    /// What it says of a table, if it is of that kind.
    fn description(&self) -> Result<Option<(u32, Shape)>> {
        if self.tag == b'R'
            && let Message::Relation(relation) = Message::decode(&[&[self.tag], &self.content[..]].concat().into())?
        {
            return Ok(Some((relation.oid, Shape::of_relation(&relation))));
        }
        Ok(None)
    }

    /// The table of a changed row.
    fn changed_relation(&self) -> Option<u32> {
        let is_row = matches!(self.tag, b'I' | b'U' | b'D');
        self.content.first_chunk().filter(|_| is_row).map(|octets| u32::from_be_bytes(*octets))
    }
}

fn no_room(full: &Full) -> Error {
    Error::new(ErrorKind::Throttled, "keep a prepared transaction").because(format!("{full}")).mend(
        "raise spill.max.bytes, or name a spill.directory with more room. The server sends the transaction again until it is kept, whether it \
         has been ended meanwhile or not",
    )
}

fn gone(gid: &str, slot: &str) -> Error {
    Error::new(ErrorKind::HistoryGone, format!("commit the prepared transaction {gid}"))
        .because("its changes were sent when it was prepared, to somebody else who used the slot")
        .mend(format!("give each reader a slot of its own; here, {}", resnapshot_without(Some(slot))))
}
