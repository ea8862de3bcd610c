//! The place in a server's write-ahead log from which a restart loses nothing and repeats nothing durable (I3).
//!
//! A position is stored in Connect's form: partition `{"server": topic.prefix}`, offset with Debezium's own keys
//! (3.6, `PostgresOffsetContext`: `lsn`, `lsn_proc`, `lsn_commit`, `txId`, `ts_usec`, `messageType`, `snapshot`,
//! `snapshot_completed`, `last_snapshot_record`), so that REST shows what users know and a Debezium connector can be
//! taken over and handed back. What Debezium has no word for stands beside it:
//!
//! | key | holds |
//! |---|---|
//! | `tailwater.system` | system identifier of the server, as text |
//! | `tailwater.timeline` | its timeline |
//! | `tailwater.slot` | the slot that the position belongs to |
//! | `tailwater.resume` | where the server is asked to start: the end of the last whole transaction, or an anchor |
//! | `tailwater.through` | what was committed before is durable; only there where the resume point is held back (see `progress`) |
//! | `tailwater.xid`, `tailwater.upto`, `tailwater.messages` | the transaction of which a part is durable: what stands in it before the place, and that many of its messages at it |
//! | `tailwater.commit` | where that transaction was committed; not known of one of Debezium's until it comes by |
//!
//! The offset's `lsn_commit` is the end of the last transaction *with rows for us*, as Debezium writes it into
//! `source.sequence`; `tailwater.resume` also moves when nothing of ours happens (I5).
//!
//! Tables have states of their own beside it (`table_states`).

use tailwater_api::state::{JsonMap, SourceState, StateChange};
use tailwater_api::{Error, ErrorKind, Result};

use crate::lsn::Lsn;

/// What a position belongs to: positions of different logs are never compared (I3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogIdentity {
    pub(crate) system: String,
    pub(crate) timeline: u32,
    pub(crate) slot: String,
}

/// A transaction of which a part is durable: its messages before a place, and this many at it. Rows that one `COPY` writes share a
/// place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(crate) xid: u32,
    /// Start of its commit record; Debezium does not store it.
    pub(crate) commit: Option<Lsn>,
    pub(crate) place: Lsn,
    /// Row messages and logical ones, counted before filters and transforms
    pub(crate) messages: u64,
}

/// How far the initial snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotProgress {
    /// Tables are missing.
    Running,
    /// All tables are published, nothing was streamed since.
    Completed,
    /// Changes are streamed.
    Streaming,
}

/// The last message that a position covers, for people and for Debezium; restarting does not depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastMessage {
    pub(crate) lsn: Lsn,
    pub(crate) xid: Option<u32>,
    /// Microseconds since 1970 UTC
    pub(crate) timestamp: i64,
    pub(crate) kind: MessageKind,
}

/// Debezium's `messageType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Insert,
    Update,
    Delete,
    Truncate,
    Message,
    Commit,
}

impl MessageKind {
    const ALL: [Self; 6] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate, Self::Message, Self::Commit];

    const fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
            Self::Message => "MESSAGE",
            Self::Commit => "COMMIT",
        }
    }
}

/// A resume point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Unknown for an offset taken over from Debezium.
    pub(crate) log: Option<LogIdentity>,
    /// Where the server is asked to start.
    pub(crate) resume: Lsn,
    /// Transactions committed before are durable; not before `resume`.
    pub(crate) through: Lsn,
    /// End of the last transaction with rows for us.
    pub(crate) last_commit: Option<Lsn>,
    pub(crate) partial: Option<Partial>,
    pub(crate) snapshot: SnapshotProgress,
    pub(crate) last: LastMessage,
}

impl Position {
    /// The stored position of `server`, if there is one.
    ///
    /// # Errors
    /// The offset is none of ours nor of Debezium's.
    pub(crate) fn load(state: &SourceState, server: &str) -> Result<Option<Self>> {
        state.get(&server_partition(server)).map(Self::from_offset).transpose()
    }

    /// The change of the state that stores this position.
    pub(crate) fn change(&self, server: &str) -> StateChange {
        StateChange { partition: server_partition(server), offset: Some(self.to_offset()) }
    }

    pub(crate) fn to_offset(&self) -> JsonMap {
        let mut offset = JsonMap::new();
        match self.snapshot {
            SnapshotProgress::Streaming => {
                offset.insert("lsn_proc".into(), self.last.lsn.as_u64().into());
                offset.insert("messageType".into(), self.last.kind.name().into());
                if let Some(commit) = self.last_commit {
                    offset.insert("lsn_commit".into(), commit.as_u64().into());
                }
            }
            SnapshotProgress::Running | SnapshotProgress::Completed => {
                let completed = self.snapshot == SnapshotProgress::Completed;
                offset.insert("last_snapshot_record".into(), completed.into());
                offset.insert("snapshot".into(), "INITIAL".into());
                offset.insert("snapshot_completed".into(), completed.into());
            }
        }
        offset.insert("lsn".into(), self.last.lsn.as_u64().into());
        if let Some(xid) = self.last.xid {
            offset.insert("txId".into(), xid.into());
        }
        offset.insert("ts_usec".into(), self.last.timestamp.into());
        if let Some(log) = &self.log {
            offset.insert("tailwater.system".into(), log.system.clone().into());
            offset.insert("tailwater.timeline".into(), log.timeline.into());
            offset.insert("tailwater.slot".into(), log.slot.clone().into());
        }
        offset.insert("tailwater.resume".into(), self.resume.as_u64().into());
        if self.through > self.resume {
            offset.insert("tailwater.through".into(), self.through.as_u64().into());
        }
        if let Some(Partial { xid, commit, place, messages }) = self.partial {
            offset.insert("tailwater.xid".into(), xid.into());
            if let Some(commit) = commit {
                offset.insert("tailwater.commit".into(), commit.as_u64().into());
            }
            offset.insert("tailwater.upto".into(), place.as_u64().into());
            offset.insert("tailwater.messages".into(), messages.into());
        }
        offset
    }

    pub(crate) fn from_offset(offset: &JsonMap) -> Result<Self> {
        let number = |key: &str| -> Result<Option<u64>> {
            match offset.get(key) {
                None | Some(serde_json::Value::Null) => Ok(None),
                Some(value) => value.as_u64().map(Some).ok_or_else(|| unreadable(key, value)),
            }
        };
        let lsn = |key: &str| number(key).map(|found| found.map(Lsn::new));
        let xid = |key: &str| -> Result<Option<u32>> {
            // Debezium's txId may hold the epoch in its upper half; the log's messages hold the lower half.
            number(key).map(|found| found.map(|wide| (wide & u64::from(u32::MAX)) as u32))
        };
        let Some(event) = lsn("lsn")? else {
            return Err(unreadable("lsn", &serde_json::Value::Null));
        };
        let processed = lsn("lsn_proc")?;
        let last_commit = lsn("lsn_commit")?;
        let snapshot = match (offset.get("snapshot"), offset.get("snapshot_completed").and_then(serde_json::Value::as_bool)) {
            (None | Some(serde_json::Value::Null | serde_json::Value::Bool(false)), _) => SnapshotProgress::Streaming,
            (Some(_), Some(true)) => SnapshotProgress::Completed,
            (Some(_), Some(false) | None) => SnapshotProgress::Running,
        };
        let kind = offset.get("messageType").and_then(serde_json::Value::as_str);
        let kind = MessageKind::ALL.into_iter().find(|known| Some(known.name()) == kind).unwrap_or(MessageKind::Commit);
        let timestamp = offset.get("ts_usec").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let last = LastMessage { lsn: event, xid: xid("txId")?, timestamp, kind };

        let own_resume = lsn("tailwater.resume")?;
        let resume = own_resume.or(last_commit).or(processed).unwrap_or(event);
        let commit = lsn("tailwater.commit")?;
        let partial = match (xid("tailwater.xid")?, lsn("tailwater.upto")?, number("tailwater.messages")?) {
            (Some(xid), Some(place), Some(messages)) => Some(Partial { xid, commit, place, messages }),
            (None, None, None) if commit.is_none() => match last.xid {
                Some(xid) if own_resume.is_none() && snapshot == SnapshotProgress::Streaming && kind != MessageKind::Commit => {
                    // Without the count, which came with Debezium 3.6, repeating a row is better than losing one.
                    let messages = number("lsn_events_processed")?.unwrap_or(1);
                    Some(Partial { xid, commit, place: processed.unwrap_or(event), messages })
                }
                Some(_) | None => None,
            },
            (_, _, _) => return Err(unreadable("tailwater.upto", &serde_json::Value::Object(offset.clone()))),
        };
        let text = |key: &str| offset.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
        let log = match (text("tailwater.system"), number("tailwater.timeline")?.map(u32::try_from), text("tailwater.slot")) {
            (Some(system), Some(Ok(timeline)), Some(slot)) => Some(LogIdentity { system, timeline, slot }),
            (_, _, _) => None,
        };
        let through = lsn("tailwater.through")?.map_or(resume, |through| through.max(resume));
        Ok(Self { log, resume, through, last_commit, partial, snapshot, last })
    }
}

/// The error of stored state that is none.
pub(crate) fn unreadable(key: &str, value: &serde_json::Value) -> Error {
    Error::new(ErrorKind::Unreadable, "read the stored position").because(format!("its {key} is {value}")).mend(
        "restore the connector's offsets, or delete them (DELETE /connectors/NAME/offsets), which leads to a new snapshot: it tells \
             nothing of rows that were deleted meanwhile, so empty the targets first",
    )
}

/// The partition of the whole source.
pub(crate) fn server_partition(server: &str) -> JsonMap {
    let mut partition = JsonMap::new();
    partition.insert("server".into(), server.into());
    partition
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> JsonMap {
        serde_json::from_str(text).unwrap()
    }

    prop_compose! {
        fn positions()(
            log in proptest::option::of(("[0-9]{1,19}", any::<u32>(), "[a-z0-9_]{1,20}")),
            resume in any::<u64>(),
            held_back in any::<u32>(),
            last_commit in proptest::option::of(any::<u64>()),
            partial in proptest::option::of((proptest::option::of(any::<u64>()), any::<u32>(), any::<u64>(), any::<u64>())),
            snapshot in 0_usize..3,
            (lsn, xid, timestamp, kind) in (any::<u64>(), proptest::option::of(any::<u32>()), any::<i64>(), 0_usize..6),
        ) -> Position {
            let snapshot = [SnapshotProgress::Running, SnapshotProgress::Completed, SnapshotProgress::Streaming][snapshot];
            let streaming = snapshot == SnapshotProgress::Streaming;
            Position {
                log: log.map(|(system, timeline, slot)| LogIdentity { system, timeline, slot }),
                resume: Lsn::new(resume),
                through: Lsn::new(resume.saturating_add(held_back.into())),
                last_commit: last_commit.filter(|_| streaming).map(Lsn::new),
                partial: partial.map(|(commit, xid, place, messages)| {
                    Partial { xid, commit: commit.map(Lsn::new), place: Lsn::new(place), messages }
                }),
                snapshot,
                last: LastMessage {
                    lsn: Lsn::new(lsn),
                    xid,
                    timestamp,
                    kind: if streaming { MessageKind::ALL[kind] } else { MessageKind::Commit },
                },
            }
        }
    }

    proptest! {
        #[test]
        fn a_position_survives_its_stored_form(position in positions()) {
            prop_assert_eq!(Position::from_offset(&position.to_offset()).unwrap(), position);
        }
    }

    #[test]
    fn debeziums_completed_snapshot_is_taken_over() {
        let position = Position::from_offset(&map(
            r#"{"last_snapshot_record":true,"lsn":2940927792,"txId":58235,"ts_usec":1795229909533553,"snapshot":"INITIAL","snapshot_completed":true}"#,
        ))
        .unwrap();
        assert_eq!(position.snapshot, SnapshotProgress::Completed);
        assert_eq!((position.resume, position.partial, position.log), (Lsn::new(2_940_927_792), None, None));
    }

    #[test]
    fn debeziums_place_inside_a_transaction_is_taken_over() {
        let position = Position::from_offset(&map(
            r#"{"lsn_proc":2954365776,"messageType":"INSERT","lsn":2954365776,"lsn_commit":2954365000,"txId":58273,"ts_usec":1}"#,
        ))
        .unwrap();
        assert_eq!(position.resume, Lsn::new(2_954_365_000));
        assert_eq!(position.partial, Some(Partial { xid: 58273, commit: None, place: Lsn::new(2_954_365_776), messages: 1 }));
    }

    #[test]
    fn an_unfinished_snapshot_of_debezium_is_seen_as_running() {
        for text in [r#"{"lsn":1,"snapshot":true}"#, r#"{"lsn":1,"snapshot":"INITIAL","snapshot_completed":false}"#] {
            assert_eq!(Position::from_offset(&map(text)).unwrap().snapshot, SnapshotProgress::Running);
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["{}", r#"{"lsn":"x"}"#, r#"{"lsn":1,"tailwater.commit":3}"#, r#"{"lsn":1,"tailwater.xid":3,"tailwater.upto":1}"#] {
            assert_eq!(Position::from_offset(&map(text)).unwrap_err().kind(), ErrorKind::Unreadable, "{text}");
        }
    }
}
