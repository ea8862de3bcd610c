//! What happens after an error: one total function.
//!
//! [`decide`] looks at the kind of an error, its scope, what was tried already, and the user's policy. Everything that
//! runs connectors asks it and does what it says; nobody else interprets an error kind.
//!
//! | kind | what happens |
//! |---|---|
//! | unreachable, timed out, throttled, restarting | the task runs again after a wait |
//! | conflict | the same: the other holder may let go, and a moved position is read anew |
//! | missing, unreadable, unsupported, rejected, of one record | by tolerance: dead letter, drop with a log line, or stop |
//! | the same of a table or a connector | stop |
//! | unauthorised, misconfigured, history gone, bug | stop; trying again cannot help, or would hide a loss |

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tailwater_api::{Error, ErrorKind, Scope};
use tailwater_kit::backoff::Backoff;
use tailwater_kit::calendar::date_from_days;

/// What a user says about errors.
#[derive(Clone, Debug)]
pub struct RecoveryPolicy {
    /// What to do with a record that cannot be processed
    pub tolerance: Tolerance,
    /// Waits between tries
    pub backoff: Backoff,
    /// How many tries follow the first one; `None` is without end
    pub max_retries: Option<u32>,
    /// How long after the first failure tries may start; `None` is without end
    pub retry_timeout: Option<Duration>,
}

/// What to do with a record that cannot be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// Its task stops
    None,
    /// It is kept in this topic
    Keep(Arc<str>),
    /// It is dropped, counted and logged
    Drop,
}

/// What was tried since the task last ran well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Failures in a row, this one included
    pub count: u32,
    /// Time since the first of them
    pub since_first: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run the task again from what is durable, after the backoff's wait.
    RunAgain,
    /// Keep the record in the dead letter topic and go on.
    KeepDeadLetter,
    /// Drop the record, count and log it, and go on.
    DropRecord,
    /// Leave the task failed until somebody acts.
    Stop,
}

/// Decides what happens after `error`.
#[must_use]
pub fn decide(error: &Error, failures: Failures, policy: &RecoveryPolicy) -> Decision {
    match error.kind() {
        ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Throttled | ErrorKind::Restarting | ErrorKind::Conflict => {
            let too_often = policy.max_retries.is_some_and(|max| failures.count > max);
            let too_long = policy.retry_timeout.is_some_and(|timeout| failures.since_first >= timeout);
            if too_often || too_long { Decision::Stop } else { Decision::RunAgain }
        }
        ErrorKind::Missing | ErrorKind::Unreadable | ErrorKind::Unsupported | ErrorKind::Rejected => match error.scope() {
            Scope::Record => match policy.tolerance {
                Tolerance::None => Decision::Stop,
                Tolerance::Keep(_) => Decision::KeepDeadLetter,
                Tolerance::Drop => Decision::DropRecord,
            },
            Scope::Table(_) | Scope::Connector => Decision::Stop,
        },
        ErrorKind::Unauthorised | ErrorKind::Misconfigured | ErrorKind::HistoryGone | ErrorKind::Bug => Decision::Stop,
    }
}

/// The trace of a failed task: its first line says code, error and the time of the next try, the lines below where and how to mend it.
#[must_use]
pub fn trace(error: &Error, next_try: Option<SystemTime>) -> String {
    let mut trace = format!("{}: {}", error.kind().code(), error.sentence()).replace(['\r', '\n'], " ");
    if let Some(time) = next_try {
        let _ = write!(trace, "; next try at {}", utc(time));
    }
    if let Some(position) = error.position() {
        let _ = write!(trace, "\n\tat {position}");
    }
    if let Some(mend) = error.remedy() {
        let _ = write!(trace, "\n\tto mend it: {mend}");
    }
    trace
}

/// A time as RFC 3339 in UTC, to the second.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_from_days(days.cast_signed());
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(tolerance: Tolerance) -> RecoveryPolicy {
        RecoveryPolicy {
            tolerance,
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_secs(1)),
            max_retries: None,
            retry_timeout: None,
        }
    }

    const FIRST: Failures = Failures { count: 1, since_first: Duration::ZERO };

    #[test]
    fn every_kind_and_scope_has_its_decision() {
        use Decision::{KeepDeadLetter, RunAgain, Stop};
        let expected = |kind| match kind {
            ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Throttled | ErrorKind::Restarting | ErrorKind::Conflict => {
                [RunAgain; 3]
            }
            ErrorKind::Missing | ErrorKind::Unreadable | ErrorKind::Unsupported | ErrorKind::Rejected => [KeepDeadLetter, Stop, Stop],
            ErrorKind::Unauthorised | ErrorKind::Misconfigured | ErrorKind::HistoryGone | ErrorKind::Bug => [Stop; 3],
        };
        for kind in ErrorKind::ALL {
            let scopes = [Scope::Record, Scope::Table("t".into()), Scope::Connector];
            let decided = scopes.map(|scope| decide(&Error::new(kind, "act").scoped(scope), FIRST, &policy(Tolerance::Keep("dlq".into()))));
            assert_eq!(decided, expected(kind), "{}", kind.code());
        }
    }

    #[test]
    fn tolerance_decides_about_records() {
        let error = || Error::new(ErrorKind::Rejected, "write").scoped(Scope::Record);
        assert_eq!(decide(&error(), FIRST, &policy(Tolerance::None)), Decision::Stop);
        assert_eq!(decide(&error(), FIRST, &policy(Tolerance::Drop)), Decision::DropRecord);
    }

    proptest! {
        #[test]
        fn limits_end_the_tries_and_nothing_but_limits_does(count in 1u32..1000, seconds in 0u64..10_000, max in prop::option::of(0u32..1000), timeout in prop::option::of(1u64..10_000)) {
            let mut policy = policy(Tolerance::None);
            policy.max_retries = max;
            policy.retry_timeout = timeout.map(Duration::from_secs);
            let failures = Failures { count, since_first: Duration::from_secs(seconds) };
            let ended = max.is_some_and(|max| count > max) || timeout.is_some_and(|timeout| seconds >= timeout);
            let decision = decide(&Error::new(ErrorKind::Unreachable, "connect"), failures, &policy);
            prop_assert_eq!(decision, if ended { Decision::Stop } else { Decision::RunAgain });
        }
    }

    #[test]
    fn the_first_line_of_a_trace_holds_code_error_and_next_try() {
        let error = Error::new(ErrorKind::Unreachable, "connect to db:5432").because("refused\nby peer").at("0/16B3748").mend("start it");
        let text = trace(&error, Some(UNIX_EPOCH + Duration::from_secs(1_795_227_316)));
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("unreachable: cannot connect to db:5432"), "{first}");
        assert!(first.contains("refused by peer") && first.ends_with("; next try at 2026-11-21T02:15:16Z"), "{first}");
        assert!(text.ends_with("\n\tat 0/16B3748\n\tto mend it: start it"));
        assert_eq!(text.matches("start it").count(), 1, "the remedy is said once: {text}");
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
