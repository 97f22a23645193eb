//! The kernel as a source: loads and attaches the probes, and turns their records and counters into events.
//!
//! It must never know what a container is: ids go in, ids come out.

use std::{
    collections::HashSet,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use aya_log::EbpfLogger;
use rustix::event::{Timespec, epoll};

use crate::{
    config::ProbeChoice,
    sources::kernel::{attach::Attached, counters::Counters, ring::Rings, support::Support},
};
use observer_core::model::{
    container::CgroupId,
    event::{Event, EventKind, ProbeStatus, ProgramCost, Totals},
    time::Time,
};

pub mod attach;
pub mod btf;
pub mod counters;
pub mod kfunc;
pub mod object;
pub mod pass;
pub mod plan;
pub mod ring;
pub mod support;
pub mod sys;

/// The attached programs and the maps they fill. Dropping it detaches everything: the links are file descriptors of
/// this process and nothing is pinned, so `kill -9` leaves nothing behind.
pub struct Kernel {
    programs: aya::Ebpf,
    _links: Vec<attach::Link>,
    growth: attach::Growth,
    pub pass: Option<pass::Pass>,
    /// Wakes when the programs ask to be read at once.
    woken: OwnedFd,
    rings: Rings,
    counters: Counters,
    swept: u64,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Kernel {
    /// Loads and attaches every probe `support` allows. `Err` in the outer result never happens for a single probe:
    /// each has its own status.
    pub fn open(support: &Support, choice: &ProbeChoice) -> (Option<Self>, Vec<ProbeStatus>) {
        let Attached { programs, links, growth, pass, statuses } = attach::all(support, choice);
        let Some(mut programs) = programs else { return (None, statuses) };
        match Self::with(&mut programs, support) {
            Ok((rings, woken, counters, log)) => {
                let _links = links;
                let kernel = Self { programs, _links, growth, pass, woken, rings, counters, swept: 0, log };
                (Some(kernel), statuses)
            }
            Err(error) => (None, attach::all_broken(&error)),
        }
    }

    #[allow(clippy::type_complexity)]
    fn with(
        programs: &mut aya::Ebpf,
        support: &Support,
    ) -> Result<(Rings, OwnedFd, Counters, Option<EbpfLogger<&'static dyn log::Log>>), String> {
        let rings = Rings::take(programs, support.page_size)?;
        let woken = wake_by(rings.fds()).map_err(|error| format!("cannot wait for the rings: {error}"))?;
        let counters = Counters::take(programs)?;
        let log = EbpfLogger::init(programs)
            .inspect_err(|error| tracing::warn!(%error, "the programs' own diagnostics are not shown"))
            .ok();
        Ok((rings, woken, counters, log))
    }

    /// From now on a wait also ends when this can be read.
    pub fn wake_on(&self, other: BorrowedFd) -> std::io::Result<()> {
        epoll::add(&self.woken, other, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Waits until the programs ask to be read at once, but not longer than this.
    pub fn wait(&self, at_most: Duration) {
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        if let Err(error) = epoll::wait(&self.woken, &mut events[..], Some(&timeout)) {
            tracing::debug!(%error, "cannot wait for the ring buffers");
            std::thread::sleep(at_most);
        }
    }

    /// What is in the rings now, each in the order the kernel wrote it, together in order of time; returns whether
    /// there is more than `at_most`. A removed cgroup's totals come just before its removal, and its table entries are
    /// freed.
    pub fn drain(&mut self, events: &mut Vec<Event>, at_most: usize) -> bool {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        for _ in 0..at_most {
            let Some(event) = self.rings.take_next() else { return false };
            if let EventKind::CgroupRemoved { cgroup } = event.what
                && let Some(totals) = self.counters.free(cgroup).totals
            {
                events.push(Event { at: event.at, what: EventKind::Totals { cgroup, totals } });
            }
            events.push(event);
        }
        true
    }

    /// The cgroups that have entries in the tables.
    pub fn tabled(&self) -> HashSet<CgroupId> {
        self.counters.tabled()
    }

    /// Frees the entries of a cgroup that is gone, and returns its last totals.
    pub fn free(&mut self, cgroup: CgroupId) -> Option<Totals> {
        self.counters.free(cgroup).totals
    }

    /// Frees the entries of cgroups that were removed without a record of it: counted as a loss.
    pub fn sweep(&mut self, gone: impl Iterator<Item = CgroupId>) {
        self.swept += gone.filter(|cgroup| self.counters.free(*cgroup).entries > 0).count() as u64;
    }

    /// The totals of every cgroup that moved since the last call, and the loss counters that moved.
    pub fn totals(&mut self, at: Time, events: &mut Vec<Event>) {
        let undecodable = self.rings.undecodable();
        self.counters.read(at, undecodable, self.swept, events);
    }

    /// Attaches or detaches the programs that see memory grow, and says so if that changed anything.
    pub fn watch_growth(&mut self, watch: bool, now: Time, events: &mut Vec<Event>) {
        if self.growth.is_attached() == watch || self.growth.is_empty() {
            return;
        }
        if !watch {
            self.growth.detach();
        } else if let Err(error) = self.growth.attach(&mut self.programs) {
            tracing::warn!("{error}; growth is read once a second until they can be attached");
            return;
        }
        for probe in self.growth.probes() {
            let what = EventKind::ProbeAttached { probe: probe.into(), attached: watch };
            events.push(Event { at: now, what });
        }
    }

    pub fn watches_growth(&self) -> bool {
        self.growth.is_attached()
    }

    /// What each program that ran has cost so far; empty where the kernel does not count it.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let infos = self.programs.programs().filter_map(|(name, program)| Some((name, program.info().ok()?)));
        let ran = infos.filter(|(_, info)| info.run_count() > 0);
        ran.map(|(name, info)| ProgramCost {
            program: name.to_owned(),
            runs: info.run_count(),
            ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        })
        .collect()
    }

    /// Stores for the programs how many parents up the container of this cgroup is; 0: the cgroup itself.
    pub fn mark(&mut self, cgroup: CgroupId, up: u32) {
        self.counters.mark(cgroup, up);
    }
}

/// Edge-triggered: a ring is readable whenever anything is in it, and most records are not worth a wake-up.
fn wake_by(rings: [BorrowedFd<'_>; 2]) -> std::io::Result<OwnedFd> {
    let woken = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    for ring in rings {
        epoll::add(&woken, ring, epoll::EventData::new_u64(0), flags)?;
    }
    Ok(woken)
}
