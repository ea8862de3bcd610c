//! Tailwater's source that makes records up, for demonstrations, tests and measurements.
//!
//! Everything in a record but its time follows from its sequence number, so a run that resumes at a sequence number
//! continues exactly where the stored state ends: no record is missing and none comes twice.
//!
//! Records are rows `(id, payload)`, flat or in a change event's envelope. The state is one partition,
//! `{"generator": CONNECTOR}`, with the number of the next record: `{"sequence": 1000}`. Every batch ends in a resume
//! point. A transaction may span batches; the source block counts them from the sequence number.

mod config;
mod rows;

use tailwater_api::Result;
use tailwater_api::probe::ProbeReport;
use tailwater_api::source::{SourceBatch, SourceConnector, SourceContext};
use tailwater_api::state::{JsonMap, StateChange};
use tokio::time::Instant;

pub use crate::config::{GeneratorConfig, Shape};
use crate::rows::Rows;

/// Most records in a batch.
const LARGEST_BATCH: u64 = 1000;
/// Most batches a second at a limited rate.
const BATCHES_A_SECOND: u64 = 50;

/// The source.
pub struct GeneratorConnector;

impl SourceConnector for GeneratorConnector {
    const NAME: &'static str = "generator";
    const CLASS: &'static str = "io.tailwater.connector.generator.GeneratorSourceConnector";
    type Config = GeneratorConfig;

    async fn probe(_: &GeneratorConfig) -> ProbeReport {
        ProbeReport::default()
    }

    async fn run(config: GeneratorConfig, mut context: SourceContext) -> Result<()> {
        let partition = JsonMap::from_iter([("generator".to_owned(), context.connector().to_string().into())]);
        let stored = context.state().get(&partition).and_then(|offset| offset.get("sequence")?.as_u64());
        let first = stored.unwrap_or_default();
        let last = config.rows.unwrap_or(u64::MAX);
        let largest = config.rate.map_or(LARGEST_BATCH, |rate| (rate / BATCHES_A_SECOND).clamp(1, LARGEST_BATCH));
        let mut rows = Rows::new(&config, context.connector());
        let began = Instant::now();
        let mut sequence = first;
        while sequence < last {
            let end = last.min(sequence + largest).min(config.end_of_transaction(sequence));
            if let Some(rate) = config.rate {
                let due = began + std::time::Duration::from_secs_f64((end - first) as f64 / rate as f64);
                tokio::select! {
                    () = context.stopped() => return Ok(()),
                    () = tokio::time::sleep_until(due) => {}
                }
            }
            let records = rows.batch(sequence..end);
            let offset = JsonMap::from_iter([("sequence".to_owned(), end.into())]);
            let state = vec![StateChange { partition: partition.clone(), offset: Some(offset) }];
            let batch = SourceBatch { records, state, ..SourceBatch::default() };
            let reservation = tokio::select! {
                () = context.stopped() => return Ok(()),
                reservation = context.reserve(batch.weight()) => reservation,
            };
            context.send(batch, reservation).await?;
            sequence = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
