//! Synthetic start-ups with a known truth: 17 classes, made on a 10 ms grid from a noise-free course, then noise, then
//! an adaptive sampler (10 ms while moving, up to 1 s when flat), as the observer sees a container.
//!
//! Amounts in MiB, times in seconds. A trace is a function of (class, seed, shifted) alone.

use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp, Normal, Poisson};

const STEP: f64 = 0.01;
/// Half width of the band of the truth: 5 %, at least 4 MiB.
const BAND: f64 = 0.05;
const BAND_MIN: f64 = 4.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Instant,
    Ramp,
    SpikeDecay,
    Staircase,
    SawtoothGc,
    Leak,
    LeakGc,
    LazyStep,
    PageCache,
    Noisy,
    LoadSine,
    OomLoop,
    SlowExp,
    ShortJob,
    LateRelease,
    Bursty,
    SlowRampSteps,
}

use Class::*;

/// What the trace in fact does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stable,
    Oscillating,
    Leak,
    Ended,
    /// Stable with bursts: both stable and oscillating are right.
    Bursts,
}

impl Class {
    pub const ALL: [Class; 17] = [
        Instant,
        Ramp,
        SpikeDecay,
        Staircase,
        SawtoothGc,
        Leak,
        LeakGc,
        LazyStep,
        PageCache,
        Noisy,
        LoadSine,
        OomLoop,
        SlowExp,
        ShortJob,
        LateRelease,
        Bursty,
        SlowRampSteps,
    ];

    pub fn kind(self) -> Kind {
        match self {
            SawtoothGc | LoadSine => Kind::Oscillating,
            Leak | LeakGc => Kind::Leak,
            OomLoop | ShortJob => Kind::Ended,
            Bursty => Kind::Bursts,
            _ => Kind::Stable,
        }
    }

    pub fn name(self) -> String {
        let mut name = String::new();
        for (i, c) in format!("{self:?}").chars().enumerate() {
            if c.is_uppercase() && i > 0 {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }
}

#[derive(Clone, Debug)]
pub struct Trace {
    pub class: Class,
    /// (seconds, MiB), as sampled.
    pub samples: Vec<(f64, f64)>,
    /// Of page cache, beside the samples: usage is the sum.
    pub cache: Vec<f64>,
    /// Seconds; absent for what never settles.
    pub time_to_stable: Option<f64>,
    pub level: Option<f64>,
    /// Highest of the signal on the way to stable.
    pub peak: f64,
    /// When a readiness probe would have said ready: it knows of the work, not of the memory.
    pub ready: Option<f64>,
    pub ended: bool,
    pub seconds: f64,
}

/// The course on the grid.
struct Course {
    rng: StdRng,
    shifted: bool,
    times: Vec<f64>,
    base: f64,
    level: f64,
}

impl Course {
    fn uniform(&mut self, a: f64, b: f64) -> f64 {
        self.rng.random_range(a..b)
    }

    fn log_uniform(&mut self, a: f64, b: f64) -> f64 {
        self.uniform(a.ln(), b.ln()).exp()
    }

    /// Log-uniform over a range that is wider in shifted traces.
    fn range(&mut self, a: f64, b: f64) -> f64 {
        let (low, high) = if self.shifted { (0.5, 2.0) } else { (1.0, 1.0) };
        self.log_uniform(a * low, b * high)
    }

    fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        self.times.iter().map(|t| f(*t)).collect()
    }

    fn ramp(&mut self, end: f64) -> Vec<f64> {
        let shape = self.rng.random_range(0..4);
        let (base, level) = (self.base, self.level);
        self.map(|t| {
            let u = (t / end.max(1e-3)).clamp(0.0, 1.0);
            let u = match shape {
                0 => u,
                1 => u * u * (3.0 - 2.0 * u),
                2 => 1.0 - (1.0 - u).powi(2),
                _ => u * u,
            };
            base + (level - base) * u
        })
    }

    fn steps(&self, course: &mut [f64], at: f64, over: f64, by: f64) {
        for (value, t) in course.iter_mut().zip(&self.times) {
            *value += by * ((t - at) / over).clamp(0.0, 1.0);
        }
    }
}

fn smoothstep(u: f64) -> f64 {
    let u = u.clamp(0.0, 1.0);
    u * u * u * (u * (u * 6.0 - 15.0) + 10.0)
}

fn half_band(level: f64) -> f64 {
    (BAND * level).max(BAND_MIN)
}

/// What a class decides besides the course.
#[derive(Default)]
struct Plan {
    course: Vec<f64>,
    cache: Vec<f64>,
    /// End of the work.
    work_ends: Option<f64>,
    /// Start of the swing.
    swings_from: Option<f64>,
    /// Late event, before which readiness comes.
    late: Option<f64>,
    dies: Option<f64>,
    noise: Option<(f64, f64)>,
    /// Course whose last leaving of the band is the truth, if not the course itself, and its level.
    judged: Option<(Vec<f64>, f64)>,
}

pub fn trace(class: Class, seed: u64, shifted: bool) -> Trace {
    let seconds = if shifted { 400.0 } else { 300.0 };
    let index = Class::ALL.iter().position(|c| *c == class).unwrap_or(0) as u64;
    let rng = StdRng::seed_from_u64(seed * 64 + index * 2 + u64::from(shifted));
    let times: Vec<f64> = (0..(seconds / STEP) as usize).map(|i| i as f64 * STEP).collect();
    let mut course = Course { rng, shifted, times, base: 0.0, level: 0.0 };
    course.level = course.log_uniform(40.0, 8000.0);
    course.base = (0.15 * course.level).min(course.log_uniform(2.0, 20.0));
    let quiet = course.log_uniform(1e-4, if shifted { 1e-2 } else { 5e-3 });
    let lag = course.log_uniform(0.05, 2.0);
    let plan = plan(class, &mut course, seconds);
    finish(class, seed, course, plan, (quiet, lag))
}

fn plan(class: Class, c: &mut Course, seconds: f64) -> Plan {
    let level = c.level;
    let mut plan = Plan::default();
    match class {
        Instant => {
            let end = c.log_uniform(0.02, 0.3);
            plan.course = c.ramp(end);
            plan.work_ends = Some(end);
        }
        Ramp | Noisy => {
            let end = if class == Ramp { c.range(1.0, 40.0) } else { c.range(1.0, 20.0) };
            plan.course = c.ramp(end);
            plan.work_ends = Some(end);
            if class == Noisy {
                plan.noise = Some((c.uniform(0.008, 0.016), c.log_uniform(0.05, 2.0)));
            }
        }
        SpikeDecay => {
            let (end, over) = (c.range(0.5, 20.0), c.uniform(1.25, 3.0));
            let down = end + c.range(0.1, 3.0);
            let (way, decay, drop) = (c.rng.random_range(0..3), c.range(1.0, 8.0), c.log_uniform(0.02, 0.3));
            let base = c.base;
            plan.course = c.map(|t| {
                if t < down {
                    return base + (over * level - base) * (t / end).clamp(0.0, 1.0);
                }
                let fallen = match way {
                    0 => smoothstep((t - down) / 10.0),
                    1 => 1.0 - (-(t - down) / decay).exp(),
                    _ => ((t - down) / drop).clamp(0.0, 1.0),
                };
                over * level - (over - 1.0) * level * fallen
            });
            plan.work_ends = Some(end);
        }
        Staircase => {
            let steps = c.rng.random_range(3..7);
            let heights: Vec<f64> = (0..steps).map(|_| c.uniform(0.5, 1.5)).collect();
            let total: f64 = heights.iter().sum();
            plan.course = vec![c.base; c.times.len()];
            let mut at = 0.0;
            for height in heights {
                at += c.range(0.5, 8.0);
                let over = c.log_uniform(0.05, 0.5);
                let by = (level - c.base) * height / total;
                c.steps(&mut plan.course, at, over, by);
            }
            plan.work_ends = Some(at);
        }
        SawtoothGc => {
            let (end, depth, period) = (c.range(1.0, 15.0), c.uniform(0.2, 0.6), c.range(1.0, 15.0));
            let (phase, saw) = (c.uniform(0.0, 6.0), c.chance(0.7));
            let ramp = c.ramp(end);
            plan.course = (c.times.iter().zip(ramp))
                .map(|(t, ramp)| {
                    if *t < end {
                        return ramp.min(level);
                    }
                    let part = ((t - end) / period).fract();
                    let jitter = 1.0 + 0.05 * (std::f64::consts::TAU * t / period / 7.3 + phase).sin();
                    if saw {
                        (1.0 - depth) * level + depth * level * part * jitter
                    } else {
                        level - depth * level * 0.5 * (1.0 + (std::f64::consts::TAU * part).sin())
                    }
                })
                .collect();
            plan.work_ends = Some(end);
            plan.swings_from = Some(end);
        }
        Leak => {
            let (end, rate) = (c.range(1.0, 20.0), c.log_uniform(0.04, 0.4) / 60.0);
            let quantum = c.chance(0.4).then(|| c.log_uniform(0.002, 0.02) * level);
            let ramp = c.ramp(end);
            plan.course = (c.times.iter().zip(ramp))
                .map(|(t, ramp)| {
                    let value = ramp + (t - end).max(0.0) * rate * level;
                    match quantum {
                        Some(q) if *t >= end => level + ((value - level) / q).floor() * q,
                        _ => value,
                    }
                })
                .collect();
            plan.work_ends = Some(end);
        }
        LeakGc => {
            let (end, depth, period) = (c.range(1.0, 15.0), c.uniform(0.15, 0.5), c.range(1.0, 12.0));
            let rate = c.log_uniform(0.06, 0.4) / 60.0;
            let ramp = c.ramp(end);
            plan.course = (c.times.iter().zip(ramp))
                .map(|(t, ramp)| {
                    if *t < end {
                        return ramp * (1.0 - depth);
                    }
                    let part = ((t - end) / period).fract();
                    (1.0 - depth) * level + depth * level * part + (t - end) * rate * level
                })
                .collect();
            plan.work_ends = Some(end);
        }
        LazyStep => {
            let end = c.range(0.5, 10.0);
            plan.course = c.ramp(end);
            let at = end + c.uniform(20.0, 150.0);
            let (up, over) = (c.uniform(0.12, 1.0), c.log_uniform(0.1, 3.0));
            c.steps(&mut plan.course, at, over, up * level);
            plan.late = Some(at);
        }
        PageCache => {
            let end = c.range(1.0, 20.0);
            plan.course = c.ramp(end);
            let (rate, cap) = (c.log_uniform(0.2, 5.0) * level / 60.0, c.uniform(0.5, 3.0) * level);
            let (linear, slow) = (c.chance(0.5), c.log_uniform(20.0, 200.0));
            plan.cache = c.map(|t| {
                let since = (t - 0.3 * end).max(0.0);
                if linear { (since * rate).min(cap) } else { cap * (1.0 - (-since / slow).exp()) }
            });
            plan.work_ends = Some(end);
        }
        LoadSine => {
            let end = c.range(1.0, 15.0);
            let idle = if c.chance(0.5) { c.uniform(5.0, 40.0) } else { 0.0 };
            let (depth, period) = (c.uniform(0.12, 0.4), c.log_uniform(20.0, 90.0));
            let ramp = c.ramp(end);
            plan.course = (c.times.iter().zip(ramp))
                .map(|(t, ramp)| {
                    let s = t - end - idle;
                    if s <= 0.0 {
                        return ramp;
                    }
                    let turn = std::f64::consts::TAU * s / period;
                    level * (1.0 + depth * 0.5 * (1.0 - turn.cos()) * (1.0 + 0.1 * (turn / 3.1).sin()))
                })
                .collect();
            plan.work_ends = Some(end);
            plan.swings_from = Some(end);
        }
        OomLoop => {
            let end = c.range(1.0, 25.0);
            let longer = c.uniform(1.02, 2.0);
            plan.course = c.ramp(end * longer);
            plan.dies = Some(end);
            plan.work_ends = Some(end);
        }
        SlowExp => {
            let slow = c.range(4.0, 25.0);
            let base = c.base;
            plan.course = c.map(|t| base + (level - base) * (1.0 - (-t / slow).exp()));
            plan.work_ends = Some(3.0 * slow);
        }
        ShortJob => {
            let end = c.range(1.0, 10.0);
            plan.course = c.ramp(end);
            plan.dies = Some(end * c.uniform(0.5, 1.0) + c.uniform(0.0, 8.0));
            plan.work_ends = Some(end);
        }
        LateRelease => {
            let (end, over) = (c.range(1.0, 10.0), c.uniform(1.2, 2.5));
            let at = end + c.uniform(20.0, 120.0);
            let down = c.log_uniform(0.1, 20.0);
            let base = c.base;
            let climb = move |t: f64| base + (over * level - base) * (t / end).clamp(0.0, 1.0);
            plan.course = c.map(|t| climb(t) - (over - 1.0) * level * smoothstep((t - at) / down));
            plan.late = Some(at);
            // The release lowers the level and does not move the time.
            plan.judged = Some((c.map(climb), over * level));
        }
        Bursty => {
            let end = c.range(1.0, 15.0);
            plan.course = c.ramp(end);
            plan.judged = Some((plan.course.clone(), level));
            let mut at = end + c.uniform(5.0, 40.0);
            while at < seconds {
                let (long, high) = (c.log_uniform(1.0, 10.0), c.uniform(0.1, 0.6));
                let until = ((at + long).min(seconds) / STEP) as usize;
                for value in &mut plan.course[(at / STEP) as usize..until] {
                    *value += high * level;
                }
                let pause = Exp::new(1.0 / 30.0).map_or(30.0, |exp| exp.sample(&mut c.rng));
                at += long + pause + 8.0;
            }
            plan.work_ends = Some(end);
        }
        SlowRampSteps => {
            let mut at = c.range(2.0, 15.0);
            plan.course = c.ramp(at).into_iter().map(|value| 0.4 * value).collect();
            for height in [0.25, 0.2, 0.15] {
                at += c.range(2.0, 15.0);
                let over = c.range(0.5, 5.0);
                c.steps(&mut plan.course, at, over, height * level);
            }
        }
    }
    plan
}

fn finish(class: Class, seed: u64, mut c: Course, mut plan: Plan, quiet: (f64, f64)) -> Trace {
    let grid = plan.dies.map_or(c.times.len(), |dies| ((dies / STEP) as usize).min(c.times.len()));
    plan.course.truncate(grid);
    plan.cache.resize(c.times.len(), 0.0);
    let course = &plan.course;
    let (time_to_stable, level) = truth(class, &c, &plan);

    let noisy = noise(&mut c, course, plan.noise.unwrap_or(quiet), class == Noisy);
    let peak_until = time_to_stable.map_or(grid, |t| (((t + 1.0) / STEP) as usize).clamp(1, grid));
    let peak = noisy[..peak_until].iter().copied().fold(0.0, f64::max);

    let work = match plan.late {
        Some(late) => late - 15.0,
        None => plan.work_ends.or(time_to_stable).unwrap_or(5.0),
    };
    let first = work * c.uniform(0.5, 1.3);
    // initialDelaySeconds 5, periodSeconds 10.
    let ready = 5.0 + 10.0 * ((first - 5.0).max(0.0) / 10.0).ceil();
    let seconds = grid as f64 * STEP;
    let picked = sample(&noisy, seed);
    Trace {
        class,
        samples: picked.iter().map(|i| (*i as f64 * STEP, noisy[*i])).collect(),
        cache: picked.iter().map(|i| plan.cache[*i]).collect(),
        time_to_stable,
        level,
        peak,
        ready: (ready < seconds).then_some(ready),
        ended: plan.dies.is_some(),
        seconds,
    }
}

fn truth(class: Class, c: &Course, plan: &Plan) -> (Option<f64>, Option<f64>) {
    if matches!(class.kind(), Kind::Leak | Kind::Ended) {
        return (None, None);
    }
    if let Some(from) = plan.swings_from {
        let regime = &plan.course[(from / STEP).ceil() as usize..];
        let low = regime.iter().copied().fold(f64::INFINITY, f64::min);
        let high = regime.iter().copied().fold(0.0, f64::max);
        let slack = half_band((low + high) / 2.0);
        return (Some(last_outside(&plan.course, low - slack, high + slack)), Some(high));
    }
    let last = plan.course.last().copied().unwrap_or(c.level);
    let (course, level) =
        plan.judged.as_ref().map_or((&plan.course, last), |(course, level)| (course, *level));
    let slack = half_band(level);
    let steady = if class == Bursty { c.level } else { last };
    (Some(last_outside(course, level - slack, level + slack)), Some(steady))
}

fn last_outside(course: &[f64], low: f64, high: f64) -> f64 {
    course.iter().rposition(|value| *value < low || *value > high).map_or(0.0, |i| (i + 1) as f64 * STEP)
}

/// Autocorrelated noise, and rare short excursions (a fork, a buffer).
fn noise(c: &mut Course, course: &[f64], (sigma, lag): (f64, f64), restless: bool) -> Vec<f64> {
    let Ok(normal) = Normal::new(0.0, 1.0) else { return course.to_vec() };
    let keep = (-STEP / lag).exp();
    let fresh = (1.0 - keep * keep).sqrt();
    let mut state: f64 = normal.sample(&mut c.rng);
    let offset = c.uniform(-0.125, 0.125);
    let mut out: Vec<f64> = course
        .iter()
        .map(|value| {
            state = keep * state + fresh * normal.sample(&mut c.rng);
            value + sigma * state * value.min(c.level) + offset
        })
        .collect();
    let expected = if restless { 6.0 } else { 2.0 } * course.len() as f64 * STEP / 300.0;
    let excursions = Poisson::new(expected).map_or(0.0, |poisson| poisson.sample(&mut c.rng)) as usize;
    for _ in 0..excursions {
        let at = c.rng.random_range(0..course.len().saturating_sub(10).max(1));
        let (long, by) = (c.rng.random_range(3..8), c.uniform(1.05, 1.3));
        for value in out.iter_mut().skip(at).take(long) {
            *value *= by;
        }
    }
    for value in &mut out {
        *value = value.max(0.5);
    }
    out
}

/// Indices an adaptive sampler reads: 10 ms while moving, backing off to 1 s when flat.
fn sample(values: &[f64], seed: u64) -> Vec<usize> {
    let mut rng = StdRng::seed_from_u64(seed + 7);
    let (mut at, mut pause, mut before) = (0.0_f64, STEP, None::<f64>);
    let mut picked = Vec::new();
    while (at as usize) < values.len() {
        let value = values[at as usize];
        picked.push(at as usize);
        let moved = before.is_some_and(|before| (value - before).abs() > (0.0125 * value).max(1.0));
        pause = if moved { (pause / 4.0).max(STEP) } else { (pause * 1.25).min(1.0) };
        before = Some(value);
        at += (pause / STEP * rng.random_range(0.95..1.05)).max(1.0);
    }
    picked
}
