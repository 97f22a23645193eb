//! The widest window up to now with a range within one band: two monotone queues of maxima and minima.
//!
//! Values closer than an eighth of a band are merged, which bounds each queue by the number of such steps in the
//! window's range (two bands wide: 16, one more at either end).

use arrayvec::ArrayVec;

use crate::container::stability::band;

/// Sixteen steps, both ends, and slack for levels that shrink the band while the window is open.
const CAPACITY: usize = 24;

type Queue = ArrayVec<(f64, f64), CAPACITY>;

#[derive(Clone, Debug, Default)]
pub struct Extremes {
    maxima: Queue,
    /// Negated minima, so that both queues are of maxima.
    minima: Queue,
    window: f64,
}

impl Extremes {
    /// Empty, with a window that starts at `window`.
    pub fn restarted(window: f64) -> Self {
        Self { window, ..Self::default() }
    }

    /// Takes a value that held until `until`. Returns the window's new start if it moved.
    pub fn push(&mut self, until: f64, bytes: f64) -> Option<f64> {
        let step = band(bytes) / 8.0;
        let crowded_out =
            [insert(&mut self.maxima, until, bytes, step), insert(&mut self.minima, until, -bytes, step)];
        let mut moved = crowded_out.into_iter().flatten().reduce(f64::max);
        while let (Some(&(high_at, high)), Some(&(low_at, low))) = (self.maxima.first(), self.minima.first())
        {
            if high + low <= 2.0 * band(0.5 * (high - low)) {
                break;
            }
            let oldest = if high_at < low_at { &mut self.maxima } else { &mut self.minima };
            moved = Some(oldest.remove(0).0);
        }
        if let Some(at) = moved {
            self.window = at;
        }
        moved
    }

    /// Start of the window, seconds.
    pub fn window(&self) -> f64 {
        self.window
    }

    /// Since when the signal has been within `half` of `level`.
    pub fn inside_since(&self, level: f64, half: f64) -> f64 {
        let above = self.maxima.iter().filter(|(_, high)| *high > level + half);
        let below = self.minima.iter().filter(|(_, low)| -low < level - half);
        above.chain(below).fold(self.window, |latest, (at, _)| latest.max(*at))
    }
}

/// Returns the time of an entry that had to go for lack of room.
fn insert(queue: &mut Queue, at: f64, value: f64, step: f64) -> Option<f64> {
    let mut keep = value;
    while let Some(&(_, last)) = queue.last()
        && last <= value + step
    {
        keep = keep.max(last);
        queue.pop();
    }
    let dropped = queue.is_full().then(|| queue.remove(0).0);
    queue.push((at, keep));
    dropped
}
