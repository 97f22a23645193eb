//! /api/v1/export of VictoriaMetrics: one JSON object per line, `{"metric":{},"values":[b],"timestamps":[ms]}`.

use std::{collections::BTreeMap, io::BufRead};

use serde::Deserialize;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Rows},
    },
    Format, json,
    prometheus::{self, Series},
};
use observer_core::model::units::parse_size;

pub const FORMAT: Format = Format {
    name: "VictoriaMetrics export",
    expects: "the lines have no values",
    recognises: |head| {
        json::is_json(head)
            && head.contains("\"timestamps\"")
            && head.contains("\"values\"")
            && head.contains("\"metric\"")
    },
    read,
};

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    values: Vec<Option<f64>>,
    timestamps: Vec<f64>,
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut series: Vec<Series> = Vec::new();
    rows.clock.unit = Some(1e-3);
    for line in serde_json::Deserializer::from_reader(input).into_iter::<Line>() {
        let line = match line {
            Err(error) if json::is_cut(&error, !series.is_empty(), rows) => break,
            line => line.map_err(|error| json::refused("lines of a VictoriaMetrics export", &error))?,
        };
        let labels = Labels(line.metric.into_iter().collect());
        if line.values.len() != line.timestamps.len() {
            return Err(BadInput::File(format!(
                "{} has {} values and {} timestamps",
                labels.brief(),
                line.values.len(),
                line.timestamps.len()
            )));
        }
        // No value is a stale marker: nothing was scraped.
        let points = line.timestamps.into_iter().zip(line.values).filter_map(|(at, value)| {
            let value = value?;
            Some(parse_size(&value.to_string()).map(|usage| (Stamp::Number(at), usage)))
        });
        // A long series is exported in several lines.
        match series.iter_mut().find(|(of, _)| *of == labels) {
            Some((_, all)) => all.extend(points),
            None => series.push((labels, points.collect())),
        }
    }
    series.iter_mut().for_each(|(_, points)| prometheus::in_order(points));
    prometheus::push(series, rows)
}
