//! `/`, `/health`, `/metrics`: what is asked of the worker itself.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tailwater_kit::relational_fields::metric_tags;

use super::failure::Failure;
use super::{Api, answers};
use crate::runtime::worker::{ConnectorType, RunStatus};
use crate::telemetry::{self, TaskState};

/// The version of Connect whose API this is; clients choose by it what they may call.
const CONNECT_VERSION: &str = "4.3.1";

/// `kafka_cluster_id` names the engine of the topic log, since there may be no Kafka.
pub(super) async fn root() -> Response {
    let commit = concat!("tailwater-", env!("CARGO_PKG_VERSION"));
    answers::json(StatusCode::OK, &json!({"version": CONNECT_VERSION, "commit": commit, "kafka_cluster_id": "embedded"}))
}

pub(super) async fn health(State(api): State<Api>) -> Response {
    match api.worker() {
        Ok(_) => {
            let message = "Worker has completed startup and is ready to handle requests.";
            answers::json(StatusCode::OK, &json!({"status": "healthy", "message": message}))
        }
        Err(_) => {
            let message = "Worker is still starting up.";
            answers::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "starting", "message": message}))
        }
    }
}

/// Figures of a worker that is still starting are those that are there.
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Failure> {
    let mut tasks = Vec::new();
    if let Ok(worker) = api.worker() {
        worker.refresh_lag().await?;
        for info in worker.list().await {
            let tags = info.config.get("custom.metric.tags").and_then(|tags| metric_tags(tags.as_str()?).ok()).unwrap_or_default();
            let state = |task: &RunStatus| TaskState {
                connector: info.name.clone(),
                task: task.task.unwrap_or_default(),
                is_sink: info.kind == Some(ConnectorType::Sink),
                state: task.state.name().to_ascii_lowercase(),
                tags: tags.clone(),
            };
            tasks.extend(info.tasks.iter().map(state));
        }
    }
    Ok(([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], api.metrics().encode(&tasks)).into_response())
}
