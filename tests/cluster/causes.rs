//! Why did it start? Every scene's truth is known; two observers, one with the ledger and one without, say what they
//! think.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Arguments;
use observer_tests::{
    cluster::{
        Cluster, HOME, NODE,
        binaries::{KEDA, ROLLOUTS},
        control,
    },
    shell,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Case, Deployed, Suite, case,
    links::links,
    once,
    scenes::{self, SCENES, STORM, Scene, Stage, Truth},
    write_files,
};

/// What must be reached, of all starts: with the ledger, and alone.
const RIGHT: [(&str, f64); 2] = [(WITH_LEDGER, 0.98), (ALONE, 0.90)];
/// The observer with a ledger.
const WITH_LEDGER: &str = "with-ledger";
/// The observer without a ledger.
const ALONE: &str = "alone";
/// A decision this sure must never be wrong.
const SURE: f64 = 0.9;

/// A test per scene, all of which are played at the same time, and tests of all scenes together.
pub fn cases() -> Vec<Case> {
    let of_scene = |scene: &'static Scene| Case {
        on_request: scene.on_request,
        ..case(scene_test(scene), Deployed::Nothing, move |suite| of_scene(played(suite)?, scene))
    };
    let of_all = |name: &str, test: fn(&Played) -> Result<()>| {
        case(format!("causes::{name}"), Deployed::Nothing, move |suite| test(played(suite)?))
    };
    SCENES
        .iter()
        .map(of_scene)
        .chain([
            of_all("of_98_in_100_starts_are_right_with_a_ledger", |played| played.right(WITH_LEDGER)),
            of_all("of_90_in_100_starts_are_right_without", |played| played.right(ALONE)),
            of_all("oom_kills_are_tied_to_the_scale_up_of_their_victim", tied),
        ])
        .collect()
}

fn scene_test(scene: &Scene) -> String {
    format!("causes::scene_{}", scene.name.replace('-', "_"))
}

/// The scenes whose own tests are to run; where none is, all that need no building.
pub fn wanted(arguments: &Arguments) -> Vec<&'static Scene> {
    let named = |scene: &&Scene| {
        let name = scene_test(scene);
        let filtered = arguments.filter.as_ref().is_some_and(|part| match arguments.exact {
            true => name != *part,
            false => !name.contains(part.as_str()),
        });
        let skipped = arguments.skip.iter().any(|part| name.contains(part.as_str()));
        !filtered && !skipped
    };
    let on_request = arguments.include_ignored || arguments.ignored;
    let runs = |scene: &&Scene| on_request || scene.on_request.is_none();
    let named: Vec<&Scene> = SCENES.iter().filter(named).filter(runs).collect();
    let mut wanted = if named.is_empty() { SCENES.iter().filter(runs).collect() } else { named };
    // What is staged is not for beside the real one.
    if wanted.iter().any(|scene| scene.name == scenes::KEDA) {
        wanted.retain(|scene| scene.name != scenes::KEDA_STAGED);
    }
    wanted
}

/// All scenes, played once.
pub struct Played {
    scenes: Vec<(&'static Scene, Result<Vec<Truth>, String>)>,
    observers: Vec<Reported>,
}

/// What one observer reported of them.
struct Reported {
    by: &'static str,
    recording: PathBuf,
    findings: Vec<Value>,
    starts: Vec<Said>,
}

fn played(suite: &Suite) -> Result<&Played> {
    once(&suite.causes, || play(suite))
}

fn play(suite: &Suite) -> Result<Played> {
    let cluster = &suite.cluster;
    let home = Path::new(HOME).join("causes");
    fs::create_dir_all(&home)?;
    prepare(suite, &home)?;
    install(cluster, &suite.scenes, &home)?;
    let observers = Observers::start(suite, &home)?;
    eprintln!("   playing {} scenes (about two minutes)", suite.scenes.len());
    let scenes = thread::scope(|scope| {
        let play = |scene: &'static Scene| {
            let mut stage = Stage::new(cluster, scene)?;
            (scene.play)(&mut stage)?;
            eprintln!("   {} played", scene.name);
            Ok(stage.truths)
        };
        let threads: Vec<_> =
            suite.scenes.iter().map(|scene| (*scene, scope.spawn(move || play(scene)))).collect();
        threads
            .into_iter()
            .map(|(scene, thread)| {
                let done = thread.join().unwrap_or_else(|_| bail!("it panicked"));
                (scene, done.map_err(|error| format!("{error:#}")))
            })
            .collect()
    });
    // Late evidence may better a decision for ten seconds.
    thread::sleep(Duration::from_secs(12));
    observers.stop()?;
    let reported = |(by, _): (&'static str, f64)| -> Result<Reported> {
        let recording = home.join(format!("{by}.jsonl"));
        let findings = findings(suite, &recording)?;
        let starts = said(&findings)?;
        Ok(Reported { by, recording, findings, starts })
    };
    let observers = RIGHT.into_iter().map(reported).collect::<Result<Vec<_>>>()?;
    let load = load()?;
    eprintln!("\nAPI requests of each observer (both agents and the ledger together)\n{load}");
    if let Some(keep) = std::env::var_os("KEEP_RECORDINGS") {
        shell::output(Command::new("cp").arg("-r").arg(&home).arg(keep))?;
    }
    clean(cluster, &suite.scenes)?;
    Ok(Played { scenes, observers })
}

/// The scene went as planned, each of its starts is reported, and what is said of one with certainty is right.
fn of_scene(played: &Played, scene: &Scene) -> Result<()> {
    let Some((_, truths)) = played.scenes.iter().find(|(played, _)| played.name == scene.name) else {
        eprintln!("   the real one is played in its place");
        return Ok(());
    };
    let truths = truths.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
    let mut failures = Vec::new();
    for reported in &played.observers {
        let judged = judge(truths, &reported.starts);
        if judged.missed > 0 {
            failures.push(format!("{}: {} start(s) were not reported", reported.by, judged.missed));
        }
        for wrong in &judged.wrong {
            eprintln!("   {}: wrong: {wrong}", reported.by);
        }
        for wrong in &judged.sure_and_wrong {
            failures.push(format!("{}: sure and wrong: {wrong}", reported.by));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

impl Played {
    fn right(&self, by: &str) -> Result<()> {
        let (_, least) = RIGHT.into_iter().find(|(name, _)| *name == by).context("no such observer")?;
        let reported =
            self.observers.iter().find(|reported| reported.by == by).context("no such observer")?;
        let truths: Vec<Truth> =
            self.scenes.iter().filter_map(|(_, truths)| truths.as_ref().ok()).flatten().cloned().collect();
        let judged = judge(&truths, &reported.starts);
        let right = judged.right();
        eprintln!(
            "\n{by}\n{}{:.1} % of {} starts right, {} kinds of cause",
            judged.table(),
            100.0 * right,
            judged.starts(),
            judged.kinds()
        );
        ensure!(right >= least, "{:.1} % are right, at least {:.0} % must be", 100.0 * right, 100.0 * least);
        Ok(())
    }
}

fn tied(played: &Played) -> Result<()> {
    let storm = played.scenes.iter().any(|(scene, _)| scene.name == STORM);
    ensure!(storm, "the scene {STORM} was not played, for its test is filtered out");
    let mut failures = Vec::new();
    for reported in &played.observers {
        let links = links(&reported.findings, &reported.recording)?;
        eprintln!("   {}: {links}", reported.by);
        failures.extend(links.failure().map(|failure| format!("{}: {failure}", reported.by)));
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

fn prepare(suite: &Suite, home: &Path) -> Result<()> {
    let cluster = &suite.cluster;
    cluster.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: observer}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: observer, namespace: observer}\n---\n\
         apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: scaledobjects.keda.sh}\nspec:\n  group: keda.sh\n  scope: Namespaced\n  \
         names: {kind: ScaledObject, plural: scaledobjects, singular: scaledobject}\n  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]\n",
    )?;
    let token = cluster.kubectl(&[
        "create",
        "token",
        "observer",
        "-n",
        "observer",
        "--audience=observer-ledger",
        "--duration=1h",
    ])?;
    fs::write(home.join("token"), token.trim())?;
    write_files(&suite.secret(&["127.0.0.1"])?, home)
}

/// The controllers that are not Kubernetes' own, where they are wanted.
fn install(cluster: &Cluster, scenes: &[&Scene], home: &Path) -> Result<()> {
    let wanted = |name| scenes.iter().any(|scene| scene.name == name);
    let alone = "--leader-elect=false";
    if wanted(scenes::ARGO) {
        let ports = ["--healthzPort=18080", "--metricsport=18090"];
        control::install(cluster, &ROLLOUTS, &[&ports[..], &[alone]].concat(), &[])?;
    }
    if wanted(scenes::KEDA) {
        let ports = ["--metrics-bind-address=127.0.0.1:18091", "--health-probe-bind-address=127.0.0.1:18092"];
        let certificates = format!("--cert-dir={}", home.display());
        control::install(
            cluster,
            &KEDA,
            &[&ports[..], &[alone, &certificates]].concat(),
            &[
                ("KEDA_CLUSTER_OBJECT_NAMESPACE", "observer"),
                ("POD_NAMESPACE", "observer"),
                ("WATCH_NAMESPACE", ""),
            ],
        )?;
    }
    Ok(())
}

struct Observers {
    observer: PathBuf,
    started: Vec<(&'static str, Child)>,
}

impl Observers {
    fn start(suite: &Suite, home: &Path) -> Result<Self> {
        let kubeconfig = suite.cluster.kubeconfig().display().to_string();
        let file = |name: &str| home.join(name).display().to_string();
        let mut started = Self { observer: suite.observer.clone(), started: Vec::new() };
        started.spawn(
            home,
            "ledger",
            &[
                "ledger",
                "--listen",
                "127.0.0.1:19845",
                "--metrics-listen",
                "127.0.0.1:19846",
                "--cert",
                &file("tls.crt"),
                "--key",
                &file("tls.key"),
                "--kubeconfig",
                &kubeconfig,
            ],
        )?;
        wait_ready(home, "ledger", "127.0.0.1:19846")?;
        let agent = |listen: &str, name: &str| {
            let recording = file(&format!("{name}.jsonl"));
            [
                "run",
                "--node-name",
                NODE,
                "--kubeconfig",
                &kubeconfig,
                "--listen",
                listen,
                "--record",
                &recording,
            ]
            .map(str::to_owned)
            .to_vec()
        };
        let mut with_ledger = agent("127.0.0.1:19843", WITH_LEDGER);
        with_ledger.extend(
            [
                "--ledger",
                "https://127.0.0.1:19845",
                "--ledger-ca",
                &file("ca.crt"),
                "--ledger-token",
                &file("token"),
            ]
            .map(str::to_owned),
        );
        started.spawn(home, WITH_LEDGER, &with_ledger)?;
        started.spawn(home, ALONE, &agent("127.0.0.1:19844", ALONE))?;
        wait_ready(home, WITH_LEDGER, "127.0.0.1:19843")?;
        wait_ready(home, ALONE, "127.0.0.1:19844")?;
        Ok(started)
    }

    fn spawn(&mut self, home: &Path, name: &'static str, args: &[impl AsRef<std::ffi::OsStr>]) -> Result<()> {
        let log = fs::File::create(home.join(format!("{name}.log")))?;
        let child = Command::new(&self.observer)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.started.push((name, child));
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        for (name, child) in self.started.iter_mut().rev() {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
            kill_process(pid, Signal::TERM)?;
            ensure!(child.wait()?.success(), "{name} did not end cleanly");
        }
        self.started.clear();
        Ok(())
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        for (_, child) in &mut self.started {
            let _ = child.kill(); // ended already is what is wanted
            let _ = child.wait();
        }
    }
}

fn wait_ready(home: &Path, name: &str, address: &str) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if ureq::get(&format!("http://{address}/readyz")).call().is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    let log = fs::read_to_string(home.join(format!("{name}.log"))).unwrap_or_default();
    bail!("observer {name} at {address} is not ready within 20 s; it said:\n{log}")
}

/// A start as an observer reported it.
struct Said {
    namespace: String,
    pod: String,
    unix_seconds: f64,
    cause: String,
    confidence: f64,
    evidence: String,
}

/// What the observer found, from its recording: the same pipeline, the same findings.
fn findings(suite: &Suite, recording: &Path) -> Result<Vec<Value>> {
    let findings =
        shell::output(Command::new(&suite.observer).arg("replay").arg("--findings").arg(recording))?;
    findings.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The last word on every start.
fn said(findings: &[Value]) -> Result<Vec<Said>> {
    let mut starts: BTreeMap<(u64, u64), Said> = BTreeMap::new();
    for finding in findings {
        let container = &finding["container"];
        let Some(cgroup) = container["cgroup"].as_u64() else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match finding["finding"].as_str() {
            Some("started") => {
                let at = finding["at"].as_u64().context("no time")?;
                starts.insert(
                    (cgroup, at),
                    Said {
                        namespace: text(&container["namespace"]),
                        pod: text(&container["pod"]),
                        unix_seconds: finding["unix_seconds"].as_f64().context("no start time")?,
                        cause: "not reported".into(),
                        confidence: 0.0,
                        evidence: String::new(),
                    },
                );
            }
            Some("caused") => {
                let at = finding["started"].as_u64().context("no start")?;
                if let Some(start) = starts.get_mut(&(cgroup, at)) {
                    let decision = &finding["decision"];
                    start.cause = text(&decision["cause"]);
                    start.confidence = decision["confidence"].as_f64().unwrap_or(0.0);
                    start.evidence = decision["evidence"].to_string();
                }
            }
            _ => {}
        }
    }
    Ok(starts.into_values().collect())
}

#[derive(Default)]
struct Judged {
    /// Truth -> what was said -> how often.
    counts: BTreeMap<String, BTreeMap<String, usize>>,
    right: usize,
    missed: usize,
    wrong: Vec<String>,
    sure_and_wrong: Vec<String>,
}

fn judge(truths: &[Truth], said: &[Said]) -> Judged {
    let mut judged = Judged::default();
    for truth in truths {
        let here = |said: &&Said| {
            said.namespace == truth.namespace && (truth.from..truth.until).contains(&said.unix_seconds)
        };
        let reported: Vec<&Said> = said.iter().filter(here).collect();
        judged.missed += truth.starts.saturating_sub(reported.len());
        for said in reported {
            let expected = truth.causes.join(" or ");
            *judged.counts.entry(expected.clone()).or_default().entry(said.cause.clone()).or_default() += 1;
            if truth.causes.contains(&said.cause.as_str()) {
                judged.right += 1;
            } else {
                let line = format!(
                    "{}/{}: {} ({:.2}), it was {expected}: {}",
                    said.namespace, said.pod, said.cause, said.confidence, said.evidence
                );
                if said.confidence >= SURE {
                    judged.sure_and_wrong.push(line);
                } else {
                    judged.wrong.push(line);
                }
            }
        }
    }
    judged
}

impl Judged {
    fn starts(&self) -> usize {
        self.counts.values().flat_map(BTreeMap::values).sum()
    }

    fn kinds(&self) -> usize {
        self.counts.len()
    }

    fn right(&self) -> f64 {
        self.right as f64 / self.starts().max(1) as f64
    }

    fn table(&self) -> String {
        let rows = self.counts.iter().map(|(truth, said)| {
            let said: Vec<String> = said.iter().map(|(cause, times)| format!("{cause} {times}")).collect();
            format!("| {truth} | {} |\n", said.join(", "))
        });
        format!("| truth | said |\n|---|---|\n{}", rows.collect::<String>())
    }
}

/// Requests by what was asked, from the API server's audit log.
fn load() -> Result<String> {
    let log = fs::read_to_string(Path::new(HOME).join("audit.log")).unwrap_or_default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        if entry["userAgent"].as_str().is_some_and(|agent| agent.starts_with("memory-observer")) {
            let key = format!(
                "{} {}",
                entry["verb"].as_str().unwrap_or_default(),
                entry["objectRef"]["resource"].as_str().unwrap_or_default()
            );
            *counts.entry(key).or_default() += 1;
        }
    }
    Ok(counts.iter().map(|(what, times)| format!("{times:>6}  {what}\n")).collect())
}

/// What follows must not meet a kubelet that is busy with a hundred pods going, nor their OOM kills.
fn clean(cluster: &Cluster, scenes: &[&Scene]) -> Result<()> {
    let namespaces: Vec<String> = scenes.iter().map(|scene| scenes::namespace(scene.name)).collect();
    let mut delete = vec!["delete", "namespace", "--timeout=180s"];
    delete.extend(namespaces.iter().map(String::as_str));
    cluster.kubectl(&delete).map(|_| ()).context("while removing the scenes")
}
