//! The answer as one screen of text.

use super::answer::Answer;
use crate::{
    commands::{
        advise::table::quantity,
        client::state::{Advice, Container, Kill, ScaleEvent},
    },
    sinks::log::{command, held},
};
use observer_core::model::{
    finding::OomScope,
    kubernetes::named,
    printable::printable,
    units::{Bytes, Seconds},
};

/// What is shown of each kind; JSON has all.
const CONTAINERS: usize = 2;
const KILLS: usize = 2;
const SCALE_EVENTS: usize = 2;
const CHECKS: usize = 4;
/// A line is cut beyond this: names may be 4 KiB.
const LINE_CHARS: usize = 400;

pub fn text(answer: &Answer) -> String {
    let mut screen = Screen { text: String::new(), now: answer.now, live: answer.live };
    let wrong = match answer.wrong.is_empty() {
        true => "nothing is wrong".to_owned(),
        false => answer.wrong.join("; "),
    };
    screen.say(0, &format!("{}: {wrong}", answer.subject));
    screen.head("What happened", answer.containers.is_empty() && answer.kills.is_empty());
    for container in answer.containers.iter().take(CONTAINERS) {
        screen.container(container);
    }
    screen.more(answer.containers.len(), CONTAINERS, "container(s), started earlier");
    for kill in answer.kills.iter().take(KILLS) {
        screen.kill(kill);
    }
    screen.more(answer.kills.len(), KILLS, "OOM kill(s), earlier");
    if !answer.scale_events.is_empty() {
        screen.head("Scale-up", false);
    }
    for event in answer.scale_events.iter().take(SCALE_EVENTS) {
        screen.scale_event(event);
    }
    screen.more(answer.scale_events.len(), SCALE_EVENTS, "earlier");
    screen.head("What to set", answer.workloads.iter().all(|one| one.advice.is_none()));
    for (workload, advice) in answer.workloads.iter().filter_map(|one| Some((one, one.advice.as_ref()?))) {
        screen.advice(&workload.key, advice);
    }
    for note in &answer.notes {
        screen.say(0, &format!("Note: {note}"));
    }
    screen.text
}

/// One line, whatever others wrote, and no longer than can be read.
pub fn line(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// The same in a few lines: the kill beside which most were starting, which scale-up, what to set.
pub fn lead(answer: &Answer) -> String {
    let mut screen = Screen { text: String::new(), now: answer.now, live: answer.live };
    // Of equals the first; the newest is first in the list.
    if let Some(kill) = answer.kills.iter().max_by_key(|kill| kill.also_starting_count) {
        screen.kill(kill);
    }
    if let Some(event) = answer.scale_events.last() {
        screen.scale_event(event);
    }
    for (workload, advice) in answer.workloads.iter().filter_map(|one| Some((one, one.advice.as_ref()?))) {
        screen.set("set ", &workload.key, advice);
    }
    screen.text
}

/// OOM kills alone, of no subject.
pub fn kills(kills: &[&Kill], now: f64, live: bool) -> String {
    let mut screen = Screen { text: String::new(), now, live };
    for kill in kills.iter().take(KILLS) {
        screen.kill(kill);
    }
    screen.more(kills.len(), KILLS, "OOM kill(s)");
    screen.text
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

struct Screen {
    text: String,
    now: f64,
    live: bool,
}

impl Screen {
    /// The one place where text leaves: one line, whatever others wrote.
    fn say(&mut self, indent: usize, line: &str) {
        self.text += &format!("{:indent$}{}\n", "", self::line(line));
    }

    fn head(&mut self, title: &str, empty: bool) {
        self.say(0, &format!("{title}{}", if empty { ": not known" } else { "" }));
    }

    fn more(&mut self, all: usize, shown: usize, what: &str) {
        if all > shown {
            self.say(2, &format!("and {} {what}: --output json", all - shown));
        }
    }

    fn when(&self, at: f64) -> String {
        let since = match (self.now - at).max(0.0) {
            s if s < 120.0 => Seconds(s).to_string(),
            s if s < 7200.0 => format!("{:.0} min", s / 60.0),
            s => format!("{:.1} h", s / 3600.0),
        };
        format!("{since} {}", if self.live { "ago" } else { "before the end" })
    }

    fn container(&mut self, one: &Container) {
        let started = match one.started {
            Some(at) => format!("started {}", self.when(at)),
            None => "started before the observer".to_owned(),
        };
        let ended = match (one.ended, &one.exit) {
            (Some(at), Some(exit)) => format!(", ended {} ({exit})", self.when(at)),
            (Some(at), None) => format!(", ended {} (how was not seen)", self.when(at)),
            (None, _) => format!(", {}", one.state),
        };
        self.say(2, &format!("{}: {started}{ended}", one.names.full()));
        if let Some(cause) = &one.cause {
            self.say(
                4,
                &format!(
                    "cause {} (confidence {:.2}){}{}",
                    cause.cause,
                    cause.confidence,
                    if cause.evidence.is_empty() { "" } else { ": " },
                    cause.evidence.join("; ")
                ),
            );
        }
        let part = |name: &str, bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{name} {}", Bytes(bytes)),
            None => format!("{name} not known"),
        };
        let kinds = match (one.anon_bytes, one.file_bytes, one.shmem_bytes) {
            (None, None, None) => "which kinds is not known".to_owned(),
            (anon, file, shmem) => {
                [part("anonymous or shared", anon), part("shared alone", shmem), part("file", file)]
                    .join(", ")
            }
        };
        let limit = one
            .limit_bytes
            .map_or("no limit of its own".to_owned(), |limit| format!("limit {}", Bytes(limit)));
        self.say(
            4,
            &format!(
                "bytes, last reading: {} ({kinds}); peak {}, {limit}",
                Bytes(one.usage_bytes),
                Bytes(one.peak_bytes),
            ),
        );
        let mut start = Vec::new();
        if let (Some(peak), Some(seconds)) = (one.startup_peak_bytes, one.startup_peak_seconds) {
            let anon = one
                .startup_peak_anon_bytes
                .map_or(String::new(), |anon| format!(", {} of it anonymous or shared", Bytes(anon)));
            start.push(format!("peak {} after {}{anon}", Bytes(peak), Seconds(seconds)));
        }
        if let (Some(steady), Some(seconds)) = (one.steady_bytes, one.time_to_stable_seconds) {
            start.push(format!("stable at {} after {}", Bytes(steady), Seconds(seconds)));
        }
        if let Some(drift) = one.drift_bytes_per_second {
            start.push(format!("grows by {} a minute", Bytes((drift * 60.0).max(0.0) as u64)));
        }
        if !start.is_empty() {
            self.say(4, &format!("start-up: {}", start.join("; ")));
        }
        if let Some(loan) = &one.loan {
            self.say(
                4,
                &format!(
                    "lent for its start {}: requests {}, {} of it on loan, {} when settled",
                    self.when(loan.since),
                    quantity(loan.requested_bytes),
                    quantity(loan.lent_bytes),
                    quantity(loan.steady_bytes),
                ),
            );
        }
    }

    fn kill(&mut self, kill: &Kill) {
        let who =
            kill.container.as_ref().map_or("a process in no container".to_owned(), |names| names.full());
        let victim = match (kill.victim_pid, kill.victim_command.as_str()) {
            (0, _) => format!("{} process(es), unnamed", kill.kills),
            (pid, "") => format!("a process without a name (pid {pid})"),
            (pid, command) => format!("{command} (pid {pid})"),
        };
        let age = match kill.age_seconds {
            Some(age) if kill.starting => format!(", {} into its start-up", Seconds(age)),
            Some(age) => format!(", {} after its start", Seconds(age)),
            None => String::new(),
        };
        self.say(2, &format!("OOM kill {} in {who}: {victim}{age}", self.when(kill.at)));
        let limit = kill.limit_bytes.map_or(String::new(), |limit| format!(" {}", Bytes(limit)));
        let scope = match kill.scope {
            OomScope::Inside => format!("a limit{limit} inside the container"),
            OomScope::Container => format!("its own limit{limit}"),
            OomScope::Parent => {
                format!("the limit{limit} of its pod or parent group, shared with what else is in it")
            }
            OomScope::Ancestor => format!("the limit{limit} of a group further up"),
            OomScope::Node => "none: the node ran out of memory".to_owned(),
            OomScope::Unknown if kill.victim_pid == 0 => "not known, only a counter moved".to_owned(),
            OomScope::Unknown => "not known".to_owned(),
        };
        self.say(
            4,
            &format!(
                "whose limit: {scope}; {}, peak {}",
                held(kill.victim_memory(), kill.usage_bytes),
                Bytes(kill.peak_bytes)
            ),
        );
        if let Some(invoker) = &kill.invoker {
            self.say(
                4,
                &format!("{} of {} asked for the memory", command(&kill.invoker_command), invoker.full()),
            );
        }
        if kill.also_starting_count > 0 {
            let shown: Vec<_> = kill
                .also_starting
                .iter()
                .take(3)
                .map(|one| format!("{} at {}", one.names.full(), Bytes(one.usage_bytes)))
                .collect();
            self.say(4, &format!("{} more starting then: {}", kill.also_starting_count, shown.join(", ")));
        }
    }

    fn scale_event(&mut self, event: &ScaleEvent) {
        let from = event.from.map_or(String::new(), |from| format!("from {from} "));
        let reason =
            if event.by_reason.is_empty() { String::new() } else { format!(" ({})", event.by_reason) };
        self.say(
            2,
            &format!(
                "{} {}/{} {from}to {} by {}{reason}, {}",
                event.workload_type,
                event.namespace,
                event.workload,
                event.to,
                named(&event.by_kind, &event.by_name),
                self.when(event.at),
            ),
        );
        let did = match &event.outcome {
            None => "still under way on this node".to_owned(),
            Some(done) => format!(
                "here {} container{}, {} at once, sum of peaks {}, OOM kills: {} of its own, {} of others; {}",
                done.containers,
                plural(done.containers),
                done.starting_max,
                Bytes(done.peak_sum_bytes),
                done.oom_kills,
                done.bystander_kills,
                done.settled_seconds
                    .map_or("not all settled".to_owned(), |s| format!("settled after {}", Seconds(s))),
            ),
        };
        self.say(4, &did);
    }

    fn advice(&mut self, key: &str, advice: &Advice) {
        self.set("", key, advice);
        let mut checks: Vec<_> =
            advice.checks.iter().filter(|check| ["fail", "warn"].contains(&check.grade.as_str())).collect();
        checks.sort_by_key(|check| check.grade != "fail");
        for check in checks.iter().take(CHECKS) {
            self.say(4, &format!("{} {}: {}", check.grade, check.check, check.evidence));
        }
        self.more(checks.len(), CHECKS, "check(s)");
    }

    fn set(&mut self, verb: &str, key: &str, advice: &Advice) {
        let current = |bytes: Option<u64>, known: bool| match (bytes, known) {
            (Some(bytes), _) => format!("now {}", quantity(bytes)),
            (None, true) => "now none".to_owned(),
            (None, false) => "what is set is not known".to_owned(),
        };
        let mut set = Vec::new();
        if let Some(request) = advice.request_bytes {
            set.push(format!(
                "request {} ({})",
                quantity(request),
                current(advice.current_request_bytes, advice.current_request_known)
            ));
        }
        if let Some(limit) = advice.limit_bytes {
            let trial = if advice.limit_is_trial { ", a trial: every start-up was cut off" } else { "" };
            set.push(format!(
                "limit {} ({}{trial})",
                quantity(limit),
                current(advice.current_limit_bytes, advice.current_limit_known)
            ));
        }
        if let Some(missing) = &advice.missing {
            set.push(format!("no number yet ({missing})"));
        }
        if let Some(worst) = advice.worst_bytes {
            set.push(format!("worst need {}", Bytes(worst)));
        }
        self.say(2, &format!("{verb}{key}: {}", set.join(", ")));
        if let Some(reason) = &advice.limit_reason {
            self.say(4, &format!("limit: {reason}"));
        }
    }
}
