//! Tailwater's sink for files of JSON lines and CSV. It is also the connector to read first: small, and exactly once.
//!
//! # Layout
//! A folder, `path`, with one growing file for each partition of a topic: `TOPIC+PARTITION+OFFSET.jsonl` or `.csv`, where
//! the offset is that of the file's first record; `ROUTED+TOPIC+PARTITION+OFFSET` where a transform gave the records another
//! topic. A file that has reached `rotate.bytes` or the age `rotate.interval.ms`
//! is complete and never touched again; the next record begins a new one.
//!
//! # Exactly once
//! Beside the files stands a small manifest, `.tailwater-CONNECTOR.json`: the positions up to which records are in the
//! files, and the length of each growing file at that point. A flush appends to the files, makes them durable, and then
//! replaces the manifest in one step; that step is the commit. Whatever is behind the lengths of the manifest, a torn
//! last line as well as whole lines, belongs to no commit and is cut off when the connector opens. A new file is named
//! in the manifest, with length 0, before it is made; so nothing has to be guessed from the names of files, and no
//! file of anybody else is ever changed or removed.
//!
//! # Modules
//! - `config`: the keys
//! - `lines`: records as JSON lines or CSV
//! - `manifest`: positions and lengths
//! - `storage`: the few operations on files that all this takes; tests have one that fails
//! - `writer`: batches to files

#![warn(missing_docs)]

mod config;
mod lines;
mod manifest;
mod storage;
mod writer;

use std::sync::Arc;

use tailwater_api::probe::ProbeReport;
use tailwater_api::sink::{SinkConnector, SinkContext};
use tailwater_api::{Error, ErrorKind, Result};

pub use crate::config::{Content, FileConfig, Format};
use crate::storage::{Folder, Storage, storage_error};
pub use crate::writer::FileWriter;

/// The sink.
pub struct FileConnector;

impl SinkConnector for FileConnector {
    const NAME: &'static str = "file";
    const CLASS: &'static str = "io.tailwater.connector.file.FileSinkConnector";
    const TARGET_KEEPS_POSITIONS: bool = true;
    type Config = FileConfig;
    type Writer = FileWriter;

    async fn probe(config: &FileConfig) -> ProbeReport {
        let mut report = ProbeReport::default();
        let path = config.path.display();
        match tokio::fs::metadata(&config.path).await {
            Ok(found) if !found.is_dir() => {
                report.fault(Some("path"), format!("{path} is not a folder"), Some("name a folder, or move the file away".to_owned()));
            }
            Ok(found) if found.permissions().readonly() => {
                report.fault(Some("path"), format!("{path} is read-only"), Some(format!("chmod u+w '{path}'")));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                report.note(Some("path"), format!("{path} is not there and will be made"), None);
            }
            Err(error) => report.fault(Some("path"), format!("{path} cannot be looked at: {error}"), None),
        }
        report
    }

    async fn open(config: FileConfig, context: SinkContext) -> Result<FileWriter> {
        let (path, name) = (config.path.clone(), context.connector().to_string());
        let doing = format!("open the folder {}", path.display());
        let storage = blocking(doing.clone(), move || Folder::open(&path, &name)).await?.map_err(|error| storage_error(doing, &error))?;
        FileWriter::open(config, context, Arc::new(storage) as Arc<dyn Storage>).await
    }
}

/// Runs calls that wait for a disk where they keep no other task waiting.
async fn blocking<T: Send + 'static>(doing: String, call: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(|error| Error::new(ErrorKind::Bug, doing).because(error))
}
