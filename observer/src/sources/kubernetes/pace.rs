//! When a request is repeated: never before the server allows it, and soon after it works again.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{DATE, HeaderValue, RETRY_AFTER},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use kube::{
    Client,
    client::Body,
    runtime::{utils::Backoff, watcher::DefaultBackoff},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tower::service_fn;

/// A server that asks for more is asked again after this. A proxy under maintenance may ask for hours, and then the API
/// would be back long before anyone looks.
const LONGEST: Duration = Duration::from_secs(120);
/// Paths of which a time is kept; further ones are repeated in their caller's time.
const PATHS: usize = 256;
/// A watch that stood for so long worked: the next failure is a new one.
const STOOD: Duration = Duration::from_secs(5);

/// RFC 9110's fixed form of a date is one of RFC 5322.
pub static DATES: DateTimeParser = DateTimeParser::new();

/// This client, which waits before a request to a path whose last answer was 429 or 503 with Retry-After until that
/// time is over.
pub fn patient(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let waits = Waits::default();
    let service = service_fn(move |request: Request<Body>| {
        let (client, waits) = (client.clone(), waits.clone());
        let path = request.uri().path().to_owned();
        async move {
            if let Some(until) = waits.until(&path) {
                sleep_until(until).await;
            }
            let response = client.send(request).await?;
            if let Some(wait) = wait_asked(&response) {
                waits.add(path, wait);
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, namespace)
}

/// By path, until when no request is sent.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<HashMap<String, Instant>>>);

impl Waits {
    fn until(&self, path: &str) -> Option<Instant> {
        lock(&self.0).get(path).copied()
    }

    fn add(&self, path: String, wait: Duration) {
        let now = Instant::now();
        let mut waits = lock(&self.0);
        waits.retain(|_, until| *until > now);
        if waits.len() < PATHS {
            // Up to a quarter more, so that the agents of a cluster do not all come back at once.
            let share = (RandomState::new().hash_one(&path) % 256) as f64 / 1024.0;
            waits.insert(path, now + wait.mul_f64(1.0 + share));
        }
    }
}

/// A panic while it is held leaves a value that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the server asks to be left alone.
fn wait_asked<B>(response: &Response<B>) -> Option<Duration> {
    let refused =
        matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let wait = refused.then(|| retry_after(response.headers())).flatten()?;
    (!wait.is_zero()).then_some(wait.min(LONGEST))
}

/// Seconds, or a date (RFC 9110, 10.2.3), which is compared with the server's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| DATES.parse_timestamp(text).ok();
    let now = headers.get(DATE).map(HeaderValue::to_str).and_then(|text| date(text.ok()?));
    let wait = date(value)?.duration_since(now.unwrap_or_else(Timestamp::now));
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// What one watch has to do with the API server.
pub struct Watched {
    /// For this watch alone.
    pub client: Client,
    /// How often the API server took the watch up. A `watcher` that goes on where it was reports nothing until an
    /// object changes, which on a quiet node is hours later.
    pub taken_up: watch::Receiver<u64>,
    /// Between two tries.
    pub pace: Pace,
}

/// See [`Watched`].
pub fn watched(client: Client) -> Watched {
    let (times, taken_up) = watch::channel(0);
    let (times, seen) = (Arc::new(times), Arc::new(Mutex::new(Seen::default())));
    let namespace = client.default_namespace().to_owned();
    let pace = Pace { backoff: DefaultBackoff::default(), seen: seen.clone() };
    let service = service_fn(move |request: Request<Body>| {
        let (client, times, seen) = (client.clone(), times.clone(), seen.clone());
        let watches =
            request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        async move {
            let response = client.send(request).await?;
            if watches && response.status().is_success() {
                lock(&seen).taken_up = Some(Instant::now());
                times.send_modify(|times| *times += 1);
            }
            lock(&seen).asked_to_wait = wait_asked(&response).is_some();
            Ok::<_, kube::Error>(response)
        }
    });
    Watched { client: Client::new(service, namespace), taken_up, pace }
}

/// What the API server answered since the last failure.
#[derive(Default)]
struct Seen {
    taken_up: Option<Instant>,
    /// The last answer was a refusal for a time that it gave.
    asked_to_wait: bool,
}

/// Intervals that grow from half a second to half a minute. They begin anew after a watch that worked, also one on
/// which no object came: `watcher` knows of objects only, and resets its backoff before each list, even if all of them
/// fail. Where the server says how long to wait it sets the pace: [`patient`] waits, and nothing is added here.
pub struct Pace {
    backoff: DefaultBackoff,
    seen: Arc<Mutex<Seen>>,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seen = std::mem::take(&mut *lock(&self.seen));
        let stood = seen.taken_up.is_some_and(|since| since.elapsed() >= STOOD);
        if stood || seen.asked_to_wait {
            self.backoff.reset();
        }
        // With its jitter, which is up to as much again, no longer than it is meant to be.
        self.backoff.next().map(|pause| pause / 2)
    }
}

impl Backoff for Pace {
    /// Not for what `watcher` takes for success.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        runtime::{WatchStreamExt, watcher},
    };
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let response = |status: u16, fields: &[(&str, &str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            wait_asked(&response.body(()).unwrap()).map(|wait| wait.as_secs())
        };
        let date = ("date", "Fri, 27 Nov 2026 12:00:00 GMT");
        for (status, fields, expected) in [
            (429, &[("retry-after", "7")][..], Some(7)),
            (503, &[("retry-after", " 1 ")], Some(1)),
            (503, &[date, ("retry-after", "Fri, 27 Nov 2026 12:00:09 GMT")], Some(9)),
            (503, &[date, ("retry-after", "Fri, 27 Nov 2026 11:00:00 GMT")], None),
            (503, &[("retry-after", "86400")], Some(LONGEST.as_secs())),
            (503, &[("retry-after", "18446744073709551615")], Some(LONGEST.as_secs())),
            (429, &[("retry-after", "0")], None),
            (429, &[("retry-after", "-1")], None),
            (429, &[("retry-after", "soon")], None),
            (429, &[], None),
            (200, &[("retry-after", "7")], None),
            (500, &[("retry-after", "7")], None),
        ] {
            assert_eq!(response(status, fields), expected, "{status} {fields:?}");
        }
    }

    /// What a server answers to one request.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Answer {
        TooMany,
        Unavailable,
        List,
        /// A watch that is open for ever.
        Watch,
    }

    const WAIT: Duration = Duration::from_secs(1);

    /// Answers by these, in turn, the last one for ever; sends when each request came.
    fn server(answers: &'static [Answer]) -> (Client, std::sync::mpsc::Receiver<Instant>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (came, at) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut open = Vec::new();
            for (stream, answer) in
                listener.incoming().zip(answers.iter().chain(answers.last().iter().copied().cycle()))
            {
                let Ok(mut stream) = stream else { return };
                let head =
                    BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                if head.count() == 0 || came.send(Instant::now()).is_err() {
                    return;
                }
                let mut refuse = |status: &str| {
                    let head = format!(
                        "HTTP/1.1 {status}\r\nRetry-After: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                        WAIT.as_secs()
                    );
                    stream.write_all(head.as_bytes())
                };
                let _ = match answer {
                    Answer::TooMany => refuse("429 Too Many Requests"),
                    Answer::Unavailable => refuse("503 Service Unavailable"),
                    Answer::List => {
                        let body = r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}"#;
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ";
                        stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())
                    }
                    Answer::Watch => {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
                    }
                };
                if *answer == Answer::Watch {
                    open.push(stream);
                }
            }
        });
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_retry = false;
        (Client::try_from(config).unwrap(), at)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn nothing_is_sent_before_the_time_that_the_server_gave() {
        use Answer::{List, TooMany, Unavailable, Watch};
        run(async {
            let (client, came) = server(&[TooMany, Unavailable, List, TooMany, Watch]);
            let Watched { client, mut taken_up, pace } = watched(patient(client));
            let mut stream =
                watcher(Api::<ConfigMap>::all(client), watcher::Config::default()).backoff(pace).boxed();
            let stands = async {
                loop {
                    tokio::select! {
                        _ = stream.next() => {}
                        Ok(()) = taken_up.changed() => return,
                    }
                }
            };
            timeout(Duration::from_secs(60), stands).await.unwrap();
            let came: Vec<Instant> = came.try_iter().collect();
            assert_eq!(came.len(), 5, "one request for each answer");
            for refused in [0, 1, 3] {
                let pause = came[refused + 1] - came[refused];
                assert!(pause >= WAIT, "{pause:?} after the answer {refused}");
            }
        });
    }

    #[test]
    fn one_path_that_is_refused_holds_up_no_other() {
        run(async {
            let (client, _came) = server(&[Answer::TooMany, Answer::List]);
            let client = patient(client);
            let refused = Api::<ConfigMap>::namespaced(client.clone(), "one").list(&Default::default()).await;
            assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 429), "{refused:?}");
            let before = Instant::now();
            Api::<ConfigMap>::namespaced(client.clone(), "two").list(&Default::default()).await.unwrap();
            let other = before.elapsed();
            Api::<ConfigMap>::namespaced(client, "one").list(&Default::default()).await.unwrap();
            assert!(before.elapsed() > other && before.elapsed() >= WAIT / 2);
        });
    }

    fn pace() -> (Pace, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        (Pace { backoff: DefaultBackoff::default(), seen: seen.clone() }, seen)
    }

    #[test]
    fn failures_in_a_row_are_further_and_further_apart_whatever_the_watcher_takes_for_success() {
        let (mut pace, _) = pace();
        let pauses: Vec<Duration> = (0..12)
            .map(|_| {
                pace.reset();
                pace.next().unwrap()
            })
            .collect();
        assert!(pauses[0] < Duration::from_secs(1), "{pauses:?}");
        assert!(pauses[11] >= Duration::from_secs(15), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(30)), "{pauses:?}");
    }

    #[test]
    fn a_watch_that_worked_begins_anew_though_no_object_came() {
        let (mut pace, seen) = pace();
        let soon = Duration::from_secs(1);
        let worn = |pace: &mut Pace| pace.by_ref().take(10).last().unwrap();
        let taken_up = |ago: Duration| seen.lock().unwrap().taken_up = Instant::now().checked_sub(ago);
        assert!(worn(&mut pace) > soon);
        taken_up(STOOD);
        assert!(pace.next().unwrap() < soon, "it stood");
        assert!(worn(&mut pace) > soon);
        taken_up(Duration::ZERO);
        assert!(pace.next().unwrap() > soon, "it was cut at once");
        seen.lock().unwrap().asked_to_wait = true;
        assert!(pace.next().unwrap() < soon, "the server sets the pace");
    }
}
