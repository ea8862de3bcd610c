//! The whole path without a database: generator, embedded log, blackhole. Says how many records a second the runtime, the
//! journal and its readers carry together.
//!
//!     cargo bench --bench whole_path

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tailwater::config::providers::Providers;
use tailwater::runtime::offsets::Offsets;
use tailwater::runtime::worker::{Worker, WorkerOptions, WorkerParts};
use tailwater::state::TargetState;
use tailwater::state::redb::RedbStore;
use tailwater::telemetry::Registry;
use tailwater::topics::embedded::{EmbeddedLog, EmbeddedOptions};
use tailwater_api::config::ConfigValues;
use tailwater_api::state::JsonMap;

const ROWS: u64 = 200_000;

fn config(entries: &[(&str, &str)]) -> JsonMap {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
}

async fn worker(data_dir: &Path) -> Worker {
    let store = RedbStore::open(data_dir).expect("the state opens");
    let topics = EmbeddedLog::open(data_dir, EmbeddedOptions::default(), store.clone()).expect("the log opens");
    let options = WorkerOptions {
        data_dir: data_dir.to_owned(),
        memory_budget: 16 << 20,
        shutdown_timeout: Duration::from_secs(10),
        defaults: ConfigValues::default(),
        worker_id: String::new(),
    };
    let parts = WorkerParts {
        topics: Arc::new(topics),
        store: Arc::new(store),
        providers: Providers::default(),
        metrics: Arc::new(Registry::default()),
    };
    Worker::start_with(options, parts).await.expect("the worker starts")
}

/// Carries all rows from the generator to the blackhole and says how long that took.
async fn carry(shape: &str) -> Duration {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let worker = worker(folder.path()).await;
    let rows = ROWS.to_string();
    let source = [("connector.class", "generator"), ("generator.topics", "rows"), ("generator.rows", &rows), ("generator.shape", shape)];
    let sink = [("connector.class", "blackhole"), ("topics", "rows"), ("offset.flush.interval.ms", "5")];
    let began = Instant::now();
    for (name, config) in [("source", config(&source)), ("sink", config(&sink))] {
        worker.create(name, config, TargetState::Running, None).await.expect("the connector is made");
    }
    loop {
        if let Ok(Offsets::Sink(positions)) = worker.offsets("sink").await
            && positions.first().is_some_and(|position| position.offset == ROWS)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = began.elapsed();
    worker.shutdown().await;
    took
}

fn whole_path(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("whole_path");
    group.throughput(Throughput::Elements(ROWS)).sample_size(10);
    for shape in ["envelope", "flat"] {
        group.bench_function(shape, |bencher| {
            bencher.to_async(&runtime).iter_custom(|times| async move {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    took += carry(shape).await;
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, whole_path);
criterion_main!(benches);
