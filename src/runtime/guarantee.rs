//! How often a change reaches the other side of a connector, by its configuration alone (I15).
//!
//! A pipeline is a source, the log, and a sink. It is as good as the weaker of its halves, whatever fails in between: processes, brokers,
//! networks. A record that fails and is dropped or dead-lettered by `errors.tolerance` has been dealt with once, too.

use serde_json::{Value, json};
use tailwater_api::config::ConfigValues;

use crate::config::check::fields_of;
use crate::runtime::plugin::Plugin;
use crate::runtime::worker::ConnectorType;
use crate::topics;

/// How often, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarantee {
    /// Once; otherwise once or more, never less
    pub is_exactly_once: bool,
    /// A sentence's end
    pub why: String,
}

impl Guarantee {
    /// That of one connector: from its source into the log, or from the log into its target. `worker` are the worker file's flat keys.
    #[must_use]
    pub fn of(plugin: &dyn Plugin, connector: &ConfigValues, worker: &ConfigValues) -> Self {
        match plugin.kind() {
            ConnectorType::Source => {
                let (is_exactly_once, why) = topics::write_guarantee(worker);
                let takes_snapshots = fields_of(plugin).any(|field| field.name == "snapshot.mode");
                // Where rows become readable as they come, see the topic log of Kafka.
                let repeats = if takes_snapshots && topics::is_kafka(worker) {
                    "; a snapshot that is interrupted repeats the rows of tables that it does not read in chunks"
                } else {
                    ""
                };
                Self { is_exactly_once, why: format!("{why}{repeats}") }
            }
            ConnectorType::Sink if !topics::reads_committed(connector, worker) => {
                Self::at_least_once("it reads what its source may abort and write again (isolation.level)")
            }
            ConnectorType::Sink if plugin.target_keeps_positions() => {
                // librdkafka does not tell one topic from a later one of its name.
                let unless = if topics::is_kafka(worker) {
                    "; a topic that is deleted and made anew is found out only while it is shorter than that, so reset the offsets with it"
                } else {
                    ""
                };
                Self {
                    is_exactly_once: true,
                    why: format!("the target keeps the position in the log together with what it writes{unless}"),
                }
            }
            ConnectorType::Sink => Self::at_least_once("its position is kept after the target has the records"),
        }
    }

    fn at_least_once(why: &str) -> Self {
        Self { is_exactly_once: false, why: why.to_owned() }
    }

    /// That of a pipeline of this half and `sink`.
    #[must_use]
    pub fn and(&self, sink: &Self) -> Self {
        match (self.is_exactly_once, sink.is_exactly_once) {
            (true, true) | (false, false) => Self { is_exactly_once: self.is_exactly_once, why: format!("{}; {}", self.why, sink.why) },
            (false, true) => self.clone(),
            (true, false) => sink.clone(),
        }
    }

    /// `exactly-once` or `at-least-once`
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.is_exactly_once { "exactly-once" } else { "at-least-once" }
    }

    /// `{"guarantee","why"}`
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"guarantee": self.name(), "why": self.why})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::find;

    fn of(class: &str, connector: &[(&str, &str)], worker: &[(&str, &str)]) -> Guarantee {
        Guarantee::of(find(class).unwrap(), &connector.iter().copied().collect(), &worker.iter().copied().collect())
    }

    const KAFKA: [(&str, &str); 2] = [("topics.engine", "kafka"), ("topics.kafka.bootstrap.servers", "k:9092")];

    #[test]
    fn a_pipeline_is_as_good_as_its_weaker_half() {
        let enabled = [KAFKA[0], KAFKA[1], ("exactly.once.source.support", "enabled")];
        for (worker, sink, expected) in [
            (&[][..], "sql", true),
            (&[], "blackhole", false),
            (&KAFKA, "sql", false),
            (&enabled, "sql", true),
            (&enabled, "blackhole", false),
        ] {
            let pipeline = of("generator", &[], worker).and(&of(sink, &[], worker));
            assert_eq!(pipeline.is_exactly_once, expected, "{worker:?} {sink}: {pipeline:?}");
        }
    }

    #[test]
    fn what_weakens_it_is_said() {
        assert!(of("generator", &[], &KAFKA).why.contains("exactly.once.source.support: enabled"));
        assert!(!of("generator", &[], &KAFKA).why.contains("snapshot"));
        assert!(of("postgres", &[], &KAFKA).why.contains("snapshot"));
        assert!(!of("postgres", &[], &[]).why.contains("snapshot"));
        assert!(of("sql", &[], &KAFKA).why.contains("made anew") && !of("sql", &[], &[]).why.contains("made anew"));
        let uncommitted = of("sql", &[("consumer.override.isolation.level", "read_uncommitted")], &KAFKA);
        assert!(!uncommitted.is_exactly_once && uncommitted.why.contains("isolation.level"));
        let both = of("generator", &[], &KAFKA).and(&of("blackhole", &[], &KAFKA));
        assert!(both.why.contains("exactly.once.source.support") && both.why.contains("position"), "{}", both.why);
    }
}
