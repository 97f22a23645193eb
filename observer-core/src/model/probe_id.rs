//! Names of probes: what decides on one matches a variant, so that a misspelt name does not compile.

use serde::{Deserialize, Serialize};

/// A probe of `observer-ebpf/src/probes/`. In recordings, labels and the API it is the name of that file.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
    strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
#[serde(from = "String", into = "String")]
pub enum ProbeId {
    CgroupLife,
    CgroupPass,
    Process,
    OomScope,
    OomKill,
    Reclaim,
    Growth,
    PageFault,
    FaultLatency,
    /// Of a recording by another version.
    #[strum(default)]
    Other(String),
}

impl From<String> for ProbeId {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<ProbeId> for String {
    fn from(probe: ProbeId) -> Self {
        probe.to_string()
    }
}
