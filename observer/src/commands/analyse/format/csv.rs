//! Columns with or without a header: our own CSV, Grafana's exports, and what scripts write.
//!
//! The delimiter, names in any case, units in the header or in the cells, decimal commas: all as found.

use std::{
    cell::Cell,
    io::{BufRead, Read},
    rc::Rc,
};

use super::{
    super::{
        clock::{Stamp, unit_seconds},
        labels::Labels,
        rows::{BadInput, Lines, Rows, Sizes, bounded},
    },
    Format, json,
};
use observer_core::model::units::{parse_decimal, parse_size, quoted, size_factor};

pub const FORMAT: Format = Format {
    name: "columns",
    expects: "at least one line with seconds,usage_bytes is needed",
    recognises: |head| !json::is_json(head),
    read,
};

const EXPECTED: &str =
    "expected seconds,usage_bytes[,anon_bytes,inactive_file_bytes], or what docs/recording.md lists";

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut lines = 0;
    // The comment above the first row may be its header: NumPy's and gnuplot's way to write one.
    let mut comment: Option<String> = None;
    // Excel's hint, which Grafana writes on request.
    let first = loop {
        let mut line = String::new();
        let read = input.take(1024 * 1024).read_line(&mut line).map_err(not_text)?;
        lines += 1;
        if read == 0 {
            return Ok(());
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with("sep=") {
            continue;
        }
        match line.strip_prefix('#') {
            Some(text) => comment = Some(text.trim().to_owned()).filter(|text| is_header(text)),
            None => break line.to_owned(),
        }
    };
    let head = match comment.filter(|_| !is_header(&first)) {
        Some(header) => vec![header, first],
        None => vec![first],
    };
    let number = lines + 1 - head.len() as u64;
    match delimiter(&head[0]) {
        Some(delimiter) => by_delimiter(delimiter, &head.join("\n"), number, input, rows),
        None => by_blanks(&head, number, input, rows),
    }
}

fn is_header(line: &str) -> bool {
    let fields: Vec<&str> = match delimiter(line) {
        Some(delimiter) => line.split(char::from(delimiter)).map(str::trim).collect(),
        None => line.split_whitespace().collect(),
    };
    Table::of(&fields).is_ok_and(|(_, is_header)| is_header)
}

fn not_text(error: std::io::Error) -> BadInput {
    match error.kind() {
        std::io::ErrorKind::InvalidData => {
            BadInput::File("not text, or in another encoding than UTF-8 and UTF-16".to_owned())
        }
        _ => BadInput::Read(error),
    }
}

/// The first of these outside quotes; none: blanks.
fn delimiter(line: &str) -> Option<u8> {
    let mut quoted = false;
    let bare: String = line
        .chars()
        .filter(|letter| {
            quoted ^= *letter == '"';
            !quoted
        })
        .collect();
    [b'\t', b';', b','].into_iter().find(|delimiter| bare.contains(char::from(*delimiter)))
}

fn by_delimiter(
    delimiter: u8,
    first: &str,
    lines: u64,
    input: &mut dyn BufRead,
    rows: &mut Rows,
) -> Result<(), BadInput> {
    let text = std::io::Cursor::new(format!("{first}\n")).chain(input);
    let last_byte = Rc::new(Cell::new(b'\n'));
    let text = Watched { inner: text, last_byte: Rc::clone(&last_byte) };
    let mut reader = ::csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true) // a row of another length is refused by the table, unless it is cut
        .trim(::csv::Trim::All)
        .delimiter(delimiter)
        .comment(Some(b'#'))
        .from_reader(text);
    let mut record = ::csv::StringRecord::new();
    let mut behind = Behind { rows, table: None, before: None, held: None };
    while reader.read_record(&mut record).map_err(|error| refused(error, lines))? {
        let line = record.position().map_or(0, ::csv::Position::line) + lines - 1;
        behind.push(record.iter().map(str::to_owned).collect(), line)?;
    }
    behind.finish(last_byte.get() != b'\n')
}

/// Remembers the last byte that was read.
struct Watched<R> {
    inner: R,
    last_byte: Rc<Cell<u8>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        if let Some(last) = into[..read].last() {
            self.last_byte.set(*last);
        }
        Ok(read)
    }
}

/// Takes each row once there is another: the last may be cut, where its writer was killed.
struct Behind<'a, 'b> {
    rows: &'a mut Rows<'b>,
    table: Option<Table>,
    before: Option<Vec<String>>,
    held: Option<(Vec<String>, u64)>,
}

impl Behind<'_, '_> {
    fn push(&mut self, fields: Vec<String>, line: u64) -> Result<(), BadInput> {
        if let Some((fields, line)) = self.held.replace((fields, line)) {
            self.take(&fields, line)?;
            self.before = Some(fields);
        }
        Ok(())
    }

    /// `open`: the file does not end with a line feed.
    fn finish(mut self, open: bool) -> Result<(), BadInput> {
        let Some((fields, line)) = self.held.take() else { return Ok(()) };
        if open && self.before.as_ref().is_some_and(|before| is_cut(before, &fields)) {
            self.rows.note("the last row, without a line feed, is cut and left out".to_owned());
            return Ok(());
        }
        self.take(&fields, line)
    }

    fn take(&mut self, fields: &[String], line: u64) -> Result<(), BadInput> {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        take(&mut self.table, &fields, line, self.rows)
    }
}

/// Of a row at whose end the file ends: it has fewer fields than the row before, or its last one is shorter. A whole
/// row may be so too: one reading is lost then, where a cut one would be taken for a fall of memory.
fn is_cut(before: &[String], last: &[String]) -> bool {
    match (before.last(), last.last()) {
        (Some(full), Some(cut)) if last.len() == before.len() => {
            parse_size(full).is_ok() && cut.len() < full.len()
        }
        _ => last.len() < before.len(),
    }
}

fn by_blanks(head: &[String], lines: u64, input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut behind = Behind { rows, table: None, before: None, held: None };
    let owned = |fields: Vec<&str>| fields.into_iter().map(str::to_owned).collect();
    for (line, text) in (lines..).zip(head) {
        behind.push(owned(blanks(text)), line)?;
    }
    let lines = lines + head.len() as u64 - 1;
    let mut rest = Lines::new(input);
    while let Some((line, text)) = rest.numbered()? {
        let fields = blanks(&text);
        if fields.len() == 1 && Stamp::parse(fields[0]).is_ok() {
            // Where a loop asked for a process that was gone.
            behind.rows.pass_over();
        } else if !fields.is_empty() && !text.trim_start().starts_with('#') {
            behind.push(owned(fields), line + lines)?;
        }
    }
    behind.finish(rest.is_open())
}

/// A date may have blanks of its own.
fn blanks(line: &str) -> Vec<&str> {
    match Stamp::split(line) {
        Some((_, rest)) if !rest.is_empty() => {
            let time = line.trim().strip_suffix(rest).unwrap_or_default().trim();
            std::iter::once(time).chain(rest.split_whitespace()).collect()
        }
        _ => line.split_whitespace().collect(),
    }
}

fn take(table: &mut Option<Table>, fields: &[&str], line: u64, rows: &mut Rows) -> Result<(), BadInput> {
    let table = match table {
        Some(table) => table,
        None => {
            let (found, is_header) = Table::of(fields).map_err(BadInput::File)?;
            found.begin(rows);
            let table = table.insert(found);
            if is_header {
                return Ok(());
            }
            table
        }
    };
    table.row(fields, rows).map_err(|why| BadInput::Line { line, why })
}

fn refused(error: ::csv::Error, lines: u64) -> BadInput {
    let line = error.position().map_or(0, ::csv::Position::line) + lines - 1;
    let why = match error.into_kind() {
        ::csv::ErrorKind::Io(error) => return BadInput::Read(error),
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, expected {expected_len}")
        }
        ::csv::ErrorKind::Utf8 { .. } => "not text".to_owned(),
        other => bounded(&format!("{other:?}")),
    };
    BadInput::Line { line, why }
}

/// A column of bytes.
#[derive(Clone, Copy)]
struct Column {
    at: usize,
    /// Bytes of the unit that the header names.
    factor: f64,
}

/// Where each column is.
pub struct Table {
    fields: usize,
    time: usize,
    time_unit: Option<f64>,
    /// One column of usage, or one for each series.
    usage: Vec<(Column, Labels)>,
    anon: Option<Column>,
    inactive_file: Option<Column>,
    active_file: Option<Column>,
    /// Columns that identify the container of a row.
    labels: Vec<(usize, String)>,
    note: Option<String>,
}

/// A name in a header: its words in lower case, without units of size.
struct Name {
    words: Vec<String>,
    factor: Option<f64>,
}

impl Name {
    fn of(header: &str) -> Self {
        let mut words: Vec<String> = header
            .split(|letter: char| !(letter.is_alphanumeric() || letter == '%'))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        // A unit comes last: usage_bytes, "RSS (KiB)", mem.MB; in usageBytes, too.
        let mut factor = unit_of(&mut words);
        words = words.iter().flat_map(|word| humps(word)).collect();
        factor = factor.or_else(|| unit_of(&mut words));
        if factor.is_some() && words.len() > 1 && words.last().is_some_and(|last| last == "in") {
            words.pop(); // usage_in_bytes
        }
        for word in &mut words {
            *word = word.to_lowercase();
        }
        Self { words, factor }
    }

    fn has(&self, any: &[&str]) -> bool {
        self.words.iter().any(|word| any.contains(&word.as_str()))
    }

    fn time_unit(&self) -> Option<Option<f64>> {
        const TIMES: [&str; 10] =
            ["time", "timestamp", "timestamps", "ts", "date", "datetime", "elapsed", "uptime", "epoch", "t"];
        let unit = self.words.iter().find_map(|word| unit_seconds(word));
        (self.has(&TIMES) || (unit.is_some() && self.words.len() == 1)).then_some(unit)
    }

    fn is_no_memory(&self) -> bool {
        const OTHERS: [&str; 22] = [
            "cpu", "cores", "percent", "pct", "%", "count", "restarts", "network", "net", "disk", "io",
            "rate", "duration", "latency", "requests", "limit", "swap", "vsz", "virt", "virtual", "threads",
            "nproc",
        ];
        self.has(&OTHERS) || self.words.iter().any(|word| word.contains("cpu") || word.contains('%'))
    }
}

/// Takes the unit of size off the end.
fn unit_of(words: &mut Vec<String>) -> Option<f64> {
    if words.len() < 2 {
        return None;
    }
    let factor = header_factor(words.last()?)?;
    words.pop();
    Some(factor)
}

/// camelCase -> camel, Case.
fn humps(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = ' ';
    for letter in word.chars() {
        if before.is_lowercase() && letter.is_uppercase() {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
        before = letter;
    }
    parts
}

/// In headers kb and mb mean what KB and MB do.
fn header_factor(word: &str) -> Option<f64> {
    match word {
        "kb" | "Kb" => Some(1e3),
        "mb" | "Mb" => Some(1e6),
        "gb" | "Gb" => Some(1e9),
        "b" | "B" => Some(1.0),
        _ if word.len() > 1 => size_factor(word),
        _ => None,
    }
}

/// Names of usage, the likeliest first.
const USAGE: [&str; 19] = [
    "usage",
    "memory usage",
    "mem usage",
    "container memory usage",
    "memory current",
    "memory used",
    "mem used",
    "used",
    "working set",
    "memory working set",
    "container memory working set",
    "memory",
    "mem",
    "rss",
    "res",
    "memory rss",
    "container memory rss",
    "mem real",
    "value",
];

impl Table {
    /// By its names; the fields of a record are a header too.
    pub fn named(names: &[&str], rows: &mut Rows) -> Result<Self, String> {
        match Self::of(names)? {
            (table, true) => {
                table.begin(rows);
                Ok(table)
            }
            (_, false) => Err(format!("{} are no names; {EXPECTED}", quoted(&names.join(",")))),
        }
    }

    fn begin(&self, rows: &mut Rows) {
        rows.clock.unit = self.time_unit;
        if let Some(note) = &self.note {
            rows.note(note.clone());
        }
    }

    /// From a header; without one (the first field is a time), in the documented order.
    fn of(first: &[&str]) -> Result<(Self, bool), String> {
        let refuse =
            |what: &str| Err(format!("columns {} do not name {what}; {EXPECTED}", quoted(&first.join(","))));
        let column = |at: usize| Column { at, factor: 1.0 };
        if first.first().is_some_and(|field| Stamp::parse(field).is_ok()) {
            if first.len() < 2 {
                return refuse("usage_bytes");
            }
            let has = |at: usize| (first.len() > at).then_some(column(at));
            let table = Self {
                fields: first.len(),
                time: 0,
                time_unit: None,
                usage: vec![(column(1), Labels::default())],
                anon: has(2),
                inactive_file: has(3),
                active_file: None,
                labels: Vec::new(),
                note: None,
            };
            return Ok((table, false));
        }
        let names: Vec<Name> = first.iter().map(|header| Name::of(header)).collect();
        let Some((time, time_unit)) =
            names.iter().enumerate().find_map(|(at, name)| Some((at, name.time_unit()?)))
        else {
            return refuse("seconds (or time)");
        };
        let at = |at: usize| Column { at, factor: names[at].factor.unwrap_or(1.0) };
        let find = |is: &dyn Fn(&Name) -> bool| {
            names.iter().enumerate().find(|(at, name)| *at != time && is(name)).map(|(found, _)| at(found))
        };
        let anon = find(&|name| name.has(&["anon", "anonymous"]));
        let inactive_file = find(&|name| name.has(&["inactive"]) && name.has(&["file"]));
        let active_file = find(&|name| name.has(&["active"]) && name.has(&["file"]));
        let labels: Vec<(usize, String)> = names
            .iter()
            .enumerate()
            .filter(|(at, name)| {
                const KINDS: [&str; 8] =
                    ["series", "metric", "namespace", "pod", "container", "name", "id", "instance"];
                *at != time && name.words.len() == 1 && name.has(&KINDS) && name.factor.is_none()
            })
            .map(|(at, name)| (at, name.words[0].clone()))
            .collect();
        let mut note = None;
        let known = USAGE.iter().find_map(|usage| find(&|name| name.words.join(" ") == *usage));
        let usage = match known {
            Some(column) => {
                let words = names[column.at].words.join(" ");
                if words != "usage" {
                    note = Some(format!("usage is read from the column {}", quoted(first[column.at])));
                }
                vec![(column, Labels::default())]
            }
            None => {
                // A Grafana panel: a column for each series, with its legend for a name.
                let is_series = |at: usize| {
                    let taken = [anon, inactive_file, active_file]
                        .into_iter()
                        .flatten()
                        .any(|column| column.at == at);
                    at != time
                        && !taken
                        && !labels.iter().any(|(label, _)| *label == at)
                        && !names[at].is_no_memory()
                        && !names[at].words.is_empty()
                };
                (0..first.len())
                    .filter(|index| is_series(*index))
                    .map(|index| (at(index), Labels::parse(first[index])))
                    .collect()
            }
        };
        if usage.is_empty() {
            return refuse("usage_bytes");
        }
        Ok((
            Self {
                fields: first.len(),
                time,
                time_unit,
                usage,
                anon,
                inactive_file,
                active_file,
                labels,
                note,
            },
            true,
        ))
    }

    pub fn row(&self, fields: &[&str], rows: &mut Rows) -> Result<(), String> {
        if fields.len() != self.fields {
            return Err(format!("{} fields, expected {}", fields.len(), self.fields));
        }
        let stamp = Stamp::parse(fields[self.time].trim_matches('\''))?;
        let optional = |column: Option<Column>, name: &str| match column {
            Some(column) => bytes(fields[column.at], column.factor, name),
            None => Ok(None),
        };
        let anon = optional(self.anon, "anon_bytes")?;
        let inactive_file = optional(self.inactive_file, "inactive_file_bytes")?;
        let active_file = optional(self.active_file, "active_file_bytes")?;
        let mut any = false;
        for (column, labels) in &self.usage {
            let Some(usage) = bytes(fields[column.at], column.factor, "usage_bytes")? else { continue };
            any = true;
            let sizes = Sizes { usage, anon, inactive_file, active_file };
            if self.labels.is_empty() {
                rows.push(labels, Some(stamp), sizes)?;
                continue;
            }
            let mut labels = labels.clone();
            for (at, name) in &self.labels {
                if name == "series" {
                    labels.0.extend(Labels::parse(fields[*at]).0);
                } else {
                    labels.0.push((name.clone(), fields[*at].to_owned()));
                }
            }
            rows.push(&labels, Some(stamp), sizes)?;
        }
        if !any {
            rows.pass_over();
        }
        Ok(())
    }
}

/// An empty cell is a missing reading.
fn bytes(cell: &str, factor: f64, name: &str) -> Result<Option<u64>, String> {
    let cell = cell.trim_matches('\'');
    // Docker's `40MiB / 1GiB`: the second is the limit.
    let cell = match cell.split_once(" / ") {
        Some((usage, limit)) if parse_size(limit).is_ok() => usage,
        _ => cell,
    };
    if ["", "-", "null", "undefined"].contains(&cell) {
        return Ok(None);
    }
    let reported = |why: String| format!("{name} {why}");
    if cell.ends_with(|last: char| last.is_ascii_digit()) && factor != 1.0 {
        let value = parse_decimal(cell).map_err(reported)?;
        return parse_size(&(value * factor).to_string())
            .map(Some)
            .map_err(|_| reported(format!("{} is no size", quoted(cell))));
    }
    parse_size(cell).map(Some).map_err(reported)
}
