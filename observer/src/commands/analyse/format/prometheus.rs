//! Answers of Prometheus' API: of a range query, of many (a loop), or of instant queries in a loop; whole, or what `jq`
//! left of them: `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[s,"b"]]}]}}`.

use std::{collections::BTreeMap, io::BufRead};

use serde::Deserialize;
use serde_json::Value;

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
                || (head.contains("\"status\"") && head.contains("\"error\""))
                || (json::has_object(head, "metric") && head.contains("\"value")))
    },
    read,
};

const WHAT: &str = "a Prometheus range query's answer";

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, Value)>,
    /// Of an instant query.
    value: Option<(f64, Value)>,
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut series: Vec<Series> = Vec::new();
    let (mut answers, mut instant) = (0, None);
    for answer in serde_json::Deserializer::from_reader(input).into_iter::<Value>() {
        let answer = match answer {
            Err(error) if json::is_cut(&error, answers > 0, rows) => break,
            answer => answer.map_err(|error| json::refused(WHAT, &error))?,
        };
        answers += 1;
        let (kind, items) = items(answer)?;
        if kind != "matrix" {
            instant = Some(kind);
        }
        let earlier = series.len();
        for item in items {
            let labels = Labels(item.metric.into_iter().collect());
            if !rows.wants(&labels) || (earlier > 0 && series.len() > MANY_SERIES) {
                continue;
            }
            let points = item.values.into_iter().chain(item.value).filter_map(|(at, value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                // A division by nothing, or a marker that the series is stale.
                if ["NaN", "null"].contains(&value.as_str()) {
                    rows.pass_over();
                    return None;
                }
                let usage = parse_size(&value).map_err(|why| format!("value {why}"));
                Some(usage.map(|usage| (Stamp::Number(at), usage)))
            });
            match series[..earlier].iter_mut().find(|(of, _)| *of == labels) {
                Some((_, all)) => all.extend(points),
                None => series.push((labels, points.collect())),
            }
        }
    }
    if let Some(kind) = instant.filter(|_| answers == 1) {
        let kind = quoted(&kind);
        return Err(BadInput::File(format!("the answer is a {kind}; ask /api/v1/query_range for a range")));
    }
    if answers > 1 {
        series.iter_mut().for_each(|(_, points)| in_order(points));
    }
    push(series, rows)
}

/// What an answer holds, and of which type.
fn items(mut answer: Value) -> Result<(String, Vec<Item>), BadInput> {
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        return Err(BadInput::File(format!("the server answered with an error: {}", bounded(error))));
    }
    if let Some(data) = answer.get_mut("data") {
        answer = data.take();
    }
    let kind = answer.get("resultType").and_then(Value::as_str).map(str::to_owned);
    if let Some(result) = answer.get_mut("result") {
        answer = result.take();
    }
    if answer.is_object() && answer.get("metric").is_some() {
        answer = Value::Array(vec![answer]);
    }
    if !answer.is_array() {
        return Err(BadInput::File(format!("not {WHAT}: no \"data\"")));
    }
    let kind = kind.unwrap_or_else(|| {
        let first = answer.get(0).and_then(|item| item.get("value"));
        if first.is_some() { "vector" } else { "matrix" }.to_owned()
    });
    if !["matrix", "vector"].contains(&kind.as_str()) {
        let kind = quoted(&kind);
        return Err(BadInput::File(format!("the answer is a {kind}; ask /api/v1/query_range for a range")));
    }
    let items = serde_json::from_value(answer).map_err(|error| json::refused(WHAT, &error))?;
    Ok((kind, items))
}

/// Answers of a loop may overlap.
pub fn in_order(points: &mut Vec<Result<(Stamp, u64), String>>) {
    points.sort_by(|a, b| match (a, b) {
        (Ok((Stamp::Number(a), _)), Ok((Stamp::Number(b), _))) => a.total_cmp(b),
        _ => std::cmp::Ordering::Equal,
    });
    points.dedup();
}

/// Base units of metrics that are none of memory, as names end with them (prometheus.io/docs/practices/naming).
const OTHER_UNITS: [&str; 8] =
    ["seconds", "ratio", "percent", "celsius", "joules", "volts", "amperes", "meters"];
/// The least that the kernel charges.
const PAGE_BYTES: u64 = 4096;

/// A query's values carry no unit: what cannot be bytes of a container is refused.
fn is_in_bytes(series: &[Series]) -> Result<(), BadInput> {
    for (labels, _) in series {
        let name = labels.0.iter().find(|(key, _)| *key == "__name__").map_or("", |(_, name)| name.as_str());
        let unit = name.strip_suffix("_total").unwrap_or(name).rsplit('_').next().unwrap_or_default();
        if OTHER_UNITS.contains(&unit) {
            let name = quoted(name);
            return Err(BadInput::File(format!("{name} is in {unit}; ask for a metric of memory, in bytes")));
        }
    }
    let values =
        series.iter().flat_map(|(_, points)| points).filter_map(|point| Some(point.as_ref().ok()?.1));
    match values.max() {
        Some(highest @ 1..PAGE_BYTES) => Err(BadInput::File(format!(
            "no value is above {highest}, and a container takes a page of {PAGE_BYTES} bytes at least: ask for bytes, without a division"
        ))),
        _ => Ok(()),
    }
}

/// More instances of one container than this are not told apart.
pub const MANY_SERIES: usize = 1024;

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
    is_in_bytes(&series)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_bytes_is_refused() {
        let refused = |name: &str, values: &[u64]| {
            let points = values.iter().map(|value| Ok((Stamp::Number(0.0), *value))).collect();
            is_in_bytes(&[(Labels::of(&[("__name__", name)]), points)]).err().map(|error| error.to_string())
        };
        let cpu = "container_cpu_usage_seconds_total";
        assert!(refused(cpu, &[9999]).is_some_and(|why| why.contains("is in seconds")));
        assert!(refused("", &[8, 260]).is_some_and(|why| why.contains("no value is above 260")));
        for name in ["container_memory_working_set_bytes", "namespace:container_memory_usage_bytes:sum", ""] {
            assert_eq!(refused(name, &[0, 4096]), None);
        }
    }
}
