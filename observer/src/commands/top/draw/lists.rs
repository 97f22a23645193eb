//! What starts, what was killed, and the rest.

use observer_core::model::finding::OomScope;
use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    BAD, BOLD, CURVE, FAINT, PLAIN, WARN, line,
    table::{Cell, Column, List, Width, place},
};
use crate::commands::{
    client::state::{Container, Kill},
    top::{
        feed::Seen,
        rows::{Row, Rows, Starting, name, share},
        text::{age, bytes, sparkline},
        view::View,
    },
};

const STARTING: &[Column] = &[
    Column { title: "", width: Width::Name(5), from: 0 },
    Column { title: "CAUSE", width: Width::Text(18), from: 120 },
    Column { title: "AGE", width: Width::Number(5), from: 0 },
    Column { title: "USAGE", width: Width::Number(6), from: 0 },
    Column { title: "PEAK", width: Width::Number(6), from: 72 },
    Column { title: "LIMIT", width: Width::Number(6), from: 56 },
    Column { title: "USAGE OF LIMIT", width: Width::Rest(4), from: 48 },
    Column { title: "VERDICT", width: Width::Text(12), from: 0 },
    Column { title: "OOM", width: Width::Number(3), from: 56 },
];
/// From so many lines on there is one for the selected row.
const ROOMY: u16 = 14;
/// Start-ups that are over, shown without scrolling.
const OVER_ROWS: usize = 5;
const CURVE_COLUMN: usize = 6;

const KILLS: &[Column] = &[
    Column { title: "", width: Width::Text(8), from: 0 },
    Column { title: "CONTAINER", width: Width::Name(5), from: 0 },
    Column { title: "VICTIM", width: Width::Name(3), from: 56 },
    Column { title: "WHOSE LIMIT", width: Width::Text(19), from: 0 },
    Column { title: "HELD", width: Width::Number(6), from: 100 },
    Column { title: "GROUP", width: Width::Number(6), from: 72 },
    Column { title: "WHEN", width: Width::Text(18), from: 100 },
    Column { title: "ALSO STARTING", width: Width::Number(13), from: 120 },
];

const REST: &[Column] = &[
    Column { title: "", width: Width::Name(4), from: 0 },
    Column { title: "RISK", width: Width::Text(7), from: 56 },
    Column { title: "STATE", width: Width::Text(11), from: 0 },
    Column { title: "USAGE", width: Width::Number(6), from: 0 },
    Column { title: "PEAK", width: Width::Number(6), from: 48 },
    Column { title: "LIMIT", width: Width::Number(6), from: 72 },
    Column { title: "PEAK%", width: Width::Number(5), from: 72 },
    Column { title: "OOM", width: Width::Number(3), from: 48 },
    Column { title: "WHY", width: Width::Rest(4), from: 100 },
];

pub fn draw(seen: &Seen, view: &View, rows: &Rows, mut area: Rect, buffer: &mut Buffer) {
    if area.height >= ROOMY {
        area.height -= 1;
        selected(view, rows, Rect { y: area.y + area.height, height: 1, ..area }, buffer);
    }
    let (starting, kills, rest) = (rows.starting.len(), rows.kills.len(), rows.rest.len());
    let selected = view.selected(&rows.keys());
    let within =
        |from: usize, count: usize| selected.and_then(|at| at.checked_sub(from)).filter(|at| *at < count);
    let over = rows.starting.iter().filter(|one| !one.under_way()).count();
    // Those that are over take no room from the rest, beyond a few.
    let [first, second, third] = heights(area.height, starting - over + over.min(OVER_ROWS), kills, rest);
    let now = seen.state.status.now;

    let title = |name: &str, shown: usize, all: usize| -> Vec<Cell> {
        let count = if shown == all { format!(" {all}") } else { format!(" {shown} of {all}") };
        vec![(name.to_owned(), BOLD), (count, BOLD)]
    };
    let mut head = title("STARTING", starting, rows.all[0]);
    if over > 0 {
        head = title("STARTING", starting - over, rows.all[0].saturating_sub(over));
        head.push((format!(" +{over} over"), FAINT));
    }
    let wide = |columns, column: usize| {
        place(columns, area.width).iter().find(|(at, ..)| *at == column).map_or(0, |one| usize::from(one.3))
    };
    let part = Rect { height: first, ..area };
    let (names, curve) = (wide(STARTING, 0), wide(STARTING, CURVE_COLUMN));
    let row = |at: usize| starting_row(&rows.starting[at], now, names, curve);
    List { title: head, columns: STARTING, count: starting, row: &row, selected: within(0, starting) }
        .draw(part, buffer);
    if starting == 0 && first > 1 {
        line(buffer, part, 1, &[("  nothing starts now".into(), FAINT)]);
    }

    let part = Rect { y: part.y + first, height: second, ..area };
    let names = wide(KILLS, 1);
    let row = |at: usize| kill_row(rows.kills[at], now, names);
    List {
        title: title("OOM KILLS", kills, rows.all[1]),
        columns: KILLS,
        count: kills,
        row: &row,
        selected: within(starting, kills),
    }
    .draw(part, buffer);

    let part = Rect { y: part.y + second, height: third, ..area };
    let mut head = title("THE REST", rest, rows.all[2]);
    let order = if view.reversed { " reversed" } else { "" };
    head.push((format!(" by {}{order}", view.sort.name()), FAINT));
    if !view.filter.is_empty() {
        head.push((format!(" /{}", view.filter), WARN));
    }
    let names = wide(REST, 0);
    let row = |at: usize| rest_row(&rows.rest[at], names);
    List { title: head, columns: REST, count: rest, row: &row, selected: within(starting + kills, rest) }
        .draw(part, buffer);
    if rest == 0 && third > 1 {
        let text = if view.filter.is_empty() {
            "  no other container"
        } else {
            "  none fits; Esc clears the filter"
        };
        line(buffer, part, 1, &[(text.into(), FAINT)]);
    }
}

/// What the selected row has no room for: its whole name, and why it is at risk.
fn selected(view: &View, rows: &Rows, area: Rect, buffer: &mut Buffer) {
    let keys = rows.keys();
    let Some(key) = view.selected(&keys).and_then(|at| keys.get(at)) else { return };
    let Some((id, name)) = rows.container(key) else { return };
    let of_rest = rows.rest.iter().find(|row| row.container.names.id == id);
    let of_start = rows.starting.iter().find(|one| one.names.id == id);
    let cause = of_start.and_then(|one| one.container?.cause.as_ref());
    let risk = of_rest.and_then(|row| row.risk).filter(|risk| !risk.why.is_empty());
    let more = match (risk, cause) {
        (Some(risk), _) => format!("  {}", risk.why),
        (None, Some(cause)) if cause.evidence.is_empty() => format!("  {}", cause.cause),
        (None, Some(cause)) => format!("  {}: {}", cause.cause, cause.evidence.join("; ")),
        (None, None) => String::new(),
    };
    line(buffer, area, 0, &[("> ".into(), FAINT), (name, BOLD), (more, PLAIN)]);
}

/// Lines of each list, its heading included.
fn heights(height: u16, starting: usize, kills: usize, rest: usize) -> [u16; 3] {
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(1);
    let least = 2;
    let second = if kills == 0 { 0 } else { rows(kills).min((height / 4).max(least)) };
    // The rest keeps a third, or what it needs.
    let third = rows(rest).min((height / 3).max(least));
    let first = rows(starting.max(1)).min(height.saturating_sub(second + third).max(least));
    [first, second.min(height.saturating_sub(first)), height.saturating_sub(first + second)]
}

fn optional(amount: Option<u64>) -> String {
    amount.map_or("-".into(), bytes)
}

fn limit(one: Option<&Container>) -> String {
    match one {
        Some(one) => one.limit_bytes.map_or("none".into(), bytes),
        None => "-".into(),
    }
}

fn starting_row(one: &Starting, now: f64, names: usize, columns: usize) -> Vec<Cell> {
    let container = one.container;
    let peak =
        container.map_or(0, |one| one.peak_bytes).max(one.startup.map_or(0, |startup| startup.peak_bytes));
    let top = container.and_then(|one| one.limit_bytes);
    let curve = one.startup.map_or(String::new(), |startup| {
        let levels: Vec<u64> = startup.curve.kib.iter().map(|kib| kib << 10).collect();
        sparkline(&levels, top.unwrap_or(peak), columns)
    });
    let began = one.startup.map(|startup| startup.started).or(container.and_then(|one| one.started));
    let (verdict, style) = match one.startup {
        None => ("starting".to_owned(), PLAIN),
        Some(startup) => match (startup.outcome.as_str(), startup.time_to_stable_seconds) {
            ("stable", Some(seconds)) => (format!("stable {}", age(seconds)), PLAIN),
            ("oom_killed", _) => ("OOM-KILLED".to_owned(), BAD),
            (outcome @ ("drifting" | "oscillating"), _) => (outcome.to_owned(), WARN),
            (outcome, _) => (outcome.to_owned(), PLAIN),
        },
    };
    let kills = container.map_or(0, |one| one.oom_kills);
    let usage = container.map(|one| one.usage_bytes);
    let high = top.is_some_and(|limit| usage.unwrap_or(0) as f64 >= limit as f64 * 0.9);
    vec![
        (name(one.names, one.alone, names), if one.under_way() { BOLD } else { PLAIN }),
        (
            container.and_then(|one| one.cause.as_ref()).map_or(String::new(), |cause| cause.cause.clone()),
            PLAIN,
        ),
        (began.map_or("-".into(), |began| age(now - began)), PLAIN),
        (optional(usage), if high { BAD } else { PLAIN }),
        (bytes(peak), PLAIN),
        (limit(container), PLAIN),
        (curve, CURVE),
        (verdict, style),
        kills_cell(kills),
    ]
}

fn kills_cell(kills: u64) -> Cell {
    match kills {
        0 => ("-".into(), FAINT),
        kills => (kills.to_string(), BAD),
    }
}

fn kill_row(kill: &Kill, now: f64, names: usize) -> Vec<Cell> {
    let victim = match (kill.victim_pid, kill.victim_command.as_str()) {
        (0, _) => format!("{} unnamed", kill.kills),
        (pid, command) => format!("{command} [{pid}]"),
    };
    let size = kill.limit_bytes.map_or(String::new(), |limit| format!(" {}", bytes(limit)));
    let scope = match kill.scope {
        OomScope::Inside => format!("one inside{size}"),
        OomScope::Container => format!("its own{size}"),
        OomScope::Parent => format!("its pod's{size}"),
        OomScope::Ancestor => format!("a group's{size}"),
        OomScope::Node => "none: the node's".into(),
        OomScope::Unknown => "not known".into(),
    };
    // A parent of no pod is a group.
    let grouped = kill.container.as_ref().is_some_and(|names| names.pod.is_empty());
    let scope = if grouped { scope.replace("its pod's", "its parent's") } else { scope };
    let when = match kill.age_seconds {
        Some(seconds) if kill.starting => format!("{} into start-up", age(seconds)),
        Some(seconds) => format!("{} after start", age(seconds)),
        None => "-".into(),
    };
    vec![
        (age(now - kill.at), PLAIN),
        (kill.container.as_ref().map_or("in no container".into(), |of| name(of, false, names)), BOLD),
        (victim, PLAIN),
        (scope, BAD),
        (optional(kill.victim_memory().map(|victim| victim.all())), PLAIN),
        (bytes(kill.usage_bytes), PLAIN),
        (when, PLAIN),
        (kill.also_starting_count.to_string(), PLAIN),
    ]
}

fn rest_row(row: &Row, names: usize) -> Vec<Cell> {
    let one = row.container;
    let level = row.risk.map_or("-", |risk| risk.level.as_str());
    let (shown, style): (&str, Style) = match level {
        "high" => ("HIGH", BAD),
        "medium" => ("medium", WARN),
        "unknown" => ("-", FAINT),
        other => (other, PLAIN),
    };
    let ended = one.ended.is_some();
    let (state, state_style) = match (one.state.as_str(), &one.exit) {
        ("ended", Some(exit)) => (exit.replace("exit code", "exit"), FAINT),
        (state @ ("drifting" | "oscillating"), _) => (state.to_owned(), WARN),
        (state, _) => (state.to_owned(), PLAIN),
    };
    let why = row.risk.filter(|risk| risk.level != "unknown").map_or(String::new(), |risk| risk.why.clone());
    vec![
        (name(&one.names, row.alone, names), if ended { FAINT } else { PLAIN }),
        (shown.to_owned(), style),
        (state, state_style),
        (bytes(one.usage_bytes), PLAIN),
        (bytes(one.peak_bytes), PLAIN),
        (limit(Some(one)), PLAIN),
        (share(one).map_or("-".into(), |share| format!("{share:.0}%")), PLAIN),
        kills_cell(one.oom_kills),
        (why, PLAIN),
    ]
}
