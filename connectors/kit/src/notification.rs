//! Notifications as Debezium 3.6 gives them: how far a snapshot is, on a topic of their own or in the log.
//!
//! ```text
//! topic  notification.sink.topic.name
//! key    io.debezium.connector.common.NotificationKey  id
//! value  io.debezium.connector.common.Notification     id, type, aggregate_type, additional_data, timestamp
//! ```
//!
//! Each has an id of its own, a UUID, but those about a signal have that signal's. They say what happened and are no state: after a crash some may be repeated.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tailwater_api::config::{ConfigReader, split_list};
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::{Field, Kind, Schema, Value};
use tracing::info;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// The rows that were there at the start
    InitialSnapshot,
    /// A snapshot beside the stream
    IncrementalSnapshot,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It began.
    Started,
    /// A table or a chunk is being read.
    InProgress,
    /// A table is read to its end.
    TableScanCompleted,
    /// All is read.
    Completed,
    /// It was given up.
    Aborted,
    /// There was nothing to do.
    Skipped,
    /// It rests.
    Paused,
    /// It goes on.
    Resumed,
}

/// `notification.enabled.channels` and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotificationOptions {
    /// Topic of the notifications, with the channel `sink`
    pub topic: Option<String>,
    /// Whether the log tells them, with the channel `log`
    pub log: bool,
}

/// Validator of `notification.enabled.channels`.
///
/// # Errors
/// The sentence.
pub fn validate_channels(value: &str) -> Result<(), String> {
    match split_list(value).iter().find(|channel| !matches!(channel.as_str(), "sink" | "log" | "jmx")) {
        Some(other) => Err(format!("must be a list of sink, log and jmx, not {other:?}")),
        None => Ok(()),
    }
}

impl NotificationOptions {
    /// Reads the options; the channel `sink` without a topic is a fault.
    pub fn read(reader: &mut ConfigReader<'_>) -> Self {
        let channels = reader.list("notification.enabled.channels");
        let has = |name: &str| channels.iter().any(|channel| channel == name);
        if has("jmx") {
            reader.note("notification.enabled.channels", "jmx has no effect: there is no JVM here");
        }
        let topic = reader.optional_text("notification.sink.topic.name").filter(|_| has("sink"));
        if has("sink") && topic.is_none() {
            reader.fault("notification.sink.topic.name", "is missing, but notification.enabled.channels names sink");
        }
        Self { topic, log: has("log") }
    }
}

/// Gives notifications.
#[derive(Clone, Debug)]
pub struct Notifications {
    options: NotificationOptions,
    connector: String,
    key: Arc<Schema>,
    value: Arc<Schema>,
}

impl Notifications {
    /// Notifications of the source with this topic prefix.
    #[must_use]
    pub fn new(options: &NotificationOptions, topic_prefix: &str) -> Self {
        let text = || Schema::of(Kind::String).build();
        let key = Schema::structure(vec![Field::new("id", text())]).name("io.debezium.connector.common.NotificationKey").version(1).build();
        let value = Schema::structure(vec![
            Field::new("id", text()),
            Field::new("type", text()),
            Field::new("aggregate_type", text()),
            Field::new("additional_data", Schema::of(Kind::Map(text(), text())).optional().build()),
            Field::new("timestamp", Schema::of(Kind::Int64).build()),
        ])
        .name("io.debezium.connector.common.Notification")
        .version(1)
        .build();
        Self { options: options.clone(), connector: topic_prefix.to_owned(), key, value }
    }

    /// Tells the log where that is asked for, and makes the record for the topic, if there is one. The connector's name
    /// stands behind the first entry of `data`, but before `data_collections`.
    #[must_use]
    pub fn give(&self, aggregate: Aggregate, happening: Happening, data: &[(&str, &str)]) -> Option<Record> {
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid().to_string();
        self.give_about(&id, aggregate, happening, data)
    }

    /// As [`Notifications::give`], about what the signal `id` asked for.
    #[must_use]
    pub fn give_about(&self, id: &str, aggregate: Aggregate, happening: Happening, data: &[(&str, &str)]) -> Option<Record> {
        let aggregate = match aggregate {
            Aggregate::InitialSnapshot => "Initial Snapshot",
            Aggregate::IncrementalSnapshot => "Incremental Snapshot",
        };
        let happening = match happening {
            Happening::Started => "STARTED",
            Happening::InProgress => "IN_PROGRESS",
            Happening::TableScanCompleted => "TABLE_SCAN_COMPLETED",
            Happening::Completed => "COMPLETED",
            Happening::Aborted => "ABORTED",
            Happening::Skipped => "SKIPPED",
            Happening::Paused => "PAUSED",
            Happening::Resumed => "RESUMED",
        };
        if self.options.log {
            info!(id, aggregate, happening, ?data, "notification");
        }
        let topic = self.options.topic.as_deref()?;
        // As Debezium's map orders them.
        let before = data.iter().take(1).filter(|(name, _)| *name != "data_collections").count();
        let (first, rest) = data.split_at(before);
        let entries = first.iter().copied().chain([("connector_name", self.connector.as_str())]).chain(rest.iter().copied());
        let entries = entries.map(|(name, text)| (name.into(), text.into())).collect();
        let milliseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let id: Value = id.into();
        let value = Value::Struct(Box::new([
            id.clone(),
            Value::text(happening),
            Value::text(aggregate),
            Value::Map(entries),
            Value::Int64(i64::try_from(milliseconds).unwrap_or(i64::MAX)),
        ]));
        let key = SchemaAndValue::new(self.key.clone(), Value::Struct(Box::new([id])));
        Some(Record::new(topic.into(), key, SchemaAndValue::new(self.value.clone(), value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_has_an_id_of_its_own_and_names_the_connector() {
        let options = NotificationOptions { topic: Some("told".into()), log: true };
        let notifications = Notifications::new(&options, "shop");
        let give = || notifications.give(Aggregate::InitialSnapshot, Happening::InProgress, &[("a", "1"), ("b", "2")]).unwrap();
        let [one, two] = [give(), give()];
        assert_ne!(one.key, two.key);
        let fields = one.value.value.as_struct().unwrap();
        assert_eq!(fields[..1], *one.key.value.as_struct().unwrap());
        let Value::Map(entries) = &fields[3] else { panic!("{fields:?}") };
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_text().unwrap()).collect();
        assert_eq!(names, ["a", "connector_name", "b"]);
        let started =
            notifications.give_about("s1", Aggregate::IncrementalSnapshot, Happening::Started, &[("data_collections", "t")]).unwrap();
        let fields = started.value.value.as_struct().unwrap();
        let Value::Map(entries) = &fields[3] else { panic!("{fields:?}") };
        assert_eq!((fields[0].as_text(), entries[0].0.as_text()), (Some("s1"), Some("connector_name")));
    }

    #[test]
    fn without_a_topic_there_is_no_record() {
        let notifications = Notifications::new(&NotificationOptions { topic: None, log: true }, "shop");
        assert_eq!(notifications.give(Aggregate::IncrementalSnapshot, Happening::Paused, &[]), None);
    }

    #[test]
    fn channels_are_known_words() {
        assert!(validate_channels("sink, log,jmx").is_ok());
        assert!(validate_channels("sink,mail").is_err());
    }
}
