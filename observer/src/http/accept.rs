//! The accept loop. Each connection carries one request and has an end; their number is bounded.
//!
//! When all connections are taken, a new one is not kept waiting: it takes the place of another. That one belongs to
//! the peer that holds most of them, has not sent its request yet if there is such a one, and is the oldest. So a
//! client that holds all connections evicts its own, and `/healthz` and a scrape always get through. A semaphore would
//! let it shut out everybody until its time is up; reserved slots would have to know who asks before the request, or
//! the TLS handshake, is read; a share per peer alone would not help where client and scraper have one address (a
//! node's own, or a proxy's).

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, http::StatusCode, response::IntoResponse};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::http::tls::Certificate;

/// From the accept to the end of the TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// From there to the end of the request's head.
pub const HEAD: Duration = Duration::from_secs(5);
/// From the accept to the last byte of the answer. Above Prometheus' default scrape_timeout of 10 s.
pub const WHOLE: Duration = Duration::from_secs(15);
/// Requests under way when it stops are waited for this long.
pub const GRACE: Duration = Duration::from_secs(3);
const HEADER_FIELDS: usize = 64;
/// After an accept for which there was no descriptor or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What clients may hold at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Handshakes and unfinished requests included.
    pub connections: usize,
    /// Of a request's line and header fields together.
    pub head_bytes: usize,
    /// Whether a request may have a body; its size is the router's to limit.
    pub bodies: bool,
}

impl Limits {
    pub const AGENT: Self = Self { connections: 64, head_bytes: 16 << 10, bodies: false };
    /// Asked by every agent of the cluster; a question names up to 512 uids.
    pub const LEDGER: Self = Self { connections: 512, head_bytes: 32 << 10, bodies: false };
    /// Asked by the API servers, of which there are a few: one question for each pod that is created.
    pub const LENDER: Self = Self { connections: 256, head_bytes: 16 << 10, bodies: true };

    /// Never more than half of the descriptors of the process: the rest are for reading the host.
    pub fn below(self, descriptors: u64) -> Self {
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX).max(1);
        Self { connections: self.connections.min(half), ..self }
    }
}

/// Serves until `stop` resolves; requests under way then are finished.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    tls: Option<Certificate>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let mut open = Connections::new(limits.connections);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    open.make_room().await;
                    let answering = Arc::new(AtomicBool::new(false));
                    let (router, tls, mark) = (router.clone(), tls.clone(), answering.clone());
                    open.add(peer, answering, connection(stream, tls, limits, router, mark));
                }
                // Of the connection that was to be accepted, not of the listener.
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}; the oldest is closed, if there is one");
                    open.evict().await;
                    sleep(PAUSE).await;
                }
            },
            Some(ended) = open.tasks.join_next_with_id() => { open.forget(&ended); }
        }
    }
    drop(listener);
    open.finish().await;
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}

async fn connection(
    stream: TcpStream,
    tls: Option<Certificate>,
    limits: Limits,
    router: Router,
    answering: Arc<AtomicBool>,
) {
    let whole = async {
        match tls {
            None => exchange(stream, limits, router, answering).await,
            Some(certificate) => {
                let handshake = timeout(HANDSHAKE, certificate.acceptor().accept(stream)).await;
                if let Ok(Ok(stream)) = handshake {
                    exchange(stream, limits, router, answering).await;
                }
            }
        }
    };
    let _ = timeout(WHOLE, whole).await; // closed either way
}

/// One request and its answer.
pub async fn exchange<S>(stream: S, limits: Limits, router: Router, answering: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        answering.store(true, Ordering::Relaxed);
        answer(router.clone(), limits.bodies, request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(limits.head_bytes)
        .max_headers(HEADER_FIELDS)
        .keep_alive(false)
        // Who has sent the request and closed that direction (nc -N) waits for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(
    router: Router,
    bodies: bool,
    request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    if !bodies && !request.body().is_end_stream() {
        return Ok((StatusCode::PAYLOAD_TOO_LARGE, "a request here has no body\n").into_response());
    }
    router.oneshot(request.map(Body::new)).await
}

/// The open connections, one task each.
struct Connections {
    limit: usize,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
    accepted: u64,
}

struct Open {
    peer: IpAddr,
    /// How many were accepted before it.
    age: u64,
    /// Its request is read.
    answering: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Connections {
    fn new(limit: usize) -> Self {
        Self { limit, tasks: JoinSet::new(), open: HashMap::new(), accepted: 0 }
    }

    fn add(
        &mut self,
        peer: SocketAddr,
        answering: Arc<AtomicBool>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        self.accepted += 1;
        let task = self.tasks.spawn(connection);
        let open = Open { peer: peer.ip().to_canonical(), age: self.accepted, answering, task };
        self.open.insert(open.task.id(), open);
    }

    async fn make_room(&mut self) {
        while self.tasks.len() >= self.limit {
            self.evict().await;
        }
    }

    /// Closes one, and waits until it is closed.
    async fn evict(&mut self) {
        let Some(victim) = self.victim() else { return };
        victim.abort();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            if self.forget(&ended) == victim.id() {
                return;
            }
        }
    }

    fn victim(&self) -> Option<AbortHandle> {
        let mut of_peer: HashMap<IpAddr, usize> = HashMap::new();
        for open in self.open.values() {
            *of_peer.entry(open.peer).or_default() += 1;
        }
        let rank = |open: &&Open| {
            let waiting = !open.answering.load(Ordering::Relaxed);
            (of_peer.get(&open.peer).copied(), waiting, std::cmp::Reverse(open.age))
        };
        self.open.values().max_by_key(rank).map(|open| open.task.clone())
    }

    fn forget(&mut self, ended: &Result<(Id, ()), JoinError>) -> Id {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.open.remove(&id);
        id
    }

    /// Ends those without a request, and waits for the others.
    async fn finish(mut self) {
        for open in self.open.values().filter(|open| !open.answering.load(Ordering::Relaxed)) {
            open.task.abort();
        }
        let _ = timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net, thread,
    };

    use axum::{body::Bytes, routing::get};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer};

    use super::*;
    use crate::http::tls::Pair;

    const LIMITS: Limits = Limits { connections: 4, head_bytes: 16 << 10, bodies: false };
    /// More than the sockets between the two ends hold.
    const LARGE: usize = 16 << 20;
    const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// On a thread that ends with the test's process.
    fn start(pair: Option<Pair>) -> SocketAddr {
        let (address, bound) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let tls = match pair {
                    Some(pair) => Some(pair.load().await.unwrap()),
                    None => None,
                };
                let large = Bytes::from(vec![b'x'; LARGE]);
                let router = Router::new()
                    .route("/healthz", get(async || "ok\n"))
                    .route("/large", get(async move || large.clone()));
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, LIMITS, tls, router, std::future::pending()).await;
            });
        });
        bound.recv().unwrap()
    }

    fn hold(address: SocketAddr, sent: &[u8]) -> Vec<net::TcpStream> {
        let held = std::iter::repeat_with(|| {
            let mut stream = net::TcpStream::connect(address).unwrap();
            let _ = stream.write_all(sent); // one that was closed already is held all the same
            stream
        });
        held.take(3 * LIMITS.connections).collect()
    }

    fn exchange(mut stream: impl Read + Write, request: &[u8]) -> String {
        let _ = stream.write_all(request); // refused before it is all sent
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // closed with a reset, or without TLS' goodbye
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        exchange(net::TcpStream::connect(address).unwrap(), request)
    }

    #[test]
    fn whoever_holds_all_connections_shuts_out_no_other() {
        let address = start(None);
        let unfinished = &b"GET / HTTP/1.1\r\nX: "[..];
        let never_read = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for sent in [b"", unfinished, never_read] {
            let _held = hold(address, sent);
            for _ in 0..3 {
                assert!(ask(address, HEALTH).starts_with("HTTP/1.1 200"));
            }
        }
    }

    #[test]
    fn who_has_sent_all_of_the_request_is_answered() {
        let address = start(None);
        for (request, expected) in [(HEALTH, "HTTP/1.1 200"), (&HEALTH[..HEALTH.len() - 2], "")] {
            let mut stream = net::TcpStream::connect(address).unwrap();
            stream.write_all(request).unwrap();
            stream.shutdown(net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer); // a reset is an end, too
            assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer:?}");
        }
    }

    #[test]
    fn nor_by_tls() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let directory = std::env::temp_dir().join(format!("observer-accept-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let pair = Pair { cert: directory.join("cert"), key: directory.join("key") };
        std::fs::write(&pair.cert, made.cert.pem()).unwrap();
        std::fs::write(&pair.key, made.signing_key.serialize_pem()).unwrap();
        let address = start(Some(pair));
        std::fs::remove_dir_all(directory).unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let client = Arc::new(client);
        for sent in [&b""[..], b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n"] {
            let _held = hold(address, sent);
            let session = ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
            let stream = StreamOwned::new(session, net::TcpStream::connect(address).unwrap());
            assert!(exchange(stream, HEALTH).starts_with("HTTP/1.1 200"));
        }
    }

    #[test]
    fn a_request_is_small_and_the_only_one() {
        let address = start(None);
        let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(LIMITS.head_bytes));
        let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(HEADER_FIELDS + 1));
        let table = [
            (HEALTH.repeat(2), "HTTP/1.1 200"),
            (long.into_bytes(), "HTTP/1.1 431"),
            (many.into_bytes(), "HTTP/1.1 431"),
            (b"GET /healthz HTTP/1.1\r\nContent-Length: 1\r\n\r\nx".to_vec(), "HTTP/1.1 413"),
            (b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), "HTTP/1.1 413"),
        ];
        for (request, expected) in table {
            let answer = ask(address, &request);
            assert!(answer.starts_with(expected), "{answer:?}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:?}");
        }
    }
}
