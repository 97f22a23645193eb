//! A MOCK of the Kubernetes API: lists, watches and look-ups of the objects that it is given, over HTTP in the clear.
//! It fails as overloaded servers and proxies before them do, which a real API server does not on request. What a real
//! one does is tested on a cluster (tests/cluster).

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How it answers. A change ends the watches that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Answers {
    #[default]
    Well,
    /// 429 with Retry-After ([`RETRY_AFTER`]), as priority and fairness does.
    TooManyRequests,
    /// 503 with a page, as a proxy that has no server.
    BadGateway,
    /// 500 with a Status.
    InternalError,
    /// Each answer comes seconds late.
    Late,
    /// Half of each answer, and a reset.
    Resets,
    /// Requests are taken and not answered.
    Never,
    /// No position to watch from is known any more: 410.
    Forgets,
}

impl Answers {
    pub const FAILURES: [Self; 7] = [
        Self::TooManyRequests,
        Self::BadGateway,
        Self::InternalError,
        Self::Late,
        Self::Resets,
        Self::Never,
        Self::Forgets,
    ];
}

/// Asked of those who are refused.
const RETRY_AFTER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_secs(2);
/// As the API server does, each minute; sooner here, so that a short test has some.
const BOOKMARK: Duration = Duration::from_secs(5);
/// Changes kept for those who watch.
const CHANGES: usize = 4096;
const CONNECTIONS: usize = 256;

/// Ends when dropped.
pub struct MockApi {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    answers: Mutex<Answers>,
    /// How often that changed.
    turns: AtomicUsize,
    refused: AtomicUsize,
    /// When requests to a path were refused for a time, and those that came before it was over.
    refused_at: Mutex<BTreeMap<String, Instant>>,
    early: AtomicUsize,
    connections: AtomicUsize,
    ended: AtomicBool,
    store: Mutex<Store>,
}

/// Objects by collection (`/api/v1/pods`) and uid.
#[derive(Default)]
struct Store {
    version: u64,
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Version, collection and event of the last changes.
    changes: VecDeque<(u64, String, Value)>,
}

impl Store {
    fn change(&mut self, collection: &str, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        let event = json!({ "type": kind, "object": object });
        self.changes.push_back((self.version, collection.to_owned(), event));
        object
    }
}

impl State {
    fn answers(&self) -> Answers {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused_at(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.refused_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl MockApi {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the mock API")?;
        listener.set_nonblocking(true)?;
        let api = Self { address: listener.local_addr()?, state: Arc::default() };
        let state = Arc::clone(&api.state);
        thread::spawn(move || {
            while !state.ended() {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(LOOK);
                    continue;
                };
                if state.connections.fetch_add(1, Ordering::Relaxed) < CONNECTIONS {
                    let state = Arc::clone(&state);
                    thread::spawn(move || {
                        let _ = connection(&stream, &state); // the client's end of it is as good as any
                        state.connections.fetch_sub(1, Ordering::Relaxed);
                    });
                } else {
                    state.connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
        });
        Ok(api)
    }

    pub fn answer(&self, answers: Answers) {
        *self.state.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
        self.state.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far that were not answered well.
    pub fn refused(&self) -> usize {
        self.state.refused.load(Ordering::Relaxed)
    }

    /// Requests that came although the one to the same path before them was refused for longer. Of clients that ask one
    /// after the other: two that ask at once cannot know.
    pub fn early(&self) -> usize {
        self.state.early.load(Ordering::Relaxed)
    }

    /// Adds or changes an object of a collection, by its uid.
    pub fn put(&self, collection: &str, object: Value) {
        let mut store = self.state.store();
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let known = store.objects.get(collection).is_some_and(|objects| objects.contains_key(&uid));
        let object = store.change(collection, if known { "MODIFIED" } else { "ADDED" }, object);
        store.objects.entry(collection.to_owned()).or_default().insert(uid, object);
    }

    pub fn remove(&self, collection: &str, uid: &str) {
        let mut store = self.state.store();
        if let Some(object) = store.objects.get_mut(collection).and_then(|objects| objects.remove(uid)) {
            store.change(collection, "DELETED", object);
        }
    }

    /// How to reach it.
    pub fn kubeconfig(&self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(format!("mock-api-{}.kubeconfig", self.address.port()));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "mock",
            "clusters": [{ "name": "mock", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "mock", "user": {} }],
            "contexts": [{ "name": "mock", "context": { "cluster": "mock", "user": "mock" } }],
        });
        std::fs::write(&path, text.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for MockApi {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

/// Requests one after the other, as a client that keeps its connections sends them.
fn connection(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = request(&mut reader)? {
        let turn = state.turns.load(Ordering::Relaxed);
        let is_current = || state.turns.load(Ordering::Relaxed) == turn && !state.ended();
        let answers = state.answers();
        if answers != Answers::Well {
            state.refused.fetch_add(1, Ordering::Relaxed);
        }
        let refused = state.refused_at().remove(&request.path);
        if refused.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            state.early.fetch_add(1, Ordering::Relaxed);
        }
        match answers {
            Answers::Well => {}
            Answers::TooManyRequests => {
                let body = status(429, "TooManyRequests", "Too many requests, please try again later.");
                let head = format!("429 Too Many Requests\r\nRetry-After: {}", RETRY_AFTER.as_secs());
                state.refused_at().insert(request.path, Instant::now());
                respond(stream, &head, &body)?;
                continue;
            }
            Answers::BadGateway => {
                respond(stream, "503 Service Unavailable", "<html><h1>503: no server</h1></html>")?;
                continue;
            }
            Answers::InternalError => {
                let body = status(500, "InternalError", "etcdserver: request timed out");
                respond(stream, "500 Internal Server Error", &body)?;
                continue;
            }
            Answers::Late => thread::sleep(LATE),
            Answers::Resets => {
                let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n{\"kind\":";
                (&*stream).write_all(half.as_bytes())?;
                reset_on_close(stream);
                return Ok(());
            }
            Answers::Never => {
                while is_current() {
                    thread::sleep(LOOK);
                }
                return Ok(());
            }
            Answers::Forgets if request.watches => {
                let body = status(410, "Expired", "too old resource version");
                respond(stream, "410 Gone", &body)?;
                continue;
            }
            Answers::Forgets => {}
        }
        if request.watches {
            return watch(stream, state, &request, is_current);
        }
        let (head, body) = answer(state, &request);
        respond(stream, head, &body)?;
    }
    Ok(())
}

struct Request {
    /// Without its query.
    path: String,
    watches: bool,
    from: u64,
    body: Vec<u8>,
}

/// `None`: the client has closed it.
fn request(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field)? == 0 || field.trim().is_empty() {
            break;
        }
        if let Some((_, value)) =
            field.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let parameter = |name: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
    };
    Ok(Some(Request {
        path: path.to_owned(),
        watches: parameter("watch") == Some("true"),
        from: parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0),
        body,
    }))
}

fn respond(mut stream: &TcpStream, head: &str, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

fn status(code: u16, reason: &str, message: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "details": { "retryAfterSeconds": RETRY_AFTER.as_secs() } })
    .to_string()
}

/// A list, an object of one by its name, or a review of a token.
fn answer(state: &State, request: &Request) -> (&'static str, String) {
    if request.path.ends_with("/tokenreviews") {
        let mut review: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let audiences = review["spec"]["audiences"].clone();
        let user = json!({ "username": "system:serviceaccount:observer:observer" });
        review["status"] = json!({ "authenticated": true, "user": user, "audiences": audiences });
        return ("201 Created", review.to_string());
    }
    let store = state.store();
    if let Some((start, rest)) = request.path.split_once("/namespaces/") {
        let mut words = rest.split('/');
        if let (Some(namespace), Some(plural), Some(name)) = (words.next(), words.next(), words.next()) {
            let objects = store.objects.get(&format!("{start}/{plural}"));
            let is_it = |object: &&Value| {
                object["metadata"]["name"] == *name && object["metadata"]["namespace"] == *namespace
            };
            return match objects.into_iter().flat_map(BTreeMap::values).find(is_it) {
                Some(object) => ("200 OK", object.to_string()),
                None => ("404 Not Found", status(404, "NotFound", "it is not there")),
            };
        }
    }
    let words = request.path.matches('/').count();
    if words < 3 || (request.path.starts_with("/apis/") && words < 4) {
        return ("404 Not Found", status(404, "NotFound", "no such group")); // discovery: none is installed
    }
    let items: Vec<&Value> =
        store.objects.get(&request.path).into_iter().flat_map(BTreeMap::values).collect();
    let version = store.version.to_string();
    let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items });
    ("200 OK", list.to_string())
}

/// Changes as they come, and bookmarks.
fn watch(
    mut stream: &TcpStream,
    state: &State,
    request: &Request,
    is_current: impl Fn() -> bool,
) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let mut from = request.from;
    let mut bookmark = Instant::now() + BOOKMARK;
    while is_current() {
        let (mut lines, forgotten) = {
            let store = state.store();
            let oldest = store.changes.front().map_or(0, |(version, ..)| *version);
            let new = store.changes.iter().filter(|(version, of, _)| *version > from && *of == request.path);
            let lines: Vec<String> = new.map(|(.., event)| event.to_string() + "\n").collect();
            let forgotten = from > 0 && from + 1 < oldest;
            from = store.version;
            (lines, forgotten)
        };
        if forgotten {
            lines = vec![format!(
                "{{\"type\":\"ERROR\",\"object\":{}}}\n",
                status(410, "Expired", "too old resource version")
            )];
        } else if bookmark <= Instant::now() {
            bookmark = Instant::now() + BOOKMARK;
            let metadata = json!({ "resourceVersion": from.to_string() });
            let event = json!({ "type": "BOOKMARK", "object":
                { "kind": "Object", "apiVersion": "v1", "metadata": metadata, "spec": { "containers": [] } } });
            lines.push(event.to_string() + "\n");
        }
        for line in lines {
            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
        }
        if forgotten {
            break;
        }
        thread::sleep(LOOK);
    }
    stream.write_all(b"0\r\n\r\n")
}

/// Its close will be an RST.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the option is a `linger` of this size.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size,
        )
    };
}
