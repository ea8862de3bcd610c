//! The REST API: Kafka Connect's endpoints (Kafka 4.3, `ConnectorsResource`), and ours: `/topics`,
//! `/topics/NAME/records`, `/topics/NAME/follow`, `/connectors/NAME/snapshot`, `/metrics`.
//!
//! What clients parse is Connect's: paths, statuses, shapes, the texts of errors, `{"error_code":…,"message":…}` for
//! every failure. Where Connect answers 500 with a Java message to a request that is merely wrong, the answer is 400
//! and says what is wrong. Configurations are returned as they were given, secrets unresolved (I14).
//!
//! The listener is bound before anything else starts, so that a taken port is found at once; until the worker runs,
//! `/health` says `starting` and the rest answers 503.

mod access;
mod answers;
mod connectors;
mod endpoints;
mod failure;
mod listener;
mod loggers;
mod openapi;
mod plugins;
pub mod record_line;
mod requests;
mod service;
mod snapshots;
mod topics;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use tailwater_api::Result;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Layer as _;
use tower_http::normalize_path::NormalizePathLayer;

use self::access::Access;
pub(crate) use self::answers::topics as topics_answer;
pub(crate) use self::connectors::segment;
use self::failure::Failure;
use self::listener::{Certificate, HEAD_TIMEOUT};
use crate::config::rest_options::{RestOptions, User};
use crate::runtime::worker::Worker;
use crate::telemetry::{Levels, Registry};

/// What the endpoints need. Cloning shares it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    worker: OnceLock<Worker>,
    metrics: Registry,
    levels: Levels,
    access: Access,
    /// A larger body is no configuration (I6)
    max_body: usize,
    certificate: Option<Certificate>,
    /// `worker_id` of statuses: host and port
    worker_id: String,
}

impl Api {
    /// An API whose worker is still starting.
    ///
    /// # Errors
    /// `misconfigured`: the certificate cannot be used.
    pub fn new(options: RestOptions, metrics: Registry, levels: Levels, worker_id: String) -> Result<Self> {
        let certificate = options.tls.map(Certificate::read).transpose()?;
        let access = Access::new(options.users, options.requests_per_second);
        let (worker, max_body) = (OnceLock::new(), options.max_body);
        Ok(Self(Arc::new(Inner { worker, metrics, levels, access, max_body, certificate, worker_id })))
    }

    /// From now on requests reach `worker`.
    pub fn started(&self, worker: Worker) {
        let _ = self.0.worker.set(worker);
    }

    /// Lets other users in, without interrupting requests.
    pub fn replace_users(&self, users: Vec<User>, requests_per_second: u32) {
        self.0.access.replace(users, requests_per_second);
    }

    fn worker(&self) -> Result<&Worker, Failure> {
        self.0.worker.get().ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "The worker is still starting up."))
    }

    /// `https` where the API is encrypted, else `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.0.certificate.is_some() { "https" } else { "http" }
    }

    fn access(&self) -> &Access {
        &self.0.access
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
pub async fn serve(tcp: TcpListener, api: Api, stop: watch::Receiver<bool>) {
    let certificate = api.0.certificate.clone();
    // Connect takes paths with a slash at their end, and Debezium's tutorial uses them.
    let app = NormalizePathLayer::trim_trailing_slash().layer(router(api));
    listener::serve(tcp, certificate, app, HEAD_TIMEOUT, stop).await;
}

fn router(api: Api) -> Router {
    endpoints::routes(&api)
        .fallback(Failure::not_found)
        .method_not_allowed_fallback(async |_: Method| Failure::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed"))
        .layer(DefaultBodyLimit::max(api.0.max_body))
        .layer(from_fn_with_state(api.clone(), access::limit))
        .with_state(api)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
