//! Batches to files.
//!
//! A write only encodes into memory and reports what it buffers; the daemon asks for a flush when that is its share of
//! the budget, or after the flush interval (I6). A flush is the commit described at the head of the crate. After a
//! failed flush the daemon opens the sink anew, which cuts off what belongs to no commit.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tailwater_api::metrics::Counter;
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::{Assignment, LogPosition, Progress, RecordBatch, SinkContext, SinkRecord, SinkWriter};
use tailwater_api::{Error, ErrorKind, Result};

use crate::blocking;
use crate::config::FileConfig;
use crate::lines::{Encoded, Lines};
use crate::manifest::{GrowingFile, Manifest, RoutedPartition};
use crate::storage::{Storage, storage_error};

/// The writer of one task.
pub struct FileWriter {
    config: FileConfig,
    context: SinkContext,
    storage: Arc<dyn Storage>,
    lines: Lines,
    growing: BTreeMap<RoutedPartition, Growing>,
    /// Complete files whose last bytes are not written yet
    complete: Vec<Growing>,
    /// Positions behind everything that was written, committed or not
    positions: BTreeMap<TopicPartition, LogPosition>,
    /// Bytes in all buffers
    buffered: usize,
    line: Vec<u8>,
    left_out: Counter,
}

/// A file and what is still to be appended to it.
struct Growing {
    file: GrowingFile,
    buffer: Vec<u8>,
}

impl Growing {
    fn length(&self) -> u64 {
        self.file.length + self.buffer.len() as u64
    }
}

impl FileWriter {
    /// Reads the manifest and cuts off what belongs to no commit.
    pub(crate) async fn open(config: FileConfig, context: SinkContext, storage: Arc<dyn Storage>) -> Result<Self> {
        let doing = format!("recover the files in {}", config.path.display());
        let recovering = Arc::clone(&storage);
        let manifest = blocking(doing.clone(), move || recover(&*recovering, &doing)).await??;
        let growing = manifest.files.into_iter().map(|file| (file.content.clone(), Growing { file, buffer: Vec::new() })).collect();
        let left_out = context.metrics().counter("left_out_tombstones_total", "Tombstones that CSV has no row for.", None);
        let lines = Lines::new(&config);
        Ok(Self {
            config,
            context,
            storage,
            lines,
            growing,
            complete: Vec::new(),
            positions: manifest.positions,
            buffered: 0,
            line: Vec::new(),
            left_out,
        })
    }

    fn append_line(&mut self, record: &SinkRecord, now: u64) {
        let content = RoutedPartition { topic: Arc::clone(&record.record.topic), stands_in: record.topic_partition() };
        let ends = |growing: &Growing| {
            let grown = self.config.rotate_bytes.is_some_and(|limit| growing.length() >= limit);
            let aged = self.config.rotate_interval.is_some_and(|limit| now.saturating_sub(growing.file.opened) >= limit.as_millis() as u64);
            grown || aged || growing.file.header != self.lines.header()
        };
        if self.growing.get(&content).is_some_and(ends)
            && let Some(complete) = self.growing.remove(&content)
        {
            self.complete.push(complete);
        }
        let growing = self.growing.entry(content).or_insert_with_key(|content| {
            let header = self.lines.header().to_vec();
            let name = content.file_name(record.offset, self.lines.extension());
            self.buffered += header.len();
            let buffer = header.clone();
            Growing { file: GrowingFile { name, content: content.clone(), length: 0, opened: now, header }, buffer }
        });
        growing.buffer.extend_from_slice(&self.line);
        self.buffered += self.line.len();
    }
}

impl SinkWriter for FileWriter {
    async fn assign(&mut self, partitions: &[Assignment]) -> Result<Vec<LogPosition>> {
        Ok(partitions.iter().filter_map(|assigned| self.positions.get(&assigned.topic_partition).cloned()).collect())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<Progress> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        for record in &batch.records {
            self.line.clear();
            match self.lines.encode(record, &mut self.line) {
                Ok(Encoded::Line) => self.append_line(record, now),
                Ok(Encoded::Nothing) => self.left_out.add(1),
                // I2: the position passes the record only after it is kept elsewhere.
                Err(error) => self.context.reject(record, error).await?,
            }
        }
        for position in &batch.next {
            self.positions.insert(position.topic_partition.clone(), position.clone());
        }
        Ok(Progress::Accepted { buffered: self.buffered })
    }

    async fn flush(&mut self) -> Result<()> {
        let doing = format!("write to {}", self.config.path.display());
        let mut files: Vec<Growing> = std::mem::take(&mut self.complete);
        let complete = files.len();
        files.extend(std::mem::take(&mut self.growing).into_values());
        let (storage, positions) = (Arc::clone(&self.storage), self.positions.clone());
        let written = blocking(doing.clone(), move || commit(&*storage, files, complete, positions)).await?;
        let growing = written.map_err(|error| storage_error(doing, &error))?;
        self.growing = growing.into_iter().map(|growing| (growing.file.content.clone(), growing)).collect();
        self.buffered = 0;
        Ok(())
    }

    async fn close(mut self) -> Result<()> {
        self.flush().await
    }
}

/// Appends the buffers, makes all durable, and replaces the manifest. The first `complete` files grow no more.
fn commit(
    storage: &dyn Storage,
    mut files: Vec<Growing>,
    complete: usize,
    positions: BTreeMap<TopicPartition, LogPosition>,
) -> io::Result<Vec<Growing>> {
    let new: Vec<_> = (0..files.len()).filter(|place| files[*place].file.length == 0).collect();
    if !new.is_empty() {
        for place in new {
            files[place].file.name = free_name(storage, &files, place)?;
        }
        // Named before they are made: whatever happens from here on, the next start knows them.
        let announced =
            Manifest { positions: manifest(storage)?.positions, files: files.iter().map(|growing| growing.file.clone()).collect() };
        storage.replace_manifest(&announced.to_text())?;
    }
    for growing in &mut files {
        if !growing.buffer.is_empty() {
            storage.append(&growing.file.name, growing.file.length, &growing.buffer)?;
            growing.file.length = growing.length();
            growing.buffer.clear();
        }
    }
    files.drain(..complete);
    let committed = Manifest { positions, files: files.iter().map(|growing| growing.file.clone()).collect() };
    storage.replace_manifest(&committed.to_text())?;
    Ok(files)
}

/// A name that no file has: one of the same topic and offset may be there from another log or another connector.
fn free_name(storage: &dyn Storage, files: &[Growing], place: usize) -> io::Result<String> {
    let wanted = &files[place].file.name;
    let (stem, extension) = wanted.rsplit_once('.').unwrap_or((wanted, ""));
    let mut name = wanted.clone();
    for number in 2u64.. {
        let taken = storage.exists(&name)? || files.iter().enumerate().any(|(other, growing)| other != place && growing.file.name == name);
        if !taken {
            break;
        }
        name = format!("{stem}+{number}.{extension}");
    }
    Ok(name)
}

fn manifest(storage: &dyn Storage) -> io::Result<Manifest> {
    let text = storage.manifest()?;
    text.map_or_else(|| Ok(Manifest::default()), |text| Manifest::from_text(&text).map_err(io::Error::other))
}

/// Brings the files to the lengths of the manifest.
fn recover(storage: &dyn Storage, doing: &str) -> Result<Manifest> {
    let failed = |error: io::Error| storage_error(doing.to_owned(), &error);
    let mut manifest = match storage.manifest().map_err(failed)? {
        Some(text) => Manifest::from_text(&text)?,
        None => return Ok(Manifest::default()),
    };
    let mut left = Vec::new();
    for file in manifest.files {
        // Who takes a growing file away has it; the next record begins another.
        if !storage.exists(&file.name).map_err(failed)? {
            continue;
        }
        let length = storage.length(&file.name).map_err(failed)?;
        if length < file.length {
            return Err(Error::new(ErrorKind::HistoryGone, doing)
                .because(format!("{} has {length} bytes, but {} were committed", file.name, file.length))
                .mend(format!("restore {} from a copy, or remove it if what it held may be lost", file.name)));
        }
        if file.length == 0 {
            storage.remove(&file.name).map_err(failed)?;
            continue;
        }
        if length > file.length {
            tracing::info!(file = file.name, from = length, to = file.length, "what belongs to no commit is cut off");
            storage.truncate(&file.name, file.length).map_err(failed)?;
        }
        left.push(file);
    }
    manifest.files = left;
    // A file that was announced and removed must not be removed again once somebody else has made one of its name.
    storage.replace_manifest(&manifest.to_text()).map_err(failed)?;
    Ok(manifest)
}

#[cfg(test)]
mod tests;
