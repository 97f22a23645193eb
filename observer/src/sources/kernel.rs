//! The kernel as a source: loads and attaches the probes, and turns their records and counters into events.
//!
//! It must never know what a container is: ids go in, ids come out.

use std::{io, os::fd::OwnedFd};

use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use crate::{
    config::ProbeChoice,
    sources::kernel::{attach::Attached, counters::Counters, ring::Ring, support::Support},
};
use observer_core::model::{
    event::{CgroupId, Event, EventKind, ProbeStatus, Totals},
    time::Time,
};

pub mod attach;
pub mod btf;
pub mod counters;
pub mod kfunc;
pub mod object;
pub mod plan;
pub mod ring;
pub mod support;

/// The attached programs and the maps they fill. Dropping it detaches everything: the links are file descriptors of
/// this process and nothing is pinned, so `kill -9` leaves nothing behind.
pub struct Kernel {
    /// Holds the programs and links.
    _programs: aya::Ebpf,
    ring: AsyncFd<OwnedFd>,
    records: Ring,
    counters: Counters,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Kernel {
    /// Loads and attaches every probe `support` allows. `Err` in the outer result never happens for a single probe:
    /// each has its own status.
    pub fn open(support: &Support, choice: &ProbeChoice) -> (Option<Self>, Vec<ProbeStatus>) {
        let Attached { programs, statuses } = attach::all(support, choice);
        let Some(mut programs) = programs else { return (None, statuses) };
        match Self::with(&mut programs, support) {
            Ok((records, ring, counters, log)) => {
                (Some(Self { _programs: programs, ring, records, counters, log }), statuses)
            }
            Err(error) => (None, attach::all_broken(&error)),
        }
    }

    #[allow(clippy::type_complexity)]
    fn with(
        programs: &mut aya::Ebpf,
        support: &Support,
    ) -> Result<(Ring, AsyncFd<OwnedFd>, Counters, Option<EbpfLogger<&'static dyn log::Log>>), String> {
        let records = Ring::take(programs, support.page_size)?;
        let ring = records
            .fd()
            // SAFETY: the descriptor is owned by the AsyncFd and stays open as long as it.
            .and_then(|fd| unsafe { AsyncFd::register(fd) }.map_err(Into::into))
            .map_err(|error| format!("cannot wait for the records ring: {error}"))?;
        let counters = Counters::take(programs)?;
        let log = EbpfLogger::init(programs)
            .inspect_err(|error| tracing::warn!(%error, "the programs' own diagnostics are not shown"))
            .ok();
        Ok((records, ring, counters, log))
    }

    /// Waits until the programs ask to be read at once.
    pub async fn woken(&self) -> io::Result<()> {
        let mut guard = self.ring.readable().await?;
        guard.clear_ready();
        Ok(())
    }

    /// Everything in the ring now, in the order the kernel wrote it. A removed cgroup's totals come just before its
    /// removal, and its table entry is freed.
    pub fn drain(&mut self, events: &mut Vec<Event>) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        while let Some(event) = self.records.take_next() {
            if let EventKind::CgroupRemoved { cgroup } = event.what
                && let Some(totals) = self.counters.take_totals(cgroup)
            {
                events.push(Event { at: event.at, what: EventKind::Totals { cgroup, totals } });
            }
            events.push(event);
        }
    }

    /// The totals of every cgroup that moved since the last call, and the loss counters that moved.
    pub fn totals(&mut self, at: Time, events: &mut Vec<Event>) {
        let undecodable = self.records.undecodable();
        self.counters.read(at, undecodable, events);
    }

    /// Tells the programs how many parents up the container of this cgroup is; 0: it is one.
    pub fn mark(&mut self, cgroup: CgroupId, up: u32) {
        self.counters.mark(cgroup, up);
    }
}

pub(crate) fn total_of(totals: &observer_ebpf::abi::CgroupTotals, in_slots: u64) -> Totals {
    Totals {
        faults: totals.faults + in_slots,
        memcg_stalls: totals.memcg_stalls,
        memcg_stall_ns: totals.memcg_stall_ns,
        direct_stalls: totals.direct_stalls,
        direct_stall_ns: totals.direct_stall_ns,
    }
}
