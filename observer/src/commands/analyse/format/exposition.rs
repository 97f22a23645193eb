//! Samples in Prometheus' text forms: `name{labels} value timestamp` (an exporter's page asked in a loop, `promtool
//! tsdb dump`) and `{labels} =>` with `value @[time]` below it (promtool query).

use std::io::BufRead;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Lines, LoopTimes, Rows, Sizes},
    },
    Format,
    prometheus::{self, MANY_SERIES, Series},
};
use observer_core::model::units::{parse_size, quoted};

pub const FORMAT: Format = Format {
    name: "Prometheus text",
    expects: "no sample of a memory series is in it",
    recognises: |head| {
        let mut times = LoopTimes::default();
        head.lines().take(100).any(|line| series_of(times.strip(line)).is_some())
    },
    read,
};

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    let mut all: Vec<Series> = Vec::new();
    let mut current: Option<Labels> = None;
    let mut undated = false;
    Lines::new(input).each(|line| {
        // promtool's samples begin with their value.
        let is_promtool = line.contains(" @[") && current.is_some();
        let rest = if is_promtool { line.trim() } else { times.strip(line) };
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(());
        }
        let (labels, sample) = match (series_of(rest), &current) {
            (Some((labels, "=>")), _) => {
                current = Some(labels);
                return Ok(());
            }
            (Some((labels, sample)), _) => (labels, sample.strip_prefix("=> ").unwrap_or(sample)),
            (None, Some(labels)) => (labels.clone(), rest),
            (None, None) => return Err(format!("{} is no sample", quoted(rest))),
        };
        // A page of an exporter holds much else; what is too much is refused once it is read so far.
        if !is_memory(&labels) || !rows.wants(&labels) || all.len() > MANY_SERIES {
            return Ok(());
        }
        let mut words = sample.split_whitespace();
        let value = words.next().unwrap_or_default();
        let stamp = match words.next().map(|time| time.trim_start_matches('@')) {
            Some(time) => Some(Stamp::parse(time)?),
            None => times.of(&labels),
        };
        undated |= stamp.is_none();
        let point = parse_size(value).map_err(|why| format!("value {why}"));
        let point = point.map(|usage| (stamp.unwrap_or(Stamp::Number(0.0)), usage));
        match all.iter_mut().find(|(of, _)| *of == labels) {
            Some((_, points)) => points.push(point),
            None => all.push((labels, vec![point])),
        }
        Ok(())
    })?;
    if undated {
        return without_times(all, rows);
    }
    prometheus::push(all, rows)
}

/// With `--interval`, or an error that names it.
fn without_times(all: Vec<Series>, rows: &mut Rows) -> Result<(), BadInput> {
    for (labels, points) in all {
        for point in points {
            point
                .and_then(|(_, usage)| rows.push(&labels, None, Sizes { usage, ..Sizes::default() }))
                .map_err(BadInput::File)?;
        }
    }
    Ok(())
}

/// Labels in front of a line, and what follows them.
fn series_of(line: &str) -> Option<(Labels, &str)> {
    let open = line.find('{')?;
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
    let close = end_of_labels(&line[open..])? + open;
    let (series, rest) = line.split_at(close + 1);
    (series[..open].chars().all(is_name) && series.contains('=') && !series.contains("\":"))
        .then(|| (Labels::parse(series), rest.trim()))
}

/// The brace that is in no quotes.
fn end_of_labels(labels: &str) -> Option<usize> {
    let (mut in_quotes, mut escaped) = (false, false);
    labels.char_indices().find_map(|(at, letter)| {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_quotes = !in_quotes,
            '}' if !in_quotes => return Some(at),
            _ => {}
        }
        None
    })
}

/// By its name; what has none is what was asked for.
fn is_memory(labels: &Labels) -> bool {
    let name = labels.0.iter().find(|(name, _)| name == "__name__").map(|(_, name)| name.as_str());
    name.is_none_or(|name| {
        ["memory_usage_bytes", "memory_working_set_bytes", "memory_rss", "resident_memory_bytes"]
            .iter()
            .any(|end| name.ends_with(end))
    })
}
