//! One row: start the reader, let it settle, measure it under a load.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use observer_tests::{
    daemon::{Daemon, binary, free_port, sum},
    group::Tree,
    interrupted,
};

use super::{
    Churn, Cli, Load, Own, Reader, Row,
    load::{self, Crowd},
    report,
};

/// Start-ups of before are over, what follows growth is detached, and what did not change is no longer followed.
const SETTLE: Duration = Duration::from_secs(70);
/// And each memory.stat was read once: the observer reads so many a second.
const STATS_A_SECOND: u64 = 16;
/// cAdvisor needs longer: it starts one container after the other, and looks at each every 10 to 15 s.
const SETTLE_PEER: Duration = Duration::from_secs(60);
/// After a churn, until memory is looked at again.
const AFTER_CHURN: Duration = Duration::from_secs(60);
const SCRAPES: u32 = 5;

pub fn all(cli: &Cli) -> Result<()> {
    let tree = Tree::find().context("the benchmark needs memory cgroups: run as root")?;
    let directory = std::env::temp_dir().join(format!("observer-scale-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    interrupted::clean_up(directory.clone())?;
    let bench = Bench { tree, observer: binary("observer")?, workload: binary("workload")?, directory, cli };
    let done = bench.rows();
    let _ = fs::remove_dir_all(&bench.directory);
    done
}

struct Bench<'a> {
    tree: Tree,
    observer: PathBuf,
    workload: PathBuf,
    directory: PathBuf,
    cli: &'a Cli,
}

/// Whoever is measured.
struct Running {
    pid: u32,
    address: String,
    _ends: Ends,
}

/// Held for its drop.
#[allow(dead_code)]
enum Ends {
    Daemon(Daemon),
    Peer(Peer),
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already is what is wanted
        let _ = self.0.wait();
        interrupted::ended(&self.0);
    }
}

impl Bench<'_> {
    fn rows(&self) -> Result<()> {
        let settings: Vec<(usize, Load, Reader)> = self.settings();
        let left = |from: usize| settings[from..].iter().map(|setting| self.takes(setting)).sum::<Duration>();
        eprintln!("{} rows, some {} min", settings.len(), minutes(left(0)));
        println!("{}", report::HEAD);
        let mut crowd = None;
        for (n, setting) in settings.iter().enumerate() {
            let (cgroups, load, by) = *setting;
            if crowd.as_ref().is_none_or(|(of, _)| *of != cgroups) {
                drop(crowd.take());
                eprintln!("making {cgroups} cgroups");
                crowd = Some((cgroups, Crowd::new(&self.tree, cgroups)?));
            }
            eprintln!(
                "row {} of {}, some {} min left: {cgroups} cgroups, {}, {}",
                n + 1,
                settings.len(),
                minutes(left(n)),
                report::load(load),
                report::reader(by),
            );
            let row = self.measure(by, load, cgroups)?;
            println!("{}", report::line(&row));
            if let Some(rows) = &self.cli.rows {
                let mut rows = OpenOptions::new().create(true).append(true).open(rows)?;
                writeln!(rows, "{}", serde_json::to_string(&row)?)?;
            }
        }
        Ok(())
    }

    fn settings(&self) -> Vec<(usize, Load, Reader)> {
        let mut settings = Vec::new();
        for &cgroups in &self.cli.cgroups {
            for &load in &self.cli.load {
                if load == Load::Churn && cgroups != self.cli.churn_beside {
                    continue;
                }
                let there = |by: &Reader| *by != Reader::Cadvisor || self.cli.cadvisor.is_some();
                settings.extend(self.cli.by.iter().copied().filter(there).map(|by| (cgroups, load, by)));
            }
        }
        settings
    }

    fn takes(&self, (cgroups, load, by): &(usize, Load, Reader)) -> Duration {
        let loaded = match load {
            Load::Idle | Load::Starts => Duration::from_secs(self.cli.seconds),
            Load::Churn => Duration::from_secs(self.cli.churn_seconds) + AFTER_CHURN,
        };
        settle(*by, *cgroups) + loaded + Duration::from_millis(6_000 + *cgroups as u64 * 3)
    }

    fn start(&self, by: Reader) -> Result<Running> {
        let args: &[&str] = match by {
            Reader::Pass => &[],
            Reader::Files => &["--disable-probe", "cgroup_pass"],
            Reader::Cadvisor => {
                let program = self.cli.cadvisor.as_ref().context("no cAdvisor")?;
                let address = format!("127.0.0.1:{}", free_port()?);
                let mut peer = Command::new(program);
                peer.arg(&address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let peer = peer.spawn().with_context(|| format!("cannot start {}", program.display()))?;
                interrupted::started(&peer);
                return Ok(Running { pid: peer.id(), address, _ends: Ends::Peer(Peer(peer)) });
            }
        };
        let mut daemon = Daemon::start(&self.observer, &self.directory, args)?;
        daemon.ready(Duration::from_secs(60))?;
        Ok(Running { pid: daemon.pid(), address: daemon.address.clone(), _ends: Ends::Daemon(daemon) })
    }

    fn measure(&self, by: Reader, load: Load, cgroups: usize) -> Result<Row> {
        let running = self.start(by)?;
        sleep(settle(by, cgroups));
        let known = running.text()?;
        let of_observer = by != Reader::Cadvisor;
        if of_observer {
            let known = sum(&known, "observer_node_containers", &[]).unwrap_or(0.0);
            ensure!(known >= cgroups as f64, "{known} containers known of {cgroups}");
        } else {
            let known =
                known.lines().filter(|line| line.starts_with("container_memory_usage_bytes{")).count();
            ensure!(known >= cgroups, "cAdvisor knows {known} containers of {cgroups}");
        }
        let entries = || if of_observer { entries() } else { Ok(0) };
        let (before_entries, before_starts) = (entries()?, starts(&known));
        let scrape = || -> Result<usize> {
            let mut zipped = 0;
            for _ in 0..SCRAPES {
                zipped = running.scrape()?.len();
                sleep(Duration::from_millis(1100)); // rendered at most once a second
            }
            Ok(zipped)
        };
        if load == Load::Churn {
            scrape()?; // so that memory before and after is that of one that is scraped
        }
        let before_mib = resident_mib(running.pid)?;
        let (before, began) = (cpu_seconds(running.pid)?, Instant::now());
        match load {
            Load::Idle => sleep(Duration::from_secs(self.cli.seconds)),
            Load::Starts => load::starts(&self.tree, &self.workload, Duration::from_secs(self.cli.seconds))?,
            Load::Churn => {
                let (groups, span) = (self.cli.churn, Duration::from_secs(self.cli.churn_seconds));
                load::churn(&self.tree, groups, span, |n| eprintln!("  {n} of {groups} cgroups"))?;
            }
        }
        let cpu = (cpu_seconds(running.pid)? - before) / began.elapsed().as_secs_f64();
        let end_mib = resident_mib(running.pid)?;
        if load == Load::Churn {
            sleep(AFTER_CHURN);
        }
        let (before, began) = (cpu_seconds(running.pid)?, Instant::now());
        let zipped = scrape()?;
        // After a churn it rests.
        let beside = if load == Load::Churn { 0.0 } else { cpu * began.elapsed().as_secs_f64() };
        let scrapes = cpu_seconds(running.pid)? - before - beside;
        let after_mib = resident_mib(running.pid)?;
        let text = running.text()?;
        let own = match of_observer {
            true => Some(Own {
                lost_records: sum(&text, "observer_lost_records_total", &[]).unwrap_or(0.0),
                entries_left: entries()? - before_entries,
            }),
            false => None,
        };
        let churn = (load == Load::Churn).then(|| Churn {
            groups: self.cli.churn,
            seconds: self.cli.churn_seconds,
            before_mib,
            end_mib,
            after_mib,
            seen: of_observer.then(|| starts(&text) - before_starts),
        });
        Ok(Row {
            cgroups,
            load,
            by,
            cpu_percent: cpu * 100.0,
            resident_mib: after_mib,
            scrape_cpu_ms: scrapes.max(0.0) * 1000.0 / f64::from(SCRAPES),
            scrape_gzip_bytes: zipped,
            series: text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count(),
            own,
            churn,
            machine: machine(&self.tree),
            beside: self.cli.beside.clone(),
            date: date()?,
        })
    }
}

fn settle(by: Reader, cgroups: usize) -> Duration {
    if by == Reader::Cadvisor {
        return SETTLE_PEER;
    }
    SETTLE + Duration::from_secs(cgroups as u64 / STATS_A_SECOND)
}

fn minutes(span: Duration) -> u64 {
    span.as_secs().div_ceil(60)
}

impl Running {
    fn text(&self) -> Result<String> {
        observer_tests::daemon::get(&format!("http://{}/metrics", self.address))
    }

    /// As Prometheus asks for it.
    fn scrape(&self) -> Result<Vec<u8>> {
        let ask = ureq::get(format!("http://{}/metrics", self.address)).header("accept-encoding", "gzip");
        let ask = ask.config().timeout_global(Some(Duration::from_secs(30))).build();
        Ok(ask.call()?.body_mut().with_config().limit(1 << 30).read_to_vec()?)
    }
}

fn starts(text: &str) -> f64 {
    sum(text, "observer_workload_starts_total", &[]).unwrap_or(0.0)
}

/// Entries of the daemon's table of containers: of the maps of that name, the one made last.
fn entries() -> Result<i64> {
    let maps = aya::maps::loaded_maps().filter_map(Result::ok);
    let named = maps.filter(|map| map.name_as_str() == Some("CONTAINERS")).map(|map| map.id());
    let map = MapData::from_id(named.max().context("no map CONTAINERS")?)?;
    let table = HashMap::<_, u64, u32>::try_from(Map::HashMap(map))?;
    Ok(table.keys().filter_map(Result::ok).count() as i64)
}

/// Of the whole process, threads that ended included.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both write to the variables they are given.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid.cast_signed(), &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0
    };
    ensure!(!failed, "process {pid} has no clock: it ended");
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

fn resident_mib(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = text.split_whitespace().nth(1).context("no resident pages in statm")?.parse()?;
    Ok((pages * rustix::param::page_size() as u64) as f64 / f64::from(1 << 20))
}

fn machine(tree: &Tree) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unnamed processor", |(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let version = if tree.is_v1() { "v1" } else { "v2" };
    format!("{processors} processors ({model}), Linux {}, cgroup {version}", kernel.trim())
}

fn date() -> Result<String> {
    let output = Command::new("date").arg("+%F").output().context("cannot start date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
