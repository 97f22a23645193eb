//! Records the replay cases again on this machine: `tests/cases/<name>/events.jsonl`, with a note of where and how.
//!
//! A case holds only the events of its own cgroups and of the node.

use std::{
    collections::HashSet, fs, path::Path, process::Command, sync::atomic::AtomicBool, thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use observer_tests::group::Tree;
use serde_json::Value;

use crate::{
    demo, run, shell,
    stage::{Role, Shared, Stage, role},
};

#[derive(clap::Args)]
pub struct Options {
    /// Only these cases
    cases: Vec<String>,
}

struct Case {
    name: &'static str,
    about: &'static str,
    seconds: u64,
    cast: &'static [Role],
    shared: &'static [Shared],
    /// Let it play this long before the observer starts.
    head_start: Option<u64>,
}

const fn case(name: &'static str, seconds: u64, about: &'static str, cast: &'static [Role]) -> Case {
    Case { name, about, seconds, cast, shared: &[], head_start: None }
}

const SPIKE: &str = "spike --peak 160 --steady 60 --ramp 2 --hold 1";
const CASES: &[Case] = &[
    case(
        "spike_settles",
        24,
        "A climb to 160 MiB in 2 s, held for 1 s, then 60 MiB.",
        &[role("web/1", 0, Some(256), SPIKE, "")],
    ),
    case(
        "scale_up_of_four",
        26,
        "One instance, then four more at once: each is reported by itself, and the node by their sum.",
        &[
            role("web/1", 0, Some(256), SPIKE, ""),
            role("web/2", 4, Some(256), SPIKE, ""),
            role("web/3", 4, Some(256), SPIKE, ""),
            role("web/4", 4, Some(256), SPIKE, ""),
            role("web/5", 4, Some(256), SPIKE, ""),
        ],
    ),
    case(
        "killed_while_starting_then_again",
        10,
        "A spike to 160 MiB under a limit of 64: OOM-killed by its own limit, restarted, killed again.",
        &[role("greedy/1", 0, Some(64), SPIKE, ""), role("greedy/1", 4, Some(64), SPIKE, "")],
    ),
    Case {
        shared: &[Shared { name: "pair", limit_mib: 180 }],
        ..case(
            "killed_by_the_shared_limit",
            10,
            "Two containers under one parent of 180 MiB: the second one's spike gets one of them killed; scope parent.",
            &[
                role("pair/1", 0, None, "spike --peak 80 --steady 80 --ramp 1 --hold 0", ""),
                role("pair/2", 3, None, "spike --peak 120 --steady 80 --ramp 1 --hold 0", ""),
            ],
        )
    },
    case(
        "a_child_is_killed",
        8,
        "A child exceeds the container's limit; the main process lives on, so only the kill shows it.",
        &[role("worker/1", 0, Some(96), "child --size 200", "")],
    ),
    case(
        "leak",
        130,
        "A base of 40 MiB and 1.5 MiB a second for ever: drifting, never stable.",
        &[role("leak/1", 0, None, "leak --base 40 --rate 1.5", "")],
    ),
    case(
        "swing",
        30,
        "Between 40 and 120 MiB, every 3 s: oscillating.",
        &[role("gc/1", 0, None, "swing --low 40 --high 120 --period 3", "")],
    ),
    case(
        "job_ends_before_it_is_stable",
        8,
        "A short job is not a failure.",
        &[role("job/1", 0, None, "spike --peak 30 --steady 30 --ramp 1 --hold 0 --seconds 4", "")],
    ),
    case(
        "lazy_second_cache",
        60,
        "40 MiB, and after 20 s another 40: stable, then a late step that moves the time to stable.",
        &[role("cache/1", 0, None, "stairs --step 40 --steps 2 --pause 20", "")],
    ),
    Case {
        head_start: Some(3),
        ..case(
            "ran_before_the_observer",
            8,
            "A container that was there first: measured, never said to have started.",
            &[role("old/1", 0, None, "spike --peak 50 --steady 50 --ramp 1 --hold 0", "")],
        )
    },
];
const ROOT: &str = "observer-case";

pub fn record(options: &Options) -> Result<()> {
    let observer = run::build()?;
    let wanted =
        |case: &&Case| options.cases.is_empty() || options.cases.iter().any(|name| name == case.name);
    if let Some(unknown) = options.cases.iter().find(|name| !CASES.iter().any(|case| case.name == **name)) {
        bail!(
            "no case {unknown}; there are {}",
            CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
        );
    }
    for case in CASES.iter().filter(wanted) {
        println!("{} ({} s)", case.name, case.seconds);
        let directory = shell::root().join("tests/cases").join(case.name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let raw = std::env::temp_dir().join(format!("observer-case-{}.jsonl", std::process::id()));
        let kernel = play(case, &observer, &raw).and_then(|()| keep(&raw, &directory.join("events.jsonl")));
        let _ = fs::remove_file(&raw); // absent if nothing was recorded
        let about = format!(
            "# {}\n\n{}\n\nRecorded by `cargo xtask record {}` on {}.\n",
            case.name, case.about, case.name, kernel?
        );
        fs::write(directory.join("about.md"), about).context("cannot write about.md")?;
    }
    println!("now: INSTA_UPDATE=always cargo test -p observer-tests --test replay, and read the stories");
    Ok(())
}

fn play(case: &Case, observer: &Path, raw: &Path) -> Result<()> {
    let workload = run::workload("release")?;
    let mut stage = Stage::new(Tree::find()?, ROOT, &workload, case.cast, case.shared)?;
    let never = AtomicBool::new(false);
    let start = || {
        let mut command = Command::new(observer);
        command.args(["run", "--listen", "127.0.0.1:0", "--log-level", "warn", "--record"]).arg(raw);
        command.spawn().context("cannot start the observer")
    };
    let mut daemon;
    if let Some(head_start) = case.head_start {
        stage.begin(head_start, &never)?;
        daemon = start()?;
    } else {
        daemon = start()?;
        sleep(Duration::from_secs(1));
    }
    let played = stage.play(case.seconds, &never);
    sleep(Duration::from_millis(1500)); // the ends, too
    demo::stop(&mut daemon)?;
    played
}

/// Copies the events of the stage and of the node; returns the kernel's name.
fn keep(raw: &Path, to: &Path) -> Result<String> {
    let text = fs::read_to_string(raw).with_context(|| format!("cannot read {}", raw.display()))?;
    let mut ours: HashSet<u64> = HashSet::new();
    let mut kept = String::new();
    let mut kernel = None;
    for line in text.lines() {
        let event: Value =
            serde_json::from_str(line).context("the observer wrote a line that is not JSON")?;
        // {"at": .., "what": {"cgroup_made": {"cgroup": .., ..}}}; a tick is just its name.
        let what = event.get("what").and_then(Value::as_object).and_then(|what| what.values().next());
        let field = |name: &str| what.and_then(|what| what.get(name));
        let cgroup = field("cgroup").and_then(Value::as_u64);
        if let (Some(cgroup), Some(path)) = (cgroup, field("path").and_then(Value::as_str))
            && path.trim_start_matches('/').starts_with(ROOT)
        {
            ours.insert(cgroup);
        }
        kernel = kernel.or_else(|| field("kernel").and_then(Value::as_str).map(|k| format!("Linux {k}")));
        if cgroup.is_none_or(|cgroup| ours.contains(&cgroup)) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    fs::write(to, kept).with_context(|| format!("cannot write {}", to.display()))?;
    kernel.context("the recording names no kernel")
}
