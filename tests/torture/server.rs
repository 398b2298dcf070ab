//! The server under torture: killed and started again on one port, stopped, and with a disk that
//! refuses to write.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// How a server is run.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) restart_grace: Duration,
    /// More of the command line.
    pub(crate) options: Vec<String>,
    /// How far its monotonic clock is ahead of the host's, where that can be had.
    pub(crate) clock_ahead: Duration,
}

impl Setup {
    /// The binary, in a time namespace of its own if its clock is to be ahead.
    fn command(&self) -> Command {
        if self.clock_ahead.is_zero() || !has_time_namespaces() {
            return Command::new(&self.binary);
        }
        let mut command = in_time_namespace(self.clock_ahead);
        command.arg(&self.binary);
        command
    }
}

/// What starts a command with a clock that is so far ahead.
fn in_time_namespace(ahead: Duration) -> Command {
    let seconds = ahead.as_secs().to_string();
    let mut command = Command::new("unshare");
    command.args(["--time", "--monotonic", &seconds, "--boottime", &seconds]);
    command
}

/// They need a kernel that has them, and root.
pub(crate) fn has_time_namespaces() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let tried = in_time_namespace(Duration::from_secs(1)).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    });
    *HAS
}

pub(crate) struct Server {
    setup: Setup,
    process: Child,
    /// Of the process.
    pid: Arc<AtomicU32>,
    address: SocketAddr,
    /// What it logged as a warning or error, and its last words.
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start(setup: Setup) -> Self {
        let log = Arc::default();
        let (process, address) = spawn(&setup, 0, &log).expect("the server starts");
        let pid = Arc::new(AtomicU32::new(process.id()));
        Self { setup, process, pid, address, log }
    }

    /// Of the server that runs, also after a restart.
    pub(crate) fn pid(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.pid)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, and returns when another one listens on the same port; whether it does.
    pub(crate) fn restart(&mut self, signal: Signal) -> bool {
        self.signal(signal);
        self.process.wait().unwrap();
        // A client may have the port for a moment, as the near end of a connection.
        let restarted = (0..50).find_map(|_| {
            let restarted = spawn(&self.setup, self.address.port(), &self.log);
            if restarted.is_none() {
                thread::sleep(Duration::from_millis(20));
            }
            restarted
        });
        let is_running = restarted.is_some();
        if let Some((process, _)) = restarted {
            self.pid.store(process.id(), Ordering::Relaxed);
            self.process = process;
        }
        is_running
    }

    /// The same with an option that has another value from now on, or with `None` is left out.
    pub(crate) fn restart_with(&mut self, option: &str, value: Option<&str>) -> bool {
        self.set_option(option, value);
        self.restart(Signal::TERM)
    }

    /// From the next start on.
    pub(crate) fn set_option(&mut self, option: &str, value: Option<&str>) {
        let options = &mut self.setup.options;
        if let Some(place) = options.iter().position(|known| known == option) {
            options.drain(place..place + 2);
        }
        options.extend(value.into_iter().flat_map(|value| [option.into(), value.into()]));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// From now on no byte of its files beyond these can be written.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(Pid::from_child(&self.process)), Resource::Fsize, limit).unwrap();
    }

    pub(crate) fn data_dir(&self) -> Option<&Path> {
        self.setup.data_dir.as_deref()
    }

    /// Whether it runs; a server that ended by itself is a finding.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `None` if it ended before it listened.
fn spawn(setup: &Setup, port: u16, log: &Arc<Mutex<Vec<String>>>) -> Option<(Child, SocketAddr)> {
    let mut command = setup.command();
    let grace = setup.restart_grace.as_secs_f64().to_string();
    command.args(["serve", "--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--restart-grace", &grace]);
    command.args(&setup.options);
    if let Some(dir) = &setup.data_dir {
        command.arg("--data-dir").arg(dir);
    }
    let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let note = |line: &str| log.lock().unwrap_or_else(PoisonError::into_inner).push(line.into());
    let listening = lines.by_ref().inspect(|line| note(line)).find(|l| l.contains("listening on "));
    let Some(listening) = listening else {
        let _ = process.wait();
        return None;
    };
    let address = listening.split("listening on ").nth(1).unwrap().split(',').next().unwrap();
    let address = address.parse().unwrap();
    let log = Arc::clone(log);
    thread::spawn(move || {
        let is_kept = |line: &String| {
            !line.contains(" INFO ")
                || ["etcd_store::", "proxy::"].iter().any(|it| line.contains(it))
        };
        for line in lines.filter(is_kept) {
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    Some((process, address))
}
