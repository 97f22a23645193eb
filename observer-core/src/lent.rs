//! What containers of this node are lent for their start, as their pods say it: the lender itself is elsewhere.

use std::collections::BTreeMap;

use crate::{
    attribution::Attribution,
    container::Containers,
    model::{
        container::CgroupId,
        event::{Event, EventKind},
        finding::{Finding, FindingKind, Lent},
        kubernetes::Loan,
    },
};

#[derive(Debug, Default)]
pub struct LentWatch {
    /// As reported.
    lent: BTreeMap<CgroupId, Loan>,
    /// A pod with a loan was seen: until then nothing is looked for.
    seen: bool,
}

impl LentWatch {
    pub fn follow(
        &mut self,
        event: &Event,
        wall_ns: i64,
        containers: &Containers,
        attribution: &Attribution,
        out: &mut Vec<Finding>,
    ) {
        match &event.what {
            EventKind::Pod(pod) => self.seen |= pod.containers.iter().any(|one| one.loan.is_some()),
            // A container may be known by name only after its pod was reported.
            EventKind::Tick if self.seen => {}
            _ => return,
        }
        if !self.seen {
            return;
        }
        let mut before = std::mem::take(&mut self.lent);
        for life in containers.lives().filter(|life| life.is_live()) {
            let container = life.container();
            let Some((pod, spec)) = attribution.pod_of(container.cgroup) else { continue };
            let steady = spec.request.unwrap_or(0);
            let Some(loan) = spec.loan.filter(|loan| loan.requested > steady) else { continue };
            self.lent.insert(container.cgroup, loan);
            if before.remove(&container.cgroup) == Some(loan) {
                continue;
            }
            let unix = event.at.unix_seconds(wall_ns);
            let since = match spec.restarts {
                0 => pod.created,
                _ => life.age(event.at).map_or(pod.created, |age| unix - age),
            };
            let what =
                FindingKind::Lent { container: container.clone(), lent: Some(Lent { steady, loan, since }) };
            out.push(Finding { at: event.at, what });
        }
        for cgroup in before.into_keys() {
            if let Some(life) = containers.life(cgroup) {
                let what = FindingKind::Lent { container: life.container().clone(), lent: None };
                out.push(Finding { at: event.at, what });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        model::{
            event::{Event, EventKind},
            finding::{Finding, FindingKind},
            kubernetes::{ApiState, Loan, Pod, PodContainer},
            time::Time,
        },
        pipeline::Pipeline,
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_loan_is_reported_as_it_is_made_changed_and_given_back() {
        let uid = "11111111-2222-3333-4444-555555555555";
        let id = format!("{:064x}", 7);
        let mut pipeline = Pipeline::default();
        let mut step = |seconds: u64, what: EventKind| -> Vec<Option<(u64, u64, f64)>> {
            let found = pipeline.step(&Event { at: Time::from_nanos(seconds * 1_000_000_000), what });
            let lent = |finding: &Finding| match &finding.what {
                FindingKind::Lent { lent, .. } => {
                    Some(lent.map(|lent| (lent.loan.requested / MIB, lent.steady / MIB, lent.since)))
                }
                _ => None,
            };
            found.iter().filter_map(lent).collect()
        };
        let pod = |requested: u64| {
            let app = PodContainer {
                name: "app".into(),
                id: Some(id.clone()),
                request: Some(64 * MIB),
                loan: Some(Loan { requested: requested * MIB, need: 170 * MIB, deadline_seconds: 180.0 }),
                ..PodContainer::default()
            };
            EventKind::Pod(Box::new(Pod {
                uid: uid.into(),
                namespace: "shop".into(),
                name: "web-1".into(),
                created: 41.0,
                containers: vec![app],
                ..Pod::default()
            }))
        };
        let path = format!("/kubepods/burstable/pod{uid}/{id}");
        let cgroup = 1;
        step(0, EventKind::Api(ApiState::Watching { node: "n".into(), ledger: false }));
        assert_eq!(step(1, pod(170)), [], "no container of it is there yet");
        step(2, EventKind::CgroupMade { cgroup, path: path.clone() });
        step(2, EventKind::CgroupAttached { cgroup, path, pid: 1 });
        step(2, EventKind::Exec { cgroup, pid: 1, comm: "app".into(), watermark: 0, init: false });
        assert_eq!(step(3, EventKind::Tick), [Some((170, 64, 41.0))]);
        assert_eq!(step(4, EventKind::Tick), []);
        assert_eq!(step(5, pod(170)), []);
        assert_eq!(step(6, pod(90)), [Some((90, 64, 41.0))]);
        assert_eq!(step(7, pod(64)), [None]);
        assert_eq!(step(8, EventKind::Tick), []);
        assert_eq!(step(9, pod(170)), [Some((170, 64, 41.0))], "lent to again");
        step(10, EventKind::CgroupEmptied { cgroup, usage: 0, watermark: 0, oom_kills: None });
        assert_eq!(step(11, EventKind::Tick), [None], "nothing is lent to what ended");
    }
}
