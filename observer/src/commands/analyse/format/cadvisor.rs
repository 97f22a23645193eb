//! cAdvisor's API (`/api/v1.3/containers/…`, `/api/v1.3/docker/…`, `/api/v2.0/stats/…`, `/api/v2.1/stats/…`) and
//! Docker's own (`/containers/NAME/stats`): objects with a time and a memory part.

use std::io::BufRead;

use serde_json::Value;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Rows, Sizes, bounded},
    },
    Format, json,
};

pub const FORMAT: Format = Format {
    name: "cAdvisor stats",
    expects: "no container in it has memory stats",
    recognises: |head| {
        json::is_json(head)
            && ((head.contains("\"timestamp\"") && json::has_object(head, "memory"))
                || head.contains("\"memory_stats\""))
    },
    read,
};

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    for value in serde_json::Deserializer::from_reader(input).into_iter::<Value>() {
        let value = value.map_err(|error| json::refused("JSON of cAdvisor or Docker", &error))?;
        containers("", &value, rows)?;
    }
    Ok(())
}

/// A container is `{name, stats: [..]}`, or `path: [..]` in version 2.0; both come alone, in lists and in maps.
fn containers(name: &str, value: &Value, rows: &mut Rows) -> Result<(), BadInput> {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                match one(item) {
                    Some(_) => stat(name, index, item, rows)?,
                    None => containers(name, item, rows)?,
                }
            }
        }
        Value::Object(_) if one(value).is_some() => {
            let name = value.get("name").and_then(Value::as_str).unwrap_or(name);
            stat(name, 0, value, rows)?;
        }
        Value::Object(map) => match map.get("stats") {
            Some(stats) => {
                let name = map.get("name").and_then(Value::as_str).unwrap_or(name);
                containers(name, stats, rows)?;
            }
            None => {
                for (name, value) in map.iter().filter(|(_, value)| value.is_object() || value.is_array()) {
                    containers(name, value, rows)?;
                }
            }
        },
        _ => {}
    }
    Ok(())
}

/// Time and memory of what is one reading.
fn one(value: &Value) -> Option<(&str, &Value)> {
    let time = value.get("timestamp").or_else(|| value.get("read"))?.as_str()?;
    Some((time, value.get("memory").or_else(|| value.get("memory_stats"))?))
}

fn stat(name: &str, index: usize, value: &Value, rows: &mut Rows) -> Result<(), BadInput> {
    let Some((time, memory)) = one(value) else { return Ok(()) };
    let labels = Labels::of(&[("id", name)]);
    // Two cgroups of one answer are parents and children, not instances of each other.
    let labels = if name.is_empty() { labels } else { Labels::of(&[("container", name)]) };
    let of_kernel = memory.get("stats");
    let kernel = |names: [&str; 2]| names.iter().find_map(|name| json::bytes(of_kernel?.get(name)));
    let Some(usage) = json::bytes(memory.get("usage")) else {
        rows.pass_over();
        return Ok(());
    };
    let inactive = json::bytes(memory.get("working_set"))
        .map(|working_set| usage.saturating_sub(working_set))
        .or(kernel(["total_inactive_file", "inactive_file"]));
    let sizes = Sizes {
        usage,
        anon: json::bytes(memory.get("rss")).or(kernel(["total_rss", "anon"])),
        inactive_file: inactive,
        active_file: kernel(["total_active_file", "active_file"]),
    };
    Stamp::parse(time).and_then(|stamp| rows.push(&labels, Some(stamp), sizes)).map_err(|why| {
        BadInput::File(format!(
            "reading {} of {}: {why}; nothing was analysed",
            index + 1,
            bounded(&labels.brief())
        ))
    })
}
