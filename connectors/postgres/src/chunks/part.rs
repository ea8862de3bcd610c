//! What an update says of a row where the log leaves out large values that it left as they were (TOAST).
//!
//! A consumer keeps the value that it has. But where the row is read beside the log by a read that does not see the update, no record has
//! held it yet, so the row must not be dropped: what the update says is put over what was read. An update that changes the key, too, is
//! told as a deleted and a new row without these values. What was read under the old key cannot stand for that, so it is read again.

use std::sync::Arc;

use bytes::Bytes;
use tailwater_api::Value;
use tailwater_kit::envelope::Change;

use crate::relation::TablePlan;

/// A row as a change left it, where the log leaves out values.
pub(super) struct PartialRow<'a> {
    key: &'a Value,
    /// What the change left as it was is [`Value::Unchanged`].
    values: &'a [Value],
    /// The change is told as one of a row that was there. An update by which a row comes to pass the row filter of the publication is told
    /// as a create.
    pub(super) was_there: bool,
}

impl<'a> PartialRow<'a> {
    /// The row after the change, if that leaves values out.
    pub(super) fn of(change: &'a Change) -> Option<Self> {
        let (key, after, was_there) = match change {
            Change::Update { key, after, .. } | Change::KeyChange { new_key: key, after, .. } => (key, after, true),
            Change::Create { key, after } => (key, after, false),
            Change::Read { .. } | Change::Delete { .. } | Change::Truncate => return None,
        };
        let values = after.as_struct().filter(|values| values.iter().any(|value| matches!(value, Value::Unchanged)))?;
        Some(Self { key, values, was_there })
    }

    /// What it weighs to keep it.
    pub(super) fn weight(&self) -> usize {
        size_of::<Part>() + self.key.weight() + self.values.iter().map(Value::weight).sum::<usize>()
    }
}

/// What an update says of a row, kept.
pub(super) struct Part {
    /// By which the values stand in their places
    plan: Arc<TablePlan>,
    /// Of the record, whose columns may change with it
    key: Value,
    values: Box<[Value]>,
}

impl Part {
    /// Keeps the values, and no more of the log than these (I6).
    pub(super) fn new(plan: &Arc<TablePlan>, row: &PartialRow<'_>) -> Self {
        Self { plan: plan.clone(), key: copied(row.key), values: row.values.iter().map(copied).collect() }
    }

    /// Puts what the update says over a row that was read by the plan; `false` where that has other columns.
    pub(super) fn put_over(&self, row: &mut Change, plan: &TablePlan) -> bool {
        let Change::Read { key, after: Value::Struct(values) } = row else { return false };
        self.plan.has_columns_of(plan)
            && put(&self.values, values)
            && match (&self.key, key) {
                (Value::Struct(said), Value::Struct(key)) => put(said, key),
                (said, key) => said == key,
            }
    }
}

/// Puts the values that are known in their places.
fn put(said: &[Value], values: &mut [Value]) -> bool {
    for (value, said) in values.iter_mut().zip(said).filter(|(_, said)| said.is_known()) {
        *value = said.clone();
    }
    values.len() == said.len()
}

/// The value with buffers of its own.
fn copied(value: &Value) -> Value {
    let all = |values: &[Value]| values.iter().map(copied).collect();
    match value {
        Value::Bytes(octets) => Value::Bytes(Bytes::copy_from_slice(octets)),
        Value::String(text) => Value::String((&**text).into()),
        Value::Array(values) => Value::Array(all(values)),
        Value::Struct(values) => Value::Struct(all(values)),
        Value::Map(entries) => Value::Map(entries.iter().map(|(key, value)| (copied(key), copied(value))).collect()),
        Value::Null
        | Value::Unchanged
        | Value::NotInIdentity
        | Value::Boolean(_)
        | Value::Int8(_)
        | Value::Int16(_)
        | Value::Int32(_)
        | Value::Int64(_)
        | Value::Float32(_)
        | Value::Float64(_) => value.clone(),
    }
}
