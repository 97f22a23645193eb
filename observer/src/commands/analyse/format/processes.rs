//! Tables of processes in a loop: `ps -o pid,rss,comm`, `ps aux`, `top -b`, `smem`; and `/proc/PID/status`.
//!
//! Times by `date`, or top's own. Sizes are KiB where they have no unit.

use std::io::BufRead;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Lines, LoopTimes, Rows, Sizes},
    },
    Format,
};
use observer_core::model::units::{parse_size, quoted};

pub const TABLE: Format = Format {
    name: "process table",
    expects: "no process is in it",
    recognises: |head| {
        let mut times = LoopTimes::default();
        head.lines().take(100).any(|line| Header::of(times.strip(line)).is_some())
    },
    read: read_table,
};

pub const STATUS: Format = Format {
    name: "/proc/PID/status",
    expects: "no line begins with VmRSS:",
    recognises: |head| {
        let mut times = LoopTimes::default();
        head.lines()
            .take(200)
            .any(|line| of_status(times.strip(line)).is_some_and(|(name, _)| is_resident(name)))
    },
    read: read_status,
};

const NOTE: &str =
    "resident memory of processes: file cache and kernel memory of the container are not in it";

/// Where the columns are.
struct Header {
    columns: usize,
    memory: usize,
    pid: Option<usize>,
    command: Option<usize>,
}

impl Header {
    fn of(line: &str) -> Option<Self> {
        let names: Vec<&str> = line.split_whitespace().collect();
        let at = |any: &[&str]| names.iter().position(|name| any.contains(name));
        let memory = at(&["RSS", "RES"]).or(at(&["PSS"]))?;
        let command = at(&["COMMAND", "Command", "CMD", "COMM", "ARGS"]);
        let pid = at(&["PID"]);
        let others = at(&["USER", "User", "UID", "%MEM", "VSZ", "VIRT", "PPID"]);
        let is_table = names.len() == 1 || pid.or(command).or(others).is_some();
        let is_dated = names.first().is_some_and(|first| Stamp::parse(first).is_ok() || is_time(first));
        (is_table && !is_dated).then_some(Self { columns: names.len(), memory, pid, command })
    }

    /// A command may have blanks: columns behind it are counted from the end.
    fn field<'a>(&self, words: &[&'a str], at: usize) -> Option<&'a str> {
        match self.command {
            Some(command) if at > command => {
                words.len().checked_sub(self.columns - at).and_then(|from_end| words.get(from_end)).copied()
            }
            _ => words.get(at).copied(),
        }
    }
}

fn is_time(name: &str) -> bool {
    ["time", "date", "timestamp", "seconds", "elapsed"].contains(&name.to_lowercase().as_str())
}

fn read_table(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    let mut header: Option<Header> = None;
    Lines::new(input).each(|line| {
        if let Some(top) = line.strip_prefix("top - ") {
            times.set(Stamp::parse(top.split_whitespace().next().unwrap_or_default())?);
            return Ok(());
        }
        let rest = times.strip(line);
        if let Some(found) = Header::of(rest) {
            header = Some(found);
            return Ok(());
        }
        const OF_TOP: [&str; 6] = ["Tasks:", "Threads:", "%Cpu", "MiB ", "KiB ", "GiB "];
        if rest.is_empty() || OF_TOP.iter().any(|start| rest.starts_with(start)) {
            return Ok(());
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let header = header.as_ref().ok_or_else(|| format!("{} stands before any header", quoted(rest)))?;
        let field = |at: usize| {
            header.field(&words, at).ok_or_else(|| format!("{} has too few columns", quoted(rest)))
        };
        let usage = kibibytes(field(header.memory)?)?;
        let mut labels = Vec::new();
        for (name, at) in [("pid", header.pid), ("command", header.command)] {
            if let Some(at) = at {
                labels.push((name, field(at)?));
            }
        }
        let labels = Labels::of(&labels);
        rows.push(&labels, times.of(&labels), Sizes { usage, ..Sizes::default() })?;
        rows.note(NOTE.to_owned());
        Ok(())
    })
}

/// `13.0M` is of 1024 too.
fn kibibytes(text: &str) -> Result<u64, String> {
    match text.ends_with(|last: char| last.is_ascii_digit()) {
        true => parse_size(&format!("{text}KiB")),
        false if text.ends_with(|last: char| last.is_ascii_uppercase()) => parse_size(&format!("{text}iB")),
        false => parse_size(text),
    }
}

/// `VmRSS:     40960 kB`
fn of_status(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_()".contains(&byte));
    is_name.then_some((name, value.trim()))
}

/// In status, and in smaps_rollup.
fn is_resident(name: &str) -> bool {
    ["VmRSS", "Rss"].contains(&name)
}

fn read_status(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    // Its anonymous part stands below it.
    let mut pending: Option<(u64, Option<Stamp>, Sizes)> = None;
    let mut lines = Lines::new(input);
    while let Some((line, text)) = lines.numbered()? {
        let rest = times.strip(&text);
        let Some((name, value)) = of_status(rest) else { continue };
        let bytes = || parse_size(&value.replace(" kB", "KiB")).map_err(|why| BadInput::Line { line, why });
        if is_resident(name) {
            flush(pending.take(), rows)?;
            let sizes = Sizes { usage: bytes()?, ..Sizes::default() };
            pending = Some((line, times.of(&Labels::default()), sizes));
        } else if let ("RssAnon" | "Anonymous", Some((.., sizes))) = (name, &mut pending) {
            sizes.anon = Some(bytes()?);
        }
    }
    flush(pending, rows)
}

fn flush(pending: Option<(u64, Option<Stamp>, Sizes)>, rows: &mut Rows) -> Result<(), BadInput> {
    let Some((line, stamp, sizes)) = pending else { return Ok(()) };
    rows.note(NOTE.to_owned());
    rows.push(&Labels::default(), stamp, sizes).map_err(|why| BadInput::Line { line, why })
}
