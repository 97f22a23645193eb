//! The run of one simulation, in equal steps of time.

use std::collections::VecDeque;

use super::{Change, Kill, Kind, Node, NodeOutcome, Outcome, Requests};

/// Length of a step. Seconds.
const STEP: f64 = 0.1;
/// Nothing is followed for longer: two hours.
const LONGEST_STEPS: u64 = 72_000;
/// A pod that is bound runs after this long: sandbox, container, exec. Seconds.
const BEGINS: f64 = 0.2;
/// The kubelet sees an end within a second and starts the container again; the second time it waits, twice as long each
/// time, at most so long. Seconds.
const RESTARTS: f64 = 1.0;
const BACKOFF: f64 = 10.0;
const LONGEST_BACKOFF: f64 = 300.0;
/// A container that is killed this often is not followed any further.
const RESTARTS_FOLLOWED: u32 = 8;
/// What is lent is given back so long after the spike has passed: it has to be seen. Seconds.
const GIVEN_BACK: f64 = 1.0;
/// Memory is settled where it stays within this share of its level.
const SETTLED: f64 = 1.0625;
/// Kills listed; the others are counted.
const KILLS: usize = 200;
/// Points of a node's curve.
const POINTS: usize = 200;

/// One pod that starts.
#[derive(Clone, Debug)]
struct Pod {
    kind: usize,
    node: usize,
    phase: Phase,
    requested: u64,
    kills: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Its first process runs at this time.
    Begins(f64),
    Running(f64),
    Settled,
    GivenUp,
}

/// What a kind's curve says, once.
struct Course<'a> {
    kind: &'a Kind,
    /// When it has settled, and when the spike has passed. Seconds.
    settles: f64,
    passes: f64,
    over_limit: Option<f64>,
}

impl<'a> Course<'a> {
    fn of(kind: &'a Kind) -> Self {
        let after = |level: u64| {
            let last = kind.curve.iter().rposition(|bytes| *bytes > level);
            last.map_or(0.0, |last| (last + 1) as f64 * kind.span)
        };
        let over = |limit: u64| kind.curve.iter().position(|bytes| *bytes > limit);
        Self {
            kind,
            settles: after((kind.steady as f64 * SETTLED) as u64),
            passes: after(kind.request.max((kind.steady as f64 * SETTLED) as u64)),
            over_limit: kind.limit.and_then(over).map(|at| at as f64 * kind.span),
        }
    }

    fn at(&self, age: f64) -> u64 {
        let span = (age / self.kind.span.max(1e-3)) as usize;
        self.kind.curve.get(span).copied().unwrap_or(self.kind.steady)
    }
}

struct Run<'a> {
    courses: Vec<Course<'a>>,
    nodes: &'a [Node],
    requests: Requests,
    pods: Vec<Pod>,
    /// Requested and used by what does not change, of each node.
    requested: Vec<u64>,
    base: Vec<u64>,
    /// Settled pods of each kind that are there: node, how many.
    olds: VecDeque<(usize, u64)>,
    pending: u64,
    kind: usize,
    outcome: Outcome,
    kills_seen: bool,
}

/// What the change would do. `kinds` and `nodes` are referred to by place; `None`: it names one that is not there.
pub fn simulate(kinds: &[Kind], nodes: &[Node], change: Change, requests: Requests) -> Option<Outcome> {
    let demand = Run::new(kinds, nodes, change, requests, false)?.go(change);
    let mut outcome = Run::new(kinds, nodes, change, requests, true)?.go(change);
    // Who is short is known had nothing been killed; who is killed, from what happens then.
    outcome.nodes = demand.nodes;
    Some(outcome)
}

impl<'a> Run<'a> {
    fn new(
        kinds: &'a [Kind],
        nodes: &'a [Node],
        change: Change,
        requests: Requests,
        kills_seen: bool,
    ) -> Option<Self> {
        let courses: Vec<Course> = kinds.iter().map(Course::of).collect();
        let sum = |node: &Node, of: fn(&Kind) -> u64| {
            let all =
                node.pods.iter().filter_map(|(kind, pods)| Some(of(kinds.get(*kind)?).saturating_mul(*pods)));
            all.fold(0, u64::saturating_add)
        };
        let requested = |node: &Node| node.taken.0.saturating_add(sum(node, |kind| kind.request));
        let base = |node: &Node| node.taken.1.saturating_add(sum(node, |kind| kind.steady));
        let kind = match change {
            Change::Add { kind, .. } | Change::Rollout { kind, .. } => kind,
            Change::Restart { node } => {
                nodes.get(node)?;
                0
            }
        };
        kinds.get(kind)?;
        let nodes_of = nodes.iter().map(|node| NodeOutcome {
            name: node.name.clone(),
            allocatable: node.allocatable,
            starts: 0,
            demand: 0,
            demand_at: 0.0,
            short_by: 0,
            short_at: None,
            span: STEP,
            curve: Vec::new(),
        });
        Some(Self {
            courses,
            nodes,
            requests,
            pods: Vec::new(),
            requested: nodes.iter().map(requested).collect(),
            base: nodes.iter().map(base).collect(),
            olds: VecDeque::new(),
            pending: 0,
            kind,
            outcome: Outcome {
                requests,
                starts: 0,
                waves: Vec::new(),
                pending_forever: 0,
                kills: Vec::new(),
                more_kills: 0,
                settled_seconds: Some(0.0),
                requested: 0.0,
                nodes: nodes_of.collect(),
            },
            kills_seen,
        })
    }

    fn go(mut self, change: Change) -> Outcome {
        self.begin(change);
        for step in 0..LONGEST_STEPS {
            let now = step as f64 * STEP;
            self.turn(now);
            self.bind(now);
            self.use_memory(now);
            if self.is_over() {
                break;
            }
        }
        let all_settled = self.pods.iter().all(|pod| pod.phase == Phase::Settled) && self.pending == 0;
        self.outcome.pending_forever = self.pending;
        self.outcome.settled_seconds = self.outcome.settled_seconds.filter(|_| all_settled);
        self.outcome.nodes.retain(|node| node.starts > 0);
        self.outcome
    }

    fn begin(&mut self, change: Change) {
        match change {
            Change::Add { pods, .. } => (self.outcome.starts, self.pending) = (pods, pods),
            Change::Rollout { kind, surge, unavailable } => {
                for (i, node) in self.nodes.iter().enumerate() {
                    let pods = node.pods.iter().filter(|(of, _)| *of == kind).map(|(_, pods)| pods).sum();
                    if pods > 0 {
                        self.olds.push_back((i, pods));
                    }
                }
                self.outcome.starts = self.olds.iter().map(|(_, pods)| pods).sum();
                self.pending = surge.saturating_add(unavailable).min(self.outcome.starts);
                (0..unavailable.min(self.outcome.starts)).for_each(|_| self.end_old());
            }
            Change::Restart { node } => {
                let Some(of) = self.nodes.get(node) else { return };
                for (kind, pods) in &of.pods {
                    let Some(course) = self.courses.get(*kind) else { continue };
                    // They stay bound with what they request; what is lent at creation is not lent again.
                    let (request, steady) = (course.kind.request, course.kind.steady);
                    let (requested, base) = (request.saturating_mul(*pods), steady.saturating_mul(*pods));
                    self.requested[node] = self.requested[node].saturating_sub(requested);
                    self.base[node] = self.base[node].saturating_sub(base);
                    for _ in 0..*pods {
                        self.start(*kind, node, request, 0.0);
                    }
                    self.outcome.starts += pods;
                }
                self.outcome.waves.push(self.outcome.starts);
            }
        }
    }

    /// One of the pods that are replaced goes.
    fn end_old(&mut self) {
        let Some((node, pods)) = self.olds.front_mut() else { return };
        let node = *node;
        *pods -= 1;
        if *pods == 0 {
            self.olds.pop_front();
        }
        let kind = self.courses[self.kind].kind;
        self.requested[node] = self.requested[node].saturating_sub(kind.request);
        self.base[node] = self.base[node].saturating_sub(kind.steady);
    }

    fn start(&mut self, kind: usize, node: usize, request: u64, now: f64) {
        self.requested[node] = self.requested[node].saturating_add(request);
        self.outcome.nodes[node].starts += 1;
        let phase = Phase::Begins(now + BEGINS);
        self.pods.push(Pod { kind, node, phase, requested: request, kills: 0 });
    }

    /// What time alone changes.
    fn turn(&mut self, now: f64) {
        let mut replaced = 0;
        for pod in &mut self.pods {
            let course = &self.courses[pod.kind];
            if let Phase::Begins(at) = pod.phase
                && now >= at
            {
                pod.phase = Phase::Running(at);
            }
            let Phase::Running(since) = pod.phase else { continue };
            let given_back = self.requests == Requests::Lent && now - since >= course.passes + GIVEN_BACK;
            if given_back && pod.requested > course.kind.request {
                let given = pod.requested - course.kind.request;
                self.requested[pod.node] = self.requested[pod.node].saturating_sub(given);
                pod.requested = course.kind.request;
            }
            if now - since >= course.settles && (given_back || self.requests != Requests::Lent) {
                pod.phase = Phase::Settled;
                self.base[pod.node] = self.base[pod.node].saturating_add(course.kind.steady);
                self.outcome.settled_seconds = Some(since + course.settles);
                replaced += 1;
            }
        }
        let left: u64 = self.olds.iter().map(|(_, pods)| pods).sum();
        for _ in 0..replaced.min(left) {
            self.end_old();
            let started = self.pods.len() as u64 + self.pending;
            self.pending += u64::from(started < self.outcome.starts);
        }
        self.outcome.requested += self.pods.iter().map(|pod| pod.requested as f64 * STEP).sum::<f64>();
    }

    /// The scheduler: as many of the pending as there is room for.
    fn bind(&mut self, now: f64) {
        let kind = self.courses[self.kind].kind;
        let request = match self.requests {
            Requests::AsSet => kind.request,
            Requests::PeakKept | Requests::Lent => kind.request.max(kind.start_need),
        };
        let mut bound = 0;
        while self.pending > 0 {
            let free = |i: usize| self.nodes[i].allocatable.saturating_sub(self.requested[i]);
            let best = (0..self.nodes.len()).rev().max_by_key(|i| free(*i));
            let Some(node) = best.filter(|node| free(*node) >= request) else { break };
            self.start(self.kind, node, request, now);
            self.pending -= 1;
            bound += 1;
        }
        if bound > 0 {
            self.outcome.waves.push(bound);
        }
    }

    /// What every node's pods use now; what that leads to.
    fn use_memory(&mut self, now: f64) {
        let mut used = self.base.clone();
        for i in 0..self.pods.len() {
            let pod = &self.pods[i];
            let Phase::Running(since) = pod.phase else { continue };
            let course = &self.courses[pod.kind];
            if self.kills_seen && course.over_limit.is_some_and(|over| now - since >= over) {
                self.kill(i, now, true);
                continue;
            }
            used[pod.node] = used[pod.node].saturating_add(course.at(now - since));
        }
        for (node, mut used) in used.into_iter().enumerate() {
            self.outcome.nodes[node].note(now, used);
            while self.kills_seen && used > self.nodes[node].allocatable {
                let Some((victim, bytes)) = self.victim(node, now) else { break };
                used = used.saturating_sub(bytes); // a sum of any numbers may have met its end
                self.kill(victim, now, false);
            }
        }
    }

    /// Whom the kernel would take, of those that start, and what that frees. The settled stay: they hold what they
    /// asked for, so that their score is lower.
    fn victim(&self, node: usize, now: f64) -> Option<(usize, u64)> {
        let on_it = self.pods.iter().enumerate().filter(|(_, pod)| pod.node == node);
        let live = on_it.filter_map(|(i, pod)| {
            let Phase::Running(since) = pod.phase else { return None };
            let bytes = self.courses[pod.kind].at(now - since);
            Some((i, bytes, bytes as i128 - i128::from(pod.requested)))
        });
        live.max_by_key(|(_, _, score)| *score).map(|(i, bytes, _)| (i, bytes))
    }

    fn kill(&mut self, pod: usize, now: f64, own_limit: bool) {
        let Pod { kind, node, phase, kills, .. } = &mut self.pods[pod];
        *kills += 1;
        let waits = match *kills {
            1 => RESTARTS,
            n => (BACKOFF * f64::from(1_u32 << (n - 2).min(10))).min(LONGEST_BACKOFF),
        };
        *phase =
            if *kills < RESTARTS_FOLLOWED { Phase::Begins(now + waits + BEGINS) } else { Phase::GivenUp };
        let kill = Kill {
            at: now,
            node: self.nodes[*node].name.clone(),
            kind: self.courses[*kind].kind.name.clone(),
            own_limit,
        };
        match self.outcome.kills.len() < KILLS {
            true => self.outcome.kills.push(kill),
            false => self.outcome.more_kills += 1,
        }
    }

    /// Nothing will change any more.
    fn is_over(&self) -> bool {
        self.pods.iter().all(|pod| matches!(pod.phase, Phase::Settled | Phase::GivenUp))
    }
}

impl NodeOutcome {
    fn note(&mut self, now: f64, used: u64) {
        if used > self.demand {
            (self.demand, self.demand_at) = (used, now);
        }
        self.short_by = self.demand.saturating_sub(self.allocatable);
        if used > self.allocatable && self.short_at.is_none() {
            self.short_at = Some(now);
        }
        if now >= self.span * POINTS as f64 {
            self.curve = self.curve.chunks(2).map(|pair| pair.iter().copied().max().unwrap_or(0)).collect();
            self.span *= 2.0;
        }
        let at = (now / self.span) as usize;
        if self.curve.len() <= at {
            self.curve.resize(at + 1, used);
        }
        self.curve[at] = self.curve[at].max(used);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// 160 MiB after two seconds, held for so many tenths of one, back at 60 MiB 0.3 s later.
    fn held(request: u64, tenths: usize) -> Kind {
        let mut curve: Vec<u64> = (1..=20).map(|i| i * 8 * MIB).collect();
        curve.extend(vec![160 * MIB; tenths]);
        curve.extend([110 * MIB, 80 * MIB, 65 * MIB]);
        curve.extend([60 * MIB; 20]);
        Kind {
            name: "web".into(),
            request: request * MIB,
            start_need: 170 * MIB,
            limit: Some(200 * MIB),
            span: 0.1,
            curve,
            steady: 60 * MIB,
        }
    }

    fn web(request: u64) -> Kind {
        held(request, 5)
    }

    fn node(allocatable: u64) -> Node {
        Node { name: "small".into(), allocatable: allocatable * MIB, taken: (0, 0), pods: vec![] }
    }

    /// Tried on a cluster: 12 pods, a peak of 160 MiB, 60 MiB afterwards, a limit of 200 MiB, and a node of 1 GiB by
    /// requests and by its kubepods group. As set: 8 OOM kills, settled after 21.4 s. The peak requested for good: 6
    /// run, 6 are pending for ever. Given back 3 s after the start: no kill, settled after 15.2 s in waves of 6, 3, 2
    /// and 1.
    ///
    /// How long the peak was held is not in that report. Who is killed again depends on it, whether the node runs short
    /// does not.
    #[test]
    fn what_was_tried_on_a_small_node_is_foretold() {
        let table = [
            (5, Requests::AsSet, 8, 0, vec![12], Some(21.4)),
            (12, Requests::AsSet, 11, 0, vec![12], Some(21.4)),
            (5, Requests::PeakKept, 0, 6, vec![6], None),
            (5, Requests::Lent, 0, 0, vec![6, 3, 2, 1], Some(15.2)),
            (12, Requests::Lent, 0, 0, vec![6, 3, 2, 1], Some(15.2)),
        ];
        for (tenths, requests, kills, pending, waves, settled) in table {
            let add = Change::Add { kind: 0, pods: 12 };
            let outcome = simulate(&[held(64, tenths)], &[node(1024)], add, requests).unwrap();
            let found = (outcome.killed(), outcome.pending_forever, outcome.waves.clone());
            assert_eq!(found, (kills, pending, waves), "{requests:?}: {:?}", outcome.kills);
            assert_eq!(outcome.short().count(), usize::from(requests == Requests::AsSet), "{requests:?}");
            match (outcome.settled_seconds, settled) {
                (Some(found), Some(tried)) => {
                    assert!(
                        (found - tried).abs() <= tried * 0.35,
                        "{requests:?}: {found} s, tried {tried} s"
                    );
                }
                (found, tried) => assert_eq!(found, tried),
            }
        }
    }

    #[test]
    fn a_node_is_short_by_the_sum_of_the_peaks_that_meet() {
        let add = Change::Add { kind: 0, pods: 12 };
        let outcome = simulate(&[web(64)], &[node(1024)], add, Requests::AsSet).unwrap();
        let small = &outcome.nodes[0];
        assert_eq!((small.demand / MIB, small.short_by / MIB, small.starts), (12 * 160, 12 * 160 - 1024, 12));
        assert!(small.short_at.is_some_and(|at| (1.0..1.5).contains(&at)), "{small:?}");
        let two = simulate(&[web(64)], &[node(1024), node(1024)], add, Requests::AsSet).unwrap();
        assert!(two.fits() && two.nodes.iter().all(|node| node.starts == 6), "{two:?}");
    }

    #[test]
    fn a_rollout_replaces_all_and_never_has_more_than_its_surge_at_once() {
        let there = Node { pods: vec![(0, 6)], ..node(1024) };
        let roll = |surge| Change::Rollout { kind: 0, surge, unavailable: 0 };
        let slow = simulate(&[web(64)], std::slice::from_ref(&there), roll(1), Requests::AsSet).unwrap();
        assert_eq!((slow.starts, slow.waves.clone(), slow.killed()), (6, vec![1; 6], 0));
        assert_eq!(slow.nodes[0].demand / MIB, 6 * 60 + 160);
        let fast = simulate(&[web(64)], &[there], roll(6), Requests::AsSet).unwrap();
        assert!(fast.killed() > 0 && fast.nodes[0].demand / MIB == 6 * 60 + 6 * 160, "{fast:?}");
    }

    #[test]
    fn all_of_a_node_that_restarts_start_together_and_nothing_is_lent() {
        let there = Node { pods: vec![(0, 12)], ..node(1024) };
        for requests in Requests::ALL {
            let change = Change::Restart { node: 0 };
            let outcome = simulate(&[web(64)], std::slice::from_ref(&there), change, requests).unwrap();
            assert_eq!((outcome.starts, outcome.nodes[0].demand / MIB), (12, 12 * 160));
            assert!(outcome.killed() >= 6, "{outcome:?}");
        }
    }

    #[test]
    fn one_that_exceeds_its_own_limit_is_killed_again_and_again() {
        let low = Kind { limit: Some(100 * MIB), ..web(64) };
        let outcome =
            simulate(&[low], &[node(8192)], Change::Add { kind: 0, pods: 1 }, Requests::AsSet).unwrap();
        assert!(outcome.kills.iter().all(|kill| kill.own_limit));
        assert_eq!((outcome.killed(), outcome.settled_seconds), (u64::from(RESTARTS_FOLLOWED), None));
    }

    proptest! {
        #[test]
        fn every_scene_ends_and_lending_kills_nobody_that_it_places(
            curve in proptest::collection::vec(1_u64..500, 1..40),
            steady in 1_u64..500,
            request in 0_u64..600,
            pods in 0_u64..40,
            rooms in proptest::collection::vec(0_u64..4000, 1..4),
        ) {
            let peak = curve.iter().copied().max().unwrap_or(0).max(steady);
            let kind = Kind {
                name: String::new(),
                request: request.max(steady + steady / 16 + 1) * MIB,
                start_need: peak * MIB,
                limit: None,
                span: 0.2,
                curve: curve.iter().map(|bytes| bytes * MIB).collect(),
                steady: steady * MIB,
            };
            let nodes: Vec<Node> = rooms.into_iter().map(node).collect();
            for requests in Requests::ALL {
                let add = Change::Add { kind: 0, pods };
                let outcome = simulate(std::slice::from_ref(&kind), &nodes, add, requests).unwrap();
                prop_assert_eq!(outcome.waves.iter().sum::<u64>() + outcome.pending_forever, pods);
                if requests != Requests::AsSet {
                    prop_assert_eq!(outcome.killed(), 0);
                }
            }
        }
    }
}
