//! The node as a source: PSI, meminfo, vmstat, and the observer's own cost.

use std::{fs, io, path::Path, time::Duration};

use rustix::{
    process::{Resource, getrlimit},
    time::ClockId,
};

use crate::{
    clock::nanos,
    sources::{
        cgroup::{is_absent, memory},
        own_limit::OwnLimit,
    },
};
use observer_core::model::{
    event::{NodeReading, ObserverReading, Pressure},
    time::Time,
};

pub fn memory_total(proc: &Path) -> io::Result<u64> {
    Ok(Meminfo::read(proc)?.total)
}

/// Unix time of the host's boot (`btime` of /proc/stat).
pub fn booted(proc: &Path) -> Option<f64> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Without `pods_available`, which is of the cgroup tree.
pub fn reading(proc: &Path) -> io::Result<NodeReading> {
    let meminfo = Meminfo::read(proc)?;
    // Four of its two hundred lines: to parse all of them each second takes longer than the kernel takes to write them.
    let vmstat = fs::read_to_string(proc.join("vmstat"))?;
    let counter = |name: &str| {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        vmstat.lines().find_map(value).unwrap_or(0)
    };
    Ok(NodeReading {
        available: meminfo.available.unwrap_or(meminfo.free),
        pods_available: None,
        free: meminfo.free,
        pressure: pressure(proc)?,
        faults: counter("pgfault"),
        major_faults: counter("pgmajfault"),
        oom_kills: counter("oom_kill"),
        direct_scanned_pages: counter("pgscan_direct"),
    })
}

/// Three of the fifty lines of /proc/meminfo, in bytes. Not `procfs::Meminfo`: it multiplies all fifty by their units
/// without a look at overflow, which panics or, optimised, gives another number. Its PSI panics on a line that is cut.
struct Meminfo {
    total: u64,
    /// `None`: a kernel before 3.14.
    available: Option<u64>,
    free: u64,
}

impl Meminfo {
    fn read(proc: &Path) -> io::Result<Self> {
        let path = proc.join("meminfo");
        Self::parse(&fs::read_to_string(&path)?)
            .map_err(|error| invalid(format!("{}: {error}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let parsed = line.map(|value| {
                let kib = value.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
                kib.and_then(|kib| kib.checked_mul(1 << 10))
                    .ok_or_else(|| format!("{name} is {:?}, not a number of kB", value.trim()))
            });
            parsed.transpose()
        };
        let needed = |name: &str| bytes(name)?.ok_or_else(|| format!("no {name}"));
        Ok(Self { total: needed("MemTotal")?, available: bytes("MemAvailable")?, free: needed("MemFree")? })
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// `None`: the kernel has no PSI, or it is off (psi=0).
fn pressure(proc: &Path) -> io::Result<Option<Pressure>> {
    let path = proc.join("pressure/memory");
    match fs::read_to_string(&path) {
        Ok(text) => match memory::pressure(&text) {
            None => Err(invalid(format!("{}: no totals of some and full in {text:?}", path.display()))),
            pressure => Ok(pressure),
        },
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What this process takes, and what room it has. All of it takes ten files and more.
pub struct Own {
    limit: OwnLimit,
    /// When it was last reported, and its resident memory then; not while room is short.
    last: Option<(Time, u64)>,
}

const EVERY_OWN: Duration = Duration::from_secs(5);
/// A change of its memory that is reported at once.
const MOVED_BYTES: u64 = 512 << 10;

impl Own {
    pub fn new(limit: OwnLimit) -> Self {
        Self { limit, last: None }
    }

    /// `None`: too soon, as long as its memory does not move.
    pub fn reading(&mut self, now: Time) -> io::Result<Option<ObserverReading>> {
        let text = fs::read_to_string("/proc/self/statm")?;
        let page_size = rustix::param::page_size() as u64;
        let mut sizes =
            text.split_whitespace().map(|pages| pages.parse::<u64>().ok()?.checked_mul(page_size));
        let (Some(Some(size)), Some(Some(resident))) = (sizes.next(), sizes.next()) else {
            return Err(invalid(format!("statm: {text:?}")));
        };
        let holds =
            |(at, before): (Time, u64)| now.since(at) < EVERY_OWN && resident.abs_diff(before) < MOVED_BYTES;
        if self.last.is_some_and(holds) {
            return Ok(None);
        }
        let room = self.limit.room();
        let short = room.as_ref().is_some_and(|room| room.taken >= room.limit / 4 * 3);
        self.last = (!short).then_some((now, resident));
        // One of them is that of the listing itself.
        let open_files =
            fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1) as u64).ok();
        Ok(Some(ObserverReading {
            resident,
            cpu_ns: nanos(ClockId::ProcessCPUTime),
            virtual_memory: Some(size),
            open_files,
            max_files: getrlimit(Resource::Nofile).current,
            room,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Meminfo;

    fn read(meminfo: &str) -> Result<[Option<u64>; 3], String> {
        let Meminfo { total, available, free } = Meminfo::parse(meminfo)?;
        Ok([Some(total), available, Some(free)])
    }

    #[test]
    fn meminfo_is_in_bytes() {
        let text =
            "MemTotal:       24683520 kB\nMemFree:  20484096 kB\nMemAvailable:   24027136 kB\nHugePages: 7\n";
        assert_eq!(read(text), Ok([Some(25_275_924_480), Some(24_603_787_264), Some(20_975_714_304)]));
        assert_eq!(
            read("MemTotal: 8 kB\nMemFree: 4 kB\n"),
            Ok([Some(8192), None, Some(4096)]),
            "before 3.14"
        );
    }

    #[test]
    fn what_meminfo_cannot_hold_is_an_error_that_names_the_line() {
        for (text, named) in [
            ("MemTotal: 18014398509481984 kB\nMemFree: 4 kB\n", "MemTotal"),
            ("MemTotal: 8 kB\nMemFree: 4\n", "MemFree"),
            ("MemTotal: 8 kB\nMemFree: -4 kB\n", "MemFree"),
            ("MemTotal: 8 kB\nMemFree: 4 kB\nMemAvailable: many kB\n", "MemAvailable"),
            ("MemTotal: 8 kB\n", "MemFree"),
            ("", "MemTotal"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(named), "{text:?}: {error}");
        }
    }

    #[test]
    fn pressure_that_is_cut_is_an_error_and_none_is_no_error() {
        let proc = std::env::temp_dir().join(format!("observer-pressure-{}", std::process::id()));
        let pressure = || super::pressure(&proc);
        assert_eq!(pressure().ok(), Some(None), "a kernel without PSI");
        std::fs::create_dir_all(proc.join("pressure")).expect("a folder");
        let write = |text: &str| std::fs::write(proc.join("pressure/memory"), text).expect("written");
        for text in ["", "some", "full", "some avg10=0.00 total=7\nfull", "some total=7\nfull total=-1\n"] {
            write(text);
            let error = pressure().expect_err(text).to_string();
            assert!(error.contains("pressure/memory"), "{error}");
        }
        write("some avg10=0.00 total=7\nfull avg10=0.00 total=3\n");
        let both = pressure().expect("read").map(|pressure| (pressure.some_ns, pressure.full_ns));
        assert_eq!(both, Some((7_000, 3_000)));
        std::fs::remove_dir_all(&proc).expect("removed");
    }
}
