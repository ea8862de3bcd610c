//! What the configuration asks of single columns: masks, hashes, truncation, and the source's type in the schema
//! (Debezium 3.6, `column.mask.*`, `column.truncate.to.*`, `*.propagate.source.type`).
//!
//! A masked column never leaves in the clear (Debezium masks texts alone): where a mask has no text to write, the value is null,
//! or the zero of its type where it may not be null. A key has to stay a key: it holds the full hash of a column that is hashed,
//! and the clear value of one that is masked by asterisks or truncated, since equal keys of two rows would make them one.
//!
//! Of several rules that name a column the first counts, as with Debezium: truncation before masks, these before hashes, the first
//! version of a hash before the second. A hash takes nothing from `*.propagate.source.type`; what is masked or cut is not described.
//!
//! A hash is a pseudonym: equal texts have equal ones. It is cut to the limit of the column's length. The first version hashes
//! the text as Java serialises it (Java Object Serialization Specification, section 6, `TC_STRING`), the second its UTF-8.

use aws_lc_rs::digest;
use bytestring::ByteString;
use md5::{Digest, Md5};
use tailwater_api::config::ConfigReader;
use tailwater_api::{Kind, Schema, Value};

use crate::filters::NameList;
use crate::stand_in::not_in_identity;

/// The rules of all columns, by `schema.table.column`.
#[derive(Clone, Debug, Default)]
pub struct ColumnRules {
    rules: Vec<(NameList, ColumnRule)>,
    typed_columns: NameList,
    typed_types: NameList,
}

/// What becomes of the values of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnRule {
    /// So many asterisks, whatever the value
    Mask(usize),
    /// A hash of the text
    Hash(ColumnHash),
    /// As many UTF-16 units of the text, or octets, at most
    Truncate(usize),
}

/// A hash with its salt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnHash {
    algorithm: Algorithm,
    salt: String,
    is_first_version: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Other(&'static digest::Algorithm),
}

/// By the names of `java.security.MessageDigest`.
const ALGORITHMS: [(&str, Algorithm); 10] = [
    ("MD5", Algorithm::Md5),
    ("SHA-1", Algorithm::Other(&digest::SHA1_FOR_LEGACY_USE_ONLY)),
    ("SHA-224", Algorithm::Other(&digest::SHA224)),
    ("SHA-256", Algorithm::Other(&digest::SHA256)),
    ("SHA-384", Algorithm::Other(&digest::SHA384)),
    ("SHA-512", Algorithm::Other(&digest::SHA512)),
    ("SHA-512/256", Algorithm::Other(&digest::SHA512_256)),
    ("SHA3-256", Algorithm::Other(&digest::SHA3_256)),
    ("SHA3-384", Algorithm::Other(&digest::SHA3_384)),
    ("SHA3-512", Algorithm::Other(&digest::SHA3_512)),
];

/// A rule as it applies to one column: what its values are replaced by.
#[derive(Clone, Debug, PartialEq)]
pub enum Disguise {
    /// Always this, also for null and for what the source does not tell
    Constant(Value),
    /// The hash of a text, cut to a length
    Hash(ColumnHash, Option<usize>),
    /// So many UTF-16 units of a text, or octets, at most
    Truncate(usize),
}

/// What stands before the algorithm in keys of the second version.
const SECOND_VERSION: &str = "v2.";

/// Reads what a key says behind its family's prefix.
type RuleParser = fn(&str) -> Result<ColumnRule, String>;

impl ColumnRules {
    /// Reads the keys.
    pub fn read(reader: &mut ConfigReader<'_>) -> Self {
        let mut rules = Vec::new();
        // In the order in which they count.
        let families: [(&str, RuleParser); 3] = [
            ("column.truncate.to.", |rest| characters(rest).map(ColumnRule::Truncate)),
            ("column.mask.with.", |rest| characters(rest).map(ColumnRule::Mask)),
            ("column.mask.hash.", |rest| ColumnHash::parse(rest).map(ColumnRule::Hash)),
        ];
        for (prefix, rule) in families {
            let mut entries: Vec<_> = reader.family(prefix).map(|(rest, columns)| (rest.to_owned(), columns.to_owned())).collect();
            entries.sort_by_key(|(rest, _)| rest.starts_with(SECOND_VERSION));
            for (rest, columns) in entries {
                match rule(&rest) {
                    // What does not compile is already a fault of its key by its validator.
                    Ok(rule) => rules.push((NameList::parse(&columns).unwrap_or_default(), rule)),
                    Err(fault) => reader.fault(&format!("{prefix}{rest}"), fault),
                }
            }
        }
        let list = |key: &str| NameList::parse(&reader.text(key)).unwrap_or_default();
        Self { rules, typed_columns: list("column.propagate.source.type"), typed_types: list("datatype.propagate.source.type") }
    }

    /// The rule that counts for a column, `schema.table.column`.
    #[must_use]
    pub fn of(&self, column: &str) -> Option<&ColumnRule> {
        self.rules.iter().find(|(columns, _)| columns.matches(column)).map(|(_, rule)| rule)
    }

    /// Whether the column's schema says its type; `data_type` is `schema.table.type`.
    #[must_use]
    pub fn shows_type(&self, column: &str, data_type: &str) -> bool {
        self.typed_columns.matches(column) || self.typed_types.matches(data_type)
    }
}

/// `5.chars`
fn characters(text: &str) -> Result<usize, String> {
    let number = text.strip_suffix(".chars").and_then(|number| number.parse::<u32>().ok());
    number.map(|number| number as usize).ok_or_else(|| "must end in a number and .chars".to_owned())
}

impl ColumnRule {
    /// The parameter that tells readers of the schema.
    #[must_use]
    pub fn parameter(&self) -> (&'static str, String) {
        match self {
            Self::Mask(_) | Self::Hash(_) => ("masked", "true".to_owned()),
            Self::Truncate(count) => ("truncateLength", count.to_string()),
        }
    }

    /// Whether the rule can change a value of a column of so many characters or digits; 0 where that is not known.
    #[must_use]
    pub fn can_change(&self, length: i32) -> bool {
        match self {
            Self::Truncate(count) => usize::try_from(length).map_or(true, |length| length == 0 || length > *count),
            Self::Mask(_) | Self::Hash(_) => true,
        }
    }

    /// What becomes of values of `schema`; `limit` is the most characters of the column, where it has a limit.
    #[must_use]
    pub fn disguise(&self, schema: &Schema, limit: Option<usize>) -> Option<Disguise> {
        let is_text = matches!(schema.kind(), Kind::String);
        let is_octets = matches!(schema.kind(), Kind::Bytes) && schema.name().is_none();
        match self {
            Self::Mask(count) if is_text => Some(Disguise::Constant(Value::String("*".repeat(*count).into()))),
            Self::Hash(hash) if is_text => Some(Disguise::Hash(hash.clone(), limit)),
            Self::Mask(_) | Self::Hash(_) => Some(Disguise::Constant(not_in_identity(schema))),
            // JSON is cut too: who cuts a column does not want what stands behind. Bits and decimals are numbers, whose octets have
            // a name.
            Self::Truncate(count) => (is_text || is_octets).then_some(Disguise::Truncate(*count)),
        }
    }

    /// What becomes of values of `schema` in keys; `None` where they stay as they are.
    #[must_use]
    pub fn key_disguise(&self, schema: &Schema) -> Option<Disguise> {
        match self {
            Self::Hash(hash) if matches!(schema.kind(), Kind::String) => Some(Disguise::Hash(hash.clone(), None)),
            Self::Hash(_) | Self::Mask(_) | Self::Truncate(_) => None,
        }
    }
}

impl Disguise {
    /// The value to write. What the source does not tell is no text, and stays so (I8) except below a constant, which hangs on no
    /// value.
    #[must_use]
    pub fn apply(&self, value: Value) -> Value {
        match (self, value) {
            (Self::Constant(constant), _) => constant.clone(),
            (Self::Hash(hash, limit), Value::String(text)) => Value::String(hash.of(&text, *limit).into()),
            (Self::Truncate(count), Value::String(text)) => Value::String(truncate(&text, *count)),
            (Self::Truncate(count), Value::Bytes(mut octets)) => {
                octets.truncate(*count);
                Value::Bytes(octets)
            }
            (Self::Hash(..) | Self::Truncate(_), value) => value,
        }
    }
}

/// At most `count` UTF-16 units; a character that needs two is not cut in half.
fn truncate(text: &ByteString, count: usize) -> ByteString {
    let mut units = 0;
    let end = text.char_indices().find(|(_, character)| {
        units += character.len_utf16();
        units > count
    });
    match end {
        Some((end, _)) => text.slice_ref(&text[..end]),
        None => text.clone(),
    }
}

impl ColumnHash {
    /// `SHA-256.with.salt.SALT`, before it perhaps `v2.`.
    fn parse(text: &str) -> Result<Self, String> {
        let (is_first_version, text) = text.strip_prefix(SECOND_VERSION).map_or((true, text), |rest| (false, rest));
        let (name, salt) = text.split_once(".with.salt.").ok_or("must be column.mask.hash.ALGORITHM.with.salt.SALT")?;
        let found = ALGORITHMS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, algorithm) = found.ok_or_else(|| {
            let names = ALGORITHMS.map(|(name, _)| name).join(", ");
            format!("names the algorithm {name:?}; there are {names}")
        })?;
        Ok(Self { algorithm: *algorithm, salt: salt.to_owned(), is_first_version })
    }

    /// The hash in hexadecimal.
    fn of(&self, text: &str, limit: Option<usize>) -> String {
        let mut input = self.salt.clone().into_bytes();
        if self.is_first_version {
            serialise(text, &mut input);
        } else {
            input.extend_from_slice(text.as_bytes());
        }
        let mut hash = match self.algorithm {
            Algorithm::Md5 => hexadecimal(&Md5::digest(&input)),
            Algorithm::Other(algorithm) => hexadecimal(digest::digest(algorithm, &input).as_ref()),
        };
        if let Some(limit) = limit {
            hash.truncate(limit);
        }
        hash
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Appends a text as Java serialises it: the stream's head, `TC_STRING` with a length of two octets or `TC_LONGSTRING` with one
/// of eight, and the text in Java's own UTF-8, in which each surrogate is encoded for itself and zero takes two octets.
fn serialise(text: &str, out: &mut Vec<u8>) {
    let mut encoded = Vec::with_capacity(text.len());
    for unit in text.encode_utf16() {
        match unit {
            1..=0x7f => encoded.push(unit as u8),
            0 | 0x80..=0x7ff => encoded.extend_from_slice(&[0xc0 | (unit >> 6) as u8, 0x80 | (unit & 0x3f) as u8]),
            0x800.. => {
                encoded.extend_from_slice(&[0xe0 | (unit >> 12) as u8, 0x80 | (unit >> 6 & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]);
            }
        }
    }
    out.extend_from_slice(&[0xac, 0xed, 0x00, 0x05]);
    match u16::try_from(encoded.len()) {
        Ok(length) => {
            out.push(b't');
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(b'|');
            out.extend_from_slice(&(encoded.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&encoded);
}

#[cfg(test)]
mod tests {
    use tailwater_api::SchemaBuilder;
    use tailwater_api::config::ConfigValues;

    use super::*;
    use crate::relational_fields::RELATIONAL_FIELDS;

    fn read(key: &str) -> (ColumnRules, Vec<String>) {
        read_all(&[key])
    }

    fn read_all(keys: &[&str]) -> (ColumnRules, Vec<String>) {
        let rules = keys.iter().map(|key| (*key, r"public\.t\.c"));
        let values: ConfigValues = rules.chain([("topic.prefix", "p")]).collect();
        let mut reader = ConfigReader::new(&[RELATIONAL_FIELDS], &values);
        let rules = ColumnRules::read(&mut reader);
        (rules, reader.into_report().faults.into_iter().map(|fault| fault.key).collect())
    }

    fn rule(key: &str) -> ColumnRule {
        let (rules, faults) = read(key);
        assert!(faults.is_empty(), "{faults:?}");
        assert!(rules.of("public.t.d").is_none());
        rules.of("public.t.c").expect("the column is named").clone()
    }

    fn text_schema() -> std::sync::Arc<Schema> {
        Schema::of(Kind::String).optional().build()
    }

    fn written(key: &str, limit: Option<usize>, value: Value) -> Value {
        rule(key).disguise(&text_schema(), limit).unwrap().apply(value)
    }

    #[test]
    fn values_are_those_of_the_recorded_cases() {
        let salted = "column.mask.hash.SHA-256.with.salt.CzQMA0cB5K";
        assert_eq!(written(salted, Some(30), "ada@example.org".into()), "cae6021cd4f83a65ea02c81c63b957".into());
        assert_eq!(written(salted, Some(30), Value::Null), Value::Null);
        assert_eq!(written("column.mask.hash.MD5.with.salt.s", None, "ada@example.org".into()), "504fc21fc633da5927e0dca21971e377".into());
        let Value::String(second) = written("column.mask.hash.v2.SHA-512.with.salt.pepper", None, "DE00".into()) else { panic!() };
        assert!(second.starts_with("a0c71b5939eddf59caa0b253ab6daedb635d3bc6af4bf338791e4e8718c23fca") && second.len() == 128);
        for value in [Value::Null, "12345678".into(), "".into(), Value::Unchanged, Value::NotInIdentity] {
            assert_eq!(written("column.mask.with.5.chars", None, value), "*****".into());
        }
        assert_eq!(written("column.mask.with.0.chars", None, "999".into()), "".into());
        for (text, cut) in [("Ada Lovelace", "Ada "), ("ünïcödé", "ünïc"), ("😀😀😀", "😀😀"), ("abc😀", "abc"), ("abc", "abc")]
        {
            assert_eq!(written("column.truncate.to.4.chars", None, text.into()), cut.into());
        }
        assert_eq!(written("column.truncate.to.0.chars", None, "abc".into()), "".into());
        assert_eq!(written("column.truncate.to.0.chars", None, Value::Null), Value::Null);
        assert!(rule("column.truncate.to.0.chars").can_change(1));
    }

    #[test]
    fn octets_are_cut_and_numbers_are_not() {
        let cut = |schema: SchemaBuilder| rule("column.truncate.to.2.chars").disguise(&schema.build(), None);
        let octets = |octets: &'static [u8]| Value::Bytes(octets.into());
        let disguise = cut(Schema::of(Kind::Bytes)).unwrap();
        assert_eq!(disguise.apply(octets(b"\x01\x02\x03")), octets(b"\x01\x02"));
        assert_eq!(disguise.apply(octets(b"\x01")), octets(b"\x01"));
        assert_eq!(cut(Schema::of(Kind::Bytes).name("io.debezium.data.Bits")), None);
        assert_eq!(cut(Schema::of(Kind::Int32)), None);
    }

    /// I8: the hash or the beginning of a placeholder would be taken for that of a value.
    #[test]
    fn what_the_source_does_not_tell_is_neither_hashed_nor_cut() {
        for key in ["column.mask.hash.v2.SHA-256.with.salt.s", "column.truncate.to.2.chars"] {
            for unknown in [Value::Unchanged, Value::NotInIdentity] {
                assert_eq!(written(key, None, unknown.clone()), unknown);
            }
        }
    }

    #[test]
    fn what_is_masked_is_never_written_in_the_clear() {
        let number = Schema::of(Kind::Int32);
        for key in ["column.mask.with.5.chars", "column.mask.hash.MD5.with.salt.s"] {
            let written = |schema: &Schema| rule(key).disguise(schema, None).unwrap().apply(Value::Int32(7));
            assert_eq!(written(&number.clone().optional().build()), Value::Null);
            assert_eq!(written(&number.clone().build()), Value::Int32(0));
        }
    }

    #[test]
    fn of_several_rules_the_first_in_debeziums_order_counts() {
        let keys = [
            "column.truncate.to.3.chars",
            "column.mask.with.5.chars",
            "column.mask.hash.SHA-256.with.salt.s",
            "column.mask.hash.v2.SHA-256.with.salt.s",
        ];
        for first in 0..keys.len() {
            let mut given = keys[first..].to_vec();
            given.reverse();
            assert_eq!(read_all(&given).0.of("public.t.c"), Some(&rule(keys[first])));
        }
    }

    #[test]
    fn keys_stay_keys() {
        assert_eq!(rule("column.mask.with.5.chars").key_disguise(&text_schema()), None);
        assert_eq!(rule("column.truncate.to.4.chars").key_disguise(&text_schema()), None);
        let hash = rule("column.mask.hash.MD5.with.salt.s").key_disguise(&text_schema()).unwrap();
        assert_eq!(hash.apply("ada@example.org".into()), "504fc21fc633da5927e0dca21971e377".into());
    }

    #[test]
    fn long_and_odd_texts_are_serialised_as_java_does() {
        let mut out = Vec::new();
        serialise("é😀", &mut out);
        assert_eq!(out, [0xac, 0xed, 0, 5, b't', 0, 8, 0xc3, 0xa9, 0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]);
        out.clear();
        serialise(&"x".repeat(70_000), &mut out);
        assert_eq!(out[..13], [0xac, 0xed, 0, 5, b'|', 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[test]
    fn keys_that_say_nothing_are_faults() {
        for key in
            ["column.mask.with.five.chars", "column.truncate.to.-1.chars", "column.mask.hash.CRC.with.salt.s", "column.mask.hash.MD5"]
        {
            assert_eq!(read(key).1, [key]);
        }
    }
}
