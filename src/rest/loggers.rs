//! `/admin/loggers`: levels of the log of this worker.
//!
//! `scope=cluster` is answered as Connect answers it; this worker is the whole cluster.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use super::failure::Failure;
use super::requests::{Body, Parameters, Segments};
use super::{Api, answers};
use crate::telemetry::Level;

fn level(level: Level) -> Value {
    json!({"level": level.level.to_string().to_ascii_uppercase(), "last_modified": level.set_at})
}

/// `{NAME:{"level","last_modified"}}`
pub(super) async fn list(State(api): State<Api>) -> Response {
    let levels = api.levels().all();
    answers::json(StatusCode::OK, &Value::Object(levels.into_iter().map(|(name, found)| (name, level(found))).collect()))
}

/// `{"level","last_modified"}`
pub(super) async fn get(State(api): State<Api>, Segments(name): Segments<String>) -> Result<Response, Failure> {
    let found = api.levels().get(&name);
    let found = found.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("Logger {name} not found.")))?;
    Ok(answers::json(StatusCode::OK, &level(found)))
}

/// Sets the level of a logger and of those below it; answers their names, or nothing for the scope `cluster`.
pub(super) async fn set(
    State(api): State<Api>,
    Segments(name): Segments<String>,
    parameters: Parameters,
    body: Body,
) -> Result<Response, Failure> {
    let wanted = body.level()?;
    let level = match wanted.to_ascii_uppercase().as_str() {
        "OFF" => LevelFilter::OFF,
        "FATAL" | "ERROR" => LevelFilter::ERROR,
        "WARN" => LevelFilter::WARN,
        "INFO" => LevelFilter::INFO,
        "DEBUG" => LevelFilter::DEBUG,
        "TRACE" => LevelFilter::TRACE,
        _ => return Err(Failure::new(StatusCode::NOT_FOUND, format!("invalid log level '{wanted}'."))),
    };
    let names = api.levels().set(&name, level).map_err(Failure::bad_request)?;
    if parameters.last("scope").is_some_and(|scope| scope.eq_ignore_ascii_case("cluster")) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(answers::json(StatusCode::OK, &names.into()))
}
