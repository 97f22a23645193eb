//! The parts of the window on disk, and the recordings made of them.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::About;
use crate::recording::history_file::create;

const RECORDING: &str = ".jsonl";
const ABOUT: &str = ".about.json";
/// Of the folder, in which the parts are.
const RING: &str = "ring";
/// A file that is read as the description of a recording. Bytes.
const LONGEST_ABOUT: u64 = 1 << 20;

pub struct Ring {
    folder: PathBuf,
    files: usize,
    number: u64,
    parts: VecDeque<Part>,
    current: Option<File>,
}

struct Part {
    path: PathBuf,
    /// Of its preface, at its beginning.
    preface: u64,
}

/// One recording of the folder.
#[derive(Debug)]
pub struct Kept {
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    /// `None`: it cannot be read.
    pub about: Option<About>,
}

/// The recordings of a folder, the newest first.
pub fn kept(folder: &Path) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(name_of).map(str::to_owned) else { continue };
        let Ok(metadata) = entry.metadata() else { continue }; // it left meanwhile
        if metadata.is_file() {
            let about = about(&folder.join(format!("{name}{ABOUT}")));
            all.push(Kept { name, path: entry.path(), bytes: metadata.len(), about });
        }
    }
    all.sort_by(|a, b| b.name.cmp(&a.name));
    Ok(all)
}

fn about(path: &Path) -> Option<About> {
    let file = File::open(path).ok()?;
    serde_json::from_reader(Read::take(file, LONGEST_ABOUT)).ok()
}

/// `2026-11-27T09-48-13Z.jsonl` -> its name; other files of the folder are not ours.
fn name_of(file: &str) -> Option<&str> {
    let name = file.strip_suffix(RECORDING)?;
    let (time, more) = name.split_at_checked(20)?;
    let shape = |(at, byte): (usize, u8)| match at {
        4 | 7 | 13 | 16 => byte == b'-',
        10 => byte == b'T',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    let counted = more.is_empty() || more.strip_prefix('-').is_some_and(|n| n.parse::<u8>().is_ok());
    (time.bytes().enumerate().all(shape) && counted).then_some(name)
}

impl Ring {
    /// What an earlier run left of its ring is removed; its recordings stay. What cannot be removed, such as a
    /// folder, is passed over: the parts of this run have other names.
    pub fn open(folder: &Path, files: usize) -> io::Result<Self> {
        let ring = folder.join(RING);
        DirBuilder::new().recursive(true).mode(0o700).create(&ring)?; // workloads are named in it
        for entry in fs::read_dir(&ring)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part")
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!("{} is left there: it cannot be removed: {error}", path.display());
            }
        }
        let folder = folder.to_owned();
        Ok(Self { folder, files, number: 0, parts: VecDeque::new(), current: None })
    }

    pub fn begin(&mut self, preface: &[u8], anew: bool) -> io::Result<()> {
        if anew {
            self.clear();
        }
        let path = loop {
            self.number += 1;
            let path = self.folder.join(RING).join(format!("{:06}.part", self.number));
            if path.symlink_metadata().is_err() {
                break path; // taken only by what could not be removed
            }
        };
        let mut file = create(&path)?;
        self.parts.push_back(Part { path, preface: preface.len() as u64 });
        file.write_all(preface)?;
        self.current = Some(file);
        Ok(())
    }

    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.current {
            Some(file) => file.write_all(lines),
            None => Err(io::Error::other("its part could not be begun")),
        }
    }

    pub fn drop_oldest(&mut self) -> io::Result<()> {
        self.parts.pop_front().map_or(Ok(()), |part| fs::remove_file(part.path))
    }

    pub fn clear(&mut self) {
        self.current = None;
        for part in self.parts.drain(..) {
            let _ = fs::remove_file(part.path); // the next run removes it
        }
    }

    /// Written beside its place and renamed: what is listed is whole.
    pub fn keep(&mut self, history: &[u8], about: &About) -> io::Result<PathBuf> {
        let first = about.kills.first().map_or(about.until, |kill| kill.at);
        let name = self.free_name(first)?;
        let path = self.folder.join(format!("{name}{RECORDING}"));
        let new = self.folder.join(format!("{name}.new"));
        let beside = self.folder.join(format!("{name}{ABOUT}"));
        let write = || {
            let mut out = create(&new)?;
            for (number, part) in self.parts.iter().enumerate() {
                let mut from = File::open(&part.path)?;
                if number == 0 {
                    // The host comes first: of the very first part it is an event.
                    let before = if part.preface == 0 { 0 } else { history.len() };
                    io::copy(&mut Read::by_ref(&mut from).take(part.preface), &mut out)?;
                    out.write_all(&history[..before])?;
                } else {
                    from.seek(SeekFrom::Start(part.preface))?;
                }
                io::copy(&mut from, &mut out)?;
            }
            out.sync_all()?;
            create(&beside)?.write_all(&serde_json::to_vec(about)?)?;
            fs::rename(&new, &path)
        };
        write().inspect_err(|_| {
            // Half of it would only take the room that is missing.
            let _ = (fs::remove_file(&new), fs::remove_file(&beside));
        })?;
        self.prune()?;
        Ok(path)
    }

    fn free_name(&self, unix_seconds: f64) -> io::Result<String> {
        let time = jiff::Timestamp::from_second(unix_seconds as i64).map_err(io::Error::other)?;
        let name = time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
        let numbered = (2..100).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.clone()).chain(numbered);
        let free = names.find(|name| !self.folder.join(format!("{name}{RECORDING}")).exists());
        free.ok_or_else(|| io::Error::other(format!("too many recordings of {name}")))
    }

    /// The oldest recordings leave.
    fn prune(&self) -> io::Result<()> {
        for old in kept(&self.folder)?.into_iter().skip(self.files) {
            fs::remove_file(&old.path)?;
            let _ = fs::remove_file(self.folder.join(format!("{}{ABOUT}", old.name)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_the_place_of_a_part_is_passed_over() {
        let folder = std::env::temp_dir().join(format!("observer-ring-{}", std::process::id()));
        let in_the_way = folder.join("ring/000001.part/x");
        fs::create_dir_all(&in_the_way).unwrap();
        fs::write(folder.join("ring/000002.part"), "of an earlier run").unwrap();
        let mut ring = Ring::open(&folder, 1).unwrap();
        ring.begin(b"preface", true).unwrap();
        ring.append(b"lines").unwrap();
        assert_eq!(fs::read(folder.join("ring/000002.part")).unwrap(), b"prefacelines");
        assert!(in_the_way.is_dir());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn only_names_of_recordings_are_ours() {
        for (file, ours) in [
            ("2026-11-27T09-48-13Z.jsonl", true),
            ("2026-11-27T09-48-13Z-2.jsonl", true),
            ("2026-11-27T09-48-13Z-x.jsonl", false),
            ("2026-11-27T09-48-13Z.about.json", false),
            ("2026-11-27T09:48:13Z.jsonl", false),
            ("events.jsonl", false),
            ("é2026-11-27T09-48-13.jsonl", false),
            (".jsonl", false),
        ] {
            assert_eq!(name_of(file).is_some(), ours, "{file}");
        }
    }
}
