//! Connect's own Date, Time and Timestamp as text.

use std::fmt::Write;

use tailwater_kit::calendar::date_from_days;

const DAY: i64 = 86_400_000;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A time in UTC, milliseconds since 1970.
#[derive(Clone, Copy)]
pub(super) struct Instant(i64);

/// The instant that `value` is for a schema called `name`; none for other schemas and beyond the range of milliseconds.
pub(super) fn of(name: &str, value: i64) -> Option<Instant> {
    match name {
        "org.apache.kafka.connect.data.Date" => value.checked_mul(DAY).map(Instant),
        "org.apache.kafka.connect.data.Time" | "org.apache.kafka.connect.data.Timestamp" => Some(Instant(value)),
        _ => None,
    }
}

/// Date and time in UTC with milliseconds, `2024-02-29T12:34:56.789Z`; `milliseconds` are counted from 1970.
pub(super) fn iso_date_and_time(milliseconds: i64) -> String {
    let (year, month, day) = date_from_days(milliseconds.div_euclid(DAY));
    format!("{year:04}-{month:02}-{day:02}T{}.{:03}Z", Instant(milliseconds).clock(), milliseconds.rem_euclid(1000))
}

impl Instant {
    /// As Java's `Date.toString` in UTC: `Thu Jan 01 00:00:00 UTC 1970`.
    pub(super) fn java_date(self) -> String {
        let days = self.0.div_euclid(DAY);
        let (year, month, day) = date_from_days(days);
        let (weekday, month) = (WEEKDAYS[days.rem_euclid(7) as usize], MONTHS[month as usize - 1]);
        format!("{weekday} {month} {day:02} {} UTC {year:04}", self.clock())
    }

    /// As Connect's `Values` writes it: before 1970-01-02 the time alone, at midnight the date alone, else both.
    pub(super) fn iso(self) -> String {
        let (year, month, day) = date_from_days(self.0.div_euclid(DAY));
        let mut text = String::new();
        let has_date = self.0 >= DAY;
        let has_time = !has_date || self.0 % DAY != 0;
        if has_date {
            let _ = write!(text, "{year:04}-{month:02}-{day:02}");
        }
        if has_date && has_time {
            text.push('T');
        }
        if has_time {
            let _ = write!(text, "{}.{:03}Z", self.clock(), self.0.rem_euclid(1000));
        }
        text
    }

    fn clock(self) -> String {
        let seconds = self.0.rem_euclid(DAY) / 1000;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_java_writes_them() {
        let instant = Instant(1_709_210_096_789);
        assert_eq!(instant.iso(), "2024-02-29T12:34:56.789Z");
        assert_eq!(instant.java_date(), "Thu Feb 29 12:34:56 UTC 2024");
        assert_eq!(iso_date_and_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(Instant(2 * DAY).iso(), "1970-01-03");
        assert_eq!(Instant(3_600_000).iso(), "01:00:00.000Z");
        assert_eq!(Instant(-1).java_date(), "Wed Dec 31 23:59:59 UTC 1969");
    }
}
