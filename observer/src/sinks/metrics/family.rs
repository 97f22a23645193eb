//! One metric family: its declaration as data, and the series behind it.

use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, core::Collector};

/// Name, type, labels and meaning of a family; docs/metrics.md is made of these.
#[derive(Debug)]
pub struct Declaration {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
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

impl Declaration {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    pub fn counters(&self, registry: &Registry) -> CounterVec {
        self.register(registry, CounterVec::new(self.opts(), self.labels))
    }

    pub fn gauges(&self, registry: &Registry) -> GaugeVec {
        self.register(registry, GaugeVec::new(self.opts(), self.labels))
    }

    pub fn histograms(&self, registry: &Registry) -> HistogramVec {
        let buckets = match self.kind {
            Kind::Histogram(buckets) => buckets.to_vec(),
            _ => Vec::new(),
        };
        let opts = HistogramOpts::new(self.name, self.help).buckets(buckets);
        self.register(registry, HistogramVec::new(opts, self.labels))
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

/// Moves what was counted under one set of labels to another. A series that was never made moves nothing.
pub fn carry(family: &CounterVec, from: &[&str], to: &[&str]) {
    let counted = family.with_label_values(from).get();
    let _ = family.remove_label_values(from);
    if counted > 0.0 {
        family.with_label_values(to).inc_by(counted);
    }
}
