//! ISO 8601 as Python's `datetime` writes and reads it, for state files of the original.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// Days from 1970-01-01 to this date of the proleptic Gregorian calendar.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + if month <= 2 { 1 } else { 0 }, month, day)
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `2026-01-12T10:00:00.123456+00:00`; without a fraction if that is zero.
pub(super) fn format(time: SystemTime) -> String {
    let micros = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_micros()).map_or(i64::MIN, i64::saturating_neg)
        }
    };
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}+00:00")
}

/// A cursor over ASCII text.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let mut number = 0;
        for digit in digits {
            number = number * 10 + i64::from(digit.checked_sub(b'0').filter(|n| *n < 10)?);
        }
        self.0 = rest;
        Some(number)
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// `YYYY-MM-DD`, `YYYYMMDD`, `YYYY-Www[-D]`, `YYYYWww[D]`, as days since 1970.
    fn date(&mut self) -> Option<i64> {
        let year = self.digits(4)?;
        if year == 0 {
            return None;
        }
        let dashes = self.accept(b'-');
        if self.accept(b'W') {
            let week = self.digits(2)?;
            let weekday = match (dashes, self.0.first()) {
                (true, Some(b'-')) | (false, Some(b'0'..=b'9')) => {
                    self.accept(b'-');
                    self.digits(1)?
                }
                _ => 1,
            };
            // Week 1 is the one with the fourth of January.
            let fourth = days_from_civil(year, 1, 4);
            let monday = fourth - (fourth + 3).rem_euclid(7);
            let next = days_from_civil(year + 1, 1, 4);
            let weeks = (next - (next + 3).rem_euclid(7) - monday) / 7;
            let valid = (1..=weeks).contains(&week) && (1..=7).contains(&weekday);
            return valid.then_some(monday + (week - 1) * 7 + weekday - 1);
        }
        let month = self.digits(2)?;
        if dashes && !self.accept(b'-') {
            return None;
        }
        let day = self.digits(2)?;
        let valid = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        valid.then(|| days_from_civil(year, month, day))
    }

    /// `HH[:MM[:SS[.fraction]]]` with or without colons, in nanoseconds. Digits below a microsecond are
    /// passed over, as they are there.
    fn clock(&mut self) -> Option<i64> {
        let mut parts = [self.digits(2)?, 0, 0];
        let colons = self.0.first() == Some(&b':');
        for part in &mut parts[1..] {
            let more = if colons {
                self.accept(b':')
            } else {
                self.0.first().is_some_and(u8::is_ascii_digit)
            };
            if !more {
                break;
            }
            *part = self.digits(2)?;
        }
        let mut nanos = 0;
        if self.accept(b'.') || self.accept(b',') {
            let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let used = count.min(6);
            nanos = self.digits(used)? * 10_i64.pow(9 - u32::try_from(used).ok()?);
            self.0 = &self.0[count - used..];
            if count == 0 {
                return None;
            }
        }
        let valid = parts[0] < 24 && parts[1] < 60 && parts[2] < 60;
        valid.then_some((parts[0] * 3600 + parts[1] * 60 + parts[2]) * 1_000_000_000 + nanos)
    }
}

/// What `datetime.fromisoformat` of Python 3.11 makes of it. `None` also for a time without a zone: it is
/// no point in time.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let mut text = Text(text.as_bytes());
    let days = text.date()?;
    // Any one character separates date and time.
    let first = std::str::from_utf8(text.0).ok()?.chars().next()?;
    text.0 = &text.0[first.len_utf8()..];
    let clock = text.clock()?;
    // The original's reader lets a space stand there.
    text.accept(b' ');
    let offset = if text.accept(b'Z') {
        0
    } else {
        let sign = match text.0.first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        text.0 = &text.0[1..];
        sign * text.clock()?
    };
    if !text.0.is_empty() {
        return None;
    }
    let nanos =
        i128::from(days) * i128::from(DAY) * 1_000_000_000 + i128::from(clock) - i128::from(offset);
    let distance = u64::try_from(nanos.unsigned_abs() / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos.unsigned_abs() % 1_000_000_000).ok()?;
    let distance = Duration::new(distance, rest);
    if nanos < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        Some(parse(text)?.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn what_is_written_is_read_on_every_day_of_a_thousand_years() {
        for day in 0..365_243 {
            let time = UNIX_EPOCH
                + Duration::from_secs(day * 86_400 + day % 86_400)
                + Duration::from_micros(day % 3);
            assert_eq!(parse(&format(time)), Some(time), "{}", format(time));
        }
    }

    #[test]
    fn forms_of_iso_8601() {
        let ten = Some(1_768_212_000);
        for text in [
            "2026-01-12T10:00:00+00:00",
            "2026-01-12T10:00:00Z",
            "2026-01-12 10:00+00:00",
            "2026-01-12T10Z",
            "20260112T100000+0000",
            "2026-W03-1T10:00:00+00:00",
            "2026W031T10+00",
            "2026-01-12T12:00:00+02:00",
            "2026-01-12T04:30:00-05:30",
            "2026-01-12T10:00:00 +00:00",
            "2026-01-12T10:00:00.123456789+00:00",
            "2026-01-12T10:00:00,5+00:00",
        ] {
            assert_eq!(seconds(text), ten, "{text}");
        }
        for text in [
            "",
            "2026-01-12",
            "2026-01-12T10:00:00",
            "2026-13-01T00:00:00+00:00",
            "2026-02-29T00:00:00+00:00",
            "2026-01-12T10:00:60+00:00",
            "2026-01-12T24:00:00+00:00",
            "2026-01-12T10:00:00+00:00x",
            "2026-01-12T10:00:00.+00:00",
            "0000-01-12T10:00:00+00:00",
            "2026-W54-1T10:00:00+00:00",
            "2026-0112T10:00:00+00:00",
            "not a date",
            "2026-01-12é",
            "é",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn times_before_1970_and_far_away_are_no_panic() {
        assert_eq!(
            format(UNIX_EPOCH - Duration::from_micros(1)),
            "1969-12-31T23:59:59.999999+00:00"
        );
        assert_eq!(
            parse("1969-12-31T23:59:59.5+00:00"),
            Some(UNIX_EPOCH - Duration::from_millis(500))
        );
        let _ = parse("9999-12-31T23:59:59-23:59").map(format);
        let _ = parse("0001-01-01T00:00:00+23:59").map(format);
    }
}
