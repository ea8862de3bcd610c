//! The types of a database, as its catalog has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::codec::ColumnCodec;
use super::default::default_value;
use super::source_type::SourceType;
use super::{TypeOptions, mapping};

/// A type as the server's catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRow {
    /// `pg_type.oid`
    pub oid: u32,
    /// `typname`
    pub name: String,
    /// Name of its schema
    pub namespace: String,
    /// `typtype`: b for base types, d for domains, e for enums …
    pub kind: char,
    /// The type of the elements if it is the array type of that type, else 0
    pub element: u32,
    /// `typdelim` of the elements if it is an array type: what stands between them in its text
    pub delimiter: u8,
    /// `typbasetype`: what a domain is over, else 0
    pub base: u32,
    /// `typtypmod`: the modifier that a domain gives its base, -1 for none
    pub modifier: i32,
    /// The labels of an enum in their order
    pub labels: Vec<String>,
}

/// All types of a database and how their values are written.
#[derive(Clone, Debug)]
pub struct TypeCatalog {
    types: HashMap<u32, TypeRow>,
    options: TypeOptions,
    /// Labels that enums once had; what the log holds of then still has them
    former_labels: BTreeSet<String>,
}

impl TypeCatalog {
    /// Selects what a [`TypeRow`] holds, in the order of its fields, with the types `oid`, `text`, `text`, `text`, `oid`, `text`,
    /// `oid`, `int4` and `text[]`. The row types of tables are left out: there is one for each table, and hardly a column has one.
    pub const QUERY: &str = "
SELECT t.oid, t.typname::text, n.nspname::text, t.typtype::text,
       CASE WHEN e.typarray = t.oid THEN t.typelem ELSE 0 END, coalesce(e.typdelim, ',')::text, t.typbasetype, t.typtypmod,
       array(SELECT l.enumlabel::text FROM pg_enum l WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type e ON e.oid = t.typelem
WHERE t.typtype <> 'p' AND (t.typtype <> 'c' OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))";

    /// A catalog of these types.
    #[must_use]
    pub fn new(types: Vec<TypeRow>, options: TypeOptions) -> Self {
        Self { types: types.into_iter().map(|row| (row.oid, row)).collect(), options, former_labels: BTreeSet::new() }
    }

    /// The labels of the type if it is an enum.
    #[must_use]
    pub fn enum_labels(&self, oid: u32) -> Option<&[String]> {
        self.types.get(&oid).filter(|row| row.kind == 'e').map(|row| &*row.labels)
    }

    /// Whether the type is known here. One that is not may have been made since, so the catalog has to be read again.
    #[must_use]
    pub fn knows(&self, oid: u32) -> bool {
        self.types.contains_key(&oid)
    }

    /// Takes over what `earlier` knows and the server has forgotten, and `label`, which was read of an enum that may not have it
    /// any more.
    pub fn remember_labels(&mut self, earlier: &mut Self, label: Option<String>) {
        self.former_labels.append(&mut earlier.former_labels);
        self.former_labels.extend(label);
    }

    /// The labels that an enum has or may have had, sorted.
    pub(super) fn labels(&self, row: &TypeRow) -> Arc<[Box<str>]> {
        let labels: BTreeSet<&str> = row.labels.iter().chain(&self.former_labels).map(String::as_str).collect();
        labels.into_iter().map(Box::from).collect()
    }

    pub(super) fn row(&self, oid: u32) -> Option<&TypeRow> {
        self.types.get(&oid)
    }

    pub(super) fn options(&self) -> &TypeOptions {
        &self.options
    }

    /// The codec of a column of type `oid` with `modifier` (-1 for none), that may be null or not, with the expression of
    /// its default as `pg_get_expr` writes it. `None` where the type has no mapping: such columns are left out of records.
    #[must_use]
    pub fn column(&self, oid: u32, modifier: i32, optional: bool, default: Option<&str>) -> Option<ColumnCodec> {
        let mapping = mapping::of_column(self, oid, modifier)?;
        let default = default.and_then(|expression| default_value(&mapping, expression));
        let schema = mapping.schema.with_optional(optional);
        let schema = match default {
            Some(value) => schema.default(value),
            None => schema,
        };
        Some(ColumnCodec::new(mapping.codec, schema.build(), self.options.refuse_loss))
    }

    /// How the source describes a column of this type; `None` where the type is not known.
    #[must_use]
    pub fn source_type(&self, oid: u32, modifier: i32) -> Option<SourceType> {
        SourceType::of(self, oid, modifier)
    }
}
