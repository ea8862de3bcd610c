//! Values of Kafka Connect's data model, beside their [`Schema`](crate::schema::Schema).
//!
//! Text and bytes are slices of a shared buffer, usually the one that the driver received them in.
//! Cloning one counts a reference and copies nothing. Semantic types keep their Connect form: a decimal is
//! [`Value::Bytes`] with the big-endian two's complement of its unscaled value, a date [`Value::Int32`].

use bytes::Bytes;
use bytestring::ByteString;

/// One value. Structs are positional: element `n` belongs to field `n` of the schema.
///
/// Values are equal where they are written alike, as in Java: NaN equals itself, and 0.0 is another number than -0.0.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// The value is known to be null.
    #[default]
    Null,
    /// The source did not send the value, because the change left it as it was (I8).
    Unchanged,
    /// The source did not send the value, because its before image holds the identity only (I8).
    NotInIdentity,
    /// `true` or `false`
    Boolean(bool),
    /// 8-bit signed integer
    Int8(i8),
    /// 16-bit signed integer
    Int16(i16),
    /// 32-bit signed integer
    Int32(i32),
    /// 64-bit signed integer
    Int64(i64),
    /// Single precision
    Float32(f32),
    /// Double precision
    Float64(f64),
    /// Octets, sharing their buffer
    Bytes(Bytes),
    /// UTF-8 text, sharing its buffer
    String(ByteString),
    /// Elements in order
    Array(Box<[Value]>),
    /// Entries in order
    Map(Box<[(Value, Value)]>),
    /// Values of the fields, in the schema's order
    Struct(Box<[Value]>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) | (Self::Unchanged, Self::Unchanged) | (Self::NotInIdentity, Self::NotInIdentity) => true,
            (Self::Boolean(one), Self::Boolean(two)) => one == two,
            (Self::Int8(one), Self::Int8(two)) => one == two,
            (Self::Int16(one), Self::Int16(two)) => one == two,
            (Self::Int32(one), Self::Int32(two)) => one == two,
            (Self::Int64(one), Self::Int64(two)) => one == two,
            (Self::Float32(one), Self::Float32(two)) => one.to_bits() == two.to_bits() || (one.is_nan() && two.is_nan()),
            (Self::Float64(one), Self::Float64(two)) => one.to_bits() == two.to_bits() || (one.is_nan() && two.is_nan()),
            (Self::Bytes(one), Self::Bytes(two)) => one == two,
            (Self::String(one), Self::String(two)) => one == two,
            (Self::Array(one), Self::Array(two)) | (Self::Struct(one), Self::Struct(two)) => one == two,
            (Self::Map(one), Self::Map(two)) => one == two,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Value {
    /// Text that is known at compile time, without a copy.
    #[must_use]
    pub const fn text(text: &'static str) -> Self {
        Self::String(ByteString::from_static(text))
    }

    /// Whether this is plain null; *unchanged* and *not in the identity* are not null (I8).
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether the source knows the value, null included (I8).
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self, Self::Unchanged | Self::NotInIdentity)
    }

    /// The fields of a struct.
    #[must_use]
    pub fn as_struct(&self) -> Option<&[Value]> {
        match self {
            Self::Struct(values) => Some(values),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer of any integer kind.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Int8(value) => Some((*value).into()),
            Self::Int16(value) => Some((*value).into()),
            Self::Int32(value) => Some((*value).into()),
            Self::Int64(value) => Some(*value),
            _ => None,
        }
    }

    /// Bytes of memory that the value holds on to, its own size included: what a budget counts.
    /// Buffers shared between values are counted once for each value's own slice.
    #[must_use]
    pub fn weight(&self) -> usize {
        let held = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::String(text) => text.len(),
            Self::Array(values) | Self::Struct(values) => return size_of::<Self>() + values.iter().map(Self::weight).sum::<usize>(),
            Self::Map(entries) => {
                return size_of::<Self>() + entries.iter().map(|(key, value)| key.weight() + value.weight()).sum::<usize>();
            }
            _ => 0,
        };
        size_of::<Self>() + held
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_equal_where_they_are_written_alike() {
        assert_eq!(Value::Float64(f64::NAN), Value::Float64(-f64::NAN));
        assert_eq!(Value::Float32(f32::NAN), Value::Float32(-f32::NAN));
        assert_ne!(Value::Float64(0.0), Value::Float64(-0.0));
        assert_ne!(Value::Float32(0.0), Value::Float32(-0.0));
        assert_ne!(Value::Float32(1.0), Value::Float64(1.0));
        assert_ne!(Value::Null, Value::Unchanged);
    }
}
