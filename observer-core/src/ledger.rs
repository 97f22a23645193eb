//! What happened to every workload: objects in, records out. Pure; the ledger's memory.
//!
//! Kubernetes itself tells scaling from a rollout by the ReplicaSet's annotation desired-replicas, which holds the
//! replicas of the whole Deployment (kubernetes: pkg/controller/deployment/sync.go, isScalingEvent): it changes when
//! somebody scales, and only then. A new revision makes a new ReplicaSet, or takes an old one up again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::kubernetes::{
    Autoscaler, By, ByKind, Change, ChangeRecord, Changed, ObjectKind, Owner, Reference, Uid, who,
};

/// Kept of each workload: two hours and this many changes are more than any start asks for.
const CHANGES: usize = 64;
const KEPT_SECONDS: f64 = 7200.0;
/// Workloads kept; beyond that new ones are not recorded, which is counted.
const WORKLOADS: usize = 50_000;
/// An autoscaler's own word of a scaling comes within this of the write (it reports after it wrote).
const TELLS_SECONDS: f64 = 10.0;

#[derive(Debug, Default)]
pub struct ChangeLog {
    workloads: HashMap<Uid, Workload>,
    /// ReplicaSet -> its workload.
    sets: HashMap<Uid, Set>,
    /// (namespace, kind, name) -> uid: autoscalers and events name their targets.
    names: HashMap<(String, ObjectKind, String), Uid>,
    /// Keyed by kind and uid of the autoscaler.
    autoscalers: BTreeMap<(ObjectKind, Uid), Scaler>,
    /// Scalings reported by autoscalers, the newest last.
    notices: Vec<RescaleNotice>,
    refused: u64,
}

#[derive(Debug)]
struct Workload {
    record: ChangeRecord,
    /// It was seen itself, not only named by its ReplicaSets.
    confirmed: bool,
    /// Uids of its ReplicaSets.
    sets: BTreeSet<Uid>,
    desired: Option<u64>,
    writer: Option<crate::model::kubernetes::Writer>,
    /// StatefulSet: (current, update) revision.
    revisions: Option<(String, String)>,
}

#[derive(Clone, Debug, Default)]
struct Set {
    workload: Uid,
    revision: Option<u64>,
    desired: Option<u64>,
    generation: i64,
}

/// An autoscaler and what it is about.
#[derive(Clone, Debug, Default)]
pub struct Scaler {
    pub namespace: String,
    /// Kind and name of its target.
    pub target: (ObjectKind, String),
    pub autoscaler: Autoscaler,
    /// HPA: `status.lastScaleTime`.
    pub last_scale: Option<f64>,
    /// HPA: name of the ScaledObject that owns it.
    pub scaled_object: Option<String>,
}

/// An event in which an autoscaler says that it scaled.
#[derive(Clone, Debug)]
pub struct RescaleNotice {
    pub namespace: String,
    /// Kind and name of the autoscaler.
    pub by: (ObjectKind, String),
    pub at: f64,
    /// Its size afterwards, if the message says.
    pub to: Option<u64>,
    pub reason: String,
}

/// What the ledger counts of itself and of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    pub workloads: u64,
    pub changes: u64,
    pub autoscalers: u64,
    pub refused: u64,
}

/// A change as it was learned, for metrics.
pub type News = Vec<(Reference, String, Change)>;

impl ChangeLog {
    /// A Deployment or Rollout: metadata only.
    pub fn workload(&mut self, owner: &Owner, api_version: &str, now: f64) {
        let writer = owner.replicas_set_by.clone();
        let Some(workload) = self.open(owner, api_version, now) else { return };
        workload.confirmed = true;
        workload.writer = writer;
        self.judge_again(&owner.uid.clone(), now);
    }

    /// A StatefulSet, whose spec and status report what a Deployment's ReplicaSets do.
    pub fn stateful_set(
        &mut self,
        owner: &Owner,
        replicas: u64,
        revisions: (String, String),
        now: f64,
    ) -> News {
        let writer = owner.replicas_set_by.clone();
        let Some(workload) = self.open(owner, "apps/v1", now) else { return News::new() };
        workload.confirmed = true;
        workload.writer = writer;
        // Seen at most a second after it was written, on this clock; the API's times are whole seconds.
        let at = (now - 1.0).floor();
        let before = workload.desired.replace(replicas);
        let old = workload.revisions.replace(revisions.clone());
        let mut changes = Vec::new();
        if let Some(from) = before.filter(|from| *from != replicas) {
            changes.push(Change { at, what: Changed::Scaled { from, to: replicas, by: By::default() } });
        }
        let (current, update) = revisions;
        if old.is_some_and(|(_, before)| !before.is_empty() && before != update) {
            changes.push(Change { at, what: Changed::RolledOut { revision: update.clone(), stepped: at } });
        }
        if current != update {
            step_rollout(&mut workload.record, &update, now);
        }
        self.add(&owner.uid.clone(), changes, now)
    }

    /// A ReplicaSet: metadata only.
    pub fn replica_set(&mut self, set: &Owner, now: f64) -> News {
        let Some(above) = &set.controller else { return News::new() };
        let hash = set.hash.clone().unwrap_or_default();
        let stand_in = Owner {
            uid: above.uid.clone(),
            kind: above.kind.clone(),
            namespace: set.namespace.clone(),
            name: above.name.clone(),
            // Its own metadata will say.
            created: f64::NAN,
            ..Owner::default()
        };
        let known = self.sets.get(&set.uid).cloned();
        let Some(workload) = self.open(&stand_in, &above.api_version, now) else { return News::new() };
        // The controller's write is the change, unless it was an older one.
        let wrote = set.controller_wrote.filter(|wrote| (now - wrote).abs() < TELLS_SECONDS);
        let at = wrote.unwrap_or((now - 1.0).floor());
        workload.sets.insert(set.uid.clone());
        let mut changes = Vec::new();
        if known.is_none() && set.generation > 1 {
            // Its earlier changes were not seen: what is known of the workload begins now.
            workload.record.observed_since = now;
        }
        let known = known.unwrap_or_default();
        let begun = if set.reused || known.generation > 0 { at } else { set.created };
        let newer = set.revision > known.revision;
        if newer && set.revision.is_some_and(|revision| revision > 1) && now - begun < KEPT_SECONDS {
            let rolled = Changed::RolledOut { revision: hash.clone(), stepped: at.max(begun) };
            changes.push(Change { at: begun, what: rolled });
        }
        // An old ReplicaSet keeps the number of its days: only what changes on it counts, and once for the workload.
        let scaled = match (set.desired, known.desired, workload.desired) {
            (Some(to), Some(before), Some(from)) if !newer && to != before && to != from => Some((from, to)),
            _ => None,
        };
        // A rollback takes an old one up again before it gives it today's number.
        let brand_new = newer && known.generation == 0 && !set.reused;
        if brand_new || scaled.is_some() || workload.desired.is_none() {
            workload.desired = set.desired.or(workload.desired);
        }
        match scaled {
            Some((from, to)) => {
                changes.push(Change { at, what: Changed::Scaled { from, to, by: By::default() } });
            }
            // More of its pods, and nobody scaled: a step of the rollout.
            None if set.generation > known.generation => step_rollout(&mut workload.record, &hash, at),
            None => {}
        }
        let entry = Set {
            workload: above.uid.clone(),
            revision: set.revision,
            desired: set.desired,
            generation: set.generation,
        };
        self.sets.insert(set.uid.clone(), entry);
        self.add(&above.uid, changes, now)
    }

    pub fn replica_set_gone(&mut self, uid: &str) {
        let Some(set) = self.sets.remove(uid) else { return };
        let Some(workload) = self.workloads.get_mut(&set.workload) else { return };
        workload.sets.remove(uid);
        // ReplicaSets are seen to change after their Deployment is gone, until the last of them is.
        if !workload.confirmed && workload.sets.is_empty() {
            self.workload_gone(&set.workload);
        }
    }

    pub fn workload_gone(&mut self, uid: &str) {
        let Some(workload) = self.workloads.remove(uid) else { return };
        let ChangeRecord { namespace, workload: reference, .. } = workload.record;
        let name = (namespace, reference.kind, reference.name);
        // After a new list the end of one may be reported after the beginning of the next of its name.
        if self.names.get(&name).is_some_and(|named| named == uid) {
            self.names.remove(&name);
        }
        for set in &workload.sets {
            self.sets.remove(set);
        }
    }

    pub fn autoscaler(&mut self, uid: &str, scaler: Scaler, now: f64) {
        let (kind, name) = scaler.target.clone();
        let target = self.names.get(&(scaler.namespace.clone(), kind, name)).cloned();
        self.autoscalers.insert((scaler.autoscaler.kind.clone(), uid.to_owned()), scaler);
        if let Some(target) = target {
            self.judge_again(&target, now);
        }
    }

    pub fn autoscaler_gone(&mut self, kind: &ObjectKind, uid: &str) {
        self.autoscalers.remove(&(kind.clone(), uid.to_owned()));
    }

    pub fn rescaled(&mut self, reported: RescaleNotice, now: f64) {
        self.notices.retain(|before| now - before.at < KEPT_SECONDS);
        if self.notices.len() == CHANGES * 16 {
            self.notices.remove(0);
        }
        let concerned: Vec<Uid> = self
            .autoscalers
            .values()
            .filter(|scaler| {
                scaler.namespace == reported.namespace
                    && (&scaler.autoscaler.kind, &scaler.autoscaler.name) == (&reported.by.0, &reported.by.1)
            })
            .filter_map(|scaler| {
                let (kind, name) = scaler.target.clone();
                self.names.get(&(scaler.namespace.clone(), kind, name)).cloned()
            })
            .collect();
        self.notices.push(reported);
        for uid in concerned {
            self.judge_again(&uid, now);
        }
    }

    /// A pod was taken away. Its workload is known by its name: a pod's is its owner's and more.
    pub fn disrupted(&mut self, namespace: &str, pod: &str, reason: &str, at: f64) {
        let of = |record: &ChangeRecord| {
            record.namespace == namespace
                && pod.strip_prefix(&record.workload.name).is_some_and(|rest| rest.starts_with('-'))
        };
        let longest = self
            .workloads
            .values_mut()
            .filter(|workload| of(&workload.record))
            .max_by_key(|workload| workload.record.workload.name.len());
        if let Some(workload) = longest {
            let what = Changed::Disrupted { pod: pod.to_owned(), reason: reason.to_owned() };
            push(&mut workload.record, Change { at, what }, at);
        }
    }

    /// By uid of the workload, or of one of its ReplicaSets.
    pub fn record(&self, uid: &str) -> Option<ChangeRecord> {
        let uid = self.sets.get(uid).map_or(uid, |set| set.workload.as_str());
        let workload = self.workloads.get(uid)?;
        let mut record = workload.record.clone();
        let target = (&record.workload.kind, &record.workload.name);
        record.autoscalers = self
            .autoscalers
            .values()
            .filter(|scaler| {
                scaler.namespace == record.namespace && (&scaler.target.0, &scaler.target.1) == target
            })
            .map(|scaler| scaler.autoscaler.clone())
            .collect();
        record.sets = workload.sets.iter().cloned().collect();
        Some(record)
    }

    pub fn sizes(&self) -> Sizes {
        Sizes {
            workloads: self.workloads.len() as u64,
            changes: self.workloads.values().map(|workload| workload.record.changes.len() as u64).sum(),
            autoscalers: self.autoscalers.len() as u64,
            refused: self.refused,
        }
    }

    fn open(&mut self, owner: &Owner, api_version: &str, now: f64) -> Option<&mut Workload> {
        if !self.workloads.contains_key(&owner.uid) {
            if self.workloads.len() >= WORKLOADS {
                self.refused += 1;
                return None;
            }
            let reference = Reference {
                api_version: api_version.to_owned(),
                kind: owner.kind.clone(),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            };
            let key = (owner.namespace.clone(), owner.kind.clone(), owner.name.clone());
            self.names.insert(key, owner.uid.clone());
            let record = ChangeRecord {
                workload: reference,
                namespace: owner.namespace.clone(),
                observed_since: now,
                ..ChangeRecord::default()
            };
            let workload = Workload {
                record,
                confirmed: false,
                sets: BTreeSet::new(),
                desired: None,
                writer: None,
                revisions: None,
            };
            self.workloads.insert(owner.uid.clone(), workload);
        }
        let workload = self.workloads.get_mut(&owner.uid)?;
        let created = workload.record.changes.iter().any(|change| change.what == Changed::Created);
        if !created && owner.created.is_finite() {
            // All of a workload's life is known if it began under our eyes; its creation is known in any case.
            workload.record.changes.insert(0, Change { at: owner.created, what: Changed::Created });
        }
        Some(workload)
    }

    fn add(&mut self, uid: &str, changes: Vec<Change>, now: f64) -> News {
        let mut news = News::new();
        for mut change in changes {
            let by = match &change.what {
                Changed::Scaled { from, to, .. } => Some(self.by(uid, change.at, *from, *to)),
                _ => None,
            };
            if let (Changed::Scaled { by, .. }, Some(found)) = (&mut change.what, by) {
                *by = found;
            }
            if let Some(workload) = self.workloads.get_mut(uid) {
                push(&mut workload.record, change.clone(), now);
                let record = &workload.record;
                news.push((record.workload.clone(), record.namespace.clone(), change));
            }
        }
        news
    }

    /// Later words of autoscalers may better who it was.
    fn judge_again(&mut self, uid: &str, now: f64) {
        let Some(workload) = self.workloads.get(uid) else { return };
        let recent = workload.record.changes.iter().enumerate().rev();
        let recent: Vec<(usize, f64, u64, u64)> = recent
            .take_while(|(_, change)| now - change.at < TELLS_SECONDS * 3.0)
            .filter_map(|(index, change)| match &change.what {
                Changed::Scaled { from, to, .. } => Some((index, change.at, *from, *to)),
                _ => None,
            })
            .collect();
        for (index, at, from, to) in recent {
            let found = self.by(uid, at, from, to);
            if let Some(workload) = self.workloads.get_mut(uid)
                && let Some(Change { what: Changed::Scaled { by, .. }, .. }) =
                    workload.record.changes.get_mut(index)
                && (by.kind == ByKind::Unknown || by.reason.is_empty())
            {
                *by = found;
            }
        }
    }

    /// Who set the replicas of a workload to this many at this time.
    fn by(&self, uid: &str, at: f64, from: u64, to: u64) -> By {
        let Some(workload) = self.workloads.get(uid) else { return By::default() };
        let record = &workload.record;
        let target = (&record.workload.kind, &record.workload.name);
        let mine = |scaler: &&Scaler| {
            scaler.namespace == record.namespace && (&scaler.target.0, &scaler.target.1) == target
        };
        let near = |time: f64| (time - at).abs() <= TELLS_SECONDS;
        let reported = |scaler: &Scaler| {
            self.notices.iter().rev().find(|reported| {
                reported.namespace == scaler.namespace
                    && reported.by.0 == scaler.autoscaler.kind
                    && reported.by.1 == scaler.autoscaler.name
                    && near(reported.at)
                    && reported.to.is_none_or(|size| size == to)
            })
        };
        let writer = workload.writer.clone().unwrap_or_default();
        let kind = who(&writer);
        let scalers = || self.autoscalers.values().filter(mine);
        let hpa = scalers().find(|scaler| scaler.autoscaler.kind == ObjectKind::HorizontalPodAutoscaler);
        let keda = scalers().find(|scaler| scaler.autoscaler.kind == ObjectKind::ScaledObject);
        if let Some(scaler) = keda
            && (kind == ByKind::Keda || reported(scaler).is_some())
        {
            let reason = reported(scaler).map(|reported| reported.reason.clone()).unwrap_or_default();
            return By { kind: ByKind::Keda, name: scaler.autoscaler.name.clone(), reason, guessed: false };
        }
        // Whoever scales to zero loses the field with the value, and its name with it (v1.36): from there nobody is
        // named, and the one whose business it is to wake what sleeps is KEDA.
        if let (Some(scaler), ByKind::Unknown, 0) = (keda, kind, from)
            && writer.manager.is_empty()
        {
            let (kind, name) = (ByKind::Keda, scaler.autoscaler.name.clone());
            return By { kind, name, reason: String::new(), guessed: true };
        }
        if let Some(scaler) = hpa {
            let said = reported(scaler);
            let moved = said.is_some() || scaler.last_scale.is_some_and(near);
            // On a custom resource the write names nobody, so the autoscaler's own clock has to do.
            if kind == ByKind::Hpa || (moved && workload.writer.is_none()) {
                let reason = said.map(|reported| reported.reason.clone()).unwrap_or_default();
                let (kind, name) = match &scaler.scaled_object {
                    Some(object) => (ByKind::Keda, object.clone()),
                    None => (ByKind::Hpa, scaler.autoscaler.name.clone()),
                };
                return By { kind, name, reason, guessed: false };
            }
        }
        By { kind, name: writer.manager, ..By::default() }
    }
}

fn push(record: &mut ChangeRecord, change: Change, now: f64) {
    record.changes.retain(|old| old.what == Changed::Created || now - old.at < KEPT_SECONDS);
    if record.changes.len() >= CHANGES {
        record.changes.remove(1);
    }
    record.changes.push(change);
}

fn step_rollout(record: &mut ChangeRecord, hash: &str, at: f64) {
    let newest = record.changes.iter_mut().rev().find_map(|change| match &mut change.what {
        Changed::RolledOut { revision, stepped } => Some((revision, stepped)),
        _ => None,
    });
    if let Some((revision, stepped)) = newest
        && revision == hash
    {
        *stepped = stepped.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kubernetes::Writer;

    fn deployment(manager: &str, scale: bool) -> Owner {
        Owner {
            uid: "d".into(),
            kind: "Deployment".into(),
            namespace: "shop".into(),
            name: "web".into(),
            created: 1000.0,
            replicas_set_by: Some(Writer { manager: manager.into(), scale }),
            ..Owner::default()
        }
    }

    fn set(uid: &str, revision: u64, desired: u64, wrote: f64) -> Owner {
        Owner {
            uid: uid.into(),
            kind: "ReplicaSet".into(),
            namespace: "shop".into(),
            name: format!("web-{uid}"),
            created: wrote,
            controller: Some(Reference {
                api_version: "apps/v1".into(),
                kind: "Deployment".into(),
                name: "web".into(),
                uid: "d".into(),
            }),
            hash: Some(uid.into()),
            revision: Some(revision),
            desired: Some(desired),
            controller_wrote: Some(wrote),
            ..Owner::default()
        }
    }

    fn hpa() -> Scaler {
        Scaler {
            namespace: "shop".into(),
            target: ("Deployment".into(), "web".into()),
            autoscaler: Autoscaler {
                kind: "HorizontalPodAutoscaler".into(),
                name: "web".into(),
                ..Autoscaler::default()
            },
            ..Scaler::default()
        }
    }

    fn story(book: &ChangeLog) -> Vec<String> {
        let record = book.record("d").unwrap();
        record
            .changes
            .iter()
            .map(|change| match &change.what {
                Changed::Created => format!("{} created", change.at),
                Changed::Scaled { from, to, by } => {
                    format!("{} {from}->{to} {} {} {}", change.at, by.kind.name(), by.name, by.reason)
                }
                Changed::RolledOut { revision, stepped } => {
                    format!("{} rollout {revision} until {stepped}", change.at)
                }
                Changed::Disrupted { pod, reason } => format!("{} {pod} {reason}", change.at),
            })
            .collect()
    }

    #[test]
    fn steps_of_an_autoscaler_are_each_a_change_and_its_word_may_come_later() {
        let mut book = ChangeLog::default();
        book.autoscaler("h", hpa(), 1000.0);
        book.workload(&deployment("kubectl", false), "apps/v1", 1000.0);
        book.replica_set(&set("a", 1, 1, 1000.0), 1000.0);
        book.workload(&deployment("kube-controller-manager", true), "apps/v1", 1100.0);
        book.replica_set(&set("a", 1, 4, 1100.0), 1100.0);
        book.replica_set(&set("a", 1, 8, 1102.0), 1102.0);
        book.rescaled(
            RescaleNotice {
                namespace: "shop".into(),
                by: ("HorizontalPodAutoscaler".into(), "web".into()),
                at: 1102.0,
                to: Some(8),
                reason: "queue_depth above target".into(),
            },
            1103.0,
        );
        assert_eq!(
            story(&book),
            ["1000 created", "1100 1->4 hpa web ", "1102 4->8 hpa web queue_depth above target"]
        );
    }

    #[test]
    fn a_rollout_lasts_until_its_last_step_and_scaling_is_none() {
        let mut book = ChangeLog::default();
        let step = |generation, desired, wrote| Owner {
            generation,
            created: 1200.0,
            controller_wrote: Some(wrote),
            ..set("b", 2, desired, 1200.0)
        };
        book.workload(&deployment("kubectl", false), "apps/v1", 1000.0);
        book.replica_set(&set("a", 1, 3, 1000.0), 1000.0);
        book.replica_set(&step(1, 3, 1200.0), 1200.0);
        book.replica_set(&step(2, 3, 1240.0), 1240.0);
        book.replica_set(&step(3, 5, 1300.0), 1300.0);
        assert_eq!(story(&book), ["1000 created", "1200 rollout b until 1240", "1300 3->5 manual kubectl "]);
    }

    #[test]
    fn a_rollback_scales_nothing_though_the_old_set_carries_an_old_number() {
        let mut book = ChangeLog::default();
        let old = |revision, desired, wrote| Owner {
            generation: revision as i64,
            created: 1000.0,
            reused: revision > 1,
            controller_wrote: Some(wrote),
            ..set("a", revision, desired, 1000.0)
        };
        book.workload(&deployment("kubectl", false), "apps/v1", 1000.0);
        book.replica_set(&old(1, 8, 1000.0), 1000.0);
        book.replica_set(&set("b", 2, 10, 1100.0), 1100.0);
        book.replica_set(&old(3, 8, 1200.0), 1200.0);
        book.replica_set(&old(3, 10, 1201.0), 1201.0);
        assert_eq!(story(&book), ["1000 created", "1100 rollout b until 1100", "1200 rollout a until 1200"]);
    }

    #[test]
    fn a_scale_down_is_a_change_too_and_a_disruption_finds_its_workload() {
        let mut book = ChangeLog::default();
        book.workload(&deployment("kubectl", true), "apps/v1", 1000.0);
        book.replica_set(&set("a", 1, 3, 1000.0), 1000.0);
        book.replica_set(&set("a", 1, 2, 1300.0), 1300.0);
        book.disrupted("shop", "web-a-x1", "Evicted", 1400.0);
        book.disrupted("shop", "other-1", "Evicted", 1400.0);
        assert_eq!(story(&book), ["1000 created", "1300 3->2 manual kubectl ", "1400 web-a-x1 Evicted"]);
        assert_eq!(book.record("a").map(|record| record.workload.uid), Some("d".into()));
    }

    #[test]
    fn a_workload_made_again_under_its_name_keeps_the_name_though_its_predecessor_ends_later() {
        let mut book = ChangeLog::default();
        book.autoscaler("h", hpa(), 1000.0);
        let again = |uid: &str, created| Owner {
            uid: uid.into(),
            created,
            ..deployment("kube-controller-manager", true)
        };
        book.workload(&again("old", 1000.0), "apps/v1", 1000.0);
        book.workload(&again("d", 1100.0), "apps/v1", 1100.0);
        book.workload_gone("old");
        book.replica_set(&set("a", 1, 1, 1100.0), 1100.0);
        book.replica_set(&set("a", 1, 4, 1200.0), 1200.0);
        let reported = RescaleNotice {
            namespace: "shop".into(),
            by: ("HorizontalPodAutoscaler".into(), "web".into()),
            at: 1200.0,
            to: Some(4),
            reason: "queue_depth above target".into(),
        };
        book.rescaled(reported, 1202.0);
        assert_eq!(story(&book), ["1100 created", "1200 1->4 hpa web queue_depth above target"]);
    }

    #[test]
    fn what_only_its_replica_sets_name_ends_with_them() {
        let mut book = ChangeLog::default();
        book.workload(&deployment("kubectl", false), "apps/v1", 1000.0);
        book.replica_set(&set("a", 1, 1, 1000.0), 1000.0);
        book.replica_set(&set("b", 2, 1, 1000.0), 1000.0);
        book.workload_gone("d");
        assert_eq!(book.record("a"), None);
        book.replica_set(&set("b", 2, 0, 1001.0), 1001.0); // the garbage collector is at work
        book.replica_set_gone("b");
        assert_eq!(book.sizes(), Sizes::default());
    }
}
