//! What connectors and tasks are doing, in the status topic, and which topics they use.
//!
//! | key | value |
//! |---|---|
//! | `status-connector-NAME`, `status-task-NAME-N` | `{"state","trace","worker_id","generation","version"}` in this order |
//! | `status-topic-TOPIC:connector-NAME` | `{"topic":{"name","connector","task","discoverTimestamp"}}`, milliseconds |
//!
//! A connector or task that is gone has no value. `generation` counts who came after whom: a worker of ours takes the number
//! after the highest that it finds, so that what it says is younger than what a Connect cluster left.

use serde_json::{Value, json};
use tailwater_api::Result;

use super::table::{Entries, Table, unreadable};
use crate::runtime::worker::{RunState, RunStatus};

const CONNECTOR: &str = "status-connector-";
const TASK: &str = "status-task-";
const TOPIC: &str = "status-topic-";

/// A change of the status topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusChange {
    /// What a connector or one of its tasks is doing
    Status(String, RunStatus),
    /// A connector, or with a number one of its tasks, is gone
    Gone(String, Option<u32>),
    /// A connector uses a topic, seen at this time (milliseconds since 1970)
    Used(TopicUse, i64),
    /// It is forgotten that a connector used a topic
    Forgotten(TopicUse),
}

/// That a connector uses a topic. Which of its tasks does is not kept apart; the record says the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicUse {
    /// Name of the connector
    pub connector: String,
    /// Name of the topic
    pub topic: String,
}

/// The statuses that a worker writes. Cloning shares them.
#[derive(Clone)]
pub struct KafkaStatuses {
    table: Table,
    worker_id: String,
    generation: u64,
}

impl KafkaStatuses {
    pub(super) fn new(table: Table, worker_id: &str) -> Result<Self> {
        let generation = table.with_entries(|entries| next_generation(table.topic(), entries))?;
        Ok(Self { table, worker_id: worker_id.to_owned(), generation })
    }

    /// Writes changes, in order; all are durable when it returns. If it fails, a beginning of them is.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn put(&self, changes: &[StatusChange]) -> Result<()> {
        self.table.put(changes.iter().map(|change| record(change, &self.worker_id, self.generation)).collect()).await
    }

    /// Connectors and tasks that stood in the topic when it was opened.
    #[must_use]
    pub fn places(&self) -> Vec<(String, Option<u32>)> {
        self.table.with_entries(|entries| entries.keys().filter_map(|key| place(key)).collect())
    }

    /// Uses of topics that stood in the topic when it was opened.
    #[must_use]
    pub fn uses(&self) -> Vec<TopicUse> {
        self.table.with_entries(|entries| entries.keys().filter_map(|key| topic_use(key)).collect())
    }
}

/// The record that makes a change known.
pub(super) fn record(change: &StatusChange, worker_id: &str, generation: u64) -> (String, Option<String>) {
    match change {
        StatusChange::Status(connector, status) => {
            let value = json!({
                "state": status.state.name(),
                "trace": status.trace,
                "worker_id": worker_id,
                "generation": generation,
                // What nobody runs has no version.
                "version": (status.state != RunState::Unassigned).then_some(env!("CARGO_PKG_VERSION")),
            });
            (key(connector, status.task), Some(value.to_string()))
        }
        StatusChange::Gone(connector, task) => (key(connector, *task), None),
        StatusChange::Used(used, timestamp) => {
            let TopicUse { connector, topic } = used;
            let value = json!({"topic": {"name": topic, "connector": connector, "task": 0, "discoverTimestamp": timestamp}});
            (topic_key(used), Some(value.to_string()))
        }
        StatusChange::Forgotten(used) => (topic_key(used), None),
    }
}

fn key(connector: &str, task: Option<u32>) -> String {
    match task {
        None => format!("{CONNECTOR}{connector}"),
        Some(task) => format!("{TASK}{connector}-{task}"),
    }
}

fn topic_key(TopicUse { connector, topic }: &TopicUse) -> String {
    format!("{TOPIC}{topic}:connector-{connector}")
}

/// The connector, or task, that a key speaks of; `None` for keys of topics.
pub(super) fn place(key: &str) -> Option<(String, Option<u32>)> {
    if let Some(connector) = key.strip_prefix(CONNECTOR) {
        return Some((connector.to_owned(), None));
    }
    let (connector, task) = key.strip_prefix(TASK)?.rsplit_once('-')?;
    Some((connector.to_owned(), Some(task.parse().ok()?)))
}

/// The use that a key speaks of; `None` for keys of connectors and tasks.
pub(super) fn topic_use(key: &str) -> Option<TopicUse> {
    // A topic's name holds no colon.
    let (topic, connector) = key.strip_prefix(TOPIC)?.split_once(":connector-")?;
    Some(TopicUse { connector: connector.to_owned(), topic: topic.to_owned() })
}

pub(super) fn next_generation(topic: &str, entries: &Entries) -> Result<u64> {
    let mut highest = 0;
    for (key, entry) in entries.iter().filter(|(key, _)| !key.starts_with(TOPIC)) {
        let value: Value = serde_json::from_str(&entry.value).map_err(|error| unreadable(topic, key, error))?;
        highest = highest.max(value.get("generation").and_then(Value::as_u64).unwrap_or(0));
    }
    Ok(highest + 1)
}
