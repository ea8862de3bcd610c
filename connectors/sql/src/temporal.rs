//! Dates and times as text, in the form that PostgreSQL itself writes with `DateStyle` ISO, so that a copy can be
//! compared with its source as text: proleptic Gregorian calendar, `BC` behind years before 1, fractions without
//! trailing zeros, `infinity`.
//!
//! Sources write infinity as numbers; they are told from times by being outside of what any source can hold.

use tailwater_kit::calendar::date_from_days;

const DAY: i64 = 86_400_000_000;

/// `TimestampData` of pgjdbc: how Debezium writes infinite timestamps, in microseconds.
const INFINITE: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITE: i64 = -9_223_372_036_832_400_000;

/// Infinite dates as days: from our own source, from Debezium's stream and from its snapshots.
const INFINITE_DAYS: [i32; 3] = [i32::MAX, -2_147_472_692, -622_191_234];
const MINUS_INFINITE_DAYS: [i32; 3] = [i32::MIN, -2_147_472_691, -625_821_272];

/// Unit of a time in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Unit {
    /// Microseconds, the unit of the targets. Nanoseconds are cut, as Debezium's sink cuts them.
    fn microseconds(self, value: i64) -> Option<i64> {
        match self {
            Self::Milliseconds => value.checked_mul(1000),
            Self::Microseconds => Some(value),
            Self::Nanoseconds => Some(value.div_euclid(1000)),
        }
    }
}

/// Days since 1970-01-01.
pub(crate) fn date(days: i32) -> String {
    if INFINITE_DAYS.contains(&days) {
        return "infinity".to_owned();
    }
    if MINUS_INFINITE_DAYS.contains(&days) {
        return "-infinity".to_owned();
    }
    let (date, era) = dated(days.into());
    format!("{date}{era}")
}

/// Time of day; 24:00:00 is one.
pub(crate) fn time(value: i64, unit: Unit) -> Result<String, String> {
    unit.microseconds(value).filter(|micros| (0..=DAY).contains(micros)).map(clock).ok_or_else(|| format!("{value} is no time of day"))
}

/// Date and time since 1970-01-01 00:00.
pub(crate) fn timestamp(value: i64, unit: Unit) -> Result<String, String> {
    let (infinite, minus_infinite) = match unit {
        Unit::Milliseconds => (INFINITE / 1000, MINUS_INFINITE / 1000),
        Unit::Microseconds => (INFINITE, MINUS_INFINITE),
        Unit::Nanoseconds => (i64::MAX, i64::MIN),
    };
    if value == infinite {
        return Ok("infinity".to_owned());
    }
    if value == minus_infinite {
        return Ok("-infinity".to_owned());
    }
    let (days, micros) = match unit {
        // The latest timestamps of PostgreSQL are more microseconds than 63 bits hold.
        Unit::Milliseconds => (value.div_euclid(DAY / 1000), value.rem_euclid(DAY / 1000) * 1000),
        Unit::Microseconds | Unit::Nanoseconds => {
            let micros = unit.microseconds(value).ok_or_else(|| format!("{value} is no timestamp"))?;
            (micros.div_euclid(DAY), micros.rem_euclid(DAY))
        }
    };
    let (date, era) = dated(days);
    Ok(format!("{date} {}{era}", clock(micros)))
}

/// An ISO 8601 instant or date as PostgreSQL reads it: years beyond four digits without a sign, years before 1 with
/// an era. The year 0 of ISO is 1 BC.
pub(crate) fn with_era(iso: &str) -> String {
    let (before_zero, unsigned) = match iso.as_bytes().first() {
        Some(b'-') => (true, &iso[1..]),
        Some(b'+') => (false, &iso[1..]),
        _ => (false, iso),
    };
    let Some((year, rest)) = unsigned.split_once('-') else { return iso.to_owned() };
    let Ok(number) = year.parse::<u32>() else { return iso.to_owned() };
    let rest = rest.replacen('T', " ", 1);
    if before_zero || number == 0 { format!("{:04}-{rest} BC", number + 1) } else { format!("{year}-{rest}") }
}

fn clock(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = micros % 1_000_000;
    if fraction != 0 {
        text.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    text
}

/// Year, month and day, and the era to stand behind them.
fn dated(days: i64) -> (String, &'static str) {
    let (year, month, day) = date_from_days(days);
    if year > 0 { (format!("{year:04}-{month:02}-{day:02}"), "") } else { (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_proleptic_gregorian_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(-141_432), "1582-10-10");
        assert_eq!(date(3_789_548), "12345-06-07");
        assert_eq!(date(-735_160), "0044-03-15 BC");
        assert_eq!(date(-2_440_550), "4713-01-01 BC");
        assert_eq!(date(2_145_042_905), "5874897-12-31");
    }

    #[test]
    fn infinity_is_recognised_in_every_unit() {
        for days in [i32::MAX, -2_147_472_692, -622_191_234] {
            assert_eq!(date(days), "infinity");
        }
        for days in [i32::MIN, -2_147_472_691, -625_821_272] {
            assert_eq!(date(days), "-infinity");
        }
        assert_eq!(timestamp(9_223_372_036_825_200, Unit::Milliseconds).unwrap(), "infinity");
        assert_eq!(timestamp(9_223_372_036_825_200_000, Unit::Microseconds).unwrap(), "infinity");
        assert_eq!(timestamp(-9_223_372_036_832_400_000, Unit::Microseconds).unwrap(), "-infinity");
        assert_eq!(timestamp(i64::MIN, Unit::Nanoseconds).unwrap(), "-infinity");
    }

    #[test]
    fn timestamps_keep_their_microseconds() {
        assert_eq!(timestamp(1_709_251_199_999_900, Unit::Microseconds).unwrap(), "2024-02-29 23:59:59.9999");
        assert_eq!(timestamp(-1, Unit::Microseconds).unwrap(), "1969-12-31 23:59:59.999999");
        assert_eq!(timestamp(-63_517_780_799_999_999, Unit::Microseconds).unwrap(), "0044-03-15 12:00:00.000001 BC");
        assert_eq!(timestamp(9_224_318_015_999_999, Unit::Milliseconds).unwrap(), "294276-12-31 23:59:59.999");
        assert_eq!(time(86_400_000, Unit::Milliseconds).unwrap(), "24:00:00");
        assert!(time(-1, Unit::Microseconds).is_err());
    }

    #[test]
    fn iso_years_get_an_era() {
        assert_eq!(with_era("2024-02-29T10:00:00.5Z"), "2024-02-29 10:00:00.5Z");
        assert_eq!(with_era("+12345-06-07T08:09:10Z"), "12345-06-07 08:09:10Z");
        assert_eq!(with_era("-0043-03-15T12:00:00Z"), "0044-03-15 12:00:00Z BC");
        assert_eq!(with_era("-infinity"), "-infinity");
        assert_eq!(with_era("infinity"), "infinity");
    }
}
