//! A control group of cgroups(7), version 1 or 2, that lets a server have no more threads, as the
//! engines of containers make them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::server::Server;

/// Where such groups are made: of version 1 first, because a kernel has `pids` in one of them.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

pub(crate) struct ControlGroup(PathBuf);

impl ControlGroup {
    /// `None` where this process may make none.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("torture-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ROOTS.iter().find_map(|root| {
            let group = Self(Path::new(root).join(&name));
            fs::create_dir(&group.0).ok()?;
            group.0.join("pids.max").exists().then_some(group)
        })
    }

    /// The server gets no more than this many threads beside those that it has.
    pub(crate) fn hold(&self, server: &Server, more: u64) {
        let pid = server.pid().load(Ordering::Relaxed).to_string();
        fs::write(self.0.join("cgroup.procs"), pid).unwrap();
        let current = fs::read_to_string(self.0.join("pids.current")).unwrap();
        let current: u64 = current.trim().parse().unwrap();
        self.limit(&(current + more).to_string());
    }

    pub(crate) fn let_go(&self) {
        self.limit("max");
    }

    fn limit(&self, max: &str) {
        fs::write(self.0.join("pids.max"), max).unwrap();
    }
}

impl Drop for ControlGroup {
    /// Its server has to have ended.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
