//! `observer top`: what starts now, what was killed, and what is at risk, in a terminal.
//!
//! Reads /api/v1 of a running observer, or the same answers from a recording that plays in this process.

use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use super::client::{Access, timeout_seconds};
use crate::recording::pace::parse_speed;

mod draw;
mod feed;
pub mod nodes;
mod plain;
mod rows;
mod screen;
mod text;
mod view;

use feed::{Feed, Link};
use nodes::Nodes;
use plain::Able;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    access: Access,
    /// A recording instead, written by `observer run --record`, played in this process
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    pub replay: Option<PathBuf>,
    /// How fast it plays, times as it was; + and - change it
    #[arg(long, default_value_t = 1.0, value_name = "TIMES", requires = "replay", value_parser = parse_speed)]
    speed: f64,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = timeout_seconds())]
    timeout: u64,
}

#[derive(Debug)]
pub enum Failed {
    /// There is no terminal, or no observer.
    Failed(String),
    /// No recording.
    BadInput(String),
}

/// `command`: what `why` is called by here.
pub fn no_terminal(command: &str) -> String {
    format!(
        "top draws on a terminal, and standard output is none; `{command} why NAME` prints text, /api/v1/state of the \
         observer is JSON"
    )
}

/// `recording`: the opened file of `--replay`.
pub fn run(options: &Options, recording: Option<Box<dyn BufRead + Send>>) -> Result<(), Failed> {
    if !io::stdout().is_terminal() {
        return Err(Failed::Failed(no_terminal("observer")));
    }
    let feed = match (&options.replay, recording) {
        (Some(path), Some(recording)) => {
            Feed::recording(recording, path, options.speed).map_err(Failed::BadInput)?
        }
        _ => {
            let timeout = Duration::from_secs(options.timeout);
            let http = options.access.connect(timeout).map_err(Failed::Failed)?;
            Feed::observer(http).map_err(|error| Failed::Failed(without(&error)))?
        }
    };
    let feed = draw(feed, None, String::new()).map_err(Failed::Failed)?;
    match &feed.seen().link {
        Link::Ended { note: Some(note) } => Err(Failed::BadInput(note.clone())),
        _ => Ok(()),
    }
}

/// Several nodes, one at a time. `filter`: shown of each at first.
pub fn nodes(nodes: Nodes, filter: String) -> Result<(), String> {
    let feed = nodes.first()?;
    draw(feed, Some(nodes), filter).map(drop)
}

fn draw(feed: Feed, nodes: Option<Nodes>, filter: String) -> Result<Feed, String> {
    let able = Able::find(|name| std::env::var(name).ok());
    screen::run(feed, nodes, filter, able).map_err(|error| format!("cannot draw on the terminal: {error}"))
}

/// What to do where no observer answers.
fn without(error: &str) -> String {
    format!(
        "{error}\n  It shows what a running observer measures: start one with `sudo observer run`, name another with \
         --node URL (kubectl port-forward brings one here), or play a recording with --replay FILE."
    )
}

#[cfg(test)]
mod test;
