//! What the API tells, and what follows from it and from what was found: causes and scale events.

use crate::{
    attribution::pod_index::Pods,
    cause::{Decision, open_starts::Causes},
    model::{
        event::CgroupId,
        finding::{Caused, Finding, FindingKind},
        kubernetes::{ApiState, ChangeRecord, Owner, Pod, PodContainer},
        time::Time,
    },
    pipeline::{Pipeline, waiting::Groups},
    scale_event::ScaleEvents,
};

#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) watching: bool,
    pub(super) pods: Pods,
    pub(super) causes: Causes,
    scale: ScaleEvents,
    pub(super) groups: Groups,
}

impl Cluster {
    /// The reported container with this id.
    pub fn member(&self, id: &str) -> Option<CgroupId> {
        self.groups.with_id(id)
    }

    /// The pod a reported container is of, and what its spec and status tell of it.
    pub fn pod_of(&self, cgroup: CgroupId) -> Option<(&Pod, &PodContainer)> {
        let member = self.groups.member(cgroup)?;
        let pod = self.pods.get(&member.pod)?;
        Some((pod, pod.container(&member.id)?))
    }

    pub fn owner_of(&self, pod: &Pod) -> Option<&Owner> {
        self.pods.owner(pod)
    }

    pub fn record_of(&self, pod: &Pod) -> Option<&ChangeRecord> {
        self.pods.record_of(pod)
    }

    pub fn booted(&mut self, at: f64) {
        self.causes.booted(at);
    }
}

impl Pipeline {
    pub(super) fn api(&mut self, at: Time, state: &ApiState, out: &mut Vec<Finding>) {
        if let ApiState::Watching { ledger, .. } = state {
            self.cluster.watching = true;
            self.cluster.causes.asks_ledger(*ledger);
        }
        out.push(Finding { at, what: FindingKind::Api(state.clone()) });
    }

    pub(super) fn pod(&mut self, at: Time, pod: &Pod, out: &mut Vec<Finding>) {
        let now = at.unix_seconds(self.wall_ns());
        self.cluster.pods.apply(pod.clone(), now);
        self.cluster.causes.evidence_came();
        let hash = pod.config_hash.as_deref();
        self.identify_of(at, |key| key == pod.uid || Some(key) == hash, out);
        self.ready(at, pod, out);
    }

    pub(super) fn pod_gone(&mut self, at: Time, uid: &str) {
        let now = at.unix_seconds(self.wall_ns());
        self.cluster.pods.gone(uid, now);
        self.cluster.causes.evidence_came();
    }

    pub(super) fn owner_told(&mut self, at: Time, owner: &Owner, out: &mut Vec<Finding>) {
        self.cluster.pods.own(owner.clone());
        self.cluster.causes.evidence_came();
        self.identify_of(at, |_| true, out);
    }

    pub(super) fn record(&mut self, at: Time, record: &ChangeRecord) {
        let now = at.unix_seconds(self.wall_ns());
        self.cluster.pods.record(record.clone(), now);
        self.cluster.causes.evidence_came();
    }

    pub(super) fn tick_cluster(&mut self, now: Time, out: &mut Vec<Finding>) {
        self.tick_waiting(now, out);
        self.cluster.scale.tick(now, out);
        self.cluster.causes.evidence_came(); // closes what is too old
    }

    /// Causes and scale events follow from what was found.
    pub(super) fn follow(&mut self, at: Time, out: &mut Vec<Finding>) {
        let mut followed = 0;
        loop {
            while followed < out.len() {
                let mut more = Vec::new();
                for finding in &out[followed..] {
                    self.follow_one(finding, &mut more);
                    self.cluster.scale.apply(finding, &mut more);
                }
                followed = out.len();
                out.append(&mut more);
            }
            let caused = self.cluster.causes.review(at, &self.cluster.pods);
            if caused.is_empty() {
                return;
            }
            out.extend(caused.into_iter().map(|caused| Finding { at, what: FindingKind::Caused(caused) }));
        }
    }

    fn follow_one(&mut self, finding: &Finding, out: &mut Vec<Finding>) {
        match &finding.what {
            FindingKind::Started(started) => {
                let container = started.container.clone();
                match self.cluster.groups.member(container.cgroup) {
                    Some(member) => {
                        self.cluster.causes.started(finding.at, &container, &member.pod, &member.id);
                    }
                    // What the node knows is all there is to know.
                    None => {
                        let decision =
                            Decision { cause: started.cause, confidence: 1.0, ..Decision::default() };
                        let caused = Caused { container, started: finding.at, decision, before: None };
                        out.push(Finding { at: finding.at, what: FindingKind::Caused(caused) });
                    }
                }
            }
            FindingKind::Caused(caused) => {
                if let Some(life) = self.lives.get_mut(&caused.container.cgroup) {
                    life.caused(caused.decision.cause);
                }
            }
            FindingKind::Ended(ended) => self.cluster.causes.ended(finding.at, ended),
            FindingKind::Forgotten { container } => {
                self.cluster.groups.forget(container.cgroup);
            }
            _ => {}
        }
    }
}
