//! One run of a source task.
//!
//! The source runs on a task of its own and decodes; this side transforms and hands to the topic log, so the two can
//! use two cores. A third, tiny task turns "durable" into "confirmed" and waits for nothing else, so that a log which
//! holds an append (a full disk) does not keep the source from answering its server (I4).
//!
//! The order of I1 is: [`LogWriter::append`] makes records and state durable in one step, [`LogWriter::durable`] says
//! so, and only then the number appears in the source's `confirmed`. Numbers pass unchanged, and a batch that
//! transforms emptied is appended all the same: its state is the idle advance (I5), its number keeps the sequence.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

use tailwater_api::metrics::{Counter, Gauge, Metrics};
use tailwater_api::record::Record;
use tailwater_api::signal::SignalRequest;
use tailwater_api::source::{BatchNumber, SentBatch, SourceContext};
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::crash_point::crash_point;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::runtime::budget::TaskBudget;
use crate::runtime::record_errors::{RecordErrors, Stage};
use crate::topics::{LogUser, LogWriter, TopicLog};
use crate::transforms::TransformChain;

/// Batches between the source and this side. Memory is bounded by the budget, this only lets the two overlap.
const BATCHES_ON_THE_WAY: usize = 4;

/// What a run of a source task needs of its worker.
pub(super) struct SourceRun {
    pub(super) user: LogUser,
    pub(super) topics: Arc<dyn TopicLog>,
    pub(super) transforms: TransformChain,
    pub(super) errors: Arc<RecordErrors>,
    pub(super) budget: Arc<TaskBudget>,
    pub(super) metrics: Arc<dyn Metrics>,
    pub(super) signals: mpsc::Receiver<SignalRequest>,
    /// Becomes true when the run should end
    pub(super) stop: watch::Receiver<bool>,
}

impl SourceRun {
    /// Runs the source until it is stopped or fails. A source that ends by itself is done: its log stays open until the stop.
    pub(super) async fn run<F>(self, source: impl FnOnce(SourceContext) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let Self { user, topics, transforms, errors, budget, metrics, signals, mut stop } = self;
        let writer = topics.writer(&user).await?;
        let LogUser { connector, task, .. } = user;
        let (sender, mut sent) = mpsc::channel(BATCHES_ON_THE_WAY);
        let (confirm, confirmed) = watch::channel(0);
        let context = SourceContext::new(
            connector,
            task,
            writer.state().clone(),
            sender,
            Arc::clone(&budget) as _,
            confirmed,
            stop.clone(),
            signals,
            Arc::clone(&metrics),
        );

        // Dropping the set ends both tasks, whichever way this function is left.
        let mut tasks = JoinSet::new();
        let source = tasks.spawn(source(context)).id();
        tasks.spawn(publish_confirmed(writer.durable(), confirm));
        let limit = metrics.gauge("inflight_limit_bytes", "The memory budget, which all tasks share.", None);
        limit.set(i64::try_from(budget.total()).unwrap_or(i64::MAX));
        let mut writer = Appender { writer, transforms, errors, budget, figures: Figures::new(&*metrics) };

        let outcome = loop {
            // Batches first: what a source sent before it ended is appended before its end is looked at.
            tokio::select! {
                biased;
                Some(batch) = sent.recv() => writer.append(batch).await?,
                Some(ended) = tasks.join_next_with_id() => match ended {
                    Ok((id, Ok(()))) if id != source => return Err(closed_log()),
                    Ok((_, result)) => break result,
                    Err(error) => break Err(panicked(error)),
                },
            }
        };
        // The source is gone and its sender with it: what is left ends.
        while let Some(batch) = sent.recv().await {
            writer.append(batch).await?;
        }
        if outcome.is_ok() && !*stop.borrow() {
            tracing::info!(connector = &*writer.errors.connector, task, "the source has done its work");
            writer.idle(&mut stop).await?;
        }
        // What was received stays, whether or not the source failed after it.
        let closed = writer.writer.close().await;
        outcome.and(closed)
    }
}

/// Publishes what is durable as confirmed (I1). Ends well when the source is gone, with the error that ended the log otherwise.
async fn publish_confirmed(
    mut durable: watch::Receiver<Result<BatchNumber, Arc<Error>>>,
    confirm: watch::Sender<BatchNumber>,
) -> Result<()> {
    loop {
        let now = match &*durable.borrow_and_update() {
            Ok(number) => *number,
            Err(error) => return Err(error.again()),
        };
        confirm.send_replace(now);
        if durable.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn closed_log() -> Error {
    Error::new(ErrorKind::Restarting, "append to the topic log").because("it was closed")
}

/// The error that a task's panic amounts to: a bug of one connector, which touches no other.
pub(super) fn panicked(error: JoinError) -> Error {
    if !error.is_panic() {
        return Error::new(ErrorKind::Restarting, "run the task").because("it was ended");
    }
    panic_error(&*error.into_panic())
}

/// The error that a caught panic amounts to.
pub(super) fn panic_error(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
    Error::new(ErrorKind::Bug, "run the task").because(format!("it panicked: {}", text.unwrap_or_else(|| "without a message".to_owned())))
}

struct Appender {
    writer: Box<dyn LogWriter>,
    transforms: TransformChain,
    errors: Arc<RecordErrors>,
    budget: Arc<TaskBudget>,
    figures: Figures,
}

impl Appender {
    async fn append(&mut self, sent: SentBatch) -> Result<()> {
        let SentBatch { number, mut batch, reservation } = sent;
        self.figures.batches.add(1);
        self.figures.records.add(batch.records.len() as u64);
        self.figures.bytes.add(reservation.bytes() as u64);
        if !self.transforms.is_empty() {
            let mut records = Vec::with_capacity(batch.records.len());
            for record in batch.records {
                records.extend(self.transform(record).await?);
            }
            batch.records = records;
        }
        crash_point("source-transformed");
        self.writer.append(number, batch).await?;
        crash_point("source-appended");
        // The log has accepted the batch: its bytes are the log's business now.
        drop(reservation);
        self.figures.in_flight.set(i64::try_from(self.budget.held()).unwrap_or(i64::MAX));
        Ok(())
    }

    async fn transform(&mut self, record: Record) -> Result<Option<Record>> {
        let copy = self.errors.keeps().then(|| record.clone());
        let topic = Arc::clone(&record.topic);
        match self.transforms.apply(record) {
            Ok(passed) => Ok(passed),
            Err(error) => {
                self.errors.handle(&topic, copy, None, Stage::Transformation, error).await?;
                Ok(None)
            }
        }
    }

    /// Keeps the log open until the stop; an error of the log still counts.
    async fn idle(&mut self, stop: &mut watch::Receiver<bool>) -> Result<()> {
        let mut durable = self.writer.durable();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            failed = durable.wait_for(Result::is_err) => Err(failed.ok().and_then(|failed| failed.as_ref().err().map(|error| error.again())).unwrap_or_else(closed_log)),
        }
    }
}

struct Figures {
    batches: Counter,
    records: Counter,
    bytes: Counter,
    in_flight: Gauge,
}

impl Figures {
    fn new(metrics: &dyn Metrics) -> Self {
        Self {
            batches: metrics.counter("batches_total", "Batches that the source sent.", None),
            records: metrics.counter("records_total", "Records that the source sent, before transforms.", None),
            bytes: metrics.counter("bytes_total", "Bytes of memory that the records took.", None),
            in_flight: metrics.gauge("inflight_bytes", "Bytes of the memory budget that the task holds.", None),
        }
    }
}
