//! The group: the journal's unit of durability and recovery.
//!
//! ```text
//! frame    magic "TWG1" · head checksum u32 · head length u32 · records length u32 · records checksum u32 · format u32
//!          · sequence u64 · place u64 · durable u64
//! head     names of new topics and new schemas · time of append · opening · pending id · what is published · state · runs
//! records  run · length u32 · timestamp · headers · key · value, for each record
//! ```
//!
//! All integers of the frame are little endian, those behind it are varints. The head's checksum (CRC32C) covers the frame
//! behind itself and the head, the records' checksum the records; so heads can be read and trusted without the records.
//! `place` is where the group begins in its file: a copy of a group inside a record is no group. `durable` says that every
//! group of a lower sequence was fsynced before this one was written; recovery needs it to tell a torn tail from damage
//! (see [`super::recovery`]).
//!
//! A *run* is the records of one topic partition in the group: first offset and count. A record refers to its run, so its
//! offset is known by counting, and records that nobody asks for are skipped by their length. Within a run a field that is
//! as it was in the record before takes one octet (see [`super::value`]), and so do headers.

use std::sync::Arc;

use bytes::Bytes;
use tailwater_api::record::{Header, Headers, Record, SchemaAndValue};
use tailwater_api::schema::Schema;
use tailwater_api::sink::SinkRecord;
use tailwater_api::state::{JsonMap, StateChange};

use super::dictionary::{ReaderDictionary, WriterDictionary};
use super::value::{self, TooDeep};
use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned};

/// Length of the frame.
pub(super) const FRAME: usize = 48;
pub(super) const MAGIC: [u8; 4] = *b"TWG1";
/// The format that this module writes and reads.
const FORMAT: u32 = 1;

/// The fixed part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) head: u32,
    pub(super) records: u32,
    pub(super) records_checksum: u32,
    pub(super) sequence: u64,
    pub(super) place: u64,
    /// Groups of a lower sequence were durable before
    pub(super) durable: u64,
}

impl Frame {
    /// The frame at the start of `octets`, if there is one of a group that begins at `place`.
    pub(super) fn read(octets: &[u8], place: u64) -> Option<Self> {
        let octets: &[u8; FRAME] = octets.get(..FRAME)?.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        let frame =
            Self { head: word(8), records: word(12), records_checksum: word(16), sequence: long(24), place: long(32), durable: long(40) };
        (octets[..4] == MAGIC && word(20) == FORMAT && frame.place == place).then_some(frame)
    }

    /// Puts the frame before `head`, whose first [`FRAME`] octets it takes.
    pub(super) fn put(&self, head: &mut [u8]) {
        head[..4].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&self.head.to_le_bytes());
        head[12..16].copy_from_slice(&self.records.to_le_bytes());
        head[16..20].copy_from_slice(&self.records_checksum.to_le_bytes());
        head[20..24].copy_from_slice(&FORMAT.to_le_bytes());
        head[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        head[32..40].copy_from_slice(&self.place.to_le_bytes());
        head[40..48].copy_from_slice(&self.durable.to_le_bytes());
        let checksum = crc32c::crc32c(&head[8..]);
        head[4..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Length of frame and head.
    pub(super) fn front(&self) -> u64 {
        FRAME as u64 + u64::from(self.head)
    }

    /// Length of the whole group.
    pub(super) fn length(&self) -> u64 {
        self.front() + u64::from(self.records)
    }

    /// Whether `front`, frame and head, is as it was written.
    pub(super) fn is_front_intact(front: &[u8]) -> bool {
        let stored: Option<[u8; 4]> = front.get(4..8).and_then(|octets| octets.try_into().ok());
        stored.is_some_and(|stored| crc32c::crc32c(&front[8..]) == u32::from_le_bytes(stored))
    }

    /// Whether `records` are as they were written.
    pub(super) fn are_records_intact(&self, records: &[u8]) -> bool {
        records.len() as u64 == u64::from(self.records) && crc32c::crc32c(records) == self.records_checksum
    }
}

/// Records of one topic partition in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Name of the topic
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// Offset of the first record. Of pending records: how many of this partition are pending under the same id before them
    pub(super) base: u64,
    pub(super) count: u64,
}

/// Where a group stands: its segment, named by the sequence of the segment's first group, and its first octet there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) octet: u64,
}

/// Pending records that a group publishes: all groups of that id between two places, these included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) id: Arc<str>,
    pub(super) first: Place,
    pub(super) last: Place,
    /// For each partition the offset of the first record and the number of records
    pub(super) runs: Vec<Run>,
}

/// A topic partition as it stood when a writer opened a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpeningPartition {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// Offset of the next record
    pub(super) next: u64,
    /// For each incarnation that added records, ascending: its number and the first offset that it gave
    pub(super) marks: Vec<(u64, u64)>,
}

/// Everything that is needed to go on without the groups before. It stands in the first group of a segment and of a writer,
/// whose `state` then is the whole state and not a change; names of topics and schemas begin anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Opening {
    /// Number of the first incarnation in `incarnations`
    pub(super) first_incarnation: u64,
    /// Tokens of the incarnations; the last one writes this
    pub(super) incarnations: Vec<u64>,
    pub(super) partitions: Vec<OpeningPartition>,
}

/// What a group holds beside its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    /// Milliseconds since 1970 UTC
    pub(super) appended: i64,
    pub(super) opening: Option<Opening>,
    pub(super) pending: Option<Arc<str>>,
    pub(super) publications: Vec<Publication>,
    pub(super) state: Vec<StateChange>,
    pub(super) runs: Vec<Run>,
}

const OPENING: u8 = 1;
const PENDING: u8 = 2;

impl Head {
    /// Whether the group holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.opening.is_none() && self.publications.is_empty() && self.state.is_empty() && self.runs.is_empty()
    }

    /// Writes the head behind room for the frame.
    pub(super) fn write(&self, dictionary: &mut WriterDictionary, out: &mut Vec<u8>) {
        out.clear();
        out.resize(FRAME, 0);
        out.push((if self.opening.is_some() { OPENING } else { 0 }) | (if self.pending.is_some() { PENDING } else { 0 }));
        for run in self.publications.iter().flat_map(|publication| &publication.runs).chain(&self.runs) {
            dictionary.topic(&run.topic);
        }
        dictionary.put_fresh(out);
        put_signed(out, self.appended);
        if let Some(opening) = &self.opening {
            opening.write(out);
        }
        if let Some(id) = &self.pending {
            put_bytes(out, id.as_bytes());
        }
        put_unsigned(out, self.publications.len() as u64);
        for publication in &self.publications {
            put_bytes(out, publication.id.as_bytes());
            for place in [publication.first, publication.last] {
                put_unsigned(out, place.segment);
                put_unsigned(out, place.octet);
            }
            put_runs(out, dictionary, &publication.runs);
        }
        put_unsigned(out, self.state.len() as u64);
        for change in &self.state {
            put_json(out, &change.partition);
            out.push(u8::from(change.offset.is_some()));
            if let Some(offset) = &change.offset {
                put_json(out, offset);
            }
        }
        put_runs(out, dictionary, &self.runs);
    }

    /// Reads what [`Head::write`] wrote behind the frame.
    pub(super) fn read(cursor: &mut Cursor<'_>, dictionary: &mut ReaderDictionary) -> Result<Self, Malformed> {
        let flags = cursor.octet()?;
        if flags & OPENING != 0 {
            dictionary.clear();
        }
        dictionary.read_fresh(cursor)?;
        let mut head = Self { appended: cursor.signed()?, ..Self::default() };
        if flags & OPENING != 0 {
            head.opening = Some(Opening::read(cursor)?);
        }
        if flags & PENDING != 0 {
            head.pending = Some(Arc::from(&*cursor.text()?));
        }
        for _ in 0..cursor.count()? {
            let id = Arc::from(&*cursor.text()?);
            let first = Place { segment: cursor.unsigned()?, octet: cursor.unsigned()? };
            let last = Place { segment: cursor.unsigned()?, octet: cursor.unsigned()? };
            head.publications.push(Publication { id, first, last, runs: runs(cursor, dictionary)? });
        }
        for _ in 0..cursor.count()? {
            let partition = json(&cursor.text()?)?;
            let offset = if cursor.octet()? == 0 { None } else { Some(json(&cursor.text()?)?) };
            head.state.push(StateChange { partition, offset });
        }
        head.runs = runs(cursor, dictionary)?;
        if !cursor.is_at_end() {
            return Err(Malformed("a head is longer than it says"));
        }
        Ok(head)
    }
}

impl Opening {
    fn write(&self, out: &mut Vec<u8>) {
        put_unsigned(out, self.first_incarnation);
        put_unsigned(out, self.incarnations.len() as u64);
        for token in &self.incarnations {
            out.extend_from_slice(&token.to_le_bytes());
        }
        put_unsigned(out, self.partitions.len() as u64);
        for partition in &self.partitions {
            put_bytes(out, partition.topic.as_bytes());
            put_unsigned(out, u64::from(partition.partition));
            put_unsigned(out, partition.next);
            put_unsigned(out, partition.marks.len() as u64);
            for (incarnation, base) in &partition.marks {
                put_unsigned(out, *incarnation);
                put_unsigned(out, *base);
            }
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let mut opening = Self { first_incarnation: cursor.unsigned()?, ..Self::default() };
        for _ in 0..cursor.count()? {
            opening.incarnations.push(u64::from_le_bytes(cursor.fixed()?));
        }
        for _ in 0..cursor.count()? {
            let topic = Arc::from(&*cursor.text()?);
            let (partition, next) = (partition(cursor)?, cursor.unsigned()?);
            let mut marks = Vec::new();
            for _ in 0..cursor.count()? {
                marks.push((cursor.unsigned()?, cursor.unsigned()?));
            }
            opening.partitions.push(OpeningPartition { topic, partition, next, marks });
        }
        Ok(opening)
    }
}

fn put_runs(out: &mut Vec<u8>, dictionary: &mut WriterDictionary, runs: &[Run]) {
    put_unsigned(out, runs.len() as u64);
    for run in runs {
        put_unsigned(out, dictionary.topic(&run.topic) as u64);
        put_unsigned(out, u64::from(run.partition));
        put_unsigned(out, run.base);
        put_unsigned(out, run.count);
    }
}

fn runs(cursor: &mut Cursor<'_>, dictionary: &ReaderDictionary) -> Result<Vec<Run>, Malformed> {
    let mut runs = Vec::new();
    for _ in 0..cursor.count()? {
        let topic = Arc::clone(dictionary.topic(cursor.index()?)?);
        let run = Run { topic, partition: partition(cursor)?, base: cursor.unsigned()?, count: cursor.unsigned()? };
        if run.base.checked_add(run.count).is_none() {
            return Err(Malformed("an offset is out of range"));
        }
        runs.push(run);
    }
    Ok(runs)
}

fn partition(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    u32::try_from(cursor.unsigned()?).map_err(|_| Malformed("a partition is out of range"))
}

fn put_json(out: &mut Vec<u8>, map: &JsonMap) {
    put_bytes(out, serde_json::to_string(map).expect("a JSON object has text").as_bytes());
}

fn json(text: &str) -> Result<JsonMap, Malformed> {
    serde_json::from_str(text).map_err(|_| Malformed("a state is no JSON object"))
}

const HAS_TIMESTAMP: u8 = 1;
const HAS_HEADERS: u8 = 2;
/// The headers are those of the record before in the run.
const SAME_HEADERS: u8 = 4;

/// A run while its records are written.
struct WrittenRun<'a> {
    topic: &'a Arc<str>,
    partition: u32,
    count: u64,
    /// The value before, where it has a schema
    value: Option<(&'a Arc<Schema>, &'a SchemaAndValue)>,
    headers: &'a Headers,
}

/// Writes the records of a group, and says its runs; their offsets are the caller's business.
pub(super) fn write_records(dictionary: &mut WriterDictionary, records: &[Record], out: &mut Vec<u8>) -> Result<Vec<Run>, TooDeep> {
    let none = Headers::default();
    let mut runs: Vec<WrittenRun<'_>> = Vec::new();
    let mut latest = 0;
    // Numbers of the last schemas of key and value: records of a table follow each other.
    let mut known: [Option<(&Arc<Schema>, usize)>; 2] = [None; 2];
    for record in records {
        let partition = record.partition.unwrap_or(0);
        let is_of =
            |run: &WrittenRun<'_>| run.partition == partition && (Arc::ptr_eq(run.topic, &record.topic) || **run.topic == *record.topic);
        if !runs.get(latest).is_some_and(is_of) {
            latest = runs.iter().position(is_of).unwrap_or_else(|| {
                runs.push(WrittenRun { topic: &record.topic, partition, count: 0, value: None, headers: &none });
                runs.len() - 1
            });
        }
        let run = &mut runs[latest];
        run.count += 1;
        put_unsigned(out, latest as u64);
        let start = out.len();
        out.extend_from_slice(&[0; 4]);

        let has_headers = !record.headers.as_slice().is_empty();
        let same_headers = has_headers && run.headers.shares_with(&record.headers);
        out.push(
            (if record.timestamp.is_some() { HAS_TIMESTAMP } else { 0 })
                | (if has_headers { HAS_HEADERS } else { 0 })
                | (if same_headers { SAME_HEADERS } else { 0 }),
        );
        if let Some(timestamp) = record.timestamp {
            put_signed(out, timestamp);
        }
        if has_headers && !same_headers {
            put_unsigned(out, record.headers.as_slice().len() as u64);
            for header in record.headers.iter() {
                put_bytes(out, header.name.as_bytes());
                put_datum(out, dictionary, &header.value, None, &mut None)?;
            }
            run.headers = &record.headers;
        }
        put_datum(out, dictionary, &record.key, None, &mut known[0])?;
        let before = match (&run.value, &record.value.schema) {
            (Some((before, value)), Some(schema)) if before.id() == schema.id() => Some(*value),
            (_, _) => None,
        };
        put_datum(out, dictionary, &record.value, before, &mut known[1])?;
        if let Some(schema) = &record.value.schema {
            run.value = Some((schema, &record.value));
        }
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    Ok(runs.iter().map(|run| Run { topic: Arc::clone(run.topic), partition: run.partition, base: 0, count: run.count }).collect())
}

fn put_datum<'a>(
    out: &mut Vec<u8>,
    dictionary: &mut WriterDictionary,
    datum: &'a SchemaAndValue,
    before: Option<&SchemaAndValue>,
    known: &mut Option<(&'a Arc<Schema>, usize)>,
) -> Result<(), TooDeep> {
    match &datum.schema {
        None => put_unsigned(out, 0),
        Some(schema) => {
            let number = match known {
                Some((known, number)) if known.id() == schema.id() => *number,
                _ => dictionary.schema(schema)?,
            };
            *known = Some((schema, number));
            put_unsigned(out, number as u64 + 1);
        }
    }
    value::write(out, datum.schema.as_deref(), &datum.value, before.map(|before| &before.value))
}

/// The value before, in a run that is read.
enum Before {
    None,
    /// Of the record with this index among those that are being read
    Delivered(usize),
    Kept(SchemaAndValue),
}

/// A run while its records are read.
struct ReadRun {
    topic: Arc<str>,
    partition: u32,
    /// Offset of the next record
    next: u64,
    /// Offset from which on records are wanted
    from: Option<u64>,
    before: Before,
    headers: Headers,
}

/// How much may still be read.
pub(super) struct Room {
    /// Bytes of memory, see [`Record::weight`]; the last record may go beyond
    pub(super) bytes: usize,
    pub(super) records: usize,
}

impl Room {
    pub(super) fn is_used_up(&self) -> bool {
        self.bytes == 0 || self.records == 0
    }
}

/// Reads the records of a group, a part at a time.
pub(super) struct RecordReader {
    octets: Bytes,
    place: usize,
    appended: i64,
    runs: Vec<ReadRun>,
}

impl RecordReader {
    /// Reads `octets`, the records of `head`'s group. `wanted` says for each run its true first offset, and from which offset
    /// on its records are wanted, if they are.
    pub(super) fn new(head: &Head, octets: Bytes, wanted: impl Iterator<Item = (u64, Option<u64>)>) -> Self {
        let runs = head.runs.iter().zip(wanted).map(|(run, (next, from))| ReadRun {
            topic: Arc::clone(&run.topic),
            partition: run.partition,
            next,
            from,
            before: Before::None,
            headers: Headers::default(),
        });
        Self { octets, place: 0, appended: head.appended, runs: runs.collect() }
    }

    /// Each wanted run with the offset behind what was read of it.
    pub(super) fn progress(&self) -> impl Iterator<Item = ((Arc<str>, u32), u64)> {
        self.runs.iter().filter(|run| run.from.is_some()).map(|run| ((Arc::clone(&run.topic), run.partition), run.next))
    }

    /// Adds wanted records while there is room; `true` at the end of the group.
    pub(super) fn read(
        &mut self,
        dictionary: &ReaderDictionary,
        records: &mut Vec<SinkRecord>,
        room: &mut Room,
    ) -> Result<bool, Malformed> {
        while self.place < self.octets.len() {
            if room.is_used_up() {
                // The caller takes the records away.
                for run in &mut self.runs {
                    if let Before::Delivered(index) = run.before {
                        run.before = Before::Kept(records[index].record.value.clone());
                    }
                }
                return Ok(false);
            }
            self.read_one(dictionary, records, room)?;
        }
        Ok(true)
    }

    fn read_one(&mut self, dictionary: &ReaderDictionary, records: &mut Vec<SinkRecord>, room: &mut Room) -> Result<(), Malformed> {
        let mut cursor = Cursor::at(&self.octets, self.place);
        let number = cursor.index()?;
        let run = self.runs.get_mut(number).ok_or(Malformed("a record is of no run"))?;
        let length = u32::from_le_bytes(cursor.fixed()?) as usize;
        let end = cursor.place().checked_add(length).ok_or(Malformed("a record is longer than its group"))?;
        let offset = run.next;
        run.next = offset.checked_add(1).ok_or(Malformed("an offset is out of range"))?;
        self.place = end;
        let Some(from) = run.from else {
            return if end > self.octets.len() { Err(Malformed("a record is longer than its group")) } else { Ok(()) };
        };
        let flags = cursor.octet()?;
        let timestamp = if flags & HAS_TIMESTAMP == 0 { self.appended } else { cursor.signed()? };
        let headers = if flags & HAS_HEADERS == 0 {
            Headers::default()
        } else {
            if flags & SAME_HEADERS == 0 {
                run.headers = read_headers(&mut cursor, dictionary)?;
            }
            run.headers.clone()
        };
        let key = read_datum(&mut cursor, dictionary, None)?;
        let before = match &run.before {
            Before::None => None,
            Before::Delivered(index) => Some(&records[*index].record.value),
            Before::Kept(value) => Some(value),
        };
        let value = read_datum(&mut cursor, dictionary, before)?;
        if cursor.place() != end {
            return Err(Malformed("a record is shorter or longer than it says"));
        }
        if offset < from {
            if value.schema.is_some() {
                run.before = Before::Kept(value);
            }
            return Ok(());
        }
        if value.schema.is_some() {
            run.before = Before::Delivered(records.len());
        }
        let (topic, partition) = (Arc::clone(&run.topic), run.partition);
        let record = Record { topic: Arc::clone(&topic), partition: Some(partition), timestamp: Some(timestamp), key, value, headers };
        room.bytes = room.bytes.saturating_sub(record.weight());
        room.records -= 1;
        records.push(SinkRecord { topic, partition, offset, record });
        Ok(())
    }
}

fn read_datum(
    cursor: &mut Cursor<'_>,
    dictionary: &ReaderDictionary,
    before: Option<&SchemaAndValue>,
) -> Result<SchemaAndValue, Malformed> {
    let schema = match cursor.index()? {
        0 => None,
        number => Some(Arc::clone(dictionary.schema(number - 1)?)),
    };
    let before = before.filter(|before| matches!((&before.schema, &schema), (Some(one), Some(two)) if one.id() == two.id()));
    let value = value::read(cursor, schema.as_deref(), before.map(|before| &before.value))?;
    Ok(SchemaAndValue { schema, value })
}

fn read_headers(cursor: &mut Cursor<'_>, dictionary: &ReaderDictionary) -> Result<Headers, Malformed> {
    let mut headers = Vec::new();
    for _ in 0..cursor.count()? {
        let name: Arc<str> = Arc::from(&*cursor.text()?);
        headers.push(Header { name, value: read_datum(cursor, dictionary, None)? });
    }
    Ok(Headers::new(headers))
}
