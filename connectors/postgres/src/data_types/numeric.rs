//! numeric and money.
//!
//! In binary a numeric is a list of digits of base 10,000, the weight of the first of them, a sign and the number of
//! decimal digits behind the point that are shown (`numeric_send`). Decimals of up to 38 digits are calculated in 128
//! bits; longer ones take the way over text.

use bytes::{BufMut, Bytes, BytesMut};
use num_bigint::BigInt;
use tailwater_api::Value;

use super::codec::{Fault, Output, text};
use crate::octets::Octets;

const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;
/// Decimal digits that fit into 128 bits whatever they are.
const DIGITS_OF_128_BITS: usize = 38;
/// Digits of money behind the point, in every locale whose currency has hundredths.
const MONEY_DIGITS: u8 = 2;

/// A numeric, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Number<'a> {
    Nan,
    Infinity,
    MinusInfinity,
    Finite {
        text: &'a [u8],
        negative: bool,
        /// Digits before the point
        integer: &'a [u8],
        /// Digits behind the point
        fraction: &'a [u8],
    },
}

impl<'a> Number<'a> {
    pub(super) fn of_text(text: &'a [u8]) -> Result<Self, Fault> {
        match text {
            b"NaN" => return Ok(Self::Nan),
            b"Infinity" => return Ok(Self::Infinity),
            b"-Infinity" => return Ok(Self::MinusInfinity),
            _ => {}
        }
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let (integer, fraction) = match memchr::memchr(b'.', digits) {
            Some(point) => (&digits[..point], &digits[point + 1..]),
            None => (digits, &[][..]),
        };
        let all_digits = integer.iter().chain(fraction).all(u8::is_ascii_digit);
        if all_digits && !integer.is_empty() { Ok(Self::Finite { text, negative, integer, fraction }) } else { Err(Fault::Unreadable) }
    }
}

/// Writes the shortest two's complement, big end first, as Java's `BigInteger` does.
pub(super) fn put_minimal(unscaled: i128, out: &mut BytesMut) {
    let octets = unscaled.to_be_bytes();
    let sign = if unscaled < 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < octets.len() - 1 && octets[start] == sign && (octets[start + 1] ^ sign) & 0x80 == 0 {
        start += 1;
    }
    out.put_slice(&octets[start..]);
}

/// The digits of `integer` and `fraction` as one number with `scale` digits behind the point, rounded half away from
/// zero where there are more.
fn unscaled(negative: bool, integer: &[u8], fraction: &[u8], scale: i32, output: &mut Output<'_>) -> Bytes {
    let kept = (integer.len() as i64 + i64::from(scale)).max(0) as usize;
    let digits = || integer.iter().chain(fraction).copied();
    let given = integer.len() + fraction.len();
    let rounds_up = digits().nth(kept).is_some_and(|digit| digit >= b'5') && integer.len() as i64 + i64::from(scale) >= 0;
    let taken = digits().chain(std::iter::repeat(b'0')).take(kept);
    if kept <= DIGITS_OF_128_BITS {
        let magnitude = taken.fold(0_i128, |number, digit| number * 10 + i128::from(digit - b'0')) + i128::from(rounds_up);
        return output.cut(17, |out| put_minimal(if negative { -magnitude } else { magnitude }, out));
    }
    let mut text = Vec::with_capacity(kept.max(given) + 1);
    text.extend(taken);
    let magnitude = BigInt::parse_bytes(&text, 10).unwrap_or_default() + i32::from(rounds_up);
    Bytes::from(if negative { -magnitude } else { magnitude }.to_signed_bytes_be())
}

/// A decimal of fixed scale.
pub(super) fn decimal(number: &Number<'_>, scale: i32, output: &mut Output<'_>) -> Value {
    match *number {
        Number::Finite { negative, integer, fraction, .. } => Value::Bytes(unscaled(negative, integer, fraction, scale, output)),
        Number::Nan | Number::Infinity | Number::MinusInfinity => output.lose(Value::Null),
    }
}

/// A decimal with its own scale: as many digits behind the point as are not zero.
pub(super) fn variable_scale_decimal(number: &Number<'_>, output: &mut Output<'_>) -> Value {
    match *number {
        Number::Finite { negative, integer, fraction, .. } => {
            let scale = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
            // The server writes at most 16,383 digits behind the point.
            let value = unscaled(negative, integer, &fraction[..scale], scale as i32, output);
            Value::Struct(Box::new([Value::Int32(scale as i32), Value::Bytes(value)]))
        }
        Number::Nan | Number::Infinity | Number::MinusInfinity => output.lose(Value::Null),
    }
}

pub(super) fn double(number: &Number<'_>) -> Value {
    Value::Float64(match number {
        Number::Nan => f64::NAN,
        Number::Infinity => f64::INFINITY,
        Number::MinusInfinity => f64::NEG_INFINITY,
        // Digits, a sign and a point are a number of Rust's, too.
        Number::Finite { text, .. } => str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN),
    })
}

/// The binary form.
struct Digits<'a> {
    digits: &'a [[u8; 2]],
    weight: i32,
    sign: u16,
    shown: usize,
}

impl<'a> Digits<'a> {
    fn read(raw: &'a [u8]) -> Result<Self, Fault> {
        let mut octets = Octets::new(raw);
        let (count, weight, sign, shown) = (octets.u16()?, octets.i16()?, octets.u16()?, octets.u16()?);
        let (digits, rest) = octets.rest().as_chunks::<2>();
        let in_range = digits.iter().all(|digit| u16::from_be_bytes(*digit) < 10_000);
        if digits.len() != usize::from(count) || !rest.is_empty() || !in_range {
            return Err(Fault::Unreadable);
        }
        Ok(Self { digits, weight: weight.into(), sign, shown: shown.into() })
    }

    fn special(&self) -> Result<Option<Number<'static>>, Fault> {
        match self.sign {
            0 | NEGATIVE => Ok(None),
            NOT_A_NUMBER => Ok(Some(Number::Nan)),
            INFINITY => Ok(Some(Number::Infinity)),
            MINUS_INFINITY => Ok(Some(Number::MinusInfinity)),
            _ => Err(Fault::Unreadable),
        }
    }

    /// The digit of weight `weight`.
    fn at(&self, weight: i32) -> u16 {
        usize::try_from(self.weight - weight).ok().and_then(|index| self.digits.get(index)).map_or(0, |digit| u16::from_be_bytes(*digit))
    }

    /// Octets that the text needs at most.
    fn room(&self) -> usize {
        self.weight.max(0) as usize * 4 + self.shown + 12
    }

    /// Writes it as `numeric_out` does.
    fn put_text(&self, out: &mut BytesMut) {
        if self.sign == NEGATIVE {
            out.put_u8(b'-');
        }
        let four = |digit: u16| [digit / 1000, digit / 100 % 10, digit / 10 % 10, digit % 10].map(|digit| b'0' + digit as u8);
        let mut is_first = true;
        for weight in (0..=self.weight).rev() {
            let digits = four(self.at(weight));
            let zeros = if is_first { digits.iter().take_while(|digit| **digit == b'0').count() } else { 0 };
            // The last one before the point is written even if it is zero.
            let zeros = if weight == 0 { zeros.min(3) } else { zeros };
            is_first = is_first && zeros == 4;
            out.put_slice(&digits[zeros..]);
        }
        if self.weight < 0 {
            out.put_u8(b'0');
        }
        if self.shown > 0 {
            out.put_u8(b'.');
            for (weight, start) in (0..self.shown).step_by(4).enumerate() {
                let digits = four(self.at(-1 - weight as i32));
                out.put_slice(&digits[..4.min(self.shown - start)]);
            }
        }
    }
}

/// The unscaled value of a decimal with `scale` digits behind the point; `None` where it needs the way over text.
pub(super) fn decimal_of_binary(raw: &[u8], scale: i32) -> Result<Option<i128>, Fault> {
    let number = Digits::read(raw)?;
    if number.special()?.is_some() || number.digits.len() > 8 {
        return Ok(None);
    }
    // At most 32 decimal digits.
    let magnitude = number.digits.iter().fold(0_i128, |sum, digit| sum * 10_000 + i128::from(u16::from_be_bytes(*digit)));
    let exponent = 4 * (number.weight - number.digits.len() as i32 + 1) + scale;
    let power = 10_i128.checked_pow(exponent.unsigned_abs());
    let magnitude = match power {
        _ if magnitude == 0 => Some(0),
        Some(power) if exponent >= 0 => magnitude.checked_mul(power),
        // Only zeros are cut: the column shows no more digits than its scale.
        Some(power) if magnitude % power == 0 => Some(magnitude / power),
        Some(_) | None => None,
    };
    Ok(magnitude.map(|magnitude| if number.sign == NEGATIVE { -magnitude } else { magnitude }))
}

/// Gives the number in binary form to `then` as text, which stands in the scratch buffer meanwhile.
pub(super) fn with_text(
    raw: &[u8],
    output: &mut Output<'_>,
    then: impl FnOnce(&Number<'_>, &mut Output<'_>) -> Result<Value, Fault>,
) -> Result<Value, Fault> {
    let digits = Digits::read(raw)?;
    if let Some(special) = digits.special()? {
        return then(&special, output);
    }
    let text = output.cut(digits.room(), |out| digits.put_text(out));
    then(&Number::of_text(&text)?, output)
}

/// The text of the binary form.
pub(super) fn text_of_binary(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let digits = Digits::read(raw)?;
    match digits.special()? {
        Some(Number::Nan) => Ok(Value::text("NAN")),
        Some(Number::Infinity) => Ok(Value::text("POSITIVE_INFINITY")),
        Some(Number::MinusInfinity) => Ok(Value::text("NEGATIVE_INFINITY")),
        Some(Number::Finite { .. }) | None => text(output.cut(digits.room(), |out| digits.put_text(out))),
    }
}

/// Hundredths out of the text of money, in whatever locale: all its digits, negative with a minus sign or in parentheses.
pub(super) fn money_of_text(raw: &[u8]) -> Result<i64, Fault> {
    let negative = raw.iter().any(|octet| matches!(octet, b'-' | b'('));
    let digits = raw.iter().filter(|octet| octet.is_ascii_digit());
    let magnitude = digits.clone().try_fold(0_i128, |sum, digit| sum.checked_mul(10)?.checked_add(i128::from(digit - b'0')));
    let magnitude = magnitude.filter(|_| digits.count() > 0).ok_or(Fault::Unreadable)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| Fault::Unreadable)
}

/// Hundredths with another number of digits behind the point, rounded half away from zero.
pub(super) fn rescale(hundredths: i64, digits: u8) -> i128 {
    let hundredths = i128::from(hundredths);
    match digits.checked_sub(MONEY_DIGITS) {
        // More than 19 digits more would not fit; nobody has such money.
        Some(more) => hundredths * 10_i128.pow(u32::from(more).min(19)),
        None => {
            let power = 10_i128.pow(u32::from(MONEY_DIGITS - digits));
            (hundredths + hundredths.signum() * power / 2) / power
        }
    }
}

/// All its digits, as the server writes them: `money.fraction.digits` is of bytes alone.
pub(super) fn money_text(hundredths: i64, output: &mut Output<'_>) -> Result<Value, Fault> {
    let sign = if hundredths < 0 { "-" } else { "" };
    let (whole, rest) = (hundredths.unsigned_abs() / 100, hundredths.unsigned_abs() % 100);
    let written = format!("{sign}{whole}.{rest:02}");
    output.text(written.len(), |out| out.put_slice(written.as_bytes()))
}

/// The double that is nearest to so many hundredths.
pub(super) fn money_double(hundredths: i64) -> f64 {
    if hundredths.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS {
        hundredths as f64 / 100.0
    } else {
        // What a double has no room for would be rounded twice.
        format!("{hundredths}e-2").parse().expect("digits are a number")
    }
}
