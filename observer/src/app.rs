//! The live wiring: sources -> pipeline -> outlets. The only place that knows both banks.
//!
//! One thread reads the host ([`crate::host_thread`]); on the other, one task owns the pipeline and the outlets, one
//! serves, and on Kubernetes some watch the API.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    clock,
    config::{self, Config},
    descriptors, files,
    host_thread::{CannotRead, HostThread, Starting},
    http::{
        accept::Limits,
        auth::{Access, Admits},
        browser::Hosts,
        server::{self, Protection},
        shared::Shared,
        tls,
    },
    ledger::{self, client},
    memory,
    recording::{
        folder,
        history_file::Saver,
        incidents::Incidents,
        kill_journal::KillJournal,
        writer::{CannotRecord, Recorder},
    },
    signals::Signals,
    sinks::{api_state::NodeState, log, metrics::Metrics},
    sources::kubernetes::{self, ApiClock},
};
use observer_core::{
    model::{
        event::{Event, EventKind, Loss},
        finding::FindingKind::{self, HistoryDropped, Learned},
        time::Time,
    },
    pipeline::Pipeline,
};

/// Events of the API on their way to the pipeline.
const CHANNEL: usize = 1024;
/// The host is looked at once a second at least; after this long without a word of it, a read hangs.
const STALLED: Duration = Duration::from_secs(5);
/// When stopping, the thread that reads the host is waited for this long.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// And so is the file of the last metrics.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Probes are attached, what was kept is read, the API is asked: what runs from then on is a part of the program.
const START_IS_OVER: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum CannotRun {
    #[error(transparent)]
    Listen(#[from] server::CannotListen),
    #[error(transparent)]
    Certificate(#[from] tls::CannotUse),
    #[error("{0}; authorize is set, and tokens cannot be reviewed without the Kubernetes API")]
    Reviewer(kubernetes::CannotConnect),
    #[error(transparent)]
    ChangeRecord(#[from] CannotRecord),
    #[error(transparent)]
    Host(#[from] CannotRead),
    #[error("cannot start the thread that reads the host: {0}")]
    Thread(io::Error),
    #[error("the thread that reads the host ended; nothing is measured any more")]
    ThreadEnded,
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error("cannot write the metrics to {path}: {source}")]
    MetricsAtExit { path: String, source: io::Error },
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(config: Config) -> Result<(), CannotRun> {
    memory::give_back_large_blocks();
    let began = clock::now();
    let signals = Signals::new().map_err(CannotRun::Signals)?;
    let listener = server::bind(config.listen).await?;
    let recorder = config.record.as_deref().map(Recorder::create).transpose()?;
    if let Some(path) = &config.state {
        folder::make_above(path);
    }
    let metrics = Metrics::default();
    let shared = Shared {
        metrics: metrics.clone(),
        state: Arc::new(Mutex::new(NodeState::default())),
        stalled: Arc::new(AtomicBool::new(false)),
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let signal = signals.wait().await;
        tracing::info!("{signal}: draining");
        let _ = stop.send(true); // no receiver is left: nothing to stop
    });

    let protection = tokio::select! {
        protection = protection(&config) => protection?,
        () = until(stopped.clone()) => return Ok(()),
    };
    let limits = Limits::AGENT.below(descriptors::raise_limit());
    let serving = server::serve(listener, limits, shared.clone(), protection, until(stopped.clone()));
    let server = tokio::spawn(serving);

    let starting = Starting::default();
    let HostThread { batches, opened, stop: stop_host } =
        HostThread::start(config.clone(), began, Arc::clone(&starting)).map_err(CannotRun::Thread)?;
    tokio::select! {
        opened = opened => opened.map_err(|_| CannotRun::ThreadEnded)??,
        () = until(stopped.clone()) => return Ok(()), // it hangs already
    }
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    tracing::info!("serving {scheme}://{}/ (page), /metrics, /healthz, /readyz, /api", config.listen);
    let (events, received) = mpsc::channel(CHANNEL);
    let cluster = config.kubernetes.clone().map(|settings| tokio::spawn(watch_cluster(settings, events)));
    let state = config.state.clone().map(|path| Saver::new(path, Instant::now().into_std()));
    let journal = |state: &Path| KillJournal::new(state, &config.roots.proc, Instant::now().into_std());
    let kill_journal = config.state.as_deref().map(journal).and_then(|made| {
        made.inspect_err(|error| tracing::warn!("OOM kills are not kept over a restart: {error}")).ok()
    });
    let incidents = config.incidents.clone().and_then(Incidents::open);
    let core = Core {
        pipeline: Pipeline::default(),
        metrics,
        shared,
        recorder,
        incidents,
        state,
        kill_journal,
        began,
        stalled_seconds: 0,
        starting,
    };
    tokio::spawn(async {
        sleep(START_IS_OVER).await;
        memory::unmap_code();
    });
    let give_up = until(stopped.clone());
    let core = tokio::spawn(core.run(batches, received, async move {
        give_up.await;
        stop_host.stop();
        sleep(LAST_LOOK).await;
    }));
    let metrics = core.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    if let Some(cluster) = cluster {
        cluster.abort(); // it holds nothing but connections
    }
    if !*stopped.borrow() {
        return Err(CannotRun::ThreadEnded);
    }
    if let Some(path) = &config.metrics_at_exit {
        let failed = |source| CannotRun::MetricsAtExit { path: path.display().to_string(), source };
        files::write(path, metrics, LAST_WRITE).await.map_err(failed)?;
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
        config::Ledger::Off => None,
        config::Ledger::At(address) => Some(client::Source::remote(address)),
        config::Ledger::Embedded => Some(client::Source::Embedded(ledger::Shared::of(clock.clone()))),
    };
    let book = match &source {
        Some(client::Source::Embedded(shared)) => Some(shared.clone()),
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
            let asking = client::ask(source, coming, events.clone());
            tokio::join!(
                kubernetes::watch(client, clock, settings.node, Some(came), events),
                asking,
                embedded
            );
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await; // a dropped sender stops as well
}

/// Owns the pipeline and the outlets.
struct Core {
    pipeline: Pipeline,
    metrics: Metrics,
    shared: Shared,
    recorder: Option<Recorder>,
    incidents: Option<Incidents>,
    state: Option<Saver>,
    kill_journal: Option<KillJournal>,
    began: Time,
    /// In which the host was not read.
    stalled_seconds: u64,
    starting: Starting,
}

impl Core {
    /// Until the host is no longer read, or was waited for in vain. Returns the metrics as they are then.
    async fn run(
        mut self,
        mut host: mpsc::Receiver<Vec<Event>>,
        mut cluster: mpsc::Receiver<Event>,
        give_up: impl Future<Output = ()>,
    ) -> String {
        let mut give_up = std::pin::pin!(give_up);
        // The first event of all says on what host it is.
        let mut batch = host.recv().await;
        let mut heard = Instant::now();
        loop {
            match batch.take() {
                Some(events) => {
                    self.answers();
                    for event in &events {
                        self.take(event);
                    }
                    heard = Instant::now();
                    self.save_if_due();
                }
                None if host.is_closed() && host.is_empty() => break,
                None => {}
            }
            tokio::select! {
                events = host.recv() => batch = events,
                Some(event) = cluster.recv() => self.take(&event),
                () = sleep_until(heard + STALLED) => {
                    heard += Duration::from_secs(1);
                    self.stalled();
                }
                () = &mut give_up => {
                    tracing::warn!("the host's files do not answer: exiting without a last reading");
                    break;
                }
            }
        }
        while let Ok(event) = cluster.try_recv() {
            self.take(&event);
        }
        if let Some(state) = self.state.take() {
            state.finish(self.pipeline.histories()).await;
        }
        if let Some(journal) = self.kill_journal.take() {
            journal.finish().await;
        }
        if let Some(incidents) = self.incidents.take() {
            incidents.finish(clock::now(), self.pipeline.histories()).await;
        }
        if let Some(Err(error)) = self.recorder.as_mut().map(Recorder::flush) {
            tracing::error!("{error}");
        }
        self.metrics.everything()
    }

    /// Another second without a word of the host.
    fn stalled(&mut self) {
        if !self.shared.stalled.swap(true, Ordering::Relaxed) {
            tracing::warn!("the host's files do not answer: metrics stand still until they do");
            self.stalled_seconds += STALLED.as_secs() - 1;
        }
        self.stalled_seconds += 1;
        let lost = EventKind::Lost { at: Loss::HostStalled, count: self.stalled_seconds };
        self.take(&Event { at: clock::now(), what: lost });
    }

    fn answers(&mut self) {
        if self.shared.stalled.swap(false, Ordering::Relaxed) {
            tracing::info!("the host's files answer again after {} s in all", self.stalled_seconds);
        }
    }

    fn save_if_due(&mut self) {
        if let Some(state) = &mut self.state {
            state.tick(Instant::now().into_std(), self.pipeline.histories());
        }
    }

    /// Its seconds, and what the disk did not take.
    fn keep_incidents(&mut self, now: Time) {
        let Some(incidents) = &mut self.incidents else { return };
        incidents.tick(now, self.pipeline.histories());
        if let Some(count) = incidents.newly_lost() {
            self.take(&Event { at: now, what: EventKind::Lost { at: Loss::IncidentRing, count } });
        }
    }

    fn take(&mut self, event: &Event) {
        self.record(event);
        if let Some(incidents) = &mut self.incidents {
            incidents.take(event);
        }
        let findings = self.pipeline.step(event);
        if let Some(journal) = &mut self.kill_journal {
            // Before it is published. Nothing is to be kept before what an earlier run kept is known.
            let new = self.pipeline.kills_to_keep(event);
            journal.keep(new, Instant::now().into_std(), || self.pipeline.kills_kept());
        }
        let mut shown = self.shared.state();
        for finding in &findings {
            self.metrics.apply(finding);
            shown.apply(finding);
            log::log(finding);
            if let (Some(incidents), FindingKind::OomKilled(killed)) = (&mut self.incidents, &finding.what) {
                incidents.killed(finding.at, killed);
            }
            if let HistoryDropped { short: true, .. } = finding.what {
                memory::trim_heap();
            }
            if let (Some(state), Learned { .. }) = (&mut self.state, &finding.what) {
                state.learned();
            }
        }
        if matches!(event.what, EventKind::Tick) {
            self.starting.store(self.pipeline.starting(), Ordering::Relaxed);
        }
        if matches!(event.what, EventKind::Tick) && !shown.seeded {
            shown.seeded = true;
            let took = event.at.since(self.began);
            match shown.ready() {
                Ok(()) => tracing::info!("ready after {} ms", took.as_millis()),
                Err(missing) => tracing::warn!("not ready: {missing}; `observer check` says how to fix it"),
            }
        }
        drop(shown);
        if matches!(event.what, EventKind::Tick) {
            self.keep_incidents(event.at);
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
