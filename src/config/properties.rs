//! Java's `.properties` format, as `java.util.Properties.load(Reader)` reads it (Java SE 21 API): lines joined by a
//! trailing backslash, keys ended by `=`, `:` or white space, escapes `\t \n \r \f \uXXXX`, any other escaped
//! character standing for itself, comments from `#` or `!`. Differs in one thing: the text is UTF-8, not Latin-1.

use std::iter::Peekable;
use std::str::{Chars, Lines};

/// One key with its value and the line (from 1) on which it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) line: usize,
}

/// All properties in order, repeated keys included.
///
/// # Errors
/// The line and the sentence of the first `\u` that is no UTF-16 code unit in four hexadecimal digits.
pub(crate) fn parse(text: &str) -> Result<Vec<Property>, (usize, String)> {
    let mut properties = Vec::new();
    let mut lines = text.lines();
    let mut number = 0;
    while let Some(first) = lines.next() {
        number += 1;
        let line = number;
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let logical = join(first, &mut lines, &mut number);
        properties.push(property(&logical, line).map_err(|message| (line, message))?);
    }
    Ok(properties)
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{c}')
}

/// Appends the following lines for as long as the line ends in an odd number of backslashes.
fn join(first: &str, lines: &mut Lines<'_>, number: &mut usize) -> String {
    let mut logical = first.to_owned();
    while logical.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
        logical.pop();
        let Some(next) = lines.next() else { break };
        *number += 1;
        logical.push_str(next.trim_start_matches(is_blank));
    }
    logical
}

fn property(logical: &str, line: usize) -> Result<Property, String> {
    let mut characters = logical.chars().peekable();
    let key = unescape(&mut characters, |character| is_blank(character) || matches!(character, '=' | ':'))?;
    skip_blanks(&mut characters);
    if characters.next_if(|character| matches!(character, '=' | ':')).is_some() {
        skip_blanks(&mut characters);
    }
    let value = unescape(&mut characters, |_| false)?;
    Ok(Property { key, value, line })
}

fn skip_blanks(characters: &mut Peekable<Chars<'_>>) {
    while characters.next_if(|character| is_blank(*character)).is_some() {}
}

/// Reads up to an unescaped character that ends the text, which stays.
fn unescape(characters: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Result<String, String> {
    let mut text = String::new();
    while let Some(character) = characters.next_if(|character| !ends(*character)) {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('f') => text.push('\u{c}'),
            Some('u') => text.push(unicode(characters)?),
            Some(other) => text.push(other),
            None => {}
        }
    }
    Ok(text)
}

/// The character of `\uXXXX`, of which a pair of surrogates makes one.
fn unicode(characters: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let first = code_unit(characters)?;
    let mut units = vec![first];
    if (0xd800..0xdc00).contains(&first) {
        if characters.next() != Some('\\') || characters.next() != Some('u') {
            return Err(format!("\\u{first:04x} is half a character; the other half does not follow"));
        }
        units.push(code_unit(characters)?);
    }
    match char::decode_utf16(units).next() {
        Some(Ok(character)) => Ok(character),
        Some(Err(_)) | None => Err(format!("\\u{first:04x} is half a character")),
    }
}

fn code_unit(characters: &mut Peekable<Chars<'_>>) -> Result<u16, String> {
    let digits: String = characters.take(4).collect();
    if digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(u16::from_str_radix(&digits, 16).expect("four hexadecimal digits"))
    } else {
        Err(format!("\\u must be followed by four hexadecimal digits, not {digits:?}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|property| (property.key, property.value)).collect()
    }

    #[test]
    fn separators_comments_and_continuations_are_those_of_java() {
        let text =
            "# comment\n! too\n\n a = 1\nb:2\nc 3\nd\n  e\\ f\\=g : h i \nlong=one,\\\n    two,\\\n    three\nnot=joined\\\\\nlast=x";
        let expected = [
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("d", ""),
            ("e f=g", "h i "),
            ("long", "one,two,three"),
            ("not", "joined\\"),
            ("last", "x"),
        ];
        assert_eq!(pairs(text), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn escapes_are_those_of_java() {
        assert_eq!(pairs("k=\\t\\u00fc\\uD83D\\uDE00\\.\\z"), [("k".to_owned(), "\tü😀.z".to_owned())]);
        assert_eq!(parse("a=1\nk=\\u12").unwrap_err().0, 2);
        assert!(parse("k=\\uD83D").is_err());
        assert!(parse("k=\\uDE00x").is_err());
    }

    #[test]
    fn the_line_is_the_one_where_the_key_begins() {
        assert_eq!(parse("a=1\\\n2\n\nb=3").unwrap()[1].line, 4);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn an_escaped_pair_reads_back(key in "[a-z=: \\\\]{1,8}", value in "[a-z=:\\\\ü]{0,8}") {
            let escape = |text: &str| text.chars().flat_map(|c| (!c.is_ascii_lowercase()).then_some('\\').into_iter().chain([c])).collect::<String>();
            prop_assert_eq!(pairs(&format!("{}={}", escape(&key), escape(&value))), [(key, value)]);
        }
    }
}
