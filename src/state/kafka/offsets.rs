//! Offsets of sources in the offsets topic: key `["NAME",{partition}]`, value the offset, none where it was removed.
//!
//! Two texts can mean one partition, since the order of a JSON object's members means nothing and Java's maps have an order
//! of their own. The key under which a partition is known is therefore kept and written again: under another one the
//! old value would stay beside the new one, in another Kafka partition even, and nobody could say which is the later.
//!
//! A connector may name a topic of its own, `offsets.storage.topic` (4.3, `ConnectorOffsetBackingStore`, KIP-618). What stands there
//! holds for it, and what stands in the worker's topic holds where its own says nothing. Changes go to both, so that a connector which
//! gives its topic up goes on from the worker's. Removals go to the worker's topic first: in the other order a crash in between
//! would let an old offset hold again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tailwater_api::Result;
use tailwater_api::config::ConfigValues;
use tailwater_api::state::{JsonMap, SourceState, StateChange};

use super::table::{Clients, Entries, Table, TableOptions, unreadable};

/// Whose offsets, and where they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OffsetsOf {
    /// The connector
    pub connector: Arc<str>,
    /// A topic of its own
    pub topic: Option<Arc<str>>,
}

impl OffsetsOf {
    /// What the keys of a connector say.
    #[must_use]
    pub fn read(connector: &Arc<str>, config: &ConfigValues) -> Self {
        let topic = config.get("offsets.storage.topic").map(str::trim).filter(|topic| !topic.is_empty());
        Self { connector: Arc::clone(connector), topic: topic.map(Arc::from) }
    }
}

/// Changes of offsets as records, for a producer that writes them in the transaction of their records.
#[derive(Debug)]
pub struct OffsetRecords {
    /// Where they go
    pub topic: Arc<str>,
    /// Keys and values in order, no value where an offset is removed
    pub records: Vec<(String, Option<String>)>,
}

/// Where the sources of a worker or a Connect cluster are. Cloning shares it.
#[derive(Clone)]
pub struct KafkaOffsets {
    /// The worker's
    table: Table,
    clients: Arc<Clients>,
    /// How topics that connectors have for themselves are made
    options: TableOptions,
    /// These topics, opened when they are first asked for
    own: Arc<tokio::sync::Mutex<HashMap<Arc<str>, Table>>>,
    /// The keys of the partitions of connectors that were loaded, as they stand on the topics
    keys: Arc<Mutex<HashMap<OffsetsOf, KeysOf>>>,
}

/// Partitions with their keys.
type Keys = Vec<(JsonMap, String)>;

/// Keys in the worker's topic and in the connector's own.
#[derive(Default)]
struct KeysOf {
    worker: Keys,
    own: Keys,
}

impl KafkaOffsets {
    pub(super) async fn open(clients: Arc<Clients>, options: TableOptions) -> Result<Self> {
        let table = Table::open(Arc::clone(&clients), options.clone()).await?;
        Ok(Self { table, clients, options, own: Arc::default(), keys: Arc::default() })
    }

    /// The connector's own topic, made if it is not there; the worker's named once more is none.
    async fn own(&self, of: &OffsetsOf) -> Result<Option<Table>> {
        let Some(topic) = of.topic.as_ref().filter(|topic| ***topic != *self.table.topic()) else { return Ok(None) };
        let mut own = self.own.lock().await;
        if let Some(table) = own.get(topic) {
            return Ok(Some(table.clone()));
        }
        let table = Table::open(Arc::clone(&self.clients), self.options.named(topic)).await?;
        own.insert(Arc::clone(topic), table.clone());
        Ok(Some(table))
    }

    /// Returns when [`KafkaOffsets::load`] hides nothing any more that was written before this call: offsets that stand behind the
    /// beginning of an open transaction, be it another connector's, are not seen until that ends.
    ///
    /// # Errors
    /// `timed-out` where one stays open, and those of Kafka.
    pub async fn settled(&self, of: &OffsetsOf) -> Result<()> {
        self.table.wait_for_transactions().await?;
        match self.own(of).await? {
            Some(own) => own.wait_for_transactions().await,
            None => Ok(()),
        }
    }

    /// All offsets of a connector that are committed, in the order in which they were last written.
    ///
    /// # Errors
    /// `unreadable` for a record that is none of Connect's, and those of Kafka.
    pub async fn load(&self, of: &OffsetsOf) -> Result<SourceState> {
        let own = self.own(of).await?;
        let (mut state, worker) = read(&self.table, &of.connector).await?;
        let mut keys = KeysOf { worker, own: Keys::new() };
        if let Some(table) = own {
            let (of_its_own, found) = read(&table, &of.connector).await?;
            for (partition, offset) in of_its_own.iter() {
                state.apply(&StateChange { partition: partition.clone(), offset: Some(offset.clone()) });
            }
            keys.own = found;
        }
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone(), keys);
        Ok(state)
    }

    /// Keeps changes of a connector's offsets, in order; they are durable when it returns. If it fails, a beginning of them
    /// is.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn put(&self, of: &OffsetsOf, changes: &[StateChange]) -> Result<()> {
        let records = self.records(of, changes).await?;
        let own = self.own(of).await?;
        own.as_ref().unwrap_or(&self.table).put(records.records).await?;
        self.committed(of, changes).await
    }

    /// The records of changes, for a producer that writes them in a transaction. Removals that have to come before them are durable when it returns.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn records(&self, of: &OffsetsOf, changes: &[StateChange]) -> Result<OffsetRecords> {
        let Some(own) = self.own(of).await? else {
            let records = self.with_keys(of, |keys| records(&of.connector, changes, &keys.worker));
            return Ok(OffsetRecords { topic: Arc::from(self.table.topic()), records });
        };
        let removals: Vec<_> = changes.iter().filter(|change| change.offset.is_none()).cloned().collect();
        self.table.put(self.with_keys(of, |keys| records(&of.connector, &removals, &keys.worker))).await?;
        Ok(OffsetRecords { topic: Arc::from(own.topic()), records: self.with_keys(of, |keys| records(&of.connector, changes, &keys.own)) })
    }

    /// Repeats changes in the worker's topic that are durable in the connector's own.
    ///
    /// # Errors
    /// Those of Kafka.
    pub async fn committed(&self, of: &OffsetsOf, changes: &[StateChange]) -> Result<()> {
        if self.own(of).await?.is_none() {
            return Ok(());
        }
        self.table.put(self.with_keys(of, |keys| records(&of.connector, changes, &keys.worker))).await
    }

    fn with_keys<T>(&self, of: &OffsetsOf, look: impl FnOnce(&KeysOf) -> T) -> T {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        look(keys.get(of).unwrap_or(&KeysOf::default()))
    }
}

async fn read(table: &Table, connector: &str) -> Result<(SourceState, Keys)> {
    table.read_to_end().await?;
    table.with_entries(|entries| of_connector(table.topic(), connector, entries))
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
