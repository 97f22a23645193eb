//! CSV or a Prometheus range query's JSON -> rows, in order of time. Every refusal names its line.

use std::io::{self, BufRead, Read};

use serde::Deserialize;

/// Times from here on are Unix times (September 2001) and count from the first row.
const UNIX_SECONDS: f64 = 1e9;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub seconds: f64,
    pub usage: u64,
    pub anon: Option<u64>,
    pub inactive_file: Option<u64>,
}

impl Row {
    /// What the kubelet calls so: usage less the file cache that is first to go.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file.unwrap_or(0))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BadInput {
    #[error("no samples: at least one line with seconds,usage_bytes is needed")]
    Empty,
    #[error("line {line}: {why}; nothing was analysed, mend or remove the line")]
    Line { line: u64, why: String },
    #[error(
        "columns {found:?} do not name {missing}; expected seconds,usage_bytes[,anon_bytes,inactive_file_bytes]"
    )]
    Columns { found: String, missing: &'static str },
    #[error("not a Prometheus range-query answer: {0}")]
    Prometheus(String),
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
}

/// Calls `each` for every row. Times are relative to time zero; equal times are allowed, earlier ones are an error.
pub fn read(mut input: impl BufRead, each: impl FnMut(Row)) -> Result<(), BadInput> {
    let first = input.fill_buf()?.iter().copied().find(|byte| !byte.is_ascii_whitespace());
    match first {
        None => Err(BadInput::Empty),
        Some(b'{') => prometheus(input, each),
        Some(_) => csv(input, each),
    }
}

/// Where each column is.
struct Columns {
    seconds: usize,
    usage: usize,
    anon: Option<usize>,
    inactive_file: Option<usize>,
}

const NAMES: [&str; 4] = ["seconds", "usage_bytes", "anon_bytes", "inactive_file_bytes"];

impl Columns {
    /// From a header; without one (the first field is a number), in the documented order.
    fn of(first: &::csv::StringRecord) -> Result<(Self, bool), BadInput> {
        if first.get(0).is_some_and(|field| field.parse::<f64>().is_ok()) {
            let has = |index: usize| (first.len() > index).then_some(index);
            if first.len() < 2 {
                return Err(BadInput::Columns { found: join(first), missing: NAMES[1] });
            }
            return Ok((Self { seconds: 0, usage: 1, anon: has(2), inactive_file: has(3) }, false));
        }
        let find = |name: &str| first.iter().position(|field| field == name);
        let need =
            |name: &'static str| find(name).ok_or(BadInput::Columns { found: join(first), missing: name });
        let columns = Self {
            seconds: need(NAMES[0])?,
            usage: need(NAMES[1])?,
            anon: find(NAMES[2]),
            inactive_file: find(NAMES[3]),
        };
        Ok((columns, true))
    }

    fn row(&self, record: &::csv::StringRecord) -> Result<Row, String> {
        let field = |index: usize, name: &str| record.get(index).ok_or(format!("no {name}"));
        let bytes = |index: usize, name: &str| bytes(field(index, name)?, name);
        // An empty optional field is a value nobody read.
        let optional = |index: Option<usize>, name: &str| match index {
            Some(index) if record.get(index).is_some_and(|field| !field.is_empty()) => {
                bytes(index, name).map(Some)
            }
            _ => Ok(None),
        };
        Ok(Row {
            seconds: number(field(self.seconds, NAMES[0])?, NAMES[0])?,
            usage: bytes(self.usage, NAMES[1])?,
            anon: optional(self.anon, NAMES[2])?,
            inactive_file: optional(self.inactive_file, NAMES[3])?,
        })
    }
}

fn join(record: &::csv::StringRecord) -> String {
    record.iter().collect::<Vec<_>>().join(",")
}

fn csv(input: impl Read, mut each: impl FnMut(Row)) -> Result<(), BadInput> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).trim(::csv::Trim::All).from_reader(input);
    let mut record = ::csv::StringRecord::new();
    let mut columns = None;
    let mut clock = Clock::default();
    loop {
        let more = reader.read_record(&mut record).map_err(refused)?;
        if !more {
            return Ok(());
        }
        let line = record.position().map_or(0, ::csv::Position::line);
        let columns = match &columns {
            Some(columns) => columns,
            None => {
                let (found, header) = Columns::of(&record)?;
                let found = columns.insert(found);
                if header {
                    continue;
                }
                found
            }
        };
        let row = columns
            .row(&record)
            .and_then(|row| clock.set(row))
            .map_err(|why| BadInput::Line { line, why })?;
        each(row);
    }
}

fn refused(error: ::csv::Error) -> BadInput {
    let line = error.position().map_or(0, ::csv::Position::line);
    let why = match error.into_kind() {
        ::csv::ErrorKind::Io(error) => return BadInput::Read(error),
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, expected {expected_len}")
        }
        ::csv::ErrorKind::Utf8 { .. } => "not text".to_owned(),
        other => format!("{other:?}"),
    };
    BadInput::Line { line, why }
}

fn number(field: &str, name: &str) -> Result<f64, String> {
    let value: f64 = field.parse().map_err(|_| format!("{name} {field:?} is not a number"))?;
    if !value.is_finite() || value < 0.0 {
        return Err(format!("{name} {field} is not a finite number of zero or more"));
    }
    Ok(value)
}

/// Whole bytes; exporters also write them as 1.5e8.
fn bytes(field: &str, name: &str) -> Result<u64, String> {
    number(field, name).map(|value| value as u64)
}

/// Makes times relative, and refuses a clock that steps back.
#[derive(Default)]
struct Clock {
    origin: Option<f64>,
    last: f64,
}

impl Clock {
    fn set(&mut self, mut row: Row) -> Result<Row, String> {
        let first = row.seconds;
        let origin = *self.origin.get_or_insert(if first >= UNIX_SECONDS { first } else { 0.0 });
        row.seconds -= origin;
        if row.seconds < self.last {
            let (now, before) = (row.seconds + origin, self.last + origin);
            return Err(format!(
                "time goes back, {now} after {before}: sort by seconds, or cut where the clock stepped"
            ));
        }
        self.last = row.seconds;
        Ok(row)
    }
}

#[derive(Deserialize)]
struct Answer {
    status: Option<String>,
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: String,
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// The answer of /api/v1/query_range, one series.
fn prometheus(input: impl Read, mut each: impl FnMut(Row)) -> Result<(), BadInput> {
    let bad = |why: String| BadInput::Prometheus(why);
    let answer: Answer = serde_json::from_reader(input).map_err(|error| bad(error.to_string()))?;
    if answer.status.as_deref() == Some("error") {
        return Err(bad(format!("the server answered with an error: {}", answer.error.unwrap_or_default())));
    }
    let data = answer.data.ok_or_else(|| bad("no \"data\"".into()))?;
    if data.result_type != "matrix" {
        return Err(bad(format!("it is a {}; ask /api/v1/query_range for a range", data.result_type)));
    }
    let series = match &data.result[..] {
        [] => return Err(BadInput::Empty),
        [one] => one,
        many => return Err(bad(format!("{} series; narrow the query to one container", many.len()))),
    };
    let mut clock = Clock::default();
    for (index, (seconds, value)) in series.values.iter().enumerate() {
        let row = bytes(value, "value")
            .and_then(|usage| number(&seconds.to_string(), "time").map(|seconds| (seconds, usage)))
            .and_then(|(seconds, usage)| clock.set(Row { seconds, usage, anon: None, inactive_file: None }))
            .map_err(|why| bad(format!("value {}: {why}", index + 1)))?;
        each(row);
    }
    Ok(())
}
