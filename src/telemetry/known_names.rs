//! Figures under the names that dashboards for Kafka Connect and Debezium look for.
//!
//! Those dashboards read what the JMX exporter makes of the MBeans, with the rules that come with it (`kafka-connect.yml` of
//! `jmx_exporter`) and with Debezium's examples: `kafka_connect_*` with the labels `connector` and `task`, `debezium_metrics_*`
//! with `context`, `name` and, where there is one, `table`. `name` is the name of the connector; in Debezium it is the topic
//! prefix. Only what means the same here has its name there.

use std::fmt;

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

type Series<V> = Vec<(Vec<(&'static str, String)>, V)>;

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
            series.push((vec![("connector", connector), ("task", task.to_string())], ConstCounter::new(count)));
        }
        write(encoder, "kafka_connect_source_task_source_record_poll", "Records that the source sent.", &polled)?;
        write(encoder, "kafka_connect_sink_task_sink_record_read", "Records read for the sink.", &read)?;

        let debezium = |context: &str, connector: String, table: Option<String>| {
            let mut labels = vec![("context", context.to_owned()), ("name", connector)];
            labels.extend(table.map(|table| ("table", table)));
            labels
        };
        let behind = self.registry.gauges("lag_milliseconds").into_iter();
        let behind: Series<_> =
            behind.map(|(connector, _, table, lag)| (debezium("streaming", connector, table), ConstGauge::new(lag))).collect();
        write(
            encoder,
            "debezium_metrics_MilliSecondsBehindSource",
            "Time between the commit of the newest change and its capture.",
            &behind,
        )?;
        for (ours, theirs, context, help) in [
            ("source_rows", "debezium_metrics_TotalNumberOfEventsSeen", "streaming", "Row changes that were captured."),
            ("source_transactions", "debezium_metrics_NumberOfCommittedTransactions", "streaming", "Transactions that were captured."),
            (
                "source_unchanged_rows",
                "debezium_metrics_NumberOfUnchangedEventsSkipped",
                "streaming",
                "Updates that changed nothing captured.",
            ),
        ] {
            // JMX knows no counters, so their names have no `_total`.
            let counted = self.registry.counters(ours).into_iter();
            let series: Series<_> = counted
                .map(|(connector, _, table, count)| {
                    (debezium(context, connector, table), ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)))
                })
                .collect();
            write(encoder, theirs, help, &series)?;
        }
        for (ours, theirs, help) in [
            (snapshot::TABLE_ROWS, "debezium_metrics_RowsScanned", "Rows of the table that the snapshot has read."),
            (snapshot::TABLES, "debezium_metrics_TotalTableCount", "Tables of the snapshot."),
            (snapshot::TABLES_REMAINING, "debezium_metrics_RemainingTableCount", "Tables that are not read to their end."),
            (snapshot::RUNNING, "debezium_metrics_SnapshotRunning", "1 while a snapshot is being taken."),
            (snapshot::PAUSED, "debezium_metrics_SnapshotPaused", "1 while the snapshot rests because a signal asks for that."),
            (snapshot::COMPLETED, "debezium_metrics_SnapshotCompleted", "1 when all tables of the snapshot are read to their ends."),
            (snapshot::SECONDS, "debezium_metrics_SnapshotDurationInSeconds", "How long this run has been reading for the snapshot."),
        ] {
            let series: Series<_> = self
                .registry
                .gauges(ours)
                .into_iter()
                .map(|(connector, _, table, value)| (debezium("snapshot", connector, table), ConstGauge::new(value)))
                .collect();
            write(encoder, theirs, help, &series)?;
        }
        Ok(())
    }
}

fn states(tasks: &[TaskState], label: &'static str) -> Series<ConstGauge<i64>> {
    let labels =
        |task: &TaskState| vec![("connector", task.connector.clone()), ("task", task.task.to_string()), (label, task.state.clone())];
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
        registry.task("copy", 1).counter("records_total", "", None).add(2);
        let task =
            |connector: &str, task, is_sink, state: &str| TaskState { connector: connector.into(), task, is_sink, state: state.into() };
        let text = registry.encode(&[task("shop", 0, false, "running"), task("copy", 0, true, "running"), task("copy", 1, true, "failed")]);
        for line in [
            "tailwater_task_state{connector=\"copy\",task=\"1\",state=\"failed\"} 1",
            "kafka_connect_connector_status{connector=\"copy\",task=\"1\",status=\"failed\"} 1",
            "kafka_connect_worker_connector_count 2",
            "kafka_connect_worker_task_count 3",
            "kafka_connect_source_task_source_record_poll_total{connector=\"shop\",task=\"0\"} 3",
            "kafka_connect_sink_task_sink_record_read_total{connector=\"copy\",task=\"1\"} 2",
            "debezium_metrics_MilliSecondsBehindSource{context=\"streaming\",name=\"shop\"} 12",
            "debezium_metrics_RowsScanned{context=\"snapshot\",name=\"shop\",table=\"public.orders\"} 7",
            "debezium_metrics_RemainingTableCount{context=\"snapshot\",name=\"shop\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
