//! `plan`: what pipelines the files make, and how often a change gets through each; without connecting anywhere (I15).

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tailwater_api::config::{ConfigReport, ConfigValues};

use super::output::{Output, print, table};
use super::{Exit, Failure};
use crate::config::check::{check, flatten};
use crate::config::{connector_file, worker_file};
use crate::connectors::find;
use crate::runtime::guarantee::Guarantee;
use crate::runtime::settings::ConnectorSettings;
use crate::topics::{self, Subscription};

/// Says which pipelines connector files make, and the guarantee of each; connects to nothing
#[derive(Args)]
pub(super) struct Plan {
    /// Connector files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The worker file, which names the topic log
    #[arg(long)]
    config: Option<PathBuf>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// One connector.
struct Half {
    name: String,
    /// What a sink reads; `None` for a source
    subscription: Option<Subscription>,
    /// What the names of a source's topics begin with, where its configuration says so
    prefix: Option<String>,
    guarantee: Guarantee,
}

/// A source or a sink may be missing: other connectors of the worker, or other programs.
struct Pipeline {
    source: Option<String>,
    sink: Option<String>,
    guarantee: Guarantee,
}

impl Plan {
    pub(super) fn execute(self) -> Result<Exit, Failure> {
        let worker = worker_file::load(self.config.as_deref(), &[]);
        let worker = worker.map_err(|report| Failure::invalid(&self.config.unwrap_or_default().display().to_string(), &report))?;
        let mut halves = Vec::new();
        let mut faults = Vec::new();
        for file in &self.files {
            match half(file, &worker.values) {
                Ok(half) => halves.push(half),
                Err(report) => faults.push(Failure::invalid(&file.display().to_string(), &report).message),
            }
        }
        if !faults.is_empty() {
            return Err(Failure { exit: Exit::Invalid, message: faults.join("\n") });
        }
        let log = if topics::is_kafka(&worker.values) { "kafka" } else { "embedded" };
        let pipelines = pipelines(&halves);
        match self.output {
            Output::Text => print(&text(&pipelines, log))?,
            Output::Json => print(&format!("{}\n", pipelines.iter().map(|pipeline| json(pipeline, log)).collect::<Value>()))?,
        }
        Ok(Exit::Done)
    }
}

fn half(file: &std::path::Path, worker: &ConfigValues) -> Result<Half, ConfigReport> {
    let connector = connector_file::read(file)?;
    let values = flatten(&connector.config)?;
    let report = check(&connector.name, &values, worker);
    let Some(plugin) = values.get("connector.class").and_then(find).filter(|_| report.faults.is_empty()) else { return Err(report) };
    // A transform may name topics otherwise.
    let prefix = values.get("topic.prefix").filter(|_| values.get("transforms").is_none());
    let (settings, _) = tailwater_api::config::read_config::<ConnectorSettings>(&values)?;
    Ok(Half {
        name: connector.name,
        subscription: settings.subscription,
        prefix: prefix.map(|prefix| format!("{prefix}.")),
        guarantee: Guarantee::of(plugin, &values, worker),
    })
}

/// Every source with every sink that may read it, and those of both that are left.
fn pipelines(halves: &[Half]) -> Vec<Pipeline> {
    let (sources, sinks): (Vec<_>, Vec<_>) = halves.iter().partition(|half| half.subscription.is_none());
    let mut pipelines = Vec::new();
    for source in &sources {
        let readers: Vec<_> = sinks.iter().filter(|sink| may_read(sink, source)).collect();
        pipelines.extend(readers.iter().map(|sink| Pipeline {
            source: Some(source.name.clone()),
            sink: Some(sink.name.clone()),
            guarantee: source.guarantee.and(&sink.guarantee),
        }));
        if readers.is_empty() {
            pipelines.push(Pipeline { source: Some(source.name.clone()), sink: None, guarantee: source.guarantee.clone() });
        }
    }
    let alone = sinks.iter().filter(|sink| !sources.iter().any(|source| may_read(sink, source)));
    pipelines.extend(alone.map(|sink| Pipeline { source: None, sink: Some(sink.name.clone()), guarantee: sink.guarantee.clone() }));
    pipelines
}

/// Whether nothing in the names speaks against it. Which topics there will be only the source knows.
fn may_read(sink: &Half, source: &Half) -> bool {
    match (&sink.subscription, &source.prefix) {
        (Some(Subscription::Topics(topics)), Some(prefix)) => topics.iter().any(|topic| topic.starts_with(prefix)),
        (Some(Subscription::Topics(_) | Subscription::Pattern(_)), _) => true,
        (None, _) => false,
    }
}

fn text(pipelines: &[Pipeline], log: &str) -> String {
    let rows: Vec<[String; 3]> = pipelines
        .iter()
        .map(|Pipeline { source, sink, guarantee }| {
            let parts = [source.as_deref(), Some(log), sink.as_deref()];
            [parts.into_iter().flatten().collect::<Vec<_>>().join(" -> "), guarantee.name().to_owned(), guarantee.why.clone()]
        })
        .collect();
    table(["PIPELINE", "GUARANTEE", "WHY"], &rows)
}

fn json(pipeline: &Pipeline, log: &str) -> Value {
    let Pipeline { source, sink, guarantee } = pipeline;
    json!({"source": source, "log": log, "sink": sink, "guarantee": guarantee.name(), "why": guarantee.why})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(name: &str, subscription: Option<Subscription>, prefix: Option<&str>, is_exactly_once: bool) -> Half {
        let guarantee = Guarantee { is_exactly_once, why: format!("of {name}") };
        Half { name: name.to_owned(), subscription, prefix: prefix.map(str::to_owned), guarantee }
    }

    fn topics(names: &[&str]) -> Option<Subscription> {
        Some(Subscription::Topics(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn a_sink_is_joined_with_the_sources_whose_topics_it_may_read() {
        let halves = [
            half("shop", None, Some("shop."), true),
            half("bank", None, Some("bank."), true),
            half("copy", topics(&["shop.public.orders"]), None, false),
            half("others", topics(&["elsewhere"]), None, true),
        ];
        let expected = "PIPELINE                  GUARANTEE      WHY\n\
                        shop -> embedded -> copy  at-least-once  of copy\n\
                        bank -> embedded          exactly-once   of bank\n\
                        embedded -> others        exactly-once   of others\n";
        assert_eq!(text(&pipelines(&halves), "embedded"), expected);
        let first = json(&pipelines(&halves)[0], "kafka");
        assert_eq!(first, json!({"source": "shop", "log": "kafka", "sink": "copy", "guarantee": "at-least-once", "why": "of copy"}));
    }
}
