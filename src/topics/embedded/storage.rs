//! All file access of the journal's writer, so that tests can refuse an fsync, fill a disk or cut the power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where segments live.
pub(super) trait Storage: Send + Sync {
    /// Makes an empty file and makes its name durable.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a file to go on behind its first `length` octets; what stands behind them is cut off, durably.
    fn resume(&self, path: &Path, length: u64) -> io::Result<Box<dyn SegmentFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A segment that is written.
pub(super) trait SegmentFile: Send {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended survives a power loss.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what stands behind the first `length` octets.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// The file system.
pub(super) struct Disk;

impl Storage for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        sync_folder(path)?;
        Ok(Box::new(DiskFile { file, fault: Fault::armed() }))
    }

    fn resume(&self, path: &Path, length: u64) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().append(true).open(path)?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        Ok(Box::new(DiskFile { file, fault: Fault::armed() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_folder(path)
    }
}

/// A new or removed name is durable only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

struct DiskFile {
    file: File,
    fault: Option<Fault>,
}

impl SegmentFile for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(fault) = &self.fault {
            fault.before_append();
        }
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(fault) = &self.fault {
            fault.before_sync()?;
        }
        self.file.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }
}

/// A fault for tests of the whole program, in builds with debug assertions only: `TAILWATER_LOG_FAULT=KIND:FILE` holds
/// while FILE exists. `fsync-refused` fails every fsync, `append-blocked` makes an append wait.
enum Fault {
    SyncRefused(PathBuf),
    AppendBlocked(PathBuf),
}

impl Fault {
    fn armed() -> Option<Self> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let text = std::env::var("TAILWATER_LOG_FAULT").ok()?;
        match text.split_once(':')? {
            ("fsync-refused", file) => Some(Self::SyncRefused(file.into())),
            ("append-blocked", file) => Some(Self::AppendBlocked(file.into())),
            (_, _) => None,
        }
    }

    fn before_append(&self) {
        if let Self::AppendBlocked(file) = self {
            while file.exists() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    fn before_sync(&self) -> io::Result<()> {
        match self {
            Self::SyncRefused(file) if file.exists() => Err(io::Error::other("the test refuses fsync")),
            Self::SyncRefused(_) | Self::AppendBlocked(_) => Ok(()),
        }
    }
}
