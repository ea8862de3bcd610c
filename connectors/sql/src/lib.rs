//! Tailwater's sink for SQL databases: PostgreSQL and SQLite, by the keys of Debezium's JDBC sink.
//!
//! - [`config`]: the declared keys, and `target_url`: where they point
//! - `interpretation`: what a record asks of which table
//! - `column_type`, `datum`, `temporal`, `decimal`: Connect's types and values as those of SQL
//! - `dialect`, `postgres`, `sqlite`: what differs between databases
//! - `catalog`: tables as they are, created and widened
//! - `writer`: a batch and its position in one transaction; `steps`: a merged step as statements; `offsets`: positions in the target
//! - `failure`: what a database's error means
//! - `probe`: what keeps a configuration from running

#![warn(missing_docs)]

mod catalog;
mod column_type;
pub mod config;
mod datum;
mod decimal;
mod dialect;
mod failure;
mod interpretation;
mod offsets;
mod postgres;
mod probe;
mod sqlite;
mod steps;
mod target_url;
mod temporal;
mod writer;

use tailwater_api::Result;
use tailwater_api::probe::ProbeReport;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkConnector, SinkContext, SinkWriter};

use crate::config::SqlConfig;
use crate::postgres::Postgres;
use crate::sqlite::Sqlite;
use crate::target_url::Target;
use crate::writer::Writer;

/// The sink: writes change events and flat records into tables.
pub struct SqlConnector;

impl SinkConnector for SqlConnector {
    const NAME: &'static str = "sql";
    const CLASS: &'static str = "io.debezium.connector.jdbc.JdbcSinkConnector";
    type Config = SqlConfig;
    type Writer = SqlWriter;
    const TARGET_KEEPS_POSITIONS: bool = true;

    async fn probe(config: &SqlConfig) -> ProbeReport {
        probe::probe(config).await
    }

    async fn open(config: SqlConfig, context: SinkContext) -> Result<SqlWriter> {
        Ok(match config.target {
            Target::Postgres(_) => SqlWriter(Backend::Postgres(Writer::open(config, context).await?)),
            Target::Sqlite(_) => SqlWriter(Backend::Sqlite(Writer::open(config, context).await?)),
        })
    }
}

/// Writes to one database. Each batch is durable, with its position, when [`SinkWriter::write`] returns.
pub struct SqlWriter(Backend);

enum Backend {
    Postgres(Writer<Postgres>),
    Sqlite(Writer<Sqlite>),
}

impl SinkWriter for SqlWriter {
    async fn assign(&mut self, partitions: &[Assignment]) -> Result<Vec<LogPosition>> {
        match &mut self.0 {
            Backend::Postgres(writer) => writer.assign(partitions).await,
            Backend::Sqlite(writer) => writer.assign(partitions).await,
        }
    }

    /// Cancel-safe: a future that is dropped has written all of the batch or nothing of it; which of the two, the
    /// next [`SinkWriter::assign`] says.
    async fn write(&mut self, batch: &RecordBatch) -> Result<Progress> {
        match &mut self.0 {
            Backend::Postgres(writer) => writer.write(batch).await,
            Backend::Sqlite(writer) => writer.write(batch).await,
        }
    }

    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        match &mut self.0 {
            Backend::Postgres(writer) => writer.revoke(partitions),
            Backend::Sqlite(writer) => writer.revoke(partitions),
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        match self.0 {
            Backend::Postgres(writer) => writer.close().await,
            Backend::Sqlite(writer) => writer.close().await,
        }
    }
}
