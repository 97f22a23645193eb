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

/// Bytes as Kubernetes writes them: `1048576`, `64Mi`, `1.5Gi`, `500M`, `1e6` (apimachinery pkg/api/resource/quantity.go).
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
        assert_eq!(Seconds(0.314).to_string(), "0.31 s");
        assert_eq!(Seconds(95.4).to_string(), "95 s");
    }
}
