//! The server under load, and what it takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

/// What the process takes at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
    pub(crate) memory_kib: u64,
}

impl Server {
    pub(crate) fn start() -> Self {
        // Another build of it, such as the one that is to be published.
        let other = std::env::var_os("RDLM_SERVER");
        let mut command = Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_rdlm").into()));
        command.args(["serve", "--port", "0", "--bind", "127.0.0.1"]);
        let mut process = command.stderr(Stdio::piped()).spawn().expect("the server starts");
        let mut log = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let listens = |line: &String| line.contains("listening on ");
        let first = log.by_ref().map_while(Result::ok).find(listens).expect("it listens");
        let address = first.split("listening on ").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.and_then(|text| text.parse().ok()).expect("the line has the address");
        // Or it would block when the pipe is full. Errors are shown.
        thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                if line.contains("ERROR") || line.contains("WARN") {
                    println!("log: {line}");
                }
            }
        });
        Self { process, address }
    }

    pub(crate) fn usage(&self) -> Usage {
        let proc = format!("/proc/{}", self.process.id());
        let status = fs::read_to_string(format!("{proc}/status")).expect("the server runs");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("the field");
            line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).expect("a number")
        };
        let descriptors = fs::read_dir(format!("{proc}/fd")).expect("the server runs").count();
        Usage {
            threads: field("Threads:"),
            descriptors: descriptors as u64,
            memory_kib: field("VmRSS:"),
        }
    }

    /// Ends the server; the time that it took, if it ended as it should.
    pub(crate) fn stop(mut self) -> Option<Duration> {
        let began = Instant::now();
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("the server runs");
        let status = self.process.wait().expect("it ends");
        status.success().then(|| began.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
