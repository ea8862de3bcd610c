//! Schemas as JSON.

use tailwater_api::{Kind, Schema};

use super::plan::{Misfit, Node};
use super::{JsonOptions, write_boolean, write_integer, write_list, write_text};

/// Appends `schema`; `field` is its name in a struct.
pub(super) fn write(schema: &Schema, field: Option<&str>, options: &JsonOptions, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let key = |name: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
    };
    out.extend_from_slice(b"{\"type\":");
    write_text(schema.kind().name(), out);
    match schema.kind() {
        Kind::Array(element) => {
            key("items", out);
            write(element, None, options, out)?;
        }
        Kind::Map(keys, values) => {
            key("keys", out);
            write(keys, None, options, out)?;
            key("values", out);
            write(values, None, options, out)?;
        }
        Kind::Struct(fields) => {
            key("fields", out);
            write_list(b'[', b']', fields, out, |field, out| write(&field.schema, Some(&field.name), options, out))?;
        }
        Kind::Boolean
        | Kind::Int8
        | Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::Float32
        | Kind::Float64
        | Kind::Bytes
        | Kind::String => {}
    }
    key("optional", out);
    write_boolean(schema.is_optional(), out);
    if let Some(name) = schema.name() {
        key("name", out);
        write_text(name, out);
    }
    if let Some(version) = schema.version() {
        key("version", out);
        write_integer(version, out);
    }
    if let Some(doc) = schema.doc() {
        key("doc", out);
        write_text(doc, out);
    }
    if !schema.parameters().is_empty() {
        key("parameters", out);
        write_list(b'{', b'}', schema.parameters(), out, |(name, value), out| {
            write_text(name, out);
            out.push(b':');
            write_text(value, out);
            Ok(())
        })?;
    }
    if let Some(default) = schema.default() {
        key("default", out);
        Node::compile(schema, options)?.write(default, out)?;
    }
    if let Some(field) = field {
        key("field", out);
        write_text(field, out);
    }
    out.push(b'}');
    Ok(())
}
