//! Which codec and which schema a type has: Debezium's mapping of PostgreSQL's types.

use tailwater_api::{Field, Kind, Schema, SchemaBuilder};

use super::catalog::{TypeCatalog, TypeRow};
use super::codec::Codec;
use super::default::DefaultRule;
use super::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, TimeMode, TypeOptions, geometry};

/// Octets of the header that a modifier of `numeric`, `varchar` and `bpchar` counts along (`VARHDRSZ`).
const MODIFIER_HEADER: i32 = 4;
/// How deep domains over domains and arrays of them are followed; deeper ones are not mapped.
pub(super) const DEEPEST: usize = 16;

const MIDNIGHT: DefaultRule = DefaultRule::Zero("00:00:00");
const EPOCH: DefaultRule = DefaultRule::Zero("1970-01-01 00:00:00");

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

/// The mapping of a column's type; `None` where values of the type are left out.
pub(super) fn of_column(types: &TypeCatalog, oid: u32, modifier: i32) -> Option<Mapping> {
    of_type(types, oid, modifier, DEEPEST).or_else(|| types.options().include_unknown.then(|| opaque(types.options(), types.row(oid))))
}

fn of_type(types: &TypeCatalog, oid: u32, modifier: i32, depth: usize) -> Option<Mapping> {
    let row = types.row(oid).filter(|_| depth > 0)?;
    if row.element != 0 {
        return of_array(types, row, modifier, depth);
    }
    match row.kind {
        'd' => {
            let mapping = of_type(types, row.base, if modifier == -1 { row.modifier } else { modifier }, depth - 1)?;
            // Debezium knows defaults of the server's own types by their names.
            Some(Mapping { default: DefaultRule::None, ..mapping })
        }
        'e' => {
            let schema = debezium("Enum").parameter("allowed", row.labels.join(","));
            Some(Mapping::of(Codec::Enum(types.labels(row)), schema, DefaultRule::Literal))
        }
        _ if row.namespace == "pg_catalog" => own(types.options(), &row.name, modifier),
        // Of extensions, which may live in any schema.
        'b' => of_extension(types.options(), &row.name),
        _ => None,
    }
}

/// An array of scalars. Elements may be null; the schema says otherwise where Debezium's does.
fn of_array(types: &TypeCatalog, array: &TypeRow, modifier: i32, depth: usize) -> Option<Mapping> {
    let options = types.options();
    let element = types.row(array.element);
    let is_own = |names: &[&str]| element.is_some_and(|row| row.namespace == "pg_catalog" && names.contains(&row.name.as_str()));
    if is_own(&["bit"]) && !options.include_unknown {
        // Debezium takes it for one bit string.
        let Mapping { schema, .. } = bits(modifier);
        return Some(Mapping::of(Codec::Lost, schema, DefaultRule::None));
    }
    // Debezium leaves these out, and knows domains by themselves only.
    let is_left_out = is_own(&["name", "money", "interval", "xml", "varbit", "point"]) && !options.include_unknown
        || element.is_some_and(|row| row.kind == 'd');
    let mapping = of_type(types, array.element, modifier, depth - 1)
        .filter(|mapping| !is_left_out && !matches!(mapping.codec, Codec::Array { .. } | Codec::Int2Vector | Codec::OidVector))
        .or_else(|| options.include_unknown.then(|| opaque(options, element)))?;
    let is_required = element.is_some_and(|row| row.kind == 'e' || row.name == "tsvector")
        || matches!(mapping.codec, Codec::Opaque(_) | Codec::Figure(_) | Codec::DoubleVector | Codec::FloatVector | Codec::SparseVector);
    let items = mapping.schema.with_optional(!is_required).build();
    let codec = Codec::Array { element: Box::new(mapping.codec), delimiter: array.delimiter };
    Some(Mapping::of(codec, Schema::of(Kind::Array(items)), DefaultRule::None))
}

/// A type without a mapping, as the octets of its text.
fn opaque(options: &TypeOptions, row: Option<&TypeRow>) -> Mapping {
    let figures = ["line", "lseg", "box", "path", "polygon", "circle"];
    let is_figure = row.is_some_and(|row| row.namespace == "pg_catalog" && figures.contains(&row.name.as_str()));
    let codec = if is_figure { Codec::Figure(options.binary) } else { Codec::Opaque(options.binary) };
    Mapping::of(codec, octets(options), DefaultRule::None)
}

fn octets(options: &TypeOptions) -> SchemaBuilder {
    Schema::of(if options.binary == BinaryMode::Bytes { Kind::Bytes } else { Kind::String })
}

/// The server's own types.
fn own(options: &TypeOptions, name: &str, modifier: i32) -> Option<Mapping> {
    let plain = |codec, kind, default| Mapping::of(codec, Schema::of(kind), default);
    let named = |codec, name, default| Mapping::of(codec, debezium(name), default);
    Some(match name {
        "bool" => plain(Codec::Boolean, Kind::Boolean, DefaultRule::Zero("f")),
        "int2" => plain(Codec::Int16, Kind::Int16, DefaultRule::Zero("0")),
        "int4" => plain(Codec::Int32, Kind::Int32, DefaultRule::Zero("0")),
        "int8" => plain(Codec::Int64, Kind::Int64, DefaultRule::Zero("0")),
        "oid" => plain(Codec::Oid, Kind::Int64, DefaultRule::None),
        "float4" => plain(Codec::Float32, Kind::Float32, DefaultRule::Zero("0")),
        "float8" => plain(Codec::Float64, Kind::Float64, DefaultRule::Zero("0")),
        "numeric" => numeric(options, modifier),
        "money" => money(options),
        "text" | "varchar" | "bpchar" => plain(Codec::Text, Kind::String, DefaultRule::Zero("")),
        "name" => plain(Codec::Text, Kind::String, DefaultRule::None),
        "char" => plain(Codec::Character, Kind::String, DefaultRule::None),
        "bytea" => Mapping::of(Codec::Bytea(options.binary), octets(options), DefaultRule::None),
        "json" => named(Codec::Text, "Json", DefaultRule::Zero("{}")),
        "jsonb" => named(Codec::VersionedText, "Json", DefaultRule::Zero("{}")),
        "xml" => named(Codec::Text, "Xml", DefaultRule::Zero("")),
        "uuid" => named(Codec::Uuid, "Uuid", DefaultRule::Zero("00000000-0000-0000-0000-000000000000")),
        "inet" | "cidr" => plain(Codec::Network, Kind::String, DefaultRule::None),
        "macaddr" | "macaddr8" => plain(Codec::HardwareAddress, Kind::String, DefaultRule::None),
        "int4range" | "int8range" | "numrange" | "daterange" | "tsrange" | "tstzrange" => {
            plain(Codec::OnlyText, Kind::String, DefaultRule::None)
        }
        "tsvector" => named(Codec::OnlyText, "Tsvector", DefaultRule::None),
        "bit" | "varbit" => bits(modifier),
        "point" => point(),
        "int2vector" => plain(Codec::Int2Vector, Kind::Array(Schema::of(Kind::Int16).build()), DefaultRule::None),
        "oidvector" => plain(Codec::OidVector, Kind::Array(Schema::of(Kind::Int64).build()), DefaultRule::None),
        "interval" => interval(options),
        "date" => date(options),
        "time" => time_of_day(options, modifier),
        "timestamp" => timestamp(options, modifier),
        "timetz" => Mapping::of(Codec::ZonedTime, time(Kind::String, "ZonedTime"), DefaultRule::None),
        "timestamptz" => {
            let digits = u8::try_from(modifier).map_or(6, |digits| digits.min(6));
            Mapping::of(Codec::ZonedTimestamp { digits }, time(Kind::String, "ZonedTimestamp"), EPOCH)
        }
        _ => return None,
    })
}

/// Types of extensions, by their names.
fn of_extension(options: &TypeOptions, name: &str) -> Option<Mapping> {
    let named = |kind, name: &str| Schema::of(kind).name(format!("io.debezium.data.{name}")).version(1);
    let double = || Schema::of(Kind::Float64).build();
    let (codec, schema) = match name {
        "citext" => (Codec::Text, Schema::of(Kind::String)),
        "isbn" => (Codec::OnlyText, Schema::of(Kind::String)),
        "ltree" => (Codec::VersionedText, debezium("Ltree")),
        "hstore" => {
            let texts = || Schema::of(Kind::String);
            let schema = match options.hstore {
                HstoreMode::Json => debezium("Json").zero("{}".into()),
                HstoreMode::Map => Schema::of(Kind::Map(texts().build(), texts().optional().build())),
            };
            (Codec::Hstore(options.hstore), schema)
        }
        // As with Debezium the schema of a geometry says that it may be null, also where the column may not.
        "geometry" => (Codec::Shape, shape("Geometry").optional().zero(geometry::nothing())),
        "geography" => (Codec::Shape, shape("Geography").zero(geometry::nothing())),
        "vector" => (Codec::DoubleVector, named(Kind::Array(double()), "DoubleVector")),
        "halfvec" => (Codec::FloatVector, named(Kind::Array(Schema::of(Kind::Float32).build()), "FloatVector")),
        "sparsevec" => {
            let index = || Schema::of(Kind::Int16).build();
            let fields = vec![Field::new("dimensions", index()), Field::new("vector", Schema::of(Kind::Map(index(), double())).build())];
            let schema = Schema::structure(fields).name("io.debezium.data.SparseDoubleVector").version(1).doc("Sparse double vector");
            (Codec::SparseVector, schema)
        }
        _ => return None,
    };
    Some(Mapping::of(codec, schema, DefaultRule::None))
}

fn numeric(options: &TypeOptions, modifier: i32) -> Mapping {
    let scale = (modifier >= MODIFIER_HEADER).then(|| precision_and_scale(modifier).1);
    match options.decimal {
        DecimalMode::String => {
            let digits = scale.and_then(|scale| usize::try_from(scale).ok()).unwrap_or(0);
            Mapping::of(Codec::NumericText, decimal_text(digits), DefaultRule::Decimal { digits, scale })
        }
        DecimalMode::Double => Mapping::of(Codec::NumericDouble, Schema::of(Kind::Float64), DefaultRule::Decimal { digits: 0, scale }),
        DecimalMode::Precise if modifier < MODIFIER_HEADER => {
            let fields = vec![Field::new("scale", Schema::of(Kind::Int32).build()), Field::new("value", Schema::of(Kind::Bytes).build())];
            let schema = Schema::structure(fields).name("io.debezium.data.VariableScaleDecimal").version(1).doc("Variable scaled decimal");
            Mapping::of(Codec::VariableScaleDecimal, schema, DefaultRule::None)
        }
        DecimalMode::Precise => {
            let (precision, scale) = precision_and_scale(modifier);
            let schema = decimal(scale).parameter("connect.decimal.precision", precision.to_string());
            Mapping::of(Codec::Decimal { scale }, schema, DefaultRule::Decimal { digits: 0, scale: Some(scale) })
        }
    }
}

fn money(options: &TypeOptions) -> Mapping {
    let digits = options.money_fraction_digits;
    match options.decimal {
        DecimalMode::String => Mapping::of(Codec::MoneyText, decimal_text(digits.into()), DefaultRule::None),
        DecimalMode::Double => Mapping::of(Codec::MoneyDouble, Schema::of(Kind::Float64), DefaultRule::None),
        DecimalMode::Precise => Mapping::of(Codec::Money { digits }, decimal(digits.into()), DefaultRule::None),
    }
}

fn interval(options: &TypeOptions) -> Mapping {
    match options.interval {
        IntervalMode::Numeric => Mapping::of(Codec::Interval, time(Kind::Int64, "MicroDuration"), MIDNIGHT),
        IntervalMode::String => Mapping::of(Codec::IsoInterval, time(Kind::String, "Interval"), MIDNIGHT),
    }
}

fn date(options: &TypeOptions) -> Mapping {
    let (codec, schema) = match options.time {
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds | TimeMode::Nanoseconds => {
            (Codec::Date, time(Kind::Int32, "Date"))
        }
        TimeMode::Connect => (Codec::Date, connect(Kind::Int32, "Date")),
        TimeMode::Isostring => (Codec::IsoDate, time(Kind::String, "IsoDate")),
    };
    Mapping::of(codec, schema, DefaultRule::Zero("1970-01-01"))
}

fn time_of_day(options: &TypeOptions, modifier: i32) -> Mapping {
    let (codec, schema) = match options.time {
        TimeMode::Adaptive if is_coarse(modifier) => (Codec::Time, time(Kind::Int32, "Time")),
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds => {
            (Codec::MicroTime, time(Kind::Int64, "MicroTime"))
        }
        TimeMode::Nanoseconds => (Codec::NanoTime, time(Kind::Int64, "NanoTime")),
        TimeMode::Connect => (Codec::Time, connect(Kind::Int32, "Time")),
        TimeMode::Isostring => (Codec::IsoTime, time(Kind::String, "IsoTime")),
    };
    Mapping::of(codec, schema, MIDNIGHT)
}

fn timestamp(options: &TypeOptions, modifier: i32) -> Mapping {
    let (codec, schema) = match options.time {
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds if is_coarse(modifier) => {
            (Codec::Timestamp, time(Kind::Int64, "Timestamp"))
        }
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds => {
            (Codec::MicroTimestamp, time(Kind::Int64, "MicroTimestamp"))
        }
        TimeMode::Nanoseconds => (Codec::NanoTimestamp, time(Kind::Int64, "NanoTimestamp")),
        TimeMode::Connect => (Codec::Timestamp, connect(Kind::Int64, "Timestamp")),
        TimeMode::Isostring => (Codec::IsoTimestamp, time(Kind::String, "IsoTimestamp")),
    };
    Mapping::of(codec, schema, EPOCH)
}

/// Whether milliseconds hold the times of a column; without a modifier it has microseconds.
fn is_coarse(modifier: i32) -> bool {
    (0..=3).contains(&modifier)
}

fn debezium(name: &str) -> SchemaBuilder {
    Schema::of(Kind::String).name(format!("io.debezium.data.{name}")).version(1)
}

fn time(kind: Kind, name: &str) -> SchemaBuilder {
    Schema::of(kind).name(format!("io.debezium.time.{name}")).version(1)
}

fn connect(kind: Kind, name: &str) -> SchemaBuilder {
    Schema::of(kind).name(format!("org.apache.kafka.connect.data.{name}")).version(1)
}

fn decimal(scale: i32) -> SchemaBuilder {
    connect(Kind::Bytes, "Decimal").parameter("scale", scale.to_string())
}

/// A decimal as text, whose zero has `digits` behind the point.
fn decimal_text(digits: usize) -> SchemaBuilder {
    let point = if digits > 0 { "." } else { "" };
    Schema::of(Kind::String).zero(format!("0{point}{}", "0".repeat(digits)).into())
}

/// Precision in the upper 16 bits; scale in the lower 11, with its sign since PostgreSQL 15.
pub(super) fn precision_and_scale(modifier: i32) -> (i32, i32) {
    let modifier = modifier - MODIFIER_HEADER;
    ((modifier >> 16) & 0xffff, ((modifier & 0x7ff) ^ 0x400) - 0x400)
}

/// One bit is a truth value, more are octets.
fn bits(modifier: i32) -> Mapping {
    if modifier == 1 {
        return Mapping::of(Codec::Bit, Schema::of(Kind::Boolean), DefaultRule::Zero("0"));
    }
    let length = if modifier > 0 { modifier } else { i32::MAX };
    let schema = Schema::of(Kind::Bytes).name("io.debezium.data.Bits").version(1).parameter("length", length.to_string());
    Mapping::of(Codec::Bits, schema, DefaultRule::Zero(""))
}

fn point() -> Mapping {
    let double = || Schema::of(Kind::Float64).build();
    let fields = vec![
        Field::new("x", double()),
        Field::new("y", double()),
        Field::new("wkb", Schema::of(Kind::Bytes).optional().build()),
        Field::new("srid", Schema::of(Kind::Int32).optional().build()),
    ];
    let schema = Schema::structure(fields).name("io.debezium.data.geometry.Point").version(1).doc("Geometry (POINT)");
    Mapping::of(Codec::Point, schema, DefaultRule::None)
}

fn shape(name: &str) -> SchemaBuilder {
    let fields = vec![Field::new("wkb", Schema::of(Kind::Bytes).build()), Field::new("srid", Schema::of(Kind::Int32).optional().build())];
    Schema::structure(fields).name(format!("io.debezium.data.geometry.{name}")).version(1).doc(name)
}
