//! mprof (memory_profiler): `MEM 12.34 1716300000.1234`, in MiB and Unix seconds; `CHLD n mib time` for each child
//! process.

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
    name: "mprof",
    expects: "no line begins with MEM",
    recognises: |head| {
        head.lines().take(50).any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some("MEM") && words.count() == 2
        })
    },
    read,
};

/// A reading, and the line that it begins in.
struct Pending {
    line: u64,
    stamp: Stamp,
    usage: u64,
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut lines = Lines::new(input);
    // The children of a reading follow it.
    let mut pending: Option<Pending> = None;
    while let Some((line, text)) = lines.numbered()? {
        let refused = |why| BadInput::Line { line, why };
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["MEM", mib, time] => {
                flush(pending.take(), rows)?;
                let stamp = Stamp::parse(time).map_err(refused)?;
                pending = Some(Pending { line, stamp, usage: mebibytes(mib).map_err(refused)? });
            }
            ["CHLD", _, mib, _] => {
                rows.note("child processes are added; what they share counts for each".to_owned());
                if let Some(pending) = &mut pending {
                    pending.usage += mebibytes(mib).map_err(refused)?;
                }
            }
            [] | ["CMDLINE" | "FUNC", ..] => {}
            _ => return Err(refused(format!("{} is no line of mprof", quoted(&text)))),
        }
    }
    flush(pending, rows)
}

fn flush(pending: Option<Pending>, rows: &mut Rows) -> Result<(), BadInput> {
    let Some(Pending { line, stamp, usage }) = pending else { return Ok(()) };
    rows.push(&Labels::default(), Some(stamp), Sizes { usage, ..Sizes::default() })
        .map_err(|why| BadInput::Line { line, why })
}

fn mebibytes(text: &str) -> Result<u64, String> {
    parse_size(&format!("{text}MiB"))
}
