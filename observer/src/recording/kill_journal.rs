//! What was reported of OOM kills, written beside the state as they come: an observer that is killed goes on from
//! there, so that a kill is reported once, also one of the time when no observer ran.
//!
//! A line for each change, with a checksum, appended and not synced: it outlives the process, and the counts that it is
//! about do not outlive the kernel. A file of another boot is of no use. A thread of its own writes, so that a disk
//! that hangs holds up nothing else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use observer_core::model::{container::CgroupId, event::KillsKept};
use serde::{Deserialize, Serialize};

use super::history_file::{beside, checked, create, next_line, open, write_line};

const VERSION: u32 = 1;
/// Groups kept, the newest ones; and lines appended before the file is rewritten.
const MOST: usize = 16384;
/// Read of a file. Bytes.
const LONGEST_FILE: u64 = 4 << 20;
/// Changes on their way to the file.
const CHANNEL: usize = 1024;
/// After it could not be written.
const AGAIN: Duration = Duration::from_secs(10);
/// Waited for a disk at the end.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    boot: String,
    newest: Option<CgroupId>,
}

/// The kernel's count of a group up to which its kills are reported; absent: the group was seen.
type Line = (CgroupId, Option<u64>);

/// The file beside the state.
fn path_of(state: &Path) -> PathBuf {
    beside(state, "kills")
}

fn boot_id(proc: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(proc.join("sys/kernel/random/boot_id"))?.trim().to_owned())
}

/// What an earlier run since this boot left.
pub fn restore(state: &Path, proc: &Path) -> Option<KillsKept> {
    let path = path_of(state);
    let read = || read(open(&path)?, &boot_id(proc)?);
    match read() {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let path = path.display();
            tracing::warn!("cannot use {path}: {error}; OOM kills while no observer ran are not counted");
            None
        }
    }
}

/// `None` for a file of another boot. A run that was killed may leave an incomplete last line: it is dropped. Damage
/// before the last line makes the file useless.
fn read(bytes: impl Read, boot: &str) -> io::Result<Option<KillsKept>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut bytes = BufReader::new(bytes.take(LONGEST_FILE));
    let head = next_line(&mut bytes)?.ok_or_else(|| wrong("it is empty"))?;
    let head: Head = checked(&head).map_err(|why| wrong(&why))?;
    if head.version != VERSION || head.boot != boot {
        return Ok(None);
    }
    let (mut newest, mut reported) = (head.newest, BTreeMap::new());
    let mut bad: Option<String> = None;
    while let Some(line) = next_line(&mut bytes)? {
        if let Some(why) = bad {
            return Err(wrong(&why));
        }
        match checked::<Line>(&line) {
            Ok((cgroup, count)) => {
                newest = newest.max(Some(cgroup));
                if let Some(count) = count {
                    reported.insert(cgroup, count);
                }
            }
            Err(why) => bad = Some(why),
        }
    }
    if bytes.get_ref().limit() == 0 {
        return Err(wrong("it is too long"));
    }
    Ok(Some(KillsKept { newest, reported: reported.into_iter().collect() }))
}

enum Message {
    Whole(KillsKept),
    More(Vec<Line>),
}

pub struct KillJournal {
    to: SyncSender<Message>,
    thread: JoinHandle<()>,
    /// In the file since it was written as a whole, and then.
    appended: usize,
    whole: usize,
    /// It is to be written as a whole.
    wanted: Arc<AtomicBool>,
    next: Instant,
    /// Groups that there was no room for.
    dropped: usize,
}

impl KillJournal {
    /// Beside this state; what an earlier run left is replaced by the first [`Self::tick`].
    pub fn new(state: &Path, proc: &Path, now: Instant) -> io::Result<Self> {
        let (path, boot) = (path_of(state), boot_id(proc)?);
        let (to, from) = sync_channel(CHANNEL);
        let wanted = Arc::new(AtomicBool::new(true));
        let failed = Arc::clone(&wanted);
        let thread = thread::Builder::new()
            .name("kills".into())
            .spawn(move || write_all(&path, &boot, &from, &failed))?;
        Ok(Self { to, thread, appended: 0, whole: 0, wanted, next: now, dropped: 0 })
    }

    pub fn append(&mut self, lines: Vec<Line>) {
        if lines.is_empty() {
            return;
        }
        self.appended += lines.len();
        if self.to.try_send(Message::More(lines)).is_err() {
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Rewrites the file when that is due.
    pub fn tick(&mut self, now: Instant, kept: impl FnOnce() -> KillsKept) {
        let due = self.wanted.load(Ordering::Relaxed) || self.appended > self.whole + MOST;
        if !due || now < self.next {
            return;
        }
        self.next = now + AGAIN;
        let mut kept = kept();
        let dropped = kept.reported.len().saturating_sub(MOST);
        if dropped > self.dropped {
            tracing::warn!(
                "{dropped} cgroups too many: OOM kills in them are not counted while no observer runs"
            );
        }
        self.dropped = dropped;
        kept.reported.drain(..dropped);
        let groups = kept.reported.len();
        self.wanted.store(false, Ordering::Relaxed);
        match self.to.try_send(Message::Whole(kept)) {
            Ok(()) => (self.appended, self.whole) = (0, groups),
            Err(_) => self.wanted.store(true, Ordering::Relaxed),
        }
    }

    /// What was appended is written, unless the disk hangs.
    pub async fn finish(self) {
        drop(self.to);
        let until = Instant::now() + PATIENCE;
        while !self.thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Writes messages until the sender is dropped. A file that lacks a change would make the next run report its kills
/// twice, so a file that cannot be written is removed.
fn write_all(path: &Path, boot: &str, from: &Receiver<Message>, failed: &AtomicBool) {
    let (mut file, mut failing) = (None, false);
    for message in from {
        let written = match (message, &mut file) {
            (Message::Whole(kept), _) => write_whole(path, boot, &kept).map(|new| file = Some(new)),
            (Message::More(lines), Some(file)) => append(file, &lines),
            (Message::More(_), None) => continue, // the next whole has them
        };
        if let Err(error) = &written {
            file = None;
            let _ = fs::remove_file(path);
            failed.store(true, Ordering::Relaxed);
            if !failing {
                let path = path.display();
                tracing::warn!(
                    "cannot write {path}: {error}; it is tried again; after a restart now OOM kills of the time between would not be counted"
                );
            }
        }
        failing = written.is_err();
    }
}

fn append(file: &mut File, lines: &[Line]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for line in lines {
        write_line(&mut bytes, line)?;
    }
    file.write_all(&bytes)
}

fn write_whole(path: &Path, boot: &str, kept: &KillsKept) -> io::Result<File> {
    let new = beside(path, "new");
    let write = || {
        let mut bytes = Vec::new();
        write_line(&mut bytes, &Head { version: VERSION, boot: boot.to_owned(), newest: kept.newest })?;
        for (cgroup, count) in &kept.reported {
            write_line(&mut bytes, &(cgroup, Some(count)))?;
        }
        let mut file = create(&new)?;
        file.write_all(&bytes)?;
        fs::rename(&new, path)?;
        Ok(file)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new); // half of it would only take the room that is missing
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "4e0b9b1c-6f7d-4f6e-9f5e-0d5f2f3c4b5a";

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("observer-kills-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("sys/kernel/random")).unwrap();
        fs::write(folder.join("sys/kernel/random/boot_id"), format!("{BOOT}\n")).unwrap();
        folder
    }

    fn kept(newest: CgroupId, reported: &[(CgroupId, u64)]) -> KillsKept {
        KillsKept { newest: Some(newest), reported: reported.to_vec() }
    }

    async fn journal(folder: &Path, whole: KillsKept, more: Vec<Line>) {
        let mut journal = KillJournal::new(&folder.join("state.json"), folder, Instant::now()).unwrap();
        journal.tick(Instant::now(), || whole);
        for line in more {
            journal.append(vec![line]);
        }
        journal.finish().await;
    }

    #[tokio::test]
    async fn the_last_count_of_each_group_comes_back_in_the_same_boot_only() {
        let folder = folder("boot");
        let state = folder.join("state.json");
        assert_eq!(restore(&state, &folder), None);
        let more = vec![(7, Some(3)), (12, None), (7, Some(4)), (9, Some(0))];
        journal(&folder, kept(10, &[(3, 2), (7, 1)]), more).await;
        assert_eq!(restore(&state, &folder), Some(kept(12, &[(3, 2), (7, 4), (9, 0)])));
        fs::write(folder.join("sys/kernel/random/boot_id"), "another\n").unwrap();
        assert_eq!(restore(&state, &folder), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_last_line_that_was_cut_is_left_out_and_a_damaged_one_makes_it_useless() {
        let folder = folder("cut");
        journal(&folder, kept(7, &[]), vec![(7, Some(1)), (7, Some(2))]).await;
        let bytes = fs::read(path_of(&folder.join("state.json"))).unwrap();
        assert_eq!(read(&bytes[..bytes.len() - 4], BOOT).unwrap(), Some(kept(7, &[(7, 1)])));
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let mut damaged = bytes.clone();
        damaged[first + 10] ^= 1;
        assert!(read(&*damaged, BOOT).is_err());
        assert!(read(&b""[..], BOOT).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_written_leaves_nothing_that_is_wrong() {
        let folder = folder("full");
        journal(&folder, kept(7, &[(7, 1)]), Vec::new()).await;
        let path = path_of(&folder.join("state.json"));
        fs::create_dir(beside(&path, "new")).unwrap(); // as good as a full disk
        journal(&folder, kept(8, &[(7, 5)]), vec![(7, Some(6))]).await;
        assert!(!path.exists(), "the counts in it are too low");
        fs::remove_dir_all(folder).unwrap();
    }
}
