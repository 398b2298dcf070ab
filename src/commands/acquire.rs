//! `rdlm acquire`, and the wait for a lock that a signal ends.

use crossbeam_channel::{Receiver, never, select};
use signal_hook::consts::SIGTSTP;

use super::waiting::Waiting;
use super::{Ending, Error, show, signals};
use crate::client::{self, Client, Guard, LockOptions, Lost, who};

/// How a wait ended, unless with an error.
pub(super) enum Acquired {
    /// With the lock.
    Granted(Guard),
    /// With a signal.
    Signalled(i32),
    /// Because a lock that is held already was lost.
    Lost(Lost),
}

/// Prints the URL of the lock alone, for scripts. Whoever cannot be told of it does not get it.
pub(super) fn print(client: Client, resource: &str, options: LockOptions) -> Result<Ending, Error> {
    let signals = signals::start()?;
    let title = options.title.or_else(|| Some(who(None)));
    let options = LockOptions { title, ..options };
    match acquire(&client, resource, &options, true, &signals, &never())? {
        Acquired::Granted(guard) => {
            super::print(&format!("{}\n", guard.url()))?;
            let _ = guard.leave();
            Ok(Ending::Done)
        }
        Acquired::Signalled(signal) => Ok(Ending::Signalled(signal)),
        Acquired::Lost(lost) => Err(client::Error::from(lost).into()),
    }
}

/// Waits until the lock is granted, the wait is over, a signal comes, or one of the locks that are
/// held meanwhile is lost.
pub(super) fn acquire(
    client: &Client,
    resource: &str,
    options: &LockOptions,
    is_shown: bool,
    signals: &Receiver<i32>,
    lost: &Receiver<Lost>,
) -> Result<Acquired, Error> {
    let title = options.title.as_deref();
    let waiting = if is_shown { Waiting::show(client, resource, title) } else { None };
    let pending = client.request(resource, options)?;
    let mut signals = signals.clone();
    loop {
        select! {
            recv(pending.answered()) -> _ => break,
            recv(signals) -> signal => match signal {
                Ok(SIGTSTP) => signals::stop_here(),
                Ok(signal) if signals::ends(signal) => return Ok(Acquired::Signalled(signal)),
                Ok(_) => {}
                Err(_) => signals = never(),
            },
            recv(lost) -> lost => if let Ok(lost) = lost {
                return Ok(Acquired::Lost(lost));
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
