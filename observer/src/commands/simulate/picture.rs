//! What the pods of the fullest nodes use over time, as the requests are set and with lending, against their room.

use plotters::prelude::*;

use super::Simulated;
use observer_core::{
    model::printable::printable,
    simulate::{NodeOutcome, Requests},
};

const SIZE: (u32, u32) = (1000, 480);
const INK: RGBColor = RGBColor(60, 60, 60);
const ROOM: RGBColor = RGBColor(190, 50, 40);
const AS_SET: RGBColor = RGBColor(31, 90, 160);
const LENT: RGBColor = RGBColor(40, 150, 120);
const MIB: f64 = 1024.0 * 1024.0;

/// An SVG document.
pub fn svg(simulated: &Simulated) -> Result<String, String> {
    let mut document = String::new();
    draw(&mut document, simulated).map_err(|error| error.to_string())?;
    Ok(document)
}

fn draw(document: &mut String, simulated: &Simulated) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let of = |requests: Requests| simulated.outcomes.iter().find(move |outcome| outcome.requests == requests);
    let nodes = of(Requests::AsSet).map_or(&[][..], |outcome| &outcome.nodes);
    let fullest = nodes.iter().max_by(|a, b| fullness(a).total_cmp(&fullness(b)));
    let lent = of(Requests::Lent).and_then(|outcome| {
        outcome.nodes.iter().find(|node| fullest.is_some_and(|fullest| fullest.name == node.name))
    });
    let end =
        fullest.into_iter().chain(lent).map(|node| node.curve.len() as f64 * node.span).fold(1.0, f64::max);
    let top =
        fullest.into_iter().chain(lent).map(|node| node.demand.max(node.allocatable)).max().unwrap_or(1);
    let area = SVGBackend::with_string(document, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let caption = match fullest {
        Some(node) => format!("{}: {}", simulated.change, node.name),
        None => format!("{}: nothing starts", simulated.change),
    };
    let mut chart = ChartBuilder::on(&area)
        .caption(printable(&caption), ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..(top as f64 / MIB * 1.12).max(1.0))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_style(INK)
        .x_desc("seconds")
        .y_desc("MiB needed on the node")
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|mib| format!("{mib:.0}"))
        .draw()?;
    let curve = |node: &NodeOutcome| -> Vec<(f64, f64)> {
        node.curve.iter().enumerate().map(|(i, bytes)| (i as f64 * node.span, *bytes as f64 / MIB)).collect()
    };
    for (node, color, name) in [(fullest, AS_SET, "as requests are set"), (lent, LENT, "with lending")] {
        let Some(node) = node else { continue };
        chart
            .draw_series(LineSeries::new(curve(node), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    if let Some(node) = fullest {
        let room = node.allocatable as f64 / MIB;
        chart
            .draw_series(LineSeries::new([(0.0, room), (end, room)], ROOM.stroke_width(1)))?
            .label("room of the node")
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], ROOM));
    }
    chart.configure_series_labels().border_style(INK).background_style(WHITE.mix(0.8)).draw()?;
    area.present()
}

fn fullness(node: &NodeOutcome) -> f64 {
    node.demand as f64 / node.allocatable.max(1) as f64
}
