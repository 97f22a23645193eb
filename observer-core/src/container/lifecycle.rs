//! One container's life: the start-up clock, the peak, the verdict, the end.
//!
//! Turns what happened to one container into findings. Knows nothing of other containers, sources or clocks.
//!
//! Phases: *running* (seen mid-life) or *starting* -> *stable* | *drifting* | *oscillating* (and back, when memory
//! moves again) -> *ended*. The start-up clock begins at the exec of the entry point. The runtime's own init works in
//! the same cgroup before that: the limit has to hold its memory (runc: about 10 MB) too, so its peak is the
//! start-up's, at zero, and a container that is OOM-killed before its exec has started and ended.

use std::{sync::Arc, time::Duration};

use crate::{
    container::{
        curve::Curve,
        ending::Ending,
        stability::{HORIZON_SECONDS, Verdict},
        startup::{Peak, Sample, Startup},
    },
    model::{
        cause::Cause,
        container::{Container, ContainerState, ExitStatus, Labels},
        event::{Limit, MemoryLevels, MemoryReading},
        finding::{Ended, Finding, FindingKind, Measured, Stable, Started, StartupPeak},
        past_startup::{PastStartup, SPANS, StartupOutcome},
        time::Time,
    },
};

/// A cgroup that got a process but no exec is taken for started after this long: a process moved in by hand.
const EXEC_GRACE: Duration = Duration::from_secs(1);
/// Without a new point the last value is repeated this often, so that a hold can be confirmed.
const REPEAT: Duration = Duration::from_secs(1);

/// Commands that set a container up before its entry point: their exec is not the start.
pub fn is_runtime_init(command: &str) -> bool {
    // runc and crun re-execute themselves from a sealed copy, which is named like the descriptor.
    command.starts_with("runc") || matches!(command, "exe" | "crun" | "youki" | "conmon" | "libcrun") || {
        !command.is_empty() && command.bytes().all(|b| b.is_ascii_digit())
    }
}

#[derive(Debug)]
pub struct Lifecycle {
    container: Container,
    phase: Phase,
    /// As last read; usage and watermark of the last point.
    levels: MemoryLevels,
    /// The larger part. Of a container that is older than the observer there is none.
    run: Option<Box<Run>>,
    ending: Ending,
    /// It counts as started because its runtime was killed; its entry point may yet be executed.
    unexecuted: bool,
    /// Of the start under way, or of the next one.
    cause: Cause,
    ended_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The cgroup exists and has no process.
    Empty,
    /// A process is in it, its exec is awaited.
    Joined(Time),
    Live(ContainerState),
    Ended(ContainerState),
}

/// The start-up under observation.
#[derive(Debug)]
struct Run {
    zero: Time,
    /// The cgroup's watermark at zero: a later watermark is ours only if it is higher.
    watermark_before: u64,
    startup: Startup,
    last_sample: Time,
    reported: Reported,
}

/// What was last said, so that it is said once.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    stable_seconds: Option<f64>,
    plateaus: u32,
    peak: u64,
}

impl Lifecycle {
    /// `cause`: of its first start.
    pub fn new(container: Container, cause: Cause) -> Self {
        Self {
            container,
            phase: Phase::Empty,
            levels: MemoryLevels::default(),
            run: None,
            ending: Ending::default(),
            unexecuted: false,
            cause,
            ended_at: None,
        }
    }

    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Another name; returns the one before.
    pub fn rename(&mut self, labels: Arc<Labels>) -> Arc<Labels> {
        std::mem::replace(&mut self.container.labels, labels)
    }

    /// Why it started has become known.
    pub fn caused(&mut self, cause: Cause) {
        if self.is_live() {
            self.cause = cause;
        }
    }

    pub fn state(&self) -> Option<ContainerState> {
        match self.phase {
            Phase::Empty => None,
            Phase::Joined(_) => Some(ContainerState::Starting),
            Phase::Live(state) => Some(state),
            Phase::Ended(_) => Some(ContainerState::Ended),
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Joined(_) | Phase::Live(_))
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Live(ContainerState::Starting))
    }

    /// Its first process is there, and has not executed the entry point.
    pub fn awaits_exec(&self) -> bool {
        matches!(self.phase, Phase::Joined(_)) || self.unexecuted
    }

    pub fn usage(&self) -> u64 {
        self.levels.usage
    }

    pub fn limit(&self) -> Option<Limit> {
        self.levels.limit
    }

    pub fn age(&self, now: Time) -> Option<f64> {
        self.run.as_ref().map(|run| now.seconds_since(run.zero).max(0.0))
    }

    /// Of the start-up that was seen.
    pub fn curve(&self) -> Option<&Curve<SPANS>> {
        self.run.as_ref().map(|run| run.startup.curve())
    }

    /// Its start-up, as its workload's history keeps it. `None`: it was not seen.
    pub fn past(&self, wall_ns: i64, outcome: StartupOutcome) -> Option<PastStartup> {
        let run = self.run.as_ref().filter(|run| run.startup.last().is_some())?;
        Some(run.startup.past(&self.container.labels.pod, run.zero, wall_ns, outcome))
    }

    /// When its start-up began, as its workload's history has it.
    pub fn started(&self, wall_ns: i64) -> Option<f64> {
        Some(self.run.as_ref()?.zero.unix_seconds(wall_ns))
    }

    /// Ended longer than `retention` ago.
    pub fn is_over(&self, now: Time, retention: Duration) -> bool {
        self.ended_at.is_some_and(|ended| now.since(ended) >= retention)
    }

    /// It ran before the observer did.
    pub fn seen_running(&mut self, at: Time, out: &mut Vec<Finding>) {
        if !self.is_live() {
            self.phase = Phase::Live(ContainerState::Running);
            self.say(at, out, FindingKind::Seen { container: self.container.clone() });
            self.changed(at, out, ContainerState::Ended, ContainerState::Running);
        }
    }

    /// A process arrived. In an empty or ended group that begins a new start-up, which counts from its exec, or
    /// from now where execs are not seen.
    pub fn joined(&mut self, at: Time, pid: u32, exec_will_come: bool, wall_ns: i64, out: &mut Vec<Finding>) {
        self.entered(at);
        if matches!(self.phase, Phase::Joined(_)) {
            self.ending.moved(pid);
        }
        if !exec_will_come && matches!(self.phase, Phase::Joined(_)) {
            self.begin(pid);
            self.start(at, None, 0, wall_ns, out);
        }
    }

    /// `pid`: the first process; 0 if it is not known.
    fn begin(&mut self, pid: u32) {
        if pid != 0 {
            self.ending.began(pid);
        }
    }

    fn entered(&mut self, at: Time) {
        if !self.is_live() {
            self.phase = Phase::Joined(at);
            self.run = None;
            self.ending = Ending::default();
            self.unexecuted = false;
            self.ended_at = None;
        }
    }

    /// A process replaced its image. The first one that is not the runtime's is the entry point.
    pub fn executed(
        &mut self,
        at: Time,
        pid: u32,
        command: &str,
        watermark: u64,
        wall_ns: i64,
        out: &mut Vec<Finding>,
    ) {
        self.entered(at);
        if is_runtime_init(command) {
            return;
        }
        if std::mem::take(&mut self.unexecuted) {
            self.begin(pid);
        }
        if matches!(self.phase, Phase::Joined(_)) {
            self.begin(pid);
            self.start(at, Some(command.to_owned()), watermark, wall_ns, out);
        }
    }

    fn start(
        &mut self,
        zero: Time,
        command: Option<String>,
        watermark: u64,
        wall_ns: i64,
        out: &mut Vec<Finding>,
    ) {
        self.phase = Phase::Live(ContainerState::Starting);
        // Of a group that was used before, the watermark may be an earlier start's.
        let first = self.peak() == 0;
        self.raise_peak(watermark);
        let mut startup = Startup::default();
        if first && watermark > 0 {
            startup.watermark(0.0, watermark);
        }
        self.run = Some(Box::new(Run {
            zero,
            watermark_before: watermark,
            startup,
            last_sample: zero,
            reported: Reported::default(),
        }));
        let container = self.container.clone();
        self.say(
            zero,
            out,
            FindingKind::Started(Started {
                container,
                unix_seconds: zero.unix_seconds(wall_ns),
                command,
                cause: self.cause,
            }),
        );
        self.changed(zero, out, ContainerState::Ended, ContainerState::Starting);
    }

    /// When its start was, by a wall clock that was set.
    pub fn start_dated(&self, at: Time, wall_ns: i64) -> Option<Finding> {
        let unix_seconds = self.run.as_ref()?.zero.unix_seconds(wall_ns);
        Some(Finding {
            at,
            what: FindingKind::StartDated { container: self.container.clone(), unix_seconds },
        })
    }

    /// A pushed point, or the usage file read in between.
    pub fn used(&mut self, at: Time, usage: u64, watermark: Option<u64>, out: &mut Vec<Finding>) {
        self.used_with(at, usage, watermark, None, out);
    }

    /// `anon`: read together with the usage.
    fn used_with(
        &mut self,
        at: Time,
        usage: u64,
        watermark: Option<u64>,
        anon: Option<u64>,
        out: &mut Vec<Finding>,
    ) {
        if matches!(self.phase, Phase::Empty | Phase::Ended(_)) {
            return;
        }
        self.levels.usage = usage;
        self.raise_peak(watermark.unwrap_or(0).max(usage));
        let unreclaimable = self.levels.unreclaimable();
        if let Some(run) = &mut self.run {
            run.sample(at, usage, unreclaimable, anon);
            run.watermark(at, watermark.unwrap_or(0));
            run.startup.limited(self.levels.limit);
        }
        self.say(at, out, FindingKind::Point { container: self.container.clone(), usage });
        self.judge(at, out);
    }

    /// The cgroup's files were read.
    pub fn read(&mut self, at: Time, reading: &MemoryReading, out: &mut Vec<Finding>) {
        let MemoryLevels { usage, watermark, stat, .. } = reading.levels;
        self.levels.update(&reading.levels);
        self.used_with(at, usage, watermark, stat.map(|stat| stat.anon), out);
        if self.is_live() {
            self.measure(at, out);
        }
    }

    /// What the kernel cannot take back before it kills. Bytes.
    pub fn unreclaimable(&self) -> u64 {
        self.levels.unreclaimable()
    }

    fn measure(&self, at: Time, out: &mut Vec<Finding>) {
        let measured = Measured { container: self.container.clone(), levels: self.levels };
        self.say(at, out, FindingKind::Measured(measured));
    }

    pub fn exited(&mut self, pid: u32, status: ExitStatus, init: Option<u32>) {
        self.ending.exited(pid, status, init);
    }

    /// `victim`: if it was recorded. `held`: usage and watermark of its group at that moment.
    pub fn oom_killed(
        &mut self,
        at: Time,
        victim: Option<u32>,
        by_own_limit: bool,
        held: Option<(u64, u64)>,
        wall_ns: i64,
        out: &mut Vec<Finding>,
    ) {
        if let Phase::Joined(since) = self.phase {
            // The runtime itself, or what it began: a start-up that is over before its exec.
            if let Some(victim) = victim {
                self.ending.presumed(victim);
            }
            self.start(since, None, 0, wall_ns, out);
            self.unexecuted = true;
            if let Some((usage, watermark)) = held {
                self.used(at, usage, Some(watermark), out);
            }
        }
        self.ending.killed(at, victim, by_own_limit);
        self.raise_peak(held.map_or(0, |(_, watermark)| watermark));
    }

    /// It shares its memory with a victim of the OOM killer.
    pub fn killed_too(&mut self, at: Time, pid: u32, by_own_limit: bool) {
        self.ending.killed(at, Some(pid), by_own_limit);
    }

    /// A victim of the OOM killer is about to give back its memory. `victim_anon`: see [`Startup::killed`].
    pub fn gives_back(&mut self, at: Time, victim_anon: Option<u64>) {
        if let Some(run) = &mut self.run {
            run.startup.killed(at.seconds_since(run.zero), victim_anon);
        }
    }

    pub fn peak(&self) -> u64 {
        self.levels.watermark.unwrap_or(0)
    }

    fn raise_peak(&mut self, watermark: u64) {
        self.levels.watermark = self.levels.watermark.max(Some(watermark));
    }

    /// Whether [`Self::tick`] or [`Self::is_over`] depends on the time.
    pub fn has_timeouts(&self) -> bool {
        match self.phase {
            Phase::Empty => false,
            Phase::Joined(_) | Phase::Ended(_) => true,
            Phase::Live(_) => self.run.is_some(),
        }
    }

    pub fn tick(&mut self, now: Time, wall_ns: i64, out: &mut Vec<Finding>) {
        if let Phase::Joined(since) = self.phase
            && now.since(since) >= EXEC_GRACE
        {
            self.start(since, None, 0, wall_ns, out);
        }
        let unreclaimable = self.levels.unreclaimable();
        if let (Phase::Live(_), Some(run)) = (self.phase, &mut self.run)
            && run.startup.last().is_some()
            && now.since(run.last_sample) >= REPEAT
        {
            run.sample(now, self.levels.usage, unreclaimable, None);
            self.judge(now, out);
        }
    }

    /// Its last process left, or the group is gone.
    pub fn emptied(&mut self, at: Time, watermark: Option<u64>, out: &mut Vec<Finding>) {
        let was = match self.phase {
            Phase::Live(state) => state,
            Phase::Joined(_) => {
                self.phase = Phase::Empty; // the runtime changed its mind: nothing of the container's ever ran
                return;
            }
            Phase::Empty | Phase::Ended(_) => return,
        };
        if let Some(watermark) = watermark {
            self.raise_peak(watermark);
            if let Some(run) = &mut self.run {
                run.watermark(at, watermark);
                run.startup.limited(self.levels.limit);
            }
        }
        self.measure(at, out);
        self.report_peak(at, out);
        self.phase = Phase::Ended(was);
        let end = self.ending.reported(at);
        self.cause = Cause::after(end.status, end.oom_killed);
        self.ended_at = Some(at);
        let ended = Ended {
            container: self.container.clone(),
            status: end.status,
            oom_killed: end.oom_killed,
            by_own_limit: end.by_own_limit,
            was,
            age_seconds: self.age(at),
        };
        self.say(at, out, FindingKind::Ended(ended));
        self.changed(at, out, was, ContainerState::Ended);
    }

    fn judge(&mut self, at: Time, out: &mut Vec<Finding>) {
        let (Phase::Live(before), Some(run)) = (self.phase, &self.run) else { return };
        let state = match run.startup.verdict() {
            // An oscillating or drifting container that moves on keeps its verdict until there is a new one.
            Verdict::Settling if before != ContainerState::Stable => before,
            Verdict::Settling => ContainerState::Starting,
            Verdict::Stable => ContainerState::Stable,
            Verdict::Drifting => ContainerState::Drifting,
            Verdict::Oscillating => ContainerState::Oscillating,
        };
        // Moving again after the horizon is life, not start-up.
        let late = run.startup.settled().is_some() && at.seconds_since(run.zero) > HORIZON_SECONDS;
        let state = if late && state == ContainerState::Starting { ContainerState::Stable } else { state };
        if state != before {
            self.phase = Phase::Live(state);
            self.report_peak(at, out);
            self.changed(at, out, before, state);
            self.report_verdict(at, state, out);
        }
        if state == ContainerState::Stable {
            self.report_stable(at, out);
        }
    }

    fn report_verdict(&self, at: Time, state: ContainerState, out: &mut Vec<Finding>) {
        let Some(run) = &self.run else { return };
        let container = self.container.clone();
        match (state, run.startup.swing()) {
            (ContainerState::Drifting, _) => {
                let bytes_per_second = run.startup.drift_rate();
                self.say(at, out, FindingKind::Drifting { container, bytes_per_second });
            }
            (ContainerState::Oscillating, Some(swing)) => self.say(
                at,
                out,
                FindingKind::Oscillating {
                    container,
                    low: swing.low as u64,
                    high: swing.high as u64,
                    period_seconds: swing.period,
                    since_seconds: swing.since,
                },
            ),
            _ => {}
        }
    }

    /// Once per settled time: the first as `Stable`, a later one as `LateStep`.
    fn report_stable(&mut self, at: Time, out: &mut Vec<Finding>) {
        let container = self.container.clone();
        let Some(run) = &mut self.run else { return };
        let Some(settled) = run.startup.settled() else { return };
        let plateaus = run.startup.plateaus();
        let before = run.reported.stable_seconds;
        if before.is_some() && plateaus == run.reported.plateaus {
            return;
        }
        run.reported = Reported { stable_seconds: Some(settled.at), plateaus, ..run.reported };
        let stable = Stable {
            container: container.clone(),
            seconds: settled.at,
            confirmed_seconds: settled.confirmed_at,
            level: settled.level as u64,
            overshoot: run.startup.overshoot().unwrap_or(1.0),
            plateaus,
            cause: self.cause,
        };
        let what = match before {
            Some(before_seconds) if settled.at > before_seconds => {
                FindingKind::LateStep { container, stable, before_seconds }
            }
            Some(_) => return, // memory was released later: the time stands
            None => FindingKind::Stable(stable),
        };
        self.report_peak(at, out);
        self.say(at, out, what);
    }

    /// With the first verdict, and again when a late step brought a higher one.
    fn report_peak(&mut self, at: Time, out: &mut Vec<Finding>) {
        let container = self.container.clone();
        let Some(run) = &mut self.run else { return };
        let peak = run.startup.peak();
        let late = run.reported.peak > 0;
        if peak.bytes <= run.reported.peak || (late && run.startup.verdict() != Verdict::Stable) {
            return;
        }
        run.reported.peak = peak.bytes;
        let Peak { bytes, seconds, anon, limit } = peak;
        let peak = StartupPeak { container, bytes, seconds, anon, limit };
        self.say(at, out, FindingKind::StartupPeak(peak));
    }

    fn changed(&self, at: Time, out: &mut Vec<Finding>, from: ContainerState, to: ContainerState) {
        self.say(at, out, FindingKind::State { container: self.container.clone(), from, to });
    }

    fn say(&self, at: Time, out: &mut Vec<Finding>, what: FindingKind) {
        out.push(Finding { at, what });
    }
}

impl Run {
    fn sample(&mut self, at: Time, usage: u64, unreclaimable: u64, anon: Option<u64>) {
        if at < self.zero {
            return; // a record of another CPU that was under way when the entry point started
        }
        self.last_sample = self.last_sample.max(at);
        let seconds = at.seconds_since(self.zero);
        self.startup.sample(Sample { seconds, usage, unreclaimable, anon });
    }

    fn watermark(&mut self, at: Time, watermark: u64) {
        if at >= self.zero && watermark > self.watermark_before {
            self.startup.watermark(at.seconds_since(self.zero), watermark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_inits_are_not_entry_points() {
        for command in ["runc:[2:INIT]", "runc", "crun", "exe", "6", "conmon"] {
            assert!(is_runtime_init(command), "{command}");
        }
        for command in ["java", "python3", "nginx", "7zip", "executor"] {
            assert!(!is_runtime_init(command), "{command}");
        }
    }

    #[test]
    fn a_peak_is_reported_with_the_limit_it_was_raised_under() {
        const MIB: u64 = 1 << 20;
        let at = |tenths: u64| Time::from_nanos(tenths * 100_000_000);
        let reading = |limit: Option<u64>, usage: u64| MemoryReading {
            levels: MemoryLevels {
                usage: usage * MIB,
                limit: limit.map(|limit| Limit::Bytes(limit * MIB)),
                ..MemoryLevels::default()
            },
            ..MemoryReading::default()
        };
        // Unknown at the peak: the first that was known.
        for first in [Some(300), None] {
            let container = Container { cgroup: 1, labels: Arc::default() };
            let (mut life, mut out) = (Lifecycle::new(container, Cause::default()), Vec::new());
            life.executed(at(0), 1, "app", 0, 0, &mut out);
            life.read(at(1), &reading(first, 50), &mut out);
            life.used(at(4), 150 * MIB, None, &mut out);
            life.read(at(5), &reading(Some(300), 60), &mut out);
            life.read(at(50), &reading(Some(100), 60), &mut out);
            (51..300).for_each(|tenths| life.tick(at(tenths), 0, &mut out));
            let peaks: Vec<_> = out
                .iter()
                .filter_map(|finding| match &finding.what {
                    FindingKind::StartupPeak(peak) => Some((peak.bytes / MIB, peak.limit)),
                    _ => None,
                })
                .collect();
            assert_eq!(peaks, [(150, Some(Limit::Bytes(300 * MIB)))]);
        }
    }

    #[test]
    fn the_state_of_one_container_fits_in_a_page() {
        let (life, run) = (size_of::<Lifecycle>(), size_of::<Run>());
        assert!(life < 512 && run < 4096, "{life} and {run} bytes");
    }
}
