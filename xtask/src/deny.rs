//! What the product is built of, checked by cargo-deny against deny.toml: licences, sources, known holes.

use anyhow::{Context, Result, bail};

use crate::shell;

const VERSION: &str = "0.20.2";

pub fn deny() -> Result<()> {
    let installed = || {
        shell::find("cargo-deny")
            .or_else(|| Some(shell::cargo_bin()?.join("cargo-deny")).filter(|path| path.is_file()))
    };
    if installed().is_none() {
        eprintln!("installing cargo-deny {VERSION} (minutes, once)");
        shell::run(shell::cargo().args([
            "install",
            "--locked",
            "--quiet",
            "--version",
            VERSION,
            "cargo-deny",
        ]))?;
    }
    let tool = installed().context("cargo-deny was installed and is not to be found")?;
    let check = |what: &[&str]| {
        let mut check = std::process::Command::new(&tool);
        check.current_dir(shell::root()).args(["--locked", "check"]).args(what);
        shell::output(&mut check).map(|_| ())
    };
    check(&["licenses", "bans", "sources"])?;
    match check(&["advisories"]) {
        Ok(()) => println!("licences, sources and advisories: as deny.toml wants them"),
        // The list of advisories is a repository. Without it nothing is known of them, which a release does not do
        // without.
        Err(error)
            if std::env::var_os("CI").is_none()
                && format!("{error:#}").contains("failed to fetch advisory database") =>
        {
            println!(
                "licences and sources: as deny.toml wants them; NOT CHECKED: advisories, whose list cannot be fetched from here"
            );
        }
        Err(error) => bail!(error),
    }
    Ok(())
}
