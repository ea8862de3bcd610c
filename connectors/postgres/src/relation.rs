//! From a table's shape to a plan that turns its tuples into records without looking anything up by name.
//!
//! A plan is compiled once per shape: the columns in the order of the tuples, each with the codec of its type and its
//! place in the row. The snapshot and the stream compile their plans here from the same codecs (I7). While the shape
//! stays, the plan and with it the schemas stay the same objects, so that encoders downstream stay compiled.
//!
//! The row's values stand in one vector: first the fields of the row, behind them key columns that the column filters
//! leave out of the row, or whose value is another one in the key because the row's is masked. The key is cloned out of
//! it, then the tail is cut off.
//!
//! What a tuple does not hold keeps its meaning (I8). A column marked *unchanged* in the new tuple is taken from the
//! old tuple where that has it (identity full, or a column of the identity) and is [`Value::Unchanged`] otherwise. An old
//! tuple of the identity's columns alone holds nulls for the others; they become [`Value::NotInIdentity`].

use std::sync::Arc;

use bytes::BytesMut;
use tailwater_api::envelope::Operation;
use tailwater_api::record::Headers;
use tailwater_api::{Error, ErrorKind, Field, Kind, Result, Schema, Scope, Value};
use tailwater_kit::column_rules::{ColumnRule, Disguise};
use tailwater_kit::envelope::{Change, ChangeEvents, EnvelopeSchemas};
use tailwater_kit::reselect::ReselectOptions;
use tracing::{info, warn};

use crate::buffer_slice::BufferSlice;
use crate::catalog::{ColumnDefinition, TableDefinition};
use crate::config::PostgresConfig;
use crate::data_types::{ColumnCodec, Format, SourceType, TypeCatalog};
use crate::lsn::Lsn;
use crate::pgoutput::{OldTuple, Relation, RelationColumn, ReplicaIdentity, Tuple, TupleValue};
use crate::reselect::Found;

/// One column of a tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TupleColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
    /// Whether the log marks it as part of the replica identity
    pub(crate) in_identity: bool,
}

/// A table's shape as it was when its tuples were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<TupleColumn>,
    /// Whether old tuples hold whole rows
    pub(crate) identity_full: bool,
}

struct PlannedColumn {
    codec: ColumnCodec,
    /// Place in the vector of values
    place: usize,
    in_identity: bool,
    masked: Option<Box<MaskedColumn>>,
}

/// A column whose values are not written as they are.
struct MaskedColumn {
    /// What becomes of the value at the column's own place
    own: Disguise,
    /// The place of the value for the key, and what becomes of it there; `None` where the key has none of its own
    key: Option<(usize, Option<Disguise>)>,
}

/// How the tuples of one shape become records.
pub(crate) struct TablePlan {
    /// The shape it was compiled from
    pub(crate) shape: Shape,
    /// `schema.table`
    pub(crate) full_name: String,
    pub(crate) events: ChangeEvents,
    pub(crate) schema_value: Value,
    pub(crate) table_value: Value,
    /// By column of the tuple; `None` for a column that is in no record
    columns: Vec<Option<PlannedColumn>>,
    /// Fields of the row
    width: usize,
    /// Fields of the row and key columns outside it
    places: usize,
    /// Columns of the tuple that are enums or arrays of them
    enums: Vec<usize>,
    /// Places of the key's columns; empty where there is no key
    key: Vec<usize>,
    /// The key's columns in the tuple
    key_columns: Vec<usize>,
    /// The columns of the table's own key in the tuple, which is another one where the configuration names a key
    own_key: Vec<usize>,
    /// What keys end in where several tables share the topic
    key_end: Option<Value>,
    identity_full: bool,
    /// Changes committed before are in the table's snapshot.
    pub(crate) anchor: Lsn,
}

/// What all plans of a run share.
pub(crate) struct PlanContext<'a> {
    pub(crate) config: &'a PostgresConfig,
    pub(crate) types: &'a TypeCatalog,
    pub(crate) source_schema: &'a Arc<Schema>,
    pub(crate) headers: &'a Headers,
}

impl TablePlan {
    /// Compiles the plan. `definition` is the table as the catalog has it now, if it still does: it knows the order
    /// of the key, defaults and which columns may be null.
    ///
    /// The schemas are those of `previous` where they say the same.
    pub(crate) fn compile(
        context: &PlanContext<'_>,
        shape: Shape,
        definition: Option<&TableDefinition>,
        anchor: Lsn,
        previous: Option<&Self>,
    ) -> Result<Self> {
        let relational = &context.config.relational;
        let full_name = format!("{}.{}", shape.schema, shape.table);
        let known = |name: &str| definition.and_then(|table| table.columns.iter().find(|column| column.name == name));
        let own_key = shape.own_key(definition);
        let published: Vec<&str> = shape.columns.iter().map(|column| &*column.name).collect();
        let configured = relational.key_columns.of(&shape.schema, &shape.table, &published);
        let key_names = configured.unwrap_or_else(|| own_key.clone());

        // By index of the tuple's column; `None` for one that is in no record.
        let kept: Vec<Option<KeptColumn<'_>>> = shape
            .columns
            .iter()
            .map(|column| KeptColumn::find(context, &full_name, column, known(&column.name), key_names.contains(&column.name)))
            .collect();
        let width = kept.iter().flatten().filter(|kept| kept.in_row).count();
        let mut fields = Vec::with_capacity(width);
        let mut key_places = Vec::with_capacity(key_names.len());
        // The next free place behind the row.
        let mut places = width;
        let mut columns = Vec::with_capacity(kept.len());
        for (column, kept) in shape.columns.iter().zip(kept) {
            let Some(KeptColumn { codec, in_row, rule, source_type }) = kept else {
                columns.push(None);
                continue;
            };
            let in_key = key_names.contains(&column.name);
            // As Debezium does: where a value is masked or cut, the column is described by that alone.
            let is_cut = matches!(rule, Some(ColumnRule::Mask(_) | ColumnRule::Truncate(_)));
            let rule = rule.filter(|rule| source_type.as_ref().is_none_or(|source_type| rule.can_change(source_type.length)));
            let limit = source_type.as_ref().and_then(|source_type| source_type.text_limit);
            let key_disguise = rule.and_then(|rule| rule.key_disguise(codec.schema()));
            let disguise = if in_row { rule.and_then(|rule| rule.disguise(codec.schema(), limit)) } else { key_disguise.clone() };
            let place = if in_row { fields.len() } else { places };
            let key_place = if in_row && disguise.is_none() { place } else { places };
            if place >= width || (in_key && key_place >= width) {
                places += 1;
            }
            if in_key {
                key_places.push((column.name.as_str(), key_place, codec.schema().clone()));
            }
            if in_row {
                let is_shown = |source_type: &&SourceType| {
                    let data_type = format!("{full_name}.{}", source_type.name);
                    !is_cut && relational.column_rules.shows_type(&format!("{full_name}.{}", column.name), &data_type)
                };
                let schema = field_schema(codec.schema(), rule, source_type.as_ref().filter(is_shown), &column.name);
                fields.push((column.name.as_str(), schema));
            }
            let is_twice = in_key && in_row && disguise.is_some();
            if is_twice && key_disguise.is_none() {
                warn!(table = %full_name, column = %column.name, "the column is masked in rows, and in the clear in keys");
            }
            let masked = disguise.map(|own| Box::new(MaskedColumn { own, key: is_twice.then_some((key_place, key_disguise)) }));
            columns.push(Some(PlannedColumn { codec, place, in_identity: column.in_identity, masked }));
        }

        let mut key = Vec::with_capacity(key_names.len());
        let mut key_columns = Vec::with_capacity(key_names.len());
        let mut key_fields = Vec::with_capacity(key_names.len());
        for name in &key_names {
            let index = shape.column(name);
            let place = key_places.iter().find(|(column, ..)| column == name);
            if let (Some(index), Some((name, place, schema))) = (index, place) {
                key.push(*place);
                key_columns.push(index);
                key_fields.push((*name, schema.clone()));
            }
        }
        let topic = relational.topics.of(&shape.schema, &shape.table);
        let mut key_end = None;
        if let Some((name, table)) = topic.key_field.as_ref().filter(|_| !key.is_empty()) {
            key_fields.push((name, Schema::of(Kind::String).build()));
            key_end = Some(table.as_str().into());
        }
        let adjusted = |fields: Vec<(&str, Arc<Schema>)>| -> Vec<Field> {
            let names = relational.field_names.field_names(fields.iter().map(|(name, _)| *name));
            names.into_iter().zip(fields).map(|(name, (_, schema))| Field::new(name, schema)).collect()
        };
        let topic: Arc<str> = topic.name.into();
        let key_fields = (!key_fields.is_empty()).then(|| adjusted(key_fields));
        let namespace = relational.schema_names.schema_name(&topic);
        let mut schemas = EnvelopeSchemas::new(&namespace, key_fields, adjusted(fields), context.source_schema);
        if let Some(known) = previous.map(|plan| plan.events.schemas())
            && known.key == schemas.key
            && known.envelope == schemas.envelope
        {
            schemas = known.clone();
        }
        let has_labels = |(index, column): (usize, &Option<PlannedColumn>)| column.as_ref()?.codec.has_labels().then_some(index);
        Ok(Self {
            enums: columns.iter().enumerate().filter_map(has_labels).collect(),
            events: ChangeEvents::new(topic, schemas, context.headers.clone(), relational.tombstones_on_delete)
                .skip_deletes(relational.skipped_operations.contains(Operation::Delete)),
            schema_value: shape.schema.as_str().into(),
            table_value: shape.table.as_str().into(),
            columns,
            width,
            places,
            key,
            key_columns,
            own_key: own_key.iter().filter_map(|name| shape.column(name)).collect(),
            key_end,
            identity_full: shape.identity_full,
            shape,
            full_name,
            anchor,
        })
    }

    /// The codec of a column of the tuple; `None` where the column is in no record.
    pub(crate) fn codec(&self, column: usize) -> Option<&ColumnCodec> {
        self.columns[column].as_ref().map(|column| &column.codec)
    }

    /// The place in the row of the value of a column of the tuple; `None` where the row has none, or another one than the table.
    pub(crate) fn place(&self, column: usize) -> Option<usize> {
        let column = self.columns[column].as_ref()?;
        (column.place < self.width && column.masked.is_none()).then_some(column.place)
    }

    /// Whether rows of both plans have the same columns in the same places.
    pub(crate) fn has_columns_of(&self, other: &Self) -> bool {
        fn columns(plan: &TablePlan) -> impl Iterator<Item = (&str, u32, i32)> {
            plan.shape.columns.iter().map(|column| (&*column.name, column.type_oid, column.type_modifier))
        }
        columns(self).eq(columns(other))
    }

    /// The columns of the tuple that make the key.
    pub(crate) fn key_columns(&self) -> &[usize] {
        &self.key_columns
    }

    /// The columns of the tuple that make the table's own key, whichever key the records have.
    pub(crate) fn own_key(&self) -> &[usize] {
        &self.own_key
    }

    /// Whether a column of the tuple is read again where the log does not hold it.
    pub(crate) fn is_reselected(&self, options: &ReselectOptions, column: usize) -> bool {
        let is_in_row = self.columns[column].as_ref().is_some_and(|planned| planned.place < self.width);
        is_in_row && options.accepts(&self.shape.schema, &self.shape.table, &self.shape.columns[column].name)
    }

    /// Puts values that were read again into the new row of a change.
    pub(crate) fn fill(&self, change: &mut Change, found: &[Found], arena: &mut BytesMut) -> Result<()> {
        let row = match change {
            Change::Create { after, .. } | Change::Update { after, .. } | Change::KeyChange { after, .. } => after,
            Change::Read { .. } | Change::Delete { .. } | Change::Truncate => return Ok(()),
        };
        let Value::Struct(row) = row else { return Ok(()) };
        for Found { column, format, value } in found {
            let Some(column) = &self.columns[*column] else { continue };
            // A column that is in the key alone has no place in the row.
            let Some(place) = row.get_mut(column.place) else { continue };
            let value = value.as_ref().map_or(Ok(Value::Null), |octets| self.decode(column, *format, octets.into(), arena))?;
            *place = match &column.masked {
                Some(masked) => masked.own.apply(value),
                None => value,
            };
        }
        Ok(())
    }

    /// Whether all values that are kept can come in binary.
    pub(crate) fn is_binary(&self) -> bool {
        self.columns.iter().flatten().all(|column| column.codec.supports_binary())
    }

    /// A label that an enum of the table had not when the types were read, with the type of its column.
    pub(crate) fn unlisted_label(&self) -> Option<(u32, &str)> {
        self.enums.iter().find_map(|&index| Some((self.shape.columns[index].type_oid, self.codec(index)?.unlisted_label()?)))
    }

    /// The columns of which values had no room in their schema, with their number so far.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&str, u64)> {
        let lost = |(column, shape): (&Option<PlannedColumn>, _)| column.as_ref().map(|column| (shape, column.codec.lost()));
        let named = self.columns.iter().zip(self.shape.columns.iter().map(|column| column.name.as_str()));
        named.filter_map(lost).filter(|(_, count)| *count > 0)
    }

    /// An inserted row.
    pub(crate) fn create(&self, new: &Tuple<'_>, arena: &mut BytesMut) -> Result<Change> {
        let values = self.new_values(new, None, arena)?;
        let key = self.key(&values);
        Ok(Change::Create { key, after: self.row(values) })
    }

    /// A row read by a snapshot, from its values in the tuple's order; a column in no record has no value there.
    pub(crate) fn read(&self, mut decode: impl FnMut(usize, &ColumnCodec) -> Result<Value>) -> Result<Change> {
        let mut values = self.nulls();
        for (index, column) in self.columns.iter().enumerate() {
            if let Some(column) = column {
                column.put(decode(index, &column.codec)?, &mut values);
            }
        }
        let key = self.key(&values);
        Ok(Change::Read { key, after: self.row(values) })
    }

    /// An updated row; a changed key where the old tuple shows another one.
    pub(crate) fn update(&self, old: Option<&OldTuple<'_>>, new: &Tuple<'_>, arena: &mut BytesMut) -> Result<Change> {
        let before = old.map(|old| self.old_values(old, arena)).transpose()?;
        let after = self.new_values(new, before.as_deref(), arena)?;
        let new_key = self.key(&after);
        let Some(before) = before else {
            return Ok(Change::Update { key: new_key, before: Value::Null, after: self.row(after) });
        };
        // A key column outside the identity is unknown in the old tuple; then it counts as unchanged, because the
        // server logs the old identity whenever it changes.
        let changed = self.key.iter().any(|&place| before[place].is_known() && before[place] != after[place]);
        if changed {
            let old_key = self.key(&before);
            Ok(Change::KeyChange { old_key, new_key, before: self.row(before), after: self.row(after) })
        } else {
            Ok(Change::Update { key: new_key, before: self.row(before), after: self.row(after) })
        }
    }

    /// A deleted row.
    pub(crate) fn delete(&self, old: &OldTuple<'_>, arena: &mut BytesMut) -> Result<Change> {
        let before = self.old_values(old, arena)?;
        let key = self.key(&before);
        Ok(Change::Delete { key, before: self.row(before) })
    }

    fn new_values(&self, tuple: &Tuple<'_>, before: Option<&[Value]>, arena: &mut BytesMut) -> Result<Vec<Value>> {
        let mut values = self.nulls();
        self.each(tuple, |column, value| {
            let value = match value {
                TupleValue::Null => self.null(column)?,
                TupleValue::Unchanged => {
                    column.put(Value::Unchanged, &mut values);
                    // I8: known from the before image, or unchanged and unknown.
                    if let Some(before) = before.filter(|_| column.in_identity || self.identity_full) {
                        for place in column.places().filter(|&place| before[place].is_known()) {
                            values[place] = before[place].clone();
                        }
                    }
                    return Ok(());
                }
                TupleValue::Text(octets) => self.decode(column, Format::Text, octets, arena)?,
                TupleValue::Binary(octets) => self.decode(column, Format::Binary, octets, arena)?,
            };
            column.put(value, &mut values);
            Ok(())
        })?;
        Ok(values)
    }

    fn old_values(&self, old: &OldTuple<'_>, arena: &mut BytesMut) -> Result<Vec<Value>> {
        let (tuple, whole) = match old {
            OldTuple::Full(tuple) => (tuple, true),
            OldTuple::Key(tuple) => (tuple, false),
        };
        let mut values = self.nulls();
        self.each(tuple, |column, value| {
            let value = match value {
                // I8: the server writes null for what is outside the identity.
                TupleValue::Null if !whole && !column.in_identity => Value::NotInIdentity,
                TupleValue::Null => self.null(column)?,
                TupleValue::Unchanged => Value::Unchanged,
                TupleValue::Text(octets) => self.decode(column, Format::Text, octets, arena)?,
                TupleValue::Binary(octets) => self.decode(column, Format::Binary, octets, arena)?,
            };
            column.put(value, &mut values);
            Ok(())
        })?;
        Ok(values)
    }

    /// A place for each value.
    fn nulls(&self) -> Vec<Value> {
        // Without a clone for each, as `vec!` would make them.
        let mut values = Vec::with_capacity(self.places);
        values.resize_with(self.places, || Value::Null);
        values
    }

    fn each(&self, tuple: &Tuple<'_>, mut take: impl FnMut(&PlannedColumn, TupleValue<'_>) -> Result<()>) -> Result<()> {
        if tuple.len() != self.columns.len() {
            let message = format!("it has {} columns, its relation {}", tuple.len(), self.columns.len());
            return Err(Error::new(ErrorKind::Unreadable, "decode a row").because(message).scoped(Scope::Table(self.full_name.clone())));
        }
        for (column, value) in self.columns.iter().zip(tuple.values()) {
            if let Some(column) = column {
                take(column, value)?;
            }
        }
        Ok(())
    }

    fn decode(&self, column: &PlannedColumn, format: Format, octets: BufferSlice<'_>, arena: &mut BytesMut) -> Result<Value> {
        column.codec.decode(format, octets, arena).map_err(|error| error.scoped(Scope::Table(self.full_name.clone())))
    }

    fn null(&self, column: &PlannedColumn) -> Result<Value> {
        column.codec.null().map_err(|error| error.scoped(Scope::Table(self.full_name.clone())))
    }

    fn key(&self, values: &[Value]) -> Value {
        if self.key.is_empty() {
            return Value::Null;
        }
        Value::Struct(self.key.iter().map(|&place| &values[place]).chain(&self.key_end).cloned().collect())
    }

    fn row(&self, mut values: Vec<Value>) -> Value {
        values.truncate(self.width);
        Value::Struct(values.into_boxed_slice())
    }
}

impl PlannedColumn {
    fn put(&self, value: Value, values: &mut [Value]) {
        let Some(masked) = &self.masked else {
            values[self.place] = value;
            return;
        };
        if let Some((place, disguise)) = &masked.key {
            values[*place] = disguise.as_ref().map_or_else(|| value.clone(), |disguise| disguise.apply(value.clone()));
        }
        values[self.place] = masked.own.apply(value);
    }

    /// Its places in the vector of values.
    fn places(&self) -> impl Iterator<Item = usize> {
        let of_key = self.masked.as_ref().and_then(|masked| masked.key.as_ref()).map(|(place, _)| *place);
        std::iter::once(self.place).chain(of_key)
    }
}

/// A column that is in the row or in the key.
struct KeptColumn<'a> {
    codec: ColumnCodec,
    in_row: bool,
    rule: Option<&'a ColumnRule>,
    source_type: Option<SourceType>,
}

impl<'a> KeptColumn<'a> {
    /// `None` for a column that the filters leave out, or whose type is known and has no mapping.
    fn find(
        context: &PlanContext<'a>,
        table: &str,
        column: &TupleColumn,
        definition: Option<&ColumnDefinition>,
        in_key: bool,
    ) -> Option<Self> {
        let relational = &context.config.relational;
        let name = format!("{table}.{}", column.name);
        let in_row = relational.columns.accepts(&name);
        if !in_key && !in_row {
            return None;
        }
        let (oid, modifier) = (column.type_oid, column.type_modifier);
        // Where the catalog knows the column no more, nothing is known but that it may be null. What it says of one that has another type by
        // now counts, as with Debezium.
        let not_null = definition.is_some_and(|definition| definition.not_null);
        let default = definition.and_then(|definition| definition.default.as_deref());
        let codec = match context.types.column(oid, modifier, !not_null, default) {
            Some(codec) => codec,
            // I8: a column that is in the row must not vanish because the catalog has moved on.
            None if !context.types.knows(oid) => context.types.column_of_dropped_type(),
            None => {
                info!(column = %name, "left out: its type (oid {oid}) has no mapping; include.unknown.datatypes would include it");
                return None;
            }
        };
        Some(Self { codec, in_row, rule: relational.column_rules.of(&name), source_type: context.types.source_type(oid, modifier) })
    }
}

/// The schema of a field of the row: the codec's, with what the configuration wants to be told besides.
fn field_schema(schema: &Arc<Schema>, rule: Option<&ColumnRule>, source_type: Option<&SourceType>, column: &str) -> Arc<Schema> {
    if rule.is_none() && source_type.is_none() {
        return schema.clone();
    }
    let mut builder = schema.rebuild();
    if let Some((name, value)) = rule.map(ColumnRule::parameter) {
        builder = builder.parameter(name, value);
    }
    if let Some(source_type) = source_type {
        let of_column = |name: &str| format!("__debezium.source.column.{name}");
        builder = builder
            .parameter(of_column("type"), source_type.name.to_uppercase())
            .parameter(of_column("length"), source_type.length.to_string())
            .parameter(of_column("scale"), source_type.scale.to_string())
            .parameter(of_column("name"), column);
    }
    builder.build()
}

impl Shape {
    /// Names of the columns of the table's own key: the primary key of the catalog, or else the identity that the log marks.
    pub(crate) fn own_key(&self, definition: Option<&TableDefinition>) -> Vec<String> {
        match definition {
            // A key of today that was not there when the row was written is none of that row.
            Some(table) if table.key.iter().all(|name| self.column(name).is_some()) => table.key.clone(),
            Some(_) | None if self.identity_full => Vec::new(),
            Some(_) | None => self.columns.iter().filter(|column| column.in_identity).map(|column| column.name.clone()).collect(),
        }
    }

    /// The place of the column of that name.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The shape as the log describes it.
    pub(crate) fn of_relation(relation: &Relation<'_>) -> Self {
        let column = |column: &RelationColumn<'_>| TupleColumn {
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            in_identity: column.in_identity,
        };
        Self {
            schema: relation.namespace.to_owned(),
            table: relation.name.to_owned(),
            columns: relation.columns.iter().map(column).collect(),
            identity_full: relation.replica_identity == ReplicaIdentity::Full,
        }
    }

    /// The shape of a table as the catalog has it: what the log would say about it.
    pub(crate) fn of_definition(table: &TableDefinition, published: Option<&[String]>, generated: bool) -> Self {
        use ReplicaIdentity::{Default, Full, Index, Nothing};
        let is_published = |name: &String| published.is_none_or(|columns| columns.contains(name));
        let columns = table
            .columns
            .iter()
            .filter(|column| is_published(&column.name) && (column.generated.is_none() || (generated && column.generated == Some('s'))))
            .map(|column| TupleColumn {
                name: column.name.clone(),
                type_oid: column.type_oid,
                type_modifier: column.type_modifier,
                in_identity: match table.identity {
                    Default => table.has_primary_key && table.key.contains(&column.name),
                    Index => table.identity_columns.contains(&column.name),
                    Full => true,
                    Nothing => false,
                },
            })
            .collect();
        Self { schema: table.schema.clone(), table: table.name.clone(), columns, identity_full: table.identity == Full }
    }
}
