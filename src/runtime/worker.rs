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
