//! What following advice does: `cargo xtask bench advise`.
//!
//! Synthetic workloads with a known truth, and recorded traces if given: eight start-ups are seen, forty more are
//! replayed against what each rule would have set. Of a recorded trace there is one start-up, so that the others are it
//! with another height, drawn as for the synthetic ones. Beside the observer's advice the published rules of others,
//! implemented here and nowhere else:
//! - max + 20 %: request = limit = highest peak and a fifth, with exact peaks;
//! - KRR (strategy `simple`): request = limit = highest of what is scraped every 30 s, and 15 %;
//! - VPA recommender: request = 90th percentile of daily peaks (a start-up a day, exact) and 15 %; the limit follows in
//!   the proportion that was set, here 1;
//! - VPA at equal safety: the same, its margin raised until no more start-ups are killed than by the advice.

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use observer::commands::analyse::{Reading, Row, input};
use observer_core::{
    advice::{Settings, concurrency},
    container::{
        stability::Verdict,
        startup::{Sample, Startup},
    },
    model::{
        advice::{Advice, Check, Facts, Grade, Startups, Steady},
        past_startup::{PastStartup, StartupOutcome},
        time::Time,
        usage_histogram::Levels,
    },
};
use observer_tests::synthetic::{self, Class, Kind};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Normal};

#[derive(Parser)]
struct Cli {
    /// Workloads per class
    #[arg(long, default_value_t = 12)]
    seeds: u64,
    /// First seed, to try unseen ones
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Recorded traces (CSV, as for `observer analyse`): compared by themselves, after the synthetic ones
    traces: Vec<PathBuf>,
}

const MIB: f64 = 1024.0 * 1024.0;
const SEEN: usize = 8;
const REPLAYED: usize = 40;
/// How much the start-ups of one workload differ: standard deviation of the logarithm of their height.
const DIFFER: [f64; 3] = [0.02, 0.08, 0.2];
/// Seconds between two scrapes of others.
const SCRAPE: f64 = 30.0;

struct Workload {
    name: String,
    /// Of a recorded one nobody knows.
    kind: Option<Kind>,
    seen: Vec<Run>,
    next: Vec<Run>,
}

struct Run {
    past: PastStartup,
    /// Of the start-up's working set, exact: a limit below it kills, since the rest of the cache is taken back first.
    highest: f64,
    scraped: f64,
    levels: Vec<(f64, f64)>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut workloads = Vec::new();
    for class in Class::ALL {
        for seed in cli.from..cli.from + cli.seeds {
            let trace = synthetic::trace(class, seed, false);
            let rows: Vec<Row> =
                trace.samples.iter().map(|(seconds, mib)| synthetic(*seconds, *mib)).collect();
            workloads.push(workload(&format!("{class:?}"), Some(class.kind()), &rows, seed, class as u64));
        }
    }
    leaks(&workloads)?;
    let settle = |w: &&Workload| matches!(w.kind, Some(Kind::Stable | Kind::Oscillating | Kind::Bursts));
    let workloads: Vec<&Workload> = workloads.iter().filter(settle).collect();
    compare(&workloads)?;
    stagger(&workloads)?;
    if !cli.traces.is_empty() {
        recorded(&cli)?;
    }
    Ok(())
}

fn recorded(cli: &Cli) -> Result<()> {
    let mut workloads = Vec::new();
    for (index, path) in cli.traces.iter().enumerate() {
        let mut rows = Vec::new();
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        input::read(file, &Reading::default(), |row| rows.push(row))
            .with_context(|| format!("in {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for seed in cli.from..cli.from + cli.seeds {
            workloads.push(workload(&name, None, &rows, seed, 100 + index as u64));
        }
    }
    println!("\nrecorded: {} traces, {} workloads of each", cli.traces.len(), cli.seeds);
    compare(&workloads.iter().collect::<Vec<_>>())
}

fn synthetic(seconds: f64, mib: f64) -> Row {
    Row {
        seconds,
        usage: (mib * MIB) as u64,
        anon: None,
        inactive_file: None,
        active_file: None,
        begins: false,
    }
}

fn workload(name: &str, kind: Option<Kind>, rows: &[Row], seed: u64, which: u64) -> Workload {
    let mut rng = StdRng::seed_from_u64(seed * 1000 + which);
    let differ = Normal::new(0.0, DIFFER[seed as usize % DIFFER.len()]).unwrap_or_else(|_| unreachable!());
    let needs: Vec<u64> = (0..rows.len()).map(|at| need(&rows[at..])).collect();
    let mut run = |day: usize| run(rows, &needs, differ.sample(&mut rng).exp(), day);
    Workload {
        name: name.to_owned(),
        kind,
        seen: (0..SEEN).map(&mut run).collect(),
        next: (SEEN..SEEN + REPLAYED).map(&mut run).collect(),
    }
}

fn run(rows: &[Row], needs: &[u64], height: f64, day: usize) -> Run {
    let mut startup = Startup::default();
    let (mut highest, mut scraped, mut next, mut levels, mut before) =
        (0.0f64, 0.0f64, SCRAPE, Vec::new(), 0.0);
    for (row, need) in rows.iter().zip(needs) {
        let seconds = row.seconds;
        let higher = |bytes: u64| (bytes as f64 * height) as u64;
        let (usage, anon, working_set) = (higher(row.usage), row.anon.map(higher), higher(row.working_set()));
        if startup.verdict() == Verdict::Settling {
            highest = highest.max(higher(*need) as f64);
        }
        startup.sample(Sample { seconds, usage, unreclaimable: working_set, anon });
        // What others scrape and set limits by is the working set.
        let bytes = working_set as f64;
        if seconds >= next {
            scraped = scraped.max(bytes);
            next += SCRAPE;
        }
        if matches!(startup.verdict(), Verdict::Stable | Verdict::Oscillating) {
            levels.push((bytes, seconds - before));
        }
        before = seconds;
    }
    let outcome = match startup.verdict() {
        Verdict::Stable => StartupOutcome::Stable,
        Verdict::Oscillating => StartupOutcome::Oscillating,
        Verdict::Drifting => StartupOutcome::Drifting,
        _ => StartupOutcome::Ended,
    };
    let past = startup.past("", Time::default(), (day as i64) * 86_400_000_000_000, outcome);
    Run { past, highest, scraped, levels }
}

/// Working set of the first of these rows, exactly. The kernel shows the cache up to two seconds late (mm/memcontrol.c,
/// FLUSH_TIME): what it reports within three is there already, and would be taken back before anybody is killed.
fn need(rows: &[Row]) -> u64 {
    let Some(now) = rows.first() else { return 0 };
    let soon = rows.iter().take_while(|row| row.seconds <= now.seconds + 3.0);
    now.usage.saturating_sub(soon.filter_map(|row| row.inactive_file).max().unwrap_or(0))
}

fn facts(workload: &Workload) -> (Facts, Vec<PastStartup>) {
    let past: Vec<PastStartup> = workload.seen.iter().map(|run| run.past.clone()).collect();
    let startups = Startups::of(&past);
    let mut levels = Levels::default();
    for (day, run) in workload.seen.iter().enumerate() {
        for (bytes, seconds) in &run.levels {
            levels.add(*bytes as u64, *seconds, day as f64 * 86400.0);
        }
    }
    (Facts { steady: Steady::of(Some(&levels), &startups), startups, ..Facts::default() }, past)
}

/// No verdict of pass on a leak.
fn leaks(workloads: &[Workload]) -> Result<()> {
    let (mut all, mut passed) = (0, 0);
    for workload in workloads.iter().filter(|workload| workload.kind == Some(Kind::Leak)) {
        let (mut facts, _) = facts(workload);
        facts.current.limit = Some(Some(1 << 40));
        let advice = Advice::of(&facts, &Settings::default());
        all += 1;
        let pass = |check| advice.verdict(check).is_some_and(|verdict| verdict.grade == Grade::Pass);
        passed += usize::from(pass(Check::Settles) || pass(Check::LimitCoversPeak));
    }
    println!("leaks: {passed} of {all} passed as settling or with a limit that holds");
    ensure!(all > 0 && passed == 0, "a leak passed");
    Ok(())
}

#[derive(Default)]
struct Score {
    killed: u64,
    workloads_killed: u64,
    reserved: f64,
    limits: f64,
    idle: f64,
}

impl Score {
    fn add(&mut self, workload: &Workload, request: f64, limit: f64) {
        let killed = workload.next.iter().filter(|run| run.highest > limit).count() as u64;
        self.killed += killed;
        self.workloads_killed += u64::from(killed > 0);
        self.reserved += request;
        self.limits += limit;
        let lives = workload.next.iter().filter_map(|run| run.past.steady).map(|steady| steady as f64);
        let lives: Vec<f64> = lives.collect();
        self.idle += (request - lives.iter().sum::<f64>() / lives.len().max(1) as f64).max(0.0);
    }

    fn say(&self, name: &str, ours: &Score, starts: u64) {
        println!(
            "{name:24} {:5} of {starts} ({:4.1} %)  {:4}  {:8.0}  {:6.2}  {:8.0}  {:8.0}",
            self.killed,
            100.0 * self.killed as f64 / starts as f64,
            self.workloads_killed,
            self.reserved / MIB,
            self.reserved / ours.reserved,
            self.idle / MIB,
            self.limits / MIB,
        );
    }
}

fn compare(workloads: &[&Workload]) -> Result<()> {
    let [mut ours, mut max20, mut krr, mut vpa] = [(); 4].map(|()| Score::default());
    let (mut advised, mut unknown) = (Vec::new(), BTreeMap::<&str, u64>::new());
    for workload in workloads {
        let (facts, _) = facts(workload);
        let numbers = Advice::of(&facts, &Settings::default()).numbers;
        let (Some(request), Some(limit)) = (numbers.request, numbers.limit) else {
            *unknown.entry(&workload.name).or_default() += 1;
            continue;
        };
        advised.push(*workload);
        let highest = workload.seen.iter().map(|run| run.highest).fold(0.0, f64::max);
        let scraped = workload.seen.iter().map(|run| run.scraped).fold(0.0, f64::max);
        ours.add(workload, request as f64, limit.bytes() as f64);
        max20.add(workload, highest * 1.2, highest * 1.2);
        krr.add(workload, scraped * 1.15, scraped * 1.15);
        let target = p90(workload) * 1.15;
        vpa.add(workload, target, target);
    }
    // The margin at which the percentile rule kills no more than the advice.
    let mut margin = 1.15;
    let safe = loop {
        let mut score = Score::default();
        for workload in &advised {
            let target = p90(workload) * margin;
            score.add(workload, target, target);
        }
        if score.killed <= ours.killed || margin > 10.0 {
            break score;
        }
        margin += 0.05;
    };
    let starts = (advised.len() * REPLAYED) as u64;
    println!(
        "\n{} workloads advised, not advised {unknown:?}; {SEEN} start-ups seen, {REPLAYED} replayed each",
        advised.len()
    );
    println!(
        "rule                     OOM-killed start-ups     workloads  reserved MiB  of ours  idle MiB  limits MiB"
    );
    ours.say("observer advise", &ours, starts);
    max20.say("max + 20 %", &ours, starts);
    krr.say("KRR simple", &ours, starts);
    vpa.say("VPA p90 + 15 %", &ours, starts);
    safe.say(&format!("VPA p90 + {:.0} %", (margin - 1.0) * 100.0), &ours, starts);
    Ok(())
}

fn p90(workload: &Workload) -> f64 {
    let mut peaks: Vec<f64> = workload.seen.iter().map(|run| run.highest).collect();
    peaks.sort_by(f64::total_cmp);
    peaks[((peaks.len() - 1) as f64 * 0.9).ceil() as usize]
}

/// Start-ups begun together as advised, and all at once as an autoscaler does, on a node with room for twelve.
fn stagger(workloads: &[&Workload]) -> Result<()> {
    let (mut nodes, mut short_together, mut short_at_once, mut short_spread, mut no_gap) = (0, 0, 0, 0, 0);
    for workload in workloads {
        let (facts, past) = facts(workload);
        let Some(steady) = facts.steady else { continue };
        let headroom = steady.max * 12;
        let Some(together) = concurrency::together(&past, headroom) else { continue };
        nodes += 1;
        let sum = |count: u64, gap: f64| highest(workload, count, gap);
        short_at_once += u64::from(sum(together.settled, 0.0) > headroom as f64);
        short_together += u64::from(sum(together.at_once, 0.0) > headroom as f64);
        match together.gap {
            Some(gap) => short_spread += u64::from(sum(together.settled, gap) > headroom as f64),
            None => no_gap += 1,
        }
    }
    println!(
        "\n{nodes} nodes with room for twelve settled: all at once runs {short_at_once} short, the number advised at once {short_together}, spread as advised {short_spread}; {no_gap} have no room for the last one's spike, at any gap"
    );
    Ok(())
}

/// Highest sum of start-ups that were not among those seen.
fn highest(workload: &Workload, count: u64, gap: f64) -> f64 {
    let step = 0.5;
    let runs: Vec<&PastStartup> =
        workload.next.iter().map(|run| &run.past).cycle().take(count as usize).collect();
    let until = 300.0 + gap * count as f64;
    let at = |i: usize, now: f64| {
        let age = now - i as f64 * gap;
        if age < 0.0 { 0 } else { runs[i].highest_between(age, age + step) }
    };
    (0..(until / step) as usize)
        .map(|tick| (0..runs.len()).map(|i| at(i, tick as f64 * step) as f64).sum())
        .fold(0.0, f64::max)
}
