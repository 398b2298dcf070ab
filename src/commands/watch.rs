//! `rdlm watch`: a live table of who holds and who waits.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGCONT, SIGTSTP};

use super::show::{self, Resource};
use super::table::printable;
use super::{Ending, Error, print, signals};
use crate::client::{Client, Failure};

/// How often the table is drawn.
const EVERY: Duration = Duration::from_secs(1);

/// Shows locks until a signal ends it.
pub(super) fn watch(client: &Client, resource: Option<&str>) -> Result<Ending, Error> {
    let signals = signals::start()?;
    let is_terminal = io::stdout().is_terminal();
    let mut last = None;
    if is_terminal {
        print("\x1b[2J")?;
    }
    loop {
        let (text, seen) = match show::listed(client, resource) {
            Ok(resources) => (show::table(&resources, show::width()), Ok(uids(resources))),
            // Asking again does not help.
            Err(failure @ (Failure::Refused { status: 400..=403, .. } | Failure::NotRdlm(_))) => {
                return Err(failure.into());
            }
            Err(failure) => {
                let why = printable(&Error::from(failure).to_string());
                (format!("the server does not answer: {why}\n"), Err(()))
            }
        };
        if is_terminal {
            print(&screen(&text))?;
        } else if last.as_ref() != Some(&seen) {
            print(&text)?;
            last = Some(seen);
        }
        match signals.recv_timeout(EVERY) {
            Err(RecvTimeoutError::Timeout) | Ok(SIGCONT) => {}
            Ok(SIGTSTP) => signals::stop_here(),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Done),
        }
    }
}

/// What makes one table differ from another, whatever the time.
fn uids(resources: Vec<Resource>) -> Vec<(Vec<String>, usize)> {
    resources.into_iter().map(|resource| (resource.uids, resource.held)).collect()
}

/// A text from the first line of the terminal on, cut to its size. What was there before is
/// overwritten rather than cleared, which would flicker.
fn screen(text: &str) -> String {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 1 && size.ws_col > 0);
    let (rows, columns) =
        size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    let mut screen = String::from("\x1b[H");
    for line in text.lines().take(rows - 1) {
        screen.extend(line.chars().take(columns));
        screen += "\x1b[K\n";
    }
    screen + "\x1b[J"
}
