//! Does the limit hold every start-up?

use crate::{advice::{Settings, checks::{BAND, Declaration, Judged, unknown}}, model::{advice::{AdvisedLimit, Facts, Grade, Numbers}, units::Bytes}};

pub(super) static CHECK: Declaration = Declaration {
    name: "limit_covers_peak",
    fails: "start-ups were cut off, or needed more",
    warns: "one was cut off, and the others fit; less free above the worst than advised",
    needs: "a start-up that came through; the limit",
    judge,
};

fn judge(facts: &Facts, numbers: &Numbers, _settings: &Settings) -> Judged {
    let s = &facts.startups;
    let Some(limit) = facts.current.limit else { return unknown("the limit is not known") };
    let Some(limit) = limit else { return unknown("no limit is set: see limit_set") };
    let own = facts.kills.by_limit();
    let killed = if own > 0 || s.cut_off() > 0 {
        format!("; {} OOM kill(s) by it, {} of {} start-ups cut off", own, s.cut_off(), s.count)
    } else {
        String::new()
    };
    if facts.kills.before_exec > 0 {
        let evidence = format!("limit {} is too low for the runtime to start it{killed}", Bytes(limit));
        return (Grade::Fail, evidence);
    }
    if let Some(cut) = s.cut.filter(|cut| limit <= cut.saturating_mul(21) / 20) {
        let evidence = format!("limit {}, start-ups cut off at {}{killed}", Bytes(limit), Bytes(cut));
        return match numbers.worst {
            // One that went wrong, where the others fit.
            Some(worst) if s.cut_off() == 1 && s.whole > 1 && worst <= limit => {
                (Grade::Warn, format!("{evidence}; the {} whole ones need up to {}", s.whole, Bytes(worst)))
            }
            _ => (Grade::Fail, evidence),
        };
    }
    let Some(worst) = numbers.worst else {
        return unknown(format!("no start-up came through whole{}", s.broken_off()));
    };
    let evidence =
        format!("limit {}, worst need {} in {} start-ups{killed}", Bytes(limit), Bytes(worst), s.whole);
    if worst > limit || own > 0 && facts.at_limit(worst) {
        return (Grade::Fail, evidence);
    }
    match numbers.limit {
        Some(AdvisedLimit::Firm(advised)) if limit as f64 >= advised as f64 * (1.0 - BAND) => {
            match s.drifting {
                0 => (Grade::Pass, evidence),
                _ => (Grade::Warn, evidence + "; some of it drift, and will meet any limit"),
            }
        }
        Some(advised) => (
            Grade::Warn,
            format!("{evidence}: less free above it than {} would leave", Bytes(advised.bytes())),
        ),
        None => {
            unknown(format!("{evidence}; {}", numbers.missing.as_deref().unwrap_or("too little is known")))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::{MIB, grades}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::LimitCoversPeak,
            &[
                (Pass, |_| {}),
                (Fail, |facts| facts.current.limit = Some(Some(80 * MIB))),
                (Warn, |facts| facts.current.limit = Some(Some(92 * MIB))),
                (Unknown, |facts| facts.startups.drifting = 5),
                (Fail, |facts| facts.startups.cut = Some(127 * MIB)),
                (Warn, |facts| {
                    facts.startups.cut = Some(127 * MIB);
                    facts.startups.oom_killed = 1;
                }),
                (Unknown, |facts| facts.current.limit = None),
            ],
        );
    }
}
