//! Answering the server: a task of its own, so that nothing downstream keeps the server waiting (I4).
//!
//! The server ends a connection that it has not heard of for `wal_sender_timeout`, and it keeps its log until we
//! confirm that we need it no more. Both happen here: at least every `status.update.interval.ms` (or a third of the
//! server's timeout, if that is shorter), at once where the server asks, and soon after more became durable.
//!
//! What is confirmed is the resume point of the newest batch that is durable with its state, and nothing else (I1).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tailwater_api::Result;
use tailwater_api::source::BatchNumber;
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
    sent: VecDeque<(BatchNumber, Lsn)>,
    durable: Lsn,
}

impl Acknowledgements {
    /// `durable` is where the run starts: what is before is durable since an earlier run.
    pub(crate) fn new(durable: Lsn) -> Arc<Self> {
        Arc::new(Self { points: Mutex::new(Points { sent: VecDeque::new(), durable }), asked: Notify::new() })
    }

    /// A batch was sent whose state resumes at `resume`.
    pub(crate) fn sent(&self, number: BatchNumber, resume: Lsn) {
        self.points().sent.push_back((number, resume));
    }

    /// The resume point of the newest batch up to `confirmed` (I1).
    pub(crate) fn durable(&self, confirmed: BatchNumber) -> Lsn {
        let mut points = self.points();
        while let Some(&(number, resume)) = points.sent.front()
            && number <= confirmed
        {
            points.durable = resume;
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
        // Never backwards: a server that is told less than before ignores it, a reader of the log would wonder.
        told = if confirms { told.max(durable) } else { Lsn::INVALID };
        sender.send(told).await?;
        due = Instant::now() + interval;
    }
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
            let start = Lsn::new(1000);
            let acknowledgements = Acknowledgements::new(start);
            let mut resume = 1000;
            let points: Vec<_> = steps.iter().map(|step| { resume += step; Lsn::new(resume) }).collect();
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
    fn the_server_hears_of_us_well_within_its_patience() {
        let seconds = Duration::from_secs;
        assert_eq!(answer_interval(seconds(10), 60_000), seconds(10));
        assert_eq!(answer_interval(seconds(10), 9_000), seconds(3));
        assert_eq!(answer_interval(seconds(10), 0), seconds(10));
        assert_eq!(answer_interval(seconds(10), 1), Duration::from_millis(100));
    }
}
