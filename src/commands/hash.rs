//! `rdlm hash-password` and `rdlm hash-token`: hashes of secrets for the file of users.

use std::fmt::Write;
use std::io::{self, BufRead, IsTerminal, stdin};
use std::thread;

use ring::digest::{SHA256, digest};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::{Error, print};

/// The cost of bcrypt: some 50 ms a login.
const COST: u32 = 10;

/// bcrypt ignores what is behind, in bytes.
const MAX_PASSWORD: usize = 72;

/// The secret to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// A password, chosen by people: guessing has to be expensive.
    Password,
    /// A token, long and random: checking may be cheap.
    Token,
}

/// Reads a secret, without echo if from a terminal, and prints its hash.
///
/// # Errors
/// It is empty or too long, or cannot be read.
pub fn hash(secret: Secret) -> Result<(), Error> {
    let text = match secret {
        Secret::Password => read("Password")?,
        Secret::Token => read("Token")?,
    };
    let hash = match secret {
        Secret::Password if text.len() > MAX_PASSWORD => {
            return Err(unfit(&format!("a password is at most {MAX_PASSWORD} bytes long")));
        }
        _ if text.is_empty() => return Err(unfit("nothing was typed")),
        Secret::Password => bcrypt::hash(&text, COST).map_err(|error| unfit(&error.to_string()))?,
        Secret::Token => digest(&SHA256, text.as_bytes()).as_ref().iter().fold(
            String::from("sha256:"),
            |mut hex, byte| {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            },
        ),
    };
    print(&format!("{hash}\n"))
}

fn unfit(what: &str) -> Error {
    crate::client::Error::Usage(what.into()).into()
}

fn read(what: &str) -> Result<String, Error> {
    let unreadable = |error: io::Error| unfit(&format!("cannot read it: {error}"));
    if !stdin().is_terminal() {
        return line().map_err(unreadable);
    }
    let silence = Silence::begin().map_err(unreadable)?;
    let asked = ask(what).and_then(|first| Ok((first, ask("Once more")?)));
    drop(silence);
    match asked.map_err(unreadable)? {
        (first, second) if first == second => Ok(first),
        _ => Err(unfit("the two are not the same")),
    }
}

#[expect(clippy::print_stderr, reason = "that is where the terminal is")]
fn ask(what: &str) -> io::Result<String> {
    eprint!("{what}: ");
    let line = line();
    eprintln!();
    line
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).into())
}

/// Turns the echo of the terminal off, until it is dropped or a signal ends the process.
struct Silence {
    before: Termios,
    signals: signal_hook::iterator::Handle,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (handle, restored) = (signals.handle(), before.clone());
        thread::spawn(move || {
            for signal in signals.forever() {
                let _ = tcsetattr(stdin(), OptionalActions::Now, &restored);
                let _ = emulate_default_handler(signal);
            }
        });
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { before, signals: handle })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
        self.signals.close();
    }
}
