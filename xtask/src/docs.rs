//! Writes the generated documents; the test `generated_docs_are_fresh` compares.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{run, shell};

pub fn docs() -> Result<()> {
    let mut build = shell::cargo();
    build.args(["build", "--quiet", "--package", "observer"]);
    shell::run(&mut build)?;
    for name in ["metrics", "probes"] {
        let text = shell::output(Command::new(run::target().join("debug/observer")).args(["docs", name]))?;
        let path = shell::root().join(format!("docs/{name}.md"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
