//! Lines to standard error: progress of a command, and why it failed.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes one line. Its reader may be gone (`observer ... 2>&1 | head`): then the line is dropped, where `eprintln!`
/// would panic.
pub fn notice(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
