//! The answer of a range query:
//! `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[s,"b"]]}]}}`.

use std::{collections::BTreeMap, io::BufRead};

use serde::Deserialize;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, NARROW, Rows, Sizes, bounded},
    },
    Format, json,
};
use observer_core::model::units::{parse_size, quoted};

pub const FORMAT: Format = Format {
    name: "Prometheus range query",
    expects: "the query matched no series in that range",
    recognises: |head| {
        json::is_json(head)
            && (head.contains("\"resultType\"")
                || (head.contains("\"status\"") && head.contains("\"error\"")))
    },
    read,
};

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Matrix {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let what = "a Prometheus range query's answer";
    let answer: Answer = serde_json::from_reader(input).map_err(|error| json::refused(what, &error))?;
    if let Some(error) = answer.error {
        return Err(BadInput::File(format!("the server answered with an error: {}", bounded(&error))));
    }
    let data = answer.data.ok_or_else(|| BadInput::File(format!("not {what}: no \"data\"")))?;
    if data.result_type != "matrix" {
        let kind = quoted(&data.result_type);
        return Err(BadInput::File(format!("the answer is a {kind}; ask /api/v1/query_range for a range")));
    }
    let result: Vec<Matrix> =
        serde_json::from_value(data.result).map_err(|error| json::refused(what, &error))?;
    let series = result.into_iter().map(|series| {
        let points = series.values.into_iter().map(|(at, value)| {
            parse_size(&value).map(|usage| (Stamp::Number(at), usage)).map_err(|why| format!("value {why}"))
        });
        (Labels(series.metric.into_iter().collect()), points.collect())
    });
    push(series.collect(), rows)
}

pub type Series = (Labels, Vec<Result<(Stamp, u64), String>>);

/// Of one container: series that are instances of it come one after the other.
pub fn push(series: Vec<Series>, rows: &mut Rows) -> Result<(), BadInput> {
    let mut series: Vec<Series> = series.into_iter().filter(|(labels, _)| rows.wants(labels)).collect();
    let names = {
        let mut names: Vec<&str> =
            series.windows(2).flat_map(|pair| pair[0].0.differing(&pair[1].0)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let span = |(_, points): &Series| {
        let at = |point: Option<&Result<(Stamp, u64), String>>| match point {
            Some(Ok((Stamp::Number(at), _))) => *at,
            _ => f64::NAN,
        };
        (at(points.first()), at(points.last()))
    };
    series.sort_by(|a, b| span(a).0.total_cmp(&span(b).0));
    let restarted = series.windows(2).all(|pair| {
        pair[0].0 != pair[1].0 && pair[0].0.same_container(&pair[1].0) && span(&pair[0]).1 < span(&pair[1]).0
    });
    if !restarted {
        let differ = if names.is_empty() {
            "with the same labels".to_owned()
        } else {
            format!("that differ in {}", bounded(&names))
        };
        let examples: Vec<String> = series.iter().take(2).map(|(labels, _)| labels.brief()).collect();
        return Err(BadInput::File(format!(
            "{} series {differ}, such as {}; {NARROW}",
            series.len(),
            examples.join(" and ")
        )));
    }
    for (labels, points) in series {
        for (index, point) in points.into_iter().enumerate() {
            point
                .and_then(|(stamp, usage)| {
                    rows.push(&labels, Some(stamp), Sizes { usage, ..Sizes::default() })
                })
                .map_err(|why| {
                    BadInput::File(format!(
                        "value {} of {}: {why}; nothing was analysed",
                        index + 1,
                        labels.brief()
                    ))
                })?;
        }
    }
    Ok(())
}
