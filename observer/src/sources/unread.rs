//! Reads that failed: each counted, each kind of error logged once. What could not be read is unknown, never gone.

use std::{collections::HashSet, io};

pub struct Unread {
    what: &'static str,
    total: u64,
    logged: HashSet<(io::ErrorKind, Option<i32>)>,
}

impl Unread {
    pub fn new(what: &'static str) -> Self {
        Self { what, total: 0, logged: HashSet::new() }
    }

    pub fn count(&mut self, error: &io::Error) {
        self.count_at("", error);
    }

    pub fn count_at(&mut self, path: &str, error: &io::Error) {
        self.total += 1;
        if self.logged.insert((error.kind(), error.raw_os_error())) {
            let at = if path.is_empty() { String::new() } else { format!(" at {path:?}") };
            tracing::warn!(
                "cannot read {}{at}: {error}; counted in observer_lost_records_total, and what was known stays",
                self.what
            );
        }
    }

    /// Since the start.
    pub fn total(&self) -> u64 {
        self.total
    }
}
