//! What a sink task has in flight, in order, and how far all of it is finished.
//!
//! A batch enters when it is handed to the writer, with the positions behind it. It is finished when the target holds
//! it durably, or when nothing of it is left to write. Batches may finish out of order: one that a filter emptied is
//! finished at once, while those before it still sit in the writer's buffer. Only a finished prefix counts (I2): the
//! positions of a batch are given out when it and all batches before it are finished.
//!
//! Offsets are never compared: a later batch's position of a partition simply replaces an earlier one's, so a target
//! that was sought back is followed as faithfully as one that moves on.

use std::collections::{BTreeMap, VecDeque};

use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;

/// Batches in flight. Pure; see the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    in_flight: VecDeque<Entry>,
    /// Ticket of the first entry in flight.
    first: u64,
    /// Newest positions of the finished prefix that were not taken yet.
    finished: BTreeMap<TopicPartition, LogPosition>,
}

#[derive(Debug)]
struct Entry {
    next: Vec<LogPosition>,
    finished: bool,
}

/// Names a batch in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

impl Ledger {
    /// Enters a batch that ends at `next`.
    pub(super) fn enter(&mut self, next: Vec<LogPosition>) -> Ticket {
        self.in_flight.push_back(Entry { next, finished: false });
        Ticket(self.first + self.in_flight.len() as u64 - 1)
    }

    /// The batch alone is finished.
    pub(super) fn finish(&mut self, ticket: Ticket) {
        if let Some(entry) = ticket.0.checked_sub(self.first).and_then(|place| self.in_flight.get_mut(place as usize)) {
            entry.finished = true;
        }
        self.advance();
    }

    /// Everything entered so far is finished.
    pub(super) fn finish_all(&mut self) {
        for entry in &mut self.in_flight {
            entry.finished = true;
        }
        self.advance();
    }

    /// The positions that the finished prefix reached since the last call.
    pub(super) fn take_finished(&mut self) -> Vec<LogPosition> {
        std::mem::take(&mut self.finished).into_values().collect()
    }

    /// Whether there is neither a batch in flight nor a position to take.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.finished.is_empty()
    }

    // I2: positions leave only from the front, and only behind a finished batch.
    fn advance(&mut self) {
        while self.in_flight.front().is_some_and(|entry| entry.finished) {
            let entry = self.in_flight.pop_front().expect("the front was just looked at");
            self.first += 1;
            for position in entry.next {
                self.finished.insert(position.topic_partition.clone(), position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn position(topic: u8, offset: u64) -> LogPosition {
        let topic_partition = TopicPartition { topic: Arc::from(format!("t{topic}")), partition: 0 };
        LogPosition { log: Arc::from("log"), topic_partition, offset }
    }

    #[test]
    fn a_batch_that_finishes_early_waits_for_those_before_it() {
        let mut ledger = Ledger::default();
        let first = ledger.enter(vec![position(0, 10)]);
        let second = ledger.enter(vec![position(0, 20)]);
        ledger.finish(second);
        assert!(ledger.take_finished().is_empty());
        ledger.finish(first);
        assert_eq!(ledger.take_finished(), [position(0, 20)]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn partitions_of_earlier_batches_are_not_forgotten() {
        let mut ledger = Ledger::default();
        ledger.enter(vec![position(0, 1)]);
        ledger.enter(vec![position(1, 5)]);
        ledger.finish_all();
        assert_eq!(ledger.take_finished(), [position(0, 1), position(1, 5)]);
        assert!(ledger.take_finished().is_empty());
    }

    #[test]
    fn finishing_twice_changes_nothing() {
        let mut ledger = Ledger::default();
        let first = ledger.enter(vec![position(0, 1)]);
        ledger.finish(first);
        ledger.enter(vec![position(0, 2)]);
        ledger.finish(first);
        assert_eq!(ledger.take_finished(), [position(0, 1)]);
    }

    proptest! {
        /// I2 against a naive model: what is given out is exactly what the longest finished prefix reached.
        #[test]
        fn i2_only_a_finished_prefix_advances(steps in prop::collection::vec((0u8..4, 0u8..3, any::<prop::sample::Index>()), 1..80)) {
            let mut ledger = Ledger::default();
            let mut model: Vec<(Ticket, LogPosition, bool)> = Vec::new();
            let mut given = BTreeMap::new();
            let mut offset = 0;
            for (step, topic, index) in steps {
                match step {
                    0 | 1 => {
                        offset += 1;
                        let ticket = ledger.enter(vec![position(topic, offset)]);
                        model.push((ticket, position(topic, offset), false));
                    }
                    2 if !model.is_empty() => {
                        let chosen = index.index(model.len());
                        model[chosen].2 = true;
                        ledger.finish(model[chosen].0);
                    }
                    _ => {
                        for position in ledger.take_finished() {
                            given.insert(position.topic_partition.clone(), position);
                        }
                        let mut expected = BTreeMap::new();
                        for (_, position, _) in model.iter().take_while(|(_, _, finished)| *finished) {
                            expected.insert(position.topic_partition.clone(), position.clone());
                        }
                        prop_assert_eq!(&given, &expected);
                    }
                }
            }
        }
    }
}
