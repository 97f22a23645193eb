//! Whether memory is on its way to a level, and when it will be there, from its last highs alone. Pure, fixed size.
//!
//! What counts is the highest level so far, of the last five to ten minutes: collections and releases between two highs
//! are no news, and a swing that comes back to the same height goes nowhere. Growth over a span of time that also grew
//! over the span before it goes on: as fast where both are equal, faster where it accelerated; where it slows down, all
//! that is still to come may be less than what is missing. Spans of 1 s to 17 min are looked at; each predicts a
//! sixteenth of its own length ahead, the short ones [`NEAR_SECONDS`].

/// Spans looked at: 1 s, 2 s, 4 s, ...
const SPANS: usize = 11;
/// Levels kept of each, a quarter of the span apart: this span and the one before it, and now.
const LEVELS: usize = 8;
const QUARTERS: f64 = 4.0;
/// Approaches of a few seconds are as near as this when they can be told from a jump. Seconds.
const NEAR_SECONDS: f64 = 2.4;
/// How far ahead a trend is believed, in its own lengths.
const BELIEVED: f64 = 0.06;
/// And never further than this share of the time that was seen: what grew for a second is a jump.
const OF_SEEN: f64 = 0.75;
/// Growth that is not noise: this share of the level, and this much. Bytes.
const NOISE: f64 = 0.01;
const NOISE_BYTES: f64 = 1048576.0;
/// One jump is no trend: the span before, and three of the four halves of both, grew by at least this share.
const PERSISTS: f64 = 0.3;
/// Faster than this from span to span is a jump that has not ended.
const FASTEST: f64 = 1.2;
/// Highs older than this are forgotten at the latest after twice as long. Seconds.
const FORGETS: f64 = 300.0;

#[derive(Clone, Debug, Default)]
pub struct Trend {
    first: Option<f64>,
    now: f64,
    /// Of this while and the one before it.
    highs: [f32; 2],
    since: f64,
    spans: [Levels; SPANS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Levels {
    /// The latest boundary, in quarters of the span.
    at: u64,
    /// The highest level at the latest boundaries, newest first.
    levels: [f32; LEVELS],
}

/// Bytes.
struct Growth {
    latest: f64,
    earlier: f64,
    /// Most of it is not one jump.
    steady: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    pub in_seconds: f64,
    /// The span of time in which it was seen, seconds.
    pub span: f64,
    /// How alike both halves of the trend are, 0 to 1.
    pub steadiness: f64,
}

impl Trend {
    /// `bytes` is held from `seconds` on; times do not decrease.
    pub fn push(&mut self, seconds: f64, bytes: u64) {
        let level = bytes as f32;
        if self.first.is_none() {
            self.first = Some(seconds);
            (self.since, self.highs) = (seconds, [level; 2]);
            for (i, span) in self.spans.iter_mut().enumerate() {
                *span = Levels { at: (seconds / quarter(i)) as u64, levels: [level; LEVELS] };
            }
        }
        if seconds < self.now {
            return;
        }
        let before = self.high();
        for (i, span) in self.spans.iter_mut().enumerate() {
            let at = (seconds / quarter(i)) as u64;
            for _ in 0..at.saturating_sub(span.at).min(LEVELS as u64) {
                span.levels.rotate_right(1);
                span.levels[0] = before;
            }
            span.at = at;
        }
        self.now = seconds;
        if seconds - self.since >= FORGETS {
            (self.since, self.highs) = (seconds, [level, self.highs[0]]);
        }
        self.highs[0] = self.highs[0].max(level);
    }

    /// When it will be at `limit`, if it goes on as it does.
    pub fn reaches(&self, limit: u64) -> Option<Reach> {
        let seen = self.now - self.first?;
        let high = f64::from(self.high());
        let missing = limit as f64 - high;
        if missing <= 0.0 {
            return None; // it is met
        }
        (0..SPANS).find_map(|i| {
            let span = quarter(i) * QUARTERS;
            if seen < 2.0 * span {
                return None;
            }
            let Growth { latest, earlier, steady } = self.growth(i);
            if !steady || latest < NOISE_BYTES.max(high * NOISE) || earlier < latest * PERSISTS {
                return None;
            }
            let ratio = (latest / earlier).min(FASTEST);
            let in_seconds = span * spans_until(missing / latest, ratio)?;
            let believed = in_seconds <= NEAR_SECONDS.max(span * BELIEVED).min(seen * OF_SEEN);
            believed.then_some(Reach { in_seconds, span, steadiness: ratio.min(1.0 / ratio).clamp(0.0, 1.0) })
        })
    }

    fn high(&self) -> f32 {
        self.highs[0].max(self.highs[1])
    }

    /// Of the highs, in the latest span and the one before it.
    fn growth(&self, i: usize) -> Growth {
        let Levels { at, levels } = &self.spans[i];
        let level = |quarter: usize| f64::from(levels[quarter]);
        let since_boundary = self.now / quarter(i) - *at as f64;
        // Halves of a span. The newest ends now, and is a quarter and what has passed of the next one.
        let newest = (f64::from(self.high()) - level(1)) / (1.0 + since_boundary.clamp(0.0, 1.0)) * 2.0;
        let halves = [newest, level(1) - level(3), level(3) - level(5), level(5) - level(7)];
        let [latest, earlier] = [halves[0] + halves[1], halves[2] + halves[3]];
        let mean = (latest + earlier) / 4.0;
        let grew = halves.iter().filter(|half| **half >= mean * PERSISTS).count();
        Growth { latest, earlier, steady: grew >= 3 }
    }
}

/// Seconds of a quarter of the span.
fn quarter(i: usize) -> f64 {
    f64::from(1_u32 << i) / QUARTERS
}

/// How many spans it takes to grow by `missing` times the growth of the last one, where each grows `ratio` times as
/// much as the one before. `None`: it will never.
fn spans_until(missing: f64, ratio: f64) -> Option<f64> {
    if (ratio - 1.0).abs() < 0.02 {
        return Some(missing);
    }
    // ratio + ratio^2 + ... + ratio^n = missing
    let power = 1.0 + missing * (ratio - 1.0) / ratio;
    (power > 0.0).then(|| power.ln() / ratio.ln())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: f64 = 1048576.0;

    /// When it is foreseen first to be at 100 MiB, and in how many seconds then.
    fn foreseen(level: impl Fn(f64) -> f64, seconds: f64) -> Option<(f64, f64)> {
        let mut trend = Trend::default();
        let mut at = 0.0;
        while at < seconds {
            trend.push(at, (level(at) * MIB) as u64);
            if let Some(reach) = trend.reaches((100.0 * MIB) as u64) {
                return Some((at, reach.in_seconds));
            }
            at += 0.1;
        }
        None
    }

    #[test]
    fn what_grows_on_is_foreseen_and_what_comes_to_rest_is_not() {
        let (at, in_seconds) = foreseen(|t| 10.0 * t, 10.0).unwrap();
        assert!((at + in_seconds - 10.0).abs() < 1.0 && in_seconds > 2.0, "{at} {in_seconds}");
        let (at, in_seconds) = foreseen(|t| 0.1 * t, 1000.0).unwrap();
        assert!((at + in_seconds - 1000.0).abs() < 30.0 && in_seconds > 10.0, "{at} {in_seconds}");
        let (at, in_seconds) = foreseen(|t| (t / 10.0).powi(3) * 12.5, 20.0).unwrap();
        assert!((at + in_seconds - 20.0).abs() < 1.0, "{at} {in_seconds}");
        assert_eq!(foreseen(|t| 90.0 * (1.0 - (-t / 8.0).exp()), 300.0), None, "it slows down");
        assert_eq!(foreseen(|t| if t < 5.0 { 10.0 } else { 80.0 }, 300.0), None, "one jump");
        assert_eq!(foreseen(|t| 40.0 + 35.0 * (t % 7.0) / 7.0, 900.0), None, "a swing");
        assert_eq!(foreseen(|_| 99.0, 900.0), None, "near and at rest");
        assert!(foreseen(|t| (t / 5.0).floor() * 8.0, 70.0).is_some_and(|(at, _)| at < 63.0), "in steps");
        assert!(foreseen(|t| 20.0 + t * 0.5 + 20.0 * (t % 6.0) / 6.0, 120.0).is_some(), "a floor that rises");
    }

    #[test]
    fn its_size_is_fixed() {
        assert!(size_of::<Trend>() <= 600, "{} bytes", size_of::<Trend>());
    }

    proptest! {
        #[test]
        fn any_course_has_a_finite_answer(
            steps in proptest::collection::vec((0.0..400.0_f64, 0_u64..1 << 50), 1..200),
            limit in 0_u64..1 << 50,
        ) {
            let (mut trend, mut now) = (Trend::default(), 0.0);
            for (step, bytes) in steps {
                now += step;
                trend.push(now, bytes);
                if let Some(reach) = trend.reaches(limit) {
                    prop_assert!(reach.in_seconds >= 0.0 && reach.in_seconds < 1e4);
                    prop_assert!((0.0..=1.0).contains(&reach.steadiness));
                }
            }
        }
    }
}
