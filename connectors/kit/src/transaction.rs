//! Transactions as Debezium 3.6 tells them: where `provide.transaction.metadata` asks for it, each change event says which
//! transaction it belongs to and its place in it, and a topic of its own says where transactions begin and end.
//!
//! ```text
//! topic  <prefix>.transaction
//! key    io.debezium.connector.common.TransactionMetadataKey    id
//! value  io.debezium.connector.common.TransactionMetadataValue  status BEGIN or END, id, event_count, data_collections, ts_ms
//! ```
//!
//! An event is a record with a change: the delete and the create of a changed key are two, a tombstone is none. The
//! collections of an END stand in the order of the Java hash map that Debezium counts in, so that its records are equal.
//!
//! Debezium's id of a transaction changes with every event of it. Here all events, the BEGIN and the END have one id, so
//! that they can be joined.

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use tailwater_api::record::{Record, SchemaAndValue};
use tailwater_api::{Field, Kind, Schema, Value};

use crate::java_hash;

/// The place of one event in its transaction: the `transaction` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventOrder {
    /// The transaction
    pub id: ByteString,
    /// Number among all its events, from 1
    pub total: i64,
    /// Number among its events of the same table, from 1
    pub in_collection: i64,
}

impl EventOrder {
    /// The place of the event that follows in the same table.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { id: self.id.clone(), total: self.total + 1, in_collection: self.in_collection + 1 }
    }

    /// The block as it stands in an event.
    #[must_use]
    pub fn into_value(self) -> Value {
        Value::Struct(Box::new([Value::String(self.id), Value::Int64(self.total), Value::Int64(self.in_collection)]))
    }
}

/// Counts the events of one transaction. Holds one number for each table that the transaction changed.
#[derive(Clone, Debug)]
pub struct TransactionOrder {
    id: ByteString,
    total: i64,
    /// In the order of their first events
    collections: Vec<(Box<str>, i64)>,
    places: HashMap<Box<str>, usize>,
}

impl TransactionOrder {
    /// A transaction without events so far.
    #[must_use]
    pub fn new(id: ByteString) -> Self {
        Self { id, total: 0, collections: Vec::new(), places: HashMap::new() }
    }

    /// Counts `events` events of `collection` (`public.orders`) and says the place of the first of them.
    pub fn count(&mut self, collection: &str, events: i64) -> EventOrder {
        let place = match self.places.get(collection) {
            Some(&place) => place,
            None => {
                self.collections.push((collection.into(), 0));
                self.places.insert(collection.into(), self.collections.len() - 1);
                self.collections.len() - 1
            }
        };
        let counted = &mut self.collections[place].1;
        let first = EventOrder { id: self.id.clone(), total: self.total + 1, in_collection: *counted + 1 };
        *counted += events;
        self.total += events;
        first
    }
}

/// Makes the records of the transaction topic.
#[derive(Clone, Debug)]
pub struct TransactionRecords {
    topic: Arc<str>,
    key: Arc<Schema>,
    value: Arc<Schema>,
}

impl TransactionRecords {
    /// Records on `topic`.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let text = || Schema::of(Kind::String).build();
        let number = || Schema::of(Kind::Int64).build();
        let count = Schema::of(Kind::Int64).optional().build();
        let collection = Schema::structure(vec![Field::new("data_collection", text()), Field::new("event_count", number())])
            .optional()
            .name("event.collection")
            .version(1)
            .build();
        let key = Schema::structure(vec![Field::new("id", text())])
            .name("io.debezium.connector.common.TransactionMetadataKey")
            .version(1)
            .build();
        let value = Schema::structure(vec![
            Field::new("status", text()),
            Field::new("id", text()),
            Field::new("event_count", count),
            Field::new("data_collections", Schema::of(Kind::Array(collection)).optional().build()),
            Field::new("ts_ms", number()),
        ])
        .name("io.debezium.connector.common.TransactionMetadataValue")
        .version(1)
        .build();
        Self { topic: topic.into(), key, value }
    }

    /// The transaction begins. `timestamp_ms` is the time of its commit, milliseconds since 1970 UTC.
    #[must_use]
    pub fn begin(&self, transaction: &TransactionOrder, timestamp_ms: i64) -> Record {
        self.record("BEGIN", transaction, Value::Null, Value::Null, timestamp_ms)
    }

    /// The transaction ended, with all events that were counted.
    #[must_use]
    pub fn end(&self, transaction: &TransactionOrder, timestamp_ms: i64) -> Record {
        let mut collections: Vec<_> = transaction.collections.iter().collect();
        java_hash::sort(&mut collections, |(name, _)| name);
        let counts = collections.into_iter().map(|(name, count)| Value::Struct(Box::new([(&**name).into(), Value::Int64(*count)])));
        self.record("END", transaction, Value::Int64(transaction.total), Value::Array(counts.collect()), timestamp_ms)
    }

    fn record(&self, status: &'static str, transaction: &TransactionOrder, count: Value, collections: Value, timestamp_ms: i64) -> Record {
        let id = || Value::String(transaction.id.clone());
        let value = Value::Struct(Box::new([Value::text(status), id(), count, collections, Value::Int64(timestamp_ms)]));
        let key = SchemaAndValue::new(self.key.clone(), Value::Struct(Box::new([id()])));
        Record::new(self.topic.clone(), key, SchemaAndValue::new(self.value.clone(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_in_all_and_by_table() {
        let mut transaction = TransactionOrder::new("7:100".into());
        let numbers = |order: EventOrder| (order.total, order.in_collection);
        assert_eq!(numbers(transaction.count("public.a", 1)), (1, 1));
        let changed_key = transaction.count("public.b", 2);
        assert_eq!((numbers(changed_key.clone()), numbers(changed_key.next())), ((2, 1), (3, 2)));
        assert_eq!(numbers(transaction.count("public.a", 1)), (4, 2));
        assert_eq!(numbers(transaction.count("public.b", 1)), (5, 3));
    }

    #[test]
    fn an_end_counts_the_events_in_the_order_of_a_java_map() {
        let mut transaction = TransactionOrder::new("7:100".into());
        transaction.count("public.seed_orders", 1);
        transaction.count("public.seed_payments", 2);
        let end = TransactionRecords::new("shop.transaction").end(&transaction, 5);
        let fields = end.value.value.as_struct().unwrap();
        assert_eq!((&fields[0], &fields[1], &fields[2]), (&Value::text("END"), &Value::text("7:100"), &Value::Int64(3)));
        let Value::Array(collections) = &fields[3] else { panic!("{fields:?}") };
        let names: Vec<_> = collections.iter().map(|collection| collection.as_struct().unwrap()[0].as_text().unwrap()).collect();
        assert_eq!(names, ["public.seed_payments", "public.seed_orders"]);
    }

    #[test]
    fn begin_and_end_have_one_id() {
        let transaction = TransactionOrder::new("7:100".into());
        let records = TransactionRecords::new("shop.transaction");
        let [begin, end] = [records.begin(&transaction, 5), records.end(&transaction, 5)];
        assert_eq!(begin.key, end.key);
        assert_eq!(begin.value.value.as_struct().unwrap()[2..4], [Value::Null, Value::Null]);
        assert_eq!(end.value.value.as_struct().unwrap()[2..4], [Value::Int64(0), Value::Array(Box::new([]))]);
    }
}
