//! The client of a running worker's REST API.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{Exit, Failure};

/// Where the worker's REST API is.
#[derive(Args)]
pub(super) struct Address {
    /// Where the worker's REST API is; by default what /var/lib/tailwater/rest.address says, or else http://127.0.0.1:8083
    #[arg(long, env = "TAILWATER_URL", hide_env_values = true)]
    url: Option<String>,
}

const DEFAULT: &str = "http://127.0.0.1:8083";
/// A worker that drains a connector may take its shutdown timeout to answer.
const TIMEOUT: Duration = Duration::from_secs(90);

impl Address {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let written = || std::fs::read_to_string(Path::new("/var/lib/tailwater/rest.address")).ok();
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => written().map_or_else(|| DEFAULT.to_owned(), |address| format!("http://{}", address.trim())),
        };
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build();
        Ok(Client { url, http: http.map_err(|error| Failure::failed(format!("cannot make an HTTP client: {error}")))? })
    }
}

pub(super) struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    /// Sends a request and gives the text of a good answer.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<String, Failure> {
        let unreachable = |error: reqwest::Error| {
            let mut root: &dyn Error = &error;
            while let Some(cause) = root.source() {
                root = cause;
            }
            Failure::failed(format!("cannot reach the worker at {}: {root}. Is it running? --url names another address", self.url))
        };
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.text().await.map_err(unreachable)?;
        if status.is_success() { Ok(text) } else { Err(refused(status, &text)) }
    }

    /// Sends a request and gives the JSON of a good answer.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let text = self.send(Method::GET, path, None).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::failed(format!("{}{path} does not answer as a worker does: {error}", self.url)))
    }
}

/// What the worker said against it; a configuration with faults is the caller's.
fn refused(status: StatusCode, text: &str) -> Failure {
    let said = serde_json::from_str::<Value>(text).ok().and_then(|body| body["message"].as_str().map(str::to_owned));
    let message = said.unwrap_or_else(|| format!("the worker answers {status}"));
    Failure { exit: if status == StatusCode::BAD_REQUEST { Exit::Invalid } else { Exit::Failed }, message }
}
