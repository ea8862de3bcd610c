//! Transactions of the server that have a number and are open, and how each is ended. A new slot waits for them, and so do reads in
//! chunks.
//!
//! A commit that waits for a standby is among them: it is in the log, and others do not see it yet.

use tailwater_api::Result;

use crate::connect::{SqlConnection, sql_error};

/// Everybody may read these columns of others' sessions, but for the time.
const OPEN: &str = "
SELECT backend_xid::text::bigint AS xid, format('pid %s of %s%s (to end it: SELECT pg_terminate_backend(%s);)', pid, usename,
       ', open since ' || xact_start, pid)
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT transaction::text::bigint, format('the prepared transaction %L of %s in %s, open since %s (to end it: ROLLBACK PREPARED %L;)',
       gid, owner, database, prepared, gid)
FROM pg_prepared_xacts
ORDER BY xid";

/// An open transaction.
pub(crate) struct OpenTransaction {
    pub(crate) xid: u32,
    /// Whose it is, since when, and how it is ended
    pub(crate) described: String,
}

/// All that are open now.
pub(crate) async fn open_transactions(sql: &SqlConnection) -> Result<Vec<OpenTransaction>> {
    let rows = sql.query(OPEN, &[]).await.map_err(|error| sql_error("see which transactions are open", error))?;
    // The server's number is one of 32 bits.
    Ok(rows.iter().map(|row| OpenTransaction { xid: row.get::<_, i64>(0) as u32, described: row.get(1) }).collect())
}
