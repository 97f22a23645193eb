//! `docker stats --no-stream` (and `podman stats`) in a loop, as a table or with --format json; times by `date`.

use std::io::BufRead;

use serde_json::Value;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Lines, LoopTimes, Rows, Sizes, bounded},
    },
    Format, json,
};
use observer_core::model::units::{parse_size, quoted};

pub const TABLE: Format = Format {
    name: "docker stats",
    expects: "docker stats printed no container",
    recognises: |head| {
        let is_row = |line: &str| pair(line).is_some();
        // Columns set apart otherwise are those of a file without a header.
        let first = head.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        is_row(&blanks(first)) || head.lines().take(100).any(|line| is_header(line) || is_row(line))
    },
    read: read_table,
};

pub const JSON: Format = Format {
    name: "docker stats JSON",
    expects: "docker stats printed no container",
    recognises: |head| head.contains("\"MemUsage\"") || head.contains("\"mem_usage\""),
    read: read_json,
};

/// `--format '{{.Name}},{{.MemUsage}}'` and the like: other columns are set apart as these are, by blanks.
fn blanks(line: &str) -> String {
    line.replace([',', ';', '"'], " ")
}

fn is_header(line: &str) -> bool {
    line.contains("MEM USAGE / LIMIT")
}

fn read_table(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    let mut with_id = false;
    Lines::new(input).each(|line| {
        let line = blanks(line);
        let rest = times.strip(&line);
        if rest.is_empty() {
            return Ok(());
        }
        if rest.starts_with("Error") {
            rows.pass_over();
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
    let (names, memory) = before.rsplit_once(char::is_whitespace).unwrap_or(("", before));
    let is_size = |text: &str| text == "--" || (text.ends_with(['B', 'b']) && parse_size(text).is_ok());
    (is_size(memory) && is_size(limit)).then_some((names, memory))
}

/// Objects, or podman's lists, that may take several lines; a time stands before one or is a field of it.
fn read_json(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    const TEXT_MAX_BYTES: usize = 1024 * 1024;
    let mut times = LoopTimes::default();
    let (mut text, mut any) = (String::new(), false);
    Lines::new(input).each(|line| {
        if text.is_empty() {
            let rest = times.strip(line);
            if rest.is_empty() {
                return Ok(());
            }
            text = rest[rest.find(['{', '[']).unwrap_or(0)..].to_owned();
        } else {
            text += line;
        }
        match serde_json::from_str(&text) {
            Err(error) if error.is_eof() && text.len() < TEXT_MAX_BYTES => Ok(()),
            Err(error) => Err(not_json(&text, &error)),
            Ok(value) => {
                text.clear();
                any = true;
                items(value, &mut times, rows)
            }
        }
    })?;
    match serde_json::from_str::<Value>(&text) {
        Err(error) if !text.is_empty() && json::is_cut(&error, any, rows) => Ok(()),
        Err(error) if !text.is_empty() => Err(BadInput::File(not_json(&text, &error))),
        _ => Ok(()),
    }
}

fn not_json(text: &str, error: &serde_json::Error) -> String {
    format!("{} is no JSON of docker stats: {}", quoted(text), bounded(&error.to_string()))
}

fn items(value: Value, times: &mut LoopTimes, rows: &mut Rows) -> Result<(), String> {
    let items = match value {
        Value::Array(items) => items,
        item => vec![item],
    };
    items.iter().try_for_each(|item| {
        let text =
            |names: [&str; 2]| names.iter().find_map(|name| item.get(name)?.as_str()).unwrap_or_default();
        for name in ["time", "timestamp", "ts", "date", "read"] {
            if let Some(time) = item.get(name) {
                times.set(Stamp::parse(&time.as_str().map_or_else(|| time.to_string(), str::to_owned))?);
            }
        }
        let labels = Labels::of(&[("id", text(["ID", "id"])), ("name", text(["Name", "name"]))]);
        let memory = text(["MemUsage", "mem_usage"]);
        let memory = memory.split('/').next().unwrap_or_default().trim();
        push(&labels, memory, times, rows)
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

#[cfg(test)]
mod tests {
    use super::pair;

    #[test]
    fn any_white_space_ends_the_names() {
        assert_eq!(pair("web\u{3000}5MiB / 1GiB"), Some(("web", "5MiB")));
        assert_eq!(pair("5MiB / 1GiB"), Some(("", "5MiB")));
        assert_eq!(pair("\u{3000}b / 1GiB"), None);
    }
}
