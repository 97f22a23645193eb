//! Why did it start? Every scene's truth is known; two observers, one with the ledger and one without, say what they think.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    Cluster, HOME, NODE,
    binaries::{KEDA, ROLLOUTS},
    control,
    links::links,
    observer,
    scenes::{self, SCENES, STORM, Scene, Stage, Truth},
};
use crate::shell;

#[derive(clap::Args, Default)]
pub struct Options {
    /// Only these scenes; or outage: the API taken away; or e2e: what is deployed, end to end; all if none is named
    #[arg(value_name = "SCENE")]
    pub scenes: Vec<String>,
    /// All, and also what needs minutes to build: Argo Rollouts, and KEDA's operator
    #[arg(long)]
    full: bool,
    /// Keep recordings and logs in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// What must be reached, of all starts: with the ledger, and alone.
const RIGHT_WITH_LEDGER: f64 = 0.98;
const RIGHT_ALONE: f64 = 0.90;
/// The observer without a ledger.
const ALONE: &str = "alone";
/// A decision this sure must never be wrong.
const SURE: f64 = 0.9;

/// Returns how many checks passed; `Err` if one failed.
pub fn test(cluster: &Cluster, options: &Options) -> Result<u32> {
    let wanted = |scene: &&Scene| match options.scenes.as_slice() {
        [] if options.full => scene.name != scenes::KEDA_STAGED,
        [] => ![scenes::ARGO, scenes::KEDA].contains(&scene.name),
        named => named.iter().any(|name| name == scene.name),
    };
    let scenes: Vec<&Scene> = SCENES.iter().filter(wanted).collect();
    ensure!(
        !scenes.is_empty(),
        "no such scene; there are {}",
        SCENES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
    );
    let home = Path::new(HOME).join("causes");
    fs::create_dir_all(&home)?;
    prepare(cluster, &home)?;
    install(cluster, &scenes, &home)?;
    let observers = Observers::start(cluster, &home)?;
    eprintln!("playing {} scenes (about two minutes)", scenes.len());
    let played: Vec<Result<Vec<Truth>>> = thread::scope(|scope| {
        let play = |scene: &'static Scene| {
            let mut stage = Stage::new(cluster, scene)?;
            (scene.play)(&mut stage).with_context(|| format!("scene {}", scene.name))?;
            eprintln!("   {} played", scene.name);
            Ok(stage.truths)
        };
        let threads: Vec<_> =
            SCENES.iter().filter(|s| wanted(s)).map(|scene| scope.spawn(move || play(scene))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a scene panicked")))
            .collect()
    });
    // Late evidence may better a decision for ten seconds.
    thread::sleep(Duration::from_secs(12));
    observers.stop()?;
    let mut truths = Vec::new();
    for scene in played {
        truths.extend(scene?);
    }
    let load = load()?;
    let mut failures = Vec::new();
    for (who, least) in [("with-ledger", RIGHT_WITH_LEDGER), (ALONE, RIGHT_ALONE)] {
        let recording = home.join(format!("{who}.jsonl"));
        let findings = findings(&recording)?;
        let judged = judge(&truths, &said(&findings)?);
        println!("\n{who}\n{}", judged.table());
        let right = judged.right();
        println!(
            "{:.1} % of {} starts right, {} kinds of cause",
            100.0 * right,
            judged.starts(),
            judged.kinds()
        );
        for wrong in &judged.sure_and_wrong {
            println!("sure and wrong: {wrong}");
        }
        // What an agent cannot know alone is some of a whole cluster's causes, and all of a single scene's.
        if right < least && (who != ALONE || options.scenes.is_empty()) {
            failures.push(format!(
                "{who}: {:.1} % right, at least {:.0} % must be",
                100.0 * right,
                100.0 * least
            ));
        }
        if !judged.sure_and_wrong.is_empty() {
            failures.push(format!(
                "{who}: {} decision(s) at {SURE} or more are wrong",
                judged.sure_and_wrong.len()
            ));
        }
        if scenes.iter().any(|scene| scene.name == STORM) {
            let links = links(&findings, &recording)?;
            println!("{links}");
            failures.extend(links.failure().map(|failure| format!("{who}: {failure}")));
        }
        if judged.missed > 0 {
            failures.push(format!("{who}: {} start(s) were not told", judged.missed));
        }
    }
    println!("\nAPI requests of each observer (both agents and the ledger together)\n{load}");
    if let Some(keep) = &options.keep {
        shell::output(Command::new("cp").arg("-r").arg(&home).arg(keep))?;
    }
    clean(cluster, &scenes)?;
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(6)
}

fn prepare(cluster: &Cluster, home: &Path) -> Result<()> {
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
    super::write_files(&super::secret(&["127.0.0.1"])?, home)
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

struct Observers(Vec<(&'static str, Child)>);

impl Observers {
    fn start(cluster: &Cluster, home: &Path) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let file = |name: &str| home.join(name).display().to_string();
        let mut started = Self(Vec::new());
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
        let mut with_ledger = agent("127.0.0.1:19843", "with-ledger");
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
        started.spawn(home, "with-ledger", &with_ledger)?;
        started.spawn(home, ALONE, &agent("127.0.0.1:19844", ALONE))?;
        wait_ready(home, "with-ledger", "127.0.0.1:19843")?;
        wait_ready(home, ALONE, "127.0.0.1:19844")?;
        Ok(started)
    }

    fn spawn(&mut self, home: &Path, name: &'static str, args: &[impl AsRef<std::ffi::OsStr>]) -> Result<()> {
        let log = fs::File::create(home.join(format!("{name}.log")))?;
        let child = Command::new(observer()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.0.push((name, child));
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        for (name, child) in self.0.iter_mut().rev() {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
            kill_process(pid, Signal::TERM)?;
            ensure!(child.wait()?.success(), "{name} did not end cleanly");
        }
        self.0.clear();
        Ok(())
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
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

/// A start as an observer told it.
struct Said {
    namespace: String,
    pod: String,
    unix_seconds: f64,
    cause: String,
    confidence: f64,
    evidence: String,
}

/// What the observer found, from its recording: the same pipeline, the same findings.
fn findings(recording: &Path) -> Result<Vec<Value>> {
    let findings = shell::output(Command::new(observer()?).arg("replay").arg("--findings").arg(recording))?;
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
                        cause: "not told".into(),
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
    sure_and_wrong: Vec<String>,
}

fn judge(truths: &[Truth], said: &[Said]) -> Judged {
    let mut judged = Judged::default();
    for truth in truths {
        let here = |said: &&Said| {
            said.namespace == truth.namespace && (truth.from..truth.until).contains(&said.unix_seconds)
        };
        let told: Vec<&Said> = said.iter().filter(here).collect();
        judged.missed += truth.starts.saturating_sub(told.len());
        for said in told {
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
                    println!("wrong: {line}");
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
