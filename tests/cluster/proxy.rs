//! A network between an agent and the API server that fails as networks do: TLS passes through, bytes may not.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use observer_tests::mock_api::reset_on_close;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Network {
    Works,
    /// Connections end, new ones too.
    Cut,
    /// Each connection carries a few kilobytes and is reset then.
    Resets,
    /// Everything arrives in small pieces, each late.
    Slow,
    /// Nothing arrives and nothing ends, as behind a firewall that forgot its connections; they stay dead.
    Dead,
}

const ALL: [Network; 5] = [Network::Works, Network::Cut, Network::Resets, Network::Slow, Network::Dead];
/// Enough for a TLS handshake, too little for a list.
const BEFORE_RESET: usize = 6 << 10;
const PIECE: usize = 4 << 10;
const LATE: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(50);

/// Ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    network: AtomicU8,
    ended: AtomicBool,
}

impl State {
    fn network(&self) -> Network {
        ALL[usize::from(self.network.load(Ordering::Relaxed)) % ALL.len()]
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the proxy")?;
        listener.set_nonblocking(true)?;
        let state = Arc::new(State { network: AtomicU8::new(0), ended: AtomicBool::new(false) });
        let proxy = Self { address: listener.local_addr()?, state: Arc::clone(&state) };
        thread::spawn(move || {
            while !state.ended() {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(LOOK);
                    continue;
                };
                let state = Arc::clone(&state);
                thread::spawn(move || carry(client, server, &state));
            }
        });
        Ok(proxy)
    }

    pub fn set(&self, network: Network) {
        let index = ALL.iter().position(|one| *one == network).unwrap_or_default();
        self.state.network.store(u8::try_from(index).unwrap_or_default(), Ordering::Relaxed);
    }

    /// The same kubeconfig, by way of this.
    pub fn kubeconfig(&self, direct: &Path) -> Result<PathBuf> {
        let text = std::fs::read_to_string(direct)?;
        let (_, rest) = text.split_once("server: \"https://").context("a kubeconfig without a server")?;
        let (server, _) = rest.split_once('"').context("a kubeconfig without a server")?;
        let there = format!("server: \"https://{server}\"");
        let here = format!("server: \"https://{}\", tls-server-name: {server}", self.address);
        let path = direct.with_extension("by-proxy");
        ensure!(text.matches(&there).count() == 1, "not one server in {}", direct.display());
        std::fs::write(&path, text.replace(&there, &here))?;
        Ok(path)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

fn carry(client: TcpStream, server: SocketAddr, state: &State) {
    if state.network() == Network::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(server) else { return };
    let [dead, reset] = [false, false].map(AtomicBool::new);
    thread::scope(|scope| {
        scope.spawn(|| pump(&client, &server, state, [&dead, &reset]));
        pump(&server, &client, state, [&dead, &reset]);
    });
}

/// One direction, until either end is gone or the network fails.
fn pump(from: &TcpStream, to: &TcpStream, state: &State, [dead, reset]: [&AtomicBool; 2]) {
    let mut piece = [0; PIECE];
    let mut carried = 0;
    let _ = from.set_read_timeout(Some(LOOK)); // without it the end is seen late
    while !state.ended() {
        match state.network() {
            Network::Cut => break,
            Network::Resets if carried >= BEFORE_RESET || reset.load(Ordering::Relaxed) => {
                reset_on_close(from);
                reset_on_close(to);
                reset.store(true, Ordering::Relaxed);
                return; // a shutdown would be a proper end
            }
            Network::Dead => dead.store(true, Ordering::Relaxed),
            Network::Slow => thread::sleep(LATE),
            Network::Works | Network::Resets => {}
        }
        if dead.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            continue;
        }
        match (&mut &*from).read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) if (&mut &*to).write_all(&piece[..bytes]).is_ok() => carried += bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both); // the other direction ends by it
    let _ = to.shutdown(Shutdown::Both);
}
