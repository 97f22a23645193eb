//! Kernels from Debian's packages, kept in target/vm. The machine's own package lists stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::cache;
use crate::{shell, statics::Arch};

pub struct Kernel {
    pub name: &'static str,
    pub arch: Arch,
    /// Of [`ON_ONE_KERNEL`], what is tried on this one.
    pub tries: &'static str,
    suite: &'static str,
    /// Of the package that holds vmlinuz; the highest that matches is taken.
    package: (&'static str, &'static str),
}

/// Tests of what differs by cgroup version and not by kernel, each on one of them: a daemon takes ten seconds to start
/// under emulation. What stands in for a probe that is taken away, and what the daemon makes of the tree and of its own
/// state.
const ON_ONE_KERNEL: [&str; 2] = [FALLBACKS, DAEMON];
const FALLBACKS: &str = "without_page_fault,without_growth,without_oom_,without_cgroup_life,without_process,\
                         without_reclaim,a_kernel_without,without_privileges";
const DAEMON: &str = "in_a_cgroup_namespace,a_hierarchy_mounted,start_ups_have_no_more_room,what_ran_before,\
                      a_restart_is_explained,a_group_inside_a_unit,counted_once_across_a_kill";

impl Kernel {
    /// Parts of the names of tests that others try, between commas.
    pub fn leaves_out(&self) -> String {
        ON_ONE_KERNEL.into_iter().filter(|tests| *tests != self.tries).collect::<Vec<_>>().join(",")
    }
}

const fn kernel(name: &'static str, suite: &'static str, prefix: &'static str) -> Kernel {
    Kernel { name, arch: Arch::Amd64, tries: "", suite, package: (prefix, "-cloud-amd64-unsigned") }
}

pub const KERNELS: [Kernel; 5] = [
    kernel("5.10", "bullseye", "linux-image-5.10."),
    kernel("6.1", "bookworm", "linux-image-6.1."),
    Kernel { tries: FALLBACKS, ..kernel("6.12", "trixie", "linux-image-6.12.") },
    // The image package is only a wrapper there.
    Kernel { tries: DAEMON, package: ("linux-binary-", "-cloud-amd64"), ..kernel("newest", "sid", "") },
    Kernel {
        name: "6.12-arm64",
        arch: Arch::Arm64,
        tries: "",
        suite: "trixie",
        package: ("linux-image-6.12.", "-cloud-arm64-unsigned"),
    },
];

/// Path of the kernel's image; downloaded at the first call.
pub fn fetch(kernel: &Kernel) -> Result<PathBuf> {
    let directory = cache().join(kernel.name);
    let vmlinuz = directory.join("vmlinuz");
    if vmlinuz.is_file() {
        return Ok(vmlinuz);
    }
    eprintln!("fetching kernel {}", kernel.name);
    let lists = Lists::new(kernel, &directory)?;
    lists.run("apt-get", &["update", "-qq"])?;
    let names = lists.run("apt-cache", &["pkgnames", kernel.package.0])?;
    let mut candidates: Vec<&str> =
        names.lines().filter(|name| name.ends_with(kernel.package.1) && !name.contains("-rt-")).collect();
    candidates.sort_by_key(|name| version(name));
    let package =
        candidates.last().with_context(|| format!("no package {}*{}", kernel.package.0, kernel.package.1))?;
    lists.take(package, "*/vmlinuz*", &vmlinuz)?;
    Ok(vmlinuz)
}

/// A busybox for the kernel's machine.
pub fn busybox(kernel: &Kernel) -> Result<PathBuf> {
    if kernel.arch == Arch::host() {
        return shell::find("busybox").context("busybox is not installed");
    }
    let directory = cache().join(kernel.name);
    let busybox = directory.join("busybox");
    if !busybox.is_file() {
        let lists = Lists::new(kernel, &directory)?;
        lists.run("apt-get", &["update", "-qq"])?;
        lists.take("busybox-static", "*/bin/busybox", &busybox)?;
    }
    Ok(busybox)
}

/// Numbers in a name, so that 6.12.9 comes before 6.12.10.
fn version(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn downloaded(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "deb"))
}

/// Package lists of their own.
struct Lists {
    directory: PathBuf,
    arch: Arch,
}

impl Lists {
    fn new(kernel: &Kernel, directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).context("cannot make the kernel's folder")?;
        }
        // Kernels only ever run inside the machine, so that keys this Debian does not have yet are no obstacle.
        let source = format!("deb [trusted=yes] {} {} main\n", mirror()?, kernel.suite);
        fs::write(directory.join("sources.list"), source)?;
        Ok(Self { directory: directory.to_owned(), arch: kernel.arch })
    }

    /// One file out of a package.
    fn take(&self, package: &str, path: &str, to: &Path) -> Result<()> {
        self.run("apt-get", &["download", "-qq", package])?;
        let deb = downloaded(&self.directory).context("apt-get downloaded nothing")?;
        let unpacked = self.directory.join("unpacked");
        shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
        let found = shell::output(Command::new("find").arg(&unpacked).args(["-path", path, "-type", "f"]))?;
        let file = found.lines().next().with_context(|| format!("{package} holds no {path}"))?;
        fs::copy(file, to).with_context(|| format!("cannot copy {file}"))?;
        fs::remove_dir_all(&unpacked)?;
        fs::remove_file(deb)?;
        Ok(())
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.current_dir(&self.directory);
        for (option, value) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.directory.join(value).display()));
        }
        command.args(["-o", &format!("APT::Architecture={}", self.arch.name())]);
        command.args([
            "-o",
            &format!("APT::Architectures={}", self.arch.name()),
            "-o",
            "Dir::Etc::sourceparts=-",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "Acquire::Languages=none",
        ]);
        shell::output(command.args(args))
    }
}

/// The Debian mirror this machine uses.
fn mirror() -> Result<String> {
    let targets =
        shell::output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(LABEL)"]))
            .context("kernels come from Debian's packages")?;
    let main = targets.lines().find_map(|line| line.strip_suffix(" Debian"));
    main.map(str::to_owned).context("apt knows no Debian mirror; run apt-get update")
}
