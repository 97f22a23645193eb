//! A limit that a container will meet: to what it is raised, once. Pure.

use crate::loan::{MIB, need::LEAST};

/// Share of what the node has left that one raise may use: others grow meanwhile.
const OF_ROOM: u64 = 2;

/// The limit to set, in bytes: higher by `share` of itself, or by [`LEAST`] where that is more, as far as the node has
/// `room` and its namespace's rules allow (`highest`). `None`: too little of that is possible.
pub fn raised(limit: u64, share: f64, room: u64, highest: Option<u64>) -> Option<u64> {
    let wanted = ((limit as f64 * share) as u64).max(LEAST).min(room / OF_ROOM);
    let to = limit.saturating_add(wanted).min(highest.unwrap_or(u64::MAX)) / MIB * MIB;
    // Of what is rounded down to whole mebibytes the least may be short.
    (to >= limit.saturating_add(LEAST - MIB)).then_some(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn how_far_a_limit_is_raised() {
        let mib = |bytes: u64| bytes * MIB;
        for (limit, room, highest, expected) in [
            (mib(200), mib(1000), None, Some(mib(250))),
            (mib(16), mib(1000), None, Some(mib(24))),
            (mib(200), mib(60), None, Some(mib(230))),
            (mib(200), mib(10), None, None),
            (mib(200), mib(1000), Some(mib(220)), Some(mib(220))),
            (mib(200), mib(1000), Some(mib(200)), None),
            (mib(200), mib(1000), Some(mib(100)), None),
            (200_000_000, mib(1000), None, Some(mib(238))),
        ] {
            assert_eq!(raised(limit, 0.25, room, highest), expected, "{limit} {room} {highest:?}");
        }
    }

    proptest! {
        #[test]
        fn a_raise_is_within_every_bound(
            limit in 1..u64::MAX / 4, share in 0.01..1.0f64, room in 0..u64::MAX / 4,
            highest in proptest::option::of(0..u64::MAX / 4)
        ) {
            if let Some(to) = raised(limit, share, room, highest) {
                prop_assert!(to > limit);
                prop_assert!(to - limit <= room / 2);
                prop_assert!(to - limit <= LEAST.max((limit as f64 * share) as u64));
                prop_assert!(highest.is_none_or(|highest| to <= highest));
                prop_assert_eq!(to % MIB, 0);
            }
        }
    }
}
