//! A terminal that is typed on and read: tmux, with a server of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::patience;

const SOON: Duration = Duration::from_secs(15);

/// Ends when dropped.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// With a shell on it, in an environment of this and nothing else that changes what is drawn.
    pub fn start(directory: &Path, size: (u16, u16), environment: &[(&str, &str)]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0); // the one before may still be on its way out
        let socket = directory.join(format!("tmux-{}", COUNT.fetch_add(1, Relaxed)));
        let terminal = Self { socket };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let mut clean = vec!["env", "-u", "NO_COLOR", "-u", "LC_ALL", "LANG=C.UTF-8", "PS1=$ "];
        let set: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        clean.extend(set.iter().map(String::as_str));
        let mut args = vec!["-u", "-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height];
        args.extend(clean);
        args.push("sh");
        terminal.tmux(&args)?;
        Ok(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut tmux = Command::new("tmux");
        let output = tmux.env_remove("TMUX").arg("-S").arg(&self.socket).args(args).output();
        let output = output.context("cannot start tmux")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {args:?}: {}", errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A line, and Enter.
    pub fn line(&self, text: &str) -> Result<()> {
        self.text(text)?;
        self.key("Enter")
    }

    pub fn text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(|_| ())
    }

    /// By its name: `Enter`, `Escape`, `Tab`.
    pub fn key(&self, name: &str) -> Result<()> {
        self.tmux(&["send-keys", name]).map(|_| ())
    }

    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height]).map(|_| ())
    }

    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// With the sequences that set colours.
    pub fn coloured(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// On the screen that programs draw on, rather than that of the shell; and whether the cursor is shown.
    pub fn state(&self) -> Result<(bool, bool)> {
        let state = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"])?;
        match state.trim() {
            "0 1" => Ok((false, true)),
            "1 0" => Ok((true, false)),
            "0 0" => Ok((false, false)),
            "1 1" => Ok((true, true)),
            other => bail!("tmux says {other:?}"),
        }
    }

    pub fn wait(&self, what: &str, shows: impl Fn(&str) -> bool) -> Result<String> {
        let (began, within) = (Instant::now(), SOON * patience());
        loop {
            let screen = self.screen()?;
            if shows(&screen) {
                return Ok(screen);
            }
            ensure!(began.elapsed() < within, "not {what} after {within:?}:\n{screen}");
            sleep(Duration::from_millis(50) * patience());
        }
    }

    pub fn shows(&self, part: &str) -> Result<String> {
        self.wait(part, |screen| screen.contains(part))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]); // what runs on it ends with it
    }
}
