//! The line on a terminal that shows what is waited for.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::{show, table, terminal};
use crate::client::Client;

/// How long a wait lasts before it is shown.
const SOON: Duration = Duration::from_millis(500);

/// How often the line is updated.
const EVERY: Duration = Duration::from_secs(2);

/// Shows what is waited for on one line of standard error, until it is dropped.
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
    /// `None` if standard error is no terminal.
    pub(super) fn show(client: &Client, resource: &str, title: Option<&str>) -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let (stop, stopped) = bounded::<()>(0);
        let line = Arc::<Line>::default();
        let shown = {
            let (client, line) = (client.clone(), Arc::clone(&line));
            let (resource, title) = (resource.to_string(), title.map(String::from));
            move || {
                let mut pause = SOON;
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    line.draw(&show::wait(&client, &resource, title.as_deref()));
                    pause = EVERY;
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
    fn draw(&self, text: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return;
        }
        let columns = terminal::columns(io::stderr());
        let text = table::start(text, columns.saturating_sub(1));
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
        state.is_shown = true;
    }

    fn end(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        state.is_over = true;
    }
}
