//! The declarations -> docs/metrics.md and docs/probes.md, and the tables of docs/advice.md and docs/causes.md.
//! Committed, and checked fresh by a test.

use std::fmt::Write;

use observer_ebpf::{
    field::Source,
    probe::{ArgType, Intent, Point},
    probes,
};

use observer_core::model::{advice::Check, cause::Cause};

use crate::{ledger, lend, sinks::metrics};

pub fn metrics_md() -> String {
    let mut families = metrics::declarations();
    families.extend(ledger::metrics::ALL.iter().chain(lend::metrics::ALL).copied());
    metrics_of(families)
}

pub fn metrics_of(mut families: Vec<&metrics::Declaration>) -> String {
    let mut md = String::from(
        "# Metrics\n\nGenerated from the declarations by `cargo xtask docs`; a test keeps it fresh.\n\n\
         Amounts are bytes, spans seconds. Container series carry `namespace`, `pod`, `container`, the labels everybody \
         else's metrics join on, and `workload`, `workload_type`; workload, history, advice and scale series all of these but \
         `pod`. A label that is empty is absent: outside Kubernetes there is no `namespace` and no `pod`, and `container` is the \
         systemd unit, the container id or the cgroup's path in container series, absent in workload series.\n\n\
         What a container uses is gone at its end; its peak, time to stable, state and counters stay for the retention (5 minutes \
         unless configured). A workload without a container leaves after the retention, or after an hour if a start-up of it got a \
         verdict, it had an OOM kill or a scale-up; at most 1,000 are kept, those that ran last. A running container has at most 14 \
         series at rest, a workload 20.\n\nA scraper that prefers OpenMetrics by `Accept` gets it, with `_created` of each \
         counter. What is remembered of workloads is on /metrics/history (`observer_workload_history_*` but for those that rules and panels use), to be scraped every few minutes.\n",
    );
    const GROUPS: [&str; 9] =
        ["container", "workload", "advice", "scale", "node", "observer", "process", "ledger", "lend"];
    let group_of = |name: &str| {
        let word = name.strip_prefix("observer_").unwrap_or(name).split('_').next();
        GROUPS.into_iter().find(|group| Some(*group) == word).unwrap_or("observer")
    };
    families.sort_by_key(|family| GROUPS.iter().position(|group| *group == group_of(family.name)));
    let mut group = "";
    for family in families {
        let of = group_of(family.name);
        if of != group {
            group = of;
            let _ = write!(md, "\n## {group}\n\n| name | type | labels | meaning |\n|---|---|---|---|\n");
        }
        let own = family.labels.iter().filter(|label| {
            // Those the ledger declares itself.
            !["namespace", "workload", "workload_type"].contains(*label)
        });
        let own: Vec<String> = own.map(|label| format!("`{label}`")).collect();
        let common = match group {
            "container" => "container labels",
            "workload" | "advice" | "scale" => "workload labels",
            _ => "",
        };
        let labels = [common.to_owned(), own.join(", ")].into_iter().filter(|l| !l.is_empty());
        let labels: Vec<String> = labels.collect();
        let (kind, help) = (family.kind.name(), family.help);
        let _ = writeln!(md, "| `{}` | {kind} | {} | {help} |", family.name, labels.join(", "));
    }
    md
}

pub fn probes_md() -> String {
    let mut md = String::from(
        "# Probes\n\nGenerated from the declarations by `cargo xtask docs`; a test keeps it fresh. `observer check` says \
         which of these hooks this host offers, `/api/v1/probes` and `observer_probe_status` what was attached; \
         [kernels.md](kernels.md) what real kernels from 5.10 to the newest said.\n",
    );
    for probe in probes::ALL {
        let intent = match probe.intent {
            Intent::Required => "required: without it the observer is not ready",
            Intent::Optional => "optional",
            Intent::OnRequest => "on request: `--enable-probe`",
        };
        let _ = write!(md, "\n## {}\n\nSees {}. ({intent})\n\n", probe.name, probe.sees);
        md.push_str("| preference | hook | program | condition |\n|---|---|---|---|\n");
        for (preference, hook) in probe.hooks.iter().enumerate() {
            for attachment in hook.attachments {
                let arg = if let Point::TpBtf { arg, .. } = attachment.point { arg } else { None };
                let (kind, target) = (attachment.point.kind(), attachment.point.target());
                let condition = arg.map_or(String::new(), |arg| match arg.ty {
                    ArgType::PointerTo(ty) => format!("argument {} is a `struct {ty} *`", arg.index),
                    ArgType::Integer => format!("argument {} is an integer", arg.index),
                });
                let program = attachment.program;
                let _ =
                    writeln!(md, "| {} | {kind} `{target}` | `{program}` | {condition} |", preference + 1);
            }
        }
        let by = probe.fallback.by.unwrap_or("none");
        let _ = write!(md, "\nFallback: {by}. Lost: {}.\n\nKernel fields read: ", probe.fallback.lost);
        let fields: Vec<String> = probe
            .needs
            .iter()
            .map(|field| match field.source() {
                Source::Member { ty, path } => format!("`{ty}.{path}`"),
                Source::Moved { ty, paths } => format!("`{ty}.{}`", paths.join(&format!("` or `{ty}."))),
                Source::Enumerator { enumeration, enumerator } => {
                    format!("`enum {enumeration}`: `{enumerator}`")
                }
                Source::Element { ty, member, enumerator, .. } => format!("`{ty}.{member}[{enumerator}]`"),
                Source::Rss { kind } => format!("`mm_struct.rss_stat[{kind}]`"),
            })
            .collect();
        let feeds: Vec<String> = probe.feeds.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(md, "{}.\n\nMetrics: {}.", fields.join(", "), feeds.join(", "));
    }
    md
}

const BEGIN: &str = "<!-- Generated by `cargo xtask docs`: begin -->\n";
const END: &str = "<!-- end -->";

/// docs/advice.md with its table generated again.
pub fn advice_md(written: &str) -> String {
    let mut table = String::from("| check | fails | warns | needs |\n|---|---|---|---|\n");
    for check in Check::ALL.map(Check::declaration) {
        let _ = writeln!(table, "| `{}` | {} | {} | {} |", check.name, check.fails, check.warns, check.needs);
    }
    with_table(written, &table)
}

/// docs/causes.md with its table generated again.
pub fn causes_md(written: &str) -> String {
    let mut table = String::from("| cause | the start is … | certain from |\n|---|---|---|\n");
    for cause in Cause::ALL {
        let (is, sure_from) = cause.meaning();
        let _ = writeln!(table, "| `{}` | {is} | {sure_from} |", cause.name());
    }
    with_table(written, &table)
}

/// Replaces the text between the marks. Without the marks it returns the table alone, so that a test fails.
fn with_table(written: &str, table: &str) -> String {
    let parts = written.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    parts.map_or_else(|| table.to_owned(), |(before, after)| format!("{before}{BEGIN}{table}{END}{after}"))
}
