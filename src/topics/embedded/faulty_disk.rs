//! A disk for tests that refuses fsyncs, fills up, and loses what was not fsynced when the power goes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::storage::{Disk, SegmentFile, Storage};

#[derive(Default)]
struct Condition {
    /// Fsynced octets by file
    durable: HashMap<PathBuf, u64>,
    /// Octets that still fit
    room: Option<u64>,
    syncs: u64,
    refuses_sync: bool,
    stalls_sync: bool,
    is_off: bool,
}

#[derive(Clone, Default)]
pub(super) struct FaultyDisk {
    condition: Arc<(Mutex<Condition>, Condvar)>,
}

impl FaultyDisk {
    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.0.lock().unwrap()
    }

    pub(super) fn refuse_sync(&self, refuses: bool) {
        self.condition().refuses_sync = refuses;
    }

    /// While it stalls, an fsync does not return.
    pub(super) fn stall_sync(&self, stalls: bool) {
        self.condition().stalls_sync = stalls;
        self.condition.1.notify_all();
    }

    pub(super) fn set_room(&self, room: Option<u64>) {
        self.condition().room = room;
    }

    /// Fsyncs so far.
    pub(super) fn syncs(&self) -> u64 {
        self.condition().syncs
    }

    /// From now on nothing reaches the disk.
    pub(super) fn cut_power(&self) {
        self.condition().is_off = true;
        self.condition.1.notify_all();
    }

    /// What the files hold when the power is back: all that was fsynced, and anything of the rest.
    pub(super) fn lose_power(&self) {
        for (path, durable) in &self.condition().durable {
            let mut octets = fs::read(path).unwrap();
            let durable = usize::try_from(*durable).unwrap();
            let lost = &mut octets[durable..];
            match fastrand::u8(0..4) {
                0 => lost.fill(0),
                // Some pages were written, others not.
                1 => lost.chunks_mut(64).filter(|_| fastrand::bool()).for_each(|page| page.fill(0)),
                2 => {
                    if let Some(octet) = fastrand::choice(lost) {
                        *octet ^= 0x5a;
                    }
                }
                _ => {}
            }
            let end = if fastrand::bool() { octets.len() } else { fastrand::usize(durable..=octets.len()) };
            fs::write(path, &octets[..end]).unwrap();
        }
    }
}

fn is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl Storage for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        if self.condition().is_off {
            return Err(is_off());
        }
        let file = Disk.create(path)?;
        self.condition().durable.insert(path.to_owned(), 0);
        Ok(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned(), file, length: 0 }))
    }

    fn resume(&self, path: &Path, length: u64) -> io::Result<Box<dyn SegmentFile>> {
        let file = Disk.resume(path, length)?;
        self.condition().durable.insert(path.to_owned(), length);
        Ok(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned(), file, length }))
    }

    fn settle(&self, path: &Path, written: u64, length: u64) -> io::Result<()> {
        if self.condition().is_off {
            return Err(is_off());
        }
        Disk.settle(path, written, length)?;
        self.condition().durable.insert(path.to_owned(), length);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.condition().durable.remove(path);
        Disk.remove(path)
    }

    fn write_aside(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        Disk.write_aside(path, octets)
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: Box<dyn SegmentFile>,
    length: u64,
}

impl SegmentFile for FaultyFile {
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let octets: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let fits = {
            let mut condition = self.disk.condition();
            if condition.is_off {
                return Err(is_off());
            }
            let fits = condition.room.map_or(octets.len(), |room| octets.len().min(usize::try_from(room).unwrap()));
            condition.room = condition.room.map(|room| room - fits as u64);
            fits
        };
        self.file.append(&mut [IoSlice::new(&octets[..fits])])?;
        self.length += fits as u64;
        if fits < octets.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut condition = self.disk.condition();
        while condition.stalls_sync && !condition.is_off {
            condition = self.disk.condition.1.wait(condition).unwrap();
        }
        if condition.is_off {
            return Err(is_off());
        }
        if condition.refuses_sync {
            return Err(io::Error::other("the test refuses fsync"));
        }
        condition.durable.insert(self.path.clone(), self.length);
        condition.syncs += 1;
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        if self.disk.condition().is_off {
            return Err(is_off());
        }
        self.length = length;
        self.file.cut(length)
    }
}
