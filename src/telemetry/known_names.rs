//! Figures under the names that dashboards for Kafka Connect and Debezium look for.
//!
//! Those dashboards read what the JMX exporter makes of the MBeans, with the rules that come with it (`kafka-connect.yml` of
//! `jmx_exporter`) and with Debezium's examples: `kafka_connect_*` with the labels `connector` and `task`, `debezium_metrics_*`
//! with `context`, `name` and, where there is one, `table`. `name` is the name of the connector; in Debezium it is the topic
//! prefix. What `custom.metric.tags` names are further labels of these.
//!
//! Only what means the same here has its name there. Deliberately absent are
//!
//! - what is no number, which the exporter leaves out, too: `LastEvent`, `SourceEventPosition`, `LastTransactionId`, `CapturedTables`,
//!   and of snapshots `ChunkId`, `ChunkFrom`, `ChunkTo`, `TableFrom`, `TableTo`. Positions are in the answer about a connector's
//!   offsets, tables and chunks in that about its snapshot;
//! - `QueueTotalCapacity` and `QueueRemainingCapacity`, which count records: what is in flight is bounded in bytes alone;
//! - the smallest, largest, average and percentiles of `MilliSecondsBehindSource`, which Prometheus makes of its values over any time.

use std::borrow::Cow;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tailwater_api::metrics::snapshot;

use super::Registry;

/// The state of a task.
#[derive(Clone, Debug)]
pub struct TaskState {
    /// Name of the connector
    pub connector: String,
    /// Number of the task
    pub task: u32,
    /// Whether it belongs to a sink
    pub is_sink: bool,
    /// As REST names it, in small letters
    pub state: String,
    /// `custom.metric.tags` of the connector
    pub tags: Vec<(String, String)>,
}

/// States of tasks as figures of ours.
#[derive(Debug)]
pub(super) struct States(pub(super) Vec<TaskState>);

/// What others call it.
#[derive(Debug)]
pub(super) struct KnownNames {
    pub(super) registry: Registry,
    pub(super) tasks: Vec<TaskState>,
}

type Labels = Vec<(Cow<'static, str>, String)>;

type Series<V> = Vec<(Labels, V)>;

/// Debezium's figures that are ones of ours: their name, what they say, and from which of ours in which context they are.
type DebeziumFigure = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const DEBEZIUM: &[DebeziumFigure] = &[
    (
        "debezium_metrics_MilliSecondsBehindSource",
        "Time between the commit of the newest change and its capture.",
        &[("lag_milliseconds", "streaming")],
    ),
    ("debezium_metrics_Connected", "1 while the source's log is followed.", &[("source_connected", "streaming")]),
    (
        "debezium_metrics_TotalNumberOfEventsSeen",
        "Row changes that were captured, or rows that were read.",
        &[("source_rows", "streaming"), ("snapshot_rows", "snapshot")],
    ),
    ("debezium_metrics_TotalNumberOfCreateEventsSeen", "Inserted rows that were captured.", &[("source_creates", "streaming")]),
    ("debezium_metrics_TotalNumberOfUpdateEventsSeen", "Updated rows that were captured.", &[("source_updates", "streaming")]),
    ("debezium_metrics_TotalNumberOfDeleteEventsSeen", "Deleted rows that were captured.", &[("source_deletes", "streaming")]),
    ("debezium_metrics_NumberOfEventsFiltered", "Row changes that the configuration leaves out.", &[("source_filtered_rows", "streaming")]),
    (
        "debezium_metrics_NumberOfErroneousEvents",
        "Events that cannot be decoded and were left out.",
        &[("source_unreadable_events", "streaming")],
    ),
    (
        "debezium_metrics_NumberOfUnchangedEventsSkipped",
        "Updates that changed nothing captured.",
        &[("source_unchanged_rows", "streaming")],
    ),
    ("debezium_metrics_NumberOfCommittedTransactions", "Transactions that were captured.", &[("source_transactions", "streaming")]),
    (
        "debezium_metrics_MaxQueueSizeInBytes",
        "The memory budget, which all tasks share.",
        &[("inflight_limit_bytes", "streaming"), ("inflight_limit_bytes", "snapshot")],
    ),
    (
        "debezium_metrics_CurrentQueueSizeInBytes",
        "Bytes of the memory budget that the task holds.",
        &[("inflight_bytes", "streaming"), ("inflight_bytes", "snapshot")],
    ),
    ("debezium_metrics_RowsScanned", "Rows of the table that the snapshot has read.", &[(snapshot::TABLE_ROWS, "snapshot")]),
    ("debezium_metrics_TotalTableCount", "Tables of the snapshot.", &[(snapshot::TABLES, "snapshot")]),
    ("debezium_metrics_RemainingTableCount", "Tables that are not read to their end.", &[(snapshot::TABLES_REMAINING, "snapshot")]),
    ("debezium_metrics_SnapshotRunning", "1 while a snapshot is being taken.", &[(snapshot::RUNNING, "snapshot")]),
    ("debezium_metrics_SnapshotPaused", "1 while the snapshot rests because a signal asks for that.", &[(snapshot::PAUSED, "snapshot")]),
    (
        "debezium_metrics_SnapshotAborted",
        "1 where the snapshot ended before all tables were read, until it goes on.",
        &[(snapshot::ABORTED, "snapshot")],
    ),
    (
        "debezium_metrics_SnapshotCompleted",
        "1 when all tables of the snapshot are read to their ends.",
        &[(snapshot::COMPLETED, "snapshot")],
    ),
    ("debezium_metrics_SnapshotSkipped", "1 where no snapshot is taken at the start.", &[(snapshot::SKIPPED, "snapshot")]),
    (
        "debezium_metrics_SnapshotDurationInSeconds",
        "How long this run has been reading for the snapshot.",
        &[(snapshot::SECONDS, "snapshot")],
    ),
    ("debezium_metrics_SnapshotPausedDurationInSeconds", "How long of that it has rested.", &[(snapshot::PAUSED_SECONDS, "snapshot")]),
];

impl Collector for States {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        write(&mut encoder, "task_state", "1 for the state that a task has.", &states(&self.0, "state"))
    }
}

impl Collector for KnownNames {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        write(encoder, "kafka_connect_connector_status", "1 for the status that a task has.", &states(&self.tasks, "status"))?;
        let mut connectors: Vec<&str> = self.tasks.iter().map(|task| task.connector.as_str()).collect();
        connectors.dedup();
        for (name, help, count) in [
            ("kafka_connect_worker_connector_count", "Connectors that have tasks.", connectors.len()),
            ("kafka_connect_worker_task_count", "Tasks of this worker.", self.tasks.len()),
        ] {
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(encoder.encode_descriptor(name, help, None, count.metric_type())?)?;
        }

        let (mut polled, mut read) = (Series::new(), Series::new());
        for (connector, task, _, count) in self.registry.counters("records") {
            // Without tasks there is nothing that would be shown with the right word.
            let Some(known) = self.tasks.iter().find(|task| task.connector == connector) else { continue };
            let series = if known.is_sink { &mut read } else { &mut polled };
            series.push((vec![("connector".into(), connector), ("task".into(), task.to_string())], ConstCounter::new(count)));
        }
        write(encoder, "kafka_connect_source_task_source_record_poll", "Records that the source sent.", &polled)?;
        write(encoder, "kafka_connect_sink_task_sink_record_read", "Records read for the sink.", &read)?;

        for (name, help, sources) in DEBEZIUM {
            let mut series = Series::new();
            for (ours, context) in *sources {
                series.extend(
                    self.values(ours).map(|(connector, table, value)| (self.labels(context, connector, table), ConstGauge::new(value))),
                );
            }
            write(encoder, name, help, &series)?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let since = |at: i64| if at == 0 { -1 } else { i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(at) };
        let series: Series<_> = self
            .values("source_last_event_timestamp_milliseconds")
            .map(|(connector, table, at)| (self.labels("streaming", connector, table), ConstGauge::new(since(at))))
            .collect();
        write(
            encoder,
            "debezium_metrics_MilliSecondsSinceLastEvent",
            "Time since the newest change was captured; -1 before the first.",
            &series,
        )?;
        Ok(())
    }
}

impl KnownNames {
    /// A figure of the sources, whichever kind it is: connector, table, value. JMX knows no counters, so there all are gauges, and
    /// their names have no `_total`.
    fn values(&self, ours: &str) -> impl Iterator<Item = (String, Option<String>, i64)> {
        let counted = self.registry.counters(ours).into_iter();
        let counted = counted.map(|(connector, task, table, count)| (connector, task, table, i64::try_from(count).unwrap_or(i64::MAX)));
        let is_sink = |connector: &str| self.tasks.iter().any(|task| task.connector == connector && task.is_sink);
        let of_sources = counted.chain(self.registry.gauges(ours)).filter(move |(connector, ..)| !is_sink(connector));
        of_sources.map(|(connector, _, table, value)| (connector, table, value))
    }

    fn labels(&self, context: &str, connector: String, table: Option<String>) -> Labels {
        let tags = self.tasks.iter().find(|task| task.connector == connector).map(|task| task.tags.clone()).unwrap_or_default();
        let mut labels: Labels = vec![("context".into(), context.to_owned()), ("name".into(), connector)];
        labels.extend(table.map(|table| ("table".into(), table)));
        labels.extend(tags.into_iter().map(|(name, value)| (name.into(), value)));
        labels
    }
}

fn states(tasks: &[TaskState], label: &'static str) -> Series<ConstGauge<i64>> {
    let labels = |task: &TaskState| -> Labels {
        vec![("connector".into(), task.connector.clone()), ("task".into(), task.task.to_string()), (label.into(), task.state.clone())]
    };
    tasks.iter().map(|task| (labels(task), ConstGauge::new(1))).collect()
}

fn write<V: EncodeMetric>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, series: &Series<V>) -> Result<(), fmt::Error> {
    let Some((_, first)) = series.first() else { return Ok(()) };
    let mut metric = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    for (labels, value) in series {
        value.encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::worker::MetricsFactory;

    #[test]
    fn dashboards_of_connect_and_debezium_find_their_names() {
        let registry = Registry::default();
        let shop = registry.task("shop", 0);
        shop.counter("records_total", "", None).add(3);
        shop.gauge("lag_milliseconds", "", None).set(12);
        shop.gauge(snapshot::TABLE_ROWS, "", Some("public.orders")).set(7);
        shop.gauge(snapshot::TABLES_REMAINING, "", None).set(2);
        shop.counter("source_creates", "", None).add(5);
        shop.gauge("source_last_event_timestamp_milliseconds", "", None).set(0);
        shop.gauge("inflight_bytes", "", None).set(9);
        registry.task("copy", 1).gauge("inflight_bytes", "", None).set(9);
        registry.task("copy", 1).counter("records_total", "", None).add(2);
        let task = |connector: &str, task, is_sink, state: &str| TaskState {
            connector: connector.into(),
            task,
            is_sink,
            state: state.into(),
            tags: vec![("env".into(), "test".into())],
        };
        let text = registry.encode(&[task("shop", 0, false, "running"), task("copy", 0, true, "running"), task("copy", 1, true, "failed")]);
        for line in [
            "tailwater_task_state{connector=\"copy\",task=\"1\",state=\"failed\"} 1",
            "kafka_connect_connector_status{connector=\"copy\",task=\"1\",status=\"failed\"} 1",
            "kafka_connect_worker_connector_count 2",
            "kafka_connect_worker_task_count 3",
            "kafka_connect_source_task_source_record_poll_total{connector=\"shop\",task=\"0\"} 3",
            "kafka_connect_sink_task_sink_record_read_total{connector=\"copy\",task=\"1\"} 2",
            "debezium_metrics_MilliSecondsBehindSource{context=\"streaming\",name=\"shop\",env=\"test\"} 12",
            "debezium_metrics_RowsScanned{context=\"snapshot\",name=\"shop\",table=\"public.orders\",env=\"test\"} 7",
            "debezium_metrics_TotalNumberOfCreateEventsSeen{context=\"streaming\",name=\"shop\",env=\"test\"} 5",
            "debezium_metrics_MilliSecondsSinceLastEvent{context=\"streaming\",name=\"shop\",env=\"test\"} -1",
            "debezium_metrics_CurrentQueueSizeInBytes{context=\"streaming\",name=\"shop\",env=\"test\"} 9",
            "debezium_metrics_RemainingTableCount{context=\"snapshot\",name=\"shop\",env=\"test\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("name=\"copy\""), "a sink is none of Debezium's: {text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
