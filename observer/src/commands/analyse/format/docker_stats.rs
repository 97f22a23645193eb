//! `docker stats --no-stream` (and `podman stats`) in a loop, as a table or with --format json; times by `date`.

use std::io::BufRead;

use serde_json::Value;

use super::{
    super::{
        labels::Labels,
        rows::{BadInput, Lines, LoopTimes, Rows, Sizes, bounded},
    },
    Format,
};
use observer_core::model::units::{parse_size, quoted};

pub const TABLE: Format = Format {
    name: "docker stats",
    expects: "docker stats printed no container",
    recognises: |head| {
        head.lines()
            .take(100)
            .any(|line| is_header(line) || pair(line).is_some_and(|(_, memory)| parse_size(memory).is_ok()))
    },
    read: read_table,
};

pub const JSON: Format = Format {
    name: "docker stats JSON",
    expects: "docker stats printed no container",
    recognises: |head| head.contains("\"MemUsage\"") || head.contains("\"mem_usage\""),
    read: read_json,
};

fn is_header(line: &str) -> bool {
    line.contains("MEM USAGE / LIMIT")
}

fn read_table(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    let mut with_id = false;
    Lines::new(input).each(|line| {
        let rest = times.strip(line);
        if rest.is_empty() {
            return Ok(());
        }
        if is_header(rest) {
            with_id = rest.starts_with("CONTAINER ID") || rest.starts_with("ID ");
            return Ok(());
        }
        let (names, memory) =
            pair(rest).ok_or_else(|| format!("{} is no line of docker stats", quoted(rest)))?;
        let names: Vec<&str> =
            names.split_whitespace().map(|name| name.trim_end_matches([':', ','])).collect();
        let labels = match names[..] {
            [id, name, ..] if with_id => Labels::of(&[("id", id), ("name", name)]),
            [name, ..] => Labels::of(&[("name", name)]),
            [] => Labels::default(),
        };
        push(&labels, memory, &mut times, rows)
    })
}

/// What stands before `12.5MiB / 1GiB`, and the first of the two sizes.
fn pair(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" / ")?;
    let limit = after.split_whitespace().next()?;
    let before = before.trim_end();
    let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (names, memory) = (&before[..start], &before[start..]);
    let is_size = |text: &str| text == "--" || (text.ends_with(['B', 'b']) && parse_size(text).is_ok());
    (is_size(memory) && is_size(limit)).then_some((names, memory))
}

fn read_json(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    Lines::new(input).each(|line| {
        let (before, object) = line.split_at(line.find(['{', '[']).unwrap_or(line.len()));
        let rest = times.strip(before);
        if object.is_empty() && rest.is_empty() {
            return Ok(());
        }
        let value: Value = serde_json::from_str(object).map_err(|error| {
            format!("{} is no JSON of docker stats: {}", quoted(line), bounded(&error.to_string()))
        })?;
        // podman prints a list.
        let items = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        items.iter().try_for_each(|item| {
            let text =
                |names: [&str; 2]| names.iter().find_map(|name| item.get(name)?.as_str()).unwrap_or_default();
            let labels = Labels::of(&[("id", text(["ID", "id"])), ("name", text(["Name", "name"]))]);
            let memory = text(["MemUsage", "mem_usage"]);
            let memory = memory.split('/').next().unwrap_or_default().trim();
            push(&labels, memory, &mut times, rows)
        })
    })
}

fn push(labels: &Labels, memory: &str, times: &mut LoopTimes, rows: &mut Rows) -> Result<(), String> {
    // Not running, or not known yet.
    if memory == "--" {
        rows.pass_over();
        return Ok(());
    }
    let usage = parse_size(memory)?;
    let stamp = times.of(labels);
    rows.push(labels, stamp, Sizes { usage, ..Sizes::default() })?;
    rows.note(
        "docker stats shows usage less inactive file cache: peaks of file cache are not in it".to_owned(),
    );
    Ok(())
}
