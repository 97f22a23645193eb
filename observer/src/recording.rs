//! Events to a file and back; what is remembered of workloads over restarts.

use std::path::Path;

pub mod folder;
pub mod history_file;
pub mod incidents;
pub mod kill_journal;
pub mod pace;
pub mod replay;
pub mod serve;
pub mod writer;

/// As a recording is called where it is shown: the folder distinguishes one `events.jsonl` from another.
pub fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}
