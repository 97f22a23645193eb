//! Lines to standard error: progress of a command, and why it failed.

use std::{
    fmt::Display,
    io::{self, Write},
    path::Path,
};

use observer_core::model::printable::printable;

/// Writes one line, or one of several problems on each. Its reader may be gone (`observer ... 2>&1 | head`): then the
/// line is dropped, where `eprintln!` would panic.
pub fn notice(line: impl Display) {
    let text = line.to_string();
    let lines: Vec<_> = text.lines().map(printable).collect();
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// A path in a message: its name may hold a line feed.
pub fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_one_line() {
        assert_eq!(shown(Path::new("a\nb\u{1b}[2J")), "a\\nb\\u{1b}[2J");
    }
}
