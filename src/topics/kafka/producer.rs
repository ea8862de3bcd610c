//! The producer of a source, and the ledger of what it has in flight.
//!
//! Delivery is counted, not awaited: every record carries a pointer to its batch, and the thread that serves delivery reports
//! counts the batch down. Nothing is allocated for a record but what librdkafka itself needs. Batches finish in any order, partitions
//! being independent; [`Deliveries::take_settled`] gives out the finished prefix alone (I2).
//!
//! The first record that is not delivered ends the producer: what comes behind it would be out of order. With idempotence and
//! `enable.gapless.guarantee` librdkafka itself delivers nothing of a partition behind a gap.
//!
//! Where `errors.tolerance` lets records be left out, one that is too large for its topic is handed to who decides about it
//! ([`RefusedRecord`]), and its batch is delivered when that is done (I2). Brokers refuse batches, not records: only of one that is as large as
//! a whole batch is it certain that it was alone. A smaller one ends the producer as everywhere else; so does one in a transaction, which is
//! lost with it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{ProducerContext, ThreadedProducer};
use tailwater_api::record::Record;
use tailwater_api::source::BatchNumber;
use tailwater_api::state::StateChange;
use tailwater_api::{Error, Scope};
use tokio::sync::{Notify, mpsc};

use super::client::token::unsecured;
use super::contents::raw;
use super::errors::{failed, refused};

pub(super) type Producer = ThreadedProducer<Deliveries>;

/// What librdkafka keeps for a message beside its bytes; bounds how many small ones may wait.
const MESSAGE_OVERHEAD: usize = 256;
/// How long the cause of a purge may take to be reported.
const CAUSE: Duration = Duration::from_secs(1);
/// Smallest queue that can hold a largest message of librdkafka's default.
const SMALLEST_QUEUE: usize = 1 << 20;

/// Adds what follows from the memory budget and from the order of records to the settings of a producer.
pub(super) fn configure(config: &mut ClientConfig, queue: usize, leaves_out: bool) {
    let mut default = |key: &str, value: &str| {
        if config.get(key).is_none() {
            config.set(key, value);
        }
    };
    // A burst fills batches by itself; a single change need not wait for company.
    default("linger.ms", "1");
    // It costs less than to send and store what it saves.
    default("compression.type", "lz4");
    let queue = queue.max(SMALLEST_QUEUE);
    default("queue.buffering.max.kbytes", &(queue / 1024).to_string());
    default("queue.buffering.max.messages", &(queue / MESSAGE_OVERHEAD).to_string());
    if config.get("transactional.id").is_none() && !leaves_out {
        // In a transaction a gap is aborted with everything else.
        config.set("enable.gapless.guarantee", "true");
    }
}

/// A record that its topic does not take.
pub(super) struct RefusedRecord {
    /// Its bytes
    pub(super) record: Record,
    /// Of the scope of a record
    pub(super) error: Error,
    /// Waits for the decision
    pub(super) batch: Arc<InFlight>,
}

/// Hands refused records to who decides about them.
pub(super) struct LeavesOut {
    /// The thread of delivery reports waits where it is full, so that little is kept here (I6)
    pub(super) refused: mpsc::Sender<RefusedRecord>,
    /// A record that is as large is a batch of its own
    pub(super) batch: usize,
}

/// The size of batches that a producer of these settings makes.
pub(super) fn batch_size(config: &ClientConfig) -> usize {
    // librdkafka 2.12, CONFIGURATION.md
    config.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(1_000_000)
}

/// A batch whose records are on their way.
pub(super) struct InFlight {
    number: BatchNumber,
    undelivered: AtomicUsize,
    state: Mutex<Vec<StateChange>>,
}

/// What is in flight, in order; shared by the writer and the thread that serves delivery reports.
pub(super) struct Deliveries {
    connector: Arc<str>,
    /// Where refused records may be left out
    leaves_out: Option<LeavesOut>,
    ledger: Mutex<VecDeque<Arc<InFlight>>>,
    /// The first record that was not delivered
    failure: Mutex<Option<Error>>,
    /// The first record that was purged, and when: it is a consequence, and its cause may be reported behind it
    purged: Mutex<Option<(Error, Instant)>>,
    /// No broker has taken a batch since the last complaint
    is_away: AtomicBool,
    /// Told when a batch is delivered whole or a record is not
    pub(super) settled: Notify,
    /// Told when a record is not delivered
    pub(super) failed: Notify,
}

/// The finished prefix of the ledger.
pub(super) struct Settled {
    /// Number of its last batch
    pub(super) number: BatchNumber,
    /// Its changes of the state, in order
    pub(super) state: Vec<StateChange>,
}

impl Deliveries {
    pub(super) fn new(connector: Arc<str>, leaves_out: Option<LeavesOut>) -> Self {
        Self {
            connector,
            leaves_out,
            ledger: Mutex::default(),
            failure: Mutex::default(),
            purged: Mutex::default(),
            is_away: AtomicBool::new(false),
            settled: Notify::new(),
            failed: Notify::new(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, VecDeque<Arc<InFlight>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a batch of `records` records.
    pub(super) fn enter(&self, number: BatchNumber, records: usize, state: Vec<StateChange>) -> Arc<InFlight> {
        let batch = Arc::new(InFlight { number, undelivered: AtomicUsize::new(records), state: Mutex::new(state) });
        self.ledger().push_back(Arc::clone(&batch));
        if records == 0 {
            self.settled.notify_one();
        }
        batch
    }

    /// Takes the finished prefix out of the ledger.
    pub(super) fn take_settled(&self) -> Option<Settled> {
        let mut ledger = self.ledger();
        let mut settled: Option<Settled> = None;
        // I2: batches leave only from the front.
        while ledger.front().is_some_and(|batch| batch.undelivered.load(Ordering::Acquire) == 0) {
            let batch = ledger.pop_front().expect("the front was just looked at");
            let prefix = settled.get_or_insert(Settled { number: 0, state: Vec::new() });
            prefix.number = batch.number;
            prefix.state.append(&mut batch.state.lock().unwrap_or_else(PoisonError::into_inner));
        }
        settled
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.ledger().is_empty()
    }

    /// The error of the first record that was not delivered; taken once. That of a purged one where no other comes.
    pub(super) fn take_failure(&self) -> Option<Error> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.or_else(|| self.purged().take_if(|(_, since)| since.elapsed() >= CAUSE).map(|(error, _)| error))
    }

    fn purged(&self) -> MutexGuard<'_, Option<(Error, Instant)>> {
        self.purged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a batch may be delivered whole, or a record not. Cancel-safe.
    pub(super) async fn news(&self) {
        let is_purged = self.purged().is_some();
        tokio::select! {
            () = self.settled.notified() => {}
            () = self.failed.notified() => {}
            () = tokio::time::sleep(CAUSE), if is_purged => {}
        }
    }

    /// A record of `batch` is not written: it was kept or dropped elsewhere.
    pub(super) fn leave_out(&self, batch: &InFlight) {
        if batch.undelivered.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_one();
        }
    }

    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.settled.notify_one();
        self.failed.notify_one();
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        unsecured(config)
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // This producer delivers nothing any more. The reports of what is in flight follow, the first of them with the error of
            // the record that did it, which says what mends it; this event says only that it has happened.
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::GaplessGuarantee) if !self.ledger().is_empty() => {
                tracing::debug!(connector = &*self.connector, "the producer has ended: {reason}");
            }
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::GaplessGuarantee) => {
                self.fail(failed("write to Kafka", &error).because(reason.to_owned()));
            }
            _ if let Some(error) = refused("write to Kafka", &error, reason) => self.fail(error),
            // The producer goes on trying; the source waits when the queue is full. Said once until something is delivered again.
            _ if !self.is_away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(connector = &*self.connector, "Kafka cannot be written to at the moment: {reason}");
            }
            _ => tracing::debug!(connector = &*self.connector, "Kafka cannot be written to at the moment: {reason}"),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<InFlight>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<InFlight>) {
        match result {
            Ok(_) => {
                if batch.undelivered.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.is_away.store(false, Ordering::Relaxed);
                    self.settled.notify_one();
                }
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                let error = failed(format!("write to the topic {}", message.topic()), error);
                let bytes = message.key_len() + message.payload_len();
                match &self.leaves_out {
                    Some(LeavesOut { refused, batch: alone }) if code == Some(RDKafkaErrorCode::MessageSizeTooLarge) && bytes >= *alone => {
                        let record = raw(Arc::from(message.topic()), message);
                        // A writer that is closed decides nothing any more.
                        drop(refused.blocking_send(RefusedRecord { record, error: error.scoped(Scope::Record), batch }));
                    }
                    Some(_) | None if matches!(code, Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)) => {
                        self.purged().get_or_insert((error, Instant::now()));
                        self.settled.notify_one();
                        self.failed.notify_one();
                    }
                    Some(_) | None => self.fail(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::ErrorKind;

    use super::*;

    #[test]
    fn the_queue_follows_the_memory_budget_and_a_user_wins() {
        let mut config = ClientConfig::new();
        config.set("linger.ms", "20");
        configure(&mut config, 8 << 20, false);
        assert_eq!(config.get("queue.buffering.max.kbytes"), Some("8192"));
        assert_eq!(config.get("queue.buffering.max.messages"), Some("32768"));
        assert_eq!(config.get("linger.ms"), Some("20"));
    }

    #[test]
    fn a_purge_is_told_only_where_no_cause_comes() {
        let deliveries = Deliveries::new("shop".into(), None);
        let error = |kind| Error::new(kind, "write to the topic t");
        *deliveries.purged() = Some((error(ErrorKind::Restarting), Instant::now()));
        assert!(deliveries.take_failure().is_none());
        deliveries.fail(error(ErrorKind::Rejected));
        assert_eq!(deliveries.take_failure().unwrap().kind(), ErrorKind::Rejected);
        *deliveries.purged() = Instant::now().checked_sub(CAUSE).map(|since| (error(ErrorKind::Restarting), since));
        assert_eq!(deliveries.take_failure().unwrap().kind(), ErrorKind::Restarting);
    }

    #[test]
    fn i2_only_a_delivered_prefix_is_given_out() {
        let deliveries = Deliveries::new("shop".into(), None);
        let change = |text: &str| StateChange {
            partition: serde_json::Map::new(),
            offset: Some([("at".to_owned(), text.into())].into_iter().collect()),
        };
        let first = deliveries.enter(1, 2, vec![change("1")]);
        let second = deliveries.enter(2, 1, vec![change("2")]);
        let idle = deliveries.enter(3, 0, vec![change("3")]);
        second.undelivered.fetch_sub(1, Ordering::AcqRel);
        assert!(deliveries.take_settled().is_none());
        first.undelivered.fetch_sub(1, Ordering::AcqRel);
        assert!(deliveries.take_settled().is_none(), "a half is not the whole");
        first.undelivered.fetch_sub(1, Ordering::AcqRel);
        let settled = deliveries.take_settled().unwrap();
        assert_eq!((settled.number, settled.state), (3, vec![change("1"), change("2"), change("3")]));
        assert!(deliveries.take_settled().is_none());
        drop(idle);
    }
}
