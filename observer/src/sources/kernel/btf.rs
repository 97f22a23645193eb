//! The running kernel's types -> the offsets the programs need. Reads BTF, decides nothing.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use btf_rs::{Btf, BtfType, Type};
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
        let btf = Btf::from_bytes(&bytes).map_err(|error| why(error.to_string()))?;
        drop(bytes); // megabytes, while memory is at its highest
        let offsets = Field::ALL.iter().map(|field| offset(&btf, field.source())).collect();
        let (mut tracepoints, mut functions, mut iterators) =
            (HashMap::new(), HashSet::new(), HashSet::new());
        for attachment in probes::ALL.iter().flat_map(|p| p.hooks).flat_map(|hook| hook.attachments) {
            match attachment.point {
                Point::TpBtf { name, .. } => {
                    tracepoints.entry(name).or_insert_with(|| tracepoint(&btf, name));
                }
                Point::Fentry { function } | Point::Fexit { function } => {
                    if has_function(&btf, function) {
                        functions.insert(function);
                    }
                }
                // An iterator has a function of this name, which exists only as this mark.
                Point::Iter { over } => {
                    if has_function(&btf, &format!("bpf_iter_{over}")) {
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

fn offset(btf: &Btf, source: Source) -> Option<u32> {
    match source {
        Source::Member { ty, path } => nested(btf, ty, path),
        Source::Moved { ty, paths } => paths.iter().find_map(|path| nested(btf, ty, path)),
        Source::Element { ty, member: name, enumeration, enumerator } => {
            let (bits, _) = member(btf, &structure(btf, ty)?, name)?;
            Some(bits / 8 + 8 * enumerated(btf, enumeration, enumerator)?)
        }
        Source::Enumerator { enumeration, enumerator } => enumerated(btf, enumeration, enumerator),
        Source::Rss { kind } => rss(btf, kind),
    }
}

fn nested(btf: &Btf, ty: &str, path: &str) -> Option<u32> {
    let mut current = structure(btf, ty)?;
    let mut bits = 0;
    for name in path.split('.') {
        let (at, next) = member(btf, &current, name)?;
        bits += at;
        current = next;
    }
    Some(bits / 8)
}

fn has_function(btf: &Btf, name: &str) -> bool {
    btf.resolve_types_by_name(name).is_ok_and(|types| types.iter().any(|ty| matches!(ty, Type::Func(_))))
}

/// `mm_struct.rss_stat`: a structure that holds an array of longs, or an array of per-CPU counters.
fn rss(btf: &Btf, kind: u32) -> Option<u32> {
    let (bits, ty) = member(btf, &structure(btf, "mm_struct")?, "rss_stat")?;
    if let Type::Struct(_) = ty {
        let (inside, _) = member(btf, &ty, "count")?;
        return Some((bits + inside) / 8 + 8 * kind);
    }
    let Type::Array(array) = ty else { return None };
    let element = peel(btf, &array)?;
    let (inside, _) = member(btf, &element, "count")?;
    let Type::Struct(element) = element else { return None };
    Some((bits + inside) / 8 + u32::try_from(element.size()).ok()? * kind)
}

fn structure(btf: &Btf, name: &str) -> Option<Type> {
    btf.resolve_types_by_name(name).ok()?.into_iter().find(|ty| matches!(ty, Type::Struct(_)))
}

/// Bit offset and type of a member, also inside anonymous structs and unions.
fn member(btf: &Btf, ty: &Type, name: &str) -> Option<(u32, Type)> {
    let (Type::Struct(ty) | Type::Union(ty)) = ty else { return None };
    for candidate in &ty.members {
        let found = btf.resolve_name(candidate).unwrap_or_default();
        if found == name {
            return Some((candidate.bit_offset(), peel(btf, candidate)?));
        }
        if found.is_empty()
            && let Some((bits, ty)) = peel(btf, candidate).and_then(|inner| member(btf, &inner, name))
        {
            return Some((candidate.bit_offset() + bits, ty));
        }
    }
    None
}

/// The type behind typedefs and qualifiers.
fn peel(btf: &Btf, of: &dyn BtfType) -> Option<Type> {
    let mut ty = btf.resolve_chained_type(of).ok()?;
    loop {
        ty = match &ty {
            Type::Typedef(inner) => btf.resolve_chained_type(inner).ok()?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner).ok()?
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner).ok()?,
            _ => return Some(ty),
        };
    }
}

fn enumerated(btf: &Btf, enumeration: &str, enumerator: &str) -> Option<u32> {
    let types = btf.resolve_types_by_name(enumeration).ok()?;
    let members =
        types.into_iter().find_map(|ty| if let Type::Enum(ty) = ty { Some(ty.members) } else { None })?;
    let named = members.iter().find(|m| btf.resolve_name(*m).is_ok_and(|found| found == enumerator))?;
    Some(named.val())
}

/// `btf_trace_<name>` is a typedef of a pointer to a prototype; its first argument is internal.
fn tracepoint(btf: &Btf, name: &str) -> Option<Vec<Arg>> {
    let typedef = btf
        .resolve_types_by_name(&format!("btf_trace_{name}"))
        .ok()?
        .into_iter()
        .find_map(|ty| if let Type::Typedef(ty) = ty { Some(ty) } else { None })?;
    let Type::Ptr(pointer) = btf.resolve_chained_type(&typedef).ok()? else { return None };
    let Type::FuncProto(prototype) = btf.resolve_chained_type(&pointer).ok()? else { return None };
    Some(prototype.parameters.iter().skip(1).map(|parameter| arg(btf, parameter)).collect())
}

fn arg(btf: &Btf, parameter: &dyn BtfType) -> Arg {
    match peel(btf, parameter) {
        Some(Type::Int(_)) => Arg::Integer,
        Some(Type::Ptr(pointer)) => match peel(btf, &pointer) {
            Some(Type::Struct(ty)) => Arg::PointerTo(btf.resolve_name(&ty).unwrap_or_default()),
            _ => Arg::Other,
        },
        _ => Arg::Other,
    }
}
