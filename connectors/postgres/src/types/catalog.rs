//! The types of a database, and the codec of each.

use std::collections::HashMap;

use tailwater_api::{Error, ErrorKind, Kind, Result, Schema, SchemaBuilder};

use super::codec::{Codec, ColumnCodec};
use super::default::{DefaultRule, default_value};
use super::{BinaryMode, DecimalMode, TimeMode, TypeOptions};

/// Octets of the header that a modifier of `numeric`, `varchar` and `bpchar` counts along (`VARHDRSZ`).
const MODIFIER_HEADER: i32 = 4;
/// How deep domains over domains and arrays of them are followed; deeper ones are not mapped.
const DEEPEST: usize = 16;

/// A type as the server's catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRow {
    /// `pg_type.oid`
    pub oid: u32,
    /// `typname`
    pub name: String,
    /// Name of its schema
    pub namespace: String,
    /// `typtype`: b for base types, d for domains, e for enums …
    pub kind: char,
    /// The type of the elements if it is the array type of that type, else 0
    pub element: u32,
    /// `typbasetype`: what a domain is over, else 0
    pub base: u32,
    /// `typtypmod`: the modifier that a domain gives its base, -1 for none
    pub modifier: i32,
    /// The labels of an enum in their order
    pub labels: Vec<String>,
}

/// All types of a database and how their values are written.
#[derive(Clone, Debug)]
pub struct TypeCatalog {
    types: HashMap<u32, TypeRow>,
    options: TypeOptions,
}

/// How the values of a type are decoded and what they are.
pub(super) struct Mapping {
    pub(super) codec: Codec,
    pub(super) schema: SchemaBuilder,
    pub(super) default: DefaultRule,
}

impl Mapping {
    fn of(codec: Codec, schema: SchemaBuilder, default: DefaultRule) -> Self {
        Self { codec, schema, default }
    }
}

impl TypeCatalog {
    /// Selects what a [`TypeRow`] holds, in the order of its fields, with the types `oid`, `text`, `text`, `text`, `oid`, `oid`,
    /// `int4` and `text[]`.
    pub const QUERY: &str = "
SELECT t.oid, t.typname::text, n.nspname::text, t.typtype::text,
       CASE WHEN e.typarray = t.oid THEN t.typelem ELSE 0 END, t.typbasetype, t.typtypmod,
       array(SELECT l.enumlabel::text FROM pg_enum l WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type e ON e.oid = t.typelem
WHERE t.typtype <> 'c' AND t.typtype <> 'p'";

    /// A catalog of these types.
    #[must_use]
    pub fn new(types: Vec<TypeRow>, options: TypeOptions) -> Self {
        Self { types: types.into_iter().map(|row| (row.oid, row)).collect(), options }
    }

    /// Whether the type is known here. One that is not may have been made since, so the catalog has to be read again.
    #[must_use]
    pub fn knows(&self, oid: u32) -> bool {
        self.types.contains_key(&oid)
    }

    /// The codec of a column of type `oid` with `modifier` (-1 for none), that may be null or not, with the expression of
    /// its default as `pg_get_expr` writes it. `None` where the type has no mapping: such columns are left out of records.
    ///
    /// # Errors
    /// `unsupported`: a mode of [`TypeOptions`] that does not exist yet for the type.
    pub fn column(&self, oid: u32, modifier: i32, optional: bool, default: Option<&str>) -> Result<Option<ColumnCodec>> {
        let Some(mapping) = self.mapping(oid, modifier, DEEPEST)? else { return Ok(None) };
        let default = default.and_then(|expression| default_value(&mapping, expression));
        let schema = mapping.schema.with_optional(optional);
        let schema = match default {
            Some(value) => schema.default(value),
            None => schema,
        };
        Ok(Some(ColumnCodec::new(mapping.codec, schema.build())))
    }

    fn mapping(&self, oid: u32, modifier: i32, depth: usize) -> Result<Option<Mapping>> {
        let Some(row) = self.types.get(&oid).filter(|_| depth > 0) else { return Ok(None) };
        if row.element != 0 {
            return self.array(row.element, modifier, depth);
        }
        match row.kind {
            'd' => self.mapping(row.base, if modifier == -1 { row.modifier } else { modifier }, depth - 1),
            'e' => Ok(Some(Mapping::of(Codec::Text, debezium("Enum").parameter("allowed", row.labels.join(",")), DefaultRule::Literal))),
            _ if row.namespace == "pg_catalog" => self.own(&row.name, modifier),
            // Of extensions, which may live in any schema.
            _ => Ok(match row.name.as_str() {
                "citext" => Some(Mapping::of(Codec::Text, Schema::of(Kind::String), DefaultRule::Text)),
                "ltree" => Some(Mapping::of(Codec::VersionedText, debezium("Ltree"), DefaultRule::None)),
                _ => None,
            }),
        }
    }

    /// An array of scalars. Elements may be null; the schema says otherwise where Debezium's does.
    fn array(&self, element: u32, modifier: i32, depth: usize) -> Result<Option<Mapping>> {
        let Some(row) = self.types.get(&element) else { return Ok(None) };
        // Debezium leaves these out.
        if row.namespace == "pg_catalog" && matches!(row.name.as_str(), "name" | "money" | "interval" | "xml" | "varbit") {
            return Ok(None);
        }
        let Some(mapping) = self.mapping(element, modifier, depth - 1)? else { return Ok(None) };
        if matches!(mapping.codec, Codec::Array(_)) {
            return Ok(None);
        }
        let is_required = row.kind == 'e' || row.name == "tsvector";
        let items = mapping.schema.with_optional(!is_required).build();
        Ok(Some(Mapping::of(Codec::Array(Box::new(mapping.codec)), Schema::of(Kind::Array(items)), DefaultRule::None)))
    }

    /// The server's own types.
    fn own(&self, name: &str, modifier: i32) -> Result<Option<Mapping>> {
        let plain = |codec, kind, default| Ok(Some(Mapping::of(codec, Schema::of(kind), default)));
        let named = |codec, name, default| Ok(Some(Mapping::of(codec, debezium(name), default)));
        match name {
            "bool" => plain(Codec::Boolean, Kind::Boolean, DefaultRule::Boolean),
            "int2" => plain(Codec::Int16, Kind::Int16, DefaultRule::Int16),
            "int4" => plain(Codec::Int32, Kind::Int32, DefaultRule::Int32),
            "int8" => plain(Codec::Int64, Kind::Int64, DefaultRule::Int64),
            "oid" => plain(Codec::Oid, Kind::Int64, DefaultRule::Int64),
            "float4" => plain(Codec::Float32, Kind::Float32, DefaultRule::Float32),
            "float8" => plain(Codec::Float64, Kind::Float64, DefaultRule::Float64),
            "numeric" => Ok(Some(self.numeric(modifier))),
            "money" => Ok(Some(self.money())),
            "text" | "varchar" | "bpchar" | "name" => plain(Codec::Text, Kind::String, DefaultRule::Text),
            "char" => plain(Codec::Character, Kind::String, DefaultRule::Text),
            "bytea" => {
                let kind = if self.options.binary == BinaryMode::Bytes { Kind::Bytes } else { Kind::String };
                plain(Codec::Bytea(self.options.binary), kind, DefaultRule::None)
            }
            "json" => named(Codec::Text, "Json", DefaultRule::Literal),
            "jsonb" => named(Codec::VersionedText, "Json", DefaultRule::Literal),
            "xml" => named(Codec::Text, "Xml", DefaultRule::Literal),
            "uuid" => named(Codec::Uuid, "Uuid", DefaultRule::Uuid),
            "inet" | "cidr" => plain(Codec::Network, Kind::String, DefaultRule::None),
            "macaddr" | "macaddr8" => plain(Codec::HardwareAddress, Kind::String, DefaultRule::None),
            "int4range" | "int8range" | "numrange" | "daterange" | "tsrange" | "tstzrange" => {
                plain(Codec::OnlyText, Kind::String, DefaultRule::None)
            }
            "tsvector" => named(Codec::OnlyText, "Tsvector", DefaultRule::None),
            "bit" | "varbit" => Ok(Some(bits(modifier))),
            "interval" => Ok(Some(Mapping::of(Codec::Interval, time(Kind::Int64, "MicroDuration"), DefaultRule::Int64))),
            "date" | "time" | "timestamp" => self.temporal(name, modifier),
            "timetz" => Ok(Some(Mapping::of(Codec::ZonedTime, time(Kind::String, "ZonedTime"), DefaultRule::Literal))),
            "timestamptz" => {
                let digits = u8::try_from(modifier).map_or(6, |digits| digits.min(6));
                Ok(Some(Mapping::of(Codec::ZonedTimestamp { digits }, time(Kind::String, "ZonedTimestamp"), DefaultRule::ZonedTimestamp)))
            }
            // A type without a mapping; Debezium leaves these columns out, too.
            _ => Ok(None),
        }
    }

    fn numeric(&self, modifier: i32) -> Mapping {
        match self.options.decimal {
            DecimalMode::String => Mapping::of(Codec::NumericText, Schema::of(Kind::String), DefaultRule::Literal),
            DecimalMode::Double => Mapping::of(Codec::NumericDouble, Schema::of(Kind::Float64), DefaultRule::Float64),
            DecimalMode::Precise if modifier < MODIFIER_HEADER => {
                let fields = vec![
                    tailwater_api::Field::new("scale", Schema::of(Kind::Int32).build()),
                    tailwater_api::Field::new("value", Schema::of(Kind::Bytes).build()),
                ];
                let schema =
                    Schema::structure(fields).name("io.debezium.data.VariableScaleDecimal").version(1).doc("Variable scaled decimal");
                Mapping::of(Codec::VariableScaleDecimal, schema, DefaultRule::None)
            }
            DecimalMode::Precise => {
                let (precision, scale) = precision_and_scale(modifier);
                let schema = decimal(scale).parameter("connect.decimal.precision", precision.to_string());
                Mapping::of(Codec::Decimal { scale }, schema, DefaultRule::Decimal)
            }
        }
    }

    fn money(&self) -> Mapping {
        let digits = self.options.money_fraction_digits;
        match self.options.decimal {
            DecimalMode::String => Mapping::of(Codec::MoneyText { digits }, Schema::of(Kind::String), DefaultRule::None),
            DecimalMode::Double => Mapping::of(Codec::MoneyDouble, Schema::of(Kind::Float64), DefaultRule::None),
            DecimalMode::Precise => Mapping::of(Codec::Money { digits }, decimal(digits.into()), DefaultRule::None),
        }
    }

    fn temporal(&self, name: &str, modifier: i32) -> Result<Option<Mapping>> {
        let time_of_day_in_microseconds = match self.options.time {
            TimeMode::Adaptive => false,
            TimeMode::AdaptiveTimeMicroseconds => true,
            TimeMode::Connect | TimeMode::Isostring | TimeMode::Microseconds | TimeMode::Nanoseconds => {
                return Err(Error::new(ErrorKind::Unsupported, format!("write values of type {name}"))
                    .because("this time.precision.mode is not yet in effect")
                    .mend("set time.precision.mode to adaptive or adaptive_time_microseconds"));
            }
        };
        let is_fine = !(0..=3).contains(&modifier);
        Ok(Some(match name {
            "date" => Mapping::of(Codec::Date, time(Kind::Int32, "Date"), DefaultRule::Int32),
            "time" if is_fine || time_of_day_in_microseconds => {
                Mapping::of(Codec::MicroTime, time(Kind::Int64, "MicroTime"), DefaultRule::Int64)
            }
            "time" => Mapping::of(Codec::Time, time(Kind::Int32, "Time"), DefaultRule::Int32),
            _ if is_fine => Mapping::of(Codec::MicroTimestamp, time(Kind::Int64, "MicroTimestamp"), DefaultRule::Int64),
            _ => Mapping::of(Codec::Timestamp, time(Kind::Int64, "Timestamp"), DefaultRule::Int64),
        }))
    }
}

fn debezium(name: &str) -> SchemaBuilder {
    Schema::of(Kind::String).name(format!("io.debezium.data.{name}")).version(1)
}

fn time(kind: Kind, name: &str) -> SchemaBuilder {
    Schema::of(kind).name(format!("io.debezium.time.{name}")).version(1)
}

fn decimal(scale: i32) -> SchemaBuilder {
    Schema::of(Kind::Bytes).name("org.apache.kafka.connect.data.Decimal").version(1).parameter("scale", scale.to_string())
}

/// Precision in the upper 16 bits; scale in the lower 11, with its sign since PostgreSQL 15.
fn precision_and_scale(modifier: i32) -> (i32, i32) {
    let modifier = modifier - MODIFIER_HEADER;
    ((modifier >> 16) & 0xffff, ((modifier & 0x7ff) ^ 0x400) - 0x400)
}

/// One bit is a truth value, more are octets.
fn bits(modifier: i32) -> Mapping {
    if modifier == 1 {
        return Mapping::of(Codec::Bit, Schema::of(Kind::Boolean), DefaultRule::Boolean);
    }
    let length = if modifier > 0 { modifier } else { i32::MAX };
    let schema = Schema::of(Kind::Bytes).name("io.debezium.data.Bits").version(1).parameter("length", length.to_string());
    Mapping::of(Codec::Bits, schema, DefaultRule::Literal)
}
