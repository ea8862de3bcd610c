//! What a worker knows beside its topics: configurations and target states of connectors.

pub mod kafka;
pub mod redb;

use futures_util::future::BoxFuture;
use tailwater_api::Result;
use tailwater_api::state::JsonMap;

/// What a connector should be doing, as Connect names it in its config topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TargetState {
    /// `STARTED`
    #[default]
    Running,
    /// `PAUSED`: tasks stay, nothing flows
    Paused,
    /// `STOPPED`: no tasks
    Stopped,
}

/// A connector as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredConnector {
    /// Its name
    pub name: String,
    /// Keys and values as they were given, secrets unresolved
    pub config: JsonMap,
    /// What it should be doing
    pub target: TargetState,
    /// The file that declares it, where it comes from one
    pub file: Option<String>,
}

/// Keeps connectors across restarts. Every change is durable when it returns.
pub trait ConnectorStore: Send + Sync + 'static {
    /// All connectors by name.
    fn list(&self) -> BoxFuture<'_, Result<Vec<StoredConnector>>>;
    /// Stores a connector, new or changed.
    fn put(&self, connector: StoredConnector) -> BoxFuture<'_, Result<()>>;
    /// Removes a connector; offsets are kept.
    fn remove(&self, name: &str) -> BoxFuture<'_, Result<()>>;
}
