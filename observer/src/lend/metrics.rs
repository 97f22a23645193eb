//! The lender's own series: what is lent, what was refused, what came back.

use crate::sinks::metrics::family::{registered, text};

registered! {
    lent: gauges "observer_lend_lent_bytes", [],
        "Memory requested now beyond what users asked for, of all pods lent to. Of the leading replica.";
    loans: gauges "observer_lend_loans", [],
        "Containers that are lent to now. Of the leading replica.";
    oldest: gauges "observer_lend_oldest_loan_seconds", [],
        "Age of the oldest loan that is not given back: since its pod was created, or its container started again.";
    reviewed: counters "observer_lend_pods_reviewed_total", ["result"],
        "Pods that the API server asked about: raised, would_raise (dry run), unchanged (lent to already), refused, unreadable.";
    refused: counters "observer_lend_refused_total", ["reason"],
        "Pods that were lent nothing, by reason: docs/lend.md.";
    patched: counters "observer_lend_resizes_total", ["why"],
        "Requests changed after admission, of containers: peak_passed, settled, deadline, pending, crash_loop give back; restarted lends again.";
    returned: counters "observer_lend_given_back_bytes_total", [],
        "Memory given back.";
    failed: counters "observer_lend_resize_failures_total", ["reason"],
        "Resizes that were not done: conflict (asked again at once), refused (by a rule; a request is asked again after five minutes, a limit after one), not_actual (accepted, but not carried out within 10 s), failed.";
    unasked: counters "observer_lend_agent_failures_total", [],
        "Questions to agents without an answer: their pods keep their loan until the deadline.";
    raised: counters "observer_lend_limits_raised_total", [],
        "Limits of memory raised before a container met them (--airbag).";
    not_raised: counters "observer_lend_limits_not_raised_total", ["reason"],
        "Containers that were foreseen to meet their limit and whose limit was left as it is, by reason: docs/lend.md (--airbag).";
    foreign: counters "observer_lend_unreadable_terms_total", [],
        "Pods that carry the label of a loan and no terms that can be read: left as they are.";
    objects: counters "observer_lend_objects_unreadable_total", [],
        "Nodes, pods and rules the API server sent that could not be read: the log names them. What was known of them stays until the next list.";
    overfull: counters "observer_lend_pods_untracked_total", [],
        "Pods with a loan beyond the number that is followed at once: left as they are until there is room.";
}

#[derive(Clone)]
pub struct Metrics {
    families: Families,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self { families: Families::default() };
        metrics.now(0, 0, 0.0);
        metrics
    }
}

const NONE: &[&str] = &[];

impl Metrics {
    pub fn now(&self, lent_bytes: u64, loans: u64, oldest_seconds: f64) {
        self.families.lent.with_label_values(NONE).set(lent_bytes as f64);
        self.families.loans.with_label_values(NONE).set(loans as f64);
        self.families.oldest.with_label_values(NONE).set(oldest_seconds);
    }

    pub fn reviewed(&self, result: &str) {
        self.families.reviewed.with_label_values(&[result]).inc();
    }

    pub fn refused(&self, reason: &str) {
        self.families.refused.with_label_values(&[reason]).inc();
    }

    pub fn patched(&self, why: &str, returned_bytes: u64) {
        self.families.patched.with_label_values(&[why]).inc();
        self.families.returned.with_label_values(NONE).inc_by(returned_bytes as f64);
    }

    pub fn failed(&self, reason: &str) {
        self.families.failed.with_label_values(&[reason]).inc();
    }

    pub fn object_unreadable(&self) {
        self.families.objects.with_label_values(NONE).inc();
    }

    pub fn agent_failed(&self) {
        self.families.unasked.with_label_values(NONE).inc();
    }

    pub fn limit_raised(&self) {
        self.families.raised.with_label_values(NONE).inc();
    }

    pub fn limit_not_raised(&self, reason: &str) {
        self.families.not_raised.with_label_values(&[reason]).inc();
    }

    pub fn unreadable(&self) {
        self.families.foreign.with_label_values(NONE).inc();
    }

    pub fn untracked(&self) {
        self.families.overfull.with_label_values(NONE).inc();
    }

    pub fn render(&self) -> String {
        text(&self.families.registry)
    }
}
