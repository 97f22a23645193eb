//! A benchmark that is interrupted (SIGINT, SIGTERM, SIGHUP) leaves nothing behind: no daemon, no cgroup, no folder.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::group;

/// Child processes that are to end with this one, beside those in groups.
fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn started(child: &Child) {
    running().insert(child.id());
}

/// It has been waited for: its number may soon be another's.
pub fn ended(child: &Child) {
    running().remove(&child.id());
}

/// From now on.
pub fn clean_up(directory: PathBuf) -> Result<()> {
    let handler = move || {
        eprintln!("interrupted: removing what was made");
        running().iter().for_each(|pid| terminate(*pid));
        group::remove_all();
        let _ = fs::remove_dir_all(&directory); // gone is what is wanted
        std::process::exit(130);
    };
    ctrlc::set_handler(handler).context("cannot handle signals")
}

/// Runs a program that cleans up when it is interrupted, and waits for that.
pub fn run(command: &mut Command) -> Result<()> {
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let pid = child.id();
    // A terminal tells both; whoever stops a service only this one.
    ctrlc::set_handler(move || terminate(pid)).context("cannot handle signals")?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, Signal::TERM)); // ended already is what is wanted
}
