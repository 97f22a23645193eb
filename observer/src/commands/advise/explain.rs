//! The whole story of one workload: where the numbers come from, and every check with its evidence.

use crate::commands::advise::{WorkloadAdvice, plot, table::quantity};
use observer_core::{
    advice::Settings,
    loan::need,
    model::{
        advice::{AdvisedLimit, Grade},
        printable::printable,
        units::{Bytes, Seconds},
    },
};

/// Columns of a bar.
const WIDTH: usize = 50;

pub fn story(advised: &WorkloadAdvice, settings: &Settings) -> String {
    let (facts, advice) = (&advised.facts, &advised.advice);
    let s = &facts.startups;
    let mut text = format!("{}\n", printable(&facts.workload.to_string()));
    let mut say = |line: String| text += &format!("  {line}\n");
    let span = match (s.until - s.from).max(0.0) {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    };
    let of_pods = match facts.workload.namespace.is_empty() {
        true => String::new(),
        false => format!(" of {} pod(s)", s.pods),
    };
    let starting = match facts.current.starting {
        0 => String::new(),
        starting => format!(", {starting} of them starting"),
    };
    say(format!(
        "seen: {} start-ups{of_pods} within {span}; {} alive now{starting}",
        s.count, facts.current.containers
    ));
    if let Some([p50, p95, max]) = s.need {
        say(format!("a start-up needs {} (p50), {} (p95), {} (worst)", Bytes(p50), Bytes(p95), Bytes(max)));
    }
    if let Some(cut) = s.cut {
        say(format!(
            "{} of {} were cut off by their own limit, at up to {}: they wanted more",
            s.cut_off(),
            s.count,
            Bytes(cut)
        ));
    }
    if let Some(steady) = facts.steady {
        let from = match steady.seconds {
            0.0 => "levels at which its start-ups settled".to_owned(),
            seconds => format!("{} of container time", Seconds(seconds)),
        };
        say(format!(
            "then it lives at {} (p50), {} (p95), {} (most), from {from}",
            Bytes(steady.p50),
            Bytes(steady.p95),
            Bytes(steady.max)
        ));
    }
    let numbers = &advice.numbers;
    if let Some(request) = numbers.request {
        say(format!("request {}: p95 of the working set after start-up, rounded up", quantity(request)));
    }
    if let (Some(limit), Some(reason)) = (numbers.limit, numbers.limit_reason(facts, settings)) {
        let trial = if matches!(limit, AdvisedLimit::Trial(_)) { ", a trial" } else { "" };
        say(format!("limit {}{trial}: {reason}", quantity(limit.bytes())));
    }
    if let Some((request, need)) = with_lending(advised) {
        say(format!(
            "with lending: request {}, start need {}: observer lend requests the second until the start has settled, \
             then the first",
            quantity(request),
            quantity(need)
        ));
    }
    if let Some(missing) = &numbers.missing {
        say(format!("no number: {missing}"));
    }
    text += &match &facts.typical {
        Some(typical) => plot::plot(typical, facts, numbers),
        None => bars(advised),
    };
    let mut verdicts: Vec<_> = advice.verdicts.iter().collect();
    // What has to be looked at first; what could not be judged before what is well.
    verdicts.sort_by_key(|verdict| match verdict.grade {
        Grade::Fail => 0,
        Grade::Warn => 1,
        Grade::Unknown => 2,
        Grade::Pass => 3,
    });
    for verdict in verdicts {
        text += &format!(
            "  {:8} {:22} {}\n",
            verdict.grade.name(),
            verdict.check.name(),
            printable(&verdict.evidence)
        );
    }
    text
}

/// The request that `observer lend` goes back to, and what it requests for the start. `None`: too little is known, or
/// there is nothing to lend.
fn with_lending(advised: &WorkloadAdvice) -> Option<(u64, u64)> {
    let (startups, numbers) = (&advised.facts.startups, &advised.advice.numbers);
    let [.., worst] = startups.need?;
    let need = need::of(startups.count.saturating_sub(startups.failed), worst)?;
    // It never makes a pod Guaranteed.
    let need = numbers.limit.map_or(need, |limit| need.min(limit.bytes().saturating_sub(1 << 20)));
    let request = numbers.request?;
    (need >= request + need::LEAST).then_some((request, need))
}

/// Where no curve is known: steady level, peak, and what is set and advised, on one scale.
fn bars(advised: &WorkloadAdvice) -> String {
    let (facts, numbers) = (&advised.facts, &advised.advice.numbers);
    let rows = [
        ("steady p95", facts.steady.map(|steady| steady.p95), '#'),
        ("worst start-up", facts.startups.need.map(|[.., max]| max).max(facts.startups.cut), '#'),
        ("request now", facts.current.request.flatten(), '-'),
        ("request advised", numbers.request, '='),
        ("limit now", facts.current.limit.flatten(), '-'),
        ("limit advised", numbers.limit.map(AdvisedLimit::bytes), '='),
    ];
    let most = rows.iter().filter_map(|(_, value, _)| *value).max().unwrap_or(0).max(1);
    let row = |(name, value, mark): (&str, Option<u64>, char)| {
        let value = value?;
        let length = ((value as f64 / most as f64) * WIDTH as f64).round() as usize;
        Some(format!("    {name:16}{} {}\n", String::from(mark).repeat(length.max(1)), quantity(value)))
    };
    rows.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::BufReader};

    use super::*;
    use crate::{
        commands::advise::table,
        recording::replay,
        sinks::{api_state::NodeState, metrics::Metrics},
    };
    use observer_core::model::{advice::Advice, finding::Advised};

    fn advised(case: &str) -> Vec<WorkloadAdvice> {
        let path = format!("{}/../tests/cases/{case}/events.jsonl", env!("CARGO_MANIFEST_DIR"));
        let recording = BufReader::new(File::open(path).unwrap());
        let mut node = NodeState::of_recording(case.into());
        replay::replay_into(&Metrics::default(), recording, |_| {}, |finding| node.apply(finding)).unwrap();
        let advised: Vec<Advised> =
            serde_json::from_value(serde_json::to_value(node.advice()).unwrap()).unwrap();
        let judge = |Advised { facts, .. }: Advised| WorkloadAdvice {
            advice: Advice::of(&facts, &Settings::default()),
            facts,
        };
        advised.into_iter().map(judge).collect()
    }

    /// As it is printed, as golden files: `INSTA_UPDATE=always` accepts a change.
    #[test]
    fn what_is_printed_of_recorded_cases() {
        for case in ["kubernetes_scale_up_by_a_bot", "stampede_on_a_small_node"] {
            let all = advised(case);
            let stories = all.iter().map(|one| story(one, &Settings::default()));
            let text = format!("{}\n{}", table::table(&all), stories.collect::<Vec<_>>().join("\n"));
            assert!(text.contains("with lending: request "), "{text}");
            insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(case, text);
            });
        }
    }
}
