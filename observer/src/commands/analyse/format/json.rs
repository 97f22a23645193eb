//! What the JSON formats share.

use serde_json::Value;

use super::super::{
    clock::Stamp,
    rows::{BadInput, Rows, bounded},
};

/// A line may begin with a time in brackets instead: `[2024-05-21 16:00:00] web-0 5m 40Mi`.
pub fn is_json(head: &str) -> bool {
    let head = head.trim_start();
    let first = head.lines().next().unwrap_or_default();
    head.starts_with(['{', '[']) && !(head.starts_with('[') && Stamp::split(first).is_some())
}

/// Whether a field of this name holds an object, not a number.
pub fn has_object(head: &str, name: &str) -> bool {
    let name = format!("\"{name}\"");
    head.match_indices(&name).any(|(at, _)| {
        let value = head[at + name.len()..].trim_start().strip_prefix(':');
        value.is_some_and(|value| value.trim_start().starts_with('{'))
    })
}

pub fn refused(what: &str, error: &serde_json::Error) -> BadInput {
    BadInput::File(format!("not {what}: {}", bounded(&error.to_string())))
}

/// Whether the file ends within a value, as where its writer was killed: the values before it, if there are `any`, are
/// read, and a note says so.
pub fn is_cut(error: &serde_json::Error, any: bool, rows: &mut Rows) -> bool {
    let is_cut = any && error.is_eof();
    if is_cut {
        rows.note("the file ends within a record, which is left out".to_owned());
    }
    is_cut
}

/// Whole bytes; a float where an exporter writes 1.5e8.
pub fn bytes(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value.as_u64().or_else(|| value.as_f64().filter(|bytes| *bytes >= 0.0).map(|bytes| bytes as u64))
}
