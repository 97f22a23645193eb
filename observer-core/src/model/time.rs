//! Time as data: nanoseconds of CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`. The core reads no clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on the host's monotonic clock, in nanoseconds since boot (suspend not counted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Zero if `earlier` is in fact later: records of different CPUs may arrive slightly out of order.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since `earlier`; negative if it is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 as i128 - earlier.0 as i128) as f64 / 1e9
    }

    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_nanos() as u64))
    }

    /// Since boot.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Unix time in seconds, given the wall clock's distance from this clock.
    pub fn unix_seconds(self, wall_offset_ns: i64) -> f64 {
        (self.0 as i128 + wall_offset_ns as i128) as f64 / 1e9
    }
}
