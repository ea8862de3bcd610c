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

/// The values that an update says.
pub(super) struct Part {
    /// By which they stand in their places
    plan: Arc<TablePlan>,
    /// The row after it; what it left as it was is [`Value::Unchanged`]
    values: Box<[Value]>,
}

impl Part {
    /// The row after the change, if that leaves values out.
    pub(super) fn values(change: &Change) -> Option<&[Value]> {
        match change {
            Change::Update { after, .. } | Change::KeyChange { after, .. } => {
                after.as_struct().filter(|values| values.iter().any(|value| matches!(value, Value::Unchanged)))
            }
            Change::Read { .. } | Change::Create { .. } | Change::Delete { .. } | Change::Truncate => None,
        }
    }

    /// What it weighs to keep these values.
    pub(super) fn weight(values: &[Value]) -> usize {
        size_of::<Self>() + values.iter().map(Value::weight).sum::<usize>()
    }

    /// Keeps the values, and no more of the log than these (I6).
    pub(super) fn new(plan: &Arc<TablePlan>, values: &[Value]) -> Self {
        Self { plan: plan.clone(), values: values.iter().map(copied).collect() }
    }

    /// Puts what the update says over a row that was read by the plan; `false` where that has other columns.
    pub(super) fn put_over(&self, row: &mut Change, plan: &TablePlan) -> bool {
        let Change::Read { after: Value::Struct(values), .. } = row else { return false };
        if !self.plan.has_columns_of(plan) || values.len() != self.values.len() {
            return false;
        }
        for (value, said) in values.iter_mut().zip(&self.values).filter(|(_, said)| said.is_known()) {
            *value = said.clone();
        }
        true
    }
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
