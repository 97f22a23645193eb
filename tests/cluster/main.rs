//! The observer on a real Kubernetes: why containers start, outages of the API, deploy/ as a user applies it, and a
//! whole scale-up with Prometheus beside it. `cargo xtask cluster test` starts the cluster and runs these tests on it;
//! without one each is reported as ignored, with the reason in its name.

mod bad_input;
mod causes;
mod chart;
mod deployed;
mod e2e;
mod grafana;
mod lend;
mod links;
mod mounts;
mod network;
mod odd_objects;
mod outage;
mod proxy;
mod queries;
mod scenes;
mod scrape;
mod secured;
mod upgrade;
mod why;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, Result, anyhow};
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use observer_tests::{
    cluster::{Cluster, HOME, control, missing},
    daemon, oci, shell,
};
use scenes::Scene;

/// A test, and what must be deployed for it.
pub struct Case {
    name: String,
    deployed: Deployed,
    /// Why it runs only on request.
    on_request: Option<&'static str>,
    run: Run,
}

type Run = Box<dyn Fn(&Suite) -> Result<()> + Send + Sync>;

pub fn case(
    name: impl Into<String>,
    deployed: Deployed,
    run: impl Fn(&Suite) -> Result<()> + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), deployed, on_request: None, run: Box::new(run) }
}

/// What of deploy/ is applied to the cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deployed {
    Nothing,
    Secured,
    WithLedger,
    WithLender,
}

/// What the tests share. What takes minutes is done once, for the first test that looks at it.
pub struct Suite {
    pub cluster: Cluster,
    pub observer: PathBuf,
    /// The program that reports to the HPA how deep its queue is.
    pub queue: PathBuf,
    /// `None` is what an interrupted run left.
    deployed: Mutex<Option<Deployed>>,
    image: OnceLock<Result<(), String>>,
    /// Those whose tests are not filtered out.
    scenes: Vec<&'static Scene>,
    causes: OnceLock<Result<causes::Played, String>>,
    scale_up: OnceLock<Result<e2e::Played, String>>,
}

impl Suite {
    fn bring(&self, wanted: Deployed) -> Result<()> {
        let mut now = self.deployed.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == Some(wanted) {
            return Ok(());
        }
        if matches!(*now, None | Some(Deployed::Secured)) {
            secured::remove(&self.cluster)?;
        }
        if matches!(*now, None | Some(Deployed::WithLedger)) {
            deployed::remove(&self.cluster)?;
        }
        if matches!(*now, None | Some(Deployed::WithLender)) {
            lend::remove(&self.cluster)?;
        }
        *now = None;
        match wanted {
            Deployed::Nothing => {}
            Deployed::Secured => secured::apply(self)?,
            Deployed::WithLedger => deployed::apply(self)?,
            Deployed::WithLender => lend::apply(self)?,
        }
        *now = Some(wanted);
        Ok(())
    }

    /// Makes the image known to the node: as it is shipped but for the optimisation, which would take minutes.
    pub fn import_image(&self) -> Result<()> {
        let import = || {
            let tar = Path::new(HOME).join("observer.tar");
            let files = [("observer", self.observer.clone())];
            oci::write(&tar, oci::NAME, oci::HOST, &files, &["/observer"])?;
            control::import(&tar)
        };
        once(&self.image, import).copied()
    }

    /// A Secret with a certificate, as the observer makes it.
    pub fn secret(&self, args: &[&str]) -> Result<String> {
        shell::output(Command::new(&self.observer).arg("ledger-secret").args(args))
    }

    fn end(&self) -> Result<()> {
        if self.scale_up.get().is_some() {
            e2e::remove(&self.cluster)?;
        }
        let touched = self.deployed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if touched { self.bring(Deployed::Nothing) } else { Ok(()) }
    }
}

/// Done by the first who asks; its error is everybody's.
pub fn once<T>(of: &OnceLock<Result<T, String>>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    of.get_or_init(|| make().map_err(|error| format!("{error:#}"))).as_ref().map_err(|why| anyhow!("{why}"))
}

/// The files a Secret holds.
pub fn write_files(secret: &str, directory: &Path) -> Result<()> {
    let secret: serde_json::Value = serde_saphyr::from_str(secret).context("the Secret is no YAML")?;
    fs::create_dir_all(directory)?;
    for (name, text) in secret["stringData"].as_object().context("the Secret holds nothing")? {
        fs::write(directory.join(name), text.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// Why nothing can be tested, if so.
fn no_cluster() -> Option<String> {
    if let Some(missing) = missing() {
        return Some(missing.to_owned());
    }
    if !cfg!(target_feature = "crt-static") {
        return Some("the observer is not linked statically: cargo xtask cluster test".to_owned());
    }
    Cluster::running().is_none().then(|| "no cluster is up: cargo xtask cluster test".to_owned())
}

fn main() {
    match run() {
        Ok(conclusion) => conclusion.exit(),
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
}

fn run() -> Result<Conclusion> {
    let arguments = Arguments::from_args();
    let cases = [
        causes::cases(),
        outage::cases(),
        network::cases(),
        grafana::cases(),
        chart::cases(),
        bad_input::cases(),
        mounts::cases(),
        secured::cases(),
        deployed::cases(),
        odd_objects::cases(),
        upgrade::cases(),
        why::cases(),
        e2e::cases(),
        lend::cases(),
    ];
    let suite = Arc::new(Suite {
        cluster: Cluster::here()?,
        observer: daemon::binary("observer")?,
        queue: daemon::binary("examples/queue")?,
        deployed: Mutex::new(None),
        image: OnceLock::new(),
        scenes: causes::wanted(&arguments),
        causes: OnceLock::new(),
        scale_up: OnceLock::new(),
    });
    let skipped = if arguments.list { None } else { no_cluster() };
    let trials =
        cases.into_iter().flatten().map(|case| trial(case, &suite, skipped.as_deref())).collect::<Vec<_>>();
    // One after the other: they share the node's memory and what is deployed.
    let conclusion = libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials);
    suite.end().context("while removing what the tests made")?;
    Ok(conclusion)
}

fn trial(case: Case, suite: &Arc<Suite>, no_cluster: Option<&str>) -> Trial {
    let Case { name, deployed, on_request, run } = case;
    let (suite, title) = (Arc::clone(suite), name.clone());
    let play = move || {
        suite.bring(deployed).with_context(|| format!("while deploying {deployed:?}"))?;
        run(&suite)
    };
    let play = move || {
        play().map_err(|error: anyhow::Error| {
            // At once, for whoever looks on, and for the closing lines.
            println!("FAILURE {title}: {error:#}");
            Failed::from(format!("{error:#}"))
        })
    };
    match no_cluster.or(on_request) {
        Some(why) => Trial::test(format!("{name} (skipped: {why})"), play).with_ignored_flag(true),
        None => Trial::test(name, play),
    }
}
