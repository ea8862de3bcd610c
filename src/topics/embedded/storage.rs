//! All file access of the journal's writer, so that tests can refuse an fsync, fill a disk or cut the power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where segments live.
pub(super) trait Storage: Send + Sync {
    /// Makes an empty file and makes its name durable.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a file whose `length` octets are durable, to go on behind them.
    fn resume(&self, path: &Path, length: u64) -> io::Result<Box<dyn SegmentFile>>;
    /// Makes the first `length` octets of a file durable and cuts off the rest. The octets from `written` on are written
    /// once more: after a failed fsync the kernel may hold pages that never reached the disk and call them clean, and only
    /// writing makes them dirty again.
    fn settle(&self, path: &Path, written: u64, length: u64) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Writes a small file whose loss does no harm.
    fn write_aside(&self, path: &Path, octets: &[u8]) -> io::Result<()>;
}

/// A segment that is written.
pub(super) trait SegmentFile: Send {
    /// Appends all of `parts`.
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
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
            return Err(io::Error::other("the file has another length than was made durable"));
        }
        Ok(Box::new(DiskFile { file, fault: Fault::armed() }))
    }

    fn settle(&self, path: &Path, written: u64, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.set_len(length)?;
        let mut buffer = vec![0; 256 * 1024];
        let mut place = written;
        while place < length {
            let part = buffer.len().min(usize::try_from(length - place).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..part], place)?;
            file.write_all_at(&buffer[..part], place)?;
            place += part as u64;
        }
        file.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_folder(path)
    }

    fn write_aside(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        fs::write(path, octets)
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
    fn append(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        if let Some(fault) = &self.fault {
            fault.before_append();
        }
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
