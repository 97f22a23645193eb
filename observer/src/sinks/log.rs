//! Findings -> log lines a person reads. Nothing per event: what began, ended or was concluded, and the probes once.

use observer_core::model::{
    advice::{AdvisedLimit, Grade},
    cause::Cause,
    container::{Container, ExitStatus},
    event::{AttachOutcome, Limit, Loss, ProbeStatus, VictimMemory},
    finding::{
        Advised, Caused, Ended, Finding, FindingKind, ForeseenBy, LimitKind, OomKilled, OomRole, OomScope,
        ScaleEvent,
    },
    kubernetes::ApiState,
    printable::printable,
    units::{Bytes, Seconds},
};

/// Writes the line a finding is worth, if any.
pub fn log(finding: &Finding) {
    match &finding.what {
        FindingKind::Probe(status) => probe(status),
        FindingKind::OomKilled(_)
        | FindingKind::StampedeBegan(_)
        | FindingKind::ShortageForecast(_)
        | FindingKind::LimitAhead(_)
        | FindingKind::OomLinked(_)
        | FindingKind::HistoryDropped { short: true, .. }
        | FindingKind::Api(ApiState::Away { .. } | ApiState::Forbidden { .. } | ApiState::Clock { .. }) => {
            if let Some(line) = line(finding) {
                tracing::warn!("{line}");
            }
        }
        // Said where the read failed, once for each kind of error.
        FindingKind::Lost {
            loss: Loss::CgroupUnreadable | Loss::NodeUnreadable | Loss::HostStalled, ..
        } => {}
        FindingKind::Lost { loss, count } => {
            tracing::warn!(
                count,
                "data lost: {}; see observer_lost_records_total in docs/operating.md",
                loss.name()
            );
        }
        _ => {
            if let Some(line) = line(finding) {
                tracing::info!("{line}");
            }
        }
    }
}

fn probe(status: &ProbeStatus) {
    let name = &status.probe;
    match &status.outcome {
        AttachOutcome::Attached { hook } => tracing::info!("probe {name}: attached to {hook}"),
        AttachOutcome::Fallback { by, why, lost } => {
            tracing::info!("probe {name}: {by} instead ({why}); lost: {lost}")
        }
        AttachOutcome::Unsupported { missing, lost } => {
            tracing::info!("probe {name}: unsupported, no {missing}; lost: {lost}")
        }
        AttachOutcome::Broken { error, lost } => {
            tracing::warn!("probe {name}: broken, {error}; lost: {lost}")
        }
        AttachOutcome::Disabled { lost } => tracing::info!("probe {name}: disabled; lost: {lost}"),
    }
}

/// What is wrong and what would be right; nothing for a workload with nothing to complain of.
fn advice(advised: &Advised) -> Option<String> {
    let Advised { facts, advice, news } = advised;
    let failed = advice.verdicts.iter().filter(|verdict| verdict.grade == Grade::Fail);
    let failed: Vec<&str> = failed.map(|verdict| verdict.check.name()).collect();
    if failed.is_empty() || !news {
        return None;
    }
    let numbers = &advice.numbers;
    Some(format!(
        "advice for {}: {}{}{}; see observer advise --explain",
        facts.workload,
        failed.join(", "),
        numbers.request.map_or(String::new(), |bytes| format!(", request {}", Bytes(bytes))),
        match numbers.limit {
            Some(AdvisedLimit::Firm(bytes)) => format!(", limit {}", Bytes(bytes)),
            Some(AdvisedLimit::Trial(bytes)) => format!(", try a limit of {}", Bytes(bytes)),
            None => String::new(),
        },
    ))
}

/// One line for a finding that is news; also what `observer replay --story` prints.
pub fn line(finding: &Finding) -> Option<String> {
    // One event is one line, whatever processes, groups and pods are called.
    text(finding).map(|text| printable(&text).into_owned())
}

fn text(finding: &Finding) -> Option<String> {
    Some(match &finding.what {
        FindingKind::Started(started) => {
            let name = name(&started.container);
            let why = match started.cause {
                Cause::RestartAfterOomKill => " again after an OOM kill",
                Cause::RestartAfterFailure => " again after a failure",
                Cause::RestartAfterCompletion => " again after it had completed",
                Cause::RestartAfterKill => " again after it was stopped by a signal",
                Cause::RestartUnknown => " again",
                // Reported when it is known: see `Caused`.
                _ => "",
            };
            match &started.command {
                Some(command) => format!("{name}: started{why} ({command})"),
                None => format!("{name}: started{why} (a process moved in, no exec seen)"),
            }
        }
        FindingKind::Caused(Caused { container, decision, before, .. }) if !decision.evidence.is_empty() => {
            let instead = before.as_ref().map_or(String::new(), |before| {
                format!(" (previously {}, confidence {:.2})", before.cause.name(), before.confidence)
            });
            format!(
                "{}: was started because of {} (confidence {:.2}): {}{instead}",
                name(container),
                decision.cause.name(),
                decision.confidence,
                decision.evidence.join("; "),
            )
        }
        FindingKind::Identified { container, before, .. } => {
            format!(
                "{}: identified; previously reported as {}/{}",
                name(container),
                before.pod,
                before.container
            )
        }
        FindingKind::Api(state) => match state {
            ApiState::Watching { node, .. } => format!("watching the pods of node {node}"),
            ApiState::Synced => "every pod of this node is known".to_owned(),
            ApiState::Away { why } => format!(
                "the Kubernetes API does not answer: {why}; measurement continues, pod names and start causes are delayed"
            ),
            ApiState::Forbidden { what, lost, .. } => format!("{what}; {lost}"),
            ApiState::Clock { ahead_seconds } => format!(
                "the API server's clock is {ahead_seconds:+.1} s ahead of this node's; causes compare the two, and are less sure beyond 2 s"
            ),
        },
        FindingKind::ScaleEventBegan(event) => {
            format!("{}: placing pods on this node", scale_event(event))
        }
        FindingKind::ScaleEventEnded(ended) => format!(
            "{}: finished on this node: {} container(s) (at most {} starting concurrently), sum of peaks {}, of which overshoot {}, stalled {}, {} OOM kill(s) of its own and {} of others{}",
            scale_event(&ended.event),
            ended.pods,
            ended.starting_max,
            Bytes(ended.peak_sum),
            Bytes(ended.overshoot_sum),
            Seconds(ended.stall_seconds),
            ended.oom_kills,
            ended.bystander_kills,
            match ended.settled_seconds {
                Some(seconds) => format!(", all settled after {}", Seconds(seconds)),
                None => ", not all settled".to_owned(),
            },
        ),
        FindingKind::HistoryDropped { workloads, startups, short: true } => format!(
            "its own memory is short: what it remembers of start-ups makes room; since its start {workloads} workload(s) and {startups} start-up(s) of others were dropped"
        ),
        FindingKind::Advised(advised) => return advice(advised),
        FindingKind::OomLinked(linked) => format!(
            "{}: {} {} {}",
            name(&linked.container),
            match linked.kills {
                1 => "OOM kill".to_owned(),
                kills => format!("{kills} OOM kills"),
            },
            match linked.role {
                OomRole::Victim => "of a container made by",
                OomRole::UnderWay => "while containers were starting that were made by",
            },
            scale_event(&linked.scale_event),
        ),
        FindingKind::StartupPeak(peak) => {
            let limit = match peak.limit {
                Some(Limit::Bytes(limit)) if limit > 0 => {
                    format!(
                        ", {:.0} % of its limit {}",
                        100.0 * peak.bytes as f64 / limit as f64,
                        Bytes(limit)
                    )
                }
                _ => String::new(),
            };
            let anon = peak
                .anon
                .map_or(String::new(), |anon| format!(", {} of it anonymous or shared", Bytes(anon)));
            format!(
                "{}: start-up peak {} after {}{limit}{anon}",
                name(&peak.container),
                Bytes(peak.bytes),
                Seconds(peak.seconds)
            )
        }
        FindingKind::Stable(stable) => format!(
            "{}: stable after {} at {}, overshoot {:.2} (confirmed at {})",
            name(&stable.container),
            Seconds(stable.seconds),
            Bytes(stable.level),
            stable.overshoot,
            Seconds(stable.confirmed_seconds),
        ),
        FindingKind::LateStep { container, stable, before_seconds } => format!(
            "{}: new plateau {} at {}; was reported stable at {}",
            name(container),
            Bytes(stable.level),
            Seconds(stable.seconds),
            Seconds(*before_seconds),
        ),
        FindingKind::Drifting { container, bytes_per_second } => {
            let sign = if *bytes_per_second < 0.0 { "-" } else { "" };
            format!(
                "{}: drifting, {sign}{}/s and not slowing down",
                name(container),
                Bytes(bytes_per_second.abs() as u64)
            )
        }
        FindingKind::Oscillating { container, low, high, period_seconds, .. } => format!(
            "{}: oscillating between {} and {} every {}",
            name(container),
            Bytes(*low),
            Bytes(*high),
            Seconds(*period_seconds),
        ),
        FindingKind::OomKilled(killed) => oom_killed(killed),
        FindingKind::Ended(ended) => self::ended(ended),
        FindingKind::StampedeBegan(stampede) => format!(
            "stampede: {} start-ups hold {} and are expected to take {} more, {} available: {}",
            stampede.members.len(),
            Bytes(stampede.held),
            Bytes(stampede.growth),
            Bytes(stampede.available),
            names(&stampede.members),
        ),
        FindingKind::StampedeEnded(stampede) => format!(
            "stampede over after {}: {} start-ups held up to {} together, {} now; {} available at the least, {} OOM kill(s): {}",
            Seconds(stampede.seconds),
            stampede.members.len(),
            Bytes(stampede.highest_sum),
            Bytes(stampede.held_now),
            Bytes(stampede.lowest_available),
            stampede.oom_kills,
            names(&stampede.members),
        ),
        FindingKind::ShortageForecast(short) => format!(
            "the node will run short: {} starting, expected to take {} more within {}, {} available{}",
            short.starting,
            Bytes(short.forecast.growth),
            Seconds(short.forecast.in_seconds),
            Bytes(short.available),
            match short.forecast.unknown {
                0 => String::new(),
                n => format!("; {n} of them start for the first time and are not counted"),
            },
        ),
        FindingKind::LimitAhead(ahead) if ahead.news => format!(
            "{}: will meet {} at {} in {}, {} (confidence {:.2})",
            name(&ahead.container),
            match ahead.limit {
                LimitKind::Container => "its own limit",
                LimitKind::Pod => "its pod's limit",
                LimitKind::Node => "the end of the node's room",
            },
            Bytes(ahead.bytes),
            Seconds(ahead.in_seconds),
            match ahead.by {
                ForeseenBy::Trend => "as it grows now",
                ForeseenBy::History => "as its earlier start-ups did",
            },
            ahead.confidence,
        ),
        FindingKind::ClockSet { moved_seconds } => {
            format!("the wall clock was set by {moved_seconds:+.1} s; start times follow it")
        }
        FindingKind::Lost { loss, count } => format!("data lost: {} ({count} so far)", loss.name()),
        _ => return None,
    })
}

fn oom_killed(killed: &OomKilled) -> String {
    let who = killed.container.as_ref().map_or("a process in no container".to_owned(), name);
    let victim = match killed.victim_command.as_str() {
        _ if killed.reconciled => {
            format!("{} process(es) that only the kernel's count reports", killed.kills)
        }
        "" if killed.victim_pid == 0 => format!("{} process(es), unnamed", killed.kills),
        "" => format!("a process without a name (pid {})", killed.victim_pid),
        command => format!("{command} (pid {})", killed.victim_pid),
    };
    let exceeded = match (killed.scope, killed.limit) {
        (OomScope::Inside, Some(limit)) => match killed.own_limit {
            Some(own) => format!(
                "a limit inside the container, {}, was hit; the container's is {}",
                Bytes(limit),
                Bytes(own)
            ),
            None => format!("a limit inside the container, {}, was hit", Bytes(limit)),
        },
        (OomScope::Container, Some(limit)) if killed.container.is_none() => {
            format!("the limit {} of its group was hit", Bytes(limit))
        }
        (OomScope::Container, Some(limit)) => format!("its own limit {} was hit", Bytes(limit)),
        (OomScope::Parent, Some(limit)) => format!("its parent's limit {} was hit", Bytes(limit)),
        (OomScope::Ancestor, Some(limit)) => format!("the limit {} of a group above was hit", Bytes(limit)),
        (OomScope::Ancestor, None) => "the limit of a group above was hit".to_owned(),
        (OomScope::Node, _) => "the node ran out of memory".to_owned(),
        (_, _) => "whose limit it was is not known".to_owned(),
    };
    let when = match (killed.starting, killed.age_seconds) {
        _ if killed.before_exec && killed.scope.is_own() => {
            ", before its entry point was executed (the limit is too low for the runtime to start it)"
                .to_owned()
        }
        (true, Some(age)) => format!(", {} into its start-up", Seconds(age)),
        (false, Some(age)) => format!(", {} after start", Seconds(age)),
        _ => String::new(),
    };
    let invoker = match &killed.invoker {
        Some(invoker) => {
            format!("; {} of {} asked for the memory", command(&killed.invoker_command), name(invoker))
        }
        None => String::new(),
    };
    let held = held(killed.victim_memory, killed.usage);
    format!("{who}: OOM kill of {victim}{when}: {exceeded}, {held}{invoker}")
}

/// What an OOM kill's victim held, and its group's usage.
pub fn held(victim: Option<VictimMemory>, usage: u64) -> String {
    match victim {
        Some(memory) => format!(
            "it held {} (anonymous {}, shared {}, file {}), its group {}",
            Bytes(memory.all()),
            Bytes(memory.anon),
            Bytes(memory.shmem),
            Bytes(memory.file),
            Bytes(usage),
        ),
        None => format!("its group held {}", Bytes(usage)),
    }
}

/// A process may call itself nothing.
pub fn command(command: &str) -> &str {
    if command.is_empty() { "a process without a name" } else { command }
}

/// `deployment shop/web scaled from 2 to 4 by hpa web (cpu above target)`.
fn scale_event(event: &ScaleEvent) -> String {
    let from = event.from.map_or(String::new(), |from| format!("from {from} "));
    let reason = if event.by.reason.is_empty() { String::new() } else { format!(" ({})", event.by.reason) };
    format!(
        "{} {}/{} scaled {from}to {} by {}{reason}",
        event.workload_type,
        event.namespace,
        event.workload,
        event.to,
        event.by.who(),
    )
}

fn ended(ended: &Ended) -> String {
    let how = match ended.status {
        Some(ExitStatus::Code(code)) => format!("exit code {code}"),
        Some(ExitStatus::Signal(signal)) => format!("signal {signal}"),
        None => "unseen".to_owned(),
    };
    let oom = if ended.oom_killed { ", OOM-killed" } else { "" };
    let age = ended.age_seconds.map_or(String::new(), |age| format!(" after {}", Seconds(age)));
    format!("{}: ended{age} ({how}{oom}), it was {}", name(&ended.container), ended.was.name())
}

/// Each workload with how many of it.
fn names(containers: &[Container]) -> String {
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    for container in containers {
        *counts.entry(&container.labels.workload).or_default() += 1;
    }
    let shown = counts.iter().map(|(workload, n)| format!("{n} of {workload}"));
    shown.collect::<Vec<_>>().join(", ")
}

fn name(container: &Container) -> String {
    let labels = &container.labels;
    match labels.pod.as_str() {
        "" => labels.container.clone(),
        pod => format!("{}/{pod}/{}", labels.namespace, labels.container),
    }
}
