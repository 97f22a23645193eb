//! Deltas to many readers: each is made and written to text once, and every reader sends the same bytes.
//!
//! The last deltas are kept, so that a reader who was cut off goes on where it stopped. A reader that falls behind what
//! is kept is dropped and counted; it asks for the state again. With no reader nothing is made.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::watch;

/// Readers at one time: a page each.
pub const READERS: usize = 64;
/// Deltas kept, and the bytes they may hold together: at one a second, half a minute.
const KEPT: usize = 32;
const KEPT_BYTES: usize = 2 << 20;
/// Deltas are made this long after the last state was handed out: its reader is about to come.
const AWAITED: u32 = 20;
/// Deltas are made this long after the last reader left.
const RETURNS: u32 = 5;

#[derive(Clone, Debug, Default)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    /// The number of the last moment, whether or not a delta was made for it.
    last: u64,
    kept: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Where each reader is.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    awaited: u32,
    closed: bool,
    wake: watch::Sender<u64>,
    counts: Counts,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            last: 0,
            kept: VecDeque::new(),
            bytes: 0,
            readers: BTreeMap::new(),
            next_reader: 0,
            awaited: 0,
            closed: false,
            wake: watch::channel(0).0,
            counts: Counts::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    pub readers: u64,
    /// Dropped since the start, because they fell behind.
    pub dropped_slow: u64,
    /// Turned away since the start, because there were too many.
    pub turned_away: u64,
}

#[derive(Debug, PartialEq)]
pub struct TooMany;

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts { readers: inner.readers.len() as u64, ..inner.counts }
    }

    /// The moment a state is of; deltas after it will be kept for a while.
    pub fn last(&self) -> u64 {
        let mut inner = self.lock();
        inner.awaited = AWAITED;
        inner.last
    }

    /// The number of the moment that comes.
    pub fn next(&self) -> u64 {
        self.lock().last + 1
    }

    /// The daemon stops: every reader is sent away.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let last = inner.last;
        inner.wake.send_replace(last);
    }

    /// Whether a delta is worth making.
    pub fn is_read(&self) -> bool {
        let inner = self.lock();
        inner.awaited > 0 || !inner.readers.is_empty()
    }

    /// The next moment, with its delta as JSON if one was made.
    pub fn push(&self, json: Option<String>) {
        let mut inner = self.lock();
        inner.last += 1;
        inner.awaited = inner.awaited.saturating_sub(1);
        let last = inner.last;
        let Some(json) = json else {
            inner.kept.clear();
            inner.bytes = 0;
            return;
        };
        let event = Bytes::from(format!("id: {last}\nevent: delta\ndata: {json}\n\n"));
        inner.bytes += event.len();
        inner.kept.push_back((last, event));
        while inner.kept.len() > KEPT || (inner.bytes > KEPT_BYTES && inner.kept.len() > 1) {
            let Some((_, gone)) = inner.kept.pop_front() else { break };
            inner.bytes -= gone.len();
        }
        let oldest = inner.kept.front().map_or(last, |(id, _)| *id);
        let before = inner.readers.len();
        inner.readers.retain(|_, at| *at + 1 >= oldest);
        inner.counts.dropped_slow += (before - inner.readers.len()) as u64;
        inner.wake.send_replace(last);
    }

    /// A reader that has everything up to `after`.
    pub fn read(&self, after: u64) -> Result<Reader, TooMany> {
        let mut inner = self.lock();
        if inner.readers.len() >= READERS {
            inner.counts.turned_away += 1;
            return Err(TooMany);
        }
        let id = inner.next_reader;
        inner.next_reader += 1;
        let kept_from = inner.kept.front().map_or(inner.last, |(first, _)| first - 1);
        let missed = after < kept_from || after > inner.last;
        let last = inner.last;
        inner.readers.insert(id, if missed { last } else { after });
        Ok(Reader { hub: self.clone(), id, missed, wake: inner.wake.subscribe() })
    }
}

pub struct Reader {
    hub: Hub,
    id: u64,
    missed: bool,
    wake: watch::Receiver<u64>,
}

impl Reader {
    /// What comes next; `None`: it fell behind, or the daemon stops.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.wake.borrow_and_update();
            if std::mem::take(&mut self.missed) {
                return Some(Bytes::from_static(b"event: reset\ndata: {}\n\n"));
            }
            if let Some(bytes) = self.due()? {
                return Some(bytes);
            }
            self.wake.changed().await.ok()?;
        }
    }

    /// What is there to be read now.
    pub fn try_next(&mut self) -> Option<Bytes> {
        self.due().flatten()
    }

    /// The first made since the last. One after the other, as they are kept: joined for each reader that was away they
    /// would be copied for each, and a reader that does not read holds what it was given.
    fn due(&mut self) -> Option<Option<Bytes>> {
        let mut inner = self.hub.lock();
        if inner.closed {
            return None;
        }
        let at = *inner.readers.get(&self.id)?;
        let Some((id, bytes)) = inner.kept.iter().find(|(id, _)| *id > at).cloned() else {
            return Some(None);
        };
        inner.readers.insert(self.id, id);
        Some(Some(bytes))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        inner.readers.remove(&self.id);
        // Its connection came to its end, and it comes back.
        inner.awaited = inner.awaited.max(RETURNS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Option<Bytes>) -> String {
        String::from_utf8(bytes.unwrap().to_vec()).unwrap()
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        run(async {
            let hub = Hub::default();
            hub.push(None);
            let after = hub.last();
            assert!(hub.is_read(), "whoever asked for the state is about to read on");
            hub.push(Some("1".into()));
            hub.push(Some("2".into()));
            let mut reader = hub.read(after).unwrap();
            assert_eq!(text(reader.next().await), "id: 2\nevent: delta\ndata: 1\n\n");
            assert_eq!(text(reader.next().await), "id: 3\nevent: delta\ndata: 2\n\n");
            hub.push(Some("3".into()));
            assert!(text(reader.next().await).starts_with("id: 4\n"));
            drop(reader);
            assert!(text(hub.read(3).unwrap().next().await).starts_with("id: 4\n"));
        });
    }

    #[test]
    fn a_reader_of_what_is_not_kept_is_asked_to_begin_anew() {
        run(async {
            let hub = Hub::default();
            for i in 0..100 {
                hub.push(Some(i.to_string()));
            }
            for unknown in [0, 5, 1000] {
                let mut reader = hub.read(unknown).unwrap();
                assert!(text(reader.next().await).starts_with("event: reset"), "{unknown}");
            }
            let mut reader = hub.read(100).unwrap();
            hub.push(None);
            hub.push(Some("x".into()));
            assert!(reader.next().await.is_none(), "a moment without a delta is a gap");
        });
    }

    #[test]
    fn a_reader_that_falls_behind_is_dropped_and_counted_and_memory_is_bounded() {
        run(async {
            let hub = Hub::default();
            let mut slow = hub.read(0).unwrap();
            for _ in 0..200 {
                hub.push(Some("x".repeat(100_000)));
            }
            assert!(hub.lock().bytes <= KEPT_BYTES);
            assert_eq!(hub.counts(), Counts { readers: 0, dropped_slow: 1, turned_away: 0 });
            assert!(slow.next().await.is_none());
        });
    }

    #[test]
    fn readers_that_were_away_are_given_the_same_bytes() {
        run(async {
            let hub = Hub::default();
            hub.last();
            for _ in 0..20 {
                hub.push(Some("x".repeat(100_000)));
            }
            let mut readers: Vec<_> = (0..READERS).map(|_| hub.read(0).unwrap()).collect();
            let mut given = std::collections::BTreeSet::new();
            for reader in &mut readers {
                given.insert(reader.next().await.unwrap().as_ptr());
            }
            assert_eq!(given.len(), 1);
        });
    }

    #[test]
    fn readers_are_bounded_and_their_places_are_freed() {
        let hub = Hub::default();
        let all: Vec<_> = (0..READERS).map(|_| hub.read(0).unwrap()).collect();
        assert!(hub.read(0).is_err());
        assert_eq!(hub.counts().turned_away, 1);
        drop(all);
        assert!(hub.read(0).is_ok());
    }
}
