//! One connector: what it should do, as stored, and its tasks.
//!
//! Changes of one connector come one at a time, changes of different ones side by side, so a task that drains slowly
//! keeps nobody else waiting. Looking at a connector never waits for a change.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tailwater_api::config::ConfigValues;
use tailwater_api::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::config::check::{check, flatten};
use crate::connectors::find;
use crate::runtime::plugin::Plugin;
use crate::runtime::recovery::trace;
use crate::runtime::settings::ConnectorSettings;
use crate::runtime::signals::SignalGate;
use crate::runtime::source_task::panic_error;
use crate::runtime::supervisor::{TaskHandle, TaskSetup, Wanted, misconfigured, settings};
use crate::runtime::worker::{ConnectorInfo, ConnectorType, Restart, RunState, RunStatus, WorkerInner};
use crate::state::{StoredConnector, TargetState};
use crate::topics::{LogUser, Subscription};

/// A connector of this worker.
pub(super) struct Connector {
    pub(super) name: Arc<str>,
    /// Held by whoever changes the connector, across the wait for its tasks
    pub(super) changing: tokio::sync::Mutex<()>,
    now: Mutex<Now>,
}

struct Now {
    stored: StoredConnector,
    /// Why there are no tasks, where there should be some
    failed: Option<String>,
    tasks: Vec<TaskHandle>,
    /// What a restart stops and starts anew, from the moment it is asked for until the new task is there
    restarting: Vec<u32>,
    /// Topics that were forgotten, with how much they had been used then
    forgotten: HashMap<Arc<str>, u64>,
    /// A file declares it, and what stands in that file now is not known yet: nothing starts it
    awaits_file: bool,
    removed: bool,
}

impl Connector {
    pub(super) fn new(stored: StoredConnector) -> Self {
        let name = Arc::from(stored.name.as_str());
        Self {
            name,
            changing: tokio::sync::Mutex::default(),
            now: Mutex::new(Now {
                stored,
                failed: None,
                tasks: Vec::new(),
                restarting: Vec::new(),
                forgotten: HashMap::new(),
                awaits_file: false,
                removed: false,
            }),
        }
    }

    /// A connector from before the last stop. One that a file declares waits for [`Connector::start_declared`].
    pub(super) fn remembered(stored: StoredConnector) -> Self {
        let connector = Self::new(stored);
        {
            let mut now = connector.now();
            now.awaits_file = now.stored.file.is_some();
        }
        connector
    }

    // Every section below leaves the connector whole, so a panic elsewhere does not make it wrong.
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stored(&self) -> StoredConnector {
        self.now().stored.clone()
    }

    pub(super) fn set_stored(&self, stored: StoredConnector) {
        self.now().stored = stored;
    }

    pub(super) fn set_removed(&self) {
        self.now().removed = true;
    }

    pub(super) fn is_removed(&self) -> bool {
        self.now().removed
    }

    pub(super) fn has_tasks(&self) -> bool {
        !self.now().tasks.is_empty()
    }

    /// The connector's class, if it is compiled in.
    pub(super) fn plugin(&self) -> Option<&'static dyn Plugin> {
        flatten(&self.now().stored.config).ok().as_ref().and_then(plugin)
    }

    /// What a sink reads; `None` for sources and where the configuration has faults.
    pub(super) fn subscription(&self, worker: &WorkerInner) -> Option<Subscription> {
        let values = flatten(&self.now().stored.config).ok()?;
        if plugin(&values)?.kind() != ConnectorType::Sink {
            return None;
        }
        settings(&values, &worker.options.defaults).ok()?.subscription
    }

    /// The connector as its log sees it, for whoever looks at its state or moves it while no task runs. The first task's writer keeps all of it.
    pub(super) fn log_user(&self, worker: &WorkerInner) -> Result<LogUser> {
        let config = flatten(&self.now().stored.config).map_err(|report| misconfigured(&report))?;
        let resolved = worker.parts.providers.resolve(&config).map_err(|report| misconfigured(&report))?;
        Ok(LogUser { config: Arc::new(resolved), ..LogUser::from(&*self.name) })
    }

    /// Starts the connector if it waited for its file.
    pub(super) fn start_declared(&self, worker: &WorkerInner) {
        if std::mem::take(&mut self.now().awaits_file) {
            self.start(worker);
        }
    }

    /// Makes and starts the tasks, unless the connector is stopped or waits for its file. What keeps them from being made
    /// is its status.
    pub(super) fn start(&self, worker: &WorkerInner) {
        if self.now().awaits_file {
            return;
        }
        let target = self.now().stored.target;
        let wanted = match target {
            TargetState::Stopped => {
                self.now().failed = None;
                return;
            }
            TargetState::Paused => Wanted::Pause,
            TargetState::Running => Wanted::Run,
        };
        let setups = self.setups(worker);
        let mut now = self.now();
        match setups {
            Ok(setups) => {
                now.tasks = setups.into_iter().map(|setup| TaskHandle::start(setup, wanted)).collect();
                now.failed = None;
            }
            Err(error) => {
                tracing::error!(connector = &*self.name, error.kind = error.kind().code(), error.mend = error.remedy(), "{error}");
                now.failed = Some(trace(&error, None));
            }
        }
    }

    /// What the tasks are made from. A connector whose plan panics must not take the worker's start with it (I10).
    fn setups(&self, worker: &WorkerInner) -> Result<Vec<TaskSetup>> {
        catch_unwind(AssertUnwindSafe(|| self.plan(worker))).unwrap_or_else(|payload| Err(panic_error(&*payload)))
    }

    fn plan(&self, worker: &WorkerInner) -> Result<Vec<TaskSetup>> {
        let config = flatten(&self.now().stored.config).map_err(|report| misconfigured(&report))?;
        // I15: what was stored by another version may have faults for this one.
        let report = check(&self.name, &config, &worker.options.defaults);
        if !report.faults.is_empty() {
            return Err(misconfigured(&report));
        }
        let plugin = plugin(&config).ok_or_else(|| {
            Error::new(ErrorKind::Misconfigured, "find the connector")
                .because(format!("no connector is called {:?}", config.get("connector.class").unwrap_or_default()))
        })?;
        let settings = settings(&config, &worker.options.defaults)?;
        if plugin.kind() == ConnectorType::Sink && settings.subscription.is_none() {
            return Err(
                Error::new(ErrorKind::Misconfigured, "read the configuration").because("topics: a sink needs topics or topics.regex")
            );
        }
        let resolved = worker.parts.providers.resolve(&config).map_err(|report| misconfigured(&report))?;
        let tasks = plugin.plan(&resolved, settings.max_tasks).map_err(|report| misconfigured(&report))?.len();
        let config = Arc::new(config);
        Ok((0..tasks as u32).map(|task| self.setup(worker, task, plugin, &config, &settings)).collect())
    }

    fn setup(
        &self,
        worker: &WorkerInner,
        task: u32,
        plugin: &'static dyn Plugin,
        config: &Arc<ConfigValues>,
        settings: &ConnectorSettings,
    ) -> TaskSetup {
        TaskSetup {
            connector: Arc::clone(&self.name),
            task,
            plugin,
            config: Arc::clone(config),
            settings: settings.clone(),
            providers: worker.parts.providers.clone(),
            topics: Arc::clone(&worker.parts.topics),
            budget: worker.budget.clone(),
            metrics: worker.parts.metrics.task(&self.name, task),
        }
    }

    /// The way for signals to the first task; `None` where there is none.
    pub(super) fn signals(&self) -> Option<Arc<SignalGate>> {
        self.now().tasks.first().map(|task| Arc::clone(task.signals()))
    }

    /// Lets the tasks that are there run or pause.
    pub(super) fn want(&self, wanted: Wanted) {
        for task in &self.now().tasks {
            task.want(wanted);
        }
    }

    /// Stops all tasks at the same time. What does not drain until `deadline` is ended, and the log says so.
    pub(super) async fn stop(&self, deadline: Instant) {
        let tasks = std::mem::take(&mut self.now().tasks);
        join_all(tasks.into_iter().map(|task| self.stop_task(task, deadline))).await;
    }

    async fn stop_task(&self, task: TaskHandle, deadline: Instant) {
        let number = task.status().get().task;
        if !task.stop(deadline).await {
            tracing::warn!(
                connector = &*self.name,
                task = number,
                "the task did not drain in time and was ended; it goes on at what is durable"
            );
        }
    }

    /// Numbers of the tasks that a restart concerns, shown as RESTARTING from now on.
    pub(super) fn begin_restart(&self, restart: Restart) -> Vec<u32> {
        let now = self.now();
        if !restart.include_tasks {
            return Vec::new();
        }
        let concerned =
            now.tasks.iter().map(TaskHandle::status).filter(|status| !restart.only_failed || status.get().state == RunState::Failed);
        concerned
            .filter_map(|status| {
                status.set(RunState::Restarting, None);
                status.get().task
            })
            .collect()
    }

    /// Stops these tasks and starts them anew, side by side with the others.
    pub(super) async fn restart_tasks(&self, numbers: &[u32], deadline: Instant, worker: &WorkerInner) {
        if numbers.is_empty() {
            return;
        }
        let concerned: Vec<_> = {
            let mut now = self.now();
            now.restarting = numbers.to_vec();
            now.tasks.extract_if(.., |task| concerns(numbers, task)).collect()
        };
        join_all(concerned.into_iter().map(|task| self.stop_task(task, deadline))).await;
        let setups = self.setups(worker);
        self.now().restarting.clear();
        match setups {
            Ok(setups) => {
                let mut now = self.now();
                let wanted = if now.stored.target == TargetState::Paused { Wanted::Pause } else { Wanted::Run };
                let anew = setups.into_iter().filter(|setup| numbers.contains(&setup.task)).map(|setup| TaskHandle::start(setup, wanted));
                now.tasks.extend(anew);
                now.tasks.sort_by_key(|task| task.status().get().task);
                now.failed = None;
            }
            Err(error) => {
                tracing::error!(connector = &*self.name, error.kind = error.kind().code(), error.mend = error.remedy(), "{error}");
                self.now().failed = Some(trace(&error, None));
            }
        }
    }

    pub(super) fn info(&self, worker: &WorkerInner) -> ConnectorInfo {
        let (kind, topics) = (self.plugin().map(Plugin::kind), self.topics(worker));
        let now = self.now();
        let state = match (now.stored.target, &now.failed) {
            (TargetState::Stopped, _) => RunState::Stopped,
            (_, Some(_)) => RunState::Failed,
            (TargetState::Paused, None) => RunState::Paused,
            (TargetState::Running, None) if now.awaits_file => RunState::Unassigned,
            (TargetState::Running, None) => RunState::Running,
        };
        let between = |task: &u32| !now.tasks.iter().any(|known| concerns(&[*task], known));
        let between = now.restarting.iter().copied().filter(between);
        let mut tasks: Vec<RunStatus> = now.tasks.iter().map(|task| task.status().get()).collect();
        tasks.extend(between.map(|task| RunStatus { task: Some(task), state: RunState::Restarting, trace: None }));
        tasks.sort_by_key(|status| status.task);
        ConnectorInfo {
            name: now.stored.name.clone(),
            kind,
            config: now.stored.config.clone(),
            target: now.stored.target,
            connector: RunStatus { task: None, state, trace: now.failed.clone().filter(|_| state == RunState::Failed) },
            tasks,
            file: now.stored.file.as_ref().map(Into::into),
            topics,
        }
    }

    fn topics(&self, worker: &WorkerInner) -> Vec<String> {
        let subscription = self.subscription(worker);
        let forgotten = self.now().forgotten.clone();
        let used = worker.parts.topics.used_by(&self.name, subscription.as_ref());
        let is_shown = |(topic, uses): &(Arc<str>, u64)| forgotten.get(topic).is_none_or(|then| then != uses);
        used.into_iter().filter(is_shown).map(|(topic, _)| topic.to_string()).collect()
    }

    pub(super) fn reset_topics(&self, worker: &WorkerInner) {
        let used = worker.parts.topics.used_by(&self.name, self.subscription(worker).as_ref());
        self.now().forgotten = used.into_iter().collect();
    }
}

fn concerns(numbers: &[u32], task: &TaskHandle) -> bool {
    task.status().get().task.is_some_and(|number| numbers.contains(&number))
}

fn plugin(config: &ConfigValues) -> Option<&'static dyn Plugin> {
    find(config.get("connector.class")?)
}
