//! What version 2 of the protocol adds: transactions that are sent in parts while they are in progress.
//!
//! A part is framed by a start and a stop. Each message inside bears the number of the (sub)transaction that made it, between
//! its letter and its content; an origin bears none. Parts of several transactions and whole other transactions take
//! turns. At its end a transaction is committed or aborted by a message of its own, and so is each subtransaction of a
//! transaction in progress that is aborted.

use bytes::{Buf, Bytes};
use tailwater_api::{Error, ErrorKind, Result};

use super::{Commit, Fault, time};
use crate::lsn::Lsn;
use crate::octets::Octets;

/// The beginning or the end of a part, or of a transaction that came in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamControl {
    /// A part of this transaction begins.
    Start {
        /// The transaction
        xid: u32,
        /// Whether it is its first part
        first: bool,
    },
    /// The part ends.
    Stop,
    /// The transaction is committed.
    Commit {
        /// The transaction
        xid: u32,
        /// Where and when
        commit: Commit,
    },
    /// The transaction is aborted, or one of its subtransactions.
    Abort {
        /// The transaction
        xid: u32,
        /// What is aborted: itself or a subtransaction
        subxid: u32,
    },
}

impl StreamControl {
    /// Decodes the payload of one frame; `None` where it is a message of another kind.
    ///
    /// # Errors
    /// `unreadable`: the octets are no message of this protocol.
    pub fn decode(payload: &Bytes) -> Result<Option<Self>> {
        parse(payload).map_err(|fault| Error::new(ErrorKind::Unreadable, "decode the frame of a transaction in progress").because(fault))
    }
}

fn parse(payload: &Bytes) -> Result<Option<StreamControl>, Fault> {
    let mut octets = Octets::new(payload);
    let control = match octets.u8()? {
        b'S' => StreamControl::Start { xid: octets.u32()?, first: octets.u8()? != 0 },
        b'E' => StreamControl::Stop,
        b'c' => StreamControl::Commit {
            xid: octets.u32()?,
            commit: Commit {
                flags: octets.u8()?,
                commit_lsn: Lsn::new(octets.u64()?),
                end_lsn: Lsn::new(octets.u64()?),
                commit_time: time(&mut octets)?,
            },
        },
        b'A' => StreamControl::Abort { xid: octets.u32()?, subxid: octets.u32()? },
        // Whatever else it is, `Message` knows it or refuses it.
        _ => return Ok(None),
    };
    if octets.is_at_end() { Ok(Some(control)) } else { Err(Fault::TooLong) }
}

/// A message inside a part: who made it, its letter, and the content as `Message` knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamedMessage {
    /// The (sub)transaction; `None` for an origin
    pub xid: Option<u32>,
    /// The letter
    pub tag: u8,
    /// What follows
    pub content: Bytes,
}

impl StreamedMessage {
    /// Takes the payload of one frame apart.
    ///
    /// # Errors
    /// `unreadable`: it is too short.
    pub fn split(mut payload: Bytes) -> Result<Self> {
        let tag = payload.first().copied();
        let has_xid = tag != Some(b'O');
        let length = if has_xid { 5 } else { 1 };
        let Some(tag) = tag.filter(|_| payload.len() >= length) else {
            return Err(Error::new(ErrorKind::Unreadable, "decode a message of a transaction in progress").because("it ends too early"));
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

    use super::super::EPOCH_MICROSECONDS;
    use super::*;

    fn encoded(tag: u8, put: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(tag);
        put(&mut out);
        out.freeze()
    }

    #[test]
    fn parts_and_ends_are_told_apart() {
        let decode = |payload: &Bytes| StreamControl::decode(payload).unwrap();
        let start = encoded(b'S', |out| {
            out.put_u32(7);
            out.put_u8(1);
        });
        assert_eq!(decode(&start), Some(StreamControl::Start { xid: 7, first: true }));
        assert_eq!(decode(&Bytes::from_static(b"E")), Some(StreamControl::Stop));
        let abort = encoded(b'A', |out| {
            out.put_u32(7);
            out.put_u32(9);
        });
        assert_eq!(decode(&abort), Some(StreamControl::Abort { xid: 7, subxid: 9 }));
        let commit = encoded(b'c', |out| {
            out.put_u32(7);
            out.put_u8(0);
            out.put_u64(100);
            out.put_u64(120);
            out.put_i64(5 - EPOCH_MICROSECONDS);
        });
        let expected = Commit { flags: 0, commit_lsn: Lsn::new(100), end_lsn: Lsn::new(120), commit_time: 5 };
        assert_eq!(decode(&commit), Some(StreamControl::Commit { xid: 7, commit: expected }));
        assert_eq!(decode(&Bytes::from_static(b"B")), None);
        for payload in [&start, &abort, &commit] {
            assert!(StreamControl::decode(&payload.slice(..payload.len() - 1)).is_err());
            let longer = [payload, &b"x"[..]].concat();
            assert!(StreamControl::decode(&longer.into()).is_err());
        }
    }

    #[test]
    fn an_origin_bears_no_number() {
        let message = StreamedMessage::split(Bytes::from_static(b"O12345678name\0")).unwrap();
        assert_eq!((message.xid, message.tag, &message.content[..]), (None, b'O', &b"12345678name\0"[..]));
        let message = StreamedMessage::split(Bytes::from_static(b"I\0\0\0\x09rest")).unwrap();
        assert_eq!((message.xid, message.tag, &message.content[..]), (Some(9), b'I', &b"rest"[..]));
        assert!(StreamedMessage::split(Bytes::from_static(b"I\0\0\0")).is_err());
        assert!(StreamedMessage::split(Bytes::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_octets_are_decoded_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = StreamControl::decode(&octets.clone().into());
            let _ = StreamedMessage::split(octets.into());
        }
    }
}
