//! Answering the server: a task of its own, so that nothing downstream keeps the server waiting (I4).
//!
//! The server ends a connection that it has not heard of for `wal_sender_timeout`, and it keeps its log until we
//! confirm that we need it no more. Both happen here: at least every `status.update.interval.ms` (or a third of the
//! server's timeout, if that is shorter), at once where the server asks, and soon after more became durable.
//!
//! What is confirmed is the resume point of the newest batch that is durable with its state, and nothing else (I1).
//!
//! Where that is held back (`progress`), what is durable behind it is told as written. A server that shuts down waits for its
//! readers: until all that it sent is flushed there, or, where a reader says nothing of flushing, written (PostgreSQL 18,
//! `WalSndDone`). So a place is told as flushed once, and then only what is written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tailwater_api::Result;
use tailwater_api::source::BatchNumber;
use tailwater_kit::crash_point::crash_point;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::lsn::Lsn;
use crate::replication::FeedbackSender;

/// Shortest time between two unasked answers that only confirm more.
const CONFIRMATION_PAUSE: Duration = Duration::from_millis(250);

/// The resume points of batches that are on their way. Touched once a batch.
pub(crate) struct Acknowledgements {
    points: Mutex<Points>,
    /// The server asked for an answer.
    asked: Notify,
}

struct Points {
    sent: VecDeque<(BatchNumber, Durable)>,
    durable: Durable,
}

/// What is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Durable {
    /// Where a restart begins
    pub(crate) resume: Lsn,
    /// Up to where the log was followed; not before `resume`
    pub(crate) through: Lsn,
}

impl Acknowledgements {
    /// `durable` is where the run starts: what is before is durable since an earlier run.
    pub(crate) fn new(durable: Durable) -> Arc<Self> {
        Arc::new(Self { points: Mutex::new(Points { sent: VecDeque::new(), durable }), asked: Notify::new() })
    }

    /// A batch was sent, with which this becomes durable.
    pub(crate) fn sent(&self, number: BatchNumber, durable: Durable) {
        self.points().sent.push_back((number, durable));
    }

    /// What is durable with the newest batch up to `confirmed` (I1).
    pub(crate) fn durable(&self, confirmed: BatchNumber) -> Durable {
        let mut points = self.points();
        while let Some(&(number, durable)) = points.sent.front()
            && number <= confirmed
        {
            points.durable = durable;
            points.sent.pop_front();
        }
        points.durable
    }

    /// The server wants an answer now.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    fn points(&self) -> std::sync::MutexGuard<'_, Points> {
        // The holder of the lock only moves numbers; after a panic they are as good as before.
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often the server hears of us: as configured, but always well within its patience.
pub(crate) fn answer_interval(configured: Duration, wal_sender_timeout_ms: u64) -> Duration {
    match wal_sender_timeout_ms {
        0 => configured,
        timeout => configured.min(Duration::from_millis(timeout / 3).max(Duration::from_millis(100))),
    }
}

/// Answers the server until the connection breaks. `confirms` is false where somebody else confirms
/// (`lsn.flush.mode=manual`). Cancel-safe: a dropped call loses an answer at most.
pub(crate) async fn answer(
    mut sender: FeedbackSender,
    acknowledgements: Arc<Acknowledgements>,
    mut confirmed: watch::Receiver<BatchNumber>,
    interval: Duration,
    confirms: bool,
) -> Result<()> {
    let mut told = Lsn::INVALID;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = acknowledgements.asked.notified() => {}
            () = sleep_until(due) => {}
            changed = confirmed.changed() => {
                if changed.is_err() {
                    // The daemon lets go of this task, and the task ends by its own means; until then only time counts.
                    sleep_until(due).await;
                } else {
                    due = due.min(Instant::now() + CONFIRMATION_PAUSE);
                    continue;
                }
            }
        }
        let durable = acknowledgements.durable(*confirmed.borrow_and_update());
        if confirms {
            if durable.resume > told {
                crash_point("source-before-confirmation");
            }
            let (written, flushed) = answer_of(durable, &mut told);
            sender.send(written, flushed).await?;
        } else {
            sender.send(Lsn::INVALID, Lsn::INVALID).await?;
        }
        due = Instant::now() + interval;
    }
}

/// What is told as written and as flushed. `told` is what was told as flushed so far.
fn answer_of(durable: Durable, told: &mut Lsn) -> (Lsn, Lsn) {
    let is_news = durable.resume > *told;
    // Never backwards: a server that is told less than before ignores it, a reader of the log would wonder.
    *told = durable.resume.max(*told);
    let written = durable.through.max(*told);
    (written, if is_news || written == *told { *told } else { Lsn::INVALID })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_resume_points_of_durable_batches_are_confirmed(
            steps in proptest::collection::vec(0_u64..50, 1..30), confirmations in proptest::collection::vec(0_u64..35, 1..30),
        ) {
            let at = |resume: u64| Durable { resume: Lsn::new(resume), through: Lsn::new(resume + 7) };
            let start = at(1000);
            let acknowledgements = Acknowledgements::new(start);
            let mut resume = 1000;
            let points: Vec<_> = steps.iter().map(|step| { resume += step; at(resume) }).collect();
            for (number, point) in (1..).zip(&points) {
                acknowledgements.sent(number, *point);
            }
            let mut newest = 0;
            for confirmed in confirmations {
                newest = newest.max(confirmed.min(points.len() as u64));
                let expected = if newest == 0 { start } else { points[newest as usize - 1] };
                prop_assert_eq!(acknowledgements.durable(newest), expected);
            }
        }
    }

    #[test]
    fn a_place_that_is_held_back_is_told_as_flushed_once_and_then_what_is_written() {
        let mut told = Lsn::INVALID;
        let mut answer = |resume, through| {
            let (written, flushed) = answer_of(Durable { resume: Lsn::new(resume), through: Lsn::new(through) }, &mut told);
            (written.as_u64(), flushed.as_u64())
        };
        assert_eq!(answer(10, 10), (10, 10));
        assert_eq!(answer(10, 10), (10, 10));
        assert_eq!(answer(12, 20), (20, 12));
        assert_eq!(answer(12, 20), (20, 0));
        assert_eq!(answer(12, 30), (30, 0));
        assert_eq!(answer(30, 30), (30, 30));
    }

    #[test]
    fn the_server_hears_of_us_well_within_its_patience() {
        let seconds = Duration::from_secs;
        assert_eq!(answer_interval(seconds(10), 60_000), seconds(10));
        assert_eq!(answer_interval(seconds(10), 9_000), seconds(3));
        assert_eq!(answer_interval(seconds(10), 0), seconds(10));
        assert_eq!(answer_interval(seconds(10), 1), Duration::from_millis(100));
    }
}
