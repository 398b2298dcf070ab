//! `rdlm acquire`, and a wait for a lock that a signal can end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use crossbeam_channel::{Receiver, never, select};
use rustix::fs::{OFlags, fcntl_getfl};
use signal_hook::consts::SIGTSTP;

use super::waiting::Waiting;
use super::{Ending, Error, show, signals, stdout};
use crate::client::raw::{Deadline, GIVE_UP, new_key, who};
use crate::client::{self, Client, Guard, LockOptions, Lost};

/// How a wait ended, unless with an error.
pub(super) enum Acquired {
    /// With the lock.
    Granted(Guard),
    /// With a signal. Locks held already are to be released by the deadline.
    Signalled(i32, Deadline),
    /// Because a lock held already was lost.
    Lost(Lost, Deadline),
}

/// Takes a lock and prints its URL alone, for scripts. If nothing can be printed, takes none.
pub(super) fn print(client: Client, resource: &str, options: LockOptions) -> Result<Ending, Error> {
    if is_closed(&stdout().map_err(Error::Output)?).map_err(Error::Output)? {
        let why =
            "it is closed, and nobody would know the URL of the lock; > /dev/null is for that";
        return Err(Error::Output(io::Error::other(why)));
    }
    let signals = signals::start()?;
    let title = options.title.or_else(|| Some(who(None)));
    let key = options.key.clone().unwrap_or_else(new_key);
    let options = LockOptions { title, key: Some(key.clone()), ..options };
    let acquired = acquire(&client, resource, &options, true, &signals, &never());
    match acquired.map_err(|error| with_key(error, &key))? {
        Acquired::Granted(guard) => {
            super::print(&format!("{}\n", guard.url()))?;
            let _ = guard.leave();
            Ok(Ending::Done)
        }
        Acquired::Signalled(signal, _) => Ok(Ending::Signalled(signal)),
        Acquired::Lost(lost, _) => Err(client::Error::from(lost).into()),
    }
}

/// The same error; if the lock may have been granted, with the key to find out.
fn with_key(error: Error, key: &str) -> Error {
    match error {
        Error::Client(client::Error::Unknown(why)) => client::Error::Unknown(format!(
            "{why}; the lock may have been granted: the same command with --idempotency-key {key} \
             finds it"
        ))
        .into(),
        error => error,
    }
}

/// Whether standard output was closed when this process was started. If so, Rust's runtime has opened
/// /dev/null in its place, for reading and writing; a shell opens it for writing only.
fn is_closed(stdout: &File) -> io::Result<bool> {
    let null = fs::metadata("/dev/null")?.rdev();
    let is_null = stdout.metadata().is_ok_and(|stdout| stdout.rdev() == null);
    Ok(is_null && fcntl_getfl(stdout)?.contains(OFlags::RDWR))
}

/// Waits until the lock is granted, the wait is over, a signal arrives, or a lock held already is
/// lost.
pub(super) fn acquire(
    client: &Client,
    resource: &str,
    options: &LockOptions,
    is_shown: bool,
    signals: &Receiver<i32>,
    lost: &Receiver<Lost>,
) -> Result<Acquired, Error> {
    let title = options.title.as_deref();
    let pending = client.request(resource, options)?;
    let failure = pending.last_failure();
    let waiting = if is_shown { Waiting::show(client, resource, title, failure) } else { None };
    let mut signals = signals.clone();
    loop {
        select! {
            recv(pending.answered()) -> _ => break,
            recv(signals) -> signal => match signal {
                Ok(SIGTSTP) => signals::stop_here(),
                Ok(signal) if signals::ends(signal) => {
                    let by = Deadline::after(GIVE_UP);
                    pending.withdraw(by);
                    return Ok(Acquired::Signalled(signal, by));
                }
                Ok(_) => {}
                Err(_) => signals = never(),
            },
            recv(lost) -> lost => if let Ok(lost) = lost {
                let by = Deadline::after(GIVE_UP);
                pending.withdraw(by);
                return Ok(Acquired::Lost(lost, by));
            },
        }
    }
    let answer = pending.wait();
    drop(waiting);
    match answer {
        Ok(guard) => Ok(Acquired::Granted(guard)),
        Err(client::Error::NotGranted(why)) => {
            Err(client::Error::NotGranted(show::refusal(client, resource, &why)).into())
        }
        Err(error) => Err(error.into()),
    }
}
