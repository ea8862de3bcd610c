//! Records, their headers and places.

use std::fmt;
use std::sync::Arc;

use crate::schema::Schema;
use crate::value::Value;

/// A value and the schema that describes it. Without a schema the value describes itself (schemaless JSON).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SchemaAndValue {
    /// Absent for null and for schemaless data.
    pub schema: Option<Arc<Schema>>,
    /// Fits the schema, where there is one.
    pub value: Value,
}

impl SchemaAndValue {
    /// Neither schema nor value: a missing key, a tombstone's value.
    pub const NONE: Self = Self { schema: None, value: Value::Null };

    /// A value of `schema`.
    #[must_use]
    pub fn new(schema: Arc<Schema>, value: Value) -> Self {
        Self { schema: Some(schema), value }
    }

    /// Whether there is neither a schema nor a value.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.schema.is_none() && self.value.is_null()
    }
}

/// One header; names may repeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Name of the header
    pub name: Arc<str>,
    /// Its value with its schema
    pub value: SchemaAndValue,
}

/// Headers in order. Records that carry the same headers share them; the first change copies.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Headers(Option<Arc<Vec<Header>>>);

impl Headers {
    /// Headers in this order.
    #[must_use]
    pub fn new(headers: Vec<Header>) -> Self {
        if headers.is_empty() { Self(None) } else { Self(Some(Arc::new(headers))) }
    }

    /// The headers in order.
    pub fn iter(&self) -> impl Iterator<Item = &Header> {
        self.as_slice().iter()
    }

    /// The headers as a slice.
    #[must_use]
    pub fn as_slice(&self) -> &[Header] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The last header called `name`, as Connect's `lastWithName` answers.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<&Header> {
        self.as_slice().iter().rev().find(|header| &*header.name == name)
    }

    /// Adds a header behind the others.
    pub fn push(&mut self, name: impl Into<Arc<str>>, value: SchemaAndValue) {
        self.make_mut().push(Header { name: name.into(), value });
    }

    /// Removes all headers called `name`.
    pub fn remove(&mut self, name: &str) {
        if self.last(name).is_some() {
            self.make_mut().retain(|header| &*header.name != name);
        }
    }

    /// The headers to be changed in place, copied first if another record shares them.
    pub fn make_mut(&mut self) -> &mut Vec<Header> {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    /// Whether both are the same shared list, without looking at what it holds.
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// Key, value and headers on a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Topic, shared by all of its records.
    pub topic: Arc<str>,
    /// Partition that the source or a transform demands; otherwise the topic log chooses by key.
    pub partition: Option<u32>,
    /// The record's own time, milliseconds since 1970 UTC; otherwise the topic log's time of append.
    pub timestamp: Option<i64>,
    /// Key, [`SchemaAndValue::NONE`] where there is none.
    pub key: SchemaAndValue,
    /// Value, [`SchemaAndValue::NONE`] for a tombstone.
    pub value: SchemaAndValue,
    /// Headers in order.
    pub headers: Headers,
}

impl Record {
    /// A record of `topic` without headers.
    #[must_use]
    pub fn new(topic: Arc<str>, key: SchemaAndValue, value: SchemaAndValue) -> Self {
        Self { topic, partition: None, timestamp: None, key, value, headers: Headers::default() }
    }

    /// Whether the record says that its key is gone: no value and no schema of a value.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Bytes that the record holds on to, for budgets; headers are shared and not counted.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.key.value.weight() + self.value.value.weight()
    }
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic
    pub topic: Arc<str>,
    /// Number of the partition, from 0
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
