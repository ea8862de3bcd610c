//! Opens a data directory and starts a worker on it. The only place of the commands that knows which engine runs.

use std::path::Path;
use std::sync::Arc;

use tailwater_api::Result;

use crate::config::providers::Providers;
use crate::config::worker_file::WorkerFile;
use crate::runtime::worker::{Worker, WorkerOptions, WorkerParts};
use crate::state::ConnectorStore;
use crate::state::redb::RedbStore;
use crate::telemetry::Registry;
use crate::topics::TopicLog;
use crate::topics::embedded::EmbeddedLog;

/// Topic log and state of a data directory.
pub(super) struct Opened {
    pub(super) topics: Arc<dyn TopicLog>,
    pub(super) store: Arc<dyn ConnectorStore>,
}

/// Opens `data.dir` for its one worker.
///
/// # Errors
/// It is locked, unreadable or full.
pub(super) async fn open(file: &WorkerFile) -> Result<Opened> {
    let store = RedbStore::open(&file.data_dir)?;
    let topics = EmbeddedLog::open(&file.data_dir, file.embedded, store.clone())?;
    Ok(Opened { topics: Arc::new(topics), store: Arc::new(store) })
}

/// Opens a data directory without a lock; sees what is durable.
///
/// # Errors
/// It is unreadable.
pub(super) async fn open_read_only(data_dir: &Path) -> Result<Opened> {
    let topics = EmbeddedLog::open_read_only(data_dir)?;
    Ok(Opened { topics: Arc::new(topics), store: Arc::new(RedbStore::open_read_only(data_dir)?) })
}

/// Starts a worker.
///
/// # Errors
/// The remembered connectors cannot be read.
pub(super) async fn start(options: WorkerOptions, opened: Opened, providers: Providers, metrics: &Registry) -> Result<Worker> {
    let Opened { topics, store } = opened;
    Worker::start_with(options, WorkerParts { topics, store, providers, metrics: Arc::new(metrics.clone()) }).await
}
