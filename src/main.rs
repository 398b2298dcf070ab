//! Parses the command line, runs the command, turns its result into an exit code.

#![expect(clippy::disallowed_types, reason = "this is where errors become exit codes")]

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use signal_hook::consts::SIGKILL;
use signal_hook::low_level::emulate_default_handler;

use rdlm::cli::{self, Command};
use rdlm::commands::{self, Become, Ending};
use rdlm::{logging, server};
use rdlm_client as client;

const USAGE: u8 = 2;
const FAILURE: u8 = 1;

/// A usage error of a client command, as in sysexits.h.
const CLIENT_USAGE: u8 = 64;

/// The lock was not granted, as EX_TEMPFAIL in sysexits.h.
const NOT_GRANTED: u8 = 75;

fn main() -> ExitCode {
    match cli::parse(env::args_os()) {
        Ok(Command::Serve { options, log }) => serve(options, log),
        Ok(Command::Check { options, settings }) => match server::check(&options) {
            Ok(()) => print(&settings),
            Err(error) => complain(&error.to_string(), USAGE),
        },
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Client { command, target, typed }) => {
            match commands::execute(command, &target, &typed) {
                Ok(ending) => code_of_ending(ending),
                Err(error) => complain(&error.to_string(), code_of_error(&error)),
            }
        }
        Ok(Command::Hash(secret)) => match commands::hash(secret) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string(), code_of_error(&error)),
        },
        Ok(Command::Become(command)) => become_command(&command),
        Ok(Command::LeadGroup) => {
            commands::lead_group();
            ExitCode::SUCCESS
        }
        Err(error) if error.of_client => complain(&error.to_string(), CLIENT_USAGE),
        Err(error) => complain(&error.to_string(), USAGE),
    }
}

/// The codes that docs/client.md lists; most are those of sysexits.h.
fn code_of_error(error: &commands::Error) -> u8 {
    use client::Error;
    match error {
        commands::Error::Output(_) => FAILURE,
        commands::Error::Client(error) => match error {
            Error::Usage(_) | Error::TooLong(..) => CLIENT_USAGE,
            Error::NoServer(_) | Error::Unknown(_) => 69,
            Error::System(_) => 71,
            Error::Gone(_) => 74,
            Error::NotGranted(_) => NOT_GRANTED,
            Error::NotRdlm(_) => 76,
            Error::NotPermitted(_) => 77,
        },
    }
}

fn code_of_ending(ending: Ending) -> ExitCode {
    match ending {
        Ending::Done => ExitCode::SUCCESS,
        Ending::Exited(code) => ExitCode::from(code),
        Ending::Signalled(signal) => die_of(signal),
        // As timeout(1) does.
        Ending::TimedOut => ExitCode::from(124),
        Ending::NotGranted => ExitCode::from(NOT_GRANTED),
    }
}

/// Dies of the signal that ended the command, or the wait for the lock: a shell script stops on
/// Ctrl-C only if it sees that the signal killed its child. Returns only if the signal is one that
/// does not end a process.
fn die_of(signal: i32) -> ExitCode {
    // If there is a core to dump, the command has dumped it.
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, no_core);
    if signal == SIGKILL {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    let _ = emulate_default_handler(signal);
    code_of_signal(signal)
}

fn code_of_signal(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILURE))
}

/// Returns only if the command could not be run; with the exit codes of a shell.
fn become_command(command: &Become) -> ExitCode {
    let error = commands::become_command(command);
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    complain(&format!("cannot run {:?}: {error}", command.program.to_string_lossy()), code)
}

fn serve(options: server::Options, log: logging::Options) -> ExitCode {
    if let Err(error) = logging::start(log) {
        return complain(&error.to_string(), FAILURE);
    }
    let ended = server::serve(options);
    log::logger().flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(server::Error::Interrupted(signal)) => code_of_signal(signal),
        Err(error) => complain_at_once(&error.to_string(), FAILURE),
    }
}

/// Writes to standard error without waiting for its reader, and without Rust's lock on it, which
/// the log's thread may hold while it waits for that reader.
fn complain_at_once(message: &str, code: u8) -> ExitCode {
    let stderr = io::stderr();
    let a_moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut ready, Some(&a_moment)).is_ok_and(|ready| ready > 0) {
        let _ = rustix::io::write(&stderr, format!("rdlm: {message}\n").as_bytes());
    }
    ExitCode::from(code)
}

/// A reader that closed its pipe (`rdlm --help | head -1`) is no failure. A full disk is: the
/// output may be redirected to a file, such as the completions.
fn print(text: &str) -> ExitCode {
    match commands::print(text) {
        Err(commands::Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error.to_string(), FAILURE),
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn complain(message: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "rdlm: {message}");
    ExitCode::from(code)
}
