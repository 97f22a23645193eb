//! How long memory was how high: a histogram of time over levels, of any length in a small size. Pure.
//!
//! A quantile of it is off by at most one bucket, 2 %. Time counts half after seven days, so that a release of last month
//! does not size the one of today.

use serde::{Deserialize, Serialize};

/// Upper bound of a bucket over its lower bound.
const RATIO: f64 = 1.02;
/// Below this a level is told as this: nobody sizes a container by less.
const LEAST: f64 = (1 << 20) as f64;
const HALF_LIFE: f64 = 7.0 * 86400.0;
/// Buckets at the most: 1 MiB to 20 TiB.
const BUCKETS: u16 = 850;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Levels {
    /// Bucket and seconds in it, halved every seven days; in order.
    seconds: Vec<(u16, f64)>,
    /// Unix time of the last look.
    until: f64,
    /// Unix time until which time has been halved.
    halved: f64,
}

impl Levels {
    /// Memory was at `bytes` for `seconds` until `now` (Unix seconds).
    pub fn add(&mut self, bytes: u64, seconds: f64, now: f64) {
        if !(seconds > 0.0 && seconds.is_finite() && now.is_finite()) {
            return;
        }
        if self.seconds.is_empty() {
            self.halved = now;
        }
        self.until = self.until.max(now);
        while self.until - self.halved >= HALF_LIFE {
            self.halved += HALF_LIFE;
            self.seconds.iter_mut().for_each(|(_, seconds)| *seconds /= 2.0);
        }
        let bucket = ((bytes as f64 / LEAST).max(1.0).ln() / RATIO.ln()).ceil().min(f64::from(BUCKETS));
        let bucket = bucket as u16;
        match self.seconds.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(at) => self.seconds[at].1 += seconds,
            Err(at) => self.seconds.insert(at, (bucket, seconds)),
        }
    }

    /// The level that memory stayed at or below for this share of the time: an upper bound, within 2 %.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let total = self.seconds();
        let mut below = 0.0;
        for (bucket, seconds) in &self.seconds {
            below += seconds;
            if below >= q * total {
                return Some((LEAST * RATIO.powi(i32::from(*bucket))) as u64);
            }
        }
        None
    }

    /// Container time in it, weighted by age. Seconds.
    pub fn seconds(&self) -> f64 {
        self.seconds.iter().map(|(_, seconds)| seconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_quantile_is_of_time_not_of_looks() {
        let mut levels = Levels::default();
        for look in 0..1000 {
            levels.add(500 * MIB, 0.01, f64::from(look)); // a hundred looks a second at a short peak
        }
        levels.add(100 * MIB, 990.0, 2000.0);
        let p95 = levels.quantile(0.95).unwrap();
        assert!((100 * MIB..=102 * MIB).contains(&p95), "{p95}");
        assert!(levels.quantile(1.0).unwrap() >= 500 * MIB);
    }

    #[test]
    fn what_is_old_counts_less_and_nothing_absurd_counts() {
        let mut levels = Levels::default();
        levels.add(800 * MIB, 3600.0, 0.0);
        levels.add(100 * MIB, 3600.0, 40.0 * 86400.0);
        assert!(levels.quantile(0.95).unwrap() < 110 * MIB);
        levels.add(u64::MAX, f64::NAN, 0.0);
        levels.add(7, -1.0, 0.0);
        assert!(levels.quantile(1.0).unwrap() < 820 * MIB);
        assert_eq!(Levels::default().quantile(0.5), None);
    }
}
