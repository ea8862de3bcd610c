//! Transactions that come before their commit: in parts while they are in progress, and whole when they are prepared for a
//! commit in two phases.
//!
//! Both are kept (`spill`) until it is known how they end. A commit makes a whole transaction of what is kept, as if it had come
//! at that place; an abort drops it. The place where a prepared transaction was prepared holds the resume point back meanwhile
//! (`progress`).
//!
//! What the server says of tables in a prepared transaction it does not say again to the transactions behind it, though that one is
//! not committed, and may never be. (What it says in a part in progress should be for that transaction alone, but PostgreSQL 15
//! does not repeat it after a rollback of a prepared one.) So it is kept beside the transaction as foretold, and holds from the first
//! change on by which another one needs it. A definition that the uncommitted transaction makes itself does no harm there: it locks
//! the table against all others, and where it is rolled back the server describes the table anew.

use bytes::Bytes;
use tailwater_api::{Error, ErrorKind, Result};
use tracing::warn;

use super::{Streaming, Taken};
use crate::lsn::Lsn;
use crate::pgoutput::{Begin, Commit, FramedMessage, Message, TransactionControl};
use crate::relation::Shape;
use crate::source::Protocol;
use crate::spill::{Full, Part, Spill, SpilledMessages};

impl Streaming<'_> {
    /// Begins on a new connection, which speaks this protocol, and says from where. What was kept of transactions is forgotten: a
    /// new connection sends them from their beginning.
    pub(crate) fn connect(&mut self, protocol: Protocol) -> Lsn {
        self.protocol = protocol;
        self.spill = (protocol.in_progress || protocol.two_phase).then(|| {
            let figure = self.context.metrics().gauge("spilled_bytes", "Transactions without a commit that are kept on disk.", None);
            Spill::new(self.config.spill.folder.clone(), self.config.spill.limit, figure)
        });
        self.foretold.clear();
        self.progress.connect()
    }

    /// Takes a message: of a whole transaction, or of one that has no commit yet.
    pub(super) async fn take(&mut self, place: Lsn, payload: Bytes) -> Result<Taken> {
        let Some(spill) = &mut self.spill else {
            self.received(place, payload).await?;
            return Ok(Taken::Whole);
        };
        let at = |error: Error| error.at(place);
        let kept = match TransactionControl::decode(&payload, self.protocol.version()).map_err(at)? {
            Some(TransactionControl::StreamStart { xid, first: _ }) => spill.start(xid, Part::InProgress),
            Some(TransactionControl::BeginPrepare(prepare)) => spill.start(prepare.xid, Part::Prepared),
            Some(TransactionControl::StreamStop) => {
                spill.stop();
                Ok(())
            }
            Some(TransactionControl::Prepare(prepare)) => {
                spill.stop();
                self.progress.prepare(prepare.xid, prepare.prepare_lsn);
                Ok(())
            }
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
                return self.replay(xid, commit, messages).await;
            }
            Some(TransactionControl::CommitPrepared { xid, gid, commit }) => return self.commit_prepared(xid, gid, commit).await,
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
                        Part::Prepared => FramedMessage::of_prepared(payload),
                    };
                    let message = message.map_err(at)?;
                    if let Some((oid, shape)) = description(&message).map_err(at)? {
                        self.foretold.insert(oid, shape);
                    }
                    spill.append(place, &message)
                }
                None => {
                    self.received(place, payload).await?;
                    Ok(())
                }
            },
        };
        match kept {
            Ok(()) => Ok(Taken::Whole),
            Err(full) if self.protocol.in_progress => Ok(Taken::SpillFull(full)),
            Err(full) => Err(no_room(&full).at(place)),
        }
    }

    async fn commit_prepared(&mut self, xid: u32, gid: &str, commit: Commit) -> Result<Taken> {
        let is_repeated = self.progress.is_repeated(commit.commit_lsn);
        match &mut self.spill {
            Some(spill) if spill.keeps(xid) => {
                let messages = spill.commit(xid).map_err(|error| error.at(commit.commit_lsn))?;
                return self.replay(xid, commit, messages).await;
            }
            // Durable since an earlier run, which had it from its preparation on.
            Some(_) | None if is_repeated => {}
            // Its changes bear an origin that is filtered out, its commit bears none.
            Some(_) | None if self.config.filters_origins => {
                warn!(xid, gid, "of a prepared transaction that is committed now nothing came: all of it is of an origin that is left out");
            }
            Some(_) | None => return Err(gone(gid).at(commit.commit_lsn)),
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
        // Not before: what is sent of it so far resumes at its preparation.
        self.progress.finish(xid);
        self.commit(commit.end_lsn).await?;
        Ok(Taken::Whole)
    }
}

/// What a message says of a table, if it is of that kind.
fn description(message: &FramedMessage) -> Result<Option<(u32, Shape)>> {
    if message.tag == b'R'
        && let Message::Relation(relation) = Message::decode(&[&[message.tag], &message.content[..]].concat().into())?
    {
        return Ok(Some((relation.oid, Shape::of_relation(&relation))));
    }
    Ok(None)
}

fn no_room(full: &Full) -> Error {
    Error::new(ErrorKind::Throttled, "keep a prepared transaction").because(format!("{full}")).mend(
        "raise spill.max.bytes, or end prepared transactions (SELECT gid, prepared FROM pg_prepared_xacts ORDER BY prepared;) \
         with COMMIT PREPARED or ROLLBACK PREPARED",
    )
}

fn gone(gid: &str) -> Error {
    Error::new(ErrorKind::HistoryGone, format!("commit the prepared transaction {gid}"))
        .because("its changes were sent when it was prepared, to somebody else who used the slot")
        .mend(
            "delete the connector's offsets (DELETE /connectors/NAME/offsets), which reads all tables again, \
             and give each reader a slot of its own",
        )
}
