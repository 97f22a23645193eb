//! Every test there is, in the order in which a failure is cheapest to learn.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use observer_tests::cluster::{control, missing, prepare};
use serde_json::Value;

use crate::{
    build_ebpf, cluster, fuzz,
    harness::Harness,
    shell,
    statics::{self, Arch},
    test_web, vm,
};

#[derive(clap::Args)]
pub struct Options {
    /// Only these: `web` is the page in Chromium
    #[arg(value_enum)]
    only: Option<Only>,
    /// Leave out what needs minutes: the live tests, on this machine's kernel and on others in virtual machines
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Only {
    Web,
}

/// What all tests are built by, whether they run here, in a virtual machine or on the cluster.
fn cargo() -> Result<Command> {
    statics::linting_cargo(Arch::host())
}

/// What the closing lines say.
struct Tally {
    began: Instant,
    passed: u32,
    failed: Vec<String>,
    skipped: Vec<String>,
    long: Vec<(Duration, String)>,
}

pub fn test(options: &Options) -> Result<()> {
    let mut tally =
        Tally { began: Instant::now(), passed: 0, failed: Vec::new(), skipped: Vec::new(), long: Vec::new() };
    if let Some(Only::Web) = options.only {
        tally.web();
        return tally.close();
    }
    let live = !options.quick;
    warn_of_little_space(live);
    // Go's compiler beside Rust's: either waits for its last link alone.
    let kubernetes = (live && missing().is_none()).then(|| thread::spawn(prepare));
    tally.step("formatting", shell::cargo().args(["fmt", "--all", "--check"]));
    if statics::clippy().is_none() {
        tally.skipped.push("lints: there is no clippy".to_owned());
    }
    for package in ["prometheus", "tmux"].into_iter().filter(|_| live) {
        if let Err(error) = shell::apt(&[package]) {
            eprintln!("no {package}: {error:#}"); // its tests name themselves as skipped
        }
    }
    // The live tests run the daemon itself: built with the rest.
    let mut build = cargo()?;
    build_ebpf::one_job_more(build.args(["build", "--workspace", "--all-targets"]));
    let (ebpf, ()) = build_ebpf::beside(|| tally.lints_and_build(&mut build));
    match ebpf {
        Ok(_) => {
            tally.passed += 1;
            // They may have changed after cargo had looked: the observer has the old ones then, and no test links it.
            if let Err(error) = statics::program("observer") {
                tally.fail("the observer with its programs", &format!("{error:#}"));
            }
        }
        // Elsewhere than on Linux, or without root to install it, the pure core still can be tested.
        Err(error) => tally.skipped.push(format!("eBPF programs and what needs them: {error:#}")),
    }
    tally.tests("unit", cargo()?.args(["test", "--workspace", "--lib", "--bins", "--no-fail-fast"]));
    // What is live measures, and wants the machine for itself. An error comes again, with its own name, when the
    // cluster is due.
    let _ = kubernetes.map(JoinHandle::join);
    let suites = [
        ("tidy", false),
        ("declarations", false),
        ("replay", false),
        ("api", false),
        ("approaches", true),
        ("lending", true),
        ("live", true),
    ];
    for (name, minutes) in suites {
        if minutes && options.quick {
            tally.skipped.push(format!("{name}: --quick"));
            continue;
        }
        tally.tests(name, cargo()?.args(["test", "--workspace", "--test", name]));
    }
    if options.quick {
        let minutes = ["page", "fuzz", "kernels in virtual machines", "cluster"];
        tally.skipped.extend(minutes.map(|name| format!("{name}: --quick")));
    } else {
        tally.web();
        tally.fuzz();
        tally.machines();
        tally.cluster();
    }
    tally.close()
}

/// Of each target: what is found in an hour is kept as a test; this is for what was broken since. Always with the same
/// random numbers, so that a failure is of the change that is tested; `cargo xtask fuzz` looks further.
const FUZZ: fuzz::Run = fuzz::Run { seconds: 5, optimised: false, seed: Some(1) };

/// What a run puts on the disk, in GiB: the builds; and the kernels, Kubernetes, and what Go keeps of building it.
const SPACE: [u64; 2] = [2, 8];

/// A compiler that finds the disk full says so in many words, or dies of a signal.
fn warn_of_little_space(live: bool) {
    let Ok(disk) = rustix::fs::statvfs(shell::root()) else { return }; // the build will say what is wrong with it
    let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 30;
    let needed = SPACE[usize::from(live)];
    if free < needed {
        eprintln!(
            "warning: {free} GiB are free on the disk of {}, and these tests may need {needed}: what fails below may fail by that",
            shell::root().display()
        );
    }
}

/// So many of those that took longest are named.
const MOST_LONG: usize = 12;

impl Tally {
    fn begin(&self, name: &str) {
        eprintln!("== {name}, after {} s", self.began.elapsed().as_secs());
    }

    /// A step that passes or fails as a whole.
    fn step(&mut self, name: &str, command: &mut Command) {
        self.begin(name);
        match shell::run(command) {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// Cargo repeats the warnings of what it need not compile again, so none is missed. What the compiler says of its
    /// environment has no code, and is no lint.
    fn lints_and_build(&mut self, command: &mut Command) {
        const NAME: &str = "lints and build";
        self.begin(NAME);
        command.args(["--message-format", "json"]);
        let mut lints = 0;
        let built = lines(command, |line| {
            let Ok(message) = serde_json::from_str::<Value>(line) else { return };
            if message["reason"] == "compiler-message" {
                eprint!("{}", message["message"]["rendered"].as_str().unwrap_or_default());
                lints += u32::from(message["message"]["code"].is_object());
            }
        });
        match built {
            Ok(true) if lints == 0 => self.passed += 1,
            Ok(_) => self.fail(NAME, &format!("{lints} lint(s) or errors")),
            Err(error) => self.fail(NAME, &format!("{error:#}")),
        }
    }

    /// A step that counts its own tests.
    fn tests(&mut self, name: &str, command: &mut Command) {
        self.begin(name);
        let before = self.failed.len();
        match self.count(name, command) {
            Ok(true) => {}
            // Did not build, or died before it could count.
            Ok(false) if self.failed.len() == before => {
                self.fail(name, &format!("`{}` failed", shell::show(command)))
            }
            Ok(false) => {}
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// The page in a browser. Where none can be had, skipped with the reason.
    fn web(&mut self) {
        self.begin("page");
        match statics::program("observer").and_then(|observer| test_web::test(&observer)) {
            Ok(test_web::Outcome::Skipped(why)) => self.skipped.push(format!("page: {why}")),
            Ok(test_web::Outcome::Ran { passed, failed }) => {
                self.passed += passed;
                self.failed.extend(failed.into_iter().map(|name| format!("page: {name}")));
            }
            Err(error) => self.fail("page", &format!("{error:#}")),
        }
    }

    /// Every parser for a short while, where the tool is there.
    fn fuzz(&mut self) {
        if let Some(missing) = fuzz::missing() {
            return self.skipped.push(format!("fuzz: {missing}"));
        }
        self.begin("fuzz");
        match fuzz::run_all(&[], FUZZ) {
            Ok(reports) => {
                for report in reports {
                    match report.failure {
                        Some(why) => self.fail(&format!("fuzz: {}", report.target), &why),
                        None => self.passed += 1,
                    }
                }
            }
            Err(error) => self.fail("fuzz", &format!("{error:#}")),
        }
    }

    /// The live tests on other kernels. A machine that cannot be had is skipped, with the reason.
    fn machines(&mut self) {
        self.begin("kernels in virtual machines");
        let reports = match vm::run(&vm::Options::default()) {
            Ok(reports) => reports,
            Err(error) => return self.skipped.push(format!("kernels in virtual machines: {error:#}")),
        };
        for report in reports {
            match report {
                Err(why) => self.skipped.push(why),
                Ok(report) => {
                    let named = |test: &String| format!("kernel {}: {test}", report.release);
                    self.passed += report.tests.passed.len() as u32;
                    self.failed.extend(report.tests.failed.iter().map(named));
                    self.skipped.extend(report.tests.skipped.iter().map(named));
                    self.long.extend(report.tests.long.iter().map(|(took, test)| (*took, named(test))));
                }
            }
        }
    }

    /// On a real Kubernetes. Where one cannot be had each test says so and is skipped.
    fn cluster(&mut self) {
        if missing().is_none() {
            self.begin("start of the cluster");
            if let Err(error) = cluster::up() {
                return self.fail("start of the cluster", &format!("{error:#}"));
            }
        }
        match cluster::tests(&cluster::Selection::default()) {
            Ok(mut tests) => self.tests("cluster", &mut tests),
            Err(error) => self.fail("cluster", &format!("{error:#}")),
        }
        if let Err(error) = control::down() {
            self.fail("end of the cluster", &format!("{error:#}"));
        }
    }

    fn fail(&mut self, name: &str, why: &str) {
        self.failed.push(format!("{name}: {why}"));
        eprintln!("{name}: {why}");
    }

    /// Shows the output as it comes and reads the harness's lines from it; whether all passed.
    fn count(&mut self, name: &str, command: &mut Command) -> Result<bool> {
        let mut harness = Harness::default();
        let done = lines(command, |line| {
            println!("{line}");
            harness.read(line);
        });
        let named = |test: String| format!("{name}: {test}");
        self.passed += harness.passed.len() as u32;
        self.failed.extend(harness.failed.into_iter().map(named));
        self.skipped.extend(harness.skipped.into_iter().map(named));
        self.long.extend(harness.long.into_iter().map(|(took, test)| (took, named(test))));
        done
    }

    fn close(mut self) -> Result<()> {
        println!();
        self.long.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        for (took, test) in self.long.iter().take(MOST_LONG) {
            println!("slow     {} s: {test}", took.as_secs());
        }
        for skipped in &self.skipped {
            println!("skipped  {skipped}");
        }
        for failed in &self.failed {
            println!("FAILED   {failed}");
        }
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped.len());
        println!(
            "{passed} passed, {failed} failed, {skipped} skipped, in {} s",
            self.began.elapsed().as_secs()
        );
        if failed > 0 {
            bail!("{failed} failed");
        }
        Ok(())
    }
}

/// Gives every line of the output as it comes; whether the command succeeded.
fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let shown = shell::show(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().context("no pipe")?;
    for line in BufReader::new(stdout).lines() {
        each(&line.with_context(|| format!("cannot read from `{shown}`"))?);
    }
    Ok(child.wait().with_context(|| format!("cannot wait for `{shown}`"))?.success())
}
