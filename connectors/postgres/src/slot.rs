//! The replication slot: what the server says about it, and its creation.
//!
//! The creation of a slot waits until every transaction that is writing on the whole server has ended. While it
//! waits, the log names the sessions that it waits for.

use std::time::Duration;

use tailwater_api::Result;
use tokio_postgres::types::PgLsn;
use tracing::warn;

use crate::connect::{SqlConnection, sql_error};
use crate::lsn::Lsn;
use crate::restart::SlotState;

/// After this time the log says what a new slot waits for, and then again each time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Loads the state of the slot called `name`, if there is one.
pub(crate) async fn load(sql: &SqlConnection, name: &str) -> Result<Option<SlotState>> {
    // Older servers have no wal_status, and no reason of an invalidation; they are null this way.
    let query = "SELECT plugin::text, database::text, confirmed_flush_lsn, to_jsonb(s) ->> 'wal_status' = 'lost', active_pid, \
                 to_jsonb(s) ->> 'invalidation_reason' \
                 FROM pg_replication_slots s WHERE slot_name = $1";
    let row = sql.query_opt(query, &[&name]).await.map_err(|error| sql_error(format!("read the state of slot {name}"), error))?;
    Ok(row.map(|row| SlotState {
        plugin: row.get(0),
        database: row.get(1),
        confirmed_flush: row.get::<_, Option<PgLsn>>(2).map(|lsn| Lsn::new(lsn.into())),
        lost: row.get::<_, Option<bool>>(3).unwrap_or(false),
        active_pid: row.get(4),
        invalidation: row.get(5),
    }))
}

/// Awaits the creation of a slot and says what it waits for where that takes long.
pub(crate) async fn explain_wait<T>(sql: &SqlConnection, slot: &str, creation: impl Future<Output = T>) -> T {
    tokio::pin!(creation);
    loop {
        tokio::select! {
            done = &mut creation => return done,
            () = tokio::time::sleep(PATIENCE) => {
                let query = "SELECT string_agg(format('pid %s (%s, open since %s)', pid, usename, xact_start), ', ' ORDER BY xact_start) \
                             FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";
                // The wait is what matters here; a session that cannot be named is none the less waited for.
                let sessions = sql.query_one(query, &[]).await.ok().and_then(|row| row.get::<_, Option<String>>(0));
                warn!(slot, "the creation of the slot waits for open transactions: {}", sessions.as_deref().unwrap_or("none that this role can see"));
            }
        }
    }
}
