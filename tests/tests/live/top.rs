//! `observer top` as it is used: on a terminal, by keys, beside a real daemon.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    daemon::{free_port, get, patience},
    shell,
    tmux::Terminal,
};
use rustix::process::{Pid, Signal, kill_process};

use super::kernel::{MIB, group, run, wait};
use crate::{
    Case,
    Needs::{Terminal as OnTerminal, TerminalAndProbes},
    Stage,
};

pub const CASES: &[Case] = &[
    Case { name: "top_obeys_keys_and_leaves_the_terminal_as_it_was", needs: OnTerminal, run: keys },
    Case { name: "top_gives_the_terminal_back_when_a_signal_ends_it", needs: OnTerminal, run: signals },
    Case { name: "top_ends_with_its_terminal", needs: OnTerminal, run: hangs_up },
    Case { name: "top_shows_that_its_observer_is_gone_and_finds_it_again", needs: OnTerminal, run: gone },
    Case { name: "top_says_the_same_without_colour", needs: OnTerminal, run: colour },
    Case { name: "top_without_a_terminal_says_what_else_there_is", needs: OnTerminal, run: no_terminal },
    Case {
        name: "top_shows_starts_and_oom_kills_as_the_kernel_has_them",
        needs: TerminalAndProbes,
        run: daemon,
    },
];

pub fn missing() -> Option<String> {
    shell::find("tmux").is_none().then(|| "no tmux on the PATH".to_owned())
}

const SIZE: (u16, u16) = (80, 24);
/// `clear` does nothing where TERM is dumb.
const CLEAR: &str = "printf '\\033[2J\\033[H'";

fn terminal(stage: &Stage, environment: &[(&str, &str)]) -> Result<Terminal> {
    Terminal::start(&stage.directory, SIZE, environment)
}

fn case(name: &str) -> String {
    shell::root().join(format!("tests/cases/{name}/events.jsonl")).display().to_string()
}

/// What the shell says after it: its exit code, and how the terminal is set.
fn returned(terminal: &Terminal, code: u8) -> Result<()> {
    let screen = terminal.shows(&format!("code={code}"))?;
    ensure!(screen.contains("as before"), "the screen of before is gone:\n{screen}");
    ensure!(terminal.state()? == (false, true), "alternate screen, cursor: {:?}", terminal.state()?);
    terminal.line(&format!("{CLEAR}; test \"$(stty -g)\" = \"$SET\" && echo same-settings"))?;
    terminal.wait("the settings of before", |screen| screen.starts_with("same-settings")).map(|_| ())
}

/// Types the command on a screen that holds something.
fn begin(terminal: &Terminal, stage: &Stage, args: &str) -> Result<()> {
    terminal.line(&format!("SET=$(stty -g); {CLEAR}; echo as before"))?;
    terminal.wait("a fresh screen", |screen| screen.starts_with("as before"))?;
    let pid = stage.directory.join("top-pid");
    let _ = fs::remove_file(&pid); // of the test before
    terminal.line(&format!(
        "sh -c 'echo $$ > {}; exec {} top {args}'; echo code=$?",
        pid.display(),
        stage.observer.display()
    ))
}

fn keys(stage: &Stage) -> Result<()> {
    let terminal = terminal(stage, &[])?;
    begin(&terminal, stage, &format!("--replay {} --speed 1000", case("kubernetes_scale_up_by_a_bot")))?;
    terminal.shows("  ended  ")?;
    let screen = terminal.shows("THE REST 4 by risk")?;
    ensure!(terminal.state()? == (true, false), "it draws on the shell's own screen:\n{screen}");
    terminal.key("?")?;
    terminal.shows("keys and words")?;
    terminal.key("Escape")?;
    terminal.key("s")?;
    terminal.shows("THE REST 4 by usage")?;
    terminal.text("/fzz2r no-such")?;
    terminal.shows("none fits")?;
    terminal.key("Escape")?;
    terminal.text("/fzz2r")?;
    terminal.key("Enter")?;
    terminal.shows("THE REST 1 of 4")?;
    terminal.key("Enter")?;
    terminal.shows("What happened")?;
    for (width, height) in [(40, 12), (120, 40), (20, 5), SIZE] {
        terminal.resize(width, height)?;
        let part = if width > 30 { "fzz2r" } else { "needs 30 x 8" };
        let screen = terminal.shows(part)?;
        ensure!(screen.lines().count() <= usize::from(height), "{screen}");
    }
    terminal.key("Escape")?;
    terminal.shows("THE REST 1 of 4")?;
    terminal.key("Escape")?;
    terminal.shows("THE REST 4")?;
    terminal.key("q")?;
    returned(&terminal, 0)
}

fn signals(stage: &Stage) -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let terminal = terminal(stage, &[])?;
        begin(&terminal, stage, &format!("--replay {}", case("leak")))?;
        terminal.shows("STARTING")?;
        kill_process(pid(stage)?, signal)?;
        returned(&terminal, 0)?;
    }
    Ok(())
}

fn pid(stage: &Stage) -> Result<Pid> {
    let pid = fs::read_to_string(stage.directory.join("top-pid"))?;
    pid.trim().parse().ok().and_then(Pid::from_raw).context("no pid")
}

/// As where a connection breaks: nothing is left that draws for no reader.
fn hangs_up(stage: &Stage) -> Result<()> {
    let terminal = terminal(stage, &[])?;
    begin(&terminal, stage, &format!("--replay {}", case("leak")))?;
    terminal.shows("STARTING")?;
    let stat = format!("/proc/{}/stat", pid(stage)?.as_raw_nonzero());
    // A process that has ended and was not waited for is gone too.
    let runs = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    ensure!(runs(), "it does not run");
    drop(terminal);
    let began = Instant::now();
    while runs() {
        ensure!(began.elapsed() < Duration::from_secs(10) * patience(), "it runs on without a terminal");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn serve(stage: &Stage, address: &str) -> Result<Child> {
    let child = Command::new(&stage.observer)
        .args(["replay", &case("leak"), "--serve", address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    while get(&format!("http://{address}/healthz")).is_err() {
        ensure!(began.elapsed() < Duration::from_secs(10) * patience(), "the recording is not served");
        sleep(Duration::from_millis(50));
    }
    Ok(child)
}

fn gone(stage: &Stage) -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let terminal = terminal(stage, &[])?;
    begin(&terminal, stage, &format!("--node http://{address}"))?;
    let screen = terminal.shows("code=1")?;
    ensure!(screen.contains("sudo observer run") && screen.contains("--replay"), "{screen}");

    let mut server = serve(stage, &address)?;
    begin(&terminal, stage, &format!("--node http://{address}"))?;
    terminal.shows("STARTING")?;
    server.kill()?;
    server.wait()?;
    let screen = terminal.shows("! DISCONNECTED for")?;
    ensure!(screen.contains("/observer-case"), "what was seen last is shown on:\n{screen}");
    let mut server = serve(stage, &address)?;
    terminal.wait("connected again", |screen| !screen.contains("DISCONNECTED"))?;
    server.kill()?;
    server.wait()?;
    terminal.shows("! DISCONNECTED for")?;
    terminal.key("q")?;
    returned(&terminal, 0)
}

fn colour(stage: &Stage) -> Result<()> {
    let drawn = |environment: &[(&str, &str)]| -> Result<(bool, String)> {
        let terminal = terminal(stage, environment)?;
        begin(&terminal, stage, &format!("--replay {} --speed 1000", case("killed_by_the_shared_limit")))?;
        terminal.shows("  ended  ")?;
        terminal.shows("STARTING 0 +2 over")?;
        let screen = terminal.shows("OOM KILLS 1 ")?;
        // Of the foreground: 30 to 37, 90 to 97, 38;...
        let coloured = terminal.coloured()?.split('\u{1b}').any(|sequence| {
            let codes = sequence.strip_prefix('[').and_then(|rest| rest.split_once('m'));
            codes.is_some_and(|(codes, _)| {
                let of = |code: &str| {
                    code.parse().is_ok_and(|code: u32| (30..=38).contains(&code) || (90..=97).contains(&code))
                };
                codes.split(';').any(of)
            })
        });
        terminal.key("q")?;
        returned(&terminal, 0)?;
        Ok((coloured, screen))
    };
    let (coloured, screen) = drawn(&[])?;
    ensure!(coloured, "nothing is coloured");
    for environment in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (coloured, plain) = drawn(&[environment])?;
        ensure!(!coloured, "{environment:?} has colours");
        ensure!(plain == screen, "{environment:?} says\n{plain}\nand otherwise it is\n{screen}");
    }
    Ok(())
}

fn no_terminal(stage: &Stage) -> Result<()> {
    let output = Command::new(&stage.observer).args(["top", "--replay", &case("leak")]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}: {errors}", output.status);
    ensure!(errors.contains("observer why") && errors.contains("/api/v1"), "{errors}");
    Ok(())
}

fn daemon(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "on-screen")?;
    group.limit(96 * MIB)?;
    let terminal = terminal(stage, &[])?;
    begin(&terminal, stage, &format!("--url {}", daemon.address))?;
    terminal.shows("STARTING")?;
    terminal.text("/on-screen")?;
    terminal.key("Enter")?;
    let mut calm = run(stage, &group, "spike --peak 24 --steady 24 --ramp 0 --seconds 60")?;
    let of_it = |part: &'static str| {
        move |screen: &str| screen.lines().any(|line| line.contains("on-screen") && line.contains(part))
    };
    terminal.wait("starting", of_it("starting"))?;
    // The limit comes with the first reading, within a second.
    terminal.wait("its limit", of_it("96Mi"))?;

    let greedy = run(stage, &group, "spike --peak 200 --steady 1 --ramp 0.3")?;
    let pid = greedy.id();
    wait(greedy)?;
    ensure!(group.oom_kills()? == 1, "the kernel counts {}", group.oom_kills()?);
    let victim = format!("workload [{pid}]");
    let screen = terminal.shows(&victim)?;
    let row = screen.lines().find(|line| line.contains(&victim)).unwrap_or_default();
    ensure!(row.contains("its own 96Mi"), "{row}");
    let kills = screen.lines().find(|line| line.starts_with("OOM KILLS")).unwrap_or_default();
    ensure!(kills.starts_with("OOM KILLS 1 "), "{kills}");

    calm.kill()?;
    calm.wait()?;
    terminal.key("Enter")?;
    terminal.shows("What happened")?;
    terminal.key("q")?;
    returned(&terminal, 0)
}
