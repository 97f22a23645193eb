//! The records of one pass -> readings as the files would give them. Pure.

use observer_ebpf::{
    abi::UNKNOWN,
    probes::cgroup_pass::{CgroupRecord, lru},
};

use observer_core::model::event::{
    CgroupVersion, MemoryEvents, MemoryLevels, MemoryReading, MemoryStat, Pressure,
};

use crate::sources::kernel::ring::limit;

/// Of a group and those below it: the kernel keeps page lists and tasks for each group alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Whole {
    pub anon_pages: u64,
    pub inactive_file_pages: u64,
    pub file_pages: u64,
    /// Tasks here or below.
    pub populated: bool,
    /// Index of the nearest ancestor that is in the table.
    parent: Option<u32>,
}

/// Sums each group with those below it. The records are in pre-order, so the ancestors of a record are the last ones
/// before it of each smaller depth.
pub fn whole(records: &[CgroupRecord], out: &mut Vec<Whole>) {
    out.clear();
    let mut ancestors: Vec<(u32, u32)> = Vec::new();
    for (index, record) in (0u32..).zip(records) {
        while ancestors.last().is_some_and(|(level, _)| *level >= record.level) {
            ancestors.pop();
        }
        out.push(Whole {
            anon_pages: record.lru[lru::INACTIVE_ANON]
                + record.lru[lru::ACTIVE_ANON]
                + record.lru[lru::UNEVICTABLE],
            inactive_file_pages: record.lru[lru::INACTIVE_FILE],
            file_pages: record.lru[lru::INACTIVE_FILE] + record.lru[lru::ACTIVE_FILE],
            populated: record.populated > 0,
            parent: ancestors.last().map(|(_, index)| *index),
        });
        ancestors.push((record.level, index));
    }
    for index in (0..out.len()).rev() {
        let of = out[index];
        if let Some(parent) = of.parent.and_then(|parent| out.get_mut(parent as usize)) {
            parent.anon_pages += of.anon_pages;
            parent.inactive_file_pages += of.inactive_file_pages;
            parent.file_pages += of.file_pages;
            parent.populated |= of.populated;
        }
    }
}

pub fn reading(
    record: &CgroupRecord,
    whole: &Whole,
    version: CgroupVersion,
    page_size: u64,
) -> MemoryReading {
    let bytes = |pages: u64| pages.saturating_mul(page_size);
    let known = |value: u64| (value != UNKNOWN).then_some(value);
    let v2 = version == CgroupVersion::V2;
    let events = match version {
        CgroupVersion::V2 => MemoryEvents {
            max: record.events.max,
            high: Some(record.events.high),
            low: known(record.events.low),
            oom: Some(record.events.oom),
            oom_group_kill: known(record.events.oom_group_kill),
            oom_local: Some(record.oom_local),
            oom_kill: record.events.oom_kill,
        },
        // As memory.failcnt and memory.oom_control.
        CgroupVersion::V1 => MemoryEvents {
            max: known(record.failcnt).unwrap_or(0),
            oom_kill: record.oom_kill_local,
            ..MemoryEvents::default()
        },
    };
    // On v1 one counter holds memory and swap; it stays at zero where swap is not accounted.
    let swap = match version {
        CgroupVersion::V2 => known(record.swap),
        CgroupVersion::V1 => known(record.memsw).map(|both| both.saturating_sub(record.usage)),
    };
    MemoryReading {
        levels: MemoryLevels {
            usage: bytes(record.usage),
            watermark: Some(bytes(record.watermark)),
            limit: Some(limit(record.max, page_size)),
            stat: Some(MemoryStat {
                anon: bytes(whole.anon_pages),
                inactive_file: bytes(whole.inactive_file_pages),
                file: Some(bytes(whole.file_pages)),
                ..MemoryStat::default()
            }),
            high: known(record.high).filter(|_| v2).map(|pages| limit(pages, page_size)),
            swap: swap.map(bytes),
        },
        events: Some(events),
        pressure: known(record.pressure_some_ns)
            .zip(known(record.pressure_full_ns))
            .map(|(some_ns, full_ns)| Pressure { some_ns, full_ns }),
    }
}

/// Equal fingerprints: nothing a reading shows has changed.
pub fn fingerprint(record: &CgroupRecord, whole: &Whole) -> u64 {
    let (r, e) = (record, &record.events);
    let words = [
        r.usage,
        r.watermark,
        r.max,
        r.high,
        r.failcnt,
        r.swap,
        r.memsw,
        e.low,
        e.high,
        e.max,
        e.oom,
        e.oom_kill,
        e.oom_group_kill,
        r.oom_local,
        r.oom_kill_local,
        r.pressure_some_ns,
        r.pressure_full_ns,
        whole.anon_pages,
        whole.inactive_file_pages,
        whole.file_pages,
    ];
    // FNV-1a by words: what collides is reported a minute later.
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_core::model::event::Limit;

    fn record(level: u32, anon: u64, populated: u32) -> CgroupRecord {
        let mut record = CgroupRecord { level, populated, ..CgroupRecord::default() };
        record.lru[lru::ACTIVE_ANON] = anon;
        record
    }

    #[test]
    fn a_group_is_summed_with_all_below_it_and_nothing_beside() {
        // root, a, a/b, a/b/c, a/d, e; then one whose parent has no memory controller.
        let records = [
            record(0, 1, 0),
            record(1, 10, 0),
            record(2, 100, 0),
            record(3, 1000, 1),
            record(2, 10_000, 0),
            record(1, 100_000, 0),
            record(3, 1_000_000, 1),
        ];
        let mut out = Vec::new();
        whole(&records, &mut out);
        let anon: Vec<u64> = out.iter().map(|whole| whole.anon_pages).collect();
        assert_eq!(anon, [1_111_111, 11_110, 1_100, 1000, 10_000, 1_100_000, 1_000_000]);
        let populated: Vec<bool> = out.iter().map(|whole| whole.populated).collect();
        assert_eq!(populated, [true, true, true, true, false, true, true]);
    }

    #[test]
    fn what_a_kernel_lacks_is_absent() {
        let unknown = CgroupRecord {
            max: u64::MAX >> 13,
            swap: UNKNOWN,
            memsw: UNKNOWN,
            high: UNKNOWN,
            pressure_some_ns: UNKNOWN,
            pressure_full_ns: UNKNOWN,
            ..CgroupRecord::default()
        };
        for version in [CgroupVersion::V1, CgroupVersion::V2] {
            let reading = reading(&unknown, &Whole::default(), version, 4096);
            assert_eq!(reading.levels.limit, Some(Limit::Unlimited));
            assert_eq!((reading.levels.swap, reading.levels.high, reading.pressure), (None, None, None));
        }
    }

    #[test]
    fn a_page_more_changes_the_fingerprint() {
        let one = CgroupRecord { usage: 5, watermark: 6, ..CgroupRecord::default() };
        let other = CgroupRecord { usage: 6, watermark: 5, ..one };
        let of = |record| fingerprint(record, &Whole::default());
        assert_ne!(of(&one), of(&other));
        assert_eq!(of(&one), of(&CgroupRecord { run: 7, ..one }));
    }
}
