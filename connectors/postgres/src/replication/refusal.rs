//! What the server says when it refuses: its fields, what kind of error that is, and how to mend it.

use std::fmt;

use tailwater_api::{Error, ErrorKind};

use crate::catalog::quote_identifier;
use crate::restart::resnapshot_without;

/// An `ErrorResponse`. Only the fields that a reader needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// SQLSTATE
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: Option<String>,
    pub(super) hint: Option<String>,
    /// Function of the server's source that says it: no translation changes it, as `lc_messages` does the message
    pub(super) routine: String,
}

impl Refusal {
    /// Reads the fields: each a letter and a text, the last one a zero. Texts may be in any encoding before the
    /// session has begun.
    pub(super) fn parse(body: &[u8]) -> Self {
        let mut refusal = Self::default();
        for field in body.split(|octet| *octet == 0) {
            let Some((letter, text)) = field.split_first() else { break };
            let text = || String::from_utf8_lossy(text).into_owned();
            match letter {
                b'C' => refusal.code = text(),
                b'M' => refusal.message = text(),
                b'D' => refusal.detail = Some(text()),
                b'H' => refusal.hint = Some(text()),
                b'R' => refusal.routine = text(),
                // Severity, position, file and line of the server's source: documented, and of no use here.
                _ => {}
            }
        }
        refusal
    }

    /// The error, while `doing` something as `user` in `database`.
    pub(super) fn into_error(self, doing: impl Into<String>, user: &str, database: &str) -> Error {
        if is_from_pooler(&self.message) {
            return Error::new(ErrorKind::Unsupported, doing).because(self).mend(POOLER_REMEDY);
        }
        let kind = if self.is_of_awaited_standby() { ErrorKind::Restarting } else { kind_of(&self.code, &self.message) };
        let mend = self.remedy(user, database);
        let error = Error::new(kind, doing).because(self);
        match mend {
            Some(mend) => error.mend(mend),
            None => error,
        }
    }

    fn remedy(&self, user: &str, database: &str) -> Option<String> {
        let user = quote_identifier(user);
        match self.code.as_str() {
            _ if self.is_of_awaited_standby() => Some(AWAITED_STANDBY_REMEDY.to_owned()),
            "28P01" => Some("check database.user and database.password".to_owned()),
            "28000" if self.message.contains("client certificate") => Some(CERTIFICATE_REMEDY.to_owned()),
            "28000" if self.message.contains("pg_hba.conf") => Some(format!(
                "add to the server's pg_hba.conf, then SELECT pg_reload_conf(): host {} {user} ADDRESS-OF-THIS-MACHINE/32 scram-sha-256",
                quote_identifier(database)
            )),
            "28000" => Some("check database.user: the role must exist and be allowed to log in (ALTER ROLE … LOGIN)".to_owned()),
            "42501" => Some(format!("as superuser: ALTER ROLE {user} REPLICATION;")),
            "3D000" => Some(format!("check database.dbname, or: CREATE DATABASE {};", quote_identifier(database))),
            _ if self.is_of_missing_publication() => Some(publication_remedy()),
            "53300" if self.message.contains("max_wal_senders") => {
                Some("as superuser: ALTER SYSTEM SET max_wal_senders = 20; and restart the server".to_owned())
            }
            "53300" => Some("as superuser: ALTER SYSTEM SET max_connections = 200; and restart the server".to_owned()),
            "53400" => Some("as superuser: ALTER SYSTEM SET max_replication_slots = 20; and restart the server".to_owned()),
            "22021" => Some(of_the_log(NOT_UTF_8_REMEDY)),
            "54000" => Some(of_the_log(TOO_LONG_REMEDY)),
            "55000" if self.message.contains("wal_level") => {
                Some("as superuser: ALTER SYSTEM SET wal_level = logical; and restart the server".to_owned())
            }
            "55000" if is_of_synchronised_slot(&self.message) => Some(FOLLOW_PRIMARY.to_owned()),
            "55006" => Some("end whoever uses it, or give each connector a slot.name of its own".to_owned()),
            // An internal error of the server, which no condition and no setting of ours explains.
            "XX000" => Some(internal_error_remedy()),
            _ => self.hint.clone(),
        }
    }

    /// Whether a publication did not exist when changes were written: an error until PostgreSQL 17 (`get_publication_oid`, which
    /// `GetPublicationByName` did itself in older ones), since 18 a warning, with which changes are left out (`pgoutput.c`,
    /// `LoadPublications`).
    pub(super) fn is_of_missing_publication(&self) -> bool {
        matches!(&*self.routine, "LoadPublications" | "get_publication_oid" | "GetPublicationByName")
    }

    /// Whether the server sends nothing to a failover slot because a slot of `synchronized_standby_slots` is of no use (`slot.c`,
    /// PostgreSQL 17 and 18): a warning, as what was held back follows later, and an error only of a server that shuts down.
    pub(super) fn is_of_awaited_standby(&self) -> bool {
        self.routine == "StandbySlotsHaveCaughtup"
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, " [SQLSTATE {}]", self.code)
    }
}

impl std::error::Error for Refusal {}

/// Whether this is the server's word that values of a type have no binary form (`undefined_function`, of `getTypeBinaryOutputInfo`).
pub(crate) fn is_without_binary_form(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code == "42883")
}

/// What to do where a standby answers that cannot be followed.
pub(crate) const FOLLOW_PRIMARY: &str = "follow the primary: name it in database.hostname, or set database.target_session_attrs to primary";

/// Whether this is how a standby refuses the use of a slot that it keeps for the time behind a failover (PostgreSQL 17 and 18).
fn is_of_synchronised_slot(message: &str) -> bool {
    message.starts_with("cannot use replication slot")
}

/// What to do where the server does not take our certificate.
pub const CERTIFICATE_REMEDY: &str =
    "set database.sslcert and database.sslkey to a certificate for the role, signed by one in the server's ssl_ca_file";

/// What kind of error a failed handshake is, and how to mend it.
pub(crate) fn tls_refusal(error: &rustls::Error) -> (ErrorKind, &'static str) {
    match error {
        // The server says it of what we have shown.
        rustls::Error::AlertReceived(_) => (ErrorKind::Unauthorised, CERTIFICATE_REMEDY),
        _ => (ErrorKind::Misconfigured, "check database.sslrootcert and that the server's certificate is for database.hostname"),
    }
}

/// What to do where the server waits for a standby before it sends changes to a failover slot.
pub(super) const AWAITED_STANDBY_REMEDY: &str = "bring the standby of that slot back, or take the slot out of synchronized_standby_slots: \
    ALTER SYSTEM SET synchronized_standby_slots = '…' (the other slots); SELECT pg_reload_conf()";

/// What to do where changes were written while there was no publication: whether they belong to it cannot be told any more, even
/// where it is there again.
pub(super) fn publication_remedy() -> String {
    format!(
        "what was written without the publication cannot be read from the log any more: {}. Where publication.autocreate.mode is disabled, \
         create the publication first",
        resnapshot_without(None)
    )
}

/// What to do where the server failed by itself, which may have been for once, or at a place of the log that it cannot decode.
fn internal_error_remedy() -> String {
    format!(
        "restart the connector: tailwater connector restart NAME --include-tasks. If the server fails again, it cannot decode its log there: look \
         at its log and for its newest minor version, or pass over that place: {}",
        resnapshot_without(None)
    )
}

/// What to do where the server cannot make UTF-8 of a text: its database has no encoding and does not know what it is.
pub(crate) const NOT_UTF_8_REMEDY: &str = "the encoding of the database is SQL_ASCII and a text in it is not UTF-8: rewrite it in UTF-8, \
    or leave its column out by column.exclude.list and: BEGIN; ALTER PUBLICATION … DROP TABLE …; ALTER PUBLICATION … ADD TABLE … \
    (the other columns); COMMIT;";

/// What to do where the server has no room to write down a row: less than a gibibyte (`MaxAllocSize`).
pub(crate) const TOO_LONG_REMEDY: &str = "PostgreSQL cannot send a row of a gibibyte in all: leave large columns out by column.exclude.list \
    and: BEGIN; ALTER PUBLICATION … DROP TABLE …; ALTER PUBLICATION … ADD TABLE … (the other columns); COMMIT;";

/// The remedy of a row that is in the log already: no later change of the row or of the publication changes how it is decoded.
fn of_the_log(remedy: &str) -> String {
    format!("{remedy} What the log holds already stays as it was written. To pass over it: {}", resnapshot_without(None))
}

/// What to do where a connection pooler answers.
pub const POOLER_REMEDY: &str = "name the server itself in database.hostname and database.port: a connection pooler passes on neither replication nor the settings of a session";

/// Whether this is how a connection pooler refuses a session of ours (PgBouncer and those made after it; RDS Proxy).
#[must_use]
pub fn is_from_pooler(message: &str) -> bool {
    message.contains("unsupported startup parameter") || message.contains("RDS Proxy")
}

/// Whether the server has no replication slot left, which lasts until somebody drops one.
pub(crate) fn is_out_of_slots(error: &Error) -> bool {
    let refusal = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Refusal>());
    refusal.is_some_and(|refusal| refusal.code == "53400")
}

/// What kind of error an SQLSTATE is (PostgreSQL 18, appendix A). The code 55000 stands for several things, which its
/// `message` tells apart.
#[must_use]
pub fn kind_of(code: &str, message: &str) -> ErrorKind {
    match code {
        "28000" | "28P01" | "42501" => ErrorKind::Unauthorised,
        "3D000" | "3F000" | "42704" | "42P01" | "42703" => ErrorKind::Missing,
        // Shut down by the operator, after a crash of another session, or not yet ready.
        "57P01" | "57P02" | "57P03" => ErrorKind::Restarting,
        "57014" | "55P03" | "57P05" | "25P03" => ErrorKind::TimedOut,
        "55006" | "42710" => ErrorKind::Conflict,
        "58P01" => ErrorKind::HistoryGone,
        // The wording since PostgreSQL 9.4 and since 17.
        "55000" if message.contains("can no longer") => ErrorKind::HistoryGone,
        // Until the standby is promoted.
        "55000" if is_of_synchronised_slot(message) => ErrorKind::Restarting,
        "0A000" => ErrorKind::Unsupported,
        _ => match code.get(..2) {
            Some("08") => ErrorKind::Unreachable,
            Some("53") => ErrorKind::Throttled,
            Some("40") => ErrorKind::Conflict,
            Some("58" | "XX" | "F0") => ErrorKind::Unreadable,
            // Classes of refused statements and settings, new ones included: the server works, what was asked does not.
            Some(_) | None => ErrorKind::Misconfigured,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_kind_and_its_remedy() {
        let said_by = |routine: &str, code: &str, message: &str| {
            let body = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0Fwalsender.c\0R{routine}\0\0");
            Refusal::parse(body.as_bytes()).into_error("connect", "cdc", "shop")
        };
        let refusal = |code: &str, message: &str| said_by("StartReplication", code, message);
        let cases = [
            ("28P01", "password authentication failed", ErrorKind::Unauthorised, "database.password"),
            ("28000", "no pg_hba.conf entry for host", ErrorKind::Unauthorised, "host \"shop\" \"cdc\""),
            (
                "42501",
                "must be superuser or replication role to start walsender",
                ErrorKind::Unauthorised,
                "ALTER ROLE \"cdc\" REPLICATION",
            ),
            ("3D000", "database \"shop\" does not exist", ErrorKind::Missing, "CREATE DATABASE \"shop\""),
            ("53300", "number of requested standby connections exceeds max_wal_senders", ErrorKind::Throttled, "max_wal_senders"),
            ("55000", "logical decoding requires wal_level >= logical", ErrorKind::Misconfigured, "wal_level = logical"),
            ("55000", "cannot use replication slot \"s\" for logical decoding", ErrorKind::Restarting, "follow the primary"),
            ("XX000", "could not map filenumber \"16384\" to relation OID", ErrorKind::Unreadable, "pg_drop_replication_slot"),
        ];
        for (code, message, kind, mend) in cases {
            let error = refusal(code, message);
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains(mend)), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        for (routine, code, kind, mend) in [
            ("get_publication_oid", "42704", ErrorKind::Missing, "pg_drop_replication_slot"),
            ("StandbySlotsHaveCaughtup", "55000", ErrorKind::Restarting, "synchronized_standby_slots"),
            ("StandbySlotsHaveCaughtup", "22023", ErrorKind::Restarting, "synchronized_standby_slots"),
        ] {
            let error = said_by(routine, code, "in any language");
            assert_eq!(error.kind(), kind, "{routine}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains(mend)), "{error}");
        }
        for (code, message, kind) in [
            ("57P03", "the database system is starting up", ErrorKind::Restarting),
            ("57P01", "terminating connection", ErrorKind::Restarting),
            ("55000", "cannot use physical replication slot for logical decoding", ErrorKind::Misconfigured),
            ("55006", "replication slot \"s\" is active for PID 1", ErrorKind::Conflict),
            ("55000", "can no longer get changes from replication slot \"s\"", ErrorKind::HistoryGone),
            ("58P01", "requested WAL segment has already been removed", ErrorKind::HistoryGone),
            ("08006", "", ErrorKind::Unreachable),
            ("", "", ErrorKind::Misconfigured),
        ] {
            assert_eq!(refusal(code, message).kind(), kind, "{code}");
        }
    }
}
