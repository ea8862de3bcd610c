//! Exponential backoff with jitter.
//!
//! The ceiling doubles with each failure up to a maximum; the delay is drawn between half the ceiling and the whole of
//! it. The lower half keeps a failing server from being asked at once, the upper half keeps many clients of one
//! failed server from coming back in step.

use std::time::Duration;

/// Delays between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays that start at about `initial` and end at about `max`. Equal values give a constant ceiling.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max }
    }

    /// How long to wait after `failures` failures in a row, counted from 1.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        self.ceiling(failures).mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_stay_within_their_half() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for (failures, ceiling) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (u32::MAX, 1000)] {
            let ceiling = Duration::from_millis(ceiling);
            for _ in 0..200 {
                let delay = backoff.delay(failures);
                assert!(delay >= ceiling / 2 && delay <= ceiling, "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn delays_differ_so_that_clients_do_not_come_back_in_step() {
        let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(10));
        let first = backoff.delay(1);
        assert!((0..100).any(|_| backoff.delay(1) != first));
    }
}
