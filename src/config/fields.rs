//! The keys that every connector has (Kafka Connect 4.3, `ConnectorConfig`, `SourceConnectorConfig`,
//! `SinkConnectorConfig`), declared like a connector's own.

use tailwater_api::config::{ConfigField, Effect, FieldType, Importance};
use tailwater_kit::java_regex::JavaRegex;

const ONE_VERSION: Effect = Effect::Never("every plug-in has one version, the worker's own");
const ALWAYS_LOGGED: Effect = Effect::Never("every record that fails is logged, with the place where it stands");
const SHORT: FieldType = FieldType::Short;
const LONG: FieldType = FieldType::Long;
const TEXT: FieldType = FieldType::Text;

const fn field(name: &'static str, kind: FieldType, doc: &'static str) -> ConfigField {
    ConfigField::new(name, kind, doc)
}

/// Keys of sources and sinks.
pub(crate) const CONNECTOR_FIELDS: &[ConfigField] = &[
    field("name", TEXT, "Name of the connector, unique in the worker.").importance(Importance::High).validator(name),
    field("connector.class", FieldType::Class, "Which connector: a short name such as postgres, or a Java class.")
        .importance(Importance::High),
    field(
        "connector",
        FieldType::Class,
        "What connector.class says, in a connector file that was written for Tailwater: where our defaults are not those of Connect's \
         connectors, ours hold.",
    ),
    field("connector.plugin.version", TEXT, "Version of the connector.").effect(ONE_VERSION),
    field("tasks.max", FieldType::Int, "Most tasks that the connector may have.")
        .default("1")
        .importance(Importance::High)
        .validator(at_least_one),
    field("tasks.max.enforce", FieldType::Boolean, "Whether more tasks than tasks.max are an error.")
        .default("true")
        .importance(Importance::Low)
        .effect(Effect::Never("no connector makes more tasks than tasks.max")),
    field("key.converter", FieldType::Class, "Writes keys as bytes: json, string, bytes, or a Java class.").importance(Importance::Low),
    field("key.converter.plugin.version", TEXT, "Version of the key converter.").effect(ONE_VERSION),
    field("key.converter.*", TEXT, "Options of the key converter."),
    field("value.converter", FieldType::Class, "Writes values as bytes: json, string, bytes, or a Java class.").importance(Importance::Low),
    field("value.converter.plugin.version", TEXT, "Version of the value converter.").effect(ONE_VERSION),
    field("value.converter.*", TEXT, "Options of the value converter."),
    field("header.converter", FieldType::Class, "Writes header values as bytes.").importance(Importance::Low),
    field("header.converter.plugin.version", TEXT, "Version of the header converter.").effect(ONE_VERSION),
    field("header.converter.*", TEXT, "Options of the header converter."),
    field("transforms", FieldType::List, "Names of the transforms that every record passes, in order.").importance(Importance::Low),
    field("transforms.*", TEXT, "Type and options of a transform."),
    field("predicates", FieldType::List, "Names of the predicates that transforms may ask.").importance(Importance::Low),
    field("predicates.*", TEXT, "Type and options of a predicate."),
    field("config.action.reload", FieldType::Choice(&["none", "restart"]), "What to do when a secret changes.")
        .default("restart")
        .importance(Importance::Low)
        .effect(Effect::NotYet),
    field("errors.retry.timeout", LONG, "How long a task tries again by itself, in milliseconds from the first failure; 0 or -1 for ever.")
        .default("-1")
        .validator(at_least_minus_one),
    field("errors.retry.delay.max.ms", LONG, "Longest pause before a task's next try, in milliseconds.").default("60000"),
    field("errors.max.retries", FieldType::Int, "How often a task tries again by itself; -1 for ever.").default("-1"),
    field("retriable.restart.connector.wait.ms", LONG, "Pause before each next try, in milliseconds, instead of one that grows."),
    field(
        "offset.flush.interval.ms",
        LONG,
        "How often a sink makes durable what its target accepted and keeps its positions, in milliseconds.",
    )
    .default("1000"),
    field(
        "errors.tolerance",
        FieldType::Choice(&["none", "all"]),
        "Whether a record that fails stops the task (none) or is passed over (all).",
    )
    .default("none"),
    field("errors.log.enable", FieldType::Boolean, "Whether every record that fails is logged.").default("false").effect(ALWAYS_LOGGED),
    field("errors.log.include.messages", FieldType::Boolean, "Whether the log shows where the record stands.")
        .default("false")
        .effect(ALWAYS_LOGGED),
    field("errors.deadletterqueue.topic.name", TEXT, "Topic that keeps the records that fail; sources may have one too."),
    field("errors.deadletterqueue.topic.replication.factor", SHORT, "Replicas of that topic.").default("3").effect(Effect::NotYet),
    field("errors.deadletterqueue.context.headers.enable", FieldType::Boolean, "Whether headers say what failed and where.")
        .default("false"),
    field("producer.override.*", TEXT, "Option of the connector's Kafka producer."),
    field("consumer.override.*", TEXT, "Option of the connector's Kafka consumer."),
    field("admin.override.*", TEXT, "Option of the connector's Kafka admin client."),
];

/// Further keys of sources.
pub(crate) const SOURCE_FIELDS: &[ConfigField] = &[
    field("topic.creation.groups", FieldType::List, "Names of groups of topics that are made with options of their own."),
    field("topic.creation.*", TEXT, "Option of a group of topics, where the topic log is Kafka."),
    field("exactly.once.support", FieldType::Choice(&["requested", "required"]), "Whether exactly-once delivery must be possible.")
        .default("requested"),
    field("transaction.boundary", FieldType::Choice(&["poll", "interval", "connector"]), "Where a Kafka transaction ends.").default("poll"),
    field("transaction.boundary.interval.ms", LONG, "Length of a Kafka transaction with transaction.boundary=interval, in milliseconds.")
        .validator(at_least_one),
    field("offsets.storage.topic", TEXT, "Topic for the offsets of this connector alone, where the topic log is Kafka."),
];

/// Further keys of sinks.
pub(crate) const SINK_FIELDS: &[ConfigField] = &[
    field("topics", FieldType::List, "Topics to read.").importance(Importance::High),
    field("topics.regex", TEXT, "Pattern of the whole names of the topics to read; topics that come later too.")
        .importance(Importance::High)
        .validator(pattern),
];

fn at_least_one(value: &str) -> Result<(), String> {
    match value.parse::<i32>() {
        Ok(number) if number < 1 => Err(format!("must be at least 1, not {number}")),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn at_least_minus_one(value: &str) -> Result<(), String> {
    match value.parse::<i64>() {
        Ok(number) if number < -1 => Err(format!("must be at least -1, not {number}")),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What is wrong with a connector's name; Connect refuses the same.
pub(crate) fn name(value: &str) -> Result<(), String> {
    if value.trim().is_empty() {
        Err("must not be empty".to_owned())
    } else if value.chars().any(char::is_control) {
        Err("must not contain control characters".to_owned())
    } else {
        Ok(())
    }
}

fn pattern(value: &str) -> Result<(), String> {
    JavaRegex::new(value).map(|_| ())
}
