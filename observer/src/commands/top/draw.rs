//! The screen: a pure function of what is seen and what is looked at.
//!
//! Meaning is in words and signs; colour only repeats it.

use std::time::Duration;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{
    feed::{Link, Seen},
    rows::Rows,
    text,
    view::View,
};

mod detail;
mod head;
mod help;
mod lists;
mod table;

pub const PLAIN: Style = Style::new();
pub const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
pub const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
pub const WARN: Style = Style::new().fg(Color::Yellow);
pub const CURVE: Style = Style::new().fg(Color::Cyan);
pub const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD.union(Modifier::REVERSED));
pub const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Below these nothing can be read.
const LEAST: (u16, u16) = (30, 8);

/// `silent`: for how long nothing was heard from the observer.
pub fn draw(seen: &Seen, view: &mut View, silent: Duration, area: Rect, buffer: &mut Buffer) {
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("needs {} x {}; q quits", LEAST.0, LEAST.1);
        line(buffer, area, 0, &[(text, PLAIN)]);
        return;
    }
    if view.help {
        help::draw(view, area, buffer);
        return;
    }
    let mut top = head::draw(seen, view, silent, area, buffer);
    let footer = area.height - 1;
    let middle = Rect { y: area.y + top, height: footer - top, ..area };
    if view.open.is_some() {
        detail::draw(seen, view, middle, buffer);
    } else if seen.state.host.is_none() {
        let text = match seen.link {
            Link::Ended { .. } => "the recording has no host in it",
            _ => "reading...",
        };
        top += 1;
        line(buffer, area, top, &[(text.to_owned(), PLAIN)]);
    } else {
        lists::draw(seen, view, &Rows::of(seen, &view.wanted()), middle, buffer);
    }
    foot(view, area, footer, buffer);
}

fn foot(view: &View, area: Rect, y: u16, buffer: &mut Buffer) {
    if view.typing {
        line(
            buffer,
            area,
            y,
            &[
                ("/".into(), BOLD),
                (view.filter.clone(), PLAIN),
                ("_  (Enter keeps, Esc clears)".into(), FAINT),
            ],
        );
        return;
    }
    let mut keys: Vec<(&str, &str)> = vec![("q", "quit"), ("?", "help")];
    if view.open.is_some() {
        keys.insert(0, ("Esc", "back"));
        keys.push(("Up Down", "scroll"));
    } else {
        keys.extend([("Enter", "open"), ("/", "filter"), ("s", "sort"), ("Tab", "next list")]);
    }
    if view.open.is_none() && view.node.as_ref().is_some_and(|node| node.of > 1) {
        keys.push(("n", "next node"));
    }
    if view.tempo.is_some() {
        keys.extend([("Space", "pause"), ("+ -", "speed")]);
    }
    let mut parts = Vec::new();
    let mut columns = 0;
    for (key, what) in keys {
        columns += key.len() + what.len() + 3;
        if columns > usize::from(area.width) + 2 {
            break;
        }
        parts.push((key.to_owned(), BOLD));
        parts.push((format!(" {what}  "), FAINT));
    }
    line(buffer, area, y, &parts);
}

/// Parts one after the other, as far as they fit; text of others is made printable here at the latest.
fn line(buffer: &mut Buffer, area: Rect, y: u16, parts: &[(String, Style)]) {
    if y >= area.height {
        return;
    }
    let (mut x, end) = (area.x, area.x + area.width);
    for (part, style) in parts {
        let shown = text::start(part, usize::from(end - x));
        (x, _) = buffer.set_stringn(x, area.y + y, shown, usize::from(end - x), *style);
    }
}
