//! When the file is written. A thread of its own does it: a disk that hangs holds up nothing else.

use std::{
    io,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use observer_core::history::Histories;

use super::{beside, create, replaceable, save};

/// After something was learned.
const EVERY: Duration = Duration::from_secs(60);
/// After it could not be written.
const AGAIN: Duration = Duration::from_secs(10);
/// Also if no start-up was learned: the levels of what runs have changed.
const AT_LEAST: Duration = Duration::from_secs(3600);
/// Waited for a disk at the end.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

pub struct Saver {
    path: PathBuf,
    changed: bool,
    /// Earliest, if something was learned.
    next: Instant,
    /// Latest.
    last: Instant,
    writing: Option<JoinHandle<io::Result<()>>>,
    failing: bool,
}

impl Saver {
    /// Says at once if nothing can be written there.
    pub fn new(path: PathBuf, now: Instant) -> Self {
        let mut saver = Self {
            path,
            changed: false,
            next: now + EVERY,
            last: now + AT_LEAST,
            writing: None,
            failing: false,
        };
        let new = beside(&saver.path, "new");
        let tried = replaceable(&saver.path).and_then(|()| create(&new));
        let tried = tried.and_then(|_| std::fs::remove_file(&new));
        saver.report(tried);
        saver
    }

    pub fn learned(&mut self) {
        self.changed = true;
    }

    /// Begins to write if it is time to; hears of what was begun before.
    pub fn tick(&mut self, now: Instant, histories: &Histories) {
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            let written = joined(writing);
            self.next = now + if written.is_ok() { EVERY } else { AGAIN };
            self.changed |= written.is_err();
            self.report(written);
        }
        let due = self.changed && now >= self.next || now >= self.last;
        if due && self.writing.is_none() {
            self.begin(now, histories);
        }
    }

    /// The last words: whatever is known is written, unless the disk hangs.
    pub async fn finish(mut self, histories: &Histories) {
        let until = Instant::now() + PATIENCE;
        self.wait(until).await;
        if self.writing.is_none() {
            self.begin(Instant::now(), histories);
            self.wait(until).await;
        }
        if self.writing.is_some() {
            let hangs = io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
            self.report(Err(hangs));
        }
    }

    async fn wait(&mut self, until: Instant) {
        while self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            self.report(joined(writing));
        }
    }

    fn begin(&mut self, now: Instant, histories: &Histories) {
        (self.changed, self.last) = (false, now + AT_LEAST);
        let (path, histories) = (self.path.clone(), histories.clone());
        let writer = thread::Builder::new().name("state".into()).spawn(move || save(&path, &histories));
        match writer {
            Ok(writing) => self.writing = Some(writing),
            Err(error) => {
                (self.changed, self.next) = (true, now + AGAIN);
                self.report(Err(error));
            }
        }
    }

    /// Once when it begins to fail, once when it is over.
    fn report(&mut self, written: io::Result<()>) {
        let path = Path::display(&self.path);
        match &written {
            Ok(()) if self.failing => tracing::info!("the state is written to {path} again"),
            Err(error) if !self.failing => tracing::warn!(
                "cannot write the state to {path}: {error}; it is tried again; a restart now would forget the start-ups seen since"
            ),
            Ok(()) | Err(_) => {}
        }
        self.failing = written.is_err();
    }
}

fn joined(writing: JoinHandle<io::Result<()>>) -> io::Result<()> {
    writing.join().unwrap_or_else(|_| Err(io::Error::other("the writer stopped")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use observer_core::model::{container::Workload, past_startup::PastStartup};

    fn histories() -> Histories {
        let mut histories = Histories::default();
        let past: PastStartup = serde_json::from_str(
            r#"{"started":1.0,"outcome":"stable","peak":7,"peak_seconds":0.5,"span":0.05,"curve":[1,7]}"#,
        )
        .unwrap();
        histories.remember(&Workload { workload: "web".into(), ..Workload::default() }, past);
        histories
    }

    fn until_written(saver: &mut Saver, now: Instant) {
        while saver.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            thread::sleep(LOOK);
        }
        saver.tick(now, &histories());
    }

    #[test]
    fn what_could_not_be_written_is_written_when_it_can_be() {
        let directory = std::env::temp_dir().join(format!("observer-saver-{}", std::process::id()));
        let path = directory.join("state.json");
        let start = Instant::now();
        let mut saver = Saver::new(path.clone(), start); // the directory is missing: as good as a full disk
        assert!(saver.failing);
        saver.learned();
        saver.tick(start + EVERY, &histories());
        until_written(&mut saver, start + EVERY);
        assert!(saver.failing && saver.changed);
        std::fs::create_dir(&directory).unwrap();
        saver.tick(start + EVERY + AGAIN, &histories());
        until_written(&mut saver, start + EVERY + AGAIN);
        assert!(!saver.failing && !saver.changed);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!beside(&path, "new").exists());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
