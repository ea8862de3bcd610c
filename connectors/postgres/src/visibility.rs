//! What a read of the server could see, for the windows of the kit.
//!
//! On a primary that is the snapshot itself, `xmin:xmax:running,…` (PostgreSQL 18, 9.28 "txid_snapshot"). A commit can stand in
//! the log, and be sent by the slot, before it is out of the list of the running: it waits for a standby that
//! `synchronous_standby_names` asks for. The list ends where the last transaction stands that ended (`xmax`): who runs with a
//! higher number is not listed, and not seen either. Numbers there are 64 bits wide, those of the log 32; they are never half a range apart.
//!
//! On a standby that list is empty. There a commit is visible once it is replayed, so the place up to which was replayed
//! before the read stands for it.
//!
//! The log has passed what a read could see when it has passed the end of what was written (on a standby: replayed) after
//! the snapshot was taken. What is written is sent only once it is flushed, and asynchronous commits are seen before that.

use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::windows::Visibility;
use tokio_postgres::types::PgLsn;

use crate::connect::{SqlConnection, sql_error};
use crate::lsn::Lsn;

/// A transaction by the number that the log gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedTransaction {
    pub(crate) xid: u32,
    /// Start of its commit record
    pub(crate) commit: Lsn,
}

impl PartialEq for LoggedTransaction {
    /// The number says it all: it is not used again within a session of the windows.
    fn eq(&self, other: &Self) -> bool {
        self.xid == other.xid
    }
}

impl Eq for LoggedTransaction {}

/// What one read could see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Primary { next: u64, running: Vec<u64> },
    Standby { replayed: Lsn },
}

impl Visibility for Sight {
    type Transaction = LoggedTransaction;

    fn sees(&self, transaction: &LoggedTransaction) -> bool {
        match self {
            Self::Primary { next, running } => {
                // The lower halves are compared as the server does it, modulo their range.
                let behind = (*next as u32).wrapping_sub(transaction.xid).cast_signed();
                let wide = next.wrapping_sub(i64::from(behind).cast_unsigned());
                behind > 0 && !running.contains(&wide)
            }
            Self::Standby { replayed } => transaction.commit < *replayed,
        }
    }

    fn running(&self) -> Vec<LoggedTransaction> {
        match self {
            Self::Primary { running, .. } => {
                running.iter().map(|wide| LoggedTransaction { xid: *wide as u32, commit: Lsn::INVALID }).collect()
            }
            Self::Standby { .. } => Vec::new(),
        }
    }
}

/// Where a standby is before a read; `None` on a primary.
pub(crate) async fn replayed(sql: &SqlConnection) -> Result<Option<Lsn>> {
    let row = sql
        .query_one("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END", &[])
        .await
        .map_err(|error| sql_error("see how far the standby is", error))?;
    Ok(row.get::<_, Option<PgLsn>>(0).map(|lsn| Lsn::new(lsn.into())))
}

/// What the snapshot of the session's transaction sees, and the place that the log has to pass. `replayed` is from before that
/// snapshot.
pub(crate) async fn sight(sql: &SqlConnection, replayed: Option<Lsn>) -> Result<(Sight, Lsn)> {
    let doing = "see what is visible";
    let query = "SELECT txid_current_snapshot()::text, \
                 CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END";
    let row = sql.query_one(query, &[]).await.map_err(|error| sql_error(doing, error))?;
    let passed = Lsn::new(row.get::<_, Option<PgLsn>>(1).map_or(0, u64::from));
    let sight = match replayed {
        Some(replayed) => Sight::Standby { replayed },
        None => parse(row.get(0)).ok_or_else(|| Error::new(ErrorKind::Unreadable, doing).because(row.get::<_, String>(0)))?,
    };
    Ok((sight, passed))
}

fn parse(text: &str) -> Option<Sight> {
    let mut parts = text.split(':');
    let (_, next, running) = (parts.next()?, parts.next()?, parts.next()?);
    let running = running.split(',').filter(|text| !text.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Sight::Primary { next: next.parse().ok()?, running })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(xid: u32) -> LoggedTransaction {
        LoggedTransaction { xid, commit: Lsn::new(100) }
    }

    #[test]
    fn a_snapshot_sees_what_is_neither_running_nor_to_come() {
        let sight = parse("725:728:725,727").unwrap();
        let seen: Vec<u32> = (720..730).filter(|xid| sight.sees(&transaction(*xid))).collect();
        assert_eq!(seen, [720, 721, 722, 723, 724, 726]);
        assert_eq!(sight.running(), [transaction(725), transaction(727)]);
        assert_eq!(parse("725:725:").unwrap(), Sight::Primary { next: 725, running: Vec::new() });
        assert_eq!(parse("725:x:"), None);
    }

    #[test]
    fn numbers_of_the_log_are_half_as_wide_and_wrap() {
        let next = (3 << 32) + 5;
        let sight = Sight::Primary { next, running: vec![(3 << 32) - 2] };
        assert!(sight.sees(&transaction(4)));
        assert!(!sight.sees(&transaction(5)));
        assert!(sight.sees(&transaction(u32::MAX)));
        assert!(!sight.sees(&transaction(u32::MAX - 1)));
    }

    #[test]
    fn on_a_standby_what_is_replayed_is_seen() {
        assert!(Sight::Standby { replayed: Lsn::new(101) }.sees(&transaction(1)));
        assert!(!Sight::Standby { replayed: Lsn::new(100) }.sees(&transaction(1)));
    }
}
