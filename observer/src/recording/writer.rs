//! Events -> a recording: one JSON line each, in the order the pipeline took them.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use observer_core::model::event::Event;

pub struct Recorder {
    path: PathBuf,
    out: BufWriter<File>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot record to {path}: {source}; without it this run cannot be replayed; free space or give another --record"
)]
pub struct CannotRecord {
    path: PathBuf,
    source: io::Error,
}

impl Recorder {
    pub fn create(path: &Path) -> Result<Self, CannotRecord> {
        let failed = |source| CannotRecord { path: path.to_owned(), source };
        let out = BufWriter::with_capacity(64 << 10, File::create(path).map_err(failed)?);
        Ok(Self { path: path.to_owned(), out })
    }

    pub fn write(&mut self, event: &Event) -> Result<(), CannotRecord> {
        serde_json::to_writer(&mut self.out, event)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|source| CannotRecord { path: self.path.clone(), source })
    }

    pub fn flush(&mut self) -> Result<(), CannotRecord> {
        self.out.flush().map_err(|source| CannotRecord { path: self.path.clone(), source })
    }
}
