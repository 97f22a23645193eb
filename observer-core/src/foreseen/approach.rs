//! Whether a container is on its way to a limit: by its own trend, and by how its workload's earlier start-ups went.
//! One approach is one piece of news, however long it lasts. Pure.

use crate::{
    foreseen::{remaining::UnderWay, trend::Trend},
    model::{
        finding::{ForeseenBy, LimitKind},
        past_startup::PastStartup,
    },
};

/// As sure as this, or nothing is said by earlier start-ups.
const LIKELY: f64 = 0.5;
/// A start-up that holds more than its earlier ones ever did, by this share, is no longer like them.
const LIKE_BEFORE: f64 = 1.03;
/// By a start-up that was killed nothing is known of a limit that is higher than what it reached by more than this.
const RAISED: f64 = 1.1;
/// Of the latest start-ups: a release is followed by the next.
const LATEST: usize = 8;
/// An approach is over when none was seen for so long, in seconds, or for twice what was left of it, or for the span of
/// time in which it was seen: memory that grows in steps rests between them.
const OVER_SECONDS: f64 = 5.0;

/// What is ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    pub limit: LimitKind,
    /// The level of the container's own memory at which that limit is met. Bytes.
    pub bytes: u64,
    pub in_seconds: f64,
    /// 0 to 1.
    pub confidence: f64,
    pub by: ForeseenBy,
    /// The span of time in which it was seen, seconds.
    span: f64,
}

/// What one of its limits leaves it.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub limit: LimitKind,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Approach {
    trend: Trend,
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: f64,
    ahead: Ahead,
}

/// What is new of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum News {
    None,
    Began(Ahead),
    GoesOn(Ahead),
    Over,
}

impl Approach {
    /// Holds `unreclaimable` from `seconds` on.
    pub fn push(&mut self, seconds: f64, unreclaimable: u64) {
        self.trend.push(seconds, unreclaimable);
    }

    /// What was pushed is no longer to go by.
    pub fn forget(&mut self) {
        self.trend = Trend::default();
    }

    /// Whether one of its limits will be met. `start`: while it starts.
    pub fn look(
        &mut self,
        seconds: f64,
        rooms: &[Room],
        start: Option<&UnderWay>,
        past: &[PastStartup],
    ) -> News {
        let found = rooms.iter().filter_map(|room| self.ahead(*room, start, past));
        match (found.min_by(|a, b| a.in_seconds.total_cmp(&b.in_seconds)), self.seen) {
            (Some(ahead), before) => {
                self.seen = Some(Seen { at: seconds, ahead });
                if before.is_some() { News::GoesOn(ahead) } else { News::Began(ahead) }
            }
            (None, Some(Seen { at, ahead })) => {
                let left = ahead.in_seconds - (seconds - at);
                let quiet = seconds - at > OVER_SECONDS.max(ahead.in_seconds * 2.0).max(ahead.span);
                if quiet {
                    self.seen = None;
                    return News::Over;
                }
                News::GoesOn(Ahead { in_seconds: left.max(0.0), ..ahead })
            }
            (None, None) => News::None,
        }
    }

    fn ahead(&self, room: Room, start: Option<&UnderWay>, past: &[PastStartup]) -> Option<Ahead> {
        let known = &past[past.len().saturating_sub(LATEST)..];
        let Room { limit, bytes } = room;
        // What a workload takes is known of it alone, not of what shares its pod or node.
        if let Some(start) = start.filter(|_| limit == LimitKind::Container) {
            if let Some(ahead) = by_history(room, start, known) {
                return Some(ahead);
            }
            // It grows as it always did, and never grew so far.
            if known.iter().any(PastStartup::came_through) && is_like(start, known) && fits(room, known) {
                return None;
            }
        }
        let reach = self.trend.reaches(bytes)?;
        Some(Ahead {
            limit,
            bytes,
            in_seconds: reach.in_seconds,
            confidence: LIKELY + LIKELY * reach.steadiness * 0.9,
            by: ForeseenBy::Trend,
            span: reach.span,
        })
    }
}

/// Most of its earlier start-ups met this limit.
fn by_history(room: Room, start: &UnderWay, known: &[PastStartup]) -> Option<Ahead> {
    let mut when: Vec<f64> = known.iter().filter_map(|past| start.meets(past, room.bytes)).collect();
    let confidence = when.len() as f64 / (known.len() as f64 + 1.0);
    if confidence < LIKELY {
        return None;
    }
    when.sort_unstable_by(f64::total_cmp);
    let in_seconds = *when.get(when.len() / 2)?;
    Some(Ahead {
        limit: room.limit,
        bytes: room.bytes,
        in_seconds,
        confidence,
        by: ForeseenBy::History,
        span: 0.0,
    })
}

fn is_like(start: &UnderWay, known: &[PastStartup]) -> bool {
    let most = known.iter().map(PastStartup::need).max().unwrap_or(0);
    start.usage as f64 <= most as f64 * LIKE_BEFORE
}

fn fits(room: Room, known: &[PastStartup]) -> bool {
    known.iter().all(|past| !past.cut_off() && past.need() < room.bytes)
}

impl UnderWay<'_> {
    /// Seconds until it meets a limit, if it goes on as this earlier start-up did.
    fn meets(&self, past: &PastStartup, limit: u64) -> Option<f64> {
        let reached = self.curve.iter().copied().fold(self.usage as f32, f32::max);
        let (place, stretch) = self.place(past, f64::from(reached));
        let at = match past.cut_off() {
            true if limit as f64 <= past.peak as f64 * RAISED => past.peak_seconds,
            false if past.need() > limit => past.first_above(limit)?,
            _ => return None,
        };
        // What is behind it did not happen this time.
        (at >= place).then_some((at - place) * stretch)
    }
}
