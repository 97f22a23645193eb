//! The node as a source: PSI, meminfo, vmstat, and the observer's own cost.

use std::{fs, io, path::Path};

use procfs::{FromBufRead, Meminfo, MemoryPressure, VmStat};
use rustix::{
    process::{Resource, getrlimit},
    time::ClockId,
};

use crate::{
    clock::nanos,
    sources::{cgroup::is_absent, own_limit::OwnLimit},
};
use observer_core::model::event::{NodeReading, ObserverReading, Pressure};

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
    let vmstat: VmStat = parse(&proc.join("vmstat"))?;
    let counter = |name: &str| vmstat.0.get(name).map_or(0, |value| (*value).max(0) as u64);
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

/// What this process takes, and what room it has.
pub fn observer(limit: &OwnLimit) -> io::Result<ObserverReading> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let page_size = rustix::param::page_size() as u64;
    let mut sizes = text.split_whitespace().map(|pages| pages.parse::<u64>().ok()?.checked_mul(page_size));
    let (Some(Some(size)), Some(Some(resident))) = (sizes.next(), sizes.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("statm: {text:?}")));
    };
    // One of them is that of the listing itself.
    let open_files = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1) as u64).ok();
    Ok(ObserverReading {
        resident,
        cpu_ns: nanos(ClockId::ProcessCPUTime),
        virtual_memory: Some(size),
        open_files,
        max_files: getrlimit(Resource::Nofile).current,
        room: limit.room(),
    })
}
