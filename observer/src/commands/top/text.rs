//! Text of others and amounts, in a given number of columns.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use observer_core::model::{printable::printable, units::Bytes};

/// Cut in the middle: both ends of a name tell it from others; of a path, the end does.
pub fn name(text: &str, columns: usize) -> String {
    let text = printable(text);
    if text.width() <= columns {
        return text.into_owned();
    }
    let Some(rest) = columns.checked_sub(1) else { return String::new() };
    if text.starts_with('/') {
        let tail = take(text.chars().rev(), rest);
        return ['…'].into_iter().chain(tail.into_iter().rev()).collect();
    }
    let tail: Vec<char> = take(text.chars().rev(), rest / 2);
    let head: Vec<char> = take(text.chars(), rest - rest / 2);
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect()
}

/// Cut at the end.
pub fn start(text: &str, columns: usize) -> String {
    let text = printable(text);
    if text.width() <= columns {
        return text.into_owned();
    }
    let Some(rest) = columns.checked_sub(1) else { return String::new() };
    take(text.chars(), rest).into_iter().chain(['…']).collect()
}

fn take(chars: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut left = columns;
    let fits = |one: &char| match left.checked_sub(one.width().unwrap_or(0)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    chars.take_while(fits).collect()
}

/// In lines of so many columns, at spaces where there are some; a line keeps its indent.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let indent = indent.min(columns / 2);
        let (mut current, mut empty) = (" ".repeat(indent), true);
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            let mut word = word;
            loop {
                let gap = usize::from(!empty);
                if current.width() + gap + word.width() <= columns {
                    current += &" ".repeat(gap);
                    current += word;
                    empty = false;
                    break;
                }
                if !empty {
                    lines.push(std::mem::replace(&mut current, " ".repeat(indent + 2)));
                    empty = true;
                    continue;
                }
                let head: String = take(word.chars(), columns - current.width()).into_iter().collect();
                let Some(rest) = word.get(head.len()..).filter(|_| !head.is_empty()) else { break };
                lines.push(std::mem::replace(&mut current, " ".repeat(indent + 2)) + &head);
                word = rest;
            }
        }
        lines.push(current);
    }
    lines
}

/// At most six columns: `1.50Gi`, `64Mi`, `0`.
pub fn bytes(bytes: u64) -> String {
    Bytes(bytes).to_string().replace(' ', "").trim_end_matches('B').to_owned()
}

/// At most five columns: `3.2s`, `42s`, `12m`, `5.1h`, `30d`.
pub fn age(seconds: f64) -> String {
    match seconds.max(0.0) {
        s if s < 9.95 => format!("{s:.1}s"),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 35_000.0 => format!("{:.1}h", s / 3600.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", (s / 86_400.0).min(9999.0)),
    }
}

/// Highest of each part, as blocks whose full height is `top`.
pub fn sparkline(levels: &[u64], top: u64, columns: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if levels.is_empty() || columns == 0 {
        return String::new();
    }
    // A start-up with fewer spans than there are columns is drawn as wide as it is, not stretched.
    let columns = columns.min(levels.len());
    let part = |column: usize| {
        let (from, until) = (column * levels.len() / columns, (column + 1) * levels.len() / columns);
        levels.get(from..until).and_then(|part| part.iter().max()).copied().unwrap_or(0)
    };
    let block = |level: u64| {
        let height = (level as f64 / top.max(1) as f64 * BLOCKS.len() as f64).ceil() as usize;
        if level == 0 { ' ' } else { BLOCKS[height.clamp(1, BLOCKS.len()) - 1] }
    };
    (0..columns).map(|column| block(part(column))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_both_ends_and_its_columns() {
        let table = [
            ("shop/web", 20, "shop/web"),
            ("shop/web-7d9f-abcde/main", 12, "shop/w…/main"),
            ("同同同同同同", 7, "同…同"),
            ("a\u{1b}[2J", 20, "a\\u{1b}[2J"),
            ("gpj.\u{202e}exe", 8, "gpj.…exe"),
            ("/system.slice/web.service", 12, "…web.service"),
            ("x", 0, ""),
        ];
        for (text, columns, expected) in table {
            assert_eq!(name(text, columns), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_wider_than_asked(text in "\\PC{0,60}|[a同\u{301}\u{202e}\u{1b}\n ]{0,60}", columns in 0usize..50) {
            proptest::prop_assert!(name(&text, columns).width() <= columns);
            proptest::prop_assert!(start(&text, columns).width() <= columns);
            for line in wrap(&printable(&text), columns) {
                proptest::prop_assert!(line.width() <= columns.max(8), "{line:?}");
            }
        }
    }

    #[test]
    fn a_line_wraps_at_spaces_and_loses_nothing() {
        let line = "    cause oom_kill_restart: the one before it was killed";
        let wrapped = wrap(line, 24);
        assert!(wrapped.len() > 1 && wrapped[0].starts_with("    cause"), "{wrapped:?}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&wrapped.join(" ")), words(line));
        assert_eq!(wrap(&"x".repeat(30), 10).concat().replace(' ', ""), "x".repeat(30));
    }

    #[test]
    fn a_curve_keeps_its_peak_and_is_measured_by_its_limit() {
        assert_eq!(sparkline(&[1, 2, 4, 8], 8, 10), "▁▂▄█");
        assert_eq!(sparkline(&[0, 1, 0, 0, 0, 100, 0, 0], 100, 4), "▁ █ ");
        assert_eq!(sparkline(&[8, 8], 80, 4), "▁▁");
        assert_eq!(sparkline(&[], 8, 4), "");
        for seconds in [0.0, 9.94, 9.96, 59.9, 119.9, 120.0, 7200.0, 34_999.0, 35_000.0, 172_800.0, 1e12] {
            assert!(age(seconds).len() <= 5, "{}", age(seconds));
        }
        for size in [0, 1023, 1024, 1_048_575, 1 << 20, 102_400_000, 1 << 40, 999 << 30] {
            assert!(bytes(size).len() <= 6, "{}", bytes(size));
        }
    }
}
