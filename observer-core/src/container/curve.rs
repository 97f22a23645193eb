//! A curve in a fixed size: the highest value of each of N equal spans of time; when the spans run out, they double.
//!
//! A value holds until the next one, so a span never shows less than was held in it: a peak is never lost, a fall is
//! seen at most one span late. Knows nothing of containers or clocks.

use arrayvec::ArrayVec;
use serde::{Serialize, Serializer};

/// Width of the first spans, seconds: finer than any start-up that matters to a scheduler.
const FIRST_WIDTH: f64 = 0.05;

#[derive(Clone, Debug)]
pub struct Curve<const N: usize> {
    width: f64,
    highest: ArrayVec<f32, N>,
    held: f32,
}

impl<const N: usize> Default for Curve<N> {
    fn default() -> Self {
        Self { width: FIRST_WIDTH, highest: ArrayVec::new(), held: 0.0 }
    }
}

impl<const N: usize> Curve<N> {
    /// `value` holds from `seconds` on. Times are not negative and do not decrease.
    pub fn push(&mut self, seconds: f64, value: f64) {
        while seconds >= self.width * N as f64 {
            self.double();
        }
        let span = (seconds / self.width) as usize;
        while self.highest.len() <= span.min(N - 1) {
            self.highest.push(self.held);
        }
        self.held = value as f32;
        if let Some(last) = self.highest.last_mut() {
            *last = last.max(self.held);
        }
    }

    /// Width of a span, seconds.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// The highest value of each span, from zero on.
    pub fn highest(&self) -> &[f32] {
        &self.highest
    }

    fn double(&mut self) {
        let pairs: ArrayVec<f32, N> =
            self.highest.chunks(2).map(|pair| pair.iter().copied().fold(0.0, f32::max)).collect();
        self.highest = pairs;
        self.width *= 2.0;
    }
}

/// As pairs of seconds and value.
impl<const N: usize> Serialize for Curve<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = self.highest.iter().enumerate().map(|(i, value)| (i as f64 * self.width, *value as u64));
        serializer.collect_seq(pairs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_peak_is_never_lost_and_the_size_never_grows(
            steps in proptest::collection::vec((0.0..30.0_f64, 0.0..1e10_f64), 1..400)
        ) {
            let mut curve = Curve::<16>::default();
            let (mut now, mut peak) = (0.0, 0.0_f64);
            for (step, value) in steps {
                now += step;
                peak = peak.max(value);
                curve.push(now, value);
            }
            let highest = curve.highest().iter().copied().fold(0.0, f32::max);
            prop_assert_eq!(highest, peak as f32);
            prop_assert!(curve.width() * 16.0 > now);
            prop_assert_eq!(curve.highest().len(), (now / curve.width()) as usize + 1);
        }
    }

    #[test]
    fn a_value_is_held_over_spans_without_a_sample() {
        let mut curve = Curve::<16>::default();
        curve.push(0.0, 5.0);
        curve.push(0.32, 1.0);
        assert_eq!(curve.highest(), [5.0; 7]);
        curve.push(0.40, 1.0);
        assert_eq!(curve.highest(), [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0, 1.0]);
    }
}
