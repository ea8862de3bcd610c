//! What the server makes of its values, as each mode of Debezium writes them.
//!
//! An oracle is two expressions of SQL that must give one text: one of `v`, the value that was written, in the form that
//! [`super::plain`] gives it, and one of the column `c`. Most are exact; where the two are compared as a type of the server,
//! the written number or document has several forms and Debezium's is told by the recorded cases. Three properties of a value are lost in
//! Debezium's form, and so in the oracle: how long a bit string is that begins with zeros, the bounds of arrays, and the inner arrays
//! of arrays of several dimensions, each of which is null.

/// Types in a mode, what was written, what the server holds.
struct Oracle {
    /// Names of types, or of all types of a name with whatever modifier
    types: &'static [&'static str],
    /// A key of the configuration and those of its values for which this holds; empty for all
    mode: (&'static str, &'static [&'static str]),
    written: &'static str,
    held: &'static str,
}

const fn always(types: &'static [&'static str], written: &'static str, held: &'static str) -> Oracle {
    Oracle { types, mode: ("", &[]), written, held }
}

const fn with(
    key: &'static str,
    values: &'static [&'static str],
    types: &'static [&'static str],
    written: &'static str,
    held: &'static str,
) -> Oracle {
    Oracle { types, mode: (key, values), written, held }
}

const TIME: &str = "time.precision.mode";
const DECIMAL: &str = "decimal.handling.mode";
const TIMESTAMPS: &[&str] = &["timestamp", "over_timestamp"];
const COARSE_TIMESTAMPS: &[&str] = &["timestamp(0)", "timestamp(1)", "timestamp(2)", "timestamp(3)", "over_timestamp"];
const MILLISECONDS: &str = "CASE c WHEN 'infinity' THEN 9223372036825200 WHEN '-infinity' THEN -9223372036832400
    ELSE trunc(extract(epoch FROM date_trunc('milliseconds', c)) * 1000) END";
const MILLISECONDS_OF_DAY: &str = "trunc(extract(epoch FROM c) * 1000)";

/// The first that fits holds; where none does, the text of the server is what was written.
const ORACLES: &[Oracle] = &[
    always(&["bool"], "v::bool", "c"),
    always(&["float4"], "v::float4", "c"),
    always(&["float8"], "v::float8", "c"),
    with(
        DECIMAL,
        &["string"],
        &["numeric", "over_numeric"],
        "v",
        "CASE c WHEN 'NaN' THEN 'NAN' WHEN 'Infinity' THEN 'POSITIVE_INFINITY' WHEN '-Infinity' THEN 'NEGATIVE_INFINITY' ELSE c::text END",
    ),
    // The server refuses to make a double of what a double has no room for.
    with(
        DECIMAL,
        &["double"],
        &["numeric", "over_numeric"],
        "v::float8",
        "CASE WHEN c IN ('NaN', 'Infinity', '-Infinity') THEN c::float8
              WHEN abs(c) > 1.7976931348623158e308 THEN sign(c)::float8 * 'Infinity'
              WHEN c <> 0 AND abs(c) < 2.47e-324 THEN sign(c)::float8 * 0
              ELSE c::float8 END",
    ),
    // A decimal has no place for what is no number.
    always(&["numeric", "over_numeric"], "trim_scale(v::numeric)", "CASE WHEN c NOT IN ('NaN', 'Infinity', '-Infinity') THEN trim_scale(c) END"),
    with(DECIMAL, &["double"], &["money"], "v::float8", "c::numeric::float8"),
    with(DECIMAL, &["string"], &["money"], "v", "round(c::numeric, 2)"),
    always(&["money"], "v::numeric", "round(c::numeric, DIGITS)"),
    always(&["bytea"], "v", "octets(c, 'BINARY')"),
    always(&["bit(1)"], "v::bool", "c = '1'"),
    always(&["bit", "varbit"], "v", "ltrim(c::text, '0')"),
    with(TIME, &["isostring"], &["date"], "v", "iso_date(c)"),
    always(&["date"], "v", "CASE c WHEN 'infinity' THEN 2147483647 WHEN '-infinity' THEN -2147483648 ELSE c - date '1970-01-01' END"),
    with(TIME, &["isostring"], &["time"], "v", "c || 'Z'"),
    with(TIME, &["nanoseconds"], &["time"], "v", "trunc(extract(epoch FROM c) * 1000000000)"),
    with(TIME, &["connect"], &["time"], "v", MILLISECONDS_OF_DAY),
    with(TIME, &["adaptive"], &["time(0)", "time(1)", "time(2)", "time(3)"], "v", MILLISECONDS_OF_DAY),
    always(&["time"], "v", "trunc(extract(epoch FROM c) * 1000000)"),
    always(&["timetz"], "v", "(c AT TIME ZONE 'UTC')::time || 'Z'"),
    with(TIME, &["isostring"], TIMESTAMPS, "v", "iso_timestamp(c, rtrim(to_char(c, '.US'), '.0'))"),
    // From 1677 to 2262 there is room.
    with(
        TIME,
        &["nanoseconds"],
        TIMESTAMPS,
        "v",
        "CASE c WHEN 'infinity' THEN 9223372036854775807 WHEN '-infinity' THEN -9223372036854775808
         ELSE (SELECT trunc(n) FROM (SELECT extract(epoch FROM c) * 1000000000 AS n) AS n WHERE n BETWEEN -9223372036854775808 AND 9223372036854775807) END",
    ),
    with(TIME, &["connect"], TIMESTAMPS, "v", MILLISECONDS),
    with(TIME, &["adaptive", "adaptive_time_microseconds"], COARSE_TIMESTAMPS, "v", MILLISECONDS),
    // After the year 294246 the largest number stands for it.
    always(
        TIMESTAMPS,
        "v",
        "CASE c WHEN 'infinity' THEN 9223372036825200000 WHEN '-infinity' THEN -9223372036832400000
         ELSE least(trunc(extract(epoch FROM c) * 1000000), 9223372036854775807) END",
    ),
    always(&["timestamptz(0)"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', '')"),
    always(&["timestamptz(1)"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', left(to_char(c, '.US'), 2))"),
    always(&["timestamptz(2)"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', left(to_char(c, '.US'), 3))"),
    always(&["timestamptz(3)"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', left(to_char(c, '.US'), 4))"),
    always(&["timestamptz(4)"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', left(to_char(c, '.US'), 5))"),
    always(&["timestamptz(5)"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', left(to_char(c, '.US'), 6))"),
    always(&["timestamptz"], "v", "iso_timestamp(c AT TIME ZONE 'UTC', to_char(c, '.US'))"),
    with(
        "interval.handling.mode",
        &["string"],
        &["interval"],
        "v",
        "format('P%sY%sM%sDT%sH%sM%sS', extract(year FROM c), extract(month FROM c), extract(day FROM c), extract(hour FROM c),
                extract(minute FROM c), trim_scale(extract(second FROM c)))",
    ),
    // The nearest number where there is no room.
    always(
        &["interval"],
        "v",
        "least(greatest(trunc((extract(year FROM c) * 12 + extract(month FROM c)) * 2629800000000 + extract(day FROM c) * 86400000000
            + extract(hour FROM c) * 3600000000 + extract(minute FROM c) * 60000000 + extract(microseconds FROM c)),
            -9223372036854775808), 9223372036854775807)",
    ),
    // Coordinates, and well-known binary beside them.
    always(&["point"], "split_part(v, ' ', 1)::point || ' ' || split_part(v, ' ', 2)", "c::text || ' \\x0101000000' || little_endian(c[0]) || little_endian(c[1])"),
    with("hstore.handling.mode", &["map"], &["hstore"], "v::hstore", "c"),
    always(&["hstore"], "v::jsonb", "hstore_to_jsonb(c)"),
    always(&["geometry"], "v", "st_asewkb(c)::text || ' ' || coalesce(nullif(st_srid(c), 0)::text, '')"),
    always(&["geography"], "v", "st_asewkb(c::geometry)::text || ' ' || st_srid(c::geometry)"),
    always(&["vector"], "v::float4[]::vector", "c"),
    always(&["int2vector", "oidvector"], "v::bigint[]", "string_to_array(c::text, ' ')::bigint[]"),
    always(&["halfvec"], "v::float4[]::halfvec", "c"),
    always(&["sparsevec"], "v::sparsevec", "c"),
];

/// Types without a mapping whose numbers Debezium writes as Java does. A value is compared as the figure that its text is.
const FIGURES: &[&str] = &["line", "lseg", "box", "path", "polygon", "circle"];

/// Functions that the oracles call.
pub(super) const FUNCTIONS: &str = r#"
CREATE FUNCTION octets(o bytea, mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE mode WHEN 'hex' THEN encode(o, 'hex') WHEN 'base64' THEN replace(encode(o, 'base64'), E'\n', '')
        WHEN 'base64-url-safe' THEN translate(encode(o, 'base64'), E'+/\n', '-_') WHEN 'bytes' THEN '\x' || encode(o, 'hex') END $$;
CREATE FUNCTION text_of_octets(written text, mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_from(CASE mode WHEN 'hex' THEN decode(written, 'hex') WHEN 'base64' THEN decode(written, 'base64')
        WHEN 'base64-url-safe' THEN decode(translate(written, '-_', '+/'), 'base64') WHEN 'bytes' THEN decode(substr(written, 3), 'hex') END, 'UTF8') $$;
CREATE FUNCTION iso_year(year numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    -- There is no year 0 here, and by ISO 8601 it is the one before 1.
    SELECT CASE WHEN year > 9999 THEN '+' || year WHEN year > 0 THEN to_char(year, 'FM0000') WHEN year = -1 THEN '0000'
        ELSE '-' || to_char(-year - 1, 'FM0000') END $$;
CREATE FUNCTION iso_date(d date) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN isfinite(d) THEN iso_year(extract(year FROM d)) || to_char(extract(month FROM d), '"-"FM00') || to_char(extract(day FROM d), '"-"FM00') || 'Z'
        ELSE d::text END $$;
CREATE FUNCTION iso_timestamp(t timestamp, fraction text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN isfinite(t) THEN iso_year(extract(year FROM t)) || to_char(t, '-MM-DD"T"HH24:MI:SS') || fraction || 'Z' ELSE t::text END $$;
CREATE FUNCTION little_endian(number float8) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(encode(substr(float8send(number), place, 1), 'hex'), '' ORDER BY place DESC) FROM generate_series(1, 8) AS place $$;
"#;

/// What the server holds and was written, for a column of the type: each null where the value is.
pub(super) struct Comparison {
    pub(super) written: String,
    pub(super) held: String,
}

/// How a value of the type is compared in these modes; `is_unknown` tells of a type whether it has no mapping.
pub(super) fn comparison(name: &str, modes: &[(&str, &str)], is_unknown: impl Fn(&str) -> bool) -> Comparison {
    let setting = |key, default| modes.iter().find(|(name, _)| *name == key).map_or(default, |(_, value)| *value);
    let Some(element) = element(name) else { return scalar(name, modes, is_unknown(name)) };
    if element.starts_with("bit(") && setting("include.unknown.datatypes", "false") == "false" {
        // Debezium takes the array for one bit string, and all are lost.
        return Comparison { written: "v".into(), held: "null::text".into() };
    }
    // An array in an array has no mapping, nor has one of domains.
    let is_opaque = is_unknown(element) || element.starts_with("over_") || self::element(element).is_some();
    let Comparison { written, held } = scalar(element, modes, is_opaque);
    Comparison {
        written: format!("CASE WHEN v IS NOT NULL THEN array(SELECT {written} FROM unnest(v::text[]) WITH ORDINALITY AS e (v, o) ORDER BY o) END"),
        held: format!(
            "CASE WHEN array_ndims(c) > 1 THEN array_fill(null::text, array[array_length(c, 1)])
             WHEN c IS NOT NULL THEN array(SELECT {held} FROM (SELECT o, c[o] AS c FROM generate_subscripts(c, 1) AS o) AS e ORDER BY o) END"
        ),
    }
}

/// Type of the elements of an array, or of a domain over one.
fn element(name: &str) -> Option<&str> {
    if name.starts_with("over_array") && !name.ends_with("[]") { Some("int4") } else { name.strip_suffix("[]") }
}

fn scalar(name: &str, modes: &[(&str, &str)], is_unknown: bool) -> Comparison {
    let setting = |key, default| modes.iter().find(|(name, _)| *name == key).map_or(default, |(_, value)| *value);
    let family = name.split('(').next().unwrap_or(name);
    let holds = |oracle: &&Oracle| {
        let (key, values) = oracle.mode;
        let is_mode = values.is_empty() || values.contains(&setting(key, if key == TIME { "adaptive" } else { "" }));
        is_mode && (oracle.types.contains(&name) || oracle.types.contains(&family))
    };
    // What the type's function writes, whatever cast to text it has.
    let as_figure = format!("text_of_octets(v, 'BINARY')::{name}");
    let (written, held) = match ORACLES.iter().find(holds) {
        _ if is_unknown && FIGURES.contains(&name) => (&*as_figure, "c"),
        _ if is_unknown => ("v", "octets(convert_to(format('%s', c), 'UTF8'), 'BINARY')"),
        Some(oracle) => (oracle.written, oracle.held),
        None => ("v", "format('%s', c)"),
    };
    let in_mode = |expression: &str| {
        expression.replace("BINARY", setting("binary.handling.mode", "bytes")).replace("DIGITS", setting("money.fraction.digits", "2"))
    };
    let (written, held) = (in_mode(written), in_mode(held));
    Comparison {
        written: format!("CASE WHEN v IS NOT NULL THEN ({written})::text END"),
        held: format!("CASE WHEN c IS DISTINCT FROM NULL THEN ({held})::text END"),
    }
}

/// Whether modes change how values of the type are written.
pub(super) fn depends_on_modes(name: &str) -> bool {
    let scalar = element(name).unwrap_or(name);
    let family = scalar.split('(').next().unwrap_or(scalar);
    let is_own = |oracle: &&Oracle| oracle.types.contains(&scalar) || oracle.types.contains(&family);
    ORACLES
        .iter()
        .filter(is_own)
        .any(|oracle| !oracle.mode.1.is_empty() || oracle.held.contains("BINARY") || oracle.held.contains("DIGITS"))
}
