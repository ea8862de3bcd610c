//! Segments: files of groups, read group by group.
//!
//! A segment is named by the sequence of its first group. It begins with a group that has an [`Opening`](super::group::Opening):
//! the whole state of the source and the next offset of every partition, so that it can be read when the ones before it are
//! gone. A writer that goes on in a segment begins with such a group too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::dictionary::{ReaderDictionary, SchemaPool};
use super::group::{FRAME, Frame, Head};
use super::wire::{Cursor, Malformed};

/// Suffix of segment files.
const SUFFIX: &str = "segment";

/// Path of the segment whose first group has `sequence`.
pub(super) fn path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:020}.{SUFFIX}"))
}

/// First sequences of the segments in `folder`, ascending.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX)
            && let Some(sequence) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        {
            found.push(sequence);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// How many octets of a segment stand behind `place`, without the zeros at its end.
pub(super) fn octets_behind(folder: &Path, sequence: u64, place: u64) -> io::Result<u64> {
    let file = File::open(path(folder, sequence))?;
    let mut buffer = vec![0; WINDOW];
    let (mut at, mut written) = (place, place);
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(written - place),
            Ok(count) => {
                if let Some(last) = buffer[..count].iter().rposition(|octet| *octet != 0) {
                    written = at + last as u64 + 1;
                }
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What went wrong while a segment was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SegmentError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the group at octet {place} of {} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, place: u64, why: Malformed },
}

/// A group's frame and head, and where it stands.
pub(super) struct FoundGroup {
    pub(super) place: u64,
    pub(super) frame: Frame,
    pub(super) head: Head,
}

impl FoundGroup {
    pub(super) fn end(&self) -> u64 {
        self.place + self.frame.length()
    }
}

/// How much is read at once while groups are short.
const WINDOW: usize = 256 * 1024;
/// How much is read for a head behind a long group, whose neighbours are likely to be long.
const HEAD: usize = 4 * 1024;

/// Reads a segment group by group.
pub(super) struct SegmentReader {
    path: PathBuf,
    file: File,
    /// Where the next group begins
    pub(super) place: u64,
    pub(super) dictionary: ReaderDictionary,
    window: Bytes,
    window_start: u64,
    /// Where reading ends; what stands behind it may still change
    limit: u64,
    /// Length of the last group
    last: u64,
}

impl SegmentReader {
    pub(super) fn open(folder: &Path, sequence: u64, pool: &Arc<SchemaPool>) -> io::Result<Self> {
        let path = path(folder, sequence);
        let file = File::open(&path)?;
        let dictionary = ReaderDictionary::new(Arc::clone(pool));
        Ok(Self { path, file, place: 0, dictionary, window: Bytes::new(), window_start: 0, limit: 0, last: 0 })
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn damaged(&self, place: u64, why: Malformed) -> SegmentError {
        SegmentError::Damaged { path: self.path.clone(), place, why }
    }

    /// `length` octets from `place`, fewer at the limit. Reads at least `ahead`.
    fn octets(&mut self, place: u64, length: usize, ahead: usize) -> io::Result<Bytes> {
        let inside = place.checked_sub(self.window_start).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = inside
            && let Some(end) = skip.checked_add(length)
            && end <= self.window.len()
        {
            return Ok(self.window.slice(skip..end));
        }
        let left = usize::try_from(self.limit.saturating_sub(place)).unwrap_or(usize::MAX);
        let wanted = length.max(ahead).min(left);
        // The old window goes first, unless records share it.
        self.window = Bytes::new();
        let mut buffer = BytesMut::zeroed(wanted);
        let mut filled = 0;
        while filled < wanted {
            match self.file.read_at(&mut buffer[filled..], place + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        self.window = buffer.freeze();
        self.window_start = place;
        Ok(self.window.slice(..length.min(filled)))
    }

    /// Frame and front of the group at `place`, if they are whole.
    fn front(&mut self, place: u64) -> io::Result<Result<(Frame, Bytes), Malformed>> {
        let ahead = if self.last > WINDOW as u64 / 2 { HEAD } else { WINDOW };
        let Some(frame) = Frame::read(&self.octets(place, FRAME, ahead)?, place) else {
            return Ok(Err(Malformed("it has no frame")));
        };
        if frame.length() > self.limit.saturating_sub(place) {
            return Ok(Err(Malformed("it is longer than the segment")));
        }
        let front = self.octets(place, FRAME + frame.head as usize, ahead)?;
        Ok(if Frame::is_front_intact(&front) { Ok((frame, front)) } else { Err(Malformed("the checksum of its head is wrong")) })
    }

    /// The group at the current place, if one begins before `end`. Goes on behind it.
    pub(super) fn next_head(&mut self, end: u64) -> Result<Option<FoundGroup>, SegmentError> {
        let place = self.place;
        if place >= end {
            return Ok(None);
        }
        self.limit = end;
        let (frame, front) = self.front(place)?.map_err(|why| self.damaged(place, why))?;
        // A copy, because what schemas hold outlives the window.
        let head = Bytes::copy_from_slice(&front[FRAME..]);
        let head = Head::read(&mut Cursor::new(&head), &mut self.dictionary).map_err(|why| self.damaged(place, why))?;
        self.place = place + frame.length();
        self.last = frame.length();
        Ok(Some(FoundGroup { place, frame, head }))
    }

    /// The octets of a group's records, found as they were written.
    pub(super) fn records(&mut self, group: &FoundGroup) -> Result<Bytes, SegmentError> {
        let ahead = if group.frame.length() > WINDOW as u64 / 2 { 0 } else { WINDOW };
        let records = self.octets(group.place + group.frame.front(), group.frame.records as usize, ahead)?;
        if !group.frame.are_records_intact(&records) {
            return Err(self.damaged(group.place, Malformed("the checksum of its records is wrong")));
        }
        Ok(records)
    }

    /// Whether an intact head behind `place` says that the group `sequence` was durable.
    pub(super) fn is_vouched_for(&mut self, place: u64, sequence: u64) -> io::Result<bool> {
        self.limit = self.length()?;
        self.last = 0;
        let mut behind = place + 1;
        while behind + FRAME as u64 <= self.limit {
            let window = self.octets(behind, WINDOW.min(usize::try_from(self.limit - behind).unwrap_or(WINDOW)), WINDOW)?;
            if window.is_empty() {
                break;
            }
            match memchr::memmem::find(&window, &super::group::MAGIC) {
                Some(skip) => {
                    behind += skip as u64;
                    if let Ok((later, _)) = self.front(behind)?
                        && later.durable > sequence
                    {
                        return Ok(true);
                    }
                    behind += 1;
                }
                // A magic may stand across two windows.
                None => behind += (window.len().max(4) - 3) as u64,
            }
        }
        Ok(false)
    }
}
