//! Parses the command line, runs the command, turns its result into an exit code.

#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use rdlm::cli::{self, Command};
use rdlm::{logging, server};

const USAGE: u8 = 2;
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    match cli::parse(env::args_os()) {
        Ok(Command::Serve { options, log_level }) => serve(options, log_level),
        Ok(Command::Help(text)) => print(text),
        Ok(Command::Version) => print(concat!("rdlm ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => complain(&error.to_string(), USAGE),
    }
}

fn serve(options: server::Options, log_level: log::LevelFilter) -> ExitCode {
    if let Err(error) = logging::start(log_level) {
        return complain(&error.to_string(), FAILURE);
    }
    match server::serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(server::Error::Interrupted(signal)) => {
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILURE))
        }
        Err(error) => complain(&error.to_string(), FAILURE),
    }
}

/// A reader that has gone (`rdlm --help | head -1`) is no failure.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(message: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "rdlm: {message}");
    ExitCode::from(code)
}
