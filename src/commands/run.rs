//! `rdlm run`: a command under one lock or several.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select, unbounded};
use rustix::process::Signal;
use signal_hook::consts::{SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};

use super::acquire::{Acquired, acquire};
use super::child::{Child, Event};
use super::{Ending, Error, say, signals, terminal};
use crate::client::raw::{Deadline, GIVE_UP, LockPath, Wait, who};
use crate::client::{self, Client, Guard, LockOptions, Lost};

/// How long it may take to release all locks when the command has ended.
const RELEASE: Duration = Duration::from_secs(10);

/// How long to wait for the end of the command after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A command that is to run under locks.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// The resources, without duplicates and sorted, so that two commands cannot deadlock.
    pub resources: Vec<String>,
    /// What to ask for. The wait is for all locks together.
    pub options: LockOptions,
    /// The program and its arguments; there is at least the program.
    pub command: Vec<OsString>,
    /// The time between SIGTERM and SIGKILL when the command is ended.
    pub kill_after: Duration,
    /// How long the command may run.
    pub timeout: Option<Duration>,
    /// The exit code if a lock is not granted, in place of 75.
    pub conflict_exit_code: Option<u8>,
    /// Whether to print nothing while waiting, nor if a lock is not granted.
    pub quiet: bool,
    /// The URLs of the locks that this process runs under.
    pub held_by_ancestors: Vec<String>,
}

/// Takes the locks, runs the command, releases them.
pub(super) fn run(client: Client, run: Run) -> Result<Ending, Error> {
    run.refuse_to_wait_for_itself(&client)?;
    let signals = signals::start()?;
    let (sender, lost) = unbounded();
    let client = client.tell_of_loss(sender);
    let guards = match take(&client, &run, &signals, &lost) {
        Ok(Taken::All(guards)) => guards,
        Ok(Taken::Signalled(signal)) => return Ok(Ending::Signalled(signal)),
        Err(Error::Client(client::Error::NotGranted(why))) => return run.not_granted(why),
        Err(error) => return Err(error),
    };
    if let Some(lost) = guards.iter().find_map(Guard::lost) {
        let _ = release(guards, Deadline::after(GIVE_UP));
        return Err(client::Error::from(lost).into());
    }
    let child = Child::start(&run.command, &environment(&guards))
        .map_err(|error| client::Error::System(format!("cannot start a process: {error}")))?;
    let state = State::Running;
    let supervision = Supervision { child, run, guards, state, is_to_pause: false };
    supervision.until_the_end(&signals, &lost)
}

enum Taken {
    All(Vec<Guard>),
    Signalled(i32),
}

/// Takes one lock after the other. If one is not granted, releases those taken before.
fn take(
    client: &Client,
    run: &Run,
    signals: &Receiver<i32>,
    lost: &Receiver<Lost>,
) -> Result<Taken, Error> {
    let wait = Wait::of(run.options.wait);
    let title = run.options.title.clone().unwrap_or_else(|| {
        let program = run.command.first().map(|program| program.to_string_lossy());
        who(program.as_deref())
    });
    let mut guards = Vec::new();
    for resource in &run.resources {
        let (title, wait) = (Some(title.clone()), wait.left());
        let options = LockOptions { title, wait, ..run.options.clone() };
        let (by, result) = match acquire(client, resource, &options, !run.quiet, signals, lost) {
            Ok(Acquired::Granted(guard)) => {
                guards.push(guard);
                continue;
            }
            Ok(Acquired::Signalled(signal, by)) => (by, Ok(Taken::Signalled(signal))),
            Ok(Acquired::Lost(lost, by)) => (by, Err(client::Error::from(lost).into())),
            Err(error) => (Deadline::after(GIVE_UP), Err(error)),
        };
        let _ = release(guards, by);
        return result;
    }
    Ok(Taken::All(guards))
}

/// Environment variables for the command.
fn environment(guards: &[Guard]) -> Vec<(&'static str, String)> {
    let words =
        |word: &dyn Fn(&Guard) -> String| guards.iter().map(word).collect::<Vec<_>>().join(" ");
    let token = |guard: &Guard| guard.fencing_token().map(|token| token.to_string());
    vec![
        ("RDLM_RESOURCE", words(&|guard| guard.resource().into())),
        ("RDLM_LOCK_URL", words(&Guard::url)),
        ("RDLM_FENCING_TOKEN", words(&|guard| token(guard).unwrap_or_default())),
    ]
}

/// Releases all of them, the latest first. A lock whose release fails expires.
fn release(mut guards: Vec<Guard>, by: Deadline) -> Result<(), Error> {
    let mut result = Ok(());
    while let Some(guard) = guards.pop() {
        let lifetime = guard.lifetime();
        match guard.release_by(by) {
            Ok(()) => {}
            Err(error @ client::Error::Gone(_)) => result = Err(error.into()),
            Err(error) => {
                let seconds = lifetime.as_secs_f64();
                say(&format!("the lock is not released, it expires within {seconds} s: {error}"));
            }
        }
    }
    result
}

impl Run {
    /// A lock that an ancestor holds is not released before this process ends.
    fn refuse_to_wait_for_itself(&self, client: &Client) -> Result<(), Error> {
        let LockOptions { wait, mode, limit, .. } = &self.options;
        let excludes = limit.is_none_or(|limit| limit == 1)
            && mode.as_deref().is_none_or(|mode| matches!(mode, "EX" | "exclusive"));
        let held = self.held_by_ancestors.iter().filter_map(|url| LockPath::parse(url).ok());
        let held = held.filter(|lock| client.is_for(lock)).map(|lock| lock.resource());
        match held.into_iter().find(|name| self.resources.contains(name)) {
            Some(resource) if excludes && wait.is_none() => {
                Err(Error::Client(client::Error::Usage(format!(
                    "this runs under the lock on {resource} already, as RDLM_LOCK_URL says, and would \
                 wait for itself: name another resource, or give --wait"
                ))))
            }
            _ => Ok(()),
        }
    }

    fn not_granted(&self, why: String) -> Result<Ending, Error> {
        match self.conflict_exit_code {
            None if self.quiet => Ok(Ending::NotGranted),
            None => Err(client::Error::NotGranted(why).into()),
            Some(code) => {
                if !self.quiet {
                    say(&why);
                }
                Ok(Ending::Exited(code))
            }
        }
    }
}

/// The command while it runs.
struct Supervision {
    child: Child,
    run: Run,
    guards: Vec<Guard>,
    state: State,
    /// SIGTSTP was passed on, so if the command stops next, this is why, whatever signal stopped it.
    is_to_pause: bool,
}

enum State {
    /// The locks are held.
    Running,
    /// The command was sent SIGTERM, and is sent SIGKILL at `kill_at`.
    Ending { why: Why, kill_at: Instant, killed: bool },
}

/// Why the command has to end.
enum Why {
    /// A lock is lost.
    Lost(Lost),
    /// Its time is over.
    TimedOut,
}

impl Supervision {
    /// Waits for the end of the command, and releases the locks.
    fn until_the_end(
        mut self,
        signals: &Receiver<i32>,
        lost: &Receiver<Lost>,
    ) -> Result<Ending, Error> {
        let mut signals = signals.clone();
        let mut events = self.child.events.clone();
        let timeout = self.run.timeout.map(|timeout| Instant::now() + timeout);
        let mut timeout = timeout.map_or_else(never, at);
        let mut ending = None;
        while !self.is_over(ending) {
            select! {
                recv(events) -> event => match event {
                    Ok(Event::Ended(how)) => ending = Some(how),
                    Ok(Event::Stopped(signal)) => self.stopped(signal),
                    // The loop's condition looks at the group.
                    Ok(Event::OrphanEnded) => {}
                    Err(_) if ending.is_none() => {
                        let text = "cannot see how the command ended";
                        return Err(client::Error::System(text.into()).into());
                    }
                    Err(_) => events = never(),
                },
                recv(signals) -> signal => match signal {
                    Ok(signal) => self.pass_on(signal),
                    Err(_) => signals = never(),
                },
                recv(lost) -> lost => lost.into_iter().for_each(|lost| self.lose(lost)),
                recv(timeout) -> _ => {
                    timeout = never();
                    self.time_out();
                }
                recv(self.kill_at()) -> _ => self.kill(),
            }
        }
        self.release_all(ending.unwrap_or(Ending::Done))
    }

    /// Releases the locks after the end of the command.
    fn release_all(self, ending: Ending) -> Result<Ending, Error> {
        terminal::take_back_from(self.child.group());
        match self.state {
            State::Ending { why: Why::Lost(lost), .. } => {
                // The other locks.
                let _ = release(self.guards, Deadline::after(GIVE_UP));
                Err(client::Error::from(lost).into())
            }
            State::Ending { why: Why::TimedOut, .. } => {
                release(self.guards, Deadline::after(RELEASE))?;
                Ok(Ending::TimedOut)
            }
            State::Running => {
                release(self.guards, Deadline::after(RELEASE))?;
                Ok(ending)
            }
        }
    }

    fn kill_at(&self) -> Receiver<Instant> {
        match self.state {
            State::Running => never(),
            State::Ending { kill_at, .. } => at(kill_at),
        }
    }

    /// Whether there is nothing left to wait for: the end of the command, and, if it was ended, that
    /// of its children.
    fn is_over(&self, ending: Option<Ending>) -> bool {
        match self.state {
            State::Running => ending.is_some(),
            State::Ending { killed, kill_at, .. } => {
                (ending.is_some() && self.child.group_is_gone())
                    || (killed && kill_at <= Instant::now())
            }
        }
    }

    fn lose(&mut self, lost: Lost) {
        match &mut self.state {
            State::Ending { why: Why::Lost(_), .. } => {}
            // It is being ended already.
            State::Ending { why, .. } => *why = Why::Lost(lost),
            State::Running => {
                let seconds = self.run.kill_after.as_secs_f64();
                say(&format!(
                    "the lock on {} is lost: {}; ending the command, by SIGKILL after {seconds} s",
                    lost.resource, lost.why
                ));
                self.end(Why::Lost(lost));
            }
        }
    }

    fn time_out(&mut self) {
        if matches!(self.state, State::Running) {
            let seconds = self.run.timeout.unwrap_or_default().as_secs_f64();
            say(&format!("the command has run for {seconds} s: ending it"));
            self.end(Why::TimedOut);
        }
    }

    fn end(&mut self, why: Why) {
        self.child.signal(Signal::TERM);
        // A stopped process receives no SIGTERM.
        self.child.signal(Signal::CONT);
        let kill_at = Instant::now() + self.run.kill_after;
        self.state = State::Ending { why, kill_at, killed: false };
    }

    fn kill(&mut self) {
        self.child.signal(Signal::KILL);
        if let State::Ending { kill_at, killed, .. } = &mut self.state {
            *killed = true;
            *kill_at = Instant::now() + AFTER_KILL;
        }
    }

    /// Passes a signal to this process on to the command and its children.
    fn pass_on(&mut self, signal: i32) {
        self.is_to_pause = signal == SIGTSTP;
        if signal == SIGCONT {
            // While this process was stopped, nothing was renewed.
            if let Some(lost) = self.guards.iter().find_map(Guard::lost) {
                return self.lose(lost);
            }
            // `fg` has given the terminal to this process only.
            terminal::give_to(self.child.group());
        }
        if let Some(signal) = Signal::from_named_raw(signal) {
            self.child.signal(signal);
        }
    }

    /// Handles a stop of the command. If it wants the terminal, it gets it. If it was stopped by job
    /// control, this process stops, too, so that the shell notices. If anything else has stopped it,
    /// it stays stopped, and the lock is renewed.
    fn stopped(&mut self, signal: i32) {
        if matches!(self.state, State::Ending { .. }) {
            self.child.signal(Signal::CONT);
            return;
        }
        let is_to_pause = std::mem::take(&mut self.is_to_pause);
        let wants_terminal = matches!(signal, SIGTTIN | SIGTTOU) && !is_to_pause;
        if wants_terminal && terminal::give_to(self.child.group()) {
            self.child.signal(Signal::CONT);
            return;
        }
        // Some programs handle SIGTSTP and then stop themselves by SIGSTOP.
        let by_terminal =
            signal != SIGSTOP || is_to_pause || terminal::is_held_by(self.child.group());
        if by_terminal && terminal::controls_jobs() {
            terminal::take_back_from(self.child.group());
            signals::stop_here();
        }
    }
}
