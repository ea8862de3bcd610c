//! Text as Jackson's UTF-8 generator escapes it (Jackson 2.16, default features).
//!
//! Quote, backslash and control characters are escaped, the latter as `\b \t \n \f \r` or `\u00XX` in capitals. Characters
//! beyond the basic plane become an escaped pair of surrogates. Everything else, `/` and DEL included, is written as it is.

const HEXADECIMAL: &[u8; 16] = b"0123456789ABCDEF";
const LOWS: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Appends `text` in quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

/// Appends `text` without quotes.
pub(super) fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    let mut place = 0;
    while let Some(found) = next_special(bytes, place) {
        out.extend_from_slice(&bytes[copied..found]);
        let length = match bytes[found] {
            byte if byte < 0xF0 => {
                escape(byte, out);
                1
            }
            _ => {
                let character = text[found..].chars().next().expect("a character starts at each leading byte");
                for unit in character.encode_utf16(&mut [0; 2]) {
                    escape_unit(*unit, out);
                }
                character.len_utf8()
            }
        };
        place = found + length;
        copied = place;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// The first byte from `start` on that is not copied as it is.
fn next_special(bytes: &[u8], start: usize) -> Option<usize> {
    let mut place = start;
    // Eight bytes at a time, as long as none of them is special or beyond ASCII.
    while let Some(chunk) = bytes.get(place..place + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("the chunk has eight bytes"));
        let quote = word ^ (LOWS * u64::from(b'"'));
        let backslash = word ^ (LOWS * u64::from(b'\\'));
        // Borrows between bytes only occur above a byte that is special itself.
        let special = word.wrapping_sub(LOWS * 0x20) | quote.wrapping_sub(LOWS) | backslash.wrapping_sub(LOWS) | word;
        if special & HIGHS != 0 {
            match chunk.iter().position(|byte| is_special(*byte)) {
                Some(offset) => return Some(place + offset),
                None => place += 8,
            }
        } else {
            place += 8;
        }
    }
    bytes[place..].iter().position(|byte| is_special(*byte)).map(|offset| place + offset)
}

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte >= 0xF0
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0C => b'f',
        b'\r' => b'r',
        other => return escape_unit(other.into(), out),
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn escape_unit(unit: u16, out: &mut Vec<u8>) {
    let digit = |shift: u32| HEXADECIMAL[usize::from(unit >> shift & 0xF)];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_text(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_jackson_escapes_is_escaped() {
        let text = "a\"b\\c/d\u{7}\u{1b}\u{8}\t\n\u{c}\r\u{7f}é漢\u{2028}\u{1F600}";
        assert_eq!(written(text), "\"a\\\"b\\\\c/d\\u0007\\u001B\\b\\t\\n\\f\\r\u{7f}é漢\u{2028}\\uD83D\\uDE00\"");
    }

    proptest! {
        #[test]
        fn every_text_is_read_back_by_another_parser(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&written(&text)).unwrap(), text);
        }

        #[test]
        fn specials_are_found_at_every_place(prefix in "[a-z]{0,20}", special in prop::char::any(), suffix in "[é-ü]{0,20}") {
            let text = format!("{prefix}{special}{suffix}");
            prop_assert_eq!(serde_json::from_str::<String>(&written(&text)).unwrap(), text);
        }
    }
}
