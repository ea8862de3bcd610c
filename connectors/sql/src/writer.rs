//! A batch and its position in one transaction.
//!
//! **Course of a batch.** Layouts are found and tables made ready; then, in one transaction, the positions are moved
//! (I13), every table's changes are merged by key and written as sets, what cannot be written is dead-lettered, and
//! the transaction is committed. What was reported is durable, data and position by the same commit.
//!
//! **A record that the target refuses** (I2). The set it stands in fails as a whole. The transaction is begun again and
//! the batch is written by halves, each under a savepoint, until the refused record stands alone. It is handed to the
//! dead letters, which return when it is durable there, and only then is the position committed past it. Halving also
//! mends what only merging breaks: unique keys that change hands, foreign keys between tables, two keys that the
//! target's collation holds for one.
//!
//! **Transient faults** are tried again here, as `flush.max.retries` says, then given to the daemon.
//!
//! **A commit whose answer is lost** (I12) is looked up before the batch is tried again: the positions in the target
//! say whether it happened, and reading them waits for a transaction that has not ended yet.
//!
//! **A dropped future** takes its connection with it, and the database rolls back what was not committed.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tailwater_api::envelope::SNAPSHOT_BRINGS_ROW;
use tailwater_api::metrics::Counter;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkContext, SinkRecord};
use tailwater_api::value::Value;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::merge::{Cell, Change, Row, merge};

use crate::catalog::{Catalog, Table, identifier};
use crate::config::{InsertMode, SqlConfig};
use crate::datum::Datum;
use crate::dialect::Dialect;
use crate::failure::{Failure, Meaning};
use crate::interpretation::{Intent, Layout, LayoutId, appends, read, refused};
use crate::offsets::{self, Held, HeldPositions};
use crate::steps;

/// Layouts kept. Converters that make a schema for every record would let them grow without end (I6).
const MOST_LAYOUTS: usize = 4096;

/// Writes to one database over one connection.
pub(crate) struct Writer<D> {
    config: SqlConfig,
    context: SinkContext,
    /// Absent while a batch is being written, and after the connection broke.
    database: Option<D>,
    catalog: Catalog,
    layouts: HashMap<LayoutId, Arc<Layout>>,
    held: HeldPositions,
    /// A commit's answer was lost.
    doubtful: bool,
    counters: Counters,
}

struct Counters {
    ignored: Counter,
    without_row: Counter,
}

/// What a batch did that its rows do not show.
#[derive(Default)]
struct Tally {
    ignored: u64,
    without_row: u64,
}

/// A batch, ready to be converted and written.
struct Plan {
    /// For each record what it asks for and its place in `layouts`; `None` where it is ignored
    records: Vec<Option<(Intent, usize)>>,
    layouts: Vec<Placed>,
    /// Records that cannot be understood
    refused: Vec<(usize, Error)>,
    ignored: u64,
}

/// A layout and where its columns are in the table as it is now.
struct Placed {
    layout: Arc<Layout>,
    /// Whether rows are written by it, not only deleted
    written: bool,
    /// `None` where the table does not exist and nothing is written to it
    table: Option<Arc<Table>>,
    places: Vec<usize>,
}

/// Changes of one table with one key.
struct TableChanges {
    table: Arc<Table>,
    key: Vec<usize>,
    changes: Vec<Change<Vec<u8>, Datum>>,
}

/// A failed attempt, and whether its commit may have happened all the same.
struct Failed {
    failure: Failure,
    committing: bool,
}

impl<E: Into<Failure>> From<E> for Failed {
    fn from(failure: E) -> Self {
        Self { failure: failure.into(), committing: false }
    }
}

impl<D: Dialect> Writer<D> {
    /// Connects and creates the table of positions.
    pub(crate) async fn open(config: SqlConfig, context: SinkContext) -> Result<Self> {
        let mut database = D::connect(&config.target).await?;
        offsets::create(&mut database).await.map_err(|failure| failure.error)?;
        let counter = |name, help| context.metrics().counter(name, help, None);
        let counters = Counters {
            ignored: counter("ignored_records", "Records that the configuration leaves out: deletes, truncates, messages."),
            without_row: counter(
                "updates_without_row",
                "Updates whose key has no row: with insert.mode=update, and of rows that a snapshot brings later.",
            ),
        };
        Ok(Self {
            config,
            context,
            database: Some(database),
            catalog: Catalog::default(),
            layouts: HashMap::new(),
            held: HeldPositions::new(),
            doubtful: false,
            counters,
        })
    }

    pub(crate) async fn assign(&mut self, partitions: &[Assignment]) -> Result<Vec<LogPosition>> {
        let mut database = self.take().await.map_err(|failure| failure.error)?;
        let wanted = partitions.iter().map(|assignment| assignment.topic_partition.clone());
        let found = offsets::read(&mut database, self.context.connector(), wanted).await.map_err(|failure| failure.error)?;
        self.database = Some(database);
        let position = |(partition, held): (&TopicPartition, &Option<Held>)| {
            let Held { log, offset } = held.clone()?;
            Some(LogPosition { log, topic_partition: partition.clone(), offset })
        };
        let positions = found.iter().filter_map(position).collect();
        self.held.extend(found);
        Ok(positions)
    }

    pub(crate) fn revoke(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.held.remove(partition);
        }
    }

    pub(crate) async fn close(self) -> Result<()> {
        if let Some(mut database) = self.database {
            if self.config.forget_positions {
                offsets::forget(&mut database, self.context.connector()).await;
            }
            database.close().await;
        }
        Ok(())
    }

    /// Writes a batch with its position; all or nothing.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<Progress> {
        let mut dead = HashSet::new();
        let mut tries = 0;
        let mut looked_again = false;
        loop {
            match self.attempt(batch, &mut dead).await {
                Ok(tally) => {
                    self.counters.ignored.add(tally.ignored);
                    self.counters.without_row.add(tally.without_row);
                    for LogPosition { log, topic_partition, offset } in &batch.next {
                        self.held.insert(topic_partition.clone(), Some(Held { log: Arc::clone(log), offset: *offset }));
                    }
                    return Ok(Progress::DurableWithPosition);
                }
                // The target was altered: look at it again, once.
                Err(failure) if failure.meaning == Meaning::Shape && !looked_again => {
                    tracing::info!(reason = %failure.error, "looking at the target's tables again");
                    self.catalog.clear();
                    looked_again = true;
                }
                Err(failure) if failure.error.kind().is_transient() && tries < self.config.max_retries => {
                    tries += 1;
                    tracing::warn!(
                        connector = &**self.context.connector(),
                        error.kind = failure.error.kind().code(),
                        error.mend = failure.error.remedy(),
                        tries,
                        "trying the batch again: {}",
                        failure.error.sentence()
                    );
                    tokio::select! {
                        () = tokio::time::sleep(self.config.retry_delay) => {}
                        () = self.context.stopped() => return Err(failure.error),
                    }
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    async fn take(&mut self) -> Result<D, Failure> {
        match self.database.take() {
            Some(database) => Ok(database),
            None => Ok(D::connect(&self.config.target).await?),
        }
    }

    async fn attempt(&mut self, batch: &RecordBatch, dead: &mut HashSet<usize>) -> Result<Tally, Failure> {
        let mut database = self.take().await?;
        if self.doubtful && self.is_committed(&mut database, batch).await? {
            self.database = Some(database);
            return Ok(Tally::default());
        }
        match self.transaction(&mut database, batch, dead).await {
            Ok(tally) => {
                self.database = Some(database);
                Ok(tally)
            }
            Err(Failed { failure, committing: true }) => {
                // The connection goes: whatever it still does ends with it (I12).
                self.doubtful = true;
                Err(failure)
            }
            Err(Failed { failure, committing: false }) => {
                // Where no transaction is open or the connection is broken, a new connection is the clean start.
                if database.execute("ROLLBACK", &[]).await.is_ok() {
                    self.database = Some(database);
                }
                Err(failure)
            }
        }
    }

    /// Whether the batch whose commit got no answer is in the target (I12).
    async fn is_committed(&mut self, database: &mut D, batch: &RecordBatch) -> Result<bool, Failure> {
        let partitions = batch.next.iter().map(|position| position.topic_partition.clone());
        let found = offsets::read(database, self.context.connector(), partitions).await?;
        self.doubtful = false;
        let stands = |position: &LogPosition| {
            let held = Some(Held { log: Arc::clone(&position.log), offset: position.offset });
            found.get(&position.topic_partition) == Some(&held)
        };
        Ok(!batch.next.is_empty() && batch.next.iter().all(stands))
    }

    async fn transaction(&mut self, database: &mut D, batch: &RecordBatch, dead: &mut HashSet<usize>) -> Result<Tally, Failed> {
        let mut plan = self.plan(database, batch).await?;
        let mut tally = Tally { ignored: plan.ignored, without_row: 0 };
        let mut refused = std::mem::take(&mut plan.refused);

        self.begin(database, batch).await?;
        let everything = 0..batch.records.len();
        match self.apply(database, batch, &plan, everything.clone(), dead).await {
            Ok(applied) => {
                refused.extend(applied.refused);
                tally.without_row += applied.without_row;
            }
            Err(failure) if failure.meaning == Meaning::Data => {
                tracing::debug!(reason = %failure.error, "writing the batch by halves");
                run(database, "ROLLBACK").await?;
                self.begin(database, batch).await?;
                let applied = self.apply_by_halves(database, batch, &plan, everything, dead).await?;
                refused.extend(applied.refused);
                tally.without_row += applied.without_row;
            }
            Err(failure) => return Err(failure.into()),
        }

        refused.sort_by_key(|(place, _)| *place);
        for (place, error) in refused {
            // I2: durable as a dead letter before the position passes the record. Said once, however often we try.
            if !dead.contains(&place) {
                self.context.reject(&batch.records[place], error).await?;
                dead.insert(place);
            }
        }
        match database.execute("COMMIT", &[]).await {
            Ok(_) => Ok(tally),
            // Even an answer may not say what became of it (SQLite after a failed write): look it up (I12).
            Err(cause) => Err(Failed { failure: Failure::database(D::meaning(&cause), "commit a batch", cause), committing: true }),
        }
    }

    async fn begin(&self, database: &mut D, batch: &RecordBatch) -> Result<(), Failure> {
        run(database, D::BEGIN).await?;
        offsets::advance(database, self.context.connector(), &self.held, &batch.next).await
    }

    /// Finds the layout of every record and makes their tables ready.
    async fn plan(&mut self, database: &mut D, batch: &RecordBatch) -> Result<Plan, Failure> {
        let mut plan = Plan { records: Vec::with_capacity(batch.records.len()), layouts: Vec::new(), refused: Vec::new(), ignored: 0 };
        let mut places: HashMap<usize, usize> = HashMap::new();
        let mut tables: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        for (number, record) in batch.records.iter().enumerate() {
            let found = match self.layout_of(record, &mut tables) {
                Ok(found) => found,
                // A configuration that does not fit a record fits none like it: it is mended, not dead-lettered.
                Err(error) if error.kind() == ErrorKind::Misconfigured => return Err(error.into()),
                Err(error) => {
                    plan.refused.push((number, error));
                    plan.records.push(None);
                    continue;
                }
            };
            let Some((intent, layout)) = found else {
                plan.ignored += 1;
                plan.records.push(None);
                continue;
            };
            let written = matches!(intent, Intent::Insert | Intent::Write);
            let next = plan.layouts.len();
            let place = *places.entry(Arc::as_ptr(&layout).addr()).or_insert(next);
            if place == next {
                plan.layouts.push(Placed { layout: Arc::clone(&layout), written: false, table: None, places: Vec::new() });
            }
            // A layout that was only deleted from so far may still have to be created.
            if place == next || (written && !plan.layouts[place].written) {
                self.catalog.ensure(database, &self.config, &layout, &record.record.topic, written).await?;
                plan.layouts[place].written |= written;
            }
            plan.records.push(Some((intent, place)));
        }
        for placed in &mut plan.layouts {
            // Now, after all widening, so that all layouts of a table see the same columns.
            placed.table = self.catalog.table(&placed.layout.table).cloned();
            let Some(table) = &placed.table else { continue };
            placed.places = placed.layout.columns.iter().map(|column| table.place::<D>(&column.name).unwrap_or(usize::MAX)).collect();
        }
        Ok(plan)
    }

    fn layout_of(&mut self, record: &SinkRecord, tables: &mut HashMap<Arc<str>, Arc<str>>) -> Result<Option<(Intent, Arc<Layout>)>> {
        let reading = read(&self.config, record)?;
        if reading.intent == Intent::Ignore {
            return Ok(None);
        }
        let by_topic = !self.config.name_format.contains("${source.");
        let table: Arc<str> = match tables.get(&record.record.topic).filter(|_| by_topic) {
            Some(table) => Arc::clone(table),
            None => {
                let Some(name) = reading.table(&self.config, record)? else { return Ok(None) };
                let table: Arc<str> = name.into();
                tables.insert(Arc::clone(&record.record.topic), Arc::clone(&table));
                table
            }
        };
        let id = reading.layout_id(&self.config, record, &table);
        if let Some(layout) = self.layouts.get(&id) {
            return Ok(Some((reading.intent, Arc::clone(layout))));
        }
        let layout = Arc::new(reading.layout(&self.config, record, &table, |name| identifier::<D>(&self.config, name))?);
        if self.layouts.len() >= MOST_LAYOUTS {
            self.layouts.clear();
        }
        self.layouts.insert(id, Arc::clone(&layout));
        Ok(Some((reading.intent, layout)))
    }

    /// Writes the records of `range`, merged by key.
    async fn apply(
        &self,
        database: &mut D,
        batch: &RecordBatch,
        plan: &Plan,
        range: Range<usize>,
        dead: &HashSet<usize>,
    ) -> Result<Applied, Failure> {
        let mut applied = Applied::default();
        let mut tables: Vec<TableChanges> = Vec::new();
        for number in range {
            let Some((intent, place)) = plan.records[number].filter(|_| !dead.contains(&number)) else { continue };
            let placed = &plan.layouts[place];
            // Nothing to delete from a table that does not exist.
            let Some(table) = &placed.table else { continue };
            match self.change(&batch.records[number], intent, placed, table) {
                Ok(change) => {
                    let key = &placed.places[..placed.layout.key];
                    // A table whose key changes within the batch is taken up anew, behind what it had.
                    let open = tables.iter_mut().rev().find(|open| Arc::ptr_eq(&open.table, table));
                    match open.filter(|open| open.key == key || matches!(change, Change::Truncate)) {
                        Some(open) => open.changes.push(change),
                        None => tables.push(TableChanges { table: Arc::clone(table), key: key.to_vec(), changes: vec![change] }),
                    }
                }
                Err(error) => applied.refused.push((number, error)),
            }
        }
        for TableChanges { table, key, changes } in tables {
            for step in merge(changes) {
                applied.without_row += steps::apply(database, &self.config, &table, &key, &step).await?;
            }
        }
        Ok(applied)
    }

    /// Writes the records of `range` in pieces that hold no record that the target refuses.
    async fn apply_by_halves(
        &self,
        database: &mut D,
        batch: &RecordBatch,
        plan: &Plan,
        range: Range<usize>,
        dead: &HashSet<usize>,
    ) -> Result<Applied, Failure> {
        let mut whole = Applied::default();
        let mut ranges = vec![range];
        while let Some(range) = ranges.pop() {
            run(database, "SAVEPOINT half").await?;
            match self.apply(database, batch, plan, range.clone(), dead).await {
                Ok(applied) => {
                    run(database, "RELEASE SAVEPOINT half").await?;
                    whole.refused.extend(applied.refused);
                    whole.without_row += applied.without_row;
                }
                Err(failure) if failure.meaning == Meaning::Data => {
                    run(database, "ROLLBACK TO SAVEPOINT half").await?;
                    run(database, "RELEASE SAVEPOINT half").await?;
                    if range.len() == 1 {
                        whole.refused.push((range.start, failure.error));
                    } else {
                        // The first half is popped first: the order of the log is kept.
                        let middle = range.start + range.len() / 2;
                        ranges.extend([middle..range.end, range.start..middle]);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(whole)
    }

    /// The change that a record makes.
    fn change(&self, record: &SinkRecord, intent: Intent, placed: &Placed, table: &Table) -> Result<Change<Vec<u8>, Datum>> {
        let layout = &placed.layout;
        if intent == Intent::Truncate {
            return Ok(Change::Truncate);
        }
        let reading = read(&self.config, record)?;
        let refuse = |cause: String| refused(record, &table.quoted(), cause);
        let mut row: Row<Datum> = vec![Cell::Absent; table.columns.len()].into();
        let mut key = Vec::new();
        let columns = if intent == Intent::Delete { &layout.columns[..layout.key] } else { &layout.columns[..] };
        let mut unknown = false;
        for (number, (column, place)) in columns.iter().zip(&placed.places).enumerate() {
            let value = column.value(record, reading.row);
            let is_key = number < layout.key;
            row[*place] = match &*value {
                Value::Unchanged | Value::NotInIdentity if !is_key => {
                    unknown = true;
                    Cell::Unchanged
                }
                Value::Null | Value::Unchanged | Value::NotInIdentity if is_key => {
                    return Err(refuse(format!("the column {} of the key has no value", column.name)));
                }
                value => {
                    let datum = D::datum(&column.kind, value).map_err(|cause| refuse(format!("column {}: {cause}", column.name)))?;
                    if is_key {
                        datum.append_key(&mut key);
                    }
                    Cell::Known(datum)
                }
            };
        }
        if intent == Intent::Delete {
            return if layout.key == 0 { Err(refuse(NO_KEY.to_owned())) } else { Ok(Change::Delete { key, row }) };
        }
        if !appends(&self.config, layout) {
            // The whole row comes with the snapshot, if it is not there; so here no hole is left (I8).
            let may_be_absent = unknown && record.record.headers.last(SNAPSHOT_BRINGS_ROW).is_some();
            return Ok(if may_be_absent { Change::Update { key, row } } else { Change::Put { key, row } });
        }
        if unknown {
            // I8: never a row with holes.
            return Err(refuse("the source left values out that did not change, and there is no row that has them".to_owned()));
        }
        if layout.key == 0 && intent == Intent::Write && self.config.insert_mode != InsertMode::Insert {
            return Err(refuse(NO_KEY.to_owned()));
        }
        Ok(Change::Append { row })
    }
}

/// What became of a range of records.
#[derive(Default)]
struct Applied {
    refused: Vec<(usize, Error)>,
    without_row: u64,
}

const NO_KEY: &str = "the record has no key, so the row that it changes is not known; \
     give the table a primary key at its source, or name its key there (message.key.columns)";

async fn run<D: Dialect>(database: &mut D, sql: &str) -> Result<(), Failure> {
    match database.execute(sql, &[]).await {
        Ok(_) => Ok(()),
        Err(cause) => Err(Failure::database(D::meaning(&cause), format!("run {sql}"), cause)),
    }
}
