//! Loads the object with this kernel's offsets and attaches what the plan says. One outcome per probe, as data.

use std::{borrow::Cow, collections::BTreeSet};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Program, ProgramError, fentry::FEntryLink, fexit::FExitLink, tp_btf::BtfTracePointLink},
};
use observer_ebpf::{
    abi,
    field::{ABSENT, Field},
    probe::{Attachment, Fallback, Hook, Intent, Point, Probe},
    probes::{self, cgroup_life, cgroup_pass, fault_latency, growth, process},
};

use crate::{
    config::ProbeChoice,
    failure,
    sources::kernel::{
        kfunc,
        pass::Pass,
        plan::{self, Plan},
        support::Support,
    },
};
use observer_core::model::event::{AttachOutcome, ProbeStatus};

pub struct Attached {
    /// Absent when nothing could be loaded.
    pub programs: Option<Ebpf>,
    /// Of the programs that stay attached.
    pub links: Vec<Link>,
    pub growth: Growth,
    pub pass: Option<Pass>,
    pub statuses: Vec<ProbeStatus>,
}

impl Attached {
    fn nothing(statuses: Vec<ProbeStatus>) -> Self {
        Self { programs: None, links: Vec::new(), growth: Growth::default(), pass: None, statuses }
    }
}

/// An attachment; dropping it detaches.
#[derive(Debug)]
pub enum Link {
    TpBtf(BtfTracePointLink),
    Fentry(FEntryLink),
    Fexit(FExitLink),
    /// Run, not attached.
    None,
}

/// The programs of [`probes::WHILE_STARTING`]: loaded all the time, attached while a container starts.
#[derive(Debug, Default)]
pub struct Growth {
    programs: Vec<(&'static str, &'static Attachment)>,
    links: Vec<Link>,
}

impl Growth {
    pub fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    /// All or none of them, as [`attach`] does.
    pub fn attach(&mut self, programs: &mut Ebpf) -> Result<(), String> {
        if self.is_attached() {
            return Ok(());
        }
        let mut links = Vec::new();
        for (_, attachment) in &self.programs {
            links.push(link(programs, attachment).map_err(|error| {
                format!("cannot attach program {}: {}", attachment.program, chain(&error))
            })?);
        }
        self.links = links;
        Ok(())
    }

    /// No such program can run here.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    pub fn probes(&self) -> impl Iterator<Item = &'static str> {
        self.programs.iter().map(|(probe, _)| *probe)
    }

    pub fn detach(&mut self) {
        self.links.clear();
    }
}

/// Attaches every probe, in the order of [`probes::ALL`].
pub fn all(support: &Support, choice: &ProbeChoice) -> Attached {
    let plans: Vec<(&'static Probe, Plan)> =
        probes::ALL.iter().map(|probe| (*probe, plan::plan(probe, support, choice))).collect();
    if !plans.iter().any(|(_, plan)| matches!(plan, Plan::Attach { .. })) {
        let statuses = plans.iter().map(|(probe, plan)| status(probe, not_attached(probe, plan))).collect();
        return Attached::nothing(statuses);
    }
    let attaches =
        |name| plans.iter().any(|(probe, plan)| probe.name == name && matches!(plan, Plan::Attach { .. }));
    let slot_by_task = attaches(cgroup_life::PROBE.name) && attaches(process::PROBE.name);
    let growth_is_listed = attaches(growth::PROBE.name);
    let times_faults = attaches(fault_latency::PROBE.name);
    let (mut programs, btf) = match load(support, slot_by_task, growth_is_listed, times_faults) {
        Ok(loaded) => loaded,
        Err(error) => return Attached::nothing(all_broken(&error)),
    };
    let mut attached = Attached::nothing(Vec::new());
    for (probe, plan) in plans {
        let outcome = match &plan {
            Plan::Attach { hook, passed_over } => {
                let hook = &probe.hooks[*hook];
                let opened = attach(&mut programs, &btf, hook).and_then(|links| {
                    if probe.name == cgroup_pass::PROBE.name {
                        attached.pass = Some(open_pass(&mut programs, support)?);
                    }
                    Ok(links)
                });
                match opened {
                    Ok(links) if probes::is_while_starting(probe) => {
                        attached.growth.programs.extend(hook.attachments.iter().map(|one| (probe.name, one)));
                        attached.growth.links.extend(links);
                        outcome(hook, passed_over.as_deref())
                    }
                    Ok(links) => {
                        attached.links.extend(links);
                        outcome(hook, passed_over.as_deref())
                    }
                    Err(error) => error.outcome(probe),
                }
            }
            _ => not_attached(probe, &plan),
        };
        attached.statuses.push(status(probe, outcome));
    }
    attached.programs = Some(programs);
    attached
}

fn open_pass(programs: &mut Ebpf, support: &Support) -> Result<Pass, NotAttached> {
    let hierarchy = support.hierarchy.as_ref().map_err(|error| NotAttached::Failed(error.to_string()))?;
    let lists = support.layout.as_ref().ok().and_then(|layout| layout.offset(Field::LruLists));
    if lists != Some(cgroup_pass::LRU_LISTS as u32) {
        let missing = format!("page lists as the program knows them ({lists:?})");
        return Err(NotAttached::Refused { missing });
    }
    Pass::open(programs, &hierarchy.root, support.pass_capacity).map_err(NotAttached::Failed)
}

/// The status of every probe when the object as a whole cannot be used.
pub fn all_broken(error: &str) -> Vec<ProbeStatus> {
    let broken = |probe: &&Probe| {
        status(probe, AttachOutcome::Broken { error: error.to_owned(), lost: lost(&probe.fallback) })
    };
    probes::ALL.iter().map(broken).collect()
}

fn status(probe: &Probe, outcome: AttachOutcome) -> ProbeStatus {
    let attached = matches!(outcome, AttachOutcome::Attached { .. });
    let attached = probes::is_while_starting(probe).then_some(attached);
    let required = probe.intent == Intent::Required;
    ProbeStatus { probe: probe.name.into(), required, outcome, attached }
}

fn not_attached(probe: &Probe, plan: &Plan) -> AttachOutcome {
    let lost = lost(&probe.fallback);
    match plan {
        // A probe that was not requested is no loss.
        Plan::NotAsked => AttachOutcome::Disabled { lost: "attached on request: --enable-probe".to_owned() },
        Plan::Unsupported { missing } => AttachOutcome::Unsupported { missing: missing.clone(), lost },
        _ => AttachOutcome::Disabled { lost },
    }
}

/// The loss without a probe, and its fallback.
pub fn lost(fallback: &Fallback) -> String {
    match fallback.by {
        Some(by) => format!("{} (read instead: {by})", fallback.lost),
        None => fallback.lost.to_owned(),
    }
}

fn load(
    support: &Support,
    slot_by_task: bool,
    growth_is_listed: bool,
    times_faults: bool,
) -> Result<(Ebpf, Btf), String> {
    let object = support.object.ok_or("no eBPF object in this binary")?;
    let layout = support.layout.as_ref().map_err(ToString::to_string)?;
    let btf = Btf::parse_file(&support.btf_path, aya::Endianness::default())
        .map_err(|error| format!("cannot parse {}: {error}", support.btf_path.display()))?;
    let offsets: Vec<u32> = Field::ALL.iter().map(|field| layout.offset(*field).unwrap_or(ABSENT)).collect();
    let hierarchy = support.hierarchy.as_ref().map_or(0, |hierarchy| hierarchy.id);
    let min_step_pages = abi::MIN_STEP_BYTES / support.page_size;
    let (object, types) = match kfunc::resolve(object, &btf) {
        Some((object, types)) => (Cow::Owned(object), types),
        None => (Cow::Borrowed(object), kfunc::Types::default()),
    };
    let slot_by_task = u32::from(slot_by_task);
    let growth_is_listed = u32::from(growth_is_listed);
    let read_by_helper = u32::from(!layout.types_current_task());
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets[..], true)
        .override_global("MEMORY_HIERARCHY", &hierarchy, true)
        .override_global("MEMCG_TYPE", &types.memcg, true)
        .override_global("NODE_TYPE", &types.node, true)
        .override_global("SLOT_BY_TASK", &slot_by_task, true)
        .override_global("READ_BY_HELPER", &read_by_helper, true)
        .override_global("MIN_STEP_PAGES", &min_step_pages, true)
        .override_global("GROWTH_IS_LISTED", &growth_is_listed, true)
        .override_global("NUMA_NODES", &support.numa_nodes, true)
        .map_max_entries("PASS", support.pass_capacity)
        .map_max_entries("PASS_CHANGED", support.pass_capacity);
    if !times_faults {
        // 2 MiB of the observer's own limit that only this probe uses, and it has to be asked for.
        loader.map_max_entries("FAULTING", 1).map_max_entries("LATENCIES", 1);
    }
    let programs =
        loader.load(&object).map_err(|error| format!("cannot load the eBPF object: {}", chain(&error)))?;
    Ok((programs, btf))
}

/// All of a hook or nothing: half a probe would report half of the truth.
fn attach(programs: &mut Ebpf, btf: &Btf, hook: &Hook) -> Result<Vec<Link>, NotAttached> {
    let mut links = Vec::new();
    for (done, attachment) in hook.attachments.iter().enumerate() {
        match attach_one(programs, btf, attachment) {
            Ok(link) => links.push(link),
            Err(error) => {
                drop(links);
                for attached in &hook.attachments[..done] {
                    unload(programs, attached.program);
                }
                return Err(error);
            }
        }
    }
    Ok(links)
}

fn outcome(hook: &Hook, passed_over: Option<&str>) -> AttachOutcome {
    match passed_over {
        None => AttachOutcome::Attached { hook: plan::name(hook) },
        Some(why) => {
            AttachOutcome::Attached { hook: format!("{} (this kernel lacks {why})", plan::name(hook)) }
        }
    }
}

fn unload(programs: &mut Ebpf, name: &str) {
    // What cannot be unloaded goes with the process.
    let _ = match programs.program_mut(name) {
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::FEntry(program)) => program.unload(),
        Some(Program::FExit(program)) => program.unload(),
        Some(Program::Iter(program)) => program.unload(),
        _ => Ok(()),
    };
}

enum NotAttached {
    /// The host does not allow this kind of hook: a fact about it, not a defect.
    Refused {
        missing: String,
    },
    Failed(String),
}

impl NotAttached {
    fn outcome(self, probe: &Probe) -> AttachOutcome {
        let lost = lost(&probe.fallback);
        match self {
            NotAttached::Refused { missing } => AttachOutcome::Unsupported { missing, lost },
            NotAttached::Failed(error) => AttachOutcome::Broken { error, lost },
        }
    }
}

fn attach_one(programs: &mut Ebpf, btf: &Btf, attachment: &Attachment) -> Result<Link, NotAttached> {
    let absent = || NotAttached::Failed(format!("program {} is not in the eBPF object", attachment.program));
    let program = programs.program_mut(attachment.program).ok_or_else(absent)?;
    let (kind, target) = (attachment.point.kind(), attachment.point.target());
    let stage = |stage: &str, error: ProgramError| {
        // Lockdown, which cannot be read where securityfs is not mounted (kernel: kernel/bpf/syscall.c, v6.18).
        if !matches!(attachment.point, Point::TpBtf { .. } | Point::Iter { .. }) && is_refusal(&error) {
            let missing =
                format!("permission to hook functions ({kind} {target}): the kernel is locked down");
            return NotAttached::Refused { missing };
        }
        NotAttached::Failed(format!(
            "cannot {stage} program {} at {kind} {target}: {}",
            attachment.program,
            chain(&error)
        ))
    };
    let loaded = match (attachment.point, program) {
        (Point::TpBtf { name, .. }, Program::BtfTracePoint(program)) => program.load(name, btf),
        (Point::Fentry { function }, Program::FEntry(program)) => program.load(function, btf),
        (Point::Fexit { function }, Program::FExit(program)) => program.load(function, btf),
        (Point::Iter { over }, Program::Iter(program)) => program.load(over, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| stage("load", error))?;
    link(programs, attachment).map_err(|error| stage("attach", error))
}

/// Attaches a loaded program.
fn link(programs: &mut Ebpf, attachment: &Attachment) -> Result<Link, ProgramError> {
    Ok(match programs.program_mut(attachment.program) {
        Some(Program::BtfTracePoint(program)) => {
            let id = program.attach()?;
            Link::TpBtf(program.take_link(id)?)
        }
        Some(Program::FEntry(program)) => {
            let id = program.attach()?;
            Link::Fentry(program.take_link(id)?)
        }
        Some(Program::FExit(program)) => {
            let id = program.attach()?;
            Link::Fexit(program.take_link(id)?)
        }
        Some(Program::Iter(_)) => Link::None,
        _ => return Err(ProgramError::UnexpectedProgramType),
    })
}

/// EPERM. The verifier's own refusals are EACCES, and defects.
fn is_refusal(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM))
}

/// An error with its causes on one line; of a verifier log only the end, which says what it refused.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let text = failure::one_line(error);
    let parts: Vec<&str> = text.split("; ").collect();
    match parts.len() {
        0..=6 => text,
        n => format!("{}; …; {}", parts[0], parts[n - 5..].join("; ")),
    }
}

/// Every program named by a declaration; for the test that compares them with the object.
pub fn declared_programs() -> BTreeSet<&'static str> {
    probes::ALL
        .iter()
        .flat_map(|probe| probe.hooks)
        .flat_map(|hook| hook.attachments)
        .map(|attachment| attachment.program)
        .collect()
}
