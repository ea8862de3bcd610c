//! Requests to a source that runs: to read tables again, to pause that, to say something in the log.
//!
//! They have Debezium's form (3.6, "Sending signals to a Debezium connector"): an id, a type, and data, which is a JSON object. They
//! come in over several channels. Those of the daemon (its REST API, a topic) reach a source through
//! [`SourceContext::take_signals`](crate::source::SourceContext::take_signals); others (a table, a file) a source reads itself.

use tokio::sync::oneshot;

use crate::error::Result;

/// A signal as it came in, not understood yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What notifications and progress name it by
    pub id: String,
    /// Its type: `execute-snapshot`
    pub kind: String,
    /// A JSON object, or nothing
    pub data: String,
}

/// A signal whose sender waits for an answer.
#[derive(Debug)]
pub struct SignalRequest {
    /// What is asked for
    pub signal: Signal,
    answer: oneshot::Sender<Result<()>>,
}

impl SignalRequest {
    /// The request, and where its answer comes. The answer is good once the source will carry out the signal even after
    /// a crash; no answer comes where the source ends before.
    #[must_use]
    pub fn new(signal: Signal) -> (Self, oneshot::Receiver<Result<()>>) {
        let (answer, answered) = oneshot::channel();
        (Self { signal, answer }, answered)
    }

    /// Whether nobody waits for the answer any more: then the signal is not carried out.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers.
    pub fn answer(self, result: Result<()>) {
        // Who asked may have gone away meanwhile.
        let _ = self.answer.send(result);
    }
}
