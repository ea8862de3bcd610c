//! The worker: every connector of this process, what it should do and what it does.
//!
//! REST, the command line and the watched directory change connectors only through [`Worker`]. A change is durable in
//! the [`ConnectorStore`] before it is carried out, so a worker that dies in between carries it out when it starts. Each
//! change runs to its end even if the caller stops waiting for it.
//!
//! Connectors are isolated: they share the topic log and the memory budget, and nothing that one does with these can
//! fail or starve another.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::metrics::Metrics;
use tailwater_api::signal::Signal;
use tailwater_api::state::JsonMap;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::config::check::{check, flatten};
use crate::config::masked::restore;
use crate::config::providers::Providers;
use crate::converters::Converters;
use crate::runtime::budget::Budget;
use crate::runtime::connector::Connector;
use crate::runtime::guarantee::Guarantee;
use crate::runtime::plugin::Plugin;
use crate::runtime::source_task::panicked;
use crate::runtime::supervisor::{Wanted, misconfigured};
use crate::runtime::topic_reader::TopicReader;
use crate::state::{ConnectorStore, StoredConnector, TargetState};
use crate::topics::{TopicLog, UNAVAILABLE};

/// How long the topic log may take to close after the tasks are gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running worker. Cloning shares it.
#[derive(Clone)]
pub struct Worker {
    pub(super) inner: Arc<WorkerInner>,
}

pub(super) struct WorkerInner {
    pub(super) options: WorkerOptions,
    pub(super) parts: WorkerParts,
    pub(super) budget: Budget,
    connectors: Mutex<BTreeMap<String, Arc<Connector>>>,
    closing: AtomicBool,
}

/// What a worker needs to start; read from the worker file.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Where the embedded log and the state live
    pub data_dir: PathBuf,
    /// Bytes of records that may be in flight, all tasks together (I6)
    pub memory_budget: usize,
    /// How long a stop may drain
    pub shutdown_timeout: Duration,
    /// The worker file's flat keys: converters and what else connectors inherit
    pub defaults: ConfigValues,
    /// `worker_id` in statuses: host and port of the REST listener
    pub worker_id: String,
}

/// What a worker stands on.
#[derive(Clone)]
pub struct WorkerParts {
    /// Where records live
    pub topics: Arc<dyn TopicLog>,
    /// Where connectors are remembered
    pub store: Arc<dyn ConnectorStore>,
    /// Where secrets come from
    pub providers: Providers,
    /// Where tasks report
    pub metrics: Arc<dyn MetricsFactory>,
}

/// Makes the metrics of tasks.
pub trait MetricsFactory: Send + Sync + 'static {
    /// Metrics whose series carry these labels. The same task gets the same series again.
    fn task(&self, connector: &str, task: u32) -> Arc<dyn Metrics>;
    /// Forgets the series of a connector that was deleted.
    fn forget(&self, connector: &str);
}

/// Source or sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectorType {
    /// `source`
    Source,
    /// `sink`
    Sink,
}

/// State of a connector or task, as Connect names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// `UNASSIGNED`
    Unassigned,
    /// `RUNNING`
    Running,
    /// `PAUSED`
    Paused,
    /// `STOPPED`, connectors only
    Stopped,
    /// `FAILED`, with a trace; goes back to running by itself where trying again can help
    Failed,
    /// `RESTARTING`
    Restarting,
}

impl RunState {
    /// Its name in the REST API and in the status topic
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unassigned => "UNASSIGNED",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
            Self::Restarting => "RESTARTING",
        }
    }
}

/// State of the connector (`task` is `None`) or of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStatus {
    /// The task's number
    pub task: Option<u32>,
    /// What it does
    pub state: RunState,
    /// First line: code, error and time of the next try
    pub trace: Option<String>,
}

/// Everything REST shows of a connector.
#[derive(Clone, Debug)]
pub struct ConnectorInfo {
    /// Its name
    pub name: String,
    /// Source or sink; `None` where the class is unknown
    pub kind: Option<ConnectorType>,
    /// Keys and values as given, secrets unresolved
    pub config: JsonMap,
    /// What it should do
    pub target: TargetState,
    /// State of the connector, then of its tasks
    pub connector: RunStatus,
    /// States of the tasks by number
    pub tasks: Vec<RunStatus>,
    /// The file that declares it
    pub file: Option<PathBuf>,
    /// Topics that it has written or read since it was made
    pub topics: Vec<String>,
}

/// Why a change was refused.
#[derive(Debug)]
pub enum Refused {
    /// There is no such connector
    Unknown(String),
    /// A connector of this name is there
    Exists(String),
    /// The configuration has these faults
    Invalid(ConfigReport),
    /// The connector belongs to this file
    OwnedByFile(PathBuf),
    /// It could not be carried out
    Failed(Error),
}

/// Which parts of a connector to restart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restart {
    /// The tasks too
    pub include_tasks: bool,
    /// Only what has failed
    pub only_failed: bool,
}

impl Worker {
    /// Starts every remembered connector that should run, except those that files declare: their files may have changed
    /// or gone since, so they wait for [`Worker::start_declared`]. Returns when all are started or have failed. A connector
    /// that cannot be made is FAILED and keeps no other from starting.
    ///
    /// # Errors
    /// The remembered connectors cannot be read.
    pub async fn start_with(options: WorkerOptions, parts: WorkerParts) -> Result<Self> {
        let stored = parts.store.list().await?;
        let connectors = stored.into_iter().map(|stored| (stored.name.clone(), Arc::new(Connector::remembered(stored)))).collect();
        let budget = Budget::new(options.memory_budget);
        let inner = WorkerInner { options, parts, budget, connectors: Mutex::new(connectors), closing: AtomicBool::new(false) };
        // Before anything is appended, the log knows what it must keep.
        inner.declare_readers();
        for connector in inner.all() {
            connector.start(&inner);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts the remembered connectors that files declare, as they are declared now.
    pub async fn start_declared(&self) {
        for connector in self.inner.all() {
            let _changing = connector.changing.lock().await;
            if self.inner.check_present(&connector).is_ok() {
                connector.start_declared(&self.inner);
            }
        }
    }

    /// The topic log.
    #[must_use]
    pub fn topics(&self) -> &Arc<dyn TopicLog> {
        &self.inner.parts.topics
    }

    /// What the worker was started with.
    #[must_use]
    pub fn options(&self) -> &WorkerOptions {
        &self.inner.options
    }

    /// All connectors by name.
    pub async fn list(&self) -> Vec<ConnectorInfo> {
        self.inner.all().iter().map(|connector| connector.info(&self.inner)).collect()
    }

    /// One connector.
    ///
    /// # Errors
    /// [`Refused::Unknown`]
    pub async fn get(&self, name: &str) -> Result<ConnectorInfo, Refused> {
        Ok(self.inner.find(name)?.info(&self.inner))
    }

    /// How often a change gets through a connector.
    ///
    /// # Errors
    /// [`Refused::Unknown`], also where its class is.
    pub async fn guarantee(&self, name: &str) -> Result<Guarantee, Refused> {
        let connector = self.inner.find(name)?;
        let plugin = connector.plugin().ok_or_else(|| Refused::Unknown(name.to_owned()))?;
        let values = flatten(&connector.stored().config).map_err(Refused::Invalid)?;
        Ok(Guarantee::of(plugin, &values, &self.inner.options.defaults))
    }

    /// Makes a connector. `file` is set where a file declares it.
    ///
    /// # Errors
    /// It exists, or its configuration has faults.
    pub async fn create(&self, name: &str, config: JsonMap, target: TargetState, file: Option<PathBuf>) -> Result<ConnectorInfo, Refused> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move { inner.create(name, config, target, file).await }).await
    }

    /// Replaces the configuration, or makes the connector; says whether it was made. The same configuration again changes nothing.
    ///
    /// # Errors
    /// Its configuration has faults, or it belongs to another file than `file`, or `file` names a connector that no file made.
    pub async fn put_config(&self, name: &str, config: JsonMap, file: Option<PathBuf>) -> Result<(ConnectorInfo, bool), Refused> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move {
            match inner.find(&name) {
                Ok(connector) => Ok((inner.reconfigure(&connector, |_| config, file.as_deref()).await?, false)),
                Err(_) => Ok((inner.create(name, config, TargetState::Running, file).await?, true)),
            }
        })
        .await
    }

    /// Changes single keys of the configuration; `None` removes one.
    ///
    /// # Errors
    /// It is unknown, its new configuration has faults, or it belongs to a file.
    pub async fn patch_config(&self, name: &str, changes: Vec<(String, Option<String>)>) -> Result<ConnectorInfo, Refused> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move {
            let connector = inner.find(&name)?;
            let change = |mut config: JsonMap| {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(config.insert(key, value.into())),
                        None => drop(config.shift_remove(&key)),
                    }
                }
                config
            };
            inner.reconfigure(&connector, change, None).await
        })
        .await
    }

    /// Forgets which topics the connector has used; those that it uses from now on are shown again. Where the topic log is
    /// embedded, until the worker's end; with Kafka for good.
    pub fn reset_topics(&self, name: &str) {
        if let Ok(connector) = self.inner.find(name) {
            connector.reset_topics(&self.inner);
        }
    }

    /// Removes the connector and keeps its offsets.
    ///
    /// # Errors
    /// It is unknown, or belongs to another file than `file`.
    pub async fn delete(&self, name: &str, file: Option<PathBuf>) -> Result<(), Refused> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move {
            let connector = inner.find(&name)?;
            let _changing = connector.changing.lock().await;
            inner.check_owner(&connector, file.as_deref())?;
            inner.parts.store.remove(&name).await.map_err(Refused::Failed)?;
            connector.stop(inner.deadline()).await;
            connector.set_removed();
            inner.connectors().remove(&name);
            inner.parts.metrics.forget(&name);
            inner.declare_readers();
            Ok(())
        })
        .await
    }

    /// Sets what a connector should be doing; remembered over restarts. Stopping returns when its tasks are gone.
    ///
    /// # Errors
    /// It is unknown.
    pub async fn set_target(&self, name: &str, target: TargetState) -> Result<(), Refused> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move {
            let connector = inner.find(&name)?;
            let _changing = connector.changing.lock().await;
            inner.check_present(&connector)?;
            let mut stored = connector.stored();
            stored.target = target;
            inner.parts.store.put(stored.clone()).await.map_err(Refused::Failed)?;
            connector.set_stored(stored);
            match target {
                TargetState::Stopped => {
                    connector.stop(inner.deadline()).await;
                    connector.start(&inner);
                }
                TargetState::Paused if connector.has_tasks() => connector.want(Wanted::Pause),
                TargetState::Running if connector.has_tasks() => connector.want(Wanted::Run),
                // It was stopped, or its tasks could not be made.
                TargetState::Paused | TargetState::Running => connector.start(&inner),
            }
            Ok(())
        })
        .await
    }

    /// Starts a connector anew, and the tasks that `restart` names. Returns when it has begun: these tasks are RESTARTING.
    ///
    /// # Errors
    /// It is unknown.
    pub async fn restart(&self, name: &str, restart: Restart) -> Result<ConnectorInfo, Refused> {
        let connector = self.inner.find(name)?;
        self.inner.check_present(&connector)?;
        let concerned = connector.begin_restart(restart);
        let info = connector.info(&self.inner);
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let _changing = connector.changing.lock().await;
            if inner.check_present(&connector).is_err() {
                return;
            }
            if connector.has_tasks() {
                connector.restart_tasks(&concerned, inner.deadline(), &inner).await;
            } else {
                // Without tasks there is only the connector itself to start: it failed to make them, or is stopped.
                connector.start(&inner);
            }
        });
        Ok(info)
    }

    /// Starts one task anew; returns when it has begun.
    ///
    /// # Errors
    /// The connector or the task is unknown.
    pub async fn restart_task(&self, name: &str, task: u32) -> Result<(), Refused> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        self.carry_out(async move {
            let connector = inner.find(&name)?;
            let _changing = connector.changing.lock().await;
            inner.check_present(&connector)?;
            if !connector.info(&inner).tasks.iter().any(|status| status.task == Some(task)) {
                return Err(Refused::Unknown(format!("{name}-{task}")));
            }
            connector.restart_tasks(&[task], inner.deadline(), &inner).await;
            Ok(())
        })
        .await
    }

    /// Hands a signal to a source; returns once the source will carry it out even after a crash.
    ///
    /// # Errors
    /// The connector is unknown, takes no signals or does not run, or it refuses this one.
    pub async fn signal(&self, name: &str, signal: Signal) -> Result<(), Refused> {
        let connector = self.inner.find(name)?;
        let failed = |kind, cause: &str| Refused::Failed(Error::new(kind, format!("signal the connector {name}")).because(cause));
        if !connector.plugin().is_some_and(Plugin::takes_signals) {
            return Err(failed(ErrorKind::Unsupported, "it takes no signals"));
        }
        let gate = connector.signals().ok_or_else(|| failed(ErrorKind::Conflict, "it does not run"))?;
        gate.send(signal).await.map_err(Refused::Failed)
    }

    /// A reader of the records of a topic as bytes, through the converters of its source.
    ///
    /// # Errors
    /// The converters are misconfigured, or the topics cannot be listed.
    pub async fn topic_reader(&self, topic: String, partition: u32) -> Result<TopicReader> {
        let converters = self.inner.converters(&topic).await?;
        Ok(TopicReader::new(self.clone(), &**self.topics(), converters, &topic, partition))
    }

    /// Whether it stops, or has stopped.
    pub(super) fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::SeqCst)
    }

    /// Stops every task, drains to the deadline, and closes the log. Changes are refused from now on.
    pub async fn shutdown(&self) {
        self.inner.closing.store(true, Ordering::SeqCst);
        let deadline = self.inner.deadline();
        join_all(self.inner.all().iter().map(|connector| async move {
            // A change that is under way stops its tasks by a deadline of its own.
            let _changing = tokio::time::timeout_at(deadline, connector.changing.lock()).await;
            connector.stop(deadline).await;
        }))
        .await;
        match tokio::time::timeout(CLOSE_TIMEOUT, self.topics().close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error.kind = error.kind().code(), error.mend = error.remedy(), "{error}"),
            Err(_) => tracing::error!(
                "the topic log did not close within {} s; what was accepted and not yet durable is read from the sources again",
                CLOSE_TIMEOUT.as_secs()
            ),
        }
    }

    /// Carries a change out to its end, whether or not the caller waits for it.
    pub(super) async fn carry_out<T, E>(&self, change: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Refused> + Send + 'static,
    {
        tokio::spawn(change).await.unwrap_or_else(|error| Err(Refused::Failed(panicked(error)).into()))
    }
}

impl WorkerInner {
    fn connectors(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Connector>>> {
        // Insertions and removals are whole, so a panic elsewhere does not make the map wrong.
        self.connectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Arc<Connector>> {
        self.connectors().values().cloned().collect()
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Connector>, Refused> {
        self.connectors().get(name).cloned().ok_or_else(|| Refused::Unknown(name.to_owned()))
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.options.shutdown_timeout
    }

    /// Tells the log which sinks exist, paused and stopped ones too: what they have not read stays.
    fn declare_readers(&self) {
        let readers = self.all().iter().filter_map(|connector| Some((connector.name.to_string(), connector.subscription(self)?))).collect();
        self.parts.topics.retain_for(readers);
    }

    fn check_config(&self, name: &str, config: &JsonMap) -> Result<(), Refused> {
        let values = flatten(config).map_err(Refused::Invalid)?;
        let report = check(name, &values, &self.options.defaults);
        if !report.faults.is_empty() {
            return Err(Refused::Invalid(report));
        }
        for note in &report.notes {
            tracing::warn!(connector = name, "{note}");
        }
        Ok(())
    }

    pub(super) fn check_present(&self, connector: &Connector) -> Result<(), Refused> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(Refused::Failed(Error::new(ErrorKind::Restarting, "change a connector").because("the worker is stopping")));
        }
        if connector.is_removed() { Err(Refused::Unknown(connector.name.to_string())) } else { Ok(()) }
    }

    fn check_owner(&self, connector: &Connector, file: Option<&Path>) -> Result<(), Refused> {
        self.check_present(connector)?;
        match (connector.stored().file, file) {
            (Some(owner), file) if Some(Path::new(&owner)) != file => Err(Refused::OwnedByFile(owner.into())),
            (None, Some(_)) => Err(Refused::Exists(connector.name.to_string())),
            (Some(_), _) | (None, None) => Ok(()),
        }
    }

    async fn create(&self, name: String, config: JsonMap, target: TargetState, file: Option<PathBuf>) -> Result<ConnectorInfo, Refused> {
        let file = file.map(|file| file.to_string_lossy().into_owned());
        let stored = StoredConnector { name: name.clone(), config, target, file };
        let connector = Arc::new(Connector::new(stored.clone()));
        self.check_present(&connector)?;
        if self.connectors().contains_key(&name) {
            return Err(Refused::Exists(name));
        }
        restore(stored.config.clone(), &JsonMap::new()).map_err(Refused::Invalid)?;
        self.check_config(&name, &stored.config)?;
        let _changing = connector.changing.lock().await;
        // The name is taken from here on; whoever finds the connector waits for the lock.
        match self.connectors().entry(name.clone()) {
            std::collections::btree_map::Entry::Occupied(_) => return Err(Refused::Exists(name)),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(Arc::clone(&connector)),
        };
        // A shutdown that did not see the connector any more has been declared by now.
        let kept = match self.check_present(&connector) {
            Ok(()) => self.parts.store.put(stored).await.map_err(Refused::Failed),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = kept {
            connector.set_removed();
            self.connectors().remove(&name);
            return Err(refused);
        }
        self.declare_readers();
        connector.start(self);
        Ok(connector.info(self))
    }

    async fn reconfigure(
        &self,
        connector: &Connector,
        change: impl FnOnce(JsonMap) -> JsonMap,
        file: Option<&Path>,
    ) -> Result<ConnectorInfo, Refused> {
        let _changing = connector.changing.lock().await;
        self.check_owner(connector, file)?;
        let mut stored = connector.stored();
        let config = restore(change(stored.config.clone()), &stored.config).map_err(Refused::Invalid)?;
        if stored.config == config {
            return Ok(connector.info(self));
        }
        self.check_config(&connector.name, &config)?;
        stored.config = config;
        self.parts.store.put(stored.clone()).await.map_err(Refused::Failed)?;
        connector.stop(self.deadline()).await;
        connector.set_stored(stored);
        self.declare_readers();
        connector.start(self);
        Ok(connector.info(self))
    }

    /// The converters that the source of `topic` names; the worker's where it has no source, or one that is gone.
    async fn converters(&self, topic: &str) -> Result<Converters> {
        let topics = self.parts.topics.topics().await?;
        let writer = topics.into_iter().find(|info| &*info.name == topic).and_then(|info| info.writer);
        let connector = writer.and_then(|writer| self.find(&writer).ok());
        let (mut values, mut placeholder) = (ConfigValues::default(), UNAVAILABLE.to_owned());
        if let Some(connector) = connector {
            let config = flatten(&connector.stored().config).map_err(|report| misconfigured(&report))?;
            values = self.parts.providers.resolve(&config).map_err(|report| misconfigured(&report))?;
            if let Some(plugin) = connector.plugin() {
                placeholder = plugin.unavailable_value_placeholder(&values);
            }
        }
        let converters = Converters::from_config(&values, &self.options.defaults, &placeholder);
        converters.map(|(converters, _)| converters).map_err(|report| misconfigured(&report))
    }
}
