//! The memory budget: bytes of records in flight, all tasks together (I6).
//!
//! Half of the budget is guaranteed in equal parts to the tasks that are there, the other half is shared. A task first
//! fills its own part and then takes from the shared half; so a stalled task holds at most its part and the shared
//! half, and every other task still has its own. A task that holds nothing is always granted what it asks for: a
//! single batch larger than its part, or than the whole budget, passes alone. All that is held is therefore at most
//! the budget and one such batch a task.
//!
//! Who waits is served in order of arrival. One that waits for the shared half keeps later ones from it, so that small
//! requests cannot starve a large one; what fits a task's own part never waits for anybody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tailwater_api::source::{ByteBudget, Reservation};
use tokio::sync::oneshot;

/// The budget of a worker. Cloning shares it.
#[derive(Clone)]
pub(super) struct Budget {
    state: Arc<Mutex<State>>,
}

struct State {
    total: usize,
    next_task: u64,
    held: BTreeMap<u64, usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    task: Arc<TaskBudget>,
    bytes: usize,
    granted: oneshot::Sender<Reservation>,
}

/// What one task has of the budget. Its part returns to the others when the last handle and reservation are gone.
pub(super) struct TaskBudget {
    budget: Budget,
    task: u64,
}

impl Budget {
    /// A budget of `total` bytes.
    pub(super) fn new(total: usize) -> Self {
        Self { state: Arc::new(Mutex::new(State { total, next_task: 0, held: BTreeMap::new(), waiting: VecDeque::new() })) }
    }

    /// Enters a task, which takes part from now on.
    pub(super) fn enter(&self) -> Arc<TaskBudget> {
        let mut state = self.lock();
        let task = state.next_task;
        state.next_task += 1;
        state.held.insert(task, 0);
        Arc::new(TaskBudget { budget: self.clone(), task })
    }

    // Every section below leaves the state whole, so a panic elsewhere does not make it wrong.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants what has become possible. Handed over outside the lock: a waiter that is gone drops its reservation,
    /// which comes back here.
    fn serve(&self) {
        let mut unserved = Vec::new();
        let granted = self.lock().grant_waiting(&mut unserved);
        for waiting in granted {
            let reservation = waiting.task.reservation(waiting.bytes);
            let _ = waiting.granted.send(reservation);
        }
    }
}

impl State {
    /// Bytes guaranteed to each task.
    fn part(&self) -> usize {
        self.total / 2 / self.held.len().max(1)
    }

    /// Bytes of the shared half that are taken.
    fn shared(&self) -> usize {
        let part = self.part();
        self.held.values().map(|held| held.saturating_sub(part)).sum()
    }

    fn own(&self, task: u64) -> usize {
        self.held.get(&task).copied().unwrap_or_default()
    }

    /// Whether `bytes` more need nothing of the shared half.
    fn fits_own_part(&self, task: u64, bytes: usize) -> bool {
        let own = self.own(task);
        own == 0 || own.saturating_add(bytes) <= self.part()
    }

    fn fits_shared_half(&self, task: u64, bytes: usize) -> bool {
        let (own, part) = (self.own(task), self.part());
        let more = own.saturating_add(bytes).saturating_sub(part.max(own));
        self.shared().saturating_add(more) <= self.total - self.total / 2
    }

    fn take(&mut self, task: u64, bytes: usize) {
        if let Some(held) = self.held.get_mut(&task) {
            *held += bytes;
        }
    }

    /// Takes what can be granted out of the queue. Who gave up goes to `gone`, to be dropped outside the lock.
    fn grant_waiting(&mut self, gone: &mut Vec<Waiting>) -> Vec<Waiting> {
        let mut granted = Vec::new();
        let mut left = VecDeque::new();
        let mut shared_is_claimed = false;
        let mut tasks_that_wait = BTreeSet::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let task = waiting.task.task;
            if waiting.granted.is_closed() {
                gone.push(waiting);
            } else if !tasks_that_wait.contains(&task)
                && (self.fits_own_part(task, waiting.bytes) || (!shared_is_claimed && self.fits_shared_half(task, waiting.bytes)))
            {
                self.take(task, waiting.bytes);
                granted.push(waiting);
            } else {
                shared_is_claimed = true;
                tasks_that_wait.insert(task);
                left.push_back(waiting);
            }
        }
        self.waiting = left;
        granted
    }
}

impl TaskBudget {
    /// `bytes` if they are free now.
    pub(super) fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut state = self.budget.lock();
        let waits = state.waiting.iter().any(|waiting| waiting.task.task == self.task);
        let fits = state.fits_own_part(self.task, bytes) || (state.waiting.is_empty() && state.fits_shared_half(self.task, bytes));
        if waits || !fits {
            return None;
        }
        state.take(self.task, bytes);
        drop(state);
        Some(self.reservation(bytes))
    }

    /// Bytes that are guaranteed to this task now.
    pub(super) fn part(&self) -> usize {
        self.budget.lock().part()
    }

    /// Bytes that all tasks share.
    pub(super) fn total(&self) -> usize {
        self.budget.lock().total
    }

    /// Bytes that this task holds now.
    pub(super) fn held(&self) -> usize {
        self.budget.lock().own(self.task)
    }

    /// A reservation of bytes that are already taken.
    fn reservation(self: &Arc<Self>, bytes: usize) -> Reservation {
        let task = Arc::clone(self);
        Reservation::new(bytes, move |bytes| {
            if let Some(held) = task.budget.lock().held.get_mut(&task.task) {
                *held -= bytes;
            }
            task.budget.serve();
        })
    }
}

impl Drop for TaskBudget {
    fn drop(&mut self) {
        self.budget.lock().held.remove(&self.task);
        self.budget.serve();
    }
}

impl ByteBudget for TaskBudget {
    fn reserve(self: Arc<Self>, bytes: usize) -> BoxFuture<'static, Reservation> {
        Box::pin(async move {
            if let Some(reservation) = self.try_reserve(bytes) {
                return reservation;
            }
            let (granted, wait) = oneshot::channel();
            let waiting = Waiting { task: Arc::clone(&self), bytes, granted };
            self.budget.lock().waiting.push_back(waiting);
            // What was released between the try and the queueing is served now.
            self.budget.serve();
            wait.await.expect("a waiter leaves the queue only granted or given up")
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn reserve(task: &Arc<TaskBudget>, bytes: usize) -> BoxFuture<'static, Reservation> {
        Arc::clone(task).reserve(bytes)
    }

    #[test]
    fn a_stalled_task_starves_nobody() {
        let budget = Budget::new(1000);
        let (stalled, other) = (budget.enter(), budget.enter());
        let mut held = Vec::new();
        while let Some(reservation) = reserve(&stalled, 50).now_or_never() {
            held.push(reservation);
        }
        assert_eq!(stalled.held(), 750, "its part and the shared half");
        for _ in 0..5 {
            held.push(reserve(&other, 50).now_or_never().expect("the other task has its own part"));
        }
        assert!(reserve(&other, 50).now_or_never().is_none());
    }

    #[test]
    fn a_reservation_larger_than_the_budget_is_granted_to_a_task_that_holds_nothing() {
        let budget = Budget::new(100);
        let task = budget.enter();
        let small = reserve(&task, 10).now_or_never().unwrap();
        let mut large = reserve(&task, 5000);
        assert!((&mut large).now_or_never().is_none());
        drop(small);
        let large = large.now_or_never().expect("the task holds nothing else");
        assert!(reserve(&task, 1).now_or_never().is_none());
        drop(large);
        assert_eq!(task.held(), 0);
    }

    #[test]
    fn who_gives_up_waiting_takes_nothing() {
        let budget = Budget::new(100);
        let task = budget.enter();
        let held = reserve(&task, 100).now_or_never().unwrap();
        let mut given_up = reserve(&task, 50);
        assert!((&mut given_up).now_or_never().is_none());
        drop(given_up);
        drop(held);
        assert_eq!(task.held(), 0);
        assert!(reserve(&task, 100).now_or_never().is_some());
    }

    #[test]
    fn a_grant_that_nobody_picks_up_returns() {
        let budget = Budget::new(100);
        let task = budget.enter();
        let held = reserve(&task, 100).now_or_never().unwrap();
        let mut waiting = reserve(&task, 50);
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        assert_eq!(task.held(), 50, "granted");
        drop(waiting);
        assert_eq!(task.held(), 0);
    }

    #[test]
    fn a_task_that_leaves_gives_its_part_to_the_others() {
        let budget = Budget::new(1000);
        let (one, two) = (budget.enter(), budget.enter());
        assert_eq!(one.part(), 250);
        drop(two);
        assert_eq!(one.part(), 500);
    }

    #[test]
    fn a_large_request_is_not_overtaken_in_the_shared_half() {
        let budget = Budget::new(1000);
        let (one, two) = (budget.enter(), budget.enter());
        let first = reserve(&one, 250).now_or_never().unwrap();
        let second = reserve(&one, 400).now_or_never().unwrap();
        let mut large = reserve(&one, 450);
        assert!((&mut large).now_or_never().is_none());
        let own = reserve(&two, 250).now_or_never().unwrap();
        assert!(reserve(&two, 50).now_or_never().is_none(), "the shared half is claimed");
        drop(second);
        assert!(large.now_or_never().is_some());
        drop((first, own));
    }

    proptest! {
        /// I6 under random reservations, waits, releases and give-ups of four tasks: the bound holds, nobody who could
        /// be served waits, and at the end nothing is held.
        #[test]
        fn i6_what_is_held_is_bounded_and_returns(steps in prop::collection::vec((0usize..4, 1usize..400, 0u8..4), 1..200)) {
            const TOTAL: usize = 1000;
            let budget = Budget::new(TOTAL);
            let tasks: Vec<_> = (0..4).map(|_| budget.enter()).collect();
            let mut held: Vec<Vec<Reservation>> = (0..4).map(|_| Vec::new()).collect();
            let mut waiting: Vec<Vec<BoxFuture<'static, Reservation>>> = (0..4).map(|_| Vec::new()).collect();
            let mut largest = 0;
            for (task, bytes, step) in steps {
                match step {
                    0 | 1 => {
                        largest = largest.max(bytes);
                        let mut future = reserve(&tasks[task], bytes);
                        match (&mut future).now_or_never() {
                            Some(reservation) => held[task].push(reservation),
                            None => waiting[task].push(future),
                        }
                    }
                    2 => drop(held[task].pop()),
                    _ => drop(waiting[task].pop()),
                }
                for task in 0..4 {
                    let (ready, left): (Vec<_>, Vec<_>) = std::mem::take(&mut waiting[task])
                        .into_iter()
                        .map(|mut future| ((&mut future).now_or_never(), future))
                        .partition(|(reservation, _)| reservation.is_some());
                    held[task].extend(ready.into_iter().filter_map(|(reservation, _)| reservation));
                    waiting[task] = left.into_iter().map(|(_, future)| future).collect();
                }
                let sum: usize = held.iter().flatten().map(Reservation::bytes).sum();
                prop_assert_eq!(sum, tasks.iter().map(|task| task.held()).sum::<usize>());
                prop_assert!(sum <= TOTAL + 4 * largest);
                for task in 0..4 {
                    prop_assert!(waiting[task].is_empty() || !held[task].is_empty(), "a task that holds nothing never waits");
                }
            }
            drop(waiting);
            drop(held);
            prop_assert!(tasks.iter().all(|task| task.held() == 0));
        }
    }
}
