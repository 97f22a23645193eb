//! Start-ups that overlap on a node and together consume its headroom. Pure.
//!
//! A stampede begins when at least three containers are starting and what they hold, and will still take by forecast,
//! is at least half of the headroom they started into (what they hold plus what is available). It ends when fewer than
//! two of its members are starting. Half: below it the same scale-up once more would still fit.

use std::collections::BTreeMap;

use crate::model::{container::CgroupId, time::Time};

const MEMBERS: usize = 3;
const SHARE: f64 = 0.5;

/// What one starting container holds.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub cgroup: CgroupId,
    pub usage: u64,
}

#[derive(Clone, Debug)]
pub struct Stampede {
    pub began: Time,
    /// Everybody who started while it lasted, with the highest usage seen.
    pub members: BTreeMap<CgroupId, u64>,
    /// Highest sum of what its members held at one time.
    pub highest_sum: u64,
    pub lowest_available: u64,
    pub oom_kills: u64,
}

#[derive(Debug, PartialEq)]
pub enum Change {
    None,
    Began,
    Ended,
}

/// At most one at a time: they overlap by definition.
#[derive(Debug, Default)]
pub struct Watch {
    now: Option<Stampede>,
}

impl Watch {
    /// `starting`: everybody starting now. After `Ended`, [`Watch::take`] gives the whole of it.
    pub fn look(&mut self, at: Time, starting: &[Member], growth: u64, available: u64) -> Change {
        let held: u64 = starting.iter().map(|member| member.usage).fold(0, u64::saturating_add);
        let change = match &mut self.now {
            None => {
                let headroom = held.saturating_add(available);
                let wanted = held.saturating_add(growth);
                if starting.len() < MEMBERS || (wanted as f64) < SHARE * headroom as f64 {
                    return Change::None;
                }
                self.now = Some(Stampede {
                    began: at,
                    members: BTreeMap::new(),
                    highest_sum: 0,
                    lowest_available: available,
                    oom_kills: 0,
                });
                Change::Began
            }
            Some(stampede) => {
                let still =
                    starting.iter().filter(|member| stampede.members.contains_key(&member.cgroup)).count();
                if still < 2 { Change::Ended } else { Change::None }
            }
        };
        if let Some(stampede) = &mut self.now
            && change != Change::Ended
        {
            for member in starting {
                let highest = stampede.members.entry(member.cgroup).or_default();
                *highest = (*highest).max(member.usage);
            }
            stampede.highest_sum = stampede.highest_sum.max(held);
            stampede.lowest_available = stampede.lowest_available.min(available);
        }
        change
    }

    /// An OOM kill while it lasts is counted as its.
    pub fn oom_killed(&mut self, kills: u64) {
        if let Some(stampede) = &mut self.now {
            stampede.oom_kills = stampede.oom_kills.saturating_add(kills);
        }
    }

    pub fn now(&self) -> Option<&Stampede> {
        self.now.as_ref()
    }

    pub fn take(&mut self) -> Option<Stampede> {
        self.now.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: u64, usage: u64) -> Vec<Member> {
        (0..n).map(|cgroup| Member { cgroup, usage }).collect()
    }

    #[test]
    fn it_takes_three_and_half_of_the_headroom() {
        let at = Time::default();
        assert_eq!(Watch::default().look(at, &members(2, 500), 0, 100), Change::None);
        assert_eq!(Watch::default().look(at, &members(3, 100), 0, 1000), Change::None);
        assert_eq!(Watch::default().look(at, &members(3, 100), 400, 1000), Change::Began);
    }

    #[test]
    fn it_ends_when_its_members_have_settled_and_reports_the_whole() {
        let at = Time::default();
        let mut watch = Watch::default();
        assert_eq!(watch.look(at, &members(3, 300), 0, 600), Change::Began);
        watch.oom_killed(1);
        assert_eq!(watch.look(at, &members(4, 200), 0, 500), Change::None);
        assert_eq!(watch.look(at, &members(1, 50), 0, 900), Change::Ended);
        let whole = watch.take().unwrap();
        assert_eq!((whole.members.len(), whole.highest_sum, whole.lowest_available), (4, 900, 500));
        assert_eq!(whole.oom_kills, 1);
    }
}
