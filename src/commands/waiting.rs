//! What is shown while a lock is waited for: a line on a terminal, now and then one in a log.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{say, show, table, terminal};
use crate::client::Client;
use crate::client::raw::LastFailure;

/// How long a wait lasts before it is shown on a terminal, and how often the line is updated.
const ON_TERMINAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// The same elsewhere, such as in the mail of cron.
const IN_LOG: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// In characters. Each may take four bytes, and a pipe that is writable has room for 4096.
const LONGEST: usize = 500;

/// Shows on standard error what is waited for, until it is dropped.
pub(super) struct Waiting {
    line: Arc<Line>,
    /// Dropping it ends the thread.
    _stop: Sender<()>,
}

#[derive(Default)]
struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    is_shown: bool,
    is_over: bool,
}

impl Waiting {
    /// `None` if there is no thread for it.
    pub(super) fn show(
        client: &Client,
        resource: &str,
        title: Option<&str>,
        failure: LastFailure,
    ) -> Option<Self> {
        let is_terminal = io::stderr().is_terminal();
        let (stop, stopped) = bounded::<()>(0);
        let line = Arc::<Line>::default();
        let shown = {
            let (client, line) = (client.clone(), Arc::clone(&line));
            let (resource, title) = (resource.to_string(), title.map(String::from));
            move || {
                let (mut pause, every) = if is_terminal { ON_TERMINAL } else { IN_LOG };
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    let server = client.server().to_string();
                    let at = if is_terminal { None } else { Some(&*server) };
                    let mut text = show::wait(&client, &resource, at, title.as_deref());
                    if let Some(failure) = failure.recent() {
                        text += &format!("; last error: {failure}");
                    }
                    if is_terminal {
                        line.draw(&text)
                    } else {
                        line.print(&text)
                    }
                    pause = every;
                }
            }
        };
        thread::Builder::new().name("waiting".into()).spawn(shown).ok()?;
        Some(Self { line, _stop: stop })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.line.end();
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, text: &str) {
        // Held while it is printed, so that nothing follows the end of the wait.
        let state = self.state();
        if !state.is_over && is_writable(&io::stderr()) {
            say(table::start(text, LONGEST));
        }
    }

    fn draw(&self, text: &str) {
        let mut state = self.state();
        if state.is_over {
            return;
        }
        let columns = terminal::columns(io::stderr());
        let text = table::printable(text);
        let text = table::start(&text, columns.saturating_sub(1));
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
        state.is_shown = true;
    }

    fn end(&self) {
        let mut state = self.state();
        if state.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        state.is_over = true;
    }
}

/// Whether a short line can be written at once: a lock that is granted meanwhile does not wait for
/// the reader of a full pipe.
fn is_writable(stderr: &impl AsFd) -> bool {
    let mut ready = [PollFd::new(stderr, PollFlags::OUT)];
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
