//! How long memory was how high: a histogram of time over levels, of any length in a small size. Pure.
//!
//! A quantile of it is off by at most one bucket, 2 %. Time counts half after seven days, so that a release of last
//! month does not size the one of today.

use serde::{Deserialize, Serialize};

use crate::model::bounded;

/// Upper bound of a bucket over its lower bound.
const RATIO: f64 = 1.02;
/// Lower levels are recorded as this: no container is sized by less.
const LEAST: f64 = (1 << 20) as f64;
const HALF_LIFE: f64 = 7.0 * 86400.0;
/// Buckets at the most: 1 MiB to 20 TiB.
const BUCKETS: u16 = 850;
/// Buckets with time in them that are kept: the highest is a hundred times the lowest. Below them lower ones count as
/// the lowest.
const KEPT: usize = 256;
/// Beyond this many half-lives nothing is left of a second.
const FADED: f64 = 64.0;
/// No container time or Unix time is longer: 30,000 years. Seconds.
const LONGEST: f64 = 1e12;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Levels {
    /// Bucket and seconds in it, halved every seven days; in order.
    #[serde(deserialize_with = "bounded::first::<_, _, { BUCKETS as usize + 2 }>")]
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
        let halvings = ((self.until - self.halved) / HALF_LIFE).floor();
        if halvings >= FADED {
            self.seconds.clear();
            self.halved = self.until;
        } else if halvings >= 1.0 {
            self.halved += halvings * HALF_LIFE;
            let left = 0.5f64.powi(halvings as i32);
            self.seconds.iter_mut().for_each(|(_, seconds)| *seconds *= left);
        }
        let bucket = ((bytes as f64 / LEAST).max(1.0).ln() / RATIO.ln()).ceil().min(f64::from(BUCKETS));
        let bucket = bucket as u16;
        match self.seconds.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(at) => self.seconds[at].1 += seconds,
            Err(at) => self.seconds.insert(at, (bucket, seconds)),
        }
        self.trim();
    }

    /// Joins the lowest until few enough are left: what they held then counts as higher than it was, never as lower.
    fn trim(&mut self) {
        let Some(beyond) = self.seconds.len().checked_sub(KEPT) else { return };
        let joined: f64 = self.seconds.drain(..beyond).map(|(_, seconds)| seconds).sum();
        self.seconds[0].1 += joined;
    }

    /// What comes from a file may be anything: `None` unless `add` can have made it.
    pub fn checked(mut self) -> Option<Self> {
        let time = |seconds: f64| (0.0..=LONGEST).contains(&seconds);
        let ordered = self.seconds.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let held = self.seconds.iter().all(|(bucket, seconds)| *bucket <= BUCKETS && time(*seconds));
        let looks = time(self.halved) && time(self.until) && self.halved <= self.until;
        (ordered && held && looks).then(|| {
            self.trim();
            self
        })
    }

    /// Unix time of the last look.
    pub fn until(&self) -> f64 {
        self.until
    }

    /// Memory it takes, bytes.
    pub fn size(&self) -> usize {
        self.seconds.len() * size_of::<(u16, f64)>()
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

    #[test]
    fn any_time_is_taken_at_once_and_the_buckets_are_bounded() {
        let mut levels = Levels::default();
        levels.add(MIB, 1.0, 1e9);
        levels.add(MIB, 1.0, 1e300);
        assert_eq!(levels.seconds(), 1.0);
        let mut wide = Levels::default();
        for bucket in 0..BUCKETS {
            wide.add((LEAST * RATIO.powi(i32::from(bucket))) as u64, 1.0, 1e9);
        }
        assert_eq!((wide.seconds.len(), wide.seconds() as u16), (KEPT, BUCKETS));
        assert_eq!(wide.clone().checked(), Some(wide));
    }

    #[test]
    fn what_no_look_can_have_made_is_refused() {
        let refused = |text: &str| serde_json::from_str::<Levels>(text).unwrap().checked().is_none();
        assert!(refused(r#"{"seconds":[[9,1.0],[3,1.0]],"until":9,"halved":9}"#));
        assert!(refused(r#"{"seconds":[[65535,1.0]],"until":9,"halved":9}"#));
        assert!(refused(r#"{"seconds":[[9,-1.0]],"until":9,"halved":9}"#));
        assert!(refused(r#"{"seconds":[],"until":1e300,"halved":0}"#));
        assert!(refused(r#"{"seconds":[],"until":9,"halved":-1e300}"#));
        assert!(!refused(r#"{"seconds":[[3,1.0],[9,1.0]],"until":9,"halved":9}"#));
    }
}
