//! One container: its curve, and what `observer why` says of it.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    symbols::Marker,
    text::Line,
    widgets::{Axis, Chart, Dataset, GraphType, Widget},
};

use super::{BOLD, CURVE, FAINT, PLAIN, WARN, line, table::Cell};
use crate::commands::{
    client::state::{Container, ContainerDetail, Startup},
    top::{
        feed::Seen,
        text::{age, bytes, name, wrap},
        view::{Open, View},
    },
    why,
};

const DOTS: u32 = 60;
/// A limit further up than this would leave nothing of the curve to see; it is named instead.
const WITHIN: u64 = 4;
const EARLIER: usize = 6;

pub fn draw(seen: &Seen, view: &mut View, area: Rect, buffer: &mut Buffer) {
    let Some(open) = view.open.clone() else { return };
    line(buffer, area, 0, &[(name(&open.name, usize::from(area.width)), BOLD)]);
    let detail = match &seen.detail {
        Some((id, detail)) if *id == open.id => Some(detail),
        _ => None,
    };
    let chart = Rect { y: area.y + 1, height: chart_height(area.height), ..area };
    let mut text = String::new();
    match detail {
        None => line(buffer, chart, 0, &[("asking for its curve...".into(), FAINT)]),
        Some(Err(why)) => line(buffer, chart, 0, &[("no curve: ".into(), WARN), (why.clone(), PLAIN)]),
        Some(Ok(detail)) => {
            plot(detail, seen.state.status.now, chart, buffer);
            text = earlier(&detail.earlier);
        }
    }
    let below = 1 + if matches!(detail, Some(Ok(_))) { chart.height } else { 2 };
    let text = story(seen, &open) + &text;
    let lines = wrap(&text, usize::from(area.width));
    let visible = usize::from(area.height.saturating_sub(below));
    view.scroll = view.scroll.min(lines.len().saturating_sub(visible));
    for (y, shown) in (below..area.height).zip(lines.iter().skip(view.scroll)) {
        let style = if shown.starts_with(' ') { PLAIN } else { BOLD };
        line(buffer, area, y, &[(shown.clone(), style)]);
    }
    let hidden = lines.len().saturating_sub(view.scroll + visible);
    if hidden > 0 && area.height > 0 {
        let more = format!(" +{hidden} lines");
        let x = area.width.saturating_sub(more.len() as u16);
        let last = Rect { x: area.x + x, width: area.width - x, ..area };
        line(buffer, last, area.height - 1, &[(more, FAINT)]);
    }
}

fn chart_height(height: u16) -> u16 {
    match height {
        ..10 => 0,
        10..18 => height / 2 - 1,
        _ => (height * 2 / 5).min(18),
    }
}

/// Without its first line, the name, which stands above.
fn story(seen: &Seen, open: &Open) -> String {
    let story = why::of_container(&seen.state, &open.id, &open.name);
    let (first, rest) = story.split_once('\n').unwrap_or((&story, ""));
    let wrong = first.rsplit_once("): ").map_or(first, |(_, wrong)| wrong);
    format!("{wrong}\n{rest}")
}

fn earlier(startups: &[Startup]) -> String {
    if startups.is_empty() {
        return String::new();
    }
    let mut text = format!("Other start-ups of its workload: {}\n", startups.len());
    for one in startups.iter().take(EARLIER) {
        let outcome = match (one.outcome.as_str(), one.time_to_stable_seconds, one.seconds) {
            ("stable", Some(seconds), _) => format!("stable after {}", age(seconds)),
            ("oom_killed", _, Some(seconds)) => format!("OOM-killed after {}", age(seconds)),
            (outcome, _, Some(seconds)) => format!("{outcome} after {}", age(seconds)),
            (outcome, _, None) => outcome.to_owned(),
        };
        text += &format!("  {}: peak {}, {outcome}\n", one.names.full(), bytes(one.peak_bytes));
    }
    text
}

type Points = Vec<(f64, f64)>;

/// The start-up where it was seen, or else what its usage was since.
fn plot(detail: &ContainerDetail, now: f64, area: Rect, buffer: &mut Buffer) {
    if area.height < 4 {
        return;
    }
    let curve = &detail.curve;
    let points: Points = match curve.kib.is_empty() {
        false => {
            let at = |i: usize| (i as f64 + 0.5) * curve.width_seconds;
            curve.kib.iter().enumerate().map(|(i, kib)| (at(i), (kib << 10) as f64)).collect()
        }
        true => {
            let history = &detail.history;
            let at = |at: &u64| *at as f64 + history.width_seconds as f64 / 2.0 - now;
            history
                .at
                .iter()
                .zip(&history.kib)
                .map(|(time, kib)| (at(time).min(0.0), (kib << 10) as f64))
                .collect()
        }
    };
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else {
        line(buffer, area, 0, &[("no reading of it yet".into(), FAINT)]);
        return;
    };
    let started = !curve.kib.is_empty();
    let (from, until) = match started {
        true => (0.0, curve.kib.len() as f64 * curve.width_seconds),
        false => (*first, last.max(first + 1.0)),
    };
    let highest = points.iter().map(|(_, bytes)| *bytes as u64).max().unwrap_or(0);
    let one = &detail.container;
    let levels = [("limit", one.limit_bytes, WARN), ("steady", one.steady_bytes, FAINT)];
    let near = |level: u64| level <= highest.saturating_mul(WITHIN);
    let top =
        levels.iter().filter_map(|(_, level, _)| *level).filter(|level| near(*level)).fold(highest, u64::max);
    let top = (top as f64 * 1.08).max(1.0);

    line(buffer, area, 0, &legend(one, started, &near));
    let dotted = |level: u64| -> Points {
        (0..=DOTS).map(|i| (from + (until - from) * f64::from(i) / f64::from(DOTS), level as f64)).collect()
    };
    let mut sets: Vec<(Marker, GraphType, Points, Style)> = levels
        .into_iter()
        .filter_map(|(_, level, style)| Some((level.filter(|level| near(*level))?, style)))
        .map(|(level, style)| (Marker::Dot, GraphType::Scatter, dotted(level), style))
        .collect();
    sets.push((Marker::Braille, GraphType::Line, points, CURVE));
    let sets = sets.iter().map(|(marker, graph, points, style)| {
        Dataset::default().marker(*marker).graph_type(*graph).style(*style).data(points)
    });
    let seconds = |share: f64| {
        let at = from + (until - from) * share;
        Line::from(if at < 0.0 { format!("-{}", age(-at)) } else { age(at) })
    };
    let amount = |share: f64| Line::from(bytes((top * share) as u64));
    Chart::new(sets.collect())
        .x_axis(Axis::default().bounds([from, until]).labels([seconds(0.0), seconds(0.5), seconds(1.0)]))
        .y_axis(Axis::default().bounds([0.0, top]).labels([amount(0.0), amount(0.5), amount(1.0)]))
        .render(Rect { y: area.y + 1, height: area.height - 1, ..area }, buffer);
}

fn legend(one: &Container, started: bool, near: &dyn Fn(u64) -> bool) -> Vec<Cell> {
    let mut parts: Vec<Cell> = vec![match started {
        true => ("usage since its start".into(), CURVE),
        false => ("usage; its start was not seen".into(), CURVE),
    }];
    match one.limit_bytes {
        Some(limit) if near(limit) => parts.push((format!(", dots at limit {}", bytes(limit)), WARN)),
        Some(limit) => parts.push((format!(", limit {} is further up", bytes(limit)), PLAIN)),
        None => parts.push((", no limit of its own".into(), PLAIN)),
    }
    if let Some(steady) = one.steady_bytes {
        parts.push((format!(", and at steady {}", bytes(steady)), PLAIN));
    }
    parts
}
