//! A rate that is not exceeded: so many bytes a second, whoever reads them.
//!
//! What was taken moves the moment from which the next may be taken, by as long as it should have lasted. Time in which
//! nothing was taken is not made up for later, so a rest is not followed by a burst.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A limit that several readers share.
#[derive(Debug)]
pub struct Pace {
    /// `None` for no limit
    bytes_per_second: Option<u64>,
    due: Mutex<Instant>,
}

impl Pace {
    /// At most so many bytes a second; 0 for no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: Some(bytes_per_second).filter(|rate| *rate > 0), due: Mutex::new(Instant::now()) }
    }

    /// Counts what was taken, and says when the next may be; `None` where nothing has to be waited for.
    pub fn count(&self, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let lasts = Duration::from_secs_f64(bytes as f64 / rate as f64);
        // A panic elsewhere leaves a moment that is as good as any.
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = (*due).max(Instant::now()) + lasts;
        Some(*due)
    }

    /// Counts what was taken, and waits until the next may be. Cancel-safe: what was counted stays counted.
    pub async fn pass(&self, bytes: usize) {
        if let Some(due) = self.count(bytes) {
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nothing_waits() {
        assert_eq!(Pace::new(0).count(usize::MAX), None);
    }

    #[test]
    fn what_was_taken_is_paid_for_in_time_by_all_together() {
        let begun = Instant::now();
        let pace = Pace::new(1000);
        let first = pace.count(500).unwrap();
        let second = pace.count(2000).unwrap();
        assert!(first >= begun + Duration::from_millis(500));
        assert_eq!(second, first + Duration::from_secs(2));
    }

    #[test]
    fn a_rest_is_not_made_up_for() {
        let pace = Pace::new(1000);
        let rested = Instant::now() - Duration::from_secs(60);
        *pace.due.lock().unwrap() = rested;
        assert!(pace.count(1000).unwrap() >= rested + Duration::from_secs(61));
    }
}
