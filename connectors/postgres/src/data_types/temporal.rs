//! Dates, times and intervals.
//!
//! PostgreSQL counts days and microseconds from 2000-01-01 in the proleptic Gregorian calendar, and its largest and
//! smallest numbers are the infinities. Debezium counts from 1970. An infinite timestamp is the number that Debezium
//! (by way of pgjdbc) gives it. For infinite dates, for which it writes other numbers in the snapshot than in the
//! stream, here stand the largest and the smallest. As texts the infinities are the server's own words.

use bytes::{BufMut, BytesMut};
use tailwater_api::Value;
use tailwater_kit::calendar::{date_from_days, days_from_date};

use super::codec::{Fault, Output, parse};
use crate::octets::Octets;
use crate::pgoutput::EPOCH_MICROSECONDS;

/// Days between 1970-01-01 and 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// A twelfth of 365.25 days, as Debezium counts months.
const MONTH: i128 = 2_629_800 * SECOND as i128;

/// `PGStatement.DATE_POSITIVE_INFINITY` and its negative counterpart, milliseconds since 1970.
const INFINITE_MILLISECONDS: i64 = 9_223_372_036_825_200;
const MINUS_INFINITE_MILLISECONDS: i64 = -9_223_372_036_832_400;

const INFINITY: Value = Value::text("infinity");
const MINUS_INFINITY: Value = Value::text("-infinity");

/// A date, days since 2000, as days since 1970.
pub(super) fn date(days: i32) -> Result<i32, Fault> {
    match days {
        i32::MAX | i32::MIN => Ok(days),
        days => days.checked_add(EPOCH_DAYS).ok_or(Fault::Unreadable),
    }
}

pub(super) fn date_of_text(raw: &[u8]) -> Result<i32, Fault> {
    match raw {
        b"infinity" => Ok(i32::MAX),
        b"-infinity" => Ok(i32::MIN),
        raw => {
            let mut written = Written::new(raw);
            let days = written.date()?;
            let days = written.era(days)?;
            i32::try_from(days).map_err(|_| Fault::Unreadable)
        }
    }
}

/// A time of the day in milliseconds.
pub(super) fn milliseconds_of_day(microseconds: i64) -> Value {
    // 24:00:00 is 86,400,000 and fits.
    Value::Int32((microseconds / 1000) as i32)
}

/// A time of the day in nanoseconds.
pub(super) fn nanoseconds_of_day(microseconds: i64) -> Value {
    Value::Int64(microseconds.saturating_mul(1000))
}

/// A date, days since 1970, as Debezium's `IsoDate`: `2024-02-29Z`.
pub(super) fn iso_date(days: i32, output: &mut Output<'_>) -> Result<Value, Fault> {
    match days {
        i32::MAX => Ok(INFINITY),
        i32::MIN => Ok(MINUS_INFINITY),
        days => output.text(24, |out| {
            put_date(days.into(), out);
            out.put_u8(b'Z');
        }),
    }
}

/// A time of the day as Debezium's `IsoTime`: with as many digits as are not zero.
pub(super) fn iso_time(time: i64, output: &mut Output<'_>) -> Result<Value, Fault> {
    if !(0..=DAY).contains(&time) {
        return Err(Fault::Unreadable);
    }
    output.text(24, |out| put_short_time(time, out))
}

/// A timestamp, microseconds since 2000, as Debezium's `IsoTimestamp`: with as many digits as are not zero.
pub(super) fn iso_timestamp(time: i64, output: &mut Output<'_>) -> Result<Value, Fault> {
    match time {
        i64::MAX => return Ok(INFINITY),
        i64::MIN => return Ok(MINUS_INFINITY),
        _ => {}
    }
    output.text(48, |out| {
        put_date(time.div_euclid(DAY) + i64::from(EPOCH_DAYS), out);
        out.put_u8(b'T');
        put_short_time(time.rem_euclid(DAY), out);
    })
}

pub(super) fn time_of_text(raw: &[u8]) -> Result<i64, Fault> {
    let mut written = Written::new(raw);
    let time = written.time()?;
    written.end(time)
}

/// A timestamp, microseconds since 2000, as milliseconds since 1970.
pub(super) fn milliseconds(time: i64) -> Value {
    Value::Int64(match time {
        i64::MAX => INFINITE_MILLISECONDS,
        i64::MIN => MINUS_INFINITE_MILLISECONDS,
        time => time.div_euclid(1000) + EPOCH_MICROSECONDS / 1000,
    })
}

/// A timestamp, microseconds since 2000, as microseconds since 1970.
pub(super) fn microseconds(time: i64, output: &mut Output<'_>) -> Value {
    Value::Int64(match time {
        i64::MAX => INFINITE_MILLISECONDS * 1000,
        i64::MIN => MINUS_INFINITE_MILLISECONDS * 1000,
        time => match time.checked_add(EPOCH_MICROSECONDS) {
            Some(time) => time,
            // After the year 294246 the number has no room.
            None => return output.lose(Value::Int64(i64::MAX)),
        },
    })
}

/// A timestamp, microseconds since 2000, as nanoseconds since 1970, which end in the years 1677 and 2262.
pub(super) fn nanoseconds(time: i64, output: &mut Output<'_>) -> Value {
    match time {
        i64::MAX | i64::MIN => Value::Int64(time),
        time => match time.checked_add(EPOCH_MICROSECONDS).and_then(|time| time.checked_mul(1000)) {
            Some(time) => Value::Int64(time),
            None => output.lose(Value::Null),
        },
    }
}

/// Microseconds since 2000, with or without a zone.
pub(super) fn timestamp_of_text(raw: &[u8]) -> Result<i64, Fault> {
    match raw {
        b"infinity" => Ok(i64::MAX),
        b"-infinity" => Ok(i64::MIN),
        raw => {
            let mut written = Written::new(raw);
            let days = written.date()?;
            written.expect(b' ')?;
            let time = written.time()?;
            let west = written.zone()?;
            let days = written.era(days)? - i64::from(EPOCH_DAYS);
            days.checked_mul(DAY).and_then(|days| days.checked_add(time + west)).ok_or(Fault::Unreadable)
        }
    }
}

/// A timestamp in UTC as Debezium's `ZonedTimestamp`: ISO 8601 with as many digits as the column has.
pub(super) fn zoned_timestamp(time: i64, digits: u8, output: &mut Output<'_>) -> Result<Value, Fault> {
    match time {
        i64::MAX => return Ok(INFINITY),
        i64::MIN => return Ok(MINUS_INFINITY),
        _ => {}
    }
    let (days, time) = (time.div_euclid(DAY) + i64::from(EPOCH_DAYS), time.rem_euclid(DAY));
    output.text(48, |out| {
        put_date(days, out);
        out.put_u8(b'T');
        put_clock(time, out);
        let digits = usize::from(digits);
        if digits > 0 {
            out.put_u8(b'.');
            put_padded((time % SECOND) as u64 / 10_u64.pow(6 - digits as u32), digits, out);
        }
        out.put_u8(b'Z');
    })
}

/// Microseconds of the day and seconds that the zone is west of UTC.
pub(super) fn time_with_zone_of_binary(raw: &[u8]) -> Result<(i64, i64), Fault> {
    let mut octets = Octets::new(raw);
    let (time, west) = (octets.i64()?, octets.i32()?);
    if octets.is_at_end() { Ok((time, i64::from(west) * SECOND)) } else { Err(Fault::Unreadable) }
}

/// Microseconds of the day and those that the zone is west of UTC.
pub(super) fn time_with_zone_of_text(raw: &[u8]) -> Result<(i64, i64), Fault> {
    let mut written = Written::new(raw);
    let time = written.time()?;
    let west = written.zone()?;
    written.end((time, west))
}

/// A time with a zone as Debezium's `ZonedTime`: in UTC, with as many digits as are not zero.
pub(super) fn zoned_time((time, west): (i64, i64), output: &mut Output<'_>) -> Result<Value, Fault> {
    if !(0..=DAY).contains(&time) || west.abs() > DAY {
        return Err(Fault::Unreadable);
    }
    let time = (time + west).rem_euclid(DAY);
    output.text(24, |out| put_short_time(time, out))
}

/// Writes a date, days since 1970, by ISO 8601; years beyond four digits have a sign.
fn put_date(days: i64, out: &mut BytesMut) {
    let (year, month, day) = date_from_days(days);
    match year {
        ..0 => out.put_u8(b'-'),
        0..10_000 => {}
        10_000.. => out.put_u8(b'+'),
    }
    let year = year.unsigned_abs();
    if year < 10_000 {
        put_padded(year, 4, out);
    } else {
        out.put_slice(itoa::Buffer::new().format(year).as_bytes());
    }
    out.put_u8(b'-');
    put_padded(month, 2, out);
    out.put_u8(b'-');
    put_padded(day, 2, out);
}

/// Writes a time of the day in UTC with as many digits as are not zero.
fn put_short_time(time: i64, out: &mut BytesMut) {
    put_clock(time, out);
    put_short_fraction((time % SECOND) as u64, out);
    out.put_u8(b'Z');
}

/// Writes microseconds of a second behind a point, without the zeros at the end; nothing where there are none.
fn put_short_fraction(mut fraction: u64, out: &mut BytesMut) {
    if fraction == 0 {
        return;
    }
    let mut digits = 6;
    while fraction.is_multiple_of(10) {
        (fraction, digits) = (fraction / 10, digits - 1);
    }
    out.put_u8(b'.');
    put_padded(fraction, digits, out);
}

fn put_clock(time: i64, out: &mut BytesMut) {
    put_padded((time / HOUR) as u64, 2, out);
    out.put_u8(b':');
    put_padded((time / MINUTE % 60) as u64, 2, out);
    out.put_u8(b':');
    put_padded((time / SECOND % 60) as u64, 2, out);
}

/// Writes the last `digits` digits of `number`.
fn put_padded(mut number: u64, digits: usize, out: &mut BytesMut) {
    let mut text = [b'0'; 8];
    for place in text[..digits].iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.put_slice(&text[..digits]);
}

/// An interval; the server adds up none of the three.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interval {
    months: i32,
    days: i32,
    microseconds: i64,
}

const INFINITE: Interval = Interval { months: i32::MAX, days: i32::MAX, microseconds: i64::MAX };
const MINUS_INFINITE: Interval = Interval { months: i32::MIN, days: i32::MIN, microseconds: i64::MIN };

pub(super) fn interval_of_binary(raw: &[u8]) -> Result<Interval, Fault> {
    let mut octets = Octets::new(raw);
    let (microseconds, days, months) = (octets.i64()?, octets.i32()?, octets.i32()?);
    if octets.is_at_end() { Ok(Interval { months, days, microseconds }) } else { Err(Fault::Unreadable) }
}

/// An interval of style `postgres`: `1 year 2 mons -3 days +04:05:06.7`.
pub(super) fn interval_of_text(raw: &[u8]) -> Result<Interval, Fault> {
    match raw {
        b"infinity" => return Ok(INFINITE),
        b"-infinity" => return Ok(MINUS_INFINITE),
        _ => {}
    }
    let mut interval = Interval { months: 0, days: 0, microseconds: 0 };
    let mut words = raw.split(|octet| *octet == b' ');
    while let Some(word) = words.next() {
        if word.contains(&b':') {
            let (negative, clock) = match word {
                [b'-', clock @ ..] => (true, clock),
                [b'+', clock @ ..] => (false, clock),
                clock => (false, clock),
            };
            let mut written = Written::new(clock);
            let time = written.long_time(negative)?;
            interval.microseconds = written.end(time)?;
            continue;
        }
        let number: i32 = parse(word)?;
        let (target, factor) = match words.next() {
            Some(b"year" | b"years") => (&mut interval.months, 12),
            Some(b"mon" | b"mons") => (&mut interval.months, 1),
            Some(b"day" | b"days") => (&mut interval.days, 1),
            Some(_) | None => return Err(Fault::Unreadable),
        };
        *target = number.checked_mul(factor).and_then(|number| target.checked_add(number)).ok_or(Fault::Unreadable)?;
    }
    Ok(interval)
}

/// An interval as Debezium's `MicroDuration`.
pub(super) fn duration(interval: &Interval, output: &mut Output<'_>) -> Value {
    let sum = i128::from(interval.months) * MONTH + i128::from(interval.days) * i128::from(DAY) + i128::from(interval.microseconds);
    match i64::try_from(sum) {
        Ok(sum) => Value::Int64(sum),
        Err(_) => output.lose(Value::Int64(if sum < 0 { i64::MIN } else { i64::MAX })),
    }
}

/// An interval as Debezium's `Interval`: `P1Y2M3DT4H5M6.78S`, each number with its own sign.
pub(super) fn iso_interval(interval: &Interval, output: &mut Output<'_>) -> Result<Value, Fault> {
    match *interval {
        INFINITE => return Ok(INFINITY),
        MINUS_INFINITE => return Ok(MINUS_INFINITY),
        _ => {}
    }
    let Interval { months, days, microseconds: time } = *interval;
    let parts = [
        (b'Y', i64::from(months / 12)),
        (b'M', i64::from(months % 12)),
        (b'D', days.into()),
        (b'H', time / HOUR),
        (b'M', time / MINUTE % 60),
    ];
    output.text(80, |out| {
        let mut digits = itoa::Buffer::new();
        out.put_u8(b'P');
        for (index, (unit, number)) in parts.into_iter().enumerate() {
            if index == 3 {
                out.put_u8(b'T');
            }
            out.put_slice(digits.format(number).as_bytes());
            out.put_u8(unit);
        }
        let rest = time % MINUTE;
        if rest < 0 {
            out.put_u8(b'-');
        }
        out.put_slice(digits.format(rest.unsigned_abs() / SECOND as u64).as_bytes());
        put_short_fraction(rest.unsigned_abs() % SECOND as u64, out);
        out.put_u8(b'S');
    })
}

/// The server's text of style ISO, and how far it is read.
struct Written<'a> {
    rest: &'a [u8],
    civil: (i64, i64, i64),
}

impl<'a> Written<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, civil: (0, 0, 0) }
    }

    fn number(&mut self, digits: std::ops::RangeInclusive<usize>) -> Result<i64, Fault> {
        let count = self.rest.iter().take(*digits.end()).take_while(|octet| octet.is_ascii_digit()).count();
        if count < *digits.start() {
            return Err(Fault::Unreadable);
        }
        let (number, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(number.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    }

    fn expect(&mut self, octet: u8) -> Result<(), Fault> {
        if self.skip(octet) { Ok(()) } else { Err(Fault::Unreadable) }
    }

    fn skip(&mut self, octet: u8) -> bool {
        let is_next = self.rest.first() == Some(&octet);
        if is_next {
            self.rest = &self.rest[1..];
        }
        is_next
    }

    fn end<T>(&self, value: T) -> Result<T, Fault> {
        if self.rest.is_empty() { Ok(value) } else { Err(Fault::Unreadable) }
    }

    /// Days since 1970, as long as no era follows.
    fn date(&mut self) -> Result<i64, Fault> {
        let year = self.number(4..=7)?;
        self.expect(b'-')?;
        let month = self.number(2..=2)?;
        self.expect(b'-')?;
        let day = self.number(2..=2)?;
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(Fault::Unreadable);
        }
        self.civil = (year, month, day);
        Ok(days_from_date(year, month, day))
    }

    /// What is left is the era before Christ, or nothing.
    fn era(&mut self, days: i64) -> Result<i64, Fault> {
        let (year, month, day) = self.civil;
        match self.rest {
            b"" => Ok(days),
            b" BC" => Ok(days_from_date(1 - year, month, day)),
            _ => Err(Fault::Unreadable),
        }
    }

    /// Microseconds of `HH:MM:SS[.ffffff]`.
    fn time(&mut self) -> Result<i64, Fault> {
        let hours = self.number(2..=2)?;
        self.clock(hours).map(|time| time as i64)
    }

    /// Microseconds of a time with any number of hours.
    fn long_time(&mut self, negative: bool) -> Result<i64, Fault> {
        let hours = self.number(2..=12)?;
        let time = self.clock(hours)?;
        i64::try_from(if negative { -time } else { time }).map_err(|_| Fault::Unreadable)
    }

    fn clock(&mut self, hours: i64) -> Result<i128, Fault> {
        self.expect(b':')?;
        let minutes = self.number(2..=2)?;
        self.expect(b':')?;
        let seconds = self.number(2..=2)?;
        let mut fraction = 0;
        if self.skip(b'.') {
            let before = self.rest.len();
            fraction = self.number(1..=6)?;
            fraction *= 10_i64.pow(6 - (before - self.rest.len()) as u32);
        }
        Ok(i128::from(hours) * i128::from(HOUR) + i128::from(minutes * MINUTE + seconds * SECOND + fraction))
    }

    /// Microseconds west of UTC of `±HH[:MM[:SS]]`; 0 where there is no zone.
    fn zone(&mut self) -> Result<i64, Fault> {
        let west = match self.rest.first() {
            Some(b'+') => -1,
            Some(b'-') => 1,
            Some(_) | None => return Ok(0),
        };
        self.rest = &self.rest[1..];
        let mut offset = self.number(2..=2)? * HOUR;
        for unit in [MINUTE, SECOND] {
            if self.skip(b':') {
                offset += self.number(2..=2)? * unit;
            }
        }
        Ok(west * offset)
    }
}
