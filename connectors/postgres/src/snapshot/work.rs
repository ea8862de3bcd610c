//! What is left to read, shared by the readers of a snapshot.
//!
//! A reader takes the next table that nobody has begun, and *opens* it. Where all are begun, it *joins* one of which ranges
//! of pages are left. So small tables are read one by each reader, and a large one by several.
//!
//! DDL must not come between two ranges of a table. Whoever reads of a table holds a lock on it, from before it asks for
//! its first range until after it has left. Who joins has the lock before it asks whether somebody still reads the table
//! ([`Work::join`]), so that from the opening to the end there is no moment in which nobody has it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Pages of a range, 8 MiB of a server's usual pages.
const RANGE: u64 = 1024;

/// What a reader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// It opens the table with this number.
    Open(usize),
    /// It joins this one.
    Join(usize, T),
}

/// A range of a table's pages, the whole table from 0 to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) from: u64,
    /// The first page behind it; `None` for the table's end
    pub(super) until: Option<u64>,
}

/// The tables of a snapshot by their numbers, each with what its readers need to know of it.
pub(super) struct Work<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    unopened: VecDeque<usize>,
    /// Tables that somebody is about to open
    opening: usize,
    open: Vec<Open<T>>,
}

struct Open<T> {
    number: usize,
    table: T,
    /// `None` where it is read as a whole
    pages: Option<u64>,
    /// The first page that nobody has taken; `None` where all are taken
    next: Option<u64>,
    readers: usize,
}

impl<T: Clone> Work<T> {
    pub(super) fn new(tables: usize) -> Self {
        Self { state: Mutex::new(State { unopened: (0..tables).collect(), opening: 0, open: Vec::new() }), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Each section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` where there will be nothing more.
    pub(super) async fn next(&self) -> Option<Next<T>> {
        loop {
            // Before the look, so that no change between the two is missed.
            let changed = self.changed.notified();
            match self.try_next() {
                Ok(next) => return next,
                Err(Busy) => changed.await,
            }
        }
    }

    fn try_next(&self) -> Result<Option<Next<T>>, Busy> {
        let mut state = self.lock();
        if let Some(number) = state.unopened.pop_front() {
            state.opening += 1;
            return Ok(Some(Next::Open(number)));
        }
        let left = |open: &&Open<T>| open.pages.zip(open.next).map(|(pages, next)| pages.saturating_sub(next));
        match state.open.iter().filter(|open| left(open).is_some()).max_by_key(left) {
            Some(open) => Ok(Some(Next::Join(open.number, open.table.clone()))),
            None if state.opening > 0 => Err(Busy),
            None => Ok(None),
        }
    }

    /// The table is open; the caller reads it and has the lock. It has that many `pages` where it may be read in ranges.
    pub(super) fn open(&self, number: usize, table: T, pages: Option<u64>) {
        let mut state = self.lock();
        state.opening -= 1;
        let pages = pages.filter(|pages| *pages >= 2 * RANGE);
        state.open.push(Open { number, table, pages, next: Some(0), readers: 1 });
        drop(state);
        self.changed.notify_waiters();
    }

    /// The table could not be opened: it is gone.
    pub(super) fn give_up(&self) {
        self.lock().opening -= 1;
        self.changed.notify_waiters();
    }

    /// Whether the table is still being read; then the caller, which has the lock, reads it, too.
    pub(super) fn join(&self, number: usize) -> bool {
        let mut state = self.lock();
        let Some(open) = state.open.iter_mut().find(|open| open.number == number) else { return false };
        open.readers += 1;
        true
    }

    /// Takes a range for a reader of the table; `None` where all are taken.
    pub(super) fn take(&self, number: usize) -> Option<Pages> {
        let mut state = self.lock();
        let open = state.open.iter_mut().find(|open| open.number == number)?;
        let from = open.next.take()?;
        // The last range has no end: the table may have grown since its pages were counted.
        open.next = Some(from + RANGE).filter(|next| open.pages.is_some_and(|pages| *next < pages));
        Some(Pages { from, until: open.next })
    }

    /// The caller reads the table no more; says whether nobody does.
    pub(super) fn leave(&self, number: usize) -> bool {
        let mut state = self.lock();
        let Some(place) = state.open.iter().position(|open| open.number == number) else { return false };
        state.open[place].readers -= 1;
        let is_last = state.open[place].readers == 0;
        if is_last {
            state.open.remove(place);
        }
        is_last
    }
}

/// A table is about to be opened, of which ranges may be left.
struct Busy;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What a reader of the test is about to do.
    #[derive(Clone)]
    enum Step {
        Ask,
        Open(usize),
        /// It waits for the lock.
        Lock(usize),
        Take(usize),
        Done,
    }

    proptest! {
        /// Readers take steps in any order. Each page of each table is read once, by somebody who has the lock while
        /// somebody has it all the time, and each table ends once, behind all its ranges.
        #[test]
        fn each_page_is_read_once_and_a_table_ends_behind_its_last(
            tables in proptest::collection::vec(proptest::option::of(0_u64..9 * RANGE), 0..5),
            readers in 1_usize..5,
            turns in proptest::collection::vec(any::<prop::sample::Index>(), 0..300),
        ) {
            let work: Work<()> = Work::new(tables.len());
            let mut steps = vec![Step::Ask; readers];
            let mut taken: BTreeMap<usize, Vec<Pages>> = BTreeMap::new();
            let mut holders = vec![0_usize; tables.len()];
            let mut ended = vec![0; tables.len()];
            // Behind the drawn turns each reader goes on in turn until nothing is left.
            let turns = turns.iter().map(|turn| turn.index(readers)).chain((0..200 * readers).map(|turn| turn % readers));
            for turn in turns {
                steps[turn] = match steps[turn].clone() {
                    Step::Ask => match work.try_next() {
                        Ok(Some(Next::Open(number))) => Step::Open(number),
                        Ok(Some(Next::Join(number, ()))) => Step::Lock(number),
                        Ok(None) => Step::Done,
                        Err(Busy) => Step::Ask,
                    },
                    Step::Open(number) => {
                        holders[number] += 1;
                        work.open(number, (), tables[number]);
                        Step::Take(number)
                    }
                    Step::Lock(number) => {
                        let somebody_has_it = holders[number] > 0;
                        let joins = work.join(number);
                        prop_assert!(!joins || somebody_has_it, "it joined a table that nobody held");
                        holders[number] += usize::from(joins);
                        if joins { Step::Take(number) } else { Step::Ask }
                    }
                    Step::Take(number) => match work.take(number) {
                        Some(pages) => {
                            taken.entry(number).or_default().push(pages);
                            Step::Take(number)
                        }
                        None => {
                            ended[number] += usize::from(work.leave(number));
                            holders[number] -= 1;
                            prop_assert_eq!(ended[number] == 1, holders[number] == 0);
                            Step::Ask
                        }
                    },
                    Step::Done => Step::Done,
                };
            }
            prop_assert!(steps.iter().all(|step| matches!(step, Step::Done)));
            prop_assert!(ended.iter().all(|count| *count == 1));
            for (number, ranges) in taken {
                prop_assert_eq!(ranges[0].from, 0);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].until == Some(pair[1].from)));
                prop_assert_eq!(ranges[ranges.len() - 1].until, None);
                prop_assert!(ranges.len() == 1 || tables[number].is_some());
            }
        }
    }

    #[tokio::test]
    async fn who_finds_nothing_waits_for_a_table_that_is_being_opened() {
        let work: Work<&str> = Work::new(1);
        assert_eq!(work.next().await, Some(Next::Open(0)));
        let (next, ()) = tokio::join!(work.next(), async { work.open(0, "orders", Some(4 * RANGE)) });
        assert_eq!(next, Some(Next::Join(0, "orders")));
        let work: Work<&str> = Work::new(1);
        assert_eq!(work.next().await, Some(Next::Open(0)));
        let (next, ()) = tokio::join!(work.next(), async { work.give_up() });
        assert_eq!(next, None);
    }
}
