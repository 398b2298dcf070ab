//! An etcd of one member or more, on free ports, which ends with the test.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::needed;

/// The user who may do everything, and the password.
const ROOT: &str = "root:secret";

/// A cluster.
pub(crate) struct Etcd {
    members: Vec<Member>,
    dir: TempDir,
}

struct Member {
    process: Child,
    command: Command,
    port: u16,
    data: PathBuf,
    /// Who it is, as `etcd` and `etcdctl snapshot restore` take it.
    identity: Vec<String>,
}

impl Member {
    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start(&mut self) {
        self.process = self.command.spawn().unwrap();
    }

    /// It may not have made its directory yet.
    fn remove_data(&self) {
        if self.data.exists() {
            fs::remove_dir_all(&self.data).unwrap();
        }
    }
}

impl Etcd {
    /// `None` where it is not installed.
    pub(crate) fn start(count: usize) -> Option<Self> {
        Self::start_with(count, &[])
    }

    /// With more options for each member.
    pub(crate) fn start_with(count: usize, options: &[&str]) -> Option<Self> {
        let etcd = Self::start_scheme("http", count, options)?;
        etcd.wait_until_healthy();
        Some(etcd)
    }

    /// All members.
    pub(crate) fn wait_until_healthy(&self) {
        self.insist(&["endpoint", "health"]);
    }

    /// Until it succeeds: etcd takes no new member before the others have been there for 5 s.
    fn insist(&self, args: &[&str]) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.ctl(args).is_none() {
            assert!(Instant::now() < end, "etcd does not: {args:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// One member that clients speak TLS with.
    pub(crate) fn start_with_tls(options: &[&str]) -> Option<Self> {
        Self::start_scheme("https", 1, options)
    }

    fn start_scheme(scheme: &str, count: usize, options: &[&str]) -> Option<Self> {
        if !needed::are_installed(&["etcd", "etcdctl"]) {
            return None;
        }
        let dir = TempDir::new().unwrap();
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
        let peers = ports.iter().enumerate();
        let peers = peers.map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"));
        let peers = peers.collect::<Vec<_>>().join(",");
        let members = ports.iter().enumerate().map(|(n, (port, peer))| {
            let client = format!("{scheme}://127.0.0.1:{port}");
            let peer = format!("http://127.0.0.1:{peer}");
            let data = dir.path().join(n.to_string());
            let name = format!("m{n}");
            let identity = [
                "--name",
                &name,
                "--initial-cluster",
                &peers,
                "--initial-advertise-peer-urls",
                &peer,
            ];
            let mut command = Command::new("etcd");
            command
                .args(identity)
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .args(["--logger", "zap", "--log-level", "fatal"])
                .arg("--data-dir")
                .arg(&data)
                .args(options)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let identity = identity.map(String::from).into();
            Member { process: command.spawn().unwrap(), command, port: *port, data, identity }
        });
        Some(Self { members: members.collect(), dir })
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member].stop();
    }

    pub(crate) fn start_again(&mut self, member: usize) {
        self.members[member].start();
    }

    /// The data of all members is removed. They are the same cluster afterwards, by its id.
    pub(crate) fn empty(&mut self) {
        self.replace_data(Member::remove_data);
    }

    /// The data of one member is removed, and it is started as if nothing had happened: it may join
    /// the others again, or end.
    pub(crate) fn empty_member(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.stop();
        member.remove_data();
        member.start();
    }

    /// Writes what there is to a file.
    pub(crate) fn save_snapshot(&self) -> PathBuf {
        let file = self.dir.path().join("snapshot");
        // Of one member only.
        let endpoint = format!("http://127.0.0.1:{}", self.port());
        let mut save = etcdctl(&endpoint);
        save.args(["snapshot", "save"]).arg(&file);
        assert!(save.output().unwrap().status.success());
        file
    }

    /// All members go back to the snapshot. They are the same cluster afterwards, by its id.
    pub(crate) fn restore_snapshot(&mut self, snapshot: &Path) {
        self.replace_data(|member| {
            member.remove_data();
            let mut restore = Command::new("etcdctl");
            restore.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
            restore.args(&member.identity).arg("--data-dir").arg(&member.data);
            assert!(restore.output().unwrap().status.success());
        });
    }

    fn replace_data(&mut self, replace: impl Fn(&Member)) {
        self.members.iter_mut().for_each(Member::stop);
        for member in &mut self.members {
            replace(member);
            member.start();
        }
        self.wait_until_healthy();
    }

    /// The member leaves the cluster, and a new one without data takes its place.
    pub(crate) fn replace_member(&mut self, member: usize) {
        let list = self.ctl(&["member", "list"]).unwrap();
        let name = format!("m{member}");
        let is_it = |line: &&str| line.split(", ").nth(2) == Some(&name);
        let id = list.lines().find(is_it).unwrap().split(", ").next().unwrap().to_string();
        self.kill(member);
        self.insist(&["member", "remove", &id]);
        let peer = self.members[member].identity.last().unwrap().clone();
        self.insist(&["member", "add", &name, &format!("--peer-urls={peer}")]);
        let member = &mut self.members[member];
        member.remove_data();
        member.command.args(["--initial-cluster-state", "existing"]);
        member.start();
        self.wait_until_healthy();
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
        let output = self.etcdctl().args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// On all members, as a user who may do everything.
    pub(crate) fn etcdctl(&self) -> Command {
        etcdctl(&self.endpoints())
    }

    /// Switches authentication on: a user `locks` with this password may use the locks.
    pub(crate) fn secure(&self, password: &str) {
        for command in [
            &["user", "add", ROOT][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", &format!("locks:{password}")],
            &["role", "add", "locks"],
            &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "/rdlm/"],
            &["user", "grant-role", "locks", "locks"],
            &["auth", "enable"],
        ] {
            self.ctl(command).unwrap_or_else(|| panic!("{command:?}"));
        }
    }

    /// Gives `locks` another password.
    pub(crate) fn set_password(&self, password: &str) {
        let mut passwd = self.etcdctl();
        passwd.args(["user", "passwd", "--interactive=false", "locks"]);
        let mut passwd = passwd.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(passwd.stdin.take().unwrap(), "{password}").unwrap();
        assert!(passwd.wait().unwrap().success());
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

/// With authentication switched off, the user does not matter.
fn etcdctl(endpoints: &str) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--user", ROOT, "--endpoints", endpoints]);
    command
}

/// etcd has to be told its port: one that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
