//! Makes system calls of a server fail or last, for real.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use super::Host;
use crate::harness::{Server, wait_until};

/// As long as this lives, the faults are injected.
pub(super) struct Strace {
    process: Child,
    log: PathBuf,
    /// The number of the journal's thread.
    journal: String,
}

impl Strace {
    /// Returns when all threads of the server are traced. The faults are in the words of
    /// strace's option `inject`.
    pub(super) fn attach(server: &Server, host: &Host, faults: &[&str]) -> Self {
        let pid = server.pid().to_string();
        let log = host.temp.path().join("strace");
        let calls = faults.iter().filter_map(|fault| fault.split(':').next());
        let process = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-e"])
            .arg(format!("trace={}", calls.collect::<Vec<_>>().join(",")))
            .args(faults.iter().flat_map(|fault| ["-e".into(), format!("inject={fault}")]))
            .arg("-o")
            .arg(&log)
            .args(["-p", &pid])
            .spawn()
            .unwrap();
        // The journal's thread may be attached after the first one.
        wait_until("all threads are traced", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.filter_map(Result::ok).all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            })
        });
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let is_journal =
            |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|c| c == "journal\n");
        let journal = tasks.find(is_journal).unwrap();
        let journal = journal.file_name().unwrap().to_str().unwrap().into();
        Self { process, log, journal }
    }

    /// Whether the first call with this name was made by the journal's thread.
    pub(super) fn is_by_journal(&self, call: &str) -> bool {
        let log = fs::read_to_string(&self.log).unwrap();
        let first = log.lines().find(|line| line.contains(call));
        first.unwrap().split_whitespace().next() == Some(&self.journal)
    }

    /// How many calls with this name have had their fault.
    pub(super) fn injected(&self, call: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        let injected = |line: &&str| line.contains(call) && line.contains("(INJECTED)");
        log.lines().filter(injected).count()
    }

    /// Waits for its end, which comes with the server's.
    pub(super) fn wait(&mut self) {
        self.process.wait().unwrap();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
