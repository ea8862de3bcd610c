//! Days of the proleptic Gregorian calendar, as far as databases count them.
//!
//! PostgreSQL's dates end in the year 5874897 and begin in 4713 BC; the crates for time end at some 262,000 years, or at
//! 9999. After Howard Hinnant's `days_from_civil` (howardhinnant.github.io/date_algorithms.html): years begin in March,
//! so that the leap day is the last of its year, and 400 of them are an era of 146,097 days.

/// Of an era.
const DAYS: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const BEFORE_1970: i64 = 719_468;

/// Days since 1970-01-01 of a date. The year before 1 is 0; `month` and `day` count from 1.
pub fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS + day_of_era - BEFORE_1970
}

/// Year, month and day of a number of days since 1970-01-01: the inverse of [`days_from_date`].
pub fn date_from_days(days: i64) -> (i64, u64, u64) {
    let days = days + BEFORE_1970;
    let (era, day_of_era) = (days.div_euclid(DAYS), days.rem_euclid(DAYS));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month.unsigned_abs(), day.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_counted_in_the_proleptic_gregorian_calendar() {
        for ((year, month, day), days) in
            [((1970, 1, 1), 0), ((2000, 1, 1), 10_957), ((2024, 2, 29), 19_782), ((-43, 3, 15), -735_160), ((1582, 10, 10), -141_432)]
        {
            assert_eq!(days_from_date(year, month, day), days);
        }
    }

    proptest! {
        #[test]
        fn a_date_is_its_days_and_back(days in -800_000_000_i64..3_000_000_000) {
            let (year, month, day) = date_from_days(days);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
            prop_assert_eq!(days_from_date(year, month as i64, day as i64), days);
        }
    }
}
