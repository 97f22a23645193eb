//! Kernels from Debian's packages, kept in target/vm. The machine's own package lists stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::cache;
use crate::shell;

pub struct Kernel {
    pub name: &'static str,
    suite: &'static str,
    /// Of the package that holds vmlinuz; the highest that matches is taken.
    package: (&'static str, &'static str),
}

const fn kernel(name: &'static str, suite: &'static str, prefix: &'static str) -> Kernel {
    Kernel { name, suite, package: (prefix, "-cloud-amd64-unsigned") }
}

pub const KERNELS: [Kernel; 4] = [
    kernel("5.10", "bullseye", "linux-image-5.10."),
    kernel("6.1", "bookworm", "linux-image-6.1."),
    kernel("6.12", "trixie", "linux-image-6.12."),
    // The image package is only a wrapper there.
    Kernel { name: "newest", suite: "sid", package: ("linux-binary-", "-cloud-amd64") },
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
    lists.run("apt-get", &["download", "-qq", package])?;
    let deb = downloaded(&directory).context("apt-get downloaded nothing")?;
    let unpacked = directory.join("unpacked");
    shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    let images =
        shell::output(Command::new("find").arg(&unpacked).args(["-name", "vmlinuz*", "-type", "f"]))?;
    let image = images.lines().next().with_context(|| format!("{package} holds no vmlinuz"))?;
    fs::copy(image, &vmlinuz).with_context(|| format!("cannot copy {image}"))?;
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(deb)?;
    Ok(vmlinuz)
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
}

impl Lists {
    fn new(kernel: &Kernel, directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).context("cannot make the kernel's folder")?;
        }
        // Kernels only ever run inside the machine, so that keys this Debian does not have yet are no obstacle.
        let source = format!("deb [trusted=yes] {} {} main\n", mirror()?, kernel.suite);
        fs::write(directory.join("sources.list"), source)?;
        Ok(Self { directory: directory.to_owned() })
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
        command.args([
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
