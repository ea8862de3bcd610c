//! What requests say: names in paths, bodies.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use tailwater_api::signal::Signal;
use tailwater_api::state::{JsonMap, StateChange};

use super::failure::Failure;
use crate::config::document::{self, Member, Node};
use crate::state::TargetState;

/// Decoded segments of the path.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            // Bytes that are no text, or text where the number of a task belongs: there is nothing of that name.
            Err(_) => Err(Failure::not_found().await),
        }
    }
}

/// What stands behind the question mark. A name may come several times; what cannot be read is no parameter.
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = Query::try_from_uri(&parts.uri).map_err(|rejection| Failure::bad_request(rejection.body_text()))?;
        Ok(Self(query.0))
    }
}

impl Parameters {
    /// All values of `name` in order.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The last value of `name`.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Names and values.
    pub(super) fn as_slice(&self) -> &[(String, String)] {
        &self.0
    }
}

/// A JSON body as text.
pub(super) struct Body(String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        if !is_json(request.headers()) {
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTP 415 Unsupported Media Type"));
        }
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        match String::from_utf8(body.into()) {
            Ok(text) => Ok(Self(text)),
            Err(error) => Err(Failure::bad_request(format!("The body is not valid JSON: {error}"))),
        }
    }
}

/// Connect takes JSON, and a request that does not say what it holds.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// The body of `POST /connectors`.
#[derive(Debug, PartialEq)]
pub(super) struct Create {
    pub(super) name: String,
    pub(super) config: JsonMap,
    pub(super) target: TargetState,
}

impl Body {
    fn members(&self) -> Result<Vec<Member>, Failure> {
        if self.0.trim().is_empty() {
            return Err(Failure::bad_request("The body is empty; it must be a JSON object"));
        }
        match document::parse_json(&self.0) {
            Ok(Node::Map(members)) => Ok(members),
            Ok(Node::Null | Node::Text(_) | Node::List(_)) => Err(Failure::bad_request("The body must be a JSON object")),
            Err(message) => Err(Failure::bad_request(format!("The body is not valid JSON: {message}"))),
        }
    }

    /// Reads `{"name","config","initial_state"}`.
    pub(super) fn create(&self) -> Result<Create, Failure> {
        let (mut name, mut config, mut target) = (String::new(), None, TargetState::Running);
        for Member { key, node, .. } in self.members()? {
            match (key.as_str(), node) {
                ("name", Node::Text(text)) => text.trim().clone_into(&mut name),
                ("config", Node::Map(members)) => config = Some(flat(members)?),
                ("initial_state", Node::Text(text)) => target = initial_state(&text)?,
                ("name" | "config" | "initial_state", Node::Null) => {}
                ("name" | "initial_state", Node::List(_) | Node::Map(_)) => {
                    return Err(Failure::bad_request(format!("{key} must be text")));
                }
                ("config", Node::Text(_) | Node::List(_)) => return Err(Failure::bad_request("config must be a JSON object")),
                _ => return Err(unrecognized(&key, "\"name\", \"config\", \"initial_state\"")),
            }
        }
        let config = config.ok_or_else(|| Failure::bad_request("config is missing: the keys and values of the connector"))?;
        let config = named(&name, config)?;
        Ok(Create { name, config, target })
    }

    /// Reads a configuration that need not be one of an existing connector.
    pub(super) fn any_config(&self) -> Result<JsonMap, Failure> {
        flat(self.members()?)
    }

    /// Reads changes of single keys; null removes one.
    pub(super) fn config_changes(&self) -> Result<Vec<(String, Option<String>)>, Failure> {
        let change = |Member { key, node, .. }| match node {
            Node::Null => Ok((key, None)),
            Node::Text(text) => Ok((key, Some(text))),
            Node::List(_) | Node::Map(_) => Err(not_a_scalar(&key)),
        };
        self.members()?.into_iter().map(change).collect()
    }

    /// Reads `{"offsets":[{"partition","offset"}]}`.
    pub(super) fn offsets(&self) -> Result<Vec<StateChange>, Failure> {
        let body: Value =
            serde_json::from_str(&self.0).map_err(|error| Failure::bad_request(format!("The body is not valid JSON: {error}")))?;
        let Value::Object(mut body) = body else { return Err(Failure::bad_request("The body must be a JSON object")) };
        let offsets = body.shift_remove("offsets");
        known_members(&body, "offsets")?;
        let entries = match offsets {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            None | Some(Value::Null | Value::Array(_)) => {
                return Err(Failure::bad_request("Partitions / offsets need to be provided for an alter offsets request"));
            }
            Some(_) => return Err(Failure::bad_request("offsets must be a list")),
        };
        entries.into_iter().map(state_change).collect()
    }

    /// Reads `{"id","type","data"}`; without an id the signal gets one.
    pub(super) fn signal(&self) -> Result<Signal, Failure> {
        let body: Value =
            serde_json::from_str(&self.0).map_err(|error| Failure::bad_request(format!("The body is not valid JSON: {error}")))?;
        let Value::Object(mut body) = body else { return Err(Failure::bad_request("The body must be a JSON object")) };
        let id = match body.shift_remove("id") {
            None | Some(Value::Null) => uuid::Uuid::new_v4().to_string(),
            Some(Value::String(id)) if !id.is_empty() => id,
            Some(_) => return Err(Failure::bad_request("id must be text")),
        };
        let Some(Value::String(kind)) = body.shift_remove("type") else {
            return Err(Failure::bad_request("type must be text: execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot or log"));
        };
        let data = match body.shift_remove("data") {
            None | Some(Value::Null) => String::new(),
            Some(data @ Value::Object(_)) => data.to_string(),
            Some(_) => return Err(Failure::bad_request("data must be a JSON object")),
        };
        known_members(&body, "\"id\", \"type\", \"data\"")?;
        Ok(Signal { id, kind, data })
    }

    /// Reads `{"level"}`.
    pub(super) fn level(&self) -> Result<String, Failure> {
        let mut wanted = None;
        for Member { key, node, .. } in self.members()? {
            match (key.as_str(), node) {
                ("level", Node::Text(text)) => wanted = Some(text),
                ("level", Node::Null) => {}
                ("level", Node::List(_) | Node::Map(_)) => return Err(Failure::bad_request("level must be text")),
                _ => return Err(unrecognized(&key, "\"level\"")),
            }
        }
        wanted.ok_or_else(|| Failure::bad_request("Desired 'level' parameter was not specified in request."))
    }

    /// Reads a configuration for the connector `name`.
    pub(super) fn config(&self, name: &str) -> Result<JsonMap, Failure> {
        named(name, flat(self.members()?)?)
    }
}

fn unrecognized(key: &str, known: &str) -> Failure {
    Failure::bad_request(format!("Unrecognized field {key:?}; known are {known}"))
}

fn not_a_scalar(key: &str) -> Failure {
    Failure::bad_request(format!("The value of {key} must be text, a number or a truth value"))
}

/// Refuses members that nothing has read.
fn known_members(rest: &JsonMap, known: &str) -> Result<(), Failure> {
    rest.keys().next().map_or(Ok(()), |key| Err(unrecognized(key, known)))
}

fn state_change(entry: Value) -> Result<StateChange, Failure> {
    let Value::Object(mut entry) = entry else { return Err(Failure::bad_request("Each of the offsets must be a JSON object")) };
    let (partition, offset) = (entry.shift_remove("partition"), entry.shift_remove("offset"));
    known_members(&entry, "\"partition\", \"offset\"")?;
    let partition = match partition {
        Some(Value::Object(partition)) => partition,
        None | Some(Value::Null) => return Err(Failure::bad_request("The partition of an offset cannot be null or missing")),
        Some(_) => return Err(Failure::bad_request("The partition of an offset must be a JSON object")),
    };
    let offset = match offset {
        Some(Value::Object(offset)) => Some(offset),
        None | Some(Value::Null) => None,
        Some(_) => return Err(Failure::bad_request("An offset must be a JSON object or null")),
    };
    Ok(StateChange { partition, offset })
}

fn initial_state(text: &str) -> Result<TargetState, Failure> {
    match text.to_ascii_uppercase().as_str() {
        "RUNNING" => Ok(TargetState::Running),
        "PAUSED" => Ok(TargetState::Paused),
        "STOPPED" => Ok(TargetState::Stopped),
        _ => Err(Failure::bad_request(format!("initial_state must be RUNNING, PAUSED or STOPPED, not {text:?}"))),
    }
}

/// Texts by key. Numbers and truth values count as their text; a key that is null is not given.
fn flat(members: Vec<Member>) -> Result<JsonMap, Failure> {
    let mut config = JsonMap::new();
    for Member { key, node, .. } in members {
        match node {
            Node::Null => {}
            Node::Text(text) => drop(config.insert(key, Value::String(text))),
            Node::List(_) | Node::Map(_) => return Err(not_a_scalar(&key)),
        }
    }
    Ok(config)
}

/// What is said where a configuration holds another name than the path.
pub(super) fn names_differ(other: &str, name: &str) -> Failure {
    Failure::bad_request(format!("Connector name configuration ({other}) doesn't match connector name in the URL ({name})"))
}

/// The configuration with its name, which must not be another one.
fn named(name: &str, mut config: JsonMap) -> Result<JsonMap, Failure> {
    match config.get("name").and_then(Value::as_str) {
        Some(other) if other.trim() != name => Err(names_differ(other, name)),
        Some(_) | None => {
            config.insert("name".into(), name.into());
            Ok(config)
        }
    }
}

#[cfg(test)]
impl Body {
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}
