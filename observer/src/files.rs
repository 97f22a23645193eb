//! Files that somebody named: only what is a file is read. A pipe would be waited for, a device never ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

/// Read of a certificate or key. Bytes.
const LONGEST: u64 = 4 << 20;

pub fn open(path: &Path) -> io::Result<File> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(no_file()),
    }
}

/// The whole of a short one.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LONGEST {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 4 MiB")),
        false => Ok(bytes),
    }
}

/// Writes whatever it is, in this time: a pipe may have no reader, and a disk may hang. The writer is left behind then.
pub async fn write(path: &Path, text: String, within: Duration) -> io::Result<()> {
    let path = path.to_owned();
    let written = spawn_blocking(move || std::fs::write(path, text));
    timeout(within, written).await?.map_err(io::Error::other)?
}

pub fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")
}

/// A pipe that nobody reads or writes.
#[cfg(test)]
pub fn pipe(name: &str) -> std::path::PathBuf {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let path = std::env::temp_dir().join(format!("observer-pipe-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let pipe = pipe("read");
        for path in [pipe.as_path(), Path::new("/dev/zero"), Path::new("/")] {
            assert_eq!(read(path).unwrap_err().to_string(), "it is not a file");
        }
        std::fs::remove_file(&pipe).unwrap();
        std::fs::write(&pipe, "text").unwrap();
        assert_eq!(read(&pipe).unwrap(), b"text");
        std::fs::File::options().write(true).open(&pipe).unwrap().set_len(LONGEST + 1).unwrap();
        assert!(read(&pipe).is_err());
        std::fs::remove_file(pipe).unwrap();
    }

    #[tokio::test]
    async fn a_pipe_without_a_reader_does_not_hold_up_the_end() {
        let pipe = pipe("write");
        let error = write(&pipe, "metrics".into(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        open(&pipe).unwrap_err(); // lets the writer go, for which this test's runtime waits
        std::fs::remove_file(pipe).unwrap();
    }
}
