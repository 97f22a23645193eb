//! The last minutes before an OOM kill, as a recording: nobody had to start one.
//!
//! Events go to a ring of files, each a part of the window that begins with the state of the host then ([`preface`]).
//! At a kill the parts that are there become one file, which replays as if an observer had started with the window.
//! A thread of its own writes, so that a disk that hangs holds up nothing else; what it does not take in time is
//! counted, and the ring begins anew: a recording has no hole.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use observer_core::{
    history::Histories,
    model::{
        event::{Event, EventKind},
        finding::OomKilled,
        time::Time,
    },
};
use serde::{Deserialize, Serialize};

mod preface;
mod ring;

use preface::Preface;
use ring::Ring;
pub use ring::{Kept, kept};

/// Of the window, that each part covers.
const PARTS: u32 = 8;
/// Messages on their way to the disk, and bytes of lines in one: together 2 MiB.
const CHANNEL: usize = 8;
const LINES: usize = 256 << 10;
/// After a kill: how the victim ended, and what was reported of it.
const AFTER: Duration = Duration::from_secs(5);
/// Kills of the time before the observer are counted in its first seconds: nothing is recorded of them.
const AT_FIRST: Duration = Duration::from_secs(10);
/// After the disk did not take something.
const AGAIN: Duration = Duration::from_secs(10);
/// Waited for it at the end.
const PATIENCE: Duration = Duration::from_secs(2);
/// Kills listed of one incident.
const KILLS: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub folder: PathBuf,
    /// How long before a kill.
    pub window: Duration,
    /// Of one recording; the ring takes an eighth more.
    pub bytes: u64,
    /// Recordings kept, the newest.
    pub files: usize,
}

/// What is listed of a recording, in a file beside it. Unix times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub from: f64,
    pub until: f64,
    pub kills: Vec<Killed>,
    /// Kills beyond those.
    pub more_kills: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Killed {
    pub at: f64,
    /// Empty: in no container.
    pub container: String,
    pub command: String,
    pub pid: u32,
}

enum Message {
    /// A new part; `anew`: nothing before it is of use.
    Begin {
        preface: Vec<u8>,
        anew: bool,
    },
    Lines {
        bytes: Vec<u8>,
        events: u64,
    },
    /// The oldest part leaves.
    Drop,
    /// Answered when all before it is written: in a test events come faster than a disk takes them.
    #[cfg(test)]
    Written(SyncSender<()>),
    Keep {
        history: Vec<u8>,
        about: About,
    },
}

#[derive(Debug)]
struct Part {
    began: Time,
    bytes: u64,
    /// Of that, the state it begins with.
    preface: u64,
}

pub struct Incidents {
    settings: Settings,
    preface: Preface,
    parts: VecDeque<Part>,
    lines: Vec<u8>,
    events: u64,
    wall_offset_ns: i64,
    first: Option<Time>,
    /// Nothing is written before, after the disk failed.
    paused_until: Option<Time>,
    about: About,
    due: Option<Time>,
    next: Option<Time>,
    to: SyncSender<Message>,
    thread: JoinHandle<()>,
    lost: Arc<AtomicU64>,
    reported: u64,
    failed: Arc<AtomicBool>,
}

impl Incidents {
    pub fn new(settings: Settings) -> io::Result<Self> {
        let ring = Ring::open(&settings.folder, settings.files)?;
        let (to, from) = sync_channel(CHANNEL);
        let (lost, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, broken) = (Arc::clone(&lost), Arc::clone(&failed));
        let thread = thread::Builder::new()
            .name("incidents".into())
            .spawn(move || write_all(ring, &from, &counted, &broken))?;
        Ok(Self {
            settings,
            preface: Preface::default(),
            parts: VecDeque::new(),
            lines: Vec::new(),
            events: 0,
            wall_offset_ns: 0,
            first: None,
            paused_until: None,
            about: About::default(),
            due: None,
            next: None,
            to,
            thread,
            lost,
            reported: 0,
            failed,
        })
    }

    /// Without a folder that can be used the daemon goes on without.
    pub fn open(settings: Settings) -> Option<Self> {
        let folder = settings.folder.display().to_string();
        let failed = |error: &io::Error| {
            tracing::error!("OOM kills are not recorded: cannot use the folder {folder}: {error}");
        };
        Self::new(settings).inspect_err(failed).ok()
    }

    /// Events that no recording has because the disk did not keep up.
    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The same, if there are more than at the last time.
    pub fn newly_lost(&mut self) -> Option<u64> {
        let lost = self.lost();
        (std::mem::replace(&mut self.reported, lost) < lost).then_some(lost)
    }

    pub fn take(&mut self, event: &Event) {
        match &event.what {
            EventKind::Host(host) => self.wall_offset_ns = host.wall_offset_ns,
            EventKind::ClockSet { wall_offset_ns } => self.wall_offset_ns = *wall_offset_ns,
            _ => {}
        }
        self.first.get_or_insert(event.at);
        if self.parts.is_empty() && self.paused_until.is_none_or(|until| until <= event.at) {
            self.begin(event.at);
        }
        match self.parts.is_empty() {
            true => self.count_lost(1),
            false => match serde_json::to_writer(&mut self.lines, event) {
                Ok(()) => {
                    self.lines.push(b'\n');
                    self.events += 1;
                }
                Err(error) => tracing::error!("cannot write an event: {error}"),
            },
        }
        self.preface.take(&event.what);
        if self.lines.len() >= LINES {
            self.flush(event.at);
        }
    }

    pub fn killed(&mut self, at: Time, killed: &OomKilled) {
        let early = self.first.is_none_or(|first| at.since(first) < AT_FIRST);
        if killed.reconciled && early {
            return;
        }
        if self.about.kills.len() < KILLS {
            let container = killed.container.as_ref().map(|container| {
                let labels = &container.labels;
                match labels.pod.as_str() {
                    "" => labels.container.clone(),
                    pod => format!("{}/{pod}/{}", labels.namespace, labels.container),
                }
            });
            self.about.kills.push(Killed {
                at: at.unix_seconds(self.wall_offset_ns),
                container: container.unwrap_or_default(),
                command: killed.victim_command.clone(),
                pid: killed.victim_pid,
            });
        } else {
            self.about.more_kills = self.about.more_kills.saturating_add(killed.kills);
        }
        // Kills that follow one another are in the same recording, or in one that has the window of each.
        let soonest = at.after(AFTER);
        self.due.get_or_insert(self.next.map_or(soonest, |next| next.max(soonest)));
    }

    /// Once a second.
    pub fn tick(&mut self, now: Time, histories: &Histories) {
        if self.failed.swap(false, Ordering::Relaxed) {
            self.begin_again(now);
        }
        self.flush(now);
        if self.due.is_some_and(|due| due <= now) && self.keep(now, histories) {
            self.due = None;
            self.next = Some(now.after(self.settings.window));
        }
        let Some(part) = self.parts.back() else { return };
        let long = now.since(part.began) >= self.settings.window / PARTS;
        if long || part.bytes - part.preface >= self.settings.bytes / u64::from(PARTS) {
            self.begin(now);
        }
        // The oldest part leaves when the others cover the window, unless a kill in it waits to be kept; and when all
        // together are too large.
        while self.parts.len() > 1
            && (self.due.is_none() && now.since(self.parts[1].began) >= self.settings.window
                || self.parts.iter().map(|part| part.bytes).sum::<u64>() > self.settings.bytes)
        {
            if self.to.try_send(Message::Drop).is_err() {
                return; // in a second, then
            }
            self.parts.pop_front();
        }
    }

    /// A new part, from this event on.
    fn begin(&mut self, at: Time) {
        let mut preface = Vec::new();
        let mut written = Ok(());
        self.preface.events(at, |event| {
            if written.is_ok() {
                written = serde_json::to_writer(&mut preface, event).map(|()| preface.push(b'\n'));
            }
        });
        let (bytes, anew) = (preface.len() as u64, self.parts.is_empty());
        if written.is_ok() && self.to.try_send(Message::Begin { preface, anew }).is_ok() {
            self.parts.push_back(Part { began: at, bytes, preface: bytes });
            self.paused_until = None;
        } else if anew {
            self.begin_again(at);
        }
    }

    fn begin_again(&mut self, at: Time) {
        self.count_lost(self.events);
        (self.lines, self.events) = (Vec::new(), 0);
        self.parts.clear();
        self.paused_until = Some(at.after(AGAIN));
    }

    fn count_lost(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    fn flush(&mut self, at: Time) {
        let Some(part) = self.parts.back_mut().filter(|_| self.events > 0) else { return };
        let (bytes, events) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.events));
        part.bytes += bytes.len() as u64;
        if self.to.try_send(Message::Lines { bytes, events }).is_err() {
            self.count_lost(events);
            self.begin_again(at);
        }
    }

    /// What there is becomes a recording. False: not now.
    fn keep(&mut self, now: Time, histories: &Histories) -> bool {
        let Some(oldest) = self.parts.front() else { return false };
        let from = oldest.began.unix_seconds(self.wall_offset_ns);
        let mut history = Vec::new();
        for (workload, known) in histories.iter() {
            let before = known.startups.iter().filter(|past| past.started < from).cloned().collect();
            let what = EventKind::History {
                workload: workload.clone(),
                startups: before,
                levels: known.levels.clone(),
            };
            match serde_json::to_writer(&mut history, &Event { at: oldest.began, what }) {
                Ok(()) => history.push(b'\n'),
                Err(error) => tracing::error!("cannot write a history: {error}"),
            }
        }
        let about = About { from, until: now.unix_seconds(self.wall_offset_ns), ..self.about.clone() };
        let sent = self.to.try_send(Message::Keep { history, about }).is_ok();
        if sent {
            self.about = About::default();
        }
        sent
    }

    /// A kill that waits for its end is kept as it is.
    pub async fn finish(mut self, now: Time, histories: &Histories) {
        self.flush(now);
        if self.due.is_some() && !self.keep(now, histories) {
            tracing::warn!("the last OOM kill is in no recording: the disk did not answer");
        }
        drop(self.to);
        let until = Instant::now() + PATIENCE;
        while !self.thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Until the sender is dropped.
fn write_all(mut ring: Ring, from: &Receiver<Message>, lost: &AtomicU64, failed: &AtomicBool) {
    let mut failing = false;
    for message in from {
        let events = if let Message::Lines { events, .. } = &message { *events } else { 0 };
        let done = match message {
            Message::Begin { preface, anew } => ring.begin(&preface, anew),
            Message::Lines { bytes, .. } => ring.append(&bytes),
            Message::Drop => ring.drop_oldest(),
            #[cfg(test)]
            Message::Written(answer) => {
                let _ = answer.send(()); // the test may have ended
                Ok(())
            }
            Message::Keep { history, about } => ring.keep(&history, &about).map(|path| {
                tracing::info!("the minutes before an OOM kill are in {}", path.display());
            }),
        };
        if let Err(error) = &done {
            lost.fetch_add(events, Ordering::Relaxed);
            failed.store(true, Ordering::Relaxed);
            if !failing {
                tracing::warn!("cannot keep the minutes before OOM kills: {error}; it is tried again");
            }
        }
        failing = done.is_err();
    }
    ring.clear();
}

#[cfg(test)]
mod tests;
