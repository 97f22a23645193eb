//! Scale-ups that are foretold and then done, with the kernel as the judge: a cgroup with a limit is the node, cgroups
//! below it are its pods, and the node was short if the OOM killer took one of them.
//!
//! The whole road is the product's: a daemon sees each workload start three times, alone; its state file is what
//! `observer simulate` reads.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;

use crate::{
    daemon::{Daemon, until},
    group::{Group, Tree},
};

pub struct Stage<'a> {
    pub tree: &'a Tree,
    pub observer: PathBuf,
    pub workload: PathBuf,
    /// For the state file and the daemon's log.
    pub directory: &'a Path,
}

const MIB: u64 = 1 << 20;
/// Start-ups of a workload that are seen before.
const SEEN: usize = 3;
/// Scale-ups of one workload.
pub const OF_EACH: usize = 4;
/// Scenes that run at once: each starts up to 24 programs.
const AT_ONCE: usize = 4;
const PEAKS_MIB: Range<u64> = 16..49;
/// Room, as a share of what the peaks need together: half of the nodes are short.
const ROOMS: Range<f64> = 0.5..1.5;
/// Between the last change of a start-up and its end.
const SETTLED: f64 = 0.7;
/// And until the observer has confirmed that it is stable: 15 s (docs/startup.md) and some more. Seconds.
const STABLE: f64 = 20.0;
/// Workloads that are learned at once, each by so many start-ups.
const LEARNED_AT_ONCE: usize = 10;

/// Programs that start alike, some with peaks that differ by up to a tenth.
struct Kind {
    name: String,
    args: Vec<String>,
    /// Until it has settled. Seconds.
    settles: f64,
    peak: u64,
}

struct Scene<'a> {
    kind: &'a Kind,
    /// Pods that run, and those that there are to be.
    from: usize,
    to: usize,
    room: u64,
}

/// What was foretold of one scale-up, and what the kernel counted.
pub struct Outcome {
    pub scene: String,
    pub foretold_short: bool,
    pub kills: u64,
    pub foretold_bytes: u64,
    /// Highest use on a node without a limit; `None` where the kernel does not keep it.
    pub used_bytes: Option<u64>,
}

impl Outcome {
    pub fn right(&self) -> bool {
        self.foretold_short == (self.kills > 0)
    }

    /// By how much the sum of the peaks was foretold too high, as a share.
    pub fn error(&self) -> Option<f64> {
        Some(self.foretold_bytes as f64 / self.used_bytes? as f64 - 1.0)
    }
}

pub struct Tally {
    pub outcomes: Vec<Outcome>,
}

impl Tally {
    pub fn right(&self) -> f64 {
        self.outcomes.iter().filter(|outcome| outcome.right()).count() as f64 / self.outcomes.len() as f64
    }

    /// Of those whose use is known, how many were foretold within a tenth.
    pub fn within_a_tenth(&self) -> f64 {
        let errors = self.errors();
        errors.iter().filter(|error| error.abs() <= 0.1).count() as f64 / errors.len().max(1) as f64
    }

    fn errors(&self) -> Vec<f64> {
        let mut errors: Vec<f64> = self.outcomes.iter().filter_map(Outcome::error).collect();
        errors.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        errors
    }

    pub fn text(&self) -> String {
        let count =
            |is: &dyn Fn(&Outcome) -> bool| self.outcomes.iter().filter(|outcome| is(outcome)).count();
        let errors = self.errors();
        let at = |share: f64| errors.get(((errors.len() as f64 - 1.0) * share) as usize).unwrap_or(&f64::NAN);
        let mut text = format!(
            "{} scale-ups, {} of them short: {:.1} % foretold rightly; {} short and not foretold, {} foretold and not short\n\
             sum of the peaks: {:+.1} % from the kernel's at the median, {:+.1} % at p95, {:+.1} % at the most; {:.1} % within a tenth\n",
            self.outcomes.len(),
            count(&|outcome| outcome.kills > 0),
            self.right() * 100.0,
            count(&|outcome| outcome.kills > 0 && !outcome.foretold_short),
            count(&|outcome| outcome.kills == 0 && outcome.foretold_short),
            at(0.5) * 100.0,
            at(0.95) * 100.0,
            at(1.0) * 100.0,
            self.within_a_tenth() * 100.0,
        );
        let far =
            |outcome: &&Outcome| !outcome.right() || outcome.error().is_some_and(|error| error.abs() > 0.1);
        for wrong in self.outcomes.iter().filter(far) {
            text += &format!(
                "{}: foretold {} MiB, used {:?} MiB, {} OOM kills\n",
                wrong.scene,
                wrong.foretold_bytes / MIB,
                wrong.used_bytes.map(|bytes| bytes / MIB),
                wrong.kills
            );
        }
        text
    }
}

/// So many scale-ups, the same for each seed.
pub fn scale_ups(stage: &Stage, scenes: usize, seed: u64, progress: impl Fn(usize) + Sync) -> Result<Tally> {
    let mut random = StdRng::seed_from_u64(seed);
    let kinds: Vec<Kind> = (0..scenes.div_ceil(OF_EACH)).map(|number| kind(number, &mut random)).collect();
    let mut all: Vec<Scene> =
        (0..scenes).map(|number| scene(&kinds[number / OF_EACH], &mut random)).collect();
    all.shuffle(&mut random);
    let above = format!("/observer-staged-x{}", std::process::id());
    let _above = stage.tree.group(&above)?;
    let state = learn(stage, &above, &kinds)?;
    let (left, outcomes) = (Mutex::new(all.iter().enumerate()), Mutex::new(Vec::new()));
    let worker = || -> Result<()> {
        loop {
            let Some((number, scene)) = left.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return Ok(());
            };
            let outcome = play(stage, &above, number, scene, &state)?;
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.push(outcome);
            progress(outcomes.len());
        }
    };
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(Tally { outcomes: outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) })
}

fn kind(number: usize, random: &mut StdRng) -> Kind {
    let peak = random.random_range(PEAKS_MIB);
    let (args, settles) = match random.random_range(0..4) {
        0 => {
            let (steps, pause) = (random.random_range(2..6), random.random_range(0.1..0.4));
            let step = peak / steps;
            (format!("stairs --step {step} --steps {steps} --pause {pause}"), steps as f64 * pause)
        }
        of_spikes => {
            let (ramp, hold) = (random.random_range(0.2..1.5), random.random_range(0.3..1.0));
            let steady = (peak as f64 * random.random_range(0.3..0.8)) as u64;
            let spread = if of_spikes == 1 { 0.1 } else { 0.0 };
            (
                format!(
                    "spike --peak {peak} --steady {steady} --ramp {ramp} --hold {hold} --spread {spread}"
                ),
                ramp + hold,
            )
        }
    };
    // Letters: a number at the end of a name is no part of it.
    let letter = |digit: usize| char::from(b'a' + (digit % 26) as u8);
    Kind {
        name: format!("kind-{}{}", letter(number / 26), letter(number)),
        args: args.split(' ').map(str::to_owned).collect(),
        settles,
        peak: peak * MIB,
    }
}

fn scene<'a>(kind: &'a Kind, random: &mut StdRng) -> Scene<'a> {
    let (from, more) = (random.random_range(0..4), random.random_range(2..9));
    let room = (kind.peak as f64 * (from as f64 * 0.6 + more as f64) * random.random_range(ROOMS)) as u64;
    // The pods that run have to fit, or there is nothing to scale.
    Scene { kind, from, to: from + more, room: room.max(kind.peak * (from as u64 + 1)) }
}

/// Each workload starts three times, in numbered groups, and is seen until it is stable. Returns
/// the daemon's state file.
fn learn(stage: &Stage, above: &str, kinds: &[Kind]) -> Result<PathBuf> {
    let state = stage.directory.join("staged-state");
    let path = state.to_str().context("the folder's name is not UTF-8")?;
    let mut daemon = Daemon::start(&stage.observer, stage.directory, &["--state", path])?;
    daemon.ready(Duration::from_secs(10))?;
    for some in kinds.chunks(LEARNED_AT_ONCE) {
        let mut learning = Vec::new();
        for kind in some {
            for number in 0..SEEN {
                let group = stage.tree.group(&format!("{above}/{}/{number}", kind.name))?;
                learning.push((start(stage, &group, kind, kind.settles + STABLE)?, group));
            }
        }
        for (mut child, group) in learning {
            child.wait()?;
            drop(group);
        }
    }
    let seen = kinds.len() * SEEN;
    // Not by the metrics: the series of a workload end with its last container.
    until("every start-up is known", Duration::from_secs(10), Duration::from_millis(100), || {
        let log = daemon.log_text();
        Ok(log.lines().filter(|line| line.contains(above) && line.contains(": ended after")).count() >= seen)
    })?;
    let status = daemon.stop()?;
    ensure!(status.success(), "the daemon ended with {status}");
    Ok(state)
}

fn start(stage: &Stage, group: &Group, kind: &Kind, seconds: f64) -> Result<Child> {
    let seconds = seconds.to_string();
    let mut args: Vec<&str> = kind.args.iter().map(String::as_str).collect();
    args.extend(["--seconds", &seconds]);
    let mut command = group.command(&stage.workload);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {} in {}", kind.name, group.path()))
}

fn play(stage: &Stage, above: &str, number: usize, scene: &Scene, state: &Path) -> Result<Outcome> {
    let Scene { kind, from, to, room } = scene;
    let (foretold_bytes, foretold_short) = foretell(stage, above, scene, state)?;
    let real = stage.tree.group(&format!("{above}/node-{number}"))?;
    real.limit(*room)?;
    let roomy = stage.tree.group(&format!("{above}/roomy-{number}"))?;
    let kills = thread::scope(|scope| -> Result<u64> {
        let real = scope.spawn(|| scale(stage, &real, scene));
        scale(stage, &roomy, scene)?; // for the sum of the peaks
        real.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(Outcome {
        scene: format!("{} from {from} to {to} in {} MiB ({})", kind.name, room / MIB, kind.args.join(" ")),
        foretold_short,
        kills,
        foretold_bytes,
        used_bytes: roomy.peak(),
    })
}

/// How many the kernel's OOM killer took on the node.
fn scale(stage: &Stage, node: &Group, scene: &Scene) -> Result<u64> {
    let last = scene.kind.settles + SETTLED;
    let both = if scene.from > 0 { 2.0 * last } else { last };
    let pods: Vec<Group> = (0..scene.to)
        .map(|pod| stage.tree.group(&format!("{}/pod-{pod}", node.path())))
        .collect::<Result<_>>()?;
    let mut children = Vec::new();
    let (old, new) = pods.split_at(scene.from);
    for group in old {
        children.push(start(stage, group, scene.kind, both)?);
    }
    if !old.is_empty() {
        thread::sleep(Duration::from_secs_f64(last));
    }
    for group in new {
        children.push(start(stage, group, scene.kind, last)?);
    }
    let began = Instant::now();
    for child in &mut children {
        while child.try_wait()?.is_none() {
            ensure!(
                began.elapsed() < Duration::from_secs(60),
                "a program of {} does not end",
                scene.kind.name
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
    // v1 counts in the victim's own group, v2 in those above it too.
    let below = pods.iter().map(Group::oom_kills).sum::<Result<u64>>()?;
    Ok(below.max(node.oom_kills()?))
}

/// What it needs at the most, in bytes, and whether the node is short of that.
fn foretell(stage: &Stage, above: &str, scene: &Scene, state: &Path) -> Result<(u64, bool)> {
    let mut simulate = Command::new(&stage.observer);
    simulate.args(["simulate", "--output", "json", "--request", "1Mi", "--state"]).arg(state);
    simulate.arg("--scale").arg(format!("{above}/{}={}:{}", scene.kind.name, scene.from, scene.to));
    let output =
        simulate.arg("--nodes").arg(scene.room.to_string()).output().context("cannot start the observer")?;
    if !output.status.success() {
        bail!("observer simulate: {}", String::from_utf8_lossy(&output.stderr));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).context("observer simulate wrote no JSON")?;
    let node = &answer["outcomes"][0]["nodes"][0];
    let bytes = |name: &str| node[name].as_u64().with_context(|| format!("no {name} in {answer}"));
    Ok((bytes("demand")?, bytes("short_by")? > 0))
}
