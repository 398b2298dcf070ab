//! The process: its command line, its log, its end.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Server, lock_body, wait_until};
use crate::needed;

pub(crate) fn rdlm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rdlm")).args(args).output().unwrap()
}

/// Checks that there is one clear line on standard error, and returns it.
#[track_caller]
pub(crate) fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(text.starts_with("rdlm: ") && text.ends_with('\n'), "{text:?}");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text
}

#[test]
fn help_and_version_are_printed() {
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let output = rdlm(args);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        for command in ["serve", "run", "acquire", "renew", "release", "get", "resources"]
            .iter()
            .chain(&["locks", "delete", "watch"])
        {
            assert!(text.contains(&format!("\n  {command} ")), "{command} is missing in\n{text}");
        }
    }
    let dir = TempDir::new().unwrap();
    let daemon = dir.path().join("rdlm-daemon");
    symlink(env!("CARGO_BIN_EXE_rdlm"), &daemon).unwrap();
    for mut command in [Command::new(env!("CARGO_BIN_EXE_rdlm")), Command::new(daemon)] {
        let is_daemon = command.get_program().to_str().unwrap().ends_with("daemon");
        let args = if is_daemon { &["--help"][..] } else { &["serve", "--help"] };
        let output = command.args(args).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        for option in [
            "--port",
            "--bind",
            "--logging",
            "--admin-userpass-file",
            "--base-url",
            "--max-wait",
            "--max-lifetime",
            "--max-waiters",
            "--max-connections",
            "--data-dir",
            "--restart-grace",
        ] {
            assert!(text.contains(option), "{option} is missing in\n{text}");
        }
        let too_long = text.lines().find(|line| line.len() > 80);
        assert_eq!(too_long, None);
    }
    let version = String::from_utf8(rdlm(&["--version"]).stdout).unwrap();
    assert!(version.starts_with(concat!("rdlm ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
}

#[test]
fn a_wrong_command_line_gets_one_line_and_code_2() {
    for (args, expected) in [
        (&[][..], "a command is missing"),
        (&["start"], "unknown command \"start\""),
        (&["serve", "--prot", "1"], "unexpected argument \"--prot\""),
        (&["serve", "now"], "unexpected argument \"now\""),
        (&["serve", "--port"], "--port needs a value"),
        (&["serve", "--idle-timeout", "1e-10"], "expected a number of seconds over 0"),
        (&["serve", "--data-dir", ""], "--data-dir \"\": expected a directory"),
        (&["serve", "--port", "http"], "--port \"http\": expected a port from 0 to 65535"),
        (&["serve", "--port=65536"], "--port \"65536\": expected a port"),
        (&["serve", "--port=-1"], "--port \"-1\": expected a port"),
        (&["serve", "--port", "1", "--port", "2"], "given twice"),
        (&["serve", "--bind", "localhost"], "--bind \"localhost\": expected an IPv4 or IPv6"),
        (&["serve", "--logging", "loud"], "expected debug, info, warning, error or none"),
        (&["serve", "--log-format", "xml"], "--log-format \"xml\": expected text or json"),
        (&["serve", "--max-wait", "-1"], "expected a number of seconds from 0 to 1e9"),
        (&["serve", "--max-wait", "inf"], "expected a number of seconds"),
        (&["serve", "--max-lifetime", "0"], "expected a number of seconds over 0"),
        (&["serve", "--max-lifetime", "1e10"], "expected a number of seconds over 0 to 1e9"),
        (&["serve", "--max-waiters", "many"], "expected a whole number"),
        (&["serve", "--max-connections", "0"], "expected a whole number over 0"),
        (&["serve", "--base-url", "locks.example.com"], "expected a URL such as"),
        (&["serve", "--base-url", "http://"], "expected a URL such as"),
        (&["serve", "--host", "a.example:80"], "expected a name such as"),
        (&["serve", "--host", "a.example", "--host", "a/b"], "--host \"a/b\": expected a name"),
        (&["serve", "--trusted-proxy", "10.0.0.0/33"], "expected an IP address or a network"),
        (&["serve", "--base-url", "http://a b"], "expected a URL such as"),
        (&["serve", "--admin-userpass-file="], "--admin-userpass-file needs a value"),
        (&["serve", "--admin-userpass-file", ""], "expected yes, no or a file"),
    ] {
        let line = complaint(&rdlm(args), 2);
        assert!(line.contains(expected), "{args:?}: {line}");
    }
}

#[test]
fn what_the_system_refuses_gets_one_line_and_code_1() {
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let line = complaint(&rdlm(&["serve", "--port", &port]), 1);
    assert!(line.contains("cannot listen on") && line.contains("in use"), "{line}");

    let foreign = ["serve", "--port", "0", "--bind", "192.0.2.1"];
    assert!(complaint(&rdlm(&foreign), 1).contains("cannot listen on 192.0.2.1"));

    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    let serve = || rdlm(&["serve", "--port", "0", "--admin-userpass-file", file.to_str().unwrap()]);
    assert!(complaint(&serve(), 1).contains("cannot read"));
    for (text, expected) in [
        ("", "expected a user:password a line"),
        ("# alice:secret\n\n", "expected a user:password a line"),
        ("alice:a\nbob\n", "line 2: expected user:password"),
        (":secret\n", "line 1: expected user:password"),
        ("alice:\n", "line 1: expected user:password"),
        ("alice:$apr1$x$y\n", "line 1: a password is plain or a bcrypt hash"),
        ("alice:{SHA}x\n", "line 1: a password is plain or a bcrypt hash"),
        ("alice:$2y$05$short\n", "line 1: a password is plain or a bcrypt hash"),
        ("alice:secret", "does not end with a line feed, so it may be half written"),
    ] {
        fs::write(&file, text).unwrap();
        let line = complaint(&serve(), 1);
        assert!(line.contains(expected) && line.contains("users"), "{text:?}: {line}");
    }
    fs::write(&file, b"alice:\xff\n").unwrap();
    assert!(complaint(&serve(), 1).contains("cannot read"));
    fs::write(&file, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(complaint(&serve(), 1).contains("longer than 1048576 bytes"));
}

#[test]
fn the_options_of_the_python_rdlm_start_it() {
    let dir = TempDir::new().unwrap();
    let daemon = dir.path().join("rdlm-daemon");
    symlink(env!("CARGO_BIN_EXE_rdlm"), &daemon).unwrap();
    let mut command = Command::new(&daemon);
    let server =
        Server::start_command(command.args(["--logging=debug", "--admin_userpass_file=yes"]));
    server.hold("foo");
    assert!(server.into_log().contains("POST /locks/foo 201"));
}

#[test]
fn it_listens_on_ipv4_and_ipv6_or_on_one_address() {
    let all = Server::start();
    for host in ["127.0.0.1", "::1"] {
        assert!(TcpStream::connect((host, all.port())).is_ok(), "{host}");
    }
    let one = Server::start_with(&["--bind", "127.0.0.1"]);
    assert!(TcpStream::connect(("127.0.0.1", one.port())).is_ok());
    assert!(TcpStream::connect(("::1", one.port())).is_err());
    let six = Server::start_with(&["--bind", "::1"]);
    assert!(TcpStream::connect(("::1", six.port())).is_ok());
    assert!(TcpStream::connect(("127.0.0.1", six.port())).is_err());
}

#[test]
fn the_log_tells_of_expiries_and_deletions_but_not_of_each_request() {
    let server = Server::start();
    server.acquire("short", 0.0, 0.01);
    server.hold("long");
    wait_until("the lock expires", || server.locks("short").is_empty());
    server.delete("/resources/long");
    server.delete("/resources");
    let log = server.into_log();
    assert!(log.contains("expired: short/"), "{log}");
    assert!(log.contains("\"a test\""), "{log}");
    assert!(log.contains("deleted all locks of long"), "{log}");
    assert!(log.lines().any(|line| line.ends_with("deleted all locks")), "{log}");
    assert!(!log.contains("POST"), "{log}");
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let mut server = Server::start();
    server.close_log();
    server.acquire("foo", 0.0, 0.01);
    wait_until("the lock expires", || server.locks("foo").is_empty());
    server.delete("/resources");
    server.hold("bar");
    let lost = || {
        let metrics = server.get("/metrics");
        let mut lines = metrics.text().lines();
        let lost = lines.find_map(|line| line.strip_prefix("rdlm_log_lines_lost_total "));
        lost.unwrap().parse::<u64>().unwrap()
    };
    wait_until("the lines are counted", || lost() >= 2);
}

#[test]
fn a_line_of_the_log_has_time_level_and_source() {
    let server = Server::start();
    server.acquire("short", 0.0, 0.01);
    wait_until("the lock expires", || server.locks("short").is_empty());
    let log = server.into_log();
    let line = log.lines().find(|line| line.contains("expired: short/")).unwrap();
    let (time, rest) = line.split_at("2026-11-25T00:00:00.000Z".len());
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    assert_eq!(time.chars().map(digits).collect::<String>(), "0000-00-00T00:00:00.000Z");
    assert!(rest.starts_with(" INFO  [rdlm"), "{line}");
    assert!(rest.contains("] expired: short/"), "{line}");
}

/// What the server writes to standard error at its start, write by write.
fn first_writes(format: &str) -> [String; 2] {
    // Such a socket keeps each write apart.
    let (reader, writer) = UnixDatagram::pair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.args(["serve", "--port", "0", "--log-format", format]);
    let mut server = command.stderr(OwnedFd::from(writer)).spawn().unwrap();
    let write = || {
        let mut bytes = [0; 4096];
        let length = reader.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let writes = [write(), write()];
    server.kill().unwrap();
    server.wait().unwrap();
    writes
}

#[test]
fn a_line_of_json_is_one_write_and_one_of_text_is_two() {
    assert_eq!(first_writes("text")[1], "\n");
    assert!(first_writes("json")[0].ends_with("}\n"));
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut server = Server::start_with(&["--logging", "debug"]);
    let body = |lifetime: f64| {
        let title = "x".repeat(1000);
        format!(r#"{{"title":"{title}","wait":3,"lifetime":{lifetime}}}"#)
    };
    let mut client = server.connect();
    for n in 0..120 {
        let path = format!("/locks/r{n}");
        assert_eq!(client.request("POST", &path, &body(0.01)).status, 201);
    }
    assert_eq!(client.request("POST", "/locks/foo", &body(0.5)).status, 201);
    assert_eq!(client.request("POST", "/locks/foo", &body(600.0)).status, 201);
    // More lines than there is room for in the pipe and in the server.
    let mut crowd = server.connect();
    crowd.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(6_000));
    for _ in 0..6_000 {
        assert_eq!(crowd.response().status, 200);
    }
    let metrics = server.get("/metrics");
    let lost =
        metrics.text().lines().find_map(|line| line.strip_prefix("rdlm_log_lines_lost_total "));
    assert!(lost.unwrap().parse::<u64>().unwrap() > 0);
    server.read_log_to(" lines lost");
    crowd.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(6_000));
    for _ in 0..6_000 {
        assert_eq!(crowd.response().status, 200);
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn what_was_logged_last_is_written_at_the_end() {
    let log = Server::start().into_log();
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

#[test]
fn the_log_is_an_object_a_line_on_request() {
    let server = Server::start_with(&["--log-format", "json"]);
    server.acquire("short", 0.0, 0.01);
    wait_until("the lock expires", || server.locks("short").is_empty());
    server.delete("/resources");
    let log = server.into_log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expired = lines.iter().find(|line| line["message"].as_str().unwrap().contains("expired"));
    let expired = expired.unwrap();
    assert_eq!(expired["level"], "info");
    assert!(expired["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(expired["target"].as_str().is_some_and(|target| target.starts_with("rdlm")));
}

#[test]
fn sigterm_and_sigint_answer_waiting_clients_and_end_with_code_0() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start();
        server.hold("foo");
        let mut waiters: Vec<_> = (0..20).map(|_| server.join_line("foo")).collect();
        let _idle = server.connect();
        let began = Instant::now();
        server.signal(signal);
        server.signal("-HUP");
        for waiter in &mut waiters {
            let answer = waiter.response();
            assert!(answer.detail(503).contains("shutting down"));
            assert!(answer.header("Retry-After").is_some());
        }
        assert_eq!(server.wait().code(), Some(0));
        // It has a second; a busy machine gets more.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    // A hash that takes seconds to check, so that a request is still being answered.
    let slow = "$2y$15$2StovJrjaLoLASf8o9hCHeyGTaWMiPkL7GuOIX2Mdy8U9DxhrxIzu";
    fs::write(&file, format!("alice:{slow}\n")).unwrap();
    let mut server = Server::start_with(&["--admin-userpass-file", file.to_str().unwrap()]);
    let mut client = server.connect();
    let busy_before = server.processor_ticks();
    // alice:secret
    client.send(
        "GET /resources HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n",
    );
    wait_until("the password is being checked", || server.processor_ticks() > busy_before + 3);
    server.signal("-TERM");
    server.signal("-INT");
    assert!(matches!(server.wait().code(), Some(130 | 143)));
}

#[test]
fn it_is_static_and_runs_in_an_empty_directory() {
    let program = env!("CARGO_BIN_EXE_rdlm");
    let dir = TempDir::new().unwrap();
    fs::copy(program, dir.path().join("rdlm")).unwrap();
    let mut chroot = Command::new("chroot");
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        needed::cannot_run("only root may chroot");
        return;
    }
    let server = Server::start_command(chroot.arg(dir.path()).args(["/rdlm", "serve"]));
    let lock = server.hold("foo");
    assert_eq!(server.request("POST", "/locks/bar", &lock_body(0, 60)).status, 201);
    assert_eq!(server.delete(&lock).status, 204);
}

/// Kubernetes sets variables of its own for each service, so the name is not just RDLM_PORT.
#[test]
fn options_come_from_the_environment_unless_they_are_given() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    command.args(["serve", "--max-lifetime", "60"]);
    command.env("RDLM_SERVE_PORT", "1").env("RDLM_SERVE_MAX_LIFETIME", "1");
    command.env("RDLM_SERVE_MAX_WAIT", "1m").env("RDLM_PORT", "tcp://10.0.0.1:8888");
    let server = Server::start_command(&mut command);
    assert_eq!(server.acquire("r", 0.0, 60.0).status, 201);
    assert_eq!(server.acquire("r", 61.0, 60.0).status, 400);

    let wrong = Command::new(env!("CARGO_BIN_EXE_rdlm"))
        .arg("serve")
        .env("RDLM_SERVE_MAX_WAITERS", "many")
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let line = String::from_utf8(wrong.stderr).unwrap();
    assert!(line.contains("RDLM_SERVE_MAX_WAITERS \"many\": expected a whole number"), "{line}");
}

/// Runs a server in the foreground of a terminal, which hangs up once it listens.
const HANG_UP: &str = r#"
import os, pty, sys, time
rdlm, log = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "-c", f'"{rdlm}" serve --port 0 2>"{log}"; true'])
while not os.path.exists(log) or "listening on" not in open(log).read():
    time.sleep(0.01)
os.close(terminal)
os.waitpid(pid, 0)
"#;

#[test]
fn sighup_ends_a_server_only_if_its_terminal_hangs_up() {
    let mut server = Server::start();
    server.signal("-HUP");
    server.hold("foo");
    server.signal("-TERM");
    assert!(server.wait().success());

    let Some(python) = crate::python::recent() else { return };
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let mut command = Command::new(python);
    let command = command.args(["-c", HANG_UP, env!("CARGO_BIN_EXE_rdlm")]).arg(&log);
    assert!(command.status().unwrap().success());
    let text = || fs::read_to_string(&log).unwrap();
    wait_until("the server has stopped", || text().trim_end().ends_with("stopped"));
    assert!(text().contains("stopping on signal 1"), "{}", text());
}

fn pipe(dir: &TempDir) -> String {
    let path = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.to_str().unwrap().into()
}

#[test]
fn a_pipe_without_a_writer_is_refused_as_a_file_of_settings() {
    let dir = TempDir::new().unwrap();
    let pipe = pipe(&dir);
    for options in
        [&["--admin-userpass-file", &pipe][..], &["--tls-cert", &pipe, "--tls-key", &pipe]]
    {
        let line = complaint(&rdlm(&[&["serve", "--port", "0"], options].concat()), 1);
        assert!(line.contains(&pipe), "{options:?}: {line}");
    }
}

#[test]
fn a_start_that_takes_long_is_ended_by_a_signal() {
    let dir = TempDir::new().unwrap();
    let pipe = pipe(&dir);
    // Somebody who writes it, but not yet.
    let _writer = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    for (signal, options) in [
        ("-TERM", &["--users", &pipe][..]),
        ("-INT", &["--admin-userpass-file", &pipe]),
        ("-TERM", &["--tls-cert", &pipe, "--tls-key", &pipe]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        let command = command.args(["serve", "--port", "0"]).args(options).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let pid = server.id();
        wait_until("the files are being read", || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let mut names = threads.map(|thread| fs::read(thread.unwrap().path().join("comm")));
            names.any(|name| name.is_ok_and(|name| name == b"open\n"))
        });
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
        assert_eq!(server.wait().unwrap().code(), Some(0), "{options:?}");
    }
}

#[test]
fn files_that_turn_into_pipes_hold_up_neither_requests_nor_the_end() {
    let dir = TempDir::new().unwrap();
    let users = dir.path().join("users");
    fs::write(&users, "alice:secret\n").unwrap();
    let mut server = Server::start_with(&["--admin-userpass-file", users.to_str().unwrap()]);
    assert_eq!(server.get("/resources").status, 401);
    fs::remove_file(&users).unwrap();
    fs::rename(pipe(&dir), &users).unwrap();
    for resource in ["foo", "bar"] {
        assert_eq!(server.get("/resources").status, 500);
        server.hold(resource);
    }
    server.signal("-TERM");
    assert!(server.wait().success());
}
