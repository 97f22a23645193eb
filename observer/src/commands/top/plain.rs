//! What the terminal can show: without colour, and without Unicode, the same screen in other signs.

use ratatui::{buffer::Buffer, style::Color};

#[derive(Clone, Copy, Debug)]
pub struct Able {
    pub colour: bool,
    pub unicode: bool,
}

impl Able {
    /// Of the environment: `NO_COLOR` (no-color.org), `TERM`, and the locale where one is set.
    pub fn find(var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let utf8 = |locale: String| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        };
        // `kubectl exec` brings no TERM: the terminal is there, what it can do is not known.
        let plain = set("TERM").is_none_or(|term| term == "dumb" || term.starts_with("vt1"));
        Self { colour: set("NO_COLOR").is_none() && !plain, unicode: locale.is_none_or(utf8) }
    }

    pub fn apply(self, buffer: &mut Buffer) {
        for cell in &mut buffer.content {
            if !self.colour {
                (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
            }
            if !self.unicode && !cell.symbol().is_ascii() {
                let sign = ascii(cell.symbol());
                cell.set_char(sign);
            }
        }
    }
}

fn ascii(symbol: &str) -> char {
    match symbol.chars().next() {
        Some('▁') => '_',
        Some('▂') => '.',
        Some('▃') => '-',
        Some('▄') => '=',
        Some('▅') => '+',
        Some('▆') => '*',
        Some('▇') => '%',
        Some('█') => '#',
        Some('…') => '~',
        Some('│') => '|',
        Some('─') => '-',
        Some('└' | '┌' | '┐' | '┘') => '+',
        Some('·') => '-',
        Some('•') => 'o',
        Some('\u{2800}') => ' ',
        Some('\u{2801}'..='\u{28ff}') => '*',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_can_show() {
        let able = |set: &[(&str, &str)]| {
            let able = Able::find(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            });
            (able.colour, able.unicode)
        };
        assert_eq!(able(&[("TERM", "xterm-256color"), ("LANG", "en_US.UTF-8")]), (true, true));
        assert_eq!(able(&[("TERM", "xterm"), ("NO_COLOR", "1")]), (false, true));
        assert_eq!(able(&[("TERM", "xterm"), ("NO_COLOR", "")]), (true, true));
        assert_eq!(able(&[("TERM", "dumb")]), (false, true));
        assert_eq!(able(&[]), (false, true));
        assert_eq!(able(&[("TERM", "linux"), ("LANG", "C")]), (true, false));
        assert_eq!(able(&[("TERM", "linux"), ("LC_ALL", "POSIX"), ("LANG", "de_DE.UTF-8")]), (true, false));
        assert_eq!(able(&[("TERM", "linux"), ("LC_ALL", ""), ("LANG", "C.utf8")]), (true, true));
    }
}
