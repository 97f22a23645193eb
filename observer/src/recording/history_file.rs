//! The file that keeps the histories over restarts: read at the start, written at intervals in the background.
//!
//! The first line has the version; each further line has one workload and a checksum, so that damage costs only the
//! damaged lines. Version 1 was one JSON object, and is still read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use observer_core::{
    history::{Histories, KEPT, Remembered, WORKLOADS},
    model::{
        bounded,
        container::Workload,
        event::{Event, EventKind},
        past_startup::PastStartup,
        time::Time,
        usage_histogram::Levels,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::files::{no_file, open};

mod saver;
mod version1;

pub use saver::Saver;

const VERSION: u32 = 2;
/// Read of a file; one at the bounds of `Histories` has less than half of it. Bytes.
const LONGEST_FILE: u64 = 32 << 20;
/// Lines looked at: more than can be of use.
const MOST_LINES: usize = 4 * WORKLOADS;
/// Of one line, that is of one workload. Bytes.
const LONGEST_LINE: usize = 128 << 10;
/// How far a clock may have been set back since what was written. Seconds.
const AHEAD: f64 = 86400.0;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    workloads: usize,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    namespace: String,
    workload: String,
    workload_type: String,
    container: String,
    #[serde(deserialize_with = "bounded::last::<_, _, KEPT>")]
    startups: Vec<PastStartup>,
    #[serde(default)]
    levels: Levels,
}

/// What a file held, and what of it could not be used.
#[derive(Debug, Default)]
pub struct Restored {
    histories: Histories,
    /// Lines or start-ups.
    dropped: usize,
    /// The first thing that was wrong.
    why: Option<String>,
}

/// Some of the file, or all of it, could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error(
        "cannot open the state in {path}: {source}; it starts without the workloads' histories, and if it is a file it is \
         kept beside it as .broken"
    )]
    Unopened { path: PathBuf, source: io::Error },
    #[error(
        "the state in {path} is not usable as a whole: {why}; {dropped} of its lines or start-ups are dropped, {used} workloads \
         are used; the file is kept as {kept}"
    )]
    Damaged { path: PathBuf, why: String, dropped: usize, used: usize, kept: PathBuf },
}

/// What the last run kept, as events, and what is wrong with the file. One that is not there yet is an empty one.
/// `now`: Unix time.
pub fn restore(path: &Path, at: Time, now: f64) -> (Vec<Event>, Option<Damage>) {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
        Err(source) => {
            // What cannot be read now is not gone: the next one written would take its place.
            if replaceable(path).is_ok() {
                let _ = fs::rename(path, beside(path, "broken")); // as below
            }
            return (Vec::new(), Some(Damage::Unopened { path: path.to_owned(), source }));
        }
    };
    let Restored { mut histories, dropped, why } = read(file, now);
    let damage = why.map(|why| {
        let kept = beside(path, "broken");
        let _ = fs::rename(path, &kept); // it would be written over; if it cannot be moved either, so be it
        Damage::Damaged { path: path.to_owned(), why, dropped, used: histories.iter().count(), kept }
    });
    let event = |(workload, Remembered { startups, levels })| Event {
        at,
        what: EventKind::History { workload, startups, levels },
    };
    (histories.drain().map(event).collect(), damage)
}

/// What a file holds, for one who looks only: it is not moved, whatever is in it.
pub fn look(path: &Path, now: f64) -> Result<Histories, String> {
    let Restored { histories, why, .. } = read(open(path).map_err(|error| error.to_string())?, now);
    match why {
        Some(why) if histories.iter().next().is_none() => Err(why),
        _ => Ok(histories),
    }
}

/// Whatever the bytes are, in bounded memory.
fn read(bytes: impl Read, now: f64) -> Restored {
    let mut bytes = BufReader::new(bytes.take(LONGEST_FILE));
    let mut restored = Restored::default();
    let version1 = bytes.fill_buf().is_ok_and(|start| start.first() == Some(&b'{'));
    match version1 {
        true => version1::read(&mut bytes, now, &mut restored),
        false => lines(&mut bytes, now, &mut restored),
    }
    if bytes.get_ref().limit() == 0 {
        restored.wrong(format!("it is longer than {} MiB", LONGEST_FILE >> 20));
    }
    restored
}

fn lines(bytes: &mut impl BufRead, now: f64, restored: &mut Restored) {
    let mut expected = None;
    let mut found = 0;
    for number in 1.. {
        if number > MOST_LINES {
            return restored.wrong(format!("it has more than {MOST_LINES} lines"));
        }
        let line = match next_line(bytes) {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => return restored.wrong(format!("after line {number}: {error}")),
        };
        if number == 1 {
            match checked::<Head>(&line) {
                Ok(head) if head.version == VERSION => expected = Some(head.workloads),
                Ok(head) => return restored.wrong(format!("version {}, expected {VERSION}", head.version)),
                Err(why) => restored.lost(format!("line 1: {why}")),
            }
            continue;
        }
        found += 1;
        match checked::<Entry>(&line) {
            Ok(entry) => restored.take(entry, now),
            Err(why) => restored.lost(format!("line {number}: {why}")),
        }
    }
    match expected {
        Some(expected) if found < expected => {
            restored.dropped += expected - found;
            restored.wrong(format!("it ends after {found} of {expected} workloads"));
        }
        None if found == 0 => restored.wrong("it holds nothing".into()),
        _ => {}
    }
}

/// The next line without its end; of one that is too long, its begin.
pub(super) fn next_line(bytes: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    bytes.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        bytes.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

/// A line: checksum in hexadecimal digits, a space, JSON.
pub(super) fn checked<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let split = line.split_at_checked(9).filter(|(sum, _)| sum[8] == b' ');
    let (sum, json) = split.ok_or("it has no checksum")?;
    let sum = std::str::from_utf8(&sum[..8]).ok().and_then(|sum| u32::from_str_radix(sum, 16).ok());
    if sum != Some(crc32fast::hash(json)) {
        return Err("its checksum is of something else".into());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

impl Restored {
    fn take(&mut self, entry: Entry, now: f64) {
        let Entry { namespace, workload, workload_type, container, mut startups, mut levels } = entry;
        let workload = Workload { namespace, workload, workload_type, container };
        let came = startups.len();
        startups.retain(|past| past.started <= now + AHEAD);
        if levels.until() > now + AHEAD {
            levels = Levels::default();
            self.lost(format!("{workload} has levels of the future"));
        }
        let future = came - startups.len();
        let refused = future + self.histories.restore(&workload, startups, levels);
        if refused > 0 {
            self.dropped += refused;
            self.wrong(format!("{refused} start-ups of {workload} cannot be"));
        }
    }

    fn lost(&mut self, why: String) {
        self.dropped += 1;
        self.wrong(why);
    }

    fn wrong(&mut self, why: String) {
        let printable = |why: String| why.chars().take(300).flat_map(char::escape_debug).collect();
        self.why.get_or_insert_with(|| printable(why));
    }
}

/// Written to a second file, then renamed: a crash leaves the old file or the new one. Readable by its owner
/// only, since it names workloads.
pub fn save(path: &Path, histories: &Histories) -> io::Result<()> {
    replaceable(path)?;
    let new = beside(path, "new");
    let written = create(&new).and_then(|file| write(file, histories)?.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        let _ = fs::remove_file(&new); // half of it would only take the room that is missing
        return Err(error);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// A file, or nothing yet. A rename would put a file in the place of whatever is there, also of /dev/null.
pub(super) fn replaceable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(no_file()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn write<W: Write>(to: W, histories: &Histories) -> io::Result<W> {
    let mut to = BufWriter::new(to);
    write_line(&mut to, &Head { version: VERSION, workloads: histories.iter().count() })?;
    for (workload, known) in histories.iter() {
        let Workload { namespace, workload, workload_type, container } = workload.clone();
        let Remembered { startups, levels } = known.clone();
        write_line(&mut to, &Entry { namespace, workload, workload_type, container, startups, levels })?;
    }
    to.into_inner().map_err(io::IntoInnerError::into_error)
}

pub(super) fn write_line(to: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    write_summed(to, &serde_json::to_vec(line)?)
}

/// Any line, with its checksum.
pub fn write_summed(to: &mut impl Write, json: &[u8]) -> io::Result<()> {
    write!(to, "{:08x} ", crc32fast::hash(json))?;
    to.write_all(json)?;
    to.write_all(b"\n")
}

/// `state.json` -> `state.json.new`.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

#[cfg(test)]
mod tests;
