//! `observer incident`: the recordings that the daemon kept of the minutes before OOM kills: lists them, names one,
//! copies one.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use observer_core::model::{printable::printable, units::Bytes};

use super::output::{Target, Unwritten};
use crate::recording::incidents::{About, Kept, Killed, kept};

/// Kills named in a line of the list.
const NAMED: usize = 3;
const NAME_CHARS: usize = 80;

#[derive(Debug, Args)]
pub struct Options {
    /// One of the list, or `newest`; without it, the list
    name: Option<String>,
    /// The folder, as `observer run --incidents` has it
    #[arg(long = "incidents", env = "OBSERVER_INCIDENTS", value_name = "DIR")]
    folder: PathBuf,
    /// Copy it to this file; - is standard output. Without it, its path is printed
    #[arg(short, long, value_name = "FILE", requires = "name")]
    output: Option<PathBuf>,
    /// Also replace a file that is there
    #[arg(long, requires = "output")]
    force: bool,
}

/// What is printed.
pub fn run(options: &Options) -> Result<String, Unwritten> {
    let folder = options.folder.display();
    let all = kept(&options.folder)
        .map_err(|error| Unwritten::BadInput(format!("cannot read the folder {folder}: {error}")))?;
    let Some(name) = &options.name else { return Ok(list(&all)) };
    let one = match name.as_str() {
        "newest" => all.first(),
        name => all.iter().find(|one| one.name == name),
    };
    let one = one.ok_or_else(|| match all.first() {
        Some(newest) => Unwritten::BadInput(format!(
            "no recording {} in {folder}; the newest of {} is {}",
            shown(name),
            all.len(),
            newest.name
        )),
        None => Unwritten::BadInput(format!(
            "no recording in {folder} yet: there was no OOM kill since it was set"
        )),
    })?;
    let failed = |error: &io::Error| Unwritten::Failed(format!("cannot copy {}: {error}", one.name));
    match &options.output {
        None => Ok(format!("{}\n", one.path.display())),
        Some(output) if output.to_str() == Some("-") => {
            let mut file = File::open(&one.path).map_err(|error| failed(&error))?;
            io::copy(&mut file, &mut io::stdout().lock()).map_err(|error| failed(&error))?;
            Ok(String::new())
        }
        Some(output) => {
            copy(one, output, options.force)?;
            Ok(String::new())
        }
    }
}

fn copy(one: &Kept, output: &Path, force: bool) -> Result<(), Unwritten> {
    let target = Target::at(output, &one.path, force, |_| false)?;
    target.write(|to| io::copy(&mut File::open(&one.path)?, to).map(|_| ()))
}

fn list(all: &[Kept]) -> String {
    let mut text = format!("{:<24} {:>8} {:>9}  OOM KILLS\n", "NAME", "COVERS", "SIZE");
    for one in all {
        let covers = one
            .about
            .as_ref()
            .map_or("?".to_owned(), |about| format!("{:.0} s", (about.until - about.from).clamp(0.0, 1e6)));
        let kills = one.about.as_ref().map_or("not listed".to_owned(), kills);
        text += &format!("{:<24} {covers:>8} {:>9}  {kills}\n", one.name, Bytes(one.bytes).to_string());
    }
    text
}

fn kills(about: &About) -> String {
    let sum = about.kills.len() as u64 + about.more_kills;
    let name = |kill: &Killed| {
        let container = if kill.container.is_empty() { "no container" } else { &kill.container };
        format!("{} in {}", shown(&kill.command), shown(container))
    };
    let named: Vec<String> = about.kills.iter().take(NAMED).map(name).collect();
    let more = if sum > NAMED as u64 { ", …" } else { "" };
    format!("{sum}: {}{more}", named.join(", "))
}

/// What others named, on one line.
fn shown(name: &str) -> String {
    let name = printable(name);
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.into_owned(),
    }
}
