//! One task over its lifetime.
//!
//! A supervisor runs its task, asks [`decide`] after an error, waits, and runs it again, until it is told to stop. Each
//! run is a tokio task of its own, so a panic ends that run and nothing else; it counts as a `bug`. A task that waits
//! for its next try is FAILED with the time in its trace; it is RUNNING again when it runs. A paused task has no run. A run that
//! ended as planned, to begin again, is neither an error nor a try: its task is RESTARTING for a moment.
//!
//! Each run is made anew from the configuration: secrets are resolved then and not kept (I14), so a password that
//! was changed at its provider is picked up by the next try.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tailwater_api::config::{ConfigReport, ConfigValues, read_config};
use tailwater_api::metrics::{Counter, Metrics};
use tailwater_api::signal::SignalRequest;
use tailwater_api::{Error, ErrorKind, Result, Scope};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::config::providers::Providers;
use crate::runtime::budget::Budget;
use crate::runtime::plugin::{Plugin, Task};
use crate::runtime::record_errors::RecordErrors;
use crate::runtime::recovery::{Decision, Failures, decide, trace};
use crate::runtime::settings::ConnectorSettings;
use crate::runtime::signals::SignalGate;
use crate::runtime::sink_task::SinkRun;
use crate::runtime::source_task::{SourceRun, panicked};
use crate::runtime::worker::{RunState, RunStatus};
use crate::topics::kafka::signals::SignalTopic;
use crate::topics::{LogUser, Refusals, TopicLog};
use crate::transforms::TransformChain;

/// A run that lasted this long before it failed counts as healthy: the next failure is the first again.
const HEALTHY: Duration = Duration::from_secs(60);
/// So often within that time a run may end as planned before that is warned of.
const OFTEN: usize = 5;
const LATELY: Duration = Duration::from_secs(600);

/// What a task should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Pause,
    Stop,
}

/// All that a task is made from.
pub(super) struct TaskSetup {
    pub(super) connector: Arc<str>,
    pub(super) task: u32,
    pub(super) plugin: &'static dyn Plugin,
    /// Flat, secrets unresolved
    pub(super) config: Arc<ConfigValues>,
    pub(super) settings: ConnectorSettings,
    pub(super) providers: Providers,
    pub(super) topics: Arc<dyn TopicLog>,
    pub(super) budget: Budget,
    pub(super) metrics: Arc<dyn Metrics>,
}

/// A supervised task.
pub(super) struct TaskHandle {
    wanted: watch::Sender<Wanted>,
    status: Arc<StatusCell>,
    signals: Arc<SignalGate>,
    supervisor: JoinHandle<()>,
}

/// The state of one task, as others see it.
pub(super) struct StatusCell(Mutex<RunStatus>);

impl StatusCell {
    pub(super) fn get(&self) -> RunStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, state: RunState, trace: Option<String>) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.state = state;
        status.trace = trace;
    }
}

impl TaskHandle {
    /// Starts supervising a task that should do `wanted`.
    pub(super) fn start(setup: TaskSetup, wanted: Wanted) -> Self {
        let status = Arc::new(StatusCell(Mutex::new(RunStatus { task: Some(setup.task), state: RunState::Unassigned, trace: None })));
        let (wanted, watched) = watch::channel(wanted);
        let signals = Arc::<SignalGate>::default();
        let supervisor = Supervisor::new(setup, Arc::clone(&status), Arc::clone(&signals), watched);
        Self { wanted, status, signals, supervisor: tokio::spawn(supervisor.supervise()) }
    }

    pub(super) fn status(&self) -> &Arc<StatusCell> {
        &self.status
    }

    /// The way for signals to it.
    pub(super) fn signals(&self) -> &Arc<SignalGate> {
        &self.signals
    }

    /// Lets the task run or pause; takes effect soon.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(wanted);
    }

    /// Stops the task: it drains until `deadline` and is ended then. Says whether it drained.
    pub(super) async fn stop(mut self, deadline: Instant) -> bool {
        self.want(Wanted::Stop);
        if tokio::time::timeout_at(deadline, &mut self.supervisor).await.is_ok() {
            return true;
        }
        self.supervisor.abort();
        // Ended at its next await; there is nothing to learn from how.
        let _ = self.supervisor.await;
        false
    }
}

struct Supervisor {
    setup: Arc<TaskSetup>,
    status: Arc<StatusCell>,
    signals: Arc<SignalGate>,
    wanted: watch::Receiver<Wanted>,
    errors: Counter,
    retries: Counter,
}

impl Supervisor {
    fn new(setup: TaskSetup, status: Arc<StatusCell>, signals: Arc<SignalGate>, wanted: watch::Receiver<Wanted>) -> Self {
        let errors = setup.metrics.counter("errors_total", "Errors that ended a run of the task.", None);
        let retries = setup.metrics.counter("retries_total", "Runs that the task began by itself after an error.", None);
        Self { setup: Arc::new(setup), status, signals, wanted, errors, retries }
    }

    async fn supervise(mut self) {
        let mut failures = Failures::default();
        let mut first_failure = Instant::now();
        let mut planned: Vec<Instant> = Vec::new();
        loop {
            // Without a handle nobody could ever stop the task.
            if self.wanted.has_changed().is_err() {
                return;
            }
            let wanted = *self.wanted.borrow_and_update();
            match wanted {
                Wanted::Stop => return,
                Wanted::Pause => {
                    self.status.set(RunState::Paused, None);
                    // An error is seen at the head of the loop.
                    let _ = self.wanted.changed().await;
                    continue;
                }
                Wanted::Run => {}
            }
            self.status.set(RunState::Running, None);
            tracing::info!(connector = &*self.setup.connector, task = self.setup.task, "the task runs");
            let began = Instant::now();
            let ended = self.run_once().await;
            self.signals.close();
            let Err(error) = ended else {
                tracing::info!(connector = &*self.setup.connector, task = self.setup.task, "the task has drained and ended its run");
                continue;
            };
            if error.is_planned() {
                self.status.set(RunState::Restarting, None);
                let (connector, task) = (&*self.setup.connector, self.setup.task);
                planned.retain(|at| at.elapsed() < LATELY);
                planned.push(Instant::now());
                if planned.len() > OFTEN {
                    let times = planned.len();
                    tracing::warn!(
                        connector,
                        task,
                        times,
                        "the task begins again and again, nothing is captured meanwhile: {}",
                        error.sentence()
                    );
                } else {
                    tracing::info!(connector, task, "the task begins again: {}", error.sentence());
                }
                // However often it is planned, the source has its rest.
                tokio::select! {
                    () = tokio::time::sleep(self.setup.settings.recovery.backoff.delay(1)) => {}
                    _ = self.wanted.changed() => {}
                }
                continue;
            }
            self.errors.add(1);
            if failures.count == 0 || began.elapsed() >= HEALTHY {
                failures.count = 0;
                first_failure = Instant::now();
            }
            failures = Failures { count: failures.count + 1, since_first: first_failure.elapsed() };
            match decide(&error, failures, &self.setup.settings.recovery) {
                Decision::RunAgain => {
                    let delay = self.setup.settings.recovery.backoff.delay(failures.count);
                    self.report(&error, Some(delay));
                    // A stop or a pause need not wait for the next try.
                    tokio::select! {
                        () = tokio::time::sleep(delay) => self.retries.add(1),
                        _ = self.wanted.changed() => {}
                    }
                }
                // A refused record was already kept or dropped where that is possible; here it ended the run.
                Decision::Stop | Decision::KeepDeadLetter | Decision::DropRecord => {
                    self.report(&error, None);
                    return;
                }
            }
        }
    }

    /// The one place where an error of a task is shown and logged.
    fn report(&self, error: &Error, delay: Option<Duration>) {
        let next_try = delay.map(|delay| SystemTime::now() + delay);
        self.status.set(RunState::Failed, Some(trace(error, next_try)));
        let table = match error.scope() {
            Scope::Table(table) => Some(table.as_str()),
            Scope::Record | Scope::Connector => None,
        };
        let what_next = delay.map_or_else(|| "it stays failed".to_owned(), |delay| format!("next try in {} ms", delay.as_millis()));
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    connector = &*self.setup.connector,
                    task = self.setup.task,
                    table,
                    position = error.position(),
                    error.kind = error.kind().code(),
                    error.mend = error.remedy(),
                    "{}; {what_next}",
                    error.sentence(),
                )
            };
        }
        // What mends itself is a warning, what waits for somebody an error.
        if delay.is_some() { log!(warn) } else { log!(error) }
    }

    /// Runs the task until it fails, or until something else is wanted and it has drained.
    async fn run_once(&mut self) -> Result<()> {
        let (stop, stopping) = watch::channel(false);
        let setup = Arc::clone(&self.setup);
        // In a set, so that the run ends with this future if a deadline drops it.
        let mut runs = JoinSet::new();
        let signals = self.signals.open();
        let mut listening = JoinSet::new();
        // Signals go to the first task, as those of the REST API do.
        if let (true, Some(sender)) = (setup.plugin.takes_signals() && setup.task == 0, self.signals.sender()) {
            let setup = Arc::clone(&setup);
            listening.spawn(async move { setup.listen(sender).await });
        }
        runs.spawn(async move { setup.make_run(stopping, signals)?.await });
        loop {
            tokio::select! {
                Some(ended) = runs.join_next() => return match ended {
                    Ok(Ok(())) if !*stop.borrow() => {
                        Err(Error::new(ErrorKind::Bug, "run the task").because("it ended without being told to"))
                    }
                    Ok(result) => result,
                    Err(error) => Err(panicked(error)),
                },
                Some(ended) = listening.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(error),
                    Err(error) => return Err(panicked(error)),
                },
                changed = self.wanted.changed(), if !*stop.borrow() => {
                    if changed.is_err() || *self.wanted.borrow() != Wanted::Run {
                        stop.send_replace(true);
                    }
                }
            }
        }
    }
}

impl TaskSetup {
    /// Takes signals from a topic of Kafka, where the configuration names one.
    async fn listen(&self, signals: mpsc::Sender<SignalRequest>) -> Result<()> {
        let values = self.providers.resolve(&self.config).map_err(|report| misconfigured(&report))?;
        SignalTopic::listen(&self.connector, &values, signals).await
    }

    /// Resolves secrets and puts a run together (I14, I15).
    fn make_run(&self, stop: watch::Receiver<bool>, signals: mpsc::Receiver<SignalRequest>) -> Result<BoxFuture<'static, Result<()>>> {
        let values = self.providers.resolve(&self.config).map_err(|report| misconfigured(&report))?;
        let tasks = self.plugin.plan(&values, self.settings.max_tasks).map_err(|report| misconfigured(&report))?;
        let (transforms, _) = TransformChain::from_config(&values).map_err(|report| misconfigured(&report))?;
        let task = tasks.into_iter().nth(self.task as usize).ok_or_else(|| {
            Error::new(ErrorKind::Misconfigured, format!("plan task {}", self.task))
                .because("the configuration now makes fewer tasks")
                .mend("restart the connector")
        })?;
        let errors = Arc::new(RecordErrors::new(
            Arc::clone(&self.connector),
            self.task,
            self.plugin.class(),
            self.settings.recovery.clone(),
            self.settings.dead_letter_headers,
            Arc::clone(&self.topics),
            &*self.metrics,
        ));
        let (topics, metrics) = (Arc::clone(&self.topics), Arc::clone(&self.metrics));
        let placeholder = self.plugin.unavailable_value_placeholder(&values);
        let refusals = Some(Arc::clone(&errors) as Arc<dyn Refusals>);
        let user = LogUser { connector: Arc::clone(&self.connector), task: self.task, config: Arc::new(values), placeholder, refusals };
        let budget = self.budget.enter();
        Ok(match task {
            Task::Source(source) => {
                let run = SourceRun { user, topics, transforms, errors, budget, metrics, signals, stop };
                Box::pin(run.run(source))
            }
            Task::Sink(open) => {
                let subscription = self.settings.subscription.clone().ok_or_else(no_topics)?;
                let flush_interval = self.settings.flush_interval;
                let run = SinkRun {
                    user,
                    topics,
                    subscription,
                    target_keeps_positions: self.plugin.target_keeps_positions(),
                    transforms,
                    errors,
                    budget,
                    flush_interval,
                    metrics,
                    stop,
                };
                Box::pin(run.run(open))
            }
        })
    }
}

fn no_topics() -> Error {
    Error::new(ErrorKind::Misconfigured, "read the configuration").because("topics: a sink needs topics or topics.regex")
}

/// All faults of a configuration as one error.
pub(super) fn misconfigured(report: &ConfigReport) -> Error {
    let faults: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
    Error::new(ErrorKind::Misconfigured, "read the configuration").because(faults.join("; "))
}

/// Reads the runtime's own settings of a flat configuration; what the connector leaves open is the worker's.
pub(super) fn settings(config: &ConfigValues, defaults: &ConfigValues) -> Result<ConnectorSettings> {
    const INHERITED: &str = "offset.flush.interval.ms";
    let mut values = config.clone();
    if let (None, Some(interval)) = (config.get(INHERITED), defaults.get(INHERITED)) {
        values.set(INHERITED, interval);
    }
    read_config(&values).map(|(settings, _)| settings).map_err(|report| misconfigured(&report))
}
