//! `rdlm run`: a command under one lock or several.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select};
use rustix::process::Signal;
use signal_hook::consts::{SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};

use super::acquire::{Acquired, acquire};
use super::api::Server;
use super::child::{Child, Event};
use super::leases::{Leases, Lost};
use super::waiting::Waiting;
use super::{Ask, Ending, Error, say, show, signals, terminal};

/// How long after SIGKILL the end of the command is waited for.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A command that is to run under locks.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// The resources, each once, in the order of their names: two commands that want the same
    /// ones cannot wait for each other.
    pub resources: Vec<String>,
    /// How each of them is asked for; the wait is for all of them together.
    pub ask: Ask,
    /// The program and its arguments; there is at least the program.
    pub command: Vec<OsString>,
    /// The time between SIGTERM and SIGKILL when the command has to end.
    pub kill_after: Duration,
    /// How long the command may run.
    pub timeout: Option<Duration>,
    /// The code if a lock was not granted, in place of the usual one.
    pub conflict_exit_code: Option<u8>,
    /// Nothing is said if a lock was not granted, nor while it is waited for.
    pub quiet: bool,
    /// The resources under whose locks this process runs already.
    pub held_by_ancestors: Vec<String>,
}

/// Takes the locks, runs the command, renews, releases.
pub(super) fn run(server: &Server, run: &Run) -> Result<Ending, Error> {
    run.refuse_to_wait_for_itself()?;
    let signals = signals::start()?;
    let mut leases = Leases::new(server, run.ask.lifetime);
    match take(server, run, &signals, &mut leases) {
        Ok(None) => {}
        // What was taken before is given back, whatever that says.
        Ok(Some(ending)) => {
            let _ = leases.release();
            return Ok(ending);
        }
        Err(error) => {
            let _ = leases.release();
            return match error {
                Error::NotGranted(why) => run.not_granted(why),
                error => Err(error),
            };
        }
    }
    let child = match Child::start(&run.command, &leases.environment()) {
        Ok(child) => child,
        Err(error) => {
            let _ = leases.release();
            return Err(Error::System(format!("cannot start a process: {error}")));
        }
    };
    let supervision = Supervision { child, run, leases, state: State::Running, is_to_pause: false };
    supervision.until_the_end(&signals)
}

/// Takes one lock after the other. Returns how it ended if a signal did it.
fn take(
    server: &Server,
    run: &Run,
    signals: &Receiver<i32>,
    leases: &mut Leases,
) -> Result<Option<Ending>, Error> {
    let until = Instant::now() + run.ask.wait;
    for resource in &run.resources {
        let wait = until.saturating_duration_since(Instant::now());
        let ask = Ask { resource: resource.clone(), wait, ..run.ask.clone() };
        let waiting =
            if run.quiet { None } else { Waiting::show(server, resource, ask.title.as_deref()) };
        let acquired = acquire(server, &ask, signals, leases);
        drop(waiting);
        match acquired {
            Ok(Acquired::Granted(lock, asked)) => leases.add(resource, lock, asked)?,
            Ok(Acquired::Signalled(signal)) => return Ok(Some(Ending::Signalled(signal))),
            Ok(Acquired::Lost(lost)) => return Err(lost.into()),
            Err(Error::NotGranted(why)) => {
                return Err(Error::NotGranted(show::refusal(server, resource, &why)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Run {
    /// A lock that an ancestor holds is not free before this process has ended.
    fn refuse_to_wait_for_itself(&self) -> Result<(), Error> {
        let Ask { wait, mode, limit, .. } = &self.ask;
        let excludes = limit.is_none_or(|limit| limit == 1)
            && mode.as_deref().is_none_or(|mode| matches!(mode, "EX" | "exclusive"));
        let held = self.resources.iter().find(|name| self.held_by_ancestors.contains(name));
        match held {
            Some(resource) if excludes && *wait >= Ask::FOR_EVER => Err(Error::Usage(format!(
                "this runs under the lock on {resource} already, as RDLM_RESOURCE says, and would \
                 wait for itself: name another resource, or give --wait"
            ))),
            _ => Ok(()),
        }
    }

    fn not_granted(&self, why: String) -> Result<Ending, Error> {
        match self.conflict_exit_code {
            None if self.quiet => Ok(Ending::NotGranted),
            None => Err(Error::NotGranted(why)),
            Some(code) => {
                if !self.quiet {
                    say(&why);
                }
                Ok(Ending::Exited(code))
            }
        }
    }
}

impl From<Lost> for Error {
    fn from(Lost { resource, why }: Lost) -> Self {
        Self::Gone(format!("the lock on {resource} was lost: {why}"))
    }
}

/// The command while it runs.
struct Supervision<'a> {
    child: Child,
    run: &'a Run,
    leases: Leases,
    state: State,
    /// It was sent SIGTSTP, so that when it stops, it is for that, whatever stopped it.
    is_to_pause: bool,
}

enum State {
    /// The locks are held.
    Running,
    /// The command is asked to end, and made to at `kill_at`.
    Ending { why: Why, kill_at: Instant, killed: bool },
}

/// Why the command has to end.
enum Why {
    /// A lock is lost.
    Lost(Lost),
    /// It has run for as long as it may.
    TimedOut,
}

impl Supervision<'_> {
    /// Waits for the end of the command, and releases the locks.
    fn until_the_end(mut self, signals: &Receiver<i32>) -> Result<Ending, Error> {
        let (mut news, mut signals) = (self.leases.news.clone(), signals.clone());
        let mut events = self.child.events.clone();
        let timeout = self.run.timeout.map(|timeout| Instant::now() + timeout);
        let mut timeout = timeout.map_or_else(never, at);
        let mut ending = None;
        while !self.is_over(ending) {
            select! {
                recv(events) -> event => match event {
                    Ok(Event::Ended(how)) => ending = Some(how),
                    Ok(Event::Stopped(signal)) => self.stopped(signal),
                    // Looked at above.
                    Ok(Event::OrphanEnded) => {}
                    Err(_) if ending.is_none() => {
                        return Err(Error::System("cannot see how the command ended".into()));
                    }
                    Err(_) => events = never(),
                },
                recv(signals) -> signal => match signal {
                    Ok(signal) => self.pass_on(signal),
                    Err(_) => signals = never(),
                },
                recv(news) -> renewal => match renewal.map(|renewal| self.leases.hear(renewal)) {
                    Ok(Ok(())) => {}
                    Ok(Err(lost)) => self.lose(lost),
                    Err(_) => news = never(),
                },
                recv(timeout) -> _ => {
                    timeout = never();
                    self.time_out();
                }
                recv(self.due()) -> _ => match self.state {
                    State::Ending { .. } => self.kill(),
                    State::Running => {
                        let lost = self.leases.first_lost();
                        lost.into_iter().for_each(|lost| self.lose(lost));
                    }
                },
            }
        }
        terminal::take_back_from(self.child.group());
        match self.state {
            State::Ending { why: Why::Lost(lost), .. } => {
                // Those that are not lost.
                let _ = self.leases.release();
                Err(lost.into())
            }
            State::Ending { why: Why::TimedOut, .. } => {
                self.leases.release()?;
                Ok(Ending::TimedOut)
            }
            State::Running => {
                self.leases.release()?;
                Ok(ending.unwrap_or(Ending::Done))
            }
        }
    }

    /// When something is to be done that nobody else tells of.
    fn due(&self) -> Receiver<Instant> {
        match self.state {
            State::Running => self.leases.until().map_or_else(never, at),
            State::Ending { kill_at, .. } => at(kill_at),
        }
    }

    /// Whether there is nothing more to wait for. While the locks are held, that is the end of
    /// the command; when it was to end, also that of its children.
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
            // It is on its way already.
            State::Ending { why, .. } => *why = Why::Lost(lost),
            State::Running => {
                let seconds = self.run.kill_after.as_secs_f64();
                say(&format!(
                    "the lock on {} is lost: ending the command, by SIGKILL after {seconds} s",
                    lost.resource
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
        // One that is stopped could not hear it.
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

    /// A signal for this process is one for the command and its children.
    fn pass_on(&mut self, signal: i32) {
        self.is_to_pause = signal == SIGTSTP;
        if signal == SIGCONT {
            // `fg` has given the terminal to this process only.
            terminal::give_to(self.child.group());
        }
        if let Some(signal) = Signal::from_named_raw(signal) {
            self.child.signal(signal);
        }
    }

    /// The command was stopped. If it wants the terminal, it gets it. If it is to pause as a job
    /// of the terminal, so is this process, so that the shell notices. Whoever else has stopped
    /// it is left alone, and the lock is renewed.
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
        // Some programs stop themselves by SIGSTOP when they are to pause.
        let by_terminal =
            signal != SIGSTOP || is_to_pause || terminal::is_held_by(self.child.group());
        if by_terminal && terminal::controls_jobs() {
            terminal::take_back_from(self.child.group());
            signals::stop_here();
        }
    }
}
