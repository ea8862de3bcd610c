//! A transaction between its begin and its commit: which of its messages are durable since an earlier run (I3), and where
//! its events stand in it.
//!
//! What is durable of a transaction is told by a place in the log, and by how many of its messages at that place are: its messages come
//! in the order of their places, and the rows that one `COPY` writes share one. The mere number of messages would not do: between two
//! runs the server may leave some out that it sent before, and with them real rows would be dropped. It does so with the logical messages
//! of a subtransaction whose abort it did not know yet when it sent a part, and where the publication is another one.
//!
//! The place of a row is the beginning of its record, that of a logical message the end of its own (PostgreSQL 14 to 18, `decode.c`). So a
//! message and the row behind it may share a place, as the rows of one record do: the message comes first and is counted first. One
//! that does not come again, because its subtransaction was aborted, has no such row behind it: between the two stands the abort.

use bytestring::ByteString;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::transaction::TransactionOrder;

use crate::lsn::Lsn;
use crate::pgoutput::Begin;
use crate::position::Partial;
use crate::restart::resnapshot_without;

/// A transaction between its begin and its commit.
pub(crate) struct Transaction {
    pub(crate) xid: u32,
    /// Start of its commit record, by which it is told apart and held against anchors
    pub(crate) commit: Lsn,
    /// Microseconds since 1970 UTC
    pub(crate) timestamp: i64,
    skip: Skip,
    /// Where the last message stands that was counted, and how many of them stand there so far
    place: Lsn,
    at_place: u64,
    /// Whether that message, or all before the first, was durable since an earlier run
    is_behind: bool,
    pub(crate) origin: Option<(ByteString, Lsn)>,
    /// Whether a record came of it
    pub(crate) ours: bool,
    /// Counts its events where they tell their place in it
    pub(crate) order: Option<TransactionOrder>,
    /// Whether the record that says that it began is written
    pub(crate) told: bool,
}

/// Which messages of a transaction are durable since an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    Nothing,
    /// What stands before the place, and this many messages at it
    UpTo(Lsn, u64),
    /// All, and its end
    Whole,
}

impl Transaction {
    /// Begins; `counts` says whether its events tell their place in it.
    pub(crate) fn new(begin: Begin, skip: Skip, counts: bool) -> Self {
        // One id for all records of the transaction, also after a restart within it.
        let order = counts.then(|| TransactionOrder::new(format!("{}:{}", begin.xid, begin.final_lsn.as_u64()).into()));
        Self {
            xid: begin.xid,
            commit: begin.final_lsn,
            timestamp: begin.commit_time,
            skip,
            place: Lsn::INVALID,
            at_place: 0,
            is_behind: skip != Skip::Nothing,
            origin: None,
            ours: false,
            order,
            // With the first of its rows that became durable.
            told: skip != Skip::Nothing,
        }
    }

    /// Counts a row message or a logical one.
    pub(crate) fn count(&mut self, lsn: Lsn) {
        self.is_behind = self.is_next_durable(lsn);
        self.at_place = if self.place == lsn { self.at_place + 1 } else { 1 };
        self.place = lsn;
    }

    /// Whether the message that was counted last is durable since an earlier run.
    pub(crate) fn is_durable(&self) -> bool {
        self.is_behind
    }

    /// Whether the next message to be counted is, which stands at this place.
    pub(crate) fn is_next_durable(&self, lsn: Lsn) -> bool {
        match self.skip {
            Skip::Nothing => false,
            Skip::Whole => true,
            Skip::UpTo(place, messages) => lsn < place || lsn == place && (self.place < lsn || self.at_place < messages),
        }
    }

    /// Whether all of it is durable since an earlier run.
    pub(crate) fn is_whole_durable(&self) -> bool {
        self.skip == Skip::Whole
    }

    /// What a position says that is stored now.
    pub(crate) fn partial(&self) -> Option<Partial> {
        let (place, messages) = match self.skip {
            Skip::Whole => return None,
            // Never less than what is durable already.
            Skip::UpTo(place, messages) if self.is_behind => (place, messages),
            Skip::Nothing if self.at_place == 0 => return None,
            Skip::Nothing | Skip::UpTo(..) => (self.place, self.at_place),
        };
        Some(Partial { xid: self.xid, commit: Some(self.commit), place, messages })
    }
}

/// Holds a transaction against the one of which a part is durable: what of it is to be dropped, and the part that is still
/// waited for.
///
/// # Errors
/// `history-gone`: the server's log is another one.
pub(crate) fn recognise(expected: Option<Partial>, xid: u32, commit: Lsn) -> Result<(Skip, Option<Partial>)> {
    let Some(partial) = expected else { return Ok((Skip::Nothing, None)) };
    let skip = Skip::UpTo(partial.place, partial.messages);
    match partial.commit {
        Some(at) if commit == at && xid == partial.xid => Ok((skip, None)),
        Some(at) if commit == at => {
            Err(another_history(format!("the transaction committed at {at} is {xid}, but {} was half durable", partial.xid)))
        }
        // Without rows when the position was stored, for it stands before the half durable one.
        Some(at) if commit < at => Ok((Skip::Nothing, Some(partial))),
        Some(at) => Err(another_history(format!(
            "transaction {}, committed at {at}, is half durable, but the server does not send it again",
            partial.xid
        ))),
        None if xid == partial.xid => Ok((skip, None)),
        // Only messages up to a place would be dropped, so waiting on for it loses nothing.
        None => Ok((Skip::Nothing, Some(partial))),
    }
}

fn another_history(why: String) -> Error {
    Error::new(ErrorKind::HistoryGone, "continue inside a transaction").because(why).mend(resnapshot_without(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(xid: u32, commit: u64) -> Option<Partial> {
        Some(Partial { xid, commit: Some(Lsn::new(commit)), place: Lsn::new(50), messages: 2 })
    }

    const SKIP: Skip = Skip::UpTo(Lsn::new(50), 2);

    #[test]
    fn a_half_durable_transaction_is_recognised_by_xid_and_commit() {
        assert_eq!(recognise(ours(7, 100), 7, Lsn::new(100)).unwrap(), (SKIP, None));
        assert_eq!(recognise(ours(7, 100), 6, Lsn::new(90)).unwrap(), (Skip::Nothing, ours(7, 100)));
        assert_eq!(recognise(None, 7, Lsn::new(100)).unwrap(), (Skip::Nothing, None));
    }

    #[test]
    fn another_transaction_in_its_place_is_another_history() {
        for (xid, commit) in [(8, 100), (7, 101), (8, 101)] {
            let error = recognise(ours(7, 100), xid, Lsn::new(commit)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HistoryGone);
        }
    }

    #[test]
    fn debeziums_place_drops_only_messages_of_its_transaction() {
        let place = ours(7, 100).map(|partial| Partial { commit: None, ..partial });
        assert_eq!(recognise(place, 7, Lsn::new(100)).unwrap(), (SKIP, None));
        assert_eq!(recognise(place, 8, Lsn::new(100)).unwrap(), (Skip::Nothing, place));
    }

    /// Takes messages at these places and says which were durable, and what is stored behind the last.
    fn take(skip: Skip, places: &[u64]) -> (Vec<bool>, Option<(u64, u64)>) {
        let begin = Begin { final_lsn: Lsn::new(100), commit_time: 0, xid: 7 };
        let mut transaction = Transaction::new(begin, skip, false);
        let mut taken = Vec::new();
        for place in places {
            let foretold = transaction.is_next_durable(Lsn::new(*place));
            transaction.count(Lsn::new(*place));
            assert_eq!(transaction.is_durable(), foretold);
            taken.push(foretold);
        }
        (taken, transaction.partial().map(|partial| (partial.place.as_u64(), partial.messages)))
    }

    #[test]
    fn each_place_in_a_transaction_is_continued_behind_what_is_durable() {
        let places = [40, 50, 50, 50, 60, 60];
        for durable in 0..=places.len() {
            let (_, stored) = take(Skip::Nothing, &places[..durable]);
            let skip = stored.map_or(Skip::Nothing, |(place, messages)| Skip::UpTo(Lsn::new(place), messages));
            for again in 0..=places.len() {
                let (taken, then) = take(skip, &places[..again]);
                assert_eq!(taken, (0..again).map(|index| index < durable).collect::<Vec<_>>());
                assert_eq!(then, take(Skip::Nothing, &places[..again.max(durable)]).1, "never less than what is durable");
            }
        }
    }

    #[test]
    fn messages_that_do_not_come_again_cost_no_other() {
        let (_, stored) = take(Skip::Nothing, &[10, 20, 30, 40]);
        assert_eq!(stored, Some((40, 1)));
        assert_eq!(take(Skip::UpTo(Lsn::new(40), 1), &[10, 40, 50]).0, [true, true, false]);
        assert_eq!(take(Skip::UpTo(Lsn::new(40), 1), &[10, 50]).0, [true, false]);
    }
}
