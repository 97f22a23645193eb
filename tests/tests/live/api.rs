//! The agent and the ledger beside an API that fails as overloaded servers and proxies do. The API is a mock; the
//! containers, their starts and their kills are real. After each failure everything is as it would have been.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use observer_tests::{
    daemon::{self, sum},
    mock_api::{Answers, MockApi},
    pod::{self, Pod},
};

use super::kernel::{MIB, daemon};
use crate::{
    Case,
    Needs::{Nothing, Probes},
    Stage,
};

pub const CASES: &[Case] = &[
    Case {
        name: "starts_and_kills_during_each_failure_of_the_api_are_counted_once",
        needs: Probes,
        run: agent,
    },
    Case {
        name: "the_ledger_counts_each_change_once_through_each_failure_of_the_api",
        needs: Nothing,
        run: ledger,
    },
];

/// A client that was refused for long tries again after half a minute at the latest.
const BACK: Duration = Duration::from_secs(60);

fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    daemon::until(what, BACK, Duration::from_millis(100), is_so)
}

/// The first failure alone, the others in pairs, each through an agent and an API of its own and all at once: most of
/// it is waiting for the next try. The second of a pair meets a client that has been refused and has counted
/// something: what a list made anew must not count again.
fn agent(stage: &Stage) -> Result<()> {
    let failures: Vec<(u32, Answers)> = (0..).zip(Answers::FAILURES).collect();
    thread::scope(|scope| {
        let agents: Vec<_> =
            failures.rchunks(2).map(|pair| (pair, scope.spawn(move || agent_through(stage, pair)))).collect();
        agents.into_iter().try_for_each(|(pair, tried)| {
            let tried = tried.join().unwrap_or_else(|_| Err(anyhow!("the test panicked")));
            tried.with_context(|| format!("{pair:?}"))
        })
    })
}

/// The numbers are those of the pods.
fn agent_through(stage: &Stage, failures: &[(u32, Answers)]) -> Result<()> {
    let directory = stage.directory.join(format!("agent-{}", failures.first().map_or(0, |(n, _)| *n)));
    fs::create_dir_all(&directory)?;
    let api = MockApi::start()?;
    pod::workload(&api, "flaky", "shop", 1);
    let kubeconfig = api.kubeconfig(&directory)?.display().to_string();
    let daemon = daemon(stage, &["--node-name", "mock", "--kubeconfig", &kubeconfig])?;
    let count =
        |name: &str| Ok::<_, anyhow::Error>(daemon.metric(name, &["namespace=\"flaky\""])?.unwrap_or(0.0));
    until("it stands", || Ok(daemon.metric("observer_kubernetes_up", &[])? == Some(1.0)))?;
    let (mut pods, mut kills) = (Vec::new(), 0);
    for &(n, failure) in failures {
        api.answer(failure);
        let before = api.refused();
        until("it notices", || Ok(api.refused() > before))?;
        let pod = Pod::make(stage.tree()?, "flaky", "shop", n, 1)?;
        let group = &pod.groups[0];
        group.limit(8 * MIB)?;
        let first = group.spawn("/bin/sleep".as_ref(), &["600"])?;
        pod.report(&api, n);
        let mut storm = Command::new(&stage.workload);
        storm.args(["storm", "--birth", "fork", "--kills", "3", "--group"]).arg(group.directory());
        ensure!(storm.stdout(Stdio::null()).status()?.success(), "the storm failed");
        kills += group.oom_kills()?;
        pods.push((first, pod));
        sleep(Duration::from_secs(3)); // a few tries
        api.answer(Answers::Well);
        let wanted = (pods.len() as f64, kills as f64);
        until(&format!("all is counted after {failure:?}"), || {
            let counted =
                (count("observer_workload_starts_total")?, count("observer_workload_oom_kills_total")?);
            Ok(counted == wanted && daemon.metric("observer_kubernetes_up", &[])? == Some(1.0))
        })
        .map_err(|error| error.context(format!("wanted {wanted:?}; log:\n{}", daemon.log_text())))?;
        println!("{failure:?}: {} starts, {} kills", wanted.0, wanted.1);
    }
    ensure!(api.early() == 0, "{} requests came before Retry-After was over", api.early());
    sleep(Duration::from_secs(5)); // not one more
    let counted = (count("observer_workload_starts_total")?, count("observer_workload_oom_kills_total")?);
    ensure!(counted == (pods.len() as f64, kills as f64), "{counted:?} of {} and {kills}", pods.len());
    let text = daemon.get("/metrics")?;
    let by_uid =
        text.lines().find(|line| pods.iter().any(|(_, pod)| line.contains(&format!("\"{}\"", pod.uid))));
    ensure!(by_uid.is_none(), "one is still reported by its uid: {by_uid:?}");
    let dropped = sum(&text, "observer_unattributed_events_total", &[]).unwrap_or(0.0);
    ensure!(dropped == 0.0, "{dropped} events were dropped");
    for (mut first, _) in pods {
        ensure!(first.try_wait()?.is_none(), "a first process is gone");
        first.kill()?;
        first.wait()?;
    }
    Ok(())
}

struct Ledger(Child);

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already is what is wanted
        let _ = self.0.wait();
    }
}

/// A ledger and an API for each failure, all at once: most of it is waiting for the next try.
fn ledger(stage: &Stage) -> Result<()> {
    thread::scope(|scope| {
        let tries: Vec<_> = Answers::FAILURES
            .into_iter()
            .map(|failure| (failure, scope.spawn(move || ledger_through(stage, failure))))
            .collect();
        tries.into_iter().try_for_each(|(failure, tried)| {
            let tried = tried.join().unwrap_or_else(|_| Err(anyhow!("the test panicked")));
            tried.with_context(|| format!("{failure:?}"))
        })
    })
}

fn ledger_through(stage: &Stage, failure: Answers) -> Result<()> {
    let directory = stage.directory.join(format!("ledger-{failure:?}"));
    fs::create_dir_all(&directory)?;
    let api = MockApi::start()?;
    pod::workload(&api, "flaky", "shop", 1);
    let files = ["ledger.crt", "ledger.key", "ledger.log"].map(|name| directory.join(name));
    let (_, cert, key) = observer::ledger::certificate::generate(&["observer-ledger.flaky.svc".to_owned()])?;
    fs::write(&files[0], cert)?;
    fs::write(&files[1], key)?;
    let at = format!("127.0.0.1:{}", daemon::free_port()?);
    let mut command = Command::new(&stage.observer);
    command.args(["ledger", "--listen", "127.0.0.1:0", "--metrics-listen", &at, "--cert"]).arg(&files[0]);
    command.arg("--key").arg(&files[1]).arg("--kubeconfig").arg(api.kubeconfig(&directory)?);
    let _ledger = Ledger(command.stdin(Stdio::null()).stderr(fs::File::create(&files[2])?).spawn()?);
    let log = || fs::read_to_string(&files[2]).unwrap_or_default();
    until("it is ready", || Ok(daemon::get(&format!("http://{at}/readyz")).is_ok()))
        .map_err(|error| error.context(log()))?;
    let metrics = || daemon::get(&format!("http://{at}/metrics"));
    let changes =
        || Ok::<_, anyhow::Error>(sum(&metrics()?, "observer_ledger_scale_events_total", &[]).unwrap_or(0.0));
    let stand = || -> Result<bool> {
        let text = metrics()?;
        let down =
            text.lines().any(|line| line.starts_with("observer_ledger_watch_up{") && line.ends_with(" 0"));
        Ok(!down)
    };
    // Twice: after the first it waits longer before it tries again.
    for replicas in [2, 3] {
        api.answer(failure);
        let before = api.refused();
        until("it notices", || Ok(api.refused() > before))?;
        pod::workload(&api, "flaky", "shop", replicas);
        sleep(Duration::from_secs(2)); // a few tries
        api.answer(Answers::Well);
        let wanted = f64::from(replicas - 1);
        until("the change is counted", || Ok(changes()? == wanted && stand()?))
            .map_err(|error| error.context(format!("wanted {wanted}:\n{}", log())))?;
    }
    sleep(Duration::from_secs(3)); // not one more
    ensure!(changes()? == 2.0, "{} changes of 2", changes()?);
    ensure!(log().contains("these accounts may ask: flaky:observer"), "{}", log());
    ensure!(!log().contains("panicked"), "{}", log());
    Ok(())
}
