//! What becomes of a record that a transform, a converter or a target refuses.
//!
//! By the user's policy it is kept durably in the dead letter topic, dropped with a counter and a log line (I11), or
//! its error is returned and the task stops. A position passes a refused record only after one of the first two (I2).
//!
//! A dead letter is the record as it stood on its topic, before transforms. A sink reads it again from the topic log,
//! so nothing is copied while records pass; where retention has taken it, the record at hand is kept.

use std::sync::{Arc, LazyLock};

use futures_util::future::BoxFuture;
use tailwater_api::metrics::{Counter, Metrics};
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::schema::{Kind, Schema};
use tailwater_api::sink::{DeadLetters, SinkRecord};
use tailwater_api::value::Value;
use tailwater_api::{Error, Result, Scope};

use crate::converters::RecordPart;
use crate::runtime::recovery::{Decision, Failures, RecoveryPolicy, Tolerance, decide};
use crate::topics::{Refusals, TopicLog};

/// How to go on behind a record that is refused, where whoever refused it knows nothing better.
const SET_APART: &str = "correct the value at its source, or the target's column, and restart the task; \
                         errors.tolerance=all with errors.deadletterqueue.topic.name keeps such records apart and goes on";

/// Step that failed, with the names of Connect's `Stage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// `KEY_CONVERTER`
    KeyConverter,
    /// `VALUE_CONVERTER`
    ValueConverter,
    /// `HEADER_CONVERTER`
    HeaderConverter,
    /// `TRANSFORMATION`
    Transformation,
    /// `KAFKA_PRODUCE`
    KafkaProduce,
    /// `TASK_PUT`
    TaskPut,
}

impl From<RecordPart> for Stage {
    fn from(part: RecordPart) -> Self {
        match part {
            RecordPart::Key => Self::KeyConverter,
            RecordPart::Value => Self::ValueConverter,
            RecordPart::Header => Self::HeaderConverter,
        }
    }
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::KeyConverter => "KEY_CONVERTER",
            Self::ValueConverter => "VALUE_CONVERTER",
            Self::HeaderConverter => "HEADER_CONVERTER",
            Self::Transformation => "TRANSFORMATION",
            Self::KafkaProduce => "KAFKA_PRODUCE",
            Self::TaskPut => "TASK_PUT",
        }
    }
}

/// The errors of records of one task.
pub(super) struct RecordErrors {
    pub(super) connector: Arc<str>,
    pub(super) task: u32,
    /// Class of the connector, for the header of that name
    pub(super) class: &'static str,
    pub(super) policy: RecoveryPolicy,
    pub(super) context_headers: bool,
    pub(super) topics: Arc<dyn TopicLog>,
    kept: Counter,
    dropped: Counter,
}

impl RecordErrors {
    pub(super) fn new(
        connector: Arc<str>,
        task: u32,
        class: &'static str,
        policy: RecoveryPolicy,
        context_headers: bool,
        topics: Arc<dyn TopicLog>,
        metrics: &dyn Metrics,
    ) -> Self {
        let kept = metrics.counter("dead_letters_total", "Records kept in the dead letter topic.", None);
        let dropped = metrics.counter(
            "dropped_records_total",
            "Records dropped because errors are tolerated and no dead letter topic is named.",
            None,
        );
        Self { connector, task, class, policy, context_headers, topics, kept, dropped }
    }

    /// Whether [`RecordErrors::handle`] would keep a record, so that a copy is worth its price.
    pub(super) fn keeps(&self) -> bool {
        matches!(self.policy.tolerance, Tolerance::Keep(_))
    }

    /// Decides about a record at hand, or returns the error. `record` is there if [`RecordErrors::keeps`].
    pub(super) async fn handle(
        &self,
        topic: &str,
        record: Option<Record>,
        place: Option<(u32, u64)>,
        stage: Stage,
        error: Error,
    ) -> Result<()> {
        // I11: whoever reads of the error finds the record.
        let error = match place {
            Some((partition, offset)) => error.at(format_args!("{topic}-{partition}@{offset}")),
            None => error,
        };
        // The tries of a whole task do not matter here: RunAgain and Stop both end this run with the error.
        match decide(&error, Failures::default(), &self.policy) {
            Decision::Stop if *error.scope() == Scope::Record && error.remedy().is_none() => return Err(error.mend(SET_APART)),
            Decision::RunAgain | Decision::Stop => return Err(error),
            Decision::KeepDeadLetter => {
                let (Tolerance::Keep(dead_letters), Some(record)) = (&self.policy.tolerance, record) else { return Err(error) };
                let letter = self.letter(dead_letters, topic, record, place, stage, &error);
                self.topics.append(vec![letter]).await?;
                self.kept.add(1);
            }
            Decision::DropRecord => self.dropped.add(1),
        }
        tracing::warn!(
            connector = &*self.connector,
            task = self.task,
            table = topic,
            position = error.position(),
            error.kind = error.kind().code(),
            error.mend = error.remedy(),
            "a record was {}: {error}",
            if self.keeps() { "kept in the dead letter topic" } else { "dropped" },
        );
        Ok(())
    }

    /// Decides about a record that a sink read, found again by its place.
    pub(super) async fn handle_read(
        &self,
        topic: &Arc<str>,
        partition: u32,
        offset: u64,
        at_hand: Option<&Record>,
        stage: Stage,
        error: Error,
    ) -> Result<()> {
        let original = if self.keeps() {
            let found = self.topics.read(topic, partition, offset, 1).await?;
            let found = found.into_iter().find(|stored| stored.offset == offset).map(|stored| stored.record);
            found.or_else(|| at_hand.cloned())
        } else {
            None
        };
        self.handle(topic, original, Some((partition, offset)), stage, error).await
    }

    fn letter(
        &self,
        dead_letters: &Arc<str>,
        topic: &str,
        mut record: Record,
        place: Option<(u32, u64)>,
        stage: Stage,
        error: &Error,
    ) -> Record {
        if self.context_headers {
            let code = error.kind().code();
            let mut header = |name: &'static str, text: String| {
                record.headers.push(name, SchemaAndValue::new(Arc::clone(&TEXT), Value::from(text)));
            };
            header("__connect.errors.topic", topic.to_owned());
            if let Some((partition, offset)) = place {
                header("__connect.errors.partition", partition.to_string());
                header("__connect.errors.offset", offset.to_string());
            }
            header("__connect.errors.connector.name", self.connector.to_string());
            header("__connect.errors.task.id", self.task.to_string());
            header("__connect.errors.stage", stage.name().to_owned());
            header("__connect.errors.class.name", self.class.to_owned());
            // There is no Java class; the code of the kind is what stays the same.
            header("__connect.errors.exception.class.name", format!("io.tailwater.errors.{code}"));
            header("__connect.errors.exception.message", error.to_string());
            header("__connect.errors.exception.stacktrace", format!("{error:?}"));
        }
        record.topic = Arc::clone(dead_letters);
        record.partition = None;
        record
    }
}

/// Headers leave through the header converter, which writes text as it is.
static TEXT: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::String).build());

impl Refusals for RecordErrors {
    fn tolerates(&self) -> bool {
        self.policy.tolerance != Tolerance::None
    }

    fn refuse<'a>(&'a self, record: &'a Record, part: Option<RecordPart>, error: Error) -> BoxFuture<'a, Result<()>> {
        let copy = self.keeps().then(|| record.clone());
        Box::pin(self.handle(&record.topic, copy, None, part.map_or(Stage::KafkaProduce, Stage::from), error))
    }
}

impl DeadLetters for RecordErrors {
    fn reject<'a>(&'a self, record: &'a SinkRecord, error: Error) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.handle_read(&record.topic, record.partition, record.offset, Some(&record.record), Stage::TaskPut, error))
    }
}
