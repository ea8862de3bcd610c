//! The list of compiled-in connectors, one line each, and the erasure of their types.

use futures_util::future::BoxFuture;
use tailwater_api::Result;
use tailwater_api::config::{ConfigField, ConfigReport, ConfigValues};
use tailwater_api::probe::ProbeReport;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkContext};
use tailwater_api::source::SourceContext;

use crate::runtime::worker::ConnectorType;

/// A compiled-in connector, its types erased.
pub trait Plugin: Send + Sync {
    /// Short name: `postgres`
    fn name(&self) -> &'static str;
    /// Class of Connect's plug-in list
    fn class(&self) -> &'static str;
    /// Java classes that mean this connector
    fn aliases(&self) -> &'static [&'static str];
    /// Source or sink
    fn kind(&self) -> ConnectorType;
    /// Declared keys
    fn fields(&self) -> &'static [&'static [ConfigField]];
    /// Checks without I/O (I15)
    fn check(&self, values: &ConfigValues) -> ConfigReport;
    /// Connects and says what is missing; faults of the configuration come as faults of the report
    fn probe<'a>(&'a self, values: &'a ConfigValues) -> BoxFuture<'a, ProbeReport>;
    /// Text for unchanged values where records leave as bytes; sources only
    fn unavailable_value_placeholder(&self, values: &ConfigValues) -> String;
    /// The tasks of a source, or the one task of a sink
    fn plan(&self, values: &ConfigValues, max_tasks: usize) -> Result<Vec<Task>, ConfigReport>;
}

/// One task, ready to run.
pub enum Task {
    /// Runs until it is stopped or done
    Source(Box<dyn FnMut(SourceContext) -> BoxFuture<'static, Result<()>> + Send>),
    /// Opens a writer
    Sink(Box<dyn FnMut(SinkContext) -> BoxFuture<'static, Result<Box<dyn AnySinkWriter>>> + Send>),
}

/// A [`SinkWriter`](tailwater_api::sink::SinkWriter) with boxed futures: one box a batch.
pub trait AnySinkWriter: Send {
    /// See [`SinkWriter::assign`](tailwater_api::sink::SinkWriter::assign)
    fn assign<'a>(&'a mut self, partitions: &'a [Assignment]) -> BoxFuture<'a, Result<Vec<LogPosition>>>;
    /// See [`SinkWriter::write`](tailwater_api::sink::SinkWriter::write)
    fn write<'a>(&'a mut self, batch: &'a RecordBatch) -> BoxFuture<'a, Result<Progress>>;
    /// See [`SinkWriter::flush`](tailwater_api::sink::SinkWriter::flush)
    fn flush(&mut self) -> BoxFuture<'_, Result<()>>;
    /// See [`SinkWriter::revoke`](tailwater_api::sink::SinkWriter::revoke)
    fn revoke<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<()>>;
    /// See [`SinkWriter::close`](tailwater_api::sink::SinkWriter::close)
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// All compiled-in connectors.
#[must_use]
pub fn all() -> &'static [&'static dyn Plugin] {
    &[]
}

/// The connector that `class` means: a short name, a class, or an alias.
#[must_use]
pub fn find(class: &str) -> Option<&'static dyn Plugin> {
    let _ = class;
    None
}
