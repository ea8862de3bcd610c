//! `heartbeat.action.query`: a statement that is run on the source from time to time, so that something is written there.
//!
//! It runs beside the stream, on a session of its own, since it may wait for locks. It is not needed for positions to move
//! (I5), so a statement that fails is only told of, once for as long as it fails in the same way; that the server is gone the stream
//! notices itself. A statement that the server refuses leaves the session as it is, maybe in the midst of a transaction, which is ended
//! before the next one. One that waits when the run ends is cancelled.

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::Result;
use tokio_postgres::error::SqlState;
use tracing::{info, warn};

use crate::config::PostgresConfig;
use crate::connect::{Cancellations, SqlSession, sql_error};

/// It reads nothing for us, so its tables may have policies.
const WITH_POLICIES: &str = "SET row_security = on";
/// What to do where the statement fails.
const REMEDY: &str = "correct it, or grant what it needs to database.user; or leave it out: positions move without it. A server that only \
    reads, as a standby, runs none that writes";

/// Runs the statement now and then each `interval`. Never ends.
pub(crate) async fn keep_acting(config: Arc<PostgresConfig>, query: String, interval: Duration, of_run: Cancellations) -> Result<()> {
    let mut session = SqlSession::new(config);
    let mut failing = None;
    loop {
        match act(&mut session, &query, &of_run).await {
            Ok(()) if failing.take().is_some() => info!("the heartbeat.action.query works again"),
            Ok(()) => {}
            Err(error) => {
                let kind = error.kind();
                if failing.replace(kind) != Some(kind) {
                    let mend = error.remedy().unwrap_or(REMEDY);
                    warn!(error.kind = kind.code(), error.mend = mend, "the heartbeat.action.query fails: {}", error.sentence());
                }
            }
        }
        tokio::time::sleep(interval).await;
    }
}

async fn act(session: &mut SqlSession, query: &str, of_run: &Cancellations) -> Result<()> {
    let failed = |error| sql_error("run the heartbeat.action.query", error);
    let sql = session.get().await?;
    match sql.batch_execute(WITH_POLICIES).await {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            sql.batch_execute(&format!("ROLLBACK; {WITH_POLICIES}")).await.map_err(failed)?;
        }
        set => set.map_err(failed)?,
    }
    let mut cancelling = sql.cancelling(of_run);
    let acted = sql.batch_execute(query).await.map_err(failed);
    cancelling.is_over();
    acted
}
