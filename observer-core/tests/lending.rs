//! The lender on a small node, staged: pods whose peaks do not fit at once, an API that is late and refuses, agents
//! that read once a second, containers that start when they can.
//!
//! What must hold at every moment, of every pod: **it uses no more than it requests**. The scheduler keeps the sum of
//! requests below the node's room, so then the sum of what is used is below it too, and nothing is killed.

use observer_core::{
    loan::{Ask, Bounds, Loan, Measured, State, course::Course},
    model::past_startup::{PastStartup, StartupOutcome},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const MIB: u64 = 1 << 20;
const ROOM: u64 = 1024 * MIB;
const PODS: usize = 12;
const BOUNDS: Bounds = Bounds { need: 170 * MIB, steady: 64 * MIB, deadline: 120.0, pending: 110.0 };
/// From one moment of the stage to the next, seconds.
const STEP: f64 = 0.1;
/// A scene is over by then, seconds.
const LONGEST: f64 = 150.0;
/// A verdict is known so long after the truth, seconds.
const VERDICT: f64 = 17.0;
/// The pods' own and the runtime's, beside what the program takes.
const OVERHEAD: f64 = 2.0;

/// Corners of what a container uses: seconds since its exec, MiB.
type Shape = Vec<(f64, f64)>;

fn usage(shape: &Shape, age: f64) -> u64 {
    let after = shape.iter().position(|(at, _)| *at > age);
    let mib = match after {
        Some(0) | None => shape.last().map_or(0.0, |(_, mib)| *mib),
        Some(i) => {
            let ((from, low), (to, high)) = (shape[i - 1], shape[i]);
            low + (high - low) * (age - from) / (to - from)
        }
    };
    ((mib + OVERHEAD) * MIB as f64) as u64
}

/// One of a scene's pods. `twice`: with a second spike as high as the first; `collects`: a garbage collector takes much
/// back, shortly, while it grows.
fn shape(rng: &mut StdRng, twice: bool, collects: bool) -> Shape {
    let slower = rng.random_range(1.0..2.5);
    let peak = rng.random_range(150.0..165.0);
    let steady = rng.random_range(55.0..61.5);
    let mut corners = vec![(0.0, 3.0)];
    let mut then = |seconds: f64, mib: f64| {
        let at = corners.last().map_or(0.0, |(at, _)| *at);
        corners.push((at + (seconds * slower).max(1e-3), mib));
    };
    then(rng.random_range(0.0..1.0), 3.0);
    then(2.5, peak);
    if collects {
        then(1e-3, 80.0);
        then(0.1, 80.0);
        then(0.8, peak);
    }
    then(rng.random_range(0.4..1.2), peak);
    then([1e-3, 0.5, 1.5][rng.random_range(0..3)], steady);
    if twice {
        then(2.0, steady);
        then(1.0, peak);
        then(0.5, peak);
        then(1e-3, steady);
    }
    corners
}

fn settles(shape: &Shape) -> f64 {
    shape.last().map_or(0.0, |(at, _)| *at)
}

fn remembered(shape: &Shape) -> PastStartup {
    let span = (settles(shape) + VERDICT) / 60.0;
    let highest = |i: u32| {
        let within = (0..20).map(|j| usage(shape, (f64::from(i) + f64::from(j) / 20.0) * span));
        within.max().unwrap_or(0) as f32
    };
    let curve: Vec<f32> = (0..60).map(highest).collect();
    PastStartup {
        started: 0.0,
        pod: String::new(),
        outcome: StartupOutcome::Stable,
        cut_short: false,
        peak: curve.iter().copied().fold(0.0, f32::max) as u64,
        peak_seconds: 0.0,
        unreclaimable_peak: 0,
        growth: 0.0,
        time_to_stable: None,
        steady: None,
        overshoot: None,
        span,
        curve,
    }
}

/// As the agent has read it.
#[derive(Clone, Copy, Default)]
struct Reading {
    usage: u64,
    working_set: u64,
    peak: u64,
}

impl Reading {
    fn measured(&self, age: f64, settled: bool, course: &mut Course) -> Measured {
        let working_set = self.working_set.max(self.usage);
        course.note_peak(age, self.peak);
        course.note(age, self.usage);
        Measured { working_set, peak: self.peak, settled, earlier: course.earlier(age, working_set) }
    }
}

struct Pod {
    shape: Shape,
    spec: u64,
    /// What the scheduler counts beside the spec, and from when on it is the spec.
    actual: u64,
    in_force: Option<f64>,
    bound: Option<f64>,
    exec: Option<f64>,
    moved: f64,
    agent: Reading,
    /// Shown to the lender: the agent answers with what is up to 0.2 s old.
    answer: Reading,
    course: Option<Course>,
    loan: Loan,
    asked: Vec<Ask>,
}

impl Pod {
    fn uses(&self, now: f64) -> u64 {
        self.exec.filter(|exec| *exec <= now).map_or(0, |exec| usage(&self.shape, now - exec))
    }

    /// The agent: points as memory grows, files while it moves, and a look at everything once a second.
    fn read(&mut self, now: f64, whole: bool, rng: &mut StdRng) {
        let uses = self.uses(now);
        if uses > self.agent.usage + MIB / 2 && rng.random_bool(0.7) {
            (self.agent.usage, self.moved) = (uses, now);
        }
        if whole || now - self.moved < 0.5 && rng.random_bool(0.5) {
            (self.agent.usage, self.agent.working_set) = (uses, uses);
        }
        self.agent.peak = self.agent.peak.max(self.agent.usage);
    }

    fn state(&mut self, now: f64, created: f64, answers: bool, past: &[PastStartup], late: f64) -> State {
        let Some(bound) = self.bound else { return State::Pending { seconds: now - created } };
        // The status comes late, and in whole seconds.
        let Some(exec) = self.exec.filter(|exec| exec + late <= now) else {
            return State::Creating { seconds: now - bound.min(now) };
        };
        let settled = now - exec > settles(&self.shape) + VERDICT;
        let measured = answers.then(|| {
            let course = self.course.get_or_insert_with(|| Course::new(past.to_vec()));
            self.answer.measured(now - exec, settled, course)
        });
        State::Running { restarts: 0, age: now - exec.floor(), measured }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Played {
    /// Moments at which a pod used more than it requested, and at which all used more than there is.
    above: u32,
    killed: u32,
    /// Seconds until all had settled; until every loan was over.
    settled: f64,
    over: f64,
    most_steps: usize,
    /// Of the requests over time until all had settled, as a share of all peaks.
    share: f64,
}

/// `known`: start-ups of the workload before the scene.
fn play(seed: u64, known: usize, twice: bool, collects: bool) -> Played {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut past: Vec<PastStartup> =
        (0..known).map(|_| remembered(&shape(&mut rng, twice, collects))).collect();
    let mut pods: Vec<Pod> = (0..PODS)
        .map(|_| Pod {
            shape: shape(&mut rng, twice, collects),
            spec: BOUNDS.need,
            actual: BOUNDS.need,
            in_force: None,
            bound: None,
            exec: None,
            moved: f64::NEG_INFINITY,
            agent: Reading::default(),
            answer: Reading::default(),
            course: None,
            loan: Loan::default(),
            asked: Vec::new(),
        })
        .collect();
    let mut played = Played::default();
    let (mut whole, mut rendered, mut look) = (rng.random_range(0.0..1.0), 0.0, 0.3);
    let mut requested = 0.0;
    let mut learned = [false; PODS];
    for moment in 0..(LONGEST / STEP) as u32 {
        let now = f64::from(moment) * STEP;
        // The kubelet puts resizes in force, the scheduler fills what is free.
        for pod in &mut pods {
            if pod.in_force.is_some_and(|at| at <= now) {
                (pod.actual, pod.in_force) = (pod.spec, None);
            }
        }
        let counted = |pod: &Pod| pod.bound.map_or(0, |_| pod.spec.max(pod.actual));
        let mut free = ROOM.saturating_sub(pods.iter().map(counted).sum());
        let starting = pods.iter().filter(|pod| pod.bound.is_some() && pod.uses(now) == 0).count() as f64;
        for pod in pods.iter_mut().filter(|pod| pod.bound.is_none()) {
            if pod.spec <= free && rng.random_bool(0.7) {
                free -= pod.spec;
                pod.bound = Some(now);
                pod.exec = Some(now + rng.random_range(0.4..1.5) * (1.0 + starting / 4.0));
            }
        }
        // What must hold.
        let uses: Vec<u64> = pods.iter().map(|pod| pod.uses(now)).collect();
        played.above += pods.iter().zip(&uses).filter(|(pod, uses)| **uses > pod.actual).count() as u32;
        played.killed += u32::from(uses.iter().sum::<u64>() > ROOM);
        // The agent, and its answer.
        let all = now >= whole;
        whole += f64::from(u8::from(all));
        let renders = now >= rendered;
        rendered += if renders { 0.2 } else { 0.0 };
        for pod in &mut pods {
            pod.read(now, all, &mut rng);
            if renders {
                pod.answer = pod.agent;
            }
        }
        for (pod, learned) in pods.iter().zip(&mut learned) {
            let settled = pod.exec.is_some_and(|exec| now - exec > settles(&pod.shape) + VERDICT);
            if settled && !std::mem::replace(learned, true) {
                past.push(remembered(&pod.shape));
            }
        }
        // The lender: looks four times a second, unless an answer takes its time.
        if now >= look {
            let answers = rng.random_bool(0.95);
            look = now + if answers { 0.25 + rng.random_range(0.0..0.2) } else { 0.9 };
            for pod in pods.iter_mut().filter(|pod| !pod.loan.is_over()) {
                let late = rng.random_range(0.0..1.0);
                let state = pod.state(now, 0.0, answers, &past, late);
                let Some(ask) = pod.loan.decide(&BOUNDS, pod.spec, state) else { continue };
                if rng.random_bool(0.1) {
                    pod.loan.not_done(ask.why); // it changed meanwhile
                    continue;
                }
                let slow = if rng.random_bool(0.05) { 2.0 } else { 0.2 };
                (pod.spec, pod.in_force) = (ask.request, Some(now + rng.random_range(0.05..slow)));
                pod.asked.push(ask);
            }
        }
        let ended = |pod: &Pod| pod.exec.is_some_and(|exec| now > exec + settles(&pod.shape));
        if !pods.iter().all(ended) {
            played.settled = now;
            let of = |pod: &Pod| pod.bound.map_or(0.0, |_| pod.spec as f64);
            requested += pods.iter().map(of).sum::<f64>() * STEP;
        }
        if pods.iter().all(|pod| pod.loan.is_over()) {
            played.over = now;
            break;
        }
    }
    played.most_steps = pods.iter().map(|pod| pod.asked.len()).max().unwrap_or(0);
    let falls = |pod: &Pod| pod.asked.is_sorted_by(|a, b| a.request > b.request);
    assert!(pods.iter().all(falls), "seed {seed}: something was given back twice");
    played.share = requested / (PODS as f64 * BOUNDS.need as f64 * played.settled);
    played
}

#[test]
fn no_pod_of_a_scale_up_uses_more_than_it_requests() {
    for (name, seeds, known, twice, collects) in [
        ("a workload never seen", 1000, 0, false, false),
        ("a garbage collector, never seen", 100, 0, false, true),
        ("a workload seen before", 100, 3, false, false),
        ("a second spike, seen before", 100, 3, true, false),
    ] {
        let all: Vec<Played> = (0..seeds).map(|seed| play(seed, known, twice, collects)).collect();
        let bad: Vec<usize> = (0..all.len()).filter(|i| all[*i].above > 0).collect();
        let killed = all.iter().filter(|one| one.killed > 0).count();
        let mut settled: Vec<f64> = all.iter().map(|one| one.settled).collect();
        settled.sort_by(f64::total_cmp);
        let share = all.iter().map(|one| one.share).fold(0.0, f64::max);
        let at = |share: f64| settled[(share * (settled.len() - 1) as f64) as usize];
        eprintln!(
            "{name}: of {seeds}, {} used more than requested, {killed} would have killed; settled after {:.1} s, p95 {:.1}, at most {:.1}; {:.0} % requested at most",
            bad.len(),
            at(0.5),
            at(0.95),
            at(1.0),
            share * 100.0
        );
        assert_eq!((bad.len(), killed), (0, 0), "{name}: seeds {:?}", &bad[..bad.len().min(10)]);
        assert!(all.iter().all(|one| one.over > 0.0 && one.most_steps <= 3), "{name}: a loan did not end");
        assert!(share <= 0.5, "{name}: {share}");
    }
}
