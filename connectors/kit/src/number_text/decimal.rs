//! Decimals as numbers, as Java's `BigDecimal.toString` writes them: with an exponent where the scale is negative or the
//! number is smaller than 10^-6.

use num_bigint::BigInt;

/// Appends the number `unscaled` · 10^-`scale`; `unscaled` is big-endian two's complement, zero where it is empty.
pub fn write_decimal(unscaled: &[u8], scale: i32, out: &mut Vec<u8>) {
    let digits = digits(unscaled);
    let digits = match digits.as_bytes() {
        [b'-', digits @ ..] => {
            out.push(b'-');
            digits
        }
        digits => digits,
    };
    let (length, scale) = (digits.len() as i64, i64::from(scale));
    let exponent = length - 1 - scale;
    if scale == 0 {
        out.extend_from_slice(digits);
    } else if scale > 0 && exponent >= -6 {
        let whole = usize::try_from(length - scale).unwrap_or_default();
        out.extend_from_slice(if whole == 0 { b"0" } else { &digits[..whole] });
        out.push(b'.');
        let zeros = usize::try_from(scale - length).unwrap_or_default();
        out.resize(out.len() + zeros, b'0');
        out.extend_from_slice(&digits[whole..]);
    } else {
        out.extend_from_slice(&digits[..1]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        if exponent != 0 {
            out.push(b'E');
            if exponent > 0 {
                out.push(b'+');
            }
            out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
        }
    }
}

/// The unscaled value's digits with its sign.
fn digits(unscaled: &[u8]) -> String {
    if unscaled.len() > 16 {
        return BigInt::from_signed_bytes_be(unscaled).to_string();
    }
    let negative = unscaled.first().is_some_and(|byte| *byte >= 0x80);
    let value = unscaled.iter().fold(if negative { -1i128 } else { 0 }, |value, byte| value << 8 | i128::from(*byte));
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(unscaled: i128, scale: i32) -> String {
        let mut out = Vec::new();
        write_decimal(&BigInt::from(unscaled).to_signed_bytes_be(), scale, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_written_as_big_decimal_writes_them() {
        let expected = [
            (150, 2, "1.50"),
            (-150, 2, "-1.50"),
            (0, 0, "0"),
            (0, 2, "0.00"),
            (5, 3, "0.005"),
            (1, 6, "0.000001"),
            (1, 7, "1E-7"),
            (12, 8, "1.2E-7"),
            (1, 10, "1E-10"),
            (0, 7, "0E-7"),
            (12, -3, "1.2E+4"),
            (1, -2, "1E+2"),
            (i128::from(i64::MIN), 3, "-9223372036854775.808"),
        ];
        for (unscaled, scale, text) in expected {
            assert_eq!(written(unscaled, scale), text);
        }
    }

    #[test]
    fn numbers_of_any_length_are_written() {
        let text = "-123456789012345678901234567890123456789012345678901234567890";
        let value: BigInt = text.parse().unwrap();
        let mut out = Vec::new();
        write_decimal(&value.to_signed_bytes_be(), 0, &mut out);
        assert_eq!(out, text.as_bytes());
    }
}
