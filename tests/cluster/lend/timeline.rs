//! What pods with loans request and use over time. The truth is the API's, by a watch, and the kernel's counters.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use observer_core::model::units::parse_bytes;
use observer_tests::{
    cluster::Cluster,
    group::{Group, Tree},
};
use serde_json::Value;

use super::{MIB, NAMESPACE};

/// Between two readings of the kernel's counters: a peak is kept by the kernel itself.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Line {
    pub uid: String,
    /// Seconds since the beginning: when it was seen to have a node.
    pub bound: Option<f64>,
    pub running: Option<f64>,
    pub settled: Option<f64>,
    /// Its requests, and since when.
    pub requests: Vec<(f64, u64)>,
    /// How many of its containers' runs ended, as the API counts them.
    pub restarts: u64,
    pub usage: Vec<(f64, u64)>,
}

pub struct Timeline {
    pub seconds: f64,
    pub pods: BTreeMap<String, Line>,
    /// What all pods of the node use beyond what they used at the beginning.
    pub node: Vec<(f64, i64)>,
    /// As the kernel says them.
    pub kills: Vec<String>,
}

/// Follows the pods that a selector finds, from before they are made.
pub struct Watch {
    began: Instant,
    watching: Child,
    pods: Receiver<Value>,
    kernel: File,
    tree: Tree,
    all: Group,
    before: u64,
    line: Timeline,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.watching.kill(); // it may have ended
        let _ = self.watching.wait();
    }
}

impl Watch {
    pub fn of(cluster: &Cluster, selector: &str) -> Result<Self> {
        let mut watching = cluster
            .kubectl_command()
            .args(["get", "pods", "-n", NAMESPACE, "-l", selector, "--watch", "-o", "json"])
            .stdout(Stdio::piped())
            .spawn()?;
        let out = watching.stdout.take().context("no output of kubectl")?;
        let (send, pods) = channel();
        // Ends with the output, which ends with the watch.
        thread::spawn(move || {
            for pod in serde_json::Deserializer::from_reader(out).into_iter::<Value>().map_while(Result::ok) {
                if send.send(pod).is_err() {
                    return;
                }
            }
        });
        let mut kernel = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        kernel.seek(SeekFrom::End(0))?;
        let tree = Tree::find()?;
        let all = tree.group("kubepods")?; // the kubelet's, so it stays
        let line = Timeline { seconds: 0.0, pods: BTreeMap::new(), node: Vec::new(), kills: Vec::new() };
        Ok(Self { began: Instant::now(), watching, pods, kernel, before: all.usage()?, tree, all, line })
    }

    /// Looks until it is so.
    pub fn until(
        mut self,
        within: Duration,
        is_so: impl Fn(&BTreeMap<String, Line>) -> bool,
    ) -> Result<Timeline> {
        loop {
            self.look()?;
            if is_so(&self.line.pods) {
                self.line.kills = self.kills();
                return Ok(std::mem::take(&mut self.line));
            }
            if self.began.elapsed() > within {
                self.line.kills = self.kills();
                bail!("not within {within:?}:\n{}", self.line.story());
            }
            sleep(LOOK);
        }
    }

    fn look(&mut self) -> Result<()> {
        let now = self.began.elapsed().as_secs_f64();
        self.line.seconds = now;
        self.line.node.push((now, self.all.usage()? as i64 - self.before as i64));
        while let Ok(object) = self.pods.try_recv() {
            // A list where there were some already.
            match object["items"].as_array() {
                Some(items) => items.iter().for_each(|pod| self.line.take(now, pod)),
                None => self.line.take(now, &object),
            }
        }
        for line in self.line.pods.values_mut() {
            // Only looked at: the kubelet makes and removes it.
            let path = format!("burstable/pod{}", line.uid);
            if line.bound.is_none() || !self.all.directory().join(&path).is_dir() {
                continue;
            }
            let group = self.tree.group(&format!("kubepods/{path}")).ok();
            let Some((usage, peak)) = group.and_then(|group| Some((group.usage().ok()?, group.peak()?)))
            else {
                continue;
            };
            line.usage.push((now, usage));
            if peak >= 150 * MIB && usage <= 110 * MIB {
                line.settled.get_or_insert(now);
            }
        }
        Ok(())
    }

    /// The kernel's words on each kill since the beginning: whose limit, and who.
    fn kills(&mut self) -> Vec<String> {
        let mut kills = Vec::new();
        let mut record = [0; 8192];
        // One record each; at their end it would block.
        while let Ok(length @ 1..) = self.kernel.read(&mut record) {
            let text = String::from_utf8_lossy(&record[..length]).into_owned();
            let words = text.split(';').nth(1).unwrap_or_default().lines().next().unwrap_or_default();
            if words.starts_with("oom-kill:") || words.contains("Killed process") {
                kills.push(words.to_owned());
            }
        }
        kills
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self { seconds: 0.0, pods: BTreeMap::new(), node: Vec::new(), kills: Vec::new() }
    }
}

impl Timeline {
    fn take(&mut self, now: f64, pod: &Value) {
        let Some(name) = pod["metadata"]["name"].as_str() else { return };
        let line = self.pods.entry(name.to_owned()).or_default();
        line.uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if pod["spec"]["nodeName"].is_string() {
            line.bound.get_or_insert(now);
        }
        let status = &pod["status"]["containerStatuses"][0];
        if status["state"]["running"].is_object() {
            line.running.get_or_insert(now);
        }
        line.restarts = status["restartCount"].as_u64().unwrap_or(0).max(line.restarts);
        let bytes = requested(pod);
        if line.requests.last().is_none_or(|(_, before)| *before != bytes) {
            line.requests.push((now, bytes));
        }
    }

    /// Requested over time by the pods that have a node, MiB x s.
    pub fn requested(&self) -> f64 {
        let of = |line: &Line| {
            let Some(bound) = line.bound else { return 0.0 };
            let ends = line.requests.iter().skip(1).map(|(at, _)| *at).chain([self.seconds]);
            let spans = line.requests.iter().zip(ends);
            spans.map(|((from, bytes), to)| (to - from.max(bound)).max(0.0) * (*bytes / MIB) as f64).sum()
        };
        self.pods.values().map(of).sum()
    }

    pub fn restarts(&self) -> u64 {
        self.pods.values().map(|line| line.restarts).sum()
    }

    /// What happened, a line for each pod, and what the kernel said.
    pub fn story(&self) -> String {
        let shown = |at: Option<f64>| at.map_or("-".to_owned(), |at| format!("{at:.1}"));
        let pods = self.pods.iter().map(|(name, line)| {
            let requests: Vec<String> =
                line.requests.iter().map(|(at, bytes)| format!("{} at {at:.1}", bytes / MIB)).collect();
            let most = line.usage.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
            format!(
                "{name}: bound {}, runs {}, settled {}; {} restarts; used {} MiB at most; requested MiB {}\n",
                shown(line.bound),
                shown(line.running),
                shown(line.settled),
                line.restarts,
                most / MIB,
                requests.join(", ")
            )
        });
        let most = self.node.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let kills = self.kills.iter().map(|words| format!("{words}\n"));
        pods.chain(kills).collect::<String>()
            + &format!("all pods of the node: {} MiB more than before at most\n", most / MIB as i64)
    }
}

pub fn requested(pod: &Value) -> u64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.filter_map(|one| parse_bytes(one["resources"]["requests"]["memory"].as_str()?).ok()).sum()
}
