//! What is seen -> the rows of the three lists.

use std::collections::{HashMap, HashSet};

use super::feed::{Link, OVER_SECONDS, Seen};
use crate::commands::client::state::{Container, Kill, Names, Risk, Startup};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sort {
    #[default]
    Risk,
    Usage,
    Peak,
    Share,
    Kills,
    Age,
    Name,
}

impl Sort {
    pub const ALL: [Self; 7] =
        [Self::Risk, Self::Usage, Self::Peak, Self::Share, Self::Kills, Self::Age, Self::Name];

    pub fn name(self) -> &'static str {
        match self {
            Self::Risk => "risk",
            Self::Usage => "usage",
            Self::Peak => "peak",
            Self::Share => "peak in % of limit",
            Self::Kills => "OOM kills",
            Self::Age => "last started",
            Self::Name => "name",
        }
    }

    pub fn step(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|one| *one == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// What is to be shown of it, and in which order.
pub struct Wanted<'a> {
    pub sort: Sort,
    pub reversed: bool,
    /// Words that all of a row must have.
    pub filter: &'a str,
    /// Of a recording that plays.
    pub speed: f64,
}

/// Which row: it stays selected wherever it moves, from the list of what starts to that of the rest too.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    Container(String),
    Kill(u64),
}

pub struct Starting<'a> {
    pub names: &'a Names,
    /// No other container of its pod is there: the pod's name is enough.
    pub alone: bool,
    /// None: its curve was not asked for yet.
    pub startup: Option<&'a Startup>,
    /// None: it is gone already.
    pub container: Option<&'a Container>,
}

pub struct Row<'a> {
    pub container: &'a Container,
    pub alone: bool,
    pub risk: Option<&'a Risk>,
}

pub struct Rows<'a> {
    pub starting: Vec<Starting<'a>>,
    pub kills: Vec<&'a Kill>,
    pub rest: Vec<Row<'a>>,
    /// How many there are of each, filtered or not.
    pub all: [usize; 3],
}

impl Starting<'_> {
    pub fn under_way(&self) -> bool {
        match self.startup {
            Some(startup) => startup.seconds.is_none(),
            None => true,
        }
    }

    fn began(&self) -> f64 {
        let container = || self.container.and_then(|one| one.started);
        self.startup.map(|startup| startup.started).or_else(container).unwrap_or(0.0)
    }
}

impl<'a> Rows<'a> {
    pub fn of(seen: &'a Seen, wanted: &Wanted) -> Self {
        let state = &seen.state;
        let containers: HashMap<&str, &Container> =
            state.containers.iter().map(|one| (one.names.id.as_str(), one)).collect();
        // They stay as long for who looks at it, however fast it plays.
        let over = OVER_SECONDS * if seen.link == Link::Plays { wanted.speed.max(1.0) } else { 1.0 };
        // The last start-up of each, while it is under way or just over.
        let mut last: HashMap<&str, &Startup> = HashMap::new();
        for startup in &seen.startups {
            if startup.seconds.is_none_or(|seconds| state.status.now - (startup.started + seconds) < over) {
                last.insert(&startup.names.id, startup);
            }
        }
        // The name of a pod's only container, restarted or not; none: it has several.
        let mut pods: HashMap<(&str, &str), Option<&str>> = HashMap::new();
        for Container { names, .. } in &state.containers {
            let only = pods.entry((&names.namespace, &names.pod)).or_insert(Some(&names.container));
            *only = only.filter(|only| *only == names.container);
        }
        let alone = |names: &Names| {
            let only = pods.get(&(names.namespace.as_str(), names.pod.as_str()));
            !names.pod.is_empty() && only.is_none_or(|only| *only == Some(names.container.as_str()))
        };
        let mut starting: Vec<Starting> = last
            .values()
            .map(|startup| Starting {
                names: &startup.names,
                alone: alone(&startup.names),
                startup: Some(startup),
                container: containers.get(startup.names.id.as_str()).copied(),
            })
            .collect();
        let new = |one: &&Container| one.state == "starting" && !last.contains_key(one.names.id.as_str());
        starting.extend(state.containers.iter().filter(new).map(|one| Starting {
            names: &one.names,
            alone: alone(&one.names),
            startup: None,
            container: Some(one),
        }));
        starting.sort_by(|a, b| {
            let order = b.under_way().cmp(&a.under_way()).then(b.began().total_cmp(&a.began()));
            order.then_with(|| a.names.id.cmp(&b.names.id))
        });

        let shown: HashSet<&str> = starting.iter().map(|one| one.names.id.as_str()).collect();
        let risks: HashMap<_, &Risk> = state
            .workloads
            .iter()
            .map(|one| {
                let key = (&*one.namespace, &*one.workload_type, &*one.workload, &*one.container);
                (key, &one.risk)
            })
            .collect();
        let risk = |names: &Names| {
            // Outside Kubernetes a workload has one container, without a name.
            let container = if names.pod.is_empty() { "" } else { &*names.container };
            risks.get(&(&*names.namespace, &*names.workload_type, &*names.workload, container)).copied()
        };
        let rest = state.containers.iter().filter(|one| !shown.contains(one.names.id.as_str()));
        let mut rest: Vec<Row> = rest
            .map(|container| Row { container, alone: alone(&container.names), risk: risk(&container.names) })
            .collect();
        sort(&mut rest, wanted.sort, wanted.reversed);

        let mut kills: Vec<&Kill> = state.kills.iter().collect();
        kills.sort_by(|a, b| b.at.total_cmp(&a.at).then(b.kill.cmp(&a.kill)));

        let all = [starting.len(), kills.len(), rest.len()];
        let words: Vec<String> = wanted.filter.to_lowercase().split_whitespace().map(str::to_owned).collect();
        if !words.is_empty() {
            let has = |parts: &[&str]| {
                let text = parts.join(" ").to_lowercase();
                words.iter().all(|word| text.contains(word))
            };
            starting.retain(|one| {
                let outcome = one.startup.map_or("starting", |startup| &startup.outcome);
                has(&[&one.names.full(), &one.names.workload, outcome])
            });
            kills.retain(|kill| {
                let who = kill.container.as_ref().map_or(String::new(), Names::full);
                has(&[&who, &kill.victim_command, kill.scope.name()])
            });
            rest.retain(|row| {
                let (level, why) = row.risk.map_or(("", ""), |risk| (&risk.level, &risk.why));
                let names = &row.container.names;
                has(&[&names.full(), &names.workload, &row.container.state, level, why])
            });
        }
        Self { starting, kills, rest, all }
    }

    pub fn keys(&self) -> Vec<Key> {
        let starting = self.starting.iter().map(|one| Key::Container(one.names.id.clone()));
        let kills = self.kills.iter().map(|kill| Key::Kill(kill.kill));
        let rest = self.rest.iter().map(|row| Key::Container(row.container.names.id.clone()));
        starting.chain(kills).chain(rest).collect()
    }

    /// The container of a row, by its id and its name.
    pub fn container(&self, key: &Key) -> Option<(String, String)> {
        let starting = self.starting.iter().map(|one| one.names);
        let mut all = starting.chain(self.rest.iter().map(|row| &row.container.names));
        let names = match key {
            Key::Container(id) => all.find(|names| names.id == *id),
            Key::Kill(number) => self.kills.iter().find(|kill| kill.kill == *number)?.container.as_ref(),
        }?;
        Some((names.id.clone(), names.full()))
    }
}

/// As much of a name as fits; the namespace is left out first, then the container of a pod that has one.
pub fn name(names: &Names, alone: bool, columns: usize) -> String {
    let full = names.full();
    if full.chars().count() <= columns || names.pod.is_empty() {
        return full;
    }
    let pod = format!("{}/{}", names.pod, names.container);
    if pod.chars().count() <= columns || !alone { pod } else { names.pod.clone() }
}

/// Peak in percent of its limit.
pub fn share(one: &Container) -> Option<f64> {
    one.limit_bytes.filter(|limit| *limit > 0).map(|limit| one.peak_bytes as f64 / limit as f64 * 100.0)
}

fn sort(rows: &mut [Row], by: Sort, reversed: bool) {
    rows.sort_by(|a, b| {
        let (one, other) = (a.container, b.container);
        let order = match by {
            Sort::Risk => {
                let rank = |row: &Row| {
                    let level = row.risk.map_or("", |risk| risk.level.as_str());
                    (
                        ["high", "medium"]
                            .iter()
                            .rev()
                            .position(|known| *known == level)
                            .map_or(0, |at| at + 1),
                        row.risk.map_or(0, |risk| risk.score),
                        row.container.ended.is_none(),
                        row.container.usage_bytes,
                    )
                };
                rank(b).cmp(&rank(a))
            }
            Sort::Usage => other.usage_bytes.cmp(&one.usage_bytes),
            Sort::Peak => other.peak_bytes.cmp(&one.peak_bytes),
            Sort::Share => share(other).unwrap_or(-1.0).total_cmp(&share(one).unwrap_or(-1.0)),
            Sort::Kills => other.oom_kills.cmp(&one.oom_kills),
            Sort::Age => other.started.unwrap_or(0.0).total_cmp(&one.started.unwrap_or(0.0)),
            Sort::Name => one.names.full().cmp(&other.names.full()),
        };
        let order = if reversed { order.reverse() } else { order };
        order.then_with(|| one.names.id.cmp(&other.names.id))
    });
}
