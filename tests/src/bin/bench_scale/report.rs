//! Rows -> docs/performance.md and its curves.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::{Churn, Load, Reader, Row};

const INK: RGBColor = RGBColor(60, 60, 60);
const SIZE: (u32, u32) = (760, 380);

type Draw<T> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

struct Curve {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    of: fn(&Row) -> f64,
}

const CURVES: [Curve; 3] = [
    Curve {
        file: "cpu.svg",
        title: "Processor time beside scrapes, idle",
        unit: "% of a core",
        of: |row| row.cpu_percent,
    },
    Curve { file: "resident.svg", title: "Resident memory, idle", unit: "MiB", of: |row| row.resident_mib },
    Curve { file: "scrape.svg", title: "One scrape, idle", unit: "ms of CPU", of: |row| row.scrape_cpu_ms },
];

pub const HEAD: &str = "\
| cgroups | load | read by | CPU, % of a core | resident, MiB | scrape: CPU ms | KB gzipped | series | records lost |
|---|---|---|---|---|---|---|---|---|";

pub fn line(row: &Row) -> String {
    let Row {
        cgroups,
        load,
        by,
        cpu_percent,
        resident_mib,
        scrape_cpu_ms,
        scrape_gzip_bytes,
        series,
        own,
        ..
    } = row;
    let lost = own.as_ref().map_or("-".to_owned(), |own| own.lost_records.to_string());
    format!(
        "| {cgroups} | {} | {} | {cpu_percent:.3} | {resident_mib:.1} | {scrape_cpu_ms:.1} | {:.0} | {series} | {lost} |",
        self::load(*load),
        reader(*by),
        *scrape_gzip_bytes as f64 / 1e3
    )
}

pub fn load(load: Load) -> &'static str {
    match load {
        Load::Idle => "idle",
        Load::Starts => "100 starts a minute",
        Load::Churn => "short-lived cgroups",
    }
}

pub fn reader(by: Reader) -> &'static str {
    match by {
        Reader::Pass => "the pass",
        Reader::Files => "files",
        Reader::Cadvisor => "cAdvisor",
    }
}

fn colour(by: Reader) -> RGBColor {
    match by {
        Reader::Pass => RGBColor(31, 90, 160),
        Reader::Files => RGBColor(220, 170, 40),
        Reader::Cadvisor => RGBColor(190, 50, 40),
    }
}

/// What must be reached, and what was.
struct Goal {
    what: &'static str,
    at: usize,
    most: f64,
    unit: &'static str,
    of: fn(&Row) -> f64,
}

const GOALS: [Goal; 5] = [
    Goal { what: "CPU beside scrapes", at: 1000, most: 0.10, unit: "% of a core", of: |row| row.cpu_percent },
    Goal { what: "CPU beside scrapes", at: 5000, most: 0.30, unit: "% of a core", of: |row| row.cpu_percent },
    Goal { what: "resident memory", at: 1000, most: 32.0, unit: "MiB", of: |row| row.resident_mib },
    Goal { what: "CPU of a scrape", at: 1000, most: 15.0, unit: "ms", of: |row| row.scrape_cpu_ms },
    Goal {
        what: "a scrape, gzipped",
        at: 1000,
        most: 300.0,
        unit: "KB",
        of: |row| row.scrape_gzip_bytes as f64 / 1e3,
    },
];

/// What is between these two lines of performance.md is written here, the rest by hand.
const BEGIN: &str = "<!-- written by `cargo xtask bench scale -- --report`, from here -->\n";
const END: &str = "<!-- to here -->\n";

/// The last row of each setting counts.
pub fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    let mut kept: Vec<&Row> = Vec::new();
    for row in rows {
        kept.retain(|r| (r.cgroups, r.load, r.by) != (row.cgroups, row.load, row.by));
        kept.push(row);
    }
    kept.sort_by_key(|row| (row.load as u8, row.cgroups, row.by as u8));
    let rows = kept;
    let curves = folder.join("performance");
    fs::create_dir_all(&curves)?;
    for curve in &CURVES {
        let mut svg = String::new();
        draw(&mut svg, curve, &rows).map_err(|error| anyhow::anyhow!("{}: {error}", curve.file))?;
        save(&curves.join(curve.file), &svg)?;
    }
    let path = folder.join("performance.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(above, rest)| Some((above, rest.split_once(END)?.1)));
    let (above, below) =
        parts.with_context(|| format!("{} has no place for the rows: {BEGIN}{END}", path.display()))?;
    save(&path, &format!("{above}{BEGIN}{}{END}{below}", measured(&rows)?))
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn measured(rows: &[&Row]) -> Result<String> {
    let last = rows.last().context("no rows")?;
    let beside = last.beside.as_ref().map(|beside| format!(", beside {beside}")).unwrap_or_default();
    let mut md = format!("\n{}: {}{beside}.\n\n", last.date, last.machine);
    for curve in &CURVES {
        let _ = writeln!(md, "![{}](performance/{})", curve.title, curve.file);
    }
    md.push_str("\n| goal, with the pass | cgroups | at most | measured | |\n|---|---|---|---|---|\n");
    let row = |at: usize, load, by| rows.iter().find(|r| r.cgroups == at && r.load == load && r.by == by);
    let idle = |at: usize, by| row(at, Load::Idle, by);
    let reached = |is: bool| if is { "reached" } else { "**missed**" };
    for goal in &GOALS {
        let Some(row) = idle(goal.at, Reader::Pass) else { continue };
        let value = (goal.of)(row);
        let _ = writeln!(
            md,
            "| {} | {} | {} {} | {value:.2} | {} |",
            goal.what,
            goal.at,
            goal.most,
            goal.unit,
            reached(value <= goal.most)
        );
    }
    if let (Some(few), Some(many)) = (idle(10, Reader::Pass), idle(1000, Reader::Pass)) {
        let kib = (many.resident_mib - few.resident_mib) * 1024.0 / (many.cgroups - few.cgroups) as f64;
        let _ = writeln!(
            md,
            "| resident memory of one more container | 10 to 1000 | 12 KiB | {kib:.1} | {} |",
            reached(kib <= 12.0)
        );
    }
    if let (Some(pass), Some(peer)) = (idle(1000, Reader::Pass), idle(1000, Reader::Cadvisor)) {
        let times = peer.cpu_percent / pass.cpu_percent;
        let _ = writeln!(
            md,
            "| less CPU than cAdvisor, times | 1000 | at least 50 | {times:.0} | {} |",
            reached(times >= 50.0)
        );
    }
    let churns = || rows.iter().filter_map(|row| Some((row, row.churn.as_ref()?)));
    if let Some((row, churn)) = churns().find(|(row, _)| row.by == Reader::Pass) {
        let ratio = churn.after_mib / churn.before_mib;
        let _ = writeln!(
            md,
            "| memory a minute after a churn, of that before | {} | 1.10 | {ratio:.2} | {} |",
            row.cgroups,
            reached(ratio <= 1.1)
        );
        if let Some(own) = &row.own {
            let left = own.entries_left;
            let _ = writeln!(
                md,
                "| entries a churn left in the kernel's table | {} | 0 | {left} | {} |",
                row.cgroups,
                reached(left <= 0)
            );
        }
    }
    let _ = writeln!(md, "\n{HEAD}");
    for row in rows {
        let _ = writeln!(md, "{}", line(row));
    }
    if churns().next().is_some() {
        md.push_str(
            "\n| a churn of | read by | MiB before | at its end | a minute later | starts counted |\n|---|---|---|---|---|---|\n",
        );
    }
    for (row, churn) in churns() {
        let Churn { groups, seconds, before_mib, end_mib, after_mib, seen } = churn;
        let seen = seen.map_or("-".to_owned(), |seen| seen.to_string());
        let by = reader(row.by);
        let _ = writeln!(
            md,
            "| {groups} in {seconds} s | {by} | {before_mib:.1} | {end_mib:.1} | {after_mib:.1} | {seen} |"
        );
    }
    md.push('\n');
    Ok(md)
}

fn draw(document: &mut String, curve: &Curve, rows: &[&Row]) -> Draw<()> {
    let area = SVGBackend::with_string(document, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = |by: Reader| -> Vec<(f64, f64)> {
        let of_it = rows.iter().filter(|row| row.by == by && row.load == Load::Idle);
        let mut points: Vec<_> = of_it.map(|row| (row.cgroups as f64, (curve.of)(row).max(0.001))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let all: Vec<(f64, f64)> =
        [Reader::Pass, Reader::Files, Reader::Cadvisor].into_iter().flat_map(points).collect();
    let bound = |of: fn(&(f64, f64)) -> f64, pick: fn(f64, f64) -> f64, from: f64| {
        all.iter().map(of).fold(from, pick)
    };
    let (right, top) = (bound(|p| p.0, f64::max, 10.0), bound(|p| p.1, f64::max, 0.001));
    let (left, bottom) = (bound(|p| p.0, f64::min, right), bound(|p| p.1, f64::min, top));
    let mut chart = ChartBuilder::on(&area)
        .caption(curve.title, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right * 1.1).log_scale(), (bottom * 0.7..top * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_style(INK)
        .x_desc("cgroups")
        .y_desc(curve.unit)
        .draw()?;
    for by in [Reader::Pass, Reader::Files, Reader::Cadvisor] {
        let (points, colour) = (points(by), colour(by));
        if points.is_empty() {
            continue;
        }
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(reader(by))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(INK).draw()?;
    area.present()
}
