//! What is held of a container until the Kubernetes API has said who it is. Pure.
//!
//! Events are held per container, so that a busy one cannot push out the start of another. Levels (usage, files,
//! totals) are thinned out when there are too many: the latest counts, and the kernel's watermark keeps the peak.
//! Starts, ends and kills give the rest its meaning and go last.

use std::collections::VecDeque;

use crate::model::{
    container::CgroupId,
    event::{Event, EventKind},
    time::Time,
};

/// Events held for one container. Read every 20 ms it makes some fifty a second.
const HELD_PER_CONTAINER: usize = 512;
/// Events held for all containers together: some 6 MiB.
pub const HELD: usize = 16_384;

/// A container of a pod, from its cgroup path.
#[derive(Debug)]
pub struct PodGroup {
    /// Uid or config hash of the pod.
    pub pod: String,
    /// The container's id.
    pub id: String,
    pub since: Time,
    pub stage: Stage,
}

#[derive(Debug)]
pub enum Stage {
    /// Not reported yet.
    Waiting(Waiting),
    Reported(Name),
}

/// What a container is reported under.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Name {
    Final,
    /// Of its uid, its id or an owner below its workload, for want of its own name.
    StandIn,
    /// Of the pod's only container, because no other is known.
    Presumed,
}

#[derive(Debug, Default)]
pub struct Waiting {
    pub removed: Option<Removed>,
    /// The pod's sandbox, most likely: nothing is held for it any more.
    pub dormant: bool,
    pub held: Held,
}

#[derive(Clone, Copy, Debug)]
pub struct Removed {
    pub at: Time,
    /// An older group of the pod existed at the same time.
    pub beside_older: bool,
}

impl PodGroup {
    pub fn waiting(&self) -> Option<&Waiting> {
        match &self.stage {
            Stage::Waiting(waiting) => Some(waiting),
            Stage::Reported(_) => None,
        }
    }
}

/// Events of one container, in order.
#[derive(Debug, Default)]
pub struct Held {
    events: VecDeque<Event>,
}

impl Held {
    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Adds an event. Returns what had to be dropped for it.
    pub fn push(&mut self, event: Event) -> Vec<Event> {
        let dropped = if self.events.len() >= HELD_PER_CONTAINER { self.thin() } else { Vec::new() };
        self.events.push_back(event);
        dropped
    }

    /// Drops every second level; where there are hardly any, the oldest process events; of kills alone the oldest.
    pub fn thin(&mut self) -> Vec<Event> {
        let levels = self.events.iter().filter(|event| is_level(event)).count();
        if levels * 4 >= self.events.len() {
            let mut odd = false;
            return self.drop_where(|event| {
                odd ^= is_level(event);
                is_level(event) && odd
            });
        }
        // The first process event is the start; those that follow are of a container that forks all the time.
        let mut seen = 0;
        let half = self.events.len() / 2;
        let dropped = self.drop_where(|event| {
            let process = matches!(event.what, EventKind::Exec { .. } | EventKind::Exit { .. });
            seen += usize::from(process);
            process && (2..half).contains(&seen)
        });
        match dropped.is_empty() {
            true => self.events.pop_front().into_iter().collect(),
            false => dropped,
        }
    }

    pub fn take(&mut self) -> VecDeque<Event> {
        std::mem::take(&mut self.events)
    }

    fn drop_where(&mut self, mut drops: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let (dropped, kept) = self.events.drain(..).partition::<VecDeque<_>, _>(|event| drops(event));
        self.events = kept;
        dropped.into()
    }
}

/// The latest of these stands for those before it.
fn is_level(event: &Event) -> bool {
    use EventKind::{FaultLatency, Memory, Totals, Usage};
    matches!(event.what, Usage { .. } | Memory { .. } | Totals { .. } | FaultLatency { .. })
}

/// Events of cgroups with an unknown path: a mkdir record that was overtaken by others, or lost with a full ring
/// until the next walk of the tree.
#[derive(Debug, Default)]
pub struct UnknownCgroups {
    events: VecDeque<(CgroupId, Event)>,
}

/// A record that is overtaken is a few records late; a walk finds a whole lost batch.
const UNKNOWN: usize = 4096;

impl UnknownCgroups {
    /// Returns the event that had to make room.
    pub fn hold(&mut self, cgroup: CgroupId, event: Event) -> Option<Event> {
        let oldest = if self.events.len() >= UNKNOWN { self.events.pop_front() } else { None };
        self.events.push_back((cgroup, event));
        oldest.map(|(_, event)| event)
    }

    /// The events of cgroups that have become known, in order.
    pub fn release(&mut self, known: &[CgroupId]) -> Vec<Event> {
        self.take_where(|cgroup, _| known.contains(&cgroup))
    }

    /// Those that came before `oldest`.
    pub fn expire(&mut self, oldest: impl Fn(Time) -> bool) -> Vec<Event> {
        self.take_where(|_, at| oldest(at))
    }

    fn take_where(&mut self, takes: impl Fn(CgroupId, Time) -> bool) -> Vec<Event> {
        if self.events.is_empty() {
            return Vec::new();
        }
        let (taken, kept) =
            self.events.drain(..).partition::<VecDeque<_>, _>(|(cgroup, event)| takes(*cgroup, event.at));
        self.events = kept;
        taken.into_iter().map(|(_, event)| event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::ExitStatus;

    fn usage(usage: u64) -> Event {
        Event { at: Time::from_nanos(usage), what: EventKind::Usage { cgroup: 1, usage, watermark: usage } }
    }

    fn exit(pid: u32) -> Event {
        let what = EventKind::Exit {
            cgroup: 1,
            pid,
            comm: "x".into(),
            status: ExitStatus::Code(0),
            watermark: 0,
            init: false,
            depth: 0,
        };
        Event { at: Time::from_nanos(u64::from(pid)), what }
    }

    #[test]
    fn a_flood_of_levels_does_not_push_out_a_start_or_an_end() {
        let mut held = Held::default();
        let start = Event {
            at: Time::default(),
            what: EventKind::Exec { cgroup: 1, pid: 1, comm: "app".into(), watermark: 0, init: false },
        };
        let mut dropped = 0;
        held.push(start.clone());
        for n in 1..20_000 {
            dropped += held.push(usage(n)).len();
        }
        held.push(exit(9));
        assert!(held.len() <= HELD_PER_CONTAINER);
        let events = held.take();
        assert_eq!(dropped + events.len(), 20_001, "each is held or counted as dropped");
        assert_eq!(events.front(), Some(&start));
        assert_eq!(events.back(), Some(&exit(9)));
        let levels: Vec<u64> =
            events.iter().filter(|event| is_level(event)).map(|e| e.at.as_nanos()).collect();
        assert!(levels.is_sorted() && levels.last() == Some(&19_999), "the latest level is there");
    }

    #[test]
    fn a_container_that_forks_all_the_time_keeps_its_first_process() {
        let mut held = Held::default();
        for pid in 1..5_000 {
            held.push(exit(pid));
        }
        assert!(held.len() <= HELD_PER_CONTAINER);
        assert_eq!(held.take().front(), Some(&exit(1)));
    }
}
