//! Times as recorders write them -> seconds since time zero.
//!
//! The first time of a file says what all are: the unit of Unix times is plain from their size (a unit named in the
//! header is believed only as long as the year can be), dates and times of day are what they are, and smaller numbers
//! count from a zero of their own. What cannot be a time is refused.

use jiff::{Timestamp, civil, tz::Offset};

use observer_core::model::units::{parse_decimal, quoted};

/// Unix times from September 2001 to February 2103.
const UNIX_MIN_SECONDS: f64 = 1e9;
const UNIX_MAX_SECONDS: f64 = 4.2e9;
/// A recorder that counts from the container's start has its first row within a minute of it; a first row further from
/// zero is by another clock, such as the time since boot.
const NEAR_ZERO_SECONDS: f64 = 60.0;
const DAY_SECONDS: f64 = 86400.0;
/// No start-up is recorded with readings so far apart: numbers without a unit that are so may be milliseconds.
const SPARSE_SECONDS: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stamp {
    Number(f64),
    /// A date: Unix seconds. Dates without an offset are taken for UTC: only differences count.
    Date(f64),
    /// Seconds since midnight.
    TimeOfDay(f64),
}

impl Stamp {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(number) = parse_time_number(text.strip_prefix('@').unwrap_or(text)) {
            return Ok(Self::Number(number));
        }
        date(text).map(Self::Date).or_else(|| words(text)).ok_or_else(|| {
            format!(
                "{} is not a time: neither a number nor a date such as 2024-05-21T16:00:00Z",
                quoted(text)
            )
        })
    }

    /// The longest beginning of `line` that is a time, and the rest.
    pub fn split(line: &str) -> Option<(Self, &str)> {
        // `date` prints up to seven words.
        const WORDS: usize = 7;
        let ends: Vec<usize> = line
            .char_indices()
            .filter(|(at, c)| c.is_whitespace() && !line[..*at].ends_with(char::is_whitespace) && *at > 0)
            .map(|(at, _)| at)
            .chain([line.trim_end().len()])
            .take(WORDS)
            .collect();
        ends.iter().rev().find_map(|end| {
            let (time, rest) = line.split_at_checked(*end)?;
            let stamp = Self::parse(time).ok()?;
            let unix = |number: f64| unix_scale(number).is_some();
            // A small number is a count, a pid or a name as well as a time.
            if matches!(stamp, Self::Number(number) if !unix(number)) {
                return None;
            }
            Some((stamp, rest.trim()))
        })
    }
}

/// A comma is a decimal comma here: digits of times are not grouped.
fn parse_time_number(text: &str) -> Result<f64, String> {
    if text.contains(char::is_whitespace) {
        return Err(format!("{} is not a number", quoted(text)));
    }
    match text.split_once(',') {
        Some((_, rest)) if !rest.contains(',') => parse_decimal(&text.replacen(',', ".", 1)),
        _ => parse_decimal(text),
    }
}

/// RFC 3339, or the same without an offset, with a blank, or with slashes from the year on.
fn date(text: &str) -> Option<f64> {
    let text = text.replace('/', "-").replace(',', ".");
    let seconds = |at: Timestamp| at.as_nanosecond() as f64 / 1e9;
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(seconds(at));
    }
    if text.len() < 15 || !text.as_bytes()[..4].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = text.trim_end_matches("UTC").trim_end();
    let at = text.parse::<civil::DateTime>().ok()?;
    Offset::UTC.to_timestamp(at).ok().map(seconds)
}

/// What `date` prints in most languages' C-like forms, dates with an offset or a zone, and times of day: words in any
/// order.
fn words(text: &str) -> Option<Stamp> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let (mut month, mut day, mut year, mut time, mut half) = (None, None, None, None, None);
    let (mut offset, mut zone) = (0.0, false);
    // JavaScript writes the zone's name behind its offset, in brackets.
    let text = text.split_once(" (").map_or(text, |(text, _)| text);
    for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        let lower = word.to_ascii_lowercase();
        let is_word = lower.bytes().all(|byte| byte.is_ascii_alphabetic());
        if let Some(found) = offset_seconds(word) {
            offset = found;
        } else if let Some((found, of_day)) = numeric_date(word) {
            if month.is_some() || day.is_some() || year.is_some() || (time.is_some() && of_day.is_some()) {
                return None;
            }
            (year, month, day) = (Some(found.year()), Some(found.month()), Some(found.day()));
            time = time.or(of_day);
        } else if word.contains(':') {
            if time.is_some() {
                return None;
            }
            time = Some(time_of_day(word)?);
        } else if lower == "am" || lower == "pm" {
            half = Some(lower);
        } else if let Some(found) = MONTHS.iter().position(|name| is_word && lower.starts_with(name)) {
            if month.is_some() {
                return None;
            }
            month = Some(found as i8 + 1);
        } else if let Ok(number) = word.parse::<i16>() {
            match number {
                1..=31 if day.is_none() => day = Some(number as i8),
                1970..=2200 if year.is_none() => year = Some(number),
                _ => return None,
            }
        } else if !zone && is_zone(word) {
            zone = true;
        } else if !is_weekday(&lower) {
            return None;
        }
    }
    let mut of_day = time?;
    if let Some(half) = half {
        let hour = of_day.0;
        if !(1..=12).contains(&hour) {
            return None;
        }
        of_day.0 = hour % 12 + if half == "pm" { 12 } else { 0 };
    }
    let seconds = f64::from(of_day.0) * 3600.0 + f64::from(of_day.1) * 60.0 + of_day.2;
    match (year, month, day) {
        (None, None, None) => Some(Stamp::TimeOfDay(seconds)),
        (year, Some(month), Some(day)) => {
            // syslog and `ts` write no year; only differences count, and this one has every day.
            let year = year.unwrap_or(2024);
            let midnight = civil::Date::new(year, month, day).ok()?.at(0, 0, 0, 0);
            let midnight = Offset::UTC.to_timestamp(midnight).ok()?.as_second();
            Some(Stamp::Date(midnight as f64 + seconds - offset))
        }
        _ => None,
    }
}

/// Hours, minutes, seconds.
type OfDay = (u8, u8, f64);

/// 2024-05-21, 2024/05/21, 2024.05.21 or, as dots have it elsewhere, 21.05.2024; the first also with its time. With
/// slashes the day may be the first number as well as the second: refused, unless one of them is no month.
fn numeric_date(word: &str) -> Option<(civil::Date, Option<OfDay>)> {
    if !word.starts_with(|first: char| first.is_ascii_digit()) || word.len() < 8 {
        return None;
    }
    if let Some((date, time)) = word.split_once(['T', '_']) {
        return Some((numeric_date(date)?.0, Some(time_of_day(time)?)));
    }
    let parts: Vec<&str> = word.split(['-', '/', '.']).collect();
    let number = |at: usize| parts.get(at)?.parse::<i16>().ok();
    let (first, month, last) = (number(0)?, i8::try_from(number(1)?).ok()?, number(2)?);
    let (year, day) = match (parts[0].len(), parts[2].len()) {
        (4, 1..=2) => (first, last),
        (1..=2, 4) if word.bytes().filter(|byte| *byte == b'.').count() == 2 => (last, first),
        (1..=2, 4) if word.contains('/') && first > 12 => (last, first),
        (1..=2, 4) if word.contains('/') && month > 12 => {
            let date = civil::Date::new(last, i8::try_from(first).ok()?, month).ok()?;
            return (parts.len() == 3).then_some((date, None));
        }
        _ => return None,
    };
    let date = civil::Date::new(year, month, i8::try_from(day).ok()?).ok()?;
    (parts.len() == 3).then_some((date, None))
}

/// +0200, +02:00, UTC+2, GMT-0530
fn offset_seconds(word: &str) -> Option<f64> {
    let named = ["UTC", "GMT"].into_iter().find_map(|zone| word.strip_prefix(zone));
    let digits = named.unwrap_or(word).strip_prefix(['+', '-'])?;
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 => digits.split_at_checked(2)?,
        None if digits.len() <= 2 && (named.is_some() || digits.len() == 2) => (digits, "0"),
        None => return None,
    };
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let seconds = f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0;
    Some(if word.contains('-') { -seconds } else { seconds })
}

fn is_weekday(lower: &str) -> bool {
    const NAMES: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    NAMES.iter().any(|name| *name == lower || name[..3] == *lower)
}

/// UTC, CEST: in capitals, as no container is named, and most with a T for time at their end, as no column is.
fn is_zone(word: &str) -> bool {
    let is_short = (3..=5).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_uppercase());
    ["UTC", "MSK", "WIB", "WITA"].contains(&word) || (is_short && word.ends_with('T'))
}

fn time_of_day(word: &str) -> Option<OfDay> {
    let mut parts = word.split(':');
    let (hour, minute) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let second: f64 = parts.next()?.parse().ok()?;
    (parts.next().is_none() && hour < 24 && minute < 60 && (0.0..61.0).contains(&second))
        .then_some((hour, minute, second))
}

/// Seconds of one unit of time by its name in a header.
pub fn unit_seconds(word: &str) -> Option<f64> {
    match word {
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1.0),
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => Some(1e-3),
        "us" | "µs" | "μs" | "usec" | "usecs" | "micros" | "microsecond" | "microseconds" => Some(1e-6),
        "ns" | "nsec" | "nsecs" | "nanos" | "nanosecond" | "nanoseconds" => Some(1e-9),
        "min" | "mins" | "minute" | "minutes" => Some(60.0),
        _ => None,
    }
}

fn unit_name(scale: f64) -> &'static str {
    match scale {
        1e-3 => "milliseconds",
        1e-6 => "microseconds",
        1e-9 => "nanoseconds",
        60.0 => "minutes",
        _ => "seconds",
    }
}

/// As in the file, unless that is a page of zeros.
fn short(number: f64) -> String {
    match number.abs() {
        0.0 | 1e-6..1e21 => number.to_string(),
        _ => format!("{number:e}"),
    }
}

/// The unit that makes a Unix time of this number.
fn unix_scale(number: f64) -> Option<f64> {
    [1.0, 1e-3, 1e-6, 1e-9].into_iter().find(|scale| is_unix(number * scale))
}

fn is_unix(seconds: f64) -> bool {
    (UNIX_MIN_SECONDS..UNIX_MAX_SECONDS).contains(&seconds)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Unix(f64),
    Counted(f64),
    Date,
    TimeOfDay,
}

/// Makes times relative, and refuses a clock that steps back.
#[derive(Debug, Default)]
pub struct Clock {
    /// Seconds of the unit that the header or the format names.
    pub unit: Option<f64>,
    kind: Option<Kind>,
    origin: f64,
    last: f64,
    /// A second time was read.
    stepped: bool,
    /// Midnights passed.
    days: f64,
    /// Of the first row: how far from zero it is in the file. None for dates.
    pub first: Option<f64>,
    pub notes: Vec<String>,
}

impl Clock {
    /// Seconds since time zero; equal times are allowed, earlier ones are an error.
    pub fn set(&mut self, stamp: Stamp) -> Result<f64, String> {
        let is_first = self.kind.is_none();
        let kind = match self.kind {
            Some(kind) => kind,
            None => self.kind_of(stamp)?,
        };
        let mut seconds = match (kind, stamp) {
            (Kind::Unix(scale), Stamp::Number(number)) => {
                let seconds = number * scale;
                if !is_unix(seconds) {
                    return Err(format!(
                        "time {} cannot be: as Unix {} it is not between 2001 and 2103",
                        short(number),
                        unit_name(scale)
                    ));
                }
                seconds
            }
            (Kind::Counted(scale), Stamp::Number(number)) => {
                let seconds = number * scale;
                if !(0.0..UNIX_MIN_SECONDS).contains(&seconds) {
                    return Err(format!(
                        "time {} cannot be: it is not a finite number of zero or more, or of another unit than the first row",
                        short(number)
                    ));
                }
                seconds
            }
            (Kind::Date, Stamp::Date(seconds)) => seconds,
            (Kind::TimeOfDay, Stamp::TimeOfDay(seconds)) => {
                let mut seconds = seconds + self.days * DAY_SECONDS;
                if !is_first && self.origin + self.last - seconds > DAY_SECONDS / 2.0 {
                    self.days += 1.0;
                    seconds += DAY_SECONDS;
                }
                seconds
            }
            _ => return Err("the time is of another kind than in the first row".to_owned()),
        };
        if is_first {
            self.kind = Some(kind);
            self.begin(kind, seconds);
        }
        seconds -= self.origin;
        let step = seconds - self.last;
        if matches!(kind, Kind::Counted(_)) && self.unit.is_none() && !is_first && !self.stepped && step > 0.0
        {
            self.stepped = true;
            if step >= SPARSE_SECONDS {
                return Err(format!(
                    "time is {} further than in the first row; are these milliseconds? Name the unit in the header: elapsed_ms, or elapsed_s for seconds",
                    short(step)
                ));
            }
        }
        if seconds < self.last {
            let (now, before) = (short(seconds + self.origin), short(self.last + self.origin));
            return Err(format!(
                "time goes back, {now} after {before}: sort by time, or cut where the clock stepped"
            ));
        }
        self.last = seconds;
        Ok(seconds)
    }

    fn begin(&mut self, kind: Kind, seconds: f64) {
        match kind {
            Kind::Counted(_) => {
                self.first = Some(seconds);
                if seconds > NEAR_ZERO_SECONDS {
                    self.origin = seconds;
                    self.notes.push(format!(
                        "the first row is {seconds} s from zero (a clock since boot?): times count from that row"
                    ));
                } else if seconds >= 1.0 {
                    self.notes.push(format!(
                        "the first row is {seconds} s from zero; what was before is not known"
                    ));
                }
            }
            _ => self.origin = seconds,
        }
    }

    fn kind_of(&mut self, first: Stamp) -> Result<Kind, String> {
        let number = match first {
            Stamp::Date(_) => return Ok(Kind::Date),
            Stamp::TimeOfDay(_) => return Ok(Kind::TimeOfDay),
            Stamp::Number(number) => number,
        };
        if !number.is_finite() || number < 0.0 {
            return Err(format!("time {} is not a finite number of zero or more", short(number)));
        }
        let named = self.unit.unwrap_or(1.0);
        let seconds = number * named;
        if seconds < UNIX_MIN_SECONDS {
            return Ok(Kind::Counted(named));
        }
        if is_unix(seconds) {
            return Ok(Kind::Unix(named));
        }
        let Some(scale) = unix_scale(number) else {
            return Err(format!(
                "time {} cannot be: no Unix time between 2001 and 2103, be the unit seconds, milliseconds, microseconds or nanoseconds",
                short(number)
            ));
        };
        let but = if self.unit.is_some() {
            format!(", though the column names {}", unit_name(named))
        } else {
            String::new()
        };
        self.notes.push(format!("times are Unix {}{but}", unit_name(scale)));
        Ok(Kind::Unix(scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_recorders_write_them() {
        let unix = 1_716_307_200.0;
        for text in [
            "2024-05-21T16:00:00Z",
            "2024-05-21T18:00:00+02:00",
            "2024-05-21T16:00:00.000000000Z",
            "2024-05-21 16:00:00",
            "2024-05-21 16:00:00.000",
            "2024/05/21 16:00:00",
            "2024-05-21 16:00:00 UTC",
            "Tue May 21 16:00:00 UTC 2024",
            "Tue May 21 04:00:00 PM CEST 2024",
            "Tue 21 May 16:00:00 GMT 2024",
            "Tue, 21 May 2024 18:00:00 +0200",
            "2024-05-21 18:00:00 +0200",
            "2024-05-21 18:00:00 +02:00",
            "2024-05-21 10:30:00.000 -05:30",
            "2024-05-21T18:00:00 +02",
            "2024-05-21 16:00:00.000000 +0000 UTC",
            "2024-05-21 18:00:00 UTC+2",
            "2024-05-21 16:00:00 CEST",
            "2024-05-21 04:00:00 PM",
            "2024-05-21_16:00:00",
            "2024.05.21 16:00:00",
            "21.05.2024 16:00:00",
            "[2024-05-21 16:00:00]",
            "Tue May 21 2024 18:00:00 GMT+0200 (Central European Summer Time)",
            "May 21 16:00:00",
            "Tuesday, May 21, 2024 4:00:00 PM",
            "05/21/2024 16:00:00",
            "21/5/2024 16:00:00",
            "5/21/2024, 4:00:00 PM",
        ] {
            assert_eq!(Stamp::parse(text), Ok(Stamp::Date(unix)), "{text}");
        }
        assert_eq!(Stamp::parse("04:00:01 PM"), Ok(Stamp::TimeOfDay(57601.0)));
        assert_eq!(Stamp::parse("0,125"), Ok(Stamp::Number(0.125)));
        for text in [
            "",
            "web-0",
            "12:00",
            "25:00:00",
            "Tue May 41 16:00:00 UTC 2024",
            "Maya 5m 120Mi",
            "2024-13-01T00:00:00Z",
            "+\u{fffd}0 12:00:00",
            "05/06/2024 16:00:00",
            "2024-02-30 16:00:00 +0200",
            "2024-05-21 16:00:00 UTC+25",
            "2024-05-21 16:00:00 17:00:00",
            "2024-05-21 21.05.2024 16:00:00",
        ] {
            assert!(Stamp::parse(text).is_err(), "{text}");
        }
        assert_eq!(Stamp::split("2024-05-21 16:00:00 web-0  5m").map(|(_, rest)| rest), Some("web-0  5m"));
        assert_eq!(
            Stamp::split("1716307200.25 web-0").map(|(stamp, _)| stamp),
            Some(Stamp::Number(1716307200.25))
        );
        for (line, rest) in [
            ("16:00:00 web 12MiB / 1GiB", "web 12MiB / 1GiB"),
            ("Tue May 21 16:00:00 UTC 2024 app 5m 12Mi", "app 5m 12Mi"),
            ("04:00:00 PM app 5m 12Mi", "app 5m 12Mi"),
            ("2024-05-21 16:00:00 +0200 app 5m 12Mi", "app 5m 12Mi"),
            ("2024-05-21 16:00:00 NAME CPU(cores) MEMORY(bytes)", "NAME CPU(cores) MEMORY(bytes)"),
            ("16:00:00 POD NAME", "POD NAME"),
        ] {
            assert_eq!(Stamp::split(line).map(|(_, rest)| rest), Some(rest));
        }
        assert_eq!(Stamp::split("4711 web-0"), None);
    }

    #[test]
    fn the_size_of_a_number_says_its_unit() {
        let of = |unit: Option<f64>, times: [f64; 2]| {
            let mut clock = Clock { unit, ..Clock::default() };
            let first = clock.set(Stamp::Number(times[0]))?;
            clock.set(Stamp::Number(times[1])).map(|second| second - first)
        };
        for scale in [1.0, 1e3, 1e6, 1e9] {
            assert_eq!(of(None, [1_716_307_200.0 * scale, 1_716_307_201.0 * scale]), Ok(1.0));
            assert_eq!(of(Some(1.0), [1_716_307_200.0 * scale, 1_716_307_201.0 * scale]), Ok(1.0));
        }
        assert_eq!(of(Some(1e-3), [0.0, 250.0]), Ok(0.25));
        assert_eq!(of(None, [86400.25, 86401.25]), Ok(1.0));
        for times in [
            [1e11, 1e11],
            [5e10, 5e10],
            [1e30, 1e30],
            [-1.0, 0.0],
            [f64::NAN, 0.0],
            [0.0, 1e10],
            [1.7e9, 1e11],
            [2.0, 1.0],
        ] {
            assert!(of(None, times).is_err(), "{times:?}");
        }
    }

    #[test]
    fn times_of_day_pass_midnight() {
        let mut clock = Clock::default();
        let times =
            ["23:59:59", "00:00:01", "00:00:02"].map(|text| clock.set(Stamp::parse(text).unwrap()).unwrap());
        assert_eq!(times, [0.0, 2.0, 3.0]);
    }
}
