//! What is done to the server, its disk, its clients and the network between them, as a seed
//! says.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::history::{Fault, FaultKind, Span, Time};
use crate::proxy::{Cut, Proxy};
use crate::server::Server;

/// Faults one after the other until the end of the run.
pub(crate) struct Nemesis<'r> {
    pub(crate) rng: Rng,
    pub(crate) kinds: &'r [FaultKind],
    pub(crate) server: &'r mut Server,
    pub(crate) proxy: &'r Proxy,
    /// Clients in processes of their own.
    pub(crate) victims: &'r [Child],
}

impl Nemesis<'_> {
    pub(crate) fn rage(mut self, end: Instant) -> Vec<Fault> {
        let mut faults = Vec::new();
        while !self.kinds.is_empty() {
            let quiet = self.millis(200..900);
            if Instant::now() + quiet + Duration::from_secs(1) > end {
                break;
            }
            thread::sleep(quiet);
            let kind = self.kinds[self.rng.usize(..self.kinds.len())];
            let from = Time::now();
            let goes_on = self.inflict(kind);
            faults.push(Fault { kind, span: Span { from, to: Time::now() } });
            if !goes_on {
                break;
            }
        }
        faults
    }

    /// Whether there is still a server after that.
    fn inflict(&mut self, kind: FaultKind) -> bool {
        match kind {
            FaultKind::Kill => return self.server.restart(Signal::KILL),
            FaultKind::Terminate => return self.server.restart(Signal::TERM),
            FaultKind::StopServer => {
                self.server.signal(Signal::STOP);
                thread::sleep(self.millis(100..1200));
                self.server.signal(Signal::CONT);
            }
            FaultKind::StopClient => self.stop_a_client(),
            FaultKind::CutConnections => {
                let rng = &mut self.rng;
                self.proxy.cut(|| match rng.u8(..4) {
                    0 => Some(Cut::AtOnce),
                    1 => Some(Cut::InTheNextMessage),
                    _ => None,
                });
            }
            FaultKind::DelayConnections => {
                self.proxy.delay(self.millis(20..300));
                thread::sleep(self.millis(300..1000));
                self.proxy.delay(Duration::ZERO);
            }
            FaultKind::Blackhole => {
                self.proxy.swallow(true);
                thread::sleep(self.millis(100..800));
                self.proxy.swallow(false);
                self.proxy.cut(|| Some(Cut::AtOnce));
            }
            FaultKind::DiskRefuses => {
                // Past the head, which is written without a transaction.
                self.server.limit_file_size(Some(4096));
                thread::sleep(self.millis(50..600));
                self.server.limit_file_size(None);
            }
            FaultKind::DiskFull => self.fill_the_disk(),
            other => unreachable!("{other:?} is for several servers"),
        }
        true
    }

    fn stop_a_client(&mut self) {
        if self.victims.is_empty() {
            return;
        }
        let victim = Pid::from_child(&self.victims[self.rng.usize(..self.victims.len())]);
        // It may have ended by itself.
        let _ = kill_process(victim, Signal::STOP);
        thread::sleep(self.millis(100..2000));
        let _ = kill_process(victim, Signal::CONT);
    }

    fn fill_the_disk(&mut self) {
        let Some(dir) = self.server.data_dir().and_then(Path::parent) else { return };
        let path = dir.join("ballast");
        let mut ballast = File::create(&path).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        thread::sleep(self.millis(100..1000));
        drop(ballast);
        fs::remove_file(path).unwrap();
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }
}

/// A directory of the run's own, on a small file system of its own if that is asked for and
/// allowed. It is removed in the end.
pub(crate) struct Scratch {
    dir: TempDir,
    is_mounted: bool,
}

impl Scratch {
    pub(crate) fn new(small: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
        let is_mounted = small
            && Command::new("mount")
                .args(mount)
                .arg(dir.path())
                .output()
                .is_ok_and(|output| output.status.success());
        Self { dir, is_mounted }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn is_small(&self) -> bool {
        self.is_mounted
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        }
    }
}
