//! `rdlm run`: a command under a lock.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select};
use rustix::process::Signal;
use signal_hook::consts::{SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};

use super::acquire::{Acquired, acquire};
use super::api::{Lock, Server};
use super::child::{Child, Event};
use super::renewal::{self, News, Renewals};
use super::transport::Failure;
use super::{Ask, Ending, Error, default_title, say, signals, terminal};

/// How long after SIGKILL the end of the command is waited for.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Takes the lock, runs the command, renews, releases.
pub(super) fn run(
    server: &Server,
    ask: &Ask,
    command: &[OsString],
    kill_after: Duration,
) -> Result<Ending, Error> {
    let signals = signals::start()?;
    let asked = Instant::now();
    let lock = match acquire(server, ask, &default_title(command.first()), &signals)? {
        Acquired::Granted(lock) => lock,
        Acquired::Signalled(signal) => return Ok(Ending::Signalled(signal)),
    };
    let started = confirm(server, ask, &lock, asked).and_then(|confirmed| {
        let environment = environment(server, ask, &lock);
        let child = Child::start(command, &environment)
            .map_err(|error| Error::System(format!("cannot start a process: {error}")))?;
        let renewals = renewal::start(server, &lock, ask.lifetime, confirmed);
        // Without renewals it must not go on.
        let renewals = renewals.inspect_err(|_| child.signal(Signal::KILL))?;
        Ok((child, renewals, confirmed))
    });
    let (child, renewals, confirmed) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = server.release(&lock.path);
            return Err(error);
        }
    };
    let until = confirmed + ask.lifetime;
    let supervision =
        Supervision { child, ask, kill_after, state: State::Held, until, is_to_pause: false };
    let ending = supervision.until_the_end(renewals, &signals)?;
    release(server, ask, &lock)?;
    Ok(ending)
}

/// The lock lives for its lifetime from its grant, which may have been any time since it was
/// asked for. If that is long ago, it is renewed before the command begins. Returns a moment
/// from which on it lives for its lifetime.
fn confirm(server: &Server, ask: &Ask, lock: &Lock, asked: Instant) -> Result<Instant, Error> {
    let now = Instant::now();
    if now.duration_since(asked) < ask.lifetime / 3 {
        return Ok(asked);
    }
    match server.renew(&lock.path, ask.lifetime) {
        Ok(()) => Ok(now),
        Err(Failure::NotThere) => Err(Error::Gone(format!(
            "the lock on {} was lost before the command began",
            ask.resource
        ))),
        Err(failure) => Err(failure.into()),
    }
}

fn environment(server: &Server, ask: &Ask, lock: &Lock) -> Vec<(&'static str, String)> {
    let token = lock.fencing_token.map(|token| token.to_string());
    vec![
        ("RDLM_RESOURCE", ask.resource.clone()),
        ("RDLM_LOCK_URL", server.url_of(&lock.path)),
        ("RDLM_FENCING_TOKEN", token.unwrap_or_default()),
    ]
}

/// The command has ended; what cannot be released expires by itself.
fn release(server: &Server, ask: &Ask, lock: &Lock) -> Result<(), Error> {
    match server.release(&lock.path) {
        Ok(()) => Ok(()),
        Err(Failure::NotThere) => Err(Error::Gone(format!(
            "the lock on {} was lost before the command ended",
            ask.resource
        ))),
        Err(failure) => {
            let seconds = ask.lifetime.as_secs_f64();
            let error = Error::from(failure);
            say(&format!("the lock is not released, it expires within {seconds} s: {error}"));
            Ok(())
        }
    }
}

/// The command while it runs.
struct Supervision<'a> {
    child: Child,
    ask: &'a Ask,
    kill_after: Duration,
    state: State,
    /// The lock is held until then, if no renewal gets through.
    until: Instant,
    /// It was sent SIGTSTP, so that when it stops, it is for that, whatever stopped it.
    is_to_pause: bool,
}

enum State {
    /// The lock is held.
    Held,
    /// It is lost: the command is asked to end, and made to at `kill_at`.
    Lost { why: String, kill_at: Instant, killed: bool },
}

impl Supervision<'_> {
    /// Waits for the end of the command.
    fn until_the_end(
        mut self,
        renewals: Renewals,
        signals: &Receiver<i32>,
    ) -> Result<Ending, Error> {
        let (mut news, mut signals) = (renewals.news.clone(), signals.clone());
        let mut events = self.child.events.clone();
        let mut why = "the server was not asked yet".to_string();
        let mut ending = None;
        loop {
            if let Some(end) = self.end(ending) {
                terminal::take_back_from(self.child.group());
                return end;
            }
            let due = match self.state {
                State::Held => self.until,
                State::Lost { kill_at, .. } => kill_at,
            };
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
                recv(news) -> renewal => match renewal {
                    Ok(News::Renewed(sent)) => self.until = sent + self.ask.lifetime,
                    Ok(News::Failed(failure)) => why = failure,
                    Ok(News::Gone) => self.lose("it was deleted, or has expired".into()),
                    Err(_) => news = never(),
                },
                recv(at(due)) -> _ => match self.state {
                    State::Held => {
                        let seconds = self.ask.lifetime.as_secs_f64();
                        self.lose(format!("no renewal got through for {seconds} s: {why}"));
                    }
                    State::Lost { .. } => self.kill(),
                },
            }
        }
    }

    /// Whether there is nothing more to wait for. While the lock is held, that is the end of
    /// the command; when it is lost, also that of its children.
    fn end(&self, ending: Option<Ending>) -> Option<Result<Ending, Error>> {
        match &self.state {
            State::Held => ending.map(Ok),
            State::Lost { why, killed, kill_at } => {
                let all_gone = ending.is_some() && self.child.group_is_gone();
                let given_up = *killed && *kill_at <= Instant::now();
                (all_gone || given_up).then(|| {
                    let resource = &self.ask.resource;
                    Err(Error::Gone(format!("the lock on {resource} was lost: {why}")))
                })
            }
        }
    }

    fn lose(&mut self, why: String) {
        if matches!(self.state, State::Lost { .. }) {
            return;
        }
        let seconds = self.kill_after.as_secs_f64();
        say(&format!(
            "the lock on {} is lost: ending the command, by SIGKILL after {seconds} s",
            self.ask.resource
        ));
        self.child.signal(Signal::TERM);
        // One that is stopped could not hear it.
        self.child.signal(Signal::CONT);
        let kill_at = Instant::now() + self.kill_after;
        self.state = State::Lost { why, kill_at, killed: false };
    }

    fn kill(&mut self) {
        self.child.signal(Signal::KILL);
        if let State::Lost { kill_at, killed, .. } = &mut self.state {
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
        if matches!(self.state, State::Lost { .. }) {
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
