//! Tailwater's sink that counts and forgets, for measurements and for keeping a pipeline moving.
//!
//! Nothing is stored, so everything written is as durable as it will ever be: each batch is reported durable at once.

use tailwater_api::Result;
use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig};
use tailwater_api::metrics::Counter;
use tailwater_api::probe::ProbeReport;
use tailwater_api::sink::{Progress, RecordBatch, SinkConnector, SinkContext, SinkWriter};

/// The sink.
pub struct BlackholeConnector;

/// It has no keys of its own.
#[derive(Clone, Debug)]
pub struct BlackholeConfig;

impl ConnectorConfig for BlackholeConfig {
    const FIELDS: &'static [&'static [ConfigField]] = &[];

    fn read(_: &mut ConfigReader<'_>) -> Self {
        Self
    }
}

/// Counts what it is given.
pub struct BlackholeWriter {
    forgotten: Counter,
}

impl SinkConnector for BlackholeConnector {
    const NAME: &'static str = "blackhole";
    const CLASS: &'static str = "io.tailwater.connector.blackhole.BlackholeSinkConnector";
    type Config = BlackholeConfig;
    type Writer = BlackholeWriter;

    async fn probe(_: &BlackholeConfig) -> ProbeReport {
        ProbeReport::default()
    }

    async fn open(_: BlackholeConfig, context: SinkContext) -> Result<BlackholeWriter> {
        Ok(BlackholeWriter { forgotten: context.metrics().counter("forgotten_records_total", "Records counted and forgotten.", None) })
    }
}

impl SinkWriter for BlackholeWriter {
    async fn write(&mut self, batch: &RecordBatch) -> Result<Progress> {
        self.forgotten.add(batch.records.len() as u64);
        Ok(Progress::Durable)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tailwater_api::record::{Record, SchemaAndValue};
    use tailwater_testkit::conformance::sink::{TestLog, open};

    use super::*;

    #[tokio::test]
    async fn every_record_is_counted_and_durable_at_once() {
        let log = TestLog::new("log");
        let (mut writer, _) = open::<BlackholeConnector>(&BlackholeConfig, Arc::default(), &log, &"t".into()).await;
        let record = Record::new("t".into(), SchemaAndValue::NONE, SchemaAndValue::NONE);
        assert_eq!(writer.write(&log.batch(0, vec![record; 3])).await.unwrap(), Progress::Durable);
        assert_eq!(writer.forgotten.get(), 3);
        writer.close().await.unwrap();
    }
}
