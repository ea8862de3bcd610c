//! The log that the server keeps for our slot: how much, how fast it becomes more, and for how long that goes well.
//!
//! Where `max_slot_wal_keep_size` is set, the server says how many bytes may still be written before it removes what the slot needs
//! (`safe_wal_size`). By default it is not, and the server keeps the log until its disk is full, which it does not tell; then
//! `slot.retained.wal.warn.bytes` marks what is too much. What counts is the nearer of the two, and the time until it is reached at
//! the rate at which what is kept has grown over the last minute. A slot lets go of the log by steps of some fifteen seconds, so
//! nothing is said of the rate before some such time has been looked at.
//!
//! The log of the connector has one warning when the mark is passed and one when a limit is reached within an hour, and again only
//! after all was well in between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tailwater_api::Result;
use tailwater_api::metrics::{Gauge, Metrics};
use tracing::warn;

use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession, sql_error};

/// How often it is measured.
const INTERVAL: Duration = Duration::from_secs(5);
/// The rate is that of so much time at most, and at least.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(20);
/// Less time left than this is told of.
const SHORT: Duration = Duration::from_secs(3600);

/// The figures of one slot.
pub(crate) struct Retention {
    retained: Gauge,
    growth: Gauge,
    safe: Gauge,
    left: Gauge,
}

/// What the server says at one moment.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    at: Instant,
    retained: i64,
    /// `None` where the server keeps all that is needed
    safe: Option<i64>,
}

/// What was measured in the last minute.
#[derive(Default)]
struct Measurements(VecDeque<Measurement>);

impl Measurements {
    fn add(&mut self, now: Measurement) {
        // Behind the first one, all are younger than the longest time.
        while self.0.get(1).is_some_and(|second| now.at.duration_since(second.at) >= LONGEST) {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// Bytes a second by which what is retained has grown; `None` where that cannot be said yet.
    fn growth(&self) -> Option<f64> {
        let (first, last) = self.0.front().zip(self.0.back())?;
        let time = last.at.duration_since(first.at);
        (time >= SHORTEST).then(|| (last.retained - first.retained) as f64 / time.as_secs_f64())
    }
}

impl Measurement {
    /// What may still be retained: up to the mark, or to the server's own limit if that is nearer. `None` where neither is set.
    fn room(&self, mark: Option<i64>) -> Option<i64> {
        let below_mark = mark.map(|mark| mark - self.retained);
        self.safe.into_iter().chain(below_mark).min().map(|room| room.max(0))
    }
}

/// Time until no room is left; `None` where what is retained does not grow.
fn time_left(room: i64, growth: Option<f64>) -> Option<Duration> {
    if room == 0 {
        return Some(Duration::ZERO);
    }
    let growth = growth.filter(|growth| *growth > 0.0)?;
    Some(Duration::try_from_secs_f64(room as f64 / growth).unwrap_or(Duration::MAX))
}

/// Something that is told of once, and again only after it was over.
#[derive(Default)]
struct Warned(bool);

impl Warned {
    /// Whether it is to be told of now.
    fn begins(&mut self, is_so: bool, is_over: bool) -> bool {
        let begins = is_so && !self.0;
        self.0 = is_so || self.0 && !is_over;
        begins
    }
}

impl Retention {
    pub(crate) fn new(metrics: &dyn Metrics) -> Self {
        Self {
            retained: metrics.gauge("retained_wal_bytes", "Log that the server keeps for the slot.", None),
            growth: metrics.gauge(
                "retained_wal_bytes_per_second",
                "How fast the log that is kept for the slot has grown over the last minute.",
                None,
            ),
            safe: metrics.gauge("slot_safe_wal_bytes", "Log that may be written before the slot can be lost; -1 for no limit.", None),
            left: metrics.gauge(
                "slot_safe_seconds",
                "Time until the server's limit or slot.retained.wal.warn.bytes is reached at that rate of growth; -1 without growth.",
                None,
            ),
        }
    }

    /// Keeps the figures current. Never ends; a server that does not answer is asked again.
    pub(crate) async fn keep_measuring(self, config: Arc<PostgresConfig>) -> Result<()> {
        let mut session = SqlSession::new(config.clone());
        let mut measurements = Measurements::default();
        let (mut passed, mut soon) = (Warned::default(), Warned::default());
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Only figures depend on it, and the stream itself notices when the server is gone.
            if let Ok(sql) = session.get().await
                && let Ok(Some(now)) = measure(sql, &config.slot).await
            {
                measurements.add(now);
                self.judge(&config, now, measurements.growth(), &mut passed, &mut soon);
            }
        }
    }

    fn judge(&self, config: &PostgresConfig, now: Measurement, growth: Option<f64>, passed: &mut Warned, soon: &mut Warned) {
        let mark = config.retained_wal_mark;
        let left = now.room(mark).and_then(|room| time_left(room, growth));
        self.retained.set(now.retained);
        // Saturates; nobody writes that fast.
        self.growth.set(growth.unwrap_or(0.0) as i64);
        self.safe.set(now.safe.unwrap_or(-1));
        self.left.set(left.map_or(-1, |left| i64::try_from(left.as_secs()).unwrap_or(i64::MAX)));

        let becomes_of_it = if now.safe.is_some() {
            "the server removes log that the slot needs (ALTER SYSTEM SET max_slot_wal_keep_size = …; SELECT pg_reload_conf(); moves that)"
        } else {
            "the server keeps it until its disk is full (max_slot_wal_keep_size is not set)"
        };
        let mend = "see why what was captured does not become durable, or which transaction is open for long";
        let is_passed = mark.is_some_and(|mark| now.retained >= mark);
        let is_far_below = mark.is_none_or(|mark| now.retained < mark / 10 * 9);
        if passed.begins(is_passed, is_far_below) {
            warn!(
                slot = %config.slot,
                "the server keeps {} MiB of log for the slot, more than slot.retained.wal.warn.bytes; {becomes_of_it}: {mend}",
                now.retained >> 20
            );
        }
        // Behind the mark, the server's own limit is still ahead.
        let ahead = now.room(mark.filter(|_| !is_passed)).and_then(|room| time_left(room, growth));
        let begins = soon.begins(ahead.is_some_and(|left| left < SHORT), ahead.is_none_or(|left| left > SHORT * 2));
        if let Some(left) = ahead.filter(|_| begins) {
            warn!(
                slot = %config.slot,
                "the log that the server keeps for the slot grows by {} KiB a second and is too much in {} minutes; {becomes_of_it}: {mend}",
                self.growth.get() >> 10,
                left.as_secs() / 60
            );
        }
    }
}

async fn measure(sql: &SqlConnection, slot: &str) -> Result<Option<Measurement>> {
    // Servers before 13 have no safe_wal_size; it is null this way.
    let query = "SELECT pg_wal_lsn_diff(log.place, restart_lsn)::int8, (to_jsonb(s) ->> 'safe_wal_size')::int8 \
                 FROM pg_replication_slots s, \
                 (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS place) log \
                 WHERE slot_name = $1";
    let row = sql.query_opt(query, &[&slot]).await.map_err(|error| sql_error(format!("read the lag of slot {slot}"), error))?;
    Ok(row.map(|row| Measurement { at: Instant::now(), retained: row.get::<_, Option<i64>>(0).unwrap_or(0), safe: row.get(1) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(retained: &[i64], pause: Duration) -> Measurements {
        let begin = Instant::now();
        let mut measurements = Measurements::default();
        for (index, retained) in (0..).zip(retained) {
            measurements.add(Measurement { at: begin + pause * index, retained: *retained, safe: None });
        }
        measurements
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute_and_known_after_some_time() {
        assert_eq!(measured(&[0, 500], SHORTEST / 2).growth(), None);
        assert_eq!(measured(&[0, 500, 2000], SHORTEST / 2).growth(), Some(100.0));
        assert_eq!(measured(&[0, 100, 200, 300, 6200], LONGEST / 2).growth(), Some(100.0));
        assert_eq!(measured(&[9000, 0, 600], LONGEST / 2).growth(), Some(-140.0));
        assert!(measured(&[0; 1000], INTERVAL).0.len() <= 14);
    }

    #[test]
    fn the_nearer_limit_counts_and_none_is_no_danger() {
        let now = |safe| Measurement { at: Instant::now(), retained: 300, safe };
        assert_eq!((now(None).room(None), now(None).room(Some(1000))), (None, Some(700)));
        assert_eq!((now(Some(50)).room(Some(1000)), now(Some(5000)).room(Some(1000))), (Some(50), Some(700)));
        assert_eq!((now(None).room(Some(200)), now(Some(-5)).room(None)), (Some(0), Some(0)), "reached already");
    }

    #[test]
    fn the_time_left_is_the_room_over_the_rate() {
        assert_eq!(time_left(4000, Some(100.0)), Some(Duration::from_secs(40)));
        assert_eq!(time_left(0, Some(-1.0)), Some(Duration::ZERO));
        for still in [None, Some(0.0), Some(-3.0)] {
            assert_eq!(time_left(4000, still), None);
        }
    }

    #[test]
    fn a_warning_comes_once_until_it_was_over() {
        let mut warned = Warned::default();
        let told: Vec<bool> = [(true, false), (true, false), (false, false), (true, false), (false, true), (true, false)]
            .map(|(is_so, is_over)| warned.begins(is_so, is_over))
            .to_vec();
        assert_eq!(told, [true, false, false, false, false, true]);
    }
}
