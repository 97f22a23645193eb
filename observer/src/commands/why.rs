//! `observer why NAME`: what happened to a pod, a workload or a cgroup, and what to set, on one screen.
//!
//! Everything is in one answer of /api/v1/state: of a running daemon, or of a recording run through the same pipeline.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use super::client::{Access, state::State, timeout_seconds};
use crate::{
    recording::replay,
    sinks::{api_state::NodeState, metrics::Metrics},
};
use observer_core::model::printable::printable;

mod answer;
mod find;
pub mod incident;
mod story;

use answer::{Answer, Subject};

#[derive(Debug, Args)]
pub struct Options {
    /// Pod, workload or cgroup: `web-7d9`, `shop/web-7d9`, `web`, `deploy/web`, `/system.slice/x.service`, a cgroup's
    /// id; the beginning is enough where it fits one
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Only this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    access: Access,
    /// A recording instead, written by `observer run --record`; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    replay: Option<PathBuf>,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = timeout_seconds())]
    timeout: u64,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// What is printed, and whether something is wrong with what was asked for.
#[derive(Debug)]
pub struct Printed {
    pub text: String,
    pub wrong: bool,
}

#[derive(Debug)]
pub enum NoAnswer {
    /// The observer could not be asked.
    Failed(String),
    /// No such name, several of it, or a file that is no recording.
    BadInput(String),
}

pub fn run(options: &Options) -> Result<Printed, NoAnswer> {
    let state = match &options.replay {
        Some(path) => replayed(path)?,
        None => asked(options).map_err(NoAnswer::Failed)?,
    };
    answer(&state, &options.name, options.namespace.as_deref(), options.output)
}

/// What an observer that answered so knows of a name.
pub fn answer(
    state: &State,
    name: &str,
    namespace: Option<&str>,
    output: Output,
) -> Result<Printed, NoAnswer> {
    let answer = about(state, name, namespace).map_err(NoAnswer::BadInput)?;
    let text = match output {
        Output::Text => story::text(&answer),
        Output::Json => json(&answer).map_err(|error| NoAnswer::Failed(error.to_string()))?,
    };
    Ok(Printed { text, wrong: !answer.wrong.is_empty() })
}

fn about(state: &State, name: &str, namespace: Option<&str>) -> Result<Answer, String> {
    find::find(state, name, namespace).map(|subject| Answer::of(state, subject))
}

/// The same story of one container.
pub fn of_container(state: &State, id: &str, name: &str) -> String {
    let subject = Subject::Container { id: id.to_owned(), name: name.to_owned() };
    story::text(&Answer::of(state, subject))
}

fn asked(options: &Options) -> Result<State, String> {
    let timeout = Duration::from_secs(options.timeout);
    options.access.connect(timeout)?.api("/api/v1/state", &[])
}

fn replayed(path: &Path) -> Result<State, NoAnswer> {
    let bad = |error: &dyn std::fmt::Display| NoAnswer::BadInput(format!("{}: {error}", path.display()));
    let recording: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(BufReader::new(io::stdin())),
        _ => Box::new(BufReader::new(File::open(path).map_err(|error| bad(&error))?)),
    };
    state_of(recording, path.display().to_string()).map_err(|error| bad(&error))
}

/// The last state of a recording, by the same interface as a daemon's.
fn state_of(recording: impl BufRead, name: String) -> Result<State, Box<dyn std::error::Error>> {
    let mut state = NodeState::of_recording(name);
    let metrics = Metrics::default();
    let replayed = replay::replay_into(&metrics, recording, |_| {}, |finding| state.apply(finding))?;
    let mut state: State = serde_json::from_value(serde_json::to_value(state.view())?)?;
    state.cut = replayed.cut;
    Ok(state)
}

/// What a terminal would obey is escaped as JSON has it, so the text read back is as it was.
pub fn json(answer: &impl Serialize) -> Result<String, serde_json::Error> {
    let plain = serde_json::to_string_pretty(answer)? + "\n";
    let mut safe = String::with_capacity(plain.len());
    for one in plain.chars() {
        // Only inside of strings is anything but line feeds hostile.
        match one != '\n' && printable(one.encode_utf8(&mut [0; 4])) != one.encode_utf8(&mut [0; 4]) as &str {
            true => safe += &format!("\\u{:04x}", u32::from(one)),
            false => safe.push(one),
        }
    }
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> State {
        let path = format!("{}/../tests/cases/{name}/events.jsonl", env!("CARGO_MANIFEST_DIR"));
        state_of(BufReader::new(File::open(path).unwrap()), name.into()).unwrap()
    }

    fn text(state: &State, name: &str) -> String {
        story::text(&about(state, name, None).unwrap())
    }

    #[test]
    fn a_kill_by_a_shared_limit_names_the_limit_the_bytes_and_who_else_was_starting() {
        let state = case("killed_by_the_shared_limit");
        let said = text(&state, "/observer-case/pair/2");
        for part in
            ["1 OOM kill", "180 MiB", "parent", "99.6 MiB", "anonymous", "/observer-case/pair/1", "0.84 s"]
        {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
        let beside = about(&state, "/observer-case/pair/1", None).unwrap();
        assert!(beside.kills.is_empty(), "a kill of another is none of its own: {beside:?}");
    }

    #[test]
    fn a_kill_is_told_as_the_log_tells_it() {
        let mut state = case("limit_ahead");
        let said = text(&state, "/observer-case/grow");
        let held = "it held 206 MiB (anonymous 200 MiB, shared 0 B, file 6.55 MiB), its group 200 MiB";
        assert!(
            said.contains(&format!("whose limit: its own limit 200 MiB; {held}, peak 200 MiB")),
            "{said}"
        );

        // A scope of a newer observer is none that is known.
        let scope = |name: &str| serde_json::from_value(name.into()).unwrap();
        for (name, pid, limit, whose) in [
            ("inside", 7, Some(32 << 20), "a limit 32 MiB inside the container"),
            ("unknown", 7, None, "not known"),
            ("of a newer observer", 7, None, "not known"),
            ("unknown", 0, None, "not known, only a counter moved"),
        ] {
            let kill = state.kills.first_mut().unwrap();
            (kill.scope, kill.victim_pid, kill.limit_bytes) = (scope(name), pid, limit);
            let said = text(&state, "/observer-case/grow");
            assert!(said.contains(&format!("whose limit: {whose}; it held")), "{name}:\n{said}");
        }
        state.kills.first_mut().unwrap().victim_anon_bytes = None;
        let said = text(&state, "/observer-case/grow");
        assert!(said.contains("; its group held 200 MiB, peak"), "{said}");
    }

    #[test]
    fn shared_memory_is_not_called_anonymous_and_parts_of_another_moment_are_left_out() {
        let mut state = case("limit_ahead");
        // It was killed, and gave its memory back, after the last look at its parts.
        let said = text(&state, "/observer-case/grow");
        assert!(said.contains("last reading: 32.9 MiB (which kinds is not known)"), "{said}");
        let one =
            state.containers.iter_mut().find(|one| one.names.container == "/observer-case/grow").unwrap();
        (one.usage_bytes, one.anon_bytes) = (48 << 20, Some(47 << 20));
        (one.file_bytes, one.shmem_bytes) = (Some(0), Some(46 << 20));
        let said = text(&state, "/observer-case/grow");
        assert!(
            said.contains("48 MiB (anonymous or shared 47 MiB, shared alone 46 MiB, file 0 B)"),
            "{said}"
        );
        assert!(!said.contains("of it anonymous;") && said.contains("of it anonymous or shared"), "{said}");

        for path in std::fs::read_dir(format!("{}/../tests/cases", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            let Ok(recording) = File::open(path.unwrap().path().join("events.jsonl")) else { continue };
            for one in state_of(BufReader::new(recording), String::new()).unwrap().containers {
                let parts = one.anon_bytes.unwrap_or(0) + one.file_bytes.unwrap_or(0);
                assert!(parts.max(one.shmem_bytes.unwrap_or(0)) <= one.usage_bytes, "{one:?}");
            }
        }
    }

    #[test]
    fn a_scale_up_is_named_with_who_made_it_and_fits_one_screen() {
        let state = case("kubernetes_scale_up_by_a_bot");
        for name in
            ["web", "deploy/web", "scene-bot/web", "web-558866ccf7-f6wlm", "scene-bot/web-558866ccf7-f6"]
        {
            let said = text(&state, name);
            assert!(said.contains("from 1 to 4 by my-autoscaler"), "{name}:\n{said}");
            assert!(said.contains("request 16Mi") && said.contains("limit 28Mi"), "{name}:\n{said}");
            assert!(said.lines().count() <= 24, "{name}:\n{said}");
        }
    }

    #[test]
    fn names_that_fit_several_or_none_say_what_there_is() {
        let state = case("kubernetes_scale_up_by_a_bot");
        let error = |name: &str| about(&state, name, None).err().unwrap_or_else(|| panic!("{name} fits"));
        let several = error("web-558866ccf7-f");
        for pod in ["web-558866ccf7-f6wlm", "web-558866ccf7-fzz2r", "did you mean"] {
            assert!(several.contains(pod), "{several}");
        }
        assert!(
            error("web-558866ccf7-f6wml").contains("web-558866ccf7-f6wlm"),
            "{}",
            error("web-558866ccf7-f6wml")
        );
        assert!(!error("\u{1b}[2J").contains('\u{1b}'));
        assert!(about(&state, "web", Some("elsewhere")).is_err());
    }

    #[test]
    fn killed_again_and_again_is_wrong_and_settled_is_not() {
        let killed = about(&case("killed_while_starting_then_again"), "/observer-case/greedy", None).unwrap();
        assert!(killed.wrong.iter().any(|wrong| wrong.contains("2 OOM kills")), "{killed:?}");
        let settled = about(&case("spike_settles"), "/observer-case", None).unwrap();
        assert!(settled.wrong.is_empty(), "{:?}", settled.wrong);
        let leaking = about(&case("leak"), "/observer-case", None).unwrap();
        assert!(!leaking.wrong.is_empty(), "{leaking:?}");
    }

    #[test]
    fn what_others_wrote_cannot_forge_lines_nor_reach_the_terminal() {
        let mut state = case("killed_by_the_shared_limit");
        let hostile = format!("x\n  ok\u{1b}[2J\u{202e}\u{9b}{}", "y".repeat(4096));
        for kill in &mut state.kills {
            kill.victim_command = hostile.clone();
        }
        let answer = about(&state, "/observer-case/pair/2", None).unwrap();
        let said = story::text(&answer);
        assert!(said.lines().all(|line| printable(line) == line && line.chars().count() < 600), "{said}");
        let json = json(&answer).unwrap();
        assert!(json.lines().all(|line| printable(line) == line), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["kills"][0]["victim_command"], hostile);
    }
}
