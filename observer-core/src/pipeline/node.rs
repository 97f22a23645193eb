//! The node as a whole: what starts on it, and whether there is room.

use crate::{
    container::lifecycle::Lifecycle,
    model::{
        event::{CgroupId, NodeReading},
        finding::{
            Container, Finding, FindingKind, NodeMeasured, ShortageForecast, StampedeBegan, StampedeEnded,
        },
        time::Time,
    },
    node::{
        forecast::{self, Forecast, Starting},
        stampede::{self, Member, Stampede},
    },
    pipeline::Pipeline,
    workload::history::Workload,
};

/// The kubelet evicts pods when less than this is available (KubeletConfiguration, evictionHard memory.available).
pub(super) const EVICTION_RESERVE: u64 = 100 << 20;

#[derive(Debug, Default)]
pub(super) struct Node {
    /// What its pods may still take, once it was read.
    pub(super) available: Option<u64>,
    /// That is their common limit's: other containers do not draw on it.
    of_pods: bool,
    /// Read and not told yet.
    reading: Option<NodeReading>,
    pub(super) stampede: stampede::Watch,
    /// A shortage ahead has been told and is not over.
    short: bool,
}

impl Node {
    /// Told with the tick that follows it.
    pub fn read(&mut self, reading: &NodeReading) {
        self.available = Some(reading.headroom());
        self.of_pods = reading.headroom() < reading.available;
        self.reading = Some(reading.clone());
    }
}

impl Pipeline {
    pub(super) fn tick_node(&mut self, at: Time, out: &mut Vec<Finding>) {
        let reading = self.node.reading.take();
        let live = || self.lives.values().filter(|life| life.is_live());
        let starting: Vec<&Lifecycle> = live().filter(|life| life.is_starting()).collect();
        let ahead = |life: &&Lifecycle| Starting {
            age: life.age(at).unwrap_or(0.0),
            usage: life.usage(),
            limit: life.limit().and_then(|limit| limit.bytes()),
            past: self.histories.get(&Workload::of(&life.container().labels)),
        };
        let expected =
            |lives: &[&Lifecycle]| forecast::forecast(&lives.iter().map(ahead).collect::<Vec<_>>());
        let measured = NodeMeasured {
            reading,
            cgroups: self.index.count() as u64,
            containers: live().count() as u64,
            starting: starting.len() as u64,
            starting_usage: starting.iter().map(|life| life.usage()).sum(),
            forecast: expected(&starting),
            stampede: self.node.stampede.now().is_some(),
        };
        if let Some(available) = self.node.available {
            let draws = |life: &&Lifecycle| !self.node.of_pods || !life.container().labels.pod.is_empty();
            let drawing: Vec<&Lifecycle> = starting.into_iter().filter(draws).collect();
            let member = |life: &&Lifecycle| Member { cgroup: life.container().cgroup, usage: life.usage() };
            let members: Vec<Member> = drawing.iter().map(member).collect();
            let forecast = match members.len() as u64 == measured.starting {
                true => measured.forecast,
                false => expected(&drawing),
            };
            self.headroom(at, forecast, available, &members, out);
        }
        out.push(Finding { at, what: FindingKind::Node(measured) });
    }

    /// Whether those starting run the node short, or will.
    fn headroom(
        &mut self,
        at: Time,
        forecast: Forecast,
        available: u64,
        starting: &[Member],
        out: &mut Vec<Finding>,
    ) {
        match self.node.stampede.look(at, starting, forecast.growth, available) {
            stampede::Change::None => {}
            stampede::Change::Began => {
                let began = StampedeBegan {
                    members: self.containers(starting.iter().map(|member| member.cgroup)),
                    held: starting.iter().map(|member| member.usage).sum(),
                    growth: forecast.growth,
                    available,
                };
                out.push(Finding { at, what: FindingKind::StampedeBegan(began) });
            }
            stampede::Change::Ended => {
                if let Some(stampede) = self.node.stampede.take() {
                    out.push(Finding {
                        at,
                        what: FindingKind::StampedeEnded(self.stampede_ended(at, &stampede)),
                    });
                }
            }
        }
        let short = forecast.growth > available.saturating_sub(EVICTION_RESERVE);
        if short && !self.node.short {
            let ahead = ShortageForecast { forecast, available, starting: starting.len() as u64 };
            out.push(Finding { at, what: FindingKind::ShortageForecast(ahead) });
        }
        self.node.short = short;
    }

    fn stampede_ended(&self, at: Time, stampede: &Stampede) -> StampedeEnded {
        let alive = |cgroup: &&CgroupId| self.lives.get(cgroup).is_some_and(Lifecycle::is_live);
        StampedeEnded {
            members: self.containers(stampede.members.keys().copied()),
            seconds: at.seconds_since(stampede.began),
            highest_sum: stampede.highest_sum,
            held_now: stampede.members.keys().filter(alive).map(|cgroup| self.lives[cgroup].usage()).sum(),
            lowest_available: stampede.lowest_available,
            oom_kills: stampede.oom_kills,
        }
    }

    fn containers(&self, cgroups: impl Iterator<Item = CgroupId>) -> Vec<Container> {
        cgroups.filter_map(|cgroup| Some(self.lives.get(&cgroup)?.container().clone())).collect()
    }
}
