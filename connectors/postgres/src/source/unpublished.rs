//! Tables that pass the filters and of which the log does not tell: the publication does not hold them, or they are unlogged.
//!
//! A table that is not published is read with the others, and nothing of it is followed; of an unlogged one, not even that. When somebody
//! publishes it, or has it logged, its changes come from then on, and what changed between its read and that moment stands in no record.
//! Neither the log nor the catalog tells of that later, so the state does (I11): such a table is *unpublished* there, by its oid, before a
//! read of it can be complete. So is a partitioned table that is published by its leaves, of which the filters leave out some: it is read
//! under its own name where they leave out all.
//!
//! A start that finds an unpublished table published settles that, and then the state forgets it:
//!
//! - Where its rows are still to be read, there is nothing to do: what a read sees comes from behind all transactions of which the log
//!   may lack rows. The snapshot of a slot waits for all that run, and so does the first chunk of a session.
//! - With `snapshot.new.tables: read` its name becomes owed (`succession`), in the batch that forgets that it was unpublished: a crash
//!   repeats what is owed until the table is complete, and nothing behind that.
//! - Otherwise a warning names the signal that reads it. It comes before the state forgets: a crash between them warns twice. So it is
//!   with an errored table, which only a signal reads.
//!
//! A table whose rows are published under another captured name, that of its root or those of its leaves, is none of these. What was
//! complete of it is forgotten (`succession`), so that it is read anew where its name comes back.
//!
//! Rows of a partition whose root is published, or to which it was attached meanwhile, stand under the name of the root, and so that is
//! read, or told of. A new beginning reads all tables, and settles whatever was unpublished. While the log is followed, `arrivals` looks
//! for these tables, and for published ones that leave the publication, which the stream stores at once as unpublished, so that their
//! return is settled by a start. Where the start itself publishes a table beside a stored position, it first waits until it is durable in the
//! state that the table was unpublished. It may have been followed before without a state of its own; one that has none needs no word
//! where new tables are read.

use std::collections::HashSet;

use tailwater_api::source::{SourceBatch, SourceContext};
use tailwater_api::state::{SourceState, StateChange};
use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::filters::expression_of;
use tracing::{info, warn};

use super::captured::{captured_alone, unlogged_advice, with_further_leaves};
use super::succession::is_complete;
use super::{Run, captured, send_state, unlogged};
use crate::catalog::{Publication, ServerFacts, TableDefinition, quote_identifier};
use crate::config::{PostgresConfig, PublicationMode};
use crate::connect::{SqlConnection, replication_options};
use crate::position::Position;
use crate::publication::where_it_runs;
use crate::replication::ReplicationConnection;
use crate::snapshot::tables_to_read;
use crate::table_states::{CompletedTable, ReadingTable, UnpublishedTable, are_tables_known, owed};

/// The tables that pass the filters and whose rows are published neither under their names nor under that of a root.
pub(crate) fn unpublished<'a>(
    config: &PostgresConfig,
    publication: &Publication,
    definitions: &'a [TableDefinition],
) -> Vec<&'a TableDefinition> {
    let captured = captured(config, definitions);
    let with_further_leaves = with_further_leaves(config, definitions);
    let has_rows = |table: &TableDefinition| !table.partitioned || with_further_leaves.contains(&table.oid);
    let is_unpublished = |table: &&&TableDefinition| has_rows(table) && published_as(publication, &captured, table).is_none();
    captured.iter().filter(is_unpublished).copied().chain(unlogged(config, definitions)).collect()
}

/// The tables under whose names the rows of `unpublished` are published by now, which are known by their oids.
pub(crate) fn published_by_now<'a>(
    publication: &Publication,
    captured: &[&'a TableDefinition],
    unpublished: &HashSet<u32>,
) -> Vec<&'a TableDefinition> {
    let mut published: Vec<&TableDefinition> = Vec::new();
    for table in captured.iter().filter(|table| unpublished.contains(&table.oid)) {
        let known = |known: &TableDefinition| published.iter().any(|other| other.oid == known.oid);
        published.extend(published_as(publication, captured, table).filter(|table| !known(table)));
    }
    published
}

/// The table under whose name the rows of this one are published.
fn published_as<'a>(
    publication: &Publication,
    captured: &[&'a TableDefinition],
    table: &'a TableDefinition,
) -> Option<&'a TableDefinition> {
    let is_published = |table: &&TableDefinition| publication.table(table.oid).is_some();
    let root = |oid: &u32| captured.iter().copied().find(|root| root.oid == *oid).filter(is_published);
    Some(table).filter(is_published).or_else(|| table.ancestors.iter().find_map(root))
}

/// The captured tables whose rows are published under other captured names: those of their roots, or of their leaves.
pub(super) fn told_elsewhere<'a>(
    config: &PostgresConfig,
    publication: &Publication,
    definitions: &'a [TableDefinition],
) -> Vec<&'a TableDefinition> {
    let captured = captured(config, definitions);
    let is_published = |table: &TableDefinition| publication.table(table.oid).is_some();
    let published = captured.iter().filter(|table| is_published(table));
    let above_published: HashSet<u32> = published.flat_map(|table| table.ancestors.iter().copied()).collect();
    let is_elsewhere = |table: &TableDefinition| {
        if table.partitioned { above_published.contains(&table.oid) } else { published_as(publication, &captured, table).is_some() }
    };
    captured.iter().filter(|table| !is_published(table) && is_elsewhere(table)).copied().collect()
}

/// What to say of such a table.
pub(crate) fn unpublished_advice(
    config: &PostgresConfig,
    facts: &ServerFacts,
    publication: &Publication,
    definitions: &[TableDefinition],
    table: &TableDefinition,
) -> String {
    if !table.logged {
        return unlogged_advice(table);
    }
    let name = quote_identifier(&config.publication);
    let is_root = |root: &&TableDefinition| table.ancestors.contains(&root.oid) && publication.table(root.oid).is_some();
    let (how, mend) = match definitions.iter().find(is_root) {
        // To name the leaf, too, would change nothing.
        Some(root) => {
            let statement = format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = false);");
            let (root, statement) = (root.full_name(), where_it_runs(facts, &statement));
            (
                format!("publishes rows of the table {} under the name {root}, which is not captured", table.full_name()),
                format!("capture {root} with table.include.list, or {statement}"),
            )
        }
        None if table.partitioned => rows_of_further_leaves(config, facts, publication, definitions, table),
        None => {
            let statement = format!("ALTER PUBLICATION {name} ADD TABLE {};", table.quoted());
            (format!("does not publish the table {}", table.full_name()), where_it_runs(facts, &statement))
        }
    };
    format!(
        "the publication {} {how}, so its changes are not captured. To mend it: {mend} and then signal execute-snapshot with \
         data-collections {}, for what changed until then",
        config.publication,
        expression_of(&table.full_name())
    )
}

/// How the publication leaves out rows of a partitioned table of which not all leaves are captured, and what mends it.
fn rows_of_further_leaves(
    config: &PostgresConfig,
    facts: &ServerFacts,
    publication: &Publication,
    definitions: &[TableDefinition],
    table: &TableDefinition,
) -> (String, String) {
    let is_named = |table: &TableDefinition| {
        let named = &publication.named;
        publication.all_tables || named.tables.contains_key(&table.oid) || named.schemas.contains_key(&table.schema_oid)
    };
    // Under whose name the rows would come.
    let above = |root: &&TableDefinition| table.ancestors.contains(&root.oid) && is_named(root);
    let top = definitions.iter().filter(above).min_by_key(|root| root.ancestors.len());
    let is_told_elsewhere = |part: &TableDefinition| {
        part.ancestors.contains(&table.oid) && !config.captures(&part.schema, &part.name) && publication.table(part.oid).is_some()
    };
    let how = if definitions.iter().any(is_told_elsewhere) {
        format!("publishes rows of the table {} under the names of partitions that are not captured", table.full_name())
    } else {
        format!("does not publish the table {}", table.full_name())
    };
    let name = quote_identifier(&config.publication);
    let add = (top.is_none() && !is_named(table)).then(|| format!("ALTER PUBLICATION {name} ADD TABLE {};", table.quoted()));
    let by_root = "SET (publish_via_partition_root = true); which holds for all its partitioned tables";
    let by_root = (!publication.named.by_root).then(|| format!("ALTER PUBLICATION {name} {by_root}"));
    let statements = where_it_runs(facts, &add.into_iter().chain(by_root).collect::<Vec<_>>().join(" "));
    let top = top.map(|root| format!("{} in its place and ", root.full_name())).unwrap_or_default();
    let mend = format!(
        "capture the partitions with table.include.list, or {top}{statements}, or leave the table out with table.exclude.list where these \
         rows are not wanted;"
    );
    (how, mend)
}

/// Warns of rows of partitioned tables that have no captured name, where nothing is followed.
pub(super) fn warn_about_further_leaves(config: &PostgresConfig, definitions: &[TableDefinition]) {
    let (further, alone) = (with_further_leaves(config, definitions), captured_alone(config, definitions));
    let is_cut = |table: &&TableDefinition| further.contains(&table.oid) && !alone.contains(&table.oid) && !config.publish_via_root;
    for table in definitions.iter().filter(is_cut) {
        warn!(
            table = %table.full_name(),
            "rows of {} that are in partitions which are not captured are not read. To mend it: capture these with table.include.list, or set \
             publish.via.partition.root=true",
            table.full_name()
        );
    }
}

/// Warns of those that are news and could be published at once.
pub(super) fn warn_about_unpublished(
    config: &PostgresConfig,
    facts: &ServerFacts,
    publication: &Publication,
    definitions: &[TableDefinition],
    is_news: impl Fn(&TableDefinition) -> bool,
) {
    for table in unpublished(config, publication, definitions).into_iter().filter(|table| table.logged && is_news(table)) {
        warn!(table = %table.full_name(), "{}", unpublished_advice(config, facts, publication, definitions, table));
    }
}

/// What to say of a table that is published by now, and that nobody reads anew.
pub(crate) fn published_advice(table: &TableDefinition) -> String {
    format!(
        "rows under the name {} were not published for some time, and are by now: what changed until then is in no record. To mend it: \
         signal execute-snapshot with data-collections {}",
        table.full_name(),
        expression_of(&table.full_name())
    )
}

/// What to say of a table under whose name its rows are told by now, and that nobody reads.
pub(crate) fn renamed_advice(table: &TableDefinition) -> String {
    format!(
        "rows stand under the name {} since publish_via_partition_root of the publication changed: what was told of them before stands under \
         other names. To mend it: signal execute-snapshot with data-collections {}",
        table.full_name(),
        expression_of(&table.full_name())
    )
}

/// Stores which tables that may have been followed before the publication lacks, where the start is about to publish them, and returns
/// them. A crash behind that would leave nothing to tell it by (I11).
pub(super) async fn remember_lost(
    sql: &SqlConnection,
    config: &PostgresConfig,
    facts: &ServerFacts,
    definitions: &[TableDefinition],
    context: &mut SourceContext,
) -> Result<Vec<UnpublishedTable>> {
    if config.publication_mode != PublicationMode::Filtered {
        return Ok(Vec::new());
    }
    let Some(publication) = Publication::load(sql, facts, &config.publication).await? else { return Ok(Vec::new()) };
    let server = &config.relational.topic_prefix;
    let Some(position) = Position::load(context.state(), server)? else { return Ok(Vec::new()) };
    let completed = CompletedTable::load_all(context.state(), server);
    let reading = ReadingTable::load_all(context.state(), server)?;
    let known = UnpublishedTable::load_all(context.state(), server);
    let are_known =
        !completed.is_empty() || reading.iter().any(|reading| reading.request.is_none()) || are_tables_known(context.state(), server);
    // One that was followed and never read has no state. Where new tables are read, so is that one.
    let are_read = config.snapshot.reads_new_tables && are_known;
    let is_lost = |table: &&&TableDefinition| {
        let has_state = completed.iter().any(|done| done.oid == Some(table.oid))
            || reading.iter().any(|reading| reading.oid == table.oid && reading.request.is_none());
        (has_state || !are_read) && !known.iter().any(|known| known.oid == table.oid)
    };
    let unpublished = unpublished(config, &publication, definitions);
    let lost: Vec<_> = unpublished.iter().filter(is_lost).map(|table| UnpublishedTable::of(table)).collect();
    if lost.is_empty() {
        return Ok(lost);
    }
    // I3: oids of another server's tables say nothing about these.
    if let Some(log) = &position.log {
        let mut connection = ReplicationConnection::connect(&replication_options(config)).await?;
        if connection.identify_system().await?.system_id != log.system {
            return Ok(Vec::new());
        }
    }
    let state = lost.iter().map(|table| table.change(server)).collect();
    let reservation = context.reserve(0).await;
    let number = context.send(SourceBatch { state, ..SourceBatch::default() }, reservation).await?;
    let ended =
        |_| Error::new(ErrorKind::Restarting, "store which tables were unpublished").because("the topic log of this task is closed");
    context.confirmed().wait_for(|confirmed| *confirmed >= number).await.map_err(ended)?;
    Ok(lost)
}

impl Run {
    /// The tables of which the state says that they were unpublished.
    fn known_unpublished(&self, stored: &SourceState) -> Vec<UnpublishedTable> {
        let mut known = UnpublishedTable::load_all(stored, &self.config.relational.topic_prefix);
        known.extend_from_slice(&self.lost);
        known
    }

    /// The captured tables that are not published, by their oids.
    pub(super) fn unpublished_tables(&self) -> HashSet<u32> {
        let unpublished = self.publication.iter().flat_map(|publication| unpublished(&self.config, publication, &self.definitions));
        unpublished.map(|table| table.oid).collect()
    }

    /// Whether changes of the table come by now, and did not when these were unpublished.
    pub(super) fn is_published_since(&self, unpublished: &HashSet<u32>, table: &CompletedTable) -> bool {
        let captured = captured(&self.config, &self.definitions);
        let published = self.publication.iter().flat_map(|publication| published_by_now(publication, &captured, unpublished));
        published.into_iter().any(|published| table.oid == Some(published.oid))
    }

    /// What the state has to say of unpublished tables and does not say yet.
    pub(super) fn unpublished_state(&self, stored: &SourceState) -> Vec<StateChange> {
        let Some(publication) = &self.publication else { return Vec::new() };
        let server = &self.config.relational.topic_prefix;
        let unpublished = unpublished(&self.config, publication, &self.definitions);
        let unpublished: Vec<_> = unpublished.into_iter().map(UnpublishedTable::of).collect();
        let before = self.known_unpublished(stored);
        let is_forgotten = |table: &&UnpublishedTable| !unpublished.iter().any(|other| other.oid == table.oid);
        let forgotten = before.iter().filter(is_forgotten).map(|table| table.removal(server));
        forgotten.chain(unpublished.iter().filter(|table| !before.contains(table)).map(|table| table.change(server))).collect()
    }

    /// Stores which tables are unpublished, and settles those that were and are not any more (I11). `continues` says whether the
    /// snapshot at the start goes on with the tables that are not complete.
    pub(super) async fn settle_unpublished(
        &mut self,
        context: &mut SourceContext,
        completed: &mut Vec<CompletedTable>,
        continues: bool,
    ) -> Result<()> {
        let Some(publication) = &self.publication else { return Ok(()) };
        let server = &self.config.relational.topic_prefix;
        let captured = captured(&self.config, &self.definitions);
        let before = self.known_unpublished(context.state()).iter().map(|table| table.oid).collect();
        let to_read = tables_to_read(&self.config, Some(publication), &self.definitions);
        let reads_new_tables = self.config.snapshot.reads_new_tables && self.knows_tables(context.state());
        let mut state = Vec::new();
        for table in published_by_now(publication, &captured, &before) {
            let name = table.full_name();
            let reading = || self.reading.iter().filter(|reading| reading.oid == table.oid && reading.request.is_none());
            let has_begun = completed.iter().any(|done| done.oid == Some(table.oid) || done.name == name)
                || reading().any(|reading| reading.range.is_some());
            let is_errored = self.errored.iter().any(|errored| errored.name == name);
            let is_chosen = to_read.iter().any(|other| other.oid == table.oid);
            let is_successor = self.is_successor(table) && !is_complete(completed, table);
            let is_new = !has_begun && (continues || reading().next().is_some() || reads_new_tables && !is_errored);
            if is_chosen && (is_successor || is_new) {
                continue;
            }
            if is_chosen && reads_new_tables && !is_errored {
                info!(table = %name, "the table was not published when it was read: it is read anew");
                state.push(owed(server, &name));
                completed.retain(|done| done.name != name);
                self.reading.retain(|reading| reading.oid != table.oid || reading.request.is_some());
                self.owed.push(name);
            } else {
                warn!("{}", published_advice(table));
            }
        }
        // Behind what is owed, where changes of the state become durable one after another.
        state.append(&mut self.unpublished_state(context.state()));
        if state.is_empty() { Ok(()) } else { send_state(context, state).await }
    }
}
