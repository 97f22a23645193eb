//! Real kernels in virtual machines: boots each from its Debian package and runs the live tests in it, on cgroup v2.
//!
//! Software emulation: what is right shows, what is fast does not. Not KVM, which may be there and not work: inside of
//! another virtual machine its guests can hang. Each machine's processors share one thread: QEMU before 8.1 (Debian 12
//! has 7.2) may run code that another of its threads has just rewritten, and a kernel whose functions are being hooked
//! then dies of a breakpoint that is gone ("Oops: int3"). So there is room for as many machines as this one has
//! processors.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{build_ebpf, harness::Harness, shell, statics::Arch};

mod initramfs;
mod kernels;

use kernels::{KERNELS, Kernel};

#[derive(clap::Args, Default)]
pub struct Options {
    /// Only this kernel (5.10, 6.1, 6.12, newest, 6.12-arm64); may be given again
    #[arg(long = "kernel", value_name = "NAME")]
    kernels: Vec<String>,
    /// Every kernel, and every boot that takes something away (the default is this architecture's kernels as they come)
    #[arg(long)]
    all: bool,
    /// Show the machines' consoles as they run
    #[arg(long)]
    console: bool,
    /// Write what was booted into the table of docs/kernels.md
    #[arg(long)]
    write: bool,
}

/// What emulates a whole machine of an architecture.
struct Machine {
    /// Of Debian.
    package: &'static str,
    command: &'static str,
    args: &'static [&'static str],
    /// Its serial line, as Linux calls it.
    console: &'static str,
}

impl Machine {
    fn of(arch: Arch) -> Self {
        match arch {
            Arch::Amd64 => Self {
                package: "qemu-system-x86",
                command: "qemu-system-x86_64",
                args: &["-cpu", "max"],
                console: "ttyS0",
            },
            Arch::Arm64 => Self {
                package: "qemu-system-arm",
                command: "qemu-system-aarch64",
                args: &["-machine", "virt", "-cpu", "cortex-a72"],
                console: "ttyAMA0",
            },
        }
    }
}

/// One way to boot a kernel.
pub struct Boot {
    pub name: &'static str,
    /// Beside what every boot has on its command line.
    pub arguments: &'static str,
    /// Tests with this in their names; all if empty.
    pub only: &'static str,
}

const PLAIN: Boot = Boot { name: "", arguments: "psi=1", only: "" };
/// Each takes one thing away; the tests named say what must still be right.
const REDUCED: [Boot; 3] = [
    Boot { name: "lockdown=integrity", arguments: "psi=1 lockdown=integrity", only: "oom_" },
    Boot {
        name: "lockdown=confidentiality",
        arguments: "psi=1 lockdown=confidentiality",
        only: "from_files",
    },
    Boot { name: "psi=0", arguments: "psi=0", only: "without_psi" },
];
/// A boot takes seconds, the tests minutes under emulation (nine on arm64); beyond this something hangs.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What one machine said.
pub struct Report {
    pub kernel: String,
    pub boot: &'static str,
    pub seconds: u64,
    pub release: String,
    /// Probe -> the line of `observer check`.
    pub probes: BTreeMap<String, String>,
    pub tests: Harness,
    /// It reached the end of its script.
    ended: bool,
}

pub fn vm(options: &Options) -> Result<()> {
    let reports = run(options)?;
    let mut failed = 0;
    for report in &reports {
        match report {
            Ok(report) => failed += report.tests.failed.len(),
            Err(why) => eprintln!("skipped  {why}"),
        }
    }
    let reports: Vec<&Report> = reports.iter().filter_map(|report| report.as_ref().ok()).collect();
    let rows: Vec<Row> = reports.iter().map(|report| Row::of(report)).collect();
    println!("\n{}", table(&rows));
    if options.write {
        let path = shell::root().join("docs/kernels.md");
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let table = table(&renewed(&before, rows));
        fs::write(&path, document(&table)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if reports.is_empty() {
        bail!("no kernel could be had");
    }
    if failed > 0 {
        bail!("{failed} tests failed in the machines");
    }
    Ok(())
}

/// A report per machine, or why there is none: a kernel that cannot be had is skipped, not passed.
pub fn run(options: &Options) -> Result<Vec<Result<Report, String>>> {
    if let Some(unknown) =
        options.kernels.iter().find(|name| !KERNELS.iter().any(|kernel| kernel.name == **name))
    {
        bail!("no kernel {unknown}; there are {}", KERNELS.map(|kernel| kernel.name).join(", "));
    }
    shell::apt(&["busybox-static", "cpio"])?;
    build_ebpf::build_ebpf()?;
    let mut images: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut missing = Vec::new();
    let mut boots = Vec::new();
    for kernel in &KERNELS {
        match options.kernels.as_slice() {
            [] if options.all || kernel.arch == Arch::host() => {}
            [] => {
                let why = "everything is built once more for it: cargo xtask vm --kernel";
                missing.push(Err(format!("kernel {0}: {why} {0}", kernel.name)));
                continue;
            }
            names if names.iter().any(|name| name == kernel.name) => {}
            _ => continue,
        }
        shell::apt(&[Machine::of(kernel.arch).package])?;
        let vmlinuz = match kernels::fetch(kernel) {
            Ok(vmlinuz) => vmlinuz,
            Err(error) => {
                missing.push(Err(format!("kernel {}: {error:#}", kernel.name)));
                continue;
            }
        };
        let image = match images.entry(kernel.arch.name()) {
            Entry::Occupied(built) => built.into_mut(),
            Entry::Vacant(none) => none.insert(initramfs::build(kernel)?),
        };
        let reduced: &[Boot] = if options.all { &REDUCED } else { &[] };
        for boot in [&PLAIN].into_iter().chain(reduced) {
            boots.push((kernel, vmlinuz.clone(), image.clone(), boot));
        }
    }
    // What they print would be one tangle; and each takes a GiB.
    let machines = if options.console { 1 } else { thread::available_parallelism()?.get().min(4) };
    // The longest first, so that no machine is left to end alone.
    let mut order: Vec<usize> = (0..boots.len()).collect();
    order.sort_by_key(|index| boots[*index].0.tries.is_empty());
    let next = AtomicUsize::new(0);
    let (reports, reported) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..machines {
            scope.spawn(|| {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (kernel, vmlinuz, image, how) = &boots[index];
                    let report = boot(kernel, vmlinuz, image, how, options.console);
                    let _ = reports.send((index, report)); // the other end is below
                }
            });
        }
    });
    drop(reports);
    let booted: BTreeMap<usize, Result<Report>> = reported.into_iter().collect(); // in the order of their rows
    booted.into_values().map(|report| report.map(Ok)).chain(missing.into_iter().map(Ok)).collect()
}

fn boot(kernel: &Kernel, vmlinuz: &Path, image: &Path, boot: &'static Boot, console: bool) -> Result<Report> {
    eprintln!("== {} {}", kernel.name, boot.name);
    let Machine { command, args, console: line, .. } = Machine::of(kernel.arch);
    let append = format!(
        "console={line} panic=-1 loglevel=1 {} observer.only={} observer.skip={}",
        boot.arguments,
        boot.only,
        kernel.leaves_out()
    );
    let began = Instant::now();
    let mut qemu = Command::new(command);
    qemu.args(args).args(["-accel", "tcg,thread=single", "-m", "1G", "-smp", "2"]);
    qemu.args(["-nographic", "-no-reboot", "-nic", "none", "-append", &append]);
    qemu.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(image);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = qemu.spawn().with_context(|| format!("cannot start {command}"))?;
    let stdout = machine.stdout.take().context("no console")?;
    let (lines, received) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let mut report = Report {
        kernel: kernel.name.to_owned(),
        boot: boot.name,
        seconds: 0,
        release: String::new(),
        probes: BTreeMap::new(),
        tests: Harness::default(),
        ended: false,
    };
    let mut tail = Vec::new();
    while let Ok(line) = received.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) {
        if console {
            println!("{line}");
        }
        report.ended |= line.contains("OBSERVER-VM end");
        report.read(&line);
        tail.push(line);
    }
    let _ = machine.kill(); // powered off already, or hanging
    machine.wait()?;
    let _ = reader.join();
    report.seconds = began.elapsed().as_secs();
    if !report.ended {
        let at = report.tests.running.take().map_or_else(String::new, |test| format!(", it was at {test}"));
        report.tests.failed.push(format!("did not get to the end within {} s{at}", report.seconds));
    }
    if !report.tests.failed.is_empty() && !console {
        println!("{}", tail.join("\n"));
    }
    eprintln!(
        "   {} {}: {} passed, {} failed, {} skipped, in {} s",
        report.release,
        report.boot,
        report.tests.passed.len(),
        report.tests.failed.len(),
        report.tests.skipped.len(),
        report.seconds
    );
    Ok(report)
}

impl Report {
    fn read(&mut self, line: &str) {
        // The firmware leaves its own marks before the first line.
        if let Some((_, release)) = line.split_once("OBSERVER-VM kernel ") {
            self.release = release.to_owned();
        } else if let Some(probe) = line.strip_prefix("OBSERVER-VM probe ") {
            // "  ok page_fault    required  tp_btf page_fault_user"
            let mut words = probe.split_whitespace();
            if let (Some(mark), Some(name), Some(_)) = (words.next(), words.next(), words.next()) {
                let hook = words.collect::<Vec<_>>().join(" ");
                let hook = if mark == "ok" { hook } else { format!("— {hook}") };
                self.probes.insert(name.to_owned(), hook);
            }
        } else {
            self.tests.read(line);
        }
    }
}

/// A line of the table, and what it is distinguished by.
struct Row {
    kernel: String,
    boot: String,
    line: String,
}

impl Row {
    fn of(report: &Report) -> Self {
        let probes: Vec<String> =
            report.probes.iter().map(|(probe, hook)| format!("{probe}: {hook}")).collect();
        let boot = if report.boot.is_empty() { "as it comes, psi=1" } else { report.boot };
        let line = format!(
            "| {} ({}) | {boot} | {} | {} | {} | {} |\n",
            report.kernel,
            report.release,
            report.tests.passed.len(),
            report.tests.failed.len(),
            report.tests.skipped.len(),
            probes.join("<br>"),
        );
        Self { kernel: report.kernel.clone(), boot: boot.to_owned(), line }
    }

    fn read(line: &str) -> Option<Self> {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (kernel, boot) = (cells.next()?.split_once(" (")?.0, cells.next()?);
        Some(Self { kernel: kernel.to_owned(), boot: boot.to_owned(), line: format!("{line}\n") })
    }
}

/// The document's rows, those of the machines just booted replaced.
fn renewed(document: &str, rows: Vec<Row>) -> Vec<Row> {
    let is_new = |old: &Row| rows.iter().any(|row| (&row.kernel, &row.boot) == (&old.kernel, &old.boot));
    let kept: Vec<Row> = document.lines().filter_map(Row::read).filter(|old| !is_new(old)).collect();
    let mut all: Vec<Row> = rows.into_iter().chain(kept).collect();
    all.sort_by_key(|row| KERNELS.iter().position(|kernel| kernel.name == row.kernel));
    all
}

fn table(rows: &[Row]) -> String {
    let head =
        "| kernel | boot | passed | failed | skipped | probes |\n|---|---|---|---|---|---|\n".to_owned();
    rows.iter().fold(head, |text, row| text + &row.line)
}

fn document(table: &str) -> String {
    format!(
        "# Kernels\n\nWritten by `cargo xtask vm --all --write`, from what each kernel said in its own virtual machine (cgroup v2, \
         two emulated processors). The tests are the live tests, one per probe and more; skipped are those that need \
         something the machine or the boot does not have, by name in the output.\n\n\
         Not covered: 5.15 and 6.6, of which Debian has no packages (every field and hook is asked of BTF, so that they are treated \
         as what they have, not as their number); swap, since the machines have no device to swap to.\n\n{table}"
    )
}

/// Where images and kernels are kept.
fn cache() -> PathBuf {
    shell::root().join("target/vm")
}
