//! A memory cgroup made for a test, v1 or v2, with processes put into it before they exec.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Where tests may make memory cgroups.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    v1: bool,
}

impl Tree {
    /// Finds the memory controller; `Err` says why no cgroup can be made here.
    pub fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let mount = |of: &dyn Fn(&str, &str) -> bool| {
            mounts.lines().find_map(|line| {
                let mut words = line.split(' ').skip(1);
                let (point, kind, options) = (words.next()?, words.next()?, words.next()?);
                of(kind, options).then(|| PathBuf::from(point))
            })
        };
        let v1 = mount(&|kind, options| kind == "cgroup" && options.split(',').any(|o| o == "memory"));
        let (root, v1) = match (v1, mount(&|kind, _| kind == "cgroup2")) {
            (Some(root), _) => (root, true),
            (None, Some(root)) => (root, false),
            (None, None) => bail!("no cgroup hierarchy is mounted"),
        };
        let tree = Self { root, v1 };
        let probe = tree.group(&format!("observer-probe-{}", std::process::id()))?;
        let has_memory =
            probe.directory.join(if v1 { "memory.usage_in_bytes" } else { "memory.current" }).exists();
        drop(probe);
        if !has_memory {
            bail!("the memory controller cannot be enabled under {}", tree.root.display());
        }
        Ok(tree)
    }

    pub fn is_v1(&self) -> bool {
        self.v1
    }

    /// Whether groups report their pressure: v2, with PSI on.
    pub fn has_pressure(&self) -> bool {
        let probe = self.group(&format!("observer-psi-{}", std::process::id()));
        !self.v1 && probe.is_ok_and(|probe| fs::read(probe.directory.join("memory.pressure")).is_ok())
    }

    /// Makes `/<path>`, parents too; what was made is removed on drop, parents with the last group below them.
    pub fn group(&self, path: &str) -> Result<Group> {
        let mut directory = self.root.clone();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for part in &parts {
            if !self.v1 {
                // Fails harmlessly where it is already on.
                let _ = fs::write(directory.join("cgroup.subtree_control"), "+memory");
            }
            directory.push(part);
            let mut made = made(); // before it is there: see `remove_all`
            if !directory.is_dir() {
                fs::create_dir(&directory)
                    .with_context(|| format!("cannot make cgroup {}", directory.display()))?;
                made.insert(directory.clone(), 0);
            }
        }
        if let Some(holders) = made().get_mut(&directory) {
            *holders += 1;
        }
        Ok(Group { held: true, directory, path: format!("/{}", parts.join("/")), v1: self.v1 })
    }
}

/// What this process made and has not removed, and how many `Group`s each directory has. Groups share parents: the last
/// one below a parent that has none of its own removes it, whichever made it.
fn made() -> MutexGuard<'static, BTreeMap<PathBuf, usize>> {
    static MADE: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
    path: String,
    v1: bool,
    /// It is counted among the holders of its directory.
    held: bool,
}

impl Group {
    /// Path in the hierarchy, as the observer reports it.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn limit(&self, bytes: u64) -> Result<()> {
        self.write(if self.v1 { "memory.limit_in_bytes" } else { "memory.max" }, &bytes.to_string())
    }

    pub fn limit_now(&self) -> Result<u64> {
        self.number(if self.v1 { "memory.limit_in_bytes" } else { "memory.max" })
    }

    /// The OOM killer takes all of the group or nothing (v2, v4.19).
    pub fn kill_as_one(&self) -> Result<()> {
        self.write("memory.oom.group", "1")
    }

    /// Above this the kernel slows the group down (v2).
    pub fn throttle(&self, bytes: u64) -> Result<()> {
        self.write("memory.high", &bytes.to_string())
    }

    pub fn usage(&self) -> Result<u64> {
        self.number(if self.v1 { "memory.usage_in_bytes" } else { "memory.current" })
    }

    /// Highest usage since the group was made; `None` where the kernel does not keep it (v2 before v5.19).
    pub fn peak(&self) -> Option<u64> {
        self.number(if self.v1 { "memory.max_usage_in_bytes" } else { "memory.peak" }).ok()
    }

    /// How many processes the kernel counts as OOM-killed in it.
    pub fn oom_kills(&self) -> Result<u64> {
        let path = self.directory.join(if self.v1 { "memory.oom_control" } else { "memory.events" });
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.with_context(|| format!("{} has no oom_kill: {text}", path.display()))
    }

    fn number(&self, file: &str) -> Result<u64> {
        let path = self.directory.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} says {text:?}", path.display()))
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
    }

    /// Starts a program in the group: the exec itself happens inside, as a container's entry point does.
    pub fn spawn(&self, program: &Path, args: &[&str]) -> Result<Child> {
        self.command(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {} in {}", program.display(), self.path))
    }

    /// A program that will exec in the group.
    pub fn command(&self, program: &Path) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(r#"echo $$ > "$0" && exec "$@""#);
        shell.arg(self.directory.join("cgroup.procs")).arg(program);
        shell
    }

    /// Kills what is in it and removes it; gives up after two seconds.
    pub fn remove(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        if !std::mem::take(&mut self.held) || !is_last(&self.directory) {
            return;
        }
        while !removed(&self.directory) {
            if Instant::now() > deadline {
                return;
            }
            kill_all(&self.directory);
            sleep(Duration::from_millis(10));
        }
        let mut above = self.directory.parent();
        while let Some(parent) = above {
            let unheld = made().get(parent) == Some(&0);
            if !unheld || !removed(parent) {
                return; // others still use it
            }
            above = parent.parent();
        }
    }
}

/// Kills what is in the groups of this process and removes them all; gives up after ten seconds. It can make none from
/// then on: for its end.
pub fn remove_all() {
    let made = made();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Those below come after those above.
    for directory in made.keys().rev() {
        while fs::remove_dir(directory).is_err() && directory.exists() && Instant::now() < deadline {
            kill_all(directory);
            sleep(Duration::from_millis(10));
        }
    }
    std::mem::forget(made);
}

fn kill_all(directory: &Path) {
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        let _ = kill_process(pid, Signal::KILL); // gone already is what is wanted
    }
}

/// One holder less; whether the directory is this process's and has none any more.
fn is_last(directory: &Path) -> bool {
    let mut made = made();
    let Some(holders) = made.get_mut(directory) else { return false };
    *holders = holders.saturating_sub(1);
    *holders == 0
}

fn removed(directory: &Path) -> bool {
    let gone = match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if gone {
        made().remove(directory);
    }
    gone
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_group_below_a_parent_removes_it() {
        let root = std::env::temp_dir().join(format!("observer-groups-{}", std::process::id()));
        fs::create_dir_all(root.join("theirs")).unwrap();
        let tree = Tree { root: root.clone(), v1: true };
        let groups = ["a/b/1", "a/b/2", "a/3", "theirs/4"].map(|path| tree.group(path).unwrap());
        let [one, two, three, four] = groups;
        drop(one); // it made both parents
        assert!(root.join("a/b/2").is_dir());
        drop(two);
        assert!(!root.join("a/b").exists());
        let a = tree.group("a").unwrap();
        drop(three);
        assert!(root.join("a").is_dir(), "it is held");
        drop(a);
        drop(four);
        let left: Vec<_> = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["theirs"]);
        fs::remove_dir_all(root).unwrap();
    }
}
