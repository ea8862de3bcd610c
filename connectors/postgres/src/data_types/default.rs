//! Defaults of columns, out of their expression as `pg_get_expr` writes it.
//!
//! Connect's schemas hold values, so only literals can be told: numbers, truth values, and texts with or without a cast.
//! Where the default is the result of a function, Debezium writes the type's zero, and so does this. Other expressions,
//! and types for which Debezium writes none, have no default.

use bytes::{Bytes, BytesMut};
use tailwater_api::Value;

use super::Format;
use super::codec::{Codec, Output};
use super::mapping::Mapping;

/// What defaults of a type may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DefaultRule {
    /// None at all
    None,
    /// Literals; there is no zero.
    Literal,
    /// Literals that the column can hold as they are, and 0 for functions
    Decimal {
        /// Least digits behind the point that are written
        digits: usize,
        /// Most that the column holds; `None` for no limit
        scale: Option<i32>,
    },
    /// Literals, and for functions the zero that has this text
    Zero(&'static str),
}

/// Functions of SQL that are called without parentheses.
const BARE_FUNCTIONS: [&str; 11] = [
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "CURRENT_USER",
    "CURRENT_ROLE",
    "SESSION_USER",
    "USER",
    "CURRENT_CATALOG",
    "CURRENT_SCHEMA",
];

/// The default that `expression` says, if a schema can hold it.
pub(super) fn default_value(mapping: &Mapping, expression: &str) -> Option<Value> {
    let zero = match mapping.default {
        DefaultRule::None => return None,
        DefaultRule::Literal => None,
        DefaultRule::Decimal { .. } => Some("0"),
        DefaultRule::Zero(text) => Some(text),
    };
    let mut text = if is_function(expression) { zero?.to_owned() } else { of_retyped(literal(expression)?, expression, &mapping.codec) };
    if mapping.codec == Codec::Boolean && text != "true" {
        // As Debezium does with the text of a former type.
        "false".clone_into(&mut text);
    }
    if matches!(mapping.codec, Codec::NumericText | Codec::NumericDouble) && !is_number(&text) {
        return None; // NaN, or an infinity
    }
    if let DefaultRule::Decimal { digits, scale } = mapping.default {
        if scale.is_some_and(|scale| !fits(&text, scale)) {
            return None;
        }
        pad(&mut text, digits);
    }
    let mut scratch = BytesMut::new();
    let mut output = Output::new(&mut scratch);
    let value = mapping.codec.decode(Format::Text, (&Bytes::from(text)).into(), &mut output).ok()?;
    // A default of null is none.
    (!output.lost && !value.is_null()).then_some(value)
}

/// The literal in the form of the column's type. The catalog keeps that of a former type where the cast to the new one is implicit: a
/// date is its midnight then, and of a timestamp the day counts.
fn of_retyped(literal: String, expression: &str, codec: &Codec) -> String {
    let day = || literal.strip_suffix(" BC").map_or((&*literal, ""), |literal| (literal, " BC"));
    let is_finite = literal.starts_with(|letter: char| letter.is_ascii_digit());
    match codec {
        Codec::Timestamp | Codec::MicroTimestamp | Codec::NanoTimestamp | Codec::IsoTimestamp | Codec::ZonedTimestamp { .. }
            if is_finite && expression.ends_with("'::date") =>
        {
            let zone = if matches!(codec, Codec::ZonedTimestamp { .. }) { "+00" } else { "" };
            let (day, era) = day();
            format!("{day} 00:00:00{zone}{era}")
        }
        Codec::Date | Codec::IsoDate if is_finite && expression.contains("'::timestamp") => {
            let (moment, era) = day();
            format!("{}{era}", moment.split(' ').next().unwrap_or(moment))
        }
        _ => literal,
    }
}

/// A call and nothing else: `now()`, `nextval('s'::regclass)`, `public."Next"()`.
fn is_function(expression: &str) -> bool {
    if BARE_FUNCTIONS.contains(&expression) {
        return true;
    }
    let Some(open) = expression.find('(') else { return false };
    let name = &expression[..open];
    let is_name = name.starts_with(|letter: char| letter.is_alphabetic() || matches!(letter, '_' | '"'))
        && name.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.' | '"' | '$'));
    is_name && closes_at_end(&expression[open..])
}

/// Whether the parenthesis that `text` begins with is closed by its last letter.
fn closes_at_end(text: &str) -> bool {
    let (mut depth, mut in_text) = (0_usize, false);
    for (index, letter) in text.char_indices() {
        match letter {
            '\'' => in_text = !in_text,
            '(' if !in_text => depth += 1,
            ')' if !in_text => {
                depth -= 1;
                if depth == 0 {
                    return index + 1 == text.len();
                }
            }
            _ => {}
        }
    }
    false
}

/// The text of a literal.
fn literal(expression: &str) -> Option<String> {
    if let Some(rest) = expression.strip_prefix('\'') {
        let mut text = String::new();
        let mut letters = rest.char_indices().peekable();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '\'' if letters.next_if(|(_, next)| *next == '\'').is_some() => text.push('\''),
                '\'' => return is_cast(&rest[index + 1..]).then_some(text),
                letter => text.push(letter),
            }
        }
        return None;
    }
    (is_number(expression) || matches!(expression, "true" | "false")).then(|| expression.to_owned())
}

fn is_number(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_digit() || letter == '-')
        && text.bytes().all(|letter| matches!(letter, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'))
}

/// Whether a column with so many digits behind the point holds the number as it is. One with an exponent is left to the codec.
fn fits(number: &str, scale: i32) -> bool {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    let ends_in_zeros = |count: u32| whole.len() - whole.trim_end_matches('0').len() >= count as usize;
    number.contains(['e', 'E'])
        || match usize::try_from(scale) {
            Ok(scale) => fraction.len() <= scale,
            Err(_) => fraction.is_empty() && (matches!(whole, "0" | "-0") || ends_in_zeros(scale.unsigned_abs())),
        }
}

/// Adds zeros behind the point until there are `digits`; a number with an exponent stays as it is.
fn pad(number: &mut String, digits: usize) {
    let given = number.split_once('.').map(|(_, fraction)| fraction.len());
    let missing = digits.saturating_sub(given.unwrap_or(0));
    if missing > 0 && !number.contains(['e', 'E']) {
        if given.is_none() {
            number.push('.');
        }
        number.extend(std::iter::repeat_n('0', missing));
    }
}

/// Nothing, or a cast to a type: `::character varying`, `::public."Odd-Enum"`, `::numeric(5,2)`.
fn is_cast(rest: &str) -> bool {
    let Some(name) = rest.strip_prefix("::") else { return rest.is_empty() };
    let mut in_quotes = false;
    let is_name = name.chars().all(|letter| {
        in_quotes ^= letter == '"';
        in_quotes || letter.is_alphanumeric() || matches!(letter, '_' | '.' | '"' | '$' | ' ' | '(' | ')' | ',' | '[' | ']')
    });
    is_name && !in_quotes && name.starts_with(|letter: char| letter.is_alphabetic() || matches!(letter, '_' | '"'))
}
