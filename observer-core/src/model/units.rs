//! Amounts as a person writes them.

use std::fmt;

/// Binary units with three significant digits: `1.50 GiB`, `64 MiB`, `0 B`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
            if value < 1000.0 || unit == "TiB" {
                let digits = match value {
                    _ if value.fract() == 0.0 || value >= 100.0 => 0,
                    _ if value >= 10.0 => 1,
                    _ => 2,
                };
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        Ok(())
    }
}

/// Bytes as Kubernetes writes them: `1048576`, `64Mi`, `1.5Gi`, `500M`, `1e6` (apimachinery
/// pkg/api/resource/quantity.go).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1048576.0),
        ("Gi", 1073741824.0),
        ("Ti", 1099511627776.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("Pi", 1125899906842624.0),
        ("Ei", 1152921504606846976.0),
        ("P", 1e15),
        ("E", 1e18),
        ("m", 1e-3),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)))
        .unwrap_or((text, 1.0));
    match number.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok((value * unit) as u64),
        _ => Err(format!("{text:?} is not an amount of memory, such as 1048576, 64Mi or 1.5Gi")),
    }
}

/// From here on `m` is milli: who writes so much in MiB writes Gi. What is below as milli is less than a page.
const MILLI_FROM_BYTES: f64 = 2_199_023_255_552.0;
/// More than any machine has: 8 PiB. Also where a float still counts single bytes.
const SIZE_MAX_BYTES: f64 = 9_007_199_254_740_992.0;

/// A size as people and their tools write it, in whole bytes: `1048576`, `1.5e8`, `64Mi`, `64 MiB`, `512MB`, `512m`,
/// `1g`, `1,5 GiB`.
///
/// `Mi` and `MiB` are binary, `M`, `MB`, `k` and `kB` decimal, as Kubernetes and the SI have it. Lower-case `m`, `g`,
/// `t` (and `mb`, `kb`, ...) are Docker's, the JVM's and top's: binary. Kubernetes' milli (`m`) is read where it would
/// otherwise be more than 2 TiB.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let refuse = |why: &str| Err(format!("{} {why}", quoted(text)));
    let digits = &text[number_end(text)..];
    // An exponent belongs to the number only where digits follow: 1.5e8, but 2E is two exa.
    let unit = match digits.strip_prefix(['e', 'E']) {
        Some(rest) if rest.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit()) => {
            rest.trim_start_matches(['+', '-']).trim_start_matches(|c: char| c.is_ascii_digit())
        }
        _ => digits,
    };
    let number = &text[..text.len() - unit.len()];
    let Some(factor) = size_factor(unit.trim()) else {
        return refuse("is not a size, such as 1048576, 64Mi, 512MB or 1.5g");
    };
    let value = parse_decimal(number)?;
    if !value.is_finite() || value < 0.0 {
        return refuse("is not a finite size of zero or more");
    }
    let mut bytes = value * factor;
    if unit.trim() == "m" && bytes > MILLI_FROM_BYTES {
        bytes = value / 1000.0;
    }
    if bytes > SIZE_MAX_BYTES {
        return refuse("is more memory than any machine has");
    }
    if bytes > 0.0 && bytes < 1.0 {
        return refuse("is less than a byte");
    }
    Ok(bytes as u64)
}

/// A memory limit: a size that is not zero and that counts whole bytes.
pub fn parse_limit(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a limit of 0 bytes is none; leave it out".to_owned()),
        _ if text.parse::<f64>().is_ok_and(|bytes| bytes.fract() != 0.0) => {
            Err(format!("{} bytes are not whole; was a unit meant, such as Mi or Gi?", quoted(text)))
        }
        bytes => Ok(bytes),
    }
}

/// Bytes of a unit of size; none for what is no such unit.
pub fn size_factor(unit: &str) -> Option<f64> {
    const BINARY: [f64; 6] =
        [1024.0, 1048576.0, 1073741824.0, 1099511627776.0, 1125899906842624.0, 1152921504606846976.0];
    const DECIMAL: [f64; 6] = [1e3, 1e6, 1e9, 1e12, 1e15, 1e18];
    if ["", "b", "byte", "bytes"].contains(&unit.to_ascii_lowercase().as_str()) {
        return Some(1.0);
    }
    // Grafana's unit "short".
    if let Some(power) = ["Mil", "Bil", "Tri"].iter().position(|short| *short == unit) {
        return Some(DECIMAL[power + 1]);
    }
    let mut letters = unit.chars();
    let letter = letters.next()?;
    let power = "kmgtpe".find(letter.to_ascii_lowercase())?;
    match letters.as_str() {
        "i" | "ib" | "iB" | "IB" | "I" => Some(BINARY[power]),
        "" if letter == 'k' || letter.is_ascii_uppercase() => Some(DECIMAL[power]),
        "b" | "" if letter.is_ascii_lowercase() => Some(BINARY[power]),
        "B" | "b" => Some(DECIMAL[power]),
        _ => None,
    }
}

/// Between groups of three digits: blanks of all widths, apostrophes, and what programming languages write.
const GROUPING: [char; 7] = [' ', '\u{a0}', '\u{2009}', '\u{202f}', '\'', '\u{2019}', '_'];

/// Where the number at the beginning of a size ends; a blank belongs to it only between two digits.
fn number_end(text: &str) -> usize {
    let mut before = ' ';
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let digit_follows = letters.peek().is_some_and(|(_, next)| next.is_ascii_digit());
        let groups = GROUPING.contains(&letter) && before.is_ascii_digit() && digit_follows;
        if !(letter.is_ascii_digit() || "+-.,".contains(letter) || groups) {
            return at;
        }
        before = letter;
    }
    text.len()
}

/// A number with a decimal point or a decimal comma, with or without thousands set apart. `1,234` is refused: it may be
/// either.
pub fn parse_decimal(text: &str) -> Result<f64, String> {
    let plain = |text: &str| text.parse::<f64>().map_err(|_| format!("{} is not a number", quoted(text)));
    if let Some(separator) = text.chars().find(|letter| GROUPING.contains(letter)) {
        let end = text.find(['.', ',']).unwrap_or(text.len());
        let (whole, fraction) = text.split_at(end);
        let whole = ungrouped(whole, separator).ok_or_else(|| format!("{} is not a number", quoted(text)))?;
        let fraction = fraction.get(1..).unwrap_or_default();
        return plain(&format!("{whole}.{fraction}"));
    }
    let Some((whole, fraction)) = text.split_once(',') else {
        // Two points are no decimal points: 1.234.567.
        return plain(&ungrouped(text, '.').filter(|_| text.matches('.').count() > 1).unwrap_or(text.into()));
    };
    if whole.contains('.')
        && let Some(whole) = ungrouped(whole, '.')
    {
        return plain(&format!("{whole}.{fraction}")); // 1.234,5
    }
    let grouped = fraction.split(',').all(|group| {
        let digits = group.split('.').next().unwrap_or_default();
        digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    if grouped && (fraction.contains(',') || fraction.contains('.')) {
        return plain(&text.replace(',', ""));
    }
    if fraction.len() == 3 && (1..=3).contains(&whole.len()) && whole != "0" {
        return Err(format!(
            "{} may be a fraction or thousands; write it with a point, or without",
            quoted(text)
        ));
    }
    plain(&text.replacen(',', ".", 1))
}

/// Digits without what sets thousands apart; none if these are no groups of three.
fn ungrouped(text: &str, separator: char) -> Option<String> {
    let groups: Vec<&str> = text.split(separator).collect();
    let first = groups.first()?.trim_start_matches(['+', '-']).len();
    let digits = |group: &&str| group.bytes().all(|byte| byte.is_ascii_digit());
    let fits = (1..=3).contains(&first) && groups[1..].iter().all(|group| group.len() == 3 && digits(group));
    fits.then(|| groups.concat())
}

/// Text of others in our messages: one line, escaped, never long.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 48;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if shown.len() > 2 * SHOWN {
        shown = shown.chars().take(SHOWN).collect();
    }
    if text.chars().nth(SHOWN).is_some() { format!("\"{shown}…\"") } else { format!("\"{shown}\"") }
}

/// Seconds: `0.31 s`, `4.2 s`, `95 s`.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.abs() {
            s if s < 1.0 => write!(f, "{:.2} s", self.0),
            s if s < 20.0 => write!(f, "{:.1} s", self.0),
            _ => write!(f, "{:.0} s", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1 << 20, "1 MiB"),
            (64 << 20, "64 MiB"),
            (1000 << 20, "0.98 GiB"),
            (3 << 29, "1.50 GiB"),
            (123 * 1024 * 1024 + 500_000, "123 MiB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
        for (text, expected) in
            [("0", 0), ("1024", 1024), ("64Mi", 64 << 20), ("1.5Gi", 3 << 29), ("5M", 5_000_000)]
        {
            assert_eq!(parse_bytes(text), Ok(expected));
        }
        for text in ["", "Mi", "-1", "NaN", "64 MiB", "1Zi"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for (text, expected) in [
            ("1048576", 1 << 20),
            ("1.5e8", 150_000_000),
            ("64Mi", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("512m", 512 << 20),
            ("512mb", 512 << 20),
            ("512MB", 512_000_000),
            ("5M", 5_000_000),
            ("1g", 1 << 30),
            ("1,5 GiB", 3 << 29),
            ("1,234,567", 1_234_567),
            ("12.5kB", 12_500),
            ("4KiB", 4096),
            ("2k", 2000),
            ("128974848000m", 128_974_848),
            ("1048576000m", 1 << 20),
            ("4096000m", 4096),
            ("2097152m", 2 << 40),
            ("0B", 0),
            ("41.943.040", 41_943_040),
            ("41.943.040,5", 41_943_040),
            ("1.234,5 KiB", 1_264_128),
            ("41 943 040 B", 41_943_040),
            ("41\u{202f}943\u{202f}040", 41_943_040),
            ("41'943'040", 41_943_040),
            ("1 234,5 kB", 1_234_500),
            ("40\u{a0}MiB", 40 << 20),
            ("41.9 Mil", 41_900_000),
            ("1.5 Bil", 1_500_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in [
            "", "Mi", "-1", "NaN", "inf", "1Zi", "1,234", "0.5", "1e30", "9E", "5 apples", "0x10", "1.2.3",
            "12 34", "1 2", "1234 567", "1.234.56", "12.34,5",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size(&"9x".repeat(5000)).is_err_and(|why| why.len() < 200));
        for text in ["0", "0Mi", "0.5", "1.5", "512.5m512"] {
            assert!(parse_limit(text).is_err(), "{text}");
        }
        assert_eq!(parse_limit("512m"), Ok(512 << 20));
        assert_eq!(Seconds(0.314).to_string(), "0.31 s");
        assert_eq!(Seconds(95.4).to_string(), "95 s");
    }
}
