//! What is stored of each table beside the source's position.
//!
//! A table has a partition of its own, `{"server": …, "tailwater.table": "public.orders"}`, with
//! `{"state": "complete", "oid": …, "anchor": …, "rows": …}` once its snapshot is published (I10). While it is read in chunks, that is
//! `{"state": "reading", "oid": …, "rows": …, "after": […], "until": […]}`: the key of the last row of the last chunk and the
//! greatest key of all, as the database writes them. Both are missing before the first chunk. What a signal asked for has
//! further partitions (see `request`). `{"state": "outdated"}` says that the table was captured before and is to be read anew (see
//! `truncation`), with `"owed": true` also whatever `snapshot.new.tables` says, since the snapshot at the start had not read it to its
//! end when it was gone, or it was read before it was published; `{"state": "errored", "at": …, "error": …}` that its changes are dropped from a place on, and why (see
//! `stream::isolation`).
//! Where tables that come later are to be told from those that were never read, `{"server": …, "tailwater.tables": "known"}` with
//! `{"since": …}` says that each table from before has a state.
//! A captured table that was not published when a run began has a further partition, `{"server": …, "tailwater.unpublished": OID}` with
//! `{"table": "public.orders"}` (see `source::unpublished`).

use tailwater_api::Result;
use tailwater_api::state::{JsonMap, SourceState, StateChange};

use crate::catalog::TableDefinition;
use crate::lsn::Lsn;
use crate::position::{server_partition, unreadable};
use crate::request::TableRequest;

fn table_partition(server: &str, table: &str) -> JsonMap {
    let mut partition = server_partition(server);
    partition.insert("tailwater.table".into(), table.into());
    partition
}

/// The partition that says that the tables of the source are known: one without a state of its own came later.
fn tables_partition(server: &str) -> JsonMap {
    let mut partition = server_partition(server);
    partition.insert("tailwater.tables".into(), "known".into());
    partition
}

/// Whether the tables of the source were known once, so that one without a state of its own came later.
pub(crate) fn are_tables_known(state: &SourceState, server: &str) -> bool {
    state.get(&tables_partition(server)).is_some()
}

/// The tables of the source are known from `since` on.
pub(crate) fn tables_known(server: &str, since: Lsn) -> StateChange {
    let mut offset = JsonMap::new();
    offset.insert("since".into(), since.as_u64().into());
    StateChange { partition: tables_partition(server), offset: Some(offset) }
}

/// A table whose snapshot is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompletedTable {
    /// `schema.table`
    pub(crate) name: String,
    /// A table of the same name with another oid is another table; `None` where it was not stored
    pub(crate) oid: Option<u32>,
    /// What its rows stand for: changes committed before are in them
    pub(crate) anchor: Lsn,
    pub(crate) rows: u64,
}

impl CompletedTable {
    /// All tables of `server` that are complete.
    pub(crate) fn load_all(state: &SourceState, server: &str) -> Vec<Self> {
        let of_table = |(partition, offset): (&JsonMap, &JsonMap)| {
            let name = partition.get("tailwater.table")?.as_str()?.to_owned();
            if partition.get("server")?.as_str()? != server || offset.get("state")?.as_str()? != "complete" {
                return None;
            }
            let anchor = Lsn::new(offset.get("anchor")?.as_u64()?);
            let oid = offset.get("oid").and_then(serde_json::Value::as_u64).and_then(|oid| oid.try_into().ok());
            Some(Self { name, oid, anchor, rows: offset.get("rows")?.as_u64()? })
        };
        state.iter().filter_map(of_table).collect()
    }

    pub(crate) fn change(&self, server: &str) -> StateChange {
        let mut offset = JsonMap::new();
        offset.insert("state".into(), "complete".into());
        if let Some(oid) = self.oid {
            offset.insert("oid".into(), oid.into());
        }
        offset.insert("anchor".into(), self.anchor.as_u64().into());
        offset.insert("rows".into(), self.rows.into());
        StateChange { partition: table_partition(server, &self.name), offset: Some(offset) }
    }

    /// Forgets the table: its snapshot is to be taken again.
    pub(crate) fn removal(&self, server: &str) -> StateChange {
        table_removal(server, &self.name)
    }
}

/// The tables of `server` that were captured before and are to be read anew: what consumers have of them is outdated. Names as
/// `schema.table`.
pub(crate) fn outdated_tables(state: &SourceState, server: &str) -> Vec<String> {
    outdated_where(state, server, |_| true)
}

/// Those among them that are read in any case.
pub(crate) fn owed_tables(state: &SourceState, server: &str) -> Vec<String> {
    outdated_where(state, server, |offset| offset.get("owed").and_then(serde_json::Value::as_bool) == Some(true))
}

fn outdated_where(state: &SourceState, server: &str, is_wanted: impl Fn(&JsonMap) -> bool) -> Vec<String> {
    let of_table = |(partition, offset): (&JsonMap, &JsonMap)| {
        let is_outdated = partition.get("server")?.as_str()? == server && offset.get("state")?.as_str()? == "outdated";
        if is_outdated && is_wanted(offset) { partition.get("tailwater.table")?.as_str().map(str::to_owned) } else { None }
    };
    state.iter().filter_map(of_table).collect()
}

/// What consumers have of the table is outdated.
pub(crate) fn outdated(server: &str, table: &str) -> StateChange {
    let mut offset = JsonMap::new();
    offset.insert("state".into(), "outdated".into());
    StateChange { partition: table_partition(server, table), offset: Some(offset) }
}

/// What consumers have of the table is outdated, and what has its name, now or next, is read in any case.
pub(crate) fn owed(server: &str, table: &str) -> StateChange {
    let mut change = outdated(server, table);
    if let Some(offset) = &mut change.offset {
        offset.insert("owed".into(), true.into());
    }
    change
}

/// A table whose changes are dropped (I10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErroredTable {
    /// `schema.table`
    pub(crate) name: String,
    /// From here on
    pub(crate) at: Lsn,
    /// Why, in a sentence
    pub(crate) error: String,
}

impl ErroredTable {
    /// All errored tables of `server`.
    pub(crate) fn load_all(state: &SourceState, server: &str) -> Vec<Self> {
        let of_table = |(partition, offset): (&JsonMap, &JsonMap)| {
            let is_errored = partition.get("server")?.as_str()? == server && offset.get("state")?.as_str()? == "errored";
            let name = partition.get("tailwater.table")?.as_str()?.to_owned();
            // One whose details cannot be read is errored none the less.
            let at = Lsn::new(offset.get("at").and_then(serde_json::Value::as_u64).unwrap_or(0));
            let error = offset.get("error").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            is_errored.then_some(Self { name, at, error })
        };
        state.iter().filter_map(of_table).collect()
    }

    pub(crate) fn change(&self, server: &str) -> StateChange {
        let mut offset = JsonMap::new();
        offset.insert("state".into(), "errored".into());
        offset.insert("at".into(), self.at.as_u64().into());
        offset.insert("error".into(), self.error.clone().into());
        StateChange { partition: table_partition(server, &self.name), offset: Some(offset) }
    }
}

/// Forgets whatever is stored of a table of this name.
pub(crate) fn table_removal(server: &str, table: &str) -> StateChange {
    StateChange { partition: table_partition(server, table), offset: None }
}

/// A captured table that was not published when a run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnpublishedTable {
    /// By which it is known, whatever its name is by now
    pub(crate) oid: u32,
    /// `schema.table`, for who reads the state
    name: String,
}

impl UnpublishedTable {
    pub(crate) fn of(table: &TableDefinition) -> Self {
        Self { oid: table.oid, name: table.full_name() }
    }

    /// All tables of `server` that were not.
    pub(crate) fn load_all(state: &SourceState, server: &str) -> Vec<Self> {
        let of_table = |(partition, offset): (&JsonMap, &JsonMap)| {
            let oid = partition.get("tailwater.unpublished")?.as_u64()?.try_into().ok()?;
            let name = offset.get("table").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            (partition.get("server")?.as_str()? == server).then_some(Self { oid, name })
        };
        state.iter().filter_map(of_table).collect()
    }

    pub(crate) fn change(&self, server: &str) -> StateChange {
        let offset = [("table".to_owned(), self.name.clone().into())].into_iter().collect();
        StateChange { offset: Some(offset), ..self.removal(server) }
    }

    /// Forgets that it was not.
    pub(crate) fn removal(&self, server: &str) -> StateChange {
        let mut partition = server_partition(server);
        partition.insert("tailwater.unpublished".into(), self.oid.into());
        StateChange { partition, offset: None }
    }
}

/// A table that is read in chunks, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadingTable {
    /// `schema.table`
    pub(crate) name: String,
    /// A table of the same name with another oid is another table.
    pub(crate) oid: u32,
    /// Rows so far
    pub(crate) rows: u64,
    /// What is read and what is still to be read; `None` before the first chunk
    pub(crate) range: Option<KeyRange>,
    /// What a signal says about it; `None` for a table of the snapshot at the start
    pub(crate) request: Option<TableRequest>,
}

/// The rows behind one key, up to another; texts of the key's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    /// The key's columns with their types; behind them what the publication says of the table, if it does not publish all of it
    pub(crate) columns: Vec<String>,
    pub(crate) after: Vec<String>,
    pub(crate) until: Vec<String>,
}

impl ReadingTable {
    /// All tables of `server` that are not read to their end, in their order: those of the snapshot at the start, then those that
    /// signals asked for.
    ///
    /// # Errors
    /// The progress of a table cannot be read: going on would leave out rows.
    pub(crate) fn load_all(state: &SourceState, server: &str) -> Result<Vec<Self>> {
        let is_reading = |(partition, offset): &(&JsonMap, &JsonMap)| {
            partition.get("server").and_then(serde_json::Value::as_str) == Some(server)
                && offset.get("state").and_then(serde_json::Value::as_str) == Some("reading")
        };
        let read = |(partition, offset): (&JsonMap, &JsonMap)| {
            Self::of(partition, offset).ok_or_else(|| unreadable("tailwater.table", &serde_json::Value::Object(offset.clone())))
        };
        let mut tables = state.iter().filter(is_reading).map(read).collect::<Result<Vec<_>>>()?;
        tables.sort_by_key(|table| table.request.as_ref().map(|request| request.order));
        Ok(tables)
    }

    fn of(partition: &JsonMap, offset: &JsonMap) -> Option<Self> {
        let key = |name: &str| -> Option<Vec<String>> {
            offset.get(name)?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let range = match (offset.contains_key("after"), offset.contains_key("until")) {
            (false, false) => None,
            (_, _) => Some(KeyRange { columns: key("key")?, after: key("after")?, until: key("until")? }),
        };
        Some(Self {
            name: partition.get("tailwater.table")?.as_str()?.to_owned(),
            oid: offset.get("oid")?.as_u64()?.try_into().ok()?,
            rows: offset.get("rows")?.as_u64()?,
            range,
            request: TableRequest::of(partition, offset).ok()?,
        })
    }

    /// Whether `table` is the one to read in its place: another one that has its name by now, or itself under another name.
    pub(crate) fn is_superseded_by(&self, table: &TableDefinition) -> bool {
        (self.oid == table.oid) != (self.name == table.full_name())
    }

    /// Whether one of the captured tables is the one to read in its place.
    pub(crate) fn is_superseded(&self, captured: &[&TableDefinition]) -> bool {
        captured.iter().any(|table| self.is_superseded_by(table))
    }

    /// Whether the log rests while it is read.
    pub(crate) fn is_blocking(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.blocking)
    }

    fn partition(&self, server: &str) -> JsonMap {
        let mut partition = table_partition(server, &self.name);
        if let Some(request) = &self.request {
            request.name(&mut partition);
        }
        partition
    }

    pub(crate) fn change(&self, server: &str) -> StateChange {
        let mut offset = JsonMap::new();
        offset.insert("state".into(), "reading".into());
        offset.insert("oid".into(), self.oid.into());
        offset.insert("rows".into(), self.rows.into());
        if let Some(range) = &self.range {
            offset.insert("key".into(), range.columns.clone().into());
            offset.insert("after".into(), range.after.clone().into());
            offset.insert("until".into(), range.until.clone().into());
        }
        if let Some(request) = &self.request {
            request.put(&mut offset);
        }
        StateChange { partition: self.partition(server), offset: Some(offset) }
    }

    /// Forgets the table.
    pub(crate) fn removal(&self, server: &str) -> StateChange {
        StateChange { partition: self.partition(server), offset: None }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::ErrorKind;

    use super::*;

    #[test]
    fn complete_tables_are_found_by_server() {
        let table = CompletedTable { name: "public.orders".into(), oid: Some(7), anchor: Lsn::new(7), rows: 3 };
        let mut state = SourceState::default();
        state.apply(&table.change("shop"));
        state.apply(&table.change("other"));
        assert_eq!(CompletedTable::load_all(&state, "shop"), std::slice::from_ref(&table));
        state.apply(&table.removal("shop"));
        assert_eq!(CompletedTable::load_all(&state, "shop"), []);
    }

    #[test]
    fn a_table_that_is_not_published_is_known_from_the_state_beside_its_own() {
        let table = UnpublishedTable { oid: 7, name: "public.orders".into() };
        let mut state = SourceState::default();
        state.apply(&table.change("shop"));
        state.apply(&UnpublishedTable { oid: 8, ..table.clone() }.change("other"));
        assert_eq!(UnpublishedTable::load_all(&state, "shop"), std::slice::from_ref(&table));
        assert_eq!((CompletedTable::load_all(&state, "shop"), outdated_tables(&state, "shop")), (Vec::new(), Vec::new()));
        state.apply(&table.removal("shop"));
        assert_eq!(UnpublishedTable::load_all(&state, "shop"), []);
    }

    #[test]
    fn the_progress_of_a_table_survives_its_stored_form() {
        let waiting = ReadingTable { name: "public.a".into(), oid: 7, rows: 0, range: None, request: None };
        let range = KeyRange {
            columns: vec!["id 23".into(), "note 25".into()],
            after: vec!["1".into(), "x".into()],
            until: vec!["9".into(), String::new()],
        };
        let begun = ReadingTable { name: "public.b".into(), oid: 8, rows: 5, range: Some(range), request: None };
        let asked_for = |signal: &str, order, condition: Option<&str>| {
            let roots = condition.iter().map(|_| "public.root".to_owned()).collect();
            let (signal, condition) = (signal.to_owned(), condition.map(str::to_owned));
            let request = TableRequest { signal, order, blocking: false, condition, surrogate: None, roots };
            ReadingTable { request: Some(request), ..begun.clone() }
        };
        let (first, second) = (asked_for("s2", 1, None), asked_for("s1", 2, Some("x > 1")));
        let mut state = SourceState::default();
        for table in [&second, &waiting, &first, &begun] {
            state.apply(&table.change("shop"));
        }
        assert_eq!(ReadingTable::load_all(&state, "shop").unwrap(), [waiting, begun.clone(), first.clone(), second.clone()]);
        for table in [first, second] {
            state.apply(&table.removal("shop"));
        }
        assert_eq!(ReadingTable::load_all(&state, "shop").unwrap().len(), 2);
        assert_eq!(CompletedTable::load_all(&state, "shop"), []);
        let mut torn = begun.change("shop");
        torn.offset.as_mut().unwrap().remove("until");
        state.apply(&torn);
        assert_eq!(ReadingTable::load_all(&state, "shop").unwrap_err().kind(), ErrorKind::Unreadable);
    }
}
