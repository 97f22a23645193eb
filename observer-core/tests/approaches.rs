//! How often a limit that is met was foreseen, and how often one that is not: staged courses, made from a seed.
//!
//! `cargo test -p observer-core --test approaches -- --nocapture` prints the figures of docs/forecast.md.

#![allow(clippy::unwrap_used)] // all of it is test

use std::collections::BTreeMap;

use observer_core::{
    container::curve::Curve,
    foreseen::{
        approach::{Approach, News, Room},
        remaining::UnderWay,
    },
    model::{
        finding::LimitKind,
        past_startup::{PastStartup, SPANS, StartupOutcome},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const SEED: u64 = 20_260_823;
/// Of each shape.
const EACH: usize = 400;
/// Of a course, seconds: a tenth where it is short.
const STEP: f64 = 0.1;
/// Courses that do not meet their limit are followed so long, in times of what they take.
const FOLLOWED: f64 = 4.0;
/// A warning is in time so long before.
const IN_TIME: f64 = 2.0;

/// Courses that meet their limit, and take at least 5 s to do it.
const MEETS: [Shape; 6] =
    [Shape::Linear, Shape::Stepped, Shape::Accelerating, Shape::Collected, Shape::LeaksLater, Shape::Waits];
/// Courses that stay below it.
const STAYS: [Shape; 6] =
    [Shape::Stops, Shape::Settles, Shape::Swings, Shape::StepsEnd, Shape::Spike, Shape::SecondPlateau];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Linear,
    Stepped,
    Accelerating,
    /// A garbage collector takes back some, and less than came.
    Collected,
    LeaksLater,
    /// For another service, before it grows.
    Waits,
    /// Linear growth that ends.
    Stops,
    /// Towards a level, ever slower.
    Settles,
    Swings,
    StepsEnd,
    Spike,
    SecondPlateau,
}

/// One workload's way to behave; levels as shares of the limit, seconds.
#[derive(Clone, Copy, Debug)]
struct Course {
    shape: Shape,
    base: f64,
    seconds: f64,
    level: f64,
    steps: f64,
    bend: f64,
    swing: f64,
    noise: f64,
}

fn log_uniform(random: &mut StdRng, low: f64, high: f64) -> f64 {
    random.random_range(low.ln()..high.ln()).exp()
}

impl Course {
    fn new(shape: Shape, random: &mut StdRng) -> Self {
        Self {
            shape,
            base: random.random_range(0.02..0.3),
            seconds: log_uniform(random, 5.5, 600.0),
            level: random.random_range(0.3..0.95),
            steps: random.random_range(6.0_f64..30.0).floor(),
            bend: random.random_range(1.4..3.0),
            swing: random.random_range(0.05..0.3),
            noise: log_uniform(random, 1e-4, 5e-3),
        }
    }

    /// Another start of it, or another release: so much larger.
    fn again(self, random: &mut StdRng, larger: f64) -> Self {
        let pace = random.random_range(0.85..1.2);
        Self {
            seconds: self.seconds * pace,
            level: self.level * larger * random.random_range(0.97..1.03),
            ..self
        }
    }

    /// At this age, as a share of the limit.
    fn at(&self, t: f64) -> f64 {
        let Self { base, seconds, level, .. } = *self;
        let to_limit = |share: f64| base + (1.0 - base) * share;
        let to_level = |share: f64| base + (level - base).max(0.0) * share;
        let ramp = (t / seconds).min(1.0);
        let plateau = seconds.min(40.0);
        let in_steps = |share: f64| {
            let (whole, part) = ((share * self.steps).floor(), (share * self.steps).fract());
            (whole + (part * 4.0).min(1.0)) / self.steps
        };
        match self.shape {
            Shape::Linear => to_limit(t / seconds),
            Shape::Stepped => to_limit(in_steps(t / seconds)),
            Shape::Accelerating => to_limit((t / seconds).powf(self.bend)),
            Shape::Collected => {
                let period = seconds / self.steps;
                to_limit(t / seconds) - self.swing * base.max(0.1) * (1.0 - (t / period).fract())
            }
            Shape::LeaksLater if t < plateau => base + (0.5 - base) * (t / plateau * 3.0).min(1.0),
            Shape::LeaksLater => 0.5 + 0.5 * (t - plateau) / seconds,
            Shape::Waits if t < plateau => base,
            Shape::Waits => to_limit((t - plateau) / seconds),
            Shape::Stops => to_level(ramp),
            Shape::Settles => to_level(1.0 - (-3.0 * t / seconds).exp()),
            Shape::Swings => {
                let period = seconds / 4.0;
                to_level(ramp) * (1.0 - self.swing * (t / period).fract().abs())
            }
            Shape::StepsEnd => to_level(in_steps(ramp)),
            Shape::Spike => {
                to_level(if t < seconds { ramp } else { (0.4 - (t - seconds) / seconds).max(0.3) })
            }
            Shape::SecondPlateau => {
                to_level(0.6 * ramp + 0.4 * ((t - 3.0 * seconds) / (seconds / 4.0)).clamp(0.0, 1.0))
            }
        }
    }

    /// As the observer gets it: points while it moves, at least one a second; the limit cuts it off.
    fn points(&self, limit: f64, random: &mut StdRng) -> (Vec<(f64, u64)>, Option<f64>) {
        let (mut points, mut sent, mut sent_at) = (Vec::new(), -1.0_f64, f64::NEG_INFINITY);
        let step = (self.seconds / 300.0).clamp(STEP, 1.0);
        let mut steps = 0_u32;
        loop {
            let t = f64::from(steps) * step;
            steps += 1;
            let share = (self.at(t) * (1.0 + self.noise * random.random_range(-1.7..1.7))).max(0.001);
            let met = self.at(t) >= 1.0;
            if (share - sent).abs() > 0.005 || t - sent_at >= 1.0 || met {
                points.push((t, (share.min(1.0) * limit) as u64));
                (sent, sent_at) = (share, t);
            }
            if met || t > self.seconds * FOLLOWED + 60.0 {
                return (points, met.then_some(t));
            }
        }
    }

    fn past(&self, limit: f64, random: &mut StdRng) -> PastStartup {
        let (points, met) = self.points(limit, random);
        let mut curve = Curve::<SPANS>::default();
        let until = met.unwrap_or(self.seconds * FOLLOWED);
        points.iter().filter(|point| point.0 <= until).for_each(|point| curve.push(point.0, point.1 as f64));
        let peak = curve.highest().iter().copied().fold(0.0, f32::max) as u64;
        PastStartup {
            started: 0.0,
            pod: String::new(),
            outcome: if met.is_some() { StartupOutcome::OomKilled } else { StartupOutcome::Stable },
            cut_short: false,
            peak,
            peak_seconds: until,
            unreclaimable_peak: peak,
            growth: 0.0,
            time_to_stable: None,
            steady: None,
            overshoot: None,
            span: curve.width(),
            curve: curve.highest().to_vec(),
        }
    }
}

/// Follows one course. The first warning, and when the limit was met.
fn follow(
    course: &Course,
    limit: f64,
    past: &[PastStartup],
    random: &mut StdRng,
) -> (Option<f64>, Option<f64>, usize) {
    let (points, met) = course.points(limit, random);
    let (mut approach, mut curve) = (Approach::default(), Curve::<SPANS>::default());
    let (mut first, mut warnings, mut looked) = (None, 0, f64::NEG_INFINITY);
    // What leaves its level again within the start-up horizon starts again; a leak goes on from a verdict.
    let settled =
        if course.shape == Shape::LeaksLater { course.seconds.min(40.0) + 20.0 } else { f64::INFINITY };
    for (t, bytes) in points {
        if met.is_some_and(|met| t >= met) {
            break;
        }
        approach.push(t, bytes);
        curve.push(t, bytes as f64);
        if t - looked < 0.2 {
            continue;
        }
        looked = t;
        let start = UnderWay { age: t, usage: bytes, span: curve.width(), curve: curve.highest() };
        let rooms = [Room { limit: LimitKind::Container, bytes: limit as u64 }];
        let start = Some(&start).filter(|_| t < settled);
        if let News::Began(_) = approach.look(t, &rooms, start, past) {
            first = first.or(Some(t));
            warnings += 1;
        }
    }
    (first, met, warnings)
}

#[derive(Default)]
struct Score {
    courses: usize,
    in_time: usize,
    warned: usize,
    warnings: usize,
    leads: Vec<f64>,
}

#[test]
fn limits_that_are_met_are_foreseen_and_others_are_not() {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut scores: BTreeMap<(bool, Shape, bool), Score> = BTreeMap::new();
    for (meets, shapes) in [(true, MEETS), (false, STAYS)] {
        for shape in shapes {
            for i in 0..EACH {
                let course = Course::new(shape, &mut random);
                let limit = log_uniform(&mut random, 64.0, 8192.0) * 1048576.0;
                // Half have earlier start-ups; where the limit is met, half of these are of a smaller release.
                let known = i % 2 == 0;
                let kept = if known { random.random_range(1..8) } else { 0 };
                let before = match meets {
                    true if i % 4 == 0 => {
                        Course { shape: Shape::Stops, level: course.level.max(0.5), ..course }
                    }
                    _ => course,
                };
                let past: Vec<PastStartup> =
                    (0..kept).map(|_| before.again(&mut random, 1.0).past(limit, &mut random)).collect();
                let (first, met, warnings) = follow(&course, limit, &past, &mut random);
                assert_eq!(met.is_some(), meets, "{course:?}");
                let score = scores.entry((meets, shape, known)).or_default();
                score.courses += 1;
                score.warnings += warnings;
                score.warned += usize::from(first.is_some());
                if let (Some(first), Some(met)) = (first, met) {
                    score.in_time += usize::from(met - first >= IN_TIME);
                    score.leads.push(met - first);
                }
            }
        }
    }
    println!(
        "{:<16} {:<8} {:>7} {:>8} {:>7} {:>8} {:>10}",
        "course", "known", "courses", "in time", "warned", "warnings", "lead p50"
    );
    for ((_, shape, known), score) in &mut scores {
        score.leads.sort_by(f64::total_cmp);
        let lead =
            score.leads.get(score.leads.len() / 2).map_or(String::new(), |lead| format!("{lead:.1} s"));
        println!(
            "{:<16} {:<8} {:>7} {:>8} {:>7} {:>8} {:>10}",
            format!("{shape:?}"),
            if *known { "yes" } else { "no" },
            score.courses,
            score.in_time,
            score.warned,
            score.warnings,
            lead
        );
    }
    let sum = |meets: bool, of: fn(&Score) -> usize| -> usize {
        scores.iter().filter(|(key, _)| key.0 == meets).map(|(_, score)| of(score)).sum()
    };
    let (met, in_time) = (sum(true, |score| score.courses), sum(true, |score| score.in_time));
    let (stayed, wrong) = (sum(false, |score| score.courses), sum(false, |score| score.warned));
    let (right, repeated) = (sum(true, |score| score.warned), sum(true, |score| score.warnings));
    println!(
        "met {met}: in time {in_time} ({:.1} %), warnings {repeated}",
        100.0 * in_time as f64 / met as f64
    );
    println!(
        "stayed {stayed}: warned {wrong} ({:.1} %); of all warned {:.1} %",
        100.0 * wrong as f64 / stayed as f64,
        100.0 * wrong as f64 / (wrong + right) as f64
    );
    assert!(met >= 2000 && stayed >= 2000);
    assert!(in_time * 100 >= met * 95, "{in_time} of {met} in time");
    assert!(wrong * 100 <= stayed * 5, "{wrong} of {stayed} warned of a limit that was not met");
    assert!(wrong * 100 <= (wrong + right) * 5, "{wrong} of {} warnings false", wrong + right);
}
