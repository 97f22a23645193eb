//! psrecord --log: elapsed seconds, CPU, resident and virtual memory in what it calls MB and computes as MiB.

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
    name: "psrecord",
    expects: "the log has a header and no rows",
    recognises: |head| {
        header(head.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()).is_some()
    },
    read,
};

/// Which column is resident memory.
fn header(line: &str) -> Option<usize> {
    if line.starts_with('#') && line.contains("Elapsed time") && line.contains("Real (MB)") {
        // Blanks are in the names too: each column but the first has its unit in brackets.
        return line.split(')').position(|column| column.contains("Real (MB")).map(|column| column + 1);
    }
    let columns: Vec<&str> = line.trim().split(',').collect();
    (columns.first() == Some(&"elapsed_time")).then(|| columns.iter().position(|name| *name == "mem_real"))?
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut real = None;
    rows.clock.unit = Some(1.0);
    Lines::new(input).each(|line| {
        if line.trim().is_empty() {
            return Ok(());
        }
        if let Some(column) = header(line) {
            real = Some(column);
            return Ok(());
        }
        let fields: Vec<&str> = line.split([',', ' ', '\t']).filter(|field| !field.is_empty()).collect();
        let field = |at: usize| {
            fields.get(at).copied().ok_or_else(|| format!("{} has too few columns", quoted(line)))
        };
        let stamp = Stamp::parse(field(0)?)?;
        let usage = parse_size(&format!("{}MiB", field(real.unwrap_or(2))?))?;
        rows.push(&Labels::default(), Some(stamp), Sizes { usage, ..Sizes::default() })
    })
}
