//! The whole fleet's facts by PromQL: plain instant queries, so any server with its HTTP API serves.
//!
//! Each node reports its own observations; this module combines them for the fleet: the worst of the worst, the 95th
//! percentile over nodes of their worst start-ups and of their 95th percentiles (which are at or above the true ones),
//! and a spread that covers both the spread on each node and that between nodes. A check that needs more than numbers
//! gets the worst warning of any node; a check that passes there has no series, and stays unknown here.
//!
//! The series of a node contain its history already (its last start-ups, a week of levels), so the present values
//! suffice for nodes that report. The window is for nodes that are gone, and for observers that lost their state. It is
//! queried at [`LOOKS`] moments: reading every sample of a week of 10,000 pods takes a Prometheus minutes.

use std::collections::BTreeMap;

use crate::{
    commands::{
        advise::{Window, WorkloadAdvice},
        client::http::Http,
        notice::notice,
    },
    sinks::metrics::grade_number,
};
use observer_core::{
    advice::Settings,
    model::{
        advice::{Advice, Check, Facts, Grade, Steady},
        container::Workload,
    },
};

/// Moments of the window that are looked at: of a week, every six hours. A node that lived between two is not seen.
const LOOKS: u64 = 28;

const BY: &str = "namespace, workload, workload_type, container";

type Fill = fn(&mut Facts, &BTreeMap<String, String>, f64);
struct Query {
    what: &'static str,
    promql: &'static str,
    fill: Fill,
}

fn triple<T: Default + Copy>(slot: &mut Option<[T; 3]>, at: usize, value: T) {
    slot.get_or_insert([T::default(); 3])[at] = value;
}

fn bytes(value: f64) -> u64 {
    value.max(0.0) as u64
}

fn steady(facts: &mut Facts) -> &mut Steady {
    facts.steady.get_or_insert_default()
}

/// `$LAST(series)`: as last seen in the window, `$ALL(series)`: now and in the window, `$BY`: the labels of a
/// container of a workload.
static QUERIES: &[Query] = &[
    Query {
        what: "how start-ups ended",
        promql: "sum by ($BY, outcome) ($LAST(observer_workload_history_startups))",
        fill: |facts, labels, value| {
            let (s, count) = (&mut facts.startups, bytes(value));
            s.count = s.count.saturating_add(count);
            match labels.get("outcome").map(String::as_str) {
                Some("stable") => s.stable = count,
                Some("drifting") => s.drifting = count,
                Some("oscillating") => s.oscillating = count,
                Some("ended") => s.ended = count,
                Some("failed") => s.failed = count,
                Some("oom_killed") => s.oom_killed = count,
                Some("cut_short") => s.cut_short = count,
                _ => {}
            }
            s.whole = s.count.saturating_sub(s.cut_off() + s.failed);
        },
    },
    Query {
        what: "worst start-ups",
        promql: "max by ($BY) ($ALL(observer_workload_history_startup_need_bytes{statistic=\"max\"}))",
        fill: |facts, _, value| triple(&mut facts.startups.need, 2, bytes(value)),
    },
    Query {
        what: "high start-ups",
        promql: "quantile by ($BY) (0.95, $LAST(observer_workload_history_startup_need_bytes{statistic=\"max\"}))",
        fill: |facts, _, value| triple(&mut facts.startups.need, 1, bytes(value)),
    },
    Query {
        what: "usual start-ups",
        promql: "avg by ($BY) (ln($LAST(observer_workload_history_startup_need_bytes{statistic=\"geometric_mean\"})))",
        fill: |facts, _, value| {
            facts.startups.need_mean_log = Some(value);
            triple(&mut facts.startups.need, 0, bytes(value.exp()));
        },
    },
    Query {
        what: "spread of start-ups between nodes",
        promql: "stdvar by ($BY) (ln($LAST(observer_workload_history_startup_need_bytes{statistic=\"geometric_mean\"})))",
        fill: |facts, _, value| facts.startups.need_spread = Some(value.sqrt()),
    },
    Query {
        what: "spread of start-ups on each",
        promql: "avg by ($BY) (ln($LAST(observer_workload_history_startup_need_spread_ratio)) ^ 2)",
        fill: |facts, _, value| {
            let between = facts.startups.need_spread.unwrap_or(0.0);
            facts.startups.need_spread = Some(between.hypot(value.sqrt()));
        },
    },
    Query {
        what: "start-ups cut off",
        promql: "max by ($BY) ($LAST(observer_workload_history_oom_killed_peak_bytes))",
        fill: |facts, _, value| facts.startups.cut = Some(bytes(value)),
    },
    Query {
        what: "usual working sets",
        promql: "quantile by ($BY) (0.5, $LAST(observer_workload_history_working_set_bytes{statistic=\"p50\"}))",
        fill: |facts, _, value| steady(facts).p50 = bytes(value),
    },
    Query {
        what: "high working sets",
        promql: "quantile by ($BY) (0.95, $LAST(observer_workload_history_working_set_bytes{statistic=\"p95\"}))",
        fill: |facts, _, value| steady(facts).p95 = bytes(value),
    },
    Query {
        what: "highest working sets",
        promql: "max by ($BY) ($ALL(observer_workload_history_working_set_bytes{statistic=\"max\"}))",
        fill: |facts, _, value| steady(facts).max = bytes(value),
    },
    Query {
        what: "levels settled at",
        promql: "quantile by ($BY) (0.5, $LAST(observer_workload_history_steady_bytes))",
        fill: |facts, _, value| triple(&mut facts.startups.steady, 0, bytes(value)),
    },
    Query {
        what: "highest levels settled at",
        promql: "max by ($BY) ($ALL(observer_workload_history_steady_bytes))",
        fill: |facts, _, value| {
            triple(&mut facts.startups.steady, 1, bytes(value));
            triple(&mut facts.startups.steady, 2, bytes(value));
        },
    },
    Query {
        what: "requests",
        promql: "min by ($BY) (observer_workload_memory_request_bytes)",
        fill: |facts, _, value| facts.current.request = Some(Some(bytes(value))),
    },
    Query {
        what: "limits",
        promql: "min by ($BY) (observer_workload_memory_limit_bytes)",
        fill: |facts, _, value| facts.current.limit = Some(Some(bytes(value))),
    },
    Query {
        what: "containers alive",
        promql: "sum by ($BY) (observer_workload_containers)",
        fill: |facts, _, value| facts.current.containers = bytes(value),
    },
];

/// What the nodes said of the checks that need more than these numbers.
const GRADES: &str = "max by ($BY, check) (observer_advice_grade)";

pub fn advised(http: &Http, window: Window, settings: &Settings) -> Result<Vec<WorkloadAdvice>, String> {
    let mut all: BTreeMap<Workload, Facts> = BTreeMap::new();
    let mut foreign = 0u64;
    let total = QUERIES.len() + 1;
    for (i, query) in QUERIES.iter().enumerate() {
        notice(format_args!("asking {} ({} of {total})", query.what, i + 1));
        for (labels, value) in ask(http, query.promql, window)? {
            let Some(workload) = workload(&labels) else {
                foreign += 1;
                continue;
            };
            let first = i == 0;
            match all.get_mut(&workload) {
                Some(facts) => (query.fill)(facts, &labels, value),
                None if first => {
                    let facts = all.entry(workload.clone()).or_default();
                    facts.workload = workload;
                    (query.fill)(facts, &labels, value);
                }
                None => {} // no start-up of it is remembered
            }
        }
        if i == 0 && all.is_empty() {
            return Err(format!(
                "{}: it has no series observer_workload_history_startups of the last {}: does it scrape the observer (port 9843, /metrics and /metrics/history), and is that at least this version?",
                http.url(),
                window.text()
            ));
        }
    }
    notice(format_args!("asking what the nodes say ({total} of {total})"));
    let mut grades: BTreeMap<(Workload, String), Grade> = BTreeMap::new();
    for (labels, value) in ask(http, GRADES, window)? {
        let (Some(workload), Some(check)) = (workload(&labels), labels.get("check")) else { continue };
        let grade = Grade::ALL.into_iter().find(|grade| grade_number(*grade) == value);
        grades.insert((workload, check.clone()), grade.unwrap_or(Grade::Unknown));
    }
    if foreign > 0 {
        notice(format_args!("{foreign} series had not the labels of an observer and were left out"));
    }
    let advised = |(workload, mut facts): (Workload, Facts)| {
        // A node's histogram is empty until ten minutes of container time: the level its start-ups settled at stands
        // in.
        facts.steady = facts.steady.filter(|steady| steady.p95 > 0);
        // What is unset has no series. A request is of pods only.
        facts.current.limit = facts.current.limit.or(Some(None));
        if !workload.namespace.is_empty() {
            facts.current.request = facts.current.request.or(Some(None));
        }
        let mut advice = Advice::of(&facts, settings);
        for verdict in &mut advice.verdicts {
            let said = grades.get(&(workload.clone(), verdict.check.name().to_owned()));
            if verdict.grade == Grade::Unknown
                && !by_numbers(verdict.check)
                && let Some(said) = said
            {
                verdict.grade = *said;
                verdict.evidence =
                    "the worst of what its nodes say; observer advise --explain on one of them explains it"
                        .into();
            }
        }
        WorkloadAdvice { facts, advice }
    };
    Ok(all.into_iter().map(advised).collect())
}

/// Judged here, from numbers of the whole fleet: a node that saw less is not asked.
fn by_numbers(check: Check) -> bool {
    matches!(
        check,
        Check::Settles
            | Check::RequestIsSteady
            | Check::LimitCoversPeak
            | Check::LimitSet
            | Check::Predictable
    )
}

fn workload(labels: &BTreeMap<String, String>) -> Option<Workload> {
    // Prometheus drops empty labels; outside Kubernetes namespace and container are empty.
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    Some(Workload {
        workload: labels.get("workload")?.clone(),
        workload_type: labels.get("workload_type")?.clone(),
        namespace: label("namespace"),
        container: label("container"),
    })
}

/// Selectors have no parentheses of their own, so a pair of them is the whole of it.
const SEEN: [(&str, &str); 2] = [
    ("$LAST(", "($S or last_over_time($S[$W]))"),
    // A label makes them two series, so that none hides the other.
    ("$ALL(", "(max_over_time($S[$W]) or label_replace($S, \"seen\", \"now\", \"\", \"\"))"),
];

fn expand(promql: &str, window: Window) -> String {
    let mut query = promql.replace("$BY", BY);
    let looks = format!("{}:{}s", window.text(), (window.seconds / LOOKS).max(60));
    for (name, meaning) in SEEN {
        while let Some((before, rest)) = query.split_once(name)
            && let Some((series, after)) = rest.split_once(')')
        {
            let meaning = meaning.replace("$S", series).replace("$W", &looks);
            query = format!("{before}{meaning}{after}");
        }
    }
    query
}

type Series = (BTreeMap<String, String>, f64);

fn ask(http: &Http, promql: &str, window: Window) -> Result<Vec<Series>, String> {
    let query = expand(promql, window);
    let answer = http.get("/api/v1/query", &[("query", &query)])?;
    let wrong = |what: &str| format!("{}: {what}; is that the address of a Prometheus?", http.url());
    if answer["status"] != "success" {
        return Err(wrong(&format!("status {}, {}", answer["status"], answer["error"])));
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        notice(format_args!("{}: {warning}", http.url()));
    }
    let rows = answer["data"]["result"].as_array().ok_or_else(|| wrong("an answer without data.result"))?;
    let series = |row: &serde_json::Value| {
        let labels = row["metric"].as_object()?;
        let labels = labels.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        let value = row["value"].get(1)?.as_str()?.parse::<f64>().ok().filter(|value| value.is_finite())?;
        Some((labels, value))
    };
    Ok(rows.iter().filter_map(series).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
        time::Duration,
    };

    use super::*;

    const WEEK: Window = Window { seconds: 604_800 };

    /// A stand-in for a Prometheus that answers what a real one will not say on demand.
    fn answering(answer: String, times: usize) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            thread::sleep(Duration::from_secs(1)); // what is not answered is kept waiting, not refused
        });
        Http::new(&url, Duration::from_millis(300), None, None).unwrap()
    }

    fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_prometheus_that_does_not_answer_well_is_an_error_and_nothing_is_guessed() {
        let foreign = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":"node"},"value":[1,"1"]}]}}"#;
        for (answer, said) in [
            (response("401 Unauthorized", "no token"), "answered 401 Unauthorized: no token"),
            (response("422 Unprocessable Entity", "too many samples"), "too many samples"),
            (response("503 Service Unavailable", ""), "answered 503"),
            (response("200 OK", "<html>login</html>"), "not JSON"),
            (response("200 OK", r#"{"status":"error","error":"x"}"#), "is that the address of a Prometheus?"),
            (response("200 OK", r#"{"status":"success","data":{}}"#), "without data.result"),
            (response("200 OK", foreign), "no series observer_workload_history_startups"),
            (String::new(), "is it running"),
        ] {
            let http = answering(answer, 1);
            let error = advised(&http, WEEK, &Settings::default()).err().unwrap();
            assert!(error.contains(said) && error.contains(http.url()), "{error}");
        }
        let slow = advised(&answering(String::new(), 0), WEEK, &Settings::default()).err().unwrap();
        assert!(slow.contains("no answer in time") && slow.contains("--timeout"), "{slow}");
    }
}
