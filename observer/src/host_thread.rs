//! The thread that reads the host: the kernel's ring and counters, the cgroup files, the node's files.
//!
//! A read of a cgroup's file can take seconds while memory is short, and for ever where a file system hangs. So it is
//! done apart from what serves `/healthz` and `/metrics`. Batches of events leave over a bounded channel: when it is
//! full this thread waits, and what does not fit in the kernel's ring meanwhile is counted there.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock,
    config::{self, Config, Roots},
    memory,
    recording::{history_file, kill_journal},
    sources::{
        cgroup::{NoHierarchy, writable},
        kernel::{Kernel, support::Support},
        node,
        own_limit::OwnLimit,
        sampler::{self, Sampler},
        sweep::Sweep,
        unread::Unread,
    },
};
use observer_core::model::{
    container::CgroupId,
    event::{AttachOutcome, CgroupVersion, Event, EventKind, Host, Loss, NodeReading},
    kubernetes::ApiState,
    probe_id::ProbeId,
    time::Time,
};

/// Batches on their way to the pipeline, and the events of one: together more than the kernel's ring holds.
const BATCHES: usize = 8;
const BATCH: usize = 4096;
/// PSI, meminfo, vmstat, the wall clock, and the core's timeouts.
const EVERY_NODE: Duration = Duration::from_secs(1);
/// Totals of the per-cgroup table, while faults are counted and at rest.
const EVERY_TOTALS: Duration = Duration::from_secs(1);
const EVERY_TOTALS_AT_REST: Duration = Duration::from_secs(15);
/// What the programs cost: as often as it is scraped.
const EVERY_COSTS: Duration = Duration::from_secs(15);
/// Growth is followed this long after the last start-up had its verdict, so that many starts do not attach and detach
/// by turns.
const AFTER_START: Duration = Duration::from_secs(10);
/// The wall clock was set when it moved by more than this against the monotonic one. Slewing adds up to as much in
/// minutes.
const CLOCK_SET_NS: u64 = 100_000_000;

/// Containers in their start-up: the core counts, the thread that reads the host looks.
pub type Starting = Arc<AtomicUsize>;

#[derive(Debug, thiserror::Error)]
pub enum CannotRead {
    #[error(
        "cannot read the host's memory from {path}: {source}; nothing can be measured; give the right --proc-root"
    )]
    NoProc { path: String, source: std::io::Error },
    #[error("{0}; no container can be measured without it")]
    NoHierarchy(#[from] NoHierarchy),
}

/// The other end of the thread.
pub struct HostThread {
    /// Closed when the thread has ended. The first batch begins with [`EventKind::Host`].
    pub batches: mpsc::Receiver<Vec<Event>>,
    /// Once the first batch is sent, or why there is none.
    pub opened: oneshot::Receiver<Result<(), CannotRead>>,
    pub stop: Stop,
}

/// Ends the thread after one more look; one that hangs in a read is left behind.
#[derive(Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    /// Readable from then on (eventfd(2)).
    wakes: Arc<OwnedFd>,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { asked: Arc::default(), wakes: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?) })
    }

    pub fn stop(&self) {
        self.asked.store(true, Ordering::Relaxed);
        // It fails only while it is readable anyway.
        let _ = rustix::io::write(&self.wakes, &1u64.to_ne_bytes());
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl HostThread {
    pub fn start(config: Config, began: Time, starting: Starting) -> std::io::Result<Self> {
        let (out, batches) = mpsc::channel(BATCHES);
        let (open, opened) = oneshot::channel();
        let stop = Stop::new()?;
        let stopped = stop.clone();
        thread::Builder::new().name("host".into()).spawn(move || {
            let mut reader = match Reader::open(&config, began, starting) {
                Ok(reader) => reader,
                Err(error) => {
                    let _ = open.send(Err(error)); // stopping already
                    return;
                }
            };
            // Parsing all of the kernel's types takes some 12 MiB, and nothing later needs as much.
            memory::trim_heap();
            if reader.send(&out) && open.send(Ok(())).is_ok() {
                reader.run(&out, &stopped);
            }
        })?;
        Ok(Self { batches, opened, stop })
    }
}

struct Reader {
    kernel: Option<Kernel>,
    starting: Starting,
    /// When a container was last seen to start.
    last_start: Time,
    sampler: Sampler,
    sweep: Sweep,
    roots: Roots,
    wall_offset_ns: i64,
    node_unread: Unread,
    own: node::Own,
    pending: Vec<Event>,
    next_node: Instant,
    next_totals: Instant,
    next_costs: Instant,
}

fn is_due(next: Instant) -> bool {
    next <= Instant::now() + sampler::SLACK
}

impl Reader {
    fn open(config: &Config, began: Time, starting: Starting) -> Result<Self, CannotRead> {
        let support = Support::gather(&config.roots);
        let memory_total = node::memory_total(&config.roots.proc)
            .map_err(|source| CannotRead::NoProc { path: config.roots.proc.display().to_string(), source })?;
        let (mut kernel, statuses) = Kernel::open(&support, &config.probes);
        let hierarchy = support.hierarchy?;
        let wall_offset_ns = clock::wall_offset_ns();
        let host = Host {
            observer_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: support.kernel,
            cgroup: hierarchy.version,
            wall_offset_ns,
            page_size: support.page_size,
            cpus: support.cpus,
            memory_total,
            booted: node::booted(&config.roots.proc),
            retention_ns: config.retention.as_nanos() as u64,
        };
        if let Some(root) = &config.roots.cgroup {
            writable::warn(&config.roots.proc, root);
        }
        if hierarchy.is_part() {
            tracing::warn!(
                "only a part of the cgroup tree is at {}: containers outside of it are not measured; use the host's \
                 cgroup namespace, or mount the host's tree and give it with --cgroup-root",
                hierarchy.root.display()
            );
        }
        if hierarchy.version == CgroupVersion::V1 {
            tracing::info!("cgroup v1: no memory.events and no pressure per container on this host");
        }
        let only_walks = !statuses
            .iter()
            .any(|s| s.probe == ProbeId::CgroupLife && matches!(s.outcome, AttachOutcome::Attached { .. }));
        let mut pending = vec![Event { at: began, what: EventKind::Host(host) }];
        if let Some(kubernetes) = &config.kubernetes {
            // Before any container is known: those of pods wait for the API.
            let watching = ApiState::Watching {
                node: kubernetes.node.clone(),
                ledger: kubernetes.ledger != config::Ledger::Off,
            };
            pending.push(Event { at: began, what: EventKind::Api(watching) });
        }
        let mut own = node::Own::new(OwnLimit::find());
        // Before what was kept is read.
        if let Ok(Some(reading)) = own.reading(began)
            && let Some(room) = reading.room
        {
            tracing::info!("its own memory limit is {} MiB", room.limit >> 20);
            pending.push(Event { at: began, what: EventKind::Observer(reading) });
        }
        if let Some(path) = &config.state {
            let (histories, damage) = history_file::restore(path, began, clock::unix_seconds());
            pending.extend(histories);
            if let Some(damage) = damage {
                tracing::warn!("{damage}");
            }
            // Kills that the probes have seen since a moment ago are in the ring, and come after this.
            if let Some(kept) = kill_journal::restore(path, &config.roots.proc) {
                pending.push(Event { at: began, what: EventKind::KillsKept(kept) });
            }
        }
        pending
            .extend(statuses.into_iter().map(|status| Event { at: began, what: EventKind::Probe(status) }));
        let mut sampler = Sampler::new(hierarchy, only_walks);
        if let Some(pass) = kernel.as_mut().and_then(|kernel| kernel.pass.take()) {
            sampler.use_pass(pass, config.pass_interval);
        }
        Ok(Self {
            kernel,
            starting,
            last_start: began,
            sampler,
            sweep: Sweep::default(),
            roots: config.roots.clone(),
            wall_offset_ns,
            node_unread: Unread::new("the node's files"),
            own,
            pending,
            next_node: Instant::now(),
            next_totals: Instant::now(),
            next_costs: Instant::now(),
        })
    }

    fn run(mut self, out: &mpsc::Sender<Vec<Event>>, stopped: &Stop) {
        if let Some(Err(error)) = self.kernel.as_ref().map(|kernel| kernel.wake_on(stopped.wakes.as_fd())) {
            tracing::debug!(%error, "stopping takes until the next look");
        }
        loop {
            let stopping = stopped.is_asked();
            if stopping {
                (self.next_node, self.next_totals) = (Instant::now(), Instant::now());
            }
            let more = self.look();
            if !self.send(out) || stopping {
                return;
            }
            if !more {
                self.wait();
            }
        }
    }

    /// `false`: the pipeline is gone.
    fn send(&mut self, out: &mpsc::Sender<Vec<Event>>) -> bool {
        self.pending.is_empty() || out.blocking_send(std::mem::take(&mut self.pending)).is_ok()
    }

    /// Until the next look is due or the programs ask for one. At rest that is once a second: what begins anything
    /// wakes.
    fn wait(&self) {
        let now = clock::now();
        let rest = self.kernel.as_ref().and_then(|kernel| {
            let pass = self.sampler.rests_until().filter(|_| !kernel.watches_growth())?.since(now);
            let others = [self.next_node, self.next_totals, self.next_costs];
            let others = others.map(|due| due.saturating_duration_since(Instant::now()));
            others.into_iter().chain([pass]).min()
        });
        let rest = rest.unwrap_or(sampler::SLOW);
        let pause = self.sampler.pace(now).map_or(rest, |pace| pace.min(rest));
        match &self.kernel {
            Some(kernel) => kernel.wait(pause),
            None => thread::sleep(pause),
        }
    }

    /// Everything there is to see now, in order: what happened, what the files say, what time it is. Returns whether
    /// there is more in the ring.
    fn look(&mut self) -> bool {
        let mut drained = Vec::new();
        let more = self.kernel.as_mut().is_some_and(|kernel| kernel.drain(&mut drained, BATCH));
        drained.retain_mut(|event| self.sampler.complete(event));
        let mut marks: Vec<_> = drained.iter().filter_map(|event| self.sampler.learn(event)).collect();
        self.pending.append(&mut drained);

        let now = clock::now();
        if self.sampler.walk_is_due(now) {
            marks.extend(self.walk(now));
        }
        self.watch_growth(now);
        self.sampler.sample(now, &mut self.pending);
        if let Some(kernel) = &mut self.kernel {
            // One that was made and removed in this very batch has left the tables already.
            for (cgroup, up) in marks.into_iter().filter(|(cgroup, _)| self.sampler.knows(*cgroup)) {
                kernel.mark(cgroup, up);
            }
            if is_due(self.next_totals) {
                let every = if kernel.watches_growth() { EVERY_TOTALS } else { EVERY_TOTALS_AT_REST };
                self.next_totals = Instant::now() + every;
                let from = self.pending.len();
                kernel.totals(now, &mut self.pending);
                let full =
                    |event: &Event| matches!(event.what, EventKind::Lost { at: Loss::LifeRingFull, .. });
                if self.pending[from..].iter().any(full) {
                    self.sampler.missed_records();
                }
            }
        }
        if is_due(self.next_costs) {
            self.next_costs = Instant::now() + EVERY_COSTS;
            let costs = self.kernel.as_ref().map(Kernel::costs).unwrap_or_default();
            if !costs.is_empty() {
                self.pending.push(Event { at: now, what: EventKind::Programs(costs) });
            }
        }
        if is_due(self.next_node) {
            self.next_node = Instant::now() + EVERY_NODE;
            self.node(now);
        }
        more
    }

    /// The programs on the growth of memory run while a container starts; a node at rest pays nothing for them.
    fn watch_growth(&mut self, now: Time) {
        let Some(kernel) = &mut self.kernel else { return };
        if self.sampler.has_births(now) || self.starting.load(Ordering::Relaxed) > 0 {
            self.last_start = now;
        }
        let watch = now.since(self.last_start) < AFTER_START;
        if watch != kernel.watches_growth() {
            self.next_totals = Instant::now();
        }
        kernel.watch_growth(watch, now, &mut self.pending);
    }

    /// What the walk finds gone leaves the kernel's tables, and so does whatever else is in them and not in the tree:
    /// its removal was lost with a full ring.
    fn walk(&mut self, now: Time) -> Vec<(CgroupId, u32)> {
        // Read before the tree: what comes meanwhile is not in it.
        let in_tables = self.kernel.as_ref().map(Kernel::tabled).unwrap_or_default();
        let walked = self.sampler.walk(now, &mut self.pending, |cgroup| self.kernel.as_mut()?.free(cgroup));
        if let Some(kernel) = self.kernel.as_mut().filter(|_| walked.complete) {
            let unclaimed = in_tables.into_iter().filter(|cgroup| !self.sampler.knows(*cgroup)).collect();
            kernel.sweep(self.sweep.confirm(unclaimed).into_iter());
            if self.sweep.is_open() {
                self.sampler.missed_records();
            }
        }
        walked.marks
    }

    fn node(&mut self, now: Time) {
        let mut push = |what| self.pending.push(Event { at: now, what });
        let wall_offset_ns = clock::wall_offset_ns();
        if wall_offset_ns.abs_diff(self.wall_offset_ns) > CLOCK_SET_NS {
            self.wall_offset_ns = wall_offset_ns;
            push(EventKind::ClockSet { wall_offset_ns });
        }
        match node::reading(&self.roots.proc) {
            Ok(reading) => {
                let pods_available = self.sampler.pods_available();
                push(EventKind::Node(NodeReading { pods_available, ..reading }));
            }
            Err(error) => self.node_unread.count(&error),
        }
        match self.own.reading(now) {
            Ok(reading) => drop(reading.map(|reading| push(EventKind::Observer(reading)))),
            Err(error) => self.node_unread.count(&error),
        }
        for (at, count) in [
            (Loss::CgroupUnreadable, self.sampler.unread()),
            (Loss::PathNotFound, self.sampler.paths_not_found()),
            (Loss::NodeUnreadable, self.node_unread.total()),
        ] {
            if count > 0 {
                push(EventKind::Lost { at, count });
            }
        }
        push(EventKind::Tick);
    }
}
