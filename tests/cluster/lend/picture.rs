//! What pods with loans request and use over time, as docs/lend.md shows it.

use plotters::prelude::*;

use super::{MIB, timeline::Timeline};

const SIZE: (u32, u32) = (1000, 460);
const INK: RGBColor = RGBColor(60, 60, 60);
const ROOM: RGBColor = RGBColor(190, 50, 40);
const REQUESTED: RGBColor = RGBColor(31, 90, 160);
const USED: RGBColor = RGBColor(40, 150, 120);
const PENDING: RGBColor = RGBColor(170, 170, 170);

/// Seconds and MiB.
type Curve = Vec<(f64, f64)>;

/// An SVG document. `room`: of the node, bytes.
pub fn svg(line: &Timeline, room: u64, caption: &str) -> Result<String, String> {
    let mut document = String::new();
    draw(&mut document, line, room, caption).map_err(|error| error.to_string())?;
    Ok(document)
}

fn draw(
    document: &mut String,
    line: &Timeline,
    room: u64,
    caption: &str,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let first: u64 = line.pods.values().filter_map(|pod| Some(pod.requests.first()?.1)).sum();
    let area = SVGBackend::with_string(document, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..line.seconds.max(1.0), 0.0..mib(first.max(room)) * 1.08)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_style(INK)
        .x_desc("seconds")
        .y_desc("MiB")
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|mib| format!("{mib:.0}"))
        .draw()?;
    let at = |moment: f64, placed: bool| -> u64 {
        let of = line.pods.values().filter(|pod| !placed || pod.bound.is_some_and(|bound| bound <= moment));
        of.filter_map(|pod| Some(pod.requests.iter().rev().find(|(since, _)| *since <= moment)?.1)).sum()
    };
    let moments: Vec<f64> = line.node.iter().map(|(moment, _)| *moment).collect();
    let over = |placed| moments.iter().map(move |moment| (*moment, mib(at(*moment, placed))));
    let used = line.node.iter().map(|(moment, bytes)| (*moment, (*bytes).max(0) as f64 / MIB as f64));
    let end = line.seconds;
    let all: [(Curve, RGBColor, u32, &str); 4] = [
        (over(false).collect(), PENDING, 1, "requested, with the pods that wait for a node"),
        (over(true).collect(), REQUESTED, 2, "requested on the node"),
        (used.collect(), USED, 2, "used"),
        (vec![(0.0, mib(room)), (end, mib(room))], ROOM, 1, "room"),
    ];
    for (points, color, width, name) in all {
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(width)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(width)));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperRight).border_style(INK).background_style(WHITE.mix(0.8));
    labels.draw()?;
    area.present()
}
