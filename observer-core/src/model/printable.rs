//! Text of others, made fit for one line of a log, a story or a terminal.
//!
//! Names of processes, groups, pods and files are chosen by users and programs: a line feed in one would forge a line,
//! an escape sequence would be obeyed by the terminal, and a right-to-left mark would reorder what follows it.

use std::borrow::Cow;

/// Control characters, line and paragraph separators, and marks of direction, written out as `\n` or `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for one in text.chars() {
        match is_hostile(one) {
            true => safe.extend(one.escape_default()),
            false => safe.push(one),
        }
    }
    Cow::Owned(safe)
}

fn is_hostile(one: char) -> bool {
    one.is_control()
        || matches!(one,
            '\u{200b}'..='\u{200f}' // invisible, and marks of direction
            | '\u{2028}'..='\u{202e}' // separators, embeddings and overrides
            | '\u{2060}'..='\u{206f}' // invisible operators, isolates, obsolete marks
            | '\u{fff9}'..='\u{fffb}' // annotations
            | '\u{e0000}'..='\u{e007f}' // tags: invisible letters
            | '\u{ad}' | '\u{061c}' | '\u{180e}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_or_a_parser_obeys_is_written_out() {
        let table = [
            ("a\n2026 ERROR x", "a\\n2026 ERROR x"),
            ("\u{1b}[31mX\u{7f}", "\\u{1b}[31mX\\u{7f}"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
            ("a\u{e0041}\u{ad}b", "a\\u{e0041}\\u{ad}b"),
            ("r\rOK\u{85}", "r\\rOK\\u{85}"),
            ("tmux: server (\u{540c}) \\ \"x\"", "tmux: server (\u{540c}) \\ \"x\""),
        ];
        for (text, expected) in table {
            assert_eq!(printable(text), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn it_is_one_line_without_control_characters(text in "\\PC{0,20}|[\\x00-\\x9f\u{2028}\u{202e}]{0,20}") {
            let safe = printable(&text);
            let hostile = safe.chars().any(|one| one.is_control() || one == '\u{2028}');
            proptest::prop_assert_eq!(hostile, false);
            proptest::prop_assert_eq!(safe.lines().count() <= 1, true);
        }
    }
}
