//! The outcome as a table a person reads.

use super::Simulated;
use crate::commands::advise::table::quantity;
use observer_core::{
    model::{printable::printable, units::Seconds},
    simulate::{Outcome, Requests},
};

/// Nodes and kills named; the others are counted.
const NAMED: usize = 12;

pub fn text(simulated: &Simulated) -> String {
    let mut text = format!("{}\n\n", printable(&simulated.change));
    text += &format!(
        "{:<10} {:>6} {:>8} {:>6} {:>8} {:>8}  WAVES\n",
        "REQUESTS", "STARTS", "PENDING", "KILLS", "SHORT", "SETTLED"
    );
    for outcome in &simulated.outcomes {
        text += &row(outcome);
    }
    text += "as set: as they are now; peak kept: every pod requests its peak for good; lent: its peak while it starts, \
             given back (observer lend)\n";
    for outcome in simulated.outcomes.iter().filter(|outcome| outcome.requests == Requests::AsSet) {
        text += &nodes(outcome);
        text += &killed(outcome);
    }
    text += "\n";
    match (simulated.largest_step, simulated.largest_surge) {
        _ if simulated.outcomes.first().is_some_and(Outcome::fits) => {
            text += "It fits as the requests are set.\n"
        }
        (Some(0), _) => text += "Not one more pod fits without a node running short.\n",
        (Some(step), _) => {
            text += &format!("At most {step} pods may start at once without a node running short.\n")
        }
        (_, Some(0)) => text += "No surge fits: maxSurge 0 and maxUnavailable 1 replaces pods in place.\n",
        (_, Some(surge)) => text += &format!("At most maxSurge {surge} fits without a node running short.\n"),
        (None, None) => {
            text += "Nothing is lent again to pods that stay where they are: only fewer of them, or a larger node, help.\n"
        }
    }
    for patch in &simulated.patches {
        text += &format!("  {patch}\n");
    }
    for note in &simulated.notes {
        text += &format!("Note: {note}.\n");
    }
    text
}

fn row(outcome: &Outcome) -> String {
    let waves: Vec<String> = outcome.waves.iter().take(NAMED).map(u64::to_string).collect();
    let more = if outcome.waves.len() > NAMED { " ..." } else { "" };
    format!(
        "{:<10} {:>6} {:>8} {:>6} {:>8} {:>8}  {}{more}\n",
        outcome.requests.name(),
        outcome.starts,
        match outcome.pending_forever {
            0 => "-".to_owned(),
            pods => format!("{pods} ever"),
        },
        outcome.killed(),
        match outcome.short().count() {
            0 => "-".to_owned(),
            1 => "1 node".to_owned(),
            nodes => format!("{nodes} nodes"),
        },
        outcome.settled_seconds.map_or("never".to_owned(), |seconds| Seconds(seconds).to_string()),
        waves.join(" "),
    )
}

fn nodes(outcome: &Outcome) -> String {
    let mut short: Vec<_> = outcome.short().collect();
    if short.is_empty() {
        return "\nNo node runs short with the requests as they are set.\n".into();
    }
    short.sort_by_key(|node| std::cmp::Reverse(node.short_by));
    let mut text = format!(
        "\n{:<24} {:>6} {:>8} {:>8} {:>8} {:>8}\n",
        "SHORT NODE", "STARTS", "ROOM", "NEEDED", "SHORT BY", "FROM"
    );
    for node in short.iter().take(NAMED) {
        text += &format!(
            "{:<24} {:>6} {:>8} {:>8} {:>8} {:>8}\n",
            printable(&node.name),
            node.starts,
            quantity(node.allocatable),
            quantity(node.demand),
            quantity(node.short_by),
            node.short_at.map_or(String::new(), |at| Seconds(at).to_string()),
        );
    }
    if short.len() > NAMED {
        text += &format!("and {} more nodes\n", short.len() - NAMED);
    }
    text
}

fn killed(outcome: &Outcome) -> String {
    if outcome.kills.is_empty() {
        return String::new();
    }
    let mut text = "\nKILLED\n".to_owned();
    for kill in outcome.kills.iter().take(NAMED) {
        let whose = if kill.own_limit { "by its own limit" } else { "for want of memory on" };
        text += &format!(
            "{:>8}  {} {whose} {}\n",
            Seconds(kill.at).to_string(),
            printable(&kill.kind),
            printable(&kill.node)
        );
    }
    let more = outcome.killed().saturating_sub(NAMED as u64);
    if more > 0 {
        text += &format!("and {more} more\n");
    }
    text
}
