//! `run`: the daemon.
//!
//! The order of starting: logs and worker file, the REST listener (a taken port is found before anything runs, and
//! `/health` says `starting`), data directory and its lock, the connectors that REST made, the directory of connector
//! files, the connectors that files declare (as they stand in the files by now, unless a file cannot be applied), ready. The
//! address of the REST API stands in `rest.address` of the data directory from then on.
//!
//! SIGTERM or SIGINT drains to `shutdown.timeout.ms`; a second one ends at once. SIGHUP applies the connector files anew and lets the users
//! in that the worker file names now; a worker file with faults leaves all as it was.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tailwater_api::config::ConfigReport;
use tailwater_api::{Error, ErrorKind};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Exit, Failure, open, service_manager};
use crate::config::directory::Directory;
use crate::config::worker_file::{self, Loaded, LogFormat, WorkerFile};
use crate::rest::{self, Api};
use crate::runtime::statuses::StatusPublisher;
use crate::runtime::worker::{Worker, WorkerOptions};
use crate::telemetry::{self, Levels, Registry};

/// How long requests under way may take to end after the worker has stopped.
const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// What the worker's own deadline may be exceeded by before the process ends regardless.
const GRACE: Duration = Duration::from_secs(15);

/// Runs the daemon until SIGTERM or SIGINT
#[derive(Args)]
pub(super) struct Run {
    /// The worker file; every key of it is optional
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory of connector files, applied at start and whenever they change (connectors.dir)
    #[arg(long)]
    connectors: Option<PathBuf>,
    /// Directory of the embedded log and the state (data.dir)
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Host and port of the REST API (rest.listen)
    #[arg(long)]
    listen: Option<String>,
    /// How log lines look (log.format)
    #[arg(long, value_enum)]
    log_format: Option<FormatArgument>,
    /// A level, or directives such as info,tailwater::runtime=debug (log.level)
    #[arg(long)]
    log_level: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArgument {
    Text,
    Json,
}

impl FormatArgument {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    fn format(self) -> LogFormat {
        match self {
            Self::Text => LogFormat::Text,
            Self::Json => LogFormat::Json,
        }
    }
}

impl Run {
    pub(super) async fn execute(self) -> Result<Exit, Failure> {
        let loaded = match worker_file::load(self.config.as_deref(), &self.overrides()) {
            Ok(loaded) => loaded,
            Err(report) => {
                telemetry::init(self.log_format.map(FormatArgument::format).unwrap_or_default(), "info");
                return Ok(self.refuse(&report));
            }
        };
        let levels = telemetry::init(loaded.file.log_format, &loaded.file.log_level);
        self.warn(&loaded.notes);
        let reload = || worker_file::load(self.config.as_deref(), &self.overrides());
        Ok(match daemon(loaded, levels, reload).await {
            Ok(()) => Exit::Done,
            Err(error) => {
                tracing::error!(error.kind = error.kind().code(), error.mend = error.remedy(), "{}", error.sentence());
                if error.kind() == ErrorKind::Misconfigured { Exit::Invalid } else { Exit::Failed }
            }
        })
    }

    fn overrides(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let given = [
            ("connectors.dir", path(&self.connectors)),
            ("data.dir", path(&self.data_dir)),
            ("rest.listen", self.listen.clone()),
            ("log.format", self.log_format.map(|format| format.name().to_owned())),
            ("log.level", self.log_level.clone()),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    fn file_name(&self) -> String {
        self.config.as_ref().map_or_else(|| "command line".to_owned(), |file| file.display().to_string())
    }

    fn warn(&self, report: &ConfigReport) {
        for note in &report.notes {
            tracing::warn!("{}: {note}", self.file_name());
        }
    }

    fn refuse(&self, report: &ConfigReport) -> Exit {
        self.warn(report);
        for fault in &report.faults {
            tracing::error!(error.kind = ErrorKind::Misconfigured.code(), "{}: {fault}", self.file_name());
        }
        Exit::Invalid
    }
}

/// The signals that the daemon answers.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    /// What is asked next. Cancel-safe.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.reload.recv() => Asked::Reload,
        }
    }

    /// Completes when the daemon should end. Cancel-safe.
    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

#[derive(PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

async fn daemon(loaded: Loaded, levels: Levels, reload: impl Fn() -> Result<Loaded, ConfigReport>) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(|error| Error::new(ErrorKind::Bug, "listen for signals").because(error))?;
    let file = loaded.file.clone();
    let (listener, address) = bind(&file.rest.listen).await?;
    let metrics = Registry::default();
    let api = Api::new(file.rest.clone(), metrics.clone(), levels, address.to_string())?;
    let (stop_rest, rest_stopped) = watch::channel(false);
    let server = tokio::spawn(rest::serve(listener, api.clone(), rest_stopped));
    let alive = tokio::spawn(service_manager::keep_alive());

    let (worker, statuses) = tokio::select! {
        started = start(loaded, &metrics, address) => started?,
        () = signals.stop() => return Ok(()),
    };
    let reloaded = || reload_users(&reload, &file, &api);
    let ended = attend(&worker, &file, address, &api, &mut signals, reloaded).await;

    let _ = std::fs::remove_file(address_file(&file.data_dir));
    let ended_at_once = tokio::select! {
        drained = tokio::time::timeout(file.shutdown_timeout + GRACE, worker.shutdown()) => {
            if drained.is_err() {
                tracing::error!("draining did not end; what was not durable is read from the sources again");
            }
            drained.is_err()
        }
        () = signals.stop() => {
            tracing::warn!("ended at once by a second signal; what was not durable is read from the sources again");
            true
        }
    };
    if let Some(statuses) = statuses.filter(|_| !ended_at_once) {
        statuses.end().await;
    }
    let _ = stop_rest.send(true);
    let _ = tokio::time::timeout(LAST_REQUESTS, server).await;
    alive.abort();
    tracing::info!("stopped");
    if ended_at_once && ended.is_ok() {
        return Err(Error::new(ErrorKind::TimedOut, "drain before the end"));
    }
    ended
}

/// Binds the address of the REST API.
async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let cannot = |error: io::Error| {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => "end the process that has this port, or name another one by rest.listen (--listen)",
            _ => "name an address of this machine by rest.listen (--listen)",
        };
        let kind = if error.kind() == io::ErrorKind::AddrInUse { ErrorKind::Conflict } else { ErrorKind::Misconfigured };
        Error::new(kind, format!("listen on {listen} (rest.listen)")).because(error).mend(mend)
    };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

async fn start(loaded: Loaded, metrics: &Registry, address: SocketAddr) -> Result<(Worker, Option<StatusPublisher>), Error> {
    let Loaded { file, values, providers, .. } = loaded;
    let opened = open::open(&file, &values, &address.to_string()).await?;
    let options = WorkerOptions {
        data_dir: file.data_dir,
        memory_budget: file.memory_budget,
        shutdown_timeout: file.shutdown_timeout,
        defaults: values,
        worker_id: address.to_string(),
    };
    open::start(options, opened, providers, metrics).await
}

/// Reads the worker file again and lets those users in that it names now. What else has changed in it waits for the next start.
fn reload_users(load: impl Fn() -> Result<Loaded, ConfigReport>, running: &WorkerFile, api: &Api) {
    let rest = match load() {
        Ok(Loaded { file, .. }) => file.rest,
        Err(report) => {
            for fault in &report.faults {
                tracing::error!(error.kind = ErrorKind::Misconfigured.code(), "the worker file is not applied: {fault}");
            }
            return;
        }
    };
    // A door that had a lock is not opened by a file that forgot it.
    if rest.users.is_empty() && !running.rest.users.is_empty() {
        tracing::error!(
            error.kind = ErrorKind::Misconfigured.code(),
            "the worker file is not applied: rest.users names nobody any more, which opens the REST API to everybody only from the next start on"
        );
        return;
    }
    tracing::info!(users = rest.users.len(), "the users of the REST API are those of the worker file now");
    api.replace_users(rest.users, rest.requests_per_second);
}

/// Runs until a signal says to stop; calls `reloaded` where one says to read files again.
async fn attend(
    worker: &Worker,
    file: &WorkerFile,
    address: SocketAddr,
    api: &Api,
    signals: &mut Signals,
    reloaded: impl Fn(),
) -> Result<(), Error> {
    let (stop_directory, directory_stopped) = watch::channel(false);
    let (reload, reloads) = watch::channel(0);
    let mut directory = match &file.connectors_dir {
        Some(path) => Some(Directory::open(path, worker.clone()).await?),
        None => None,
    };
    let declared = async {
        if let Some(directory) = &mut directory {
            directory.scan().await;
        }
        worker.start_declared().await;
    };
    tokio::select! {
        () = declared => {}
        () = signals.stop() => {
            stopping(file);
            return Ok(());
        }
    }
    api.started(worker.clone());
    // Who finds the file finds a worker that answers and has its connectors.
    write_address(&file.data_dir, api.scheme(), address)
        .map_err(|error| Error::new(ErrorKind::Unreachable, format!("write {}", address_file(&file.data_dir).display())).because(error))?;
    tracing::info!(address = %address, "listening");
    if !address.ip().is_loopback() && file.rest.users.is_empty() {
        tracing::warn!(
            "the REST API listens on {address} without authentication (rest.users); whoever reaches it can read and change all connectors"
        );
    } else if !address.ip().is_loopback() && file.rest.tls.is_none() {
        tracing::warn!("the REST API listens on {address} without TLS (rest.tls); passwords and tokens travel in clear");
    }
    let watching: Option<JoinHandle<()>> = directory.map(|directory| tokio::spawn(directory.watch(directory_stopped, reloads)));
    service_manager::ready();
    while signals.next().await == Asked::Reload {
        tracing::info!("applying the connector files anew");
        service_manager::reloading();
        reloaded();
        reload.send_modify(|count| *count += 1);
        service_manager::ready();
    }
    stopping(file);
    let _ = stop_directory.send(true);
    if let Some(watching) = watching {
        // A change that is under way ends with the worker.
        let _ = tokio::time::timeout(LAST_REQUESTS, watching).await;
    }
    Ok(())
}

fn stopping(file: &WorkerFile) {
    tracing::info!("stopping; draining for at most {} ms", file.shutdown_timeout.as_millis());
    service_manager::stopping(file.shutdown_timeout + GRACE);
}

/// Where the address of a running worker's REST API stands, for tools on the same machine: host and port, behind `https://`
/// where it is encrypted.
fn address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("rest.address")
}

/// Written beside and renamed, so that no reader sees a part. With topics in Kafka nothing else stands in the directory.
fn write_address(data_dir: &Path, scheme: &str, address: SocketAddr) -> io::Result<()> {
    std::fs::create_dir_all(data_dir)?;
    let beside = data_dir.join("rest.address.new");
    let text = if scheme == "http" { format!("{address}\n") } else { format!("{scheme}://{address}\n") };
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, address_file(data_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_the_key() {
        let (_held, address) = bind("127.0.0.1:0").await.unwrap();
        let error = bind(&address.to_string()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("rest.listen"), "{error}");
    }

    #[test]
    fn the_address_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        write_address(folder.path(), "http", "127.0.0.1:8083".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(address_file(folder.path())).unwrap(), "127.0.0.1:8083\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
