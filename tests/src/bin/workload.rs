//! Programs with a known memory behaviour: for the demo, the live tests and the benchmarks.
//!
//! Memory is anonymous, touched page by page, and given back to the kernel when released.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use rand::Rng;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    behaviour: Behaviour,
    /// End after this long
    #[arg(long, global = true, default_value_t = 600.0)]
    seconds: f64,
}

#[derive(Subcommand)]
enum Behaviour {
    /// Climb to a peak, hold it, fall to the steady level, stay
    Spike {
        #[arg(long)]
        peak: u64,
        #[arg(long)]
        steady: u64,
        #[arg(long, default_value_t = 1.0)]
        ramp: f64,
        #[arg(long, default_value_t = 0.5)]
        hold: f64,
        /// Peaks differ from one start to the next, by up to this share up or down
        #[arg(long, default_value_t = 0.0)]
        spread: f64,
        /// A second spike as high, so many seconds after the first
        #[arg(long)]
        again: Option<f64>,
    },
    /// Grow for ever, MiB per second, from a base
    Leak {
        #[arg(long)]
        base: u64,
        #[arg(long)]
        rate: f64,
    },
    /// Swing between two levels, as a garbage collector makes it
    Swing {
        #[arg(long)]
        low: u64,
        #[arg(long)]
        high: u64,
        #[arg(long)]
        period: f64,
    },
    /// Several plateaus: rise by step MiB, every pause seconds
    Stairs {
        #[arg(long)]
        step: u64,
        #[arg(long)]
        steps: u32,
        #[arg(long)]
        pause: f64,
    },
    /// Touch and release the same memory over and over; prints faults and nanoseconds
    Fault {
        #[arg(long)]
        size: u64,
        #[arg(long)]
        rounds: u32,
    },
    /// Grow once by a way of the kernel's; prints when it began and ended, in nanoseconds
    Grow {
        #[arg(long)]
        by: Way,
        #[arg(long)]
        size: u64,
        /// Seconds before it grows
        #[arg(long, default_value_t = 0.0)]
        after: f64,
        /// A file for what needs one; made and removed
        #[arg(long)]
        file: Option<std::path::PathBuf>,
    },
    /// Hold a pod's namespaces open: what the pause image does
    Pause,
    /// Exit with a code after so many seconds, holding so many MiB
    Exit {
        #[arg(long, default_value_t = 0)]
        code: u8,
        #[arg(long, default_value_t = 8)]
        size: u64,
        #[arg(long, default_value_t = 1.0)]
        after: f64,
    },
    /// Let the first thread leave, and exit with a code from another one
    LeaveFirst {
        #[arg(long, default_value_t = 0)]
        code: u8,
        #[arg(long, default_value_t = 0.5)]
        after: f64,
    },
    /// Let another process take memory that it shares with this one
    Share {
        #[arg(long)]
        size: u64,
    },
    /// Move into a cgroup and take memory, in several threads, until killed
    Eat {
        #[arg(long)]
        group: std::path::PathBuf,
        #[arg(long, default_value_t = 1)]
        threads: u32,
    },
    /// Start so many that do, some at a time; prints how many got SIGKILL
    Storm {
        #[arg(long)]
        group: std::path::PathBuf,
        #[arg(long)]
        kills: u32,
        #[arg(long, default_value_t = 1)]
        at_a_time: usize,
        #[arg(long, default_value_t = 1)]
        threads: u32,
        #[arg(long, value_enum, default_value_t = Birth::Exec)]
        birth: Birth,
    },
    /// Run a program in a mount namespace of its own, and in a cgroup namespace where it is asked for
    Apart {
        #[arg(long)]
        cgroup: bool,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Fork a child that takes memory until it is killed; live on
    Child {
        #[arg(long)]
        size: u64,
        /// Seconds before it forks
        #[arg(long, default_value_t = 0.0)]
        after: f64,
    },
}

/// How memory comes to be charged.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Way {
    /// Small pages, touched
    Anon,
    /// Huge pages, touched
    Thp,
    /// read(2) into memory never touched: the kernel faults it in
    Read,
    /// A file's pages, by read(2)
    Cache,
    /// A file on tmpfs, by write(2)
    Tmpfs,
    /// A mapped file, touched
    Mapped,
}

const MIB: u64 = 1 << 20;

/// One private mapping, touched up to `level` bytes.
struct Arena {
    base: *mut u8,
    capacity: usize,
    level: usize,
}

impl Arena {
    fn new(mib: u64) -> Self {
        let capacity = (mib * MIB) as usize;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                capacity,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let base = base.unwrap_or_else(|error| panic!("cannot map {mib} MiB: {error}")).cast::<u8>();
        // SAFETY: the mapping just made. Small pages, so that the number of faults is known.
        let _ = unsafe { madvise(base.cast(), capacity, Advice::LinuxNoHugepage) };
        Self { base, capacity, level: 0 }
    }

    /// Touches or releases pages until `bytes` are resident.
    fn set(&mut self, bytes: u64) {
        let page = rustix::param::page_size();
        let target = (bytes as usize).min(self.capacity) / page * page;
        for at in (self.level..target).step_by(page) {
            // SAFETY: inside the mapping.
            unsafe { self.base.add(at).write_volatile(1) };
        }
        if target < self.level {
            // SAFETY: inside the mapping; nobody holds references into it.
            let _ =
                unsafe { madvise(self.base.add(target).cast(), self.level - target, Advice::LinuxDontNeed) };
        }
        self.level = target;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        let _ = unsafe { munmap(self.base.cast(), self.capacity) };
    }
}

/// Time steps of a movement: fine enough for a smooth curve, coarse enough to leave the processor alone.
const STEP: Duration = Duration::from_millis(10);

fn ramp(arena: &mut Arena, from: u64, to: u64, seconds: f64) {
    let began = Instant::now();
    loop {
        let share = if seconds > 0.0 { (began.elapsed().as_secs_f64() / seconds).min(1.0) } else { 1.0 };
        arena.set((from as f64 + (to as f64 - from as f64) * share) as u64);
        if share >= 1.0 {
            return;
        }
        sleep(STEP);
    }
}

fn main() {
    let cli = Cli::parse();
    let began = Instant::now();
    let left = || (cli.seconds - began.elapsed().as_secs_f64()).max(0.0);
    match cli.behaviour {
        Behaviour::Spike { peak, steady, ramp: seconds, hold, spread, again } => {
            let peak = (peak as f64 * (1.0 + spread * rand::rng().random_range(-1.0..=1.0))) as u64;
            let mut arena = Arena::new(peak);
            ramp(&mut arena, 0, peak * MIB, seconds);
            sleep(Duration::from_secs_f64(hold));
            arena.set(steady * MIB);
            if let Some(after) = again {
                sleep(Duration::from_secs_f64(after));
                ramp(&mut arena, steady * MIB, peak * MIB, seconds);
                sleep(Duration::from_secs_f64(hold));
                arena.set(steady * MIB);
            }
            sleep(Duration::from_secs_f64(left()));
        }
        Behaviour::Leak { base, rate } => {
            let end = base + (rate * cli.seconds) as u64 + 1;
            let mut arena = Arena::new(end);
            ramp(&mut arena, 0, base * MIB, 0.5);
            ramp(&mut arena, base * MIB, end * MIB, left());
        }
        Behaviour::Swing { low, high, period } => {
            let mut arena = Arena::new(high);
            ramp(&mut arena, 0, low * MIB, 0.5);
            while left() > 0.0 {
                ramp(&mut arena, low * MIB, high * MIB, period);
                arena.set(low * MIB);
            }
        }
        Behaviour::Stairs { step, steps, pause } => {
            let mut arena = Arena::new(step * u64::from(steps));
            for n in 1..=u64::from(steps) {
                arena.set(n * step * MIB);
                sleep(Duration::from_secs_f64(pause));
            }
            sleep(Duration::from_secs_f64(left()));
        }
        Behaviour::Fault { size, rounds } => fault(size, rounds),
        Behaviour::Grow { by, size, after, file } => {
            sleep(Duration::from_secs_f64(after));
            if let Err(error) = grow(by, size * MIB, file.as_deref()) {
                println!("cannot grow: {error}");
                std::process::exit(1);
            }
            sleep(Duration::from_secs_f64(left()));
        }
        Behaviour::Pause => loop {
            sleep(Duration::from_secs(3600));
        },
        Behaviour::Exit { code, size, after } => {
            let mut arena = Arena::new(size);
            arena.set(size * MIB);
            sleep(Duration::from_secs_f64(after));
            std::process::exit(i32::from(code));
        }
        Behaviour::LeaveFirst { code, after } => {
            std::thread::spawn(move || {
                sleep(Duration::from_secs_f64(after));
                std::process::exit(i32::from(code));
            });
            // SAFETY: ends this thread alone, as pthread_exit(3) does, without waiting for the others.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        Behaviour::Share { size } => share(size, left),
        Behaviour::Eat { group, threads } => eat(&group, threads),
        Behaviour::Storm { group, kills, at_a_time, threads, birth } => {
            storm(&group, kills, at_a_time, threads, birth);
        }
        Behaviour::Apart { cgroup, command } => {
            let flags = libc::CLONE_NEWNS | if cgroup { libc::CLONE_NEWCGROUP } else { 0 };
            // SAFETY: takes no pointers.
            let failed = unsafe { libc::unshare(flags) } != 0;
            assert!(!failed, "cannot unshare: {}", std::io::Error::last_os_error());
            let error = Command::new(&command[0]).args(&command[1..]).exec();
            panic!("cannot start {command:?}: {error}");
        }
        Behaviour::Child { size, after } => {
            sleep(Duration::from_secs_f64(after));
            let me = std::env::current_exe().unwrap_or_else(|error| panic!("who am I: {error}"));
            let args =
                ["spike", "--peak", &size.to_string(), "--steady", "1", "--ramp", "0.3", "--hold", "5"];
            match std::process::Command::new(me).args(args).status() {
                Ok(status) => println!("child {status}"),
                Err(error) => println!("child not started: {error}"),
            }
            sleep(Duration::from_secs_f64(left()));
        }
    }
}

fn grow(by: Way, size: u64, path: Option<&std::path::Path>) -> std::io::Result<()> {
    use std::io::Read;
    let path = path.unwrap_or(std::path::Path::new("/dev/zero"));
    let open = || std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let began = now_ns();
    let mut kept = None;
    match by {
        Way::Anon => {
            let mut arena = Arena::new(size / MIB);
            arena.set(size);
            kept = Some(arena);
        }
        Way::Thp => {
            let mut arena = Arena::new(size / MIB);
            // SAFETY: the arena's own mapping.
            unsafe { madvise(arena.base.cast(), arena.capacity, Advice::LinuxHugepage) }?;
            arena.set(size);
            kept = Some(arena);
        }
        Way::Read => {
            let arena = Arena::new(size / MIB);
            // SAFETY: inside the mapping, which nothing else refers to.
            let buffer = unsafe { std::slice::from_raw_parts_mut(arena.base, size as usize) };
            std::fs::File::open("/dev/zero")?.read_exact(buffer)?;
            kept = Some(arena);
        }
        // Written by somebody else before: reading charges the reader.
        Way::Cache => {
            std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
        }
        Way::Tmpfs => {
            let zeros = vec![0u8; MIB as usize];
            let mut file = open()?;
            for _ in 0..size / MIB {
                file.write_all(&zeros)?;
            }
        }
        Way::Mapped => {
            let file = open()?;
            file.set_len(size)?;
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice; it stays until the end.
            let base = unsafe {
                rustix::mm::mmap(std::ptr::null_mut(), size as usize, flags, MapFlags::SHARED, &file, 0)
            }?;
            for at in (0..size as usize).step_by(rustix::param::page_size()) {
                // SAFETY: inside the mapping and the file.
                unsafe { base.cast::<u8>().add(at).write_volatile(1) };
            }
        }
    }
    println!("{began} {}", now_ns());
    std::mem::forget(kept); // held until the end
    Ok(())
}

fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn eat(group: &Path, threads: u32) {
    let procs = group.join("cgroup.procs");
    std::fs::write(&procs, "0").unwrap_or_else(|error| panic!("cannot enter {}: {error}", group.display()));
    let take = || {
        // Kept to the end, which is the kill.
        let mut arenas = Vec::new();
        loop {
            let mut arena = Arena::new(1);
            arena.set(MIB);
            arenas.push(arena);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(take);
        }
        take();
    });
}

/// As vfork(2) does, but both go on.
fn share(mib: u64, left: impl Fn() -> f64) {
    extern "C" fn take(arena: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the arena below, which the other process does not touch any more.
        unsafe { (*arena.cast::<Arena>()).set(u64::MAX) };
        0
    }
    let (mut arena, mut stack) = (Arena::new(mib), Arena::new(1));
    stack.set(MIB);
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: a stack of its own, which grows down from its end; it makes no call of a library.
    let child =
        unsafe { libc::clone(take, stack.base.add(stack.capacity).cast(), flags, (&raw mut arena).cast()) };
    assert!(child > 0, "cannot make a process");
    sleep(Duration::from_secs_f64(left()));
}

/// How a victim comes into the world.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Birth {
    Exec,
    Fork,
    /// All under one pid number, one after the other.
    SamePid,
}

fn storm(group: &Path, kills: u32, at_a_time: usize, threads: u32, birth: Birth) {
    let (mut killed, mut started, mut pid) = (0, 0, 0);
    let mut alive = std::collections::VecDeque::new();
    while started < kills || !alive.is_empty() {
        if started < kills && alive.len() < at_a_time {
            let wanted = if birth == Birth::SamePid { pid } else { 0 };
            pid = match birth {
                Birth::Exec => started_program(group, threads),
                Birth::Fork | Birth::SamePid => forked(wanted, || eat(group, threads)),
            };
            alive.push_back(pid);
            started += 1;
            continue;
        }
        let Some(oldest) = alive.pop_front() else { break };
        let mut status = 0;
        // SAFETY: a child of this process, waited for once.
        let waited = unsafe { libc::waitpid(oldest, &raw mut status, 0) };
        assert_eq!(waited, oldest, "cannot wait: {}", std::io::Error::last_os_error());
        killed += u32::from(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    }
    let _ = writeln!(std::io::stdout(), "{killed}");
}

#[allow(clippy::zombie_processes, reason = "the caller waits, by pid, as for those that are forked")]
fn started_program(group: &Path, threads: u32) -> i32 {
    let me = std::env::current_exe().unwrap_or_else(|error| panic!("who am I: {error}"));
    let mut child = std::process::Command::new(me);
    child.arg("eat").arg("--group").arg(group).arg("--threads").arg(threads.to_string());
    let child = child.spawn().unwrap_or_else(|error| panic!("cannot start one: {error}"));
    child.id() as i32
}

/// A child that runs this, under this pid number unless somebody has it; 0: any.
fn forked(pid: i32, run: impl FnOnce()) -> i32 {
    /// clone_args of linux/sched.h, as of Linux 5.5.
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
    }
    let set_tid = [pid];
    let any = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    let this = CloneArgs { set_tid: set_tid.as_ptr() as u64, set_tid_size: 1, ..any };
    // SAFETY: the child has a copy of this process, which has one thread; the pointers outlive the call.
    let clone = |args: &CloneArgs| unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_ref(args), size_of::<CloneArgs>())
    };
    let mut child = clone(if pid == 0 { &any } else { &this });
    if child < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST) {
        child = clone(&any);
    }
    assert!(child >= 0, "cannot fork as {pid}: {}", std::io::Error::last_os_error());
    if child == 0 {
        run();
        std::process::exit(0);
    }
    child as i32
}

fn fault(size: u64, rounds: u32) {
    let mut arena = Arena::new(size);
    arena.set(size * MIB); // page tables and free lists warm
    arena.set(0);
    let began = Instant::now();
    for _ in 0..rounds {
        arena.set(size * MIB);
        arena.set(0);
    }
    let faults = u64::from(rounds) * size * MIB / rustix::param::page_size() as u64;
    let _ = writeln!(std::io::stdout(), "{faults} {}", began.elapsed().as_nanos());
}
