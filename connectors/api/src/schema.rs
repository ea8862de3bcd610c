//! Schemas of Kafka Connect's data model (Kafka 4.3, `org.apache.kafka.connect.data.Schema`).
//!
//! A schema is built once and shared by [`Arc`]. Whatever is compiled from a schema (encoders, bind
//! plans, column lists) is cached by its [`SchemaId`], never by its address or its name.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::envelope::EnvelopeLayout;
use crate::value::Value;

/// Identity of one built schema within this process; never reused and never persisted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SchemaId(u64);

impl SchemaId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The shape of a value. Structs hold their fields in order; values of a struct are positional.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`
    Boolean,
    /// 8-bit signed integer
    Int8,
    /// 16-bit signed integer
    Int16,
    /// 32-bit signed integer
    Int32,
    /// 64-bit signed integer
    Int64,
    /// IEEE 754 single precision
    Float32,
    /// IEEE 754 double precision
    Float64,
    /// Octets
    Bytes,
    /// UTF-8 text
    String,
    /// Elements of one schema
    Array(Arc<Schema>),
    /// Entries in insertion order
    Map(Arc<Schema>, Arc<Schema>),
    /// Named fields in declaration order
    Struct(Box<[Field]>),
}

impl Kind {
    /// The name that Connect gives the type in JSON schemas: `int32`, `float`, `struct` …
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float",
            Self::Float64 => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
            Self::Array(_) => "array",
            Self::Map(..) => "map",
            Self::Struct(_) => "struct",
        }
    }
}

/// A named member of a struct; its index is its place in [`Schema::fields`].
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Name as it appears in records
    pub name: Arc<str>,
    /// Schema of the member's values
    pub schema: Arc<Schema>,
}

/// Type, optionality, default and metadata of a value. Compares by content, not by [`SchemaId`].
pub struct Schema {
    id: SchemaId,
    kind: Kind,
    optional: bool,
    name: Option<Arc<str>>,
    version: Option<i32>,
    doc: Option<Arc<str>>,
    parameters: Box<[(Arc<str>, Arc<str>)]>,
    default: Option<Value>,
    zero: Option<Value>,
    envelope: OnceLock<Option<EnvelopeLayout>>,
}

impl Schema {
    /// Starts a schema of `kind`: required, unnamed, without a default.
    pub fn of(kind: Kind) -> SchemaBuilder {
        SchemaBuilder { kind, optional: false, name: None, version: None, doc: None, parameters: Vec::new(), default: None, zero: None }
    }

    /// Starts a struct of `fields` in this order.
    pub fn structure(fields: Vec<Field>) -> SchemaBuilder {
        Self::of(Kind::Struct(fields.into_boxed_slice()))
    }

    /// Identity for caches.
    #[must_use]
    pub fn id(&self) -> SchemaId {
        self.id
    }

    /// Type of the values.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whether null is a value.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.optional
    }

    /// Name of a struct or of a semantic type, such as `io.debezium.time.Date`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Version of the named type.
    #[must_use]
    pub fn version(&self) -> Option<i32> {
        self.version
    }

    /// Documentation carried with the schema.
    #[must_use]
    pub fn doc(&self) -> Option<&str> {
        self.doc.as_deref()
    }

    /// Parameters in insertion order.
    #[must_use]
    pub fn parameters(&self) -> &[(Arc<str>, Arc<str>)] {
        &self.parameters
    }

    /// The parameter called `name`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }

    /// What stands for null in readers that ask for it.
    #[must_use]
    pub fn default(&self) -> Option<&Value> {
        self.default.as_ref()
    }

    /// What is written for a value that the source does not tell, where it is another one than null, or than the zero of the type where
    /// null is not allowed. It stays with us: no format has a word for it.
    #[must_use]
    pub fn zero(&self) -> Option<&Value> {
        self.zero.as_ref()
    }

    /// Fields of a struct; empty for every other kind.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        match &self.kind {
            Kind::Struct(fields) => fields,
            _ => &[],
        }
    }

    /// Index and schema of the field called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<(usize, &Arc<Schema>)> {
        self.fields().iter().position(|field| &*field.name == name).map(|index| (index, &self.fields()[index].schema))
    }

    /// A builder that starts from this schema's content, for transforms that change a part of it.
    pub fn rebuild(&self) -> SchemaBuilder {
        SchemaBuilder {
            kind: self.kind.clone(),
            optional: self.optional,
            name: self.name.clone(),
            version: self.version,
            doc: self.doc.clone(),
            parameters: self.parameters.to_vec(),
            default: self.default.clone(),
            zero: self.zero.clone(),
        }
    }

    /// Places of the envelope's fields if this is the schema of a change event; found once per schema.
    pub(crate) fn envelope_layout(&self) -> Option<&EnvelopeLayout> {
        self.envelope.get_or_init(|| EnvelopeLayout::of(self)).as_ref()
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            || (self.kind == other.kind
                && self.optional == other.optional
                && self.name == other.name
                && self.version == other.version
                && self.doc == other.doc
                && self.parameters == other.parameters
                && self.default == other.default
                && self.zero == other.zero)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Schema");
        shown.field("kind", &self.kind).field("optional", &self.optional);
        if let Some(name) = &self.name {
            shown.field("name", name);
        }
        if let Some(default) = &self.default {
            shown.field("default", default);
        }
        shown.finish_non_exhaustive()
    }
}

/// Assembles a [`Schema`]; every method moves the builder.
#[derive(Clone, Debug)]
#[must_use]
pub struct SchemaBuilder {
    kind: Kind,
    optional: bool,
    name: Option<Arc<str>>,
    version: Option<i32>,
    doc: Option<Arc<str>>,
    parameters: Vec<(Arc<str>, Arc<str>)>,
    default: Option<Value>,
    zero: Option<Value>,
}

impl SchemaBuilder {
    /// Allows null.
    pub fn optional(self) -> Self {
        self.with_optional(true)
    }

    /// Allows null or not. Where null is allowed it stands for a value that is not told, too, unless [`Self::zero`] is set after this.
    pub fn with_optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        if optional {
            self.zero = None;
        }
        self
    }

    /// Names the type.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the version of the named type.
    pub fn version(mut self, version: i32) -> Self {
        self.version = Some(version);
        self
    }

    /// Documents the type.
    pub fn doc(mut self, doc: impl Into<Arc<str>>) -> Self {
        self.doc = Some(doc.into());
        self
    }

    /// Adds a parameter behind those that are there.
    pub fn parameter(mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Sets the default value.
    pub fn default(mut self, value: Value) -> Self {
        self.default = Some(value);
        self
    }

    /// Removes the default value.
    pub fn without_default(mut self) -> Self {
        self.default = None;
        self
    }

    /// Sets what is written for a value that is not told.
    pub fn zero(mut self, value: Value) -> Self {
        self.zero = Some(value);
        self
    }

    /// Replaces the kind, for instance by a struct of other fields.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Finishes the schema under a new [`SchemaId`].
    #[must_use]
    pub fn build(self) -> Arc<Schema> {
        Arc::new(Schema {
            id: SchemaId::next(),
            kind: self.kind,
            optional: self.optional,
            name: self.name,
            version: self.version,
            doc: self.doc,
            parameters: self.parameters.into_boxed_slice(),
            default: self.default,
            zero: self.zero,
            envelope: OnceLock::new(),
        })
    }
}

impl Field {
    /// A field called `name`.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, schema: Arc<Schema>) -> Self {
        Self { name: name.into(), schema }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_compare_by_content_and_differ_in_identity() {
        let one = Schema::of(Kind::Int32).optional().build();
        let two = Schema::of(Kind::Int32).optional().build();
        assert_eq!(one, two);
        assert_ne!(one.id(), two.id());
        assert_ne!(one, one.rebuild().default(Value::Int32(1)).build());
    }
}
