//! Decoding one value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tailwater_api::{Error, ErrorKind, Result, Schema, Value};
use tailwater_kit::stand_in::not_in_identity;

use super::numeric::{self, Number};
use super::{BinaryMode, Format, HstoreMode, array, geometry, hstore, network, octet_string, temporal, vector};
use crate::buffer_slice::BufferSlice;
use crate::octets::Malformed;

/// How much room the scratch buffer gets at once.
const SCRATCH: usize = 16 << 10;

/// The decoder of one column's values, with their schema.
#[derive(Debug)]
pub struct ColumnCodec {
    codec: Codec,
    schema: Arc<Schema>,
    refuses_loss: bool,
    lost: AtomicU64,
    unlisted: OnceLock<ByteString>,
}

/// How values of a type are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Boolean,
    Int16,
    Int32,
    Int64,
    Oid,
    Float32,
    Float64,
    /// Text that is the same in both formats
    Text,
    /// A label of an enum; the labels are sorted
    Enum(Arc<[Box<str>]>),
    /// Text behind the number of its version in the binary form
    VersionedText,
    /// Text whose binary form is not read here
    OnlyText,
    /// `"char"`
    Character,
    Uuid,
    Network,
    HardwareAddress,
    Bytea(BinaryMode),
    Bit,
    Bits,
    Decimal {
        scale: i32,
    },
    VariableScaleDecimal,
    NumericText,
    NumericDouble,
    Money {
        digits: u8,
    },
    MoneyText,
    MoneyDouble,
    Date,
    Time,
    MicroTime,
    Timestamp,
    MicroTimestamp,
    ZonedTime,
    ZonedTimestamp {
        digits: u8,
    },
    Interval,
    IsoDate,
    IsoTime,
    IsoTimestamp,
    NanoTime,
    NanoTimestamp,
    IsoInterval,
    Hstore(HstoreMode),
    Point,
    /// `geometry` and `geography` of PostGIS
    Shape,
    DoubleVector,
    FloatVector,
    SparseVector,
    Int2Vector,
    OidVector,
    /// The text of a type without a mapping, as the octets that it consists of
    Opaque(BinaryMode),
    /// The same of a geometric type, with numbers as Java writes them
    Figure(BinaryMode),
    /// Values for which Debezium's schema has no place at all
    Lost,
    /// The text of a type that is known no more
    Dropped,
    Array {
        element: Box<Codec>,
        /// What stands between elements in the text
        delimiter: u8,
    },
}

/// Why a value cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not what the type's functions write.
    Unreadable,
    /// The binary form is not read here.
    OnlyText,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Unreadable
    }
}

/// Where made-up text and octets go, and whether something was lost on the way.
pub(super) struct Output<'a> {
    pub(super) scratch: &'a mut BytesMut,
    pub(super) lost: bool,
    /// A label that its enum did not have when the types were read
    unlisted: Option<ByteString>,
}

impl<'a> Output<'a> {
    pub(super) fn new(scratch: &'a mut BytesMut) -> Self {
        Self { scratch, lost: false, unlisted: None }
    }

    /// Cuts what `write` writes, at most `room` octets.
    pub(super) fn cut(&mut self, room: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.scratch.capacity() - self.scratch.len() < room {
            self.scratch.reserve(room.max(SCRATCH));
        }
        write(self.scratch);
        self.scratch.split().freeze()
    }

    /// Text that `write` writes.
    pub(super) fn text(&mut self, room: usize, write: impl FnOnce(&mut BytesMut)) -> Result<Value, Fault> {
        text(self.cut(room, write))
    }

    /// A value that the schema has no room for.
    pub(super) fn lose(&mut self, instead: Value) -> Value {
        self.lost = true;
        instead
    }
}

pub(super) fn text(octets: Bytes) -> Result<Value, Fault> {
    ByteString::try_from(octets).map(Value::String).map_err(|_| Fault::Unreadable)
}

impl ColumnCodec {
    pub(super) fn new(codec: Codec, schema: Arc<Schema>, refuses_loss: bool) -> Self {
        Self { codec, schema, refuses_loss, lost: AtomicU64::new(0), unlisted: OnceLock::new() }
    }

    /// Schema of the values: whether they may be null and their default included.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Whether the binary form can be decoded; the text always can.
    #[must_use]
    pub fn supports_binary(&self) -> bool {
        self.codec.supports_binary()
    }

    /// How many values so far had no room in the schema and were written as null, as the default or as the nearest value, or as text
    /// because their type is gone.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether values are labels of an enum, or arrays of them.
    #[must_use]
    pub fn has_labels(&self) -> bool {
        match &self.codec {
            Codec::Array { element, .. } => matches!(**element, Codec::Enum(_)),
            codec => matches!(codec, Codec::Enum(_)),
        }
    }

    /// The first label that the enum did not have when the types were read: it was added or renamed since.
    #[must_use]
    pub fn unlisted_label(&self) -> Option<&str> {
        self.unlisted.get().map(|label| &**label)
    }

    /// Decodes a value that is not null. Text and octets of the result share the buffer of `raw` or that of `scratch`, which has to
    /// be empty and is left so.
    ///
    /// # Errors
    /// `unreadable`: it is not what the server writes for the type; `unsupported`: a binary form that is not read here, or a
    /// value without room in the schema where the configuration asks to fail then.
    pub fn decode<'a>(&self, format: Format, raw: impl Into<BufferSlice<'a>>, scratch: &mut BytesMut) -> Result<Value> {
        let mut output = Output::new(scratch);
        let decoded = self.codec.decode(format, raw.into(), &mut output);
        if let Some(label) = output.unlisted.take() {
            self.unlisted.get_or_init(|| label);
        }
        if output.lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
            if self.refuses_loss && decoded.is_ok() {
                return Err(self.refusal());
            }
        }
        if matches!(decoded, Ok(Value::Null)) && !self.schema.is_optional() {
            // I11: counted once.
            return if output.lost { Ok(not_in_identity(&self.schema)) } else { self.null() };
        }
        decoded.map_err(|fault| {
            scratch.clear();
            let doing = format!("decode a value for {}", self.codec.description());
            match fault {
                Fault::Unreadable => Error::new(ErrorKind::Unreadable, doing).because("the server wrote it in an unknown way"),
                Fault::OnlyText => Error::new(ErrorKind::Unsupported, doing).because("its binary form is not read"),
            }
        })
    }

    /// What stands for a null. The schema of a column that is `NOT NULL` by now has no room for one, which an older row may hold: Debezium
    /// writes the default then, or else the zero of the type. That is counted as lost.
    ///
    /// # Errors
    /// `unsupported`, where the configuration asks to fail then.
    pub fn null(&self) -> Result<Value> {
        if self.schema.is_optional() {
            return Ok(Value::Null);
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
        if self.refuses_loss { Err(self.refusal()) } else { Ok(not_in_identity(&self.schema)) }
    }

    fn refusal(&self) -> Error {
        Error::new(ErrorKind::Unsupported, format!("decode a value for {}", self.codec.description()))
            .because("the schema has no room for the value, and event.converting.failure.handling.mode is fail")
            .mend("set event.converting.failure.handling.mode to warn, or leave the column out by column.exclude.list")
    }
}

impl Codec {
    fn supports_binary(&self) -> bool {
        match self {
            Self::OnlyText | Self::Opaque(_) | Self::Figure(_) | Self::Dropped => false,
            Self::Array { element, .. } => element.supports_binary(),
            _ => true,
        }
    }

    fn description(&self) -> String {
        match self {
            Self::Array { element, .. } => format!("an array of {}", element.description()),
            Self::Dropped => "a type that was dropped".to_owned(),
            scalar => format!("{scalar:?}").to_lowercase(),
        }
    }

    pub(super) fn decode(&self, format: Format, raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
        match format {
            Format::Text => self.decode_text(raw, output),
            Format::Binary => self.decode_binary(raw, output),
        }
    }

    fn decode_text(&self, raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
        let octets = raw.octets();
        match self {
            Self::Boolean => match octets {
                b"t" | b"true" => Ok(Value::Boolean(true)),
                b"f" | b"false" => Ok(Value::Boolean(false)),
                _ => Err(Fault::Unreadable),
            },
            Self::Int16 => parse(octets).map(Value::Int16),
            Self::Int32 => parse(octets).map(Value::Int32),
            Self::Int64 => parse(octets).map(Value::Int64),
            Self::Oid => parse::<u32>(octets).map(|oid| Value::Int64(oid.into())),
            Self::Float32 => parse(octets).map(Value::Float32),
            Self::Float64 => parse(octets).map(Value::Float64),
            Self::Text | Self::VersionedText | Self::OnlyText | Self::Character | Self::Uuid | Self::Network | Self::HardwareAddress => {
                text(raw.to_bytes())
            }
            Self::Enum(labels) => label(raw, labels, output),
            Self::Bytea(mode) => octet_string::bytea_of_text(octets, *mode, output),
            Self::Bit => octet_string::bit_of_text(octets),
            Self::Bits => octet_string::bits_of_text(octets, output),
            Self::Decimal { .. } | Self::VariableScaleDecimal | Self::NumericDouble => self.number(&Number::of_text(octets)?, output),
            Self::NumericText => match Number::of_text(octets)? {
                number @ (Number::Nan | Number::Infinity | Number::MinusInfinity) => self.number(&number, output),
                Number::Finite { .. } => text(raw.to_bytes()),
            },
            Self::Money { .. } | Self::MoneyText | Self::MoneyDouble => self.money(numeric::money_of_text(octets)?, output),
            Self::Date => temporal::date_of_text(octets).map(Value::Int32),
            Self::Time => temporal::time_of_text(octets).map(temporal::milliseconds_of_day),
            Self::MicroTime => temporal::time_of_text(octets).map(Value::Int64),
            Self::Timestamp => temporal::timestamp_of_text(octets).map(temporal::milliseconds),
            Self::MicroTimestamp => temporal::timestamp_of_text(octets).map(|time| temporal::microseconds(time, output)),
            Self::ZonedTime => temporal::zoned_time(temporal::time_with_zone_of_text(octets)?, output),
            Self::ZonedTimestamp { digits } => temporal::zoned_timestamp(temporal::timestamp_of_text(octets)?, *digits, output),
            Self::Interval => temporal::interval_of_text(octets).map(|interval| temporal::duration(&interval, output)),
            Self::IsoDate => temporal::iso_date(temporal::date_of_text(octets)?, output),
            Self::IsoTime => temporal::iso_time(temporal::time_of_text(octets)?, output),
            Self::IsoTimestamp => temporal::iso_timestamp(temporal::timestamp_of_text(octets)?, output),
            Self::NanoTime => temporal::time_of_text(octets).map(temporal::nanoseconds_of_day),
            Self::NanoTimestamp => temporal::timestamp_of_text(octets).map(|time| temporal::nanoseconds(time, output)),
            Self::IsoInterval => temporal::iso_interval(&temporal::interval_of_text(octets)?, output),
            Self::Hstore(mode) => hstore::of_text(octets, *mode, output),
            Self::Point => geometry::point_of_text(octets, output),
            Self::Shape => geometry::shape_of_text(octets, output),
            Self::DoubleVector => vector::doubles_of_text(octets),
            Self::FloatVector => vector::floats_of_text(octets),
            Self::SparseVector => vector::sparse_of_text(octets, output),
            Self::Int2Vector => array::of_blank_separated_text(&Self::Int16, raw, output),
            Self::OidVector => array::of_blank_separated_text(&Self::Oid, raw, output),
            Self::Opaque(mode) => octet_string::bytea(raw, *mode, output),
            Self::Figure(mode) => octet_string::bytea((&geometry::text_of_java(octets)).into(), *mode, output),
            Self::Lost => Ok(output.lose(Value::Null)),
            Self::Dropped => text(raw.to_bytes()).map(|text| output.lose(text)),
            Self::Array { element, delimiter } => array::of_text(element, *delimiter, raw, output),
        }
    }

    fn decode_binary(&self, raw: BufferSlice<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
        let octets = raw.octets();
        match self {
            Self::Boolean => match octets {
                [value] => Ok(Value::Boolean(*value != 0)),
                _ => Err(Fault::Unreadable),
            },
            Self::Int16 => exact(octets).map(i16::from_be_bytes).map(Value::Int16),
            Self::Int32 => exact(octets).map(i32::from_be_bytes).map(Value::Int32),
            Self::Int64 => exact(octets).map(i64::from_be_bytes).map(Value::Int64),
            Self::Oid => exact(octets).map(u32::from_be_bytes).map(|oid| Value::Int64(oid.into())),
            Self::Float32 => exact(octets).map(f32::from_be_bytes).map(Value::Float32),
            Self::Float64 => exact(octets).map(f64::from_be_bytes).map(Value::Float64),
            Self::Text => text(raw.to_bytes()),
            Self::Enum(labels) => label(raw, labels, output),
            Self::VersionedText => match octets.first() {
                Some(1) => text(raw.part(&octets[1..]).to_bytes()),
                Some(_) | None => Err(Fault::Unreadable),
            },
            Self::OnlyText | Self::Opaque(_) | Self::Figure(_) | Self::Dropped => Err(Fault::OnlyText),
            Self::Character => octet_string::character(raw, output),
            Self::Uuid => octet_string::uuid(exact(octets)?, output),
            Self::Network => network::address(octets, output),
            Self::HardwareAddress => network::hardware_address(octets, output),
            Self::Bytea(mode) => octet_string::bytea(raw, *mode, output),
            Self::Bit => octet_string::bit_of_binary(octets),
            Self::Bits => octet_string::bits_of_binary(octets, output),
            Self::Decimal { scale } => match numeric::decimal_of_binary(octets, *scale)? {
                Some(unscaled) => Ok(Value::Bytes(output.cut(16, |out| numeric::put_minimal(unscaled, out)))),
                None => numeric::with_text(octets, output, |number, output| self.number(number, output)),
            },
            Self::VariableScaleDecimal | Self::NumericDouble => {
                numeric::with_text(octets, output, |number, output| self.number(number, output))
            }
            Self::NumericText => numeric::text_of_binary(octets, output),
            Self::Money { .. } | Self::MoneyText | Self::MoneyDouble => self.money(exact(octets).map(i64::from_be_bytes)?, output),
            Self::Date => exact(octets).map(i32::from_be_bytes).and_then(temporal::date).map(Value::Int32),
            Self::Time => exact(octets).map(i64::from_be_bytes).map(temporal::milliseconds_of_day),
            Self::MicroTime => exact(octets).map(i64::from_be_bytes).map(Value::Int64),
            Self::Timestamp => exact(octets).map(i64::from_be_bytes).map(temporal::milliseconds),
            Self::MicroTimestamp => exact(octets).map(i64::from_be_bytes).map(|time| temporal::microseconds(time, output)),
            Self::ZonedTime => temporal::zoned_time(temporal::time_with_zone_of_binary(octets)?, output),
            Self::ZonedTimestamp { digits } => temporal::zoned_timestamp(exact(octets).map(i64::from_be_bytes)?, *digits, output),
            Self::Interval => temporal::interval_of_binary(octets).map(|interval| temporal::duration(&interval, output)),
            Self::IsoDate => temporal::iso_date(exact(octets).map(i32::from_be_bytes).and_then(temporal::date)?, output),
            Self::IsoTime => temporal::iso_time(exact(octets).map(i64::from_be_bytes)?, output),
            Self::IsoTimestamp => temporal::iso_timestamp(exact(octets).map(i64::from_be_bytes)?, output),
            Self::NanoTime => exact(octets).map(i64::from_be_bytes).map(temporal::nanoseconds_of_day),
            Self::NanoTimestamp => exact(octets).map(i64::from_be_bytes).map(|time| temporal::nanoseconds(time, output)),
            Self::IsoInterval => temporal::iso_interval(&temporal::interval_of_binary(octets)?, output),
            Self::Hstore(mode) => hstore::of_binary(raw, *mode, output),
            Self::Point => geometry::point_of_binary(octets, output),
            Self::Shape => geometry::shape_of_binary(raw),
            Self::DoubleVector => vector::doubles_of_binary(octets),
            Self::FloatVector => vector::floats_of_binary(octets),
            Self::SparseVector => vector::sparse_of_binary(octets, output),
            Self::Int2Vector => array::of_binary(&Self::Int16, raw, output),
            Self::OidVector => array::of_binary(&Self::Oid, raw, output),
            Self::Lost => Ok(output.lose(Value::Null)),
            Self::Array { element, .. } => array::of_binary(element, raw, output),
        }
    }

    /// A number as this codec writes it.
    fn number(&self, number: &Number<'_>, output: &mut Output<'_>) -> Result<Value, Fault> {
        match self {
            Self::Decimal { scale } => Ok(numeric::decimal(number, *scale, output)),
            Self::VariableScaleDecimal => Ok(numeric::variable_scale_decimal(number, output)),
            Self::NumericDouble => Ok(numeric::double(number)),
            // The words of Debezium.
            Self::NumericText => match number {
                Number::Nan => Ok(Value::text("NAN")),
                Number::Infinity => Ok(Value::text("POSITIVE_INFINITY")),
                Number::MinusInfinity => Ok(Value::text("NEGATIVE_INFINITY")),
                Number::Finite { text, .. } => output.text(text.len(), |out| out.put_slice(text)),
            },
            _ => Err(Fault::Unreadable),
        }
    }

    fn money(&self, hundredths: i64, output: &mut Output<'_>) -> Result<Value, Fault> {
        match self {
            Self::Money { digits } => {
                Ok(Value::Bytes(output.cut(16, |out| numeric::put_minimal(numeric::rescale(hundredths, *digits), out))))
            }
            Self::MoneyText => numeric::money_text(hundredths, output),
            Self::MoneyDouble => Ok(Value::Float64(numeric::money_double(hundredths))),
            _ => Err(Fault::Unreadable),
        }
    }
}

fn label(raw: BufferSlice<'_>, labels: &[Box<str>], output: &mut Output<'_>) -> Result<Value, Fault> {
    let label = ByteString::try_from(raw.to_bytes()).map_err(|_| Fault::Unreadable)?;
    if labels.binary_search_by(|listed| (**listed).cmp(&label)).is_err() {
        output.unlisted.get_or_insert_with(|| label.clone());
    }
    Ok(Value::String(label))
}

/// A number of fixed length.
pub(super) fn exact<const LENGTH: usize>(raw: &[u8]) -> Result<[u8; LENGTH], Fault> {
    raw.try_into().map_err(|_| Fault::Unreadable)
}

pub(super) fn parse<T: std::str::FromStr>(raw: &[u8]) -> Result<T, Fault> {
    str::from_utf8(raw).ok().and_then(|text| text.parse().ok()).ok_or(Fault::Unreadable)
}
