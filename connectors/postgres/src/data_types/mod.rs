//! Values of PostgreSQL's types as values of Connect's data model, mapped as Debezium 3.6 maps them.
//!
//! There is one codec per column, and snapshot and stream both use it (I7). A value comes as the server's text or in its
//! binary form (PostgreSQL 18, the `*_send` functions of each type), and both decode to the same value. The text is that of
//! a session with [`SESSION_SETTINGS`]; every connection whose values are read here has to have them, whatever the role
//! or the database sets.
//!
//! Text and octets are slices of what was received. What has to be made up (decimals, times with a zone, numbers of a
//! network) is cut from a scratch buffer that the caller keeps, so that no value but an array or a decimal of variable
//! scale allocates.
//!
//! Some values do not fit into the schema that Debezium gives their type: a numeric `NaN` as a decimal, the inner
//! arrays of an array of several dimensions, timestamps and intervals beyond 64 bits of microseconds. They become null, or
//! the nearest value for times, and [`ColumnCodec::lost`] counts them, so that nothing is lost in silence (I11). So it does with
//! values of a type that was dropped before anybody here knew it: they become their text.

mod array;
mod catalog;
mod codec;
mod default;
mod geometry;
mod hstore;
mod mapping;
mod network;
mod numeric;
mod octet_string;
mod source_type;
mod temporal;
mod vector;

pub use catalog::{TypeCatalog, TypeRow};
pub use codec::ColumnCodec;
pub use source_type::SourceType;

/// Settings of a session whose values are decoded here: they fix how the server writes text.
pub const SESSION_SETTINGS: [(&str, &str); 7] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
];

/// How a value was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// As the type's output function writes it
    Text,
    /// As the type's send function writes it
    Binary,
}

/// `decimal.handling.mode`: how numeric and money are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DecimalMode {
    /// Without loss, as Connect's decimal
    #[default]
    Precise,
    /// As text
    String,
    /// As a double, with its loss
    Double,
}

/// `time.precision.mode`: how times without a zone are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimeMode {
    /// In milliseconds or microseconds, as the column's precision needs it
    #[default]
    Adaptive,
    /// As `Adaptive`, but times of the day always in microseconds
    AdaptiveTimeMicroseconds,
    /// As Connect's own types, in milliseconds
    Connect,
    /// As text
    Isostring,
    /// In microseconds
    Microseconds,
    /// In nanoseconds
    Nanoseconds,
}

/// `binary.handling.mode`: how bytea is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BinaryMode {
    /// As octets
    #[default]
    Bytes,
    /// As text in base64
    Base64,
    /// As text in base64 with the letters for URLs
    Base64UrlSafe,
    /// As text in hexadecimal
    Hex,
}

/// `interval.handling.mode`: how intervals are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IntervalMode {
    /// In microseconds, a month as a twelfth of 365.25 days
    #[default]
    Numeric,
    /// As text by ISO 8601
    String,
}

/// `hstore.handling.mode`: how hstore is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HstoreMode {
    /// As a JSON text
    #[default]
    Json,
    /// As a map of texts
    Map,
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOptions {
    /// `decimal.handling.mode`
    pub decimal: DecimalMode,
    /// `time.precision.mode`
    pub time: TimeMode,
    /// `interval.handling.mode`
    pub interval: IntervalMode,
    /// `hstore.handling.mode`
    pub hstore: HstoreMode,
    /// `binary.handling.mode`
    pub binary: BinaryMode,
    /// `money.fraction.digits`
    pub money_fraction_digits: u8,
    /// `include.unknown.datatypes`: whether types without a mapping are written as the octets of their text
    pub include_unknown: bool,
    /// Whether a value without room in its schema is refused instead of being written as null or as the nearest value
    pub refuse_loss: bool,
}

impl Default for TypeOptions {
    fn default() -> Self {
        Self {
            decimal: DecimalMode::default(),
            time: TimeMode::default(),
            interval: IntervalMode::default(),
            hstore: HstoreMode::default(),
            binary: BinaryMode::default(),
            money_fraction_digits: 2,
            include_unknown: false,
            refuse_loss: false,
        }
    }
}

#[cfg(test)]
mod tests;
