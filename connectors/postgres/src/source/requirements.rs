//! What of the server no configuration can do without.

use tailwater_api::{Error, ErrorKind, Result};

use crate::catalog::{ServerFacts, quote_identifier};
use crate::config::PostgresConfig;
use crate::replication::FOLLOW_PRIMARY;

/// `server_version_num` of the first version whose standbys have slots of their own, and that filters by origin.
const STANDBYS_AND_ORIGINS: u32 = 160_000;
/// And of the first one whose plug-in sends prepared transactions.
const TWO_PHASE: u32 = 150_000;

/// Checks the server.
///
/// # Errors
/// What keeps its log from being followed, with the statement that mends it.
pub(crate) fn check_server(config: &PostgresConfig, facts: &ServerFacts) -> Result<()> {
    if !config.snapshot.stream {
        return Ok(());
    }
    if facts.in_recovery && facts.version < STANDBYS_AND_ORIGINS {
        // A name that leads to the primary may lead to a standby for as long as that is not promoted.
        return Err(Error::new(ErrorKind::Restarting, "follow the log")
            .because("the server is a standby, and standbys decode since PostgreSQL 16")
            .mend(FOLLOW_PRIMARY));
    }
    if facts.wal_level != "logical" {
        return Err(Error::new(ErrorKind::Misconfigured, "follow the log")
            .because(format!("wal_level is {}, not logical", facts.wal_level))
            .mend("as superuser: ALTER SYSTEM SET wal_level = logical; and restart the server"));
    }
    if !facts.may_replicate {
        return Err(Error::new(ErrorKind::Unauthorised, "follow the log")
            .because(format!("role {} may not replicate", facts.role))
            .mend(format!("as superuser: ALTER ROLE {} REPLICATION;", quote_identifier(&facts.role))));
    }
    if config.two_phase && facts.version < TWO_PHASE {
        return Err(Error::new(ErrorKind::Unsupported, "follow prepared transactions")
            .because("pgoutput sends them before their commit since PostgreSQL 15")
            .mend("set transaction.two.phase to false: they are captured all the same, when they are committed"));
    }
    if config.stream_options.iter().any(|(name, _)| name == "origin") && facts.version < STANDBYS_AND_ORIGINS {
        return Err(Error::new(ErrorKind::Unsupported, "leave out changes by their origin")
            .because("pgoutput filters by origin since PostgreSQL 16")
            .mend("take origin out of slot.stream.params"));
    }
    Ok(())
}
