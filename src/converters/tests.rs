use std::sync::Arc;

use tailwater_api::{Field, Kind, SchemaAndValue};

use super::*;

fn values(entries: &[(&str, &str)]) -> ConfigValues {
    entries.iter().copied().collect()
}

fn converters(connector: &[(&str, &str)], worker: &[(&str, &str)]) -> Converters {
    match Converters::from_config(&values(connector), &values(worker), "__debezium_unavailable_value") {
        Ok((converters, _)) => converters,
        Err(report) => panic!("{report:?}"),
    }
}

fn faults(connector: &[(&str, &str)]) -> Vec<String> {
    let result = Converters::from_config(&values(connector), &values(&[]), "");
    result.err().unwrap_or_default().faults.iter().map(ToString::to_string).collect()
}

fn notes(connector: &[(&str, &str)], worker: &[(&str, &str)]) -> Vec<String> {
    let Ok((_, report)) = Converters::from_config(&values(connector), &values(worker), "") else { panic!("faults") };
    report.notes.iter().map(ToString::to_string).collect()
}

fn schema(kind: Kind) -> Arc<Schema> {
    Schema::of(kind).optional().build()
}

fn record() -> Record {
    let key = Schema::structure(vec![Field::new("id", Schema::of(Kind::Int32).build())]).build();
    let decimal = Schema::of(Kind::Bytes).optional().name(stand_in::DECIMAL).version(1).parameter("scale", "2").build();
    let fields = vec![
        Field::new("id", Schema::of(Kind::Int32).build()),
        Field::new("v", schema(Kind::String)),
        Field::new("n", decimal),
        Field::new("a", schema(Kind::Array(schema(Kind::String)))),
        Field::new("b", schema(Kind::Bytes)),
        Field::new("d", schema(Kind::Float64)),
        Field::new("flag", schema(Kind::Boolean)),
    ];
    let row = Value::Struct(Box::new([
        Value::Int32(1),
        Value::text("a=1,{}"),
        Value::Bytes(Bytes::from_static(&[0, 150])),
        Value::Array(Box::new([Value::text("x"), Value::Null])),
        Value::Bytes(Bytes::from_static(&[1, 2])),
        Value::Float64(1e21),
        Value::Boolean(true),
    ]));
    let key = SchemaAndValue::new(key, Value::Struct(Box::new([Value::Int32(1)])));
    Record::new("t".into(), key, SchemaAndValue::new(Schema::structure(fields).build(), row))
}

fn text(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "nothing".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn header(name: &str, schema: Arc<Schema>, value: Value) -> String {
    let mut record = record();
    record.headers.push(name, SchemaAndValue::new(schema, value));
    let mut converted = converters(&[], &[]).convert(&record).unwrap();
    text(converted.headers.pop().unwrap().1)
}

#[test]
fn json_without_schemas_is_what_nobody_asked_for_and_json_by_name_has_them() {
    let plain = converters(&[], &[]).convert(&record()).unwrap();
    assert_eq!(text(plain.key), r#"{"id":1}"#);
    assert_eq!(text(plain.value), r#"{"id":1,"v":"a=1,{}","n":"AJY=","a":["x",null],"b":"AQI=","d":1.0E21,"flag":true}"#);
    let named = converters(&[("key.converter", "json")], &[]).convert(&record()).unwrap();
    let schema = r#"{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"}],"optional":false}"#;
    assert_eq!(text(named.key), format!(r#"{{"schema":{schema},"payload":{{"id":1}}}}"#));
}

#[test]
fn a_connectors_converter_replaces_the_workers_with_its_options() {
    let worker = [("key.converter", "json"), ("key.converter.schemas.enable", "false")];
    assert_eq!(text(converters(&[], &worker).convert(&record()).unwrap().key), r#"{"id":1}"#);
    let connector = [("key.converter", "org.apache.kafka.connect.json.JsonConverter")];
    assert!(text(converters(&connector, &worker).convert(&record()).unwrap().key).starts_with(r#"{"schema":"#));
}

#[test]
fn strings_are_what_java_prints() {
    let string = "org.apache.kafka.connect.storage.StringConverter";
    let converted = converters(&[("key.converter", string), ("value.converter", "string")], &[]).convert(&record()).unwrap();
    assert_eq!(text(converted.key), "Struct{id=1}");
    let expected = "Struct{id=1,v=a=1,{},n=1.50,a=[x, null],b=java.nio.HeapByteBuffer[pos=0 lim=2 cap=2],d=1.0E21,flag=true}";
    assert_eq!(text(converted.value), expected);
}

#[test]
fn a_tombstone_is_nothing_and_a_null_with_a_schema_is_null() {
    let mut record = record();
    record.value = SchemaAndValue::NONE;
    assert_eq!(converters(&[], &[]).convert(&record).unwrap().value, None);
    assert_eq!(converters(&[("value.converter", "json")], &[]).convert(&record).unwrap().value, None);
    record.value = SchemaAndValue::new(schema(Kind::String), Value::Null);
    assert_eq!(text(converters(&[], &[]).convert(&record).unwrap().value), "null");
    let with_schemas = converters(&[("value.converter", "json")], &[]).convert(&record).unwrap().value;
    assert_eq!(text(with_schemas), r#"{"schema":{"type":"string","optional":true},"payload":null}"#);
    assert_eq!(converters(&[("value.converter", "string")], &[]).convert(&record).unwrap().value, None);
}

#[test]
fn headers_are_text_that_connect_reads_back() {
    let key = Schema::structure(vec![Field::new("id", Schema::of(Kind::Int32).build()), Field::new("t", schema(Kind::String))]).build();
    assert_eq!(header("h", key, Value::Struct(Box::new([Value::Int32(30), "a\"b".into()]))), r#"{"id":30,"t":"a\"b"}"#);
    assert_eq!(header("h", schema(Kind::String), "plain \"text\"".into()), "plain \"text\"");
    assert_eq!(header("h", schema(Kind::String), Value::Null), "nothing");
    assert_eq!(header("h", schema(Kind::Array(schema(Kind::String))), Value::Array(Box::new(["n".into(), Value::Null]))), r#"["n",null]"#);
    assert_eq!(header("h", schema(Kind::Bytes), Value::Bytes(Bytes::from_static(&[1, 2]))), "AQI=");
    assert_eq!(header("h", schema(Kind::Int64), Value::Int64(1_795_228_389_069)), "1795228389069");
    let date = Schema::of(Kind::Int32).name("org.apache.kafka.connect.data.Date").build();
    assert_eq!(header("h", date, Value::Int32(19_782)), "2024-02-29");
}

#[test]
fn fields_of_headers_that_the_log_does_not_tell_are_defaults_but_unchanged_ones_are_not() {
    let with_default = |kind: Kind, default: Value| Schema::of(kind).optional().default(default).build();
    let fields = vec![
        Field::new("a", with_default(Kind::String, "d".into())),
        Field::new("b", schema(Kind::String)),
        Field::new("c", with_default(Kind::Int32, Value::Int32(7))),
        Field::new("d", with_default(Kind::Int32, Value::Int32(7))),
    ];
    let row = Value::Struct(Box::new([Value::NotInIdentity, Value::NotInIdentity, Value::Null, Value::Unchanged]));
    assert_eq!(header("h", Schema::structure(fields).build(), row), r#"{"a":"d","b":null,"c":7,"d":null}"#);
}

#[test]
fn bytes_pass_as_they_are_and_nothing_else_does() {
    let mut record = record();
    let mut bytes = converters(&[("value.converter", "org.apache.kafka.connect.converters.ByteArrayConverter")], &[]);
    let error = bytes.convert(&record).unwrap_err();
    assert!(error.to_string().contains("type struct"), "{error}");
    record.value = SchemaAndValue::new(schema(Kind::Bytes), Value::Bytes(Bytes::from_static(b"raw")));
    assert_eq!(text(bytes.convert(&record).unwrap().value), "raw");
    record.value = SchemaAndValue::new(schema(Kind::Int32), Value::Int32(258));
    let number = converters(&[("value.converter", "IntegerConverter")], &[]).convert(&record).unwrap();
    assert_eq!(number.value.as_deref(), Some([0, 0, 1, 2].as_slice()));
}

#[test]
fn all_faults_are_reported_by_key() {
    let config = [
        ("key.converter", "org.apache.kafka.connect.json.JsonConvertor"),
        ("value.converter", "io.confluent.connect.avro.AvroConverter"),
        ("header.converter", "json"),
        ("header.converter.schemas.enable", "maybe"),
    ];
    let faults = faults(&config);
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[0].starts_with("key.converter: ") && faults[0].contains("did you mean org.apache.kafka.connect.json.JsonConverter"));
    assert!(faults[1].contains("comes with the schema registry"));
    assert!(faults[2].starts_with("header.converter.schemas.enable: must be true or false"));
}

#[test]
fn options_without_effect_are_noted() {
    let misspelt = notes(&[("value.converter", "json"), ("value.converter.schema.enable", "false")], &[]);
    assert_eq!(misspelt, ["value.converter.schema.enable: is not known and has no effect; did you mean value.converter.schemas.enable?"]);
    let alone = notes(&[("value.converter.schemas.enable", "false")], &[("value.converter", "json")]);
    assert_eq!(alone, ["value.converter.schemas.enable: has no effect without value.converter beside it"]);
}

const CLOUD_EVENTS: &str = "io.debezium.converters.CloudEventsConverter";

/// A source block, an operation and a transaction in headers, as HeaderFrom leaves them.
fn headers_of_an_event() -> Vec<(&'static str, SchemaAndValue)> {
    let text = || Schema::of(Kind::String).build();
    let optional = |kind| Schema::of(kind).optional().build();
    let fields = vec![
        Field::new("connector", text()),
        Field::new("name", text()),
        Field::new("ts_ms", Schema::of(Kind::Int64).build()),
        Field::new("snapshot", Schema::of(Kind::String).optional().default(Value::text("false")).build()),
        Field::new("txId", optional(Kind::Int64)),
        Field::new("origin_lsn", optional(Kind::Int64)),
    ];
    let source = Value::Struct(Box::new([
        Value::text("postgresql"),
        Value::text("shop"),
        Value::Int64(1_709_210_096_780),
        Value::Null,
        Value::Int64(7),
        Value::Null,
    ]));
    vec![
        ("source", SchemaAndValue::new(Schema::structure(fields).build(), source)),
        ("op", SchemaAndValue::new(text(), Value::text("c"))),
        ("id", SchemaAndValue::new(text(), Value::text("an \"id\""))),
        ("type", SchemaAndValue::new(text(), Value::text("Created"))),
        ("dataSchemaName", SchemaAndValue::new(text(), Value::text("Order"))),
    ]
}

fn small_record(headers: &[(&'static str, SchemaAndValue)]) -> Record {
    let row = Schema::structure(vec![Field::new("a", schema(Kind::Int32))]).name("x").build();
    let value = SchemaAndValue::new(row, Value::Struct(Box::new([Value::Int32(1)])));
    let mut record = Record::new("t".into(), SchemaAndValue::NONE, value);
    for (name, value) in headers {
        record.headers.push(*name, value.clone());
    }
    record
}

#[test]
fn a_cloud_event_is_made_of_metadata_in_headers() {
    let mut converters = converters(&[("value.converter", CLOUD_EVENTS), ("value.converter.metadata.source", "header")], &[]);
    let record = small_record(&headers_of_an_event());
    let expected = concat!(
        r#"{"id":"an \"id\"","source":"/debezium/postgresql/shop","specversion":"1.0","type":"Created","time":"2024-02-29T12:34:56.780Z","#,
        r#""datacontenttype":"application/json","iodebeziumop":"c","iodebeziumconnector":"postgresql","iodebeziumname":"shop","#,
        r#""iodebeziumtsms":"1709210096780","iodebeziumsnapshot":"false","iodebeziumtxId":"7","iodebeziumoriginlsn":null,"#,
        r#""iodebeziumtxid":null,"iodebeziumtxtotalorder":null,"iodebeziumtxdatacollectionorder":null,"#,
        r#""data":{"schema":{"type":"struct","fields":[{"type":"int32","optional":true,"field":"a"}],"optional":false,"name":"Order"},"#,
        r#""payload":{"a":1}}}"#,
    );
    assert_eq!(text(converters.convert(&record).unwrap().value), expected);
    assert_eq!(text(converters.convert(&record).unwrap().value), expected, "from what was compiled");
}

#[test]
fn ids_types_and_names_are_generated_where_that_is_asked_for() {
    let options = [
        ("value.converter", "cloudevents"),
        ("value.converter.metadata.source", "header, id:generate, type:generate, dataSchemaName:generate"),
        ("value.converter.extension.attributes.enable", "false"),
    ];
    let written = text(converters(&options, &[]).convert(&small_record(&headers_of_an_event())).unwrap().value);
    assert!(written.starts_with(r#"{"id":"name:shop;lsn:null;txId:7;sequence:null","#), "{written}");
    assert!(written.contains(r#""type":"io.debezium.connector.postgresql.DataChangeEvent""#), "{written}");
    assert!(written.contains(r#""name":"io.debezium.connector.postgresql.Data""#), "{written}");
    assert!(!written.contains("iodebezium"), "{written}");
}

#[test]
fn what_is_no_change_event_is_json_and_a_missing_header_is_an_error() {
    let record = small_record(&[]);
    let in_value = [("value.converter", CLOUD_EVENTS), ("value.converter.json.schemas.enable", "false")];
    assert_eq!(text(converters(&in_value, &[]).convert(&record).unwrap().value), r#"{"a":1}"#);
    let in_headers = [("value.converter", CLOUD_EVENTS), ("value.converter.metadata.source", "header,dataSchemaName:generate")];
    let without_type = headers_of_an_event().into_iter().filter(|(name, _)| *name != "type").collect::<Vec<_>>();
    let error = converters(&in_headers, &[]).convert(&small_record(&without_type)).unwrap_err();
    assert!(error.to_string().contains("no header \"type\""), "{error}");
}

#[test]
fn the_schema_of_the_data_has_its_usual_name_where_no_header_names_it() {
    let without_name = headers_of_an_event().into_iter().filter(|(name, _)| *name != "dataSchemaName").collect::<Vec<_>>();
    let by_list = ("value.converter.metadata.source", "header");
    let by_switch = ("value.converter.metadata.source", "header,dataSchemaName:generate");
    for (source, enabled) in [(by_list, "false"), (by_switch, "true")] {
        let options = [("value.converter", CLOUD_EVENTS), source, ("value.converter.schema.data.name.source.header.enable", enabled)];
        let mut converters = converters(&options, &[]);
        let unnamed = text(converters.convert(&small_record(&without_name)).unwrap().value);
        assert!(unnamed.contains(r#""name":"io.debezium.connector.postgresql.Data""#), "{unnamed}");
        let named = text(converters.convert(&small_record(&headers_of_an_event())).unwrap().value);
        assert!(named.contains(r#""name":"Order""#), "{named}");
    }
}

#[test]
fn what_cloud_events_cannot_be_is_a_fault() {
    let prefix = "value.converter";
    let one = |key: &str, value: &str| faults(&[(prefix, CLOUD_EVENTS), (&format!("{prefix}.{key}"), value)]).join("\n");
    assert!(one("serializer.type", "avro").contains("comes with the schema registry"));
    assert!(one("data.serializer.type", "avro").contains("comes with the schema registry"));
    assert!(one("metadata.source", "value,id:made-up").contains("generate or header"));
    assert!(one("metadata.source", "value,colour:header").contains("\"colour:header\""));
    assert!(one("opentelemetry.tracing.attributes.enable", "true").contains("no traces"));
    assert_eq!(one("json.schemas.enable", "false"), "");
    assert_eq!(faults(&[("key.converter", CLOUD_EVENTS)]), ["key.converter: CloudEventsConverter writes values only"]);
}
