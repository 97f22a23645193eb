//! A port of this machine that leads to an agent, for what asks by address: what `kubectl port-forward` does.
//!
//! Whoever may open connections on this machine may use it while it is open, as with kubectl; an agent that wants a
//! token wants it here too.

use std::{net::SocketAddr, sync::Arc};

use kube::Client;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
};

use super::{
    Connected,
    agent::{self, Agent, Stream, Trust},
};
use observer_core::model::printable::printable;

/// Connections at once: a stream, and questions beside it.
const CONNECTIONS: usize = 8;

struct Tunnel {
    client: Client,
    trust: Trust,
    namespace: String,
    node: String,
    /// Another pod takes its place when it is replaced.
    agent: Mutex<Agent>,
    room: Arc<Semaphore>,
}

/// Open until the runtime ends.
pub async fn open(cluster: &Connected, agent: Agent) -> Result<SocketAddr, String> {
    let cannot = |error: std::io::Error| format!("cannot open a port of this machine: {error}");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let tunnel = Arc::new(Tunnel {
        client: cluster.client.clone(),
        trust: cluster.trust.clone(),
        namespace: cluster.namespace.clone(),
        node: agent.node.clone(),
        agent: Mutex::new(agent),
        room: Arc::new(Semaphore::new(CONNECTIONS)),
    });
    tokio::spawn(async move {
        loop {
            let Ok(room) = Arc::clone(&tunnel.room).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { return };
            let tunnel = Arc::clone(&tunnel);
            tokio::spawn(async move {
                tunnel.carry(stream).await;
                drop(room);
            });
        }
    });
    Ok(address)
}

impl Tunnel {
    async fn carry(&self, mut here: TcpStream) {
        match self.reach().await {
            Ok(mut there) => drop(copy_bidirectional(&mut here, &mut there).await),
            // Said in the words of the protocol, so that it is shown.
            Err(error) => {
                let text = printable(&error);
                let answer = format!(
                    "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                );
                drop(here.write_all(answer.as_bytes()).await);
            }
        }
    }

    async fn reach(&self) -> Result<Box<dyn Stream>, String> {
        let mut agent = self.agent.lock().await;
        let error = match agent.open(&self.client, &self.trust).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let all = agent::list(&self.client, &self.namespace).await?;
        match all.into_iter().find(|one| one.node == self.node && one.away().is_none()) {
            Some(next) if next.pod != agent.pod => *agent = next,
            _ => return Err(error),
        }
        agent.open(&self.client, &self.trust).await
    }
}
