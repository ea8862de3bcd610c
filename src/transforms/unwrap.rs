//! `io.debezium.transforms.ExtractNewRecordState`: the row of a change event in place of the event.
//!
//! | mode | delete | tombstone behind it |
//! |---|---|---|
//! | `drop` | dropped | dropped |
//! | `tombstone` (default) | value null with the row's schema | dropped |
//! | `delete-to-tombstone` | neither value nor schema | dropped |
//! | `rewrite` | the row before, `__deleted` is `"true"` | dropped |
//! | `rewrite-with-tombstone` | the same | kept |
//!
//! Inserts, updates and snapshot reads become the row after; with `rewrite*` their `__deleted` is `"false"`. Truncates are
//! dropped. Whatever is no change event passes untouched. Headers are kept, those of `add.headers` come behind them.
//!
//! Until Debezium 2.4 two keys said what to do, and configurations still have them. `drop.tombstones` (default true) is
//! the right column, `delete.handling.mode` the middle one: `drop` (default), `none` (value null with the row's schema), or
//! `rewrite`. They mean what they meant unless `delete.tombstone.handling.mode` is set too.
//!
//! A kept tombstone carries the headers that were added to its delete, and the operation once more, as Debezium's
//! do, because there both records share their headers. Not so where a transform before made the delete anew, which gave it its own.

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use tailwater_api::config::{ConfigField, ConfigReader, FieldType};
use tailwater_api::envelope::{Envelope, Operation};
use tailwater_api::record::{Header, Record, SchemaAndValue};
use tailwater_api::{Error, ErrorKind, Field, Kind, Result, Schema, SchemaId, Scope, Value};
use tailwater_kit::schema_cache::SchemaCache;
use tailwater_kit::stand_in;

use super::Transform;

const MODE: &str = "delete.tombstone.handling.mode";
const OLD_TOMBSTONES: &str = "drop.tombstones";
const OLD_DELETES: &str = "delete.handling.mode";
const DELETED: &str = "__deleted";

pub(super) const FIELDS: &[ConfigField] = &[
    ConfigField::new(
        MODE,
        FieldType::Choice(&["drop", "tombstone", "delete-to-tombstone", "rewrite", "rewrite-with-tombstone"]),
        "What becomes of deletes and of the tombstones behind them.",
    )
    .default("tombstone"),
    ConfigField::new(OLD_TOMBSTONES, FieldType::Boolean, "Old: whether tombstones are dropped.").default("true"),
    ConfigField::new(OLD_DELETES, FieldType::Choice(&["drop", "none", "rewrite"]), "Old: what becomes of deletes.").default("drop"),
    ConfigField::new("add.fields", FieldType::List, "Metadata to add to rows: op, table, source.ts_ms, transaction.id:NAME …"),
    ConfigField::new("add.fields.prefix", FieldType::Text, "What the names of added fields begin with.").default("__"),
    ConfigField::new("add.headers", FieldType::List, "Metadata to add as headers, written like add.fields."),
    ConfigField::new("add.headers.prefix", FieldType::Text, "What the names of added headers begin with.").default("__"),
    ConfigField::new("route.by.field", FieldType::Text, "The column whose text names the record's topic."),
    ConfigField::new("drop.fields.header.name", FieldType::Text, "The header that lists columns to leave out."),
    ConfigField::new("drop.fields.from.key", FieldType::Boolean, "Whether to leave them out of the key too.").default("false"),
    ConfigField::new(
        "drop.fields.keep.schema.compatible",
        FieldType::Boolean,
        "Whether only optional columns are left out, so that schemas stay compatible.",
    )
    .default("true"),
    ConfigField::new("replace.null.with.default", FieldType::Boolean, "Whether rewrite makes of a null the column's default.")
        .default("true"),
];

/// What becomes of a delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Deletes {
    Drop,
    #[default]
    NullOfRow,
    Tombstone,
    Rewrite,
}

/// What becomes of a delete and of the tombstone behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Handling {
    deletes: Deletes,
    keep_tombstones: bool,
}

/// `op`, `source.ts_ms`, `transaction.id:NAME`: where a value stands in the event, and its name outside of it.
#[derive(Clone, Debug)]
struct Reference {
    parent: Option<String>,
    field: String,
    name: Arc<str>,
}

/// Unwraps change events.
pub(super) struct ExtractNewRecordState {
    options: Options,
    dropped: Option<DroppedFields>,
    plans: SchemaCache<Plan>,
    last_delete: Option<Deleted>,
}

/// What the plans are made from.
struct Options {
    handling: Handling,
    fields: Vec<Reference>,
    headers: Vec<Reference>,
    route: Option<String>,
    replace_null: bool,
}

/// The delete whose tombstone is to follow.
struct Deleted {
    topic: Arc<str>,
    key: Value,
    headers: Vec<Header>,
}

/// What is known of an envelope's schema.
struct Plan {
    before: Option<usize>,
    after: usize,
    /// The schema of `after`
    row: Arc<Schema>,
    /// The schema of rows with the added fields
    extended: Arc<Schema>,
    added: Vec<Place>,
    headers: Vec<(Arc<str>, Arc<Schema>, Place)>,
    /// Columns whose null is replaced, and by what
    defaults: Vec<(usize, Value)>,
    /// Index of the column that names the topic
    route: Option<usize>,
}

/// Index in the event, or in a struct of the event.
#[derive(Clone, Copy)]
struct Place {
    parent: Option<usize>,
    index: usize,
}

impl Place {
    fn value(self, event: &[Value]) -> Value {
        match self.parent {
            None => event[self.index].clone(),
            // A snapshot has no transaction.
            Some(parent) => event[parent].as_struct().map_or(Value::Null, |values| values[self.index].clone()),
        }
    }
}

impl Reference {
    /// Debezium looks up a name without a parent in the event, the transaction or the source, whichever is known to have it.
    /// It takes colons and dots at an end for nothing, and leaves out what comes behind the second name.
    fn parse(text: &str, prefix: &str) -> Result<Self, String> {
        let mut parts = text.trim_end_matches(':').split(':');
        let (path, new_name) = (parts.next().unwrap_or_default(), parts.next());
        let mut names = path.trim_end_matches('.').split('.');
        let (first, second) = (names.next().unwrap_or_default(), names.next());
        if first.is_empty() || parts.next().is_some() {
            return Err(format!("has {text:?}, which is not FIELD, STRUCT.FIELD or either with :NAME"));
        }
        let (parent, field) = match second {
            Some(field) => (Some(first), field),
            None => match first {
                "op" | "ts_ms" | "ts_us" | "ts_ns" => (None, first),
                "id" | "total_order" | "data_collection_order" => (Some("transaction"), first),
                _ => (Some("source"), first),
            },
        };
        let name = match (new_name, second) {
            (Some(name), _) => format!("{prefix}{name}"),
            (None, Some(field)) => format!("{prefix}{first}_{field}"),
            (None, None) => format!("{prefix}{first}"),
        };
        Ok(Self { parent: parent.map(str::to_owned), field: field.to_owned(), name: name.into() })
    }

    fn is_operation(&self) -> bool {
        self.parent.is_none() && self.field == "op"
    }

    /// Where the value stands in events of `envelope`, with its schema, optional and without a default. A field that its
    /// struct does not have may be one of the event; otherwise there is none, which is no error.
    fn find(&self, envelope: &Schema) -> Option<(Place, Arc<Schema>)> {
        let inside = self.parent.as_deref().and_then(|parent| {
            let (parent, schema) = envelope.field(parent)?;
            let (index, schema) = schema.field(&self.field)?;
            Some((Place { parent: Some(parent), index }, schema))
        });
        let found = inside.or_else(|| {
            let (index, schema) = envelope.field(&self.field)?;
            Some((Place { parent: None, index }, schema))
        });
        found.map(|(place, schema)| (place, schema.rebuild().optional().without_default().build()))
    }
}

impl ExtractNewRecordState {
    pub(super) fn read(reader: &mut ConfigReader<'_>) -> Option<Self> {
        let handling = read_handling(reader);
        let fields = read_references(reader, "add.fields", "add.fields.prefix");
        let headers = read_references(reader, "add.headers", "add.headers.prefix");
        let dropped = reader.optional_text("drop.fields.header.name").map(|header| DroppedFields {
            header,
            from_key: reader.boolean("drop.fields.from.key"),
            keep_required: reader.boolean("drop.fields.keep.schema.compatible"),
            schemas: HashMap::new(),
        });
        let options = Options {
            handling,
            fields: fields?,
            headers: headers?,
            route: reader.optional_text("route.by.field"),
            replace_null: reader.boolean("replace.null.with.default"),
        };
        Some(Self { options, dropped, plans: SchemaCache::default(), last_delete: None })
    }

    fn tombstone(&mut self, mut record: Record) -> Option<Record> {
        let deleted = self.last_delete.take();
        if !self.options.handling.keep_tombstones {
            return None;
        }
        if let Some(deleted) = deleted.filter(|deleted| deleted.topic == record.topic && deleted.key == record.key.value) {
            for Header { name, value } in deleted.headers {
                record.headers.push(name, value);
            }
        }
        for reference in self.options.headers.iter().filter(|reference| reference.is_operation()) {
            let operation = SchemaAndValue::new(Schema::of(Kind::String).build(), Value::text(Operation::Delete.code()));
            record.headers.push(reference.name.clone(), operation);
        }
        Some(record)
    }

    fn unwrap(&mut self, mut record: Record, operation: Operation, is_copy: bool) -> Result<Option<Record>> {
        let Some(schema) = record.value.schema.take() else { return Ok(Some(record)) };
        let Self { plans, options, dropped, last_delete, .. } = self;
        let plan = plans.get(schema.id(), || options.compile(&schema))?;
        let Value::Struct(mut event) = std::mem::take(&mut record.value.value) else {
            return Err(misfit("unwrap a value that is no struct of schema", &schema));
        };
        let is_delete = operation == Operation::Delete || event[plan.after].is_null();
        *last_delete = (is_delete && options.handling.keep_tombstones && !is_copy).then(|| Deleted {
            topic: record.topic.clone(),
            key: record.key.value.clone(),
            headers: plan.added_headers(&event).collect(),
        });
        for Header { name, value } in plan.added_headers(&event) {
            record.headers.push(name, value);
        }
        // They may be columns of the row.
        let added: Vec<Value> = plan.added.iter().map(|place| place.value(&event)).collect();
        let row_place = if is_delete { plan.before } else { Some(plan.after) };
        let mut row = row_place.map(|place| std::mem::take(&mut event[place])).unwrap_or_default();
        if is_delete && options.handling.deletes == Deletes::Drop {
            return Ok(None);
        }
        // A delete is routed by the row as it was, every other change by the row that is written.
        if !is_delete {
            plan.replace_nulls(&mut row);
        }
        if let Some(topic) = plan.topic_in(&row) {
            record.topic = topic;
        }
        if is_delete {
            plan.replace_nulls(&mut row);
        }
        match (row, options.handling.deletes) {
            (Value::Struct(row), deletes) if !is_delete || deletes == Deletes::Rewrite => {
                let row = Plan::extend(row, (deletes == Deletes::Rewrite).then_some(is_delete), added);
                record.value = SchemaAndValue::new(plan.extended.clone(), row);
                if let Some(dropped) = dropped {
                    dropped.apply(&mut record)?;
                }
            }
            (_, Deletes::Tombstone) if is_delete => record.value = SchemaAndValue::NONE,
            _ => record.value = SchemaAndValue::new(plan.row.clone(), Value::Null),
        }
        Ok(Some(record))
    }
}

impl Options {
    fn compile(&self, envelope: &Schema) -> Result<Plan> {
        let (after, row) = envelope.field("after").ok_or_else(|| misfit("find after in an event of schema", envelope))?;
        let mut fields = row.fields().to_vec();
        if self.handling.deletes == Deletes::Rewrite {
            fields.push(Field::new(DELETED, Schema::of(Kind::String).optional().build()));
        }
        let mut added = Vec::new();
        for reference in &self.fields {
            if let Some((place, schema)) = reference.find(envelope) {
                fields.push(Field { name: reference.name.clone(), schema });
                added.push(place);
            }
        }
        let is_twice = |&place: &usize| fields[..place].iter().any(|other: &Field| other.name == fields[place].name);
        if let Some(twice) = (row.fields().len()..fields.len()).find(is_twice) {
            return Err(misfit(&format!("add the field {}, which is there already, to an event of schema", fields[twice].name), envelope));
        }
        let find_header = |reference: &Reference| reference.find(envelope).map(|(place, schema)| (reference.name.clone(), schema, place));
        let route = match &self.route {
            None => None,
            Some(name) => match row.field(name) {
                Some((index, schema)) if matches!(schema.kind(), Kind::String) => Some(index),
                Some(_) => return Err(misfit(&format!("route by field {name}, which is no text, an event of schema"), envelope)),
                None => return Err(misfit(&format!("route by field {name}, which is not there, an event of schema"), envelope)),
            },
        };
        // Debezium replaces nulls as a side effect of adding __deleted, in the other modes they stay.
        let replaces = self.replace_null && self.handling.deletes == Deletes::Rewrite;
        let default = |(index, field): (usize, &Field)| field.schema.default().map(|default| (index, default.clone()));
        Ok(Plan {
            before: envelope.field("before").map(|(index, _)| index),
            after,
            row: row.clone(),
            extended: row.rebuild().kind(Kind::Struct(fields.into())).with_optional(false).without_default().build(),
            added,
            headers: self.headers.iter().filter_map(find_header).collect(),
            defaults: if replaces { row.fields().iter().enumerate().filter_map(default).collect() } else { Vec::new() },
            route,
        })
    }
}

impl Transform for ExtractNewRecordState {
    fn apply(&mut self, record: Record, is_copy: &mut bool) -> Result<Option<Record>> {
        if record.value.value.is_null() {
            return Ok(self.tombstone(record));
        }
        match Envelope::of(&record).map(|envelope| envelope.operation()) {
            None | Some(Operation::Message) => Ok(Some(record)),
            Some(Operation::Truncate) => Ok(None),
            Some(operation @ (Operation::Read | Operation::Create | Operation::Update | Operation::Delete)) => {
                self.unwrap(record, operation, *is_copy)
            }
        }
    }
}

impl Plan {
    fn added_headers<'a>(&'a self, event: &'a [Value]) -> impl Iterator<Item = Header> + 'a {
        self.headers
            .iter()
            .map(|(name, schema, place)| Header { name: name.clone(), value: SchemaAndValue::new(schema.clone(), place.value(event)) })
    }

    /// Puts defaults in the place of nulls. What is not known stays unknown (I8).
    fn replace_nulls(&self, row: &mut Value) {
        let Value::Struct(row) = row else { return };
        for (index, default) in &self.defaults {
            if row[*index].is_null() {
                row[*index] = default.clone();
            }
        }
    }

    /// The row with the added fields.
    fn extend(row: Box<[Value]>, deleted: Option<bool>, added: Vec<Value>) -> Value {
        let mut row = row.into_vec();
        row.reserve_exact(usize::from(deleted.is_some()) + added.len());
        row.extend(deleted.map(|deleted| Value::text(if deleted { "true" } else { "false" })));
        row.extend(added);
        Value::Struct(row.into())
    }

    /// The topic that a row names; none where the text is blank, null or unchanged. A column that is not in the identity
    /// names the topic that its stand-in does: what the delete says of it, as records leave.
    fn topic_in(&self, row: &Value) -> Option<Arc<str>> {
        let index = self.route?;
        let name = match row.as_struct()?.get(index)? {
            Value::NotInIdentity => stand_in::not_in_identity(&self.row.fields()[index].schema),
            name => name.clone(),
        };
        let name = name.as_text()?;
        (!name.trim().is_empty()).then(|| name.into())
    }
}

/// The columns that a header of the record lists are left out.
struct DroppedFields {
    header: String,
    from_key: bool,
    keep_required: bool,
    /// Schemas by what they were made of and which fields were left out
    schemas: HashMap<(SchemaId, Vec<usize>), Arc<Schema>>,
}

/// Schemas with fields left out that are kept; past this many all are forgotten and made anew.
const REDUCED_SCHEMAS: usize = 1024;

impl DroppedFields {
    fn apply(&mut self, record: &mut Record) -> Result<()> {
        let Some(header) = record.headers.iter().find(|header| *header.name == *self.header) else { return Ok(()) };
        let names = match &header.value.value {
            Value::Null => return Ok(()),
            Value::Array(names) => names.iter().map(|name| match name {
                Value::String(name) => Some(name.clone()),
                _ => None,
            }),
            _ => return Err(self.no_list()),
        };
        let names: Vec<ByteString> = names.collect::<Option<_>>().ok_or_else(|| self.no_list())?;
        if self.from_key {
            self.reduce(&mut record.key, &names);
        }
        self.reduce(&mut record.value, &names);
        Ok(())
    }

    fn no_list(&self) -> Error {
        Error::new(ErrorKind::Rejected, format!("read the names of fields to drop from header {}", self.header))
            .scoped(Scope::Record)
            .because("its value is no list of texts")
    }

    fn reduce(&mut self, data: &mut SchemaAndValue, names: &[ByteString]) {
        let (Some(schema), Value::Struct(values)) = (&data.schema, &mut data.value) else { return };
        let left_out =
            |field: &Field| names.iter().any(|name| **name == *field.name) && (!self.keep_required || field.schema.is_optional());
        let dropped: Vec<usize> = (0..values.len()).filter(|index| left_out(&schema.fields()[*index])).collect();
        if dropped.is_empty() {
            return;
        }
        let kept = |index: &usize| dropped.binary_search(index).is_err();
        *values = (0..values.len()).filter(kept).map(|index| std::mem::take(&mut values[index])).collect();
        if self.schemas.len() >= REDUCED_SCHEMAS {
            self.schemas.clear();
        }
        let reduced = self.schemas.entry((schema.id(), dropped.clone())).or_insert_with(|| {
            let fields = (0..schema.fields().len()).filter(kept).map(|index| schema.fields()[index].clone()).collect();
            schema.rebuild().kind(Kind::Struct(fields)).build()
        });
        data.schema = Some(reduced.clone());
    }
}

fn misfit(doing: &str, schema: &Schema) -> Error {
    let name = schema.name().unwrap_or_default();
    Error::new(ErrorKind::Rejected, format!("{doing} {name}"))
        .scoped(Scope::Record)
        .mend("change the options of ExtractNewRecordState, or give it a predicate that chooses the tables it fits")
}

fn read_references(reader: &mut ConfigReader<'_>, key: &str, prefix_key: &str) -> Option<Vec<Reference>> {
    let prefix = reader.raw_text(prefix_key);
    let mut references = Vec::new();
    let mut whole = true;
    for text in reader.list(key) {
        match Reference::parse(&text, &prefix) {
            Ok(reference) => references.push(reference),
            Err(message) => {
                reader.fault(key, message);
                whole = false;
            }
        }
    }
    whole.then_some(references)
}

fn read_handling(reader: &mut ConfigReader<'_>) -> Handling {
    let handling = |deletes, keep_tombstones| Handling { deletes, keep_tombstones };
    let old: Vec<&str> = [OLD_TOMBSTONES, OLD_DELETES].into_iter().filter(|key| reader.is_set(key)).collect();
    if old.is_empty() || reader.is_set(MODE) {
        for key in old {
            reader.note(key, format!("is old and has no effect beside {MODE}"));
        }
        let modes = [
            ("drop", handling(Deletes::Drop, false)),
            ("tombstone", handling(Deletes::NullOfRow, false)),
            ("delete-to-tombstone", handling(Deletes::Tombstone, false)),
            ("rewrite", handling(Deletes::Rewrite, false)),
            ("rewrite-with-tombstone", handling(Deletes::Rewrite, true)),
        ];
        return reader.choice(MODE, &modes);
    }
    let deletes = [("drop", Deletes::Drop), ("none", Deletes::NullOfRow), ("rewrite", Deletes::Rewrite)];
    let meant = handling(reader.choice(OLD_DELETES, &deletes), !reader.boolean(OLD_TOMBSTONES));
    let today = match (meant.deletes, meant.keep_tombstones) {
        (Deletes::Drop, false) => "drop".to_owned(),
        (Deletes::NullOfRow | Deletes::Tombstone, false) => "tombstone".to_owned(),
        (Deletes::Rewrite, false) => "rewrite".to_owned(),
        (Deletes::Rewrite, true) => "rewrite-with-tombstone".to_owned(),
        (Deletes::Drop | Deletes::NullOfRow | Deletes::Tombstone, true) => {
            "delete-to-tombstone, the nearest: one tombstone for each delete".to_owned()
        }
    };
    for key in old {
        reader.note(key, format!("is old and still means what it meant; today write {MODE}={today}"));
    }
    meant
}
