//! The log that the server keeps for our slot: how much, and for how long that goes well.
//!
//! Where `max_slot_wal_keep_size` is set, the server says how many bytes may still be written before the slot is in danger
//! (`safe_wal_size`); held against how fast the log grows, that is a time. A warning says so when it becomes short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tailwater_api::Result;
use tailwater_api::metrics::{Gauge, Metrics};
use tracing::warn;

use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession, sql_error};

/// How often it is measured.
const INTERVAL: Duration = Duration::from_secs(10);
/// Less time left than this is told of.
const SHORT: Duration = Duration::from_secs(3600);
/// Time between two warnings.
const WARNING_PAUSE: Duration = Duration::from_secs(600);

/// The figures of one slot.
pub(crate) struct Retention {
    retained: Gauge,
    safe: Gauge,
    left: Gauge,
}

/// What the server says at one moment.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    at: Instant,
    /// End of the log
    end: u64,
    retained: i64,
    /// `None` where the server keeps all that is needed
    safe: Option<i64>,
}

impl Retention {
    pub(crate) fn new(metrics: &dyn Metrics) -> Self {
        Self {
            retained: metrics.gauge("retained_wal_bytes", "Log that the server keeps for the slot.", None),
            safe: metrics.gauge("slot_safe_wal_bytes", "Log that may be written before the slot can be lost; -1 for no limit.", None),
            left: metrics.gauge("slot_safe_seconds", "Time until the slot can be lost at the present rate of writing; -1 for never.", None),
        }
    }

    /// Keeps the figures current. Never ends; a server that does not answer is asked again.
    pub(crate) async fn keep_measuring(self, config: Arc<PostgresConfig>) -> Result<()> {
        let mut session = SqlSession::new(config.clone());
        let mut last = None;
        let mut warned: Option<Instant> = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Only figures depend on it, and the stream itself notices when the server is gone.
            let Ok(sql) = session.get().await else { continue };
            let Ok(Some(now)) = measure(sql, &config.slot).await else { continue };
            let left = last.and_then(|last| time_left(last, now));
            last = Some(now);
            self.retained.set(now.retained);
            self.safe.set(now.safe.unwrap_or(-1));
            self.left.set(left.map_or(-1, |left| i64::try_from(left.as_secs()).unwrap_or(i64::MAX)));
            if let Some(left) = left.filter(|left| *left < SHORT)
                && warned.is_none_or(|warned| warned.elapsed() > WARNING_PAUSE)
            {
                warned = Some(Instant::now());
                warn!(
                    slot = %config.slot,
                    "at the present rate the server removes log that the slot needs in {} minutes: see why what was captured does not become \
                     durable, or ALTER SYSTEM SET max_slot_wal_keep_size = …; SELECT pg_reload_conf();",
                    left.as_secs() / 60
                );
            }
        }
    }
}

/// Time until the safe bytes are written; `None` where there is no limit or nothing is written.
fn time_left(before: Measurement, now: Measurement) -> Option<Duration> {
    let safe = u64::try_from(now.safe?.max(0)).unwrap_or(0);
    let written = now.end.saturating_sub(before.end);
    if written == 0 {
        return None;
    }
    let seconds = now.at.duration_since(before.at).as_secs_f64() * (safe as f64 / written as f64);
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

async fn measure(sql: &SqlConnection, slot: &str) -> Result<Option<Measurement>> {
    // Servers before 13 have no safe_wal_size; it is null this way.
    let query = "SELECT (log.place - '0/0'::pg_lsn)::int8, pg_wal_lsn_diff(log.place, restart_lsn)::int8, (to_jsonb(s) ->> 'safe_wal_size')::int8 \
                 FROM pg_replication_slots s, \
                 (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS place) log \
                 WHERE slot_name = $1";
    let row = sql.query_opt(query, &[&slot]).await.map_err(|error| sql_error(format!("read the lag of slot {slot}"), error))?;
    Ok(row.map(|row| Measurement {
        at: Instant::now(),
        end: row.get::<_, Option<i64>>(0).map_or(0, i64::unsigned_abs),
        retained: row.get::<_, Option<i64>>(1).unwrap_or(0),
        safe: row.get(2),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_the_safe_log_over_the_rate() {
        let before = Measurement { at: Instant::now(), end: 1000, retained: 0, safe: Some(5000) };
        let now = |end, safe| Measurement { at: before.at + Duration::from_secs(10), end, safe, ..before };
        assert_eq!(time_left(before, now(2000, Some(4000))), Some(Duration::from_secs(40)));
        assert_eq!(time_left(before, now(2000, Some(-5))), Some(Duration::ZERO), "in danger already");
        assert_eq!(time_left(before, now(1000, Some(4000))), None, "nothing is written");
        assert_eq!(time_left(before, now(2000, None)), None, "no limit");
    }
}
