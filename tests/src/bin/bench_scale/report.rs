//! Rows -> performance.md and its curves.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::{Load, Reader, Row};

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
        lost,
        ..
    } = row;
    let lost = lost.map_or("-".to_owned(), |lost| format!("{lost}"));
    format!(
        "| {cgroups} | {} | {} | {cpu_percent:.3} | {resident_mib:.1} | {scrape_cpu_ms:.1} | {:.0} | {series} | {lost} |",
        name_of(*load),
        reader(*by),
        *scrape_gzip_bytes as f64 / 1024.0
    )
}

fn name_of(load: Load) -> &'static str {
    match load {
        Load::Idle => "idle",
        Load::Starts => "100 starts a minute",
        Load::Churn => "groups made and removed, up to 100 a second",
    }
}

fn reader(by: Reader) -> &'static str {
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

pub fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    let last = rows.last().context("no rows")?;
    let curves = folder.join("performance");
    fs::create_dir_all(&curves)?;
    for curve in &CURVES {
        let mut svg = String::new();
        draw(&mut svg, curve, rows).map_err(|error| anyhow::anyhow!("{}: {error}", curve.file))?;
        super::write(&curves.join(curve.file), &svg)?;
    }
    let mut md = format!(
        "# Performance\n\nWritten by `cargo xtask bench scale`; the rows of one run, {}: {}.\n\n\
         Each cgroup has a process that sleeps; four cgroups are a workload. CPU is the process's own between two scrapes, as the \
         scheduler counts it; what the programs cost others is in [operating.md](operating.md). Scrapes are gzipped. \
         cAdvisor is v0.52 with memory metrics only and 10 s dynamic housekeeping, as the kubelet embeds it.\n\n",
        last.date, last.machine
    );
    for curve in &CURVES {
        let _ = writeln!(md, "![{}](performance/{})", curve.title, curve.file);
    }
    md.push_str("\n## What it is to reach\n\n| at rest, by the pass | cgroups | at most | measured | |\n|---|---|---|---|---|\n");
    let idle =
        |at: usize, by| rows.iter().rev().find(|r| r.cgroups == at && r.load == Load::Idle && r.by == by);
    for goal in &GOALS {
        let Some(row) = idle(goal.at, Reader::Pass) else { continue };
        let value = (goal.of)(row);
        let reached = if value <= goal.most { "reached" } else { "**missed**" };
        let _ = writeln!(
            md,
            "| {} | {} | {} {} | {value:.3} | {reached} |",
            goal.what, goal.at, goal.most, goal.unit
        );
    }
    if let (Some(few), Some(many)) = (idle(10, Reader::Pass), idle(1000, Reader::Pass)) {
        let kib = (many.resident_mib - few.resident_mib) * 1024.0 / (many.cgroups - few.cgroups) as f64;
        let reached = if kib <= 12.0 { "reached" } else { "**missed**" };
        let _ = writeln!(
            md,
            "| resident memory of one more container | 10 to 1000 | 12 KiB | {kib:.1} | {reached} |"
        );
    }
    if let (Some(pass), Some(peer)) = (idle(1000, Reader::Pass), idle(1000, Reader::Cadvisor)) {
        let times = peer.cpu_percent / pass.cpu_percent;
        let reached = if times >= 50.0 { "reached" } else { "**missed**" };
        let _ =
            writeln!(md, "| less CPU than cAdvisor, times | 1000 | at least 50 | {times:.0} | {reached} |");
    }
    md.push_str(
        "\n## All rows\n\n| cgroups | load | read by | CPU, % of a core | resident, MiB | scrape: CPU ms | KiB gzipped | series | records lost |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let _ = writeln!(md, "{}", line(row));
    }
    super::write(&folder.join("performance.md"), &md)
}

fn draw(document: &mut String, curve: &Curve, rows: &[Row]) -> Draw<()> {
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
