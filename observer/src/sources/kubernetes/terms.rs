//! The terms of a loan, as they are written on the pod when it is created: all that outlives the lender.

use std::{collections::BTreeMap, str::FromStr};

use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::api::resource::Quantity};
use serde::{Deserialize, Serialize};

use observer_core::model::units::parse_bytes;

/// On a namespace or a pod: its pods may be lent to. On a pod, `false` is stronger than its namespace.
pub const OPT_IN: &str = "memory-observer/lend";
/// On a pod that was lent to: what the lender watches.
pub const LENT_LABEL: &str = "memory-observer/lent";
/// The terms, as JSON.
pub const TERMS: &str = "memory-observer/terms";
/// On the pod's template: the start-up need, instead of the one measured. `170Mi`, or `app=170Mi,proxy=40Mi`.
pub const START_MEMORY: &str = "memory-observer/start-memory";

/// Nothing written on a pod makes a loan longer, seconds.
pub const LONGEST: f64 = 3600.0;
/// More than any pod has.
const CONTAINERS: usize = 256;

/// Of one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    pub deadline_seconds: f64,
    pub containers: BTreeMap<String, Lent>,
}

/// Of one container: quantities as the user, and as the lender, wrote them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lent {
    /// What it requests before and after.
    pub steady: String,
    /// What it requests while it starts.
    pub request: String,
}

impl FromStr for Terms {
    type Err = String;

    /// What is on a pod may be anybody's: what makes no sense is refused whole.
    fn from_str(text: &str) -> Result<Self, String> {
        let terms: Terms = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !(0.0..=LONGEST).contains(&terms.deadline_seconds) {
            return Err(format!("a deadline of {} s is not between 0 and {LONGEST}", terms.deadline_seconds));
        }
        if terms.containers.len() > CONTAINERS {
            return Err(format!("more than {CONTAINERS} containers"));
        }
        for (name, lent) in &terms.containers {
            let [steady, request] = [&lent.steady, &lent.request].map(|text| parse_bytes(text));
            let (steady, request) = (steady?, request?);
            if steady == 0 || steady > request {
                return Err(format!("{name}: {} is not between 1 and {}", lent.steady, lent.request));
            }
        }
        Ok(terms)
    }
}

/// The need that the annotation gives a container. `Err`: it cannot be read.
pub fn start_memory(annotation: &str, container: &str) -> Result<Option<u64>, String> {
    let bytes = |text: &str| match parse_bytes(text.trim()) {
        Ok(0) => Err("0 bytes are no need".to_owned()),
        parsed => parsed,
    };
    if !annotation.contains('=') {
        return bytes(annotation).map(Some);
    }
    let mut found = None;
    for part in annotation.split(',') {
        let (name, quantity) = part.split_once('=').ok_or(format!("{part:?} is not NAME=QUANTITY"))?;
        let need = bytes(quantity)?;
        if name.trim() == container {
            found = Some(need);
        }
    }
    Ok(found)
}

/// A quantity in whole mebibytes, at least as much.
pub fn quantity(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20))
}

/// What it requests of memory: as it is written, and in bytes.
pub fn request(container: &Container) -> Option<(&str, u64)> {
    let Quantity(text) = container.resources.as_ref()?.requests.as_ref()?.get("memory")?;
    Some((text, parse_bytes(text.trim()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_anybody_are_sound_or_refused() {
        let with = |deadline: &str, steady: &str, request: &str| {
            format!(
                r#"{{"deadlineSeconds":{deadline},"containers":{{"app":{{"steady":"{steady}","request":"{request}"}}}}}}"#
            )
        };
        for (text, sound) in [
            (with("120", "64Mi", "170Mi"), true),
            (with("120", "0.5Gi", "1Gi"), true),
            (with("-1", "64Mi", "170Mi"), false),
            (with("1e9", "64Mi", "170Mi"), false),
            (with("120", "0", "170Mi"), false),
            (with("120", "171Mi", "170Mi"), false),
            (with("120", "some", "170Mi"), false),
            ("{}".to_owned(), false),
            ("true".to_owned(), false),
            (String::new(), false),
        ] {
            let terms: Result<Terms, String> = text.parse();
            assert_eq!(terms.is_ok(), sound, "{text}: {terms:?}");
            if let Ok(terms) = terms {
                let written = serde_json::to_string(&terms).unwrap();
                assert_eq!(written.parse(), Ok(terms), "{written}");
            }
        }
    }

    #[test]
    fn a_need_is_of_all_containers_or_of_those_named() {
        const MIB: u64 = 1 << 20;
        for (annotation, expected) in [
            ("170Mi", Ok(Some(170 * MIB))),
            (" 170Mi ", Ok(Some(170 * MIB))),
            ("app=170Mi", Ok(Some(170 * MIB))),
            ("proxy=40Mi, app=1Gi", Ok(Some(1024 * MIB))),
            ("proxy=40Mi", Ok(None)),
        ] {
            assert_eq!(start_memory(annotation, "app"), expected, "{annotation}");
        }
        for wrong in ["", "much", "0", "app=", "app=170Mi,", "app=170Mi;proxy=1Mi", "-5Mi"] {
            assert!(start_memory(wrong, "app").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_quantity_is_never_less() {
        for (bytes, text) in [(1, "1Mi"), (1 << 20, "1Mi"), ((1 << 20) + 1, "2Mi"), (170 << 20, "170Mi")] {
            assert_eq!(quantity(bytes), text);
        }
    }
}
