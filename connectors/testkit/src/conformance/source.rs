//! What every source must do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tailwater_api::metrics::NoMetrics;
use tailwater_api::source::{BatchNumber, ByteBudget, PendingId, Reservation, SentBatch, SourceBatch, SourceConnector, SourceContext};
use tailwater_api::state::SourceState;
use tailwater_api::{Record, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a suite waits for something that a source owes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Grants everything at once.
#[derive(Debug)]
pub struct Generous;

impl ByteBudget for Generous {
    fn reserve(self: Arc<Self>, bytes: usize) -> BoxFuture<'static, Reservation> {
        Box::pin(async move { Reservation::new(bytes, |_| {}) })
    }
}

/// A topic log in memory: what a reader sees, what is pending, and the state.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    /// Records that readers see, in order
    pub records: Vec<Record>,
    /// State as of the last batch
    pub state: SourceState,
    pending: HashMap<PendingId, Vec<Record>>,
    /// Records at the last resume point; those behind it are delivered again
    resumable: usize,
}

impl MemoryLog {
    /// Applies a batch; says whether it ends in a resume point.
    ///
    /// # Panics
    /// The batch publishes what is not pending.
    pub fn append(&mut self, batch: SourceBatch) -> bool {
        for id in &batch.publish {
            let rows = self.pending.remove(id);
            self.records.extend(rows.unwrap_or_else(|| panic!("{id} is published and was never pending")));
        }
        if batch.forget_pending {
            self.pending.clear();
        }
        match batch.pending {
            Some(id) => self.pending.entry(id).or_default().extend(batch.records),
            None => self.records.extend(batch.records),
        }
        for change in &batch.state {
            self.state.apply(change);
        }
        let is_resume_point = !batch.state.is_empty();
        if is_resume_point {
            self.resumable = self.records.len();
        }
        is_resume_point
    }

    /// What a new run of the task finds: pending records of the earlier one are gone, and those behind its last resume point.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let mut log = self.clone();
        log.pending.clear();
        log.records.truncate(log.resumable);
        log
    }
}

/// A running source whose batches the test takes.
pub struct RunningSource {
    batches: mpsc::Receiver<SentBatch>,
    confirmed: watch::Sender<BatchNumber>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
    last: BatchNumber,
}

impl RunningSource {
    /// Starts a task from `state`.
    #[must_use]
    pub fn start<C: SourceConnector>(config: C::Config, state: SourceState) -> Self {
        let (sender, batches) = mpsc::channel(1);
        let (confirmed, confirmations) = watch::channel(0);
        let (stop, stopping) = watch::channel(false);
        let context = SourceContext::new(
            C::NAME.into(),
            0,
            state,
            sender,
            Arc::new(Generous),
            confirmations,
            stopping,
            mpsc::channel(1).1,
            Arc::new(NoMetrics),
        );
        let task = tokio::spawn(C::run(config, context));
        Self { batches, confirmed, stop, task, last: 0 }
    }

    /// The next batch; `None` when the source has ended its work.
    ///
    /// # Panics
    /// The source fails, or sends nothing for [`PATIENCE`].
    pub async fn next(&mut self) -> Option<SourceBatch> {
        let sent = timeout(PATIENCE, self.batches.recv()).await.expect("the source sends something");
        if let Some(sent) = sent {
            assert_eq!(sent.number, self.last + 1, "batches are numbered one by one");
            self.last = sent.number;
            return Some(sent.batch);
        }
        (&mut self.task).await.expect("the source does not panic").expect("the source does not fail");
        None
    }

    /// Says that everything taken so far is durable.
    pub fn confirm(&self) {
        self.confirmed.send_replace(self.last);
    }

    /// Ends the task as a crash does: between two awaits.
    pub async fn crash(self) {
        self.task.abort();
        drop(self.task.await);
    }

    /// Asks the task to end and applies what it still sends.
    ///
    /// # Panics
    /// It fails, or does not end within [`PATIENCE`].
    pub async fn stop(mut self, log: &mut MemoryLog) {
        self.stop.send_replace(true);
        let drain = async {
            while let Some(batch) = self.batches.recv().await {
                log.append(batch.batch);
            }
            self.task.await.expect("the source does not panic").expect("a stopped source does not fail");
        };
        timeout(PATIENCE, drain).await.expect("the source ends when it is told to");
    }
}

/// Takes batches until `count` records are readable and the last batch ended in a resume point; says where each stands.
async fn collect(source: &mut RunningSource, log: &mut MemoryLog, count: usize) -> Vec<MemoryLog> {
    let mut resume_points = Vec::new();
    loop {
        let Some(batch) = source.next().await else { break };
        let is_resume_point = log.append(batch);
        if is_resume_point {
            resume_points.push(log.clone());
        }
        if is_resume_point && log.records.len() >= count {
            break;
        }
    }
    assert_eq!(log.records.len(), count, "records of the source");
    resume_points
}

/// From whichever resume point a source starts again, what stands before it and what comes after it are together all
/// records, each once and in order (I3). Nothing is confirmed meanwhile, so the outside world keeps everything.
///
/// `count` is how many records the outside world holds; `identity` says which record it is.
///
/// # Panics
/// The promise is broken.
pub async fn resumes_from_every_resume_point<C: SourceConnector>(config: &C::Config, count: usize, identity: impl Fn(&Record) -> String) {
    let mut source = RunningSource::start::<C>(config.clone(), SourceState::default());
    let mut log = MemoryLog::default();
    let resume_points = collect(&mut source, &mut log, count).await;
    source.crash().await;
    let expected: Vec<_> = log.records.iter().map(&identity).collect();
    assert!(!resume_points.is_empty(), "the source has a resume point");
    for point in resume_points {
        if point.records.len() == count {
            continue;
        }
        let place = point.records.len();
        let mut log = point.reopened();
        let mut source = RunningSource::start::<C>(config.clone(), log.state.clone());
        collect(&mut source, &mut log, count).await;
        source.crash().await;
        let found: Vec<_> = log.records.iter().map(&identity).collect();
        assert_eq!(found, expected, "resumed after {place} records");
    }
}

/// A source whose batches nobody takes for `stall` goes on as if nothing had been, and loses and repeats nothing (I4, I6).
///
/// # Panics
/// The promise is broken.
pub async fn outlives_a_stall<C: SourceConnector>(config: &C::Config, count: usize, stall: Duration, identity: impl Fn(&Record) -> String) {
    let mut source = RunningSource::start::<C>(config.clone(), SourceState::default());
    let mut log = MemoryLog::default();
    log.append(source.next().await.expect("a first batch"));
    tokio::time::sleep(stall).await;
    collect(&mut source, &mut log, count).await;
    let mut seen: Vec<_> = log.records.iter().map(&identity).collect();
    source.stop(&mut log).await;
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "each record once");
}

/// Once `change_elsewhere` has changed something that is not captured, the state moves although no record comes (I5).
/// The source is first read up to `count` records.
///
/// # Panics
/// The promise is broken.
pub async fn advances_while_idle<C: SourceConnector>(config: &C::Config, count: usize, change_elsewhere: impl AsyncFnOnce()) {
    let mut source = RunningSource::start::<C>(config.clone(), SourceState::default());
    let mut log = MemoryLog::default();
    collect(&mut source, &mut log, count).await;
    source.confirm();
    let before = log.state.clone();
    change_elsewhere().await;
    let advance = async {
        while log.state == before {
            let batch = source.next().await.expect("the source goes on");
            log.append(batch);
            source.confirm();
        }
    };
    timeout(PATIENCE, advance).await.expect("the state moves while nothing is captured");
    assert_eq!(log.records.len(), count, "nothing is captured");
    source.stop(&mut log).await;
}

/// A source that is told to end does so, without an error, and what it sends until then is whole: a later run from its
/// state delivers the rest.
///
/// # Panics
/// The promise is broken.
pub async fn stops_when_told<C: SourceConnector>(config: &C::Config, count: usize, identity: impl Fn(&Record) -> String) {
    let mut source = RunningSource::start::<C>(config.clone(), SourceState::default());
    let mut log = MemoryLog::default();
    log.append(source.next().await.expect("a first batch"));
    source.stop(&mut log).await;
    let mut durable = log.reopened();
    if durable.records.len() < count {
        let mut source = RunningSource::start::<C>(config.clone(), durable.state.clone());
        collect(&mut source, &mut durable, count).await;
        source.crash().await;
    }
    let mut seen: Vec<_> = durable.records.iter().map(&identity).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "each record once");
}
