//! What becomes of what reads tell: rows are reconciled and emitted, and a table is complete, read on, or left out.

use std::time::Duration;

use tailwater_api::{Error, ErrorKind, Result, Scope};
use tailwater_kit::windows::{Reconciled, Unclear};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;
use tracing::{info, warn};

use super::read::{End, Piece, Told};
use super::table::TRIES;
use super::{AHEAD, Chunks, Emission, PAUSE};
use crate::lsn::Lsn;
use crate::source::owed_advice;
use crate::table_states::{CompletedTable, ReadingTable};

impl Chunks {
    /// Takes what the read of a table tells, up to rows that can be emitted.
    pub(super) fn hear(&mut self, number: usize, reached: Lsn) -> Result<Option<Emission>> {
        loop {
            let table = &mut self.tables[number];
            let Some(read) = &mut table.read else { return Ok(None) };
            let told = match read.next.take() {
                Some(told) => told,
                None => match read.told.try_recv() {
                    Ok(told) => told,
                    Err(TryRecvError::Empty) => return Ok(None),
                    Err(TryRecvError::Disconnected) => {
                        let error = Error::new(ErrorKind::Bug, "read a chunk of the table").because("the read ended without a word");
                        return Err(error.scoped(Scope::Table(table.reading.name.clone())));
                    }
                },
            };
            match told {
                Told::Begun(begun) => {
                    self.windows.learn(read.look, &begun.sight);
                    if let Some(figures) = self.figures.get_mut(&table.reading.name) {
                        figures.estimate(begun.estimated);
                    }
                    read.begun = Some(begun);
                }
                Told::Rows(piece) => {
                    if read.begun.as_ref().is_none_or(|begun| begun.passed > reached) {
                        if !read.waits {
                            // The log may pass it by itself.
                            self.pushes_from = self.pushes_from.max(Instant::now() + PAUSE);
                        }
                        (read.waits, read.next) = (true, Some(Told::Rows(piece)));
                        return Ok(None);
                    }
                    read.waits = false;
                    return Ok(self.emit(number, piece));
                }
                Told::Ended(session, ended, lasted) => {
                    self.sessions.push(session);
                    self.windows.end_read(read.look);
                    table.read = None;
                    return self.end(number, lasted, ended);
                }
            }
        }
    }

    /// Emits rows, which the log has passed.
    fn emit(&mut self, number: usize, piece: Piece) -> Option<Emission> {
        let table = &mut self.tables[number];
        let read = table.read.as_ref()?;
        let begun = read.begun.as_ref()?;
        let Piece { mut rows, range, octets, reservation, _ahead } = piece;
        let (count, key) = (rows.len() as u64, &begun.row_key);
        let reconciled = self.windows.reconcile(
            read.look,
            table.number,
            key.form(),
            &mut rows,
            |row, octets| key.put_read(row, octets),
            |part, row| part.put_over(row, &begun.plan),
        );
        let again = match reconciled {
            Reconciled::Emit { dropped: _ } => None,
            Reconciled::Forgotten => Some(("too many of its rows change while it is read", true)),
            Reconciled::Unclear(Unclear::Keys) => {
                Some(("its key changes while it is read, or the log does not tell which rows change", false))
            }
            Reconciled::Unclear(Unclear::Columns) => Some(("its columns change while it is read", false)),
            Reconciled::Unclear(Unclear::TooMuch) => {
                Some(("rows of which the log leaves out large values change much while it is read", true))
            }
            Reconciled::Unclear(Unclear::Moved) => {
                Some(("a transaction that reads do not see yet changes keys of rows, and the log leaves out their large values", false))
            }
        };
        if let Some((why, is_too_large)) = again {
            self.windows.end_read(read.look);
            table.read = None;
            table.try_again(why, is_too_large);
            return None;
        }
        let plan = Some((begun.plan.clone(), reservation));
        table.has_come_on();
        self.push_pause = PAUSE;
        table.reading.rows += count;
        table.reading.range = Some(range);
        if let Some(figures) = self.figures.get_mut(&table.reading.name) {
            figures.add(count, octets as u64);
        }
        let reading = &self.tables[number].reading;
        Some(Emission {
            plan,
            rows,
            is_asked_for: reading.request.is_some(),
            notifications: self.tell_of_piece(reading),
            state: vec![reading.change(&self.config.relational.topic_prefix)],
            left_over: None,
            errored: None,
            owed: None,
        })
    }

    /// The read of a table is over, behind all its rows.
    fn end(&mut self, number: usize, lasted: Duration, ended: Result<End>) -> Result<Option<Emission>> {
        let table = &mut self.tables[number];
        if ended.is_ok() {
            table.broken = 0;
        }
        match ended {
            Ok(End::Cut) => {
                table.resize(lasted);
                Ok(None)
            }
            Ok(End::More) => {
                table.resize(lasted);
                self.ahead = AHEAD;
                Ok(None)
            }
            Ok(End::Complete) => Ok(Some(self.complete(number))),
            Ok(End::Contended(why)) => {
                table.try_again(&why, false);
                Ok(None)
            }
            Ok(End::Republished(published)) => {
                table.published = published;
                Ok(None)
            }
            Ok(End::Superseded) if table.reading.request.is_none() => {
                let cause = "it was renamed, or another table took its name; the connector starts again and reads what has the name now";
                Err(Error::new(ErrorKind::Restarting, format!("read the table {} to its end", table.reading.name)).because(cause).planned())
            }
            Ok(End::Gone | End::Superseded) => {
                Ok(Some(self.leave_out(number, "UNKNOWN_SCHEMA", "it is gone, or another table has its name")))
            }
            Ok(End::Unfit(unfit)) if table.reading.request.is_some() => Ok(Some(self.leave_out(number, unfit.status, &unfit.why))),
            Ok(End::Unfit(unfit)) => Ok(Some(self.leave_to_rest(number, &unfit.why))),
            Err(error) if table.reading.request.is_some() && concerns_one_table(&error) => {
                Ok(Some(self.leave_out(number, "SQL_EXCEPTION", &error.to_string())))
            }
            Err(error) if error.kind().is_transient() && table.broken < TRIES => {
                // I10: the log's own connection may be well.
                table.broken += 1;
                warn!(table = %table.reading.name, tries = table.broken, "a read of the table broke off and is made again: {error}");
                table.try_again(&error.to_string(), false);
                Ok(None)
            }
            Err(error) if self.config.relational.isolates_tables() && concerns_one_table(&error) => {
                Ok(Some(Emission { errored: Some((table.reading.name.clone(), error)), ..Emission::default() }))
            }
            Err(error) => Err(error),
        }
    }

    fn complete(&mut self, number: usize) -> Emission {
        let table = self.remove(number);
        self.end_figures(&table, true);
        info!(table = %table.name, rows = table.rows, "the snapshot of the table is complete");
        let server = &self.config.relational.topic_prefix;
        let state = if table.request.is_some() { table.removal(server) } else { followed(&table).change(server) };
        let notifications = self.tell_of_end(&table, if table.rows == 0 { "EMPTY" } else { "SUCCEEDED" });
        Emission { notifications, state: vec![state], ..Emission::default() }
    }

    /// Leaves out a table that is gone, or that a signal asked for.
    fn leave_out(&mut self, number: usize, status: &str, why: &str) -> Emission {
        let table = self.remove(number);
        self.end_figures(&table, false);
        warn!(table = %table.name, rows = table.rows, "the snapshot cannot read the table to its end: {why}");
        let notifications = self.tell_of_end(&table, status);
        if table.request.is_some() {
            let state = vec![table.removal(&self.config.relational.topic_prefix)];
            return Emission { notifications, state, ..Emission::default() };
        }
        warn!(table = %table.name, "{}", owed_advice(&table.name));
        Emission { notifications, owed: Some(table.name), ..Emission::default() }
    }

    /// Leaves a table of the snapshot at the start to be read while the log rests, by the `consistent` strategy.
    fn leave_to_rest(&mut self, number: usize, why: &str) -> Emission {
        let table = self.remove(number);
        self.end_figures(&table, false);
        warn!(table = %table.name, rows = table.rows, "the table can be read in chunks no more, and is read from its beginning while the log rests: {why}");
        let state = vec![followed(&table).change(&self.config.relational.topic_prefix)];
        Emission { state, left_over: Some(table), ..Emission::default() }
    }
}

/// A table of which each event is needed: nothing is dropped by an anchor.
fn followed(table: &ReadingTable) -> CompletedTable {
    CompletedTable { name: table.name.clone(), oid: Some(table.oid), anchor: Lsn::INVALID, rows: table.rows }
}

/// Whether the read of another table may well succeed.
fn concerns_one_table(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unauthorised
        | ErrorKind::Missing
        | ErrorKind::Misconfigured
        | ErrorKind::Unreadable
        | ErrorKind::Unsupported
        | ErrorKind::Rejected => true,
        ErrorKind::Unreachable
        | ErrorKind::TimedOut
        | ErrorKind::Throttled
        | ErrorKind::Restarting
        | ErrorKind::Conflict
        | ErrorKind::HistoryGone
        | ErrorKind::Bug => false,
    }
}
