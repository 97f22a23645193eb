//! The agents as the lender's source: what workloads need to start, and what the containers lent to hold now.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use http::{Request, Uri};
use kube::Client;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{failure::one_line, http::tls};
use observer_core::{
    loan::{Earlier, Measured},
    model::{
        container::{ContainerState, Workload},
        past_startup::StartupOutcome,
    },
};

/// An agent that takes longer is asked again the next time.
const ANSWER: Duration = Duration::from_millis(900);
/// As many as `observer advise` wants before it says anything.
const STARTUPS: u64 = 3;
/// Kept above the highest need measured.
const RESERVE: f64 = 1.05;

/// How agents are reached.
#[derive(Clone, Debug)]
pub struct Access {
    pub port: u16,
    /// PEM; `None`: they serve in the clear.
    pub authority: Option<PathBuf>,
    /// The name in their certificate.
    pub name: String,
    pub token: PathBuf,
}

impl Access {
    fn client(&self, address: &str) -> Result<Client, String> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let uri: Uri =
            format!("{scheme}://{host}:{}", self.port).parse().map_err(|error| format!("{host}: {error}"))?;
        let mut config = kube::Config::new(uri);
        config.connect_timeout = Some(ANSWER);
        config.read_timeout = Some(ANSWER);
        config.default_retry = false;
        // In the clear nothing is verified; without this the client would look for the system's authorities.
        config.root_cert = Some(Vec::new());
        if let Some(authority) = &self.authority {
            let shown = authority.display();
            let pem = std::fs::read(authority).map_err(|error| format!("{shown}: {error}"))?;
            config.root_cert =
                Some(tls::certificates(&pem).ok_or_else(|| format!("{shown}: no PEM certificate"))?);
            config.root_cert_file = Some(authority.clone());
            config.tls_server_name = Some(self.name.clone());
            config.auth_info.token_file = Some(self.token.display().to_string());
        }
        Client::try_from(config).map_err(|error| format!("client: {error}"))
    }
}

/// One agent, by the address of its pod.
#[derive(Clone)]
pub struct Agent(Client);

impl Agent {
    pub fn at(address: &str, access: &Access) -> Result<Self, String> {
        access.client(address).map(Self)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        match timeout(ANSWER, self.0.request(request)).await {
            Ok(answer) => answer.map_err(|error| one_line(&error)),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        }
    }

    /// What its node has seen of each workload's start-ups.
    pub async fn needs(&self) -> Result<Vec<Seen>, String> {
        self.get("/api/v1/advice").await
    }

    pub async fn containers(&self) -> Result<Vec<Holding>, String> {
        self.get("/api/v1/containers").await
    }

    /// Earlier start-ups of the workload of this container, those that came through.
    pub async fn earlier(&self, id: &str) -> Result<Curves, String> {
        let detail: Detail = self.get(&format!("/api/v1/containers/{id}")).await?;
        let whole = detail.earlier.into_iter().filter(|startup| is_verdict(&startup.outcome));
        Ok(Curves(whole.map(|startup| (startup.peak_bytes, startup.curve)).collect()))
    }
}

/// Whether a start-up came to this, and not to its end, nor is under way.
fn is_verdict(name: &str) -> bool {
    let state = ContainerState::ALL.into_iter().find(|state| state.name() == name);
    state.and_then(StartupOutcome::reached).is_some()
}

/// Of /api/v1/advice, what is needed of it.
#[derive(Debug, Deserialize)]
pub struct Seen {
    facts: Facts,
}

#[derive(Debug, Deserialize)]
struct Facts {
    #[serde(flatten)]
    workload: Workload,
    startups: Startups,
}

#[derive(Debug, Deserialize)]
struct Startups {
    count: u64,
    #[serde(default)]
    failed: u64,
    need: Option<[u64; 3]>,
}

/// Start-up needs over all nodes.
#[derive(Debug, Default)]
pub struct Needs(HashMap<Workload, (u64, u64)>);

impl Needs {
    pub fn add(&mut self, seen: &[Seen]) {
        for Seen { facts: Facts { workload, startups } } in seen {
            let Some([.., worst]) = startups.need else { continue };
            let (count, need) = self.0.entry(workload.clone()).or_default();
            *count += startups.count.saturating_sub(startups.failed);
            *need = worst.max(*need);
        }
    }

    /// What a start-up of it takes at most. `None`: too few are known.
    pub fn of(&self, workload: &Workload) -> Option<u64> {
        let (count, need) = self.0.get(workload)?;
        (*count >= STARTUPS).then_some((*need as f64 * RESERVE) as u64)
    }
}

/// Of /api/v1/containers, what is needed of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Holding {
    pub id: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub state: String,
    pub started: Option<f64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    file_bytes: Option<u64>,
    peak_bytes: u64,
    startup_peak_bytes: Option<u64>,
}

impl Holding {
    pub fn lives(&self) -> bool {
        self.state != "ended"
    }

    pub fn measured(&self, age: f64, earlier: Option<&Curves>) -> Measured {
        Measured {
            // The working set is read every second. Usage is sent as it grows, as the peak is: beside it a working set
            // of a moment before would look like a fall.
            working_set: self
                .working_set_bytes
                .max(self.usage_bytes.saturating_sub(self.file_bytes.unwrap_or(0))),
            peak: self.peak_bytes.max(self.startup_peak_bytes.unwrap_or(0)),
            settled: is_verdict(&self.state),
            earlier: earlier.and_then(|curves| curves.after(age)),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Detail {
    earlier: Vec<Startup>,
}

#[derive(Debug, Deserialize)]
struct Startup {
    outcome: String,
    peak_bytes: u64,
    curve: Curve,
}

#[derive(Debug, Deserialize)]
struct Curve {
    width_seconds: f64,
    kib: Vec<u64>,
}

/// Peaks and curves of earlier start-ups.
#[derive(Debug, Default)]
pub struct Curves(Vec<(u64, Curve)>);

impl Curves {
    fn after(&self, age: f64) -> Option<Earlier> {
        let peak = self.0.iter().map(|(peak, _)| *peak).min()?;
        let still = self.0.iter().filter_map(|(_, curve)| {
            let first = (age / curve.width_seconds.max(1e-3)) as usize;
            // After its end, what it ended at.
            curve.kib.iter().skip(first).max().or(curve.kib.last()).map(|kib| kib << 10)
        });
        Some(Earlier { peak, still: still.max().unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(count: u64, failed: u64, need: Option<[u64; 3]>) -> Vec<Seen> {
        let advised = json!([{"facts": {
            "namespace": "shop", "workload": "web", "workload_type": "deployment", "container": "app",
            "startups": {"count": count, "failed": failed, "need": need}
        }}]);
        serde_json::from_value(advised).unwrap()
    }

    #[test]
    fn a_need_is_the_highest_of_all_nodes_once_three_start_ups_are_known() {
        let workload = Workload {
            namespace: "shop".into(),
            workload: "web".into(),
            workload_type: "deployment".into(),
            container: "app".into(),
        };
        for (nodes, expected) in [
            (vec![(2, 0, Some([80, 90, 100]))], None),
            (vec![(2, 0, Some([80, 90, 100])), (1, 0, Some([200, 200, 200]))], Some(210)),
            (vec![(3, 1, Some([80, 90, 100]))], None),
            (vec![(3, 0, None)], None),
            (vec![], None),
        ] {
            let mut needs = Needs::default();
            nodes.iter().for_each(|(count, failed, need)| needs.add(&seen(*count, *failed, *need)));
            assert_eq!(needs.of(&workload), expected, "{nodes:?}");
        }
    }

    #[test]
    fn a_working_set_that_is_older_than_the_peak_is_no_fall() {
        const MIB: u64 = 1 << 20;
        let measured = |usage: u64, file: Option<u64>, working_set: u64| {
            let holding = json!({
                "id": "7", "namespace": "shop", "pod": "web-1", "container": "app", "state": "starting", "started": 1.0,
                "usage_bytes": usage * MIB, "working_set_bytes": working_set * MIB, "peak_bytes": 90 * MIB,
                "file_bytes": file.map(|file| file * MIB), "startup_peak_bytes": 150 * MIB
            });
            let holding: Holding = serde_json::from_value(holding).unwrap();
            holding.measured(2.0, None)
        };
        for (usage, file, working_set, expected) in
            [(150, Some(1), 90, 149), (150, None, 90, 150), (61, Some(1), 61, 61), (150, Some(100), 60, 60)]
        {
            let found = measured(usage, file, working_set);
            assert_eq!((found.working_set, found.peak), (expected * MIB, 150 * MIB), "{usage} {file:?}");
        }
    }

    #[test]
    fn what_is_still_to_come_is_the_most_of_any_earlier_start_up() {
        let curve = |kib: &[u64]| Curve { width_seconds: 0.5, kib: kib.to_vec() };
        let curves =
            Curves(vec![(160 << 10, curve(&[10, 160, 60])), (90 << 10, curve(&[90, 20, 20, 40, 30]))]);
        for (age, still) in [(0.0, 160), (0.9, 160), (1.0, 60), (1.5, 60), (99.0, 60)] {
            let expected = Some(Earlier { peak: 90 << 10, still: still << 10 });
            assert_eq!(curves.after(age), expected, "{age}");
        }
        assert_eq!(Curves::default().after(1.0), None);
    }
}
