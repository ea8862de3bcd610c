//! `org.apache.kafka.connect.transforms.RegexRouter`: names the topic by a Java regular expression that matches the whole name.

use std::sync::Arc;

use tailwater_api::config::{ConfigField, ConfigReader, FieldType};
use tailwater_api::{Error, ErrorKind, Record, Result, Scope};
use tailwater_kit::java_regex::{JavaRegex, Replacement};

use super::Transform;

pub(super) const FIELDS: &[ConfigField] = &[
    ConfigField::new("regex", FieldType::Text, "A Java regular expression for the whole name of the topic.").required(),
    ConfigField::new("replacement", FieldType::Text, "The new name; $1 and ${name} are groups of the expression.").required(),
];

/// Renames topics. Records of one topic follow each other, so the last answer is kept.
pub(super) struct RegexRouter {
    regex: JavaRegex,
    replacement: Replacement,
    last: Option<(Arc<str>, Option<Arc<str>>)>,
}

impl RegexRouter {
    pub(super) fn read(reader: &mut ConfigReader<'_>) -> Option<Self> {
        let regex = JavaRegex::new(reader.given("regex")?).map_err(|message| reader.fault("regex", message)).ok()?;
        let replacement = regex.replacement(reader.given("replacement")?).map_err(|message| reader.fault("replacement", message)).ok()?;
        Some(Self { regex, replacement, last: None })
    }

    fn routed(&mut self, topic: &Arc<str>) -> Result<Option<&Arc<str>>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != topic) {
            let routed = self.regex.replace_whole(topic, &self.replacement).map_err(|error| {
                Error::new(ErrorKind::Rejected, format!("match topic {topic} with RegexRouter")).scoped(Scope::Record).because(error)
            })?;
            self.last = Some((topic.clone(), routed.map(Arc::from)));
        }
        Ok(self.last.as_ref().and_then(|(_, routed)| routed.as_ref()))
    }
}

impl Transform for RegexRouter {
    fn apply(&mut self, mut record: Record, is_copy: &mut bool) -> Result<Option<Record>> {
        if let Some(topic) = self.routed(&record.topic)? {
            record.topic = topic.clone();
            *is_copy = true;
        }
        Ok(Some(record))
    }
}
