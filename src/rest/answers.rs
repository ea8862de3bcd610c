//! The shapes of answers, with Connect's keys in Connect's order.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tailwater_api::config::ConfigReport;

use crate::config::masked::mask;
use crate::connectors;
use crate::runtime::offsets::Offsets;
use crate::runtime::worker::{ConnectorInfo, ConnectorType, RunStatus};
use crate::topics::TopicInfo;

/// An answer with a JSON body.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// `{"name","config","tasks","type"}`
pub(super) fn info(info: &ConnectorInfo) -> Value {
    let tasks: Vec<Value> = task_numbers(info).map(|task| json!({"connector": info.name, "task": task})).collect();
    json!({"name": info.name, "config": config(info), "tasks": tasks, "type": kind(info)})
}

/// The configuration as it was given, placeholders unresolved and secrets hidden (I14), always with its name.
pub(super) fn config(info: &ConnectorInfo) -> Value {
    let mut config = mask(&info.config);
    config.entry("name").or_insert_with(|| Value::from(info.name.as_str()));
    Value::Object(config)
}

/// `{"name","connector","tasks","type"}`
pub(super) fn status(info: &ConnectorInfo, worker_id: &str) -> Value {
    let tasks: Vec<Value> = info.tasks.iter().map(|task| run_status(task, worker_id)).collect();
    json!({"name": info.name, "connector": run_status(&info.connector, worker_id), "tasks": tasks, "type": kind(info)})
}

/// `{"id","state","worker_id","trace","version"}`; `id` for tasks only, `trace` where there is one.
pub(super) fn run_status(status: &RunStatus, worker_id: &str) -> Value {
    let mut answer = Map::new();
    if let Some(task) = status.task {
        answer.insert("id".into(), task.into());
    }
    answer.insert("state".into(), status.state.name().into());
    answer.insert("worker_id".into(), worker_id.into());
    if let Some(trace) = &status.trace {
        answer.insert("trace".into(), trace.as_str().into());
    }
    answer.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    Value::Object(answer)
}

/// `[{"id":{"connector","task"},"config"}]`
pub(super) fn tasks(info: &ConnectorInfo) -> Value {
    let Value::Object(mut config) = config(info) else { return Value::Null };
    if let Some(plugin) = info.config.get("connector.class").and_then(Value::as_str).and_then(connectors::find) {
        config.insert("task.class".into(), plugin.class().into());
    }
    task_numbers(info).map(|task| json!({"id": {"connector": info.name, "task": task}, "config": config})).collect()
}

/// All faults of a report, a line each.
pub(super) fn sentences(report: &ConfigReport) -> String {
    report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// `{NAME:{"topics":[…]}}`
pub(super) fn topics_of(name: &str, topics: &[String]) -> Value {
    json!({name: {"topics": topics}})
}

/// `{"offsets":[{"partition","offset"}]}`
pub(super) fn offsets(offsets: &Offsets) -> Value {
    let offsets: Vec<Value> = match offsets {
        Offsets::Source(state) => state.iter().map(|(partition, offset)| json!({"partition": partition, "offset": offset})).collect(),
        Offsets::Sink(positions) => positions
            .iter()
            .map(|position| {
                let partition =
                    json!({"kafka_partition": position.topic_partition.partition, "kafka_topic": &*position.topic_partition.topic});
                json!({"partition": partition, "offset": {"kafka_offset": position.offset}})
            })
            .collect(),
    };
    json!({"offsets": offsets})
}

/// `[{"name","connector","log","partitions":[{"partition","first_offset","next_offset"}]}]`
pub(crate) fn topics(topics: &[TopicInfo]) -> Value {
    let partition =
        |(number, (first, next)): (usize, &(u64, u64))| json!({"partition": number, "first_offset": first, "next_offset": next});
    topics
        .iter()
        .map(|topic| {
            let partitions: Vec<Value> = topic.partitions.iter().enumerate().map(partition).collect();
            json!({"name": &*topic.name, "connector": topic.writer.as_deref(), "log": &*topic.log, "partitions": partitions})
        })
        .collect()
}

fn task_numbers(info: &ConnectorInfo) -> impl Iterator<Item = u32> {
    info.tasks.iter().filter_map(|task| task.task)
}

fn kind(info: &ConnectorInfo) -> &'static str {
    match info.kind {
        Some(ConnectorType::Source) => "source",
        Some(ConnectorType::Sink) => "sink",
        None => "unknown",
    }
}
