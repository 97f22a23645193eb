//! The small file in which the histories outlive the daemon. Events at start, a write now and then.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use observer_core::{
    model::{
        event::{Event, EventKind},
        time::Time,
    },
    workload::{
        history::{Histories, PastStartup, Workload},
        usage_histogram::Levels,
    },
};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    workloads: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    workload: Workload,
    startups: Vec<PastStartup>,
    #[serde(default)]
    levels: Levels,
}

#[derive(Debug, thiserror::Error)]
pub enum CannotRestore {
    #[error("cannot read the state in {path}: {source}; it starts without the workloads' histories")]
    Read { path: PathBuf, source: io::Error },
    #[error("the state in {path} is not usable: {why}; it is kept as {kept}, and histories start anew")]
    Broken { path: PathBuf, why: String, kept: PathBuf },
}

/// What the last run kept, as events. A file that is not there yet is an empty one.
pub fn restore(path: &Path, at: Time) -> Result<Vec<Event>, CannotRestore> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CannotRestore::Read { path: path.to_owned(), source }),
    };
    let broken = |why: String| {
        let kept = path.with_extension("broken");
        let _ = fs::rename(path, &kept); // it would be written over; if it cannot be moved either, so be it
        CannotRestore::Broken { path: path.to_owned(), why, kept }
    };
    let contents: Contents = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if contents.version != VERSION {
        return Err(broken(format!("version {}, expected {VERSION}", contents.version)));
    }
    let event = |Entry { workload, startups, levels }| Event {
        at,
        what: EventKind::History { workload, startups, levels },
    };
    Ok(contents.workloads.into_iter().map(event).collect())
}

/// Writes beside and renames: a crash leaves the old file or the new one.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, contents)?;
    fs::rename(beside, path)
}

/// What the file holds.
pub fn contents(histories: &Histories) -> io::Result<Vec<u8>> {
    let entry = |(workload, startups): (&Workload, &[PastStartup])| Entry {
        workload: workload.clone(),
        startups: startups.to_vec(),
        levels: histories.levels(workload).cloned().unwrap_or_default(),
    };
    let contents = Contents { version: VERSION, workloads: histories.iter().map(entry).collect() };
    serde_json::to_vec(&contents).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_core::workload::history::StartupOutcome;

    #[test]
    fn what_is_saved_is_restored_and_what_is_broken_is_kept_aside() {
        let directory = std::env::temp_dir().join(format!("observer-state-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("state.json");
        assert!(restore(&path, Time::default()).unwrap().is_empty());

        let labels =
            observer_core::attribution::cgroup_path::Labels { workload: "web".into(), ..Default::default() };
        let past = PastStartup {
            started: 1.5,
            pod: "web-1".into(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak: 7,
            peak_seconds: 0.5,
            unreclaimable_peak: 6,
            growth: 14.0,
            time_to_stable: Some(1.0),
            steady: None,
            overshoot: None,
            span: 0.05,
            curve: vec![1, 7],
        };
        let mut histories = Histories::default();
        histories.remember(&Workload::of(&labels), past.clone());
        write(&path, &contents(&histories).unwrap()).unwrap();
        let events = restore(&path, Time::default()).unwrap();
        let [Event { what: EventKind::History { startups, .. }, .. }] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(*startups, [past]);

        fs::write(&path, "{").unwrap();
        assert!(matches!(restore(&path, Time::default()), Err(CannotRestore::Broken { .. })));
        assert!(directory.join("state.broken").exists());
        fs::remove_dir_all(directory).unwrap();
    }
}
