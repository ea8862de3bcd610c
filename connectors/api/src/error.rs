//! Errors that say what kind they are, what was being done, why it failed and how to mend it.

use std::error::Error as StdError;
use std::fmt;

/// Result of everything that can fail in a connector.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means for the one who decides what happens next. The daemon's recovery is a total function of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// Nobody answers, or the connection broke.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The other side asks us to slow down.
    Throttled,
    /// The other side is starting or stopping.
    Restarting,
    /// Credentials or rights are missing.
    Unauthorised,
    /// A thing that must exist does not.
    Missing,
    /// Somebody else holds or changed what we need: a slot in use, a position moved by another writer.
    Conflict,
    /// The configuration cannot work.
    Misconfigured,
    /// What stood after our position is no longer to be had, or is another history.
    HistoryGone,
    /// Data that does not parse.
    Unreadable,
    /// Valid input that this version does not handle.
    Unsupported,
    /// The target refuses a record.
    Rejected,
    /// An invariant of ours does not hold.
    Bug,
}

impl ErrorKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::Throttled,
        Self::Restarting,
        Self::Unauthorised,
        Self::Missing,
        Self::Conflict,
        Self::Misconfigured,
        Self::HistoryGone,
        Self::Unreadable,
        Self::Unsupported,
        Self::Rejected,
        Self::Bug,
    ];

    /// The stable code of logs, traces and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::Throttled => "throttled",
            Self::Restarting => "restarting",
            Self::Unauthorised => "unauthorised",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Misconfigured => "misconfigured",
            Self::HistoryGone => "history-gone",
            Self::Unreadable => "unreadable",
            Self::Unsupported => "unsupported",
            Self::Rejected => "rejected",
            Self::Bug => "bug",
        }
    }

    /// Whether trying again without a change can help.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut | Self::Throttled | Self::Restarting)
    }
}

/// How far an error reaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// One record; others are not affected.
    Record,
    /// One table or collection, by its full name.
    Table(String),
    /// The whole connector.
    Connector,
}

/// An error of a connector. Small to move; the text is assembled when it is shown.
pub struct Error(Box<Body>);

struct Body {
    kind: ErrorKind,
    scope: Scope,
    is_planned: bool,
    doing: String,
    position: Option<String>,
    mend: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of the connector's scope. `doing` is a verb and its object, without a full stop: `connect to db:5432 as cdc`.
    #[must_use]
    pub fn new(kind: ErrorKind, doing: impl Into<String>) -> Self {
        Self(Box::new(Body {
            kind,
            scope: Scope::Connector,
            is_planned: false,
            doing: doing.into(),
            position: None,
            mend: None,
            cause: None,
        }))
    }

    /// Says why: another error or a sentence.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Says how to mend it, where possible with the exact statement.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.0.mend = Some(mend.into());
        self
    }

    /// Narrows the scope.
    #[must_use]
    pub fn scoped(mut self, scope: Scope) -> Self {
        self.0.scope = scope;
        self
    }

    /// Says that nothing failed: the run ends so that the next one does what only a start can.
    #[must_use]
    pub fn planned(mut self) -> Self {
        self.0.is_planned = true;
        self
    }

    /// Says where in the source's log, in the source's own notation.
    #[must_use]
    pub fn at(mut self, position: impl fmt::Display) -> Self {
        self.0.position = Some(position.to_string());
        self
    }

    /// The same error once more, where several have to be told of it. Its causes become their text.
    #[must_use]
    pub fn again(&self) -> Self {
        let Body { kind, scope, is_planned, doing, position, mend, cause } = &*self.0;
        Self(Box::new(Body {
            kind: *kind,
            scope: scope.clone(),
            is_planned: *is_planned,
            doing: doing.clone(),
            position: position.clone(),
            mend: mend.clone(),
            cause: cause.as_ref().map(|cause| cause.to_string().into()),
        }))
    }

    /// Kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Reach of the error.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// Whether the run ended only to begin again.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.0.is_planned
    }

    /// What was being done.
    #[must_use]
    pub fn doing(&self) -> &str {
        &self.0.doing
    }

    /// How to mend it, if that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.0.mend.as_deref()
    }

    /// The error in one line without its remedy, for where the remedy is shown beside it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = format!("cannot {}", self.0.doing);
        if let Scope::Table(table) = &self.0.scope {
            text += &format!(" (table {table})");
        }
        if let Some(position) = &self.0.position {
            text += &format!(" at {position}");
        }
        let mut cause: Option<&dyn StdError> = self.0.cause.as_deref().map(|cause| cause as &dyn StdError);
        let mut last = String::new();
        while let Some(error) = cause {
            let current = error.to_string();
            // Many errors repeat their cause in their own text; say it once.
            if !last.contains(&current) {
                text += &format!(": {current}");
            }
            last = current;
            cause = error.source();
        }
        text
    }

    /// Where in the source's log, if that is known.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.0.position.as_deref()
    }
}

impl fmt::Display for Error {
    /// One line: `cannot DOING: CAUSE: ITS CAUSE`; the remedy follows after a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        if let Some(mend) = &self.0.mend {
            write!(f, ". To mend it: {mend}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind.code())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}
