//! The decision table: facts about a start -> its cause. Pure, first match wins.
//!
//! Sources: replicaset and deployment controllers (desired-replicas annotation, revision), managedFields, kubelet
//! statuses, Kubernetes v1.36. Findings from real clusters are in docs/causes.md.

use crate::{
    attribution::owner_lookups::{DELETED, OwnerLookups, Sibling},
    model::{
        cause::{Cause, Decision, Scaled},
        kubernetes::{
            By, ByKind, Change, ChangeRecord, Changed, ObjectKind, Owner, Pod, PodContainer, Role,
            Terminated, who,
        },
    },
};

/// A workload's first pods come with it; its first autoscaling comes later (the HPA waits for metrics).
const DEPLOY_SECONDS: f64 = 60.0;
/// From the write of desired replicas to the first pods: the controllers act within a second; a slow API server makes
/// it a few.
const FOLLOWS_SECONDS: f64 = 5.0;
/// A controller makes at most so many pods a second (kube-controller-manager --kube-api-qps, its default).
const MADE_PER_SECOND: f64 = 20.0;
/// So soon hardly anything else is lost and replaced: the first batches of a scale-up.
const AT_ONCE_SECONDS: f64 = 2.0;
/// Quota and admission may hold pods back for minutes; a pod that comes later than this is not said to be of the
/// scale-up.
const CATCH_UP_SECONDS: f64 = 900.0;
/// The API writes whole seconds.
const TRUNCATION: f64 = 1.0;
/// One look-up cannot distinguish a scale-up from a rollout that steps later than this after its ReplicaSet was made.
const ROLLOUT_SECONDS: f64 = 600.0;

/// Everything that was known when the question was asked.
#[derive(Debug, Default)]
pub struct Evidence<'a> {
    pub pod: Option<&'a Pod>,
    pub container: Option<&'a PodContainer>,
    /// The id of the container that started.
    pub id: &'a str,
    /// How the container of this name before it in the same pod ended, if that was seen.
    pub before: Option<Cause>,
    /// The pod's controller, and the one above it.
    pub owner: Option<&'a Owner>,
    pub top: Option<&'a Owner>,
    /// What earlier looks at the same owner said.
    pub looks: Option<&'a OwnerLookups>,
    /// Pods of the same owner that came to this node shortly before it.
    pub siblings: &'a [Sibling],
    /// The ledger's record of the workload.
    pub record: Option<&'a ChangeRecord>,
    /// Unix time of the host's boot.
    pub booted: Option<f64>,
}

/// How long after it was asked for the last of so many pods may be made.
fn follows_seconds(pods: u64) -> f64 {
    FOLLOWS_SECONDS + TRUNCATION + pods as f64 / MADE_PER_SECOND
}

/// `None`: nothing to say of this container (an ephemeral one is a person's).
pub fn decide(facts: &Evidence) -> Option<Decision> {
    let Some(pod) = facts.pod else {
        return Some(Decision::new(Cause::Unknown, 0.1, "the API has not reported the pod yet"));
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

/// Whether it replaces an earlier container of the same pod, and how that one ended.
fn restart(facts: &Evidence, pod: &Pod) -> Option<Decision> {
    let container = facts.container;
    let (restarts, last) = container.map_or((0, None), |container| container.before(facts.id));
    let before = facts.before;
    if restarts == 0 && last.is_none() && before.is_none() {
        return None;
    }
    let Some(last) = last else {
        if before == Some(Cause::RestartAfterOomKill) {
            return Some(Decision::new(
                Cause::RestartAfterOomKill,
                0.95,
                "the OOM kill of its first process was seen",
            ));
        }
        let cause = before.unwrap_or(Cause::RestartUnknown);
        return Some(Decision::new(cause, 0.8, format!("restart {restarts}, no status of the one before")));
    };
    Some(after(facts, pod, last, before))
}

fn after(facts: &Evidence, pod: &Pod, last: &Terminated, before: Option<Cause>) -> Decision {
    let container = facts.container;
    let reason = if last.reason.is_empty() { String::new() } else { format!(", reason {}", last.reason) };
    let ended = format!("the one before ended with exit code {}{reason}", last.code);
    // The first process got SIGKILL, and was seen to be the victim: some runtimes miss the mark. The mark alone may be
    // of a child's kill, if the first process ended by itself.
    let seen = before == Some(Cause::RestartAfterOomKill);
    match (last.reason.as_str(), last.code) {
        (_, 137) if seen => {
            return Decision::new(Cause::RestartAfterOomKill, 0.98, ended)
                .also("the OOM kill of its first process was seen");
        }
        ("OOMKilled", 137) => return Decision::new(Cause::RestartAfterOomKill, 0.95, ended),
        ("OOMKilled", _) if before.is_none_or(|_| seen) => {
            return Decision::new(Cause::RestartAfterOomKill, 0.7, ended)
                .or(&[Cause::RestartAfterFailure, Cause::RestartAfterCompletion]);
        }
        _ => {}
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
fn of_pod(facts: &Evidence, pod: &Pod) -> Decision {
    if pod.config_hash.is_some() {
        return Decision::new(Cause::StaticPod, 1.0, "a mirror pod: its manifest is a file on the node");
    }
    let Some(controller) = &pod.controller else {
        return Decision::new(Cause::Standalone, 1.0, "no controller owns the pod");
    };
    match &controller.kind {
        ObjectKind::DaemonSet => {
            return Decision::new(Cause::DaemonSet, 1.0, format!("DaemonSet {}", controller.name));
        }
        ObjectKind::Job => return job(facts, &controller.name),
        ObjectKind::Node => return Decision::new(Cause::StaticPod, 1.0, "owned by the node"),
        _ => {}
    }
    if let Some(record) = facts.record
        && let Some(decision) = by_record(record, pod, facts)
    {
        return decision;
    }
    match (facts.owner, &controller.kind) {
        (Some(owner), ObjectKind::StatefulSet) => stateful(facts, pod, owner),
        (Some(owner), _) => by_one_look(facts, pod, owner),
        (None, kind) => {
            Decision::new(Cause::Unknown, 0.1, format!("{kind} {} could not be looked up", controller.name))
        }
    }
}

fn job(facts: &Evidence, name: &str) -> Decision {
    match facts.owner.map(|owner| owner.controller.as_ref()) {
        Some(Some(above)) if above.kind == ObjectKind::CronJob => {
            Decision::new(Cause::CronJob, 1.0, format!("Job {name} of CronJob {}", above.name))
        }
        Some(Some(above)) => {
            Decision::new(Cause::Job, 1.0, format!("Job {name} of {} {}", above.kind, above.name))
        }
        Some(None) => Decision::new(Cause::Job, 1.0, format!("Job {name}, which has no owner")),
        None => Decision::new(Cause::Job, 0.6, format!("Job {name}, whose owner is not known yet"))
            .or(&[Cause::CronJob]),
    }
}

/// Decides from the ledger's changes of the workload. `None`: the ledger has not watched for long enough.
fn by_record(record: &ChangeRecord, pod: &Pod, facts: &Evidence) -> Option<Decision> {
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
    // All that could have made this pod was seen: for a while before it, or for the workload's whole life.
    let whole_life =
        created.is_some_and(|created| created.at + AT_ONCE_SECONDS + TRUNCATION >= record.observed_since);
    let watched = whole_life || record.observed_since + DEPLOY_SECONDS < made;
    if let (Some(created), None, None) = (created, grew, rolled)
        && watched
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
        (Some(_), Some(grew)) if follows(grew, made) => {
            scaled_up(grew, made, 0.6).map(|decision| decision.or(&[Cause::Rollout]))
        }
        (Some(rolled), Some(_)) => Some(rollout(rolled, made, 0.85)),
        (None, Some(grew)) if follows(grew, made) => by_growth(grew, record, made, facts),
        (None, _) if watched => {
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

/// A pod that came soon after replicas were raised.
fn by_growth(grew: &Change, record: &ChangeRecord, made: f64, facts: &Evidence) -> Option<Decision> {
    let lost = facts.looks.and_then(|looks| lost_since(looks, &record.changes, grew.at, made));
    if expected_pods_seen(&record.changes, facts.siblings, made) {
        return Some(surplus_pod(lost, 0.9));
    }
    let at_once = made - grew.at <= AT_ONCE_SECONDS + TRUNCATION;
    let or_in_place_of_another = |decision: Decision| decision.or(&[Cause::Reschedule]);
    match (at_once, lost) {
        (true, None) => scaled_up(grew, made, 1.0),
        (true, Some(_)) => scaled_up(grew, made, 0.8).map(or_in_place_of_another),
        (false, None) => scaled_up(grew, made, 0.85).map(or_in_place_of_another),
        (false, Some((name, reason))) => {
            let evidence = format!("{name} was lost since: {reason}");
            Some(Decision::new(Cause::Reschedule, 0.8, evidence).or(&[Cause::ScaleUpUnknown]))
        }
    }
}

/// How many pods more a change asked for.
fn growth(change: &Change) -> u64 {
    match change.what {
        Changed::Scaled { from, to, .. } => to.saturating_sub(from),
        _ => 0,
    }
}

fn follows(grew: &Change, made: f64) -> bool {
    made - grew.at <= follows_seconds(growth(grew))
}

/// Whether all pods that the scale-ups before it asked for came to this node before it.
fn expected_pods_seen(changes: &[Change], siblings: &[Sibling], made: f64) -> bool {
    let before =
        |change: &&Change| growth(change) > 0 && change.at <= made + TRUNCATION && follows(change, made);
    let grown: Vec<&Change> = changes.iter().filter(before).collect();
    // Of several in a row the pods of the first may come after the second: each is asked about with all that follow it.
    grown.iter().all(|first| {
        let since = grown.iter().filter(|change| change.at >= first.at);
        let asked = since.map(|change| growth(change)).fold(0, u64::saturating_add);
        came_since(siblings, first.at, f64::NEG_INFINITY) >= asked
    })
}

/// Number of siblings created since `made` and reported after `reported`.
fn came_since(siblings: &[Sibling], made: f64, reported: f64) -> u64 {
    let since = |sibling: &&Sibling| sibling.created >= made && sibling.reported > reported;
    siblings.iter().filter(since).count() as u64
}

/// A pod beyond those that were asked for; `sure`: if one was seen to be lost.
fn surplus_pod(lost: Option<(&str, &str)>, sure: f64) -> Decision {
    let evidence = "all pods that the scale-up asked for had come";
    match lost {
        Some((name, reason)) => {
            Decision::new(Cause::Reschedule, sure, evidence).also(format!("{name} was lost since: {reason}"))
        }
        None => Decision::new(Cause::Reschedule, 0.7, evidence).or(&[Cause::ScaleUpUnknown]),
    }
}

/// A sibling that was lost between a scaling and this pod, and not by a scale-down.
fn lost_since<'a>(
    looks: &'a OwnerLookups,
    changes: &[Change],
    since: f64,
    made: f64,
) -> Option<(&'a str, &'a str)> {
    let between = |at: f64| at >= since && at <= made + 2.0 * TRUNCATION;
    let wanted = |at: f64| {
        let fewer = |what: &Changed| matches!(what, Changed::Scaled { from, to, .. } if to < from);
        let follows = |change: &Change| (-TRUNCATION..=FOLLOWS_SECONDS).contains(&(at - change.at));
        changes.iter().any(|change| fewer(&change.what) && follows(change))
    };
    let lost = looks.lost.iter().rev().find(|(_, _, at)| between(*at) && !wanted(*at))?;
    Some((&lost.0, &lost.1))
}

fn rollout(change: &Change, made: f64, confidence: f64) -> Decision {
    Decision::new(Cause::Rollout, confidence, format!("a rollout began {:.0} s before", made - change.at))
}

fn scaled_up(change: &Change, made: f64, confidence: f64) -> Option<Decision> {
    let Changed::Scaled { from, to, by } = &change.what else { return None };
    let reason = if by.reason.is_empty() { String::new() } else { format!(": {}", by.reason) };
    let who = format!("by {}{reason}", by.who());
    let scaled = Scaled { at: change.at, from: Some(*from), to: *to, by: by.clone() };
    let confidence = match by.kind {
        _ if by.guessed => confidence * 0.85,
        ByKind::Unknown if by.name.is_empty() => confidence * 0.7,
        _ => confidence,
    };
    let decision = Decision::new(
        Cause::scale_up(by.kind),
        confidence,
        format!("scaled from {from} to {to}, {:.0} s before, {who}", (made - change.at).max(0.0)),
    );
    Some(Decision { scaled: Some(scaled), ..decision })
}

/// A ReplicaSet (or its like) and its owner, looked up when the pod came: what they were, not what they did.
fn by_one_look(facts: &Evidence, pod: &Pod, owner: &Owner) -> Decision {
    let made = pod.created;
    let top = facts.top.unwrap_or(owner);
    let writer = top.replicas_set_by.clone().unwrap_or_default();
    let first = owner.revision.is_none_or(|revision| revision == 1);
    // Once its spec has changed it is no longer as it was deployed; that of a Rollout its controller itself completes
    // once.
    let untouched =
        facts.top.is_none_or(|top| top.generation <= if top.kind == ObjectKind::Rollout { 2 } else { 1 });
    if first && untouched && made - top.created <= DEPLOY_SECONDS && !writer.scale {
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
    // More of its pods, and no scaling (see `ledger`).
    let stepped = before.is_some_and(|before| {
        !first && before.desired == owner.desired && before.generation < owner.generation
    });
    let wrote = owner.controller_wrote.map(|wrote| made - wrote);
    let asked = grew.map_or(0, |(from, to)| to - from);
    let follows = wrote.is_some_and(|since| (-TRUNCATION..=follows_seconds(asked)).contains(&since));
    // A new ReplicaSet. If it was scaled right after, only an earlier look-up distinguishes the two.
    if !first && (age <= AT_ONCE_SECONDS || (age <= FOLLOWS_SECONDS && grew.is_none())) {
        let revision = owner.revision.unwrap_or_default();
        let sure = if age <= AT_ONCE_SECONDS { 0.95 } else { 0.85 };
        let evidence = format!("its ReplicaSet was made {age:.0} s before, revision {revision}");
        return Decision::new(Cause::Rollout, sure, evidence);
    }
    let share = match who(&writer) {
        ByKind::Unknown => 0.7,
        ByKind::Manual => 0.95,
        _ => 0.85,
    };
    let scale_up = |from: Option<u64>, confidence: f64, why: String| {
        let by = By { kind: who(&writer), name: writer.manager.clone(), ..By::default() };
        let at = owner.controller_wrote.unwrap_or(made);
        let scaled = Scaled { at, from, to: owner.desired.unwrap_or_default(), by };
        let evidence = match writer.manager.as_str() {
            "" => "no manager of its replicas is recorded".to_owned(),
            manager => {
                format!("replicas were last set by {manager}{}", if writer.scale { " (scale)" } else { "" })
            }
        };
        let decision = Decision::new(Cause::scale_up(who(&writer)), confidence * share, why).also(evidence);
        Decision { scaled: Some(scaled), ..decision }
    };
    // Written again after the pod came: what was written when it came is covered.
    if wrote.is_some_and(|since| since < -TRUNCATION) {
        let evidence = "its ReplicaSet was written again since";
        let scale = Cause::scale_up(who(&writer));
        return if revised || stepped || (!first && age <= ROLLOUT_SECONDS) || owner.reused {
            Decision::new(Cause::Rollout, 0.6, evidence).or(&[scale, Cause::Reschedule])
        } else if let Some((from, to)) = grew {
            let by = By { kind: who(&writer), name: writer.manager.clone(), ..By::default() };
            let scaled = Scaled { at: made, from: Some(from), to, by };
            let decision = Decision::new(scale, 0.6, evidence).or(&[Cause::Reschedule]);
            Decision { scaled: Some(scaled), ..decision }
        } else {
            Decision::new(Cause::Reschedule, 0.5, evidence).or(&[scale])
        };
    }
    if follows && (revised || stepped) {
        let what = if revised { "revision" } else { "own replicas" };
        return Decision::new(
            Cause::Rollout,
            0.9,
            format!("its ReplicaSet changed its {what} since the last look"),
        );
    }
    let wrote_at = owner.controller_wrote.unwrap_or(made);
    let lost = facts.looks.and_then(|looks| lost_since(looks, &[], wrote_at, made));
    if follows
        && grew.is_some()
        && before.is_some_and(|before| came_since(facts.siblings, wrote_at, before.looked) >= asked)
    {
        return surplus_pod(lost, 0.85);
    }
    if follows
        && made - wrote_at > AT_ONCE_SECONDS + TRUNCATION
        && let Some((name, reason)) = lost
    {
        return Decision::new(Cause::Reschedule, 0.7, format!("{name} was lost since: {reason}"))
            .or(&[Cause::scale_up(who(&writer))]);
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

fn stateful(facts: &Evidence, pod: &Pod, owner: &Owner) -> Decision {
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
    let newest = looks.and_then(|looks| looks.hashes.last()) == pod.revision_hash.as_ref();
    let known = looks.is_some_and(|looks| looks.names.contains(&pod.name));
    if known && newest && looks.is_some_and(|looks| looks.hashes.len() > 1) {
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
    let by = By { kind: who(&writer), name: writer.manager, ..By::default() };
    let scaled = Scaled { at: made, from: None, to: u64::from(pod.ordinal.unwrap_or_default()) + 1, by };
    let confidence = if beyond { 0.8 } else { 0.6 };
    let decision = Decision::new(cause, confidence, "no pod of its name was here before")
        .or(&[Cause::Reschedule, Cause::Rollout]);
    Decision { scaled: Some(scaled), ..decision }
}

fn reschedule(facts: &Evidence, pod: &Pod, evidence: &str) -> Decision {
    let lost = facts.looks.and_then(|looks| {
        // Five minutes: the time a node may be unreachable before its pods are given up (defaultTolerationSeconds).
        looks.lost.iter().rev().find(|(_, _, at)| (0.0..=300.0).contains(&(pod.created - at + TRUNCATION)))
    });
    match lost {
        Some((name, reason, _)) => {
            // A deletion alone may have been of a scale-down or a rollout.
            let sure = if reason == DELETED { 0.8 } else { 0.9 };
            Decision::new(Cause::Reschedule, sure, evidence).also(format!("{name} was lost before: {reason}"))
        }
        None => Decision::new(Cause::Reschedule, 0.7, evidence).or(&[Cause::ScaleUpUnknown]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attribution::owner_lookups::Look,
        model::kubernetes::{Reference, Writer},
    };

    const MADE: f64 = 10_000.0;

    fn pod(kind: &str) -> Pod {
        Pod {
            uid: "u".into(),
            name: "web-7-x".into(),
            created: MADE,
            controller: (!kind.is_empty()).then(|| Reference {
                kind: kind.into(),
                name: "web-7".into(),
                uid: "o".into(),
                ..Reference::default()
            }),
            revision_hash: Some("7".into()),
            ..Pod::default()
        }
    }

    /// A ReplicaSet of revision 2 made long ago, written `wrote` seconds before the pod.
    fn set(wrote: f64) -> Owner {
        Owner {
            kind: "ReplicaSet".into(),
            created: MADE - 9000.0,
            revision: Some(2),
            desired: Some(4),
            generation: 5,
            controller_wrote: Some(MADE - wrote),
            ..Owner::default()
        }
    }

    fn deployment(age: f64, manager: &str, scale: bool) -> Owner {
        Owner {
            kind: "Deployment".into(),
            name: "web".into(),
            created: MADE - age,
            replicas_set_by: Some(Writer { manager: manager.into(), scale }),
            ..Owner::default()
        }
    }

    fn record(changes: Vec<Change>) -> ChangeRecord {
        ChangeRecord { observed_since: MADE - 5000.0, changes, ..ChangeRecord::default() }
    }

    #[test]
    fn a_ledger_that_has_just_begun_knows_only_what_began_with_it() {
        let pod = pod("ReplicaSet");
        let reported = |created: f64| {
            let created = Change { at: MADE - created, what: Changed::Created };
            let record = ChangeRecord {
                observed_since: MADE - 20.0,
                changes: vec![created],
                ..ChangeRecord::default()
            };
            let facts = Evidence { pod: Some(&pod), record: Some(&record), ..Evidence::default() };
            reported(facts)
        };
        assert_eq!(reported(22.0), "first_deploy 0.95");
        assert_eq!(reported(900.0), "unknown 0.10");
    }

    fn scaled(before: f64, from: u64, to: u64, kind: ByKind) -> Change {
        let by = By { kind, name: "somebody".into(), ..By::default() };
        Change { at: MADE - before, what: Changed::Scaled { from, to, by } }
    }

    fn rolled(before: f64, stepped: f64, revision: &str) -> Change {
        let what = Changed::RolledOut { revision: revision.into(), stepped: MADE - stepped };
        Change { at: MADE - before, what }
    }

    fn reported(facts: Evidence) -> String {
        let decision = decide(&facts).unwrap();
        format!("{} {:.2}", decision.cause.name(), decision.confidence)
    }

    #[test]
    fn what_the_kind_of_owner_says_is_certain() {
        let table = [
            (pod(""), "standalone 1.00"),
            (pod("DaemonSet"), "daemonset 1.00"),
            (Pod { config_hash: Some("h".into()), ..pod("Node") }, "static_pod 1.00"),
            (pod("Job"), "job 0.60"),
        ];
        for (pod, expected) in table {
            assert_eq!(reported(Evidence { pod: Some(&pod), ..Evidence::default() }), expected);
        }
    }

    #[test]
    fn with_the_ledger_the_history_decides() {
        let created = |age: f64| Change { at: MADE - age, what: Changed::Created };
        let lost = Change {
            at: MADE - 3.0,
            what: Changed::Disrupted { pod: "web-7-y".into(), reason: "Evicted".into() },
        };
        let table = [
            ("made with it", vec![created(2.0)], "first_deploy 0.95"),
            ("scaled just now", vec![created(900.0), scaled(1.0, 2, 4, ByKind::Hpa)], "scale_up_hpa 1.00"),
            ("scaled down just now", vec![created(900.0), scaled(1.0, 4, 2, ByKind::Hpa)], "reschedule 0.95"),
            ("a rollout", vec![created(900.0), rolled(1.0, 1.0, "7")], "rollout 0.95"),
            ("late in a slow rollout", vec![created(900.0), rolled(300.0, 1.0, "7")], "rollout 0.95"),
            ("long after a rollout", vec![created(900.0), rolled(300.0, 200.0, "7")], "reschedule 0.95"),
            ("another revision's rollout", vec![created(900.0), rolled(1.0, 1.0, "8")], "reschedule 0.95"),
            ("lost", vec![created(900.0), lost], "reschedule 0.95"),
            (
                "scaled, then rolled out",
                vec![created(900.0), scaled(9.0, 2, 4, ByKind::Manual), rolled(1.0, 1.0, "7")],
                "rollout 0.95",
            ),
            (
                "scaled in a rollout",
                vec![created(900.0), rolled(30.0, 2.0, "7"), scaled(1.0, 2, 4, ByKind::Manual)],
                "scale_up_manual 0.60",
            ),
            (
                "held back since the scale-up",
                vec![created(900.0), scaled(100.0, 2, 4, ByKind::Hpa)],
                "reschedule 0.75",
            ),
        ];
        let pod = pod("ReplicaSet");
        for (name, changes, expected) in table {
            let record = record(changes);
            let facts = Evidence { pod: Some(&pod), record: Some(&record), ..Evidence::default() };
            assert_eq!(reported(facts), expected, "{name}");
        }
    }

    #[test]
    fn one_look_is_never_sure_of_what_a_second_change_may_cover() {
        let look = |desired, revision, generation| {
            Some(OwnerLookups {
                before: Some(Look {
                    looked: MADE - 60.0,
                    desired: Some(desired),
                    revision: Some(revision),
                    generation,
                }),
                ..OwnerLookups::default()
            })
        };
        let new = |age: f64| Owner { created: MADE - age, ..set(0.0) };
        let first = |age: f64| Owner { revision: Some(1), created: MADE - age, ..set(age) };
        let kcm = "kube-controller-manager";
        let table = [
            ("just made", first(1.0), deployment(1.0, "kubectl", false), None, "first_deploy 0.95"),
            ("made and scaled", first(20.0), deployment(20.0, kcm, true), look(2, 1, 4), "reschedule 0.70"),
            ("a new set", new(1.0), deployment(900.0, "kubectl", false), None, "rollout 0.95"),
            ("written just now", set(1.0), deployment(900.0, kcm, true), None, "scale_up_hpa 0.68"),
            (
                "seen to grow",
                set(1.0),
                deployment(900.0, "kubectl", true),
                look(2, 2, 4),
                "scale_up_manual 0.90",
            ),
            ("seen to be revised", set(1.0), deployment(900.0, kcm, true), look(2, 1, 4), "rollout 0.90"),
            ("seen to step", set(1.0), deployment(900.0, kcm, true), look(4, 2, 4), "rollout 0.90"),
            ("not written", set(60.0), deployment(900.0, kcm, true), None, "reschedule 0.70"),
            (
                "written again since",
                set(-9.0),
                deployment(900.0, kcm, true),
                look(2, 2, 4),
                "scale_up_hpa 0.60",
            ),
        ];
        let pod = pod("ReplicaSet");
        for (name, owner, top, looks, expected) in table {
            let facts = Evidence {
                pod: Some(&pod),
                owner: Some(&owner),
                top: Some(&top),
                looks: looks.as_ref(),
                ..Evidence::default()
            };
            assert_eq!(reported(facts), expected, "{name}");
        }
    }

    #[test]
    fn no_evidence_names_what_has_no_name() {
        let whole =
            |text: &String| !(text.ends_with([' ', ',', ':']) || text.contains("  ") || text.contains(" :"));
        let (pod, owner) = (pod("ReplicaSet"), set(1.0));
        let by = |kind| Changed::Scaled { from: 1, to: 4, by: By { kind, ..By::default() } };
        let ended = Terminated { code: 7, ..Terminated::default() };
        let restarted = PodContainer { restarts: 1, last: Some(ended), ..PodContainer::default() };
        for manager in ["", "kubectl"] {
            let top = deployment(9000.0, manager, false);
            for kind in [ByKind::Hpa, ByKind::Unknown] {
                let record = record(vec![Change { at: MADE - 1.0, what: by(kind) }]);
                for (record, container) in [(None, None), (Some(&record), None), (None, Some(&restarted))] {
                    let facts = Evidence {
                        pod: Some(&pod),
                        owner: Some(&owner),
                        top: Some(&top),
                        record,
                        container,
                        ..Evidence::default()
                    };
                    let evidence = decide(&facts).unwrap().evidence;
                    assert!(!evidence.is_empty() && evidence.iter().all(whole), "{evidence:?}");
                }
            }
        }
    }

    #[test]
    fn a_restart_is_explained_by_how_the_previous_one_ended() {
        let ended = |code: i32, reason: &str| {
            Some(Terminated { code, reason: reason.into(), finished: Some(500.0), ..Terminated::default() })
        };
        let table = [
            (ended(137, "OOMKilled"), false, "restart_after_oom_kill 0.95"),
            (ended(137, "Error"), true, "restart_after_kill 0.90"),
            (ended(137, "Error"), false, "restart_after_kill 0.70"),
            (ended(1, "Error"), false, "restart_after_failure 0.95"),
            (ended(0, "Completed"), false, "restart_after_completion 0.95"),
            (ended(0, "Completed"), true, "restart_after_completion 0.70"),
        ];
        let pod = pod("");
        for (last, liveness_probe, expected) in table {
            let container = PodContainer { restarts: 1, last, liveness_probe, ..PodContainer::default() };
            let facts = Evidence { pod: Some(&pod), container: Some(&container), ..Evidence::default() };
            assert_eq!(reported(facts), expected);
        }
        // A worker's kill was seen too; the status of the first process wins: a mark is certain only with SIGKILL.
        let oom = Some(Cause::RestartAfterOomKill);
        let failed = Some(Cause::RestartAfterFailure);
        let table = [
            (ended(3, "Error"), oom, "restart_after_failure 0.95"),
            (ended(0, "Completed"), oom, "restart_after_completion 0.95"),
            (ended(137, "Error"), oom, "restart_after_oom_kill 0.98"),
            (ended(137, "OOMKilled"), oom, "restart_after_oom_kill 0.98"),
            (ended(3, "OOMKilled"), failed, "restart_after_failure 0.95"),
            (ended(3, "OOMKilled"), None, "restart_after_oom_kill 0.70"),
            (None, oom, "restart_after_oom_kill 0.95"),
        ];
        for (last, before, expected) in table {
            let container = PodContainer { restarts: 1, last, ..PodContainer::default() };
            let facts =
                Evidence { pod: Some(&pod), container: Some(&container), before, ..Evidence::default() };
            assert_eq!(reported(facts), expected);
        }
        let container = PodContainer { restarts: 1, last: ended(0, "Completed"), ..PodContainer::default() };
        let booted = Evidence {
            pod: Some(&pod),
            container: Some(&container),
            booted: Some(600.0),
            ..Evidence::default()
        };
        assert_eq!(reported(booted), "restart_after_reboot 0.95");
    }

    /// Siblings made so long before.
    fn siblings(before: &[f64]) -> Vec<Sibling> {
        before.iter().map(|before| Sibling { created: MADE - before, reported: MADE - before }).collect()
    }

    #[test]
    fn a_scale_up_explains_as_many_pods_as_it_asked_for() {
        let created = Change { at: MADE - 900.0, what: Changed::Created };
        let lost =
            OwnerLookups { lost: vec![("web-7-y".into(), DELETED.into(), MADE)], ..OwnerLookups::default() };
        let none = OwnerLookups::default();
        let to = |before, from, to| scaled(before, from, to, ByKind::Hpa);
        let table = [
            ("the last of three", vec![to(1.0, 2, 5)], &[1.0, 1.0][..], &none, "scale_up_hpa 1.00"),
            ("one was lost and it is of three", vec![to(1.0, 2, 5)], &[1.0], &lost, "scale_up_hpa 0.80"),
            (
                "fewer were wanted first",
                vec![to(1.5, 3, 0), to(1.0, 0, 3)],
                &[1.0],
                &lost,
                "scale_up_hpa 1.00",
            ),
            ("beyond three", vec![to(1.0, 2, 5)], &[1.0, 1.0, 0.0], &none, "reschedule 0.70"),
            ("beyond three, one was lost", vec![to(1.0, 2, 5)], &[1.0, 1.0, 0.0], &lost, "reschedule 0.90"),
            (
                "those before it do not count",
                vec![to(1.0, 2, 5)],
                &[9.0, 2.0, 2.0],
                &none,
                "scale_up_hpa 1.00",
            ),
            (
                "late of the first of two",
                vec![to(3.0, 2, 5), to(1.0, 5, 6)],
                &[3.0, 1.0, 1.0],
                &none,
                "scale_up_hpa 1.00",
            ),
            (
                "beyond two",
                vec![to(3.0, 2, 5), to(1.0, 5, 6)],
                &[3.0, 3.0, 1.0, 1.0],
                &lost,
                "reschedule 0.90",
            ),
            (
                "of hundreds, made one after the other",
                vec![to(10.0, 2, 300)],
                &[],
                &none,
                "scale_up_hpa 0.85",
            ),
        ];
        let pod = pod("ReplicaSet");
        for (name, changes, before, looks, expected) in table {
            let record = record([vec![created.clone()], changes].concat());
            let siblings = siblings(before);
            let facts = Evidence {
                pod: Some(&pod),
                record: Some(&record),
                siblings: &siblings,
                looks: Some(looks),
                ..Evidence::default()
            };
            assert_eq!(reported(facts), expected, "{name}");
        }
    }

    #[test]
    fn one_look_counts_too() {
        let (owner, top) = (set(1.0), deployment(900.0, "kubectl", true));
        let looks = OwnerLookups {
            before: Some(Look { looked: MADE - 0.5, desired: Some(2), revision: Some(2), generation: 4 }),
            ..OwnerLookups::default()
        };
        let pod = pod("ReplicaSet");
        let table = [
            (&[0.0][..], "scale_up_manual 0.90"),
            (&[0.0, 0.0], "reschedule 0.70"),
            // Reported before the look-up that still showed no scaling.
            (&[1.0, 1.0], "scale_up_manual 0.90"),
        ];
        for (before, expected) in table {
            let siblings = siblings(before);
            let facts = Evidence {
                pod: Some(&pod),
                owner: Some(&owner),
                top: Some(&top),
                looks: Some(&looks),
                siblings: &siblings,
                ..Evidence::default()
            };
            assert_eq!(reported(facts), expected, "{before:?}");
        }
    }

    proptest::proptest! {
        /// Clocks may be anywhere, and objects may be absurd: there is always an answer, and its confidence is one.
        #[test]
        fn no_facts_are_too_absurd(
            times in proptest::collection::vec(proptest::num::f64::ANY, 5),
            numbers in proptest::collection::vec(proptest::num::u64::ANY, 4),
            kind in "(ReplicaSet|StatefulSet|Job|Rollout|)",
        ) {
            let pod = Pod { created: times[0], ..pod(&kind) };
            let owner = Owner {
                created: times[1],
                controller_wrote: Some(times[2]),
                desired: Some(numbers[0]),
                revision: Some(numbers[1]),
                ..set(0.0)
            };
            let looks = OwnerLookups {
                before: Some(Look {
                    looked: times[3],
                    desired: Some(numbers[2]),
                    revision: Some(numbers[3]),
                    generation: 0,
                }),
                lost: vec![("x".into(), "y".into(), times[3])],
                ..OwnerLookups::default()
            };
            let record = record(vec![scaled(times[4], numbers[0], numbers[1], ByKind::Hpa), rolled(times[3], 0.0, "7")]);
            for record in [None, Some(&record)] {
                let facts = Evidence {
                    pod: Some(&pod),
                    owner: Some(&owner),
                    looks: Some(&looks),
                    record,
                    ..Evidence::default()
                };
                let decision = decide(&facts).unwrap();
                proptest::prop_assert!((0.0..=1.0).contains(&decision.confidence));
            }
        }
    }
}
