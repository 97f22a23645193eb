//! The live wiring: sources -> pipeline -> outlets. The only place that knows both banks.
//!
//! One task reads the host and feeds a bounded channel; one owns the pipeline and the outlets; one serves. All on one
//! thread. When the channel is full the host task waits, and what does not fit in the kernel's ring meanwhile is counted
//! there.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    clock,
    config::{self, Config, Roots},
    descriptors,
    http::{
        accept::Limits,
        auth::{Access, Admits},
        browser::Hosts,
        server::{self, Protection, Shared},
        tls,
    },
    ledger, memory,
    recording::{
        folder, history_file,
        writer::{CannotRecord, Recorder},
    },
    sinks::{api_state::NodeState, log, metrics::Metrics},
    sources::{
        cgroup::{
            sampler::{self, Sampler},
            writable,
        },
        kernel::{Kernel, support::Support},
        kubernetes::{self, ApiClock},
        ledger_client, node,
    },
};
use observer_core::{
    model::{
        event::{AttachOutcome, CgroupVersion, Event, EventKind, Host},
        finding::FindingKind::Learned,
        kubernetes::ApiState,
        time::Time,
    },
    pipeline::Pipeline,
};

/// Events on their way to the pipeline. A burst of 1 MiB of ring is at most some 20,000 records; this many are taken
/// without waiting, the rest wait in the ring.
const CHANNEL: usize = 4096;
/// PSI, meminfo, vmstat, and the core's timeouts.
const EVERY_NODE: Duration = Duration::from_secs(1);
/// The state file, if anything was learned.
const EVERY_SAVE: Duration = Duration::from_secs(60);
/// Totals of the per-cgroup table.
const EVERY_TOTALS: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum CannotRun {
    #[error(transparent)]
    Listen(#[from] server::CannotListen),
    #[error(transparent)]
    Certificate(#[from] tls::CannotUse),
    #[error("{0}; nobody could be let in: authorize needs the Kubernetes API")]
    Reviewer(kubernetes::CannotConnect),
    #[error(transparent)]
    ChangeRecord(#[from] CannotRecord),
    #[error(
        "cannot read the host's memory from {path}: {source}; nothing can be measured; give the right --proc-root"
    )]
    NoProc { path: String, source: std::io::Error },
    #[error("{0}; no container can be measured without it")]
    NoHierarchy(#[from] crate::sources::cgroup::NoHierarchy),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot write the metrics to {path}: {source}")]
    MetricsAtExit { path: String, source: std::io::Error },
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(config: Config) -> Result<(), CannotRun> {
    let began = clock::now();
    let signals = Signals::new().map_err(CannotRun::Signals)?;
    let listener = server::bind(config.listen).await?;
    let recorder = config.record.as_deref().map(Recorder::create).transpose()?;
    if let Some(path) = &config.state {
        folder::make_above(path);
    }
    let metrics = Metrics::default();
    let shared = Shared { registry: metrics.registry(), state: Arc::new(Mutex::new(NodeState::default())) };
    let (stop, stopped) = watch::channel(false);

    let protection = protection(&config).await?;
    let limits = Limits::AGENT.below(descriptors::raise_limit());
    let serving = server::serve(listener, limits, shared.clone(), protection, until(stopped.clone()));
    let server = tokio::spawn(serving);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    tracing::info!("serving {scheme}://{}/ (page), /metrics, /healthz, /readyz, /api", config.listen);
    let host = HostTask::open(&config, began)?;
    // Loading the programs read all of the kernel's types, and nothing later needs as much.
    memory::give_back();
    let (events, received) = mpsc::channel(CHANNEL);
    let cluster =
        config.kubernetes.clone().map(|settings| tokio::spawn(watch_cluster(settings, events.clone())));
    let state =
        config.state.clone().map(|path| Saver { path, changed: false, next: Instant::now() + EVERY_SAVE });
    let core = Core { pipeline: Pipeline::default(), metrics, shared, recorder, state, began };
    let core = tokio::spawn(core.run(received));
    tokio::spawn(async move {
        signals.wait().await;
        let _ = stop.send(true); // nobody left to tell is fine
    });
    host.run(events, stopped).await;
    if let Some(cluster) = cluster {
        cluster.abort(); // it holds nothing but connections
        let _ = cluster.await; // its end, and with it the end of the events
    }

    let metrics = core.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    if let Some(path) = &config.metrics_at_exit {
        write(path, &metrics)?;
    }
    server.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    Ok(())
}

/// What the page and metrics are protected by, as configured.
async fn protection(config: &Config) -> Result<Protection, CannotRun> {
    let hosts = Hosts::new(config.allowed_hosts.iter().cloned());
    let mut protection = Protection { hosts, ..Protection::default() };
    if let Some(pair) = config.tls.clone() {
        let tls = pair.load().await?;
        protection.tls = Some(tls.clone());
        tokio::spawn(async move { pair.renew(tls).await });
    }
    if let Some(settings) = config.kubernetes.as_ref().filter(|_| config.authorize) {
        let client = kubernetes::client(settings.kubeconfig.as_deref(), ApiClock::default())
            .await
            .map_err(CannotRun::Reviewer)?;
        protection.access = Some(Access::new(client, Admits::WhoMayGet("/metrics")));
    }
    Ok(protection)
}

/// The pods of this node and, as configured, what happened to their workloads. Without the API the rest goes on.
async fn watch_cluster(settings: config::Kubernetes, events: mpsc::Sender<Event>) {
    let clock = ApiClock::default();
    let client = kubernetes::connect(settings.kubeconfig.as_deref(), clock.clone(), &events).await;
    let source = match settings.ledger {
        config::Ledger::Nobody => None,
        config::Ledger::At(address) => Some(ledger_client::Source::remote(address)),
        config::Ledger::Embedded => Some(ledger_client::Source::Embedded(ledger::Shared::of(clock.clone()))),
    };
    let book = match &source {
        Some(ledger_client::Source::Embedded(shared)) => Some(shared.clone()),
        _ => None,
    };
    let cluster = client.clone();
    let embedded = async {
        if let Some(book) = book {
            ledger::watch::all(cluster, book, || {}).await;
        }
    };
    match source {
        None => kubernetes::watch(client, clock, settings.node, None, events).await,
        Some(source) => {
            let (came, coming) = mpsc::channel(1024);
            let asking = ledger_client::ask(source, coming, events.clone());
            tokio::join!(
                kubernetes::watch(client, clock, settings.node, Some(came), events),
                asking,
                embedded
            );
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), CannotRun> {
    std::fs::write(path, text)
        .map_err(|source| CannotRun::MetricsAtExit { path: path.display().to_string(), source })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await; // a dropped sender stops as well
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.term.recv() => tracing::info!("SIGTERM: draining"),
            _ = self.int.recv() => tracing::info!("SIGINT: draining"),
        }
    }
}

/// Reads the host: the kernel's ring and counters, the cgroup files, the node's files.
struct HostTask {
    kernel: Option<Kernel>,
    sampler: Sampler,
    roots: Roots,
    pending: Vec<Event>,
}

impl HostTask {
    fn open(config: &Config, began: Time) -> Result<Self, CannotRun> {
        let support = Support::gather(&config.roots);
        let memory_total = node::memory_total(&config.roots.proc)
            .map_err(|source| CannotRun::NoProc { path: config.roots.proc.display().to_string(), source })?;
        let (kernel, statuses) = Kernel::open(&support, &config.probes);
        let hierarchy = support.hierarchy?;
        let host = Host {
            observer_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: support.kernel,
            cgroup: hierarchy.version,
            wall_offset_ns: clock::wall_offset_ns(),
            page_size: support.page_size,
            cpus: support.cpus,
            memory_total,
            booted: node::booted(&config.roots.proc),
            retention_ns: config.retention.as_nanos() as u64,
        };
        if let Some(root) = &config.roots.cgroup {
            writable::warn(&config.roots.proc, root);
        }
        if hierarchy.version == CgroupVersion::V1 {
            tracing::info!("cgroup v1: no memory.events and no pressure per container on this host");
        }
        let only_walks = !statuses
            .iter()
            .any(|s| s.probe == "cgroup_life" && matches!(s.outcome, AttachOutcome::Attached { .. }));
        let mut pending = vec![Event { at: began, what: EventKind::Host(host) }];
        if let Some(kubernetes) = &config.kubernetes {
            // Before any container is known: those of pods wait for the API.
            let watching = ApiState::Watching {
                node: kubernetes.node.clone(),
                ledger: kubernetes.ledger != config::Ledger::Nobody,
            };
            pending.push(Event { at: began, what: EventKind::Api(watching) });
        }
        if let Some(path) = &config.state {
            match history_file::restore(path, began) {
                Ok(histories) => pending.extend(histories),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        pending
            .extend(statuses.into_iter().map(|status| Event { at: began, what: EventKind::Probe(status) }));
        Ok(Self {
            kernel,
            sampler: Sampler::new(hierarchy, only_walks),
            roots: config.roots.clone(),
            pending,
        })
    }

    async fn run(mut self, out: mpsc::Sender<Event>, stopped: watch::Receiver<bool>) {
        let mut stop = std::pin::pin!(until(stopped));
        let (mut next_node, mut next_totals) = (Instant::now(), Instant::now());
        loop {
            self.look(&mut next_node, &mut next_totals);
            if self.send(&out).await.is_err() {
                return; // the core is gone
            }
            let pause = if self.sampler.is_moving(clock::now()) { sampler::FAST } else { sampler::SLOW };
            let kernel = self.kernel.as_ref();
            tokio::select! {
                () = &mut stop => break,
                () = sleep_until(Instant::now() + pause) => {}
                Ok(()) = async { match kernel { Some(kernel) => kernel.woken().await, None => std::future::pending().await } } => {}
            }
        }
        let (mut node, mut totals) = (Instant::now(), Instant::now());
        self.look(&mut node, &mut totals);
        let _ = self.send(&out).await; // the core may be gone; then nobody wants it
    }

    /// Everything there is to see now, in order: what happened, what the files say, what time it is.
    fn look(&mut self, next_node: &mut Instant, next_totals: &mut Instant) {
        let from = self.pending.len();
        if let Some(kernel) = &mut self.kernel {
            kernel.drain(&mut self.pending);
        }
        let mut marks: Vec<_> =
            self.pending[from..].iter().filter_map(|event| self.sampler.learn(event)).collect();
        let now = clock::now();
        marks.extend(self.sampler.walk_if_due(now, &mut self.pending));
        self.sampler.sample(now, &mut self.pending);
        if let Some(kernel) = &mut self.kernel {
            for (cgroup, up) in marks {
                kernel.mark(cgroup, up);
            }
            if *next_totals <= Instant::now() {
                *next_totals = Instant::now() + EVERY_TOTALS;
                kernel.totals(now, &mut self.pending);
            }
        }
        if *next_node <= Instant::now() {
            *next_node = Instant::now() + EVERY_NODE;
            self.node(now);
        }
    }

    fn node(&mut self, now: Time) {
        match node::reading(&self.roots.proc, self.sampler.pods_available()) {
            Ok(reading) => self.pending.push(Event { at: now, what: EventKind::Node(reading) }),
            Err(error) => tracing::debug!(%error, "the node's memory could not be read this time"),
        }
        self.sampler.losses(now, &mut self.pending);
        self.pending.push(Event { at: now, what: EventKind::Observer(node::observer()) });
        self.pending.push(Event { at: now, what: EventKind::Tick });
    }

    async fn send(&mut self, out: &mpsc::Sender<Event>) -> Result<(), mpsc::error::SendError<Event>> {
        for event in self.pending.drain(..) {
            out.send(event).await?;
        }
        Ok(())
    }
}

/// Owns the pipeline and the outlets.
struct Core {
    pipeline: Pipeline,
    metrics: Metrics,
    shared: Shared,
    recorder: Option<Recorder>,
    state: Option<Saver>,
    began: Time,
}

/// When to write the histories.
struct Saver {
    path: PathBuf,
    changed: bool,
    next: Instant,
}

impl Saver {
    fn save(&mut self, pipeline: &Pipeline) {
        self.next = Instant::now() + EVERY_SAVE;
        if std::mem::take(&mut self.changed)
            && let Err(error) = history_file::save(&self.path, pipeline.histories())
        {
            tracing::warn!(
                "cannot write the state to {}: {error}; a restart would forget the start-ups seen since",
                self.path.display()
            );
        }
    }
}

impl Core {
    /// Until the sources are done. Returns the metrics as they are then.
    async fn run(mut self, mut events: mpsc::Receiver<Event>) -> String {
        let mut batch = Vec::new();
        while events.recv_many(&mut batch, CHANNEL).await > 0 {
            for event in batch.drain(..) {
                self.take(&event);
            }
        }
        if let Some(state) = &mut self.state {
            state.save(&self.pipeline);
        }
        if let Some(Err(error)) = self.recorder.as_mut().map(Recorder::flush) {
            tracing::error!("{error}");
        }
        self.metrics.render()
    }

    fn take(&mut self, event: &Event) {
        self.record(event);
        let findings = self.pipeline.step(event);
        let mut shown = self.shared.state();
        for finding in &findings {
            self.metrics.apply(finding);
            shown.apply(finding);
            log::log(finding);
            if let (Some(state), Learned { .. }) = (&mut self.state, &finding.what) {
                state.changed = true;
            }
        }
        if let Some(state) = &mut self.state
            && matches!(event.what, EventKind::Tick)
            && state.next <= Instant::now()
        {
            state.save(&self.pipeline);
        }
        if matches!(event.what, EventKind::Tick) && !shown.seeded {
            shown.seeded = true;
            let took = event.at.since(self.began);
            match shown.ready() {
                Ok(()) => tracing::info!("ready after {} ms", took.as_millis()),
                Err(missing) => tracing::warn!("not ready: {missing}; `observer check` says how to mend it"),
            }
        }
    }

    fn record(&mut self, event: &Event) {
        let Some(recorder) = &mut self.recorder else { return };
        let written = recorder.write(event).and_then(|()| match event.what {
            EventKind::Tick => recorder.flush(), // so that a killed daemon leaves all but the last second
            _ => Ok(()),
        });
        if let Err(error) = written {
            tracing::error!("{error}; recording has ended");
            self.recorder = None;
        }
    }
}
