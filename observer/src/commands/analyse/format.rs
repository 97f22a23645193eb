//! The known formats: each is recognised by its own shape and read in a file of its own.

use std::io::BufRead;

use super::rows::{BadInput, Rows};

mod cadvisor;
mod crictl;
mod csv;
mod docker_stats;
mod exposition;
mod json;
mod kubectl_top;
mod kubernetes;
mod loop_values;
mod mprof;
mod pidstat;
mod processes;
mod prometheus;
mod psrecord;
mod records;
mod victoriametrics;

pub struct Format {
    pub name: &'static str,
    /// For a file without a reading.
    pub expects: &'static str,
    recognises: fn(head: &str) -> bool,
    pub read: fn(&mut dyn BufRead, &mut Rows) -> Result<(), BadInput>,
}

/// The most particular shape first.
const ALL: [&Format; 17] = [
    &docker_stats::JSON,
    &victoriametrics::FORMAT,
    &prometheus::FORMAT,
    &kubernetes::FORMAT,
    &cadvisor::FORMAT,
    &exposition::FORMAT,
    &records::FORMAT,
    &mprof::FORMAT,
    &psrecord::FORMAT,
    &pidstat::FORMAT,
    &processes::STATUS,
    &processes::TABLE,
    &loop_values::FORMAT,
    &crictl::FORMAT,
    &kubectl_top::FORMAT,
    &docker_stats::TABLE,
    &csv::FORMAT,
];

pub fn of(head: &str) -> Result<&'static Format, BadInput> {
    let found = ALL.iter().find(|format| (format.recognises)(head));
    found.copied().ok_or_else(|| {
        BadInput::File("not a known recording; see docs/recording.md for how to make one".to_owned())
    })
}
