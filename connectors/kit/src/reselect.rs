//! The post-processor of Debezium that reads values again that the log does not hold
//! (`io.debezium.processors.reselect.ReselectColumnsPostProcessor`, 3.6): where a change left a large value as it was, or
//! where it is null, the value is selected from its table by the key of the event.
//!
//! What is found is the value of now and not that of the change, and nothing where the row is gone.
//!
//! ```text
//! post.processors=NAME
//! NAME.type=io.debezium.processors.reselect.ReselectColumnsPostProcessor
//! NAME.reselect.columns.include.list=schema.table:column,…    (or exclude; expressions)
//! NAME.reselect.unavailable.values=true
//! NAME.reselect.null.values=true
//! NAME.reselect.error.handling.mode=WARN                      (or FAIL)
//! ```

use std::collections::BTreeMap;

use tailwater_api::config::ConfigReader;

use crate::filters::{NameFilter, NameList};

const CLASS: &str = "io.debezium.processors.reselect.ReselectColumnsPostProcessor";

/// Which values are read again.
#[derive(Clone, Debug)]
pub struct ReselectOptions {
    /// By `schema.table:column`
    columns: NameFilter,
    /// Whether values that a change left as they were are read again
    pub unavailable: bool,
    /// Whether nulls are read again
    pub nulls: bool,
    /// Whether the source ends where a value cannot be read
    pub fails: bool,
}

impl ReselectOptions {
    /// Reads `post.processors` and the keys of the processor that it names. What is none of ours is a fault.
    pub fn read(reader: &mut ConfigReader<'_>) -> Option<Self> {
        let mut found = None;
        for name in reader.list("post.processors") {
            let options: BTreeMap<String, String> = reader
                .family("")
                .filter_map(|(key, value)| Some((key.strip_prefix(&name)?.strip_prefix('.')?.to_owned(), value.trim().to_owned())))
                .collect();
            match options.get("type").map(String::as_str) {
                Some(CLASS) if found.is_none() => found = Some(Self::of(reader, &name, &options)),
                Some(CLASS) => reader.fault("post.processors", "names two processors that read values again; keep one of them"),
                Some(other) => reader.fault("post.processors", format!("names {name}, whose type {other} is unknown; there is {CLASS}")),
                None => reader.fault("post.processors", format!("names {name}, but {name}.type is missing")),
            }
        }
        found
    }

    fn of(reader: &mut ConfigReader<'_>, name: &str, options: &BTreeMap<String, String>) -> Self {
        let mut list = |key: &str| {
            let text = options.get(key)?;
            match NameList::parse(text) {
                Ok(list) => Some(list),
                Err(message) => {
                    reader.fault(&format!("{name}.{key}"), message);
                    None
                }
            }
        };
        let columns = match (list("reselect.columns.include.list"), list("reselect.columns.exclude.list")) {
            (None, None) => NameFilter::All,
            (Some(included), _) => NameFilter::Include(included),
            (None, Some(excluded)) => NameFilter::Exclude(excluded),
        };
        let is_set = |key: &str| options.get(key).is_none_or(|value| value.eq_ignore_ascii_case("true"));
        Self {
            columns,
            unavailable: is_set("reselect.unavailable.values"),
            nulls: is_set("reselect.null.values"),
            fails: options.get("reselect.error.handling.mode").is_some_and(|mode| mode.eq_ignore_ascii_case("fail")),
        }
    }

    /// Whether the column is read again.
    #[must_use]
    pub fn accepts(&self, schema: &str, table: &str, column: &str) -> bool {
        self.columns.accepts(&format!("{schema}.{table}:{column}"))
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigField, ConfigValues, FieldType};

    use super::*;

    const FIELDS: &[&[ConfigField]] = &[&[ConfigField::new("post.processors", FieldType::List, "")]];

    fn read(entries: &[(&str, &str)]) -> Result<Option<ReselectOptions>, String> {
        let values: ConfigValues = entries.iter().copied().collect();
        let mut reader = ConfigReader::new(FIELDS, &values);
        let options = ReselectOptions::read(&mut reader);
        match reader.into_report().faults.first() {
            Some(fault) => Err(fault.to_string()),
            None => Ok(options),
        }
    }

    #[test]
    fn columns_are_chosen_by_table_and_name() {
        let options =
            read(&[("post.processors", "again"), ("again.type", CLASS), ("again.reselect.columns.include.list", r"public\.big:t")])
                .unwrap()
                .unwrap();
        assert!(options.accepts("public", "big", "t") && !options.accepts("public", "big", "u"));
        assert!(options.unavailable && options.nulls && !options.fails);
        assert!(read(&[]).unwrap().is_none());
    }

    #[test]
    fn what_is_no_processor_is_a_fault() {
        for entries in [
            vec![("post.processors", "again")],
            vec![("post.processors", "again"), ("again.type", "com.example.Other")],
            vec![("post.processors", "a,b"), ("a.type", CLASS), ("b.type", CLASS)],
            vec![("post.processors", "a"), ("a.type", CLASS), ("a.reselect.columns.include.list", "[")],
        ] {
            assert!(read(&entries).is_err(), "{entries:?}");
        }
    }
}
