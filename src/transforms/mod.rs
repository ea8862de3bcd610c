//! Single-message transforms: record to record.
//!
//! `transforms` names them in order; `transforms.NAME.type` is a Java class or its name without the package, the options follow behind
//! `transforms.NAME.`. A transform with a `predicate` takes only the records that this predicate, declared in
//! `predicates`, says yes to, or no with `negate`; the others pass it untouched.

mod predicates;
mod regex_router;
mod unwrap;

use tailwater_api::Result;
use tailwater_api::config::{ConfigFault, ConfigField, ConfigReader, ConfigReport, ConfigValues, FieldType, split_list};
use tailwater_api::record::Record;

use self::predicates::{Predicate, PredicateType};
use self::regex_router::RegexRouter;
use self::unwrap::ExtractNewRecordState;
use crate::config::nearest::nearest;
use crate::config::options::read_options;

/// A configured transform. Keeps caches, so it is owned by one task.
pub trait Transform: Send {
    /// The record in its new form, or `None` to drop it. `is_copy` says whether a transform before made it anew, as Connect's `newRecord`
    /// does; one that does so sets it.
    ///
    /// # Errors
    /// The record does not fit; its scope is the record.
    fn apply(&mut self, record: Record, is_copy: &mut bool) -> Result<Option<Record>>;
}

/// The transforms of a connector with their predicates, in order.
pub struct TransformChain {
    steps: Vec<Step>,
}

struct Step {
    transform: Box<dyn Transform>,
    /// Predicate, and the answer with which a record is taken
    condition: Option<(Predicate, bool)>,
}

impl TransformChain {
    /// Builds the chain from the keys `transforms`, `transforms.*`, `predicates`, `predicates.*` of a connector.
    ///
    /// # Errors
    /// All faults of the keys.
    pub fn from_config(config: &ConfigValues) -> Result<(Self, ConfigReport), ConfigReport> {
        let mut report = ConfigReport::default();
        let predicates = read_predicates(config, &mut report);
        let names = names(config, "transforms", &mut report);
        let steps: Vec<Step> = names.iter().filter_map(|name| read_step(name, config, &predicates, &mut report)).collect();
        if report.faults.is_empty() { Ok((Self { steps }, report)) } else { Err(report) }
    }

    /// Whether records pass untouched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Passes one record through all transforms.
    ///
    /// # Errors
    /// Those of the transforms.
    pub fn apply(&mut self, mut record: Record) -> Result<Option<Record>> {
        let mut is_copy = false;
        for Step { transform, condition } in &mut self.steps {
            if let Some((predicate, taken)) = condition
                && predicate.test(&record)? != *taken
            {
                continue;
            }
            match transform.apply(record, &mut is_copy)? {
                Some(next) => record = next,
                None => return Ok(None),
            }
        }
        Ok(Some(record))
    }
}

/// A transform that can be named.
struct TransformType {
    class: &'static str,
    /// [`COMMON`] first
    fields: &'static [&'static [ConfigField]],
    read: fn(&mut ConfigReader<'_>) -> Option<Box<dyn Transform>>,
}

/// Every transform, by its Java class.
const TYPES: &[TransformType] = &[
    TransformType {
        class: "org.apache.kafka.connect.transforms.RegexRouter",
        fields: &[COMMON, regex_router::FIELDS],
        read: |reader| Some(Box::new(RegexRouter::read(reader)?)),
    },
    TransformType {
        class: "io.debezium.transforms.ExtractNewRecordState",
        fields: &[COMMON, unwrap::FIELDS],
        read: |reader| Some(Box::new(ExtractNewRecordState::read(reader)?)),
    },
];

/// Classes and keys of all transforms, without the keys that every transform has.
pub fn transforms() -> impl Iterator<Item = (&'static str, &'static [&'static [ConfigField]])> {
    TYPES.iter().map(|known| (known.class, &known.fields[1..]))
}

/// Classes and keys of all predicates.
pub fn predicates() -> impl Iterator<Item = (&'static str, &'static [&'static [ConfigField]])> {
    predicates::TYPES.iter().map(|known| (known.class, known.fields))
}

/// Keys of every transform.
const COMMON: &[ConfigField] = &[
    ConfigField::new("predicate", FieldType::Text, "Name of the predicate that chooses the records."),
    ConfigField::new("negate", FieldType::Boolean, "Whether to take the records to which the predicate says no.").default("false"),
];

/// Whether `name` means `class`: the class itself, or its name without the package.
fn means(name: &str, class: &str) -> bool {
    name == class || class.rsplit('.').next() == Some(name)
}

/// The names of a list, each once.
fn names(config: &ConfigValues, key: &str, report: &mut ConfigReport) -> Vec<String> {
    let mut names = Vec::new();
    for name in config.get(key).map(split_list).unwrap_or_default() {
        if names.contains(&name) {
            report.faults.push(fault(key, format!("names {name} twice")));
        } else {
            names.push(name);
        }
    }
    let prefix = format!("{key}.");
    for (option, _) in config.with_prefix(&prefix) {
        if !names.iter().any(|name| option.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'))) {
            let message = format!("has no effect: {key} does not name it");
            report.notes.push(fault(&format!("{prefix}{option}"), message));
        }
    }
    names
}

/// The class that `PREFIXtype` names; a fault where there is none.
fn class<'a>(prefix: &str, config: &'a ConfigValues, report: &mut ConfigReport) -> Option<&'a str> {
    let key = format!("{prefix}type");
    let class = config.get(&key).map(str::trim).filter(|class| !class.is_empty());
    if class.is_none() {
        report.faults.push(fault(&key, "is missing: the class that it names".to_owned()));
    }
    class
}

fn unknown(what: &str, class: &str, known: impl Iterator<Item = &'static str>) -> String {
    let mut candidates: Vec<&str> = Vec::new();
    for class in known {
        candidates.extend([Some(class), class.rsplit('.').next()].into_iter().flatten());
    }
    match nearest(class, candidates) {
        Some(nearest) => format!("unknown or not yet available {what} {class}; did you mean {nearest}?"),
        None => format!("unknown or not yet available {what} {class}"),
    }
}

fn read_predicates(config: &ConfigValues, report: &mut ConfigReport) -> Vec<(String, Option<Predicate>)> {
    let mut predicates = Vec::new();
    for name in names(config, "predicates", report) {
        let prefix = format!("predicates.{name}.");
        let predicate = class(&prefix, config, report).and_then(|class| {
            let Some(PredicateType { fields, read, .. }) = predicates::TYPES.iter().find(|known| means(class, known.class)) else {
                let known = predicates::TYPES.iter().map(|known| known.class);
                report.faults.push(fault(&format!("{prefix}type"), unknown("predicate", class, known)));
                return None;
            };
            read_options(&prefix, config, fields, &["type", "plugin.version"], report, read)
        });
        predicates.push((name, predicate));
    }
    predicates
}

fn read_step(name: &str, config: &ConfigValues, predicates: &[(String, Option<Predicate>)], report: &mut ConfigReport) -> Option<Step> {
    let prefix = format!("transforms.{name}.");
    let class = class(&prefix, config, report)?;
    let Some(TransformType { fields, read, .. }) = TYPES.iter().find(|known| means(class, known.class)) else {
        report.faults.push(fault(&format!("{prefix}type"), unknown("transform", class, TYPES.iter().map(|known| known.class))));
        return None;
    };
    let (transform, condition) = read_options(&prefix, config, fields, &["type", "plugin.version"], report, |reader| {
        let transform = read(reader);
        let condition = reader.optional_text("predicate").map(|predicate| (predicate, !reader.boolean("negate")));
        (transform, condition)
    });
    let condition = match condition {
        None => None,
        Some((name, taken)) => {
            let Some((_, predicate)) = predicates.iter().find(|(known, _)| *known == name) else {
                let known = predicates.iter().map(|(known, _)| known.as_str());
                let advice = nearest(&name, known).map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
                report
                    .faults
                    .push(fault(&format!("{prefix}predicate"), format!("names {name}, which predicates does not declare{advice}")));
                return None;
            };
            Some((predicate.clone()?, taken))
        }
    };
    Some(Step { transform: transform?, condition })
}

fn fault(key: &str, message: String) -> ConfigFault {
    ConfigFault { key: key.to_owned(), message }
}

#[cfg(test)]
mod tests;
