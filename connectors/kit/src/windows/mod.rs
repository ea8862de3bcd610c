//! Reconciles chunks of a table with the log, so that a table is read while it changes and nobody is locked.
//!
//! A chunk is read in a short transaction of its own, beside the log. Its rows join the log's events on the same topic,
//! and a row must never stand behind an event that is newer than it. The rule:
//!
//! > A row is dropped if a transaction that its read could not see touched its key, wherever in the log that
//! > transaction stands. The other rows are emitted once the log has passed everything that the read could see.
//!
//! *Why a dropped row is not lost:* the transaction that touched its key is in the log, and its event says what the row
//! became. So an update of which no event is emitted, since a filter drops it, touches nothing. And where events say
//! what became of some columns alone, since the log leaves out what a change left as it was, the row is not dropped:
//! what they say is put over what was read, which is the row as they left it ([`Windows::touch_partly`]). One event
//! that says all, or that the row is gone, is enough to drop it, whichever of them it is. Where the parts alone are too
//! much to be kept, or the row moved to another key, it is read again. *Why an emitted row is not stale:* every event on its
//! key that stands before it is of a transaction that the read saw, so the row is as new as that event or newer. *Why
//! it is not too new:* events that the read saw all stand before it, so nothing older follows.
//!
//! The usual shortcut drops the keys that the log touches between two marks around the read. It is not enough: a commit
//! can stand in the log, already emitted, and still be invisible (synchronous replication in PostgreSQL,
//! semi-synchronous commit in MySQL). Then the event stands before the first mark, and the stale row behind it.
//!
//! So [`Windows`] remembers the keys of every transaction that came by and is not known to be visible to all later
//! reads. A source tells it from time to time what a read sees now ([`Windows::learn`]), which lets it forget the rest.
//!
//! What each read sees, those under way and those to come, is not remembered at all. So a backlog of the log, which new
//! reads see, costs nothing, however many keys it touches.
//!
//! The rows of one read may be reconciled piece by piece, as they come: what the read could see is known before its
//! first row. Until its last piece is, nothing is forgotten that it could not see.
//!
//! A new session remembers nothing, though transactions of an earlier one may still be invisible. Therefore, before the
//! first read, each transaction that runs now must have ended, or have come by in this session, whole. Those that begin
//! later come by later. The same is done where the keys outgrow their limit (I6): all is forgotten, reads under way are
//! void and have to be made anew, smaller, behind such a wait. A crash and too many keys are one case.
//!
//! Keys are compared for equality of their octets only; ranges and order are the database's (I9). Two spellings of one
//! key that the database calls equal must therefore have the same octets: a source takes them from the row as the
//! database renders it. A change of a key touches the old and the new one.
//!
//! The octets mean something only together with their *form*: the columns of the key, with their types. Where the key
//! is retyped or is another one, one row has other octets before and behind that. So a key is told with its form, and a
//! read whose rows have another form than a key that a transaction touched, which the read could not see, is made anew:
//! no octets of the one say anything about the other. So it is where the log does not tell which row was touched.
//!
//! There is no I/O here, no clock and no thread.

use std::collections::{HashMap, VecDeque};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// What one read of the database could see.
pub trait Visibility: Clone {
    /// Names a transaction as the log does.
    type Transaction: Clone + Eq;

    /// Whether the read saw what the transaction did. Once a read has seen it, each read that begins later sees it, too.
    /// Where in doubt, `false`: then rows are dropped whose event is in the log anyway. An aborted transaction counts as
    /// seen.
    fn sees(&self, transaction: &Self::Transaction) -> bool;

    /// The transactions that had begun, but were not visible.
    fn running(&self) -> Vec<Self::Transaction>;
}

/// Stands for one look at the database, from before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(u64);

/// What became of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// Those that are left are to be emitted, now; that many were dropped.
    Emit {
        /// Rows that newer events stand for
        dropped: usize,
    },
    /// All was forgotten since the read began: none of its rows can be used any more.
    Forgotten,
    /// A transaction that the read does not see touched rows of the table, and what became of these is not clear: none of the rows
    /// that are not reconciled yet can be used.
    Unclear(Unclear),
}

/// Why it is not clear what became of a row that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// Keys of another form, or of none that is known, were touched.
    Keys,
    /// Events say a part of the row, of which it has other columns.
    Columns,
    /// What events say of parts of the row is too much to be kept.
    TooMuch,
    /// The row moved to another key, and the events do not say all of it.
    Moved,
}

/// The keys that the log touched, as far as a read may not have seen it. `P` is what an event says of a part of a row.
pub struct Windows<V: Visibility, P> {
    touched: VecDeque<Touched<V::Transaction, P>>,
    settling: Settling<V::Transaction>,
    /// Of this one not all keys are known: it was under way when the memory was empty.
    partly_known: Option<V::Transaction>,
    /// Number of the last look
    last: u64,
    /// The last look that was taken before all was forgotten
    void: u64,
    /// Reads whose rows are not all reconciled, in the order of their numbers
    reads: Vec<UnderWay<V>>,
    /// What the last look saw; whoever looks from now on sees it, too
    newest: Option<V>,
    /// A transaction that each read sees, those under way and those to come: the last that was found so
    seen_by_all: Option<V::Transaction>,
    weight: usize,
    limit: usize,
}

/// A read.
struct UnderWay<V> {
    number: u64,
    /// What it sees, once that is known
    sees: Option<V>,
}

/// Whether transactions from before this session may be invisible.
enum Settling<T> {
    /// It is not known which.
    Unknown,
    /// These, which have to end or come by.
    WaitsFor(Vec<T>),
    /// None.
    Done,
}

/// What a transaction did.
struct Touched<T, P> {
    transaction: T,
    tables: HashMap<u32, TouchedTable<P>>,
    weight: usize,
    /// Looks from this number on see it.
    seen_from: Option<u64>,
}

/// What a transaction did to one table.
struct TouchedTable<P> {
    /// What the octets of `keys` mean
    form: Box<str>,
    keys: HashMap<Box<[u8]>, Said<P>>,
    is_truncated: bool,
    /// It touched further rows, by keys of another form or by none that is known.
    is_unclear: bool,
}

impl<P> Default for TouchedTable<P> {
    fn default() -> Self {
        Self { form: Box::default(), keys: HashMap::new(), is_truncated: false, is_unclear: false }
    }
}

/// What events say of a row.
enum Said<P> {
    /// What it became, or that it is gone
    All,
    /// What became of a part of it, one event after another, and what that weighs
    Parts(Vec<P>, usize),
    /// More of that than can be kept
    TooMuch,
    /// That it moved to another key, or from one, without all of its values: only a read tells these, and that may be of the other key
    Moved,
}

impl<P> Said<P> {
    /// Takes what a later event says.
    fn take(&mut self, later: Self) {
        match (&mut *self, later) {
            (Self::Moved, _) | (Self::All, Self::All | Self::Parts(..) | Self::TooMuch) => {}
            (Self::TooMuch, Self::Parts(..) | Self::TooMuch) => {}
            (Self::Parts(parts, weight), Self::Parts(mut more, further)) => {
                parts.append(&mut more);
                *weight += further;
            }
            (_, later @ (Self::All | Self::Moved)) | (Self::Parts(..), later @ Self::TooMuch) => *self = later,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Parts(_, weight) => *weight,
            Self::All | Self::TooMuch | Self::Moved => 0,
        }
    }
}

/// Octets that a remembered transaction, table or key weighs beside its content: an estimate of what containers hold, which are not
/// full, and of their allocations.
const ENTRY: usize = 128;
/// What is kept of the parts of one row is at most this part of the limit.
const PARTS: usize = 16;

impl<V: Visibility, P> Windows<V, P> {
    /// Begins to remember. `current` is the transaction of which the log has already told a part; `limit` the octets
    /// that are kept.
    #[must_use]
    pub fn new(limit: usize, current: Option<V::Transaction>) -> Self {
        Self {
            touched: VecDeque::new(),
            settling: Settling::Unknown,
            partly_known: current,
            last: 0,
            void: 0,
            reads: Vec::new(),
            newest: None,
            seen_by_all: None,
            weight: 0,
            limit,
        }
    }

    /// The log says that the transaction touched the row. To be told of every event of a table that is read, in the order of the log, whole
    /// transactions one after another; not of an update that a filter keeps from being emitted. `form` says what the octets of
    /// the key mean.
    pub fn touch(&mut self, transaction: &V::Transaction, table: u32, form: &str, key: &[u8]) {
        self.say(transaction, table, form, key, |_| Said::All);
    }

    /// The same of an update that kept the row's key, and of which the log tells some columns alone: `part` says these, and weighs so many
    /// octets. It is not asked where nobody needs it, nor where that is too much to be kept.
    pub fn touch_partly(
        &mut self,
        transaction: &V::Transaction,
        table: u32,
        form: &str,
        key: &[u8],
        weight: usize,
        part: impl FnOnce() -> P,
    ) {
        let is_too_much = weight > self.limit / PARTS;
        self.say(transaction, table, form, key, |known| match known {
            None | Some(Said::Parts(..)) if !is_too_much => Said::Parts(vec![part()], weight),
            None | Some(_) => Said::TooMuch,
        });
    }

    /// The same of a change that moves the row to another key, where the log tells some columns alone: only a read that sees it knows
    /// the row.
    pub fn touch_unclearly(&mut self, transaction: &V::Transaction, table: u32, form: &str, key: &[u8]) {
        self.say(transaction, table, form, key, |_| Said::Moved);
    }

    /// `said` is asked with what events before it in the transaction said.
    fn say(&mut self, transaction: &V::Transaction, table: u32, form: &str, key: &[u8], said: impl FnOnce(Option<&Said<P>>) -> Said<P>) {
        let most = self.limit / PARTS;
        self.note(transaction, table, |touched| {
            let is_first = touched.keys.is_empty();
            if is_first {
                touched.form = form.into();
            }
            if *touched.form != *form {
                touched.is_unclear = true;
                return (0, 0);
            }
            let Some(known) = touched.keys.get_mut(key) else {
                let said = said(None);
                let weight = ENTRY + key.len() + said.weight() + if is_first { form.len() } else { 0 };
                touched.keys.insert(key.into(), said);
                return (weight, 0);
            };
            let before = known.weight();
            let said = said(Some(known));
            known.take(said);
            if known.weight() > most {
                *known = Said::TooMuch;
            }
            (known.weight(), before)
        });
    }

    /// The log says that the transaction touched a row of the table, and not which.
    pub fn touch_unknown(&mut self, transaction: &V::Transaction, table: u32) {
        self.note(transaction, table, |touched| {
            touched.is_unclear = true;
            (0, 0)
        });
    }

    /// The log says that the transaction emptied the table: it touched all its keys.
    pub fn truncate(&mut self, transaction: &V::Transaction, table: u32) {
        self.note(transaction, table, |touched| {
            touched.is_truncated = true;
            (0, 0)
        });
    }

    /// Takes note of what the transaction did to the table; `take` says how many octets more that weighs, and how many less.
    fn note(&mut self, transaction: &V::Transaction, table: u32, take: impl FnOnce(&mut TouchedTable<P>) -> (usize, usize)) {
        let Some(touched) = self.entry(transaction) else { return };
        let known = touched.tables.len();
        let (more, less) = take(touched.tables.entry(table).or_default());
        let more = more + ENTRY * (touched.tables.len() - known);
        touched.weight = touched.weight + more - less;
        self.weight = self.weight + more - less;
        // I6: beyond the limit parts of rows are forgotten first, which concerns reads of these rows alone; then all, as after a crash.
        if self.weight > self.limit {
            self.forget_parts();
        }
        if self.weight > self.limit {
            self.lose(transaction);
        }
    }

    fn forget_parts(&mut self) {
        for touched in &mut self.touched {
            for said in touched.tables.values_mut().flat_map(|table| table.keys.values_mut()) {
                if let Said::Parts(_, weight) = *said {
                    touched.weight -= weight;
                    self.weight -= weight;
                    *said = Said::TooMuch;
                }
            }
        }
    }

    /// The log tells of the transaction only in part: all is forgotten, as after a crash, until the transaction has ended.
    pub fn lose(&mut self, transaction: &V::Transaction) {
        if self.partly_known.as_ref() != Some(transaction) && !self.is_seen_by_all(transaction) {
            self.forget_all(Some(transaction.clone()));
        }
    }

    /// Begins anew, between two transactions of the log: further tables are read from now on, of which nothing was told before.
    pub fn restart(&mut self) {
        self.forget_all(None);
    }

    fn forget_all(&mut self, current: Option<V::Transaction>) {
        // What was seen once stays seen.
        let newest = self.newest.take();
        *self = Self { last: self.last, void: self.last, newest, ..Self::new(self.limit, current) };
    }

    fn entry(&mut self, transaction: &V::Transaction) -> Option<&mut Touched<V::Transaction, P>> {
        if self.partly_known.as_ref() == Some(transaction) {
            return None;
        }
        // Another transaction came: the one that is known in part is over and will not be told of again.
        self.partly_known = None;
        if self.is_seen_by_all(transaction) {
            return None;
        }
        if self.touched.back().is_none_or(|last| last.transaction != *transaction) {
            self.weight += ENTRY;
            self.touched.push_back(Touched { transaction: transaction.clone(), tables: HashMap::new(), weight: ENTRY, seen_from: None });
        }
        self.touched.back_mut()
    }

    /// Whether each read sees the transaction, those under way and those to come.
    fn is_seen_by_all(&mut self, transaction: &V::Transaction) -> bool {
        if self.seen_by_all.as_ref() == Some(transaction) {
            return true;
        }
        if self.touched.back().is_some_and(|last| last.transaction == *transaction) {
            // It was asked when the transaction began.
            return false;
        }
        let sees = |seen: &Option<V>| seen.as_ref().is_some_and(|seen| seen.sees(transaction));
        let is_seen = sees(&self.newest) && self.reads.iter().all(|read| sees(&read.sees));
        if is_seen {
            self.seen_by_all = Some(transaction.clone());
        }
        is_seen
    }

    /// To be taken before the database is asked what a read sees now.
    #[must_use]
    pub fn look(&mut self) -> Look {
        self.last += 1;
        Look(self.last)
    }

    /// Takes the answer: what is visible from now on is forgotten as soon as no read under way needs it. Of a read it is to be
    /// taken before its first rows are reconciled.
    pub fn learn(&mut self, look: Look, visibility: &V) {
        if look.0 <= self.void {
            // It was taken before all was forgotten, so it may miss what runs since.
            return;
        }
        if let Some(read) = self.reads.iter_mut().find(|read| read.number == look.0) {
            read.sees = Some(visibility.clone());
        }
        self.newest = Some(visibility.clone());
        for touched in &mut self.touched {
            if touched.seen_from.is_none() && visibility.sees(&touched.transaction) {
                // Who looks from now on looks later than this. Those on their way may have looked before.
                touched.seen_from = Some(self.last + 1);
            }
        }
        self.settling = match std::mem::replace(&mut self.settling, Settling::Unknown) {
            Settling::Unknown => Settling::WaitsFor(visibility.running()),
            Settling::WaitsFor(mut running) => {
                running.retain(|transaction| !visibility.sees(transaction));
                Settling::WaitsFor(running)
            }
            Settling::Done => Settling::Done,
        };
        if let Settling::WaitsFor(running) = &mut self.settling {
            running.retain(|transaction| !self.touched.iter().any(|touched| touched.transaction == *transaction));
            if running.is_empty() {
                self.settling = Settling::Done;
            }
        }
        self.forget();
    }

    /// What nobody needs any more is forgotten: transactions that each read under way and each later one sees.
    fn forget(&mut self) {
        let oldest = self.reads.first().map_or(u64::MAX, |read| read.number);
        let weight = &mut self.weight;
        self.touched.retain(|touched| {
            let needed = touched.seen_from.is_none_or(|from| from > oldest);
            if !needed {
                *weight -= touched.weight;
            }
            needed
        });
    }

    /// Whether reads may begin.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.settling, Settling::Done)
    }

    /// The transactions that have to end or come by before a read may begin, as far as they are known; for people.
    #[must_use]
    pub fn waits_for(&self) -> &[V::Transaction] {
        match &self.settling {
            Settling::WaitsFor(running) => running,
            Settling::Unknown | Settling::Done => &[],
        }
    }

    /// To be taken before a chunk is read; `None` while transactions from before may be invisible.
    #[must_use]
    pub fn begin_read(&mut self) -> Option<Look> {
        let look = self.is_settled().then(|| self.look())?;
        self.reads.push(UnderWay { number: look.0, sees: None });
        Some(look)
    }

    /// Drops of the rows of a read those that newer events stand for. To be called once the log has passed everything that the
    /// read could see, and not before. What is left has to be emitted before the log goes on. `key` writes a row's key, which
    /// has the form `form`; `put` puts what events say of a part of a row over it, or says that this cannot be done.
    pub fn reconcile<R>(
        &self,
        read: Look,
        table: u32,
        form: &str,
        rows: &mut Vec<R>,
        key: impl Fn(&R, &mut Vec<u8>),
        put: impl Fn(&P, &mut R) -> bool,
    ) -> Reconciled {
        let Some(read) = self.reads.iter().find(|other| other.number == read.0) else {
            rows.clear();
            return Reconciled::Forgotten;
        };
        let is_unseen = |touched: &&Touched<_, _>| !read.sees.as_ref().is_some_and(|sees| sees.sees(&touched.transaction));
        let unseen = self.touched.iter().filter(is_unseen).filter_map(|touched| touched.tables.get(&table));
        let before = rows.len();
        // What all events of a row say, one behind the other
        let mut said: HashMap<&[u8], Said<&P>> = HashMap::new();
        for touched in unseen {
            if touched.is_truncated {
                rows.clear();
            } else if touched.is_unclear || *touched.form != *form {
                rows.clear();
                return Reconciled::Unclear(Unclear::Keys);
            }
            for (key, now) in &touched.keys {
                let now = match now {
                    Said::All => Said::All,
                    Said::Parts(parts, weight) => Said::Parts(parts.iter().collect(), *weight),
                    Said::TooMuch => Said::TooMuch,
                    Said::Moved => Said::Moved,
                };
                said.entry(key).or_insert_with(|| Said::Parts(Vec::new(), 0)).take(now);
            }
        }
        if said.is_empty() {
            return Reconciled::Emit { dropped: before - rows.len() };
        }
        let (mut octets, mut unclear) = (Vec::new(), None);
        rows.retain_mut(|row| {
            octets.clear();
            key(row, &mut octets);
            match said.get(&octets[..]) {
                None => true,
                Some(Said::All) => false,
                Some(Said::Parts(parts, _)) => {
                    if !parts.iter().all(|part| put(part, row)) {
                        unclear = Some(Unclear::Columns);
                    }
                    true
                }
                Some(Said::TooMuch) => {
                    unclear = Some(Unclear::TooMuch);
                    true
                }
                Some(Said::Moved) => {
                    unclear = Some(Unclear::Moved);
                    true
                }
            }
        });
        match unclear {
            None => Reconciled::Emit { dropped: before - rows.len() },
            Some(why) => {
                rows.clear();
                Reconciled::Unclear(why)
            }
        }
    }

    /// No more rows of the read are to be reconciled, because all were, or because it came to nothing.
    pub fn end_read(&mut self, read: Look) {
        self.reads.retain(|other| other.number != read.0);
        self.forget();
    }

    /// Octets that are kept.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }
}
