//! Reading the stream of changes.
//!
//! Octets are read into one large buffer; each message is split off its front and shares it, so that a frame costs one
//! count of a reference and no copy. A message that is not whole yet stays where it is; when the buffer is full and still
//! shared with frames that somebody holds, a new one is begun with what is left.
//!
//! A message is a change with its old and its new row, and as long as they are, up to a gibibyte. It is the one thing that is received
//! before there is room for it in the budget: what a change needs is known when it is there. The next one is read when the budget has
//! granted what this one weighs (I6).
//!
//! Under backlog the socket sees to it that reads coalesce (see [`super::paced`]).
//!
//! The server ends a stream with `CopyDone` or, when it shuts down, with `CommandComplete`; both end ours without an error.

use bytes::{Buf, Bytes, BytesMut};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, ReadHalf};
use tracing::warn;

use super::refusal::{AWAITED_STANDBY_REMEDY, Refusal, publication_remedy};
use super::wire::{AnySocket, broken, message_length};
use crate::lsn::Lsn;
use crate::octets::{Malformed, Octets};
use crate::pgoutput::EPOCH_MICROSECONDS;

/// Room for one read.
const READ: usize = 128 << 10;
/// The longest message: the server builds each in a buffer of less than a gibibyte (`MaxAllocSize`), and the length counts itself.
const LONGEST_MESSAGE: usize = (1 << 30) + 4;

const DOING: &str = "read the stream of changes";

/// What the server streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message of the output plug-in
    Data {
        /// Where the change stands in the log
        wal_start: Lsn,
        /// End of the server's log as it was when this was sent
        wal_end: Lsn,
        /// The server's clock, microseconds since 1970 UTC
        sent_at: i64,
        /// The plug-in's message, sharing the buffer that it was received in
        payload: Bytes,
    },
    /// A sign of life
    Keepalive {
        /// Up to here everything that the slot sends was sent.
        wal_end: Lsn,
        /// The server's clock, microseconds since 1970 UTC
        sent_at: i64,
        /// Whether the server wants an answer at once, or else will close the connection
        reply_requested: bool,
    },
}

/// The reading half of a streaming connection.
pub struct ReplicationStream {
    read: ReadHalf<AnySocket>,
    received: BytesMut,
    ended: bool,
    /// Whether the server has said that it waits for a standby, and has sent nothing since
    awaits_standby: bool,
    user: String,
    database: String,
}

impl ReplicationStream {
    pub(super) fn new(read: ReadHalf<AnySocket>, received: BytesMut, user: String, database: String) -> Self {
        Self { read, received, ended: false, awaits_standby: false, user, database }
    }

    /// The next frame; `None` when the server has ended the stream. Cancel-safe. Completes at once while frames are
    /// in the buffer.
    ///
    /// # Errors
    /// What the server refuses, such as a publication that does not exist (`missing`); `restarting` when it shuts down
    /// at once; `unreachable` when the connection breaks; `unreadable` for what is no message.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.split_off()? {
                Some(Message::Frame(frame)) => return Ok(Some(frame)),
                Some(Message::End) => self.ended = true,
                Some(Message::Aside) => {}
                None => self.fill().await?,
            }
        }
    }

    /// Splits the first message off what was received; `None` where it is not whole.
    fn split_off(&mut self) -> Result<Option<Message>> {
        let Some(header) = self.received.first_chunk::<5>() else { return Ok(None) };
        let Some(length) = message_length(header) else { return Err(unreadable("a length is negative")) };
        if length > LONGEST_MESSAGE {
            return Err(unreadable(format!("no server sends a message of {length} octets")));
        }
        let missing = (length + 1).saturating_sub(self.received.len());
        if missing > 0 {
            self.received.reserve(missing);
            return Ok(None);
        }
        let mut message = self.received.split_to(length + 1).freeze();
        let letter = message[0];
        message.advance(5);
        match letter {
            b'd' => {
                let frame = Frame::parse(message)?;
                self.awaits_standby &= !matches!(frame, Frame::Data { .. });
                Ok(Some(Message::Frame(frame)))
            }
            b'c' | b'C' => Ok(Some(Message::End)),
            b'E' => Err(Refusal::parse(&message).into_error(DOING, &self.user, &self.database)),
            b'N' => match Refusal::parse(&message) {
                // I11: this is how PostgreSQL 18 says that it leaves out changes.
                notice if notice.is_of_missing_publication() => {
                    Err(Error::new(ErrorKind::Missing, DOING).because(notice).mend(publication_remedy()))
                }
                notice => {
                    // The server says it each time that it looks.
                    if notice.is_of_awaited_standby() && !std::mem::replace(&mut self.awaits_standby, true) {
                        warn!("the server holds changes back until a standby has them: {notice}. To mend it: {AWAITED_STANDBY_REMEDY}");
                    }
                    Ok(Some(Message::Aside))
                }
            },
            // A setting that changed: no part of the stream.
            b'S' => Ok(Some(Message::Aside)),
            other => Err(unreadable(format!("a message of kind '{}' is none of a stream", other.escape_ascii()))),
        }
    }

    async fn fill(&mut self) -> Result<()> {
        if self.received.capacity() - self.received.len() < READ / 4 {
            self.received.reserve(READ);
        }
        match self.read.read_buf(&mut self.received).await.map_err(|error| broken(DOING, error))? {
            0 => Err(Error::new(ErrorKind::Unreachable, DOING).because("the server closed the connection")),
            _ => Ok(()),
        }
    }
}

enum Message {
    Frame(Frame),
    End,
    Aside,
}

fn unreadable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unreadable, DOING).because(cause)
}

impl Frame {
    /// Reads the body of a `CopyData`; the payload shares it.
    ///
    /// # Errors
    /// `unreadable`: it is neither a change nor a sign of life.
    pub fn parse(mut body: Bytes) -> Result<Self> {
        let mut octets = Octets::new(&body);
        let time = |octets: &mut Octets<'_>| Ok::<_, Malformed>(octets.i64()?.saturating_add(EPOCH_MICROSECONDS));
        match octets.u8().map_err(unreadable)? {
            b'w' => {
                let mut header = || Ok((octets.u64()?, octets.u64()?, time(&mut octets)?, octets.position()));
                let (wal_start, wal_end, sent_at, length) = header().map_err(|malformed: Malformed| unreadable(malformed))?;
                body.advance(length);
                Ok(Self::Data { wal_start: Lsn::new(wal_start), wal_end: Lsn::new(wal_end), sent_at, payload: body })
            }
            b'k' => {
                let mut fields = || Ok((octets.u64()?, time(&mut octets)?, octets.u8()?));
                let (wal_end, sent_at, reply) = fields().map_err(|malformed: Malformed| unreadable(malformed))?;
                Ok(Self::Keepalive { wal_end: Lsn::new(wal_end), sent_at, reply_requested: reply != 0 })
            }
            // I11
            other => Err(unreadable(format!("frames of kind '{}' are unknown", other.escape_ascii()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, duplex, split};

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let time = EPOCH_MICROSECONDS..4_000_000_000_000_000_i64;
        prop_oneof![
            (any::<u64>(), any::<u64>(), time.clone(), proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
                |(start, end, sent_at, payload)| {
                    Frame::Data { wal_start: Lsn::new(start), wal_end: Lsn::new(end), sent_at, payload: payload.into() }
                }
            ),
            (any::<u64>(), time, any::<bool>()).prop_map(|(end, sent_at, reply_requested)| Frame::Keepalive {
                wal_end: Lsn::new(end),
                sent_at,
                reply_requested
            }),
        ]
    }

    fn encode(frame: &Frame, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match frame {
            Frame::Data { wal_start, wal_end, sent_at, payload } => {
                body.put_u8(b'w');
                body.put_u64(wal_start.as_u64());
                body.put_u64(wal_end.as_u64());
                body.put_i64(sent_at - EPOCH_MICROSECONDS);
                body.put_slice(payload);
            }
            Frame::Keepalive { wal_end, sent_at, reply_requested } => {
                body.put_u8(b'k');
                body.put_u64(wal_end.as_u64());
                body.put_i64(sent_at - EPOCH_MICROSECONDS);
                body.put_u8((*reply_requested).into());
            }
        }
        message(b'd', &body, out);
    }

    fn message(letter: u8, body: &[u8], out: &mut Vec<u8>) {
        out.put_u8(letter);
        out.put_u32(body.len() as u32 + 4);
        out.put_slice(body);
    }

    fn stream(socket: tokio::io::DuplexStream) -> ReplicationStream {
        let socket: AnySocket = Box::new(socket);
        ReplicationStream::new(split(socket).0, BytesMut::new(), "cdc".into(), "shop".into())
    }

    async fn read_all(octets: Vec<u8>, piece: usize) -> Result<Vec<Frame>> {
        let (mut server, client) = duplex(1 << 16);
        let sending = async move {
            for piece in octets.chunks(piece) {
                // A reader that refuses what it read is gone.
                if server.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            // Kept until the reader is done, so that the end is the server's word.
            server
        };
        let reading = async {
            let mut stream = stream(client);
            let mut frames = Vec::new();
            loop {
                // A dropped call loses nothing.
                let polled = futures_util::FutureExt::now_or_never(stream.next());
                let next = match polled {
                    Some(next) => next,
                    None => stream.next().await,
                };
                match next? {
                    Some(frame) => frames.push(frame),
                    None => return Ok(frames),
                }
            }
        };
        let (_server, frames) = tokio::join!(sending, reading);
        frames
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn frames_are_found_wherever_the_octets_are_cut(frames in proptest::collection::vec(frame(), 0..12), piece in 1_usize..700) {
            let mut octets = Vec::new();
            for frame in &frames {
                encode(frame, &mut octets);
            }
            message(b'N', b"SNOTICE\0\0", &mut octets);
            message(b'c', b"", &mut octets);
            prop_assert_eq!(run(read_all(octets, piece)).unwrap(), frames);
        }

        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut framed = Vec::new();
            message(b'd', &octets, &mut framed);
            message(b'c', b"", &mut framed);
            let _ = run(read_all(framed, 50));
        }
    }

    #[test]
    fn a_stream_ends_in_the_words_of_the_server() {
        let mut shut_down = Vec::new();
        message(b'E', b"SFATAL\0C57P01\0Mterminating walsender process\0\0", &mut shut_down);
        assert_eq!(run(read_all(shut_down, 10)).unwrap_err().kind(), ErrorKind::Restarting);
        let mut unknown = Vec::new();
        message(b'd', b"x", &mut unknown);
        assert_eq!(run(read_all(unknown, 10)).unwrap_err().kind(), ErrorKind::Unreadable);
        let endless = vec![b'd', 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(run(read_all(endless, 10)).unwrap_err().kind(), ErrorKind::Unreadable);
    }

    #[test]
    fn what_is_left_out_for_want_of_a_publication_ends_the_stream_and_a_wait_for_a_standby_does_not() {
        let warned = |routine: &str| {
            let mut octets = Vec::new();
            message(b'N', format!("SWARNUNG\0C55000\0Min einer Sprache\0R{routine}\0\0").as_bytes(), &mut octets);
            message(b'c', b"", &mut octets);
            run(read_all(octets, 10))
        };
        assert_eq!(warned("LoadPublications").unwrap_err().kind(), ErrorKind::Missing);
        assert_eq!(warned("StandbySlotsHaveCaughtup").unwrap(), []);
    }

    #[test]
    fn a_broken_connection_is_no_end_of_the_stream() {
        let error = run(async {
            let (server, client) = duplex(64);
            drop(server);
            stream(client).next().await.unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}
