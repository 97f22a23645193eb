//! pidstat -r, with or without -h and -H: a header that names minflt/s and RSS, rows with a time first, RSS in KiB.

use std::io::BufRead;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Lines, Rows, Sizes},
    },
    Format,
};
use observer_core::model::units::{parse_size, quoted};

pub const FORMAT: Format = Format {
    name: "pidstat",
    expects: "pidstat wrote a header and no rows",
    recognises: |head| head.lines().take(100).any(|line| header(line).is_some()),
    read,
};

/// Names of the columns behind the time.
fn header(line: &str) -> Option<Vec<&str>> {
    if !(line.contains("minflt/s") && line.contains("RSS")) {
        return None;
    }
    Some(line.split_whitespace().skip_while(|word| !["UID", "USER", "PID", "TGID"].contains(word)).collect())
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut columns: Vec<String> = Vec::new();
    Lines::new(input).each(|line| {
        // The averages at the end, in the language of the locale: "Average:", "Durchschn.:", "Moyenne :".
        let mut words = line.split_whitespace().take(2);
        let is_average =
            words.any(|word| word.ends_with(':') && !word.starts_with(|first: char| first.is_ascii_digit()));
        if line.trim().is_empty() || line.starts_with("Linux ") || is_average {
            return Ok(());
        }
        if let Some(names) = header(line) {
            columns = names.into_iter().map(str::to_owned).collect();
            return Ok(());
        }
        let (stamp, fields) = split(line).ok_or_else(|| format!("{} begins with no time", quoted(line)))?;
        let field = |name: &str| {
            let at = columns.iter().position(|column| column == name)?;
            fields.get(at).copied()
        };
        let missing = |name: &str| format!("{} has no {name}", quoted(line));
        let rss = field("RSS").ok_or_else(|| missing("RSS"))?;
        let usage = if rss.bytes().all(|byte| byte.is_ascii_digit()) {
            parse_size(&format!("{rss}KiB"))?
        } else {
            parse_size(&format!("{rss}iB"))? // pidstat --human: 13.0M, of 1024
        };
        let pid = field("PID").or(field("TGID")).ok_or_else(|| missing("PID"))?;
        let labels = Labels::of(&[("pid", pid), ("command", field("Command").unwrap_or_default())]);
        rows.push(&labels, Some(stamp), Sizes { usage, ..Sizes::default() })
    })
}

/// The time in front, with AM or PM where the locale has them, and the fields behind it.
fn split(line: &str) -> Option<(Stamp, Vec<&str>)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let first = *words.first()?;
    let half = words.get(1).filter(|word| ["AM", "PM"].contains(word));
    let time = half.map_or(first.to_owned(), |half| format!("{first} {half}"));
    let stamp = Stamp::parse(&time).ok()?;
    Some((stamp, words[if half.is_some() { 2 } else { 1 }..].to_vec()))
}
