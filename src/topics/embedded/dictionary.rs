//! Topics and schemas that a segment names once and its records refer to by number.
//!
//! Every segment, and every writer, starts anew, so that a segment can be read when the ones before it are gone. A schema's
//! parts have numbers of their own and stand before it; a row schema that `before` and `after` share is written once.
//!
//! Within the process schemas of the same content are one: the [`SchemaPool`] of a journal gives readers the very schema
//! that the source sends, so whatever a sink compiles for it is compiled once, not once for each segment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tailwater_api::schema::{Field, Kind, Schema, SchemaId};

use super::value::{self, TooDeep};
use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned};

const NAMED: u8 = 1;
const OPTIONAL: u8 = 2;
const VERSIONED: u8 = 4;
const DOCUMENTED: u8 = 8;
const DEFAULTED: u8 = 16;
const ZEROED: u8 = 32;

/// A schema's own attributes as they are written, and the identities of its parts: the same for schemas of the same content.
type Content = (Box<[u8]>, Box<[SchemaId]>);

/// The schemas of a journal that somebody uses, one for each content.
#[derive(Default)]
pub(super) struct SchemaPool(Mutex<HashMap<Content, Weak<Schema>>>);

/// Entries below which nobody looks for schemas that are gone.
const POOL: usize = 1024;

impl SchemaPool {
    /// The schema of this content, `make` if there is none yet.
    fn get(&self, content: Content, make: impl FnOnce() -> Arc<Schema>) -> Arc<Schema> {
        // An entry is put in whole, so a panic elsewhere leaves the map right.
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pool.get(&content).and_then(Weak::upgrade) {
            return known;
        }
        if pool.len() >= POOL && pool.len() == pool.capacity() {
            pool.retain(|_, schema| schema.strong_count() > 0);
        }
        let schema = make();
        pool.insert(content, Arc::downgrade(&schema));
        schema
    }
}

/// Identities that the writer remembers; past it all are looked up by content again.
const IDENTITIES: usize = 64 * 1024;

/// Octets of names and schemas after which a segment ends.
const FULL: usize = 4 * 1024 * 1024;

/// What the writer has named in its segment so far.
#[derive(Default)]
pub(super) struct WriterDictionary {
    pool: Arc<SchemaPool>,
    topics: HashMap<Arc<str>, usize>,
    /// By identity, which is never reused
    identities: HashMap<SchemaId, usize>,
    contents: HashMap<Content, usize>,
    /// By number, as readers will see them
    schemas: Vec<Arc<Schema>>,
    /// Octets that all entries take in the segment
    octets: usize,
    /// Entries that the next group has to bring along
    fresh_topics: Vec<Arc<str>>,
    fresh_schemas: Vec<u8>,
    fresh_schema_count: usize,
}

impl WriterDictionary {
    pub(super) fn new(pool: Arc<SchemaPool>) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Whether it is time for a new segment, so that what a reader has to hold is bounded (I6).
    pub(super) fn is_full(&self) -> bool {
        self.octets >= FULL
    }

    pub(super) fn topic(&mut self, name: &Arc<str>) -> usize {
        if let Some(number) = self.topics.get(name) {
            return *number;
        }
        let number = self.topics.len();
        self.topics.insert(Arc::clone(name), number);
        self.fresh_topics.push(Arc::clone(name));
        self.octets += name.len();
        number
    }

    pub(super) fn schema(&mut self, schema: &Arc<Schema>) -> Result<usize, TooDeep> {
        if let Some(number) = self.identities.get(&schema.id()) {
            return Ok(*number);
        }
        let parts: Vec<usize> = match schema.kind() {
            Kind::Array(items) => vec![self.schema(items)?],
            Kind::Map(keys, values) => vec![self.schema(keys)?, self.schema(values)?],
            Kind::Struct(fields) => fields.iter().map(|field| self.schema(&field.schema)).collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        let attributes = attributes(schema)?;
        let identities = parts.iter().map(|part| self.schemas[*part].id()).collect();
        let content = (attributes.into_boxed_slice(), identities);
        let number = match self.contents.get(&content) {
            Some(number) => *number,
            None => {
                let number = self.schemas.len();
                let before = self.fresh_schemas.len();
                put_unsigned(&mut self.fresh_schemas, content.0.len() as u64);
                self.fresh_schemas.extend_from_slice(&content.0);
                put_unsigned(&mut self.fresh_schemas, parts.len() as u64);
                for part in parts {
                    put_unsigned(&mut self.fresh_schemas, part as u64);
                }
                self.fresh_schema_count += 1;
                self.octets += self.fresh_schemas.len() - before;
                self.schemas.push(self.pool.get(content.clone(), || Arc::clone(schema)));
                self.contents.insert(content, number);
                number
            }
        };
        if self.identities.len() >= IDENTITIES {
            self.identities.clear();
        }
        self.identities.insert(schema.id(), number);
        Ok(number)
    }

    /// Writes what was named since the last call.
    pub(super) fn put_fresh(&mut self, out: &mut Vec<u8>) {
        put_unsigned(out, self.fresh_topics.len() as u64);
        for topic in self.fresh_topics.drain(..) {
            put_bytes(out, topic.as_bytes());
        }
        put_unsigned(out, self.fresh_schema_count as u64);
        out.append(&mut self.fresh_schemas);
        self.fresh_schema_count = 0;
    }
}

/// Everything of a schema but its parts.
fn attributes(schema: &Schema) -> Result<Vec<u8>, TooDeep> {
    let kind = match schema.kind() {
        Kind::Boolean => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int32 => 3,
        Kind::Int64 => 4,
        Kind::Float32 => 5,
        Kind::Float64 => 6,
        Kind::Bytes => 7,
        Kind::String => 8,
        Kind::Array(_) => 9,
        Kind::Map(..) => 10,
        Kind::Struct(_) => 11,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(schema.name().is_some(), NAMED)
        | flag(schema.is_optional(), OPTIONAL)
        | flag(schema.version().is_some(), VERSIONED)
        | flag(schema.doc().is_some(), DOCUMENTED)
        | flag(schema.default().is_some(), DEFAULTED)
        | flag(schema.zero().is_some(), ZEROED);
    let mut out = vec![kind, flags];
    if let Some(name) = schema.name() {
        put_bytes(&mut out, name.as_bytes());
    }
    if let Some(version) = schema.version() {
        put_signed(&mut out, i64::from(version));
    }
    if let Some(doc) = schema.doc() {
        put_bytes(&mut out, doc.as_bytes());
    }
    put_unsigned(&mut out, schema.parameters().len() as u64);
    for (name, value) in schema.parameters() {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    put_unsigned(&mut out, schema.fields().len() as u64);
    for field in schema.fields() {
        put_bytes(&mut out, field.name.as_bytes());
    }
    // Without its schema, because the schema is only complete with them.
    for value in [schema.default(), schema.zero()].into_iter().flatten() {
        value::write(&mut out, None, value, None)?;
    }
    Ok(out)
}

/// What a reader has seen named in a segment so far.
#[derive(Clone, Default)]
pub(super) struct ReaderDictionary {
    pool: Arc<SchemaPool>,
    pub(super) topics: Vec<Arc<str>>,
    schemas: Vec<Arc<Schema>>,
}

impl ReaderDictionary {
    pub(super) fn new(pool: Arc<SchemaPool>) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Forgets everything: another writer goes on.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
        self.schemas.clear();
    }

    pub(super) fn topic(&self, number: usize) -> Result<&Arc<str>, Malformed> {
        self.topics.get(number).ok_or(Malformed("a topic has no name"))
    }

    pub(super) fn schema(&self, number: usize) -> Result<&Arc<Schema>, Malformed> {
        self.schemas.get(number).ok_or(Malformed("a schema is not there"))
    }

    /// Takes over what a group brings along.
    pub(super) fn read_fresh(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        for _ in 0..cursor.count()? {
            self.topics.push(Arc::from(&*cursor.text()?));
        }
        for _ in 0..cursor.count()? {
            let attributes = cursor.bytes()?;
            let mut parts = Vec::new();
            for _ in 0..cursor.count()? {
                parts.push(Arc::clone(self.schema(cursor.index()?)?));
            }
            let schema = read_schema(&mut Cursor::new(&attributes), &parts)?;
            let content = (Box::from(&*attributes), parts.iter().map(|part| part.id()).collect());
            self.schemas.push(self.pool.get(content, || schema));
        }
        Ok(())
    }
}

fn read_schema(cursor: &mut Cursor<'_>, parts: &[Arc<Schema>]) -> Result<Arc<Schema>, Malformed> {
    let kind = cursor.octet()?;
    let flags = cursor.octet()?;
    let name = if flags & NAMED == 0 { None } else { Some(cursor.text()?) };
    let version = if flags & VERSIONED == 0 { None } else { Some(cursor.signed()?) };
    let doc = if flags & DOCUMENTED == 0 { None } else { Some(cursor.text()?) };
    let mut parameters = Vec::new();
    for _ in 0..cursor.count()? {
        parameters.push((cursor.text()?, cursor.text()?));
    }
    let mut names = Vec::new();
    for _ in 0..cursor.count()? {
        names.push(cursor.text()?);
    }
    let kind = match (kind, parts) {
        (0, []) => Kind::Boolean,
        (1, []) => Kind::Int8,
        (2, []) => Kind::Int16,
        (3, []) => Kind::Int32,
        (4, []) => Kind::Int64,
        (5, []) => Kind::Float32,
        (6, []) => Kind::Float64,
        (7, []) => Kind::Bytes,
        (8, []) => Kind::String,
        (9, [items]) => Kind::Array(Arc::clone(items)),
        (10, [keys, values]) => Kind::Map(Arc::clone(keys), Arc::clone(values)),
        (11, parts) if parts.len() == names.len() => {
            Kind::Struct(names.iter().zip(parts).map(|(name, part)| Field::new(&**name, Arc::clone(part))).collect())
        }
        (_, _) => return Err(Malformed("a schema is of no known kind")),
    };
    let mut builder = Schema::of(kind).with_optional(flags & OPTIONAL != 0);
    if let Some(name) = name {
        builder = builder.name(&*name);
    }
    if let Some(version) = version {
        builder = builder.version(i32::try_from(version).map_err(|_| Malformed("a schema's version is out of range"))?);
    }
    if let Some(doc) = doc {
        builder = builder.doc(&*doc);
    }
    for (name, value) in parameters {
        builder = builder.parameter(&*name, &*value);
    }
    if flags & DEFAULTED != 0 {
        builder = builder.default(value::read(cursor, None, None)?);
    }
    if flags & ZEROED != 0 {
        builder = builder.zero(value::read(cursor, None, None)?);
    }
    Ok(builder.build())
}
