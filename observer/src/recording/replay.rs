//! A recording -> the same findings and metrics the live run had. The second of the two wirings.

use std::io::{self, BufRead};

use crate::sinks::metrics::Metrics;
use observer_core::{
    model::{
        event::{Event, EventKind},
        finding::Finding,
        time::Time,
    },
    pipeline::Pipeline,
};

#[derive(Debug, thiserror::Error)]
pub enum BadRecording {
    #[error("line {line}: cannot read: {source}")]
    Unreadable { line: u64, source: io::Error },
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
    let mut text = String::new();
    loop {
        text.clear();
        let line = replayed.events + 1;
        if recording.read_line(&mut text).map_err(|source| BadRecording::Unreadable { line, source })? == 0 {
            break;
        }
        let event: Event = match serde_json::from_str(&text) {
            Ok(event) => event,
            Err(_) if !text.ends_with('\n') && line > 1 => {
                replayed.cut = true;
                break;
            }
            Err(source) => return Err(BadRecording::NotAnEvent { line, source }),
        };
        if line == 1 && !matches!(event.what, EventKind::Host(_)) {
            return Err(BadRecording::NoHost);
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
