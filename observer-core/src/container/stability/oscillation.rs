//! Turning points: a zig-zag that turns only when the signal comes back by more than two bands.

use arrayvec::ArrayVec;

/// An even number of half swings lies between them.
const PIVOTS: usize = 7;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Direction {
    #[default]
    Unknown,
    Up,
    Down,
}

#[derive(Clone, Debug, Default)]
pub struct Swings {
    /// Times of the last turning points.
    pivots: ArrayVec<f64, PIVOTS>,
    direction: Direction,
    /// Highest and lowest since the last turn, with their times.
    high: Option<(f64, f64)>,
    low: Option<(f64, f64)>,
}

impl Swings {
    pub fn add(&mut self, at: f64, bytes: f64, threshold: f64) {
        let high = *self.high.get_or_insert((at, bytes));
        let low = *self.low.get_or_insert((at, bytes));
        if bytes >= high.1 {
            self.high = Some((at, bytes));
        }
        if bytes <= low.1 {
            self.low = Some((at, bytes));
        }
        let (fell, rose) = (high.1 - bytes > threshold, bytes - low.1 > threshold);
        match self.direction {
            Direction::Up | Direction::Unknown if fell => {
                self.turn(high.0, Direction::Down);
                self.low = Some((at, bytes));
            }
            Direction::Down if rose => {
                self.turn(low.0, Direction::Up);
                self.high = Some((at, bytes));
            }
            Direction::Unknown if rose => {
                // The rise from the start is not a swing.
                self.direction = Direction::Up;
                self.high = Some((at, bytes));
            }
            _ => {}
        }
    }

    fn turn(&mut self, at: f64, direction: Direction) {
        if self.pivots.is_full() {
            self.pivots.remove(0);
        }
        self.pivots.push(at);
        self.direction = direction;
    }

    /// Whether the turns go on: three in the later half of the time observed, or four in the last three quarters. One
    /// spike has a single turn, a spike with an undershoot two.
    pub fn repeat(&self, now: f64) -> bool {
        let since = |from: f64| self.pivots.iter().filter(|at| **at >= from).count();
        since(now / 2.0) >= 3 || since(now / 4.0) >= 4
    }

    /// Mean seconds of a full swing; 0 while fewer than three turns are known. Between turns of the same kind: the
    /// halves of a swing may differ, as those of a garbage collector's sawtooth do.
    pub fn period(&self) -> f64 {
        let whole = self.pivots.len().saturating_sub(1) / 2;
        match self.pivots[..] {
            [.., last] if whole > 0 => (last - self.pivots[self.pivots.len() - 1 - 2 * whole]) / whole as f64,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_of_a_sawtooth_is_that_of_its_teeth() {
        let mut swings = Swings::default();
        for second in 0..600 {
            let at = f64::from(second);
            swings.add(at, 100.0 + 5.0 * (at % 20.0), 20.0);
            if swings.pivots.len() > 2 {
                assert_eq!(swings.period(), 20.0, "at {at} s");
            }
        }
        assert!(swings.repeat(600.0));
    }
}
