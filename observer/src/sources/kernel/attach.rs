//! Loads the object with this kernel's offsets and attaches what the plan says. One outcome per probe, as data.

use std::{borrow::Cow, collections::BTreeSet};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, FEntry, FExit, Program, ProgramError},
};
use observer_ebpf::{
    abi,
    field::{ABSENT, Field},
    probe::{Attachment, Fallback, Hook, Intent, Point, Probe},
    probes,
};

use crate::{
    config::ProbeChoice,
    sources::kernel::{
        kfunc,
        plan::{self, Plan},
        support::Support,
    },
};
use observer_core::model::event::{AttachOutcome, ProbeStatus};

pub struct Attached {
    /// Absent when nothing could be loaded.
    pub programs: Option<Ebpf>,
    pub statuses: Vec<ProbeStatus>,
}

/// Attaches every probe, in the order of [`probes::ALL`].
pub fn all(support: &Support, choice: &ProbeChoice) -> Attached {
    let plans: Vec<(&Probe, Plan)> =
        probes::ALL.iter().map(|probe| (*probe, plan::plan(probe, support, choice))).collect();
    if !plans.iter().any(|(_, plan)| matches!(plan, Plan::Attach { .. })) {
        let statuses = plans.iter().map(|(probe, plan)| status(probe, not_attached(probe, plan))).collect();
        return Attached { programs: None, statuses };
    }
    let attaches =
        |name| plans.iter().any(|(probe, plan)| probe.name == name && matches!(plan, Plan::Attach { .. }));
    let slot_by_task = attaches("cgroup_life") && attaches("process");
    let (mut programs, btf) = match load(support, slot_by_task) {
        Ok(loaded) => loaded,
        Err(error) => return Attached { programs: None, statuses: all_broken(&error) },
    };
    let statuses = plans
        .iter()
        .map(|(probe, plan)| {
            let outcome = match plan {
                Plan::Attach { hook, passed_over } => {
                    attach(&mut programs, &btf, probe, &probe.hooks[*hook], passed_over.as_deref())
                }
                _ => not_attached(probe, plan),
            };
            status(probe, outcome)
        })
        .collect();
    Attached { programs: Some(programs), statuses }
}

/// The status of every probe when the object as a whole cannot be used.
pub fn all_broken(error: &str) -> Vec<ProbeStatus> {
    let broken = |probe: &&Probe| {
        status(probe, AttachOutcome::Broken { error: error.to_owned(), lost: lost(&probe.fallback) })
    };
    probes::ALL.iter().map(broken).collect()
}

fn status(probe: &Probe, outcome: AttachOutcome) -> ProbeStatus {
    ProbeStatus { probe: probe.name.to_owned(), required: probe.intent == Intent::Required, outcome }
}

fn not_attached(probe: &Probe, plan: &Plan) -> AttachOutcome {
    let lost = lost(&probe.fallback);
    match plan {
        // Nobody misses what nobody asked for.
        Plan::NotAsked => AttachOutcome::Disabled { lost: "attached on request: --enable-probe".to_owned() },
        Plan::Unsupported { missing } => AttachOutcome::Unsupported { missing: missing.clone(), lost },
        _ => AttachOutcome::Disabled { lost },
    }
}

/// What a missing probe costs, and who stands in.
pub fn lost(fallback: &Fallback) -> String {
    match fallback.by {
        Some(by) => {
            format!("{by} stand{} in; {}", if by.contains(" and ") { "" } else { "s" }, fallback.lost)
        }
        None => fallback.lost.to_owned(),
    }
}

fn load(support: &Support, slot_by_task: bool) -> Result<(Ebpf, Btf), String> {
    let object = support.object.ok_or("no eBPF object in this binary")?;
    let layout = support.layout.as_ref().map_err(ToString::to_string)?;
    let btf = Btf::parse_file(&support.btf_path, aya::Endianness::default())
        .map_err(|error| format!("cannot parse {}: {error}", support.btf_path.display()))?;
    let offsets: Vec<u32> = Field::ALL.iter().map(|field| layout.offset(*field).unwrap_or(ABSENT)).collect();
    let hierarchy = support.hierarchy.as_ref().map_or(0, |hierarchy| hierarchy.id);
    let min_step_pages = abi::MIN_STEP_BYTES / support.page_size;
    let (object, memcg_type) = match kfunc::resolve(object, &btf) {
        Some((object, memcg)) => (Cow::Owned(object), memcg),
        None => (Cow::Borrowed(object), 0),
    };
    let slot_by_task = u32::from(slot_by_task);
    let read_by_helper = u32::from(!layout.types_current_task());
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets[..], true)
        .override_global("MEMORY_HIERARCHY", &hierarchy, true)
        .override_global("MEMCG_TYPE", &memcg_type, true)
        .override_global("SLOT_BY_TASK", &slot_by_task, true)
        .override_global("READ_BY_HELPER", &read_by_helper, true)
        .override_global("MIN_STEP_PAGES", &min_step_pages, true);
    let programs =
        loader.load(&object).map_err(|error| format!("cannot load the eBPF object: {}", chain(&error)))?;
    Ok((programs, btf))
}

fn attach(
    programs: &mut Ebpf,
    btf: &Btf,
    probe: &Probe,
    hook: &Hook,
    passed_over: Option<&str>,
) -> AttachOutcome {
    let mut done: Vec<&str> = Vec::new();
    for attachment in hook.attachments {
        if let Err(error) = attach_one(programs, btf, attachment) {
            // All of a hook or nothing: half a probe would report half the truth.
            for program in done {
                unload(programs, program);
            }
            let lost = lost(&probe.fallback);
            return match error {
                NotAttached::Refused { missing } => AttachOutcome::Unsupported { missing, lost },
                NotAttached::Failed(error) => AttachOutcome::Broken { error, lost },
            };
        }
        done.push(attachment.program);
    }
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

fn attach_one(programs: &mut Ebpf, btf: &Btf, attachment: &Attachment) -> Result<(), NotAttached> {
    let absent = || NotAttached::Failed(format!("program {} is not in the eBPF object", attachment.program));
    let program = programs.program_mut(attachment.program).ok_or_else(absent)?;
    let (kind, target) = (attachment.point.kind(), attachment.point.target());
    let stage = |stage: &str, error: ProgramError| {
        // Lockdown, which nobody tells where securityfs is not mounted (kernel: kernel/bpf/syscall.c, v6.18).
        if !matches!(attachment.point, Point::TpBtf { .. }) && is_refusal(&error) {
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
    let (load, attach) = match attachment.point {
        Point::TpBtf { name, .. } => {
            let program: &mut BtfTracePoint = program.try_into().map_err(|error| stage("use", error))?;
            (program.load(name, btf), program.attach().map(|_| ()))
        }
        Point::Fentry { function } => {
            let program: &mut FEntry = program.try_into().map_err(|error| stage("use", error))?;
            (program.load(function, btf), program.attach().map(|_| ()))
        }
        Point::Fexit { function } => {
            let program: &mut FExit = program.try_into().map_err(|error| stage("use", error))?;
            (program.load(function, btf), program.attach().map(|_| ()))
        }
    };
    load.map_err(|error| stage("load", error))?;
    attach.map_err(|error| stage("attach", error))
}

/// EPERM. The verifier's own refusals are EACCES, and defects.
fn is_refusal(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM))
}

/// An error with its causes on one line; of a verifier log only the end, which says what it refused.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len() {
        0..=6 => lines.join("; "),
        n => format!("{}; …; {}", lines[0], lines[n - 5..].join("; ")),
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
