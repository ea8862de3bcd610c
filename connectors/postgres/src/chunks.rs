//! Reading the rows that are there while the log is followed: the `watermark` strategy, and what signals ask for.
//!
//! Tables are read in chunks in the order of their keys, `snapshot.max.threads` of them at once, beside the log: neither waits for the
//! other (I4). A chunk is a piece of a read (`read`), and one read gives as many as come in half a second. The windows of the kit decide
//! which rows are emitted; `visibility` says what a read could see. A chunk is emitted between two transactions, once the log has
//! passed what its read could see. Its records travel in one batch with the key that they end in, so a restart goes on behind the last
//! durable chunk (I3). What both need besides is done step by step (`steps`).
//!
//! Keys that the log touches are remembered of each table that is still to be read, though it is not being read yet: a read that
//! begins later may not see a transaction whose events are emitted already. To remember them only from then on, the table would have
//! to wait as a new session does, until all that runs has ended.
//!
//! A session that reads may be ended by others. That is told, and the read made again; the stream goes on. Where it happens again and
//! again in a row, it is the task's error.
//!
//! Room for the keys that the log touches meanwhile, and for each chunk, is reserved (I6). Where the stream waits for room, they give way:
//! all is forgotten and read again, since a chunk that waits for the log may hold what the log waits for. Then one chunk is read at a
//! time, until a read has come to its end.
//!
//! What of a table is published may change while it is read (`published`).
//!
//! Which tables can be read so is said in `readable`; the snapshot at the start reads the others by the `consistent` strategy. Where a
//! table of it turns out later not to be readable so, because its key was dropped, it is read while the log rests (`blocking`). A table
//! that a signal asks for and that cannot be read is told of and left out (I11); it stops nothing else (I10). A table of the
//! snapshot at the start that cannot be read is errored where the configuration isolates tables (`stream::isolation`), and ends the
//! task otherwise. One that was renamed, or whose name another table has by now, ends the run as `restarting`: the next one reads what
//! has the name then (`source`).

mod keys;
mod outcome;
mod part;
mod published;
mod read;
mod readable;
mod select;
mod steps;
mod table;
mod told;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tailwater_api::metrics::Metrics;
use tailwater_api::record::Record;
use tailwater_api::source::{ByteBudget, Reservation, SourceContext};
use tailwater_api::state::StateChange;
use tailwater_api::{Error, Result};
use tailwater_kit::envelope::Change;
use tailwater_kit::notification::Notifications;
use tailwater_kit::pace::Pace;
use tailwater_kit::snapshot_figures::{SnapshotFigures, TableFigures};
use tailwater_kit::windows::Windows;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::part::{Part, PartialRow};
use self::published::Published;
use self::read::TableRead;
pub(crate) use self::readable::{can_be_chunked, is_chunked};
use self::steps::Step;
use self::table::{Read, Table};
use crate::catalog::Publication;
use crate::config::PostgresConfig;
use crate::connect::{Cancellations, SqlSession};
use crate::event::Blocks;
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::relation::TablePlan;
use crate::table_states::ReadingTable;
use crate::visibility::{LoggedTransaction, Sight};

/// Octets of the keys that are remembered (I6).
const TOUCHED_LIMIT: usize = 1 << 20;
/// Chunks of one read that may be there at once, so that the next are read while one is emitted.
const AHEAD: usize = 3;
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads tables in chunks.
pub(crate) struct Chunks {
    config: Arc<PostgresConfig>,
    server_version: u32,
    notifications: Notifications,
    budget: Arc<dyn ByteBudget>,
    cancellations: Cancellations,
    windows: Windows<Sight, Part>,
    /// Room for the octets of one key
    octets: Vec<u8>,
    /// Room for the keys that the windows remember; nothing is remembered or read without it
    room: Option<Reservation>,
    /// In the order in which they are read
    tables: Vec<Table>,
    /// The places in `tables` of those with an oid, so that what a change costs does not grow with their number
    by_oid: HashMap<u32, Vec<usize>>,
    /// Tables that were ever there
    numbered: u32,
    paused: bool,
    /// At most one step, on the session
    under_way: JoinSet<(SqlSession, Result<Step>)>,
    session: Option<SqlSession>,
    finished: Option<Result<Step>>,
    /// Sessions of reads that have ended
    sessions: Vec<SqlSession>,
    /// Chunks that a read may have there at once
    ahead: usize,
    pace: Arc<Pace>,
    metrics: Arc<dyn Metrics>,
    /// While there are tables
    snapshot: Option<SnapshotFigures>,
    /// Of each table, by its name
    figures: HashMap<String, TableFigures>,
    /// The table whose turn it is to emit
    turn: usize,
    /// Before this neither is room asked for nor looked what is visible.
    looks_from: Instant,
    /// Before this the log may pass by itself what it has to.
    pushes_from: Instant,
    /// Time until the next push, which grows until rows are emitted
    push_pause: Duration,
    /// Steps in a row that failed
    failures: u32,
    /// When the next step can be begun, unless something is told before
    due: Option<Instant>,
    waiting_since: Option<Instant>,
}

/// Records that stand in the log here and now, and how far the tables are then.
#[derive(Default)]
pub(crate) struct Emission {
    /// How the rows become records, and the room that they have; `None` where there are no rows
    pub(crate) plan: Option<(Arc<TablePlan>, Reservation)>,
    pub(crate) rows: Vec<Change>,
    /// Whether a signal asked for them
    pub(crate) is_asked_for: bool,
    pub(crate) notifications: Vec<Record>,
    pub(crate) state: Vec<StateChange>,
    /// A table of the snapshot at the start that has to be read while the log rests
    pub(crate) left_over: Option<ReadingTable>,
    /// A table of it that cannot be read, while the others can
    pub(crate) errored: Option<(String, Error)>,
    /// The name of a table of it that is gone: what has the name next is owed
    pub(crate) owed: Option<String>,
}

impl Chunks {
    /// Reads `tables`, first to last, all as the `publication` of now has them.
    pub(crate) fn new(
        config: Arc<PostgresConfig>,
        server_version: u32,
        publication: Option<&Publication>,
        context: &SourceContext,
        cancellations: Cancellations,
        tables: Vec<ReadingTable>,
        paused: bool,
    ) -> Self {
        let now = Instant::now();
        let metrics = Arc::clone(context.metrics());
        let mut chunks = Self {
            notifications: Notifications::new(&config.relational.notifications, &config.relational.topic_prefix),
            session: Some(SqlSession::new(config.clone())),
            server_version,
            budget: context.budget(),
            cancellations,
            windows: Windows::new(TOUCHED_LIMIT, None),
            octets: Vec::new(),
            room: None,
            tables: Vec::new(),
            by_oid: HashMap::new(),
            numbered: 0,
            paused,
            under_way: JoinSet::new(),
            finished: None,
            sessions: Vec::new(),
            ahead: AHEAD,
            pace: Arc::new(Pace::new(config.relational.snapshot_bytes_per_second)),
            snapshot: (!tables.is_empty()).then(|| SnapshotFigures::go_on(&metrics)),
            metrics,
            figures: HashMap::new(),
            turn: 0,
            looks_from: now,
            pushes_from: now,
            push_pause: PAUSE,
            failures: 0,
            due: Some(now),
            waiting_since: None,
            config,
        };
        chunks.append(tables, publication);
        chunks
    }

    fn append(&mut self, tables: Vec<ReadingTable>, publication: Option<&Publication>) {
        for table in tables {
            let snapshot = self.snapshot.get_or_insert_with(|| SnapshotFigures::begin(&self.metrics));
            snapshot.pause(self.paused);
            self.figures.insert(table.name.clone(), snapshot.table(&table.name, table.rows));
            self.numbered += 1;
            let published = Published::at_begin(publication, table.oid);
            self.tables.push(Table::new(table, self.numbered, published));
        }
        self.index();
    }

    fn remove(&mut self, place: usize) -> ReadingTable {
        let table = self.tables.remove(place);
        self.index();
        table.reading
    }

    fn index(&mut self) {
        self.by_oid.clear();
        for (place, table) in self.tables.iter().enumerate() {
            self.by_oid.entry(table.reading.oid).or_default().push(place);
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

    /// Reads further tables behind those that are there, all as the `publication` of now has them. To be called between two
    /// transactions.
    pub(crate) fn add(&mut self, tables: Vec<ReadingTable>, publication: &Publication) {
        self.append(tables, Some(publication));
        // What the log touched of them is not known.
        self.begin_anew();
    }

    /// Gives up those of the tables that signals asked for which a signal stops. Returns what is given up. To be called between two
    /// transactions.
    pub(crate) fn stop(&mut self, is_stopped: impl Fn(&ReadingTable) -> bool) -> Vec<ReadingTable> {
        self.give_up(|table| table.request.is_some() && is_stopped(table))
    }

    /// Gives up all reads of a table that is errored, also within a transaction. Returns what is stored and told of them.
    pub(crate) fn abandon(&mut self, name: &str) -> (Vec<StateChange>, Vec<Record>) {
        let abandoned = self.give_up(|table| table.name == name);
        let told = abandoned.iter().flat_map(|table| self.tell_of_end(table, "SQL_EXCEPTION")).collect();
        let server = &self.config.relational.topic_prefix;
        (abandoned.iter().map(|table| table.removal(server)).collect(), told)
    }

    fn give_up(&mut self, is_given_up: impl Fn(&ReadingTable) -> bool) -> Vec<ReadingTable> {
        let given_up: Vec<_> = self.tables.extract_if(.., |table| is_given_up(&table.reading)).collect();
        self.index();
        let end = |table: Table| {
            table.read.into_iter().for_each(|read| self.windows.end_read(read.look));
            table.reading
        };
        let given_up: Vec<_> = given_up.into_iter().map(end).collect();
        given_up.iter().for_each(|table| self.end_figures(table, false));
        if self.is_idle() {
            self.begin_anew();
        }
        given_up
    }

    /// Lets the reading rest behind the last chunk that was emitted, or go on. To be called between two transactions.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.snapshot.iter().for_each(|snapshot| snapshot.pause(paused));
        self.begin_anew();
    }

    /// Whether the reading rests.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Forgets keys, the step and the reads that are under way.
    fn begin_anew(&mut self) {
        if !self.under_way.is_empty() {
            self.under_way = JoinSet::new();
            self.session = Some(SqlSession::new(self.config.clone()));
        }
        self.finished = None;
        self.tables.iter_mut().for_each(|table| table.read = None);
        self.room = None;
        self.waiting_since = None;
        if let Some(snapshot) = &self.snapshot {
            snapshot.wait_for(Vec::new());
        }
        self.windows.restart();
        self.looks_from = Instant::now();
        self.due = Some(self.looks_from);
    }

    /// Whether it may hold the room that somebody else waits for.
    pub(crate) fn takes_room(&self) -> bool {
        self.room.is_some() || !self.under_way.is_empty()
    }

    /// Gives all its room back (I6), and tries again later, with less.
    pub(crate) fn give_way(&mut self) {
        self.begin_anew();
        self.ahead = 1;
        self.looks_from += PAUSE;
    }

    /// The log tells of a change of a row of the table with this oid.
    pub(crate) fn touch(&mut self, transaction: LoggedTransaction, relation: u32, plan: &Arc<TablePlan>, change: &Change) {
        let Self { by_oid, room, tables, windows, octets, .. } = self;
        let places = by_oid.get(&relation).filter(|_| room.is_some());
        for &place in places.into_iter().flatten() {
            let table = &mut tables[place];
            let number = table.number;
            let is_told = table.row_key(plan).is_some_and(|key| match PartialRow::of(change) {
                None => key.each_touched(change, octets, |octets| windows.touch(&transaction, number, key.form(), octets)),
                Some(row) if row.was_there && key.put_kept(change, octets) => {
                    windows.touch_partly(&transaction, number, key.form(), octets, row.weight(), || Part::new(plan, &row));
                    true
                }
                Some(_) => key.each_touched(change, octets, |octets| windows.touch_unclearly(&transaction, number, key.form(), octets)),
            });
            if !is_told {
                windows.touch_unknown(&transaction, number);
            }
        }
    }

    /// Whether a read brings the whole row that the change left under the key of its record, or has brought it, of a change that leaves
    /// values out. Of rows that are told apart by another key the record of a row that was read may have gone by its key.
    pub(crate) fn brings(&mut self, relation: u32, plan: &Arc<TablePlan>, change: &Change) -> bool {
        let Self { by_oid, tables, octets, .. } = self;
        let places = by_oid.get(&relation).filter(|_| PartialRow::of(change).is_some_and(|row| row.was_there));
        places.into_iter().flatten().any(|&place| {
            let table = &mut tables[place];
            table.reads_all_rows() && table.row_key(plan).is_some_and(|key| key.is_of_record() && key.put_kept(change, octets))
        })
    }

    /// The log tells that the table with this oid was emptied.
    pub(crate) fn truncate(&mut self, transaction: LoggedTransaction, relation: u32) {
        let places = self.by_oid.get(&relation).filter(|_| self.room.is_some());
        for &place in places.into_iter().flatten() {
            self.windows.truncate(&transaction, self.tables[place].number);
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
        let due = self.due.filter(|_| !self.rests());
        let (under_way, tables) = (&mut self.under_way, &mut self.tables);
        let ended = tokio::select! {
            biased;
            Some(ended) = under_way.join_next() => ended,
            () = next_told(tables) => return,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return,
        };
        self.finished = Some(self.take_back(ended));
    }

    /// Nothing is to be done, and nothing will be by itself.
    fn rests(&self) -> bool {
        self.is_idle() || self.paused
    }

    /// Does what can be done between two transactions, without waiting; the log has been followed to `reached`. What it returns
    /// has to be sent before the log goes on.
    pub(crate) fn advance(&mut self, plans: &Plans, blocks: &Blocks, reached: Lsn) -> Result<Option<Emission>> {
        self.end_step()?;
        let emission = self.next_emission(reached)?;
        if self.rests() {
            // Nobody has to know what is touched.
            if self.takes_room() {
                self.begin_anew();
            }
            self.sessions.clear();
        } else if emission.is_some() {
            // There may be more.
            self.due = Some(Instant::now());
        } else {
            self.begin(plans, blocks);
        }
        Ok(emission)
    }

    /// Takes what reads tell, each table in its turn, up to something that can be emitted.
    fn next_emission(&mut self, reached: Lsn) -> Result<Option<Emission>> {
        for offset in 0..self.tables.len() {
            let number = (self.turn + offset) % self.tables.len();
            if let Some(emission) = self.hear(number, reached)? {
                self.turn = number + 1;
                return Ok(Some(emission));
            }
        }
        Ok(None)
    }

    /// Begins what can be begun, and says when more can be.
    fn begin(&mut self, plans: &Plans, blocks: &Blocks) {
        let now = Instant::now();
        self.due = None;
        if self.room.is_none() {
            self.reserve_room(now);
        } else if !self.windows.is_settled() {
            self.look(now);
        } else {
            let under_way = self.tables.iter().filter(|table| table.read.is_some()).count();
            let mut free = self.config.relational.snapshot_threads.saturating_sub(under_way);
            for number in 0..self.tables.len() {
                let table = &self.tables[number];
                if free == 0 {
                    break;
                }
                if table.read.is_some() {
                    continue;
                }
                let (is_due, is_stuck) = (table.due <= now, table.is_stuck());
                if is_due {
                    self.begin_read(number, plans, blocks);
                } else {
                    self.due = Some(self.due.map_or(table.due, |due| due.min(table.due)));
                }
                // I10: others do not wait for one that does not come on.
                free -= usize::from(is_due || !is_stuck);
            }
            let waits = self.tables.iter().any(|table| table.read.as_ref().is_some_and(|read| read.waits));
            if waits {
                self.push(now);
            }
        }
    }

    fn begin_read(&mut self, number: usize, plans: &Plans, blocks: &Blocks) {
        let Some(look) = self.windows.begin_read() else { return };
        let table = &mut self.tables[number];
        // It never waits to tell: each of its chunks has a place, and so have its beginning and its end.
        let (sender, told) = mpsc::channel(AHEAD + 2);
        let read = TableRead {
            config: self.config.clone(),
            server_version: self.server_version,
            published: table.published.clone(),
            compiler: plans.compiler(blocks, table.reading.oid),
            table: table.reading.clone(),
            rows: table.rows(self.config.relational.chunk_rows),
            budget: self.budget.clone(),
            cancellations: self.cancellations.clone(),
            ahead: Arc::new(Semaphore::new(self.ahead)),
            pace: self.pace.clone(),
            told: sender,
        };
        if let Some(figures) = self.figures.get_mut(&table.reading.name).filter(|figures| figures.waits()) {
            figures.begin(None);
        }
        let session = self.sessions.pop().unwrap_or_else(|| SqlSession::new(self.config.clone()));
        let mut running = JoinSet::new();
        running.spawn(read.run(session));
        table.read = Some(Read::new(look, told, running));
    }
}

/// Waits until a read tells something, other than rows behind others that the log has not passed. Cancel-safe.
async fn next_told(tables: &mut [Table]) {
    poll_fn(|context| {
        for read in tables.iter_mut().filter_map(|table| table.read.as_mut()) {
            if read.waits {
                continue;
            }
            if read.next.is_none() {
                match read.told.poll_recv(context) {
                    Poll::Ready(told) => read.next = told,
                    Poll::Pending => continue,
                }
            }
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
