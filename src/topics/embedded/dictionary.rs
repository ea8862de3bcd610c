//! Topics and schemas that a segment names once and its records refer to by number.
//!
//! Every segment starts anew, so that it can be read when the ones before it are gone. A schema's parts have numbers
//! of their own and stand before it; a row schema that `before` and `after` share is written once.

use std::collections::HashMap;
use std::sync::Arc;

use tailwater_api::schema::{Field, Kind, Schema, SchemaId};

use super::value;
use super::wire::{Cursor, Malformed, put_bytes, put_signed, put_unsigned};

const NAMED: u8 = 1;
const OPTIONAL: u8 = 2;
const VERSIONED: u8 = 4;
const DOCUMENTED: u8 = 8;
const DEFAULTED: u8 = 16;

/// What the writer has named in its segment so far.
#[derive(Default)]
pub(super) struct WriterDictionary {
    topics: HashMap<Arc<str>, usize>,
    schemas: HashMap<SchemaId, usize>,
    // Holds the schemas, so that no id is looked up whose schema is gone.
    held: Vec<Arc<Schema>>,
    /// Entries that the next group has to bring along
    fresh_topics: Vec<Arc<str>>,
    fresh_schemas: Vec<u8>,
    fresh_schema_count: usize,
}

impl WriterDictionary {
    pub(super) fn topic(&mut self, name: &Arc<str>) -> usize {
        if let Some(number) = self.topics.get(name) {
            return *number;
        }
        let number = self.topics.len();
        self.topics.insert(Arc::clone(name), number);
        self.fresh_topics.push(Arc::clone(name));
        number
    }

    pub(super) fn schema(&mut self, schema: &Arc<Schema>) -> usize {
        if let Some(number) = self.schemas.get(&schema.id()) {
            return *number;
        }
        let parts: Vec<usize> = match schema.kind() {
            Kind::Array(items) => vec![self.schema(items)],
            Kind::Map(keys, values) => vec![self.schema(keys), self.schema(values)],
            Kind::Struct(fields) => fields.iter().map(|field| self.schema(&field.schema)).collect(),
            _ => Vec::new(),
        };
        let number = self.held.len();
        put_schema(&mut self.fresh_schemas, schema, &parts);
        self.fresh_schema_count += 1;
        self.schemas.insert(schema.id(), number);
        self.held.push(Arc::clone(schema));
        number
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

fn put_schema(out: &mut Vec<u8>, schema: &Schema, parts: &[usize]) {
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
    out.push(kind);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(schema.name().is_some(), NAMED)
            | flag(schema.is_optional(), OPTIONAL)
            | flag(schema.version().is_some(), VERSIONED)
            | flag(schema.doc().is_some(), DOCUMENTED)
            | flag(schema.default().is_some(), DEFAULTED),
    );
    if let Some(name) = schema.name() {
        put_bytes(out, name.as_bytes());
    }
    if let Some(version) = schema.version() {
        put_signed(out, i64::from(version));
    }
    if let Some(doc) = schema.doc() {
        put_bytes(out, doc.as_bytes());
    }
    put_unsigned(out, schema.parameters().len() as u64);
    for (name, value) in schema.parameters() {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
    put_unsigned(out, parts.len() as u64);
    for (index, part) in parts.iter().enumerate() {
        if let Some(field) = schema.fields().get(index) {
            put_bytes(out, field.name.as_bytes());
        }
        put_unsigned(out, *part as u64);
    }
    // Without its schema, because the schema is only complete with its default.
    if let Some(default) = schema.default() {
        value::write(out, None, default, None);
    }
}

/// What a reader has seen named in a segment so far.
#[derive(Clone, Default)]
pub(super) struct ReaderDictionary {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) schemas: Vec<Arc<Schema>>,
}

impl ReaderDictionary {
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
            let schema = self.read_schema(cursor)?;
            self.schemas.push(schema);
        }
        Ok(())
    }

    fn read_schema(&self, cursor: &mut Cursor<'_>) -> Result<Arc<Schema>, Malformed> {
        let kind = cursor.octet()?;
        let flags = cursor.octet()?;
        let name = if flags & NAMED == 0 { None } else { Some(cursor.text()?) };
        let version = if flags & VERSIONED == 0 { None } else { Some(cursor.signed()?) };
        let doc = if flags & DOCUMENTED == 0 { None } else { Some(cursor.text()?) };
        let mut parameters = Vec::new();
        for _ in 0..cursor.count()? {
            parameters.push((cursor.text()?, cursor.text()?));
        }
        let mut parts = Vec::new();
        for _ in 0..cursor.count()? {
            let field = if kind == 11 { cursor.text()? } else { bytestring::ByteString::new() };
            parts.push(Field::new(&*field, Arc::clone(self.schema(cursor.index()?)?)));
        }
        let kind = match (kind, parts.as_slice()) {
            (0, []) => Kind::Boolean,
            (1, []) => Kind::Int8,
            (2, []) => Kind::Int16,
            (3, []) => Kind::Int32,
            (4, []) => Kind::Int64,
            (5, []) => Kind::Float32,
            (6, []) => Kind::Float64,
            (7, []) => Kind::Bytes,
            (8, []) => Kind::String,
            (9, [items]) => Kind::Array(Arc::clone(&items.schema)),
            (10, [keys, values]) => Kind::Map(Arc::clone(&keys.schema), Arc::clone(&values.schema)),
            (11, _) => Kind::Struct(parts.into_boxed_slice()),
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
        Ok(builder.build())
    }
}
