//! `/openapi.json`: the API in OpenAPI 3.1, made from the list of endpoints.
//!
//! Every answer that is not listed with an endpoint is an error of one shape, `Error`.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::answers;
use super::endpoints::{ENDPOINTS, Endpoint};
use crate::config::rest_options::Role;

pub(super) async fn show() -> Response {
    answers::json(StatusCode::OK, &document())
}

pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths.entry(endpoint.path).or_insert_with(|| Value::Object(Map::new()));
        path[endpoint.method.to_ascii_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tailwater",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "The REST API of Kafka Connect 4.3, /topics, and /connectors/{name}/guarantee.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"basic": []}, {"bearer": []}, {}],
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let segments = endpoint.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = segments
        .map(|name| {
            let schema = if name == "task" { json!({"type": "integer", "minimum": 0}) } else { json!({"type": "string", "minLength": 1}) };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    parameters.extend(endpoint.query.iter().map(|parameter| {
        let mut schema = json!({"type": parameter.kind});
        if parameter.kind == "integer" {
            schema["minimum"] = 0.into();
        }
        json!({"name": parameter.name, "in": "query", "required": false, "description": parameter.doc, "schema": schema})
    }));
    let mut answers = Map::new();
    for (status, schema) in endpoint.answers {
        let mut answer = json!({"description": description(*status)});
        if let Some(schema) = schema {
            let content = if *schema == "Metrics" { "application/openmetrics-text" } else { "application/json" };
            answer["content"] = json!({content: {"schema": reference(schema)}});
        }
        answers.insert(status.to_string(), answer);
    }
    let error = json!({"description": "What is wrong", "content": {"application/json": {"schema": reference("Error")}}});
    answers.insert("default".to_owned(), error);
    let role = match endpoint.role {
        None => "Needs no name.",
        Some(Role::Read) => "Needs the role read.",
        Some(Role::Operate) => "Needs the role operate.",
        Some(Role::Administer) => "Needs the role administer.",
    };
    let mut operation = json!({"summary": endpoint.summary, "description": role, "parameters": parameters, "responses": answers});
    if let Some(body) = endpoint.body {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": reference(body)}}});
    }
    if endpoint.role.is_none() {
        operation["security"] = json!([]);
    }
    operation
}

fn description(status: u16) -> &'static str {
    match status {
        201 => "Made",
        202 => "Under way",
        204 => "Done; the answer has no body",
        503 => "Still starting",
        _ => "The answer",
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// An object that has these members and no others; those whose name ends in `?` may be absent.
fn object(members: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| (name.trim_end_matches('?').to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn list(items: &Value) -> Value {
    json!({"type": "array", "items": items})
}

fn by_name(values: &Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

fn schemas() -> Value {
    let text = json!({"type": "string"});
    let text_or_null = json!({"type": ["string", "null"]});
    let whole = json!({"type": "integer"});
    let any_object = json!({"type": "object"});
    let state = json!({"enum": ["UNASSIGNED", "RUNNING", "PAUSED", "STOPPED", "FAILED", "RESTARTING"]});
    let kind = json!({"enum": ["source", "sink", "unknown"]});
    let level = json!({"enum": ["OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"]});
    let task_id = object(&[("connector", text.clone()), ("task", whole.clone())]);
    let run = |id: &[(&str, Value)]| {
        let more = [("state", state.clone()), ("worker_id", text.clone()), ("trace?", text.clone()), ("version", text.clone())];
        object(&[id, &more].concat())
    };
    let bytes = json!({"anyOf": [text_or_null, object(&[("base64", text.clone())])]});
    let offset = object(&[("partition", any_object.clone()), ("offset?", json!({"type": ["object", "null"]}))]);
    let entries: [(&str, Value); 33] = [
        ("Object", any_object.clone()),
        ("Metrics", text.clone()),
        ("Error", object(&[("error_code", whole.clone()), ("message", text.clone())])),
        ("Message", object(&[("message", text.clone())])),
        ("Root", object(&[("version", text.clone()), ("commit", text.clone()), ("kafka_cluster_id", text.clone())])),
        ("Health", object(&[("status", json!({"enum": ["healthy", "starting"]})), ("message", text.clone())])),
        ("Names", list(&text)),
        ("Config", by_name(&text)),
        ("GivenConfig", by_name(&json!({"type": ["string", "number", "boolean", "null"]}))),
        (
            "Create",
            object(&[
                ("name", text.clone()),
                ("config", reference("GivenConfig")),
                ("initial_state?", json!({"enum": ["RUNNING", "PAUSED", "STOPPED"]})),
            ]),
        ),
        (
            "ConnectorInfo",
            object(&[("name", text.clone()), ("config", reference("Config")), ("tasks", list(&task_id)), ("type", kind.clone())]),
        ),
        (
            "Signal",
            object(&[
                ("id?", text.clone()),
                ("type", json!({"enum": ["execute-snapshot", "stop-snapshot", "pause-snapshot", "resume-snapshot", "log"]})),
                ("data?", json!({"type": ["object", "null"]})),
            ]),
        ),
        ("SignalTaken", object(&[("id", text.clone())])),
        ("RunStatus", run(&[])),
        ("TaskStatus", run(&[("id", whole.clone())])),
        (
            "Status",
            object(&[
                ("name", text.clone()),
                ("connector", reference("RunStatus")),
                ("tasks", list(&reference("TaskStatus"))),
                ("type", kind),
            ]),
        ),
        ("Guarantee", object(&[("guarantee", json!({"enum": ["exactly-once", "at-least-once"]})), ("why", text.clone())])),
        ("Tasks", list(&object(&[("id", task_id), ("config", reference("Config"))]))),
        (
            "Listing",
            json!({"anyOf": [
                reference("Names"),
                by_name(&object(&[("info?", reference("ConnectorInfo")), ("status?", reference("Status"))])),
            ]}),
        ),
        ("TopicsOf", by_name(&object(&[("topics", list(&text))]))),
        ("Offset", offset),
        ("Offsets", object(&[("offsets", list(&reference("Offset")))])),
        (
            "Plugins",
            list(&object(&[
                ("class", text.clone()),
                ("type", json!({"enum": ["source", "sink", "converter", "header_converter", "transformation", "predicate"]})),
                ("version", text.clone()),
            ])),
        ),
        (
            "ConfigKey",
            object(&[
                ("name", text.clone()),
                ("type", json!({"enum": ["BOOLEAN", "STRING", "INT", "SHORT", "LONG", "DOUBLE", "LIST", "CLASS", "PASSWORD"]})),
                ("required", json!({"type": "boolean"})),
                ("default_value", text_or_null.clone()),
                ("importance", json!({"enum": ["HIGH", "MEDIUM", "LOW"]})),
                ("documentation", text.clone()),
                ("group", text_or_null.clone()),
                ("order_in_group", whole.clone()),
                ("width", json!({"enum": ["NONE", "SHORT", "MEDIUM", "LONG"]})),
                ("display_name", text.clone()),
                ("dependents", list(&text)),
            ]),
        ),
        ("ConfigKeys", list(&reference("ConfigKey"))),
        (
            "Validation",
            object(&[
                ("name", text.clone()),
                ("error_count", whole.clone()),
                ("groups", list(&text)),
                (
                    "configs",
                    list(&object(&[
                        ("definition", json!({"anyOf": [reference("ConfigKey"), {"type": "null"}]})),
                        (
                            "value",
                            object(&[
                                ("name", text.clone()),
                                ("value", text_or_null),
                                ("recommended_values", list(&text)),
                                ("errors", list(&text)),
                                ("visible", json!({"type": "boolean"})),
                            ]),
                        ),
                    ])),
                ),
            ]),
        ),
        ("Logger", object(&[("level", level.clone()), ("last_modified", json!({"type": ["integer", "null"]}))])),
        ("Loggers", by_name(&reference("Logger"))),
        ("SetLevel", object(&[("level", level)])),
        (
            "SnapshotProgress",
            object(&[
                ("name", text.clone()),
                ("running", json!({"type": "boolean"})),
                ("seconds", whole.clone()),
                ("waits_for", list(&text)),
                (
                    "tables",
                    list(&object(&[
                        ("table", text.clone()),
                        ("state", json!({"type": "string", "enum": ["waiting", "reading", "complete"]})),
                        ("rows", json!({"type": ["integer", "null"]})),
                        ("estimated_rows", json!({"type": ["integer", "null"]})),
                        ("bytes", json!({"type": ["integer", "null"]})),
                        ("remaining_seconds", json!({"type": ["integer", "null"]})),
                    ])),
                ),
            ]),
        ),
        (
            "Topics",
            list(&object(&[
                ("name", text.clone()),
                ("connector", json!({"type": ["string", "null"]})),
                ("log", text.clone()),
                (
                    "partitions",
                    list(&object(&[("partition", whole.clone()), ("first_offset", whole.clone()), ("next_offset", whole.clone())])),
                ),
            ])),
        ),
        (
            "Record",
            object(&[
                ("topic", text.clone()),
                ("partition", whole.clone()),
                ("offset", whole),
                ("timestamp", json!({"type": ["integer", "null"]})),
                ("key", bytes.clone()),
                ("value", bytes.clone()),
                ("headers", list(&json!({"type": "array", "prefixItems": [text, bytes], "minItems": 2, "maxItems": 2}))),
            ]),
        ),
        ("Records", list(&reference("Record"))),
    ];
    Value::Object(entries.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_that_is_named_is_there_and_every_one_that_is_there_is_named() {
        let document = document();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name} is not there");
        }
        for name in schemas.keys() {
            assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "{name} is not used");
        }
    }
}
