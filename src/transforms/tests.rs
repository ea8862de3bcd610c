use std::sync::Arc;

use tailwater_api::{Field, Headers, Kind, Schema, SchemaAndValue, Value};
use tailwater_kit::envelope::{Change, ChangeEvents, EnvelopeSchemas, EventMoment, SnapshotMark, SourceBlocks, SourceMoment};
use tailwater_kit::transaction::EventOrder;

use super::*;
use crate::converters::Converters;

fn values(entries: &[(&str, &str)]) -> ConfigValues {
    entries.iter().copied().collect()
}

fn chain(entries: &[(&str, &str)]) -> (TransformChain, Vec<String>) {
    match TransformChain::from_config(&values(entries)) {
        Ok((chain, report)) => (chain, report.notes.iter().map(ToString::to_string).collect()),
        Err(report) => panic!("{report:?}"),
    }
}

fn faults(entries: &[(&str, &str)]) -> Vec<String> {
    let report = TransformChain::from_config(&values(entries)).err().unwrap_or_default();
    report.faults.iter().map(ToString::to_string).collect()
}

/// A table `t (id int primary key, v text default 'd', dest text not null)` on topic `s.t`, and its source.
struct Table {
    events: ChangeEvents,
    source: SourceBlocks,
}

fn table() -> Table {
    table_with_destination(Schema::of(Kind::String).build())
}

/// The same with another schema of `dest`.
fn table_with_destination(destination: Arc<Schema>) -> Table {
    let text = Schema::of(Kind::String).build();
    let source = SourceBlocks::new("test.Source", "1", "postgresql", "s", vec![Field::new("table", text)]);
    let id = Field::new("id", Schema::of(Kind::Int32).build());
    let row = vec![
        id.clone(),
        Field::new("v", Schema::of(Kind::String).optional().default(Value::text("d")).build()),
        Field::new("dest", destination),
    ];
    let schemas = EnvelopeSchemas::new("s.t", Some(vec![id]), row, source.schema());
    Table { events: ChangeEvents::new("s.t".into(), schemas, Headers::default(), true), source }
}

fn key(id: i32) -> Value {
    Value::Struct(Box::new([Value::Int32(id)]))
}

fn row(id: i32, v: Value, dest: &'static str) -> Value {
    Value::Struct(Box::new([Value::Int32(id), v, Value::text(dest)]))
}

fn create() -> Change {
    Change::Create { key: key(1), after: row(1, "a".into(), "there") }
}

fn delete() -> Change {
    let before = Value::Struct(Box::new([Value::Int32(1), Value::NotInIdentity, Value::NotInIdentity]));
    Change::Delete { key: key(1), before }
}

impl Table {
    fn records(&self, change: Change) -> Vec<Record> {
        let moment =
            SourceMoment { timestamp_ns: 5_000_000, snapshot: SnapshotMark::Streaming, database: "db".into(), sequence: Value::Null };
        let source = self.source.block(moment, [Value::text("t")]);
        let moment =
            EventMoment { source, transaction: Some(EventOrder { id: "7".into(), total: 2, in_collection: 1 }), timestamp_ns: 7_000_000 };
        let mut records = Vec::new();
        self.events.records(change, moment, |record| records.push(record));
        records
    }
}

/// What the options of ExtractNewRecordState make of the changes, a line a record: topic, headers, value.
fn unwrapped(options: &[(&str, &str)], changes: Vec<Change>) -> Vec<String> {
    let mut entries = vec![("transforms".to_owned(), "u".to_owned()), ("transforms.u.type".to_owned(), UNWRAP.to_owned())];
    entries.extend(options.iter().map(|(key, value)| (format!("transforms.u.{key}"), (*value).to_owned())));
    let Ok((mut chain, _)) = TransformChain::from_config(&entries.into_iter().collect()) else { panic!("faults") };
    let records = changes.into_iter().flat_map(|change| table().records(change));
    records.filter_map(|record| chain.apply(record).unwrap()).map(|record| line(&record)).collect()
}

fn line(record: &Record) -> String {
    let Ok((mut converters, _)) = Converters::from_config(&values(&[]), &values(&[]), "?") else { panic!("faults") };
    let converted = converters.convert(record).unwrap();
    let text = |bytes: Option<bytes::Bytes>| bytes.map_or("-".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let headers: String = converted.headers.into_iter().map(|(name, value)| format!("{name}={} ", text(value))).collect();
    format!("{} {headers}{}", record.topic, text(converted.value))
}

const UNWRAP: &str = "io.debezium.transforms.ExtractNewRecordState";
const ROW: &str = r#"s.t {"id":1,"v":"a","dest":"there"}"#;
const MODE: &str = "delete.tombstone.handling.mode";

#[test]
fn each_mode_does_to_deletes_what_it_says() {
    let kept = r#"s.t {"id":1,"v":"a","dest":"there","__deleted":"false"}"#;
    let rewritten = r#"s.t {"id":1,"v":"d","dest":"","__deleted":"true"}"#;
    let expected: [(&str, &[&str]); 5] = [
        ("drop", &[ROW]),
        ("tombstone", &[ROW, "s.t null"]),
        ("delete-to-tombstone", &[ROW, "s.t -"]),
        ("rewrite", &[kept, rewritten]),
        ("rewrite-with-tombstone", &[kept, rewritten, "s.t -"]),
    ];
    for (mode, lines) in expected {
        assert_eq!(unwrapped(&[(MODE, mode)], vec![create(), delete(), Change::Truncate]), lines, "{mode}");
    }
    assert_eq!(unwrapped(&[], vec![create(), delete()]), [ROW, "s.t null"]);
}

#[test]
fn the_old_options_mean_what_they_meant() {
    let deleted = r#"s.t {"id":1,"v":"d","dest":"","__deleted":"true"}"#;
    let expected: [(&str, &str, &[&str]); 6] = [
        ("true", "drop", &[]),
        ("false", "drop", &["s.t -"]),
        ("true", "none", &["s.t null"]),
        ("false", "none", &["s.t null", "s.t -"]),
        ("true", "rewrite", &[deleted]),
        ("false", "rewrite", &[deleted, "s.t -"]),
    ];
    for (tombstones, deletes, lines) in expected {
        let options = [("drop.tombstones", tombstones), ("delete.handling.mode", deletes)];
        assert_eq!(unwrapped(&options, vec![delete()]), lines, "{tombstones} {deletes}");
    }
    assert_eq!(unwrapped(&[("delete.handling.mode", "none")], vec![delete()]), ["s.t null"]);
    assert_eq!(unwrapped(&[("drop.tombstones", "false")], vec![delete()]), ["s.t -"]);
    assert_eq!(unwrapped(&[("delete.handling.mode", "rewrite"), (MODE, "drop")], vec![delete()]), [""; 0]);
}

#[test]
fn old_options_are_noted_with_what_to_write_today() {
    let unwrap = [("transforms", "u"), ("transforms.u.type", UNWRAP), ("transforms.u.drop.tombstones", "false")];
    let rewrite = [unwrap.as_slice(), &[("transforms.u.delete.handling.mode", "rewrite")]].concat();
    let notes = chain(&rewrite).1;
    assert_eq!(notes.len(), 2, "{notes:?}");
    for note in notes {
        assert!(note.ends_with("today write delete.tombstone.handling.mode=rewrite-with-tombstone"), "{note}");
    }
    let overridden = [unwrap.as_slice(), &[("transforms.u.delete.tombstone.handling.mode", "drop")]].concat();
    assert!(chain(&overridden).1[0].contains("has no effect beside delete.tombstone.handling.mode"));
}

#[test]
fn metadata_is_added_where_it_is_found() {
    let fields = ("add.fields", "op,table,source.db,source.snapshot:snap,ts_ms,source.ts_ms,transaction.total_order:n,id,nosuch");
    let lines = unwrapped(&[fields, ("add.fields.prefix", "meta_"), (MODE, "rewrite")], vec![create()]);
    let added = r#""meta_op":"c","meta_table":"t","meta_source_db":"db","meta_snap":null,"meta_ts_ms":7,"meta_source_ts_ms":5,"meta_n":2,"meta_id":"7""#;
    assert_eq!(lines, [format!(r#"s.t {{"id":1,"v":"a","dest":"there","__deleted":"false",{added}}}"#)]);
}

#[test]
fn prefixes_keep_their_blanks() {
    let options = [("add.fields", "op"), ("add.fields.prefix", " f "), ("add.headers", "op"), ("add.headers.prefix", " h ")];
    assert_eq!(unwrapped(&options, vec![create()]), [r#"s.t  h op=c {"id":1,"v":"a","dest":"there"," f op":"c"}"#]);
}

#[test]
fn references_are_taken_apart_as_debezium_does() {
    let fields = ("add.fields", "op:,source.table.more,after.id.:n,ts_ms.");
    let added = r#""__op":"c","__source_table":"t","__n":1,"__ts_ms":7"#;
    assert_eq!(unwrapped(&[fields], vec![create()]), [format!(r#"s.t {{"id":1,"v":"a","dest":"there",{added}}}"#)]);
    for text in [":", ".", ":y", ".x", "op::x", "a:b:c"] {
        let config = [("transforms", "u"), ("transforms.u.type", UNWRAP), ("transforms.u.add.headers", text)];
        assert_eq!(faults(&config).len(), 1, "{text}");
    }
}

#[test]
fn added_headers_stand_behind_the_others_and_on_tombstones_with_the_operation_again() {
    let options = [(MODE, "rewrite-with-tombstone"), ("add.headers", "op:operation,source.table,snapshot"), ("add.headers.prefix", "cdc.")];
    let lines = unwrapped(&options, vec![delete()]);
    let headers = "cdc.operation=d cdc.source_table=t cdc.snapshot=- ";
    assert!(lines[0].starts_with(&format!("s.t {headers}{{")), "{lines:?}");
    assert_eq!(lines[1], format!("s.t {headers}cdc.operation=d -"));
    let changed = Change::KeyChange { old_key: key(1), new_key: key(2), before: row(1, Value::Null, ""), after: row(2, Value::Null, "") };
    let lines = unwrapped(&[("add.headers", "op")], vec![changed]);
    assert!(lines[0].starts_with(r#"s.t __debezium.newkey={"id":2} __op=d null"#), "{lines:?}");
    assert!(lines[1].starts_with(r#"s.t __debezium.oldkey={"id":1} __op=c {"#), "{lines:?}");
}

#[test]
fn a_column_names_the_topic_and_the_tombstone_stays() {
    let whole = || Change::Delete { key: key(1), before: row(1, Value::Null, "gone") };
    let options = [("route.by.field", "dest"), (MODE, "rewrite-with-tombstone")];
    let topics: Vec<String> =
        unwrapped(&options, vec![create(), whole(), delete()]).into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(topics, ["there", "gone", "s.t", "s.t", "s.t"]);
    assert_eq!(unwrapped(&[("route.by.field", "dest")], vec![whole()]), ["gone null"]);
}

#[test]
fn rewrite_routes_by_defaults_of_nulls_but_deletes_by_what_they_say() {
    let topics = |mode: &str, replace: &str| {
        let options = [("route.by.field", "v"), (MODE, mode), ("replace.null.with.default", replace)];
        let create = Change::Create { key: key(1), after: row(1, Value::Null, "x") };
        let gone = Change::Delete { key: key(1), before: row(1, Value::Null, "x") };
        let lines = unwrapped(&options, vec![create, gone, delete()]);
        lines.into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(topics("rewrite", "true"), ["d", "s.t", "s.t"]);
    assert_eq!(topics("rewrite", "false"), ["s.t", "s.t", "s.t"]);
    assert_eq!(topics("tombstone", "true"), ["s.t", "s.t", "s.t"]);
}

#[test]
fn a_delete_goes_to_the_topic_that_the_default_of_a_required_column_names() {
    let table = table_with_destination(Schema::of(Kind::String).default(Value::text("usual")).build());
    for mode in ["tombstone", "delete-to-tombstone", "rewrite"] {
        let mut chain = chain(&[
            ("transforms", "u"),
            ("transforms.u.type", UNWRAP),
            ("transforms.u.route.by.field", "dest"),
            ("transforms.u.delete.tombstone.handling.mode", mode),
        ])
        .0;
        let record = chain.apply(table.records(delete()).remove(0)).unwrap().unwrap();
        assert_eq!(&*record.topic, "usual", "{mode}");
    }
}

#[test]
fn routing_by_a_column_that_is_not_there_is_an_error_of_the_record() {
    let (mut chain, _) = chain(&[("transforms", "u"), ("transforms.u.type", UNWRAP), ("transforms.u.route.by.field", "nosuch")]);
    let error = chain.apply(table().records(create()).remove(0)).unwrap_err();
    assert!(error.to_string().contains("route by field nosuch"), "{error}");
    assert_eq!(error.scope(), &tailwater_api::Scope::Record);
}

#[test]
fn a_header_lists_columns_to_leave_out() {
    let list = |names: &[&'static str]| {
        let schema = Schema::of(Kind::Array(Schema::of(Kind::String).build())).build();
        SchemaAndValue::new(schema, Value::Array(names.iter().map(|name| Value::text(name)).collect()))
    };
    let unwrap = |options: &[(&str, &str)], names: &[&'static str]| {
        let mut entries = vec![("transforms", "u"), ("transforms.u.type", UNWRAP), ("transforms.u.drop.fields.header.name", "drop")];
        entries.extend_from_slice(options);
        let mut record = table().records(create()).remove(0);
        record.headers.push("drop", list(names));
        chain(&entries).0.apply(record).unwrap().unwrap()
    };
    let value = |record: &Record| line(record).split_once("] ").unwrap().1.to_owned();
    let compatible = unwrap(&[], &["v", "dest", "nosuch"]);
    assert_eq!(value(&compatible), r#"{"id":1,"dest":"there"}"#);
    let every = [("transforms.u.drop.fields.keep.schema.compatible", "false"), ("transforms.u.drop.fields.from.key", "true")];
    let reduced = unwrap(&every, &["id", "dest"]);
    assert_eq!(value(&reduced), r#"{"v":"a"}"#);
    assert_eq!(reduced.key.value, Value::Struct(Box::new([])));
    let names: Vec<&str> = reduced.value.schema.as_ref().unwrap().fields().iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["v"]);
    assert_eq!(value(&unwrap(&[], &[])), r#"{"id":1,"v":"a","dest":"there"}"#);
}

#[test]
fn rewrite_makes_defaults_of_nulls_unless_told_otherwise() {
    let unwrap = |mode: &str, replace: &str| {
        let entries = [
            ("transforms", "u"),
            ("transforms.u.type", UNWRAP),
            ("transforms.u.delete.tombstone.handling.mode", mode),
            ("transforms.u.replace.null.with.default", replace),
        ];
        let record = table().records(Change::Create { key: key(1), after: row(1, Value::Null, "x") }).remove(0);
        chain(&entries).0.apply(record).unwrap().unwrap().value.value.as_struct().unwrap()[1].clone()
    };
    for mode in ["rewrite", "rewrite-with-tombstone"] {
        assert_eq!((unwrap(mode, "true"), unwrap(mode, "false")), (Value::text("d"), Value::Null), "{mode}");
    }
    for mode in ["drop", "tombstone", "delete-to-tombstone"] {
        assert_eq!(unwrap(mode, "true"), Value::Null, "{mode}");
    }
}

/// I8
#[test]
fn what_is_not_known_passes_as_such() {
    let (mut chain, _) = chain(&[("transforms", "u"), ("transforms.u.type", UNWRAP)]);
    let after = Value::Struct(Box::new([Value::Int32(1), Value::Unchanged, Value::text("x")]));
    let record = table().records(Change::Update { key: key(1), before: Value::Null, after: after.clone() }).remove(0);
    assert_eq!(chain.apply(record).unwrap().unwrap().value.value, after);
}

#[test]
fn rows_have_a_required_schema_made_once_and_deletes_the_optional_one() {
    let (mut chain, _) = chain(&[("transforms", "u"), ("transforms.u.type", UNWRAP)]);
    let table = table();
    let mut schema = |change| chain.apply(table.records(change).remove(0)).unwrap().unwrap().value.schema.unwrap();
    let (one, two, deleted) = (schema(create()), schema(create()), schema(delete()));
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!((one.name(), one.is_optional(), deleted.name(), deleted.is_optional()), (Some("s.t.Value"), false, Some("s.t.Value"), true));
}

#[test]
fn what_is_no_event_passes_untouched() {
    let (mut chain, _) = chain(&[("transforms", "u"), ("transforms.u.type", "ExtractNewRecordState"), ("transforms.u.add.headers", "op")]);
    let value = SchemaAndValue::new(Schema::of(Kind::String).build(), "text".into());
    let record = Record::new("t".into(), SchemaAndValue::NONE, value);
    assert_eq!(chain.apply(record.clone()).unwrap(), Some(record));
}

#[test]
fn a_router_names_topics_that_match_as_a_whole() {
    let router = [
        ("transforms", "route"),
        ("transforms.route.type", "org.apache.kafka.connect.transforms.RegexRouter"),
        ("transforms.route.regex", r"([^.]+)\.([^.]+)"),
        ("transforms.route.replacement", "$2"),
    ];
    let (mut chain, _) = chain(&router);
    let mut routed = |topic: &str| {
        let record = Record::new(topic.into(), SchemaAndValue::NONE, SchemaAndValue::NONE);
        chain.apply(record).unwrap().unwrap().topic.to_string()
    };
    assert_eq!((routed("s.t"), routed("s.p.t"), routed("s.t")), ("t".into(), "s.p.t".into(), "t".into()));
}

#[test]
fn a_predicate_chooses_the_records() {
    let predicate = |class: &str, option: (&str, &str), negate: &str| {
        let class = format!("org.apache.kafka.connect.transforms.predicates.{class}");
        let option_key = format!("predicates.p.{}", option.0);
        let entries = [
            ("transforms", "r"),
            ("transforms.r.type", "RegexRouter"),
            ("transforms.r.regex", ".*"),
            ("transforms.r.replacement", "taken"),
            ("transforms.r.predicate", "p"),
            ("transforms.r.negate", negate),
            ("predicates", "p"),
            ("predicates.p.type", class.as_str()),
            (option_key.as_str(), option.1),
        ];
        let (mut chain, _) = chain(&entries);
        let records = table().records(delete()).into_iter();
        records.map(|record| chain.apply(record).unwrap().unwrap().topic.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(predicate("TopicNameMatches", ("pattern", r"s\..*"), "false"), ["taken", "taken"]);
    assert_eq!(predicate("TopicNameMatches", ("pattern", "s"), "false"), ["s.t", "s.t"]);
    assert_eq!(predicate("TopicNameMatches", ("pattern", "s"), "true"), ["taken", "taken"]);
    assert_eq!(predicate("HasHeaderKey", ("name", "none"), "false"), ["s.t", "s.t"]);
    assert_eq!(predicate("RecordIsTombstone", ("plugin.version", "1"), "false"), ["s.t", "taken"]);
}

#[test]
fn all_faults_are_reported_by_key() {
    let config = [
        ("transforms", "a,b,c,d,a"),
        ("transforms.a.type", "org.apache.kafka.connect.transforms.RegexRuter"),
        ("transforms.b.type", UNWRAP),
        ("transforms.b.delete.tombstone.handling.mode", "maybe"),
        ("transforms.b.predicate", "nosuch"),
        ("transforms.b.add.fields", "a:b:c"),
        ("transforms.c.type", "RegexRouter"),
        ("transforms.c.regex", "(unclosed"),
        ("transforms.c.replacement", "x"),
        ("predicates", "q"),
        ("predicates.q.type", "HasHeaderKey"),
    ];
    let faults = faults(&config);
    let expected = [
        "predicates.q.name: is missing",
        "transforms: names a twice",
        "transforms.a.type: unknown or not yet available transform org.apache.kafka.connect.transforms.RegexRuter; did you mean org.apache",
        "transforms.b.delete.tombstone.handling.mode: must be one of drop, tombstone",
        "transforms.b.add.fields: has \"a:b:c\"",
        "transforms.b.predicate: names nosuch, which predicates does not declare",
        "transforms.c.regex: is not a regular expression",
        "transforms.d.type: is missing",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.starts_with(expected), "{fault} / {expected}");
    }
}

#[test]
fn options_without_effect_are_noted() {
    let notes =
        chain(&[("transforms", "u"), ("transforms.u.type", UNWRAP), ("transforms.u.add.feilds", "op"), ("transforms.other.type", "x")]).1;
    assert_eq!(
        notes,
        [
            "transforms.other.type: has no effect: transforms does not name it",
            "transforms.u.add.feilds: is not known and has no effect; did you mean transforms.u.add.fields?",
        ]
    );
}
