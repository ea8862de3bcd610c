//! The contract of sources.
//!
//! A source owns its loop: it reads, decodes, and sends batches in the order of its log. It answers its server in a
//! task of its own, so that waiting for room downstream never keeps it from doing so (I4).

use std::future::Future;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use crate::config::ConnectorConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;
use crate::probe::ProbeReport;
use crate::record::Record;
use crate::signal::SignalRequest;
use crate::state::{SourceState, StateChange};

/// A technology that records can be captured from.
pub trait SourceConnector: Send + Sync + 'static {
    /// Short name in configurations: `postgres`.
    const NAME: &'static str;
    /// Name in Debezium's `source.connector` and in Connect's plug-in list.
    const CLASS: &'static str;
    /// Its checked configuration.
    type Config: ConnectorConfig;
    /// Whether it reads [`SourceContext::take_signals`].
    const TAKES_SIGNALS: bool = false;

    /// Divides the work into at most `max_tasks` tasks, each with a configuration of its own. One, unless the
    /// technology can be read side by side.
    fn plan(config: &Self::Config, max_tasks: usize) -> Vec<Self::Config> {
        let _ = max_tasks;
        vec![config.clone()]
    }

    /// Connects and says what is missing, with the statement that mends it. Changes nothing (I15).
    fn probe(config: &Self::Config) -> impl Future<Output = ProbeReport> + Send;

    /// Runs one task until [`SourceContext::stopping`] or the end of its work. Dropping the future ends it at any
    /// await, which must lose nothing that was confirmed. An error is handled by the daemon: depending on its kind
    /// the task is started again later, from the state that is durable then.
    fn run(config: Self::Config, context: SourceContext) -> impl Future<Output = Result<()>> + Send;

    /// The text that stands for a value that a change left as it was, where records leave as bytes.
    fn unavailable_value_placeholder(config: &Self::Config) -> String {
        let _ = config;
        "__debezium_unavailable_value".to_owned()
    }
}

/// Names the pending rows of one table and one attempt within a source: `public.orders#2`.
pub type PendingId = Arc<str>;

/// What a source hands over at once. It becomes durable whole or not at all (I1).
#[derive(Debug, Default)]
pub struct SourceBatch {
    /// Records in source order. May be empty: an idle advance is a batch of state alone (I5).
    pub records: Vec<Record>,
    /// Where set, the records are kept without offsets and without readers until [`SourceBatch::publish`] names
    /// the same id. Pending records of an earlier run of the task are gone when it starts again.
    pub pending: Option<PendingId>,
    /// Pending records that become readable, in this order and before `records`, in the same atomic step.
    pub publish: Vec<PendingId>,
    /// Whether all other pending records of this run are forgotten: nobody publishes them any more. A log that keeps them
    /// would hold on to the room that they take until the task starts again.
    pub forget_pending: bool,
    /// Changes of the state. If any, the batch ends in a resume point.
    pub state: Vec<StateChange>,
}

impl SourceBatch {
    /// Bytes that the batch holds on to.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.records.iter().map(Record::weight).sum()
    }
}

/// Number of a sent batch, from 1, within one run of a task.
pub type BatchNumber = u64;

/// Gives bytes of the memory budget (I6). Implemented by the daemon; the testkit has a generous one.
pub trait ByteBudget: Send + Sync + 'static {
    /// Waits until `bytes` are free for this task. More than the whole budget is granted when the task holds nothing else.
    fn reserve(self: Arc<Self>, bytes: usize) -> BoxFuture<'static, Reservation>;
}

/// Reserved bytes; given back when dropped.
pub struct Reservation {
    bytes: usize,
    release: Option<Box<dyn FnOnce(usize) + Send + Sync>>,
}

impl Reservation {
    /// A reservation that calls `release` with its bytes when it is dropped.
    #[must_use]
    pub fn new(bytes: usize, release: impl FnOnce(usize) + Send + Sync + 'static) -> Self {
        Self { bytes, release: Some(Box::new(release)) }
    }

    /// How much is reserved.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release(self.bytes);
        }
    }
}

/// A batch on its way to the topic log, with the memory it holds.
pub struct SentBatch {
    /// Its number
    pub number: BatchNumber,
    /// Its content
    pub batch: SourceBatch,
    /// Dropped when the topic log has accepted the batch
    pub reservation: Reservation,
}

/// What a running source task has of the daemon.
pub struct SourceContext {
    connector: Arc<str>,
    task: u32,
    state: SourceState,
    sender: mpsc::Sender<SentBatch>,
    next: BatchNumber,
    budget: Arc<dyn ByteBudget>,
    confirmed: watch::Receiver<BatchNumber>,
    stop: watch::Receiver<bool>,
    signals: Option<mpsc::Receiver<SignalRequest>>,
    metrics: Arc<dyn Metrics>,
}

impl SourceContext {
    /// Put together by whoever runs sources: the daemon and the testkit. The sender's capacity should be small;
    /// memory is bounded by `budget`.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "two callers; a struct of the same fields would say it twice")]
    pub fn new(
        connector: Arc<str>,
        task: u32,
        state: SourceState,
        sender: mpsc::Sender<SentBatch>,
        budget: Arc<dyn ByteBudget>,
        confirmed: watch::Receiver<BatchNumber>,
        stop: watch::Receiver<bool>,
        signals: mpsc::Receiver<SignalRequest>,
        metrics: Arc<dyn Metrics>,
    ) -> Self {
        Self { connector, task, state, sender, next: 1, budget, confirmed, stop, signals: Some(signals), metrics }
    }

    /// Name of the connector.
    #[must_use]
    pub fn connector(&self) -> &Arc<str> {
        &self.connector
    }

    /// Number of the task, from 0.
    #[must_use]
    pub fn task(&self) -> u32 {
        self.task
    }

    /// The state as of the last resume point that is durable, at the start of this run.
    #[must_use]
    pub fn state(&self) -> &SourceState {
        &self.state
    }

    /// Waits for room for `bytes` (I6). Cancel-safe.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        Arc::clone(&self.budget).reserve(bytes).await
    }

    /// The budget, for a part of the task that runs beside it. A reservation that is kept back until the task has room for
    /// something else keeps it from ever having it: such a part has to give way.
    #[must_use]
    pub fn budget(&self) -> Arc<dyn ByteBudget> {
        Arc::clone(&self.budget)
    }

    /// Sends a batch and says its number. Waits while the batches before it are not taken yet.
    /// `reservation` should cover [`SourceBatch::weight`]. Not cancel-safe: a dropped call may lose the batch, which is
    /// harmless only where all that the batch was sent for ends with it: the whole run, or a read whose pending records
    /// are forgotten.
    ///
    /// # Errors
    /// The daemon is ending this task.
    pub async fn send(&mut self, batch: SourceBatch, reservation: Reservation) -> Result<BatchNumber> {
        let number = self.next;
        self.sender
            .send(SentBatch { number, batch, reservation })
            .await
            .map_err(|_| Error::new(ErrorKind::Restarting, "hand over records").because("the topic log of this task is closed"))?;
        self.next += 1;
        Ok(number)
    }

    /// The number up to which every batch is durable with its state. Only what belongs to these may be confirmed to
    /// the server (I1).
    #[must_use]
    pub fn confirmed(&self) -> watch::Receiver<BatchNumber> {
        self.confirmed.clone()
    }

    /// Becomes true when the task should end: it stops reading, sends what it has read, and returns.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Completes when the task should end. Cancel-safe.
    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // A daemon that is gone is a stop, too.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// The requests that reach this run; there are none the second time. Each should be answered soon.
    #[must_use]
    pub fn take_signals(&mut self) -> mpsc::Receiver<SignalRequest> {
        self.signals.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Where the task reports its figures.
    #[must_use]
    pub fn metrics(&self) -> &Arc<dyn Metrics> {
        &self.metrics
    }
}
