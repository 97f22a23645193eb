//! Typical start-ups against request and limit, in characters.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    symbols::Marker,
    text::Line,
    widgets::{Axis, Chart, Dataset, GraphType, Widget},
};

use crate::commands::advise::table::quantity;
use observer_core::model::{
    advice::{Facts, Numbers, Typical},
    units::Seconds,
};

const SIZE: Rect = Rect { x: 0, y: 0, width: 84, height: 18 };
/// Left of the chart, as the story's other lines.
const INDENT: &str = "    ";

type Points = Vec<(f64, f64)>;

/// Lines to print, with a legend that says what each is.
pub fn plot(typical: &Typical, facts: &Facts, numbers: &Numbers) -> String {
    let end = typical.span * typical.highest.len() as f64;
    let curve = |levels: &[u64]| -> Points {
        let middle = |i: usize| (i as f64 + 0.5) * typical.span;
        levels.iter().enumerate().map(|(i, bytes)| (middle(i), *bytes as f64)).collect()
    };
    let level = |bytes: u64| -> Points {
        // Dots, to distinguish them from the curves without colour.
        (0..=40).map(|i| (end * f64::from(i) / 40.0, bytes as f64)).collect()
    };
    let levels = [
        ("request", facts.current.request.flatten()),
        ("request advised", numbers.request),
        ("limit", facts.current.limit.flatten()),
        ("limit advised", numbers.limit.map(|limit| limit.bytes())),
    ];
    let levels: Vec<(&str, u64)> =
        levels.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
    let highest = typical.highest.iter().copied().max().unwrap_or(0);
    // A limit far above everything would leave nothing of the curve to see; it is named below.
    let within = |bytes: u64| bytes <= highest.saturating_mul(4);
    let top = levels.iter().map(|(_, bytes)| *bytes).filter(|bytes| within(*bytes)).fold(highest, u64::max);
    let top = (top as f64 * 1.08).max(1.0);

    let mut lines = vec![(Marker::Braille, GraphType::Line, curve(&typical.highest))];
    lines.push((Marker::Braille, GraphType::Line, curve(&typical.median)));
    let shown = levels.iter().filter(|(_, bytes)| within(*bytes));
    lines.extend(shown.map(|(name, bytes)| (marker(name), GraphType::Scatter, level(*bytes))));
    let datasets = lines
        .iter()
        .map(|(marker, graph, points)| Dataset::default().marker(*marker).graph_type(*graph).data(points));
    let seconds = |share: f64| Line::from(Seconds(end * share).to_string());
    let bytes = |share: f64| Line::from(quantity((top * share) as u64));
    let chart = Chart::new(datasets.collect())
        .style(Style::default())
        .x_axis(Axis::default().bounds([0.0, end]).labels([seconds(0.0), seconds(0.5), seconds(1.0)]))
        .y_axis(Axis::default().bounds([0.0, top]).labels([bytes(0.0), bytes(0.5), bytes(1.0)]));
    let mut buffer = Buffer::empty(SIZE);
    chart.render(SIZE, &mut buffer);

    let mut text = String::new();
    for y in 0..SIZE.height {
        let row: String = (0..SIZE.width).map(|x| buffer[(x, y)].symbol()).collect();
        text += &format!("{INDENT}{}\n", row.trim_end());
    }
    text += &format!("{INDENT}lines: the highest and the median of {} start-ups", facts.startups.count);
    for (name, bytes) in levels {
        let mark = if within(bytes) { sign(name) } else { "above:" };
        text += &format!("; {mark} {name} {}", quantity(bytes));
    }
    text + "\n"
}

/// What is set now, and what is advised, in signs of their own.
fn marker(name: &str) -> Marker {
    if name.ends_with("advised") { Marker::Block } else { Marker::Dot }
}

fn sign(name: &str) -> &'static str {
    if name.ends_with("advised") { "█" } else { "•" }
}
