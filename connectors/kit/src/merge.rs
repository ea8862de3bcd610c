//! Upsert planning: a batch of row changes of one table becomes few set-based steps.
//!
//! A target that is written row by row pays a round trip for every change. A target that is written by sets must not
//! meet a key twice in one statement, and must not confuse the four kinds of nothing (I8): a null is written; an
//! [unchanged](Cell::Unchanged) value leaves what stands in the row or what an earlier change of the same batch put
//! there; an [absent](Cell::Absent) column leaves the row alone too, but does not keep the row from being inserted.
//!
//! The promise: applying the steps in order leaves the table as applying the changes one by one would. Per key,
//!
//! - put then put: the later value wins; where the later has none, the earlier one's stays;
//! - put then patch or update: a put, completed by what follows;
//! - patches and updates: a patch if one of them is, else an update. However many columns are known in the end, none of them
//!   knew the row whole, so it is never inserted;
//! - patch or update, then whole put: the put alone. The first needs no row of its own, it would have been overwritten;
//! - anything then delete: a delete; delete then put: both, the delete first.
//!
//! What has no such rule opens a new step: a change after a truncate or after an append, a patch or an update of a row that
//! the step deletes (it must come to nothing as it would alone), a put with absent columns over one. Within a step the keys of
//! puts, patches and updates are disjoint, so its parts may be applied as sets: truncate, deletes, puts, patches, updates, appends.
//! Rows stand in the order in which their keys first appeared; appends keep their order.
//!
//! Nothing here compares keys by order, and equality is that of the caller's encoding. If a target holds two keys for
//! equal that differ here (a collation), it says so, and the caller applies the changes in smaller groups (I9).

use std::collections::HashMap;
use std::hash::Hash;

/// What a change says about one column (I8).
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<V> {
    /// The change does not have the column: an older schema, a key-only image.
    Absent,
    /// The column is as it was.
    Unchanged,
    /// The column has this value, null included.
    Known(V),
}

impl<V> Cell<V> {
    /// The value, where there is one.
    pub fn known(&self) -> Option<&V> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Unchanged => None,
        }
    }
}

/// The cells of a row, one for each column of the table, in the table's order.
pub type Row<V> = Box<[Cell<V>]>;

/// One change of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<K, V> {
    /// The row of this key has these values. With [`Cell::Unchanged`] in it, it is a *patch*: it needs the row.
    Put {
        /// Identity of the row
        key: K,
        /// Its values; those of the key are known
        row: Row<V>,
    },
    /// The row of this key, if it is there, has these values where they are known.
    Update {
        /// Identity of the row
        key: K,
        /// Its values; those of the key are known
        row: Row<V>,
    },
    /// The row of this key is gone.
    Delete {
        /// Identity of the row
        key: K,
        /// The values of the key; the rest is absent
        row: Row<V>,
    },
    /// A further row of a table without identity.
    Append {
        /// Its values
        row: Row<V>,
    },
    /// All rows are gone.
    Truncate,
}

/// Sets of changes, to be applied in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<V> {
    /// Remove all rows.
    pub truncate: bool,
    /// Remove the rows of these keys.
    pub deletes: Vec<Row<V>>,
    /// Insert these rows or, where the key is there, update their known columns.
    pub puts: Vec<Row<V>>,
    /// Update the known columns of these rows; a key that is not there is an error.
    pub patches: Vec<Row<V>>,
    /// Update the known columns of these rows; a key that is not there is none.
    pub updates: Vec<Row<V>>,
    /// Insert these rows.
    pub appends: Vec<Row<V>>,
}

/// Merges `changes`, given in the order of the log.
pub fn merge<K: Eq + Hash, V>(changes: impl IntoIterator<Item = Change<K, V>>) -> Vec<Step<V>> {
    let mut merger = Merger { steps: Vec::new(), truncate: false, slots: Vec::new(), places: HashMap::new(), appends: Vec::new() };
    for change in changes {
        merger.add(change);
    }
    merger.close();
    merger.steps
}

struct Merger<K, V> {
    steps: Vec<Step<V>>,
    truncate: bool,
    slots: Vec<Slot<V>>,
    places: HashMap<K, usize>,
    appends: Vec<Row<V>>,
}

/// What the step does to one key.
struct Slot<V> {
    deleted: Option<Row<V>>,
    written: Option<Written<V>>,
}

enum Written<V> {
    Put(Row<V>),
    Patch(Row<V>),
    Update(Row<V>),
}

impl<K: Eq + Hash, V> Merger<K, V> {
    fn add(&mut self, change: Change<K, V>) {
        match change {
            Change::Truncate => {
                self.close();
                self.truncate = true;
            }
            Change::Append { row } => self.appends.push(row),
            Change::Delete { key, row } => {
                let slot = self.slot(key);
                *slot = Slot { deleted: Some(row), written: None };
            }
            Change::Put { key, row } => {
                let row = if row.iter().any(|cell| matches!(cell, Cell::Unchanged)) { Written::Patch(row) } else { Written::Put(row) };
                self.write(key, row);
            }
            Change::Update { key, row } => self.write(key, Written::Update(row)),
        }
    }

    fn write(&mut self, key: K, row: Written<V>) {
        if let Some(&place) = self.places.get(&key)
            && !self.slots[place].takes(&row)
        {
            self.close();
        }
        let slot = self.slot(key);
        slot.written = Some(match (slot.written.take(), row) {
            (None, row) => row,
            (Some(Written::Put(old)), Written::Put(new) | Written::Patch(new) | Written::Update(new)) => Written::Put(overlay(old, new)),
            (Some(Written::Patch(old)), Written::Patch(new) | Written::Update(new)) | (Some(Written::Update(old)), Written::Patch(new)) => {
                Written::Patch(overlay(old, new))
            }
            (Some(Written::Update(old)), Written::Update(new)) => Written::Update(overlay(old, new)),
            (Some(Written::Patch(_) | Written::Update(_)), Written::Put(new)) => Written::Put(new),
        });
    }

    /// The slot of `key`, behind all appends.
    fn slot(&mut self, key: K) -> &mut Slot<V> {
        if !self.appends.is_empty() {
            self.close();
        }
        let next = self.slots.len();
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.slots.push(Slot { deleted: None, written: None });
        }
        &mut self.slots[place]
    }

    fn close(&mut self) {
        if !self.truncate && self.slots.is_empty() && self.appends.is_empty() {
            return;
        }
        let mut step = Step {
            truncate: std::mem::take(&mut self.truncate),
            deletes: Vec::new(),
            puts: Vec::new(),
            patches: Vec::new(),
            updates: Vec::new(),
            appends: std::mem::take(&mut self.appends),
        };
        self.places.clear();
        for slot in self.slots.drain(..) {
            step.deletes.extend(slot.deleted);
            match slot.written {
                Some(Written::Put(row)) => step.puts.push(row),
                Some(Written::Patch(row)) => step.patches.push(row),
                Some(Written::Update(row)) => step.updates.push(row),
                None => {}
            }
        }
        self.steps.push(step);
    }
}

impl<V> Slot<V> {
    /// Whether there is a rule that merges `row` into what the slot holds.
    fn takes(&self, row: &Written<V>) -> bool {
        match (&self.written, row) {
            (None, Written::Patch(_) | Written::Update(_)) => self.deleted.is_none(),
            (Some(Written::Patch(_) | Written::Update(_)), Written::Put(new)) => new.iter().all(|cell| matches!(cell, Cell::Known(_))),
            (None | Some(Written::Put(_)), Written::Put(_)) | (Some(_), Written::Patch(_) | Written::Update(_)) => true,
        }
    }
}

/// `new` over `old`: known cells win, the others leave the old ones.
fn overlay<V>(mut old: Row<V>, new: Row<V>) -> Row<V> {
    for (old, new) in old.iter_mut().zip(new) {
        if let Cell::Known(_) = new {
            *old = new;
        }
    }
    old
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DEFAULT: u8 = 200;

    /// A table as a database would keep it: column 0 is the key.
    #[derive(Clone, Debug, PartialEq, Default)]
    struct Table {
        rows: BTreeMap<u8, Vec<u8>>,
        appended: Vec<Vec<u8>>,
    }

    fn inserted(row: &Row<u8>) -> Vec<u8> {
        row.iter().map(|cell| cell.known().copied().unwrap_or(DEFAULT)).collect()
    }

    fn key(row: &Row<u8>) -> u8 {
        *row[0].known().expect("keys are known")
    }

    impl Table {
        fn update(&mut self, row: &Row<u8>) -> bool {
            let Some(found) = self.rows.get_mut(&key(row)) else { return false };
            for (value, cell) in found.iter_mut().zip(row) {
                if let Cell::Known(new) = cell {
                    *value = *new;
                }
            }
            true
        }

        fn put(&mut self, row: &Row<u8>) {
            if !self.update(row) {
                self.rows.insert(key(row), inserted(row));
            }
        }

        /// One change alone; `false` if the target refuses it.
        fn apply_change(&mut self, change: &Change<u8, u8>) -> bool {
            match change {
                Change::Truncate => {
                    self.rows.clear();
                    self.appended.clear();
                }
                Change::Append { row } => self.appended.push(inserted(row)),
                Change::Delete { key, .. } => {
                    self.rows.remove(key);
                }
                Change::Put { row, .. } if row.contains(&Cell::Unchanged) => return self.update(row),
                Change::Update { row, .. } => {
                    self.update(row);
                }
                Change::Put { row, .. } => self.put(row),
            }
            true
        }

        /// A merged step as sets; `false` if the target refuses it.
        fn apply_step(&mut self, step: &Step<u8>) -> bool {
            if step.truncate {
                self.rows.clear();
                self.appended.clear();
            }
            step.deletes.iter().for_each(|row| {
                self.rows.remove(&key(row));
            });
            step.puts.iter().for_each(|row| self.put(row));
            let hit = step.patches.iter().all(|row| self.update(row));
            step.updates.iter().for_each(|row| {
                self.update(row);
            });
            step.appends.iter().for_each(|row| self.appended.push(inserted(row)));
            hit
        }

        /// As a sink does it: all at once, or by halves until the refused change stands alone.
        fn apply_merged(&mut self, changes: &[Change<u8, u8>], refused: &mut usize) {
            let mut attempt = self.clone();
            if merge(changes.to_vec()).iter().all(|step| attempt.apply_step(step)) {
                *self = attempt;
            } else if let [_] = changes {
                *refused += 1;
            } else {
                let (first, second) = changes.split_at(changes.len() / 2);
                self.apply_merged(first, refused);
                self.apply_merged(second, refused);
            }
        }
    }

    fn row(cells: &[Cell<u8>]) -> Row<u8> {
        cells.to_vec().into()
    }

    fn put(cells: &[Cell<u8>]) -> Change<u8, u8> {
        Change::Put { key: key(&row(cells)), row: row(cells) }
    }

    fn delete(key: u8) -> Change<u8, u8> {
        Change::Delete { key, row: row(&[Cell::Known(key), Cell::Absent, Cell::Absent]) }
    }

    fn changes() -> impl Strategy<Value = Vec<Change<u8, u8>>> {
        let cell = || prop_oneof![4 => any::<u8>().prop_map(Cell::Known), 1 => Just(Cell::Unchanged), 1 => Just(Cell::Absent)];
        let change = prop_oneof![
            12 => (0..6_u8, cell(), cell()).prop_map(|(key, one, two)| put(&[Cell::Known(key), one, two])),
            4 => (0..6_u8, cell()).prop_map(|(key, one)| Change::Update { key, row: row(&[Cell::Known(key), one, Cell::Unchanged]) }),
            4 => (0..6_u8).prop_map(delete),
            1 => any::<u8>().prop_map(|value| Change::Append { row: row(&[Cell::Known(value), Cell::Absent, Cell::Known(1)]) }),
            1 => Just(Change::Truncate),
        ];
        prop::collection::vec(change, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn merged_batches_leave_what_single_changes_leave(before in changes(), batch in changes()) {
            let mut one_by_one = Table::default();
            before.iter().for_each(|change| { one_by_one.apply_change(change); });
            let mut merged = one_by_one.clone();

            let refused_alone = batch.iter().filter(|change| !one_by_one.apply_change(change)).count();
            let mut refused = 0;
            merged.apply_merged(&batch, &mut refused);

            prop_assert_eq!(&merged, &one_by_one);
            // A patch that a whole row overwrites later is the one refusal that merging may spare.
            prop_assert!(refused <= refused_alone);
        }

        #[test]
        fn no_step_touches_a_key_twice(batch in changes()) {
            for step in merge(batch) {
                let mut written: Vec<u8> = step.puts.iter().chain(&step.patches).map(key).collect();
                let count = written.len();
                written.sort_unstable();
                written.dedup();
                prop_assert_eq!(written.len(), count);
                prop_assert!(step.puts.iter().all(|row| !row.contains(&Cell::Unchanged)));
            }
        }
    }

    #[test]
    fn an_unchanged_cell_keeps_the_value_that_an_earlier_change_of_the_batch_wrote() {
        let steps =
            merge([put(&[Cell::Known(1), Cell::Known(5), Cell::Known(6)]), put(&[Cell::Known(1), Cell::Unchanged, Cell::Known(7)])]);
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].puts, [row(&[Cell::Known(1), Cell::Known(5), Cell::Known(7)])]);
        assert!(steps[0].patches.is_empty());
    }

    #[test]
    fn two_patches_that_know_all_columns_together_are_still_no_row_to_insert() {
        let steps =
            merge([put(&[Cell::Known(1), Cell::Unchanged, Cell::Known(6)]), put(&[Cell::Known(1), Cell::Known(7), Cell::Unchanged])]);
        assert_eq!(steps[0].patches, [row(&[Cell::Known(1), Cell::Known(7), Cell::Known(6)])]);
        assert!(steps[0].puts.is_empty());
    }

    #[test]
    fn a_row_deleted_and_written_again_loses_what_it_had() {
        let steps = merge([delete(1), put(&[Cell::Known(1), Cell::Known(2), Cell::Absent])]);
        assert_eq!((steps[0].deletes.len(), steps[0].puts.len()), (1, 1));
    }

    #[test]
    fn a_truncate_parts_what_stands_before_and_after_it() {
        let steps = merge([delete(1), Change::Truncate, put(&[Cell::Known(1), Cell::Known(2), Cell::Known(3)])]);
        assert_eq!(steps.iter().map(|step| step.truncate).collect::<Vec<_>>(), [false, true]);
    }
}
