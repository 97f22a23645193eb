//! The node as a whole: what starts on it, and whether there is room.

use crate::{
    container::{Containers, lifecycle::Lifecycle},
    history::Histories,
    model::{
        container::{CgroupId, Container, Workload},
        event::NodeReading,
        finding::{
            Finding, FindingKind, Forecast, NodeMeasured, ShortageForecast, StampedeBegan, StampedeEnded,
        },
        time::Time,
    },
    node::{
        forecast::{self, Starting},
        stampede::{self, Member, Stampede},
    },
};

/// The kubelet evicts pods when less than this is available (KubeletConfiguration, evictionHard memory.available).
pub const EVICTION_RESERVE: u64 = 100 << 20;

#[derive(Debug, Default)]
pub struct NodeWatch {
    /// What start-ups can take, once it was read.
    available: Option<u64>,
    /// That is their common limit's: other containers do not draw on it.
    of_pods: bool,
    /// Read and not reported yet.
    reading: Option<NodeReading>,
    stampede: stampede::Watch,
    /// A forecast shortage was reported and is not over.
    short: bool,
}

impl NodeWatch {
    /// Reported with the tick that follows it.
    pub fn read(&mut self, reading: &NodeReading) {
        self.available = Some(reading.headroom());
        self.of_pods = reading.headroom() < reading.available;
        self.reading = Some(reading.clone());
    }

    pub fn available(&self) -> Option<u64> {
        self.available
    }

    /// What this container may take before the kubelet evicts or the kernel kills for want of it.
    pub fn room(&self, container: &Container) -> Option<u64> {
        let draws = !self.of_pods || !container.labels.pod.is_empty();
        self.available.filter(|_| draws).map(|available| available.saturating_sub(EVICTION_RESERVE))
    }

    pub fn oom_killed(&mut self, kills: u64) {
        self.stampede.oom_killed(kills);
    }

    pub fn tick(
        &mut self,
        at: Time,
        containers: &Containers,
        histories: &Histories,
        cgroups: usize,
        out: &mut Vec<Finding>,
    ) {
        let reading = self.reading.take();
        let starting: Vec<&Lifecycle> = containers.awake().filter(|life| life.is_starting()).collect();
        let ahead = |life: &&Lifecycle| Starting {
            age: life.age(at).unwrap_or(0.0),
            usage: life.usage(),
            limit: life.limit().and_then(|limit| limit.bytes()),
            past: histories.get(&Workload::of(&life.container().labels)),
        };
        let expected =
            |lives: &[&Lifecycle]| forecast::forecast(&lives.iter().map(ahead).collect::<Vec<_>>());
        let measured = NodeMeasured {
            reading,
            cgroups: cgroups as u64,
            containers: containers.live() as u64,
            starting: starting.len() as u64,
            starting_usage: starting.iter().map(|life| life.usage()).fold(0, u64::saturating_add),
            forecast: expected(&starting),
            stampede: self.stampede.now().is_some(),
        };
        if let Some(available) = self.available {
            let draws = |life: &&Lifecycle| !self.of_pods || !life.container().labels.pod.is_empty();
            let drawing: Vec<&Lifecycle> = starting.into_iter().filter(draws).collect();
            let member = |life: &&Lifecycle| Member { cgroup: life.container().cgroup, usage: life.usage() };
            let members: Vec<Member> = drawing.iter().map(member).collect();
            let forecast = match members.len() as u64 == measured.starting {
                true => measured.forecast,
                false => expected(&drawing),
            };
            self.headroom(at, forecast, available, &members, containers, out);
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
        containers: &Containers,
        out: &mut Vec<Finding>,
    ) {
        match self.stampede.look(at, starting, forecast.growth, available) {
            stampede::Change::None => {}
            stampede::Change::Began => {
                let began = StampedeBegan {
                    members: named(containers, starting.iter().map(|member| member.cgroup)),
                    held: starting.iter().map(|member| member.usage).fold(0, u64::saturating_add),
                    growth: forecast.growth,
                    available,
                };
                out.push(Finding { at, what: FindingKind::StampedeBegan(began) });
            }
            stampede::Change::Ended => {
                if let Some(stampede) = self.stampede.take() {
                    out.push(Finding {
                        at,
                        what: FindingKind::StampedeEnded(ended(at, &stampede, containers)),
                    });
                }
            }
        }
        let short = forecast.growth > available.saturating_sub(EVICTION_RESERVE);
        if short && !self.short {
            let ahead = ShortageForecast { forecast, available, starting: starting.len() as u64 };
            out.push(Finding { at, what: FindingKind::ShortageForecast(ahead) });
        }
        self.short = short;
    }
}

fn ended(at: Time, stampede: &Stampede, containers: &Containers) -> StampedeEnded {
    let alive = |cgroup: &CgroupId| containers.life(*cgroup).filter(|life| life.is_live());
    StampedeEnded {
        members: named(containers, stampede.members.keys().copied()),
        seconds: at.seconds_since(stampede.began),
        highest_sum: stampede.highest_sum,
        held_now: stampede
            .members
            .keys()
            .filter_map(alive)
            .map(Lifecycle::usage)
            .fold(0, u64::saturating_add),
        lowest_available: stampede.lowest_available,
        oom_kills: stampede.oom_kills,
    }
}

fn named(containers: &Containers, cgroups: impl Iterator<Item = CgroupId>) -> Vec<Container> {
    cgroups.filter_map(|cgroup| Some(containers.life(cgroup)?.container().clone())).collect()
}
