use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use serde_json::Value;

use super::*;

fn case(name: &str) -> PathBuf {
    format!("{}/../tests/cases/{name}/events.jsonl", env!("CARGO_MANIFEST_DIR")).into()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("observer-report-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn html(recording: PathBuf) -> Result<String, String> {
    let options = Options { recording, output: "-".into(), force: false };
    match run(&options) {
        Ok(html) => Ok(html.unwrap()),
        Err(Unwritten::BadInput(why) | Unwritten::Failed(why)) => Err(why),
    }
}

/// What the page will read.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once(r#"<script type="application/json" id="report">"#).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn it_has_the_kill_in_words_and_the_state_as_the_api_has_it() {
    let recording = case("killed_by_the_shared_limit");
    let html = html(recording.clone()).unwrap();
    let report = data(&html);
    assert!(report["summary"].as_str().unwrap().contains("1 OOM kill in"), "{}", report["summary"]);
    let story = report["stories"][0]["lead"].as_str().unwrap();
    for part in ["whose limit", "180 MiB", "/observer-case/pair/1", "set /observer-case/pair"] {
        assert!(story.contains(part) && html.contains(part), "{part} is not in:\n{story}");
    }
    let (state, _) = read(&recording).unwrap();
    fn value(what: &impl serde::Serialize) -> Value {
        serde_json::from_str(&serde_json::to_string(what).unwrap()).unwrap()
    }
    let mut served = value(&state.view());
    let mut reported = report["state"].clone();
    for lists in [&mut served, &mut reported] {
        for list in ["containers", "workloads"] {
            lists[list].as_array_mut().unwrap().sort_by_key(|one| one.to_string());
        }
    }
    assert_eq!(reported, served);
    let all = value(&state.node_history(0.0, f64::INFINITY));
    assert_eq!(report["histories"].as_array().unwrap().last().unwrap()["history"], all);
    let id = report["state"]["containers"][0]["id"].as_str().unwrap();
    let served = value(&state.container(id.parse().unwrap()).unwrap());
    for part in ["curve", "history", "error_bytes", "band_bytes"] {
        assert_eq!(report["curves"][id][part], served[part]);
    }
}

#[test]
fn hostile_names_end_no_element_and_start_none() {
    let folder = Folder::new("hostile");
    let hostile = r#"</script><script>alert(1)</script><!--<script><style></style>"#;
    let events = fs::read_to_string(case("killed_by_the_shared_limit")).unwrap();
    let changed = events.replace("/observer-case", &format!("/{}", hostile.replace('"', "")));
    let clean = html(case("killed_by_the_shared_limit")).unwrap();
    let html = html(folder.file("events.jsonl", changed)).unwrap();
    for tag in ["<script", "</script", "<style", "</style", "<!--", "<noscript", "</noscript"] {
        assert_eq!(html.matches(tag).count(), clean.matches(tag).count(), "{tag}");
    }
    let named = data(&html)["state"]["containers"].to_string();
    assert!(named.contains("</script><script>alert(1)"), "as it was named: {named}");
}

#[test]
fn names_of_any_number_and_length_do_not_make_it_larger_than_stated() {
    let folder = Folder::new("large");
    let mut events = fs::read_to_string(case("spike_settles")).unwrap();
    let last = events.lines().last().unwrap().to_owned();
    let at: u64 = serde_json::from_str::<Value>(&last).unwrap()["at"].as_u64().unwrap();
    for group in 0..200_u64 {
        let (id, pid) = (1_000_000 + group, 100_000 + group);
        let path = format!("/observer-case/{group}{}", "<".repeat(4000));
        for what in [
            format!(r#""cgroup_made":{{"cgroup":{id},"path":"{path}"}}"#),
            format!(r#""cgroup_attached":{{"cgroup":{id},"path":"{path}","pid":{pid}}}"#),
            format!(r#""exec":{{"cgroup":{id},"pid":{pid},"comm":"x","watermark":4096}}"#),
        ] {
            events += &format!("{{\"at\":{at},\"what\":{{{what}}}}}\n");
        }
    }
    let html = html(folder.file("events.jsonl", events)).unwrap();
    assert!(html.len() < 16 << 20, "{}", html.len());
    let report = data(&html);
    assert!(report["left_out"]["containers"].as_u64() > Some(80), "{}", report["left_out"]);
}

/// Every number of this name becomes another; `None`: all but times and groups, which tell what belongs together.
fn with_number(recording: &str, name: Option<&str>, number: u64) -> (String, usize) {
    fn replace(value: &mut Value, within: &str, name: Option<&str>, number: u64) -> usize {
        let is_it = name.map_or(!["at", "cgroup", "victim_cgroup"].contains(&within), |name| name == within);
        match value {
            Value::Number(_) if is_it => {
                *value = number.into();
                1
            }
            Value::Array(all) => all.iter_mut().map(|one| replace(one, within, name, number)).sum(),
            Value::Object(all) => all.iter_mut().map(|(key, one)| replace(one, key, name, number)).sum(),
            _ => 0,
        }
    }
    let mut replaced = 0;
    let lines = recording.lines().map(|line| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        replaced += replace(&mut event, "", name, number);
        format!("{event}\n")
    });
    (lines.collect(), replaced)
}

#[test]
fn a_number_of_any_size_is_reported() {
    let folder = Folder::new("numbers");
    let mut reported = 0;
    for of in ["killed_while_starting_then_again", "stampede_on_a_small_node"] {
        let recording = fs::read_to_string(case(of)).unwrap();
        let names = [
            "usage",
            "watermark",
            "max",
            "anon",
            "inactive_file",
            "oom_kill",
            "faults",
            "swap",
            "bytes",
            "available",
            "memcg_stall_ns",
            "some_ns",
            "memory_total",
            "retention_ns",
            "page_size",
            "at",
        ];
        for name in names.into_iter().map(Some).chain([None]) {
            for number in [u64::MAX, u32::MAX.into()] {
                let (changed, replaced) = with_number(&recording, name, number);
                if replaced > 0 {
                    // It may be refused.
                    reported += usize::from(html(folder.file("events.jsonl", changed)).is_ok());
                }
            }
        }
    }
    assert!(reported > 20, "{reported}");
}

#[test]
fn what_is_damaged_is_used_up_to_there_and_the_report_says_so() {
    let folder = Folder::new("damaged");
    let events = fs::read_to_string(case("killed_by_the_shared_limit")).unwrap();
    let notes = |recording: &str| {
        let report = data(&html(folder.file("events.jsonl", recording)).unwrap());
        assert!(!report["state"]["containers"].as_array().unwrap().is_empty());
        report["notes"].to_string()
    };
    assert_eq!(notes(&events), "[]");
    assert!(notes(&events[..events.len() - 20]).contains("is cut"));
    assert!(notes(&format!("{events}\n\u{0}\u{0}garbage\n{events}")).contains("damaged: line 302"));
    let newer = events.replace(r#""observer_version":"0.1.0""#, r#""observer_version":"7.7.0""#);
    assert!(notes(&format!("{newer}{{\"at\":1,\"what\":{{\"warp\":1}}}}\n")).contains("7.7.0"));
    for (recording, said) in [
        ("", "empty"),
        ("hello\n", "not an event"),
        ("{\"at\":1,\"what\":\"tick\"}\n", "the first event is not"),
    ] {
        let error = html(folder.file("events.jsonl", recording)).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    assert!(html(folder.0.clone()).is_err() && html(folder.0.join("none")).is_err());
}

#[test]
fn it_replaces_earlier_reports_and_nothing_else() {
    let folder = Folder::new("output");
    let recording = folder.file("events.jsonl", fs::read(case("spike_settles")).unwrap());
    let write =
        |output: PathBuf, force: bool| match run(&Options { recording: recording.clone(), output, force }) {
            Ok(_) => Ok(()),
            Err(Unwritten::BadInput(why) | Unwritten::Failed(why)) => Err(why),
        };
    let report = folder.0.join("incident.html");
    write(report.clone(), false).unwrap();
    write(report.clone(), false).unwrap();
    let mine = folder.file("mine.html", "<!doctype html><p>mine");
    assert!(write(mine.clone(), false).unwrap_err().contains("--force"));
    assert_eq!(fs::read_to_string(&mine).unwrap(), "<!doctype html><p>mine");
    write(mine.clone(), true).unwrap();
    assert!(fs::read_to_string(&mine).unwrap().contains(page::MARK));
    assert!(write(recording.clone(), true).unwrap_err().contains("the recording itself"));
    for device in ["/dev/null", "/dev/full"] {
        assert!(write(device.into(), true).is_err(), "{device}");
    }
    symlink("incident.html", folder.0.join("link.html")).unwrap();
    write(folder.0.join("link.html"), false).unwrap();
    assert!(folder.0.join("link.html").is_symlink());
    assert!(write(folder.0.join("none/incident.html"), false).is_err());
    assert_eq!(folder.names(), ["events.jsonl", "incident.html", "link.html", "mine.html"]);
    assert_eq!(report.metadata().unwrap().permissions().mode() & 0o111, 0);
}
