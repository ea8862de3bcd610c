//! Opens a data directory and starts a worker on it. The only place of the commands that knows which engine runs.

use std::path::Path;
use std::sync::Arc;

use tailwater_api::config::ConfigValues;
use tailwater_api::{Error, ErrorKind, Result};

use crate::config::providers::Providers;
use crate::config::worker_file::{Engine, WorkerFile};
use crate::runtime::statuses::StatusPublisher;
use crate::runtime::worker::{Worker, WorkerOptions, WorkerParts};
use crate::state::ConnectorStore;
use crate::state::kafka::{KafkaState, KafkaStatuses};
use crate::state::redb::RedbStore;
use crate::telemetry::Registry;
use crate::topics::TopicLog;
use crate::topics::embedded::EmbeddedLog;
use crate::topics::kafka::{KafkaLog, KafkaOptions};

/// Topic log and state of a data directory.
pub(super) struct Opened {
    pub(super) topics: Arc<dyn TopicLog>,
    pub(super) store: Arc<dyn ConnectorStore>,
    /// Where others look for what connectors do; the embedded engine has nobody else
    pub(super) statuses: Option<KafkaStatuses>,
}

/// Opens what the worker file names: `data.dir` for its one worker, or the topics of a Kafka cluster. `values` are the worker file's flat
/// keys, `worker_id` host and port of the REST API.
///
/// # Errors
/// The directory is locked, unreadable or full; the cluster does not answer or refuses.
pub(super) async fn open(file: &WorkerFile, values: &ConfigValues, worker_id: &str) -> Result<Opened> {
    match file.engine {
        Engine::Embedded => open_embedded(file),
        Engine::Kafka => {
            // For the address of the REST API, which tools on this machine look for there.
            std::fs::create_dir_all(&file.data_dir).map_err(|error| {
                Error::new(ErrorKind::Misconfigured, format!("make {} (data.dir)", file.data_dir.display())).because(error)
            })?;
            let state = KafkaState::open(values, worker_id).await?;
            let options = KafkaOptions { worker: values.clone(), memory_budget: file.memory_budget };
            let topics = KafkaLog::open(options, Arc::new(state.offsets)).await?;
            topics.remember_uses(state.statuses.uses());
            Ok(Opened { topics: Arc::new(topics), store: Arc::new(state.configs), statuses: Some(state.statuses) })
        }
    }
}

fn open_embedded(file: &WorkerFile) -> Result<Opened> {
    let store = RedbStore::open(&file.data_dir)?;
    let topics = EmbeddedLog::open(&file.data_dir, file.embedded, store.clone())?;
    Ok(Opened { topics: Arc::new(topics), store: Arc::new(store), statuses: None })
}

/// Opens a data directory without a lock; sees what is durable.
///
/// # Errors
/// It is unreadable.
pub(super) async fn open_read_only(data_dir: &Path) -> Result<Opened> {
    let topics = EmbeddedLog::open_read_only(data_dir)?;
    Ok(Opened { topics: Arc::new(topics), store: Arc::new(RedbStore::open_read_only(data_dir)?), statuses: None })
}

/// Starts a worker, and what tells others what it does.
///
/// # Errors
/// The remembered connectors cannot be read.
pub(super) async fn start(
    options: WorkerOptions,
    opened: Opened,
    providers: Providers,
    metrics: &Registry,
) -> Result<(Worker, Option<StatusPublisher>)> {
    let Opened { topics, store, statuses } = opened;
    let worker = Worker::start_with(options, WorkerParts { topics, store, providers, metrics: Arc::new(metrics.clone()) }).await?;
    let publisher = statuses.map(|statuses| StatusPublisher::start(worker.clone(), statuses));
    Ok((worker, publisher))
}
