//! By what the rows of a table are told apart, as octets that the windows hold against each other.
//!
//! That is the table's own key, whichever key its records have: `message.key.columns` may name columns that several rows agree
//! in, and that an update changes without a word about what they were. Of a table without a key it is the column that a signal names,
//! or what `message.key.columns` names.
//!
//! The values are taken as they stand in records: from the record's key where that is this key, which may have columns that the row
//! has not, and from the row otherwise.

use std::fmt::Write;

use tailwater_api::Value;
use tailwater_kit::envelope::Change;

use crate::relation::TablePlan;

/// The columns that tell rows of one shape apart.
pub(super) struct RowKey {
    /// The places of their values in the row; `None` where the record's key is made of them
    places: Option<Vec<usize>>,
    /// The columns with their types: without them octets mean nothing
    form: String,
    /// Whether the log tells of their old values where they change.
    is_told: bool,
}

impl RowKey {
    /// By what rows are told apart that become records by the plan; `surrogate` is the column that stands for the key where a table
    /// has none. `None` where records do not hold the values.
    pub(super) fn of(plan: &TablePlan, surrogate: Option<&str>) -> Option<Self> {
        let surrogate = match surrogate.filter(|_| plan.own_key().is_empty()) {
            Some(name) => Some([plan.shape.column(name)?]),
            None => None,
        };
        let columns = match &surrogate {
            Some(column) => column,
            None if plan.own_key().is_empty() => plan.key_columns(),
            None => plan.own_key(),
        };
        let is_of_record = columns == plan.key_columns();
        let places = if is_of_record { None } else { Some(columns.iter().map(|&column| plan.place(column)).collect::<Option<_>>()?) };
        let described = columns.iter().map(|&column| &plan.shape.columns[column]);
        let mut form = String::new();
        for column in described.clone() {
            write!(form, "{} {} {},", column.name, column.type_oid, column.type_modifier).expect("a text takes what is written");
        }
        (!columns.is_empty()).then_some(Self { places, form, is_told: described.into_iter().all(|column| column.in_identity) })
    }

    /// Whether records have this key, too.
    pub(super) fn is_of_record(&self) -> bool {
        self.places.is_none()
    }

    /// What the octets mean.
    pub(super) fn form(&self) -> &str {
        &self.form
    }

    /// Calls `touch` with the octets of each key that the change touched; `false` where the log does not tell all. The octets are
    /// written into `octets`, over what is there.
    pub(super) fn each_touched(&self, change: &Change, octets: &mut Vec<u8>, mut touch: impl FnMut(&[u8])) -> bool {
        let rows = match change {
            Change::Read { key, after } | Change::Create { key, after } => [Some((key, after)), None],
            Change::Delete { key, before } => [Some((key, before)), None],
            // Without the row before, what is part of the identity did not change.
            Change::Update { key, before: Value::Null, after } if self.is_told => [Some((key, after)), None],
            Change::Update { before: Value::Null, .. } | Change::Truncate => return false,
            Change::Update { key, before, after } => [Some((key, before)), Some((key, after))],
            Change::KeyChange { old_key, new_key, before, after } => [Some((old_key, before)), Some((new_key, after))],
        };
        rows.into_iter().flatten().all(|(key, row)| {
            octets.clear();
            let is_known = self.put(key, row, octets);
            if is_known {
                touch(octets);
            }
            is_known
        })
    }

    /// Writes the octets of the one key that the change touched; `false` where it touched two, or the log does not tell all.
    pub(super) fn put_kept(&self, change: &Change, octets: &mut Vec<u8>) -> bool {
        let (mut first, mut is_kept): (Option<Box<[u8]>>, bool) = (None, true);
        let is_told = self.each_touched(change, octets, |octets| match &first {
            Some(first) => is_kept &= **first == *octets,
            None => first = Some(octets.into()),
        });
        is_told && is_kept
    }

    /// Writes the octets by which a row that was read is told apart. Of such a row all is known.
    pub(super) fn put_read(&self, row: &Change, octets: &mut Vec<u8>) {
        if let Change::Read { key, after } = row {
            self.put(key, after, octets);
        }
    }

    /// Writes the octets of the record's key or of values of the row; `false` where a part of them is not known.
    fn put(&self, key: &Value, row: &Value, octets: &mut Vec<u8>) -> bool {
        let Some(places) = &self.places else { return put(key, octets) };
        let value = |place: &usize| row.as_struct().and_then(|values| values.get(*place));
        places.iter().all(|place| value(place).is_some_and(|value| put(value, octets)))
    }
}

/// Writes the value as octets that differ where values differ; `false` where a part of it is not known (I8).
fn put(value: &Value, octets: &mut Vec<u8>) -> bool {
    let mut tagged = |tag: u8, content: &[u8]| {
        octets.push(tag);
        octets.extend_from_slice(&(content.len() as u64).to_be_bytes());
        octets.extend_from_slice(content);
    };
    match value {
        Value::Unchanged | Value::NotInIdentity => return false,
        Value::Null => tagged(0, &[]),
        Value::Boolean(value) => tagged(1, &[u8::from(*value)]),
        Value::Int8(value) => tagged(2, &value.to_be_bytes()),
        Value::Int16(value) => tagged(3, &value.to_be_bytes()),
        Value::Int32(value) => tagged(4, &value.to_be_bytes()),
        Value::Int64(value) => tagged(5, &value.to_be_bytes()),
        Value::Float32(value) => tagged(6, &value.to_be_bytes()),
        Value::Float64(value) => tagged(7, &value.to_be_bytes()),
        Value::Bytes(value) => tagged(8, value),
        Value::String(value) => tagged(9, value.as_bytes()),
        Value::Array(values) | Value::Struct(values) => {
            tagged(10, &(values.len() as u64).to_be_bytes());
            return values.iter().all(|value| put(value, octets));
        }
        Value::Map(entries) => {
            tagged(11, &(entries.len() as u64).to_be_bytes());
            return entries.iter().all(|(key, value)| put(key, octets) && put(value, octets));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Value]) -> Value {
        Value::Struct(values.into())
    }

    fn octets_of(value: &Value) -> Option<Vec<u8>> {
        let mut octets = Vec::new();
        put(value, &mut octets).then_some(octets)
    }

    /// The keys that the change touched, if the log tells all.
    fn touched(row_key: &RowKey, change: &Change) -> Option<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        row_key.each_touched(change, &mut vec![7], |octets| keys.push(octets.to_vec())).then_some(keys)
    }

    /// Of records whose key is that of the rows.
    fn of_record(is_told: bool) -> RowKey {
        RowKey { places: None, form: "id 23 -1,".into(), is_told }
    }

    /// Of records that have a key of their own; rows are told apart by their second value.
    fn of_row(is_told: bool) -> RowKey {
        RowKey { places: Some(vec![1]), form: "id 23 -1,".into(), is_told }
    }

    #[test]
    fn keys_that_differ_have_octets_that_differ() {
        let values = [
            row(&["a".into(), "".into()]),
            row(&["".into(), "a".into()]),
            row(&["a".into()]),
            row(&[Value::Null]),
            row(&[Value::Int32(1)]),
            row(&[Value::Int64(1)]),
            row(&[row(&[Value::Int32(1)])]),
            Value::Null,
        ];
        let octets: std::collections::HashSet<_> = values.iter().map(|value| octets_of(value).unwrap()).collect();
        assert_eq!(octets.len(), values.len());
        assert_eq!(octets_of(&row(&[Value::Int32(1), Value::Unchanged])), None);
    }

    #[test]
    fn a_changed_key_touches_both() {
        let [old, new] = [1, 2].map(|key| row(&[Value::Int32(key)]));
        let [before, after] = [1, 2].map(|key| row(&["x".into(), Value::Int32(key)]));
        let change = Change::KeyChange { old_key: old.clone(), new_key: new.clone(), before: before.clone(), after: after.clone() };
        assert_eq!(touched(&of_record(true), &change).unwrap(), [octets_of(&old).unwrap(), octets_of(&new).unwrap()]);
        let both = [1, 2].map(|key| octets_of(&Value::Int32(key)).unwrap());
        assert_eq!(touched(&of_row(true), &change).unwrap(), both);
        // The key of the record stays, the row's own changes.
        let change = Change::Update { key: row(&["x".into()]), before, after };
        assert_eq!(touched(&of_row(true), &change).unwrap(), both);
        assert!(!of_row(true).put_kept(&change, &mut Vec::new()) && of_record(true).put_kept(&change, &mut Vec::new()));
    }

    #[test]
    fn a_row_is_told_apart_by_its_own_values() {
        let after = row(&["x".into(), Value::Int32(5)]);
        let create = Change::Create { key: Value::Null, after: after.clone() };
        let expected = octets_of(&Value::Int32(5)).unwrap();
        assert_eq!(touched(&of_row(false), &create), Some(vec![expected.clone()]));
        let mut read = Vec::new();
        of_row(false).put_read(&Change::Read { key: Value::Null, after }, &mut read);
        assert_eq!(read, expected);
        let delete = Change::Delete { key: row(&["".into()]), before: row(&[Value::NotInIdentity, Value::Int32(5)]) };
        assert_eq!(touched(&of_row(true), &delete).unwrap(), [expected]);
        let untold = Change::Delete { key: row(&["".into()]), before: row(&["x".into(), Value::NotInIdentity]) };
        assert_eq!(touched(&of_row(true), &untold), None);
    }

    #[test]
    fn an_update_without_the_row_before_left_the_key_as_it_was_where_that_is_in_the_identity() {
        let update = Change::Update { key: row(&[Value::Int32(5)]), before: Value::Null, after: row(&["x".into(), Value::Int32(5)]) };
        assert_eq!(touched(&of_row(true), &update).unwrap(), [octets_of(&Value::Int32(5)).unwrap()]);
        assert_eq!(touched(&of_row(false), &update), None);
        assert!(touched(&of_record(true), &update).is_some());
        assert!(touched(&of_record(false), &update).is_none());
    }
}
