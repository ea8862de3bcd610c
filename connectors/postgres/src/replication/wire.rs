//! Messages over a socket: a letter, a length, a body. For commands and answers; the stream of changes has a reader of
//! its own.

use bytes::{Buf, Bytes, BytesMut};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::refusal::Refusal;

/// The longest answer to a command; a timeline's history is the longest there is.
const LARGEST_ANSWER: usize = 16 << 20;

/// What a connection runs over: TCP, TLS or a Unix socket.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for S {}

/// A socket of any kind.
pub(super) type AnySocket = Box<dyn Socket>;

/// A socket with what was received and not yet read.
pub(super) struct Wire {
    socket: AnySocket,
    received: BytesMut,
    /// For error messages
    pub(super) user: String,
    pub(super) database: String,
}

impl Wire {
    pub(super) fn new(socket: AnySocket, user: &str, database: &str) -> Self {
        Self { socket, received: BytesMut::new(), user: user.to_owned(), database: database.to_owned() }
    }

    pub(super) async fn send(&mut self, messages: &[u8], doing: &str) -> Result<()> {
        self.socket.write_all(messages).await.map_err(|error| broken(doing, error))?;
        self.socket.flush().await.map_err(|error| broken(doing, error))
    }

    /// The next message: its letter and its body. An `ErrorResponse` is an error.
    pub(super) async fn receive(&mut self, doing: &str) -> Result<(u8, Bytes)> {
        match self.receive_any(doing).await? {
            (b'E', body) => Err(self.refused(&body, doing)),
            message => Ok(message),
        }
    }

    /// The next message, an `ErrorResponse` included.
    pub(super) async fn receive_any(&mut self, doing: &str) -> Result<(u8, Bytes)> {
        loop {
            if let Some(header) = self.received.first_chunk::<5>() {
                let length = message_length(header).filter(|length| *length <= LARGEST_ANSWER);
                let length =
                    length.ok_or_else(|| Error::new(ErrorKind::Unreadable, doing).because("the answer is no message of PostgreSQL"))?;
                if self.received.len() > length {
                    let mut message = self.received.split_to(length + 1);
                    let letter = message[0];
                    message.advance(5);
                    return Ok((letter, message.freeze()));
                }
            }
            if self.socket.read_buf(&mut self.received).await.map_err(|error| broken(doing, error))? == 0 {
                return Err(Error::new(ErrorKind::Unreachable, doing).because("the server closed the connection"));
            }
        }
    }

    pub(super) fn refused(&self, body: &[u8], doing: &str) -> Error {
        Refusal::parse(body).into_error(doing, &self.user, &self.database)
    }

    /// Takes the connection apart: what reads, with what was received already, and what writes.
    pub(super) fn split(self) -> (ReadHalf<AnySocket>, BytesMut, WriteHalf<AnySocket>) {
        let (read, write) = split(self.socket);
        (read, self.received, write)
    }
}

/// Octets of a message behind its letter, the four of the length included; `None` for what is no length.
pub(super) fn message_length(header: &[u8; 5]) -> Option<usize> {
    let [_, length @ ..] = header;
    usize::try_from(i32::from_be_bytes(*length)).ok().filter(|length| *length >= 4)
}

/// An error of the socket.
pub(super) fn broken(doing: &str, error: std::io::Error) -> Error {
    let kind = if error.kind() == std::io::ErrorKind::TimedOut { ErrorKind::TimedOut } else { ErrorKind::Unreachable };
    Error::new(kind, doing).because(error)
}
