//! What versions 2 to 4 of the protocol add: the frames of transactions that do not come whole after their commit.
//!
//! | letter | version | says |
//! |---|---|---|
//! | `S` `E` | 2 | a part of a transaction in progress begins, and ends |
//! | `c` `A` | 2 | such a transaction is committed; it, or one of its subtransactions, is aborted |
//! | `b` `P` | 3 | a transaction that is prepared for a commit in two phases begins, and ends |
//! | `p` | 3 | a transaction that came in parts is prepared |
//! | `K` `r` | 3 | a prepared transaction is committed, or rolled back |
//! | `A` | 4 | as before, with place and time of the abort, where `streaming` is `parallel` |
//!
//! Each message inside a part bears the number of the (sub)transaction that made it, between its letter and its content; an origin
//! bears none. Parts of several transactions and whole other transactions take turns. Between `b` and `P` messages are as
//! in a whole transaction, and nothing stands between them.

use bytes::{Buf, Bytes};
use tailwater_api::{Error, ErrorKind, Result};

use super::{Commit, Fault, time};
use crate::lsn::Lsn;
use crate::octets::Octets;

/// A version of the protocol, as `proto_version` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// Whole transactions
    V1,
    /// Transactions in progress, too (PostgreSQL 14)
    V2,
    /// Prepared transactions, too (PostgreSQL 15)
    V3,
    /// Aborts tell their place: with `streaming` as `parallel` (PostgreSQL 16)
    V4,
}

impl ProtocolVersion {
    /// The value of `proto_version`.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V3 => "3",
            Self::V4 => "4",
        }
    }
}

/// A transaction is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare<'a> {
    /// Where the record of its preparation begins
    pub prepare_lsn: Lsn,
    /// Where that ends
    pub end_lsn: Lsn,
    /// When it was prepared, microseconds since 1970 UTC
    pub prepare_time: i64,
    /// The transaction
    pub xid: u32,
    /// Its name
    pub gid: &'a str,
}

/// The frame of a transaction that does not come whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionControl<'a> {
    /// A part of this transaction begins.
    StreamStart {
        /// The transaction
        xid: u32,
        /// Whether it is its first part
        first: bool,
    },
    /// The part ends.
    StreamStop,
    /// The transaction, which came in parts, is committed.
    StreamCommit {
        /// The transaction
        xid: u32,
        /// Where and when
        commit: Commit,
    },
    /// The transaction, which comes in parts, is aborted, or one of its subtransactions.
    StreamAbort {
        /// The transaction
        xid: u32,
        /// What is aborted: itself or a subtransaction
        subxid: u32,
        /// Place and time (microseconds since 1970 UTC) of the abort; only version 4 tells
        at: Option<(Lsn, i64)>,
    },
    /// The transaction, which came in parts, is prepared.
    StreamPrepare(Prepare<'a>),
    /// What follows is of a transaction that is prepared.
    BeginPrepare(Prepare<'a>),
    /// That was all of it.
    Prepare(Prepare<'a>),
    /// A prepared transaction is committed.
    CommitPrepared {
        /// The transaction
        xid: u32,
        /// Its name
        gid: &'a str,
        /// Where and when
        commit: Commit,
    },
    /// A prepared transaction is rolled back.
    RollbackPrepared {
        /// The transaction
        xid: u32,
        /// Its name
        gid: &'a str,
        /// Where the record of its preparation ends
        prepare_end_lsn: Lsn,
        /// Where the record of its end ends
        end_lsn: Lsn,
        /// When it was prepared, microseconds since 1970 UTC
        prepare_time: i64,
        /// When it was rolled back
        rollback_time: i64,
    },
}

impl<'a> TransactionControl<'a> {
    /// Decodes the payload of one frame; `None` where it is a message of another kind, or of a later version.
    ///
    /// # Errors
    /// `unreadable`: the octets are no message of this protocol.
    pub fn decode(payload: &'a Bytes, version: ProtocolVersion) -> Result<Option<Self>> {
        parse(payload, version).map_err(|fault| {
            let kind = payload.first().map_or_else(|| "without content".to_owned(), |tag| format!("of kind '{}'", tag.escape_ascii()));
            Error::new(ErrorKind::Unreadable, format!("decode a message {kind} that frames a transaction")).because(fault)
        })
    }
}

fn parse(payload: &Bytes, version: ProtocolVersion) -> Result<Option<TransactionControl<'_>>, Fault> {
    let mut octets = Octets::new(payload);
    let (in_parts, two_phase) = (version >= ProtocolVersion::V2, version >= ProtocolVersion::V3);
    let control = match octets.u8()? {
        b'S' if in_parts => TransactionControl::StreamStart { xid: octets.u32()?, first: octets.u8()? != 0 },
        b'E' if in_parts => TransactionControl::StreamStop,
        b'c' if in_parts => TransactionControl::StreamCommit { xid: octets.u32()?, commit: commit(&mut octets)? },
        b'A' if in_parts => {
            let (xid, subxid) = (octets.u32()?, octets.u32()?);
            let at = if version >= ProtocolVersion::V4 { Some((Lsn::new(octets.u64()?), time(&mut octets)?)) } else { None };
            TransactionControl::StreamAbort { xid, subxid, at }
        }
        b'b' if two_phase => TransactionControl::BeginPrepare(prepare(&mut octets)?),
        b'P' if two_phase => {
            let _flags = octets.u8()?;
            TransactionControl::Prepare(prepare(&mut octets)?)
        }
        b'p' if two_phase => {
            let _flags = octets.u8()?;
            TransactionControl::StreamPrepare(prepare(&mut octets)?)
        }
        b'K' if two_phase => {
            let commit = commit(&mut octets)?;
            TransactionControl::CommitPrepared { commit, xid: octets.u32()?, gid: octets.text()? }
        }
        b'r' if two_phase => {
            let _flags = octets.u8()?;
            TransactionControl::RollbackPrepared {
                prepare_end_lsn: Lsn::new(octets.u64()?),
                end_lsn: Lsn::new(octets.u64()?),
                prepare_time: time(&mut octets)?,
                rollback_time: time(&mut octets)?,
                xid: octets.u32()?,
                gid: octets.text()?,
            }
        }
        // Whatever else it is, `Message` knows it or refuses it.
        _ => return Ok(None),
    };
    if octets.is_at_end() { Ok(Some(control)) } else { Err(Fault::TooLong) }
}

/// Flags, places and time, which begin a commit of each kind.
pub(super) fn commit(octets: &mut Octets<'_>) -> Result<Commit, Fault> {
    Ok(Commit { flags: octets.u8()?, commit_lsn: Lsn::new(octets.u64()?), end_lsn: Lsn::new(octets.u64()?), commit_time: time(octets)? })
}

fn prepare<'a>(octets: &mut Octets<'a>) -> Result<Prepare<'a>, Fault> {
    Ok(Prepare {
        prepare_lsn: Lsn::new(octets.u64()?),
        end_lsn: Lsn::new(octets.u64()?),
        prepare_time: time(octets)?,
        xid: octets.u32()?,
        gid: octets.text()?,
    })
}

/// A message of a transaction that does not come whole: who made it, its letter, and the content as `Message` knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramedMessage {
    /// The (sub)transaction; `None` where the message does not say it
    pub xid: Option<u32>,
    /// The letter
    pub tag: u8,
    /// What follows
    pub content: Bytes,
}

impl FramedMessage {
    /// Takes the payload of one frame of a part apart.
    ///
    /// # Errors
    /// `unreadable`: it is too short.
    pub fn of_part(payload: Bytes) -> Result<Self> {
        let has_xid = payload.first() != Some(&b'O');
        Self::split(payload, has_xid)
    }

    /// Takes the payload of one frame of a transaction apart that comes as a whole: prepared or committed.
    ///
    /// # Errors
    /// `unreadable`: it is too short.
    pub fn of_whole(payload: Bytes) -> Result<Self> {
        Self::split(payload, false)
    }

    fn split(mut payload: Bytes, has_xid: bool) -> Result<Self> {
        let length = if has_xid { 5 } else { 1 };
        let Some(tag) = payload.first().copied().filter(|_| payload.len() >= length) else {
            return Err(
                Error::new(ErrorKind::Unreadable, "decode a message of a transaction that is not whole").because("it ends too early")
            );
        };
        let xid = payload.get(1..5).filter(|_| has_xid).and_then(|octets| octets.first_chunk()).map(|octets| u32::from_be_bytes(*octets));
        payload.advance(length);
        Ok(Self { xid, tag, content: payload })
    }

    /// Whether the message is a change and so goes with its subtransaction where that is aborted. What is said of tables and
    /// types stays: the server does not say it again.
    #[must_use]
    pub fn is_change(tag: u8) -> bool {
        !matches!(tag, b'R' | b'Y' | b'O')
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::super::{EPOCH_MICROSECONDS, Message};
    use super::*;

    const ALL: [ProtocolVersion; 4] = [ProtocolVersion::V1, ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::V4];

    /// Numbers of eight and of four octets, one octet, a name: what a message consists of.
    enum Part {
        Eight(u64),
        Four(u32),
        One(u8),
        Name(&'static str),
    }
    use Part::{Eight, Four, Name, One};

    fn message(tag: u8, parts: &[Part]) -> Bytes {
        let mut octets = BytesMut::new();
        octets.put_u8(tag);
        for part in parts {
            match part {
                Eight(number) => octets.put_u64(*number),
                Four(number) => octets.put_u32(*number),
                One(octet) => octets.put_u8(*octet),
                Name(text) => {
                    octets.put_slice(text.as_bytes());
                    octets.put_u8(0);
                }
            }
        }
        octets.freeze()
    }

    /// Each message by the version that brings it, as the documentation of PostgreSQL 18 ("Logical Replication Message Formats")
    /// lays it out.
    fn golden() -> Vec<(ProtocolVersion, Bytes, TransactionControl<'static>)> {
        use ProtocolVersion::{V2, V3, V4};
        let commit = Commit { flags: 0, commit_lsn: Lsn::new(0x0102), end_lsn: Lsn::new(0x0304), commit_time: EPOCH_MICROSECONDS + 5 };
        let prepare = Prepare {
            prepare_lsn: Lsn::new(0x0102),
            end_lsn: Lsn::new(0x0304),
            prepare_time: EPOCH_MICROSECONDS + 5,
            xid: 7,
            gid: "it's größer",
        };
        let prepared = [Eight(0x0102), Eight(0x0304), Eight(5), Four(7), Name("it's größer")];
        let flagged = [One(0), Eight(0x0102), Eight(0x0304), Eight(5), Four(7), Name("it's größer")];
        let rolled_back = [One(0), Eight(0x0304), Eight(0x0506), Eight(5), Eight(6), Four(7), Name("g")];
        vec![
            (V2, Bytes::from_static(b"S\0\0\0\x07\x01"), TransactionControl::StreamStart { xid: 7, first: true }),
            (V2, Bytes::from_static(b"S\0\0\0\x07\x00"), TransactionControl::StreamStart { xid: 7, first: false }),
            (V2, Bytes::from_static(b"E"), TransactionControl::StreamStop),
            (
                V2,
                message(b'c', &[Four(7), One(0), Eight(0x0102), Eight(0x0304), Eight(5)]),
                TransactionControl::StreamCommit { xid: 7, commit },
            ),
            (V3, message(b'b', &prepared), TransactionControl::BeginPrepare(prepare)),
            (V3, message(b'P', &flagged), TransactionControl::Prepare(prepare)),
            (V3, message(b'p', &flagged), TransactionControl::StreamPrepare(prepare)),
            (V3, message(b'K', &flagged), TransactionControl::CommitPrepared { xid: 7, gid: "it's größer", commit }),
            (
                V3,
                message(b'r', &rolled_back),
                TransactionControl::RollbackPrepared {
                    xid: 7,
                    gid: "g",
                    prepare_end_lsn: Lsn::new(0x0304),
                    end_lsn: Lsn::new(0x0506),
                    prepare_time: EPOCH_MICROSECONDS + 5,
                    rollback_time: EPOCH_MICROSECONDS + 6,
                },
            ),
            (
                V4,
                message(b'A', &[Four(7), Four(9), Eight(0x0506), Eight(6)]),
                TransactionControl::StreamAbort { xid: 7, subxid: 9, at: Some((Lsn::new(0x0506), EPOCH_MICROSECONDS + 6)) },
            ),
        ]
    }

    #[test]
    fn frames_of_transactions_are_read_from_the_version_on_that_brings_them() {
        for (since, payload, expected) in golden() {
            for version in ALL {
                let decoded = TransactionControl::decode(&payload, version);
                if version >= since {
                    assert_eq!(decoded.unwrap(), Some(expected), "{version:?}");
                } else if payload[0] != b'A' {
                    assert_eq!(decoded.unwrap(), None, "{version:?}");
                    let error = Message::decode(&payload).unwrap_err();
                    assert!(error.to_string().contains("unknown"), "{error}");
                }
            }
        }
        // A row is none of theirs.
        let row = message(b'I', &[Four(7)]);
        for version in ALL {
            assert_eq!(TransactionControl::decode(&row, version).unwrap(), None);
        }
    }

    #[test]
    fn an_abort_tells_its_place_in_version_4_only() {
        let old = message(b'A', &[Four(7), Four(9)]);
        let expected = Some(TransactionControl::StreamAbort { xid: 7, subxid: 9, at: None });
        for version in [ProtocolVersion::V2, ProtocolVersion::V3] {
            assert_eq!(TransactionControl::decode(&old, version).unwrap(), expected);
            let new = message(b'A', &[Four(7), Four(9), Eight(1), Eight(2)]);
            assert!(TransactionControl::decode(&new, version).is_err());
        }
        assert!(TransactionControl::decode(&old, ProtocolVersion::V4).is_err());
    }

    #[test]
    fn a_frame_that_is_cut_or_goes_on_is_refused() {
        for (_, payload, _) in golden() {
            for end in 0..payload.len() {
                let error = TransactionControl::decode(&payload.slice(..end), ProtocolVersion::V4).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unreadable);
            }
            let longer = [&payload[..], b"\0"].concat();
            assert!(TransactionControl::decode(&longer.into(), ProtocolVersion::V4).is_err());
        }
        let unreadable = message(b'K', &[One(0), Eight(1), Eight(2), Eight(3), Four(7), One(0xff), One(0)]);
        assert!(TransactionControl::decode(&unreadable, ProtocolVersion::V3).is_err(), "a name that is not UTF-8");
    }

    #[test]
    fn messages_of_a_part_bear_a_number_but_for_origins_and_those_of_whole_transactions_none() {
        let message = FramedMessage::of_part(Bytes::from_static(b"O12345678name\0")).unwrap();
        assert_eq!((message.xid, message.tag, &message.content[..]), (None, b'O', &b"12345678name\0"[..]));
        let message = FramedMessage::of_part(Bytes::from_static(b"I\0\0\0\x09rest")).unwrap();
        assert_eq!((message.xid, message.tag, &message.content[..]), (Some(9), b'I', &b"rest"[..]));
        let message = FramedMessage::of_whole(Bytes::from_static(b"I\0\0\0\x09rest")).unwrap();
        assert_eq!((message.xid, message.tag, &message.content[..]), (None, b'I', &b"\0\0\0\x09rest"[..]));
        assert!(FramedMessage::of_part(Bytes::from_static(b"I\0\0\0")).is_err());
        assert!(FramedMessage::of_part(Bytes::new()).is_err());
        assert!(FramedMessage::of_whole(Bytes::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_octets_are_decoded_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..60), tag in prop::sample::select(b"SEcAbPpKr".to_vec())) {
            let mut tagged = vec![tag];
            tagged.extend_from_slice(&octets);
            for payload in [Bytes::from(octets), Bytes::from(tagged)] {
                for version in ALL {
                    let _ = TransactionControl::decode(&payload, version);
                }
                let _ = FramedMessage::of_part(payload.clone());
                let _ = FramedMessage::of_whole(payload);
            }
        }
    }
}
