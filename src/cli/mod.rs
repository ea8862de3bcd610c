//! The commands.
//!
//! Exit codes: 0 done; 1 failed; 2 wrong usage or invalid configuration; 3 done in part (a snapshot that ended before
//! its end). Results go to standard output, everything else to standard error.

mod check;
mod client;
mod connector;
mod open;
mod output;
mod plan;
mod probe;
mod run;
mod service_manager;
mod snapshot;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tailwater_api::config::ConfigReport;
use tailwater_api::{Error, ErrorKind};

/// Captures every committed change of a database and materialises it elsewhere.
#[derive(Parser)]
#[command(
    name = "tailwater",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or invalid configuration, 3 done in part."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Plan(plan::Plan),
    Probe(probe::Probe),
    Snapshot(snapshot::Snapshot),
    /// Speaks about the connectors of a running worker
    Connector {
        #[command(subcommand)]
        command: connector::Connector,
    },
    /// Shows what stands in topics
    Topic {
        #[command(subcommand)]
        command: topic::Topic,
    },
}

/// How a command ended, as its exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    Invalid = 2,
    Partial = 3,
}

/// Why a command ended early, and its exit code.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// For standard error; empty where nobody is left to read it
    message: String,
}

impl Failure {
    fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    /// A configuration that cannot be used; `what` names the file.
    fn invalid(what: &str, report: &ConfigReport) -> Self {
        let lines: Vec<String> = report.faults.iter().map(|fault| format!("{what}: {fault}")).collect();
        Self { exit: Exit::Invalid, message: lines.join("\n") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = if error.kind() == ErrorKind::Misconfigured { Exit::Invalid } else { Exit::Failed };
        Self { exit, message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    /// Of standard output: a reader that has seen enough, as `head`, is no failure.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self { exit: Exit::Done, message: String::new() }
        } else {
            Self::failed(format!("cannot write to standard output: {error}"))
        }
    }
}

/// One thread for two cores. Journals, files and SQLite have threads of their own, and a batch that is handed to another
/// thread costs its waking: on two cores a source takes a quarter less of the processor with one (`bench/run`).
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
}

/// Runs the command that the arguments name, to its end.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Every TLS connection of the process uses this provider; a second call could only install the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(worker_threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Run(run) => run.execute().await,
            Command::Check(check) => check.execute(),
            Command::Plan(plan) => plan.execute(),
            Command::Probe(probe) => probe.execute().await,
            Command::Snapshot(snapshot) => snapshot.execute().await,
            Command::Connector { command } => command.execute().await,
            Command::Topic { command } => command.execute().await,
        }
    });
    // What still runs, such as a name look-up, must not keep the process.
    runtime.shutdown_background();
    let exit = ended.unwrap_or_else(|failure| {
        for line in failure.message.lines() {
            eprintln!("error: {line}");
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_calls_are_understood() {
        let calls = [
            "run",
            "run --config worker.yaml --connectors c --data-dir d --listen 127.0.0.1:0 --log-format json --log-level debug",
            "check a.yaml b.json --output json",
            "plan a.yaml b.json --config worker.yaml --output json",
            "probe a.yaml",
            "snapshot a.yaml",
            "snapshot a.yaml --to sqlite:///tmp/x.db",
            "connector list --url http://h:1 --output json",
            "connector status a",
            "connector create a.yaml",
            "connector restart a --include-tasks --only-failed",
            "connector offsets a",
            "connector delete a",
            "topic list --data-dir d",
            "topic read t --from-beginning --max 3 --follow",
            "topic read t --offset 12 --partition 0 --data-dir d",
        ];
        for call in calls {
            let parsed = Arguments::try_parse_from(["tailwater"].into_iter().chain(call.split(' ')));
            assert!(parsed.is_ok(), "{call}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
        }
        for wrong in ["topic read t --from-beginning --offset 1", "check", "topic list --url http://h:1 --data-dir d"] {
            assert!(Arguments::try_parse_from(["tailwater"].into_iter().chain(wrong.split(' '))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        assert_eq!(Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).exit, Exit::Done);
    }
}
