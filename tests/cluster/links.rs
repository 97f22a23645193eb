//! Whether every OOM kill is reported, and how soon it is tied to its victim's scale-up: after the kill, and
//! after the status in which the pod's container is first named.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::scenes::{self, STORM};

/// After the status.
const WITHIN_SECONDS: f64 = 2.0;

#[derive(Default)]
pub struct Links {
    /// Of each linked kill: seconds from the kill, and from the first status that names a container of the pod (none:
    /// the link came before).
    seconds: Vec<(f64, Option<f64>)>,
    /// Pods of which fewer kills were reported than they were restarted after.
    short: Vec<String>,
    /// Kills of a scale-up's start-ups that were linked to nothing.
    without: usize,
}

/// Of the scene with the kills: a kill belongs to a scale-up if its container's start was reported to be of one.
pub fn links(findings: &[Value], recording: &Path) -> Result<Links> {
    let storm = scenes::namespace(STORM);
    let mut of_scale_up: HashMap<u64, bool> = HashMap::new();
    // Cgroup, time, how many.
    let mut kills: Vec<(u64, u64, usize)> = Vec::new();
    let mut linked: HashMap<u64, u64> = HashMap::new();
    let mut pods: HashMap<u64, String> = HashMap::new();
    for finding in findings {
        let container = &finding["container"];
        let (Some(at), Some(cgroup)) = (finding["at"].as_u64(), container["cgroup"].as_u64()) else {
            continue;
        };
        if container["namespace"] != storm.as_str() {
            continue;
        }
        pods.insert(cgroup, container["pod"].as_str().unwrap_or_default().to_owned());
        match finding["finding"].as_str() {
            Some("caused") => {
                of_scale_up.insert(cgroup, finding["decision"]["scaled"].is_object());
            }
            Some("oom_killed") => kills.push((cgroup, at, finding["kills"].as_u64().unwrap_or(1) as usize)),
            Some("oom_linked") if finding["role"] == "victim" => {
                linked.entry(cgroup).or_insert(at);
            }
            _ => {}
        }
    }
    let statuses = statuses(recording)?;
    let mut links = Links::default();
    for (pod, status) in &statuses {
        let of_it = kills.iter().filter(|(cgroup, ..)| pods.get(cgroup) == Some(pod));
        let reported: usize = of_it.map(|(.., times)| times).sum();
        let restarts = status.restarts.saturating_sub(status.not_killed.len());
        if reported < restarts {
            links.short.push(format!(
                "{pod} was restarted {restarts} times after a kill, and {reported} were reported"
            ));
        }
    }
    for (cgroup, killed, _) in kills.into_iter().filter(|(cgroup, ..)| of_scale_up.get(cgroup) == Some(&true))
    {
        let Some(linked) = linked.get(&cgroup) else {
            links.without += 1;
            continue;
        };
        let since = |from: u64| linked.checked_sub(from).map(|nanoseconds| nanoseconds as f64 / 1e9);
        let status = pods.get(&cgroup).and_then(|pod| statuses.get(pod)).and_then(|status| {
            // A container started again is killed long after the pod's first status.
            since(status.named?.max(killed))
        });
        links.seconds.push((since(killed).unwrap_or_default(), status));
    }
    Ok(links)
}

/// What the statuses of a pod reported.
#[derive(Default)]
struct Status {
    /// When the first that names a container came.
    named: Option<u64>,
    restarts: usize,
    /// Ids of the containers that ended otherwise than by SIGKILL: a runtime too busy to start one.
    not_killed: BTreeSet<String>,
}

/// The exit code of a container whose process was killed by SIGKILL.
pub const KILLED: i64 = 128 + 9;

fn statuses(recording: &Path) -> Result<BTreeMap<String, Status>> {
    let storm = scenes::namespace(STORM);
    let mut statuses: BTreeMap<String, Status> = BTreeMap::new();
    let file = File::open(recording).with_context(|| format!("cannot open {}", recording.display()))?;
    for line in BufReader::new(file).lines() {
        let event: Value = serde_json::from_str(&line?)?;
        let pod = &event["what"]["pod"];
        if pod["namespace"] != storm.as_str() {
            continue;
        }
        let (Some(name), Some(at)) = (pod["name"].as_str(), event["at"].as_u64()) else { continue };
        let status = statuses.entry(name.to_owned()).or_default();
        for container in pod["containers"].as_array().into_iter().flatten() {
            if container["id"].is_string() {
                status.named.get_or_insert(at);
            }
            status.restarts = container["restarts"].as_u64().unwrap_or(0) as usize;
            let last = &container["last"];
            if let (Some(id), Some(code)) = (last["id"].as_str(), last["code"].as_i64())
                && code != KILLED
            {
                status.not_killed.insert(id.to_owned());
            }
        }
    }
    Ok(statuses)
}

impl Links {
    pub fn failure(&self) -> Option<String> {
        let late = |(_, status): &&(f64, Option<f64>)| status.is_some_and(|seconds| seconds > WITHIN_SECONDS);
        let late = self.seconds.iter().filter(late).count();
        if self.seconds.is_empty() {
            return Some("no OOM kill was tied to its scale-up".into());
        }
        if !self.short.is_empty() {
            return Some(self.short.join("; "));
        }
        (late + self.without > 0)
            .then(|| format!("of the scale-up's OOM kills {} were not tied to it, {late} late", self.without))
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.seconds.iter().map(|(kill, _)| *kill).fold(0.0, f64::max);
        let before = self.seconds.iter().filter(|(_, status)| status.is_none()).count();
        write!(
            f,
            "{} OOM kills tied to the scale-up that made their victim, {slowest:.2} s after the kill at the latest; {before} of them \
             before a status named the container",
            self.seconds.len()
        )?;
        match self.seconds.iter().filter_map(|(_, status)| *status).reduce(f64::max) {
            Some(after) => write!(f, ", the last {after:.2} s after it"),
            None => Ok(()),
        }
    }
}
