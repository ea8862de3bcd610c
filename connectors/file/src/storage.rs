//! The few operations on files that the sink takes.
//!
//! All of them wait for the disk. What changes a file returns when the change is durable, so the order of calls is the
//! order of durability. The second implementation is the tests' storage that fails at any chosen call.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tailwater_api::{Error, ErrorKind};

/// A folder with files and one manifest. Names are of files within the folder.
pub(crate) trait Storage: Send + Sync {
    /// The manifest's text; `None` before the first commit.
    fn manifest(&self) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the manifest in one step.
    fn replace_manifest(&self, text: &[u8]) -> io::Result<()>;
    /// Whether there is a file of this name.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Writes behind the first `length` bytes of a file, which is made for length 0.
    fn append(&self, name: &str, length: u64, bytes: &[u8]) -> io::Result<()>;
    /// Length of a file.
    fn length(&self, name: &str) -> io::Result<u64>;
    /// Cuts a file off.
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A real folder, locked for one connector.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    manifest: String,
    /// Held while this lives: a writer that was given up on but still waits for its disk keeps the next one out (I13).
    _lock: File,
}

impl Folder {
    pub(crate) fn open(path: &Path, connector: &str) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let connector = file_name(connector);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(format!(".tailwater-{connector}.lock")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), manifest: format!(".tailwater-{connector}.json"), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another writer of this connector holds its lock"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes names durable: those of new, renamed and removed files.
    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Storage for Folder {
    fn manifest(&self) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path.join(&self.manifest)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace_manifest(&self, text: &[u8]) -> io::Result<()> {
        let new = self.path.join(format!("{}.new", self.manifest));
        let mut file = File::create(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(new, self.path.join(&self.manifest))?;
        self.sync_names()
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path.join(name).try_exists()
    }

    fn append(&self, name: &str, length: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        let mut file = if length == 0 {
            OpenOptions::new().create_new(true).write(true).open(path)?
        } else {
            OpenOptions::new().write(true).open(path)?
        };
        file.seek(SeekFrom::Start(length))?;
        file.write_all(bytes)?;
        file.sync_data()?;
        if length == 0 { self.sync_names() } else { Ok(()) }
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        std::fs::metadata(self.path.join(name)).map(|metadata| metadata.len())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))?;
        self.sync_names()
    }
}

/// A name that is safe as a part of a file name: everything but letters, digits, `.`, `_` and `-` is written as `%XX`.
pub(crate) fn file_name(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => safe.push(char::from(byte)),
            other => safe.push_str(&format!("%{other:02X}")),
        }
    }
    safe
}

/// What an error of the file system means for the one who decides what happens next.
pub(crate) fn storage_error(doing: String, error: &io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, mend) = match error.kind() {
        // Space comes back when somebody makes some: waiting helps, so this is not an end.
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Throttled, Some("free some space; the connector goes on by itself")),
        Io::FileTooLarge => (ErrorKind::Misconfigured, Some("set rotate.bytes below the file system's limit")),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => (ErrorKind::Unauthorised, Some("let the user that Tailwater runs as write there")),
        Io::NotADirectory | Io::InvalidFilename => (ErrorKind::Misconfigured, Some("name another folder in path")),
        Io::NotFound => (ErrorKind::Missing, None),
        Io::AlreadyExists | Io::ResourceBusy => (ErrorKind::Conflict, None),
        // Every other error of a disk or a network file system may pass.
        _ => (ErrorKind::Unreachable, None),
    };
    let described = Error::new(kind, doing).because(error.to_string());
    match mend {
        Some(mend) => described.mend(mend),
        None => described,
    }
}
