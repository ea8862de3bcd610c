//! Names made valid for Avro: `schema.name.adjustment.mode` and `field.name.adjustment.mode` (Debezium 3.6,
//! `SchemaNameAdjuster` and `FieldNameSelector`).
//!
//! A name of Avro (1.12, "Names") begins with a letter of ASCII or an underscore and goes on with those and digits; names
//! of schemas may hold dots besides. Like Java's, the rules count UTF-16 units, so a character beyond the basic plane is two.

use std::collections::HashSet;
use std::fmt::Write;

/// How names that are not valid become so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NameAdjustment {
    /// Not at all
    #[default]
    None,
    /// An underscore for each unit that is not valid
    Avro,
    /// `_uXXXX` for each unit that is not valid, underscores among them, so that no two names become equal
    AvroUnicode,
}

impl NameAdjustment {
    /// The words of the configuration.
    pub const WORDS: &[(&str, Self)] = &[("none", Self::None), ("avro", Self::Avro), ("avro_unicode", Self::AvroUnicode)];

    /// The name of a schema.
    #[must_use]
    pub fn schema_name(self, name: &str) -> String {
        match self {
            Self::None => name.to_owned(),
            Self::Avro => {
                let adjusted = |(index, unit): (usize, u16)| {
                    let is_valid = is_alphanumeric(unit) || unit == u16::from(b'.') || unit == u16::from(b'_');
                    if is_valid && (index > 0 || !is_digit(unit)) { char::from(unit as u8) } else { '_' }
                };
                name.encode_utf16().enumerate().map(adjusted).collect()
            }
            Self::AvroUnicode => {
                escape(name, |index, unit| (is_alphanumeric(unit) || unit == u16::from(b'.')) && (index > 0 || !is_digit(unit)))
            }
        }
    }

    /// The name of a field.
    #[must_use]
    pub fn field_name(self, name: &str) -> String {
        match self {
            Self::None => name.to_owned(),
            Self::Avro => {
                let valid = name.encode_utf16().map(|unit| if is_alphanumeric(unit) { char::from(unit as u8) } else { '_' });
                let starts_with_digit = name.starts_with(|first: char| first.is_ascii_digit());
                starts_with_digit.then_some('_').into_iter().chain(valid).collect()
            }
            Self::AvroUnicode => escape(name, |index, unit| is_alphanumeric(unit) && (index > 0 || !is_digit(unit))),
        }
    }

    /// The names of the fields of one struct. Where two would become equal, the later one gets a number: `a_b`, `a_b_2`.
    #[must_use]
    pub fn field_names<'a>(self, names: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut taken = HashSet::new();
        let distinct = |name: &str| {
            let adjusted = self.field_name(name);
            let numbered = |number: u32| if number == 1 { adjusted.clone() } else { format!("{adjusted}_{number}") };
            let free = (1..).map(numbered).find(|name| !taken.contains(name)).unwrap_or_default();
            taken.insert(free.clone());
            free
        };
        names.map(distinct).collect()
    }
}

fn is_digit(unit: u16) -> bool {
    u8::try_from(unit).is_ok_and(|octet| octet.is_ascii_digit())
}

fn is_alphanumeric(unit: u16) -> bool {
    u8::try_from(unit).is_ok_and(|octet| octet.is_ascii_alphanumeric())
}

/// `_uXXXX` for each unit of which `keeps` says no.
pub(crate) fn escape(name: &str, keeps: impl Fn(usize, u16) -> bool) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (index, unit) in name.encode_utf16().enumerate() {
        match u8::try_from(unit) {
            Ok(octet) if keeps(index, unit) => escaped.push(char::from(octet)),
            Ok(_) | Err(_) => write!(escaped, "_u{unit:04x}").expect("a String takes any text"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_recorded_cases() {
        for (name, avro, unicode) in [
            ("ID", "ID", "ID"),
            ("Zoë", "Zo_", "Zo_u00eb"),
            ("with space", "with_space", "with_u0020space"),
            ("dot.ted", "dot_ted", "dot_u002eted"),
            ("1digit", "_1digit", "_u0031digit"),
            ("_under", "_under", "_u005funder"),
            ("a$b", "a_b", "a_u0024b"),
            ("😀", "__", "_ud83d_ude00"),
        ] {
            assert_eq!(NameAdjustment::Avro.field_name(name), avro);
            assert_eq!(NameAdjustment::AvroUnicode.field_name(name), unicode);
            assert_eq!(NameAdjustment::None.field_name(name), name);
        }
        assert_eq!(NameAdjustment::Avro.schema_name("p.public.Order-Lines"), "p.public.Order_Lines");
        assert_eq!(NameAdjustment::AvroUnicode.schema_name("p_q.Order-Lines"), "p_u005fq.Order_u002dLines");
    }

    #[test]
    fn names_that_become_equal_are_told_apart() {
        let names = ["a-b", "a.b", "a_b", "c"];
        assert_eq!(NameAdjustment::Avro.field_names(names.into_iter()), ["a_b", "a_b_2", "a_b_3", "c"]);
    }
}
