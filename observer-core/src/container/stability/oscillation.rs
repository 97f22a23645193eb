//! Turning points: a zig-zag that turns only when the signal comes back by more than two bands.

use arrayvec::ArrayVec;

const PIVOTS: usize = 8;

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

    /// Mean seconds of a full swing; 0 while fewer than two turns are known.
    pub fn period(&self) -> f64 {
        match self.pivots[..] {
            [first, .., last] => 2.0 * (last - first) / (self.pivots.len() - 1) as f64,
            _ => 0.0,
        }
    }
}
