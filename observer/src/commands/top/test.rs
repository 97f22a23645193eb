//! Screens of recorded cases, as golden files: `INSTA_UPDATE=always` accepts a change.

use std::{fs::File, io::BufReader, sync::Arc, time::Duration};

use observer_core::model::finding::OomScope;
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::{
    draw::draw,
    feed::{Link, Seen},
    plain::Able,
    rows::Rows,
    view::{Done, View},
};
use crate::{
    recording::{pace::Tempo, replay},
    sinks::{api_state::NodeState, metrics::Metrics},
};

/// A recording so many seconds after its first event.
fn seen(case: &str, seconds: f64) -> Seen {
    let path = format!("{}/../tests/cases/{case}/events.jsonl", env!("CARGO_MANIFEST_DIR"));
    let mut node = NodeState::of_recording(format!("{case}/events.jsonl"));
    let mut began = None;
    let mut over = false;
    let each = |finding: &observer_core::model::finding::Finding| {
        // In their order: what was held until it was identified comes late, with the time when it was.
        over |= finding.at.seconds_since(*began.get_or_insert(finding.at)) > seconds;
        if !over {
            node.apply(finding);
        }
    };
    let recording = BufReader::new(File::open(path).unwrap());
    replay::replay_into(&Metrics::default(), recording, |_| {}, each).unwrap();
    let same = |answer| serde_json::from_value(answer).unwrap();
    let state = same(serde_json::to_value(node.view()).unwrap());
    let mut seen = Seen::new(state, Link::Plays);
    let from = seen.state.status.now - 20.0;
    seen.startups =
        serde_json::from_value(serde_json::to_value(node.startups(from, f64::INFINITY)).unwrap()).unwrap();
    // As if it was open: whichever is asked for is there.
    let container = seen.startups.first().map(|startup| startup.names.id.clone());
    seen.detail = container.map(|id| {
        let detail = node.container(id.parse().unwrap());
        let detail = serde_json::to_value(detail.unwrap()).unwrap();
        (id, Ok(serde_json::from_value(detail).unwrap()))
    });
    seen
}

fn playing() -> View {
    View::new(Some(Arc::new(Tempo::new(1.0))))
}

fn screen(seen: &Seen, view: &mut View, size: (u16, u16)) -> Buffer {
    silent_screen(seen, view, size, Duration::from_secs(7))
}

fn silent_screen(seen: &Seen, view: &mut View, size: (u16, u16), silent: Duration) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(seen, view, silent, frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    let row = |cells: &[ratatui::buffer::Cell]| {
        let text: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.trim_end().to_owned()
    };
    rows.map(row).collect::<Vec<_>>().join("\n")
}

fn press(view: &mut View, seen: &Seen, keys: &[KeyCode]) -> Done {
    let mut done = Done::Nothing;
    for key in keys {
        done = view.key(KeyEvent::new(*key, KeyModifiers::NONE), seen);
    }
    done
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

fn shown(name: &str, seen: &Seen, view: &mut View) {
    for size in SIZES {
        let screen = text(&screen(seen, view, size));
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), screen);
        });
    }
}

/// A recorded case as if it was live: what docs/top.md shows.
#[test]
fn the_document_shows_what_is_drawn() {
    let mut seen = seen("kubernetes_killed_before_a_status_names_it", 33.0);
    (seen.link, seen.state.status.recording, seen.state.status.live) = (Link::Live, None, true);
    let screen = text(&silent_screen(&seen, &mut View::default(), (80, 24), Duration::ZERO));
    let document = include_str!("../../../../docs/top.md");
    assert!(document.contains(&format!("```text\n{screen}\n```\n")), "docs/top.md shows not this:\n{screen}");
}

#[test]
fn a_scale_up_while_it_starts() {
    shown("scale_up", &seen("kubernetes_scale_up_by_a_bot", 12.0), &mut playing());
}

#[test]
fn a_stampede() {
    shown("stampede", &seen("stampede_on_a_small_node", 6.0), &mut playing());
}

#[test]
fn a_recording_at_its_end() {
    let mut seen = seen("kubernetes_scale_up_by_a_bot", 1e9);
    seen.link = Link::Ended { note: None };
    shown("ended", &seen, &mut playing());
}

#[test]
fn kills_and_one_container_open() {
    let seen = seen("killed_by_the_shared_limit", 1e9);
    shown("kills", &seen, &mut playing());
    let mut view = playing();
    let id = &seen.detail.as_ref().unwrap().0;
    let rows = Rows::of(&seen, &view.wanted());
    let at = rows.keys().iter().position(|key| rows.container(key).is_some_and(|of| of.0 == *id)).unwrap();
    press(&mut view, &seen, &vec![KeyCode::Down; at]);
    press(&mut view, &seen, &[KeyCode::Enter]);
    shown("open", &seen, &mut view);
}

#[test]
fn a_limit_inside_a_container_and_what_the_victim_held() {
    let mut seen = seen("limit_ahead", 1e9);
    let kill = seen.state.kills.first_mut().unwrap();
    (kill.scope, kill.limit_bytes) = (OomScope::Inside, Some(32 << 20));
    let screen = text(&screen(&seen, &mut playing(), (120, 40)));
    let row = screen.lines().find(|line| line.contains("python3 [29331]")).unwrap();
    let told: Vec<_> = row.split_whitespace().collect();
    assert!(told.windows(5).any(|part| part == ["one", "inside", "32Mi", "206Mi", "200Mi"]), "{screen}");
}

#[test]
fn an_observer_that_is_gone() {
    let mut seen = seen("kubernetes_scale_up_by_a_bot", 1e9);
    seen.link = Link::Lost { why: "http://127.0.0.1:9843/api/v1/status: Connection refused".into() };
    shown("disconnected", &seen, &mut View::default());
}

#[test]
fn an_observer_that_hangs_or_misses_something_says_so() {
    let mut seen = seen("kubernetes_scale_up_by_a_bot", 1e9);
    (seen.link, seen.state.status.live, seen.state.status.ready) = (Link::Live, true, false);
    seen.state.status.missing = vec!["required probe oom is broken".into()];
    let kubernetes = seen.state.status.kubernetes.as_mut().unwrap();
    (kubernetes.state, kubernetes.why) = ("forbidden".into(), "pods: no names".into());
    let screen = text(&screen(&seen, &mut View::default(), (80, 24)));
    for part in ["! NO NEWS for 7.0s", "! NOT READY: required probe oom", "! Kubernetes API forbidden: pods"]
    {
        assert!(screen.contains(part), "{part}:\n{screen}");
    }
    let fresh = text(&silent_screen(&seen, &mut View::default(), (80, 24), Duration::from_secs(1)));
    assert!(!fresh.contains("NO NEWS"), "{fresh}");
}

#[test]
fn help_with_every_key() {
    let seen = seen("kubernetes_scale_up_by_a_bot", 12.0);
    let mut view = playing();
    press(&mut view, &seen, &typed("?"));
    shown("help", &seen, &mut view);
}

/// Names as long, wide and hostile as they come.
#[test]
fn names_of_others_stay_in_their_cells() {
    let mut seen = seen("killed_by_the_shared_limit", 1e9);
    let hostile = [
        "\u{1b}[2J\u{1b}]0;x\u{7}\n\u{202e}gpj.exe".to_owned(),
        "x".repeat(4096),
        "同".repeat(1400),
        "e\u{301}\u{301}\u{301}\u{200d}\u{200b}".repeat(200),
        "שלום".repeat(400),
    ];
    for name in hostile {
        for names in seen.state.containers.iter_mut().map(|one| &mut one.names) {
            names.container.clone_from(&name);
            names.pod.clone_from(&name);
            names.namespace.clone_from(&name);
        }
        for one in &mut seen.startups {
            one.names.container.clone_from(&name);
        }
        for kill in &mut seen.state.kills {
            kill.victim_command.clone_from(&name);
            kill.container.as_mut().unwrap().container.clone_from(&name);
        }
        seen.link = Link::Lost { why: name.clone() };
        seen.state.status.recording = Some(name.clone());
        for keys in [vec![], vec![KeyCode::Enter], typed("/x")] {
            let mut view = playing();
            press(&mut view, &seen, &keys);
            for size in SIZES {
                let drawn = screen(&seen, &mut view, size);
                for cell in &drawn.content {
                    let hostile = |one: char| one.is_control() || "\u{202e}\u{200b}\u{200d}".contains(one);
                    assert!(!cell.symbol().chars().any(hostile), "{:?}", cell.symbol());
                }
                // What stands after names stands where it stood.
                if keys.is_empty() && size.0 >= 80 {
                    let text = text(&drawn);
                    let row = text.lines().find(|line| line.contains("OOM-KILLED")).unwrap();
                    assert!(row.ends_with(" 1"), "{row:?}");
                }
            }
        }
    }
}

#[test]
fn without_colour_and_without_unicode_the_same_is_said() {
    let seen = seen("killed_by_the_shared_limit", 1e9);
    let mut drawn = screen(&seen, &mut playing(), (80, 24));
    let coloured = text(&drawn);
    assert!(drawn.content.iter().any(|cell| cell.fg != Color::Reset));
    Able { colour: false, unicode: true }.apply(&mut drawn);
    assert_eq!(text(&drawn), coloured);
    assert!(drawn.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    Able { colour: false, unicode: false }.apply(&mut drawn);
    let ascii = text(&drawn);
    assert!(ascii.is_ascii() && ascii.contains("OOM-KILLED") && ascii.contains('#'), "{ascii}");
}

#[test]
fn keys_sort_filter_open_and_go_back() {
    let seen = seen("kubernetes_scale_up_by_a_bot", 1e9);
    let mut view = playing();
    let said = |view: &mut View| text(&screen(&seen, view, (80, 24)));
    for by in ["risk", "usage", "peak", "peak in % of limit", "OOM kills", "last started", "name", "risk"] {
        assert!(said(&mut view).contains(&format!("by {by}")), "{by}:\n{}", said(&mut view));
        press(&mut view, &seen, &typed("s"));
    }
    press(&mut view, &seen, &typed("Sr"));
    assert!(said(&mut view).contains("by risk reversed"));

    press(&mut view, &seen, &typed("/B9GD qx"));
    assert!(said(&mut view).contains("none fits"), "a q that is typed is no quit");
    press(&mut view, &seen, &[KeyCode::Backspace, KeyCode::Backspace, KeyCode::Backspace, KeyCode::Enter]);
    let one = said(&mut view);
    assert!(one.contains("THE REST 1 of 4") && one.contains("b9gd4") && !one.contains("fzz2r"), "{one}");
    press(&mut view, &seen, &[KeyCode::Enter]);
    assert!(said(&mut view).contains("What happened"), "{}", said(&mut view));
    press(&mut view, &seen, &[KeyCode::End]);
    let end = view.scroll;
    said(&mut view);
    assert!(view.scroll < end, "not past the last line");
    press(&mut view, &seen, &[KeyCode::Esc, KeyCode::Esc]);
    assert!(said(&mut view).contains("THE REST 4"));

    // The selected one stays selected where the order changes.
    press(&mut view, &seen, &[KeyCode::Down, KeyCode::Down]);
    let chosen =
        |text: &str| text.lines().find(|line| line.starts_with("> ")).map(|line| line[..22].to_owned());
    let before = chosen(&said(&mut view));
    press(&mut view, &seen, &typed("r"));
    assert_eq!(chosen(&said(&mut view)), before);
    assert_eq!(press(&mut view, &seen, &typed("?q")), Done::Quit);
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view.key(control, &seen), Done::Quit);
}

/// Whatever is typed on whatever terminal, it draws.
#[test]
fn it_draws_at_every_size_after_any_keys() {
    use proptest::{prelude::Strategy, test_runner::TestRunner};
    let seen = seen("killed_by_the_shared_limit", 1e9);
    let inputs = (0u16..160, 0u16..60, "[jkgGsSrqh?/x +\t-]{0,12}").prop_map(|all| all);
    let run = TestRunner::deterministic().run(&inputs, |(width, height, keys)| {
        let mut view = playing();
        for key in keys.chars() {
            let key = match key {
                'x' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                key => KeyCode::Char(key),
            };
            press(&mut view, &seen, &[key]);
            screen(&seen, &mut view, (width, height));
        }
        Ok(())
    });
    run.unwrap();
}

#[test]
fn of_several_nodes_the_heading_says_which_and_keys_go_on() {
    let seen = seen("scale_up_of_four", 2.0);
    let mut view = playing();
    assert_eq!(press(&mut view, &seen, &[KeyCode::Char('n')]), Done::Nothing, "there is one");
    view.node = Some(super::nodes::Shown {
        name: "node-b".into(),
        number: 2,
        of: 3,
        away: 1,
        note: Some("asking node node-c...".into()),
    });
    let shown = text(&screen(&seen, &mut view, (80, 24)));
    for part in ["  2 of 3, 1 cannot be asked", "asking node node-c...", "n next node"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    assert_eq!(press(&mut view, &seen, &[KeyCode::Char('n')]), Done::Node { back: false });
    assert_eq!(press(&mut view, &seen, &[KeyCode::Char('N')]), Done::Node { back: true });
    press(&mut view, &seen, &[KeyCode::Char('?')]);
    assert!(text(&screen(&seen, &mut view, (80, 24))).contains("the next, the previous node"));
}
