//! How the API server is reached: a client of it, and what the time is there.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap,
    header::{DATE, HeaderValue, USER_AGENT},
};
use kube::{
    Client,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{sync::mpsc, time::sleep};
use tower::{layer::layer_fn, util::MapResponse};

use observer_core::model::{
    event::{Event, EventKind},
    kubernetes::ApiState,
};

use crate::{
    clock, files,
    sources::kubernetes::pace::{DATES, patient},
};

/// Between tries to find the API's address and authority. Files that are not there yet come within seconds, or never.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

const CONNECT: Duration = Duration::from_secs(10);
/// A connection that says nothing for so long is dead: something between dropped it without a word. A watch is never
/// so quiet, since the API server sends a bookmark every minute.
const QUIET: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub enum CannotConnect {
    #[error("cannot use the kubeconfig {path}: {why}; containers cannot be named by their pods")]
    Kubeconfig { path: PathBuf, why: String },
    #[error(
        "cannot find the Kubernetes API: {0}; containers cannot be named by their pods; run inside a pod with a service account, or give --kubeconfig"
    )]
    InCluster(String),
}

/// A client from a kubeconfig file, or from the pod's service account. It reads a renewed authority and token by
/// itself. `clock` learns from every answer.
pub async fn client(kubeconfig: Option<&Path>, clock: ApiClock) -> Result<Client, CannotConnect> {
    let mut config = match kubeconfig {
        Some(path) => {
            let bad = |why: String| CannotConnect::Kubeconfig { path: path.to_owned(), why };
            files::open(path).map_err(|error| bad(error.to_string()))?; // the library would wait for a pipe
            let file = Kubeconfig::read_from(path).map_err(|error| bad(error.to_string()))?;
            let authority = authority(&file);
            if let Some(path) = &authority {
                files::open(path).map_err(|error| bad(format!("{}: {error}", path.display())))?;
            }
            let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| bad(error.to_string()))?;
            config.root_cert_file = authority;
            config
        }
        None => kube::Config::incluster().map_err(|error| CannotConnect::InCluster(error.to_string()))?,
    };
    // So that an operator finds these requests in the audit log.
    let agent = HeaderValue::from_static(concat!("memory-observer/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(QUIET);
    config.reset_reader_on_write = true; // counted from the request, not from when its connection was last used
    // A refusal for a while (429, 503) is an answer like others: each caller reports it, and tries again in its own
    // time, but not before the server allows it. The client's own retries are silent, and so far apart after minutes
    // that the end of it is seen late.
    config.default_retry = false;
    let builder =
        ClientBuilder::try_from(config).map_err(|error| CannotConnect::InCluster(error.to_string()))?;
    let dated = layer_fn(|inner| {
        let clock = clock.clone();
        MapResponse::new(inner, move |response: http::Response<_>| {
            clock.learn(response.headers());
            response
        })
    });
    Ok(patient(builder.with_layer(&dated).build()))
}

/// The same, until there is one; reports the reason whenever it is another one.
pub async fn connect(kubeconfig: Option<&Path>, clock: ApiClock, out: &mpsc::Sender<Event>) -> Client {
    let [mut pause, longest] = RETRY;
    let mut last = String::new();
    loop {
        match client(kubeconfig, clock.clone()).await {
            Ok(client) => return client,
            Err(error) if error.to_string() != last => {
                last = error.to_string();
                let away = EventKind::Api(ApiState::Away { why: last.clone() });
                let _ = out.send(Event { at: clock::now(), what: away }).await; // stopping already
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// The file of the authority of the cluster that is used, if it is a file.
fn authority(file: &Kubeconfig) -> Option<PathBuf> {
    let current = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|context| context.name == *current)?.context.as_ref()?;
    let cluster = file.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    // Inline data take precedence (kubernetes: client-go clientcmd).
    let file =
        cluster.certificate_authority.as_ref().filter(|_| cluster.certificate_authority_data.is_none());
    file.map(PathBuf::from)
}

/// How far the API server's clock is ahead of this host's, from the `Date` of its answers.
#[derive(Clone, Debug, Default)]
pub struct ApiClock(Arc<Mutex<Ahead>>);

/// It lies between these, in seconds.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    least: f64,
    most: f64,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { least: f64::NEG_INFINITY, most: f64::INFINITY }
    }
}

impl ApiClock {
    fn learn(&self, headers: &HeaderMap) {
        let text = headers.get(DATE).and_then(|value| value.to_str().ok());
        if let Some(date) = text.and_then(|text| DATES.parse_timestamp(text).ok()) {
            self.update(|ahead| ahead.narrowed(date.as_second() as f64, clock::unix_seconds()));
        }
    }

    fn update(&self, change: impl FnOnce(Ahead) -> Ahead) {
        let mut ahead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *ahead = change(*ahead);
    }

    /// What is certain of it, in seconds: 0 where both clocks may be the same.
    pub fn ahead_seconds(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).certain()
    }

    /// Now, as the API server has it.
    pub fn unix_seconds(&self) -> f64 {
        clock::unix_seconds() + self.ahead_seconds()
    }
}

impl Ahead {
    /// A date is a whole second, cut off, and has been on its way for up to [`Self::WAY`].
    fn narrowed(self, date: f64, now: f64) -> Self {
        let (least, most) = (date - now, date + 1.0 + Self::WAY - now);
        let both = Self { least: self.least.max(least), most: self.most.min(most) };
        // A clock was set: what was known before is not so any more.
        if both.least <= both.most { both } else { Self { least, most } }
    }

    /// Most answers take milliseconds; those that take longer make it less exact, never wrong by more than this.
    const WAY: f64 = 1.0;

    fn certain(self) -> f64 {
        0.0_f64.clamp(self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(answers: &[(f64, f64)]) -> f64 {
        let ahead = answers.iter().fold(Ahead::default(), |ahead, (date, now)| ahead.narrowed(*date, *now));
        ahead.certain()
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_a_pipe_is_refused() {
        let pipe = files::pipe("kubeconfig");
        let error = client(Some(&pipe), ApiClock::default()).await.map(drop).unwrap_err();
        std::fs::remove_file(pipe).unwrap();
        assert!(error.to_string().contains("it is not a file"), "{error}");
    }

    #[test]
    fn clocks_that_may_be_the_same_are() {
        assert_eq!(after(&[]), 0.0);
        assert_eq!(after(&[(100.0, 100.0), (100.0, 100.9), (101.0, 101.999), (107.0, 108.5)]), 0.0);
    }

    #[test]
    fn a_clock_that_is_off_is_known_within_two_seconds_and_better_with_each_answer() {
        // Ahead by 30.5 s: what is certain comes nearer.
        let one = after(&[(130.0, 100.0)]);
        let more = after(&[(130.0, 100.0), (131.0, 100.5), (140.0, 110.4)]);
        assert_eq!((one, more), (30.0, 30.5));
        assert_eq!(after(&[(40.0, 100.0), (41.0, 101.5)]), -58.5);
    }

    #[test]
    fn a_clock_that_was_set_is_learned_anew() {
        assert_eq!(after(&[(130.0, 100.0), (200.0, 200.2)]), 0.0);
    }
}
