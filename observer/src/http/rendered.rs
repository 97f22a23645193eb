//! Texts that are costly to render: made at most once a second however many ask, and shared by all who are being sent
//! one.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use flate2::{Compression, write::GzEncoder};

/// A text is not rendered again for this long.
pub const FRESH: Duration = Duration::from_secs(1);
/// Older versions that slow readers still hold. When there are as many, the newest is sent until one of them is let go,
/// which takes [`super::accept::WHOLE`] at the most.
pub const OLDER: usize = 2;

/// One text; cheap to clone.
#[derive(Clone, Default)]
pub struct Rendered(Arc<Mutex<Versions>>);

struct Versions {
    fresh: Duration,
    newest: Option<Version>,
    older: Vec<Weak<Vec<u8>>>,
}

impl Default for Versions {
    fn default() -> Self {
        Self { fresh: FRESH, newest: None, older: Vec::new() }
    }
}

struct Version {
    made: Instant,
    plain: Text,
    /// Made when the first asks for it.
    gzip: Option<Text>,
}

/// Shared by all it is being sent to.
#[derive(Clone)]
struct Text(Arc<Vec<u8>>);

impl From<Vec<u8>> for Text {
    fn from(text: Vec<u8>) -> Self {
        Self(Arc::new(text))
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Rendered {
    /// Rendered again after another time than [`FRESH`].
    pub fn fresh_for(fresh: Duration) -> Self {
        Self(Arc::new(Mutex::new(Versions { fresh, ..Versions::default() })))
    }

    /// The text in the encoding that these headers accept, rendered again if the last one is too old.
    pub fn answer(
        &self,
        request: &HeaderMap,
        content_type: &'static str,
        render: impl FnOnce() -> Vec<u8>,
    ) -> Response {
        let zipped = accepts_gzip(request);
        let bytes = self.current(Instant::now(), zipped, render);
        let mut response = Response::new(Body::from(Bytes::from_owner(bytes)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    fn current(&self, now: Instant, zipped: bool, render: impl FnOnce() -> Vec<u8>) -> Text {
        // A panic while it is held leaves a text that is rendered again.
        let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = versions.current(now, render);
        if !zipped {
            return version.plain.clone();
        }
        version.gzip.get_or_insert_with(|| Text::from(gzip(version.plain.as_ref()))).clone()
    }
}

impl Versions {
    fn current(&mut self, now: Instant, render: impl FnOnce() -> Vec<u8>) -> &mut Version {
        self.older.retain(|older| older.strong_count() > 0);
        let fresh = |version: &Version| now.duration_since(version.made) < self.fresh;
        let kept = self.newest.take_if(|newest| !fresh(newest) && self.older.len() < OLDER);
        if let Some(kept) = kept {
            let held = |Text(text)| (Arc::strong_count(&text) > 1).then(|| Arc::downgrade(&text));
            self.older.extend(held(kept.plain));
            self.older.extend(kept.gzip.and_then(held));
        }
        self.newest.get_or_insert_with(|| Version { made: now, plain: Text::from(render()), gzip: None })
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
        let (rendered, made, mut now) = (Rendered::default(), Cell::new(0), Instant::now());
        let ask = |now, zipped| {
            rendered.current(now, zipped, || {
                made.set(made.get() + 1);
                made.get().to_string().into_bytes()
            })
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
}
