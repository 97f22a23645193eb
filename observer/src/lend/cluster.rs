//! What the lender has to know of the cluster before it raises a request: nodes, rules of namespaces, agents.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::{LimitRange, Node, Pod, ResourceQuota};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DynamicObject,
    runtime::{
        WatchStreamExt,
        reflector::{self, Lookup, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::{
    failure::one_line,
    ledger::watch::custom_scaler,
    lend::{
        admit,
        agents::{Access, Agent, Needs, Seen},
        metrics::Metrics,
    },
    sources::kubernetes::{
        lenient::{Lenient, Oddities},
        metadata,
        pace::{self, Watched},
        pod::bytes,
    },
};
use observer_core::model::{container::Workload, kubernetes::ObjectKind};

/// How often agents are asked what start-ups take.
const LOOK: Duration = Duration::from_secs(30);
const PAGE: u32 = 50;
/// Seconds after which a watch is begun again where it was: of what seldom changes the API server sends no bookmark
/// either, and a connection that says nothing for longer is taken for dead.
pub const WATCH: u32 = 60;
const AGENTS: &str = "app.kubernetes.io/name=observer";
const VPA: (&str, &str) = ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler");

#[derive(Clone)]
pub struct Cluster {
    nodes: Store<Node>,
    limit_ranges: Store<LimitRange>,
    quotas: Store<ResourceQuota>,
    vertical: Store<DynamicObject>,
    agents: Store<Pod>,
    needs: Arc<Mutex<Needs>>,
    /// What each agent said last, by node.
    seen: Arc<Mutex<BTreeMap<String, Vec<Seen>>>>,
    /// By address.
    clients: Arc<Mutex<BTreeMap<String, Agent>>>,
    access: Arc<Access>,
    /// Share of the largest node that is lent to one pod at the most.
    share: f64,
    /// Pods use no swap, whatever the nodes have.
    no_swap_for_pods: bool,
}

/// Feeds a [`Cluster`]; the parts of it that are written.
pub struct Watches {
    nodes: Writer<Node>,
    limit_ranges: Writer<LimitRange>,
    quotas: Writer<ResourceQuota>,
    vertical: Writer<DynamicObject>,
    agents: Writer<Pod>,
}

impl Cluster {
    pub fn new(access: Access, share: f64, no_swap_for_pods: bool) -> (Self, Watches) {
        let (nodes, nodes_in) = reflector::store();
        let (limit_ranges, limit_ranges_in) = reflector::store();
        let (quotas, quotas_in) = reflector::store();
        let (agents, agents_in) = reflector::store();
        let vertical_in = Writer::new(metadata::resource(VPA.0, VPA.1));
        let cluster = Self {
            nodes,
            limit_ranges,
            quotas,
            vertical: vertical_in.as_reader(),
            agents,
            needs: Arc::default(),
            seen: Arc::default(),
            clients: Arc::default(),
            access: Arc::new(access),
            share,
            no_swap_for_pods,
        };
        let watches = Watches {
            nodes: nodes_in,
            limit_ranges: limit_ranges_in,
            quotas: quotas_in,
            vertical: vertical_in,
            agents: agents_in,
        };
        (cluster, watches)
    }

    /// Everything has been listed, and the agents there are have been asked once.
    pub async fn wait_until_known(&self) {
        // A writer lives as long as the process.
        let _ = tokio::join!(
            self.nodes.wait_until_ready(),
            self.limit_ranges.wait_until_ready(),
            self.quotas.wait_until_ready(),
            self.agents.wait_until_ready()
        );
        self.ask_agents(None).await;
    }

    fn needs(&self) -> MutexGuard<'_, Needs> {
        // A panic while it is held leaves needs of before.
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_agents(&self, metrics: Option<&Metrics>) {
        let agents = self.agents();
        let answers = agents.into_iter().map(|(node, agent)| async move {
            let answer = async { agent?.needs().await };
            (node, answer.await)
        });
        let answers = join_all(answers).await;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|node, _| answers.iter().any(|(one, _)| one == node));
        for (node, answer) in answers {
            match answer {
                Ok(of_node) => {
                    seen.insert(node, of_node);
                }
                // What it said before is still the best there is.
                Err(error) => {
                    tracing::debug!("the agent of node {node} does not answer: {error}");
                    if let Some(metrics) = metrics {
                        metrics.agent_failed();
                    }
                }
            }
        }
        let mut needs = Needs::default();
        seen.values().for_each(|of_node| needs.add(of_node));
        *self.needs() = needs;
    }

    /// By node.
    pub fn agents(&self) -> BTreeMap<String, Result<Agent, String>> {
        let pods = self.agents.state();
        let running = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let places: BTreeMap<String, String> = running
            .filter_map(|pod| {
                Some((pod.spec.as_ref()?.node_name.clone()?, pod.status.as_ref()?.pod_ip.clone()?))
            })
            .collect();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|address, _| places.values().any(|one| one == address));
        let mut client = |address: String| match clients.get(&address) {
            Some(agent) => Ok(agent.clone()),
            None => {
                let agent = Agent::at(&address, &self.access)?;
                clients.insert(address, agent.clone());
                Ok(agent)
            }
        };
        places.into_iter().map(|(node, address)| (node, client(address))).collect()
    }
}

impl admit::Cluster for Cluster {
    fn most(&self) -> Option<u64> {
        let allocatable = |node: &Node| bytes(node.status.as_ref()?.allocatable.as_ref()?.get("memory")?);
        let largest = self.nodes.state().iter().filter_map(|node| allocatable(node)).max()?;
        Some((largest as f64 * self.share) as u64)
    }

    fn has_swap(&self) -> bool {
        let swap = |node: &Node| node.status.as_ref()?.node_info.as_ref()?.swap.as_ref()?.capacity;
        !self.no_swap_for_pods
            && self.nodes.state().iter().any(|node| swap(node).is_some_and(|capacity| capacity > 0))
    }

    fn limit_ranges(&self, namespace: &str) -> Vec<LimitRange> {
        of_namespace(&self.limit_ranges, namespace)
    }

    fn quotas(&self, namespace: &str) -> Vec<ResourceQuota> {
        of_namespace(&self.quotas, namespace)
    }

    fn is_scaled_vertically(&self, workload: &Workload) -> bool {
        self.vertical.state().iter().any(|object| {
            let scaler = custom_scaler(&ObjectKind::from(VPA.1), object);
            let (kind, name) = &scaler.target;
            scaler.namespace == workload.namespace
                && *name == workload.workload
                && kind.to_string().eq_ignore_ascii_case(&workload.workload_type)
                && scaler.autoscaler.mode != "Off"
                && scaler.autoscaler.signals.iter().any(|resource| resource == "memory")
        })
    }

    fn need(&self, workload: &Workload) -> Option<u64> {
        self.needs().of(workload)
    }
}

fn of_namespace<K>(store: &Store<K>, namespace: &str) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    let here = store.state_filter(|object| object.meta().namespace.as_deref() == Some(namespace));
    here.iter().map(|object| (**object).clone()).collect()
}

impl Watches {
    /// Watches until the end of the process.
    pub async fn run(self, client: Client, namespace: &str, cluster: Cluster, metrics: Metrics) {
        let asking = async {
            loop {
                sleep(LOOK).await;
                cluster.ask_agents(Some(&metrics)).await;
            }
        };
        let agents = watcher::Config::default().labels(AGENTS);
        let all = watcher::Config::default();
        tokio::join!(
            asking,
            follow(&client, &metrics, Api::all, all.clone(), self.nodes, |node: &mut Node| {
                if let Some(status) = node.status.as_mut() {
                    (status.images, status.conditions) = (None, None);
                }
            }),
            follow(&client, &metrics, Api::all, all.clone(), self.limit_ranges, |_| {}),
            follow(&client, &metrics, Api::all, all, self.quotas, |_| {}),
            follow(
                &client,
                &metrics,
                |client| Api::namespaced(client, namespace),
                agents,
                self.agents,
                |_| {}
            ),
            vertical(&client, &metrics, self.vertical),
        );
    }
}

async fn follow<K>(
    client: &Client,
    metrics: &Metrics,
    api: impl FnOnce(Client) -> Api<Lenient<K>>,
    config: watcher::Config,
    writer: Writer<K>,
    slim: impl FnMut(&mut K) + Send,
) where
    K: Resource + Lookup + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    <K as Lookup>::DynamicType: Eq + std::hash::Hash + Clone,
    <K as Resource>::DynamicType: Eq + std::hash::Hash + Clone,
{
    let mut slim = slim;
    let slimmed = move |object: &mut K| {
        object.managed_fields_mut().clear();
        slim(object);
    };
    let Watched { client, pace, .. } = pace::watched(client.clone());
    let mut odd = Oddities::default();
    let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
    let read = |next: Result<watcher::Event<Lenient<K>>, watcher::Error>| {
        let next = match next {
            Ok(event) => odd.readable(kind, event).map(Ok),
            Err(error) => Some(Err(error)),
        };
        if next.is_none() {
            metrics.object_unreadable();
        }
        std::future::ready(next)
    };
    let all = watcher(api(client), config.page_size(PAGE).timeout(WATCH)).backoff(pace);
    let stream = all.filter_map(read).modify(slimmed);
    let mut stream = std::pin::pin!(reflector::reflector(writer, stream));
    let mut up = true;
    while let Some(next) = stream.next().await {
        match next {
            Ok(_) => up = true,
            Err(error) if std::mem::take(&mut up) => {
                tracing::warn!("a watch of the lender failed and is begun again: {}", one_line(&error));
            }
            Err(_) => {}
        }
    }
}

/// Once they are installed.
async fn vertical(client: &Client, metrics: &Metrics, writer: Writer<DynamicObject>) {
    metadata::installed(client, VPA.0, VPA.1).await;
    let of = metadata::resource(VPA.0, VPA.1);
    let api = |client| Api::all_with(client, &of);
    follow(client, metrics, api, watcher::Config::default(), writer, |_: &mut DynamicObject| {}).await;
}
