//! The only place that reads a clock. Sources and the wiring call it; the core gets the time from events.

use rustix::time::{ClockId, clock_gettime};

use observer_core::model::time::Time;

/// Now, on the clock of every event.
pub fn now() -> Time {
    Time::from_nanos(nanos(ClockId::Monotonic))
}

/// Wall clock minus monotonic clock.
pub fn wall_offset_ns() -> i64 {
    (nanos(ClockId::Realtime) as i128 - nanos(ClockId::Monotonic) as i128) as i64
}

pub fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Now, as the API server's objects have it.
pub fn unix_seconds() -> f64 {
    nanos(ClockId::Realtime) as f64 / 1e9
}
