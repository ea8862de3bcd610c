//! Exactly once: a source's records and its offset in one transaction (KIP-98, KIP-618).
//!
//! ```text
//! begin ─► whole batches ─► … ─► all delivered ─► offset ─► commit ─► durable
//!          └──── closed by time or bytes ────┘
//! ```
//! The worker's `exactly.once.source.support: enabled` makes every source write like this. A reader of committed records sees
//! a change when the offset behind it is durable, and never otherwise: both become so in one atomic step (I1).
//!
//! **Boundaries.** A transaction holds whole batches, so that the offset says exactly what is in it. It is never tied to a transaction of the source, which
//! may be larger than memory and longer than any timeout (I13). It ends when the source pauses ([`PAUSE`]), or after [`LONGEST`], with
//! `transaction.boundary=interval` after that interval alone; in any case with [`LARGEST`] bytes (I6). Batches that come while it is being committed
//! wait for the next one.
//!
//! **Fencing.** The transactional id is Connect's, `GROUP-CONNECTOR-TASK`. To open a writer is to take the id over: the brokers abort what an
//! older holder left open, or complete what it had asked to commit, and refuse whatever it still sends. Only then is the offset read. A holder that is
//! refused stops for good: to take the id back would fence the other one, and so on for ever. One exception heals by itself: the brokers
//! end a transaction that stays open for `transaction.timeout.ms`, such as one of a network that was gone, and refuse its producer alike. While it
//! was away, as a process is whose machine was frozen, another one may have taken its place all the same. So its next run looks at the offsets
//! before it takes the id over: if they are not what this process has written, another one has, and keeps the id ([`LostIds`]).
//!
//! The refusal may come at any moment: with a delivery report, with a commit, or when a record is handed to the producer, which then says
//! only that it takes none. Each way leads to [`Transactions::failed`] or [`Transactions::cause`], which tell a holder that was fenced from all else.
//!
//! **What goes wrong** ends the run: the transaction is aborted, and the next run writes again from the stored offset. That includes a
//! commit whose outcome is not known (I12): the next writer makes the brokers settle it, and reads from the offset how it was settled.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _};
use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::source::BatchNumber;
use tailwater_api::state::{SourceState, StateChange};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::errors::failed;
use super::offset_store::OffsetStore;
use super::producer::{Producer, Settled};
use super::writer::{Durable, HeldProducer, REPORT};
use super::{KafkaLog, LOOK};
use crate::config::document::fault;
use crate::state::kafka::{OffsetRecords, OffsetsOf};

/// A source that sends nothing for so long, about what a commit takes, has no more to say for now.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a transaction stays open where the source does not pause: long beside a commit, which takes some 10 ms.
const LONGEST: Duration = Duration::from_millis(150);
/// How many bytes of records a transaction holds.
const LARGEST: usize = 64 << 20;
/// How long brokers let a transaction be open: Kafka's own default, and with an interval that much more.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long an abort may take; the brokers do it themselves when it does not come.
const ABORT: Duration = Duration::from_secs(10);

/// How a task writes in transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TransactionOptions {
    /// The transactional id
    pub(super) id: String,
    /// Where `transaction.boundary=interval`, how long transactions are
    interval: Option<Duration>,
}

/// Whether the worker writes in transactions.
pub(super) fn are_enabled(worker: &ConfigValues) -> bool {
    // `preparing` is the first half of an upgrade of many workers: ready to be fenced, and as every worker is here, not yet writing.
    worker.get("exactly.once.source.support").is_some_and(|support| support.trim().eq_ignore_ascii_case("enabled"))
}

/// What is wrong with the keys of a source about transactions.
pub(super) fn check(connector: &ConfigValues, worker: &ConfigValues) -> ConfigReport {
    let mut report = ConfigReport::default();
    let is = |key: &str, value: &str| connector.get(key).is_some_and(|given| given.trim().eq_ignore_ascii_case(value));
    if is("transaction.boundary", "connector") {
        report.faults.push(fault("transaction.boundary", "must be poll or interval: no connector has transactions of its own to offer"));
    }
    if are_enabled(worker) {
        let partitioner = connector.with_prefix("producer.override.partitioner").next().map(|(key, value)| (key.to_owned(), value));
        if let Some((key, value)) = partitioner.filter(|(_, value)| !["murmur2", "murmur2_random"].contains(&value.trim())) {
            let why =
                format!("must be murmur2_random, not {value:?}: the producer writes offsets, too, and these stay in their partitions");
            report.faults.push(fault(&format!("producer.override.partitioner{key}"), why));
        }
        if connector.get("transaction.boundary.interval.ms").is_some() && !is("transaction.boundary", "interval") {
            report.notes.push(fault("transaction.boundary.interval.ms", "has no effect while transaction.boundary is not interval"));
        }
        return report;
    }
    if is("exactly.once.support", "required") {
        let why = "cannot be required: the worker file does not say exactly.once.source.support: enabled";
        report.faults.push(fault("exactly.once.support", why));
    }
    for key in ["transaction.boundary", "transaction.boundary.interval.ms"] {
        if connector.get(key).is_some() {
            report.notes.push(fault(key, "has no effect: the worker file does not say exactly.once.source.support: enabled"));
        }
    }
    report
}

impl TransactionOptions {
    /// Those of a task; `None` where the worker does not write in transactions.
    ///
    /// # Errors
    /// `misconfigured` for an interval that is none.
    pub(super) fn read(connector: &str, task: u32, config: &ConfigValues, worker: &ConfigValues) -> Result<Option<Self>> {
        if !are_enabled(worker) {
            return Ok(None);
        }
        let group = worker.get("group.id").map_or("tailwater", str::trim);
        let is_interval = config.get("transaction.boundary").is_some_and(|boundary| boundary.trim().eq_ignore_ascii_case("interval"));
        // Connect: as often as offsets are kept.
        let given = config.get("transaction.boundary.interval.ms").or_else(|| worker.get("offset.flush.interval.ms")).unwrap_or("1000");
        let interval = match given.trim().parse::<u64>() {
            Ok(milliseconds) => is_interval.then_some(Duration::from_millis(milliseconds)),
            Err(error) => {
                return Err(Error::new(ErrorKind::Misconfigured, "read transaction.boundary.interval.ms").because(error));
            }
        };
        Ok(Some(Self { id: format!("{group}-{connector}-{task}"), interval }))
    }

    /// Makes a producer of these settings transactional.
    pub(super) fn configure(&self, config: &mut ClientConfig) {
        let milliseconds = |config: &ClientConfig, key| config.get(key).and_then(|value: &str| value.parse::<u128>().ok());
        config.set("transactional.id", &self.id);
        let timeout = milliseconds(config, "transaction.timeout.ms").unwrap_or_else(|| (TIMEOUT + self.longest()).as_millis());
        config.set("transaction.timeout.ms", timeout.to_string());
        // librdkafka asks for it: what is delivered later would be of no transaction.
        let delivery = milliseconds(config, "delivery.timeout.ms").filter(|delivery| *delivery != 0).unwrap_or(timeout);
        config.set("delivery.timeout.ms", delivery.min(timeout).to_string());
    }

    fn longest(&self) -> Duration {
        self.interval.unwrap_or(LONGEST)
    }
}

/// A source's offsets as far as one writer knows them.
#[derive(Clone, Default)]
struct KnownOffsets {
    committed: SourceState,
    /// With those whose commit was not answered (I12)
    sent: SourceState,
}

/// Transactional ids that writers of this process have lost because they were away for too long.
#[derive(Default)]
pub(super) struct LostIds(std::sync::Mutex<HashMap<String, KnownOffsets>>);

impl LostIds {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, KnownOffsets>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees that nobody has used `id` since a writer of this process lost it (I13). To be called before it is taken over.
    ///
    /// # Errors
    /// `misconfigured` where somebody has, once: who starts the task again after that wants it to run here. And those of Kafka.
    pub(super) async fn check(&self, id: &str, offsets: &dyn OffsetStore, of: &OffsetsOf) -> Result<()> {
        let Some(KnownOffsets { committed, sent }) = self.lock().get(id).cloned() else { return Ok(()) };
        offsets.settled(of).await?;
        let found = offsets.load(of).await?;
        self.lock().remove(id);
        let is_found = |known: &SourceState| {
            let all_in =
                |one: &SourceState, other: &SourceState| one.iter().all(|(partition, offset)| other.get(partition) == Some(offset));
            all_in(known, &found) && all_in(&found, known)
        };
        if is_found(&committed) || is_found(&sent) { Ok(()) } else { Err(taken_over("take the transactional id over", id)) }
    }
}

/// I13
fn taken_over(doing: &str, id: &str) -> Error {
    Error::new(ErrorKind::Misconfigured, doing)
        .because(format!("another producer has taken the transactional id {id} over; what this one has not committed is not in the topics"))
        .mend("see that one worker alone runs this connector under this group.id, then restart the task")
}

/// The transactions of a writer.
pub(super) struct Transactions {
    options: TransactionOptions,
    known: std::sync::Mutex<KnownOffsets>,
    lost: Arc<LostIds>,
    /// `transaction.timeout.ms`
    timeout: Duration,
    /// Held by who sends a batch and by who commits; when the transaction began, `None` while there is none
    began: Arc<Mutex<Option<Instant>>>,
    /// Bytes of records that are in it
    bytes: AtomicUsize,
    /// Told when a batch is in it whole
    grown: Notify,
    /// The writer is being closed: what there is becomes durable at once
    closing: AtomicBool,
}

/// Holds the transaction open for a batch that is being sent.
pub(super) type Held = OwnedMutexGuard<Option<Instant>>;

impl Transactions {
    /// Takes the transactional id over (I13). Returns when nothing of an older holder is open.
    ///
    /// # Errors
    /// Those of Kafka.
    pub(super) async fn open(
        producer: &HeldProducer,
        options: TransactionOptions,
        config: &ClientConfig,
        lost: Arc<LostIds>,
    ) -> Result<Self> {
        let timeout = config.get("transaction.timeout.ms").and_then(|timeout| timeout.parse().ok()).map_or(TIMEOUT, Duration::from_millis);
        let transactions = Self {
            options,
            known: std::sync::Mutex::default(),
            lost,
            timeout,
            began: Arc::default(),
            bytes: AtomicUsize::new(0),
            grown: Notify::new(),
            closing: AtomicBool::new(false),
        };
        let opened = until_settled(producer, timeout, Producer::init_transactions).await;
        opened.map_err(|error| transactions.failed("take the transactional id over", producer, &error, None))?;
        Ok(transactions)
    }

    /// Takes note of the offsets with which the writer begins.
    pub(super) fn begin_with(&self, offsets: &SourceState) {
        *self.known() = KnownOffsets { committed: offsets.clone(), sent: offsets.clone() };
    }

    fn known(&self) -> std::sync::MutexGuard<'_, KnownOffsets> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a transaction where none is open. It is not committed while the answer is held.
    pub(super) async fn hold(&self, producer: &HeldProducer) -> Result<Held> {
        let mut began = Arc::clone(&self.began).lock_owned().await;
        if began.is_none() {
            let begun = until_settled(producer, self.timeout, |producer, _| producer.begin_transaction()).await;
            begun.map_err(|error| self.failed("begin a transaction", producer, &error, None))?;
            *began = Some(Instant::now());
        }
        Ok(began)
    }

    /// A batch is in the transaction whole.
    pub(super) fn grow(&self, held: Held, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(held);
        self.grown.notify_one();
    }

    /// Whatever is in the transaction is to become durable at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.grown.notify_one();
    }

    /// Waits for the end of the transaction that has just got its first batch, or for a record that is not delivered.
    async fn until_end(&self, producer: &Producer) {
        let end = Instant::now() + self.options.longest();
        let mut pause = Instant::now() + PAUSE;
        while self.bytes.load(Ordering::Relaxed) < LARGEST && !self.closing.load(Ordering::Relaxed) {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                () = tokio::time::sleep_until(pause), if self.options.interval.is_none() => match self.began.try_lock() {
                    Ok(_) => return,
                    // A batch is being sent, which may wait for room.
                    Err(_) => pause = Instant::now() + PAUSE,
                },
                () = self.grown.notified() => pause = Instant::now() + PAUSE,
                () = producer.context().failed.notified() => return,
            }
        }
    }

    /// Commits what is open together with the offset behind it, and says which batch is the last one in it.
    async fn commit(&self, producer: &HeldProducer, offsets: &dyn OffsetStore, of: &OffsetsOf) -> Result<Option<BatchNumber>> {
        // No batch is half sent while this is held (I3).
        let mut began = self.began.lock().await;
        let Some(since) = *began else { return Ok(None) };
        let failed = |doing: &str, error: &KafkaError| self.failed(doing, producer, error, Some(since));
        let Settled { number, state } = delivered(producer).await.map_err(|error| self.undelivered(producer, error, Some(since)))?;
        let OffsetRecords { topic, records } = offsets.records(of, &state).await?;
        apply(&state, &mut self.known().sent);
        let in_flight = producer.context().enter(number, records.len(), Vec::new());
        for (key, value) in &records {
            let record = BaseRecord::<str, str, _>::with_opaque_to(&topic, Arc::clone(&in_flight)).key(key);
            let record = BaseRecord { payload: value.as_deref(), ..record };
            producer.send(record).map_err(|(error, _)| failed(&format!("write to the topic {topic}"), &error))?;
        }
        until_settled(producer, self.timeout, Producer::commit_transaction)
            .await
            .map_err(|error| failed("commit a transaction", &error))?;
        apply(&state, &mut self.known().committed);
        // That of the offset itself.
        while producer.context().take_settled().is_some() {}
        *began = None;
        self.bytes.store(0, Ordering::Relaxed);
        if let Err(error) = offsets.committed(of, state).await {
            // The connector's own topic has them. The next offset brings this one up to date, too.
            tracing::warn!(connector = &*of.connector, error.kind = error.kind().code(), "the worker's offsets topic lags behind: {error}");
        }
        Ok(Some(number))
    }

    /// Why the producer takes no more records into the transaction that `held` keeps open.
    pub(super) async fn cause(&self, producer: &Producer, held: Option<&Held>, refusal: Error) -> Error {
        let since = held.and_then(|began| **began);
        let deadline = Instant::now() + REPORT;
        loop {
            if let Some((code, _)) = producer.client().fatal_error() {
                return self.failed("write to Kafka", producer, &KafkaError::Global(code), since);
            }
            // That of the record by which the transaction failed.
            if let Some(error) = producer.context().take_failure() {
                return self.undelivered(producer, error, since);
            }
            if Instant::now() >= deadline {
                self.lose_if_overdue(since);
                return Error::new(ErrorKind::Restarting, "write to Kafka").because(refusal);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The error of a record that was not delivered.
    fn undelivered(&self, producer: &Producer, error: Error, since: Option<Instant>) -> Error {
        let is_overdue = self.lose_if_overdue(since);
        match producer.client().fatal_error() {
            Some((code, _)) => self.failed("write to Kafka", producer, &KafkaError::Global(code), since),
            // Codes of fencing alone are of this kind.
            None if error.kind() == ErrorKind::Conflict => self.fenced("write to Kafka", is_overdue),
            None => error,
        }
    }

    /// The error of a call about transactions. `since` is when the open one began.
    fn failed(&self, doing: &str, producer: &Producer, error: &KafkaError, since: Option<Instant>) -> Error {
        let is_overdue = self.lose_if_overdue(since);
        // What made the producer unusable says more than the call that found it so.
        let code = producer.client().fatal_error().map(|(code, _)| code).or_else(|| error.rdkafka_error_code());
        match code {
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch) => {
                self.fenced(doing, is_overdue)
            }
            // The transaction has failed for a reason of its own; the next run begins another.
            Some(RDKafkaErrorCode::State) => Error::new(ErrorKind::Restarting, doing).because(error.clone()),
            Some(code) => failed(doing, &KafkaError::Global(code)),
            None => failed(doing, error),
        }
    }

    /// Gives the id up where the transaction has been open for longer than the brokers allow, whatever the error is that tells of it: one who
    /// was frozen for so long may first see that messages or connections are too old.
    fn lose_if_overdue(&self, since: Option<Instant>) -> bool {
        let is_overdue = since.is_some_and(|since| since.elapsed() >= self.timeout);
        if is_overdue {
            self.lost.lock().insert(self.options.id.clone(), self.known().clone());
        }
        is_overdue
    }

    fn fenced(&self, doing: &str, is_overdue: bool) -> Error {
        let id = &self.options.id;
        if is_overdue {
            return Error::new(ErrorKind::Restarting, doing)
                .because(format!("the brokers have ended a transaction of {id} that was open for longer than transaction.timeout.ms"));
        }
        taken_over(doing, id)
    }
}

fn apply(changes: &[StateChange], offsets: &mut SourceState) {
    changes.iter().for_each(|change| offsets.apply(change));
}

/// Waits until all that was sent is delivered, and takes it out of the ledger.
async fn delivered(producer: &Producer) -> Result<Settled> {
    let deliveries = producer.context();
    let mut all = Settled { number: 0, state: Vec::new() };
    loop {
        if let Some(error) = deliveries.take_failure() {
            return Err(error);
        }
        while let Some(more) = deliveries.take_settled() {
            all.number = more.number;
            all.state.extend(more.state);
        }
        if deliveries.is_empty() {
            return Ok(all);
        }
        deliveries.news().await;
    }
}

/// Makes a call that waits for brokers, again while librdkafka says that it may be made again, for at most `patience`.
async fn until_settled(
    producer: &HeldProducer,
    patience: Duration,
    call: impl Fn(&Producer, Duration) -> Result<(), KafkaError> + Send + 'static,
) -> Result<(), KafkaError> {
    let (producer, deadline) = (Arc::clone(producer), std::time::Instant::now() + patience);
    let settled = tokio::task::spawn_blocking(move || {
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match call(&producer, left) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => std::thread::sleep(LOOK),
                settled => return settled,
            }
        }
    });
    settled.await.unwrap_or(Err(KafkaError::Canceled))
}

/// Aborts what is open, off the async threads, so that readers need not wait for the brokers to do it.
pub(super) fn abort(producer: &HeldProducer) {
    let producer = Arc::clone(producer);
    super::off_the_async_threads(move || {
        if let Err(error) = producer.abort_transaction(ABORT) {
            tracing::debug!("no transaction was aborted: {error}");
        }
    });
}

/// Starts committing what is sent.
pub(super) fn keep_committing(
    transactions: Arc<Transactions>,
    producer: HeldProducer,
    of: OffsetsOf,
    offsets: Arc<dyn OffsetStore>,
    log: &KafkaLog,
) -> (JoinHandle<()>, watch::Receiver<Durable>) {
    let (durable, watched) = watch::channel(Ok(0));
    let changed = log.changed.clone();
    let keeper = tokio::spawn(async move {
        loop {
            transactions.grown.notified().await;
            transactions.until_end(&producer).await;
            match transactions.commit(&producer, &*offsets, &of).await {
                Ok(Some(number)) => {
                    let _ = durable.send_replace(Ok(number));
                    changed.send_modify(|count| *count += 1);
                }
                Ok(None) => {}
                Err(error) => {
                    let _ = durable.send_replace(Err(Arc::new(error)));
                    return;
                }
            }
        }
    });
    (keeper, watched)
}
