//! All file access of the journal's writer, so that tests can refuse an fsync, fill a disk or cut the power.
//!
//! # Room ahead
//!
//! An fsync of a file that grew makes the file system commit its own journal, too, which takes several times as long as an fsync of
//! octets that the file had before. So behind a short append, whose fsync somebody waits for, zeros are written ahead, and the appends
//! that follow stand where the zeros were. Long appends, whose fsyncs are few for their octets, make none. A segment that is
//! complete has none left; behind what is durable in the last one there may be zeros.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where segments live.
pub(super) trait Storage: Send + Sync {
    /// Makes an empty file and makes its name durable.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a file whose `length` octets are durable, to go on behind them. What stands there is cut off.
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

/// A segment that is written. It may have zeros behind its octets.
pub(super) trait SegmentFile: Send {
    /// Appends all of `parts`.
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Returns when everything appended survives a power loss.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what stands behind the first `length` octets, for good. Nothing is appended afterwards.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// The file system.
pub(super) struct Disk;

impl Storage for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().create_new(true).write(true).open(path)?;
        sync_folder(path)?;
        Ok(Box::new(DiskFile { file, end: 0, room: 0, fault: Fault::armed() }))
    }

    fn resume(&self, path: &Path, length: u64) -> io::Result<Box<dyn SegmentFile>> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() < length {
            return Err(io::Error::other("the file is shorter than what was made durable"));
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Box::new(DiskFile { file, end: length, room: length, fault: Fault::armed() }))
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
    /// Octets that were appended, where the file is written next
    end: u64,
    /// Octets of the file
    room: u64,
    fault: Option<Fault>,
}

/// Zeros that are written ahead at once.
const AHEAD: usize = 1024 * 1024;
/// Octets of a short append; the fsync of a longer one takes its time for them.
const SHORT: u64 = 64 * 1024;

impl DiskFile {
    /// Writes zeros behind the end. Where the disk has no room for them, the file grows with each append.
    fn make_room(&mut self) -> io::Result<()> {
        // The system gives fresh pages of zeros, which take no memory while they are only read.
        match self.file.write_all_at(&vec![0; AHEAD], self.end) {
            Ok(()) => self.room = self.end + AHEAD as u64,
            Err(_) => self.file.set_len(self.end)?,
        }
        Ok(())
    }
}

impl SegmentFile for DiskFile {
    fn append(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        if let Some(fault) = &self.fault {
            fault.before_append();
        }
        let octets: u64 = parts.iter().map(|part| part.len() as u64).sum();
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.end += octets;
        if self.end > self.room {
            self.room = self.end;
            if octets <= SHORT {
                self.make_room()?;
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
        if self.file.metadata()?.len() == length {
            return Ok(());
        }
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
