//! Tables that are read anew although they were captured before: their rows begin with a truncation.
//!
//! A table is read anew where the position is lost and `snapshot.mode` allows a new beginning, at each start with `always`, where the
//! filters bring it back after they left it out, and where another table has taken its name. Rows that were deleted while nobody
//! followed the table are in no read and in no event, so whoever only adds the rows that are read keeps those for ever. A record
//! that says that the table was truncated, before its first row, lets each consumer drop all that it had; the rows that follow are all
//! there are.
//!
//! - Rows of the `consistent` strategy are pending until the table is complete, and the truncation is the first of them: it is published
//!   with them in one step. So that a crash before that forgets it not, the table is *outdated* in the state (`table_states`) until
//!   then.
//! - Of a table that is read in chunks, the truncation leaves in the batch with which its state becomes *reading*, before the log is
//!   followed from there. Behind it stand only changes that no read has to repeat: what earlier sessions told of is visible to each
//!   read, since a session waits for that before its first one (`chunks`), and what this one tells of, the windows hold against the rows.
//!
//! Truncations are told only where `skipped.operations` asks for them; Debezium, whose default leaves them out, tells none here
//! either. Where they are left out, it is said that rows may be left over, and how to mend it.
//!
//! Where a truncation would take more than the rows bring back there is none, and that is said, too: a topic that the table shares with
//! others, whose rows consumers would drop as well, and a table of which `snapshot.select.statement.overrides` reads a part.

use std::collections::HashMap;

use bytes::BytesMut;
use tailwater_api::Result;
use tailwater_api::envelope::Operation;
use tailwater_api::record::Record;
use tailwater_kit::envelope::{Change, SnapshotMark};
use tracing::warn;

use crate::catalog::{Publication, TableDefinition};
use crate::config::PostgresConfig;
use crate::event::{Blocks, Place, now};
use crate::plans::Plans;
use crate::position::Position;
use crate::relation::{Shape, TablePlan};

/// The names of those of the tables in `anew` whose rows begin with a truncation; warns of those that consumers may keep rows of.
pub(crate) fn told(config: &PostgresConfig, captured: &[&TableDefinition], anew: &[TableDefinition]) -> Vec<String> {
    if config.relational.skipped_operations.contains(Operation::Truncate) {
        warn_of(anew, ", or set skipped.operations to none, so that a truncation comes before the rows");
        return Vec::new();
    }
    told_in_any_case(config, captured, anew)
}

/// The same whatever `skipped.operations` says, for tables that were errored.
pub(crate) fn told_in_any_case(config: &PostgresConfig, captured: &[&TableDefinition], anew: &[TableDefinition]) -> Vec<String> {
    let topic = |table: &TableDefinition| config.relational.topics.of(&table.schema, &table.name).name;
    let mut sharing: HashMap<String, u32> = HashMap::new();
    captured.iter().for_each(|table| *sharing.entry(topic(table)).or_default() += 1);
    let is_read_whole = |name: &str| !config.relational.snapshot_selects.iter().any(|(table, _)| table == name);
    let (told, untold): (Vec<TableDefinition>, Vec<_>) = anew
        .iter()
        .cloned()
        .partition(|table| is_read_whole(&table.full_name()) && sharing.get(&topic(table)).is_none_or(|count| *count == 1));
    let why = "; a truncation would take the rows of others in the topic, or those that snapshot.select.statement.overrides leaves out";
    warn_of(&untold, why);
    told.iter().map(TableDefinition::full_name).collect()
}

fn warn_of(untold: &[TableDefinition], more: &str) {
    if !untold.is_empty() {
        let names = untold.iter().map(TableDefinition::full_name).collect::<Vec<_>>().join(", ");
        warn!(
            "tables are read anew although they were captured before: {names}. Consumers keep rows that were deleted meanwhile. To mend it: \
             empty the targets of these tables before they take the rows{more}"
        );
    }
}

/// The record that says that the table is empty.
pub(crate) fn truncation(plan: &TablePlan, blocks: &Blocks, place: &Place) -> Vec<Record> {
    let mut records = Vec::new();
    let now = now();
    let moment = blocks.moment(place, plan.schema_value.clone(), plan.table_value.clone(), now, &mut BytesMut::new());
    plan.events.records(Change::Truncate, moment, |record| records.push(record));
    records
}

/// The same of tables that are to be read in chunks from `position` on.
pub(crate) fn truncations<'a>(
    tables: impl Iterator<Item = &'a TableDefinition>,
    publication: Option<&Publication>,
    plans: &mut Plans,
    blocks: &Blocks,
    position: &Position,
) -> Result<Vec<Record>> {
    let place = Place {
        lsn: position.through,
        last_commit: position.last_commit,
        xid: position.last.xid,
        timestamp: now() / 1000,
        mark: SnapshotMark::Inside,
        origin: None,
    };
    let mut records = Vec::new();
    for table in tables {
        let columns = publication.and_then(|publication| publication.table(table.oid)).and_then(|published| published.columns.as_deref());
        let shape = Shape::of_definition(table, columns, publication.is_some_and(|publication| publication.generated));
        let plan = plans.of_definition(blocks, table, shape)?;
        records.extend(truncation(&plan, blocks, &place));
    }
    Ok(records)
}
