//! Kubernetes as a source: the pods of this node by one watch, their owners by metadata-only look-ups.
//!
//! What it asks of the API server is bounded: one watch with the field selector `spec.nodeName`, which the server has
//! an index for, and at most [`BUDGET`] look-ups a second, spread by up to two seconds when many pods come at once,
//! answered from the server's watch cache (`resourceVersion=0`). It never watches anything of the whole cluster, and
//! writes nothing.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem::{Discriminant, discriminant},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{clock, failure::one_line};
use observer_core::model::{
    event::{Event, EventKind, Loss},
    kubernetes::{ApiState, ObjectKind, Owner, Reference, Uid},
};

pub mod lenient;
pub mod metadata;
pub mod owner;
pub mod pace;
pub mod pod;
pub mod reach;
pub mod terms;

pub use reach::{ApiClock, CannotConnect, client, connect};

use lenient::{Lenient, Oddities};
use pace::Watched;

/// Owner look-ups a second; a burst of 110 pods of 20 workloads is 40 of them.
const BUDGET: u32 = 10;
/// Most jitter before a look-up, so that the agents of a cluster do not ask all at once.
const JITTER: Duration = Duration::from_secs(2);
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);
/// Looks at an owner that is not there yet, or cannot be had.
const TRIES: u32 = 3;
/// A look that gets no answer holds up those behind it.
const ANSWER: Duration = Duration::from_secs(10);

/// Watches until the receiver is gone. Failures are events, never the end. `came`: receives the owner of each new pod.
pub async fn watch(
    client: Client,
    clock: ApiClock,
    node: String,
    came: Option<mpsc::Sender<Uid>>,
    out: mpsc::Sender<Event>,
) {
    let (wanted, asked) = mpsc::channel(1024);
    tokio::join!(
        pods(client.clone(), &node, &out, wanted, came),
        owners(client, asked, &out),
        clocks(&clock, &out)
    );
}

/// Reports how far the API server's clock is from this host's, whenever that changes.
async fn clocks(clock: &ApiClock, out: &mpsc::Sender<Event>) {
    let mut last = 0.0;
    while !out.is_closed() {
        sleep(LOOK_AT_CLOCK).await;
        let ahead_seconds = clock.ahead_seconds();
        if (ahead_seconds - last).abs() >= 0.5 {
            last = ahead_seconds;
            let _ = out.send(event(EventKind::Api(ApiState::Clock { ahead_seconds }))).await; // stopping already
        }
    }
}

fn event(what: EventKind) -> Event {
    Event { at: clock::now(), what }
}

/// A pod with an owner to look up.
struct Wanted {
    namespace: String,
    controller: Reference,
    asked: Instant,
}

async fn pods(
    client: Client,
    node: &str,
    out: &mpsc::Sender<Event>,
    wanted: mpsc::Sender<Wanted>,
    came: Option<mpsc::Sender<Uid>>,
) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}")).any_semantic();
    let Watched { client, mut taken_up, pace } = pace::watched(client);
    let mut stream = watcher(Api::<Lenient<Pod>>::all(client), config).backoff(pace).boxed();
    let mut known: HashMap<Uid, bool> = HashMap::new();
    let mut odd = Oddities::default();
    // What was reported last, if it does not stand: another kind of refusal is news.
    let mut away: Option<Discriminant<ApiState>> = None;
    loop {
        let mut events = Vec::new();
        let next = tokio::select! {
            next = stream.try_next() => next,
            // It stands again, from where it was: what happened meanwhile comes as events.
            Ok(()) = taken_up.changed() => {
                if away.take().is_some() && out.send(event(EventKind::Api(ApiState::Synced))).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match next {
            Ok(Some(watcher::Event::Init)) => known.values_mut().for_each(|seen| *seen = false),
            Ok(Some(
                watcher::Event::InitApply(Lenient::Unreadable(pod))
                | watcher::Event::Apply(Lenient::Unreadable(pod)),
            )) => {
                // It is there: what is known of it stays.
                if let Some(seen) = pod.meta.uid.as_ref().and_then(|uid| known.get_mut(uid)) {
                    *seen = true;
                }
                odd.take("pod", &pod);
                events.push(EventKind::Lost { at: Loss::ObjectUnreadable, count: odd.count });
            }
            Ok(Some(
                watcher::Event::InitApply(Lenient::Read(pod)) | watcher::Event::Apply(Lenient::Read(pod)),
            )) => {
                let Some(pod) = pod::parse(&pod) else { continue };
                let new = known.insert(pod.uid.clone(), true).is_none();
                if let Some(controller) = pod.controller.clone().filter(|_| new)
                    && controller.has_metadata()
                {
                    if let Some(came) = &came {
                        let _ = came.try_send(controller.uid.clone()); // asked about with the next pod of its
                    }
                    // A full queue means more pods at once than a node holds; those stay without their owner's facts.
                    let _ = wanted.try_send(Wanted {
                        namespace: pod.namespace.clone(),
                        controller,
                        asked: Instant::now(),
                    });
                }
                events.push(EventKind::Pod(Box::new(pod)));
            }
            Ok(Some(watcher::Event::InitDone)) => {
                let gone = known.extract_if(|_, seen| !*seen).map(|(uid, _)| EventKind::PodGone { uid });
                events.extend(gone);
                events.push(EventKind::Api(ApiState::Synced));
                away = None;
                if known.is_empty() {
                    tracing::warn!(
                        "the Kubernetes API knows no pod of node {node}; if there are any, that is not its name, and containers stay \
                         without names and causes: set node_name to the name of the Node object"
                    );
                }
            }
            Ok(Some(watcher::Event::Delete(pod))) => {
                if let Some(uid) = pod.uid() {
                    known.remove(&uid);
                    let last = pod.read().and_then(|pod| pod::parse(&pod));
                    events.extend(last.map(|pod| EventKind::Pod(Box::new(pod))));
                    events.push(EventKind::PodGone { uid });
                }
            }
            Ok(None) => return,
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {} // it answers: with a new list
            Err(error) => {
                let state = refusal(&error);
                let kind = discriminant(&state);
                if away.replace(kind) == Some(kind) {
                    tracing::debug!(%error, "the watch of the pods still fails");
                } else {
                    events.push(EventKind::Api(state));
                }
            }
        }
        for what in events {
            if out.send(event(what)).await.is_err() {
                return;
            }
        }
    }
}

fn refusal(error: &watcher::Error) -> ApiState {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 403 =>
        {
            ApiState::Forbidden {
                what: "the Kubernetes API forbids to list and watch pods".into(),
                lost: "containers are reported by uid, causes are unknown; grant the agent's ClusterRole"
                    .into(),
                blind: true,
            }
        }
        _ => ApiState::Away { why: one_line(error) },
    }
}

/// Looks owners up, within the budget, each once for all its pods that come together. One that cannot be had now is
/// looked up later.
async fn owners(client: Client, mut wanted: mpsc::Receiver<Wanted>, out: &mpsc::Sender<Event>) {
    let mut looked: HashMap<Uid, Instant> = HashMap::new();
    let mut refused: HashSet<ObjectKind> = HashSet::new();
    let mut later = Later::default();
    let mut next = Instant::now();
    loop {
        let wanted_now = tokio::select! {
            biased;
            new = wanted.recv() => match new {
                Some(new) => new,
                None => return,
            },
            again = later.due() => again,
        };
        let Wanted { namespace, controller, asked } = wanted_now;
        let now = Instant::now();
        looked.retain(|_, at| *at + Duration::from_secs(60) > now);
        // One look serves all pods of an owner that came before it; one made before a pod came knows nothing of it.
        if looked.get(&controller.uid).is_some_and(|at| *at > asked) {
            continue;
        }
        // Alone it is asked for at once; in a crowd, spread: by the uid, which is as good as chance.
        let crowd = wanted.len().min(10) as u32;
        let share =
            controller.uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte)) % 1000;
        next = next.max(now + JITTER * crowd / 10 * share / 1000);
        let mut above = Some(controller);
        while let Some(reference) = above.take() {
            sleep_until(next).await;
            next = Instant::now() + Duration::from_secs(1) / BUDGET;
            match look(&client, &namespace, &reference).await {
                Ok(found) => {
                    looked.insert(reference.uid.clone(), Instant::now());
                    later.answered();
                    refused.remove(&reference.kind);
                    let Some(found) = found else { continue };
                    above = found.controller.clone().filter(Reference::has_metadata);
                    if out.send(event(EventKind::Owner(Box::new(found)))).await.is_err() {
                        return;
                    }
                }
                Err(why) => {
                    let what = format!("cannot get {} {}: {why}", reference.kind, reference.name);
                    if refused.insert(reference.kind.clone()) {
                        let lost = "causes of its pods are less certain until it can; grant the agent's ClusterRole if that is forbidden";
                        let state = ApiState::Forbidden { what, lost: lost.into(), blind: false };
                        if out.send(event(EventKind::Api(state))).await.is_err() {
                            return;
                        }
                    }
                    later.add(Wanted { namespace: namespace.clone(), controller: reference, asked });
                }
            }
        }
    }
}

/// Owners with a failed look-up, each once: the API was unavailable, overloaded, or forbade it. While that lasts, one
/// of them is tried in turn at growing intervals; after the first answer all are tried.
#[derive(Default)]
struct Later {
    wanted: VecDeque<Wanted>,
    /// When the first is tried again.
    at: Option<Instant>,
    pause: Duration,
}

impl Later {
    /// More owners than a node's pods have.
    const MOST: usize = 512;
    const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

    fn add(&mut self, wanted: Wanted) {
        self.pause = (self.pause * 2).clamp(Self::PAUSES[0], Self::PAUSES[1]);
        self.at = Some(Instant::now() + self.pause);
        self.wanted.retain(|other| other.controller.uid != wanted.controller.uid);
        if self.wanted.len() == Self::MOST {
            self.wanted.pop_front();
        }
        self.wanted.push_back(wanted);
    }

    fn answered(&mut self) {
        self.pause = Duration::ZERO;
        self.at = None;
    }

    /// The next that is to be tried again, when its time has come.
    async fn due(&mut self) -> Wanted {
        if self.wanted.is_empty() {
            return std::future::pending().await;
        }
        if let Some(at) = self.at {
            sleep_until(at).await;
        }
        match self.wanted.pop_front() {
            Some(wanted) => wanted,
            None => std::future::pending().await,
        }
    }
}

/// `None`: it is gone.
async fn look(client: &Client, namespace: &str, reference: &Reference) -> Result<Option<Owner>, String> {
    let mut params = kube::api::GetParams { resource_version: Some("0".into()) };
    for attempt in 1..=TRIES {
        match timeout(ANSWER, metadata::get(client, namespace, reference, &params)).await {
            Ok(Ok(Some(Lenient::Read(found)))) if found.metadata.uid.as_deref() == Some(&reference.uid) => {
                return Ok(Some(owner::parse(
                    &found.metadata,
                    reference.kind.clone(),
                    clock::unix_seconds(),
                )));
            }
            // The cache may be behind the pod that names it.
            Ok(Ok(_)) => params = kube::api::GetParams::default(),
            Ok(Err(error @ kube::Error::Api(_))) => return Err(error.to_string()),
            Ok(Err(error)) if attempt == TRIES => return Err(one_line(&error)),
            Ok(Err(_)) => {}
            Err(_) => return Err(format!("no answer within {} s", ANSWER.as_secs())),
        }
        sleep(Duration::from_millis(300) * attempt).await;
    }
    Ok(None)
}
