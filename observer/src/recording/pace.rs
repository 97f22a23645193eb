//! How fast a recording is played.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use observer_core::model::time::Time;

const SLOWEST: f64 = 0.01;
const FASTEST: f64 = 10_000.0;
/// A change of speed is noticed within this time.
const NAP: Duration = Duration::from_millis(50);

/// Of the command line.
pub fn parse_speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (SLOWEST..=FASTEST).contains(&speed) => Ok(speed),
        _ => Err("a number from 0.01 to 10000: 1 is as it was, 10 is ten times as fast".into()),
    }
}

/// Times as it was; may change, and stop, while it plays.
#[derive(Debug)]
pub struct Tempo {
    speed: AtomicU64,
    paused: AtomicBool,
}

impl Tempo {
    pub fn new(speed: f64) -> Self {
        Self { speed: AtomicU64::new(speed.to_bits()), paused: AtomicBool::new(false) }
    }

    pub fn speed(&self) -> f64 {
        f64::from_bits(self.speed.load(Relaxed))
    }

    pub fn multiply(&self, by: f64) {
        self.speed.store((self.speed() * by).clamp(SLOWEST, FASTEST).to_bits(), Relaxed);
    }

    pub fn paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    pub fn toggle(&self) {
        self.paused.fetch_xor(true, Relaxed);
    }
}

/// Holds each event back until it is due.
pub struct Pace {
    /// None: all at once.
    tempo: Option<Arc<Tempo>>,
    first: Option<Time>,
    /// How far it is played, in seconds of the recording, and when that was.
    played: f64,
    clock: Instant,
}

impl Pace {
    pub fn new(tempo: Option<Arc<Tempo>>) -> Self {
        Self { tempo, first: None, played: 0.0, clock: Instant::now() }
    }

    pub fn wait(&mut self, at: Time) {
        let Some(tempo) = &self.tempo else { return };
        let first = *self.first.get_or_insert_with(|| {
            self.clock = Instant::now();
            at
        });
        let due = at.seconds_since(first).clamp(0.0, 1e9);
        loop {
            let now = Instant::now();
            if !tempo.paused() {
                self.played += now.duration_since(self.clock).as_secs_f64() * tempo.speed();
            }
            self.clock = now;
            if self.played >= due {
                return;
            }
            let rest = Duration::from_secs_f64((due - self.played) / tempo.speed());
            thread::sleep(if tempo.paused() { NAP } else { rest.min(NAP) });
        }
    }
}
