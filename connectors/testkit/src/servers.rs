//! Where real servers come from, and what a test does without them.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::geteuid;
use tailwater_api::{Error, ErrorKind, Result};

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
            // Not by a print macro: the output of a test that passes is not shown.
            drop(writeln!(std::io::stderr(), "SKIPPED: {error}"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A port below the range that the kernel gives to outgoing connections, so that a server that is down for a moment
/// finds its port free again.
pub(crate) fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let port = fastrand::u16(10_000..32_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == IoErrorKind::AddrInUse => {}
            Err(error) => return Err(failed("find a free port", error)),
        }
    }
    Err(Error::new(ErrorKind::Missing, "find a free port"))
}

/// Runs a command to its end; its output is the cause of the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(&format!("run {command:?}"), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Err(Error::new(ErrorKind::Misconfigured, format!("run {command:?}")).because(said))
}

pub(crate) fn failed(doing: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Misconfigured, doing).because(cause)
}
