//! `heartbeat.action.query`: a statement that is run on the source from time to time, so that something is written there.
//!
//! It runs beside the stream, on a session of its own, since it may wait for locks. It is not needed for positions to move
//! (I5), so a statement that fails is only told of; that the server is gone the stream notices itself. A failure may leave the session
//! in the middle of a transaction, so the next statement has a new one.

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::Result;
use tracing::warn;

use crate::config::PostgresConfig;
use crate::connect::{SqlSession, sql_error};

/// Runs the statement now and then each `interval`. Never ends.
pub(crate) async fn keep_acting(config: Arc<PostgresConfig>, query: String, interval: Duration) -> Result<()> {
    let mut session = SqlSession::new(config.clone());
    loop {
        if let Err(error) = act(&mut session, &query).await {
            warn!("the heartbeat.action.query failed: {error}");
            session = SqlSession::new(config.clone());
        }
        tokio::time::sleep(interval).await;
    }
}

async fn act(session: &mut SqlSession, query: &str) -> Result<()> {
    let failed = |error| sql_error("run the heartbeat.action.query", error);
    let sql = session.get().await?;
    // It reads nothing for us, so its tables may have policies.
    sql.batch_execute("SET row_security = on").await.map_err(failed)?;
    sql.batch_execute(query).await.map_err(failed)
}
