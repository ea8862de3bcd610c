//! Offsets of sources in the offsets topic: key `["NAME",{partition}]`, value the offset, none where it was removed.
//!
//! Two texts can mean one partition, since the order of a JSON object's members means nothing and Java's maps have an order
//! of their own. The key under which a partition is known is therefore kept and written again: under another one the
//! old value would stay beside the new one, in another Kafka partition even, and nobody could say which is the later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tailwater_api::Result;
use tailwater_api::state::{JsonMap, SourceState, StateChange};

use super::table::{Entries, Table, unreadable};

/// Where the sources of a worker or a Connect cluster are. Cloning shares it.
#[derive(Clone)]
pub struct KafkaOffsets {
    table: Table,
    /// For each connector that was loaded, the keys of its partitions as they stand on the topic
    keys: Arc<Mutex<HashMap<String, Keys>>>,
}

/// Partitions with their keys.
type Keys = Vec<(JsonMap, String)>;

impl KafkaOffsets {
    pub(super) fn new(table: Table) -> Self {
        Self { table, keys: Arc::default() }
    }

    /// All offsets of a connector, in the order in which they were last written.
    ///
    /// # Errors
    /// `unreadable` for a record that is none of Connect's, and those of Kafka.
    pub async fn load(&self, connector: &str) -> Result<SourceState> {
        self.table.read_to_end().await?;
        let (state, keys) = self.table.with_entries(|entries| of_connector(self.table.topic(), connector, entries))?;
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(connector.to_owned(), keys);
        Ok(state)
    }

    /// Keeps changes of a connector's offsets, in order; they are durable when it returns. If it fails, a beginning of them
    /// is.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn put(&self, connector: &str, changes: &[StateChange]) -> Result<()> {
        let records = {
            let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            records(connector, changes, keys.get(connector).map_or(&[], Vec::as_slice))
        };
        self.table.put(records).await
    }
}

/// The offsets of one connector and the keys that they stand under. Where two keys mean one partition, the one read last
/// holds.
pub(super) fn of_connector(topic: &str, connector: &str, entries: &Entries) -> Result<(SourceState, Keys)> {
    let mut found = Vec::new();
    for (key, entry) in entries {
        // No more than a look where it belongs to another connector.
        let parsed: Value = serde_json::from_str(key).map_err(|error| unreadable(topic, key, error))?;
        let Value::Array(mut parts) = parsed else { return Err(unreadable(topic, key, "its key is no list")) };
        let (partition, name) = (parts.pop(), parts.pop());
        if !parts.is_empty() || name.as_ref().and_then(Value::as_str).is_none() {
            return Err(unreadable(topic, key, "its key is no connector and partition"));
        }
        if name.as_ref().and_then(Value::as_str) != Some(connector) {
            continue;
        }
        let Some(Value::Object(partition)) = partition else {
            return Err(unreadable(topic, key, "its partition is no object"));
        };
        let offset: JsonMap = serde_json::from_str(&entry.value).map_err(|error| unreadable(topic, key, error))?;
        found.push((entry.order, partition, offset, key.clone()));
    }
    found.sort_by_key(|(order, ..)| *order);
    let (mut state, mut keys) = (SourceState::default(), Keys::new());
    for (_, partition, offset, key) in found {
        state.apply(&StateChange { partition: partition.clone(), offset: Some(offset) });
        keys.retain(|(known, _)| *known != partition);
        keys.push((partition, key));
    }
    Ok((state, keys))
}

/// The records of changes. Of changes of one partition that follow each other directly the last is enough: what a crash
/// leaves is still a state that there was.
pub(super) fn records(connector: &str, changes: &[StateChange], keys: &[(JsonMap, String)]) -> Vec<(String, Option<String>)> {
    let mut records: Vec<(String, Option<String>)> = Vec::new();
    for change in changes {
        let known = keys.iter().find(|(partition, _)| *partition == change.partition).map(|(_, key)| key.clone());
        let key = known.unwrap_or_else(|| Value::Array(vec![Value::from(connector), Value::Object(change.partition.clone())]).to_string());
        let value = change.offset.as_ref().map(|offset| Value::Object(offset.clone()).to_string());
        match records.last_mut() {
            Some((last, replaced)) if *last == key => *replaced = value,
            Some(_) | None => records.push((key, value)),
        }
    }
    records
}
