//! Segments: files of groups, and what recovery makes of them.
//!
//! A segment is named by the sequence of its first group. It begins with a group that holds the whole state of the source
//! and the next offset of every topic partition, so that it can be read when the ones before it are gone.
//!
//! # A torn tail, or damage?
//!
//! Groups are written one after another and fsynced together, so after a power loss any part of what was not yet fsynced
//! may be missing, also an earlier group while a later one is there. What was fsynced must be whole. Every group says up to
//! which sequence its writer had fsynced before: a broken group that a later intact group calls durable is damage, and so is
//! a broken group in any segment but the last, because a segment is fsynced before the next one is made. A broken group that
//! no intact group vouches for is a torn tail: it is cut off, with everything behind it. If the very last durable group is
//! damaged the journal alone cannot tell; then the positions that others hold, of the sinks and of the source's server, lie
//! beyond the end, and they say `history-gone`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::dictionary::ReaderDictionary;
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

/// Reads a segment group by group.
pub(super) struct SegmentReader {
    path: PathBuf,
    file: File,
    pub(super) place: u64,
    pub(super) dictionary: ReaderDictionary,
    window: Bytes,
    window_start: u64,
    /// Where reading ends; what stands behind it may still change.
    limit: u64,
}

/// How much is read at once, where a group is not longer.
const WINDOW: usize = 256 * 1024;

impl SegmentReader {
    pub(super) fn open(folder: &Path, sequence: u64) -> io::Result<Self> {
        let path = path(folder, sequence);
        let file = File::open(&path)?;
        Ok(Self { path, file, place: 0, dictionary: ReaderDictionary::default(), window: Bytes::new(), window_start: 0, limit: 0 })
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn damaged(&self, place: u64, why: Malformed) -> SegmentError {
        SegmentError::Damaged { path: self.path.clone(), place, why }
    }

    /// `length` octets from `place`, fewer at the end of the file.
    fn octets(&mut self, place: u64, length: usize) -> io::Result<Bytes> {
        let inside = place.checked_sub(self.window_start).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = inside
            && let Some(end) = skip.checked_add(length)
            && end <= self.window.len()
        {
            return Ok(self.window.slice(skip..end));
        }
        let left = usize::try_from(self.limit.saturating_sub(place)).unwrap_or(usize::MAX);
        let wanted = length.max(WINDOW).min(left);
        let mut buffer = BytesMut::zeroed(wanted);
        let mut filled = 0;
        while filled < wanted {
            match self.file.read_at(&mut buffer[filled..], place + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        self.window = buffer.freeze();
        self.window_start = place;
        Ok(self.window.slice(..length.min(filled)))
    }

    /// Frame and head of the group at the current place, which lies before `end`. Goes on behind it. The checksum is not
    /// looked at; [`SegmentReader::records`] does.
    pub(super) fn next_head(&mut self, end: u64) -> Result<Option<FoundGroup>, SegmentError> {
        let place = self.place;
        if place >= end {
            return Ok(None);
        }
        self.limit = end;
        let frame = self.octets(place, FRAME)?;
        let frame = Frame::read(&frame).ok_or_else(|| self.damaged(place, Malformed("it has no frame")))?;
        if frame.length() > end - place {
            return Err(self.damaged(place, Malformed("it is longer than the segment")));
        }
        let head = self.octets(place + FRAME as u64, frame.head as usize)?;
        // A copy, because names and schemas outlive the window.
        let head = Bytes::copy_from_slice(&head);
        let mut cursor = Cursor::new(&head);
        let head = Head::read(&mut cursor, &mut self.dictionary).map_err(|why| self.damaged(place, why))?;
        self.place = place + frame.length();
        Ok(Some(FoundGroup { place, frame, head }))
    }

    /// The octets of a group's records, after its checksum was found right.
    pub(super) fn records(&mut self, group: &FoundGroup) -> Result<Bytes, SegmentError> {
        let length = usize::try_from(group.frame.length()).map_err(|_| self.damaged(group.place, Malformed("it is too long")))?;
        let whole = self.octets(group.place, length)?;
        if !group.frame.is_intact(&whole) {
            return Err(self.damaged(group.place, Malformed("its checksum is wrong")));
        }
        Ok(whole.slice(FRAME + group.frame.head as usize..))
    }

    /// Whether the group at `place` is whole, and its frame.
    fn intact_at(&mut self, place: u64) -> io::Result<Option<Frame>> {
        let Some(frame) = Frame::read(&self.octets(place, FRAME)?) else { return Ok(None) };
        if frame.length() > self.limit.saturating_sub(place) {
            return Ok(None);
        }
        let Ok(length) = usize::try_from(frame.length()) else { return Ok(None) };
        let whole = self.octets(place, length)?;
        Ok(frame.is_intact(&whole).then_some(frame))
    }

    /// The end of the intact groups, which are `sequence`, `sequence + 1` …
    ///
    /// # Errors
    /// A group that was durable is broken.
    pub(super) fn intact_end(&mut self, mut sequence: u64) -> Result<u64, SegmentError> {
        let length = self.length()?;
        self.limit = length;
        let mut place = 0;
        while let Some(frame) = self.intact_at(place)? {
            if frame.sequence != sequence {
                return Err(self.damaged(place, Malformed("its sequence does not follow")));
            }
            place += frame.length();
            sequence += 1;
        }
        // Does anything behind the break vouch for what is broken?
        let mut behind = place + 1;
        while behind + FRAME as u64 <= length {
            let window = self.octets(behind, WINDOW)?;
            match memchr::memmem::find(&window, b"TWG1") {
                Some(skip) => {
                    behind += skip as u64;
                    if let Some(later) = self.intact_at(behind)?
                        && later.sequence > sequence
                        && later.durable >= sequence
                    {
                        return Err(self.damaged(place, Malformed("it is broken, and a later group says that it was durable")));
                    }
                    behind += 1;
                }
                // A magic may stand across two windows.
                None => behind += (window.len().max(4) - 3) as u64,
            }
        }
        Ok(place)
    }
}
