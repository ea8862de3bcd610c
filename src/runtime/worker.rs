//! The worker: every connector of this process, what it should do and what it does.
//!
//! REST, the command line and the watched directory change connectors only through [`Worker`].

use std::path::PathBuf;
use std::sync::Arc;

use tailwater_api::Result;
use tailwater_api::config::ConfigReport;
use tailwater_api::sink::LogPosition;
use tailwater_api::state::{JsonMap, SourceState};

use crate::state::TargetState;
use crate::topics::TopicLog;

/// A running worker. Cloning shares it.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<WorkerInner>,
}

struct WorkerInner {
    topics: Arc<dyn TopicLog>,
}

/// What a worker needs to start; read from the worker file.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Where the embedded log and the state live
    pub data_dir: PathBuf,
    /// Bytes of records that may be in flight, all tasks together (I6)
    pub memory_budget: usize,
    /// How long a stop may drain
    pub shutdown_timeout: std::time::Duration,
    /// The worker file's flat keys: converters and what else connectors inherit
    pub defaults: tailwater_api::config::ConfigValues,
    /// `worker_id` in statuses: host and port of the REST listener
    pub worker_id: String,
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
    Failed(tailwater_api::Error),
}

/// Offsets of a connector.
#[derive(Debug, Clone)]
pub enum Offsets {
    /// A source's map
    Source(SourceState),
    /// A sink's positions
    Sink(Vec<LogPosition>),
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
    /// Opens the data directory, starts every connector that should run, and returns when all are started or have failed.
    ///
    /// # Errors
    /// The data directory is locked, unreadable or full.
    pub async fn start(options: WorkerOptions) -> Result<Self> {
        let _ = options;
        unimplemented!()
    }

    /// The topic log.
    #[must_use]
    pub fn topics(&self) -> &Arc<dyn TopicLog> {
        &self.inner.topics
    }

    /// All connectors by name.
    pub async fn list(&self) -> Vec<ConnectorInfo> {
        unimplemented!()
    }

    /// One connector.
    ///
    /// # Errors
    /// [`Refused::Unknown`]
    pub async fn get(&self, name: &str) -> Result<ConnectorInfo, Refused> {
        let _ = name;
        unimplemented!()
    }

    /// Makes a connector. `file` is set where a file declares it.
    ///
    /// # Errors
    /// It exists, or its configuration has faults.
    pub async fn create(&self, name: &str, config: JsonMap, target: TargetState, file: Option<PathBuf>) -> Result<ConnectorInfo, Refused> {
        let _ = (name, config, target, file);
        unimplemented!()
    }

    /// Replaces the configuration, or makes the connector; says whether it was made. The same configuration again changes nothing.
    ///
    /// # Errors
    /// Its configuration has faults, or it belongs to another file than `file`.
    pub async fn put_config(&self, name: &str, config: JsonMap, file: Option<PathBuf>) -> Result<(ConnectorInfo, bool), Refused> {
        let _ = (name, config, file);
        unimplemented!()
    }

    /// Removes the connector and keeps its offsets.
    ///
    /// # Errors
    /// It is unknown, or belongs to another file than `file`.
    pub async fn delete(&self, name: &str, file: Option<PathBuf>) -> Result<(), Refused> {
        let _ = (name, file);
        unimplemented!()
    }

    /// Sets what a connector should be doing; remembered over restarts.
    ///
    /// # Errors
    /// It is unknown.
    pub async fn set_target(&self, name: &str, target: TargetState) -> Result<(), Refused> {
        let _ = (name, target);
        unimplemented!()
    }

    /// Starts a connector anew.
    ///
    /// # Errors
    /// It is unknown.
    pub async fn restart(&self, name: &str, restart: Restart) -> Result<ConnectorInfo, Refused> {
        let _ = (name, restart);
        unimplemented!()
    }

    /// Starts one task anew.
    ///
    /// # Errors
    /// The connector or the task is unknown.
    pub async fn restart_task(&self, name: &str, task: u32) -> Result<(), Refused> {
        let _ = (name, task);
        unimplemented!()
    }

    /// Where a connector stands.
    ///
    /// # Errors
    /// It is unknown.
    pub async fn offsets(&self, name: &str) -> Result<Offsets, Refused> {
        let _ = name;
        unimplemented!()
    }

    /// Records of a topic as bytes, through the converters of its source: what `topic read` prints.
    ///
    /// # Errors
    /// The topic is unknown, or a record does not convert.
    pub async fn read_topic(
        &self,
        topic: &str,
        partition: u32,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<(crate::topics::StoredRecord, crate::converters::ConvertedRecord)>> {
        let _ = (topic, partition, offset, limit);
        unimplemented!()
    }

    /// Stops every task, drains to the deadline, and closes the log.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
