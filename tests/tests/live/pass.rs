//! The pass over all cgroups beside the files: the same moment, the same numbers.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer::{
    config::{ProbeChoice, Roots},
    sources::{
        cgroup::{memory, tree},
        kernel::{
            Kernel,
            attach::{self, Attached},
            support::Support,
        },
        sampler::table,
    },
};
use observer_core::model::{
    event::{CgroupVersion, MemoryReading},
    probe_id::ProbeId,
};
use observer_ebpf::probes::cgroup_pass::WHOLE_EVERY;
use observer_tests::{daemon::Daemon, group::Group};

use super::kernel::{SOON, group, own, run};
use crate::{Case, Needs::Probes, Stage};

pub const CASES: &[Case] = &[
    Case { name: "pass_reads_what_the_files_say", needs: Probes, run: parity },
    Case { name: "pass_finds_every_cgroup_there_is", needs: Probes, run: complete },
    Case { name: "pass_lists_what_changed_since_the_last_and_nothing_else_did", needs: Probes, run: changed },
    Case { name: "pass_survives_cgroups_that_come_and_go_meanwhile", needs: Probes, run: churn },
    Case { name: "pass_without_room_for_all_keeps_the_containers", needs: Probes, run: overflow },
    Case { name: "a_container_at_rest_is_read_without_opening_a_file", needs: Probes, run: no_file },
];

const MIB: u64 = 1 << 20;

fn support() -> Support {
    Support::gather(&Roots { proc: "/proc".into(), sys: "/sys".into(), cgroup: None })
}

/// The programs with their pass; `None` where this kernel cannot run it, which its status says.
fn attached(support: &Support) -> Result<Option<Attached>> {
    let attached = attach::all(support, &ProbeChoice::default());
    let status = attached.statuses.iter().find(|status| status.probe == ProbeId::CgroupPass);
    let status = status.context("no status of cgroup_pass")?;
    if attached.pass.is_none() {
        let outcome = status.outcome.name();
        ensure!(outcome == "unsupported", "cgroup_pass is {outcome}: {:?}", status.outcome.why());
        eprintln!("no pass here: {:?}", status.outcome.why());
        return Ok(None);
    }
    Ok(Some(attached))
}

/// A group with one below it that holds memory of each kind, and that met its limit.
fn parity(stage: &Stage) -> Result<()> {
    let support = support();
    let Some(mut attached) = attached(&support)? else { return Ok(()) };
    let pass = attached.pass.as_mut().context("no pass")?;
    let hierarchy = support.hierarchy.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let outer = group(stage, "parity")?;
    outer.limit(160 * MIB)?;
    let inner = group(stage, "parity/inner")?;
    if hierarchy.version == CgroupVersion::V2 {
        inner.throttle(300 * MIB)?;
    }
    let files = std::env::var_os("TEST_FILES").map_or_else(|| stage.directory.clone(), Into::into);
    let cache = files.join("parity.bin");
    let tmpfs = std::path::Path::new("/dev/shm").join(format!("observer-parity-{}", std::process::id()));
    let script = format!(
        "dd if=/dev/zero of={} bs=1M count=60 2>/dev/null; dd if=/dev/zero of={} bs=1M count=20 2>/dev/null",
        cache.display(),
        tmpfs.display()
    );
    let mut filled = inner.spawn("/bin/sh".as_ref(), &["-c", &script])?;
    filled.wait()?;
    // Above the limit, so that reclaim, limit events and a kill happen.
    let mut killed = run(stage, &inner, "child --size 200 --seconds 0")?;
    killed.wait()?;
    ensure!(inner.oom_kills()? > 0, "nothing was killed");
    let mut held = run(stage, &inner, "spike --peak 60 --steady 40 --ramp 0.2 --hold 0.1 --seconds 600")?;
    // The truth holds something to compare.
    let began = Instant::now();
    while memory::reading(inner.directory(), hierarchy.version)?.levels.stat.map_or(0, |stat| stat.anon)
        < 30 * MIB
    {
        ensure!(began.elapsed() < 4 * SOON, "the workload holds no anonymous memory");
        sleep(Duration::from_millis(100));
    }
    sleep(Duration::from_secs(4)); // per-CPU batches drain, and the kernel sums pressure every two seconds
    let compared = [&outer, &inner].map(|group| -> Result<()> {
        let id = fs::metadata(group.directory())?.ino();
        // Three tries: writing back moves pages between lists meanwhile.
        let mut last = Ok(());
        for _ in 0..3 {
            let before = memory::reading(group.directory(), hierarchy.version)?;
            for _ in 1..WHOLE_EVERY {
                pass.run()?; // of a group at rest, one of them reads everything
            }
            let found = pass.run()?;
            let mut rows = table::Rows::default();
            rows.follow(found.records, None, &mut Vec::new());
            let at = found.records.iter().position(|record| record.cgroup == id);
            let at = at.with_context(|| format!("{} is not in the table", group.path()))?;
            let by_pass = table::reading(
                &found.records[at],
                &rows.whole(at as u32),
                hierarchy.version,
                support.page_size,
            );
            let after = memory::reading(group.directory(), hierarchy.version)?;
            last = same(group.path(), &by_pass, &before, &after, support.page_size * support.cpus);
            if last.is_ok() {
                break;
            }
            sleep(Duration::from_secs(1));
        }
        last
    });
    held.kill()?;
    held.wait()?;
    let _ = fs::remove_file(cache); // made by another process, which may have failed
    let _ = fs::remove_file(tmpfs);
    compared.into_iter().collect()
}

/// Between the files read before and after it, give or take:
/// - 64 pages for each CPU of usage, swap and peak, which the kernel charges in stocks of that size
///   (MEMCG_CHARGE_BATCH);
/// - 64 pages for each CPU of kinds, by which memory.stat may be behind before it is flushed, and 31 folios that wait
///   to be put on a list;
/// - nothing of limits and events, which are the same words of memory;
/// - a microsecond of pressure, to which the file rounds down.
fn same(
    path: &str,
    pass: &MemoryReading,
    before: &MemoryReading,
    after: &MemoryReading,
    page_of_each_cpu: u64,
) -> Result<()> {
    let stock = 64 * page_of_each_cpu;
    let kinds = stock + 31 * page_of_each_cpu;
    type Value = fn(&MemoryReading) -> Option<u64>;
    let values: [(&str, Value, u64); 16] = [
        ("usage", |of| Some(of.levels.usage), stock),
        ("peak", |of| of.levels.watermark, stock),
        ("limit", |of| of.levels.limit?.bytes(), 0),
        ("high", |of| of.levels.high?.bytes(), 0),
        ("anonymous", |of| Some(of.levels.stat?.anon), kinds),
        ("inactive file", |of| Some(of.levels.stat?.inactive_file), kinds),
        ("swap", |of| of.levels.swap, stock),
        ("max events", |of| Some(of.events?.max), 0),
        ("high events", |of| of.events?.high, 0),
        ("low events", |of| of.events?.low, 0),
        ("oom events", |of| of.events?.oom, 0),
        ("oom kills", |of| Some(of.events?.oom_kill), 0),
        ("oom group kills", |of| of.events?.oom_group_kill, 0),
        ("oom events of its own", |of| of.events?.oom_local, 0),
        ("some pressure", |of| Some(of.pressure?.some_ns), 1_000),
        ("full pressure", |of| Some(of.pressure?.full_ns), 1_000),
    ];
    for (name, value, tolerance) in values {
        let (Some(first), Some(second)) = (value(before), value(after)) else {
            continue; // this kernel's files do not say
        };
        let by_pass =
            value(pass).with_context(|| format!("{path}: {name} is in the files, not in the pass"))?;
        let (low, high) = (first.min(second).saturating_sub(tolerance), first.max(second) + tolerance);
        ensure!(
            (low..=high).contains(&by_pass),
            "{path}: {name} is {by_pass} by the pass, {first} and {second} by files, tolerance {tolerance}"
        );
    }
    Ok(())
}

fn complete(stage: &Stage) -> Result<()> {
    let support = support();
    let Some(mut attached) = attached(&support)? else { return Ok(()) };
    let pass = attached.pass.as_mut().context("no pass")?;
    let hierarchy = support.hierarchy.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let groups: Vec<Group> =
        (0..20).map(|n| group(stage, &format!("complete/{n}/below"))).collect::<Result<_>>()?;
    // Groups of others come and go: both sides are asked until they agree.
    let began = Instant::now();
    loop {
        let mut walked: Vec<u64> =
            tree::walk(hierarchy).found.into_iter().map(|found| found.cgroup).collect();
        let found = pass.run()?;
        ensure!(found.dropped == 0, "{} dropped", found.dropped);
        let mut passed: Vec<u64> = found.records.iter().map(|record| record.cgroup).collect();
        walked.sort_unstable();
        passed.sort_unstable();
        if walked == passed {
            break;
        }
        let only = |of: &[u64], other: &[u64]| of.iter().filter(|id| !other.contains(id)).count();
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "{} groups only the walk finds, {} only the pass",
            only(&walked, &passed),
            only(&passed, &walked)
        );
    }
    drop(groups);
    Ok(())
}

/// What is not listed is byte for byte as it was, whatever ran between two passes.
fn changed(stage: &Stage) -> Result<()> {
    let support = support();
    let Some(mut attached) = attached(&support)? else { return Ok(()) };
    let pass = attached.pass.as_mut().context("no pass")?;
    ensure!(pass.run()?.changed.is_none(), "the first pass knows what changed");
    let group = group(stage, "changes")?;
    let id = fs::metadata(group.directory())?.ino();
    let below = pass.below(group.directory())?;
    let mut before = pass.run()?.records.to_vec();
    let mut grows = run(stage, &group, "spike --peak 60 --steady 60 --ramp 3 --seconds 60")?;
    let (mut listed, mut quiet) = (0, 0);
    for n in 0..40 {
        sleep(Duration::from_millis(100));
        if n % 4 == 0 {
            pass.run_below(&below)?;
        }
        let found = pass.run()?;
        let changed = found.changed.context("what changed is not known")?;
        ensure!(changed.is_sorted() && changed.len() <= found.records.len(), "{changed:?}");
        let is_listed = |index: usize| changed.binary_search(&(index as u64)).is_ok();
        // Others make and remove groups.
        for (index, record) in found.records.iter().enumerate() {
            let same = before.get(index) == Some(record);
            ensure!(same || is_listed(index), "{record:?} was {:?}", before.get(index));
        }
        let own = found.records.iter().position(|record| record.cgroup == id).context("it is gone")?;
        listed += usize::from(is_listed(own));
        quiet += usize::from(changed.len() < found.records.len());
        before = found.records.to_vec();
    }
    grows.kill()?;
    grows.wait()?;
    ensure!(listed >= 5, "a group that grows for three seconds was listed {listed} times");
    ensure!(quiet > 0, "everything is listed always");
    Ok(())
}

fn churn(stage: &Stage) -> Result<()> {
    let support = support();
    let Some(mut attached) = attached(&support)? else { return Ok(()) };
    let pass = attached.pass.as_mut().context("no pass")?;
    let stays = group(stage, "churn/stays")?;
    let id = fs::metadata(stays.directory())?.ino();
    let parent = stays.directory().parent().context("no parent")?.to_owned();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for n in 0..8 {
                    let _ = fs::create_dir(parent.join(n.to_string()));
                }
                for n in 0..8 {
                    let _ = fs::remove_dir(parent.join(n.to_string()));
                }
            }
        });
        let seen = (0..500).try_for_each(|_| {
            let found = pass.run()?;
            let times = found.records.iter().filter(|record| record.cgroup == id).count();
            ensure!(times == 1, "a group that stays was found {times} times");
            Ok(())
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        seen
    })
}

fn overflow(stage: &Stage) -> Result<()> {
    let mut support = support();
    support.pass_capacity = 4;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter(); // the ring is waited for by a reactor
    let (Some(mut kernel), _) = Kernel::open(&support, &ProbeChoice::default()) else {
        anyhow::bail!("the programs cannot be attached")
    };
    let Some(mut pass) = kernel.pass.take() else { return Ok(()) };
    let others: Vec<Group> = (0..20).map(|n| group(stage, &format!("crowd/{n}"))).collect::<Result<_>>()?;
    let container = group(stage, "crowd/z-container")?;
    let id = fs::metadata(container.directory())?.ino();
    kernel.mark(id, 0);
    let found = pass.run()?;
    ensure!(found.dropped > 0 && found.records.len() <= 4, "{} of a table of 4", found.records.len());
    ensure!(found.records.iter().any(|record| record.cgroup == id), "the container was dropped");
    drop(others);
    Ok(())
}

fn no_file(stage: &Stage) -> Result<()> {
    let group = group(stage, "rests")?;
    let mut child = run(stage, &group, "spike --peak 30 --steady 30 --ramp 0.1 --seconds 60")?;
    sleep(Duration::from_millis(500));
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, &[])?;
    daemon.ready(Duration::from_secs(10))?;
    let attached = daemon.metric("observer_probe_attached", &["probe=\"cgroup_pass\""])?;
    if attached == Some(1.0) {
        let name = "observer_container_memory_usage_bytes";
        daemon.wait_metric(name, &[&own(&group)], Duration::from_secs(5), |v| v > 30e6)?;
        sleep(Duration::from_secs(8)); // memory.stat once, of a group new to the observer
        let opened = Opened::watch(group.directory())?;
        // It shows that opening is seen at all.
        group.usage()?;
        ensure!(!opened.names()?.is_empty(), "this kernel does not report files being opened");
        let in_five_seconds = || {
            sleep(Duration::from_secs(5));
            opened.names()
        };
        // Its kinds of memory moved since: memory.stat once, not to be due for a minute again.
        let mut names = in_five_seconds()?;
        if names == ["memory.stat"] {
            names = in_five_seconds()?;
        }
        ensure!(names.is_empty(), "of a group at rest were opened in five seconds: {names:?}");
    }
    drop(group);
    child.wait()?;
    Ok(())
}

/// Files of the memory controller being opened in a directory (inotify(7)). A walk of the tree opens others: the
/// directory itself and cgroup.procs.
struct Opened(std::os::fd::OwnedFd);

impl Opened {
    fn watch(directory: &std::path::Path) -> Result<Self> {
        use rustix::fs::inotify;
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, directory, inotify::WatchFlags::OPEN)?;
        Ok(Self(fd))
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = rustix::fs::inotify::Reader::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    names.extend(name.filter(|name| name.starts_with("memory.")));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(names),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
