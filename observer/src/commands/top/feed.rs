//! What is shown, kept fresh by threads of its own: a hanging observer never holds up a key.

use std::{
    io::BufRead,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    commands::client::{
        http::Http,
        state::{ContainerDetail, Startup, State},
    },
    recording::{
        pace::{Pace, Tempo},
        replay,
    },
    sinks::{api_state::NodeState, metrics::Metrics},
};

/// Start-ups that are over are shown beside those under way for this long.
pub const OVER_SECONDS: f64 = 20.0;
/// A stream is closed by the daemon before; a daemon that hangs is noticed then.
const STREAM_LONGEST: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
/// Between two tries to reach an observer that is gone.
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// How often a recording is looked at while it plays.
const FRAME: Duration = Duration::from_millis(200);

/// Everything that is drawn.
#[derive(Debug)]
pub struct Seen {
    pub state: State,
    pub startups: Vec<Startup>,
    /// The container that is open, by its id.
    pub detail: Option<(String, Result<ContainerDetail, String>)>,
    pub link: Link,
    /// When something was heard last.
    pub heard: Instant,
}

#[derive(Debug, PartialEq)]
pub enum Link {
    Live,
    /// The observer cannot be asked; it is tried again.
    Lost {
        why: String,
    },
    /// A recording, under way.
    Plays,
    /// All of a recording was read; what is wrong with it, if anything.
    Ended {
        note: Option<String>,
    },
}

/// Where answers come from: the same ones.
enum Source {
    Observer(Http),
    Recording(Arc<Mutex<NodeState>>),
}

impl Source {
    fn state(&self) -> Result<State, String> {
        match self {
            Self::Observer(http) => http.api("/api/v1/state", &[]),
            Self::Recording(node) => same(&lock(node).view()),
        }
    }

    fn startups(&self, from: f64) -> Result<Vec<Startup>, String> {
        match self {
            Self::Observer(http) => http.api("/api/v1/startups", &[("from", &from.to_string())]),
            Self::Recording(node) => same(&lock(node).startups(from, f64::INFINITY)),
        }
    }

    fn container(&self, id: &str) -> Result<ContainerDetail, String> {
        match self {
            Self::Observer(http) => http.api(&format!("/api/v1/containers/{id}"), &[]),
            Self::Recording(node) => {
                let gone = || "it ended, and is kept no more".to_owned();
                let id = id.parse().map_err(|_| gone())?;
                same(lock(node).container(id).as_ref().ok_or_else(gone)?)
            }
        }
    }
}

/// By way of the interface: what is answered is what is read.
fn same<T: serde::de::DeserializeOwned>(answer: &impl serde::Serialize) -> Result<T, String> {
    serde_json::to_value(answer).and_then(serde_json::from_value).map_err(|error| error.to_string())
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Feed {
    seen: Arc<Mutex<Seen>>,
    asks: SyncSender<Option<String>>,
    /// Of a recording: how fast it plays.
    pub tempo: Option<Arc<Tempo>>,
}

impl Feed {
    /// The first answer is waited for: without it there is nothing to show.
    pub fn observer(http: Http) -> Result<Self, String> {
        let source = Arc::new(Source::Observer(http));
        let seen = Seen::shared(source.state()?, Link::Live);
        let (follower, shared) = (Arc::clone(&source), Arc::downgrade(&seen));
        thread::spawn(move || follow(&follower, &shared));
        Ok(Self::asking(source, seen, None))
    }

    pub fn recording(
        recording: impl BufRead + Send + 'static,
        path: &Path,
        speed: f64,
    ) -> Result<Self, String> {
        let node = NodeState::of_recording(path.display().to_string());
        let (node, tempo) = (Arc::new(Mutex::new(node)), Arc::new(Tempo::new(speed)));
        let source = Arc::new(Source::Recording(Arc::clone(&node)));
        let seen = Seen::shared(source.state()?, Link::Plays);
        let (player, pace) = (Arc::clone(&seen), Arc::clone(&tempo));
        let (first, began) = sync_channel(1);
        thread::spawn(move || {
            let mut pace = Pace::new(Some(pace));
            // Who waits for the first event has gone on after it.
            let report = |how| drop(first.try_send(how));
            let replayed = replay::replay_into(
                &Metrics::default(),
                recording,
                |at| {
                    report(Ok(()));
                    pace.wait(at);
                },
                |finding| lock(&node).apply(finding),
            );
            lock(&node).moment();
            if let Err(error) = &replayed {
                report(Err(error.to_string()));
            }
            let note = match replayed {
                Ok(replayed) => {
                    replayed.cut.then(|| "its last line is cut: the recorder was killed".to_owned())
                }
                Err(error) => Some(error.to_string()),
            };
            let last = same(&lock(&node).view());
            let mut seen = lock(&player);
            if let Ok(state) = last {
                seen.state = state;
            }
            seen.hear(Link::Ended { note });
        });
        if let Ok(Err(error)) = began.recv() {
            return Err(format!("{}: {error}", path.display()));
        }
        let (watcher, shared) = (Arc::clone(&source), Arc::clone(&seen));
        thread::spawn(move || watch(&watcher, &shared));
        Ok(Self::asking(source, seen, Some(tempo)))
    }

    fn asking(source: Arc<Source>, seen: Arc<Mutex<Seen>>, tempo: Option<Arc<Tempo>>) -> Self {
        let (asks, asked) = sync_channel(4);
        let (shared, pace) = (Arc::clone(&seen), tempo.clone());
        thread::spawn(move || ask(&source, &shared, &asked, pace.as_deref()));
        Self { seen, asks, tempo }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// The container whose curve is wanted from now on. False: ask again, so many were asked for just now.
    pub fn open(&self, id: Option<String>) -> bool {
        !matches!(self.asks.try_send(id), Err(TrySendError::Full(_)))
    }
}

impl Seen {
    pub fn new(state: State, link: Link) -> Self {
        Self { state, startups: Vec::new(), detail: None, link, heard: Instant::now() }
    }

    fn shared(state: State, link: Link) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self::new(state, link)))
    }

    fn hear(&mut self, link: Link) {
        self.link = link;
        self.heard = Instant::now();
    }
}

/// The state, continued by the stream; where no stream is to be had, the state once a second.
fn follow(source: &Source, shown: &Weak<Mutex<Seen>>) {
    let Source::Observer(http) = source else { return };
    let mut retry = SECOND;
    // Until another node is looked at.
    while let Some(seen) = shown.upgrade() {
        let seen = &*seen;
        let began = Instant::now();
        match followed(http, seen, shown) {
            Ok(()) => {
                retry = SECOND;
                thread::sleep(SECOND.saturating_sub(began.elapsed()));
            }
            Err(why) => {
                lock(seen).link = Link::Lost { why };
                thread::sleep(retry);
                retry = (retry * 2).min(RETRY_LONGEST);
            }
        }
        if let Ok(state) = http.api("/api/v1/state", &[]) {
            let mut seen = lock(seen);
            seen.state = state;
            seen.hear(Link::Live);
        }
    }
}

/// Until something was missed, or the stream is refused; the error is why the state cannot be had.
fn followed(http: &Http, seen: &Mutex<Seen>, shown: &Weak<Mutex<Seen>>) -> Result<(), String> {
    // This thread holds one itself.
    while shown.strong_count() > 1 {
        let moment = lock(seen).state.moment.to_string();
        let began = Instant::now();
        let events = http.events("/api/v1/stream", &[("after", &moment)], STREAM_LONGEST);
        let Ok(events) = events else {
            // Refused, or gone: the state itself says which.
            return http.api("/api/v1/status", &[]).map(|_: serde_json::Value| ());
        };
        for event in events.take_while(|_| shown.strong_count() > 1) {
            match event.name.as_str() {
                "delta" => {
                    let delta = serde_json::from_str(&event.data)
                        .map_err(|error| format!("a change that cannot be read: {error}"))?;
                    let mut seen = lock(seen);
                    seen.state.follow(delta);
                    seen.hear(Link::Live);
                }
                _ => return Ok(()),
            }
        }
        thread::sleep(Duration::from_millis(200).saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// A recording while it plays.
fn watch(source: &Source, seen: &Mutex<Seen>) {
    loop {
        let state = source.state();
        {
            let mut seen = lock(seen);
            if seen.link != Link::Plays {
                return; // its last state is there
            }
            if let Ok(state) = state {
                seen.state = state;
                seen.hear(Link::Plays);
            }
        }
        thread::sleep(FRAME);
    }
}

/// Curves of what starts, and all of the container that is open.
fn ask(source: &Source, seen: &Mutex<Seen>, asked: &Receiver<Option<String>>, tempo: Option<&Tempo>) {
    let mut open = None;
    let every = if tempo.is_some() { FRAME } else { SECOND };
    loop {
        let now = lock(seen).state.status.now;
        let over = OVER_SECONDS * tempo.map_or(1.0, |tempo| tempo.speed().max(1.0));
        let startups = source.startups(now - over);
        let detail = open.as_ref().map(|id: &String| (id.clone(), source.container(id)));
        {
            let mut seen = lock(seen);
            if let Ok(startups) = startups {
                seen.startups = startups;
            }
            // What was seen of it is shown on while the observer cannot be asked.
            let lost = matches!(seen.link, Link::Lost { .. });
            match (&seen.detail, &detail) {
                (Some((known, Ok(_))), Some((id, Err(_)))) if lost && known == id => {}
                _ => seen.detail = detail,
            }
        }
        match asked.recv_timeout(every) {
            Ok(next) => open = asked.try_iter().last().unwrap_or(next),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
