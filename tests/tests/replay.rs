//! Replay cases: a folder each, with recorded events and the findings they must lead to.
//!
//! `cases/<name>/events.jsonl` was recorded by `observer run --record` (a line in its `about.md` says where and how);
//! `story.snap` is what `observer replay --story` prints of it, `metrics.snap` what /metrics says after it. A change of
//! either is a changed product: accept it with `INSTA_UPDATE=always` and say why in the commit.

use std::{collections::BTreeMap, fs::File, io::BufReader};

use observer::{
    recording::replay,
    sinks::{
        log,
        metrics::{Metrics, Page},
    },
};
use serde_json::Value;

#[test]
fn every_recorded_case_has_its_story_and_its_metrics() {
    insta::glob!("../cases", "*/events.jsonl", |events| {
        let mut began = None;
        let mut story = String::new();
        let replayed = replay::replay(BufReader::new(File::open(events).unwrap()), |finding| {
            let began = *began.get_or_insert(finding.at);
            if let Some(line) = log::line(finding) {
                story.push_str(&format!("{:>9.3} s  {line}\n", finding.at.seconds_since(began)));
            }
        })
        .unwrap();
        assert!(!replayed.cut, "{}", events.display());
        let case = events.parent().unwrap();
        insta::with_settings!({ snapshot_path => case, prepend_module_to_snapshot => false, snapshot_suffix => "", omit_expression => true }, {
            insta::assert_snapshot!("story", story);
            insta::assert_snapshot!("metrics", reviewable(&replayed.metrics));
        });
    });
}

/// Series of one container and of one container of a workload, all that happened to it included, counted from what a
/// scrape brings.
#[test]
fn a_container_has_at_most_14_series_and_a_workload_20() {
    let mut counted = BTreeMap::new();
    for case in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")).unwrap() {
        let events = case.unwrap().path().join("events.jsonl");
        let metrics = Metrics::default();
        replay::replay_into(&metrics, BufReader::new(File::open(&events).unwrap()), |_| {}, |_| {}).unwrap();
        for line in metrics.render(Page::Current).lines().filter(|line| !line.starts_with('#')) {
            let (name, labels) = line.split_once('{').unwrap_or((line, ""));
            let label = |of: &str| {
                let (_, rest) = labels.split_once(&format!("{of}=\""))?;
                Some(rest.split_once('"')?.0.to_owned())
            };
            let of = match name.split('_').nth(1) {
                Some("container") => ["namespace", "pod", "container"].map(label),
                _ => ["namespace", "workload", "container"].map(label),
            };
            if of[1].is_some() || of[2].is_some() {
                let container = name.starts_with("observer_container_");
                *counted.entry((events.clone(), container, of)).or_insert(0) += 1;
            }
        }
    }
    assert!(counted.len() > 100, "{}", counted.len());
    for ((case, container, of), series) in counted {
        let most = if container { 14 } else { 20 };
        assert!(series <= most, "{series} series of {of:?} in {}", case.display());
    }
}

/// To six decimals: the order in which numbers were added is not part of the product.
fn rounded(sample: &str) -> String {
    match sample.rsplit_once(' ').map(|(series, value)| (series, value.parse::<f64>())) {
        Some((series, Ok(value))) if value.is_finite() => format!("{series} {}", (value * 1e6).round() / 1e6),
        _ => sample.to_owned(),
    }
}

/// What depends on the machine and the version that recorded, not on what happened there.
const OF_THE_OBSERVER: [&str; 4] = ["build_info", "probe_status", "resident_memory", "cpu_seconds"];

/// The samples that say something: none at 0, none of the observer itself, of a histogram count and sum.
fn reviewable(exposition: &str) -> String {
    let says_something = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let of_the_observer = OF_THE_OBSERVER.iter().any(|part| name.contains(part));
        !line.starts_with('#') && !line.ends_with(" 0") && !name.ends_with("_bucket") && !of_the_observer
    };
    let mut samples: Vec<String> = exposition.lines().filter(says_something).map(rounded).collect();
    samples.sort_unstable();
    samples.join("\n")
}

/// What is said of a recording, without the times at which it was said; of causes without how sure they are: a clock
/// that is off takes evidence away.
fn reported(events: &str) -> Vec<String> {
    let mut lines = Vec::new();
    replay::replay(events.as_bytes(), |finding| lines.extend(log::line(finding)))
        .unwrap_or_else(|error| panic!("{error}"));
    let cause = |line: String| match line.split_once(" (confidence 0.") {
        Some((cause, _)) if cause.contains("because of") => cause.to_owned(),
        _ => line,
    };
    lines.into_iter().map(cause).collect()
}

/// Every pod reported several times, pods that went before they were seen, and an API server whose clock is 5 s off:
/// the same causes, and nothing counted twice.
#[test]
fn relists_and_an_api_clock_5_s_off_change_nothing() {
    let case =
        concat!(env!("CARGO_MANIFEST_DIR"), "/cases/kubernetes_autoscaled_without_ledger/events.jsonl");
    let events = std::fs::read_to_string(case).unwrap();
    let expected: Vec<String> = reported(&events);
    for skew in [-5.0, 0.0, 5.0] {
        let mut disturbed = String::new();
        let mut pods: Vec<Value> = Vec::new();
        for line in events.lines() {
            let mut event: Value = serde_json::from_str(line).unwrap();
            shift(&mut event, skew);
            disturbed += &format!("{event}\n");
            if !event["what"]["pod"].is_null() {
                pods.retain(|known| known["what"]["pod"]["uid"] != event["what"]["pod"]["uid"]);
                pods.push(event.clone());
            } else if !event["what"]["pod_gone"].is_null() {
                pods.retain(|known| known["what"]["pod"]["uid"] != event["what"]["pod_gone"]["uid"]);
            } else if event["what"] == "tick" {
                let at = &event["at"];
                for pod in &mut pods {
                    pod["at"] = at.clone();
                    disturbed += &format!("{pod}\n");
                }
                disturbed +=
                    &format!("{{\"at\":{at},\"what\":{{\"pod_gone\":{{\"uid\":\"nobody-saw-it\"}}}}}}\n");
            }
        }
        assert_eq!(reported(&disturbed), expected, "skew {skew}");
    }
}

/// Moves the times the API server wrote.
fn shift(value: &mut Value, seconds: f64) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if matches!(name.as_str(), "created" | "controller_wrote" | "finished" | "stepped")
                    && let Some(time) = value.as_f64()
                {
                    *value = (time + seconds).into();
                } else {
                    shift(value, seconds);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| shift(value, seconds)),
        _ => {}
    }
}
