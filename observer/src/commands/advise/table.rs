//! A line for each container of each workload.

use crate::commands::advise::WorkloadAdvice;
use observer_core::model::{
    advice::{AdvisedLimit, Grade},
    printable::printable,
    units::Bytes,
};

pub fn table(advised: &[WorkloadAdvice]) -> String {
    let mut rows = vec![
        ["WORKLOAD", "STARTS", "STEADY p95", "PEAK", "REQUEST", "LIMIT", "RESERVED", "VERDICT"]
            .map(str::to_owned),
    ];
    rows.extend(advised.iter().map(row));
    let widths: Vec<usize> =
        (0..8).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect::<String>() + &summary(advised)
}

fn row(advised: &WorkloadAdvice) -> [String; 8] {
    let (facts, advice) = (&advised.facts, &advised.advice);
    let numbers = &advice.numbers;
    let or_dash = |bytes: Option<u64>| bytes.map_or("-".to_owned(), quantity);
    let change = |now: Option<Option<u64>>, then: Option<String>| match (now, then) {
        (None, then) => then.unwrap_or("-".into()),
        (Some(now), None) => now.map_or("none".into(), quantity),
        (Some(now), Some(then)) => {
            let now = now.map_or("none".into(), quantity);
            if now == then { now } else { format!("{now} -> {then}") }
        }
    };
    let limit = numbers.limit.map(|limit| match limit {
        AdvisedLimit::Firm(bytes) => quantity(bytes),
        AdvisedLimit::Trial(bytes) => format!("{}?", quantity(bytes)),
    });
    let complaints = advice.complaints();
    let of = |grade: Grade| -> Option<String> {
        let names: Vec<&str> =
            complaints.iter().filter(|one| one.grade == grade).map(|one| one.check.name()).collect();
        (!names.is_empty()).then(|| format!("{}: {}", grade.name(), names.join(", ")))
    };
    let verdict = match advice.worst() {
        Grade::Pass | Grade::Unknown => match &numbers.missing {
            Some(missing) => format!("unknown: {missing}"),
            None => "pass".to_owned(),
        },
        Grade::Warn | Grade::Fail => {
            [of(Grade::Fail), of(Grade::Warn)].into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
    };
    [
        printable(&facts.workload.to_string()).into_owned(),
        facts.startups.count.to_string(),
        or_dash(facts.steady.map(|steady| steady.p95)),
        or_dash(numbers.worst.max(facts.startups.cut)),
        change(facts.current.request, numbers.request.map(quantity)),
        change(facts.current.limit, limit),
        numbers.request_change.map_or("-".into(), signed),
        verdict,
    ]
}

fn summary(advised: &[WorkloadAdvice]) -> String {
    let changes = || advised.iter().filter_map(|one| one.advice.numbers.request_change);
    let less = changes().filter(|c| *c < 0).fold(0, i64::saturating_add);
    let more = changes().filter(|c| *c > 0).fold(0, i64::saturating_add);
    let with = |grade| advised.iter().filter(|one| one.advice.worst() == grade).count();
    let waiting =
        advised.iter().any(|one| one.advice.numbers.limit.is_none() && one.facts.current.containers > 0);
    let reserves = match (less, more) {
        (0, 0) => String::new(),
        (less, 0) => format!(" Following the advice reserves {} less.", Bytes(less.unsigned_abs())),
        (0, more) => format!(" Following the advice reserves {} more.", Bytes(more.unsigned_abs())),
        (less, more) => format!(
            " Following the advice reserves {} less for some and {} more for others.",
            Bytes(less.unsigned_abs()),
            Bytes(more.unsigned_abs())
        ),
    };
    format!(
        "\n{} container{} of workloads: {} fail, {} only warn.{reserves} --explain says why.\n{}{}",
        advised.len(),
        if advised.len() == 1 { "" } else { "s" },
        with(Grade::Fail),
        with(Grade::Warn),
        if advised.iter().any(|one| matches!(one.advice.numbers.limit, Some(AdvisedLimit::Trial(_)))) {
            "A limit with ? is a trial: every start-up was cut off by its limit, so its peak is not known. Ask again after the next.\n"
        } else {
            ""
        },
        // Of a node; a fleet's facts come with the scrapes.
        if waiting { "A start-up counts a few seconds after it has settled or ended.\n" } else { "" }
    )
}

/// As Kubernetes writes it, in the largest unit that loses less than a thousandth.
pub fn quantity(bytes: u64) -> String {
    let (mib, gib) = (1u64 << 20, 1u64 << 30);
    match bytes {
        0 => "0".into(),
        bytes if bytes % gib == 0 => format!("{}Gi", bytes / gib),
        bytes if bytes >= mib => format!("{}Mi", bytes.div_ceil(mib)),
        bytes => format!("{}Ki", bytes.div_ceil(1024)),
    }
}

fn signed(bytes: i64) -> String {
    let sign = if bytes < 0 { '-' } else { '+' };
    if bytes == 0 { "0".into() } else { format!("{sign}{}", quantity(bytes.unsigned_abs())) }
}
