//! Records from the ring -> events. The only place that knows their bytes.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use bytemuck::{AnyBitPattern, pod_read_unaligned};
use observer_ebpf::abi::{self, kind};

use crate::sources::cgroup::name;
use observer_core::model::{
    container::ExitStatus,
    event::{Event, EventKind, ExceededLimit, GroupLimit, Limit, OomKill, OomLevel, StalledBy, VictimMemory},
    time::Time,
};

/// Curve points, and kills and lives: two rings, so that a storm of the former cannot push out the latter.
pub struct Rings {
    points: Ring,
    lives: Ring,
    /// The oldest of each.
    point: Option<Event>,
    life: Option<Event>,
}

impl Rings {
    pub fn take(programs: &mut aya::Ebpf, page_size: u64) -> Result<Self, String> {
        let points = Ring::take(programs, "POINTS", page_size)?;
        let lives = Ring::take(programs, "LIVES", page_size)?;
        Ok(Self { points, lives, point: None, life: None })
    }

    /// The oldest record of both as an event.
    pub fn take_next(&mut self) -> Option<Event> {
        self.point = self.point.take().or_else(|| self.points.take_next());
        self.life = self.life.take().or_else(|| self.lives.take_next());
        let point_first = match (&self.point, &self.life) {
            (Some(point), Some(life)) => point.at < life.at,
            (point, _) => point.is_some(),
        };
        if point_first { self.point.take() } else { self.life.take() }
    }

    /// Each becomes readable when the programs ask for it.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.points.records.as_fd(), self.lives.records.as_fd()]
    }

    /// Records that were not understood.
    pub fn undecodable(&self) -> u64 {
        self.points.undecodable + self.lives.undecodable
    }
}

struct Ring {
    records: RingBuf<MapData>,
    page_size: u64,
    undecodable: u64,
}

impl Ring {
    fn take(programs: &mut aya::Ebpf, name: &str, page_size: u64) -> Result<Self, String> {
        let map = programs.take_map(name).ok_or_else(|| format!("the eBPF object has no map {name}"))?;
        let records =
            RingBuf::try_from(map).map_err(|error| format!("cannot map the ring {name}: {error}"))?;
        Ok(Self { records, page_size, undecodable: 0 })
    }

    /// The oldest record as an event. Records that cannot be decoded are counted and skipped.
    fn take_next(&mut self) -> Option<Event> {
        loop {
            let item = self.records.next()?;
            match decode(&item, self.page_size) {
                Some(event) => return Some(event),
                None => self.undecodable += 1,
            }
        }
    }
}

/// `None`: too short for its kind, of an unknown kind, or not what it claims.
pub fn decode(bytes: &[u8], page_size: u64) -> Option<Event> {
    let header: abi::Header = read(bytes)?;
    let (cgroup, pid) = (header.cgroup, header.pid);
    let pages = |n: u64| n.saturating_mul(page_size);
    let what = match header.kind {
        kind::POINT => {
            let point: abi::Point = read(bytes)?;
            EventKind::Usage {
                cgroup,
                usage: pages(point.usage_pages),
                watermark: pages(point.watermark_pages),
            }
        }
        kind::CGROUP_MADE => EventKind::CgroupMade { cgroup, path: path(bytes)? },
        kind::CGROUP_ATTACHED => EventKind::CgroupAttached { cgroup, path: path(bytes)?, pid },
        kind::CGROUP_POPULATED => EventKind::CgroupPopulated { cgroup, path: path(bytes)? },
        kind::CGROUP_EMPTIED => {
            let record: abi::Cgroup = read(bytes)?;
            let (usage, watermark) = (pages(record.usage_pages), pages(record.watermark_pages));
            EventKind::CgroupEmptied { cgroup, usage, watermark, oom_kills: known(record.oom_kills) }
        }
        kind::CGROUP_REMOVED => EventKind::CgroupRemoved { cgroup },
        kind::EXEC => {
            let process: abi::Process = read(bytes)?;
            let watermark = pages(process.watermark_pages);
            let init = is_init(&process);
            EventKind::Exec { cgroup, pid, comm: text(&process.comm), watermark, init }
        }
        kind::EXIT => {
            let process: abi::Process = read(bytes)?;
            let status = exit_status(process.exit_code);
            let watermark = pages(process.watermark_pages);
            let init = is_init(&process);
            let depth = if init { process.namespace_level } else { 0 };
            EventKind::Exit { cgroup, pid, comm: text(&process.comm), status, watermark, init, depth }
        }
        kind::OOM_KILL => EventKind::OomKill(oom_kill(&read(bytes)?, page_size)),
        _ => return None,
    };
    Some(Event { at: Time::from_nanos(header.time_ns), what })
}

fn read<T: AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(pod_read_unaligned)
}

/// As [`crate::sources::cgroup::name`] writes it. Of one that was cut, what is whole: it ends in `/`, and the cgroup is
/// somewhere below. Empty if it could not be read.
fn path(bytes: &[u8]) -> Option<String> {
    let record: abi::Cgroup = read(bytes)?;
    let path = record.path.get(..record.path_len as usize)?;
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    let cut = record.path_len as usize == abi::PATH_LEN;
    let whole =
        if cut { path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1) } else { path.len() };
    Some(name::escape(&path[..whole]))
}

/// Up to the first zero; what is not UTF-8 is replaced, not refused.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `wait(2)` layout: the signal in the low seven bits, else the code in the next byte.
fn exit_status(code: u32) -> ExitStatus {
    match code & 0x7f {
        0 => ExitStatus::Code((code >> 8) as u8),
        signal => ExitStatus::Signal(signal as u8),
    }
}

/// The first process of a pid namespace below the host's: when it exits the kernel ends all others in it.
fn is_init(process: &abi::Process) -> bool {
    process.namespace_pid == 1 && process.namespace_level > 0
}

fn known(count: u64) -> Option<u64> {
    (count != abi::UNKNOWN).then_some(count)
}

fn oom_kill(kill: &abi::OomKill, page_size: u64) -> OomKill {
    let levels = kill.level.iter().take(kill.levels as usize);
    let bytes = |pages: u64| pages.saturating_mul(page_size);
    let exceeded_group =
        GroupLimit { limit: limit(kill.limit_pages, page_size), usage: bytes(kill.limit_usage_pages) };
    OomKill {
        victim_pid: kill.victim_pid,
        victim_comm: text(&kill.victim_comm),
        victim_cgroup: (kill.header.cgroup != 0).then_some(kill.header.cgroup),
        invoker_pid: kill.header.pid,
        invoker_comm: text(&kill.invoker_comm),
        invoker_cgroup: kill.invoker_cgroup,
        exceeded: match kill.limit_cgroup {
            abi::UNKNOWN => None,
            0 => Some(ExceededLimit::Node),
            cgroup => Some(ExceededLimit::Group(cgroup)),
        },
        exceeded_group: (!matches!(kill.limit_cgroup, 0 | abi::UNKNOWN)).then_some(exceeded_group),
        reclaim: match kill.invoker_reclaim {
            abi::reclaim::LIMIT => Some(StalledBy::Limit),
            abi::reclaim::NODE => Some(StalledBy::Node),
            _ => None,
        },
        victim_started: Some(Time::from_nanos(kill.victim_start_ns)),
        victim_memory: Some(VictimMemory {
            anon: bytes(kill.anon_pages),
            file: bytes(kill.file_pages),
            shmem: bytes(kill.shmem_pages),
        }),
        memory_owner: Some(kill.owner_pid).filter(|owner| ![0, kill.victim_pid].contains(owner)),
        oom_score_adj: Some(kill.oom_score_adj),
        exiting: kill.exiting != 0,
        cut: kill.levels as usize > abi::OOM_LEVELS,
        judged: None,
        reconciled: 0,
        levels: levels.map(|level| oom_level(level, page_size)).collect(),
    }
}

fn oom_level(level: &abi::OomLevel, page_size: u64) -> OomLevel {
    OomLevel {
        cgroup: level.cgroup,
        usage: level.usage_pages.saturating_mul(page_size),
        watermark: level.watermark_pages.saturating_mul(page_size),
        limit: limit(level.max_pages, page_size),
        oom_events: known(level.oom_events),
        oom_kills: known(level.oom_kills),
        kills_as_one: level.kills_as_one != 0,
    }
}

/// `PAGE_COUNTER_MAX` is LONG_MAX / PAGE_SIZE (kernel: include/linux/page_counter.h).
pub fn limit(pages: u64, page_size: u64) -> Limit {
    if pages >= i64::MAX as u64 / page_size { Limit::Unlimited } else { Limit::Bytes(pages * page_size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32) -> abi::Header {
        abi::Header { kind, pid: 7, time_ns: 9, cgroup: 42 }
    }

    #[test]
    fn a_point_is_decoded_in_bytes() {
        let point = abi::Point { header: header(kind::POINT), usage_pages: 2, watermark_pages: 3 };
        let event = decode(bytemuck::bytes_of(&point), 4096).unwrap();
        assert_eq!(event.what, EventKind::Usage { cgroup: 42, usage: 8192, watermark: 12288 });
    }

    #[test]
    fn exit_codes_and_signals_are_distinguished() {
        assert_eq!(exit_status(0x0300), ExitStatus::Code(3));
        assert_eq!(exit_status(9), ExitStatus::Signal(9));
        assert_eq!(exit_status(0x8b), ExitStatus::Signal(11)); // with a core dump
    }

    #[test]
    fn a_limit_at_the_kernels_maximum_is_none() {
        assert_eq!(limit(i64::MAX as u64 / 4096, 4096), Limit::Unlimited);
        assert_eq!(limit(16, 4096), Limit::Bytes(65536));
    }

    #[test]
    fn a_path_that_was_cut_ends_in_what_is_whole() {
        let record = |text: &[u8]| {
            // As bpf_probe_read_kernel_str: cut to the room there is, always ended by a zero, which counts.
            let (mut path, len) = ([0; abi::PATH_LEN], text.len().min(abi::PATH_LEN - 1));
            path[..len].copy_from_slice(&text[..len]);
            let header = header(kind::CGROUP_MADE);
            let path_len = len as u64 + 1;
            abi::Cgroup { header, path, path_len, ..bytemuck::Zeroable::zeroed() }
        };
        let read = |text: &[u8]| path(bytemuck::bytes_of(&record(text))).unwrap();
        assert_eq!(read(b"/"), "/");
        assert_eq!(read(b"/a/b.service"), "/a/b.service");
        assert_eq!(read(b"/latin-\xe9"), "/latin-\u{fffd}e9");
        let parent = format!("/{}/", "p".repeat(200));
        assert_eq!(read(format!("{parent}{}", "c".repeat(250)).as_bytes()), parent);
        assert_eq!(path(bytemuck::bytes_of(&abi::Cgroup { path_len: 0, ..record(b"/a") })).unwrap(), "");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(
            kind in 0u32..12,
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2500),
        ) {
            if let Some(first) = bytes.get_mut(..4) {
                first.copy_from_slice(&kind.to_le_bytes());
            }
            let event = decode(&bytes, 4096);
            proptest::prop_assert!(event.is_none() || bytes.len() >= size_of::<abi::Header>());
        }
    }
}
