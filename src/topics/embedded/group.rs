//! The group: the journal's unit of durability and recovery.
//!
//! ```text
//! magic "TWG1" · head length u32 · records length u32 · CRC32C u32 · sequence u64 · durable u64 · head · records
//! ```
//!
//! All integers of the frame are little endian; the checksum covers everything behind it. `durable` is the sequence up to
//! which the writer had fsynced when it wrote the group: recovery needs it to tell a torn tail from damage (see
//! [`super::segment`]). The head can be read without the records: time of append, new topics and schemas, pending id, what
//! is published, changes of the state, and for each topic partition the first offset and the number of records.

use std::sync::Arc;

use bytes::Bytes;
use tailwater_api::record::{Header, Headers, Record, SchemaAndValue};
use tailwater_api::schema::Schema;
use tailwater_api::state::StateChange;
use tailwater_api::value::Value;

use super::dictionary::{ReaderDictionary, WriterDictionary};
use super::value;
use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned};

/// Length of the frame before the head.
pub(super) const FRAME: usize = 32;
const MAGIC: [u8; 4] = *b"TWG1";

/// The fixed part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) head: u32,
    pub(super) records: u32,
    pub(super) checksum: u32,
    pub(super) sequence: u64,
    pub(super) durable: u64,
}

impl Frame {
    /// The frame at the start of `bytes`, if there is one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; FRAME] = bytes.get(..FRAME)?.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        (bytes[..4] == MAGIC).then(|| Self { head: word(4), records: word(8), checksum: word(12), sequence: long(16), durable: long(24) })
    }

    /// Length of the whole group.
    pub(super) fn length(&self) -> u64 {
        FRAME as u64 + u64::from(self.head) + u64::from(self.records)
    }

    /// Whether `group`, the whole group, is as it was written.
    pub(super) fn is_intact(&self, group: &[u8]) -> bool {
        group.len() as u64 == self.length() && crc32c::crc32c(&group[16..]) == self.checksum
    }
}

/// Records of one topic partition in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the topic in the segment
    pub(super) topic: usize,
    pub(super) partition: u32,
    /// Offset of the first record; not yet known while the records are pending
    pub(super) base: u64,
    pub(super) count: u64,
}

/// Where pending records stand that a group publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublishedGroup {
    /// Segment, by its first sequence
    pub(super) segment: u64,
    /// Place of the group in the segment
    pub(super) place: u64,
    /// For each topic partition: name, partition, first offset, count
    pub(super) runs: Vec<(Arc<str>, u32, u64, u64)>,
}

/// What a group holds beside its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    /// Milliseconds since 1970 UTC
    pub(super) appended: i64,
    pub(super) pending: Option<Arc<str>>,
    pub(super) discard_pending: bool,
    pub(super) publishes: Vec<Arc<str>>,
    pub(super) published: Vec<PublishedGroup>,
    pub(super) state: Vec<StateChange>,
    /// Next offsets of all topics; only at the start of a segment
    pub(super) next: Vec<(Arc<str>, u32, u64)>,
    pub(super) runs: Vec<Run>,
}

impl Head {
    pub(super) fn write(&self, dictionary: &mut WriterDictionary, out: &mut Vec<u8>) {
        dictionary.put_fresh(out);
        put_signed(out, self.appended);
        out.push(u8::from(self.pending.is_some()) | (u8::from(self.discard_pending) << 1));
        if let Some(id) = &self.pending {
            put_bytes(out, id.as_bytes());
        }
        put_unsigned(out, self.publishes.len() as u64);
        for id in &self.publishes {
            put_bytes(out, id.as_bytes());
        }
        put_unsigned(out, self.published.len() as u64);
        for group in &self.published {
            put_unsigned(out, group.segment);
            put_unsigned(out, group.place);
            put_unsigned(out, group.runs.len() as u64);
            for (topic, partition, base, count) in &group.runs {
                put_bytes(out, topic.as_bytes());
                put_unsigned(out, u64::from(*partition));
                put_unsigned(out, *base);
                put_unsigned(out, *count);
            }
        }
        put_unsigned(out, self.state.len() as u64);
        for change in &self.state {
            put_bytes(out, json(&change.partition).as_bytes());
            out.push(u8::from(change.offset.is_some()));
            if let Some(offset) = &change.offset {
                put_bytes(out, json(offset).as_bytes());
            }
        }
        put_unsigned(out, self.next.len() as u64);
        for (topic, partition, offset) in &self.next {
            put_bytes(out, topic.as_bytes());
            put_unsigned(out, u64::from(*partition));
            put_unsigned(out, *offset);
        }
        put_unsigned(out, self.runs.len() as u64);
        for run in &self.runs {
            put_unsigned(out, run.topic as u64);
            put_unsigned(out, u64::from(run.partition));
            put_unsigned(out, run.base);
            put_unsigned(out, run.count);
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>, dictionary: &mut ReaderDictionary) -> Result<Self, Malformed> {
        dictionary.read_fresh(cursor)?;
        let mut head = Self { appended: cursor.signed()?, ..Self::default() };
        let flags = cursor.octet()?;
        if flags & 1 != 0 {
            head.pending = Some(Arc::from(&*cursor.text()?));
        }
        head.discard_pending = flags & 2 != 0;
        for _ in 0..cursor.count()? {
            head.publishes.push(Arc::from(&*cursor.text()?));
        }
        for _ in 0..cursor.count()? {
            let (segment, place) = (cursor.unsigned()?, cursor.unsigned()?);
            let mut runs = Vec::new();
            for _ in 0..cursor.count()? {
                let topic: Arc<str> = Arc::from(&*cursor.text()?);
                runs.push((topic, partition(cursor)?, cursor.unsigned()?, cursor.unsigned()?));
            }
            head.published.push(PublishedGroup { segment, place, runs });
        }
        for _ in 0..cursor.count()? {
            let partition = map(&cursor.text()?)?;
            let offset = if cursor.octet()? == 0 { None } else { Some(map(&cursor.text()?)?) };
            head.state.push(StateChange { partition, offset });
        }
        for _ in 0..cursor.count()? {
            let topic: Arc<str> = Arc::from(&*cursor.text()?);
            head.next.push((topic, partition(cursor)?, cursor.unsigned()?));
        }
        for _ in 0..cursor.count()? {
            let topic = cursor.index()?;
            dictionary.topic(topic)?;
            head.runs.push(Run { topic, partition: partition(cursor)?, base: cursor.unsigned()?, count: cursor.unsigned()? });
        }
        Ok(head)
    }
}

fn partition(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    u32::try_from(cursor.unsigned()?).map_err(|_| Malformed("a partition is out of range"))
}

fn json(map: &tailwater_api::state::JsonMap) -> String {
    serde_json::to_string(map).expect("a JSON object has text")
}

fn map(text: &str) -> Result<tailwater_api::state::JsonMap, Malformed> {
    serde_json::from_str(text).map_err(|_| Malformed("a state is no JSON object"))
}

/// Puts frame, head and records together at the end of `out`.
pub(super) fn write_frame(out: &mut Vec<u8>, sequence: u64, durable: u64, head: &[u8], records: &[u8]) -> Result<(), Malformed> {
    let too_long = |_| Malformed("a group is longer than 4 GiB");
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&u32::try_from(head.len()).map_err(too_long)?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(records.len()).map_err(too_long)?.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(records);
    let checksum = crc32c::crc32c(&out[start + 16..]);
    out[start + 12..start + 16].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

const HAS_TIMESTAMP: u8 = 1;

/// Writes the records of one group and counts them by topic partition.
pub(super) struct RecordWriter<'a> {
    dictionary: &'a mut WriterDictionary,
    out: &'a mut Vec<u8>,
    headers: Vec<&'a Headers>,
    /// For each run, the schema and value of its last record
    last: Vec<Option<&'a SchemaAndValue>>,
    pub(super) runs: Vec<Run>,
    scratch: Vec<u8>,
    latest: Option<(Arc<str>, u32, usize)>,
}

impl<'a> RecordWriter<'a> {
    pub(super) fn new(dictionary: &'a mut WriterDictionary, out: &'a mut Vec<u8>) -> Self {
        Self { dictionary, out, headers: Vec::new(), last: Vec::new(), runs: Vec::new(), scratch: Vec::new(), latest: None }
    }

    fn run(&mut self, record: &Record) -> usize {
        let partition = record.partition.unwrap_or(0);
        if let Some((topic, latest_partition, run)) = &self.latest
            && *latest_partition == partition
            && (Arc::ptr_eq(topic, &record.topic) || **topic == *record.topic)
        {
            return *run;
        }
        let topic = self.dictionary.topic(&record.topic);
        let place = self.runs.iter().position(|run| run.topic == topic && run.partition == partition).unwrap_or_else(|| {
            self.runs.push(Run { topic, partition, base: 0, count: 0 });
            self.last.push(None);
            self.runs.len() - 1
        });
        self.latest = Some((Arc::clone(&record.topic), partition, place));
        place
    }

    pub(super) fn write(&mut self, record: &'a Record) {
        let run = self.run(record);
        self.runs[run].count += 1;
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        match record.timestamp {
            Some(timestamp) => {
                body.push(HAS_TIMESTAMP);
                put_signed(&mut body, timestamp);
            }
            None => body.push(0),
        }
        self.write_headers(&mut body, &record.headers);
        self.write_datum(&mut body, &record.key, None);
        let previous = self.last[run].filter(|last| same_schema(last, &record.value)).map(|last| &last.value);
        self.write_datum(&mut body, &record.value, previous);
        if record.value.schema.is_some() && !record.value.value.is_null() {
            self.last[run] = Some(&record.value);
        }
        put_unsigned(self.out, run as u64);
        put_bytes(self.out, &body);
        self.scratch = body;
    }

    fn write_datum(&mut self, body: &mut Vec<u8>, datum: &SchemaAndValue, previous: Option<&Value>) {
        match &datum.schema {
            None => put_unsigned(body, 0),
            Some(schema) => put_unsigned(body, self.dictionary.schema(schema) as u64 + 1),
        }
        value::write(body, datum.schema.as_deref(), &datum.value, previous);
    }

    /// Headers have a number within the group, 0 for none; new ones stand behind their number.
    fn write_headers(&mut self, body: &mut Vec<u8>, headers: &'a Headers) {
        if headers.as_slice().is_empty() {
            put_unsigned(body, 0);
            return;
        }
        // Lists that are shared by many records are among the latest ones.
        let known = self.headers.iter().enumerate().rev().take(8).find(|(_, known)| known.shares_with(headers));
        if let Some((place, _)) = known {
            put_unsigned(body, place as u64 + 1);
            return;
        }
        self.headers.push(headers);
        put_unsigned(body, self.headers.len() as u64);
        put_unsigned(body, headers.as_slice().len() as u64);
        for header in headers.iter() {
            put_bytes(body, header.name.as_bytes());
            self.write_datum(body, &header.value, None);
        }
    }
}

fn same_schema(one: &SchemaAndValue, two: &SchemaAndValue) -> bool {
    matches!((&one.schema, &two.schema), (Some(one), Some(two)) if one.id() == two.id())
}

/// A record of a group and the run that it belongs to.
pub(super) struct ReadRecord {
    pub(super) run: usize,
    pub(super) record: Record,
}

/// Reads all records of a group. `records` is the buffer that texts and bytes will share.
pub(super) fn read_records(head: &Head, dictionary: &ReaderDictionary, records: &Bytes) -> Result<Vec<ReadRecord>, Malformed> {
    let mut cursor = Cursor::new(records);
    let mut headers: Vec<Headers> = Vec::new();
    let mut last: Vec<Option<usize>> = vec![None; head.runs.len()];
    let mut read: Vec<ReadRecord> = Vec::new();
    while !cursor.is_at_end() {
        let run = cursor.index()?;
        let length = cursor.count()?;
        let end = cursor.place() + length;
        let place = head.runs.get(run).ok_or(Malformed("a record is of no run"))?;
        let timestamp = if cursor.octet()? & HAS_TIMESTAMP == 0 { head.appended } else { cursor.signed()? };
        let headers = read_headers(&mut cursor, dictionary, &mut headers)?;
        let key = read_datum(&mut cursor, dictionary, None)?;
        let previous = last[run].map(|index| &read[index].record.value);
        let value = read_datum(&mut cursor, dictionary, previous)?;
        if cursor.place() != end {
            return Err(Malformed("a record is shorter or longer than it says"));
        }
        if value.schema.is_some() && !value.value.is_null() {
            last[run] = Some(read.len());
        }
        let topic = Arc::clone(dictionary.topic(place.topic)?);
        let record = Record { topic, partition: Some(place.partition), timestamp: Some(timestamp), key, value, headers };
        read.push(ReadRecord { run, record });
    }
    Ok(read)
}

fn read_datum(cursor: &mut Cursor<'_>, dictionary: &ReaderDictionary, previous: Option<&SchemaAndValue>) -> Result<SchemaAndValue, Malformed> {
    let schema: Option<Arc<Schema>> = match cursor.index()? {
        0 => None,
        number => Some(Arc::clone(dictionary.schema(number - 1)?)),
    };
    let previous = previous
        .filter(|previous| matches!((&previous.schema, &schema), (Some(one), Some(two)) if one.id() == two.id()))
        .map(|previous| &previous.value);
    let value = value::read(cursor, schema.as_deref(), previous)?;
    Ok(SchemaAndValue { schema, value })
}

fn read_headers(cursor: &mut Cursor<'_>, dictionary: &ReaderDictionary, known: &mut Vec<Headers>) -> Result<Headers, Malformed> {
    let number = cursor.index()?;
    if number == 0 {
        return Ok(Headers::default());
    }
    if let Some(headers) = known.get(number - 1) {
        return Ok(headers.clone());
    }
    if number != known.len() + 1 {
        return Err(Malformed("headers are not there"));
    }
    let mut headers = Vec::new();
    for _ in 0..cursor.count()? {
        let name: Arc<str> = Arc::from(&*cursor.text()?);
        headers.push(Header { name, value: read_datum(cursor, dictionary, None)? });
    }
    let headers = Headers::new(headers);
    known.push(headers.clone());
    Ok(headers)
}
