use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use observer_core::model::past_startup::StartupOutcome;

const NOW: f64 = 1e9;

fn past(started: f64) -> PastStartup {
    PastStartup {
        started,
        pod: "web-1".into(),
        outcome: StartupOutcome::Stable,
        cut_short: false,
        peak: 7,
        peak_seconds: 0.5,
        unreclaimable_peak: 6,
        growth: 14.0,
        time_to_stable: Some(1.0),
        steady: None,
        overshoot: None,
        span: 0.05,
        curve: vec![1.0, 7.0],
    }
}

fn named(name: &str) -> Workload {
    Workload { workload: name.into(), ..Workload::default() }
}

fn histories(workloads: usize) -> Histories {
    let mut histories = Histories::default();
    for i in 0..workloads {
        histories.remember(&named(&format!("w{i}")), past(1.5));
        histories.remember(&named(&format!("w{i}")), past(2.5));
        histories.was_at(&named(&format!("w{i}")), 1 << 22, 700.0, 100.0);
    }
    histories
}

fn written(histories: &Histories) -> Vec<u8> {
    write(Vec::new(), histories).unwrap()
}

fn kept(histories: &Histories) -> Vec<(Workload, Remembered)> {
    histories.iter().map(|(workload, known)| (workload.clone(), known.clone())).collect()
}

/// As version 1 wrote it.
fn version1(histories: &Histories) -> Vec<u8> {
    let entries: Vec<_> = histories
        .iter()
        .map(|(workload, known)| {
            let mut entry = serde_json::to_value(workload).unwrap();
            entry["startups"] = serde_json::to_value(&known.startups).unwrap();
            entry["levels"] = serde_json::to_value(&known.levels).unwrap();
            entry
        })
        .collect();
    let mut text = br#"{"version":1,"workloads":"#.to_vec();
    serde_json::to_writer(&mut text, &entries).unwrap();
    text.push(b'}');
    text
}

#[test]
fn what_is_saved_is_restored_and_what_is_damaged_is_kept_aside() {
    let directory = std::env::temp_dir().join(format!("observer-state-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("state.json");
    assert!(matches!(restore(&path, Time::default(), NOW), (events, None) if events.is_empty()));

    let histories = histories(1);
    fs::write(beside(&path, "new"), "left by a crash, readable by all").unwrap();
    save(&path, &histories).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (events, damage) = restore(&path, Time::default(), NOW);
    let [Event { what: EventKind::History { startups, .. }, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&startups[..], damage.is_none()), (histories.get(&named("w0")), true));

    fs::write(&path, "{").unwrap();
    let (events, damage) = restore(&path, Time::default(), NOW);
    assert!(events.is_empty() && damage.unwrap().to_string().contains("state.json "));
    assert!(directory.join("state.json.broken").exists() && !path.exists());

    fs::create_dir(&path).unwrap();
    assert!(matches!(restore(&path, Time::default(), NOW), (_, Some(Damage::Unopened { .. }))));
    assert!(save(&path, &histories).is_err() && !beside(&path, "new").exists());
    let pipe = directory.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert!(matches!(restore(&pipe, Time::default(), NOW), (_, Some(Damage::Unopened { .. }))));
    assert!(save(&pipe, &histories).is_err(), "nothing but a file is replaced");
    assert!(!pipe.metadata().unwrap().is_file() && !beside(&pipe, "new").exists());
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn version_1_is_read_and_of_a_damaged_one_what_comes_before() {
    let histories = histories(3);
    let text = version1(&histories);
    let whole = read(&text[..], NOW);
    assert_eq!((kept(&whole.histories), whole.why), (kept(&histories), None));
    let cut = read(&text[..text.len() * 2 / 3], NOW);
    assert_eq!(kept(&cut.histories), kept(&histories)[..1]);
    assert!(cut.why.is_some());
}

#[test]
fn damage_costs_the_lines_that_it_is_in() {
    let histories = histories(3);
    let mut text = written(&histories);
    let at = text.len() / 2; // in the second of three
    text[at] ^= 1;
    let restored = read(&text[..], NOW);
    assert_eq!(restored.dropped, 1, "{:?}", restored.why);
    assert!(restored.why.unwrap().starts_with("line 3: its checksum"));
    let expected = [kept(&histories)[0].clone(), kept(&histories)[2].clone()];
    assert_eq!(kept(&restored.histories), expected);

    text = written(&histories);
    text[0] = b'z'; // the head
    assert_eq!(kept(&read(&text[..], NOW).histories), kept(&histories));
    text = written(&histories);
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let cut = read(&lines[..3].concat()[..], NOW); // at the end of a line
    assert_eq!((cut.histories.iter().count(), cut.dropped), (2, 1));
}

#[test]
fn what_is_of_the_future_or_cannot_be_is_dropped_and_said() {
    let of = |entry: &str| read(format!(r#"{{"version":1,"workloads":[{entry}]}}"#).as_bytes(), NOW);
    let entry = |startups: &str, levels: &str| {
        of(&format!(
            r#"{{"namespace":"","workload":"a","workload_type":"","container":"","startups":[{startups}],"levels":{levels}}}"#
        ))
    };
    let start = |started: &str, span: &str| {
        format!(
            r#"{{"started":{started},"outcome":"ended","peak":7,"peak_seconds":0.5,"span":{span},"curve":[1,7]}}"#
        )
    };
    let levels = r#"{"seconds":[[91,700.0]],"until":9,"halved":9}"#;
    let dropped = |restored: Restored| (restored.dropped, restored.histories.iter().count());
    assert_eq!(dropped(entry(&start("1", "0.05"), levels)), (0, 1));
    assert_eq!(dropped(entry(&start("1", "1e9"), levels)), (1, 0));
    assert_eq!(dropped(entry(&start("2e9", "0.05"), levels)), (1, 0));
    let far = r#"{"seconds":[[91,700.0]],"until":1e300,"halved":0}"#;
    let without = entry(&start("1", "0.05"), far);
    assert_eq!(without.histories.levels(&named("a")), Some(&Levels::default()));
    assert_eq!(dropped(without), (1, 1));
    let many = vec![start("1", "0.05"); 100_000].join(",");
    assert_eq!(entry(&many, levels).histories.get(&named("a")).len(), KEPT);
    assert!(read(&b"00000000 {\"version\":3}"[..], NOW).why.is_some());
    let mut later = Vec::new();
    write_line(&mut later, &Head { version: VERSION + 1, workloads: 0 }).unwrap();
    assert_eq!(read(&later[..], NOW).why.unwrap(), "version 3, expected 2");
}

#[test]
fn a_file_without_an_end_is_read_in_bounded_memory() {
    for byte in [b'{', b'[', b'\0', b'\n', b'"', b'1'] {
        let restored = read(io::repeat(byte), NOW);
        assert!(restored.why.is_some() && restored.histories.iter().count() == 0, "{byte}");
    }
    let text = br#"{"version":1,"workloads":[{"namespace":""#.chain(io::repeat(b'a'));
    assert!(read(text, NOW).why.unwrap().contains("too long"));
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let restored = read(&bytes[..], NOW);
        prop_assert!(restored.why.is_some());
        prop_assert_eq!(restored.histories.iter().count(), 0);
    }

    #[test]
    fn of_a_damaged_file_only_what_was_in_it_is_taken(
        at in any::<prop::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..20),
        cut in 0..20usize,
    ) {
        let histories = histories(4);
        let mut text = written(&histories);
        let from = at.index(text.len());
        let until = (from + cut).min(text.len());
        text.splice(from..until, bytes);
        prop_assume!(text.first() != Some(&b'{')); // that is version 1
        let restored = read(&text[..], NOW);
        let before = kept(&histories);
        prop_assert!(kept(&restored.histories).iter().all(|known| before.contains(known)));
        let lost = 4 - restored.histories.iter().count();
        prop_assert!(lost <= 2, "20 bytes are of two lines at the most");
        prop_assert!(lost == 0 || restored.why.is_some());
    }

    #[test]
    fn a_damaged_file_of_version_1_is_read(
        at in any::<prop::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut text = version1(&histories(4));
        let from = at.index(text.len());
        text.splice(from..(from + bytes.len()).min(text.len()), bytes);
        let restored = read(&text[..], NOW);
        let all = restored.histories.iter().flat_map(|(_, known)| &known.startups);
        prop_assert!(all.into_iter().all(PastStartup::is_sound));
    }
}
