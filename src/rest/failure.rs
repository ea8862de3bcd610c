//! Answers that say no: Connect's `{"error_code":…,"message":…}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tailwater_api::config::ConfigReport;
use tailwater_api::{Error, ErrorKind};

use super::answers;
use crate::runtime::offsets::Immovable;
use crate::runtime::worker::Refused;

/// A status and a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// For paths that are none.
    pub(super) async fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "HTTP 404 Not Found")
    }

    /// `unknown` is what Connect's endpoint says where there is no such connector; each says it in its own words.
    pub(super) fn refused(name: &str, refused: Refused, unknown: impl FnOnce(&str) -> String) -> Self {
        match refused {
            Refused::Unknown(_) => Self::new(StatusCode::NOT_FOUND, unknown(name)),
            Refused::Exists(_) => Self::new(StatusCode::CONFLICT, format!("Connector {name} already exists")),
            Refused::Invalid(report) => Self::bad_request(invalid(&report)),
            Refused::OwnedByFile(file) => {
                let message = format!("Connector {name} is declared by the file {}; change or remove that file", file.display());
                Self::new(StatusCode::CONFLICT, message)
            }
            Refused::Failed(error) => error.into(),
        }
    }

    /// Why offsets did not move.
    pub(super) fn immovable(name: &str, immovable: Immovable) -> Self {
        match immovable {
            Immovable::NotStopped => Self::bad_request(format!(
                "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
            )),
            Immovable::Nowhere(message) => Self::bad_request(message),
            Immovable::Refused(refused) => Self::refused(name, refused, |name| format!("Connector {name} not found")),
        }
    }
}

/// Connect's text for a configuration with faults.
fn invalid(report: &ConfigReport) -> String {
    format!(
        "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above list of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
        report.faults.len(),
        answers::sentences(report)
    )
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Missing => StatusCode::NOT_FOUND,
            ErrorKind::Misconfigured | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Throttled | ErrorKind::Restarting => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::HistoryGone => StatusCode::GONE,
            ErrorKind::Unreachable
            | ErrorKind::TimedOut
            | ErrorKind::Unauthorised
            | ErrorKind::Unreadable
            | ErrorKind::Rejected
            | ErrorKind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        answers::json(self.status, &json!({"error_code": self.status.as_u16(), "message": self.message}))
    }
}
