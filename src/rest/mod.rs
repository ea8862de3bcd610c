//! The REST API: Kafka Connect's endpoints (Kafka 4.3, `ConnectorsResource`), and ours: `/topics`,
//! `/topics/NAME/records`, `/metrics`.
//!
//! What clients parse is Connect's: paths, statuses, shapes, the texts of errors, `{"error_code":…,"message":…}` for
//! every failure. Where Connect answers 500 with a Java message to a request that is merely wrong, the answer is 400
//! and says what is wrong. Configurations are returned as they were given, secrets unresolved (I14).
//!
//! The listener is bound before anything else starts, so that a taken port is found at once; until the worker runs,
//! `/health` says `starting` and the rest answers 503.

mod answers;
mod connectors;
mod failure;
pub mod record_line;
mod requests;
mod topics;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Layer as _;
use tower_http::normalize_path::NormalizePathLayer;

pub(crate) use self::answers::topics as topics_answer;
pub(crate) use self::connectors::segment;
use self::failure::Failure;
use crate::runtime::worker::Worker;
use crate::telemetry::{self, Registry};

/// The version of Connect whose API this is; clients choose by it what they may call.
const CONNECT_VERSION: &str = "4.3.1";
/// A larger body is no configuration (I6).
const MAX_BODY: usize = 1 << 20;

/// What the endpoints need. Cloning shares it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    worker: OnceLock<Worker>,
    metrics: Registry,
    /// `worker_id` of statuses: host and port
    worker_id: String,
}

impl Api {
    /// An API whose worker is still starting.
    #[must_use]
    pub fn new(metrics: Registry, worker_id: String) -> Self {
        Self(Arc::new(Inner { worker: OnceLock::new(), metrics, worker_id }))
    }

    /// From now on requests reach `worker`.
    pub fn started(&self, worker: Worker) {
        let _ = self.0.worker.set(worker);
    }

    fn worker(&self) -> Result<&Worker, Failure> {
        self.0.worker.get().ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "The worker is still starting up."))
    }

    fn worker_id(&self) -> &str {
        &self.0.worker_id
    }
}

/// Answers requests until `stop` turns true and those under way are answered.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, api: Api, mut stop: watch::Receiver<bool>) -> std::io::Result<()> {
    // Connect takes paths with a slash at their end, and Debezium's tutorial uses them.
    let app = NormalizePathLayer::trim_trailing_slash().layer(router(api));
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, axum::ServiceExt::<Request>::into_make_service(app)).with_graceful_shutdown(stopped).await
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/connectors", get(connectors::list).post(connectors::create))
        .route("/connectors/{name}", get(connectors::info).delete(connectors::delete))
        .route("/connectors/{name}/config", get(connectors::config).put(connectors::put_config))
        .route("/connectors/{name}/status", get(connectors::status))
        .route("/connectors/{name}/topics", get(connectors::topics))
        .route("/connectors/{name}/offsets", get(connectors::offsets))
        .route("/connectors/{name}/pause", put(connectors::pause))
        .route("/connectors/{name}/resume", put(connectors::resume))
        .route("/connectors/{name}/stop", put(connectors::stop))
        .route("/connectors/{name}/restart", post(connectors::restart))
        .route("/connectors/{name}/tasks", get(connectors::tasks))
        .route("/connectors/{name}/tasks/{task}/status", get(connectors::task_status))
        .route("/connectors/{name}/tasks/{task}/restart", post(connectors::restart_task))
        .route("/topics", get(topics::list))
        .route("/topics/{topic}/records", get(topics::records))
        .fallback(Failure::not_found)
        .method_not_allowed_fallback(async |_: Method| Failure::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// `kafka_cluster_id` names the engine of the topic log, since there may be no Kafka.
async fn root() -> Response {
    let commit = concat!("tailwater-", env!("CARGO_PKG_VERSION"));
    answers::json(StatusCode::OK, &json!({"version": CONNECT_VERSION, "commit": commit, "kafka_cluster_id": "embedded"}))
}

async fn health(State(api): State<Api>) -> Response {
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

async fn metrics(State(api): State<Api>) -> Response {
    ([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], api.0.metrics.encode()).into_response()
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
