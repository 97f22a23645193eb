//! Slow drift and the envelope of a swing: buckets since start, six to an octave of time.
//!
//! A leak shows as a floor that rises monotonically over the last two octaves without slowing down. Warm-up also rises,
//! but slower and slower; a garbage collector's sawtooth rises, but its floor does not.

use arrayvec::ArrayVec;

use crate::container::stability::{Held, band, theil_sen};

const FIRST_END: f64 = 0.5;
const PER_OCTAVE: f64 = 6.0;
/// 0.5 s to 1,024 s; later the oldest two are merged.
const BUCKETS: usize = 66;
/// Two octaves.
const RECENT: usize = 12;
const MIN_BUCKETS: usize = 8;
/// Mann-Kendall Z of a trend at 1 %, one-sided: a leak is a serious accusation.
const TREND_Z: f64 = 2.33;
/// A later half that rises half as fast as the earlier one is slowing down.
const DECELERATION: f64 = 0.5;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    from: f32,
    seconds: f32,
    mean: f32,
    low: f32,
    high: f32,
}

impl Bucket {
    fn mean_at(&self) -> (f64, f64) {
        (f64::from(self.from + self.seconds / 2.0), f64::from(self.mean))
    }

    /// A floor that rises is lowest where the bucket begins. In its middle it would rise too slowly: later buckets are
    /// wider.
    fn low_at(&self) -> (f64, f64) {
        (f64::from(self.from), f64::from(self.low))
    }

    fn absorb(&mut self, seconds: f32, mean: f32, low: f32, high: f32) {
        let total = self.seconds + seconds;
        if total > 0.0 {
            self.mean = (self.mean * self.seconds + mean * seconds) / total;
        }
        self.seconds = total;
        self.low = self.low.min(low);
        self.high = self.high.max(high);
    }
}

#[derive(Clone, Debug)]
pub struct Octaves {
    buckets: ArrayVec<Bucket, BUCKETS>,
    end: f64,
}

impl Default for Octaves {
    fn default() -> Self {
        Self { buckets: ArrayVec::new(), end: FIRST_END }
    }
}

impl Octaves {
    pub fn add(&mut self, held: Held) {
        let (seconds, bytes) = ((held.until - held.from) as f32, held.bytes as f32);
        if held.from < self.end
            && let Some(last) = self.buckets.last_mut()
        {
            last.absorb(seconds, bytes, bytes, bytes);
            return;
        }
        let ratio = (1.0 / PER_OCTAVE).exp2();
        while held.from >= self.end {
            self.end *= ratio;
        }
        if self.buckets.is_full() {
            let next = self.buckets.remove(1);
            self.buckets[0].absorb(next.seconds, next.mean, next.low, next.high);
        }
        self.buckets.push(Bucket { from: held.from as f32, seconds, mean: bytes, low: bytes, high: bytes });
    }

    /// Growth of the floor over half the time observed, in bytes, if it is a drift. A fall is none: memory that
    /// is given back is no leak, however slowly.
    pub fn drift(&self, now: f64) -> Option<f64> {
        let recent = self.recent(now);
        if recent.len() < MIN_BUCKETS {
            return None;
        }
        let floor = slope_of(recent, Bucket::low_at);
        let mean = slope_of(recent, Bucket::mean_at);
        let (earlier, later) = recent.split_at(recent.len() / 2);
        let (earlier, later) = (slope_of(earlier, Bucket::low_at).rate, slope_of(later, Bucket::low_at).rate);
        let continues = if earlier != 0.0 { later / earlier } else { 1.0 };
        let growth = floor.rate * now / 2.0;
        let level = f64::from(recent.last()?.mean);
        (floor.trend_z > TREND_Z && mean.trend_z > 0.0 && growth > band(level) && continues > DECELERATION)
            .then_some(growth)
    }

    /// Bytes per second of the floor.
    pub fn floor_rate(&self, now: f64) -> Option<f64> {
        let recent = self.recent(now);
        (recent.len() >= MIN_BUCKETS).then(|| slope_of(recent, Bucket::low_at).rate)
    }

    /// Lowest and highest value of the later half of the time observed, and since when the signal stays between them.
    pub fn envelope(&self, now: f64) -> Option<(f64, f64, f64)> {
        let half = self.buckets.partition_point(|b| f64::from(b.from) < now / 2.0);
        let later = &self.buckets[half.min(self.buckets.len().saturating_sub(2))..];
        let low = f64::from(later.iter().map(|b| b.low).reduce(f32::min)?);
        let high = f64::from(later.iter().map(|b| b.high).reduce(f32::max)?);
        let slack = band(0.5 * (low + high));
        let since = self
            .buckets
            .iter()
            .rev()
            .find(|b| f64::from(b.low) < low - slack || f64::from(b.high) > high + slack)
            .map_or(0.0, |b| f64::from(b.from + b.seconds));
        Some((low, high, since))
    }

    /// The complete buckets of the last two octaves.
    fn recent(&self, now: f64) -> &[Bucket] {
        let complete = &self.buckets[..self.buckets.len().saturating_sub(1)];
        let complete = &complete[complete.len().saturating_sub(RECENT)..];
        &complete[complete.partition_point(|b| f64::from(b.from) < now / 4.0)..]
    }
}

fn slope_of(buckets: &[Bucket], point: impl Fn(&Bucket) -> (f64, f64)) -> theil_sen::Slope {
    let points: ArrayVec<(f64, f64), RECENT> = buckets.iter().map(point).collect();
    theil_sen::of(&points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_leak_is_what_it_leaks() {
        const RATE: f64 = 209_715.0; // 0.2 MiB a second
        for spacing in [0.1, 1.0] {
            let mut octaves = Octaves::default();
            for sample in 0..(1200.0 / spacing) as u32 {
                let from = f64::from(sample) * spacing;
                octaves.add(Held { from, until: from + spacing, bytes: 1e8 + RATE * from });
            }
            let rate = octaves.floor_rate(1200.0).unwrap();
            assert!((rate / RATE - 1.0).abs() < 0.01, "{rate} every {spacing} s");
            assert!(octaves.drift(1200.0).is_some());
        }
    }
}
