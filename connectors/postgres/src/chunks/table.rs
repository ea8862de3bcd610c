//! A table that is to be read in chunks, with the read of it that is under way.

use std::sync::Arc;
use std::time::Duration;

use tailwater_kit::windows::Look;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::PAUSE;
use super::keys::RowKey;
use super::published::Published;
use super::read::{Begun, Told};
use crate::relation::TablePlan;
use crate::table_states::ReadingTable;

/// Rows of the first read of a table, and of any. It is to last no longer than this: while it does, the server keeps what it may see,
/// and the keys that it does not see are remembered.
const FIRST_ROWS: usize = 1024;
const MOST_ROWS: usize = 1 << 20;
const LASTS: Duration = Duration::from_millis(500);
/// Tries of one read after which it is told why it does not come about, and reads in a row that may break off.
pub(super) const TRIES: u32 = 5;

pub(super) struct Table {
    pub(super) reading: ReadingTable,
    /// By which the windows know it: one table may be asked for twice, by columns of its own each
    pub(super) number: u32,
    /// Most rows of the next read
    rows: usize,
    /// Reads since the last row that came to nothing
    tries: u32,
    /// Reads in a row that broke off by an error
    pub(super) broken: u32,
    /// Before this it is not read.
    pub(super) due: Instant,
    pub(super) read: Option<Read>,
    /// As the last read found it
    pub(super) published: Published,
    /// By what rows of the log are told apart, and the plan that decodes them
    row_key: Option<(Arc<TablePlan>, Option<RowKey>)>,
}

/// A read that is under way.
pub(super) struct Read {
    pub(super) look: Look,
    pub(super) told: mpsc::Receiver<Told>,
    /// What it tells next, or rows that the log has not passed
    pub(super) next: Option<Told>,
    /// Such rows are next.
    pub(super) waits: bool,
    pub(super) begun: Option<Begun>,
    /// Ends with this
    _running: JoinSet<()>,
}

impl Read {
    pub(super) fn new(look: Look, told: mpsc::Receiver<Told>, running: JoinSet<()>) -> Self {
        Self { look, told, next: None, waits: false, begun: None, _running: running }
    }
}

impl Table {
    pub(super) fn new(reading: ReadingTable, number: u32, published: Published) -> Self {
        Self { reading, number, rows: FIRST_ROWS, tries: 0, broken: 0, due: Instant::now(), read: None, published, row_key: None }
    }

    /// By what rows are told apart that the plan decodes; `None` where records do not hold the values. It is found once for each plan.
    pub(super) fn row_key(&mut self, plan: &Arc<TablePlan>) -> Option<&RowKey> {
        if self.row_key.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, plan)) {
            self.row_key = Some((plan.clone(), RowKey::of(plan, self.surrogate())));
        }
        self.row_key.as_ref().and_then(|(_, key)| key.as_ref())
    }

    /// The column by which a signal wants it to be read
    pub(super) fn surrogate(&self) -> Option<&str> {
        self.reading.request.as_ref()?.surrogate.as_deref()
    }

    /// Whether it is read whole, and by what its rows are told apart.
    pub(super) fn reads_all_rows(&self) -> bool {
        self.reading.request.as_ref().is_none_or(|request| request.condition.is_none() && request.surrogate.is_none())
    }

    /// How many rows the next read may take; `most` where the user says it.
    pub(super) fn rows(&self, most: Option<usize>) -> usize {
        self.rows.min(most.unwrap_or(MOST_ROWS))
    }

    /// A read came to its end after that time: the next is to last as long as it should.
    pub(super) fn resize(&mut self, lasted: Duration) {
        let factor = LASTS.as_secs_f64() / lasted.as_secs_f64().max(0.001);
        self.rows = ((self.rows as f64 * factor.clamp(0.25, 2.0)) as usize).clamp(FIRST_ROWS, MOST_ROWS);
    }

    /// Whether reads of it come to nothing again and again.
    pub(super) fn is_stuck(&self) -> bool {
        self.tries >= TRIES
    }

    /// Rows of it were emitted.
    pub(super) fn has_come_on(&mut self) {
        self.tries = 0;
    }

    /// A read came to nothing and is made again. Where too many keys were touched meanwhile, it has to be a smaller one.
    pub(super) fn try_again(&mut self, why: &str, is_too_large: bool) {
        if is_too_large {
            self.rows = (self.rows / 2).max(1);
        }
        self.tries += 1;
        self.due = Instant::now() + PAUSE * self.tries.min(10);
        if self.tries.is_multiple_of(TRIES) {
            warn!(table = %self.reading.name, tries = self.tries, rows = self.reading.rows, "the snapshot does not come on with the table: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_as_many_rows_as_it_can_in_its_time_and_half_of_them_where_that_was_too_much() {
        let reading = ReadingTable { name: "public.t".into(), oid: 1, rows: 0, range: None, request: None };
        let mut table = Table::new(reading, 1, Published::default());
        (0..12).for_each(|_| table.resize(LASTS / 100));
        assert_eq!(table.rows(None), MOST_ROWS);
        assert_eq!(table.rows(Some(7)), 7, "the user says so");
        table.resize(LASTS * 2);
        assert_eq!(table.rows(None), MOST_ROWS / 2);
        (0..40).for_each(|_| table.try_again("too many keys", true));
        assert_eq!(table.rows(None), 1);
        assert!(table.is_stuck() && table.due <= Instant::now() + PAUSE * 10);
    }
}
