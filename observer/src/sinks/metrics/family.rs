//! What a metric is: one declaration, from which its registration, series, removal and documentation follow.

use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder, core::Collector};

use observer_core::model::container::{Labels, Workload};

/// Name, type, labels and meaning of a family; docs/metrics.md is made of these.
#[derive(Debug)]
pub struct Declaration {
    pub name: &'static str,
    pub kind: Kind,
    /// In addition to those of its subject.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// A family with the way it is read from the state of one subject: a container, a workload, the node, the observer.
pub struct Metric<S: 'static> {
    pub declaration: Declaration,
    pub(super) read: Read<S>,
}

pub(super) enum Read<S: 'static> {
    /// One series, or none.
    One(fn(&S) -> Option<f64>),
    /// A series for each set of values of its own labels.
    Each(fn(&S, &mut Each)),
    Distributions(fn(&S, &mut EachDistribution)),
}

pub(super) type Each<'a> = dyn FnMut(&[&str], f64) + 'a;
pub(super) type EachDistribution<'a> = dyn FnMut(&[&str], &Distribution) + 'a;

pub(super) const fn gauge<S>(
    name: &'static str,
    help: &'static str,
    read: fn(&S) -> Option<f64>,
) -> Metric<S> {
    let declaration = Declaration { name, kind: Kind::Gauge, labels: &[], help };
    Metric { declaration, read: Read::One(read) }
}

pub(super) const fn gauges<S>(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&S, &mut Each),
) -> Metric<S> {
    Metric { declaration: Declaration { name, kind: Kind::Gauge, labels, help }, read: Read::Each(read) }
}

pub(super) const fn counter<S>(
    name: &'static str,
    help: &'static str,
    read: fn(&S) -> Option<f64>,
) -> Metric<S> {
    let declaration = Declaration { name, kind: Kind::Counter, labels: &[], help };
    Metric { declaration, read: Read::One(read) }
}

pub(super) const fn counters<S>(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&S, &mut Each),
) -> Metric<S> {
    Metric { declaration: Declaration { name, kind: Kind::Counter, labels, help }, read: Read::Each(read) }
}

pub(super) const fn histograms<S>(
    name: &'static str,
    bounds: &'static [f64],
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&S, &mut EachDistribution),
) -> Metric<S> {
    let declaration = Declaration { name, kind: Kind::Histogram(bounds), labels, help };
    Metric { declaration, read: Read::Distributions(read) }
}

/// What a histogram shows.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// Of each bound, and beyond the last one.
    pub counts: Vec<u64>,
    pub sum: f64,
}

impl Distribution {
    pub fn observe(&mut self, bounds: &[f64], value: f64, times: u64) {
        self.counts.resize(bounds.len() + 1, 0);
        let count = &mut self.counts[bounds.partition_point(|bound| *bound < value)];
        *count = count.saturating_add(times);
        self.sum += value * times as f64;
    }

    pub fn merge(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        let counts = self.counts.iter_mut().zip(&other.counts);
        counts.for_each(|(sum, count)| *sum = sum.saturating_add(*count));
        self.sum += other.sum;
    }
}

/// The labels of a subject; one that is empty is absent.
pub trait LabelSet {
    fn labels(&self) -> Vec<(&'static str, &str)>;
}

impl LabelSet for Labels {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        let Self { namespace, pod, container, workload, workload_type } = self;
        vec![
            ("namespace", namespace),
            ("pod", pod),
            ("container", container),
            ("workload", workload),
            ("workload_type", workload_type),
        ]
    }
}

impl LabelSet for Workload {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        let Self { namespace, workload, workload_type, container } = self;
        vec![
            ("namespace", namespace),
            ("workload", workload),
            ("workload_type", workload_type),
            ("container", container),
        ]
    }
}

/// The node, and the observer.
impl LabelSet for () {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }
}

/// Declares families that a registry of the library keeps, and a type `Families` with a field for each: the ledger's
/// and the lender's. `name: counters "metric", ["label"], "help";` is all that a metric takes.
macro_rules! registered {
    ($($field:ident: $kind:ident $name:literal, $labels:tt, $help:literal;)*) => {
        pub static ALL: &[&$crate::sinks::metrics::Declaration] =
            &[$(&$crate::sinks::metrics::family::registered!(@declare $kind $name, $labels, $help)),*];

        #[derive(Clone)]
        struct Families {
            registry: prometheus::Registry,
            $($field: $crate::sinks::metrics::family::registered!(@type $kind),)*
        }

        impl Default for Families {
            fn default() -> Self {
                let registry = prometheus::Registry::new();
                $(let $field = $crate::sinks::metrics::family::registered!(@declare $kind $name, $labels, $help)
                    .$kind(&registry);)*
                Self { registry, $($field),* }
            }
        }
    };
    (@declare $kind:ident $name:literal, $labels:tt, $help:literal) => {
        $crate::sinks::metrics::Declaration {
            name: $name,
            kind: $crate::sinks::metrics::family::registered!(@kind $kind),
            labels: &$labels,
            help: $help,
        }
    };
    (@kind counters) => { $crate::sinks::metrics::Kind::Counter };
    (@kind gauges) => { $crate::sinks::metrics::Kind::Gauge };
    (@type counters) => { prometheus::CounterVec };
    (@type gauges) => { prometheus::GaugeVec };
}
pub(crate) use registered;

/// What such a registry has, in the text format.
pub fn text(registry: &Registry) -> String {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        // Encoding fails only for a family without series, which gather leaves out.
        Err(error) => format!("# cannot encode: {error}\n"),
    }
}

/// As [`registered`] registers them.
impl Declaration {
    pub fn counters(&self, registry: &Registry) -> CounterVec {
        self.register(registry, CounterVec::new(Opts::new(self.name, self.help), self.labels))
    }

    pub fn gauges(&self, registry: &Registry) -> GaugeVec {
        self.register(registry, GaugeVec::new(Opts::new(self.name, self.help), self.labels))
    }

    /// A wrong declaration is a programming error that every test meets at once.
    fn register<C: Collector + Clone + 'static>(
        &self,
        registry: &Registry,
        family: prometheus::Result<C>,
    ) -> C {
        let family = family.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        registry.register(Box::new(family.clone())).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        family
    }
}
