//! `crictl stats` in a loop: `CONTAINER NAME CPU % MEM DISK INODES`, and times by `date`.

use std::io::BufRead;

use super::{
    super::{
        labels::Labels,
        rows::{BadInput, Lines, LoopTimes, Rows, Sizes},
    },
    Format,
};
use observer_core::model::units::{parse_size, quoted};

pub const FORMAT: Format = Format {
    name: "crictl stats",
    expects: "crictl stats printed no container",
    recognises: |head| {
        let mut times = LoopTimes::default();
        head.lines().take(100).any(|line| is_header(times.strip(line)))
    },
    read,
};

fn is_header(line: &str) -> bool {
    line.starts_with("CONTAINER ") && line.contains(" MEM ") && line.contains("INODES")
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    let mut is_named = false;
    Lines::new(input).each(|line| {
        let rest = times.strip(line);
        if is_header(rest) {
            // Older ones print no name.
            is_named = rest.split_whitespace().nth(1) == Some("NAME");
            return Ok(());
        }
        if rest.is_empty() {
            return Ok(());
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let refused = || format!("{} is no line of crictl stats", quoted(rest));
        let (labels, memory) = match words[..] {
            [id, name, _, memory, ..] if is_named => (Labels::of(&[("id", id), ("name", name)]), memory),
            [id, _, memory, ..] if !is_named => (Labels::of(&[("id", id)]), memory),
            _ => return Err(refused()),
        };
        let usage = parse_size(memory).map_err(|_| refused())?;
        rows.push(&labels, times.of(&labels), Sizes { usage, ..Sizes::default() })?;
        rows.note("crictl stats shows the working set".to_owned());
        Ok(())
    })
}
