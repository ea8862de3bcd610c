//! `heartbeat.action.query`: a statement that is run on the source from time to time, so that something is written there.
//!
//! It runs beside the stream, on a session of its own, since it may wait for locks. It is not needed for positions to move
//! (I5), so a statement that fails is only told of, once for as long as it fails in one way; that the server is gone the stream notices
//! itself. A failure may leave the session in the middle of a transaction, which is ended before the next statement. One that still
//! waits when the run ends is cancelled.

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::Result;
use tracing::{info, warn};

use crate::config::PostgresConfig;
use crate::connect::{Cancellations, SqlConnection, SqlSession, sql_error};

const REMEDY: &str = "correct the statement, or grant what it needs to database.user; a server that is read-only, such as a standby, \
                      runs none that writes. It may be left out: positions move without it";

/// Runs the statement now and then each `interval`. Never ends.
pub(crate) async fn keep_acting(config: Arc<PostgresConfig>, query: String, interval: Duration, of_run: Cancellations) -> Result<()> {
    let mut session = SqlSession::new(config);
    let mut failed = None;
    loop {
        let ended = act(&mut session, &query, failed.is_some(), &of_run).await;
        match &ended {
            Err(error) if failed != Some(error.kind()) => warn!("the heartbeat.action.query fails, and is tried again each time: {error}"),
            Ok(()) if failed.is_some() => info!("the heartbeat.action.query works again"),
            Err(_) | Ok(()) => {}
        }
        failed = ended.err().map(|error| error.kind());
        tokio::time::sleep(interval).await;
    }
}

async fn act(session: &mut SqlSession, query: &str, has_failed: bool, of_run: &Cancellations) -> Result<()> {
    let sql = session.get().await?;
    if has_failed {
        run(sql, "ROLLBACK").await?;
    }
    // It reads nothing for us, so its tables may have policies.
    run(sql, "SET row_security = on").await?;
    let mut cancelling = sql.cancelling(of_run);
    let ended = run(sql, query).await;
    cancelling.is_over();
    ended
}

async fn run(sql: &SqlConnection, statement: &str) -> Result<()> {
    sql.batch_execute(statement).await.map_err(|error| {
        let failed = sql_error("run the heartbeat.action.query", error);
        if failed.kind().is_transient() || failed.remedy().is_some() { failed } else { failed.mend(REMEDY) }
    })
}
