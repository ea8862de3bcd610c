//! Metrics of all tasks, and their text for Prometheus (OpenMetrics 1.0).
//!
//! Tasks hold their counters and gauges themselves and touch nothing shared but atomics; a scrape reads them. Names
//! are `tailwater_` and the connector's own name, counters end in `_total`; labels are `connector`, `task` and, where a
//! figure belongs to one, `table`. The series of a connector go with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tailwater_api::metrics::{Counter, Gauge, Metrics, Remarks};

use super::known_names::{KnownNames, States, TaskState};
use crate::runtime::worker::MetricsFactory;

/// Content type of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this worker. Cloning shares it.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Tasks>>);

/// By connector and number of the task.
type Tasks = BTreeMap<(String, u32), Arc<TaskMetrics>>;

impl MetricsFactory for Registry {
    /// The figures of one task. The same task gets the same figures, so counters go on when it starts again.
    fn task(&self, connector: &str, task: u32) -> Arc<dyn Metrics> {
        Arc::clone(lock(&self.0).entry((connector.to_owned(), task)).or_default()) as Arc<dyn Metrics>
    }

    fn forget(&self, connector: &str) {
        lock(&self.0).retain(|(name, _), _| name != connector);
    }
}

impl Registry {
    /// All figures as text of type [`CONTENT_TYPE`], with the states of `tasks`, and once more under Connect's and Debezium's names.
    #[must_use]
    pub fn encode(&self, tasks: &[TaskState]) -> String {
        let mut ours = prometheus_client::registry::Registry::with_prefix("tailwater");
        ours.register_collector(Box::new(self.clone()));
        ours.register_collector(Box::new(States(tasks.to_vec())));
        let mut theirs = prometheus_client::registry::Registry::default();
        theirs.register_collector(Box::new(KnownNames { registry: self.clone(), tasks: tasks.to_vec() }));
        let mut text = String::new();
        // Writing to a String does not fail, and neither does a collector of ours.
        let _ = text::encode_registry(&mut text, &ours);
        let _ = text::encode_registry(&mut text, &theirs);
        let _ = text::encode_eof(&mut text);
        text
    }
}

/// A panic while a figure is registered leaves nothing half done behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name of a figure and the table that it belongs to.
type Key = (&'static str, Option<String>);

#[derive(Default)]
struct TaskMetrics {
    counters: Mutex<BTreeMap<Key, (&'static str, Counter)>>,
    gauges: Mutex<BTreeMap<Key, (&'static str, Gauge)>>,
    remarks: Mutex<BTreeMap<&'static str, Remarks>>,
}

impl Metrics for TaskMetrics {
    fn counter(&self, name: &'static str, help: &'static str, table: Option<&str>) -> Counter {
        // The format adds the ending itself.
        let name = name.strip_suffix("_total").unwrap_or(name);
        lock(&self.counters).entry((name, table.map(str::to_owned))).or_insert_with(|| (help, Counter::default())).1.clone()
    }

    fn gauge(&self, name: &'static str, help: &'static str, table: Option<&str>) -> Gauge {
        lock(&self.gauges).entry((name, table.map(str::to_owned))).or_insert_with(|| (help, Gauge::default())).1.clone()
    }

    fn remarks(&self, name: &'static str) -> Remarks {
        lock(&self.remarks).entry(name).or_default().clone()
    }
}

/// The labels of one series.
type Labels = Vec<(&'static str, String)>;

/// All series of one name; the format wants them together.
struct Family<V> {
    help: &'static str,
    series: Vec<(Labels, V)>,
}

fn gather<V>(families: &mut BTreeMap<&'static str, Family<V>>, labels: Labels, (name, help): (&'static str, &'static str), value: V) {
    families.entry(name).or_insert_with(|| Family { help, series: Vec::new() }).series.push((labels, value));
}

impl Registry {
    /// The sums of a counter by labels.
    pub(crate) fn counters(&self, wanted: &str) -> Vec<(String, u32, Option<String>, u64)> {
        let mut found = Vec::new();
        for ((connector, task), metrics) in lock(&self.0).iter() {
            for ((name, table), (_, counter)) in lock(&metrics.counters).iter() {
                if *name == wanted {
                    found.push((connector.clone(), *task, table.clone(), counter.get()));
                }
            }
        }
        found
    }

    /// The remarks of this name that the tasks of a connector make.
    pub(crate) fn remarks(&self, wanted: &str, of: &str) -> Vec<String> {
        let all = lock(&self.0);
        let tasks = all.iter().filter(|((connector, _), _)| connector == of);
        tasks.filter_map(|(_, metrics)| Some(lock(&metrics.remarks).get(wanted)?.get())).flatten().collect()
    }

    /// The values of a gauge by labels.
    pub(crate) fn gauges(&self, wanted: &str) -> Vec<(String, u32, Option<String>, i64)> {
        let mut found = Vec::new();
        for ((connector, task), metrics) in lock(&self.0).iter() {
            for ((name, table), (_, gauge)) in lock(&metrics.gauges).iter() {
                if *name == wanted {
                    found.push((connector.clone(), *task, table.clone(), gauge.get()));
                }
            }
        }
        found
    }
}

fn labels(connector: &str, task: u32, table: Option<&String>) -> Labels {
    let mut labels = vec![("connector", connector.to_owned()), ("task", task.to_string())];
    labels.extend(table.map(|table| ("table", table.clone())));
    labels
}

impl Collector for Registry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut counters = BTreeMap::new();
        let mut gauges = BTreeMap::new();
        for ((connector, task), metrics) in lock(&self.0).iter() {
            for ((name, table), (help, counter)) in lock(&metrics.counters).iter() {
                gather(&mut counters, labels(connector, *task, table.as_ref()), (name, help), ConstCounter::new(counter.get()));
            }
            for ((name, table), (help, gauge)) in lock(&metrics.gauges).iter() {
                gather(&mut gauges, labels(connector, *task, table.as_ref()), (name, help), ConstGauge::new(gauge.get()));
            }
        }
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        gather(&mut gauges, version, ("build_info", "Version of this worker."), ConstGauge::new(1_i64));
        encode_families(&counters, &mut encoder)?;
        encode_families(&gauges, &mut encoder)
    }
}

fn encode_families<V: EncodeMetric>(
    families: &BTreeMap<&'static str, Family<V>>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    for (name, family) in families {
        let Some((_, first)) = family.series.first() else { continue };
        let mut metric = encoder.encode_descriptor(name, family.help, None, first.metric_type())?;
        for (labels, value) in &family.series {
            value.encode(metric.encode_family(labels)?)?;
        }
    }
    Ok(())
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_stand_together_and_counters_end_in_total() {
        let registry = Registry::default();
        registry.task("shop", 0).counter("records", "Records sent.", Some("public.orders")).add(3);
        registry.task("copy", 0).counter("records_total", "Records sent.", None).add(2);
        registry.task("shop", 0).gauge("lag_seconds", "Age of the newest record.", None).set(-1);
        let text = registry.encode(&[]);
        assert!(text.contains("tailwater_records_total{connector=\"copy\",task=\"0\"} 2\ntailwater_records_total{connector=\"shop\",task=\"0\",table=\"public.orders\"} 3\n"), "{text}");
        assert!(text.contains("# TYPE tailwater_lag_seconds gauge\ntailwater_lag_seconds{connector=\"shop\",task=\"0\"} -1\n"), "{text}");
        assert_eq!(text.matches("# TYPE tailwater_records counter").count(), 1, "{text}");
        assert!(text.contains("# HELP tailwater_records Records sent.\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_task_that_starts_again_goes_on_counting_and_a_removed_connector_is_gone() {
        let registry = Registry::default();
        registry.task("shop", 0).counter("records", "", None).add(3);
        registry.task("shop", 0).counter("records", "", None).add(4);
        assert!(registry.encode(&[]).contains("records_total{connector=\"shop\",task=\"0\"} 7"));
        registry.forget("shop");
        assert!(!registry.encode(&[]).contains("shop"));
    }
}
