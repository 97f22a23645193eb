//! Time to stable: when memory reached the level at which it stays.
//!
//! Turns samples (seconds since start, bytes) into a [`Verdict`], online, in a fixed size. Independent of containers,
//! findings and clocks.
//!
//! **Definition.** The band of a level is `max(5 % of it, 4 MiB)` to either side. Time to stable is the earliest moment
//! after which the signal stays inside the band of its level for the hold time `clamp(time to stable, 15 s, 120 s)`
//! without a drift that would leave the band within `max(60 s, age)`. It is confirmed only at the end of the hold and
//! dated at its begin.
//!
//! **Method.** Samples are averaged over 0.1 s and passed through a median of three, so that a fork or a short buffer
//! does not count. [`extremes`] keeps the widest recent window whose range fits in a band; [`ring`] its level and
//! slope; [`octaves`] the slow drift since start; [`swings`] the turning points of an oscillation.
//!
//! **Known wrong answers.** A leak that grows by less than half a band per hold time is stable until the octaves show
//! it (two minutes at the earliest). A climb in steps more than two minutes apart is reported as stable in between,
//! and each step then moves the time to stable. A swing slower than a quarter of the observed time looks like a drift.

use arrayvec::ArrayVec;

mod drift;
mod level;
mod oscillation;
mod theil_sen;
mod window;

use drift::Octaves;
use level::Ring;
use oscillation::Swings;
use window::Extremes;

/// Half width of the band, relative: a smaller change of the level is too small to change a request.
pub const BAND_RATIO: f64 = 0.05;
/// Half width of the band, absolute: allocator arenas and thread stacks come and go in a few MiB.
pub const BAND_MIN_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
/// Samples are averaged over this long: shorter than any settling that matters, longer than a page fault storm's
/// jitter.
const MICRO_SECONDS: f64 = 0.1;
/// The hold: as long again as it took to get there, but at least a readiness period and at most two minutes.
const HOLD_MIN_SECONDS: f64 = 15.0;
const HOLD_MAX_SECONDS: f64 = 120.0;
/// Drift is projected at least a minute ahead: the shortest interval over which autoscalers act.
const PROJECTION_SECONDS: f64 = 60.0;
/// The projected drift may use half the band; the other half is for the noise.
const FLAT_SHARE: f64 = 0.5;
/// Two standard errors: the slope is then below the bound with 97.5 % confidence.
const FLAT_ERRORS: f64 = 2.0;
/// Mann-Kendall |Z| below which a noisy signal has no trend (5 %, one-sided).
const NO_TREND_Z: f64 = 1.64;
/// A signal too noisy for the slope test is accepted without a trend after twice the hold.
const NOISY_HOLDS: f64 = 2.0;
/// Before two minutes an almost linear rise may still be a start-up.
const DRIFT_MIN_SECONDS: f64 = 120.0;
/// After ten minutes a new level is not start-up any more.
pub const HORIZON_SECONDS: f64 = 600.0;

/// The half width of the band around a level.
pub fn band(level: f64) -> f64 {
    (BAND_RATIO * level).max(BAND_MIN_BYTES)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Settling,
    Stable,
    /// Rises or falls without slowing down.
    Drifting,
    /// A bounded swing.
    Oscillating,
}

/// A settled state. Seconds since start, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settled {
    pub at: f64,
    pub level: f64,
    pub confirmed_at: f64,
}

/// The swing of an oscillating signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swing {
    pub low: f64,
    pub high: f64,
    pub period: f64,
    /// Since when the envelope holds.
    pub since: f64,
}

#[derive(Clone, Debug)]
pub struct Stability {
    filter: Filter,
    now: f64,
    extremes: Extremes,
    ring: Ring,
    octaves: Octaves,
    swings: Swings,
    state: Phase,
    settled: Option<Settled>,
    /// Start of the transient under way: holds are measured from here.
    transient_from: f64,
    /// Start of the band-wide window at the last confirmation; a later start means the signal has left it.
    confirmed_window: f64,
    /// Until then the settled time and level are still refined.
    final_at: f64,
    /// The signal came back to its level, or released memory: the settled time stands.
    keep_time: bool,
    plateaus: u32,
    verdict: Verdict,
    swing: Option<Swing>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Settling,
    Stable,
    Drifting,
}

impl Default for Stability {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            now: 0.0,
            extremes: Extremes::default(),
            ring: Ring::default(),
            octaves: Octaves::default(),
            swings: Swings::default(),
            state: Phase::Settling,
            settled: None,
            transient_from: 0.0,
            confirmed_window: 0.0,
            final_at: 0.0,
            keep_time: false,
            plateaus: 0,
            verdict: Verdict::Settling,
            swing: None,
        }
    }
}

impl Stability {
    /// Takes one sample: `bytes` holds from `seconds` until the next sample. Samples that are not finite, negative, or
    /// not later than the last one are ignored; returns whether it was taken.
    pub fn sample(&mut self, seconds: f64, bytes: f64) -> bool {
        if !(seconds.is_finite() && bytes.is_finite()) || seconds < 0.0 || bytes < 0.0 {
            return false;
        }
        let mut out = ArrayVec::<Held, 2>::new();
        if !self.filter.sample(seconds, bytes, &mut out) {
            return false;
        }
        for held in out {
            self.step(held);
        }
        true
    }

    /// Memory was not read between the last sample and `seconds`: the window is reset, so that no hold spans the gap.
    pub fn unseen_until(&mut self, seconds: f64) {
        self.filter = Filter::default();
        self.extremes = Extremes::restarted(seconds);
        self.ring = Ring::default();
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The settled state, also while a later transient is under way.
    pub fn settled(&self) -> Option<Settled> {
        self.settled
    }

    pub fn swing(&self) -> Option<Swing> {
        self.swing.filter(|_| self.verdict == Verdict::Oscillating)
    }

    /// Seconds from start to stable; for an oscillating signal, to the envelope it stays in.
    pub fn time_to_stable(&self) -> Option<f64> {
        self.settled.map(|settled| settled.at).or(self.swing().map(|swing| swing.since))
    }

    /// Levels the signal rested on long enough to be called stable.
    pub fn plateaus(&self) -> u32 {
        self.plateaus
    }

    /// Bytes per second of the floor over the last two octaves of time.
    pub fn drift_rate(&self) -> f64 {
        self.octaves.floor_rate(self.now).unwrap_or(0.0)
    }

    fn step(&mut self, held: Held) {
        self.now = held.until;
        if let Some(window) = self.extremes.push(held.until, held.bytes) {
            self.ring.forget_before(window);
        }
        let evaluate = self.ring.add(held);
        self.octaves.add(held);
        self.swings.add(held.from, held.bytes, 2.0 * band(held.bytes));
        self.leave_or_settle(held.bytes, evaluate);
        if evaluate {
            self.verdict = self.judge();
        }
    }

    /// The state machine: settling -> stable -> (drifting | a new transient -> settling).
    fn leave_or_settle(&mut self, bytes: f64, evaluate: bool) {
        let window = self.extremes.window();
        if self.state != Phase::Settling
            && let Some(settled) = self.settled
            && window > self.confirmed_window
            && (bytes - settled.level).abs() > 2.0 * band(settled.level)
        {
            self.state = Phase::Settling;
            self.verdict = Verdict::Settling;
            self.transient_from = window;
            return;
        }
        if !evaluate || self.now - window < HOLD_MIN_SECONDS {
            return;
        }
        let Some(level) = self.ring.level() else { return };
        let at = self.extremes.inside_since(level, band(level));
        let (age, hold) = (self.now - at, self.hold(at));
        if age < hold {
            return;
        }
        match self.state {
            Phase::Stable => {
                self.confirmed_window = window;
                if let Some(settled) = &mut self.settled
                    && self.now < self.final_at
                {
                    settled.level = level;
                    if !self.keep_time {
                        settled.at = at;
                    }
                }
                if self.now >= DRIFT_MIN_SECONDS && self.octaves.drift(self.now).is_some() {
                    self.state = Phase::Drifting;
                }
            }
            Phase::Drifting
                if self.plateaus > 0
                    && self.octaves.drift(self.now).is_none()
                    && self.settled.is_some_and(|settled| {
                        (level - settled.level).abs() <= 2.0 * band(settled.level)
                    }) =>
            {
                self.state = Phase::Stable; // it slowed down after all, near the level it had
                self.confirmed_window = window;
            }
            Phase::Settling | Phase::Drifting if self.is_flat(level, age, hold) => {
                let drifts = self.plateaus > 0
                    && self.now >= DRIFT_MIN_SECONDS
                    && self.octaves.drift(self.now).is_some();
                if drifts {
                    self.state = Phase::Drifting;
                } else {
                    self.settle(at, level, hold);
                    self.confirmed_window = window;
                }
            }
            _ => {}
        }
    }

    fn hold(&self, at: f64) -> f64 {
        (at - self.transient_from).clamp(HOLD_MIN_SECONDS, HOLD_MAX_SECONDS)
    }

    fn is_flat(&self, level: f64, age: f64, hold: f64) -> bool {
        let Some(slope) = self.ring.slope() else { return false };
        let allowed = FLAT_SHARE * band(level);
        let ahead = age.max(PROJECTION_SECONDS);
        let certain = (slope.rate.abs() + FLAT_ERRORS * slope.error) * ahead <= allowed;
        let trendless = slope.trend_z.abs() < NO_TREND_Z
            && age >= NOISY_HOLDS * hold
            && slope.rate.abs() * ahead <= allowed;
        certain || trendless
    }

    fn settle(&mut self, at: f64, level: f64, hold: f64) {
        let first = Settled { at, level, confirmed_at: self.now };
        self.settled = Some(match self.settled {
            None => {
                self.plateaus += 1;
                self.keep_time = false;
                first
            }
            Some(before) if (level - before.level).abs() <= 2.0 * band(before.level) => {
                self.keep_time = true; // an excursion that came back
                before
            }
            Some(before) => {
                self.plateaus += 1;
                let released = level < before.level;
                let late = at > HORIZON_SECONDS;
                self.keep_time = released || late;
                if self.keep_time { Settled { level, ..before } } else { first }
            }
        });
        self.final_at = self.now + hold;
        self.state = Phase::Stable;
    }

    fn judge(&mut self) -> Verdict {
        if self.state == Phase::Stable {
            return Verdict::Stable;
        }
        let drift = self.octaves.drift(self.now);
        if self.swings.repeat(self.now) {
            if drift.is_some() {
                return Verdict::Drifting;
            }
            self.swing = self.octaves.envelope(self.now).map(|(low, high, since)| Swing {
                low,
                high,
                since,
                period: self.swings.period(),
            });
            return Verdict::Oscillating;
        }
        if self.state == Phase::Drifting || (drift.is_some() && self.now >= DRIFT_MIN_SECONDS) {
            return Verdict::Drifting;
        }
        Verdict::Settling
    }
}

/// A filtered value and the time it held.
#[derive(Clone, Copy, Debug)]
struct Held {
    from: f64,
    until: f64,
    bytes: f64,
}

/// Averages over 0.1 s, then takes the median of three: one outlier in a row of three does not pass.
#[derive(Clone, Debug, Default)]
struct Filter {
    last: Option<(f64, f64)>,
    bucket: Option<Bucket>,
    recent: ArrayVec<(f64, f64), 3>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    from: f64,
    weighted: f64,
    seconds: f64,
}

impl Filter {
    fn sample(&mut self, seconds: f64, bytes: f64, out: &mut ArrayVec<Held, 2>) -> bool {
        match self.last {
            None => self.pass(seconds, bytes, out),
            Some((since, _)) if seconds <= since => return false,
            Some((since, held)) => self.hold(since, seconds, held, out),
        }
        self.last = Some((seconds, bytes));
        true
    }

    fn hold(&mut self, from: f64, until: f64, bytes: f64, out: &mut ArrayVec<Held, 2>) {
        let mut bucket = self.bucket.take().unwrap_or(Bucket { from, weighted: 0.0, seconds: 0.0 });
        bucket.weighted += bytes * (until - from);
        bucket.seconds += until - from;
        // A nanosecond of slack: sums of samples exactly 0.02 s apart fall just short of 0.1 s.
        if until - bucket.from >= MICRO_SECONDS - 1e-9 {
            self.pass(bucket.from, bucket.weighted / bucket.seconds, out);
        } else {
            self.bucket = Some(bucket);
        }
    }

    fn pass(&mut self, from: f64, bytes: f64, out: &mut ArrayVec<Held, 2>) {
        if self.recent.is_full() {
            self.recent.remove(0);
        }
        self.recent.push((from, bytes));
        match self.recent[..] {
            [first, second] => out.push(Held { from: first.0, until: second.0, bytes: first.1 }),
            [a, b, c] => out.push(Held { from: b.0, until: c.0, bytes: median_of_three(a.1, b.1, c.1) }),
            _ => {}
        }
    }
}

fn median_of_three(a: f64, b: f64, c: f64) -> f64 {
    a.min(b).max(a.max(b).min(c))
}
