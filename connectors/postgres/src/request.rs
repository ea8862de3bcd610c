//! Tables that a signal asks to be read, or the snapshot at the start while the log rests, as they are stored until they are (I3).
//!
//! Each has a partition of its own, `{"server": …, "tailwater.signal": ID, "tailwater.table": "public.orders"}`. Its offset is that
//! of a table that is read in chunks (see `table_states`), and says further:
//!
//! | key | holds |
//! |---|---|
//! | `order` | its place among all tables that signals asked for |
//! | `blocking` | `true` where the log rests while it is read |
//! | `condition` | what its rows are narrowed down by: a condition, or with `blocking` a whole statement |
//! | `surrogate` | the column whose order the chunks follow, in place of the key |
//! | `roots` | the names of the captured partitioned tables that it is a part of |
//!
//! That snapshots rest is `{"server": …, "tailwater.snapshots": "paused"}`.

use serde_json::Value;
use tailwater_api::state::{JsonMap, SourceState, StateChange};

use crate::position::server_partition;

/// Stands for the signal where the snapshot at the start asks for a table to be read while the log rests.
const INITIAL: &str = "initial-snapshot";

/// What a signal says about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableRequest {
    /// The signal's id
    pub(crate) signal: String,
    pub(crate) order: u64,
    pub(crate) blocking: bool,
    pub(crate) condition: Option<String>,
    pub(crate) surrogate: Option<String>,
    /// The partitioned tables that it is a part of; a signal may end it by their names.
    pub(crate) roots: Vec<String>,
}

impl TableRequest {
    /// For a table that the snapshot at the start could not read in chunks to its end.
    pub(crate) fn of_initial_snapshot(order: u64) -> Self {
        Self { signal: INITIAL.to_owned(), order, blocking: true, condition: None, surrogate: None, roots: Vec::new() }
    }

    /// Whether the snapshot at the start asks for it.
    pub(crate) fn is_of_initial_snapshot(&self) -> bool {
        self.blocking && self.signal == INITIAL
    }

    /// The request that a partition and its offset hold; `None` for a table of the snapshot at the start, an error for what cannot
    /// be read.
    pub(crate) fn of(partition: &JsonMap, offset: &JsonMap) -> Result<Option<Self>, ()> {
        let Some(signal) = partition.get("tailwater.signal") else { return Ok(None) };
        let text = |name: &str| match offset.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(()),
        };
        Ok(Some(Self {
            signal: signal.as_str().ok_or(())?.to_owned(),
            order: offset.get("order").and_then(Value::as_u64).ok_or(())?,
            blocking: offset.get("blocking").and_then(Value::as_bool).ok_or(())?,
            condition: text("condition")?,
            surrogate: text("surrogate")?,
            roots: match offset.get("roots") {
                None => Vec::new(),
                Some(roots) => serde_json::from_value(roots.clone()).map_err(|_| ())?,
            },
        }))
    }

    /// Adds what it says to the partition.
    pub(crate) fn name(&self, partition: &mut JsonMap) {
        partition.insert("tailwater.signal".into(), self.signal.clone().into());
    }

    /// Adds what it says to the offset.
    pub(crate) fn put(&self, offset: &mut JsonMap) {
        offset.insert("order".into(), self.order.into());
        offset.insert("blocking".into(), self.blocking.into());
        for (name, text) in [("condition", &self.condition), ("surrogate", &self.surrogate)] {
            if let Some(text) = text {
                offset.insert(name.into(), text.clone().into());
            }
        }
        if !self.roots.is_empty() {
            offset.insert("roots".into(), self.roots.clone().into());
        }
    }
}

fn paused_partition(server: &str) -> JsonMap {
    let mut partition = server_partition(server);
    partition.insert("tailwater.snapshots".into(), "paused".into());
    partition
}

/// Whether snapshots rest.
pub(crate) fn are_paused(state: &SourceState, server: &str) -> bool {
    state.get(&paused_partition(server)).is_some()
}

/// The change of the state that says whether snapshots rest.
pub(crate) fn pause(server: &str, paused: bool) -> StateChange {
    let offset = paused.then(|| JsonMap::from_iter([("paused".to_owned(), true.into())]));
    StateChange { partition: paused_partition(server), offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_snapshots_rest_is_kept_until_they_go_on() {
        let mut state = SourceState::default();
        assert!(!are_paused(&state, "shop"));
        state.apply(&pause("shop", true));
        assert!(are_paused(&state, "shop") && !are_paused(&state, "other"));
        state.apply(&pause("shop", false));
        assert!(!are_paused(&state, "shop") && state.is_empty());
    }
}
