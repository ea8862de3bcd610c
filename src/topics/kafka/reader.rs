//! The consumer of a sink task, a member of the group `connect-NAME`.
//!
//! librdkafka says that partitions come or go inside of the call that polls it. That call runs off the async threads, and at such a
//! moment it waits: the task is told ([`Polled::Assigned`], [`Polled::Revoked`]) and answers with its next poll. So a partition is
//! taken away from a task only when the task has flushed or abandoned it, and no record of a new one arrives before its target has
//! said where to begin. What was read of a partition that goes is dropped; its next owner reads it from the committed position.
//!
//! Where no position is committed, reading begins as `auto.offset.reset` says. A committed position that Kafka no longer has is
//! `history-gone`: librdkafka itself is told never to begin elsewhere, for that would be a skip.
//!
//! Which topics it reads is looked up beside it (`subscription`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tailwater_api::record::{Headers, Record, TopicPartition};
use tailwater_api::sink::{Assignment, LogId, LogPosition, RecordBatch, SinkRecord};
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::token::unsecured;
use super::contents::{raw, watermarks};
use super::errors::{failed, kind, refused};
use super::groups::{offset_of, to_list};
use super::subscription::keep_subscribed;
use super::unchanged::{self, UnknownFields};
use super::{KafkaLog, PATIENCE, blocking, drop_off_the_async_threads, log};
use crate::converters::{Converters, RecordPart};
use crate::topics::{LogReader, Polled, Subscription, UnreadableRecord};

/// How long a poll waits for a first record; a task that is dropped is waited for that long.
const WAIT: Duration = Duration::from_millis(100);
/// Smallest and largest queue of fetched records: what holds one, and what one answer of a broker may be.
const SMALLEST_QUEUE: usize = 1 << 20;
const LARGEST_QUEUE: usize = 50 << 20;

pub(super) type Consumer = BaseConsumer<Membership>;

/// A partition, and the offset at which reading begins where the target does not know better; `None` where none can be said.
pub(super) type Beginning = (TopicPartition, Option<u64>);

/// What happens to the group's member, and how the task answers.
enum Event {
    Assigned(Vec<Beginning>, std::sync::mpsc::SyncSender<Vec<LogPosition>>),
    Revoked(Vec<TopicPartition>, std::sync::mpsc::SyncSender<()>),
}

/// The member of the group, as librdkafka's callbacks see it.
pub(super) struct Membership {
    events: mpsc::Sender<Event>,
    /// Where reading begins without a committed position
    reset: Offset,
    /// Partitions that went while records were being collected
    revoked: Mutex<Vec<TopicPartition>>,
    /// Partitions came or went while records were being collected, or the member cannot go on
    has_news: AtomicBool,
    /// Why it cannot go on: for the next poll
    failure: Mutex<Option<Error>>,
}

impl ClientContext for Membership {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        unsecured(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match refused("read topics", &error, reason) {
            Some(error) => self.fail(error),
            None => tracing::debug!("Kafka cannot be read at the moment: {reason}"),
        }
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &Consumer, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let is_assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let done = if is_assign { self.assign(consumer, partitions) } else { self.revoke(consumer, partitions) };
        if let Err(error) = done {
            self.fail(error);
        }
        self.has_news.store(true, Ordering::Release);
    }
}

impl Membership {
    /// Ends the task with `error`.
    pub(super) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.has_news.store(true, Ordering::Release);
    }

    fn assign(&self, consumer: &Consumer, partitions: &TopicPartitionList) -> Result<()> {
        const DOING: &str = "take partitions over";
        let mut begin = consumer.committed_offsets(partitions.clone(), PATIENCE).map_err(|error| failed(DOING, &error))?;
        let mut unknown = TopicPartitionList::new();
        for element in begin.elements().iter().filter(|element| !matches!(element.offset(), Offset::Offset(_))) {
            let added = unknown.add_partition_offset(element.topic(), element.partition(), self.reset);
            added.map_err(|error| failed(DOING, &error))?;
        }
        for element in unknown.elements() {
            let set = begin.set_partition_offset(element.topic(), element.partition(), self.reset);
            set.map_err(|error| failed(DOING, &error))?;
        }
        let mut beginnings = offsets(&begin);
        if unknown.count() > 0 && matches!(self.reset, Offset::Beginning | Offset::End) {
            let found = consumer.offsets_for_times(unknown, PATIENCE).map_err(|error| failed(DOING, &error))?;
            beginnings.retain(|(_, offset)| offset.is_some());
            beginnings.extend(offsets(&found));
        }
        let (answer, sought) = std::sync::mpsc::sync_channel(1);
        if partitions.count() > 0 {
            if self.events.blocking_send(Event::Assigned(beginnings, answer)).is_err() {
                return Ok(());
            }
            // The task is gone: nobody is to read these partitions here.
            let Ok(sought) = sought.recv() else { return Ok(()) };
            for position in sought {
                let offset = Offset::Offset(i64::try_from(position.offset).unwrap_or(i64::MAX));
                let place = &position.topic_partition;
                let number = i32::try_from(place.partition).unwrap_or(i32::MAX);
                begin.set_partition_offset(&place.topic, number, offset).map_err(|error| failed(DOING, &error))?;
            }
        }
        let assigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&begin),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(&begin),
        };
        assigned.map_err(|error| failed(DOING, &error))
    }

    fn revoke(&self, consumer: &Consumer, partitions: &TopicPartitionList) -> Result<()> {
        let gone = list(partitions);
        let (answer, given_up) = std::sync::mpsc::sync_channel(1);
        // Without a task there is nobody to wait for.
        if !gone.is_empty() && self.events.blocking_send(Event::Revoked(gone.clone(), answer)).is_ok() {
            let _ = given_up.recv();
        }
        lock(&self.revoked).extend(gone);
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        };
        unassigned.map_err(|error| failed("give partitions up", &error))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn list(partitions: &TopicPartitionList) -> Vec<TopicPartition> {
    offsets(partitions).into_iter().map(|(place, _)| place).collect()
}

pub(super) fn offsets(partitions: &TopicPartitionList) -> Vec<Beginning> {
    let beginning = |element: &TopicPartitionListElem<'_>| {
        let partition = u32::try_from(element.partition()).unwrap_or(0);
        (TopicPartition { topic: Arc::from(element.topic()), partition }, offset_of(element.offset()))
    };
    partitions.elements().iter().map(beginning).collect()
}

/// Makes records of messages.
struct Decoder {
    converters: Converters,
    /// Names of topics, shared by their records
    topics: HashMap<String, Arc<str>>,
}

impl Decoder {
    fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.topics.get(name) {
            return Arc::clone(topic);
        }
        let topic: Arc<str> = Arc::from(name);
        self.topics.insert(name.to_owned(), Arc::clone(&topic));
        topic
    }

    fn decode(&mut self, topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Result<Record, (RecordPart, Error)> {
        let converters = &mut self.converters;
        let mut read = |part, bytes| converters.read(part, topic, bytes).map_err(|error| (part, error));
        let key = read(RecordPart::Key, message.key())?;
        let mut value = read(RecordPart::Value, message.payload())?;
        let mut headers = Vec::new();
        for header in message.headers().into_iter().flat_map(rdkafka::message::Headers::iter) {
            if header.key == unchanged::HEADER {
                let fields = UnknownFields::parse(header.value.unwrap_or_default()).map_err(|error| {
                    let error = Error::new(ErrorKind::Unreadable, format!("read the header {}", unchanged::HEADER)).because(error);
                    (RecordPart::Header, error.scoped(Scope::Record))
                })?;
                fields.restore(value.schema.as_deref(), &mut value.value);
            } else {
                let value = read(RecordPart::Header, header.value)?;
                headers.push(tailwater_api::record::Header { name: Arc::from(header.key), value });
            }
        }
        Ok(Record {
            topic: Arc::clone(topic),
            partition: u32::try_from(message.partition()).ok(),
            timestamp: message.timestamp().to_millis(),
            key,
            value,
            headers: Headers::new(headers),
        })
    }
}

/// What one call off the async threads has read.
#[derive(Default)]
struct Collected {
    records: Vec<SinkRecord>,
    /// The record behind them
    unreadable: Option<(SinkRecord, RecordPart, Error)>,
}

/// See [`LogReader`].
pub(super) struct KafkaReader {
    log: KafkaLog,
    connector: Arc<str>,
    consumer: Option<Arc<Consumer>>,
    events: Option<mpsc::Receiver<Event>>,
    decoder: Option<Decoder>,
    /// A read that is under way. Kept here, so that a dropped `poll` loses nothing.
    reading: Option<JoinHandle<(Decoder, Result<Collected>)>>,
    /// What was read and is not handed out yet
    unreadable: Option<Box<UnreadableRecord>>,
    /// What the task has to answer with its next poll
    asked: Option<Asked>,
    /// By partition: its log, and the next offset that is handed out
    assigned: BTreeMap<TopicPartition, (LogId, Option<u64>)>,
    ends: Arc<Ends>,
    keeper: JoinHandle<()>,
}

/// Ends of the partitions that are read, as of the last look.
pub(super) type Ends = Mutex<BTreeMap<TopicPartition, u64>>;

enum Asked {
    Begin(Vec<Beginning>, Vec<LogPosition>, std::sync::mpsc::SyncSender<Vec<LogPosition>>),
    GiveUp(std::sync::mpsc::SyncSender<()>),
}

/// Adds what a sink's consumer needs to its settings; says where reading begins without a position.
pub(super) fn configure(config: &mut ClientConfig, queue: usize) -> Offset {
    let reset = match config.get("auto.offset.reset") {
        None | Some("earliest" | "smallest" | "beginning") => Offset::Beginning,
        Some("latest" | "largest" | "end") => Offset::End,
        // Refused by Kafka itself when the partition is taken over, with an error that says so.
        Some(_) => Offset::Invalid,
    };
    // I11: a position that is gone is an error, never another position.
    config.set("auto.offset.reset", "error");
    let queue = queue.clamp(SMALLEST_QUEUE, LARGEST_QUEUE);
    let mut default = |key: &str, value: &str| {
        if config.get(key).is_none() {
            config.set(key, value);
        }
    };
    default("queued.max.messages.kbytes", &(queue / 1024).to_string());
    default("fetch.max.bytes", &queue.to_string());
    // A change moves only the partitions that it must.
    default("partition.assignment.strategy", "cooperative-sticky");
    reset
}

impl KafkaReader {
    /// Joins the group that `config` names. `reset` says where reading begins without a position.
    pub(super) fn open(
        log: KafkaLog,
        connector: Arc<str>,
        (config, reset): (&ClientConfig, Offset),
        converters: Converters,
        subscription: Subscription,
    ) -> Result<Self> {
        use rdkafka::config::FromClientConfigAndContext as _;
        let (events, received) = mpsc::channel(1);
        let membership =
            Membership { events, reset, revoked: Mutex::default(), has_news: AtomicBool::new(false), failure: Mutex::default() };
        let consumer = Consumer::from_config_and_context(config, membership).map_err(|error| failed("make a Kafka consumer", &error))?;
        let consumer = Arc::new(consumer);
        let ends = Arc::new(Ends::default());
        let keeper = tokio::spawn(keep_subscribed(log.clone(), Arc::downgrade(&consumer), subscription, Arc::clone(&ends)));
        Ok(Self {
            log,
            connector,
            consumer: Some(consumer),
            events: Some(received),
            decoder: Some(Decoder { converters, topics: HashMap::new() }),
            reading: None,
            unreadable: None,
            asked: None,
            assigned: BTreeMap::new(),
            ends,
            keeper,
        })
    }

    fn consumer(&self) -> &Arc<Consumer> {
        self.consumer.as_ref().expect("it is taken when the reader is dropped")
    }

    /// Answers what was asked with the poll before.
    fn answer(&mut self) {
        match self.asked.take() {
            Some(Asked::Begin(partitions, sought, answer)) => {
                for (place, known) in partitions {
                    let log = self.log.log_id(&place.topic);
                    let better = sought.iter().rfind(|position| position.topic_partition == place).map(|position| position.offset);
                    self.assigned.insert(place, (log, better.or(known)));
                }
                // A call that no longer waits has lost its partitions again.
                let _ = answer.send(sought);
            }
            Some(Asked::GiveUp(answer)) => drop(answer.send(())),
            None => {}
        }
    }

    fn happened(&mut self, event: Event) -> Polled {
        match event {
            Event::Assigned(partitions, answer) => {
                let assignment = |(place, _): &Beginning| Assignment { topic_partition: place.clone(), log: self.log.log_id(&place.topic) };
                let assignments = partitions.iter().map(assignment).collect();
                self.asked = Some(Asked::Begin(partitions, Vec::new(), answer));
                Polled::Assigned(assignments)
            }
            Event::Revoked(partitions, answer) => {
                for place in &partitions {
                    self.assigned.remove(place);
                    lock(&self.ends).remove(place);
                }
                self.asked = Some(Asked::GiveUp(answer));
                Polled::Revoked(partitions)
            }
        }
    }

    fn batch(&mut self, records: Vec<SinkRecord>) -> RecordBatch {
        let mut next: Vec<LogPosition> = Vec::new();
        for record in &records {
            let offset = record.offset + 1;
            let is_of = |position: &LogPosition| {
                position.topic_partition.partition == record.partition && position.topic_partition.topic == record.topic
            };
            match next.iter_mut().rev().find(|position| is_of(position)) {
                Some(position) => position.offset = offset,
                None => next.push(self.position(record.topic_partition(), offset)),
            }
        }
        for position in &next {
            self.log.uses.count(&self.connector, &position.topic_partition.topic, false);
            if let Some((_, place)) = self.assigned.get_mut(&position.topic_partition) {
                *place = Some(position.offset);
            }
        }
        RecordBatch { records, next }
    }

    fn position(&self, topic_partition: TopicPartition, offset: u64) -> LogPosition {
        let log = self.assigned.get(&topic_partition).map(|(log, _)| Arc::clone(log));
        LogPosition { log: log.unwrap_or_else(|| self.log.log_id(&topic_partition.topic)), topic_partition, offset }
    }

    async fn poll_next(&mut self, bytes: usize) -> Result<Polled> {
        self.answer();
        loop {
            if let Some(unreadable) = self.unreadable.take() {
                return Ok(Polled::Unreadable(unreadable));
            }
            if self.reading.is_none()
                && let Some(mut decoder) = self.decoder.take()
            {
                let consumer = Arc::clone(self.consumer());
                self.reading = Some(tokio::task::spawn_blocking(move || {
                    let collected = collect(&consumer, &mut decoder, bytes);
                    (decoder, collected)
                }));
            }
            let (Some(reading), Some(events)) = (&mut self.reading, &mut self.events) else {
                return Err(Error::new(ErrorKind::Restarting, "read topics").because("an earlier read has failed"));
            };
            let ended = tokio::select! {
                biased;
                Some(event) = events.recv() => return Ok(self.happened(event)),
                ended = reading => ended,
            };
            self.reading = None;
            let (decoder, collected) = ended.map_err(|error| Error::new(ErrorKind::Bug, "read topics").because(error))?;
            self.decoder = Some(decoder);
            let Collected { records, unreadable } = collected?;
            if let Some((record, part, error)) = unreadable {
                let next = self.position(record.topic_partition(), record.offset + 1);
                self.unreadable = Some(Box::new(UnreadableRecord { record, next, part, error }));
            }
            if !records.is_empty() {
                return Ok(Polled::Records(self.batch(records)));
            }
        }
    }

    /// I11: a position is continued only where its log has it.
    async fn go_to(&mut self, position: LogPosition) -> Result<()> {
        let place = position.topic_partition.clone();
        let doing = format!("continue {place} at {}", position.offset);
        let Some(Asked::Begin(partitions, _, _)) = &self.asked else {
            return Err(Error::new(ErrorKind::Missing, doing).because("the partition is not being assigned"));
        };
        if !partitions.iter().any(|(assigned, _)| *assigned == place) {
            return Err(Error::new(ErrorKind::Missing, doing).because("the partition is not being assigned"));
        }
        let gone = |why: String| {
            Error::new(ErrorKind::HistoryGone, doing.clone())
                .because(why)
                .mend("begin again with an empty target, or set its position by PATCH /connectors/NAME/offsets")
        };
        let current = self.log.log_id(&place.topic);
        if position.log != current {
            return Err(gone(format!("the position is of the log {}, the topic's is {current}", position.log)));
        }
        let (consumer, asked) = (Arc::clone(self.consumer()), place.clone());
        let (first, next) = blocking(move || watermarks(&consumer, &asked.topic, asked.partition)).await?;
        if !(first..=next).contains(&position.offset) {
            return Err(gone(format!("the topic holds offsets from {first} up to {next}")));
        }
        if let Some(Asked::Begin(_, sought, _)) = &mut self.asked {
            sought.push(position);
        }
        Ok(())
    }
}

/// Collects about `bytes` of records. Ends early where partitions came or went, and behind a record that no converter reads.
fn collect(consumer: &Consumer, decoder: &mut Decoder, bytes: usize) -> Result<Collected> {
    let context = consumer.context();
    let mut collected = Collected::default();
    let mut held = 0;
    while held < bytes {
        let wait = if collected.records.is_empty() { WAIT } else { Duration::ZERO };
        let polled = consumer.poll(wait);
        if context.has_news.swap(false, Ordering::AcqRel) {
            let revoked = std::mem::take(&mut *lock(&context.revoked));
            collected.records.retain(|record| !revoked.contains(&record.topic_partition()));
            if let Some(error) = lock(&context.failure).take() {
                return Err(error);
            }
        }
        match polled {
            Some(Ok(message)) => {
                let topic = decoder.topic(message.topic());
                let (partition, offset) = place(&message)?;
                match decoder.decode(&topic, &message) {
                    Ok(record) => {
                        held += record.weight();
                        collected.records.push(SinkRecord { topic, partition, offset, record });
                    }
                    Err((part, error)) => {
                        collected.unreadable =
                            Some((SinkRecord { record: raw(Arc::clone(&topic), &message), topic, partition, offset }, part, error));
                        break;
                    }
                }
            }
            Some(Err(error)) if passes(&error) => tracing::debug!("reading goes on after: {error}"),
            Some(Err(error)) => return Err(failed("read topics", &error)),
            None => break,
        }
    }
    Ok(collected)
}

fn place(message: &BorrowedMessage<'_>) -> Result<(u32, u64)> {
    match (u32::try_from(message.partition()), u64::try_from(message.offset())) {
        (Ok(partition), Ok(offset)) => Ok((partition, offset)),
        (_, _) => Err(Error::new(ErrorKind::Bug, "read topics").because("a record has no place")),
    }
}

/// What the consumer mends by itself.
fn passes(error: &KafkaError) -> bool {
    let Some(code) = error.rdkafka_error_code() else { return false };
    match code {
        // That no broker is left, and that the group has given the member up, are for the task's status.
        RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::PollExceeded => false,
        // A handshake that a stopping broker broke off; one that will never succeed was seen by the context.
        RDKafkaErrorCode::SSL => true,
        code => kind(code).is_transient(),
    }
}

impl LogReader for KafkaReader {
    fn poll(&mut self, bytes: usize) -> BoxFuture<'_, Result<Polled>> {
        Box::pin(self.poll_next(bytes))
    }

    fn seek(&mut self, position: LogPosition) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.go_to(position))
    }

    fn commit(&mut self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<()>> {
        let consumer = Arc::clone(self.consumer());
        Box::pin(blocking(move || {
            consumer.commit(&to_list(&positions)?, CommitMode::Sync).map_err(|error| failed("commit positions", &error))
        }))
    }

    fn lag(&self) -> u64 {
        let ends = lock(&self.ends);
        let behind = |(place, (_, next)): (&TopicPartition, &(LogId, Option<u64>))| {
            ends.get(place).zip(next.as_ref()).map_or(0, |(end, next)| end.saturating_sub(*next))
        };
        self.assigned.iter().map(behind).sum()
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.keeper.abort();
        // Whoever waits for an answer in the group's name is told that there is none.
        self.asked = None;
        self.events = None;
        drop_off_the_async_threads(self.consumer.take());
    }
}
