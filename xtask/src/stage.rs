//! Plays scenes: real processes in memory cgroups of their own, each entering at its second.

use std::{
    path::{Path, PathBuf},
    process::Child,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use observer_tests::group::{Group, Tree};

/// One process in one cgroup.
#[derive(Clone, Copy)]
pub struct Role {
    /// Workload and container, as `web/1`.
    pub name: &'static str,
    /// Seconds into the scene.
    pub at: u64,
    pub limit_mib: Option<u64>,
    /// Arguments of the `workload` program.
    pub args: &'static str,
    /// What a spectator will see; may be empty.
    pub expect: &'static str,
}

pub const fn role(
    name: &'static str,
    at: u64,
    limit_mib: Option<u64>,
    args: &'static str,
    expect: &'static str,
) -> Role {
    Role { name, at, limit_mib, args, expect }
}

/// A cgroup that several roles share, with a limit of its own.
pub struct Shared {
    pub name: &'static str,
    pub limit_mib: u64,
}

/// The cgroups of a scene, removed when it is dropped.
pub struct Stage {
    tree: Tree,
    root: &'static str,
    workload: PathBuf,
    cast: Vec<(Role, Option<(Group, Child)>)>,
    // Made first, removed last.
    _shared: Vec<Group>,
    _root: Group,
}

impl Stage {
    pub fn new(
        tree: Tree,
        root: &'static str,
        workload: &Path,
        cast: &[Role],
        shared: &[Shared],
    ) -> Result<Self> {
        let made = tree.group(root)?;
        let mut groups = Vec::new();
        for shared in shared {
            let group = tree.group(&format!("{root}/{}", shared.name))?;
            group.limit(shared.limit_mib << 20)?;
            groups.push(group);
        }
        let cast = cast.iter().map(|role| (*role, None)).collect();
        Ok(Self { tree, root, workload: workload.to_owned(), cast, _shared: groups, _root: made })
    }

    /// Lets everyone enter at their time, until `seconds` are over or someone interrupts; then all leave.
    pub fn play(&mut self, seconds: u64, interrupted: &AtomicBool) -> Result<()> {
        self.begin(seconds, interrupted)?;
        for (group, child) in self.cast.iter_mut().filter_map(|(_, slot)| slot.as_mut()) {
            end(group, child);
        }
        Ok(())
    }

    /// The same, and all stay.
    pub fn begin(&mut self, seconds: u64, interrupted: &AtomicBool) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) && !interrupted.load(Ordering::Relaxed) {
            for at in 0..self.cast.len() {
                let role = self.cast[at].0;
                if self.cast[at].1.is_some() || began.elapsed() < Duration::from_secs(role.at) {
                    continue;
                }
                // A restart takes the place of the one before it.
                for (other, slot) in &mut self.cast[..at] {
                    if other.name == role.name
                        && let Some((group, child)) = slot
                    {
                        end(group, child);
                    }
                }
                self.cast[at].1 = Some(self.enter(&role)?);
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn enter(&self, role: &Role) -> Result<(Group, Child)> {
        if !role.expect.is_empty() {
            println!("    [demo] {}: {}", role.name, role.expect);
        }
        let group = self.tree.group(&format!("{}/{}", self.root, role.name))?;
        if let Some(limit) = role.limit_mib {
            group.limit(limit << 20)?;
        }
        let args: Vec<&str> = role.args.split(' ').collect();
        let child = group.spawn(&self.workload, &args)?;
        Ok((group, child))
    }
}

fn end(group: &mut Group, child: &mut Child) {
    group.remove();
    let _ = child.wait(); // it is killed; its status is no news
}
