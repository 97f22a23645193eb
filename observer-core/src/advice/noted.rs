//! What is noted of a workload for its advice, beside what is remembered of its start-ups.

use crate::model::{
    advice::{Advice, Changes, Current, Kills},
    time::Time,
};

/// Of a workload, since the observer started.
#[derive(Debug, Default)]
pub struct Noted {
    pub kills: Kills,
    pub changes: Changes,
    pub ready_early: (u64, u64),
    /// What is set today, as last seen.
    pub current: Current,
    pub reported: Option<Advice>,
    pub touched: Time,
}

impl Noted {
    /// It was noted under another name, for want of the right one.
    pub fn merge(&mut self, before: Self) {
        self.kills += before.kills;
        self.changes += before.changes;
        self.ready_early.0 += before.ready_early.0;
        self.ready_early.1 += before.ready_early.1;
        self.current.limit = self.current.limit.or(before.current.limit);
    }
}
