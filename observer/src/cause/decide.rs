//! The decision table: facts about a start -> its cause. Pure, first match wins.
//!
//! Sources: replicaset and deployment controllers (desired-replicas annotation, revision), managedFields, kubelet statuses,
//! Kubernetes v1.36. What a real cluster taught is in docs/causes.md.

use crate::{
    cause::{Cause, Decision, Scaled},
    objects::{By, Change, Changed, Owner, Pod, PodContainer, Record, Role, Terminated, who},
};

/// A workload's first pods come with it; its first autoscaling comes later (the HPA waits for metrics).
const DEPLOY_SECONDS: f64 = 60.0;
/// From the write of desired replicas to the pods: the controllers act within a second, in batches; a slow API server
/// makes it a few.
const FOLLOWS_SECONDS: f64 = 5.0;
/// Quota and admission may hold pods back for minutes; a pod that comes later than this is not said to be of the scale-up.
const CATCH_UP_SECONDS: f64 = 900.0;
/// The API writes whole seconds.
const TRUNCATION: f64 = 1.0;
/// A rollout that steps longer than this after its ReplicaSet was made is not told from a scale-up by one look.
const ROLLOUT_SECONDS: f64 = 600.0;

/// Everything that was known when the question was asked.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    pub pod: Option<&'a Pod>,
    pub container: Option<&'a PodContainer>,
    /// What the observer itself saw of the container of this name before this one.
    pub before: Option<Before>,
    /// The pod's controller, and the one above it.
    pub owner: Option<&'a Owner>,
    pub top: Option<&'a Owner>,
    /// What earlier looks at the same owner said.
    pub looks: Option<&'a Looks>,
    /// The ledger's record of the workload.
    pub record: Option<&'a Record>,
    /// Unix time of the host's boot.
    pub booted: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Before {
    pub cause: Cause,
    /// It was in the same pod sandbox; `false` if only the name is the same.
    pub same_pod: bool,
}

/// What an agent remembers of an owner it looked up before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Looks {
    /// The look before the last that found something else.
    pub before: Option<Look>,
    /// Revision hashes of its pods, the newest last.
    pub hashes: Vec<String>,
    /// Names of pods that were lost on this node, why, and when.
    pub lost: Vec<(String, String, f64)>,
    /// Highest ordinal seen.
    pub highest_ordinal: Option<u32>,
    /// Names of pods seen before.
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    pub desired: Option<u64>,
    pub revision: Option<u64>,
    pub generation: i64,
}

/// `None`: nothing to say of this container (an ephemeral one is a person's).
pub fn decide(facts: &Facts) -> Option<Decision> {
    let Some(pod) = facts.pod else {
        return Some(Decision::new(Cause::Unknown, 0.1, "the API has not told the pod yet"));
    };
    if facts.container.is_some_and(|container| container.role == Role::Ephemeral) {
        return None;
    }
    let origin = of_pod(facts, pod);
    Some(match restart(facts, pod) {
        Some(restart) => Decision { origin: Some(origin.cause), ..restart },
        None => origin,
    })
}

/// Whether it stands in for an earlier container of the same pod, and how that one ended.
fn restart(facts: &Facts, pod: &Pod) -> Option<Decision> {
    let container = facts.container;
    let last = container.and_then(|container| container.last.as_ref());
    let restarts = container.map_or(0, |container| container.restarts);
    let before = facts.before.filter(|before| before.same_pod).map(|before| before.cause);
    if restarts == 0 && last.is_none() && before.is_none() {
        return None;
    }
    if before == Some(Cause::RestartAfterOomKill) {
        return Some(Decision::new(Cause::RestartAfterOomKill, 1.0, "its OOM kill was seen"));
    }
    let Some(last) = last else {
        let cause = before.unwrap_or(Cause::RestartUnknown);
        return Some(Decision::new(cause, 0.8, format!("restart {restarts}, no status of the one before")));
    };
    Some(after(facts, pod, last, before))
}

fn after(facts: &Facts, pod: &Pod, last: &Terminated, before: Option<Cause>) -> Decision {
    let container = facts.container;
    let ended = format!("the one before ended with exit code {}, reason {}", last.code, last.reason);
    if last.reason == "OOMKilled" {
        return Decision::new(Cause::RestartAfterOomKill, 0.95, ended);
    }
    if pod.restarting {
        return Decision::new(Cause::RestartOfPod, 0.9, ended).also("condition AllContainersRestarting");
    }
    if pod.resizing && container.is_some_and(|container| container.restarts_on_resize) {
        return Decision::new(Cause::RestartAfterResize, 0.9, ended)
            .also("condition PodResizeInProgress, resizePolicy RestartContainer");
    }
    if let (Some(booted), Some(finished)) = (facts.booted, last.finished)
        && finished + TRUNCATION < booted
    {
        return Decision::new(Cause::RestartAfterReboot, 0.95, ended).also("it ended before the host booted");
    }
    // The kubelet ends a container that fails its probe with SIGTERM, then SIGKILL; a program that handles SIGTERM ends
    // with whatever code it likes.
    let probed = container.is_some_and(|container| container.liveness_probe || container.startup_probe);
    match last.code {
        137 | 143 => Decision::new(Cause::RestartAfterKill, if probed { 0.9 } else { 0.7 }, ended)
            .or(&[Cause::RestartAfterFailure]),
        0 if probed => {
            Decision::new(Cause::RestartAfterCompletion, 0.7, ended).or(&[Cause::RestartAfterKill])
        }
        0 => Decision::new(Cause::RestartAfterCompletion, 0.95, ended),
        _ if probed && before == Some(Cause::RestartAfterFailure) => {
            Decision::new(Cause::RestartAfterFailure, 0.85, ended).or(&[Cause::RestartAfterKill])
        }
        _ => Decision::new(Cause::RestartAfterFailure, if probed { 0.85 } else { 0.95 }, ended),
    }
}

/// Why the pod was made.
fn of_pod(facts: &Facts, pod: &Pod) -> Decision {
    if pod.config_hash.is_some() {
        return Decision::new(Cause::StaticPod, 1.0, "a mirror pod: its manifest is a file on the node");
    }
    let Some(controller) = &pod.controller else {
        return Decision::new(Cause::Standalone, 1.0, "no controller owns the pod");
    };
    match controller.kind.as_str() {
        "DaemonSet" => return Decision::new(Cause::DaemonSet, 1.0, format!("DaemonSet {}", controller.name)),
        "Job" => return job(facts, &controller.name),
        "Node" => return Decision::new(Cause::StaticPod, 1.0, "owned by the node"),
        _ => {}
    }
    if let Some(record) = facts.record
        && let Some(decision) = by_record(record, pod)
    {
        return decision;
    }
    match (facts.owner, controller.kind.as_str()) {
        (Some(owner), "StatefulSet") => stateful(facts, pod, owner),
        (Some(owner), _) => by_one_look(facts, pod, owner),
        (None, kind) => {
            Decision::new(Cause::Unknown, 0.1, format!("{kind} {} could not be looked up", controller.name))
        }
    }
}

fn job(facts: &Facts, name: &str) -> Decision {
    match facts.owner.map(|owner| owner.controller.as_ref()) {
        Some(Some(above)) if above.kind == "CronJob" => {
            Decision::new(Cause::CronJob, 1.0, format!("Job {name} of CronJob {}", above.name))
        }
        Some(Some(above)) => {
            Decision::new(Cause::Job, 1.0, format!("Job {name} of {} {}", above.kind, above.name))
        }
        Some(None) => Decision::new(Cause::Job, 1.0, format!("Job {name}, which nobody owns")),
        None => Decision::new(Cause::Job, 0.6, format!("Job {name}, whose owner is not known yet"))
            .or(&[Cause::CronJob]),
    }
}

/// What the ledger saw happen to the workload. `None`: it had not watched long enough to tell.
fn by_record(record: &Record, pod: &Pod) -> Option<Decision> {
    let made = pod.created;
    let until_made = |change: &&Change| change.at <= made + TRUNCATION;
    let newest = |wanted: fn(&Changed) -> bool| {
        record.changes.iter().filter(until_made).rfind(|change| wanted(&change.what))
    };
    let grew = newest(|what| matches!(what, Changed::Scaled { from, to, .. } if to > from));
    let rolled =
        newest(|what| matches!(what, Changed::RolledOut { .. })).filter(|change| match &change.what {
            Changed::RolledOut { revision, stepped } => {
                let follows = made <= stepped + FOLLOWS_SECONDS + TRUNCATION;
                follows && pod.revision_hash.as_ref().is_none_or(|hash| hash == revision)
            }
            _ => false,
        });
    let created = newest(|what| matches!(what, Changed::Created));
    if let (Some(created), None, None) = (created, grew, rolled)
        && made - created.at <= DEPLOY_SECONDS
    {
        let age = made - created.at;
        return Some(Decision::new(
            Cause::FirstDeploy,
            0.95,
            format!("{} was made {age:.0} s before, and has not been scaled", record.workload.name),
        ));
    }
    let scaled = grew.filter(|change| made - change.at <= CATCH_UP_SECONDS);
    match (rolled, scaled) {
        (Some(rolled), None) => Some(rollout(rolled, made, 0.95)),
        // Both at once: the pods of a rollout, more of them.
        (Some(rolled), Some(grew)) if rolled.at > grew.at => {
            // Its pods are of the new revision; only a change of both at once made more of them.
            let sure = if rolled.at - grew.at > 2.0 * TRUNCATION { 0.95 } else { 0.6 };
            Some(rollout(rolled, made, sure))
        }
        (Some(_), Some(grew)) if made - grew.at <= FOLLOWS_SECONDS + TRUNCATION => {
            scaled_up(grew, made, 0.6).map(|decision| decision.or(&[Cause::Rollout]))
        }
        (Some(rolled), Some(_)) => Some(rollout(rolled, made, 0.85)),
        (None, Some(grew)) if made - grew.at <= FOLLOWS_SECONDS + TRUNCATION => scaled_up(grew, made, 1.0),
        (None, _) if record.observed_since + DEPLOY_SECONDS < made => {
            let evidence = "replicas and revision had not changed";
            let lost = record.changes.iter().rev().filter(until_made).find_map(|change| match &change.what {
                Changed::Disrupted { pod, reason } => Some(format!("{pod} was lost to {reason}")),
                _ => None,
            });
            let decision = Decision::new(Cause::Reschedule, 0.95, evidence);
            Some(match (lost, scaled) {
                (Some(lost), _) => decision.also(lost),
                // Admission or quota may have held it back since the scale-up.
                (None, Some(_)) => Decision { confidence: 0.75, ..decision }.or(&[Cause::ScaleUpUnknown]),
                (None, None) => decision,
            })
        }
        _ => None,
    }
}

fn rollout(change: &Change, made: f64, confidence: f64) -> Decision {
    Decision::new(Cause::Rollout, confidence, format!("a rollout began {:.0} s before", made - change.at))
}

fn scaled_up(change: &Change, made: f64, confidence: f64) -> Option<Decision> {
    let Changed::Scaled { from, to, by } = &change.what else { return None };
    let reason = if by.reason.is_empty() { String::new() } else { format!(": {}", by.reason) };
    let who = format!("by {} {}{reason}", by.kind.name(), by.name);
    let scaled = Scaled { at: change.at, from: Some(*from), to: *to, by: by.clone() };
    let decision = Decision::new(
        Cause::scale_up(by.kind),
        confidence,
        format!("scaled from {from} to {to} {:.0} s before, {who}", (made - change.at).max(0.0)),
    );
    Some(Decision { scaled: Some(scaled), ..decision })
}

/// A ReplicaSet (or its like) and its owner, looked up when the pod came: what they were, not what they did.
fn by_one_look(facts: &Facts, pod: &Pod, owner: &Owner) -> Decision {
    let made = pod.created;
    let top = facts.top.unwrap_or(owner);
    let writer = top.replicas_set_by.clone().unwrap_or_default();
    let first = owner.revision.is_none_or(|revision| revision == 1);
    if first && made - top.created <= DEPLOY_SECONDS && !writer.scale {
        let age = (made - top.created).max(0.0);
        // kubectl apply writes replicas without a trace of its own: a first deployment scaled at once looks the same.
        return Decision::new(
            Cause::FirstDeploy,
            if age <= FOLLOWS_SECONDS { 0.95 } else { 0.8 },
            format!("{} {} was made {age:.0} s before, revision 1", top.kind, top.name),
        );
    }
    let age = made - owner.created;
    let before = facts.looks.and_then(|looks| looks.before);
    let revised = before.is_some_and(|before| before.revision < owner.revision);
    let grew = before.filter(|_| !revised).and_then(|before| {
        let (from, to) = (before.desired?, owner.desired?);
        (to > from).then_some((from, to))
    });
    // More of its pods, and nobody scaled (see `ledger::book`).
    let stepped = before.is_some_and(|before| {
        !first && before.desired == owner.desired && before.generation < owner.generation
    });
    let wrote = owner.controller_wrote.map(|wrote| made - wrote);
    let follows = wrote.is_some_and(|since| (-TRUNCATION..=FOLLOWS_SECONDS).contains(&since));
    if !first && age <= FOLLOWS_SECONDS {
        return Decision::new(
            Cause::Rollout,
            0.95,
            format!(
                "its ReplicaSet was made {age:.0} s before, revision {}",
                owner.revision.unwrap_or_default()
            ),
        );
    }
    let share = match who(&writer) {
        crate::objects::ByKind::Unknown => 0.7,
        crate::objects::ByKind::Manual => 0.95,
        _ => 0.85,
    };
    let scale_up = |from: Option<u64>, confidence: f64, why: String| {
        let by = By { kind: who(&writer), name: writer.manager.clone(), reason: String::new() };
        let at = owner.controller_wrote.unwrap_or(made);
        let scaled = Scaled { at, from, to: owner.desired.unwrap_or_default(), by };
        let evidence = format!(
            "replicas were last set by {}{}",
            writer.manager,
            if writer.scale { " (scale)" } else { "" }
        );
        let decision = Decision::new(Cause::scale_up(who(&writer)), confidence * share, why).also(evidence);
        Decision { scaled: Some(scaled), ..decision }
    };
    if follows && (revised || stepped) {
        let what = if revised { "revision" } else { "own replicas" };
        return Decision::new(
            Cause::Rollout,
            0.9,
            format!("its ReplicaSet changed its {what} since the last look"),
        );
    }
    if let Some((before, now)) = grew
        && follows
    {
        return scale_up(Some(before), 0.95, format!("desired replicas rose from {before} to {now}"));
    }
    if !first && (age <= ROLLOUT_SECONDS || owner.reused) && follows {
        let evidence = format!(
            "its ReplicaSet was made {age:.0} s before, revision {}",
            owner.revision.unwrap_or_default()
        );
        return Decision::new(Cause::Rollout, 0.6, evidence)
            .or(&[Cause::scale_up(who(&writer)), Cause::Reschedule]);
    }
    if follows {
        let since = wrote.unwrap_or_default().max(0.0);
        return scale_up(
            None,
            0.8,
            format!("its ReplicaSet was written {since:.0} s before, and is not new"),
        )
        .or(&[Cause::Reschedule]);
    }
    reschedule(facts, pod, "its ReplicaSet had not been written")
}

fn stateful(facts: &Facts, pod: &Pod, owner: &Owner) -> Decision {
    let made = pod.created;
    let age = made - owner.created;
    let writer = owner.replicas_set_by.clone().unwrap_or_default();
    if age <= DEPLOY_SECONDS && !writer.scale {
        return Decision::new(
            Cause::FirstDeploy,
            if age <= FOLLOWS_SECONDS { 0.95 } else { 0.85 },
            format!("StatefulSet {} was made {age:.0} s before", owner.name),
        );
    }
    let looks = facts.looks;
    let new_hash = looks.is_some_and(|looks| {
        let hash = pod.revision_hash.as_ref();
        !looks.hashes.is_empty() && hash.is_some_and(|hash| !looks.hashes.contains(hash))
    });
    let newest = looks.and_then(|looks| looks.hashes.last()) == pod.revision_hash.as_ref();
    let known = looks.is_some_and(|looks| looks.names.contains(&pod.name));
    if new_hash || (known && newest && looks.is_some_and(|looks| looks.hashes.len() > 1)) {
        return Decision::new(Cause::Rollout, 0.85, "its revision is another than its predecessors'");
    }
    if known {
        return reschedule(facts, pod, "a pod of the same name and revision was here before");
    }
    let beyond = match (pod.ordinal, looks.and_then(|looks| looks.highest_ordinal)) {
        (Some(ordinal), Some(highest)) => ordinal > highest,
        _ => false,
    };
    let cause = Cause::scale_up(who(&writer));
    let by = By { kind: who(&writer), name: writer.manager, reason: String::new() };
    let scaled = Scaled { at: made, from: None, to: u64::from(pod.ordinal.unwrap_or_default()) + 1, by };
    let confidence = if beyond { 0.8 } else { 0.6 };
    let decision = Decision::new(cause, confidence, "no pod of its name was here before")
        .or(&[Cause::Reschedule, Cause::Rollout]);
    Decision { scaled: Some(scaled), ..decision }
}

fn reschedule(facts: &Facts, pod: &Pod, evidence: &str) -> Decision {
    let lost = facts.looks.and_then(|looks| {
        // Five minutes: the time a node may be unreachable before its pods are given up (defaultTolerationSeconds).
        looks.lost.iter().rev().find(|(_, _, at)| (0.0..=300.0).contains(&(pod.created - at + TRUNCATION)))
    });
    match lost {
        Some((name, reason, _)) => {
            Decision::new(Cause::Reschedule, 0.9, evidence).also(format!("{name} was lost before: {reason}"))
        }
        None => Decision::new(Cause::Reschedule, 0.7, evidence).or(&[Cause::ScaleUpUnknown]),
    }
}
