//! The page with everything in it: style, script and data in one file that asks for nothing. Its policy allows only the
//! script and the style that it was built with.

use std::{fs::File, io::Read, path::Path};

use super::{Incident, data};
use crate::sinks::api_state::NodeState;

/// Built by web/build.mjs from the page that the daemon serves.
const TEMPLATE: &str = include_str!("../../http/web/report.html");
/// At the beginning of each report.
pub const MARK: &str = "<!-- observer report -->";

/// `Err`: what does not fit in the stated size.
pub fn html(state: &NodeState, incident: &Incident) -> Result<String, String> {
    let data = data::json(state, incident)?;
    let text = escaped(&incident.plain());
    let parts = [
        ("{{STYLE}}", include_str!("../../http/web/page.css")),
        ("{{TEXT}}", &text),
        ("{{DATA}}", &data),
        ("{{SCRIPT}}", include_str!("../../http/web/page.js")),
    ];
    let mut html =
        String::with_capacity(TEMPLATE.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
    let mut rest = TEMPLATE;
    for (place, part) in parts {
        // Each is searched after the one before: what was put in is never searched.
        let (before, after) = rest.split_once(place).ok_or_else(|| format!("no {place} in the template"))?;
        html.push_str(before);
        html.push_str(part);
        rest = after;
    }
    html.push_str(rest);
    Ok(html)
}

/// Whether a file is an earlier report.
pub fn is_one(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
    read.is_ok() && start.windows(MARK.len()).any(|part| part == MARK.as_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
