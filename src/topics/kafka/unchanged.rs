//! The header that tells unchanged values, and those not in the identity, from their stand-ins (I8).
//!
//! Bytes know only values and null. A record that has such fields carries where they stand in the header
//! `__tailwater.context.unchanged`: a JSON object of two lists, `unchanged` and `not-in-identity`, of paths, each the list of the
//! names of fields from the value's root, for instance `{"unchanged":[["after","note"]]}`. No other record has the header.
//! Inside of arrays and maps there are no such values.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tailwater_api::{Kind, Schema, Value};

/// Name of the header.
pub(super) const HEADER: &str = "__tailwater.context.unchanged";

/// Deepest path that is looked at.
const DEPTH: usize = 16;

type Path<'a> = Vec<Cow<'a, str>>;

/// Where the fields stand.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct UnknownFields<'a> {
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    unchanged: Vec<Path<'a>>,
    #[serde(default, borrow, rename = "not-in-identity", skip_serializing_if = "Vec::is_empty")]
    not_in_identity: Vec<Path<'a>>,
}

impl<'a> UnknownFields<'a> {
    /// The fields of a record's value; `None` where there are none, which costs a look at each field and nothing more.
    pub(super) fn of(schema: Option<&'a Schema>, value: &Value) -> Option<Self> {
        let (schema, Value::Struct(values)) = (schema?, value) else { return None };
        if !has_unknown(values, DEPTH) {
            return None;
        }
        let mut found = Self::default();
        found.collect(schema, value, &mut Vec::new());
        Some(found)
    }

    /// The header's value.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("lists of texts have a JSON form")
    }

    /// Reads a header's value.
    pub(super) fn parse(bytes: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// Puts the fields into a value that was read from bytes. Paths that lead nowhere are of a transform that came later.
    pub(super) fn restore(&self, schema: Option<&Schema>, value: &mut Value) {
        for path in &self.unchanged {
            put(schema, value, path, Value::Unchanged);
        }
        for path in &self.not_in_identity {
            put(schema, value, path, Value::NotInIdentity);
        }
    }

    fn collect(&mut self, schema: &'a Schema, value: &Value, path: &mut Path<'a>) {
        let Value::Struct(values) = value else { return };
        for (field, value) in schema.fields().iter().zip(values) {
            path.push(Cow::Borrowed(&field.name));
            match value {
                Value::Unchanged => self.unchanged.push(path.clone()),
                Value::NotInIdentity => self.not_in_identity.push(path.clone()),
                value if path.len() < DEPTH => self.collect(&field.schema, value, path),
                _ => {}
            }
            path.pop();
        }
    }
}

fn has_unknown(values: &[Value], depth: usize) -> bool {
    values.iter().any(|value| match value {
        Value::Unchanged | Value::NotInIdentity => true,
        Value::Struct(values) if depth > 1 => has_unknown(values, depth - 1),
        _ => false,
    })
}

fn put(schema: Option<&Schema>, value: &mut Value, path: &[Cow<'_, str>], unknown: Value) {
    let Some((name, rest)) = path.split_first() else {
        *value = unknown;
        return;
    };
    match (schema.map(Schema::kind), value) {
        (Some(Kind::Struct(fields)), Value::Struct(values)) => {
            if let Some(index) = fields.iter().position(|field| *field.name == **name)
                && let Some(value) = values.get_mut(index)
            {
                put(Some(&fields[index].schema), value, rest, unknown);
            }
        }
        (None, Value::Map(entries)) => {
            if let Some((_, value)) = entries.iter_mut().find(|(key, _)| key.as_text() == Some(name)) {
                put(None, value, rest, unknown);
            }
        }
        (_, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tailwater_api::Field;

    use super::*;

    fn event() -> Arc<Schema> {
        let text = || Schema::of(Kind::String).optional().build();
        let row = Schema::structure(vec![Field::new("id", text()), Field::new("a.b", text())]).optional().build();
        Schema::structure(vec![Field::new("before", Arc::clone(&row)), Field::new("after", row)]).build()
    }

    fn row(one: Value, two: Value) -> Value {
        Value::Struct(Box::new([one, two]))
    }

    #[test]
    fn i8_unknown_fields_survive_the_way_through_bytes() {
        let schema = event();
        let value = row(row("1".into(), Value::NotInIdentity), row("1".into(), Value::Unchanged));
        let fields = UnknownFields::of(Some(&schema), &value).unwrap();
        let bytes = fields.to_bytes();
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), r#"{"unchanged":[["after","a.b"]],"not-in-identity":[["before","a.b"]]}"#);
        let mut read = row(row("1".into(), Value::Null), row("1".into(), "__debezium_unavailable_value".into()));
        UnknownFields::parse(&bytes).unwrap().restore(Some(&schema), &mut read);
        assert_eq!(read, value);
    }

    #[test]
    fn a_record_of_known_fields_has_no_header() {
        let known = row(row("1".into(), Value::Null), Value::Null);
        assert_eq!(UnknownFields::of(Some(&event()), &known), None);
        assert_eq!(UnknownFields::of(None, &Value::Null), None);
    }

    #[test]
    fn without_a_schema_maps_are_structs() {
        let entry = |key: &str, value| (Value::from(key), value);
        let mut read = Value::Map(Box::new([entry("after", Value::Map(Box::new([entry("a", Value::Null)])))]));
        UnknownFields::parse(br#"{"unchanged":[["after","a"],["gone","b"]]}"#).unwrap().restore(None, &mut read);
        assert_eq!(read, Value::Map(Box::new([entry("after", Value::Map(Box::new([entry("a", Value::Unchanged)])))])));
    }
}
