//! What stays true of the source and neither the compiler nor clippy checks.

#![allow(clippy::unwrap_used)] // all of it is test; clippy takes only the marked functions for that

mod tidy {
    pub mod modules;
}

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tidy::modules;

const COLUMNS: usize = 120;
const LINES: usize = 400;

/// Files above `LINES`, with the reason.
const LONG: &[(&str, &str)] = &[
    ("observer-core/src/attribution.rs", "one stage and its tests"),
    ("observer-core/src/cause/decide.rs", "the decision table and its tests"),
    ("observer-core/src/container/lifecycle.rs", "half of it tests"),
    ("observer-core/src/container/oom.rs", "half of it tests"),
    ("observer-core/src/container/oom_counts.rs", "half of it tests"),
    ("observer-core/src/simulate/run.rs", "one run, half of it tests"),
    ("observer-core/src/attribution/cgroup_path.rs", "a table of layouts, most of it tests"),
    ("observer-core/src/ledger.rs", "the changes of a workload, half of it tests"),
    ("observer-core/src/model/event.rs", "one list of what sources say"),
    ("observer-core/src/model/finding.rs", "one list of what the core concludes"),
    ("observer/src/commands/analyse/clock.rs", "a table of notations of time and its tests"),
    ("observer/src/commands/analyse/format/csv.rs", "one format and its tests"),
    ("observer/src/config.rs", "one list of settings and its tests"),
    ("observer/src/http/auth.rs", "half of it tests"),
    ("observer/src/recording/kill_journal.rs", "half of it tests"),
    ("observer/src/sinks/api_state.rs", "one fold of all findings and its tests"),
    ("observer/src/sources/sampler.rs", "one source: what is read of each cgroup, and when"),
    (
        "observer/src/sources/sampler/by_pass.rs",
        "the table of one pass into what is known of each group, and its tests",
    ),
    ("tests/cluster/causes.rs", "two observers, what they report and how it is judged"),
    ("tests/cluster/scenes.rs", "one list of scenes"),
    ("tests/src/bin/bench_faults.rs", "one run of all figures"),
    ("tests/src/bin/bench_stability.rs", "one run of all figures"),
    ("tests/src/mock_api.rs", "one mock, with each way in which it fails"),
    ("tests/src/bin/workload.rs", "one list of what the tests' program can do"),
    ("tests/src/synthetic.rs", "one list of classes of start-ups"),
    ("tests/tests/live/host.rs", "one test per thing that a host may lack"),
    ("tests/tests/live/kernel.rs", "one test per probe"),
    ("xtask/src/dashboards.rs", "one list of panels"),
];

/// Where the observer reads a clock besides clock.rs, with the reason. Time of events never comes from there.
const CLOCKS: &[(&str, &str)] = &[
    ("observer/src/app.rs", "when the next reading is due"),
    ("observer/src/http/api.rs", "when a stream has to end"),
    ("observer/src/host_thread.rs", "when the next reading is due"),
    ("observer/src/http/auth.rs", "how old the answer to a token is"),
    ("observer/src/http/rendered.rs", "how old a rendered answer is"),
    ("observer/src/ledger/lease.rs", "when this process saw the lease change"),
    ("observer/src/commands/top/feed.rs", "for how long the observer was silent, when it is tried again"),
    ("observer/src/commands/report.rs", "when progress is reported again"),
    ("observer/src/recording/incidents.rs", "how long a disk is waited for"),
    ("observer/src/recording/pace.rs", "how fast a recording is played"),
    ("observer/src/recording/history_file/saver.rs", "when to write, and how long a disk is waited for"),
    ("observer/src/recording/kill_journal.rs", "when to write, and how long a disk is waited for"),
    ("observer/src/sources/kubernetes.rs", "when to ask again"),
    ("observer/src/sources/kubernetes/pace.rs", "when to ask again"),
    ("observer/src/ledger/client.rs", "when to ask again"),
    ("observer/src/lend/airbag.rs", "when to raise again, and since when a raise is held against the room"),
    ("observer/src/lend/loans.rs", "when to resize again, and for how long one is not in force"),
];

struct Source {
    /// From the workspace's root.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Everything that is text and not built.
fn sources() -> Vec<Source> {
    let root = root();
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            if path.is_dir() {
                let built = ["target", ".git", "node_modules", "corpus", "artifacts", "coverage"];
                if !built.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name != ".git" {
                let text = match fs::read_to_string(&path) {
                    Ok(text) => text,
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData => continue, // a picture
                    Err(error) => panic!("cannot read {}: {error}", path.display()),
                };
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 100, "these are not all sources: {}", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(|source| source.path.ends_with(".rs"))
}

/// The files found are exactly those that are listed.
fn only(listed: &[(&str, &str)], found: BTreeSet<String>, what: &str) {
    let listed: BTreeSet<String> = listed.iter().map(|(path, _)| (*path).to_owned()).collect();
    let more: Vec<_> = found.difference(&listed).collect();
    assert!(more.is_empty(), "{what}: {more:#?}");
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(stale.is_empty(), "listed, and no longer so ({what}): {stale:#?}");
}

#[test]
fn only_metrics_name_the_prometheus_crate() {
    let names = |source: &Source| source.text.lines().any(|line| line.trim().starts_with("use prometheus::"));
    let found =
        rust().filter(|source| !source.path.starts_with("observer/src/sinks/metrics") && names(source));
    only(&[], found.map(|source| source.path).collect(), "names the prometheus crate");
}

#[test]
fn clocks_are_read_where_it_says_why() {
    let reads = ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now", "clock_gettime("];
    let ours = |path: &str| path.starts_with("observer/") || path.starts_with("observer-core/");
    let found = rust().filter(|source| {
        let code = source.text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
        ours(&source.path)
            && source.path != "observer/src/clock.rs"
            && reads.iter().any(|read| code.contains(read))
    });
    only(CLOCKS, found.map(|source| source.path).collect(), "reads a clock");
}

#[test]
fn the_core_touches_nothing() {
    let edges = ["std::fs", "std::net", "std::env", "std::process", "std::thread", "std::os", "std::time::"];
    for source in rust().filter(|source| source.path.starts_with("observer-core/src")) {
        let code = source.text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
        for edge in edges {
            let pure = edge == "std::time::" && !code.contains("Instant") && !code.contains("SystemTime");
            assert!(pure || !code.contains(edge), "{} uses {edge}", source.path);
        }
    }
}

#[test]
fn the_model_uses_nothing_but_itself() {
    let on = &modules::of("observer-core").folders()[&Vec::new()]["model"];
    assert!(on.is_empty(), "the vocabulary depends on {on:?}");
}

/// Strings are for people and other programs to read, and rustfmt keeps them whole; comments it does not wrap.
#[test]
fn comments_fit_the_page() {
    let mut long = Vec::new();
    for source in rust() {
        for (number, line) in source.text.lines().enumerate() {
            if line.trim().starts_with("//") && line.chars().count() > COLUMNS {
                long.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    assert!(long.is_empty(), "above {COLUMNS} columns: {long:#?}");
}

#[test]
fn long_files_say_why() {
    let found = rust().filter(|source| source.text.lines().count() > LINES);
    only(LONG, found.map(|source| source.path).collect(), "has more lines than its reader's patience");
}

#[test]
fn nothing_is_of_one_machine_or_left_for_later() {
    let here = root().to_str().unwrap().to_owned() + "/";
    let machine = [here.as_str(), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];
    let later = [concat!("TO", "DO"), concat!("FIX", "ME")];
    for source in sources() {
        for part in machine.iter().chain(&later) {
            let line = source.text.lines().position(|line| line.contains(part));
            assert!(line.is_none(), "{}:{}: {part}", source.path, line.unwrap_or(0) + 1);
        }
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut followed = 0;
    for source in sources().iter().filter(|source| source.path.ends_with(".md")) {
        let folder = root().join(&source.path).parent().unwrap().to_owned();
        for link in source.text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { root().join(&source.path) } else { folder.join(file) };
            assert!(file.exists(), "{} leads to {link}, which is not there", source.path);
            assert!(
                heading.is_empty() || headings(&file).contains(heading),
                "{}: no heading {link}",
                source.path
            );
            followed += 1;
        }
    }
    assert!(followed > 10, "only {followed} links were found");
}

/// As a forge names them: lower case, blanks as hyphens, no punctuation.
fn headings(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let titles =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let name = |title: &str| {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    titles.map(name).collect()
}

/// Texts of the program, rules and manifests name documents too.
#[test]
fn every_document_that_is_named_is_there() {
    let word = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
    let mut named = 0;
    for source in sources().iter().filter(|source| !source.path.starts_with("tests/cases/")) {
        for name in source.text.split(word).filter(|name| name.starts_with("docs/") && name.contains(".md")) {
            let name = &name[..name.rfind(".md").unwrap() + 3];
            assert!(root().join(name).is_file(), "{} names {name}, which is not there", source.path);
            named += 1;
        }
    }
    assert!(named > 10, "only {named} names were found");
}

const PACKAGES: &[&str] = &["observer-ebpf", "observer-btf", "observer-core", "observer", "tests", "xtask"];

#[test]
fn modules_depend_in_one_direction() {
    let mut circles = Vec::new();
    for package in PACKAGES {
        for (folder, dependencies) in modules::of(package).folders() {
            if let Some(circle) = modules::circle(&dependencies) {
                let seen = circle.windows(2).map(|pair| dependencies[&pair[0]][&pair[1]].join("::"));
                let seen: Vec<String> = seen.collect();
                circles.push(format!(
                    "{package} {folder:?}: {}; in {}",
                    circle.join(" -> "),
                    seen.join(", ")
                ));
            }
        }
    }
    assert!(circles.is_empty(), "modules depend on each other in a circle: {circles:#?}");
}

/// `UPDATE=1` writes it.
#[test]
fn the_list_of_dependencies_is_fresh() {
    const HEADING: &str = "## Module dependencies\n";
    let path = root().join("ARCHITECTURE.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, section) = document.split_once(HEADING).unwrap();
    let (_, after) = section.split_once("\n## ").unwrap();
    let mut fresh = String::from(
        "\nEach line names a module and the modules on which it depends, all of them above it; the files of a folder count as \
         the folder.\n`UPDATE=1 cargo test --test tidy` writes the list and checks that no level of any crate has a circle. A \
         folder's own file and\nthe files in it are one module seen from outside, and no direction is required between them.\n",
    );
    for package in ["observer-core", "observer"] {
        let folders = modules::of(package).folders();
        for (folder, dependencies) in &folders {
            // Of folders those in which something depends on something.
            if folder.is_empty() || (folder.len() == 1 && dependencies.values().any(|on| !on.is_empty())) {
                let name = [&[package.to_owned(), "src".to_owned()], &folder[..]].concat().join("/");
                fresh += &format!("\n`{name}`:\n\n```text\n{}```\n", modules::list(dependencies));
            }
        }
    }
    let fresh = format!("{before}{HEADING}{fresh}\n## {after}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    assert!(document == fresh || std::env::var_os("UPDATE").is_some(), "run UPDATE=1 cargo test --test tidy");
}
