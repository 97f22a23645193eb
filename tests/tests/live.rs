//! The observer on the kernel of this machine: each probe is provoked for real, and the metrics are read as Prometheus
//! reads them. A machine that cannot run a test reports it as ignored, with the reason in its name.

mod live {
    pub mod api;
    pub mod fallback;
    pub mod growth;
    pub mod host;
    pub mod incidents;
    pub mod kernel;
    pub mod kills;
    pub mod limit;
    pub mod pass;
    pub mod place;
    pub mod prometheus;
    pub mod simulated;
    pub mod top;
}

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use observer_tests::{daemon::Daemon, group::Tree};

/// A test, and what it needs.
pub struct Case {
    pub name: &'static str,
    pub needs: Needs,
    pub run: fn(&Stage) -> anyhow::Result<()>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Needs {
    Nothing,
    /// Memory cgroups of its own.
    Cgroups,
    /// Root, BTF, and an observer with the eBPF object in it.
    Probes,
    /// And cgroup v2.
    V2,
    /// And files whose page cache can be dropped: not so where all of them are in memory (`TEST_FILES`).
    Disk,
    /// And cgroup v1's freezer, which keeps a process from dying.
    Freezer,
    /// And PSI per cgroup.
    Pressure,
    /// And functions that can be hooked: no lockdown.
    Trampolines,
    /// And a machine nobody minds running out of memory: `TEST_MAY_EXHAUST=1`, as in the virtual machines.
    Disposable,
    /// And Prometheus with promtool.
    Prometheus,
    /// tmux, and nothing else.
    Terminal,
    TerminalAndProbes,
}

/// What the tests share.
pub struct Stage {
    pub observer: std::path::PathBuf,
    pub workload: std::path::PathBuf,
    pub directory: std::path::PathBuf,
    tree: Option<Tree>,
    daemon: Mutex<Option<Arc<Daemon>>>,
}

impl Stage {
    /// The one that all tests share which need no settings of their own: loading the programs is what takes long.
    pub fn daemon(&self) -> anyhow::Result<Arc<Daemon>> {
        let mut shared = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = &*shared {
            return Ok(Arc::clone(daemon));
        }
        let mut daemon = Daemon::start(&self.observer, &self.directory, &[])?;
        daemon.ready(Duration::from_secs(10))?;
        Ok(Arc::clone(shared.insert(Arc::new(daemon))))
    }

    pub fn tree(&self) -> anyhow::Result<&Tree> {
        self.tree.as_ref().ok_or_else(|| anyhow::anyhow!("no cgroups can be made here"))
    }
}

fn main() {
    let conclusion = run();
    conclusion.exit();
}

fn run() -> Conclusion {
    let arguments = Arguments::from_args();
    let directory = std::env::temp_dir().join(format!("observer-live-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let binary = |name| {
        observer_tests::daemon::binary(name)
            .unwrap_or_else(|error| panic!("{error:#}; run `cargo xtask test`"))
    };
    let tree = Tree::find();
    let no_tree = tree.as_ref().err().map(|error| format!("{error:#}"));
    let stage = Arc::new(Stage {
        observer: binary("observer"),
        workload: binary("workload"),
        directory: directory.clone(),
        tree: tree.ok(),
        daemon: Mutex::default(),
    });
    let no_probes = no_tree.clone().or_else(|| live::host::cannot_probe(&stage));
    let no_trampolines = match no_probes {
        None => live::fallback::trampolines_refused(&stage),
        Some(_) => None,
    };
    let trials = [
        live::host::CASES,
        live::kernel::CASES,
        live::pass::CASES,
        live::place::CASES,
        live::growth::CASES,
        live::incidents::CASES,
        live::kills::CASES,
        live::api::CASES,
        live::limit::CASES,
        live::fallback::CASES,
        live::prometheus::CASES,
        live::simulated::CASES,
        live::top::CASES,
    ]
    .concat_cases()
    .into_iter()
    .map(|case| trial(case, &stage, no_tree.as_deref(), no_probes.as_deref(), no_trampolines.as_deref()))
    .collect();
    // One after the other: they share the machine's memory and each watches its own cgroups.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let conclusion = libtest_mimic::run(&arguments, trials);
    let _ = std::fs::remove_dir_all(directory);
    conclusion
}

fn trial(
    case: &'static Case,
    stage: &Arc<Stage>,
    no_tree: Option<&str>,
    no_probes: Option<&str>,
    no_trampolines: Option<&str>,
) -> Trial {
    let prometheus = (case.needs == Needs::Prometheus).then(live::prometheus::missing).flatten();
    let skipped = match case.needs {
        Needs::Nothing => None,
        Needs::Cgroups => no_tree.map(str::to_owned),
        Needs::Probes => no_probes.map(str::to_owned),
        Needs::V2 => {
            let v1 = stage.tree.as_ref().is_some_and(Tree::is_v1);
            no_probes.map(str::to_owned).or(v1.then(|| "the memory controller is on cgroup v1".to_owned()))
        }
        Needs::Disk => {
            let none = std::env::var_os("TEST_FILES").is_some();
            no_probes.map(str::to_owned).or(none.then(|| "no file system on a disk here".to_owned()))
        }
        Needs::Freezer => {
            let there = std::path::Path::new("/sys/fs/cgroup/freezer/tasks").exists();
            no_probes
                .map(str::to_owned)
                .or((!there).then(|| "no freezer of cgroup v1 on this host".to_owned()))
        }
        Needs::Pressure => {
            let reported = stage.tree.as_ref().is_some_and(Tree::has_pressure);
            no_probes.map(str::to_owned).or((!reported).then(|| "no PSI per cgroup on this host".to_owned()))
        }
        Needs::Trampolines => no_probes.or(no_trampolines).map(str::to_owned),
        Needs::Disposable => {
            let allowed = std::env::var_os("TEST_MAY_EXHAUST").is_some();
            let why = "it exhausts the machine's memory, and TEST_MAY_EXHAUST is not set";
            no_probes.map(str::to_owned).or((!allowed).then(|| why.to_owned()))
        }
        Needs::Terminal => live::top::missing(),
        Needs::TerminalAndProbes => no_probes.map(str::to_owned).or_else(live::top::missing),
        Needs::Prometheus => no_probes.map(str::to_owned).or(prometheus),
    };
    let stage = Arc::clone(stage);
    let run = move || {
        (case.run)(&stage).map_err(|error| {
            // At once: a machine that does not get to the end prints no summary.
            println!("FAILURE {}: {error:#}", case.name);
            Failed::from(format!("{error:#}"))
        })
    };
    match skipped {
        Some(why) => Trial::test(format!("{} (skipped: {why})", case.name), run).with_ignored_flag(true),
        None => Trial::test(case.name, run),
    }
}

trait ConcatCases {
    fn concat_cases(self) -> Vec<&'static Case>;
}

impl<const N: usize> ConcatCases for [&'static [Case]; N] {
    fn concat_cases(self) -> Vec<&'static Case> {
        self.into_iter().flatten().collect()
    }
}
