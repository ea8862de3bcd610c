//! Transactions that are not committed yet, kept on disk until it is known how they end.
//!
//! The server sends a large transaction in parts while it is in progress, and one that is committed in two phases when it is
//! prepared (`pgoutput::control`). Nothing of it may reach the topic log before its commit, and all of it may not fit into memory
//! (I6): its messages go as they are into one file for each transaction, outside of the memory budget and bounded by
//! `spill.max.bytes`. The commit reads them back in order. An abort drops the file; the abort of a subtransaction is remembered,
//! and its changes are left out when the file is read.
//!
//! Files have no name from the moment they are made, so nothing of them is left after a crash, and nothing is synced: after a
//! crash the server sends the transaction again. Writing fills the page cache and rarely waits for the disk. At the end of each part
//! all of it is written, so that a file that cannot grow is noticed before the commit, when the server still has the transaction.
//!
//! Where a file cannot grow, the connection is made anew without parts, so that the server keeps such transactions itself. It
//! cannot be made to keep prepared ones: once it has decoded them for a slot when they were prepared, it does so for good.
//!
//! ```text
//! message   length u32, place u64, (sub)transaction u32 (0 for none), letter u8, content
//! ```

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use tailwater_api::metrics::Gauge;
use tailwater_api::{Error, ErrorKind, Result};

use crate::lsn::Lsn;
use crate::pgoutput::FramedMessage;

/// Octets before the letter of a message.
const HEADER: usize = 16;

/// All transactions that are not committed yet.
pub(crate) struct Spill {
    folder: PathBuf,
    limit: u64,
    used: u64,
    figure: Gauge,
    /// What is being sent, and of which transaction
    current: Option<(u32, Part)>,
    transactions: HashMap<u32, Spilled>,
}

/// What the messages that come are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A part of a transaction in progress
    InProgress,
    /// All of a transaction that was prepared
    Prepared,
}

struct Spilled {
    file: BufWriter<File>,
    octets: u64,
    aborted: HashSet<u32>,
    /// Tables of which the file holds a description
    described: HashSet<u32>,
}

/// Why a message could not be kept.
#[derive(Debug)]
pub(crate) enum Full {
    /// All that `spill.max.bytes` allows is used.
    Limit(u64),
    /// The file cannot be made or does not grow.
    Disk(io::Error),
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Limit(limit) => write!(f, "spill.max.bytes ({limit}) are used"),
            Self::Disk(error) => write!(f, "spill.directory: {error}"),
        }
    }
}

impl Spill {
    pub(crate) fn new(folder: PathBuf, limit: u64, figure: Gauge) -> Self {
        Self { folder, limit, used: 0, figure, current: None, transactions: HashMap::new() }
    }

    /// What is being sent.
    pub(crate) fn current(&self) -> Option<Part> {
        self.current.map(|(_, part)| part)
    }

    /// Whether something of the transaction was sent.
    pub(crate) fn keeps(&self, xid: u32) -> bool {
        self.transactions.contains_key(&xid)
    }

    /// A part of a transaction begins.
    pub(crate) fn start(&mut self, xid: u32, part: Part) -> Result<(), Full> {
        self.current = Some((xid, part));
        if !self.transactions.contains_key(&xid) {
            let file = tempfile::tempfile_in(&self.folder).map_err(Full::Disk)?;
            self.transactions.insert(
                xid,
                Spilled { file: BufWriter::with_capacity(64 << 10, file), octets: 0, aborted: HashSet::new(), described: HashSet::new() },
            );
        }
        Ok(())
    }

    /// The part ends. One that does not fit is still the one that is being sent.
    pub(crate) fn stop(&mut self) -> Result<(), Full> {
        if let Some(spilled) = self.current.and_then(|(xid, _)| self.transactions.get_mut(&xid)) {
            spilled.file.flush().map_err(Full::Disk)?;
        }
        self.current = None;
        Ok(())
    }

    /// Whether the part's transaction holds no description of this table yet. From now on it does.
    pub(crate) fn describe(&mut self, oid: u32) -> bool {
        let spilled = self.current.and_then(|(xid, _)| self.transactions.get_mut(&xid));
        spilled.is_some_and(|spilled| spilled.described.insert(oid))
    }

    /// Keeps a message of the part.
    pub(crate) fn append(&mut self, place: Lsn, message: &FramedMessage) -> Result<(), Full> {
        let Some(spilled) = self.current.and_then(|(xid, _)| self.transactions.get_mut(&xid)) else { return Ok(()) };
        let length = HEADER as u64 + 1 + message.content.len() as u64;
        if self.used + length > self.limit {
            return Err(Full::Limit(self.limit));
        }
        let mut header = BytesMut::with_capacity(HEADER + 1);
        // A message of the server has at most 256 MiB.
        header.put_u32(message.content.len() as u32);
        header.put_u64(place.as_u64());
        header.put_u32(message.xid.unwrap_or(0));
        header.put_u8(message.tag);
        spilled.file.write_all(&header).and_then(|()| spilled.file.write_all(&message.content)).map_err(Full::Disk)?;
        spilled.octets += length;
        self.used += length;
        self.figure.set(i64::try_from(self.used).unwrap_or(i64::MAX));
        Ok(())
    }

    /// The transaction, or a subtransaction of it, is aborted.
    pub(crate) fn abort(&mut self, xid: u32, subxid: u32) {
        if xid == subxid {
            self.forget(xid);
        } else if let Some(spilled) = self.transactions.get_mut(&xid) {
            spilled.aborted.insert(subxid);
        }
    }

    /// The transaction is committed: what it holds, in order. Its room is free at once, its file goes with the reader.
    ///
    /// # Errors
    /// `unreadable`: it is none that is known; `restarting`: its file cannot be read, and the server sends it again.
    pub(crate) fn commit(&mut self, xid: u32) -> Result<SpilledMessages> {
        let spilled = self.forget(xid).ok_or_else(|| unreadable(xid))?;
        let mut file = spilled.file.into_inner().map_err(|error| lost(xid, error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(|error| lost(xid, error))?;
        Ok(SpilledMessages { xid, file: BufReader::with_capacity(64 << 10, file), left: spilled.octets, aborted: spilled.aborted })
    }

    fn forget(&mut self, xid: u32) -> Option<Spilled> {
        let spilled = self.transactions.remove(&xid)?;
        self.used -= spilled.octets;
        self.figure.set(i64::try_from(self.used).unwrap_or(i64::MAX));
        Some(spilled)
    }
}

/// The messages of a committed transaction, without the changes of aborted subtransactions.
pub(crate) struct SpilledMessages {
    xid: u32,
    file: BufReader<File>,
    left: u64,
    aborted: HashSet<u32>,
}

impl SpilledMessages {
    /// The next message with its place, as it would have come in a whole transaction.
    ///
    /// # Errors
    /// `restarting`: the file does not hold what was written, and the server sends the transaction again.
    pub(crate) fn next(&mut self) -> Result<Option<(Lsn, Bytes)>> {
        while self.left > 0 {
            let (place, xid, payload) = self.read().map_err(|error| lost(self.xid, error))?;
            self.left -= (HEADER + payload.len()) as u64;
            let is_aborted = self.aborted.contains(&xid) && FramedMessage::is_change(payload[0]);
            if !is_aborted {
                return Ok(Some((place, payload)));
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> io::Result<(Lsn, u32, Bytes)> {
        let mut length = [0; 4];
        let mut place = [0; 8];
        let mut xid = [0; 4];
        self.file.read_exact(&mut length)?;
        self.file.read_exact(&mut place)?;
        self.file.read_exact(&mut xid)?;
        // The letter and the content.
        let mut payload = vec![0; u32::from_be_bytes(length) as usize + 1];
        self.file.read_exact(&mut payload)?;
        Ok((Lsn::new(u64::from_be_bytes(place)), u32::from_be_bytes(xid), payload.into()))
    }
}

fn unreadable(xid: u32) -> Error {
    Error::new(ErrorKind::Unreadable, doing(xid)).because("no part of it came")
}

fn lost(xid: u32, cause: io::Error) -> Error {
    Error::new(ErrorKind::Restarting, doing(xid))
        .because(cause)
        .mend("look at the disk of spill.directory, or name another one; the server sends the transaction again")
}

fn doing(xid: u32) -> String {
    format!("read transaction {xid}, which was kept until its commit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(xid: u32, tag: u8, text: &str) -> FramedMessage {
        FramedMessage { xid: Some(xid), tag, content: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn spill(limit: u64) -> Spill {
        Spill::new(std::env::temp_dir(), limit, Gauge::default())
    }

    fn all(mut messages: SpilledMessages) -> Vec<String> {
        let mut found = Vec::new();
        while let Some((place, payload)) = messages.next().unwrap() {
            found.push(format!("{} {}", place.as_u64(), String::from_utf8_lossy(&payload)));
        }
        found
    }

    #[test]
    fn interleaved_transactions_are_read_back_each_in_its_order() {
        let mut spill = spill(1000);
        for (xid, place, text) in [(7, 1, "a"), (8, 2, "b"), (7, 3, ""), (8, 4, "d")] {
            spill.start(xid, Part::InProgress).unwrap();
            spill.append(Lsn::new(place), &message(xid, b'I', text)).unwrap();
            spill.stop().unwrap();
        }
        assert_eq!(all(spill.commit(8).unwrap()), ["2 Ib", "4 Id"]);
        spill.abort(7, 7);
        assert_eq!(spill.used, 0);
        assert!(spill.commit(7).is_err());
    }

    #[test]
    fn changes_of_aborted_subtransactions_are_left_out_and_what_is_said_of_tables_stays() {
        let mut spill = spill(1000);
        spill.start(7, Part::InProgress).unwrap();
        for (xid, tag, text) in [(7, b'I', "a"), (9, b'R', "r"), (9, b'I', "b"), (9, b'M', "m"), (10, b'D', "c")] {
            spill.append(Lsn::new(1), &message(xid, tag, text)).unwrap();
        }
        spill.stop().unwrap();
        spill.abort(7, 9);
        assert_eq!(all(spill.commit(7).unwrap()), ["1 Ia", "1 Rr", "1 Dc"]);
    }

    #[test]
    fn a_file_that_cannot_grow_is_noticed_at_the_end_of_its_part() {
        let mut spill = spill(1000);
        spill.start(7, Part::Prepared).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        spill.transactions.get_mut(&7).unwrap().file = BufWriter::new(full);
        spill.append(Lsn::new(1), &message(7, b'I', "a")).unwrap();
        assert!(matches!(spill.stop(), Err(Full::Disk(_))));
        assert_eq!(spill.current(), Some(Part::Prepared));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut spill = spill(50);
        spill.start(7, Part::InProgress).unwrap();
        spill.append(Lsn::new(1), &message(7, b'I', "0123456789")).unwrap();
        assert!(matches!(spill.append(Lsn::new(1), &message(7, b'I', "0123456789")), Err(Full::Limit(50))));
        let missing = tempfile::tempdir().unwrap().path().join("missing");
        let mut nowhere = Spill::new(missing, 50, Gauge::default());
        assert!(matches!(nowhere.start(7, Part::Prepared), Err(Full::Disk(_))));
    }
}
