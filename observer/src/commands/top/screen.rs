//! The terminal: taken, drawn on, and given back whatever ends the program.

use std::{
    io::{self, Stdout, stdout},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, event,
        event::{Event, KeyEventKind},
        execute, terminal,
    },
};

use super::{
    draw::draw,
    feed::Feed,
    nodes::Nodes,
    plain::Able,
    view::{Done, Open, View},
};

/// Drawn at least this often: what was heard meanwhile, and for how long nothing was.
const FRAME: Duration = Duration::from_millis(250);

/// After a signal the loop has this long to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// Gives the terminal back when it goes.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        // A panic may abort: nothing is dropped then, and its message would be lost on the other screen.
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        terminal::enable_raw_mode()?;
        TAKEN.store(true, Relaxed);
        let taken = execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match taken {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Once, whoever comes first: leaving the other screen again would put the cursor back onto what was printed since.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Each on its own: one that fails leaves the others to be done.
fn give_back() {
    if !TAKEN.swap(false, Relaxed) {
        return;
    }
    let _ = execute!(stdout(), cursor::Show);
    let _ = execute!(stdout(), terminal::LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}

/// Until a key or a signal ends it: what was shown last.
pub fn run(mut feed: Feed, mut nodes: Option<Nodes>, filter: String, able: Able) -> io::Result<Feed> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        stopped.store(true, Relaxed);
        // Of a terminal that is gone (SIGHUP), crossterm reads keys without an end (0.29, unix/mio.rs).
        std::thread::sleep(GRACE);
        give_back();
        std::process::exit(0);
    })
    .map_err(io::Error::other)?;
    let mut view = View::new(feed.tempo.clone());
    view.filter = filter;
    let mut screen = Screen::take()?;
    let mut asked: Option<Open> = None;
    while !stop.load(Relaxed) {
        if let Some(nodes) = &mut nodes {
            if let Some(next) = nodes.arrived() {
                feed = next;
                view.elsewhere();
                asked = None;
            }
            view.node = Some(nodes.shown());
        }
        {
            let seen = feed.seen();
            let silent = seen.heard.elapsed();
            screen.terminal.draw(|frame| {
                draw(&seen, &mut view, silent, frame.area(), frame.buffer_mut());
                able.apply(frame.buffer_mut());
            })?;
        }
        if asked != view.open && feed.open(view.open.as_ref().map(|open| open.id.clone())) {
            asked.clone_from(&view.open);
        }
        // All that was typed before it is drawn again: a paste, or a key held down over a slow line.
        let mut wait = FRAME;
        while poll(wait)? && !stop.load(Relaxed) {
            wait = Duration::ZERO;
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let done = view.key(key, &feed.seen());
            match done {
                Done::Nothing => {}
                Done::Quit => return Ok(feed),
                Done::Node { back } => {
                    if let Some(nodes) = &mut nodes {
                        nodes.step(back);
                    }
                }
                Done::Redraw => screen.terminal.clear()?,
                Done::Suspend => {
                    drop(screen);
                    let own = rustix::process::getpid();
                    let _ = rustix::process::kill_process(own, rustix::process::Signal::STOP);
                    screen = Screen::take()?;
                    screen.terminal.clear()?;
                }
            }
        }
    }
    Ok(feed)
}

/// A signal is no error: the loop looks at what it asked for.
fn poll(wait: Duration) -> io::Result<bool> {
    match event::poll(wait) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        polled => polled,
    }
}
