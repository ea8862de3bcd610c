//! The client of a running worker's REST API.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, Response, StatusCode, Url};
use serde_json::Value;
use tailwater_kit::tls::{TlsMode, TlsOptions};

use super::{Exit, Failure};

/// Where the worker's REST API is, and who asks.
#[derive(Args)]
pub(super) struct Address {
    /// Where the worker's REST API is, for instance https://alice:PASSWORD@db-7:8083; by default what
    /// /var/lib/tailwater/rest.address says, or else http://127.0.0.1:8083
    #[arg(long, env = "TAILWATER_URL", hide_env_values = true)]
    url: Option<String>,
    /// Token of a user of the worker (rest.users.NAME.token)
    #[arg(long, env = "TAILWATER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificates to trust, PEM; the system's where absent
    #[arg(long, env = "TAILWATER_CA")]
    ca: Option<PathBuf>,
}

const DEFAULT: &str = "http://127.0.0.1:8083";
/// A worker that drains a connector may take its shutdown timeout to answer.
const TIMEOUT: Duration = Duration::from_secs(90);

impl Address {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => std::fs::read_to_string("/var/lib/tailwater/rest.address").unwrap_or_else(|_| DEFAULT.to_owned()),
        };
        let url = if url.contains("://") { url.trim().to_owned() } else { format!("http://{}", url.trim()) };
        // The text may hold a password, so it is not shown (I14).
        let unusable = |_| Failure { exit: Exit::Invalid, message: "--url is no address such as http://127.0.0.1:8083".to_owned() };
        let parsed = Url::parse(&url).map_err(unusable)?;
        let mut shown = parsed.clone();
        let without = shown.set_username("").and_then(|()| shown.set_password(None));
        without.map_err(|()| Failure { exit: Exit::Invalid, message: "--url has no host".to_owned() })?;
        let mut builder = reqwest::Client::builder().no_proxy().timeout(TIMEOUT);
        if parsed.scheme() == "https" {
            let options = TlsOptions { mode: TlsMode::VerifyFull, root_certificates: self.ca.clone(), ..TlsOptions::default() };
            if let Some(tls) = options.client_config()? {
                builder = builder.tls_backend_preconfigured(tls);
            }
        }
        let http = builder.build().map_err(|error| Failure::failed(format!("cannot make an HTTP client: {error}")))?;
        let trimmed = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        Ok(Client { url: trimmed(&parsed), shown: trimmed(&shown), token: self.token.clone(), http })
    }
}

pub(super) struct Client {
    url: String,
    /// Without the password
    shown: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// Sends a request and gives the text of a good answer.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<String, Failure> {
        let answer = self.begin(method, path, body).await?;
        answer.text().await.map_err(|error| self.unreachable(&error))
    }

    /// Sends a request and gives a good answer, whose body is still to come.
    pub(super) async fn begin(&self, method: Method, path: &str, body: Option<String>) -> Result<Response, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        Err(refused(status, &text))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut root: &dyn Error = error;
        while let Some(cause) = root.source() {
            root = cause;
        }
        Failure::failed(format!("cannot reach the worker at {}: {root}. Is it running? --url names another address", self.shown))
    }

    /// Sends a request and gives the JSON of a good answer.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let text = self.send(Method::GET, path, None).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::failed(format!("{}{path} does not answer as a worker does: {error}", self.shown)))
    }
}

/// What the worker said against it; a configuration with faults is the caller's.
fn refused(status: StatusCode, text: &str) -> Failure {
    let said = serde_json::from_str::<Value>(text).ok().and_then(|body| body["message"].as_str().map(str::to_owned));
    let message = said.unwrap_or_else(|| format!("the worker answers {status}"));
    Failure { exit: if status == StatusCode::BAD_REQUEST { Exit::Invalid } else { Exit::Failed }, message }
}
