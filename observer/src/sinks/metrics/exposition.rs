//! Families at a scrape: made of the state, in the library's text format or as OpenMetrics.

use std::{fmt::Write as _, io::Write as _};

use prometheus::{Encoder, TextEncoder, proto};

use super::family::{Declaration, Distribution, Kind, LabelSet, Metric, Read};

pub enum Value<'a> {
    Number(f64),
    Distribution(&'a Distribution),
}

/// One series: its labels, and when it was made (Unix seconds).
pub struct Series<'a> {
    pub labels: Vec<(&'static str, &'a str)>,
    pub created: f64,
    pub value: Value<'a>,
}

/// Takes family by family, and the series of each.
pub trait Exposition {
    fn family(&mut self, declaration: &Declaration);
    fn series(&mut self, declaration: &Declaration, series: Series);
}

/// All families of a subject: `subjects` gives each with its labels and the time it was made.
pub fn expose<'a, S: 'static, L: LabelSet + 'a>(
    metrics: &[&'static Metric<S>],
    subjects: impl Iterator<Item = (&'a L, f64, &'a S)> + Clone,
    to: &mut dyn Exposition,
) {
    for Metric { declaration, read } in metrics {
        to.family(declaration);
        for (labels, created, subject) in subjects.clone() {
            let mut put = |own: &[&str], value: Value| {
                let mut labels = labels.labels();
                labels.extend(declaration.labels.iter().copied().zip(own.iter().copied()));
                labels.retain(|(_, value)| !value.is_empty());
                labels.sort_unstable_by_key(|(name, _)| *name); // as the libraries of others write them
                to.series(declaration, Series { labels, created, value });
            };
            match read {
                Read::One(read) => {
                    if let Some(value) = read(subject) {
                        put(&[], Value::Number(value));
                    }
                }
                Read::Each(read) => read(subject, &mut |own, value| put(own, Value::Number(value))),
                Read::Distributions(read) => {
                    read(subject, &mut |own, value| put(own, Value::Distribution(value)));
                }
            }
        }
    }
}

/// For the library.
#[derive(Default)]
pub struct Families(pub Vec<proto::MetricFamily>);

impl Exposition for Families {
    fn family(&mut self, declaration: &Declaration) {
        let mut family = proto::MetricFamily::default();
        family.set_name(declaration.name.to_owned());
        family.set_help(declaration.help.to_owned());
        family.set_field_type(match declaration.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram(_) => proto::MetricType::HISTOGRAM,
        });
        self.0.push(family);
    }

    fn series(&mut self, declaration: &Declaration, series: Series) {
        let Some(family) = self.0.last_mut() else { return };
        let label = |(name, value): (&str, &str)| {
            let mut label = proto::LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value.to_owned());
            label
        };
        let mut metric = proto::Metric::from_label(series.labels.into_iter().map(label).collect());
        match (declaration.kind, series.value) {
            (Kind::Counter, Value::Number(value)) => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            (_, Value::Number(value)) => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            (kind, Value::Distribution(distribution)) => {
                let mut histogram = proto::Histogram::default();
                let mut buckets = Vec::new();
                let count = cumulative(kind, distribution, |bound, count| {
                    let mut bucket = proto::Bucket::default();
                    bucket.set_upper_bound(bound);
                    bucket.set_cumulative_count(count);
                    buckets.push(bucket);
                });
                histogram.set_bucket(buckets);
                histogram.set_sample_count(count);
                histogram.set_sample_sum(distribution.sum);
                metric.set_histogram(histogram);
            }
        }
        family.mut_metric().push(metric);
    }
}

/// The library's text format.
#[derive(Default)]
pub struct Text {
    family: Families,
    text: Vec<u8>,
}

impl Text {
    pub fn finish(mut self) -> String {
        self.flush();
        String::from_utf8_lossy(&self.text).into_owned()
    }

    fn flush(&mut self) {
        self.family.0.retain(|family| !family.get_metric().is_empty()); // the encoder refuses those
        if let Err(error) = TextEncoder::new().encode(&self.family.0, &mut self.text) {
            let _ = writeln!(self.text, "# cannot encode: {error}"); // into memory: cannot fail
        }
        self.family.0.clear();
    }
}

impl Exposition for Text {
    fn family(&mut self, declaration: &Declaration) {
        self.flush();
        self.family.family(declaration);
    }

    fn series(&mut self, declaration: &Declaration, series: Series) {
        self.family.series(declaration, series);
    }
}

/// Counts up to each bound; returns the whole count.
fn cumulative(kind: Kind, distribution: &Distribution, mut put: impl FnMut(f64, u64)) -> u64 {
    let bounds = if let Kind::Histogram(bounds) = kind { bounds } else { &[] };
    let mut count = 0_u64;
    for (i, bound) in bounds.iter().enumerate() {
        count = count.saturating_add(distribution.counts.get(i).copied().unwrap_or_default());
        put(*bound, count);
    }
    count.saturating_add(distribution.counts.get(bounds.len()).copied().unwrap_or_default())
}

/// OpenMetrics 1.0 text, with the time at which each counter and histogram began.
#[derive(Default)]
pub struct OpenMetrics {
    text: String,
    /// A family without series is left out.
    pending: String,
}

impl OpenMetrics {
    pub fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &str, value: f64) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.text, "{name}{suffix}{labels} {value}");
    }
}

impl Exposition for OpenMetrics {
    fn family(&mut self, declaration: &Declaration) {
        let name = open_name(declaration);
        let (kind, help) = (declaration.kind.name(), escaped(declaration.help));
        self.pending = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn series(&mut self, declaration: &Declaration, series: Series) {
        self.text.push_str(&std::mem::take(&mut self.pending));
        let name = open_name(declaration);
        let labels = series.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let labels = labels.collect::<Vec<_>>().join(",");
        match (declaration.kind, series.value) {
            (Kind::Counter, Value::Number(value)) => {
                self.sample(name, "_total", &labels, value);
                self.sample(name, "_created", &labels, series.created);
            }
            (_, Value::Number(value)) => self.sample(name, "", &labels, value),
            (kind, Value::Distribution(distribution)) => {
                let comma = if labels.is_empty() { "" } else { "," };
                let count = cumulative(kind, distribution, |bound, count| {
                    let labels = format!("{labels}{comma}le=\"{bound:?}\"");
                    self.sample(name, "_bucket", &labels, count as f64);
                });
                let labels_inf = format!("{labels}{comma}le=\"+Inf\"");
                self.sample(name, "_bucket", &labels_inf, count as f64);
                self.sample(name, "_sum", &labels, distribution.sum);
                self.sample(name, "_count", &labels, count as f64);
                self.sample(name, "_created", &labels, series.created);
            }
        }
    }
}

/// A counter's family has no `_total`.
fn open_name(declaration: &Declaration) -> &'static str {
    declaration.name.strip_suffix("_total").unwrap_or(declaration.name)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
