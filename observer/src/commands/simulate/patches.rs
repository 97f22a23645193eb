//! What keeps the change small enough, as commands for kubectl, to be read and then run.

use super::{Simulated, curves::Pods};
use observer_core::{model::printable::printable, simulate::Kind};

/// An autoscaler's policy has a period of 1 s to 30 min.
const PERIODS: std::ops::RangeInclusive<f64> = 1.0..=1800.0;

pub fn patches(pods: &Pods, kind: &Kind, simulated: &Simulated) -> Vec<String> {
    if pods.namespace.is_empty() {
        return Vec::new(); // kubectl does not know it
    }
    let (namespace, name) = (printable(&pods.namespace), printable(&pods.workload));
    let mut patches = Vec::new();
    if let Some(step @ 1..) = simulated.largest_step {
        let settles = (kind.curve.len() as f64 * kind.span).clamp(*PERIODS.start(), *PERIODS.end()).ceil();
        patches.push(format!(
            "kubectl patch hpa {name} -n {namespace} --type merge -p '{{\"spec\":{{\"behavior\":{{\"scaleUp\":{{\"selectPolicy\":\"Min\",\"policies\":[{{\"type\":\"Pods\",\"value\":{step},\"periodSeconds\":{settles}}}]}}}}}}}}'"
        ));
    }
    if let Some(surge @ 1..) = simulated.largest_surge
        && pods.workload_type == "deployment"
    {
        patches.push(format!(
            "kubectl patch deployment {name} -n {namespace} --type merge -p '{{\"spec\":{{\"strategy\":{{\"rollingUpdate\":{{\"maxSurge\":{surge},\"maxUnavailable\":0}}}}}}}}'"
        ));
    }
    patches
}
