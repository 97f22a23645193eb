//! Level and slope of the window: 32 buckets; their width doubles when they run out.

use arrayvec::ArrayVec;

use crate::container::stability::{
    Held,
    theil_sen::{self, Slope},
};

const BUCKETS: usize = theil_sen::POINTS;
/// Width of the first buckets, seconds: five filtered values.
const FIRST_WIDTH: f64 = 0.5;
/// Fewer points have no slope worth a name.
const MIN_POINTS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    from: f64,
    seconds: f64,
    mean: f64,
}

#[derive(Clone, Debug)]
pub struct Ring {
    buckets: ArrayVec<Bucket, BUCKETS>,
    width: f64,
}

impl Default for Ring {
    fn default() -> Self {
        Self { buckets: ArrayVec::new(), width: FIRST_WIDTH }
    }
}

impl Ring {
    /// Returns whether a bucket was completed: the time to judge again.
    pub fn add(&mut self, held: Held) -> bool {
        let seconds = held.until - held.from;
        if let Some(last) = self.buckets.last_mut()
            && held.from < last.from + self.width
        {
            let total = last.seconds + seconds;
            if total > 0.0 {
                last.mean = (last.mean * last.seconds + held.bytes * seconds) / total;
            }
            last.seconds = total;
            return false;
        }
        if self.buckets.is_full() {
            self.halve();
        }
        self.buckets.push(Bucket { from: held.from, seconds, mean: held.bytes });
        true
    }

    /// The window starts at `at` now.
    pub fn forget_before(&mut self, at: f64) {
        match self.buckets.last() {
            Some(last) if at > last.from => *self = Self::default(),
            _ => self.buckets.retain(|bucket| bucket.from + bucket.seconds > at),
        }
    }

    /// Time-weighted mean of the window's later half.
    pub fn level(&self) -> Option<f64> {
        let (sum, seconds) = self
            .later_half()
            .iter()
            .fold((0.0, 0.0), |(sum, seconds), b| (sum + b.mean * b.seconds, seconds + b.seconds));
        (seconds > 0.0).then(|| sum / seconds)
    }

    pub fn slope(&self) -> Option<Slope> {
        let half = self.later_half();
        if half.len() < MIN_POINTS {
            return None;
        }
        let points: ArrayVec<(f64, f64), BUCKETS> =
            half.iter().map(|b| (b.from + b.seconds / 2.0, b.mean)).collect();
        Some(theil_sen::of(&points))
    }

    fn later_half(&self) -> &[Bucket] {
        let (Some(first), Some(last)) = (self.buckets.first(), self.buckets.last()) else { return &[] };
        let middle = first.from + (last.from + last.seconds - first.from) / 2.0;
        let half = self.buckets.partition_point(|bucket| bucket.from < middle - 1e-9);
        &self.buckets[half.min(self.buckets.len().saturating_sub(MIN_POINTS))..]
    }

    fn halve(&mut self) {
        self.width *= 2.0;
        let mut merged: ArrayVec<Bucket, BUCKETS> = ArrayVec::new();
        for bucket in self.buckets.drain(..) {
            match merged.last_mut() {
                Some(last) if bucket.from < last.from + self.width => {
                    let total = last.seconds + bucket.seconds;
                    if total > 0.0 {
                        last.mean = (last.mean * last.seconds + bucket.mean * bucket.seconds) / total;
                    }
                    last.seconds = total;
                }
                _ => merged.push(bucket),
            }
        }
        // Irregular samples may leave nothing to merge: then the oldest goes.
        if merged.is_full() {
            merged.remove(0);
        }
        self.buckets = merged;
    }
}
