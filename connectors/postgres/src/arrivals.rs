//! Tables that come while the log is followed and need what only a start does: the publication extended, or rows read that the log
//! does not hold.
//!
//! The log tells of a table with its first published change, so where all tables are published a new one needs nothing. But
//! a publication of chosen tables does not know it, and a table that was renamed into the filters, a root that is published later,
//! or a table that is attached to a published root holds rows from before. No event trigger may be installed for this, so the
//! catalog is looked at from time to time (`table.refresh.interval.ms`). What is found ends the stream as `restarting`: the run that
//! follows brings the publication in order and reads what is to be read, as it does for tables that came while the connector was
//! stopped, and goes on where this one ended. Rows of a partition that come under the name of a root with a key that chunks can follow
//! are read without a start: by a signal of the source's own, which asks for those rows of the root.
//!
//! | found | publication | `snapshot.new.tables` |
//! |---|---|---|
//! | made since the last look, published from its birth | stays | nothing to read |
//! | the same, rewritten since, as where it was unlogged first | stays | read, or told of with the signal that does |
//! | not published, where tables are published one by one, and locked or in a deadlock | stays | told of, and tried again at each look (I10) |
//! | not published, where tables are published one by one | is extended | read, or left to the log |
//! | the same, of somebody else, so that this role may not publish it | stays | told of, with the statement that mends it (I10) |
//! | the same, where the server refuses the statement for another reason | stays | told of (I10) |
//! | a root added to the publication, by itself or by its schema | stays | read, or left to the log |
//! | renamed into the filters, or made again under its name | is extended where tables are published one by one | read, or left to the log |
//! | took the name of another one, and is not read | stays | told of with the signal that reads it |
//! | took a name under which the snapshot at the start did not read a table to its end | stays | read in any case (see `source::succession`) |
//! | captured and not published at the start, published by somebody since | stays | read anew, or told of with the signal that does (see `source::unpublished`) |
//! | captured, and published no more | stays; where tables are published one by one it is extended | told of, and stored at once as unpublished (I11) |
//! | made since the last look, captured and not published by somebody else | stays | told of with the statement, as at a start, and read once it is published |
//! | came with rows that the role may not read | stays | told of with the statement that lets it (I10) |
//! | whatever, where a start would be refused | stays | told of (I10) |
//! | taken out of the publication and added again since the last look, by itself or by its schema | stays | told of with the signal that reads it |
//! | a leaf, and published under the name of a root that is not captured since `publish_via_partition_root` changed | stays | told of, and stored at once as unpublished (I11) |
//! | captured, and unlogged now | stays | told of with the statement, and stored at once as unpublished (I11) |
//! | attached to a root under whose name its rows go | stays | read in chunks, or told of with the signal that does |
//! | attached to a root by which it is published | stays | read, or told of with the signal that does |
//! | operations that the publication publishes no more, or again | stays | told of with the statement, and what the log lacks |
//! | tables under whose names rows stand, since `publish_via_partition_root` changed | stays | read anew, or told of with the signal that does |
//! | a leaf that the filters leave out, below a root that is published by its leaves | stays | told of with the statement, as at a start |
//! | detached from a root under whose name its rows went | is extended where tables are published one by one | told of |
//!
//! A partition that was made as one has no rows from before; one that was made and attached since the last look may. The catalog
//! tells them apart: the former's link to its parent was written by the transaction that made the table, three commands of the
//! catalog behind its columns (PostgreSQL 15 to 18; an attachment in the same transaction stands five or more behind them).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tailwater_api::signal::{Signal, SignalRequest};
use tailwater_api::state::StateChange;
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::filters::expression_of;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::catalog::{IS_TABLE, Named, Publication, ServerFacts, TableDefinition};
use crate::chunks::can_be_chunked;
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, SqlSession, sql_error};
use crate::publication::{Step, may_pass, plan, refusal, rehearse, warn_about_operations};
use crate::snapshot::tables_to_read;
use crate::source::{
    captured, is_readable, published_advice, published_by_now, renamed_advice, replaced_advice, unpublished, unpublished_advice,
    unreadable_advice,
};
use crate::table_states::UnpublishedTable;

/// What is known of a table without its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// `schema.table`
    name: String,
    is_partition: bool,
    is_logged: bool,
}

/// What a look has seen, all of it at one moment.
struct Seen {
    definitions: Vec<TableDefinition>,
    publication: Publication,
    /// The partitions that were not made as such
    attached: HashSet<u32>,
    /// The tables whose rows stand in another file than that of their birth, as where they were unlogged then
    rewritten: HashSet<u32>,
}

/// Looks for tables that come.
pub(crate) struct Arrivals {
    config: Arc<PostgresConfig>,
    facts: ServerFacts,
    /// All tables of the database at the last look
    known: HashMap<u32, Known>,
    /// The partitioned tables above each partition then, the nearest first
    parts: HashMap<u32, Vec<u32>>,
    /// What the publication named then
    named: Named,
    /// Tables whose rows the log or a read has told, or will tell
    told: HashSet<u32>,
    /// Which table has each name under which rows are told
    names: HashMap<String, u32>,
    /// Captured tables that were published at the last look
    published: HashSet<u32>,
    /// Those that were not
    unpublished: HashSet<u32>,
    /// What the state is to say of tables that left the publication since the start
    left: watch::Sender<Vec<StateChange>>,
    /// Names under which the snapshot at the start did not read a table to its end, and no table is complete
    owed: watch::Receiver<HashSet<String>>,
    /// The next look judges in any case: a table that was locked may be published by then.
    is_due: bool,
    /// The statements that the server refused at the last look, or at the start, and what was said of each
    refused: HashMap<String, String>,
}

/// A start would be refused.
struct StartRefused;

/// Rows that nobody reads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Untold {
    /// Which they are, and how they are read
    messages: Vec<String>,
    /// Those that a signal of our own reads
    attached: Vec<Attached>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// The connector has to start again
    Restart {
        why: String,
        /// What no start would find
        untold: Untold,
    },
    /// It goes on.
    Untold(Untold),
}

/// A partition that came with rows under the name of its root.
#[derive(Debug, PartialEq, Eq)]
struct Attached {
    oid: u32,
    partition: String,
    root: String,
    /// Which rows of the root are its own
    condition: String,
}

impl Attached {
    /// Asks the stream for the rows, and waits until it will read them even after a crash.
    ///
    /// # Errors
    /// Why the stream does not.
    async fn ask(&self, signals: &mpsc::Sender<SignalRequest>) -> Result<()> {
        let expression = expression_of(&self.root);
        let data = json!({
            "data-collections": [expression],
            "additional-conditions": [{"data-collection": expression, "filter": self.condition}],
        });
        let signal = Signal { id: format!("attached-{}", self.oid), kind: "execute-snapshot".to_owned(), data: data.to_string() };
        let (request, answered) = SignalRequest::new(signal);
        let ended = || Error::new(ErrorKind::Restarting, "ask for the rows of a partition").because("the stream has ended");
        signals.send(request).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// What is to be done where nobody reads the rows.
    fn advice(&self) -> String {
        format!(
            "the table {0} was attached to {1}: rows that it held then do not stand under that name. To read them, signal execute-snapshot \
             with data-collections {1} and the additional condition {2}",
            self.partition, self.root, self.condition
        )
    }
}

impl Untold {
    /// Warns, and asks for what can be asked for.
    async fn tell(self, signals: &mpsc::Sender<SignalRequest>) {
        self.messages.iter().for_each(|message| warn!("{message}"));
        for partition in self.attached {
            info!(table = %partition.partition, root = %partition.root, "a partition was attached: its rows are read");
            if let Err(error) = partition.ask(signals).await {
                warn!("{}. They are not read by themselves: {error}", partition.advice());
            }
        }
    }
}

impl Arrivals {
    /// `None` where nobody is to look. `definitions` are the tables of the database at the start, which has told of what was `refused`.
    pub(crate) fn new(
        config: &Arc<PostgresConfig>,
        facts: &ServerFacts,
        publication: Option<&Publication>,
        definitions: &[TableDefinition],
        refused: HashMap<String, String>,
        owed: watch::Receiver<HashSet<String>>,
        left: watch::Sender<Vec<StateChange>>,
    ) -> Option<Self> {
        let captured = captured(config, definitions);
        let unpublished = publication.map(|publication| unpublished(config, publication, definitions)).unwrap_or_default();
        let unpublished: HashSet<u32> = unpublished.iter().map(|table| table.oid).collect();
        let to_read = tables_to_read(config, publication, definitions);
        (!config.table_refresh_interval.is_zero()).then(|| Self {
            config: config.clone(),
            facts: facts.clone(),
            known: known(definitions),
            parts: parts(definitions),
            named: publication.map(|publication| publication.named.clone()).unwrap_or_default(),
            told: to_read.iter().map(|table| table.oid).collect(),
            names: to_read.iter().map(|table| (table.full_name(), table.oid)).collect(),
            published: captured.iter().map(|table| table.oid).filter(|oid| !unpublished.contains(oid)).collect(),
            unpublished,
            left,
            owed,
            is_due: true,
            refused,
        })
    }

    /// Looks until something is found that needs a start, which is the error. A look that fails is told of, once for as long as it fails
    /// in one way, and the next one is taken as if nothing had been (I11).
    pub(crate) async fn watch(mut self, signals: mpsc::Sender<SignalRequest>) -> Result<()> {
        let mut session = SqlSession::new(self.config.clone());
        let mut failed = None;
        loop {
            tokio::time::sleep(self.config.table_refresh_interval.max(Duration::from_millis(100))).await;
            let looked = match session.get().await {
                Ok(sql) => self.look(sql).await,
                Err(error) => Err(error),
            };
            match &looked {
                Err(error) if failed != Some(error.kind()) => {
                    warn!("new tables cannot be looked for, which is tried again each table.refresh.interval.ms: {error}");
                }
                Ok(_) if failed.is_some() => info!("new tables are looked for again"),
                Err(_) | Ok(_) => {}
            }
            failed = looked.as_ref().err().map(Error::kind);
            match looked {
                Ok(Found::Nothing) | Err(_) => {}
                Ok(Found::Restart { why, untold }) => {
                    untold.tell(&signals).await;
                    return Err(Error::new(ErrorKind::Restarting, "follow the log").because(why).planned());
                }
                Ok(Found::Untold(untold)) => untold.tell(&signals).await,
            }
        }
    }

    async fn look(&mut self, sql: &SqlConnection) -> Result<Found> {
        // What changes behind this is seen by the next look, whatever this one finds.
        let Some(seen) = sql.in_one_snapshot(self.see(sql)).await? else { return Ok(Found::Nothing) };
        let (refused, is_due) = self.refused_statements(sql, &seen).await?;
        // A table that was locked may be one that this role may not publish.
        let is_told = |statement: &String, why: &String| self.refused.get(statement) == Some(why);
        let told = |(statement, why): (&String, &String)| (statement.clone(), (!is_told(statement, why)).then(|| why.clone()));
        let found = self.judge(&seen, &refused.iter().map(told).collect());
        let named = seen.publication.named;
        if named.operations != self.named.operations {
            warn_about_operations(&self.config, &self.facts, Some(&self.named), &named);
        }
        self.known = known(&seen.definitions);
        self.parts = parts(&seen.definitions);
        self.named = named;
        (self.refused, self.is_due) = (refused, is_due);
        Ok(found)
    }

    /// What is there now, if anything is to be judged.
    async fn see(&self, sql: &SqlConnection) -> Result<Option<Seen>> {
        let Some(named) = Named::load(sql, &self.facts, &self.config.publication).await? else {
            // The server refuses to go on without it, and says so.
            return Ok(None);
        };
        // Tables without a definition are never known, and would be news to each look. The row of a system column is written with the table
        // and never changed.
        let query = format!(
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relispartition,
                    coalesce(c.relispartition AND (i.xmin <> a.xmin OR i.cmin::text::int8 > a.cmin::text::int8 + 3), false),
                    c.relpersistence = 'p', c.relkind = 'r' AND c.relfilenode <> c.oid
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tableoid'
             LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
             WHERE {IS_TABLE}"
        );
        let rows = sql.query(&query, &[]).await.map_err(|error| sql_error("look for new tables", error))?;
        let is_news = rows.iter().any(|row| {
            let (oid, schema, name): (u32, &str, &str) = (row.get(0), row.get(1), row.get(2));
            let listed = Known { name: format!("{schema}.{name}"), is_partition: row.get(3), is_logged: row.get(5) };
            let known = self.known.get(&oid);
            // Rows of a partition may stand under the name of a root, whatever its own.
            let is_or_was_partition = listed.is_partition || known.is_some_and(|known| known.is_partition);
            // A name may be owed since a table took it.
            (is_or_was_partition || self.config.captures(schema, name))
                && (known != Some(&listed) || self.owed.borrow().contains(&listed.name))
        });
        if !is_news && named == self.named && !self.is_due {
            return Ok(None);
        }
        let definitions = TableDefinition::load(sql, None).await?;
        let Some(publication) = Publication::load(sql, &self.facts, &self.config.publication).await? else { return Ok(None) };
        let those = |column: usize| rows.iter().filter(|row| row.get(column)).map(|row| row.get(0)).collect();
        Ok(Some(Seen { definitions, publication, attached: those(4), rewritten: those(6) }))
    }

    /// The statements by which the publication would be brought in order and which the server refuses, as with tables of somebody else
    /// that pass the filters; and why. A start would run into the same. Says, too, whether some are to be tried again, for tables that
    /// somebody has locked.
    async fn refused_statements(&self, sql: &SqlConnection, seen: &Seen) -> Result<(HashMap<String, String>, bool)> {
        let (mut refused, mut is_due) = (HashMap::new(), false);
        if let Ok(Step::Run(statements)) = plan(&self.config, &self.facts, Some(&seen.publication), &seen.definitions) {
            for statement in statements {
                match rehearse(sql, &self.config, std::slice::from_ref(&statement)).await {
                    Ok(()) => {}
                    Err(error) if error.kind().is_transient() && !may_pass(&error) => return Err(error),
                    Err(error) => {
                        is_due |= may_pass(&error);
                        let said = refusal(&self.config, &statement, &error);
                        refused.insert(statement, said);
                    }
                }
            }
        }
        Ok((refused, is_due))
    }

    /// What follows from what a look has seen, and from the statements that the server refuses now: each with why, where that is news.
    fn judge(&mut self, seen: &Seen, refused: &HashMap<String, Option<String>>) -> Found {
        let captured = captured(&self.config, &seen.definitions);
        let to_read = tables_to_read(&self.config, Some(&seen.publication), &seen.definitions);
        let unpublished = unpublished(&self.config, &seen.publication, &seen.definitions);
        self.remember_left(&unpublished);
        let mut lost = Untold { messages: self.added_again(&seen.publication, &captured), attached: Vec::new() };
        lost.messages.extend(self.detached(seen, &captured));
        self.look_for_attached(seen, &captured, &mut lost);
        // A start finds these, too.
        let mut untold = Vec::new();
        let mended = self.publication_to_mend(seen, refused, &mut untold);
        let reads = mended.is_ok() && self.config.snapshot.reads_new_tables;
        let owed = if mended.is_ok() { self.owed_table(&to_read) } else { None };
        let restart = mended.ok().flatten().or(owed).or_else(|| self.published_since(seen, &captured, &to_read, reads, &mut untold));
        if let Some(why) = restart {
            return Found::Restart { why, untold: lost };
        }
        // What mends one that was unlogged may leave it unpublished.
        let is_known = |table: &&&TableDefinition| self.known.get(&table.oid).is_none_or(|known| known.is_logged == table.logged);
        let news = unpublished.iter().filter(|table| !(self.unpublished.contains(&table.oid) && is_known(table)));
        untold.extend(news.map(|table| unpublished_advice(&self.config, &self.facts, &seen.publication, &seen.definitions, table)));
        self.unpublished = unpublished.iter().map(|table| table.oid).collect();
        self.published = captured.iter().map(|table| table.oid).filter(|oid| !self.unpublished.contains(oid)).collect();
        if seen.publication.named.by_root != self.named.by_root {
            // I11: of what was told under a name that rows have again nobody knows what went on meanwhile.
            self.told.retain(|oid| to_read.iter().any(|table| table.oid == *oid));
            let is_renamed = |table: &&TableDefinition| !self.told.contains(&table.oid) && !self.unpublished.contains(&table.oid);
            if !self.config.snapshot.reads_new_tables {
                untold.extend(to_read.iter().filter(is_renamed).map(renamed_advice));
            }
        }
        // Where no start is possible, a table that one would read is judged again when one is.
        let with_rows =
            if reads || !self.config.snapshot.reads_new_tables { self.table_with_rows(seen, &to_read, &mut untold) } else { None };
        if let Some(why) = with_rows {
            return Found::Restart { why, untold: lost };
        }
        for table in &to_read {
            if self.names.insert(table.full_name(), table.oid).is_some_and(|former| former != table.oid) {
                untold.push(replaced_advice(table));
            }
        }
        untold.append(&mut lost.messages);
        let untold = Untold { messages: untold, ..lost };
        if untold == Untold::default() { Found::Nothing } else { Found::Untold(untold) }
    }

    /// I11: however the run ends, the next one knows of the tables that left the publication, also where they are back by then.
    fn remember_left(&self, unpublished: &[&TableDefinition]) {
        let server = &self.config.relational.topic_prefix;
        let left = unpublished.iter().filter(|table| self.published.contains(&table.oid));
        let left: Vec<_> = left.map(|table| UnpublishedTable::of(table).change(server)).collect();
        if !left.is_empty() {
            self.left.send_modify(|state| state.extend(left));
        }
    }

    /// Why a start would bring the publication in order, if it would.
    ///
    /// # Errors
    /// A start would be refused, and the other tables with it (I10): none is to be made, for whatever reason.
    fn publication_to_mend(
        &self,
        seen: &Seen,
        refused: &HashMap<String, Option<String>>,
        untold: &mut Vec<String>,
    ) -> Result<Option<String>, StartRefused> {
        match plan(&self.config, &self.facts, Some(&seen.publication), &seen.definitions) {
            Ok(Step::Nothing) => Ok(None),
            Ok(Step::Run(statements)) if statements.iter().all(|statement| refused.contains_key(statement)) => {
                untold.extend(refused.values().flatten().cloned());
                Ok(None)
            }
            Ok(Step::Run(mut statements)) => {
                statements.retain(|statement| !refused.contains_key(statement));
                let reads =
                    if self.config.snapshot.reads_new_tables { "" } else { " (rows from before are read with snapshot.new.tables=read)" };
                let is_taken = |table: &TableDefinition| {
                    self.named.tables.contains_key(&table.oid) && !seen.publication.named.tables.contains_key(&table.oid)
                };
                // Two connectors with one publication do so to each other.
                let taken = if seen.definitions.iter().any(is_taken) {
                    "; somebody took tables out: another connector may use the publication"
                } else {
                    ""
                };
                Ok(Some(format!(
                    "tables came or went that pass the filters; the connector starts again for: {}{reads}{taken}",
                    statements.join(" ")
                )))
            }
            Err(error) => {
                untold.push(format!("{error}"));
                Err(StartRefused)
            }
        }
    }

    fn owed_table(&self, to_read: &[TableDefinition]) -> Option<String> {
        // I10: a start would leave one out that the role may not read.
        let table = to_read.iter().find(|table| self.owed.borrow().contains(&table.full_name()) && is_readable(table))?;
        Some(format!(
            "the table {} has the name of one that the snapshot at the start did not read to its end; the connector starts again to read it",
            table.full_name()
        ))
    }

    /// Why a start would read a table anew that was not published until now, if it would. Where none is made that `reads`, the state
    /// keeps it for the next one.
    fn published_since(
        &self,
        seen: &Seen,
        captured: &[&TableDefinition],
        to_read: &[TableDefinition],
        reads: bool,
        untold: &mut Vec<String>,
    ) -> Option<String> {
        let was_unlogged = |oid: &u32| self.known.get(oid).is_some_and(|known| !known.is_logged);
        let unlogged = self.unpublished.iter().copied().filter(was_unlogged).collect();
        let logged_again = published_by_now(&seen.publication, captured, &unlogged);
        // What is attached to a root that was published before is asked for by itself.
        let is_news = |table: &&TableDefinition| {
            !table.partitioned || seen.publication.named != self.named || logged_again.iter().any(|other| other.oid == table.oid)
        };
        for table in published_by_now(&seen.publication, captured, &self.unpublished).into_iter().filter(is_news) {
            if reads && to_read.iter().any(|other| other.oid == table.oid) {
                return Some(format!(
                    "rows under the name {} were not published, and are by now; the connector starts again to read what changed until then",
                    table.full_name()
                ));
            }
            untold.push(published_advice(table));
        }
        None
    }

    /// What to say of tables that were taken out of the publication and added to it again since the last look, by themselves or by their
    /// schemas. One transaction may have done both, as where a list of columns changes, so nothing is read for that.
    fn added_again(&self, publication: &Publication, captured: &[&TableDefinition]) -> Vec<String> {
        let (now, former) = (&publication.named, &self.named);
        let is_another = |now: Option<&u32>, former: Option<&u32>| now.zip(former).is_some_and(|(now, former)| now != former);
        let again = captured.iter().filter(|table| {
            self.published.contains(&table.oid)
                && (is_another(now.tables.get(&table.oid), former.tables.get(&table.oid))
                    || is_another(now.schemas.get(&table.schema_oid), former.schemas.get(&table.schema_oid)))
        });
        let advice = |table: &&&TableDefinition| {
            format!(
                "the table {} was taken out of the publication {} and added to it again: unless one transaction did both, what changed between \
                 them is in no record. To mend it: signal execute-snapshot with data-collections {}",
                table.full_name(),
                self.config.publication,
                expression_of(&table.full_name())
            )
        };
        again.map(|table| advice(&table)).collect()
    }

    /// Why a start would read a table that came with rows, if it would.
    fn table_with_rows(&mut self, seen: &Seen, to_read: &[TableDefinition], untold: &mut Vec<String>) -> Option<String> {
        let publication = &seen.publication;
        // I10: a table that nobody publishes is told of, and read when somebody does.
        for table in to_read.iter().filter(|table| !self.unpublished.contains(&table.oid)) {
            // Where the publication changed, too, it may have been made before that.
            let is_new = !self.known.contains_key(&table.oid) && publication.named == self.named;
            let is_told = !self.told.insert(table.oid);
            let by_its_root = !publication.all_tables && seen.attached.contains(&table.oid);
            let is_from_birth = is_published_from_birth(publication, table) && !seen.rewritten.contains(&table.oid);
            if is_told || is_new && is_from_birth && !by_its_root {
                continue;
            }
            if self.config.snapshot.reads_new_tables && !is_readable(table) {
                untold.push(unreadable_advice(&self.facts, table));
                continue;
            }
            if self.config.snapshot.reads_new_tables {
                return Some(format!(
                    "the table {} came with rows that the log may not hold; the connector starts again to read them",
                    table.full_name()
                ));
            }
            if is_new && seen.rewritten.contains(&table.oid) && is_published_from_birth(publication, table) {
                untold.push(format!(
                    "the table {0} was rewritten since it was made, or unlogged first: the log may not hold all of its rows. To read them, signal \
                     execute-snapshot with data-collections {1}",
                    table.full_name(),
                    expression_of(&table.full_name())
                ));
            }
            if by_its_root && self.is_attached_since(seen, table) && !publication.named.tables.contains_key(&table.oid) {
                untold.push(format!(
                    "the table {0} was attached to a table by which it is published: the log does not hold the rows that it held then. To read \
                     them, signal execute-snapshot with data-collections {0}",
                    table.full_name()
                ));
            }
        }
        None
    }

    /// What to say of partitions whose rows stay under the name of a root that they have no more.
    fn detached(&self, seen: &Seen, captured: &[&TableDefinition]) -> Vec<String> {
        let former_root = |table: &TableDefinition| {
            let former = self.parts.get(&table.oid).filter(|former| former.first() != table.ancestors.first())?;
            let is_left = |root: &&&TableDefinition| former.contains(&root.oid) && !table.ancestors.contains(&root.oid);
            captured.iter().find(|root| is_left(root) && seen.publication.table(root.oid).is_some())
        };
        let detached = seen.definitions.iter().filter_map(|table| Some((table, former_root(table)?)));
        let advice = |(table, root): (&TableDefinition, &&TableDefinition)| {
            let is_published = captured.iter().any(|other| other.oid == table.oid) && seen.publication.table(table.oid).is_some();
            let published = if is_published { ". Its changes come under its own name from now on" } else { "" };
            format!(
                "the table {} was detached: the rows that it holds are told under the name of its former root {}, and nothing says there that \
                 they went{published}",
                table.full_name(),
                root.full_name()
            )
        };
        detached.map(advice).collect()
    }

    /// The partitions that came with rows under the name of a root.
    fn look_for_attached(&self, seen: &Seen, captured: &[&TableDefinition], lost: &mut Untold) {
        // Whatever their own names: the filters count for that of the root.
        for table in seen.definitions.iter().filter(|table| table.logged && self.is_attached_since(seen, table)) {
            let root = |oid: &u32| captured.iter().find(|root| root.oid == *oid && seen.publication.table(root.oid).is_some());
            let Some(root) = table.ancestors.iter().find_map(root) else { continue };
            let condition = table.condition_of_part();
            let partition = Attached { oid: table.oid, partition: table.full_name(), root: root.full_name(), condition };
            if self.config.snapshot.reads_new_tables && can_be_chunked(&self.config, root) {
                lost.attached.push(partition);
            } else {
                lost.messages.push(partition.advice());
            }
        }
    }

    fn is_attached_since(&self, seen: &Seen, table: &TableDefinition) -> bool {
        // A leaf that was unlogged when it was made came with rows, too.
        let came_with_rows = || seen.attached.contains(&table.oid) || seen.rewritten.contains(&table.oid) && !table.ancestors.is_empty();
        self.known.get(&table.oid).map_or_else(came_with_rows, |known| !known.is_partition)
    }
}

fn known(definitions: &[TableDefinition]) -> HashMap<u32, Known> {
    let of = |table: &TableDefinition| {
        (table.oid, Known { name: table.full_name(), is_partition: !table.ancestors.is_empty(), is_logged: table.logged })
    };
    definitions.iter().map(of).collect()
}

fn parts(definitions: &[TableDefinition]) -> HashMap<u32, Vec<u32>> {
    let partitions = definitions.iter().filter(|table| !table.ancestors.is_empty());
    partitions.map(|table| (table.oid, table.ancestors.clone())).collect()
}

/// Whether the log holds all rows of a table that was made after the publication.
pub(crate) fn is_published_from_birth(publication: &Publication, table: &TableDefinition) -> bool {
    publication.all_tables || !publication.named.tables.contains_key(&table.oid) && publication.table(table.oid).is_some()
}

#[cfg(test)]
mod tests;
