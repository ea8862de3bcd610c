//! Checks a connector's configuration without I/O and reports every fault at once (I15).
//!
//! Four things are asked: the connector about its own keys, the tables of `fields` about the keys that every
//! connector has, the converters, and the transforms. A value that holds a placeholder such as `${env:PORT}` is known
//! only where the connector runs, so a value of the right shape stands in for it and faults of its key are dropped.

use serde_json::Value;
use tailwater_api::config::{ConfigFault, ConfigField, ConfigReader, ConfigReport, ConfigValues, FieldType, read_config, split_list};
use tailwater_api::state::JsonMap;

use super::document::fault;
use super::fields::{CONNECTOR_FIELDS, SINK_FIELDS, SOURCE_FIELDS, name as check_name};
use super::nearest::nearest;
use super::providers::has_placeholder;
use crate::connectors;
use crate::converters::Converters;
use crate::runtime::plugin::Plugin;
use crate::runtime::settings::ConnectorSettings;
use crate::runtime::worker::ConnectorType;
use crate::topics;
use crate::topics::kafka::signals::SignalTopic;
use crate::transforms::TransformChain;

const COMMON: &[&[ConfigField]] = &[CONNECTOR_FIELDS];
const SOURCE: &[&[ConfigField]] = &[CONNECTOR_FIELDS, SOURCE_FIELDS];
const SINK: &[&[ConfigField]] = &[CONNECTOR_FIELDS, SINK_FIELDS];

/// The tables of the keys that every connector of a kind has, beside its own.
#[must_use]
pub fn common_fields(kind: ConnectorType) -> &'static [&'static [ConfigField]] {
    match kind {
        ConnectorType::Source => SOURCE,
        ConnectorType::Sink => SINK,
    }
}

/// All keys that a connector declares or has as every connector of its kind.
pub(crate) fn fields_of(plugin: &dyn Plugin) -> impl Iterator<Item = &'static ConfigField> {
    plugin.fields().iter().chain(common_fields(plugin.kind())).copied().flatten()
}

/// The flat text values of a configuration; keys that are null are left out.
///
/// # Errors
/// All faults: values that are no scalars.
pub fn flatten(config: &JsonMap) -> Result<ConfigValues, ConfigReport> {
    let mut values = ConfigValues::default();
    let mut report = ConfigReport::default();
    for (key, value) in config {
        match value {
            Value::Null => {}
            Value::String(text) => values.set(key, text),
            Value::Bool(_) | Value::Number(_) => values.set(key, value.to_string()),
            Value::Array(_) => report.faults.push(fault(key, "must be text, a number or a truth value, not a list")),
            Value::Object(_) => report.faults.push(fault(key, "must be text, a number or a truth value, not an object")),
        }
    }
    if report.faults.is_empty() { Ok(values) } else { Err(report) }
}

/// Checks the connector's own keys, the keys that every connector has, converters, transforms and predicates, and names
/// unknown keys with the nearest known one. Placeholders such as `${env:NAME}` count as given.
#[must_use]
pub fn check(name: &str, config: &ConfigValues, defaults: &ConfigValues) -> ConfigReport {
    let mut report = ConfigReport::default();
    if let Err(message) = check_name(name) {
        report.faults.push(fault("name", message));
    }
    let class = config.get("connector.class").map(str::trim).filter(|class| !class.is_empty());
    let plugin = class.and_then(connectors::find);
    match plugin {
        Some(plugin) => {
            if config.get("connector").is_some_and(|short| connectors::find(short).is_none_or(|named| named.class() != plugin.class())) {
                report.faults.push(fault("connector", "names another connector than connector.class; leave one of them out"));
            }
            let own = plugin.fields();
            let common = common_fields(plugin.kind());
            let values = stand_in(config, &[own, common].concat());
            merge(&mut report, check_common(plugin.kind(), &values));
            merge(&mut report, plugin.check(&values));
            let placeholder = plugin.unavailable_value_placeholder(&values);
            merge(&mut report, Converters::from_config(&values, defaults, &placeholder).map_or_else(|report| report, |(_, report)| report));
            merge(&mut report, topics::check(plugin.kind() == ConnectorType::Source, &values, defaults));
            if plugin.takes_signals() {
                merge(&mut report, SignalTopic::of(name, &values).map_or_else(|report| report, |(_, report)| report));
            }
            merge(&mut report, TransformChain::from_config(&values).map_or_else(|report| report, |(_, report)| report));
            name_unknown_keys(config, &[own, common].concat(), &mut report);
        }
        None => {
            report.faults.push(fault("connector.class", class.map_or_else(missing_class, unknown_class)));
            merge(&mut report, ConfigReader::new(COMMON, &stand_in(config, COMMON)).into_report());
        }
    }
    report.faults.retain(|fault| !config.get(&fault.key).is_some_and(has_placeholder));
    report
}

/// Adds what is not there yet: a key may be declared by the connector and by the common tables.
fn merge(report: &mut ConfigReport, more: ConfigReport) {
    let add = |into: &mut Vec<ConfigFault>, more: Vec<ConfigFault>| {
        for fault in more {
            if !into.contains(&fault) {
                into.push(fault);
            }
        }
    };
    add(&mut report.faults, more.faults);
    add(&mut report.notes, more.notes);
}

fn check_common(kind: ConnectorType, values: &ConfigValues) -> ConfigReport {
    let mut report = read_config::<ConnectorSettings>(values).map_or_else(|report| report, |(_, report)| report);
    match kind {
        ConnectorType::Source => merge(&mut report, ConfigReader::new(&[SOURCE_FIELDS], values).into_report()),
        ConnectorType::Sink => {
            let is_given = |key| values.get(key).is_some_and(|value| !value.trim().is_empty());
            if !is_given("topics") && !is_given("topics.regex") {
                report.faults.push(fault("topics", "must be configured, or topics.regex"));
            }
        }
    }
    report
}

fn missing_class() -> String {
    format!("is missing: which connector; there are {}", known_connectors())
}

fn unknown_class(class: &str) -> String {
    let names = connectors::all().iter().flat_map(|plugin| [&[plugin.name(), plugin.class()], plugin.aliases()].concat());
    let meant = nearest(class, names).map(|near| format!("; is {near} meant?")).unwrap_or_default();
    format!("names {class:?}, which is no connector{meant}; there are {}", known_connectors())
}

fn known_connectors() -> String {
    let describe = |plugin: &&dyn Plugin| match plugin.kind() {
        ConnectorType::Source => format!("{} (source)", plugin.name()),
        ConnectorType::Sink => format!("{} (sink)", plugin.name()),
    };
    connectors::all().iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// The configuration with a plausible value wherever a placeholder stands.
fn stand_in(config: &ConfigValues, tables: &[&[ConfigField]]) -> ConfigValues {
    let plausible = |key: &str, value: &str| {
        let field = tables.iter().copied().flatten().find(|field| field.covers(key));
        match field {
            Some(field) if has_placeholder(value) => field.default.unwrap_or_else(|| plausible_value(field.kind, "placeholder")).to_owned(),
            Some(_) | None => value.to_owned(),
        }
    };
    config.iter().map(|(key, value)| (key.to_owned(), plausible(key, value))).collect()
}

fn plausible_value(kind: FieldType, text: &'static str) -> &'static str {
    match kind {
        FieldType::Boolean => "false",
        FieldType::Short | FieldType::Int | FieldType::Long | FieldType::Double => "1",
        FieldType::Choice(words) => words.first().copied().unwrap_or(text),
        FieldType::Text | FieldType::List | FieldType::Class | FieldType::Password => text,
    }
}

/// Notes every key that no table declares, and tells a fault of a missing key which unknown key may be meant for it.
fn name_unknown_keys(config: &ConfigValues, tables: &[&[ConfigField]], report: &mut ConfigReport) {
    let fields = || tables.iter().copied().flatten();
    // Processors have keys that begin with a name that the configuration gives them.
    let processors = config.get("post.processors").map(split_list).unwrap_or_default();
    let of_processor = |key: &str| processors.iter().any(|name| key.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')));
    let is_known = |key: &str| fields().any(|field| field.covers(key)) || of_processor(key);
    let unknown: Vec<&str> = config.iter().map(|(key, _)| key).filter(|key| !is_known(key)).collect();
    let given = |name: &str| config.get(name).is_some();
    for key in &unknown {
        let known = fields().map(|field| field.name).filter(|name| !name.ends_with('*') && !given(name));
        let meant = nearest(key, known).map(|near| format!("; is {near} meant?")).unwrap_or_default();
        report.notes.push(fault(key, format!("is an unknown key and has no effect{meant}")));
    }
    for missing in report.faults.iter_mut().filter(|fault| !given(&fault.key)) {
        if let Some(near) = nearest(&missing.key, unknown.iter().copied()) {
            missing.message.push_str(&format!(" (the unknown key {near} may be meant for it)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[ConfigField] = &[
        ConfigField::new("topic.prefix", FieldType::Text, "Namespace.").required(),
        ConfigField::new("database.port", FieldType::Int, "Port.").default("5432"),
    ];

    fn values(entries: &[(&str, &str)]) -> ConfigValues {
        entries.iter().copied().collect()
    }

    fn faults(report: &ConfigReport) -> Vec<String> {
        report.faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_that_are_no_scalars_are_all_faults() {
        let config = serde_json::json!({"a": [1], "b": {"c": 1}, "d": 1, "e": true, "f": null, "g": "x"});
        let report = flatten(config.as_object().unwrap()).err().unwrap();
        assert_eq!(report.faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let flat = flatten(serde_json::json!({"d": 1, "e": true, "f": null}).as_object().unwrap()).unwrap_or_default();
        assert_eq!(flat.iter().collect::<Vec<_>>(), [("d", "1"), ("e", "true")]);
    }

    #[test]
    fn an_unknown_class_and_every_common_fault_come_at_once() {
        let report =
            check("", &values(&[("connector.class", "no.such.Class"), ("tasks.max", "zero"), ("errors.tolerance", "maybe")]), &values(&[]));
        let keys: Vec<&str> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["name", "connector.class", "tasks.max", "errors.tolerance"]);
        let report = check("a", &values(&[]), &values(&[]));
        assert!(faults(&report)[0].starts_with("connector.class: is missing"));
        let report = check("a", &values(&[("connector", "generator"), ("connector.class", "blackhole"), ("topics", "a")]), &values(&[]));
        assert_eq!(faults(&report), ["connector: names another connector than connector.class; leave one of them out"]);
    }

    #[test]
    fn tasks_max_must_be_one_or_more() {
        let report = check_common(ConnectorType::Source, &values(&[("tasks.max", "0")]));
        assert_eq!(faults(&report), ["tasks.max: must be at least 1, not 0"]);
    }

    #[test]
    fn a_sink_reads_topics_or_a_pattern_and_not_its_own_dead_letters() {
        let check = |entries: &[(&str, &str)]| {
            check_common(ConnectorType::Sink, &values(entries)).faults.iter().map(|fault| fault.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(check(&[("topics", " ")]), ["topics"]);
        assert_eq!(check(&[("topics", "a"), ("topics.regex", "b")]), ["topics.regex"]);
        assert_eq!(check(&[("topics.regex", "(")]), ["topics.regex"]);
        assert_eq!(check(&[("topics", "a,b"), ("errors.deadletterqueue.topic.name", "b")]), ["errors.deadletterqueue.topic.name"]);
        assert_eq!(check(&[("topics.regex", "a.*"), ("errors.deadletterqueue.topic.name", "abc")]), ["errors.deadletterqueue.topic.name"]);
        assert!(check(&[("topics.regex", "shop\\..*"), ("errors.deadletterqueue.topic.name", "letters")]).is_empty());
    }

    #[test]
    fn keys_of_debezium_that_are_in_effect_are_taken_without_a_word() {
        let keys = [
            ("database.initial.statements", "SET application_name = 'x'"),
            ("event.processing.failure.handling.mode", "warn"),
            ("errors.max.retries", "3"),
            ("retriable.restart.connector.wait.ms", "1000"),
            ("custom.metric.tags", "env=test"),
            ("xmin.fetch.interval.ms", "1000"),
        ];
        let config: Vec<_> = [("connector.class", "postgres"), ("topic.prefix", "a")].iter().chain(&keys).copied().collect();
        let report = check("a", &values(&config), &ConfigValues::default());
        let told: Vec<_> = report.notes.iter().chain(&report.faults).filter(|told| keys.iter().any(|(key, _)| *key == told.key)).collect();
        assert!(told.is_empty(), "{told:?}");
    }

    #[test]
    fn a_placeholder_counts_as_a_value_of_the_right_type() {
        let config = values(&[
            ("tasks.max", "${env:TASKS}"),
            ("errors.tolerance", "${env:T}"),
            ("database.port", "${env:PORT}"),
            ("topic.prefix", "a"),
        ]);
        let values = stand_in(&config, &[OWN, CONNECTOR_FIELDS]);
        assert_eq!(values.get("database.port"), Some("5432"));
        assert!(ConfigReader::new(&[OWN, CONNECTOR_FIELDS], &values).into_report().faults.is_empty());
        assert!(check("a", &config, &ConfigValues::default()).faults.iter().all(|fault| fault.key == "connector.class"));
    }

    #[test]
    fn a_misspelt_key_names_the_nearest_both_ways() {
        let config = values(&[("topic.prefx", "shop"), ("database.prot", "1"), ("colour", "red"), ("transforms.a.type", "x")]);
        let mut report = ConfigReader::new(&[OWN, CONNECTOR_FIELDS], &config).into_report();
        name_unknown_keys(&config, &[OWN, CONNECTOR_FIELDS], &mut report);
        assert_eq!(faults(&report), ["topic.prefix: is missing: Namespace. (the unknown key topic.prefx may be meant for it)"]);
        let notes: Vec<String> = report.notes.iter().map(ToString::to_string).collect();
        assert_eq!(
            notes,
            [
                "topic.prefx: is an unknown key and has no effect; is topic.prefix meant?",
                "database.prot: is an unknown key and has no effect; is database.port meant?",
                "colour: is an unknown key and has no effect"
            ]
        );
    }
}
