//! How much of the observer's own memory the histories may take. Pure.

use std::time::Duration;

use crate::{
    history::{BYTES, Histories},
    model::{event::Room, time::Time},
};

/// Of the limit, at the most; a node's limit is mostly larger than sixteen times [`BYTES`].
const SHARE: u64 = 16;
/// Above this much of the limit, histories make room; below that much they may take more again. Percent.
const SHORT: u64 = 85;
const AMPLE: u64 = 60;
/// What was dropped shows in the next reading but one.
const PAUSE: Duration = Duration::from_secs(2);
/// Given back in one step.
const STEP: usize = BYTES / 32;

#[derive(Debug, Default)]
pub struct Budget {
    changed: Option<Time>,
}

impl Budget {
    /// Makes the least useful of what is remembered leave while memory is short.
    pub fn follow(&mut self, at: Time, room: Room, histories: &mut Histories) {
        let most = usize::try_from(room.limit / SHARE).unwrap_or(usize::MAX).min(BYTES);
        if self.changed.is_some_and(|changed| at.since(changed) < PAUSE) {
            return;
        }
        let percent = room.taken.saturating_mul(100) / room.limit.max(1);
        let bound = match percent {
            SHORT.. => histories.size() - histories.size().div_ceil(4),
            ..AMPLE => histories.bound().saturating_add(STEP),
            _ => histories.bound(),
        };
        let bound = bound.min(most);
        if bound != histories.bound() {
            self.changed = Some(at);
            histories.keep_to(bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{container::Workload, past_startup::PastStartup};

    fn histories(workloads: usize) -> Histories {
        let mut histories = Histories::default();
        let past: PastStartup = serde_json::from_str(
            r#"{"started":1.0,"outcome":"stable","peak":7,"peak_seconds":0.5,"span":0.05,"curve":[1,7]}"#,
        )
        .unwrap();
        for i in 0..workloads {
            let workload = Workload { workload: format!("w{i}"), ..Workload::default() };
            histories.remember(&workload, PastStartup { started: i as f64, ..past.clone() });
        }
        histories
    }

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn histories_leave_while_memory_is_short_and_may_come_back_when_it_is_not() {
        let (mut budget, mut histories) = (Budget::default(), histories(500));
        let room = |percent: u64| Room { limit: 64 << 20, taken: (64 << 20) / 100 * percent };
        let before = histories.size();
        budget.follow(at(0), room(70), &mut histories);
        assert_eq!((histories.size(), histories.dropped().workloads), (before, 0));
        budget.follow(at(10), room(90), &mut histories);
        assert!(histories.size() <= before * 3 / 4 && histories.dropped().workloads > 0);
        let less = histories.size();
        budget.follow(at(11), room(90), &mut histories);
        assert_eq!(histories.size(), less, "what was dropped is not in the reading yet");
        for seconds in 12..100 {
            budget.follow(at(seconds), room(99), &mut histories);
        }
        assert!(histories.size() < before / 100, "{}", histories.size());
        for seconds in 100..300 {
            budget.follow(at(seconds), room(10), &mut histories);
        }
        assert_eq!(histories.bound(), BYTES);
    }

    #[test]
    fn a_small_limit_leaves_a_small_share() {
        let (mut budget, mut histories) = (Budget::default(), histories(1000));
        budget.follow(at(0), Room { limit: 1 << 20, taken: 0 }, &mut histories);
        assert!(histories.size() <= (1 << 20) / 16);
        budget.follow(at(0), Room { limit: 0, taken: 5 }, &mut histories);
    }
}
