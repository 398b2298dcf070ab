//! The client commands, as real processes against a real server.

mod actions;
mod fakes;
mod library;
mod limited;
mod lost;
mod pages;
mod proxies;
mod run;
mod scripts;
mod servers;
mod signals;
mod terminal;
mod unreachable;
mod waits;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use crate::harness::{PATIENCE, Server, wait_until};

/// A client command that talks to a server on this port.
fn rdlm(port: u16, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.args(args).env("RDLM_URL", format!("http://127.0.0.1:{port}"));
    command.env_remove("RDLM_USER").env_remove("RDLM_PASSWORD").env("USER", "alice");
    command.stdin(Stdio::null());
    command
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs it to its end.
fn output(port: u16, args: &[&str]) -> Output {
    rdlm(port, args).output().unwrap()
}

/// Checks the code, and that standard error is one clear line, which is returned.
#[track_caller]
fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(text.starts_with("rdlm: ") && text.ends_with('\n'), "{text:?}");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text
}

/// Checks that it did what it should, and returns what it printed.
#[track_caller]
fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*errors), (Some(0), ""), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A command that is under way; killed with the test.
struct Running {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// The next line that it prints; empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn signal(&self, signal: &str) {
        kill(signal, &self.process.id().to_string());
    }

    /// The code at its end, and what is on standard error.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        let stderr = self.process.stderr.take().unwrap();
        let code = self.wait();
        // A process that was left behind may still have the other end: one line has to do.
        if code != Some(0) {
            BufReader::new(stderr).read_line(&mut errors).unwrap();
        }
        (code, errors)
    }

    /// The code at its end, as a shell tells it: 128 and the signal, if one ended it.
    #[track_caller]
    fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        wait_until("the command ends", || {
            assert!(Instant::now() < end);
            self.process.try_wait().unwrap().is_some()
        });
        shell_code(self.process.wait().unwrap())
    }
}

fn shell_code(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kill(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}

/// Whether there is such a process, and it has not ended.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// A `run` of a shell script.
fn run_script(server: &Server, options: &[&str], script: &str) -> Running {
    let args = [&["run"], options, &["foo", "--", "sh", "-c", script]].concat();
    Running::start(&mut rdlm(server.port(), &args))
}
