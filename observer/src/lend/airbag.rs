//! `--airbag`: a running container that is foreseen to meet its own limit gets it raised, once, if its node has room.
//!
//! The agent of the node foresees it (docs/forecast.md); the raise is an in-place resize of the limit, in force within
//! some 20 ms on a node at rest. That it was done is written nowhere but where the API server itself writes it: in the
//! managed fields of the pod, under [`MANAGER`]. So a lender that is started anew raises nothing twice, and needs no
//! right to change a pod in any other way.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, api::PatchParams, runtime::watcher};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    clock,
    lend::{
        agents::{Agent, Holding, LimitAhead},
        cluster::Cluster,
        events::Events,
        metrics::Metrics,
        pods,
        resize::{self, RETRY, Resized},
    },
    sources::kubernetes::terms,
};
use observer_core::loan::airbag;

mod guarded;
mod promised;

use guarded::{Guarded, MANAGER, NotRaised};
use promised::Promised;

/// On a pod: limits of its containers may be raised. What the lender watches.
pub const LABEL: &str = "memory-observer/airbag";
/// From one question to the agents to the next. They warn 2 s ahead.
const LOOK: Duration = Duration::from_millis(500);
/// A limit that is met later than this many seconds from now is raised later, when more is known.
const WITHIN: f64 = 30.0;
/// Limits that differ by less are one: the kernel rounds to pages, and a raise is of more.
const SAME: u64 = 1 << 20;
/// Pods followed at once.
const MOST: usize = 10_000;
/// Between tries of a raise that a rule refused.
const AGAIN: Duration = Duration::from_secs(60);

pub struct Airbag {
    pub client: Client,
    pub cluster: Cluster,
    pub metrics: Metrics,
    pub events: Events,
    /// Share of a limit by which it is raised.
    pub share: f64,
    pub dry_run: bool,
}

/// By uid.
type Guards = HashMap<String, Guarded>;

impl Airbag {
    /// Until the end of the process, or of its lease.
    pub async fn run(&self) {
        let mut pods = pods::watched(&self.client, LABEL, self.metrics.clone());
        let (mut guards, mut promised) = (Guards::new(), Promised::default());
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                next = pods.next() => match next {
                    Some(event) => self.take(&mut guards, event),
                    None => return,
                },
                _ = tick.tick() => self.look(&mut guards, &mut promised).await,
            }
        }
    }

    fn take(&self, guards: &mut Guards, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => guards.values_mut().for_each(|guarded| guarded.listed = false),
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => self.apply(guards, &pod),
            watcher::Event::InitDone => guards.retain(|_, guarded| guarded.listed),
            watcher::Event::Delete(pod) => {
                guards.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
        }
    }

    fn apply(&self, guards: &mut Guards, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some(mut guarded) = Guarded::of(pod) else {
            guards.remove(&uid);
            return;
        };
        match guards.remove(&uid) {
            Some(before) => (guarded.said, guarded.next) = (before.said, before.next),
            None if guards.len() >= MOST => return self.metrics.untracked(),
            None => {}
        }
        guards.insert(uid, guarded);
    }

    /// One round: who is foreseen to meet its limit, what is left, raise.
    async fn look(&self, guards: &mut Guards, promised: &mut Promised) {
        let nodes: BTreeSet<&str> = guards.values().map(|guarded| guarded.node.as_str()).collect();
        let mut agents = self.cluster.agents();
        agents.retain(|node, _| nodes.contains(node.as_str()));
        let asked = agents.iter().map(|(node, agent)| async move {
            let answer = async { agent.as_ref().map_err(Clone::clone)?.containers().await };
            (node, agent, answer.await)
        });
        for (node, agent, answer) in join_all(asked).await {
            match (agent, answer) {
                (Ok(agent), Ok(found)) => {
                    let ahead: Vec<_> = found.into_iter().filter_map(ahead).collect();
                    if !ahead.is_empty() {
                        self.raise(guards, promised, node, agent, &ahead).await;
                    }
                }
                (_, answer) => {
                    self.metrics.agent_failed();
                    tracing::debug!("the agent of {node} does not answer: {:?}", answer.err());
                }
            }
        }
    }

    async fn raise(
        &self,
        guards: &mut Guards,
        promised: &mut Promised,
        node: &str,
        agent: &Agent,
        ahead: &[(Holding, LimitAhead)],
    ) {
        let now = Instant::now();
        let mut room = None;
        for (holding, ahead) in ahead {
            let of_it = |guarded: &&mut Guarded| {
                guarded.node == node
                    && (&guarded.id.namespace, &guarded.id.name) == (&holding.namespace, &holding.pod)
            };
            let Some(guarded) = guards.values_mut().find(of_it) else { continue };
            let Some(limit) = guarded.containers.get(&holding.container).map(|one| one.limit) else {
                continue;
            };
            // After a raise the agent may still see, and foresee, the limit before.
            let is_in_force = holding.limit_bytes.is_some_and(|seen| seen.abs_diff(limit) < SAME);
            if !is_in_force || guarded.next.is_some_and(|next| next > now) {
                continue;
            }
            if room.is_none() {
                room = Some(match agent.room().await {
                    Ok(room) => room.unwrap_or(0).saturating_sub(promised.to(node, now)),
                    Err(error) => {
                        self.metrics.agent_failed();
                        return tracing::debug!("the agent of {node} does not say what is left: {error}");
                    }
                });
            }
            let left = room.unwrap_or(0);
            let to = guarded.highest(&holding.container, &self.cluster).and_then(|highest| {
                // By the node alone, so that it is known which of the two it was.
                airbag::raised(limit, self.share, left, None).ok_or(NotRaised::NoRoomOnNode)?;
                airbag::raised(limit, self.share, left, highest).ok_or(NotRaised::NoRoomByRules)
            });
            let to = match to {
                Ok(to) => to,
                Err(why) => {
                    if guarded.said.insert(holding.container.clone()) {
                        self.not_raised(guarded, holding, ahead, why);
                    }
                    continue;
                }
            };
            if self.resize(guarded, holding, ahead, limit, to).await {
                promised.add(node, now, to - limit);
                room = Some(left.saturating_sub(to - limit));
            }
        }
    }

    fn not_raised(&self, guarded: &Guarded, holding: &Holding, ahead: &LimitAhead, why: NotRaised) {
        self.metrics.limit_not_raised(why.as_ref());
        let note = format!(
            "{}: its memory limit will be met in some {:.0} s (confidence {:.2}) and is not raised: {}",
            holding.container,
            in_seconds(ahead),
            ahead.confidence,
            why.words()
        );
        tracing::warn!("{}/{}: {note}", guarded.id.namespace, guarded.id.name);
        self.events.warning(guarded.id.reference(), "MemoryLimitNotRaised", note);
    }

    /// Whether it was done.
    async fn resize(
        &self,
        guarded: &mut Guarded,
        holding: &Holding,
        ahead: &LimitAhead,
        limit: u64,
        to: u64,
    ) -> bool {
        let name = &holding.container;
        let change = format!(
            "{name}: memory limit {} -> {}: it will be met in some {:.0} s (confidence {:.2})",
            terms::quantity(limit),
            terms::quantity(to),
            in_seconds(ahead),
            ahead.confidence
        );
        if self.dry_run {
            if guarded.said.insert(name.clone()) {
                let note = format!("would raise {change}");
                self.events.normal(guarded.id.reference(), "WouldRaiseMemoryLimit", note);
            }
            return false;
        }
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let change_of_it = json!({"name": name, "resources": {"limits": {"memory": terms::quantity(to)}}});
        let (id, now) = (guarded.id.clone(), Instant::now());
        match resize::patch(&self.client, &id, &params, vec![change_of_it]).await {
            Ok(Resized::Done(pod)) => {
                self.metrics.limit_raised();
                let note = format!("{change}; raised once: set it in the pod's template");
                tracing::info!("{}/{}: {note}", id.namespace, id.name);
                self.events.warning(id.reference(), "MemoryLimitRaised", note);
                if let Some(newer) = Guarded::of(&pod) {
                    let before = std::mem::replace(guarded, newer);
                    guarded.said = before.said;
                }
                return true;
            }
            // The watch brings its end, or its newer version.
            Ok(Resized::Gone) => {}
            Ok(Resized::Conflict) => self.metrics.failed("conflict"),
            Ok(Resized::Refused(why)) => {
                self.metrics.failed("refused");
                guarded.next = Some(now + AGAIN);
                tracing::warn!("{}/{}: raising its limit was refused: {why}", id.namespace, id.name);
                self.events.warning(
                    id.reference(),
                    "MemoryResizeRefused",
                    format!("{change}: refused: {why}"),
                );
            }
            Err(why) => {
                self.metrics.failed("failed");
                guarded.next = Some(now + RETRY[0]);
                tracing::warn!("{}/{}: raising its limit failed: {why}", id.namespace, id.name);
            }
        }
        false
    }
}

/// Its own limit, soon.
fn ahead(holding: Holding) -> Option<(Holding, LimitAhead)> {
    let ahead = holding.limit_ahead.clone().filter(|ahead| ahead.limit == "container")?;
    (holding.lives() && in_seconds(&ahead) <= WITHIN).then_some((holding, ahead))
}

fn in_seconds(ahead: &LimitAhead) -> f64 {
    (ahead.at - clock::unix_seconds()).max(0.0)
}
