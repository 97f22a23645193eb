//! What the keys do, and what the words mean.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{BOLD, PLAIN, line};
use crate::commands::top::view::View;

const KEYS: [(&str, &str); 9] = [
    ("Up Down  j k", "move; PageUp PageDown Home End too"),
    ("Tab", "the next list: starting, OOM kills, the rest"),
    ("Enter", "open: curve, cause, kills, what to set"),
    ("Esc", "back; clears the filter"),
    ("/", "show what has all these words in name, state, risk"),
    ("s  S", "sort the rest by the next, the previous; r reverses"),
    ("?", "this help"),
    ("q  Ctrl-C", "quit; Ctrl-Z stops, Ctrl-L draws anew"),
    ("", ""),
];
const NODES: [(&str, &str); 1] = [("n  N", "the next, the previous node")];
const PLAYS: [(&str, &str); 2] = [("Space", "pause or go on"), ("+  -", "twice, half as fast")];
const WORDS: [(&str, &str); 7] = [
    ("VERDICT", "stable after so long; drifting: grows on; oscillating"),
    ("USAGE OF LIMIT", "full height is the limit, or the peak where none is"),
    ("WHOSE LIMIT", "the one that was exceeded, and what it was"),
    ("RISK", "HIGH: killed, or a check fails; medium: near its limit,"),
    ("", "does not settle, or a check warns; -: too little seen"),
    ("will take", "forecast from earlier start-ups of the same workload"),
    ("waited", "share of the last second some task waited for memory"),
];

pub fn draw(view: &View, area: Rect, buffer: &mut Buffer) {
    line(buffer, area, 0, &[("observer top: keys and words; any key goes back".into(), BOLD)]);
    let nodes = NODES.iter().filter(|_| view.node.as_ref().is_some_and(|node| node.of > 1));
    let plays = PLAYS.iter().filter(|_| view.tempo.is_some());
    let keys = KEYS.iter().take(8).chain(nodes).chain(plays);
    for (y, (what, meaning)) in (2..).zip(keys.chain(&KEYS[8..]).chain(&WORDS)) {
        line(buffer, area, y, &[(format!("{what:15}"), BOLD), ((*meaning).to_owned(), PLAIN)]);
    }
}
