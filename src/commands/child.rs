//! The command of a `run`. Its process is in a group of its own, so that signals reach its children,
//! and the kernel kills it when this process dies.
//!
//! Another process leads the group, and does nothing else: a group leader cannot create a session
//! (setsid(2)), and programs that try would behave differently.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getpid, getppid, kill_process_group,
    set_child_subreaper, set_parent_process_death_signal, test_kill_process_group, wait,
};

use super::Ending;

/// The hidden command that makes this program the command of a `run`.
pub const BECOME: &str = "__become";

/// The hidden command that leads the process group of a `run`.
pub const LEAD: &str = "__lead";

/// Leads a process group until standard input, a pipe from the parent, is closed.
pub fn lead_group() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

/// The command to become.
#[derive(Debug, PartialEq)]
pub struct Become {
    /// The process ID of the parent, without which it is not to run.
    pub parent: i32,
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Becomes another program that is killed when `parent` dies. Returns only if that fails.
///
/// This is a process of its own because code between fork and exec would be unsafe.
pub fn become_command(command: &Become) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // If the parent is another one, it died before the call above.
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|pid| pid.get() != command.parent) {
        return io::Error::other("rdlm has ended");
    }
    Command::new(&command.program).args(&command.args).exec()
}

/// A change of state of the command.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// It has ended.
    Ended(Ending),
    /// A signal has stopped it.
    Stopped(i32),
    /// One of its descendants, left behind, has ended.
    OrphanEnded,
}

/// The command, running.
pub(super) struct Child {
    pid: Pid,
    group: Pid,
    /// Closing it ends the leader.
    _leader: ChildStdin,
    pub(super) events: Receiver<Event>,
}

impl Child {
    /// Starts it. Call this on a thread that lives as long as the process: to the kernel, the end of
    /// that thread is the death of the parent.
    pub(super) fn start(command: &[OsString], environment: &[(&str, String)]) -> io::Result<Self> {
        // Orphans of the command become children of this process, so it notices the end of the whole
        // group. If this fails, SIGKILL ends them a little later.
        let _ = set_child_subreaper(Some(getpid()));
        let mut leader = Command::new("/proc/self/exe")
            .arg(LEAD)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let no_pipe = || io::Error::other("a process without a pipe");
        let (group, stdin) = (leader.id(), leader.stdin.take().ok_or_else(no_pipe)?);
        let group = i32::try_from(group).map_err(io::Error::other)?;
        let process = Command::new("/proc/self/exe")
            .arg(BECOME)
            .arg(getpid().as_raw_nonzero().to_string())
            .arg("--")
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .process_group(group)
            .spawn()?;
        let no_number = || io::Error::other("a process without a number");
        let group = Pid::from_raw(group).ok_or_else(no_number)?;
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).ok_or_else(no_number)?;
        let (sender, events) = unbounded();
        thread::Builder::new().name("children".into()).spawn(move || watch(pid, &sender))?;
        Ok(Self { pid, group, _leader: stdin, events })
    }

    /// Sends a signal to it and its children.
    pub(super) fn signal(&self, signal: Signal) {
        // Fails if they have ended.
        let _ = kill_process_group(self.group, signal);
        if let Some(group) = self.new_group() {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Whether it and its children have ended.
    pub(super) fn group_is_gone(&self) -> bool {
        test_kill_process_group(self.group).is_err()
    }

    /// Its process group.
    pub(super) fn group(&self) -> Pid {
        self.group
    }

    /// The process group that the command has created, if it did.
    fn new_group(&self) -> Option<Pid> {
        getpgid(Some(self.pid)).ok().filter(|group| *group == self.pid)
    }
}

/// The body of the thread that waits for children until there are none.
fn watch(child: Pid, events: &Sender<Event>) {
    loop {
        let event = match wait(WaitOptions::UNTRACED) {
            Ok(Some((pid, status))) => match event(pid == child, status) {
                Some(event) => event,
                None => continue,
            },
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

fn event(is_command: bool, status: WaitStatus) -> Option<Event> {
    if let Some(signal) = status.stopping_signal() {
        return is_command.then_some(Event::Stopped(signal));
    }
    if !is_command {
        return Some(Event::OrphanEnded);
    }
    Some(Event::Ended(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(signal)) => Ending::Signalled(signal),
        (None, None) => return None,
    }))
}
