//! What holds for all values.

use proptest::prelude::*;

use super::*;

/// The binary form of a numeric out of its text, written without the code under test.
fn numeric_send(text: &str) -> Bytes {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let integer = format!("{:0>width$}", integer, width = integer.len().div_ceil(4) * 4);
    let padded = format!("{:0<width$}", fraction, width = fraction.len().div_ceil(4) * 4);
    let all = format!("{integer}{padded}");
    let mut groups: Vec<u16> = all.as_bytes().chunks(4).map(|group| std::str::from_utf8(group).unwrap().parse().unwrap()).collect();
    let mut weight = (integer.len() / 4) as i16 - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let mut out = BytesMut::new();
    out.put_u16(groups.len() as u16);
    out.put_i16(weight);
    out.put_u16(if negative && !groups.is_empty() { 0x4000 } else { 0 });
    out.put_u16(fraction.len() as u16);
    groups.iter().for_each(|group| out.put_u16(*group));
    out.freeze()
}

proptest! {
    #[test]
    fn both_forms_of_a_numeric_are_one_value(integer in "0|[1-9][0-9]{0,45}", fraction in "[0-9]{0,45}", negative in any::<bool>(), more in 0_i32..5) {
        let is_zero = format!("{integer}{fraction}").bytes().all(|digit| digit == b'0');
        let sign = if negative && !is_zero { "-" } else { "" };
        let text = if fraction.is_empty() { format!("{sign}{integer}") } else { format!("{sign}{integer}.{fraction}") };
        let scale = fraction.len() as i32 + more;
        let options = [DecimalMode::Precise, DecimalMode::String, DecimalMode::Double].map(|decimal| TypeOptions { decimal, ..TypeOptions::default() });
        for options in options {
            for modifier in [-1, modifier(100, scale)] {
                let codec = catalog(options).column(oid("numeric"), modifier, true, None).unwrap();
                let mut scratch = BytesMut::new();
                let binary = codec.decode(Format::Binary, &numeric_send(&text), &mut scratch).unwrap();
                prop_assert_eq!(read(&codec, &text), binary);
            }
        }
        let fixed = column("numeric", modifier(100, scale), None);
        let unscaled = num_bigint::BigInt::from_signed_bytes_be(octets(&read(&fixed, &text)));
        let zeros = "0".repeat(more as usize);
        prop_assert_eq!(unscaled, format!("{sign}{integer}{fraction}{zeros}").parse().unwrap());
    }

    #[test]
    fn any_octets_are_decoded_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..40), text in "[-0-9:.+ {}\",\\\\x/a-f]{0,24}", modifier in -1_i32..70_000) {
        let all_modes = TypeOptions {
            time: TimeMode::Isostring,
            interval: IntervalMode::String,
            hstore: HstoreMode::Map,
            binary: BinaryMode::Hex,
            include_unknown: true,
            ..TypeOptions::default()
        };
        let mut scratch = BytesMut::new();
        for types in [TypeOptions::default(), all_modes, TypeOptions { time: TimeMode::Nanoseconds, ..all_modes }].map(catalog) {
            for oid in all().flat_map(|(oid, _)| [oid, oid + ARRAY]) {
                let Some(codec) = types.column(oid, modifier, true, Some(&text)) else { continue };
                for raw in [Bytes::copy_from_slice(&raw), Bytes::copy_from_slice(text.as_bytes())] {
                    for format in [Format::Text, Format::Binary] {
                        let _ = codec.decode(format, &raw, &mut scratch);
                        prop_assert!(scratch.is_empty());
                    }
                }
            }
        }
    }
}
