//! The node in two lines, and what an operator must not miss.

use std::time::Duration;

use observer_core::model::kubernetes::named;
use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{ALARM, BOLD, FAINT, PLAIN, WARN, line};
use crate::commands::{
    client::state::{Node, State},
    top::{
        feed::{Link, Seen},
        text::{age, bytes},
        view::View,
    },
};

/// The daemon sends a second's changes each second.
const SILENT: Duration = Duration::from_secs(4);
/// On a small screen the lists need the room.
const BANNERS: usize = 3;

/// How many lines were taken.
pub fn draw(seen: &Seen, view: &View, silent: Duration, area: Rect, buffer: &mut Buffer) -> u16 {
    let state = &seen.state;
    let small = area.height < 16;
    line(buffer, area, 0, &title(seen, view));
    let mut lines = vec![memory(state)];
    match area.width >= 100 {
        true => lines.push([pressure(&state.node), starting(&state.node)].concat()),
        false if small => lines.push(starting(&state.node)),
        false => lines.extend([pressure(&state.node), starting(&state.node)]),
    }
    if !small && let Some(scaling) = scaling(state) {
        lines.push(scaling);
    }
    let mut banners = banners(seen, silent);
    if let Some(note) = view.node.as_ref().and_then(|node| node.note.clone()) {
        banners.insert(0, (format!(" {note} "), WARN));
    }
    lines.extend(banners.into_iter().take(if small { 1 } else { BANNERS }).map(|banner| vec![banner]));
    for (y, parts) in (1..).zip(&lines) {
        line(buffer, area, y, parts);
    }
    1 + lines.len() as u16
}

type Parts = Vec<(String, Style)>;

fn title(seen: &Seen, view: &View) -> Parts {
    let state = &seen.state;
    let node = state.status.kubernetes.as_ref().map(|kubernetes| kubernetes.node.as_str());
    let mut parts: Parts = vec![("observer top  ".into(), BOLD)];
    match (&state.status.recording, node.filter(|node| !node.is_empty())) {
        (Some(file), _) => {
            // The end of a path tells more than its beginning.
            let file: Vec<&str> = file.rsplit('/').take(2).collect();
            parts.push((file.into_iter().rev().collect::<Vec<_>>().join("/"), BOLD));
        }
        (None, Some(node)) => parts.push((format!("node {node}"), BOLD)),
        (None, None) => match &view.node {
            Some(node) => parts.push((format!("node {}", node.name), BOLD)),
            None => parts.push(("this node".into(), BOLD)),
        },
    }
    if let Some(node) = view.node.as_ref().filter(|node| node.of > 1 || node.away > 0) {
        let away = if node.away > 0 { format!(", {} cannot be asked", node.away) } else { String::new() };
        parts.push((format!("  {} of {}{away}", node.number, node.of), PLAIN));
    }
    let how = match (&seen.link, &view.tempo) {
        (Link::Lost { .. }, _) => "DISCONNECTED".into(),
        (Link::Ended { .. }, _) => "ended".into(),
        (Link::Plays, Some(tempo)) if tempo.paused() => "paused".into(),
        (Link::Plays, Some(tempo)) => format!("plays {} x", tempo.speed()),
        (Link::Live | Link::Plays, _) if state.status.live => "live".into(),
        (Link::Live | Link::Plays, _) => "a recording".to_owned(),
    };
    parts.push((format!("  {how}"), PLAIN));
    if state.status.now > 0.0 {
        parts.push((format!("  {}", clock(state.status.now)), FAINT));
    }
    parts
}

/// The time of what is shown, in UTC as the daemon's log has it.
fn clock(now: f64) -> String {
    match jiff::Timestamp::from_second(now as i64) {
        Ok(time) => time.strftime("%H:%M:%S UTC").to_string(),
        Err(_) => String::new(),
    }
}

fn memory(state: &State) -> Parts {
    let node = &state.node;
    let total = state.host.as_ref().map_or(0, |host| host.memory_total_bytes);
    let mut parts: Parts = vec![("Memory    ".into(), FAINT)];
    if let Some(pods) = node.pods_available_bytes {
        parts.extend([("pods may take ".into(), PLAIN), (bytes(pods), BOLD), (", ".into(), PLAIN)]);
    }
    match node.available_bytes {
        Some(available) => {
            parts.extend([
                ("available ".into(), PLAIN),
                (bytes(available), BOLD),
                (format!(" of {}", bytes(total)), PLAIN),
            ]);
        }
        None => parts.push(("available: not known yet".into(), PLAIN)),
    }
    parts
}

fn pressure(node: &Node) -> Parts {
    let percent = |ratio: Option<f64>| match ratio {
        Some(ratio) => format!("{:.0} %", ratio * 100.0),
        None => "not known".into(),
    };
    let style = if node.waiting_ratio.is_some_and(|ratio| ratio >= 0.1) { WARN } else { PLAIN };
    vec![
        ("Pressure  ".into(), FAINT),
        (
            format!("some waited {}, all {}   ", percent(node.waiting_ratio), percent(node.stalled_ratio)),
            style,
        ),
    ]
}

fn starting(node: &Node) -> Parts {
    let mut parts: Parts = vec![("Starting  ".into(), FAINT), (node.starting.to_string(), BOLD)];
    if node.starting > 0 {
        let mut text = format!(" hold {}", bytes(node.starting_bytes));
        if node.forecast_bytes > 0 {
            let when = age(node.forecast_in_seconds);
            text += &format!(", will take {} more in {when}", bytes(node.forecast_bytes));
        }
        match node.forecast_unknown {
            0 => {}
            unknown if unknown == node.starting => text += ", first start-ups: no forecast",
            unknown => text += &format!(", and {unknown} without forecast"),
        }
        parts.push((text, PLAIN));
    }
    parts
}

/// The last scale-up that is under way here.
fn scaling(state: &State) -> Option<Parts> {
    let under_way = || state.scale_events.iter().filter(|event| event.outcome.is_none());
    let event = under_way().max_by(|a, b| a.at.total_cmp(&b.at))?;
    let from = event.from.map_or(String::new(), |from| format!("from {from} "));
    let text = format!(
        "{}/{} {from}to {} by {}, {} ago",
        event.namespace,
        event.workload,
        event.to,
        named(&event.by_kind, &event.by_name),
        age(state.status.now - event.at)
    );
    let more = under_way().count() - 1;
    let more = if more == 0 { String::new() } else { format!("; {more} more under way") };
    Some(vec![("Scaling   ".into(), FAINT), (text, BOLD), (more, PLAIN)])
}

/// The most urgent first.
fn banners(seen: &Seen, silent: Duration) -> Vec<(String, Style)> {
    let state = &seen.state;
    let mut banners = Vec::new();
    match &seen.link {
        Link::Lost { why } => {
            // The address is known, and the reason needs the room.
            let why = why.split_once(": ").map_or(why.as_str(), |(_, why)| why);
            let text = format!(" ! DISCONNECTED for {}, trying again: {why} ", age(silent.as_secs_f64()));
            banners.push((text, ALARM));
        }
        Link::Live if silent >= SILENT && state.status.live => {
            banners.push((
                format!(
                    " ! NO NEWS for {}: the observer hangs, or the way to it ",
                    age(silent.as_secs_f64())
                ),
                ALARM,
            ));
        }
        Link::Ended { note: Some(note) } => banners.push((format!(" ! THE RECORDING: {note} "), ALARM)),
        Link::Live | Link::Plays | Link::Ended { note: None } => {}
    }
    let node = &state.node;
    if node.stampede {
        let mut text = format!(" ! STAMPEDE: {} start at once", node.starting);
        if node.forecast_bytes > 0 {
            text += &format!(", will take {} more", bytes(node.forecast_bytes));
        }
        if let Some(room) = node.pods_available_bytes.or(node.available_bytes) {
            text += &format!(", {} are left", bytes(room));
        }
        banners.push((text + " ", ALARM));
    }
    if !state.status.ready && state.status.live {
        banners.push((format!(" ! NOT READY: {} ", state.status.missing.join("; ")), ALARM));
    }
    if let Some(kubernetes) = &state.status.kubernetes
        && ["away", "forbidden"].contains(&kubernetes.state.as_str())
    {
        banners.push((format!(" ! Kubernetes API {}: {} ", kubernetes.state, kubernetes.why), WARN));
    }
    let dropped = &state.status.dropped;
    if dropped.containers > 0 {
        banners.push((
            format!(" ! {} containers did not fit in the observer's list ", dropped.containers),
            WARN,
        ));
    }
    banners
}
