//! What requests say: names in paths, bodies.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use tailwater_api::state::JsonMap;

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
                _ => {
                    let message = format!("Unrecognized field {key:?}; known are \"name\", \"config\", \"initial_state\"");
                    return Err(Failure::bad_request(message));
                }
            }
        }
        let config = config.ok_or_else(|| Failure::bad_request("config is missing: the keys and values of the connector"))?;
        let config = named(&name, config)?;
        Ok(Create { name, config, target })
    }

    /// Reads a configuration for the connector `name`.
    pub(super) fn config(&self, name: &str) -> Result<JsonMap, Failure> {
        named(name, flat(self.members()?)?)
    }
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
            Node::List(_) | Node::Map(_) => {
                return Err(Failure::bad_request(format!("The value of {key} must be text, a number or a truth value")));
            }
        }
    }
    Ok(config)
}

/// The configuration with its name, which must not be another one.
fn named(name: &str, mut config: JsonMap) -> Result<JsonMap, Failure> {
    match config.get("name").and_then(Value::as_str) {
        Some(other) if other.trim() != name => {
            Err(Failure::bad_request(format!("Connector name configuration ({other}) doesn't match connector name in the URL ({name})")))
        }
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
