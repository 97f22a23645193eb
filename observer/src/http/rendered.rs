//! Answers that take memory: texts made at most once a second however many ask, shared by all who are being sent one,
//! and together bounded, so that readers that take nothing do not add them up.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};

/// A text is not rendered again for this long.
pub const FRESH: Duration = Duration::from_secs(1);
/// Older versions that slow readers still hold. When there are as many, the newest is sent until one of them is let go,
/// which takes [`super::accept::WHOLE`] at the most.
pub const OLDER: usize = 2;
/// Bytes of all texts that are kept or being sent; the state of a full node has three million.
pub const MOST: usize = 8 << 20;

/// What the texts of one server hold together. Cheap to clone.
#[derive(Clone)]
pub struct Room(Arc<Held>);

struct Held {
    most: usize,
    bytes: AtomicUsize,
    texts: Mutex<Vec<Weak<Mutex<Versions>>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Room {
    pub fn of(most: usize) -> Self {
        Self(Arc::new(Held { most, bytes: AtomicUsize::new(0), texts: Mutex::default() }))
    }

    /// A text that is rendered again after this time.
    pub fn text(&self, fresh: Duration) -> Rendered {
        let versions = Arc::new(Mutex::new(Versions { fresh, newest: None, older: Vec::new() }));
        lock(&self.0.texts).push(Arc::downgrade(&versions));
        Rendered { versions, room: self.clone(), always: false }
    }

    /// An answer to one request alone: refused while there is no room for it.
    pub fn answer(&self, content_type: &'static str, render: impl FnOnce() -> Vec<u8>) -> Response {
        if self.is_full(Instant::now()) {
            return no_room();
        }
        let mut response = respond(self.hold(render()), content_type);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn hold(&self, bytes: Vec<u8>) -> Text {
        self.0.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Text(Arc::new(Bounded { bytes, room: self.clone() }))
    }

    /// Lets go of texts that are too old to be sent, and says whether there is no room for another all the same.
    fn is_full(&self, now: Instant) -> bool {
        // One that is locked is being rendered.
        let stale = |versions: &Weak<Mutex<Versions>>| {
            let versions = versions.upgrade()?;
            let mut versions = versions.try_lock().ok()?;
            let fresh = versions.fresh;
            versions.newest.take_if(|newest| now.duration_since(newest.made) >= fresh && !newest.is_held())
        };
        lock(&self.0.texts).iter().for_each(|versions| drop(stale(versions)));
        self.0.bytes.load(Ordering::Relaxed) >= self.0.most
    }
}

/// A panic while it is held leaves a text that is rendered again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_room() -> Response {
    let headers = [(header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, "too much is being sent to slow readers; try again\n")
        .into_response()
}

/// One text; cheap to clone.
#[derive(Clone)]
pub struct Rendered {
    versions: Arc<Mutex<Versions>>,
    room: Room,
    always: bool,
}

struct Versions {
    fresh: Duration,
    newest: Option<Version>,
    older: Vec<Weak<Bounded>>,
}

struct Version {
    made: Instant,
    plain: Text,
    /// Made when the first asks for it.
    gzip: Option<Text>,
}

impl Version {
    /// Being sent to somebody.
    fn is_held(&self) -> bool {
        self.plain.is_held() || self.gzip.as_ref().is_some_and(Text::is_held)
    }
}

/// Shared by all it is being sent to.
#[derive(Clone)]
struct Text(Arc<Bounded>);

impl Text {
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

struct Bounded {
    bytes: Vec<u8>,
    room: Room,
}

impl Drop for Bounded {
    fn drop(&mut self) {
        self.room.0.bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

fn respond(text: Text, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(Bytes::from_owner(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl Rendered {
    /// It is answered even where there is no room.
    pub fn always(self) -> Self {
        Self { always: true, ..self }
    }

    /// The text in the encoding that these headers accept, rendered again if the last one is too old.
    pub fn answer(
        &self,
        request: &HeaderMap,
        content_type: &'static str,
        render: impl FnOnce() -> Vec<u8>,
    ) -> Response {
        let zipped = accepts_gzip(request);
        let Some(text) = self.current(Instant::now(), zipped, render) else { return no_room() };
        let mut response = respond(text, content_type);
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// `None`: there is no room, and no older version.
    fn current(&self, now: Instant, zipped: bool, render: impl FnOnce() -> Vec<u8>) -> Option<Text> {
        // Before this text is locked, so that an old version of its own goes, too.
        let full = self.room.is_full(now);
        let mut versions = lock(&self.versions);
        let version = versions.current(now, full, self.always, || self.room.hold(render()))?;
        if !zipped {
            return Some(version.plain.clone());
        }
        let zip = || self.room.hold(gzip(version.plain.as_ref()));
        Some(version.gzip.get_or_insert_with(zip).clone())
    }
}

impl Versions {
    fn current(
        &mut self,
        now: Instant,
        full: bool,
        always: bool,
        render: impl FnOnce() -> Text,
    ) -> Option<&mut Version> {
        self.older.retain(|older| older.strong_count() > 0);
        let fresh = |version: &Version| now.duration_since(version.made) < self.fresh;
        let replaced = self.newest.take_if(|newest| !full && !fresh(newest) && self.older.len() < OLDER);
        if let Some(replaced) = replaced {
            let held = |text: Text| text.is_held().then(|| Arc::downgrade(&text.0));
            self.older.extend(held(replaced.plain));
            self.older.extend(replaced.gzip.and_then(held));
        }
        if self.newest.is_none() && (!full || always) {
            self.newest = Some(Version { made: now, plain: render(), gzip: None });
        }
        self.newest.as_mut()
    }
}

/// `gzip` or `*`, unless with a weight of zero (RFC 9110, 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let fields = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        named && weight != Some(0.0)
    })
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::Read};

    use super::*;

    #[test]
    fn who_accepts_gzip() {
        let table = [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("GZIP", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn a_text_is_rendered_once_a_second_and_few_versions_are_held() {
        let (rendered, made, mut now) = (Room::default().text(FRESH), Cell::new(0), Instant::now());
        let ask = |now, zipped| {
            let render = || {
                made.set(made.get() + 1);
                made.get().to_string().into_bytes()
            };
            rendered.current(now, zipped, render).unwrap()
        };
        let mut slow = Vec::new();
        for _ in 0..10 {
            slow.push(ask(now, false));
        }
        assert_eq!(made.get(), 1);
        for _ in 0..10 {
            now += FRESH;
            slow.push(ask(now, false));
        }
        assert_eq!(made.get(), 1 + OLDER, "two older ones are held, and the newest is sent to all");
        slow.clear();
        now += FRESH;
        assert_eq!(ask(now, false).as_ref(), made.get().to_string().as_bytes());
        assert_eq!(made.get(), 2 + OLDER);

        let mut text = String::new();
        flate2::read::GzDecoder::new(ask(now, true).as_ref()).read_to_string(&mut text).unwrap();
        assert_eq!(text, made.get().to_string());
    }

    #[test]
    fn readers_that_take_nothing_hold_no_more_than_there_is_room_for_and_a_scrape_gets_through() {
        const SIZE: usize = 1000;
        let (room, mut now) = (Room::of(10 * SIZE), Instant::now());
        let texts: Vec<Rendered> = (0..14).map(|_| room.text(FRESH)).collect();
        let scraped = room.text(FRESH).always();
        let render = || vec![b'x'; SIZE];
        let bytes = || room.0.bytes.load(Ordering::Relaxed);
        let mut slow = Vec::new();
        for _ in 0..5 {
            slow.extend(texts.iter().filter_map(|text| text.current(now, false, render)));
            assert!(scraped.current(now, false, render).is_some());
            now += FRESH;
        }
        assert!(bytes() <= 11 * SIZE, "{}", bytes());
        let refused = room.answer("text/plain", render);
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        drop(slow);
        assert!(!room.is_full(now), "what is neither fresh nor being sent is let go");
        let answers: Vec<Response> = (0..20).map(|_| room.answer("text/plain", render)).collect();
        let answered = answers.iter().filter(|answer| answer.status() == StatusCode::OK).count();
        assert!((9..=10).contains(&answered), "{answered}");
        drop(answers);
        // What was not asked for again is not kept.
        assert!(!room.is_full(now + FRESH));
        assert_eq!(bytes(), 0);
    }
}
