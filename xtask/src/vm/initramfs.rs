//! The machines' whole userland: busybox, the observer and its live tests, linked statically.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    cache,
    kernels::{self, Kernel},
};
use crate::{shell, statics};

/// Tests that measure time, or need what the image does not have; and those of what is the same on every kernel, since
/// under emulation each takes many seconds.
const SKIP: [&str; 19] = [
    "ready_within",
    "promtool",
    "real_prometheus",
    "a_taken_port",
    "a_malformed_configuration",
    "settings_come_from",
    "a_broken_recording",
    "a_full_disk",
    "a_log_without",
    "a_file_that_hangs",
    "a_directory_that_cannot",
    "a_restart_is_reported",
    "a_workloads_history",
    "a_workload_keeps_its_kills",
    "a_recording_replays",
    "the_memory_limit",
    "failure_of_the_api",
    "the_minutes_before_an_oom_kill",
    "scale_ups_go_as",
];

/// The image's path; one for all kernels of an architecture.
pub fn build(kernel: &Kernel) -> Result<PathBuf> {
    let arch = kernel.arch;
    let root = cache().join(format!("root-{}", arch.name()));
    let _ = fs::remove_dir_all(&root); // absent at the first time
    for directory in ["bin", "usr/bin", "proc", "sys/fs/cgroup", "dev", "tmp", "files", "etc"] {
        fs::create_dir_all(root.join(directory)).context("cannot make the image's folders")?;
    }
    eprintln!("building the observer and its live tests, statically (minutes at the first time)");
    let mut programs = vec![("live", statics::live_tests(arch)?)];
    for name in ["observer", "workload"] {
        programs.push((name, statics::program_for(arch, name)?));
    }
    for (name, from) in programs {
        fs::copy(&from, root.join("bin").join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::copy(kernels::busybox(kernel)?, root.join("bin/busybox"))?;
    let applets = shell::output(Command::new("busybox").arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet))?;
        symlink("/bin/busybox", root.join("usr/bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    let init = root.join("init");
    fs::write(&init, init_script())?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root, &cache().join(format!("initramfs-{}.cpio", arch.name())))
}

fn init_script() -> String {
    let skip: String = SKIP.iter().map(|test| format!(" --skip {test}")).collect();
    format!(
        "#!/bin/sh
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t ramfs files /files
mount -t securityfs security /sys/kernel/security 2>/dev/null
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
echo OBSERVER-VM kernel $(uname -r)
only=$(sed 's/.*observer.only=\\([^ ]*\\).*/\\1/' /proc/cmdline)
skip=$(sed -n 's/.*observer.skip=\\([^ ]*\\).*/\\1/p' /proc/cmdline | sed 's/\\([^,][^,]*\\),*/ --skip \\1/g')
observer check > /tmp/check
cat /tmp/check
grep -E '^  (ok|--) ' /tmp/check | sed 's/^/OBSERVER-VM probe /'
# Emulated: everything takes many times as long.
TEST_PATIENCE=6 TEST_KILLS=100 TEST_MAY_EXHAUST=1 TEST_FILES=/files live $only --color never{skip} $skip 2>&1
echo OBSERVER-VM end
poweroff -f
"
    )
}

fn pack(root: &Path, image: &Path) -> Result<PathBuf> {
    let files = shell::output(Command::new("find").arg(".").current_dir(root))?;
    let out = fs::File::create(image).with_context(|| format!("cannot write {}", image.display()))?;
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
    Ok(image.to_owned())
}
