//! The keys that Debezium's relational sources have in common (Debezium 3.6, `CommonConnectorConfig`,
//! `HistorizedRelationalDatabaseConnectorConfig` and theirs), declared once for every relational source of ours.
//!
//! Every key that a Debezium configuration may hold is declared, so that a configuration is taken as it is; a key
//! that does nothing here says so when the configuration is checked.

use tailwater_api::config::FieldType::{Boolean, Choice, Class, Int, List, Long, Text};
use tailwater_api::config::{ConfigField, Effect, Importance, split_list};

use crate::filters::{validate_key_columns, validate_name_list};
use crate::notification::validate_channels;
use crate::relational_config::validate_operations;
use crate::signals::channels::validate_channels as validate_signal_channels;
use crate::topic_names::validate_strategy;

const JAVA_CLASS: Effect = Effect::Never("it names a Java class, and there is no JVM here");
const NO_QUEUE: Effect = Effect::Never("memory is bounded by memory.budget of the worker");
const NO_POLLING: Effect = Effect::Never("records are handed over as they arrive");
const STREAMED: Effect = Effect::Never("rows are streamed");
const NO_CACHE: Effect = Effect::Never("nothing is cached that needs a limit");
const NO_SIGNALS_WRITTEN: Effect = Effect::Never("snapshots write nothing to the source");
const MASKED: Effect = Effect::Never("secrets are never shown");

/// Keys of every relational source.
pub const RELATIONAL_FIELDS: &[ConfigField] = &[
    ConfigField::new("topic.prefix", Text, "Namespace of the topics, of the schemas and of the stored position.")
        .required()
        .validator(validate_topic_name),
    ConfigField::new("database.server.name", Text, "").effect(Effect::OldNameOf("topic.prefix")).validator(validate_topic_name),
    // What is captured
    list("table.include.list", "Tables to capture: regular expressions on schema.table.").importance(Importance::High),
    list("table.exclude.list", "Tables not to capture: regular expressions on schema.table."),
    list("schema.include.list", "Schemas to capture: regular expressions."),
    list("schema.exclude.list", "Schemas not to capture: regular expressions."),
    list("column.include.list", "Columns to keep in values: regular expressions on schema.table.column."),
    list("column.exclude.list", "Columns to leave out of values: regular expressions on schema.table.column."),
    ConfigField::new("table.ignore.builtin", Boolean, "Whether system tables are left out.")
        .default("true")
        .effect(Effect::Never("system tables are always left out")),
    ConfigField::new("message.key.columns", Text, "Key columns of chosen tables: TABLES:COLUMN,COLUMN;…").validator(validate_key_columns),
    ConfigField::new("skipped.operations", List, "Operations that make no records: c, u, d, t, or none.")
        .default("t")
        .validator(validate_operations),
    ConfigField::new("skip.messages.without.change", Boolean, "Whether updates without a change in captured columns are dropped.")
        .default("false"),
    ConfigField::new("tombstones.on.delete", Boolean, "Whether a delete is followed by a record without value.").default("true"),
    // How values are written
    ConfigField::new("decimal.handling.mode", Choice(&["precise", "string", "double"]), "How decimals are written.").default("precise"),
    ConfigField::new("binary.handling.mode", Choice(&["bytes", "base64", "base64-url-safe", "hex"]), "How binary values are written.")
        .default("bytes"),
    ConfigField::new("schema.name.adjustment.mode", Choice(&["none", "avro", "avro_unicode"]), "How schema names are made valid.")
        .default("none"),
    ConfigField::new("field.name.adjustment.mode", Choice(&["none", "avro", "avro_unicode"]), "How field names are made valid.")
        .default("none"),
    ConfigField::new("unavailable.value.placeholder", Text, "What stands for a value that a change left as it was.")
        .default("__debezium_unavailable_value"),
    ConfigField::new("column.mask.with.*", Text, "Columns replaced by as many asterisks: column.mask.with.5.chars.")
        .validator(validate_name_list),
    ConfigField::new("column.mask.hash.*", Text, "Columns replaced by a hash: column.mask.hash.v2.SHA-256.with.salt.SALT.")
        .validator(validate_name_list),
    ConfigField::new("column.truncate.to.*", Text, "Texts cut to as many characters: column.truncate.to.20.chars.")
        .validator(validate_name_list),
    list("column.propagate.source.type", "Columns whose type is added to the schema: regular expressions on schema.table.column."),
    list("datatype.propagate.source.type", "Types whose columns carry their type in the schema: regular expressions on schema.table.type."),
    ConfigField::new("converters", List, "Converters of single values; there are none here.").validator(refuse_converters),
    ConfigField::new("post.processors", List, "Processors of events: names, each with its own keys NAME.type and so on."),
    ConfigField::new(
        "event.processing.failure.handling.mode",
        Choice(&["fail", "isolate", "warn", "skip", "ignore"]),
        "What happens with an event of the source's log that cannot be decoded: fail stops the task; isolate drops and counts all changes of \
         the table from there on, until it is read again, and goes on with the others; warn leaves the event out, counts it and says so in the \
         log; skip, or ignore, says so of the first event of each table only. The default is isolate where a connector file names its connector by connector, and fail \
         for a configuration of Connect, which has connector.class.",
    )
    .default("fail"),
    ConfigField::new(
        "event.converting.failure.handling.mode",
        Choice(&["fail", "warn", "skip"]),
        "What happens with a value that its schema has no room for: fail, or null with (warn) or without (skip) a word in the log.",
    )
    .default("warn"),
    // Snapshots
    ConfigField::new("snapshot.mode.configuration.based.snapshot.data", Boolean, "Whether rows are read at the start.").default("false"),
    ConfigField::new("snapshot.mode.configuration.based.snapshot.schema", Boolean, "Whether definitions are read at the start.")
        .default("false")
        .effect(Effect::Never("definitions are always read")),
    ConfigField::new("snapshot.mode.configuration.based.start.stream", Boolean, "Whether changes are followed.").default("false"),
    ConfigField::new("snapshot.mode.configuration.based.snapshot.on.schema.error", Boolean, "Whether a lost schema leads to a snapshot.")
        .default("false")
        .effect(Effect::Never("the schema comes from the source's own log")),
    ConfigField::new("snapshot.mode.configuration.based.snapshot.on.data.error", Boolean, "Whether a lost position leads to a snapshot.")
        .default("false"),
    ConfigField::new("snapshot.mode.custom.name", Class, "").effect(JAVA_CLASS),
    ConfigField::new("snapshot.locking.mode.custom.name", Class, "").effect(JAVA_CLASS),
    ConfigField::new("snapshot.query.mode.custom.name", Class, "").effect(JAVA_CLASS),
    ConfigField::new("snapshot.query.mode", Choice(&["select_all", "custom"]), "How rows are selected.")
        .default("select_all")
        .effect(Effect::Never("rows are selected by snapshot.select.statement.overrides, or all of them")),
    list("snapshot.include.collection.list", "Captured tables that a snapshot reads; all unless given."),
    ConfigField::new("snapshot.select.statement.overrides", List, "Tables whose rows are selected by a statement of their own."),
    ConfigField::new("snapshot.select.statement.overrides.*", Text, "The statement of one table."),
    ConfigField::new("snapshot.fetch.size", Int, "Rows fetched at once.").effect(STREAMED),
    ConfigField::new(
        "snapshot.max.threads",
        Int,
        "Connections that read side by side: a table each, and where none is left, parts of a large one.",
    )
    .default("1")
    .validator(validate_threads),
    ConfigField::new("snapshot.max.threads.multiplier", Int, "")
        .default("1")
        .effect(Effect::Never("parts of a table are as small as it takes for all connections to end together")),
    ConfigField::new("legacy.snapshot.max.threads", Boolean, "")
        .effect(Effect::Never("a table is read in parts where a connection has nothing else to do")),
    ConfigField::new(
        "snapshot.max.bytes.per.second",
        Long,
        "Highest rate at which a snapshot reads rows, all connections together, so that the source has time for others; 0 for no limit.",
    )
    .default("0")
    .validator(not_negative),
    ConfigField::new("snapshot.tables.order.by.row.count", Choice(&["disabled", "ascending", "descending"]), "Order of the tables.")
        .default("disabled"),
    ConfigField::new("snapshot.lock.timeout.ms", Long, "Longest wait for the lock of a table, in milliseconds.")
        .default("10000")
        .validator(not_negative),
    ConfigField::new("snapshot.delay.ms", Long, "Wait before the snapshot, in milliseconds.").default("0").validator(not_negative),
    ConfigField::new("streaming.delay.ms", Long, "Wait between snapshot and streaming, in milliseconds.")
        .default("0")
        .validator(not_negative),
    ConfigField::new("query.fetch.size", Int, "").effect(STREAMED),
    ConfigField::new(
        "incremental.snapshot.chunk.size",
        Int,
        "Most rows of a chunk; unless given, chunks begin with so many rows and then adapt to the size of the rows.",
    )
    .default("1024")
    .validator(positive),
    ConfigField::new("incremental.snapshot.watermarking.strategy", Choice(&["insert_insert", "insert_delete"]), "")
        .default("insert_insert")
        .effect(NO_SIGNALS_WRITTEN),
    ConfigField::new("incremental.snapshot.allow.schema.changes", Boolean, "")
        .default("false")
        .effect(Effect::Never("definitions are read with each chunk")),
    // Side channels
    ConfigField::new("include.schema.changes", Boolean, "Whether definitions are written to a topic of their own.").default("true"),
    ConfigField::new("include.schema.comments", Boolean, "Whether comments are kept with definitions.")
        .default("false")
        .effect(Effect::NotYet),
    ConfigField::new("provide.transaction.metadata", Boolean, "Whether transactions are described in records of their own.")
        .default("false"),
    ConfigField::new("transaction.metadata.factory", Class, "").effect(JAVA_CLASS),
    ConfigField::new("sourceinfo.struct.maker", Class, "").effect(JAVA_CLASS),
    ConfigField::new("signal.data.collection", Text, "Table whose rows are signals: schema.table, each in double quotes or not, with the columns id, type and data."),
    ConfigField::new("signal.enabled.channels", List, "Where signals come from beside the REST API: source (the table), kafka, file.")
        .default("source")
        .validator(validate_signal_channels),
    ConfigField::new("signal.poll.interval.ms", Long, "Time between two looks at the file of signals, in milliseconds.")
        .default("5000")
        .validator(positive),
    ConfigField::new("signal.emit.failure.max.retries", Int, "").default("0").effect(NO_SIGNALS_WRITTEN),
    ConfigField::new("signal.emit.failure.backoff.ms", Long, "").default("10000").effect(NO_SIGNALS_WRITTEN),
    ConfigField::new("signal.kafka.topic", Text, "Topic of signals, of one partition. If not given, the topic prefix and -signal."),
    ConfigField::new("signal.kafka.bootstrap.servers", Text, "Brokers of the topic of signals: host:port of one or more."),
    ConfigField::new(
        "signal.kafka.groupId",
        Text,
        "Group in which the offsets of signals that were carried out are committed, one for each connector. If not given, kafka-signal- and \
         the connector's name.",
    ),
    ConfigField::new("signal.kafka.poll.timeout.ms", Long, "").default("100").effect(Effect::Never("records are read as they come")),
    ConfigField::new(
        "signal.consumer.*",
        Text,
        "Settings of the consumer of signals, by the names that Kafka's Java consumer has for them.",
    ),
    ConfigField::new("signal.file", Text, "File of signals, a JSON object a line: id, type and data.").default("file-signals.txt"),
    ConfigField::new("notification.enabled.channels", List, "Where it is told how far a snapshot is: sink (a topic), log.")
        .validator(validate_channels),
    ConfigField::new("notification.sink.topic.name", Text, "The topic of notifications."),
    ConfigField::new("heartbeat.interval.ms", Long, "Time between heartbeat records, in milliseconds; 0 for none.")
        .default("0")
        .validator(not_negative),
    ConfigField::new("heartbeat.action.query", Text, "Statement run with each heartbeat."),
    ConfigField::new("heartbeat.topics.prefix", Text, "").effect(Effect::Never("topic.heartbeat.prefix says it")),
    ConfigField::new("topic.heartbeat.prefix", Text, "What the topic of heartbeats begins with; the topic prefix follows.")
        .default("__debezium-heartbeat")
        .validator(validate_topic_name),
    ConfigField::new("topic.heartbeat.name", Text, "The whole name of the topic of heartbeats."),
    ConfigField::new("extended.headers.enabled", Boolean, "Whether records name their connector and task in headers.").default("true"),
    // Names of topics
    ConfigField::new("topic.naming.strategy", Class, "How topics are named: one of Debezium's classes.").validator(validate_strategy),
    ConfigField::new("topic.delimiter", Text, "What joins the parts of a topic's name.").default(".").validator(validate_topic_name),
    ConfigField::new("topic.transaction", Text, "The topic of transactions, behind the topic prefix.")
        .default("transaction")
        .validator(validate_topic_name),
    ConfigField::new("topic.regex", Text, "What a topic's name has to match to be replaced, with a naming strategy by expression."),
    ConfigField::new("topic.replacement", Text, "What such a name is replaced by; $1 is the first group."),
    ConfigField::new("topic.key.enforce.uniqueness", Boolean, "Whether keys then say in a further field which table a row is of.")
        .default("true"),
    ConfigField::new("topic.key.field.name", Text, "Name of that field.").default("__dbz__physicalTableIdentifier"),
    ConfigField::new("topic.key.field.regex", Text, "What the name without replacement has to match to be replaced in that field."),
    ConfigField::new("topic.key.field.replacement", Text, "What it is replaced by there."),
    ConfigField::new("topic.cache.size", Int, "").effect(NO_CACHE),
    // Flow and failure
    ConfigField::new("max.queue.size", Int, "").default("8192").validator(positive).effect(NO_QUEUE),
    ConfigField::new("max.batch.size", Int, "").default("2048").validator(positive).effect(NO_QUEUE),
    ConfigField::new("max.queue.size.in.bytes", Long, "").default("0").validator(not_negative).effect(NO_QUEUE),
    ConfigField::new("queue.provider.type", Text, "").effect(NO_QUEUE),
    ConfigField::new("poll.interval.ms", Long, "").default("500").validator(not_negative).effect(NO_POLLING),
    ConfigField::new("poll.dispatch.interval.ms", Long, "").default("0").effect(NO_POLLING),
    ConfigField::new("custom.retriable.exception", Text, "").effect(Effect::Never("failures are told apart by their kind")),
    ConfigField::new("connection.validation.timeout.ms", Long, "").default("60000").effect(Effect::Never("a probe has a limit of its own")),
    ConfigField::new("executor.shutdown.timeout.ms", Long, "")
        .default("4000")
        .effect(Effect::Never("shutdown.timeout.ms of the worker rules")),
    ConfigField::new("guardrail.collections.max", Int, "Most tables that the connector captures when it starts; 0 for no limit.")
        .default("0")
        .validator(not_negative),
    ConfigField::new(
        "guardrail.collections.limit.action",
        Choice(&["warn", "fail"]),
        "What happens when they are more: a warning, or the connector does not start.",
    )
    .default("warn"),
    // Figures and the rest
    ConfigField::new(
        "custom.metric.tags",
        Text,
        "Further labels of the connector's figures under Debezium's names: NAME=VALUE,NAME=VALUE.",
    )
    .validator(validate_metric_tags),
    ConfigField::new("statistics.metrics.enabled", Boolean, "").effect(Effect::NotYet),
    ConfigField::new("advanced.metrics.enable", Boolean, "").effect(Effect::NotYet),
    ConfigField::new("custom.sanitize.pattern", Text, "").effect(MASKED),
    ConfigField::new("openlineage.integration.*", Text, "").effect(Effect::Never("lineage is not reported")),
    ConfigField::new("log.position.check.enable", Boolean, "").effect(Effect::Never("positions are always checked")),
    ConfigField::new("offset.activity.monitor.interval.ms", Long, "").effect(Effect::NotYet),
    ConfigField::new("schemas.storage.*", Text, "").effect(JAVA_CLASS),
    ConfigField::new("tables.storage.*", Text, "").effect(JAVA_CLASS),
    ConfigField::new("internal.*", Text, "").effect(Effect::Never("it tunes the insides of Debezium")),
];

const fn list(name: &'static str, doc: &'static str) -> ConfigField {
    ConfigField::new(name, List, doc).validator(validate_name_list)
}

/// Validator: a whole number above zero.
///
/// # Errors
/// The sentence.
pub fn positive(value: &str) -> Result<(), String> {
    if value.parse::<i64>().is_ok_and(|number| number > 0) { Ok(()) } else { Err("must be above zero".into()) }
}

/// Validator: zero or a whole number above.
///
/// # Errors
/// The sentence.
pub fn not_negative(value: &str) -> Result<(), String> {
    if value.parse::<i64>().is_ok_and(|number| number >= 0) { Ok(()) } else { Err("must not be negative".into()) }
}

fn validate_metric_tags(value: &str) -> Result<(), String> {
    metric_tags(value).map(|_| ())
}

/// The names and values of `custom.metric.tags`. Names are those that Prometheus allows, without those that the figures have.
///
/// # Errors
/// The sentence.
pub fn metric_tags(text: &str) -> Result<Vec<(String, String)>, String> {
    let is_name = |name: &str| {
        let is_letter = |character: char| character.is_ascii_alphabetic() || character == '_';
        name.starts_with(is_letter) && name.chars().all(|character| is_letter(character) || character.is_ascii_digit())
    };
    let mut tags: Vec<(String, String)> = Vec::new();
    for tag in split_list(text) {
        match tag.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, _)) if ["context", "name", "table"].contains(&name) || tags.iter().any(|(known, _)| known == name) => {
                return Err(format!("names {name}, which the figures have already"));
            }
            Some((name, value)) if is_name(name) => tags.push((name.to_owned(), value.to_owned())),
            Some(_) | None => {
                return Err(format!("must be NAME=VALUE,NAME=VALUE, unlike {tag:?}; names are letters, digits and underscores"));
            }
        }
    }
    Ok(tags)
}

/// Each takes a connection of the source, and a batch of memory.
fn validate_threads(value: &str) -> Result<(), String> {
    if value.parse::<usize>().is_ok_and(|threads| (1..=64).contains(&threads)) { Ok(()) } else { Err("must be 1 to 64".into()) }
}

fn validate_topic_name(value: &str) -> Result<(), String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    if value.is_empty() {
        Err("must not be empty".into())
    } else if value.chars().all(allowed) {
        Ok(())
    } else {
        Err(format!("must consist of letters, digits, dots, hyphens and underscores, unlike {value:?}"))
    }
}

fn refuse_converters(value: &str) -> Result<(), String> {
    if value.is_empty() {
        Ok(())
    } else {
        Err(format!("names {value}, which would have to be Java classes, and there is no JVM here; a transform may do the same"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_figures_are_names_and_values() {
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(metric_tags("env=test, zone_1=a=b").unwrap(), [tag("env", "test"), tag("zone_1", "a=b")]);
        assert_eq!(metric_tags(" ").unwrap(), []);
        for wrong in ["env", "1a=b", "a-b=c", "=b", "table=t", "a=1,a=2"] {
            assert!(metric_tags(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_names_of_topics_have_no_other_characters_than_kafka_allows() {
        for key in ["topic.prefix", "topic.delimiter", "topic.transaction", "topic.heartbeat.prefix"] {
            let field = RELATIONAL_FIELDS.iter().find(|field| field.name == key).unwrap();
            for valid in [".", "_", "-", "..", "tx-log", "__a.B9"] {
                assert_eq!(field.check(valid), Ok(()), "{key}");
            }
            for wrong in ["a b", "x/y", "${database}.tx", "", "ä"] {
                assert!(field.check(wrong).is_err(), "{key} {wrong:?}");
            }
        }
    }

    #[test]
    fn no_key_is_declared_twice() {
        let mut names: Vec<_> = RELATIONAL_FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        let declared = names.len();
        names.dedup();
        assert_eq!(names.len(), declared);
    }

    #[test]
    fn defaults_pass_their_own_checks() {
        for field in RELATIONAL_FIELDS {
            if let Some(default) = field.default {
                field.check(default).unwrap_or_else(|fault| panic!("{} {fault}", field.name));
            }
        }
    }

    #[test]
    fn converters_are_refused_with_a_word() {
        let field = RELATIONAL_FIELDS.iter().find(|field| field.name == "converters").expect("it is declared");
        assert!(field.check("").is_ok());
        assert!(field.check("isbn").unwrap_err().contains("Java"));
    }

    #[test]
    fn a_prefix_holds_what_topics_may_hold() {
        assert!(validate_topic_name("user-db.v1_x").is_ok());
        assert!(validate_topic_name("bad prefix").is_err());
        assert!(validate_topic_name("").is_err());
    }
}
