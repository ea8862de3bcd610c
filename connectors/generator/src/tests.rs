use std::sync::Arc;

use futures_core::future::BoxFuture;
use tailwater_api::config::{ConfigValues, read_config};
use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::metrics::NoMetrics;
use tailwater_api::record::Record;
use tailwater_api::source::{ByteBudget, Reservation, SentBatch};
use tailwater_api::state::SourceState;
use tokio::sync::{mpsc, watch};

use super::*;

struct Generous;

impl ByteBudget for Generous {
    fn reserve(self: Arc<Self>, bytes: usize) -> BoxFuture<'static, Reservation> {
        Box::pin(async move { Reservation::new(bytes, |_| {}) })
    }
}

fn config(entries: &[(&str, &str)]) -> GeneratorConfig {
    read_config(&entries.iter().copied().collect::<ConfigValues>()).map(|(config, _)| config).unwrap()
}

/// Runs from `state` to the end and returns the batches.
async fn run(config: GeneratorConfig, state: SourceState) -> Vec<SourceBatch> {
    let (sender, mut receiver) = mpsc::channel(1);
    let (_confirm, confirmed) = watch::channel(0);
    let (_stop, stopping) = watch::channel(false);
    let context = SourceContext::new("g".into(), 0, state, sender, Arc::new(Generous), confirmed, stopping, Arc::new(NoMetrics));
    let running = tokio::spawn(GeneratorConnector::run(config, context));
    let mut batches = Vec::new();
    while let Some(SentBatch { batch, .. }) = receiver.recv().await {
        batches.push(batch);
    }
    running.await.unwrap().unwrap();
    batches
}

fn ids(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| record.key.value.as_struct().unwrap()[0].as_integer().unwrap()).collect()
}

#[tokio::test]
async fn a_run_resumes_exactly_from_the_state_of_every_batch() {
    let config = config(&[("generator.rows", "350"), ("generator.transaction.rows", "40"), ("generator.topics", "a,b")]);
    let whole = run(config.clone(), SourceState::default()).await;
    let all: Vec<_> = whole.iter().flat_map(|batch| batch.records.clone()).collect();
    assert_eq!(ids(&all), (0..350).collect::<Vec<_>>());
    let mut state = SourceState::default();
    let mut before = 0;
    for batch in &whole {
        batch.state.iter().for_each(|change| state.apply(change));
        before += batch.records.len();
        let rest: Vec<_> = run(config.clone(), state.clone()).await.into_iter().flat_map(|batch| batch.records).collect();
        assert_eq!(ids(&rest), ids(&all[before..]));
        assert!(rest.iter().zip(&all[before..]).all(|(one, two)| one.topic == two.topic));
    }
}

#[tokio::test]
async fn envelopes_say_created_then_updated() {
    let config = config(&[("generator.rows", "4"), ("generator.keys", "2"), ("generator.payload.bytes", "7")]);
    let records = run(config, SourceState::default()).await.remove(0).records;
    let operations: Vec<_> = records.iter().map(|record| Envelope::of(record).unwrap().operation()).collect();
    assert_eq!(operations, [Operation::Create, Operation::Create, Operation::Update, Operation::Update]);
    let row = Envelope::of(&records[3]).unwrap().after().as_struct().unwrap();
    assert_eq!((row[0].as_integer(), row[1].as_text().unwrap().len()), (Some(1), 7));
}

#[tokio::test]
async fn a_rate_is_kept() {
    let began = Instant::now();
    let batches = run(config(&[("generator.rows", "60"), ("generator.rate", "200")]), SourceState::default()).await;
    assert_eq!(batches.iter().map(|batch| batch.records.len()).sum::<usize>(), 60);
    assert!(began.elapsed().as_millis() >= 290, "{:?}", began.elapsed());
}

#[test]
fn all_faults_are_named() {
    let values: ConfigValues =
        [("generator.topics", ","), ("generator.rows", "-1"), ("generator.transaction.rows", "0")].into_iter().collect();
    let report = read_config::<GeneratorConfig>(&values).err().unwrap();
    let keys: Vec<_> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["generator.rows", "generator.transaction.rows", "generator.topics"]);
}
