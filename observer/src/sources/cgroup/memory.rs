//! The memory files of one cgroup, v2 and v1, as one reading. Source: Documentation/admin-guide/cgroup-v2.rst and
//! cgroup-v1/memory.rst, kernel v6.12.

use std::{fs, io, path::Path};

use crate::sources::cgroup::is_absent;
use observer_core::model::event::{
    CgroupVersion, Limit, MemoryEvents, MemoryLevels, MemoryReading, MemoryStat, Pressure,
};

/// Usage alone: one file, no flush. For the fast look at a group that moves.
pub fn usage(directory: &Path, version: CgroupVersion) -> io::Result<u64> {
    let name = match version {
        CgroupVersion::V1 => "memory.usage_in_bytes",
        CgroupVersion::V2 => "memory.current",
    };
    number(&fs::read_to_string(directory.join(name))?)
}

/// Everything. `Err` if the group is gone, or one of its files could not be read; one that this kernel does not have
/// leaves its part absent.
pub fn reading(directory: &Path, version: CgroupVersion) -> io::Result<MemoryReading> {
    match version {
        CgroupVersion::V2 => v2(directory),
        CgroupVersion::V1 => v1(directory),
    }
}

fn v2(directory: &Path) -> io::Result<MemoryReading> {
    let text = |name| text(directory, name);
    // Before the usage: of a process that exits meanwhile too much of its kinds of memory is known, not a usage that
    // nothing makes up.
    let stat = text("memory.stat")?.map(|text| stat(&text, &V2));
    let usage = usage(directory, CgroupVersion::V2)?;
    let events_local = text("memory.events.local")?;
    let events = |events: String| MemoryEvents {
        max: keyed(&events, "max").unwrap_or(0),
        high: keyed(&events, "high"),
        low: keyed(&events, "low"),
        oom: keyed(&events, "oom"),
        oom_group_kill: keyed(&events, "oom_group_kill"),
        oom_local: events_local.as_deref().and_then(|local| keyed(local, "oom")),
        oom_kill: keyed(&events, "oom_kill").unwrap_or(0),
    };
    Ok(MemoryReading {
        levels: MemoryLevels {
            usage,
            watermark: text("memory.peak")?.as_deref().map(number).transpose()?,
            limit: text("memory.max")?.as_deref().and_then(limit),
            stat,
            high: text("memory.high")?.as_deref().and_then(limit),
            swap: text("memory.swap.current")?.as_deref().map(number).transpose()?,
        },
        events: text("memory.events")?.map(events),
        pressure: text("memory.pressure")?.as_deref().and_then(pressure),
    })
}

fn v1(directory: &Path) -> io::Result<MemoryReading> {
    let text = |name| text(directory, name);
    let stat_text = text("memory.stat")?; // before the usage, as above
    let usage = usage(directory, CgroupVersion::V1)?;
    let times_at_limit = text("memory.failcnt")?.as_deref().map(number).transpose()?;
    let events = |control: String| {
        let (max, oom_kill) = (times_at_limit?, keyed(&control, "oom_kill")?);
        Some(MemoryEvents { max, oom_kill, ..MemoryEvents::default() })
    };
    Ok(MemoryReading {
        levels: MemoryLevels {
            usage,
            watermark: text("memory.max_usage_in_bytes")?.as_deref().map(number).transpose()?,
            limit: text("memory.limit_in_bytes")?.as_deref().and_then(limit),
            stat: stat_text.as_deref().map(|text| stat(text, &V1)),
            high: None,
            swap: stat_text.as_deref().and_then(|text| keyed(text, "total_swap")),
        },
        events: text("memory.oom_control")?.and_then(events),
        pressure: None,
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full …`, in microseconds (Documentation/accounting/psi.rst).
pub fn pressure(text: &str) -> Option<Pressure> {
    let total = |kind: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        line.split(' ').find_map(|word| word.strip_prefix("total=")?.parse().ok())
    };
    Some(Pressure {
        some_ns: total("some")?.saturating_mul(1_000),
        full_ns: total("full")?.saturating_mul(1_000),
    })
}

/// `None`: there is no such file.
fn text(directory: &Path, name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(directory.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names of what is read from memory.stat. On v1 the totals, which include children as v2's do.
struct StatNames {
    /// The lists the pass reads too (`kernel::pass`), so that both say the same.
    anon: [&'static str; 3],
    inactive_file: &'static str,
    active_file: &'static str,
    shmem: &'static str,
    slab_reclaimable: &'static str,
    faults: &'static str,
    major_faults: &'static str,
}

const V2: StatNames = StatNames {
    anon: ["inactive_anon", "active_anon", "unevictable"],
    inactive_file: "inactive_file",
    active_file: "active_file",
    shmem: "shmem",
    slab_reclaimable: "slab_reclaimable",
    faults: "pgfault",
    major_faults: "pgmajfault",
};
const V1: StatNames = StatNames {
    anon: ["total_inactive_anon", "total_active_anon", "total_unevictable"],
    inactive_file: "total_inactive_file",
    active_file: "total_active_file",
    shmem: "total_shmem",
    // v1 counts no slab in memory.stat.
    slab_reclaimable: "total_slab_reclaimable",
    faults: "total_pgfault",
    major_faults: "total_pgmajfault",
};

fn stat(text: &str, names: &StatNames) -> MemoryStat {
    let value = |name| keyed(text, name).unwrap_or(0);
    MemoryStat {
        anon: names.anon.iter().filter_map(|name| keyed(text, name)).sum(),
        inactive_file: value(names.inactive_file),
        faults: keyed(text, names.faults),
        major_faults: keyed(text, names.major_faults),
        file: keyed(text, names.active_file).map(|active| active + value(names.inactive_file)),
        shmem: keyed(text, names.shmem),
        slab_reclaimable: keyed(text, names.slab_reclaimable),
    }
}

/// memory.stat alone: what no other place of the kernel counts.
pub fn stat_of(directory: &Path, version: CgroupVersion) -> Option<MemoryStat> {
    let names = if version == CgroupVersion::V2 { &V2 } else { &V1 };
    text(directory, "memory.stat").ok()?.map(|text| stat(&text, names))
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// v2 says `max`, v1 the largest multiple of the page size in a long.
fn limit(text: &str) -> Option<Limit> {
    let text = text.trim();
    if text == "max" {
        return Some(Limit::Unlimited);
    }
    let bytes: u64 = text.parse().ok()?;
    Some(if bytes >= i64::MAX as u64 - (1 << 16) { Limit::Unlimited } else { Limit::Bytes(bytes) })
}

fn number(text: &str) -> io::Result<u64> {
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("not a number: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlimited_is_not_a_number() {
        let table = [
            ("max\n", Some(Limit::Unlimited)),
            ("9223372036854771712\n", Some(Limit::Unlimited)),
            ("67108864\n", Some(Limit::Bytes(67108864))),
            ("0\n", Some(Limit::Bytes(0))),
            ("junk", None),
        ];
        for (text, expected) in table {
            assert_eq!(limit(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pressure_is_reported_in_nanoseconds_and_absent_where_it_is_off() {
        let text = "some avg10=1.00 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(pressure(text), Some(Pressure { some_ns: 7_000, full_ns: 3_000 }));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn a_key_is_matched_whole() {
        let text = "pgfault_x 1\npgfault 2\ntotal_pgfault 3\n";
        assert_eq!(keyed(text, "pgfault"), Some(2));
        assert_eq!(keyed(text, "pg"), None);
    }
}
