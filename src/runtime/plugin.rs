//! Connectors with their types erased.
//!
//! A connector's author writes typed traits ([`SourceConnector`], [`SinkConnector`]). The daemon needs a table of
//! them: [`SourcePlugin`] and [`SinkPlugin`] erase the types, at the price of one boxed future a call, which is one
//! a batch.

use std::marker::PhantomData;

use futures_util::future::BoxFuture;
use tailwater_api::Result;
use tailwater_api::config::{ConfigField, ConfigReport, ConfigValues, ConnectorConfig, read_config};
use tailwater_api::probe::ProbeReport;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkConnector, SinkContext, SinkWriter};
use tailwater_api::source::{SourceConnector, SourceContext};

use crate::runtime::worker::ConnectorType;
use crate::topics::UNAVAILABLE;

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
    /// Whether a source takes signals while it runs
    fn takes_signals(&self) -> bool;
    /// Whether the target of a sink keeps positions that win over the daemon's
    fn target_keeps_positions(&self) -> bool;
    /// The tasks of a source, or the one task of a sink
    fn plan(&self, values: &ConfigValues, max_tasks: usize) -> Result<Vec<Task>, ConfigReport>;
}

/// One task, ready to run.
pub enum Task {
    /// Runs until it is stopped or done
    Source(Box<dyn FnMut(SourceContext) -> BoxFuture<'static, Result<()>> + Send>),
    /// Opens a writer
    Sink(Box<dyn FnMut(SinkContext) -> Opening + Send>),
}

/// A sink's writer that is being opened.
pub type Opening = BoxFuture<'static, Result<Box<dyn AnySinkWriter>>>;

/// A [`SinkWriter`] with boxed futures: one box a batch.
pub trait AnySinkWriter: Send {
    /// See [`SinkWriter::assign`]
    fn assign<'a>(&'a mut self, partitions: &'a [Assignment]) -> BoxFuture<'a, Result<Vec<LogPosition>>>;
    /// See [`SinkWriter::write`]
    fn write<'a>(&'a mut self, batch: &'a RecordBatch) -> BoxFuture<'a, Result<Progress>>;
    /// See [`SinkWriter::flush`]
    fn flush(&mut self) -> BoxFuture<'_, Result<()>>;
    /// See [`SinkWriter::revoke`]
    fn revoke<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<()>>;
    /// See [`SinkWriter::close`]
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

impl<W: SinkWriter> AnySinkWriter for W {
    fn assign<'a>(&'a mut self, partitions: &'a [Assignment]) -> BoxFuture<'a, Result<Vec<LogPosition>>> {
        Box::pin(SinkWriter::assign(self, partitions))
    }

    fn write<'a>(&'a mut self, batch: &'a RecordBatch) -> BoxFuture<'a, Result<Progress>> {
        Box::pin(SinkWriter::write(self, batch))
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(SinkWriter::flush(self))
    }

    fn revoke<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<()>> {
        Box::pin(SinkWriter::revoke(self, partitions))
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(SinkWriter::close(*self))
    }
}

/// A source as a [`Plugin`].
pub struct SourcePlugin<C> {
    aliases: &'static [&'static str],
    connector: PhantomData<fn() -> C>,
}

impl<C: SourceConnector> SourcePlugin<C> {
    /// The source `C`, which these Java classes mean too.
    #[must_use]
    pub const fn new(aliases: &'static [&'static str]) -> Self {
        Self { aliases, connector: PhantomData }
    }
}

impl<C: SourceConnector> Plugin for SourcePlugin<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn class(&self) -> &'static str {
        C::CLASS
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    fn kind(&self) -> ConnectorType {
        ConnectorType::Source
    }

    fn fields(&self) -> &'static [&'static [ConfigField]] {
        C::Config::FIELDS
    }

    fn check(&self, values: &ConfigValues) -> ConfigReport {
        report::<C::Config>(values)
    }

    fn probe<'a>(&'a self, values: &'a ConfigValues) -> BoxFuture<'a, ProbeReport> {
        Box::pin(async move {
            match read_config::<C::Config>(values) {
                Ok((config, _)) => C::probe(&config).await,
                Err(report) => unreadable(&report),
            }
        })
    }

    fn unavailable_value_placeholder(&self, values: &ConfigValues) -> String {
        // A configuration with faults runs nothing, so its placeholder stands nowhere.
        read_config::<C::Config>(values).map(|(config, _)| C::unavailable_value_placeholder(&config)).unwrap_or_default()
    }

    fn takes_signals(&self) -> bool {
        C::TAKES_SIGNALS
    }

    fn target_keeps_positions(&self) -> bool {
        false
    }

    fn plan(&self, values: &ConfigValues, max_tasks: usize) -> Result<Vec<Task>, ConfigReport> {
        let (config, _) = read_config::<C::Config>(values)?;
        let tasks = C::plan(&config, max_tasks);
        Ok(tasks.into_iter().map(|task| Task::Source(Box::new(move |context| Box::pin(C::run(task.clone(), context))))).collect())
    }
}

/// A sink as a [`Plugin`].
pub struct SinkPlugin<C> {
    aliases: &'static [&'static str],
    connector: PhantomData<fn() -> C>,
}

impl<C: SinkConnector> SinkPlugin<C> {
    /// The sink `C`, which these Java classes mean too.
    #[must_use]
    pub const fn new(aliases: &'static [&'static str]) -> Self {
        Self { aliases, connector: PhantomData }
    }
}

impl<C: SinkConnector> Plugin for SinkPlugin<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn class(&self) -> &'static str {
        C::CLASS
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    fn kind(&self) -> ConnectorType {
        ConnectorType::Sink
    }

    fn fields(&self) -> &'static [&'static [ConfigField]] {
        C::Config::FIELDS
    }

    fn check(&self, values: &ConfigValues) -> ConfigReport {
        report::<C::Config>(values)
    }

    fn probe<'a>(&'a self, values: &'a ConfigValues) -> BoxFuture<'a, ProbeReport> {
        Box::pin(async move {
            match read_config::<C::Config>(values) {
                Ok((config, _)) => C::probe(&config).await,
                Err(report) => unreadable(&report),
            }
        })
    }

    fn unavailable_value_placeholder(&self, values: &ConfigValues) -> String {
        values.get("unavailable.value.placeholder").unwrap_or(UNAVAILABLE).to_owned()
    }

    fn takes_signals(&self) -> bool {
        false
    }

    fn target_keeps_positions(&self) -> bool {
        C::TARGET_KEEPS_POSITIONS
    }

    fn plan(&self, values: &ConfigValues, _: usize) -> Result<Vec<Task>, ConfigReport> {
        let (config, _) = read_config::<C::Config>(values)?;
        let open = move |context| -> Opening {
            let opened = C::open(config.clone(), context);
            Box::pin(async move { Ok(Box::new(opened.await?) as Box<dyn AnySinkWriter>) })
        };
        Ok(vec![Task::Sink(Box::new(open))])
    }
}

fn report<C: ConnectorConfig>(values: &ConfigValues) -> ConfigReport {
    match read_config::<C>(values) {
        Ok((_, report)) | Err(report) => report,
    }
}

fn unreadable(report: &ConfigReport) -> ProbeReport {
    let mut found = ProbeReport::default();
    for fault in &report.faults {
        found.fault(None, fault.to_string(), None);
    }
    found
}
