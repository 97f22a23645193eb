//! The agents as the lender's source: what workloads need to start, and what the containers lent to hold now.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use http::{Request, Uri};
use kube::Client;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{failure::one_line, http::tls};
use observer_core::{
    loan::{Measured, course::Course, need},
    model::{
        container::{ContainerState, Workload},
        past_startup::{PastStartup, StartupOutcome},
    },
};

/// An agent that takes longer is asked again the next time.
const ANSWER: Duration = Duration::from_millis(900);

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

    /// What its node has left, beside what those starting there are expected to take yet. `None`: it is not known.
    pub async fn room(&self) -> Result<Option<u64>, String> {
        let state: Whole = self.get("/api/v1/state").await?;
        Ok(state.node.room())
    }

    pub async fn containers(&self) -> Result<Vec<Holding>, String> {
        self.get("/api/v1/containers").await
    }

    /// This run so far, and the earlier start-ups of its workload that came through.
    pub async fn course(&self, id: &str) -> Result<Course, String> {
        let detail: Detail = self.get(&format!("/api/v1/containers/{id}")).await?;
        Ok(detail.course())
    }
}

/// What a start-up came to, if not to its end, nor is under way.
fn verdict(name: &str) -> Option<StartupOutcome> {
    let state = ContainerState::ALL.into_iter().find(|state| state.name() == name);
    state.and_then(StartupOutcome::reached)
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
        let (count, worst) = self.0.get(workload)?;
        need::of(*count, *worst)
    }
}

/// Of /api/v1/state, what is needed of it.
#[derive(Debug, Deserialize)]
struct Whole {
    node: Node,
}

#[derive(Debug, Deserialize)]
struct Node {
    available_bytes: Option<u64>,
    pods_available_bytes: Option<u64>,
    forecast_bytes: u64,
}

impl Node {
    fn room(&self) -> Option<u64> {
        let least = self.available_bytes.into_iter().chain(self.pods_available_bytes).min()?;
        Some(least.saturating_sub(self.forecast_bytes))
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
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    #[serde(default)]
    pub limit_ahead: Option<LimitAhead>,
}

/// A limit that it is foreseen to meet.
#[derive(Clone, Debug, Deserialize)]
pub struct LimitAhead {
    /// `container`, `pod` or `node`.
    pub limit: String,
    /// Unix time.
    pub at: f64,
    pub confidence: f64,
}

impl Holding {
    pub fn lives(&self) -> bool {
        self.state != "ended"
    }

    /// Beside its earlier start-ups, where it is known how old it is.
    pub fn measured(&self, course: Option<(f64, &mut Course)>) -> Measured {
        // The working set is read every second. Usage is sent as it grows, as the peak is: beside it a working set of a
        // moment before would look like a fall.
        let working_set =
            self.working_set_bytes.max(self.usage_bytes.saturating_sub(self.file_bytes.unwrap_or(0)));
        let peak = self.peak_bytes.max(self.startup_peak_bytes.unwrap_or(0));
        let earlier = course.and_then(|(age, course)| {
            course.note_peak(age, peak);
            course.note(age, self.usage_bytes);
            course.earlier(age, working_set)
        });
        Measured { working_set, peak, settled: verdict(&self.state).is_some(), earlier }
    }
}

#[derive(Debug, Deserialize)]
struct Detail {
    #[serde(default)]
    curve: Curve,
    earlier: Vec<Startup>,
}

#[derive(Debug, Deserialize)]
struct Startup {
    outcome: String,
    peak_bytes: u64,
    curve: Curve,
}

#[derive(Debug, Default, Deserialize)]
struct Curve {
    width_seconds: f64,
    kib: Vec<u64>,
}

impl Detail {
    fn course(self) -> Course {
        let past = self.earlier.into_iter().filter_map(|startup| {
            let past = PastStartup {
                started: 0.0,
                pod: String::new(),
                outcome: verdict(&startup.outcome)?,
                cut_short: false,
                peak: startup.peak_bytes,
                peak_seconds: 0.0,
                unreclaimable_peak: 0,
                growth: 0.0,
                time_to_stable: None,
                steady: None,
                overshoot: None,
                span: startup.curve.width_seconds,
                curve: startup.curve.kib.iter().map(|kib| (kib << 10) as f32).collect(),
            };
            (past.span > 0.0).then_some(past)
        });
        let mut course = Course::new(past.collect());
        for (span, kib) in self.curve.kib.iter().enumerate() {
            course.note(span as f64 * self.curve.width_seconds, kib << 10);
        }
        course
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
            holding.measured(None)
        };
        for (usage, file, working_set, expected) in
            [(150, Some(1), 90, 149), (150, None, 90, 150), (61, Some(1), 61, 61), (150, Some(100), 60, 60)]
        {
            let found = measured(usage, file, working_set);
            assert_eq!((found.working_set, found.peak), (expected * MIB, 150 * MIB), "{usage} {file:?}");
        }
    }

    #[test]
    fn what_is_still_to_come_is_by_the_earlier_start_ups_that_came_through() {
        let startup = |outcome: &str, peak: u64, kib: &[u64]| json!({"outcome": outcome, "peak_bytes": peak << 10, "curve": {"width_seconds": 0.5, "kib": kib}});
        let detail = |earlier: Vec<serde_json::Value>| -> Course {
            let detail = json!({"curve": {"width_seconds": 0.5, "kib": [10, 160_000, 60_000, 60_000]}, "earlier": earlier});
            serde_json::from_value::<Detail>(detail).unwrap().course()
        };
        let spike = startup("stable", 160_000, &[10, 160_000, 60_000, 60_000]);
        let twice = startup("stable", 160_000, &[10, 160_000, 60_000, 60_000, 120_000, 60_000]);
        let killed = startup("oom_killed", 190_000, &[10, 190_000]);
        let after = |course: Course| Some(course.earlier(2.0, 60_000 << 10)?.still >> 10);
        assert_eq!(after(detail(vec![spike.clone(), killed.clone()])), Some(60_000));
        assert_eq!(after(detail(vec![spike, twice])), Some(120_000));
        assert_eq!(after(detail(vec![killed])), None);
    }
}
