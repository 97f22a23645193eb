//! The container of a series: its labels, and whether two sets of labels are one container that was restarted.

use std::fmt;

use observer_core::model::units::quoted;

/// These change when a container is started again or its pod is replaced; the container is the same.
const OF_THE_INSTANCE: [&str; 12] = [
    "id",
    "pod",
    "pod_name",
    "pod_uid",
    "uid",
    "pid",
    "instance",
    "node",
    "container_id",
    "kubernetes_io_hostname",
    "kubernetes_node",
    "pod_ip",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub Vec<(String, String)>);

impl Labels {
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// A legend as Prometheus and Grafana write it: `name{a="b", c="d"}`; anything else is a name.
    pub fn parse(legend: &str) -> Self {
        let Some((name, rest)) = legend.split_once('{') else {
            return Self::of(&[("series", legend.trim())]);
        };
        let mut labels = Vec::new();
        if !name.trim().is_empty() {
            labels.push(("__name__".to_owned(), name.trim().to_owned()));
        }
        for pair in rest.trim_end().trim_end_matches('}').split(',') {
            if let Some((name, value)) = pair.split_once('=') {
                labels.push((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
            }
        }
        Self(labels)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// Names of the labels that are not the same in both.
    pub fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self.0.iter().chain(&other.0).map(|(name, _)| name.as_str()).collect();
        names.retain(|name| self.get(name) != other.get(name));
        names.sort_unstable();
        names.dedup();
        names
    }

    pub fn same_container(&self, other: &Self) -> bool {
        let differ = self.differing(other);
        // cAdvisor's `name` is the runtime's name of one container: it changes with its cgroup.
        let new_cgroup = differ.contains(&"id");
        differ.iter().all(|name| OF_THE_INSTANCE.contains(name) || (new_cgroup && *name == "name"))
    }

    pub fn brief(&self) -> String {
        quoted(&self.to_string())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let [(name, value)] = &self.0[..]
            && name == "series"
        {
            return f.write_str(value);
        }
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}
