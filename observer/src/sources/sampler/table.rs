//! The records of one pass -> readings as the files would give them. Pure.

use observer_ebpf::{
    abi::UNKNOWN,
    probes::cgroup_pass::{CgroupRecord, lru},
};

use observer_core::model::event::{
    CgroupVersion, MemoryEvents, MemoryLevels, MemoryReading, MemoryStat, Pressure,
};

use crate::sources::kernel::ring::limit;

/// Of a group and those below it: the kernel keeps page lists and tasks for each group alone. Pages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Whole {
    pub anon: u64,
    pub inactive_file: u64,
    pub file: u64,
    /// Groups with tasks of their own.
    populated: u64,
}

impl Whole {
    fn of(record: &CgroupRecord) -> Self {
        let lru = &record.lru;
        Self {
            anon: lru[lru::INACTIVE_ANON] + lru[lru::ACTIVE_ANON] + lru[lru::UNEVICTABLE],
            inactive_file: lru[lru::INACTIVE_FILE],
            file: lru[lru::INACTIVE_FILE] + lru[lru::ACTIVE_FILE],
            populated: u64::from(record.populated > 0),
        }
    }

    /// What a part of it was is replaced by what it is.
    fn replace(&mut self, was: Self, is: Self) {
        let replace = |sum: &mut u64, was: u64, is: u64| *sum = sum.wrapping_sub(was).wrapping_add(is);
        replace(&mut self.anon, was.anon, is.anon);
        replace(&mut self.inactive_file, was.inactive_file, is.inactive_file);
        replace(&mut self.file, was.file, is.file);
        replace(&mut self.populated, was.populated, is.populated);
    }

    /// Tasks here or below.
    pub fn is_populated(&self) -> bool {
        self.populated > 0
    }
}

/// One place of the table, as the last pass left it.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    serial: u64,
    level: u32,
    /// Index of the nearest ancestor that is in the table.
    parent: Option<u32>,
    own: Whole,
    whole: Whole,
}

/// The table of the last pass, each group summed with those below it.
#[derive(Debug, Default)]
pub struct Rows(Vec<Row>);

impl Rows {
    pub fn whole(&self, index: u32) -> Whole {
        self.0.get(index as usize).map(|row| row.whole).unwrap_or_default()
    }

    /// Follows the records at these indexes, and adds them and their ancestors to `touched`. `false`: the table has
    /// other groups now, or any record may have changed; all of it was summed anew.
    pub fn follow(
        &mut self,
        records: &[CgroupRecord],
        changed: Option<&[u64]>,
        touched: &mut Vec<u32>,
    ) -> bool {
        let is_same = |index: &u64| {
            let (row, record) = (self.0.get(*index as usize), records.get(*index as usize));
            row.zip(record).is_some_and(|(row, of)| row.serial == of.serial && row.level == of.level)
        };
        let known = self.0.len() == records.len();
        let Some(changed) = changed.filter(|changed| known && changed.iter().all(is_same)) else {
            self.sum(records);
            return false;
        };
        for &index in changed {
            let is = Whole::of(&records[index as usize]);
            let was = std::mem::replace(&mut self.0[index as usize].own, is);
            let mut at = Some(index as u32);
            while let Some(row) = at.and_then(|at| self.0.get_mut(at as usize)) {
                row.whole.replace(was, is);
                touched.extend(at);
                at = row.parent;
            }
        }
        touched.sort_unstable();
        touched.dedup();
        true
    }

    /// The records are in pre-order, so the ancestors of a record are the last ones before it of each smaller depth.
    fn sum(&mut self, records: &[CgroupRecord]) {
        self.0.clear();
        let mut ancestors: Vec<(u32, u32)> = Vec::new();
        for (index, record) in (0u32..).zip(records) {
            while ancestors.last().is_some_and(|(level, _)| *level >= record.level) {
                ancestors.pop();
            }
            let own = Whole::of(record);
            let parent = ancestors.last().map(|(_, index)| *index);
            self.0.push(Row { serial: record.serial, level: record.level, parent, own, whole: own });
            ancestors.push((record.level, index));
        }
        for index in (0..self.0.len()).rev() {
            let Row { parent, whole, .. } = self.0[index];
            if let Some(parent) = parent.and_then(|parent| self.0.get_mut(parent as usize)) {
                parent.whole.replace(Whole::default(), whole);
            }
        }
    }
}

/// Of the first of these records, and those below it.
pub fn whole_of_first(records: &[CgroupRecord]) -> Whole {
    let mut whole = Whole::default();
    records.iter().for_each(|record| whole.replace(Whole::default(), Whole::of(record)));
    whole
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
                anon: bytes(whole.anon),
                inactive_file: bytes(whole.inactive_file),
                file: Some(bytes(whole.file)),
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
        whole.anon,
        whole.inactive_file,
        whole.file,
    ];
    // FNV-1a by words: what collides is reported a minute later.
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        let mut rows = Rows::default();
        assert!(!rows.follow(&records, Some(&[]), &mut Vec::new()), "nothing was known before");
        let anon: Vec<u64> = rows.0.iter().map(|row| row.whole.anon).collect();
        assert_eq!(anon, [1_111_111, 11_110, 1_100, 1000, 10_000, 1_100_000, 1_000_000]);
        let populated: Vec<bool> = rows.0.iter().map(|row| row.whole.is_populated()).collect();
        assert_eq!(populated, [true, true, true, true, false, true, true]);
    }

    proptest! {
        /// Whatever changes, and in whatever tree: following is the same as summing all of it.
        #[test]
        fn what_is_followed_is_what_is_summed_anew(
            levels in proptest::collection::vec(0u32..5, 1..40),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0u64..1000, 0u32..2), 0..20),
        ) {
            let mut records: Vec<_> = levels.iter().map(|level| record(*level, 7, 1)).collect();
            let (mut followed, mut touched) = (Rows::default(), Vec::new());
            followed.follow(&records, None, &mut touched);
            let mut changed: Vec<u64> = Vec::new();
            for (index, anon, populated) in changes {
                let index = index.index(records.len());
                records[index] = record(levels[index], anon, populated);
                changed.push(index as u64);
            }
            changed.sort_unstable();
            changed.dedup();
            prop_assert!(followed.follow(&records, Some(&changed), &mut touched));
            let mut anew = Rows::default();
            anew.follow(&records, None, &mut Vec::new());
            for index in 0..records.len() as u32 {
                prop_assert_eq!(followed.whole(index), anew.whole(index));
            }
            prop_assert!(changed.iter().all(|index| touched.contains(&(*index as u32))));
        }
    }

    #[test]
    fn another_group_in_a_place_is_no_change_of_it() {
        let mut records = vec![record(0, 1, 0), record(1, 2, 1)];
        let mut rows = Rows::default();
        rows.follow(&records, None, &mut Vec::new());
        assert!(rows.follow(&records, Some(&[1]), &mut Vec::new()));
        records[1].serial = 9;
        assert!(!rows.follow(&records, Some(&[1]), &mut Vec::new()));
        records.pop();
        assert!(!rows.follow(&records, Some(&[]), &mut Vec::new()), "one less");
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
        assert_eq!(of(&one), of(&CgroupRecord { parent: 7, ..one }));
    }
}
