//! The page in a real Chromium: what is drawn equals what the API answers (web/test/page.mjs). Screenshots go to
//! target/web/.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{run, shell};

const BUILT: [&str; 4] = ["page.html", "page.js", "page.css", "report.html"];

pub enum Outcome {
    /// How many passed, and which failed.
    Ran {
        passed: u32,
        failed: Vec<String>,
    },
    Skipped(String),
}

/// `observer`: the program that serves the recordings.
pub fn test(observer: &Path) -> Result<Outcome> {
    let web = shell::root().join("web");
    let chromium = match chromium().and_then(|chromium| packages(&web).map(|()| chromium)) {
        Ok(chromium) => chromium,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    fresh(&web)?;
    shell::run(Command::new("npx").args(["--no-install", "tsc", "--noEmit"]).current_dir(&web))?;
    drive(observer, &web, &chromium)
}

/// Figures of the page (web/test/measure.mjs).
pub fn measure(observer: &Path) -> Result<()> {
    let web = shell::root().join("web");
    let chromium = chromium()?;
    packages(&web)?;
    let mut node = Command::new("node");
    node.arg("test/measure.mjs").arg(observer).arg(run::target().join("web")).arg(chromium);
    shell::run(node.current_dir(web))
}

fn chromium() -> Result<PathBuf> {
    shell::apt(&["chromium"])?;
    shell::find("chromium").context("no chromium")
}

/// What the page is built and driven with, in the versions of package-lock.json.
fn packages(web: &Path) -> Result<()> {
    if shell::find("npm").is_none() {
        bail!("npm is not on the PATH; as root on Debian: apt-get install npm");
    }
    if web.join("node_modules/playwright-core").is_dir() {
        return Ok(());
    }
    shell::output(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(web)).map(|_| ())
}

/// The committed page is, byte for byte, what these sources make.
fn fresh(web: &Path) -> Result<()> {
    let read = || -> Result<Vec<Vec<u8>>> {
        let folder = shell::root().join("observer/src/http/web");
        BUILT.iter().map(|file| fs::read(folder.join(file)).context(*file)).collect()
    };
    let before = read()?;
    shell::output(Command::new("npm").args(["run", "--silent", "build"]).current_dir(web))?;
    if read()? != before {
        bail!("the built page was not what web/src says; it is now: commit observer/src/http/web");
    }
    Ok(())
}

fn drive(observer: &Path, web: &Path, chromium: &Path) -> Result<Outcome> {
    let mut node = Command::new("node");
    node.arg("test/page.mjs").arg(observer).arg(shell::root().join("tests/cases"));
    node.arg(run::target().join("web")).arg(chromium).current_dir(web);
    let mut child = node.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start node")?;
    let (mut passed, mut failed) = (0, Vec::new());
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line.context("cannot read from node")?;
        println!("{line}");
        if line.starts_with("ok ") {
            passed += 1;
        } else if let Some(name) = line.strip_prefix("FAILED ") {
            failed.push(name.to_owned());
        }
    }
    let status = child.wait().context("cannot wait for node")?;
    if !status.success() && failed.is_empty() {
        bail!("`{}` ended with {status}", shell::show(&node));
    }
    Ok(Outcome::Ran { passed, failed })
}
