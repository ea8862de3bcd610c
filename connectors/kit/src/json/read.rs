//! JSON read back as values and schemas, as the JsonConverter of Kafka Connect 4.3 reads it (`toConnectData`).
//!
//! Without a schema a value describes itself: integers are int64, other numbers doubles, objects maps of texts. A schema says more,
//! and must fit. Schemas arrive beside every value as the same text, so they are kept by it, a bounded number of them, and records
//! of one text share one schema.
//!
//! Beyond Connect: quoted numbers that are not finite are read as what they are, and an integer that no int64 holds is refused where
//! Connect takes its lower bits.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use num_bigint::BigInt;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tailwater_api::record::SchemaAndValue;
use tailwater_api::{Error, ErrorKind, Field, Kind, Result, Schema, Scope, Value};

use crate::stand_in::{DECIMAL, Placeholder};

/// At most this many schemas are kept; past it all are forgotten and read anew.
const CAPACITY: usize = 1000;

/// What a [`JsonReader`] is told.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Whether a null whose schema has a default is read as the default
    pub replace_null_with_default: bool,
    /// What stands for unchanged values; a text or bytes equal to it are read as *unchanged* (I8)
    pub placeholder: Option<Placeholder>,
}

/// Reads JSON. Keeps schemas by their text, so it is owned by one thread.
#[derive(Debug)]
pub struct JsonReader {
    options: ReadOptions,
    schemas: HashMap<Box<str>, Arc<Schema>>,
}

impl JsonReader {
    /// A reader that knows no schema yet.
    #[must_use]
    pub fn new(options: ReadOptions) -> Self {
        Self { options, schemas: HashMap::new() }
    }

    /// Reads a value that describes itself.
    ///
    /// # Errors
    /// `unreadable`, of the record: it is no JSON.
    pub fn read(&self, bytes: &[u8]) -> Result<Value> {
        self.value(None, bytes).map_err(unreadable)
    }

    /// Reads `{"schema":…,"payload":…}`.
    ///
    /// # Errors
    /// `unreadable`, of the record: it has another form, or the payload does not fit the schema.
    pub fn read_with_schema(&mut self, bytes: &[u8]) -> Result<SchemaAndValue> {
        let wrapped = wrapped(bytes).map_err(|error| {
            unreadable(error).mend(
                "schemas.enable demands an object of \"schema\" and \"payload\" alone; for plain JSON set schemas.enable=false of the converter",
            )
        })?;
        let schema = match wrapped.schema.get() {
            "null" => None,
            text => Some(self.schema(text)?),
        };
        let value = self.value(schema.as_deref(), wrapped.payload.get().as_bytes()).map_err(unreadable)?;
        Ok(SchemaAndValue { schema, value })
    }

    fn value(&self, schema: Option<&Schema>, json: &[u8]) -> serde_json::Result<Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = Seed { schema, options: &self.options }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }

    fn schema(&mut self, text: &str) -> Result<Arc<Schema>> {
        if let Some(schema) = self.schemas.get(text) {
            return Ok(Arc::clone(schema));
        }
        let json: serde_json::Value = serde_json::from_str(text).map_err(unreadable)?;
        let schema = parse_schema(&json, &self.options).map_err(unreadable)?;
        if self.schemas.len() >= CAPACITY {
            self.schemas.clear();
        }
        self.schemas.insert(text.into(), Arc::clone(&schema));
        Ok(schema)
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Unreadable, "read a value as JSON").scoped(Scope::Record).because(error)
}

struct Wrapped<'a> {
    schema: &'a RawValue,
    payload: &'a RawValue,
}

fn wrapped(bytes: &[u8]) -> serde_json::Result<Wrapped<'_>> {
    let mut fields: HashMap<&str, &RawValue> = serde_json::from_slice(bytes)?;
    match (fields.remove("schema"), fields.remove("payload"), fields.is_empty()) {
        (Some(schema), Some(payload), true) => Ok(Wrapped { schema, payload }),
        (_, _, _) => Err(serde_json::Error::custom("it is not an object of \"schema\" and \"payload\" alone")),
    }
}

/// A schema as [`super::JsonWriter::write_schema`] describes it.
fn parse_schema(json: &serde_json::Value, options: &ReadOptions) -> serde_json::Result<Arc<Schema>> {
    let wrong = |why: String| serde_json::Error::custom(why);
    let inner = |key: &str| parse_schema(json.get(key).ok_or_else(|| wrong(format!("a schema has no {key}")))?, options);
    let text = |key: &str| json.get(key).and_then(serde_json::Value::as_str);
    let kind = match text("type").ok_or_else(|| wrong("a schema has no type".to_owned()))? {
        "boolean" => Kind::Boolean,
        "int8" => Kind::Int8,
        "int16" => Kind::Int16,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "float" => Kind::Float32,
        "double" => Kind::Float64,
        "bytes" => Kind::Bytes,
        "string" => Kind::String,
        "array" => Kind::Array(inner("items")?),
        "map" => Kind::Map(inner("keys")?, inner("values")?),
        "struct" => {
            let fields = json.get("fields").and_then(serde_json::Value::as_array);
            let fields = fields.ok_or_else(|| wrong("a struct's schema has no fields".to_owned()))?;
            let field = |json: &serde_json::Value| {
                let name = json.get("field").and_then(serde_json::Value::as_str);
                Ok(Field::new(name.ok_or_else(|| wrong("a field has no name".to_owned()))?, parse_schema(json, options)?))
            };
            Kind::Struct(fields.iter().map(field).collect::<serde_json::Result<_>>()?)
        }
        other => return Err(wrong(format!("{other:?} is not a type of a schema"))),
    };
    let mut schema = Schema::of(kind).with_optional(json.get("optional").and_then(serde_json::Value::as_bool).unwrap_or(false));
    if let Some(name) = text("name") {
        schema = schema.name(name);
    }
    if let Some(version) = json.get("version").and_then(serde_json::Value::as_i64) {
        schema = schema.version(i32::try_from(version).map_err(|_| wrong("a schema's version is beyond 32 bits".to_owned()))?);
    }
    if let Some(doc) = text("doc") {
        schema = schema.doc(doc);
    }
    for (name, value) in json.get("parameters").and_then(serde_json::Value::as_object).into_iter().flatten() {
        let value = value.as_str().ok_or_else(|| wrong(format!("the parameter {name} of a schema is no text")))?;
        schema = schema.parameter(name.as_str(), value);
    }
    if let Some(default) = json.get("default").filter(|default| !default.is_null()) {
        let without = schema.clone().build();
        let text = default.to_string();
        let plain = ReadOptions { placeholder: None, ..options.clone() };
        schema =
            schema.default(Seed { schema: Some(&without), options: &plain }.deserialize(&mut serde_json::Deserializer::from_str(&text))?);
    }
    Ok(schema.build())
}

/// Reads one value of `schema`, or one that describes itself.
#[derive(Clone, Copy)]
struct Seed<'a> {
    schema: Option<&'a Schema>,
    options: &'a ReadOptions,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.schema {
            // Digits are not to pass through a double.
            Some(schema) if schema.name() == Some(DECIMAL) && matches!(schema.kind(), Kind::Bytes) => {
                let raw: &RawValue = serde::Deserialize::deserialize(deserializer)?;
                self.decimal(schema, raw.get()).map_err(D::Error::custom)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Seed<'_> {
    fn inner<'a>(&'a self, schema: Option<&'a Schema>) -> Seed<'a> {
        Seed { schema, options: self.options }
    }

    fn absent(&self) -> Result<Value, String> {
        let Some(schema) = self.schema else { return Ok(Value::Null) };
        match schema.default() {
            Some(default) if self.options.replace_null_with_default => Ok(default.clone()),
            Some(_) | None if schema.is_optional() => Ok(Value::Null),
            Some(default) => Ok(default.clone()),
            None => Err(format!("null for a required {}", schema.kind().name())),
        }
    }

    fn decimal(&self, schema: &Schema, json: &str) -> Result<Value, String> {
        if json == "null" {
            return self.absent();
        }
        if let Ok(text) = serde_json::from_str::<&str>(json) {
            return base64(text).map(Value::Bytes);
        }
        let scale = schema.parameter("scale").and_then(|scale| scale.parse().ok()).unwrap_or(0);
        unscaled(json, scale)
            .map(|unscaled| Value::Bytes(unscaled.to_signed_bytes_be().into()))
            .ok_or_else(|| format!("{json} is not a decimal of scale {scale}"))
    }

    fn integer(&self, value: i64) -> Result<Value, String> {
        let Some(schema) = self.schema else { return Ok(Value::Int64(value)) };
        let fitting = match schema.kind() {
            Kind::Int8 => i8::try_from(value).ok().map(Value::Int8),
            Kind::Int16 => i16::try_from(value).ok().map(Value::Int16),
            Kind::Int32 => i32::try_from(value).ok().map(Value::Int32),
            Kind::Int64 => Some(Value::Int64(value)),
            #[expect(clippy::cast_precision_loss, reason = "the writer took a float; Connect reads it the same way")]
            Kind::Float32 => Some(Value::Float32(value as f32)),
            #[expect(clippy::cast_precision_loss, reason = "the writer took a double; Connect reads it the same way")]
            Kind::Float64 => Some(Value::Float64(value as f64)),
            Kind::Boolean | Kind::Bytes | Kind::String | Kind::Array(_) | Kind::Map(..) | Kind::Struct(_) => None,
        };
        fitting.ok_or_else(|| format!("{value} for {}", schema.kind().name()))
    }

    fn text(&self, text: &str) -> Result<Value, String> {
        let placeholder = self.options.placeholder.as_ref();
        let Some(schema) = self.schema else {
            let is_unchanged = placeholder.is_some_and(|placeholder| &**placeholder.text() == text);
            return Ok(if is_unchanged { Value::Unchanged } else { Value::from(text) });
        };
        match (schema.kind(), text) {
            (Kind::String, _) if placeholder.is_some_and(|placeholder| &**placeholder.text() == text) => Ok(Value::Unchanged),
            (Kind::String, _) => Ok(Value::String(ByteString::from(text))),
            (Kind::Bytes, _) => {
                let bytes = Value::Bytes(base64(text)?);
                Ok(if placeholder.is_some_and(|placeholder| placeholder.of(schema) == bytes) { Value::Unchanged } else { bytes })
            }
            (Kind::Float32, "NaN") => Ok(Value::Float32(f32::NAN)),
            (Kind::Float32, "Infinity") => Ok(Value::Float32(f32::INFINITY)),
            (Kind::Float32, "-Infinity") => Ok(Value::Float32(f32::NEG_INFINITY)),
            (Kind::Float64, "NaN") => Ok(Value::Float64(f64::NAN)),
            (Kind::Float64, "Infinity") => Ok(Value::Float64(f64::INFINITY)),
            (Kind::Float64, "-Infinity") => Ok(Value::Float64(f64::NEG_INFINITY)),
            (kind, _) => Err(format!("a text for {}", kind.name())),
        }
    }
}

fn base64(text: &str) -> Result<Bytes, String> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| format!("bytes are not base64: {error}"))
}

/// The unscaled value of a JSON number; none where it has more digits behind the point than `scale`.
fn unscaled(number: &str, scale: i32) -> Option<BigInt> {
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(place) => (&number[..place], number[place + 1..].parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: BigInt = format!("{whole}{fraction}").parse().ok()?;
    let shift = scale.checked_add(exponent)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    // A number of more digits than any database has is no decimal, and would take memory without end.
    if shift.unsigned_abs() > 100_000 {
        return None;
    }
    let power = BigInt::from(10).pow(shift.unsigned_abs());
    if shift >= 0 {
        return Some(digits * power);
    }
    (&digits % &power == BigInt::ZERO).then(|| digits / power)
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.schema.map_or("a value", |schema| schema.kind().name()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.absent().map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.schema.map(Schema::kind) {
            None | Some(Kind::Boolean) => Ok(Value::Boolean(value)),
            Some(kind) => Err(E::custom(format!("a truth value for {}", kind.name()))),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.integer(value).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        let value = i64::try_from(value).map_err(|_| E::custom(format!("{value} is beyond 64 bits with a sign")))?;
        self.integer(value).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match self.schema.map(Schema::kind) {
            None | Some(Kind::Float64) => Ok(Value::Float64(value)),
            #[expect(clippy::cast_possible_truncation, reason = "the writer took a float")]
            Some(Kind::Float32) => Ok(Value::Float32(value as f32)),
            Some(kind) => Err(E::custom(format!("{value} for {}", kind.name()))),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        match self.schema.map(Schema::kind) {
            None | Some(Kind::Array(_)) => {
                let element = self.schema.and_then(|schema| match schema.kind() {
                    Kind::Array(element) => Some(&**element),
                    _ => None,
                });
                let mut values = Vec::new();
                while let Some(value) = elements.next_element_seed(self.inner(element))? {
                    values.push(value);
                }
                Ok(Value::Array(values.into()))
            }
            Some(Kind::Map(keys, values)) => {
                let mut entries = Vec::new();
                while let Some(entry) =
                    elements.next_element_seed(Entry { key: self.inner(Some(keys)), value: self.inner(Some(values)) })?
                {
                    entries.push(entry);
                }
                Ok(Value::Map(entries.into()))
            }
            Some(kind) => Err(A::Error::custom(format!("a list for {}", kind.name()))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        match self.schema.map(Schema::kind) {
            Some(Kind::Struct(fields)) => {
                let mut values: Vec<Option<Value>> = vec![None; fields.len()];
                let mut next = 0;
                while let Some(name) = entries.next_key::<std::borrow::Cow<'de, str>>()? {
                    // Fields mostly come in their order.
                    let is_next = fields.get(next).is_some_and(|field| *field.name == *name);
                    let place = if is_next { Some(next) } else { fields.iter().position(|field| *field.name == *name) };
                    match place {
                        Some(place) => {
                            values[place] = Some(entries.next_value_seed(self.inner(Some(&fields[place].schema)))?);
                            next = place + 1;
                        }
                        // As in Connect: what the schema does not name is not there.
                        None => drop(entries.next_value::<serde::de::IgnoredAny>()?),
                    }
                }
                let value = |(field, value): (&Field, Option<Value>)| match value {
                    Some(value) => Ok(value),
                    None => {
                        self.inner(Some(&field.schema)).absent().map_err(|why| A::Error::custom(format!("field {}: {why}", field.name)))
                    }
                };
                Ok(Value::Struct(fields.iter().zip(values).map(value).collect::<Result<_, _>>()?))
            }
            kind @ (None | Some(Kind::Map(..))) => {
                let (keys, values) = match kind {
                    Some(Kind::Map(keys, values)) => (Some(&**keys), Some(&**values)),
                    _ => (None, None),
                };
                if keys.is_some_and(|keys| !matches!(keys.kind(), Kind::String)) {
                    return Err(A::Error::custom("an object for a map whose keys are no texts"));
                }
                let mut read = Vec::new();
                while let Some(name) = entries.next_key::<String>()? {
                    read.push((Value::from(name), entries.next_value_seed(self.inner(values))?));
                }
                Ok(Value::Map(read.into()))
            }
            Some(kind) => Err(A::Error::custom(format!("an object for {}", kind.name()))),
        }
    }
}

/// Reads `[key,value]`.
struct Entry<'a> {
    key: Seed<'a>,
    value: Seed<'a>,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = (Value, Value);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = (Value, Value);

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of key and value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Self::Value, A::Error> {
        let wrong = || A::Error::custom("an entry of a map is not a list of key and value");
        let key = pair.next_element_seed(self.key)?.ok_or_else(wrong)?;
        let value = pair.next_element_seed(self.value)?.ok_or_else(wrong)?;
        match pair.next_element::<serde::de::IgnoredAny>()? {
            None => Ok((key, value)),
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::{DecimalFormat, JsonOptions, JsonWriter};

    fn reader(placeholder: Option<Placeholder>) -> JsonReader {
        JsonReader::new(ReadOptions { replace_null_with_default: true, placeholder })
    }

    fn round_trip(schema: &Arc<Schema>, value: &Value, decimal_format: DecimalFormat) -> SchemaAndValue {
        let mut writer = JsonWriter::new(JsonOptions { decimal_format, ..JsonOptions::default() });
        let mut json = b"{\"schema\":".to_vec();
        writer.write_schema(schema, &mut json).unwrap();
        json.extend_from_slice(b",\"payload\":");
        writer.write(Some(schema), value, &mut json).unwrap();
        json.push(b'}');
        reader(None).read_with_schema(&json).unwrap()
    }

    fn of_every_type() -> impl Strategy<Value = (Arc<Schema>, Value)> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(|value| (Schema::of(Kind::Boolean).build(), Value::Boolean(value))),
            any::<i8>().prop_map(|value| (Schema::of(Kind::Int8).build(), Value::Int8(value))),
            any::<i16>().prop_map(|value| (Schema::of(Kind::Int16).doc("d").build(), Value::Int16(value))),
            any::<i32>().prop_map(|value| (Schema::of(Kind::Int32).name("n").version(2).build(), Value::Int32(value))),
            any::<i64>().prop_map(|value| (Schema::of(Kind::Int64).default(Value::Int64(7)).build(), Value::Int64(value))),
            any::<f32>()
                .prop_filter("NaN is no equal", |value| !value.is_nan())
                .prop_map(|value| (Schema::of(Kind::Float32).build(), Value::Float32(value))),
            any::<f64>()
                .prop_filter("NaN is no equal", |value| !value.is_nan())
                .prop_map(|value| (Schema::of(Kind::Float64).build(), Value::Float64(value))),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(|value| (Schema::of(Kind::Bytes).build(), Value::Bytes(value.into()))),
            ".{0,8}".prop_map(|value| (Schema::of(Kind::String).parameter("p", "q").build(), Value::from(value))),
            Just((Schema::of(Kind::String).optional().build(), Value::Null)),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                inner
                    .clone()
                    .prop_map(|(schema, value)| (Schema::of(Kind::Array(schema)).build(), Value::Array(Box::new([value.clone(), value])))),
                inner.clone().prop_map(|(schema, value)| {
                    let schema = Schema::of(Kind::Map(Schema::of(Kind::String).build(), schema)).build();
                    (schema, Value::Map(Box::new([("k".into(), value)])))
                }),
                inner.clone().prop_map(|(schema, value)| {
                    let schema = Schema::of(Kind::Map(Schema::of(Kind::Int32).build(), schema)).build();
                    (schema, Value::Map(Box::new([(Value::Int32(1), value)])))
                }),
                prop::collection::vec(inner, 0..4).prop_map(|members| {
                    let (schemas, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
                    let fields = schemas.into_iter().enumerate().map(|(number, schema)| Field::new(format!("f{number}"), schema)).collect();
                    (Schema::structure(fields).build(), Value::Struct(values.into()))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_with_its_schema_is_read_back((schema, value) in of_every_type()) {
            let read = round_trip(&schema, &value, DecimalFormat::Base64);
            prop_assert_eq!(read.schema.as_ref(), Some(&schema));
            prop_assert_eq!(read.value, value);
        }

        #[test]
        fn decimals_keep_their_digits(unscaled in any::<i128>(), scale in 0_i32..30) {
            let schema = Schema::of(Kind::Bytes).name(DECIMAL).parameter("scale", scale.to_string()).build();
            let value = Value::Bytes(BigInt::from(unscaled).to_signed_bytes_be().into());
            for format in [DecimalFormat::Base64, DecimalFormat::Numeric] {
                prop_assert_eq!(&round_trip(&schema, &value, format).value, &value);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = reader(None).read(&bytes);
            let _ = reader(None).read_with_schema(&bytes);
        }
    }

    #[test]
    fn without_a_schema_values_describe_themselves() {
        let read = reader(Some(Placeholder::default())).read(br#"{"a":1,"b":[1.5,true,null],"c":"__debezium_unavailable_value"}"#).unwrap();
        let list = Value::Array(Box::new([Value::Float64(1.5), Value::Boolean(true), Value::Null]));
        assert_eq!(read, Value::Map(Box::new([("a".into(), Value::Int64(1)), ("b".into(), list), ("c".into(), Value::Unchanged)])));
        let error = reader(None).read(b"18446744073709551615").unwrap_err();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Unreadable, &Scope::Record));
    }

    #[test]
    fn plain_json_is_refused_where_a_schema_is_demanded() {
        for json in [&br#"{"id":1}"#[..], br#"{"schema":null,"payload":1,"more":2}"#, b"1", b"{"] {
            let error = reader(None).read_with_schema(json).unwrap_err();
            assert!(error.remedy().unwrap().contains("schemas.enable=false"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_default_or_null_or_refused() {
        let json = |field: &str| format!(r#"{{"schema":{{"type":"struct","fields":[{field}],"optional":false}},"payload":{{}}}}"#);
        let read = |field: &str| reader(None).read_with_schema(json(field).as_bytes());
        let one = |value| Value::Struct(Box::new([value]));
        assert_eq!(read(r#"{"type":"int32","optional":false,"default":7,"field":"a"}"#).unwrap().value, one(Value::Int32(7)));
        assert_eq!(read(r#"{"type":"int32","optional":true,"field":"a"}"#).unwrap().value, one(Value::Null));
        let error = read(r#"{"type":"int32","optional":false,"field":"a"}"#).unwrap_err();
        assert!(error.to_string().contains("field a: null for a required int32"), "{error}");
    }

    #[test]
    fn schemas_of_one_text_are_one() {
        let mut reader = reader(None);
        let json = br#"{"schema":{"type":"string","optional":true},"payload":"a"}"#;
        let ids: Vec<_> = (0..2).map(|_| reader.read_with_schema(json).unwrap().schema.unwrap().id()).collect();
        assert_eq!(ids[0], ids[1]);
    }
}
