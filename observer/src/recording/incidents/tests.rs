use std::{fs, io::BufReader, path::Path, sync::mpsc::sync_channel};

use observer_core::{model::finding::FindingKind, pipeline::Pipeline};

use super::*;
use crate::recording::replay::replay;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("observer-incidents-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn case(name: &str) -> PathBuf {
    format!("{}/../tests/cases/{name}/events.jsonl", env!("CARGO_MANIFEST_DIR")).into()
}

/// As the daemon does: a recording's events, live.
async fn live(settings: Settings, events: &Path) -> u64 {
    let mut incidents = Incidents::new(settings).unwrap();
    let mut pipeline = Pipeline::default();
    let mut last = Time::default();
    for line in fs::read_to_string(events).unwrap().lines() {
        let event: Event = serde_json::from_str(line).unwrap();
        last = event.at;
        incidents.take(&event);
        for finding in pipeline.step(&event) {
            if let FindingKind::OomKilled(killed) = &finding.what {
                incidents.killed(finding.at, killed);
            }
        }
        if matches!(event.what, EventKind::Tick) {
            incidents.tick(event.at, pipeline.histories());
            let (answer, written) = sync_channel(1);
            incidents.to.send(Message::Written(answer)).unwrap();
            written.recv().unwrap();
        }
    }
    let lost = incidents.lost();
    incidents.finish(last, pipeline.histories()).await;
    lost
}

/// Each kill of a recording, without what depends on when the recording began.
fn kills(events: &Path) -> Vec<String> {
    let mut kills = Vec::new();
    replay(BufReader::new(fs::File::open(events).unwrap()), |finding| {
        if let FindingKind::OomKilled(killed) = &finding.what {
            let labels = killed.container.as_ref().map(|container| container.labels.clone());
            kills.push(format!(
                "{:?} {:?} {:?} {} {} {} {:?} {} {}",
                finding.at,
                labels,
                killed.scope,
                killed.victim_pid,
                killed.victim_command,
                killed.usage,
                killed.limit,
                killed.invoker_command,
                killed.kills
            ));
        }
    })
    .unwrap();
    kills
}

fn settings(folder: &Path, window: u64, bytes: u64) -> Settings {
    Settings { folder: folder.to_owned(), window: Duration::from_secs(window), bytes, files: 3 }
}

#[tokio::test]
async fn a_kill_is_the_same_in_the_recording_of_its_last_seconds() {
    for (name, window) in [
        ("killed_by_the_shared_limit", 300),
        ("killed_by_the_shared_limit", 3),
        ("killed_while_starting_then_again", 4),
        ("kubernetes_killed_before_a_status_names_it", 16),
        ("kubernetes_scale_up_while_the_api_is_silent", 60),
        ("kubernetes_restarts", 20),
    ] {
        let folder = folder(name);
        assert_eq!(live(settings(&folder, window, 32 << 20), &case(name)).await, 0, "{name}");
        let of_live = kills(&case(name));
        let mut of_incidents = Vec::new();
        let all = kept(&folder).unwrap();
        assert!(!all.is_empty(), "{name}");
        for one in &all {
            let about = one.about.as_ref().unwrap();
            assert!(about.until - about.from < 2.5 * window as f64 + 20.0, "{name}: {about:?}");
            of_incidents.extend(kills(&one.path));
        }
        for kill in &of_live {
            assert!(of_incidents.contains(kill), "{name}: {kill} is not in {of_incidents:#?}");
        }
        assert_eq!(fs::read_dir(folder.join("ring")).unwrap().count(), 0, "{name}: the ring is left");
        fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test]
async fn the_ring_and_the_recordings_are_bounded() {
    let folder = folder("bounded");
    let bytes = 64 << 10;
    for _ in 0..5 {
        live(settings(&folder, 300, bytes), &case("kubernetes_killed_before_a_status_names_it")).await;
    }
    let all = kept(&folder).unwrap();
    assert_eq!(all.len(), 3);
    for one in &all {
        assert!(one.bytes < 3 * bytes, "{} bytes: {:?}", one.bytes, one.about);
        assert!(replay(BufReader::new(fs::File::open(&one.path).unwrap()), |_| {}).is_ok());
    }
    let files = fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, 3 * 2 + 1, "of old recordings nothing is left");
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn without_a_kill_there_is_no_recording_and_a_folder_that_cannot_be_is_an_error() {
    let folder = folder("none");
    live(settings(&folder, 300, 1 << 20), &case("spike_settles")).await;
    assert!(kept(&folder).unwrap().is_empty());
    fs::write(folder.join("file"), "").unwrap();
    assert!(Incidents::new(settings(&folder.join("file"), 300, 1 << 20)).is_err());
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_counted_and_the_next_part_begins_anew() {
    let folder = folder("full");
    let mut incidents = Incidents::new(settings(&folder, 300, 1 << 20)).unwrap();
    fs::remove_dir_all(folder.join("ring")).unwrap(); // as good as a full disk
    let mut lines = fs::read_to_string(case("spike_settles")).unwrap();
    let count = lines.lines().count() as u64;
    let mut last = Time::default();
    for line in lines.split_off(0).lines() {
        let event: Event = serde_json::from_str(line).unwrap();
        last = event.at;
        incidents.take(&event);
        if matches!(event.what, EventKind::Tick) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            incidents.tick(event.at, &Histories::default());
        }
    }
    let lost = incidents.lost();
    assert!(lost > count / 2 && lost <= count, "{lost} of {count}");
    incidents.finish(last, &Histories::default()).await;
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_preface_is_the_state_of_the_host_as_events() {
    let mut preface = Preface::default();
    let events = fs::read_to_string(case("kubernetes_scale_up_while_the_api_is_silent")).unwrap();
    let mut last = Time::default();
    for line in events.lines() {
        let event: Event = serde_json::from_str(line).unwrap();
        preface.take(&event.what);
        last = event.at;
    }
    let mut lines = String::new();
    preface.events(last, |event| lines += &(serde_json::to_string(event).unwrap() + "\n"));
    let metrics = replay(lines.as_bytes(), |_| {}).unwrap().metrics;
    let whole = replay(events.as_bytes(), |_| {}).unwrap().metrics;
    let living = |metrics: &str| {
        metrics.lines().filter(|line| line.starts_with("observer_container_memory_usage_bytes")).count()
    };
    assert!(living(&metrics) > 0 && living(&metrics) == living(&whole), "{metrics}");
}
