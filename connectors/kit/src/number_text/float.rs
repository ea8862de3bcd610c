//! Floating point as Java writes it.
//!
//! `Double.toString` and `Float.toString` up to Java 18 do not always give the shortest digits that read back as the same
//! number (`2.0E23` is `1.9999999999999998E23`, the smallest normal float `1.17549435E-38`). What Kafka Connect has written
//! can be compared byte for byte only by the same steps: digits are developed from big to small until the rest is
//! within half the distance to the neighbouring numbers, which is taken to be the same on both sides. The first digit after the
//! point is always developed in scientific notation. Numbers are plain from 10^-3 to 10^7, otherwise `d.dddE±n`.

use std::cmp::Ordering;

use num_bigint::BigUint;

/// Bits of a double's fraction; single precision is treated as a double with fewer significant bits.
const FRACTION_BITS: i32 = 52;
/// Bits of 5^n, the last of the table for the largest power that a long holds.
const POWER_OF_FIVE_BITS: [i32; 27] =
    [0, 3, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33, 35, 38, 40, 42, 45, 47, 49, 52, 54, 56, 59, 61];
/// The shortest binary exponents for which whole numbers are written as such.
const SMALL_EXPONENTS: std::ops::RangeInclusive<i32> = -21..=62;

/// Appends a double; what is not finite is `NaN`, `Infinity` or `-Infinity`.
pub fn write_double(value: f64, out: &mut Vec<u8>) {
    if write_special(value, out) {
        return;
    }
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7FF) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let number = if exponent == 0 {
        let shift = fraction.leading_zeros() as i32 - (63 - FRACTION_BITS);
        Binary { fraction: fraction << shift, exponent: 1 - shift - 1023, significant: FRACTION_BITS + 1 - shift }
    } else {
        Binary { fraction: fraction | 1 << 52, exponent: exponent - 1023, significant: FRACTION_BITS + 1 }
    };
    number.digits().write(out);
}

/// Appends a float of single precision.
pub fn write_float(value: f32, out: &mut Vec<u8>) {
    if write_special(f64::from(value), out) {
        return;
    }
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xFF) as i32;
    let fraction = bits & ((1 << 23) - 1);
    let widened = |fraction: u32| u64::from(fraction) << (FRACTION_BITS - 23);
    let number = if exponent == 0 {
        let shift = fraction.leading_zeros() as i32 - 8;
        Binary { fraction: widened(fraction << shift), exponent: 1 - shift - 127, significant: 24 - shift }
    } else {
        Binary { fraction: widened(fraction | 1 << 23), exponent: exponent - 127, significant: 24 }
    };
    number.digits().write(out);
}

/// Appends the sign, and the whole of a value that has no digits to be developed; says whether that was all.
fn write_special(value: f64, out: &mut Vec<u8>) -> bool {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return true;
    }
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"Infinity".as_slice() } else { b"-Infinity" });
        return true;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value == 0.0 {
        out.extend_from_slice(b"0.0");
    }
    value == 0.0
}

/// `fraction` · 2^(`exponent` - 52), the fraction's highest bit being bit 52.
struct Binary {
    fraction: u64,
    exponent: i32,
    significant: i32,
}

/// `0.d1d2d3…` · 10^`exponent`
struct Digits {
    digits: [u8; 24],
    length: usize,
    exponent: i32,
}

/// Where the digits stop: the rest is nearer than the neighbours to the digits so far (low), to those plus one (high).
struct Stop {
    low: bool,
    high: bool,
    /// Twice the rest against one unit of the last digit
    half: Ordering,
}

impl Binary {
    fn digits(&self) -> Digits {
        let trailing = self.fraction.trailing_zeros() as i32;
        let fraction_bits = FRACTION_BITS + 1 - trailing;
        let tiny_bits = 0.max(fraction_bits - self.exponent - 1);
        if tiny_bits == 0 && SMALL_EXPONENTS.contains(&self.exponent) && fraction_bits < 64 {
            return self.whole_number();
        }
        let mut decimal = self.estimated_decimal_exponent();
        let fives = 0.max(-decimal);
        let mut twos = fives + tiny_bits + self.exponent;
        let scale_fives = 0.max(decimal);
        let mut scale_twos = scale_fives + tiny_bits;
        let mut margin_twos = twos - self.significant;
        let fraction = self.fraction >> trailing;
        twos -= fraction_bits - 1;
        let common = twos.min(scale_twos);
        twos -= common;
        scale_twos -= common;
        margin_twos -= common;
        if fraction_bits == 1 {
            // Below a power of two the neighbour is half as far.
            margin_twos -= 1;
        }
        if margin_twos < 0 {
            twos -= margin_twos;
            scale_twos -= margin_twos;
            margin_twos = 0;
        }
        let powers = Powers {
            fraction,
            fives: fives as u32,
            twos: twos as u32,
            scale_fives: scale_fives as u32,
            scale_twos: scale_twos as u32,
            margin_twos: margin_twos as u32,
        };
        let mut digits = Digits { digits: [0; 24], length: 0, exponent: 0 };
        let bits_of = |power: i32| POWER_OF_FIVE_BITS.get(power as usize).copied().unwrap_or(power * 3);
        let value_bits = fraction_bits + twos + bits_of(fives);
        let scale_bits = scale_twos + 1 + bits_of(scale_fives + 1);
        let stop = if value_bits < 32 && scale_bits < 32 {
            powers.develop_in_words(&mut decimal, &mut digits, |margin| margin as i32 as i64)
        } else if value_bits < 64 && scale_bits < 64 {
            powers.develop_in_words(&mut decimal, &mut digits, |margin| margin)
        } else {
            powers.develop(&mut decimal, &mut digits)
        };
        digits.exponent = decimal + 1;
        let last_is_odd = digits.digits[digits.length - 1] & 1 == 1;
        let round_up = stop.high && (!stop.low || stop.half == Ordering::Greater || stop.half == Ordering::Equal && last_is_odd);
        if round_up {
            digits.round_up();
        }
        digits
    }

    fn whole_number(&self) -> Digits {
        let mut value = if self.exponent >= FRACTION_BITS {
            self.fraction << (self.exponent - FRACTION_BITS)
        } else {
            self.fraction >> (FRACTION_BITS - self.exponent)
        };
        let mut exponent = 0;
        // Digits below the precision are rounded away.
        let beyond = self.exponent - self.significant - 1;
        if self.exponent > self.significant && beyond > 1 {
            let insignificant = (f64::from(beyond) * std::f64::consts::LOG10_2) as u32;
            let power = 10u64.pow(insignificant);
            let rest = value % power;
            value = value / power + u64::from(insignificant > 0 && rest >= power >> 1);
            exponent += insignificant as i32;
        }
        while value.is_multiple_of(10) {
            value /= 10;
            exponent += 1;
        }
        let mut digits = Digits { digits: [0; 24], length: 0, exponent: 0 };
        let mut buffer = itoa::Buffer::new();
        for digit in buffer.format(value).bytes() {
            digits.push(digit - b'0');
        }
        digits.exponent = digits.length as i32 + exponent;
        digits
    }

    /// The decimal exponent, or one more: the logarithm near 1.5 by its tangent.
    #[expect(clippy::approx_constant, reason = "Java's constant has fewer digits, and the same estimate is wanted")]
    fn estimated_decimal_exponent(&self) -> i32 {
        let mantissa = f64::from_bits(1023 << 52 | self.fraction & ((1 << 52) - 1));
        let estimate = (mantissa - 1.5) * 0.289_529_654 + 0.176_091_259 + f64::from(self.exponent) * 0.301_029_995_663_981;
        estimate.floor() as i32
    }
}

/// The number as B/S · 10^decimal, and the distance to its neighbours as M/S, by their powers of two and five. M has as many
/// fives as B.
struct Powers {
    fraction: u64,
    fives: u32,
    twos: u32,
    scale_fives: u32,
    scale_twos: u32,
    margin_twos: u32,
}

impl Powers {
    /// `wrap` is the overflow of the margin in words of 32 or 64 bits.
    fn develop_in_words(&self, decimal: &mut i32, digits: &mut Digits, wrap: impl Fn(i64) -> i64) -> Stop {
        let mut value = ((self.fraction * 5u64.pow(self.fives)) << self.twos) as i64;
        let scale = (5u64.pow(self.scale_fives) << self.scale_twos) as i64;
        let mut margin = (5u64.pow(self.fives) << self.margin_twos) as i64;
        let tens = scale * 10;
        let mut step = |digits: &mut Digits, first: bool| {
            let digit = (value / scale) as u8;
            value = 10 * (value % scale);
            margin = wrap(margin.wrapping_mul(10));
            // A margin that overflows is larger than any rest.
            let (low, high) = if margin > 0 || first { (value < margin, wrap(value.wrapping_add(margin)) > tens) } else { (true, true) };
            if !first || digit != 0 || high {
                digits.push(digit);
            }
            (low, high, value.cmp(&(tens - value)))
        };
        develop(decimal, digits, &mut step)
    }

    fn develop(&self, decimal: &mut i32, digits: &mut Digits) -> Stop {
        let five = |power: u32| BigUint::from(5u8).pow(power);
        let mut value = (BigUint::from(self.fraction) * five(self.fives)) << self.twos;
        let scale = five(self.scale_fives) << self.scale_twos;
        let mut margin = five(self.fives) << self.margin_twos;
        let tens = &scale * 10u8;
        let mut step = |digits: &mut Digits, first: bool| {
            let quotient = &value / &scale;
            let digit = quotient.to_u32_digits().first().map_or(0, |digit| *digit as u8);
            value = (&value - quotient * &scale) * 10u8;
            margin *= 10u8;
            let (low, high) = (value < margin, &value + &margin >= tens);
            if !first || digit != 0 || high {
                digits.push(digit);
            }
            (low, high, (&value * 2u8).cmp(&tens))
        };
        develop(decimal, digits, &mut step)
    }
}

fn develop(decimal: &mut i32, digits: &mut Digits, step: &mut impl FnMut(&mut Digits, bool) -> (bool, bool, Ordering)) -> Stop {
    let (mut low, mut high, mut half) = step(digits, true);
    if digits.length == 0 {
        // The estimate was one too high.
        *decimal -= 1;
    }
    if *decimal < -3 || *decimal >= 8 {
        (low, high) = (false, false);
    }
    while !low && !high {
        (low, high, half) = step(digits, false);
    }
    Stop { low, high, half }
}

impl Digits {
    fn push(&mut self, digit: u8) {
        self.digits[self.length] = digit;
        self.length += 1;
    }

    fn round_up(&mut self) {
        match self.digits[..self.length].iter().rposition(|digit| *digit != 9) {
            Some(place) => {
                self.digits[place] += 1;
                self.digits[place + 1..self.length].fill(0);
            }
            None => {
                self.digits[..self.length].fill(0);
                self.digits[0] = 1;
                self.exponent += 1;
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let digits = &self.digits[..self.length];
        let put = |digits: &[u8], out: &mut Vec<u8>| out.extend(digits.iter().map(|digit| b'0' + digit));
        let put_or_zero = |digits: &[u8], out: &mut Vec<u8>| if digits.is_empty() { out.push(b'0') } else { put(digits, out) };
        match self.exponent {
            whole @ 1..=7 => {
                let whole = whole as usize;
                let split = whole.min(digits.len());
                put(&digits[..split], out);
                out.resize(out.len() + whole - split, b'0');
                out.push(b'.');
                put_or_zero(&digits[split..], out);
            }
            zeros @ -2..=0 => {
                out.extend_from_slice(b"0.");
                out.resize(out.len() + zeros.unsigned_abs() as usize, b'0');
                put(digits, out);
            }
            exponent => {
                put(&digits[..1], out);
                out.push(b'.');
                put_or_zero(&digits[1..], out);
                out.push(b'E');
                out.extend_from_slice(itoa::Buffer::new().format(exponent - 1).as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        write_double(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn float(value: f32) -> String {
        let mut out = Vec::new();
        write_float(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_are_written_as_java_17_writes_them() {
        let expected = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.0001, "1.0E-4"),
            (100.0, "100.0"),
            (9_999_999.0, "9999999.0"),
            (1.0e7, "1.0E7"),
            (1.0e21, "1.0E21"),
            (1.0e22, "1.0E22"),
            (2.0e23, "1.9999999999999998E23"),
            (9_007_199_254_740_992.0, "9.007199254740992E15"),
            (9_223_372_036_854_775_807.0, "9.223372036854776E18"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::MIN_POSITIVE, "2.2250738585072014E-308"),
            (f64::from_bits(1), "4.9E-324"),
        ];
        for (value, text) in expected {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn floats_are_written_as_java_17_writes_them() {
        let expected = [
            (f32::MIN_POSITIVE, "1.17549435E-38"),
            (f32::MAX, "3.4028235E38"),
            (f32::from_bits(1), "1.4E-45"),
            (16_777_216.0, "1.6777216E7"),
            (123_456.7, "123456.7"),
            (0.3, "0.3"),
            (1.5e-7, "1.5E-7"),
        ];
        for (value, text) in expected {
            assert_eq!(float(value), text);
        }
    }

    proptest! {
        #[test]
        fn every_double_is_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(double(value).parse::<f64>().unwrap().to_bits(), bits);
        }

        #[test]
        fn every_float_is_read_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(float(value).parse::<f32>().unwrap().to_bits(), bits);
        }
    }
}
