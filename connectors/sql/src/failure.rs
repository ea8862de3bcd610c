//! What a database's error means, and the errors that go up.

use tailwater_api::{Error, ErrorKind, Scope};

/// What an error of a database says about the statement that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// A value or constraint: other rows of the statement may be fine.
    Data,
    /// The statement names a table or column that is not there, or no longer what it was.
    Shape,
    /// What should be created is there already.
    Exists,
    /// The disk or quota is full.
    Full,
    /// Neither row nor shape.
    Other(ErrorKind),
}

impl Meaning {
    fn kind(self) -> ErrorKind {
        match self {
            Self::Data => ErrorKind::Rejected,
            Self::Shape => ErrorKind::Missing,
            Self::Exists => ErrorKind::Conflict,
            Self::Full => ErrorKind::Throttled,
            Self::Other(kind) => kind,
        }
    }
}

/// A failed step with its meaning.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) meaning: Meaning,
    pub(crate) error: Error,
}

impl Failure {
    pub(crate) fn new(meaning: Meaning, error: Error) -> Self {
        Self { meaning, error }
    }

    /// A database's error while `doing`.
    pub(crate) fn database(meaning: Meaning, doing: impl Into<String>, cause: sqlx::Error) -> Self {
        // The driver would add the line of the server's source.
        let error = match &cause {
            sqlx::Error::Database(said) => {
                let code = said.code().map(|code| format!(" (code {code})")).unwrap_or_default();
                Error::new(meaning.kind(), doing).because(format!("{}{code}", said.message()))
            }
            _ => Error::new(meaning.kind(), doing).because(cause),
        };
        let error = match meaning {
            Meaning::Full => error.mend("free space where the target keeps its data; writing goes on by itself"),
            Meaning::Data | Meaning::Shape | Meaning::Exists | Meaning::Other(_) => error,
        };
        Self { meaning, error }
    }

    pub(crate) fn on_table(self, table: &str) -> Self {
        let scope = match self.meaning {
            Meaning::Data => Scope::Record,
            Meaning::Shape | Meaning::Exists => Scope::Table(table.to_owned()),
            Meaning::Full | Meaning::Other(_) => Scope::Connector,
        };
        Self { meaning: self.meaning, error: self.error.scoped(scope) }
    }

    pub(crate) fn mend(self, mend: impl Into<String>) -> Self {
        Self { meaning: self.meaning, error: self.error.mend(mend) }
    }
}

/// An error that is no database's: it is final for what was being done.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { meaning: Meaning::Other(error.kind()), error }
    }
}

/// Meaning of the errors that sqlx makes itself; `None` for those of a database.
pub(crate) fn driver_meaning(error: &sqlx::Error) -> Option<Meaning> {
    Some(Meaning::Other(match error {
        sqlx::Error::Database(_) => return None,
        sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        sqlx::Error::PoolTimedOut => ErrorKind::TimedOut,
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            ErrorKind::Unreachable
        }
        sqlx::Error::Configuration(_) => ErrorKind::Misconfigured,
        // A value that cannot be bound.
        sqlx::Error::Encode(_) => return Some(Meaning::Data),
        // The rest cannot come from the calls that are made here, or is a fault of ours.
        _ => ErrorKind::Bug,
    }))
}
