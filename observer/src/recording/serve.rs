//! `observer replay FILE --serve ADDRESS`: a recording behind the same page and API as the daemon's.

use std::{
    io::BufRead,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use tokio::{net::TcpListener, sync::oneshot};

use super::{
    pace::{Pace, Tempo},
    replay::{BadRecording, Replayed, replay_into},
};
use crate::{
    http::{
        accept::Limits,
        server::{self, Protection},
        shared::Shared,
    },
    sinks::{api_state::NodeState, metrics::Metrics},
};

#[derive(Debug, thiserror::Error)]
pub enum CannotServe {
    #[error("{path}: {source}")]
    Recording { path: String, source: BadRecording },
    #[error(transparent)]
    Listen(#[from] server::CannotListen),
}

/// Until Ctrl-C. Without a speed the whole recording is read before anything is answered.
pub async fn serve(
    recording: impl BufRead + Send + 'static,
    path: &Path,
    address: SocketAddr,
    speed: Option<f64>,
) -> Result<(), CannotServe> {
    let listener = server::bind(address).await?;
    let metrics = Metrics::default();
    let state = Arc::new(Mutex::new(NodeState::of_recording(super::name_of(path))));
    let shared = Shared { metrics: metrics.clone(), state, stalled: Arc::default() };
    let address = listener.local_addr().unwrap_or(address);

    let (done, mut played) = oneshot::channel();
    let player = shared.clone();
    // A thread of its own: reading and waiting must not hold up what is served.
    thread::spawn(move || {
        let mut pace = Pace::new(speed.map(|speed| Arc::new(Tempo::new(speed))));
        let replayed =
            replay_into(&metrics, recording, |at| pace.wait(at), |finding| player.state().apply(finding));
        player.state().moment(); // what came after the last second of the node
        let _ = done.send(replayed); // whoever waited for it has stopped
    });
    let bad = |source| CannotServe::Recording { path: path.display().to_string(), source };
    if speed.is_none() {
        report(path, (&mut played).await, bad)?;
        tracing::info!("serving {} at http://{address}/; stop with Ctrl-C", path.display());
        serving(listener, shared).await;
        return Ok(());
    }
    tracing::info!("playing {} at http://{address}/; stop with Ctrl-C", path.display());
    let mut serving = std::pin::pin!(serving(listener, shared));
    tokio::select! {
        () = &mut serving => Ok(()),
        replayed = &mut played => {
            report(path, replayed, bad)?;
            serving.await;
            Ok(())
        }
    }
}

fn report(
    path: &Path,
    replayed: Result<Result<Replayed, BadRecording>, oneshot::error::RecvError>,
    bad: impl FnOnce(BadRecording) -> CannotServe,
) -> Result<(), CannotServe> {
    let Ok(replayed) = replayed else { return Ok(()) }; // its thread panicked and said so
    let replayed = replayed.map_err(bad)?;
    if replayed.cut {
        tracing::warn!(
            "{}: the last line is cut, the recorder was killed; {} events before it are shown",
            path.display(),
            replayed.events
        );
    }
    Ok(())
}

async fn serving(listener: TcpListener, shared: Shared) {
    server::serve(listener, Limits::AGENT, shared, Protection::default(), interrupted()).await;
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await; // it cannot be waited for: serve until killed
    }
}
