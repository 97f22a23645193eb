//! Parse, log, run, drain. Exit codes are in [`cli::Cli`].

#![deny(clippy::print_stderr, clippy::print_stdout)] // both panic where the reader is gone

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use observer::{
    app,
    cli::{Cli, Command, Document},
    commands::{
        analyse, incident, kubectl,
        notice::{notice, shown},
        output::Unwritten,
        report, top, why,
    },
    config::{Config, Flags, LogFormat, ProbeChoice, RootFlags, Roots},
    recording::{self, replay},
    sinks::log,
    sources::kernel::support::Support,
};
use tracing_subscriber::EnvFilter;

const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;
const CANNOT_RUN: u8 = 3;
const WRONG: u8 = 3;

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    if kubectl::is_called_so(&program.to_string_lossy()) {
        return ended(by_kubectl());
    }
    let done = match Cli::of_this_process().command {
        Command::Run(flags) => run(&flags),
        Command::Check { roots } => check(roots),
        Command::Replay { recording, serve: Some(address), speed, .. } => serve(&recording, address, speed),
        Command::Replay { recording, findings, story, .. } => replay(&recording, findings, story),
        Command::Report(options) => report(&options),
        Command::Incident(options) => {
            incident::run(&options).map_err(unwritten).and_then(|text| print(&text))
        }
        Command::Analyse { file, json, plot, limit, ended, series, interval } => {
            let reading = analyse::Reading { series, interval };
            analyse(&file, json, plot.as_deref(), &analyse::Options { limit, ended, reading })
        }
        Command::Advise(options) => observer::commands::advise::run(&options)
            .map_err(|error| (FAILED, error))
            .and_then(|text| print(&text)),
        Command::Simulate(options) => {
            observer::commands::simulate::run(&options).map_err(unanswered).and_then(|text| print(&text))
        }
        Command::Why(options) => why(&options),
        Command::Top(options) => top(&options),
        Command::Ledger(options) => ledger(options),
        Command::Lend(options) => lend(*options),
        Command::LedgerSecret { namespace, secret, mut names } => {
            if names.is_empty() {
                names = vec![format!("observer-ledger.{namespace}.svc")];
            }
            observer::ledger::certificate::manifest(&namespace, &secret, &names)
                .map_err(|error| (FAILED, format!("cannot make a certificate for {names:?}: {error}")))
                .and_then(|secret| print(&secret))
        }
        Command::Docs { name: Document::Metrics } => print(&observer::commands::docs::metrics_md()),
        Command::Docs { name: Document::Probes } => print(&observer::commands::docs::probes_md()),
        Command::Docs { name: Document::Advice } => document(observer::commands::docs::advice_md),
        Command::Docs { name: Document::Causes } => document(observer::commands::docs::causes_md),
    };
    ended(done)
}

fn ended(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            if !message.is_empty() {
                notice(format_args!("observer: {message}"));
            }
            ExitCode::from(code)
        }
    }
}

type Done = Result<(), (u8, String)>;

fn run(flags: &Flags) -> Done {
    let config = Config::load(flags).map_err(|problems| (BAD_INPUT, problems.to_string()))?;
    log_to_stderr(config.log_format, &config.log_level);
    let runtime = runtime()?;
    let done = runtime.block_on(app::run(config));
    runtime.shutdown_background(); // a write to a disk that hangs is not waited for
    done.map_err(|error| (FAILED, error.to_string()))
}

fn ledger(options: observer::ledger::Options) -> Done {
    log_to_stderr(LogFormat::Text, "info");
    runtime()?.block_on(observer::ledger::run(options)).map_err(|error| (FAILED, error.to_string()))
}

fn lend(options: observer::lend::Options) -> Done {
    log_to_stderr(LogFormat::Text, "info");
    runtime()?.block_on(observer::lend::run(options)).map_err(|error| (FAILED, error.to_string()))
}

fn runtime() -> Result<tokio::runtime::Runtime, (u8, String)> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|error| (FAILED, format!("cannot start the runtime: {error}")))
}

fn log_to_stderr(format: LogFormat, level: &str) {
    // What the client library says of each failed try, the daemon says once, with what it costs. Who names targets, or
    // wants more than usual, gets everything.
    let usual = ["info", "warn", "error"].contains(&level);
    let quiet = if usual { ",kube_client=off,kube_runtime=off" } else { "" };
    let filter = EnvFilter::try_new(format!("{level}{quiet}")).unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = io::IsTerminal::is_terminal(&io::stderr());
    // A line that cannot be written is dropped: reporting that on standard error would panic where its reader is gone.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(ansi)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn check(roots: RootFlags) -> Done {
    let roots = Roots {
        proc: roots.proc_root.unwrap_or("/proc".into()),
        sys: roots.sys_root.unwrap_or("/sys".into()),
        cgroup: roots.cgroup_root,
    };
    let report = observer::commands::check::report(&Support::gather(&roots), &ProbeChoice::default());
    print(&report.text)?;
    if report.can_run { Ok(()) } else { Err((CANNOT_RUN, String::new())) }
}

fn by_kubectl() -> Done {
    let runtime = runtime()?;
    match kubectl::Cli::parse().command {
        kubectl::Command::Why(options) => explained(runtime.block_on(kubectl::why::run(&options))),
        kubectl::Command::Advise(options) => {
            let printed = runtime.block_on(kubectl::advise::run(&options)).map_err(unanswered)?;
            print(&printed.text)?;
            match printed.failed.is_empty() {
                true => Ok(()),
                false => Err((FAILED, printed.failed.join("\n"))),
            }
        }
        kubectl::Command::Top(options) => {
            let done = runtime.block_on(kubectl::top::run(&options)).map_err(unanswered);
            runtime.shutdown_background(); // a question that hangs is not waited for
            done
        }
    }
}

fn why(options: &why::Options) -> Done {
    explained(why::run(options))
}

fn unanswered(error: why::NoAnswer) -> (u8, String) {
    match error {
        why::NoAnswer::Failed(message) => (FAILED, message),
        why::NoAnswer::BadInput(message) => (BAD_INPUT, message),
    }
}

fn explained(answer: Result<why::Printed, why::NoAnswer>) -> Done {
    let answer = answer.map_err(unanswered)?;
    print(&answer.text)?;
    if answer.wrong { Err((WRONG, String::new())) } else { Ok(()) }
}

fn top(options: &top::Options) -> Done {
    let recording = options.replay.as_deref().map(open).transpose()?;
    top::run(options, recording).map_err(|error| match error {
        top::Failed::Failed(message) => (FAILED, message),
        top::Failed::BadInput(message) => (BAD_INPUT, message),
    })
}

fn report(options: &report::Options) -> Done {
    match report::run(options) {
        Ok(None) => Ok(()),
        Ok(Some(html)) => print(&html),
        Err(error) => Err(unwritten(error)),
    }
}

fn unwritten(error: Unwritten) -> (u8, String) {
    match error {
        Unwritten::Failed(message) => (FAILED, message),
        Unwritten::BadInput(message) => (BAD_INPUT, message),
    }
}

fn replay(path: &Path, findings: bool, story: bool) -> Done {
    let bad = |error: &dyn std::fmt::Display| (BAD_INPUT, format!("{}: {error}", shown(path)));
    let recording = open(path)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut began = None;
    let mut written: io::Result<()> = Ok(());
    let replayed = replay::replay(recording, |finding| {
        let began = *began.get_or_insert(finding.at);
        let line = match (findings, story) {
            (true, _) => serde_json::to_string(finding).ok(),
            (false, true) => {
                log::line(finding).map(|line| format!("{:>9.3} s  {line}", finding.at.seconds_since(began)))
            }
            (false, false) => None,
        };
        // The first failure, such as a reader that had enough, ends the output.
        if let (Ok(()), Some(line)) = (&written, line) {
            written = writeln!(out, "{line}");
        }
    })
    .map_err(|error| bad(&error))?;
    if replayed.cut {
        notice(format_args!(
            "observer: {}: the last line is cut, the recorder was killed; {} events before it were replayed",
            shown(path),
            replayed.events
        ));
    }
    if !findings && !story {
        written = out.write_all(replayed.metrics.as_bytes());
    }
    written.and_then(|()| out.flush()).map_err(|error| (FAILED, cannot_write(&error)))
}

fn serve(path: &Path, address: std::net::SocketAddr, speed: Option<f64>) -> Done {
    log_to_stderr(LogFormat::Text, "info");
    let recording = open(path)?;
    runtime()?.block_on(recording::serve::serve(recording, path, address, speed)).map_err(|error| {
        let code =
            if matches!(error, recording::serve::CannotServe::Recording { .. }) { BAD_INPUT } else { FAILED };
        (code, error.to_string())
    })
}

fn analyse(path: &Path, json: bool, plot: Option<&Path>, options: &analyse::Options) -> Done {
    let analysed = analyse::analyse(open(path)?, options)
        .map_err(|error| (BAD_INPUT, format!("{}: {error}", shown(path))))?;
    if json {
        let text = serde_json::to_string(&analysed.report).map_err(|error| (FAILED, error.to_string()))?;
        print(&(text + "\n"))?;
    } else {
        print(&analysed.report.story())?;
    }
    let Some(plot) = plot else { return Ok(()) };
    let title = path.file_stem().unwrap_or_default().to_string_lossy();
    analyse::plot::svg(&analysed, &title)
        .and_then(|svg| std::fs::write(plot, svg).map_err(|error| error.to_string()))
        .map_err(|error| (FAILED, format!("cannot draw {}: {error}", shown(plot))))
}

/// A file, or standard input for `-`.
fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, (u8, String)> {
    if path.to_str() == Some("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) => Err((BAD_INPUT, format!("cannot open {}: {error}", shown(path)))),
    }
}

/// A document that is part written, part made: from standard input.
fn document(make: fn(&str) -> String) -> Done {
    let written = io::read_to_string(io::stdin());
    let written = written.map_err(|error| (FAILED, format!("cannot read standard input: {error}")))?;
    print(&make(&written))
}

fn print(text: &str) -> Done {
    io::stdout().write_all(text.as_bytes()).map_err(|error| (FAILED, cannot_write(&error)))
}

/// Nothing where the reader had enough: `observer ... | head`.
fn cannot_write(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::BrokenPipe => String::new(),
        _ => format!("cannot write to standard output: {error}"),
    }
}
