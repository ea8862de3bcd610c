//! The worker file: what one daemon needs to know. Every key is optional, nested or dotted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tailwater_api::config::{ConfigField, ConfigReader, ConfigReport, ConfigValues, ConnectorConfig, FieldType, read_config};

use super::document::{self, fault};
use super::nearest::nearest;
use super::providers::Providers;
use super::rest_options::{self, RestOptions};
use crate::state::kafka::KafkaState;
use crate::topics::embedded::{EmbeddedOptions, FullPolicy};
use crate::topics::kafka::client::{ClientSettings, Role};

/// What the worker file says, defaults filled in.
#[derive(Clone)]
pub struct WorkerFile {
    /// `data.dir`: the embedded log and the state
    pub data_dir: PathBuf,
    /// `rest.*`: the REST API
    pub rest: RestOptions,
    /// `topics.engine`
    pub engine: Engine,
    /// `topics.embedded.*`
    pub embedded: EmbeddedOptions,
    /// `memory.budget`: bytes of records in flight
    pub memory_budget: usize,
    /// `connectors.dir`: the watched directory of connector files
    pub connectors_dir: Option<PathBuf>,
    /// `shutdown.timeout.ms`: how long a stop may drain
    pub shutdown_timeout: Duration,
    /// `log.level`: a level, or directives such as `info,tailwater::runtime=debug`
    pub log_level: String,
    /// `log.format`
    pub log_format: LogFormat,
}

/// Where records live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Engine {
    /// In `data.dir`
    #[default]
    Embedded,
    /// In a Kafka cluster
    Kafka,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

const OVERRIDE_POLICY: &str = "connector.client.config.override.policy";

/// Keys, or beginnings of them, that only the Kafka engine reads.
const OF_KAFKA: [&str; 8] = [
    "topics.kafka.",
    "topic.creation.enable",
    "connector.client.config.",
    "group.id",
    "exactly.once.source.support",
    "config.storage.",
    "offset.storage.",
    "status.storage.",
];

const fn field(name: &'static str, kind: FieldType, doc: &'static str) -> ConfigField {
    ConfigField::new(name, kind, doc)
}

const FIELDS: &[ConfigField] = &[
    field("data.dir", FieldType::Text, "Directory of the embedded log and the state; one worker at a time.").default("/var/lib/tailwater"),
    field("topics.engine", FieldType::Choice(&["embedded", "kafka"]), "Where records live between sources and sinks.").default("embedded"),
    field(
        "topics.embedded.retention.bytes",
        FieldType::Text,
        "Bytes of a journal that are kept after every sink has read them; -1 for all.",
    )
    .default("-1")
    .validator(size_or_unlimited),
    field(
        "topics.embedded.retention.ms",
        FieldType::Long,
        "How long records are kept after every sink has read them, in milliseconds; -1 for ever.",
    )
    .default("604800000"),
    field("topics.embedded.max.bytes", FieldType::Text, "Bytes that a journal may not exceed; -1 for what the disk holds.")
        .default("-1")
        .validator(size_or_unlimited),
    field(
        "topics.embedded.max.bytes.policy",
        FieldType::Choice(&["hold", "drop"]),
        "What happens there: sources wait, or the oldest records go.",
    )
    .default("hold"),
    field("topics.kafka.*", FieldType::Text, "Setting of the clients of Kafka, by its name in Java or in librdkafka."),
    field("topic.creation.enable", FieldType::Boolean, "Whether Kafka topics that are missing are made.").default("true"),
    field(OVERRIDE_POLICY, FieldType::Text, "Which settings of Kafka clients a connector may override: All, Principal, Allowlist or None.")
        .default("All"),
    field("connector.client.config.override.allowlist", FieldType::List, "Settings that the policy Allowlist allows."),
    field("group.id", FieldType::Text, "Name of the group of workers.").default("tailwater"),
    field(
        "exactly.once.source.support",
        FieldType::Choice(&["disabled", "preparing", "enabled"]),
        "Whether sources write their records and offsets in transactions of Kafka.",
    )
    .default("disabled"),
    field("config.storage.topic", FieldType::Text, "Topic of the connector configurations.").default("tailwater-configs"),
    field("config.storage.*", FieldType::Text, "Setting of that topic where it is made, such as replication.factor."),
    field("offset.storage.topic", FieldType::Text, "Topic of the offsets of sources.").default("tailwater-offsets"),
    field("offset.storage.*", FieldType::Text, "Setting of that topic where it is made."),
    field("status.storage.topic", FieldType::Text, "Topic of the statuses.").default("tailwater-statuses"),
    field("status.storage.*", FieldType::Text, "Setting of that topic where it is made."),
    field("memory.budget", FieldType::Text, "Bytes of records that may be in flight, all connectors together.")
        .default("256MiB")
        .validator(size),
    field("connectors.dir", FieldType::Text, "Directory of connector files; applied at start and whenever they change."),
    field("key.converter", FieldType::Class, "Converter of keys for connectors that name none.").default("json"),
    field("key.converter.*", FieldType::Text, "Option of that converter."),
    field("value.converter", FieldType::Class, "Converter of values for connectors that name none.").default("json"),
    field("value.converter.*", FieldType::Text, "Option of that converter."),
    field("header.converter", FieldType::Class, "Converter of headers for connectors that name none."),
    field("header.converter.*", FieldType::Text, "Option of that converter."),
    field("offset.flush.interval.ms", FieldType::Long, "How often sinks make durable what their targets accepted, in milliseconds.")
        .default("1000"),
    field("config.providers", FieldType::List, "Names of secret providers beside file, env and dir, or to limit these."),
    field("config.providers.*", FieldType::Text, "Class and parameters of a secret provider."),
    field("shutdown.timeout.ms", FieldType::Long, "How long a stop may drain, in milliseconds.").default("30000"),
    field("log.level", FieldType::Text, "error, warn, info, debug or trace, or directives such as info,tailwater::runtime=debug.")
        .default("info")
        .validator(log_level),
    field("log.format", FieldType::Choice(&["text", "json"]), "How log lines look.").default("text"),
];

impl ConnectorConfig for WorkerFile {
    const FIELDS: &'static [&'static [ConfigField]] = &[FIELDS, rest_options::FIELDS];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        let limit = |key: &str| parse_size_or_unlimited(&reader.text(key)).ok().flatten();
        let embedded = EmbeddedOptions {
            retention_bytes: limit("topics.embedded.retention.bytes"),
            retention: u64::try_from(reader.number::<i64>("topics.embedded.retention.ms")).ok().map(Duration::from_millis),
            max_bytes: limit("topics.embedded.max.bytes"),
            when_full: reader.choice("topics.embedded.max.bytes.policy", &[("hold", FullPolicy::Hold), ("drop", FullPolicy::Drop)]),
            ..EmbeddedOptions::default()
        };
        // A text that is no size is a fault of its own already.
        let budget = parse_size(&reader.text("memory.budget")).unwrap_or(MIN_BUDGET);
        if budget < MIN_BUDGET {
            reader.fault("memory.budget", format!("must be at least {MIN_BUDGET} bytes"));
        }
        if reader.number::<i64>("shutdown.timeout.ms") < 0 {
            reader.fault("shutdown.timeout.ms", "must not be negative");
        }
        Self {
            data_dir: PathBuf::from(reader.text("data.dir")),
            rest: RestOptions::read(reader),
            engine: reader.choice("topics.engine", &[("embedded", Engine::Embedded), ("kafka", Engine::Kafka)]),
            embedded,
            memory_budget: usize::try_from(budget).unwrap_or(usize::MAX),
            connectors_dir: reader.optional_text("connectors.dir").map(PathBuf::from),
            shutdown_timeout: reader.milliseconds("shutdown.timeout.ms"),
            log_level: reader.text("log.level"),
            log_format: reader.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        }
    }
}

/// Less than this does not hold a batch.
const MIN_BUDGET: u64 = 1 << 20;

/// Whether `key` is one of the worker file.
#[must_use]
pub fn declares(key: &str) -> bool {
    declared().any(|field| field.covers(key))
}

fn declared() -> impl Iterator<Item = &'static ConfigField> {
    <WorkerFile as ConnectorConfig>::FIELDS.iter().copied().flatten()
}

/// A worker file that was read and checked.
pub struct Loaded {
    /// What it says
    pub file: WorkerFile,
    /// Its flat keys without those of the REST API, placeholders resolved: what connectors inherit
    pub values: ConfigValues,
    /// Its secret providers
    pub providers: Providers,
    /// What the user should know
    pub notes: ConfigReport,
}

/// Reads the worker file, or takes all defaults where `path` is `None`. `overrides` (keys and values of the command line)
/// win.
///
/// # Errors
/// All faults at once.
pub fn load(path: Option<&Path>, overrides: &[(&str, String)]) -> Result<Loaded, ConfigReport> {
    let mut values = match path {
        Some(path) => {
            let text = document::read_text(path)?;
            let entries = document::flatten(&document::parse(path, &text)?)?;
            entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
        }
        None => ConfigValues::default(),
    };
    for (key, value) in overrides {
        values.set(*key, value);
    }
    let mut faults = Vec::new();
    let providers = Providers::from_config(&values).unwrap_or_else(|report| {
        faults.extend(report.faults);
        Providers::default()
    });
    // With a fault here the unresolved values are checked all the same, so that every fault shows at once (I15).
    let values = providers.resolve(&values).unwrap_or_else(|report| {
        faults.extend(report.faults);
        values
    });
    match read_config::<WorkerFile>(&values) {
        Ok((file, mut notes)) if faults.is_empty() => {
            note_unknown_keys(&values, &mut notes);
            check_engine(file.engine, &values, &mut notes)?;
            // I14: no connector needs to know who may use the API.
            let values = values.iter().filter(|(key, _)| !key.starts_with("rest.")).collect();
            Ok(Loaded { file, values, providers, notes })
        }
        Ok((_, notes)) => Err(ConfigReport { faults, notes: notes.notes }),
        Err(mut report) => {
            let more = report.faults.into_iter().filter(|more| !faults.iter().any(|fault| fault.key == more.key)).collect::<Vec<_>>();
            faults.extend(more);
            report.faults = faults;
            note_unknown_keys(&values, &mut report);
            Err(report)
        }
    }
}

/// Checks the keys of the engine; without I/O (I15).
fn check_engine(engine: Engine, values: &ConfigValues, notes: &mut ConfigReport) -> Result<(), ConfigReport> {
    match engine {
        Engine::Embedded => {
            for (key, _) in values.iter().filter(|(key, _)| OF_KAFKA.iter().any(|prefix| key.starts_with(prefix))) {
                notes.notes.push(fault(key, "has no effect while topics.engine is embedded"));
            }
        }
        Engine::Kafka => {
            KafkaState::check(values)?;
            for role in [Role::Producer, Role::Consumer, Role::Admin] {
                let (_, found) = ClientSettings::check(role, values, None)?;
                for note in found.notes {
                    if !notes.notes.contains(&note) {
                        notes.notes.push(note);
                    }
                }
            }
        }
    }
    Ok(())
}

fn note_unknown_keys(values: &ConfigValues, report: &mut ConfigReport) {
    for (key, _) in values.iter().filter(|(key, _)| !declares(key)) {
        let known = declared().map(|field| field.name).filter(|name| !name.ends_with('*'));
        let meant = nearest(key, known).map(|near| format!("; is {near} meant?")).unwrap_or_default();
        report.notes.push(fault(key, format!("is an unknown key and has no effect{meant}")));
    }
}

/// Bytes: a number alone, or with a unit: `10GiB`, `256 MiB`, `64KiB`, `1TiB`, decimal `10GB`, `256MB`, `64kB`.
///
/// # Errors
/// The end of the sentence "KEY …".
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("b", 1),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
    ];
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let size = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, factor)| number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)));
    size.ok_or_else(|| format!("must be a number of bytes such as 268435456, 256MiB or 10GiB, not {text:?}"))
}

fn parse_size_or_unlimited(text: &str) -> Result<Option<u64>, String> {
    if text.trim() == "-1" { Ok(None) } else { parse_size(text).map(Some) }
}

fn size(text: &str) -> Result<(), String> {
    parse_size(text).map(|_| ())
}

fn size_or_unlimited(text: &str) -> Result<(), String> {
    parse_size_or_unlimited(text).map(|_| ())
}

fn log_level(text: &str) -> Result<(), String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| ())
        .map_err(|error| format!("must be a level such as info, or directives such as info,tailwater::runtime=debug: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loaded(text: &str) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.yaml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), &[]).map_err(|report| report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn every_key_is_optional() {
        let file = loaded("").map(|loaded| loaded.file).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(file.rest.listen, "127.0.0.1:8083");
        assert_eq!(file.memory_budget, 256 << 20);
        assert_eq!(file.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(file.embedded.retention, Some(Duration::from_hours(168)));
        assert_eq!(file.embedded.max_bytes, None);
    }

    #[test]
    fn nested_and_dotted_keys_are_one() {
        let text = "data: {dir: /d}\ntopics.embedded: {retention.bytes: 10GiB, retention.ms: -1, max: {bytes: 1GiB, bytes.policy: drop}}\nlog.format: json\n";
        let file = loaded(text).map(|loaded| loaded.file).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(file.data_dir, Path::new("/d"));
        let expected = EmbeddedOptions {
            retention_bytes: Some(10 << 30),
            retention: None,
            max_bytes: Some(1 << 30),
            when_full: FullPolicy::Drop,
            ..EmbeddedOptions::default()
        };
        assert_eq!(file.embedded, expected);
        assert_eq!(file.log_format, LogFormat::Json);
    }

    #[test]
    fn all_faults_come_at_once() {
        let faults = loaded("memory.budget: lots\nrest.listen: here\ntopics.engine: pigeon\nlog.format: xml\ndata.dir: ${env:NO_SUCH_VARIABLE}\nshutdown.timeout.ms: soon\n").err().unwrap();
        for key in ["memory.budget", "rest.listen", "topics.engine", "log.format", "data.dir", "shutdown.timeout.ms"] {
            assert!(faults.contains(&format!("{key}: ")), "{key} in {faults}");
        }
    }

    #[test]
    fn settings_of_kafka_are_checked_with_its_engine_and_noted_without() {
        let faults = loaded("topics: {engine: kafka, kafka: {acks: 1}}\n").err().unwrap();
        assert!(faults.contains("topics.kafka.acks: ") && faults.contains("topics.kafka.bootstrap.servers: "), "{faults}");
        let kafka = loaded("topics: {engine: kafka, kafka: {bootstrap.servers: \"k:9092\"}}\n").unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(kafka.file.engine, Engine::Kafka);
        let noted = loaded("group.id: g\n").unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(noted.notes.notes[0].to_string(), "group.id: has no effect while topics.engine is embedded");
    }

    #[test]
    fn an_unknown_key_is_noted_with_the_nearest() {
        let loaded = loaded("memory.bugdet: 1GiB\n").unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.notes.notes[0].to_string(), "memory.bugdet: is an unknown key and has no effect; is memory.budget meant?");
    }

    #[test]
    fn the_command_line_wins() {
        let loaded = load(None, &[("data.dir", "/x".to_owned())]).unwrap_or_else(|report| panic!("{report:?}"));
        assert_eq!(loaded.file.data_dir, Path::new("/x"));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("268435456"), Ok(256 << 20));
        assert_eq!(parse_size(" 256 MiB "), Ok(256 << 20));
        assert_eq!(parse_size("10GB"), Ok(10_000_000_000));
        for wrong in ["", "MiB", "-1", "1.5GiB", "10XiB", "99999999999TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_size_in_any_unit_is_its_bytes(number in 0_u64..1 << 20, power in 0_usize..4) {
            let unit = ["KiB", "MiB", "GiB", "TiB"][power];
            prop_assert_eq!(parse_size(&format!("{number}{unit}")), Ok(number << (10 * (power + 1))));
        }

        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = parse_size(&text);
        }
    }
}
