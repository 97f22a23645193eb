//! The highest usage of a start-up, and what it was made of.

use crate::model::event::Limit;

/// Within one in this many parts of the peak: 2 %.
const NEAR: u64 = 50;
/// A file may be read this long after the time its reading bears.
const READ_SECONDS: f32 = 0.2;

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub seconds: f64,
    pub usage: u64,
    /// Usage without file cache and reclaimable slab, as last read.
    pub unreclaimable: u64,
    /// Anonymous memory, if it was read together with the usage.
    pub anon: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    pub bytes: u64,
    pub seconds: f64,
    /// Anonymous memory, read where usage was within 2 % of the peak and no victim's pages were missing; absent where
    /// nothing was read so near to it.
    pub anon: Option<u64>,
    /// That held at the peak, or the first that was known after it.
    pub limit: Option<Limit>,
}

/// The kernel updates the file cache later than the usage (memory.stat is flushed every two seconds), so a burst of
/// file reads looks like working set until then. The highest usage is therefore held until the next value of the cache,
/// and the larger of the two cache values counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peaks {
    bytes: u64,
    seconds: f64,
    limit: Option<Limit>,
    /// The reading of the kinds of memory at the highest usage.
    read: Option<Kinds>,
    unreclaimable: u64,
    /// Highest usage since the last value of the cache.
    pending: u64,
}

#[derive(Clone, Copy, Debug)]
struct Kinds {
    usage: u64,
    anon: u64,
    seconds: f32,
    whole: bool,
}

impl Peaks {
    pub(super) fn raise(&mut self, sample: &Sample, cache_before: u64) {
        let Sample { seconds, usage, anon, .. } = *sample;
        self.raise_to(seconds, usage);
        if let Some(anon) = anon.filter(|_| self.read.is_none_or(|highest| usage > highest.usage)) {
            self.read = Some(Kinds { usage, anon, seconds: seconds as f32, whole: sample.is_whole() });
        }
        let cache = sample.cache();
        if cache != cache_before {
            self.unreclaimable = self.highest_unreclaimable(cache.max(cache_before));
            self.pending = 0;
        }
        self.pending = self.pending.max(usage);
    }

    pub(super) fn raise_to(&mut self, seconds: f64, bytes: u64) {
        if bytes > self.bytes {
            (self.bytes, self.seconds, self.limit) = (bytes, seconds, None);
        }
    }

    /// What was raised since this was last called was raised under this limit.
    pub(super) fn limited(&mut self, limit: Option<Limit>) {
        self.limit = self.limit.or(limit);
    }

    pub(super) fn peak(&self) -> Peak {
        let anon = self.read.filter(|read| self.is_near(read.usage)).map(|read| read.anon.min(self.bytes));
        Peak { bytes: self.bytes, seconds: self.seconds, anon, limit: self.limit }
    }

    /// Whether a reading at this usage speaks for the peak. What lies between may be memory of any kind: within 2 % the
    /// anonymous part is wrong by no more than that, and usage at a limit moves as much by the charges cached per CPU.
    pub(super) fn is_near(&self, usage: u64) -> bool {
        usage.saturating_add(usage / NEAR) >= self.bytes
    }

    /// A reading as of right before a kill may have been made after it: then it has not what the victim alone held.
    pub(super) fn drop_reading_without(&mut self, victim_anon: u64, killed: f64) {
        let enough = victim_anon - victim_anon / 8; // counts of processes lag
        let before = |read: &Kinds| read.seconds + READ_SECONDS < killed as f32;
        self.read = self.read.filter(|read| before(read) || read.whole || read.anon >= enough);
    }

    pub(super) fn highest_unreclaimable(&self, cache: u64) -> u64 {
        self.unreclaimable.max(self.pending.saturating_sub(cache))
    }

    pub(super) fn or(self, other: Self) -> Self {
        let higher = if other.bytes > self.bytes { other } else { self };
        Self {
            read: self.read.into_iter().chain(other.read).max_by_key(|read| read.usage),
            unreclaimable: self.unreclaimable.max(other.unreclaimable),
            pending: self.pending.max(other.pending),
            ..higher
        }
    }
}

impl Sample {
    pub(super) fn cache(&self) -> u64 {
        self.usage.saturating_sub(self.unreclaimable)
    }

    /// Whether the kinds of memory that were read make up the usage, but for 2 %: then no process's are missing.
    pub(super) fn is_whole(&self) -> bool {
        self.anon.is_some_and(|anon| self.unreclaimable.saturating_sub(anon) <= self.usage / NEAR)
    }
}
