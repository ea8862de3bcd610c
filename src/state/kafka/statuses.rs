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

/// What a connector or task is doing, as Connect names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody runs it
    Unassigned,
    /// It runs
    Running,
    /// It rests, and keeps its tasks
    Paused,
    /// It has ended with an error
    Failed,
    /// It is started again
    Restarting,
    /// It rests without tasks
    Stopped,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Unassigned => "UNASSIGNED",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Failed => "FAILED",
            Self::Restarting => "RESTARTING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// What is written about a connector or task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is doing
    pub state: State,
    /// Why it failed
    pub trace: Option<String>,
    /// Version of its plug-in, while it has one
    pub version: Option<String>,
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

    /// Says what a connector, or with `task` one of its tasks, is doing. Durable when it returns.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn put(&self, connector: &str, task: Option<u32>, status: &Status) -> Result<()> {
        let text = text(status, &self.worker_id, self.generation);
        self.table.put(vec![(key(connector, task), Some(text))]).await
    }

    /// Forgets a connector, or with `task` one of its tasks.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn remove(&self, connector: &str, task: Option<u32>) -> Result<()> {
        self.table.put(vec![(key(connector, task), None)]).await
    }

    /// Says that a task uses a topic, seen at `timestamp` (milliseconds since 1970).
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn put_topic(&self, connector: &str, task: u32, topic: &str, timestamp: i64) -> Result<()> {
        let text = json!({"topic": {"name": topic, "connector": connector, "task": task, "discoverTimestamp": timestamp}}).to_string();
        self.table.put(vec![(topic_key(connector, topic), Some(text))]).await
    }

    /// Forgets that a connector used a topic.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn remove_topic(&self, connector: &str, topic: &str) -> Result<()> {
        self.table.put(vec![(topic_key(connector, topic), None)]).await
    }

    /// The topics that a connector has used, by name.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn topics(&self, connector: &str) -> Result<Vec<String>> {
        self.table.read_to_end().await?;
        Ok(self.table.with_entries(|entries| topics_of(connector, entries)))
    }
}

pub(super) fn key(connector: &str, task: Option<u32>) -> String {
    match task {
        None => format!("status-connector-{connector}"),
        Some(task) => format!("status-task-{connector}-{task}"),
    }
}

fn topic_key(connector: &str, topic: &str) -> String {
    // A topic's name holds no colon.
    format!("status-topic-{topic}:connector-{connector}")
}

pub(super) fn topics_of(connector: &str, entries: &Entries) -> Vec<String> {
    let topic = |key: &str| key.strip_prefix("status-topic-")?.strip_suffix(&format!(":connector-{connector}")).map(str::to_owned);
    let mut found: Vec<String> = entries.keys().filter_map(|key| topic(key)).collect();
    found.sort_unstable();
    found
}

pub(super) fn text(status: &Status, worker_id: &str, generation: u64) -> String {
    json!({
        "state": status.state.name(),
        "trace": status.trace,
        "worker_id": worker_id,
        "generation": generation,
        "version": status.version,
    })
    .to_string()
}

pub(super) fn next_generation(topic: &str, entries: &Entries) -> Result<u64> {
    let mut highest = 0;
    for (key, entry) in entries.iter().filter(|(key, _)| !key.starts_with("status-topic-")) {
        let value: Value = serde_json::from_str(&entry.value).map_err(|error| unreadable(topic, key, error))?;
        highest = highest.max(value.get("generation").and_then(Value::as_u64).unwrap_or(0));
    }
    Ok(highest + 1)
}
