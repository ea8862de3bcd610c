//! How the source describes the type of a column: name, length and scale, for `column.propagate.source.type`.
//!
//! The numbers are those that pgjdbc 42 gives (`TypeInfoCache.getPrecision`, `getDisplaySize`, `getScale`), which Debezium
//! copies: digits of numbers, characters of texts, and for times the characters that they are shown with.

use super::catalog::{TypeCatalog, TypeRow};
use super::mapping::{DEEPEST, precision_and_scale};

/// What stands for a length without a limit.
const UNLIMITED: i32 = i32::MAX;

/// A column's type as the source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceType {
    /// Name of the type without its schema: `varchar`, `_int4`, `mood`
    pub name: String,
    /// Digits or characters; the largest number where there is no limit
    pub length: i32,
    /// Digits behind the point
    pub scale: i32,
    /// Most characters that a text of the type has, where it has a limit
    pub text_limit: Option<usize>,
}

impl SourceType {
    pub(super) fn of(types: &TypeCatalog, oid: u32, modifier: i32) -> Option<Self> {
        let row = types.row(oid)?;
        let (base, modifier) = base(types, row, modifier);
        let (length, scale) = match base {
            Some(base) if base.namespace == "pg_catalog" => length_and_scale(&base.name, modifier),
            Some(_) | None => (UNLIMITED, 0),
        };
        let is_limited = base.is_some_and(|base| matches!(base.name.as_str(), "varchar" | "bpchar")) && modifier >= 4;
        let text_limit = usize::try_from(length).ok().filter(|_| is_limited);
        Some(Self { name: row.name.clone(), length, scale, text_limit })
    }
}

/// What an array consists of and what a domain is over in the end, with its modifier.
fn base<'a>(types: &'a TypeCatalog, row: &'a TypeRow, mut modifier: i32) -> (Option<&'a TypeRow>, i32) {
    let mut row = Some(row);
    for _ in 0..DEEPEST {
        row = match row {
            Some(array) if array.element != 0 => types.row(array.element),
            Some(domain) if domain.kind == 'd' => {
                modifier = if modifier == -1 { domain.modifier } else { modifier };
                types.row(domain.base)
            }
            found => return (found, modifier),
        };
    }
    (None, modifier)
}

fn length_and_scale(name: &str, modifier: i32) -> (i32, i32) {
    let characters = if modifier == -1 { UNLIMITED } else { modifier - 4 };
    // A point and its digits.
    let fraction = match modifier {
        -1 => 7,
        0 => 0,
        1 => 3,
        digits => digits + 1,
    };
    let time_scale = if modifier == -1 { 6 } else { modifier };
    match name {
        "bool" | "char" => (1, 0),
        "int2" => (5, 0),
        "int4" | "oid" => (10, 0),
        "int8" => (19, 0),
        "float4" => (8, 8),
        "float8" => (17, 17),
        "numeric" if modifier == -1 => (0, 0),
        "numeric" => precision_and_scale(modifier),
        "bpchar" | "varchar" => (characters, 0),
        "bit" => (modifier, 0),
        "varbit" if modifier != -1 => (modifier, 0),
        "date" => (13, 0),
        "time" => (8 + fraction, time_scale),
        "timetz" => (14 + fraction, time_scale),
        "timestamp" => (22 + fraction, time_scale),
        "timestamptz" => (28 + fraction, time_scale),
        "interval" => (49, if modifier == -1 { 6 } else { modifier & 0xffff }),
        _ => (UNLIMITED, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_recorded_cases() {
        for (name, modifier, expected) in [
            ("int8", -1, (19, 0)),
            ("varchar", 16, (12, 0)),
            ("numeric", (9 << 16 | 3) + 4, (9, 3)),
            ("timestamp", 3, (26, 3)),
            ("timestamptz", 3, (32, 3)),
            ("int4", -1, (10, 0)),
            ("bytea", -1, (UNLIMITED, 0)),
            ("bpchar", 7, (3, 0)),
        ] {
            assert_eq!(length_and_scale(name, modifier), expected, "{name}");
        }
    }
}
