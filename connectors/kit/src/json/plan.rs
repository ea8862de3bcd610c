//! A schema compiled for writing its values.

use std::fmt;
use std::sync::Arc;

use tailwater_api::{Kind, Schema, Value};

use super::{DecimalFormat, JsonOptions, write_base64, write_boolean, write_double, write_float, write_integer, write_list, write_text};
use crate::number_text::write_decimal;
use crate::stand_in::{self, DECIMAL};

/// Writes the values of one schema.
#[derive(Debug)]
pub(super) struct Node {
    shape: Shape,
    /// What is written for null; nothing where null is no value
    null: Option<Box<[u8]>>,
    unchanged: Box<[u8]>,
    not_in_identity: Box<[u8]>,
}

#[derive(Debug)]
enum Shape {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Bytes,
    /// A decimal as a number of this scale
    Decimal(i32),
    String,
    Array(Box<Node>),
    /// A map whose keys are strings
    Object(Box<Node>, Box<Node>),
    /// Any other map
    Entries(Box<Node>, Box<Node>),
    Struct(Box<[Member]>),
}

#[derive(Debug)]
struct Member {
    name: Arc<str>,
    /// `{"name":` for the first, `,"name":` for the others
    lead: Box<[u8]>,
    node: Node,
}

/// A value that does not fit its schema: where, from the inside out, and what.
#[derive(Debug)]
pub(super) struct Misfit {
    path: Vec<Arc<str>>,
    what: String,
}

impl Misfit {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { path: Vec::new(), what: what.into() }
    }

    fn inside(mut self, name: &Arc<str>) -> Self {
        self.path.push(name.clone());
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            f.write_str("field ")?;
            for (index, name) in self.path.iter().rev().enumerate() {
                write!(f, "{}{name}", if index > 0 { "." } else { "" })?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}

impl Node {
    pub(super) fn compile(schema: &Schema, options: &JsonOptions) -> Result<Self, Misfit> {
        let boxed = |schema: &Schema| Ok(Box::new(Self::compile(schema, options)?));
        let shape = match schema.kind() {
            Kind::Boolean => Shape::Boolean,
            Kind::Int8 => Shape::Int8,
            Kind::Int16 => Shape::Int16,
            Kind::Int32 => Shape::Int32,
            Kind::Int64 => Shape::Int64,
            Kind::Float32 => Shape::Float32,
            Kind::Float64 => Shape::Float64,
            Kind::Bytes if schema.name() == Some(DECIMAL) && options.decimal_format == DecimalFormat::Numeric => {
                let scale = schema.parameter("scale").and_then(|scale| scale.parse().ok());
                Shape::Decimal(scale.ok_or_else(|| Misfit::new("a decimal whose schema has no scale"))?)
            }
            Kind::Bytes => Shape::Bytes,
            Kind::String => Shape::String,
            Kind::Array(element) => {
                let mut element = boxed(element)?;
                // Debezium's schema of an enum array has required elements, although the database allows nulls among them.
                // All elements are written as they are.
                element.null.get_or_insert_with(|| Box::from(*b"null"));
                Shape::Array(element)
            }
            Kind::Map(keys, values) if matches!(keys.kind(), Kind::String) => Shape::Object(boxed(keys)?, boxed(values)?),
            Kind::Map(keys, values) => Shape::Entries(boxed(keys)?, boxed(values)?),
            Kind::Struct(fields) => {
                let mut members = Vec::with_capacity(fields.len());
                for field in fields {
                    let mut lead = vec![if members.is_empty() { b'{' } else { b',' }];
                    write_text(&field.name, &mut lead);
                    lead.push(b':');
                    let node = Self::compile(&field.schema, options).map_err(|misfit| misfit.inside(&field.name))?;
                    members.push(Member { name: field.name.clone(), lead: lead.into(), node });
                }
                Shape::Struct(members.into())
            }
        };
        let null: Box<[u8]> = Box::from(*b"null");
        let mut node = Self { shape, null: Some(null.clone()), unchanged: null.clone(), not_in_identity: null.clone() };
        let render = |node: &Self, value: &Value| -> Result<Box<[u8]>, Misfit> {
            let mut out = Vec::new();
            node.write(value, &mut out)?;
            Ok(out.into())
        };
        let unchanged = render(&node, &options.placeholder.of(schema))?;
        let unknown = render(&node, &stand_in::not_in_identity(schema))?;
        node.unchanged = unchanged;
        match schema.default() {
            Some(default) if options.replace_null_with_default => node.null = Some(render(&node, default)?),
            _ if schema.is_optional() => {}
            _ => node.null = None,
        }
        // Where nothing else is said, a field that may be null is written as a null is.
        let is_null = schema.is_optional() && schema.zero().is_none();
        node.not_in_identity = if is_null { node.null.clone().unwrap_or(null) } else { unknown };
        Ok(node)
    }

    pub(super) fn write(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), Misfit> {
        match (&self.shape, value) {
            (_, Value::Null) => match &self.null {
                Some(null) => out.extend_from_slice(null),
                None => return Err(Misfit::new("a null, which is no value of its schema")),
            },
            (_, Value::Unchanged) => out.extend_from_slice(&self.unchanged),
            (_, Value::NotInIdentity) => out.extend_from_slice(&self.not_in_identity),
            (Shape::Boolean, Value::Boolean(value)) => write_boolean(*value, out),
            (Shape::Int8, Value::Int8(value)) => write_integer(*value, out),
            (Shape::Int16, Value::Int16(value)) => write_integer(*value, out),
            (Shape::Int32, Value::Int32(value)) => write_integer(*value, out),
            (Shape::Int64, Value::Int64(value)) => write_integer(*value, out),
            (Shape::Float32, Value::Float32(value)) => write_float(*value, out),
            (Shape::Float64, Value::Float64(value)) => write_double(*value, out),
            (Shape::Bytes, Value::Bytes(bytes)) => write_base64(bytes, out),
            (Shape::Decimal(scale), Value::Bytes(unscaled)) => write_decimal(unscaled, *scale, out),
            (Shape::String, Value::String(text)) => write_text(text, out),
            (Shape::Array(element), Value::Array(values)) => {
                write_list(b'[', b']', values, out, |value, out| element.write(value, out))?;
            }
            (Shape::Object(keys, values), Value::Map(entries)) => write_list(b'{', b'}', entries, out, |(key, value), out| {
                keys.write(key, out)?;
                out.push(b':');
                values.write(value, out)
            })?,
            (Shape::Entries(keys, values), Value::Map(entries)) => write_list(b'[', b']', entries, out, |(key, value), out| {
                out.push(b'[');
                keys.write(key, out)?;
                out.push(b',');
                values.write(value, out)?;
                out.push(b']');
                Ok(())
            })?,
            (Shape::Struct(members), Value::Struct(values)) if members.len() == values.len() => {
                for (member, value) in members.iter().zip(values) {
                    out.extend_from_slice(&member.lead);
                    member.node.write(value, out).map_err(|misfit| misfit.inside(&member.name))?;
                }
                out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
            }
            (Shape::Struct(members), Value::Struct(values)) => {
                return Err(Misfit::new(format!("{} values for a struct of {} fields", values.len(), members.len())));
            }
            (shape, value) => return Err(Misfit::new(format!("{} where the schema says {}", kind_of(value), shape.name()))),
        }
        Ok(())
    }
}

impl Shape {
    fn name(&self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float",
            Self::Float64 => "double",
            Self::Bytes | Self::Decimal(_) => "bytes",
            Self::String => "string",
            Self::Array(_) => "array",
            Self::Object(..) | Self::Entries(..) => "map",
            Self::Struct(_) => "struct",
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::Unchanged | Value::NotInIdentity => "nothing",
        Value::Boolean(_) => "a boolean",
        Value::Int8(_) => "an int8",
        Value::Int16(_) => "an int16",
        Value::Int32(_) => "an int32",
        Value::Int64(_) => "an int64",
        Value::Float32(_) => "a float",
        Value::Float64(_) => "a double",
        Value::Bytes(_) => "bytes",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::Struct(_) => "a struct",
    }
}
