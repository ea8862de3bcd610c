//! `/connector-plugins`: what is compiled in, the keys of each, and checking a configuration.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use tailwater_api::config::{ConfigField, ConfigReport, FieldType, Importance};
use tailwater_api::state::JsonMap;

use super::failure::Failure;
use super::requests::{Body, Parameters, Segments};
use super::{Api, answers};
use crate::config::check::{common_fields, flatten};
use crate::config::masked::mask;
use crate::connectors;
use crate::runtime::plugin::Plugin;
use crate::runtime::worker::ConnectorType;
use crate::{converters, transforms};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn kind(plugin: &dyn Plugin) -> &'static str {
    match plugin.kind() {
        ConnectorType::Source => "source",
        ConnectorType::Sink => "sink",
    }
}

/// Declared keys, in the tables in which they are declared.
type Fields = &'static [&'static [ConfigField]];

/// Class, type and keys of everything that a configuration may name beside connectors.
fn parts() -> impl Iterator<Item = (&'static str, &'static str, Fields)> {
    let transforms = transforms::transforms().map(|(class, fields)| (class, "transformation", fields));
    let predicates = transforms::predicates().map(|(class, fields)| (class, "predicate", fields));
    let converters = converters::converters().map(|(class, fields)| (class, "converter", fields));
    let header_converters = converters::header_converters().map(|(class, fields)| (class, "header_converter", fields));
    transforms.chain(predicates).chain(converters).chain(header_converters)
}

/// `[{"class","type","version"}]`: connectors, or with `connectorsOnly=false` everything.
pub(super) async fn list(parameters: Parameters) -> Response {
    let connectors_only = parameters.last("connectorsOnly").is_none_or(|only| only.eq_ignore_ascii_case("true"));
    let entry = |class: &str, kind: &str| json!({"class": class, "type": kind, "version": VERSION});
    let mut plugins: Vec<Value> = connectors::all().iter().map(|plugin| entry(plugin.class(), kind(*plugin))).collect();
    if !connectors_only {
        plugins.extend(parts().map(|(class, kind, _)| entry(class, kind)));
    }
    answers::json(StatusCode::OK, &plugins.into())
}

/// The keys of a plug-in, a connector's own first.
pub(super) async fn config(Segments(name): Segments<String>, parameters: Parameters) -> Result<Response, Failure> {
    if let Some(version) = parameters.last("version")
        && version != VERSION
    {
        return Err(Failure::bad_request(format!("There is no version {version} of {name}; all plugins have the version {VERSION}")));
    }
    let keys: Vec<Value> = match connectors::find(&name) {
        Some(plugin) => own(plugin.fields()).into_iter().chain(common(plugin)).map(|key| key.json()).collect(),
        None => {
            let part = parts().find(|(class, ..)| *class == name || class.rsplit('.').next() == Some(&name));
            let (.., fields) = part.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("Unknown plugin {name}.")))?;
            own(fields).into_iter().map(|key| key.json()).collect()
        }
    };
    Ok(answers::json(StatusCode::OK, &keys.into()))
}

/// Checks, and where that is clean connects; faults stand as errors of their keys.
pub(super) async fn validate(State(api): State<Api>, Segments(name): Segments<String>, body: Body) -> Result<Response, Failure> {
    let config = body.any_config()?;
    let Some(class) = config.get("connector.class").and_then(Value::as_str) else {
        return Err(Failure::bad_request("The configuration contains no connector type (connector.class)"));
    };
    let plugin = connectors::find(&name).ok_or_else(|| {
        let known: Vec<&str> = connectors::all().iter().map(|plugin| plugin.class()).collect();
        let known = known.join(", ");
        Failure::bad_request(format!(
            "Failed to find any class that implements Connector and which name matches {name}, available connectors are: {known}"
        ))
    })?;
    if connectors::find(class).is_none_or(|given| given.class() != plugin.class()) {
        return Err(Failure::bad_request(format!("Included connector type {class} does not match request type {name}")));
    }
    let values = flatten(&config).map_err(|report| Failure::bad_request(answers::sentences(&report)))?;
    let report = api.worker()?.validate(&values).await;
    Ok(answers::json(StatusCode::OK, &validation(class, plugin, &config, &report)))
}

/// `{"name","error_count","groups","configs":[{"definition","value"}]}`. Every fault stands with some key.
fn validation(class: &str, plugin: &dyn Plugin, config: &JsonMap, report: &ConfigReport) -> Value {
    let mut keys = common(plugin);
    keys.extend(own(plugin.fields()));
    // Keys of families, and keys that faults name though nothing declares them.
    let declared = [plugin.fields(), common_fields(plugin.kind())].concat();
    let family = |key: &str| declared.iter().copied().flatten().find(|field| field.covers(key));
    let faulty = report.faults.iter().map(|fault| fault.key.as_str());
    let mut further: Vec<(&str, Option<&ConfigField>)> = Vec::new();
    for key in config.keys().map(String::as_str).chain(faulty) {
        let is_there = keys.iter().any(|known| known.name == key) || further.iter().any(|(known, _)| *known == key);
        let is_faulty = report.faults.iter().any(|fault| fault.key == key);
        if !is_there && (family(key).is_some() || is_faulty) {
            further.push((key, family(key)));
        }
    }
    let mut groups: Vec<&str> = Vec::new();
    for group in keys.iter().filter_map(|key| key.group) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let shown = mask(config);
    let value = |key: &str, field: Option<&ConfigField>| {
        let given = shown.get(key).cloned().or_else(|| field.and_then(|field| field.default).map(Value::from));
        let value = given.filter(|_| field.is_none_or(|field| field.kind != FieldType::Password));
        let recommended = match field.map(|field| field.kind) {
            Some(FieldType::Choice(words)) => words,
            Some(_) | None => &[],
        };
        let errors: Vec<String> = report.faults.iter().filter(|fault| fault.key == key).map(ToString::to_string).collect();
        json!({"name": key, "value": value, "recommended_values": recommended, "errors": errors, "visible": true})
    };
    let mut configs: Vec<Value> =
        keys.iter().map(|key| json!({"definition": key.json(), "value": value(key.name, Some(key.field))})).collect();
    configs.extend(further.into_iter().map(|(key, field)| {
        let definition = field.map(|field| Key { name: key, field, group: None, order: -1 }.json());
        json!({"definition": definition, "value": value(key, field)})
    }));
    json!({"name": class, "error_count": report.faults.len(), "groups": groups, "configs": configs})
}

/// A key as Connect's `ConfigKeyInfo` shows it.
struct Key<'a> {
    name: &'a str,
    field: &'a ConfigField,
    group: Option<&'static str>,
    /// Place in the group, from 1; -1 without a group
    order: i32,
}

impl Key<'_> {
    fn json(&self) -> Value {
        let importance = match self.field.importance {
            Importance::High => "HIGH",
            Importance::Medium => "MEDIUM",
            Importance::Low => "LOW",
        };
        let width = match self.field.kind {
            FieldType::Boolean | FieldType::Short | FieldType::Int | FieldType::Long | FieldType::Double => "SHORT",
            FieldType::Text | FieldType::Password | FieldType::Choice(_) => "MEDIUM",
            FieldType::List | FieldType::Class => "LONG",
        };
        let mut key = Map::new();
        let mut put = |name: &str, value: Value| drop(key.insert(name.to_owned(), value));
        put("name", self.name.into());
        put("type", self.field.kind.name().into());
        put("required", self.field.required.into());
        put("default_value", self.field.default.into());
        put("importance", importance.into());
        put("documentation", self.field.doc.into());
        put("group", self.group.into());
        put("order_in_group", self.order.into());
        put("width", width.into());
        put("display_name", self.name.into());
        put("dependents", Value::Array(Vec::new()));
        Value::Object(key)
    }
}

/// Keys without those of families: a family is no key.
fn single(fields: Fields) -> impl Iterator<Item = &'static ConfigField> {
    fields.iter().copied().flatten().filter(|field| !field.name.ends_with('*'))
}

fn own(fields: Fields) -> Vec<Key<'static>> {
    single(fields).map(|field| Key { name: field.name, field, group: None, order: -1 }).collect()
}

/// The keys that every connector of the kind has and that it does not declare itself.
fn common(plugin: &dyn Plugin) -> Vec<Key<'static>> {
    let mut keys: Vec<Key<'static>> = Vec::new();
    for field in single(common_fields(plugin.kind())) {
        if single(plugin.fields()).any(|own| own.name == field.name) {
            continue;
        }
        let group = group(field.name);
        let order = keys.iter().filter(|key| key.group == Some(group)).count() + 1;
        keys.push(Key { name: field.name, field, group: Some(group), order: i32::try_from(order).unwrap_or(i32::MAX) });
    }
    keys
}

/// Connect's group of a key that every connector has.
fn group(key: &str) -> &'static str {
    const GROUPS: [(&str, &str); 7] = [
        ("transforms", "Transforms"),
        ("predicates", "Predicates"),
        ("errors.", "Error Handling"),
        ("topic.creation.", "Topic Creation"),
        ("exactly.once.", "Exactly Once Support"),
        ("transaction.boundary", "Exactly Once Support"),
        ("offsets.storage.", "offsets.topic"),
    ];
    GROUPS.iter().find(|(prefix, _)| key.starts_with(prefix)).map_or("Common", |(_, group)| group)
}
