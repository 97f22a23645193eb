//! An analysed start-up -> a picture: curve, band, time to stable, peak, limit.

use plotters::prelude::*;

use crate::commands::analyse::{Analysed, Analysis};
use observer_core::{
    container::{curve::Curve, stability::band},
    model::{
        printable::printable,
        units::{Bytes, Seconds},
    },
};

const SIZE: (u32, u32) = (1000, 480);
const USAGE: RGBColor = RGBColor(31, 90, 160);
const WORKING_SET: RGBColor = RGBColor(40, 150, 120);
const STEADY: RGBColor = RGBColor(220, 170, 40);
const PEAK: RGBColor = RGBColor(190, 50, 40);
const INK: RGBColor = RGBColor(60, 60, 60);

const MIB: f64 = 1024.0 * 1024.0;

/// An SVG document.
pub fn svg(analysed: &Analysed, title: &str) -> Result<String, String> {
    let mut document = String::new();
    draw(&mut document, analysed, title).map_err(|error| error.to_string())?;
    Ok(document)
}

fn draw(
    document: &mut String,
    analysed: &Analysed,
    title: &str,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let Analysed { analysis, report, usage, working_set, duration_seconds } = analysed;
    let area = SVGBackend::with_string(document, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let end = duration_seconds.max(1.0);
    let top = analysis.limit_bytes.unwrap_or(0).max(highest(usage)) as f64 / MIB * 1.12;
    let caption = match report.starts_total {
        0 | 1 => format!("{title}: {}", analysis.headline()),
        starts => format!("{title}: {starts} starts; the first: {}", analysis.headline()),
    };
    // What is drawn of the first start lies at its place in the file.
    let zero = analysis.started_seconds;
    let first_end = report.starts.get(1).map_or(end, |next| next.started_seconds);
    let mut chart = ChartBuilder::on(&area)
        .caption(printable(&caption), ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..top.max(1.0))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_style(INK)
        .x_desc("seconds since start")
        .y_desc("MiB")
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|mib| format!("{mib:.0}"))
        .draw()?;

    if let Some((low, high, from)) = band_of(analysis) {
        let corners = [(zero + from, low / MIB), (first_end, high / MIB)];
        chart
            .draw_series([Rectangle::new(corners, STEADY.mix(0.35).filled())])?
            .label("band it stays in")
            .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], STEADY.mix(0.35).filled()));
    }
    if analysis.steady_bytes.is_some() && has_cache(usage, working_set) {
        line(&mut chart, working_set, WORKING_SET, "working set")?;
    }
    line(&mut chart, usage, USAGE, "usage")?;
    if let Some(limit) = analysis.limit_bytes {
        let y = limit as f64 / MIB;
        chart
            .draw_series(DashedLineSeries::new([(0.0, y), (end, y)], 8, 5, PEAK.stroke_width(1)))?
            .label(format!("limit {}", Bytes(limit)))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], PEAK));
    }
    if let Some(at) = analysis.time_to_stable_seconds {
        chart
            .draw_series(DashedLineSeries::new(
                [(zero + at, 0.0), (zero + at, top)],
                4,
                4,
                INK.stroke_width(1),
            ))?
            .label(format!("time to stable {}", Seconds(at)))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], INK));
    }
    let peak = (zero + analysis.peak_seconds, analysis.peak_bytes as f64 / MIB);
    chart
        .draw_series([Circle::new(peak, 4, PEAK.filled())])?
        .label(format!("peak {} after {}", Bytes(analysis.peak_bytes), Seconds(analysis.peak_seconds)))
        .legend(|(x, y)| Circle::new((x + 9, y), 4, PEAK.filled()));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    area.present()
}

/// Low, high (bytes) and since when (seconds).
fn band_of(analysis: &Analysis) -> Option<(f64, f64, f64)> {
    let from = analysis.time_to_stable_seconds?;
    if let (Some(low), Some(high)) = (analysis.swing_low_bytes, analysis.swing_high_bytes) {
        return Some((low as f64, high as f64, from));
    }
    let level = analysis.steady_bytes? as f64;
    Some(((level - band(level)).max(0.0), level + band(level), from))
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn line<const N: usize>(
    chart: &mut Chart,
    curve: &Curve<N>,
    color: RGBColor,
    label: &str,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let width = curve.width();
    let points =
        curve.highest().iter().enumerate().map(|(i, bytes)| (i as f64 * width, f64::from(*bytes) / MIB));
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    Ok(())
}

fn highest<const N: usize>(curve: &Curve<N>) -> u64 {
    curve.highest().iter().copied().fold(0.0, f32::max) as u64
}

/// Whether the two curves differ visibly in the picture.
fn has_cache<const N: usize>(usage: &Curve<N>, working_set: &Curve<N>) -> bool {
    let apart = |(u, w): (&f32, &f32)| f64::from(u - w) > band(f64::from(*u)) / 2.0;
    usage.highest().iter().zip(working_set.highest()).any(apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::analyse::{Options, analyse};

    #[test]
    fn a_title_cannot_break_the_document() {
        let analysed = analyse("0,1000000\n1,2000000\n".as_bytes(), &Options::default()).unwrap();
        let document = svg(&analysed, "</text><script>\u{1b}[2J\u{202e}\n").unwrap();
        assert!(!document.contains("<script>") && !document.contains(['\u{1b}', '\u{202e}']), "{document}");
    }
}
