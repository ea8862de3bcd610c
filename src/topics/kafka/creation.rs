//! How a source's topics come to be: made before their first record, as Connect's keys `topic.creation.*` say (Kafka 4.3, KIP-158).
//!
//! `topic.creation.groups` names groups; the first whose `include` matches the whole name of a topic and whose `exclude` does not
//! is the topic's, else the group `default`. A group takes partitions and replication factor from `default` where it names none; its
//! further keys are settings of the topic and are not inherited. What `default` leaves open is the broker's own default. A topic
//! that is there already stays as it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer as _;
use tailwater_api::Result;
use tailwater_api::config::{ConfigFault, ConfigReport, ConfigValues, split_list};
use tailwater_kit::java_regex::JavaRegex;

use super::errors::{failed, failed_with_code};
use super::producer::Producer;
use super::{LOOK, PATIENCE, Uses, blocking, drop_off_the_async_threads};

/// How long a topic that was just made may take to have leaders.
const LEADERS: Duration = Duration::from_secs(15);
/// The broker's default, in requests of Kafka 2.4 and later.
const OF_BROKER: i32 = -1;

/// The groups of a connector.
pub(super) struct TopicCreation {
    /// By `topic.creation.groups`
    groups: Vec<(Patterns, TopicOptions)>,
    default: TopicOptions,
}

struct Patterns {
    include: Vec<JavaRegex>,
    exclude: Vec<JavaRegex>,
}

/// What a topic is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicOptions {
    partitions: i32,
    replication_factor: i32,
    settings: Vec<(String, String)>,
}

impl TopicOptions {
    /// For topics that no source writes, such as dead letters.
    pub(super) fn of_one_partition() -> Self {
        Self { partitions: 1, replication_factor: OF_BROKER, settings: Vec::new() }
    }
}

const DEFAULT: &str = "default";

impl TopicCreation {
    /// Reads the keys of a connector.
    ///
    /// # Errors
    /// All faults of the keys.
    pub(super) fn read(config: &ConfigValues) -> Result<Self, ConfigReport> {
        let mut report = ConfigReport::default();
        let broker = TopicOptions { partitions: OF_BROKER, replication_factor: OF_BROKER, settings: Vec::new() };
        let default = options(config, DEFAULT, &broker, &mut report);
        let mut groups = Vec::new();
        for name in split_list(config.get("topic.creation.groups").unwrap_or_default()) {
            if name == DEFAULT {
                continue;
            }
            let include = patterns(config, &name, "include", &mut report);
            if include.is_empty() {
                fault(&mut report, format!("topic.creation.{name}.include"), "must name topics or patterns of the group");
            }
            let exclude = patterns(config, &name, "exclude", &mut report);
            groups.push((Patterns { include, exclude }, options(config, &name, &default, &mut report)));
        }
        if report.faults.is_empty() { Ok(Self { groups, default }) } else { Err(report) }
    }

    /// All topics alike.
    pub(super) fn with_default(default: TopicOptions) -> Self {
        Self { groups: Vec::new(), default }
    }

    /// What `topic` is made with.
    pub(super) fn of(&self, topic: &str) -> &TopicOptions {
        // A pattern that gives up (backtracking limit) matches nothing.
        let names = |patterns: &[JavaRegex]| patterns.iter().any(|pattern| pattern.matches(topic).unwrap_or(false));
        let group = self.groups.iter().find(|(patterns, _)| names(&patterns.include) && !names(&patterns.exclude));
        group.map_or(&self.default, |(_, options)| options)
    }
}

fn patterns(config: &ConfigValues, group: &str, key: &str, report: &mut ConfigReport) -> Vec<JavaRegex> {
    let key = format!("topic.creation.{group}.{key}");
    let mut patterns = Vec::new();
    for text in split_list(config.get(&key).unwrap_or_default()) {
        match JavaRegex::new(&text) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => fault(report, key.clone(), why),
        }
    }
    patterns
}

fn options(config: &ConfigValues, group: &str, default: &TopicOptions, report: &mut ConfigReport) -> TopicOptions {
    let prefix = format!("topic.creation.{group}.");
    let mut options = TopicOptions { settings: Vec::new(), ..default.clone() };
    for (key, value) in config.with_prefix(&prefix) {
        let number = |report: &mut ConfigReport| match value.trim().parse::<i32>() {
            Ok(number) if number == OF_BROKER || number > 0 => number,
            Ok(_) | Err(_) => {
                fault(
                    report,
                    format!("{prefix}{key}"),
                    format!("must be a positive number, or -1 for the broker's default, not {value:?}"),
                );
                OF_BROKER
            }
        };
        match key {
            "partitions" => options.partitions = number(report),
            "replication.factor" => options.replication_factor = number(report),
            "include" | "exclude" => {}
            _ => options.settings.push((key.to_owned(), value.to_owned())),
        }
    }
    options
}

fn fault(report: &mut ConfigReport, key: String, message: impl Into<String>) {
    report.faults.push(ConfigFault { key, message: message.into() });
}

/// Makes a topic; one that is there already stays as it is. Without the right to make topics it may be there all the same, which who
/// writes to it will see.
async fn make<C: ClientContext>(admin: &AdminClient<C>, topic: &Arc<str>, options: &TopicOptions) -> Result<()> {
    let mut new = NewTopic::new(topic, options.partitions, TopicReplication::Fixed(options.replication_factor));
    for (key, value) in &options.settings {
        new = new.set(key, value);
    }
    let doing = || format!("make the topic {topic}");
    let limits = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let made = admin.create_topics([&new], &limits).await.map_err(|error| failed(doing(), &error))?;
    match made.into_iter().next() {
        Some(Ok(_)) => {
            tracing::info!(table = &**topic, "the topic is made");
            Ok(())
        }
        Some(Err((
            _,
            RDKafkaErrorCode::TopicAlreadyExists
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ))) => Ok(()),
        Some(Err((_, code))) => Err(failed_with_code(doing(), code)),
        None => Err(failed_with_code(doing(), RDKafkaErrorCode::Unknown)),
    }
}

/// How a source's topics come to be.
pub(super) struct Topics {
    pub(super) creation: TopicCreation,
    /// Topics that are not there are made
    pub(super) makes: bool,
    /// Configuration of the client that makes them
    pub(super) admin: ClientConfig,
    /// Who uses them, where it is a connector
    pub(super) connector: Option<Arc<str>>,
    pub(super) uses: Arc<Uses>,
}

impl Topics {
    /// Makes sure that `topic` is there and can be written to.
    pub(super) async fn ensure(&self, producer: &Arc<Producer>, topic: &Arc<str>) -> Result<()> {
        if self.makes {
            let admin = AdminClient::from_config_and_context(&self.admin, DefaultClientContext)
                .map_err(|error| failed("make a Kafka admin client", &error))?;
            let made = make(&admin, topic, self.creation.of(topic)).await;
            drop_off_the_async_threads(admin);
            made.map_err(|error| producer.context().take_failure().unwrap_or(error))?;
        }
        let (producer, name) = (Arc::clone(producer), Arc::clone(topic));
        blocking(move || wait_for_leaders(&producer, &name)).await
    }

    pub(super) fn used(&self, topic: &Arc<str>) {
        if let Some(connector) = &self.connector {
            self.uses.count(connector, topic, true);
        }
    }
}

/// Returns when every partition of the topic has a leader that answers as such. The metadata names one before it knows of that itself: a
/// broker may refuse the first records that it gets for a new partition and then take those behind them, whatever their sequence is
/// (KAFKA-15591).
fn wait_for_leaders(producer: &Producer, topic: &str) -> Result<()> {
    let deadline = Instant::now() + LEADERS;
    loop {
        let metadata = producer.client().fetch_metadata(Some(topic), PATIENCE);
        // That brokers refuse the connection says more than that none has answered.
        let cannot = |error| producer.context().take_failure().unwrap_or_else(|| failed(format!("look for the topic {topic}"), &error));
        let metadata = metadata.map_err(cannot)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let why = match found {
            Some(found) => match found.error() {
                Some(error) => RDKafkaErrorCode::from(error),
                None if found.partitions().iter().all(|partition| partition.leader() >= 0) && !found.partitions().is_empty() => {
                    // The ends are told by each leader itself.
                    let ends = |number| producer.client().fetch_watermarks(topic, number, PATIENCE);
                    match found.partitions().iter().find_map(|partition| ends(partition.id()).err()) {
                        None => return Ok(()),
                        Some(error) => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::LeaderNotAvailable),
                    }
                }
                None => RDKafkaErrorCode::LeaderNotAvailable,
            },
            None => RDKafkaErrorCode::UnknownTopicOrPartition,
        };
        if matches!(why, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic) || Instant::now() > deadline {
            return Err(failed_with_code(format!("look for the topic {topic}"), why));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<TopicCreation, ConfigReport> {
        TopicCreation::read(&entries.iter().copied().collect())
    }

    #[test]
    fn a_topic_is_of_the_first_group_that_includes_it() {
        let creation = read(&[
            ("topic.creation.groups", "compacted,wide"),
            ("topic.creation.default.partitions", "3"),
            ("topic.creation.default.replication.factor", "2"),
            ("topic.creation.default.retention.ms", "1000"),
            ("topic.creation.compacted.include", r"shop\.public\..*"),
            ("topic.creation.compacted.exclude", r"shop\.public\.log.*"),
            ("topic.creation.compacted.cleanup.policy", "compact"),
            ("topic.creation.wide.include", r"shop\..*"),
            ("topic.creation.wide.partitions", "12"),
        ])
        .unwrap();
        let settings = |entries: &[(&str, &str)]| entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let compacted = TopicOptions { partitions: 3, replication_factor: 2, settings: settings(&[("cleanup.policy", "compact")]) };
        assert_eq!(creation.of("shop.public.orders"), &compacted);
        assert_eq!(creation.of("shop.public.log"), &TopicOptions { partitions: 12, replication_factor: 2, settings: Vec::new() });
        assert_eq!(creation.of("my.shop.public.orders").settings, settings(&[("retention.ms", "1000")]), "whole names only");
    }

    #[test]
    fn what_nobody_names_is_the_brokers() {
        let expected = TopicOptions { partitions: OF_BROKER, replication_factor: OF_BROKER, settings: Vec::new() };
        assert_eq!(read(&[]).unwrap().of("any"), &expected);
    }

    #[test]
    fn all_faults_come_at_once() {
        let report = read(&[
            ("topic.creation.groups", "a,b"),
            ("topic.creation.default.partitions", "0"),
            ("topic.creation.a.include", "("),
            ("topic.creation.b.replication.factor", "many"),
        ])
        .err()
        .unwrap();
        let keys: Vec<_> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
        for key in [
            "topic.creation.default.partitions",
            "topic.creation.a.include",
            "topic.creation.b.include",
            "topic.creation.b.replication.factor",
        ] {
            assert!(keys.contains(&key), "{key} in {keys:?}");
        }
    }
}
