//! What each target does with its bytes: parse them as the product does, and go on with what came of it. A target has
//! failed if it panics, overflows, takes for ever or more memory than libFuzzer allows.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use clap::Parser;
use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Event as ApiEvent, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::DynamicObject;
use observer::{
    commands::{advise, analyse, report, why},
    config::{Config, Flags},
    http::{
        accept,
        server::{self, Protection},
        shared::Shared,
    },
    ledger::{self, watch},
    recording::{history_file, replay},
    sinks::{api_state::NodeState, metrics::Metrics},
    sources::{
        cgroup::{self, Hierarchy, memory, writable},
        kernel::ring,
        kubernetes::{owner, pod},
        node,
    },
};
use observer_core::{
    attribution::cgroup_path,
    model::{
        event::{CgroupVersion, Event, EventKind},
        kubernetes::{ChangeRecord, ObjectKind},
        time::Time,
    },
    pipeline::Pipeline,
};

pub type Target = fn(&[u8]);

/// By the names of their programs in fuzz_targets.
pub const TARGETS: [(&str, Target); 14] = [
    ("ring_record", ring_record),
    ("cgroup_path", cgroup_path),
    ("cgroup_files", cgroup_files),
    ("node_files", node_files),
    ("recording", recording),
    ("state_file", state_file),
    ("curve", curve),
    ("kubernetes_object", kubernetes_object),
    ("cluster_object", cluster_object),
    ("prometheus_answer", prometheus_answer),
    ("why_answer", why_answer),
    ("ledger_answer", ledger_answer),
    ("config", config),
    ("http_request", http_request),
];

/// Records of the kernel's ring.
pub fn ring_record(bytes: &[u8]) {
    if let Some(event) = ring::decode(bytes, 4096) {
        let _ = Pipeline::default().step(&event);
    }
}

/// Paths of cgroups: any process with the right may make one by any name.
pub fn cgroup_path(bytes: &[u8]) {
    let path = String::from_utf8_lossy(bytes);
    let _ = cgroup_path::holds_all_pods(&path);
    if let Some(owner) = cgroup_path::owner(&path) {
        let _ = cgroup_path::labels(&owner);
    }
}

/// A cgroup's files, each between two bytes of 0.
pub fn cgroup_files(bytes: &[u8]) {
    const FILES: [&str; 12] = [
        "memory.current",
        "memory.peak",
        "memory.max",
        "memory.high",
        "memory.stat",
        "memory.events",
        "memory.events.local",
        "memory.pressure",
        "memory.usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.oom_control",
        "memory.max_usage_in_bytes",
    ];
    let directory = scratch("cgroup");
    for (name, contents) in FILES.iter().zip(bytes.split(|byte| *byte == 0)) {
        let _ = fs::write(directory.join(name), contents);
    }
    for version in [CgroupVersion::V1, CgroupVersion::V2] {
        let _ = memory::usage(&directory, version);
        let _ = memory::reading(&directory, version);
    }
}

/// The node's files, each between two bytes of 0.
pub fn node_files(bytes: &[u8]) {
    const FILES: [&str; 6] = ["meminfo", "vmstat", "pressure/memory", "cgroups", "stat", "self/mountinfo"];
    let proc = scratch("proc");
    let _ = (fs::create_dir_all(proc.join("pressure")), fs::create_dir_all(proc.join("self")));
    for (name, contents) in FILES.iter().zip(bytes.split(|byte| *byte == 0)) {
        let _ = fs::write(proc.join(name), contents);
    }
    let _ = (node::reading(&proc), node::memory_total(&proc), node::booted(&proc));
    let _ = (cgroup::count(&proc), Hierarchy::find(&proc, None));
    let _ = writable::mounts(bytes, Path::new("/sys/fs/cgroup"));
}

/// A recording, through the whole pipeline to its metrics, and as a report.
pub fn recording(bytes: &[u8]) {
    let _ = replay::replay(bytes, |finding| drop(observer::sinks::log::line(finding)));
    let path = scratch("recording").join("events.jsonl");
    if fs::write(&path, bytes).is_ok() {
        let command = [OsStr::new("report"), path.as_os_str(), OsStr::new("--output"), OsStr::new("-")];
        let _ = Report::try_parse_from(command).map(|options| report::run(&options.options));
    }
}

/// What is kept over restarts. After a first byte of `!` each line gets the checksum that it should have: without one
/// nothing of a line is looked at.
pub fn state_file(bytes: &[u8]) {
    let path = scratch("state").join("state.json");
    let summed = bytes.strip_prefix(b"!").map(|lines| {
        lines.split(|byte| *byte == b'\n').fold(Vec::new(), |mut all, line| {
            let _ = history_file::write_summed(&mut all, line);
            all
        })
    });
    if fs::write(&path, summed.as_deref().unwrap_or(bytes)).is_ok() {
        let (events, _) = history_file::restore(&path, Time::default(), 2e9);
        let mut pipeline = Pipeline::default();
        for event in &events {
            let _ = pipeline.step(event);
        }
    }
}

/// A recorded curve in any of the formats that `observer analyse` reads.
pub fn curve(bytes: &[u8]) {
    let options = analyse::Options { limit: Some(1 << 28), ended: true, ..Default::default() };
    if let Ok(analysed) = analyse::analyse(bytes, &options) {
        let _ = analysed.report.story();
        let _ = analyse::plot::svg(&analysed, "curve");
    }
}

/// Pods, and the metadata of what owns them.
pub fn kubernetes_object(bytes: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<Pod>(bytes) {
        let _ = pod::parse(&object);
    }
    if let Ok(metadata) = serde_json::from_slice::<ObjectMeta>(bytes) {
        for kind in [ObjectKind::ReplicaSet, ObjectKind::StatefulSet, ObjectKind::Job, ObjectKind::Deployment]
        {
            let _ = owner::parse(&metadata, kind, 1e9);
        }
    }
}

/// What the ledger watches beside them: autoscalers of all kinds and events.
pub fn cluster_object(bytes: &[u8]) {
    let shared = ledger::Shared::default();
    if let Ok(object) = serde_json::from_slice::<HorizontalPodAutoscaler>(bytes) {
        shared.book().autoscaler("uid", watch::hpa(&object), 1e9);
    }
    if let Ok(event) = serde_json::from_slice::<ApiEvent>(bytes) {
        watch::take_event(&shared, &event);
    }
    if let Ok(object) = serde_json::from_slice::<DynamicObject>(bytes) {
        for kind in [ObjectKind::ScaledObject, ObjectKind::VerticalPodAutoscaler] {
            shared.book().autoscaler("uid", watch::custom_scaler(&kind, &object), 1e9);
        }
    }
    let _ = shared.book().record("uid");
}

/// What a Prometheus, or a node, answers `observer advise`: the first byte chooses which is asked.
pub fn prometheus_answer(bytes: &[u8]) {
    let [which, answer @ ..] = bytes else { return };
    let address = answering(answer);
    let source = if which % 2 == 0 { "--prometheus" } else { "--node" };
    let output = ["table", "json", "yaml", "patch"][usize::from(which / 2 % 4)];
    let command = ["advise", source, address, "--output", output, "--timeout", "5"];
    let _ = Advise::try_parse_from(command).map(|options| advise::run(&options.options));
}

/// What a node answers `observer why`: the first byte chooses what is asked about.
pub fn why_answer(bytes: &[u8]) {
    let [which, answer @ ..] = bytes else { return };
    let address = answering(answer);
    let name = ["web", "/", "pod/web", "1"][usize::from(which % 4)];
    for output in ["text", "json"] {
        let command = ["why", name, "--node", address, "--output", output, "--timeout", "5"];
        let _ = Why::try_parse_from(command).map(|options| why::run(&options.options));
    }
}

#[derive(Parser)]
struct Report {
    #[command(flatten)]
    options: report::Options,
}

#[derive(Parser)]
struct Why {
    #[command(flatten)]
    options: why::Options,
}

#[derive(Parser)]
struct Advise {
    #[command(flatten)]
    options: advise::Options,
}

/// What the ledger answers an agent.
pub fn ledger_answer(bytes: &[u8]) {
    let Ok(records) = serde_json::from_slice::<Vec<ChangeRecord>>(bytes) else { return };
    let mut pipeline = Pipeline::default();
    for record in records {
        let what = EventKind::Record(Box::new(record));
        let _ = pipeline.step(&Event { at: Time::default(), what });
    }
}

/// The configuration file.
pub fn config(bytes: &[u8]) {
    let path = scratch("config").join("observer.toml");
    if fs::write(&path, bytes).is_ok() {
        let _ = Config::load(&Flags { config: Some(path), ..Flags::default() });
    }
}

/// What anybody may send to the port: to the first bytes of the answer.
pub fn http_request(bytes: &[u8]) {
    static RUNTIME: OnceLock<Option<tokio::runtime::Runtime>> = OnceLock::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
    let Some(runtime) = RUNTIME.get_or_init(runtime) else { return };
    let shared = Shared {
        metrics: Metrics::default(),
        state: Arc::new(Mutex::new(NodeState::default())),
        stalled: Arc::default(),
    };
    let router = server::router(shared, Protection::default());
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(bytes.len().max(1 << 12));
        let answered =
            accept::exchange(server, accept::Limits::AGENT, router, Arc::new(AtomicBool::new(false)));
        let asked = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let _ = client.read(&mut [0; 1 << 12]).await;
        };
        let whole = async {
            tokio::select! {
                () = answered => {}
                () = asked => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(5), whole).await.expect("each request is answered or ended");
    });
}

/// The folder of this process.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| std::env::temp_dir().join(format!("observer-fuzz-{}", std::process::id())))
}

fn scratch(name: &str) -> PathBuf {
    let directory = root().join(name);
    let _ = fs::create_dir_all(&directory);
    directory
}

/// The address of a server that gives these bytes as the answer to every question.
fn answering(answer: &[u8]) -> &'static str {
    static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static ADDRESS: OnceLock<String> = OnceLock::new();
    *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = answer.to_vec();
    ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let address = format!("http://{}", listener.local_addr().expect("its address"));
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let _ = connection.read(&mut [0; 1 << 14]); // what is asked does not matter
                let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    answer.len()
                );
                let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&answer));
            }
        });
        address
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was found, and what the fuzzer begins with.
    #[test]
    fn every_example_is_taken() {
        let mut tried = 0;
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
            for example in fs::read_dir(folder).into_iter().flatten().flatten() {
                target(&fs::read(example.path()).unwrap());
                tried += 1;
            }
        }
        fs::remove_dir_all(root()).unwrap();
        assert!(tried > 30, "{tried}");
    }

    #[test]
    fn each_target_has_a_program() {
        for (name, _) in TARGETS {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz_targets/{name}.rs"));
            assert!(fs::read_to_string(program).unwrap().contains(&format!("observer_fuzz::{name}(")));
        }
    }
}
