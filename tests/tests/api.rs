//! What /api/v1 answers is what docs/openapi.yaml says: asked by HTTP, of every recorded case.

#![allow(clippy::unwrap_used)] // all of it is test; clippy takes only the marked functions for that

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufReader,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use observer::{
    http::{
        accept::Limits,
        api::OPENAPI,
        server::{self, Protection},
        shared::Shared,
    },
    recording::replay,
    sinks::{
        api_state::{NodeState, stream::Reader},
        metrics::Metrics,
    },
};
use serde_json::{Value, json};

fn cases() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
    let mut all: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|case| case.unwrap().path().join("events.jsonl")).collect();
    all.sort();
    all
}

fn document() -> Value {
    serde_saphyr::from_str(OPENAPI).unwrap()
}

fn validator(document: &Value, schema: &Value) -> jsonschema::Validator {
    let mut whole = schema.clone();
    whole["components"] = document["components"].clone();
    jsonschema::options().build(&whole).unwrap_or_else(|error| panic!("{schema}: {error}"))
}

fn check(validator: &jsonschema::Validator, answer: &Value, what: &str) {
    let wrong: Vec<String> = validator
        .iter_errors(answer)
        .take(3)
        .map(|error| {
            format!(
                "{} at {}",
                error.to_string().chars().take(300).collect::<String>(),
                error.instance_path()
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{what} is not as documented: {wrong:#?}");
}

/// Serves a case; `ask` gets the address.
fn served(events: &PathBuf, ask: impl FnOnce(&str) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let metrics = Metrics::default();
        let state = Arc::new(Mutex::new(NodeState::of_recording("case".into())));
        let shared = Shared { metrics: metrics.clone(), state, stalled: Arc::default() };
        let recording = BufReader::new(File::open(events).unwrap());
        let applied = shared.clone();
        replay::replay_into(&metrics, recording, |_| {}, |finding| applied.state().apply(finding)).unwrap();
        let listener = server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asking = tokio::task::spawn_blocking(move || ask(&address));
        tokio::select! {
            asked = asking => asked.unwrap(),
            _ = server::serve(listener, Limits::AGENT, shared, Protection::default(), std::future::pending()) => panic!("it stopped"),
        }
    });
}

fn get(url: &str) -> Value {
    let mut answer = ureq::get(url).call().unwrap_or_else(|error| panic!("{url}: {error}"));
    let text = answer.body_mut().with_config().limit(1 << 28).read_to_string().unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn every_answer_of_every_case_is_as_documented() {
    let document = document();
    let mut checks = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let schema = &item["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if !schema.is_null() {
            checks.push((path.clone(), Arc::new(validator(&document, schema))));
        }
    }
    assert!(checks.len() > 10);
    for events in cases() {
        let (checks, name) = (checks.clone(), events.display().to_string());
        served(&events, move |address| {
            let containers = get(&format!("{address}/api/v1/containers"));
            let id = containers[0]["id"].as_str().unwrap_or("0").to_owned();
            for (path, validator) in &checks {
                if path.contains("{id}") && containers[0].is_null() {
                    continue;
                }
                let answer = get(&format!("{address}{}", path.replace("{id}", &id)));
                check(validator, &answer, &format!("{name}: {path}"));
            }
        });
    }
}

/// A reader of deltas ends with the state that a request at the end gets.
#[test]
fn deltas_are_as_documented_and_add_up_to_the_state() {
    let document = document();
    let delta = validator(&document, &json!({"$ref": "#/components/schemas/Delta"}));
    for events in cases() {
        let name = events.display().to_string();
        let mut state = NodeState::of_recording("case".into());
        let mut reader = state.hub().read(0).unwrap();
        let mut sent = String::new();
        let recording = BufReader::new(File::open(&events).unwrap());
        let mut read = |reader: &mut Reader| {
            while let Some(bytes) = reader.try_next() {
                sent += std::str::from_utf8(&bytes).unwrap();
            }
        };
        replay::replay(recording, |finding| {
            state.apply(finding);
            read(&mut reader);
        })
        .unwrap();
        state.moment();
        read(&mut reader);

        let (mut shown, mut kills) = (BTreeMap::new(), BTreeMap::new());
        let deltas: Vec<&str> = sent.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert!(deltas.len() > 3, "{name}: {}", deltas.len());
        for json in deltas {
            let one: Value = serde_json::from_str(json).unwrap();
            check(&delta, &one, &format!("{name}: delta"));
            for container in one["containers"].as_array().unwrap() {
                shown.insert(container["id"].as_str().unwrap().to_owned(), container.clone());
            }
            for row in one["usage"].as_array().unwrap() {
                shown.get_mut(row[0].as_str().unwrap()).unwrap()["usage_bytes"] = row[1].clone();
            }
            for id in one["gone"].as_array().unwrap() {
                shown.remove(id.as_str().unwrap());
            }
            for kill in one["kills"].as_array().unwrap() {
                kills.insert(kill["kill"].as_u64().unwrap(), kill.clone());
            }
        }
        let at_end = serde_json::to_value(state.view()).unwrap();
        assert_eq!(at_end["kills"], Value::from_iter(kills.into_values()), "{name}");
        let at_end = at_end["containers"].as_array().unwrap();
        assert_eq!(at_end.len(), shown.len(), "{name}");
        for container in at_end {
            let known = &shown[container["id"].as_str().unwrap()];
            for field in
                ["state", "pod", "cause", "limit_bytes", "time_to_stable_seconds", "oom_kills", "exit"]
            {
                assert_eq!(container[field], known[field], "{name}: {field} of {}", container["id"]);
            }
            let [now, then] = [container, known].map(|one| one["usage_bytes"].as_u64().unwrap());
            assert!(now.abs_diff(then) <= (256 << 10).max(now / 128), "{name}: usage {then}, {now}");
        }
    }
}

#[test]
fn every_path_that_is_served_is_documented() {
    let routes = include_str!("../../observer/src/http/api.rs");
    let served: BTreeSet<&str> =
        routes.split('"').filter(|text| text.starts_with("/api/v1/") && !text.contains(' ')).collect();
    let document = document();
    let documented: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(served, documented);
}

/// Sent as text, whatever others named their things.
#[test]
fn errors_say_what_to_do() {
    let case = cases().remove(0);
    served(&case, |address| {
        for (path, status) in [("containers/x", 400), ("containers/-1", 400), ("containers/1", 404)] {
            let answer = ureq::get(&format!("{address}/api/v1/{path}"))
                .config()
                .http_status_as_error(false)
                .build()
                .call()
                .unwrap();
            assert_eq!(answer.status(), status, "{path}");
        }
    });
}

/// Both pages of metrics, as Prometheus asks for them: the same samples in either format, and of every counter of the
/// text the time it began in OpenMetrics.
#[test]
fn metrics_are_served_in_the_format_that_is_preferred() {
    const OPEN: &str =
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for events in cases() {
        served(&events, |address| {
            for page in ["metrics", "metrics/history"] {
                let url = format!("{address}/{page}");
                let ask = |accept: &str| {
                    let mut answer = ureq::get(&url).header("accept", accept).call().unwrap();
                    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
                    let (kind, vary) = (header("content-type"), header("vary"));
                    assert_eq!(vary, "accept, accept-encoding");
                    (kind, answer.body_mut().read_to_string().unwrap())
                };
                let (kind, text) = ask("*/*");
                assert!(kind.starts_with("text/plain"), "{kind}");
                let (kind, open) = ask(OPEN);
                assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
                assert!(open.ends_with("# EOF\n"), "{open}");
                let samples = |text: &str| -> BTreeSet<String> {
                    let samples = text.lines().filter(|line| !line.starts_with('#'));
                    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
                };
                let (in_text, in_open) = (samples(&text), samples(&open));
                assert!(!in_text.is_empty() || page != "metrics");
                let began = |sample: &String| sample.split('{').next().unwrap().ends_with("_created");
                let (created, others): (BTreeSet<_>, BTreeSet<_>) = in_open.into_iter().partition(began);
                // Bounds are 5.0 there and 5 here.
                let plain = |all: &BTreeSet<String>| -> BTreeSet<String> {
                    all.iter().filter(|sample| !sample.contains("le=\"")).cloned().collect()
                };
                assert_eq!(plain(&in_text), plain(&others));
                let counters = in_text.iter().filter(|s| s.split('{').next().unwrap().ends_with("_total"));
                let expected = counters.map(|sample| sample.replacen("_total", "_created", 1));
                for counter in expected {
                    assert!(created.contains(&counter), "{counter}");
                }
            }
        });
    }
}
