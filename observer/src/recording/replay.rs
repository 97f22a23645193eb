//! A recording -> the same findings and metrics the live run had. The second of the two wirings.

use std::io::{self, BufRead, Read};

use crate::sinks::metrics::Metrics;
use observer_core::{
    model::{
        event::{Event, EventKind},
        finding::Finding,
        time::Time,
    },
    pipeline::Pipeline,
};

/// Bytes. A longer line is no event, and is not read to its end: memory is bounded whatever the file is.
const LONGEST_LINE: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BadRecording {
    #[error("line {line}: cannot read: {source}")]
    Unreadable { line: u64, source: io::Error },
    #[error("line {line}: longer than {} MiB, so not an event; nothing after it was replayed", LONGEST_LINE >> 20)]
    TooLong { line: u64 },
    #[error(
        "line {line}: not an event of this version: {source}; observer {theirs} recorded it and this is {ours}: replay it with that version; nothing after it was replayed"
    )]
    AnotherVersion { line: u64, source: serde_json::Error, theirs: String, ours: &'static str },
    #[error(
        "line {line}: not an event: {source}; nothing after it was replayed; recordings are made by `observer run --record`"
    )]
    NotAnEvent { line: u64, source: serde_json::Error },
    #[error("line 1: the first event is not `host`; this is the middle of a recording, or none")]
    NoHost,
    #[error("it is empty: the recorder was killed before its first flush, or never ran")]
    Empty,
}

#[derive(Debug)]
pub struct Replayed {
    pub events: u64,
    pub findings: u64,
    pub metrics: String,
    /// The last line was cut: the recorder was killed while writing it.
    pub cut: bool,
}

/// Feeds every event to the pipeline; `each` is called with every finding.
pub fn replay(recording: impl BufRead, each: impl FnMut(&Finding)) -> Result<Replayed, BadRecording> {
    replay_into(&Metrics::default(), recording, |_| {}, each)
}

/// The same into these metrics; `before` is called with the time of each event, before it.
pub fn replay_into(
    metrics: &Metrics,
    mut recording: impl BufRead,
    mut before: impl FnMut(Time),
    mut each: impl FnMut(&Finding),
) -> Result<Replayed, BadRecording> {
    let mut pipeline = Pipeline::default();
    let mut replayed = Replayed { events: 0, findings: 0, metrics: String::new(), cut: false };
    let mut text = Vec::new();
    let mut recorder = None;
    loop {
        text.clear();
        let line = replayed.events + 1;
        let mut bounded = recording.by_ref().take(LONGEST_LINE);
        let read = bounded.read_until(b'\n', &mut text);
        match read.map_err(|source| BadRecording::Unreadable { line, source })? as u64 {
            0 => break,
            LONGEST_LINE => return Err(BadRecording::TooLong { line }),
            _ => {}
        }
        let event: Event = match serde_json::from_slice(&text) {
            Ok(event) => event,
            Err(_) if !text.ends_with(b"\n") && line > 1 => {
                replayed.cut = true;
                break;
            }
            Err(source) => return Err(not_an_event(line, source, recorder.or_else(|| version_in(&text)))),
        };
        if line == 1 {
            let EventKind::Host(host) = &event.what else { return Err(BadRecording::NoHost) };
            recorder = Some(host.observer_version.clone());
        }
        replayed.events += 1;
        before(event.at);
        for finding in pipeline.step(&event) {
            replayed.findings += 1;
            metrics.apply(&finding);
            each(&finding);
        }
    }
    if replayed.events == 0 {
        return Err(BadRecording::Empty);
    }
    replayed.metrics = metrics.everything();
    Ok(replayed)
}

fn not_an_event(line: u64, source: serde_json::Error, recorder: Option<String>) -> BadRecording {
    let ours = env!("CARGO_PKG_VERSION");
    match recorder {
        Some(theirs) if theirs != ours => BadRecording::AnotherVersion { line, source, theirs, ours },
        _ => BadRecording::NotAnEvent { line, source },
    }
}

/// Of a first event that this version cannot read.
fn version_in(first: &[u8]) -> Option<String> {
    let first: serde_json::Value = serde_json::from_slice(first).ok()?;
    first.pointer("/what/host/observer_version")?.as_str().map(|version| version.chars().take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = r#"{"at":1,"what":{"host":{"observer_version":"0","kernel":"k","cgroup":"v2","wall_offset_ns":0,"page_size":4096,"cpus":2,"memory_total":1,"retention_ns":1}}}"#;

    fn error(recording: &str) -> String {
        replay(recording.as_bytes(), |_| {}).unwrap_err().to_string()
    }

    #[test]
    fn a_broken_recording_names_its_line() {
        assert!(error("").contains("empty"));
        assert!(error("hello\n").starts_with("line 1: not an event"));
        assert!(error("{\"at\":1,\"what\":\"tick\"}\n").contains("host"));
        assert!(error(&format!("{HOST}\n{{\"at\":-1}}\n")).starts_with("line 2"));
        assert!(error(&format!("{HOST}\n{{\"at\":2,\"what\":{{\"warp\":1}}}}\n")).starts_with("line 2"));
    }

    #[test]
    fn a_recording_of_another_version_names_both() {
        let newer = r#"{"at":1,"what":{"host":{"observer_version":"9.1.0","form":"unknown"}}}"#;
        assert!(error(&format!("{newer}\n")).contains("observer 9.1.0 recorded it and this is"));
        let later = HOST.replace(r#""observer_version":"0""#, r#""observer_version":"9.1.0""#);
        let said = error(&format!("{later}\n{{\"at\":2,\"what\":{{\"warp\":1}}}}\n"));
        assert!(said.starts_with("line 2") && said.contains("9.1.0"), "{said}");
    }

    #[test]
    fn what_has_no_lines_is_not_read_to_its_end() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let said = replay(endless, |_| {}).unwrap_err().to_string();
        assert!(said.contains("longer than 64 MiB"), "{said}");
    }

    #[test]
    fn a_line_that_is_cut_inside_a_letter_is_cut() {
        let mut recording = format!("{HOST}\n{{\"at\":2,\"what\":{{\"x\":\"\u{e9}").into_bytes();
        recording.pop();
        assert!(replay(&recording[..], |_| {}).unwrap().cut);
    }

    #[test]
    fn a_cut_last_line_is_reported_and_the_rest_replayed() {
        let replayed = replay(format!("{HOST}\n{{\"at\":2,\"wh").as_bytes(), |_| {}).unwrap();
        assert!(replayed.cut);
        assert_eq!(replayed.events, 1);
        assert!(replayed.metrics.contains("observer_build_info"));
    }

    #[test]
    fn start_times_follow_a_wall_clock_that_is_set() {
        let events = [
            r#"{"at":1000000000,"what":{"cgroup_made":{"cgroup":7,"path":"/web.service"}}}"#,
            r#"{"at":2000000000,"what":{"cgroup_attached":{"cgroup":7,"path":"/web.service","pid":1}}}"#,
            r#"{"at":3000000000,"what":{"usage":{"cgroup":7,"usage":4096,"watermark":4096}}}"#,
            r#"{"at":4000000000,"what":{"clock_set":{"wall_offset_ns":100000000000}}}"#,
        ];
        let start = |events: &[&str]| {
            let recording = format!("{HOST}\n{}\n", events.join("\n"));
            let metrics = replay(recording.as_bytes(), |_| {}).unwrap().metrics;
            let is_start = |line: &&str| line.starts_with("observer_container_start_time_seconds{");
            let line = metrics.lines().find(is_start).unwrap();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert_eq!(start(&events[..3]), 2.0);
        assert_eq!(start(&events), 102.0);
    }
}
