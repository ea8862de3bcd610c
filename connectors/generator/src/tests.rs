use std::sync::Arc;
use std::time::Duration;

use tailwater_api::config::{ConfigValues, read_config};
use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::metrics::NoMetrics;
use tailwater_api::record::Record;
use tailwater_api::source::SentBatch;
use tailwater_api::state::SourceState;
use tailwater_testkit::conformance::source::{self, Generous};
use tokio::sync::{mpsc, watch};

use super::*;

fn config(entries: &[(&str, &str)]) -> GeneratorConfig {
    read_config(&entries.iter().copied().collect::<ConfigValues>()).map(|(config, _)| config).unwrap()
}

/// Runs from `state` to the end and returns the batches.
async fn run(config: GeneratorConfig, state: SourceState) -> Vec<SourceBatch> {
    let (sender, mut receiver) = mpsc::channel(1);
    let (_confirm, confirmed) = watch::channel(0);
    let (_stop, stopping) = watch::channel(false);
    let context =
        SourceContext::new("g".into(), 0, state, sender, Arc::new(Generous), confirmed, stopping, mpsc::channel(1).1, Arc::new(NoMetrics));
    let running = tokio::spawn(GeneratorConnector::run(config, context));
    let mut batches = Vec::new();
    while let Some(SentBatch { batch, .. }) = receiver.recv().await {
        batches.push(batch);
    }
    running.await.unwrap().unwrap();
    batches
}

/// Topic and key: everything but the time follows from the sequence number.
fn identity(record: &Record) -> String {
    format!("{}/{:?}", record.topic, record.key.value)
}

#[tokio::test]
async fn the_generator_conforms() {
    let config = config(&[("generator.rows", "3500"), ("generator.transaction.rows", "400"), ("generator.topics", "a,b")]);
    source::resumes_from_every_resume_point::<GeneratorConnector>(&config, 3500, identity).await;
    source::outlives_a_stall::<GeneratorConnector>(&config, 3500, Duration::from_millis(100), identity).await;
    source::stops_when_told::<GeneratorConnector>(&config, 3500, identity).await;
}

#[tokio::test]
async fn records_are_numbered_without_a_gap() {
    let batches = run(config(&[("generator.rows", "350"), ("generator.transaction.rows", "40")]), SourceState::default()).await;
    let ids = batches.iter().flat_map(|batch| &batch.records).map(|record| record.key.value.as_struct().unwrap()[0].as_integer());
    assert!(ids.eq((0..350).map(Some)));
    assert!(batches.iter().all(|batch| batch.records.len() <= 40 && batch.state.len() == 1));
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
