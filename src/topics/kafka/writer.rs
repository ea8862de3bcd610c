//! The writer of a source task: records become bytes here and go to the producer; what is delivered becomes durable.
//!
//! ```text
//! append ──► converters ──► producer's queue ──► brokers ──► delivery reports ──► ledger
//!                                                                                   │ finished prefix
//!                                       durable ◄── offsets topic ◄─────────────────┘
//! ```
//! Records first, then the offset, then `durable` (I1): a crash in between repeats records, and loses none. Offsets are not written
//! once a batch but with a pause after each: a source of many small transactions would keep the brokers busier with them than with
//! its records.
//!
//! That is at least once. Where the worker wants exactly once, records and offset are in one transaction instead (`transactions`).
//!
//! Pending records of a snapshot are written as they come, so an interrupted table repeats them, as with Debezium.
//!
//! A full queue makes the append wait; the source goes on answering its server meanwhile (I4), since nothing that it holds is held here.
//! While brokers are away the producer keeps what it has and tries on for `delivery.timeout.ms`; then the run fails, and the next one
//! writes again from what is durable.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use tailwater_api::record::{Headers, Record};
use tailwater_api::source::{BatchNumber, SourceBatch};
use tailwater_api::state::SourceState;
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::creation::Topics;
use super::errors::failed;
use super::offset_store::OffsetStore;
use super::producer::{Deliveries, InFlight, Producer, RefusedRecord};
use super::transactions::{self, Held, Transactions};
use super::unchanged::{self, UnknownFields};
use super::{KafkaLog, drop_off_the_async_threads};
use crate::converters::{Converters, KeyAndValue, RecordPart};
use crate::state::kafka::OffsetsOf;
use crate::topics::{LogWriter, Refusals};

/// How long a full queue is left alone before it is tried again: it drains a good part meanwhile, never all of it.
const FULL: Duration = Duration::from_millis(2);

/// How long the report of the record that made a producer unusable may take behind the refusal of a later one.
pub(super) const REPORT: Duration = Duration::from_secs(10);

/// How long an offset is left to stand before the next one is written.
const OFFSETS: Duration = Duration::from_millis(100);

pub(super) type Durable = Result<BatchNumber, Arc<Error>>;

/// See [`LogWriter`].
pub(super) struct KafkaWriter {
    pub(super) topics: Topics,
    /// As of the start
    pub(super) state: SourceState,
    pub(super) sender: Sender,
    /// Where records and offset are in one transaction
    pub(super) transactions: Option<Arc<Transactions>>,
    pub(super) durable: watch::Receiver<Durable>,
    /// Number of the last batch taken over
    pub(super) accepted: BatchNumber,
    /// Topics that are there
    pub(super) known: HashSet<Arc<str>>,
    /// A batch that was taken over and is not handed to the producer whole
    pub(super) queued: Option<QueuedBatch>,
    /// Decides about records that cannot be written
    pub(super) refusals: Option<Arc<dyn Refusals>>,
    /// Turns delivered into durable; ends with the writer
    pub(super) keeper: JoinHandle<()>,
}

/// Makes bytes of records and hands them to the producer.
pub(super) struct Sender {
    pub(super) producer: HeldProducer,
    pub(super) converters: Converters,
    pub(super) bytes: KeyAndValue,
    pub(super) headers: Option<WrittenHeaders>,
}

/// The headers of the last record as librdkafka has them: those of the next one are mostly the same.
pub(super) struct WrittenHeaders {
    topic: Arc<str>,
    headers: Headers,
    written: OwnedHeaders,
}

/// A producer that is dropped off the async threads.
#[derive(Clone)]
pub(super) struct HeldProducer(Option<Arc<Producer>>);

impl HeldProducer {
    pub(super) fn new(producer: Arc<Producer>) -> Self {
        Self(Some(producer))
    }
}

impl Deref for HeldProducer {
    type Target = Arc<Producer>;

    fn deref(&self) -> &Arc<Producer> {
        self.0.as_ref().expect("it is taken when this is dropped")
    }
}

impl Drop for HeldProducer {
    fn drop(&mut self) {
        drop_off_the_async_threads(self.0.take());
    }
}

pub(super) struct QueuedBatch {
    in_flight: Arc<InFlight>,
    records: std::vec::IntoIter<Record>,
    /// Bytes of it that were handed over
    bytes: usize,
    /// Keeps its transaction open until it is handed over whole
    held: Option<Held>,
}

/// Why a record was not handed over.
enum Unsent {
    /// The part of it that does not convert, or the record as a whole
    Record(Option<RecordPart>, Error),
    /// The producer takes no records any more, because of another one or of another producer
    Unusable(Error),
}

impl Sender {
    /// Hands a record to the producer; `false` if its queue is full.
    fn send(&mut self, record: &Record, in_flight: &Arc<InFlight>) -> Result<bool, Unsent> {
        self.converters.write(record, &mut self.bytes).map_err(|(part, error)| Unsent::Record(Some(part), error))?;
        let headers = self.headers(record).map_err(|error| Unsent::Record(Some(RecordPart::Header), error))?;
        let sent = self.producer.send(BaseRecord {
            topic: &record.topic,
            partition: record.partition.and_then(|partition| i32::try_from(partition).ok()),
            payload: self.bytes.value(),
            key: self.bytes.key(),
            timestamp: record.timestamp,
            headers,
            delivery_opaque: Arc::clone(in_flight),
        });
        match sent {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => {
                let code = error.rdkafka_error_code();
                let error = failed(format!("write to the topic {}", record.topic), &error);
                Err(match code {
                    Some(RDKafkaErrorCode::MessageSizeTooLarge) => Unsent::Record(None, error.scoped(Scope::Record)),
                    Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::State) => Unsent::Unusable(error),
                    Some(_) | None => Unsent::Record(None, error),
                })
            }
        }
    }

    fn headers(&mut self, record: &Record) -> Result<Option<OwnedHeaders>> {
        let own = if record.headers.as_slice().is_empty() { None } else { Some(self.own_headers(record)?) };
        Ok(match UnknownFields::of(record.value.schema.as_deref(), &record.value.value) {
            Some(unknown) => Some(own.unwrap_or_default().insert(Header { key: unchanged::HEADER, value: Some(&unknown.to_bytes()) })),
            None => own,
        })
    }

    /// The headers that the record has itself.
    fn own_headers(&mut self, record: &Record) -> Result<OwnedHeaders> {
        let Record { topic, headers, .. } = record;
        if let Some(last) = self.headers.as_ref().filter(|last| last.headers.shares_with(headers) && last.topic == *topic) {
            return Ok(last.written.clone());
        }
        let mut written = OwnedHeaders::new_with_capacity(headers.as_slice().len());
        for header in headers.iter() {
            let value = self.converters.header(topic, &header.value)?;
            written = written.insert(Header { key: &header.name, value });
        }
        self.headers = Some(WrittenHeaders { topic: Arc::clone(topic), headers: headers.clone(), written: written.clone() });
        Ok(written)
    }
}

impl KafkaWriter {
    fn failure(&self) -> Option<Error> {
        self.durable.borrow().as_ref().err().map(|error| error.again())
    }

    /// Makes sure that the topics of `records` are there.
    async fn ensure_topics(&mut self, records: &[Record]) -> Result<()> {
        let mut last: Option<&Arc<str>> = None;
        for Record { topic, .. } in records {
            if last.is_some_and(|last| Arc::ptr_eq(last, topic)) {
                continue;
            }
            if !self.known.contains(topic) {
                self.topics.ensure(&self.sender.producer, topic).await?;
                self.known.insert(Arc::clone(topic));
            }
            self.topics.used(topic);
            last = Some(topic);
        }
        Ok(())
    }

    /// Hands over what was taken over. It waits in the writer, not in a future that may be dropped.
    async fn send_queued(&mut self) -> Result<()> {
        let Some(queued) = &mut self.queued else { return Ok(()) };
        while let Some(record) = queued.records.as_slice().first() {
            match self.sender.send(record, &queued.in_flight) {
                Ok(true) => {
                    queued.bytes += self.sender.bytes.bytes();
                    queued.records.next();
                    continue;
                }
                Ok(false) => {}
                Err(Unsent::Record(part, error)) if *error.scope() == Scope::Record => {
                    let Some(refusals) = &self.refusals else { return Err(error) };
                    // I2: the batch is finished without the record only when this is kept or dropped.
                    refusals.refuse(record, part, error).await?;
                    self.sender.producer.context().leave_out(&queued.in_flight);
                    queued.records.next();
                    continue;
                }
                Err(Unsent::Record(_, error)) => return Err(error),
                Err(Unsent::Unusable(error)) => return Err(self.cause(error).await),
            }
            tokio::time::sleep(FULL).await;
            if let Err(error) = &*self.durable.borrow() {
                return Err(error.again());
            }
        }
        let handed_over = self.queued.take();
        if let (Some(transactions), Some(QueuedBatch { bytes, held: Some(held), .. })) = (&self.transactions, handed_over) {
            transactions.grow(held, bytes);
        }
        Ok(())
    }

    /// What made the producer unusable, which says what to do; the refusal says only that it is so.
    async fn cause(&mut self, refusal: Error) -> Error {
        if let Some(transactions) = &self.transactions {
            // It is not the keeper who learns it: a batch that is half sent holds the transaction open.
            let held = self.queued.as_ref().and_then(|queued| queued.held.as_ref());
            return transactions.cause(&self.sender.producer, held, refusal).await;
        }
        match tokio::time::timeout(REPORT, self.durable.wait_for(Result::is_err)).await {
            Ok(Ok(ended)) => ended.as_ref().err().map_or(refusal, |error| error.again()),
            Ok(Err(_)) | Err(_) => refusal,
        }
    }

    async fn accept(&mut self, number: BatchNumber, batch: SourceBatch) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        // Of an append that was dropped while it waited.
        self.send_queued().await?;
        self.ensure_topics(&batch.records).await?;
        let held = match &self.transactions {
            Some(transactions) => Some(transactions.hold(&self.sender.producer).await?),
            None => None,
        };
        // What was being committed meanwhile may have failed.
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let in_flight = self.sender.producer.context().enter(number, batch.records.len(), batch.state);
        self.accepted = number;
        self.queued = Some(QueuedBatch { in_flight, records: batch.records.into_iter(), bytes: 0, held });
        self.send_queued().await
    }

    async fn finish(mut self) -> Result<()> {
        if self.failure().is_none() {
            self.send_queued().await?;
        }
        if let Some(transactions) = &self.transactions {
            transactions.close();
        }
        let accepted = self.accepted;
        let ended = self.durable.wait_for(|durable| durable.as_ref().map_or(true, |durable| *durable >= accepted)).await;
        match ended.as_deref() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.again()),
            Err(_) => Err(Error::new(ErrorKind::Restarting, "write to Kafka").because("the topic log was closed")),
        }
    }
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        // What is delivered after this is read from the source again.
        self.keeper.abort();
        if self.transactions.is_some() {
            transactions::abort(&self.sender.producer);
        }
    }
}

impl LogWriter for KafkaWriter {
    fn state(&self) -> &SourceState {
        &self.state
    }

    fn append(&mut self, number: BatchNumber, batch: SourceBatch) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.accept(number, batch))
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin((*self).finish())
    }
}

/// Records that their topics do not take, and who decides about them.
pub(super) struct Refused {
    pub(super) records: mpsc::Receiver<RefusedRecord>,
    pub(super) refusals: Arc<dyn Refusals>,
}

/// The next refused record.
async fn next(refused: &mut Option<Refused>) -> RefusedRecord {
    match refused {
        // The other end is in what the keeper holds, too.
        Some(Refused { records, .. }) => match records.recv().await {
            Some(record) => record,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Starts turning delivered into durable.
pub(super) fn keep_offsets(
    deliveries: Arc<Deliveries>,
    of: OffsetsOf,
    offsets: Arc<dyn OffsetStore>,
    mut refused: Option<Refused>,
    log: &KafkaLog,
) -> (JoinHandle<()>, watch::Receiver<Durable>) {
    let (durable, watched) = watch::channel(Ok(0));
    let changed = log.changed.clone();
    let keeper = tokio::spawn(async move {
        loop {
            let record = tokio::select! {
                () = deliveries.news() => None,
                record = next(&mut refused) => Some(record),
            };
            if let (Some(RefusedRecord { record, error, batch }), Some(Refused { refusals, .. })) = (record, &refused) {
                // I2: the batch is delivered only when the record is kept or dropped.
                if let Err(error) = refusals.refuse(&record, None, error).await {
                    let _ = durable.send_replace(Err(Arc::new(error)));
                    return;
                }
                deliveries.leave_out(&batch);
            }
            while let Some(settled) = deliveries.take_settled() {
                // I1: the records are durable by now, the offset becomes so here, and only then is it said.
                let has_offset = !settled.state.is_empty();
                if has_offset && let Err(error) = offsets.put(&of, settled.state).await {
                    let _ = durable.send_replace(Err(Arc::new(error)));
                    return;
                }
                let _ = durable.send_replace(Ok(settled.number));
                changed.send_modify(|count| *count += 1);
                if has_offset {
                    tokio::time::sleep(OFFSETS).await;
                }
            }
            if let Some(error) = deliveries.take_failure() {
                let _ = durable.send_replace(Err(Arc::new(error)));
                return;
            }
        }
    });
    (keeper, watched)
}
