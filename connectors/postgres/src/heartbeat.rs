//! `heartbeat.action.query`: a statement that is run on the source from time to time, so that something is written there.
//!
//! It runs beside the stream, on a session of its own, since it may wait for locks. It is not needed for positions to move
//! (I5), so a statement that fails is only told of; that the server is gone the stream notices itself.

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::Result;
use tracing::warn;

use crate::config::PostgresConfig;
use crate::connect::{SqlSession, sql_error};

/// Runs the statement once.
pub(crate) async fn act(session: &mut SqlSession, query: &str) {
    if let Err(error) = run(session, query).await {
        warn!("the heartbeat.action.query failed: {error}");
    }
}

async fn run(session: &mut SqlSession, query: &str) -> Result<()> {
    session.get().await?.batch_execute(query).await.map_err(|error| sql_error("run the heartbeat.action.query", error))
}

/// Runs the statement each `interval`. Never ends.
pub(crate) async fn keep_acting(config: Arc<PostgresConfig>, query: String, interval: Duration) -> Result<()> {
    let mut session = SqlSession::new(config);
    loop {
        tokio::time::sleep(interval).await;
        act(&mut session, &query).await;
    }
}
