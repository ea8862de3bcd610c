//! Reading the rows that are there while the log is followed: the `watermark` strategy, and what signals ask for.
//!
//! Tables are read one after another, each in chunks in the order of its key, beside the log (`read`): neither waits for the
//! other (I4). The windows of the kit decide which rows of a chunk are emitted; `visibility` says what a chunk's read could see. A
//! chunk is emitted between two transactions, once the log has passed what its read could see. Its records travel in one batch with
//! the key that they end in, so a restart goes on behind the last durable chunk (I3).
//!
//! The log may stand still before the place that it has to pass, because what is written is not flushed. Then a
//! transaction that changes nothing is committed, which makes the server flush; no right is needed for it.
//!
//! Room for a chunk and for the keys that the log touches meanwhile is reserved (I6). Where the stream waits for room, they give way:
//! all is forgotten and read again, since a chunk that waits for the log may hold what the log waits for.
//!
//! Keys are held against each other as they stand in records. So a table whose records have another key than its rows
//! (`message.key.columns`, masked key columns), or whose log does not tell the key, cannot be read so, nor can one without a key,
//! unless a signal names a column in its place. The snapshot at the start reads those by the `consistent` strategy.
//!
//! What signals ask for is told in notifications under the signal's id: STARTED, IN_PROGRESS with each chunk, TABLE_SCAN_COMPLETED
//! with a status, COMPLETED. A table that cannot be read is told of and left out (I11); it stops nothing else (I10).

mod keys;
mod read;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tailwater_api::metrics::Metrics;
use tailwater_api::record::Record;
use tailwater_api::source::{ByteBudget, Reservation};
use tailwater_api::state::StateChange;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::envelope::Change;
use tailwater_kit::filters::NameList;
use tailwater_kit::notification::{Aggregate, Happening, Notifications};
use tailwater_kit::pace::Pace;
use tailwater_kit::snapshot_figures::{SnapshotFigures, TableFigures};
use tailwater_kit::windows::{Look, Reconciled, Visibility as _, Windows};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use self::keys::{TouchedRows, touched};
use self::read::{CHUNK, Chunk, ChunkRead, Outcome};
use crate::catalog::{Publication, TableDefinition};
use crate::config::PostgresConfig;
use crate::connect::{SqlSession, sql_error};
use crate::event::Blocks;
use crate::lsn::Lsn;
use crate::pgoutput::ReplicaIdentity;
use crate::plans::Plans;
use crate::position::{CompletedTable, ReadingTable};
use crate::relation::TablePlan;
use crate::request::TableRequest;
use crate::visibility::{LoggedTransaction, Sight, replayed, sight};

/// Octets of the keys that are remembered (I6).
const TOUCHED_LIMIT: usize = 1 << 20;
/// Rows of the first chunk, and of any.
const FIRST_ROWS: usize = 1024;
const MOST_ROWS: usize = 64 << 10;
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How long transactions may be waited for before it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the log tells the key of each change of the table, and records have it; or why not.
fn is_told_by_key(config: &PostgresConfig, table: &TableDefinition) -> Result<(), String> {
    let relational = &config.relational;
    let is_told = match table.identity {
        ReplicaIdentity::Default => table.has_primary_key,
        ReplicaIdentity::Index => table.key.iter().all(|column| table.identity_columns.contains(column)),
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
    };
    if !is_told {
        return Err(format!("its replica identity does not tell its key; ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted()));
    }
    let name = table.full_name();
    let has_own_key = relational.key_columns.of(&table.schema, &table.name).is_some()
        || table.key.iter().any(|column| relational.column_rules.of(&format!("{name}.{column}")).is_some());
    if has_own_key {
        return Err("its records have another key than its rows; take a blocking snapshot".to_owned());
    }
    Ok(())
}

/// Whether the snapshot at the start reads the table in chunks.
pub(crate) fn is_chunked(config: &PostgresConfig, table: &TableDefinition) -> bool {
    config.snapshot.in_chunks
        && !table.key.is_empty()
        && is_told_by_key(config, table).is_ok()
        && !config.relational.snapshot_selects.iter().any(|(selected, _)| selected.eq_ignore_ascii_case(&table.full_name()))
}

/// Reads tables in chunks, one after another.
pub(crate) struct Chunks {
    config: Arc<PostgresConfig>,
    publication: Arc<Option<Publication>>,
    notifications: Notifications,
    budget: Arc<dyn ByteBudget>,
    windows: Windows<Sight>,
    /// Room for the keys that the windows remember and for a chunk; nothing is remembered or read without it
    room: Option<Reservation>,
    tables: VecDeque<ReadingTable>,
    paused: bool,
    /// At most one step, on the session
    under_way: JoinSet<(SqlSession, Result<Step>)>,
    session: Option<SqlSession>,
    finished: Option<Result<Step>>,
    /// A chunk that the log has not passed yet
    chunk: Option<(Look, Chunk)>,
    rows: usize,
    pace: Pace,
    /// Before this no chunk is read: the rate of a snapshot may be limited.
    paced: Instant,
    metrics: Arc<dyn Metrics>,
    /// While there are tables
    snapshot: Option<SnapshotFigures>,
    /// Of each table, by its name
    figures: HashMap<String, TableFigures>,
    /// Before this no step is begun.
    due: Instant,
    waiting_since: Option<Instant>,
}

/// What is done beside the log.
enum Step {
    /// There is room.
    Room(Reservation),
    /// It was looked which transactions are visible.
    Looked(Look, Sight),
    /// A transaction ended.
    Ended,
    /// A chunk of the first table was read.
    Read(Look, Outcome),
    /// The first table cannot be read; that concerns nothing else.
    Failed(Look, Error),
}

/// Records that stand in the log here and now, and how far the tables are then.
pub(crate) struct Emission {
    /// How the rows become records; `None` where there are none
    pub(crate) plan: Option<TablePlan>,
    pub(crate) rows: Vec<Change>,
    /// Whether a signal asked for them
    pub(crate) is_asked_for: bool,
    pub(crate) notifications: Vec<Record>,
    pub(crate) state: Vec<StateChange>,
}

impl Chunks {
    /// Reads `tables`, first to last.
    pub(crate) fn new(
        config: Arc<PostgresConfig>,
        publication: Arc<Option<Publication>>,
        budget: Arc<dyn ByteBudget>,
        metrics: Arc<dyn Metrics>,
        tables: Vec<ReadingTable>,
        paused: bool,
    ) -> Self {
        let mut chunks = Self {
            notifications: Notifications::new(&config.relational.notifications, &config.relational.topic_prefix),
            session: Some(SqlSession::new(config.clone())),
            publication,
            budget,
            windows: Windows::new(TOUCHED_LIMIT, None),
            room: None,
            tables: VecDeque::new(),
            paused,
            pace: Pace::new(config.relational.snapshot_bytes_per_second),
            paced: Instant::now(),
            snapshot: (!tables.is_empty()).then(|| SnapshotFigures::go_on(&metrics)),
            metrics,
            figures: HashMap::new(),
            under_way: JoinSet::new(),
            finished: None,
            chunk: None,
            rows: FIRST_ROWS,
            due: Instant::now(),
            waiting_since: None,
            config,
        };
        chunks.append(tables);
        chunks
    }

    fn append(&mut self, tables: Vec<ReadingTable>) {
        for table in tables {
            let snapshot = self.snapshot.get_or_insert_with(|| SnapshotFigures::begin(&self.metrics));
            self.figures.insert(table.name.clone(), snapshot.table(&table.name, table.rows));
            self.tables.push_back(table);
        }
    }

    /// The table is read no more, because it is complete, or is left out.
    fn end_figures(&mut self, table: &ReadingTable, is_complete: bool) {
        if let (Some(snapshot), Some(mut figures)) = (&self.snapshot, self.figures.remove(&table.name)) {
            if is_complete {
                snapshot.complete(&mut figures);
            } else {
                snapshot.leave_out(&figures);
            }
        }
        if self.is_idle() {
            self.snapshot = None;
        }
    }

    /// Whether there is nothing to read.
    pub(crate) fn is_idle(&self) -> bool {
        self.tables.is_empty()
    }

    /// The requests whose tables are not read to their end.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &TableRequest> {
        self.tables.iter().filter_map(|table| table.request.as_ref())
    }

    /// The ids of the signals whose tables are not read to their end, in their order.
    pub(crate) fn signals(&self) -> Vec<String> {
        let mut signals: Vec<String> = Vec::new();
        for request in self.requests() {
            if !signals.contains(&request.signal) {
                signals.push(request.signal.clone());
            }
        }
        signals
    }

    /// What `data_collections` says of a signal: its tables that are not read to their end.
    pub(crate) fn collections(&self, signal: &str) -> String {
        let of_signal = self.tables.iter().filter(|table| table.request.as_ref().is_some_and(|request| request.signal == signal));
        of_signal.map(|table| table.name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Reads further tables behind those that are there. To be called between two transactions.
    pub(crate) fn add(&mut self, tables: Vec<ReadingTable>) {
        self.append(tables);
        // What the log touched of them is not known.
        self.begin_anew();
    }

    /// Gives up what signals asked for, as far as `names` match, all where there are none. Returns what is given up. To be called
    /// between two transactions.
    pub(crate) fn stop(&mut self, names: &NameList) -> Vec<ReadingTable> {
        let is_stopped = |table: &ReadingTable| table.request.is_some() && (names.is_empty() || names.matches(&table.name));
        let first = self.tables.front().is_some_and(is_stopped);
        let (stopped, left): (Vec<_>, Vec<_>) = self.tables.drain(..).partition(is_stopped);
        self.tables = left.into();
        stopped.iter().for_each(|table| self.end_figures(table, false));
        if first {
            self.begin_anew();
        }
        stopped
    }

    /// Lets the reading rest behind the chunk that is under way, or go on.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.due = Instant::now();
    }

    /// Whether the reading rests.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Forgets keys, the step under way and the chunk that is read.
    fn begin_anew(&mut self) {
        if !self.under_way.is_empty() {
            self.under_way.abort_all();
            self.under_way = JoinSet::new();
            self.session = Some(SqlSession::new(self.config.clone()));
        }
        self.finished = None;
        self.chunk = None;
        self.room = None;
        self.waiting_since = None;
        self.windows.restart();
        self.due = Instant::now();
    }

    /// Whether it may hold the room that somebody else waits for.
    pub(crate) fn takes_room(&self) -> bool {
        self.room.is_some() || !self.under_way.is_empty()
    }

    /// Gives all its room back (I6), and tries again later.
    pub(crate) fn give_way(&mut self) {
        self.begin_anew();
        self.due = Instant::now() + PAUSE;
    }

    /// The log tells of a change of the table with this oid.
    pub(crate) fn touch(&mut self, transaction: LoggedTransaction, relation: u32, plan: Option<&TablePlan>, change: &Change) {
        if self.room.is_none() {
            return;
        }
        // What the chunk has seen, later ones see as well.
        if self.chunk.as_ref().is_some_and(|(_, chunk)| chunk.sight.sees(&transaction)) {
            return;
        }
        let mut seen = None;
        for table in self.tables.iter().filter(|table| table.oid == relation) {
            let surrogate = table.request.as_ref().and_then(|request| request.surrogate.as_deref());
            let column = plan.filter(|plan| plan.key_columns().next().is_none()).zip(surrogate).map(|(plan, name)| plan.place(name));
            let column = match column {
                None => None,
                // The table cannot be read either.
                Some(None) => continue,
                Some(Some(place)) => Some(place),
            };
            if seen == Some(column) {
                continue;
            }
            seen = Some(column);
            match touched(change, column) {
                TouchedRows::Keys(keys) => keys.iter().for_each(|key| self.windows.touch(&transaction, relation, key)),
                TouchedRows::All => self.windows.truncate(&transaction, relation),
                TouchedRows::Unknown => self.windows.lose(&transaction),
            }
        }
    }

    /// The log tells of a transaction of which a part was durable before: that part is not decoded.
    pub(crate) fn lose(&mut self, transaction: LoggedTransaction) {
        self.windows.lose(&transaction);
    }

    /// Waits until [`Chunks::advance`] has something to do, other than to look how far the log is. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        if self.finished.is_some() {
            return;
        }
        if let Some(ended) = self.under_way.join_next().await {
            self.finished = Some(self.take_back(ended));
        } else if self.rests() {
            std::future::pending::<()>().await;
        } else {
            tokio::time::sleep_until(self.due).await;
        }
    }

    fn take_back(&mut self, ended: std::result::Result<(SqlSession, Result<Step>), tokio::task::JoinError>) -> Result<Step> {
        match ended {
            Ok((session, step)) => {
                self.session = Some(session);
                step
            }
            Err(error) => Err(Error::new(ErrorKind::Bug, "read a chunk of the table").because(error)),
        }
    }

    /// Nothing is to be done, and nothing will be by itself.
    fn rests(&self) -> bool {
        self.is_idle() || (self.paused && self.chunk.is_none())
    }

    /// Does what can be done between two transactions, without waiting; the log has been followed to `reached`. What it returns
    /// has to be sent before the log goes on.
    pub(crate) fn advance(&mut self, plans: &Plans, blocks: &Blocks, reached: Lsn) -> Result<Option<Emission>> {
        if let Some(ended) = self.under_way.try_join_next() {
            self.finished = Some(self.take_back(ended));
        }
        let mut emission = match self.finished.take().transpose()? {
            Some(step) => self.take(step),
            None => None,
        };
        if emission.is_none()
            && let Some((look, chunk)) = self.chunk.take_if(|(_, chunk)| chunk.passed <= reached)
        {
            emission = self.emit(look, chunk);
        }
        if self.rests() {
            // Nobody has to know what is touched.
            if self.under_way.is_empty() && self.room.is_some() {
                self.begin_anew();
            }
        } else if self.due <= Instant::now() {
            self.begin(plans, blocks);
        }
        Ok(emission)
    }

    /// Begins the next step, if none is under way.
    fn begin(&mut self, plans: &Plans, blocks: &Blocks) {
        let Some(mut session) = self.session.take() else { return };
        if self.room.is_none() {
            let budget = Arc::clone(&self.budget);
            self.under_way.spawn(async move {
                let room = budget.reserve(TOUCHED_LIMIT + CHUNK).await;
                (session, Ok(Step::Room(room)))
            });
        } else if self.chunk.is_some() {
            self.under_way.spawn(async move {
                let ended = end_a_transaction(&mut session).await.map(|()| Step::Ended);
                (session, ended)
            });
        } else if let Some(look) = self.windows.begin_read() {
            self.begin_read(session, look, plans, blocks);
        } else {
            let look = self.windows.look();
            self.under_way.spawn(async move {
                let sight = look_around(&mut session).await.map(|sight| Step::Looked(look, sight));
                (session, sight)
            });
        }
    }

    fn begin_read(&mut self, mut session: SqlSession, look: Look, plans: &Plans, blocks: &Blocks) {
        let Some(table) = self.tables.front() else {
            self.session = Some(session);
            return;
        };
        let mut read = ChunkRead {
            config: self.config.clone(),
            publication: self.publication.clone(),
            compiler: plans.compiler(blocks, table.oid),
            table: table.clone(),
            rows: self.rows.min(self.config.relational.chunk_rows.unwrap_or(MOST_ROWS)),
        };
        let is_asked_for = table.request.is_some();
        if let Some(figures) = self.figures.get_mut(&table.name).filter(|figures| figures.waits()) {
            figures.begin(None);
        }
        self.under_way.spawn(async move {
            let step = match read.run(&mut session).await {
                Ok(outcome) => Ok(Step::Read(look, outcome)),
                Err(error) if is_asked_for && concerns_one_table(&error) => Ok(Step::Failed(look, error)),
                Err(error) => Err(error),
            };
            (session, step)
        });
    }

    fn take(&mut self, step: Step) -> Option<Emission> {
        self.due = Instant::now();
        match step {
            Step::Room(room) => {
                self.room = Some(room);
                self.windows.restart();
            }
            Step::Ended => self.due += PAUSE,
            Step::Looked(look, sight) => {
                self.windows.learn(look, &sight);
                self.tell_of_wait();
            }
            Step::Read(look, Outcome::Contended) => {
                self.windows.end_read(look);
                self.due += PAUSE;
            }
            Step::Read(look, Outcome::Unfit { status, why }) => {
                self.windows.end_read(look);
                return self.give_up(status, &why);
            }
            Step::Failed(look, error) => {
                self.windows.end_read(look);
                return self.give_up("SQL_EXCEPTION", &error.to_string());
            }
            Step::Read(look, Outcome::Chunk(chunk)) => {
                self.windows.learn(look, &chunk.sight);
                self.paced = self.pace.count(chunk.octets).unwrap_or(self.paced);
                self.chunk = Some((look, *chunk));
                // The log may pass it by itself.
                self.due += PAUSE;
            }
        }
        None
    }

    /// Tells whom the first read waits for.
    fn tell_of_wait(&mut self) {
        if self.windows.is_settled() {
            self.waiting_since = None;
            return;
        }
        self.due += PAUSE;
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            self.waiting_since = Some(Instant::now());
            let waits_for = self.windows.waits_for().iter().map(|transaction| transaction.xid.to_string()).collect::<Vec<_>>().join(", ");
            warn!(
                "the snapshot waits for transactions {waits_for} to end. To see whose they are: SELECT pid, mode FROM pg_locks WHERE \
                 locktype = 'transactionid' AND transactionid::text IN ('{}');",
                waits_for.replace(", ", "', '")
            );
        }
    }

    /// Leaves the first table out.
    fn give_up(&mut self, status: &str, why: &str) -> Option<Emission> {
        let table = self.tables.pop_front()?;
        self.end_figures(&table, false);
        warn!(table = %table.name, rows = table.rows, "the snapshot cannot read the table to its end: {why}");
        let notifications = self.tell_of_end(&table, status);
        let state = vec![table.removal(&self.config.relational.topic_prefix)];
        Some(Emission { plan: None, rows: Vec::new(), is_asked_for: table.request.is_some(), notifications, state })
    }

    /// Emits the chunk, which the log has passed.
    fn emit(&mut self, look: Look, mut chunk: Chunk) -> Option<Emission> {
        self.due = self.paced.max(Instant::now());
        let count = chunk.rows.len();
        let table = self.tables.front_mut()?;
        match self.windows.reconcile(look, &chunk.sight, table.oid, &mut chunk.rows, |(key, _)| key) {
            Reconciled::ReadAgain => {
                self.rows = (count / 2).max(1);
                return None;
            }
            Reconciled::Emit { dropped: _ } => {}
        }
        if count > 0 {
            self.rows = (count * CHUNK / chunk.weight.max(1)).clamp(1, MOST_ROWS).min(self.rows * 2);
        }
        table.rows += count as u64;
        table.range = chunk.range;
        let table = table.clone();
        if let Some(figures) = self.figures.get_mut(&table.name) {
            figures.estimate(chunk.estimated);
            figures.add(count as u64, chunk.octets as u64);
        }
        let server = &self.config.relational.topic_prefix.clone();
        let mut notifications = if count > 0 { self.tell_of_chunk(&table) } else { Vec::new() };
        let state = if chunk.is_last {
            self.tables.pop_front();
            self.end_figures(&table, true);
            info!(table = %table.name, rows = table.rows, "the snapshot of the table is complete");
            notifications.extend(self.tell_of_end(&table, if table.rows == 0 { "EMPTY" } else { "SUCCEEDED" }));
            if table.request.is_some() {
                table.removal(server)
            } else {
                // Each event of the table is needed, so nothing is dropped by an anchor.
                CompletedTable { name: table.name.clone(), oid: Some(table.oid), anchor: Lsn::INVALID, rows: table.rows }.change(server)
            }
        } else {
            table.change(server)
        };
        let rows = chunk.rows.into_iter().map(|(_, change)| change).collect();
        Some(Emission { plan: Some(chunk.plan), rows, is_asked_for: table.request.is_some(), notifications, state: vec![state] })
    }

    fn tell_of_chunk(&self, table: &ReadingTable) -> Vec<Record> {
        let (Some(request), Some(range)) = (&table.request, &table.range) else { return Vec::new() };
        let data = [
            ("current_collection_in_progress", table.name.as_str()),
            ("maximum_key", &range.until.join(",")),
            ("last_processed_key", &range.after.join(",")),
            ("data_collections", &self.collections(&request.signal)),
        ];
        self.tell(&request.signal, Happening::InProgress, &data).into_iter().collect()
    }

    /// Tells that `table`, which is the first no more, was read or left out.
    fn tell_of_end(&self, table: &ReadingTable, status: &str) -> Vec<Record> {
        let Some(request) = &table.request else { return Vec::new() };
        let left = self.collections(&request.signal);
        let collections = if left.is_empty() { table.name.clone() } else { format!("{},{left}", table.name) };
        let data = [
            ("scanned_collection", table.name.as_str()),
            ("total_rows_scanned", &table.rows.to_string()),
            ("data_collections", &collections),
            ("status", status),
        ];
        let scanned = self.tell(&request.signal, Happening::TableScanCompleted, &data);
        let completed = left.is_empty().then(|| self.tell(&request.signal, Happening::Completed, &[])).flatten();
        scanned.into_iter().chain(completed).collect()
    }

    /// A notification about the snapshot that a signal asked for.
    pub(crate) fn tell(&self, signal: &str, happening: Happening, data: &[(&str, &str)]) -> Option<Record> {
        self.notifications.give_about(signal, Aggregate::IncrementalSnapshot, happening, data)
    }
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

/// Looks which transactions are visible.
async fn look_around(session: &mut SqlSession) -> Result<Sight> {
    // A snapshot lists only what began before the last transaction that ended. Now one has ended that began last.
    end_a_transaction(session).await?;
    let sql = session.get().await?;
    let replayed = replayed(sql).await?;
    let (sight, _) = sight(sql, replayed).await?;
    Ok(sight)
}

/// Commits a transaction that has a number and changes nothing. A standby has none, and needs none.
async fn end_a_transaction(session: &mut SqlSession) -> Result<()> {
    let query = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN txid_current() END";
    session.get().await?.query_one(query, &[]).await.map_err(|error| sql_error("take a transaction number", error))?;
    Ok(())
}
