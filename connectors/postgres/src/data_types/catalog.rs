//! The types of a database, as its catalog has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tailwater_api::{Kind, Schema};

use super::codec::{Codec, ColumnCodec};
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
    /// Labels that enums once had, by the oid of the enum; what the log holds of then still has them
    former_labels: HashMap<u32, BTreeSet<String>>,
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
        Self { types: types.into_iter().map(|row| (row.oid, row)).collect(), options, former_labels: HashMap::new() }
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

    /// Takes over what `earlier` knows and the server has forgotten: types that were dropped and labels that were renamed, of which
    /// the log may still hold values.
    pub fn remember(&mut self, earlier: &Self) {
        for (&oid, labels) in &earlier.former_labels {
            self.former_labels.entry(oid).or_default().extend(labels.iter().cloned());
        }
        for (&oid, row) in &earlier.types {
            match self.types.get(&oid) {
                Some(now) => {
                    let renamed: Vec<_> = row.labels.iter().filter(|label| !now.labels.contains(label)).cloned().collect();
                    if !renamed.is_empty() {
                        self.former_labels.entry(oid).or_default().extend(renamed);
                    }
                }
                // Arrays of the rows of a table come and go with the table, and hardly a column has one.
                None if row.element == 0 || earlier.knows(row.element) => {
                    self.types.insert(oid, row.clone());
                }
                None => {}
            }
        }
    }

    /// Takes over a label that was read in a column of type `oid`, an enum or made of one, which may not have it any more.
    pub fn remember_label(&mut self, oid: u32, label: String) {
        let mut row = self.types.get(&oid);
        for _ in 0..mapping::DEEPEST {
            row = match row {
                Some(array) if array.element != 0 => self.types.get(&array.element),
                Some(domain) if domain.kind == 'd' => self.types.get(&domain.base),
                Some(_) | None => break,
            };
        }
        if let Some(row) = row {
            self.former_labels.entry(row.oid).or_default().insert(label);
        }
    }

    /// The labels that an enum has or had, sorted.
    pub(super) fn labels(&self, row: &TypeRow) -> Arc<[Box<str>]> {
        let former = self.former_labels.get(&row.oid).into_iter().flatten();
        let labels: BTreeSet<&str> = row.labels.iter().chain(former).map(String::as_str).collect();
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
        let schema = if optional { mapping.schema.optional() } else { mapping.schema };
        let schema = match default {
            Some(value) => schema.default(value),
            None => schema,
        };
        Some(ColumnCodec::new(mapping.codec, schema.build(), self.options.refuse_loss))
    }

    /// The codec of a column whose type was dropped before it was known here. The log still holds the text of its values, which says
    /// more than none, and each of them counts as lost.
    #[must_use]
    pub fn column_of_dropped_type(&self) -> ColumnCodec {
        ColumnCodec::new(Codec::Dropped, Schema::of(Kind::String).optional().build(), self.options.refuse_loss)
    }

    /// How the source describes a column of this type; `None` where the type is not known.
    #[must_use]
    pub fn source_type(&self, oid: u32, modifier: i32) -> Option<SourceType> {
        SourceType::of(self, oid, modifier)
    }
}
