//! `rdlm watch`: a live table of holders and waiting clients.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGCONT, SIGTSTP};

use super::show::{self, Look, Resource};
use super::table::{printable, start};
use super::{Ending, Error, events, print, signals};
use crate::client::raw::Failure;
use crate::client::{self, Client};

/// How often the table is drawn, as ages change.
const EVERY: Duration = Duration::from_secs(1);

/// The shortest pause between two requests if much happens, and the pause as a multiple of the last
/// response time.
const PACE: Duration = Duration::from_millis(200);
const PACE_BY_ANSWER: u32 = 10;

/// Shows locks until a signal ends it. The server is asked after each event, or each second if the
/// events cannot be followed.
pub(super) fn watch(client: &Client, resource: Option<&str>) -> Result<Ending, Error> {
    let signals = signals::start()?;
    let changes = changes(client, resource)?;
    let mut look = look(client, resource)?;
    let mut shown = Shown::begin()?;
    let mut live = false;
    let (mut due, mut not_before) = (None, Instant::now());
    loop {
        shown.update(&look)?;
        if !live || look.is_err() {
            due = due.or(Some(Instant::now() + EVERY));
        }
        let now = Instant::now();
        let pause = due.map_or(EVERY, |due| due.saturating_duration_since(now).min(EVERY));
        select! {
            recv(signals) -> signal => match signal {
                Ok(SIGCONT) => {}
                Ok(SIGTSTP) => signals::stop_here(),
                Ok(_) | Err(_) => return Ok(Ending::Done),
            },
            recv(changes) -> change => {
                live = change.unwrap_or(false);
                due = due.or(Some(not_before.max(now + PACE)));
            }
            default(pause) => {}
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            let began = Instant::now();
            look = self::look(client, resource)?;
            due = None;
            // A slow server is asked less often.
            not_before = Instant::now() + began.elapsed() * PACE_BY_ANSWER;
        }
    }
}

/// The table on standard output.
struct Shown {
    is_terminal: bool,
    /// What was printed last if that is no terminal; `Err`: that the server does not answer.
    last: Option<Result<Uids, ()>>,
}

/// What makes two tables differ, apart from times: of each resource the locks, and how many of them
/// are held.
type Uids = Vec<(Vec<String>, usize)>;

impl Shown {
    fn begin() -> Result<Self, Error> {
        let is_terminal = io::stdout().is_terminal();
        if is_terminal {
            print("\x1b[2J")?;
        }
        Ok(Self { is_terminal, last: None })
    }

    /// Draws the table on a terminal; elsewhere, prints it if it has changed.
    fn update(&mut self, look: &Result<Look, String>) -> Result<(), Error> {
        let (text, seen) = match look {
            Ok(look) => {
                let resources = look.resources();
                (show::table(&resources, show::width()), Ok(uids(resources)))
            }
            Err(why) => (format!("the server does not answer: {why}\n"), Err(())),
        };
        if self.is_terminal {
            print(&screen(&text))?;
        } else if self.last.as_ref() != Some(&seen) {
            print(&text)?;
            self.last = Some(seen);
        }
        Ok(())
    }
}

/// A snapshot, or why there is none now. `Err`: asking again does not help.
fn look(client: &Client, resource: Option<&str>) -> Result<Result<Look, String>, Error> {
    Ok(match show::look(client, resource) {
        Ok(look) => Ok(look),
        Err(failure @ (Failure::Refused { status: 400..=403, .. } | Failure::NotRdlm(_))) => {
            return Err(failure.into());
        }
        Err(failure) => Err(printable(&Error::from(failure).to_string())),
    })
}

/// A channel with a message for each change: whether events are being followed.
fn changes(client: &Client, resource: Option<&str>) -> Result<Receiver<bool>, Error> {
    let (sender, changes) = bounded(1);
    let (client, resource) = (client.clone(), resource.map(String::from));
    let follow = move || events::tell_of_changes(&client, resource.as_deref(), &sender);
    let refused = |error| client::Error::System(format!("there is no thread: {error}"));
    thread::Builder::new().name("events".into()).spawn(follow).map_err(refused)?;
    Ok(changes)
}

fn uids(resources: Vec<Resource>) -> Uids {
    resources.into_iter().map(|resource| (resource.uids, resource.held)).collect()
}

/// A text on the whole terminal, cut to its size. It overwrites the previous one, since clearing
/// would flicker.
fn screen(text: &str) -> String {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 1 && size.ws_col > 0);
    let (rows, columns) =
        size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    let mut screen = String::from("\x1b[H");
    for line in text.lines().take(rows - 1) {
        screen += start(line, columns);
        screen += "\x1b[K\n";
    }
    screen + "\x1b[J"
}
