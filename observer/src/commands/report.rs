//! `observer report FILE -o incident.html`: a recording as one file that can be mailed: the page of the daemon, with
//! the data of the whole recording in it.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    notice::notice,
    output::{Target, Unwritten},
    why::incident::{self, Incident},
};
use crate::{
    recording::{
        name_of,
        replay::{self, BadRecording},
    },
    sinks::{api_state::NodeState, metrics::Metrics},
};

mod data;
mod page;

const EVERY_PROGRESS: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Options {
    /// A file written by `observer run --record` or exported by `observer incident`; - is standard input
    recording: PathBuf,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE.html")]
    output: PathBuf,
    /// Also replace a file that is not an earlier report
    #[arg(long)]
    force: bool,
}

/// What is put on standard output, if that was asked for.
pub fn run(options: &Options) -> Result<Option<String>, Unwritten> {
    let to_stdout = options.output.to_str() == Some("-");
    let target = match to_stdout {
        true => None,
        false => Some(Target::at(&options.output, &options.recording, options.force, page::is_one)?),
    };
    let (state, cut) = read(&options.recording)?;
    let incident = incident::of(&state, cut).map_err(|error| Unwritten::Failed(error.to_string()))?;
    let html = page::html(&state, &incident).map_err(Unwritten::BadInput)?;
    let Some(target) = target else { return Ok(Some(html)) };
    target.write(|file| file.write_all(html.as_bytes()))?;
    notice(format_args!(
        "observer: {}, {} KiB: {}",
        options.output.display(),
        html.len().div_ceil(1024),
        incident.summary
    ));
    for note in &incident.notes {
        notice(format_args!("observer: note: {note}"));
    }
    Ok(None)
}

/// The state at its end, and what is missing of it. Of a damaged one, everything before the damage.
fn read(path: &Path) -> Result<(NodeState, Option<String>), Unwritten> {
    let bad = |error: &dyn std::fmt::Display| Unwritten::BadInput(format!("{}: {error}", path.display()));
    let (recording, bytes): (Box<dyn Read>, u64) = match path.to_str() {
        Some("-") => (Box::new(io::stdin()), 0),
        _ => {
            let file = File::open(path).map_err(|error| bad(&error))?;
            let bytes = file.metadata().map_or(0, |file| file.len());
            (Box::new(file), bytes)
        }
    };
    let read = Rc::new(Cell::new(0));
    let counted = Counted { inner: recording, read: Rc::clone(&read) };
    let mut progress = Progress { read, bytes, events: 0, next: Instant::now() + EVERY_PROGRESS };
    let mut state = NodeState::of_recording(name_of(path));
    let replayed = replay::replay_into(
        &Metrics::default(),
        BufReader::with_capacity(256 << 10, counted),
        |_| progress.event(),
        |finding| state.apply(finding),
    );
    let cut = match replayed {
        Ok(replayed) => replayed
            .cut
            .then(|| "the last line of the recording is cut: what came after it is not known".to_owned()),
        Err(error @ (BadRecording::Empty | BadRecording::NoHost)) => return Err(bad(&error)),
        Err(error) if progress.events == 0 => return Err(bad(&error)),
        Err(error) => Some(format!("the recording is damaged: {error}")),
    };
    state.moment(); // what came after the last second of the node
    Ok((state, cut))
}

/// How many bytes were read.
struct Counted {
    inner: Box<dyn Read>,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

/// A line now and then, for a recording that takes long.
struct Progress {
    read: Rc<Cell<u64>>,
    bytes: u64,
    events: u64,
    next: Instant,
}

impl Progress {
    fn event(&mut self) {
        self.events += 1;
        if !self.events.is_multiple_of(1024) || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + EVERY_PROGRESS;
        let read = self.read.get();
        let share = match self.bytes {
            0 => String::new(),
            bytes => format!(" of {} MiB ({} %)", bytes >> 20, read.min(bytes) * 100 / bytes),
        };
        notice(format_args!("observer: {} MiB{share} read, {} events", read >> 20, self.events));
    }
}

#[cfg(test)]
mod tests;
