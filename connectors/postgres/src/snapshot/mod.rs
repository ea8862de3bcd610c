//! Reading the rows that are there: the `consistent` strategy.
//!
//! A new slot exports the snapshot of the database at its *consistent point*: transactions whose commit record stands
//! before that point are in the snapshot, all others are sent by the slot. Each table is read in a transaction of its
//! own that adopts this snapshot, and the point is the table's *anchor*.
//!
//! A read's snapshot must not be older than its lock on the table: DDL that rewrites a table is not MVCC-safe, and an
//! older snapshot would see an empty table without an error. The exported snapshot is always older than the lock. So after
//! locking, `pg_class.relfilenode` as the snapshot sees it is compared with `pg_relation_filenode`, which is the present
//! one, for every leaf. Where they differ, the table is read from the snapshot of a temporary slot, made now, and
//! anchored there.
//!
//! Rows of a table are *pending* (no offsets, no reader) until the table is complete; then they are published in one
//! step with the table's state. After a crash complete tables stay, pending rows are gone, and the other tables are read
//! from a temporary slot's snapshot and anchored there, since the first one died with its session.
//!
//! `source.snapshot` says where a row stands: the last row of all is known only when no table after it has a row, so
//! the last row of a table, and with it the table's publication, waits for a row of another one.
//!
//! `snapshot.max.threads` readers (`reader`) share the tables (`work`): each reads a table of its own, and where none is left, a
//! range of the pages of a large one. All read in the same exported snapshot. Rows of a table, or of a range, come in the order
//! of its pages; with one reader the tables come one after another, too. What the readers decode takes its memory from the
//! budget of the task (I6), and so waits where the log does not keep up. Beside it stands one row of each table that is
//! being read: the one that may be the last.
//!
//! A reader that is dropped before it is done, because the task ends or a signal stops what it reads for, has its query cancelled: a
//! statement of the user may run for hours before it sends a row, which would be the first that the server notices.
//!
//! Where nothing is streamed afterwards (`initial_only`), no slot is made: each reader locks all tables, and only then the first
//! of them takes a snapshot, which the others adopt. That works on standbys, too.

mod lock;
mod publish;
mod reader;
mod select;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tailwater_api::source::SourceContext;
use tailwater_api::state::StateChange;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::envelope::SnapshotMark;
use tailwater_kit::pace::Pace;
use tailwater_kit::snapshot_figures::SnapshotFigures;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use self::lock::{Locked, lock};
use self::publish::Publisher;
use self::reader::{Reader, Transactions, begin, rollback};
pub(crate) use self::select::{copy_format, is_named_by, tables_to_read};
use self::work::Work;
use crate::catalog::{Publication, TableDefinition};
use crate::config::PostgresConfig;
use crate::connect::{Cancellations, SqlConnection, replication_options, sql_error};
use crate::event::{Blocks, Place};
use crate::lsn::Lsn;
use crate::plans::Plans;
use crate::position::{LastMessage, Position};
use crate::replication::{ReplicationConnection, SlotLife, SnapshotAction};
use crate::slot;
use crate::table_states::CompletedTable;

/// What a read stands for.
pub(crate) struct Anchor {
    /// Changes committed before are in the rows.
    pub(crate) lsn: Lsn,
    /// Name of the exported snapshot; `None` where the reading transaction has its own
    pub(crate) exported: Option<String>,
    /// Keeps the exported snapshot, and a temporary slot with it
    pub(crate) _keeper: Option<ReplicationConnection>,
}

/// The snapshot of a temporary slot, made for it. `sql` tells what the creation waits for.
pub(crate) async fn temporary_anchor(config: &PostgresConfig, sql: &SqlConnection) -> Result<Anchor> {
    let mut connection = ReplicationConnection::connect(&replication_options(config)).await?;
    let name = format!("tailwater_{:016x}", fastrand::u64(..));
    let creation = connection.create_slot(&name, SlotLife::Temporary, SnapshotAction::Export);
    let created = slot::explain_wait(sql, &name, creation).await.map_err(slot::creation_refused)?;
    Ok(Anchor { lsn: created.consistent_point, exported: created.snapshot_name, _keeper: Some(connection) })
}

/// What a snapshot has published so far, for whoever may end it.
#[derive(Default)]
pub(crate) struct PublishedSoFar {
    /// Oids of tables
    tables: StdMutex<Vec<u32>>,
    is_sealed: AtomicBool,
}

impl PublishedSoFar {
    fn add(&self, oid: u32) {
        // One call leaves it whole.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).push(oid);
    }

    pub(crate) fn contains(&self, oid: u32) -> bool {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).contains(&oid)
    }

    fn seal(&self) {
        self.is_sealed.store(true, Ordering::Relaxed);
    }

    /// Whether all of it is sent, the state that says so included: nothing is left that could be ended.
    pub(crate) fn is_sealed(&self) -> bool {
        self.is_sealed.load(Ordering::Relaxed)
    }
}

/// Reads tables.
pub(crate) struct Snapshot<'a> {
    pub(crate) config: &'a Arc<PostgresConfig>,
    pub(crate) context: &'a mut SourceContext,
    pub(crate) plans: &'a mut Plans,
    pub(crate) blocks: &'a Blocks,
    pub(crate) publication: Option<&'a Publication>,
    /// Tables that are published, earlier ones included
    pub(crate) completed: Vec<CompletedTable>,
    /// Stored with the last table, as completed
    pub(crate) position: Position,
    /// A signal asks for it, and what is stored of the tables stays: one may be read in chunks
    pub(crate) is_asked_for: bool,
    /// Names of tables whose rows begin with a truncation
    pub(crate) outdated: &'a [String],
    /// Names of tables that are errored until all tables are read (I10)
    pub(crate) errored: &'a [String],
    /// What is stored with it
    pub(crate) at_end: Vec<StateChange>,
    /// Where and when the rows were as they are read
    pub(crate) place: LastMessage,
    pub(crate) figures: &'a SnapshotFigures,
    pub(crate) published: &'a PublishedSoFar,
    pub(crate) cancellations: &'a Cancellations,
}

impl Snapshot<'_> {
    /// Reads the tables in their order, each in a transaction of its own in the exported snapshot of `anchor`. Returns what is
    /// stored then.
    pub(crate) async fn read_all(self, tables: Vec<TableDefinition>, anchor: Anchor) -> Result<(Position, Vec<CompletedTable>)> {
        let sessions = sessions(self.config).await?;
        let control = SqlConnection::connect(self.config).await?;
        self.read(sessions, control, Transactions::OfTables, tables, anchor).await
    }

    /// Reads the tables in one snapshot that is taken behind the locks on all of them.
    pub(crate) async fn read_together(self, mut tables: Vec<TableDefinition>) -> Result<()> {
        let sessions = sessions(self.config).await?;
        let control = SqlConnection::connect(self.config).await?;
        while !lock_everywhere(self.config, &sessions, &control, &mut tables).await? {
            for sql in &sessions {
                rollback(sql).await?;
            }
        }
        share_snapshot(&sessions).await?;
        let anchor = Anchor { lsn: self.position.resume, exported: None, _keeper: None };
        self.read(sessions, control, Transactions::Together, tables, anchor).await?;
        Ok(())
    }

    async fn read(
        self,
        sessions: Vec<SqlConnection>,
        control: SqlConnection,
        transactions: Transactions,
        tables: Vec<TableDefinition>,
        anchor: Anchor,
    ) -> Result<(Position, Vec<CompletedTable>)> {
        let place = Place {
            lsn: self.place.lsn,
            last_commit: self.position.last_commit,
            xid: self.place.xid,
            timestamp: self.place.timestamp,
            mark: SnapshotMark::Inside,
            origin: None,
        };
        let (anchor, tables) = (Arc::new(anchor), Arc::<[TableDefinition]>::from(tables));
        let work = Arc::new(Work::new(tables.len()));
        let control = Arc::new(Mutex::new(control));
        let pace = Arc::new(Pace::new(self.config.relational.snapshot_bytes_per_second));
        let (told, mut telling) = mpsc::channel(sessions.len());
        let (config, blocks, budget) = (self.config.clone(), self.blocks.clone(), self.context.budget());
        let cancellations = self.cancellations;
        let mut publisher = Publisher::new(self, &tables, place.clone());
        publisher.begin().await?;
        // Dropping the set ends the readers, whichever way this function is left.
        let mut readers = JoinSet::new();
        for sql in sessions {
            let reader = Reader {
                config: config.clone(),
                cancelling: sql.cancelling(cancellations),
                sql,
                control: control.clone(),
                transactions,
                tables: tables.clone(),
                anchor: anchor.clone(),
                work: work.clone(),
                told: told.clone(),
                budget: budget.clone(),
                pace: pace.clone(),
                blocks: blocks.clone(),
                place: place.clone(),
            };
            readers.spawn(reader.run());
        }
        drop(told);
        loop {
            tokio::select! {
                told = telling.recv() => match told {
                    Some(told) => publisher.take(told).await?,
                    None => break,
                },
                Some(ended) = readers.join_next() => ended.unwrap_or_else(failed)?,
            }
        }
        while let Some(ended) = readers.join_next().await {
            ended.unwrap_or_else(failed)?;
        }
        publisher.complete().await
    }
}

fn failed(panicked: tokio::task::JoinError) -> Result<()> {
    Err(Error::new(ErrorKind::Bug, "read the rows of a table").because(panicked))
}

/// A session for each reader.
async fn sessions(config: &PostgresConfig) -> Result<Vec<SqlConnection>> {
    let mut sessions = Vec::new();
    for _ in 0..config.relational.snapshot_threads {
        let sql = SqlConnection::connect(config).await?;
        sql.without_timeout().await?;
        sessions.push(sql);
    }
    Ok(sessions)
}

/// Begins a transaction in each session and locks the tables. `false` where all has to be begun anew: one of the
/// tables has gone or changed its name, which `tables` say then.
async fn lock_everywhere(
    config: &PostgresConfig,
    sessions: &[SqlConnection],
    control: &SqlConnection,
    tables: &mut Vec<TableDefinition>,
) -> Result<bool> {
    for sql in sessions {
        begin(sql, None).await?;
        for number in 0..tables.len() {
            match lock(config, sql, control, &tables[number]).await? {
                Locked::Table(table) => tables[number] = *table,
                Locked::Renamed(table) => {
                    tables[number] = *table;
                    return Ok(false);
                }
                Locked::Gone => {
                    tables.remove(number);
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Lets the first session take a snapshot, and the others adopt it. Nobody has one yet: a lock needs none.
async fn share_snapshot(sessions: &[SqlConnection]) -> Result<()> {
    let doing = "share a snapshot";
    let Some((first, others)) = sessions.split_first().filter(|(_, others)| !others.is_empty()) else { return Ok(()) };
    let row = first.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(|error| sql_error(doing, error))?;
    let adopt = format!("SET TRANSACTION SNAPSHOT '{}'", row.get::<_, &str>(0));
    for sql in others {
        sql.batch_execute(&adopt).await.map_err(|error| sql_error(doing, error))?;
    }
    Ok(())
}
