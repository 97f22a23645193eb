//! The lender's own series: what is lent, what was refused, what came back.

use prometheus::{CounterVec, Encoder, GaugeVec, Registry, TextEncoder};

use crate::sinks::metrics::{Declaration, Kind};

static LENT: Declaration = Declaration {
    name: "observer_lend_lent_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Memory requested now beyond what users asked for, of all pods lent to. Of the leading replica.",
};
static LOANS: Declaration = Declaration {
    name: "observer_lend_loans",
    kind: Kind::Gauge,
    labels: &[],
    help: "Containers that are lent to now. Of the leading replica.",
};
static OLDEST: Declaration = Declaration {
    name: "observer_lend_oldest_loan_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "Age of the oldest loan that is not given back: since its pod was created, or its container started again.",
};
static REVIEWED: Declaration = Declaration {
    name: "observer_lend_pods_reviewed_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Pods that the API server asked about: raised, would_raise (dry run), unchanged (lent to already), refused, unreadable.",
};
static REFUSED: Declaration = Declaration {
    name: "observer_lend_refused_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Pods that were lent nothing, by reason: docs/lend.md.",
};
static PATCHED: Declaration = Declaration {
    name: "observer_lend_resizes_total",
    kind: Kind::Counter,
    labels: &["why"],
    help: "Requests changed after admission, of containers: peak_passed, settled, deadline, pending, crash_loop give back; restarted lends again.",
};
static RETURNED: Declaration = Declaration {
    name: "observer_lend_given_back_bytes_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Memory given back.",
};
static FAILED: Declaration = Declaration {
    name: "observer_lend_resize_failures_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Resizes that were not done: conflict (asked again at once), refused (by a rule; asked again after five minutes), not_actual (accepted, but not carried out within 10 s), failed.",
};
static UNASKED: Declaration = Declaration {
    name: "observer_lend_agent_failures_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Questions to agents without an answer: their pods keep their loan until the deadline.",
};
static FOREIGN: Declaration = Declaration {
    name: "observer_lend_unreadable_terms_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Pods that carry the label of a loan and no terms that can be read: left as they are.",
};
static OVERFULL: Declaration = Declaration {
    name: "observer_lend_pods_untracked_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Pods with a loan beyond the number that is followed at once: left as they are until there is room.",
};

pub static ALL: &[&Declaration] = &[
    &LENT, &LOANS, &OLDEST, &REVIEWED, &REFUSED, &PATCHED, &RETURNED, &FAILED, &UNASKED, &FOREIGN, &OVERFULL,
];

#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    lent: GaugeVec,
    loans: GaugeVec,
    oldest: GaugeVec,
    reviewed: CounterVec,
    refused: CounterVec,
    patched: CounterVec,
    returned: CounterVec,
    failed: CounterVec,
    unasked: CounterVec,
    foreign: CounterVec,
    overfull: CounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            lent: LENT.gauges(&registry),
            loans: LOANS.gauges(&registry),
            oldest: OLDEST.gauges(&registry),
            reviewed: REVIEWED.counters(&registry),
            refused: REFUSED.counters(&registry),
            patched: PATCHED.counters(&registry),
            returned: RETURNED.counters(&registry),
            failed: FAILED.counters(&registry),
            unasked: UNASKED.counters(&registry),
            foreign: FOREIGN.counters(&registry),
            overfull: OVERFULL.counters(&registry),
            registry,
        };
        metrics.now(0, 0, 0.0);
        metrics
    }
}

const NONE: &[&str] = &[];

impl Metrics {
    pub fn now(&self, lent_bytes: u64, loans: u64, oldest_seconds: f64) {
        self.lent.with_label_values(NONE).set(lent_bytes as f64);
        self.loans.with_label_values(NONE).set(loans as f64);
        self.oldest.with_label_values(NONE).set(oldest_seconds);
    }

    pub fn reviewed(&self, result: &str) {
        self.reviewed.with_label_values(&[result]).inc();
    }

    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub fn patched(&self, why: &str, returned_bytes: u64) {
        self.patched.with_label_values(&[why]).inc();
        self.returned.with_label_values(NONE).inc_by(returned_bytes as f64);
    }

    pub fn failed(&self, reason: &str) {
        self.failed.with_label_values(&[reason]).inc();
    }

    pub fn agent_failed(&self) {
        self.unasked.with_label_values(NONE).inc();
    }

    pub fn unreadable(&self) {
        self.foreign.with_label_values(NONE).inc();
    }

    pub fn untracked(&self) {
        self.overfull.with_label_values(NONE).inc();
    }

    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            // Encoding fails only for a family without series, which gather leaves out.
            Err(error) => format!("# cannot encode: {error}\n"),
        }
    }
}
