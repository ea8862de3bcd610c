//! Signals on their way to a running task.
//!
//! Each run of a task has a channel of its own, so that what a run did not take is gone with it, and whoever waits for the answer
//! learns that.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tailwater_api::signal::{Signal, SignalRequest};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Signals that wait for a task to take them (I6).
const MOST_WAITING: usize = 16;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way to whichever run of a task there is.
#[derive(Default)]
pub(super) struct SignalGate(Mutex<Option<mpsc::Sender<SignalRequest>>>);

impl SignalGate {
    /// Opens the way to a new run.
    pub(super) fn open(&self) -> mpsc::Receiver<SignalRequest> {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        *self.lock() = Some(sender);
        receiver
    }

    /// The run is over.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// The way to the run; `None` where there is none.
    pub(super) fn sender(&self) -> Option<mpsc::Sender<SignalRequest>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<SignalRequest>>> {
        // It is one assignment, so a panic elsewhere does not make it wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the signal over and waits for the answer.
    pub(super) async fn send(&self, signal: Signal) -> Result<()> {
        let failed = |kind, cause: &str| Error::new(kind, "hand over the signal").because(cause);
        let not_running = || failed(ErrorKind::Conflict, "the connector does not run").mend("start it, and send the signal again");
        let (request, answered) = SignalRequest::new(signal);
        let sender = self.sender().ok_or_else(not_running)?;
        match sender.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(failed(ErrorKind::Throttled, "too many signals wait for the connector")),
            Err(TrySendError::Closed(_)) => return Err(not_running()),
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(failed(ErrorKind::Restarting, "the connector ended its run before the signal was durable")),
            // The source sees that nobody waits any more.
            Err(_) => Err(failed(
                ErrorKind::Conflict,
                "the connector has not taken the signal in time: it reads the snapshot at its start, or a blocking one, or waits for its server or for room",
            )
            .mend("see whether its offsets or notifications name the signal; if not, send it again; a blocking snapshot ends with stop-snapshot")),
        }
    }
}
