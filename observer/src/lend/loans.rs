//! The leading replica's work: follows every pod with a loan, and gives back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, runtime::watcher};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    clock,
    lend::{
        agents::{Agent, Holding},
        cluster::Cluster,
        entry::{Entry, key},
        events::Events,
        held::{Held, HeldContainer, Status},
        lent::{Answer, Lent},
        metrics::Metrics,
        pods,
        resize::{self, RETRY, Resized},
    },
    sources::kubernetes::{ApiClock, terms},
};
use observer_core::loan::{Ask, Measured, State, course::Course};

/// From one decision to the next: what is lent for a second too long, others wait for.
const LOOK: Duration = Duration::from_millis(250);
/// Resizes under way at once.
const AT_ONCE: usize = 8;
/// Pods with loans followed at once.
const MOST: usize = 10_000;
/// A resize that is in force is shown by the status within some hundred milliseconds, unless the kubelet is away.
const ACTUAL: Duration = Duration::from_secs(10);
/// Between tries of a resize that a rule refused.
const REFUSED: Duration = Duration::from_secs(300);

pub struct Loans {
    pub client: Client,
    pub cluster: Cluster,
    pub metrics: Metrics,
    pub lent: Lent,
    pub events: Events,
    pub clock: ApiClock,
    pub pending_seconds: f64,
}

type Entries = HashMap<String, Entry>;
/// By namespace, pod and container.
type Holdings = HashMap<(String, String, String), Holding>;

impl Loans {
    /// Until the end of the process, or of its lease.
    pub async fn run(&self) {
        let mut pods = pods::watched(&self.client, terms::LENT_LABEL, self.metrics.clone());
        let mut entries = Entries::new();
        let mut listed = false;
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                next = pods.next() => match next {
                    Some(event) => {
                        listed |= matches!(event, watcher::Event::InitDone);
                        self.take(&mut entries, event);
                    }
                    None => return,
                },
                _ = tick.tick() => if listed { self.look(&mut entries).await },
            }
        }
    }

    fn take(&self, entries: &mut Entries, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => entries.values_mut().for_each(|entry| entry.listed = false),
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => self.apply(entries, &pod),
            watcher::Event::InitDone => entries.retain(|_, entry| entry.listed),
            watcher::Event::Delete(pod) => {
                entries.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
        }
    }

    fn apply(&self, entries: &mut Entries, pod: &Pod) {
        let Some(held) = Held::of(pod, self.pending_seconds) else {
            entries.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            self.metrics.unreadable();
            return;
        };
        let full = entries.len() >= MOST;
        match entries.get_mut(&held.id.uid) {
            Some(entry) => (entry.held, entry.listed) = (held, true),
            None if full => self.metrics.untracked(),
            None => {
                entries.insert(held.id.uid.clone(), Entry::new(held));
            }
        }
    }

    /// One round: measure, decide, resize, verify.
    async fn look(&self, entries: &mut Entries) {
        let holdings = self.measure(entries).await;
        let now = Instant::now();
        let mut resizes = Vec::new();
        for (uid, entry) in &mut *entries {
            let asked = self.decide(entry, &holdings);
            self.verify(entry, now);
            if !asked.is_empty() && entry.next.is_none_or(|next| next <= now) {
                resizes.push((uid.clone(), entry.held.clone(), asked));
            }
        }
        let resizes = resizes.into_iter().map(|(uid, held, asked)| async {
            let resized = resize::resize(&self.client, &held, &asked).await;
            (uid, held, asked, resized)
        });
        let done: Vec<_> = stream::iter(resizes).buffer_unordered(AT_ONCE).collect().await;
        for (uid, held, asked, resized) in done {
            if let Some(entry) = entries.get_mut(&uid) {
                self.resized(entry, &held, &asked, resized);
            }
        }
        self.count(entries);
    }

    /// What the containers with loans hold, by the agents of their nodes.
    async fn measure(&self, entries: &mut Entries) -> Holdings {
        let open = entries.values().filter(|entry| entry.is_open());
        let nodes: BTreeSet<&str> = open.filter_map(|entry| entry.held.node.as_deref()).collect();
        let mut agents = self.cluster.agents();
        agents.retain(|node, _| nodes.contains(node.as_str()));
        let ask = agents.iter().map(|(node, agent)| async move {
            let answer = match agent {
                Ok(agent) => agent.containers().await,
                Err(error) => Err(error.clone()),
            };
            (node, answer)
        });
        let mut holdings = Holdings::new();
        for (node, answer) in join_all(ask).await {
            match answer {
                Ok(found) => {
                    for one in found.into_iter().filter(Holding::lives) {
                        let key = (one.namespace.clone(), one.pod.clone(), one.container.clone());
                        // Of two runs, the newer.
                        let older = holdings.get(&key).is_some_and(|known| known.started > one.started);
                        if !older {
                            holdings.insert(key, one);
                        }
                    }
                }
                Err(error) => {
                    self.metrics.agent_failed();
                    tracing::debug!("the agent of {node} does not answer: {error}");
                }
            }
        }
        self.look_back(entries, &holdings, &agents).await;
        holdings
    }

    /// Asks once per run of a container what earlier start-ups of it did.
    async fn look_back(
        &self,
        entries: &mut Entries,
        holdings: &Holdings,
        agents: &BTreeMap<String, Result<Agent, String>>,
    ) {
        let mut wanted = Vec::new();
        for (uid, entry) in entries.iter().filter(|(_, entry)| entry.is_open()) {
            let Some(Ok(agent)) = entry.held.node.as_ref().and_then(|node| agents.get(node)) else {
                continue;
            };
            for one in &entry.held.containers {
                let Some(holding) = holdings.get(&key(&entry.held, one)) else { continue };
                if entry.courses.get(&one.name).is_none_or(|(id, _)| *id != holding.id) {
                    wanted.push((uid.clone(), one.name.clone(), agent.clone(), holding.id.clone()));
                }
            }
        }
        let asked = wanted.into_iter().map(|(uid, name, agent, id)| async move {
            let course = agent.course(&id).await;
            (uid, name, id, course)
        });
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        for (uid, name, id, course) in answers {
            match (course, entries.get_mut(&uid)) {
                (Ok(course), Some(entry)) => {
                    entry.courses.insert(name, (id, course));
                }
                (Ok(_), None) => {}
                (Err(error), _) => {
                    self.metrics.agent_failed();
                    tracing::debug!("no earlier start-ups of {name}: {error}");
                }
            }
        }
    }

    fn decide(&self, entry: &mut Entry, holdings: &Holdings) -> Vec<(HeldContainer, Ask)> {
        let now = self.clock.unix_seconds();
        let held = &entry.held;
        let mut asked = Vec::new();
        for one in &held.containers {
            let course = entry.courses.get_mut(&one.name);
            let measured = holdings.get(&key(held, one)).and_then(|holding| {
                // While a container is started again, the agent may still show the run before.
                let course = course.filter(|(id, _)| *id == holding.id).map(|(_, course)| course);
                measured(one.status, holding, course)
            });
            let state = state(held, one, now, measured);
            let loan = entry.loans.entry(one.name.clone()).or_default();
            let mut next = *loan;
            match next.decide(&one.bounds, one.requested, state) {
                // What is remembered of a step that is not carried out would make it the last.
                Some(ask) if entry.next.is_none_or(|next| next <= Instant::now()) => {
                    *loan = next;
                    asked.push((one.clone(), ask));
                }
                Some(_) => {}
                None => *loan = next,
            }
        }
        asked
    }

    fn resized(
        &self,
        entry: &mut Entry,
        held: &Held,
        asked: &[(HeldContainer, Ask)],
        resized: Result<Resized, String>,
    ) {
        let now = Instant::now();
        match resized {
            Ok(Resized::Done(pod)) => {
                entry.next = None;
                entry.pause = RETRY[0];
                entry.asked = Some((now, false));
                if let Some(newer) = Held::of(&pod, self.pending_seconds) {
                    entry.held = newer;
                }
                let parts = asked.iter().map(|(one, ask)| {
                    self.metrics.patched(ask.why.as_ref(), one.requested.saturating_sub(ask.request));
                    let (from, to) = (terms::quantity(one.requested), resize::written(one, ask));
                    format!("{}: memory request {from} -> {to} ({})", one.name, ask.why.as_ref())
                });
                let note = parts.collect::<Vec<_>>().join("; ");
                tracing::info!("{}/{}: {note}", held.id.namespace, held.id.name);
                self.events.normal(held.id.reference(), "MemoryRequestResized", note);
            }
            // The watch brings its end.
            Ok(Resized::Gone) => entry.next = Some(now + RETRY[0]),
            Ok(Resized::Conflict) => {
                self.metrics.failed("conflict");
                // What was decided was not done: decided again with the newer version.
                entry.forget(asked);
            }
            Ok(Resized::Refused(why)) => {
                self.metrics.failed("refused");
                entry.forget(asked);
                entry.next = Some(now + REFUSED);
                tracing::warn!("{}/{}: the resize was refused: {why}", held.id.namespace, held.id.name);
                let note = format!("the memory lent to it cannot be given back: {why}");
                self.events.warning(held.id.reference(), "MemoryResizeRefused", note);
            }
            Err(why) => {
                self.metrics.failed("failed");
                entry.forget(asked);
                entry.next = Some(now + entry.pause);
                entry.pause = (entry.pause * 2).min(RETRY[1]);
                tracing::warn!("{}/{}: the resize failed: {why}", held.id.namespace, held.id.name);
            }
        }
    }

    /// A resize that the API accepted counts when the status shows it.
    fn verify(&self, entry: &mut Entry, now: Instant) {
        let Some((since, reported)) = entry.asked else { return };
        let running = |one: &&HeldContainer| matches!(one.status, Status::Running { .. });
        let late = entry.held.containers.iter().filter(running);
        let late: Vec<&str> = late
            .filter(|one| one.actual.is_some_and(|actual| actual != one.requested))
            .map(|one| one.name.as_str())
            .collect();
        if late.is_empty() {
            entry.asked = None;
        } else if !reported && now - since >= ACTUAL {
            entry.asked = Some((since, true));
            self.metrics.failed("not_actual");
            let note = format!(
                "the resize of {} was accepted and is not in force after {} s: the scheduler counts the higher request until it is",
                late.join(", "),
                ACTUAL.as_secs()
            );
            tracing::warn!("{}/{}: {note}", entry.held.id.namespace, entry.held.id.name);
            self.events.warning(entry.held.id.reference(), "MemoryResizeNotInForce", note);
        }
    }

    fn count(&self, entries: &Entries) {
        let now = self.clock.unix_seconds();
        let answer = Answer::of(entries.values());
        let open = || answer.loans.iter().filter(|one| one.open);
        let oldest = open().map(|one| now - one.loan.since).fold(0.0, f64::max);
        self.metrics.now(answer.lent_bytes, open().count() as u64, oldest);
        self.lent.show(answer);
    }
}

fn measured(status: Status, holding: &Holding, course: Option<&mut Course>) -> Option<Measured> {
    let Status::Running { since, .. } = status else { return None };
    // Statuses have whole seconds; the exec follows the start within one.
    let started = holding.started.filter(|started| *started >= since - 2.0);
    match started {
        Some(started) => {
            let age = (clock::unix_seconds() - started).max(0.0);
            Some(holding.measured(course.map(|course| (age, course))))
        }
        // It ran before the agent: what it holds is known, its peak is not.
        None if holding.started.is_none() => Some(holding.measured(None)),
        None => None,
    }
}

fn state(held: &Held, one: &HeldContainer, now: f64, measured: Option<Measured>) -> State {
    let seconds = (now - held.created).max(0.0);
    match one.status {
        Status::Finished => State::Finished,
        Status::Creating if held.node.is_none() => State::Pending { seconds },
        Status::Creating => State::Creating { seconds },
        Status::Waiting { restarts, ran } => State::Waiting { restarts, ran },
        Status::Running { restarts, since } => {
            State::Running { restarts, age: (now - since).max(0.0), measured }
        }
    }
}
