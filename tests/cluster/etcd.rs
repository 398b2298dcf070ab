//! An etcd of one member or more, on free ports, which ends with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A cluster.
pub(crate) struct Etcd {
    members: Vec<Member>,
    _dir: TempDir,
}

struct Member {
    process: Child,
    command: Command,
    port: u16,
}

impl Etcd {
    /// `None` where it is not installed.
    pub(crate) fn start(count: usize) -> Option<Self> {
        Self::start_with(count, &[])
    }

    /// With more options for each member.
    pub(crate) fn start_with(count: usize, options: &[&str]) -> Option<Self> {
        let etcd = Self::start_scheme("http", count, options)?;
        let end = Instant::now() + Duration::from_secs(60);
        while etcd.ctl(&["endpoint", "health"]).is_none() {
            assert!(Instant::now() < end, "etcd does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Some(etcd)
    }

    /// One member that clients speak TLS with.
    pub(crate) fn start_with_tls(options: &[&str]) -> Option<Self> {
        Self::start_scheme("https", 1, options)
    }

    fn start_scheme(scheme: &str, count: usize, options: &[&str]) -> Option<Self> {
        Command::new("etcd").arg("--version").stdout(Stdio::null()).status().ok()?;
        let dir = TempDir::new().unwrap();
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
        let peers = ports.iter().enumerate();
        let peers = peers.map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"));
        let peers = peers.collect::<Vec<_>>().join(",");
        let members = ports.iter().enumerate().map(|(n, (port, peer))| {
            let client = format!("{scheme}://127.0.0.1:{port}");
            let peer = format!("http://127.0.0.1:{peer}");
            let mut command = Command::new("etcd");
            command
                .args(["--name", &format!("m{n}"), "--initial-cluster", &peers])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .args(["--logger", "zap", "--log-level", "fatal"])
                .arg("--data-dir")
                .arg(dir.path().join(n.to_string()))
                .args(options)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Member { process: command.spawn().unwrap(), command, port: *port }
        });
        Some(Self { members: members.collect(), _dir: dir })
    }

    pub(crate) fn kill(&mut self, member: usize) {
        let process = &mut self.members[member].process;
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.process = member.command.spawn().unwrap();
    }

    pub(crate) fn port(&self) -> u16 {
        self.members[0].port
    }

    /// As `--etcd` takes them.
    pub(crate) fn endpoints(&self) -> String {
        let urls = self.members.iter().map(|member| format!("http://127.0.0.1:{}", member.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// What etcdctl prints, if it succeeds.
    pub(crate) fn ctl(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoints()])
            .args(args)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    pub(crate) fn signal(&self, member: usize, signal: &str) {
        let pid = self.members[member].process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn signal_all(&self, signal: &str) {
        (0..self.members.len()).for_each(|member| self.signal(member, signal));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

/// etcd has to be told its port: one that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
