//! `observer check`: what this host offers, which hook each probe will use, what is lost otherwise, how to fix it.

use std::fmt::Write;

use observer_ebpf::{
    probe::{Intent, Point, Probe},
    probes,
};

use crate::{
    config::ProbeChoice,
    sources::kernel::{
        attach,
        plan::{self, Plan},
        support::{Lockdown, Support},
    },
};
use observer_core::model::event::CgroupVersion;

pub struct Report {
    pub text: String,
    /// Whether containers can be measured and every required probe can run.
    pub can_run: bool,
}

pub fn report(support: &Support, choice: &ProbeChoice) -> Report {
    let mut text = String::from("Host\n");
    for (name, value, remedy) in facts(support) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<14}{value}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "  {:<14}-> {remedy}", "");
        }
    }
    text.push_str("\nProbes\n");
    let mut can_run = true;
    for probe in probes::ALL {
        can_run &= probe_lines(&mut text, probe, &plan::plan(probe, support, choice), support.lockdown);
    }
    text.push_str(match (&support.hierarchy, can_run) {
        (Err(_), _) => "\nNo container can be measured here: `observer run` would not start.\n",
        (Ok(_), true) => "\nEvery required probe can run here.\n",
        (Ok(_), false) => {
            "\nA required probe cannot run here: `observer run` would measure what files report and stay not ready.\n"
        }
    });
    Report { text, can_run: can_run && support.hierarchy.is_ok() }
}

/// Returns whether the observer can be ready with this plan.
fn probe_lines(text: &mut String, probe: &Probe, plan: &Plan, lockdown: Lockdown) -> bool {
    let required = probe.intent == Intent::Required;
    // By trampoline, which lockdown refuses.
    let on_function = |hook: usize| {
        let points = probe.hooks[hook].attachments.iter().map(|attachment| attachment.point);
        points.into_iter().any(|point| matches!(point, Point::Fentry { .. } | Point::Fexit { .. }))
    };
    let (mark, verdict) = match plan {
        Plan::Attach { hook, .. } if lockdown == Lockdown::Unknown && on_function(*hook) => (
            "??",
            format!(
                "{}, unless the kernel is locked down, which cannot be seen here",
                plan::name(&probe.hooks[*hook])
            ),
        ),
        Plan::Attach { hook, passed_over: None } => ("ok", plan::name(&probe.hooks[*hook])),
        Plan::Attach { hook, passed_over: Some(why) } => {
            ("ok", format!("{} (this kernel lacks {why})", plan::name(&probe.hooks[*hook])))
        }
        Plan::Unsupported { missing } => ("--", format!("cannot run: no {missing}")),
        Plan::Disabled => ("--", "disabled by configuration".to_owned()),
        Plan::NotAsked => ("--", "attached on request: --enable-probe".to_owned()),
    };
    let verdict = match probes::is_while_starting(probe) && matches!(plan, Plan::Attach { .. }) {
        true => format!("{verdict}, only while a container starts"),
        false => verdict,
    };
    let intent = intent_name(probe.intent);
    let _ = writeln!(text, "  {mark} {:<13} {intent:<9} {verdict}", probe.name);
    let _ = writeln!(text, "     {:<13} sees {}", "", probe.sees);
    let runs = matches!(plan, Plan::Attach { .. });
    if !runs && !matches!(plan, Plan::NotAsked) {
        let _ = writeln!(text, "     {:<13} lost: {}", "", attach::lost(&probe.fallback));
    }
    runs || !required
}

pub fn intent_name(intent: Intent) -> &'static str {
    match intent {
        Intent::Required => "required",
        Intent::Optional => "optional",
        Intent::OnRequest => "request",
    }
}

type Fact = (&'static str, String, Option<String>);

fn facts(support: &Support) -> Vec<Fact> {
    let mut facts: Vec<Fact> = vec![("kernel", support.kernel.clone(), None)];
    facts.push(match &support.layout {
        Ok(_) => ("types (BTF)", support.btf_path.display().to_string(), None),
        Err(error) => (
            "types (BTF)",
            error.to_string(),
            Some("without BTF no probe can run: use a kernel with CONFIG_DEBUG_INFO_BTF=y".into()),
        ),
    });
    facts.push(match &support.hierarchy {
        Ok(hierarchy) => {
            let version = match hierarchy.version {
                CgroupVersion::V2 => "v2".to_owned(),
                CgroupVersion::V1 => {
                    format!("v1 (hierarchy {}): no memory.events, no pressure per container", hierarchy.id)
                }
            };
            let place = format!("{version}, memory controller at {}", hierarchy.root.display());
            let remedy =
                "use the host's cgroup namespace, or mount its tree and give that with --cgroup-root";
            match hierarchy.is_part() {
                false => ("cgroup", place, None),
                true => (
                    "cgroup",
                    format!("{place}, only a part of the tree: containers outside of it are not measured"),
                    Some(remedy.into()),
                ),
            }
        }
        Err(error) => ("cgroup", error.to_string(), None),
    });
    facts.push(match support.psi {
        true => ("PSI", "/proc/pressure/memory".into(), None),
        false => (
            "PSI",
            "absent: time stalled on memory is not reported".into(),
            Some("boot with psi=1, or a kernel with CONFIG_PSI=y".into()),
        ),
    });
    facts.push(match support.lockdown {
        Lockdown::Unknown => {
            let remedy = "mount -t securityfs securityfs /sys/kernel/security";
            (
                "lockdown",
                "unknown (securityfs not mounted, or not in this kernel)".into(),
                Some(remedy.into()),
            )
        }
        Lockdown::None => ("lockdown", "none".into(), None),
        Lockdown::Integrity => {
            ("lockdown", "integrity: kprobes and fentry are refused, tp_btf works".into(), None)
        }
        Lockdown::Confidentiality => (
            "lockdown",
            "confidentiality: programs may not read kernel memory".into(),
            Some("boot with lockdown=integrity or none".into()),
        ),
    });
    let has = |yes: bool| if yes { "yes" } else { "no" };
    let c = support.capabilities;
    facts.push((
        "capabilities",
        format!("CAP_BPF {}, CAP_PERFMON {}, CAP_SYS_ADMIN {}", has(c.bpf), has(c.perfmon), has(c.sys_admin)),
        (!c.can_load()).then(|| "run as root, or add CAP_BPF and CAP_PERFMON".into()),
    ));
    facts.push(match support.object {
        Some(object) => ("eBPF object", format!("{} KiB in this binary", object.len() / 1024), None),
        None => (
            "eBPF object",
            "not in this binary".into(),
            Some("run `cargo xtask build-ebpf`, then build again".into()),
        ),
    });
    facts
}
