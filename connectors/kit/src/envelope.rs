//! Builds change events as Debezium 3.6 lays them out: schemas once per shape of a table, records by moving values into place.
//!
//! ```text
//! key       <topic>.Key       struct of the key's columns; a table without a key has no key
//! row       <topic>.Value     optional struct of the captured columns
//! envelope  <topic>.Envelope  version 2: before, after, source, transaction, op, ts_ms, ts_us, ts_ns
//! ```
//!
//! A row's change is one record, except that a delete is followed by a tombstone (unless these are switched off), and that
//! a change of the key is a delete of the old key, its tombstone, and a create of the new one. Header
//! `__debezium.newkey` on the delete and its tombstone and `__debezium.oldkey` on the create name the other key.
//!
//! Nothing here depends on a row but its values: schemas, topic and the headers of the run are shared by reference.
//! While streaming, `source.snapshot` is null; readers that replace null by the default see `false`.

use std::sync::{Arc, LazyLock};

use bytestring::ByteString;
use tailwater_api::envelope::{Operation, SNAPSHOT_BRINGS_ROW};
use tailwater_api::record::{Header, Headers, Record, SchemaAndValue};
use tailwater_api::{Field, Kind, Schema, Value};

use crate::transaction::EventOrder;

static STRING: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::String).build());
static OPTIONAL_STRING: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::String).optional().build());
static BOOLEAN: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::Boolean).build());
static INT64: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::Int64).build());
static OPTIONAL_INT64: LazyLock<Arc<Schema>> = LazyLock::new(|| Schema::of(Kind::Int64).optional().build());

static TRANSACTION: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let fields = vec![
        Field::new("id", STRING.clone()),
        Field::new("total_order", INT64.clone()),
        Field::new("data_collection_order", INT64.clone()),
    ];
    Schema::structure(fields).optional().name("event.block").version(1).build()
});

static SNAPSHOT_MARK: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    Schema::of(Kind::String)
        .optional()
        .name("io.debezium.data.Enum")
        .version(1)
        .parameter("allowed", "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental")
        .default(Value::text("false"))
        .build()
});

/// The fields of the source block that, behind its name, identify an event of a connector (by the name in `source.connector`), as the
/// id of a CloudEvent lists them.
#[must_use]
pub fn identifying_fields(connector: &str) -> Option<&'static [&'static str]> {
    match connector {
        "postgresql" => Some(&["lsn", "txId", "sequence"]),
        _ => None,
    }
}

/// Where a record stands in a snapshot: the values of `source.snapshot`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotMark {
    /// Streamed; written as null, which has the default `false`.
    Streaming,
    /// `true`
    Inside,
    /// `first`: the first row of the snapshot
    First,
    /// `first_in_data_collection`: the first row of its table
    FirstInTable,
    /// `last_in_data_collection`: the last row of its table
    LastInTable,
    /// `last`: the last row of the snapshot
    Last,
    /// `incremental`
    Incremental,
}

impl SnapshotMark {
    /// The value of the field.
    #[must_use]
    pub const fn value(self) -> Value {
        Value::text(match self {
            Self::Streaming => return Value::Null,
            Self::Inside => "true",
            Self::First => "first",
            Self::FirstInTable => "first_in_data_collection",
            Self::LastInTable => "last_in_data_collection",
            Self::Last => "last",
            Self::Incremental => "incremental",
        })
    }

    /// Sets the mark of an event that was made here: which row is the last one is known only behind it.
    pub fn set(self, event: &mut Record) {
        const SOURCE: usize = 2;
        const MARK: usize = 4;
        if let Value::Struct(event) = &mut event.value.value
            && let Some(Value::Struct(source)) = event.get_mut(SOURCE)
            && let Some(mark) = source.get_mut(MARK)
        {
            *mark = self.value();
        }
    }
}

/// Marks the event of a row of which it leaves values out, where a snapshot brings that row whole ([`SNAPSHOT_BRINGS_ROW`]).
pub fn mark_brought_by_snapshot(event: &mut Record) {
    event.headers.push(SNAPSHOT_BRINGS_ROW, SchemaAndValue::new(BOOLEAN.clone(), Value::Boolean(true)));
}

/// A place for the source's blocks of one connector: its schema, and the values that never change.
#[derive(Clone, Debug)]
pub struct SourceBlocks {
    schema: Arc<Schema>,
    version: ByteString,
    connector: ByteString,
    name: ByteString,
}

/// What the fields common to all relational sources say about one event.
#[derive(Clone, Debug)]
pub struct SourceMoment {
    /// When the source made the change, nanoseconds since 1970 UTC
    pub timestamp_ns: i64,
    /// Where the event stands in a snapshot
    pub snapshot: SnapshotMark,
    /// Name of the database
    pub database: ByteString,
    /// The source's `sequence`, text or null
    pub sequence: Value,
}

impl SourceBlocks {
    /// `schema_name` is for instance `io.debezium.connector.postgresql.Source`, `version` this product's version, `connector`
    /// the connector's word (`postgresql`), `name` the topic prefix; `own` are the connector's fields behind the common ones.
    #[must_use]
    pub fn new(
        schema_name: &str,
        version: impl Into<ByteString>,
        connector: impl Into<ByteString>,
        name: impl Into<ByteString>,
        own: Vec<Field>,
    ) -> Self {
        let mut fields = vec![
            Field::new("version", STRING.clone()),
            Field::new("connector", STRING.clone()),
            Field::new("name", STRING.clone()),
            Field::new("ts_ms", INT64.clone()),
            Field::new("snapshot", SNAPSHOT_MARK.clone()),
            Field::new("db", STRING.clone()),
            Field::new("sequence", OPTIONAL_STRING.clone()),
            Field::new("ts_us", OPTIONAL_INT64.clone()),
            Field::new("ts_ns", OPTIONAL_INT64.clone()),
        ];
        fields.extend(own);
        let schema = Schema::structure(fields).name(schema_name).version(1).build();
        Self { schema, version: version.into(), connector: connector.into(), name: name.into() }
    }

    /// Schema of the block.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The block of one event; `own` are the values of the connector's fields in their order.
    #[must_use]
    pub fn block<const OWN: usize>(&self, moment: SourceMoment, own: [Value; OWN]) -> Value {
        let nanoseconds = moment.timestamp_ns;
        let mut values = Vec::with_capacity(self.schema.fields().len());
        values.extend([
            Value::String(self.version.clone()),
            Value::String(self.connector.clone()),
            Value::String(self.name.clone()),
            Value::Int64(nanoseconds.div_euclid(1_000_000)),
            moment.snapshot.value(),
            Value::String(moment.database),
            moment.sequence,
            Value::Int64(nanoseconds.div_euclid(1_000)),
            Value::Int64(nanoseconds),
        ]);
        values.extend(own);
        debug_assert_eq!(values.len(), self.schema.fields().len());
        Value::Struct(values.into_boxed_slice())
    }
}

/// The headers that every record of a run carries unless `extended.headers.enabled` is off. `run` is the id of the run, a
/// UUID of version 7.
#[must_use]
pub fn context_headers(topic_prefix: &str, task: &str, connector: &str, run: &str) -> Headers {
    let header = |name: &str, text: &str| Header {
        name: format!("__debezium.context.{name}").into(),
        value: SchemaAndValue::new(STRING.clone(), text.into()),
    };
    Headers::new(vec![
        header("connectorLogicalName", topic_prefix),
        header("taskId", task),
        header("connectorName", connector),
        header("runId", run),
    ])
}

/// The schemas of one shape of one table.
#[derive(Clone, Debug)]
pub struct EnvelopeSchemas {
    /// Schema of the key; none where the table has no key
    pub key: Option<Arc<Schema>>,
    /// Schema of `before` and `after`
    pub row: Arc<Schema>,
    /// Schema of the whole event
    pub envelope: Arc<Schema>,
}

impl EnvelopeSchemas {
    /// Schemas named after `namespace`, the topic after adjustment of names. `key` are the fields of the key, `row` the
    /// captured columns, `source` the schema of the source's blocks.
    #[must_use]
    pub fn new(namespace: &str, key: Option<Vec<Field>>, row: Vec<Field>, source: &Arc<Schema>) -> Self {
        let key = key.map(|fields| Schema::structure(fields).name(format!("{namespace}.Key")).build());
        let row = Schema::structure(row).optional().name(format!("{namespace}.Value")).build();
        let fields = vec![
            Field::new("before", row.clone()),
            Field::new("after", row.clone()),
            Field::new("source", source.clone()),
            Field::new("transaction", TRANSACTION.clone()),
            Field::new("op", STRING.clone()),
            Field::new("ts_ms", OPTIONAL_INT64.clone()),
            Field::new("ts_us", OPTIONAL_INT64.clone()),
            Field::new("ts_ns", OPTIONAL_INT64.clone()),
        ];
        let envelope = Schema::structure(fields).name(format!("{namespace}.Envelope")).version(2).build();
        Self { key, row, envelope }
    }
}

/// What happened to a row or to its table. Keys and rows are structs of the table's schemas; a table without a key has null keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A snapshot read the row.
    Read {
        /// Its key
        key: Value,
        /// The row
        after: Value,
    },
    /// The row was inserted.
    Create {
        /// Its key
        key: Value,
        /// The row
        after: Value,
    },
    /// The row was updated and kept its key.
    Update {
        /// Its key
        key: Value,
        /// The row before, null where the source does not tell
        before: Value,
        /// The row after
        after: Value,
    },
    /// The row was updated and got another key.
    KeyChange {
        /// Its key before
        old_key: Value,
        /// Its key after
        new_key: Value,
        /// The row before; what the source does not tell is [`Value::NotInIdentity`] (I8)
        before: Value,
        /// The row after
        after: Value,
    },
    /// The row was deleted.
    Delete {
        /// Its key
        key: Value,
        /// The row before; what the source does not tell is [`Value::NotInIdentity`] (I8)
        before: Value,
    },
    /// The table was emptied; the event has no key.
    Truncate,
}

impl Change {
    /// Whether it is an update that changed nothing of what is captured. Unknown values are never equal (I8).
    #[must_use]
    pub fn is_without_effect(&self) -> bool {
        match self {
            Self::Update { before: Value::Struct(before), after: Value::Struct(after), .. } => {
                before == after && before.iter().all(Value::is_known)
            }
            Self::Read { .. }
            | Self::Create { .. }
            | Self::Update { .. }
            | Self::KeyChange { .. }
            | Self::Delete { .. }
            | Self::Truncate => false,
        }
    }
}

/// What the events of one moment have in common.
#[derive(Clone, Debug)]
pub struct EventMoment {
    /// The source's block
    pub source: Value,
    /// The place of the (first) event in its transaction, where that is told
    pub transaction: Option<EventOrder>,
    /// When the connector makes the event, nanoseconds since 1970 UTC
    pub timestamp_ns: i64,
}

/// Makes the records of one shape of one table.
#[derive(Clone, Debug)]
pub struct ChangeEvents {
    topic: Arc<str>,
    schemas: EnvelopeSchemas,
    headers: Headers,
    tombstones: bool,
    /// A changed key makes no delete of the old one.
    skips_deletes: bool,
}

impl ChangeEvents {
    /// Events on `topic`, all with `headers`; `tombstones` as `tombstones.on.delete` says.
    #[must_use]
    pub fn new(topic: Arc<str>, schemas: EnvelopeSchemas, headers: Headers, tombstones: bool) -> Self {
        Self { topic, schemas, headers, tombstones, skips_deletes: false }
    }

    /// Without the delete that a changed key makes, as `skipped.operations` may say.
    #[must_use]
    pub fn skip_deletes(mut self, skips_deletes: bool) -> Self {
        self.skips_deletes = skips_deletes;
        self
    }

    /// How many events the change makes: a changed key is a delete and a create.
    #[must_use]
    pub const fn count(&self, change: &Change) -> i64 {
        match change {
            Change::KeyChange { .. } if !self.skips_deletes => 2,
            Change::KeyChange { .. }
            | Change::Read { .. }
            | Change::Create { .. }
            | Change::Update { .. }
            | Change::Delete { .. }
            | Change::Truncate => 1,
        }
    }

    /// The topic of the events.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The schemas of the events.
    #[must_use]
    pub fn schemas(&self) -> &EnvelopeSchemas {
        &self.schemas
    }

    /// Hands the records of `change`, at most three, to `send`, in order.
    pub fn records(&self, change: Change, moment: EventMoment, mut send: impl FnMut(Record)) {
        match change {
            Change::Read { key, after } => send(self.event(Operation::Read, key, Value::Null, after, moment)),
            Change::Create { key, after } => send(self.event(Operation::Create, key, Value::Null, after, moment)),
            Change::Update { key, before, after } => send(self.event(Operation::Update, key, before, after, moment)),
            Change::Delete { key, before } => self.delete(key, before, moment, &self.headers, &mut send),
            Change::KeyChange { old_key, new_key, before, after } => {
                let created = self.headers_with("__debezium.oldkey", &old_key);
                let mut moment = moment;
                if !self.skips_deletes {
                    let deleted = self.headers_with("__debezium.newkey", &new_key);
                    self.delete(old_key, before, moment.clone(), &deleted, &mut send);
                    moment.transaction = moment.transaction.map(|order| order.next());
                }
                let mut record = self.event(Operation::Create, new_key, Value::Null, after, moment);
                record.headers = created;
                send(record);
            }
            Change::Truncate => {
                let mut record = self.event(Operation::Truncate, Value::Null, Value::Null, Value::Null, moment);
                record.key = SchemaAndValue::NONE;
                send(record);
            }
        }
    }

    fn delete(&self, key: Value, before: Value, moment: EventMoment, headers: &Headers, send: &mut impl FnMut(Record)) {
        let tombstone = self
            .tombstones
            .then(|| Record { headers: headers.clone(), ..Record::new(self.topic.clone(), self.key(key.clone()), SchemaAndValue::NONE) });
        let mut record = self.event(Operation::Delete, key, before, Value::Null, moment);
        record.headers = headers.clone();
        send(record);
        tombstone.into_iter().for_each(send);
    }

    fn event(&self, operation: Operation, key: Value, before: Value, after: Value, moment: EventMoment) -> Record {
        let nanoseconds = moment.timestamp_ns;
        let values = Box::new([
            before,
            after,
            moment.source,
            moment.transaction.map_or(Value::Null, EventOrder::into_value),
            Value::text(operation.code()),
            Value::Int64(nanoseconds.div_euclid(1_000_000)),
            Value::Int64(nanoseconds.div_euclid(1_000)),
            Value::Int64(nanoseconds),
        ]);
        let value = SchemaAndValue::new(self.schemas.envelope.clone(), Value::Struct(values));
        Record { headers: self.headers.clone(), ..Record::new(self.topic.clone(), self.key(key), value) }
    }

    fn key(&self, key: Value) -> SchemaAndValue {
        match &self.schemas.key {
            Some(schema) => SchemaAndValue::new(schema.clone(), key),
            None => SchemaAndValue::NONE,
        }
    }

    fn headers_with(&self, name: &str, key: &Value) -> Headers {
        let mut headers = Vec::with_capacity(1 + self.headers.as_slice().len());
        headers.push(Header { name: name.into(), value: self.key(key.clone()) });
        headers.extend_from_slice(self.headers.as_slice());
        Headers::new(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(tombstones: bool) -> ChangeEvents {
        let source = SourceBlocks::new("test.Source", "1", "test", "shop", vec![Field::new("table", STRING.clone())]);
        let int = Schema::of(Kind::Int32).build();
        let row = vec![Field::new("id", int.clone()), Field::new("v", OPTIONAL_STRING.clone())];
        let schemas = EnvelopeSchemas::new("shop.t", Some(vec![Field::new("id", int)]), row, source.schema());
        ChangeEvents::new("shop.t".into(), schemas, context_headers("shop", "0", "test", "1"), tombstones)
    }

    fn key(id: i32) -> Value {
        Value::Struct(Box::new([Value::Int32(id)]))
    }

    fn row(id: i32) -> Value {
        Value::Struct(Box::new([Value::Int32(id), Value::Null]))
    }

    fn records(events: &ChangeEvents, change: Change) -> Vec<Record> {
        let moment = EventMoment { source: Value::Null, transaction: None, timestamp_ns: 1_795_228_983_423_545_982 };
        let mut records = Vec::new();
        events.records(change, moment, |record| records.push(record));
        records
    }

    fn header_names(record: &Record) -> Vec<&str> {
        record.headers.iter().map(|header| header.name.strip_prefix("__debezium.").unwrap()).collect()
    }

    #[test]
    fn a_key_change_is_a_delete_a_tombstone_and_a_create_that_name_each_other() {
        let change = Change::KeyChange { old_key: key(1), new_key: key(2), before: row(1), after: row(2) };
        let records = records(&events(true), change);
        let [delete, tombstone, create] = records.as_slice() else { panic!("three records, not {}", records.len()) };
        assert!(tombstone.is_tombstone());
        let context = ["context.connectorLogicalName", "context.taskId", "context.connectorName", "context.runId"];
        for record in [delete, tombstone] {
            assert_eq!(record.key.value, key(1));
            assert_eq!(header_names(record)[0], "newkey");
            assert_eq!(header_names(record)[1..], context);
            assert_eq!(record.headers.as_slice()[0].value.value, key(2));
        }
        assert_eq!((&create.key.value, header_names(create)[0]), (&key(2), "oldkey"));
        let operation = |record| tailwater_api::envelope::Envelope::of(record).unwrap().operation();
        assert_eq!((operation(delete), operation(create)), (Operation::Delete, Operation::Create));
    }

    #[test]
    fn the_two_events_of_a_changed_key_follow_each_other_in_their_transaction() {
        let change = Change::KeyChange { old_key: key(1), new_key: key(2), before: row(1), after: row(2) };
        let order = EventOrder { id: "7".into(), total: 4, in_collection: 2 };
        let moment = EventMoment { source: Value::Null, transaction: Some(order), timestamp_ns: 0 };
        let mut orders = Vec::new();
        events(false).records(change, moment, |record| {
            orders.push(tailwater_api::envelope::Envelope::of(&record).unwrap().transaction().clone());
        });
        let order = |total, in_collection| Value::Struct(Box::new(["7".into(), Value::Int64(total), Value::Int64(in_collection)]));
        assert_eq!(orders, [order(4, 2), order(5, 3)]);
    }

    #[test]
    fn without_deletes_a_changed_key_is_a_create_that_names_the_old_one() {
        let change = Change::KeyChange { old_key: key(1), new_key: key(2), before: row(1), after: row(2) };
        let events = events(true).skip_deletes(true);
        assert_eq!(events.count(&change), 1);
        let records = records(&events, change);
        assert_eq!((records.len(), header_names(&records[0])[0], &records[0].key.value), (1, "oldkey", &key(2)));
    }

    #[test]
    fn only_a_known_and_equal_row_is_without_effect() {
        let update = |before, after| Change::Update { key: key(1), before, after }.is_without_effect();
        assert!(update(row(1), row(1)));
        assert!(!update(row(1), row(2)));
        assert!(!update(Value::Null, row(1)));
        let unknown = || Value::Struct(Box::new([Value::Int32(1), Value::Unchanged]));
        assert!(!update(unknown(), unknown()));
        assert!(!Change::Create { key: key(1), after: row(1) }.is_without_effect());
    }

    #[test]
    fn a_delete_has_no_tombstone_where_these_are_off() {
        let change = || Change::Delete { key: key(1), before: row(1) };
        assert_eq!(records(&events(false), change()).len(), 1);
        assert_eq!(records(&events(true), change()).len(), 2);
    }

    #[test]
    fn a_truncate_has_no_key_and_no_rows() {
        let records = records(&events(true), Change::Truncate);
        assert!(records[0].key.is_none());
        let envelope = tailwater_api::envelope::Envelope::of(&records[0]).unwrap();
        assert_eq!((envelope.operation(), envelope.before(), envelope.after()), (Operation::Truncate, &Value::Null, &Value::Null));
    }

    #[test]
    fn times_are_cut_to_their_units_also_before_1970() {
        let source = SourceBlocks::new("test.Source", "1", "test", "shop", Vec::new());
        let moment = SourceMoment { timestamp_ns: -1, snapshot: SnapshotMark::Streaming, database: "d".into(), sequence: Value::Null };
        let block = source.block(moment, []);
        let values = block.as_struct().unwrap();
        assert_eq!((&values[3], &values[7], &values[8]), (&Value::Int64(-1), &Value::Int64(-1), &Value::Int64(-1)));
        assert_eq!(values[4], Value::Null);
    }

    #[test]
    fn the_mark_of_an_event_can_be_set_behind_it() {
        let source = SourceBlocks::new("test.Source", "1", "test", "shop", Vec::new());
        let moment = SourceMoment { timestamp_ns: 7, snapshot: SnapshotMark::Inside, database: "d".into(), sequence: Value::Null };
        let moment = || EventMoment { source: source.block(moment.clone(), []), transaction: None, timestamp_ns: 0 };
        let events = events(true);
        let event = |mark: Option<SnapshotMark>| {
            let mut made = Vec::new();
            events.records(Change::Read { key: key(1), after: row(1) }, moment(), |mut record| {
                mark.into_iter().for_each(|mark| mark.set(&mut record));
                made.push(record);
            });
            made.remove(0)
        };
        let mark =
            |record: &Record| tailwater_api::envelope::Envelope::of(record).unwrap().source().unwrap().1.as_struct().unwrap()[4].clone();
        assert_eq!(mark(&event(None)), Value::text("true"));
        assert_eq!(mark(&event(Some(SnapshotMark::Last))), Value::text("last"));
    }

    #[test]
    fn records_share_schemas_and_headers() {
        let events = events(true);
        let records = records(&events, Change::Delete { key: key(1), before: row(1) });
        assert!(records[0].headers.shares_with(&records[1].headers));
        assert!(Arc::ptr_eq(records[0].value.schema.as_ref().unwrap(), &events.schemas().envelope));
    }
}
