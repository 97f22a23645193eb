//! What was reported of OOM kills, written beside the state as they come: an observer that is killed goes on from
//! there, so that a kill is reported once, also one of the time when no observer ran.
//!
//! A line for each change, with a checksum, appended and not synced: it outlives the process, and the counts that it is
//! about do not outlive the kernel. A file of another boot is of no use. A thread of its own writes, and what is
//! counted is published when it has written: whatever was published is in the file. A disk that hangs is waited for
//! once, and holds up nothing until it answers again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use observer_core::model::{container::CgroupId, event::KillsKept};
use serde::{Deserialize, Serialize};

use super::history_file::{beside, checked, create, next_line, write_line};
use crate::files::open;

const VERSION: u32 = 1;
/// Groups kept, the newest ones; and lines appended before the file is rewritten.
const MOST: usize = 16384;
/// Read of a file. Bytes.
const LONGEST_FILE: u64 = 4 << 20;
/// Lines on their way to a disk that hangs; beyond that the file is written anew when it answers.
const WAITING: usize = 16384;
/// After it could not be written.
const AGAIN: Duration = Duration::from_secs(10);
/// Waited for a line to be written, which takes microseconds.
const WRITTEN: Duration = Duration::from_millis(200);
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

/// What is to be written: the file as a whole, and then these lines.
#[derive(Default)]
struct Work {
    whole: Option<KillsKept>,
    lines: Vec<Line>,
}

#[derive(Default)]
struct State {
    work: Work,
    /// Pieces of work so far, and those that are done.
    given: u64,
    done: u64,
    /// The last one could not be written: there is no file.
    failed: bool,
    ended: bool,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while this is so of the state, at most so long.
    fn wait_while(&self, span: Duration, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.state(), span, |state| is_so(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

pub struct KillJournal {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
    /// In the file since it was written as a whole, and then.
    appended: usize,
    whole: usize,
    /// It is to be written as a whole, from then on.
    wanted: Option<Instant>,
    /// What an earlier run kept is known: it comes before the first change.
    begun: bool,
    /// The disk did not write in time; it is not waited for until it has.
    hangs: bool,
    /// Groups that there was no room for.
    dropped: usize,
}

impl KillJournal {
    /// Beside this state. What an earlier run left is replaced by the first [`Self::keep`] with a change.
    pub fn new(state: &Path, proc: &Path, now: Instant) -> io::Result<Self> {
        let (path, boot) = (path_of(state), boot_id(proc)?);
        let (mut file, mut failing) = (None, false);
        Self::by(now, move |work| {
            let written = write(&path, &boot, &mut file, &work);
            if let Err(error) = &written
                && !failing
            {
                let path = path.display();
                tracing::warn!(
                    "cannot write {path}: {error}; it is tried again; after a restart now OOM kills of the time between would not be counted"
                );
            }
            failing = written.is_err();
            !failing
        })
    }

    fn by(now: Instant, write: impl FnMut(Work) -> bool + Send + 'static) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let theirs = Arc::clone(&desk);
        let thread = thread::Builder::new().name("kills".into()).spawn(move || write_all(&theirs, write))?;
        Ok(Self {
            desk,
            thread,
            appended: 0,
            whole: 0,
            wanted: Some(now),
            begun: false,
            hangs: false,
            dropped: 0,
        })
    }

    /// Writes these changes, or all that is kept where that is due, and returns when kills among them are written.
    /// Called for each event, with changes or without.
    pub fn keep(&mut self, lines: Vec<Line>, now: Instant, kept: impl FnOnce() -> KillsKept) {
        if lines.is_empty() && !self.begun {
            return;
        }
        self.begun = true;
        {
            let state = self.desk.state();
            if state.failed && self.wanted.is_none() {
                self.wanted = Some(now + AGAIN);
            }
            if self.appended > self.whole + MOST || state.work.lines.len() + lines.len() > WAITING {
                self.wanted = self.wanted.or(Some(now));
            }
        }
        match self.wanted {
            Some(due) if now < due => {} // the next whole has them
            Some(_) => {
                let kept = self.bounded(kept());
                (self.appended, self.whole, self.wanted) = (0, kept.reported.len(), None);
                self.give(true, |work| *work = Work { whole: Some(kept), lines: Vec::new() });
            }
            None if lines.is_empty() => {}
            None => {
                self.appended += lines.len();
                // That a group was seen has time: it is in the file before any kill in it is.
                let kills = lines.iter().any(|(_, count)| count.is_some_and(|count| count > 0));
                self.give(kills, |work| work.lines.extend(lines));
            }
        }
    }

    fn give(&mut self, wait: bool, add: impl FnOnce(&mut Work)) {
        let (number, busy) = {
            let mut state = self.desk.state();
            add(&mut state.work);
            state.given += 1;
            (state.given, state.done + 1 < state.given)
        };
        self.desk.changed.notify_all();
        if !wait || self.hangs && busy {
            return;
        }
        let hung = self.desk.wait_while(WRITTEN, |state| state.done < number).done < number;
        if hung && !self.hangs {
            tracing::warn!(
                "the disk with the OOM kills that were reported does not answer; if the observer is killed now, they are reported again"
            );
        }
        self.hangs = hung;
    }

    fn bounded(&mut self, mut kept: KillsKept) -> KillsKept {
        let dropped = kept.reported.len().saturating_sub(MOST);
        if dropped > self.dropped {
            tracing::warn!(
                "{dropped} cgroups too many: OOM kills in them are not counted while no observer runs"
            );
        }
        self.dropped = dropped;
        kept.reported.drain(..dropped);
        kept
    }

    /// What was given is written, unless the disk hangs.
    pub async fn finish(self) {
        self.desk.state().ended = true;
        self.desk.changed.notify_all();
        let until = Instant::now() + PATIENCE;
        while !self.thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Until it is ended, and everything is written.
fn write_all(desk: &Desk, mut write: impl FnMut(Work) -> bool) {
    loop {
        let (work, number) = {
            let idle = |state: &mut State| state.done == state.given && !state.ended;
            let waited = desk.changed.wait_while(desk.state(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.done == state.given {
                return;
            }
            (std::mem::take(&mut state.work), state.given)
        };
        let written = write(work);
        let mut state = desk.state();
        state.done = number;
        state.failed = !written;
        desk.changed.notify_all();
    }
}

/// A file that lacks a change would make the next run report its kills twice, so a file that cannot be written is
/// removed, and nothing is written until the next whole.
fn write(path: &Path, boot: &str, file: &mut Option<File>, work: &Work) -> io::Result<()> {
    let mut all = || {
        if let Some(kept) = &work.whole {
            *file = Some(write_whole(path, boot, kept)?);
        }
        // Without a file the next whole has them.
        file.as_mut().map_or(Ok(()), |file| append(file, &work.lines))
    };
    all().inspect_err(|_| {
        *file = None;
        let _ = fs::remove_file(path);
    })
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
        let now = Instant::now();
        let mut journal = KillJournal::new(&folder.join("state.json"), folder, now).unwrap();
        journal.keep(vec![(7, Some(0))], now, || whole);
        for line in more {
            journal.keep(vec![line], now, || panic!("the file is there"));
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
    async fn a_change_is_in_the_file_when_it_is_kept() {
        let folder = folder("now");
        let (state, now) = (folder.join("state.json"), Instant::now());
        let mut journal = KillJournal::new(&state, &folder, now).unwrap();
        journal.keep(vec![(7, Some(0))], now, || kept(7, &[(7, 0)]));
        for count in 1..3000 {
            journal.keep(vec![(7, Some(count))], now, || panic!("nothing is missing"));
            if count % 100 == 1 {
                assert_eq!(restore(&state, &folder), Some(kept(7, &[(7, count)])));
            }
        }
        journal.finish().await;
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_once_and_has_everything_when_it_answers() {
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let written = Arc::new(Mutex::new(Vec::new()));
        let writes = written.clone();
        let now = Instant::now();
        let write = move |work: Work| {
            let _ = hangs.recv(); // until the test drops its end
            writes.lock().unwrap().push((work.whole, work.lines));
            true
        };
        let mut journal = KillJournal::by(now, write).unwrap();
        journal.keep(vec![(7, Some(1))], now, || kept(7, &[(7, 1)]));
        assert!(journal.hangs);
        // As many as would take an hour if each was waited for.
        let many = WAITING as u64 - 1;
        for count in 2..2 + many {
            journal.keep(vec![(7, Some(count))], now, || panic!("there is room"));
        }
        journal.keep(vec![(7, Some(99_998))], now, || panic!("there is room"));
        journal.keep(vec![(7, Some(99_999))], now, || kept(7, &[(7, 99_999)]));
        drop(answer);
        journal.finish().await;
        let written = written.lock().unwrap();
        assert_eq!(written[0], (Some(kept(7, &[(7, 1)])), Vec::new()));
        assert_eq!(written.last(), Some(&(Some(kept(7, &[(7, 99_999)])), Vec::new())));
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
