//! As many threads as the system gives: what is still done when there are no more.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::connections::crowd;
use crate::harness::{Client, Server, wait_until};
use crate::needed;

/// The users that the servers of these tests run as, one each since the limit is one of users. It
/// does not hold for root.
const USERS: [u32; 4] = [65_530, 65_531, 65_532, 65_533];

/// How many threads this user has now.
fn threads_in_use(user: u32) -> u64 {
    let of_process = |process: fs::DirEntry| {
        let is_of_user = process.metadata().is_ok_and(|it| it.uid() == user);
        let tasks = is_of_user.then(|| fs::read_dir(process.path().join("task")).ok()).flatten();
        tasks.map_or(0, |tasks| tasks.count() as u64)
    };
    fs::read_dir("/proc").unwrap().map(|process| of_process(process.unwrap())).sum()
}

/// A server of a user who may have so many threads more than now.
struct Limited {
    server: Server,
    user: u32,
    _program: TempDir,
}

impl Limited {
    fn start(user: u32, more: u64) -> Self {
        let own = fs::metadata("/proc/self").unwrap().uid();
        let user = if own == 0 { user } else { own };
        let program = TempDir::new().unwrap();
        let rdlm = program.path().join("rdlm");
        fs::copy(env!("CARGO_BIN_EXE_rdlm"), &rdlm).unwrap();
        needed::insist("prlimit");
        let limit = format!("--nproc={}", threads_in_use(user) + more);
        let mut command = Command::new("prlimit");
        command.arg(limit).arg(rdlm).arg("serve").uid(user);
        Self { server: Server::start_command(&mut command), user, _program: program }
    }

    /// Changes the limit, as far as it can be raised.
    fn limit(&self, threads: u64) {
        let limit = format!("--nproc={threads}:");
        let pid = self.server.pid().to_string();
        let mut prlimit = Command::new("prlimit");
        assert!(prlimit.args(["--pid", &pid, &limit]).uid(self.user).status().unwrap().success());
    }
}

/// Checks that locks are renewed and released, and that the server can be watched.
fn assert_serves(server: &Server, resource: &str) {
    for _ in 0..20 {
        let lock = server.hold(resource);
        assert_eq!(server.request("PATCH", &lock, r#"{"lifetime":600}"#).status, 200);
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(server.get("/metrics").status, 200);
        assert_eq!(server.delete(&lock).status, 204);
    }
}

/// Reads the answers of clients that cannot wait, or not any more, and returns what they say.
fn refusals(waiting: Vec<Client>) -> String {
    let refusal = |mut client: Client| {
        let answer = client.response();
        assert_eq!(answer.header("Retry-After"), Some("1"));
        answer.detail(503)
    };
    waiting.into_iter().map(refusal).collect()
}

#[test]
fn a_slow_body_keeps_a_thread_of_the_reserve_for_a_second() {
    let limited = Limited::start(USERS[3], 1_000);
    let server = &limited.server;
    limited.limit(1);
    // Until the threads of earlier connections have ended.
    wait_until("the reserve serves", || server.get("/").header("Connection") == Some("close"));
    let began = Instant::now();
    let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("POST /locks/foo HTTP/1.1\r\nHost: h\r\nContent-Length: 60\r\n\r\n{");
    }
    for mut client in slow {
        assert_eq!(client.response().status, 408);
    }
    // A thread that is not of the reserve gives 10 s.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_limit_of_threads_leaves_some_for_releases_and_for_the_end() {
    let limited = Limited::start(USERS[0], 200);
    let mut server = limited.server;
    server.hold("foo");
    let waiting = crowd(&server, "foo", 400);
    wait_until("as many wait as may", || server.locks("foo").len() > 50);
    assert_serves(&server, "bar");
    let threads = server.status_field("Threads:");
    assert!(threads < 200, "{threads}");
    server.signal("-TERM");
    refusals(waiting);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_server_that_gets_no_more_threads_serves_who_need_not_wait() {
    let limited = Limited::start(USERS[1], 1_000);
    let server = &limited.server;
    server.hold("foo");
    let mut waiting: Vec<_> = (0..20).map(|_| server.join_line("foo")).collect();
    limited.limit(1);
    // There may be threads that are left from earlier connections.
    waiting.extend(crowd(server, "foo", 60));
    assert_serves(server, "bar");
    assert!((21..60).contains(&server.locks("foo").len()));
    limited.limit(1_000);
    wait_until("threads are started", || {
        server.get("/").header("Connection") == Some("keep-alive")
    });
    limited.limit(1);
    let mut server = limited.server;
    server.signal("-TERM");
    let refusals = refusals(waiting);
    assert!(refusals.contains("too many requests") && refusals.contains("shutting down"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn streams_take_no_thread_that_is_kept_for_releases() {
    let limited = Limited::start(USERS[2], 1_000);
    let server = &limited.server;
    limited.limit(1);
    let mut streams: Vec<_> = (0..40).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(|client| client.send_request("GET", "/events", ""));
    assert_serves(server, "bar");
    let refused = streams.iter_mut().map(Client::head).filter(|head| head.status == 503);
    assert!(refused.inspect(|head| assert!(head.header("Retry-After").is_some())).count() > 8);
    limited.limit(1_000);
    wait_until("threads are started", || {
        server.get("/").header("Connection") == Some("keep-alive")
    });
    limited.server.signal("-TERM");
}
