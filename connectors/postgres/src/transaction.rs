//! A transaction between its begin and its commit: which of its messages are durable since an earlier run (I3), and where
//! its events stand in it.

use bytestring::ByteString;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::transaction::TransactionOrder;

use crate::lsn::Lsn;
use crate::pgoutput::Begin;
use crate::position::Partial;

/// A transaction between its begin and its commit.
pub(crate) struct Transaction {
    pub(crate) xid: u32,
    /// Start of its commit record, by which it is told apart and held against anchors
    pub(crate) commit: Lsn,
    /// Microseconds since 1970 UTC
    pub(crate) timestamp: i64,
    /// Row messages so far
    pub(crate) rows: u64,
    skip: Skip,
    /// Messages so far that stand at the place up to which it is durable
    at_place: u64,
    /// Whether the last message was durable since an earlier run
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
    Rows(u64),
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
            rows: 0,
            skip,
            at_place: 0,
            is_behind: skip != Skip::Nothing,
            origin: None,
            ours: false,
            order,
            // With the first of its rows that became durable.
            told: skip != Skip::Nothing,
        }
    }

    /// Whether the message that was just counted is durable since an earlier run.
    pub(crate) fn is_durable(&mut self, lsn: Lsn) -> bool {
        self.is_behind = match self.skip {
            Skip::Nothing => false,
            Skip::Whole => true,
            Skip::Rows(rows) => self.rows <= rows,
            Skip::UpTo(place, messages) => {
                self.at_place += u64::from(lsn == place);
                lsn < place || lsn == place && self.at_place <= messages
            }
        };
        self.is_behind
    }

    /// Whether the next message to be counted is durable since an earlier run, as far as that is known before it comes.
    pub(crate) fn is_next_durable(&self) -> bool {
        match self.skip {
            Skip::Rows(rows) => self.rows < rows,
            Skip::Whole => true,
            Skip::Nothing | Skip::UpTo(..) => false,
        }
    }

    /// Whether all of it is durable since an earlier run.
    pub(crate) fn is_whole_durable(&self) -> bool {
        self.skip == Skip::Whole
    }

    /// What a position says that is stored now.
    pub(crate) fn partial(&self) -> Option<Partial> {
        let rows = match self.skip {
            Skip::Whole => return None,
            // How many rows that are is not known before the first one behind them.
            Skip::UpTo(lsn, messages) if self.is_behind => return Some(Partial::UpTo { xid: self.xid, lsn, messages }),
            Skip::Nothing if self.rows == 0 => return None,
            Skip::Nothing | Skip::UpTo(..) => self.rows,
            // Never less than what is durable already.
            Skip::Rows(durable) => self.rows.max(durable),
        };
        Some(Partial::Rows { xid: self.xid, commit: self.commit, rows })
    }
}

/// Holds a transaction against the one of which a part is durable: what of it is to be dropped, and the part that is still
/// waited for.
///
/// # Errors
/// `history-gone`: the server's log is another one.
pub(crate) fn recognise(expected: Option<Partial>, xid: u32, commit: Lsn) -> Result<(Skip, Option<Partial>)> {
    match expected {
        None => Ok((Skip::Nothing, None)),
        Some(Partial::Rows { xid: stored, commit: at, rows }) if commit == at => {
            if stored == xid {
                Ok((Skip::Rows(rows), None))
            } else {
                Err(another_history(format!("the transaction committed at {at} is {xid}, but {stored} was half durable")))
            }
        }
        // Without rows when the position was stored, for it stands before the half durable one.
        Some(partial @ Partial::Rows { commit: at, .. }) if commit < at => Ok((Skip::Nothing, Some(partial))),
        Some(Partial::Rows { xid: stored, commit: at, .. }) => {
            Err(another_history(format!("transaction {stored}, committed at {at}, is half durable, but the server does not send it again")))
        }
        Some(Partial::UpTo { xid: stored, lsn, messages }) if stored == xid => Ok((Skip::UpTo(lsn, messages), None)),
        // Only rows at or before a place would be dropped, so waiting on for it loses nothing.
        Some(partial @ Partial::UpTo { .. }) => Ok((Skip::Nothing, Some(partial))),
    }
}

fn another_history(why: String) -> Error {
    Error::new(ErrorKind::HistoryGone, "continue inside a transaction")
        .because(why)
        .mend("set snapshot.mode to when_needed, or delete the connector's offsets (DELETE /connectors/NAME/offsets)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(xid: u32, commit: u64, rows: u64) -> Option<Partial> {
        Some(Partial::Rows { xid, commit: Lsn::new(commit), rows })
    }

    #[test]
    fn a_half_durable_transaction_is_recognised_by_xid_and_commit() {
        assert_eq!(recognise(rows(7, 100, 3), 7, Lsn::new(100)).unwrap(), (Skip::Rows(3), None));
        assert_eq!(recognise(rows(7, 100, 3), 6, Lsn::new(90)).unwrap(), (Skip::Nothing, rows(7, 100, 3)));
        assert_eq!(recognise(None, 7, Lsn::new(100)).unwrap(), (Skip::Nothing, None));
    }

    #[test]
    fn debeziums_place_is_kept_until_the_first_row_behind_it() {
        let begin = Begin { final_lsn: Lsn::new(100), commit_time: 0, xid: 7 };
        let mut transaction = Transaction::new(begin, Skip::UpTo(Lsn::new(50), 2), false);
        let place = Some(Partial::UpTo { xid: 7, lsn: Lsn::new(50), messages: 2 });
        assert_eq!(transaction.partial(), place, "before its first row");
        for (lsn, is_durable) in [(40, true), (50, true), (50, true), (50, false), (60, false)] {
            transaction.rows += 1;
            assert_eq!(transaction.is_durable(Lsn::new(lsn)), is_durable, "row {}", transaction.rows);
            let expected = if is_durable { place } else { rows(7, 100, transaction.rows) };
            assert_eq!(transaction.partial(), expected, "row {}", transaction.rows);
        }
    }

    #[test]
    fn another_transaction_in_its_place_is_another_history() {
        for (xid, commit) in [(8, 100), (7, 101), (8, 101)] {
            let error = recognise(rows(7, 100, 3), xid, Lsn::new(commit)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HistoryGone);
        }
    }

    #[test]
    fn debeziums_place_drops_only_rows_of_its_transaction() {
        let place = Some(Partial::UpTo { xid: 7, lsn: Lsn::new(50), messages: 1 });
        assert_eq!(recognise(place, 7, Lsn::new(100)).unwrap(), (Skip::UpTo(Lsn::new(50), 1), None));
        assert_eq!(recognise(place, 8, Lsn::new(100)).unwrap(), (Skip::Nothing, place));
    }
}
