//! The running kernel's types -> the offsets the programs need. Reads BTF, decides nothing.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use observer_btf::{Kind, Type, Types};
use observer_ebpf::{
    field::{Field, Source},
    probe::{ArgType, Point},
    probes,
};

#[derive(Debug, thiserror::Error)]
#[error("cannot read kernel types from {path}: {why}")]
pub struct NoTypes {
    pub path: String,
    pub why: String,
}

/// What BTF says about everything the probes ask for.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    offsets: Vec<Option<u32>>,
    tracepoints: HashMap<&'static str, Option<Vec<Arg>>>,
    functions: HashSet<&'static str>,
    iterators: HashSet<&'static str>,
    types_current_task: bool,
}

/// The type of a tracepoint's argument, as far as it is needed.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    PointerTo(String),
    Integer,
    Other,
}

impl Arg {
    pub fn is(&self, asked: ArgType) -> bool {
        match (self, asked) {
            (Arg::PointerTo(name), ArgType::PointerTo(asked)) => name == asked,
            (Arg::Integer, ArgType::Integer) => true,
            _ => false,
        }
    }
}

impl Layout {
    pub fn read(path: &Path) -> Result<Self, NoTypes> {
        let why = |why: String| NoTypes { path: path.display().to_string(), why };
        let bytes = fs::read(path).map_err(|error| why(error.to_string()))?;
        let btf = Types::parse(&bytes).map_err(|error| why(error.to_string()))?;
        let offsets = Field::ALL.iter().map(|field| offset(&btf, field.source())).collect();
        let (mut tracepoints, mut functions, mut iterators) =
            (HashMap::new(), HashSet::new(), HashSet::new());
        for attachment in probes::ALL.iter().flat_map(|p| p.hooks).flat_map(|hook| hook.attachments) {
            match attachment.point {
                Point::TpBtf { name, .. } => {
                    tracepoints.entry(name).or_insert_with(|| tracepoint(&btf, name));
                }
                Point::Fentry { function } | Point::Fexit { function } => {
                    if btf.find(Kind::Func, function).is_some() {
                        functions.insert(function);
                    }
                }
                // An iterator has a function of this name, which exists only as this mark.
                Point::Iter { over } => {
                    if btf.find(Kind::Func, &format!("bpf_iter_{over}")).is_some() {
                        iterators.insert(over);
                    }
                }
            }
        }
        let types_current_task = enumerated(&btf, "bpf_func_id", "BPF_FUNC_get_current_task_btf").is_some();
        Ok(Self { offsets, tracepoints, functions, iterators, types_current_task })
    }

    /// Whether this kernel has the helper `bpf_get_current_task_btf` (v5.11).
    pub fn types_current_task(&self) -> bool {
        self.types_current_task
    }

    /// `None`: this kernel does not have the field.
    pub fn offset(&self, field: Field) -> Option<u32> {
        self.offsets.get(field as usize).copied().flatten()
    }

    /// Whether this kernel has the function, not inlined.
    pub fn function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    /// Whether this kernel can run a program over all objects of this kind.
    pub fn iterator(&self, over: &str) -> bool {
        self.iterators.contains(over)
    }

    /// The tracepoint's arguments; `None`: this kernel does not have it.
    pub fn tracepoint(&self, name: &str) -> Option<&[Arg]> {
        self.tracepoints.get(name)?.as_deref()
    }

    /// A layout made up by a test: everything there, but for the fields and tracepoints named.
    #[cfg(test)]
    pub fn complete_but(missing: &[Field], tracepoints: &[(&'static str, Vec<Arg>)]) -> Self {
        Self {
            offsets: Field::ALL.iter().map(|field| (!missing.contains(field)).then_some(8)).collect(),
            tracepoints: tracepoints.iter().map(|(name, args)| (*name, Some(args.clone()))).collect(),
            functions: ["oom_kill_process", "handle_mm_fault"].into(),
            iterators: ["cgroup"].into(),
            types_current_task: true,
        }
    }
}

fn offset(btf: &Types, source: Source) -> Option<u32> {
    match source {
        Source::Member { ty, path } => nested(btf, ty, path),
        Source::Moved { ty, paths } => paths.iter().find_map(|path| nested(btf, ty, path)),
        Source::Element { ty, member: name, enumeration, enumerator } => {
            let (bits, _) = member(btf, btf.find(Kind::Struct, ty)?, name)?;
            Some(bits / 8 + 8 * enumerated(btf, enumeration, enumerator)?)
        }
        Source::Enumerator { enumeration, enumerator } => enumerated(btf, enumeration, enumerator),
        Source::Rss { kind } => rss(btf, kind),
    }
}

fn nested(btf: &Types, ty: &str, path: &str) -> Option<u32> {
    let mut current = btf.find(Kind::Struct, ty)?;
    let mut bits = 0;
    for name in path.split('.') {
        let (at, next) = member(btf, current, name)?;
        bits += at;
        current = next;
    }
    Some(bits / 8)
}

/// `mm_struct.rss_stat`: a structure that holds an array of longs, or an array of per-CPU counters.
fn rss(btf: &Types, kind: u32) -> Option<u32> {
    let (bits, ty) = member(btf, btf.find(Kind::Struct, "mm_struct")?, "rss_stat")?;
    if ty.kind == Kind::Struct {
        let (inside, _) = member(btf, ty, "count")?;
        return Some((bits + inside) / 8 + 8 * kind);
    }
    if ty.kind != Kind::Array {
        return None;
    }
    let element = btf.peel(ty.behind()?)?;
    let (inside, _) = member(btf, element, "count")?;
    (element.kind == Kind::Struct).then(|| (bits + inside) / 8 + element.size() * kind)
}

/// Bit offset and type of a member, also inside anonymous structs and unions.
fn member<'a>(btf: &Types<'a>, ty: Type<'a>, name: &str) -> Option<(u32, Type<'a>)> {
    for candidate in btf.members(ty) {
        if candidate.name == name {
            return Some((candidate.bit_offset, btf.peel(candidate.ty)?));
        }
        if candidate.name.is_empty()
            && let Some((bits, ty)) = btf.peel(candidate.ty).and_then(|inner| member(btf, inner, name))
        {
            return Some((candidate.bit_offset + bits, ty));
        }
    }
    None
}

fn enumerated(btf: &Types, enumeration: &str, enumerator: &str) -> Option<u32> {
    let mut members = btf.enumerators(btf.find(Kind::Enum, enumeration)?);
    members.find_map(|(name, value)| (name == enumerator).then_some(value))
}

/// `btf_trace_<name>` is a typedef of a pointer to a prototype; its first argument is internal.
fn tracepoint(btf: &Types, name: &str) -> Option<Vec<Arg>> {
    let typedef = btf.find(Kind::Typedef, &format!("btf_trace_{name}"))?;
    let pointer = btf.peel(typedef.behind()?)?;
    let prototype = btf.peel(pointer.behind()?)?;
    let is_one = pointer.kind == Kind::Pointer && prototype.kind == Kind::FuncProto;
    is_one.then(|| btf.parameters(prototype).skip(1).map(|id| arg(btf, id)).collect())
}

fn arg(btf: &Types, id: u32) -> Arg {
    match btf.peel(id) {
        Some(ty) if ty.kind == Kind::Int => Arg::Integer,
        Some(ty) if ty.kind == Kind::Pointer => match ty.behind().and_then(|id| btf.peel(id)) {
            Some(ty) if ty.kind == Kind::Struct => Arg::PointerTo(btf.name(ty).to_owned()),
            _ => Arg::Other,
        },
        _ => Arg::Other,
    }
}
