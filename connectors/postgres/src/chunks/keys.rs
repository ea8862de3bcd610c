//! Keys as the octets that the windows hold against each other.
//!
//! They are taken from values as they stand in records. A row of a table without a key is told apart by the column that its
//! chunks are ordered by.

use tailwater_api::Value;
use tailwater_kit::envelope::Change;

/// Which rows a change touched.
pub(super) enum TouchedRows {
    /// Those with these keys
    Keys(Vec<Vec<u8>>),
    /// All
    All,
    /// The log does not tell: a long text in the key that the update left as it was (I8).
    Unknown,
}

/// The rows that the change touched. `column` is the place of the column that stands for the key where a table has none.
pub(super) fn touched(change: &Change, column: Option<usize>) -> TouchedRows {
    let (keys, rows) = match change {
        Change::Read { key, after } | Change::Create { key, after } => ([Some(key), None], [Some(after), None]),
        Change::Update { key, before, after } => ([Some(key), None], [Some(before), Some(after)]),
        Change::Delete { key, before } => ([Some(key), None], [Some(before), None]),
        Change::KeyChange { old_key, new_key, before, after } => ([Some(old_key), Some(new_key)], [Some(before), Some(after)]),
        Change::Truncate => return TouchedRows::All,
    };
    let octets: Option<Vec<Vec<u8>>> = match column {
        None => keys.into_iter().flatten().map(of_key).collect(),
        Some(place) => rows.into_iter().flatten().map(|row| of_column(row, place)).collect(),
    };
    octets.map_or(TouchedRows::Unknown, TouchedRows::Keys)
}

/// Writes the octets by which a row that was read is told apart. Of such a row all is known.
pub(super) fn put_key(row: &Change, column: Option<usize>, octets: &mut Vec<u8>) {
    if let Change::Read { key, after } = row {
        let value = match column {
            None => Some(key),
            Some(place) => after.as_struct().and_then(|values| values.get(place)),
        };
        value.map(|value| put(value, octets));
    }
}

/// The octets of a record's key; `None` where a part of it is not known.
fn of_key(key: &Value) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    put(key, &mut octets).then_some(octets)
}

/// The octets of one value of a row; `None` where it is not known.
fn of_column(row: &Value, place: usize) -> Option<Vec<u8>> {
    of_key(row.as_struct()?.get(place)?)
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

    fn keys(change: &Change, column: Option<usize>) -> Option<Vec<Vec<u8>>> {
        match touched(change, column) {
            TouchedRows::Keys(keys) => Some(keys),
            TouchedRows::All | TouchedRows::Unknown => None,
        }
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
        let octets: std::collections::HashSet<_> = values.iter().map(|value| of_key(value).unwrap()).collect();
        assert_eq!(octets.len(), values.len());
        assert_eq!(of_key(&row(&[Value::Int32(1), Value::Unchanged])), None);
    }

    #[test]
    fn a_changed_key_touches_both() {
        let [old, new] = [1, 2].map(|key| row(&[Value::Int32(key)]));
        let change = Change::KeyChange { old_key: old.clone(), new_key: new.clone(), before: old.clone(), after: new.clone() };
        assert_eq!(keys(&change, None).unwrap(), [of_key(&old).unwrap(), of_key(&new).unwrap()]);
        assert_eq!(keys(&change, Some(0)).unwrap(), [of_key(&Value::Int32(1)).unwrap(), of_key(&Value::Int32(2)).unwrap()]);
    }

    #[test]
    fn a_row_without_a_key_is_told_apart_by_its_column() {
        let after = row(&["x".into(), Value::Int32(5)]);
        let create = Change::Create { key: Value::Null, after: after.clone() };
        assert_eq!(keys(&create, Some(1)).unwrap(), [of_key(&Value::Int32(5)).unwrap()]);
        // The row before is not told.
        assert_eq!(keys(&Change::Update { key: Value::Null, before: Value::Null, after: after.clone() }, Some(1)), None);
        let mut read = Vec::new();
        put_key(&Change::Read { key: Value::Null, after }, Some(1), &mut read);
        assert_eq!(read, of_key(&Value::Int32(5)).unwrap());
    }
}
