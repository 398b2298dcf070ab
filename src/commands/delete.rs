//! `rdlm delete`: the locks of a resource, or all of them, which is asked about first.

use std::io::{self, IsTerminal, Write};

use super::{Ending, Error, print, say, show};
use crate::client::raw::Failure;
use crate::client::{self, Client};

/// What to delete.
#[derive(Debug, PartialEq)]
pub struct Delete {
    /// The name of the resource; `None`: the locks of all.
    pub resource: Option<String>,
    /// Why, for those who lose their locks.
    pub reason: Option<String>,
    /// Whether to delete all without asking.
    pub yes: bool,
}

pub(super) fn delete(client: &Client, delete: &Delete) -> Result<Ending, Error> {
    let Delete { resource, reason, yes } = delete;
    let reason = reason.as_deref();
    let Some(name) = resource else { return all(client, reason, *yes) };
    match client.delete(Some(name), reason) {
        Ok(()) => Ok(Ending::Done),
        Err(Failure::NotThere(_)) => {
            Err(client::Error::Gone(format!("{name} has no locks")).into())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Prints what it deletes: the locks that there are just before.
fn all(client: &Client, reason: Option<&str>, yes: bool) -> Result<Ending, Error> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !yes && !can_ask {
        let why = "this deletes the locks of all resources, and there is no terminal to ask on: \
                   give --yes";
        return Err(client::Error::Usage(why.into()).into());
    }
    let resources = show::listed(client, None)?;
    let (held, locks) = resources.iter().fold((0, 0), |(held, locks), resource| {
        (held + resource.held, locks + resource.uids.len())
    });
    let (waiting, server) = (locks - held, client.server());
    let question = format!("delete {held} locks and {waiting} waiting requests at {server}?");
    if !yes && !confirmed(&question) {
        say("nothing was deleted");
        return Ok(Ending::Exited(1));
    }
    client.delete(None, reason)?;
    print(&show::table(&resources, show::width()))?;
    Ok(Ending::Done)
}

/// Asks on the terminal. Anything but yes is no.
fn confirmed(question: &str) -> bool {
    let mut answer = String::new();
    let _ = write!(io::stderr(), "rdlm: {question} [y/N] ");
    let is_read = io::stdin().read_line(&mut answer).is_ok();
    is_read && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}
