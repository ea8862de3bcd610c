//! Decimals: the unscaled two's complement of Connect's `Decimal` as exact text.

use num_bigint::BigInt;

/// `unscaled` (big-endian two's complement) times ten to the power of `-scale`, every digit of the scale kept.
/// A negative scale adds zeros.
pub(crate) fn decimal_text(unscaled: &[u8], scale: i32) -> Result<String, String> {
    if unscaled.is_empty() {
        return Err("a decimal has no bytes".to_owned());
    }
    // What PostgreSQL can hold, and far beyond any other target; a bound, because the zeros are written out.
    if !(-200_000..=200_000).contains(&scale) {
        return Err(format!("a decimal has the scale {scale}"));
    }
    let (negative, digits) = digits(unscaled);
    let mut text = String::with_capacity(digits.len() + 3 + scale.unsigned_abs() as usize);
    if negative {
        text.push('-');
    }
    match usize::try_from(scale) {
        Ok(0) => text.push_str(&digits),
        Ok(scale) if digits.len() > scale => {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            text.extend([whole, ".", fraction]);
        }
        Ok(scale) => {
            text.push_str("0.");
            text.extend(std::iter::repeat_n('0', scale - digits.len()));
            text.push_str(&digits);
        }
        Err(_) => {
            text.push_str(&digits);
            if digits != "0" {
                text.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
            }
        }
    }
    Ok(text)
}

fn digits(unscaled: &[u8]) -> (bool, String) {
    if unscaled.len() <= 16 {
        let mut octets = if unscaled[0] & 0x80 == 0 { [0; 16] } else { [0xff; 16] };
        octets[16 - unscaled.len()..].copy_from_slice(unscaled);
        let value = i128::from_be_bytes(octets);
        return (value < 0, value.unsigned_abs().to_string());
    }
    let value = BigInt::from_signed_bytes_be(unscaled);
    (value.sign() == num_bigint::Sign::Minus, value.magnitude().to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scales_place_the_point_and_keep_zeros() {
        assert_eq!(decimal_text(&[0x00, 0x96], 2).unwrap(), "1.50");
        assert_eq!(decimal_text(&[0xff], 3).unwrap(), "-0.001");
        assert_eq!(decimal_text(&[0], 2).unwrap(), "0.00");
        assert_eq!(decimal_text(&[5], -2).unwrap(), "500");
        assert_eq!(decimal_text(&[0], -2).unwrap(), "0");
        assert_eq!(decimal_text(&[0x80], 0).unwrap(), "-128");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn text_says_what_the_bytes_say(octets in prop::collection::vec(any::<u8>(), 1..40), scale in 0..50_i32) {
            let text = decimal_text(&octets, scale).unwrap();
            let unscaled: BigInt = text.replace('.', "").parse().unwrap();
            prop_assert_eq!(unscaled, BigInt::from_signed_bytes_be(&octets));
            prop_assert_eq!(text.split_once('.').map_or(0, |(_, fraction)| fraction.len()), scale as usize);
        }
    }
}
