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
mod endpoints;
mod failure;
mod loggers;
mod openapi;
mod plugins;
pub mod record_line;
mod requests;
mod service;
mod topics;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Layer as _;
use tower_http::normalize_path::NormalizePathLayer;

pub(crate) use self::answers::topics as topics_answer;
pub(crate) use self::connectors::segment;
use self::failure::Failure;
use crate::runtime::worker::Worker;
use crate::telemetry::{Levels, Registry};

/// A larger body is no configuration (I6).
const MAX_BODY: usize = 1 << 20;

/// What the endpoints need. Cloning shares it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    worker: OnceLock<Worker>,
    metrics: Registry,
    levels: Levels,
    /// `worker_id` of statuses: host and port
    worker_id: String,
}

impl Api {
    /// An API whose worker is still starting.
    #[must_use]
    pub fn new(metrics: Registry, levels: Levels, worker_id: String) -> Self {
        Self(Arc::new(Inner { worker: OnceLock::new(), metrics, levels, worker_id }))
    }

    /// From now on requests reach `worker`.
    pub fn started(&self, worker: Worker) {
        let _ = self.0.worker.set(worker);
    }

    fn worker(&self) -> Result<&Worker, Failure> {
        self.0.worker.get().ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "The worker is still starting up."))
    }

    fn metrics(&self) -> &Registry {
        &self.0.metrics
    }

    fn levels(&self) -> &Levels {
        &self.0.levels
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
    endpoints::routes()
        .fallback(Failure::not_found)
        .method_not_allowed_fallback(async |_: Method| Failure::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
