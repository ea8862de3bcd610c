//! What the keys of [`relational_fields`](crate::relational_fields) say, as a relational source reads it.

use tailwater_api::config::{ConfigReader, split_list};
use tailwater_api::envelope::Operation;

use crate::column_rules::ColumnRules;
use crate::filters::{KeyColumns, NameFilter, NameList, TableFilter, plain_table_name};
use crate::guardrail::Guardrail;
use crate::heartbeat::HeartbeatOptions;
use crate::name_adjustment::NameAdjustment;
use crate::notification::NotificationOptions;
use crate::reselect::ReselectOptions;
use crate::signals::channels::SignalOptions;
use crate::topic_names::TopicNames;

/// Validator: operations that make no records.
pub(crate) fn validate_operations(value: &str) -> Result<(), String> {
    SkippedOperations::parse(value).map(|_| ())
}

/// Operations that make no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedOperations {
    create: bool,
    update: bool,
    delete: bool,
    truncate: bool,
}

impl SkippedOperations {
    fn parse(text: &str) -> Result<Self, String> {
        let mut skipped = Self { create: false, update: false, delete: false, truncate: false };
        let letters = split_list(text);
        for letter in &letters {
            match letter.to_ascii_lowercase().as_str() {
                "c" => skipped.create = true,
                "u" => skipped.update = true,
                "d" => skipped.delete = true,
                "t" => skipped.truncate = true,
                // Debezium takes it. It would be the rows of a snapshot, which are never left out.
                "r" => {}
                "none" if letters.len() == 1 => {}
                _ => return Err(format!("must be a list of c, u, d and t, or none, not {text:?}")),
            }
        }
        Ok(skipped)
    }

    /// Whether `operation` makes no record. Rows of a snapshot and messages always do.
    #[must_use]
    pub fn contains(self, operation: Operation) -> bool {
        match operation {
            Operation::Create => self.create,
            Operation::Update => self.update,
            Operation::Delete => self.delete,
            Operation::Truncate => self.truncate,
            Operation::Read | Operation::Message => false,
        }
    }
}

/// What happens with a value that its schema has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// It becomes null or the nearest value; the first of each column is warned about
    #[default]
    Warn,
    /// It becomes null or the nearest value
    Skip,
    /// The connector stops
    Fail,
}

/// What happens with an event of the source's log that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnUnreadableEvent {
    /// The task stops
    #[default]
    Fail,
    /// Its table is errored: its changes are dropped until it is read again
    Isolate,
    /// It is left out, counted, and told of
    Warn,
    /// It is left out and counted; the first of each table is told of
    Skip,
}

/// In which order a snapshot reads the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TableOrder {
    /// By name
    #[default]
    Name,
    /// Those with few rows first
    Ascending,
    /// Those with many rows first
    Descending,
}

/// The values of [`RELATIONAL_FIELDS`](crate::relational_fields::RELATIONAL_FIELDS) that are in effect.
#[derive(Clone)]
pub struct RelationalConfig {
    /// Namespace of topics, schemas and positions
    pub topic_prefix: String,
    /// What joins the parts of a topic's name
    pub topic_delimiter: String,
    /// Names of the topics of tables
    pub topics: TopicNames,
    /// Captured tables
    pub tables: TableFilter,
    /// How many they may be
    pub guardrail: Option<Guardrail>,
    /// Columns kept in values, by `schema.table.column`
    pub columns: NameFilter,
    /// Masks, hashes, truncation and types of columns
    pub column_rules: ColumnRules,
    /// How names of schemas are made valid
    pub schema_names: NameAdjustment,
    /// How names of fields are made valid
    pub field_names: NameAdjustment,
    /// What happens with a value that its schema has no room for
    pub on_loss: OnLoss,
    /// What happens with an event of the source's log that cannot be decoded
    pub on_unreadable_event: OnUnreadableEvent,
    /// Keys of chosen tables
    pub key_columns: KeyColumns,
    /// Operations that make no records
    pub skipped_operations: SkippedOperations,
    /// Whether the user wrote `skipped.operations` down
    pub skips_operations_explicitly: bool,
    /// Whether a delete is followed by a tombstone
    pub tombstones_on_delete: bool,
    /// Whether records name their connector and task in headers
    pub extended_headers: bool,
    /// What stands for a value that a change left as it was
    pub unavailable_value_placeholder: String,
    /// Captured tables that a snapshot reads; all where empty
    pub snapshot_tables: NameList,
    /// Statements that select the rows of a snapshot, by `schema.table`
    pub snapshot_selects: Vec<(String, String)>,
    /// Order of the tables
    pub snapshot_order: TableOrder,
    /// Whether updates are dropped that change no captured column
    pub skip_unchanged: bool,
    /// Topic of the records that say where transactions begin and end; none where they are not told
    pub transaction_topic: Option<String>,
    /// Which values are read again that the log does not hold, if any
    pub reselect: Option<ReselectOptions>,
    /// Where it is told how far a snapshot is
    pub notifications: NotificationOptions,
    /// Where signals come from
    pub signals: SignalOptions,
    /// Most rows of a chunk; where it is not given, chunks adapt
    pub chunk_rows: Option<usize>,
    /// When heartbeats are written, if they are
    pub heartbeat: Option<HeartbeatOptions>,
    /// Longest wait for the lock of a table
    pub snapshot_lock_timeout: std::time::Duration,
    /// How many connections read it
    pub snapshot_threads: usize,
    /// The highest rate at which they read; 0 for no limit
    pub snapshot_bytes_per_second: u64,
    /// Wait before the snapshot
    pub snapshot_delay: std::time::Duration,
    /// Wait between snapshot and streaming
    pub streaming_delay: std::time::Duration,
}

impl RelationalConfig {
    /// Whether a table that cannot be followed is left behind by the others (I10). Where transactions are told of, readers rely on whole ones.
    #[must_use]
    pub fn isolates_tables(&self) -> bool {
        self.on_unreadable_event == OnUnreadableEvent::Isolate && self.transaction_topic.is_none()
    }

    /// Reads the values; the reader must know [`RELATIONAL_FIELDS`](crate::relational_fields::RELATIONAL_FIELDS).
    pub fn read(reader: &mut ConfigReader<'_>) -> Self {
        let schemas = NameFilter::read(reader, "schema.include.list", "schema.exclude.list");
        let tables = NameFilter::read(reader, "table.include.list", "table.exclude.list");
        let columns = NameFilter::read(reader, "column.include.list", "column.exclude.list");
        let mut snapshot_selects = Vec::new();
        for table in reader.list("snapshot.select.statement.overrides") {
            let key = format!("snapshot.select.statement.overrides.{table}");
            let statement =
                reader.family("snapshot.select.statement.overrides.").find(|(name, _)| *name == table).map(|(_, text)| text.to_owned());
            match statement {
                Some(statement) => snapshot_selects.push((plain_table_name(&table), statement)),
                // As Debezium does.
                None => reader.note(&key, "is missing, so the table is read whole, though snapshot.select.statement.overrides names it"),
            }
        }
        Self {
            topic_prefix: reader.text("topic.prefix"),
            topic_delimiter: reader.text("topic.delimiter"),
            topics: TopicNames::read(reader),
            tables: TableFilter { schemas, tables },
            guardrail: Guardrail::read(reader),
            columns,
            column_rules: ColumnRules::read(reader),
            schema_names: reader.choice("schema.name.adjustment.mode", NameAdjustment::WORDS),
            field_names: reader.choice("field.name.adjustment.mode", NameAdjustment::WORDS),
            on_loss: reader.choice(
                "event.converting.failure.handling.mode",
                &[("warn", OnLoss::Warn), ("skip", OnLoss::Skip), ("fail", OnLoss::Fail)],
            ),
            // Who comes from Connect relies on a stop.
            on_unreadable_event: if reader.is_our_own() && !reader.is_set("event.processing.failure.handling.mode") {
                OnUnreadableEvent::Isolate
            } else {
                reader.choice(
                    "event.processing.failure.handling.mode",
                    &[
                        ("fail", OnUnreadableEvent::Fail),
                        ("isolate", OnUnreadableEvent::Isolate),
                        ("warn", OnUnreadableEvent::Warn),
                        ("skip", OnUnreadableEvent::Skip),
                        ("ignore", OnUnreadableEvent::Skip),
                    ],
                )
            },
            // What does not parse is already a fault of its key by its validator.
            key_columns: KeyColumns::parse(&reader.text("message.key.columns")).unwrap_or_default(),
            skipped_operations: SkippedOperations::parse(&reader.text("skipped.operations")).unwrap_or(SkippedOperations {
                create: false,
                update: false,
                delete: false,
                truncate: true,
            }),
            skips_operations_explicitly: reader.is_set("skipped.operations"),
            tombstones_on_delete: reader.boolean("tombstones.on.delete"),
            extended_headers: reader.boolean("extended.headers.enabled"),
            unavailable_value_placeholder: reader.raw_text("unavailable.value.placeholder"),
            snapshot_tables: NameList::parse(&reader.text("snapshot.include.collection.list")).unwrap_or_default(),
            snapshot_selects,
            snapshot_order: reader.choice(
                "snapshot.tables.order.by.row.count",
                &[("disabled", TableOrder::Name), ("ascending", TableOrder::Ascending), ("descending", TableOrder::Descending)],
            ),
            skip_unchanged: reader.boolean("skip.messages.without.change"),
            transaction_topic: reader
                .boolean("provide.transaction.metadata")
                .then(|| [reader.text("topic.prefix"), reader.text("topic.transaction")].join(&reader.text("topic.delimiter"))),
            reselect: ReselectOptions::read(reader),
            notifications: NotificationOptions::read(reader),
            signals: SignalOptions::read(reader),
            chunk_rows: reader.is_set("incremental.snapshot.chunk.size").then(|| reader.number("incremental.snapshot.chunk.size")),
            heartbeat: HeartbeatOptions::read(reader),
            snapshot_lock_timeout: reader.milliseconds("snapshot.lock.timeout.ms"),
            snapshot_threads: reader.number("snapshot.max.threads"),
            snapshot_bytes_per_second: reader.number("snapshot.max.bytes.per.second"),
            snapshot_delay: reader.milliseconds("snapshot.delay.ms"),
            streaming_delay: reader.milliseconds("streaming.delay.ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::ConfigValues;

    use super::*;
    use crate::relational_fields::RELATIONAL_FIELDS;

    #[test]
    fn operations_are_a_list_of_letters_or_none() {
        let skipped = SkippedOperations::parse("c, T").unwrap();
        assert!(skipped.contains(Operation::Create) && skipped.contains(Operation::Truncate));
        assert!(!skipped.contains(Operation::Update) && !skipped.contains(Operation::Delete) && !skipped.contains(Operation::Read));
        assert!(!SkippedOperations::parse("none").unwrap().contains(Operation::Truncate));
        assert!(SkippedOperations::parse("c,x").is_err());
        assert!(SkippedOperations::parse("none,c").is_err());
    }

    #[test]
    fn the_placeholder_keeps_its_blanks() {
        let values: ConfigValues = [("unavailable.value.placeholder", " x ")].into_iter().collect();
        let config = RelationalConfig::read(&mut ConfigReader::new(&[RELATIONAL_FIELDS], &values));
        assert_eq!(config.unavailable_value_placeholder, " x ");
    }
}
