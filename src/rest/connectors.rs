//! `/connectors` and everything below it.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tailwater_api::ErrorKind;
use tailwater_kit::filters::expression_of;

use super::failure::Failure;
use super::requests::{Body, Parameters, Segments, names_differ};
use super::{Api, answers};
use crate::runtime::offsets::Moved;
use crate::runtime::worker::{ConnectorInfo, Refused, Restart, RunState, RunStatus};
use crate::state::TargetState;
use crate::telemetry::Registry;

type Answer = Result<Response, Failure>;

fn ok(body: &Value) -> Answer {
    Ok(answers::json(StatusCode::OK, body))
}

fn not_found(name: &str) -> String {
    format!("Connector {name} not found")
}

/// Names, or with `expand` objects by name.
pub(super) async fn list(State(api): State<Api>, parameters: Parameters) -> Answer {
    let mut connectors = api.worker()?.list().await;
    connectors.iter_mut().for_each(|info| tell_of_left_out(api.metrics(), info));
    let expands: Vec<&str> = parameters.all("expand").collect();
    ok(&listing(&connectors, &expands, api.worker_id()))
}

pub(super) fn listing(connectors: &[ConnectorInfo], expands: &[&str], worker_id: &str) -> Value {
    if expands.is_empty() {
        return connectors.iter().map(|info| info.name.as_str()).collect();
    }
    let expanded = |info: &ConnectorInfo| {
        let mut expanded = Map::new();
        for what in expands {
            match *what {
                "info" => drop(expanded.insert("info".into(), answers::info(info))),
                "status" => drop(expanded.insert("status".into(), answers::status(info, worker_id))),
                // So does Connect.
                _ => {}
            }
        }
        (info.name.clone(), Value::Object(expanded))
    };
    Value::Object(connectors.iter().map(expanded).collect())
}

pub(super) async fn create(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let create = body.create()?;
    let made = api.worker()?.create(&create.name, create.config, create.target, None).await;
    let info = made.map_err(|refused| Failure::refused(&create.name, refused, not_found))?;
    Ok(created(&info, &headers, &api))
}

pub(super) async fn put_config(State(api): State<Api>, Segments(name): Segments<String>, headers: HeaderMap, body: Body) -> Answer {
    let put = api.worker()?.put_config(&name, body.config(&name)?, None).await;
    let (info, made) = put.map_err(|refused| Failure::refused(&name, refused, not_found))?;
    if made { Ok(created(&info, &headers, &api)) } else { ok(&answers::info(&info)) }
}

pub(super) async fn patch_config(State(api): State<Api>, Segments(name): Segments<String>, body: Body) -> Answer {
    let changes = body.config_changes()?;
    if let Some((_, Some(other))) = changes.iter().find(|(key, value)| key == "name" && value.as_ref() != Some(&name)) {
        return Err(names_differ(other, &name));
    }
    if changes.iter().any(|(key, value)| key == "name" && value.is_none()) {
        return Err(Failure::bad_request("The name of a connector cannot be removed"));
    }
    let patched = api.worker()?.patch_config(&name, changes).await;
    ok(&answers::info(&patched.map_err(|refused| Failure::refused(&name, refused, not_found))?))
}

fn created(info: &ConnectorInfo, headers: &HeaderMap, api: &Api) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(api.worker_id());
    let location = format!("{}://{host}/connectors/{}", api.scheme(), segment(&info.name));
    let mut answer = answers::json(StatusCode::CREATED, &answers::info(info));
    if let Ok(location) = location.parse() {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

/// `text` as one segment of a path (RFC 3986: all but unreserved characters in percent encoding).
pub(crate) fn segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

async fn get(api: &Api, name: &str, unknown: impl FnOnce(&str) -> String) -> Result<ConnectorInfo, Failure> {
    api.worker()?.get(name).await.map_err(|refused| Failure::refused(name, refused, unknown))
}

/// A task that runs has a trace none the less where it left events out since the worker began, or drops those of errored tables (I11).
pub(super) fn tell_of_left_out(metrics: &Registry, info: &mut ConnectorInfo) {
    for (_, task, table, _) in
        metrics.gauges("source_table_errored").into_iter().filter(|(connector, .., is)| *connector == info.name && *is > 0)
    {
        let Some(status) = info.tasks.iter_mut().find(|status| status.task == Some(task) && status.state == RunState::Running) else {
            continue;
        };
        let table = table.unwrap_or_default();
        let told = format!(
            "{}: the table {table} is errored, and its changes are dropped; the log and the offsets say since when and why. To mend it: see to it \
             that its rows can be read, that sinks have truncate.enabled or empty targets, then POST /connectors/{}/signals {}\n",
            ErrorKind::Unreadable.code(),
            segment(&info.name),
            json!({"type": "execute-snapshot", "data": {"data-collections": [expression_of(&table)]}})
        );
        status.trace.get_or_insert_default().push_str(&told);
    }
    let left_out = metrics.counters("source_unreadable_events");
    for (_, task, _, count) in left_out.into_iter().filter(|(connector, .., count)| *connector == info.name && *count > 0) {
        let is_silent = |status: &&mut RunStatus| status.task == Some(task) && status.trace.is_none();
        if let Some(status) = info.tasks.iter_mut().find(is_silent) {
            let what = "events of the log cannot be decoded and were left out, as event.processing.failure.handling.mode says";
            status.trace = Some(format!("{}: {count} {what}; the log names their tables and positions", ErrorKind::Unreadable.code()));
        }
    }
}

/// Answers 404 for a connector that is not there.
pub(super) async fn known(api: &Api, name: &str) -> Result<(), Failure> {
    get(api, name, not_found).await.map(drop)
}

pub(super) async fn info(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    ok(&answers::info(&get(&api, &name, not_found).await?))
}

pub(super) async fn config(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    ok(&answers::config(&get(&api, &name, not_found).await?))
}

pub(super) async fn delete(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    let deleted = api.worker()?.delete(&name, None).await;
    deleted.map_err(|refused| Failure::refused(&name, refused, not_found))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn status(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    let mut info = get(&api, &name, |name| format!("No status found for connector {name}")).await?;
    tell_of_left_out(api.metrics(), &mut info);
    ok(&answers::status(&info, api.worker_id()))
}

pub(super) async fn guarantee(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    let guarantee = api.worker()?.guarantee(&name).await.map_err(|refused| Failure::refused(&name, refused, not_found))?;
    ok(&guarantee.json())
}

pub(super) async fn tasks(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    ok(&answers::tasks(&get(&api, &name, not_found).await?))
}

pub(super) async fn task_status(State(api): State<Api>, Segments((name, task)): Segments<(String, u32)>) -> Answer {
    let unknown = |name: &str| format!("No status found for task {name}-{task}");
    let mut info = get(&api, &name, unknown).await?;
    tell_of_left_out(api.metrics(), &mut info);
    let status = info.tasks.iter().find(|status| status.task == Some(task));
    let status = status.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, unknown(&name)))?;
    ok(&answers::run_status(status, api.worker_id()))
}

pub(super) async fn topics(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    // Connect answers an empty list for a connector that is not there.
    let topics = match api.worker()?.get(&name).await {
        Ok(info) => info.topics,
        Err(Refused::Unknown(_)) => Vec::new(),
        Err(refused) => return Err(Failure::refused(&name, refused, not_found)),
    };
    ok(&answers::topics_of(&name, &topics))
}

pub(super) async fn offsets(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    let offsets = api.worker()?.offsets(&name).await;
    ok(&answers::offsets(&offsets.map_err(|refused| Failure::refused(&name, refused, not_found))?))
}

pub(super) async fn alter_offsets(State(api): State<Api>, Segments(name): Segments<String>, body: Body) -> Answer {
    let altered = api.worker()?.alter_offsets(&name, body.offsets()?).await;
    moved("altered", altered.map_err(|immovable| Failure::immovable(&name, immovable))?)
}

pub(super) async fn reset_offsets(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    let reset = api.worker()?.reset_offsets(&name).await;
    moved("reset", reset.map_err(|immovable| Failure::immovable(&name, immovable))?)
}

fn moved(how: &str, moved: Moved) -> Answer {
    let message = match moved {
        Moved::Everything => format!("The offsets for this connector have been {how} successfully"),
        Moved::WhatIsKeptHere => format!(
            "The Connect framework-managed offsets for this connector have been {how} successfully. However, if this connector manages offsets externally, they will need to be manually {how} in the system that the connector uses."
        ),
    };
    ok(&json!({"message": message}))
}

/// Connect accepts it for a connector that is not there, too.
pub(super) async fn reset_topics(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    api.worker()?.reset_topics(&name);
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn set_target(api: &Api, name: &str, target: TargetState, done: StatusCode) -> Answer {
    let set = api.worker()?.set_target(name, target).await;
    set.map_err(|refused| Failure::refused(name, refused, |name| format!("Unknown connector {name}")))?;
    Ok(done.into_response())
}

pub(super) async fn pause(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    set_target(&api, &name, TargetState::Paused, StatusCode::ACCEPTED).await
}

pub(super) async fn resume(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    set_target(&api, &name, TargetState::Running, StatusCode::ACCEPTED).await
}

pub(super) async fn stop(State(api): State<Api>, Segments(name): Segments<String>) -> Answer {
    set_target(&api, &name, TargetState::Stopped, StatusCode::NO_CONTENT).await
}

/// 204 for the connector alone, else 202 and what is being restarted.
pub(super) async fn restart(State(api): State<Api>, Segments(name): Segments<String>, parameters: Parameters) -> Answer {
    // As Java's Boolean.valueOf: what is not "true" is false.
    let flag = |wanted: &str| parameters.all(wanted).any(|value| value.eq_ignore_ascii_case("true"));
    let restart = Restart { include_tasks: flag("includeTasks"), only_failed: flag("onlyFailed") };
    let restarted = api.worker()?.restart(&name, restart).await;
    let mut info = restarted.map_err(|refused| Failure::refused(&name, refused, |name| format!("Unknown connector: {name}")))?;
    if !restart.only_failed || info.connector.state == RunState::Failed {
        info.connector = RunStatus { state: RunState::Restarting, trace: None, ..info.connector };
    }
    if restart.include_tasks || restart.only_failed {
        Ok(answers::json(StatusCode::ACCEPTED, &answers::status(&info, api.worker_id())))
    } else {
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

/// 202 and the signal's id, by which notifications and offsets name it.
pub(super) async fn signal(State(api): State<Api>, Segments(name): Segments<String>, body: Body) -> Answer {
    let signal = body.signal()?;
    let id = signal.id.clone();
    api.worker()?.signal(&name, signal).await.map_err(|refused| Failure::refused(&name, refused, not_found))?;
    Ok(answers::json(StatusCode::ACCEPTED, &json!({"id": id})))
}

pub(super) async fn restart_task(State(api): State<Api>, Segments((name, task)): Segments<(String, u32)>) -> Answer {
    let restarted = api.worker()?.restart_task(&name, task).await;
    restarted.map_err(|refused| Failure::refused(&name, refused, |name| format!("Unknown task: {name}-{task}")))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
