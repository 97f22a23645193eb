//! What LimitRanges and ResourceQuotas of a namespace allow, of memory.

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};

use crate::sources::kubernetes::pod::bytes;

/// Of the LimitRanges of a namespace, for memory.
#[derive(Default)]
pub struct Rules {
    min: Option<u64>,
    pub max: Option<u64>,
    ratio: Option<f64>,
    pub pod_max: Option<u64>,
}

impl Rules {
    pub fn of(ranges: &[LimitRange]) -> Self {
        let mut rules = Self::default();
        let items = ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits);
        for item in items {
            let memory = |list: &Option<std::collections::BTreeMap<_, _>>| {
                list.as_ref().and_then(|list| list.get("memory")).and_then(bytes)
            };
            let lower = |now: Option<u64>, other: Option<u64>| now.into_iter().chain(other).min();
            match item.type_.as_str() {
                "Container" => {
                    rules.min = rules.min.max(memory(&item.min));
                    rules.max = lower(rules.max, memory(&item.max));
                    let ratio = item.max_limit_request_ratio.as_ref().and_then(|list| list.get("memory"));
                    let ratio = ratio.and_then(|ratio| ratio.0.parse::<f64>().ok());
                    rules.ratio = rules.ratio.into_iter().chain(ratio).reduce(f64::min);
                }
                "Pod" => rules.pod_max = lower(rules.pod_max, memory(&item.max)),
                _ => {}
            }
        }
        rules
    }

    /// Of a container with this request, by their ratio.
    pub fn highest_limit(&self, request: u64) -> Option<u64> {
        self.ratio.map(|most| (request as f64 * most) as u64)
    }

    /// Whether a container may have this request beside this limit.
    pub fn allow(&self, steady: u64, limit: Option<u64>) -> bool {
        let ratio = limit.map(|limit| limit as f64 / steady.max(1) as f64);
        self.min.is_none_or(|min| steady >= min)
            && self.ratio.is_none_or(|most| ratio.is_none_or(|ratio| ratio <= most))
    }
}

/// Least that any quota leaves of any of these, whatever its scope.
pub fn quota_left(quotas: &[ResourceQuota], resources: &[&str]) -> Option<u64> {
    let left = quotas.iter().filter_map(|quota| {
        let status = quota.status.as_ref()?;
        let of = |list: &Option<std::collections::BTreeMap<String, _>>, name: &str| {
            list.as_ref().and_then(|list| list.get(name)).and_then(bytes)
        };
        let left =
            |name: &str| Some(of(&status.hard, name)?.saturating_sub(of(&status.used, name).unwrap_or(0)));
        resources.iter().copied().filter_map(left).min()
    });
    left.min()
}
