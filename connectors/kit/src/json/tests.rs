use std::sync::Arc;

use bytes::Bytes;
use tailwater_api::{Field, Kind};

use super::*;

fn written(schema: Option<&Schema>, value: &Value) -> String {
    let mut out = Vec::new();
    JsonWriter::new(JsonOptions::default()).write(schema, value, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn row_schema() -> Arc<Schema> {
    let fields = vec![
        Field::new("id", Schema::of(Kind::Int32).build()),
        Field::new("n\"", Schema::of(Kind::Bytes).optional().name(crate::stand_in::DECIMAL).parameter("scale", "2").build()),
        Field::new("v", Schema::of(Kind::String).optional().default(Value::text("d")).build()),
        Field::new("w", Schema::of(Kind::String).build()),
    ];
    Schema::structure(fields).build()
}

#[test]
fn a_struct_is_an_object_of_all_its_fields() {
    let value = Value::Struct(Box::new([Value::Int32(-1), Value::Bytes(Bytes::from_static(&[0, 150])), Value::text("x"), Value::text("")]));
    assert_eq!(written(Some(&row_schema()), &value), r#"{"id":-1,"n\"":"AJY=","v":"x","w":""}"#);
}

#[test]
fn decimals_may_be_numbers() {
    let value = Value::Struct(Box::new([Value::Int32(1), Value::Bytes(Bytes::from_static(&[0, 150])), Value::Null, Value::text("")]));
    let options = JsonOptions { decimal_format: DecimalFormat::Numeric, replace_null_with_default: false, ..JsonOptions::default() };
    let mut out = Vec::new();
    JsonWriter::new(options).write(Some(&row_schema()), &value, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"id":1,"n\"":1.50,"v":null,"w":""}"#);
}

/// I8
#[test]
fn unknown_values_have_stand_ins() {
    let schema = row_schema();
    let unchanged = Value::Struct(Box::new([Value::Unchanged, Value::Unchanged, Value::Unchanged, Value::Unchanged]));
    let placeholder = "__debezium_unavailable_value";
    assert_eq!(written(Some(&schema), &unchanged), format!(r#"{{"id":null,"n\"":null,"v":"{placeholder}","w":"{placeholder}"}}"#));
    let unknown = Value::Struct(Box::new([Value::NotInIdentity, Value::NotInIdentity, Value::NotInIdentity, Value::NotInIdentity]));
    assert_eq!(written(Some(&schema), &unknown), r#"{"id":0,"n\"":null,"v":"d","w":""}"#);
}

#[test]
fn maps_with_other_keys_than_strings_are_lists_of_pairs() {
    let map = Value::Map(Box::new([(Value::Int32(1), Value::text("a")), (Value::Int32(2), Value::Null)]));
    let values = Schema::of(Kind::String).optional().build();
    let schema = Schema::of(Kind::Map(Schema::of(Kind::Int32).build(), values)).build();
    assert_eq!(written(Some(&schema), &map), r#"[[1,"a"],[2,null]]"#);
    assert_eq!(written(None, &map), r#"[[1,"a"],[2,null]]"#);
    let object = Value::Map(Box::new([(Value::text("k"), Value::Array(Box::new([Value::Boolean(true)])))]));
    assert_eq!(written(None, &object), r#"{"k":[true]}"#);
}

#[test]
fn a_misfit_is_named_and_leaves_nothing_behind() {
    let value = Value::Struct(Box::new([Value::text("one"), Value::Null, Value::Null, Value::Null]));
    let mut out = b"before".to_vec();
    let error = JsonWriter::new(JsonOptions::default()).write(Some(&row_schema()), &value, &mut out).unwrap_err();
    assert!(error.to_string().contains("field id: a string where the schema says int32"), "{error}");
    assert_eq!((out.as_slice(), error.scope()), (b"before".as_slice(), &Scope::Record));
    let value = Value::Struct(Box::new([Value::Int32(1), Value::Null, Value::Null, Value::Null]));
    let error = JsonWriter::new(JsonOptions::default()).write(Some(&row_schema()), &value, &mut out).unwrap_err();
    assert!(error.to_string().contains("field w: a null"), "{error}");
}
