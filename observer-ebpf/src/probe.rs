//! What a probe declares about itself: plain const data, read by the attacher, the docs and the tests.

use crate::field::Field;

/// One thing the observer sees in the kernel.
#[derive(Debug)]
pub struct Probe {
    /// Also the label value of `observer_probe_status`.
    pub name: &'static str,
    /// One sentence for `observer check` and docs/probes.md.
    pub sees: &'static str,
    pub intent: Intent,
    /// In order of preference; the first that this kernel supports is used.
    pub hooks: &'static [Hook],
    pub fallback: Fallback,
    /// Offsets without which the programs of this probe cannot work.
    pub needs: &'static [Field],
    /// Metric families this probe feeds.
    pub feeds: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Without it the observer is not ready.
    Required,
    Optional,
    /// Costs more than a default may: attached only when asked for (`--enable-probe`).
    OnRequest,
}

/// One way to see it: all its attachments are made, or none.
#[derive(Debug)]
pub struct Hook {
    pub attachments: &'static [Attachment],
}

#[derive(Debug)]
pub struct Attachment {
    /// Name of the program in the object file.
    pub program: &'static str,
    pub point: Point,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A BTF-typed tracepoint: attached with a bpf link, needs neither tracefs nor perf_event_open.
    TpBtf { name: &'static str, arg: Option<ArgIs> },
    /// The entry of a kernel function, by trampoline: refused under lockdown=integrity, and absent where the compiler
    /// has inlined the function.
    Fentry { function: &'static str },
    /// The return of a kernel function.
    Fexit { function: &'static str },
    /// Run by userland over all objects of a kind (kernel: Documentation/bpf/bpf_iterators.rst). No trampoline:
    /// lockdown allows it.
    Iter { over: &'static str },
}

impl Point {
    /// How the program is attached.
    pub const fn kind(self) -> &'static str {
        match self {
            Point::TpBtf { .. } => "tp_btf",
            Point::Fentry { .. } => "fentry",
            Point::Fexit { .. } => "fexit",
            Point::Iter { .. } => "iter",
        }
    }

    /// The tracepoint or function it is attached to.
    pub const fn target(self) -> &'static str {
        match self {
            Point::TpBtf { name, .. } => name,
            Point::Fentry { function } | Point::Fexit { function } => function,
            Point::Iter { over } => over,
        }
    }
}

/// A condition on a tracepoint's argument, asked from BTF: signatures change between kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgIs {
    pub index: usize,
    pub ty: ArgType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgType {
    PointerTo(&'static str),
    Integer,
}

/// What is read when no hook can be used.
#[derive(Debug)]
pub struct Fallback {
    /// What feeds the same metrics then, if anything does.
    pub by: Option<&'static str>,
    /// What is lost, in words an operator understands.
    pub lost: &'static str,
}

pub const fn tp_btf(program: &'static str, name: &'static str) -> Attachment {
    Attachment { program, point: Point::TpBtf { name, arg: None } }
}

pub const fn tp_btf_if(program: &'static str, name: &'static str, index: usize, ty: ArgType) -> Attachment {
    Attachment { program, point: Point::TpBtf { name, arg: Some(ArgIs { index, ty }) } }
}

pub const fn fentry(program: &'static str, function: &'static str) -> Attachment {
    Attachment { program, point: Point::Fentry { function } }
}

pub const fn fexit(program: &'static str, function: &'static str) -> Attachment {
    Attachment { program, point: Point::Fexit { function } }
}

pub const fn iter(program: &'static str, over: &'static str) -> Attachment {
    Attachment { program, point: Point::Iter { over } }
}
