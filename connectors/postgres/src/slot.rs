//! The replication slot: what the server says about it, its creation, and attaching to it.
//!
//! The creation of a slot waits until every transaction that is writing on the whole server has ended, prepared ones
//! included. While it waits, the log names what it waits for. The server goes on with it although whoever asked for it was killed; until it
//! ends, the slot is there, in use and without a place. A standby learns from its primary which transactions run.
//!
//! A slot that somebody else reads is waited for, and that reader may confirm more before it leaves. `START_REPLICATION` would then skip
//! ahead without a word, however well the stored position stood before (`restart`). So the place of the slot is loaded once more when
//! the stream has begun: from then on nobody else can move it, and we have not answered yet, so it is the place that the server
//! began from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tailwater_api::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio_postgres::types::PgLsn;
use tracing::warn;

use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession, replication_options, sql_error};
use crate::lsn::Lsn;
use crate::open_transactions::open_transactions;
use crate::replication::{FeedbackSender, ReplicationConnection, ReplicationStream};
use crate::restart::SlotState;
use crate::visibility::replayed;

/// The pause before the second try to attach to a slot; each further one is twice as long, up to `slot.retry.delay.ms`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two looks at a slot that is being created.
const CREATION_PAUSE: Duration = Duration::from_millis(100);
/// After this time the log says what a new slot waits for, and then again each time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Loads the state of the slot called `name`, if there is one.
pub(crate) async fn load(sql: &SqlConnection, name: &str) -> Result<Option<SlotState>> {
    // Older servers have no wal_status, no reason of an invalidation and no two phases; they are null this way.
    let query = "SELECT plugin::text, database::text, confirmed_flush_lsn, to_jsonb(s) ->> 'wal_status' = 'lost', active_pid, \
                 to_jsonb(s) ->> 'invalidation_reason', (to_jsonb(s) ->> 'two_phase')::bool \
                 FROM pg_replication_slots s WHERE slot_name = $1";
    let row = sql.query_opt(query, &[&name]).await.map_err(|error| sql_error(format!("read the state of slot {name}"), error))?;
    Ok(row.map(|row| SlotState {
        plugin: row.get(0),
        database: row.get(1),
        confirmed_flush: row.get::<_, Option<PgLsn>>(2).map(|lsn| Lsn::new(lsn.into())),
        lost: row.get::<_, Option<bool>>(3).unwrap_or(false),
        active_pid: row.get(4),
        invalidation: row.get(5),
        two_phase: row.get::<_, Option<bool>>(6).unwrap_or(false),
    }))
}

/// The oldest transaction that the slot holds the catalog for.
pub(crate) async fn catalog_xmin(sql: &SqlConnection, name: &str) -> Result<Option<i64>> {
    let query = "SELECT catalog_xmin::text::int8 FROM pg_replication_slots WHERE slot_name = $1";
    let row =
        sql.query_opt(query, &[&name]).await.map_err(|error| sql_error(format!("read the oldest transaction of slot {name}"), error))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// Looks at it each `xmin.fetch.interval.ms`. Never ends; a server that does not answer is asked again.
pub(crate) async fn keep_xmin_current(config: Arc<PostgresConfig>, current: watch::Sender<Option<i64>>) -> Result<()> {
    let mut session = SqlSession::new(config.clone());
    loop {
        tokio::time::sleep(config.xmin_interval).await;
        // The stream itself notices when the server is gone.
        let Ok(sql) = session.get().await else { continue };
        if let Ok(xmin) = catalog_xmin(sql, &config.slot).await {
            current.send_replace(xmin);
        }
    }
}

/// Loads the state of the slot called `name` as soon as it is not being created, by a former run most likely.
pub(crate) async fn load_created(sql: &SqlConnection, name: &str) -> Result<Option<SlotState>> {
    let created = async {
        loop {
            let slot = load(sql, name).await?;
            let is_in_creation = |slot: &SlotState| slot.plugin.is_some() && slot.confirmed_flush.is_none() && slot.active_pid.is_some();
            if !slot.as_ref().is_some_and(is_in_creation) {
                return Ok(slot);
            }
            tokio::time::sleep(CREATION_PAUSE).await;
        }
    };
    explain_wait(sql, name, created).await
}

/// Awaits the creation of a slot and says what it waits for where that takes long.
pub(crate) async fn explain_wait<T>(sql: &SqlConnection, slot: &str, creation: impl Future<Output = T>) -> T {
    tokio::pin!(creation);
    loop {
        tokio::select! {
            done = &mut creation => return done,
            () = tokio::time::sleep(PATIENCE) => {
                // The wait is what matters here; what cannot be named is none the less waited for.
                let waits_for = waits_for(sql).await.unwrap_or_else(|_| "what the server does not say".to_owned());
                warn!(slot, "the creation of the slot waits for {waits_for}");
            }
        }
    }
}

/// What a new slot waits for, and how that is ended.
async fn waits_for(sql: &SqlConnection) -> Result<String> {
    if replayed(sql).await?.is_some() {
        let primary =
            "the primary to say which transactions run (to make it: SELECT pg_log_standby_snapshot(); there), and for these to end";
        return Ok(primary.to_owned());
    }
    let open: Vec<_> = open_transactions(sql).await?.into_iter().map(|open| open.described).collect();
    Ok(if open.is_empty() {
        "open transactions, none of which is left".to_owned()
    } else {
        format!("open transactions: {}", open.join("; "))
    })
}

/// The error of a refused creation, with its remedy.
pub(crate) fn creation_refused(error: Error) -> Error {
    if error.kind() == ErrorKind::Throttled {
        error.mend("as superuser: ALTER SYSTEM SET max_replication_slots = 20; and restart the server, or drop slots that nobody uses")
    } else {
        error
    }
}

/// Attaches to the slot, again while somebody else does, for as long as Debezium's number of tries takes; `None` where the
/// task is to end. The first tries follow quickly: the server may only have to notice that a killed worker is gone.
///
/// # Errors
/// `conflict` where somebody else keeps the slot; `restarting` where it was confirmed beyond `from` meanwhile, which the next start judges.
pub(crate) async fn attach(
    config: &Arc<PostgresConfig>,
    mut stopping: watch::Receiver<bool>,
    from: Lsn,
    options: &[(String, String)],
) -> Result<Option<(ReplicationStream, FeedbackSender)>> {
    let delay = config.slot_retry_delay;
    let patience = delay.saturating_mul(config.slot_retries);
    let begun = Instant::now();
    let mut told = false;
    let mut pause = FIRST_PAUSE.min(delay);
    let mut session = SqlSession::new(Arc::clone(config));
    loop {
        // Before the stream, which nobody answers until its place is known.
        let sql = session.get().await?;
        let connection = ReplicationConnection::connect(&replication_options(config)).await?;
        let error = match connection.start_replication(&config.slot, from, options).await {
            Ok(started) => {
                refuse_gap(sql, &config.slot, from).await?;
                return Ok(Some(started));
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Conflict {
            return Err(error);
        }
        let pid = load(sql, &config.slot).await?.and_then(|slot| slot.active_pid);
        if begun.elapsed() >= patience {
            let holder = pid.map_or_else(String::new, |pid| format!(", held by pid {pid}"));
            return Err(Error::new(ErrorKind::Conflict, format!("use slot {}{holder}", config.slot)).because(error).mend(format!(
                "give each connector a slot.name of its own, or end the other: SELECT pg_terminate_backend({});",
                pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string())
            )));
        }
        // A worker that was killed is noticed within a moment; that is nothing to be told of.
        if !told && begun.elapsed() > Duration::from_secs(1) {
            told = true;
            warn!(slot = %config.slot, pid, "the slot is in use; trying again for {} s", patience.as_secs());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stop| *stop) => return Ok(None),
        }
        pause = pause.saturating_mul(2).min(delay);
    }
}

/// Refuses a stream that the server began behind `from` (I3). What that means for the stored position is decided in one place only, by
/// the next start.
async fn refuse_gap(sql: &SqlConnection, slot: &str, from: Lsn) -> Result<()> {
    let refused = Error::new(ErrorKind::Restarting, format!("follow slot {slot} from {from}"));
    match load(sql, slot).await?.and_then(|slot| slot.confirmed_flush) {
        Some(confirmed) if confirmed <= from => Ok(()),
        Some(confirmed) => Err(refused
            .because(format!("while it was waited for, another reader confirmed the slot up to {confirmed}"))
            .mend("give each connector a slot.name of its own")),
        None => Err(refused
            .because("the server that SQL sessions reach does not have the slot, although it is being followed")
            .mend("name one server in database.hostname and database.port, not one that passes connections on to several")),
    }
}
