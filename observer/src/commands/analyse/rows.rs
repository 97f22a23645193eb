//! The rows of a recording, in order of time, whatever its format; checked as they come. Every refusal names its line
//! and is short.

use std::{
    collections::VecDeque,
    io::{self, BufRead, Read},
};

use super::{
    clock::{Clock, Stamp},
    labels::Labels,
};
use observer_core::model::units::{Bytes, quoted};

/// memory.stat is flushed every two seconds, so a part may be of up to that long before (kernel: FLUSH_TIME in
/// mm/memcontrol.c); one more for the recorder's own delay.
const STALE_SECONDS: f64 = 3.0;
/// Tools round to three digits.
const ROUNDING: f64 = 1.01;
/// What is kept of a file's own words.
const NOTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub seconds: f64,
    pub usage: u64,
    pub anon: Option<u64>,
    pub inactive_file: Option<u64>,
    pub active_file: Option<u64>,
    /// Another instance of the container than in the row before.
    pub begins: bool,
}

impl Row {
    /// What the kubelet calls so: usage less the file cache that is first to go.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file.unwrap_or(0))
    }

    /// What the kernel cannot take back, as far as it was recorded.
    pub fn unreclaimable(&self) -> u64 {
        self.working_set().saturating_sub(self.active_file.unwrap_or(0))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BadInput {
    #[error("no samples: {0}")]
    Empty(&'static str),
    #[error("line {line}: {why}; nothing was analysed")]
    Line { line: u64, why: String },
    #[error("{0}")]
    File(String),
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
}

/// How to read what a file does not say itself.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Only series with this text in their labels.
    pub series: Option<String>,
    /// Distance of two readings, for tables that have no times. Seconds.
    pub interval: Option<f64>,
}

/// What a file turned out to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    pub format: &'static str,
    /// Of the first row, as in the file; none for dates.
    pub first_seconds: Option<f64>,
    /// What a reader has to know of how the file was read.
    pub notes: Vec<String>,
}

/// One reading as a format finds it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub usage: u64,
    pub anon: Option<u64>,
    pub inactive_file: Option<u64>,
    pub active_file: Option<u64>,
}

/// Takes what the formats read, checks it, and hands it on.
pub struct Rows<'a> {
    pub reading: &'a Reading,
    pub clock: Clock,
    each: &'a mut dyn FnMut(Row),
    labels: Option<Labels>,
    /// Instances of the container that have ended.
    earlier: Vec<Labels>,
    /// Recent usage, falling: no reading of a part may exceed the first.
    higher: VecDeque<(f64, u64)>,
    rows: u64,
    readings: u64,
    passed_over: u64,
    notes: Vec<String>,
}

impl<'a> Rows<'a> {
    pub fn new(reading: &'a Reading, each: &'a mut dyn FnMut(Row)) -> Self {
        Self {
            reading,
            each,
            clock: Clock::default(),
            labels: None,
            earlier: Vec::new(),
            higher: VecDeque::new(),
            rows: 0,
            readings: 0,
            passed_over: 0,
            notes: Vec::new(),
        }
    }

    pub fn note(&mut self, note: String) {
        if self.notes.len() < NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// A row without a value: nothing was read, which is not zero.
    pub fn pass_over(&mut self) {
        self.passed_over += 1;
    }

    pub fn wants(&self, labels: &Labels) -> bool {
        self.reading.series.as_ref().is_none_or(|series| labels.to_string().contains(series.as_str()))
    }

    pub fn push(&mut self, labels: &Labels, stamp: Option<Stamp>, sizes: Sizes) -> Result<(), String> {
        if !self.wants(labels) {
            return Ok(());
        }
        let stamp = match (stamp, self.reading.interval) {
            (Some(stamp), _) => stamp,
            (None, Some(interval)) => {
                self.clock.unit = Some(1.0);
                Stamp::Number(self.readings as f64 * interval)
            }
            (None, None) => {
                return Err("the reading has no time of its own; print one before each (`date +%s.%N`), or say how far apart they are with --interval SECONDS".to_owned());
            }
        };
        self.readings += 1;
        let last = self.higher.back().map(|(at, _)| *at);
        let begins = self.instance(labels)?;
        let seconds = self.clock.set(stamp).map_err(|why| {
            if begins {
                format!("{} begins before the one before has ended; {}", labels.brief(), NARROW)
            } else {
                why
            }
        })?;
        if begins && last == Some(seconds) {
            return Err(self.several(labels));
        }
        let Sizes { usage, .. } = sizes;
        let part = |bytes: Option<u64>, name: &str| self.part(seconds, usage, bytes, name);
        let row = Row {
            seconds,
            usage,
            anon: part(sizes.anon, "anonymous memory")?,
            inactive_file: part(sizes.inactive_file, "inactive file cache")?,
            active_file: part(sizes.active_file, "active file cache")?,
            begins,
        };
        self.remember(seconds, usage);
        self.rows += 1;
        (self.each)(row);
        Ok(())
    }

    /// Whether this is another instance of the same container; an error where it is another container.
    fn instance(&mut self, labels: &Labels) -> Result<bool, String> {
        const INSTANCES: usize = 4096;
        let Some(current) = &self.labels else {
            self.labels = Some(labels.clone());
            return Ok(false);
        };
        if current == labels {
            return Ok(false);
        }
        if !current.same_container(labels) || self.earlier.contains(labels) || self.earlier.len() >= INSTANCES
        {
            return Err(self.several(labels));
        }
        let differ = current.differing(labels).join(", ");
        self.earlier.extend(self.labels.replace(labels.clone()));
        self.note(format!(
            "series that differ in {differ} only, one after the other: one container, started again"
        ));
        Ok(true)
    }

    fn several(&self, labels: &Labels) -> String {
        let first = self.earlier.last().or(self.labels.as_ref());
        let other = first.filter(|first| *first != labels).or(self.labels.as_ref());
        let (differ, first) = match other {
            Some(other) => (other.differing(labels).join(", "), other.brief()),
            None => Default::default(),
        };
        format!("more than one series at a time: {first} and {} differ in {differ}; {NARROW}", labels.brief())
    }

    /// A part greater than the whole cannot be, unless it is of a moment before, when there was more.
    fn part(&self, seconds: f64, usage: u64, bytes: Option<u64>, name: &str) -> Result<Option<u64>, String> {
        let Some(bytes) = bytes else { return Ok(None) };
        let recent = |at: &f64| seconds - at <= STALE_SECONDS;
        let before =
            self.higher.iter().enumerate().filter(|(i, (at, _))| recent(at) || i + 1 == self.higher.len());
        let highest = before.map(|(_, (_, usage))| *usage).max().unwrap_or(0).max(usage);
        if bytes as f64 > highest as f64 * ROUNDING {
            return Err(format!(
                "{name} of {} is more than the usage of {}, which it is a part of",
                exact(bytes),
                exact(usage)
            ));
        }
        Ok(Some(bytes.min(usage)))
    }

    fn remember(&mut self, seconds: f64, usage: u64) {
        while self.higher.back().is_some_and(|(_, before)| *before <= usage) {
            self.higher.pop_back();
        }
        while self.higher.len() > 1 && self.higher.front().is_some_and(|(at, _)| seconds - at > STALE_SECONDS)
        {
            self.higher.pop_front();
        }
        self.higher.push_back((seconds, usage));
    }

    /// Once the file is read.
    pub fn finish(self, name: &'static str, expects: &'static str) -> Result<Source, BadInput> {
        if self.rows == 0 {
            return Err(BadInput::Empty(if self.reading.series.is_some() {
                "no series has a label that contains what --series asks for"
            } else {
                expects
            }));
        }
        let mut notes = self.clock.notes;
        notes.extend(self.notes);
        if self.passed_over > 0 {
            notes.push(format!("{} rows without a value were passed over", self.passed_over));
        }
        Ok(Source { format: name, first_seconds: self.clock.first, notes })
    }
}

pub const NARROW: &str = "narrow it to one container, or choose one with --series NAME";

fn exact(bytes: u64) -> String {
    if bytes < 10_000 { format!("{bytes} B") } else { Bytes(bytes).to_string() }
}

/// Lines of a text, numbered, without terminal escapes (`docker stats` clears the screen).
pub struct Lines<'a> {
    input: &'a mut dyn BufRead,
    number: u64,
    line: Vec<u8>,
    open: bool,
}

const LINE_MAX_BYTES: u64 = 1024 * 1024;

impl<'a> Lines<'a> {
    pub fn new(input: &'a mut dyn BufRead) -> Self {
        Self { input, number: 0, line: Vec::new(), open: false }
    }

    pub fn numbered(&mut self) -> Result<Option<(u64, String)>, BadInput> {
        self.line.clear();
        let read = self.input.take(LINE_MAX_BYTES).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.open = self.line.last() != Some(&b'\n');
        if read as u64 == LINE_MAX_BYTES && self.open {
            return Err(BadInput::Line { line: self.number, why: "longer than 1 MiB".to_owned() });
        }
        let text = std::str::from_utf8(&self.line)
            .map_err(|_| BadInput::Line { line: self.number, why: "not text".to_owned() })?;
        Ok(Some((self.number, without_escapes(text.trim_end_matches(['\n', '\r'])))))
    }

    /// Whether the line that was read last has no line feed: the file ends in it.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Calls `each` for every line; what it refuses names the line.
    pub fn each(&mut self, mut each: impl FnMut(&str) -> Result<(), String>) -> Result<(), BadInput> {
        while let Some((line, text)) = self.numbered()? {
            each(&text).map_err(|why| BadInput::Line { line, why })?;
        }
        Ok(())
    }
}

fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if letter != '\u{1b}' {
            plain.push(letter);
            continue;
        }
        if letters.next() == Some('[') {
            letters.by_ref().find(|end| ('@'..='~').contains(end));
        }
    }
    plain
}

/// Times that stand before what they date, alone in a line or at its beginning: for tables made in a loop.
#[derive(Default)]
pub struct LoopTimes {
    stamp: Option<Stamp>,
    dated: Vec<Labels>,
}

impl LoopTimes {
    /// Takes the time off the beginning of a line.
    pub fn strip<'a>(&mut self, line: &'a str) -> &'a str {
        // watch(1): `Every 5.0s: COMMAND   HOST: Tue May 21 16:00:00 2024`
        let line = match line.strip_prefix("Every ").and_then(|rest| rest.rsplit_once(": ")) {
            Some((_, time)) => time,
            None => line,
        };
        match Stamp::split(line) {
            Some((stamp, rest)) => {
                self.set(stamp);
                rest
            }
            None => line.trim(),
        }
    }

    pub fn set(&mut self, stamp: Stamp) {
        self.stamp = Some(stamp);
        self.dated.clear();
    }

    /// The time of a reading: one time dates one reading of each series.
    pub fn of(&mut self, labels: &Labels) -> Option<Stamp> {
        const SERIES: usize = 4096;
        if self.dated.contains(labels) || self.dated.len() >= SERIES {
            return None;
        }
        self.dated.push(labels.clone());
        self.stamp
    }
}

/// Wraps what others wrote (errors of parsers quote their input).
pub fn bounded(text: &str) -> String {
    const SHOWN: usize = 160;
    if text.len() <= SHOWN && !text.contains(char::is_control) {
        return text.to_owned();
    }
    let cut: String = text.chars().take(SHOWN / 2).collect();
    quoted(&cut)
}
