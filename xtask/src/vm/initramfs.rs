//! The machines' whole userland: busybox, the observer and its live tests, linked statically.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cache;
use crate::shell;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Tests that measure time, or need what the image does not have.
const SKIP: [&str; 3] = ["ready_within", "promtool", "real_prometheus"];

/// The image's path.
pub fn build() -> Result<PathBuf> {
    let root = cache().join("root");
    let _ = fs::remove_dir_all(&root); // absent at the first time
    for directory in ["bin", "usr/bin", "proc", "sys/fs/cgroup", "dev", "tmp", "etc"] {
        fs::create_dir_all(root.join(directory)).context("cannot make the image's folders")?;
    }
    for (name, from) in binaries()? {
        fs::copy(&from, root.join("bin").join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let busybox = shell::find("busybox").context("busybox is not installed")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    let applets = shell::output(Command::new("busybox").arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet))?;
        symlink("/bin/busybox", root.join("usr/bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    let init = root.join("init");
    fs::write(&init, init_script())?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root)
}

fn init_script() -> String {
    let skip: String = SKIP.iter().map(|test| format!(" --skip {test}")).collect();
    format!(
        "#!/bin/sh
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t securityfs security /sys/kernel/security 2>/dev/null
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
echo OBSERVER-VM kernel $(uname -r)
only=$(sed 's/.*observer.only=\\([^ ]*\\).*/\\1/' /proc/cmdline)
observer check > /tmp/check
cat /tmp/check
grep -E '^  (ok|--) ' /tmp/check | sed 's/^/OBSERVER-VM probe /'
# Emulated: everything takes many times as long.
TEST_PATIENCE=6 TEST_MAY_EXHAUST=1 live $only --color never{skip} 2>&1
echo OBSERVER-VM end
poweroff -f
"
    )
}

/// Name in the image, and where it was built.
fn binaries() -> Result<Vec<(String, PathBuf)>> {
    eprintln!("building static binaries for the machines");
    let target = shell::root().join("target/static");
    let build = |args: &[&str]| {
        let mut cargo = shell::cargo();
        cargo
            .args(args)
            .args(["--target", TARGET, "--message-format", "json-render-diagnostics"])
            .arg("--target-dir")
            .arg(&target);
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols -C opt-level=1");
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = cargo.output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("the static binaries do not build");
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut messages = build(&["build", "--package", "observer", "--package", "observer-tests", "--bins"])?;
    messages += &build(&["test", "--no-run", "--package", "observer-tests", "--test", "live"])?;
    let mut found = Vec::new();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if let Some(path) = message["executable"].as_str()
            && ["observer", "workload", "live"].contains(&name)
        {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(found)
}

fn pack(root: &Path) -> Result<PathBuf> {
    let image = cache().join("initramfs.cpio");
    let files = shell::output(Command::new("find").arg(".").current_dir(root))?;
    let out = fs::File::create(&image).with_context(|| format!("cannot write {}", image.display()))?;
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .context("cannot start cpio")?;
    cpio.stdin.take().context("no pipe to cpio")?.write_all(files.as_bytes())?;
    if !cpio.wait()?.success() {
        bail!("cpio failed");
    }
    Ok(image)
}
