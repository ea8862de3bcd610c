//! Connectors in the config topic.
//!
//! | key | value |
//! |---|---|
//! | `connector-NAME` | `{"properties":{…}}`, all values text; beside it `"tailwater.file"` where a file declares the connector, which Connect does not look at |
//! | `target-state-NAME` | `{"state":…,"state.v2":…}`; the former, for workers older than 3.5, knows no `STOPPED` and says `PAUSED`. Without one: `STARTED` |
//! | `task-NAME-N`, `commit-NAME` | Connect's configurations of tasks and their number. Ours are made when the connector starts; Connect makes its own anew. A stopped connector has none |
//! | `session-key`, `restart-connector-NAME`, `logger-cluster-…`, `tasks-fencing-NAME` | what Connect's workers tell each other; not for us |
//!
//! The order of writing is Connect's: what a connector should be doing stands before its configuration, so that one that is
//! made stopped never starts; configurations of tasks go before the state `STOPPED`.

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tailwater_api::Result;
use tailwater_api::state::JsonMap;

use super::table::{Entries, Table, unreadable};
use crate::state::{ConnectorStore, StoredConnector, TargetState};

const CONNECTOR: &str = "connector-";
const TARGET: &str = "target-state-";
const COMMIT: &str = "commit-";
const FILE: &str = "tailwater.file";

/// The connectors of a worker or a Connect cluster. Cloning shares them.
#[derive(Clone)]
pub struct KafkaConfigs {
    table: Table,
}

impl KafkaConfigs {
    pub(super) fn new(table: Table) -> Self {
        Self { table }
    }
}

/// Connectors by name.
pub(super) fn connectors(topic: &str, entries: &Entries) -> Result<Vec<StoredConnector>> {
    let mut found = Vec::new();
    for (key, entry) in entries {
        if let Some(name) = key.strip_prefix(CONNECTOR) {
            let mut value = object(topic, key, &entry.value)?;
            let Some(Value::Object(config)) = value.remove("properties") else {
                return Err(unreadable(topic, key, "it has no properties"));
            };
            let file = value.get(FILE).and_then(Value::as_str).map(str::to_owned);
            found.push(StoredConnector { name: name.to_owned(), config, target: target(topic, name, entries)?, file });
        } else if !is_connects_own(key) {
            tracing::warn!("the topic {topic} holds a record with the key {key:?}, which is none of Kafka Connect's");
        }
    }
    Ok(found)
}

/// Whether a key is one that Connect writes and that says nothing to us.
fn is_connects_own(key: &str) -> bool {
    const PREFIXES: [&str; 7] = [TARGET, COMMIT, "task-", "session-key", "restart-connector-", "logger-cluster-", "tasks-fencing-"];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

fn target(topic: &str, name: &str, entries: &Entries) -> Result<TargetState> {
    let key = format!("{TARGET}{name}");
    let Some(entry) = entries.get(&key) else { return Ok(TargetState::Running) };
    let value = object(topic, &key, &entry.value)?;
    match value.get("state.v2").or_else(|| value.get("state")).and_then(Value::as_str) {
        Some("STARTED") => Ok(TargetState::Running),
        Some("PAUSED") => Ok(TargetState::Paused),
        Some("STOPPED") => Ok(TargetState::Stopped),
        Some(_) | None => Err(unreadable(topic, &key, "it has no state that is known")),
    }
}

fn target_text(target: TargetState) -> String {
    let (old, new) = match target {
        TargetState::Running => ("STARTED", "STARTED"),
        TargetState::Paused => ("PAUSED", "PAUSED"),
        TargetState::Stopped => ("PAUSED", "STOPPED"),
    };
    json!({"state": old, "state.v2": new}).to_string()
}

fn connector_text(connector: &StoredConnector) -> String {
    let text = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::String(_) | Value::Null => value.clone(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Value::String(value.to_string()),
        };
        (name.clone(), value)
    };
    let properties: JsonMap = connector.config.iter().map(text).collect();
    let mut value = JsonMap::new();
    value.insert("properties".to_owned(), Value::Object(properties));
    if let Some(file) = &connector.file {
        value.insert(FILE.to_owned(), file.as_str().into());
    }
    Value::Object(value).to_string()
}

/// The records that bring the topic from `entries` to `connector`, in Connect's order.
pub(super) fn changes(connector: &StoredConnector, entries: &Entries) -> Vec<(String, Option<String>)> {
    let name = &connector.name;
    let mut changes = Vec::new();
    let mut set = |key: String, value: String| {
        if entries.get(&key).is_none_or(|known| known.value != value) {
            changes.push((key, Some(value)));
        }
    };
    let commit = format!("{COMMIT}{name}");
    if connector.target == TargetState::Stopped && entries.contains_key(&commit) {
        set(commit, json!({"tasks": 0}).to_string());
    }
    let target = format!("{TARGET}{name}");
    if connector.target != TargetState::Running || entries.contains_key(&target) {
        set(target, target_text(connector.target));
    }
    set(format!("{CONNECTOR}{name}"), connector_text(connector));
    changes
}

fn object(topic: &str, key: &str, text: &str) -> Result<JsonMap> {
    serde_json::from_str(text).map_err(|error| unreadable(topic, key, error))
}

impl ConnectorStore for KafkaConfigs {
    fn list(&self) -> BoxFuture<'_, Result<Vec<StoredConnector>>> {
        Box::pin(async move {
            // Where Connect's sources write exactly once, its leader writes here in transactions, too (KIP-618).
            self.table.wait_for_transactions().await?;
            self.table.read_to_end().await?;
            self.table.with_entries(|entries| connectors(self.table.topic(), entries))
        })
    }

    fn put(&self, connector: StoredConnector) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.table.read_to_end().await?;
            let changes = self.table.with_entries(|entries| changes(&connector, entries));
            self.table.put(changes).await
        })
    }

    fn remove(&self, name: &str) -> BoxFuture<'_, Result<()>> {
        let removed = [format!("{CONNECTOR}{name}"), format!("{TARGET}{name}")];
        Box::pin(async move { self.table.put(removed.map(|key| (key, None)).into()).await })
    }
}
