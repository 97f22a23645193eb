//! Rows in columns: each cell at its place, whatever the one before it holds.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{CHOSEN, FAINT, line};
use crate::commands::top::text;

pub struct Column {
    pub title: &'static str,
    pub width: Width,
    /// Shown on screens of at least so many columns.
    pub from: u16,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Width {
    /// Numbers, to the right.
    Number(u16),
    Text(u16),
    /// A share of what is left, cut in the middle.
    Name(u16),
    /// A share of what is left, cut at the end.
    Rest(u16),
}

pub type Cell = (String, Style);

/// Columns that fit, with their places and widths. The first two columns are the mark of the selected row.
pub fn place(columns: &'static [Column], width: u16) -> Vec<(usize, &'static Column, u16, u16)> {
    let shown: Vec<(usize, &Column)> =
        columns.iter().enumerate().filter(|(_, column)| width >= column.from).collect();
    let fixed = |column: &Column| match column.width {
        Width::Number(width) | Width::Text(width) => width,
        Width::Name(_) | Width::Rest(_) => 0,
    };
    let share = |column: &Column| match column.width {
        Width::Name(share) | Width::Rest(share) => share,
        Width::Number(_) | Width::Text(_) => 0,
    };
    let gaps = shown.len().saturating_sub(1) as u16;
    let taken: u16 = 2 + gaps + shown.iter().map(|(_, column)| fixed(column)).sum::<u16>();
    let left = width.saturating_sub(taken);
    let shares = shown.iter().map(|(_, column)| share(column)).sum::<u16>().max(1);
    let mut x = 2;
    let mut given = 0;
    let mut before = 0;
    shown
        .into_iter()
        .map(|(index, column)| {
            before += share(column);
            let until = u32::from(left) * u32::from(before) / u32::from(shares);
            let flexible = until as u16 - given;
            given = until as u16;
            let wide = fixed(column) + flexible;
            let at = x;
            x += wide + 1;
            (index, column, at, wide)
        })
        .collect()
}

/// A list: its heading, and the rows around the selected one.
pub struct List<'a> {
    pub title: Vec<Cell>,
    pub columns: &'static [Column],
    pub count: usize,
    pub row: &'a dyn Fn(usize) -> Vec<Cell>,
    pub selected: Option<usize>,
}

impl List<'_> {
    pub fn draw(&self, area: Rect, buffer: &mut Buffer) {
        if area.height == 0 {
            return;
        }
        let places = place(self.columns, area.width);
        let mut y = 0;
        // The titles of the columns stand in the heading's line, where it leaves them room.
        line(buffer, area, y, &self.title);
        let used: usize = self.title.iter().map(|(text, _)| text.chars().count()).sum();
        for (_, column, x, width) in &places {
            let title = column.title;
            let right = matches!(column.width, Width::Number(_));
            let at = if right { (x + width).saturating_sub(title.len() as u16) } else { *x };
            if usize::from(at) > used && !title.is_empty() {
                buffer.set_stringn(area.x + at, area.y, title, usize::from(area.width - at), FAINT);
            }
        }
        y += 1;
        let room = usize::from(area.height - 1);
        // A row says how many are not shown, where it is a small part of the list; the heading has the count.
        let marked = room >= 5 && self.count > room;
        let visible = if marked { room - 1 } else { room };
        let first = match self.selected {
            Some(selected) if selected >= visible => selected + 1 - visible,
            _ => 0,
        };
        for index in (first..self.count).take(visible) {
            let chosen = self.selected == Some(index);
            let row = Rect { y: area.y + y, height: 1, ..area };
            if chosen {
                buffer.set_stringn(row.x, row.y, ">", 1, CHOSEN);
            }
            let cells = (self.row)(index);
            for (column, kind, x, width) in &places {
                let Some((text, style)) = cells.get(*column) else { continue };
                let columns = usize::from(*width);
                let shown = match kind.width {
                    Width::Name(_) => text::name(text, columns),
                    _ => text::start(text, columns),
                };
                let right = matches!(kind.width, Width::Number(_));
                let at = if right { x + width - (shown.chars().count() as u16).min(*width) } else { *x };
                buffer.set_stringn(row.x + at, row.y, shown, columns, *style);
            }
            if chosen {
                buffer.set_style(row, CHOSEN);
            }
            y += 1;
        }
        if marked {
            let below = self.count.saturating_sub(first + visible);
            let text = match first {
                0 => format!("  and {below} more"),
                above => format!("  {above} above, {below} below"),
            };
            line(buffer, area, y, &[(text, FAINT)]);
        }
    }
}
