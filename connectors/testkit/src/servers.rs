//! Where real servers come from, and what a test does without them.

use std::path::PathBuf;

use rustix::process::geteuid;
use tailwater_api::{ErrorKind, Result};

/// Folder in which `scripts/install-test-servers` puts servers that no package of the system holds:
/// `TAILWATER_TEST_SERVERS`, or `/var/cache/tailwater` for root (servers run as another user, who cannot enter root's
/// home), or `~/.cache/tailwater`.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("TAILWATER_TEST_SERVERS") {
        return folder.into();
    }
    match std::env::home_dir() {
        Some(home) if !geteuid().is_root() => home.join(".cache/tailwater"),
        _ => "/var/cache/tailwater".into(),
    }
}

/// The server, or `None` where it is not installed: then the test says so and ends.
///
/// # Panics
/// The server is missing and `CI=true`, or it is there and failed to start.
#[must_use]
pub fn required_or_skip<T>(server: Result<T>) -> Option<T> {
    match server {
        Ok(server) => Some(server),
        Err(error) if error.kind() == ErrorKind::Missing && std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
