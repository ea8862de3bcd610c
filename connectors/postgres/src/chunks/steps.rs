//! Steps beside the log and the reads, one at a time on a session of their own.
//!
//! - Room for the keys that the log touches is reserved, without which nothing is read (I6).
//! - Until the windows are settled it is looked what is visible, and for whom they wait.
//! - The log may stand still before the place that it has to pass, because what is written is not flushed. Then a transaction that
//!   changes nothing is committed, which makes the server flush; no right is needed for it. While that does not help, the pause between
//!   two such transactions grows.

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::source::Reservation;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::windows::Look;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::warn;

use super::table::TRIES;
use super::{Chunks, PAUSE, TOUCHED_LIMIT};
use crate::connect::{SqlSession, sql_error};
use crate::open_transactions::{OpenTransaction, open_transactions};
use crate::visibility::{Sight, replayed, sight};

/// Longest time between two transactions that make the server flush
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long transactions may be waited for before it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a step has brought.
pub(super) enum Step {
    /// There is room.
    Room(Reservation),
    /// It was looked which transactions are visible, and which of those that were waited for were open until then.
    Looked(Look, Sight, Vec<OpenTransaction>),
    /// A transaction ended.
    Ended,
}

impl Chunks {
    pub(super) fn take_back(&mut self, ended: std::result::Result<(SqlSession, Result<Step>), JoinError>) -> Result<Step> {
        match ended {
            Ok((session, step)) => {
                // One that failed may not say yet that its connection is gone.
                self.session = Some(if step.is_ok() { session } else { SqlSession::new(self.config.clone()) });
                step
            }
            Err(error) => Err(Error::new(ErrorKind::Bug, "look what is visible").because(error)),
        }
    }

    /// Takes what the last step has brought. One that failed is made again.
    pub(super) fn end_step(&mut self) -> Result<()> {
        if let Some(ended) = self.under_way.try_join_next() {
            self.finished = Some(self.take_back(ended));
        }
        match self.finished.take() {
            Some(Ok(step)) => {
                self.failures = 0;
                self.take(step);
            }
            Some(Err(error)) if error.kind().is_transient() && self.failures < TRIES => {
                self.failures += 1;
                warn!(tries = self.failures, "a look beside the log failed and is made again: {error}");
                let next = Instant::now() + PAUSE * self.failures;
                (self.looks_from, self.pushes_from) = (next, next);
            }
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(())
    }

    /// Asks for the room without which nothing is remembered.
    pub(super) fn reserve_room(&mut self, now: Instant) {
        if self.may_begin(self.looks_from, now) {
            let budget = Arc::clone(&self.budget);
            self.step(|session| async move { (session, Ok(Step::Room(budget.reserve(TOUCHED_LIMIT).await))) });
        }
    }

    /// Looks what is visible.
    pub(super) fn look(&mut self, now: Instant) {
        if self.may_begin(self.looks_from, now) {
            let look = self.windows.look();
            let waits = !self.windows.waits_for().is_empty();
            self.step(move |mut session| async move {
                let looked = look_around(&mut session, waits).await.map(|(sight, open)| Step::Looked(look, sight, open));
                (session, looked)
            });
        }
    }

    /// Makes the server flush.
    pub(super) fn push(&mut self, now: Instant) {
        if self.may_begin(self.pushes_from, now) {
            self.step(|mut session| async move {
                let ended = end_a_transaction(&mut session).await.map(|()| Step::Ended);
                (session, ended)
            });
        }
    }

    /// Whether a step can be begun that is due then; otherwise says when.
    fn may_begin(&mut self, from: Instant, now: Instant) -> bool {
        // Where one is under way, its end is told.
        let is_free = self.session.is_some();
        if is_free && from > now {
            self.due = Some(self.due.map_or(from, |due| due.min(from)));
        }
        is_free && from <= now
    }

    /// Begins a step on the session, which is free.
    fn step<F>(&mut self, step: impl FnOnce(SqlSession) -> F)
    where
        F: Future<Output = (SqlSession, Result<Step>)> + Send + 'static,
    {
        if let Some(session) = self.session.take() {
            self.under_way.spawn(step(session));
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Room(room) => {
                self.room = Some(room);
                self.windows.restart();
            }
            Step::Ended => {
                self.pushes_from = Instant::now() + self.push_pause;
                self.push_pause = (self.push_pause * 2).min(LONGEST_PAUSE);
            }
            Step::Looked(look, sight, open) => {
                self.windows.learn(look, &sight);
                self.tell_of_wait(&open);
            }
        }
    }

    /// Tells whom the first read waits for, of those that are open.
    fn tell_of_wait(&mut self, open: &[OpenTransaction]) {
        let waits_for: Vec<_> = self.windows.waits_for().iter().map(|transaction| whose(transaction.xid, open)).collect();
        if self.windows.is_settled() {
            self.waiting_since = None;
        } else {
            let now = Instant::now();
            let since = now - *self.waiting_since.get_or_insert(now);
            // Each look takes a transaction number; a wait that lasts long may last a little longer.
            self.looks_from = now + (since / 10).max(PAUSE);
            if since > PATIENCE {
                self.waiting_since = Some(now);
                warn!("the snapshot waits for transactions to end: {}", waits_for.join("; "));
            }
        }
        if let Some(snapshot) = &self.snapshot {
            snapshot.wait_for(waits_for);
        }
    }
}

/// The transaction, and whose it is where that is known.
fn whose(xid: u32, open: &[OpenTransaction]) -> String {
    let found = open.iter().find(|open| open.xid == xid);
    found.map_or_else(|| format!("transaction {xid}"), |open| format!("transaction {xid}: {}", open.described))
}

/// Looks which transactions are visible, and whose those are that are open, if somebody waits for them.
async fn look_around(session: &mut SqlSession, waits: bool) -> Result<(Sight, Vec<OpenTransaction>)> {
    // A snapshot lists only what began before the last transaction that ended. Now one has ended that began last.
    end_a_transaction(session).await?;
    let sql = session.get().await?;
    let replayed = replayed(sql).await?;
    let open = if waits { open_transactions(sql).await? } else { Vec::new() };
    let (sight, _) = sight(sql, replayed).await?;
    Ok((sight, open))
}

/// Commits a transaction that has a number and changes nothing. A standby has none, and needs none.
async fn end_a_transaction(session: &mut SqlSession) -> Result<()> {
    let query = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN txid_current() END";
    session.get().await?.query_one(query, &[]).await.map_err(|error| sql_error("take a transaction number", error))?;
    Ok(())
}
