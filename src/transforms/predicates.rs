//! Predicates: whether a transform takes a record.

use tailwater_api::config::{ConfigField, ConfigReader, FieldType};
use tailwater_api::{Error, ErrorKind, Record, Result, Scope};
use tailwater_kit::java_regex::JavaRegex;

/// A configured predicate.
#[derive(Clone, Debug)]
pub(super) enum Predicate {
    /// `TopicNameMatches`: the expression matches the whole name of the topic
    TopicNameMatches(Box<JavaRegex>),
    /// `HasHeaderKey`: there is a header of this name
    HasHeaderKey(String),
    /// `RecordIsTombstone`: there is no value
    RecordIsTombstone,
}

/// A predicate that can be named.
pub(super) struct PredicateType {
    pub(super) class: &'static str,
    pub(super) fields: &'static [&'static [ConfigField]],
    pub(super) read: fn(&mut ConfigReader<'_>) -> Option<Predicate>,
}

const PATTERN: &[ConfigField] =
    &[ConfigField::new("pattern", FieldType::Text, "A Java regular expression for the whole name of the topic.").required()];
const NAME: &[ConfigField] = &[ConfigField::new("name", FieldType::Text, "Name of the header.").required()];

/// Every predicate, by its Java class.
pub(super) const TYPES: &[PredicateType] = &[
    PredicateType { class: "org.apache.kafka.connect.transforms.predicates.TopicNameMatches", fields: &[PATTERN], read: read_pattern },
    PredicateType { class: "org.apache.kafka.connect.transforms.predicates.HasHeaderKey", fields: &[NAME], read: read_name },
    PredicateType {
        class: "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone",
        fields: &[],
        read: |_| Some(Predicate::RecordIsTombstone),
    },
];

fn read_pattern(reader: &mut ConfigReader<'_>) -> Option<Predicate> {
    let pattern = reader.given("pattern")?;
    match JavaRegex::new(pattern) {
        Ok(regex) => Some(Predicate::TopicNameMatches(Box::new(regex))),
        Err(message) => {
            reader.fault("pattern", message);
            None
        }
    }
}

fn read_name(reader: &mut ConfigReader<'_>) -> Option<Predicate> {
    reader.given("name").map(|name| Predicate::HasHeaderKey(name.to_owned()))
}

impl Predicate {
    /// Whether the record fits.
    ///
    /// # Errors
    /// The expression tries too many ways to match.
    pub(super) fn test(&self, record: &Record) -> Result<bool> {
        match self {
            Self::TopicNameMatches(regex) => regex.matches(&record.topic).map_err(|error| {
                Error::new(ErrorKind::Rejected, format!("match topic {} with a predicate", record.topic))
                    .scoped(Scope::Record)
                    .because(error)
            }),
            Self::HasHeaderKey(name) => Ok(record.headers.last(name).is_some()),
            Self::RecordIsTombstone => Ok(record.value.value.is_null()),
        }
    }
}
