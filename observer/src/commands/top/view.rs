//! What is looked at, and what each key does to that.

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    feed::Seen,
    nodes::Shown,
    rows::{Key, Rows, Sort, Wanted},
};
use crate::recording::pace::Tempo;

/// A page up or down; a filter is no longer than what one types.
const PAGE: isize = 10;
const FILTER_CHARS: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Default)]
pub struct View {
    pub sort: Sort,
    pub reversed: bool,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub help: bool,
    pub open: Option<Open>,
    /// Lines of the open container's text above the first shown.
    pub scroll: usize,
    selected: Option<Key>,
    /// Where it was: the row that takes its place when it is gone.
    place: usize,
    /// Of a recording.
    pub tempo: Option<Arc<Tempo>>,
    /// Where there are several.
    pub node: Option<Shown>,
}

#[derive(Debug, PartialEq)]
pub enum Done {
    Nothing,
    Quit,
    Suspend,
    Redraw,
    Node { back: bool },
}

impl View {
    pub fn new(tempo: Option<Arc<Tempo>>) -> Self {
        Self { tempo, ..Self::default() }
    }

    /// Another node is shown: what was open or selected is not there.
    pub fn elsewhere(&mut self) {
        (self.open, self.selected, self.place, self.scroll) = (None, None, 0, 0);
    }

    pub fn wanted(&self) -> Wanted<'_> {
        let speed = self.tempo.as_ref().map_or(1.0, |tempo| tempo.speed());
        Wanted { sort: self.sort, reversed: self.reversed, filter: &self.filter, speed }
    }

    /// Which of these rows is selected.
    pub fn selected(&self, keys: &[Key]) -> Option<usize> {
        let known = self.selected.as_ref().and_then(|key| keys.iter().position(|one| one == key));
        known.or(keys.len().checked_sub(1).map(|last| last.min(self.place)))
    }

    fn select(&mut self, keys: &[Key], at: usize) {
        self.place = at.min(keys.len().saturating_sub(1));
        self.selected = keys.get(self.place).cloned();
    }

    fn step(&mut self, seen: &Seen, by: isize) {
        let keys = Rows::of(seen, &self.wanted()).keys();
        let at = self.selected(&keys).unwrap_or(0);
        self.select(&keys, at.saturating_add_signed(by));
    }

    /// To the first row of the next list that has one.
    fn next_list(&mut self, seen: &Seen, back: bool) {
        let rows = Rows::of(seen, &self.wanted());
        let keys = rows.keys();
        let Some(at) = self.selected(&keys) else { return };
        let (kills, rest) = (rows.starting.len(), rows.starting.len() + rows.kills.len());
        let mut firsts = vec![0, kills, rest];
        firsts.retain(|first| *first < keys.len());
        firsts.dedup();
        let now = firsts.iter().rposition(|first| *first <= at).unwrap_or(0);
        let next = (now + if back { firsts.len() - 1 } else { 1 }) % firsts.len();
        self.select(&keys, firsts[next]);
    }

    pub fn key(&mut self, key: KeyEvent, seen: &Seen) -> Done {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Done::Quit,
            KeyCode::Char('z') if control => return Done::Suspend,
            KeyCode::Char('l') if control => return Done::Redraw,
            _ => {}
        }
        // Escape and a key that came together, as over a slow line: a terminal sends both for Alt with that key too.
        if key.modifiers.contains(KeyModifiers::ALT) {
            self.escape();
        }
        if self.typing {
            self.type_filter(key.code);
            return Done::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Done::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = !self.help,
            KeyCode::Esc => self.escape(),
            KeyCode::Backspace | KeyCode::Left => self.back(),
            KeyCode::Char(' ') => {
                if let Some(tempo) = &self.tempo {
                    tempo.toggle();
                }
            }
            KeyCode::Char('+' | '=') => self.speed(2.0),
            KeyCode::Char('-') => self.speed(0.5),
            _ if self.help => self.help = false,
            KeyCode::Char(key @ ('n' | 'N')) if self.node.as_ref().is_some_and(|node| node.of > 1) => {
                return Done::Node { back: key == 'N' };
            }
            KeyCode::Up | KeyCode::Char('k') => self.go(seen, -1),
            KeyCode::Down | KeyCode::Char('j') => self.go(seen, 1),
            KeyCode::PageUp => self.go(seen, -PAGE),
            KeyCode::PageDown => self.go(seen, PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(seen, isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(seen, isize::MAX),
            _ if self.open.is_some() => {}
            KeyCode::Tab => self.next_list(seen, false),
            KeyCode::BackTab => self.next_list(seen, true),
            KeyCode::Enter | KeyCode::Right => self.open(seen),
            KeyCode::Char('s') => self.sort = self.sort.step(1),
            KeyCode::Char('S') => self.sort = self.sort.step(Sort::ALL.len() - 1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            _ => {}
        }
        Done::Nothing
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => self.escape(),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(one) if self.filter.chars().count() < FILTER_CHARS => self.filter.push(one),
            _ => {}
        }
    }

    fn escape(&mut self) {
        if std::mem::take(&mut self.typing) {
            self.filter.clear();
        } else {
            self.back();
        }
    }

    /// One step out of where one is.
    fn back(&mut self) {
        if self.help {
            self.help = false;
        } else if self.open.take().is_none() {
            self.filter.clear();
        }
    }

    fn go(&mut self, seen: &Seen, by: isize) {
        match &self.open {
            Some(_) => self.scroll = self.scroll.saturating_add_signed(by),
            None => self.step(seen, by),
        }
    }

    fn open(&mut self, seen: &Seen) {
        let rows = Rows::of(seen, &self.wanted());
        let keys = rows.keys();
        let Some(at) = self.selected(&keys) else { return };
        if let Some((id, name)) = keys.get(at).and_then(|key| rows.container(key)) {
            self.select(&keys, at);
            self.open = Some(Open { id, name });
            self.scroll = 0;
        }
    }

    fn speed(&self, by: f64) {
        if let Some(tempo) = &self.tempo {
            tempo.multiply(by);
        }
    }
}
