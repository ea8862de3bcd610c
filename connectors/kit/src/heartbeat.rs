//! Heartbeats as Debezium 3.6 writes them: from time to time a record on a topic of their own, so that somebody who watches
//! a quiet source sees that it is alive.
//!
//! ```text
//! topic  __debezium-heartbeat.<prefix>
//! key    io.debezium.connector.common.ServerNameKey  serverName
//! value  io.debezium.connector.common.Heartbeat      ts_ms
//! ```
//!
//! Positions move without them (I5).

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::config::ConfigReader;
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::{Field, Kind, Schema, Value};

/// When heartbeats are written and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatOptions {
    /// Time between two heartbeats
    pub interval: Duration,
    /// Their topic
    pub topic: String,
    /// A statement that is run on the source with each
    pub action_query: Option<String>,
}

impl HeartbeatOptions {
    /// `None` where no interval is set; the reader must know [`RELATIONAL_FIELDS`](crate::relational_fields::RELATIONAL_FIELDS).
    pub(crate) fn read(reader: &ConfigReader<'_>) -> Option<Self> {
        let interval = reader.milliseconds("heartbeat.interval.ms");
        let topic = reader
            .optional_text("topic.heartbeat.name")
            .unwrap_or_else(|| [reader.text("topic.heartbeat.prefix"), reader.text("topic.prefix")].join(&reader.text("topic.delimiter")));
        let action_query = reader.optional_text("heartbeat.action.query");
        (!interval.is_zero()).then_some(Self { interval, topic, action_query })
    }
}

/// Makes the records of the heartbeat topic.
#[derive(Clone, Debug)]
pub struct HeartbeatRecords {
    topic: Arc<str>,
    key: SchemaAndValue,
    value: Arc<Schema>,
}

impl HeartbeatRecords {
    /// Records on `topic` for the source with this topic prefix.
    #[must_use]
    pub fn new(topic: &str, topic_prefix: &str) -> Self {
        let key = Schema::structure(vec![Field::new("serverName", Schema::of(Kind::String).build())])
            .name("io.debezium.connector.common.ServerNameKey")
            .version(1)
            .build();
        let value = Schema::structure(vec![Field::new("ts_ms", Schema::of(Kind::Int64).build())])
            .name("io.debezium.connector.common.Heartbeat")
            .version(1)
            .build();
        let key = SchemaAndValue::new(key, Value::Struct(Box::new([topic_prefix.into()])));
        Self { topic: topic.into(), key, value }
    }

    /// The heartbeat of this moment, milliseconds since 1970 UTC.
    #[must_use]
    pub fn record(&self, now_ms: i64) -> Record {
        let value = SchemaAndValue::new(self.value.clone(), Value::Struct(Box::new([Value::Int64(now_ms)])));
        Record::new(self.topic.clone(), self.key.clone(), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_names_its_source_and_the_time() {
        let record = HeartbeatRecords::new("__debezium-heartbeat.shop", "shop").record(7);
        assert_eq!(&*record.topic, "__debezium-heartbeat.shop");
        assert_eq!(record.key.value, Value::Struct(Box::new(["shop".into()])));
        assert_eq!(record.value.value, Value::Struct(Box::new([Value::Int64(7)])));
    }
}
