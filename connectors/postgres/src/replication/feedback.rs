//! Answers to the server: standby status updates (PostgreSQL 18, "Streaming Replication Protocol").
//!
//! The server reads them even while it waits for room to send, so a reader that is held up downstream loses no
//! connection as long as answers go on (I4). An answer confirms that the server may forget the log before a place; only
//! what is durable may be named (I1).

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BufMut;
use tailwater_api::Result;
use tokio::io::{AsyncWriteExt, WriteHalf};

use super::wire::{AnySocket, broken};
use crate::lsn::Lsn;
use crate::pgoutput::EPOCH_MICROSECONDS;

/// Sends answers; the writing half of a streaming connection.
pub struct FeedbackSender {
    write: WriteHalf<AnySocket>,
}

impl FeedbackSender {
    pub(super) fn new(write: WriteHalf<AnySocket>) -> Self {
        Self { write }
    }

    /// Tells the server that we are there, and up to where the log is written and flushed with us. What is flushed the server
    /// may forget; [`Lsn::INVALID`] confirms nothing. Not cancel-safe: a dropped call may leave half an answer on the wire.
    ///
    /// # Errors
    /// `unreachable`: the connection broke.
    pub async fn send(&mut self, written: Lsn, flushed: Lsn) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let message = status_update(written, flushed, now - EPOCH_MICROSECONDS);
        let sent = async {
            self.write.write_all(&message).await?;
            self.write.flush().await
        };
        sent.await.map_err(|error| broken("answer the server", error))
    }
}

/// CopyData with a status update: written, flushed and applied up to these places (what is flushed counts as applied), our clock
/// in microseconds since 2000, no answer wanted.
fn status_update(written: Lsn, flushed: Lsn, clock: i64) -> [u8; 39] {
    let mut message = [0; 39];
    let mut out = &mut message[..];
    out.put_u8(b'd');
    out.put_u32(38);
    out.put_u8(b'r');
    for place in [written, flushed, flushed] {
        out.put_u64(place.as_u64());
    }
    out.put_i64(clock);
    out.put_u8(0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_what_is_written_flushed_and_applied() {
        let message = status_update(Lsn::new(9), Lsn::new(0x0102_0304_0506_0708), 1);
        assert_eq!(&message[..6], b"d\0\0\0\x26r");
        assert_eq!(message[6..14], [0, 0, 0, 0, 0, 0, 0, 9]);
        for place in message[14..30].chunks(8) {
            assert_eq!(place, [1, 2, 3, 4, 5, 6, 7, 8]);
        }
        assert_eq!(&message[30..], [0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }
}
