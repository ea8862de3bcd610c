//! `snapshot`: one shot of a source, into the topic log or with `--to` straight into a database.
//!
//! The source runs with `snapshot.mode` `initial_only` under its own name. Its other connectors do not run meanwhile:
//! they are declared stopped to a worker of this process, which remembers nothing, so the topic log still keeps what
//! their sinks have not read. With `--to` the log lives in a directory of its own that is removed at the end, and the
//! sink has a name of its own: positions that an earlier run left in the target speak of a log that is gone.
//!
//! The snapshot is complete when the source's offsets say `snapshot_completed`, Debezium's own word, and with `--to`
//! when the sink stands at the end of every topic.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use futures_util::future::BoxFuture;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tailwater_api::sink::LogPosition;
use tailwater_api::state::JsonMap;
use tailwater_api::{ErrorKind, Result as ApiResult};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::open::{self, Opened};
use super::output::print;
use super::{Exit, Failure};
use crate::config::check::{check, flatten};
use crate::config::connector_file::{self, ConnectorFile};
use crate::config::worker_file::{self, Loaded};
use crate::connectors;
use crate::runtime::offsets::Offsets;
use crate::runtime::plugin::Plugin;
use crate::runtime::worker::{Refused, RunState, Worker, WorkerOptions};
use crate::state::{ConnectorStore, StoredConnector, TargetState};
use crate::telemetry::{self, Registry};
use crate::topics::TopicInfo;

/// How often the state is looked at.
const TICK: Duration = Duration::from_millis(100);
/// A fault that may pass ends the command when it has not passed after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes one snapshot of a source and ends
#[derive(Args)]
pub(super) struct Snapshot {
    /// Connector file of the source
    file: PathBuf,
    /// Write the rows into this database (sqlite:// or postgres://) instead of topics; rows with a key replace those
    /// that are there, rows without one are added
    #[arg(long)]
    to: Option<String>,
    /// The worker file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory of the embedded log (data.dir)
    #[arg(long, conflicts_with = "to")]
    data_dir: Option<PathBuf>,
}

impl Snapshot {
    pub(super) async fn execute(self) -> Result<Exit, Failure> {
        // First of all, so that no signal leaves a temporary directory behind.
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
        let signals = [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?];
        let temporary = self.to.as_ref().map(|_| TemporaryDirectory::new()).transpose()?;
        let data_dir = temporary.as_ref().map(|temporary| &temporary.0).or(self.data_dir.as_ref());
        let overrides: Vec<_> = data_dir.map(|path| ("data.dir", path.display().to_string())).into_iter().collect();
        let loaded = worker_file::load(self.config.as_deref(), &overrides);
        let loaded = loaded.map_err(|report| Failure::invalid(&self.config.clone().unwrap_or_default().display().to_string(), &report))?;
        telemetry::init(loaded.file.log_format, "warn");

        let file = self.file.display().to_string();
        let source = source(&self.file)?;
        let sink = self.to.as_ref().map(|url| sink(url));
        for (connector, place) in std::iter::once((&source, &*file)).chain(sink.as_ref().map(|sink| (sink, "--to"))) {
            let values = flatten(&connector.config).map_err(|report| Failure::invalid(&file, &report))?;
            let report = check(&connector.name, &values, &loaded.values);
            if !report.faults.is_empty() {
                return Err(Failure::invalid(place, &report));
            }
        }
        let worker = start(loaded).await?;
        let (source_name, sink_name) = (source.name.clone(), sink.as_ref().map(|sink| sink.name.clone()));
        let already = arrived(&worker, &source_name, None).await?;
        let ended = follow(&worker, source, sink, already, signals).await;
        worker.shutdown().await;
        let is_complete = ended?;
        // Counted now: a sink that was stopped has written what it held.
        let rows = arrived(&worker, &source_name, sink_name.as_deref()).await?.saturating_sub(already);
        let (exit, what) = match (is_complete, rows) {
            (true, _) => (Exit::Done, "complete"),
            (false, 0) => (Exit::Failed, "partial"),
            (false, _) => (Exit::Partial, "partial"),
        };
        print(&format!("{what}: {rows} records\n"))?;
        Ok(exit)
    }
}

/// The connector of the file, set to take a snapshot and end. An unknown one is for the check to report.
fn source(file: &Path) -> Result<ConnectorFile, Failure> {
    let name = file.display().to_string();
    let mut connector = connector_file::read(file).map_err(|report| Failure::invalid(&name, &report))?;
    let class = connector.config.get("connector.class").and_then(Value::as_str).unwrap_or_default();
    let takes_none = |plugin: &dyn Plugin| !plugin.fields().iter().copied().flatten().any(|field| field.covers("snapshot.mode"));
    if connectors::find(class).is_some_and(takes_none) {
        return Err(Failure { exit: Exit::Invalid, message: format!("{name}: {class} takes no snapshots: it has no key snapshot.mode") });
    }
    connector.config.insert("snapshot.mode".into(), "initial_only".into());
    Ok(connector)
}

/// A sink that writes every topic to `url`, under a name that no other run has.
fn sink(url: &str) -> ConnectorFile {
    let name = format!("tailwater-snapshot-{}", uuid::Uuid::new_v4());
    let keys = [
        ("name", &*name),
        ("connector.class", "sql"),
        ("connection.url", url),
        ("topics.regex", ".*"),
        ("insert.mode", "upsert"),
        ("primary.key.mode", "record_key"),
        ("delete.enabled", "true"),
        ("schema.evolution", "basic"),
        ("internal.positions.forget", "true"),
    ];
    let config = keys.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect::<JsonMap>();
    ConnectorFile { name, config }
}

async fn start(loaded: Loaded) -> Result<Worker, Failure> {
    let Loaded { file, values, providers, .. } = loaded;
    let Opened { topics, store, .. } = open::open(&file, &values, "snapshot").await?;
    // None of them runs here, and no file is watched that could own one.
    let stopped = |connector| StoredConnector { target: TargetState::Stopped, file: None, ..connector };
    let remembered = store.list().await?.into_iter().map(stopped);
    let store = std::sync::Arc::new(Forgetful(Mutex::new(remembered.collect())));
    let options = WorkerOptions {
        data_dir: file.data_dir,
        memory_budget: file.memory_budget,
        shutdown_timeout: file.shutdown_timeout,
        defaults: values,
        worker_id: "snapshot".to_owned(),
    };
    // Who takes a snapshot says nothing about connectors: a worker may run them.
    let opened = Opened { topics, store, statuses: None };
    let (worker, _) = open::start(options, opened, providers, &Registry::default()).await?;
    Ok(worker)
}

/// Connectors of this process alone.
struct Forgetful(Mutex<Vec<StoredConnector>>);

impl Forgetful {
    fn change(&self, change: impl FnOnce(&mut Vec<StoredConnector>)) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl ConnectorStore for Forgetful {
    fn list(&self) -> BoxFuture<'_, ApiResult<Vec<StoredConnector>>> {
        let mut all = Vec::new();
        self.change(|connectors| all.clone_from(connectors));
        Box::pin(async { Ok(all) })
    }

    fn put(&self, connector: StoredConnector) -> BoxFuture<'_, ApiResult<()>> {
        self.change(|connectors| {
            connectors.retain(|known| known.name != connector.name);
            connectors.push(connector);
        });
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, name: &str) -> BoxFuture<'_, ApiResult<()>> {
        self.change(|connectors| connectors.retain(|known| known.name != name));
        Box::pin(async { Ok(()) })
    }
}

/// Runs the connectors until the snapshot is complete or cannot go on; says whether it is complete.
async fn follow(
    worker: &Worker,
    source: ConnectorFile,
    sink: Option<ConnectorFile>,
    already: u64,
    [mut interrupt, mut terminate]: [Signal; 2],
) -> Result<bool, Failure> {
    let source_name = &source.name.clone();
    let sink_name = sink.as_ref().map(|sink| sink.name.clone());
    let names: Vec<&str> = std::iter::once(source_name).chain(&sink_name).map(String::as_str).collect();
    for ConnectorFile { name, config } in std::iter::once(source).chain(sink) {
        // A source that the worker remembers is replaced for this process; its offsets are its own.
        let put = worker.put_config(&name, config, None).await;
        put.map_err(|refused| refuse(&name, refused))?;
        worker.set_target(&name, TargetState::Running).await.map_err(|refused| refuse(&name, refused))?;
    }
    let bar = progress_bar();
    let mut failing_since = None;
    loop {
        if is_complete(worker, source_name, sink_name.as_deref()).await? {
            bar.finish_and_clear();
            return Ok(true);
        }
        bar.set_position(arrived(worker, source_name, sink_name.as_deref()).await?.saturating_sub(already));
        match failure(worker, &names).await? {
            None => failing_since = None,
            Some(trace) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                if !may_pass(&trace) || since.elapsed() > PATIENCE {
                    bar.finish_and_clear();
                    eprintln!("error: {trace}");
                    return Ok(false);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = interrupt.recv() => return Ok(false),
            _ = terminate.recv() => return Ok(false),
        }
    }
}

fn refuse(name: &str, refused: Refused) -> Failure {
    match refused {
        Refused::Invalid(report) => Failure::invalid(name, &report),
        Refused::Failed(error) => error.into(),
        Refused::Unknown(name) => Failure::failed(format!("there is no connector {name}")),
        Refused::Exists(name) => Failure::failed(format!("there is a connector {name} already")),
        Refused::OwnedByFile(file) => Failure::failed(format!("{name} is declared by {}", file.display())),
    }
}

async fn written_by(worker: &Worker, source: &str) -> Result<Vec<TopicInfo>, tailwater_api::Error> {
    let topics = worker.topics().topics().await?;
    Ok(topics.into_iter().filter(|topic| topic.writer.as_deref() == Some(source)).collect())
}

/// How many records arrived where they are to go: in the topic log, or behind the sink.
async fn arrived(worker: &Worker, source: &str, sink: Option<&str>) -> Result<u64, Failure> {
    Ok(match sink {
        Some(sink) => positions(worker, sink).await?.iter().map(|position| position.offset).sum(),
        None => written_by(worker, source).await?.iter().flat_map(|topic| &topic.partitions).map(|(_, next)| next).sum(),
    })
}

/// Where the sink stands; the topics of its log begin at 0.
async fn positions(worker: &Worker, sink: &str) -> Result<Vec<LogPosition>, Failure> {
    match worker.offsets(sink).await.map_err(|refused| refuse(sink, refused))? {
        Offsets::Sink(positions) => Ok(positions),
        Offsets::Source(_) => Ok(Vec::new()),
    }
}

async fn is_complete(worker: &Worker, source: &str, sink: Option<&str>) -> Result<bool, Failure> {
    let offsets = worker.offsets(source).await.map_err(|refused| refuse(source, refused))?;
    let Offsets::Source(state) = offsets else { return Ok(false) };
    if !state.iter().any(|(_, offset)| offset.get("snapshot_completed").is_some_and(is_true)) {
        return Ok(false);
    }
    let Some(sink) = sink else { return Ok(true) };
    let positions = positions(worker, sink).await?;
    let stands_at_end = |topic: &TopicInfo, partition: usize, next: u64| {
        let here = |position: &&LogPosition| {
            position.topic_partition.topic == topic.name && usize::try_from(position.topic_partition.partition) == Ok(partition)
        };
        next == 0 || positions.iter().find(here).is_some_and(|position| position.offset >= next)
    };
    let topics = written_by(worker, source).await?;
    Ok(topics.iter().all(|topic| topic.partitions.iter().enumerate().all(|(partition, (_, next))| stands_at_end(topic, partition, *next))))
}

/// Debezium writes the word as a truth value, older versions as text.
fn is_true(value: &Value) -> bool {
    value.as_bool() == Some(true) || value.as_str() == Some("true")
}

/// The trace of what has failed.
async fn failure(worker: &Worker, names: &[&str]) -> Result<Option<String>, Failure> {
    for name in names {
        let info = worker.get(name).await.map_err(|refused| refuse(name, refused))?;
        let failed = info.tasks.iter().chain([&info.connector]).find(|status| status.state == RunState::Failed);
        if let Some(status) = failed {
            return Ok(Some(status.trace.clone().unwrap_or_else(|| format!("{name} failed"))));
        }
    }
    Ok(None)
}

/// Whether a trace, which begins with the code of its error, is of a kind that trying again can help.
fn may_pass(trace: &str) -> bool {
    let code = trace.split(':').next().unwrap_or_default();
    ErrorKind::ALL.iter().any(|kind| kind.code() == code && kind.is_transient())
}

fn progress_bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{spinner} {human_pos} records  {per_sec}  {elapsed_precise}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// A directory of the system's temporary one, removed when dropped.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("tailwater-snapshot-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).map_err(|error| Failure::failed(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("error: cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::ConfigReport;

    use super::*;

    #[test]
    fn the_source_takes_a_snapshot_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.yaml");
        std::fs::write(&file, "name: shop\nconnector: postgres\nsnapshot.mode: never\n").unwrap();
        assert_eq!(source(&file).unwrap().config["snapshot.mode"], "initial_only");
    }

    #[test]
    fn a_connector_without_snapshots_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        for class in ["generator", "blackhole"] {
            std::fs::write(&file, format!("name: a\nconnector: {class}\n")).unwrap();
            assert_eq!(source(&file).unwrap_err().exit, Exit::Invalid);
        }
    }

    #[test]
    fn only_a_fault_that_may_pass_is_waited_for() {
        assert!(may_pass("unreachable: cannot connect; next try at …"));
        assert!(!may_pass("unauthorised: cannot connect"));
        assert!(!may_pass("something else"));
    }

    #[test]
    fn a_temporary_directory_is_gone_at_the_end() {
        let temporary = TemporaryDirectory::new().unwrap();
        let path = temporary.0.clone();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(temporary);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_this_process_remembers_is_its_own() {
        let connector = |name: &str, target| StoredConnector { name: name.into(), config: JsonMap::new(), target, file: None };
        let store = Forgetful(Mutex::new(vec![connector("a", TargetState::Stopped)]));
        store.put(connector("a", TargetState::Running)).await.unwrap();
        store.put(connector("b", TargetState::Running)).await.unwrap();
        store.remove("b").await.unwrap();
        assert_eq!(store.list().await.unwrap(), [connector("a", TargetState::Running)]);
    }

    #[test]
    fn a_report_of_faults_is_an_invalid_configuration() {
        assert_eq!(refuse("a", Refused::Invalid(ConfigReport::default())).exit, Exit::Invalid);
    }
}
