//! Which hook a probe will use on this host. Pure: facts in, decision out.

use observer_ebpf::{
    field::Field,
    probe::{ArgType, Hook, Intent, Point, Probe},
};

use crate::{
    config::ProbeChoice,
    sources::kernel::support::{Lockdown, Support},
};

#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Attach the hook with this index; `passed_over` says why a better one cannot be used.
    Attach {
        hook: usize,
        passed_over: Option<String>,
    },
    /// The host cannot: what is missing.
    Unsupported {
        missing: String,
    },
    Disabled,
    /// It costs too much for a default, and was not requested.
    NotAsked,
}

pub fn plan(probe: &Probe, support: &Support, choice: &ProbeChoice) -> Plan {
    let named = |names: &[String]| names.iter().any(|name| name == probe.name);
    if named(&choice.disabled) {
        return Plan::Disabled;
    }
    if probe.intent == Intent::OnRequest && !named(&choice.enabled) {
        return Plan::NotAsked;
    }
    if let Some(missing) = support.cannot_load() {
        return Plan::Unsupported { missing };
    }
    let Ok(layout) = &support.layout else {
        return Plan::Unsupported { missing: "kernel type information (BTF)".into() };
    };
    let absent: Vec<String> =
        probe.needs.iter().filter(|field| layout.offset(**field).is_none()).map(describe).collect();
    if !absent.is_empty() {
        return Plan::Unsupported { missing: format!("kernel field {}", absent.join(", ")) };
    }
    let mut reasons = Vec::new();
    for (index, hook) in probe.hooks.iter().enumerate() {
        match lacks(hook, support) {
            None => {
                let passed_over = (!reasons.is_empty()).then(|| reasons.join("; "));
                return Plan::Attach { hook: index, passed_over };
            }
            Some(reason) => reasons.push(reason),
        }
    }
    Plan::Unsupported { missing: reasons.join("; ") }
}

fn lacks(hook: &Hook, support: &Support) -> Option<String> {
    let layout = support.layout.as_ref().ok()?;
    hook.attachments.iter().find_map(|attachment| match attachment.point {
        Point::TpBtf { name, arg } => match (layout.tracepoint(name), arg) {
            (None, _) => Some(format!("tracepoint {name}")),
            (Some(args), Some(asked)) if !args.get(asked.index).is_some_and(|arg| arg.is(asked.ty)) => {
                let ty = match asked.ty {
                    ArgType::PointerTo(ty) => format!("struct {ty} *"),
                    ArgType::Integer => "integer".to_owned(),
                };
                Some(format!("tracepoint {name} with argument {} of type {ty}", asked.index))
            }
            _ => None,
        },
        Point::Fentry { function } | Point::Fexit { function } => match support.lockdown {
            Lockdown::Integrity | Lockdown::Confidentiality => {
                Some("trampolines on functions, which lockdown refuses".to_owned())
            }
            _ if !layout.function(function) => Some(format!("function {function}")),
            _ => None,
        },
        Point::Iter { over } => {
            (!layout.iterator(over)).then(|| format!("iterator over {over}s (bpf_iter_{over})"))
        }
    })
}

fn describe(field: &Field) -> String {
    use observer_ebpf::field::Source;
    match field.source() {
        Source::Member { ty, path } => format!("{ty}.{path}"),
        Source::Moved { ty, paths } => format!("{ty}.{}", paths.join(&format!(" or {ty}."))),
        Source::Element { ty, member, enumerator, .. } => format!("{ty}.{member}[{enumerator}]"),
        Source::Enumerator { enumeration, enumerator } => format!("{enumeration}.{enumerator}"),
        Source::Rss { kind } => format!("mm_struct.rss_stat[{kind}]"),
    }
}

/// The hook's name for people: `tp_btf page_fault_user`.
pub fn name(hook: &Hook) -> String {
    let mut text = String::new();
    let mut last = "";
    for attachment in hook.attachments {
        let (kind, target) = (attachment.point.kind(), attachment.point.target());
        let separator = if text.is_empty() { "" } else { ", " };
        text += separator;
        if kind != last {
            text += kind;
            text += " ";
        }
        text += target;
        last = kind;
    }
    text
}

#[cfg(test)]
mod tests {
    use observer_ebpf::{
        probe::ArgIs,
        probes::{self, fault_latency, oom_kill, page_fault},
    };

    use super::*;
    use crate::sources::kernel::btf::{Arg, Layout};

    fn all_tracepoints() -> Vec<(&'static str, Vec<Arg>)> {
        let asked = |arg: Option<ArgIs>| match arg.map(|arg| arg.ty) {
            None => Some("task_struct"),
            Some(ArgType::PointerTo(ty)) => Some(ty),
            Some(ArgType::Integer) => None,
        };
        let attachments = probes::ALL.iter().flat_map(|probe| probe.hooks).flat_map(|hook| hook.attachments);
        // The last of a name is what the layout keeps: the one that is preferred.
        attachments
            .rev()
            .filter_map(|attachment| match attachment.point {
                Point::TpBtf { name, arg } => Some((name, vec![Arg::PointerTo(asked(arg)?.into())])),
                Point::Fentry { .. } | Point::Fexit { .. } | Point::Iter { .. } => None,
            })
            .collect()
    }

    fn all() -> ProbeChoice {
        let on_request = probes::ALL.iter().filter(|probe| probe.intent == Intent::OnRequest);
        ProbeChoice { enabled: on_request.map(|probe| probe.name.to_owned()).collect(), disabled: Vec::new() }
    }

    #[test]
    fn everything_there_means_the_preferred_hook() {
        let support = Support::made_up(Layout::complete_but(&[], &all_tracepoints()));
        for probe in probes::ALL {
            assert_eq!(
                plan(probe, &support, &all()),
                Plan::Attach { hook: 0, passed_over: None },
                "{}",
                probe.name
            );
        }
    }

    #[test]
    fn a_pid_argument_selects_the_older_hook_and_says_why() {
        let layout = Layout::complete_but(
            &[],
            &[("signal_generate", Vec::new()), ("mark_victim", vec![Arg::Integer])],
        );
        let Plan::Attach { hook: 1, passed_over: Some(why) } =
            plan(&oom_kill::PROBE, &Support::made_up(layout), &ProbeChoice::default())
        else {
            panic!("the hook for a pid was not chosen")
        };
        assert!(why.contains("struct task_struct *"), "{why}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let layout = Layout::complete_but(&[Field::CssSerial], &all_tracepoints());
        let Plan::Unsupported { missing } =
            plan(&page_fault::PROBE, &Support::made_up(layout), &ProbeChoice::default())
        else {
            panic!("supported without a field it needs")
        };
        assert!(missing.contains("cgroup_subsys_state.serial_nr"), "{missing}");
    }

    #[test]
    fn without_a_tracepoint_a_function_is_hooked_unless_lockdown_refuses() {
        let mut support = Support::made_up(Layout::complete_but(&[], &[]));
        let missing = "tracepoint page_fault_user".to_owned();
        let with = |support: &Support| plan(&page_fault::PROBE, support, &ProbeChoice::default());
        assert_eq!(with(&support), Plan::Attach { hook: 1, passed_over: Some(missing.clone()) });
        support.lockdown = Lockdown::Integrity;
        let missing = format!("{missing}; trampolines on functions, which lockdown refuses");
        assert_eq!(with(&support), Plan::Unsupported { missing });
    }

    #[test]
    fn a_disabled_probe_is_not_attached() {
        let support = Support::made_up(Layout::complete_but(&[], &all_tracepoints()));
        assert_eq!(
            plan(&page_fault::PROBE, &support, &ProbeChoice { disabled: vec!["page_fault".into()], ..all() }),
            Plan::Disabled
        );
    }

    #[test]
    fn what_costs_more_is_attached_only_when_asked_for() {
        let support = Support::made_up(Layout::complete_but(&[], &all_tracepoints()));
        assert_eq!(plan(&fault_latency::PROBE, &support, &ProbeChoice::default()), Plan::NotAsked);
    }

    #[test]
    fn lockdown_refuses_trampolines_and_nothing_else() {
        let mut support = Support::made_up(Layout::complete_but(&[], &all_tracepoints()));
        support.lockdown = Lockdown::Integrity;
        for probe in probes::ALL {
            let trampolines = ["oom_scope", "fault_latency"].contains(&probe.name);
            let attaches = matches!(plan(probe, &support, &all()), Plan::Attach { .. });
            assert_eq!(attaches, !trampolines, "{}", probe.name);
        }
    }
}
