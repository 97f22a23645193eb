//! `while date; do cat memory.current; sleep 1; done`: a line with a time, a line with a size, and so on.

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
    name: "times and sizes in turn",
    expects: "no time is followed by a size",
    recognises: |head| {
        let mut lines = head.lines().map(str::trim).filter(|line| !line.is_empty());
        let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return false };
        time(first).is_some() && size(second).is_some()
    },
    read,
};

fn time(line: &str) -> Option<Stamp> {
    Stamp::split(line).filter(|(_, rest)| rest.is_empty()).map(|(stamp, _)| stamp)
}

fn size(line: &str) -> Option<u64> {
    let is_one_word = line.split_whitespace().count() <= 2;
    parse_size(line).ok().filter(|_| is_one_word)
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut pending: Option<Stamp> = None;
    Lines::new(input).each(|line| {
        let line = line.trim();
        if line.is_empty() {
            return Ok(());
        }
        match (pending.take(), time(line)) {
            // What was asked for was not there: two times in a row.
            (Some(before), Some(now)) if size(line).is_none() || is_soon_after(before, now) => {
                rows.pass_over();
                pending = Some(now);
            }
            (Some(stamp), _) => {
                let usage = parse_size(line)?;
                rows.push(&Labels::default(), Some(stamp), Sizes { usage, ..Sizes::default() })?;
            }
            (None, Some(stamp)) => pending = Some(stamp),
            (None, None) => return Err(format!("{} is no time", quoted(line))),
        }
        Ok(())
    })
}

/// A Unix time looks like a size of some GiB.
fn is_soon_after(before: Stamp, now: Stamp) -> bool {
    const SOON: f64 = 600.0;
    matches!((before, now), (Stamp::Number(before), Stamp::Number(now)) if (0.0..SOON).contains(&(now - before)))
}
