//! The observer as a child process, asked over HTTP as everybody else asks it.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{group::Group, interrupted};

/// On a slow machine (an emulated one) every wait, and the time between two questions, is this many times as long:
/// `TEST_PATIENCE`.
pub fn patience() -> u32 {
    std::env::var("TEST_PATIENCE").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Asks `every` so often, until it is so.
pub fn until(what: &str, within: Duration, every: Duration, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        ensure!(began.elapsed() < within * patience(), "{what}: not within {within:?}");
        sleep(every * patience());
    }
    Ok(())
}

pub struct Daemon {
    child: Child,
    pub address: String,
    pub log: PathBuf,
    pub started: Instant,
}

/// The workspace's binaries are beside the test's own.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find where this program is")?;
    let beside =
        me.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    beside.with_context(|| format!("no binary {name} near {}; run `cargo xtask test`", me.display()))
}

/// A port of the loopback nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .context("no free port")?
        .port())
}

impl Daemon {
    pub fn start(observer: &Path, directory: &Path, args: &[&str]) -> Result<Self> {
        Self::start_by(Command::new(observer), directory, args)
    }

    /// The same in a group of its own, whose limit is its limit.
    pub fn start_in(group: &Group, observer: &Path, directory: &Path, args: &[&str]) -> Result<Self> {
        Self::start_by(group.command(observer), directory, args)
    }

    fn start_by(mut command: Command, directory: &Path, args: &[&str]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let log = directory.join(format!("observer-{}.log", address.rsplit(':').next().unwrap_or_default()));
        let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let started = Instant::now();
        let child = command
            .args(["run", "--listen", &address])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("cannot start the observer")?;
        interrupted::started(&child);
        Ok(Self { child, address, log, started })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn get(&self, path: &str) -> Result<String> {
        get(&format!("http://{}{path}", self.address))
    }

    /// Waits until /readyz says so; returns how long it took from the start of the process.
    pub fn ready(&mut self, within: Duration) -> Result<Duration> {
        let within = within * patience();
        while self.started.elapsed() < within {
            if let Some(status) = self.child.try_wait()? {
                bail!("the observer ended with {status}:\n{}", self.log_text());
            }
            if self.get("/readyz").is_ok() {
                return Ok(self.started.elapsed());
            }
            sleep(Duration::from_millis(10) * patience());
        }
        bail!("not ready within {within:?}:\n{}", self.log_text())
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The sum of the samples of a family whose line holds all of `with`.
    pub fn metric(&self, name: &str, with: &[&str]) -> Result<Option<f64>> {
        let mut text = self.get("/metrics")?;
        if name.starts_with("observer_workload_history_") {
            text += &self.get("/metrics/history")?;
        }
        Ok(sum(&text, name, with))
    }

    /// Asks again until the metric satisfies `accept`; the error holds the last value.
    pub fn wait_metric(
        &self,
        name: &str,
        with: &[&str],
        within: Duration,
        accept: impl Fn(f64) -> bool,
    ) -> Result<f64> {
        let (began, within) = (Instant::now(), within * patience());
        loop {
            let value = self.metric(name, with);
            match value {
                Ok(Some(value)) if accept(value) => return Ok(value),
                _ if began.elapsed() > within => {
                    bail!("{name}{with:?} is {value:?} after {within:?}; log:\n{}", self.log_text())
                }
                _ => sleep(Duration::from_millis(50) * patience()),
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("the daemon has no pid")?;
        kill_process(pid, signal).context("cannot signal the daemon")
    }

    /// SIGTERM, and the exit status.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(Duration::from_secs(10))
    }

    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let (began, within) = (Instant::now(), within * patience());
        while began.elapsed() < within {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(10) * patience());
        }
        bail!("the observer did not end within {within:?}:\n{}", self.log_text())
    }
}

/// The body of a successful answer.
pub fn get(url: &str) -> Result<String> {
    let bounded = ureq::get(url).config().timeout_global(Some(Duration::from_secs(10) * patience())).build();
    let mut response = bounded.call().with_context(|| format!("GET {url}"))?;
    // A node of thousands of containers answers with tens of MiB.
    response.body_mut().with_config().limit(1 << 30).read_to_string().with_context(|| format!("GET {url}"))
}

/// Sum over the samples of one family in the text format; `None` if there is no such sample.
pub fn sum(exposition: &str, name: &str, with: &[&str]) -> Option<f64> {
    exposition
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| with.iter().all(|part| line.contains(part)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .reduce(|sum, value| sum + value)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill(); // ended already is what is wanted
        let _ = self.child.wait();
        interrupted::ended(&self.child);
    }
}
