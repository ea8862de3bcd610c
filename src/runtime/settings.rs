//! The keys that the runtime itself reads of a connector's configuration: tasks, subscription, errors, retries.
//!
//! Names and defaults are Kafka Connect's (4.3, `ConnectorConfig`, `SinkConnectorConfig`) and, for the two retry keys
//! of sources, Debezium's. Where Connect leaves a failed task to a human, a task here tries again by itself; keys that
//! the user sets narrow that.

use std::sync::Arc;
use std::time::Duration;

use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig};
use tailwater_kit::backoff::Backoff;
use tailwater_kit::java_regex::JavaRegex;

use crate::config::fields::{CONNECTOR_FIELDS, SINK_FIELDS};
use crate::runtime::recovery::{RecoveryPolicy, Tolerance};
use crate::topics::Subscription;

/// Checked settings of one connector.
#[derive(Clone)]
pub struct ConnectorSettings {
    /// Upper bound for the number of tasks
    pub max_tasks: usize,
    /// What a sink reads; `None` for a source
    pub subscription: Option<Subscription>,
    /// What to do about errors
    pub recovery: RecoveryPolicy,
    /// Whether dead letters say in headers where they come from and why
    pub dead_letter_headers: bool,
    /// How long what a sink accepted may stay without being made durable, and durable positions without being kept
    pub flush_interval: Duration,
}

/// First wait before the next try; it doubles from here.
const FIRST_DELAY: Duration = Duration::from_millis(500);

impl ConnectorConfig for ConnectorSettings {
    const FIELDS: &'static [&'static [ConfigField]] = &[CONNECTOR_FIELDS, SINK_FIELDS];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        let dead_letter_topic = reader.optional_text("errors.deadletterqueue.topic.name");
        let subscription = subscription(reader, dead_letter_topic.as_deref());
        let tolerance = match (reader.text("errors.tolerance").eq_ignore_ascii_case("all"), dead_letter_topic) {
            (true, Some(topic)) => Tolerance::Keep(Arc::from(topic)),
            (true, None) => Tolerance::Drop,
            (false, Some(_)) => {
                reader.note("errors.deadletterqueue.topic.name", "has no effect while errors.tolerance is none");
                Tolerance::None
            }
            (false, None) => Tolerance::None,
        };
        let backoff = if reader.is_set("retriable.restart.connector.wait.ms") {
            let wait = reader.milliseconds("retriable.restart.connector.wait.ms");
            Backoff::new(wait, wait)
        } else {
            let longest = reader.milliseconds("errors.retry.delay.max.ms");
            Backoff::new(FIRST_DELAY.min(longest), longest)
        };
        let max_retries = u32::try_from(reader.number::<i64>("errors.max.retries")).ok();
        let retry_timeout = u64::try_from(reader.number::<i64>("errors.retry.timeout")).ok().filter(|timeout| *timeout > 0);
        Self {
            max_tasks: reader.number::<usize>("tasks.max").max(1),
            subscription,
            recovery: RecoveryPolicy { tolerance, backoff, max_retries, retry_timeout: retry_timeout.map(Duration::from_millis) },
            dead_letter_headers: reader.boolean("errors.deadletterqueue.context.headers.enable"),
            flush_interval: reader.milliseconds("offset.flush.interval.ms").max(Duration::from_millis(1)),
        }
    }
}

/// What `topics` or `topics.regex` name. Both is a fault; neither is one for a sink, which its start reports.
fn subscription(reader: &mut ConfigReader<'_>, dead_letter_topic: Option<&str>) -> Option<Subscription> {
    let topics = reader.list("topics");
    // A pattern that does not compile is a fault of its key already.
    let pattern = reader.optional_text("topics.regex").and_then(|pattern| JavaRegex::new(&pattern).map(Box::new).ok());
    let subscription = match (topics.is_empty(), pattern) {
        (true, None) => return None,
        (false, None) => Subscription::Topics(topics),
        (true, Some(pattern)) => Subscription::Pattern(pattern),
        (false, Some(_)) => {
            reader.fault("topics.regex", "cannot be used together with topics; keep one of them");
            return None;
        }
    };
    // A sink that reads its own dead letters would feed itself.
    if dead_letter_topic.is_some_and(|topic| subscription.covers(topic).unwrap_or(true)) {
        reader.fault("errors.deadletterqueue.topic.name", "is one of the topics that this sink reads; choose another name");
    }
    Some(subscription)
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigReport, ConfigValues, read_config};

    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<ConnectorSettings, ConfigReport> {
        read_config(&entries.iter().copied().collect::<ConfigValues>()).map(|(settings, _)| settings)
    }

    #[test]
    fn a_pattern_covers_whole_names_only() {
        let settings = read(&[("topics.regex", r"shop\.public\..*|other")]).unwrap();
        let subscription = settings.subscription.unwrap();
        let covers = |topic| subscription.covers(topic).unwrap();
        assert!(covers("shop.public.orders") && covers("other"));
        assert!(!covers("my.shop.public.orders") && !covers("others"));
    }

    #[test]
    fn a_pattern_that_gives_up_is_an_error_and_not_a_topic_left_out() {
        let subscription = read(&[("topics.regex", r"(a|b|ab)*(?=c)(a|b|ab)*d")]).unwrap().subscription.unwrap();
        let error = subscription.covers(&"ab".repeat(40)).unwrap_err();
        assert_eq!(error.kind(), tailwater_api::ErrorKind::Misconfigured);
    }

    #[test]
    fn topics_and_pattern_exclude_each_other() {
        let report = read(&[("topics", "a"), ("topics.regex", "b")]).err().unwrap();
        assert_eq!(report.faults[0].key, "topics.regex");
    }

    #[test]
    fn a_sink_may_not_read_its_own_dead_letters() {
        let report = read(&[("topics.regex", "dlq.*"), ("errors.deadletterqueue.topic.name", "dlq-1"), ("errors.tolerance", "all")]);
        assert_eq!(report.err().unwrap().faults[0].key, "errors.deadletterqueue.topic.name");
    }

    #[test]
    fn retries_have_no_end_unless_the_user_sets_one() {
        let open = read(&[]).unwrap().recovery;
        assert_eq!((open.max_retries, open.retry_timeout), (None, None));
        let zero = read(&[("errors.retry.timeout", "0"), ("errors.max.retries", "0")]).unwrap().recovery;
        assert_eq!((zero.max_retries, zero.retry_timeout), (Some(0), None), "Connect's default written down does not end healing");
        let limited = read(&[("errors.retry.timeout", "5000"), ("errors.max.retries", "3")]).unwrap().recovery;
        assert_eq!((limited.max_retries, limited.retry_timeout), (Some(3), Some(Duration::from_secs(5))));
    }
}
