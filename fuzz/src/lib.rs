//! What each target does with its bytes: parse them as the product does, and go on with what came of it. A target has
//! failed if it panics, overflows, takes for ever or more memory than libFuzzer allows.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use clap::Parser;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use observer::{
    commands::{advise, analyse},
    config::{Config, Flags},
    recording::{history_file, replay},
    sources::{
        cgroup::memory,
        kernel::ring,
        kubernetes::{owner, pod},
    },
};
use observer_core::{
    attribution::cgroup_path,
    model::{
        event::{CgroupVersion, Event, EventKind},
        kubernetes::ChangeRecord,
        time::Time,
    },
    pipeline::Pipeline,
};

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

/// A recording, through the whole pipeline to its metrics.
pub fn recording(bytes: &[u8]) {
    let _ = replay::replay(bytes, |finding| drop(observer::sinks::log::line(finding)));
}

/// What is kept over restarts.
pub fn state_file(bytes: &[u8]) {
    let path = scratch("state").join("state.json");
    if fs::write(&path, bytes).is_ok()
        && let Ok(events) = history_file::restore(&path, Time::default())
    {
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
        for kind in ["ReplicaSet", "StatefulSet", "Job", "Deployment"] {
            let _ = owner::parse(&metadata, kind, 1e9);
        }
    }
}

/// What a Prometheus, or a node, answers `observer advise`: the first byte chooses which is asked.
pub fn prometheus_answer(bytes: &[u8]) {
    let [which, answer @ ..] = bytes else { return };
    let (address, slot) = server();
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = answer.to_vec();
    let source = if which % 2 == 0 { "--prometheus" } else { "--node" };
    let output = ["table", "json", "yaml", "patch"][usize::from(which / 2 % 4)];
    let command = ["advise", source, address, "--output", output, "--timeout", "5"];
    let _ = Advise::try_parse_from(command).map(|options| advise::run(&options.options));
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

/// A folder of this process.
fn scratch(name: &str) -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root =
        ROOT.get_or_init(|| std::env::temp_dir().join(format!("observer-fuzz-{}", std::process::id())));
    let directory = root.join(name);
    let _ = fs::create_dir_all(&directory);
    directory
}

/// Gives the present bytes as the answer to every question.
fn server() -> (&'static str, &'static Mutex<Vec<u8>>) {
    static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static ADDRESS: OnceLock<String> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| {
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
    });
    (address, &ANSWER)
}
