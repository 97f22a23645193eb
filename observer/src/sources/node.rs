//! The node as a source: PSI, meminfo, vmstat, and the observer's own cost.

use std::{fs, io, path::Path, time::Duration};

use procfs::{FromBufRead, Meminfo, MemoryPressure};
use rustix::{
    process::{Resource, getrlimit},
    time::ClockId,
};

use crate::{
    clock::nanos,
    sources::{cgroup::is_absent, own_limit::OwnLimit},
};
use observer_core::model::{
    event::{NodeReading, ObserverReading, Pressure},
    time::Time,
};

pub fn memory_total(proc: &Path) -> io::Result<u64> {
    Ok(meminfo(proc)?.mem_total)
}

/// Unix time of the host's boot (`btime` of /proc/stat).
pub fn booted(proc: &Path) -> Option<f64> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Without `pods_available`, which is of the cgroup tree.
pub fn reading(proc: &Path) -> io::Result<NodeReading> {
    let meminfo = meminfo(proc)?;
    // Four of its two hundred lines: to parse all of them each second takes longer than the kernel takes to write them.
    let vmstat = fs::read_to_string(proc.join("vmstat"))?;
    let counter = |name: &str| {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        vmstat.lines().find_map(value).unwrap_or(0)
    };
    Ok(NodeReading {
        available: meminfo.mem_available.unwrap_or(meminfo.mem_free),
        pods_available: None,
        free: meminfo.mem_free,
        pressure: pressure(proc)?,
        faults: counter("pgfault"),
        major_faults: counter("pgmajfault"),
        oom_kills: counter("oom_kill"),
        direct_scanned_pages: counter("pgscan_direct"),
    })
}

fn meminfo(proc: &Path) -> io::Result<Meminfo> {
    parse(&proc.join("meminfo"))
}

/// `None`: the kernel has no PSI, or it is off (psi=0).
fn pressure(proc: &Path) -> io::Result<Option<Pressure>> {
    let pressure: MemoryPressure = match parse(&proc.join("pressure/memory")) {
        Ok(pressure) => pressure,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Pressure {
        some_ns: pressure.some.total.saturating_mul(1_000),
        full_ns: pressure.full.total.saturating_mul(1_000),
    }))
}

fn parse<T: FromBufRead>(path: &Path) -> io::Result<T> {
    let text = fs::read(path)?;
    T::from_buf_read(text.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
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
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("statm: {text:?}")));
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
