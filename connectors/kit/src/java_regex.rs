//! Regular expressions as `java.util.regex` reads them (Java 17), on the engine of `fancy-regex`.
//!
//! Both know look-around, back references, named groups and possessive quantifiers. Translated is what is written alike and
//! means something else: `\d \w \s \b` are ASCII, `\h \v \H \V` are blanks and line ends, `\Q…\E` quotes, `\uXXXX` and `\0n` are
//! characters, `\p{Alpha}` and its like are ASCII, `\<` is a plain `<`, and `--` and `~~` in a class are characters. Without the flag
//! `u`, the flag `i` is about ASCII letters only; within a class, other letters are alike nonetheless.
//! What has no counterpart, such as the flags `U` and `d` or `\p{javaLowerCase}`, is refused.

use std::iter::Peekable;
use std::str::Chars;

use fancy_regex::{Captures, Regex};

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct JavaRegex {
    whole: Regex,
    first: Regex,
}

impl JavaRegex {
    /// Compiles `expression`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(expression: &str) -> Result<Self, String> {
        let translated = translate(expression)?;
        let compile = |text: &str| Regex::new(text).map_err(|error| format!("is not a regular expression: {error}"));
        Ok(Self { whole: compile(&format!(r"\A(?:{translated})\z"))?, first: compile(&translated)? })
    }

    /// Whether the expression matches the whole of `text`.
    ///
    /// # Errors
    /// The expression tries too many ways to match.
    pub fn matches(&self, text: &str) -> Result<bool, fancy_regex::Error> {
        self.whole.is_match(text)
    }

    /// `text` with the first match replaced, if the expression matches the whole of it, as RegexRouter does it.
    ///
    /// # Errors
    /// The expression tries too many ways to match.
    pub fn replace_whole(&self, text: &str, replacement: &Replacement) -> Result<Option<String>, fancy_regex::Error> {
        if !self.matches(text)? {
            return Ok(None);
        }
        let Some(captures) = self.first.captures(text)? else { return Ok(None) };
        let matched = captures.get(0).expect("group 0 is the match");
        let mut replaced = text[..matched.start()].to_owned();
        replacement.append(&captures, &mut replaced);
        replaced.push_str(&text[matched.end()..]);
        Ok(Some(replaced))
    }

    /// Parses what a match is replaced by: `$1` and `${name}` are groups, `\` makes the next character plain.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn replacement(&self, text: &str) -> Result<Replacement, String> {
        let groups = self.first.captures_len();
        let names: Vec<Option<&str>> = self.first.capture_names().collect();
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' => plain.push(characters.next().ok_or("ends in a backslash that makes nothing plain")?),
                '$' => {
                    let group = match characters.peek() {
                        Some('{') => {
                            let name: String = characters.by_ref().skip(1).take_while(|character| *character != '}').collect();
                            names.iter().position(|known| *known == Some(name.as_str())).ok_or(format!("names no group {name:?}"))?
                        }
                        Some(digit) if digit.is_ascii_digit() => group_number(&mut characters, groups)?,
                        _ => return Err(r"has a $ without a group; a plain one is \$".to_owned()),
                    };
                    parts.push((std::mem::take(&mut plain), Some(group)));
                }
                other => plain.push(other),
            }
        }
        parts.push((plain, None));
        Ok(Replacement(parts))
    }
}

/// The number behind a `$`: as many digits as still name a group.
fn group_number(characters: &mut Peekable<Chars<'_>>, groups: usize) -> Result<usize, String> {
    let mut number = None;
    while let Some(digit) = characters.peek().and_then(|character| character.to_digit(10)) {
        let longer = number.unwrap_or(0) * 10 + digit as usize;
        match number {
            Some(_) if longer >= groups => break,
            None if longer >= groups => return Err(format!("names group {longer}, the expression has {}", groups - 1)),
            _ => number = Some(longer),
        }
        characters.next();
    }
    number.ok_or_else(|| "names no group".to_owned())
}

/// What a match is replaced by: texts, each with a group behind it.
#[derive(Clone, Debug)]
pub struct Replacement(Vec<(String, Option<usize>)>);

impl Replacement {
    fn append(&self, captures: &Captures<'_>, out: &mut String) {
        for (plain, group) in &self.0 {
            out.push_str(plain);
            out.push_str(group.and_then(|group| captures.get(group)).map_or("", |group| group.as_str()));
        }
    }
}

const BLANKS: &str = r" \t\x{A0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}";
const LINE_ENDS: &str = r"\n\x0B\x0C\r\x{85}\x{2028}\x{2029}";

/// Java's names of ASCII classes, with the names of the same classes in the engine's syntax.
const ASCII_CLASSES: &[(&str, &str)] = &[
    ("Lower", "lower"),
    ("Upper", "upper"),
    ("ASCII", "ascii"),
    ("Alpha", "alpha"),
    ("Digit", "digit"),
    ("Alnum", "alnum"),
    ("Punct", "punct"),
    ("Graph", "graph"),
    ("Print", "print"),
    ("Blank", "blank"),
    ("Cntrl", "cntrl"),
    ("XDigit", "xdigit"),
    ("Space", "space"),
];

/// The expression in the engine's syntax.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn translate(expression: &str) -> Result<String, String> {
    let mut out = String::with_capacity(expression.len() + 8);
    let mut characters = expression.chars().peekable();
    let mut classes = 0;
    let mut folding = Folding::Ascii;
    while let Some(character) = characters.next() {
        match character {
            '\\' => escape(&mut characters, if classes > 0 { Folding::Engine } else { folding }, classes > 0, &mut out)?,
            '[' => {
                classes += 1;
                out.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket that opens a class here would be one of the engine's own.
                if characters.next_if_eq(&']').is_some() {
                    out.push_str(r"\]");
                }
            }
            ']' if classes > 0 => {
                classes -= 1;
                out.push(']');
            }
            '-' | '~' if classes > 0 && characters.peek() == Some(&character) => {
                out.push('\\');
                out.push(character);
            }
            ':' if classes > 0 => out.push_str(r"\:"),
            '(' if classes == 0 && characters.peek() == Some(&'?') => group(&mut characters, &mut folding, &mut out)?,
            other if classes == 0 && !other.is_ascii() => out.push_str(&folding.of(other)),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// Which letters are alike in upper and lower case where case is ignored.
#[derive(Clone, Copy)]
enum Folding {
    /// Those of ASCII: other characters are taken out of the flag
    Ascii,
    /// As the engine has it
    Engine,
}

impl Folding {
    /// The character as an expression of its own.
    fn of(self, character: char) -> String {
        match self {
            Self::Ascii if !character.is_ascii() => format!("(?-i:{character})"),
            Self::Ascii | Self::Engine => literal(character),
        }
    }
}

/// The part of a group up to its kind; the flags of Java that the engine reads otherwise.
fn group(characters: &mut Peekable<Chars<'_>>, folding: &mut Folding, out: &mut String) -> Result<(), String> {
    out.push_str("(?");
    characters.next();
    let mut flags = String::new();
    while let Some(flag) = characters.next_if(|character| character.is_ascii_alphabetic() || *character == '-') {
        flags.push(flag);
    }
    if let Some(flag) = flags.chars().find(|flag| matches!(flag, 'U' | 'd')) {
        return Err(format!("uses the flag {flag}, which is not supported"));
    }
    if flags.split('-').next().is_some_and(|set| set.contains('u')) {
        *folding = Folding::Engine;
    }
    // The engine compares case by Unicode.
    let kept: String = flags.chars().filter(|flag| *flag != 'u').collect();
    out.push_str(kept.strip_suffix('-').unwrap_or(&kept));
    Ok(())
}

fn escape(characters: &mut Peekable<Chars<'_>>, folding: Folding, in_class: bool, out: &mut String) -> Result<(), String> {
    let escaped = characters.next().ok_or("ends in a backslash")?;
    let class = |members: &str, negated: bool| match (negated, in_class) {
        (false, true) => members.to_owned(),
        (false, false) => format!("[{members}]"),
        (true, _) => format!("[^{members}]"),
    };
    let text = match escaped {
        'd' | 'D' => class("0-9", escaped == 'D'),
        'w' | 'W' => class("a-zA-Z_0-9", escaped == 'W'),
        's' | 'S' => class(r" \t\n\x0B\x0C\r", escaped == 'S'),
        'h' | 'H' => class(BLANKS, escaped == 'H'),
        'v' | 'V' => class(LINE_ENDS, escaped == 'V'),
        'e' => r"\x1B".to_owned(),
        'u' => format!(r"\x{{{}}}", take(characters, 4)?),
        '0' => {
            let mut octal = String::new();
            while let Some(digit) = characters.next_if(|character| ('0'..='7').contains(character) && octal.len() < 3) {
                octal.push(digit);
            }
            let code = u32::from_str_radix(&octal, 8).map_err(|_| r"has a \0 without octal digits")?;
            format!(r"\x{{{code:x}}}")
        }
        'c' => {
            let control = characters.next().ok_or(r"ends in \c")?;
            format!(r"\x{{{:x}}}", u32::from(control) ^ 64)
        }
        'Q' => {
            let mut quoted = String::new();
            while let Some(character) = characters.next() {
                quoted.push(character);
                if quoted.ends_with("\\E") {
                    quoted.truncate(quoted.len() - 2);
                    break;
                }
                if characters.peek().is_none() {
                    break;
                }
            }
            quoted.chars().map(|character| folding.of(character)).collect()
        }
        'E' => String::new(),
        'p' | 'P' => property(characters, escaped == 'P', in_class)?,
        // Word boundaries, anchors, back references and control characters are the same.
        'b' | 'B' | 'A' | 'z' | 'Z' | 'G' | 'k' | 'R' | 'X' | 't' | 'n' | 'r' | 'f' | 'a' | 'x' | '1'..='9' => format!("\\{escaped}"),
        other if other.is_ascii_alphabetic() => return Err(format!(r"has the unknown escape \{other}")),
        other => folding.of(other),
    };
    out.push_str(&text);
    Ok(())
}

fn property(characters: &mut Peekable<Chars<'_>>, negated: bool, in_class: bool) -> Result<String, String> {
    let name: String = match characters.next() {
        Some('{') => characters.by_ref().take_while(|character| *character != '}').collect(),
        Some(letter) => letter.to_string(),
        None => return Err(r"ends in \p".to_owned()),
    };
    let ascii = ASCII_CLASSES.iter().find(|(java, _)| *java == name);
    Ok(match ascii {
        Some((_, class)) => {
            let member = format!("[:{}{class}:]", if negated { "^" } else { "" });
            if in_class { member } else { format!("[{member}]") }
        }
        None => format!(r"\{}{{{}}}", if negated { 'P' } else { 'p' }, name.strip_prefix("Is").unwrap_or(&name)),
    })
}

fn take(characters: &mut Peekable<Chars<'_>>, count: usize) -> Result<String, String> {
    let digits: String = characters.by_ref().take(count).collect();
    if digits.len() == count && digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err(format!("has a character number {digits:?} that is not {count} hexadecimal digits"))
    }
}

/// The character as an expression of its own.
fn literal(character: char) -> String {
    if character.is_ascii_punctuation() { format!(r"\x{{{:x}}}", u32::from(character)) } else { character.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(expression: &str, text: &str) -> bool {
        JavaRegex::new(expression).unwrap_or_else(|error| panic!("{expression}: {error}")).matches(text).unwrap()
    }

    fn replaced(expression: &str, replacement: &str, text: &str) -> Option<String> {
        let regex = JavaRegex::new(expression).unwrap();
        regex.replace_whole(text, &regex.replacement(replacement).unwrap()).unwrap()
    }

    #[test]
    fn the_whole_text_has_to_match() {
        assert!(matches(r"shop\.(a|b)", "shop.a"));
        assert!(!matches(r"shop\.(a|b)", "shop.ab"));
        assert!(!matches("a|b", "ab"));
        assert!(matches(".*", ""));
    }

    #[test]
    fn what_is_written_alike_means_what_java_means() {
        assert!(!matches(r"\d+", "٣"));
        assert!(!matches(r"\w+", "é"));
        assert!(matches(r"[\w.-]+", "a.b-c_1"));
        assert!(matches(r"\Qa.b\E.c", "a.bxc"));
        assert!(!matches(r"\Qa.b\E.c", "axbxc"));
        assert!(matches(r"\p{Alpha}+\p{Digit}", "ab1"));
        assert!(matches(r"[^\p{Alpha}]", "1"));
        assert!(matches(r"\u0041\x42\0103", "ABC"));
        assert!(matches(r"[a-z&&[^b]]+", "ac"));
        assert!(!matches(r"[a-z&&[^b]]+", "ab"));
        assert!(matches(r"(?<x>a)\k<x>", "aa"));
        assert!(matches(r"(a)(?!c)b\1", "aba"));
        assert!(matches(r"\h\_\-\<", " _-<"));
        assert!(matches(r"(?iu)SHOP", "shop"));
        assert!(matches(r"[\[\]:]+", "[:]"));
    }

    #[test]
    fn without_the_flag_u_case_is_ignored_of_ascii_letters_only() {
        for (expression, text) in [("(?i)straße", "STRAßE"), ("(?iu)ä", "Ä"), (r"(?i)a\QöB\E+", "Aöb"), ("(?i)ü+x?", "üüX")] {
            assert!(matches(expression, text), "{expression}");
        }
        for (expression, text) in [("(?i)ä", "Ä"), (r"(?i)\Qöa\E", "Öa"), (r"(?i)\ü", "Ü"), ("(?i)(?:имя)", "ИМЯ")] {
            assert!(!matches(expression, text), "{expression}");
        }
    }

    #[test]
    fn groups_are_put_in_place() {
        let regex = r"shop\.(\w+)\.part_(\d+)";
        assert_eq!(replaced(regex, "shop.$1.all-$2$2", "shop.other.part_23").as_deref(), Some("shop.other.all-2323"));
        assert_eq!(replaced(regex, "x", "shop.other.part_x"), None);
        assert_eq!(replaced(r"(?<table>\w+)", r"t_${table}\$", "a").as_deref(), Some("t_a$"));
        assert_eq!(replaced(r"(\w)", "$12", "a").as_deref(), Some("a2"));
        assert_eq!(replaced("(a)|(b)", "[$1$2]", "b").as_deref(), Some("[b]"));
        // Java looks for the first match again.
        assert_eq!(replaced("a|ab", "x", "ab").as_deref(), Some("xb"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for expression in ["(unclosed", "[a", r"a\", r"\y", r"\p{javaLowerCase}", "(?U)a", r"\u00"] {
            assert!(JavaRegex::new(expression).is_err(), "{expression}");
        }
        let regex = JavaRegex::new("(a)").unwrap();
        for replacement in ["$2", "$", "${b}", r"a\"] {
            assert!(regex.replacement(replacement).is_err(), "{replacement}");
        }
    }
}
