//! The state of a source: Connect's map from source partition to source offset.
//!
//! Both are small JSON objects with Debezium's own keys, for instance `{"server":"shop"}` and
//! `{"lsn":40093712,"txId":769,…}`. What Debezium has no word for stands under keys `tailwater.*` or in further
//! partitions. A resume point is a set of changes to this map.

/// A JSON object that keeps the order of its keys.
pub type JsonMap = serde_json::Map<String, serde_json::Value>;

/// One change: the offset of a partition is replaced, or removed with `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChange {
    /// The source partition
    pub partition: JsonMap,
    /// Its new offset
    pub offset: Option<JsonMap>,
}

/// All partitions with their offsets, in the order in which they first appeared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceState(Vec<(JsonMap, JsonMap)>);

impl SourceState {
    /// The offset of `partition`.
    #[must_use]
    pub fn get(&self, partition: &JsonMap) -> Option<&JsonMap> {
        self.0.iter().find(|(known, _)| known == partition).map(|(_, offset)| offset)
    }

    /// Partitions and offsets.
    pub fn iter(&self) -> impl Iterator<Item = (&JsonMap, &JsonMap)> {
        self.0.iter().map(|(partition, offset)| (partition, offset))
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies one change.
    pub fn apply(&mut self, change: &StateChange) {
        let place = self.0.iter().position(|(known, _)| *known == change.partition);
        match (place, &change.offset) {
            (Some(place), Some(offset)) => self.0[place].1.clone_from(offset),
            (Some(place), None) => {
                self.0.remove(place);
            }
            (None, Some(offset)) => self.0.push((change.partition.clone(), offset.clone())),
            (None, None) => {}
        }
    }
}
